//! A client that sends RESET goes on as before it.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{
    Ambassador, Authority, Launch, RedisServer, Target, TlsPeer, Version, command, command_is_missing,
    eventually, fixture, noise, password, redis_over_tls,
};
use crate::tls::launch_over_tls;

const RESET: &[u8] = b"*1\r\n$5\r\nRESET\r\n";

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
    client.expect(b"+RESET\r\n");
    assert!(client.expect_line().starts_with("-NOAUTH"));
    // It asked for that: no other connection puts the link's password back.
    drop(redis.end_clients(&password));
    client.expect_gone();
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

/// Behind RESET the link's own handshake is made again on the same connection, before the client's next command, and no
/// sooner than the reply to RESET is there.
#[test]
fn the_handshake_is_made_again_in_place() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut upstream = target.accept_authenticated();
    for _ in 0..2 {
        client.send(b"ONE\r\nRESET\r\nTWO\r\n");
        upstream.expect(b"ONE\r\nRESET\r\n");
        upstream.send(b"+one\r\n");
        client.expect(b"+one\r\n");
        upstream.expect_silence(Duration::from_millis(50));
        upstream.send(b"+RE");
        upstream.send(b"SET\r\n");
        client.expect(b"+RESET\r\n");
        upstream.expect(&auth());
        upstream.expect_silence(Duration::from_millis(50));
        upstream.send(b"+OK\r\n");
        upstream.expect(b"TWO\r\n");
        upstream.send(b"+two\r\n");
        client.expect(b"+two\r\n");
    }
    target.expect_no_connection(Duration::from_millis(50));
}

/// A server that knows no RESET, or permits it to nobody, has not reset anything: all goes on.
#[test]
fn a_server_that_refuses_reset_goes_on() {
    let (target, ambassador) = played();
    for refusal in [
        fixture("replies/redis-5/unknown-reset.resp"),
        b"-NOPERM this user has no permissions to run the 'reset' command\r\n",
    ] {
        let mut client = ambassador.connect("redis:6379");
        let mut upstream = target.accept_authenticated();
        client.send(b"RESET\r\nPING\r\n");
        upstream.expect(b"RESET\r\n");
        upstream.send(refusal);
        client.expect(refusal);
        upstream.expect(b"PING\r\n");
        upstream.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
    }
    target.expect_no_connection(Duration::from_millis(50));
}

/// An upstream that does not survive its handshake behind RESET is replaced.
#[test]
fn an_upstream_that_ends_behind_reset_is_replaced() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut old = target.accept_authenticated();
    client.send(b"RESET\r\nPING\r\n");
    old.expect(b"RESET\r\n");
    old.send(b"+RESET\r\n");
    drop(old);
    client.expect(b"+RESET\r\n");
    let mut fresh = target.accept_authenticated();
    fresh.expect(b"PING\r\n");
    fresh.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");
}

/// Without another connection the client gets all that the old one had to say, then the reason, then a clean end.
#[test]
fn a_client_is_told_where_there_is_no_other_connection() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut old = target.accept_authenticated();
    client.send(b"GET a\r\nRESET\r\nPING\r\n");
    old.expect(b"GET a\r\nRESET\r\n");
    old.send(b"+a\r\n+RESET\r\n");
    old.expect(&auth());
    old.send(fixture("replies/redis-7.0/wrongpass.resp"));
    client.expect(b"+a\r\n+RESET\r\n");
    // Another server may take what this one does not, in whatever order they are asked.
    let _others = target.serve(|mut other| {
        if matches!(other.read(&mut [0; 64]), Ok(1..)) {
            let _ = other.try_send(fixture("replies/redis-7.0/wrongpass.resp"));
            let _ = other.read(&mut [0; 64]);
        }
    });
    let words = client.expect_refusal("redis:6379");
    assert!(words.contains("WRONGPASS"), "{words}");
    assert_eq!(ambassador.wait_for("connection failed")["stage"], "auth");
}

/// A target that ends before it has answered a write ends the connection, as without a RESET.
#[test]
fn a_target_that_ends_before_its_answers_ends_the_connection() {
    for resets in [true, false] {
        let (target, ambassador) = played();
        let mut client = ambassador.connect("redis:6379");
        let mut old = target.accept_authenticated();
        client.send(b"INCR a\r\nRESET\r\nPING\r\n");
        old.expect(b"INCR a\r\nRESET\r\n");
        if resets {
            old.reset();
            client.expect_reset();
        } else {
            drop(old);
            client.finish_sending();
            client.expect_end();
        }
        target.expect_no_connection(Duration::from_millis(50));
    }
}

/// A client that has ended its stream behind RESET, or behind more, gets all answers, and the end behind them.
#[test]
fn a_client_that_ends_behind_a_reset_gets_all_answers() {
    for (more, answer) in [(&b""[..], &b""[..]), (b"PING\r\n", b"+PONG\r\n")] {
        let (target, ambassador) = played();
        let mut client = ambassador.connect("redis:6379");
        let mut upstream = target.accept_authenticated();
        client.send(&[RESET, more].concat());
        client.finish_sending();
        upstream.expect(RESET);
        upstream.send(b"+RESET\r\n");
        upstream.expect(&auth());
        upstream.send(b"+OK\r\n");
        upstream.expect(more);
        upstream.expect_end();
        upstream.send(answer);
        drop(upstream);
        client.expect(&[b"+RESET\r\n", answer].concat());
        client.expect_end();
    }
}

/// A client that does not read holds up its own RESET alone, and loses nothing.
#[test]
fn a_slow_client_gets_everything() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut upstream = target.accept_authenticated();
    client.send(&[b"GET a\r\n", RESET, b"PING\r\n"].concat());
    upstream.expect(&[b"GET a\r\n", RESET].concat());
    let value = noise(1, 8 << 20);
    let mut writer = upstream.handle();
    let sent = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n+RESET\r\n"].concat();
    let answer = sent.clone();
    let writing = std::thread::spawn(move || writer.send(&sent));
    upstream.expect_silence(Duration::from_millis(200));
    client.expect(&answer);
    upstream.expect(&auth());
    upstream.send(b"+OK\r\n");
    upstream.expect(b"PING\r\n");
    writing.join().unwrap();
}

/// On every server: in a transaction, among subscriptions, while replies are off or skipped, for a monitor.
#[test]
fn a_reset_is_survived_on_every_server() {
    for version in Version::ALL {
        let password = password();
        let Some(redis) = RedisServer::start_version(version, &format!("requirepass {password}")) else {
            continue;
        };
        let ambassador = Launch::redis(redis.address())
            .variable("REDIS_AUTH", &password)
            .variable("REDIS_DB", "3")
            .start();
        let mut client = ambassador.connect("redis:6379");
        client.send(b"SET a 1\r\nCLIENT ID\r\n");
        client.expect(b"+OK\r\n");
        let id = client.expect_line();
        for (said, heard) in [
            (&b""[..], &b"+RESET\r\n"[..]),
            (b"SELECT 1\r\n", b"+OK\r\n+RESET\r\n"),
            (b"MULTI\r\nGET a\r\n", b"+OK\r\n+QUEUED\r\n+RESET\r\n"),
            (b"CLIENT REPLY OFF\r\nGET a\r\n", b"+RESET\r\n"),
            // No version of Redis answers it then.
            (b"CLIENT REPLY SKIP\r\n", b""),
            (b"CLIENT REPLY SKIP\r\nGET a\r\n", b"+RESET\r\n"),
            (b"SUBSCRIBE b\r\n", b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:1\r\n+RESET\r\n"),
            (
                b"SUBSCRIBE b\r\nUNSUBSCRIBE\r\n",
                b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n+RESET\r\n",
            ),
            (b"MONITOR\r\n", b"+OK\r\n+RESET\r\n"),
        ] {
            client.send(&[said, RESET, b"GET a\r\n"].concat());
            client.expect(&[heard, b"$1\r\n1\r\n"].concat());
        }
        client.send(b"CLIENT ID\r\n");
        assert_eq!(client.expect_line(), id, "{}: it is another connection", version.name());
    }
}

/// While the file is ahead of the server the password that works serves behind a RESET too, and at once.
#[test]
fn a_reset_while_the_password_is_changed_costs_nothing() {
    for version in Version::ALL {
        let (old, new) = (password(), password());
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("password");
        std::fs::write(&file, &old).unwrap();
        let Some(redis) = RedisServer::start_version(version, &format!("requirepass {old}")) else {
            continue;
        };
        let ambassador = Launch::redis(redis.address()).variable("REDIS_AUTH_FILE", &file).start();
        let mut client = ambassador.connect("redis:6379");
        client.send(b"SET a 1\r\n");
        client.expect(b"+OK\r\n");
        std::fs::write(&file, &new).unwrap();
        let begun = std::time::Instant::now();
        client.send(b"RESET\r\nGET a\r\n");
        client.expect(b"+RESET\r\n$1\r\n1\r\n");
        assert!(begun.elapsed() < Duration::from_secs(2), "{}: {:?}", version.name(), begun.elapsed());
    }
}

/// Servers of mixed versions: what one of them says to RESET is nobody else's business.
#[test]
fn a_reset_before_servers_of_mixed_versions() {
    let password = password();
    let configuration = format!("requirepass {password}");
    let servers: Vec<_> = Version::ALL
        .iter()
        .filter_map(|version| RedisServer::start_version(*version, &configuration))
        .collect();
    if servers.is_empty() {
        return;
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    let ambassador = Launch::redis(addresses.join(","))
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_BALANCE", "round-robin")
        .start();
    let mut clients: Vec<_> = (0..2 * servers.len()).map(|_| ambassador.connect("redis:6379")).collect();
    for _ in 0..2 {
        for client in &mut clients {
            client.send(b"RESET\r\nPING\r\n");
            client.expect(b"+RESET\r\n+PONG\r\n");
        }
    }
}

/// What breaks the framing is forwarded all the same, RESET or not.
#[test]
fn a_stream_that_is_no_commands_passes_unchanged() {
    let (target, ambassador) = played();
    let mut client = ambassador.connect("redis:6379");
    let mut upstream = target.accept_authenticated();
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

/// A drain does not wait for a RESET that is not answered.
#[test]
fn a_drain_ends_what_waits_behind_a_reset() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", "secret")
        .variable("AMBASSADOR_DRAIN_TIMEOUT", "500ms")
        .start();
    let mut client = ambassador.connect("redis:6379");
    let mut upstream = target.accept_authenticated();
    client.send(b"BLPOP a 0\r\nRESET\r\nPING\r\n");
    upstream.expect(b"BLPOP a 0\r\nRESET\r\n");
    ambassador.signal(rustix::process::Signal::TERM);
    client.expect_gone();
    upstream.expect_gone();
    assert_eq!(ambassador.finish().code, Some(0));
}

/// RESET takes one of two values, and means nothing on a plain tunnel.
#[test]
fn the_setting_is_checked() {
    let launch = || Launch::redis("127.0.0.1:1").variable("REDIS_AUTH", "secret");
    launch().variable("REDIS_RESET", "maybe").finish().expect_mistake("REDIS_RESET");
    Launch::plain("127.0.0.1:1").variable("DB_RESET", "reauth").finish().expect_mistake("DB_RESET");
}
