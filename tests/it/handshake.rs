//! What the ambassador says to a Redis server before it lets a client through, byte by byte, and what it makes of
//! every kind of answer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Ambassador, Launch, Peer, RedisServer, Target, command, error_in, eventually, every_answer, every_byte,
    fixture, fixture_text, lines, metric, noise, password, token,
};

/// Long enough for bytes that must not come to come after all.
const A_MOMENT: Duration = Duration::from_millis(150);

fn auth(password: &str) -> Vec<u8> {
    command(&[b"AUTH", password.as_bytes()])
}

fn select(database: &str) -> Vec<u8> {
    command(&[b"SELECT", database.as_bytes()])
}

fn start(target: SocketAddr, password: &str) -> Ambassador {
    Launch::redis(target).variable("REDIS_AUTH", password).start()
}

/// Starts an ambassador for a target that plays `script` to every connection, and returns what a client that has
/// sent a command reads.
fn refusal(script: impl Fn(Peer) + Send + Sync + 'static) -> (Ambassador, String) {
    let target = Target::start().serve(script);
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", password())
        .variable("REDIS_DB", "3")
        .variable("REDIS_CONNECT_TIMEOUT", "1s")
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    let words = client.expect_refusal("redis:6379");
    (ambassador, words)
}

/// Takes the AUTH of a password without a line ending in it.
fn take_auth(peer: &mut Peer) {
    for _ in 0..5 {
        peer.expect_line();
    }
}

/// Takes the AUTH and the SELECT that [`refusal`] leads to.
fn take_handshake(peer: &mut Peer) {
    // Either command is an array of two: five lines.
    for _ in 0..10 {
        peer.expect_line();
    }
}

#[track_caller]
fn expect_failure(ambassador: &Ambassador, stage: &str) {
    let line = ambassador.wait_for("connection failed");
    assert_eq!(line["level"], "WARN", "{line}");
    assert_eq!(line["link"], "redis:6379", "{line}");
    assert_eq!(line["stage"], stage, "{line}");
    for field in ["client", "error", "remedy"] {
        assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {line}");
    }
}

/// AUTH and SELECT go out as arrays of bulk strings, the second without waiting for the first one's reply.
#[test]
fn auth_and_select_arrive_together_as_arrays_of_bulk_strings() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", "open sesame")
        .variable("REDIS_DB", "12")
        .start();
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    server.expect(b"*2\r\n$4\r\nAUTH\r\n$11\r\nopen sesame\r\n*2\r\n$6\r\nSELECT\r\n$2\r\n12\r\n");
    server.send(b"+OK\r\n+OK\r\n");
    client.send(b"PING\r\n");
    server.expect(b"PING\r\n");
    server.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");
}

/// With a user, AUTH has two arguments.
#[test]
fn a_user_goes_before_the_password() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_USERNAME", "app")
        .variable("REDIS_AUTH", "open sesame")
        .start();
    let _client = ambassador.connect("redis:6379");
    target.accept().expect(b"*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$11\r\nopen sesame\r\n");
}

/// A Redis link without credentials and database sends nothing of its own.
#[test]
fn without_credentials_and_database_the_first_bytes_are_the_clients() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    let mut server = target.accept();
    server.expect(b"PING\r\n");
    server.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");
}

/// A fresh connection stands in database 0 and is, once it has a password, the default user: nobody is asked for either.
#[test]
fn what_a_server_does_anyway_is_not_asked_for() {
    let target = Target::start();
    let secret = password();
    for (variables, sent) in [
        (vec![("REDIS_DB", "0")], vec![]),
        (vec![("REDIS_DB", "0"), ("REDIS_AUTH", &*secret)], vec![auth(&secret)]),
        (vec![("REDIS_USERNAME", "default"), ("REDIS_AUTH", &secret)], vec![auth(&secret)]),
        (
            vec![("REDIS_USERNAME", "default"), ("REDIS_AUTH", &secret), ("REDIS_DB", "1")],
            vec![auth(&secret), select("1")],
        ),
    ] {
        let launch = Launch::redis(target.address());
        let ambassador =
            variables.iter().fold(launch, |launch, (name, value)| launch.variable(name, value)).start();
        let mut client = ambassador.connect("redis:6379");
        client.send(b"PING\r\n");
        let mut server = target.accept();
        server.expect(&sent.concat());
        server.send("+OK\r\n".repeat(sent.len()).as_bytes());
        server.expect(b"PING\r\n");
        server.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
    }
    let of_url = Launch::redis(format!("{}/0", target.address())).start();
    let _client = of_url.connect("redis:6379");
    target.accept().expect_silence(A_MOMENT);
}

/// A user who may not SELECT needs no right to stand in database 0; `check` asks for none either.
#[test]
fn a_user_that_may_not_select_is_served_in_database_0() {
    let secret = password();
    let configuration = format!("user app on >{secret} ~* +@all -select\nuser default off");
    let Some(redis) = RedisServer::start(&configuration) else { return };
    let launch = || {
        Launch::redis(redis.address())
            .variable("REDIS_USERNAME", "app")
            .variable("REDIS_AUTH", &secret)
            .variable("REDIS_DB", "0")
    };
    let ambassador = launch().start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    let checked = launch().argument("check").finish();
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    let wiring = launch().wiring();
    assert_eq!(wiring["links"][0]["db"], 0, "{wiring}");
}

/// Neither a connection without a reply nor one with one reply of two carries a byte of the client.
#[test]
fn not_one_client_byte_goes_out_before_every_reply_was_good() {
    let target = Target::start();
    let password = password();
    let ambassador =
        Launch::redis(target.address()).variable("REDIS_AUTH", &password).variable("REDIS_DB", "1").start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"SET before everything\r\n");
    let mut server = target.accept();
    server.expect(&[auth(&password), select("1")].concat());
    server.expect_silence(A_MOMENT);
    server.send(b"+OK\r\n+O");
    server.expect_silence(A_MOMENT);
    server.send(b"K\r\n");
    server.expect(b"SET before everything\r\n");
}

/// A reply may come in pieces, cut at any byte.
#[test]
fn replies_are_read_however_they_are_split() {
    let target = Target::start();
    let password = password();
    let ambassador =
        Launch::redis(target.address()).variable("REDIS_AUTH", &password).variable("REDIS_DB", "1").start();
    let handshake = [auth(&password), select("1")].concat();
    let replies = b"+OK\r\n+OK\r\n";
    for split in 1..replies.len() {
        let mut client = ambassador.connect("redis:6379");
        let mut server = target.accept();
        server.expect(&handshake);
        let (first, second) = replies.split_at(split);
        server.send(first);
        server.expect_silence(Duration::from_millis(20));
        server.send(second);
        client.send(b"PING\r\n");
        server.expect(b"PING\r\n");
        server.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
    }
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    server.expect(&handshake);
    server.drip(replies);
    client.send(b"PING\r\n");
    server.expect(b"PING\r\n");
}

/// An error may come in pieces too, and its words arrive whole.
#[test]
fn an_error_that_comes_byte_by_byte_arrives_whole() {
    let (ambassador, words) = refusal(|mut peer| {
        take_handshake(&mut peer);
        peer.drip(fixture("replies/redis-7.0/noauth-pipeline.resp"));
        peer.expect_gone();
    });
    assert!(words.contains("WRONGPASS invalid username-password pair or user is disabled."), "{words}");
    expect_failure(&ambassador, "auth");
}

/// What a server says to a wrong password, in every version's words, reaches the client and the log.
#[test]
fn a_wrong_password_is_told_in_the_servers_own_words() {
    let mut refusals = every_answer("wrongpass");
    // What those before users answer to one.
    refusals.insert(fixture("replies/redis-5/auth-user.resp"));
    for said in refusals {
        let (ambassador, words) = refusal(move |mut peer| {
            take_handshake(&mut peer);
            peer.send(&[said, fixture("replies/redis-7.0/noauth-select.resp")].concat());
            peer.expect_gone();
        });
        assert!(words.contains(error_in(said)), "{words}");
        expect_failure(&ambassador, "auth");
    }
}

/// What the operator is told to do about a refusal whose words are these, in the log and by `check`.
#[track_caller]
fn expect_remedy(launch: impl Fn() -> Launch, words: &[&str], remedies: &[&str]) {
    let ambassador = launch().start();
    let read = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    let line = ambassador.wait_for("connection failed");
    let report = launch().argument("check").finish().stdout;
    for word in words {
        assert!(read.contains(word), "no {word}: {read}");
    }
    for remedy in remedies {
        assert!(line["remedy"].as_str().unwrap().contains(remedy), "no {remedy}: {line}");
        assert!(report.contains(remedy), "no {remedy}: {report}");
    }
}

/// What is no Redis is named by what it says, and the remedy by the variables of this link.
#[test]
fn another_protocol_is_told_with_what_to_write() {
    let alert: &[u8] = b"\x15\x03\x03\x00\x02\x02\x28";
    let names_it = "name the Redis server";
    let over_tls = ["write rediss:// in REDIS_PORT_6379_TCP", "or set REDIS_TLS=true"];
    for (said, shown, remedies) in [
        (alert, "it speaks TLS", &over_tls[..]),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 400", &["a web server", names_it]),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0", &[names_it, "in REDIS_PORT_6379_TCP"]),
    ] {
        let target = Target::start().serve(move |mut peer| {
            take_auth(&mut peer);
            peer.send(said);
            peer.expect_gone();
        });
        let launch = || Launch::redis(target.address()).variable("REDIS_AUTH", password());
        expect_remedy(launch, &["does not answer like a Redis server", shown], remedies);
    }
}

/// A setting may be the alias', or that of one port: the remedy names the variable that is there.
#[test]
fn a_remedy_names_the_variable_that_gives_the_setting() {
    let Some(server) = RedisServer::start("") else { return };
    for variable in ["REDIS_DB", "REDIS_PORT_6379_DB"] {
        let target = format!("redis://{}", server.address());
        let launch = || {
            Launch::redis(server.address()).variable("REDIS_PORT_6379_TCP", &target).variable(variable, "99")
        };
        expect_remedy(launch, &["refused SELECT"], &[&format!("check {variable}, and the number")]);
    }
    for variable in ["REDIS_ALLOW", "REDIS_PORT_6379_ALLOW"] {
        let ambassador = Launch::redis(server.address()).variable(variable, "192.0.2.0/24").start();
        ambassador.connect("redis:6379").expect_gone();
        let line = ambassador.wait_for("connection failed");
        let remedy = line["remedy"].as_str().unwrap();
        assert!(remedy.starts_with(&format!("add its network to {variable}, ")), "{remedy}");
    }
}

/// Redis says the same of a wrong password, of a user that there is not, and of one that is disabled; which of them it may
/// be depends on what is configured.
#[test]
fn what_may_be_behind_a_refused_password_is_told() {
    let secret = password();
    let users = format!("user app on >{secret} ~* +@all\nuser gone off >{secret} ~* +@all\nuser default off");
    let Some(server) = RedisServer::start(&users) else { return };
    let address = server.address();
    let refused = ["refused the password", "WRONGPASS"];
    let launch = || Launch::redis(address).variable("REDIS_AUTH", &secret);
    // Misspelt, and disabled.
    for user in ["ap", "gone"] {
        let shown = format!("\"{user}\" spelt right, and enabled there (ACL GETUSER {user})");
        let remedies = ["check REDIS_AUTH (it gives ", "And REDIS_USERNAME", &shown];
        expect_remedy(|| launch().variable("REDIS_USERNAME", user), &refused, &remedies);
    }
    // The user "default", which is meant where none is named.
    let remedies =
        ["check REDIS_AUTH (it gives ", "ACL LIST has \"user default off\", set REDIS_USERNAME to the user"];
    expect_remedy(launch, &refused, &remedies);
    let of_port = || Launch::redis(address).variable("REDIS_PORT_6379_AUTH", &secret);
    expect_remedy(
        of_port,
        &refused,
        &["check REDIS_PORT_6379_AUTH (it gives ", "set REDIS_PORT_6379_USERNAME"],
    );
    // The user of the URL.
    let url =
        || Launch::redis(address).variable("REDIS_PORT_6379_TCP", format!("redis://ap:{secret}@{address}"));
    let remedies = ["check REDIS_PORT_6379_TCP (it gives ", "And REDIS_PORT_6379_TCP: is \"ap\" spelt right"];
    expect_remedy(url, &refused, &remedies);
    // Written right it serves.
    let ambassador = launch().variable("REDIS_USERNAME", "app").start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// What a refused password looks like tells of the mistake that is most likely behind it; no byte of it is told.
#[test]
fn what_a_refused_password_looks_like_is_told() {
    let secret = password();
    let Some(server) = RedisServer::start(&format!("requirepass {secret}")) else { return };
    let address = server.address();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    let utf16: Vec<u8> = secret.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_user = format!("app:{secret}");
    for (content, looks) in [
        // As `base64` writes it, and as PowerShell's `>` does.
        (&b"aHVudGVyMjI="[..], "12 bytes that look like base64, which is not decoded"),
        (b"aHVudGVyMjIy", "12 bytes that look like base64, which is not decoded"),
        (&[&b"\xff\xfe"[..], &utf16].concat(), "that look like UTF-16, where Redis compares UTF-8"),
        (&utf16, "that look like UTF-16, where Redis compares UTF-8"),
        (with_user.as_bytes(), "with a colon, and a user in front of one goes into USERNAME"),
        (b"/run/secrets/redis", "that look like a path, and the path of a file goes into AUTH_FILE"),
        (b"hunt%41", "with a %XX, which is decoded in a URL alone"),
    ] {
        std::fs::write(&file, content).unwrap();
        let remedies = ["check REDIS_AUTH_FILE (it gives ", looks];
        expect_remedy(
            || Launch::redis(address).variable("REDIS_AUTH_FILE", &file),
            &["WRONGPASS"],
            &remedies,
        );
    }
    // A password with a percent sign in a URL is another one unless that is written %25.
    let url = |password: &str| {
        Launch::redis(address).variable("REDIS_PORT_6379_TCP", format!("redis://:{password}@{address}"))
    };
    let mut administrator = server.administrator(&secret);
    let secret = format!("%41{}", password());
    let set = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(&secret).query(&mut administrator);
    let () = set.expect("CONFIG SET");
    let remedies = ["check REDIS_PORT_6379_TCP (it gives ", "a % itself is written %25"];
    expect_remedy(|| url(&secret), &["WRONGPASS"], &remedies);
    let ambassador = url(&secret.replace('%', "%25")).start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// Before Redis 6 there are no users that could be to blame.
#[test]
fn a_server_without_users_can_only_mean_the_password() {
    let target = Target::start().serve(|mut peer| {
        take_auth(&mut peer);
        let _ = peer.try_send(b"-ERR invalid password\r\n");
        peer.expect_gone();
    });
    let ambassador = start(target.address(), &password());
    ambassador.connect("redis:6379").expect_refusal("redis:6379");
    let line = ambassador.wait_for("connection failed");
    assert!(!line["remedy"].as_str().unwrap().contains("USERNAME"), "{line}");
}

/// A user that served and was disabled since looks like a rotation under way.
#[test]
fn a_user_that_was_disabled_meanwhile_is_among_the_causes() {
    let secret = password();
    let users = format!("user app on >{secret} ~* +@all\nuser default on >{secret} ~* +@all");
    let Some(server) = RedisServer::start(&users) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    std::fs::write(&file, &secret).unwrap();
    for (user, remedy) in [
        (Some("app"), "enable the user \"app\", if it was disabled there (ACL GETUSER app)"),
        (None, "set REDIS_USERNAME, if the user \"default\" was disabled there"),
    ] {
        let launch = Launch::redis(server.address())
            .variable("REDIS_AUTH_FILE", &file)
            .variable("REDIS_CONNECT_TIMEOUT", "2s");
        let launch = user.into_iter().fold(launch, |launch, user| launch.variable("REDIS_USERNAME", user));
        let ambassador = launch.start();
        let mut client = ambassador.connect("redis:6379");
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
        let mut administrator = server.administrator(&secret);
        let user = user.unwrap_or("default");
        let _: () =
            redis::cmd("ACL").arg("SETUSER").arg(user).arg("off").query(&mut administrator).expect("ACL");
        // The end of the connect timeout may come in the midst of a try, which is then told as late.
        let is_refusal = |line: &Value| {
            line["message"] == "connection failed" && line["error"].as_str().unwrap().contains("WRONGPASS")
        };
        eventually("a refusal", || {
            ambassador.connect("redis:6379").expect_refusal("redis:6379");
            !ambassador.logged(is_refusal).is_empty()
        });
        let line = ambassador.logged(is_refusal).remove(0);
        for remedy in ["finish the rotation", remedy] {
            assert!(line["remedy"].as_str().unwrap().contains(remedy), "no {remedy}: {line}");
        }
    }
}

/// `rename-command` takes a command away, or hides it; the password's file is not to blame.
#[test]
fn a_command_that_the_server_does_not_have_is_told_so() {
    let secret = password();
    for name in ["\"\"", "hidden"] {
        let configuration = format!("requirepass {secret}\nrename-command AUTH {name}");
        let Some(server) = RedisServer::start(&configuration) else { return };
        let launch = || Launch::redis(server.address()).variable("REDIS_AUTH", &secret);
        let remedies = ["take rename-command AUTH out of the server's configuration", "REDIS_PORT_6379_TCP"];
        expect_remedy(launch, &["the target knows no AUTH", "unknown command"], &remedies);
    }
    let configuration = format!("requirepass {secret}\nrename-command SELECT \"\"");
    let Some(server) = RedisServer::start(&configuration) else { return };
    let launch = || Launch::redis(server.address()).variable("REDIS_AUTH", &secret).variable("REDIS_DB", "1");
    expect_remedy(
        launch,
        &["the target knows no SELECT", "unknown command"],
        &["take rename-command SELECT out", "or remove REDIS_DB"],
    );
}

/// What a user may not do is told by its name.
#[test]
fn a_command_that_the_user_may_not_send_is_told_by_its_name() {
    let target = Target::start().serve(|mut peer| {
        take_auth(&mut peer);
        let _ = peer.try_send(b"-NOPERM User app has no permissions to run the 'auth' command\r\n");
        peer.expect_gone();
    });
    let ambassador = start(target.address(), &password());
    ambassador.connect("redis:6379").expect_refusal("redis:6379");
    let line = ambassador.wait_for("connection failed");
    let remedy = line["remedy"].as_str().unwrap();
    assert!(remedy.contains("+auth") && !remedy.contains("SELECT"), "{line}");
}

/// Every refused AUTH is a line in the server's ACL LOG: one client makes one try.
#[test]
fn a_refused_password_is_not_tried_again() {
    let target = Target::start().serve(|mut peer| {
        peer.expect_line();
        peer.send(fixture("replies/redis-7.0/wrongpass.resp"));
        peer.expect_gone();
    });
    let ambassador = start(target.address(), &password());
    for client in 1..=3 {
        ambassador.connect("redis:6379").expect_refusal("redis:6379");
        assert_eq!(target.accepted(), client);
    }
}

/// The database that the user may not select is told as such.
#[test]
fn a_refused_select_is_told_in_the_servers_own_words() {
    let in_cluster_mode = fixture("replies/redis-7.0/select-cluster.resp");
    let mut refusals: BTreeSet<_> = [[b"+OK\r\n", in_cluster_mode].concat()].into();
    for situation in ["noperm-select", "select-range", "select-no-number"] {
        refusals.extend(every_answer(situation).into_iter().map(<[u8]>::to_vec));
    }
    refusals.insert(fixture("replies/redis-7.0/busy.resp").to_vec());
    for said in refusals {
        let said: &'static [u8] = said.leak();
        let (ambassador, words) = refusal(move |mut peer| {
            take_handshake(&mut peer);
            peer.send(said);
            peer.expect_gone();
        });
        assert!(words.contains(error_in(said)), "{words}");
        expect_failure(&ambassador, "select");
    }
}

/// A server that turns everybody away speaks before it is asked, and closes: its words are told all the same,
/// whether it still read the AUTH or its close resets the connection.
#[test]
fn words_that_come_before_auth_are_told() {
    for said in every_answer("protected-mode").into_iter().chain(every_answer("max-clients")) {
        for reads_first in [true, false] {
            let (ambassador, words) = refusal(move |mut peer| {
                peer.send(said);
                if reads_first {
                    take_handshake(&mut peer);
                }
            });
            let start: String = error_in(said).chars().take(80).collect();
            assert!(words.contains(&start), "{words}");
            expect_failure(&ambassador, "auth");
        }
    }
}

/// One command and its reply.
fn exchange(client: &mut Peer, server: &mut Peer) {
    client.send(b"PING\r\n");
    server.expect(b"PING\r\n");
    server.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");
}

/// A server that wants no password is a reason for a warning, not for a refusal.
#[test]
fn a_server_without_a_password_is_warned_about_and_used() {
    // Dragonfly says +OK.
    for said in every_answer("no-password").into_iter().filter(|said| said.starts_with(b"-")) {
        let target = Target::start();
        let password = password();
        let ambassador = Launch::redis(target.address())
            .variable("REDIS_AUTH", &password)
            .variable("REDIS_DB", "1")
            .start();
        let mut client = ambassador.connect("redis:6379");
        let mut server = target.accept();
        server.expect(&[auth(&password), select("1")].concat());
        server.send(&[said, b"+OK\r\n"].concat());
        exchange(&mut client, &mut server);
        ambassador.wait_for_log("a warning about the missing password", |line| {
            line["level"] == "WARN" && line["link"] == "redis:6379"
        });
        let (admin, backend) = (ambassador.admin(), target.address());
        let series = format!("backend_wants_no_password{{link=\"redis:6379\",backend=\"{backend}\"}}");
        assert!((metric(admin, &series) - 1.0).abs() < 0.5);
        // It is said once, and forgotten when a password is wanted again.
        for (said, wants_none) in [(said, 1.0), (b"+OK\r\n", 0.0)] {
            let mut client = ambassador.connect("redis:6379");
            let mut server = target.accept();
            server.expect(&[auth(&password), select("1")].concat());
            server.send(&[said, b"+OK\r\n"].concat());
            exchange(&mut client, &mut server);
            eventually("the gauge", || (metric(admin, &series) - wants_none).abs() < 0.5);
        }
        ambassador.signal(Signal::TERM);
        let printed = lines(&ambassador.finish().stderr);
        let warnings = printed.iter().filter(|line| line["level"] == "WARN").count();
        assert_eq!(warnings, 1, "{printed:?}");
    }
}

/// That a password is not wanted excuses AUTH alone: a refused SELECT after it is a refusal.
#[test]
fn a_refused_select_counts_on_a_server_without_a_password_too() {
    let (_ambassador, words) = refusal(|mut peer| {
        take_handshake(&mut peer);
        peer.send(fixture("replies/redis-5/no-password.resp"));
        peer.send(b"-ERR invalid DB index\r\n");
        peer.expect_gone();
    });
    assert!(words.contains("ERR invalid DB index"), "{words}");
}

/// The end of the stream in the middle of a handshake is a refusal, never a success.
#[test]
fn a_server_that_closes_at_any_step_is_a_refusal() {
    for said in ["", "+", "+OK", "+OK\r\n", "+OK\r\n+OK\r"] {
        let (ambassador, _) = refusal(move |mut peer| {
            take_handshake(&mut peer);
            peer.send(said.as_bytes());
        });
        ambassador.wait_for("connection failed");
    }
}

/// A server that closes before it has read anything is a refusal too.
#[test]
fn a_server_that_closes_at_once_is_a_refusal() {
    let (ambassador, _) = refusal(drop);
    ambassador.wait_for("connection failed");
}

/// So is one that resets the connection, again and again.
#[test]
fn a_server_that_resets_at_any_step_is_a_refusal() {
    for said in ["", "+O", "+OK\r\n"] {
        let (ambassador, _) = refusal(move |mut peer| {
            take_handshake(&mut peer);
            peer.send(said.as_bytes());
            peer.reset();
        });
        ambassador.wait_for("connection failed");
    }
}

/// A server that accepts and says nothing takes the connect timeout, no longer.
#[test]
fn a_server_that_says_nothing_is_a_refusal_after_the_connect_timeout() {
    for said in ["", "+OK\r\n+O"] {
        let (ambassador, _) = refusal(move |mut peer| {
            take_handshake(&mut peer);
            peer.send(said.as_bytes());
            peer.expect_gone();
        });
        ambassador.wait_for("connection failed");
    }
}

/// Whatever is not the reply to AUTH is a refusal: other protocols, other types, replies announced without end.
#[test]
fn an_answer_that_is_no_reply_to_auth_is_a_refusal() {
    for said in [
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\r\n\r\n",
        "\0\0\0\0",
        ":1\r\n",
        "$-1\r\n+OK\r\n",
        "*0\r\n+OK\r\n",
        "$2000000000\r\n",
        "$-2\r\n",
        "*2000000000\r\n",
        "*-7\r\n",
    ] {
        let (ambassador, _) = refusal(move |mut peer| {
            take_handshake(&mut peer);
            // The ambassador may have seen enough after the first bytes.
            let _ = peer.try_send(said.as_bytes());
            peer.expect_gone();
        });
        ambassador.wait_for("connection failed");
    }
}

/// A line without an end is cut off early, by its size and not by the clock, and costs no memory.
#[test]
fn a_line_without_end_is_a_refusal_and_costs_no_memory() {
    for start in ["+", "-ERR ", "$", ":", "x"] {
        let taken = Arc::new(AtomicUsize::new(0));
        let target = Target::start().serve({
            let taken = Arc::clone(&taken);
            move |mut peer| {
                take_auth(&mut peer);
                let mut sent = peer.try_send(start.as_bytes());
                while sent.is_ok() {
                    sent = peer.try_send(&[b'7'; 4096]);
                    taken.fetch_add(4096, Ordering::Relaxed);
                }
            }
        });
        let ambassador = Launch::redis(target.address())
            .variable("REDIS_AUTH", password())
            // Far beyond the patience of the client.
            .variable("REDIS_CONNECT_TIMEOUT", "10m")
            .start();
        let before = ambassador.memory();
        ambassador.connect("redis:6379").expect_refusal("redis:6379");
        let grown = ambassador.memory().saturating_sub(before);
        assert!(
            grown < 4 << 20,
            "{grown} bytes more after a line of {} bytes",
            taken.load(Ordering::Relaxed)
        );
    }
}

/// Arrays within arrays without end exhaust no stack.
#[test]
fn arrays_nested_without_end_are_a_refusal() {
    let target = Target::start().serve(|mut peer| {
        take_auth(&mut peer);
        let _ = peer.try_send(&b"*1\r\n".repeat(200_000));
        peer.expect_gone();
    });
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", password())
        .variable("REDIS_CONNECT_TIMEOUT", "10m")
        .start();
    for _ in 0..2 {
        ambassador.connect("redis:6379").expect_refusal("redis:6379");
    }
}

/// What comes along with the last reply of the handshake is the client's.
#[test]
fn bytes_behind_the_last_reply_reach_the_client() {
    let target = Target::start();
    let password = password();
    let ambassador = start(target.address(), &password);
    let more = noise(1, 200_000);
    for len in [1, 100, more.len()] {
        let mut client = ambassador.connect("redis:6379");
        let mut server = target.accept();
        server.expect(&auth(&password));
        server.send(&[b"+OK\r\n", &more[..len]].concat());
        client.expect(&more[..len]);
        client.send(b"PING\r\n");
        server.expect(b"PING\r\n");
        server.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
    }
}

/// A server that ends right behind its last words still delivers them.
#[test]
fn bytes_behind_the_last_reply_reach_the_client_even_when_the_server_closes() {
    let target = Target::start();
    let password = password();
    let ambassador = start(target.address(), &password);
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    server.expect(&auth(&password));
    server.send(b"+OK\r\n-ERR going down\r\n");
    drop(server);
    client.expect(b"-ERR going down\r\n");
    client.expect_end();
}

/// The line is not lost to a reset, however much the client sends and keeps sending meanwhile.
#[test]
fn the_refusal_line_arrives_even_when_the_client_has_already_sent() {
    let target = Target::start().serve(|mut peer| {
        take_auth(&mut peer);
        peer.send(fixture("replies/redis-7.0/wrongpass.resp"));
        peer.expect_gone();
    });
    let ambassador = start(target.address(), &password());
    for len in [6, 64 << 10, 4 << 20] {
        for _ in 0..10 {
            let mut client = ambassador.connect("redis:6379");
            thread::scope(|scope| {
                let mut sender = client.handle();
                scope.spawn(move || {
                    // The end of what is still unsent may meet a closed connection.
                    let _ = sender.try_send(&vec![b'x'; len]);
                });
                let words = client.expect_refusal("redis:6379");
                assert!(words.contains("WRONGPASS"), "{words}");
            });
        }
    }
}

/// A client that takes no notice of its refusal and sends for ever is cut off.
#[test]
fn a_refused_client_that_goes_on_sending_is_cut_off() {
    let target = Target::start().serve(|mut peer| {
        take_auth(&mut peer);
        peer.send(fixture("replies/redis-7.0/wrongpass.resp"));
        peer.expect_gone();
    });
    let ambassador = start(target.address(), &password());
    let mut client = ambassador.connect("redis:6379");
    eventually("the end of the connection", || client.try_send(b"PING\r\n").is_err());
}

/// A client that has sent everything and the end of its stream reads the line too.
#[test]
fn the_refusal_line_arrives_when_the_client_has_finished_sending() {
    let target = Target::start();
    let password = password();
    let ambassador = start(target.address(), &password);
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    server.expect(&auth(&password));
    server.send(fixture("replies/redis-6.0/wrongpass.resp"));
    client.send(b"PING\r\n");
    client.finish_sending();
    client.expect_refusal("redis:6379");
}

/// `printf 'PING\r\n' | nc -N`: a command and the end of the stream at once, before the handshake is done.
#[test]
fn a_client_that_sends_and_finishes_at_once_is_answered() {
    let target = Target::start();
    let password = password();
    let ambassador = start(target.address(), &password);
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.finish_sending();
    let mut server = target.accept();
    server.expect(&auth(&password));
    server.send(b"+OK\r\n");
    server.expect(b"PING\r\n");
    server.expect_end();
    server.send(b"+PONG\r\n");
    drop(server);
    client.expect(b"+PONG\r\n");
    client.expect_end();
}

/// A client that leaves takes its half-made connection with it, long before the connect timeout.
#[test]
fn a_client_that_leaves_ends_the_handshake() {
    let target = Target::start();
    let password = password();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_CONNECT_TIMEOUT", "10m")
        .start();
    for leaves in [drop::<Peer> as fn(Peer), Peer::reset] {
        let client = ambassador.connect("redis:6379");
        let mut server = target.accept();
        server.expect(&auth(&password));
        leaves(client);
        server.expect_gone();
    }
}

/// No byte of a password is special, up to the 16 KiB that Redis takes.
#[test]
fn passwords_of_any_bytes_up_to_16_kib_arrive_as_they_are() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    for len in [300, 16 << 10] {
        let password = every_byte(len);
        assert_eq!(password.len(), len);
        std::fs::write(&path, &password).expect("a password file");
        let target = Target::start();
        let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH_FILE", &path).start();
        let mut client = ambassador.connect("redis:6379");
        let mut server = target.accept();
        server.expect(&command(&[b"AUTH", &password]));
        server.send(b"+OK\r\n");
        client.send(b"PING\r\n");
        server.expect(b"PING\r\n");
    }
}

/// A server may quote what it was sent; neither the client nor the log gets to see it.
#[test]
fn a_password_that_the_server_quotes_is_told_to_nobody() {
    let target = Target::start();
    let secret = token();
    let password = format!("{secret} with {}", token());
    let ambassador = start(target.address(), &password);
    let quoting = |server: &str| {
        let said = fixture_text(&format!("replies/{server}/unknown-auth.resp"));
        said.replace("secret", &password)
    };
    for quoted in [
        quoting("redis-7.0"),
        quoting("redis-6.2"),
        // Redis cuts long arguments short.
        format!("-ERR unknown command 'AUTH', with args beginning with: '{secret}\r\n"),
        format!("{password}\r\n"),
    ] {
        let mut client = ambassador.connect("redis:6379");
        let mut server = target.accept();
        server.expect(&auth(&password));
        server.send(quoted.as_bytes());
        let words = client.expect_refusal("redis:6379");
        assert!(!words.contains(&secret), "{words}");
    }
}

/// An error with control characters in it stays one line for the client.
#[test]
fn the_servers_words_never_break_out_of_the_line() {
    let (ambassador, words) = refusal(|mut peer| {
        take_handshake(&mut peer);
        peer.send(b"-ERR first\n+second\x1b[31m \x07 third\r\n");
        peer.send(fixture("replies/redis-7.0/noauth-select.resp"));
        peer.expect_gone();
    });
    assert!(words.contains("first"), "{words}");
    assert!(!words.contains(|c: char| c.is_control()), "{words:?}");
    expect_failure(&ambassador, "auth");
}

/// A client that is refused in the handshake leaves nothing behind for the next one.
#[test]
fn after_a_refusal_the_next_client_is_served() {
    let target = Target::start();
    let password = password();
    let ambassador = start(target.address(), &password);
    let mut refused = ambassador.connect("redis:6379");
    let mut server = target.accept();
    server.expect(&auth(&password));
    let loading = fixture("replies/redis-7.0/loading.resp").strip_prefix(b"+OK\r\n").expect("AUTH succeeds");
    server.send(loading);
    let words = refused.expect_refusal("redis:6379");
    assert!(words.contains(error_in(loading)), "{words}");
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    server.expect(&auth(&password));
    server.send(b"+OK\r\n");
    client.send(b"PING\r\n");
    server.expect(b"PING\r\n");
}
