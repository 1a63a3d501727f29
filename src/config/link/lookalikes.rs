//! Variables that somebody meant for a link, and that are none.

use super::{DEFAULT_PORT, candidate, is_alias};
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

/// What other programs call the address of a server.
const ADDRESSES: &[&str] = &["_URL", "_URI", "_DSN", "_ADDRESS", "_ADDR", "_ENDPOINT"];
const HOSTS: &[&str] = &["_HOST", "_HOSTNAME", "_SERVER"];

/// Every one of them, in the order of their names.
pub(super) fn lookalikes(env: &Env) -> Vec<Lookalike<'_>> {
    let is_ours = |name: &str| name.starts_with("AMBASSADOR_") || name.starts_with("KUBERNETES_");
    env.names().filter(|name| !is_ours(name)).filter_map(|name| lookalike(name, env)).collect()
}

fn lookalike<'a>(variable: &'a str, env: &Env) -> Option<Lookalike<'a>> {
    if candidate(variable, "_TCP").is_some() || candidate(variable, "_UDP").is_some() {
        return None;
    }
    let text = |name: &str| std::str::from_utf8(env.bytes(name)?).ok().map(unquoted);
    let value = text(variable)?;
    let name = variable.to_ascii_uppercase().replace(['-', '.'], "_");
    if let Some((alias, port)) = misspelt(&name, value) {
        let meant = format!("{alias}_PORT_{port}_TCP");
        return Some(named(variable, &meant, mended(value, port), true));
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
    if let Some(alias) = of(&["_PORT"]).filter(|_| is_url(&["tcp", "redis", "tls"])) {
        let port = port_of(value);
        return Some(named(variable, &format!("{alias}_PORT_{port}_TCP"), mended(value, port), false));
    }
    if let Some(alias) = of(ADDRESSES).filter(|_| is_url(&["redis", "tcp", "tls", "unix"])) {
        let port = port_of(value);
        return Some(named(variable, &format!("{alias}_PORT_{port}_TCP"), mended(value, port), false));
    }
    let is_host = !value.is_empty() && !value.contains(['/', ' ', '@', '=']);
    if let Some(alias) = of(HOSTS).filter(|_| is_host) {
        let port = text(&format!("{alias}_PORT")).and_then(|port| port.parse().ok());
        let port = port.filter(|port| *port > 0).unwrap_or_else(|| port_of(value));
        let host = value.strip_suffix(&format!(":{port}")).unwrap_or(value);
        let target = mended(&format!("tcp://{host}:{port}"), port);
        return Some(named(variable, &format!("{alias}_PORT_{port}_TCP"), target, false));
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

fn named<'a>(variable: &'a str, meant: &str, target: Option<String>, is_close: bool) -> Lookalike<'a> {
    let remedy = match target {
        Some(target) if target.contains("****@") => {
            format!("write {meant}={target}, with what stands there now in the place of ****")
        }
        Some(target) => format!("write {meant}={target}"),
        None => format!("write {meant}, with a target such as tcp://redis.example.com:6379"),
    };
    Lookalike {
        variable,
        reason: "it is no link: the name of one is <ALIAS>_PORT_<PORT>_TCP, in capitals".to_owned(),
        remedy,
        meant: is_close.then(|| meant.to_owned()),
    }
}

/// The alias and the port of a name that is nearly that of a link.
fn misspelt(name: &str, value: &str) -> Option<(String, u16)> {
    let (alias, port) = match name.rsplit_once("_PORT_") {
        Some((alias, "TCP")) => (alias, port_of(value)),
        Some((alias, rest)) => {
            let (port, suffix) = rest.rsplit_once('_')?;
            let is_tcp = suffix == "TCP" || nearest(suffix, ["TCP"].into_iter()).is_some();
            (alias, number(port, value).filter(|_| is_tcp)?)
        }
        None => {
            let (alias, port) = name.strip_suffix("_TCP")?.rsplit_once('_')?;
            (alias, number(port, value)?)
        }
    };
    is_alias(alias).then(|| (alias.to_owned(), port))
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

/// The port that an address ends with.
fn port_of(value: &str) -> u16 {
    let rest = value.split_once("://").map_or(value, |(_, rest)| rest);
    let hosts = rest.split(['/', '?', '#']).next().unwrap_or_default();
    hosts.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(DEFAULT_PORT)
}
