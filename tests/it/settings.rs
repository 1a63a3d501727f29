//! The settings of a link: which one applies to which port, where credentials go, and what is a mistake.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Ambassador, Launch, Peer, Target, command, eventually, metric, password, token};

fn auth(password: &[u8]) -> Vec<u8> {
    command(&[b"AUTH", password])
}

pub(crate) fn launch(variables: &[(&str, &str)]) -> Launch {
    variables.iter().fold(Launch::new(), |launch, (name, value)| launch.variable(name, value))
}

pub(crate) fn wiring(variables: &[(&str, &str)]) -> Value {
    launch(variables).wiring()
}

#[track_caller]
pub(crate) fn expect_mistake(variables: &[(&str, &str)], variable: &str) -> String {
    launch(variables).argument("links").finish().expect_mistake(variable)
}

/// The link that a variable made.
#[track_caller]
pub(crate) fn link<'a>(wiring: &'a Value, variable: &str) -> &'a Value {
    let links = wiring["links"].as_array().expect("a list");
    links
        .iter()
        .find(|link| link["variable"] == variable)
        .unwrap_or_else(|| panic!("no {variable}: {wiring}"))
}

/// The variables and words of all warnings.
pub(crate) fn warnings(wiring: &Value) -> String {
    wiring["warnings"].to_string()
}

const REDIS: (&str, &str) = ("REDIS_PORT_6379_TCP", "redis://cache");
const PLAIN: (&str, &str) = ("DB_PORT_5432_TCP", "tcp://db:5432");

/// One line ending at the end of a password is the editor's; every other byte is the password's.
#[test]
fn one_line_ending_at_the_end_of_a_password_is_cut_off() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    let target = Target::start();
    let from_file = Launch::redis(target.address()).variable("REDIS_AUTH_FILE", &path);
    std::fs::write(&path, "x").unwrap();
    let from_file = from_file.start();
    let secret = token();
    for (written, sent) in [
        (secret.clone(), secret.clone()),
        (format!("{secret}\n"), secret.clone()),
        (format!("{secret}\r\n"), secret.clone()),
        (format!("{secret}\n\n"), format!("{secret}\n")),
        (format!("{secret}\r\n\r\n"), format!("{secret}\r\n")),
        (format!("{secret}\r"), format!("{secret}\r")),
        (format!("\n {secret} \n"), format!("\n {secret} ")),
        (format!("user:{secret}"), format!("user:{secret}")),
    ] {
        std::fs::write(&path, &written).unwrap();
        let _client = from_file.connect("redis:6379");
        target.accept().expect(&auth(sent.as_bytes()));
        let from_variable = Launch::redis(target.address()).variable("REDIS_AUTH", &written).start();
        let _client = from_variable.connect("redis:6379");
        target.accept().expect(&auth(sent.as_bytes()));
    }
}

/// A variable can hold any byte but NUL.
#[test]
fn a_password_in_a_variable_need_not_be_text() {
    let target = Target::start();
    let password = [token().as_bytes(), &(1..=u8::MAX).collect::<Vec<_>>(), token().as_bytes()].concat();
    let ambassador =
        Launch::redis(target.address()).variable("REDIS_AUTH", OsStr::from_bytes(&password)).start();
    let _client = ambassador.connect("redis:6379");
    target.accept().expect(&auth(&password));
}

/// What a URL can't hold as it is, it holds percent-encoded.
#[test]
fn user_and_password_of_a_url_are_percent_decoded() {
    let target = Target::start();
    let secret = token();
    let ambassador =
        Launch::redis(format!("us%3Aer:%40{secret}%2F%25%0D%0A%ff@{}/7", target.address())).start();
    let _client = ambassador.connect("redis:6379");
    let password = [b"@", secret.as_bytes(), b"/%\r\n\xff"].concat();
    let handshake = [command(&[b"AUTH", b"us:er", &password]), command(&[b"SELECT", b"7"])].concat();
    target.accept().expect(&handshake);
}

/// A password without a user stands behind a colon.
#[test]
fn a_url_may_have_a_password_alone() {
    let target = Target::start();
    let password = password();
    let ambassador = Launch::redis(format!(":{password}@{}", target.address())).start();
    let _client = ambassador.connect("redis:6379");
    target.accept().expect(&auth(password.as_bytes()));
}

/// A setting for the port wins over the one for the alias.
#[test]
fn a_setting_for_the_port_wins_over_the_alias() {
    let target = Target::start();
    let password = password();
    let ambassador = Launch::redis(target.address())
        .without("REDIS_LISTEN")
        .variable("REDIS_LISTEN", "127.0.0.1:1")
        .variable("REDIS_PORT_6379_LISTEN", "127.0.0.1:0")
        .variable("REDIS_AUTH", "of the alias")
        .variable("REDIS_PORT_6379_AUTH", &password)
        .variable("REDIS_USERNAME", "of-the-alias")
        .variable("REDIS_PORT_6379_USERNAME", "of-the-port")
        .variable("REDIS_DB", "1")
        .variable("REDIS_PORT_6379_DB", "2")
        .start();
    let _client = ambassador.connect("redis:6379");
    let handshake = [command(&[b"AUTH", b"of-the-port", password.as_bytes()]), command(&[b"SELECT", b"2"])];
    target.accept().expect(&handshake.concat());
}

/// The password is read from the port's file even where the alias has one in a variable: one source wins as a whole.
#[test]
fn a_file_for_the_port_wins_over_a_value_for_the_alias() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    let password = password();
    std::fs::write(&path, &password).unwrap();
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", "of the alias")
        .variable("REDIS_PORT_6379_AUTH_FILE", &path)
        .start();
    let _client = ambassador.connect("redis:6379");
    target.accept().expect(&auth(password.as_bytes()));
}

/// An alias-wide password goes to the port 6379 alone: by the name, else by the target.
#[test]
fn a_password_for_the_alias_goes_to_its_redis_port_alone() {
    let secret = password();
    for (redis, other) in [
        (("LINK_PORT_6379_TCP", "tcp://host:1"), ("LINK_PORT_26379_TCP", "tcp://host:26379")),
        (("LINK_PORT_6379_TCP", "tcp://host:1"), ("LINK_PORT_7000_TCP", "tcp://host:6379")),
        (("LINK_PORT_7001_TCP", "tcp://host:6379"), ("LINK_PORT_7000_TCP", "tcp://host:7000")),
    ] {
        let wiring =
            wiring(&[redis, other, ("LINK_AUTH", &secret), ("LINK_USERNAME", "app"), ("LINK_DB", "3")]);
        let (redis, other) = (link(&wiring, redis.0), link(&wiring, other.0));
        assert_eq!((&redis["kind"], &redis["auth"]), (&json!("redis"), &json!("env")), "{wiring}");
        assert_eq!((&redis["username"], &redis["db"]), (&json!("app"), &json!(3)), "{wiring}");
        assert_eq!((&other["kind"], &other["auth"]), (&json!("tcp"), &json!("none")), "{wiring}");
        assert_eq!((&other["username"], &other["db"]), (&Value::Null, &Value::Null), "{wiring}");
    }
}

/// Not one byte of the password goes to the other port.
#[test]
fn a_password_for_the_alias_is_not_sent_to_its_other_port() {
    let (redis, other) = (Target::start(), Target::start());
    let password = password();
    let ambassador = Launch::new()
        .variable("LINK_PORT_6379_TCP", format!("tcp://{}", redis.address()))
        .variable("LINK_PORT_6380_TCP", format!("tcp://{}", other.address()))
        .variable("LINK_LISTEN", "127.0.0.1:0")
        .variable("LINK_AUTH", &password)
        .start();
    let mut client = ambassador.connect("link:6380");
    client.send(b"only this");
    client.finish_sending();
    assert_eq!(other.accept().expect_rest(), b"only this");
    let _client = ambassador.connect("link:6379");
    redis.accept().expect(&auth(password.as_bytes()));
}

/// Where no port is Redis' own, or several are, nobody guesses; the mistake says how to name the port.
#[test]
fn a_password_for_an_alias_without_a_single_redis_port_is_a_mistake() {
    let secret = password();
    for (one, two) in [
        (("LINK_PORT_7000_TCP", "tcp://host:7000"), ("LINK_PORT_7001_TCP", "tcp://host:7001")),
        (("LINK_PORT_7000_TCP", "tcp://a:6379"), ("LINK_PORT_7001_TCP", "tcp://b:6379")),
    ] {
        for (setting, value) in [("AUTH", &*secret), ("AUTH_FILE", "/dev/null")] {
            let variable = format!("LINK_{setting}");
            let told = expect_mistake(&[one, two, (&variable, value)], &variable);
            assert!(told.contains(&format!("LINK_PORT_7000_{setting}")), "{told}");
        }
        let wiring = wiring(&[one, two, ("LINK_PORT_7001_AUTH", &secret)]);
        assert_eq!(link(&wiring, one.0)["auth"], "none", "{wiring}");
        assert_eq!(link(&wiring, two.0)["auth"], "env", "{wiring}");
    }
}

/// One port alone is meant, whatever its number.
#[test]
fn a_password_for_an_alias_with_one_port_goes_there() {
    let wiring = wiring(&[("LINK_PORT_7000_TCP", "tcp://host:7001"), ("LINK_AUTH", &password())]);
    assert_eq!(link(&wiring, "LINK_PORT_7000_TCP")["auth"], "env", "{wiring}");
}

/// A setting for a port that is not linked would be silently without effect.
#[test]
fn a_setting_for_a_port_that_is_not_linked_is_a_mistake() {
    for setting in ["AUTH", "AUTH_FILE", "USERNAME", "DB", "LISTEN", "ALLOW", "IDLE_TIMEOUT"] {
        let variable = format!("REDIS_PORT_6380_{setting}");
        expect_mistake(&[REDIS, (&variable, "1")], &variable);
    }
}

/// A user or a database beside a plain tunnel may be somebody else's variable: a warning. A password is none.
#[test]
fn redis_settings_on_a_plain_tunnel_are_warned_about_or_refused() {
    let postgres = ("POSTGRES_PORT_5432_TCP", "tcp://db:5432");
    for (setting, value) in [("POSTGRES_DB", "orders"), ("POSTGRES_USERNAME", "app"), ("POSTGRES_DB", "5")] {
        let wiring = wiring(&[postgres, (setting, value)]);
        assert_eq!(link(&wiring, postgres.0)["kind"], "tcp", "{wiring}");
        assert!(warnings(&wiring).contains(setting), "{wiring}");
    }
    let socket = ("LINK_PORT_1_TCP", "unix:///run/db.sock");
    expect_mistake(&[socket, ("LINK_AUTH", "x")], "LINK_AUTH");
    expect_mistake(&[PLAIN, ("DB_USERNAME_FILE", "/dev/null")], "DB_USERNAME_FILE");
}

/// What needs sessions can't be had where there are none; all such mistakes are told at once, each with its remedy.
#[test]
fn what_needs_sessions_is_a_mistake_without_them() {
    let off = ("REDIS_SESSIONS", "off");
    let (release, absorb) = (("REDIS_RELEASE_AFTER", "5m"), ("REDIS_CLIENT_AUTH", "absorb"));
    let plain = ("DB_RELEASE_AFTER", "5m");
    for (variables, variable, remedy) in [
        (&[REDIS, off, release][..], "REDIS_RELEASE_AFTER", "remove REDIS_SESSIONS, or REDIS_RELEASE_AFTER"),
        (&[REDIS, off, absorb], "REDIS_CLIENT_AUTH", "remove REDIS_SESSIONS, or REDIS_CLIENT_AUTH"),
        (&[REDIS, off, ("REDIS_SHARE", "1")], "REDIS_SHARE", "remove REDIS_SESSIONS, or REDIS_SHARE"),
        (&[PLAIN, plain], "DB_RELEASE_AFTER", "or remove DB_RELEASE_AFTER"),
        (&[REDIS, ("REDIS_RELEASE_AFTER", "300")], "REDIS_RELEASE_AFTER", "write REDIS_RELEASE_AFTER=300s"),
        (&[REDIS, ("REDIS_RELEASE_AFTER", "0s")], "REDIS_RELEASE_AFTER", "write REDIS_RELEASE_AFTER=off"),
    ] {
        let told = expect_mistake(variables, variable);
        assert!(told.contains(remedy), "{told}");
    }
    let finished = launch(&[REDIS, off, release, absorb, PLAIN, plain]).argument("links").finish();
    for variable in [release.0, absorb.0, plain.0] {
        finished.expect_mistake(variable);
    }
    // One that is off needs nothing.
    wiring(&[REDIS, off, ("REDIS_RELEASE_AFTER", "off")]);
    wiring(&[REDIS, release]);
}

/// A value and its file, or a URL's password and another one: nobody can say which is meant.
#[test]
fn two_sources_of_one_value_are_a_mistake() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("file");
    std::fs::write(&path, "x").unwrap();
    let path = path.to_str().unwrap();
    let secret = password();
    let url = format!("redis://:{secret}@cache");
    for (variables, told) in [
        (vec![REDIS, ("REDIS_AUTH", "x"), ("REDIS_AUTH_FILE", path)], "REDIS_AUTH"),
        (
            vec![REDIS, ("REDIS_PORT_6379_AUTH", "x"), ("REDIS_PORT_6379_AUTH_FILE", path)],
            "REDIS_PORT_6379_AUTH",
        ),
        (
            vec![REDIS, ("REDIS_AUTH", "x"), ("REDIS_USERNAME", "x"), ("REDIS_USERNAME_FILE", path)],
            "REDIS_USERNAME",
        ),
        (vec![("REDIS_PORT_6379_TCP", &*url), ("REDIS_AUTH", "x")], "REDIS_AUTH"),
        (vec![("REDIS_PORT_6379_TCP", &*url), ("REDIS_AUTH_FILE", path)], "REDIS_AUTH_FILE"),
    ] {
        let finished = launch(&variables).argument("links").finish();
        assert_eq!(finished.code, Some(2), "{}", finished.stdout);
        assert!(finished.stderr.contains(told), "{told} in {}", finished.stderr);
        assert!(finished.stderr.contains("remedy:"), "{}", finished.stderr);
    }
}

/// A file that can't be read is found out at the start, not by the first client.
#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let missing = directory.path().join("missing");
    for path in [missing.as_path(), directory.path()] {
        let path = path.to_str().unwrap();
        for (setting, others) in [("AUTH_FILE", None), ("USERNAME_FILE", Some(("REDIS_AUTH", "x")))] {
            let variable = format!("REDIS_{setting}");
            let variables = [vec![REDIS, (&variable, path)], others.into_iter().collect()].concat();
            let told = expect_mistake(&variables, &variable);
            assert!(told.contains(path), "{told}");
        }
    }
}

/// Under systemd the remedy says where the file belongs, which is not where the service reads it.
#[test]
fn the_remedy_for_a_credential_that_is_missing_names_its_directory() {
    let path = "/run/credentials/redis-ambassador.service/credential_none";
    let told = expect_mistake(&[REDIS, ("REDIS_AUTH_FILE", path)], "REDIS_AUTH_FILE");
    assert!(told.contains("/etc/redis-ambassador/credentials/"), "{told}");
    // They are there only as long as the service.
    let path = "/run/credentials/no-such.service/credential_none";
    let told = expect_mistake(&[REDIS, ("REDIS_AUTH_FILE", path)], "REDIS_AUTH_FILE");
    assert!(told.contains("start the service, whose credentials are there only while it runs"), "{told}");
}

/// The remedy names a variable that applies to the port that the mistake is about.
#[test]
fn the_remedy_for_one_port_of_several_names_its_own_variable() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("previous");
    std::fs::write(&path, "x").unwrap();
    let path = path.to_str().unwrap();
    let other = ("REDIS_PORT_6380_TCP", "redis://other");
    for (port, password) in [("6379", "set REDIS_AUTH_FILE,"), ("6380", "set REDIS_PORT_6380_AUTH_FILE,")] {
        for (name, value) in [("USERNAME", "app"), ("AUTH_PREVIOUS_FILE", path)] {
            let variable = format!("REDIS_PORT_{port}_{name}");
            let told = expect_mistake(&[REDIS, other, (&variable, value)], &variable);
            assert!(told.contains(password), "{told}");
        }
    }
    let tunnel = ("REDIS_PORT_6380_TCP", "tcp://other:1");
    let told = expect_mistake(&[REDIS, tunnel, ("REDIS_PORT_6380_WARM", "1")], "REDIS_PORT_6380_WARM");
    assert!(told.contains("set REDIS_PORT_6380_AUTH_FILE or"), "{told}");
}

/// Values that are no such thing.
#[test]
fn malformed_settings_are_mistakes() {
    for (setting, values) in [
        ("DB", &["-1", "one", "99999999999999999999"][..]),
        ("LISTEN", &["6379", "127.0.0.1", "127.0.0.1:65536", "unix:relative", "unix:", "nowhere:80:80"]),
        ("ALLOW", &["10.0.0.0/33", "everybody", "10.0.0"]),
        ("CONNECT_TIMEOUT", &["5", "soon", "-1s", "0s"]),
        ("IDLE_TIMEOUT", &["5", "never"]),
        ("MAX_LIFETIME", &["x", "1 fortnight"]),
        ("MAX_CONNECTIONS", &["-1", "many", "1.5"]),
    ] {
        for value in values {
            let variable = format!("REDIS_{setting}");
            expect_mistake(&[REDIS, (&variable, value)], &variable);
        }
    }
}

/// A variable that is nearly a setting is a setting that does not work: a warning names the right one.
#[test]
fn near_misses_are_warned_about() {
    let secret = password();
    for (variable, meant) in [
        ("REDIS_AUHT_FILE", "REDIS_AUTH_FILE"),
        ("REDIS_PASSWORD", "REDIS_AUTH"),
        ("REDIS_PASSWORD_FILE", "REDIS_AUTH_FILE"),
        ("REDIS_PORT_6379_PASSWORD", "REDIS_PORT_6379_AUTH"),
        ("REDIS_USER_NAME", "REDIS_USERNAME"),
        ("AMBASSADOR_LOGS", "AMBASSADOR_LOG"),
        ("AMBASSADOR_MAX_CONECTIONS", "AMBASSADOR_MAX_CONNECTIONS"),
    ] {
        let variables = [REDIS, (variable, &*secret)];
        let told = warnings(&wiring(&variables));
        assert!(told.contains(variable) && told.contains(meant), "{variable}: {told}");
        let ambassador = launch(&variables).variable("REDIS_LISTEN", "127.0.0.1:0").start();
        ambassador.wait_for_log("a warning", |line| {
            let line = (line["level"] == "WARN").then(|| line.to_string());
            line.is_some_and(|line| line.contains(variable) && line.contains(meant))
        });
    }
}

/// A password for a Redis that is not linked is most likely a forgotten link.
#[test]
fn a_redis_password_without_a_redis_link_is_warned_about() {
    for variable in ["REDIS_AUTH", "REDIS_AUTH_FILE"] {
        let told = warnings(&wiring(&[PLAIN, (variable, &password())]));
        assert!(told.contains(variable), "{told}");
    }
}

/// The rest of the environment is none of our business.
#[test]
fn variables_of_no_alias_are_passed_over() {
    let wiring = wiring(&[
        REDIS,
        ("MYSQL_AUTH", "x"),
        ("CACHE_PASSWORD", "x"),
        ("AUTH", "x"),
        ("DB", "x"),
        ("REDISTRIBUTE_AUTH", "x"),
        ("LISTEN", "x"),
        ("REDIS_URL", "redis://elsewhere"),
        ("REDIS_VERSION", "7.4.1"),
        ("REDIS_DOWNLOAD_URL", "http://example.com"),
    ]);
    assert_eq!(wiring["warnings"], json!([]), "{wiring}");
    assert_eq!(link(&wiring, REDIS.0)["auth"], "none", "{wiring}");
}

/// A file is read again for every connection: a new password needs no restart.
#[test]
fn a_changed_file_serves_the_next_connection() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (user_file, password_file) = (directory.path().join("user"), directory.path().join("password"));
    let target = Target::start();
    std::fs::write(&user_file, "zero").unwrap();
    std::fs::write(&password_file, "zero").unwrap();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_USERNAME_FILE", &user_file)
        .variable("REDIS_AUTH_FILE", &password_file)
        .start();
    for user in ["one", "two"] {
        let password = password();
        std::fs::write(&user_file, user).unwrap();
        std::fs::write(&password_file, &password).unwrap();
        let _client = ambassador.connect("redis:6379");
        target.accept().expect(&command(&[b"AUTH", user.as_bytes(), password.as_bytes()]));
    }
}

/// A file that has vanished meanwhile leaves the last password that could be read, with a warning.
#[test]
fn a_vanished_file_leaves_the_last_password() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    let target = Target::start();
    let (first, second, third) = (password(), password(), password());
    std::fs::write(&path, &first).unwrap();
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH_FILE", &path).start();
    let expect = |password: &str| {
        let _client = ambassador.connect("redis:6379");
        target.accept().expect(&auth(password.as_bytes()));
    };
    // Gone before any connection: what was read at the start counts.
    std::fs::remove_file(&path).unwrap();
    expect(&first);
    ambassador.wait_for_log("a warning about the file", |line| {
        line["level"] == "WARN" && line.to_string().contains(path.to_str().unwrap())
    });
    let stale = || metric(ambassador.admin(), "secret_stale{link=\"redis:6379\"}") > 0.5;
    assert!(stale());
    std::fs::write(&path, &second).unwrap();
    expect(&second);
    assert!(!stale());
    std::fs::remove_file(&path).unwrap();
    expect(&second);
    // Orchestrators replace secrets by renaming.
    let next = directory.path().join("next");
    std::fs::write(&next, &third).unwrap();
    std::fs::rename(&next, &path).unwrap();
    expect(&third);
}

/// Starts an ambassador on a port that is free on every address.
pub(crate) fn start_on_a_free_port(launch: impl Fn(u16) -> Launch) -> (Ambassador, u16) {
    // Somebody else may take the port before the ambassador does.
    for _ in 0..5 {
        let free = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
            .or_else(|_| TcpListener::bind("0.0.0.0:0"))
            .unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        match launch(port).try_start() {
            Ok(ambassador) => return (ambassador, port),
            Err(finished) => assert_eq!(finished.code, Some(1), "{}", finished.stderr),
        }
    }
    panic!("no port is free for long enough");
}

/// Without further settings the listener is on the port in the name, on every address, IPv6 and IPv4.
#[test]
fn a_link_listens_on_its_port_on_every_address() {
    let target = Target::start().echo();
    let (_ambassador, port) = start_on_a_free_port(|port| {
        Launch::new().variable(format!("LINK_PORT_{port}_TCP"), format!("tcp://{}", target.address()))
    });
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let addresses = [
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Some(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port))),
        has_ipv6.then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
    ];
    for address in addresses.into_iter().flatten() {
        let mut client = Peer::connect(address);
        client.send(b"hello");
        client.expect(b"hello");
    }
}

/// `AMBASSADOR_BIND` and `--bind` choose the address for all links.
#[test]
fn a_link_listens_on_the_bind_address_alone() {
    let target = Target::start().echo();
    for by_flag in [false, true] {
        let (ambassador, port) = start_on_a_free_port(|port| {
            let link = (format!("LINK_PORT_{port}_TCP"), format!("tcp://{}", target.address()));
            let launch = Launch::new().variable(link.0, link.1);
            if by_flag {
                launch.argument("--bind").argument("127.0.0.1")
            } else {
                launch.variable("AMBASSADOR_BIND", "127.0.0.1")
            }
        });
        assert_eq!(ambassador.listens(&format!("link:{port}")), format!("127.0.0.1:{port}"));
        let mut client = ambassador.connect(&format!("link:{port}"));
        client.send(b"hello");
        client.expect(b"hello");
    }
}

/// A Unix socket that an earlier process left behind is no obstacle, one that is in use is, and the file goes in the
/// end.
#[test]
fn a_unix_listener_replaces_what_was_left_behind_and_cleans_up() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("ambassador.sock");
    let target = Target::start().echo();
    let launch = || Launch::plain(target.address()).variable("DB_LISTEN", format!("unix:{}", path.display()));
    // Killed, so that it can't clean up.
    drop(launch().start());
    assert!(path.exists());
    let ambassador = launch().start();
    let mut client = ambassador.connect("db:5432");
    client.send(b"hello");
    client.expect(b"hello");
    let second = launch().finish();
    assert_eq!(second.code, Some(1), "{}", second.stderr);
    client.send(b"still here");
    client.expect(b"still here");
    drop(client);
    ambassador.signal(rustix::process::Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));
    assert!(!path.exists());
}

/// Whose address is not in the list gets nothing, and the target hears nothing of it.
#[test]
fn only_the_allowed_networks_may_connect() {
    let target = Target::start();
    let password = password();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", &password)
        .plain_link("DB", target.address())
        .variable("REDIS_ALLOW", "10.0.0.0/8,127.0.0.2/32")
        .variable("DB_ALLOW", "10.0.0.0/8,127.0.0.2")
        .start();
    let (allowed, stranger) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::LOCALHOST);
    for link in ["redis:6379", "db:5432"] {
        let address = ambassador.address(link);
        let mut client = Peer::connect_from(stranger, address);
        client.send(b"PING\r\n");
        client.expect_gone();
        target.expect_no_connection(Duration::from_millis(100));
        let line = ambassador.wait_for_log("the refusal", |line| {
            line["message"] == "connection failed" && line["link"] == link
        });
        assert_eq!(line["stage"], "allow", "{line}");
        let _client = Peer::connect_from(allowed, address);
        target.accept();
    }
}

/// A client that comes in over IPv4 to a listener of all addresses is judged by its IPv4 address.
#[test]
fn ipv4_networks_hold_on_a_listener_of_every_address() {
    let target = Target::start().echo();
    let (ambassador, port) = start_on_a_free_port(|port| {
        Launch::new()
            .variable(format!("LINK_PORT_{port}_TCP"), format!("tcp://{}", target.address()))
            .variable("LINK_ALLOW", "127.0.0.2/31")
    });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut client = Peer::connect_from(Ipv4Addr::new(127, 0, 0, 2), address);
    client.send(b"hello");
    client.expect(b"hello");
    Peer::connect_from(Ipv4Addr::LOCALHOST, address).expect_gone();
    let line = ambassador.wait_for("connection failed");
    assert!(line["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1")), "{line}");
}

/// A limit of the link wins over the one of the process, and `off` switches it off.
#[test]
fn a_limit_of_the_link_wins_over_the_one_of_the_process() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .plain_link("LONG", target.address())
        .variable("AMBASSADOR_IDLE_TIMEOUT", "200ms")
        .variable("LONG_IDLE_TIMEOUT", "off")
        .variable("AMBASSADOR_MAX_CONNECTIONS", "1")
        .variable("LONG_MAX_CONNECTIONS", "2")
        .start();
    let mut one = ambassador.connect("long:5432");
    let mut two = ambassador.connect("long:5432");
    for client in [&mut one, &mut two] {
        client.send(b"hello");
        client.expect(b"hello");
    }
    ambassador.connect("long:5432").expect_gone();
    let mut short = ambassador.connect("db:5432");
    short.send(b"hello");
    short.expect(b"hello");
    ambassador.connect("db:5432").expect_gone();
    short.expect_end();
    one.expect_silence(Duration::from_millis(300));
    drop(one);
    eventually("a free place", || {
        let mut client = ambassador.connect("long:5432");
        let mut reply = [0];
        client.try_send(b"x").is_ok() && std::io::Read::read_exact(&mut client, &mut reply).is_ok()
    });
}

type Variables = &'static [(&'static str, &'static str)];

/// Variables that make no link, the one that is told, and its remedy.
const LOOKALIKES: &[(Variables, &str, &str)] = &[
    (&[("REDIS_PORT_6379_TPC", "tcp://a:1")], "REDIS_PORT_6379_TPC", "write REDIS_PORT_6379_TCP=tcp://a:1"),
    (&[("REDIS_PORT_TCP", "tcp://a:6380")], "REDIS_PORT_TCP", "write REDIS_PORT_6380_TCP=tcp://a:6380"),
    (&[("REDIS_6379_TCP", "tcp://a:1")], "REDIS_6379_TCP", "write REDIS_PORT_6379_TCP=tcp://a:1"),
    (&[("REDIS_PORT_637O_TCP", "tcp://a:1")], "REDIS_PORT_637O_TCP", "write REDIS_PORT_6370_TCP=tcp://a:1"),
    (
        &[("REDIS_PORT_637O_TCP", "tcp://a:6379")],
        "REDIS_PORT_637O_TCP",
        "write REDIS_PORT_6379_TCP=tcp://a:6379",
    ),
    (&[("redis_port_6379_tcp", "tcp://a:1")], "redis_port_6379_tcp", "write REDIS_PORT_6379_TCP=tcp://a:1"),
    (
        &[("MY-REDIS_PORT_6379_TCP", "tcp://a:1")],
        "MY-REDIS_PORT_6379_TCP",
        "write MY_REDIS_PORT_6379_TCP=tcp://a:1",
    ),
    (&[("REDIS_PORT_6380", "tcp://a:1")], "REDIS_PORT_6380", "write REDIS_PORT_6380_TCP=tcp://a:1"),
    (&[("REDIS_PORT6380_TCP", "tcp://a:1")], "REDIS_PORT6380_TCP", "write REDIS_PORT_6380_TCP=tcp://a:1"),
    (&[("REDISPORT_6380_TCP", "tcp://a:1")], "REDISPORT_6380_TCP", "write REDIS_PORT_6380_TCP=tcp://a:1"),
    (&[("REDIS_PROT_6380_TCP", "tcp://a:1")], "REDIS_PROT_6380_TCP", "write REDIS_PORT_6380_TCP=tcp://a:1"),
    (
        &[("REDIS_PORT_MAIN_TCP", "tcp://a:6380")],
        "REDIS_PORT_MAIN_TCP",
        "write REDIS_PORT_6380_TCP=tcp://a:6380",
    ),
    (&[("PORT_6380_TCP", "tcp://a:1")], "PORT_6380_TCP", "write REDIS_PORT_6380_TCP=tcp://a:1"),
    (&[("2CACHE_PORT_6380_TCP", "tcp://a:1")], "2CACHE_PORT_6380_TCP", "write CACHE_PORT_6380_TCP=tcp://a:1"),
    (&[("REDIS_PORT_6380_UDP", "udp://a:1")], "REDIS_PORT_6380_UDP", "write REDIS_PORT_6380_TCP=tcp://a:1"),
    (
        &[("REDIS_PORT_06380_TCP", "tcp://a:1")],
        "REDIS_PORT_06380_TCP",
        "name the port to listen on, as in REDIS_PORT_6380_TCP",
    ),
    (
        &[("REDIS_PORT_66380_TCP", "tcp://a:6380")],
        "REDIS_PORT_66380_TCP",
        "name the port to listen on, as in REDIS_PORT_6380_TCP",
    ),
    (
        &[("REDIS_PORT_6380_TCP_ADDR", "10.0.0.5"), ("REDIS_PORT_6380_TCP_PORT", "6380")],
        "REDIS_PORT_6380_TCP_ADDR",
        "write REDIS_PORT_6380_TCP=tcp://10.0.0.5:6380",
    ),
    (&[("REDIS", "tcp://a:6380")], "REDIS", "write REDIS_PORT_6380_TCP=tcp://a:6380"),
    (&[("CACHE_TCP", "tcp://a:6380")], "CACHE_TCP", "write CACHE_PORT_6380_TCP=tcp://a:6380"),
    (
        &[("BROKER", "valkey://:hush@a:6380")],
        "BROKER",
        "write BROKER_PORT_6380_TCP=redis://****@a:6380, with what stands there now in the place of ****",
    ),
    (&[("REDIS_URL", "cache:6380")], "REDIS_URL", "write REDIS_PORT_6380_TCP=tcp://cache:6380"),
    (&[("REDIS_NODES", "a:1,b:2")], "REDIS_NODES", "write REDIS_PORT_2_TCP=tcp://a:1,b:2"),
    (
        &[("REDIS_CLUSTER_NODES", "a:1,b:2")],
        "REDIS_CLUSTER_NODES",
        "write REDIS_PORT_6379_TCP=redis+cluster://a:1,b:2",
    ),
    (
        &[("REDIS_SENTINELS", "a:26379,b:26379")],
        "REDIS_SENTINELS",
        "write REDIS_PORT_6379_TCP=redis+sentinel://a:26379,b:26379/mymaster",
    ),
    (
        &[("REDIS_SERVICE_HOST", "10.0.0.5"), ("REDIS_SERVICE_PORT", "6380")],
        "REDIS_SERVICE_HOST",
        "write REDIS_PORT_6380_TCP=tcp://10.0.0.5:6380",
    ),
    (
        &[("REDIS_PORT", "6380")],
        "REDIS_PORT",
        "write REDIS_PORT_6380_TCP=tcp://HOST:6380, with the server's host",
    ),
    (
        &[("REDIS_URL", "redis://app:hush@cache/2")],
        "REDIS_URL",
        "write REDIS_PORT_6379_TCP=redis://****@cache:6379/2, with what stands there now in the place of ****",
    ),
    (&[("REDIS_HOST", "cache")], "REDIS_HOST", "write REDIS_PORT_6379_TCP=tcp://cache:6379"),
    (
        &[("REDIS_HOST", "cache"), ("REDIS_PORT", "6380")],
        "REDIS_HOST",
        "write REDIS_PORT_6380_TCP=tcp://cache:6380",
    ),
    (
        &[("MAIL_HOST", "smtp.example.com")],
        "MAIL_HOST",
        "write MAIL_PORT_<PORT>_TCP=tcp://smtp.example.com:<PORT>, with the server's port",
    ),
    (&[("MAIL_HOST", "smtp:25")], "MAIL_HOST", "write MAIL_PORT_25_TCP=tcp://smtp:25"),
    (&[("REDIS_PORT", "tcp://a:6379")], "REDIS_PORT", "write REDIS_PORT_6379_TCP=tcp://a:6379"),
    (
        &[("REDIS_NAME", "/app/redis")],
        "REDIS_NAME",
        "start that container with --expose 6379, or write REDIS_PORT_6379_TCP=tcp://redis:6379",
    ),
    (&[("REDIS_PORT_6379_TCP", "\"tcp://a:1")], "REDIS_PORT_6379_TCP", "write REDIS_PORT_6379_TCP=tcp://a:1"),
];

/// What was meant for a link and is none is shown with what it should be, in the user's own values, and no secret.
#[test]
fn a_variable_that_was_meant_for_a_link_is_told_what_it_should_be() {
    for (variables, variable, remedy) in LOOKALIKES {
        let finished = launch(variables).argument("links").finish();
        assert_eq!(finished.code, Some(2), "{variable}");
        let remedies = finished.stderr.lines().filter_map(|line| line.strip_prefix("  remedy: "));
        assert_eq!(remedies.collect::<Vec<_>>(), [*remedy], "{variable}: {}", finished.stderr);
        assert!(finished.stderr.contains(&format!("\n{variable}: ")), "{}", finished.stderr);
        assert!(!finished.stderr.contains("hush"), "{}", finished.stderr);
    }
    // What others have a use for is none of our business, beside a link in any case.
    for (name, value) in [
        ("PIP_URL", "https://example.com/x"),
        ("HOSTNAME", "abc"),
        ("DOCKER_HOST", "unix:///x"),
        ("HTTP_PORT", "80"),
        ("METRICS_ADDR", "0.0.0.0:9100"),
        ("BROKER", "amqp://mq"),
    ] {
        let said = launch(&[(name, value)]).argument("links").finish().stderr;
        assert!(!said.contains(name), "{said}");
    }
    let beside = [REDIS, ("REDIS_URL", "redis://cache"), ("REDIS_NAME", "/app/redis"), ("OTHER_HOST", "x")];
    assert_eq!(warnings(&wiring(&beside)), "[]");
    // As Kubernetes writes the names of a Service's ports.
    let service = [REDIS, ("WEB_SERVICE_PORT_TCP", "80"), ("WEB_SERVICE_PORT_HTTP_TCP", "8080")];
    assert_eq!(warnings(&wiring(&service)), "[]");
    let slip = [REDIS, ("CACHE_PORT_6380_TPC", "tcp://b:1")];
    assert!(warnings(&wiring(&slip)).contains("did you mean CACHE_PORT_6380_TCP?"));
}

/// Where `AMBASSADOR_LINKS` is why there is no link, nothing else is wrong with what stands beside those that are set.
#[test]
fn what_stands_beside_links_that_are_not_named_is_no_mistake() {
    let linked = [
        ("REDIS_PORT_6379_TCP", "tcp://10.0.0.5:6379"),
        ("REDIS_PORT", "tcp://10.0.0.5:6379"),
        ("WEB_SERVICE_HOST", "10.0.0.6"),
        ("AMBASSADOR_LINKS", "cache"),
    ];
    let finished = launch(&linked).argument("links").finish();
    finished.expect_mistake("AMBASSADOR_LINKS (--links)");
    assert_eq!(finished.stderr.matches("remedy: ").count(), 1, "{}", finished.stderr);
    // One that is not called as it should be may be the one that is named.
    let slip = [&linked[..], &[("CACHE_PORT_6380_TPC", "tcp://b:1")]].concat();
    let told = launch(&slip).argument("links").finish().expect_mistake("CACHE_PORT_6380_TPC");
    assert!(told.contains("write CACHE_PORT_6380_TCP=tcp://b:1"), "{told}");
}

/// What other programs call the same thing is told too.
#[test]
fn names_of_other_programs_are_told_what_they_are_called_here() {
    for (written, meant) in [
        ("REDIS_PWD", "REDIS_AUTH"),
        ("REDIS_PASSWD_FILE", "REDIS_AUTH_FILE"),
        ("AMBASSADOR_LOG_LEVEL", "AMBASSADOR_LOG"),
        ("AMBASSADOR_PORT", "AMBASSADOR_BIND"),
        ("AMBASSADOR_MAX_CLIENTS", "AMBASSADOR_MAX_CONNECTIONS"),
        ("AMBASSADOR_METRICS_PORT", "AMBASSADOR_ADMIN"),
        ("AMBASSADOR_TIMEOUT", "AMBASSADOR_CONNECT_TIMEOUT"),
        ("AMBASSADOR_PASSWORD_FILE", "<ALIAS>_AUTH_FILE, as in REDIS_AUTH_FILE"),
        ("AMBASSADOR_DB", "<ALIAS>_DB, as in REDIS_DB"),
        ("REDIS_TOKEN", "REDIS_AUTH"),
        ("REDIS_TLS_ENABLED", "REDIS_TLS"),
        ("REDIS_CA_CERT", "REDIS_TLS_CA_FILE"),
        ("REDIS_SENTINEL_PASSWORD", "REDIS_SENTINEL_AUTH"),
        ("REDIS_TIMEOUT", "REDIS_CONNECT_TIMEOUT"),
    ] {
        let warnings = warnings(&wiring(&[REDIS, (written, "x")]));
        assert!(warnings.contains(&format!("did you mean {meant}?")), "{written}: {warnings}");
    }
    // What begins as those of the process do is for nobody else, but what is written beside a link of that name.
    let told = warnings(&wiring(&[REDIS, ("AMBASSADOR_COLOUR", "blue")]));
    assert!(
        told.contains("AMBASSADOR_COLOUR") && told.contains("nothing reads this variable; --help"),
        "{told}"
    );
    let of_others = [
        REDIS,
        ("AMBASSADOR_NAME", "/app/ambassador"),
        ("AMBASSADOR_ENV_COLOUR", "blue"),
        ("AMBASSADOR_PORT", "tcp://10.0.0.5:80"),
        ("AMBASSADOR_ADMIN_PORT", "tcp://10.0.0.6:8877"),
        ("AMBASSADOR_SERVICE_PORT_HTTP", "80"),
    ];
    assert_eq!(warnings(&wiring(&of_others)), "[]");
    let linked =
        [("AMBASSADOR_PORT_6379_TCP", "tcp://a:1"), ("AMBASSADOR_DB", "1"), ("AMBASSADOR_AUTH", "x")];
    assert_eq!(warnings(&wiring(&linked)), "[]");
}

const CLUSTER: (&str, &str) = ("REDIS_PORT_6379_TCP", "redis+cluster://n1,n2");

/// Expects a mistake whose reason and remedy have these words.
#[track_caller]
fn expect_told(variables: &[(&str, &str)], variable: &str, words: &[&str]) {
    let told = expect_mistake(variables, variable);
    for word in words {
        assert!(told.contains(word), "{word}: {told}");
    }
}

/// Ports and host of nodes mean nothing elsewhere. What is said for an alias is meant for those of its links that lead
/// to a cluster.
#[test]
fn settings_of_a_cluster_are_mistakes_without_one() {
    for setting in [("REDIS_CLUSTER_PORTS", "7000-7010"), ("REDIS_ANNOUNCE", "redis.example.com")] {
        for target in
            ["redis://cache", "tcp://cache:6379", "redis+sentinel://s1/mymaster", "tls://cache:6379"]
        {
            let variables = [("REDIS_PORT_6379_TCP", target), setting];
            let scheme = if target.starts_with("tls") { "rediss+cluster://" } else { "redis+cluster://" };
            let remove = format!("remove {}", setting.0);
            expect_told(&variables, setting.0, &["no Redis Cluster", "REDIS_PORT_6379_TCP", scheme, &remove]);
        }
        let several = [CLUSTER, ("REDIS_PORT_9121_TCP", "tcp://exporter:9121"), setting];
        assert_eq!(wiring(&several)["warnings"], json!([]));
        let of_port = setting.0.replace("REDIS_", "REDIS_PORT_9121_");
        let told = [CLUSTER, ("REDIS_PORT_9121_TCP", "tcp://exporter:9121"), (&*of_port, setting.1)];
        expect_told(&told, &of_port, &["no Redis Cluster", "REDIS_PORT_9121_TCP"]);
        // One mistake is enough.
        let unreadable = launch(&[("REDIS_PORT_6379_TCP", "redis+clusters://n1"), setting]);
        let finished = unreadable.argument("links").finish();
        assert!(finished.stderr.contains("has a mistake"), "{}", finished.stderr);
    }
}

/// What can't be done for a cluster is said at once, all of it.
#[test]
fn settings_that_no_cluster_can_have_are_mistakes() {
    let all = [
        CLUSTER,
        ("REDIS_SESSIONS", "off"),
        ("REDIS_ROLE", "replica"),
        ("REDIS_DB", "2"),
        ("REDIS_LISTEN", "unix:/run/redis.sock"),
    ];
    expect_told(&all, "REDIS_SESSIONS", &["nodes' own addresses", "remove REDIS_SESSIONS"]);
    expect_told(&all, "REDIS_ROLE", &["choose the node themselves", "remove REDIS_ROLE"]);
    expect_told(&all, "REDIS_DB", &["database 0 only", "remove REDIS_DB"]);
    expect_told(&all, "REDIS_LISTEN", &["Unix socket", "REDIS_LISTEN=localhost:6379", "remove REDIS_LISTEN"]);
    let beside = [CLUSTER, ("REDIS_LISTEN", "127.0.0.1:7000,unix:/run/redis.sock,[::1]:7000")];
    expect_told(&beside, "REDIS_LISTEN", &["Unix socket", "write REDIS_LISTEN=127.0.0.1:7000,[::1]:7000"]);
    let of_url = [("REDIS_PORT_6379_TCP", "redis+cluster://n1/2")];
    expect_told(&of_url, "REDIS_PORT_6379_TCP", &["database 0 only"]);
    for (setting, value) in [("REDIS_DB", "0"), ("REDIS_SESSIONS", "on"), ("REDIS_BALANCE", "first")] {
        assert_eq!(wiring(&[CLUSTER, (setting, value)])["warnings"], json!([]), "{setting}");
    }
    wiring(&[("REDIS_PORT_6379_TCP", "redis+cluster://n1/0")]);
}

/// Behind the last port there is none for a node.
#[test]
fn a_cluster_at_the_last_port_names_its_nodes_ports() {
    let last = ("REDIS_PORT_65535_TCP", "redis+cluster://n1");
    expect_told(&[last], "REDIS_PORT_65535_TCP", &["behind 65535", "REDIS_PORT_65535_CLUSTER_PORTS="]);
    let named = wiring(&[last, ("REDIS_CLUSTER_PORTS", "7000-7010")]);
    assert_eq!(named["links"][0]["cluster_ports"], "7000-7010");
    let before = wiring(&[("REDIS_PORT_65500_TCP", "redis+cluster://n1")]);
    assert_eq!(before["links"][0]["cluster_ports"], "65501-65535");
}

/// Nodes of two clusters need ports of their own where both would be listened for on one address; with what the remedies
/// ask for, all is well.
#[test]
fn clusters_do_not_share_the_ports_of_their_nodes() {
    let other = ("SHARDS_PORT_6380_TCP", "redis+cluster://m1");
    let third = ("SLOTS_PORT_6381_TCP", "redis+cluster://o1");
    let words = ["6381-6480", "redis:6379", "6380-6479", "set SHARDS_PORT_6380_CLUSTER_PORTS="];
    expect_told(&[CLUSTER, other], "SHARDS_PORT_6380_TCP", &words);
    let three = [CLUSTER, other, third];
    let stderr = launch(&three).argument("links").finish().stderr;
    let remedies: Vec<(&str, &str)> =
        stderr.lines().filter_map(|line| line.trim().strip_prefix("remedy: set ")?.split_once('=')).collect();
    assert_eq!(remedies.len(), 2, "{stderr}");
    assert_eq!(wiring(&[&three[..], &remedies[..]].concat())["links"].as_array().unwrap().len(), 3);
    let ports = ("SHARDS_CLUSTER_PORTS", "6479-6500");
    expect_told(&[CLUSTER, other, ports], "SHARDS_CLUSTER_PORTS", &["write SHARDS_CLUSTER_PORTS=6480-6501"]);
    wiring(&[CLUSTER, other, ("SHARDS_CLUSTER_PORTS", "6480-6500")]);
    // On other addresses they may be the same.
    wiring(&[CLUSTER, other, ("REDIS_LISTEN", "127.0.0.1:6379"), ("SHARDS_LISTEN", "127.0.0.2:6380")]);
    // What is said for an alias is too little for two clusters.
    let of_alias =
        [CLUSTER, ("REDIS_PORT_6380_TCP", "redis+cluster://m1"), ("REDIS_CLUSTER_PORTS", "7000-7009")];
    expect_told(&of_alias, "REDIS_CLUSTER_PORTS", &["set REDIS_PORT_6380_CLUSTER_PORTS=7010-7019"]);
    wiring(&[&of_alias[..], &[("REDIS_PORT_6380_CLUSTER_PORTS", "7010-7019")]].concat());
}

/// Ports that are named have to be free; of the default ones, those of other links are passed over.
#[test]
fn ports_of_nodes_are_no_links_and_no_targets() {
    let plain = ("DB_PORT_6400_TCP", "tcp://db:5432");
    let links = wiring(&[CLUSTER, plain]);
    assert_eq!(link(&links, "REDIS_PORT_6379_TCP")["cluster_ports"], "6380-6479");
    let ports = ("REDIS_CLUSTER_PORTS", "6390-6409");
    let words = ["6400", "db:6400", "write REDIS_CLUSTER_PORTS=6401-6420"];
    expect_told(&[CLUSTER, plain, ports], "REDIS_CLUSTER_PORTS", &words);
    wiring(&[CLUSTER, plain, ports, ("REDIS_LISTEN", "127.0.0.1:6379"), ("DB_LISTEN", "127.0.0.2:6400")]);
    let own = [CLUSTER, ("REDIS_CLUSTER_PORTS", "6379-6398")];
    expect_told(&own, "REDIS_CLUSTER_PORTS", &["the link itself", "write REDIS_CLUSTER_PORTS=6380-6399"]);
    let here =
        [("REDIS_PORT_6379_TCP", "redis+cluster://127.0.0.1:7000"), ("REDIS_CLUSTER_PORTS", "7000-7010")];
    expect_told(&here, "REDIS_CLUSTER_PORTS", &["127.0.0.1:7000", "write REDIS_CLUSTER_PORTS=7001-7011"]);
}

/// What Redis' own configuration and other images call the same things.
#[test]
fn near_misses_of_a_clusters_settings_are_told() {
    for (written, meant) in [
        ("REDIS_ANNOUNCE_IP", "REDIS_ANNOUNCE"),
        ("REDIS_CLUSTER_ANNOUNCE_IP", "REDIS_ANNOUNCE"),
        ("REDIS_PORT_6379_ANNOUNCE_HOST", "REDIS_PORT_6379_ANNOUNCE"),
        ("REDIS_CLUSTER_PORT", "REDIS_CLUSTER_PORTS"),
    ] {
        let warnings = warnings(&wiring(&[CLUSTER, (written, "10.0.0.5")]));
        assert!(warnings.contains(&format!("did you mean {meant}?")), "{written}: {warnings}");
    }
}
