//! What is in `deploy/` agrees with the documents and with the program.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::documents::markdown::Page;
use crate::support::{Identity, Launch, Target, command_is_missing, get};

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect(path)
}

/// What a page shows is the file, but for the comment at its head.
#[test]
fn the_pages_show_the_files() {
    for (page, language, path) in [
        ("docs/deploy/compose.md", "yaml", "deploy/compose.yaml"),
        ("docs/deploy/swarm.md", "yaml", "deploy/stack.yaml"),
        ("docs/deploy/kubernetes.md", "yaml", "deploy/kubernetes/app.yaml"),
        ("docs/deploy/systemd.md", "ini", "deploy/redis-ambassador.service"),
        ("docs/deploy/systemd.md", "ini", "deploy/redis-ambassador.socket"),
        ("docs/deploy/podman.md", "ini", "deploy/redis-ambassador.container"),
        ("docs/deploy/podman.md", "yaml", "deploy/pod.yaml"),
    ] {
        let (text, file) = (read(page), read(path));
        let (comment, shown) = file.split_once("\n\n").expect("a blank line");
        let is_comment = comment.lines().all(|line| line.starts_with('#'));
        let shown = if is_comment { shown } else { &file };
        assert!(text.contains(&format!("```{language}\n{shown}```\n")), "{path} is another in {page}");
        assert!(text.contains(&format!("(../../{path})")), "{page} does not link {path}");
    }
}

/// The commands that a page gives for a file are those at the file's head.
#[test]
fn the_files_name_the_commands_of_their_pages() {
    for (page, path) in [
        ("docs/deploy/compose.md", "deploy/compose.yaml"),
        ("docs/deploy/swarm.md", "deploy/stack.yaml"),
        ("docs/deploy/kubernetes.md", "deploy/kubernetes/app.yaml"),
    ] {
        let (page, file) = (Page::open(page), read(path));
        for block in page.blocks().iter().filter(|block| block.language == "sh") {
            for command in block.code.lines().map(|line| line.split(" # ").next().expect("a part").trim()) {
                assert!(file.contains(command), "{path} does not name {command}");
            }
        }
    }
}

/// An ambassador that a page starts is there again after its host has been: it has the password, and applications wait for
/// it. And a port that is published is one for this host alone, or shut to whoever has no certificate.
#[test]
fn ambassadors_of_the_pages_come_back_and_are_open_to_nobody_else() {
    let (mut restarted, mut published) = (0, 0);
    for page in Page::all() {
        for block in page.blocks() {
            let code = block.code.replace("\\\n", "");
            for line in code.lines().filter(|line| line.contains("docker run --detach")) {
                if !line.contains("redis-ambassador") {
                    continue;
                }
                assert!(line.contains(" --restart unless-stopped "), "{}: {line}", page.path.display());
                restarted += 1;
                if let Some((_, port)) = line.split_once(" --publish ") {
                    let is_shut =
                        port.starts_with("127.0.0.1:") || line.contains("LISTEN_TLS_CLIENT_CA_FILE=");
                    assert!(is_shut, "{}: {line}", page.path.display());
                    published += 1;
                }
            }
        }
    }
    assert!(restarted > 4 && published > 1, "{restarted}, {published}");
}

/// The examples put passwords and keys into folders of that name.
#[test]
fn no_secrets_of_the_examples_are_committed() {
    if command_is_missing("git") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join(".gitignore"), read(".gitignore")).unwrap();
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(folder.path()).output().expect("git runs")
    };
    assert!(git(&["init", "--quiet"]).status.success());
    for path in ["secrets/redis", "secrets/new/server.key", "deploy/secrets/redis"] {
        assert!(git(&["check-ignore", "--quiet", path]).status.success(), "{path}");
    }
    assert!(!git(&["check-ignore", "--quiet", "src/secret.rs"]).status.success());
}

/// `deploy/certificates`, in a folder of the test's own.
fn certificates(folder: &Path, arguments: &[&str]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/certificates");
    Command::new(script).args(arguments).current_dir(folder).output().expect("bash runs")
}

/// The names in a folder, with what the files hold and who may read them.
fn contents(folder: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let of = |entry: DirEntry| {
        let mode = entry.metadata().expect("a file").permissions().mode() & 0o777;
        (entry.file_name().into_string().expect("UTF-8"), (mode, fs::read(entry.path()).expect("a file")))
    };
    entries.map(of).collect()
}

/// The script's certificates are what two ambassadors know each other by, by a name and by an address. New ones of the same
/// authority serve beside the old ones.
#[test]
fn the_certificates_of_the_script_are_taken_on_both_sides() {
    if command_is_missing("openssl") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let run = |arguments: &[&str]| {
        let done = certificates(folder.path(), arguments);
        assert!(done.status.success(), "{done:?}");
        contents(&folder.path().join(arguments[arguments.len() - 3]))
    };
    let first = run(&["first", "storage.example.com", "127.0.0.1"]);
    let modes: Vec<_> = first.iter().map(|(name, (mode, _))| (name.as_str(), *mode)).collect();
    let expected = [
        ("ca.key", 0o600),
        ("ca.pem", 0o644),
        ("client.key", 0o600),
        ("client.pem", 0o644),
        ("server.key", 0o600),
        ("server.pem", 0o644),
    ];
    assert_eq!(modes, expected);
    let renewed = run(&["--authority", "first", "renewed", "storage.example.com", "::1"]);
    let names: Vec<_> = renewed.keys().map(String::as_str).collect();
    assert_eq!(names, ["ca.pem", "client.key", "client.pem", "server.key", "server.pem"]);
    assert_eq!(renewed["ca.pem"], first["ca.pem"]);
    assert_ne!(renewed["server.key"].1, first["server.key"].1);

    let identity = |name: &str, side: &str| Identity {
        certificate: folder.path().join(name).join(format!("{side}.pem")),
        key: folder.path().join(name).join(format!("{side}.key")),
    };
    let target = Target::start().echo();
    for (server, client, name) in [
        ("first", "first", None),
        ("first", "renewed", Some("storage.example.com")),
        ("renewed", "first", Some("storage.example.com")),
        ("renewed", "renewed", Some("::1")),
    ] {
        let authority = folder.path().join("first/ca.pem");
        let far = Launch::plain(target.address())
            .listen_tls("DB", &identity(server, "server"))
            .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", &authority)
            .start();
        let near = Launch::new()
            .variable("DB_PORT_5432_TCP", format!("tls://{}", far.address("db:5432")))
            .variable("DB_LISTEN", "127.0.0.1:0")
            .variable("DB_TLS_CA_FILE", &authority)
            .tls_identity("DB", &identity(client, "client"));
        let near = match name {
            Some(name) => near.variable("DB_TLS_SERVER_NAME", name),
            None => near,
        };
        let near = near.start();
        let mut peer = near.connect("db:5432");
        peer.send(b"through both");
        peer.expect(b"through both");
    }
    // A client's certificate is none for a server.
    let confused = Launch::plain(target.address())
        .listen_tls("DB", &identity("first", "client"))
        .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", folder.path().join("first/ca.pem"))
        .argument("check")
        .finish();
    assert!(confused.stdout.contains("not meant for this side"), "{}", confused.stdout);
}

/// The commands of the page, year after year.
#[test]
fn the_certificates_can_be_renewed_again_and_again() {
    if command_is_missing("openssl") {
        return;
    }
    let page = Page::open("docs/deploy/two-hosts.md");
    let folder = TempDir::new().expect("a folder");
    std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy"), folder.path().join("deploy"))
        .expect("a link");
    let secrets = || contents(&folder.path().join("secrets"));
    let run = |words: &str| {
        let [block] = &page.blocks_with("sh", words)[..] else { panic!("one block with {words}") };
        let script = format!("set -e\n{}", block.code);
        let done =
            Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().expect("sh runs");
        assert!(done.status.success(), "{done:?}");
        secrets()
    };
    let mut before = run("deploy/certificates secrets");
    for _ in 0..2 {
        let after = run("deploy/certificates --authority");
        assert!(before.keys().eq(after.keys()));
        for (name, now) in &after {
            assert_eq!(now == &before[name], name.starts_with("ca."), "{name}");
        }
        before = after;
    }
}

/// What is there stays as it is, and what is no name makes nothing.
#[test]
fn the_script_for_certificates_overwrites_nothing() {
    if command_is_missing("openssl") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let refused = |arguments: &[&str], words: &str| {
        let done = certificates(folder.path(), arguments);
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && told.contains(words), "{arguments:?}: {done:?}");
    };
    fs::create_dir(folder.path().join("secrets")).unwrap();
    for file in ["ca.key", "ca.pem", "server.key", "server.pem", "client.key", "client.pem"] {
        let path = folder.path().join("secrets").join(file);
        fs::write(&path, "mine").unwrap();
        refused(&["secrets", "storage.example.com"], &format!("secrets/{file} is there already"));
        assert_eq!(contents(&folder.path().join("secrets")).len(), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(path).unwrap();
    }
    for name in ["", "-x", "a,DNS:b", "a b", "redis://a", "fe80::1%eth0", "1.2.3.4.5", "::g"] {
        refused(&["secrets", "storage.example.com", name], name);
    }
    refused(&["--authority", "nowhere", "secrets", "a.example"], "nowhere/ca.key can't be read");
    refused(&["secrets"], "usage: ");
    refused(&["--authority", "secrets"], "usage: ");
    assert!(contents(&folder.path().join("secrets")).is_empty());
}

/// Every metric that the dashboard draws and an alert looks at is there, with the labels that they look at.
#[test]
fn dashboard_and_alerts_know_the_metrics() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .variable("SHARDS_PORT_7000_TCP", format!("redis+cluster://{}", target.address()))
        .variable("SHARDS_LISTEN", "127.0.0.1:0")
        .start();
    let metrics = get(ambassador.admin(), "/metrics").body;
    let names = |text: &str| -> Vec<String> {
        let rest = text.split("redis_ambassador_").skip(1);
        rest.map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
            .collect()
    };
    let known = names(&metrics);
    for path in
        ["deploy/grafana/dashboard.json", "deploy/prometheus/alerts.yml", "deploy/prometheus/alerts_test.yml"]
    {
        let text = read(path);
        let used = names(&text);
        assert!(!used.is_empty());
        for name in used {
            assert!(known.contains(&name), "{path}: there is no redis_ambassador_{name}");
        }
        for label in ["stage", "which", "direction", "reason", "result", "cause"] {
            for value in text.split(&format!("{label}=")).skip(1) {
                let value = value.trim_start_matches(['\\', '"']);
                let value = value.split(['\\', '"']).next().expect("a value");
                assert!(metrics.contains(&format!("{label}=\"{value}\"")), "{path}: no {label} is {value}");
            }
        }
    }
}

/// Whatever Grafana would not load.
#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    for (number, panel) in panels.iter().enumerate() {
        assert_eq!(panel["id"], number + 1);
        assert!(
            panel["title"].is_string() && !panel["targets"].as_array().expect("targets").is_empty(),
            "{panel}"
        );
    }
    // No two lie on each other.
    let places = panels.iter().map(|panel| panel["gridPos"].to_string());
    let mut places: Vec<_> = places.collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), panels.len());
}
