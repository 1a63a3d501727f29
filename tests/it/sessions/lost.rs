//! What can't be framed is passed on as it is, and never leads to an exchange.

use std::time::Duration;

use super::{LINK, sum};
use crate::support::{Ambassador, Launch, Peer, RedisServer, Target, noise};

fn played() -> (Target, Ambassador) {
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", "secret")
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    (target, ambassador)
}

/// The client has heard something that can't be framed: all that follows passes unchanged, and the session ends with
/// its upstream.
#[track_caller]
fn expect_lost(mut client: Peer, mut upstream: Peer, target: &Target, ambassador: &Ambassador) {
    let bytes = noise(3, 10_000);
    client.send(b"GET a\r\n");
    upstream.expect(b"GET a\r\n");
    upstream.send(&bytes);
    client.expect(&bytes);
    drop(upstream);
    client.expect_gone();
    target.expect_no_connection(Duration::from_millis(50));
    assert_eq!(sum(ambassador, "exchanges_total"), 0);
}

/// Replies that are no replies, or that nobody asked for.
#[test]
fn replies_that_can_not_be_framed_are_passed_on() {
    for [said, answered] in [
        ["", "-ERR unasked\r\n"],
        ["", ">2\r\n+push\r\n+in RESP2\r\n"],
        ["GET a\r\n", "+a\r\n+b\r\n"],
        ["GET a\r\nGET b\r\n", "+a\r\n+b\r\n:3\r\n"],
        ["GET a\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n"],
        ["GET a\r\n", "$99999999999999999999\r\n"],
        ["GET a\r\n", "$-2\r\n"],
        ["GET a\r\n", "*-3\r\n+a\r\n"],
        ["GET a\r\n", "*1x\r\n+a\r\n"],
        ["GET a\r\n", "$1\r\nab\r\n"],
        ["GET a\r\n", "\x00\x01\x02\r\n"],
        ["GET a\r\n", "+a\n+b\r\n\r\n"],
    ] {
        let (target, ambassador) = played();
        let mut client = ambassador.connect(LINK);
        let mut upstream = target.accept_authenticated();
        client.send(b"PING\r\n");
        upstream.expect(b"PING\r\n");
        upstream.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
        client.send(said.as_bytes());
        upstream.expect(said.as_bytes());
        upstream.send(answered.as_bytes());
        client.expect(answered.as_bytes());
        expect_lost(client, upstream, &target, &ambassador);
    }
}

/// Commands that are none.
#[test]
fn commands_that_can_not_be_framed_are_passed_on() {
    for said in [
        &b"*x\r\n"[..],
        b"*1\r\n!4\r\nPING\r\n",
        b"*99999999999999999999\r\n",
        // Servers before Redis 7.0 refuse it at once.
        b"*20000000\r\n",
        b"*1\r\n$99999999999999999999\r\n",
        // A name that no server would take.
        b"*1\r\n$99999999999\r\n",
        b"*1\r\n$-1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\"\xfc\x03\x03\n",
        b"SET \"a b\r\n",
    ] {
        let (target, ambassador) = played();
        let mut client = ambassador.connect(LINK);
        let mut upstream = target.accept_authenticated();
        client.send(said);
        upstream.expect(said);
        upstream.send(b"-ERR Protocol error\r\n");
        client.expect(b"-ERR Protocol error\r\n");
        expect_lost(client, upstream, &target, &ambassador);
    }
}

/// A reply that is larger than any buffer, and one of many elements, are framed all the same.
#[test]
fn large_replies_are_framed() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect(LINK);
    let mut old = target.accept_authenticated();
    let value = noise(5, 3 << 20);
    let elements = b"$1\r\nx\r\n".repeat(100_000);
    client.send(b"GET a\r\nLRANGE b 0 -1\r\n");
    old.expect(b"GET a\r\nLRANGE b 0 -1\r\n");
    let mut writer = old.handle();
    let sent = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n*100000\r\n", &elements].concat();
    let heard = sent.clone();
    let writing = std::thread::spawn(move || writer.send(&sent));
    client.expect(&heard);
    writing.join().expect("a writer");
    drop(old);
    client.send(b"GET c\r\n");
    let mut fresh = target.accept_authenticated();
    fresh.expect(b"GET c\r\n");
    fresh.send(b"$-1\r\n");
    client.expect(b"$-1\r\n");
}

/// A transaction that subscribes has replies that no parser can follow: they all arrive, and so does what comes later.
#[test]
fn a_transaction_that_subscribes_is_passed_on() {
    let Some(server) = RedisServer::start("requirepass secret") else { return };
    let ambassador = Launch::redis(server.address()).variable("REDIS_AUTH", "secret").start();
    let mut client = ambassador.connect(LINK);
    client.send(b"MULTI\r\nSUBSCRIBE a b\r\nPING\r\nEXEC\r\nUNSUBSCRIBE a b\r\nECHO last\r\n");
    client.expect(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n");
    let mut heard = Vec::new();
    while !heard.ends_with(b"$4\r\nlast\r\n") {
        heard.extend(client.receive(1));
    }
    drop(server.end_clients("secret"));
    client.expect_gone();
    assert_eq!(sum(&ambassador, "exchanges_total"), 0);
}
