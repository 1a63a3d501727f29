//! Names: whom the ambassador asks, what it makes of the answer, and what it says when there is none.

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use tempfile::TempDir;

use crate::support::{
    BlackHole, Launch, Manner, NameServer, Named, Peer, RedisServer, eventually, leave_out, own_address,
    try_whom, whom,
};

/// A plain tunnel to `name` at the port of `server`, with names looked up at `dns`.
fn tunnel(dns: &NameServer, name: &str, server: &Named) -> Launch {
    Launch::plain(format!("{name}:{}", server.address().port()))
        .variable("AMBASSADOR_DNS", dns.address().to_string())
}

/// Whether a file of the system can be replaced for one process alone; if not, the test that needs it says so.
pub(crate) fn can_mount() -> bool {
    let can =
        Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|out| out.status.success());
    if !can {
        leave_out("this user may not mount");
    }
    can
}

/// A name is looked up for every dial, whatever the TTL of the last answer.
#[test]
fn a_new_address_is_dialled_at_once_whatever_the_ttl() {
    let dns = NameServer::start();
    let [a, b] = Named::at_one_port(["a", "b"]);
    dns.addresses("db.test", &[a.ip()]);
    let ambassador = tunnel(&dns, "db.test", &a).start();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    dns.addresses("db.test", &[b.ip()]);
    // The last answer is shared for one second.
    eventually("the new address", || whom(&mut ambassador.connect("db:5432")) == "b");
}

/// Dials at the same moment share a lookup: one question for each kind of address.
#[test]
fn dials_at_the_same_moment_share_a_lookup() {
    let dns = NameServer::start();
    let server = Named::start("a");
    dns.addresses("db.test", &[server.ip()]);
    let ambassador = tunnel(&dns, "db.test", &server).variable("DB_MOVE_GRACE", "off").start();
    let address = ambassador.address("db:5432");
    let clients: Vec<Peer> = (0..200).map(|_| Peer::connect(address)).collect();
    for mut client in clients {
        assert_eq!(whom(&mut client), "a");
    }
    assert!(dns.asked() <= 8, "{} questions", dns.asked());
}

/// Every address of a name is tried, whatever is wrong with the others.
#[test]
fn every_address_of_a_name_is_tried() {
    let dns = NameServer::start();
    let server = Named::start("a");
    let hole = BlackHole::start();
    let refusing = own_address();
    let nobody: IpAddr = "::1".parse().expect("an address");
    dns.addresses("db.test", &[refusing.ip(), nobody, server.ip()]);
    let ambassador = tunnel(&dns, "db.test", &server).start();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    drop(hole);
}

/// A first name server that hangs leaves the connect timeout to the others.
#[test]
fn a_name_server_that_hangs_does_not_eat_the_connect_timeout() {
    let (hanging, good) = (NameServer::start(), NameServer::start());
    hanging.behaves(Manner::Hangs);
    let server = Named::start("a");
    good.addresses("db.test", &[server.ip()]);
    let ambassador = tunnel(&hanging, "db.test", &server)
        .variable("AMBASSADOR_DNS", format!("{},{}", hanging.address(), good.address()))
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "3s")
        .start();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    assert!(hanging.asked() > 0);
}

/// A first name server that fails is passed over; one that says that there is no such name is believed.
#[test]
fn a_name_server_that_fails_is_passed_over_and_one_that_knows_better_is_believed() {
    let (first, second) = (NameServer::start(), NameServer::start());
    let server = Named::start("a");
    second.addresses("db.test", &[server.ip()]);
    let ambassador = tunnel(&first, "db.test", &server)
        .variable("AMBASSADOR_DNS", format!("{},{}", first.address(), second.address()))
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "1s")
        .start();
    ambassador.connect("db:5432").expect_gone();
    let line = ambassador.wait_for("connection failed");
    let error = line["error"].as_str().unwrap_or_default();
    assert!(error.contains("NXDOMAIN") && error.contains(&first.address().to_string()), "{line}");
    assert_eq!(second.asked(), 0);
    first.behaves(Manner::Says(ResponseCode::ServFail));
    eventually("the second name server's answer", || {
        try_whom(&mut ambassador.connect("db:5432")).as_deref() == Some("a")
    });
}

/// Whatever is wrong with the resolver, the error names it, and the name too.
#[test]
fn a_resolver_that_fails_or_hangs_is_an_error_that_names_it() {
    for (manner, said) in [
        (Some(Manner::Hangs), "longer than"),
        (Some(Manner::Says(ResponseCode::ServFail)), "SERVFAIL"),
        (Some(Manner::Says(ResponseCode::Refused)), "REFUSED"),
        (Some(Manner::Answers), "NXDOMAIN"),
        (None, ""),
    ] {
        let dns = NameServer::start();
        let address = dns.address();
        let dns = manner.map(|manner| {
            dns.behaves(manner);
            dns
        });
        let ambassador = Launch::redis("redis.test:6379")
            .variable("AMBASSADOR_DNS", address.to_string())
            .variable("AMBASSADOR_CONNECT_TIMEOUT", "700ms")
            .start();
        let mut client = ambassador.connect("redis:6379");
        client.send(b"PING\r\n");
        let words = client.expect_refusal("redis:6379");
        assert!(words.contains("redis.test") && words.contains(&address.to_string()), "{words}");
        assert!(words.contains(said), "{words}");
        let line = ambassador.wait_for("connection failed");
        assert_eq!(line["stage"], "resolve", "{line}");
        drop(dns);
    }
}

/// The hosts file goes before DNS, and is read anew for every dial.
#[test]
fn the_hosts_file_goes_before_dns_and_is_read_for_every_dial() {
    if !can_mount() {
        return;
    }
    let dns = NameServer::start();
    let [a, b, c] = Named::at_one_port(["a", "b", "c"]);
    dns.addresses("my_db", &[c.ip()]);
    let directory = TempDir::new().expect("a temporary directory");
    let hosts = directory.path().join("hosts");
    fs::write(&hosts, format!("{} My_DB other\n", a.ip())).expect("a hosts file");
    let ambassador = tunnel(&dns, "my_db", &a).mount(&hosts, "/etc/hosts").start();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    fs::write(&hosts, format!("{} my_db\n", b.ip())).expect("a hosts file");
    eventually("the new line", || whom(&mut ambassador.connect("db:5432")) == "b");
    fs::write(&hosts, "").expect("a hosts file");
    eventually("the DNS", || whom(&mut ambassador.connect("db:5432")) == "c");
}

/// Search domains count, with the system's name servers and with others.
#[test]
fn search_domains_count() {
    if !can_mount() {
        return;
    }
    let dns = NameServer::start();
    let server = Named::start("a");
    dns.addresses("db.inner.test", &[server.ip()]);
    let directory = TempDir::new().expect("a temporary directory");
    let resolv = directory.path().join("resolv.conf");
    fs::write(&resolv, "nameserver 127.0.0.1\nsearch outer.test inner.test\n").expect("a file");
    let ambassador = tunnel(&dns, "db", &server).mount(&resolv, "/etc/resolv.conf").start();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
}

/// Docker freezes an address in the variable of a link, and keeps the hosts file up to date: the link is dialled where
/// the hosts file says, and at the frozen address only if it says nothing.
#[test]
fn a_link_that_docker_wrote_is_followed_in_the_hosts_file() {
    if !can_mount() {
        return;
    }
    let [frozen, now] = Named::at_one_port(["frozen", "now"]);
    let directory = TempDir::new().expect("a temporary directory");
    let hosts = directory.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").expect("a hosts file");
    let launch = || {
        Launch::plain(frozen.address())
            .variable("DB_NAME", "/consumer/my-db")
            .variable("DB_PORT_5432_TCP_ADDR", frozen.ip().to_string())
            .mount(&hosts, "/etc/hosts")
    };
    let ambassador = launch().start();
    // Without one of the companions, somebody else may have written the variable.
    let others = [
        launch().without("DB_NAME").start(),
        launch().without("DB_PORT_5432_TCP_ADDR").start(),
        launch().variable("DB_PORT_5432_TCP_ADDR", "192.0.2.1").start(),
    ];
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "frozen");
    let mut stays = ambassador.connect("db:5432");
    assert_eq!(whom(&mut stays), "frozen");
    fs::write(&hosts, format!("127.0.0.1 localhost\n{} my-db 3f2a1b app\n", now.ip())).expect("a hosts file");
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "now");
    for other in &others {
        assert_eq!(whom(&mut other.connect("db:5432")), "frozen");
    }
    // Whoever sat at the old address has to leave it.
    stays.expect_gone();
}

/// Who stays connected to an address that a name has left is asked to leave, though nobody dials any more.
#[test]
fn whoever_sits_at_an_address_that_a_name_has_left_has_to_leave() {
    let dns = NameServer::start();
    let [a, b] = Named::at_one_port(["a", "b"]);
    dns.addresses("db.test", &[a.ip()]);
    let ambassador = tunnel(&dns, "db.test", &a).start();
    let mut client = ambassador.connect("db:5432");
    assert_eq!(whom(&mut client), "a");
    dns.addresses("db.test", &[b.ip()]);
    client.expect_end();
    let line = ambassador.wait_for("a backend moved");
    assert_eq!(line["from"], a.ip().to_string(), "{line}");
    assert_eq!(line["to"], b.ip().to_string(), "{line}");
    assert_eq!(line["connections"], 1, "{line}");
}

/// A name that can't be resolved for a while has not moved.
#[test]
fn a_name_that_can_not_be_resolved_has_not_moved() {
    let dns = NameServer::start();
    let server = Named::start("a");
    dns.addresses("db.test", &[server.ip()]);
    let ambassador = tunnel(&dns, "db.test", &server).start();
    let mut client = ambassador.connect("db:5432");
    assert_eq!(whom(&mut client), "a");
    for manner in [Manner::Says(ResponseCode::NXDomain), Manner::Says(ResponseCode::ServFail), Manner::Hangs]
    {
        let before = dns.asked();
        dns.behaves(manner);
        eventually("looks at the name", || dns.asked() >= before + 4);
    }
    client.expect_silence(Duration::from_millis(500));
    assert_eq!(whom(&mut client), "a");
}

/// A real Redis behind a name, with a real client.
#[test]
fn redis_is_found_by_its_name() {
    let Some(redis) = RedisServer::start("") else { return };
    let dns = NameServer::start();
    dns.addresses("redis.test", &[redis.address().ip()]);
    let ambassador = Launch::redis(format!("redis.test:{}", redis.address().port()))
        .variable("AMBASSADOR_DNS", dns.address().to_string())
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// Name servers that are none are a mistake of configuration.
#[test]
fn name_servers_that_are_none_are_refused() {
    for value in ["dns.example", "10.0.0.1:x", "10.0.0.1:0", "127.0.0.1:53,,nobody"] {
        let finished = Launch::redis("r:6379").variable("AMBASSADOR_DNS", value).finish();
        finished.expect_mistake("AMBASSADOR_DNS");
    }
}
