//! Connections kept ready.

use std::time::Duration;

use anyhow::Result;

use super::{Workload, in_turn, start_all};
use crate::Bench;
use crate::load::short;
use crate::peers::{COLD, DIRECT, DIRECT_RESUMED, Route, Running};
use crate::samples::{Cell, Metric, Results};
use crate::targets::{Connecting, LongWay};

pub const WORKLOAD: Workload = Workload {
    name: "warm",
    title: "Warm connections",
    text: "redis-ambassador with `REDIS_WARM=8`, a client's first PONG beside that of a client that connects to Redis and \
           authenticates by itself. One client: connect, AUTH where the client must, PING, await PONG, close; again \
           at once or after 5 ms. Time is from connect to PONG. With a long way to the target every byte between the proxy and \
           Redis takes 1 ms each way, and so does every byte between the direct client and Redis; connecting itself \
           takes no such time, which is in favour of the direct client. With TLS to the target the direct client \
           verifies Redis' certificate and begins a new session every time, as most client libraries do, or resumes \
           the last.",
    metrics: &[Metric::Median],
    against: &[DIRECT, COLD],
    run,
};

pub const LOOPBACK: &str = "loopback";
pub const LONG_WAY: &str = "1 ms each way to the target";
pub const TLS: &str = "TLS to the target";

pub const DELAY: Duration = Duration::from_millis(1);

/// Between a client's connections: none, which drains what is ready, and one in which it fills again and everybody
/// falls asleep.
const PAUSES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(5)];

fn case(target: &str, pause: Duration) -> String {
    match pause.as_millis() {
        0 => format!("{target}, at once again"),
        milliseconds => format!("{target}, again after {milliseconds} ms"),
    }
}

pub fn cases(target: &str) -> [String; 2] {
    PAUSES.map(|pause| case(target, pause))
}

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let long_way = LongWay::start(bench.redis.target(), DELAY, Connecting::NoTime)?;
    let targets =
        [(LOOPBACK, bench.redis.target()), (LONG_WAY, long_way.target()), (TLS, bench.redis.tls_target())];
    for (name, target) in targets {
        let mut peers = start_all(&bench.peers.warm, Route::to(target), WORKLOAD.name, results);
        peers.retain(|peer| peer.name != DIRECT_RESUMED || target.authority.is_some());
        for round in bench.rounds() {
            for pause in PAUSES {
                for peer in in_turn(&peers, round) {
                    let case = case(name, pause);
                    let cell = Cell { workload: WORKLOAD.name, case: &case, peer: peer.name, round };
                    results.record(&cell, measure(peer, pause, bench.settings.duration));
                    bench.redis.wait_until_quiet()?;
                }
            }
        }
    }
    Ok(())
}

pub fn measure(peer: &Running, pause: Duration, duration: Duration) -> Result<Vec<(Metric, f64)>> {
    short::run(1, duration / 5, pause, || peer.open())?;
    let mut outcome = short::run(1, duration, pause, || peer.open())?;
    Ok(vec![(Metric::Median, outcome.latencies.percentile(50))])
}
