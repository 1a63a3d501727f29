//! Targets that move under hundreds of busy clients.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Connection, RedisResult};

use super::{LINK, PACE, exchanges};
use crate::support::{Ambassador, Launch, Load, NameServer, RedisServer, eventually};

/// Clients that are busy, and as many that say something now and then.
const BUSY: usize = 150;
const QUIET: usize = 50;

/// Two servers at one port, each with a `place` that tells which one it is.
fn two() -> Option<[RedisServer; 2]> {
    let first = RedisServer::start("")?;
    let second = first.start_beside("")?;
    for (place, server) in [&first, &second].into_iter().enumerate() {
        redis::cmd("SET").arg("place").arg(place).exec(&mut server.administrator("")).expect("a value");
    }
    Some([first, second])
}

/// Reads the place, which never is one that the client has left already.
fn look(
    places: &Arc<Mutex<Vec<usize>>>,
) -> impl Fn(&mut Connection, usize, usize) -> RedisResult<()> + use<> {
    let places = Arc::clone(places);
    move |connection, client, _| {
        let place: usize = redis::cmd("GET").arg("place").query(connection)?;
        let mut places = places.lock().expect("places");
        assert!(place >= places[client], "client {client} is back at the old place");
        places[client] = place;
        Ok(())
    }
}

/// Moves hundreds of clients from the first server to the second one; nobody has an error.
#[track_caller]
fn move_under_load(servers: &[RedisServer; 2], ambassador: &Ambassador, begin: impl FnOnce()) {
    let places = Arc::new(Mutex::new(vec![0; BUSY + QUIET]));
    let mut load = Load::on(ambassador.address(LINK));
    load.add("busy", BUSY, PACE, look(&places));
    let quiet: Vec<_> = (0..QUIET).map(|_| ambassador.connect(LINK)).collect();
    load.goes_on();
    let arrivals = Arrivals::count(&servers[1]);
    begin();
    eventually("everybody at the new place", || {
        places.lock().expect("places").iter().take(BUSY).all(|place| *place == 1)
    });
    let most = arrivals.most_in_a_tenth_of_a_second();
    // A thousand a second is the pace, where the grace allows it.
    assert!(most <= 150, "{most} of {BUSY} arrived within a tenth of a second");
    load.goes_on();
    let mut old = servers[0].administrator("");
    for mut client in quiet {
        client.send(b"GET place\r\n");
        client.expect(b"$1\r\n1\r\n");
    }
    servers[0].wait_until_alone(&mut old);
    load.expect_no_failure();
}

/// How many connections a server has had, and when.
struct Arrivals {
    seen: Arc<Mutex<Vec<(Instant, usize)>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Arrivals {
    fn count(server: &RedisServer) -> Self {
        let mut administrator = server.administrator("");
        let (seen, stopped) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let thread = thread::spawn({
            let (seen, stopped) = (Arc::clone(&seen), Arc::clone(&stopped));
            move || {
                while !stopped.load(Ordering::Relaxed) {
                    let info: String =
                        redis::cmd("INFO").arg("stats").query(&mut administrator).expect("INFO");
                    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
                    let count = line.and_then(|count| count.trim().parse().ok()).expect("a number");
                    seen.lock().expect("a list").push((Instant::now(), count));
                    thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Self { seen, stopped, thread: Some(thread) }
    }

    fn most_in_a_tenth_of_a_second(mut self) -> usize {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.take().expect("a thread").join().expect("counts");
        let seen = self.seen.lock().expect("a list");
        let within = |(begun, count): &(Instant, usize)| {
            let mut later = seen.iter().rev();
            let last = later.find(|(at, _)| *at <= *begun + Duration::from_millis(100)).expect("itself");
            last.1 - count
        };
        seen.iter().map(within).max().unwrap_or_default()
    }
}

/// A name that leads somewhere else.
#[test]
fn a_name_moves_under_hundreds_of_busy_clients() {
    let Some(ambassador) = a_name_moves(|launch| launch) else { return };
    assert!(exchanges(&ambassador, "moved") >= BUSY);
}

/// The same of a link with more settings.
pub(crate) fn a_name_moves(change: impl FnOnce(Launch) -> Launch) -> Option<Ambassador> {
    let servers = two()?;
    let [first, second] = servers.each_ref().map(RedisServer::address);
    let dns = NameServer::start();
    dns.addresses("redis.test", &[first.ip()]);
    let launch = Launch::redis(format!("redis.test:{}", first.port()))
        .variable("AMBASSADOR_DNS", dns.address().to_string());
    let ambassador = change(launch).start();
    move_under_load(&servers, &ambassador, || dns.addresses("redis.test", &[second.ip()]));
    Some(ambassador)
}

/// An SRV record that names another target.
#[test]
fn a_service_record_moves_under_hundreds_of_busy_clients() {
    let Some(ambassador) = a_service_record_moves(|launch| launch) else { return };
    assert!(exchanges(&ambassador, "moved") >= BUSY);
}

/// The same of a link with more settings.
pub(crate) fn a_service_record_moves(change: impl FnOnce(Launch) -> Launch) -> Option<Ambassador> {
    let servers = two()?;
    let [first, second] = servers.each_ref().map(RedisServer::address);
    let dns = NameServer::start();
    dns.addresses("first.test", &[first.ip()]);
    dns.addresses("second.test", &[second.ip()]);
    dns.services("_redis._tcp.test", &[(0, 0, first.port(), "first.test")]);
    let launch = Launch::redis("unused")
        .variable("REDIS_PORT_6379_TCP", "redis+srv://_redis._tcp.test")
        .variable("AMBASSADOR_DNS", dns.address().to_string());
    let ambassador = change(launch).start();
    move_under_load(&servers, &ambassador, || {
        dns.services("_redis._tcp.test", &[(0, 0, second.port(), "second.test")]);
    });
    Some(ambassador)
}

/// A line of a file.
#[test]
fn a_line_of_a_file_moves_under_hundreds_of_busy_clients() {
    let Some(ambassador) = a_line_of_a_file_moves(|launch| launch) else { return };
    assert!(exchanges(&ambassador, "moved") >= BUSY);
}

/// The same of a link with more settings.
pub(crate) fn a_line_of_a_file_moves(change: impl FnOnce(Launch) -> Launch) -> Option<Ambassador> {
    let servers = two()?;
    let [first, second] = servers.each_ref().map(RedisServer::address);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("backends");
    fs::write(&path, format!("{first}\n")).expect("a file");
    let launch =
        Launch::redis("unused").variable("REDIS_PORT_6379_TCP", format!("redis+file://{}", path.display()));
    let ambassador = change(launch).start();
    move_under_load(&servers, &ambassador, || {
        let next = directory.path().join("next");
        fs::write(&next, format!("{second}\n")).expect("a file");
        fs::rename(next, &path).expect("a rename");
    });
    Some(ambassador)
}
