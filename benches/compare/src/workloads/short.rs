//! Short-lived connections.

use std::time::Duration;

use anyhow::Result;

use super::{Workload, in_turn};
use crate::Bench;
use crate::load::short;
use crate::peers::Running;
use crate::samples::{Cell, Metric, Results};

pub const WORKLOAD: Workload = Workload {
    name: "short",
    title: "Short-lived connections",
    text: "Eight clients, each: connect, AUTH where the client must (and await its reply, as client \
           libraries do), PING, await PONG, close; at once again. redis-ambassador authenticates by \
           itself, and its AUTH is in its figures. Latency is from connect to PONG.",
    metrics: &[Metric::ConnectionRate, Metric::Median, Metric::P99, Metric::ConnectionCpu],
    run,
};

pub const CASE: &str = "connect, PING, close";

const CLIENTS: usize = 8;

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let peers = bench.start_all(bench.redis.target(), WORKLOAD.name, results);
    for round in bench.rounds() {
        for peer in in_turn(&peers, round) {
            let cell = Cell { workload: WORKLOAD.name, case: CASE, peer: peer.name, round };
            results.record(&cell, measure(peer, bench.settings.duration));
            bench.redis.wait_until_quiet()?;
        }
    }
    Ok(())
}

fn measure(peer: &Running, duration: Duration) -> Result<Vec<(Metric, f64)>> {
    let password = peer.password.as_deref();
    short::run(peer.address, password, CLIENTS, duration / 5)?;
    let before = peer.settled_cpu_time()?;
    let mut outcome = short::run(peer.address, password, CLIENTS, duration)?;
    let cpu = peer.settled_cpu_time()?.saturating_sub(before);
    let connections = outcome.connections as f64;
    let mut figures = vec![
        (Metric::ConnectionRate, connections / outcome.elapsed.as_secs_f64()),
        (Metric::Median, outcome.latencies.percentile(50)),
        (Metric::P99, outcome.latencies.percentile(99)),
    ];
    if peer.is_proxy() {
        figures.push((Metric::ConnectionCpu, cpu.as_secs_f64() * 1e6 / connections));
    }
    Ok(figures)
}
