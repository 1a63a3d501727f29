//! What is measured. To measure something else, add it to [`ALL`].

pub mod bulk;
pub mod growth;
pub mod idle;
mod redis_benchmark;
pub mod requests;
pub mod sessions;
pub mod sharing;
pub mod short;
pub mod startup;
pub mod tls;
pub mod warm;

use anyhow::Result;

use crate::Bench;
use crate::load::Conversation;
use crate::peers::{Peer, Route, Running};
use crate::samples::{Cell, Metric, Results, count};

pub struct Workload {
    /// As in `BENCH_ONLY`.
    pub name: &'static str,
    pub title: &'static str,
    /// What is done, for the reader of the report.
    pub text: &'static str,
    /// A table each.
    pub metrics: &'static [Metric],
    /// The peers that ours is set in relation to, in columns of their own.
    pub against: &'static [&'static str],
    pub run: fn(&Bench, &mut Results) -> Result<()>,
}

pub const ALL: &[Workload] = &[
    requests::WORKLOAD,
    redis_benchmark::WORKLOAD,
    short::WORKLOAD,
    idle::WORKLOAD,
    bulk::WORKLOAD,
    growth::WORKLOAD,
    tls::WORKLOAD,
    warm::WORKLOAD,
    sessions::WORKLOAD,
    sharing::WORKLOAD,
    startup::WORKLOAD,
];

impl Bench {
    /// The plain proxies.
    fn proxies(&self) -> Vec<&Peer> {
        self.peers.plain.iter().filter(|peer| peer.is_proxy()).collect()
    }

    /// The rounds, each announced.
    fn rounds(&self) -> impl Iterator<Item = usize> {
        let rounds = self.settings.rounds;
        (0..rounds).inspect(move |round| eprintln!("  round {} of {rounds}", round + 1))
    }
}

/// Starts every peer on the route; those that can't be started are left out, and recorded.
fn start_all(
    peers: &[Peer],
    route: Route<'_>,
    workload: &'static str,
    results: &mut Results,
) -> Vec<Running> {
    let mut running = Vec::new();
    for peer in peers {
        match peer.start(route) {
            Ok(started) => running.push(started),
            Err(error) => {
                let cell = Cell { workload, case: "start", peer: peer.name, round: 0 };
                results.record(&cell, Err(error));
            }
        }
    }
    running
}

/// The peers in this round's order: each comes first in its turn, and every other round goes backwards, so that
/// none is always measured right after the same other.
fn in_turn<T>(peers: &[T], round: usize) -> impl Iterator<Item = &T> {
    let number = peers.len();
    (0..number).map(move |step| {
        let step = if round.is_multiple_of(2) { step } else { number - step };
        &peers[(round + step) % number]
    })
}

/// Measures one case with every peer, in all rounds.
fn measure_each(
    bench: &Bench,
    workload: &'static str,
    case: &str,
    peers: &[Running],
    results: &mut Results,
    measure: impl Fn(&Running) -> Result<Vec<(Metric, f64)>>,
) -> Result<()> {
    for round in bench.rounds() {
        for peer in in_turn(peers, round) {
            let cell = Cell { workload, case, peer: peer.name, round };
            results.record(&cell, measure(peer));
            bench.redis.wait_until_quiet()?;
        }
    }
    Ok(())
}

fn open_many(peer: &Running, number: usize) -> Result<Vec<Conversation>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// In five rounds everyone of five comes first once and follows more than one other.
    #[test]
    fn the_order_gives_nobody_the_same_place() {
        let peers = [0, 1, 2, 3, 4];
        let rounds: Vec<Vec<_>> = (0..5).map(|round| in_turn(&peers, round).copied().collect()).collect();
        for peer in peers {
            assert_eq!(rounds.iter().filter(|order| order[0] == peer).count(), 1);
            let followed =
                |other| rounds.iter().any(|order| order.windows(2).any(|two| two == [other, peer]));
            assert_eq!(peers.into_iter().filter(|other| followed(*other)).count(), 2);
        }
    }
}
