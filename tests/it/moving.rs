//! Connections whose target moves or is demoted: when they have to leave, and that they don't leave all at once.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Ambassador, Launch, Named, PATIENCE, Peer, RedisServer, eventually, try_whom, whom};

/// A plain tunnel whose target is in a file, from where it can be moved.
struct Movable {
    path: PathBuf,
    _directory: TempDir,
}

impl Movable {
    fn at(server: &Named) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let movable = Self { path: directory.path().join("backends"), _directory: directory };
        movable.move_to(server);
        movable
    }

    fn move_to(&self, server: &Named) {
        let next = self.path.with_extension("next");
        fs::write(&next, server.address().to_string()).expect("a file");
        fs::rename(next, &self.path).expect("a rename");
    }

    fn launch(&self, grace: &str) -> Launch {
        Launch::plain("unused:1")
            .variable("DB_PORT_5432_TCP", format!("tcp+file://{}", self.path.display()))
            .variable("DB_MOVE_GRACE", grace)
            .variable("AMBASSADOR_LOG", "debug")
    }
}

fn connect_to(ambassador: &Ambassador, name: &str) -> Peer {
    let mut client = ambassador.connect("db:5432");
    assert_eq!(whom(&mut client), name);
    client
}

/// New connections go to the new target at once; one that is quiet leaves the old one soon, in a clean way, and one
/// that waits for an answer leaves it when the grace is over.
#[test]
fn quiet_connections_leave_soon_and_busy_ones_after_the_grace() {
    let (a, b) = (Named::start("a"), Named::start("b"));
    let movable = Movable::at(&a);
    let ambassador = movable.launch("10s").start();
    let mut quiet = connect_to(&ambassador, "a");
    let mut busy = connect_to(&ambassador, "a");
    let asking = thread::spawn(move || {
        let begun = Instant::now();
        while try_whom(&mut busy).is_some() {}
        begun.elapsed()
    });
    movable.move_to(&b);
    ambassador
        .wait_for_log("the change", |line| line["message"] == "backends changed" && line["connections"] == 2);
    connect_to(&ambassador, "b");
    quiet.expect_end();
    assert!(!asking.is_finished(), "a busy connection left before its grace was over");
    let grace = asking.join().expect("a client");
    assert!(grace >= Duration::from_secs(9), "{grace:?}");
    ambassador.wait_for_log("why", |line| line["ended_by"] == "moved");
}

/// Without a grace even busy connections leave at once.
#[test]
fn without_a_grace_every_connection_leaves_at_once() {
    let (a, b) = (Named::start("a"), Named::start("b"));
    let movable = Movable::at(&a);
    let ambassador = movable.launch("0s").start();
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = connect_to(&ambassador, "a");
            thread::spawn(move || while try_whom(&mut client).is_some() {})
        })
        .collect();
    movable.move_to(&b);
    for client in clients {
        client.join().expect("a client");
    }
    eventually("nobody at the old target", || a.open() == 0);
}

/// `off` lets old connections be; new ones go to the new target.
#[test]
fn off_lets_old_connections_be() {
    let (a, b) = (Named::start("a"), Named::start("b"));
    let movable = Movable::at(&a);
    let ambassador = movable.launch("off").start();
    let mut old = connect_to(&ambassador, "a");
    movable.move_to(&b);
    ambassador.wait_for("backends changed");
    eventually("the new target", || whom(&mut ambassador.connect("db:5432")) == "b");
    old.expect_silence(Duration::from_millis(500));
    assert_eq!(whom(&mut old), "a");
}

/// A target that comes back to where it was is another one than the one that connections had to leave.
#[test]
fn a_target_that_moves_there_and_back_serves_again() {
    let (a, b) = (Named::start("a"), Named::start("b"));
    let movable = Movable::at(&a);
    let ambassador = movable.launch("5s").start();
    let mut client = connect_to(&ambassador, "a");
    for (server, name) in [(&b, "b"), (&a, "a"), (&b, "b")] {
        movable.move_to(server);
        client.expect_end();
        client = connect_to(&ambassador, name);
    }
    client.expect_silence(Duration::from_millis(500));
}

/// A primary that is demoted is left, though its address stays: the ambassador looks after the role by itself, and its
/// clients stay.
#[test]
fn a_demoted_primary_is_left_and_its_clients_stay() {
    let Some(first) = RedisServer::start("") else { return };
    let Some(second) = RedisServer::start("") else { return };
    let follow = |follower: &RedisServer, primary: &RedisServer| {
        let (ip, port) = (primary.address().ip().to_string(), primary.address().port());
        redis::cmd("REPLICAOF").arg(ip).arg(port).exec(&mut administrator(follower)).expect("a replica");
    };
    follow(&second, &first);
    let ambassador = Launch::redis(format!("{},{}", first.address(), second.address()))
        .variable("REDIS_ROLE", "master")
        .start();
    let set = |client: &mut Peer| {
        client.send(b"SET k v\r\n");
        client.expect(b"+OK\r\n");
    };
    let mut client = ambassador.connect("redis:6379");
    set(&mut client);
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut administrator(&second)).expect("a primary");
    follow(&first, &second);
    set(&mut ambassador.connect("redis:6379"));
    let line = ambassador.wait_for("backend demoted");
    assert_eq!(line["backend"], first.address().to_string(), "{line}");
    assert_eq!(line["connections"], 1, "{line}");
    set(&mut client);
}

fn administrator(server: &RedisServer) -> redis::Connection {
    let client = redis::Client::open(format!("redis://{}/", server.address())).expect("a URL");
    client.get_connection().expect("a connection to Redis")
}

/// Thousands of idle connections that have to leave do so at a bounded pace, spread over the grace: the new target sees
/// no stampede, and every client is served again after one reconnect.
#[test]
fn thousands_of_connections_leave_at_a_bounded_pace() {
    let Some(a) = RedisServer::start("maxclients 15000") else { return };
    let Some(b) = RedisServer::start("maxclients 15000") else { return };
    // The ambassador needs two descriptors a connection, and some for those that come while others go.
    let limit = getrlimit(Resource::Nofile);
    let descriptors = usize::try_from(limit.maximum.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let count = (descriptors.saturating_sub(1000) / 2).min(10_000);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("backends");
    fs::write(&path, a.address().to_string()).expect("a file");
    let ambassador = Launch::plain("unused:1")
        .variable("DB_PORT_5432_TCP", format!("tcp+file://{}", path.display()))
        .variable("DB_MOVE_GRACE", "10s")
        .start();
    let address = ambassador.address("db:5432");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ends = runtime.block_on(async {
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            let more = (0..100.min(count - clients.len())).map(|_| connect_and_ping(address));
            clients.extend(futures_util::future::join_all(more).await);
        }
        fs::write(&path, b.address().to_string()).expect("a file");
        let clients = clients.into_iter().map(|mut client| async move {
            let end = client.read(&mut [0]).await.expect("a clean end");
            assert_eq!(end, 0);
            let ended = Instant::now();
            (ended, connect_and_ping(address).await)
        });
        let moved = tokio::time::timeout(PATIENCE * 3, futures_util::future::join_all(clients)).await;
        moved.expect("every client at the new target").into_iter().map(|(ended, _)| ended).collect::<Vec<_>>()
    });
    let line = ambassador.wait_for("backends changed");
    assert_eq!(line["connections"], count, "{line}");
    assert_paced(ends, count);
}

async fn connect_and_ping(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.expect("a connection");
    client.write_all(b"PING\r\n").await.expect("a ping");
    let mut pong = [0; 7];
    client.read_exact(&mut pong).await.expect("an answer");
    assert_eq!(&pong, b"+PONG\r\n");
    client
}

/// 1000 a second where the grace allows it, else as many as it takes.
#[track_caller]
fn assert_paced(mut ends: Vec<Instant>, count: usize) {
    ends.sort();
    let span = ends[count - 1] - ends[0];
    assert!(span >= Duration::from_secs(count as u64 / 2000), "all left within {span:?}");
    let window = Duration::from_millis(500);
    let within = |at: usize| ends[at..].iter().take_while(|end| **end - ends[at] < window).count();
    let busiest = (0..count).map(within).max().unwrap_or_default();
    assert!(busiest <= count / 4, "{busiest} of {count} left within {window:?}");
}
