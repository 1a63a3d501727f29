//! Why a client got no upstream: at which stage, in which words, and what to do about it.
//!
//! One failure has two readers. The operator's log line has the stage, the words and the remedy; the client of a
//! Redis link reads the words in one RESP error line. Neither ever holds a secret: words of the target are masked
//! where they are taken in.

pub mod log;
pub mod tls;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::link::Role;
use crate::secret::Unavailable;
use crate::text;

/// What is refused, in the words that all who read it know.
pub const REFUSED: &str = "the target refused the password";

/// The step of a connection's life that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The target's name.
    Resolve,
    /// The connection to the target.
    Connect,
    /// TLS, with the target or with the client.
    Tls,
    /// AUTH.
    Auth,
    /// SELECT.
    Select,
    /// Whether the target is a master or a replica.
    Role,
    /// What the client shows to be let in.
    ClientAuth,
    /// The number of connections.
    Limit,
    /// The networks that may connect.
    Allow,
}

impl Stage {
    /// Every stage, in their order.
    pub const ALL: [Self; 9] = [
        Self::Resolve,
        Self::Connect,
        Self::Tls,
        Self::Auth,
        Self::Select,
        Self::Role,
        Self::ClientAuth,
        Self::Limit,
        Self::Allow,
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
        }
    }
}

/// Whether it is worth waiting for a target that fails like this.
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

/// A connection that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A name has no address, or nobody could be asked for one.
    #[error("{name} can't be resolved: {reason}")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        reason: String,
    },
    /// The target can't be reached.
    #[error("can't connect to {endpoint}: {}", text::io_error(source))]
    Connect {
        /// What was dialled.
        endpoint: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connect timeout ended first.
    #[error("{doing} took longer than {}", humantime::format_duration(*.after))]
    TimedOut {
        /// The stage at which it ended.
        stage: Stage,
        /// What was going on.
        doing: String,
        /// The connect timeout.
        after: Duration,
    },
    /// The connection to the target broke during the handshake.
    #[error("{endpoint} broke the connection during the handshake{hint}: {}", text::io_error(source))]
    Broken {
        /// The handshake's stage.
        stage: Stage,
        /// What was dialled.
        endpoint: String,
        /// What this may mean, or nothing.
        hint: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The target closed the connection during the handshake.
    #[error("{endpoint} closed the connection during the handshake{hint}")]
    Closed {
        /// The handshake's stage.
        stage: Stage,
        /// What was dialled.
        endpoint: String,
        /// What this may mean, or nothing.
        hint: &'static str,
    },
    /// TLS failed, on either side.
    #[error("{what}")]
    Tls {
        /// What failed, and why.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// The target answered an error.
    #[error("{what}: {words}")]
    Refused {
        /// The handshake's stage.
        stage: Stage,
        /// What was refused.
        what: &'static str,
        /// The target's own words, masked.
        words: String,
        /// What to do about it.
        remedy: String,
    },
    /// Every password that there is was refused, though one has worked before: it is being changed.
    #[error("{REFUSED}: {words}")]
    Rotation {
        /// The target's own words, masked.
        words: String,
        /// What to do about it.
        remedy: String,
    },
    /// The target speaks something else.
    #[error("{endpoint} does not answer like a Redis server: {shown}")]
    NotRedis {
        /// The handshake's stage.
        stage: Stage,
        /// What was dialled.
        endpoint: String,
        /// What it said, masked.
        shown: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The target is a master where a replica is asked for, or the other way round.
    #[error("{endpoint} is {role}, not a {wanted}")]
    WrongRole {
        /// What was dialled.
        endpoint: String,
        /// What it says that it is, with its article.
        role: String,
        /// What it should be.
        wanted: Role,
    },
    /// Nobody has said yet where the target is, or it is nowhere.
    #[error("the target has no backend: {reason}")]
    NoBackend {
        /// What is known about that.
        reason: String,
    },
    /// Each of several backends failed in its own way.
    #[error("none of {tried} backends serves: {reasons}")]
    NoneServes {
        /// How many were tried.
        tried: usize,
        /// What the first of them came to.
        reasons: String,
        /// What the last one came to.
        last: Box<Failure>,
        /// Whether it is worth waiting for one of them.
        passing: bool,
        /// Whether a password is being changed at one of them.
        rotating: bool,
    },
    /// A secret can't be had.
    #[error(transparent)]
    Secret(#[from] Unavailable),
    /// The client left before it was served.
    #[error("client left before it was served")]
    ClientLeft,
    /// The client said QUIT before it was served.
    #[error("the client quit before it was served")]
    ClientQuit,
    /// The client did not show what the link requires.
    #[error("the client has not authenticated: {reason}")]
    NotAuthenticated {
        /// What it did instead.
        reason: String,
        /// What Redis says to that, if it says anything.
        line: Option<String>,
    },
    /// The link carries as many connections as it may.
    #[error("max number of clients reached")]
    Full,
    /// The client's address is not among those that may connect.
    #[error("{address} is not allowed to connect")]
    NotAllowed {
        /// The client.
        address: IpAddr,
    },
}

/// Backends whose failures are told in full, so that a line stays a line.
const TOLD: usize = 3;

impl Failure {
    /// What a round of several backends came to, from what each of them did. `None` of no failure at all.
    pub fn of_all(mut failures: Vec<Self>) -> Option<Self> {
        let tried = failures.len();
        let told: Vec<_> = failures.iter().take(TOLD).map(ToString::to_string).collect();
        let passing = failures.iter().any(Self::is_passing);
        let rotating = failures.iter().any(Self::is_rotation);
        let last = failures.pop()?;
        Some(match tried {
            1 => last,
            _ => {
                Self::NoneServes { tried, reasons: told.join("; "), last: Box::new(last), passing, rotating }
            }
        })
    }

    /// Where it failed.
    pub fn stage(&self) -> Stage {
        match self {
            Self::Resolve { .. } | Self::NoBackend { .. } => Stage::Resolve,
            Self::WrongRole { .. } => Stage::Role,
            Self::NoneServes { last, .. } => last.stage(),
            Self::Connect { .. } | Self::ClientLeft => Stage::Connect,
            Self::ClientQuit | Self::NotAuthenticated { .. } => Stage::ClientAuth,
            Self::TimedOut { stage, .. }
            | Self::Broken { stage, .. }
            | Self::Closed { stage, .. }
            | Self::Refused { stage, .. }
            | Self::NotRedis { stage, .. } => *stage,
            Self::Tls { .. } => Stage::Tls,
            Self::Secret(_) | Self::Rotation { .. } => Stage::Auth,
            Self::Full => Stage::Limit,
            Self::NotAllowed { .. } => Stage::Allow,
        }
    }

    /// Whether a target that is being restarted fails like this, so that it is worth waiting for it: refused or
    /// reset connections, a socket or a name that is not there yet, a primary that is not chosen yet.
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

    /// Whether it took all the time that there was.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    /// Whether it is worth waiting for another password.
    pub fn is_rotation(&self) -> bool {
        matches!(self, Self::Rotation { .. } | Self::NoneServes { rotating: true, .. })
    }

    /// What the operator can do about it, in one line.
    pub fn remedy(&self, link: &crate::config::Link) -> String {
        let variable = &link.variable;
        match self {
            Self::Resolve { name, .. } => format!(
                "check the name {name} in {variable}, and that this container is on a network where it is known"
            ),
            Self::WrongRole { wanted, .. } => {
                format!(
                    "check that one of the targets of {variable} is a {wanted}, or remove {}_ROLE",
                    link.alias
                )
            }
            Self::NoBackend { .. } => {
                format!("check {variable}, and that what it names can be reached from here")
            }
            Self::NoneServes { last, .. } => last.remedy(link),
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                format!("let user {} use the socket", rustix::process::geteuid().as_raw())
            }
            Self::Connect { .. } => {
                format!("check that the target of {variable} runs and listens there")
            }
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
                "see the target's own log; if it speaks TLS, write rediss:// in {variable} or set {}_TLS=true",
                link.alias
            ),
            Self::Broken { .. } | Self::Closed { .. } => {
                format!("see the target's own log; check that {variable} names the Redis server itself")
            }
            Self::Tls { remedy, .. } | Self::Refused { remedy, .. } | Self::Rotation { remedy, .. } => {
                remedy.clone()
            }
            Self::NotRedis { remedy, .. } => (*remedy).to_owned(),
            Self::Secret(Unavailable::File(error)) => {
                format!("let user {} read {}", rustix::process::geteuid().as_raw(), error.path.display())
            }
            Self::Secret(Unavailable::Command(error)) => format!(
                "run the program of {} by hand, as user {}; its own words are in the log",
                error.variable,
                rustix::process::geteuid().as_raw()
            ),
            Self::ClientLeft | Self::ClientQuit => "nothing".to_owned(),
            Self::NotAuthenticated { .. } => format!(
                "give the client the password of {}_CLIENT_PASSWORD_FILE, or look who it is",
                link.alias
            ),
            Self::Full => {
                format!("raise {}_MAX_CONNECTIONS or the limit on open files (ulimit -n)", link.alias)
            }
            Self::NotAllowed { .. } => {
                format!("add its network to {}_ALLOW if it is meant", link.alias)
            }
        }
    }

    /// The line that the client of a Redis link reads; empty where it waits for none.
    pub fn reply(&self, link: &str) -> String {
        match self {
            Self::ClientLeft => String::new(),
            // The words that clients know from Redis itself.
            Self::Full => format!("-ERR {self}\r\n"),
            Self::ClientQuit => "+OK\r\n".to_owned(),
            Self::NotAuthenticated { line: Some(words), .. } => words.clone(),
            _ => format!("-ERR redis-ambassador: {link}: {self}\r\n"),
        }
    }
}
