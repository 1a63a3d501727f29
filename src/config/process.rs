//! The process-wide settings: each is a flag and a variable.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::settings::nearest;
use super::{Env, Findings, count, duration, duration_or_off};

/// The process-wide settings as they were written, flag or variable. They are text here, so that [`super::Config`]
/// can report all their mistakes together with those of the links.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Settings of the process")]
pub struct ProcessArguments {
    /// Listen on this address [default: every address, IPv6 and IPv4]
    #[arg(long, global = true, env = "AMBASSADOR_BIND", value_name = "ADDRESS")]
    pub bind: Option<String>,
    /// Take only these aliases, separated by commas [default: all]
    #[arg(long, global = true, env = "AMBASSADOR_LINKS", value_name = "ALIASES")]
    pub links: Option<String>,
    /// Answer probes and scrapes on this address; or off [default: 127.0.0.1:9180]
    #[arg(long, global = true, env = "AMBASSADOR_ADMIN", value_name = "ADDRESS:PORT")]
    pub admin: Option<String>,
    /// Time to resolve, connect, take up TLS and authenticate, together [default: 5s]
    #[arg(long, global = true, env = "AMBASSADOR_CONNECT_TIMEOUT", value_name = "DURATION")]
    pub connect_timeout: Option<String>,
    /// Close a connection that moved no byte for so long [default: off]
    #[arg(long, global = true, env = "AMBASSADOR_IDLE_TIMEOUT", value_name = "DURATION")]
    pub idle_timeout: Option<String>,
    /// Close a connection of this age (less up to 10 %) at a quiet moment [default: off]
    #[arg(long, global = true, env = "AMBASSADOR_MAX_LIFETIME", value_name = "DURATION")]
    pub max_lifetime: Option<String>,
    /// Probe a silent peer after this, on both sides; or off [default: 60s]
    #[arg(long, global = true, env = "AMBASSADOR_KEEPALIVE", value_name = "DURATION")]
    pub keepalive: Option<String>,
    /// Connections of one link at the most [default: as many as the file-descriptor limit carries]
    #[arg(long, global = true, env = "AMBASSADOR_MAX_CONNECTIONS", value_name = "NUMBER")]
    pub max_connections: Option<String>,
    /// Go on accepting this long after SIGTERM [default: 0s]
    #[arg(long, global = true, env = "AMBASSADOR_DRAIN_DELAY", value_name = "DURATION")]
    pub drain_delay: Option<String>,
    /// Time for connections to come to an end after SIGTERM [default: 8s]
    #[arg(long, global = true, env = "AMBASSADOR_DRAIN_TIMEOUT", value_name = "DURATION")]
    pub drain_timeout: Option<String>,
    /// Ask these name servers, separated by commas [default: those of /etc/resolv.conf]
    #[arg(long, global = true, env = "AMBASSADOR_DNS", value_name = "ADDRESS:PORT")]
    pub dns: Option<String>,
    /// Threads that serve connections [default: one a core]
    #[arg(long, global = true, env = "AMBASSADOR_THREADS", value_name = "NUMBER")]
    pub threads: Option<String>,
    /// What to log: error, warn, info, debug, trace or a list of target=level [default: info]
    #[arg(long, global = true, env = "AMBASSADOR_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How to log, text or json, to standard error [default: text]
    #[arg(long, global = true, env = "AMBASSADOR_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("\"{text}\" is neither text nor json")),
        }
    }
}

/// What is not a link's own.
#[derive(Debug)]
pub struct Process {
    /// The address that listeners bind, where it is not every one.
    pub bind: Option<IpAddr>,
    /// The aliases to take, in lower case; `None` takes all.
    pub aliases: Option<Vec<String>>,
    /// Where the admin endpoint listens, if it is to.
    pub admin: Option<SocketAddr>,
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

/// Compose writes an empty value where a variable of its own is not set: nothing was given.
fn given(written: Option<&String>) -> Option<&str> {
    written.map(String::as_str).filter(|text| !text.trim().is_empty())
}

/// Reads one value, or reports it and goes on with the default.
fn value<T, E: fmt::Display>(
    written: Option<&String>,
    variable: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
    default: T,
    remedy: &str,
    findings: &mut Findings,
) -> T {
    let Some(text) = given(written) else {
        return default;
    };
    match parse(text) {
        Ok(value) => value,
        Err(reason) => {
            let flag = variable.trim_start_matches("AMBASSADOR_").to_lowercase().replace('_', "-");
            findings.mistake(&format!("{variable} (--{flag})"), reason.to_string(), remedy);
            default
        }
    }
}

const DURATION: &str = "write a number and a unit, such as 500ms, 5s or 1h";
const DURATION_OR_OFF: &str = "write a number and a unit, such as 500ms, 5s or 1h, or off";
const COUNT: &str = "write a number, such as 100, or leave it out";

pub(super) fn parse(env: &Env, arguments: &ProcessArguments, findings: &mut Findings) -> Process {
    warn_of_near_misses(env, findings);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Process {
        bind: value(
            arguments.bind.as_ref(),
            "AMBASSADOR_BIND",
            |text| address(text).map(Some),
            None,
            "write one address, such as 127.0.0.1 or ::1, or leave it out to listen on every one",
            findings,
        ),
        aliases: given(arguments.links.as_ref()).map(|list| {
            let aliases = list.split([',', ' ']).filter(|alias| !alias.is_empty());
            aliases.map(str::to_lowercase).collect()
        }),
        admin: admin(arguments, findings),
        connect_timeout: value(
            arguments.connect_timeout.as_ref(),
            "AMBASSADOR_CONNECT_TIMEOUT",
            |text| duration(text, false),
            Duration::from_secs(5),
            DURATION,
            findings,
        ),
        idle_timeout: value(
            arguments.idle_timeout.as_ref(),
            "AMBASSADOR_IDLE_TIMEOUT",
            duration_or_off,
            None,
            DURATION_OR_OFF,
            findings,
        ),
        max_lifetime: value(
            arguments.max_lifetime.as_ref(),
            "AMBASSADOR_MAX_LIFETIME",
            duration_or_off,
            None,
            DURATION_OR_OFF,
            findings,
        ),
        keepalive: value(
            arguments.keepalive.as_ref(),
            "AMBASSADOR_KEEPALIVE",
            keepalive,
            Some(Duration::from_mins(1)),
            DURATION_OR_OFF,
            findings,
        ),
        max_connections: value(
            arguments.max_connections.as_ref(),
            "AMBASSADOR_MAX_CONNECTIONS",
            |text| count(text).map(Some),
            None,
            COUNT,
            findings,
        ),
        drain_delay: value(
            arguments.drain_delay.as_ref(),
            "AMBASSADOR_DRAIN_DELAY",
            |text| duration(text, true),
            Duration::ZERO,
            DURATION,
            findings,
        ),
        drain_timeout: value(
            arguments.drain_timeout.as_ref(),
            "AMBASSADOR_DRAIN_TIMEOUT",
            |text| duration(text, true),
            // Inside the ten seconds that Docker gives a container to stop.
            Duration::from_secs(8),
            DURATION,
            findings,
        ),
        dns: value(
            arguments.dns.as_ref(),
            "AMBASSADOR_DNS",
            |text| name_servers(text).map(Some),
            None,
            "write addresses, such as 127.0.0.1:8600 or [::1]:53, or leave it out to ask the system's",
            findings,
        ),
        threads: value(arguments.threads.as_ref(), "AMBASSADOR_THREADS", threads, cores, COUNT, findings),
        log: value(
            arguments.log.as_ref(),
            "AMBASSADOR_LOG",
            log_filter,
            Targets::new().with_default(tracing::Level::INFO),
            "write error, warn, info, debug, trace or a list such as info,redis_ambassador::dial=debug",
            findings,
        ),
        log_format: value(
            arguments.log_format.as_ref(),
            "AMBASSADOR_LOG_FORMAT",
            str::parse,
            LogFormat::Text,
            "write text or json",
            findings,
        ),
    }
}

/// By default the container itself and its neighbours in a pod can ask, and nobody else.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

pub(super) fn admin(arguments: &ProcessArguments, findings: &mut Findings) -> Option<SocketAddr> {
    let parse = |text: &str| match text.trim() {
        "off" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("\"{text}\" is neither ADDRESS:PORT nor off")),
    };
    let remedy = "write an address and a port, such as 127.0.0.1:9180 or 0.0.0.0:9180, or off";
    value(arguments.admin.as_ref(), "AMBASSADOR_ADMIN", parse, Some(ADMIN), remedy, findings)
}

fn address(text: &str) -> Result<IpAddr, String> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    inner.unwrap_or(text).parse().map_err(|_| format!("\"{text}\" is not an IP address"))
}

/// Addresses, with a port or with DNS' own.
fn name_servers(text: &str) -> Result<Vec<SocketAddr>, String> {
    let server = |word: &str| {
        let with_port = word.parse::<SocketAddr>();
        with_port
            .or_else(|_| address(word).map(|address| SocketAddr::new(address, 53)))
            .ok()
            .filter(|a| a.port() > 0)
    };
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    words
        .map(|word| server(word).ok_or_else(|| format!("\"{word}\" is not the address of a name server")))
        .collect()
}

/// TCP counts the time before the first probe in whole seconds, up to 32767 of them (tcp(7)).
fn keepalive(text: &str) -> Result<Option<Duration>, String> {
    match duration_or_off(text)? {
        Some(time) if !(1..=32767).contains(&time.as_secs()) => {
            Err(format!("\"{text}\" is not between 1s and 32767s"))
        }
        time => Ok(time),
    }
}

/// More threads than this only cost memory; the number is far above any machine's cores.
const MOST_THREADS: usize = 1024;

fn threads(text: &str) -> Result<usize, String> {
    match count(text)? {
        number if number > MOST_THREADS => Err(format!("\"{text}\" is more than {MOST_THREADS}")),
        number => Ok(number),
    }
}

/// A filter of `tracing`. A lone word that is no level would be taken for the name of a target, and silence the rest.
fn log_filter(text: &str) -> Result<Targets, String> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let valid = text.split(',').all(|part| part.contains('=') || is_level(part.trim()));
    let filter = valid.then(|| text.parse().ok()).flatten();
    filter.ok_or_else(|| format!("\"{text}\" is not a log filter"))
}

/// The names of the variables, as the flags declare them.
pub fn variables() -> Vec<String> {
    let command = ProcessArguments::augment_args(clap::Command::new(""));
    let names = command.get_arguments().filter_map(|argument| argument.get_env());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// A slip in a process-wide name would otherwise be a setting that is silently not applied.
fn warn_of_near_misses(env: &Env, findings: &mut Findings) {
    let known = variables();
    for name in env.names().filter(|name| name.starts_with("AMBASSADOR_")) {
        if !known.iter().any(|known| known == name)
            && let Some(meant) = nearest(name, known.iter().map(String::as_str))
        {
            findings.warning(name, format!("nothing reads this variable; did you mean {meant}?"));
        }
    }
}
