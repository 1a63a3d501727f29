//! Clients of every kind at the same time, of which some vanish, and upstreams that are killed: nobody reads what is
//! another's.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::story::{DATABASES, Heard, KEYS, Said, Story};
use super::wire::{Trouble, Wire, show};
use super::{LINK, real, sharing, upstreams, upstreams_or_none};
use crate::sessions::counted;
use crate::support::{Ambassador, Dice, Launch, RedisServer, eventually, random};

/// Clients that stay and take every reply.
const CLIENTS: usize = 100;

/// Clients that come and vanish.
const VANDALS: usize = 10;

/// How long there is between two upstreams that are killed.
const BETWEEN_KILLS: Duration = Duration::from_millis(30);

/// How long a server sleeps before some of these, so that there is something to do when it awakes.
const SLEEP: Duration = Duration::from_millis(3);

/// How long it goes on. In the long run `SHARING_SECONDS` says so.
fn time() -> Duration {
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    let usual = if in_ci { 20 } else { 5 };
    let seconds = std::env::var("SHARING_SECONDS").map_or(usual, |text| text.parse().expect("seconds"));
    Duration::from_secs(seconds)
}

/// The same stories each time; in the long run others.
fn seed() -> u64 {
    if let Ok(seed) = std::env::var("SHARING_SEED") {
        return seed.parse().expect("a number");
    }
    if std::env::var_os("SHARING_SECONDS").is_some() { random() } else { 17 }
}

/// What all of them have to do with.
#[derive(Default)]
struct Stage {
    seed: u64,
    /// Whether there is no ambassador: a server that hears the end of a stream forgets what it owes.
    is_direct: bool,
    stopped: AtomicBool,
    wrong: Mutex<Vec<String>>,
    /// The names of clients that are no more, whose keys may go.
    left: Mutex<Vec<String>>,
    rounds: AtomicUsize,
    /// Connections that were lost, as they may be while a write is under way.
    lost: AtomicUsize,
    kills: AtomicUsize,
}

impl Stage {
    fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn fail(&self, what: String) {
        lock(&self.wrong).push(what);
        self.end();
    }

    #[track_caller]
    fn expect_nothing_wrong(&self) {
        let wrong = lock(&self.wrong);
        if let Some(first) = wrong.first() {
            panic!(
                "{} clients heard something wrong (SHARING_SEED={}), first of all {first}",
                wrong.len(),
                self.seed
            );
        }
    }
}

fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client, its story, and its connection.
struct Member<'a> {
    stage: &'a Stage,
    number: usize,
    address: SocketAddr,
    story: Story,
    lives: usize,
    wire: Option<Wire>,
    /// What changes things behind this client's back, or has something for it.
    helper: Option<Wire>,
    /// Batches before this one, for a person to read.
    said: VecDeque<String>,
    rounds: usize,
}

/// The connection is lost, as it may be.
struct Lost;

impl<'a> Member<'a> {
    fn new(stage: &'a Stage, number: usize, address: SocketAddr) -> Self {
        // Seeds that are near to each other have numbers that are so too, at first.
        let seed = (stage.seed + number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self {
            stage,
            number,
            address,
            story: Story::new(format!("{number}.0"), Dice::new(seed)),
            lives: 0,
            wire: None,
            helper: None,
            said: VecDeque::new(),
            rounds: 0,
        }
    }

    /// Works until all is over, and says how many rounds it has done.
    fn work(mut self, at_most: usize) -> usize {
        while !self.stage.is_over() && self.rounds < at_most {
            if self.round().is_err() {
                self.stage.lost.fetch_add(1, Ordering::Relaxed);
                self.begin_again();
            }
            self.rounds += 1;
            self.stage.rounds.fetch_add(1, Ordering::Relaxed);
        }
        self.rounds
    }

    /// The same for one that vanishes again and again.
    fn vanish_again_and_again(mut self) {
        while !self.stage.is_over() {
            // It may be lost before.
            let _ = self.vanish();
            self.begin_again();
        }
    }

    /// Nobody knows what became of the last words: this client has other keys from now on.
    fn begin_again(&mut self) {
        self.wire = None;
        self.helper = None;
        self.lives += 1;
        lock(&self.stage.left).push(self.story.name.clone());
        self.story.begins_again(format!("{}.{}", self.number, self.lives));
    }

    fn round(&mut self) -> Result<(), Lost> {
        match self.story.dice.below(100) {
            0..88 => {
                let batch = self.story.batch();
                self.perform(&batch)
            }
            88..91 => self.wait_for_another(),
            91..94 => self.hear_a_message(),
            94..96 => self.be_too_late(),
            ends => {
                let mut batch = self.story.batch();
                let quits = ends < 98 || self.stage.is_direct;
                if quits {
                    batch.push(self.story.quit());
                }
                self.say(&batch);
                if !quits {
                    self.wire().finish_sending();
                }
                self.take(&batch)?;
                self.expect_end();
                Ok(())
            }
        }
    }

    fn wire(&mut self) -> &mut Wire {
        if self.wire.is_none() {
            self.wire = Some(Wire::connect(self.address));
        }
        self.wire.as_mut().expect("a connection")
    }

    /// All at once, cut somewhere.
    fn say(&mut self, batch: &[Said]) {
        const KEPT: usize = 3;
        let parts: Vec<_> = batch.iter().map(|said| format!("      {}", show(&said.bytes))).collect();
        self.said.push_back(parts.join("\n"));
        if self.said.len() > KEPT {
            self.said.pop_front();
        }
        let bytes: Vec<u8> = batch.iter().flat_map(|said| said.bytes.iter().copied()).collect();
        let mut dice = Dice::new(self.story.dice.next());
        self.wire().say_cut(&bytes, &mut dice);
    }

    fn perform(&mut self, batch: &[Said]) -> Result<(), Lost> {
        self.say(batch);
        self.take(batch)
    }

    /// Takes every reply.
    fn take(&mut self, batch: &[Said]) -> Result<(), Lost> {
        for (at, said) in batch.iter().enumerate() {
            for expected in &said.heard {
                // What was under way, and not answered, may have been executed.
                let may_end = self.story.is_pinned || batch[at..].iter().any(|said| !said.only_reads);
                let what = || format!("to {}", show(&said.bytes));
                self.hear(expected, may_end, what)?;
            }
        }
        Ok(())
    }

    /// Takes one reply, or whatever it is. A connection that ends is no failure where `may_end`.
    fn hear(&mut self, expected: &Heard, may_end: bool, what: impl Fn() -> String) -> Result<(), Lost> {
        let heard = self.wire().hear();
        let heard = match heard {
            Ok(reply) if expected.is(&reply) => return Ok(()),
            Ok(reply) => show(&reply),
            // A reply that has begun can't be begun again.
            Err(Trouble::Over { amid }) if amid || may_end => return Err(Lost),
            Err(Trouble::Over { .. }) => "the end".to_owned(),
            Err(Trouble::Silence(before)) => format!("nothing any more after {before:?}"),
            Err(Trouble::Nonsense(bytes)) => format!("no reply but {bytes}"),
        };
        self.fail(&format!("heard {heard}\n    {}, instead of {}", what(), expected.show()));
        Err(Lost)
    }

    fn fail(&self, what: &str) {
        let said: Vec<_> = self.said.iter().map(String::as_str).collect();
        let story = &self.story;
        self.stage.fail(format!(
            "{} in RESP{} and database {} {what},\n    having said at last\n{}",
            story.name,
            story.protocol,
            story.database,
            said.join("\n    and\n")
        ));
    }

    /// All replies were there, and nothing comes behind them.
    fn expect_end(&mut self) {
        match self.wire().hear() {
            Err(Trouble::Over { amid: false }) => {}
            other => self.fail(&format!("heard {other:?} instead of the end")),
        }
        self.wire = None;
        self.story.comes_again();
    }

    /// Has another client do something in this one's database; it is `None` where that is lost.
    fn help(&mut self, words: &[&[u8]]) -> Result<Vec<u8>, Lost> {
        let helper = self.helper.get_or_insert_with(|| Wire::connect(self.address));
        let select = format!("SELECT {}\r\n", self.story.database);
        helper.say(&[select.as_bytes(), &crate::support::command(words)].concat());
        let heard = helper.hear().and_then(|selected| Ok((selected, helper.hear()?)));
        match heard {
            Ok((selected, reply)) if selected == b"+OK\r\n" => return Ok(reply),
            Err(Trouble::Over { .. }) => {}
            other => self.fail(&format!("'s helper heard {other:?} to {}", show(words[0]))),
        }
        Err(Lost)
    }

    fn expect_help(&mut self, words: &[&[u8]], expected: &[u8]) -> Result<(), Lost> {
        let reply = self.help(words)?;
        if reply == expected {
            return Ok(());
        }
        self.fail(&format!("'s helper heard {} to {}", show(&reply), show(words[0])));
        Err(Lost)
    }

    /// A client that blocks until another one has something for it.
    fn wait_for_another(&mut self) -> Result<(), Lost> {
        let value = self.story.value();
        let queue = self.story.key("queue");
        let batch = self.story.wait_for(&value);
        self.say(&batch);
        self.expect_help(&[b"RPUSH", queue.as_bytes(), &value], b":1\r\n")?;
        self.take(&batch)
    }

    /// A client that subscribes, and another one that publishes.
    fn hear_a_message(&mut self) -> Result<(), Lost> {
        let channel = self.story.key("channel");
        let value = self.story.value();
        let subscribe = [self.story.say_to_channel("SUBSCRIBE", &channel, 1)];
        self.perform(&subscribe)?;
        let message = Heard::This(self.story.message(&channel, &value));
        let count = self.help(&[b"PUBLISH", channel.as_bytes(), &value])?;
        match &count[..] {
            b":1\r\n" => self.hear(&message, true, || "as a message".to_owned())?,
            // It was cut before.
            b":0\r\n" => {
                let heard = self.wire().hear();
                if !matches!(heard, Err(Trouble::Over { .. })) {
                    self.fail(&format!("heard {heard:?} of a subscription that nobody has"));
                }
                return Err(Lost);
            }
            other => self.fail(&format!("'s helper has published, and heard {}", show(other))),
        }
        let unsubscribe = [self.story.say_to_channel("UNSUBSCRIBE", &channel, 0)];
        self.say(&unsubscribe);
        self.hear(&unsubscribe[0].heard[0], true, || "at the end".to_owned())
    }

    /// A transaction that has to fail, because another client has changed what is watched.
    fn be_too_late(&mut self) -> Result<(), Lost> {
        let value = self.story.value();
        let key = self.story.key("text:2");
        let [watch, batch] = self.story.is_too_late(&value);
        self.say(&watch);
        self.hear(&watch[0].heard[0], true, || "to WATCH".to_owned())?;
        self.expect_help(&[b"SET", key.as_bytes(), &value], b"+OK\r\n")?;
        self.say(&batch);
        self.take(&batch)
    }

    /// Leaves in the midst of a command or of a reply.
    fn vanish(&mut self) -> Result<(), Lost> {
        for _ in 0..self.story.dice.below(3) {
            let batch = self.story.batch();
            self.perform(&batch)?;
        }
        let batch = self.story.batch();
        let [resets, is_all] = [(); 2].map(|()| self.story.dice.percent(50));
        let mut awaited = batch.iter().flat_map(|said| &said.heard);
        if is_all {
            self.say(&batch);
            for expected in awaited.by_ref().take(self.story.dice.below(3)) {
                self.hear(expected, true, || "as one that vanishes".to_owned())?;
            }
        } else {
            let bytes: Vec<u8> = batch.iter().flat_map(|said| said.bytes.iter().copied()).collect();
            let part = self.story.dice.below(bytes.len() + 1);
            self.wire().say(&bytes[..part]);
        }
        let bytes = if self.story.dice.percent(50) { 0 } else { self.story.dice.below(100_000) };
        // Where no reply has to come it would wait for ever.
        let is_answered = awaited.next().is_some();
        let bytes = if is_answered && is_all { bytes } else { 0 };
        self.wire.take().expect("a connection").vanish(bytes, resets);
        Ok(())
    }
}

/// Kills upstreams, one after the other, and clears away what clients have left behind.
fn kill(stage: &Stage, server: &RedisServer, password: &str) {
    let mut administrator = server.administrator(password);
    let mut dice = Dice::new(stage.seed);
    while !stage.is_over() {
        thread::sleep(BETWEEN_KILLS);
        let left = std::mem::take(&mut *lock(&stage.left));
        for database in DATABASES {
            let keys = left.iter().flat_map(|name| KEYS.map(|key| format!("{name}:{key}")));
            let keys: Vec<_> = keys.collect();
            if !keys.is_empty() {
                let mut pipeline = redis::pipe();
                pipeline.cmd("SELECT").arg(database).cmd("UNLINK").arg(keys);
                pipeline.exec(&mut administrator).expect("keys that may go");
            }
        }
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut administrator).expect("CLIENT LIST");
        let ids: Vec<_> = list.lines().filter_map(ripe).collect();
        if ids.is_empty() {
            continue;
        }
        let id = dice.one_of(&ids);
        let kill = redis::cmd("CLIENT").arg(&["KILL", "ID", id]).get_packed_command();
        // A server that has slept finds commands and the end of who has sent them at the same time: it executes the ones,
        // and has no time to answer before the other.
        let sleeps = dice.percent(50);
        if sleeps {
            server.signal(Signal::STOP);
            thread::sleep(SLEEP);
        }
        administrator.send_packed_command(&kill).expect("a connection");
        if sleeps {
            server.signal(Signal::CONT);
        }
        let killed = administrator.recv_response().expect("a number");
        let killed: usize = redis::from_redis_value(killed).expect("a number");
        stage.kills.fetch_add(killed, Ordering::Relaxed);
    }
}

/// The number of a connection that may be killed: it is no administrator's, and is not being made, which would be the
/// new client's failure.
fn ripe(line: &str) -> Option<&str> {
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let is_young = field("age")? == "0";
    (!is_young && field("cmd")? != "client|list").then(|| field("id"))?
}

/// All of them at once at these addresses, for a while.
fn let_loose(
    stage: &Stage,
    server: &RedisServer,
    password: &str,
    addresses: &[SocketAddr],
    watch: impl Fn() + Sync,
) {
    let address = |number: usize| addresses[number % addresses.len()];
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || Member::new(stage, number, address(number)).work(usize::MAX)))
            .collect();
        for number in CLIENTS..CLIENTS + VANDALS {
            scope.spawn(move || Member::new(stage, number, address(number)).vanish_again_and_again());
        }
        scope.spawn(|| kill(stage, server, password));
        let end = Instant::now() + time();
        while Instant::now() < end && !stage.is_over() {
            watch();
            thread::sleep(Duration::from_millis(50));
        }
        stage.end();
        for (number, client) in clients.into_iter().enumerate() {
            let rounds = client.join().expect("a client");
            assert!(rounds > 0, "client {number} has done nothing");
        }
    });
}

/// A hundred clients with random commands of every kind, cut anywhere; some more that vanish in mid-command and mid-reply;
/// and upstreams that are killed. Every reply is the one to what its reader has asked, and a connection is lost with a
/// write only. On one upstream for all, and on two of each of two threads.
#[test]
fn nobody_reads_what_is_anothers() {
    let Some((server, first, password)) = real("maxclients 5000", 1, 1) else { return };
    let launch = Launch::redis(server.address()).variable("REDIS_AUTH", &password);
    let second = sharing(launch, 2, 2).start();
    let both = [&first, &second];
    let stage = Stage::new(seed());
    let most = AtomicUsize::new(0);
    let watch = || {
        let shared: usize = both.iter().filter_map(|each| upstreams_or_none(each, "shared")).sum();
        most.fetch_max(shared, Ordering::Relaxed);
    };
    let_loose(&stage, &server, &password, &both.map(|each| each.address(LINK)), watch);
    stage.expect_nothing_wrong();
    let [rounds, lost, kills, most] =
        [&stage.rounds, &stage.lost, &stage.kills, &most].map(|count| count.load(Ordering::Relaxed));
    println!("{rounds} rounds, {kills} upstreams killed, {lost} connections lost, {most} shared upstreams");
    assert!(kills > 0, "no upstream was killed");
    assert!(most > 0, "nothing was shared");
    // Of each database and each protocol; and one that a slow reader of large replies holds up has a successor already.
    let bound = 2 * (1 + 4) * DATABASES.len() * 2;
    assert!(most <= bound, "{most} shared upstreams, not {bound}");
    for ambassador in both {
        expect_left(ambassador);
    }
}

/// All clients have gone, and nothing of them is left.
#[track_caller]
fn expect_left(ambassador: &Ambassador) {
    eventually("no client is there", || {
        counted(ambassador, &format!("connections_active{{link=\"{LINK}\"}}")) == 0
    });
    eventually("nobody has an upstream", || {
        upstreams(ambassador, "own") == 0 && upstreams(ambassador, "lent") == 0
    });
}

/// What the clients of this test expect is what a server answers that each of them has to itself.
#[test]
fn what_is_awaited_is_what_redis_answers() {
    const ROUNDS: usize = 150;
    let Some(server) = RedisServer::start("") else { return };
    let stage = Stage { is_direct: true, ..Stage::new(seed()) };
    thread::scope(|scope| {
        for number in 0..10 {
            let (stage, address) = (&stage, server.address());
            scope.spawn(move || Member::new(stage, number, address).work(ROUNDS));
        }
    });
    stage.expect_nothing_wrong();
    assert_eq!(stage.lost.load(Ordering::Relaxed), 0);
}
