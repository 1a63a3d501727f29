//! The parts of the documents that are generated: what stands between `<!-- generated: NAME -->` and
//! `<!-- /generated -->` is what the program's own tables say. `make docs` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;

use clap::CommandFactory as _;
use redis_ambassador::reference::{
    Arguments, EXIT_CODES, FORMS, SETTINGS, Scope, Setting, TARGETS, synopsis,
};

use super::markdown::{Page, top, wrapped};
use super::mistakes;
use super::read;
use crate::support::{Authority, Launch, Target, get};

#[test]
fn what_is_generated_is_up_to_date() {
    let mut written = BTreeSet::new();
    for page in Page::all() {
        let mut parts = page.text.split("\n<!-- generated: ");
        let mut text = parts.next().expect("a first part").to_owned();
        for part in parts {
            let (name, part) = part.split_once(" -->\n").expect("a name");
            let (_, rest) = part.split_once("<!-- /generated -->").expect("an end");
            let section = section(name);
            text +=
                &["\n<!-- generated: ", name, " -->\n\n", &section, "\n<!-- /generated -->", rest].concat();
            written.insert(name.to_owned());
        }
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::write(top().join(&page.path), &text).expect("the page can be written");
        } else {
            assert!(text == page.text, "{} is not up to date: make docs", page.path.display());
        }
    }
    let names = [
        "architecture",
        "commands",
        "exit codes",
        "log targets",
        "metrics",
        "mistakes",
        "process",
        "settings",
        "targets",
    ];
    assert!(names.into_iter().eq(&written), "{written:?}");
}

fn section(name: &str) -> String {
    match name {
        "architecture" => architecture(&read("src/lib.rs")),
        "commands" => commands(),
        "exit codes" => {
            EXIT_CODES.iter().map(|(code, meaning)| wrapped(&format!("- {code}: "), meaning)).collect()
        }
        "log targets" => TARGETS
            .iter()
            .map(|(target, meaning)| wrapped("- ", &format!("`{target}`: {meaning}.")))
            .collect(),
        "metrics" => metrics(),
        "mistakes" => mistakes::tables(),
        "process" => process(),
        "settings" => SETTINGS.iter().map(setting).collect::<Vec<_>>().join("\n"),
        "targets" => FORMS
            .iter()
            .map(|(forms, meaning)| wrapped("- ", &format!("{}: {meaning}.", code(*forms))))
            .collect(),
        _ => panic!("nothing generates {name}"),
    }
}

fn code<'a>(words: impl IntoIterator<Item = &'a &'a str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A capital letter at its beginning, and a full stop at its end.
fn sentence(text: &str) -> String {
    let mut characters = text.trim().chars();
    let first = characters.next().expect("words").to_uppercase();
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{first}{}{end}", characters.as_str())
}

/// What a setting or a flag is, and its default, which is in brackets behind that.
fn explained(text: &str) -> String {
    match text.trim_end_matches(']').split_once(" [default: ") {
        Some((text, default)) => format!("{} Default: {default}.", sentence(text)),
        None => sentence(text),
    }
}

fn setting(setting: &Setting) -> String {
    let scope = match setting.scope {
        Scope::Any => "Any link",
        Scope::Redis => "Redis links",
        Scope::RedisCommonName => "Redis links; elsewhere ignored with a warning",
    };
    let mark = match (setting.scope, setting.credential) {
        (Scope::Any, false) => String::new(),
        (_, true) => format!("*{scope}; a credential.*"),
        (_, false) => format!("*{scope}.*"),
    };
    let text = format!("{} {mark}", explained(setting.doc));
    format!("### `{}`\n\n{}", setting.name, wrapped("", &text))
}

fn process() -> String {
    let command = Arguments::command();
    let flags = command.get_arguments().filter_map(|flag| {
        let (name, variable) = (flag.get_long()?, flag.get_env()?.to_str()?);
        let value = flag.get_value_names()?.first()?;
        assert_eq!(variable, format!("AMBASSADOR_{}", name.to_uppercase().replace('-', "_")));
        let text = format!("`{variable}={value}`. {}", explained(&flag.get_help()?.to_string()));
        Some(format!("### `--{name}`\n\n{}", wrapped("", &text)))
    });
    flags.collect::<Vec<_>>().join("\n")
}

fn commands() -> String {
    let command = Arguments::command();
    let commands = command.get_subcommands().map(|subcommand| {
        let about = subcommand.get_about().expect("it is told what it does").to_string();
        wrapped("- ", &format!("`redis-ambassador {}`: {}", synopsis(subcommand), sentence(&about)))
    });
    commands.collect()
}

/// As a running ambassador tells them.
fn metrics() -> String {
    let target = Target::start().echo();
    let authority = Authority::new("CA");
    let launch = Launch::redis(target.address()).listen_tls("REDIS", &authority.issue(&["localhost"]));
    // A cluster has metrics of its own.
    let cluster = format!("redis+cluster://{}", target.address());
    let launch = launch.variable("SHARDS_PORT_7000_TCP", cluster).variable("SHARDS_LISTEN", "127.0.0.1:0");
    let ambassador = launch.start();
    let text = get(ambassador.admin(), "/metrics").body;
    let mut help = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    let mut labels = BTreeMap::<&str, BTreeMap<&str, BTreeSet<&str>>>::new();
    for line in text.lines() {
        if let Some((name, words)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            help.insert(name, words);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            kinds.insert(name, kind);
        } else if let Some((name, rest)) = line.split_once('{') {
            let name = help.keys().find(|known| name.starts_with(**known)).map_or(name, |known| *known);
            let pairs = rest.split_once('}').expect("labels have an end").0.split(',');
            for (label, value) in pairs.filter_map(|pair| pair.split_once('=')) {
                let values = labels.entry(name).or_default().entry(label).or_default();
                values.insert(value.trim_matches('"'));
            }
        }
    }
    let lines = help.iter().map(|(name, words)| {
        let labels = labels.get(name).into_iter().flatten();
        // Those of a histogram's buckets are its own business.
        let labels: Vec<_> = labels.filter(|(label, _)| **label != "le").map(label).collect();
        let name_and_kind = format!("`{}` ({})", name.trim_start_matches("redis_ambassador_"), kinds[name]);
        let labels =
            if labels.is_empty() { String::new() } else { format!(" Labels: {}.", labels.join(", ")) };
        wrapped("- ", &format!("{name_and_kind}: {words}{labels}"))
    });
    lines.collect()
}

/// A label, with its values where they are always the same ones.
fn label((name, values): (&&str, &BTreeSet<&str>)) -> String {
    match *name {
        "link" | "backend" | "certificate" | "version" => format!("`{name}`"),
        name => format!("`{name}` ({})", code(values)),
    }
}

/// The first page of the crate's documentation, without its title and the links that rustdoc alone can follow.
fn architecture(source: &str) -> String {
    let page = source.lines().map_while(|line| line.strip_prefix("//!"));
    let page: Vec<_> = page.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    let mut text = String::new();
    for block in page.join("\n").split("\n\n").skip(1) {
        let block = without_links(block);
        if !text.is_empty() {
            text.push('\n');
        }
        if block.starts_with(['|', '#']) {
            text.push_str(&block);
            text.push('\n');
        } else if let Some(items) = block.strip_prefix("- ") {
            text.extend(items.split("\n- ").map(|item| wrapped("- ", item)));
        } else {
            text.push_str(&wrapped("", &block));
        }
    }
    text
}

fn without_links(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        let (words, after) = link.split_once(']').expect("a link has an end");
        kept.push_str(before);
        kept.push_str(words);
        rest = match after.strip_prefix('(') {
            Some(target) => target.split_once(')').expect("a target has an end").1,
            None => after,
        };
    }
    kept + rest
}
