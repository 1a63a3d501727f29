//! The long run: mixed load, with rotations, failovers and restarts in the background, and rude clients among the others.
//!
//! `SOAK_SECONDS` says how long (an hour if nothing is said). What it finds is printed and written, with a chart, to
//! `target/soak`.

#![expect(clippy::cast_precision_loss, reason = "small numbers, for a chart")]

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::support::{
    Ambassador, Authority, Launch, Peer, RedisServer, SERVER_NAME, TlsPeer, command, eventually, metric,
    password, redis_over_tls,
};
use crate::{mib, raise_descriptors};

/// What happened to the requests of one kind of load.
#[derive(Default)]
struct Tally {
    connections: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    fn count<T>(&self, result: &io::Result<T>) {
        let counter = if result.is_ok() { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn connect(&self, address: SocketAddr) -> io::Result<Peer> {
        let connected = Peer::try_connect(address);
        match &connected {
            Ok(_) => &self.connections,
            Err(_) => &self.failed,
        }
        .fetch_add(1, Ordering::Relaxed);
        connected
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// A kind of load.
struct Kind {
    name: &'static str,
    /// What it is, and what happens to its target.
    what: &'static str,
    /// Where it goes.
    link: &'static str,
    /// What may make a request fail: those that are under way when it happens.
    fails_by: Option<&'static str>,
}

const fn kind(
    name: &'static str,
    what: &'static str,
    link: &'static str,
    fails_by: Option<&'static str>,
) -> Kind {
    Kind { name, what, link, fails_by }
}

const REDIS: &str = "redis:6379";
const PRIMARY: &str = "primary:6379";
const DB: &str = "db:5432";
const SAFE: &str = "safe:6379";

const KINDS: [Kind; 8] = [
    kind(
        "long",
        "connections that stay, are used, and reset at times, while the password rotates",
        REDIS,
        None,
    ),
    kind("short", "a connection a request, while the password rotates", REDIS, None),
    kind("bulk", "values of 1 MiB, while the password rotates", REDIS, None),
    kind(
        "queue",
        "what one client pushes another one waits for (BLPOP), while the password rotates",
        REDIS,
        None,
    ),
    kind("rude", "resets in the midst of a request or of the dial, ends without a word", REDIS, None),
    kind("tls", "pipelines of 100 requests, over TLS on both sides, while the password rotates", SAFE, None),
    kind("failover", "writes, while primary and replica change places", PRIMARY, Some("failovers")),
    kind("restart", "a tunnel, while its target is killed and started", DB, Some("restarts")),
];

/// Clients of each kind that a change may fail for.
const WRITERS: u64 = 2;

/// How many connections the link of the passwords keeps ready.
const WARM: u16 = 4;

/// Stops the clients, also where something panics among what happens to their targets.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a curve shows of a sample.
type Value = fn(&Sample) -> f64;

/// One look at the process.
struct Sample {
    at: f64,
    memory: f64,
    descriptors: f64,
    failed: f64,
    /// Processor time so far, in hundredths of a second.
    ticks: f64,
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
    let authority = Authority::new("Ours");
    let configuration = format!("requirepass {first}\ntls-auth-clients no");
    let (safe, safe_address) = redis_over_tls(&authority, &configuration).expect("a redis-server");
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH_FILE", &file)
        .variable("SAFE_PORT_6379_TCP", format!("rediss://{safe_address}"))
        .variable("SAFE_LISTEN", "127.0.0.1:0")
        .variable("SAFE_AUTH_FILE", &file)
        .variable("SAFE_TLS_CA_FILE", authority.file())
        .variable("SAFE_TLS_SERVER_NAME", SERVER_NAME)
        .listen_tls("SAFE", &authority.issue(&["127.0.0.1"]))
        .redis_link("PRIMARY", format!("{},{}", primaries[0].address(), primaries[1].address()))
        .variable("PRIMARY_ROLE", "master")
        .plain_link("DB", restarted.address())
        .variable("REDIS_MAX_LIFETIME", "20s")
        .variable("REDIS_WARM", WARM.to_string())
        .start();
    let tls = authority.client(None);
    let tallies: [Tally; KINDS.len()] = Default::default();
    let [long, short, bulk, queue, rude, safe_tally, failover, restart] = &tallies;
    let stopped = AtomicBool::new(false);
    let running = || !stopped.load(Ordering::Relaxed);
    let mut samples = Vec::new();
    let mut events = Vec::new();
    let begun = Instant::now();
    let [redis_link, primary, db, safe_link] =
        [REDIS, PRIMARY, DB, SAFE].map(|link| ambassador.address(link));
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(|| stay(redis_link, long, running));
            scope.spawn(|| come_and_go(redis_link, short, running));
            scope.spawn(move || hand_over(redis_link, number, queue, running));
        }
        scope.spawn(|| carry(redis_link, bulk, running));
        scope.spawn(|| offend(redis_link, rude, running));
        scope.spawn(|| pipeline(safe_link, &tls, safe_tally, running));
        for number in 0..WRITERS {
            scope.spawn(move || write(primary, number, failover, running));
            scope.spawn(move || write(db, number, restart, running));
        }
        let _stop = Stop(&stopped);
        // One after the other: a rotation, a change of places, a restart; and a look every second.
        let mut old = first.clone();
        let (mut rotations, mut failovers, mut restarts) = (0, 0_u64, 0);
        follow(&primaries[1], &primaries[0]);
        for second in 1.. {
            if begun.elapsed() >= Duration::from_secs(seconds) {
                break;
            }
            match second % 15 {
                3 => {
                    old = rotate(&[&redis, &safe], &old, &file);
                    rotations += 1;
                }
                8 => {
                    failovers += 1;
                    let [one, other] = &primaries;
                    let (leader, follower) = if failovers % 2 == 0 { (one, other) } else { (other, one) };
                    lead(leader);
                    follow(follower, leader);
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
    });
    report(&samples, &tallies, &events, begun.elapsed());
    judge(&ambassador, &tallies, &events);
    for (what, of, slack) in [
        ("memory", (|sample| sample.memory) as Value, 4.0),
        ("descriptors", |sample| sample.descriptors, 20.0),
    ] {
        let (early, late) = early_and_late(&samples, of);
        assert!(late <= early * 1.1 + slack, "{what} grew from {early} to {late}");
    }
}

/// Nothing failed that may not, and the ambassador has counted what the clients have.
fn judge(ambassador: &Ambassador, tallies: &[Tally], events: &[(&str, u64)]) {
    for (kind, tally) in KINDS.iter().zip(tallies) {
        assert!(tally.failed() <= allowed(kind, events), "{}: {} failed", kind.name, tally.failed());
        assert!(tally.done.load(Ordering::Relaxed) > 0, "{}: nothing was done", kind.name);
    }
    for link in [REDIS, PRIMARY, DB, SAFE] {
        let of_link = |name: &str| metric(ambassador.admin(), &format!("{name}{{link=\"{link}\"}}"));
        eventually("no connection is counted", || of_link("connections_active") < 0.5);
        let of_clients: u64 = KINDS
            .iter()
            .zip(tallies)
            .filter(|(kind, _)| kind.link == link)
            .map(|(_, tally)| tally.connections.load(Ordering::Relaxed))
            .sum();
        eventually("every connection was accepted", || {
            (of_link("connections_accepted_total") - of_clients as f64).abs() < 0.5
        });
    }
    for stage in ["resolve", "connect", "auth", "select", "role", "client_auth", "limit", "allow", "tls"] {
        for link in [REDIS, SAFE] {
            let series = format!("connections_failed_total{{link=\"{link}\",stage=\"{stage}\"}}");
            assert!(metric(ambassador.admin(), &series) < 0.5, "{series}");
        }
    }
    eventually("as many are kept ready as before", || {
        let ready = metric(ambassador.admin(), &format!("warm_connections{{link=\"{REDIS}\"}}"));
        (ready - f64::from(WARM)).abs() < 0.5
    });
}

/// How many requests may fail. A change breaks what each client has under way; and once more, if it comes back to a
/// server that is about to go.
fn allowed(kind: &Kind, events: &[(&str, u64)]) -> u64 {
    let of_kind = events.iter().filter(|(name, _)| Some(*name) == kind.fails_by);
    of_kind.map(|(_, count)| 2 * WRITERS * count).sum()
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
        ticks: ambassador.processor_ticks() as f64,
        failed: tallies.iter().map(Tally::failed).sum::<u64>() as f64,
    }
}

/// Sends a command and takes a reply of one line.
fn exchange(client: &mut Peer, request: &[u8]) -> io::Result<String> {
    client.try_send(request)?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).map_err(|error| match line.len() {
            0 => error,
            _ => io::Error::other("an end in the midst of a reply"),
        })?;
        line.push(byte[0]);
    }
    match line[0] {
        b'-' => Err(io::Error::other(String::from_utf8_lossy(&line).into_owned())),
        _ => Ok(String::from_utf8_lossy(&line).into_owned()),
    }
}

/// The same, for a reply that is known.
fn expect(client: &mut Peer, request: &[u8], reply: &str) -> io::Result<()> {
    let line = exchange(client, request)?;
    if line.trim_end() == reply {
        Ok(())
    } else {
        Err(io::Error::other(format!("{line:?} instead of {reply}")))
    }
}

/// Uses one connection until it is closed by its age, which comes between two requests.
fn stay(address: SocketAddr, tally: &Tally, running: impl Fn() -> bool) {
    while running() {
        let Ok(mut client) = tally.connect(address) else { continue };
        let mut requests = 0;
        while running() {
            // A RESET now and then, which leads to another connection.
            let is_reset = requests % 50 == 49;
            let (request, reply) =
                if is_reset { (&b"RESET\r\n"[..], "+RESET") } else { (&b"PING\r\n"[..], "+PONG") };
            let done = expect(&mut client, request, reply);
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
        if let Ok(mut client) = tally.connect(address) {
            tally.count(&expect(&mut client, b"PING\r\n", "+PONG"));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// What one client pushes is what the other one, which waits for it, gets.
fn hand_over(address: SocketAddr, number: usize, tally: &Tally, running: impl Fn() -> bool) {
    let key = format!("queue {number}");
    for turn in 0_u64.. {
        if !running() {
            break;
        }
        let value = turn.to_string();
        let handed_over = tally.connect(address).and_then(|mut waits| {
            waits.try_send(&command(&[b"BLPOP", key.as_bytes(), b"10"]))?;
            exchange(&mut tally.connect(address)?, &command(&[b"RPUSH", key.as_bytes(), value.as_bytes()]))?;
            let expected = command(&[key.as_bytes(), value.as_bytes()]);
            let mut got = vec![0; expected.len()];
            waits.read_exact(&mut got)?;
            if got == expected { Ok(()) } else { Err(io::Error::other("another value came")) }
        });
        tally.count(&handed_over);
        thread::sleep(Duration::from_millis(20));
    }
}

/// Leaves in every rude way; the next one is served all the same.
fn offend(address: SocketAddr, tally: &Tally, running: impl Fn() -> bool) {
    for turn in 0.. {
        if !running() {
            break;
        }
        let Ok(mut client) = tally.connect(address) else { continue };
        let said = match turn % 4 {
            // At once; in the midst of a command; of a reply; of RESET's change of connections.
            0 => &b""[..],
            1 => b"*2\r\n$3\r\nGET\r\n$10\r\nbul",
            2 => b"GET bulk\r\n",
            _ => b"PING\r\nRESET\r\nPING\r\n",
        };
        // It may be closed by its age meanwhile.
        let _ = client.try_send(said);
        if turn % 8 < 4 {
            client.reset();
        } else {
            drop(client);
        }
        if let Ok(mut client) = tally.connect(address) {
            tally.count(&expect(&mut client, b"PING\r\n", "+PONG"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn pipeline(address: SocketAddr, tls: &Arc<ClientConfig>, tally: &Tally, running: impl Fn() -> bool) {
    const DEPTH: u64 = 100;
    while running() {
        let mut count = 0;
        let key = format!("counter {}", tally.connections.fetch_add(1, Ordering::Relaxed));
        let Ok(mut client) = TlsPeer::try_connect(address, tls) else {
            tally.count(&Err::<(), _>(io::Error::other("no connection")));
            continue;
        };
        for _ in 0..20 {
            let requests =
                command(&[b"INCR", key.as_bytes()]).repeat(usize::try_from(DEPTH).expect("a number"));
            let mut replies = String::new();
            for number in 1..=DEPTH {
                let _ = write!(replies, ":{}\r\n", count + number);
            }
            let mut got = vec![0; replies.len()];
            let done = client.write_all(&requests).and_then(|()| client.read_exact(&mut got));
            let right = done.and_then(|()| {
                if got == replies.as_bytes() { Ok(()) } else { Err(io::Error::other("other replies came")) }
            });
            tally.count(&right);
            count += DEPTH;
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn carry(address: SocketAddr, tally: &Tally, running: impl Fn() -> bool) {
    let value = vec![b'x'; 1024 * 1024];
    let set = command(&[b"SET", b"bulk", &value]);
    while running() {
        let there_and_back = tally.connect(address).and_then(|mut client| {
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

fn write(address: SocketAddr, number: u64, tally: &Tally, running: impl Fn() -> bool) {
    let incr = command(&[b"INCR", format!("counter {number}").as_bytes()]);
    while running() {
        let Ok(mut client) = tally.connect(address) else { continue };
        // One connection has one server, which counts on.
        let mut last: Option<u64> = None;
        while running() {
            let done = exchange(&mut client, &incr).and_then(|reply| {
                let count = reply.trim_end().strip_prefix(':').and_then(|text| text.parse().ok());
                let is_next = count.is_some_and(|count| last.is_none_or(|last| count == last + 1));
                last = count;
                if is_next { Ok(()) } else { Err(io::Error::other("another number came")) }
            });
            tally.count(&done);
            if done.is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The new password is good before it is written, and the old one until everybody has read the new one.
fn rotate(servers: &[&RedisServer], old: &str, file: &Path) -> String {
    let new = password();
    let mut administrators: Vec<_> = servers.iter().map(|server| server.administrator(old)).collect();
    let mut set = |rule: String| {
        for administrator in &mut administrators {
            redis::cmd("ACL").arg("SETUSER").arg("default").arg(&rule).exec(administrator).expect("a rule");
        }
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

fn report(samples: &[Sample], tallies: &[Tally], events: &[(&str, u64)], took: Duration) {
    let mut text = format!("# The long run\n\n{:.0} seconds", took.as_secs_f64());
    for (name, count) in events {
        let _ = write!(text, ", {count} {name}");
    }
    text.push_str(
        ".\n\n| load | connections | requests | failed | allowed |\n| --- | --- | --- | --- | --- |\n",
    );
    for (kind, tally) in KINDS.iter().zip(tallies) {
        let done = tally.done.load(Ordering::Relaxed);
        let connections = tally.connections.load(Ordering::Relaxed);
        let _ = writeln!(
            text,
            "| {}: {} | {connections} | {} | {} | {} |",
            kind.name,
            kind.what,
            done + tally.failed(),
            tally.failed(),
            allowed(kind, events)
        );
    }
    let ticks = samples.last().map_or(0.0, |sample| sample.ticks);
    let _ = writeln!(text, "\nProcessor time: {:.1} % of one core.", ticks / took.as_secs_f64());
    let (early, late) = early_and_late(samples, |sample| sample.memory);
    let _ = writeln!(text, "Memory: {early:.1} MiB early, {late:.1} MiB late.");
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
        // No more points than there are to see.
        let some = samples.iter().step_by(samples.len().div_ceil(600).max(1));
        let points: String = some.fold(String::new(), |mut points, sample| {
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
