//! `status`: what the running process knows of its links, for people.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use crate::support::{
    Ambassador, Finished, Launch, PATIENCE, Served, Target, eventually, on_a_terminal, own_address, shown,
};

/// `status` of the ambassador there, with these arguments.
pub(crate) fn status(admin: SocketAddr, arguments: &[&str]) -> Finished {
    let launch = Launch::new().variable("AMBASSADOR_ADMIN", admin.to_string()).argument("status");
    arguments.iter().fold(launch, Launch::argument).finish()
}

/// The link `redis:6379` to a server that answers PING, and to anything else with an error; and `db:5432` to nobody.
fn links() -> (Served, Ambassador) {
    let target = Target::start().serve(|mut peer| {
        peer.expect(b"PING\r\n");
        peer.send(b"+PONG\r\n");
        peer.expect(b"FOO\r\n");
        peer.send(b"-ERR unknown command\r\n");
        peer.expect_end();
    });
    let launch = Launch::redis(target.address()).plain_link("DB", own_address());
    (target, launch.variable("DB_CONNECT_TIMEOUT", "300ms").start())
}

/// The row of a link, as columns.
fn row<'a>(printed: &'a str, link: &str) -> Vec<&'a str> {
    let found = printed.lines().find(|line| line.starts_with(link));
    let columns = found.unwrap_or_else(|| panic!("no {link}:\n{printed}")).split("   ").map(str::trim);
    columns.filter(|column| !column.is_empty()).collect()
}

/// Where each listens and leads, whether it works and since when, what failed and helps, who is connected, what was done.
#[test]
fn every_link_is_shown_with_what_is_known_of_it() {
    let (target, ambassador) = links();
    let before = status(ambassador.admin(), &[]);
    assert_eq!((before.code, &*before.stderr), (Some(0), ""), "{before:?}");
    assert_eq!(row(&before.stdout, "redis:6379")[1..], ["not dialled", "-", "0", "0", "0", "0"]);

    let mut client = ambassador.connect("redis:6379");
    for (said, heard) in [(&b"PING\r\n"[..], &b"+PONG\r\n"[..]), (b"FOO\r\n", b"-ERR unknown command\r\n")] {
        client.send(said);
        client.expect(heard);
    }
    ambassador.connect("db:5432").expect_gone();
    // Once the server's answer is counted, and the other client's end.
    let mut now = String::new();
    eventually("both are told", || {
        now = status(ambassador.admin(), &[]).stdout;
        let (redis, db) = (row(&now, "redis:6379"), row(&now, "db:5432"));
        let is_counted = redis[5].starts_with('2') && redis[6].starts_with('1');
        is_counted && redis[3..5] == ["1", "1"] && db[3..] == ["0", "0", "-", "-"]
    });
    let (redis, db) = (row(&now, "redis:6379"), row(&now, "db:5432"));
    assert_eq!((redis[1], db[1]), ("works", "fails"), "{now}");
    assert!(redis[2].ends_with(" s") && now.ends_with("\n\n2 links: 1 fails, 1 works\n"), "{now}");
    for line in [
        format!("  {} -> redis://{}", ambassador.address("redis:6379"), target.address()),
        "  remedy: check that the target of DB_PORT_5432_TCP is running and listening".to_owned(),
    ] {
        assert!(now.lines().any(|shown| shown == line), "{line}:\n{now}");
    }
    assert!(now.contains(" s ago, at connect: can't connect to 127."), "{now}");
    // What fails comes first.
    assert!(now.find("db:5432") < now.find("redis:6379"), "{now}");
    assert!(!now.contains('\x1b'), "{now}");
}

#[test]
fn a_process_that_drains_is_told() {
    let ambassador = Launch::plain(own_address()).variable("AMBASSADOR_DRAIN_DELAY", "10m").start();
    ambassador.signal(Signal::TERM);
    ambassador.wait_for("draining");
    assert!(status(ambassador.admin(), &[]).stdout.contains("draining"));
    ambassador.signal(Signal::TERM);
}

#[test]
fn without_a_running_process_the_remedy_is_told() {
    for arguments in [&[][..], &["--watch"]] {
        let finished = status(own_address(), arguments);
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{finished:?}");
        for words in ["is not running", "; start it", "docker exec", "--admin", "--env-file"] {
            assert!(finished.stderr.contains(words), "{words}: {finished:?}");
        }
    }
    for (admin, words) in [("off", "AMBASSADOR_ADMIN=off"), ("127.0.0.1:0", "AMBASSADOR_ADMIN=127.0.0.1:0")] {
        let finished = Launch::new().variable("AMBASSADOR_ADMIN", admin).argument("status").finish();
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains(words), "{finished:?}");
    }
    let finished = Launch::new().variable("AMBASSADOR_ADMIN", "nowhere").argument("status").finish();
    finished.expect_mistake("AMBASSADOR_ADMIN");
}

/// Whoever answers there can't have a terminal do what it wants; and one of another version may know less.
#[test]
fn what_is_shown_is_text_alone() {
    let links = r#"{"ready": true, "links": [{"link": "redis:6379\u001b[2J", "listen": "*\r\n", "kind": "redis",
        "target": "redis://\u0007h", "connections": 3, "backends": [], "last_dial": null}]}"#;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\n\r\n{links}").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let finished = status(address, &[]);
    server.join().unwrap();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(!finished.stdout.contains(['\x1b', '\r', '\x07']), "{finished:?}");
    assert_eq!(row(&finished.stdout, "redis:6379")[2..], ["3", "0", "-", "-"], "{finished:?}");
}

#[test]
fn it_fits_the_terminal() {
    let target = Target::start().echo();
    let several =
        "tcp://first.redis.example.com:6379,second.redis.example.com:6379,third.redis.example.com:6379";
    let ambassador = Launch::redis(target.address())
        .variable("CACHE_PORT_6380_TCP", several)
        .variable("CACHE_LISTEN", "127.0.0.1:0")
        .plain_link("DB", own_address())
        .variable("DB_CONNECT_TIMEOUT", "300ms")
        .start();
    ambassador.connect("db:5432").expect_gone();
    for (columns, is_table) in [(200, true), (80, true), (60, false), (45, false)] {
        let Some(mut command) = on_a_terminal(columns, 24, "status") else { return };
        command.env("AMBASSADOR_ADMIN", ambassador.admin().to_string());
        let printed = shown(command);
        for line in printed.lines() {
            assert!(line.chars().count() <= columns.into(), "{columns}: {line}\n{printed}");
        }
        assert_eq!(printed.starts_with("LINK "), is_table, "{columns}: {printed}");
        assert_eq!(printed.contains("0 upstreams"), !is_table, "{columns}: {printed}");
        for words in ["cache:6380", "remedy: ", "third.redis.example.com:6379"] {
            assert!(printed.contains(words), "{columns}: {words}: {printed}");
        }
    }
}

/// What a process prints, line by line, until this is dropped.
struct Watched {
    child: Child,
    lines: Receiver<String>,
}

impl Watched {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a program that runs");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (told, lines) = channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let _ = told.send(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        });
        Self { child, lines }
    }

    /// Waits for a line with all of these words.
    #[track_caller]
    fn expect(&self, words: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        let mut found = false;
        while !found {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {words:?}"));
            found = words.iter().all(|word| line.contains(word));
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// It goes on while the process is away; and what is no terminal gets no commands for one.
#[test]
fn watching_renews_it() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-ambassador"));
    command.args(["status", "--watch"]).env_clear();
    command.env("AMBASSADOR_ADMIN", ambassador.admin().to_string());
    let watched = Watched::start(command);
    watched.expect(&["db:5432", "not dialled"]);
    let client = ambassador.connect("db:5432");
    watched.expect(&["db:5432", "works"]);
    watched.expect(&["1 link: 1 works"]);
    drop(client);
    drop(ambassador);
    watched.expect(&["is not running"]);
}

/// The screen is cleared for each look, nothing is out of sight, and Ctrl-C ends it.
#[test]
fn a_terminal_shows_the_last_look_until_ctrl_c() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).redis_link("REDIS", target.address()).start();
    let Some(mut command) = on_a_terminal(80, 4, "status --watch") else { return };
    command.env("AMBASSADOR_ADMIN", ambassador.admin().to_string()).stdin(Stdio::piped());
    let mut watched = Watched::start(command);
    for _ in 0..2 {
        watched.expect(&["\x1b[H\x1b[2JLINK "]);
        watched.expect(&["db:5432"]);
        watched.expect(&["and 5 more lines"]);
    }
    let mut keyboard = watched.child.stdin.take().expect("a pipe");
    keyboard.write_all(b"\x03").expect("a key");
    eventually("it ends", || watched.child.try_wait().expect("a process").is_some());
}
