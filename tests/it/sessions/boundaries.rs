//! Nobody leaves in the midst of anything: not inside a reply, not between a command and its reply, not in a transaction.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::LINK;
use crate::support::{Ambassador, Launch, Peer, Target};

/// How long a reply stalls: longer than any quiet moment.
const STALL: Duration = Duration::from_millis(400);

/// How old a connection may grow; it leaves within the last tenth of that, and must have left a tenth later.
const LIFETIME: &str = "4s";

/// A moment of that last tenth, before a stall that goes beyond it.
const NEARLY: Duration = Duration::from_millis(3800);

/// What has a session leave its upstream.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reason {
    /// The process is asked to end.
    Drain,
    /// The target is somewhere else from now on.
    Move,
    /// The connection is old enough.
    Lifetime,
}

/// Two servers that a test plays, behind a link that can be moved from the first to the second.
struct Stage {
    reason: Reason,
    targets: [Target; 2],
    directory: TempDir,
    ambassador: Ambassador,
}

impl Stage {
    fn new(reason: Reason, change: impl FnOnce(Launch) -> Launch) -> Self {
        let targets = [Target::start(), Target::start()];
        let directory = TempDir::new().expect("a temporary directory");
        let path = directory.path().join("backends");
        fs::write(&path, targets[0].address().to_string()).expect("a file");
        let launch = Launch::redis("unused")
            .variable("REDIS_PORT_6379_TCP", format!("redis+file://{}", path.display()))
            .variable("REDIS_AUTH", "secret")
            .variable("REDIS_MOVE_GRACE", "5s");
        let launch =
            if reason == Reason::Lifetime { launch.variable("REDIS_MAX_LIFETIME", LIFETIME) } else { launch };
        Self { reason, targets, directory, ambassador: change(launch).start() }
    }

    fn accept(&self, target: usize) -> Peer {
        self.targets[target].accept_authenticated()
    }

    /// The reason comes up, and is known.
    fn come_up(&self) {
        match self.reason {
            Reason::Drain => {
                self.ambassador.signal(Signal::TERM);
                self.ambassador.wait_for("draining");
            }
            Reason::Move => {
                let address: SocketAddr = self.targets[1].address();
                let next = self.directory.path().join("next");
                fs::write(&next, address.to_string()).expect("a file");
                fs::rename(next, self.directory.path().join("backends")).expect("a rename");
                self.ambassador.wait_for("backends changed");
            }
            // In the time that a reply stalls.
            Reason::Lifetime => thread::sleep(NEARLY),
        }
    }

    /// The session has left its upstream: the client goes on with another one, or is let go in peace.
    fn expect_left(&self, mut client: Peer, mut upstream: Peer) {
        if self.reason == Reason::Drain {
            client.expect_end();
            return;
        }
        client.send(b"GET z\r\n");
        let mut fresh = self.accept(usize::from(self.reason == Reason::Move));
        fresh.expect(b"GET z\r\n");
        fresh.send(b"$1\r\nz\r\n");
        client.expect(b"$1\r\nz\r\n");
        upstream.expect_gone_in_silence();
    }
}

/// A reply that stalls in its midst arrives whole.
#[test]
fn a_reply_that_stalls_arrives_whole() {
    for reason in [Reason::Drain, Reason::Move, Reason::Lifetime] {
        let pieces = [
            ["$10\r\nhalf", "a word\r\n"],
            ["*2\r\n$1\r\na\r\n", "$1\r\nb\r\n"],
            ["%1\r\n+a\r\n", "*2\r\n:1\r\n:2\r\n"],
            ["+O", "K\r\n"],
            ["", ":1\r\n"],
            [":1\r", "\n"],
        ];
        let stage = Stage::new(reason, |launch| launch);
        let mut pairs = pieces.map(|[first, _]| {
            let mut client = stage.ambassador.connect(LINK);
            let mut upstream = stage.accept(0);
            client.send(b"HGETALL a\r\n");
            upstream.expect(b"HGETALL a\r\n");
            upstream.send(first.as_bytes());
            (client, upstream)
        });
        stage.come_up();
        pairs[0].1.expect_silence(STALL);
        for ((mut client, mut upstream), [first, second]) in pairs.into_iter().zip(pieces) {
            upstream.send(second.as_bytes());
            client.expect(format!("{first}{second}").as_bytes());
            stage.expect_left(client, upstream);
        }
    }
}

/// What was asked behind what is answered already is waited for too.
#[test]
fn what_blocks_is_waited_for() {
    for reason in [Reason::Drain, Reason::Move] {
        let stage = Stage::new(reason, |launch| launch);
        let mut client = stage.ambassador.connect(LINK);
        let mut upstream = stage.accept(0);
        client.send(b"PING\r\nBLPOP queue 0\r\n");
        upstream.expect(b"PING\r\nBLPOP queue 0\r\n");
        upstream.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
        stage.come_up();
        client.expect_silence(STALL);
        upstream.send(b"*2\r\n$5\r\nqueue\r\n$1\r\n1\r\n");
        client.expect(b"*2\r\n$5\r\nqueue\r\n$1\r\n1\r\n");
        stage.expect_left(client, upstream);
    }
}

/// A transaction is not cut between MULTI and EXEC, nor a key that is watched forgotten.
#[test]
fn a_transaction_is_waited_for() {
    for reason in [Reason::Drain, Reason::Move] {
        for begin in [&b"MULTI\r\n"[..], b"WATCH k\r\n"] {
            let stage = Stage::new(reason, |launch| launch);
            let mut client = stage.ambassador.connect(LINK);
            let mut upstream = stage.accept(0);
            client.send(begin);
            upstream.expect(begin);
            upstream.send(b"+OK\r\n");
            client.expect(b"+OK\r\n");
            stage.come_up();
            client.expect_silence(STALL);
            let end: &[u8] = if begin == b"MULTI\r\n" { b"EXEC\r\n" } else { b"UNWATCH\r\n" };
            client.send(end);
            upstream.expect(end);
            let answer: &[u8] = if begin == b"MULTI\r\n" { b"*0\r\n" } else { b"+OK\r\n" };
            upstream.send(answer);
            client.expect(answer);
            stage.expect_left(client, upstream);
        }
    }
}

/// A command that is half sent is executed, whether its first half has gone or not.
#[test]
fn half_a_command_is_waited_for() {
    for reason in [Reason::Drain, Reason::Move] {
        let stage = Stage::new(reason, |launch| launch);
        let mut client = stage.ambassador.connect(LINK);
        let mut upstream = stage.accept(0);
        client.send(b"*2\r\n$3\r\nGET\r\n$70000\r\n");
        let name = vec![b'n'; 70_000];
        client.send(&name[..40_000]);
        upstream.expect(b"*2\r\n$3\r\nGET\r\n$70000\r\n");
        upstream.expect(&name[..40_000]);
        stage.come_up();
        client.expect_silence(STALL);
        client.send(&name[40_000..]);
        client.send(b"\r\n");
        upstream.expect(&name[40_000..]);
        upstream.expect(b"\r\n");
        upstream.send(b"$1\r\na\r\n");
        client.expect(b"$1\r\na\r\n");
        stage.expect_left(client, upstream);
    }
}

/// Once it is asked for, no further command goes to the old upstream: what the client says meanwhile is for the next one.
#[test]
fn what_is_said_meanwhile_goes_to_the_next_upstream() {
    let stage = Stage::new(Reason::Move, |launch| launch);
    let mut client = stage.ambassador.connect(LINK);
    let mut old = stage.accept(0);
    client.send(b"BLPOP queue 0\r\n");
    old.expect(b"BLPOP queue 0\r\n");
    stage.come_up();
    client.send(b"SET a 1\r\nGET a\r\n");
    old.expect_silence(STALL);
    old.send(b"*-1\r\n");
    client.expect(b"*-1\r\n");
    let mut fresh = stage.accept(1);
    fresh.expect(b"SET a 1\r\nGET a\r\n");
    fresh.send(b"+OK\r\n$1\r\n1\r\n");
    client.expect(b"+OK\r\n$1\r\n1\r\n");
    old.expect_gone_in_silence();
}

/// What is still owed at the deadline is cut.
#[test]
fn what_is_owed_at_the_deadline_is_cut() {
    for reason in [Reason::Drain, Reason::Move] {
        let stage = Stage::new(reason, |launch| {
            launch.variable("REDIS_MOVE_GRACE", "500ms").variable("AMBASSADOR_DRAIN_TIMEOUT", "500ms")
        });
        let mut client = stage.ambassador.connect(LINK);
        let mut upstream = stage.accept(0);
        client.send(b"BLPOP queue 0\r\n");
        upstream.expect(b"BLPOP queue 0\r\n");
        stage.come_up();
        client.expect_gone();
        upstream.expect_gone();
    }
}

/// Who is idle leaves a drain at once, and a client that has come back to the boundary hears a clean end.
#[test]
fn a_drain_takes_idle_sessions_at_once() {
    let stage = Stage::new(Reason::Drain, |launch| launch.variable("AMBASSADOR_DRAIN_TIMEOUT", "15s"));
    let mut clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = stage.ambassador.connect(LINK);
            client.send(b"PING\r\n");
            let mut upstream = stage.accept(0);
            upstream.expect(b"PING\r\n");
            upstream.send(b"+PONG\r\n");
            client.expect(b"+PONG\r\n");
            (client, upstream)
        })
        .collect();
    stage.come_up();
    for (client, _) in &mut clients {
        client.expect_end();
    }
    drop(clients);
    assert_eq!(stage.ambassador.finish().code, Some(0));
}
