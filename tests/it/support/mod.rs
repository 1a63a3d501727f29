//! What the tests stand on: the ambassador as a process, both ends of its connections, real Redis servers, and
//! passwords that are looked for in everything the ambassador ever printed.

mod ambassador;
mod balancer;
mod browser;
mod cluster;
mod dice;
mod dns;
mod fixture;
mod http;
mod load;
mod named;
mod peer;
mod redis_server;
mod secret;
mod sentinel;
mod target;
mod terminal;
mod tls;
mod token_service;
pub(crate) mod zookeeper;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub(crate) use ambassador::{Ambassador, Finished, Launch, another_user, lines};
pub(crate) use balancer::{Balancer, listen};
pub(crate) use browser::Browser;
pub(crate) use cluster::{Cluster, Known, SLOTS};
pub(crate) use dice::Dice;
pub(crate) use dns::{Dnsmasq, Manner, NameServer};
pub(crate) use fixture::{error_in, every_answer, fixture, fixture_text, unknown_command};
pub(crate) use http::{get, metric, request};
pub(crate) use load::{Failure, Load, appended};
pub(crate) use named::{Named, try_whom, whom};
pub(crate) use peer::Peer;
pub(crate) use redis_server::{RedisServer, Version, command_is_missing, module_is_missing};
pub(crate) use secret::{every_byte, password, random, token};
pub(crate) use sentinel::{Quorum, SERVICE, play_sentinel, play_server};
pub(crate) use target::{BlackHole, Served, Target};
pub(crate) use terminal::{on_a_terminal, shown};
pub(crate) use tls::{
    Authority, Identity, SERVER_NAME, TlsPeer, Workbench, openssl, redis_over_tls, replace,
};
pub(crate) use token_service::{Asked, TokenService, answered};

pub(crate) use zookeeper::{ZooKeeper, play_zookeeper};

/// How long anything may take that is bound to happen. Only a broken promise ever waits for so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Says why this test, or a part of it, is left out.
pub(crate) fn say_skipped(why: &str) {
    let test = std::thread::current();
    let line = format!("SKIPPED {}: {why}\n", test.name().unwrap_or("a test"));
    // Not eprintln!, whose lines are hidden where a test passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
    // The last lines of scripts/test.
    let list = std::env::var_os("SKIPPED").map(|path| std::fs::File::options().append(true).open(path));
    if let Some(Ok(mut list)) = list {
        let _ = list.write_all(line.trim_start_matches("SKIPPED ").as_bytes());
    }
}

/// The same where nothing may be left out in continuous integration.
#[track_caller]
pub(crate) fn leave_out(why: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!in_ci, "{why}, and in continuous integration nothing is left out");
    say_skipped(why);
}

/// Polls until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A command as Redis clients send it.
pub(crate) fn command(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend(format!("${}\r\n", argument.len()).bytes());
        bytes.extend(*argument);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// An address of the loopback network that nothing else uses, so that a server can go away and come back without a
/// stranger taking its port meanwhile. No two have the same port: servers are told apart by theirs.
pub(crate) fn own_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let random = secret::random();
        let [a, b, c, ..] = random.to_le_bytes();
        let ip = Ipv4Addr::new(127, 64 + a % 128, b, 1 + c % 254);
        let listener = TcpListener::bind(SocketAddrV4::new(ip, 0)).expect("a port on a loopback address");
        let address = listener.local_addr().expect("a bound listener has an address");
        if GIVEN.lock().expect("a set of ports").insert(address.port()) {
            return address;
        }
    }
}

/// `len` bytes that repeat nowhere nearby and differ by `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
