//! Names: whom the ambassador asks, what it makes of the answer, and what it says when there is none.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tempfile::TempDir;

use crate::faults::hang;
use crate::support::{
    Ambassador, BlackHole, Launch, Manner, NameServer, Named, Peer, RedisServer, command_is_missing,
    eventually, fixture_text, leave_out, metric, own_address, try_whom, whom,
};

/// What half of an answer may come to, beside nothing at all.
const BROKEN: [Manner; 10] = [
    Manner::Hangs,
    Manner::Late(Duration::from_secs(30)),
    Manner::Says(ResponseCode::ServFail),
    Manner::Says(ResponseCode::Refused),
    Manner::Says(ResponseCode::NotImp),
    Manner::Says(ResponseCode::NXDomain),
    Manner::Babbles,
    Manner::Errs,
    Manner::Denies,
    Manner::Truncates,
];

/// Far more than a dial takes, and far less than it may.
const BRISK: Duration = Duration::from_secs(3);

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

/// The name servers that are asked are those of `/etc/resolv.conf`, in whatever form it has; errors name them.
#[test]
fn the_name_servers_are_those_of_the_system() {
    if !can_mount() {
        return;
    }
    let resolv = |file: &str| {
        let launch = Launch::plain("db.test:5432").variable("DB_CONNECT_TIMEOUT", "1s");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/resolv").join(file);
        let ambassador = launch.mount(&path, "/etc/resolv.conf").start();
        ambassador.connect("db:5432").expect_gone();
        ambassador.wait_for("connection failed")["error"].as_str().expect("words").to_owned()
    };
    for (file, server) in [
        ("docker-network", "127.0.0.11:53"),
        ("kubernetes", "10.96.0.10:53"),
        ("systemd-resolved", "127.0.0.53:53"),
        ("several", "192.0.2.1:53"),
        // What nobody understands is passed over, and without a name server this host is asked.
        ("broken", "127.0.0.1:53 (/etc/resolv.conf names no server)"),
        ("empty", "127.0.0.1:53 (/etc/resolv.conf names no server)"),
    ] {
        let words = resolv(file);
        assert!(words.contains(server), "{file}: {words}");
    }
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
    let docker = fixture_text("hosts/docker-link").replace("172.17.0.2", &now.ip().to_string());
    fs::write(&hosts, docker.replace("redis", "my-db")).expect("a hosts file");
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
    let line = ambassador.wait_for("backend moved");
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

/// While no name server answers, whatever that means, a name keeps the address that it had: no client waits for long, the
/// log tells it once, and a metric has it. When they answer again, a change counts.
#[test]
fn a_name_keeps_its_address_while_no_name_server_answers() {
    let keeps = |manner: Manner| {
        let dns = NameServer::start();
        let [a, b] = Named::at_one_port(["a", "b"]);
        dns.addresses("db.test", &[a.ip()]);
        let ambassador = tunnel(&dns, "db.test", &a).start();
        let stale = || metric(ambassador.admin(), "names_stale");
        assert_eq!(whom_soon(&ambassador), "a");
        dns.behaves(manner);
        eventually("the address is of an earlier answer", || {
            assert_eq!(whom_soon(&ambassador), "a");
            stale() > 0.5
        });
        // It hangs for so long before it counts as a failure; from the first second on nobody waits for it.
        let told = "no name server answers; keeping the last addresses";
        eventually("a line", || {
            let begun = Instant::now();
            assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
            assert!(begun.elapsed() < Duration::from_millis(900), "{manner:?}");
            !ambassador.logged(|line| line["message"] == told).is_empty()
        });
        dns.addresses("db.test", &[b.ip()]);
        dns.behaves(Manner::Answers);
        eventually("the new address", || whom_soon(&ambassador) == "b");
        ambassador.wait_for("name servers answer again");
        assert!(stale() < 0.5);
        let lines = ambassador.logged(|line| line["message"] == told);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0]["error"].as_str().is_some_and(|error| error.contains(&dns.address().to_string())));
    };
    thread::scope(|scope| {
        for manner in [
            Manner::Hangs,
            Manner::Says(ResponseCode::ServFail),
            Manner::Says(ResponseCode::Refused),
            Manner::Babbles,
        ] {
            scope.spawn(move || keeps(manner));
        }
    });
}

/// That a name has no address of one kind says nothing of the other, for which nobody answers.
#[test]
fn a_name_keeps_its_address_while_half_of_the_question_is_not_answered() {
    let keeps = |denial: Manner, outage: Manner| {
        let dns = NameServer::start();
        let server = Named::start("a");
        dns.addresses("db.test", &[server.ip()]);
        let ambassador = tunnel(&dns, "db.test", &server).start();
        assert_eq!(whom_soon(&ambassador), "a");
        dns.behaves_for(RecordType::AAAA, denial);
        dns.behaves_for(RecordType::A, outage);
        eventually("an outage", || {
            assert_eq!(whom_soon(&ambassador), "a", "{denial:?}, {outage:?}");
            let told = "no name server answers; keeping the last addresses";
            !ambassador.logged(|line| line["message"] == told).is_empty()
        });
        assert_eq!(whom_soon(&ambassador), "a");
    };
    thread::scope(|scope| {
        for denial in [Manner::Denies, Manner::Says(ResponseCode::NXDomain)] {
            for outage in [Manner::Hangs, Manner::Says(ResponseCode::ServFail)] {
                scope.spawn(move || keeps(denial, outage));
            }
        }
    });
}

/// A name that is said not to be there is not: it keeps no address, not even through an outage of the name servers.
#[test]
fn a_name_that_is_gone_keeps_no_address() {
    for gone in [Manner::Says(ResponseCode::NXDomain), Manner::Denies] {
        let dns = NameServer::start();
        let server = Named::start("a");
        dns.addresses("db.test", &[server.ip()]);
        let ambassador = tunnel(&dns, "db.test", &server).variable("DB_CONNECT_TIMEOUT", "300ms").start();
        let is_served = || try_whom(&mut ambassador.connect("db:5432")).is_some();
        eventually("it is served", is_served);
        for outage in [false, true] {
            if outage {
                dns.behaves(Manner::Says(ResponseCode::ServFail));
                eventually("an outage", || {
                    assert!(is_served());
                    metric(ambassador.admin(), "names_stale") > 0.5
                });
            }
            dns.behaves(gone);
            eventually("the name is gone", || !is_served());
            // Nor has it any when name servers fail behind that.
            dns.behaves(Manner::Says(ResponseCode::ServFail));
            let before = dns.asked();
            eventually("another look", || {
                assert!(!is_served(), "{gone:?}");
                dns.asked() > before + 2
            });
            dns.behaves(Manner::Answers);
            eventually("the name is there", is_served);
        }
    }
}

/// Who is reached, and that nobody has waited for what does not come.
#[track_caller]
fn whom_soon(ambassador: &Ambassador) -> String {
    let begun = Instant::now();
    let name = whom(&mut ambassador.connect("db:5432"));
    let took = begun.elapsed();
    assert!(took < BRISK, "it took {took:?}");
    name
}

/// Half an answer is as good as a whole one: the address that is there is dialled at once, whatever becomes of the question
/// for the other kind of address (kubernetes/dns#96, moby/moby#20335).
#[test]
fn half_an_answer_is_dialled_at_once() {
    for (kind, name) in [(RecordType::AAAA, "four"), (RecordType::A, "six")] {
        for manner in BROKEN {
            let dns = NameServer::start();
            let [four, six] = Named::of_both_kinds(["four", "six"]);
            let server = if name == "four" { &four } else { &six };
            dns.addresses("db.test", &[server.ip()]);
            dns.behaves_for(kind, manner);
            let ambassador = tunnel(&dns, "db.test", server).variable("DB_CONNECT_TIMEOUT", "20s").start();
            assert_eq!(whom_soon(&ambassador), name, "{kind} {manner:?}");
        }
    }
}

/// So under load, where now this half is lost and now that one.
#[test]
fn halves_that_are_lost_now_and_then_cost_no_client_its_connection() {
    let dns = NameServer::start();
    let [four, six] = Named::of_both_kinds(["four", "six"]);
    dns.addresses("db.test", &[four.ip(), six.ip()]);
    let ambassador = tunnel(&dns, "db.test", &four)
        .variable("DB_CONNECT_TIMEOUT", "20s")
        .variable("DB_MOVE_GRACE", "off")
        .start();
    let address = ambassador.address("db:5432");
    let kinds = [RecordType::A, RecordType::AAAA];
    for round in 0..4 {
        let (lost, kept) = (kinds[round % 2], kinds[(round + 1) % 2]);
        dns.behaves_for(lost, Manner::Hangs);
        dns.behaves_for(kept, Manner::Answers);
        let asked = dns.asked_for(kept);
        eventually("another lookup", || {
            let begun = Instant::now();
            let mut clients: Vec<Peer> = (0..20).map(|_| Peer::connect(address)).collect();
            assert!(clients.iter_mut().all(|client| ["four", "six"].contains(&whom(client).as_str())));
            assert!(begun.elapsed() < BRISK, "it took {:?}", begun.elapsed());
            dns.asked_for(kept) > asked
        });
    }
}

/// A name that is another name's has half an answer like any other, also where a server leaves it to us to go on asking.
#[test]
fn half_an_answer_of_an_alias_is_dialled_at_once() {
    let dns = NameServer::start();
    let server = Named::start("a");
    dns.alias("db.test", "other.test");
    dns.alias("other.test", "real.test");
    dns.addresses("real.test", &[server.ip()]);
    dns.behaves_for(RecordType::AAAA, Manner::Hangs);
    let ambassador = tunnel(&dns, "db.test", &server).variable("DB_CONNECT_TIMEOUT", "20s").start();
    assert_eq!(whom_soon(&ambassador), "a");
}

/// A half that comes late is dialled too, where the one before leads nowhere.
#[test]
fn a_late_half_joins_a_dial_that_is_under_way() {
    let dns = NameServer::start();
    let hole = BlackHole::start();
    let port = hole.address().port();
    let six = Named::at((Ipv6Addr::LOCALHOST, port).into(), "six");
    dns.addresses("db.test", &[hole.address().ip(), six.ip()]);
    dns.behaves_for(RecordType::AAAA, Manner::Late(Duration::from_millis(1500)));
    let ambassador = tunnel(&dns, "db.test", &six).variable("DB_CONNECT_TIMEOUT", "20s").start();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "six");
    assert!(dns.asked_for(RecordType::A) <= 2, "it is the same dial");
}

/// A question that was lost is asked again soon, however often the server has said that there is nothing of a name.
#[test]
fn a_lost_question_is_repeated_soon_after_many_that_came_to_nothing() {
    if !can_mount() {
        return;
    }
    let dns = NameServer::start();
    let server = Named::start("a");
    dns.addresses("db", &[server.ip()]);
    let directory = TempDir::new().expect("a temporary directory");
    let resolv = directory.path().join("resolv.conf");
    let domains: Vec<_> = (0..20).map(|number| format!("d{number}.test")).collect();
    fs::write(&resolv, format!("nameserver 127.0.0.1\nsearch {}\n", domains.join(" "))).expect("a file");
    let ambassador = tunnel(&dns, "db", &server)
        .variable("DB_CONNECT_TIMEOUT", "20s")
        .variable("DB_MOVE_GRACE", "off")
        .mount(&resolv, "/etc/resolv.conf")
        .start();
    assert_eq!(whom_soon(&ambassador), "a");
    dns.loses(1, RecordType::A, "db");
    eventually("another lookup", || {
        assert_eq!(whom_soon(&ambassador), "a");
        dns.losses(RecordType::A, "db") == 0
    });
}

/// Where every name of the search list is asked for in turn, half an answer that there is no such name is enough to go on;
/// but a name that is there is not left for one of another domain.
#[test]
fn half_a_denial_is_enough_to_go_on_in_the_search_list() {
    if !can_mount() {
        return;
    }
    let dns = NameServer::start();
    let [inner, outer] = Named::at_one_port(["inner", "outer"]);
    dns.addresses("db.other.svc.cluster.local", &[inner.ip()]);
    dns.addresses("db.other", &[outer.ip()]);
    let directory = TempDir::new().expect("a temporary directory");
    let resolv = directory.path().join("resolv.conf");
    let domains = "ns.svc.cluster.local svc.cluster.local cluster.local";
    fs::write(&resolv, format!("nameserver 127.0.0.1\nsearch {domains}\noptions ndots:5\n")).expect("a file");
    let launch = || {
        tunnel(&dns, "db.other", &inner)
            .variable("DB_CONNECT_TIMEOUT", "20s")
            .mount(&resolv, "/etc/resolv.conf")
            .start()
    };
    dns.behaves_for(RecordType::AAAA, Manner::Hangs);
    assert_eq!(whom_soon(&launch()), "inner");
    for manner in [Manner::Answers, Manner::Denies] {
        dns.behaves_for(RecordType::AAAA, manner);
        dns.loses(2, RecordType::A, "db.other.svc.cluster.local");
        assert_eq!(whom_soon(&launch()), "inner", "{manner:?}");
    }
}

/// A name that is said not to be there by one half may have an address all the same, which is waited for.
#[test]
fn half_a_denial_is_no_denial() {
    let dns = NameServer::start();
    let server = Named::start("a");
    dns.addresses("db.test", &[server.ip()]);
    dns.behaves_for(RecordType::AAAA, Manner::Says(ResponseCode::NXDomain));
    dns.behaves_for(RecordType::A, Manner::Late(Duration::from_millis(400)));
    let ambassador = tunnel(&dns, "db.test", &server).variable("DB_CONNECT_TIMEOUT", "20s").start();
    assert_eq!(whom_soon(&ambassador), "a");
}

/// An answer is shared for a second and no longer, though half of it is still awaited.
#[test]
fn half_an_answer_is_shared_for_a_second_and_no_longer() {
    let dns = NameServer::start();
    let [a, b] = Named::at_one_port(["a", "b"]);
    dns.addresses("db.test", &[a.ip()]);
    dns.behaves_for(RecordType::AAAA, Manner::Hangs);
    let ambassador = tunnel(&dns, "db.test", &a).start();
    assert_eq!(whom_soon(&ambassador), "a");
    dns.addresses("db.test", &[b.ip()]);
    let changed = Instant::now();
    eventually("the new address", || whom(&mut ambassador.connect("db:5432")) == "b");
    assert!(changed.elapsed() < BRISK);
}

/// An address that stands for nowhere, as filters give them, is not dialled: it would be this host itself.
#[test]
fn an_address_that_stands_for_nowhere_is_not_dialled() {
    let dns = NameServer::start();
    let own = Named::at((Ipv4Addr::LOCALHOST, 0).into(), "this host");
    dns.addresses("db.test", &[Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]);
    let ambassador = tunnel(&dns, "db.test", &own).variable("DB_CONNECT_TIMEOUT", "500ms").start();
    ambassador.connect("db:5432").expect_gone();
    let line = ambassador.wait_for("connection failed");
    assert_eq!(line["stage"], "resolve", "{line}");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("0.0.0.0")), "{line}");
}

/// What was too slow is named: a name that took nearly all of the time, and not the connect that had none left.
#[test]
fn a_slow_name_is_not_taken_for_a_slow_connect() {
    let hole = BlackHole::start();
    let dns = NameServer::start();
    dns.addresses("db.test", &[hole.address().ip()]);
    dns.behaves(Manner::Late(Duration::from_millis(900)));
    let ambassador = Launch::redis(format!("db.test:{}", hole.address().port()))
        .variable("AMBASSADOR_DNS", dns.address().to_string())
        .variable("REDIS_CONNECT_TIMEOUT", "1300ms")
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    let words = client.expect_refusal("redis:6379");
    assert!(words.contains("resolving db.test"), "{words}");
    assert_eq!(ambassador.wait_for("connection failed")["stage"], "resolve", "{words}");
}

/// Half an answer does not move anybody: of the addresses of the other kind it says nothing.
#[test]
fn half_an_answer_moves_nobody() {
    let mut cases = Vec::new();
    for (kind, at) in [(RecordType::A, 0), (RecordType::AAAA, 1)] {
        // That there is nothing of a kind is a whole answer, which is believed after some time.
        let halves = BROKEN.into_iter().filter(|manner| ![Manner::Denies, Manner::Errs].contains(manner));
        for manner in halves {
            let dns = NameServer::start();
            let servers = Named::of_both_kinds(["four", "six"]);
            dns.addresses("db.test", &[servers[at].ip()]);
            let ambassador = tunnel(&dns, "db.test", &servers[0]).start();
            let mut client = ambassador.connect("db:5432");
            assert_eq!(whom(&mut client), ["four", "six"][at]);
            dns.behaves_for(kind, manner);
            dns.addresses("db.test", &[servers[0].ip(), servers[1].ip()]);
            let other = [RecordType::AAAA, RecordType::A][at];
            let asked = dns.asked_for(other);
            cases.push((kind, manner, other, asked, dns, servers, ambassador, client));
        }
    }
    for (kind, manner, other, asked, dns, _servers, ambassador, client) in &mut cases {
        eventually("looks at the name", || dns.asked_for(*other) >= *asked + 2);
        let moves = ambassador.logged(|line| line["message"] == "backend moved");
        assert!(moves.is_empty(), "{kind} {manner:?}: {moves:?}");
        client.send(b"whom?");
        client.expect_line();
    }
}

/// A resolv.conf as it may be found.
struct Conf(TempDir);

impl Conf {
    fn of(bytes: &[u8]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        fs::write(directory.path().join("resolv.conf"), bytes).expect("a file");
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("resolv.conf")
    }
}

/// What nobody understands in resolv.conf is passed over, as by the C library, and the rest is used.
#[test]
fn what_nobody_understands_in_resolv_conf_is_passed_over() {
    if !can_mount() {
        return;
    }
    let dns = NameServer::at_the_usual_port();
    let server = Named::start("a");
    dns.addresses("db.inner.test", &[server.ip()]);
    let good = format!("search inner.test\nnameserver {}\n", dns.address().ip()).into_bytes();
    let long = vec![b'x'; 100_000];
    let before: [&[u8]; 13] = [
        b"",
        b"\xef\xbb\xbf",
        b"search a..b\n",
        b"domain -.-.\n",
        b"nameserver\nnameserver nobody\nnameserver 10.0.0.300\nnameserver 10.0.0.1:53\nnameserver fe80::1%eth0\n",
        b"options no-such-option rotate timeout:0 attempts:0 ndots:x ndots\n",
        b"options timeout:99999999999999999999 ndots:-1\n",
        b"; one\n# another\n\n   \n",
        b"\0\0\xff\xfe\n",
        b"sortlist 300.0.0.0/8 nonsense\nlookup file bind\nfamily inet6 inet4\n",
        b"nameservers 10.0.0.1\nNAMESERVER 10.0.0.1\n",
        b"search\noptions\ndomain\n",
        &long,
    ];
    for start in before {
        let newline: &[u8] = if start.len() > 90_000 { b"\n" } else { b"" };
        let unix = [start, newline, &good, b"search\noptions\n"].concat();
        let dos = String::from_utf8_lossy(&unix).replace('\n', "\r\n");
        for bytes in [&unix, dos.as_bytes()] {
            let conf = Conf::of(bytes);
            let ambassador = Launch::plain(format!("db:{}", server.address().port()))
                .mount(&conf.path(), "/etc/resolv.conf")
                .start();
            let shown = String::from_utf8_lossy(&start[..start.len().min(100)]);
            assert_eq!(try_whom(&mut ambassador.connect("db:5432")).as_deref(), Some("a"), "{shown}");
        }
    }
}

/// A resolv.conf that names no server, or is none, stands for this host; names of the hosts file need no server.
#[test]
fn a_resolv_conf_without_a_name_server_stands_for_this_host() {
    if !can_mount() {
        return;
    }
    let server = Named::at((Ipv4Addr::LOCALHOST, 0).into(), "a");
    let (empty, comment, broken) = (Conf::of(b""), Conf::of(b"# nothing\n"), Conf::of(b"search a..b\n"));
    for path in [empty.path(), comment.path(), broken.path(), "/dev/null".into()] {
        let launch = |name: &str| {
            Launch::redis(format!("{name}:{}", server.address().port()))
                .variable("REDIS_CONNECT_TIMEOUT", "500ms")
                .mount(&path, "/etc/resolv.conf")
        };
        let ambassador = launch("redis.test").start();
        let mut client = ambassador.connect("redis:6379");
        client.send(b"PING\r\n");
        let words = client.expect_refusal("redis:6379");
        assert!(
            words.contains("127.0.0.1:53 ") && words.contains("/etc/resolv.conf names no server"),
            "{words}"
        );
        let plain = Launch::plain(format!("localhost:{}", server.address().port()));
        let plain = plain.mount(&path, "/etc/resolv.conf").start();
        assert_eq!(whom_soon(&plain), "a");
    }
}

/// Files of the system whose file system hangs hold nobody up: what they held before serves on, and what is new in them is
/// seen as soon as they can be read again.
#[test]
fn hosts_and_resolv_conf_that_hang_hold_up_nobody() {
    if !can_mount() || command_is_missing("perl") {
        return;
    }
    let dns = NameServer::start();
    let [a, b, c] = Named::at_one_port(["a", "b", "c"]);
    dns.addresses("far.inner.test", &[b.ip()]);
    let conf = Conf::of(b"search inner.test\n");
    let hosts = conf.0.path().join("hosts");
    fs::write(&hosts, format!("{} near\n", a.ip())).expect("a file");
    let ambassador = tunnel(&dns, "near", &a)
        .variable("FAR_PORT_5433_TCP", format!("tcp://far:{}", b.address().port()))
        .variable("AMBASSADOR_THREADS", "1")
        .mount(&hosts, "/etc/hosts")
        .mount(&conf.path(), "/etc/resolv.conf")
        .start();
    let mut old = ambassador.connect("db:5432");
    assert_eq!(whom(&mut old), "a");
    assert_eq!(whom(&mut ambassador.connect("far:5433")), "b");
    let holders = [hang(&hosts), hang(&conf.path())];
    for path in [&hosts, &conf.path()] {
        let hour_ago =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs() - 3600;
        let time = Timespec { tv_sec: hour_ago.try_into().expect("a time"), tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::empty()).expect("another time");
    }
    let begun = Instant::now();
    while begun.elapsed() < BRISK {
        let asked = Instant::now();
        assert_eq!(whom(&mut old), "a");
        assert!(asked.elapsed() < Duration::from_secs(1), "a connection was held up: {:?}", asked.elapsed());
        assert_eq!(whom_soon(&ambassador), "a");
        assert_eq!(whom(&mut ambassador.connect("far:5433")), "b");
    }
    let told = ambassador.logged(|line| line["message"] == "file reload failed; keeping the last content");
    assert_eq!(told.len(), 2, "{told:?}");
    drop(holders);
    fs::write(&hosts, format!("{} near\n", c.ip())).expect("a file");
    eventually("the new line", || whom(&mut ambassador.connect("db:5432")) == "c");
    assert!(ambassador.threads() < 10, "{}", ambassador.threads());
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
