//! A target that is not there: for a moment, for long, and for a client that does not wait.

use std::time::{Duration, Instant};

use crate::support::{
    BlackHole, Launch, Peer, RedisServer, Target, command, eventually, own_address, password,
};

const A_MOMENT: Duration = Duration::from_millis(300);

/// A target that refuses at first and listens soon after costs the client a wait, not an error.
#[test]
fn a_target_that_comes_up_within_the_connect_timeout_serves_the_waiting_client() {
    let redis = own_address();
    let plain = own_address();
    let ambassador =
        Launch::redis(redis).plain_link("DB", plain).variable("AMBASSADOR_CONNECT_TIMEOUT", "1m").start();
    for (link, address) in [("redis:6379", redis), ("db:5432", plain)] {
        let mut client = ambassador.connect(link);
        client.send(b"PING\r\n");
        client.expect_silence(A_MOMENT);
        let mut server = Target::at(address).accept();
        server.expect(b"PING\r\n");
        server.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
    }
}

/// A target that is reset in the middle of the dial is dialled again.
#[test]
fn a_target_that_resets_while_dialling_is_dialled_again() {
    let target = Target::start();
    let password = password();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_CONNECT_TIMEOUT", "1m")
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    let handshake = command(&[b"AUTH", password.as_bytes()]);
    for _ in 0..2 {
        let mut server = target.accept();
        server.expect(&handshake);
        server.reset();
    }
    let mut server = target.accept();
    server.expect(&handshake);
    server.send(b"+OK\r\n");
    server.expect(b"PING\r\n");
    server.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");
}

/// A restart of Redis costs a new client a wait.
#[test]
fn a_restart_of_redis_is_waited_for() {
    let password = password();
    let Some(mut redis) = RedisServer::start(&format!("requirepass {password}")) else {
        return;
    };
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_CONNECT_TIMEOUT", "1m")
        .start();
    let mut before = ambassador.connect("redis:6379");
    before.send(b"PING\r\n");
    before.expect(b"+PONG\r\n");
    redis.stop();
    before.expect_gone();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect_silence(A_MOMENT);
    redis.start_again();
    client.expect(b"+PONG\r\n");
}

/// A target that refuses for longer than the connect timeout is told to the client, as what it is.
#[test]
fn a_target_that_goes_on_refusing_is_a_refusal_after_the_connect_timeout() {
    let ambassador = Launch::redis(own_address()).variable("REDIS_CONNECT_TIMEOUT", "500ms").start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    let words = client.expect_refusal("redis:6379");
    assert!(words.to_lowercase().contains("refused"), "{words}");
    let line = ambassador.wait_for("connection failed");
    assert_eq!(line["stage"], "connect", "{line}");
}

/// An address that swallows every packet is given up after the connect timeout.
#[test]
fn a_black_hole_is_a_refusal_after_the_connect_timeout() {
    let hole = BlackHole::start();
    let ambassador = Launch::redis(hole.address())
        .plain_link("DB", hole.address())
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "500ms")
        .start();
    ambassador.connect("redis:6379").expect_refusal("redis:6379");
    ambassador.connect("db:5432").expect_gone();
    for link in ["redis:6379", "db:5432"] {
        let line = ambassador.wait_for_log("the failed dial", |line| {
            line["message"] == "connection failed" && line["link"] == link
        });
        assert_eq!(line["stage"], "connect", "{line}");
    }
}

/// A name that does not resolve is told as such.
#[test]
fn a_name_that_does_not_resolve_is_a_refusal() {
    let ambassador =
        Launch::redis("no-such-host.invalid:6379").variable("REDIS_CONNECT_TIMEOUT", "500ms").start();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("no-such-host.invalid"), "{words}");
    let line = ambassador.wait_for("connection failed");
    assert_eq!(line["stage"], "resolve", "{line}");
}

/// A client that leaves gives its place back at once, however long its dial could have gone on.
#[test]
fn a_client_that_leaves_ends_the_dial() {
    let hole = BlackHole::start();
    let refusing = own_address();
    for target in [hole.address(), refusing] {
        for leaves in [drop::<Peer> as fn(Peer), Peer::reset] {
            let ambassador = Launch::redis(target)
                .plain_link("DB", target)
                .variable("AMBASSADOR_CONNECT_TIMEOUT", "10m")
                .start();
            let before = ambassador.descriptors();
            for link in ["redis:6379", "db:5432"] {
                let mut client = ambassador.connect(link);
                client.expect_silence(A_MOMENT);
                leaves(client);
                eventually("the dial's end", || ambassador.descriptors() <= before);
            }
        }
    }
}

/// What a client has said before it leaves makes no difference, however much it is.
#[test]
fn a_client_that_leaves_after_it_has_sent_ends_the_dial() {
    let ambassador = Launch::redis(own_address())
        .plain_link("DB", own_address())
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "10m")
        .start();
    let before = ambassador.descriptors();
    for link in ["redis:6379", "db:5432"] {
        for (leaves, len) in [(drop::<Peer> as fn(Peer), 6), (Peer::reset, 6), (Peer::reset, 100_000)] {
            let mut client = ambassador.connect(link);
            client.send(&vec![b'x'; len]);
            client.expect_silence(A_MOMENT);
            leaves(client);
            eventually("the dial's end", || ambassador.descriptors() <= before);
        }
    }
}

/// Once a target has been away for longer than the connect timeout, the next client hears of it at once instead of
/// waiting as long again; after a dial that works, clients wait again.
#[test]
fn a_long_outage_fails_fast_until_a_dial_works_again() {
    let timeout = Duration::from_secs(3);
    let address = own_address();
    let ambassador = Launch::redis(address).variable("REDIS_CONNECT_TIMEOUT", "3s").start();
    let outage = Instant::now();
    while outage.elapsed() < timeout {
        ambassador.connect("redis:6379").expect_refusal("redis:6379");
    }
    for _ in 0..5 {
        let start = Instant::now();
        ambassador.connect("redis:6379").expect_refusal("redis:6379");
        assert!(start.elapsed() < timeout / 2, "the client had to wait again");
    }

    let target = Target::at(address);
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    client.send(b"PING\r\n");
    server.expect(b"PING\r\n");
    drop((client, server, target));

    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect_silence(A_MOMENT);
    let mut server = Target::at(address).accept();
    server.expect(b"PING\r\n");
}

/// In a long outage a client gets one try, not a try after the other.
#[test]
fn in_a_long_outage_a_client_gets_one_try() {
    let target = Target::start().serve(Peer::reset);
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", password())
        .variable("REDIS_CONNECT_TIMEOUT", "1s")
        .start();
    let outage = Instant::now();
    while outage.elapsed() < Duration::from_secs(1) {
        ambassador.connect("redis:6379").expect_refusal("redis:6379");
        assert!(target.accepted() > 1, "the first client's dial was not tried again");
    }
    for _ in 0..3 {
        let before = target.accepted();
        ambassador.connect("redis:6379").expect_refusal("redis:6379");
        assert_eq!(target.accepted(), before + 1);
    }
}

/// A link whose target is away leaves the other links alone.
#[test]
fn a_link_that_fails_never_harms_another() {
    let working = Target::start().echo();
    let hole = BlackHole::start();
    let ambassador = Launch::plain(working.address())
        .redis_link("AWAY", own_address())
        .redis_link("SILENT", hole.address())
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "1m")
        .start();
    let waiting = (0..20)
        .flat_map(|_| ["away:6379", "silent:6379"])
        .map(|link| ambassador.connect(link))
        .collect::<Vec<_>>();
    let mut client = ambassador.connect("db:5432");
    client.send(b"still here");
    client.expect(b"still here");
    drop(waiting);
}
