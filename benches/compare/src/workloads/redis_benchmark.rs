//! The most common cell once more with redis-benchmark: what anybody can repeat by hand.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Workload, in_turn, requests, start_all};
use crate::Bench;
use crate::load::requests::Operation;
use crate::peers::{HAPROXY, Route, Running};
use crate::samples::{Cell, Metric, Results};

pub const WORKLOAD: Workload = Workload {
    name: "redis-benchmark",
    title: "The same with redis-benchmark",
    text: "`redis-benchmark -c 50 -d 3 -t get,set`, through each of them, as a check on the figures above.",
    metrics: &[Metric::RequestRate, Metric::Median, Metric::P99],
    against: &[HAPROXY],
    run,
};

/// About what Redis answers in a second on one core; redis-benchmark wants a number, not a time.
const REQUESTS_A_SECOND: f64 = 50_000.0;

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let route = Route::to(bench.redis.target());
    let peers = start_all(&bench.peers.plain, route, WORKLOAD.name, results);
    // The key as it asks for it, so that the first GET finds a value.
    bench.redis.command(&[b"SET", b"key:__rand_int__", &[b'x'; requests::SMALL]])?;
    let requests = (REQUESTS_A_SECOND * bench.settings.duration.as_secs_f64()).max(1_000.0);
    for round in bench.rounds() {
        for operation in Operation::SIMPLE {
            for peer in in_turn(&peers, round) {
                let case = format!("{operation} {} B, {} connections", requests::SMALL, requests::MANY);
                let cell = Cell { workload: WORKLOAD.name, case: &case, peer: peer.name, round };
                results.record(&cell, measure(peer, operation, requests));
                bench.redis.wait_until_quiet()?;
            }
        }
    }
    Ok(())
}

fn measure(peer: &Running, operation: Operation, requests: f64) -> Result<Vec<(Metric, f64)>> {
    let mut command = Command::new("redis-benchmark");
    command
        .args(["-h", &peer.address.ip().to_string(), "-p", &peer.address.port().to_string()])
        .args([
            "-c",
            &requests::MANY.to_string(),
            "-d",
            &requests::SMALL.to_string(),
            "-n",
            &format!("{requests:.0}"),
        ])
        .args(["-t", &operation.to_string().to_lowercase(), "--csv"]);
    if let Some(password) = &peer.credentials.password {
        // It has no other way to be told; the password is made for this run alone.
        command.args(["-a", password]);
    }
    let output = command.output().context("redis-benchmark")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
    let line = text.lines().find(|line| line.starts_with(&format!("\"{operation}\"")));
    let line = line.with_context(|| format!("redis-benchmark said {}", text.trim()))?;
    let columns: Vec<f64> =
        line.split(',').skip(1).filter_map(|column| column.trim_matches('"').parse().ok()).collect();
    ensure!(columns.len() == 7, "redis-benchmark said {line}");
    Ok(vec![
        (Metric::RequestRate, columns[0]),
        (Metric::Median, columns[3] * 1e3),
        (Metric::P99, columns[5] * 1e3),
    ])
}
