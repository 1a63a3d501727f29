//! Sessions: clients and the servers that they are led to one after the other, each of which answers as Redis does, command
//! by command, and may break at any time. What was acknowledged was executed, nothing is executed twice, and every reply is
//! the one to its command, whether a client is alone or shares upstreams with others.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::*;
use crate::metrics::Metrics;
use crate::relay::shared::MOST_UNREAD;
use crate::relay::{Driver, Restore, Shared, Way};
use crate::resp;
use crate::resp::commands::{First, LONGEST_TOGETHER, UNLIMITED, first};

/// A command, by the reply that it has.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// A value of so many bytes, full of what looks like other replies.
    Value(usize),
    /// A write with so many bytes in it.
    Write(usize),
    /// A number, after so many milliseconds in which nothing else is answered.
    Blocks(u64),
    /// So many writes, or none at all.
    Transaction(usize),
    Script,
    Select(u8),
    Reset,
    /// What leaves behind nobody knows what.
    Unknown,
}

/// A command's place: the number of its client, and its own.
type Key = (usize, usize);

/// The place of a command that says it.
fn key(words: &[&[u8]]) -> Option<Key> {
    let at = if words.first() == Some(&&b"CLUSTER"[..]) { 2 } else { 1 };
    let (client, number) = std::str::from_utf8(words.get(at)?).ok()?.split_once(':')?;
    Some((client.parse().ok()?, number.parse().ok()?))
}

fn encoded(words: &[&[u8]]) -> Vec<u8> {
    resp::commands(&[words.to_vec()]).expose().to_vec()
}

/// Elements as one array.
fn array(elements: &[Vec<u8>]) -> Vec<u8> {
    [format!("*{}\r\n", elements.len()).into_bytes(), elements.concat()].concat()
}

impl Asked {
    fn command(self, (client, number): Key) -> Vec<u8> {
        let key = format!("{client}:{number}");
        let key = key.as_bytes();
        let value = |length| vec![b'x'; length];
        match self {
            // What is asked about servers.
            Self::Value(length) if length < 1000 && number % 5 == 4 => {
                encoded(&[b"CLUSTER", b"REPLICAS", key])
            }
            Self::Value(_) if number % 3 == 2 => [b"\r\nGET ", key, b"\r\n"].concat(),
            Self::Value(_) => encoded(&[b"GET", key]),
            Self::Write(length) => encoded(&[b"SET", key, &value(length)]),
            Self::Blocks(_) => encoded(&[b"BLPOP", key, b"0"]),
            Self::Transaction(writes) => {
                let write = encoded(&[b"SET", key, b"x"]);
                [encoded(&[b"WATCH", key]), encoded(&[b"MULTI"]), write.repeat(writes), encoded(&[b"EXEC"])]
                    .concat()
            }
            Self::Script => encoded(&[b"EVAL", key, b"0"]),
            Self::Select(database) => encoded(&[b"SELECT", &[b'0' + database]]),
            Self::Reset => encoded(&[b"RESET"]),
            Self::Unknown => encoded(&[b"MODULE.UNKNOWN", key]),
        }
    }

    /// The reply in a database, and behind the client's last write.
    fn reply(self, (client, number): Key, database: u8, last: Option<usize>) -> Vec<u8> {
        let line = format!("+{client}:{number}\r\n").into_bytes();
        match self {
            Self::Value(length) => {
                let name = format!("{client}:{number} in {database} behind {last:?}");
                let filler = &b"+OK\r\n+RESET\r\n$-1\r\n".repeat(length / 16 + 1)[..length];
                let header = format!("${}\r\n{name}", name.len() + length);
                let value = [header.as_bytes(), filler, b"\r\n"].concat();
                match number % 4 {
                    1 => array(&[value, b"$-1\r\n".to_vec(), b"-MOVED 1 h:1\r\n".to_vec(), array(&[line])]),
                    3 if length < 20 => format!("-ERR {name}\r\n").into_bytes(),
                    3 if length < 40 => format!("-MOVED {name}\r\n").into_bytes(),
                    _ => value,
                }
            }
            Self::Write(_) | Self::Script | Self::Unknown => line,
            Self::Transaction(writes) => {
                let queued = b"+QUEUED\r\n".repeat(writes);
                [b"+OK\r\n+OK\r\n", &queued[..], &array(&vec![line; writes])].concat()
            }
            Self::Select(_) => b"+OK\r\n".to_vec(),
            Self::Blocks(_) => format!(":{number}\r\n").into_bytes(),
            Self::Reset => b"+RESET\r\n".to_vec(),
        }
    }

    fn writes(self) -> bool {
        !matches!(self, Self::Value(_) | Self::Select(_) | Self::Reset)
    }
}

#[derive(Debug, Clone)]
struct Client {
    /// What it asks, told from each other by their numbers.
    commands: Vec<Asked>,
    /// How it says that: all of it, or as much as it comes to.
    script: Script,
}

impl Client {
    fn numbered(&self) -> impl Iterator<Item = (usize, Asked)> {
        self.commands.iter().copied().enumerate()
    }

    /// The commands, and the replies to them, of the client of that number.
    fn lines(&self, client: usize) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut database, mut last) = (0, None);
        let both = self.numbered().map(|(number, asked)| {
            match asked {
                Asked::Select(other) => database = other,
                Asked::Reset => database = 0,
                _ => {}
            }
            let reply = asked.reply((client, number), database, last);
            last = if asked.writes() { Some(number) } else { last };
            (asked.command((client, number)), reply)
        });
        both.unzip()
    }
}

/// What a server does behind so many replies.
#[derive(Debug, Clone, Copy)]
struct Fault {
    behind: usize,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// It ends its stream, or breaks.
    Ends { cleanly: bool },
    /// It executes one more command, says so many bytes of the reply, and ends.
    Cuts { said: usize, cleanly: bool },
    /// It does nothing for so many seconds.
    Stalls(u64),
    /// It says this, which nobody has asked for, if its clients share it.
    Spoils(&'static [u8]),
}

const REPLY: &[u8] = b"+spoiled\r\n";
const SPOILS: [&[u8]; 4] =
    [REPLY, b">1\r\n+spoiled\r\n", b"|1\r\n+a\r\n+b\r\n", b"HTTP/1.1 400 Bad Request\r\n"];

#[derive(Debug, Clone)]
struct Story {
    clients: Vec<Client>,
    shares: bool,
    /// Whether what names servers is shown to the owner of each session first.
    retells: bool,
    /// The lines to the servers, one after the other and then from the first again, and what the first servers do.
    lines: Vec<Manners>,
    faults: Vec<Option<Fault>>,
    /// How many connections there are at the most.
    most: usize,
    /// How many milliseconds each dial takes.
    dial: u64,
    /// When all are asked to leave their upstreams, or to end.
    leave: Option<(u64, Reason)>,
    /// When the link's secret changes.
    secret: Option<u64>,
    /// After how many milliseconds an upstream is too old.
    lifetime: Option<u64>,
    /// After how many quiet milliseconds a client gives its upstream back.
    release: Option<u64>,
}

/// All that there is behind the sessions.
struct World {
    story: Story,
    /// What servers have executed.
    executed: Mutex<Vec<Key>>,
    dialled: AtomicUsize,
    /// The upstreams that are shared, by the commands that make their state.
    upstreams: Mutex<HashMap<Vec<u8>, Shared>>,
    dialling: tokio::sync::Mutex<()>,
    handles: Mutex<Vec<Arc<Handle>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

fn key_of(state: &Restore) -> Vec<u8> {
    state.commands().flat_map(|(command, _)| command.iter().copied()).collect()
}

impl World {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().push(tokio::spawn(task));
    }

    fn asked(&self, (client, number): Key) -> Asked {
        self.story.clients[client].commands[number]
    }

    fn handle(&self) -> Arc<Handle> {
        let handle = Arc::new(Handle::default());
        self.handles.lock().push(Arc::clone(&handle));
        handle
    }

    fn limits(&self) -> Limits {
        let now = Instant::now();
        let lifetime = self.story.lifetime.map(|time| now + Duration::from_millis(time));
        let leave = |at| DrainRequest { reason: Reason::Lifetime, from: at, latest: at + GRACE };
        let release_after = self.story.release.map(Duration::from_millis);
        Limits { idle: None, idle_since: now, lifetime: lifetime.map(|at| (at, leave(at))), release_after }
    }

    /// A connection to the next server, in that state.
    async fn dial(self: &Arc<Self>, state: &Restore, is_shared: bool) -> Socket {
        sleep(Duration::from_millis(self.story.dial)).await;
        let number = self.dialled.fetch_add(1, Ordering::Relaxed);
        assert!(number < self.story.most, "there are more connections than there is need for");
        let fault = self.story.faults.get(number).copied().flatten();
        let mut manners = self.story.lines[number % self.story.lines.len()].clone();
        if matches!(fault, Some(Fault { what: What::Spoils(_), .. })) {
            // What it says is heard before anything more is asked.
            manners.reads.clear();
        }
        let (ours, theirs) = line(&manners);
        let mut server = Server { world: Arc::clone(self), is_shared, database: 0, queue: None };
        for (command, _) in state.commands() {
            let First::Command(words, _) = first(command, UNLIMITED) else { unreachable!("it is whole") };
            server.answer(&words.iter().map(|word| &**word).collect::<Vec<_>>());
        }
        self.spawn(server.serve(theirs, fault));
        ours
    }

    /// A seat at an upstream of that state, if there is one.
    fn seat(&self, state: &Restore) -> Option<Way<Socket>> {
        self.upstreams.lock().get(&key_of(state))?.seat().map(Way::Seat)
    }

    /// What a session gets that needs an upstream.
    async fn upstream(self: &Arc<Self>, session: &Session) -> Way<Socket> {
        let Some(state) = session.shared() else {
            return Way::Own(self.dial(&session.restore(), false).await);
        };
        let _dialling = self.dialling.lock().await;
        if let Some(seat) = self.seat(&state) {
            return seat;
        }
        let mut target = self.dial(&state, true).await;
        let key = key_of(&state);
        let (shared, seat) = Shared::new(0, state, 0);
        self.upstreams.lock().insert(key, shared.clone());
        let (mut driver, handle) = (Driver::new(shared, Vec::new(), self.limits().lifetime), self.handle());
        self.spawn(async move {
            poll_fn(|cx| {
                let ended = driver.poll(cx, &mut target, &handle);
                if handle.wants_authentication() {
                    handle.forget_authentication();
                    driver.reauthenticate(AUTH);
                }
                ended
            })
            .await;
        });
        Way::Seat(seat)
    }
}

/// How long who is asked to leave has time for it.
const GRACE: Duration = Duration::from_mins(1);

const AUTH: &[u8] = b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n";

/// One connection of a server.
struct Server {
    world: Arc<World>,
    is_shared: bool,
    database: u8,
    /// The writes of a transaction.
    queue: Option<Vec<Key>>,
}

impl Server {
    fn answer(&mut self, words: &[&[u8]]) -> Vec<u8> {
        match (words[0], key(words)) {
            (b"RESET", _) => (self.database, self.queue) = (0, None),
            (b"SELECT", _) => self.database = words[1][0] - b'0',
            (b"MULTI", _) => self.queue = Some(Vec::new()),
            (b"PING" | b"AUTH" | b"WATCH", _) => {}
            (b"EXEC", _) => {
                let queue = self.queue.take().expect("a transaction");
                self.world.executed.lock().extend(queue.first());
                let lines =
                    queue.iter().map(|(client, number)| format!("+{client}:{number}\r\n").into_bytes());
                return array(&lines.collect::<Vec<_>>());
            }
            (_, Some(key)) if self.queue.is_some() => {
                self.queue.as_mut().expect("a transaction").push(key);
                return b"+QUEUED\r\n".to_vec();
            }
            (_, Some(key)) => {
                let asked = self.world.asked(key);
                let mut executed = self.world.executed.lock();
                let last = executed.iter().rev().find(|(client, _)| *client == key.0);
                let reply = asked.reply(key, self.database, last.map(|(_, number)| *number));
                executed.extend(asked.writes().then_some(key));
                return reply;
            }
            other => panic!("a server heard {other:?}"),
        }
        if words[0] == b"RESET" { b"+RESET\r\n".to_vec() } else { b"+OK\r\n".to_vec() }
    }

    /// Serves as Redis does, up to its end.
    async fn serve(mut self, mut socket: Socket, fault: Option<Fault>) {
        let (mut heard, mut answered) = (Vec::new(), 0);
        loop {
            let due = fault.filter(|fault| fault.behind == answered).map(|fault| fault.what);
            let command: Option<Vec<u8>> = match first(&heard, UNLIMITED) {
                First::Command(_, length) => Some(heard.drain(..length).collect()),
                _ => None,
            };
            match due {
                Some(What::Ends { cleanly }) => return leave(socket, cleanly).await,
                Some(What::Spoils(said)) if self.is_shared && said != REPLY => {
                    return spoil(socket, said).await;
                }
                Some(What::Stalls(seconds)) if command.is_some() => sleep(Duration::from_secs(seconds)).await,
                _ => {}
            }
            let Some(command) = command else {
                // Nobody waits for a reply: that is certain only when nothing has been asked for long.
                let spoils = self.is_shared && matches!(due, Some(What::Spoils(_)));
                let patience = if spoils { Duration::from_secs(10) } else { Duration::MAX };
                match timeout(patience, socket.read_buf(&mut heard)).await {
                    Ok(Ok(1..)) => continue,
                    Ok(_) => return leave(socket, true).await,
                    Err(_) => return spoil(socket, REPLY).await,
                }
            };
            let First::Command(words, length) = first(&command, UNLIMITED) else {
                unreachable!("it is whole")
            };
            let words: Vec<&[u8]> = words.iter().map(|word| &**word).collect();
            let Some(name) = words.first() else { continue };
            let travels = length <= LONGEST_TOGETHER
                && matches!(*name, b"GET" | b"CLUSTER" | b"SET" | b"PING" | b"AUTH");
            // It changes nothing.
            let bears = *name == b"SELECT" && *words[1] == [b'0' + self.database];
            assert!(travels || bears || !self.is_shared, "{} among others", name.escape_ascii());
            let asked = key(&words).map(|key| self.world.asked(key));
            if let (b"BLPOP", Some(Asked::Blocks(time))) = (*name, asked) {
                sleep(Duration::from_millis(time)).await;
            }
            let reply = self.answer(&words);
            if let Some(What::Cuts { said, cleanly }) = due {
                let _ = socket.write_all(&reply[..said.min(reply.len() - 1)]).await;
                return leave(socket, cleanly).await;
            }
            if socket.write_all(&reply).await.is_err() {
                return;
            }
            answered += 1;
        }
    }
}

async fn leave(mut socket: Socket, cleanly: bool) {
    if cleanly {
        let _ = socket.shutdown().await;
    }
}

/// Says what nobody has asked for, and waits for the end.
async fn spoil(mut socket: Socket, said: &[u8]) {
    let _ = socket.write_all(said).await;
    while matches!(socket.read(&mut [0; 4096]).await, Ok(1..)) {}
}

/// Leads a client from one upstream to the next, as a connection does.
async fn lead(world: &Arc<World>, mut client: Socket) -> End {
    let handle = world.handle();
    let metrics = Metrics::new().link("redis:6379");
    let policy = Policy {
        reset: Reset::Renews,
        absorbs: false,
        resends: false,
        patience: Duration::from_secs(5),
        database: 0,
        shares: world.story.shares,
        retells: world.story.retells,
    };
    let mut session = Session::new(Vec::new(), Vec::new(), world.limits(), policy);
    let mut target = Some(world.upstream(&session).await);
    loop {
        let event = poll_fn(|cx| session.poll(cx, &mut client, &mut target, &handle, &metrics.session)).await;
        match event {
            Event::End(end) => {
                if matches!(end, End::Left(_)) {
                    // Whoever does not take a goodbye at once is not waited for.
                    let _ = client.shutdown().now_or_never();
                }
                return end;
            }
            Event::Upstream(_) => {
                let fresh = world.upstream(&session).await;
                session.goes_on_at(true);
                session.attach(b"", world.limits(), &handle);
                target = Some(fresh);
            }
            Event::Share => {
                target = session.shared().and_then(|state| world.seat(&state));
                session.needs_none();
                if target.is_some() {
                    session.goes_on_at(true);
                    session.attach(b"", world.limits(), &handle);
                }
            }
            Event::Reset => session.greeted(b""),
            Event::Reauthenticate => session.reauthenticate(AUTH),
            Event::Names(names) => session.retold(&names.reply),
            Event::SentAway => {}
            Event::Own(_) | Event::AuthRefused | Event::Wait => unreachable!("nothing of the kind was said"),
        }
    }
}

/// Plays a story, and judges what came of it.
fn judge(story: &Story) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let (executed, clients) = runtime.block_on(perform(story));
    for (number, (end, played, time)) in clients.iter().enumerate() {
        judge_client(story, number, &executed, (end, played, *time));
    }
}

/// What was executed, and what came of each client, and after what time.
async fn perform(story: &Story) -> (Vec<Key>, Vec<(End, Played, Duration)>) {
    let begun = Instant::now();
    let world = Arc::new(World {
        story: story.clone(),
        executed: Mutex::default(),
        dialled: AtomicUsize::new(0),
        upstreams: Mutex::default(),
        dialling: tokio::sync::Mutex::default(),
        handles: Mutex::default(),
        tasks: Mutex::default(),
    });
    if let Some((after, reason)) = story.leave {
        let asking = Arc::clone(&world);
        world.spawn(async move {
            sleep(Duration::from_millis(after)).await;
            let now = Instant::now();
            for handle in &*asking.handles.lock() {
                handle.ask(DrainRequest { reason, from: now, latest: now + GRACE });
            }
        });
    }
    if let Some(after) = story.secret {
        let asking = Arc::clone(&world);
        world.spawn(async move {
            sleep(Duration::from_millis(after)).await;
            for handle in &*asking.handles.lock() {
                handle.ask_for_authentication();
            }
        });
    }
    let world = &world;
    let clients = join_all(story.clients.iter().enumerate().map(async |(number, client)| {
        let (said, replies) = client.lines(number);
        let (ours, theirs) = line(&client.script.line);
        let ways = (Arc::clone(&theirs.inbound), Arc::clone(&theirs.outbound));
        let (said, replies) = (said.concat(), replies.concat());
        let both =
            async { tokio::join!(lead(world, ours), play(&client.script, (&said, &replies), theirs, ways)) };
        let (end, played) = timeout(LONGEST, both).await.expect("a client waits for ever");
        (end, played, begun.elapsed())
    }))
    .await;
    loop {
        // Servers and shared upstreams come to an end, too.
        let Some(task) = world.tasks.lock().pop() else { break };
        timeout(LONGEST, task).await.expect("a server is left behind").expect("no panic");
    }
    let executed = world.executed.lock().clone();
    (executed, clients)
}

fn judge_client(story: &Story, number: usize, executed: &[Key], came: (&End, &Played, Duration)) {
    let (client, (end, played, time)) = (&story.clients[number], came);
    let (said, replies) = client.lines(number);
    let executed: Vec<usize> =
        executed.iter().filter(|(client, _)| *client == number).map(|(_, number)| *number).collect();
    assert!(executed.is_sorted_by(|one, next| one < next), "twice, or not in order: {executed:?}");
    // That replies are the right ones has been seen byte by byte.
    let mut heard = played.heard;
    for ((number, asked), reply) in client.numbered().zip(&replies) {
        if heard < reply.len() {
            break;
        }
        heard -= reply.len();
        assert!(!asked.writes() || executed.contains(&number), "{number} was acknowledged and not executed");
    }
    if client.script.deaf == 0 {
        assert!(time < DEAF, "who does not read delayed another one: {time:?}");
    }
    if played.reset.is_some() {
        return;
    }
    let mut left = played.said;
    let whole = said.iter().take_while(|command| {
        let is_whole = command.len() <= left;
        left = left.saturating_sub(command.len());
        is_whole
    });
    let due: usize = whole.zip(&replies).map(|(_, reply)| reply.len()).sum();
    let asks = |what: fn(&Asked) -> bool| client.commands.iter().any(what);
    // A client that takes too long is not waited for.
    let is_left = story.leave.is_some() || story.lifetime.is_some();
    let is_large = asks(|asked| matches!(asked, Asked::Write(1000..)));
    // Nor is one whose line stalls while others have to wait for more than is kept for it.
    let is_too_much =
        replies.iter().map(Vec::len).sum::<usize>() > MOST_UNREAD && !client.script.line.writes.is_empty();
    let is_slow = client.script.deaf > 0 && (is_left || story.shares)
        || is_large && is_left
        || is_too_much && story.shares;
    let drains = matches!(story.leave, Some((_, Reason::Drain)));
    let breaks = story.faults.iter().any(Option::is_some) || story.secret.is_some() || drains || is_slow;
    if !breaks {
        // A session that is pinned is lost with its upstream.
        let is_pinned = asks(|asked| matches!(asked, Asked::Unknown | Asked::Transaction(_))) && is_left;
        assert!(is_pinned || matches!(end, End::Closed), "{}", end.name());
        // Who says no more, and has commands held back behind one that blocks, is not waited for when that takes long: Redis
        // would not do it either.
        let blocks = asks(|asked| matches!(asked, Asked::Blocks(_)));
        let holds = is_left || story.shares || asks(|asked| matches!(asked, Asked::Reset));
        let may_be_cut = is_pinned || blocks && holds;
        // Half a transaction has replies, too.
        assert!(may_be_cut || played.heard_end && played.heard >= due, "{played:?} of {due}");
    }
    let only_reads = !asks(|asked| asked.writes());
    let cuts = |fault: &Fault| matches!(fault.what, What::Cuts { said: 1.., .. } | What::Stalls(_));
    let is_cut = story.faults.iter().flatten().any(cuts) || story.secret.is_some() || drains || is_slow;
    if breaks && only_reads && !is_cut && client.script.line.reads.is_empty() {
        let large = asks(|asked| matches!(asked, Asked::Value(1000..)));
        assert!(large || played.heard == due, "a reader noticed: {played:?} of {due}");
    }
}

/// No story takes longer.
const LONGEST: Duration = Duration::from_hours(3);

/// For so long a deaf client reads nothing: longer than all else takes.
const DEAF: Duration = Duration::from_hours(1);

/// Says so many bytes in pieces, with pauses between them.
fn acts(pieces: &[(usize, u64)], mut left: usize) -> Vec<Act> {
    let mut acts = Vec::new();
    for &(length, pause) in pieces {
        acts.extend([Act::Say(length.min(left)), Act::Wait(pause)]);
        left -= length.min(left);
    }
    acts.push(Act::Say(left));
    acts
}

fn values() -> impl Strategy<Value = Asked> {
    prop_oneof![
        5 => (0..200_usize).prop_map(Asked::Value),
        1 => (0..100_000_usize).prop_map(Asked::Value),
    ]
}

fn writes() -> impl Strategy<Value = Asked> {
    prop_oneof![
        2 => (0..200_usize).prop_map(Asked::Write),
        1 => (0..100_000_usize).prop_map(Asked::Write),
    ]
}

fn others() -> impl Strategy<Value = Asked> {
    prop_oneof![(0..500_u64).prop_map(Asked::Blocks), (0..10_u8).prop_map(Asked::Select), Just(Asked::Reset),]
}

/// A client without any other.
fn alone() -> impl Strategy<Value = Story> {
    let asked = prop_oneof![2 => values(), 1 => writes(), 1 => others()];
    let pieces = vec((1..60_000_usize, prop_oneof![Just(0), 1..400_u64]), 0..8);
    let ends = any::<bool>().prop_map(|cleanly| What::Ends { cleanly });
    let fault = (0..6_usize, ends).prop_map(|(behind, what)| Fault { behind, what });
    let faults = vec(prop_oneof![1 => Just(None), 2 => fault.prop_map(Some)], 0..4);
    let leave = prop_oneof![2 => Just(None), 1 => (0..2000_u64).prop_map(|at| Some((at, Reason::Moved)))];
    let release = prop_oneof![2 => Just(None), 1 => (8..400_u64).prop_map(Some)];
    let rest = (faults, leave, release, any::<bool>());
    (vec(asked, 1..12), pieces, 0..200_u64, rest, manners(), vec(manners(), 1..6)).prop_map(
        |(commands, pieces, dial, (faults, leave, release, retells), line, lines)| {
            let mut client = Client {
                commands,
                script: Script { early: 0, acts: Vec::new(), leaves: Leaves::WithAnEnd, deaf: 0, line },
            };
            client.script.acts = acts(&pieces, client.lines(0).0.concat().len());
            // One behind the last that ends, and one more to move to; and each command may be the next one behind a release.
            let most = faults.len() + 2 + release.map_or(0, |_| client.commands.len());
            let clients = vec![client];
            let (shares, secret, lifetime) = (false, None, None);
            Story { clients, shares, retells, lines, faults, most, dial, leave, secret, lifetime, release }
        },
    )
}

/// A client among others.
fn client() -> impl Strategy<Value = Client> {
    let own = prop_oneof![
        3 => others(),
        2 => (1..4_usize).prop_map(Asked::Transaction),
        1 => Just(Asked::Script),
    ];
    let any = prop_oneof![20 => values(), 12 => writes(), 6 => own, 1 => Just(Asked::Unknown)];
    let small = (0..200_usize).prop_map(Asked::Value);
    let huge = (400_000..6_000_000_usize).prop_map(Asked::Value);
    let commands = prop_oneof![
        30 => vec(any, 1..10),
        20 => vec(small, 1..10),
        1 => vec(prop_oneof![huge, values()], 1..8),
    ];
    let pause = prop_oneof![5 => Just(0), 10 => 1..400_u64, 1 => 1000..40_000_u64];
    let pieces = vec((prop_oneof![1..100_usize, 1..60_000_usize], pause), 0..8);
    let says = prop_oneof![3 => Just(100), 1 => 0..100_usize];
    let deaf = prop_oneof![9 => Just(0), 1 => Just(DEAF.as_secs())];
    let line = prop_oneof![manners(), manners().prop_map(|line| Manners { reads: Vec::new(), ..line })];
    (commands, pieces, says, leaves(), deaf, line).prop_map(|(commands, pieces, says, leaves, deaf, line)| {
        let mut client =
            Client { commands, script: Script { early: 0, acts: Vec::new(), leaves, deaf, line } };
        let length = client.lines(0).0.concat().len() * says / 100;
        client.script.acts = acts(&pieces, length);
        if says == 100 {
            client.script.leaves = Leaves::WithAnEnd;
        }
        client
    })
}

/// Several clients that share upstreams.
fn together() -> impl Strategy<Value = Story> {
    let what = prop_oneof![
        3 => any::<bool>().prop_map(|cleanly| What::Ends { cleanly }),
        2 => (0..300_usize, any::<bool>()).prop_map(|(said, cleanly)| What::Cuts { said, cleanly }),
        1 => (1..90_u64).prop_map(What::Stalls),
        2 => prop::sample::select(&SPOILS[..]).prop_map(What::Spoils),
    ];
    let fault = (0..10_usize, what).prop_map(|(behind, what)| Fault { behind, what });
    let faults = vec(prop_oneof![1 => Just(None), 1 => fault.prop_map(Some)], 0..6);
    let faults = prop_oneof![1 => Just(Vec::new()), 2 => faults];
    let reason = prop_oneof![3 => Just(Reason::Moved), 1 => Just(Reason::Drain)];
    let leave = prop_oneof![3 => Just(None), 1 => (0..4000_u64, reason).prop_map(Some)];
    let rarely = |times: Range<u64>| prop_oneof![4 => Just(None), 1 => times.prop_map(Some)];
    let times = (rarely(0..4000_u64), rarely(500..20_000_u64), rarely(8..400_u64), any::<bool>());
    (vec(client(), 2..6), vec(manners(), 1..6), faults, 0..200_u64, leave, times).prop_map(
        |(clients, lines, faults, dial, leave, (secret, lifetime, release, retells))| {
            let commands: usize = clients.iter().map(|client| client.commands.len()).sum();
            let most = (faults.len() + 2) * clients.len() + 4 * commands;
            let shares = true;
            Story { clients, shares, retells, lines, faults, most, dial, leave, secret, lifetime, release }
        },
    )
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn every_command_is_answered_once_whatever_becomes_of_its_servers(story in alone()) {
        judge(&story);
    }

    #[test]
    fn clients_that_share_upstreams_get_their_own_replies_whatever_becomes_of_these(story in together()) {
        judge(&story);
    }
}

/// A client that says all at once, and reads nothing for so many seconds.
fn at_once(commands: Vec<Asked>, deaf: u64, line: Manners) -> Client {
    let script = Script { early: 0, acts: Vec::new(), leaves: Leaves::WithAnEnd, deaf, line };
    let mut client = Client { commands, script };
    client.script.acts = acts(&[], client.lines(0).0.concat().len());
    client
}

/// A client has said all, and reads nothing for long; meanwhile its upstream is left twice.
#[test]
fn an_upstream_that_is_left_again_brings_nothing_back_to_life() {
    let manners = |room, reads| Manners { room, holds: 0, reads, writes: Vec::new() };
    let client = |commands, deaf, room| at_once(commands, deaf, manners(room, Vec::new()));
    judge(&Story {
        clients: vec![
            client(vec![Asked::Value(13)], DEAF.as_secs(), 1),
            client(vec![Asked::Value(0); 4], 0, 2),
        ],
        shares: true,
        retells: false,
        lines: vec![manners(14, vec![Whim { most: 1, after: 0 }; 5])],
        faults: Vec::new(),
        most: 24,
        dial: 0,
        leave: Some((2025, Reason::Moved)),
        secret: None,
        lifetime: Some(500),
        release: None,
    });
}

/// A client that reads slowly asks again while it is still being answered.
#[test]
fn a_reply_behind_a_long_one_reaches_a_slow_reader() {
    let client = |commands: Vec<Asked>, acts: Vec<Act>, line: Manners| Client {
        commands,
        script: Script { early: 0, acts, leaves: Leaves::WithAnEnd, deaf: 0, line },
    };
    let whim = |most, after| Whim { most, after };
    let slow = Manners { room: 1, holds: 87, reads: Vec::new(), writes: vec![whim(87, 0), whim(1, 58)] };
    let plain = Manners { room: 1, holds: 0, reads: Vec::new(), writes: Vec::new() };
    judge(&Story {
        clients: vec![
            client(
                vec![Asked::Value(16355), Asked::Value(0)],
                vec![Act::Say(22), Act::Wait(135), Act::Say(22)],
                slow,
            ),
            client(vec![Asked::Value(0)], vec![Act::Say(22)], plain),
        ],
        shares: true,
        retells: false,
        lines: vec![Manners {
            room: 16385,
            holds: 0,
            reads: vec![whim(1, 58), whim(1, 0)],
            writes: vec![whim(1, 19)],
        }],
        faults: Vec::new(),
        most: 16,
        dial: 0,
        leave: None,
        secret: None,
        lifetime: None,
        release: None,
    });
}

/// A client whose line stalls before more than is kept for it may be closed; those who wait behind it are served.
#[test]
fn who_has_too_much_unread_is_not_waited_for() {
    let manners = |writes| Manners { room: 100_000, holds: 0, reads: Vec::new(), writes };
    let stalls = manners(vec![Whim { most: 1, after: 400 }; 3]);
    judge(&Story {
        clients: vec![
            at_once(vec![Asked::Value(3_900_000); 7], 0, stalls),
            at_once(vec![Asked::Write(0); 3], 0, manners(Vec::new())),
        ],
        shares: true,
        retells: false,
        lines: vec![manners(Vec::new())],
        faults: Vec::new(),
        most: 40,
        dial: 0,
        leave: None,
        secret: None,
        lifetime: None,
        release: None,
    });
}
