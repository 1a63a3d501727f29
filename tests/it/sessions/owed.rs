//! What becomes of commands that were under way when their upstream broke.

use std::time::Duration;

use super::{LINK, counted};
use crate::support::{Ambassador, Launch, Peer, RedisServer, Target};

fn played() -> (Target, Ambassador) {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH", "secret").start();
    (target, ambassador)
}

/// Ends a connection in one of two manners.
fn end(upstream: Peer, resets: bool) {
    if resets { upstream.reset() } else { drop(upstream) }
}

/// Commands that only read are sent again, in order, each that was not answered.
#[test]
fn reads_are_sent_again() {
    for resets in [false, true] {
        let (target, ambassador) = played();
        let mut client = ambassador.connect(LINK);
        let mut old = target.accept_authenticated();
        client.send(b"GET a\r\nGET b\r\nHGETALL c\r\nEXISTS d\r\n");
        old.expect(b"GET a\r\nGET b\r\nHGETALL c\r\nEXISTS d\r\n");
        old.send(b"$1\r\na\r\n");
        client.expect(b"$1\r\na\r\n");
        end(old, resets);
        let mut fresh = target.accept_authenticated();
        fresh.expect(b"GET b\r\nHGETALL c\r\nEXISTS d\r\n");
        fresh.send(b"$1\r\nb\r\n*0\r\n:0\r\n");
        client.expect(b"$1\r\nb\r\n*0\r\n:0\r\n");
        client.send(b"GET e\r\n");
        fresh.expect(b"GET e\r\n");
        assert_eq!(counted(&ambassador, "commands_resent_total{link=\"redis:6379\"}"), 3);
    }
}

/// A write that may have been executed is never sent again, nor anything that stands around it: the client is told by a
/// reset.
#[test]
fn a_write_is_never_sent_again() {
    for resets in [false, true] {
        for said in [
            &b"SET a 1\r\n"[..],
            b"GET a\r\nSET a 1\r\nGET b\r\n",
            b"EVAL \"return 1\" 0\r\n",
            b"BLPOP a 0\r\n",
            b"NONSENSE\r\n",
            b"GETDEL a\r\n",
            b"PUBLISH a b\r\n",
            b"MULTI\r\nGET a\r\nEXEC\r\n",
        ] {
            let (target, ambassador) = played();
            let mut client = ambassador.connect(LINK);
            let mut old = target.accept_authenticated();
            client.send(said);
            old.expect(said);
            end(old, resets);
            client.expect_gone();
            target.expect_no_connection(Duration::from_millis(50));
        }
    }
}

/// A read whose reply has begun can't be begun again.
#[test]
fn half_a_reply_ends_the_session() {
    for resets in [false, true] {
        let (target, ambassador) = played();
        let mut client = ambassador.connect(LINK);
        let mut old = target.accept_authenticated();
        client.send(b"GET a\r\n");
        old.expect(b"GET a\r\n");
        old.send(b"$10\r\nhalf");
        // It has gone, as far as it goes.
        old.expect_silence(Duration::from_millis(50));
        end(old, resets);
        client.expect_gone();
        target.expect_no_connection(Duration::from_millis(50));
    }
}

/// Half a command has not been executed: the whole of it goes to the next upstream.
#[test]
fn half_a_command_is_no_loss() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect(LINK);
    let mut old = target.accept_authenticated();
    client.send(b"PING\r\n");
    old.expect(b"PING\r\n");
    old.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");
    client.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$10\r\nhalf");
    client.expect_silence(Duration::from_millis(50));
    drop(old);
    client.send(b"a word\r\n");
    let mut fresh = target.accept_authenticated();
    fresh.expect(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$10\r\nhalfa word\r\n");
    fresh.send(b"+OK\r\n");
    client.expect(b"+OK\r\n");
}

/// More than is kept of reads under way can't be sent again.
#[test]
fn more_than_is_kept_ends_the_session() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect(LINK);
    let mut old = target.accept_authenticated();
    let many = b"GET 0123456789\r\n".repeat(10_000);
    client.send(&many);
    old.expect(&many);
    drop(old);
    client.expect_gone();
    target.expect_no_connection(Duration::from_millis(50));
}

/// A server that says why it closes a connection that nothing is owed to is not heard by the client: it goes on.
#[test]
fn last_words_that_answer_nothing_are_not_the_clients() {
    for words in ["-ERR max number of clients reached\r\n", "-UNBLOCKED force unblock\r\n", ""] {
        let (target, ambassador) = played();
        let mut client = ambassador.connect(LINK);
        let mut old = target.accept_authenticated();
        client.send(b"PING\r\n");
        old.expect(b"PING\r\n");
        old.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
        old.send(words.as_bytes());
        drop(old);
        if words.is_empty() {
            client.send(b"GET a\r\n");
            let mut fresh = target.accept_authenticated();
            fresh.expect(b"GET a\r\n");
            fresh.send(b"$1\r\na\r\n");
            client.expect(b"$1\r\na\r\n");
        } else {
            // Replies that nobody asked for are passed on, and framing is given up.
            client.expect(words.as_bytes());
            client.expect_gone();
        }
    }
}

/// After the client's QUIT the server's end is the client's.
#[test]
fn quit_ends_the_session() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect(LINK);
    let mut upstream = target.accept_authenticated();
    client.send(b"PING\r\nQUIT\r\n");
    upstream.expect(b"PING\r\nQUIT\r\n");
    upstream.send(b"+PONG\r\n+OK\r\n");
    drop(upstream);
    client.expect(b"+PONG\r\n+OK\r\n");
    client.expect_end();
    target.expect_no_connection(Duration::from_millis(50));
}

/// In one write with RESET too, and on a link that has no handshake to make again.
#[test]
fn quit_behind_a_reset_ends_the_session() {
    for password in ["", "secret"] {
        let configuration = if password.is_empty() { "" } else { "requirepass secret" };
        let Some(server) = RedisServer::start(configuration) else { return };
        let launch = Launch::redis(server.address());
        let launch = if password.is_empty() { launch } else { launch.variable("REDIS_AUTH", password) };
        let ambassador = launch.start();
        for said in
            [&["RESET\r\nQUIT\r\n"][..], &["RESET\r\n", "QUIT\r\n"], &["PING\r\nRESET\r\nQUIT\r\nPING\r\n"]]
        {
            let mut client = ambassador.connect(LINK);
            for piece in said {
                client.send(piece.as_bytes());
            }
            let heard = String::from_utf8(client.expect_rest()).expect("text");
            assert!(heard.ends_with("+RESET\r\n+OK\r\n"), "{heard}");
        }
    }
}

/// A client that leaves after its last command hears all that is still owed, from another upstream where need be.
#[test]
fn a_client_that_has_ended_its_stream_gets_what_is_owed() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect(LINK);
    let mut old = target.accept_authenticated();
    client.send(b"GET a\r\nGET b\r\n");
    client.finish_sending();
    old.expect(b"GET a\r\nGET b\r\n");
    old.send(b"+a\r\n");
    drop(old);
    let mut fresh = target.accept_authenticated();
    fresh.expect(b"GET b\r\n");
    fresh.send(b"+b\r\n");
    client.expect(b"+a\r\n+b\r\n");
    fresh.expect_end();
    drop(fresh);
    client.expect_end();
}
