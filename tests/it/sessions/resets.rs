//! RESET in front of every server: it is answered by the same connection, and the link's own handshake follows.

use std::fs;
use std::time::{Duration, Instant};

use super::LINK;
use crate::support::{Ambassador, Launch, Peer, RedisServer, Version, password};

/// A server with the user `app`, and a client's view of it in database 3.
fn real(version: Version, change: impl Fn(Launch) -> Launch) -> Option<(RedisServer, Ambassador)> {
    let secret = password();
    let configuration = format!("requirepass {}\nuser app on >{secret} ~* &* +@all", password());
    let server = RedisServer::start_version(version, &configuration)?;
    let launch = Launch::redis(server.address())
        .variable("REDIS_USERNAME", "app")
        .variable("REDIS_AUTH", &secret)
        .variable("REDIS_DB", "3");
    Some((server, change(launch).start()))
}

/// The number of the connection that a client has at the server.
fn id(client: &mut Peer) -> String {
    client.send(b"CLIENT ID\r\n");
    client.expect_line()
}

/// User, database and connection are what they were, between commands and in one write with others.
#[test]
fn after_a_reset_all_is_as_at_first_on_every_server() {
    a_reset_changes_nothing(|launch| launch, id);
}

/// The same of a link with more settings, and of what else has to be the same afterwards.
pub(crate) fn a_reset_changes_nothing(
    change: impl Fn(Launch) -> Launch,
    looks: impl Fn(&mut Peer) -> String,
) {
    for version in Version::ALL {
        let Some((_server, ambassador)) = real(version, &change) else { continue };
        let mut client = ambassador.connect(LINK);
        client.send(b"SET k three\r\n");
        client.expect(b"+OK\r\n");
        let before = looks(&mut client);
        for said in
            ["RESET\r\n", "SELECT 5\r\nRESET\r\n", "MULTI\r\nGET k\r\nRESET\r\n", "SUBSCRIBE a\r\nRESET\r\n"]
        {
            client.send(said.as_bytes());
            while client.expect_line() != "+RESET" {}
            client.send(b"ACL WHOAMI\r\nGET k\r\n");
            client.expect(b"$3\r\napp\r\n$5\r\nthree\r\n");
            assert_eq!(looks(&mut client), before, "another connection at {}", version.name());
        }
        client.send(&b"RESET\r\nGET k\r\n".repeat(50));
        client.expect(&b"+RESET\r\n$5\r\nthree\r\n".repeat(50));
        assert_eq!(looks(&mut client), before, "another connection at {}", version.name());
    }
}

/// A file is ahead of the server: what was good so far still is, and costs no wait.
#[test]
fn a_reset_while_the_file_is_ahead_is_served_at_once_on_every_server() {
    for version in Version::ALL {
        let old = password();
        let Some(server) = RedisServer::start_version(version, &format!("requirepass {old}")) else {
            continue;
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("password");
        fs::write(&file, &old).expect("a file");
        let ambassador = Launch::redis(server.address()).variable("REDIS_AUTH_FILE", &file).start();
        let mut clients: Vec<_> = (0..3).map(|_| ambassador.connect(LINK)).collect();
        for client in &mut clients {
            client.send(b"PING\r\n");
            client.expect(b"+PONG\r\n");
        }
        fs::write(&file, password()).expect("a file");
        for client in &mut clients {
            let begun = Instant::now();
            client.send(b"ECHO before\r\nRESET\r\nECHO behind\r\n");
            client.expect(b"$6\r\nbefore\r\n+RESET\r\n$6\r\nbehind\r\n");
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(1), "{took:?} at {}", version.name());
        }
    }
}

/// The server is ahead of the file: the client waits until the file follows.
#[test]
fn a_reset_while_the_server_is_ahead_waits_for_the_file_on_every_server() {
    for version in Version::ALL {
        let (old, new) = (password(), password());
        let Some(server) = RedisServer::start_version(version, &format!("requirepass {old}")) else {
            continue;
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("password");
        fs::write(&file, &old).expect("a file");
        let ambassador = Launch::redis(server.address()).variable("REDIS_AUTH_FILE", &file).start();
        let mut client = ambassador.connect(LINK);
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
        let mut set = redis::cmd("CONFIG");
        set.arg("SET")
            .arg("requirepass")
            .arg(&new)
            .exec(&mut server.administrator(&old))
            .expect("a password");
        client.send(b"RESET\r\nPING\r\n");
        client.expect(b"+RESET\r\n");
        client.expect_silence(Duration::from_millis(100));
        fs::write(&file, &new).expect("a file");
        client.expect(b"+PONG\r\n");
    }
}

/// Servers of several versions behind one link, each of which clients send to.
#[test]
fn servers_of_several_versions_all_know_reset() {
    let secret = password();
    let configuration = format!("requirepass {secret}");
    let servers: Vec<_> = Version::ALL
        .iter()
        .filter_map(|version| RedisServer::start_version(*version, &configuration))
        .collect();
    if servers.is_empty() {
        return;
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    let ambassador = Launch::redis(addresses.join(","))
        .variable("REDIS_AUTH", &secret)
        .variable("REDIS_BALANCE", "round-robin")
        .start();
    let mut clients: Vec<_> = (0..3 * servers.len()).map(|_| ambassador.connect(LINK)).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.send(b"SET k v\r\nRESET\r\nGET k\r\n");
            client.expect(b"+OK\r\n+RESET\r\n$1\r\nv\r\n");
        }
    }
}

/// With replies that are left out, as the server itself leaves them out.
#[test]
fn a_reset_behind_replies_that_are_left_out() {
    a_reset_behind_left_out_replies(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_reset_behind_left_out_replies(change: impl Fn(Launch) -> Launch) {
    const SAID: [&str; 10] = [
        "CLIENT REPLY SKIP\r\nRESET\r\nPING\r\n",
        "CLIENT REPLY OFF\r\nRESET\r\nPING\r\n",
        "CLIENT REPLY SKIP\r\nPING\r\nRESET\r\nPING\r\n",
        "CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nRESET\r\nPING\r\n",
        "CLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY SKIP\r\nRESET\r\nCLIENT REPLY ON\r\n",
        "PING\r\nCLIENT REPLY SKIP\r\nRESET\r\nRESET\r\nRESET\r\n",
        "CLIENT REPLY OFF\r\nRESET\r\nCLIENT REPLY SKIP\r\nRESET\r\nPING\r\n",
        // Refused, so that they leave nothing out.
        "CLIENT REPLY SKIP x\r\nRESET\r\nPING\r\n",
        "SUBSCRIBE a\r\nCLIENT REPLY SKIP\r\nRESET\r\nPING\r\n",
        "SUBSCRIBE a\r\nCLIENT REPLY OFF\r\nRESET\r\nPING\r\n",
    ];
    for version in Version::ALL {
        let Some((_server, ambassador)) = real(version, &change) else { continue };
        let Some(plain) = RedisServer::start_version(version, "") else { continue };
        for said in SAID {
            for pieces in [1, said.matches("\r\n").count()] {
                let [direct, through] = [plain.address(), ambassador.address(LINK)].map(|address| {
                    let mut client = Peer::connect(address);
                    let said: Vec<_> = said.split_inclusive("\r\n").collect();
                    for piece in said.chunks(said.len() / pieces) {
                        client.send(piece.concat().as_bytes());
                        // What came first is on its way before the rest comes.
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    client.send(b"ECHO last\r\n");
                    let mut heard = Vec::new();
                    while !heard.ends_with(b"$4\r\nlast\r\n") {
                        heard.extend(client.receive(1));
                    }
                    String::from_utf8(heard).expect("text")
                });
                assert_eq!(direct, through, "{said:?} at {}", version.name());
            }
        }
    }
}

/// A user that may not send RESET has not reset anything, and all goes on. From 7.0 on everybody may.
#[test]
fn a_reset_that_is_refused_changes_nothing() {
    a_refused_reset_changes_nothing(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_refused_reset_changes_nothing(change: impl Fn(Launch) -> Launch) {
    let [root, secret] = [password(), password()];
    let configuration = format!("requirepass {root}\nuser app on >{secret} ~* &* +@all -reset");
    let Some(server) = RedisServer::start_version(Version::Redis62, &configuration) else { return };
    let launch =
        Launch::redis(server.address()).variable("REDIS_USERNAME", "app").variable("REDIS_AUTH", &secret);
    let ambassador = change(launch).start();
    let mut client = ambassador.connect(LINK);
    client.send(b"SELECT 2\r\nSET k two\r\nRESET\r\nGET k\r\n");
    client.expect(b"+OK\r\n+OK\r\n-NOPERM");
    client.expect_line();
    client.expect(b"$3\r\ntwo\r\n");
    // Nor is anything forgotten of what is to be brought along.
    server.cut(&root);
    client.send(b"GET k\r\n");
    client.expect(b"$3\r\ntwo\r\n");
}
