//! The examples in the documents are run: every environment is one that the program takes, and what it is said to print
//! it prints. The commands of Docker and systemd are run by the container tests.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::markdown::Page;
use crate::support::{Authority, Finished, Launch, RedisServer, Target, password};

/// Variables and their values.
type Environment = BTreeMap<String, String>;

/// Every link with its settings, in a command, in a file of variables or in a manifest, is taken without a warning.
#[test]
fn every_environment_in_the_documents_is_taken() {
    let mut checked = 0;
    for page in Page::all() {
        for environment in environments(&page) {
            let place = Place::of(&environment);
            let launch = Launch::new().variable("PATH", place.path());
            let launch = environment
                .iter()
                .fold(launch, |launch, (name, value)| launch.variable(name, place.moved(value)));
            let Finished { code, stdout, stderr } =
                launch.argument("links").argument("--format").argument("json").finish();
            assert_eq!(code, Some(0), "{}: {environment:?}:\n{stderr}", page.path.display());
            let wiring: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
            for none in ["warnings", "ignored"] {
                assert_eq!(wiring[none], serde_json::json!([]), "{}: {environment:?}", page.path.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked}");
}

/// Every block of commands is one that a shell reads.
#[test]
fn every_command_in_the_documents_is_read_by_a_shell() {
    let mut checked = 0;
    for page in Page::all() {
        for block in page.blocks().iter().filter(|block| block.language == "sh") {
            let read = Command::new("sh").args(["-n", "-c", &block.code]).output().expect("a shell");
            let said = String::from_utf8_lossy(&read.stderr);
            assert!(read.status.success(), "{}: {said}:\n{}", page.path.display(), block.code);
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

/// What getting started shows of `links`.
#[test]
fn links_prints_what_is_shown() {
    let page = Page::open("docs/getting-started.md");
    let [block] = &page.blocks_with("console", "redis-ambassador links")[..] else { panic!("one block") };
    let (commands, shown) = block.code.split_once("$ redis-ambassador links\n").expect("the command");
    let environment = assignments(commands).collect::<Environment>();
    let place = Place::of(&environment);
    let launch = environment
        .iter()
        .fold(Launch::new(), |launch, (name, value)| launch.variable(name, place.moved(value)));
    assert_eq!(launch.argument("links").finish().stdout, shown);
}

/// What getting started shows of `check`, but for addresses and times.
#[test]
fn check_prints_what_is_shown() {
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let db = Target::start().echo();
    let place = Place::of(&Environment::from([("FILE".to_owned(), "secrets/redis".to_owned())]));
    let check = |password: &str| {
        fs::write(place.moved("secrets/redis"), password).expect("a file");
        let launch = Launch::new()
            .variable("REDIS_PORT_6380_TCP", format!("tcp://{}", redis.address()))
            .variable("REDIS_AUTH_FILE", place.moved("secrets/redis"))
            .variable("DB_PORT_5432_TCP", format!("tcp://{}", db.address()))
            .argument("check");
        launch.finish().stdout
    };
    let page = Page::open("docs/getting-started.md");
    let blocks = page.blocks_with("console", "redis-ambassador check\n");
    assert_eq!(blocks.len(), 2);
    for (block, password) in blocks.iter().zip([&*password, "not the password"]) {
        let (_, shown) = block.code.split_once("$ redis-ambassador check\n").expect("the command");
        let printed = check(password).replace(&redis.address().to_string(), "redis.example.com:6379");
        assert_eq!(in_words(&printed), in_words(shown));
    }
}

/// The names of a table's columns, and the lines below it.
fn in_words(text: &str) -> (Vec<&str>, Vec<&str>) {
    let titles = text.lines().find(|line| line.starts_with("STATE")).expect("a table");
    let is_word = |word: &&str| word.chars().all(char::is_alphabetic);
    let below = text.lines().skip_while(|line| !line.is_empty());
    (titles.split_whitespace().filter(is_word).collect(), below.collect())
}

/// The environments of a page that have a link in them: one for each `docker run`, and one for each other block.
fn environments(page: &Page) -> Vec<Environment> {
    let mut environments = Vec::new();
    for block in page.blocks() {
        match block.language {
            "sh" => {
                let mut others = Environment::new();
                for line in block.code.replace("\\\n", " ").lines() {
                    if line.starts_with("docker run ") || line.starts_with("podman run ") {
                        environments.push(assignments(line).collect());
                    } else {
                        others.extend(assignments(line));
                    }
                }
                environments.push(others);
            }
            "yaml" => environments.push(block.code.lines().filter_map(of_manifest).collect()),
            _ => {}
        }
    }
    environments.retain(|environment| environment.keys().any(|name| name.ends_with("_TCP")));
    environments
}

/// The words of a command that set a variable.
fn assignments(command: &str) -> impl Iterator<Item = (String, String)> {
    let words = shlex::split(command).unwrap_or_else(|| panic!("no command: {command}"));
    // `echo 'NAME=VALUE' >> FILE`, too.
    words.into_iter().filter_map(|word| {
        let (name, value) = word.split_once('=')?;
        let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        is_name.then(|| (name.to_owned(), value.to_owned()))
    })
}

/// `NAME: VALUE` or `{ name: NAME, value: VALUE }`.
fn of_manifest(line: &str) -> Option<(String, String)> {
    let line = line.trim().trim_start_matches("- ");
    let (name, value) = match line.strip_prefix("{ name: ") {
        Some(rest) => rest.strip_suffix(" }")?.split_once(", value: ")?,
        None => line.split_once(": ")?,
    };
    let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    is_name.then(|| (name.to_owned(), value.trim_matches('"').to_owned()))
}

/// A folder with every file and program that an environment names.
struct Place {
    folder: TempDir,
}

impl Place {
    /// Where secrets are in the documents.
    const SECRETS: [&str; 5] = [
        "/run/secrets/",
        "/secrets/",
        "./secrets/",
        "secrets/",
        "/run/credentials/redis-ambassador.service/",
    ];

    fn of(environment: &Environment) -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        let authority = Authority::new("documents");
        let identity = authority.issue(&["documents"]);
        for (name, value) in environment {
            let file = place.moved(value);
            let file = Path::new(&file);
            if file.starts_with(place.folder.path()) {
                fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
                let extension = file.extension().and_then(|extension| extension.to_str());
                let content = match extension {
                    Some("pem") if value.ends_with("ca.pem") => fs::read(authority.file()),
                    Some("pem") => fs::read(&identity.certificate),
                    Some("key") => fs::read(&identity.key),
                    _ => Ok(password().into_bytes()),
                };
                fs::write(file, content.expect("a file")).expect("a file");
            }
            if name.ends_with("_AUTH_COMMAND") {
                let program = value.split(' ').next().expect("a program");
                let program = place.folder.path().join(program);
                fs::write(&program, "#!/bin/sh\n").expect("a program");
                fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
            }
        }
        place
    }

    /// The same value, with files that are in this folder.
    fn moved(&self, value: &str) -> String {
        let prefix = Self::SECRETS.into_iter().find(|prefix| value.starts_with(prefix));
        match prefix.and_then(|prefix| value.strip_prefix(prefix)) {
            Some(name) => self.folder.path().join("secrets").join(name).display().to_string(),
            None => value.to_owned(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}
