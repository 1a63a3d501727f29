//! The table of a link's settings: one row each, from which the near misses, `--help`, the manual page and
//! `docs/configuration.md` come. That of the process' settings is in [`process`](super::process).

/// What a setting is about, and so what it means on a plain tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Any link.
    Any,
    /// Redis links; on a plain tunnel a mistake.
    Redis,
    /// Redis links, by a name that other images use too: on a plain tunnel passed over with a warning.
    RedisCommonName,
}

/// One setting of a link: `<ALIAS>_<NAME>` or `<ALIAS>_PORT_<PORT>_<NAME>`.
#[derive(Debug)]
pub struct Setting {
    /// The name behind the alias.
    pub name: &'static str,
    /// Where it applies.
    pub scope: Scope,
    /// Whether the alias-wide form is a credential, which goes to one port alone.
    pub credential: bool,
    /// What it is, in Markdown.
    pub doc: &'static str,
}

const fn any(name: &'static str, doc: &'static str) -> Setting {
    Setting { name, scope: Scope::Any, credential: false, doc }
}

const fn redis(name: &'static str, doc: &'static str) -> Setting {
    Setting { name, scope: Scope::Redis, credential: false, doc }
}

const fn credential(name: &'static str, scope: Scope, doc: &'static str) -> Setting {
    Setting { name, scope, credential: true, doc }
}

/// Every setting that a link takes.
pub const SETTINGS: &[Setting] = &[
    credential("AUTH", Scope::Redis, "the password; any byte counts"),
    credential(
        "AUTH_FILE",
        Scope::Redis,
        "the file that holds the password; one line ending at its end is cut off. Read again for every connection",
    ),
    credential(
        "AUTH_PREVIOUS_FILE",
        Scope::Redis,
        "the file that holds the password before this one, to fall back on while the password is changed; it may be empty",
    ),
    credential(
        "AUTH_COMMAND",
        Scope::Redis,
        "a program whose standard output is the password; no shell runs it",
    ),
    credential("AUTH_COMMAND_TTL", Scope::Redis, "how long one answer of the program serves [default: 60s]"),
    credential(
        "AUTH_PROVIDER",
        Scope::Redis,
        "`aws-elasticache` (MemoryDB too), `gcp` or `azure`: a token of that cloud is the password, for the identity that the \
         cloud's own libraries would find here",
    ),
    credential(
        "AUTH_ENDPOINT",
        Scope::Redis,
        "the cache's own name at AWS, where the target has another one: \
         `master.my-group.abc123.euc1.cache.amazonaws.com`. Tokens are signed for the cache and the region that it says",
    ),
    credential("USERNAME", Scope::RedisCommonName, "the ACL user; without it `AUTH password` alone is sent"),
    credential("USERNAME_FILE", Scope::Redis, "the file that holds the ACL user, read like `AUTH_FILE`"),
    credential("DB", Scope::RedisCommonName, "`SELECT` this database"),
    any(
        "BALANCE",
        "which of several backends to dial: `first` in order (the default of Redis links and SRV records), `round-robin` \
         (of plain tunnels, of Redis Cluster and of Sentinel's replicas) or `least-connections`",
    ),
    redis(
        "CLIENT_AUTH",
        "what becomes of a client's own `AUTH`: `forward` to the target (the default); `absorb`: any password is taken, and the target \
         hears nothing of it; `require`: who does not show the right one is not served",
    ),
    redis("CLIENT_USERNAME", "the user that `require` requires; without it `default`"),
    redis("CLIENT_PASSWORD", "the password that `require` requires"),
    redis("CLIENT_PASSWORD_FILE", "the file that holds it, read like `AUTH_FILE`"),
    redis(
        "RESET",
        "`reauth` (the default): after a client's `RESET` its connection is authenticated again; `forward`: it stays \
         without user and database, as for any client of Redis",
    ),
    redis(
        "SESSIONS",
        "`on` (the default): clients stay when their connection to the target ends, moves or is demoted; `off`: bytes are passed on \
         as they come, and what ends one side ends the other",
    ),
    redis(
        "SHARE",
        "how many connections to the target the clients on each thread share, 1 to 64; a client gets one of its own for as long as \
         its commands need that [default: each has its own]",
    ),
    redis(
        "RELEASE_AFTER",
        "a session that has been quiet for so long gives its connection to the target back, and gets another one with its \
         client's next command; `off` never [default: off]",
    ),
    redis(
        "REAUTH",
        "`on` (the default): when the secret changes, open connections are authenticated again with the new one; `off`: only new \
         ones are",
    ),
    redis(
        "ROLE",
        "`master` or `replica`: serve from such a backend alone; with Sentinel `master` is the default",
    ),
    credential("SENTINEL_AUTH", Scope::Redis, "the password of the Sentinels, which is not Redis' own"),
    credential("SENTINEL_AUTH_FILE", Scope::Redis, "the file that holds it, read like `AUTH_FILE`"),
    credential("SENTINEL_USERNAME", Scope::Redis, "the ACL user of the Sentinels"),
    credential(
        "ZOOKEEPER_AUTH",
        Scope::Any,
        "`USER:PASSWORD`, what ZooKeeper knows us by (`addauth digest`); without it, nothing is shown to it",
    ),
    credential("ZOOKEEPER_AUTH_FILE", Scope::Any, "the file that holds it, read like `AUTH_FILE`"),
    any(
        "ZOOKEEPER_TLS",
        "`true`: TLS towards ZooKeeper, whatever the backends have, with this link's `TLS_CA_FILE`, `TLS_CERT_FILE`, `TLS_KEY_FILE` \
         and `TLS_VERIFY` [default: false]",
    ),
    redis(
        "CLUSTER_PORTS",
        "the ports on which nodes of a Redis Cluster are listened for, `FIRST-LAST`, one each [default: the hundred behind the port in \
         the link's name]",
    ),
    redis(
        "ANNOUNCE",
        "the host that clients of a Redis Cluster are told for every node, instead of the address at which they came in",
    ),
    any(
        "MOVE_GRACE",
        "when a target moves or is demoted, its old connections are closed at a quiet moment, at the latest after this; \
         `0s` at once, `off` never [default: 5s]",
    ),
    redis("WARM", "how many connections to keep ready, authenticated, for clients to come [default: 0]"),
    any(
        "LISTEN",
        "listen here instead of `AMBASSADOR_BIND` and the port in the name: `ADDRESS:PORT`, `localhost:PORT` (127.0.0.1 and \
         ::1) or `unix:/PATH`; several, with commas",
    ),
    any(
        "LISTEN_MODE",
        "the mode of a listening Unix socket's file in octal digits, `0660` [default: what the umask says]",
    ),
    any("ALLOW", "the networks that may connect, `10.0.0.0/8,192.168.1.7`; without it all"),
    any(
        "LISTEN_PROXY_PROTOCOL",
        "`true`: clients come through a balancer that says who they are (PROXY protocol, version 1 or 2), and count by the address \
         that it names; who says nothing is not served. Only the balancer may reach the port then",
    ),
    any(
        "PROXY_PROTOCOL",
        "`v1` or `v2`: the target is told on each connection whose it is (PROXY protocol). Only for targets that expect it: a Redis \
         server itself does not",
    ),
    any("TLS", "`true`: TLS towards a target whose scheme does not ask for it, such as Docker's `tcp://`"),
    any(
        "TLS_CA_FILE",
        "the authorities (PEM) that vouch for the target, instead of the system's. This file and all others of TLS serve the next connection when they change",
    ),
    any("TLS_CERT_FILE", "the certificate to show to the target, with its chain (PEM)"),
    any("TLS_KEY_FILE", "its key (PEM: PKCS#8, PKCS#1 or SEC1)"),
    any(
        "TLS_SERVER_NAME",
        "the name or address that the target's certificate has, if it is not the host dialled",
    ),
    any(
        "TLS_VERIFY",
        "what of the target's certificate is verified: `full`, the authority and the name (the default); `ca`, the authority and not \
         the name; `none`, nothing, so anyone in between can read and change everything",
    ),
    any("TLS_INSECURE", "`true`: the same as `TLS_VERIFY=none`"),
    any("LISTEN_TLS_CERT_FILE", "TLS for clients: the certificate to show to them, with its chain (PEM)"),
    any("LISTEN_TLS_KEY_FILE", "its key (PEM: PKCS#8, PKCS#1 or SEC1)"),
    any(
        "LISTEN_TLS_CLIENT_CA_FILE",
        "the authorities (PEM) that vouch for clients: one without a certificate from them is not served",
    ),
    any(
        "LISTEN_TLS_CLIENT_NAMES",
        "of the clients that the authorities in `LISTEN_TLS_CLIENT_CA_FILE` vouch for, serve only those whose certificate has one of \
         these names: `dns:`, `uri:` (SPIFFE IDs too), `email:`, `ip:` or `cn:` and the name, with `*` for one label or one element \
         of a path; several, with commas",
    ),
    any("CONNECT_TIMEOUT", "instead of `AMBASSADOR_CONNECT_TIMEOUT`"),
    any("IDLE_TIMEOUT", "instead of `AMBASSADOR_IDLE_TIMEOUT`"),
    any("MAX_LIFETIME", "instead of `AMBASSADOR_MAX_LIFETIME`"),
    any("MAX_CONNECTIONS", "instead of `AMBASSADOR_MAX_CONNECTIONS`"),
];

/// The ways to give a link its password. One of them makes a Docker link a Redis link.
pub const PASSWORDS: &[&str] = &["AUTH", "AUTH_FILE", "AUTH_COMMAND", "AUTH_PROVIDER"];

/// The settings whose values are secrets themselves.
pub const SECRETS: &[&str] = &["AUTH", "SENTINEL_AUTH", "CLIENT_PASSWORD", "ZOOKEEPER_AUTH"];

/// The settings that mean nothing without TLS towards the target.
pub const OF_TLS: &[&str] =
    &["TLS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_SERVER_NAME", "TLS_VERIFY", "TLS_INSECURE"];

/// The settings that mean nothing without a Redis Cluster.
pub const OF_CLUSTER: &[&str] = &["CLUSTER_PORTS", "ANNOUNCE"];

/// The settings that mean nothing where ZooKeeper lists no backends.
pub const OF_ZOOKEEPER: &[&str] = &["ZOOKEEPER_AUTH", "ZOOKEEPER_AUTH_FILE", "ZOOKEEPER_TLS"];

/// The setting of that name.
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The setting that somebody who wrote `name` most likely meant.
pub fn near_miss(name: &str) -> Option<&'static str> {
    // What other images call the same thing.
    match name {
        "PASSWORD" | "PASS" | "PASSWD" | "PWD" | "REQUIREPASS" | "SECRET" | "TOKEN" | "AUTH_TOKEN"
        | "AUTH_PASSWORD" => return Some("AUTH"),
        "PASSWORD_FILE" | "PASS_FILE" | "PASSWD_FILE" | "PWD_FILE" | "SECRET_FILE" | "TOKEN_FILE"
        | "AUTH_TOKEN_FILE" | "AUTH_PASSWORD_FILE" => return Some("AUTH_FILE"),
        "PASSWORD_COMMAND" | "TOKEN_COMMAND" => return Some("AUTH_COMMAND"),
        "USER" | "AUTH_USER" | "AUTH_USERNAME" => return Some("USERNAME"),
        "USER_FILE" => return Some("USERNAME_FILE"),
        "SENTINEL_PASSWORD" => return Some("SENTINEL_AUTH"),
        "SENTINEL_PASSWORD_FILE" => return Some("SENTINEL_AUTH_FILE"),
        "SENTINEL_USER" => return Some("SENTINEL_USERNAME"),
        "ZOOKEEPER_PASSWORD" | "ZOOKEEPER_DIGEST" => return Some("ZOOKEEPER_AUTH"),
        "ZOOKEEPER_PASSWORD_FILE" | "ZOOKEEPER_DIGEST_FILE" => return Some("ZOOKEEPER_AUTH_FILE"),
        "ANNOUNCE_HOST"
        | "ANNOUNCE_HOSTNAME"
        | "ANNOUNCE_ADDRESS"
        | "ANNOUNCE_IP"
        | "CLUSTER_ANNOUNCE"
        | "CLUSTER_ANNOUNCE_IP"
        | "CLUSTER_ANNOUNCE_HOSTNAME" => return Some("ANNOUNCE"),
        "CLUSTER_PORT_RANGE" | "NODE_PORTS" => return Some("CLUSTER_PORTS"),
        "DATABASE" | "DB_INDEX" | "DB_NUMBER" => return Some("DB"),
        "SSL" | "USE_TLS" | "USE_SSL" | "TLS_ENABLED" | "SSL_ENABLED" => return Some("TLS"),
        "TLS_CA" | "TLS_CA_CERT" | "TLS_CA_CERT_FILE" | "CA_FILE" | "CA_CERT" => return Some("TLS_CA_FILE"),
        "TLS_CERT" => return Some("TLS_CERT_FILE"),
        "TLS_KEY" => return Some("TLS_KEY_FILE"),
        "BIND" => return Some("LISTEN"),
        // As HAProxy calls them.
        "ACCEPT_PROXY" => return Some("LISTEN_PROXY_PROTOCOL"),
        "SEND_PROXY" | "SEND_PROXY_V2" => return Some("PROXY_PROTOCOL"),
        "TIMEOUT" => return Some("CONNECT_TIMEOUT"),
        "MAX_CLIENTS" | "MAXCLIENTS" => return Some("MAX_CONNECTIONS"),
        _ => {}
    }
    nearest(name, SETTINGS.iter().map(|setting| setting.name))
}

/// The candidate within a slip or two of `name`: one for every three letters, two at the most.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance > 0 && *distance <= (candidate.len() / 3).min(2))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_names_are_not() {
        for (written, meant) in [
            ("AUHT_FILE", Some("AUTH_FILE")),
            ("AUTHFILE", Some("AUTH_FILE")),
            ("PASSWORD", Some("AUTH")),
            ("PASSWORD_FILE", Some("AUTH_FILE")),
            ("TLS_ENABLED", Some("TLS")),
            ("USERNAM", Some("USERNAME")),
            ("AUHT", Some("AUTH")),
            ("CLUSTER_ANNOUNCE_IP", Some("ANNOUNCE")),
            ("ANNOUNCE_HOST", Some("ANNOUNCE")),
            ("ANNONCE", Some("ANNOUNCE")),
            ("CLUSTER_PORT", Some("CLUSTER_PORTS")),
            ("HOST", None),
            ("URL", None),
            ("DBS", None),
            ("VERSION", None),
        ] {
            assert_eq!(near_miss(written), meant, "{written}");
        }
    }
}
