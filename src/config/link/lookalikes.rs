//! Variables that somebody meant for a link, and that are none.

use super::{DEFAULT_PORT, candidate, is_alias, write_remedy};
use crate::config::Env;
use crate::config::notation::unquoted;
use crate::config::settings::nearest;
use crate::config::target::mend::mended;

/// What a variable was most likely meant to be.
pub(super) struct Lookalike<'a> {
    pub(super) variable: &'a str,
    pub(super) reason: String,
    pub(super) remedy: String,
    /// The name of a link that it is a slip of; none where others may have a use for the variable.
    pub(super) meant: Option<String>,
}

/// What other programs call the address of a server, and those of several.
const ADDRESSES: &[&str] = &[
    "_URL",
    "_URI",
    "_DSN",
    "_ADDRESS",
    "_ADDR",
    "_ENDPOINT",
    "_TARGET",
    "_HOSTS",
    "_NODES",
    "_SERVERS",
    "_TCP",
];
const HOSTS: &[&str] = &["_HOST", "_HOSTNAME", "_SERVER"];
const CLUSTERS: &[&str] = &["_CLUSTER_NODES", "_CLUSTER_HOSTS", "_CLUSTER_SERVERS"];
const SENTINELS: &[&str] = &["_SENTINELS", "_SENTINEL_HOSTS", "_SENTINEL_NODES"];

/// The alias where the name has none.
const DEFAULT_ALIAS: &str = "REDIS";

const NO_LINK: &str = "it is no link: the name of one is <ALIAS>_PORT_<PORT>_TCP, in capitals";

/// Every one of them, in the order of their names.
pub(super) fn lookalikes(env: &Env) -> Vec<Lookalike<'_>> {
    let is_ours = |name: &str| name.starts_with("AMBASSADOR_") || name.starts_with("KUBERNETES_");
    let names = || env.names().filter(|name| !is_ours(name));
    let found: Vec<_> = names().filter_map(|name| lookalike(name, env)).collect();
    // A port alone says less than any of those.
    if found.is_empty() { names().filter_map(|name| lone_port(name, env)).collect() } else { found }
}

fn lookalike<'a>(variable: &'a str, env: &Env) -> Option<Lookalike<'a>> {
    if candidate(variable, "_TCP").is_some() {
        return None;
    }
    let value = text(variable, env)?;
    if let Some(udp) = candidate(variable, "_UDP") {
        let meant = format!("{}_PORT_{}_TCP", udp.alias, udp.port);
        let reason = "UDP is not forwarded".to_owned();
        let target = mended(value, port_of(value));
        return Some(Lookalike { reason, ..named(variable, &meant, target, false) });
    }
    let name = variable.to_ascii_uppercase().replace(['-', '.'], "_");
    if let Some((alias, port)) = misspelt(&name, value) {
        let meant = format!("{alias}_PORT_{port}_TCP");
        return Some(named(variable, &meant, mended(value, port), true));
    }
    let written = |alias: &str, port: u16, target: &str| {
        Some(named(variable, &format!("{alias}_PORT_{port}_TCP"), mended(target, port), false))
    };
    // What stands beside a link, alone.
    if let Some(link) = name.strip_suffix("_ADDR").and_then(|link| candidate(link, "_TCP")) {
        let port = link.port.parse().ok().filter(|_| !env.contains(link.variable))?;
        return written(link.alias, port, &format!("tcp://{value}:{port}"));
    }
    let of = |suffixes: &[&str]| {
        let alias = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix))?;
        is_alias(alias).then(|| alias.to_owned())
    };
    let is_url = |schemes: &[&str]| {
        value
            .split_once("://")
            .is_some_and(|(scheme, _)| schemes.iter().any(|known| scheme.starts_with(known)))
    };
    let port = port_of(value);
    if let Some(alias) = of(&["_PORT"]).filter(|_| is_url(&["tcp", "redis", "tls"])) {
        return written(&alias, port, value);
    }
    if let Some(alias) = of(ADDRESSES).filter(|_| is_url(&["redis", "valkey", "tcp", "tls", "unix"])) {
        return written(&alias, port, value);
    }
    // Whatever it is called.
    if is_url(&["redis", "valkey"]) || is_url(&["tcp", "tls", "unix"]) && is_of_redis(&name) {
        let alias = of(HOSTS).unwrap_or_else(|| alias_in(&name).to_owned());
        return written(&alias, port, value);
    }
    let is_list = !value.is_empty() && value.split(',').all(is_host_and_port);
    if let Some(alias) = of(SENTINELS).filter(|_| is_list) {
        return written(&alias, DEFAULT_PORT, &format!("redis+sentinel://{value}"));
    }
    if let Some(alias) = of(CLUSTERS).filter(|_| is_list && is_of_redis(&name)) {
        return written(&alias, DEFAULT_PORT, &format!("redis+cluster://{value}"));
    }
    if let Some(alias) = of(ADDRESSES).filter(|_| is_list && is_of_redis(&name)) {
        return written(&alias, port, &format!("tcp://{value}"));
    }
    let is_host = !value.is_empty() && !value.contains(['/', ' ', '@', '=']);
    if let Some(alias) = of(HOSTS).filter(|_| is_host) {
        let port = text(&format!("{alias}_PORT"), env).and_then(|port| port.parse().ok());
        let port = port.filter(|port| *port > 0).or_else(|| given_port(value));
        let Some(port) = port.or_else(|| is_of_redis(&name).then_some(DEFAULT_PORT)) else {
            let alias = alias.strip_suffix("_SERVICE").unwrap_or(&alias);
            let remedy =
                format!("write {alias}_PORT_<PORT>_TCP=tcp://{value}:<PORT>, with the server's port");
            return Some(Lookalike { variable, reason: NO_LINK.to_owned(), remedy, meant: None });
        };
        let host = value.strip_suffix(&format!(":{port}")).unwrap_or(value);
        // As Kubernetes calls it.
        let alias = alias.strip_suffix("_SERVICE").unwrap_or(&alias);
        return written(alias, port, &format!("tcp://{host}:{port}"));
    }
    let alias = of(&["_NAME"]).filter(|_| value.starts_with('/') && value[1..].contains('/'))?;
    Some(Lookalike {
        variable,
        reason: format!("the container that Docker links as {alias} exposes no port"),
        remedy: format!(
            "start that container with --expose {DEFAULT_PORT}, or write {alias}_PORT_{DEFAULT_PORT}_TCP=tcp://{}:{DEFAULT_PORT}",
            alias.to_lowercase()
        ),
        meant: None,
    })
}

/// The port of a Redis that has no host.
fn lone_port<'a>(variable: &'a str, env: &Env) -> Option<Lookalike<'a>> {
    let alias = variable.strip_suffix("_PORT").filter(|alias| is_alias(alias) && is_of_redis(alias))?;
    let port: u16 = text(variable, env)?.parse().ok().filter(|port| *port > 0)?;
    Some(Lookalike {
        variable,
        reason: "it is a port without a host, and no link is set".to_owned(),
        remedy: format!("write {alias}_PORT_{port}_TCP=tcp://HOST:{port}, with the server's host"),
        meant: None,
    })
}

fn text<'a>(variable: &str, env: &'a Env) -> Option<&'a str> {
    std::str::from_utf8(env.bytes(variable)?).ok().map(unquoted)
}

fn named<'a>(variable: &'a str, meant: &str, target: Option<String>, is_close: bool) -> Lookalike<'a> {
    let remedy = match target {
        Some(target) => write_remedy(meant, &target),
        None => format!("write {meant}, with a target such as tcp://redis.example.com:6379"),
    };
    Lookalike { variable, reason: NO_LINK.to_owned(), remedy, meant: is_close.then(|| meant.to_owned()) }
}

fn is_of_redis(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name.contains("REDIS") || name.contains("VALKEY")
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.trim().rsplit_once(':') else { return false };
    let of_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte);
    !host.is_empty() && host.bytes().all(of_host) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The alias in a name, whose beginning may be none.
fn alias_in(name: &str) -> &str {
    let name = name.trim_start_matches(|first: char| !first.is_ascii_alphabetic());
    if is_alias(name) { name } else { DEFAULT_ALIAS }
}

/// The alias and the port of a name that is nearly that of a link.
fn misspelt(name: &str, value: &str) -> Option<(String, u16)> {
    // Kubernetes writes names of ports into names, too; their values are numbers.
    if !value.contains(':') {
        return None;
    }
    let is_word = |text: &str, word| text == word || nearest(text, [word].into_iter()).is_some();
    let name = if name.starts_with("PORT_") { format!("{DEFAULT_ALIAS}_{name}") } else { name.to_owned() };
    let (alias, port) = match name.rsplit_once("_PORT_") {
        Some((alias, "TCP")) => (alias, port_of(value)),
        Some((alias, rest)) => match rest.rsplit_once('_') {
            Some((port, suffix)) if is_word(suffix, "TCP") => {
                let is_target = value.contains("://");
                (alias, number(port, value).or_else(|| is_target.then(|| port_of(value)))?)
            }
            Some(_) => return None,
            None => (alias, number(rest, value)?),
        },
        None => {
            let (alias, port) = name.strip_suffix("_TCP")?.rsplit_once('_')?;
            let port = number(port.strip_prefix("PORT").unwrap_or(port), value)?;
            let alias = alias.strip_suffix("PORT").filter(|alias| is_of_redis(alias)).unwrap_or(alias);
            let last = alias.rsplit_once('_').filter(|(_, last)| is_word(last, "PORT"));
            (last.map_or(alias, |(alias, _)| alias), port)
        }
    };
    is_word_of_letters(alias).then(|| (alias_in(alias).to_owned(), port))
}

fn is_word_of_letters(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A port, in which letters may stand for digits: for those of the target's port, or for those that they look like.
fn number(text: &str, value: &str) -> Option<u16> {
    let target = port_of(value);
    let digits = target.to_string();
    let mut both = text.chars().zip(digits.chars());
    if text.len() == digits.len() && both.all(|(one, other)| one == other || one.is_ascii_uppercase()) {
        return Some(target);
    }
    let digits = text.replace('O', "0").replace(['I', 'L'], "1");
    digits.parse().ok().filter(|port| *port > 0)
}

/// The port that an address ends with, or else that of Redis.
pub(super) fn port_of(value: &str) -> u16 {
    given_port(value).unwrap_or(DEFAULT_PORT)
}

fn given_port(value: &str) -> Option<u16> {
    let rest = value.split_once("://").map_or(value, |(_, rest)| rest);
    let hosts = rest.split(['/', '?', '#']).next().unwrap_or_default();
    hosts.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}
