//! Thousands of clients.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::Connection;

use super::{LINK, sharing, upstreams};
use crate::sessions::counted;
use crate::support::{Launch, PATIENCE, Peer, RedisServer, password};

const THREADS: usize = 2;

/// Groups of clients, each on a thread of its own.
const GROUPS: usize = 10;

/// How many clients are in each; in the long run `SHARING_CLIENTS` says how many there are in all.
fn clients_each() -> usize {
    let all =
        std::env::var("SHARING_CLIENTS").map_or(1000, |text| text.parse().expect("a number of clients"));
    all / GROUPS
}

/// In how many parts a second all clients have their turn.
const PARTS: usize = 20;

/// Some of the clients, each of which says something once a second.
struct Group(Vec<Peer>, usize);

impl Group {
    fn connect(address: SocketAddr, count: usize, number: usize) -> Self {
        Self((0..count).map(|_| Peer::connect(address)).collect(), number)
    }

    /// One after the other has its turn and says something about a key of its own: what it hears is its own.
    fn round(&mut self, round: usize) {
        let begun = Instant::now();
        let each = self.0.len().div_ceil(PARTS).max(1);
        for (part, clients) in self.0.chunks_mut(each).enumerate() {
            let key = |at: usize| format!("{}:{}", self.1, part * each + at);
            for (at, client) in clients.iter_mut().enumerate() {
                let said = match round % 3 {
                    0 => format!("SET {} {round}\r\n", key(at)),
                    1 => format!("INCR {}\r\n", key(at)),
                    _ => format!("ECHO {}\r\n", key(at)),
                };
                client.send(said.as_bytes());
            }
            for (at, client) in clients.iter_mut().enumerate() {
                let heard = match round % 3 {
                    0 => "+OK\r\n".to_owned(),
                    1 => format!(":{round}\r\n"),
                    _ => format!("${}\r\n{}\r\n", key(at).len(), key(at)),
                };
                client.expect(heard.as_bytes());
            }
            // Once a second is what this is about.
            let next = Duration::from_secs(1) * u32::try_from(part + 1).expect("a few")
                / u32::try_from(PARTS).expect("a few");
            thread::sleep(next.saturating_sub(begun.elapsed()));
        }
    }
}

/// How many connections the server has beside this one.
fn connections(administrator: &mut Connection) -> usize {
    let info: String = redis::cmd("INFO").arg("clients").query(administrator).expect("INFO");
    let line = info.lines().find_map(|line| line.strip_prefix("connected_clients:"));
    line.and_then(|count| count.trim().parse::<usize>().ok()).expect("a number") - 1
}

/// Each sends a command a second: there are never more upstreams than two a thread, and every reply is right. And when all
/// have been quiet for a while there is none.
#[test]
fn thousands_of_clients_need_a_few_connections_and_none_when_they_are_quiet() {
    const ROUNDS: usize = 6;
    const RELEASE_AFTER: Duration = Duration::from_secs(3);
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}\nmaxclients 200")) else { return };
    let mut administrator = server.administrator(&password);
    let launch = Launch::redis(server.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_RELEASE_AFTER", format!("{}s", RELEASE_AFTER.as_secs()));
    let ambassador = sharing(launch, 2, THREADS).start();
    let address = ambassador.address(LINK);
    let each = clients_each();
    let is_over = AtomicBool::new(false);
    let (most, groups) = thread::scope(|scope| {
        let groups: Vec<_> = (0..GROUPS)
            .map(|number| {
                scope.spawn(move || {
                    let mut group = Group::connect(address, each, number);
                    (0..ROUNDS).for_each(|round| group.round(round));
                    group
                })
            })
            .collect();
        let watching = scope.spawn(|| {
            let mut most = [0, 0];
            while !is_over.load(Ordering::Relaxed) {
                let now = [connections(&mut administrator), upstreams(&ambassador, "shared")];
                most = [most[0].max(now[0]), most[1].max(now[1])];
                thread::sleep(Duration::from_millis(50));
            }
            most
        });
        let groups: Vec<_> = groups.into_iter().map(|group| group.join().expect("clients")).collect();
        is_over.store(true, Ordering::Relaxed);
        (watching.join().expect("a watcher"), groups)
    });
    println!("{} clients: at most {} connections, {} of them shared", GROUPS * each, most[0], most[1]);
    assert!(most.iter().all(|most| (1..=2 * THREADS).contains(most)), "{most:?} connections and upstreams");
    // What is left is kept for half a minute for who comes next.
    let deadline = Instant::now() + 3 * PATIENCE;
    while connections(&mut administrator) > 0 {
        assert!(Instant::now() < deadline, "{} connections are left", connections(&mut administrator));
        thread::sleep(Duration::from_millis(50));
    }
    let kinds = ["own", "shared", "lent", "ready"];
    assert_eq!(kinds.map(|kind| upstreams(&ambassador, kind)), [0; 4]);
    assert_eq!(counted(&ambassador, &format!("connections_active{{link=\"{LINK}\"}}")), GROUPS * each);
    // Each finds all as it was.
    for mut group in groups {
        for round in ROUNDS..ROUNDS + 3 {
            group.round(round);
        }
    }
    assert!(connections(&mut administrator) <= 2 * THREADS);
}
