//! The grammar of targets, the values of link variables.
//!
//! ```text
//! tcp|redis|rediss|tls :// [user-information@] HOST:PORT[,HOST:PORT…] [/DB]
//! … +srv://NAME   … +file:///PATH   redis[s]+sentinel://HOST[:26379],…/SERVICE[/DB]
//! redis[s]+cluster://HOST[:6379],…[/0]
//! … +zookeeper://HOST[:2181],…/PATH   … +mdns://_SERVICE._tcp[.local]
//! unix:///PATH   redis+unix:///PATH
//! ```
//!
//! User information and a database are for the Redis schemes alone. [`url`] parses it, with the variants that clients'
//! libraries use; [`mend`] suggests a correct target for an invalid one.

pub mod mend;
mod url;

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::net::{Endpoint, Host};
use crate::secret::Secret;

/// The protocol towards a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Docker's `tcp`: plain, or Redis where a password applies.
    Tcp,
    Redis,
    /// Redis over TLS.
    Rediss,
    /// A plain tunnel over TLS.
    Tls,
    /// A plain tunnel through a Unix socket.
    Unix,
}

impl Scheme {
    /// Whether the scheme alone makes it a Redis link.
    pub fn is_redis(self) -> bool {
        matches!(self, Self::Redis | Self::Rediss)
    }

    /// Whether the scheme alone requires TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Rediss | Self::Tls)
    }

    /// The port if none is given.
    pub fn default_port(self) -> Option<u16> {
        self.is_redis().then_some(REDIS_PORT)
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Redis => "redis",
            Self::Rediss => "rediss",
            Self::Tls => "tls",
            Self::Unix => "unix",
        }
    }
}

impl FromStr for Host {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(Malformed::from(NO_IPV6))?;
            return bracketed(inner);
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err("an IPv6 address needs brackets, [::1]:6379".into());
        }
        if text.contains("${") || text.contains("$(") || text.starts_with('$') {
            return Err("its host is a variable that nothing has replaced: env-files and manifests are taken as they \
                        stand"
                .into());
        }
        // Internationalised names are converted to ASCII (UTS #46); the result may be an address.
        let ascii = if text.is_ascii() { None } else { idna::domain_to_ascii(text).ok() };
        match ascii {
            Some(ascii) if ascii.is_ascii() && ascii != text => ascii.parse(),
            _ => name(text),
        }
    }
}

const NO_IPV6: &str = "it has brackets around something that is no IPv6 address";

/// The host between brackets.
fn bracketed(inner: &str) -> Result<Host, Malformed> {
    if inner.contains('%') {
        return Ok(Host::LinkLocal(inner.parse()?));
    }
    let address: Ipv6Addr = inner.parse().map_err(|_| Malformed::from(NO_IPV6))?;
    if address.is_unicast_link_local() {
        return Err("a link-local address needs the interface that it is at, as in [fe80::1%eth0]".into());
    }
    // An IPv4-mapped address becomes IPv4, which works on a host without IPv6 too.
    Ok(Host::Address(IpAddr::from(address).to_canonical()))
}

fn name(text: &str) -> Result<Host, Malformed> {
    let labels = text.strip_suffix('.').unwrap_or(text);
    let valid = !labels.is_empty()
        && labels.len() <= 253
        && labels.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    // Numbers and dots alone are a mistyped address, not a name.
    if !valid || labels.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err("its host is neither an address nor a name".into());
    }
    Ok(Host::Name(text.to_owned()))
}

/// Where a target's backends are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backends {
    /// In the variable itself; at least one.
    Listed(Vec<Endpoint>),
    /// In DNS SRV records under this name (RFC 2782).
    Srv(String),
    /// In a file, one `HOST:PORT` a line.
    File(PathBuf),
    /// From Redis Sentinels.
    Sentinel {
        sentinels: Vec<Endpoint>,
        /// The Sentinels' name for the primary (`mymaster`).
        service: String,
    },
    /// The nodes of a Redis Cluster, of which these are known beforehand; each has a listener of its own.
    Cluster(Vec<Endpoint>),
    /// In the children of a node of ZooKeeper.
    ZooKeeper {
        servers: Vec<Endpoint>,
        /// The node: `/services/redis`.
        path: String,
    },
    /// Announced in the local network under this name of a service (DNS-SD): `_redis._tcp`.
    Mdns(String),
}

#[derive(Debug)]
pub struct Target {
    pub scheme: Scheme,
    pub backends: Backends,
    pub username: Option<Secret>,
    pub password: Option<Secret>,
    pub database: Option<u32>,
    /// Whether a parameter turns the verification of certificates off.
    pub is_insecure: bool,
    /// Parameters that only a client's library uses; ignored.
    pub ignored: Vec<String>,
}

impl Target {
    /// A placeholder for an invalid target, so that mistakes in the link's settings are reported too. An unknown scheme
    /// is taken for `redis`, which allows every setting.
    pub fn unreadable(value: &str) -> Self {
        let word = value.split(':').next().unwrap_or_default();
        match url::scheme(word) {
            Some((scheme, url::Form::Cluster)) => Self::of(scheme, Backends::Cluster(Vec::new())),
            Some((scheme, _)) => Self::of(scheme, Backends::Listed(Vec::new())),
            None => Self::of(Scheme::Redis, Backends::Listed(Vec::new())),
        }
    }

    /// The same servers as nodes of a Redis Cluster, or as servers that are none; `None` where they are listed elsewhere
    /// or are no hosts. `user_information` stands before them.
    pub fn as_cluster(&self, is_cluster: bool, is_tls: bool, user_information: &str) -> Option<String> {
        let (Backends::Listed(servers) | Backends::Cluster(servers)) = &self.backends else { return None };
        let are_hosts = servers.iter().all(|server| matches!(server, Endpoint::Tcp(..)));
        let scheme = if is_tls { Scheme::Rediss } else { Scheme::Redis }.prefix();
        let form = if is_cluster { "+cluster" } else { "" };
        are_hosts.then(|| format!("{scheme}{form}://{user_information}{}", Commas(servers)))
    }

    fn of(scheme: Scheme, backends: Backends) -> Self {
        Self {
            scheme,
            backends,
            username: None,
            password: None,
            database: None,
            is_insecure: false,
            ignored: Vec::new(),
        }
    }
}

/// The forms of a target and what they mean, in Markdown: for the manual page and the documentation.
pub const FORMS: &[(&[&str], &str)] = &[
    (
        &["tcp://HOST:PORT"],
        "as Docker writes it: a Redis link if `AUTH`, `AUTH_FILE`, `AUTH_COMMAND` or `AUTH_PROVIDER` applies to it, else a plain tunnel",
    ),
    (
        &["redis://[[USER]:[PASSWORD]@]HOST[:PORT][/DB]"],
        "a Redis link; port 6379 if none is given; percent-encoding as in any URL; `valkey://` is the same",
    ),
    (&["rediss://[[USER]:[PASSWORD]@]HOST[:PORT][/DB]"], "the same over TLS; `valkeys://` is the same"),
    (&["tls://HOST:PORT"], "a plain tunnel, TLS towards the target"),
    (&["unix:///PATH"], "a Unix socket, a plain tunnel"),
    (&["redis+unix:///PATH[?db=DB]"], "a Unix socket, a Redis link"),
    (&["tcp://A:1,B:2", "redis://A,B:2", "rediss://A,B:2", "tls://A:1,B:2"], "several backends"),
    (
        &["tcp+srv://NAME", "redis+srv://NAME", "rediss+srv://NAME", "tls+srv://NAME"],
        "backends from DNS SRV records",
    ),
    (
        &["tcp+file:///PATH", "redis+file:///PATH", "rediss+file:///PATH", "tls+file:///PATH"],
        "backends from a file, one `HOST:PORT` a line, `#` for comments",
    ),
    (
        &["redis+sentinel://S1[:26379],S2…/SERVICE[/DB]", "rediss+sentinel://S1[:26379],S2…/SERVICE[/DB]"],
        "the primary that Redis Sentinels name, or its replicas",
    ),
    (
        &[
            "tcp+zookeeper://Z1[:2181],Z2…/PATH",
            "redis+zookeeper://Z1[:2181],Z2…/PATH",
            "rediss+zookeeper://Z1[:2181],Z2…/PATH",
            "tls+zookeeper://Z1[:2181],Z2…/PATH",
        ],
        "backends from the children of a node of ZooKeeper",
    ),
    (
        &[
            "tcp+mdns://_SERVICE._tcp[.local]",
            "redis+mdns://_SERVICE._tcp[.local]",
            "rediss+mdns://_SERVICE._tcp[.local]",
            "tls+mdns://_SERVICE._tcp[.local]",
        ],
        "backends that announce themselves in the local network (mDNS and DNS-SD), as Avahi and Bonjour do",
    ),
    (
        &["redis+cluster://NODE[:6379],NODE…", "rediss+cluster://NODE[:6379],NODE…"],
        "the nodes of a Redis Cluster, for clients that speak Redis Cluster: each has a listener of its own",
    ),
];

/// Why a value is no target. Never quotes the value, which may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{reason}")]
pub struct Malformed {
    pub reason: Cow<'static, str>,
    /// The setting to use instead, with its value: `TLS_VERIFY=ca`.
    pub setting: Option<String>,
}

impl From<&'static str> for Malformed {
    fn from(reason: &'static str) -> Self {
        Self { reason: reason.into(), setting: None }
    }
}

impl From<String> for Malformed {
    fn from(reason: String) -> Self {
        Self { reason: reason.into(), setting: None }
    }
}

const REDIS_PORT: u16 = 6379;

/// Why a database is refused where the target is a cluster.
pub const ONE_DATABASE: &str = "a Redis Cluster has database 0 only";

/// The number of a database: digits alone, within Redis' 32-bit integer.
pub fn database(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse::<u32>().ok()).flatten().filter(|number| i32::try_from(*number).is_ok())
}

/// `HOST[:PORT]`; without a default port, the port is required.
pub fn endpoint(text: &str, default_port: Option<u16>) -> Result<Endpoint, Malformed> {
    let (host, port) = match split_port(text) {
        (host, Some(number)) => (host, Some(port(number)?)),
        (host, None) => (host, default_port),
    };
    if host.is_empty() {
        return Err("it names no host".into());
    }
    let port = port.ok_or(Malformed::from("it names no port"))?;
    Ok(Endpoint::Tcp(host.parse()?, port))
}

/// Splits at the last colon outside of brackets.
fn split_port(text: &str) -> (&str, Option<&str>) {
    let after_brackets = text.rfind(']').map_or(0, |at| at + 1);
    match text[after_brackets..].rfind(':') {
        Some(at) => (&text[..after_brackets + at], Some(&text[after_brackets + at + 1..])),
        None => (text, None),
    }
}

fn port(text: &str) -> Result<u16, Malformed> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| text.parse::<u16>().ok())
        .flatten()
        .filter(|port| *port != 0)
        .ok_or(Malformed::from("its port is not a number from 1 to 65535"))
}

/// The longest path of a Unix socket in bytes (`sun_path` without the final NUL).
const LONGEST_SOCKET_PATH: usize = 107;

/// Checks the length of a Unix socket's path.
pub(super) fn socket_path(path: PathBuf) -> Result<PathBuf, Malformed> {
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        return Err(format!(
            "its path has {length} bytes, but the limit for a socket is {LONGEST_SOCKET_PATH}"
        )
        .into());
    }
    Ok(path)
}

/// Characters that are encoded in a path or a service's name: they would be parsed as something else, or break the
/// line.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'@').add(b'?');
const ENCODED_IN_SERVICE: &AsciiSet = &ENCODED.add(b'/').add(b'#');

/// A percent-encoded path.
fn in_target(path: &Path) -> impl fmt::Display {
    percent_encode(path.as_os_str().as_bytes(), ENCODED)
}

/// The target without user or password.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.prefix();
        match &self.backends {
            Backends::Listed(endpoints) => match &endpoints[..] {
                [Endpoint::Unix(path)] if self.scheme == Scheme::Unix => {
                    write!(f, "unix://{}", in_target(path))?;
                }
                [Endpoint::Unix(path)] => write!(f, "{scheme}+unix://{}", in_target(path))?,
                endpoints => write!(f, "{scheme}://{}", Commas(endpoints))?,
            },
            Backends::Srv(name) => write!(f, "{scheme}+srv://{name}")?,
            Backends::File(path) => write!(f, "{scheme}+file://{}", in_target(path))?,
            Backends::Sentinel { sentinels, service } => {
                let service = percent_encode(service.as_bytes(), ENCODED_IN_SERVICE);
                write!(f, "{scheme}+sentinel://{}/{service}", Commas(sentinels))?;
            }
            Backends::Cluster(nodes) => write!(f, "{scheme}+cluster://{}", Commas(nodes))?,
            Backends::ZooKeeper { servers, path } => {
                let path = in_target(Path::new(path));
                write!(f, "{scheme}+zookeeper://{}{path}", Commas(servers))?;
            }
            Backends::Mdns(service) => write!(f, "{scheme}+mdns://{service}.local")?,
        }
        // After a path, the database needs a parameter.
        let is_path = matches!(&self.backends, Backends::File(_) | Backends::ZooKeeper { .. })
            || matches!(&self.backends, Backends::Listed(all) if matches!(all[..], [Endpoint::Unix(_)]));
        match self.database {
            Some(database) if is_path => write!(f, "?db={database}"),
            Some(database) => write!(f, "/{database}"),
            None => Ok(()),
        }
    }
}

struct Commas<'a>(&'a [Endpoint]);

impl fmt::Display for Commas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, endpoint) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{endpoint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With and without the optional parts in brackets.
    #[test]
    fn the_forms_that_are_documented_are_read() {
        for form in FORMS.iter().flat_map(|(forms, _)| *forms) {
            let whole: String = form.chars().filter(|c| !matches!(c, '[' | ']' | '…')).collect();
            let mut depth = 0;
            let without = form.chars().filter(|c| {
                depth += i32::from(*c == '[');
                let is_outside = depth == 0 && *c != '…';
                depth -= i32::from(*c == ']');
                is_outside
            });
            for text in [whole, without.collect()] {
                let value = text.replace("PORT", "6379").replace("DB", "1");
                assert!(value.parse::<Target>().is_ok(), "{form}: {value}");
            }
        }
    }

    #[test]
    fn every_form_is_read_and_shown_without_its_secrets() {
        for (value, shown) in [
            ("tcp://10.0.0.5:5432", "tcp://10.0.0.5:5432"),
            ("tcp://10.0.0.5:5432/", "tcp://10.0.0.5:5432"),
            ("tcp://my_db:5432", "tcp://my_db:5432"),
            ("tcp://[2001:db8::1]:80", "tcp://[2001:db8::1]:80"),
            ("redis://cache", "redis://cache:6379"),
            ("redis://[::1]/2", "redis://[::1]:6379/2"),
            ("redis://app:pa%20ss@cache:6380/3", "redis://cache:6380/3"),
            ("redis://:p@s/s@cache", "redis://cache:6379"),
            ("rediss://cache", "rediss://cache:6379"),
            ("tls://db:5432", "tls://db:5432"),
            ("unix:///run/db.sock", "unix:///run/db.sock"),
            ("redis+unix:///run/redis.sock", "redis+unix:///run/redis.sock"),
            ("tcp://a:1,b:2", "tcp://a:1,b:2"),
            ("tcp+srv://_db._tcp.example", "tcp+srv://_db._tcp.example"),
            ("rediss+file:///etc/backends", "rediss+file:///etc/backends"),
            ("unix:///run/100%25/%0a", "unix:///run/100%25/%0A"),
            ("redis+unix:///run/a@b", "redis+unix:///run/a%40b"),
            ("redis+sentinel://s1/my%2fmas%40ter", "redis+sentinel://s1:26379/my%2Fmas%40ter"),
            ("redis+sentinel://:pw@s1,s2:26380/mymaster/1", "redis+sentinel://s1:26379,s2:26380/mymaster/1"),
            ("redis+cluster://n1", "redis+cluster://n1:6379"),
            ("redis+cluster://app:pw@n1,[::1]:7000/0", "redis+cluster://n1:6379,[::1]:7000/0"),
            ("redis+cluster://n1:7000,redis+cluster://n2:7000", "redis+cluster://n1:7000,n2:7000"),
            ("rediss+cluster://n1,n2:7000/", "rediss+cluster://n1:6379,n2:7000"),
            ("redis+cluster://n1?ssl=true&db=0", "rediss+cluster://n1:6379/0"),
            ("redis-cluster://n1", "redis+cluster://n1:6379"),
            ("tcp+zookeeper://z1,z2:2182/services/db", "tcp+zookeeper://z1:2181,z2:2182/services/db"),
            ("redis+zookeeper://:p@z1/a%20b/?db=3", "redis+zookeeper://z1:2181/a%20b?db=3"),
            ("tls+mdns://_db._tcp", "tls+mdns://_db._tcp.local"),
            ("redis+mdns://:p@_redis._TCP.local./3", "redis+mdns://_redis._tcp.local/3"),
            ("valkey+cluster://n1", "redis+cluster://n1:6379"),
            ("valkeys-cluster://n1", "rediss+cluster://n1:6379"),
        ] {
            let target: Target = value.parse().unwrap_or_else(|e| panic!("{value}: {e}"));
            assert_eq!(target.to_string(), shown);
        }
    }

    #[test]
    fn percent_encoding_is_undone_to_any_byte() {
        let target: Target = "redis://us%65r:%00%ff%0d@h".parse().unwrap();
        assert_eq!(target.username.unwrap().expose(), b"user");
        assert_eq!(target.password.unwrap().expose(), b"\x00\xff\r");
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for value in [
            "",
            "redis",
            "redis:6379",
            "http://redis:6379",
            "tcp://",
            "tcp://:6379",
            "tcp://redis",
            "tcp://redis:0",
            "tcp://redis:65536",
            "tcp://redis:+1",
            "tcp://redis:port",
            "tcp://1.2.3.400:1",
            "tcp://::1:6379",
            "tcp://[::1",
            "tcp://[redis]:6379",
            "tcp://redis:6379/0",
            "tcp://re dis:6379",
            "tcp://user:pw@redis:6379",
            "tcp://a:1,",
            "tcp+unix:///x",
            "unix://run/x",
            "tcp+sentinel://a/b",
            "redis+sentinel://a",
            "redis+sentinel://a/",
            "redis+srv://10.0.0.1",
            "redis+nothing://a",
            "redis://user@host",
            "redis://host/x",
            "redis://host/-1",
            "redis://host/99999999999",
            "redis+cluster://",
            "redis+cluster://n1,",
            "redis+cluster://n1/mymaster",
            "tcp+cluster://n1:6379",
            "tls+cluster://n1:6379",
            "redis+cluster:///run/redis.sock",
            "tcp+zookeeper://z1",
            "tcp+zookeeper://z1/",
            "tcp+zookeeper:///services/db",
            "tcp+zookeeper://z1/services//db",
            "tcp+zookeeper://z1/services/..",
            "tcp+zookeeper://z1/a%00b",
            "unix+zookeeper://z1/a",
            "tcp+mdns://db",
            "tcp+mdns://_db",
            "tcp+mdns://db._tcp",
            "tcp+mdns://_db._udp",
            "tcp+mdns://_db._tcp.example",
            "tcp+mdns://_a_name_too_long_for_it._tcp",
            "tcp+mdns://_db._tcp:5432",
        ] {
            assert!(value.parse::<Target>().is_err(), "{value}");
        }
    }

    #[test]
    fn a_cluster_has_database_0_only() {
        for value in ["redis+cluster://n1/1", "rediss+cluster://n1?db=15"] {
            let refused = value.parse::<Target>().unwrap_err();
            assert_eq!(refused.reason, ONE_DATABASE, "{value}");
        }
    }
}
