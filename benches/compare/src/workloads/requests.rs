//! Requests over connections that stay open.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use super::{Workload, bytes, connections, in_turn, open_many, start_all};
use crate::Bench;
use crate::load::requests::{Batch, Generator, Operation, Request};
use crate::peers::{HAPROXY, Route, Running, UNFRAMED};
use crate::samples::{Cell, Metric, Results};
use crate::targets::Redis;

pub const WORKLOAD: Workload = Workload {
    name: "requests",
    title: "Requests",
    text: "GET and SET of one key over connections that stay open, and replies of many parts: LRANGE of a \
           list, HGETALL of a hash. With a pipeline of 16 a connection sends 16 requests at once and waits for the 16 replies; latency is that of such a batch. A cell \
           lasts until there were a hundred of them, where its time does not suffice.",
    metrics: &[Metric::RequestRate, Metric::Median, Metric::P99, Metric::RequestCpu],
    against: &[HAPROXY, UNFRAMED],
    run,
};

pub const SMALL: usize = 3;
pub const LARGE: [usize; 2] = [64 * 1024, 1024 * 1024];
pub const MANY: usize = 50;

/// Of fewer batches the 99th percentile would be the slowest alone.
pub const ENOUGH: usize = 100;

#[derive(Clone, Copy)]
pub struct Case {
    pub operation: Operation,
    pub value: usize,
    pub connections: usize,
    pub pipeline: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}, {}", self.operation, bytes(self.value), connections(self.connections))?;
        if self.pipeline > 1 { write!(formatter, ", pipeline {}", self.pipeline) } else { Ok(()) }
    }
}

impl Case {
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for value in [SMALL, LARGE[0], LARGE[1]] {
            for connections in [1, MANY] {
                for pipeline in [1, 16] {
                    all.extend(Operation::SIMPLE.map(|operation| Self {
                        operation,
                        value,
                        connections,
                        pipeline,
                    }));
                }
            }
        }
        all.extend(Self::nested());
        all
    }

    /// Many connections that each ask for one simple value of that size at a time.
    pub fn simple(value: usize) -> [Self; 2] {
        Operation::SIMPLE.map(|operation| Self { operation, value, connections: MANY, pipeline: 1 })
    }

    /// The same for replies of many small parts.
    pub fn nested() -> [Self; 3] {
        Operation::NESTED.map(|operation| Self { operation, value: SMALL, connections: MANY, pipeline: 1 })
    }

    pub fn is_simple(&self) -> bool {
        Operation::SIMPLE.contains(&self.operation)
    }

    /// What is sent at once, once the key holds what it asks for.
    pub fn batch(&self, redis: &Redis) -> Result<Batch> {
        let request = Request::new(self.operation, self.value);
        let preparation: Vec<_> = request.preparation.iter().map(Vec::as_slice).collect();
        redis.command(&preparation)?;
        Ok(Batch::new(&request, self.pipeline))
    }
}

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let route = Route::to(bench.redis.target());
    let peers = start_all(&bench.peers.redis, route, WORKLOAD.name, results);
    let cases: Vec<_> = Case::all().into_iter().map(|case| (case.to_string(), case)).collect();
    for round in bench.rounds() {
        measure_round(bench, WORKLOAD.name, &cases, &peers, round, results)?;
    }
    Ok(())
}

/// Measures every case, by its name, with every peer.
pub fn measure_round(
    bench: &Bench,
    workload: &'static str,
    cases: &[(String, Case)],
    peers: &[Running],
    round: usize,
    results: &mut Results,
) -> Result<()> {
    for (name, case) in cases {
        let batch = case.batch(&bench.redis)?;
        for peer in in_turn(peers, round) {
            let cell = Cell { workload, case: name, peer: peer.name, round };
            results.record(&cell, measure(bench, peer, &batch, case.connections));
            bench.redis.wait_until_quiet()?;
        }
    }
    Ok(())
}

fn measure(bench: &Bench, peer: &Running, batch: &Batch, connections: usize) -> Result<Vec<(Metric, f64)>> {
    let duration = bench.settings.duration;
    let mut generator = Generator::new(open_many(peer, connections)?, batch.clone())?;
    // Lets buffers grow and the processor settle; not counted.
    generator.run(duration / 5, 0)?;
    let before = peer.settled_cpu_time()?;
    // Redis is at rest when whoever asks it is.
    let redis_before = bench.redis.cpu_time()?;
    let mut outcome = generator.run(duration, ENOUGH)?;
    let cpu = peer.settled_cpu_time()?.saturating_sub(before);
    let redis_cpu = bench.redis.cpu_time()?.saturating_sub(redis_before);
    let mut figures = vec![
        (Metric::RequestRate, outcome.requests as f64 / outcome.elapsed.as_secs_f64()),
        (Metric::Median, outcome.latencies.percentile(50)),
        (Metric::P99, outcome.latencies.percentile(99)),
        a_request(Metric::RedisCpu, redis_cpu, outcome.requests),
    ];
    if peer.is_proxy() {
        figures.push(a_request(Metric::RequestCpu, cpu, outcome.requests));
    }
    Ok(figures)
}

/// What was spent on each of so many requests.
pub fn a_request(metric: Metric, spent: Duration, requests: usize) -> (Metric, f64) {
    (metric, spent.as_secs_f64() * 1e6 / requests as f64)
}
