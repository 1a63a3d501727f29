//! The manual page: what clap knows of the command line, and what it does not know of links and exit codes.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{Arguments, EXAMPLE, EXIT_CODES, plain, synopsis};
use crate::config::settings::SETTINGS;
use crate::config::target::FORMS;

/// What the examples are for, and their lines.
const EXAMPLES: [(&str, &[&str]); 3] = [
    ("A Redis with a password, for clients that know none:", &EXAMPLE),
    ("What would listen where, and whether it works:", &["redis-ambassador links", "redis-ambassador check"]),
    (
        "Whether what a service of systemd is given works, and what it does:",
        &[
            "redis-ambassador check --env-file /etc/redis-ambassador/environment",
            "redis-ambassador status --env-file /etc/redis-ambassador/environment",
        ],
    ),
];

/// Writes the page.
pub fn write(out: &mut impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    page(&mut text)?;
    // Not every roff reads UTF-8.
    for character in String::from_utf8_lossy(&text).chars() {
        match character {
            ..='\x7f' => write!(out, "{character}")?,
            other => write!(out, "\\[u{:04X}]", u32::from(other))?,
        }
    }
    Ok(())
}

fn page(out: &mut impl Write) -> io::Result<()> {
    let command = Arguments::command();
    let page = Man::new(command.clone());
    page.render_title(out)?;
    let mut style = Roff::new();
    // The name of a variable that is broken in two, with a hyphen in it, is another one.
    style.control("nh", []);
    style.control("ad", ["l"]);
    style.to_writer(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    let mut rest = Roff::new();
    commands(&mut rest, &command);
    environment(&mut rest, &command);
    rest.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        item(&mut rest, [bold(*code)], meaning);
    }
    rest.control("SH", ["EXAMPLES"]);
    for (what, lines) in EXAMPLES {
        rest.control("PP", []);
        rest.text([roman(what)]);
        rest.control("PP", []);
        rest.control("RS", ["4"]);
        rest.control("nf", []);
        for line in lines {
            rest.text([roman(*line)]);
        }
        rest.control("fi", []);
        rest.control("RE", []);
    }
    rest.to_writer(out)
}

/// The subcommands, which have no pages of their own.
fn commands(page: &mut Roff, command: &Command) {
    page.control("SH", ["COMMANDS"]);
    for subcommand in command.get_subcommands() {
        let synopsis = synopsis(subcommand);
        let (name, options) = synopsis.split_at(subcommand.get_name().len());
        let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
        item(page, [bold(name), roman(options)], &format!("{about}."));
    }
}

/// The variables of links, and those that stand for flags.
fn environment(page: &mut Roff, command: &Command) {
    page.control("SH", ["ENVIRONMENT"]);
    item(
        page,
        [bold("<ALIAS>_PORT_<PORT>_TCP=<TARGET>")],
        "A link: listen on <PORT> and dial <TARGET>, which is one of these.",
    );
    page.control("RS", []);
    for (forms, meaning) in FORMS {
        item(page, [bold(forms.join(", "))], &format!("{}.", plain(meaning)));
    }
    page.control("RE", []);
    let variables = command.get_arguments().filter_map(|argument| argument.get_env());
    let mut names = Vec::new();
    for variable in variables {
        let separator = if names.is_empty() { "" } else { ", " };
        names.extend([roman(separator), bold(variable.to_string_lossy())]);
    }
    page.control("TP", []);
    page.text(names);
    page.text([roman("The settings of the process. A flag goes before its variable.")]);
    page.control("PP", []);
    page.text([roman(
        "With --env-file the variables are those of a file and not of the environment: NAME=value a line, with # for \
         comments, and with quotation marks and a backslash at the end of a line as systemd has them. NAME alone takes the \
         variable from the environment, as Docker has it.",
    )]);
    page.control("SS", ["Settings of a link"]);
    page.text([roman(
        "<ALIAS>_<SETTING> is for the alias, <ALIAS>_PORT_<PORT>_<SETTING> for one port of it, and wins.",
    )]);
    for setting in SETTINGS {
        item(page, [bold(setting.name)], &format!("{}.", plain(setting.doc)));
    }
}

/// A term and what it means.
fn item<const N: usize>(page: &mut Roff, term: [Inline; N], meaning: &str) {
    page.control("TP", []);
    page.text(term);
    page.text([roman(meaning)]);
}
