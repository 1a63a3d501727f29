//! Start-up.

use anyhow::Result;

use super::{Workload, in_turn};
use crate::peers::{HAPROXY, Peer, Route};
use crate::samples::{Cell, Metric, Results, Summary};
use crate::{Bench, load};

pub const WORKLOAD: Workload = Workload {
    name: "startup",
    title: "Start-up",
    text: "From the start of the program to the first connection that the kernel lets in, and on to the \
           first PONG over that connection, AUTH included: only that shows that the program has accepted \
           it. Memory is that of all its processes, pages that they share counted for each.",
    metrics: &[Metric::Listening, Metric::FirstReply, Metric::ResidentMemory],
    against: &[HAPROXY],
    run,
};

pub const CASE: &str = "start";

/// A start is short and its time scatters; the median of so many stands for a round.
const STARTS: usize = 5;

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let proxies = bench.proxies();
    for round in bench.rounds() {
        for peer in in_turn(&proxies, round) {
            let cell = Cell { workload: WORKLOAD.name, case: CASE, peer: peer.name, round };
            results.record(&cell, measure(bench, peer));
            bench.redis.wait_until_quiet()?;
        }
    }
    Ok(())
}

fn measure(bench: &Bench, peer: &Peer) -> Result<Vec<(Metric, f64)>> {
    let (mut listening, mut replied, mut resident) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let mut running = peer.spawn(Route::to(bench.redis.target()))?;
        let stream = running.connect()?;
        listening.push(running.started.elapsed().as_secs_f64() * 1e3);
        let _answered = load::greet(stream, &running.credentials)?;
        replied.push(running.started.elapsed().as_secs_f64() * 1e3);
        resident.push(running.resident_set_size()? as f64 / (1024.0 * 1024.0));
    }
    let median = |values: &[f64]| Summary::of(values).map_or(f64::NAN, |summary| summary.median);
    Ok(vec![
        (Metric::Listening, median(&listening)),
        (Metric::FirstReply, median(&replied)),
        (Metric::ResidentMemory, median(&resident)),
    ])
}
