//! Times what is ours to make fast inside.
//!
//! `cargo run --release --manifest-path benches/micro/Cargo.toml --target-dir target/micro`

use std::ffi::OsString;
use std::future::poll_fn;
use std::time::Duration;

use bytes::BytesMut;
use divan::{Bencher, black_box, counter::BytesCount};
use redis_ambassador::timed::{
    self, Commands, Config, Env, Handle, Limits, Metrics, Place, Policy, Port, ProcessArguments, Replies,
    Reset, Session, Stream, Told, Tunnel,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

fn main() {
    divan::main();
}

/// AUTH and SELECT as every Redis connection begins.
#[divan::bench(args = [16, 16 * 1024])]
fn encode_the_handshake(bencher: Bencher, password: usize) {
    let password = vec![b'p'; password];
    bencher.bench(|| timed::commands(&[vec![b"AUTH", black_box(&password)], vec![b"SELECT", b"3"]]));
}

/// The two replies to it.
#[divan::bench]
fn decode_the_replies(bencher: Bencher) {
    bencher
        .with_inputs(|| BytesMut::from(&b"+OK\r\n+OK\r\n"[..]))
        .bench_values(|mut buffer| (timed::reply(&mut buffer), timed::reply(&mut buffer)));
}

/// The longest reply that a real server sends.
#[divan::bench]
fn decode_a_long_refusal(bencher: Bencher) {
    let line = [&b"-DENIED "[..], &[b'x'; 1057], b"\r\n"].concat();
    bencher.with_inputs(|| BytesMut::from(&line[..])).bench_values(|mut buffer| timed::reply(&mut buffer));
}

/// What it costs to find a client's commands: so many small ones at once.
#[divan::bench(args = [1, 16])]
fn find_small_commands(bencher: Bencher, number: usize) {
    find(bencher, timed::commands(&vec![vec![&b"SET"[..], b"key", b"value"]; number]).expose());
}

/// One command with a value of that size, which is skipped.
#[divan::bench(args = [1024, 64 * 1024])]
fn find_a_large_value(bencher: Bencher, size: usize) {
    find(bencher, timed::commands(&[vec![&b"SET"[..], b"key", &vec![b'v'; size]]]).expose());
}

fn find(bencher: Bencher, bytes: &[u8]) {
    let mut commands = Commands::default();
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let mut rest = black_box(bytes);
        while let Ok(timed::Found::Whole(_, length)) = commands.find(rest) {
            rest = &rest[length..];
            if rest.is_empty() {
                break;
            }
        }
    });
}

/// What it costs to follow a server's replies: so many small ones at once.
#[divan::bench(args = [1, 16])]
fn follow_small_replies(bencher: Bencher, number: usize) {
    follow(bencher, &b"$5\r\nvalue\r\n".repeat(number));
}

/// LRANGE of so many elements.
#[divan::bench(args = [100, 600])]
fn follow_an_array(bencher: Bencher, number: usize) {
    let elements = b"$10\r\nxxxxxxxxxx\r\n".repeat(number);
    follow(bencher, &[format!("*{number}\r\n").as_bytes(), &elements].concat());
}

/// One value of that size, which is skipped.
#[divan::bench(args = [64 * 1024])]
fn follow_a_large_value(bencher: Bencher, size: usize) {
    follow(bencher, &[format!("${size}\r\n").as_bytes(), &vec![b'v'; size], b"\r\n"].concat());
}

fn follow(bencher: Bencher, bytes: &[u8]) {
    let mut replies = Replies::default();
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let mut rest = black_box(bytes);
        while !rest.is_empty() {
            rest = &rest[replies.follow(rest).expect("replies").length..];
        }
    });
}

/// CLUSTER SLOTS of so many nodes, each with a name, an id and an address.
#[divan::bench(args = [3, 100])]
fn rewrite_slots(bencher: Bencher, nodes: usize) {
    let range = |node: usize| {
        let (host, ip) = (format!("node-{node}.redis.svc"), format!("10.0.0.{node}"));
        let text = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let about = [text("ip"), text(&ip)].concat();
        let id = text(&format!("{node:040x}"));
        format!(
            "*3\r\n:{}\r\n:{}\r\n*4\r\n{}:6379\r\n{id}*2\r\n{about}",
            node * 160,
            node * 160 + 159,
            text(&host)
        )
    };
    let ranges: String = (0..nodes).map(range).collect();
    let reply = format!("*{nodes}\r\n{ranges}").into_bytes();
    let told = Told { host: "10.9.9.9", is_tls: false };
    let mut port_of = |place: &Place<'_>| Port::Known(place.port + 1);
    bencher
        .counter(BytesCount::new(reply.len()))
        .bench_local(|| timed::rewritten(black_box(&reply), &told, &mut port_of).is_ok());
}

/// The environment of a pod in a namespace with so many Services.
#[divan::bench(args = [1, 100])]
fn parse_links(bencher: Bencher, links: usize) {
    let variables: Vec<(OsString, OsString)> = (1..=links)
        .flat_map(|number| {
            [
                (format!("SERVICE_{number}_PORT_{number}_TCP"), format!("tcp://10.0.0.1:{number}")),
                (format!("SERVICE_{number}_PORT_{number}_TCP_ADDR"), "10.0.0.1".to_owned()),
                (format!("SERVICE_{number}_AUTH"), "secret".to_owned()),
            ]
        })
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    bencher.with_inputs(|| Env::new(variables.clone())).bench_refs(|env| {
        Config::load(env, &ProcessArguments::default()).expect("a valid configuration").links.len()
    });
}

/// A message there and back through a tunnel, over two socket pairs.
#[divan::bench(args = [16, 1024, 64 * 1024, 1024 * 1024])]
fn tunnel_a_round_trip(bencher: Bencher, size: usize) {
    round_trip(bencher, false, &vec![b'm'; size], &vec![b'm'; size]);
}

/// A command and its reply through a session, and the same through a tunnel.
#[divan::bench(args = [false, true])]
fn small_request(bencher: Bencher, session: bool) {
    let command = timed::commands(&[vec![b"GET", b"key:000000000001"]]);
    round_trip(bencher, session, command.expose(), b"$3\r\nxxx\r\n");
}

#[divan::bench(args = [false, true])]
fn lrange_600(bencher: Bencher, session: bool) {
    let command = timed::commands(&[vec![b"LRANGE", b"mylist", b"0", b"599"]]);
    let reply = [&b"*600\r\n"[..], &b"$3\r\nxxx\r\n".repeat(600)].concat();
    round_trip(bencher, session, command.expose(), &reply);
}

#[divan::bench(args = [false, true])]
fn set_64_kib(bencher: Bencher, session: bool) {
    let command = timed::commands(&[vec![b"SET", b"key", &vec![b'v'; 64 * 1024]]]);
    round_trip(bencher, session, command.expose(), b"+OK\r\n");
}

fn round_trip(bencher: Bencher, session: bool, command: &[u8], reply: &[u8]) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut client, mut server) = relayed(&runtime, session);
    let (mut asked, mut answered) = (vec![0; command.len()], vec![0; reply.len()]);
    bencher.counter(BytesCount::new(command.len() + reply.len())).bench_local(|| {
        runtime.block_on(async {
            // At once, because a large message does not fit into the buffers on the way.
            let there = async {
                client.write_all(command).await.expect("sent");
                client.read_exact(&mut answered).await.expect("received");
            };
            let back = async {
                server.read_exact(&mut asked).await.expect("received");
                server.write_all(reply).await.expect("sent");
            };
            tokio::join!(there, back)
        });
    });
}

/// Two ends with a relay between them.
fn relayed(runtime: &Runtime, session: bool) -> (UnixStream, UnixStream) {
    runtime.block_on(async {
        let (client, near) = UnixStream::pair().expect("a socket pair");
        let (far, server) = UnixStream::pair().expect("a socket pair");
        tokio::spawn(async move {
            let handle = Handle::default();
            let limits =
                Limits { idle: None, idle_since: Instant::now(), lifetime: None, release_after: None };
            let (mut near, mut far) = (Stream::Unix(near), Stream::Unix(far));
            if !session {
                let _ = Tunnel::new(Vec::new(), Vec::new(), limits).run(&mut near, &mut far, &handle).await;
                return;
            }
            let policy = Policy {
                reset: Reset::Renews,
                absorbs: false,
                resends: true,
                patience: Duration::from_secs(5),
                database: 0,
                shares: false,
                retells: false,
            };
            let mut session = Session::new(Vec::new(), Vec::new(), limits, policy);
            let metrics = Metrics::new().link("redis:6379");
            let mut far = Some(far);
            let _ = poll_fn(|cx| session.poll(cx, &mut near, &mut far, &handle, &metrics.session)).await;
        });
        (client, server)
    })
}
