//! Many clients at work at the same time, which note all that goes wrong.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redis::{Connection, RedisResult};

use super::{PATIENCE, eventually};

/// What a client does in one round; it gets the number of the client and that of the round.
type Job = dyn Fn(&mut Connection, usize, usize) -> RedisResult<()> + Send + Sync;

/// Clients that do their job again and again, each on a connection of its own that it keeps for as long as it can.
pub(crate) struct Load {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    clients: Vec<Client>,
}

struct Client {
    name: &'static str,
    record: Arc<Record>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Record {
    rounds: AtomicUsize,
    connections: AtomicUsize,
    /// Since when it waits for an answer.
    waits: Mutex<Option<Instant>>,
    done: Mutex<Vec<Round>>,
    failures: Mutex<Vec<Failure>>,
}

/// A round that was answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) number: usize,
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
}

/// A round that failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Which client, `reader 3`.
    pub(crate) who: String,
    pub(crate) sent: Instant,
    pub(crate) error: String,
    /// Whether the connection was lost with it.
    pub(crate) is_lost: bool,
}

impl Load {
    /// On this address, which is an ambassador's.
    pub(crate) fn on(address: SocketAddr) -> Self {
        Self { address, stopped: Arc::default(), clients: Vec::new() }
    }

    /// So many more clients, each of which waits for `pause` between two rounds.
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        count: usize,
        pause: Duration,
        job: impl Fn(&mut Connection, usize, usize) -> RedisResult<()> + Send + Sync + 'static,
    ) {
        self.add_with("", name, count, pause, job);
    }

    /// The same with options of the client's, as they stand at the end of its URL.
    pub(crate) fn add_with(
        &mut self,
        options: &str,
        name: &'static str,
        count: usize,
        pause: Duration,
        job: impl Fn(&mut Connection, usize, usize) -> RedisResult<()> + Send + Sync + 'static,
    ) {
        let job: Arc<Job> = Arc::new(job);
        let url = format!("redis://{}/{options}", self.address);
        for number in 0..count {
            let record = Arc::new(Record::default());
            let work = Work {
                who: format!("{name} {number}"),
                number,
                pause,
                client: redis::Client::open(&*url).expect("a URL"),
                job: Arc::clone(&job),
                record: Arc::clone(&record),
                stopped: Arc::clone(&self.stopped),
            };
            let thread = thread::Builder::new().stack_size(512 * 1024).spawn(move || work.go_on());
            self.clients.push(Client { name, record, thread: Some(thread.expect("a thread")) });
        }
    }

    /// Waits until every client has done two more rounds, of which at least one was begun later than now.
    #[track_caller]
    pub(crate) fn goes_on(&self) {
        self.goes_on_but_of(&[]);
    }

    /// The same, but for clients of these names.
    #[track_caller]
    pub(crate) fn goes_on_but_of(&self, names: &[&str]) {
        let clients: Vec<_> = self.clients.iter().filter(|client| !names.contains(&client.name)).collect();
        let before: Vec<_> = clients.iter().map(|client| client.rounds()).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stuck: Vec<_> = clients
                .iter()
                .zip(&before)
                .filter(|(client, before)| client.rounds() < *before + 2)
                .map(|(client, _)| (client.name, lock(&client.record.failures).last().cloned()))
                .collect();
            if stuck.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "these clients don't go on: {stuck:#?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until every client has waited for an answer for so long.
    #[track_caller]
    pub(crate) fn waits_for(&self, time: Duration) {
        let waits = |client: &Client| lock(&client.record.waits).is_some_and(|since| since.elapsed() >= time);
        eventually("every client waits for an answer", || self.clients.iter().all(waits));
    }

    /// The rounds of one of the clients of this name that were answered.
    pub(crate) fn done(&self, name: &str, number: usize) -> Vec<Round> {
        let mut clients = self.clients.iter().filter(|client| client.name == name);
        let client = clients.nth(number).expect("a client");
        lock(&client.record.done).clone()
    }

    /// What went wrong so far.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        self.clients.iter().flat_map(|client| lock(&client.record.failures).clone()).collect()
    }

    /// Ends the work. Whatever went wrong, or where a client needed another connection, the test fails; but for clients
    /// of these names.
    #[track_caller]
    pub(crate) fn expect_no_failure_but_of(&mut self, names: &[&str]) {
        self.stop();
        let is_excepted = |who: &str| names.iter().any(|name| who.starts_with(name));
        let mut failures = self.failures();
        failures.retain(|failure| !is_excepted(&failure.who));
        let first: Vec<_> = failures.iter().take(10).collect();
        assert!(failures.is_empty(), "{} rounds failed, first of all {first:#?}", failures.len());
        let mut clients = self.clients.iter().filter(|client| !is_excepted(client.name));
        assert!(clients.all(|client| client.record.connections.load(Ordering::Relaxed) == 1));
    }

    #[track_caller]
    pub(crate) fn expect_no_failure(&mut self) {
        self.expect_no_failure_but_of(&[]);
    }

    /// Lets all clients finish their round, and waits for them.
    pub(crate) fn stop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for client in &mut self.clients {
            if let Some(thread) = client.thread.take() {
                thread.join().expect("a client");
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for thread in self.clients.iter_mut().filter_map(|client| client.thread.take()) {
            // A panic of its own has been printed already.
            let _ = thread.join();
        }
    }
}

impl Client {
    fn rounds(&self) -> usize {
        self.record.rounds.load(Ordering::Relaxed)
    }
}

struct Work {
    who: String,
    number: usize,
    pause: Duration,
    client: redis::Client,
    job: Arc<Job>,
    record: Arc<Record>,
    stopped: Arc<AtomicBool>,
}

impl Work {
    fn go_on(&self) {
        let mut connection = None;
        for number in 0.. {
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let sent = Instant::now();
            *lock(&self.record.waits) = Some(sent);
            let result = self.round(&mut connection, number);
            *lock(&self.record.waits) = None;
            match result {
                Ok(()) => {
                    lock(&self.record.done).push(Round { number, sent, answered: Instant::now() });
                    self.record.rounds.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let is_lost = error.is_io_error() || connection.as_ref().is_none_or(is_broken);
                    if is_lost {
                        connection = None;
                    }
                    let error = error.to_string();
                    lock(&self.record.failures).push(Failure { who: self.who.clone(), sent, error, is_lost });
                }
            }
            thread::sleep(self.pause);
        }
    }

    fn round(&self, connection: &mut Option<Connection>, number: usize) -> RedisResult<()> {
        let connection = if let Some(connection) = connection {
            connection
        } else {
            let fresh = self.client.get_connection_with_timeout(PATIENCE)?;
            fresh.set_read_timeout(Some(PATIENCE))?;
            self.record.connections.fetch_add(1, Ordering::Relaxed);
            connection.insert(fresh)
        };
        (self.job)(connection, self.number, number)
    }
}

fn is_broken(connection: &Connection) -> bool {
    !redis::ConnectionLike::is_open(connection)
}

fn lock<T>(record: &Mutex<T>) -> MutexGuard<'_, T> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The numbers in a list to which a client has appended a larger one each time: none is there twice.
#[track_caller]
pub(crate) fn appended(administrator: &mut Connection, list: &str) -> Vec<usize> {
    let numbers: Vec<usize> =
        redis::cmd("LRANGE").arg(list).arg(&[0, -1]).query(administrator).expect("a list");
    for pair in numbers.windows(2) {
        let [one, next] = pair else { continue };
        assert!(one < next, "{list} has {next} behind {one}: something was executed twice, or late");
    }
    numbers
}
