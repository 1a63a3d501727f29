//! The process-wide settings: each is a flag and a variable, one entry of the table and one field of [`Process`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueHint, value_parser};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::notation::{
    DURATION, DURATION_OR_OFF, Refusal, count, duration, duration_or_off, each, is_off, items, unquoted, word,
};
use super::settings::{near_miss, nearest, setting};
use super::{Diagnostics, Env};
use crate::log::LogFormat;
use crate::net::{Interface, ListenAddress};

/// One setting of the process: the variable `AMBASSADOR_CONNECT_TIMEOUT`, say, and the flag `--connect-timeout`.
struct Setting {
    variable: &'static str,
    /// What is written, in the capital letters of `--help`.
    value: &'static str,
    /// What it is.
    doc: &'static str,
    default: Unset,
    /// What to write instead of a value that is refused.
    remedy: &'static str,
    read: fn(&mut Process, &str) -> Result<(), Refusal>,
}

/// What holds where a setting is not given.
enum Unset {
    /// The same as with this value.
    Value(&'static str),
    /// What [`Process::unset`] has, in words.
    Words(&'static str),
}

const COUNT: &str = "write a number, such as 100, or leave it out";

/// Every setting of the process. The parser, the near misses, `--help`, the manual page and `docs/configuration.md`
/// come from it.
const SETTINGS: &[Setting] = &[
    Setting {
        variable: "AMBASSADOR_BIND",
        value: "ADDRESSES",
        doc: "Listen on these addresses, separated by commas; localhost is both loopback addresses",
        default: Unset::Words("every address, IPv6 and IPv4"),
        remedy: "write addresses, such as 127.0.0.1 or localhost, or leave it out to listen on every one",
        read: |process, text| Interface::parse_list(text).map(|all| process.bind = Some(all)),
    },
    Setting {
        variable: "AMBASSADOR_LINKS",
        value: "ALIASES",
        doc: "Take only these aliases, separated by commas",
        default: Unset::Words("all"),
        remedy: "write aliases, such as redis,db, or leave it out to take all links",
        read: |process, text| aliases(text).map(|taken| process.aliases = Some(taken)),
    },
    ADMIN,
    Setting {
        variable: "AMBASSADOR_CONNECT_TIMEOUT",
        value: "DURATION",
        doc: "Time to resolve, connect, take up TLS and authenticate, together",
        default: Unset::Value("5s"),
        remedy: DURATION,
        read: |process, text| duration(text, false).map(|time| process.connect_timeout = time),
    },
    Setting {
        variable: "AMBASSADOR_IDLE_TIMEOUT",
        value: "DURATION",
        doc: "Close a connection that moved no byte for so long",
        default: Unset::Value("off"),
        remedy: DURATION_OR_OFF,
        read: |process, text| duration_or_off(text).map(|time| process.idle_timeout = time),
    },
    Setting {
        variable: "AMBASSADOR_MAX_LIFETIME",
        value: "DURATION",
        doc: "Close a connection of this age (less up to 10 %) at a quiet moment",
        default: Unset::Value("off"),
        remedy: DURATION_OR_OFF,
        read: |process, text| duration_or_off(text).map(|time| process.max_lifetime = time),
    },
    Setting {
        variable: "AMBASSADOR_KEEPALIVE",
        value: "DURATION",
        doc: "Probe a silent peer after this, on both sides; or off",
        default: Unset::Value("60s"),
        remedy: DURATION_OR_OFF,
        read: |process, text| keepalive(text).map(|time| process.keepalive = time),
    },
    Setting {
        variable: "AMBASSADOR_MAX_CONNECTIONS",
        value: "NUMBER",
        doc: "Connections of one link at the most",
        default: Unset::Words("as many as the file-descriptor limit carries"),
        remedy: COUNT,
        read: |process, text| count(text).map(|number| process.max_connections = Some(number)),
    },
    Setting {
        variable: "AMBASSADOR_DRAIN_DELAY",
        value: "DURATION",
        doc: "Go on accepting this long after SIGTERM",
        default: Unset::Value("0s"),
        remedy: DURATION,
        read: |process, text| duration(text, true).map(|time| process.drain_delay = time),
    },
    Setting {
        variable: "AMBASSADOR_DRAIN_TIMEOUT",
        value: "DURATION",
        doc: "Time for connections to come to an end after SIGTERM",
        // Inside the ten seconds that Docker gives a container to stop.
        default: Unset::Value("8s"),
        remedy: DURATION,
        read: |process, text| duration(text, true).map(|time| process.drain_timeout = time),
    },
    Setting {
        variable: "AMBASSADOR_DNS",
        value: "ADDRESS:PORT",
        doc: "Ask these name servers, separated by commas",
        default: Unset::Words("those of /etc/resolv.conf"),
        remedy: "write addresses, such as 127.0.0.1:8600 or [::1]:53, or leave it out to ask the system's",
        read: |process, text| name_servers(text).map(|servers| process.dns = Some(servers)),
    },
    Setting {
        variable: "AMBASSADOR_THREADS",
        value: "NUMBER",
        doc: "Threads that serve connections",
        default: Unset::Words("one a core"),
        remedy: COUNT,
        read: |process, text| threads(text).map(|number| process.threads = number),
    },
    Setting {
        variable: "AMBASSADOR_LOG",
        value: "FILTER",
        doc: "What to log: error, warn, info, debug, trace or a list of target=level",
        default: Unset::Value("info"),
        remedy: "write error, warn, info, debug, trace or a list such as info,dial=debug",
        read: |process, text| log_filter(text).map(|filter| process.log = filter),
    },
    Setting {
        variable: "AMBASSADOR_LOG_FORMAT",
        value: "FORMAT",
        doc: "How to log, text or json, to standard error",
        default: Unset::Value("text"),
        remedy: "write text or json",
        read: |process, text| log_format(text).map(|format| process.log_format = format),
    },
];

/// A constant of its own, because `health` reads this one alone.
const ADMIN: Setting = Setting {
    variable: "AMBASSADOR_ADMIN",
    value: "ADDRESS:PORT",
    doc: "Answer probes and scrapes on this address; or off",
    // The container itself and its neighbours in a pod can ask, and nobody else.
    default: Unset::Value("127.0.0.1:9180"),
    remedy: "write an address and a port, such as 127.0.0.1:9180 or 0.0.0.0:9180, or off",
    read: |process, text| admin_address(text).map(|address| process.admin = address),
};

impl Setting {
    /// The flag that says the same as the variable, without its dashes.
    fn flag(&self) -> String {
        self.variable.trim_start_matches("AMBASSADOR_").to_lowercase().replace('_', "-")
    }

    /// The flag, as clap knows it.
    fn argument(&self) -> Arg {
        let (Unset::Value(default) | Unset::Words(default)) = self.default;
        Arg::new(self.flag())
            .long(self.flag())
            .global(true)
            .env(self.variable)
            // A variable that is no text is told of like every other mistake.
            .value_parser(value_parser!(OsString))
            .value_name(self.value)
            // No shell is to complete it with the names of files.
            .value_hint(ValueHint::Other)
            .help(format!("{} [default: {default}]", self.doc))
    }

    /// Reads what is written, or reports it and goes on with the default.
    fn apply(
        &self,
        env: &Env,
        arguments: &ProcessArguments,
        process: &mut Process,
        findings: &mut Diagnostics,
    ) {
        if let Unset::Value(default) = self.default {
            let taken = (self.read)(process, default);
            debug_assert!(taken.is_ok(), "{}: {taken:?}", self.variable);
        }
        let flag = arguments.0.get(self.variable).map(String::as_str);
        // Compose writes an empty value where a variable of its own is not set: nothing was given.
        let written = flag.or_else(|| env.text(self.variable, findings)).map(unquoted);
        if let Some(Err(refusal)) =
            written.filter(|text| !text.is_empty()).map(|text| (self.read)(process, text))
        {
            let remedy = refusal.remedy(self.variable, self.remedy);
            let name = format!("{} (--{})", self.variable, self.flag());
            findings.mistake(&name, refusal.reason, remedy);
        }
    }
}

/// The process-wide settings that were written as flags, by variable. They are text here, so that [`super::Config`] can
/// report all their mistakes together with those of the links.
#[derive(Debug, Default, Clone)]
pub struct ProcessArguments(pub BTreeMap<String, String>);

impl Args for ProcessArguments {
    fn augment_args(command: Command) -> Command {
        command.next_help_heading("Settings of the process").args(SETTINGS.iter().map(Setting::argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ProcessArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let written = SETTINGS.iter().filter_map(|setting| {
            let flag = setting.flag();
            // What clap finds in the environment of the process may not be what counts: see `Env`.
            let is_written = matches.value_source(&flag) == Some(ValueSource::CommandLine);
            let text = matches.get_one::<OsString>(&flag).filter(|_| is_written)?;
            Some((setting.variable.to_owned(), text.to_string_lossy().into_owned()))
        });
        Ok(Self(written.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

fn log_format(text: &str) -> Result<LogFormat, Refusal> {
    match word(text).as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("\"{text}\" is neither text nor json").into()),
    }
}

/// What is not a link's own.
#[derive(Debug, Default)]
pub struct Process {
    /// The addresses that listeners bind, where it is not every one.
    pub bind: Option<Vec<Interface>>,
    /// The aliases to take, in lower case; `None` takes all.
    pub aliases: Option<Vec<String>>,
    /// Where the admin endpoint listens, if it is to.
    pub admin: Option<ListenAddress>,
    /// The time for a dial, from the name to the last reply of the handshake.
    pub connect_timeout: Duration,
    /// How long a connection may move nothing.
    pub idle_timeout: Option<Duration>,
    /// How old a connection may grow.
    pub max_lifetime: Option<Duration>,
    /// When TCP probes a silent peer.
    pub keepalive: Option<Duration>,
    /// How many connections a link carries, where it is not what the descriptor limit allows.
    pub max_connections: Option<usize>,
    /// How long to go on accepting after SIGTERM.
    pub drain_delay: Duration,
    /// How long connections have to come to an end.
    pub drain_timeout: Duration,
    /// The name servers, where they are not the system's.
    pub dns: Option<Vec<SocketAddr>>,
    /// Threads that serve connections.
    pub threads: usize,
    /// What is logged.
    pub log: Targets,
    /// In which form.
    pub log_format: LogFormat,
}

impl Process {
    /// What holds where nothing is given, as far as no value of a setting says it.
    fn unset() -> Self {
        Self { threads: std::thread::available_parallelism().map_or(1, usize::from), ..Self::default() }
    }
}

pub(super) fn parse(env: &Env, arguments: &ProcessArguments, findings: &mut Diagnostics) -> Process {
    warn_of_near_misses(env, findings);
    let mut process = Process::unset();
    for setting in SETTINGS {
        setting.apply(env, arguments, &mut process, findings);
    }
    process
}

pub(super) fn admin(
    env: &Env,
    arguments: &ProcessArguments,
    findings: &mut Diagnostics,
) -> Option<ListenAddress> {
    let mut process = Process::unset();
    ADMIN.apply(env, arguments, &mut process, findings);
    process.admin
}

/// Aliases as people write them: the names of containers and Services have dashes, those of variables don't.
fn aliases(text: &str) -> Result<Vec<String>, Refusal> {
    let alias = |item: &str| {
        let alias = item.to_lowercase().replace('-', "_");
        if alias.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Ok(alias);
        }
        let reason = format!("\"{item}\" is not an alias");
        // As links are called in the log, `redis:6379`.
        match alias.split_once(':') {
            Some((alias, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(Refusal::instead(reason, alias))
            }
            _ => Err(reason.into()),
        }
    };
    each(&items(text).collect::<Vec<_>>(), alias)
}

/// Where the admin endpoint listens, or `off`.
fn admin_address(text: &str) -> Result<Option<ListenAddress>, Refusal> {
    /// The port of an address without one.
    const PORT: u16 = 9180;
    if is_off(text) {
        return Ok(None);
    }
    match ListenAddress::parse(text, Some(PORT)) {
        Ok(address @ ListenAddress::Tcp(..)) => Ok(Some(address)),
        Ok(ListenAddress::Unix(_)) => Err("the admin endpoint is not on Unix sockets".into()),
        Err(refusal) if refusal.instead.is_some() => Err(refusal),
        Err(_) => Err(format!("\"{text}\" is neither ADDRESS:PORT nor off").into()),
    }
}

/// Addresses, with a port or with DNS' own.
fn name_servers(text: &str) -> Result<Vec<SocketAddr>, Refusal> {
    /// The port of DNS.
    const PORT: u16 = 53;
    let server = |item: &str| {
        let place = ListenAddress::parse(item, Some(PORT));
        let at = match (place, Interface::parse(item)) {
            (Ok(ListenAddress::Tcp(Interface::Address(address), port)), _) => Some((address, port)),
            (Ok(ListenAddress::Tcp(Interface::Localhost, port)), _) => {
                Some((Ipv4Addr::LOCALHOST.into(), port))
            }
            (_, Ok(Interface::Address(address))) => Some((address, PORT)),
            (_, Ok(Interface::Localhost)) => Some((Ipv4Addr::LOCALHOST.into(), PORT)),
            _ => None,
        };
        let is_server = |at: &(IpAddr, u16)| at.1 > 0 && !at.0.is_unspecified();
        at.filter(is_server)
            .map(SocketAddr::from)
            .ok_or_else(|| Refusal::from(format!("\"{item}\" is not the address of a name server")))
    };
    each(&items(text).collect::<Vec<_>>(), server)
}

/// TCP counts the time before the first probe in whole seconds, up to 32767 of them (tcp(7)).
fn keepalive(text: &str) -> Result<Option<Duration>, Refusal> {
    match duration_or_off(text)? {
        Some(time) if !(1..=32767).contains(&time.as_secs()) => {
            Err(format!("\"{text}\" is not between 1s and 32767s").into())
        }
        time => Ok(time),
    }
}

/// More threads than this only cost memory; the number is far above any machine's cores.
const MOST_THREADS: usize = 1024;

fn threads(text: &str) -> Result<usize, Refusal> {
    match count(text)? {
        number if number > MOST_THREADS => Err(format!("\"{text}\" is more than {MOST_THREADS}").into()),
        number => Ok(number),
    }
}

/// A filter of `tracing`. A lone word that is no level would be taken for the name of a target, and silence the rest.
fn log_filter(text: &str) -> Result<Targets, Refusal> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let valid = text.split(',').all(|part| part.contains('=') || is_level(part.trim()));
    let filter = valid.then(|| text.parse().ok()).flatten();
    filter.ok_or_else(|| {
        let reason = format!("\"{text}\" is not a log filter");
        match word(text).as_str() {
            "warning" => Refusal::instead(reason, "warn"),
            "verbose" | "all" => Refusal::instead(reason, "debug"),
            "none" | "quiet" | "silent" => Refusal::instead(reason, "off"),
            "err" | "fatal" | "critical" => Refusal::instead(reason, "error"),
            _ => reason.into(),
        }
    })
}

/// What other programs call the same thing.
fn called_otherwise(name: &str) -> Option<&'static str> {
    Some(match name.strip_prefix("AMBASSADOR_")? {
        "LOG_LEVEL" | "LOGLEVEL" | "LOGGING" | "DEBUG" | "VERBOSE" => "AMBASSADOR_LOG",
        "PORT" | "HOST" | "LISTEN" | "ADDRESS" => "AMBASSADOR_BIND",
        "ADMIN_PORT" | "ADMIN_LISTEN" | "METRICS" | "METRICS_PORT" | "HEALTH" | "HEALTH_PORT" => {
            "AMBASSADOR_ADMIN"
        }
        "TIMEOUT" => "AMBASSADOR_CONNECT_TIMEOUT",
        "MAX_CLIENTS" | "MAXCLIENTS" => "AMBASSADOR_MAX_CONNECTIONS",
        "WORKERS" => "AMBASSADOR_THREADS",
        _ => return None,
    })
}

/// A slip in a process-wide name would otherwise be a setting that is silently not applied.
fn warn_of_near_misses(env: &Env, findings: &mut Diagnostics) {
    let known = || SETTINGS.iter().map(|setting| setting.variable);
    let is_linked = env.names().any(|name| name.starts_with("AMBASSADOR_PORT_"));
    for name in env.names() {
        let Some(rest) = name.strip_prefix("AMBASSADOR_") else { continue };
        let is_of_link = is_linked && setting(rest).is_some();
        if is_of_link || known().any(|known| known == name) || is_of_others(name, env) {
            continue;
        }
        let of_link = Some(rest).filter(|_| !is_linked);
        let shown = |setting: &str| format!("<ALIAS>_{setting}, as in REDIS_{setting}");
        let meant = called_otherwise(name).map(str::to_owned);
        let meant = meant.or_else(|| of_link.and_then(setting).map(|setting| shown(setting.name)));
        let meant = meant.or_else(|| nearest(name, known()).map(str::to_owned));
        let meant = meant.or_else(|| of_link.and_then(near_miss).map(shown));
        match meant {
            Some(meant) => {
                findings.warning(name, format!("nothing reads this variable; did you mean {meant}?"));
            }
            None if !is_linked => {
                findings.warning(name, "nothing reads this variable; --help has those that are read");
            }
            None => {}
        }
    }
}

/// Whether Docker or Kubernetes writes it for a container or Service of such a name.
fn is_of_others(name: &str, env: &Env) -> bool {
    let is_address = env.bytes(name).is_some_and(|value| value.windows(3).any(|three| three == b"://"));
    name.contains("_PORT_")
        || name.contains("_SERVICE_")
        || name.contains("_ENV_")
        || name.ends_with("_PORT") && is_address
        || name == "AMBASSADOR_NAME"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_that_is_taken() {
        for setting in SETTINGS {
            if let Unset::Value(default) = setting.default {
                assert_eq!((setting.read)(&mut Process::unset(), default), Ok(()), "{}", setting.variable);
            }
        }
    }
}
