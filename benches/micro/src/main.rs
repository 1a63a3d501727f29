//! Times what is ours to make fast inside.
//!
//! `cargo run --release --manifest-path benches/micro/Cargo.toml --target-dir target/micro`

use std::ffi::OsString;

use bytes::BytesMut;
use divan::{Bencher, black_box, counter::BytesCount};
use redis_ambassador::timed::commands::Commands;
use redis_ambassador::timed::{self, Config, Env, Handle, Limits, ProcessArguments, Relay, Stream};
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

/// What watching for RESET costs a client's commands: so many small ones at once.
#[divan::bench(args = [1, 16])]
fn watch_small_commands(bencher: Bencher, number: usize) {
    watch(bencher, timed::commands(&vec![vec![&b"SET"[..], b"key", b"value"]; number]).expose());
}

/// One command with a value of that size, which is skipped.
#[divan::bench(args = [1024, 64 * 1024])]
fn watch_a_large_value(bencher: Bencher, size: usize) {
    watch(bencher, timed::commands(&[vec![&b"SET"[..], b"key", &vec![b'v'; size]]]).expose());
}

fn watch(bencher: Bencher, bytes: &[u8]) {
    let mut commands = Commands::default();
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| commands.find_reset(black_box(bytes)));
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

/// A message there and back through the relay, over two socket pairs.
#[divan::bench(args = [16, 1024, 64 * 1024, 1024 * 1024])]
fn relay_a_round_trip(bencher: Bencher, size: usize) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut client, mut server) = relayed(&runtime);
    let message = vec![b'm'; size];
    let mut received = vec![0; size];
    bencher.counter(BytesCount::new(2 * size)).bench_local(|| {
        runtime.block_on(async {
            // At once, because a large message does not fit into the buffers on the way.
            let there = async {
                client.write_all(&message).await.expect("sent");
                client.read_exact(&mut received).await.expect("received");
            };
            let back = async {
                let mut echo = vec![0; size];
                server.read_exact(&mut echo).await.expect("received");
                server.write_all(&echo).await.expect("sent");
            };
            tokio::join!(there, back)
        });
    });
}

/// Two ends with the relay between them.
fn relayed(runtime: &Runtime) -> (UnixStream, UnixStream) {
    runtime.block_on(async {
        let (client, near) = UnixStream::pair().expect("a socket pair");
        let (far, server) = UnixStream::pair().expect("a socket pair");
        tokio::spawn(async move {
            let handle = Handle::default();
            let limits = Limits { idle: None, idle_since: Instant::now(), lifetime: None };
            let (mut near, mut far) = (Stream::Unix(near), Stream::Unix(far));
            Relay::new(Vec::new(), Vec::new(), limits).run(&mut near, &mut far, &handle).await
        });
        (client, server)
    })
}
