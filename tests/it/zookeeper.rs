//! Backends that ZooKeeper lists: a real one, and one that the test plays.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::zookeeper::{data, event, names, reply};
use crate::support::{
    Ambassador, Authority, Launch, Named, Peer, Target, ZooKeeper, eventually, get, own_address, password,
    play_zookeeper, try_whom, whom,
};

const NO_NODE: i32 = -101;
const NO_AUTH: i32 = -102;

const SYNC: i32 = 9;
const CHILDREN: i32 = 8;

/// A plain tunnel `db:5432` to the servers under a node.
fn launch(server: impl Display, path: &str) -> Launch {
    Launch::plain("unused:1").variable("DB_PORT_5432_TCP", format!("tcp+zookeeper://{server}{path}"))
}

/// Those that serve new connections.
fn serving(ambassador: &Ambassador, link: &str) -> BTreeSet<String> {
    (0..6).filter_map(|_| try_whom(&mut ambassador.connect(link))).collect()
}

#[track_caller]
fn expect_serving(ambassador: &Ambassador, link: &str, names: &[&str]) {
    let names: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
    eventually("those serve", || serving(ambassador, link) == names);
}

/// What holds a moment after it was made so, in the time that the promise has.
#[track_caller]
fn within_a_second(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    eventually(what, condition);
    assert!(begun.elapsed() < Duration::from_secs(1), "{what}: {:?}", begun.elapsed());
}

/// However servers register, they are found: data, names, Curator's records and Finagle's. What they do reaches new
/// connections within a second, and those of a server that has gone are closed.
#[test]
fn servers_are_followed_however_they_register() {
    let Some(zookeeper) = ZooKeeper::shared() else { return };
    let servers = ["a", "b", "c", "d"].map(Named::start);
    let [a, b, c, d] = servers.each_ref().map(Named::address);
    let mut registrar = zookeeper.begin();
    registrar.create("/followed/db", "");
    registrar.register("/followed/db/member_0000000001", &a.to_string());
    let ambassador = launch(zookeeper.address(), "/followed/db").start();
    expect_serving(&ambassador, "db:5432", &["a"]);

    let mut of_b = zookeeper.begin();
    of_b.register(&format!("/followed/db/{b}"), "weight=3");
    within_a_second("b serves", || serving(&ambassador, "db:5432").contains("b"));
    let curator =
        format!(r#"{{"name":"db","id":"7","address":"{}","port":{},"payload":null}}"#, c.ip(), c.port());
    registrar.register("/followed/db/0b9c", &curator);
    within_a_second("c serves", || serving(&ambassador, "db:5432").contains("c"));
    let finagle = |status: &str| {
        let place = format!(r#"{{"host":"{}","port":{}}}"#, d.ip(), d.port());
        format!(r#"{{"serviceEndpoint":{place},"additionalEndpoints":{{}},"status":"{status}","shard":0}}"#)
    };
    registrar.register("/followed/db/member_0000000002", &finagle("STARTING"));
    registrar.set("/followed/db/member_0000000002", &finagle("ALIVE"));
    within_a_second("d serves", || serving(&ambassador, "db:5432").contains("d"));
    assert_eq!(serving(&ambassador, "db:5432").len(), 4);

    // A session that ends, a node that is deleted, data that changes.
    let mut client = loop {
        let mut client = ambassador.connect("db:5432");
        if whom(&mut client) == "b" {
            break client;
        }
    };
    drop(of_b);
    within_a_second("b is left", || !serving(&ambassador, "db:5432").contains("b"));
    client.expect_end();
    registrar.delete("/followed/db/0b9c");
    registrar.set("/followed/db/member_0000000002", &finagle("DEAD"));
    within_a_second("c and d are left", || serving(&ambassador, "db:5432").len() == 1);
    let line = ambassador.wait_for("backends changed");
    assert_eq!(line["reason"], "zookeeper", "{line}");
    assert_eq!(line["to"], a.to_string(), "{line}");
    let told: String = get(ambassador.admin(), "/links").body;
    assert!(told.contains(&format!("tcp+zookeeper://{}/followed/db", zookeeper.address())), "{told}");
}

/// What ZooKeeper shows only to some, over TLS: the credentials and the certificate open it. Without them the client of a
/// Redis link hears why.
#[test]
fn credentials_and_certificates_open_what_is_closed() {
    let Some(zookeeper) = ZooKeeper::shared() else { return };
    let a = Named::start("a");
    let (user, secret) = ("ambassador", password());
    let mut registrar = zookeeper.begin();
    registrar.show(&format!("{user}:{secret}"));
    registrar.create("/closed/db", "");
    registrar.register("/closed/db/1", &a.address().to_string());
    let identity = zookeeper.authority.issue(&["ambassador"]);
    let ambassador = launch(zookeeper.secure_address(), "/closed/db")
        .variable("DB_ZOOKEEPER_AUTH", format!("{user}:{secret}"))
        .variable("DB_ZOOKEEPER_TLS", "true")
        .variable("DB_TLS_CA_FILE", zookeeper.authority.file())
        .variable("DB_TLS_CERT_FILE", &identity.certificate)
        .variable("DB_TLS_KEY_FILE", &identity.key)
        .redis_link("REDIS", "unused")
        .variable("REDIS_PORT_6379_TCP", format!("redis+zookeeper://{}/closed/db", zookeeper.address()))
        .variable("REDIS_CONNECT_TIMEOUT", "500ms")
        .start();
    expect_serving(&ambassador, "db:5432", &["a"]);
    let mut words = String::new();
    eventually("the client hears of it", || {
        words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
        words.contains("does not show")
    });
    assert!(words.contains("/closed/db") && words.contains("REDIS_ZOOKEEPER_AUTH_FILE"), "{words}");
}

/// A node that makes no sense is named and leaves what it said before; so do a list without anybody and a node that is
/// gone. What others do is followed all the same.
#[test]
fn what_makes_no_sense_is_named_and_leaves_the_last_servers() {
    let Some(zookeeper) = ZooKeeper::shared() else { return };
    let (a, b) = (Named::start("a"), Named::start("b"));
    let mut registrar = zookeeper.begin();
    registrar.create("/nonsense", "");
    registrar.register("/nonsense/1", &a.address().to_string());
    let ambassador = launch(zookeeper.address(), "/nonsense").start();
    expect_serving(&ambassador, "db:5432", &["a"]);
    registrar.set("/nonsense/1", "{\"address\":");
    let line = ambassador.wait_for("node passed over");
    assert_eq!(line["node"], "/nonsense/1", "{line}");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("Curator")), "{line}");
    registrar.register("/nonsense/2", "no place");
    registrar.register("/nonsense/3", &b.address().to_string());
    expect_serving(&ambassador, "db:5432", &["a", "b"]);
    for name in ["1", "2", "3"] {
        registrar.delete(&format!("/nonsense/{name}"));
    }
    let line = ambassador.wait_for("discovery failed; keeping the last known backends");
    assert_eq!(line["error"], "no server is listed in /nonsense", "{line}");
    let remedy = line["remedy"].as_str().unwrap_or_default();
    assert!(remedy.contains("servers register in /nonsense"), "{line}");
    registrar.delete("/nonsense");
    assert_eq!(serving(&ambassador, "db:5432").len(), 1);
    registrar.create("/nonsense", "");
    registrar.register("/nonsense/1", &a.address().to_string());
    expect_serving(&ambassador, "db:5432", &["a"]);
    ambassador.wait_for("discovery recovered");
}

/// While ZooKeeper is away, clients come and go as before, and one line says so. When it is back, so is what has changed.
#[test]
fn zookeeper_that_is_away_costs_no_client_anything() {
    let Some(mut zookeeper) = ZooKeeper::start() else { return };
    let (a, b) = (Named::start("a"), Named::start("b"));
    let mut registrar = zookeeper.begin();
    registrar.create("/away", "");
    registrar.create("/away/1", &a.address().to_string());
    let ambassador = launch(zookeeper.address(), "/away").start();
    expect_serving(&ambassador, "db:5432", &["a"]);
    let mut stayed = ambassador.connect("db:5432");
    assert_eq!(whom(&mut stayed), "a");
    let (served, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (served, stopped) = (Arc::clone(&served), Arc::clone(&stopped));
            let address = ambassador.address("db:5432");
            thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    assert!(try_whom(&mut Peer::connect(address)).is_some(), "a client is not served");
                    served.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
            })
        })
        .collect();
    zookeeper.stop();
    let line = ambassador.wait_for("discovery failed; keeping the last known backends");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("Connection refused")), "{line}");
    let before = served.load(Ordering::Relaxed);
    eventually("many are served without it", || served.load(Ordering::Relaxed) > before + 1000);
    zookeeper.start_again();
    ambassador.wait_for("discovery recovered");
    zookeeper.begin().set("/away/1", &b.address().to_string());
    expect_serving(&ambassador, "db:5432", &["b"]);
    stopped.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("every client was served");
    }
    let failures =
        ambassador.logged(|line| line["message"].as_str().is_some_and(|m| m.starts_with("discovery failed")));
    assert_eq!(failures.len(), 1, "{failures:?}");
}

/// Ten thousand servers, and a hundred changes a second: the last of them is there within a second, and they take little
/// time of the processor.
#[test]
fn a_hundred_changes_a_second_take_little_time() {
    let Some(zookeeper) = ZooKeeper::shared() else { return };
    let servers = ["a", "b"].map(Named::start);
    let mut registrar = zookeeper.begin();
    registrar.create("/busy", "");
    registrar.create("/busy/1", &servers[0].address().to_string());
    let ambassador = launch(zookeeper.address(), "/busy").start();
    expect_serving(&ambassador, "db:5432", &["a"]);
    let before = ambassador.processor_ticks();
    let begun = Instant::now();
    for change in 1..=200_u32 {
        registrar.set("/busy/1", &servers[change as usize % 2].address().to_string());
        thread::sleep((begun + Duration::from_millis(10) * change).saturating_duration_since(Instant::now()));
    }
    registrar.set("/busy/1", &servers[1].address().to_string());
    within_a_second("the last change is followed", || serving(&ambassador, "db:5432").contains("b"));
    let ticks = ambassador.processor_ticks() - before;
    // In two seconds there are 200 of them.
    assert!(ticks < 60, "{ticks} hundredths of a second");
    println!("{ticks} hundredths of a second for 200 changes in two seconds");
}

/// Whatever a server says that is none, or lies: it is told in words, the next server is asked, the process lives and
/// holds little memory.
#[test]
fn lies_of_a_server_are_told_and_end_nothing() {
    /// What is said, what is told of it.
    type Lie = (fn(i32, i32) -> Vec<u8>, &'static str);
    const IS_NONE: &str = "it does not answer like ZooKeeper";
    let lies: [Lie; 9] = [
        (|_, _| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), IS_NONE),
        (|_, _| vec![0xff; 64], IS_NONE),
        // A frame without an end, and one that is no reply to anything.
        (
            |_, _| [&(4_i32 << 20).to_be_bytes()[..], &vec![0; 1 << 20]].concat(),
            "it does not answer any more",
        ),
        (|xid, _| reply(xid + 7, 0, &[]), IS_NONE),
        // More names than there are bytes, and a name of more bytes than there are.
        (|xid, _| reply(xid, 0, &i32::MAX.to_be_bytes()), IS_NONE),
        (|xid, _| reply(xid, 0, &[1_i32, i32::MAX].map(i32::to_be_bytes).concat()), IS_NONE),
        (|xid, _| reply(xid, 0, &names(&[b"\xff\xfe"])), IS_NONE),
        (|_, _| event(-1, -112, ""), "the session has expired"),
        (|xid, _| reply(xid, -6, &[]), "it answers with the error -6"),
    ];
    let servers = lies.map(|(lie, told)| {
        let server = play_zookeeper(move |xid, operation, _| match operation {
            SYNC => reply(xid, 0, &[]),
            _ => lie(xid, operation),
        });
        (server, told)
    });
    let launch =
        servers.iter().enumerate().fold(Launch::plain("127.0.0.1:9"), |launch, (number, (server, _))| {
            let target = format!("tcp+zookeeper://{}/db", server.address());
            let alias = format!("LIE{number}");
            launch.plain_link(&alias, "unused:1").variable(format!("{alias}_PORT_5432_TCP"), target)
        });
    let ambassador = launch.start();
    for (number, (_, told)) in servers.iter().enumerate() {
        ambassador.wait_for_log(told, |line| {
            line["link"] == format!("lie{number}:5432")
                && line["error"].as_str().is_some_and(|error| error.contains(told))
        });
    }
    assert!(ambassador.memory() < 100 << 20, "{}", ambassador.memory());
}

/// Ten thousand servers, many of them twice, are one list; more than are meant are a mistake that leaves it. A session
/// that ends is followed by another one, which reads everything again.
#[test]
fn ten_thousand_servers_are_a_list_and_a_session_that_ends_is_followed_by_another() {
    let a = Named::start("a");
    let place = a.address().to_string();
    let looks = Arc::new(AtomicUsize::new(0));
    let server = play_zookeeper({
        let looks = Arc::clone(&looks);
        move |xid, operation, path| match operation {
            SYNC => reply(xid, 0, &[]),
            CHILDREN => {
                let look = looks.fetch_add(1, Ordering::Relaxed);
                let count = if look == 1 { 20_000 } else { 10_000 };
                let all: Vec<_> = (0..count).map(|number| format!("member_{number:010}")).collect();
                let changed = if look == 0 { event(4, 3, "/db") } else { event(0, -112, "") };
                [reply(xid, 0, &names(&all)), if look < 2 { changed } else { Vec::new() }].concat()
            }
            _ => {
                let number: usize =
                    path.rsplit('_').next().and_then(|text| text.parse().ok()).expect("a number");
                // Half of them are one.
                let other = format!("127.99.{}.{}:1", number / 256, number % 256);
                reply(
                    xid,
                    0,
                    &data(if number.is_multiple_of(2) { place.as_bytes() } else { other.as_bytes() }),
                )
            }
        }
    });
    let ambassador = launch(server.address(), "/db").variable("DB_BALANCE", "first").start();
    let line = ambassador.wait_for("backends changed");
    assert!(line["to"].as_str().is_some_and(|to| to.ends_with("and 4993 more")), "{line}");
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    let line = ambassador.wait_for("discovery failed; keeping the last known backends");
    assert!(
        line["error"].as_str().is_some_and(|error| error.contains("20000 nodes, more than 16384")),
        "{line}"
    );
    ambassador.wait_for("discovery recovered");
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    assert!(server.accepted() > 1);
}

/// A server may register again between the list and the look at its node, and be listed as before; and a node may be shown
/// only later, which ZooKeeper tells nobody. Both are read again.
#[test]
fn a_node_that_could_not_be_read_is_read_again() {
    let servers = ["a", "b"].map(Named::start);
    let places = servers.each_ref().map(|server| server.address().to_string());
    let looks = Arc::new([(); 2].map(|()| AtomicUsize::new(0)));
    let server = play_zookeeper({
        let looks = Arc::clone(&looks);
        move |xid, operation, path| {
            let of = usize::from(path.ends_with('2'));
            let look = || looks[of].fetch_add(1, Ordering::Relaxed);
            match operation {
                SYNC => reply(xid, 0, &[]),
                CHILDREN => reply(xid, 0, &names(&["1", "2"])),
                _ => match (of, look()) {
                    (0, 0) => [reply(xid, NO_NODE, &[]), event(4, 3, "/db")].concat(),
                    (1, 0 | 1) => reply(xid, NO_AUTH, &[]),
                    _ => reply(xid, 0, &data(places[of].as_bytes())),
                },
            }
        }
    });
    let ambassador = launch(server.address(), "/db").start();
    expect_serving(&ambassador, "db:5432", &["a"]);
    expect_serving(&ambassador, "db:5432", &["a", "b"]);
    let looks = looks.each_ref().map(|looks| looks.load(Ordering::Relaxed));
    assert_eq!(looks, [2, 3], "what was read is not read again");
}

/// What can't be meant is told at start, all of it at once.
#[test]
fn settings_that_would_have_no_effect_are_mistakes() {
    let secret = password();
    let finished = launch("z.test", "/db")
        .variable("DB_ZOOKEEPER_AUTH", &secret)
        .variable("DB_ZOOKEEPER_TLS", "true")
        .variable("DB_TLS_SERVER_NAME", "db.test")
        .plain_link("OTHER", "10.0.0.1:1")
        .variable("OTHER_ZOOKEEPER_AUTH_FILE", "/run/secrets/zookeeper")
        .variable("OTHER_ZOOKEEPER_TLS", "true")
        .finish();
    for (variable, told) in [
        ("DB_ZOOKEEPER_AUTH", "it is not USER:PASSWORD"),
        ("DB_TLS_SERVER_NAME", "there is no TLS towards the target"),
        ("OTHER_ZOOKEEPER_AUTH_FILE", "not listed in ZooKeeper"),
        ("OTHER_ZOOKEEPER_TLS", "not listed in ZooKeeper"),
    ] {
        let mistake = finished.expect_mistake(variable);
        assert!(mistake.contains(told), "{mistake}");
    }
    let without_a_path = launch("z.test", "").finish();
    let mistake = without_a_path.expect_mistake("DB_PORT_5432_TCP");
    assert!(mistake.contains("write DB_PORT_5432_TCP=tcp+zookeeper://z.test:2181/PATH"), "{mistake}");
}

/// A port that does not speak what the link speaks to it ends the connection without a word. What is told names the setting.
#[test]
fn tls_that_does_not_fit_the_port_names_the_setting() {
    let authority = Authority::new("Some CA");
    for (tls, remedy) in [("true", "remove DB_ZOOKEEPER_TLS"), ("false", "set DB_ZOOKEEPER_TLS=true")] {
        let server = Target::start();
        let address = server.address();
        let _server = server.serve(drop);
        let launch = || {
            let launch = launch(address, "/db").variable("DB_ZOOKEEPER_TLS", tls);
            if tls == "true" { launch.variable("DB_TLS_CA_FILE", authority.file()) } else { launch }
        };
        let line = launch().start().wait_for("discovery failed; keeping the last known backends");
        assert!(line["remedy"].as_str().is_some_and(|told| told.contains(remedy)), "{line}");
        let checked = launch().argument("check").finish();
        assert_eq!(checked.code, Some(1), "{}", checked.stdout);
        assert!(checked.stdout.contains(remedy), "{}", checked.stdout);
    }
}

/// A server that is left out because its node makes no sense is a warning, beside those that serve.
#[test]
fn check_names_the_nodes_that_are_passed_over() {
    let a = Named::start("a");
    let place = a.address().to_string();
    let server = play_zookeeper(move |xid, operation, path| match operation {
        SYNC => reply(xid, 0, &[]),
        CHILDREN => reply(xid, 0, &names(&["1", "2"])),
        _ if path == "/db/1" => reply(xid, 0, &data(place.as_bytes())),
        _ => reply(xid, 0, &data(b"no place")),
    });
    let checked = launch(server.address(), "/db").argument("check").finish();
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    for told in ["warning", "/db/2", "mend the node"] {
        assert!(checked.stdout.contains(told), "{}", checked.stdout);
    }
    assert!(!checked.stdout.contains("/db/1"), "{}", checked.stdout);
}

/// Of several servers that do not serve each is named; the one that does is found wherever it stands.
#[test]
fn one_server_of_the_ensemble_is_enough() {
    let Some(zookeeper) = ZooKeeper::shared() else { return };
    let a = Named::start("a");
    zookeeper.begin().create("/ensemble/1", &a.address().to_string());
    let gone = own_address();
    let silent = Target::start();
    let servers = format!("{gone},{},{}", silent.address(), zookeeper.address());
    let ambassador = launch(servers, "/ensemble").start();
    expect_serving(&ambassador, "db:5432", &["a"]);
    let checked = launch(format!("{gone},{}", zookeeper.address()), "/ensemble").argument("check").finish();
    assert!(checked.stdout.contains(&a.address().to_string()), "{}", checked.stdout);
    let checked = launch(gone, "/ensemble").argument("check").finish();
    let said = checked.stdout + &checked.stderr;
    assert!(said.contains(&gone.to_string()) && said.contains("Connection refused"), "{said}");
}
