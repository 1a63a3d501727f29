//! Upstreams that are there no more, without anybody having said so.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{LINK, exchanges};
use crate::faults::{Network, Running, ping};
use crate::sharing::all_on_one;
use crate::support::{Ambassador, Launch, Peer, Target, command_is_missing, eventually};
use crate::surroundings::clock;

/// After this time an upstream is asked whether it is there.
const QUIET: &str = "+31";

/// An ambassador whose clock the test sets, so that nobody has to wait for half a minute.
struct Clock {
    directory: TempDir,
    library: std::path::PathBuf,
}

impl Clock {
    fn new() -> Option<Self> {
        let library = clock()?;
        let clock = Self { directory: TempDir::new().expect("a temporary directory"), library };
        clock.set("+0");
        Some(clock)
    }

    fn set(&self, time: &str) {
        fs::write(self.directory.path().join("time"), time).expect("a file");
    }

    fn show(&self, launch: Launch) -> Launch {
        launch
            .variable("LD_PRELOAD", &self.library)
            .variable("FAKETIME_TIMESTAMP_FILE", self.directory.path().join("time"))
            .variable("FAKETIME_NO_CACHE", "1")
    }
}

fn played(clock: &Clock) -> (Target, Ambassador) {
    played_with(clock, |launch| launch)
}

fn played_with(clock: &Clock, change: impl FnOnce(Launch) -> Launch) -> (Target, Ambassador) {
    let target = Target::start();
    let launch = change(Launch::redis(target.address()).variable("REDIS_AUTH", "secret"));
    (target, clock.show(launch).start())
}

/// A client and its upstream, on which something was said half a minute ago.
fn quiet(clock: &Clock, target: &Target, ambassador: &Ambassador) -> (Peer, Peer) {
    let mut client = ambassador.connect(LINK);
    let mut upstream = target.accept_authenticated();
    client.send(b"SET a 1\r\n");
    upstream.expect(b"SET a 1\r\n");
    upstream.send(b"+OK\r\n");
    client.expect(b"+OK\r\n");
    clock.set(QUIET);
    (client, upstream)
}

/// A quiet upstream is asked before the next command is entrusted to it; one that answers goes on, and the client hears
/// nothing of the question.
#[test]
fn a_quiet_upstream_that_answers_goes_on() {
    let Some(clock) = Clock::new() else { return };
    let (target, ambassador) = played(&clock);
    let (mut client, mut upstream) = quiet(&clock, &target, &ambassador);
    client.send(b"INCR a\r\nINCR a\r\n");
    let asked = upstream.expect_ping();
    upstream.expect_silence(Duration::from_millis(100));
    upstream.send(b"+PO");
    upstream.send(b"NG\r\n");
    upstream.expect(b"INCR a\r\nINCR a\r\n");
    upstream.send(b":2\r\n:3\r\n");
    client.expect(b":2\r\n:3\r\n");
    // It has just been heard.
    client.send(b"INCR a\r\n");
    upstream.expect(b"INCR a\r\n");
    target.expect_no_connection(Duration::from_millis(100));
    assert!(!asked.is_empty());
}

/// One that does not answer within a second is replaced, and hears nothing of the command.
#[test]
fn a_quiet_upstream_that_does_not_answer_is_replaced() {
    one_that_does_not_answer_is_replaced(|launch| launch);
}

pub(crate) fn one_that_does_not_answer_is_replaced(change: impl FnOnce(Launch) -> Launch) {
    let Some(clock) = Clock::new() else { return };
    let (target, ambassador) = played_with(&clock, change);
    let (mut client, mut upstream) = quiet(&clock, &target, &ambassador);
    let begun = Instant::now();
    client.send(b"INCR a\r\n");
    upstream.expect_ping();
    let mut fresh = target.accept_authenticated();
    fresh.expect(b"INCR a\r\n");
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(500) && waited < Duration::from_millis(1500), "{waited:?}");
    fresh.send(b":2\r\n");
    client.expect(b":2\r\n");
    // Nothing but the question has gone there.
    upstream.expect_gone_in_silence();
    assert_eq!(exchanges(&ambassador, "silent"), 1);
}

/// Who comes to a shared upstream that has been quiet is new, and the upstream is not: it is asked before the first command.
#[test]
fn a_shared_upstream_that_was_quiet_is_asked_for_a_new_client_too() {
    let Some(clock) = Clock::new() else { return };
    let (target, ambassador) = played_with(&clock, all_on_one);
    let (mut early, mut upstream) = quiet(&clock, &target, &ambassador);
    let mut client = ambassador.connect(LINK);
    client.send(b"INCR a\r\n");
    upstream.expect_ping();
    let mut fresh = target.accept_authenticated();
    fresh.expect(b"INCR a\r\n");
    fresh.send(b":1\r\n");
    client.expect(b":1\r\n");
    // It has been heard of late.
    let mut other = ambassador.connect(LINK);
    for (client, reply) in [(&mut other, b":2\r\n"), (&mut early, b":3\r\n")] {
        client.send(b"INCR a\r\n");
        fresh.expect(b"INCR a\r\n");
        fresh.send(reply);
        client.expect(reply);
    }
}

/// One that answers with an error, as servers do whose user may not do it, is there all the same.
#[test]
fn a_quiet_upstream_that_answers_with_an_error_goes_on() {
    let Some(clock) = Clock::new() else { return };
    let (target, ambassador) = played(&clock);
    let (mut client, mut upstream) = quiet(&clock, &target, &ambassador);
    client.send(b"INCR a\r\n");
    upstream.expect_ping();
    upstream.send(b"-NOPERM this user has no permissions to run the 'ping' command\r\n");
    upstream.expect(b"INCR a\r\n");
    upstream.send(b":2\r\n");
    client.expect(b":2\r\n");
}

/// A firewall forgets a hundred quiet connections and drops their packets: the next command of each is answered within
/// one and a half seconds, new connections go through, and nothing is done twice.
#[test]
fn connections_that_a_firewall_forgot_cost_a_second() {
    const CLIENTS: usize = 100;
    let Some(clock) = Clock::new() else { return };
    let Some(network) = Network::new() else { return };
    if command_is_missing("redis-server") {
        return;
    }
    let directory = TempDir::new().expect("a temporary directory");
    let home = directory.path().to_str().expect("a path of text");
    let redis = ["redis-server", "--port", "6379", "--save", "", "--dir", home, "--requirepass", "secret"];
    let _redis = Running::start("ip", &[&["netns", "exec", &network.0][..], &redis].concat());
    let ports = |range: &str| {
        let script = format!("echo '{range}' > /proc/sys/net/ipv4/ip_local_port_range");
        network.ip(&["netns", "exec", &network.0, "sh", "-c", &script]);
    };
    ports("20000 29999");
    let socket = directory.path().join("listen.sock");
    let launch = Launch::redis("127.0.0.1:6379")
        .variable("REDIS_LISTEN", format!("unix:{}", socket.display()))
        .variable("REDIS_AUTH", "secret")
        .variable("REDIS_DB", "1")
        .under(&["ip", "netns", "exec", &network.0]);
    let _ambassador = clock.show(launch).start();
    let connect = || Peer::connect_unix(&socket);
    eventually("the server serves", || {
        let mut client = connect();
        client.try_send(b"PING\r\n").is_ok() && client.receive(1) == b"+"
    });
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("SELECT 2\r\nSET count:{number} 1\r\n").as_bytes());
        client.expect(b"+OK\r\n+OK\r\n");
    }
    // Those that are there have ports that no later one has.
    network.drop_packets("-A", "20000:29999");
    ports("30000 39999");
    clock.set(QUIET);
    let begun = Instant::now();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("INCR count:{number}\r\n").as_bytes());
    }
    for client in &mut clients {
        client.expect(b":2\r\n");
    }
    let waited = begun.elapsed();
    assert!(waited < Duration::from_millis(1500), "{waited:?}");
    clients.iter_mut().for_each(ping);
}
