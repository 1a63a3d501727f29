//! The parser of targets, including the variants of clients' libraries.
//!
//! Those have other names for schemes (`valkeys://`, `redis-sentinel://…#mymaster`) and query parameters. Parameters of
//! the target are used; those of the client itself (timeouts, pools) are ignored; unknown ones are refused, because
//! they
//! may be a misspelt parameter that matters.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::{
    Backends, Endpoint, Host, Malformed, ONE_DATABASE, Scheme, Target, database, endpoint, socket_path,
};
use crate::config::notation::flag;
use crate::secret::Secret;

const SENTINEL_PORT: u16 = 26379;
const ZOOKEEPER_PORT: u16 = 2181;

/// How a target lists its backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Listed,
    Unix,
    File,
    Srv,
    Sentinel,
    Cluster,
    ZooKeeper,
    Mdns,
}

/// Parses a scheme, in upper or lower case.
pub(super) fn scheme(word: &str) -> Option<(Scheme, Form)> {
    let word = word.to_ascii_lowercase();
    let (family, form) = word.split_once(['+', '-']).unwrap_or((&word, ""));
    let family = match family {
        "tcp" => Scheme::Tcp,
        "redis" | "valkey" => Scheme::Redis,
        "rediss" | "valkeys" => Scheme::Rediss,
        "tls" | "ssl" => Scheme::Tls,
        "unix" if form.is_empty() => return Some((Scheme::Unix, Form::Unix)),
        _ => return None,
    };
    match (family, form) {
        (family, "") => Some((family, Form::Listed)),
        (family, "file") => Some((family, Form::File)),
        (family, "srv") => Some((family, Form::Srv)),
        (family, "zookeeper") => Some((family, Form::ZooKeeper)),
        (family, "mdns") => Some((family, Form::Mdns)),
        (Scheme::Tcp, "tls" | "ssl") => Some((Scheme::Tls, Form::Listed)),
        (Scheme::Redis, "tls" | "ssl") => Some((Scheme::Rediss, Form::Listed)),
        (Scheme::Redis, "unix" | "socket") => Some((Scheme::Redis, Form::Unix)),
        (Scheme::Redis | Scheme::Rediss, "sentinel") => Some((family, Form::Sentinel)),
        (Scheme::Redis | Scheme::Rediss, "cluster") => Some((family, Form::Cluster)),
        _ => None,
    }
}

/// The meaning of a query parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Database,
    User,
    Password,
    /// `true` or `false`.
    Tls,
    /// How certificates are verified: `none`, `required` and the like.
    Verify,
    /// The opposite of `Verify`.
    DoNotVerify,
    /// Whether the certificate must have the host's name.
    VerifyName,
    /// The Sentinels' service.
    Service,
    /// A file; the link has this setting for it.
    File(&'static str),
    /// Used by a client alone; ignored.
    Client,
}

/// The parameters of clients' libraries (redis-py, Celery, go-redis, Lettuce, Jedis, ioredis, node-redis, Predis,
/// phpredis, redis-rs), in lower case and without dashes and underscores, because the libraries differ in these.
const PARAMETERS: &[(&str, Meaning)] = &[
    ("db", Meaning::Database),
    ("database", Meaning::Database),
    ("dbindex", Meaning::Database),
    ("virtualhost", Meaning::Database),
    ("user", Meaning::User),
    ("username", Meaning::User),
    ("pass", Meaning::Password),
    ("password", Meaning::Password),
    ("auth", Meaning::Password),
    ("ssl", Meaning::Tls),
    ("tls", Meaning::Tls),
    ("sslcertreqs", Meaning::Verify),
    ("verifypeer", Meaning::Verify),
    ("ssl[verifypeer]", Meaning::Verify),
    ("stream[verifypeer]", Meaning::Verify),
    ("rejectunauthorized", Meaning::Verify),
    ("skipverify", Meaning::DoNotVerify),
    ("insecure", Meaning::DoNotVerify),
    ("insecureskipverify", Meaning::DoNotVerify),
    ("sslcheckhostname", Meaning::VerifyName),
    ("ssl[verifypeername]", Meaning::VerifyName),
    ("stream[verifypeername]", Meaning::VerifyName),
    ("sslcacerts", Meaning::File("TLS_CA_FILE")),
    ("ssl[cafile]", Meaning::File("TLS_CA_FILE")),
    ("stream[cafile]", Meaning::File("TLS_CA_FILE")),
    ("sslcertfile", Meaning::File("TLS_CERT_FILE")),
    ("sslkeyfile", Meaning::File("TLS_KEY_FILE")),
    ("sentinelmasterid", Meaning::Service),
    ("mastername", Meaning::Service),
    ("redissentinel", Meaning::Service),
    ("servicename", Meaning::Service),
    ("abortconnect", Meaning::Client),
    ("allowusernameinuri", Meaning::Client),
    ("alias", Meaning::Client),
    ("clientname", Meaning::Client),
    ("commandtimeout", Meaning::Client),
    ("connectiontimeout", Meaning::Client),
    ("connecttimeout", Meaning::Client),
    ("connmaxidletime", Meaning::Client),
    ("connmaxlifetime", Meaning::Client),
    ("contexttimeoutenabled", Meaning::Client),
    ("decoderesponses", Meaning::Client),
    ("dialtimeout", Meaning::Client),
    ("enableofflinequeue", Meaning::Client),
    ("enablereadycheck", Meaning::Client),
    ("encoding", Meaning::Client),
    ("encodingerrors", Meaning::Client),
    ("family", Meaning::Client),
    ("healthcheckinterval", Meaning::Client),
    ("idlecheckfrequency", Meaning::Client),
    ("idletimeout", Meaning::Client),
    ("keepalive", Meaning::Client),
    ("keyprefix", Meaning::Client),
    ("lazy", Meaning::Client),
    ("lazyconnect", Meaning::Client),
    ("libname", Meaning::Client),
    ("libraryname", Meaning::Client),
    ("libraryversion", Meaning::Client),
    ("libversion", Meaning::Client),
    ("maxactiveconns", Meaning::Client),
    ("maxconnage", Meaning::Client),
    ("maxconnections", Meaning::Client),
    ("maxidleconns", Meaning::Client),
    ("maxretries", Meaning::Client),
    ("maxretriesperrequest", Meaning::Client),
    ("maxretrybackoff", Meaning::Client),
    ("minidleconns", Meaning::Client),
    ("minretrybackoff", Meaning::Client),
    ("persistent", Meaning::Client),
    ("persistentid", Meaning::Client),
    ("poolfifo", Meaning::Client),
    ("poolsize", Meaning::Client),
    ("pooltimeout", Meaning::Client),
    ("prefix", Meaning::Client),
    ("protocol", Meaning::Client),
    ("readtimeout", Meaning::Client),
    ("retryinterval", Meaning::Client),
    ("retryonerror", Meaning::Client),
    ("retryontimeout", Meaning::Client),
    ("singleconnectionclient", Meaning::Client),
    ("socketconnecttimeout", Meaning::Client),
    ("socketkeepalive", Meaning::Client),
    ("sockettimeout", Meaning::Client),
    ("tcpkeepalive", Meaning::Client),
    ("timeout", Meaning::Client),
    ("weight", Meaning::Client),
    ("writetimeout", Meaning::Client),
];

fn meaning(key: &str) -> Option<Meaning> {
    let key = percent_decode_str(key).decode_utf8_lossy().to_ascii_lowercase().replace(['_', '-'], "");
    PARAMETERS.iter().find(|(name, _)| *name == key).map(|(_, meaning)| *meaning)
}

/// Splits off the query: at the first question mark before a known parameter. Others belong to a password or a path.
pub(super) fn split_query(text: &str) -> (&str, Option<&str>) {
    let begins_query = |at: &usize| {
        let behind = &text[at + 1..];
        behind.is_empty() || behind.split_once('=').is_some_and(|(key, _)| meaning(key).is_some())
    };
    match text.match_indices('?').map(|(at, _)| at).find(begins_query) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Splits off the user information at the last @; not in a path, which may contain an @.
pub(super) fn split_user(text: &str) -> (Option<&str>, &str) {
    match text.rsplit_once('@') {
        Some((user, rest)) if !user.starts_with('/') => (Some(user), rest),
        _ => (None, text),
    }
}

/// Splits off the fragment; not in a path, which may contain a #.
fn split_fragment(text: &str, has_path: bool) -> (&str, Option<&str>) {
    match text.split_once('#') {
        Some((text, fragment)) if !has_path => (text, Some(fragment)),
        _ => (text, None),
    }
}

impl FromStr for Target {
    type Err = Malformed;

    fn from_str(value: &str) -> Result<Self, Malformed> {
        if value.is_empty() {
            return Err("it is empty".into());
        }
        let (word, rest) =
            value.split_once("://").ok_or(Malformed::from("it has no scheme, such as tcp:// or redis://"))?;
        let (scheme, form) = scheme(word).ok_or(Malformed::from("its scheme is unknown"))?;
        let one = without_repeated_scheme(word, rest)?;
        let (rest, query) = split_query(one.as_deref().map_or(rest, String::as_str));
        let (user_information, rest) = split_user(rest);
        let has_path = matches!(form, Form::Unix | Form::File);
        let (rest, query) = match rest.split_once('?') {
            Some((rest, unknown)) if !has_path => (rest, Some(unknown)),
            _ => (rest, query),
        };
        let (rest, fragment) = split_fragment(rest, has_path);
        let (query, fragment) = match query.map(|query| split_fragment(query, has_path)) {
            Some((query, behind)) => (Some(query), behind.or(fragment)),
            None => (None, fragment),
        };
        if !scheme.is_redis() && (user_information.is_some() || query.is_some_and(|query| !query.is_empty()))
        {
            return Err("only redis:// and rediss:// have a user, a password and parameters".into());
        }
        let mut parts = Parts::default();
        if let Some(text) = user_information {
            (parts.username, parts.password) = credentials(text)?;
        }
        for parameter in query.into_iter().flat_map(|query| query.split('&')).filter(|text| !text.is_empty())
        {
            parts.take(parameter)?;
        }
        match (fragment, form) {
            (None | Some(""), _) => {}
            // Lettuce has the service in the fragment, redis-rs `#insecure`.
            (Some(fragment), Form::Sentinel) => parts.set_service(&decoded(fragment)?)?,
            (Some("insecure"), _) if scheme.is_redis() => parts.is_insecure = true,
            (Some(_), _) => return Err("the part after its # has no meaning here".into()),
        }
        let backends = parts.backends(scheme, form, rest)?;
        parts.target(scheme, form, backends)
    }
}

/// The parts of a value other than the backends.
#[derive(Default)]
struct Parts {
    username: Option<Secret>,
    password: Option<Secret>,
    database: Option<u32>,
    tls: Option<bool>,
    is_insecure: bool,
    service: Option<String>,
    ignored: Vec<String>,
}

impl Parts {
    /// Takes a parameter, `KEY=VALUE`. Errors never quote one that may be a secret.
    fn take(&mut self, parameter: &str) -> Result<(), Malformed> {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let Some(meaning) = meaning(key) else {
            // A parameter's name has letters and underscores alone; anything else may be part of a password.
            let is_name =
                !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
            let key = if is_name && !value.is_empty() { key } else { "one of its parameters" };
            return Err(format!("{key} is unknown: remove it from the URL").into());
        };
        let switch = || flag(value).map_err(|_| format!("its {key} is neither true nor false"));
        match meaning {
            Meaning::Database => self.set_database(database_in(&decoded(value)?)?)?,
            Meaning::User => set(&mut self.username, form_decoded(value), "user")?,
            Meaning::Password => set(&mut self.password, form_decoded(value), "password")?,
            Meaning::Tls => self.tls = Some(switch()?),
            Meaning::Verify => {
                let verifies = verifies(value);
                let neither = || Malformed::from(format!("its {key} is neither none nor required"));
                self.is_insecure |= !verifies.ok_or_else(neither)?;
            }
            Meaning::DoNotVerify => self.is_insecure |= switch()?,
            Meaning::VerifyName => {
                if !switch()? {
                    return Err(Malformed {
                        reason: format!("its {key} has a setting of its own").into(),
                        setting: Some("TLS_VERIFY=ca".to_owned()),
                    });
                }
            }
            Meaning::Service => self.set_service(&decoded(value)?)?,
            Meaning::File(setting) => {
                return Err(Malformed {
                    reason: format!("its {key} has a setting of its own").into(),
                    setting: Some(format!("{setting}={}", decoded(value)?)),
                });
            }
            Meaning::Client => self.ignored.push(key.to_owned()),
        }
        Ok(())
    }

    fn set_database(&mut self, database: Option<u32>) -> Result<(), Malformed> {
        match (self.database, database) {
            (Some(one), Some(other)) if one != other => Err("it names two databases".into()),
            (one, other) => {
                self.database = one.or(other);
                Ok(())
            }
        }
    }

    fn set_service(&mut self, service: &str) -> Result<(), Malformed> {
        if self.service.as_ref().is_some_and(|known| known != service) {
            return Err("it names two services".into());
        }
        self.service = Some(service.to_owned()).filter(|service| !service.is_empty());
        Ok(())
    }

    /// Parses the backends, and the database and service in the path.
    fn backends(&mut self, scheme: Scheme, form: Form, rest: &str) -> Result<Backends, Malformed> {
        Ok(match form {
            Form::Listed => {
                let hosts = self.split_database(scheme, rest)?;
                Backends::Listed(endpoints(hosts, scheme.default_port())?)
            }
            Form::Unix => Backends::Listed(vec![Endpoint::Unix(socket_path(absolute_path(rest)?)?)]),
            Form::File => Backends::File(absolute_path(rest)?),
            Form::Srv => match self.split_database(scheme, rest)?.parse()? {
                Host::Name(name) => Backends::Srv(name),
                Host::Address(_) | Host::LinkLocal(_) | Host::Linked { .. } => {
                    return Err("SRV records have a name, not an address".into());
                }
            },
            Form::Sentinel => {
                let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
                let mut path = path.strip_suffix('/').unwrap_or(path);
                if self.service.is_none() {
                    let (service, database) = path.split_once('/').unwrap_or((path, ""));
                    self.set_service(&decoded(service)?)?;
                    path = database;
                }
                self.set_database(database_in(path)?)?;
                let service = self.service.take();
                let service = service
                    .ok_or(Malformed::from("it names no service: redis+sentinel://HOST:26379/SERVICE"))?;
                Backends::Sentinel { sentinels: endpoints(hosts, Some(SENTINEL_PORT))?, service }
            }
            Form::Cluster => {
                let nodes = self.split_database(scheme, rest)?;
                if self.database.is_some_and(|database| database != 0) {
                    return Err(ONE_DATABASE.into());
                }
                Backends::Cluster(endpoints(nodes, scheme.default_port())?)
            }
            Form::ZooKeeper => {
                let slash = rest.find('/').ok_or(Malformed::from(NO_NODE))?;
                let (hosts, path) = rest.split_at(slash);
                Backends::ZooKeeper { servers: endpoints(hosts, Some(ZOOKEEPER_PORT))?, path: node(path)? }
            }
            Form::Mdns => Backends::Mdns(announced_service(self.split_database(scheme, rest)?)?),
        })
    }

    /// Splits `HOSTS[/DB]`; only the Redis schemes have a path.
    fn split_database<'a>(&mut self, scheme: Scheme, rest: &'a str) -> Result<&'a str, Malformed> {
        let Some((hosts, path)) = rest.split_once('/') else { return Ok(rest) };
        // A slash at the end has no meaning.
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() && !scheme.is_redis() {
            return Err("only redis:// and rediss:// have a path".into());
        }
        self.set_database(database_in(path)?)?;
        Ok(hosts)
    }

    fn target(self, scheme: Scheme, form: Form, backends: Backends) -> Result<Target, Malformed> {
        let scheme = match (self.tls, scheme) {
            (Some(true), Scheme::Redis) if form == Form::Unix => {
                return Err("a Unix socket has no TLS".into());
            }
            (Some(true), Scheme::Redis) => Scheme::Rediss,
            (Some(false), Scheme::Rediss) => {
                return Err("its scheme requires TLS, and a parameter turns it off".into());
            }
            _ => scheme,
        };
        if self.service.is_some() {
            return Err("only a Sentinel target has a service: redis+sentinel://HOST:26379/SERVICE".into());
        }
        Ok(Target {
            username: self.username,
            password: self.password,
            database: self.database,
            is_insecure: self.is_insecure,
            ignored: self.ignored,
            ..Target::of(scheme, backends)
        })
    }
}

/// Combines several URLs of one scheme, separated by commas, into one with several hosts, if they agree in everything
/// else. `None` if there is only one.
fn without_repeated_scheme(word: &str, rest: &str) -> Result<Option<Zeroizing<String>>, Malformed> {
    let mut urls = Vec::new();
    let mut begin = 0;
    for (at, separator) in rest.match_indices("://") {
        let before = rest[begin..at].rsplit_once(',');
        if let Some((url, _)) = before.filter(|(_, again)| again.trim().eq_ignore_ascii_case(word)) {
            urls.push(url.trim());
            begin = at + separator.len();
        }
    }
    if urls.is_empty() {
        return Ok(None);
    }
    urls.push(rest[begin..].trim());
    let urls: Vec<_> = urls.into_iter().map(parts).collect();
    let (user, _, behind) = urls[0];
    if urls.iter().any(|(other_user, _, other)| *other_user != user || *other != behind) {
        return Err("its URLs differ in more than the host".into());
    }
    let hosts: Vec<_> = urls.iter().map(|(_, host, _)| *host).collect();
    // Allocated at its final size: growing would leave parts of a password in memory.
    let mut one = Zeroizing::new(String::with_capacity(rest.len()));
    if let Some(user) = user {
        one.push_str(user);
        one.push('@');
    }
    one.push_str(&hosts.join(","));
    one.push_str(behind);
    Ok(Some(one))
}

/// Splits a URL into user information, hosts and the rest.
fn parts(url: &str) -> (Option<&str>, &str, &str) {
    let (user, rest) = split_user(url);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    (user, &rest[..end], &rest[end..])
}

/// `[USER]:[PASSWORD]`, percent-decoded; an empty part is `None`.
fn credentials(text: &str) -> Result<(Option<Secret>, Option<Secret>), Malformed> {
    let (user, password) = text.split_once(':').ok_or(Malformed::from(
        "the part before the @ has no colon: redis://USER:PASSWORD@HOST or redis://:PASSWORD@HOST",
    ))?;
    Ok((secret(user), secret(password)))
}

/// A percent-encoded secret; an empty one is `None`.
fn secret(text: &str) -> Option<Secret> {
    // Allocated at its final size: growing would leave parts of a password in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    bytes.extend(percent_decode_str(text));
    (!bytes.is_empty()).then(|| Secret::new(bytes.to_vec()))
}

/// A parameter's value, form-decoded: a plus sign is a space.
fn form_decoded(text: &str) -> Option<Secret> {
    secret(&Zeroizing::new(text.replace('+', "%20")))
}

fn set(known: &mut Option<Secret>, given: Option<Secret>, what: &str) -> Result<(), Malformed> {
    match (&*known, given) {
        (Some(_), Some(_)) => return Err(format!("it has a {what} twice").into()),
        (None, given) => *known = given,
        (Some(_), None) => {}
    }
    Ok(())
}

fn decoded(text: &str) -> Result<String, Malformed> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| "a part of it is not UTF-8".into())
}

fn database_in(path: &str) -> Result<Option<u32>, Malformed> {
    if path.is_empty() {
        return Ok(None);
    }
    database(path).map(Some).ok_or("its database is not a number".into())
}

/// The values of Python, Java, Go and PHP for the verification of certificates.
fn verifies(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().trim_start_matches("cert_") {
        "none" => Some(false),
        "required" | "optional" | "full" => Some(true),
        other => flag(other).ok(),
    }
}

fn endpoints(hosts: &str, default_port: Option<u16>) -> Result<Vec<Endpoint>, Malformed> {
    hosts.split(',').map(|host| endpoint(host.trim(), default_port)).collect()
}

const NO_NODE: &str = "it names no node of ZooKeeper: tcp+zookeeper://HOST:2181/PATH";

/// The path of a node of ZooKeeper, without a slash at its end.
fn node(text: &str) -> Result<String, Malformed> {
    let path = decoded(text.strip_suffix('/').unwrap_or(text))?;
    let mut names = path.strip_prefix('/').ok_or(Malformed::from(NO_NODE))?.split('/');
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.chars().any(char::is_control);
    if names.all(is_name) { Ok(path) } else { Err("its path is not that of a node of ZooKeeper".into()) }
}

/// The name of a service of DNS-SD (RFC 6763, 7), without the domain.
fn announced_service(text: &str) -> Result<String, Malformed> {
    /// The longest name of a service (RFC 6335, 5.1).
    const LONGEST: usize = 15;
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let service = text.strip_suffix(".local").unwrap_or(&text);
    let name = service.strip_prefix('_').and_then(|service| service.strip_suffix("._tcp"));
    let is_name = |name: &str| {
        (1..=LONGEST).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if name.is_some_and(is_name) {
        Ok(service.to_owned())
    } else {
        Err("it is no name of a service that announces itself, such as _redis._tcp".into())
    }
}

fn absolute_path(text: &str) -> Result<PathBuf, Malformed> {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    if !bytes.starts_with(b"/") || bytes.contains(&0) {
        return Err("its path must begin with a slash, as in unix:///run/redis.sock".into());
    }
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}
