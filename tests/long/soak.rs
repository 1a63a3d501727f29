//! The long run: mixed load, with rotations, failovers and restarts in the background.
//!
//! `SOAK_SECONDS` says how long (an hour if nothing is said). What it finds is printed and written, with a chart, to
//! `target/soak`.

#![expect(clippy::cast_precision_loss, reason = "small numbers, for a chart")]

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Ambassador, Launch, Peer, RedisServer, command, metric, password};
use crate::{mib, raise_descriptors};

/// What happened to the requests of one kind of load.
#[derive(Default)]
struct Tally {
    done: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    fn count<T>(&self, result: &io::Result<T>) {
        let counter = if result.is_ok() { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// The kinds of load, what happens to their target, and whether a request may fail by it.
const KINDS: [(&str, &str, bool); 5] = [
    ("long", "connections that stay, are used, and reset at times, while the password rotates", false),
    ("short", "a connection a request, while the password rotates", false),
    ("bulk", "values of 1 MiB, while the password rotates", false),
    ("failover", "writes, while primary and replica change places", true),
    ("restart", "a tunnel, while its target is killed and started", true),
];

/// What a curve shows of a sample.
type Value = fn(&Sample) -> f64;

/// One look at the process.
struct Sample {
    at: f64,
    memory: f64,
    descriptors: f64,
    failed: f64,
}

#[test]
#[ignore = "make soak"]
fn the_long_run() {
    raise_descriptors();
    let seconds =
        std::env::var("SOAK_SECONDS").map_or(3600, |text| text.parse().expect("a number of seconds"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    let first = password();
    let redis = RedisServer::start(&format!("requirepass {first}")).expect("a redis-server");
    let primaries = [0, 1].map(|_| RedisServer::start("").expect("a redis-server"));
    let mut restarted = RedisServer::start("").expect("a redis-server");
    fs::write(&file, &first).expect("a password file");
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH_FILE", &file)
        .redis_link("PRIMARY", format!("{},{}", primaries[0].address(), primaries[1].address()))
        .variable("PRIMARY_ROLE", "master")
        .plain_link("DB", restarted.address())
        .variable("REDIS_MAX_LIFETIME", "20s")
        .variable("REDIS_WARM", "4")
        .start();
    let tallies: [Tally; 5] = Default::default();
    let stopped = AtomicBool::new(false);
    let running = || !stopped.load(Ordering::Relaxed);
    let mut samples = Vec::new();
    let mut events = Vec::new();
    let begun = Instant::now();
    let (redis_link, primary, db) =
        (ambassador.address("redis:6379"), ambassador.address("primary:6379"), ambassador.address("db:5432"));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| stay(redis_link, &tallies[0], running));
            scope.spawn(|| come_and_go(redis_link, &tallies[1], running));
        }
        scope.spawn(|| carry(redis_link, &tallies[2], running));
        for _ in 0..2 {
            scope.spawn(|| write(primary, &tallies[3], running));
            scope.spawn(|| write(db, &tallies[4], running));
        }
        // One after the other: a rotation, a change of places, a restart; and a look every second.
        let mut old = first.clone();
        let (mut rotations, mut failovers, mut restarts) = (0, 0, 0);
        follow(&primaries[1], &primaries[0]);
        for second in 1.. {
            if begun.elapsed() >= Duration::from_secs(seconds) {
                break;
            }
            match second % 15 {
                3 => {
                    old = rotate(&redis, &old, &file);
                    rotations += 1;
                }
                8 => {
                    failovers += 1;
                    lead(&primaries[failovers % 2]);
                    follow(&primaries[(failovers + 1) % 2], &primaries[failovers % 2]);
                }
                13 => {
                    restarted.stop();
                    restarted.start_again();
                    restarts += 1;
                }
                _ => {}
            }
            samples.push(look(&ambassador, &tallies, begun));
            // The pace of the looks, and of what happens.
            thread::sleep((begun + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        }
        events.extend([("rotations", rotations), ("failovers", failovers), ("restarts", restarts)]);
        stopped.store(true, Ordering::Relaxed);
    });
    report(&samples, &tallies, &events, begun.elapsed());
    for ((name, _, may_fail), tally) in KINDS.iter().zip(&tallies) {
        assert!(*may_fail || tally.failed() == 0, "{name}: {} failed", tally.failed());
        assert!(tally.done.load(Ordering::Relaxed) > 0, "{name}: nothing was done");
    }
    let gauges = ["redis:6379", "primary:6379", "db:5432"]
        .map(|link| format!("connections_active{{link=\"{link}\"}}"));
    crate::support::eventually("no connection is counted", || {
        gauges.iter().all(|gauge| metric(ambassador.admin(), gauge) < 0.5)
    });
    for (what, of, slack) in [
        ("memory", (|sample| sample.memory) as Value, 4.0),
        ("descriptors", |sample| sample.descriptors, 20.0),
    ] {
        let (early, late) = early_and_late(&samples, of);
        assert!(late <= early * 1.1 + slack, "{what} grew from {early} to {late}");
    }
}

/// The middles of the second and of the last fifth: at first caches fill.
fn early_and_late(samples: &[Sample], of: Value) -> (f64, f64) {
    let fifth = samples.len() / 5;
    let middle = |part: &[Sample]| {
        let mut values: Vec<_> = part.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    (middle(&samples[fifth..=2 * fifth]), middle(&samples[4 * fifth..]))
}

fn look(ambassador: &Ambassador, tallies: &[Tally], begun: Instant) -> Sample {
    Sample {
        at: begun.elapsed().as_secs_f64(),
        memory: mib(ambassador.memory()),
        descriptors: ambassador.descriptors() as f64,
        failed: tallies.iter().map(Tally::failed).sum::<u64>() as f64,
    }
}

/// Sends a command and takes a reply of one line.
fn exchange(client: &mut Peer, request: &[u8]) -> io::Result<String> {
    client.try_send(request)?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    match line[0] {
        b'-' => Err(io::Error::other(String::from_utf8_lossy(&line).into_owned())),
        _ => Ok(String::from_utf8_lossy(&line).into_owned()),
    }
}

/// Uses one connection until it is closed by its age, which comes between two requests.
fn stay(address: SocketAddr, tally: &Tally, running: impl Fn() -> bool) {
    while running() {
        let Ok(mut client) = Peer::try_connect(address) else { continue };
        let mut requests = 0;
        while running() {
            // A RESET now and then, which leads to another connection.
            let request = if requests % 50 == 49 { &b"RESET\r\n"[..] } else { b"PING\r\n" };
            let done = exchange(&mut client, request);
            if requests > 0 && done.as_ref().is_err_and(is_end) {
                // Closed at a quiet moment, before it has seen the request: what every pool of connections bears.
                break;
            }
            requests += 1;
            tally.count(&done);
            if done.is_err() {
                break;
            }
            // Longer than what counts as quiet, at times.
            thread::sleep(Duration::from_millis(if requests % 20 == 0 { 300 } else { 5 }));
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

fn come_and_go(address: SocketAddr, tally: &Tally, running: impl Fn() -> bool) {
    while running() {
        tally.count(&Peer::try_connect(address).and_then(|mut client| exchange(&mut client, b"PING\r\n")));
        thread::sleep(Duration::from_millis(10));
    }
}

fn carry(address: SocketAddr, tally: &Tally, running: impl Fn() -> bool) {
    let value = vec![b'x'; 1024 * 1024];
    let set = command(&[b"SET", b"bulk", &value]);
    while running() {
        let there_and_back = Peer::try_connect(address).and_then(|mut client| {
            exchange(&mut client, &set)?;
            exchange(&mut client, b"GET bulk\r\n")?;
            let mut back = vec![0; value.len() + 2];
            client.read_exact(&mut back)?;
            if back[..value.len()] == value { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
        });
        tally.count(&there_and_back);
        thread::sleep(Duration::from_millis(100));
    }
}

fn write(address: SocketAddr, tally: &Tally, running: impl Fn() -> bool) {
    while running() {
        let Ok(mut client) = Peer::try_connect(address) else { continue };
        while running() {
            let done = exchange(&mut client, b"INCR counter\r\n");
            tally.count(&done);
            if done.is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The new password is good before it is written, and the old one until everybody has read the new one.
fn rotate(redis: &RedisServer, old: &str, file: &Path) -> String {
    let new = password();
    let mut administrator = redis.administrator(old);
    let mut set = |rule: String| {
        redis::cmd("ACL").arg("SETUSER").arg("default").arg(rule).exec(&mut administrator).expect("a rule");
    };
    set(format!(">{new}"));
    let beside = file.with_extension("new");
    fs::write(&beside, &new).expect("a password file");
    fs::rename(&beside, file).expect("a rename");
    // Dials that have read the old one are over.
    thread::sleep(Duration::from_millis(500));
    set(format!("<{old}"));
    new
}

fn lead(server: &RedisServer) {
    let client = redis::Client::open(format!("redis://{}/", server.address())).expect("a URL");
    let mut connection = client.get_connection().expect("a connection to Redis");
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut connection).expect("a primary");
}

fn follow(server: &RedisServer, primary: &RedisServer) {
    let client = redis::Client::open(format!("redis://{}/", server.address())).expect("a URL");
    let mut connection = client.get_connection().expect("a connection to Redis");
    let (ip, port) = (primary.address().ip().to_string(), primary.address().port());
    redis::cmd("REPLICAOF").arg(ip).arg(port).exec(&mut connection).expect("a replica");
}

fn report(samples: &[Sample], tallies: &[Tally], events: &[(&str, usize)], took: Duration) {
    let mut text = format!("# The long run\n\n{:.0} seconds", took.as_secs_f64());
    for (name, count) in events {
        let _ = write!(text, ", {count} {name}");
    }
    text.push_str(".\n\n| load | requests | failed | may fail |\n| --- | --- | --- | --- |\n");
    for ((name, what, may_fail), tally) in KINDS.iter().zip(tallies) {
        let done = tally.done.load(Ordering::Relaxed);
        let may = if *may_fail { "under way at the change" } else { "no" };
        let _ = writeln!(text, "| {name}: {what} | {} | {} | {may} |", done + tally.failed(), tally.failed());
    }
    let (early, late) = early_and_late(samples, |sample| sample.memory);
    let _ = writeln!(text, "\nMemory: {early:.1} MiB early, {late:.1} MiB late.");
    let (early, late) = early_and_late(samples, |sample| sample.descriptors);
    let _ = writeln!(
        text,
        "Descriptors: {early} early, {late} late.\n\n![Memory, descriptors and failures](chart.svg)"
    );
    println!("{text}");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak");
    fs::create_dir_all(&directory).expect("a directory for the report");
    fs::write(directory.join("report.md"), text).expect("a report");
    fs::write(directory.join("chart.svg"), chart(samples)).expect("a chart");
}

/// Three curves over the time, each with its own scale from nothing up.
fn chart(samples: &[Sample]) -> String {
    const WIDTH: f64 = 800.0;
    const HEIGHT: f64 = 120.0;
    let end = samples.last().map_or(1.0, |sample| sample.at);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n",
        WIDTH + 20.0,
        3.0 * (HEIGHT + 40.0)
    );
    let curves: [(&str, &str, Value); 3] = [
        ("memory, MiB", "#1f77b4", |sample| sample.memory),
        ("descriptors", "#2ca02c", |sample| sample.descriptors),
        ("failed requests so far", "#d62728", |sample| sample.failed),
    ];
    for (row, (name, colour, of)) in (0_u8..).zip(curves) {
        let top = f64::from(row) * (HEIGHT + 40.0) + 20.0;
        let highest = samples.iter().map(of).fold(1.0, f64::max);
        let points: String = samples.iter().fold(String::new(), |mut points, sample| {
            let x = 10.0 + sample.at / end * WIDTH;
            let y = top + HEIGHT - of(sample) / highest * HEIGHT;
            let _ = write!(points, "{x:.1},{y:.1} ");
            points
        });
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{:.0}\">{name}: up to {highest:.1}, over {end:.0} s</text>\n\
             <rect x=\"10\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#ccc\"/>\n\
             <polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            top - 5.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}
