//! Redis Sentinel: who is asked, who is believed, and how a failover goes for a client that writes.

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::{
    Ambassador, Launch, NameServer, Peer, Quorum, RedisServer, SERVICE, Served, Target, command, eventually,
    fixture, fixture_text, own_address, password, play_sentinel, unknown_command,
};

fn launch(target: &str, password: &str) -> Launch {
    Launch::redis("unused")
        .variable("REDIS_PORT_6379_TCP", target)
        .variable("REDIS_AUTH", password)
        .variable("REDIS_CONNECT_TIMEOUT", "20s")
}

/// The port of the server behind the ambassador.
fn port(ambassador: &Ambassador) -> u16 {
    let mut client = ambassador.connect("redis:6379");
    client.send(&command(&[b"CONFIG", b"GET", b"port"]));
    answered_port(&mut client).expect("an answer")
}

/// The answer to `CONFIG GET port`.
fn answered_port(client: &mut Peer) -> Option<u16> {
    (0..4).try_for_each(|_| line(client).map(drop))?;
    line(client)?.parse().ok()
}

/// A client that writes all the time and reconnects whenever it has to; it knows who acknowledged its last write.
struct Writer {
    acknowledged: Arc<Mutex<Acknowledged>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Acknowledged {
    writes: usize,
    port: u16,
    /// When the last write was sent that a server acknowledged, by the server's port.
    sent: HashMap<u16, Instant>,
}

impl Writer {
    fn start(address: SocketAddr) -> Self {
        let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (acknowledged, stopped) = (Arc::clone(&acknowledged), Arc::clone(&stopped));
            move || {
                let mut client = None;
                while !stopped.load(Ordering::Relaxed) {
                    let client = client.get_or_insert_with(|| Peer::connect(address));
                    let sent = Instant::now();
                    match write(client) {
                        Write::TakenAt(port) => {
                            let mut acknowledged = acknowledged.lock().expect("a record");
                            acknowledged.writes += 1;
                            acknowledged.port = port;
                            acknowledged.sent.insert(port, sent);
                        }
                        Write::Refused => {}
                        Write::Lost => *client = Peer::connect(address),
                    }
                }
            }
        });
        Self { acknowledged, stopped, thread: Some(thread) }
    }

    fn port(&self) -> u16 {
        self.acknowledged.lock().expect("a record").port
    }

    /// When the last write was sent that this server acknowledged.
    fn last_sent(&self, port: u16) -> Option<Instant> {
        self.acknowledged.lock().expect("a record").sent.get(&port).copied()
    }

    /// Waits for the next write that somebody else acknowledges, and says whose it is and how long it took.
    fn expect_another(&self, port: u16) -> (u16, Duration) {
        let begun = Instant::now();
        eventually("writes at another server", || self.port() != port);
        (self.port(), begun.elapsed())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What became of a write.
enum Write {
    /// The server at this port acknowledged it.
    TakenAt(u16),
    /// A replica does not take it, and says so.
    Refused,
    /// The connection ended.
    Lost,
}

fn write(client: &mut Peer) -> Write {
    match try_write(client) {
        Some((true, port)) => Write::TakenAt(port),
        Some((false, _)) => Write::Refused,
        None => Write::Lost,
    }
}

/// Whether a write was acknowledged, and by the server at which port.
fn try_write(client: &mut Peer) -> Option<(bool, u16)> {
    let name = command(&[b"CLIENT", b"SETNAME", b"writer"]);
    let request = [name, command(&[b"SET", b"k", b"v"]), command(&[b"CONFIG", b"GET", b"port"])].concat();
    client.try_send(&request).ok()?;
    let named = line(client)?;
    if named.contains("redis-ambassador") {
        return None;
    }
    let set = line(client)?;
    let port = answered_port(client)?;
    Some((set == "+OK", port))
}

fn line(client: &mut Peer) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        match client.read(&mut byte) {
            Ok(1) => line.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// `SENTINEL FAILOVER` under a writing client: it is served by the new primary after one reconnect, and from the switch
/// on not a single write is acknowledged by the old one, where no connection is left.
#[test]
fn a_failover_on_demand_moves_a_writing_client() {
    let password = password();
    let Some(quorum) = Quorum::start(&password) else { return };
    let old = quorum.servers[0].address().port();
    let ambassador = launch(&quorum.target(), &password).variable("REDIS_MOVE_GRACE", "0s").start();
    let writer = Writer::start(ambassador.address("redis:6379"));
    eventually("writes", || writer.port() == old);
    quorum.fail_over();
    let line = ambassador
        .wait_for_log("the switch", |line| line["message"] == "backends changed" && line["from"] != "");
    let switched = Instant::now();
    assert_eq!(line["reason"], "sentinel", "{line}");
    let (new, took) = writer.expect_another(old);
    eprintln!("writes at the new primary {took:?} after the switch was known");
    assert_eq!(line["to"], server_at(&quorum, new).to_string(), "{line}");
    eventually("nobody at the old primary", || quorum.clients(0, "writer") == 0);
    assert!(
        writer.last_sent(old).is_some_and(|sent| sent <= switched),
        "a write was acknowledged by the old primary"
    );
    assert_eq!(quorum.clients(0, "writer"), 0);
}

fn server_at(quorum: &Quorum, port: u16) -> SocketAddr {
    let server = quorum.servers.iter().find(|server| server.address().port() == port);
    server.expect("one of the servers").address()
}

/// The primary is killed under a writing client: it writes to the next one as soon as the Sentinels have chosen it.
#[test]
fn a_killed_primary_costs_a_writing_client_no_more_than_the_failover() {
    let password = password();
    let Some(mut quorum) = Quorum::start(&password) else { return };
    let old = quorum.servers[0].address().port();
    let ambassador = launch(&quorum.target(), &password).start();
    let writer = Writer::start(ambassador.address("redis:6379"));
    eventually("writes", || writer.port() == old);
    quorum.servers[0].stop();
    let (new, took) = writer.expect_another(old);
    eprintln!("writes again {took:?} after the primary was killed");
    // Those that did not lead the failover hear of it a moment later.
    eventually("all Sentinels at one", || {
        (0..3).all(|sentinel| {
            quorum.primary(sentinel).is_some_and(|primary| quorum.servers[primary].address().port() == new)
        })
    });
}

/// The primary is frozen under a writing client: its connection leaves when the Sentinels have chosen another, though
/// it waits for an answer; nothing is left when the old one wakes up.
#[test]
fn a_frozen_primary_is_left_behind() {
    let password = password();
    let Some(quorum) = Quorum::start(&password) else { return };
    let old = quorum.servers[0].address().port();
    let ambassador = launch(&quorum.target(), &password).variable("REDIS_MOVE_GRACE", "1s").start();
    let writer = Writer::start(ambassador.address("redis:6379"));
    eventually("writes", || writer.port() == old);
    let process = quorum.process(0);
    process.freeze();
    let frozen = Instant::now();
    let (_, took) = writer.expect_another(old);
    eprintln!("writes again {took:?} after the primary was frozen");
    process.thaw();
    eventually("nobody at the old primary", || quorum.clients(0, "writer") == 0);
    assert!(writer.last_sent(old).is_some_and(|sent| sent <= frozen + Duration::from_millis(100)));
}

/// Whatever else is in the list, one good Sentinel is enough: one that is dead, one that hangs, one that does not know the
/// service, one that answers an error, and one that lies, because it has slept through a failover.
#[test]
fn one_good_sentinel_among_bad_ones_is_enough() {
    let password = password();
    let Some(quorum) = Quorum::start(&password) else { return };
    let old = quorum.servers[0].address();
    quorum.fail_over();
    eventually("another primary", || quorum.primary(0).is_some_and(|primary| primary != 0));
    let new = quorum.servers[quorum.primary(0).expect("a primary")].address().port();
    let dead = own_address();
    let hanging = Target::start();
    let ignorant = sentinel(|name| if name == "SUBSCRIBE" { subscribed() } else { null() });
    let erring = sentinel(|_| "-IDONTKNOW I have no idea\r\n".to_owned());
    let stale = sentinel(move |name| match name {
        "GET-MASTER-ADDR-BY-NAME" => named(old),
        "MASTER" => epoch(0),
        "SUBSCRIBE" => subscribed(),
        _ => unknown_command(name),
    });
    let target = format!(
        "redis+sentinel://{},{dead},{},{},{},{}/{SERVICE}",
        stale.address(),
        hanging.address(),
        ignorant.address(),
        erring.address(),
        quorum.sentinels[1].address(),
    );
    eventually("the one good Sentinel", || quorum.primary(1) == quorum.primary(0));
    let ambassador = launch(&target, &password).start();
    for _ in 0..10 {
        assert_eq!(port(&ambassador), new);
    }
    let line = ambassador.wait_for("backends changed");
    assert_eq!(line["to"], server_at(&quorum, new).to_string(), "{line}");
}

/// Two of five Sentinels were cut off before a failover and answer at once; the other three, which know of it, take longer. The
/// old primary, which is as alive as they are and says `role:master`, is not gone back to: two are no majority of five.
#[test]
fn a_minority_of_stale_sentinels_is_no_majority_because_the_others_are_slow() {
    let (Some(old), Some(new)) = (RedisServer::start(""), RedisServer::start("")) else { return };
    let (old, new) = (old.address(), new.address());
    let is_cut_off = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let stale = || {
        let (is_cut_off, asked) = (Arc::clone(&is_cut_off), Arc::clone(&asked));
        sentinel(move |name| match (name, is_cut_off.load(Ordering::Relaxed)) {
            ("GET-MASTER-ADDR-BY-NAME", false) => named(new),
            ("GET-MASTER-ADDR-BY-NAME", true) => {
                asked.fetch_add(1, Ordering::Relaxed);
                named(old)
            }
            ("MASTER", is_cut_off) => epoch(if is_cut_off { 3 } else { 4 }),
            ("SUBSCRIBE", _) => subscribed(),
            _ => "-ERR unknown\r\n".to_owned(),
        })
    };
    let may_answer = Arc::new(RwLock::new(()));
    let slow = || {
        let may_answer = Arc::clone(&may_answer);
        sentinel(move |name| match name {
            "GET-MASTER-ADDR-BY-NAME" => {
                drop(may_answer.read());
                named(new)
            }
            "MASTER" => epoch(4),
            "SUBSCRIBE" => subscribed(),
            _ => "-ERR unknown\r\n".to_owned(),
        })
    };
    let sentinels = [stale(), stale(), slow(), slow(), slow()];
    let addresses: Vec<_> = sentinels.iter().map(|sentinel| sentinel.address().to_string()).collect();
    let target = format!("redis+sentinel://{}/{SERVICE}", addresses.join(","));
    let ambassador = launch(&target, "").without("REDIS_AUTH").start();
    assert_eq!(port(&ambassador), new.port());
    let silence = may_answer.write().expect("a lock");
    is_cut_off.store(true, Ordering::Relaxed);
    // When they are asked once more, what came of the first time is decided.
    eventually("two rounds of questions", || asked.load(Ordering::Relaxed) >= 4);
    assert_eq!(port(&ambassador), new.port());
    drop(silence);
}

fn sentinel(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Served {
    Target::start().serve(move |peer| play_sentinel(peer, &answer))
}

fn named(address: SocketAddr) -> String {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    format!("*2\r\n${}\r\n{ip}\r\n${}\r\n{port}\r\n", ip.len(), port.len())
}

fn epoch(epoch: u64) -> String {
    let epoch = epoch.to_string();
    format!("*2\r\n$12\r\nconfig-epoch\r\n${}\r\n{epoch}\r\n", epoch.len())
}

fn null() -> String {
    fixture_text("sentinel/redis-7.0/null.resp").to_owned()
}

fn subscribed() -> String {
    fixture_text("sentinel/redis-7.0/subscribe.resp").to_owned()
}

/// What a Sentinel names is used only if the server itself says that it is a primary: until then clients wait, and no
/// byte of theirs goes to a replica.
#[test]
fn a_server_that_is_not_a_primary_is_not_used_whatever_a_sentinel_says() {
    let Some(primary) = RedisServer::start("") else { return };
    let (ip, port) = (primary.address().ip(), primary.address().port());
    let Some(replica) = RedisServer::start(&format!("replicaof {ip} {port}")) else { return };
    let named_now = Arc::new(Mutex::new(replica.address()));
    let asked = Arc::new(AtomicUsize::new(0));
    let liar = sentinel({
        let (named_now, asked) = (Arc::clone(&named_now), Arc::clone(&asked));
        move |name| match name {
            "GET-MASTER-ADDR-BY-NAME" => {
                asked.fetch_add(1, Ordering::Relaxed);
                named(*named_now.lock().expect("an address"))
            }
            "SUBSCRIBE" => subscribed(),
            _ => unknown_command(name),
        }
    });
    let ambassador = Launch::redis("unused")
        .variable("REDIS_PORT_6379_TCP", format!("redis+sentinel://{}/{SERVICE}", liar.address()))
        .variable("REDIS_CONNECT_TIMEOUT", "20s")
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"SET k v\r\n");
    client.expect_silence(Duration::from_millis(500));
    let before = asked.load(Ordering::Relaxed);
    eventually("more questions", || asked.load(Ordering::Relaxed) > before);
    *named_now.lock().expect("an address") = primary.address();
    client.expect(b"+OK\r\n");
}

/// While no primary is known, new clients wait; then they are told, and by whose account.
#[test]
fn while_no_primary_is_known_clients_wait_and_then_hear_why() {
    let knows = Arc::new(AtomicBool::new(false));
    let server = Target::start().serve(|mut peer| {
        peer.expect(&[command(&[b"HELLO", b"2"]), command(&[b"ROLE"])].concat());
        peer.send(
            &[fixture("replies/redis-5/unknown-hello.resp"), fixture("replies/redis-5/role.resp")].concat(),
        );
        peer.expect(b"PING\r\n");
        peer.send(b"+PONG\r\n");
    });
    let address = server.address();
    let unsure = sentinel({
        let knows = Arc::clone(&knows);
        move |name| match name {
            "GET-MASTER-ADDR-BY-NAME" if knows.load(Ordering::Relaxed) => named(address),
            "GET-MASTER-ADDR-BY-NAME" => null(),
            "SUBSCRIBE" => subscribed(),
            _ => unknown_command(name),
        }
    });
    let target = format!("redis+sentinel://{}/{SERVICE}", unsure.address());
    let impatient = launch(&target, "").without("REDIS_AUTH").variable("REDIS_CONNECT_TIMEOUT", "1s").start();
    let words = impatient.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains(SERVICE) && words.contains(&unsure.address().to_string()), "{words}");

    let ambassador = launch(&target, "").without("REDIS_AUTH").variable("REDIS_MOVE_GRACE", "off").start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect_silence(Duration::from_millis(300));
    knows.store(true, Ordering::Relaxed);
    client.expect(b"+PONG\r\n");
}

/// Sentinels that want a password, or a user and a password, behind one name that stands for all of them.
#[test]
fn sentinels_with_a_password_behind_one_name() {
    let (password, sentinel_password) = (password(), password());
    let Some(quorum) = Quorum::start_with(&password, Some(&sentinel_password)) else { return };
    let dns = NameServer::start();
    let addresses: Vec<_> = quorum.sentinels.iter().map(|sentinel| sentinel.address().ip()).collect();
    dns.addresses("sentinels.test", &addresses);
    let target =
        format!("redis+sentinel://sentinels.test:{}/{SERVICE}", quorum.sentinels[0].address().port());
    let launch = || launch(&target, &password).variable("AMBASSADOR_DNS", dns.address().to_string());
    let primary = quorum.servers[0].address().port();
    let alone = launch().variable("REDIS_SENTINEL_AUTH", &sentinel_password).start();
    assert_eq!(port(&alone), primary);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{sentinel_password}\n")).expect("a file");
    let user = launch()
        .variable("REDIS_SENTINEL_AUTH_FILE", file.path())
        .variable("REDIS_SENTINEL_USERNAME", "app")
        .start();
    assert_eq!(port(&user), primary);

    let wrong = launch()
        .variable("REDIS_SENTINEL_AUTH", crate::support::password())
        .variable("REDIS_CONNECT_TIMEOUT", "500ms")
        .start();
    let words = wrong.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("WRONGPASS"), "{words}");
    let none = launch().variable("REDIS_CONNECT_TIMEOUT", "500ms").start();
    let words = none.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("NOAUTH"), "{words}");
}

/// `ROLE=replica` balances over the replicas that are well, and over no other server.
#[test]
fn reads_are_balanced_over_the_replicas_that_are_well() {
    let password = password();
    let Some(mut quorum) = Quorum::start(&password) else { return };
    let ambassador = launch(&quorum.target(), &password).variable("REDIS_ROLE", "replica").start();
    let ports: Vec<_> = quorum.servers.iter().map(|server| server.address().port()).collect();
    let shares = |dials: usize| {
        let mut shares = HashMap::<u16, usize>::new();
        for _ in 0..dials {
            *shares.entry(port(&ambassador)).or_default() += 1;
        }
        shares
    };
    let found = shares(20);
    assert_eq!((found.get(&ports[1]), found.get(&ports[2])), (Some(&10), Some(&10)), "{found:?}");
    quorum.servers[1].stop();
    assert_eq!(shares(10).get(&ports[2]), Some(&10));
    ambassador.wait_for_log("the replica that is gone", |line| {
        line["message"] == "backends changed" && line["to"] == quorum.servers[2].address().to_string()
    });
    quorum.servers[1].start_again();
    eventually("the replica that is back", || shares(4).contains_key(&ports[1]));
}
