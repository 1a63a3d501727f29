//! `FAILOVER` between two servers, and one that is demoted without a word.

use std::net::SocketAddr;
use std::time::Duration;

use redis::Connection;

use super::{LINK, check_lists, exchanges, rounds, work};
use crate::support::{Launch, Load, RedisServer, Version, eventually, password};

/// A primary and its replica, behind a link that takes the master of the two.
struct Pair {
    servers: [RedisServer; 2],
    password: String,
    version: Version,
}

impl Pair {
    fn start(version: Version) -> Option<Self> {
        let password = password();
        let configuration =
            format!("requirepass {password}\nmasterauth {password}\nrepl-diskless-sync-delay 0");
        let first = RedisServer::start_version_announced(version, &configuration)?;
        let (ip, port) = (first.address().ip(), first.address().port());
        let follows = format!("{configuration}\nreplicaof {ip} {port}");
        let second = RedisServer::start_version_announced(version, &follows)?;
        let pair = Self { servers: [first, second], password, version };
        pair.wait_for_replica_of(0);
        Some(pair)
    }

    fn launch(&self) -> Launch {
        Launch::redis(format!("{},{}", self.servers[0].address(), self.servers[1].address()))
            .variable("REDIS_AUTH", &self.password)
            .variable("REDIS_ROLE", "master")
            // A machine under load is no reason to fail.
            .variable("REDIS_CONNECT_TIMEOUT", "15s")
    }

    fn administrator(&self, server: usize) -> Connection {
        self.servers[server].administrator(&self.password)
    }

    fn address(&self, server: usize) -> SocketAddr {
        self.servers[server].address()
    }

    /// Waits until this server is the primary of the other one, and is up to date.
    #[track_caller]
    fn wait_for_replica_of(&self, primary: usize) {
        let mut administrator = self.administrator(primary);
        eventually(&format!("a replica at {}", self.version.name()), || {
            let info: String = redis::cmd("INFO").arg("replication").query(&mut administrator).expect("INFO");
            info.contains("role:master") && info.contains("state=online")
        });
    }

    /// Has a primary hand over to its replica.
    fn fail_over(&self, primary: usize) {
        redis::cmd("FAILOVER").exec(&mut self.administrator(primary)).expect("a failover");
        self.wait_for_replica_of(1 - primary);
    }
}

/// Readers and writers have no error and lose nothing: what was refused because of the failover is sent again. A
/// transaction or a script that was refused is told so, in Redis' own words; nobody loses a connection.
#[test]
fn a_planned_failover_costs_no_client_anything_on_any_server() {
    a_planned_failover_costs_nothing(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_planned_failover_costs_nothing(change: impl Fn(Launch) -> Launch) {
    const EACH: usize = 3;
    for version in Version::ALL {
        let Some(pair) = Pair::start(version) else { continue };
        let ambassador = change(pair.launch()).start();
        let mut load = Load::on(ambassador.address(LINK));
        work(&mut load, EACH, Duration::from_millis(5));
        load.goes_on();
        for round in 0..rounds(2) {
            pair.fail_over(round % 2);
            load.goes_on();
        }
        load.expect_no_failure_but_of(&["script", "transaction"]);
        for failure in load.failures() {
            let words = failure.error.to_uppercase();
            let is_refused = words.contains("READONLY") || words.contains("EXECABORT");
            assert!(is_refused && !failure.is_lost, "{failure:#?} at {}", version.name());
        }
        let primary = rounds(2) % 2;
        check_lists(&mut pair.administrator(primary), &load, EACH, |_, _| true);
    }
}

/// A primary becomes a replica, and the first to hear of it is the client's write: it is refused by the one and taken by
/// the other.
#[test]
fn a_write_that_was_refused_is_sent_to_the_new_primary() {
    a_refused_write_goes_to_the_new_primary(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_refused_write_goes_to_the_new_primary(change: impl Fn(Launch) -> Launch) {
    for version in Version::ALL {
        let Some(pair) = Pair::start(version) else { continue };
        let ambassador = change(pair.launch()).start();
        let mut client = ambassador.connect(LINK);
        client.send(b"SET k 1\r\n");
        client.expect(b"+OK\r\n");
        let mut second = pair.administrator(1);
        eventually("a replica that has it", || {
            redis::cmd("GET").arg("k").query::<Option<usize>>(&mut second).expect("a value") == Some(1)
        });
        demote(&pair);
        client.send(b"INCR k\r\nINCR k\r\n");
        client.expect(b":2\r\n:3\r\n");
        assert!(exchanges(&ambassador, "refused") + exchanges(&ambassador, "demoted") > 0);
        let value: usize = redis::cmd("GET").arg("k").query(&mut pair.administrator(1)).expect("a value");
        assert_eq!(value, 3, "{}", version.name());
    }
}

/// A client that has said all that it has to say, and ended its stream, gets the answer of the new primary too.
#[test]
fn a_client_that_ends_its_stream_gets_the_new_primarys_answer() {
    the_last_word_goes_to_the_new_primary(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn the_last_word_goes_to_the_new_primary(change: impl Fn(Launch) -> Launch) {
    let Some(pair) = Pair::start(Version::Redis70) else { return };
    let ambassador = change(pair.launch().variable("REDIS_MOVE_GRACE", "off")).start();
    let mut client = ambassador.connect(LINK);
    client.send(b"SET k 1\r\n");
    client.expect(b"+OK\r\n");
    demote(&pair);
    client.send(b"SET k 2\r\n");
    client.finish_sending();
    client.expect(b"+OK\r\n");
    client.expect_end();
    let value: usize = redis::cmd("GET").arg("k").query(&mut pair.administrator(1)).expect("a value");
    assert_eq!(value, 2);
}

/// `WAIT` for writes that the old primary took, which the new one knows nothing of: the client is told, and goes.
#[test]
fn a_wait_for_writes_of_before_a_failover_ends_the_session() {
    a_wait_for_another_servers_writes_ends_the_session(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_wait_for_another_servers_writes_ends_the_session(change: impl Fn(Launch) -> Launch) {
    let Some(pair) = Pair::start(Version::Redis70) else { return };
    let ambassador = change(pair.launch()).start();
    let client = redis::Client::open(format!("redis://{}/", ambassador.address(LINK))).expect("a URL");
    let mut client = client.get_connection().expect("a connection");
    redis::cmd("SET").arg(&["k", "v"]).exec(&mut client).expect("a value");
    pair.fail_over(0);
    eventually("the client is at the new primary", || {
        let info: String = redis::cmd("INFO").arg("replication").query(&mut client).expect("INFO");
        info.contains("role:master")
    });
    let waited = redis::cmd("WAIT").arg(&[0, 100]).query::<usize>(&mut client);
    let words = waited.expect_err("a false promise").to_string();
    assert!(words.contains("redis-ambassador"), "{words}");
}

/// The first server follows the second from now on, which takes writes.
fn demote(pair: &Pair) {
    let second = pair.address(1);
    redis::cmd("REPLICAOF").arg(&["NO", "ONE"]).exec(&mut pair.administrator(1)).expect("a primary");
    let mut follow = redis::cmd("REPLICAOF");
    follow.arg(second.ip().to_string()).arg(second.port());
    follow.exec(&mut pair.administrator(0)).expect("a replica");
}

/// What a script or a transaction was refused is told as it is: part of the work may be done.
#[test]
fn a_script_and_a_transaction_are_told_what_the_server_said() {
    scripts_and_transactions_hear_the_server(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn scripts_and_transactions_hear_the_server(change: impl Fn(Launch) -> Launch) {
    let said: [(&str, &[&str]); 2] = [
        ("EVAL \"return redis.call('SET', 'k', 'v')\" 0\r\n", &["-READONLY"]),
        ("MULTI\r\nSET k v\r\nEXEC\r\n", &["+OK", "-READONLY", "-EXECABORT"]),
    ];
    for (said, heard) in said {
        let Some(pair) = Pair::start(Version::Redis70) else { return };
        // It is not looked after meanwhile: nobody else tells that the primary has been demoted.
        let ambassador = change(pair.launch().variable("REDIS_MOVE_GRACE", "off")).start();
        let mut client = ambassador.connect(LINK);
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
        demote(&pair);
        client.send(said.as_bytes());
        for expected in heard {
            let line = client.expect_line();
            // Or the session has left already.
            if line == "+OK" && expected.starts_with("-R") || line.starts_with("+Q") {
                break;
            }
            let is_script = line.starts_with("-ERR") && line.contains("READONLY");
            assert!(line.starts_with(expected) || is_script, "{line} instead of {expected}");
        }
    }
}

/// Where no server takes the write, a client hears Redis' own words once the connect timeout is over, and stays.
#[test]
fn where_no_server_takes_a_write_the_client_hears_so() {
    a_write_that_no_server_takes_is_refused(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_write_that_no_server_takes_is_refused(change: impl Fn(Launch) -> Launch) {
    let Some(pair) = Pair::start(Version::Redis70) else { return };
    let ambassador = change(pair.launch().variable("REDIS_CONNECT_TIMEOUT", "1s")).start();
    let mut client = ambassador.connect(LINK);
    client.send(b"SET k 1\r\n");
    client.expect(b"+OK\r\n");
    // Both are replicas from now on.
    let second = pair.address(1);
    let mut follow = redis::cmd("REPLICAOF");
    follow.arg(second.ip().to_string()).arg(second.port());
    follow.exec(&mut pair.administrator(0)).expect("a replica");
    client.send(b"SET k 2\r\n");
    let line = client.expect_line();
    assert!(line.starts_with("-READONLY ") || line.contains("is a replica, not a master"), "{line}");
}
