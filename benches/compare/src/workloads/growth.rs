//! What a request costs as the number of open connections grows.

use anyhow::Result;

use super::{Workload, in_turn, open_many, requests};
use crate::Bench;
use crate::load::requests::{Batch, Generator};
use crate::peers::{HAPROXY, Peer, Route};
use crate::samples::{Cell, Metric, Results, count};

pub const WORKLOAD: Workload = Workload {
    name: "growth",
    title: "Growth",
    text: "50 connections send GET of 3 B, one request at a time, beside a growing number of others that \
           are open and silent. Memory is the proportional set size of all the proxy's processes, the 50 \
           active connections included.",
    metrics: &[Metric::RequestCpu, Metric::ProcessMemory, Metric::RequestRate, Metric::P99],
    against: &[HAPROXY],
    run,
};

/// The numbers of silent connections; with the active ones they are at most as many as a proxy can hold.
pub fn sizes(capacity: usize) -> [usize; 4] {
    [10, 100, 1_000, capacity - requests::MANY]
}

pub fn case(number: usize) -> String {
    format!("{} others open", count(number))
}

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let proxies = bench.proxies();
    let [get, _] = requests::Case::simple(requests::SMALL);
    let batch = get.batch(&bench.redis)?;
    for round in bench.rounds() {
        for peer in in_turn(&proxies, round) {
            if let Err(error) = measure(bench, peer, &batch, round, results) {
                let cell = Cell { workload: WORKLOAD.name, case: "growing", peer: peer.name, round };
                results.record(&cell, Err(error));
            }
            bench.redis.wait_until_quiet()?;
        }
    }
    Ok(())
}

fn measure(bench: &Bench, peer: &Peer, batch: &Batch, round: usize, results: &mut Results) -> Result<()> {
    let duration = bench.settings.duration;
    let running = peer.start(Route::to(bench.redis.target()))?;
    let mut generator = Generator::new(open_many(&running, requests::MANY)?, batch.clone())?;
    let mut silent = Vec::new();
    for number in sizes(bench.capacity) {
        silent.extend(open_many(&running, number - silent.len())?);
        generator.run(duration / 5, 0)?;
        let before = running.settled_cpu_time()?;
        let mut outcome = generator.run(duration, requests::ENOUGH)?;
        let cpu = running.settled_cpu_time()?.saturating_sub(before);
        let cpu = requests::a_request(Metric::RequestCpu, cpu, outcome.requests);
        let memory = running.proportional_set_size()? as f64 / (1024.0 * 1024.0);
        let rate = outcome.requests as f64 / outcome.elapsed.as_secs_f64();
        let p99 = outcome.latencies.percentile(99);
        let cell = Cell { workload: WORKLOAD.name, case: &case(number), peer: peer.name, round };
        results.record(
            &cell,
            Ok(vec![cpu, (Metric::ProcessMemory, memory), (Metric::RequestRate, rate), (Metric::P99, p99)]),
        );
    }
    Ok(())
}
