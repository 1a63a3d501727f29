//! `completions`: what a shell offers when Tab is pressed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Launch, command_is_missing};

/// What stands behind the program's name when Tab is pressed; what is then offered, and what is not.
const CASES: &[(&str, &[&str], &[&str])] = &[
    ("", &["run", "links", "status", "help"], &["Cargo.toml"]),
    ("che", &["check"], &["links"]),
    ("--dr", &["--drain-delay", "--drain-timeout"], &["--dns"]),
    ("run --", &["--env-file", "--drain-timeout", "--log-format"], &["--format"]),
    ("links --", &["--format", "--env-file", "--bind", "--links"], &["--drain-timeout", "--admin"]),
    ("links --format ", &["table", "json"], &["Cargo.toml"]),
    ("links --format json --", &["--env-file"], &["--admin"]),
    ("check --", &["--connect-timeout", "--dns"], &["--drain-timeout"]),
    ("check --env-file Cargo.t", &["Cargo.toml"], &[]),
    ("--dns 10.0.0.1 health --", &["--links", "--admin"], &["--bind"]),
    ("status --", &["--watch", "--admin", "--env-file"], &["--dns"]),
    ("completions ", &["bash", "zsh", "fish"], &["Cargo.toml"]),
    ("man --", &["--help"], &["--bind", "--env-file"]),
    ("help ", &["links", "status"], &["Cargo.toml"]),
];

/// The script for a shell.
fn script(shell: &str) -> String {
    let finished = Launch::new().argument("completions").argument(shell).finish();
    assert_eq!((finished.code, &*finished.stderr), (Some(0), ""));
    finished.stdout
}

/// Has a shell complete every line, by a script of `tests/it/completions`; its own is in the directory under that name.
fn complete(shell: &str, arguments: &[&str], name: &str) {
    if command_is_missing(shell) || command_is_missing("timeout") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join(name), script(shell)).expect("a file");
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let line = |words: &str| format!("redis-ambassador {words}");
    let output = Command::new("timeout")
        .args(["60", shell])
        .args(arguments)
        .arg(top.join(format!("tests/it/completions/complete.{shell}")))
        .args(CASES.iter().map(|(words, _, _)| line(words)))
        .current_dir(top)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory.path())
        .env("DIRECTORY", directory.path())
        .env("TERM", "dumb")
        .stdin(Stdio::null())
        .output()
        .expect("a shell that runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let mut offered = BTreeMap::new();
    for answer in printed.split("= redis-ambassador ").skip(1) {
        let mut lines = answer.lines();
        // What it is stands behind a tab, and a sign that a value follows behind the flag.
        let word = |line: &str| line.split(['\t', '=']).next().unwrap_or_default().to_owned();
        offered.insert(lines.next().unwrap_or_default(), lines.map(word).collect::<Vec<_>>());
    }
    for (words, wanted, unwanted) in CASES {
        let offered = offered.get(words).unwrap_or_else(|| panic!("no answer to {words:?}: {printed}"));
        for word in *wanted {
            assert!(
                offered.iter().any(|offered| offered == word),
                "{shell}: {words:?}: {word} is not in {offered:?}"
            );
        }
        for word in *unwanted {
            assert!(
                !offered.iter().any(|offered| offered == word),
                "{shell}: {words:?}: {word} is in {offered:?}"
            );
        }
    }
}

#[test]
fn bash_completes_every_subcommand() {
    complete("bash", &["--norc"], "redis-ambassador");
}

#[test]
fn zsh_completes_every_subcommand() {
    complete("zsh", &["-f"], "_redis-ambassador");
}

#[test]
fn fish_completes_every_subcommand() {
    complete("fish", &["--no-config"], "redis-ambassador.fish");
}

/// And for those that are not tried there is a script.
#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = script(shell);
        for word in ["redis-ambassador", "drain-timeout", "completions"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
    }
}
