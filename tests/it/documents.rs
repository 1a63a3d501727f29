//! What the documents say of the repository is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every dependency has a reason in `docs/dependencies.md`, and every reason a dependency.
#[test]
fn every_dependency_has_its_reason() {
    let manifest = read("Cargo.toml");
    let mut section = "";
    let mut dependencies = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if let Some((name, _)) = line.split_once(" = ")
            && section.contains("dependencies]")
        {
            dependencies.insert(name.to_owned());
        }
    }
    let document = read("docs/dependencies.md");
    let reasons: BTreeSet<_> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(dependencies, reasons);
}

/// Every test that `docs/reliability.md` names is there.
#[test]
fn every_promise_has_the_test_that_is_named() {
    let document = read("docs/reliability.md");
    let mut named = 0;
    // What stands in backquotes is every second part.
    for test in document.split('`').skip(1).step_by(2) {
        let Some((module, name)) = test.split_once("::") else { continue };
        let source = match module {
            "hostile" => read("src/hostile.rs"),
            "relay" => read(&format!("src/relay/{}.rs", name.replace("::", "/"))),
            module => read(&format!("tests/it/{module}.rs")),
        };
        assert!(module == "relay" || source.contains(&format!("fn {name}(")), "there is no {test}");
        named += 1;
    }
    assert!(named > 30, "{named}");
}

/// Everything that strangers may send is fuzzed: each body has a target of its name, and each target a body.
#[test]
fn every_body_is_fuzzed() {
    let source = read("src/hostile.rs");
    let bodies: BTreeSet<_> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub fn ")?.split_once("(data: &[u8])"))
        .map(|(name, _)| name.to_owned())
        .collect();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets");
    let mut targets = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("targets") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        assert!(
            read(&format!("fuzz/targets/{name}.rs")).contains(&format!("hostile::{name}(data)")),
            "{name}"
        );
        assert!(
            read("fuzz/Cargo.toml").contains(&format!("name = \"{name}\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
        targets.insert(name);
    }
    assert_eq!(bodies, targets);
    assert!(!bodies.is_empty());
}
