//! A client that sends RESET goes on as before it.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{
    Ambassador, Authority, Launch, Peer, RedisServer, Target, TlsPeer, command, command_is_missing,
    eventually, fixture, noise, password, redis_over_tls,
};
use crate::tls::launch_over_tls;

const RESET: &[u8] = b"*1\r\n$5\r\nRESET\r\n";
const QUIT: &[u8] = b"*1\r\n$4\r\nQUIT\r\n";

/// A real server with a password, and an ambassador that selects database 3 on it.
fn real() -> Option<(RedisServer, Ambassador, String)> {
    let password = password();
    let redis = RedisServer::start(&format!("requirepass {password}"))?;
    let ambassador =
        Launch::redis(redis.address()).variable("REDIS_AUTH", &password).variable("REDIS_DB", "3").start();
    Some((redis, ambassador, password))
}

/// A server that a test plays, behind an ambassador with the password `secret`.
fn played() -> (Target, Ambassador) {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH", "secret").start();
    (target, ambassador)
}

fn auth() -> Vec<u8> {
    command(&[b"AUTH", b"secret"])
}

/// The target takes the first greeting.
fn accept(target: &Target) -> Peer {
    let mut upstream = target.accept();
    upstream.expect(&auth());
    upstream.send(b"+OK\r\n");
    upstream
}

/// The target takes a greeting that asks whether it knows RESET, and does.
fn accept_asked(target: &Target) -> Peer {
    let mut upstream = target.accept();
    upstream.expect(&[RESET, &auth()].concat());
    upstream.send(b"+RESET\r\n+OK\r\n");
    upstream
}

/// The target answers RESET and QUIT, and closes.
fn say_goodbye(mut upstream: Peer) {
    upstream.expect(RESET);
    upstream.send(b"+RESET\r\n");
    upstream.expect(QUIT);
    upstream.send(b"+OK\r\n");
    upstream.finish_sending();
    upstream.expect_end();
}

/// Sends everything in two pieces and reads the replies.
fn in_two_pieces(ambassador: &Ambassador, sent: &[u8], split: usize, replies: &[u8]) {
    let mut client = ambassador.connect("redis:6379");
    client.send(&sent[..split]);
    // What came first is on its way before the rest comes.
    std::thread::sleep(Duration::from_millis(1));
    client.send(&sent[split..]);
    client.expect(replies);
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// Without the ambassador's help RESET ends in NOAUTH, which `forward` shows.
#[test]
fn forward_leaves_a_client_without_authentication() {
    let Some((redis, _, password)) = real() else { return };
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_RESET", "forward")
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"RESET\r\nPING\r\n");
    client.expect(b"+RESET\r\n-NOAUTH");
}

/// Between other commands, at every split of all that is sent; the database is the link's again.
#[test]
fn a_reset_between_commands_is_survived_at_every_split() {
    let Some((_redis, ambassador, _)) = real() else { return };
    let sent = [
        &command(&[b"SET", b"key", b"*1\r\n$5\r\nRESET\r\n"])[..],
        b"*1\r\n$5\r\nreSET\r\n",
        &command(&[b"GET", b"key"]),
        b"RESET\r\n",
        b"GET key\r\n",
    ]
    .concat();
    let value = b"$15\r\n*1\r\n$5\r\nRESET\r\n\r\n";
    let replies = [&b"+OK\r\n+RESET\r\n"[..], value, b"+RESET\r\n", value].concat();
    for split in 0..=sent.len() {
        in_two_pieces(&ambassador, &sent, split, &replies);
    }
}

/// A transaction is discarded, as without an ambassador.
#[test]
fn a_reset_in_multi_discards_it() {
    let Some((_redis, ambassador, _)) = real() else { return };
    let mut client = ambassador.connect("redis:6379");
    client.send(b"MULTI\r\nSET a 1\r\nRESET\r\nGET a\r\nEXEC\r\n");
    client.expect(b"+OK\r\n+QUEUED\r\n+RESET\r\n$-1\r\n-ERR EXEC without MULTI\r\n");
}

/// Subscriptions and RESP3 end with it.
#[test]
fn a_reset_ends_subscriptions_and_resp3() {
    let Some((redis, ambassador, password)) = real() else { return };
    let mut administrator = redis.administrator(&password);
    let mut client = ambassador.connect("redis:6379");
    client.send(b"SUBSCRIBE news\r\n");
    client.expect(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    redis::cmd("PUBLISH").arg(&["news", "+OK"]).exec(&mut administrator).unwrap();
    client.expect(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\n+OK\r\n");
    client.send(b"RESET\r\n");
    client.expect(b"+RESET\r\n");
    client.send(b"SET a 1\r\nHELLO 3\r\nRESET\r\nGET a\r\nGET none\r\n");
    client.expect(b"+OK\r\n%7\r\n");
    let mut hello = Vec::new();
    while !hello.ends_with(b"*0\r\n") {
        hello.extend(client.receive(1));
    }
    client.expect(b"+RESET\r\n$1\r\n1\r\n$-1\r\n");
}

/// A monitor sees what others do up to its RESET, and its own commands work afterwards.
#[test]
fn a_reset_ends_monitor() {
    let Some((redis, ambassador, password)) = real() else { return };
    let mut client = ambassador.connect("redis:6379");
    client.send(b"MONITOR\r\n");
    client.expect(b"+OK\r\n");
    let mut administrator = redis.administrator(&password);
    redis::cmd("ECHO").arg("seen").exec(&mut administrator).unwrap();
    while !client.expect_line().ends_with("\"ECHO\" \"seen\"") {}
    client.send(b"RESET\r\nPING\r\n");
    client.expect(b"+RESET\r\n+PONG\r\n");
}

/// A RESET behind a command that blocks waits for it, however long it takes, and so does what follows.
#[test]
fn a_reset_behind_a_blocking_command_waits() {
    let Some((redis, ambassador, password)) = real() else { return };
    let mut client = ambassador.connect("redis:6379");
    client.send(b"SET a 1\r\nBLPOP queue 0\r\nRESET\r\nGET a\r\n");
    client.expect(b"+OK\r\n");
    client.expect_silence(Duration::from_millis(300));
    let mut administrator = redis.administrator(&password);
    redis::pipe().cmd("SELECT").arg(3).cmd("RPUSH").arg(&["queue", "+OK"]).exec(&mut administrator).unwrap();
    client.expect(b"*2\r\n$5\r\nqueue\r\n$3\r\n+OK\r\n+RESET\r\n$1\r\n1\r\n");
}

/// A client that leaves while its command blocks does not stay behind.
#[test]
fn a_client_that_leaves_behind_a_blocking_command_is_gone() {
    let Some((redis, ambassador, password)) = real() else { return };
    let mut client = ambassador.connect("redis:6379");
    client.send(b"SET a 1\r\nBLPOP queue 0\r\nRESET\r\nGET a\r\n");
    client.expect(b"+OK\r\n");
    client.finish_sending();
    client.expect_end();
    drop(client);
    let mut administrator = redis.administrator(&password);
    eventually("only the administrator is left", || {
        let clients = redis::cmd("CLIENT").arg("LIST").query::<String>(&mut administrator).unwrap();
        clients.lines().count() == 1
    });
}

/// Many in a row, and what they are mixed with keeps its order.
#[test]
fn many_resets_keep_all_replies_in_order() {
    let Some((_redis, ambassador, _)) = real() else { return };
    let mut client = ambassador.connect("redis:6379");
    let mut writer = client.handle();
    let writing = std::thread::spawn(move || {
        for number in 0..100 {
            writer.send(format!("ECHO {number}\r\nRESET\r\n").as_bytes());
        }
        writer.finish_sending();
    });
    for number in 0..100 {
        let number = number.to_string();
        client.expect(format!("${}\r\n{number}\r\n+RESET\r\n", number.len()).as_bytes());
    }
    client.expect_end();
    writing.join().unwrap();
}

/// redis-cli itself.
#[test]
fn redis_cli_goes_on_after_a_reset() {
    let Some((_redis, ambassador, _)) = real() else { return };
    if command_is_missing("redis-cli") {
        return;
    }
    let address = ambassador.address("redis:6379");
    let mut cli = Command::new("redis-cli")
        .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cli.stdin.take().unwrap().write_all(b"SET a b\nRESET\nGET a\nMULTI\nRESET\nGET a\n").unwrap();
    let output = cli.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\nRESET\nb\nOK\nRESET\nb\n");
}

/// Over TLS on both sides.
#[test]
fn a_reset_is_survived_over_tls() {
    let password = password();
    let authority = Authority::new("Test CA");
    let configuration = format!("tls-auth-clients no\nrequirepass {password}");
    let Some((_server, address)) = redis_over_tls(&authority, &configuration) else { return };
    let ambassador = launch_over_tls(address, &authority)
        .listen_tls("REDIS", &authority.issue(&["127.0.0.1"]))
        .variable("REDIS_AUTH", &password)
        .start();
    let mut client = TlsPeer::connect(ambassador.address("redis:6379"), &authority.client(None));
    // Redis itself closes a connection that sends RESET before a reply of more than 1 KiB was taken from it.
    let value = "v".repeat(100_000);
    for _ in 0..3 {
        client.send(&[&command(&[b"SET", b"a", value.as_bytes()]), RESET, b"GET a\r\n"].concat());
        client.expect(format!("+OK\r\n+RESET\r\n$100000\r\n{value}\r\n").as_bytes());
        client.send(b"ECHO a\r\nRESET\r\nECHO b\r\n");
        client.expect(b"$1\r\na\r\n+RESET\r\n$1\r\nb\r\n");
    }
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// The fresh connection is there before the old one is left, and nothing of the client's goes to the wrong one.
#[test]
fn the_fresh_connection_is_greeted_first() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut old = accept(&target);
    client.send(b"ONE\r\nRESET\r\nTWO\r\n");
    old.expect(b"ONE\r\nRESET\r\n");
    let mut fresh = target.accept();
    fresh.expect(&[RESET, &auth()].concat());
    // Nobody says goodbye before it is sure that there is another one.
    old.expect_silence(Duration::from_millis(100));
    fresh.send(b"+RESET\r\n+OK\r\n+early\r\n");
    old.expect(QUIT);
    fresh.expect_silence(Duration::from_millis(100));
    // The answers, of which all but the last `+OK` are the client's.
    old.send(b"+OK\r\n+RESET\r\n");
    client.expect(b"+OK\r\n+RESET\r\n");
    old.send(b"+O");
    old.send(b"K\r\n");
    old.finish_sending();
    old.expect_end();
    fresh.expect(b"TWO\r\n");
    client.expect(b"+early\r\n");
    fresh.send(b"+two\r\n");
    client.expect(b"+two\r\n");
    // That this server knows RESET is known now.
    client.send(RESET);
    let again = accept(&target);
    say_goodbye(fresh);
    client.expect(b"+RESET\r\n");
    drop(again);
    client.expect_gone();
}

/// A server older than 6.2 knows no RESET: it goes to the server and is answered by it, and nothing else happens.
#[test]
fn a_server_without_reset_answers_itself_and_is_asked_once() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut old = accept(&target);
    let unknown_reset = fixture("replies/redis-5/unknown-reset.resp");
    client.send(b"RESET\r\nPING\r\n");
    old.expect(b"RESET\r\n");
    let mut fresh = target.accept();
    fresh.expect(&[RESET, &auth()].concat());
    fresh.send(&[unknown_reset, b"+OK\r\n"].concat());
    fresh.expect_end();
    old.send(unknown_reset);
    client.expect(unknown_reset);
    old.expect(b"PING\r\n");
    for _ in 0..3 {
        client.send(b"RESET\r\nPING\r\n");
        old.expect(b"RESET\r\nPING\r\n");
    }
    let mut second = ambassador.connect("redis:6379");
    let mut other = accept(&target);
    second.send(b"RESET\r\nPING\r\n");
    other.expect(b"RESET\r\nPING\r\n");
    target.expect_no_connection(Duration::from_millis(100));
}

/// Without another connection the client gets all that the old one had to say, then the reason, then a clean end.
#[test]
fn a_client_is_told_where_there_is_no_fresh_connection() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut old = accept(&target);
    client.send(b"GET a\r\nRESET\r\nPING\r\n");
    old.expect(b"GET a\r\nRESET\r\n");
    let mut fresh = target.accept();
    fresh.expect(&[RESET, &auth()].concat());
    fresh.send(&[b"+RESET\r\n", fixture("replies/redis-7.0/wrongpass.resp")].concat());
    old.expect(QUIT);
    old.send(b"+a\r\n+RESET\r\n+OK\r\n");
    old.finish_sending();
    client.expect(b"+a\r\n+RESET\r\n");
    let words = client.expect_refusal("redis:6379");
    assert!(words.contains("WRONGPASS"), "{words}");
    assert_eq!(ambassador.wait_for("connection failed")["stage"], "auth");
}

/// A target that answers everything and then does not close is left all the same.
#[test]
fn a_target_that_does_not_close_is_left() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut old = accept(&target);
    client.send(b"RESET\r\nPING\r\n");
    old.expect(b"RESET\r\n");
    let mut fresh = accept_asked(&target);
    old.expect(QUIT);
    old.send(b"+RESET\r\n+OK\r\n");
    fresh.expect(b"PING\r\n");
    old.expect_end();
}

/// A fresh connection that ends while the old one still has to answer is replaced before anybody has used it.
#[test]
fn a_fresh_connection_that_ends_is_replaced() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut old = accept(&target);
    client.send(b"BLPOP a 0\r\nRESET\r\nPING\r\n");
    old.expect(b"BLPOP a 0\r\nRESET\r\n");
    drop(accept_asked(&target));
    old.expect(QUIT);
    old.send(b"*-1\r\n+RESET\r\n+OK\r\n");
    drop(old);
    let mut again = accept(&target);
    again.expect(b"PING\r\n");
    client.expect(b"*-1\r\n+RESET\r\n");
}

/// A target that breaks or ends before it has answered ends the connection, as without a RESET.
#[test]
fn a_target_that_ends_before_its_answers_ends_the_connection() {
    for resets in [true, false] {
        let (target, ambassador) = played();
        let mut client = ambassador.connect("redis:6379");
        let mut old = accept(&target);
        client.send(b"GET a\r\nRESET\r\nPING\r\n");
        old.expect(b"GET a\r\nRESET\r\n");
        let mut fresh = accept_asked(&target);
        old.expect(QUIT);
        old.send(b"$5\r\n+OK");
        client.expect(b"$5\r\n");
        if resets {
            old.reset();
            client.expect_reset();
        } else {
            drop(old);
            client.expect(b"+OK");
            client.finish_sending();
            client.expect_end();
        }
        fresh.expect_gone();
    }
}

/// Also where the last that it says is an answer to another command and looks like the one to QUIT.
#[test]
fn a_target_that_ends_behind_an_answer_like_its_last_ends_the_connection() {
    for resets in [true, false] {
        let (target, ambassador) = played();
        let mut client = ambassador.connect("redis:6379");
        let mut old = accept(&target);
        client.send(b"SET a 1\r\nGET a\r\nRESET\r\nGET b\r\n");
        old.expect(b"SET a 1\r\nGET a\r\nRESET\r\n");
        let mut fresh = accept_asked(&target);
        old.expect(QUIT);
        old.send(b"+OK\r\n");
        if resets {
            old.reset();
            client.expect_reset();
        } else {
            drop(old);
            client.expect(b"+OK\r\n");
            client.finish_sending();
            client.expect_end();
        }
        fresh.expect_gone();
    }
}

/// Where RESET is answered with an error the client goes on with a fresh connection all the same.
#[test]
fn a_target_that_refuses_reset_is_left() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut old = accept(&target);
    client.send(b"SET a 1\r\nRESET\r\nPING\r\n");
    old.expect(b"SET a 1\r\nRESET\r\n");
    let mut fresh = accept_asked(&target);
    old.expect(QUIT);
    old.send(b"+OK\r\n-NOPERM this user has no permissions to run the 'reset' command\r\n+OK\r\n");
    drop(old);
    client.expect(b"+OK\r\n-NOPERM this user has no permissions to run the 'reset' command\r\n");
    fresh.expect(b"PING\r\n");
}

/// A client that has ended its stream behind RESET needs no other connection.
#[test]
fn a_client_that_ends_with_a_reset_gets_its_answer() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut old = accept(&target);
    client.send(RESET);
    client.finish_sending();
    old.expect(RESET);
    old.expect_end();
    // The one that was dialled before the end was seen is not kept.
    accept_asked(&target).expect_end();
    old.send(b"+RESET\r\n");
    drop(old);
    client.expect(b"+RESET\r\n");
    client.expect_end();
}

/// One that has said more and ended its stream gets all answers, and the end behind them.
#[test]
fn a_client_that_ends_behind_more_gets_all_answers() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let old = accept(&target);
    client.send(b"*1\r\n$5\r\nRESET\r\nPING\r\n");
    client.finish_sending();
    let mut fresh = accept_asked(&target);
    say_goodbye(old);
    fresh.expect(b"PING\r\n");
    fresh.expect_end();
    fresh.send(b"+PONG\r\n");
    drop(fresh);
    client.expect(b"+RESET\r\n+PONG\r\n");
    client.expect_end();
}

/// A client that does not read holds up its own switch alone, and loses nothing.
#[test]
fn a_slow_client_gets_everything() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut old = accept(&target);
    client.send(b"*1\r\n$5\r\nRESET\r\nPING\r\n");
    old.expect(RESET);
    let mut fresh = accept_asked(&target);
    old.expect(QUIT);
    let answers = noise(1, 8 << 20);
    let mut writer = old.handle();
    let sent = answers.clone();
    let writing = std::thread::spawn(move || {
        writer.send(&sent);
        writer.send(b"+RESET\r\n+OK\r\n");
        writer.finish_sending();
    });
    fresh.expect_silence(Duration::from_millis(200));
    client.expect(&answers);
    client.expect(b"+RESET\r\n");
    fresh.expect(b"PING\r\n");
    writing.join().unwrap();
}

/// What breaks the framing is forwarded all the same, RESET or not.
#[test]
fn a_stream_that_is_no_commands_passes_unchanged() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut upstream = accept(&target);
    let noise = [&b"*x\r\n*1\r\n$5\r\nRESET\r\n"[..], &noise(7, 300_000), RESET].concat();
    let mut writer = client.handle();
    let sent = noise.clone();
    let writing = std::thread::spawn(move || writer.send(&sent));
    upstream.expect(&noise);
    writing.join().unwrap();
    upstream.send(b"-ERR\r\n");
    client.expect(b"-ERR\r\n");
    target.expect_no_connection(Duration::from_millis(50));
}

/// A link that sends nothing of its own has nothing to lose: RESET is forwarded.
#[test]
fn a_link_without_password_and_database_is_not_watched() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).start();
    let mut client = ambassador.connect("redis:6379");
    let mut upstream = target.accept();
    client.send(b"RESET\r\nPING\r\n");
    upstream.expect(b"RESET\r\nPING\r\n");
    target.expect_no_connection(Duration::from_millis(50));
}

/// A drain does not wait for a switch that does not come to an end.
#[test]
fn a_drain_ends_a_switch() {
    let (target, ambassador) = {
        let target = Target::start();
        let ambassador = Launch::redis(target.address())
            .variable("REDIS_AUTH", "secret")
            .variable("AMBASSADOR_DRAIN_TIMEOUT", "500ms")
            .start();
        (target, ambassador)
    };
    let mut client = ambassador.connect("redis:6379");
    let mut old = accept(&target);
    client.send(b"BLPOP a 0\r\nRESET\r\nPING\r\n");
    old.expect(b"BLPOP a 0\r\nRESET\r\n");
    let mut fresh = accept_asked(&target);
    old.expect(QUIT);
    ambassador.signal(rustix::process::Signal::TERM);
    client.expect_gone();
    fresh.expect_gone();
    assert_eq!(ambassador.finish().code, Some(0));
}

/// RESET takes one of two values, and means nothing on a plain tunnel.
#[test]
fn the_setting_is_checked() {
    let launch = || Launch::redis("127.0.0.1:1").variable("REDIS_AUTH", "secret");
    launch().variable("REDIS_RESET", "maybe").finish().expect_mistake("REDIS_RESET");
    Launch::plain("127.0.0.1:1").variable("DB_RESET", "reauth").finish().expect_mistake("DB_RESET");
}
