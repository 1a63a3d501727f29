//! What a session costs.

use std::time::Duration;

use anyhow::Result;

use super::requests::{self, Case, LARGE, SMALL};
use super::{Workload, open_many, start_all};
use crate::Bench;
use crate::load::requests::{Batch, Generator};
use crate::peers::{OURS, Route, Running, UNFRAMED};
use crate::samples::{Cell, Metric, Results};

pub const WORKLOAD: Workload = Workload {
    name: "sessions",
    title: "Sessions",
    text: "redis-ambassador as it is, which follows where commands and replies end, beside itself with \
           `REDIS_SESSIONS=off`, which does not. In every round each is loaded four times, in the order of A B B A A B B \
           A; the difference is too small for anything coarser.",
    metrics: &[Metric::RequestCpu, Metric::RequestRate],
    against: &[UNFRAMED],
    run,
};

/// How often a round measures each of them.
const TURNS: usize = 4;

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let route = Route::to(bench.redis.target());
    let peers = start_all(&bench.peers.sessions, route, WORKLOAD.name, results);
    for round in bench.rounds() {
        let simple = [SMALL, LARGE[0]].into_iter().flat_map(Case::simple);
        for case in simple.chain(Case::nested()) {
            let batch = case.batch(&bench.redis)?;
            let name = case.to_string();
            let cell = |peer| Cell { workload: WORKLOAD.name, case: &name, peer, round };
            match measure(&peers, &batch, case.connections, round, bench.settings.duration) {
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
        vec![requests::a_request(Metric::RequestCpu, self.spent, self.requests), (Metric::RequestRate, rate)]
    }
}

fn measure<'a>(
    peers: &'a [Running],
    batch: &Batch,
    connections: usize,
    round: usize,
    duration: Duration,
) -> Result<Vec<Loaded<'a>>> {
    let loaded: Result<Vec<_>> =
        peers.iter().map(|peer| Loaded::new(peer, connections, batch.clone())).collect();
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
