//! Idle limits cut upstreams, and no client notices.

use std::io::Read;

use super::{LINK, counted, exchanges};
use crate::support::{Authority, Launch, Peer, RedisServer, TlsPeer, password, redis_over_tls};
use crate::tls::launch_over_tls;

/// A client, over TLS or not.
trait Talk: Read {
    fn say(&mut self, bytes: &[u8]);
    fn hear(&mut self, bytes: &[u8]);
}

impl Talk for Peer {
    fn say(&mut self, bytes: &[u8]) {
        self.send(bytes);
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.expect(bytes);
    }
}

impl Talk for TlsPeer {
    fn say(&mut self, bytes: &[u8]) {
        self.send(bytes);
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.expect(bytes);
    }
}

/// What clients say when they have come, what they ask in every round, and what has to be answered each time.
const MANNERS: [[&str; 3]; 3] = [
    ["PING\r\n", "GET who\r\nCLIENT GETNAME\r\n", "$1\r\n3\r\n$-1\r\n"],
    [
        "SELECT 5\r\nCLIENT SETNAME five\r\n",
        "GET who\r\nCLIENT GETNAME\r\nGET none\r\n",
        "$1\r\n5\r\n$4\r\nfive\r\n$-1\r\n",
    ],
    [
        "HELLO 3 SETNAME seven\r\nSELECT 7\r\n",
        "GET who\r\nCLIENT GETNAME\r\nGET none\r\nHGETALL hash\r\n",
        "$1\r\n7\r\n$5\r\nseven\r\n_\r\n%1\r\n$5\r\nfield\r\n$5\r\nvalue\r\n",
    ],
];

/// As many clients of each manner as make a hundred rounds of it in three.
const CLIENTS: usize = 34;

/// What a server has to be for them; the link's own database is 3.
fn fill(server: &RedisServer, password: &str) -> redis::Connection {
    let mut administrator = server.administrator(password);
    for database in [3, 5, 7] {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SELECT").arg(database).cmd("SET").arg("who").arg(database);
        pipeline.cmd("HSET").arg(&["hash", "field", "value"]);
        pipeline.exec(&mut administrator).expect("data");
    }
    administrator
}

/// Every client is quiet for longer than the server bears, three times.
fn be_quiet(clients: &mut [(usize, impl Talk)], server: &RedisServer, administrator: &mut redis::Connection) {
    for (manner, client) in &mut *clients {
        let [greeting, ..] = MANNERS[*manner];
        client.say(greeting.as_bytes());
        client.say(b"ECHO end\r\n");
        let mut answer = Vec::new();
        while !answer.ends_with(b"$3\r\nend\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("an answer");
            answer.extend(byte);
        }
    }
    for _ in 0..3 {
        server.wait_until_alone(administrator);
        // All come back at once.
        for (manner, client) in &mut *clients {
            client.say(MANNERS[*manner][1].as_bytes());
        }
        for (manner, client) in &mut *clients {
            client.hear(MANNERS[*manner][2].as_bytes());
        }
    }
}

/// RESP2 and RESP3, with a database and a name of the client's own: a hundred rounds of each without an error, and
/// all is right each time.
#[test]
fn an_idle_limit_costs_no_client_anything() {
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}\ntimeout 2")) else { return };
    let mut administrator = fill(&server, &password);
    let ambassador =
        Launch::redis(server.address()).variable("REDIS_AUTH", &password).variable("REDIS_DB", "3").start();
    let mut clients: Vec<_> = (0..CLIENTS)
        .flat_map(|_| (0..MANNERS.len()).map(|manner| (manner, ambassador.connect(LINK))))
        .collect();
    be_quiet(&mut clients, &server, &mut administrator);
    let count = CLIENTS * MANNERS.len();
    assert_eq!(exchanges(&ambassador, "closed"), 3 * count, "each client three times");
    assert_eq!(counted(&ambassador, "connections_active{link=\"redis:6379\"}"), count);
}

/// The same over TLS on both sides.
#[test]
fn an_idle_limit_costs_no_client_anything_over_tls() {
    let password = password();
    let authority = Authority::new("Test CA");
    let configuration = format!("tls-auth-clients no\ntimeout 2\nrequirepass {password}");
    let Some((server, address)) = redis_over_tls(&authority, &configuration) else { return };
    let mut administrator = fill(&server, &password);
    let ambassador = launch_over_tls(address, &authority)
        .listen_tls("REDIS", &authority.issue(&["127.0.0.1"]))
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_DB", "3")
        .start();
    let config = authority.client(None);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|number| (number % MANNERS.len(), TlsPeer::connect(ambassador.address("redis:6379"), &config)))
        .collect();
    be_quiet(&mut clients, &server, &mut administrator);
}

/// The next command is all that a session needs to have an upstream again, whatever it is: a large one, one in pieces,
/// a pipeline, one that blocks.
#[test]
fn whatever_comes_first_after_a_cut_is_answered() {
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador = Launch::redis(server.address()).variable("REDIS_AUTH", &password).start();
    let mut client = ambassador.connect(LINK);
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    let value = "v".repeat(300_000);
    let large = format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$300000\r\n{value}\r\n");
    let answer = format!("$300000\r\n{value}\r\n");
    for (said, heard) in [
        ("PING\r\n", "+PONG\r\n"),
        (&*large, "+OK\r\n"),
        ("GET a\r\n", &*answer),
        ("SET b 1\r\nINCR b\r\nGET b\r\nINCR b\r\n", "+OK\r\n:2\r\n$1\r\n2\r\n:3\r\n"),
        ("\r\n\r\nINCR b\r\n", ":4\r\n"),
        ("BLPOP none 0.1\r\n", "*-1\r\n"),
        ("MULTI\r\nINCR b\r\nEXEC\r\n", "+OK\r\n+QUEUED\r\n*1\r\n:5\r\n"),
        ("EVAL \"return redis.call('INCR', 'b')\" 0\r\n", ":6\r\n"),
    ] {
        server.cut(&password);
        let (head, tail) = said.as_bytes().split_at(said.len().min(3));
        client.send(head);
        client.send(tail);
        client.expect(heard.as_bytes());
    }
}
