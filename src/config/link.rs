//! From variables to links: which names make one, which are passed over, and which settings go where.

mod cluster;
mod credentials;
mod lookalikes;
mod values;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

pub use self::cluster::{Cluster, shown_ports};
pub use self::credentials::{ClientAuth, Credential, Credentials, Memory, Required};
use self::lookalikes::{Lookalike, lookalikes, port_of};
use self::values::LinkSettings;
use self::variables::{Settings, secret_variables};
use super::notation::{
    DURATION, DURATION_OR_OFF, Refusal, count, duration, duration_or_off, is_off, unquoted, word,
};
use super::settings::setting;
use super::target::mend::mended;
use super::target::{Backends, Malformed, Target};
use super::{Diagnostics, Env, Process};
use crate::net::proxy_protocol::{Announcement, Header, Version};
use crate::net::tls::{Acceptor, Connector};
use crate::net::{Client, Endpoint, Interface, Listen, ListenAddress};
use crate::secret::Source;

/// One link: what listens, and what it dials.
#[derive(Debug)]
pub struct Link {
    /// The link's name in logs, errors and metrics: the alias in lower case and the port, `redis:6379`.
    pub name: String,
    /// The alias, as the variable writes it.
    pub alias: String,
    /// The port in the variable's name.
    pub port: u16,
    /// The variable.
    pub variable: String,
    /// What the variables of its credentials begin with.
    credential_prefix: String,
    /// The settings that were given, with their variables.
    settings: BTreeMap<&'static str, String>,
    /// Where clients come in.
    pub listen: Listen,
    /// What is dialled; its user information has been moved into `redis`.
    pub target: Target,
    /// For a Redis link, how a connection is prepared; `None` is a plain tunnel.
    pub redis: Option<Redis>,
    /// Every place that may be dialled, as far as the variable or its file lists them.
    pub endpoints: Vec<Endpoint>,
    /// Which of several backends is dialled.
    pub balance: Balance,
    /// How connections are treated whose backend has moved or was demoted: the time that they have to go, `None` to
    /// let them be.
    pub move_grace: Option<Duration>,
    /// TLS towards the target.
    pub tls: Option<Connector>,
    /// How ZooKeeper is spoken to, where the backends are listed there.
    pub zookeeper: ZooKeeper,
    /// TLS for clients.
    pub listen_tls: Option<Acceptor>,
    /// The networks that may connect; empty for all.
    pub allow: Vec<IpNet>,
    /// Whether a balancer says who each client is.
    pub listen_proxy_protocol: bool,
    /// In which form the target is told who each client is, if it is.
    pub proxy_protocol: Option<Version>,
    /// The time for a dial, from the name to the last reply of the handshake, and for a client's TLS.
    pub connect_timeout: Duration,
    /// How long a connection may move nothing.
    pub idle_timeout: Option<Duration>,
    /// How old a connection may grow.
    pub max_lifetime: Option<Duration>,
    /// How many connections at once, where it is not what the descriptor limit allows.
    pub max_connections: Option<usize>,
    /// Whether Kubernetes wrote it, as it does for every Service of a pod's namespace.
    pub is_from_kubernetes: bool,
}

impl Link {
    /// How many connections to keep ready.
    pub fn warm(&self) -> usize {
        self.redis.as_ref().map_or(0, |redis| redis.warm)
    }

    /// How many upstreams the clients on one thread share; 0 where each has its own.
    pub fn share(&self) -> usize {
        self.redis.as_ref().map_or(0, |redis| redis.share)
    }

    /// The database in which an upstream stands before a client has said anything.
    pub fn database(&self) -> u32 {
        self.redis.as_ref().and_then(Redis::select).unwrap_or_default()
    }

    /// Whether a client with this address may connect. `ALLOW` is not about those on Unix sockets, who have none.
    pub fn allows(&self, client: Client) -> Result<(), IpAddr> {
        match client.address() {
            Some(address)
                if !self.allow.is_empty() && !self.allow.iter().any(|network| network.contains(&address)) =>
            {
                Err(address)
            }
            _ => Ok(()),
        }
    }

    /// What the target is told of whose connection it is, if it is told that.
    pub fn announcement(&self, header: Header) -> Option<Announcement> {
        self.proxy_protocol.map(|version| Announcement { version, header })
    }

    /// What authenticates us to the target, if anything does.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.redis.as_ref()?.credentials.as_ref()
    }

    /// The variable that gives a setting, or the one that would, for remedies: a credential's variable of the alias may be
    /// for another port.
    pub fn setting(&self, name: &str) -> String {
        let own = || match setting(name) {
            Some(setting) if setting.credential => format!("{}{name}", self.credential_prefix),
            _ => format!("{}_{name}", self.alias),
        };
        self.settings.get(name).cloned().unwrap_or_else(own)
    }

    /// To write the same target as that of a Redis Cluster, or of servers that are none, for remedies.
    pub fn same_target(&self, is_cluster: bool) -> Option<String> {
        // What is written in the target is not kept with it.
        let is_in_target =
            self.credentials().is_some_and(|credentials| credentials.variable == self.variable);
        let user_information = if is_in_target { "****@" } else { "" };
        let target = self.target.as_cluster(is_cluster, self.tls.is_some(), user_information)?;
        Some(write_remedy(&self.variable, &target))
    }

    /// What to do where the target is a node of a Redis Cluster, and the link does not know of that.
    pub fn cluster_remedy(&self) -> String {
        let target = self.same_target(true).unwrap_or_else(|| {
            let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
            format!("write {}={scheme}+cluster://HOST:PORT with the address of a node", self.variable)
        });
        format!(
            "{target}, if the clients speak Redis Cluster: they then reach every node through the ambassador; else use a Redis \
             without cluster mode"
        )
    }

    /// The setting that lets it listen on another port, for remedies: one that needs no privileges and has the same last
    /// digits, and where it listens now.
    pub fn another_port(&self) -> String {
        let interface = match self.listen.addresses.first() {
            Some(ListenAddress::Tcp(Interface::All, _) | ListenAddress::Unix(_)) | None => {
                "0.0.0.0".to_owned()
            }
            Some(ListenAddress::Tcp(interface, _)) => interface.to_string(),
        };
        format!("{}_PORT_{1}_LISTEN={interface}:1{2:04}", self.alias, self.port, self.port % 10_000)
    }
}

/// How a link chooses among its backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In the order of the list; of SRV records, by their priorities and weights.
    First,
    /// Each in its turn.
    RoundRobin,
    /// The one with the fewest connections of ours, for its weight.
    LeastConnections,
}

impl FromStr for Balance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().replace('_', "-").as_str() {
            "first" => Ok(Self::First),
            // As HAProxy, nginx and Envoy call them, too.
            "round-robin" | "roundrobin" => Ok(Self::RoundRobin),
            "least-connections" | "least-conn" | "leastconn" => Ok(Self::LeastConnections),
            _ => Err(format!("\"{text}\" is none of first, round-robin and least-connections")),
        }
    }
}

/// How a Redis connection is prepared before a client's bytes may pass.
#[derive(Debug)]
pub struct Redis {
    /// What authenticates us; without it no password is sent.
    pub credentials: Option<Credentials>,
    /// The database.
    pub database: Option<u32>,
    /// The role that a backend must have.
    pub role: Option<Role>,
    /// What a client's RESET leads to.
    pub reset: Reset,
    /// Whether sessions know where commands and replies end, and may go on with another connection.
    pub sessions: bool,
    /// How many upstreams the clients on one thread share; 0 where each has its own.
    pub share: usize,
    /// After how long without a byte a session gives its connection to the target back.
    pub release_after: Option<Duration>,
    /// Whether another secret is shown on open sessions, too.
    pub reauth: bool,
    /// What becomes of a client's own authentication.
    pub client_auth: ClientAuth,
    /// How many connections to keep ready.
    pub warm: usize,
    /// How Sentinels are asked, where they are.
    pub sentinel: Access,
    /// How clients reach the nodes; `Some` exactly where the target is a Redis Cluster.
    pub cluster: Option<Cluster>,
}

impl Redis {
    /// The database to SELECT. A fresh connection stands in 0 already: to ask for it would be refused where the user may not
    /// SELECT, and by what speaks Redis without databases.
    pub fn select(&self) -> Option<u32> {
        self.database.filter(|database| *database != 0)
    }

    /// Whether a RESET would take away what a client does not know of, or have it authenticate to who does not expect it.
    pub fn loses_by_reset(&self) -> bool {
        self.credentials.is_some() || self.select().is_some() || self.absorbs_auth()
    }

    /// Where its users and passwords come from, those that clients have to show among them.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let credentials = self.credentials.as_ref();
        let of_target =
            credentials.map(|credentials| (credentials.username.as_deref(), &credentials.password));
        let of_clients = match &self.client_auth {
            ClientAuth::Require(required) => Some((required.username.as_ref(), &required.password)),
            ClientAuth::Forward | ClientAuth::Absorb => None,
        };
        let both = of_target.into_iter().chain(of_clients);
        both.flat_map(|(username, password)| username.into_iter().chain([password]))
    }

    /// Whether a client's AUTH is not for the target.
    pub fn absorbs_auth(&self) -> bool {
        !matches!(self.client_auth, ClientAuth::Forward)
    }
}

/// What a client's RESET leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// A fresh connection, prepared like the first one.
    Reauthenticate,
    /// The same connection, without user and database.
    Forward,
}

/// What a server has to be to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One that takes writes.
    Master,
    /// One that follows a master.
    Replica,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Replica => "replica",
        })
    }
}

/// What authenticates us to Sentinels.
#[derive(Debug, Default)]
pub struct Access {
    /// The ACL user.
    pub username: Option<Source>,
    /// The password.
    pub password: Option<Source>,
}

/// How ZooKeeper is spoken to.
#[derive(Debug, Default)]
pub struct ZooKeeper {
    /// `USER:PASSWORD`, what it knows us by.
    pub digest: Option<Source>,
    /// TLS towards it.
    pub tls: Option<Connector>,
}

/// A variable whose name has the form of a link's.
struct Candidate<'a> {
    variable: &'a str,
    alias: &'a str,
    port: &'a str,
}

/// Takes `<ALIAS>_PORT_<digits><suffix>` apart.
fn candidate<'a>(variable: &'a str, suffix: &str) -> Option<Candidate<'a>> {
    let (alias, port) = variable.strip_suffix(suffix)?.rsplit_once("_PORT_")?;
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    (is_alias(alias) && digits).then_some(Candidate { variable, alias, port })
}

fn is_alias(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.bytes().all(word) && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

/// Why a candidate makes no link, if it makes none.
fn ignored(alias: &str, aliases: &BTreeSet<&str>, process: &Process) -> Option<String> {
    let echo =
        alias.match_indices("_ENV_").map(|(at, _)| &alias[..at]).find(|prefix| aliases.contains(prefix));
    if let Some(origin) = echo {
        return Some(format!("it is an echo of the environment of {origin}'s container"));
    }
    match &process.aliases {
        Some(taken) if !taken.contains(&alias.to_lowercase()) => {
            Some("AMBASSADOR_LINKS does not name it".to_owned())
        }
        None if alias == "KUBERNETES" => {
            Some("Kubernetes sets it in every pod; name it in AMBASSADOR_LINKS if it is meant".to_owned())
        }
        _ => None,
    }
}

pub(super) fn parse(env: &Env, process: &Process, findings: &mut Diagnostics) -> Vec<Link> {
    let candidates: Vec<_> = env.names().filter_map(|name| candidate(name, "_TCP")).collect();
    let aliases: BTreeSet<_> = candidates.iter().map(|candidate| candidate.alias).collect();
    let secrets = secret_variables(env, &candidates);
    let mut taken = Vec::new();
    for candidate in candidates {
        match ignored(candidate.alias, &aliases, process) {
            Some(reason) => findings.ignored(candidate.variable, reason),
            None => taken.push(candidate),
        }
    }
    for udp in env.names().filter_map(|name| candidate(name, "_UDP")) {
        if ignored(udp.alias, &aliases, process).is_none() {
            findings.warning(udp.variable, "UDP is not forwarded; the variable is ignored");
        }
    }
    let drafts: Vec<Draft> =
        taken.iter().filter_map(|candidate| Draft::read(candidate, env, findings)).collect();
    let settings = Settings::collect(env, &taken, &drafts, secrets, findings);
    settings.refuse_tls_settings_without_tls(&drafts, findings);
    settings.refuse_cluster_settings_without_cluster(&drafts, findings);
    settings.refuse_zookeeper_settings_without_zookeeper(&drafts, findings);
    let links: Vec<Link> =
        drafts.into_iter().map(|draft| draft.finish(&settings, process, findings)).collect();
    warn_of_unused_names(env, &links, &taken, process, findings);
    refuse_clashes(&links, findings);
    cluster::refuse_clashes(&links, &settings, findings);
    let lookalikes = lookalikes(env);
    let is_left_out = taken.is_empty() && !aliases.is_empty() && process.aliases.is_some();
    if is_left_out {
        let aliases: Vec<_> = aliases.into_iter().map(str::to_lowercase).collect();
        findings.mistake(
            "AMBASSADOR_LINKS (--links)",
            "it names none of the links that are set, so there is nothing to listen on",
            format!("name some of them: AMBASSADOR_LINKS={}", aliases.join(",")),
        );
    } else if taken.is_empty() && lookalikes.is_empty() && !env.is_faulty() {
        findings.mistake(
            "<ALIAS>_PORT_<PORT>_TCP",
            "no link is set, so there is nothing to listen on",
            "name a target, for example: -e REDIS_PORT_6379_TCP=tcp://redis.example.com:6379 \
             -e REDIS_AUTH_FILE=/run/secrets/redis",
        );
    }
    for Lookalike { variable, reason, remedy, meant } in lookalikes {
        match meant {
            // What Docker and Kubernetes write beside a link that is left out is no slip.
            _ if taken.is_empty() && (!is_left_out || meant.is_some()) => {
                findings.mistake(variable, reason, remedy);
            }
            Some(meant) => {
                findings.warning(variable, format!("nothing reads this variable; did you mean {meant}?"));
            }
            // It may be for others.
            None => {}
        }
    }
    links
}

/// The port to show where the one in a link's name is none.
const DEFAULT_PORT: u16 = 6379;

/// To write that target, whose user information is masked.
fn write_remedy(variable: &str, target: &str) -> String {
    let unmask =
        if target.contains("****@") { ", with what stands there now in the place of ****" } else { "" };
    format!("write {variable}={target}{unmask}")
}

/// What to write instead of a value that is no target.
fn target_remedy(
    candidate: &Candidate<'_>,
    unreadable: &Target,
    setting: Option<String>,
    mended: Option<String>,
) -> String {
    let Candidate { variable, alias, port } = candidate;
    let mut remedy = if let Some(target) = mended {
        write_remedy(variable, &target)
    } else {
        let host = alias.to_lowercase().replace('_', "-");
        let scheme = match unreadable.backends {
            Backends::Cluster(_) if unreadable.scheme.is_tls() => "rediss+cluster",
            Backends::Cluster(_) => "redis+cluster",
            _ => "tcp",
        };
        format!("write for example {variable}={scheme}://{host}.example.com:{port}")
    };
    if let Some(setting) = setting {
        remedy = format!("set {alias}_{setting}, and {remedy}");
    }
    remedy
}

/// A link whose target is known and whose settings are not yet.
struct Draft {
    variable: String,
    alias: String,
    port: u16,
    target: Target,
}

impl Draft {
    fn read(candidate: &Candidate<'_>, env: &Env, findings: &mut Diagnostics) -> Option<Self> {
        let variable = candidate.variable;
        let value = unquoted(env.text(variable, findings).unwrap_or_default());
        let port = match candidate.port.parse::<u16>() {
            Ok(port) if port > 0 && !candidate.port.starts_with('0') => Some(port),
            number => {
                let meant = number.ok().filter(|port| *port > 0).unwrap_or_else(|| port_of(value));
                findings.mistake(
                    variable,
                    format!("{} is not a port from 1 to 65535", candidate.port),
                    format!("name the port to listen on, as in {}_PORT_{meant}_TCP", candidate.alias),
                );
                None
            }
        };
        let target = value.parse().unwrap_or_else(|malformed: Malformed| {
            let mended = mended(value, port.unwrap_or(DEFAULT_PORT));
            let Malformed { reason, setting } = malformed;
            let reason = format!("its value is not a target: {reason}");
            let unreadable = Target::unreadable(value);
            findings.mistake(variable, reason, target_remedy(candidate, &unreadable, setting, mended));
            unreadable
        });
        if !target.ignored.is_empty() {
            let parameters = target.ignored.join(", ");
            let message = format!(
                "{parameters} in its URL is a client's own business and says nothing here; take it out"
            );
            findings.warning(variable, message);
        }
        Some(Self { variable: variable.to_owned(), alias: candidate.alias.to_owned(), port: port?, target })
    }

    /// Whether its target could not be read, which has been reported.
    fn is_unreadable(&self) -> bool {
        matches!(&self.target.backends, Backends::Listed(endpoints) if endpoints.is_empty())
    }

    /// Whether this is the Redis port of its alias: by the name, or by what is dialled.
    fn dials(&self, port: u16) -> bool {
        match &self.target.backends {
            Backends::Listed(endpoints) | Backends::Cluster(endpoints) => {
                endpoints.iter().any(|endpoint| matches!(endpoint, Endpoint::Tcp(_, p) if *p == port))
            }
            _ => false,
        }
    }

    fn finish(self, settings: &Settings<'_>, process: &Process, findings: &mut Diagnostics) -> Link {
        let mut link = LinkSettings { settings, alias: &self.alias, port: self.port, findings };
        let mut target = self.target;
        link.follow_docker(&mut target);
        let redis = link.redis(&mut target, process);
        let (tls, zookeeper_tls) = link.tls(&self.variable, &target);
        let zookeeper = ZooKeeper { digest: link.zookeeper_digest(&target), tls: zookeeper_tls };
        link.warn_of_open_token(&target, tls.is_some());
        let listen_tls = link.listen_tls();
        if redis.is_none() {
            link.refuse_redis_settings();
        }
        let endpoints = link.endpoints(&self.variable, &target);
        let listen = link.listen(process);
        if matches!(target.backends, Backends::Cluster(_)) {
            link.refuse_unix_sockets(&listen);
        }
        let listen_proxy_protocol = link.flag("LISTEN_PROXY_PROTOCOL").unwrap_or_default();
        let proxy_protocol = link.proxy_protocol(redis.as_ref());
        let allow = link.allow(&listen, listen_proxy_protocol);
        let balance = link.value("BALANCE", balance, "write first, round-robin or least-connections");
        let grace = "write a number and a unit, such as 500ms, 5s or 0s, or off";
        let connect = |text: &str| duration(text, false);
        let move_grace = link.value("MOVE_GRACE", move_grace, grace);
        let connect_timeout = link.value("CONNECT_TIMEOUT", connect, DURATION);
        let idle_timeout = link.value("IDLE_TIMEOUT", duration_or_off, DURATION_OR_OFF);
        let max_lifetime = link.value("MAX_LIFETIME", duration_or_off, DURATION_OR_OFF);
        let max_connections =
            link.value("MAX_CONNECTIONS", count, "write a number, such as 100, or remove it");
        Link {
            name: link.name(),
            credential_prefix: link.credential_prefix(),
            settings: link.given(),
            listen,
            is_from_kubernetes: link.is_from_kubernetes(&target),
            balance: balance.unwrap_or_else(|| default_balance(&target, redis.as_ref())),
            redis,
            endpoints,
            // Long enough for what is under way, short enough that little is said to the wrong server.
            move_grace: move_grace.unwrap_or(Some(Duration::from_secs(5))),
            tls,
            zookeeper,
            listen_tls,
            allow,
            listen_proxy_protocol,
            proxy_protocol,
            connect_timeout: connect_timeout.unwrap_or(process.connect_timeout),
            idle_timeout: idle_timeout.unwrap_or(process.idle_timeout),
            max_lifetime: max_lifetime.unwrap_or(process.max_lifetime),
            max_connections: max_connections.or(process.max_connections),
            alias: self.alias,
            port: self.port,
            variable: self.variable,
            target,
        }
    }
}

fn default_balance(target: &Target, redis: Option<&Redis>) -> Balance {
    match (&target.backends, redis) {
        (Backends::Sentinel { .. }, Some(Redis { role: Some(Role::Replica), .. }))
        | (Backends::Listed(_) | Backends::File(_) | Backends::ZooKeeper { .. } | Backends::Mdns(_), None)
        | (Backends::Cluster(_), _) => Balance::RoundRobin,
        _ => Balance::First,
    }
}

fn move_grace(text: &str) -> Result<Option<Duration>, Refusal> {
    if is_off(text) { Ok(None) } else { duration(text, true).map(Some) }
}

fn balance(text: &str) -> Result<Balance, Refusal> {
    text.parse().map_err(Refusal::from)
}

fn reset(text: &str) -> Result<Reset, Refusal> {
    match word(text).as_str() {
        "reauth" => Ok(Reset::Reauthenticate),
        "forward" => Ok(Reset::Forward),
        _ => Err(format!("\"{text}\" is neither reauth nor forward").into()),
    }
}

fn on_or_off(text: &str) -> Result<bool, Refusal> {
    match word(text).as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err(format!("\"{text}\" is neither on nor off").into()),
    }
}

fn proxy_version(text: &str) -> Result<Version, Refusal> {
    match word(text).as_str() {
        "v1" => Ok(Version::One),
        "v2" => Ok(Version::Two),
        "1" => Err(Refusal::instead(format!("\"{text}\" is neither v1 nor v2"), "v1")),
        _ => Err(format!("\"{text}\" is neither v1 nor v2").into()),
    }
}

fn role(text: &str) -> Result<Role, Refusal> {
    match word(text).as_str() {
        "master" | "primary" => Ok(Role::Master),
        "replica" | "slave" => Ok(Role::Replica),
        _ => Err(format!("\"{text}\" is neither master nor replica").into()),
    }
}

/// `REDIS_AUTH` without any Redis link, and aliases that `AMBASSADOR_LINKS` names in vain.
fn warn_of_unused_names(
    env: &Env,
    links: &[Link],
    taken: &[Candidate<'_>],
    process: &Process,
    findings: &mut Diagnostics,
) {
    let unused =
        links.iter().all(|link| link.redis.is_none()) && !taken.iter().any(|link| link.alias == "REDIS");
    for name in ["REDIS_AUTH", "REDIS_AUTH_FILE", "REDIS_AUTH_COMMAND", "REDIS_AUTH_PROVIDER"] {
        if unused && env.contains(name) {
            findings.warning(
                name,
                "there is no Redis link that would use it; did you mean to set REDIS_PORT_6379_TCP=tcp://HOST:6379?",
            );
        }
    }
    for alias in process.aliases.iter().flatten() {
        if !taken.iter().any(|link| link.alias.to_lowercase() == *alias) {
            findings.warning(
                "AMBASSADOR_LINKS",
                format!("it names {alias}, but no {}_PORT_<PORT>_TCP is set", alias.to_uppercase()),
            );
        }
    }
}

fn refuse_clashes(links: &[Link], findings: &mut Diagnostics) {
    for (index, link) in links.iter().enumerate() {
        let before = &links[..index];
        if let Some(other) = before.iter().find(|other| other.listen.clashes_with(&link.listen)) {
            findings.mistake(
                &link.variable,
                format!("it listens on {}, and so does {} ({})", link.listen, other.variable, other.listen),
                clash_remedy(link, other),
            );
        }
        if let Some(endpoint) = link.endpoints.iter().find(|endpoint| link.listen.answers(endpoint)) {
            findings.mistake(
                &link.variable,
                format!("it listens on {} and dials {endpoint}, which is itself", link.listen),
                format!("name the real target, or listen elsewhere, as in {}", link.another_port()),
            );
        }
    }
}

/// Kubernetes makes links of Services that nobody means; those are better not there than on another port.
fn clash_remedy(link: &Link, other: &Link) -> String {
    let elsewhere = format!("as in {}", link.another_port());
    let (meant, strange) = match (link.is_from_kubernetes, other.is_from_kubernetes) {
        (true, false) => (other, link),
        (false, true) => (link, other),
        (true, true) => {
            return format!(
                "set enableServiceLinks: false in the pod, so that Kubernetes makes no links of its Services, and set the \
                 ones you mean; or take only one of them, AMBASSADOR_LINKS={} or AMBASSADOR_LINKS={}; or give one of them \
                 another port, {elsewhere}",
                other.alias.to_lowercase(),
                link.alias.to_lowercase()
            );
        }
        (false, false) => return format!("give one of them another port, {elsewhere}"),
    };
    format!(
        "{} is a Service that Kubernetes made a link of: set enableServiceLinks: false in the pod, or take the other alone \
         with AMBASSADOR_LINKS={}; or give one of them another port, {elsewhere}",
        strange.alias,
        meant.alias.to_lowercase()
    )
}
