//! Connections kept ready.

use std::time::Duration;

use anyhow::Result;

use super::{Workload, in_turn, start_all};
use crate::Bench;
use crate::load::short;
use crate::peers::{COLD, DIRECT, DIRECT_RESUMED, Route, Running};
use crate::samples::{Cell, Metric, Results};
use crate::targets::LongWay;

pub const WORKLOAD: Workload = Workload {
    name: "warm",
    title: "Warm connections",
    text: "redis-ambassador with `WARM=8`, a client's first PONG beside that of a client that connects to Redis and \
           authenticates by itself. One client: connect, AUTH where the client must, PING, await PONG, close; again \
           after 5 ms. Time is from connect to PONG. With a long way to the target every byte between the proxy and \
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

const DELAY: Duration = Duration::from_millis(1);

/// Between a client's connections: most applications keep theirs for longer than that.
const PAUSE: Duration = Duration::from_millis(5);

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let long_way = LongWay::start(bench.redis.target(), DELAY)?;
    let targets =
        [(LOOPBACK, bench.redis.target()), (LONG_WAY, long_way.target()), (TLS, bench.redis.tls_target())];
    for (case, target) in targets {
        let mut peers = start_all(&bench.peers.warm, Route::to(target), WORKLOAD.name, results);
        peers.retain(|peer| peer.name != DIRECT_RESUMED || case == TLS);
        for round in bench.rounds() {
            for peer in in_turn(&peers, round) {
                let cell = Cell { workload: WORKLOAD.name, case, peer: peer.name, round };
                // A connection and the pause after it are long: twice the time for enough of them.
                results.record(&cell, measure(peer, bench.settings.duration * 2));
                bench.redis.wait_until_quiet()?;
            }
        }
    }
    Ok(())
}

fn measure(peer: &Running, duration: Duration) -> Result<Vec<(Metric, f64)>> {
    short::run(1, duration / 5, PAUSE, || peer.open())?;
    let mut outcome = short::run(1, duration, PAUSE, || peer.open())?;
    Ok(vec![(Metric::Median, outcome.latencies.percentile(50))])
}
