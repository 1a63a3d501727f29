//! Clients that share connections to Redis.

use std::time::Duration;

use anyhow::Result;

use super::requests::{self, Case, LARGE, MANY, SMALL};
use super::{Workload, measure_each, start_all, warm};
use crate::Bench;
use crate::peers::{DIRECT, HAPROXY, Route, UNSHARED};
use crate::samples::{Metric, Results};
use crate::targets::{Connecting, LongWay};

pub const WORKLOAD: Workload = Workload {
    name: "sharing",
    title: "Sharing",
    text: "redis-ambassador with `REDIS_SHARE=1`, whose clients share one connection to Redis a thread, beside itself without \
           it (*not sharing*), where each has its own, and proxies that share connections too. A client's first answer is \
           the PONG of one that connects, sends AUTH where it must, and PING, again and again, one after the other. \
           *1 ms each way*: every byte on the way to Redis takes that, and connecting to Redis takes the 2 ms of a \
           round trip. *TLS to the target*: the direct client verifies Redis' certificate and begins a new session \
           every time, as most client libraries do. twemproxy and predixy answer a PING by themselves and speak no \
           TLS: they have no part in that.",
    metrics: &[Metric::RequestRate, Metric::RedisCpu, Metric::RequestCpu, Metric::Median, Metric::P99],
    against: &[DIRECT, HAPROXY, UNSHARED],
    run,
};

/// A number of clients at which Redis has many requests waiting at any time.
const CROWD: usize = 200;

/// The numbers of clients of the chart.
pub const CLIENTS: [usize; 4] = [1, 10, MANY, CROWD];

/// GET and SET of so many clients, one request at a time.
fn small(connections: usize) -> [Case; 2] {
    Case::simple(SMALL).map(|case| Case { connections, ..case })
}

/// What the chart shows.
pub fn get(connections: usize) -> Case {
    let [get, _] = small(connections);
    get
}

pub fn many() -> [Case; 2] {
    small(MANY)
}

pub fn crowd() -> [Case; 2] {
    small(CROWD)
}

pub fn pipelines() -> [Case; 2] {
    Case::simple(SMALL).map(|case| Case { pipeline: 16, ..case })
}

pub fn large() -> [Case; 2] {
    Case::simple(LARGE[0])
}

pub fn lists() -> [Case; 2] {
    let [lrange_100, lrange_600, _] = Case::nested();
    [lrange_100, lrange_600]
}

pub fn first_answer(target: &str) -> String {
    format!("first answer, {target}")
}

/// All requests, by their names.
fn cases() -> Vec<(String, Case)> {
    let few = [get(1), get(10)];
    let all = few.into_iter().chain([many(), crowd(), pipelines(), large(), lists()].concat());
    all.map(|case| (case.to_string(), case)).collect()
}

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let peers = start_all(&bench.peers.sharing, Route::to(bench.redis.target()), WORKLOAD.name, results);
    for round in bench.rounds() {
        requests::measure_round(bench, WORKLOAD.name, &cases(), &peers, round, results)?;
    }

    let long_way = LongWay::start(bench.redis.target(), warm::DELAY, Connecting::RoundTrip)?;
    for (name, target) in [(warm::LONG_WAY, long_way.target()), (warm::TLS, bench.redis.tls_target())] {
        let peers = start_all(&bench.peers.first_answers, Route::to(target), WORKLOAD.name, results);
        measure_each(bench, WORKLOAD.name, &first_answer(name), &peers, results, |peer| {
            warm::measure(peer, Duration::ZERO, bench.settings.duration)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chart has a point for every number of clients, and nothing is measured twice.
    #[test]
    fn what_the_chart_shows_is_measured_once() {
        let names: Vec<_> = cases().into_iter().map(|(name, _)| name).collect();
        for clients in CLIENTS {
            let shown = get(clients).to_string();
            assert_eq!(names.iter().filter(|name| **name == shown).count(), 1, "{shown}");
        }
    }
}
