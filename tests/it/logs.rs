//! The log: a line for every link at start, a line for every failure, and no flood.

use std::collections::HashSet;
use std::fs;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Ambassador, Launch, Peer, Target, lines, metric, own_address, password};

/// The lines with this message that the ambassador has printed by its end.
fn lines_by_the_end(ambassador: Ambassador, message: &str) -> Vec<Value> {
    ambassador.signal(Signal::TERM);
    let printed = lines(&ambassador.finish().stderr);
    printed.into_iter().filter(|line| line["message"] == message).collect()
}

/// How many failures these lines tell of.
fn told(failures: &[Value]) -> u64 {
    failures.iter().map(|line| 1 + line["held_back"].as_u64().unwrap_or(0)).sum()
}

/// One line for each link says what listens, where it goes, as whom and where the secret comes from; never the secret.
#[test]
fn every_link_has_a_line_at_start() {
    let target = Target::start().echo();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    fs::write(&file, password()).unwrap();
    let address = target.address();
    let ambassador = Launch::redis(address)
        .variable("REDIS_AUTH_FILE", &file)
        .variable("REDIS_USERNAME", "app")
        .redis_link("CACHE", address)
        .variable("CACHE_AUTH", password())
        .redis_link("URL", format!("user:{}@{address}", password()))
        .redis_link("OPEN", address)
        .plain_link("DB", address)
        .start();
    let file = file.display().to_string();
    for (link, auth, secret, username, kind) in [
        ("redis:6379", "file", Some(&*file), Some("app"), "redis"),
        ("cache:6379", "env", Some("CACHE_AUTH"), None, "redis"),
        ("url:6379", "url", None, Some("user"), "redis"),
        ("open:6379", "none", None, None, "redis"),
        ("db:5432", "none", None, None, "tcp"),
    ] {
        let line =
            ambassador.wait_for_log(link, |line| line["message"] == "listening" && line["link"] == link);
        assert_eq!((line["auth"].as_str(), line["kind"].as_str()), (Some(auth), Some(kind)), "{line}");
        assert_eq!((line["secret"].as_str(), line["username"].as_str()), (secret, username), "{line}");
        assert!(
            line["target"].as_str().is_some_and(|target| target.contains(&address.to_string())),
            "{line}"
        );
        assert!(line["listen"].as_str().is_some_and(|listen| listen.starts_with("127.0.0.1:")), "{line}");
    }
}

/// A failure's line has its link, client, stage, words and remedy.
#[test]
fn a_failure_is_one_line_with_all_that_is_needed() {
    let ambassador = Launch::plain(own_address()).variable("DB_CONNECT_TIMEOUT", "50ms").start();
    let mut client = ambassador.connect("db:5432");
    let address = client.local_address().to_string();
    client.expect_gone();
    let failures = lines_by_the_end(ambassador, "connection failed");
    assert_eq!(failures.len(), 1, "{failures:?}");
    let failure = &failures[0];
    assert_eq!((&failure["link"], &failure["level"]), (&"db:5432".into(), &"WARN".into()), "{failure}");
    assert_eq!((&failure["stage"], &failure["client"]), (&"connect".into(), &address.into()), "{failure}");
    for field in ["error", "remedy"] {
        assert!(failure[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {failure}");
    }
    assert!(failure.get("held_back").is_none(), "{failure}");
}

/// A crowd of failures is a few lines, and together they tell of every one; another stage and another link have lines of
/// their own.
#[test]
fn a_flood_of_failures_is_held_back_and_counted() {
    const CROWD: u32 = 300;
    let away = own_address();
    let target = Target::start().echo();
    let ambassador = Launch::plain(away)
        .plain_link("OTHER", away)
        .plain_link("CLOSED", target.address())
        .variable("CLOSED_ALLOW", "10.0.0.0/8")
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "50ms")
        .start();
    let begun = std::time::Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..CROWD / 4 {
                    ambassador.connect("db:5432").expect_gone();
                }
            });
        }
    });
    for link in ["other:5432", "closed:5432"] {
        ambassador.connect(link).expect_gone();
    }
    let counted = "connections_failed_total{link=\"db:5432\",stage=\"connect\"}";
    assert!((metric(ambassador.admin(), counted) - f64::from(CROWD)).abs() < 0.5);
    let failures = lines_by_the_end(ambassador, "connection failed");
    let seconds = begun.elapsed().as_secs();
    let (of_the_crowd, others): (Vec<_>, Vec<_>) =
        failures.into_iter().partition(|line| line["link"] == "db:5432");
    assert_eq!(told(&of_the_crowd), u64::from(CROWD), "{of_the_crowd:?}");
    // The first few, one a second, and one at the end.
    let most = 5 + usize::try_from(seconds).unwrap() + 1;
    assert!(of_the_crowd.len() <= most, "{} lines in {seconds} seconds", of_the_crowd.len());
    let others: HashSet<_> =
        others.iter().map(|line| (line["link"].as_str(), line["stage"].as_str())).collect();
    let expected = [(Some("other:5432"), Some("connect")), (Some("closed:5432"), Some("allow"))];
    assert_eq!(others, HashSet::from(expected));
}

/// What was held back is told though nothing fails any more.
#[test]
fn the_last_of_a_flood_are_told_without_another_failure() {
    let ambassador = Launch::plain(own_address()).variable("DB_CONNECT_TIMEOUT", "50ms").start();
    for _ in 0..9 {
        ambassador.connect("db:5432").expect_gone();
    }
    let held = ambassador.wait_for_log("what was held back", |line| line["held_back"].is_u64());
    assert_eq!(held["message"], "connection failed", "{held}");
    assert_eq!(told(&lines_by_the_end(ambassador, "connection failed")), 9);
}

/// At `debug`, a connection's beginning and end are told, with its bytes and how long it was there; at `info` not.
#[test]
fn connections_are_told_at_debug() {
    let target = Target::start().echo();
    for (level, expected) in [("debug", 1), ("info", 0)] {
        let ambassador = Launch::plain(target.address()).variable("AMBASSADOR_LOG", level).start();
        let mut client = ambassador.connect("db:5432");
        let address = client.local_address().to_string();
        client.send(b"hello");
        client.expect(b"hello");
        client.finish_sending();
        client.expect_end();
        ambassador.signal(Signal::TERM);
        let printed = lines(&ambassador.finish().stderr);
        for message in ["connection opened", "connection closed"] {
            let told: Vec<_> = printed.iter().filter(|line| line["message"] == message).collect();
            assert_eq!(told.len(), expected, "{message}: {told:?}");
            for line in told {
                assert_eq!(
                    (&line["link"], &line["client"]),
                    (&"db:5432".into(), &(&*address).into()),
                    "{line}"
                );
                assert!(line["milliseconds"].is_u64(), "{line}");
            }
        }
        let closed = printed.iter().find(|line| line["message"] == "connection closed");
        if let Some(closed) = closed {
            assert_eq!((&closed["to_target"], &closed["to_client"]), (&5.into(), &5.into()), "{closed}");
            assert_eq!(closed["ended_by"], "eof", "{closed}");
        }
    }
}

/// The drain says that it began, why and with how many connections, and how it ended.
#[test]
fn a_drain_is_told_from_its_beginning_to_its_end() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).start();
    let mut client = ambassador.connect("db:5432");
    client.send(b"hello");
    client.expect(b"hello");
    ambassador.signal(Signal::TERM);
    let printed = lines(&ambassador.finish().stderr);
    let find = |message: &str| {
        let found = printed.iter().find(|line| line["message"] == message);
        found.unwrap_or_else(|| panic!("no {message}: {printed:?}"))
    };
    let draining = find("draining");
    assert_eq!((&draining["signal"], &draining["connections"]), (&"SIGTERM".into(), &1.into()), "{draining}");
    assert_eq!(find("stopped")["connections_cut"], 0);
}

/// Connections that the drain timeout ends are counted as cut.
#[test]
fn what_the_drain_timeout_cuts_is_counted() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("AMBASSADOR_DRAIN_TIMEOUT", "300ms").start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"BLPOP none 0\r\n");
    target.accept().expect(b"BLPOP none 0\r\n");
    ambassador.signal(Signal::TERM);
    let printed = lines(&ambassador.finish().stderr);
    let stopped = printed.iter().find(|line| line["message"] == "stopped").expect("an end");
    assert_eq!(stopped["connections_cut"], 1, "{printed:?}");
}

/// In the log as text a value with blanks is in quotation marks, so that fields can be told apart.
#[test]
fn values_with_blanks_are_quoted_in_text() {
    let [nobody, listen] = [own_address(), own_address()];
    let ambassador = Launch::plain(nobody)
        .variable("DB_LISTEN", listen.to_string())
        .variable("DB_CONNECT_TIMEOUT", "1s")
        .variable("AMBASSADOR_LOG_FORMAT", "text")
        .start();
    Peer::connect(listen).expect_gone();
    ambassador.signal(Signal::TERM);
    let printed = ambassador.finish().stderr;
    let failed = printed.lines().find(|line| line.contains("connection failed")).expect("a failure");
    assert!(
        failed.contains(&format!(" error=\"can't connect to {nobody}: Connection refused\" remedy=\"")),
        "{failed}"
    );
    assert!(failed.contains(" link=\"db:5432\" client=127.0.0.1:"), "{failed}");
}
