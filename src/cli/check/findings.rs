//! What is wrong or odd, in plain sentences, and what to do about it.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::server::Server;
use crate::config::link::{Credentials, Redis};
use crate::config::target::Scheme;
use crate::config::{Link, Warning};
use crate::failure::Failure;
use crate::net::tls::Acceptor;
use crate::net::tls::certificate::Summary;
use crate::reload::Failure as Trouble;
use crate::resp::Reply;
use crate::secret::Source;
use crate::text;
use crate::upstream::discovery::PassedOver;
use crate::upstream::handshake::OpenAccess;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Nothing.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work, or not as it is meant to.
    Problem,
}

impl Level {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The step at which it was found, or what it is about.
    pub(super) about: &'static str,
    pub(super) link: Option<String>,
    pub(super) backend: Option<String>,
    pub(super) what: String,
    pub(super) remedy: Option<String>,
}

/// A certificate that ends so soon should be renewed by now.
const MONTH: Duration = Duration::from_hours(30 * 24);

impl Finding {
    fn new(
        level: Level,
        about: &'static str,
        link: &Link,
        backend: Option<&str>,
        what: String,
        remedy: String,
    ) -> Self {
        Self {
            level,
            about,
            link: Some(link.name.clone()),
            backend: backend.map(str::to_owned),
            what,
            remedy: Some(remedy),
        }
    }

    /// What the configuration itself warns of.
    pub(super) fn of_configuration(Warning { variable, message }: &Warning) -> Self {
        Self {
            level: Level::Warning,
            about: "configuration",
            link: None,
            backend: None,
            what: format!("{variable}: {message}"),
            remedy: None,
        }
    }

    /// A step that failed, in the words that the log and the client of a link would read.
    pub(super) fn of_failure(
        link: &Link,
        backend: Option<&str>,
        step: &'static str,
        failure: &Failure,
    ) -> Self {
        Self::new(Level::Problem, step, link, backend, failure.to_string(), failure.remedy(link))
    }

    /// Says how long a refused password is and what stands around it, where that is hardly meant.
    pub(super) fn add_surroundings(&mut self, credentials: &Credentials) {
        if let (Some(surroundings), Some(remedy)) = (credentials.surroundings(), &mut self.remedy)
            && !remedy.contains(&surroundings)
        {
            *remedy = format!("{remedy} What {} gives is {surroundings}", credentials.variable);
        }
    }

    /// Secrets that were replaced where the old ones are still mounted. A server may take them for a while yet.
    pub(super) async fn of_old_secrets(link: &Link) -> Vec<Self> {
        let mut found = Vec::new();
        for source in link.redis.iter().flat_map(Redis::sources) {
            if let Source::File(file) = source
                && let Some(Trouble { reason, remedy: Some(remedy) }) = file.look().await
            {
                found.push(Self::new(Level::Warning, "secret", link, None, reason, remedy));
            }
        }
        found
    }

    /// A server that takes the password of before.
    pub(super) fn of_rotation(link: &Link, backend: &str, credentials: &Credentials) -> Self {
        let Credentials { variable, previous_variable, .. } = credentials;
        Self::new(
            Level::Warning,
            "auth",
            link,
            Some(backend),
            format!("{backend} refuses the password of {variable} and takes that of {previous_variable}"),
            format!("finish the rotation: give the server the password of {variable}"),
        )
    }

    /// Something about a Redis Cluster as a whole, or about what it says of a node.
    pub(super) fn of_cluster(
        level: Level,
        link: &Link,
        backend: Option<&str>,
        what: String,
        remedy: String,
    ) -> Self {
        Self::new(level, "cluster", link, backend, what, remedy)
    }

    /// Entries of the list of backends that name no server.
    pub(super) fn of_passed_over(link: &Link, PassedOver { what, remedy }: PassedOver) -> Self {
        let what = format!("passed over in the list of backends: {what}");
        Self::new(Level::Warning, "backends", link, None, what, remedy.to_owned())
    }

    pub(super) fn too_many(link: &Link, more: usize) -> Self {
        let what = format!("{more} more backends were not looked at");
        let remedy = "look at them with a link of their own, if they are in doubt".to_owned();
        Self::new(Level::Note, "backends", link, None, what, remedy)
    }

    /// The end of a target's certificate, if it is near or past; past it can only be where nobody verifies.
    pub(super) fn of_certificate(link: &Link, backend: &str, certificate: &Summary) -> Option<Self> {
        let (level, ends) = end(certificate, Level::Warning)?;
        let what = format!("the certificate of {backend} {ends}");
        let remedy = "renew it on the server".to_owned();
        Some(Self::new(level, "certificate", link, Some(backend), what, remedy))
    }

    /// The end of the certificate of an authority, if it is near or past. Past it can be where we are the only ones who
    /// believe it: whoever is named in a file is believed for good, as far as rustls is concerned.
    pub(super) fn of_authority(link: &Link, backend: Option<&str>, authority: &Summary) -> Option<Self> {
        let (level, ends) = end(authority, Level::Warning)?;
        let name = authority.subject.as_deref().unwrap_or("without a name");
        let what = format!("the certificate of the authority \"{name}\" {ends}");
        let remedy = "renew it, and whatever it vouches for: others than this program refuse what an expired authority \
                      vouches for";
        Some(Self::new(level, "certificate", link, backend, what, remedy.to_owned()))
    }

    /// The ends of the certificates that a link shows to its target and to its clients, and of those of the authorities
    /// that vouch for clients, if they are near or past.
    pub(super) fn of_own_certificates(link: &Link) -> Vec<Self> {
        let to_target = link.tls.as_ref().map(|tls| (&tls.files, "to the target"));
        let to_clients = link.listen_tls.as_ref().map(|tls| (&tls.files, "to clients"));
        let of_clients = link.listen_tls.as_ref().map(|tls| tls.files.own_authorities()).unwrap_or_default();
        let of_clients = of_clients.iter().filter_map(|authority| Self::of_authority(link, None, authority));
        let shown = [to_target, to_clients].into_iter().flatten();
        let shown = shown.filter_map(|(files, to)| {
            let path = files.identity.as_ref()?.certificate.display();
            let (level, ends) = end(&files.own_certificate()?, Level::Problem)?;
            let what = format!("the certificate that is shown {to} {ends}");
            let remedy = format!("put a new one into {path}; it serves the next connection");
            Some(Self::new(level, "certificate", link, None, what, remedy))
        });
        let refused = link.listen_tls.as_ref().and_then(|tls| Self::of_own_fault(link, tls));
        shown.chain(of_clients).chain(refused).collect()
    }

    /// A certificate that clients refuse. Of the one for the target it is the target that says so, and many take it.
    fn of_own_fault(link: &Link, tls: &Acceptor) -> Option<Self> {
        let path = tls.files.identity.as_ref()?.certificate.display();
        let (fault, remedy) = tls.own_fault()?;
        let what = format!("clients may refuse the certificate that they are shown: {fault}");
        let remedy = format!("put another one into {path}; {remedy}");
        Some(Self::new(Level::Warning, "certificate", link, None, what, remedy))
    }

    /// What a server is, where it is not what a link can do everything with.
    pub(super) fn of_server(link: &Link, backend: &str, server: &Server) -> Option<Self> {
        let variable = &link.variable;
        let is_wanted = link.redis.as_ref().is_some_and(|redis| redis.role.is_some());
        let is_of_cluster = link.redis.as_ref().is_some_and(|redis| redis.cluster.is_some());
        let finding =
            |level, about, what, remedy| Some(Self::new(level, about, link, Some(backend), what, remedy));
        match (server.mode.as_deref(), server.role.as_deref()) {
            (Some("sentinel"), _) => finding(
                Level::Problem,
                "sentinel",
                format!("{backend} is a Sentinel, which knows where Redis is and is none itself"),
                format!(
                    "write {variable}=redis+sentinel://{backend}/SERVICE to be led to the primary, or name the port \
                     of Redis itself"
                ),
            ),
            (Some("cluster"), _) if is_of_cluster => None,
            (Some("cluster"), _) => finding(
                Level::Warning,
                "cluster",
                format!(
                    "{backend} is a node of a Redis Cluster: for keys of other nodes it answers MOVED with an address, \
                     which is passed on unchanged, and the client has to reach that node by itself"
                ),
                link.cluster_remedy(),
            ),
            (_, Some("replica")) if !is_wanted && !is_of_cluster => finding(
                Level::Note,
                "replica",
                format!("{backend} is a replica, which answers READONLY to writes"),
                format!(
                    "name the master in {variable}, or set {role} to master or replica, whichever is meant",
                    role = link.setting("ROLE")
                ),
            ),
            _ => None,
        }
    }

    /// A server that a stranger can speak to, though we send it a password.
    pub(super) fn of_stranger(
        link: &Link,
        backend: &str,
        try_random_password: Option<OpenAccess>,
        is_served: bool,
    ) -> Option<Self> {
        let redis = link.redis.as_ref()?;
        let variable = redis.credentials.as_ref().map_or(&link.variable, |credentials| &credentials.variable);
        let credentials = redis.credentials.as_ref();
        let belongs = credentials.filter(|credentials| credentials.username.is_none()).map(|credentials| {
            format!("; if the password belongs to an ACL user, set {}", credentials.username_variable)
        });
        let remedy = format!(
            "see whether it is the right server, and give it a password (requirepass, or ACL SETUSER default){}",
            belongs.unwrap_or_default()
        );
        let (level, what) = match (try_random_password, is_served) {
            (Some(OpenAccess::NoPasswordWanted), _) => (
                Level::Problem,
                format!("{backend} lets anyone in: it wants no password, though {variable} is set"),
            ),
            (Some(OpenAccess::Taken), _) => {
                (Level::Problem, format!("{backend} lets anyone in: it takes any password, a random one too"))
            }
            (_, true) => (
                Level::Warning,
                format!("{backend} serves anyone without a password too, as the user \"default\""),
            ),
            _ => return None,
        };
        Some(Self::new(level, "open", link, Some(backend), what, remedy))
    }

    /// A Redis behind a plain tunnel, by its reply to PING.
    pub(super) fn of_redis_behind_tunnel(link: &Link, backend: &str, reply: &Reply) -> Option<Self> {
        let variable = &link.variable;
        let scheme = match (link.target.scheme, &link.tls) {
            (Scheme::Unix, _) => "redis+unix://",
            (_, Some(_)) => "rediss://",
            (_, None) => "redis://",
        };
        let file = format!("set {} to the file that holds it", link.setting("AUTH_FILE"));
        let with_password = match link.target.scheme {
            Scheme::Tls | Scheme::Unix => format!("{file} and write {scheme} in {variable}"),
            _ => file,
        };
        let (level, what, remedy) = match reply {
            Reply::Error(words) if words.starts_with("NOAUTH") => (
                Level::Warning,
                format!(
                    "{backend} is a Redis that wants a password, and the link is a plain tunnel, which sends none: {}",
                    text::one_line(words.as_bytes())
                ),
                format!(
                    "{with_password}, so that it becomes a Redis link; or leave it, if every client sends the password by itself"
                ),
            ),
            Reply::Error(words) if words.starts_with("DENIED") => (
                Level::Warning,
                format!("{backend} is a Redis in protected mode, which serves no other host"),
                format!(
                    "set a password on the Redis server (requirepass), and here {with_password}; or set protected-mode no there"
                ),
            ),
            Reply::Good => (
                Level::Note,
                format!(
                    "{backend} answers like a Redis without a password, and the link is a plain tunnel: its clients have no sessions"
                ),
                format!("write {scheme} in {variable} to make it a Redis link"),
            ),
            Reply::Error(_) => return None,
        };
        Some(Self::new(level, "tunnel", link, Some(backend), what, remedy))
    }

    /// A server without a password on a link without one.
    pub(super) fn of_open_server(link: &Link, backend: &str) -> Self {
        Self::new(
            Level::Note,
            "open",
            link,
            Some(backend),
            format!("{backend} wants no password: any client that reaches it is let in"),
            "give it one (requirepass) and set it here, unless the network keeps others away".to_owned(),
        )
    }
}

/// When a certificate ends, in words, if that is near; `past` is how bad it is if it is over.
fn end(certificate: &Summary, past: Level) -> Option<(Level, String)> {
    let date = humantime::format_rfc3339_seconds(certificate.ends);
    match certificate.ends.duration_since(SystemTime::now()) {
        Ok(left) if left > MONTH => None,
        Ok(left) => {
            let days = match left.as_secs() / (24 * 60 * 60) {
                0 => "in less than a day".to_owned(),
                1 => "in a day".to_owned(),
                days => format!("in {days} days"),
            };
            Some((Level::Warning, format!("ends on {date}, {days}")))
        }
        Err(_) => Some((past, format!("has expired on {date}"))),
    }
}
