//! `fixtures/` in the tests: what real servers say, and lists of words.

use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file.
pub(crate) fn fixture(path: &str) -> Vec<u8> {
    read(&folder().join(path))
}

/// A file of text.
pub(crate) fn text(path: &str) -> String {
    String::from_utf8(fixture(path)).expect("a file of text")
}

/// Every file of a folder and of the folders in it, with its path.
pub(crate) fn all(path: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut folders, mut files) = (vec![folder().join(path)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.clone(), read(&path)));
            }
        }
    }
    assert!(!files.is_empty(), "nothing in {path}");
    files
}

/// The words of a list as fuzzers read them: each on a line of its own in double quotes, `#` for comments.
pub(crate) fn words(path: &str) -> Vec<Vec<u8>> {
    labelled(path).into_iter().map(|(_, word)| word).collect()
}

/// The same, each with what stands before it on its line.
pub(crate) fn labelled(path: &str) -> Vec<(String, Vec<u8>)> {
    let text = text(path);
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let word = |line: &str| {
        let (label, quoted) = line.split_once('"')?;
        Some((label.trim().to_owned(), unescaped(quoted.strip_suffix('"')?)?))
    };
    lines.map(|line| word(line).unwrap_or_else(|| panic!("{path}: {line}"))).collect()
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut word = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            word.push(byte);
            continue;
        }
        let (&kind, after) = rest.split_first()?;
        rest = after;
        word.push(match kind {
            b'r' => b'\r',
            b'n' => b'\n',
            b'x' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).ok()?
            }
            b'\\' | b'"' => kind,
            _ => return None,
        });
    }
    Some(word)
}

#[test]
fn every_dictionary_is_one_that_fuzzers_can_read() {
    for (path, bytes) in all("fuzz") {
        if path.extension().is_none_or(|extension| extension != "dict") {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        for word in words(&format!("fuzz/{name}")) {
            assert!(!word.is_empty(), "{name}");
        }
        // They know \\, \" and \x41, and no other escape.
        let text = String::from_utf8(bytes).expect("a file of text").replace("\\\\", "").replace("\\\"", "");
        assert!(text.is_ascii() && text.split('\\').skip(1).all(|rest| rest.starts_with('x')), "{name}");
    }
}
