//! Connections that are kept ready: that they are, for whom, and that one that is dead costs nobody an error.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use redis::Connection;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    Ambassador, Authority, Launch, NameServer, Named, Peer, RedisServer, Target, command, eventually,
    fixture, metric, own_address, password, redis_over_tls, replace, whom,
};
use crate::tls::launch_over_tls;

const A_MOMENT: Duration = Duration::from_millis(300);

/// A Redis server and an ambassador in front of it that keeps some connections ready.
struct Warmed {
    ambassador: Ambassador,
    administrator: Connection,
    server: RedisServer,
}

impl Warmed {
    fn start(size: usize, configuration: &str) -> Option<Self> {
        Self::start_with(size, configuration, |launch| launch)
    }

    fn start_with(size: usize, configuration: &str, change: impl FnOnce(Launch) -> Launch) -> Option<Self> {
        let password = password();
        let server = RedisServer::start(&format!("requirepass {password}\n{configuration}"))?;
        let launch = Launch::redis(server.address())
            .variable("REDIS_AUTH", &password)
            .variable("REDIS_WARM", size.to_string())
            .variable("AMBASSADOR_LOG", "debug");
        let ambassador = change(launch).start();
        let administrator = server.administrator(&password);
        expect_ready(&ambassador, size);
        Some(Self { ambassador, administrator, server })
    }

    fn connect(&self) -> Peer {
        self.ambassador.connect("redis:6379")
    }

    /// The ids of the server's connections, but for the administrator's.
    fn connections(&mut self) -> BTreeSet<u64> {
        connections(&mut self.administrator)
    }

    /// Sooner or later there are so many.
    #[track_caller]
    fn expect_connections(&mut self, count: usize) {
        expect_connections(&mut self.administrator, count);
    }

    /// Sooner or later so many are ready.
    #[track_caller]
    fn expect_ready(&self, count: usize) {
        expect_ready(&self.ambassador, count);
    }

    /// Closes every connection but the administrator's.
    fn kill_all(&mut self) {
        let kill = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").clone();
        kill.exec(&mut self.administrator).expect("every other connection closed");
    }

    /// A client that has said nothing yet, and has its connection.
    #[track_caller]
    fn connect_silently(&self) -> Peer {
        connect_silently(&self.ambassador)
    }
}

fn connections(administrator: &mut Connection) -> BTreeSet<u64> {
    let own: u64 = redis::cmd("CLIENT").arg("ID").query(administrator).expect("an id");
    let list: String = redis::cmd("CLIENT").arg("LIST").query(administrator).expect("a list");
    let ids = list.lines().filter_map(|line| line.strip_prefix("id=")?.split_once(' ')?.0.parse().ok());
    ids.filter(|id| *id != own).collect()
}

#[track_caller]
fn expect_connections(administrator: &mut Connection, count: usize) {
    eventually(&format!("{count} connections"), || connections(administrator).len() == count);
}

/// Sooner or later so many are ready, as the ambassador knows it.
#[track_caller]
fn expect_ready(ambassador: &Ambassador, count: usize) {
    eventually(&format!("{count} connections ready"), || {
        ambassador.logged(|line| !line["ready"].is_null()).last().is_some_and(|line| line["ready"] == count)
    });
}

/// How many log lines there are with this message.
fn count(ambassador: &Ambassador, message: &str) -> usize {
    ambassador.logged(|line| line["message"] == message).len()
}

/// Waits for so many log lines with this message.
#[track_caller]
fn wait_for(ambassador: &Ambassador, count: usize, message: &str) {
    let seen = Cell::new(0);
    ambassador.wait_for_log(&format!("{count} times: {message}"), |line| {
        if line["message"] == message {
            seen.set(seen.get() + 1);
        }
        seen.get() >= count
    });
}

/// A client that has said nothing yet, and has its connection, which was ready.
#[track_caller]
fn connect_silently(ambassador: &Ambassador) -> Peer {
    const TAKEN: &str = "ready connection taken";
    let taken = count(ambassador, TAKEN);
    let client = ambassador.connect("redis:6379");
    eventually("a connection that was ready", || count(ambassador, TAKEN) > taken);
    client
}

#[track_caller]
fn ping(client: &mut Peer) {
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// Which of the server's connections a client has.
#[track_caller]
fn id(client: &mut Peer) -> u64 {
    client.send(b"CLIENT ID\r\n");
    client.expect_line().trim_start_matches(':').parse().expect("a number")
}

/// There are as many as are asked for, authenticated and at their database, before any client comes and after each.
#[test]
fn as_many_are_ready_as_are_asked_for() {
    let Some(mut warmed) = Warmed::start_with(3, "", |launch| launch.variable("REDIS_DB", "2")) else {
        return;
    };
    let ready = warmed.connections();
    let mut client = warmed.connect();
    let own = id(&mut client);
    assert!(ready.contains(&own), "{own} of {ready:?}");
    warmed.expect_connections(4);
    client.send(b"SET k v\r\n");
    client.expect(b"+OK\r\n");
    let value: String = redis::cmd("GET").arg("k").query(&mut warmed.administrator).unwrap_or_default();
    assert_eq!(value, "", "not in database 0");
    drop(client);
    warmed.expect_connections(3);
}

/// Each goes to one client and to no other, on whatever thread it is served, and ends when that client's does.
#[test]
fn each_client_has_a_connection_of_its_own() {
    let several = |launch: Launch| launch.variable("AMBASSADOR_THREADS", "3");
    let Some(mut warmed) = Warmed::start_with(4, "", several) else { return };
    let mut used = BTreeSet::new();
    for _ in 0..10 {
        let mut clients: Vec<_> = (0..6).map(|_| warmed.connect()).collect();
        for client in &mut clients {
            assert!(used.insert(id(client)), "a connection served twice");
        }
        for client in &mut clients {
            client.finish_sending();
            client.expect_end();
        }
    }
    warmed.expect_connections(4);
    assert!(warmed.connections().is_disjoint(&used), "a connection came back");
}

/// So through a Unix socket.
#[test]
fn they_are_ready_at_a_unix_socket_too() {
    let Some(server) = RedisServer::start("") else { return };
    let ambassador = Launch::new()
        .variable("REDIS_PORT_6379_TCP", format!("redis+unix://{}", server.socket().display()))
        .variable("REDIS_LISTEN", "127.0.0.1:0")
        .variable("REDIS_WARM", "2")
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    expect_ready(&ambassador, 2);
    let mut administrator = administrator(&server);
    let ready = connections(&mut administrator);
    assert!(ready.contains(&id(&mut ambassador.connect("redis:6379"))));
}

/// Redis closes idle connections. Those that come notice nothing, whenever they come.
#[test]
fn redis_own_idle_timeout_costs_nobody_an_error() {
    // More than these clients need, so that some of them wait for too long.
    let Some(warmed) = Warmed::start(6, "timeout 1") else { return };
    let over = Mutex::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !*over.lock().expect("no panic") {
                    ping(&mut warmed.connect());
                    // Not so fast that none is ever left to wait.
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
        wait_for(&warmed.ambassador, 4, "ready connection discarded");
        *over.lock().expect("no panic") = true;
    });
}

/// One that has ended is replaced, though nobody comes to notice.
#[test]
fn one_that_ends_is_replaced_though_nobody_comes() {
    let Some(mut warmed) = Warmed::start(2, "") else { return };
    let ready = warmed.connections();
    warmed.kill_all();
    eventually("two others", || {
        let now = warmed.connections();
        now.len() == 2 && now.is_disjoint(&ready)
    });
}

/// A client that connects first and speaks later is served too, though its connection has ended meanwhile.
#[test]
fn a_connection_that_ends_before_the_clients_first_word_is_replaced() {
    let Some(mut warmed) = Warmed::start(1, "timeout 1") else { return };
    let ready = warmed.connections();
    let mut client = warmed.connect_silently();
    eventually("the server's timeout", || warmed.connections().is_disjoint(&ready));
    ping(&mut client);
}

/// However often they are all closed: whoever has said nothing yet notices nothing.
#[test]
fn client_kill_costs_nobody_an_error_who_has_said_nothing() {
    let Some(mut warmed) = Warmed::start_with(3, "", |launch| launch.variable("AMBASSADOR_THREADS", "2"))
    else {
        return;
    };
    for _ in 0..20 {
        warmed.expect_ready(3);
        let mut clients: Vec<_> = (0..3).map(|_| warmed.connect_silently()).collect();
        warmed.kill_all();
        clients.iter_mut().for_each(ping);
        drop(clients);
    }
}

/// A target that goes away takes what was ready with it; the clients that were waiting are served when it is back.
#[test]
fn a_restart_of_redis_costs_nobody_an_error() {
    let Some(mut warmed) = Warmed::start(2, "") else { return };
    for _ in 0..3 {
        let mut silent = warmed.connect_silently();
        warmed.server.stop();
        let mut speaking = warmed.connect();
        speaking.send(b"PING\r\n");
        warmed.server.start_again();
        ping(&mut silent);
        speaking.expect(b"+PONG\r\n");
        drop((silent, speaking));
        warmed.expect_ready(2);
    }
}

/// What was made with a secret that is not the one in the file any more is nobody's.
#[test]
fn a_rotated_secret_replaces_what_was_made_with_the_old_one() {
    let (old, new) = (password(), password());
    let Some(server) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("password");
    fs::write(&path, &old).expect("a file");
    let ambassador = Launch::redis(server.address())
        .variable("REDIS_AUTH_FILE", &path)
        .variable("REDIS_WARM", "3")
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    let mut administrator = server.administrator(&old);
    expect_ready(&ambassador, 3);
    let ready = connections(&mut administrator);
    let mut silent = connect_silently(&ambassador);
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("requirepass")
        .arg(&new)
        .exec(&mut administrator)
        .expect("a password");
    let next = directory.path().join("next");
    fs::write(&next, &new).expect("a file");
    replace(&next, &path);
    let held = |ids: &BTreeSet<u64>| ids.intersection(&ready).count();
    eventually("the old ones gone, but for the silent client's", || {
        let now = connections(&mut administrator);
        now.len() == 4 && held(&now) == 1
    });
    let own = id(&mut silent);
    assert!(!ready.contains(&own), "{own} was made with the old secret");
    assert!(!ready.contains(&id(&mut ambassador.connect("redis:6379"))));
}

/// A RESET may have to wait for the command before it, for longer than the server lets the next connection idle.
#[test]
fn a_reset_behind_a_long_command_leads_to_one_that_is_still_there() {
    let Some(mut warmed) = Warmed::start(1, "timeout 1") else { return };
    let mut client = warmed.connect();
    // Asks the server whether it knows RESET.
    client.send(b"RESET\r\nPING\r\n");
    client.expect(b"+RESET\r\n+PONG\r\n");
    client.send(b"BLPOP list 0\r\nRESET\r\n");
    let with_fresh = warmed.connections();
    eventually("the next connection's timeout", || {
        let now = warmed.connections();
        with_fresh.difference(&now).count() > 0
    });
    redis::cmd("LPUSH").arg("list").arg("v").exec(&mut warmed.administrator).expect("an element");
    client.expect(b"*2\r\n$4\r\nlist\r\n$1\r\nv\r\n+RESET\r\n");
    ping(&mut client);
}

/// TLS towards the target: they are ready behind the handshake, and a goodbye is noticed as an end.
#[test]
fn they_are_ready_over_tls_too() {
    let authority = Authority::new("them");
    let password = password();
    let configuration = format!("tls-auth-clients no\nrequirepass {password}");
    let Some((server, address)) = redis_over_tls(&authority, &configuration) else { return };
    let ambassador = launch_over_tls(address, &authority)
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_WARM", "3")
        .variable("AMBASSADOR_THREADS", "2")
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    let mut administrator = server.administrator(&password);
    for _ in 0..5 {
        expect_ready(&ambassador, 3);
        let mut clients: Vec<_> = (0..3).map(|_| connect_silently(&ambassador)).collect();
        let ready = connections(&mut administrator);
        let mut last = clients.pop().expect("a client");
        assert!(ready.contains(&id(&mut last)));
        let kill = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").clone();
        kill.exec(&mut administrator).expect("every other connection closed");
        clients.iter_mut().for_each(ping);
    }
}

fn handshake(server: &mut Peer, password: &str) {
    server.expect(&command(&[b"AUTH", password.as_bytes()]));
    server.send(b"+OK\r\n");
}

/// A target that a test plays, and an ambassador that keeps one connection to it ready.
fn played() -> (Target, Ambassador, String) {
    let target = Target::start();
    let password = password();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_WARM", "1")
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    (target, ambassador, password)
}

/// Once the client has spoken nothing is said twice: a command that is lost is lost, as without an ambassador.
#[test]
fn what_was_said_once_is_never_said_again() {
    let (target, ambassador, password) = played();
    let mut server = target.accept();
    handshake(&mut server, &password);
    expect_ready(&ambassador, 1);
    let mut client = ambassador.connect("redis:6379");
    client.send(b"INCR n\r\n");
    server.expect(b"INCR n\r\n");
    drop(server);
    client.expect_end();
    let mut next = target.accept();
    handshake(&mut next, &password);
    next.expect_silence(A_MOMENT);
}

/// What the target says before the client does belongs to the client.
#[test]
fn what_the_target_says_first_reaches_the_client() {
    let (target, ambassador, password) = played();
    let mut server = target.accept();
    handshake(&mut server, &password);
    expect_ready(&ambassador, 1);
    let mut client = connect_silently(&ambassador);
    server.send(b"+hello\r\n");
    client.expect(b"+hello\r\n");
    client.send(b"PING\r\n");
    server.expect(b"PING\r\n");
}

/// One that has been spoken to while nobody had it is nobody's.
#[test]
fn one_that_has_something_to_read_goes_to_nobody() {
    let (target, ambassador, password) = played();
    let mut server = target.accept();
    handshake(&mut server, &password);
    server.send(b"+stale\r\n");
    server.expect_gone();
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    handshake(&mut server, &password);
    client.send(b"PING\r\n");
    server.expect(b"PING\r\n");
    server.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");
}

/// A client that leaves without a word ends its connection, and with it the target's, and is none that was served: so
/// come the probes of load balancers.
#[test]
fn a_client_that_says_nothing_and_leaves_frees_its_connection() {
    let (target, ambassador, password) = played();
    let mut server = target.accept();
    handshake(&mut server, &password);
    expect_ready(&ambassador, 1);
    let mut client = ambassador.connect("redis:6379");
    client.finish_sending();
    server.expect_end();
    drop(server);
    client.expect_gone();
    ambassador.wait_for("client left before it was served");
    for series in ["warm_hits_total", "dial_seconds_count"] {
        let series = format!("{series}{{link=\"redis:6379\"}}");
        assert!(metric(ambassador.admin(), &series).abs() < f64::EPSILON, "{series}");
    }
}

/// The limits of a connection hold for one that has not spoken yet.
#[test]
fn a_silent_client_is_subject_to_the_limits_too() {
    let limited = |launch: Launch| launch.variable("REDIS_IDLE_TIMEOUT", "500ms");
    let Some(warmed) = Warmed::start_with(1, "", limited) else { return };
    warmed.connect().expect_end();
    warmed.ambassador.wait_for_log("idle_timeout", |line| line["ended_by"] == "idle_timeout");
}

/// Does for every connection what a target does that can't be kept connections ready to, and says when each came.
fn times_of_five(script: impl Fn(&mut Peer)) -> Duration {
    let target = Target::start();
    let _ambassador =
        Launch::redis(target.address()).variable("REDIS_AUTH", "unused").variable("REDIS_WARM", "1").start();
    let mut first = None;
    for _ in 0..5 {
        let mut server = target.accept();
        first.get_or_insert_with(Instant::now);
        script(&mut server);
    }
    first.map(|first| first.elapsed()).unwrap_or_default()
}

/// A target that refuses, closes at once or speaks unasked is left alone for longer each time.
#[test]
fn a_target_that_refuses_is_not_asked_all_the_time() {
    let auth = command(&[b"AUTH", b"unused"]);
    thread::scope(|scope| {
        for says in [fixture("replies/redis-6.0/wrongpass.resp"), b"+OK\r\n", b"+OK\r\n+hello\r\n"] {
            let auth = &auth;
            scope.spawn(move || {
                let time = times_of_five(|server| {
                    server.expect(auth);
                    server.send(says);
                });
                // One, and then four that come after 250, 500, 1000 and 2000 milliseconds, or a quarter less.
                assert!(time >= Duration::from_millis(2700), "{says:?}: five within {time:?}");
            });
        }
    });
}

/// After an outage there are connections ready again.
#[test]
fn a_target_that_is_back_is_noticed() {
    let address = own_address();
    let ambassador = Launch::redis(address).variable("REDIS_WARM", "2").start();
    ambassador.wait_for("pool failed; clients wait for a dial");
    let target = Target::at(address);
    let mut client = ambassador.connect("redis:6379");
    // The client's own, and those that are kept ready.
    let mut servers: Vec<_> = (0..3).map(|_| target.accept()).collect();
    client.send(b"PING\r\n");
    assert!(servers.iter_mut().any(|server| {
        let mut byte = [0];
        server.read(&mut byte).is_ok_and(|length| length == 1)
    }));
}

/// A drain closes what is ready and does not wait for it.
#[test]
fn a_drain_closes_what_is_ready() {
    let Some(mut warmed) = Warmed::start(3, "") else { return };
    let mut silent = warmed.connect_silently();
    warmed.ambassador.signal(Signal::TERM);
    silent.expect_end();
    warmed.expect_connections(0);
    let Warmed { ambassador, .. } = warmed;
    let finished = ambassador.finish();
    assert_eq!(finished.code, Some(0));
    assert!(finished.stderr.contains("\"connections_cut\":0"), "{}", finished.stderr);
}

fn administrator(server: &RedisServer) -> Connection {
    let client = redis::Client::open(format!("redis://{}/", server.address())).expect("a URL");
    client.get_connection().expect("a connection to Redis")
}

/// A server without a password that knows its name.
fn named(name: &str) -> Option<RedisServer> {
    let server = RedisServer::start("")?;
    redis::cmd("SET").arg("name").arg(name).exec(&mut administrator(&server)).expect("a name");
    Some(server)
}

#[track_caller]
fn expect_name(client: &mut Peer, name: &str) {
    client.send(b"GET name\r\n");
    client.expect(format!("${}\r\n{name}\r\n", name.len()).as_bytes());
}

/// A target that has moved serves nobody who has not spoken yet.
#[test]
fn what_is_ready_follows_the_target() {
    let (Some(a), Some(b)) = (named("a"), named("b")) else { return };
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("backends");
    fs::write(&path, a.address().to_string()).expect("a file");
    let ambassador = Launch::new()
        .variable("REDIS_PORT_6379_TCP", format!("redis+file://{}", path.display()))
        .variable("REDIS_LISTEN", "127.0.0.1:0")
        .variable("REDIS_WARM", "2")
        .variable("REDIS_MOVE_GRACE", "off")
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    let mut at_b = administrator(&b);
    expect_ready(&ambassador, 2);
    let mut silent = connect_silently(&ambassador);
    let next = directory.path().join("next");
    fs::write(&next, b.address().to_string()).expect("a file");
    replace(&next, &path);
    expect_connections(&mut at_b, 2);
    expect_name(&mut silent, "b");
    expect_name(&mut ambassador.connect("redis:6379"), "b");
    drop((silent, ambassador));
    expect_connections(&mut at_b, 0);
}

/// So where the name has another address now.
#[test]
fn what_is_ready_follows_the_name() {
    let dns = NameServer::start();
    let [a, b] = Named::at_one_port(["a", "b"]);
    dns.addresses("redis.test", &[a.ip()]);
    let ambassador = Launch::redis(format!("redis.test:{}", a.address().port()))
        .variable("AMBASSADOR_DNS", dns.address().to_string())
        .variable("REDIS_MOVE_GRACE", "off")
        .variable("REDIS_WARM", "2")
        .start();
    eventually("connections ready", || a.open() == 2);
    dns.addresses("redis.test", &[b.ip()]);
    eventually("connections ready at the new address", || a.open() == 0 && b.open() == 2);
    assert_eq!(whom(&mut ambassador.connect("redis:6379")), "b");
}

/// Where one backend goes before another, what is ready at the other is of no use once the first is back.
#[test]
fn what_is_ready_follows_the_order_of_the_backends() {
    let address = own_address();
    let second = Named::start("second");
    let ambassador =
        Launch::redis(format!("{address},{}", second.address())).variable("REDIS_WARM", "2").start();
    eventually("connections ready at the second", || second.open() == 2);
    let first = Named::at(address, "first");
    eventually("a client at the first", || whom(&mut ambassador.connect("redis:6379")) == "first");
    eventually("connections ready at the first", || second.open() == 0 && first.open() == 2);
}

/// A primary that is demoted serves nobody who has not spoken yet.
#[test]
fn a_demoted_primary_is_not_kept_ready() {
    let (Some(first), Some(second)) = (named("first"), named("second")) else { return };
    let follow = |follower: &RedisServer, primary: &RedisServer| {
        let (ip, port) = (primary.address().ip().to_string(), primary.address().port());
        redis::cmd("REPLICAOF").arg(ip).arg(port).exec(&mut administrator(follower)).expect("a replica");
    };
    follow(&second, &first);
    let ambassador = Launch::redis(format!("{},{}", first.address(), second.address()))
        .variable("REDIS_ROLE", "master")
        .variable("REDIS_WARM", "2")
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    expect_ready(&ambassador, 2);
    eventually("connections ready at the first", || ready_for_clients(&first) >= 2);
    let mut silent = connect_silently(&ambassador);
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut administrator(&second)).expect("a primary");
    follow(&first, &second);
    ambassador.wait_for("backend demoted");
    for client in [&mut silent, &mut ambassador.connect("redis:6379")] {
        client.send(b"SET k v\r\n");
        client.expect(b"+OK\r\n");
    }
    eventually("connections ready at the second", || ready_for_clients(&second) >= 2);
}

/// Connections that have asked for the role and nothing else.
fn ready_for_clients(server: &RedisServer) -> usize {
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .arg("TYPE")
        .arg("normal")
        .query(&mut administrator(server))
        .expect("a list");
    list.lines().filter(|line| line.contains("cmd=role") || line.contains("cmd=hello")).count()
}

/// The target has no more connections than the link may have clients.
#[test]
fn no_more_are_ready_than_clients_could_use() {
    let limited = |launch: Launch| launch.variable("REDIS_MAX_CONNECTIONS", "3");
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador = limited(
        Launch::redis(server.address()).variable("REDIS_AUTH", &password).variable("REDIS_WARM", "5"),
    )
    .start();
    let mut administrator = server.administrator(&password);
    expect_connections(&mut administrator, 3);
    let mut clients: Vec<_> = (0..3).map(|_| ambassador.connect("redis:6379")).collect();
    clients.iter_mut().for_each(ping);
    assert_eq!(connections(&mut administrator).len(), 3);
    ambassador.connect("redis:6379").expect(fixture("replies/redis-7.0/max-clients.resp"));
    drop(clients);
    eventually("as many as before", || {
        let now = connections(&mut administrator);
        now.len() == 3 && now.iter().all(|id| *id > 0)
    });
}

/// They need file descriptors, which clients then do not have.
#[test]
fn they_count_in_the_limit_of_open_files() {
    let finished =
        Launch::redis("127.0.0.1:6379").variable("REDIS_WARM", "40").descriptors(128, 128).finish();
    assert_eq!(finished.code, Some(1));
    for words in ["40 connections are to be kept ready", "lower REDIS_WARM, or raise the limit"] {
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
    }
    let [Some(without), Some(with)] = [0, 30].map(clients_within_128_descriptors) else { return };
    // A client takes two.
    assert_eq!(without - with, 15, "{without} and {with} clients");
}

/// How many clients are served, until one is told that there are too many.
fn clients_within_128_descriptors(size: usize) -> Option<usize> {
    let password = password();
    let server = RedisServer::start(&format!("requirepass {password}"))?;
    let ambassador = Launch::redis(server.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_WARM", size.to_string())
        .descriptors(128, 128)
        .start();
    let mut clients = Vec::new();
    let refused = loop {
        let mut client = ambassador.connect("redis:6379");
        client.send(b"PING\r\n");
        let line = client.expect_line();
        if line != "+PONG" {
            break line;
        }
        clients.push(client);
    };
    assert_eq!(refused.as_bytes(), fixture("replies/redis-7.0/max-clients.resp").trim_ascii_end());
    ambassador.signal(Signal::TERM);
    let finished = ambassador.finish();
    assert!(!finished.stderr.contains("can't accept"), "{}", finished.stderr);
    Some(clients.len())
}

/// It is a number, and a setting of Redis links.
#[test]
fn a_mistake_in_the_setting_is_told() {
    Launch::redis("cache").variable("REDIS_WARM", "many").finish().expect_mistake("REDIS_WARM");
    Launch::redis("cache").variable("REDIS_WARM", "-1").finish().expect_mistake("REDIS_WARM");
    Launch::plain("db:5432").variable("DB_WARM", "2").finish().expect_mistake("DB_WARM");
}
