//! What becomes of shared upstreams and those who share them: drains, restarts, and clients that come and go.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::wire::{Trouble, Wire};
use super::{LINK, real, sharing, upstreams};
use crate::sessions::clients::{has_php, php};
use crate::sessions::counted;
use crate::sessions::restart::{DOWN, expect_little, fifty};
use crate::support::{Launch, Peer, RedisServer, Target, eventually, get, own_address, password};

/// How long replies stall: longer than any quiet moment.
const STALL: Duration = Duration::from_millis(150);

/// In how many ways a client counts.
const MANNERS: usize = 4;

/// What adds one or some to a counter, however it is done.
fn counting(manner: usize, key: &str) -> Vec<u8> {
    match manner % MANNERS {
        0 => format!("INCR {key}\r\nGET none\r\n").repeat(8),
        1 => format!("MULTI\r\nINCR {key}\r\nEXEC\r\nINCR {key}\r\n"),
        2 => format!("EVAL \"return redis.call('INCR', KEYS[1])\" 1 {key}\r\nINCR {key}\r\n"),
        _ => format!("INCR {key}\r\nBLPOP none 0.01\r\nINCR {key}\r\n"),
    }
    .into_bytes()
}

/// How many replies that has.
fn replies(manner: usize) -> usize {
    [16, 4, 2, 3][manner % MANNERS]
}

/// Counts until the connection is over, and says how far it has come.
fn count_to_the_end(address: SocketAddr, number: usize, rounds: &AtomicUsize) -> usize {
    let mut wire = Wire::connect(address);
    let mut last = 0;
    loop {
        wire.say(&counting(number, &format!("count:{number}")));
        for _ in 0..replies(number) {
            match wire.hear() {
                Ok(reply) => {
                    let text = String::from_utf8(reply).expect("text");
                    if let Some((_, count)) = text.trim_end().rsplit_once(':') {
                        last = count.parse().expect("a number");
                    }
                    assert!(!text.starts_with('-'), "{text}");
                }
                Err(Trouble::Over { amid }) => {
                    assert!(!amid, "half a reply");
                    return last;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Under load each client is let go between a reply and its next command: what the server has done, it has been told.
#[test]
fn a_drain_under_load_loses_no_reply() {
    const CLIENTS: usize = 40;
    for (upstreams, threads) in [(1, 1), (2, 2)] {
        let Some((server, ambassador, password)) = real("", upstreams, threads) else { return };
        let address = ambassador.address(LINK);
        let rounds: Vec<_> = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
        let heard: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = rounds
                .iter()
                .enumerate()
                .map(|(number, rounds)| scope.spawn(move || count_to_the_end(address, number, rounds)))
                .collect();
            eventually("all work", || rounds.iter().all(|rounds| rounds.load(Ordering::Relaxed) >= 5));
            ambassador.signal(Signal::TERM);
            assert_eq!(ambassador.finish().code, Some(0));
            clients.into_iter().map(|client| client.join().expect("a client")).collect()
        });
        let mut administrator = server.administrator(&password);
        for (number, heard) in heard.into_iter().enumerate() {
            let key = format!("count:{number}");
            let done: usize = redis::cmd("GET").arg(&key).query(&mut administrator).expect("a count");
            assert_eq!(done, heard, "{key}, which counts in manner {}", number % MANNERS);
        }
    }
}

/// Who has nothing to wait for is let go at once, whoever else shares its upstream.
#[test]
fn a_drain_waits_for_those_only_who_are_owed_something() {
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let mut idle: Vec<_> = (0..10).map(|_| ambassador.connect(LINK)).collect();
    for client in &mut idle {
        client.send(b"SET k v\r\n");
        client.expect(b"+OK\r\n");
    }
    let mut inside = ambassador.connect(LINK);
    inside.send(b"MULTI\r\nGET k\r\n");
    inside.expect(b"+OK\r\n+QUEUED\r\n");
    ambassador.signal(Signal::TERM);
    for client in &mut idle {
        client.expect_end();
    }
    inside.send(b"EXEC\r\n");
    inside.expect(b"*1\r\n$1\r\nv\r\n");
    inside.expect_end();
    drop((idle, inside));
    assert_eq!(ambassador.finish().code, Some(0));
}

/// Replies that the server has not finished, or not begun, arrive whole: each client leaves behind its last one.
#[test]
fn a_drain_waits_for_replies_in_flight() {
    let target = Target::start();
    let ambassador = sharing(Launch::redis(target.address()).variable("REDIS_AUTH", "secret"), 1, 1).start();
    let mut upstream = None;
    let mut clients: Vec<_> = (0..4)
        .map(|number| {
            let mut client = ambassador.connect(LINK);
            let upstream = upstream.get_or_insert_with(|| target.accept_authenticated());
            let said = format!("SET k {number}\r\nHGETALL {number}\r\n");
            client.send(said.as_bytes());
            upstream.expect(said.as_bytes());
            client
        })
        .collect();
    let mut upstream = upstream.expect("a shared upstream");
    let heard = |number: usize| format!("+OK\r\n*2\r\n$1\r\na\r\n$1\r\n{number}\r\n");
    let all: String = (0..clients.len()).map(heard).collect();
    // All but a part of the third one's.
    let (begin, rest) = all.split_at(2 * heard(0).len() + 12);
    ambassador.signal(Signal::TERM);
    ambassador.wait_for("draining");
    for client in &mut clients {
        client.expect_silence(STALL);
    }
    upstream.send(begin.as_bytes());
    for (number, client) in clients.iter_mut().enumerate().take(2) {
        client.expect(heard(number).as_bytes());
        client.expect_end();
    }
    clients[3].expect_silence(STALL);
    upstream.send(rest.as_bytes());
    for (number, client) in clients.iter_mut().enumerate().skip(2) {
        client.expect(heard(number).as_bytes());
        client.expect_end();
    }
    drop(clients);
    assert_eq!(ambassador.finish().code, Some(0));
}

/// Fifty that share two upstreams, and a server that is restarted under them: readers have no error, and a writer at most
/// one, of what was on its way.
#[test]
fn a_restart_costs_nothing_but_the_writes_that_were_under_way() {
    for crashes in [false, true] {
        let password = password();
        let Some(mut server) = RedisServer::start(&format!("requirepass {password}")) else { return };
        let launch = Launch::redis(server.address())
            .variable("REDIS_AUTH", &password)
            // A machine under load is no reason to fail.
            .variable("REDIS_CONNECT_TIMEOUT", "15s");
        let ambassador = sharing(launch, 1, 2).start();
        let mut load = fifty(&ambassador);
        assert!(upstreams(&ambassador, "shared") > 0);
        let ended = if crashes {
            server.stop();
            std::time::Instant::now()
        } else {
            server.shut_down(&password)
        };
        // How long it takes is what this is about.
        thread::sleep(DOWN);
        server.start_again();
        load.goes_on();
        expect_little(&mut load, ended);
        // RESP2 and RESP3, of two threads.
        assert!(upstreams(&ambassador, "shared") <= 2 * 2);
    }
}

/// Upstreams that are cut while nothing is owed cost nobody anything.
#[test]
fn a_cut_between_two_commands_costs_nothing() {
    let Some((server, ambassador, password)) = real("", 1, 1) else { return };
    let mut clients: Vec<_> = (0..50).map(|_| ambassador.connect(LINK)).collect();
    for round in 0..5 {
        for (number, client) in clients.iter_mut().enumerate() {
            let database = number % 3;
            client.send(format!("SELECT {database}\r\nSET k:{number} {round}\r\n").as_bytes());
            client.expect(b"+OK\r\n+OK\r\n");
        }
        server.cut(&password);
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("INCR k:{number}\r\nGET k:{number}\r\n").as_bytes());
            client.expect(format!(":{next}\r\n$1\r\n{next}\r\n", next = round + 1).as_bytes());
        }
    }
}

/// A page of PHP makes a connection for every request, and authenticates on it: the server hears none of that but what
/// the shared upstreams need.
#[test]
fn the_server_hears_no_auth_of_clients_that_come_and_go() {
    const SHARED: usize = 2;
    const REQUESTS: usize = 100;
    let [secret, own] = [password(), password()];
    for client_auth in ["absorb", "require"] {
        let Some(server) = RedisServer::start(&format!("requirepass {secret}")) else { return };
        let mut launch = Launch::redis(server.address())
            .variable("REDIS_AUTH", &secret)
            .variable("REDIS_CLIENT_AUTH", client_auth);
        if client_auth == "require" {
            launch = launch.variable("REDIS_CLIENT_PASSWORD", &own);
        }
        let ambassador = sharing(launch, SHARED, 1).start();
        let before = [server.calls(&secret, "auth"), connections(&server, &secret)];
        for number in 0..REQUESTS {
            let mut client = ambassador.connect(LINK);
            work_as_php(&mut client, &own, number);
        }
        let after = [server.calls(&secret, "auth"), connections(&server, &secret)];
        for ((what, before), after) in ["AUTH", "connections"].into_iter().zip(before).zip(after) {
            // The administrator came twice more at most.
            let more = after - before;
            assert!(more <= 2 * SHARED + 2, "{more} {what} with {client_auth}");
        }
    }
}

/// The same of phpredis itself, whose pages are in a database of their own.
#[test]
fn the_server_hears_no_auth_of_php_pages_that_connect_for_every_request() {
    const REQUESTS: usize = 100;
    if !has_php() {
        return;
    }
    let secret = password();
    let Some(server) = RedisServer::start(&format!("requirepass {secret}")) else { return };
    let launch = Launch::redis(server.address())
        .variable("REDIS_AUTH", &secret)
        .variable("REDIS_CLIENT_AUTH", "absorb");
    let ambassador = sharing(launch, 1, 1).start();
    let page = own_address();
    let _pages = php(page, ambassador.address(LINK), "connect");
    for number in 0..REQUESTS {
        assert_eq!(get(page, &format!("/?number={number}")).body, "ok", "request {number}");
    }
    assert_eq!(counted(&ambassador, &format!("connections_accepted_total{{link=\"{LINK}\"}}")), REQUESTS);
    // One for each of the two databases, one for SELECT, and the administrator's.
    let auths = server.calls(&secret, "auth");
    assert!(auths <= 4, "{auths} AUTH of {REQUESTS} requests");
}

/// As one of them: in one write or in two, with an end of its own or without.
fn work_as_php(client: &mut Peer, own: &str, number: usize) {
    let work = format!("SET k:{number} v\r\nGET k:{number}\r\n");
    match number % 4 {
        0 | 1 => {
            client.send(format!("AUTH {own}\r\n").as_bytes());
            client.expect(b"+OK\r\n");
            client.send(work.as_bytes());
        }
        _ => {
            client.send(format!("AUTH default {own}\r\n{work}").as_bytes());
            client.expect(b"+OK\r\n");
        }
    }
    client.expect(b"+OK\r\n$1\r\nv\r\n");
    if number.is_multiple_of(2) {
        client.send(b"QUIT\r\n");
        client.expect(b"+OK\r\n");
        client.expect_end();
    }
}

/// How many connections the server has ever had.
pub(super) fn connections(server: &RedisServer, password: &str) -> usize {
    let mut administrator = server.administrator(password);
    let stats: String = redis::cmd("INFO").arg("stats").query(&mut administrator).expect("INFO");
    let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    line.and_then(|count| count.trim().parse().ok()).expect("a number")
}
