//! Passwords stay between the ambassador and the target. Every test of this suite looks for every password in
//! everything that its ambassadors print; these look where it is most likely.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{
    Ambassador, Authority, Launch, Peer, RedisServer, Target, another_user, command, command_is_missing,
    eventually, every_byte, fixture, password, redis_over_tls, token,
};
use crate::tls::launch_over_tls;

/// Ends the ambassador; that it printed no password is looked for whenever one ends.
fn stop(ambassador: Ambassador) -> String {
    ambassador.signal(Signal::TERM);
    let finished = ambassador.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished.stdout + &finished.stderr
}

/// The search itself works: a token that is printed is found.
#[test]
fn a_password_that_is_printed_is_found() {
    let token = token();
    let launched = std::panic::catch_unwind(|| {
        // A host is shown, so this one is. Digits alone would be none.
        Launch::new().variable("DB_PORT_1_TCP", format!("tcp://host-{token}:1")).argument("links").finish()
    });
    let reason = launched.expect_err("the search found nothing");
    let reason = reason.downcast_ref::<String>().expect("words");
    assert!(reason.contains(&token), "{reason}");
}

/// At the most talkative level: passwords from everywhere, taken, refused, quoted, changed, gone.
#[test]
fn no_log_level_shows_a_password() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (file, socket) = (directory.path().join("password"), |alias: &str| directory.path().join(alias));
    let target = Target::start();
    for format in ["json", "text"] {
        let (in_file, in_variable, in_url) = (every_byte(1000), password(), password());
        fs::write(&file, &in_file).unwrap();
        let ambassador = Launch::redis(target.address())
            .variable("REDIS_AUTH_FILE", &file)
            .variable("REDIS_USERNAME", "app")
            .redis_link("VARIABLE", target.address())
            .variable("VARIABLE_AUTH", &in_variable)
            .redis_link("URL", format!("app:{in_url}@{}", target.address()))
            // Near misses hold passwords too.
            .variable("REDIS_PASSWORD", password())
            .variable("MYSQL_PASSWORD", password())
            .variable("AMBASSADOR_PASSWORD", password())
            .variable("AMBASSADOR_LOG", "trace")
            .variable("AMBASSADOR_LOG_FORMAT", format);
        let listen = |launch: Launch, alias: &str| {
            launch.variable(format!("{alias}_LISTEN"), format!("unix:{}", socket(alias).display()))
        };
        let ambassador = ["REDIS", "VARIABLE", "URL"].into_iter().fold(ambassador, listen).start();
        let expect_auth = |alias: &str, auth: &[&[u8]], answer: &[u8]| {
            let mut client = Peer::connect_unix(&socket(alias));
            client.send(b"INCR a\r\n");
            let mut server = target.accept();
            server.expect(&command(auth));
            server.send(answer);
            if answer == b"+OK\r\n" {
                // A write, of which nobody knows whether it was executed.
                server.expect(b"INCR a\r\n");
            }
            drop(server);
            client.expect_gone();
        };
        for (alias, auth) in [
            ("REDIS", vec![&b"AUTH"[..], b"app", &in_file]),
            ("VARIABLE", vec![b"AUTH", in_variable.as_bytes()]),
            ("URL", vec![b"AUTH", b"app", in_url.as_bytes()]),
        ] {
            let quoting = [b"-ERR unknown command 'AUTH' with '", auth[auth.len() - 1], b"'\r\n"].concat();
            // None that has worked is refused: that would be a rotation, and the client be held.
            let answers =
                [fixture("replies/redis-7.0/wrongpass.resp"), b"HTTP/1.1 400\r\n", b"", &quoting, b"+OK\r\n"];
            for answer in answers {
                expect_auth(alias, &auth, answer);
            }
        }
        let changed = password();
        fs::write(&file, &changed).unwrap();
        expect_auth("REDIS", &[b"AUTH", b"app", changed.as_bytes()], b"+OK\r\n");
        fs::remove_file(&file).unwrap();
        expect_auth("REDIS", &[b"AUTH", b"app", changed.as_bytes()], b"+OK\r\n");
        let printed = stop(ambassador);
        assert!(printed.contains("DEBUG"), "no more than the usual was logged:\n{printed}");
    }
}

/// A real server's refusals and a rotation, at the most talkative level.
#[test]
fn a_real_handshake_shows_no_password_at_trace_level() {
    let (right, wrong) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {right}")) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    fs::write(&path, &wrong).unwrap();
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH_FILE", &path)
        .variable("AMBASSADOR_LOG", "trace")
        .start();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(!words.contains(&wrong), "{words}");
    fs::write(&path, &right).unwrap();
    let mut client = ambassador.connect("redis:6379");
    // A client's own password is none of the log's business either.
    client.send(&command(&[b"AUTH", password().as_bytes()]));
    assert!(client.expect_line().starts_with("-WRONGPASS"));
    drop(client);
    stop(ambassador);
}

/// The wiring shows where a password comes from, never the password.
#[test]
fn the_wiring_shows_no_password() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    fs::write(&path, password()).unwrap();
    let launch = || {
        Launch::new()
            .variable("ONE_PORT_1_TCP", format!("redis://app:{}@cache:6379/2", password()))
            .variable("ONE_PASSWORD", password())
            .variable("TWO_PORT_2_TCP", "tcp://cache:6379")
            .variable("TWO_AUTH", password())
            .variable("THREE_PORT_3_TCP", "tcp://cache:6379")
            .variable("THREE_AUTH_FILE", &path)
            .variable("AMBASSADOR_LOG", "trace")
            .argument("links")
    };
    for launch in [launch(), launch().argument("--format").argument("json")] {
        let finished = launch.finish();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(!finished.stdout.contains('@'), "{}", finished.stdout);
    }
}

/// A password where its file's path belongs is a mistake, and its value is in no message.
#[test]
fn a_password_in_the_place_of_its_file_is_told_and_not_shown() {
    for (variable, remedy) in [
        ("REDIS_AUTH_FILE", "the password itself goes into REDIS_AUTH\n"),
        ("REDIS_AUTH_PREVIOUS_FILE", "write the path of the file that holds the previous password\n"),
    ] {
        for secret in [password(), format!("with/a/{}", password())] {
            let launch = Launch::redis("127.0.0.1:1").variable("REDIS_AUTH_FILE", "/dev/null");
            let launch = launch.variable(variable, secret);
            let finished = launch.argument("links").finish();
            assert_eq!(finished.code, Some(2), "{}", finished.stderr);
            for words in [variable, "not a whole path, and can't be read: ", remedy] {
                assert!(finished.stderr.contains(words), "no {words}: {}", finished.stderr);
            }
        }
    }
}

/// So where it begins as a path does, as one of 64 that are base64 do.
#[test]
fn a_password_that_begins_with_a_slash_is_not_shown_as_a_path() {
    for setting in ["AUTH_FILE", "USERNAME_FILE"] {
        for tail in ["==", "+0aZ/x=", ""] {
            let secret = format!("/{}{tail}", password());
            let launch = Launch::redis("127.0.0.1:1").variable(format!("REDIS_{setting}"), secret);
            let launch = if setting == "AUTH_FILE" { launch } else { launch.variable("REDIS_AUTH", "x") };
            let finished = launch.argument("links").finish();
            assert_eq!(finished.code, Some(2), "{}", finished.stderr);
            for words in [setting, "is hardly a path, and can't be read: ", "write the path of the file"] {
                assert!(finished.stderr.contains(words), "no {words}: {}", finished.stderr);
            }
        }
    }
}

/// Nothing that other users of the machine can read of a process holds a password: arguments and name.
#[test]
fn the_list_of_processes_shows_no_password() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    let secret = password();
    fs::write(&path, &secret).unwrap();
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH_FILE", &path).start();
    let _client = ambassador.connect("redis:6379");
    target.accept().expect(&command(&[b"AUTH", secret.as_bytes()]));
    for file in ["cmdline", "comm", "status"] {
        assert!(!ambassador.kernel_file(file).contains(&secret), "{file}");
    }
}

/// A password that is no longer needed is nowhere in memory: whoever gets hold of that later finds the ones in use.
#[test]
fn a_password_that_was_replaced_is_overwritten() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [file, shown] = ["password", "shown"].map(|name| directory.path().join(name));
    let target = Target::start();
    let (first, of_clients, wrong) = (password(), password(), password());
    fs::write(&file, &first).unwrap();
    fs::write(&shown, &of_clients).unwrap();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH_FILE", &file)
        .variable("REDIS_CLIENT_AUTH", "require")
        .variable("REDIS_CLIENT_PASSWORD_FILE", &shown)
        .start();
    if ambassador.hides_its_memory() {
        return;
    }
    let serve = |password: &str| {
        let mut client = ambassador.connect("redis:6379");
        for (offered, answer) in [(&wrong, &b"-WRONGPASS"[..]), (&of_clients, b"+OK\r\n")] {
            client.send(&command(&[b"AUTH", offered.as_bytes()]));
            let line = client.expect_line();
            assert!(line.as_bytes().starts_with(answer.trim_ascii()), "{line}");
        }
        client.send(b"PING\r\n");
        let mut upstream = target.accept();
        upstream.expect(&command(&[b"AUTH", password.as_bytes()]));
        upstream.send(b"+OK\r\n");
        upstream.expect(b"PING\r\n");
        upstream.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
    };
    serve(&first);
    assert!(ambassador.has_in_memory(first.as_bytes()), "the search finds nothing");
    // What worked last is kept until something else has.
    let second = password();
    fs::write(&file, &second).unwrap();
    serve(&second);
    eventually("the first one is gone", || !ambassador.has_in_memory(first.as_bytes()));
    assert!(!ambassador.has_in_memory(wrong.as_bytes()), "what a client has shown is still there");
}

/// So is one that went out over TLS, where the library had it in its own buffers.
#[test]
fn a_password_that_went_out_over_tls_is_overwritten_too() {
    let authority = Authority::new("Ours");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    let (first, second) = (password(), password());
    let configuration = format!("tls-auth-clients no\nrequirepass {first}");
    let Some((redis, address)) = redis_over_tls(&authority, &configuration) else { return };
    fs::write(&file, &first).unwrap();
    let ambassador = launch_over_tls(address, &authority).variable("REDIS_AUTH_FILE", &file).start();
    if ambassador.hides_its_memory() {
        return;
    }
    let serve = || {
        let mut client = ambassador.connect("redis:6379");
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
    };
    serve();
    assert!(ambassador.has_in_memory(first.as_bytes()), "the search finds nothing");
    let set = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(&second).to_owned();
    set.exec(&mut redis.administrator(&first)).unwrap();
    fs::write(&file, &second).unwrap();
    serve();
    eventually("the first one is gone", || !ambassador.has_in_memory(first.as_bytes()));
}

/// What a password is kept in is out of reach: no core dump is written of it, and another process of the same user gets at
/// neither memory nor environment.
#[test]
fn no_core_dump_and_no_other_process_of_the_user_shows_a_password() {
    let password = password();
    let target = Target::start().echo();
    let launch = || {
        // What it inherits would allow one.
        Launch::redis(target.address()).variable("REDIS_AUTH", &password).under(&[
            "prlimit",
            "--core=unlimited:unlimited",
            "--",
        ])
    };
    if command_is_missing("prlimit") || command_is_missing("setpriv") {
        return;
    }
    let ambassador = launch().start();
    let limits = ambassador.kernel_file("limits");
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the limit");
    assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
    // Root sees everything, so both are somebody else.
    let Some(user) = another_user() else { return };
    let as_user = |program: &[&str]| {
        Command::new(&user[0])
            .args(&user[1..])
            .args(program)
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .output()
    };
    let ambassador = launch().under(&user).start();
    for (file, is_open) in [("environ", false), ("maps", false), ("cmdline", true)] {
        let path = format!("/proc/{}/{file}", ambassador.id());
        let read = as_user(&["cat", &path]).expect("cat runs");
        assert_eq!(read.status.success(), is_open, "{path}");
        assert!(!String::from_utf8_lossy(&read.stdout).contains(&password), "{path}");
    }
}

/// Docker makes a directory where the host has no file to mount.
#[test]
fn a_directory_in_the_place_of_a_secret_is_told_with_where_it_comes_from() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let finished = Launch::new()
        .variable("REDIS_PORT_6379_TCP", "redis://127.0.0.1:6379")
        .variable("REDIS_AUTH_FILE", directory.path())
        .finish();
    assert_eq!(finished.code, Some(2));
    let place = directory.path().display();
    for words in [
        format!("{place}: it is a directory: Docker makes one where the host has no such file"),
        "check the path before the colon of the mount, and remove that directory".to_owned(),
    ] {
        assert!(finished.stderr.contains(&words), "no {words}: {}", finished.stderr);
    }
}
