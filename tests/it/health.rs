//! `health`: what the running process says of itself, in one line and an exit code.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use rustix::process::Signal;

use crate::support::{BlackHole, Finished, Launch, RedisServer, Target, fixture_text, own_address, password};

/// `health` with that admin address and these arguments.
pub(crate) fn health(admin: &str, arguments: &[&str]) -> Finished {
    let launch = Launch::new().variable("AMBASSADOR_ADMIN", admin).argument("health");
    let finished = arguments.iter().fold(launch, Launch::argument).finish();
    let lines = finished.stdout.lines().count() + finished.stderr.lines().count();
    assert_eq!(lines, 1, "{finished:?}");
    finished
}

#[track_caller]
fn expect_unwell(finished: &Finished, words: &str) {
    assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains(words), "{words} in {finished:?}");
}

/// Ready is about the process alone: a target that is away does not count. While it drains it is not ready, and after
/// its end there is no answer.
#[test]
fn health_follows_readiness() {
    let ambassador = Launch::plain(own_address()).variable("AMBASSADOR_DRAIN_DELAY", "10m").start();
    let admin = &ambassador.admin().to_string();
    let ready = health(admin, &[]);
    assert_eq!((ready.code, &*ready.stdout, &*ready.stderr), (Some(0), "ready\n", ""));
    ambassador.signal(Signal::TERM);
    ambassador.wait_for("draining");
    expect_unwell(&health(admin, &[]), "not ready: draining");
    expect_unwell(&health(admin, &["--links"]), "not ready: draining");
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));
    expect_unwell(&health(admin, &[]), "AMBASSADOR_ADMIN");
}

/// An address that only a listener can have is asked on the loopback one.
#[test]
fn a_process_that_listens_everywhere_can_be_asked() {
    for everywhere in ["0.0.0.0:0", "[::]:0"] {
        let Ok(ambassador) =
            Launch::plain(own_address()).variable("AMBASSADOR_ADMIN", everywhere).try_start()
        else {
            eprintln!("skipped: no IPv6 here");
            continue;
        };
        let finished = health(&ambassador.admin().to_string(), &[]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
}

/// With `--links`, every link has to be dialled and authenticated; whatever `AMBASSADOR_LINKS` is.
#[test]
fn health_of_the_links_is_that_of_their_targets() {
    let password = password();
    let Some(mut redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let target = Target::start().echo();
    let launch = Launch::redis(redis.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_CONNECT_TIMEOUT", "1s")
        .plain_link("DB", target.address());
    let ambassador = launch.start();
    let admin = &ambassador.admin().to_string();
    let well = health(admin, &["--links"]);
    assert_eq!((well.code, &*well.stderr), (Some(0), ""), "{well:?}");
    for set in ["redis", "no-such-alias"] {
        let launch = Launch::new().variable("AMBASSADOR_ADMIN", admin);
        let launch = launch.variable("AMBASSADOR_LINKS", set).argument("health");
        assert_eq!(launch.finish().stdout, "ready\n", "{set}");
        let launch = Launch::new().variable("AMBASSADOR_ADMIN", admin);
        let launch = launch.variable("AMBASSADOR_LINKS", set).argument("health").argument("--links");
        let finished = launch.finish();
        assert!(finished.stdout.contains("every link"), "{set}: {finished:?}");
    }
    redis.stop();
    crate::support::eventually("the links are unwell", || health(admin, &["--links"]).code == Some(1));
    let unwell = health(admin, &["--links"]);
    for words in ["1 of 2 links", "redis:6379: connect", "remedy", "REDIS_PORT_6379_TCP"] {
        expect_unwell(&unwell, words);
    }
    assert_eq!(health(admin, &[]).code, Some(0));
    redis.start_again();
    crate::support::eventually("the links are well again", || health(admin, &["--links"]).code == Some(0));
}

/// Many targets that are silent don't take longer than the answer may.
#[test]
fn many_links_that_hang_are_told_one_by_one() {
    const MANY: usize = 30;
    let hole = BlackHole::start();
    let launch = (0..MANY)
        .fold(Launch::new(), |launch, number| launch.plain_link(&format!("LINK{number}"), hole.address()));
    let target = Target::start().echo();
    let ambassador = launch.plain_link("ZEBRA", target.address()).start();
    let unwell = health(&ambassador.admin().to_string(), &["--links"]);
    expect_unwell(&unwell, &format!("{MANY} of {} links", MANY + 1));
    expect_unwell(&unwell, "link29:5432: connect");
}

/// A wrong password is found out, though nothing of it is shown.
#[test]
fn health_of_the_links_finds_a_wrong_password() {
    let (right, wrong) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {right}")) else { return };
    let ambassador = Launch::redis(redis.address()).variable("REDIS_AUTH", &wrong).start();
    let unwell = health(&ambassador.admin().to_string(), &["--links"]);
    for words in ["1 of 1 links", "redis:6379: auth", "WRONGPASS", "REDIS_AUTH"] {
        expect_unwell(&unwell, words);
    }
}

/// Where nobody can be asked, it says what to set.
#[test]
fn without_an_admin_endpoint_health_says_so() {
    expect_unwell(&health("off", &[]), "AMBASSADOR_ADMIN=off");
    expect_unwell(&health("off", &["--links"]), "AMBASSADOR_ADMIN=off");
    expect_unwell(&health("127.0.0.1:0", &[]), "AMBASSADOR_ADMIN=127.0.0.1:0");
    let finished = Launch::new().variable("AMBASSADOR_ADMIN", "nowhere").argument("health").finish();
    finished.expect_mistake("AMBASSADOR_ADMIN");
}

/// Whoever else answers there is not taken for the ambassador.
#[test]
fn a_stranger_is_not_taken_for_the_ambassador() {
    for says in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 404 Not Found\r\n\r\n",
        fixture_text("replies/redis-7.0/unknown-command-before-auth.resp"),
        "",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(says.as_bytes()).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                // Until the client has gone, or the answer would be lost in a reset.
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        });
        for arguments in [&[][..], &["--links"]] {
            expect_unwell(&health(&address.to_string(), arguments), "AMBASSADOR_ADMIN");
        }
        server.join().unwrap();
    }
}
