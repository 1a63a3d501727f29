//! TLS, towards clients and towards the target.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::requests::{self, Case, LARGE, SMALL};
use super::{Workload, connections, idle, in_turn, measure_each, short, start_all};
use crate::Bench;
use crate::load::tls::{Sessions, credulous};
use crate::load::{self, Credentials};
use crate::peers::{HAPROXY, Route, Running, STUNNEL};
use crate::samples::{Cell, Metric, Results};
use crate::targets::HandshakeTarget;

pub const WORKLOAD: Workload = Workload {
    name: "tls",
    title: "TLS",
    text: "*From clients*: clients speak TLS to the proxy and the proxy plain to Redis. *To the target*: clients speak \
           plain to the proxy and the proxy TLS to Redis. Everywhere TLS 1.3, AES-256-GCM and ECDSA P-256; proxies \
           verify the target's certificate. The client of the benchmark verifies none, so that its own work hides \
           less of theirs. Short-lived connections are eight clients, each: connect, AUTH where the client must, \
           PING, await PONG, close. Where they speak plain, every connection makes the proxy shake hands with a \
           server of the benchmark's own, which costs less than Redis and either lets sessions be resumed or does \
           not.",
    metrics: &[
        Metric::RequestCpu,
        Metric::RequestRate,
        Metric::ConnectionCpu,
        Metric::ConnectionRate,
        Metric::Resumed,
        Metric::ConnectionMemory,
        Metric::Median,
        Metric::P99,
    ],
    against: &[HAPROXY, STUNNEL],
    run,
};

/// On which side of the proxy TLS is spoken.
#[derive(Clone, Copy)]
pub enum Side {
    Clients,
    Target,
}

impl Side {
    const ALL: [Self; 2] = [Self::Clients, Self::Target];
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Clients => "from clients",
            Self::Target => "to the target",
        })
    }
}

/// Enough to tell a connection's share, and soon opened.
const IDLE: usize = 1_000;

fn all_requests() -> impl Iterator<Item = Case> {
    [SMALL, LARGE[0]].into_iter().flat_map(Case::simple)
}

pub fn request_case(side: Side, case: &Case) -> String {
    format!("{side}, {case}")
}

pub fn request_cases() -> Vec<String> {
    let of = |side| all_requests().map(move |case| request_case(side, &case));
    Side::ALL.into_iter().flat_map(of).collect()
}

fn handshake_case(side: Side, sessions: Sessions) -> String {
    let sessions = match sessions {
        Sessions::Fresh => "whole handshakes",
        Sessions::Resumed => "resumed sessions",
    };
    format!("{side}, {sessions}")
}

pub fn handshake_cases() -> Vec<String> {
    let of = |side| [Sessions::Fresh, Sessions::Resumed].map(|sessions| handshake_case(side, sessions));
    Side::ALL.into_iter().flat_map(of).collect()
}

fn idle_case(side: Side) -> String {
    format!("{side}, {}", connections(IDLE))
}

pub fn idle_cases() -> Vec<String> {
    Side::ALL.map(idle_case).to_vec()
}

fn run(bench: &Bench, results: &mut Results) -> Result<()> {
    let from_clients = Route { target: bench.redis.target(), shown: Some(&bench.certificates) };
    let to_target = Route::to(bench.redis.tls_target());
    for (side, route) in [(Side::Clients, from_clients), (Side::Target, to_target)] {
        let peers = start_all(&bench.peers.tls, route, WORKLOAD.name, results);
        let cases: Vec<_> = all_requests().map(|case| (request_case(side, &case), case)).collect();
        for round in bench.rounds() {
            requests::measure_round(bench, WORKLOAD.name, &cases, &peers, round, results)?;
            for peer in in_turn(&bench.peers.tls, round) {
                let case = idle_case(side);
                let cell = Cell { workload: WORKLOAD.name, case: &case, peer: peer.name, round };
                results.record(&cell, idle::measure(peer, route, IDLE));
                bench.redis.wait_until_quiet()?;
            }
        }
    }
    for sessions in [Sessions::Fresh, Sessions::Resumed] {
        let peers = start_all(&bench.peers.tls, from_clients, WORKLOAD.name, results);
        let case = handshake_case(Side::Clients, sessions);
        measure_each(bench, WORKLOAD.name, &case, &peers, results, |peer| {
            handshakes_of_clients(peer, sessions, bench.settings.duration)
        })?;
        let target = HandshakeTarget::start(&bench.certificates, sessions)?;
        let peers = start_all(&bench.peers.tls, Route::to(target.target()), WORKLOAD.name, results);
        let case = handshake_case(Side::Target, sessions);
        measure_each(bench, WORKLOAD.name, &case, &peers, results, |peer| {
            handshakes_with(&target, peer, sessions, bench.settings.duration)
        })?;
    }
    Ok(())
}

fn handshakes_of_clients(
    peer: &Running,
    sessions: Sessions,
    duration: Duration,
) -> Result<Vec<(Metric, f64)>> {
    // Sessions are remembered here: every peer is met with a memory of its own.
    let credentials = Credentials { tls: Some(credulous(sessions)?), ..peer.credentials.clone() };
    let open = || load::open(peer.address, &credentials);
    let (mut figures, outcome) = short::measure_with(peer, duration, open)?;
    figures.extend(share_of_resumed(sessions, outcome.resumed as u64, outcome.connections as u64)?);
    Ok(figures)
}

fn handshakes_with(
    target: &HandshakeTarget,
    peer: &Running,
    sessions: Sessions,
    duration: Duration,
) -> Result<Vec<(Metric, f64)>> {
    let (all_before, resumed_before) = target.handshakes();
    let (mut figures, _) = short::measure_with(peer, duration, || peer.open())?;
    let (all, resumed) = target.handshakes();
    figures.extend(share_of_resumed(sessions, resumed - resumed_before, all - all_before)?);
    Ok(figures)
}

/// Whether sessions are resumed is for each proxy to do as well as it does, and is shown.
fn share_of_resumed(sessions: Sessions, resumed: u64, all: u64) -> Result<Option<(Metric, f64)>> {
    match sessions {
        Sessions::Fresh => {
            ensure!(resumed == 0, "{resumed} of {all} handshakes were not whole ones");
            Ok(None)
        }
        Sessions::Resumed => Ok(Some((Metric::Resumed, 100.0 * resumed as f64 / all as f64))),
    }
}
