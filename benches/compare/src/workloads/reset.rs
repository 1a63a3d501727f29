//! What it costs to watch for RESET.

use std::time::Duration;

use anyhow::Result;

use super::requests::{self, Case, LARGE, MANY, SMALL};
use super::{Workload, open_many, start_all};
use crate::Bench;
use crate::load::requests::{Batch, Generator, Operation};
use crate::peers::{OURS, Route, Running, UNWATCHED};
use crate::samples::{Cell, Metric, Results};

pub const WORKLOAD: Workload = Workload {
    name: "reset",
    title: "Watching for RESET",
    text: "redis-ambassador as it is, which watches the commands of a client for RESET, beside itself with \
           `RESET=forward`, which does not. In every round each is loaded four times, in the order of A B B A A B B \
           A; the difference is too small for anything coarser.",
    metrics: &[Metric::RequestCpu, Metric::RequestRate],
    against: &[UNWATCHED],
    run,
};

/// How often a round measures each of them.
const TURNS: usize = 4;

pub fn cases(value: usize) -> [Case; 2] {
    Operation::ALL.map(|operation| Case { operation, value, connections: MANY, pipeline: 1 })
}

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let route = Route::to(bench.redis.target());
    let peers = start_all(&bench.peers.reset, route, WORKLOAD.name, results);
    for round in bench.rounds() {
        for case in [SMALL, LARGE[0]].into_iter().flat_map(cases) {
            let key = format!("value:{}", case.value);
            let value = vec![b'x'; case.value];
            bench.redis.command(&[b"SET", key.as_bytes(), &value])?;
            let batch = || Batch::new(case.operation, key.as_bytes(), &value, case.pipeline);
            let name = case.to_string();
            let cell = |peer| Cell { workload: WORKLOAD.name, case: &name, peer, round };
            match measure(&peers, batch, case.connections, round, bench.settings.duration) {
                Ok(loaded) => {
                    for one in loaded {
                        results.record(&cell(one.peer.name), Ok(one.figures()));
                    }
                }
                Err(error) => results.record(&cell(OURS), Err(error)),
            }
            bench.redis.wait_until_quiet()?;
        }
    }
    Ok(())
}

/// A peer under load, and what came of it so far.
struct Loaded<'a> {
    peer: &'a Running,
    generator: Generator,
    spent: Duration,
    elapsed: Duration,
    requests: usize,
}

impl<'a> Loaded<'a> {
    fn new(peer: &'a Running, connections: usize, batch: Batch) -> Result<Self> {
        let generator = Generator::new(open_many(peer, connections)?, batch)?;
        Ok(Self { peer, generator, spent: Duration::ZERO, elapsed: Duration::ZERO, requests: 0 })
    }

    fn turn(&mut self, duration: Duration) -> Result<()> {
        let before = self.peer.settled_cpu_time()?;
        let outcome = self.generator.run(duration, 0)?;
        self.spent += self.peer.settled_cpu_time()?.saturating_sub(before);
        self.elapsed += outcome.elapsed;
        self.requests += outcome.requests;
        Ok(())
    }

    fn figures(&self) -> Vec<(Metric, f64)> {
        let rate = self.requests as f64 / self.elapsed.as_secs_f64();
        vec![requests::request_cpu(self.spent, self.requests), (Metric::RequestRate, rate)]
    }
}

fn measure(
    peers: &[Running],
    batch: impl Fn() -> Batch,
    connections: usize,
    round: usize,
    duration: Duration,
) -> Result<Vec<Loaded<'_>>> {
    let loaded: Result<Vec<_>> = peers.iter().map(|peer| Loaded::new(peer, connections, batch())).collect();
    let mut loaded = loaded?;
    for one in &mut loaded {
        one.generator.run(duration / 5, 0)?;
    }
    for turn in 0..TURNS {
        // Which of the two is the A changes with the round.
        if (turn + round).is_multiple_of(2) {
            loaded.iter_mut().try_for_each(|one| one.turn(duration))?;
        } else {
            loaded.iter_mut().rev().try_for_each(|one| one.turn(duration))?;
        }
    }
    Ok(loaded)
}
