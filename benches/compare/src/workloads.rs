//! What is measured. To measure something else, add it to [`ALL`].

pub mod bulk;
pub mod growth;
pub mod idle;
mod redis_benchmark;
pub mod requests;
pub mod short;
pub mod startup;

use std::net::TcpStream;

use anyhow::Result;

use crate::Bench;
use crate::peers::{Peer, Running};
use crate::samples::{Cell, Metric, Results, count};
use crate::targets::Target;

pub struct Workload {
    /// As in `BENCH_ONLY`.
    pub name: &'static str,
    pub title: &'static str,
    /// What is done, for the reader of the report.
    pub text: &'static str,
    /// A table each.
    pub metrics: &'static [Metric],
    pub run: fn(&Bench, &mut Results) -> Result<()>,
}

pub const ALL: &[Workload] = &[
    requests::WORKLOAD,
    redis_benchmark::WORKLOAD,
    short::WORKLOAD,
    idle::WORKLOAD,
    bulk::WORKLOAD,
    growth::WORKLOAD,
    startup::WORKLOAD,
];

impl Bench {
    /// Starts every peer in front of the target; those that can't be started are left out, and recorded.
    fn start_all(&self, target: &Target, workload: &'static str, results: &mut Results) -> Vec<Running> {
        let mut running = Vec::new();
        for peer in &self.peers {
            match peer.start(target) {
                Ok(started) => running.push(started),
                Err(error) => {
                    let cell = Cell { workload, case: "start", peer: peer.name, round: 0 };
                    results.record(&cell, Err(error));
                }
            }
        }
        running
    }

    fn proxies(&self) -> Vec<&Peer> {
        self.peers.iter().filter(|peer| peer.proxy.is_some()).collect()
    }

    /// The rounds, each announced.
    fn rounds(&self) -> impl Iterator<Item = usize> {
        let rounds = self.settings.rounds;
        (0..rounds).inspect(move |round| eprintln!("  round {} of {rounds}", round + 1))
    }
}

/// The peers in this round's order: each comes first in its turn, so that none is always measured right after
/// the same other.
fn in_turn<T>(peers: &[T], round: usize) -> impl Iterator<Item = &T> {
    let first = round % peers.len().max(1);
    peers[first..].iter().chain(&peers[..first])
}

fn open_many(peer: &Running, number: usize) -> Result<Vec<TcpStream>> {
    (0..number).map(|_| peer.open()).collect()
}

/// A size in bytes, as in "64 KiB".
fn bytes(size: usize) -> String {
    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;
    match size {
        MIB.. => format!("{} MiB", size / MIB),
        KIB.. => format!("{} KiB", size / KIB),
        _ => format!("{size} B"),
    }
}

/// A number of connections, as in "1 connection".
pub fn connections(number: usize) -> String {
    format!("{} connection{}", count(number), if number == 1 { "" } else { "s" })
}
