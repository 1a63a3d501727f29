//! Short-lived connections.

use std::time::Duration;

use anyhow::Result;

use super::{Workload, measure_each, start_all};
use crate::Bench;
use crate::load::Conversation;
use crate::load::short::{self, Outcome};
use crate::peers::{HAPROXY, Route, Running};
use crate::samples::{Metric, Results};

pub const WORKLOAD: Workload = Workload {
    name: "short",
    title: "Short-lived connections",
    text: "Eight clients, each: connect, AUTH where the client must (and await its reply, as client \
           libraries do), PING, await PONG, close; at once again. redis-ambassador authenticates by \
           itself, and its AUTH is in its figures. Latency is from connect to PONG.",
    metrics: &[Metric::ConnectionRate, Metric::Median, Metric::P99, Metric::ConnectionCpu],
    against: &[HAPROXY],
    run,
};

pub const CASE: &str = "connect, PING, close";

const CLIENTS: usize = 8;

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let route = Route::to(bench.redis.target());
    let peers = start_all(&bench.peers.plain, route, WORKLOAD.name, results);
    measure_each(bench, WORKLOAD.name, CASE, &peers, results, |peer| {
        let (figures, _) = measure_with(peer, bench.settings.duration, || peer.open())?;
        Ok(figures)
    })
}

/// The figures, and what happened besides.
pub fn measure_with(
    peer: &Running,
    duration: Duration,
    open: impl Fn() -> Result<Conversation> + Sync,
) -> Result<(Vec<(Metric, f64)>, Outcome)> {
    short::run(CLIENTS, duration / 5, Duration::ZERO, &open)?;
    let before = peer.settled_cpu_time()?;
    let mut outcome = short::run(CLIENTS, duration, Duration::ZERO, &open)?;
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
    Ok((figures, outcome))
}
