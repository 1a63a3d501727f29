//! Failovers by Sentinel under load.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{LINK, append_to, check_lists, read, rounds, work};
use crate::support::{Ambassador, Failure, Launch, Load, PATIENCE, Quorum, eventually, password};

const EACH: usize = 3;
const QUICK: Duration = Duration::from_millis(10);

/// Who has waited for so long waits for what stands still.
const STUCK: Duration = Duration::from_millis(500);

fn launch(quorum: &Quorum) -> Launch {
    Launch::redis("unused")
        .variable("REDIS_PORT_6379_TCP", quorum.target())
        .variable("REDIS_AUTH", &quorum.password)
        .variable("REDIS_CONNECT_TIMEOUT", "20s")
}

/// Waits until most Sentinels hold the same server for the primary, which is another one than `old`. Each of many failovers
/// may leave one behind that has not heard of it.
#[track_caller]
pub(super) fn new_primary(quorum: &Quorum, old: usize) -> usize {
    // An election that came to nothing is repeated after twice the time of a failover, and may come to nothing again.
    let deadline = Instant::now() + 4 * PATIENCE;
    loop {
        let said: Vec<_> = (0..3).map(|sentinel| quorum.primary(sentinel)).collect();
        let is_new = |primary: &usize| {
            *primary != old && said.iter().filter(|other| **other == Some(*primary)).count() > said.len() / 2
        };
        if let Some(new) = said.iter().flatten().copied().find(is_new) {
            return new;
        }
        assert!(Instant::now() < deadline, "the Sentinels say {said:?}, and it was {old}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the server follows another one, and that one serves it: some eight seconds after the Sentinels have
/// announced the failover they demote the old primary, and cut all its clients.
#[track_caller]
pub(super) fn is_demoted(quorum: &Quorum, server: usize) {
    eventually("the old primary is a replica", || {
        let client = format!("redis://:{}@{}/", quorum.password, quorum.servers[server].address());
        let connection = redis::Client::open(client).expect("a URL").get_connection();
        let Ok(mut connection) = connection else { return false };
        let info: Result<String, _> = redis::cmd("INFO").arg("replication").query(&mut connection);
        info.is_ok_and(|info| info.contains("role:slave") && info.contains("master_link_status:up"))
    });
}

/// `SENTINEL FAILOVER`, again and again: nobody loses a connection but who is blocked or subscribed, and no command
/// fails. Nothing is executed twice, and what the primary that stayed has acknowledged is there.
#[test]
fn a_failover_costs_no_client_anything() {
    a_failover_costs_nothing(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_failover_costs_nothing(change: impl FnOnce(Launch) -> Launch) {
    let Some(quorum) = Quorum::start(&password()) else { return };
    let ambassador = change(launch(&quorum)).start();
    let mut load = Load::on(ambassador.address(LINK));
    work(&mut load, EACH, QUICK);
    load.add("blocked", 1, QUICK, |connection, _, _| {
        redis::cmd("BLPOP").arg(&["never", "0"]).exec(connection)
    });
    let mut subscriber = ambassador.connect(LINK);
    subscriber.send(b"SUBSCRIBE news\r\n");
    load.goes_on_but_of(&["blocked"]);
    let begun = Instant::now();
    let mut settled = begun;
    let mut old = quorum.primary(0).expect("a primary");
    for _ in 0..rounds(1) {
        quorum.fail_over();
        let new = new_primary(&quorum, old);
        eventually("nobody at the old primary", || quorum.free_clients(old) == 0);
        settled = Instant::now();
        load.goes_on_but_of(&["blocked"]);
        is_demoted(&quorum, old);
        load.goes_on_but_of(&["blocked"]);
        old = new;
    }
    subscriber.expect_gone();
    quorum.administrator(old).send_packed_command(b"RPUSH never now\r\n").expect("a list");
    load.expect_no_failure_but_of(&["blocked"]);
    check_lists(&mut quorum.administrator(old), &load, EACH, |sent, answered| {
        // What is acknowledged between promotion and announcement is lost with Redis' own replication.
        answered < begun || sent > settled
    });
}

/// Readers have no failure; writers one a round, of what was sent before the primary was gone: nobody knows whether that was
/// executed, so it is not sent again.
#[track_caller]
fn expect_little(load: &mut Load, losses: &[Instant]) {
    load.stop();
    let failures = load.failures();
    let is_under_way = |failure: &Failure| {
        failure.who.starts_with("writer")
            && failure.is_lost
            && losses.iter().any(|gone| failure.sent <= *gone)
    };
    let wrong: Vec<_> = failures.iter().filter(|failure| !is_under_way(failure)).take(10).collect();
    assert!(wrong.is_empty(), "of {} failures {wrong:#?}; it was gone at {losses:?}", failures.len());
    for writer in (0..EACH).map(|number| format!("writer {number}")) {
        let of_one = failures.iter().filter(|failure| failure.who == writer).count();
        assert_eq!(of_one, losses.len(), "{writer} has lost another number of writes");
    }
}

fn readers_and_writers(ambassador: &Ambassador) -> Load {
    let mut load = Load::on(ambassador.address(LINK));
    load.add("reader", 4, QUICK, read);
    load.add_with("?protocol=resp3", "reader", 4, QUICK, read);
    load.add("writer", EACH, QUICK, append_to("writer"));
    load.goes_on();
    load
}

/// What was acknowledged after the last failover is there, and nothing is there twice.
fn check_writers(quorum: &Quorum, primary: usize, load: &Load, settled: Instant) {
    for client in 0..EACH {
        let there = crate::support::appended(&mut quorum.administrator(primary), &format!("writer:{client}"));
        for round in load.done("writer", client).iter().filter(|round| round.sent > settled) {
            assert!(there.binary_search(&round.number).is_ok(), "{} of {client} is lost", round.number);
        }
    }
}

/// A primary that is killed while it owes an answer to everybody: readers wait, and writers lose what was under way.
#[test]
fn a_killed_primary_costs_readers_nothing() {
    a_killed_primary_costs_little(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_killed_primary_costs_little(change: impl FnOnce(Launch) -> Launch) {
    let Some(mut quorum) = Quorum::start(&password()) else { return };
    let ambassador = change(launch(&quorum)).start();
    let mut load = readers_and_writers(&ambassador);
    let (mut losses, mut settled) = (Vec::new(), Instant::now());
    let mut old = quorum.primary(0).expect("a primary");
    for round in 0..rounds(1) {
        quorum.servers[old].signal(Signal::STOP);
        load.waits_for(STUCK);
        quorum.servers[old].stop();
        losses.push(Instant::now());
        let new = new_primary(&quorum, old);
        load.goes_on();
        settled = Instant::now();
        if round + 1 < rounds(1) {
            quorum.servers[old].start_again();
            is_demoted(&quorum, old);
        }
        old = new;
    }
    load.goes_on();
    expect_little(&mut load, &losses);
    check_writers(&quorum, old, &load, settled);
}

/// A primary that stands still: readers wait until there is another one, and ask that.
#[test]
fn a_frozen_primary_costs_readers_nothing() {
    a_frozen_primary_costs_little(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_frozen_primary_costs_little(change: impl FnOnce(Launch) -> Launch) {
    let Some(quorum) = Quorum::start(&password()) else { return };
    let ambassador = change(launch(&quorum).variable("REDIS_MOVE_GRACE", "1s")).start();
    let mut load = readers_and_writers(&ambassador);
    let (mut losses, mut settled) = (Vec::new(), Instant::now());
    let mut old = quorum.primary(0).expect("a primary");
    for _ in 0..rounds(1) {
        quorum.servers[old].signal(Signal::STOP);
        let new = new_primary(&quorum, old);
        // Whatever was sent up to now may have gone to the old one.
        losses.push(Instant::now());
        load.goes_on();
        settled = Instant::now();
        quorum.servers[old].signal(Signal::CONT);
        is_demoted(&quorum, old);
        old = new;
    }
    load.goes_on();
    expect_little(&mut load, &losses);
    check_writers(&quorum, old, &load, settled);
}
