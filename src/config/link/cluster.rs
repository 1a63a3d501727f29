//! How clients reach the nodes of a Redis Cluster: the ports that are listened on for them, and the host that clients
//! are told.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::values::LinkSettings;
use super::variables::Settings;
use super::{Link, Role};
use crate::config::Diagnostics;
use crate::config::notation::Refusal;
use crate::net::{Endpoint, Host, Listen, ListenAddress};

/// What the listeners of a Redis Cluster's nodes need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The ports on which nodes are listened for, one each. Where it is the default, others may listen on some of them.
    pub ports: RangeInclusive<u16>,
    /// The variable that gives them, or would.
    pub ports_variable: String,
    /// The host that clients are told for every node, an IPv6 address without brackets; `None` for the address at which
    /// they came in.
    pub announce: Option<String>,
}

/// So many ports behind that of the link are for nodes, if nothing else is said.
const PORTS: u16 = 100;

/// The first port that needs no privileges.
const UNPRIVILEGED: u16 = 1024;

impl LinkSettings<'_, '_> {
    /// How nodes are reached. What the link would have to do otherwise is a mistake.
    pub(super) fn cluster(&mut self, role: Option<Role>, sessions: bool) -> Cluster {
        if let (Some(_), Some(variable)) = (role, self.variable("ROLE")) {
            self.findings.mistake(
                variable,
                "clients of a Redis Cluster choose the node themselves, be it a master or a replica",
                format!("remove {variable}"),
            );
        }
        if let (false, Some(variable)) = (sessions, self.variable("SESSIONS")) {
            self.findings.mistake(
                variable,
                "without sessions replies are passed on as they are, and clients of a Redis Cluster would be told the nodes' \
                 own addresses",
                format!("remove {variable}"),
            );
        }
        let remedy = "write the name or the address at which clients reach this host, without a port";
        let own = || format!("{}_PORT_{}_CLUSTER_PORTS", self.alias, self.port);
        let ports_variable = self.variable("CLUSTER_PORTS").map_or_else(own, str::to_owned);
        Cluster { ports: self.ports(), ports_variable, announce: self.value("ANNOUNCE", announced, remedy) }
    }

    fn ports(&mut self) -> RangeInclusive<u16> {
        let default = behind(self.port);
        let example = shown_ports(default.as_ref().unwrap_or(&(6380..=6479)));
        let given = self.variable("CLUSTER_PORTS");
        if default.is_none() && given.is_none() {
            let link = format!("{}_PORT_{}", self.alias, self.port);
            self.findings.mistake(
                &format!("{link}_TCP"),
                format!("behind {} there are no ports for the nodes of the Redis Cluster", self.port),
                format!("set {link}_CLUSTER_PORTS={example}, or other ports that nothing listens on"),
            );
        }
        let remedy = format!("write {}={example}", given.unwrap_or_default());
        let given = self.value("CLUSTER_PORTS", ports, &remedy);
        given.or(default).unwrap_or(self.port..=self.port)
    }

    /// Clients are told every node by host and port.
    pub(super) fn refuse_unix_sockets(&mut self, listen: &Listen) {
        let (true, Some(variable)) = (listen.has_unix(), self.variable("LISTEN")) else { return };
        let kept: Vec<_> =
            listen.addresses.iter().filter(|address| matches!(address, ListenAddress::Tcp(..))).collect();
        let remedy = if kept.is_empty() {
            format!(
                "write {variable}=localhost:{} for clients on this host alone, or remove {variable}",
                self.port
            )
        } else {
            let kept: Vec<_> = kept.iter().map(ToString::to_string).collect();
            format!("write {variable}={}", kept.join(","))
        };
        self.findings.mistake(
            variable,
            "clients of a Redis Cluster are told its nodes by host and port, and at a Unix socket there is neither",
            remedy,
        );
    }
}

/// The default for a link's port.
fn behind(port: u16) -> Option<RangeInclusive<u16>> {
    Some(port.checked_add(1)?..=port.saturating_add(PORTS))
}

/// As the setting has them: `6380-6479`.
pub fn shown_ports(ports: &RangeInclusive<u16>) -> String {
    let (first, last) = (ports.start(), ports.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// `FIRST-LAST`, or one port.
fn ports(text: &str) -> Result<RangeInclusive<u16>, Refusal> {
    let Some((first, last)) = numbers(text) else {
        let reason = format!("\"{text}\" is not a range of ports");
        // As other programs write it.
        let dashed = text.replace("..", "-").replace(':', "-");
        return Err(match ports_of(&dashed) {
            Some(meant) if dashed != text => Refusal::instead(reason, shown_ports(&meant)),
            _ => reason.into(),
        });
    };
    if let Some(ports) = ports_of(text) {
        return Ok(ports);
    }
    let port = |number: u32| u16::try_from(number.clamp(1, u16::MAX.into())).unwrap_or(u16::MAX);
    let reason = if first > last {
        format!("\"{text}\" ends before it begins")
    } else {
        format!("\"{text}\" is not within 1 to 65535")
    };
    let (first, last) = (first.min(last), first.max(last));
    // All of it may be beyond.
    let is_partly_right = last > 0 && first <= u16::MAX.into();
    Err(if is_partly_right {
        Refusal::instead(reason, shown_ports(&(port(first)..=port(last))))
    } else {
        reason.into()
    })
}

fn ports_of(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = numbers(text)?;
    let (first, last) = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
    (0 < first && first <= last).then_some(first..=last)
}

/// The two numbers with a dash between them, or one twice.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| {
        let text = text.trim();
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let (first, last) = text.split_once(['-', '–']).unwrap_or((text, text));
    Some((number(first)?, number(last)?))
}

/// The host of `ANNOUNCE`, as it is told.
fn announced(text: &str) -> Result<String, Refusal> {
    if let Some((_, rest)) = text.split_once("://") {
        // Nothing of it is quoted: it may have a password.
        let reason = "it is a URL, and clients are told a host";
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let place = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host(place).or_else(|_| host(without_port(place).unwrap_or_default()));
        return Err(match host {
            Ok(host) => Refusal::instead(reason, host),
            Err(_) => reason.into(),
        });
    }
    host(text).map_err(|reason| match without_port(text).map(host) {
        Some(Ok(host)) => Refusal::instead(
            format!("\"{text}\" has a port, and clients are told that of each node's listener"),
            host,
        ),
        _ => reason.into(),
    })
}

/// A name or an address, in brackets or not; else what is wrong with it.
fn host(text: &str) -> Result<String, String> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let host = match inner.parse::<IpAddr>() {
        Ok(address) => Host::Address(address.to_canonical()),
        // Its reasons are written for targets.
        Err(_) if text.contains('$') => text.parse().map_err(|malformed| format!("{malformed}"))?,
        Err(_) => text.parse().map_err(|_| format!("\"{text}\" is neither a name nor an address"))?,
    };
    match host {
        Host::Address(address) if address.is_unspecified() => {
            Err(format!("\"{text}\" stands for every address, and clients need one that they can dial"))
        }
        Host::Address(IpAddr::V6(address)) if address.is_unicast_link_local() => Err(of_one_interface(text)),
        Host::LinkLocal(_) => Err(of_one_interface(text)),
        Host::Address(address) => Ok(address.to_string()),
        host => Ok(host.to_string()),
    }
}

fn of_one_interface(text: &str) -> String {
    format!("\"{text}\" is a link-local address, which each client reaches by an interface of its own")
}

/// What stands before the last colon and a number.
fn without_port(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    port.bytes().all(|byte| byte.is_ascii_digit()).then_some(host)
}

/// Ports that nodes would have to share with each other, with a link, or with what is dialled.
pub(super) fn refuse_clashes(links: &[Link], settings: &Settings<'_>, findings: &mut Diagnostics) {
    let ports = |link: &Link| Some(link.redis.as_ref()?.cluster.as_ref()?.ports.clone());
    // With what the remedies ask for, so that all of them together are right.
    let mut ranges: Vec<_> = links.iter().map(ports).collect();
    for (index, link) in links.iter().enumerate() {
        let Some(ports) = ranges[index].clone() else { continue };
        let at_port = settings.at_port(&link.alias, link.port, SETTING);
        let given = at_port.or_else(|| settings.alias_wide(&link.alias, SETTING));
        let before = links[..index].iter().zip(&ranges);
        let other_nodes = before.filter_map(|(other, ports)| Some((other, ports.as_ref()?)));
        let reason = clash_with_nodes(link, &ports, other_nodes).or_else(|| {
            // Of the default, those that are taken are passed over.
            given.and_then(|_| clash_with_listeners(link, &ports, links).or_else(|| loops(link, &ports)))
        });
        let Some(reason) = reason else { continue };
        let taken: Vec<_> = ranges.iter().enumerate().filter(|(other, _)| *other != index).collect();
        let taken = taken.into_iter().filter_map(|(_, ports)| ports.clone());
        let taken: Vec<_> = taken.chain(singles(link, links)).collect();
        // The one of the alias may be another link's, too.
        let is_own = at_port.is_some() || links.iter().filter(|other| other.alias == link.alias).count() == 1;
        let to_set = match given.filter(|_| is_own) {
            Some(variable) => format!("write {variable}"),
            None => format!("set {}_PORT_{}_{SETTING}", link.alias, link.port),
        };
        let free = free(&ports, &taken);
        let remedy = match &free {
            Some(free) => format!("{to_set}={}", shown_ports(free)),
            None => format!("{to_set}=FIRST-LAST, to ports that nothing else listens on"),
        };
        findings.mistake(given.unwrap_or(&link.variable), reason, remedy);
        ranges[index] = free.or(Some(ports));
    }
}

const SETTING: &str = "CLUSTER_PORTS";

fn clash_with_nodes<'a>(
    link: &Link,
    ports: &RangeInclusive<u16>,
    mut others: impl Iterator<Item = (&'a Link, &'a RangeInclusive<u16>)>,
) -> Option<String> {
    let (other, theirs) = others.find(|(other, theirs)| {
        first_common(ports, theirs)
            .is_some_and(|port| link.listen.at(port).clashes_with(&other.listen.at(port)))
    })?;
    Some(format!(
        "its nodes are listened for on {}, and those of {} ({}) on {}",
        shown_ports(ports),
        other.name,
        other.variable,
        shown_ports(theirs)
    ))
}

fn clash_with_listeners(link: &Link, ports: &RangeInclusive<u16>, links: &[Link]) -> Option<String> {
    links.iter().find_map(|other| {
        let port = tcp_ports(&other.listen)
            .find(|port| ports.contains(port) && link.listen.at(*port).clashes_with(&other.listen))?;
        let who = if std::ptr::eq(link, other) {
            "the link itself".to_owned()
        } else {
            format!("{} ({})", other.name, other.variable)
        };
        Some(format!("{port} is in {}, and {who} listens there", shown_ports(ports)))
    })
}

fn loops(link: &Link, ports: &RangeInclusive<u16>) -> Option<String> {
    let node = local_nodes(link).find(|(port, _)| ports.contains(port));
    node.map(|(port, node)| {
        format!("{port} is in {}, and {node}, which is dialled, listens there", shown_ports(ports))
    })
}

/// The nodes that a listener on this link's addresses would stand in for.
fn local_nodes(link: &Link) -> impl Iterator<Item = (u16, &Endpoint)> {
    link.endpoints.iter().filter_map(|endpoint| match endpoint {
        Endpoint::Tcp(_, port) => link.listen.at(*port).answers(endpoint).then_some((*port, endpoint)),
        Endpoint::Unix(_) => None,
    })
}

/// Ports that are no nodes'.
fn singles(link: &Link, links: &[Link]) -> impl Iterator<Item = RangeInclusive<u16>> {
    let of_nodes = local_nodes(link).map(|(port, _)| port);
    let ports = links.iter().flat_map(|link| tcp_ports(&link.listen)).chain(of_nodes);
    ports.map(|port| port..=port)
}

fn tcp_ports(listen: &Listen) -> impl Iterator<Item = u16> {
    listen.addresses.iter().filter_map(|address| match address {
        ListenAddress::Tcp(_, port) => Some(*port),
        ListenAddress::Unix(_) => None,
    })
}

fn first_common(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> Option<u16> {
    let first = *one.start().max(other.start());
    (one.contains(&first) && other.contains(&first)).then_some(first)
}

/// As many ports that are not taken, or as many as by default, from these on or anywhere.
fn free(ports: &RangeInclusive<u16>, taken: &[RangeInclusive<u16>]) -> Option<RangeInclusive<u16>> {
    let more = ports.end() - ports.start();
    let from = |mut first: u16, more: u16| {
        loop {
            let range = first..=first.checked_add(more)?;
            match taken.iter().find(|taken| first_common(taken, &range).is_some()) {
                Some(taken) => first = taken.end().checked_add(1)?,
                None => return Some(range),
            }
        }
    };
    [more, more.min(PORTS - 1)]
        .into_iter()
        .find_map(|more| from(*ports.start().max(&UNPRIVILEGED), more).or_else(|| from(UNPRIVILEGED, more)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_two_numbers_or_one() {
        for (written, read) in [
            ("6380-6479", 6380..=6479),
            ("6380 - 6479", 6380..=6479),
            ("6380–6479", 6380..=6479),
            ("7000", 7000..=7000),
            ("7000-7000", 7000..=7000),
            ("1-65535", 1..=65535),
        ] {
            assert_eq!(ports(written), Ok(read), "{written}");
        }
        for (written, instead) in [
            ("6479-6380", Some("6380-6479")),
            ("0-100", Some("1-100")),
            ("65500-65600", Some("65500-65535")),
            ("70000-100", Some("100-65535")),
            ("6380:6479", Some("6380-6479")),
            ("6380..6479", Some("6380-6479")),
            ("0", None),
            ("65536", None),
            ("70000-80000", None),
            ("6380,6381", None),
            ("6380-6390-6400", None),
            ("-6380", None),
            ("6380-", None),
            ("+1-2", None),
            ("1-99999999999", None),
            ("many", None),
            (":", None),
        ] {
            let refused = ports(written).expect_err(written);
            assert_eq!(refused.instead.as_deref(), instead, "{written}: {}", refused.reason);
        }
    }

    #[test]
    fn the_hundred_ports_behind_the_links_are_the_default() {
        assert_eq!(behind(6379), Some(6380..=6479));
        assert_eq!(behind(65435), Some(65436..=65535));
        assert_eq!(behind(65500), Some(65501..=65535));
        assert_eq!(behind(65534), Some(65535..=65535));
        assert_eq!(behind(65535), None);
    }

    #[test]
    fn a_host_is_announced_without_port_and_brackets() {
        for (written, told) in [
            ("redis.example.com", "redis.example.com"),
            ("my_host", "my_host"),
            ("redis.example.com.", "redis.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("10.0.0.5", "10.0.0.5"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("::ffff:10.0.0.5", "10.0.0.5"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(announced(written).as_deref(), Ok(told), "{written}");
        }
        for (written, instead) in [
            ("redis.example.com:6379", Some("redis.example.com")),
            ("10.0.0.5:6379", Some("10.0.0.5")),
            ("[::1]:6379", Some("::1")),
            ("host:", Some("host")),
            ("redis://redis.example.com:6379/0", Some("redis.example.com")),
            ("tcp://[::1]", Some("::1")),
            ("redis://:hush@host", Some("host")),
            ("redis://", None),
            (":6379", None),
            ("two hosts", None),
            ("one,two", None),
            ("0.0.0.0", None),
            ("::", None),
            ("*", None),
            ("fe80::1", None),
            ("[fe80::1%eth0]", None),
            ("10.0.0.300", None),
            ("${HOST}", None),
            ("host/path", None),
        ] {
            let refused = announced(written).expect_err(written);
            assert_eq!(refused.instead.as_deref(), instead, "{written}: {}", refused.reason);
            assert!(!refused.reason.contains("hush"), "{written}: {}", refused.reason);
        }
    }

    #[test]
    fn free_ports_are_behind_those_that_are_taken_or_else_anywhere() {
        assert_eq!(free(&(6380..=6479), &[6380..=6479, 6480..=6480]), Some(6481..=6580));
        assert_eq!(free(&(6380..=6379 + 2), &[6381..=6381]), Some(6382..=6383));
        assert_eq!(free(&(65500..=65535), &[65535..=65535]), Some(1024..=1059));
        assert_eq!(free(&(1..=65535), &[6379..=6379]), Some(1024..=1123));
        assert_eq!(free(&(1..=65535), &[1..=65535]), None);
    }
}
