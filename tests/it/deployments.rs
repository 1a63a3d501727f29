//! What is in `deploy/` agrees with the documents and with the program.

use std::fs;

use serde_json::Value;

use crate::documents::markdown::Page;
use crate::support::{Launch, Target, get};

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

/// Every metric that the dashboard draws and an alert looks at is there, with the labels that they look at.
#[test]
fn dashboard_and_alerts_know_the_metrics() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).start();
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
