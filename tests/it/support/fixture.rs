//! What real servers, Docker and others say (see `fixtures/README.md`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A file of `fixtures/`, such as `replies/redis-7.0/wrongpass.resp`.
#[track_caller]
pub(crate) fn fixture(path: &str) -> &'static [u8] {
    let file = fixtures().join(path);
    let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    // They are few and small, and scripts of servers keep them.
    bytes.leak()
}

/// The same of a file of text.
#[track_caller]
pub(crate) fn fixture_text(path: &str) -> &'static str {
    std::str::from_utf8(fixture(path)).expect("a file of text")
}

/// What servers answer in a situation such as `wrongpass`, each wording once.
#[track_caller]
pub(crate) fn every_answer(situation: &str) -> BTreeSet<&'static [u8]> {
    let servers = fs::read_dir(fixtures().join("replies")).expect("fixtures").flatten();
    let files = servers.map(|server| server.path().join(situation).with_extension("resp"));
    let answers = files.filter(|file| file.exists()).map(|file| fixture(file.to_str().expect("a path")));
    let answers: BTreeSet<_> = answers.collect();
    assert!(!answers.is_empty(), "no server has an answer for {situation}");
    answers
}

/// The first error in an answer, without the sign that it is one.
#[track_caller]
pub(crate) fn error_in(answer: &'static [u8]) -> &'static str {
    let text = std::str::from_utf8(answer).expect("an answer of text");
    text.lines().find_map(|line| line.strip_prefix('-')).expect("an error")
}

/// What a server answers that does not know this command.
#[track_caller]
pub(crate) fn unknown_command(name: &str) -> String {
    fixture_text("replies/redis-7.0/unknown-reset.resp").replace("RESET", name)
}
