//! Idle connections.

use anyhow::Result;

use super::{Workload, connections, in_turn};
use crate::Bench;
use crate::peers::{HAPROXY, Peer, Route};
use crate::samples::{Cell, Metric, Results};

pub const WORKLOAD: Workload = Workload {
    name: "idle",
    title: "Idle connections",
    text: "Connections that have authenticated, were answered once and are silent since. Memory is the \
           proportional set size of the proxy's processes, less what a freshly started proxy has, by the \
           number of connections; the kernel's socket buffers are not in it.",
    metrics: &[Metric::ConnectionMemory],
    against: &[HAPROXY],
    run,
};

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let proxies: Vec<_> = bench.peers.redis.iter().filter(|peer| peer.is_proxy()).collect();
    for round in bench.rounds() {
        for peer in in_turn(&proxies, round) {
            for number in sizes(bench.capacity) {
                let cell =
                    Cell { workload: WORKLOAD.name, case: &connections(number), peer: peer.name, round };
                results.record(&cell, measure(peer, Route::to(bench.redis.target()), number));
                bench.redis.wait_until_quiet()?;
            }
        }
    }
    Ok(())
}

/// The numbers of connections; the larger one is as many as a proxy can hold, up to 10,000.
pub fn sizes(capacity: usize) -> [usize; 2] {
    [1_000, capacity]
}

pub fn measure(peer: &Peer, route: Route<'_>, number: usize) -> Result<Vec<(Metric, f64)>> {
    let running = peer.start(route)?;
    // A program that listens may still be getting ready.
    running.settled_cpu_time()?;
    let before = running.proportional_set_size()?;
    let _idle = super::open_many(&running, number)?;
    running.settled_cpu_time()?;
    let grown = running.proportional_set_size()?.saturating_sub(before);
    Ok(vec![(Metric::ConnectionMemory, grown as f64 / 1024.0 / number as f64)])
}
