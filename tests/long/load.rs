//! Many at once: held, coming and going, in a storm, slow, and more than a target takes.

use std::io::Read;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::ClientConnection;

use crate::support::{
    Ambassador, Authority, Launch, Peer, RedisServer, TlsPeer, command, eventually, metric, password,
};
use crate::{mib, raise_descriptors};

/// Descriptors that neither a client nor a target has: listeners, files, and those kept for clients that are turned away.
const OTHERS: usize = 500;

fn server(password: &str) -> RedisServer {
    let configuration = format!("requirepass {password}\nmaxclients 19000\ntcp-backlog 4096");
    RedisServer::start(&configuration).expect("a redis-server")
}

fn start(redis: &RedisServer, password: &str) -> Ambassador {
    Launch::redis(redis.address())
        .variable("REDIS_AUTH", password)
        .variable("REDIS_CONNECT_TIMEOUT", "30s")
        .start()
}

fn ping(client: &mut Peer) {
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

fn expect_nobody(ambassador: &Ambassador, link: &str) {
    let gauge = format!("connections_active{{link=\"{link}\"}}");
    eventually("no connection is counted", || metric(ambassador.admin(), &gauge) < 0.5);
}

/// Ten thousand connections, or as many as the limit on descriptors carries (two each), all of them used, while a thousand at a
/// time go and others come.
#[expect(clippy::cast_precision_loss, reason = "far below what a float can count to")]
#[test]
#[ignore = "make load"]
fn ten_thousand_connections_are_held_while_others_come_and_go() {
    let many = 10_000.min((raise_descriptors() - OTHERS) / 2);
    let password = password();
    let redis = server(&password);
    let ambassador = start(&redis, &password);
    let (descriptors, empty) = (ambassador.descriptors(), ambassador.memory());
    let mut clients: Vec<_> = (0..many).map(|_| ambassador.connect("redis:6379")).collect();
    clients.iter_mut().for_each(ping);
    let full = ambassador.memory();
    let begun = Instant::now();
    for _ in 0..10 {
        // The oldest go. Whether they are gone is asked first: there is no room for more than there were.
        clients.drain(..many / 10);
        let active = "connections_active{link=\"redis:6379\"}";
        eventually("they are gone", || metric(ambassador.admin(), active) < clients.len() as f64 + 0.5);
        clients.extend((0..many / 10).map(|_| ambassador.connect("redis:6379")));
        clients.iter_mut().for_each(ping);
    }
    println!(
        "{many} connections held: {:.1} MiB instead of {:.1} MiB, {} bytes a connection; {many} more came and went in {:.1?}",
        mib(full),
        mib(empty),
        (full - empty) / many,
        begun.elapsed()
    );
    assert!((full - empty) / many < 8 * 1024, "a connection is too large");
    drop(clients);
    expect_nobody(&ambassador, "redis:6379");
    eventually("no descriptor is left open", || ambassador.descriptors() <= descriptors);
    ping(&mut ambassador.connect("redis:6379"));
}

/// Five thousand clients at the same moment are all served.
#[test]
#[ignore = "make load"]
fn a_storm_of_five_thousand_is_served() {
    const THREADS: usize = 100;
    const EACH: usize = 50;
    raise_descriptors();
    let password = password();
    let redis = server(&password);
    let ambassador = start(&redis, &password);
    let address = ambassador.address("redis:6379");
    let barrier = Barrier::new(THREADS);
    let slowest = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                barrier.wait();
                let begun = Instant::now();
                let mut clients: Vec<_> = (0..EACH).map(|_| Peer::connect(address)).collect();
                for client in &mut clients {
                    client.send(b"PING\r\n");
                }
                for client in &mut clients {
                    client.expect(b"+PONG\r\n");
                    let took = usize::try_from(begun.elapsed().as_millis()).expect("not so long");
                    slowest.fetch_max(took, Ordering::Relaxed);
                }
                barrier.wait();
            });
        }
    });
    println!("{} at once: all served, the last after {} ms", THREADS * EACH, slowest.into_inner());
    expect_nobody(&ambassador, "redis:6379");
}

/// The first bytes that a client over TLS sends.
fn client_hello(authority: &Authority) -> Vec<u8> {
    let name = "localhost".try_into().expect("a name");
    let mut client = ClientConnection::new(authority.client(None), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("room in memory");
    bytes
}

/// A thousand clients in the TLS handshake and a thousand before the password, each of which says a byte now and then, and
/// a thousand that say nothing behind the dial hold up nobody; the first two kinds are gone with the connect timeout,
/// however busily they drip.
#[test]
#[ignore = "make load"]
fn thousands_of_slow_clients_hold_up_nobody() {
    const MANY: usize = 1000;
    const ROUNDS: u32 = 50;
    // In all the connect timeout, the time that a client has to take its refusal, and two seconds.
    const PACE: Duration = Duration::from_millis(120);
    raise_descriptors();
    let (secret, shown) = (password(), password());
    let redis = server(&secret);
    let authority = Authority::new("Ours");
    let identity = authority.issue(&["127.0.0.1"]);
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH", &secret)
        .redis_link("SAFE", redis.address())
        .variable("SAFE_AUTH", &secret)
        .listen_tls("SAFE", &identity)
        .variable("SAFE_CONNECT_TIMEOUT", "2s")
        .redis_link("STRANGERS", redis.address())
        .variable("STRANGERS_CONNECT_TIMEOUT", "2s")
        .variable("STRANGERS_AUTH", &secret)
        .variable("STRANGERS_CLIENT_AUTH", "require")
        .variable("STRANGERS_CLIENT_PASSWORD", &shown)
        .start();
    let links = ["redis:6379", "safe:6379", "strangers:6379"];
    let descriptors = ambassador.descriptors();
    let begun = Instant::now();
    let mut slow: Vec<_> =
        links.map(|link| (0..MANY).map(|_| ambassador.connect(link)).collect::<Vec<_>>()).into();
    let drips = [Vec::new(), client_hello(&authority), command(&[b"AUTH", &[b'x'; ROUNDS as usize]])];
    let (mut slowest, mut gone) = (Duration::ZERO, 0);
    for round in 0..ROUNDS {
        thread::sleep((begun + PACE * round).saturating_duration_since(Instant::now()));
        gone = 0;
        for (clients, drip) in slow.iter_mut().zip(&drips) {
            let Some(byte) = drip.get(round as usize) else { continue };
            for client in clients {
                gone += usize::from(client.try_send(&[*byte]).is_err());
            }
        }
        let begun = Instant::now();
        ping(&mut ambassador.connect("redis:6379"));
        let mut client = TlsPeer::connect(ambassador.address("safe:6379"), &authority.client(None));
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
        let mut client = ambassador.connect("strangers:6379");
        client.send(&command(&[b"AUTH", shown.as_bytes()]));
        client.expect(b"+OK\r\n");
        ping(&mut client);
        slowest = slowest.max(begun.elapsed());
    }
    let took = begun.elapsed();
    println!(
        "{} slow clients: the slowest of {ROUNDS} rounds of 3 clients took {slowest:.1?} ({took:.1?} in all)",
        3 * MANY
    );
    assert_eq!(gone, 2 * MANY, "so many were gone in the end");
    drop(slow);
    for link in links {
        expect_nobody(&ambassador, link);
    }
    eventually("no descriptor is left open", || ambassador.descriptors() <= descriptors);
}

/// A hundred megabytes of commands for a Redis that stands still wait where they come from: what the ambassador keeps is bounded
/// (256 KiB a direction where the target stops all of a sudden). When Redis goes on, every command is answered.
#[test]
#[ignore = "make load"]
fn a_hundred_megabytes_for_a_redis_that_stops_reading_cost_little_memory() {
    const CLIENTS: usize = 10;
    const BOUND: usize = CLIENTS * 2 * 256 * 1024 + 4 * 1024 * 1024;
    let password = password();
    let redis = server(&password);
    let ambassador = start(&redis, &password);
    let value = vec![b'x'; 10_000];
    let set = command(&[b"SET", b"key", &value]);
    let count = 10 * 1024 * 1024 / set.len();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| ambassador.connect("redis:6379")).collect();
    clients.iter_mut().for_each(ping);
    let before = ambassador.memory();
    redis.signal(Signal::STOP);
    let mut largest = before;
    thread::scope(|scope| {
        let readers: Vec<_> = clients
            .iter()
            .map(|client| {
                let (mut writer, mut reader) = (client.handle(), client.handle());
                let set = &set;
                scope.spawn(move || {
                    for _ in 0..count {
                        writer.send(set);
                    }
                });
                scope.spawn(move || {
                    let mut replies = vec![0; 5 * count];
                    reader.read_exact(&mut replies).expect("as many replies as commands");
                    assert!(replies.chunks(5).all(|reply| reply == b"+OK\r\n"));
                })
            })
            .collect();
        // For so long nobody reads.
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            largest = largest.max(ambassador.memory());
            thread::sleep(Duration::from_millis(20));
        }
        redis.signal(Signal::CONT);
        for reader in readers {
            while !reader.is_finished() {
                largest = largest.max(ambassador.memory());
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    println!(
        "{CLIENTS} clients with {} MB in all for a Redis that stands still: {:.2} MiB more than before, of {:.2} MiB allowed",
        CLIENTS * count * set.len() / 1_000_000,
        mib(largest - before),
        mib(BOUND)
    );
    assert!(largest - before <= BOUND, "it keeps too much");
    drop(clients);
    expect_nobody(&ambassador, "redis:6379");
}
