//! How many connections the server sees.

use super::life::connections;
use super::wire::Wire;
use super::{LINK, real, real_version, sharing, upstreams};
use crate::support::{Ambassador, Launch, Peer, RedisServer, Version, eventually};

const CLIENTS: usize = 200;

/// Upstreams a thread, and threads.
const SHARED: usize = 2;
const THREADS: usize = 2;

struct Stage {
    _server: RedisServer,
    ambassador: Ambassador,
    administrator: redis::Connection,
}

impl Stage {
    fn start() -> Option<Self> {
        Self::start_version(Version::Redis70)
    }

    fn start_version(version: Version) -> Option<Self> {
        let (server, ambassador, password) = real_version(version, "", SHARED, THREADS)?;
        let administrator = server.administrator(&password);
        Some(Self { _server: server, ambassador, administrator })
    }

    fn clients(&self, count: usize) -> Vec<Peer> {
        (0..count).map(|_| self.ambassador.connect(LINK)).collect()
    }

    /// How many connections the server has beside the administrator's.
    fn connections(&mut self) -> usize {
        let list: String =
            redis::cmd("CLIENT").arg("LIST").query(&mut self.administrator).expect("CLIENT LIST");
        list.lines().count() - 1
    }

    /// How many AUTHs the server has had.
    fn authentications(&mut self) -> usize {
        let info: String =
            redis::cmd("INFO").arg("commandstats").query(&mut self.administrator).expect("INFO");
        let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_auth:calls="));
        calls.and_then(|calls| calls.split(',').next()?.parse().ok()).expect("AUTHs")
    }

    #[track_caller]
    fn has_at_most(&mut self, most: usize) {
        let connections = self.connections();
        assert!(connections <= most, "{connections} connections, not {most}");
        let shared = upstreams(&self.ambassador, "shared");
        assert!(shared <= most, "{shared} shared upstreams, not {most}");
    }

    #[track_caller]
    fn has_at_most_in_the_end(&mut self, most: usize) {
        // Some of those that were lent are kept ready for who needs one next.
        let most = most + READY;
        eventually(&format!("the server has at most {most} connections"), || self.connections() <= most);
        eventually("nobody has one of its own", || {
            ["own", "lent"].iter().all(|kind| upstreams(&self.ambassador, kind) == 0)
        });
    }

    /// What the metric says of the kinds, and what the server has, agree.
    #[track_caller]
    fn agrees(&mut self) {
        eventually("the metrics and the server agree", || {
            let kinds = ["own", "shared", "lent", "ready"].map(|kind| upstreams(&self.ambassador, kind));
            kinds.iter().sum::<usize>() == self.connections()
        });
    }
}

#[track_caller]
fn say(clients: &mut [Peer], said: &str, heard: &str) {
    for client in &mut *clients {
        client.send(said.as_bytes());
    }
    for client in clients {
        client.expect(heard.as_bytes());
    }
}

/// So many that were lent are kept.
const READY: usize = 32;

/// Two hundred clients that ask for something, at the same time and one after the other.
#[test]
fn many_clients_need_few_connections() {
    let Some(mut stage) = Stage::start() else { return };
    let mut clients = stage.clients(CLIENTS);
    // Those say nothing.
    let _silent = stage.clients(50);
    for _ in 0..5 {
        say(&mut clients, "SET k v\r\nGET k\r\n", "+OK\r\n$1\r\nv\r\n");
        stage.has_at_most(SHARED * THREADS);
    }
    for client in &mut clients {
        say(std::slice::from_mut(client), "GET k\r\n", "$1\r\nv\r\n");
    }
    stage.has_at_most(SHARED * THREADS);
    assert!(upstreams(&stage.ambassador, "shared") > 0);
    stage.agrees();
}

/// A thread shares with no other one: each has as many as there may be, once the first one is full.
#[test]
fn each_thread_has_its_own() {
    let Some(mut stage) = Stage::start() else { return };
    let mut clients = stage.clients(CLIENTS);
    say(&mut clients, "SET k v\r\nGET k\r\n", "+OK\r\n$1\r\nv\r\n");
    assert_eq!(upstreams(&stage.ambassador, "shared"), SHARED);
    clients.extend(stage.clients(CLIENTS));
    say(&mut clients, "SET k v\r\nGET k\r\n", "+OK\r\n$1\r\nv\r\n");
    assert_eq!(upstreams(&stage.ambassador, "shared"), SHARED * THREADS);
    assert_eq!(stage.connections(), SHARED * THREADS);
}

/// Where no more can be had, those that are there serve all.
#[test]
fn a_server_that_takes_no_more_connections_serves_all_by_those_it_has() {
    let Some(mut stage) = Stage::start() else { return };
    let mut clients = stage.clients(1);
    say(&mut clients, "SET k v\r\n", "+OK\r\n");
    // The administrator's and one more.
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "2"]).exec(&mut stage.administrator).expect("CONFIG SET");
    clients.extend(stage.clients(9));
    say(&mut clients, "GET k\r\n", "$1\r\nv\r\n");
    assert_eq!(stage.connections(), 1);
}

/// Where no role is asked for, a write that a replica refuses is refused: another connection to it would be told the same.
#[test]
fn what_a_replica_refuses_is_refused_at_once() {
    let Some(other) = RedisServer::start("") else { return };
    let (ip, port) = (other.address().ip(), other.address().port());
    let Some(replica) = RedisServer::start(&format!("replicaof {ip} {port}")) else { return };
    let both = format!("redis://{},{}", replica.address(), other.address());
    let launch = Launch::redis(replica.address()).variable("REDIS_PORT_6379_TCP", both);
    let ambassador = sharing(launch, 1, 1).start();
    let mut administrator = replica.administrator("");
    let mut dialled = || -> u64 {
        let info: String = redis::cmd("INFO").arg("stats").query(&mut administrator).expect("INFO");
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.and_then(|count| count.trim().parse().ok()).expect("a number of connections")
    };
    let before = dialled();
    let mut client = ambassador.connect(LINK);
    for _ in 0..5 {
        client.send(b"SET k v\r\n");
        client.expect(b"-READONLY You can't write against a read only replica.\r\n");
        client.send(b"GET k\r\n");
        client.expect(b"$-1\r\n");
    }
    assert!(dialled() - before <= 1 + 2 * 5, "{} connections", dialled() - before);
}

/// A server with too many clients says so unasked, and is no other server for that: clients share it when it has room again.
#[test]
fn a_server_without_room_is_shared_when_it_has_room_again() {
    let Some(server) = RedisServer::start("") else { return };
    let mut administrator = server.administrator("");
    let address = format!("redis://{}", server.address());
    let launch = Launch::redis(server.address()).variable("REDIS_PORT_6379_TCP", address);
    let ambassador = sharing(launch, 1, 1).start();
    let room = |administrator: &mut redis::Connection, clients: &str| {
        redis::cmd("CONFIG").arg(&["SET", "maxclients", clients]).exec(administrator).expect("CONFIG SET");
    };
    room(&mut administrator, "1");
    for refused in 1..=5 {
        // It says nothing: what the server says is nobody's.
        let _quiet = ambassador.connect(LINK);
        eventually("a refused connection", || {
            ambassador.logged(|line| line["message"].to_string().contains("shared connection closed")).len()
                >= refused
        });
    }
    room(&mut administrator, "100");
    let mut clients: Vec<_> = (0..9).map(|_| ambassador.connect(LINK)).collect();
    for client in &mut clients {
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
    }
    assert_eq!(upstreams(&ambassador, "shared"), 1);
}

/// What needs an upstream of its own has it for as long as it needs it.
#[test]
fn after_transactions_and_waits_few_connections_are_left() {
    let Some(mut stage) = Stage::start() else { return };
    let mut clients = stage.clients(CLIENTS);
    say(&mut clients, "SET k v\r\n", "+OK\r\n");
    for (said, heard) in [
        ("MULTI\r\nGET k\r\nEXEC\r\n", "+OK\r\n+QUEUED\r\n*1\r\n$1\r\nv\r\n"),
        ("BLPOP none 0.01\r\n", "*-1\r\n"),
        ("WATCH k\r\nUNWATCH\r\n", "+OK\r\n+OK\r\n"),
        ("EVAL \"return redis.call('GET', 'k')\" 0\r\n", "$1\r\nv\r\n"),
    ] {
        say(&mut clients, said, heard);
        say(&mut clients, "GET k\r\n", "$1\r\nv\r\n");
        stage.has_at_most_in_the_end(SHARED * THREADS);
    }
    stage.agrees();
}

/// Publishers share too: a message leaves nothing behind.
#[test]
fn publishers_need_few_connections() {
    let Some(mut stage) = Stage::start() else { return };
    let mut clients = stage.clients(CLIENTS);
    for _ in 0..5 {
        say(&mut clients, "PUBLISH c v\r\nSPUBLISH c v\r\n", ":0\r\n:0\r\n");
        stage.has_at_most(SHARED * THREADS);
    }
    stage.agrees();
}

/// What was lent is lent again to who is in the same database and protocol, and not dialled for every command.
#[test]
fn what_was_lent_serves_the_next_in_the_same_state() {
    const ROUNDS: usize = 50;
    for state in ["SELECT 3\r\n", "HELLO 3\r\n", "HELLO 3\r\nSELECT 3\r\n"] {
        let Some((server, ambassador, password)) = real("", 1, 1) else { return };
        let mut wires = [(); 2].map(|()| Wire::connect(ambassador.address(LINK)));
        for wire in &mut wires {
            wire.say(state.as_bytes());
            assert!(state.lines().all(|_| wire.hear().is_ok_and(|reply| !reply.starts_with(b"-"))));
        }
        let before = connections(&server, &password);
        for round in 0..ROUNDS {
            for wire in &mut wires {
                wire.say(format!("EVAL \"return redis.call('SET', 'k', {round})\" 0\r\n").as_bytes());
                assert_eq!(wire.hear().as_deref(), Ok(&b"+OK\r\n"[..]));
                wire.say(b"STRLEN k\r\n");
                assert_eq!(
                    wire.hear().as_deref(),
                    Ok(format!(":{}\r\n", round.to_string().len()).as_bytes())
                );
            }
        }
        let dialled = connections(&server, &password) - before;
        assert!(dialled < ROUNDS / 5, "{dialled} connections in {state}");
    }
}

/// In the midst of a transaction, or blocked, a client has one to itself.
#[test]
fn what_is_lent_is_counted() {
    const EACH: usize = 5;
    let Some(mut stage) = Stage::start() else { return };
    let mut others = stage.clients(20);
    say(&mut others, "SET k v\r\n", "+OK\r\n");
    assert_eq!(upstreams(&stage.ambassador, "lent"), 0);
    let mut transactions = stage.clients(EACH);
    say(&mut transactions, "MULTI\r\n", "+OK\r\n");
    assert_eq!(upstreams(&stage.ambassador, "lent"), EACH);
    let mut blocked = stage.clients(EACH);
    say(&mut blocked, "GET k\r\nBLPOP queue 0\r\n", "$1\r\nv\r\n");
    eventually("they block", || upstreams(&stage.ambassador, "lent") == 2 * EACH);
    let mut subscribers = stage.clients(EACH);
    say(&mut subscribers, "SUBSCRIBE c\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    assert_eq!(upstreams(&stage.ambassador, "own"), EACH);
    stage.agrees();
    say(&mut transactions, "EXEC\r\n", "*0\r\n");
    for _ in 0..EACH {
        say(&mut others[..1], "RPUSH queue v\r\n", ":1\r\n");
    }
    for client in &mut blocked {
        client.expect(b"*2\r\n$5\r\nqueue\r\n$1\r\nv\r\n");
    }
    drop(subscribers);
    say(&mut transactions, "GET k\r\n", "$1\r\nv\r\n");
    stage.has_at_most_in_the_end(SHARED * THREADS);
}

/// Clients that come and go leave no connection behind, however they go.
#[test]
fn clients_that_have_gone_leave_no_connection_behind() {
    let Some(mut stage) = Stage::start() else { return };
    for said in [
        "GET k\r\n",
        "GET k\r\n*2\r\n$3\r\nGET\r\n$10\r\nhalf",
        "MULTI\r\nGET k\r\n",
        "BLPOP none 0\r\n",
        "SUBSCRIBE c\r\n",
        "MONITOR\r\n",
        "CLIENT REPLY OFF\r\n",
        "HELLO 3\r\nCLIENT TRACKING ON\r\n",
        "*x\r\n",
        "",
    ] {
        for resets in [false, true] {
            for mut client in stage.clients(10) {
                client.send(said.as_bytes());
                if resets {
                    client.reset();
                }
            }
        }
    }
    // RESP2 and RESP3.
    stage.has_at_most_in_the_end(2 * SHARED * THREADS);
    stage.agrees();
}

/// Every database and protocol has its own, which is known of each.
#[test]
fn a_state_is_shared_by_those_who_are_in_it() {
    let Some(mut stage) = Stage::start() else { return };
    let mut clients = stage.clients(CLIENTS);
    for (number, client) in clients.iter_mut().enumerate() {
        let database = number % 3;
        client.send(format!("SELECT {database}\r\nSET who {database}\r\n").as_bytes());
        client.expect(b"+OK\r\n+OK\r\n");
    }
    for _ in 0..5 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(b"GET who\r\n");
            client.expect(format!("$1\r\n{}\r\n", number % 3).as_bytes());
        }
    }
    stage.has_at_most_in_the_end(3 * SHARED * THREADS);
}

/// What client libraries say first. Not every version of Redis knows all of it.
fn introduces_itself(client: &mut Peer, hello: &str) {
    client.send(format!("{hello}PING\r\nSELECT 2\r\n").as_bytes());
    let answer = client.receive_until(b"+PONG\r\n+OK\r\n");
    assert_eq!(
        answer.first(),
        Some(if hello.is_empty() { &b'+' } else { &b'%' }),
        "{}",
        answer.escape_ascii()
    );
    client.send(b"CLIENT SETINFO LIB-NAME lib\r\nCLIENT SETNAME me\r\n");
    let answer = client.expect_line();
    assert!(answer == "+OK" || answer.to_lowercase().starts_with("-err unknown subcommand"), "{answer}");
    client.expect(b"+OK\r\n");
}

/// Who says what he is, and which database he wants, is answered where that is so already: the server sees the upstreams of
/// each state, and those that are lent until there are some.
#[test]
fn an_introduction_needs_no_connection() {
    const ROUNDS: usize = 30;
    const STATES: usize = 4;
    for version in Version::ALL {
        let Some(mut stage) = Stage::start_version(version) else { continue };
        let before = stage.authentications();
        for hello in ["", "HELLO 3\r\n"] {
            for _ in 0..ROUNDS {
                let mut client = stage.clients(1).remove(0);
                introduces_itself(&mut client, hello);
                // Another time, and back.
                client.send(b"SELECT 0\r\nGET k\r\nSELECT 2\r\n");
                client.receive_until(b"\r\n+OK\r\n");
                // The name is his own, where it is asked for.
                client.send(b"CLIENT GETNAME\r\n");
                client.expect(b"$2\r\nme\r\n");
                client.send(b"INCR n\r\n");
                client.expect_line();
            }
        }
        let authentications = stage.authentications() - before;
        assert!(authentications <= STATES * (SHARED + 1) + 2, "{authentications}: {}", version.name());
    }
}

/// A database that there is not is not his, and what comes behind it goes to the one that he has.
#[test]
fn a_refused_introduction_changes_nothing() {
    let Some(stage) = Stage::start() else { return };
    let mut clients = stage.clients(3);
    // There is an upstream in RESP3 as well.
    let mut other = stage.clients(1).remove(0);
    for said in ["HELLO 3\r\nPING\r\n", "GET k\r\nPING\r\n"] {
        other.send(said.as_bytes());
        other.receive_until(b"+PONG\r\n");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("SELECT {number}\r\nSET who {number}\r\n").as_bytes());
        client.expect(b"+OK\r\n+OK\r\n");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        for refused in
            ["SELECT 99", "SELECT 01", "SELECT 1 2", "CLIENT SETNAME \"a b\"", "HELLO 4", "HELLO 3 x"]
        {
            client.send(format!("{refused}\r\nGET who\r\n").as_bytes());
            let reply = client.receive_until(format!("$1\r\n{number}\r\n").as_bytes());
            assert!(reply.starts_with(b"-"), "{refused}: {}", reply.escape_ascii());
        }
    }
}

/// What a session has set on an upstream that was lent to it is taken away before the next one has it.
#[test]
fn what_was_lent_comes_back_as_new() {
    let hellos = ["", "HELLO 3\r\n"];
    for (version, hello) in Version::ALL.into_iter().flat_map(|version| hellos.map(|hello| (version, hello)))
    {
        let Some(mut stage) = Stage::start_version(version) else { continue };
        let mut clients = stage.clients(2);
        let (first, second) = clients.split_at_mut(1);
        let (first, second) = (&mut first[0], &mut second[0]);
        second.send(b"SET who 0\r\n");
        second.expect(b"+OK\r\n");
        introduces_itself(first, hello);
        first.send(b"SET who 2\r\n");
        first.expect(b"+OK\r\n");
        let before = stage.authentications();
        for _ in 0..10 {
            for (client, who, name) in [(&mut *first, 2, "$2\r\nme\r\n"), (&mut *second, 0, "$-1\r\n")] {
                client.send(b"MULTI\r\nCLIENT GETNAME\r\nGET who\r\nEXEC\r\n");
                let queued = "+QUEUED\r\n".repeat(2);
                client.expect(format!("+OK\r\n{queued}*2\r\n{name}$1\r\n{who}\r\n").as_bytes());
                client.send(b"GET who\r\n");
                client.expect(format!("$1\r\n{who}\r\n").as_bytes());
                eventually("it is ready again", || upstreams(&stage.ambassador, "ready") > 0);
            }
        }
        // One for each of the two, which may need it at the same time.
        let authentications = stage.authentications() - before;
        assert!(authentications <= 2, "{authentications}: {}", version.name());
    }
}
