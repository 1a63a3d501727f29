//! `--env-file`: variables from a file, instead of the environment.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::{Launch, Target, command, password};

/// A file with these lines.
struct Written {
    _directory: TempDir,
    path: PathBuf,
}

impl Written {
    fn new(lines: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("environment");
        fs::write(&path, lines.join("\n")).expect("a file");
        Self { _directory: directory, path }
    }

    /// A subcommand that reads it, in an environment that says something else.
    fn launch(&self, subcommand: &str) -> Launch {
        let launch = Launch::new().argument(subcommand).argument("--env-file").argument(&self.path);
        launch
            .variable("AMBASSADOR_ADMIN", "nowhere")
            .variable("AMBASSADOR_LOG_FORMAT", "nothing")
            .variable("OTHER_PORT_1_TCP", "tcp://nowhere")
    }
}

fn name(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// What has no value there has its default, whatever the environment says.
#[test]
fn every_subcommand_takes_its_variables_from_the_file_alone() {
    let password = password();
    let auth = command(&[b"AUTH", password.as_bytes()]);
    let target = Target::start().serve(move |mut peer| {
        peer.expect(&auth);
        peer.send(b"+OK\r\n");
        peer.expect(b"PING\r\n");
        peer.send(b"+PONG\r\n");
        peer.expect_end();
    });
    let link = format!("REDIS_PORT_6379_TCP=\"tcp://{}\"", target.address());
    let auth = format!("REDIS_AUTH='{password}'");
    let mut lines = vec![
        "# Variables",
        "; of a service",
        &link,
        &auth,
        "REDIS_LISTEN=127.0.0.1:0",
        "AMBASSADOR_ADMIN=127.0.0.1:0",
    ];
    let file = Written::new(&lines);
    let wired = file.launch("links").argument("--format").argument("json").finish();
    assert_eq!((wired.code, &*wired.stderr), (Some(0), ""));
    let wiring: serde_json::Value = serde_json::from_str(&wired.stdout).expect("JSON");
    assert_eq!(wiring["links"].as_array().map(Vec::len), Some(1), "{wiring}");
    assert_eq!(wiring["links"][0]["auth"], "env");

    lines.push("AMBASSADOR_LOG_FORMAT=json");
    let file = Written::new(&lines);
    let ambassador = file.launch("run").start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");

    let admin = format!("AMBASSADOR_ADMIN={}", ambassador.admin());
    let file = Written::new(&[&*admin]);
    let health = file.launch("health").finish();
    assert_eq!((health.code, &*health.stdout), (Some(0), "ready\n"), "{health:?}");
    let status = file.launch("status").finish();
    assert!(status.stdout.contains("redis:6379"), "{status:?}");
}

#[test]
fn a_check_is_that_of_the_file() {
    let target = Target::start();
    let address = target.address();
    drop(target);
    let link = format!("DB_PORT_5432_TCP=tcp://{address}");
    let checked = Written::new(&[&*link]).launch("check").finish();
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stdout.contains("db:5432") && !checked.stdout.contains("other"), "{}", checked.stdout);
}

#[test]
fn a_flag_goes_before_the_file() {
    let file = Written::new(&["DB_PORT_5432_TCP=tcp://db:5432", "AMBASSADOR_BIND=nowhere"]);
    let wired = file.launch("links").argument("--bind").argument("127.0.0.1").finish();
    assert!(wired.stdout.contains(" 127.0.0.1:5432 "), "{wired:?}");
}

/// Another program's key, whose last line ends as an assignment would begin.
#[test]
fn a_value_of_several_lines_is_one_value() {
    let key = "KEY='-----BEGIN PRIVATE KEY-----\nMC4CAQAw\nAb3=\n-----END PRIVATE KEY-----'";
    let file = Written::new(&[key, "DB_PORT_5432_TCP=tcp://db:5432"]);
    let wired = file.launch("links").finish();
    assert_eq!((wired.code, &*wired.stderr), (Some(0), ""));
}

/// As Docker takes it, and no other variable of the environment.
#[test]
fn a_name_alone_is_taken_from_the_environment() {
    let file = Written::new(&["DB_PORT_5432_TCP", "CACHE_PORT_1_TCP"]);
    let wired = file.launch("links").variable("DB_PORT_5432_TCP", "tcp://db:5432").finish();
    assert_eq!(wired.code, Some(0), "{wired:?}");
    assert_eq!(wired.stdout.lines().count(), 2, "{}", wired.stdout);
    assert!(wired.stdout.contains("db:5432"), "{}", wired.stdout);
}

/// As a shell gives the output of a program that decrypts it.
#[test]
fn the_file_may_be_a_pipe() {
    let script = "echo DB_PORT_5432_TCP=tcp://db:5432 | \"$0\" \"$@\"";
    let launch = Launch::new().under(&["sh", "-c", script]).argument("links");
    let wired = launch.argument("--env-file").argument("/dev/stdin").finish();
    assert_eq!(wired.code, Some(0), "{wired:?}");
    assert!(wired.stdout.contains("db:5432"), "{}", wired.stdout);
}

/// A program is given what the service's would be: nothing of this environment but PATH, and no secret.
#[test]
fn a_program_gets_the_variables_of_the_file() {
    let secret = password();
    let directory = tempfile::tempdir().expect("a directory");
    let seen = name(&directory.path().join("seen"));
    let target = Target::start().serve(|mut peer| {
        peer.expect(&command(&[b"AUTH", b"x"]));
        peer.send(b"-ERR enough\r\n");
    });
    let link = format!("REDIS_PORT_6379_TCP=tcp://{}", target.address());
    let program = format!("REDIS_AUTH_COMMAND=sh -c 'env > {seen}; echo x'");
    let other = format!("CACHE_AUTH={secret}");
    let lines = [
        &*link,
        &program,
        "CACHE_PORT_6380_TCP=redis://127.0.0.1:1",
        &other,
        "AMBASSADOR_LINKS=redis",
        "REGION=\"of the file\"",
    ];
    let file = Written::new(&lines);
    let launch = file.launch("check").variable("OURS", "1");
    let path = std::env::var("PATH").expect("a PATH");
    let checked = launch.variable("PATH", &path).finish();
    assert!(checked.stdout.contains("REDIS_AUTH_COMMAND"), "{checked:?}");
    let seen = fs::read_to_string(&seen).expect("what the program saw");
    for line in ["REGION=of the file", &format!("PATH={path}")] {
        assert!(seen.lines().any(|seen| seen == line), "{line}:\n{seen}");
    }
    for name in ["OURS=", "OTHER_PORT_1_TCP=", "CACHE_AUTH="] {
        assert!(!seen.contains(name), "{name}:\n{seen}");
    }
}

/// All of them at once, with those of the variables; whatever a line holds may be a secret and is not shown.
#[test]
fn mistakes_have_a_file_and_a_line_and_show_no_value() {
    let secret = password();
    let [open, behind, backslash, word, name_, spaces, comment] = [
        format!("REDIS_AUTH='{secret}"),
        format!("REDIS_AUTH=\"{secret}\" {secret}"),
        format!("REDIS_AUTH={secret}\\x"),
        format!("{secret} {secret}"),
        format!("{secret} x={secret}"),
        format!("REDIS_AUTH={secret}  "),
        format!("# {secret}\\"),
    ];
    let file = Written::new(&[
        "export REDIS_PORT_6379_TCP=redis://redis.example.com",
        &open,
        &behind,
        "",
        &backslash,
        &word,
        &name_,
        &spaces,
        &comment,
        "REDIS_CONNECT_TIMEOUT=soon",
    ]);
    for subcommand in ["run", "links", "check"] {
        let finished = file.launch(subcommand).finish();
        for line in [1, 2, 3, 5, 6, 7, 8, 9] {
            finished.expect_mistake(&format!("{}:{line}", name(&file.path)));
        }
        finished.expect_mistake("REDIS_CONNECT_TIMEOUT");
        assert!(finished.stderr.contains("has 9 mistakes"), "{}", finished.stderr);
    }
    for subcommand in ["health", "status"] {
        assert!(file.launch(subcommand).finish().stderr.contains("has 8 mistakes"));
    }
}

/// A password on a line that a quotation mark or a backslash before it would swallow is not in the message about that.
#[test]
fn a_value_that_would_swallow_the_next_line_shows_nothing_of_it() {
    let secret = password();
    let auth = format!("REDIS_AUTH={secret}'");
    for role in ["REDIS_ROLE='leader", "REDIS_ROLE=leader\\"] {
        let file = Written::new(&["REDIS_PORT_6379_TCP=redis://h", role, &auth]);
        let finished = file.launch("links").finish();
        finished.expect_mistake(&format!("{}:2", name(&file.path)));
        assert!(finished.expect_mistake("REDIS_ROLE").contains("\"leader\""), "{}", finished.stderr);
    }
}

#[test]
fn a_file_that_can_not_be_read_is_a_mistake() {
    let file = Written::new(&[]);
    let directory = file.path.parent().expect("a directory");
    for (path, reason) in [
        (directory, "Is a directory"),
        (&directory.join("no"), "No such file"),
        (Path::new("/dev/zero"), "1 MiB"),
    ] {
        for subcommand in ["run", "links", "check", "health", "status"] {
            let finished = Launch::new().argument(subcommand).argument("--env-file").argument(path).finish();
            let mistake = finished.expect_mistake(&format!("--env-file {}", name(path)));
            assert!(mistake.contains(reason), "{mistake}");
        }
    }
    // Nothing is missing from an environment of which a part could not be read.
    let file = Written::new(&["no assignment"]);
    assert!(file.launch("links").finish().stderr.contains("has a mistake:"));
}

/// Libraries look for it by themselves, in the environment alone.
#[test]
fn authorities_that_only_one_environment_names_are_told_of() {
    let file = Written::new(&["REDIS_PORT_6379_TCP=rediss://h", "SSL_CERT_FILE=/etc/ssl/own.pem"]);
    let wired = file.launch("links").finish();
    for words in ["warning: SSL_CERT_FILE: ", "set it there too"] {
        assert!(wired.stdout.contains(words), "no {words}: {wired:?}");
    }
    let wired = file.launch("links").variable("SSL_CERT_FILE", "/etc/ssl/own.pem").finish();
    assert!(!(wired.stdout + &wired.stderr).contains("SSL_CERT_FILE: it says"));
    // What the process alone has is not missing there.
    let file = Written::new(&["REDIS_PORT_6379_TCP=rediss://h"]);
    let wired = file.launch("links").variable("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt").finish();
    for words in ["warning: SSL_CERT_FILE: ", "set it in the file too"] {
        assert!(wired.stdout.contains(words), "no {words}: {wired:?}");
    }
}
