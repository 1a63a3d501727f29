//! From variables to links: which names make one, which are passed over, and which settings go where.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::RootCertStore;

use super::settings::{NOT_YET, OF_TLS, SETTINGS, Scope, near_miss, setting};
use super::target::{Backends, Endpoint, Host, Malformed, Scheme, Target, database};
use super::{Env, Findings, Process, count, duration, duration_or_off};
use crate::backends::{Balance, file};
use crate::secret::{LONGEST, Secret, SecretFile, Source, without_line_ending};
use crate::tls::{
    Acceptor, Connector, Files, Identity, Part, Trust, Unusable, parse_server_name, server_name,
    system_authorities,
};

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
    /// TLS for clients.
    pub listen_tls: Option<Acceptor>,
    /// The networks that may connect; empty for all.
    pub allow: Vec<IpNet>,
    /// The time for a dial, from the name to the last reply of the handshake, and for a client's TLS.
    pub connect_timeout: Duration,
    /// How long a connection may move nothing.
    pub idle_timeout: Option<Duration>,
    /// How old a connection may grow.
    pub max_lifetime: Option<Duration>,
    /// How many connections at once, where it is not what the descriptor limit allows.
    pub max_connections: Option<usize>,
}

/// How a Redis connection is prepared before a client's bytes may pass.
#[derive(Debug)]
pub struct Redis {
    /// The ACL user.
    pub username: Option<Source>,
    /// The password.
    pub password: Option<Source>,
    /// The variable that gave the password, for remedies.
    pub password_variable: Option<String>,
    /// The database.
    pub database: Option<u32>,
    /// The role that a backend must have.
    pub role: Option<Role>,
    /// How Sentinels are asked, where they are.
    pub sentinel: Access,
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

/// Where clients come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// This port on every address, IPv6 and IPv4.
    Everywhere(u16),
    /// One address.
    Address(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere(port) => write!(f, "*:{port}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    fn port(&self) -> Option<u16> {
        match self {
            Self::Everywhere(port) => Some(*port),
            Self::Address(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }

    /// Whether both can't be bound at the same time; port 0 is any free one.
    fn clashes_with(&self, other: &Self) -> bool {
        if let (Self::Unix(a), Self::Unix(b)) = (self, other) {
            return a == b;
        }
        let (Some(a), Some(b)) = (self.port(), other.port()) else {
            return false;
        };
        let wide = |listen: &Self| match listen {
            Self::Address(address) => address.ip().is_unspecified(),
            _ => true,
        };
        a == b && a != 0 && (wide(self) || wide(other) || self == other)
    }

    /// Whether a dial to `endpoint` would come straight back.
    fn answers(&self, endpoint: &Endpoint) -> bool {
        match (self, endpoint) {
            (Self::Unix(listen), Endpoint::Unix(dialled)) => listen == dialled,
            (listen, Endpoint::Tcp(host, port)) if listen.port() == Some(*port) => {
                let address = match host {
                    Host::Address(address) | Host::Linked { address, .. } => *address,
                    Host::Name(name) if name == "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    Host::Name(_) => return false,
                };
                match listen {
                    Self::Address(bound) if !bound.ip().is_unspecified() => bound.ip() == address,
                    _ => address.is_loopback() || address.is_unspecified(),
                }
            }
            _ => false,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let written = || format!("\"{text}\" is neither ADDRESS:PORT nor unix:/PATH");
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///PATH` is what the same place is called as a target.
            let path = path.strip_prefix("//").unwrap_or(path);
            let absolute = path.starts_with('/') && !path.ends_with('/');
            return absolute.then(|| Self::Unix(PathBuf::from(path))).ok_or_else(written);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(written)?;
        let port = port.parse().map_err(|_| written())?;
        match host {
            "" | "*" => Ok(Self::Everywhere(port)),
            "localhost" => Ok(Self::Address((Ipv4Addr::LOCALHOST, port).into())),
            _ => Err(written()),
        }
    }
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
fn passed_over(alias: &str, aliases: &BTreeSet<&str>, process: &Process) -> Option<String> {
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

pub(super) fn parse(env: &Env, process: &Process, findings: &mut Findings) -> Vec<Link> {
    let candidates: Vec<_> = env.names().filter_map(|name| candidate(name, "_TCP")).collect();
    let aliases: BTreeSet<_> = candidates.iter().map(|candidate| candidate.alias).collect();
    let mut taken = Vec::new();
    for candidate in candidates {
        match passed_over(candidate.alias, &aliases, process) {
            Some(reason) => findings.ignored(candidate.variable, reason),
            None => taken.push(candidate),
        }
    }
    for udp in env.names().filter_map(|name| candidate(name, "_UDP")) {
        if passed_over(udp.alias, &aliases, process).is_none() {
            findings.warning(udp.variable, "UDP is not forwarded; the variable is passed over");
        }
    }
    let drafts: Vec<Draft> =
        taken.iter().filter_map(|candidate| Draft::read(candidate, env, findings)).collect();
    let settings = Settings::collect(env, &taken, &drafts, findings);
    settings.refuse_tls_settings_without_tls(&drafts, findings);
    let links: Vec<Link> =
        drafts.into_iter().map(|draft| draft.finish(&settings, process, findings)).collect();
    warn_of_unused_names(env, &links, &taken, process, findings);
    refuse_clashes(&links, findings);
    if taken.is_empty() && !aliases.is_empty() && process.aliases.is_some() {
        let aliases: Vec<_> = aliases.into_iter().map(str::to_lowercase).collect();
        findings.mistake(
            "AMBASSADOR_LINKS (--links)",
            "it names none of the links that are set, so there is nothing to listen on",
            format!("name some of them: AMBASSADOR_LINKS={}", aliases.join(",")),
        );
    } else if taken.is_empty() {
        findings.mistake(
            "<ALIAS>_PORT_<PORT>_TCP",
            "no link is set, so there is nothing to listen on",
            "name a target, for example: -e REDIS_PORT_6379_TCP=tcp://redis.example.com:6379 \
             -e REDIS_AUTH_FILE=/run/secrets/redis",
        );
    }
    links
}

/// A link whose target is known and whose settings are not yet.
struct Draft {
    variable: String,
    alias: String,
    port: u16,
    target: Target,
}

impl Draft {
    fn read(candidate: &Candidate<'_>, env: &Env, findings: &mut Findings) -> Option<Self> {
        let variable = candidate.variable;
        let port = match candidate.port.parse::<u16>() {
            Ok(port) if port > 0 && !candidate.port.starts_with('0') => Some(port),
            _ => {
                findings.mistake(
                    variable,
                    format!("{} is not a port from 1 to 65535", candidate.port),
                    format!("name the port to listen on, as in {}_PORT_6379_TCP", candidate.alias),
                );
                None
            }
        };
        let value = text(env, variable, findings).unwrap_or_default().trim();
        let target = value.parse().unwrap_or_else(|reason: Malformed| {
            findings.mistake(
                variable,
                format!("its value is not a target: {reason}"),
                format!("write for example {variable}=tcp://redis.example.com:6379"),
            );
            Target::unreadable(value)
        });
        Some(Self { variable: variable.to_owned(), alias: candidate.alias.to_owned(), port: port?, target })
    }

    /// Whether this is the Redis port of its alias: by the name, or by what is dialled.
    fn dials(&self, port: u16) -> bool {
        match &self.target.backends {
            Backends::Listed(endpoints) => {
                endpoints.iter().any(|endpoint| matches!(endpoint, Endpoint::Tcp(_, p) if *p == port))
            }
            _ => false,
        }
    }

    fn finish(self, settings: &Settings<'_>, process: &Process, findings: &mut Findings) -> Link {
        let mut link = LinkSettings { settings, alias: &self.alias, port: self.port, findings };
        let mut target = self.target;
        link.follow_docker(&mut target);
        let redis = link.redis(&mut target);
        let tls = link.tls(&self.variable, &target);
        let listen_tls = link.listen_tls();
        if redis.is_none() {
            link.refuse_redis_settings();
        }
        let endpoints = link.endpoints(&self.variable, &target);
        let role = redis.as_ref().and_then(|redis| redis.role);
        let default_balance = match (&target.backends, &redis) {
            (Backends::Sentinel { .. }, _) if role == Some(Role::Replica) => Balance::RoundRobin,
            (Backends::Listed(_) | Backends::File(_), None) => Balance::RoundRobin,
            _ => Balance::First,
        };
        let listen = link.value("LISTEN", Listen::parse, || {
            "write for example 127.0.0.1:6379, [::1]:6379 or unix:/run/redis.sock".to_owned()
        });
        let allow = link.allow(listen.as_ref());
        let timeout = || "write a number and a unit, such as 500ms, 5s or 1h".to_owned();
        let timeout_or_off = || "write a number and a unit, such as 500ms, 5s or 1h, or off".to_owned();
        Link {
            name: link.name(),
            listen: listen.unwrap_or(match process.bind {
                Some(address) => Listen::Address((address, self.port).into()),
                None => Listen::Everywhere(self.port),
            }),
            redis,
            endpoints,
            balance: link
                .value("BALANCE", str::parse, || "write first, round-robin or least-connections".to_owned())
                .unwrap_or(default_balance),
            move_grace: link
                .value("MOVE_GRACE", move_grace, || {
                    "write a number and a unit, such as 500ms, 5s or 0s, or off".to_owned()
                })
                // Long enough for what is under way, short enough that little is said to the wrong server.
                .unwrap_or(Some(Duration::from_secs(5))),
            tls,
            listen_tls,
            allow,
            connect_timeout: link
                .value("CONNECT_TIMEOUT", |text| duration(text, false), timeout)
                .unwrap_or(process.connect_timeout),
            idle_timeout: link
                .value("IDLE_TIMEOUT", duration_or_off, timeout_or_off)
                .unwrap_or(process.idle_timeout),
            max_lifetime: link
                .value("MAX_LIFETIME", duration_or_off, timeout_or_off)
                .unwrap_or(process.max_lifetime),
            max_connections: link
                .value("MAX_CONNECTIONS", count, || "write a number, such as 100".to_owned())
                .or(process.max_connections),
            alias: self.alias,
            port: self.port,
            variable: self.variable,
            target,
        }
    }
}

fn move_grace(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" => Ok(None),
        text => duration(text, true).map(Some),
    }
}

fn role(text: &str) -> Result<Role, String> {
    match text {
        "master" | "primary" => Ok(Role::Master),
        "replica" | "slave" => Ok(Role::Replica),
        _ => Err(format!("\"{text}\" is neither master nor replica")),
    }
}

/// A variable's value as text.
fn text<'a>(env: &'a Env, variable: &str, findings: &mut Findings) -> Option<&'a str> {
    let bytes = env.bytes(variable)?;
    let text = std::str::from_utf8(bytes).ok();
    if text.is_none() {
        findings.mistake(variable, "its value is not UTF-8", "write it in plain text");
    }
    text
}

/// Who a setting's variable speaks to.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Address<'a> {
    alias: &'a str,
    /// `None` for the alias-wide form.
    port: Option<u16>,
    setting: &'static str,
}

/// The variables of all settings, each with the link or alias that it speaks to.
struct Settings<'a> {
    env: &'a Env,
    variables: BTreeMap<Address<'a>, &'a str>,
    /// The one port of each alias that its alias-wide credentials go to.
    credential_ports: BTreeMap<&'a str, u16>,
    /// The authorities of the system, read when the first link needs them.
    system_authorities: OnceCell<Result<Arc<RootCertStore>, String>>,
}

impl<'a> Settings<'a> {
    fn collect(
        env: &'a Env,
        taken: &[Candidate<'a>],
        drafts: &[Draft],
        findings: &mut Findings,
    ) -> Settings<'a> {
        // The longest first: REDIS_CACHE_AUTH speaks to REDIS_CACHE, where there is one, and not to REDIS.
        let mut aliases: Vec<&str> = taken.iter().map(|candidate| candidate.alias).collect();
        aliases.sort_by_key(|alias| (std::cmp::Reverse(alias.len()), *alias));
        aliases.dedup();
        let mut settings = Settings {
            env,
            variables: BTreeMap::new(),
            credential_ports: BTreeMap::new(),
            system_authorities: OnceCell::new(),
        };
        for variable in env.names() {
            settings.place(variable, &aliases, taken, findings);
        }
        for alias in aliases {
            settings.choose_credential_port(alias, drafts, findings);
        }
        settings
    }

    /// Finds out who `variable` speaks to, if to any link at all.
    fn place(
        &mut self,
        variable: &'a str,
        aliases: &[&'a str],
        taken: &[Candidate<'a>],
        findings: &mut Findings,
    ) {
        let mut slip = None;
        for alias in aliases {
            let Some(rest) = variable.strip_prefix(alias).and_then(|rest| rest.strip_prefix('_')) else {
                continue;
            };
            let (port, name) = match port_and_name(rest) {
                Some((port, name)) => (Some(port), name),
                None => (None, rest),
            };
            if NOT_YET.contains(&name) {
                findings.mistake(
                    variable,
                    format!("this version does not know the setting {name} yet"),
                    format!("remove {variable}"),
                );
                return;
            }
            if let Some(setting) = setting(name) {
                if let Some(port) = port
                    && !taken.iter().any(|link| link.alias == *alias && link.port == port)
                {
                    findings.mistake(
                        variable,
                        format!("there is no link {alias}_PORT_{port}_TCP for this setting to apply to"),
                        format!("set {alias}_PORT_{port}_TCP, or name the port of a link that is there"),
                    );
                    return;
                }
                let address = Address {
                    alias,
                    // One that is out of range has been reported with its link.
                    port: port.and_then(|port| port.parse().ok()),
                    setting: setting.name,
                };
                self.variables.insert(address, variable);
                return;
            }
            if slip.is_none() && !is_companion(rest) {
                let meant = near_miss(name);
                slip = meant.map(|meant| format!("{}{meant}", variable.strip_suffix(name).unwrap_or("")));
            }
        }
        if let Some(meant) = slip {
            findings.warning(variable, format!("nothing reads this variable; did you mean {meant}?"));
        }
    }

    /// Credentials are never sent to a port that was not meant: of several ports it is the Redis one, or none.
    fn choose_credential_port(&mut self, alias: &'a str, drafts: &[Draft], findings: &mut Findings) {
        let of_alias: Vec<_> = drafts.iter().filter(|draft| draft.alias == alias).collect();
        let by_name = of_alias.iter().find(|draft| draft.port == 6379);
        let by_target: Vec<_> = of_alias.iter().filter(|draft| draft.dials(6379)).collect();
        let port = match (&of_alias[..], by_name, &by_target[..]) {
            ([only], _, _) => only.port,
            (_, Some(named), _) => named.port,
            (_, None, [dialled]) => dialled.port,
            _ => {
                let is_redis = of_alias.iter().any(|draft| {
                    draft.target.scheme.is_redis()
                        || ["AUTH", "AUTH_FILE"]
                            .iter()
                            .any(|name| self.at_port(alias, draft.port, name).is_some())
                });
                self.refuse_credentials_without_port(alias, &of_alias, is_redis, findings);
                return;
            }
        };
        self.credential_ports.insert(alias, port);
    }

    fn refuse_credentials_without_port(
        &self,
        alias: &str,
        drafts: &[&Draft],
        is_redis: bool,
        findings: &mut Findings,
    ) {
        let Some(port) = drafts.first().map(|draft| draft.port) else {
            return;
        };
        for setting in SETTINGS.iter().filter(|setting| setting.credential) {
            let Some(variable) = self.alias_wide(alias, setting.name) else {
                continue;
            };
            let name = setting.name;
            if setting.scope == Scope::RedisCommonName && !is_redis {
                findings.warning(variable, format!("{alias} has no Redis link; the variable is passed over"));
            } else {
                findings.mistake(
                    variable,
                    format!("{alias} has several ports and none of them alone is 6379, so it is not clear which one is meant"),
                    format!("name the port, as in {alias}_PORT_{port}_{name}"),
                );
            }
        }
    }

    /// A setting of TLS for a target that is spoken to in clear would be silently without effect. One for the whole
    /// alias needs one link of it that has TLS.
    fn refuse_tls_settings_without_tls(&self, drafts: &[Draft], findings: &mut Findings) {
        let mut refuse = |alias: &str, variable: Option<&str>| {
            if let Some(variable) = variable {
                findings.mistake(
                    variable,
                    "there is no TLS towards the target, and this is a setting of it",
                    format!("write rediss:// or tls://, or set {alias}_TLS=true, or remove {variable}"),
                );
            }
        };
        let mut without: BTreeSet<&str> = drafts.iter().map(|draft| draft.alias.as_str()).collect();
        for draft in drafts {
            if self.asks_for_tls(draft) {
                without.remove(draft.alias.as_str());
                continue;
            }
            for name in OF_TLS {
                refuse(&draft.alias, self.at_port(&draft.alias, draft.port, name));
            }
        }
        for alias in without {
            for name in OF_TLS {
                refuse(alias, self.alias_wide(alias, name));
            }
        }
    }

    fn asks_for_tls(&self, draft: &Draft) -> bool {
        let variable =
            self.at_port(&draft.alias, draft.port, "TLS").or_else(|| self.alias_wide(&draft.alias, "TLS"));
        let value = variable.and_then(|variable| self.env.bytes(variable));
        // A value that is no yes and no no is a mistake of its own.
        draft.target.scheme.is_tls() || value.is_some_and(|value| value.trim_ascii() != b"false")
    }

    fn at_port(&self, alias: &str, port: u16, name: &'static str) -> Option<&'a str> {
        let address = Address { alias, port: Some(port), setting: name };
        self.variables.get(&address).copied()
    }

    fn alias_wide(&self, alias: &str, name: &'static str) -> Option<&'a str> {
        let address = Address { alias, port: None, setting: name };
        self.variables.get(&address).copied()
    }
}

/// `PORT_<digits>_<NAME>` taken apart.
fn port_and_name(rest: &str) -> Option<(&str, &str)> {
    let (port, name) = rest.strip_prefix("PORT_")?.split_once('_')?;
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    digits.then_some((port, name))
}

/// What Docker and Kubernetes set beside a link.
fn is_companion(rest: &str) -> bool {
    let beside_a_port = port_and_name(rest).is_some_and(|(_, name)| {
        name.starts_with("TCP") || name.starts_with("UDP") || name.starts_with("SCTP")
    });
    beside_a_port
        || rest == "PORT"
        || rest == "NAME"
        || rest.starts_with("ENV_")
        || rest.starts_with("SERVICE_")
}

/// The settings of one link, while it is being built.
struct LinkSettings<'a, 'b> {
    settings: &'a Settings<'a>,
    alias: &'b str,
    port: u16,
    findings: &'b mut Findings,
}

impl<'a> LinkSettings<'a, '_> {
    /// The variable that gives a setting: the port's own wins over the alias-wide one.
    fn variable(&self, name: &'static str) -> Option<&'a str> {
        self.settings.at_port(self.alias, self.port, name).or_else(|| self.alias_wide(name))
    }

    /// The alias-wide variable, where it applies to this port.
    fn alias_wide(&self, name: &'static str) -> Option<&'a str> {
        let meant = setting(name).is_none_or(|setting| !setting.credential)
            || self.settings.credential_ports.get(self.alias) == Some(&self.port);
        meant.then(|| self.settings.alias_wide(self.alias, name)).flatten()
    }

    /// Of two variables that say the same in two ways, the one that applies; both on one level is a mistake.
    fn one_of(&mut self, inline: &'static str, file: &'static str) -> Option<(&'a str, bool)> {
        let levels = [
            (
                self.settings.at_port(self.alias, self.port, inline),
                self.settings.at_port(self.alias, self.port, file),
            ),
            (self.alias_wide(inline), self.alias_wide(file)),
        ];
        for level in levels {
            match level {
                (Some(inline), Some(file)) => {
                    self.findings.mistake(
                        inline,
                        format!("{file} is set too, and they say the same thing"),
                        format!("remove {inline} or {file}"),
                    );
                    return None;
                }
                (Some(variable), None) => return Some((variable, false)),
                (None, Some(variable)) => return Some((variable, true)),
                (None, None) => {}
            }
        }
        None
    }

    fn value<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
        remedy: impl FnOnce() -> String,
    ) -> Option<T> {
        let variable = self.variable(name)?;
        let text = text(self.settings.env, variable, self.findings)?;
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.findings.mistake(variable, reason, remedy());
                None
            }
        }
    }

    /// How connections are prepared, if this is a Redis link at all.
    fn redis(&mut self, target: &mut Target) -> Option<Redis> {
        let password = self.one_of("AUTH", "AUTH_FILE");
        let scheme = target.scheme;
        let unix_redis = scheme.is_redis();
        if !(unix_redis || scheme == Scheme::Tcp && password.is_some()) {
            if let (Some((variable, _)), Scheme::Tls | Scheme::Unix) = (password, scheme) {
                let (is, should_be) = match scheme {
                    Scheme::Tls => ("tls://", "rediss://"),
                    _ => ("unix://", "redis+unix://"),
                };
                self.findings.mistake(
                    variable,
                    format!("the link is a plain tunnel ({is}), which can't send a password"),
                    format!("write {should_be} if the target is a Redis server, or remove {variable}"),
                );
            }
            return None;
        }
        let password_source = self.source(password, target.password.take().map(Arc::new), "password");
        let password_variable = password.map(|(variable, _)| variable.to_owned());
        let username = self.one_of("USERNAME", "USERNAME_FILE");
        let username_source = self.source(username, target.username.take().map(Arc::new), "user");
        let database = self.database(target.database);
        if password_source.is_none()
            && let Some((variable, _)) = username
        {
            self.findings.mistake(
                variable,
                "a user without a password can't authenticate",
                format!("set {}_AUTH_FILE, or remove {variable}", self.alias),
            );
        } else if password_source.is_none() && username_source.is_some() {
            self.findings.mistake(
                &format!("{}_PORT_{}_TCP", self.alias, self.port),
                "its URL has a user but no password",
                format!("set {}_AUTH_FILE, or take the user out of the URL", self.alias),
            );
        }
        let asks_sentinel = matches!(target.backends, Backends::Sentinel { .. });
        let role = self.value("ROLE", role, || "write master or replica".to_owned());
        Some(Redis {
            username: username_source,
            password: password_source,
            password_variable,
            database,
            // What a Sentinel says may be old; the server itself is asked too.
            role: role.or(asks_sentinel.then_some(Role::Master)),
            sentinel: self.sentinel_access(asks_sentinel),
        })
    }

    /// How Sentinels are asked; without any, their settings are mistakes.
    fn sentinel_access(&mut self, asks_sentinel: bool) -> Access {
        let password = self.one_of("SENTINEL_AUTH", "SENTINEL_AUTH_FILE");
        let username = self.variable("SENTINEL_USERNAME").map(|variable| (variable, false));
        if !asks_sentinel {
            for (variable, _) in [password, username].into_iter().flatten() {
                self.findings.mistake(
                    variable,
                    "the link's target names no Sentinels",
                    format!("write redis+sentinel://HOST:26379/SERVICE as the target, or remove {variable}"),
                );
            }
            return Access::default();
        }
        if let (None, Some((variable, _))) = (password, username) {
            self.findings.mistake(
                variable,
                "a user without a password can't authenticate",
                format!("set {}_SENTINEL_AUTH_FILE, or remove {variable}", self.alias),
            );
        }
        Access {
            password: self.source(password, None, "password"),
            username: self.source(username, None, "user"),
        }
    }

    /// Docker freezes an address in the variable, but keeps the alias in the hosts file up to date. What it writes
    /// beside the variable shows that it was Docker: the link's name, and the same address once more.
    fn follow_docker(&mut self, target: &mut Target) {
        let env = self.settings.env;
        let text = |name: String| env.bytes(&name).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let (Some(name), Some(written)) = (
            text(format!("{}_NAME", self.alias)),
            text(format!("{}_PORT_{}_TCP_ADDR", self.alias, self.port)),
        ) else {
            return;
        };
        if let Backends::Listed(endpoints) = &mut target.backends
            && let [Endpoint::Tcp(host, _)] = &mut endpoints[..]
            && let Host::Address(address) = *host
            && written.parse() == Ok(address)
        {
            // `/consumer/alias`; in the variables' names the alias has other letters.
            let alias = match name.rsplit_once('/') {
                Some((_, alias)) if !alias.is_empty() => alias.to_owned(),
                _ => self.alias.to_lowercase(),
            };
            *host = Host::Linked { alias, address };
        }
    }

    /// The places to dial that the target or its file lists.
    fn endpoints(&mut self, variable: &str, target: &Target) -> Vec<Endpoint> {
        match &target.backends {
            Backends::Listed(endpoints) => endpoints.clone(),
            Backends::File(path) => file::read(path, target.scheme.default_port()).unwrap_or_else(|error| {
                self.findings.mistake(
                    variable,
                    error.to_string(),
                    format!(
                        "mount a file there that user {} may read, with one HOST:PORT a line",
                        rustix::process::geteuid().as_raw()
                    ),
                );
                Vec::new()
            }),
            Backends::Srv(_) | Backends::Sentinel { .. } => Vec::new(),
        }
    }

    /// The source behind a variable or a URL's user information; both is a mistake.
    fn source(
        &mut self,
        variable: Option<(&'a str, bool)>,
        url: Option<Arc<Secret>>,
        what: &str,
    ) -> Option<Source> {
        let (variable, is_file) = match (variable, url) {
            (Some((variable, _)), Some(_)) => {
                self.findings.mistake(
                    variable,
                    format!("the target's URL has a {what} too"),
                    format!("take the {what} out of the URL, or remove {variable}"),
                );
                return None;
            }
            (None, url) => return url.map(Source::Url),
            (Some(variable), None) => variable,
        };
        let value = self.settings.env.bytes(variable)?;
        let value = if is_file { value } else { without_line_ending(value) };
        if value.is_empty() {
            self.findings.mistake(
                variable,
                "it is set, but empty",
                format!("give it a value, or remove {variable}"),
            );
            return None;
        }
        if is_file {
            let path = PathBuf::from(OsString::from_vec(value.to_vec()));
            return match SecretFile::open(path) {
                Ok(file) => Some(Source::File(file)),
                Err(error) => {
                    self.findings.mistake(
                        variable,
                        error.to_string(),
                        format!(
                            "mount a file there that user {} may read and that holds the {what}",
                            rustix::process::geteuid().as_raw()
                        ),
                    );
                    None
                }
            };
        }
        if value.len() > LONGEST {
            self.findings.mistake(
                variable,
                format!("it is longer than {LONGEST} bytes, the most that a Redis server takes"),
                "give it the right value",
            );
            return None;
        }
        Some(Source::Variable(Arc::new(Secret::new(value.to_vec()))))
    }

    fn database(&mut self, of_url: Option<u32>) -> Option<u32> {
        let Some(variable) = self.variable("DB") else {
            return of_url;
        };
        if of_url.is_some() {
            self.findings.mistake(
                variable,
                "the target's URL names a database too",
                format!("take the database out of the URL, or remove {variable}"),
            );
            return None;
        }
        self.value(
            "DB",
            |text| database(text).ok_or_else(|| "it is not the number of a database".to_owned()),
            || "write a number, such as 0".to_owned(),
        )
    }

    fn flag(&mut self, name: &'static str) -> Option<bool> {
        let parse = |text: &str| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("\"{text}\" is neither true nor false")),
        };
        self.value(name, parse, || "write true or false".to_owned())
    }

    fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        let variable = self.variable(name)?;
        let value = self.settings.env.bytes(variable)?;
        if value.is_empty() {
            self.findings.mistake(
                variable,
                "it is set, but empty",
                format!("give it the path of a file, or remove {variable}"),
            );
            return None;
        }
        Some(PathBuf::from(OsString::from_vec(value.to_vec())))
    }

    /// A certificate and its key, which are nothing without each other.
    fn identity(&mut self, certificate_name: &'static str, key_name: &'static str) -> Option<Identity> {
        let (certificate, key) = (self.path(certificate_name), self.path(key_name));
        let (given, name, missing) = match (self.variable(certificate_name), self.variable(key_name)) {
            (Some(given), None) => (given, certificate_name, key_name),
            (None, Some(given)) => (given, key_name, certificate_name),
            _ => return Some(Identity { certificate: certificate?, key: key? }),
        };
        let missing = given.replace(name, missing);
        self.findings.mistake(
            given,
            format!("{missing} is not set, and a certificate goes with its key"),
            format!("set {missing} too, or remove {given}"),
        );
        None
    }

    fn unusable(&mut self, unusable: &Unusable, names: [&'static str; 3]) {
        let [authorities, certificate, key] = names;
        let variable = self.variable(match unusable.part {
            Part::Authorities => authorities,
            Part::Certificate => certificate,
            Part::Key => key,
        });
        let remedy =
            format!("{}, for user {} to read", unusable.remedy(), rustix::process::geteuid().as_raw());
        self.findings.mistake(variable.unwrap_or(authorities), unusable.to_string(), remedy);
    }

    fn name(&self) -> String {
        format!("{}:{}", self.alias.to_lowercase(), self.port)
    }

    /// TLS towards the target, if it is asked for.
    fn tls(&mut self, link_variable: &str, target: &Target) -> Option<Connector> {
        let asked = self.flag("TLS");
        let variable = self.variable("TLS").unwrap_or(link_variable);
        let is_unix =
            matches!(&target.backends, Backends::Listed(all) if matches!(all[..], [Endpoint::Unix(_)]));
        match asked {
            Some(false) if target.scheme.is_tls() => {
                self.findings.mistake(
                    variable,
                    "the target's scheme asks for TLS",
                    format!("write redis:// or tcp://, or remove {variable}"),
                );
                return None;
            }
            Some(true) if is_unix => {
                self.findings.mistake(
                    variable,
                    "the target is a Unix socket, which nobody speaks TLS on",
                    format!("remove {variable}"),
                );
                return None;
            }
            Some(true) => {}
            _ if target.scheme.is_tls() => {}
            _ => return None,
        }
        if is_unix {
            self.findings.mistake(
                link_variable,
                "the target is a Unix socket, which nobody speaks TLS on",
                "write redis+unix://",
            );
            return None;
        }
        let files = Files {
            authorities: self.path("TLS_CA_FILE"),
            identity: self.identity("TLS_CERT_FILE", "TLS_KEY_FILE"),
        };
        let name = self.value("TLS_SERVER_NAME", parse_server_name, || {
            "write the name or the address that the target's certificate has".to_owned()
        });
        if let (Backends::Listed(endpoints), None) = (&target.backends, self.variable("TLS_SERVER_NAME")) {
            for endpoint in endpoints {
                if let Err(reason) = server_name(endpoint) {
                    self.findings.mistake(
                        link_variable,
                        reason,
                        format!(
                            "set {}_TLS_SERVER_NAME to the name that the target's certificate has",
                            self.alias
                        ),
                    );
                }
            }
        }
        let trust = match self.flag("TLS_INSECURE") {
            Some(true) => {
                self.warn_of_insecurity(&files);
                Trust::Anyone
            }
            _ if files.authorities.is_some() => Trust::Verified(Arc::new(RootCertStore::empty())),
            // One that was meant, and has been reported.
            _ if self.variable("TLS_CA_FILE").is_some() => return None,
            _ => Trust::Verified(self.system_authorities(link_variable)?),
        };
        match Connector::new(self.name(), files, trust, name) {
            Ok(connector) => Some(connector),
            Err(unusable) => {
                self.unusable(&unusable, ["TLS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE"]);
                None
            }
        }
    }

    fn warn_of_insecurity(&mut self, files: &Files) {
        let Some(variable) = self.variable("TLS_INSECURE") else {
            return;
        };
        let ca_file = match files.authorities {
            Some(_) => format!("; {}_TLS_CA_FILE has no effect", self.alias),
            None => String::new(),
        };
        self.findings.warning(
            variable,
            format!(
                "the target of {} is not verified: anyone in between can read and change everything, passwords too{ca_file}",
                self.name()
            ),
        );
    }

    fn system_authorities(&mut self, link_variable: &str) -> Option<Arc<RootCertStore>> {
        match self.settings.system_authorities.get_or_init(system_authorities) {
            Ok(authorities) => Some(Arc::clone(authorities)),
            Err(reason) => {
                self.findings.mistake(
                    link_variable,
                    format!("the certificate authorities of the system can't be had: {reason}"),
                    format!("set {}_TLS_CA_FILE, or install ca-certificates", self.alias),
                );
                None
            }
        }
    }

    /// TLS for clients, if it is asked for.
    fn listen_tls(&mut self) -> Option<Acceptor> {
        const NAMES: [&str; 3] = ["LISTEN_TLS_CLIENT_CA_FILE", "LISTEN_TLS_CERT_FILE", "LISTEN_TLS_KEY_FILE"];
        let authorities = self.path(NAMES[0]);
        let identity = self.identity(NAMES[1], NAMES[2]);
        let is_asked_for = self.variable(NAMES[1]).or(self.variable(NAMES[2])).is_some();
        if let (Some(variable), false) = (self.variable(NAMES[0]), is_asked_for) {
            self.findings.mistake(
                variable,
                "there is no TLS for clients, and this is a setting of it",
                format!(
                    "set {0}_LISTEN_TLS_CERT_FILE and {0}_LISTEN_TLS_KEY_FILE, or remove {variable}",
                    self.alias
                ),
            );
        }
        // Without a file that was asked for this would be another, weaker thing than was meant.
        if authorities.is_none() && self.variable(NAMES[0]).is_some() {
            return None;
        }
        match Acceptor::new(self.name(), Files { authorities, identity: Some(identity?) }) {
            Ok(acceptor) => Some(acceptor),
            Err(unusable) => {
                self.unusable(&unusable, NAMES);
                None
            }
        }
    }

    fn allow(&mut self, listen: Option<&Listen>) -> Vec<IpNet> {
        let networks = |text: &str| -> Result<Vec<IpNet>, String> {
            let words = text.split([',', ' ']).filter(|word| !word.is_empty());
            let networks: Vec<_> = words.map(network).collect::<Result<_, _>>()?;
            if networks.is_empty() {
                return Err("it names no network, so nobody could connect".to_owned());
            }
            Ok(networks)
        };
        let allow = self.value("ALLOW", networks, || {
            "write networks or addresses, such as 10.0.0.0/8,192.168.1.7,fd00::/8".to_owned()
        });
        if let (Some(Listen::Unix(_)), Some(_), Some(variable)) = (listen, &allow, self.variable("ALLOW")) {
            self.findings.mistake(
                variable,
                "the link listens on a Unix socket, whose clients have no address",
                format!("remove {variable} and set the permissions of the socket's folder"),
            );
        }
        allow.unwrap_or_default()
    }

    /// A Redis setting on a plain tunnel would be silently without effect.
    fn refuse_redis_settings(&mut self) {
        for setting in SETTINGS.iter().filter(|setting| setting.scope != Scope::Any) {
            let name = setting.name;
            // A password makes a Docker link a Redis link, or has been refused already.
            if name == "AUTH" || name == "AUTH_FILE" {
                continue;
            }
            let Some(variable) = self.variable(name) else {
                continue;
            };
            if setting.scope == Scope::RedisCommonName {
                self.findings.warning(
                    variable,
                    format!(
                        "{}:{} is a plain tunnel; the variable is passed over",
                        self.alias.to_lowercase(),
                        self.port
                    ),
                );
            } else {
                self.findings.mistake(
                    variable,
                    "the link is a plain tunnel, and this is a setting of Redis links",
                    format!("set {}_AUTH_FILE or write redis:// if the target is a Redis server, or remove {variable}", self.alias),
                );
            }
        }
    }
}

fn network(word: &str) -> Result<IpNet, String> {
    let address = || word.parse::<IpAddr>().map(IpNet::from);
    word.parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| format!("\"{word}\" is neither a network nor an address"))
}

/// `REDIS_AUTH` without any Redis link, and aliases that `AMBASSADOR_LINKS` names in vain.
fn warn_of_unused_names(
    env: &Env,
    links: &[Link],
    taken: &[Candidate<'_>],
    process: &Process,
    findings: &mut Findings,
) {
    let unused =
        links.iter().all(|link| link.redis.is_none()) && !taken.iter().any(|link| link.alias == "REDIS");
    for name in ["REDIS_AUTH", "REDIS_AUTH_FILE"] {
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

fn refuse_clashes(links: &[Link], findings: &mut Findings) {
    for (index, link) in links.iter().enumerate() {
        let own_address = format!("{}_PORT_{}_LISTEN", link.alias, link.port);
        let before = &links[..index];
        if let Some(other) = before.iter().find(|other| other.listen.clashes_with(&link.listen)) {
            findings.mistake(
                &link.variable,
                format!("it listens on {}, and so does {} ({})", link.listen, other.variable, other.listen),
                format!("give one of them another address, as in {own_address}=127.0.0.2:{}", link.port),
            );
        }
        if let Some(endpoint) = link.endpoints.iter().find(|endpoint| link.listen.answers(endpoint)) {
            findings.mistake(
                &link.variable,
                format!("it listens on {} and dials {endpoint}, which is itself", link.listen),
                format!(
                    "name the real target, or listen elsewhere, as in {own_address}=127.0.0.1:{}",
                    link.port.wrapping_add(10_000)
                ),
            );
        }
    }
}
