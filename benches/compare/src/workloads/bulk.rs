//! Bulk streams through a plain tunnel.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Workload, in_turn, start_all};
use crate::Bench;
use crate::load::bulk::Streams;
use crate::peers::{HAPROXY, NGINX, Route, Running};
use crate::samples::{Cell, Metric, Results};
use crate::targets::{BulkTarget, Direction};

pub const WORKLOAD: Workload = Workload {
    name: "bulk",
    title: "Bulk streams",
    text: "One stream and eight at once through a plain tunnel, each way. The receiving end discards the \
           bytes in the kernel, so that the proxy is what limits.",
    metrics: &[Metric::StreamRate, Metric::StreamCpu],
    against: &[HAPROXY, NGINX],
    run,
};

/// The number of streams, their direction, and what the two are called.
pub const CASES: [(usize, Direction, &str); 4] = [
    (1, Direction::ToTarget, "1 stream to the target"),
    (1, Direction::ToClient, "1 stream to the client"),
    (8, Direction::ToTarget, "8 streams to the target"),
    (8, Direction::ToClient, "8 streams to the client"),
];

/// Until windows and buffers have grown.
const WARM_UP: Duration = Duration::from_millis(200);

#[expect(clippy::unnecessary_wraps, reason = "other workloads can fail as a whole")]
fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let route = Route::to(bench.bulk.target());
    let peers = start_all(&bench.peers.plain, route, WORKLOAD.name, results);
    for round in bench.rounds() {
        for (streams, direction, case) in CASES {
            for peer in in_turn(&peers, round) {
                let cell = Cell { workload: WORKLOAD.name, case, peer: peer.name, round };
                results
                    .record(&cell, measure(peer, streams, direction, &bench.bulk, bench.settings.duration));
            }
        }
    }
    Ok(())
}

fn measure(
    peer: &Running,
    number: usize,
    direction: Direction,
    target: &BulkTarget,
    duration: Duration,
) -> Result<Vec<(Metric, f64)>> {
    let streams = Streams::start(peer.address, number, direction, target)?;
    thread::sleep(WARM_UP);
    let (cpu_before, received_before, start) = (peer.cpu_time()?, streams.received(), Instant::now());
    thread::sleep(duration);
    let (cpu, received, elapsed) =
        (peer.cpu_time()?.saturating_sub(cpu_before), streams.received() - received_before, start.elapsed());
    ensure!(received > 0, "nothing arrived");
    let mut figures = vec![(Metric::StreamRate, received as f64 * 8e-9 / elapsed.as_secs_f64())];
    if peer.is_proxy() {
        figures.push((Metric::StreamCpu, cpu.as_secs_f64() * 1e3 / (received as f64 * 1e-9)));
    }
    Ok(figures)
}
