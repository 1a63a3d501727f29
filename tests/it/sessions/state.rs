//! What a session brings along to its next upstream, and what it can't bring along.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Connection;

use super::{LINK, counted, sum};
use crate::support::{Ambassador, Launch, Peer, RedisServer, Version, eventually, password};

/// A real server with a password, and an ambassador in front of it.
fn real(version: Version) -> Option<(RedisServer, Ambassador, String)> {
    let password = password();
    let redis = RedisServer::start_version(version, &format!("requirepass {password}"))?;
    let ambassador = Launch::redis(redis.address()).variable("REDIS_AUTH", &password).start();
    Some((redis, ambassador, password))
}

/// What the server says of a client that asks it.
fn info(connection: &mut Connection) -> BTreeMap<String, String> {
    let info: String = redis::cmd("CLIENT").arg("INFO").query(connection).expect("CLIENT INFO");
    let fields = info.split_whitespace().filter_map(|field| field.split_once('='));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Database, protocol, name, library and flags, on every server that knows them.
#[test]
fn state_is_brought_along_on_every_server() {
    for version in Version::ALL {
        let Some((server, ambassador, password)) = real(version) else { continue };
        let address = ambassador.address(LINK);
        for options in ["", "?protocol=resp3"] {
            let client = redis::Client::open(format!("redis://{address}/5{options}")).expect("a URL");
            let mut connection = client.get_connection().expect("a connection");
            for arguments in [
                &["SETNAME", "somebody"][..],
                &["NO-EVICT", "on"],
                &["NO-TOUCH", "on"],
                &["SETINFO", "LIB-NAME", "somelib"],
                &["SETINFO", "LIB-VER", "1.2.3"],
            ] {
                // An older server does not know all of them.
                let _ = redis::cmd("CLIENT").arg(arguments).exec(&mut connection);
            }
            let before = info(&mut connection);
            server.cut(&password);
            let after = info(&mut connection);
            assert_ne!(before["id"], after["id"], "{}", version.name());
            for field in ["name", "db", "resp", "lib-name", "lib-ver", "flags", "user"] {
                let (before, after) = (before.get(field), after.get(field));
                assert_eq!(before, after, "{field} at {}{options}", version.name());
            }
            assert_eq!(after["db"], "5");
        }
    }
}

/// A replica of a cluster that reads may go to says so on every connection.
#[test]
fn readonly_is_brought_along() {
    for version in Version::ALL {
        let password = password();
        let configuration = format!("requirepass {password}\ncluster-enabled yes");
        let Some(server) = RedisServer::start_version(version, &configuration) else { continue };
        let ambassador = Launch::redis(server.address()).variable("REDIS_AUTH", &password).start();
        let client = redis::Client::open(format!("redis://{}/", ambassador.address(LINK))).expect("a URL");
        let mut connection = client.get_connection().expect("a connection");
        for (said, is_readonly) in [("READONLY", true), ("READWRITE", false)] {
            redis::cmd(said).exec(&mut connection).expect("an answer");
            server.cut(&password);
            let flags = &info(&mut connection)["flags"];
            assert_eq!(flags.contains('r'), is_readonly, "{said}: {flags} at {}", version.name());
        }
    }
}

/// What was refused is no state, and the last of what was not is the one that counts.
#[test]
fn what_was_refused_is_not_brought_along() {
    let Some((server, ambassador, password)) = real(Version::Redis70) else { return };
    let mut client = ambassador.connect(LINK);
    client.send(
        b"SELECT 2\r\nSELECT 99\r\nSELECT x\r\nSELECT\r\nCLIENT SETNAME good\r\nCLIENT SETNAME \"b d\"\r\n\
          CLIENT SETNAME\r\nHELLO 4\r\nHELLO 3 SETNAME \"b d\"\r\nSET k two\r\n",
    );
    for line in ["+OK", "-ERR", "-ERR", "-ERR", "+OK", "-ERR", "-ERR", "-NOPROTO", "-ERR", "+OK"] {
        let heard = client.expect_line();
        assert!(heard.starts_with(line), "{heard} instead of {line}");
    }
    server.cut(&password);
    client.send(b"GET k\r\nCLIENT GETNAME\r\nGET none\r\n");
    client.expect(b"$3\r\ntwo\r\n$4\r\ngood\r\n$-1\r\n");
    // A name that is taken away is away.
    client.send(b"CLIENT SETNAME \"\"\r\nSELECT 0\r\n");
    client.expect(b"+OK\r\n+OK\r\n");
    server.cut(&password);
    client.send(b"GET k\r\nCLIENT GETNAME\r\n");
    client.expect(b"$-1\r\n$-1\r\n");
}

/// RESET takes all of it away, but for what the link itself wants.
#[test]
fn nothing_from_before_a_reset_is_brought_along() {
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador =
        Launch::redis(server.address()).variable("REDIS_AUTH", &password).variable("REDIS_DB", "3").start();
    let client = redis::Client::open(format!("redis://{}/", ambassador.address(LINK))).expect("a URL");
    let mut connection = client.get_connection().expect("a connection");
    let fresh = info(&mut connection);
    let mut pipeline = redis::pipe();
    pipeline.cmd("HELLO").arg(&["3", "SETNAME", "somebody"]).cmd("SELECT").arg(6).cmd("RESET");
    pipeline.exec(&mut connection).expect("a RESET");
    for _ in 0..2 {
        let after = info(&mut connection);
        for field in ["name", "db", "resp", "user"] {
            assert_eq!(fresh[field], after[field], "{field}");
        }
        server.cut(&password);
    }
}

/// A database that a transaction chooses is the client's from EXEC on; nobody is ever served from another one.
#[test]
fn a_database_that_a_transaction_chooses_is_never_mistaken() {
    let Some((server, ambassador, password)) = real(Version::Redis70) else { return };
    for (end, answer) in [("EXEC", "*1\r\n+OK\r\n"), ("DISCARD", "+OK\r\n")] {
        let mut client = ambassador.connect(LINK);
        client
            .send(format!("SELECT 6\r\nSET k six\r\nSELECT 0\r\nMULTI\r\nSELECT 6\r\n{end}\r\n").as_bytes());
        client.expect(format!("+OK\r\n+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n{answer}").as_bytes());
        drop(server.end_clients(&password));
        let answer = client.try_send(b"GET k\r\n").ok().and_then(|()| try_line(&mut client));
        match end {
            // Who would rather be safe ends the connection.
            "EXEC" => assert!(answer.as_deref().is_none_or(|line| line == "$3"), "{answer:?}"),
            // Nothing of it was executed, so that there is nothing to be brought along.
            _ => assert_eq!(answer.as_deref(), Some("$-1")),
        }
    }
}

fn try_line(client: &mut Peer) -> Option<String> {
    use std::io::Read as _;
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        match client.read(&mut byte) {
            Ok(1) => line.push(byte[0]),
            _ => return None,
        }
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).ok()
}

/// What is said, how it is answered, and what takes it back and is answered by what, if anything does.
const PINNED: [[&str; 4]; 9] = [
    ["MULTI\r\n", "+OK\r\n", "DISCARD\r\n", "+OK\r\n"],
    ["MULTI\r\nPING\r\n", "+OK\r\n+QUEUED\r\n", "EXEC\r\n", "*1\r\n+PONG\r\n"],
    ["WATCH k\r\n", "+OK\r\n", "UNWATCH\r\n", "+OK\r\n"],
    ["WATCH k\r\n", "+OK\r\n", "MULTI\r\nEXEC\r\n", "+OK\r\n*0\r\n"],
    [
        "SUBSCRIBE a\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
        "UNSUBSCRIBE a\r\n",
        "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n",
    ],
    [
        "PSUBSCRIBE a*\r\n",
        "*3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:1\r\n",
        "PUNSUBSCRIBE\r\n",
        "*3\r\n$12\r\npunsubscribe\r\n$2\r\na*\r\n:0\r\n",
    ],
    ["MONITOR\r\n", "+OK\r\n", "", ""],
    ["CLIENT REPLY OFF\r\nPING\r\n", "", "CLIENT REPLY ON\r\n", "+OK\r\n"],
    // The client's own authentication goes to the server as it is, unless the link says otherwise.
    ["AUTH default secret\r\n", "+OK\r\n", "", ""],
];

/// What can't be brought along ends the session with its upstream, and counts no longer than it lasts.
#[test]
fn a_session_that_can_not_be_moved_ends_with_its_upstream() {
    let Some(server) = RedisServer::start("requirepass secret") else { return };
    let ambassador = Launch::redis(server.address()).variable("REDIS_AUTH", "secret").start();
    for [said, heard, back, answer] in PINNED {
        let mut client = ambassador.connect(LINK);
        client.send(said.as_bytes());
        client.expect(heard.as_bytes());
        if heard.is_empty() {
            client.expect_silence(Duration::from_millis(50));
        }
        drop(server.end_clients("secret"));
        client.expect_gone();
        drop(client);
        if back.is_empty() {
            continue;
        }
        let mut client = ambassador.connect(LINK);
        client.send(said.as_bytes());
        client.expect(heard.as_bytes());
        client.send(back.as_bytes());
        client.expect(answer.as_bytes());
        server.cut("secret");
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
    }
    assert_eq!(sum(&ambassador, "pinned_total"), PINNED.len());
}

/// A command that the server does not know has left nothing behind.
#[test]
fn what_the_server_does_not_know_pins_nothing() {
    let Some((server, ambassador, password)) = real(Version::Redis70) else { return };
    let mut client = ambassador.connect(LINK);
    client.send(b"NONSENSE\r\nCLIENT NONSENSE\r\n");
    for _ in 0..2 {
        assert!(client.expect_line().starts_with("-ERR unknown"));
    }
    drop(server.end_clients(&password));
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// A client that has its keys tracked would miss what changes in the gap.
#[test]
fn tracking_ends_with_its_upstream() {
    let Some((server, ambassador, password)) = real(Version::Redis70) else { return };
    let hello = |client: &mut Peer| {
        client.send(b"HELLO 3\r\nCLIENT TRACKING ON\r\n");
        while client.expect_line() != "*0" {}
        client.expect(b"+OK\r\n");
    };
    let mut client = ambassador.connect(LINK);
    hello(&mut client);
    drop(server.end_clients(&password));
    client.expect_gone();
    drop(client);
    let mut client = ambassador.connect(LINK);
    hello(&mut client);
    client.send(b"CLIENT TRACKING OFF\r\n");
    client.expect(b"+OK\r\n");
    server.cut(&password);
    client.send(b"PING\r\nGET none\r\n");
    client.expect(b"+PONG\r\n_\r\n");
}

/// `WAIT` for writes that another upstream took would be a false promise.
#[test]
fn a_wait_for_writes_from_before_an_exchange_ends_the_session() {
    let Some((server, ambassador, password)) = real(Version::Redis70) else { return };
    let mut client = ambassador.connect(LINK);
    client.send(b"SET k v\r\n");
    client.expect(b"+OK\r\n");
    server.cut(&password);
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    client.send(b"WAIT 0 100\r\n");
    client.expect_gone();
    // Who has written nothing before waits for nothing.
    let mut client = ambassador.connect(LINK);
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    server.cut(&password);
    client.send(b"SET k w\r\nWAIT 0 100\r\n");
    client.expect(b"+OK\r\n:0\r\n");
}

/// `SESSIONS=off`: a connection ends with its upstream, as it always did.
#[test]
fn without_sessions_a_client_ends_with_its_upstream() {
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador = Launch::redis(server.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_SESSIONS", "off")
        .start();
    let mut client = ambassador.connect(LINK);
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    drop(server.end_clients(&password));
    client.expect_end();
    // Its own end is all that it can say now.
    client.finish_sending();
    eventually("nobody is there", || counted(&ambassador, "connections_active{link=\"redis:6379\"}") == 0);
    assert_eq!(sum(&ambassador, "exchanges_total"), 0);
}

/// Where there is no server any more, a client hears it after the connect timeout, as a new one would.
#[test]
fn a_client_is_told_where_there_is_no_other_upstream() {
    let password = password();
    let Some(mut server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador = Launch::redis(server.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_CONNECT_TIMEOUT", "1s")
        .start();
    let mut client = ambassador.connect(LINK);
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    server.stop();
    // Who says nothing needs no upstream.
    client.expect_silence(Duration::from_millis(300));
    client.send(b"GET k\r\n");
    let words = client.expect_refusal(LINK);
    assert!(words.contains("refused"), "{words}");
}
