//! Backends from SRV records, from name servers good and bad.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;

use crate::support::{
    Ambassador, Dnsmasq, Launch, Manner, NameServer, Named, Peer, eventually, get, metric, own_address,
    try_whom, whom,
};

const NAME: &str = "_db._tcp.test";

/// A plain tunnel to the services of [`NAME`].
fn launch(dns: SocketAddr) -> Launch {
    Launch::plain("unused:1")
        .variable("DB_PORT_5432_TCP", format!("tcp+srv://{NAME}"))
        .variable("AMBASSADOR_DNS", dns.to_string())
}

/// Puts the servers behind one SRV name, each a name of its own.
fn serve(dns: &NameServer, servers: &[(u16, u16, &Named, &str)]) {
    for (_, _, server, name) in servers {
        dns.addresses(name, &[server.ip()]);
    }
    let services: Vec<_> = servers
        .iter()
        .map(|(priority, weight, server, name)| (*priority, *weight, server.address().port(), *name))
        .collect();
    dns.services(NAME, &services);
}

fn shares(ambassador: &Ambassador, dials: usize) -> HashMap<String, usize> {
    let mut shares = HashMap::new();
    for _ in 0..dials {
        *shares.entry(whom(&mut ambassador.connect("db:5432"))).or_default() += 1;
    }
    shares
}

/// The weights of the records are the shares of the connections, within the lowest priority; the port is the record's.
#[test]
fn weights_are_obeyed_within_the_lowest_priority() {
    let dns = NameServer::start();
    let (a, b, later) = (Named::start("a"), Named::start("b"), Named::start("later"));
    serve(&dns, &[(1, 30, &a, "a.test"), (1, 10, &b, "b.test"), (2, 1000, &later, "later.test")]);
    let ambassador = launch(dns.address()).start();
    let shares = shares(&ambassador, 400);
    // Five standard deviations: 5 √(400 · ¾ · ¼) = 43.
    assert!(shares["a"].abs_diff(300) <= 43, "{shares:?}");
    assert!(!shares.contains_key("later"), "{shares:?}");
}

/// A record that is there twice is one backend, which has one share.
#[test]
fn a_record_that_is_there_twice_is_one_backend() {
    let dns = NameServer::start();
    let (a, b) = (Named::start("a"), Named::start("b"));
    serve(&dns, &[(0, 1, &a, "a.test"), (0, 1, &b, "b.test"), (0, 1, &a, "a.test")]);
    let ambassador = launch(dns.address()).variable("DB_BALANCE", "round-robin").start();
    assert_eq!(shares(&ambassador, 60)["a"], 30);
}

/// The next priority serves when the one before it does not.
#[test]
fn the_next_priority_serves_when_the_first_does_not() {
    let dns = NameServer::start();
    let (a, later) = (Named::start("a"), Named::start("later"));
    serve(&dns, &[(1, 0, &a, "a.test"), (2, 0, &later, "later.test")]);
    let ambassador = launch(dns.address()).start();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    drop(a);
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "later");
}

/// `BALANCE` goes before the weights, but not before the priorities.
#[test]
fn a_balance_of_its_own_goes_before_the_weights() {
    let dns = NameServer::start();
    let (a, b, later) = (Named::start("a"), Named::start("b"), Named::start("later"));
    serve(&dns, &[(1, 90, &a, "a.test"), (1, 10, &b, "b.test"), (2, 0, &later, "later.test")]);
    let ambassador = launch(dns.address()).variable("DB_BALANCE", "round-robin").start();
    let shares = shares(&ambassador, 40);
    assert_eq!((shares["a"], shares["b"]), (20, 20), "{shares:?}");
}

/// A target of "." says that there is no such service: nothing is dialled, and the client hears why.
#[test]
fn a_target_of_a_lone_dot_is_no_service() {
    let dns = NameServer::start();
    dns.services(NAME, &[(0, 0, 0, ".")]);
    let ambassador = Launch::redis("unused:1")
        .variable("REDIS_PORT_6379_TCP", format!("redis+srv://{NAME}"))
        .variable("AMBASSADOR_DNS", dns.address().to_string())
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "500ms")
        .start();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("no backend"), "{words}");
}

/// An answer that is too long for UDP comes over TCP.
#[test]
fn an_answer_too_long_for_udp_is_asked_for_over_tcp() {
    let dns = NameServer::start();
    let server = Named::start("a");
    let names: Vec<_> = (0..1500).map(|number| format!("s{number}.test")).collect();
    let services: Vec<_> = names.iter().map(|name| (0, 1, server.address().port(), name.as_str())).collect();
    for name in &names {
        dns.addresses(name, &[server.ip()]);
    }
    dns.services(NAME, &services);
    let ambassador = launch(dns.address()).start();
    let line = ambassador.wait_for("backends changed");
    assert!(line["to"].as_str().is_some_and(|to| to.ends_with(" and 1492 more")), "{line}");
    let shares = shares(&ambassador, 50);
    assert_eq!(shares["a"], 50);
    assert!(dns.asked_over_tcp() > 0);
}

/// Records that change are followed when their time is over: new connections go to the new backend, old ones leave
/// theirs; one line says so.
#[test]
fn records_that_change_are_followed_and_old_connections_leave() {
    let dns = NameServer::start();
    dns.ttl(1);
    let (a, b) = (Named::start("a"), Named::start("b"));
    serve(&dns, &[(0, 0, &a, "a.test")]);
    let ambassador = launch(dns.address()).start();
    let mut old = ambassador.connect("db:5432");
    assert_eq!(whom(&mut old), "a");
    serve(&dns, &[(0, 0, &b, "b.test")]);
    old.expect_end();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "b");
    let line = ambassador
        .wait_for_log("the change", |line| line["message"] == "backends changed" && line["from"] != "");
    assert_eq!(line["from"], format!("a.test:{}", a.address().port()), "{line}");
    assert_eq!(line["to"], format!("b.test:{}", b.address().port()), "{line}");
    assert_eq!(line["connections"], 1, "{line}");
}

/// Records are looked up again after a dial has failed, long before their time is over.
#[test]
fn a_failed_dial_leads_to_another_lookup() {
    let dns = NameServer::start();
    let (a, b) = (Named::start("a"), Named::start("b"));
    serve(&dns, &[(0, 0, &a, "a.test")]);
    let ambassador = launch(dns.address()).variable("DB_CONNECT_TIMEOUT", "5s").start();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    serve(&dns, &[(0, 0, &b, "b.test")]);
    drop(a);
    // The client waits; it is not told of what only the ambassador has to know.
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "b");
}

/// While DNS is down, or denies what it said before, the last good records serve; it is said once, and so is the end.
#[test]
fn the_last_good_records_serve_while_dns_is_down() {
    let dns = NameServer::start();
    dns.ttl(1);
    // A name from the hosts file needs no DNS.
    let server = Named::at((Ipv4Addr::LOCALHOST, 0).into(), "a");
    dns.services(NAME, &[(0, 0, server.address().port(), "localhost")]);
    let ambassador = launch(dns.address()).start();
    let mut stays = ambassador.connect("db:5432");
    assert_eq!(whom(&mut stays), "a");
    for code in [ResponseCode::ServFail, ResponseCode::NXDomain] {
        let before = dns.asked();
        dns.behaves(Manner::Says(code));
        eventually("lookups in vain", || dns.asked() >= before + 3);
        assert_eq!(whom(&mut stays), "a");
        assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    }
    let line = ambassador.wait_for("discovery failed; keeping the last known backends");
    assert!(line["error"].as_str().is_some_and(|error| error.contains(&dns.address().to_string())), "{line}");
    assert!(line["remedy"].as_str().is_some_and(|remedy| remedy.contains("AMBASSADOR_DNS")), "{line}");
    dns.behaves(Manner::Answers);
    ambassador.wait_for("discovery recovered");
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    assert_eq!(whom(&mut stays), "a");
}

/// The hosts of those records keep their addresses then, as any name does.
#[test]
fn hosts_of_records_keep_their_addresses_while_dns_is_down() {
    let dns = NameServer::start();
    let server = Named::start("a");
    serve(&dns, &[(0, 0, &server, "a.test")]);
    let ambassador = launch(dns.address()).start();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    dns.behaves(Manner::Says(ResponseCode::Refused));
    eventually("records and hosts are of earlier answers", || {
        assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
        let stale = |series: &str| metric(ambassador.admin(), series) > 0.5;
        stale("names_stale") && stale("backends_stale{link=\"db:5432\"}")
    });
    let told = get(ambassador.admin(), "/links").link("db:5432");
    assert_eq!(told["state"], "degraded", "{told:#}");
    let warnings = told["warnings"].to_string();
    for words in
        ["the list of backends can't be had; the last one serves on", "no name server answers for a.test"]
    {
        assert!(warnings.contains(words), "{warnings}");
    }
}

/// A client that comes before DNS does waits for it within the connect timeout.
#[test]
fn a_client_waits_for_the_first_answer() {
    let dns = NameServer::start();
    dns.behaves(Manner::Says(ResponseCode::ServFail));
    let server = Named::start("a");
    serve(&dns, &[(0, 0, &server, "a.test")]);
    let ambassador = launch(dns.address()).variable("DB_CONNECT_TIMEOUT", "20s").start();
    let mut client = ambassador.connect("db:5432");
    client.send(b"whom?");
    client.expect_silence(Duration::from_millis(300));
    dns.behaves(Manner::Answers);
    assert_eq!(client.expect_line(), "+a");
}

/// The records of a real dnsmasq change under load: a client that reconnects once has no failed request.
#[test]
fn records_change_under_load_without_a_failed_request() {
    let (a, b) = (Named::start("a"), Named::start("b"));
    let records = |server: &Named| {
        format!(
            "local=/test/\naddress=/here.test/{}\nsrv-host={NAME},here.test,{},0,0\nlocal-ttl=1",
            server.ip(),
            server.address().port()
        )
    };
    let Some(mut dns) = Dnsmasq::start(&records(&a)) else { return };
    let ambassador = launch(dns.address()).start();
    let address = ambassador.address("db:5432");
    let stopped = Arc::new(AtomicBool::new(false));
    let arrived = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (stopped, arrived) = (Arc::clone(&stopped), Arc::clone(&arrived));
            thread::spawn(move || {
                let mut client = Peer::connect(address);
                let mut has_arrived = false;
                while !stopped.load(Ordering::Relaxed) {
                    let name = try_whom(&mut client).unwrap_or_else(|| {
                        client = Peer::connect(address);
                        try_whom(&mut client).expect("an answer after one reconnect")
                    });
                    if name == "b" && !has_arrived {
                        has_arrived = true;
                        arrived.fetch_add(1, Ordering::Relaxed);
                    }
                    // A client that never pauses has no quiet moment but the end of the grace.
                    thread::sleep(Duration::from_millis(1));
                }
            })
        })
        .collect();
    eventually("every client's first connection", || a.open() >= 8);
    dns.serve(&records(&b));
    eventually("every client's arrival", || arrived.load(Ordering::Relaxed) == 8);
    stopped.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no request failed");
    }
    eventually("nobody at the old backend", || a.open() == 0);
}

/// A dead resolver is named, to the client and in the log.
#[test]
fn a_dead_resolver_is_named() {
    let nobody = own_address();
    let ambassador = Launch::redis("unused:1")
        .variable("REDIS_PORT_6379_TCP", format!("redis+srv://{NAME}"))
        .variable("AMBASSADOR_DNS", nobody.to_string())
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "1s")
        .start();
    ambassador.wait_for("discovery failed; keeping the last known backends");
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains(&nobody.to_string()), "{words}");
}
