//! Clients that authenticate whenever they like: some libraries do so with every request.

use std::time::Duration;

use super::LINK;
use crate::support::{Ambassador, Launch, Peer, RedisServer, Target, Version, command, password};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

/// A server with the user `app`, and an ambassador that knows its password; clients' own are its business.
fn real(
    version: Version,
    client_auth: &str,
    change: impl Fn(Launch) -> Launch,
) -> Option<(RedisServer, Ambassador, [String; 2])> {
    let [root, secret, own] = [password(), password(), password()];
    let configuration = format!("requirepass {root}\nuser app on >{secret} ~* &* +@all");
    let server = RedisServer::start_version(version, &configuration)?;
    let mut launch = Launch::redis(server.address())
        .variable("REDIS_USERNAME", "app")
        .variable("REDIS_AUTH", &secret)
        .variable("REDIS_CLIENT_AUTH", client_auth);
    if client_auth == "require" {
        launch = launch.variable("REDIS_CLIENT_USERNAME", "worker").variable("REDIS_CLIENT_PASSWORD", &own);
    }
    Some((server, change(launch).start(), [root, own]))
}

#[track_caller]
fn expect_app(client: &mut Peer) {
    client.send(b"ACL WHOAMI\r\n");
    client.expect(b"$3\r\napp\r\n");
}

/// Whatever a client shows, and how often it does: it is content, each answer is in its place, and the server hears
/// nothing of it.
#[test]
fn every_auth_is_absorbed_wherever_it_comes() {
    every_auth_is_absorbed(|launch| launch, 1);
}

/// The same of a link with more settings, whose sessions need so many upstreams.
pub(crate) fn every_auth_is_absorbed(change: impl Fn(Launch) -> Launch, upstreams: usize) {
    for version in Version::ALL {
        let Some((server, ambassador, [root, staging])) = real(version, "absorb", &change) else { continue };
        let before = server.calls(&root, "auth");
        let mut client = ambassador.connect(LINK);
        for number in 0..5 {
            client.send(format!("AUTH {staging}\r\nSET k {number}\r\n").as_bytes());
            client.expect(b"+OK\r\n+OK\r\n");
            client.send(
                format!("GET k\r\nAUTH x {staging}\r\nBLPOP none 0.05\r\nAUTH {staging}\r\nGET k\r\n")
                    .as_bytes(),
            );
            client.expect(format!("$1\r\n{number}\r\n+OK\r\n*-1\r\n+OK\r\n$1\r\n{number}\r\n").as_bytes());
            expect_app(&mut client);
        }
        // One for the administrator who asked first.
        let after = server.calls(&root, "auth");
        assert!(after <= before + 1 + upstreams, "{before} became {after} at {}", version.name());
        let mut administrator = server.administrator(&root);
        let log: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query(&mut administrator).expect("a log");
        assert!(log.is_empty(), "{log:?}");
    }
}

/// With HELLO too: the server hears the rest of it.
#[test]
fn every_hello_with_a_password_is_absorbed_wherever_it_comes() {
    every_hello_is_absorbed(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn every_hello_is_absorbed(change: impl Fn(Launch) -> Launch) {
    for version in Version::ALL {
        let Some((_server, ambassador, [_, staging])) = real(version, "absorb", &change) else { continue };
        let mut client = ambassador.connect(LINK);
        client.send(b"SET k v\r\nGET none\r\n");
        client.expect(b"+OK\r\n$-1\r\n");
        client
            .send(format!("HELLO 3 AUTH x {staging} SETNAME n\r\nGET none\r\nCLIENT GETNAME\r\n").as_bytes());
        assert!(client.expect_line().starts_with('%'));
        while client.expect_line() != "*0" {}
        client.expect(b"_\r\n$1\r\nn\r\n");
        expect_app(&mut client);
        client.send(format!("HELLO 2 AUTH x {staging}\r\nGET none\r\n").as_bytes());
        assert!(client.expect_line().starts_with('*'));
        while client.expect_line() != "*0" {}
        client.expect(b"$-1\r\n");
        expect_app(&mut client);
    }
}

/// A client that has shown the right password may show it again; a wrong one is refused, and leaves what was.
#[test]
fn a_required_password_may_come_again() {
    a_required_password_comes_again(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_required_password_comes_again(change: impl Fn(Launch) -> Launch) {
    for version in Version::ALL {
        let Some((server, ambassador, [root, own])) = real(version, "require", &change) else { continue };
        let mut client = ambassador.connect(LINK);
        for _ in 0..3 {
            client.send(format!("AUTH worker {own}\r\nGET k\r\n").as_bytes());
            client.expect(b"+OK\r\n$-1\r\n");
            client.send(
                format!("AUTH worker wrong\r\nAUTH {own}\r\nAUTH nobody {own}\r\nGET k\r\n").as_bytes(),
            );
            for _ in 0..3 {
                assert_eq!(client.expect_line(), WRONG, "{}", version.name());
            }
            client.expect(b"$-1\r\n");
            expect_app(&mut client);
        }
        let mut administrator = server.administrator(&root);
        let log: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query(&mut administrator).expect("a log");
        assert!(log.is_empty(), "{log:?}");
    }
}

/// After an exchange it is still nobody's business.
#[test]
fn an_absorbed_password_does_not_pin_a_session() {
    an_absorbed_password_pins_nothing(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn an_absorbed_password_pins_nothing(change: impl Fn(Launch) -> Launch) {
    for client_auth in ["absorb", "require"] {
        let Some((server, ambassador, [root, own])) = real(Version::Redis70, client_auth, &change) else {
            return;
        };
        let mut client = ambassador.connect(LINK);
        for _ in 0..3 {
            client.send(format!("AUTH worker {own}\r\nPING\r\n").as_bytes());
            client.expect(b"+OK\r\n+PONG\r\n");
            server.cut(&root);
            client.send(b"PING\r\n");
            client.expect(b"+PONG\r\n");
            expect_app(&mut client);
        }
    }
}

/// What the open-source server does not know, the ambassador does not either: a server that did would send the client past
/// it. Answered as by the server itself.
#[test]
fn maintenance_notifications_are_not_to_be_had() {
    no_maintenance_notifications(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn no_maintenance_notifications(change: impl Fn(Launch) -> Launch) {
    for version in Version::ALL {
        let Some((_server, ambassador, _)) = real(version, "absorb", &change) else { continue };
        let Some(plain) = RedisServer::start_version(version, "") else { continue };
        let said = b"CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type external-ip\r\nPING\r\n";
        let mut direct = Peer::connect(plain.address());
        direct.send(said);
        let mut client = ambassador.connect(LINK);
        client.send(said);
        // Each version has its own words.
        let line = direct.expect_line();
        assert!(line.to_lowercase().starts_with("-err unknown subcommand"), "{line} at {}", version.name());
        assert_eq!(client.expect_line(), line, "{}", version.name());
        client.expect(b"+PONG\r\n");
        let said = b"MULTI\r\nCLIENT maint_notifications\r\nEXEC\r\n";
        direct.expect(b"+PONG\r\n");
        direct.send(said);
        client.send(said);
        for _ in 0..3 {
            assert_eq!(client.expect_line(), direct.expect_line(), "{}", version.name());
        }
    }
}

/// A password that is longer than anybody would look at does not reach the server either, in whatever pieces it comes.
#[test]
fn no_part_of_an_endless_password_reaches_the_server() {
    for client_auth in ["absorb", "require"] {
        let target = Target::start();
        let mut launch = Launch::redis(target.address()).variable("REDIS_CLIENT_AUTH", client_auth);
        let own = password();
        if client_auth == "require" {
            launch = launch.variable("REDIS_CLIENT_PASSWORD", &own);
        }
        let ambassador = launch.start();
        for name in ["AUTH", "HELLO"] {
            let mut client = ambassador.connect(LINK);
            if client_auth == "require" {
                client.send(format!("AUTH {own}\r\n").as_bytes());
                client.expect(b"+OK\r\n");
            }
            let mut server = target.accept();
            client.send(b"PING\r\n");
            server.expect(b"PING\r\n");
            let said = command(&[name.as_bytes(), &vec![b'x'; 100_000]]);
            let (begin, rest) = said.split_at(20_000);
            client.send(begin);
            server.send(b"+PONG\r\n");
            client.expect(b"+PONG\r\n");
            // It may be closed before all of it was said.
            let _ = client.try_send(rest);
            client.expect(b"-ERR Protocol error: invalid bulk length\r\n");
            server.expect_gone_in_silence();
        }
    }
}

/// Long ones that Redis takes are taken, in whatever pieces they come.
#[test]
fn a_long_token_may_come_in_pieces() {
    a_long_token_comes_in_pieces(|launch| launch);
}

/// The same of a link with more settings.
pub(crate) fn a_long_token_comes_in_pieces(change: impl Fn(Launch) -> Launch) {
    let Some((_server, ambassador, _)) = real(Version::Redis70, "absorb", &change) else { return };
    let mut client = ambassador.connect(LINK);
    let said = command(&[b"AUTH", b"user", &vec![b'x'; 25_000]]);
    for split in [1, 100, 16_000, 17_000, 20_000, 25_000] {
        client.send(&said[..split]);
        client.expect_silence(Duration::from_millis(20));
        client.send(&said[split..]);
        client.expect(b"+OK\r\n");
    }
    expect_app(&mut client);
}
