//! The process-wide settings: each is a flag and a variable.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::notation::{Refusal, count, duration, duration_or_off, each, is_off, items, unquoted, word};
use super::settings::nearest;
use super::{Env, Findings};
use crate::log::LogFormat;
use crate::net::{Interface, ListenAddress};

/// The process-wide settings as they were written, flag or variable. They are text here, so that [`super::Config`]
/// can report all their mistakes together with those of the links.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Settings of the process")]
pub struct ProcessArguments {
    /// Listen on these addresses, separated by commas; localhost is both loopback addresses [default: every address, IPv6
    /// and IPv4]
    #[arg(long, global = true, env = "AMBASSADOR_BIND", value_name = "ADDRESSES")]
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

fn log_format(text: &str) -> Result<LogFormat, Refusal> {
    match word(text).as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("\"{text}\" is neither text nor json").into()),
    }
}

/// What is not a link's own.
#[derive(Debug)]
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

/// Compose writes an empty value where a variable of its own is not set: nothing was given.
fn given(written: Option<&String>) -> Option<&str> {
    written.map(|text| unquoted(text)).filter(|text| !text.is_empty())
}

/// Reads one value, or reports it and goes on with the default.
fn value<T>(
    written: Option<&String>,
    variable: &str,
    parse: impl FnOnce(&str) -> Result<T, Refusal>,
    default: T,
    remedy: &str,
    findings: &mut Findings,
) -> T {
    let Some(text) = given(written) else {
        return default;
    };
    match parse(text) {
        Ok(value) => value,
        Err(refusal) => {
            let remedy = refusal.remedy(variable, || remedy.to_owned());
            findings.mistake(&with_flag(variable), refusal.reason, remedy);
            default
        }
    }
}

/// A variable, and the flag that says the same.
fn with_flag(variable: &str) -> String {
    let flag = variable.trim_start_matches("AMBASSADOR_").to_lowercase().replace('_', "-");
    format!("{variable} (--{flag})")
}

const DURATION: &str = "write a number and a unit, such as 500ms, 5s or 1h";
const DURATION_OR_OFF: &str = "write a number and a unit, such as 500ms, 5s or 1h, or off";
const COUNT: &str = "write a number, such as 100, or leave it out";

pub(super) fn parse(env: &Env, arguments: &ProcessArguments, findings: &mut Findings) -> Process {
    warn_of_near_misses(env, findings);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Process {
        bind: bind(arguments, findings),
        aliases: taken_aliases(arguments, findings),
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
            "write error, warn, info, debug, trace or a list such as info,redis_ambassador::upstream::dial=debug",
            findings,
        ),
        log_format: value(
            arguments.log_format.as_ref(),
            "AMBASSADOR_LOG_FORMAT",
            log_format,
            LogFormat::Text,
            "write text or json",
            findings,
        ),
    }
}

fn bind(arguments: &ProcessArguments, findings: &mut Findings) -> Option<Vec<Interface>> {
    let parse = |text: &str| Interface::parse_list(text).map(Some);
    let remedy = "write addresses, such as 127.0.0.1 or localhost, or leave it out to listen on every one";
    value(arguments.bind.as_ref(), "AMBASSADOR_BIND", parse, None, remedy, findings)
}

fn taken_aliases(arguments: &ProcessArguments, findings: &mut Findings) -> Option<Vec<String>> {
    let parse = |text: &str| aliases(text).map(Some);
    let remedy = "write aliases, such as redis,db, or leave it out to take all links";
    value(arguments.links.as_ref(), "AMBASSADOR_LINKS", parse, None, remedy, findings)
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

/// By default the container itself and its neighbours in a pod can ask, and nobody else.
const ADMIN: ListenAddress =
    ListenAddress::Tcp(Interface::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)), ADMIN_PORT);
const ADMIN_PORT: u16 = 9180;

pub(super) fn admin(arguments: &ProcessArguments, findings: &mut Findings) -> Option<ListenAddress> {
    let parse = |text: &str| {
        if is_off(text) {
            return Ok(None);
        }
        match ListenAddress::parse(text, Some(ADMIN_PORT)) {
            Ok(address @ ListenAddress::Tcp(..)) => Ok(Some(address)),
            Ok(ListenAddress::Unix(_)) => Err("the admin endpoint is not on Unix sockets".into()),
            Err(refusal) if refusal.instead.is_some() => Err(refusal),
            Err(_) => Err(format!("\"{text}\" is neither ADDRESS:PORT nor off").into()),
        }
    };
    let remedy = "write an address and a port, such as 127.0.0.1:9180 or 0.0.0.0:9180, or off";
    value(arguments.admin.as_ref(), "AMBASSADOR_ADMIN", parse, Some(ADMIN), remedy, findings)
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
