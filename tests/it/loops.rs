//! Links that lead to this very ambassador, or to another one that leads back.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::time::Duration;

use crate::support::{Ambassador, Launch, NameServer, Target, command, metric, own_address, password};

/// Not within this time is never, for a connection on loopback.
const A_MOMENT: Duration = Duration::from_millis(150);

fn accepted(ambassador: &Ambassador, link: &str) -> f64 {
    metric(ambassador.admin(), &format!("connections_accepted_total{{link=\"{link}\"}}"))
}

/// A target that is one of the process' own listeners is told at once, to the client, in the log and by `check`; of no kind
/// of link comes a second connection.
#[test]
fn a_link_that_leads_to_its_own_ambassador_is_told_at_once() {
    let [redis, plain] = [own_address(), own_address()];
    let dns = NameServer::start();
    dns.addresses("redis.test", &[redis.ip()]);
    dns.addresses("self.test", &[plain.ip()]);
    let target = format!("redis.test:{}", redis.port());
    let launch = || {
        Launch::redis(&target)
            .plain_link("DB", &target)
            .plain_link("SELF", format!("self.test:{}", plain.port()))
            .variable("AMBASSADOR_DNS", dns.address().to_string())
            .variable("REDIS_LISTEN", redis.to_string())
            .variable("REDIS_AUTH", password())
            .variable("SELF_LISTEN", plain.to_string())
    };
    let ambassador = launch().start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    let words = client.expect_refusal("redis:6379");
    assert_eq!(words, format!("{target} is this ambassador itself"));
    let logged = ambassador.wait_for("connection failed");
    assert_eq!(logged["stage"], "connect");
    let remedy = logged["remedy"].as_str().expect("a remedy");
    assert!(remedy.starts_with("let REDIS_PORT_6379_TCP name the Redis server itself"), "{remedy}");
    assert!((accepted(&ambassador, "redis:6379") - 1.0).abs() < f64::EPSILON);
    for link in ["self:5432", "db:5432"] {
        ambassador.connect(link).expect_gone();
        assert!((accepted(&ambassador, link) - 1.0).abs() < f64::EPSILON, "{link}");
    }
    let checked = launch().argument("check").finish();
    assert_eq!(checked.code, Some(1));
    assert!(checked.stdout.contains("is this ambassador itself"), "{}", checked.stdout);
}

/// So where it listens on every address of the host.
#[test]
fn a_link_that_leads_to_an_ambassador_on_every_address_is_told_at_once() {
    // On every address a port may be somebody else's.
    let dns = NameServer::start();
    dns.addresses("redis.test", &[Ipv4Addr::LOCALHOST.into()]);
    let (port, ambassador) = (0..10)
        .find_map(|_| {
            let port = own_address().port();
            let launch = Launch::redis(format!("redis.test:{port}"))
                .variable("AMBASSADOR_DNS", dns.address().to_string())
                .variable("REDIS_LISTEN", format!("0.0.0.0:{port}"));
            Some((port, launch.try_start().ok()?))
        })
        .expect("a free port");
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    assert_eq!(client.expect_refusal("redis:6379"), format!("redis.test:{port} is this ambassador itself"));
}

/// What listens on every IPv4 address is not at the same port of IPv6.
#[test]
fn a_server_at_the_same_port_of_ipv6_is_not_taken_for_the_ambassador() {
    let dns = NameServer::start();
    dns.addresses("db.test", &[Ipv6Addr::LOCALHOST.into()]);
    // A port may be somebody else's in the other family.
    let (_server, ambassador) = (0..10)
        .find_map(|_| {
            let port = own_address().port();
            TcpListener::bind((Ipv6Addr::LOCALHOST, port)).ok()?;
            let server = Target::at((Ipv6Addr::LOCALHOST, port).into()).echo();
            let launch = Launch::plain(format!("db.test:{port}"))
                .variable("AMBASSADOR_DNS", dns.address().to_string())
                .variable("DB_LISTEN", format!("0.0.0.0:{port}"));
            Some((server, launch.try_start().ok()?))
        })
        .expect("a free port");
    let mut client = ambassador.connect("db:5432");
    client.send(b"hello");
    client.expect(b"hello");
}

/// Two that lead to each other soon stop, and say so; the words of one stand in those of the other once.
#[test]
fn two_ambassadors_that_lead_to_each_other_soon_stop() {
    let [one, other] = [own_address(), own_address()];
    let launch = |listen, target| {
        Launch::redis(target)
            .variable("REDIS_LISTEN", format!("{listen}"))
            .variable("REDIS_AUTH", password())
            .variable("REDIS_CONNECT_TIMEOUT", "2s")
    };
    let (first, second) = (launch(one, other).start(), launch(other, one).start());
    let mut client = first.connect("redis:6379");
    client.send(b"PING\r\n");
    let words = client.expect_refusal("redis:6379");
    assert!(words.starts_with(&format!("{other} is an ambassador too, which says: redis:6379: ")), "{words}");
    assert!(words.ends_with("has not answered ours for 1s, as if the two led to each other"), "{words}");
    assert_eq!(words.matches("is an ambassador too").count(), 1, "{words}");
    let all = accepted(&first, "redis:6379") + accepted(&second, "redis:6379");
    assert!(all < 40.0, "{all} connections");
}

/// The error of an ambassador is told as such: no password was refused.
#[test]
fn the_words_of_another_ambassador_are_told_as_such() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH", password()).start();
    for words in [
        "cache:6379: can't connect to 10.0.0.9:6379: connection refused",
        "cache:6379: the target refused the password: ERR invalid password",
    ] {
        let mut client = ambassador.connect("redis:6379");
        client.send(b"PING\r\n");
        let mut server = target.accept();
        server.send(format!("-ERR redis-ambassador: {words}\r\n").as_bytes());
        let read = client.expect_refusal("redis:6379");
        assert_eq!(read, format!("{} is an ambassador too, which says: {words}", target.address()));
    }
    let logged = ambassador.wait_for("connection failed");
    let remedy = logged["remedy"].as_str().expect("a remedy");
    assert!(remedy.starts_with("see the log of the ambassador at "), "{remedy}");
}

/// A server that has clients beside it and does not answer for a while gets no more handshakes than a few, and everybody
/// is served once it answers.
#[test]
fn clients_beside_a_server_that_does_not_answer_yet_wait_for_its_answer() {
    const FEW: usize = 8;
    let target = Target::start();
    let password = password();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_CONNECT_TIMEOUT", "1m")
        .start();
    let handshake = command(&[b"AUTH", password.as_bytes()]);
    let connect = || {
        let mut client = ambassador.connect("redis:6379");
        client.send(b"PING\r\n");
        client
    };
    let (mut clients, mut servers): (Vec<_>, Vec<_>) = (0..FEW).map(|_| (connect(), target.accept())).unzip();
    servers[FEW - 1].expect(&handshake);
    clients.extend([connect(), connect()]);
    target.expect_no_connection(A_MOMENT);
    servers[0].expect(&handshake);
    servers[0].send(b"+OK\r\n");
    servers[0].expect(b"PING\r\n");
    servers[0].send(b"+PONG\r\n");
    for _ in 0..2 {
        servers.push(target.accept());
    }
    for (number, server) in servers.iter_mut().enumerate().skip(1) {
        if number != FEW - 1 {
            server.expect(&handshake);
        }
        server.send(b"+OK\r\n");
        server.expect(b"PING\r\n");
        server.send(b"+PONG\r\n");
    }
    for client in &mut clients {
        client.expect(b"+PONG\r\n");
    }
}
