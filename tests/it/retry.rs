//! A target that is not there: for a moment, for long, and for a client that does not wait.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::support::{
    Authority, BlackHole, Launch, Peer, RedisServer, Target, TlsPeer, command, eventually, own_address,
    password,
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
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect_silence(A_MOMENT);
    redis.start_again();
    client.expect(b"+PONG\r\n");
    // Nothing was owed to the other one, which stays.
    before.send(b"PING\r\n");
    before.expect(b"+PONG\r\n");
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

/// What a client has said before its connection is reset makes no difference, however much it is, nor does the end of its
/// stream.
#[test]
fn a_client_that_is_reset_after_it_has_sent_ends_the_dial() {
    let ambassador = Launch::redis(own_address())
        .plain_link("DB", own_address())
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "10m")
        .start();
    let before = ambassador.descriptors();
    for link in ["redis:6379", "db:5432"] {
        for (len, half_closes) in [(6, false), (100_000, false), (6, true)] {
            let mut client = ambassador.connect(link);
            client.send(&vec![b'x'; len]);
            if half_closes {
                client.finish_sending();
            }
            client.expect_silence(A_MOMENT);
            client.reset();
            eventually("the dial's end", || ambassador.descriptors() <= before);
        }
    }
}

/// So it is with TLS, and with a Unix socket, which has no resets but knows when its other end is closed for good.
#[test]
fn a_client_that_is_gone_behind_its_end_ends_the_dial() {
    let authority = Authority::new("Test CA");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ambassador = Launch::redis(own_address())
        .listen_tls("REDIS", &authority.issue(&["127.0.0.1"]))
        .plain_link("DB", own_address())
        .variable("DB_LISTEN", format!("unix:{}", directory.path().join("socket").display()))
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "10m")
        .start();
    let before = ambassador.descriptors();
    let mut safe = TlsPeer::connect(ambassador.address("redis:6379"), &authority.client(None));
    safe.send(b"PING\r\n");
    safe.finish_sending();
    let mut client = ambassador.connect("db:5432");
    client.send(b"PING\r\n");
    client.finish_sending();
    client.expect_silence(A_MOMENT);
    safe.reset();
    drop(client);
    eventually("the dials' end", || ambassador.descriptors() <= before);
}

/// `printf 'PING\r\n' | nc`: a client that has said all it has to say waits for its answer for as long as the dial takes,
/// on every kind of link.
#[test]
fn a_client_that_has_said_all_it_has_to_say_waits_for_its_answer() {
    let authority = Authority::new("Test CA");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (address, secret) = (own_address(), password());
    let ambassador = Launch::redis(address)
        .variable("REDIS_WARM", "1")
        .plain_link("DB", address)
        .redis_link("LOCAL", address)
        .variable("LOCAL_LISTEN", format!("unix:{}", directory.path().join("socket").display()))
        .redis_link("SAFE", address)
        .listen_tls("SAFE", &authority.issue(&["127.0.0.1"]))
        .redis_link("ABSORBING", address)
        .variable("ABSORBING_CLIENT_AUTH", "absorb")
        .redis_link("REQUIRING", address)
        .variable("REQUIRING_CLIENT_AUTH", "require")
        .variable("REQUIRING_CLIENT_PASSWORD", &secret)
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "1m")
        .start();
    let authenticated = format!("AUTH {secret}\r\nPING\r\n");
    let mut clients = ["redis", "db", "local", "absorbing", "requiring"].map(|alias| {
        let mut client =
            ambassador.connect(&if alias == "db" { "db:5432".to_owned() } else { format!("{alias}:6379") });
        let has_password = alias.ends_with("ing");
        client.send(if has_password { authenticated.as_bytes() } else { b"PING\r\n" });
        client.finish_sending();
        (client, if has_password { "+OK\r\n+PONG\r\n" } else { "+PONG\r\n" })
    });
    let mut safe = TlsPeer::connect(ambassador.address("safe:6379"), &authority.client(None));
    safe.send(b"PING\r\n");
    safe.finish_sending();
    // Longer than anybody was waited for who might have gone.
    clients[0].0.expect_silence(Duration::from_millis(1500));
    let _target = Target::at(address).serve(|mut peer| {
        // One is kept ready, and comes to nothing.
        let mut said = Vec::new();
        if peer.read_to_end(&mut said).is_ok() && said == b"PING\r\n" {
            peer.send(b"+PONG\r\n");
        }
    });
    for (client, answer) in &mut clients {
        client.expect(answer.as_bytes());
        client.expect_end();
    }
    assert_eq!(safe.expect_rest(), b"+PONG\r\n");
}

/// And one that waits in vain is told why, not that it has left.
#[test]
fn a_client_that_has_said_all_it_has_to_say_is_told_what_is_wrong() {
    let hole = BlackHole::start();
    let ambassador = Launch::redis(hole.address()).variable("REDIS_CONNECT_TIMEOUT", "1500ms").start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.finish_sending();
    let words = client.expect_refusal("redis:6379");
    assert!(words.contains("1s 500ms"), "{words}");
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
