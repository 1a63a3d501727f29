//! Sharing: many clients and few upstreams, and each client hears what is its own.

mod broken;
mod connections;
mod crowd;
mod isolation;
mod life;
mod many;
mod order;
mod promises;
mod settings;
mod story;
mod wire;

use crate::support::{Ambassador, Launch, RedisServer, Version, get, metric, password};

const LINK: &str = "redis:6379";

/// A link whose clients share so many upstreams a thread, of so many threads.
fn sharing(launch: Launch, upstreams: usize, threads: usize) -> Launch {
    launch.variable("REDIS_SHARE", upstreams.to_string()).variable("AMBASSADOR_THREADS", threads.to_string())
}

/// A link all of whose clients share one upstream.
pub(crate) fn all_on_one(launch: Launch) -> Launch {
    sharing(launch, 1, 1)
}

/// A real server with a password, and an ambassador before it.
fn real(configuration: &str, upstreams: usize, threads: usize) -> Option<(RedisServer, Ambassador, String)> {
    real_version(Version::Redis70, configuration, upstreams, threads)
}

fn real_version(
    version: Version,
    configuration: &str,
    upstreams: usize,
    threads: usize,
) -> Option<(RedisServer, Ambassador, String)> {
    let password = password();
    let server = RedisServer::start_version(version, &format!("requirepass {password}\n{configuration}"))?;
    let launch = Launch::redis(server.address()).variable("REDIS_AUTH", &password);
    let ambassador = sharing(launch, upstreams, threads).start();
    Some((server, ambassador, password))
}

/// How many upstreams of a kind the link has: `own`, `shared`, `lent` or `ready`.
#[track_caller]
fn upstreams(ambassador: &Ambassador, kind: &str) -> usize {
    let series = series(kind);
    format!("{:.0}", metric(ambassador.admin(), &series)).parse().expect("a number of upstreams")
}

/// The same, where it may not be known yet.
fn upstreams_or_none(ambassador: &Ambassador, kind: &str) -> Option<usize> {
    let page = get(ambassador.admin(), "/metrics").body;
    let start = format!("redis_ambassador_{} ", series(kind));
    page.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

fn series(kind: &str) -> String {
    format!("upstream_connections{{link=\"{LINK}\",kind=\"{kind}\"}}")
}
