//! Suggests a correct target for an invalid value.
//!
//! The value is parsed loosely and reassembled. The result is shown only if it is a valid target, and without user and
//! password.

use super::url::{Form, scheme, split_query, split_user};
use super::{Scheme, Target, database, port, split_port};
use crate::config::settings::nearest;

/// The probable target; `None` if there is no good guess. `link_port` is the port in the variable's name.
pub(crate) fn mended(value: &str, link_port: u16) -> Option<String> {
    if let Some(several) = with_commas(value) {
        return Some(several);
    }
    let loose = Loose::read(value)?;
    let target: Target = loose.put_together(link_port).parse().ok()?;
    let shown = target.to_string();
    let (scheme, rest) = shown.split_once("://")?;
    let secrets = match loose.user {
        Some(user) if loose.keeps_user() && user.contains(':') => "****@",
        Some(_) if loose.keeps_user() => ":****@",
        _ => "",
    };
    Some(format!("{scheme}://{secrets}{rest}"))
}

/// Several targets with white space between them, as one; none that may have a password.
fn with_commas(value: &str) -> Option<String> {
    let urls: Vec<_> = value.split_whitespace().map(|url| url.trim_end_matches([',', ';'])).collect();
    let are_urls = urls.len() > 1 && urls.iter().all(|url| url.contains("://") && !url.contains('@'));
    let target: Target = urls.join(",").parse().ok().filter(|_| are_urls)?;
    Some(target.to_string())
}

/// The loosely parsed parts of a value; none has to be valid.
struct Loose<'a> {
    scheme: Scheme,
    form: Form,
    /// Whether the scheme is one of ours. Then the user and the path are for Redis.
    is_ours: bool,
    user: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
    database: Option<u32>,
}

impl<'a> Loose<'a> {
    fn read(value: &'a str) -> Option<Self> {
        if let Some(azure) = Self::read_azure(value) {
            return Some(azure);
        }
        let (word, rest) = split_scheme(value)?;
        let known = scheme(word).or_else(|| misspelt(word));
        let (scheme, form) = known.unwrap_or((foreign(word), Form::Listed));
        let (rest, query) = split_query(rest);
        let (user, rest) = split_user(rest);
        // Without a known parameter, the text after a question mark may be anything.
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let of_query = |query: &str| {
            let parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
            parameters
                .filter(|(key, _)| *key == "db" || *key == "database")
                .find_map(|(_, text)| database(text))
        };
        let (hosts, path) = match form {
            Form::Unix | Form::File => ("", rest),
            _ => rest.split_once('/').unwrap_or((rest, "")),
        };
        let database = query.and_then(of_query);
        Some(Self { scheme, form, is_ours: known.is_some(), user, hosts, path, database })
    }

    /// Azure's form, `HOST:6380,password=…,ssl=True`.
    fn read_azure(value: &'a str) -> Option<Self> {
        let (host, options) = value.split_once(',')?;
        let options = options.to_ascii_lowercase();
        if host.contains("://") || !(options.contains("password=") || options.contains("ssl=")) {
            return None;
        }
        let scheme = if options.contains("ssl=true") { Scheme::Rediss } else { Scheme::Redis };
        let user = options.contains("password=").then_some("");
        Some(Self { scheme, form: Form::Listed, is_ours: true, user, hosts: host, path: "", database: None })
    }

    fn keeps_user(&self) -> bool {
        self.user.is_some() && self.is_ours
    }

    fn put_together(&self, link_port: u16) -> String {
        let path = self.path.trim_end_matches('/');
        let database = self.database.or_else(|| database(path));
        // A user or a database makes it a Redis link.
        let is_redis = self.is_ours && (self.keeps_user() || database.is_some());
        let scheme = match self.scheme {
            Scheme::Tcp | Scheme::Unix if is_redis => Scheme::Redis,
            Scheme::Tls if is_redis => Scheme::Rediss,
            scheme => scheme,
        };
        let hosts = || mended_hosts(self.hosts, scheme, self.form, link_port);
        let database = database.filter(|_| scheme.is_redis()).map(|number| format!("?db={number}"));
        let database = database.unwrap_or_default();
        let prefix = scheme.prefix();
        match (self.form, scheme) {
            (Form::Unix, Scheme::Unix) => format!("unix:///{}", path.trim_start_matches('/')),
            (Form::Unix, _) => format!("{prefix}+unix:///{}{database}", path.trim_start_matches('/')),
            (Form::File, _) => format!("{prefix}+file:///{}{database}", path.trim_start_matches('/')),
            (Form::Listed, _) => format!("{prefix}://{}{database}", hosts()),
            (Form::Srv, _) => format!("{prefix}+srv://{}{database}", self.hosts),
            (Form::Sentinel, _) => {
                let service = path.split('/').next().filter(|service| !service.is_empty());
                format!("{prefix}+sentinel://{}/{}{database}", hosts(), service.unwrap_or("mymaster"))
            }
            (Form::Cluster, _) => format!("{prefix}+cluster://{}", hosts()),
            (Form::ZooKeeper, _) => {
                let node = Some(path.trim_start_matches('/')).filter(|node| !node.is_empty());
                format!("{prefix}+zookeeper://{}/{}{database}", hosts(), node.unwrap_or("PATH"))
            }
            (Form::Mdns, _) => {
                let name = self.hosts.split('.').next().unwrap_or_default().trim_start_matches('_');
                format!("{prefix}+mdns://_{name}._tcp{database}")
            }
        }
    }
}

/// Splits off the scheme, or guesses it.
fn split_scheme(value: &str) -> Option<(&str, &str)> {
    if let Some(split) = value.split_once("://") {
        return Some(split);
    }
    // A scheme with an incomplete `://`; but `redis:6379` is a host and a port.
    let end = value.find([':', '/']).filter(|end| scheme(&value[..*end]).is_some());
    if let Some(end) = end {
        let rest = value[end..].strip_prefix(':').unwrap_or(&value[end..]).trim_start_matches('/');
        let number = rest.split(['/', '?']).next().unwrap_or_default();
        let is_port = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if !is_port || value[end..].starts_with('/') || value[end..].starts_with(":/") {
            return Some((&value[..end], rest));
        }
    }
    let extension = value.rsplit_once('.').map(|(_, extension)| extension);
    if value.starts_with('/') && matches!(extension, Some("sock" | "socket")) {
        return Some(("unix", value));
    }
    let value = value.trim_start_matches('/');
    if value.contains('@') {
        return Some(("redis", value));
    }
    // A single word may be anything, even a password; hardly an address, or a domain's name in small letters.
    let is_address = value.parse::<std::net::IpAddr>().is_ok();
    let of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    let is_domain = value.matches('.').count() > 1 && value.bytes().all(of_name);
    (value.contains(':') || is_address || is_domain).then_some(("tcp", value))
}

/// The scheme of a cluster that a word is nearly, or that it says in other words.
fn of_cluster(word: &str) -> Option<&'static str> {
    const CLUSTERS: [&str; 4] = ["redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster"];
    let said = word.split_once("cluster").and_then(|(family, rest)| {
        let family = family.trim_end_matches(['+', '-', '_']);
        let is_tls = !family.is_empty() && scheme(family)?.0.is_tls();
        let is_tls = is_tls || rest.contains("tls") || rest.contains("ssl");
        Some(if is_tls { "rediss+cluster" } else { "redis+cluster" })
    });
    said.or_else(|| nearest(word, CLUSTERS.into_iter()))
}

/// The scheme of a source of backends that a word is nearly.
fn of_source(word: &str) -> Option<&'static str> {
    const SOURCES: [&str; 8] = [
        "tcp+zookeeper",
        "redis+zookeeper",
        "rediss+zookeeper",
        "tls+zookeeper",
        "tcp+mdns",
        "redis+mdns",
        "rediss+mdns",
        "tls+mdns",
    ];
    let (family, form) = word.split_once(['+', '-', '_'])?;
    let said = match form {
        "zk" => SOURCES.into_iter().find(|source| *source == format!("{family}+zookeeper")),
        "dnssd" | "dns-sd" | "avahi" | "bonjour" | "zeroconf" => {
            SOURCES.into_iter().find(|source| *source == format!("{family}+mdns"))
        }
        _ => None,
    };
    said.or_else(|| nearest(word, SOURCES.into_iter()))
}

/// What a scheme was meant to be that is nearly one of ours.
fn misspelt(word: &str) -> Option<(Scheme, Form)> {
    let word = word.to_ascii_lowercase();
    let meant = match &*word {
        "sentinel" => "redis+sentinel",
        "srv" => "tcp+srv",
        "file" => "tcp+file",
        "zookeeper" | "zk" => "tcp+zookeeper",
        "mdns" | "dnssd" | "dns-sd" | "avahi" | "bonjour" | "zeroconf" => "tcp+mdns",
        "socket" => "unix",
        "tcps" => "tls",
        _ => match of_cluster(&word).or_else(|| of_source(&word)) {
            Some(meant) => meant,
            // Of a family that we know, in a way that we don't.
            None if word.starts_with("redis+") || word.starts_with("redis-") => "redis",
            None if word.starts_with("rediss+") || word.starts_with("rediss-") => "rediss",
            None => {
                nearest(&word, ["redis", "rediss", "valkey", "valkeys", "tcp", "tls", "unix"].into_iter())?
            }
        },
    };
    scheme(meant)
}

/// The tunnel for a foreign scheme: plain, or with TLS.
fn foreign(word: &str) -> Scheme {
    let has_tls = ["https", "wss", "amqps", "mqtts", "ldaps", "ftps", "smtps", "imaps"];
    if has_tls.contains(&word.to_ascii_lowercase().as_str()) { Scheme::Tls } else { Scheme::Tcp }
}

fn mended_hosts(hosts: &str, scheme: Scheme, form: Form, link_port: u16) -> String {
    let hosts = hosts.split([',', ';']).map(str::trim).filter(|host| !host.is_empty());
    let hosts: Vec<_> = hosts
        .map(|text| {
            let (host, number) = split_port(text);
            let number = number.and_then(|number| port(number).ok());
            let has_default = scheme.is_redis() || matches!(form, Form::Sentinel | Form::ZooKeeper);
            // The text may be an IPv6 address without brackets, with or without a port.
            let is_ipv6 = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
            let (host, number) = match number {
                Some(number) if is_ipv6(host) => (format!("[{host}]"), Some(number)),
                _ if is_ipv6(text) => (format!("[{text}]"), None),
                number => (host.trim().to_owned(), number),
            };
            match number.or((!has_default).then_some(link_port)) {
                Some(number) => format!("{host}:{number}"),
                None => host,
            }
        })
        .collect();
    hosts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_shown_without_secrets() {
        for (written, shown) in [
            ("db:5432", Some("tcp://db:5432")),
            ("//db:5432", Some("tcp://db:5432")),
            ("tcp:/db:5432", Some("tcp://db:5432")),
            ("tcp//db:5432", Some("tcp://db:5432")),
            ("tcp:db:5432", Some("tcp://db:5432")),
            ("redis:6379", Some("tcp://redis:6379")),
            ("tcp://db", Some("tcp://db:7000")),
            ("tcp://db:0", Some("tcp://db:7000")),
            ("tcp://db:x", Some("tcp://db:7000")),
            ("redis://cache:x/2", Some("redis://cache:6379/2")),
            ("tcp://db:5432/path", Some("tcp://db:5432")),
            ("tcp://redis:6379/2", Some("redis://redis:6379/2")),
            ("tcp://redis:6379?db=2", Some("redis://redis:6379/2")),
            ("unix:///run/redis.sock?db=2", Some("redis+unix:///run/redis.sock?db=2")),
            ("unix://run/db.sock", Some("unix:///run/db.sock")),
            ("/run/db.sock", Some("unix:///run/db.sock")),
            ("redis:/10.0.0.5:6379", Some("redis://10.0.0.5:6379")),
            ("redis:10.0.0.5:6380", Some("redis://10.0.0.5:6380")),
            ("redis:6379/2", Some("redis://redis:6379/2")),
            ("reddis://:hush@cache/2", Some("redis://****@cache:6379/2")),
            ("tpc://db:5432", Some("tcp://db:5432")),
            ("tcps://db", Some("tls://db:7000")),
            ("redis+nothing://cache:1", Some("redis://cache:1")),
            ("rediss-nothing://cache:1", Some("rediss://cache:1")),
            ("redis+clusters://n1", Some("redis+cluster://n1:6379")),
            ("rediss+clutser://n1:1,n2:2", Some("rediss+cluster://n1:1,n2:2")),
            ("rediscluster://n1", Some("redis+cluster://n1:6379")),
            ("redis_cluster://:hush@n1", Some("redis+cluster://****@n1:6379")),
            ("cluster://n1", Some("redis+cluster://n1:6379")),
            ("reddis+cluster://n1:1", Some("redis+cluster://n1:1")),
            ("redis+cluster+tls://n1:1", Some("rediss+cluster://n1:1")),
            ("rediss_cluster://n1:1", Some("rediss+cluster://n1:1")),
            ("couchbase+cluster://n1:1", Some("tcp://n1:1")),
            ("tcp+cluster://n1:1", Some("redis+cluster://n1:1")),
            ("tls+cluster://n1:1", Some("rediss+cluster://n1:1")),
            ("redis+cluster://n1/2", Some("redis+cluster://n1:6379")),
            (
                "redis+cluster://:hush@n1 , n2;n3:x/mymaster",
                Some("redis+cluster://****@n1:6379,n2:6379,n3:6379"),
            ),
            ("redis+cluster://", None),
            ("zk://z1/services/db", Some("tcp+zookeeper://z1:2181/services/db")),
            (
                "redis+zk://:hush@z1;z2:x/services/db/",
                Some("redis+zookeeper://****@z1:2181,z2:2181/services/db"),
            ),
            ("rediss+zookeper://z1//services/db?db=x", Some("rediss+zookeeper://z1:2181/services/db")),
            ("tcp+zookeeper://z1", Some("tcp+zookeeper://z1:2181/PATH")),
            ("rediss+zookeeper://z1,z2:2182/", Some("rediss+zookeeper://z1:2181,z2:2182/PATH")),
            ("tcp+zookeeper://", None),
            ("tcp+mdns://redis", Some("tcp+mdns://_redis._tcp.local")),
            ("redis+avahi://_redis._udp.local/2", Some("redis+mdns://_redis._tcp.local/2")),
            ("bonjour://_db", Some("tcp+mdns://_db._tcp.local")),
            ("sentinel://s1", Some("redis+sentinel://s1:26379/mymaster")),
            ("10.0.0.5", Some("tcp://10.0.0.5:7000")),
            ("cache.example.com", Some("tcp://cache.example.com:7000")),
            ("tcp://db :5432", Some("tcp://db:5432")),
            ("tcp://a:1 tcp://b:2", Some("tcp://a:1,b:2")),
            ("redis://a:1; redis://b:2", Some("redis://a:1,b:2")),
            ("tcp://2001:db8::1:5432", Some("tcp://[2001:db8::1]:5432")),
            ("tcp://2001:db8::1", Some("tcp://[2001:db8::1]:7000")),
            ("redis://::1", Some("redis://[::1]:6379")),
            ("tcp://app:hush@redis:6379", Some("redis://****@redis:6379")),
            ("tls://:hush@redis:6379", Some("rediss://****@redis:6379")),
            ("redis://hush@cache", Some("redis://:****@cache:6379")),
            ("redis//:hush@cache", Some("redis://****@cache:6379")),
            (":hush@cache", Some("redis://****@cache:6379")),
            ("http://web:80/path?x=y", Some("tcp://web:80")),
            ("https://web", Some("tls://web:7000")),
            ("postgres://app:hush@db:5432/orders", Some("tcp://db:5432")),
            ("tcp://a:1;b:2", Some("tcp://a:1,b:2")),
            ("tcp://a:1,", Some("tcp://a:1")),
            ("redis+sentinel://s1", Some("redis+sentinel://s1:26379/mymaster")),
            ("redis://cache/minus", Some("redis://cache:6379")),
            ("redis://cache?hush=hush", Some("redis://cache:6379")),
            (
                "x.redis.cache.windows.net:6380,password=hush=,ssl=True,abortConnect=False",
                Some("rediss://:****@x.redis.cache.windows.net:6380"),
            ),
            ("", None),
            ("hush", None),
            ("Hush.hush.hush", None),
            ("hush.hush", None),
            ("/hush/hush", None),
            ("tcp://", None),
            ("tcp://:5432", None),
            ("redis://app:hush@", None),
            ("tcp://a host:1", None),
            ("tcp://256.1.1.1:1", None),
        ] {
            assert_eq!(mended(written, 7000).as_deref(), shown, "{written}");
        }
    }
}
