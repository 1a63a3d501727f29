//! What the documents say of the program and of the repository is so.

mod examples;
mod generated;
pub(crate) mod markdown;
mod mistakes;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use markdown::{Page, code_spans, top};

fn read(path: impl AsRef<Path>) -> String {
    let path = top().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every link within the repository leads to a file that is there, and to a heading in it.
#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for page in Page::all() {
        let folder = page.path.parent().expect("a folder");
        for link in page.links() {
            if link.contains("://") {
                continue;
            }
            let at = format!("{}: {link}", page.path.display());
            let (file, anchor) = link.split_once('#').map_or((&*link, None), |(file, at)| (file, Some(at)));
            let path = if file.is_empty() { page.path.clone() } else { folder.join(file) };
            assert!(top().join(&path).exists(), "{at}: there is no such file");
            if let Some(anchor) = anchor {
                assert!(Page::open(path).anchors().contains(anchor), "{at}: there is no such heading");
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

/// No page is further away than one click, and neither is the answer to the most urgent question.
#[test]
fn the_readme_leads_to_every_page() {
    let links = Page::open("README.md").links();
    for page in Page::all() {
        if page.path.starts_with("docs") {
            let path = page.path.to_str().expect("UTF-8");
            assert!(links.iter().any(|link| link == path), "the README does not link {path}");
        }
    }
    assert!(links.iter().any(|link| link == "docs/troubleshooting.md#my-password-has-changed"), "{links:?}");
}

/// Every event has one of the targets that the documentation lists, and each of those has an event.
#[test]
fn every_event_has_a_target_that_is_documented() {
    let mut found = BTreeSet::new();
    for (path, source) in sources() {
        for event in source.split("tracing::").skip(1) {
            let Some((level, rest)) = event.split_once("!(") else { continue };
            if !["error", "warn", "info", "debug", "trace"].contains(&level) {
                continue;
            }
            let rest = rest.trim_start();
            let target = rest.strip_prefix("target: \"").and_then(|rest| rest.split_once('"'));
            let (target, _) = target.unwrap_or_else(|| panic!("{path}: no target: {rest:.60}"));
            found.insert(target.to_owned());
        }
    }
    let documented: BTreeSet<_> =
        redis_ambassador::reference::TARGETS.iter().map(|(target, _)| (*target).to_owned()).collect();
    assert_eq!(found, documented);
}

/// The messages that head the sections of `docs/troubleshooting.md` are those that the program prints: whoever searches
/// the page for one finds it.
#[test]
fn every_message_in_troubleshooting_is_printed() {
    let sources = sources().map(|(_, source)| source).collect::<String>();
    // A literal that goes on in the next line, and what is quoted in it.
    let sources = sources.split("\\\n").map(str::trim_start).collect::<String>().replace("\\\"", "\"");
    let page = Page::open("docs/troubleshooting.md");
    let mut checked = 0;
    for (above, heading) in page.headings() {
        if above.contains("What the ambassador says") {
            for message in code_spans(heading).filter(|message| !is_of_the_system(message)) {
                let message =
                    COMPOSED.iter().find(|(composed, _)| *composed == message).map_or(message, |it| it.1);
                for words in message.split('…').map(str::trim).filter(|words| words.len() > 3) {
                    let words = words.trim_matches([':', ',', ';', ' ']);
                    assert!(sources.contains(words), "{heading}: nothing prints \"{words}\"");
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 30, "{checked}");
}

/// Messages that are put together from parts, and what is printed of them.
const COMPOSED: &[(&str, &str)] = &[
    ("… is a replica, not a master", "{endpoint} is {role}, not a {wanted}"),
    ("ended_by=\"moved\"", "=> \"moved\""),
    ("ended_by=\"demoted\"", "=> \"demoted\""),
];

/// What the kernel says, behind what the ambassador says of it.
fn is_of_the_system(message: &str) -> bool {
    ["Address already in use", "Connection refused"].iter().any(|words| message.ends_with(words))
}

/// What can be made is named as it is called.
#[test]
fn every_make_that_is_named_is_there() {
    let makefile = read("Makefile");
    let mut named = 0;
    for page in Page::all() {
        let prose = page.prose().collect::<Vec<_>>().join(" ");
        let blocks = page.blocks();
        let commands = code_spans(&prose).chain(blocks.iter().flat_map(|block| block.code.lines()));
        for target in commands.filter_map(|command| command.strip_prefix("make ")?.split_whitespace().next())
        {
            let at = format!("{}: make {target}", page.path.display());
            assert!(makefile.lines().any(|line| line.starts_with(&format!("{target}:"))), "{at}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}

/// A page that the program, a script or a comment names is there.
#[test]
fn every_page_that_is_named_in_the_sources_is_there() {
    let mut named = 0;
    for (path, source) in sources() {
        for rest in source.split("docs/").skip(1) {
            let name: String =
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_./".contains(*c)).collect();
            let name = name.trim_end_matches('.');
            if Path::new(name).extension().is_some_and(|extension| extension == "md") {
                assert!(top().join("docs").join(name).exists(), "{path} names docs/{name}");
                named += 1;
            }
        }
    }
    assert!(named > 0);
}

/// The program's own sources, each with its path.
fn sources() -> impl Iterator<Item = (String, String)> {
    let mut folders = vec![top().join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.into_iter().map(|path| (path.display().to_string(), read(path)))
}

/// Every dependency has a reason in `docs/dependencies.md`, and every reason a dependency.
#[test]
fn every_dependency_has_its_reason() {
    let manifest = read("Cargo.toml");
    let mut section = "";
    let mut dependencies = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if let Some((name, _)) = line.split_once(" = ")
            && section.contains("dependencies]")
        {
            dependencies.insert(name.to_owned());
        }
    }
    let document = read("docs/dependencies.md");
    let reasons: BTreeSet<_> = document
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once("`: "))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(dependencies, reasons);
}

/// Every test that `docs/reliability.md` names is there.
#[test]
fn every_promise_has_the_test_that_is_named() {
    let document = read("docs/reliability.md");
    let mut named = 0;
    for test in code_spans(&document) {
        let Some((module, name)) = test.split_once("::") else { continue };
        let source = match module {
            "fuzzing" | "workers" => read(format!("src/{module}.rs")),
            "relay" => read(format!("src/relay/{}.rs", name.replace("::", "/"))),
            "net" => {
                let (modules, _) = test.split_once("::tests::").expect("a test of a module");
                read(format!("src/{}.rs", modules.replace("::", "/")))
            }
            _ => {
                let (modules, _) = test.rsplit_once("::").expect("a module");
                read(format!("tests/it/{}.rs", modules.replace("::", "/")))
            }
        };
        let name = name.rsplit("::").next().expect("a name");
        assert!(module == "relay" || source.contains(&format!("fn {name}(")), "there is no {test}");
        named += 1;
    }
    assert!(named > 30, "{named}");
}

/// Everything that strangers may send is fuzzed: each body has a target of its name, and each target a body.
#[test]
fn every_body_is_fuzzed() {
    let source = read("src/fuzzing.rs");
    let bodies: BTreeSet<_> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub fn ")?.split_once("(data: &[u8])"))
        .map(|(name, _)| name.to_owned())
        .collect();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets");
    let mut targets = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("targets") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        assert!(
            read(format!("fuzz/targets/{name}.rs")).contains(&format!("fuzzing::{name}(data)")),
            "{name}"
        );
        assert!(
            read("fuzz/Cargo.toml").contains(&format!("name = \"{name}\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
        targets.insert(name);
    }
    assert_eq!(bodies, targets);
    assert!(!bodies.is_empty());
}
