//! Clients that authenticate: to nobody (`absorb`), or to the ambassador (`require`), and never to the target.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use redis::Commands;
use rustix::process::Signal;

use crate::support::{
    Ambassador, Launch, Peer, RedisServer, Target, Version, command, command_is_missing, every_byte, fixture,
    lines, module_is_missing, own_address, password,
};

const OK: &[u8] = b"+OK\r\n";
/// The ambassador refuses in Redis' own words.
const NO_AUTH: &str = "replies/redis-7.0/noauth.resp";
const WRONG_PASSWORD: &str = "replies/redis-7.0/wrongpass.resp";

/// A real server with a password that only the ambassador knows, and what is to become of the clients' own.
fn real(launch: impl Fn(Launch) -> Launch) -> Option<(RedisServer, Ambassador)> {
    let password = password();
    let redis = RedisServer::start(&format!("requirepass {password}"))?;
    let ambassador = launch(Launch::redis(redis.address()).variable("REDIS_AUTH", &password)).start();
    Some((redis, ambassador))
}

fn absorbing(launch: Launch) -> Launch {
    launch.variable("REDIS_CLIENT_AUTH", "absorb")
}

fn requiring(password: &str) -> impl Fn(Launch) -> Launch {
    move |launch| launch.variable("REDIS_CLIENT_AUTH", "require").variable("REDIS_CLIENT_PASSWORD", password)
}

/// The `redis` crate, in both protocols, with user and password or password alone.
fn use_the_redis_crate(address: SocketAddr, user_information: &str) {
    for options in ["", "?protocol=resp3"] {
        let client = redis::Client::open(format!("redis://{user_information}@{address}/{options}")).unwrap();
        let mut connection = client.get_connection().expect("a connection");
        let () = connection.set("key", "value").unwrap();
        assert_eq!(connection.get::<_, String>("key").unwrap(), "value");
        let info = redis::cmd("CLIENT").arg("INFO").query::<String>(&mut connection).unwrap();
        let protocol = if options.is_empty() { " resp=2" } else { " resp=3" };
        assert!(info.contains(protocol), "{info}");
    }
}

fn redis_cli(address: SocketAddr, arguments: &[&str]) -> Output {
    Command::new("redis-cli")
        .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
        .args(arguments)
        .output()
        .unwrap()
}

fn use_redis_cli(address: SocketAddr, user: &str, password: &str) {
    if command_is_missing("redis-cli") {
        return;
    }
    for arguments in [
        &["-a", password, "--no-auth-warning"][..],
        &["--user", user, "--pass", password, "--no-auth-warning"],
        &["-3", "--user", user, "--pass", password, "--no-auth-warning"],
    ] {
        let output = redis_cli(address, &[arguments, &["ECHO", "told"]].concat());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "told\n", "{output:?}");
    }
}

/// redis-py, where it is installed; in continuous integration it has to be.
fn use_redis_py(address: SocketAddr, user: &str, password: &str) {
    const SCRIPT: &str = "
import sys, redis
host, port, user, password = sys.argv[1:]
# The versions before know nothing of RESP3.
protocols = [{'protocol': 2}, {'protocol': 3}] if redis.__version__ >= '5' else [{}]
for protocol in protocols:
    for username in None, user:
        client = redis.Redis(host, int(port), username=username, password=password, client_name='py', **protocol)
        client.set('py', 1)
        assert client.get('py') == b'1'
        assert client.client_getname() in ('py', b'py')
        pipeline = client.pipeline(transaction=True)
        assert pipeline.incr('py').incr('py').execute() == [2, 3]
print('done')
";
    if module_is_missing("redis") {
        return;
    }
    let arguments = [&address.ip().to_string(), &address.port().to_string(), user, password];
    let output = Command::new("python3").args(["-c", SCRIPT]).args(arguments).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{output:?}");
}

/// An application that insists on some password is content, in whatever way it sends it.
#[test]
fn any_password_is_absorbed() {
    let Some((_redis, ambassador)) = real(absorbing) else { return };
    let address = ambassador.address("redis:6379");
    let secret = password();
    use_the_redis_crate(address, &format!(":{secret}"));
    use_the_redis_crate(address, &format!("somebody:{secret}"));
    use_redis_cli(address, "somebody", &secret);
    use_redis_py(address, "somebody", &secret);
}

/// Clients show the ambassador's own password, and the target's stays unknown to them.
#[test]
fn who_shows_the_password_is_served() {
    let secret = password();
    let Some((_redis, ambassador)) = real(requiring(&secret)) else { return };
    let address = ambassador.address("redis:6379");
    use_the_redis_crate(address, &format!(":{secret}"));
    use_the_redis_crate(address, &format!("default:{secret}"));
    use_redis_cli(address, "default", &secret);
    use_redis_py(address, "default", &secret);
    let wrong = redis::Client::open(format!("redis://:{}@{address}/", password())).unwrap();
    let error = wrong.get_connection().err().expect("a refusal").to_string();
    assert!(error.contains("Password authentication failed") || error.contains("WRONGPASS"), "{error}");
    if !command_is_missing("redis-cli") {
        let output = redis_cli(address, &["PING"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "NOAUTH Authentication required.\n\n");
    }
}

/// What is absorbed, at the beginning and later, and what the target hears of it, whatever the split.
#[test]
fn own_authentication_is_absorbed_at_every_split_and_replies_keep_their_order() {
    let target = Target::start();
    let ambassador = absorbing(Launch::redis(target.address())).start();
    let secret = password();
    let secret = secret.as_bytes();
    let write = command(&[b"SET", b"AUTH", secret]);
    let sent = [
        &command(&[b"AUTH", secret])[..],
        &command(&[b"hello", b"3", b"AUTH", b"me", secret, b"SETNAME", b"x"]),
        b"auth you 'other'\r\n",
        &command(&[b"HELLO", b"2"]),
        &command(&[b"AUTH"]),
        &write,
        &command(&[b"AUTH", b"late"]),
        b"PING\r\n",
    ]
    .concat();
    let hello: &[u8] = b"%2\r\n$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*1\r\n%1\r\n+a\r\n_\r\n";
    let other_hello: &[u8] = b"*2\r\n$5\r\nproto\r\n:2\r\n";
    for split in 0..=sent.len() {
        let mut client = ambassador.connect("redis:6379");
        let mut upstream = target.accept();
        client.send(&sent[..split]);
        // What came first is on its way before the rest comes.
        std::thread::sleep(Duration::from_millis(1));
        client.send(&sent[split..]);
        upstream.expect(&command(&[b"hello", b"3", b"SETNAME", b"x"]));
        client.expect(OK);
        let (first, rest) = hello.split_at(split % hello.len());
        upstream.send(first);
        upstream.send(rest);
        upstream.expect(&command(&[b"HELLO", b"2"]));
        client.expect(&[hello, OK].concat());
        upstream.send(other_hello);
        client.expect(&[other_hello, b"-ERR wrong number of arguments for 'auth' command\r\n"].concat());
        upstream.expect(&write);
        upstream.send(OK);
        client.expect(&[OK, OK].concat());
        upstream.expect(b"PING\r\n");
        upstream.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
        client.finish_sending();
        upstream.expect_end();
    }
}

/// The client reads Redis' own words and may go on; the log names the way out, and a crowd of such clients is few lines.
#[test]
fn a_clients_own_password_that_the_target_refuses_is_told_in_the_log() {
    let Some((_redis, ambassador)) = real(|launch| launch) else {
        return;
    };
    let refused = fixture(WRONG_PASSWORD);
    let mut clients = Vec::new();
    let begun = std::time::Instant::now();
    for _ in 0..30 {
        let mut client = ambassador.connect("redis:6379");
        client.send(format!("AUTH {}\r\n", password()).as_bytes());
        client.expect(refused);
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
        clients.push(client);
    }
    let message = "target refused the client's own password";
    let line = ambassador.wait_for(message);
    assert_eq!((&line["link"], &line["level"]), (&"redis:6379".into(), &"WARN".into()), "{line}");
    assert_eq!(line["client"], clients[0].local_address().to_string(), "{line}");
    assert!(line["remedy"].as_str().unwrap().contains("REDIS_CLIENT_AUTH=absorb"), "{line}");
    drop(clients);
    ambassador.signal(Signal::TERM);
    let printed = lines(&ambassador.finish().stderr);
    let told: Vec<_> = printed.iter().filter(|line| line["message"] == message).collect();
    let count: u64 = told.iter().map(|line| 1 + line["held_back"].as_u64().unwrap_or(0)).sum();
    assert_eq!(count, 30, "{told:?}");
    // The first few, one a second, and one at the end.
    assert!(told.len() as u64 <= 5 + begun.elapsed().as_secs() + 1, "{told:?}");
}

/// Nothing is waited for that is not ours: a long first command goes on while it comes.
#[test]
fn another_first_command_is_forwarded_as_it_comes() {
    let target = Target::start();
    let ambassador = absorbing(Launch::redis(target.address())).start();
    for begun in [&b"*3\r\n$3\r\nSET\r\n"[..], b"PING\r\n*3\r\n$3\r\nset\r\n$1", b"*x\r\n"] {
        let mut client = ambassador.connect("redis:6379");
        let mut upstream = target.accept();
        client.send(begun);
        upstream.expect(begun);
    }
    // What may be ours and never becomes whole is nothing to any Redis, and nobody's to hear.
    let mut client = ambassador.connect("redis:6379");
    let mut upstream = target.accept();
    client.send(b"AUTH p");
    client.finish_sending();
    upstream.expect_end();
}

/// A client that has its answers and asks for nothing more reads the end, and no word about what it did not ask for.
#[test]
fn whoever_has_its_answers_and_ends_reads_the_end() {
    let secret = password();
    let ambassador = Launch::redis(own_address())
        .variable("REDIS_CLIENT_AUTH", "require")
        .variable("REDIS_CLIENT_PASSWORD", &secret)
        .start();
    for (said, answer) in [
        (String::new(), ""),
        ("PING\r\n".to_owned(), "-NOAUTH Authentication required.\r\n"),
        (
            format!("AUTH {}\r\n", password()),
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        ),
        (format!("AUTH {secret}\r\n"), "+OK\r\n"),
    ] {
        let mut client = ambassador.connect("redis:6379");
        client.send(said.as_bytes());
        client.finish_sending();
        client.expect(answer.as_bytes());
        client.expect_end();
    }
}

/// A client that authenticates and then is silent is one like any other: it leaves when it is asked to.
#[test]
fn a_client_that_only_authenticates_is_drained() {
    let target = Target::start();
    let ambassador = absorbing(Launch::redis(target.address())).start();
    let mut client = ambassador.connect("redis:6379");
    let mut upstream = target.accept();
    client.send(b"AUTH x\r\n");
    client.expect(OK);
    ambassador.signal(rustix::process::Signal::TERM);
    client.expect_end();
    upstream.expect_end();
}

/// Behind a RESET a client may authenticate again, to whom it did before.
#[test]
fn a_reset_begins_again() {
    let Some((_redis, ambassador)) = real(absorbing) else { return };
    let mut client = ambassador.connect("redis:6379");
    client.send(b"AUTH a\r\nSET a 1\r\nRESET\r\nAUTH b\r\nGET a\r\n");
    client.expect(b"+OK\r\n+OK\r\n+RESET\r\n+OK\r\n$1\r\n1\r\n");

    let secret = password();
    let Some((_redis, ambassador)) = real(requiring(&secret)) else { return };
    let mut client = ambassador.connect("redis:6379");
    client
        .send(format!("AUTH {secret}\r\nSET a 1\r\nRESET\r\nGET a\r\nAUTH {secret}\r\nGET a\r\n").as_bytes());
    client.expect(&[OK, OK, b"+RESET\r\n", fixture(NO_AUTH), OK, b"$1\r\n1\r\n"].concat());
    // And who does not is not served any more.
    client.send(b"RESET\r\nQUIT\r\nGET a\r\n");
    client.expect(b"+RESET\r\n+OK\r\n");
    client.expect_end();
}

/// Also where the target wants no password, which would be surprised by one.
#[test]
fn a_reset_begins_again_without_a_password_for_the_target() {
    let target = Target::start();
    let ambassador = absorbing(Launch::redis(target.address())).start();
    let mut client = ambassador.connect("redis:6379");
    let mut upstream = target.accept();
    client.send(b"AUTH a\r\nRESET\r\nAUTH b\r\nPING\r\n");
    upstream.expect(b"RESET\r\n");
    upstream.send(b"+RESET\r\n");
    upstream.expect(b"PING\r\n");
    client.expect(b"+OK\r\n+RESET\r\n+OK\r\n");
}

/// `absorb`, as phpredis' persistent connections need it: every request begins with an AUTH. `require`: a wrong one is told
/// so and changes nothing. In front of every server.
#[test]
fn a_second_authentication_is_answered_in_its_place() {
    for version in Version::ALL {
        let (target, secret) = (password(), password());
        let Some(redis) = RedisServer::start_version(version, &format!("requirepass {target}")) else {
            continue;
        };
        let launch = || Launch::redis(redis.address()).variable("REDIS_AUTH", &target);
        let ambassador = absorbing(launch()).start();
        let mut client = ambassador.connect("redis:6379");
        for number in 0..3 {
            client.send(
                format!("SET a 1\r\nAUTH x{number}\r\nSELECT {number}\r\nAUTH u p\r\nPING\r\n").as_bytes(),
            );
            client.expect(b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n+PONG\r\n");
        }
        client.send(b"MULTI\r\nAUTH x\r\nEXEC\r\nCLIENT REPLY SKIP\r\nAUTH x\r\nPING\r\n");
        client.expect(b"+OK\r\n+QUEUED\r\n*1\r\n$2\r\nOK\r\n+PONG\r\n");
        let ambassador = requiring(&secret)(launch()).start();
        let mut client = ambassador.connect("redis:6379");
        client.send(
            format!("AUTH {secret}\r\nSELECT 9\r\nAUTH x\r\nSET b 1\r\nAUTH {secret}\r\nGET b\r\n")
                .as_bytes(),
        );
        client.expect(&[b"+OK\r\n+OK\r\n", fixture(WRONG_PASSWORD), b"+OK\r\n+OK\r\n$1\r\n1\r\n"].concat());
        let mut administrator = redis.administrator(&target);
        let log: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query(&mut administrator).unwrap();
        assert!(log.is_empty(), "{}: the server heard a password of the client's", version.name());
    }
}

/// Strangers are answered as by Redis, and the target never hears of them.
#[test]
fn strangers_are_answered_like_by_redis() {
    let Some(redis) = RedisServer::start(&format!("requirepass {}", password())) else { return };
    let target = Target::start();
    let ambassador = requiring(&password())(Launch::redis(target.address())).start();
    for said in [
        &b"PING\r\nQUIT\r\n"[..],
        b"\r\n*0\r\nGET a\r\nQUIT\r\n",
        b"AUTH\r\nAUTH a b c\r\nAUTH wrong\r\nAUTH default wrong\r\nQUIT\r\n",
        b"HELLO\r\nHELLO 3\r\nHELLO 4\r\nHELLO x\r\nHELLO 3 SETNAME a\r\nQUIT\r\n",
        b"HELLO 3 AUTH default wrong\r\nHELLO 3 AUTH default\r\nHELLO 3 NONSENSE\r\nQUIT\r\n",
        b"RESET\r\nGET a\r\nQUIT\r\n",
        // Where Redis itself closes the connection.
        b"*11\r\n",
        b"*x\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n$-1\r\n",
        b"\"unbalanced\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$16385\r\n",
    ] {
        let mut replies = Vec::new();
        for address in [redis.address(), ambassador.address("redis:6379")] {
            let mut client = Peer::connect(address);
            client.send(said);
            let reply = client.expect_rest();
            // Versions of Redis differ in this one word.
            replies.push(String::from_utf8_lossy(&reply).replace("HELLO <proto> AUTH", "HELLO AUTH"));
        }
        assert_eq!(replies[0], replies[1], "{}", said.escape_ascii());
    }
    target.expect_no_connection(Duration::from_millis(50));
}

/// The right password is any bytes; a user counts where one is required; a file is read again.
#[test]
fn user_and_password_are_compared_to_the_last_byte() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_CLIENT_AUTH", "require")
        .variable("REDIS_CLIENT_USERNAME", "app");
    let mut right = every_byte(1000);
    fs::write(&file, [&right[..], b"\n"].concat()).unwrap();
    let ambassador = ambassador.variable("REDIS_CLIENT_PASSWORD_FILE", &file).start();
    for _ in 0..2 {
        let longer = [&right[..], b"x"].concat();
        let mut client = ambassador.connect("redis:6379");
        for (user, password) in [
            (&b"app"[..], &right[1..]),
            (b"app", &right[..999]),
            (b"app", &longer),
            (b"app", b""),
            (b"", &right),
            (b"apps", &right),
            (b"App", &right),
        ] {
            client.send(&command(&[b"AUTH", user, password]));
            client.expect(fixture(WRONG_PASSWORD));
        }
        // Without a user it is the default one.
        client.send(&command(&[b"AUTH", &right]));
        client.expect(fixture(WRONG_PASSWORD));
        client.send(&[command(&[b"HELLO", b"3", b"AUTH", b"app", &right]), b"GET a\r\n".to_vec()].concat());
        let mut upstream = target.accept();
        upstream.expect(&command(&[b"HELLO", b"3"]));
        upstream.send(b"%1\r\n+proto\r\n:3\r\n");
        upstream.expect(b"GET a\r\n");
        upstream.send(b"_\r\n");
        client.expect(b"%1\r\n+proto\r\n:3\r\n_\r\n");

        right = every_byte(1000);
        fs::write(&file, &right).unwrap();
    }
}

/// Who does not show it in time is told so, and the operator too.
#[test]
fn time_is_limited_for_strangers() {
    let target = Target::start();
    let ambassador = requiring(&password())(Launch::redis(target.address()))
        .variable("REDIS_CONNECT_TIMEOUT", "300ms")
        .start();
    let mut silent = ambassador.connect("redis:6379");
    let words = silent.expect_refusal("redis:6379");
    assert!(words.contains("300ms"), "{words}");
    assert_eq!(ambassador.wait_for("connection failed")["stage"], "client_auth");
    let mut wrong = ambassador.connect("redis:6379");
    wrong.send(b"AUTH wrong\r\n");
    wrong.expect(fixture(WRONG_PASSWORD));
    wrong.expect_refusal("redis:6379");
    target.expect_no_connection(Duration::from_millis(50));
}

/// The connection is there only for who is let in, and what came with the password is not lost.
#[test]
fn what_follows_the_password_reaches_the_target() {
    let secret = password();
    let target = Target::start();
    let ambassador = requiring(&secret)(Launch::redis(target.address())).start();
    let sent = [&command(&[b"AUTH", secret.as_bytes()])[..], b"AUTH again\r\nGET a\r\n"].concat();
    for split in 0..=sent.len() {
        let mut client = ambassador.connect("redis:6379");
        client.send(&sent[..split]);
        std::thread::sleep(Duration::from_millis(1));
        client.send(&sent[split..]);
        let mut upstream = target.accept();
        upstream.expect(b"GET a\r\n");
        upstream.send(b"$-1\r\n");
        client.expect(&[OK, fixture(WRONG_PASSWORD), b"$-1\r\n"].concat());
    }
}

/// At the most talkative level nothing shows what clients send, right or wrong.
#[test]
fn no_log_level_shows_what_clients_show() {
    for manner in ["absorb", "require"] {
        let target = Target::start();
        let (user, secret) = (password(), password());
        let mut launch = Launch::redis(target.address())
            .variable("AMBASSADOR_LOG", "trace")
            .variable("REDIS_CLIENT_AUTH", manner);
        if manner == "require" {
            launch =
                launch.variable("REDIS_CLIENT_PASSWORD", &secret).variable("REDIS_CLIENT_USERNAME", &user);
        }
        let ambassador = launch.start();
        let mut client = ambassador.connect("redis:6379");
        let others =
            format!("AUTH {} {}\r\nHELLO 3 AUTH {} {}\r\n", password(), password(), password(), password());
        if manner == "require" {
            client.send(others.as_bytes());
            client.expect(fixture(WRONG_PASSWORD));
        }
        client.send(format!("AUTH {user} {secret}\r\nGET a\r\nGET a\r\n").as_bytes());
        target.accept().expect(b"GET a\r\nGET a\r\n");
        let mut broken = ambassador.connect("redis:6379");
        broken.send(format!("*1\r\n:{}\r\n{}", password(), others).as_bytes());
        broken.finish_sending();
    }
}

/// A password that nobody asks for, a question without an answer, and settings that contradict each other.
#[test]
fn the_settings_are_checked() {
    let launch = || Launch::redis("127.0.0.1:1").variable("REDIS_AUTH", password());
    launch().variable("REDIS_CLIENT_AUTH", "maybe").finish().expect_mistake("REDIS_CLIENT_AUTH");
    launch().variable("REDIS_CLIENT_AUTH", "require").finish().expect_mistake("REDIS_CLIENT_AUTH");
    launch().variable("REDIS_CLIENT_PASSWORD", password()).finish().expect_mistake("REDIS_CLIENT_PASSWORD");
    absorbing(launch())
        .variable("REDIS_CLIENT_USERNAME", "app")
        .finish()
        .expect_mistake("REDIS_CLIENT_USERNAME");
    requiring(&password())(launch())
        .variable("REDIS_CLIENT_PASSWORD_FILE", "/nowhere")
        .finish()
        .expect_mistake("REDIS_CLIENT_PASSWORD");
    launch()
        .variable("REDIS_CLIENT_AUTH", "require")
        .variable("REDIS_CLIENT_PASSWORD_FILE", "/nowhere")
        .finish()
        .expect_mistake("REDIS_CLIENT_PASSWORD_FILE");
    requiring("")(launch()).finish().expect_mistake("REDIS_CLIENT_PASSWORD");
    requiring(&password())(launch())
        .variable("REDIS_RESET", "forward")
        .finish()
        .expect_mistake("REDIS_CLIENT_AUTH");
    Launch::plain("127.0.0.1:1")
        .variable("DB_CLIENT_AUTH", "absorb")
        .finish()
        .expect_mistake("DB_CLIENT_AUTH");
}
