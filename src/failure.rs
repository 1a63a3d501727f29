//! Failures of a connection: the stage, the message and the remedy.
//!
//! The operator's log line has all three; the client of a Redis link gets the message in one RESP error. Neither ever
//! holds a secret: the target's messages are masked where they are read.

pub mod log;
pub mod tls;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::Link;
use crate::config::link::Role;
use crate::config::target::Backends as Source;
use crate::secret::Unavailable;
use crate::text;

/// The message of a refused password, shared by the client's error, the log and `check`.
pub const REFUSED: &str = "the target refused the password";

/// How an ambassador's own errors begin.
pub const OWN_WORDS: &str = "ERR redis-ambassador: ";

/// What a client is told who does not say whose connection it is.
const FOR_BALANCERS: &str = "this port is for a balancer that says who its client is (PROXY protocol)";

/// What stands before the words of another ambassador.
pub const OF_AMBASSADOR: &str = " is an ambassador too, which says: ";

/// The step of a connection's life that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Resolve,
    Connect,
    /// TLS, with the target or with the client.
    Tls,
    Auth,
    Select,
    /// Whether the target is a master or a replica.
    Role,
    /// The client's own password (`CLIENT_AUTH`).
    ClientAuth,
    /// `MAX_CONNECTIONS` and the descriptor limit.
    Limit,
    /// The networks of `ALLOW`.
    Allow,
    /// What a balancer says of a client (`LISTEN_PROXY_PROTOCOL`).
    Proxy,
}

impl Stage {
    pub const ALL: [Self; 10] = [
        Self::Resolve,
        Self::Connect,
        Self::Tls,
        Self::Auth,
        Self::Select,
        Self::Role,
        Self::ClientAuth,
        Self::Limit,
        Self::Allow,
        Self::Proxy,
    ];

    /// The stage's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Select => "select",
            Self::Role => "role",
            Self::ClientAuth => "client_auth",
            Self::Limit => "limit",
            Self::Allow => "allow",
            Self::Proxy => "proxy",
        }
    }
}

/// Whether the error is temporary, as during a restart of the target, so that a retry is worthwhile.
pub fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotFound
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// Why a client got no upstream.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A name has no address, or no name server answered.
    #[error("{name} can't be resolved: {reason}")]
    Resolve { name: String, reason: String },
    #[error("can't connect to {endpoint}: {}", text::io_error(source))]
    Connect { endpoint: String, source: io::Error },
    /// A step exceeded the connect timeout.
    #[error("{doing} took longer than {}", humantime::format_duration(*.after))]
    TimedOut {
        stage: Stage,
        /// The step that was interrupted, as in `connecting to h:1`.
        doing: String,
        after: Duration,
    },
    /// The connection to the target broke during the handshake.
    #[error("{endpoint} broke the connection during the handshake{hint}: {}", text::io_error(source))]
    Broken {
        stage: Stage,
        endpoint: String,
        /// A probable cause, or empty.
        hint: &'static str,
        source: io::Error,
    },
    /// The target closed the connection during the handshake.
    #[error("{endpoint} closed the connection during the handshake{hint}")]
    Closed {
        stage: Stage,
        endpoint: String,
        /// A probable cause, or empty.
        hint: &'static str,
    },
    /// The address is one where this process listens.
    #[error("{endpoint} is this ambassador itself")]
    Itself { endpoint: String },
    /// The client's host does not answer this process, maybe because it waits for this very client to be served.
    #[error(
        "{host}, from where this connection comes, has not answered ours for {}, as if the two led to each other",
        humantime::format_duration(*.after)
    )]
    LeadsBack { host: IpAddr, after: Duration },
    /// The target is an ambassador that can't serve.
    #[error("{endpoint}{OF_AMBASSADOR}{words}")]
    Ambassador {
        stage: Stage,
        endpoint: String,
        /// What it says, masked.
        words: String,
    },
    /// TLS failed, on either side.
    #[error("{what}")]
    Tls {
        /// What failed, and why.
        what: String,
        remedy: String,
    },
    /// The target answered with an error.
    #[error("{what}: {words}")]
    Refused {
        stage: Stage,
        what: &'static str,
        /// The target's error, masked.
        words: String,
        remedy: String,
    },
    /// WAIT for writes that were made on another connection: this one would answer as if there were none.
    #[error(
        "WAIT can't tell of writes made on an earlier connection to the target, which has been exchanged since"
    )]
    WaitElsewhere,
    /// Every password was refused, though one was accepted before: a rotation is in progress.
    #[error("{REFUSED}: {words}")]
    Rotation {
        /// The target's error, masked.
        words: String,
        remedy: String,
    },
    /// The target speaks another protocol.
    #[error("{endpoint} does not answer like a Redis server: {shown}")]
    NotRedis {
        stage: Stage,
        endpoint: String,
        /// Its answer, masked.
        shown: String,
        remedy: Box<str>,
    },
    /// The target is a master where `ROLE` requires a replica, or the other way round.
    #[error("{endpoint} is {role}, not a {wanted}")]
    WrongRole {
        endpoint: String,
        /// Its role with an article, as in `a replica`.
        role: String,
        wanted: Role,
    },
    /// The list of backends is empty, or discovery has not found one yet.
    #[error("the target has no backend: {reason}")]
    NoBackend { reason: String },
    /// Each of several backends failed in its own way.
    #[error("none of {tried} backends serves: {reasons}")]
    NoneServes {
        tried: usize,
        /// The failures of the first ones.
        reasons: String,
        /// The failure of the last one.
        last: Box<Failure>,
        /// Whether a retry is worthwhile for one of them.
        passing: bool,
        /// Whether a rotation is in progress at one of them.
        rotating: bool,
    },
    #[error(transparent)]
    Secret(#[from] Unavailable),
    /// The client left before it was served.
    #[error("client left before it was served")]
    ClientLeft,
    /// The client sent QUIT before it was served.
    #[error("the client quit before it was served")]
    ClientQuit,
    /// The client did not send the password that the link requires.
    #[error("the client has not authenticated: {reason}")]
    NotAuthenticated {
        reason: String,
        /// The error that Redis answers, if any.
        line: Option<String>,
    },
    /// The limit of connections is reached.
    #[error("max number of clients reached")]
    Full,
    /// The client's address is not in `ALLOW`.
    #[error("{address} is not allowed to connect")]
    NotAllowed { address: IpAddr },
    /// The connection does not begin with a header of the PROXY protocol.
    #[error("{FOR_BALANCERS}, and the connection does not: {reason}")]
    Unannounced { reason: String },
}

/// Backends whose failures are included in one message at most.
const SHOWN: usize = 3;

impl Failure {
    /// The failure of a round, from those of its backends; `None` without any.
    pub fn of_all(mut failures: Vec<Self>) -> Option<Self> {
        let tried = failures.len();
        let reasons: Vec<_> = failures.iter().take(SHOWN).map(ToString::to_string).collect();
        let passing = failures.iter().any(Self::is_passing);
        let rotating = failures.iter().any(Self::is_rotation);
        let last = failures.pop()?;
        Some(match tried {
            1 => last,
            _ => Self::NoneServes {
                tried,
                reasons: reasons.join("; "),
                last: Box::new(last),
                passing,
                rotating,
            },
        })
    }

    pub fn stage(&self) -> Stage {
        match self {
            Self::Resolve { .. } | Self::NoBackend { .. } => Stage::Resolve,
            Self::WrongRole { .. } => Stage::Role,
            Self::NoneServes { last, .. } => last.stage(),
            Self::Connect { .. } | Self::Itself { .. } | Self::LeadsBack { .. } | Self::ClientLeft => {
                Stage::Connect
            }
            Self::ClientQuit | Self::NotAuthenticated { .. } => Stage::ClientAuth,
            Self::TimedOut { stage, .. }
            | Self::Broken { stage, .. }
            | Self::Closed { stage, .. }
            | Self::Ambassador { stage, .. }
            | Self::Refused { stage, .. }
            | Self::NotRedis { stage, .. } => *stage,
            Self::Tls { .. } => Stage::Tls,
            Self::Secret(_) | Self::Rotation { .. } => Stage::Auth,
            // What a connection is to have before it serves, as its database.
            Self::WaitElsewhere => Stage::Select,
            Self::Full => Stage::Limit,
            Self::NotAllowed { .. } => Stage::Allow,
            Self::Unannounced { .. } => Stage::Proxy,
        }
    }

    /// Whether a retry is worthwhile, as during a restart or failover of the target: connection refused or reset, a
    /// socket or name that does not exist yet, no primary yet.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::NoBackend { .. }
            | Self::WrongRole { .. }
            | Self::Rotation { .. } => true,
            Self::NoneServes { passing, .. } => *passing,
            Self::Connect { source, .. } | Self::Broken { source, .. } => is_passing(source),
            _ => false,
        }
    }

    /// Whether it says that this server can't be had at the moment, and nothing of the link's configuration.
    pub fn is_of_one_server(&self) -> bool {
        match self {
            Self::NoneServes { last, .. } => last.is_of_one_server(),
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::Closed { .. }
            | Self::NoBackend { .. } => true,
            _ => false,
        }
    }

    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    /// Whether a password rotation is in progress.
    pub fn is_rotation(&self) -> bool {
        matches!(self, Self::Rotation { .. } | Self::NoneServes { rotating: true, .. })
    }

    /// What the operator can do where it may be about the PROXY protocol.
    fn proxy_remedy(&self, link: &Link) -> Option<String> {
        let variable = &link.variable;
        match self {
            // Redis waits in silence for more behind the binary header.
            Self::Broken { .. }
            | Self::Closed { .. }
            | Self::TimedOut { stage: Stage::Tls | Stage::Auth | Stage::Select | Stage::Role, .. }
                if link.proxy_protocol.is_some() =>
            {
                Some(format!(
                    "see the target's own log; check that what {variable} names expects the PROXY protocol, and remove \
                     {proxy_protocol} if it does not",
                    proxy_protocol = link.setting("PROXY_PROTOCOL")
                ))
            }
            Self::Ambassador { endpoint, words, .. }
                if link.proxy_protocol.is_none() && words.contains(FOR_BALANCERS) =>
            {
                Some(format!(
                    "set {proxy_protocol}=v2, so that the ambassador at {endpoint} is told who its client is, or remove \
                     LISTEN_PROXY_PROTOCOL there",
                    proxy_protocol = link.setting("PROXY_PROTOCOL")
                ))
            }
            Self::NotAllowed { .. } if link.listen_proxy_protocol => Some(format!(
                "add its network to {allow}, if it may connect; for a balancer's health checks its own address counts",
                allow = link.setting("ALLOW")
            )),
            _ => None,
        }
    }

    /// What the operator can do, in one line.
    pub fn remedy(&self, link: &Link) -> String {
        if let Some(remedy) = self.proxy_remedy(link) {
            return remedy;
        }
        let variable = &link.variable;
        match self {
            Self::Resolve { name, .. } => format!(
                "check the name {name} in {variable}, and that this container is on a network that resolves it"
            ),
            Self::WrongRole { wanted, .. } => {
                format!(
                    "check that one of the targets of {variable} is a {wanted}, or remove {}",
                    link.setting("ROLE")
                )
            }
            Self::NoBackend { .. } => no_list_remedy(link),
            Self::WaitElsewhere => {
                "read what was written again: WAIT says nothing of what another connection wrote".to_owned()
            }
            Self::NoneServes { last, .. } => last.remedy(link),
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                format!("let user {} use the socket", rustix::process::geteuid().as_raw())
            }
            Self::Connect { endpoint, .. } if endpoint.starts_with("localhost:") => format!(
                "check that the target of {variable} is running and listening; in a container localhost is the container \
                 itself, and another one has a name on a network that both are on"
            ),
            Self::Connect { .. } => {
                format!("check that the target of {variable} is running and listening")
            }
            Self::Itself { .. } => format!(
                "let {variable} name the Redis server itself; where its name is that of this container too, rename one of the two"
            ),
            Self::LeadsBack { .. } => format!(
                "see whether the target of {variable} is an ambassador that leads back here; if it is a Redis server, it is overloaded"
            ),
            Self::Ambassador { endpoint, .. } => format!(
                "see the log of the ambassador at {endpoint}; if it leads back here, let one of the two name the Redis server itself"
            ),
            Self::TimedOut { stage, .. } => match stage {
                Stage::Resolve => {
                    "check the name servers, those in AMBASSADOR_DNS or else in /etc/resolv.conf".to_owned()
                }
                Stage::Connect => {
                    format!("check the address in {variable}, and firewalls on the way to it")
                }
                Stage::Tls => format!(
                    "check that the port in {variable} speaks TLS: a plain Redis waits in silence for more"
                ),
                _ => format!("check that the target of {variable} is a Redis server and not overloaded"),
            },
            Self::Broken { stage: Stage::Tls, .. } | Self::Closed { stage: Stage::Tls, .. } => format!(
                "see the target's own log; check that the port in {variable} speaks TLS, and that the target has room for a client"
            ),
            Self::Broken { hint, .. } | Self::Closed { hint, .. } if !hint.is_empty() => format!(
                "see the target's own log; if it speaks TLS, write rediss:// in {variable} or set {}=true",
                link.setting("TLS")
            ),
            Self::Broken { .. } | Self::Closed { .. } => {
                format!("see the target's own log; check that {variable} names the Redis server itself")
            }
            Self::Tls { remedy, .. } | Self::Refused { remedy, .. } | Self::Rotation { remedy, .. } => {
                remedy.clone()
            }
            Self::NotRedis { remedy, .. } => remedy.clone().into(),
            Self::Secret(Unavailable::File(error)) => {
                format!("let user {} read {}", rustix::process::geteuid().as_raw(), error.path.display())
            }
            Self::Secret(Unavailable::Token(error)) => error.remedy.clone(),
            Self::ClientLeft | Self::ClientQuit => "nothing".to_owned(),
            Self::NotAuthenticated { .. } => format!(
                "give the client the password of {}, or find out which client it is",
                link.setting("CLIENT_PASSWORD_FILE")
            ),
            Self::Full => {
                format!("raise {} or the limit on open files (ulimit -n)", link.setting("MAX_CONNECTIONS"))
            }
            Self::NotAllowed { .. } => {
                format!("add its network to {}, if it may connect", link.setting("ALLOW"))
            }
            Self::Unannounced { .. } => format!(
                "let the balancer send the header, if this client is one (HAProxy: send-proxy-v2; nginx: proxy_protocol on), or remove \
                 {} if clients come directly",
                link.setting("LISTEN_PROXY_PROTOCOL")
            ),
        }
    }

    /// The RESP line for the client of a Redis link; empty for one that has left.
    pub fn reply(&self, link: &str) -> String {
        match self {
            Self::ClientLeft => String::new(),
            // The error of Redis itself, which clients know.
            Self::Full => format!("-ERR {self}\r\n"),
            Self::ClientQuit => "+OK\r\n".to_owned(),
            Self::NotAuthenticated { line: Some(words), .. } => words.clone(),
            // Whatever a peer has said is one line here.
            _ => format!("-{OWN_WORDS}{link}: {}\r\n", text::one_line(self.to_string().as_bytes())),
        }
    }
}

/// What the operator can do where there is no list of backends, by where it is to come from.
pub fn no_list_remedy(link: &Link) -> String {
    let variable = &link.variable;
    match &link.target.backends {
        Source::Listed(_) => format!("check {variable}, and that what it names can be reached from here"),
        Source::Srv(name) => format!(
            "check the name {name} in {variable}, and the name servers, those in AMBASSADOR_DNS or else in /etc/resolv.conf"
        ),
        Source::File(path) => format!(
            "let {} list HOST:PORT, one a line, and user {} read it",
            path.display(),
            rustix::process::geteuid().as_raw()
        ),
        Source::Sentinel { service, .. } => format!(
            "check that the Sentinels in {variable} can be reached from here and know {service}; where they want a password, set \
             {}",
            link.setting("SENTINEL_AUTH_FILE")
        ),
        Source::ZooKeeper { path, .. } => {
            let setting = link.setting("ZOOKEEPER_TLS");
            let tls = match &link.zookeeper.tls {
                Some(_) => format!("speak TLS, or remove {setting}"),
                None => format!("are those without TLS, or set {setting}=true"),
            };
            format!("check that servers register in {path}, and that the ports in {variable} are ZooKeeper's and {tls}")
        }
        Source::Mdns(service) => format!(
            "see who announces it: avahi-browse --resolve {service}; in a container only --network host hears the host's network"
        ),
        Source::Cluster(_) => {
            "check that the nodes can be reached, and that the user may ask CLUSTER NODES: redis-ambassador check says what \
             each answers"
                .to_owned()
        }
    }
}
