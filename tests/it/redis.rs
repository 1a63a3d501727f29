//! Real Redis servers with a password, used by clients that know none.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use redis::{Commands, Value};

use crate::support::{
    Ambassador, Launch, Peer, RedisServer, command, command_is_missing, eventually, every_byte, noise,
    password,
};

/// A server with a password and an ambassador in front of it.
fn with_password(configuration: &str) -> Option<(RedisServer, Ambassador, String)> {
    let password = password();
    let redis = RedisServer::start(&format!("requirepass {password}\n{configuration}"))?;
    let ambassador = Launch::redis(redis.address()).variable("REDIS_AUTH", &password).start();
    Some((redis, ambassador, password))
}

fn connect(address: SocketAddr) -> redis::Connection {
    connect_with(address, "")
}

fn connect_with(address: SocketAddr, options: &str) -> redis::Connection {
    let client = redis::Client::open(format!("redis://{address}/{options}")).expect("a URL");
    let connection = client.get_connection().expect("a connection");
    connection.set_read_timeout(Some(crate::support::PATIENCE)).expect("a timeout");
    connection
}

/// A client that knows no password uses a server that wants one.
#[test]
fn a_password_is_supplied() {
    let Some((redis, ambassador, _)) = with_password("") else { return };
    let mut stranger = Peer::connect(redis.address());
    stranger.send(b"PING\r\n");
    stranger.expect(b"-NOAUTH");

    let mut connection = connect(ambassador.address("redis:6379"));
    let () = connection.set("key", "value").unwrap();
    assert_eq!(connection.get::<_, String>("key").unwrap(), "value");
}

/// Docker's own form of a link becomes a Redis link by its password.
#[test]
fn a_tcp_target_with_a_password_is_a_redis_link() {
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador = Launch::new()
        .variable("REDIS_PORT_6379_TCP", format!("tcp://{}", redis.address()))
        .variable("REDIS_LISTEN", "127.0.0.1:0")
        .variable("REDIS_AUTH", &password)
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// An ACL user and its database, from variables, from files and from the URL.
#[test]
fn an_acl_user_and_a_database_are_supplied() {
    let password = password();
    let Some(redis) = RedisServer::start(&format!("user default off\nuser app on >{password} ~* &* +@all"))
    else {
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (user_file, password_file) = (directory.path().join("user"), directory.path().join("password"));
    std::fs::write(&user_file, "app\n").unwrap();
    std::fs::write(&password_file, format!("{password}\n")).unwrap();
    let target = redis.address();
    for launch in [
        Launch::redis(target)
            .variable("REDIS_USERNAME", "app")
            .variable("REDIS_AUTH", &password)
            .variable("REDIS_DB", "5"),
        Launch::redis(target)
            .variable("REDIS_USERNAME_FILE", &user_file)
            .variable("REDIS_AUTH_FILE", &password_file)
            .variable("REDIS_DB", "5"),
        Launch::redis(format!("app:{password}@{target}/5")),
        Launch::redis(format!("%61pp:{password}@{target}/5")),
    ] {
        let ambassador = launch.start();
        let mut connection = connect(ambassador.address("redis:6379"));
        let user = redis::cmd("ACL").arg("WHOAMI").query::<String>(&mut connection).unwrap();
        assert_eq!(user, "app");
        let client = redis::cmd("CLIENT").arg("INFO").query::<String>(&mut connection).unwrap();
        assert!(client.contains(" db=5 "), "{client}");
    }
}

/// A user without the right to select is told so, and one that does not exist too.
#[test]
fn what_redis_refuses_is_told_in_its_own_words() {
    let password = password();
    let Some(redis) =
        RedisServer::start(&format!("user default off\nuser app on >{password} ~* &* +@all -select"))
    else {
        return;
    };
    let launch =
        || Launch::redis(redis.address()).variable("REDIS_USERNAME", "app").variable("REDIS_AUTH", &password);
    let no_select = launch().variable("REDIS_DB", "1").start();
    let words = no_select.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("NOPERM"), "{words}");

    let wrong_password = launch().variable("REDIS_AUTH", crate::support::password()).start();
    let words = wrong_password.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("WRONGPASS"), "{words}");

    let no_user = launch().variable("REDIS_USERNAME", "nobody").start();
    let words = no_user.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("WRONGPASS"), "{words}");
    let failure = no_user.wait_for("connection failed");
    assert_eq!(failure["stage"], "auth", "{failure}");
}

/// A server whose AUTH has another name quotes the password in its answer; nobody is told.
#[test]
fn a_server_that_does_not_know_auth_gives_nothing_away() {
    let Some(redis) = RedisServer::start("rename-command AUTH \"\"") else { return };
    let password = password();
    let ambassador = Launch::redis(redis.address()).variable("REDIS_AUTH", &password).start();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("unknown command"), "{words}");
    assert!(!words.contains(&password), "{words}");
}

/// A server that has no password after all is used, with a warning.
#[test]
fn a_server_without_a_password_is_warned_about_and_used() {
    let Some(redis) = RedisServer::start("") else { return };
    let ambassador = Launch::redis(redis.address()).variable("REDIS_AUTH", password()).start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    ambassador.wait_for_log("a warning", |line| line["level"] == "WARN" && line["link"] == "redis:6379");
}

/// A server at its own limit of clients says so itself, before it is asked anything.
#[test]
fn a_server_with_too_many_clients_is_told_in_its_own_words() {
    let Some((_redis, ambassador, _)) = with_password("maxclients 1") else { return };
    let mut first = ambassador.connect("redis:6379");
    eventually("the first client", || {
        first.try_send(b"PING\r\n").is_ok() && first.expect_line() == "+PONG" || {
            first = ambassador.connect("redis:6379");
            false
        }
    });
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("max number of clients reached"), "{words}");
}

/// The server may be behind a Unix socket, and so may the ambassador.
#[test]
fn unix_sockets_are_dialled_and_listened_on() {
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("ambassador.sock");
    let ambassador = Launch::new()
        .variable("REDIS_PORT_6379_TCP", format!("redis+unix://{}", redis.socket().display()))
        .variable("REDIS_LISTEN", format!("unix:{}", path.display()))
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_DB", "3")
        .start();
    assert_eq!(ambassador.listens("redis:6379"), format!("unix:{}", path.display()));
    let client = redis::Client::open(format!("redis+unix://{}", path.display())).unwrap();
    let mut connection = client.get_connection().unwrap();
    let info = redis::cmd("CLIENT").arg("INFO").query::<String>(&mut connection).unwrap();
    assert!(info.contains(" db=3 "), "{info}");
}

/// No byte of a password is special to a real server either, up to the 16 KiB that it takes.
#[test]
fn passwords_of_any_bytes_up_to_16_kib_are_accepted() {
    let administrators = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {administrators}")) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    let mut administrator = redis.administrator(&administrators);
    for len in [300, 16 << 10] {
        let password = every_byte(len);
        let rule = [b">", &password[..]].concat();
        let set = redis::cmd("ACL")
            .arg("SETUSER")
            .arg("bytes")
            .arg(&["reset", "on", "~*", "+@all"])
            .arg(rule)
            .clone();
        let () = set.query(&mut administrator).unwrap();
        std::fs::write(&path, &password).unwrap();
        let ambassador = Launch::redis(redis.address())
            .variable("REDIS_USERNAME", "bytes")
            .variable("REDIS_AUTH_FILE", &path)
            .start();
        let mut client = ambassador.connect("redis:6379");
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
    }
}

/// The tool that everybody has at hand.
#[test]
fn redis_cli_gets_its_pong() {
    if command_is_missing("redis-cli") {
        return;
    }
    let Some((_redis, ambassador, _)) = with_password("") else { return };
    let address = ambassador.address("redis:6379");
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let output = Command::new("redis-cli").args(["-h", &host, "-p", &port, "ping"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "PONG\n");
}

/// Many clients with deep pipelines: not one error.
#[test]
fn redis_benchmark_runs_without_an_error() {
    if command_is_missing("redis-benchmark") {
        return;
    }
    let Some((_redis, ambassador, _)) = with_password("") else { return };
    let address = ambassador.address("redis:6379");
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let output = Command::new("redis-benchmark")
        .args(["-h", &host, "-p", &port, "-n", "20000", "-c", "50", "-P", "16", "-d", "1000", "-q"])
        .args(["-t", "ping,set,get,lpush,lpop"])
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("LPOP"), "{stdout}\n{stderr}");
    let printed = format!("{stdout}{stderr}");
    assert!(!printed.contains("rror"), "{printed}");
    assert!(!printed.contains("NOAUTH"), "{printed}");
}

/// Messages arrive at a subscriber without having been asked for.
#[test]
fn subscribers_get_their_messages() {
    let Some((_redis, ambassador, _)) = with_password("") else { return };
    let address = ambassador.address("redis:6379");
    let mut connection = connect(address);
    let mut subscriber = connection.as_pubsub();
    subscriber.subscribe("news").unwrap();
    subscriber.psubscribe("weather.*").unwrap();
    let mut publisher = connect(address);
    for (channel, message) in [("news", "one"), ("weather.today", "two"), ("news", "three")] {
        assert_eq!(publisher.publish::<_, _, usize>(channel, message).unwrap(), 1);
        let received = subscriber.get_message().unwrap();
        assert_eq!(received.get_channel_name(), channel);
        assert_eq!(received.get_payload::<String>().unwrap(), message);
    }
}

/// A transaction is one: all of it or nothing.
#[test]
fn transactions_commit_and_abort() {
    let Some((_redis, ambassador, _)) = with_password("") else { return };
    let address = ambassador.address("redis:6379");
    let mut connection = connect(address);
    let (first, second): (i64, i64) =
        redis::pipe().atomic().incr("counter", 1).incr("counter", 1).query(&mut connection).unwrap();
    assert_eq!((first, second), (1, 2));

    let () = redis::cmd("WATCH").arg("counter").query(&mut connection).unwrap();
    let () = connect(address).set("counter", 100).unwrap();
    let aborted: Option<(i64,)> = redis::pipe().atomic().incr("counter", 1).query(&mut connection).unwrap();
    assert_eq!(aborted, None);
}

/// A command that waits in the server is answered when its time has come.
#[test]
fn blocking_commands_block_and_are_answered() {
    let Some((_redis, ambassador, _)) = with_password("") else { return };
    let address = ambassador.address("redis:6379");
    let mut waiting = ambassador.connect("redis:6379");
    waiting.send(b"BLPOP queue 0\r\n");
    waiting.expect_silence(Duration::from_millis(200));
    let () = connect(address).rpush("queue", "job").unwrap();
    waiting.expect(b"*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    waiting.send(b"BLPOP queue 0.1\r\n");
    waiting.expect(b"*-1\r\n");
}

/// Ten thousand commands sent before the first reply is read, and a value of 16 MiB.
#[test]
fn long_pipelines_and_large_values_come_back_whole() {
    let Some((_redis, ambassador, _)) = with_password("") else { return };
    let mut connection = connect(ambassador.address("redis:6379"));
    let mut pipeline = redis::pipe();
    for number in 0..10_000 {
        pipeline.cmd("ECHO").arg(number);
    }
    let replies = pipeline.query::<Vec<usize>>(&mut connection).unwrap();
    assert!(replies.into_iter().eq(0..10_000));

    let value = noise(6, 16 << 20);
    let () = connection.set("large", &value).unwrap();
    assert!(connection.get::<_, Vec<u8>>("large").unwrap() == value, "the value is another one");
}

/// The client's own HELLO leads to RESP3, with maps and pushed messages.
#[test]
fn resp3_works() {
    let Some((_redis, ambassador, _)) = with_password("") else { return };
    let address = ambassador.address("redis:6379");
    let mut connection = connect_with(address, "?protocol=resp3");
    let () = connection.hset("hash", "field", "value").unwrap();
    let hash = redis::cmd("HGETALL").arg("hash").query::<Value>(&mut connection).unwrap();
    assert!(matches!(hash, Value::Map(_)), "{hash:?}");

    let mut client = ambassador.connect("redis:6379");
    client.send(b"HELLO 3\r\n");
    while client.expect_line() != "modules" {}
    client.expect(b"*0\r\n");
    client.send(b"CLIENT TRACKING ON\r\nGET key\r\n");
    client.expect(b"+OK\r\n_\r\n");
    let () = connection.set("key", "value").unwrap();
    client.expect(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n");
}

/// MONITOR turns the connection into a stream of lines.
#[test]
fn monitor_streams() {
    let Some((_redis, ambassador, _)) = with_password("") else { return };
    let mut monitor = ambassador.connect("redis:6379");
    monitor.send(b"MONITOR\r\n");
    monitor.expect(b"+OK\r\n");
    let () = connect(ambassador.address("redis:6379")).set("seen", "value").unwrap();
    while !monitor.expect_line().contains("\"seen\" \"value\"") {}
}

/// A replica that knows no password follows its primary through the ambassador.
#[test]
fn a_replica_follows_through_the_ambassador() {
    let Some((redis, ambassador, password)) = with_password("repl-diskless-sync-delay 0") else { return };
    let () = redis.administrator(&password).set("before", "1").unwrap();
    let through = ambassador.address("redis:6379");
    let Some(replica) = RedisServer::start(&format!("replicaof {} {}", through.ip(), through.port())) else {
        return;
    };
    let mut replica = connect(replica.address());
    eventually("the data of before", || {
        replica.get::<_, Option<String>>("before").is_ok_and(|value| value.is_some())
    });
    let () = redis.administrator(&password).set("after", "2").unwrap();
    eventually("the data of after", || {
        replica.get::<_, Option<String>>("after").is_ok_and(|value| value.is_some())
    });
}

/// A password that changed on both sides serves the next connection without a restart; the old connection stays.
#[test]
fn a_rotated_password_serves_the_next_connection() {
    let old = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    std::fs::write(&path, &old).unwrap();
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH_FILE", &path)
        .variable("REDIS_CONNECT_TIMEOUT", "1s")
        .start();
    let mut before = ambassador.connect("redis:6379");
    before.send(b"PING\r\n");
    before.expect(b"+PONG\r\n");

    let new = password();
    let mut administrator = redis.administrator(&old);
    let () = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(&new).query(&mut administrator).unwrap();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("WRONGPASS"), "{words}");

    std::fs::write(&path, &new).unwrap();
    let mut after = ambassador.connect("redis:6379");
    after.send(&command(&[b"PING"]));
    after.expect(b"+PONG\r\n");
    before.send(b"PING\r\n");
    before.expect(b"+PONG\r\n");
}

/// Two servers with two passwords behind two ambassadors, and one client that does not know which is which.
#[test]
fn the_same_client_works_in_staging_and_in_production() {
    let client = |ambassador: &Ambassador| {
        let mut connection = connect(ambassador.address("redis:6379"));
        connection.get::<_, Option<String>>("environment").unwrap()
    };
    let Some((staging, before_staging, password)) = with_password("") else { return };
    let () = staging.administrator(&password).set("environment", "staging").unwrap();
    let Some((production, before_production, password)) = with_password("") else { return };
    let () = production.administrator(&password).set("environment", "production").unwrap();
    assert_eq!(client(&before_staging).as_deref(), Some("staging"));
    assert_eq!(client(&before_production).as_deref(), Some("production"));
}
