//! The command line.

pub mod check;
mod completions;
mod endpoint;
pub mod health;
pub mod links;
mod main;
pub mod man;
pub mod screen;
pub mod status;
mod table;

pub use main::main;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, Command as Clap, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use crate::config::ProcessArguments;

/// Stands where an application expects Redis, and authenticates in its place.
///
/// Links come from the environment, as Docker writes them: REDIS_PORT_6379_TCP=tcp://HOST:PORT listens on 6379 and
/// dials HOST:PORT. REDIS_AUTH_FILE (or REDIS_AUTH) makes it a Redis link, whose connections are authenticated before
/// the first byte of the client passes. Every other link is a plain TCP tunnel.
// These lines are shown on a terminal, where backticks would only be noise.
#[expect(clippy::doc_markdown)]
#[derive(Debug, Parser)]
#[command(version, name = "redis-ambassador", max_term_width = 100, after_help = settings_help())]
pub struct Arguments {
    /// What to do; `run` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Read the variables from this file instead of the environment, as systemd and Docker write them
    #[arg(long, value_name = "FILE", global = true, value_hint = ValueHint::FilePath)]
    pub env_file: Option<PathBuf>,
    /// The process-wide settings.
    #[command(flatten)]
    pub process: ProcessArguments,
}

/// What the program can do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Listen and forward (the default)
    Run,
    /// Show the wiring: what listens where and what it dials; needs no network
    Links {
        /// How to show it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Dial every link, and say what it found; exit code 1 if something is wrong
    Check {
        /// How to show it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Ask the running process whether it is ready; exit code 0 if it is
    Health {
        /// Ask, too, whether every link can be dialled and authenticated
        // The process-wide flag of this name takes aliases. It shares its id with this one, so that clap leaves it out
        // here, and therefore its type too.
        #[arg(long, num_args = 0, default_missing_value = DIALLED)]
        links: Option<OsString>,
    },
    /// Show what the running process knows of its links: what works, what fails, how many are connected
    Status {
        /// Renew it every two seconds, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Print a completion script
    Completions {
        /// The shell to complete for
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// What `health --links` is told apart by from `AMBASSADOR_LINKS`: no alias is called like this.
pub const DIALLED: &str = "*";

/// How a subcommand shows its findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// The settings of a link, as `--help` shows them.
fn settings_help() -> String {
    use std::fmt::Write as _;

    use crate::config::settings::SETTINGS;

    let mut help = String::from(
        "Settings of a link, as variables <ALIAS>_<SETTING> or <ALIAS>_PORT_<PORT>_<SETTING>:\n",
    );
    let width = SETTINGS.iter().map(|setting| setting.name.len()).max().unwrap_or_default();
    for setting in SETTINGS {
        // Writing to a string can't fail.
        let _ = writeln!(help, "  {:<width$} {}", setting.name, plain(setting.doc));
    }
    help.push_str("\nExample:");
    for line in EXAMPLE {
        let _ = write!(help, "\n  {line}");
    }
    help
}

/// A command, in lines that have room everywhere.
const EXAMPLE: [&str; 2] = [
    "REDIS_PORT_6379_TCP=tcp://redis.example.com:6379 \\",
    "  REDIS_AUTH_FILE=/run/secrets/redis redis-ambassador",
];

/// Exit codes and what they mean, for the manual page and the documentation.
pub const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "A clean end."),
    (
        "1",
        "It could not start or go on: a port is taken, say; or check or health found a problem, or status no running process.",
    ),
    ("2", "Bad usage or configuration. Every mistake is listed, with its reason and remedy."),
];

/// A subcommand's name and what may follow it.
pub fn synopsis(subcommand: &Clap) -> String {
    let options = subcommand.get_arguments().map(|argument| {
        let takes_a_value = argument.get_action().takes_values()
            && argument.get_num_args().is_none_or(|number| number.takes_values());
        let value = argument.get_value_names().and_then(|names| names.first()).filter(|_| takes_a_value);
        let value = value.map_or(String::new(), |value| format!(" {value}"));
        argument.get_long().map_or(value.clone(), |name| format!(" [--{name}{value}]"))
    });
    format!("{}{}", subcommand.get_name(), options.collect::<String>())
}

/// Markdown as it is read on a terminal: without backticks, and without the targets of links.
fn plain(markdown: &str) -> String {
    let mut text = markdown.replace('`', "");
    while let Some(middle) = text.find("](") {
        let (Some(start), Some(end)) = (text[..middle].rfind('['), text[middle..].find(')')) else { break };
        text.replace_range(middle..=middle + end, "");
        text.remove(start);
    }
    text
}

/// The flags that mean something to a subcommand, by their ids; to `run` all do. The others are taken, so that one line
/// can be given to each subcommand, and are not shown.
const MEANT: [(&str, &[&str]); 6] = [
    ("links", &["env_file", "bind", "links"]),
    ("check", &["env_file", "bind", "links", "connect-timeout", "dns"]),
    ("health", &["env_file", "admin"]),
    ("status", &["env_file", "admin"]),
    ("completions", &[]),
    ("man", &[]),
];

fn is_meant(subcommand: &str, flag: &str) -> bool {
    MEANT.iter().find(|(known, _)| *known == subcommand).is_none_or(|(_, flags)| flags.contains(&flag))
}

/// The command line as it is read.
fn command() -> Clap {
    with_flags(Arguments::command(), |subcommand, flag| {
        // A flag of a subcommand's own stands for the one of all.
        (!is_meant(subcommand, flag.get_id().as_str())).then(|| flag.clone().hide(true))
    })
}

/// The command line as it is completed: without what is hidden.
fn shown() -> Clap {
    let command = with_flags(Arguments::command(), |subcommand, flag| {
        is_meant(subcommand, flag.get_id().as_str()).then(|| flag.clone().global(false))
    });
    command.mut_args(|flag| flag.global(false))
}

/// Gives each subcommand what it is to have of the flags of all, unless it has its own of that name.
fn with_flags(command: Clap, given: impl Fn(&str, &Arg) -> Option<Arg>) -> Clap {
    let flags: Vec<_> = command.get_arguments().filter(|flag| flag.is_global_set()).cloned().collect();
    command.mut_subcommands(|subcommand| {
        let is_own = |flag: &Arg| subcommand.get_arguments().any(|own| own.get_id() == flag.get_id());
        let flags = flags.iter().filter(|flag| !is_own(flag));
        let flags: Vec<_> = flags.filter_map(|flag| given(subcommand.get_name(), flag)).collect();
        subcommand.args(flags)
    })
}

impl Arguments {
    /// What is written, or the end of the program with what is wrong with it.
    fn read() -> Self {
        let mut command = command();
        let matches = command.get_matches_mut();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_means_something_to_a_subcommand_is_there() {
        let command = Arguments::command();
        let subcommands: Vec<_> = command.get_subcommands().map(Clap::get_name).collect();
        assert_eq!(subcommands, ["run"].into_iter().chain(MEANT.map(|(name, _)| name)).collect::<Vec<_>>());
        let ids: Vec<_> = command.get_arguments().map(|flag| flag.get_id().as_str()).collect();
        for flag in MEANT.iter().flat_map(|(_, flags)| *flags) {
            assert!(ids.contains(flag), "{flag}");
        }
        super::command().debug_assert();
        shown().debug_assert();
    }
}
