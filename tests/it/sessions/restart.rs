//! A server that is restarted under its clients.

use std::thread;
use std::time::{Duration, Instant};

use super::{LINK, PACE, append_to, read};
use crate::support::{Ambassador, Failure, Launch, Load, RedisServer, appended, password};

/// How long a restart takes.
pub(crate) const DOWN: Duration = Duration::from_secs(1);

fn real(configuration: &str) -> Option<(RedisServer, Ambassador, String)> {
    let password = password();
    let server = RedisServer::start(&format!("requirepass {password}\n{configuration}"))?;
    let ambassador = Launch::redis(server.address())
        .variable("REDIS_AUTH", &password)
        // A machine under load is no reason to fail.
        .variable("REDIS_CONNECT_TIMEOUT", "15s")
        .start();
    Some((server, ambassador, password))
}

/// Fifty clients, of which ten write.
pub(crate) fn fifty(ambassador: &Ambassador) -> Load {
    let mut load = Load::on(ambassador.address(LINK));
    load.add("reader", 20, PACE, read);
    load.add_with("?protocol=resp3", "reader", 20, PACE, read);
    load.add("writer", 10, PACE, append_to("writer"));
    load.goes_on();
    load
}

/// Readers have no failure; a writer at most one, of what was on its way when the server ended.
#[track_caller]
pub(crate) fn expect_little(load: &mut Load, ended: Instant) {
    load.stop();
    let failures = load.failures();
    let is_under_way =
        |failure: &Failure| failure.who.starts_with("writer") && failure.is_lost && failure.sent <= ended;
    let wrong: Vec<_> = failures.iter().filter(|failure| !is_under_way(failure)).take(10).collect();
    assert!(wrong.is_empty(), "of {} failures {wrong:#?}, {ended:?} the server's end", failures.len());
    for failure in &failures {
        let of_one = failures.iter().filter(|other| other.who == failure.who).count();
        assert_eq!(of_one, 1, "{} failed more than once", failure.who);
    }
}

/// `SHUTDOWN NOSAVE`, and a second later it is there again: whom nothing was owed to has no error.
#[test]
fn a_restart_costs_nothing_but_the_writes_that_were_under_way() {
    let Some((mut server, ambassador, password)) = real("") else { return };
    let mut load = fifty(&ambassador);
    let ended = server.shut_down(&password);
    // How long it takes is what this is about.
    thread::sleep(DOWN);
    server.start_again();
    load.goes_on();
    expect_little(&mut load, ended);
    let mut administrator = server.administrator(&password);
    for client in 0..10 {
        appended(&mut administrator, &format!("writer:{client}"));
    }
}

/// The same where the server was killed.
#[test]
fn a_crash_costs_nothing_but_the_writes_that_were_under_way() {
    let Some((mut server, ambassador, _)) = real("") else { return };
    let mut load = fifty(&ambassador);
    server.stop();
    let ended = Instant::now();
    thread::sleep(DOWN);
    server.start_again();
    load.goes_on();
    expect_little(&mut load, ended);
}

/// A server that is back and still loads its data refuses what it is asked: that is waited for, as is one that is away.
#[test]
fn a_server_that_loads_its_data_is_waited_for() {
    // Two seconds for two hundred keys.
    let configuration = "appendonly yes\nkey-load-delay 10000\nloading-process-events-interval-bytes 1024";
    let Some((mut server, ambassador, password)) = real(configuration) else { return };
    let mut administrator = server.administrator(&password);
    for key in 0..200 {
        let value = "v".repeat(200);
        redis::cmd("SET").arg(format!("filling:{key}")).arg(value).exec(&mut administrator).expect("data");
    }
    redis::cmd("SET").arg(&["value", "kept"]).exec(&mut administrator).expect("data");
    let mut load = fifty(&ambassador);
    load.add("strict", 5, PACE, |connection, _, _| {
        let value: Option<String> = redis::cmd("GET").arg("value").query(connection)?;
        assert_eq!(value.as_deref(), Some("kept"));
        Ok(())
    });
    load.goes_on();
    let ended = server.shut_down(&password);
    server.start_again();
    load.goes_on();
    expect_little(&mut load, ended);
    let mut administrator = server.administrator(&password);
    for client in 0..10 {
        let there = appended(&mut administrator, &format!("writer:{client}"));
        for round in load.done("writer", client) {
            assert!(there.binary_search(&round.number).is_ok(), "{} is lost", round.number);
        }
    }
}
