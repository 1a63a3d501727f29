//! `--env-file`: variables from a file, as systemd (`EnvironmentFile=`) and Docker (`--env-file`) read it.
//!
//! Both take `NAME=value` a line and `#` comments, and the last of several values of a name. systemd alone knows `;`
//! comments, quotation marks around a value, and a backslash that continues a line; Docker alone a `NAME` without a
//! value, which is taken from the environment of the process. What the two would make different values of, neither of
//! them clearly meant, is refused.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::text;

/// More than this is no list of variables.
const LONGEST: u64 = 1024 * 1024;

/// The reason and the remedy.
type Wrong = (&'static str, &'static str);

type Value = Zeroizing<Vec<u8>>;

const NO_ASSIGNMENT: Wrong = ("it is no assignment", "write NAME=value, or # before a comment");
const NO_NAME: Wrong =
    ("what stands before the = is not the name of a variable", "write NAME=value, or # before a comment");
const EXPORT: Wrong = ("export is a word of shells", "take the word export away");
const NOT_CLOSED: Wrong = (
    "its quotation mark is not closed before the next assignment",
    "close it, or put the whole value into quotation marks of the other kind",
);
const TEXT_BEHIND: Wrong = (
    "there is text behind its closing quotation mark",
    "put the whole value into quotation marks that it does not hold itself, or none at its beginning",
);
const BACKSLASH: Wrong = (
    "systemd takes the backslash in it away, Docker does not",
    "for systemd, put the whole value into single quotes; a password is better in a file (AUTH_FILE)",
);
const WHITE_SPACE: Wrong = (
    "Docker keeps the white space before or behind it, systemd does not",
    "take it away; a password that has it is better in a file (AUTH_FILE)",
);
const NEXT_LINE: Wrong = (
    "systemd takes the next line for a part of it, Docker does not",
    "take the backslash at its end away; a password that ends with one is better in a file (AUTH_FILE)",
);
const CARRIAGE_RETURN: Wrong = (
    "systemd does not continue a line whose backslash stands before a carriage return",
    "end every line with a line feed alone, as dos2unix does",
);
const COMMENT: Wrong = (
    "before version 254, systemd takes the next line for a part of this comment",
    "take the backslash at its end away",
);
const NOT_UTF8: Wrong =
    ("it is not UTF-8", "write plain text; a password of any bytes goes into a file (AUTH_FILE)");
const ZERO: Wrong = ("there is a zero byte in it", "write plain text");

/// What is wrong with a line. Never holds any of its text, which may be a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1 on.
    pub line: usize,
    pub reason: &'static str,
    pub remedy: &'static str,
}

/// What a file says.
#[derive(Default)]
pub struct Contents {
    /// In their order; the last one of a name counts.
    pub variables: Vec<(String, Value)>,
    pub faults: Vec<Fault>,
}

/// The bytes of a file. It may be a pipe: who decrypts a file into one waits for that.
pub fn read(path: &Path) -> Result<Value, String> {
    let read = || {
        // At once, so that growing leaves no copy behind.
        let mut bytes = Value::new(Vec::with_capacity(usize::try_from(LONGEST).unwrap_or_default() + 1));
        File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > LONGEST => Err("it is longer than 1 MiB".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(text::io_error(&error)),
    }
}

/// Reads variables; `own` has those of the process.
pub fn parse(bytes: &[u8], own: impl Fn(&str) -> Option<OsString>) -> Contents {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines = Lines { rest: bytes, line: 1 };
    let mut contents = Contents::default();
    while let Some(first) = lines.skip_blank() {
        let line = lines.line;
        let mut fault = |(reason, remedy)| contents.faults.push(Fault { line, reason, remedy });
        if is_comment(first) {
            if lines.comment_swallows() {
                fault(COMMENT);
            }
            continue;
        }
        let (name, is_assigned) = lines.name();
        let exported = name.strip_prefix(b"export ");
        if exported.is_some() {
            fault(EXPORT);
        }
        let name = exported.unwrap_or(name).trim_ascii();
        let name = std::str::from_utf8(name).ok().filter(|name| is_name(name));
        let (value, wrong) = match name {
            _ if is_assigned => {
                let (value, wrong) = lines.value();
                (Some(value), wrong.or(name.is_none().then_some(NO_NAME)))
            }
            Some(name) => (own(name).map(|value| Value::new(value.into_vec())), None),
            None => (None, Some(NO_ASSIGNMENT)),
        };
        let wrong = wrong.or_else(|| {
            let value = value.as_ref().filter(|_| is_assigned)?;
            match std::str::from_utf8(value) {
                Err(_) => Some(NOT_UTF8),
                Ok(text) => text.contains('\0').then_some(ZERO),
            }
        });
        if let Some(wrong) = wrong {
            fault(wrong);
        }
        contents.variables.extend(name.zip(value).map(|(name, value)| (name.to_owned(), value)));
    }
    contents
}

/// A variable's name, or one with the dashes and dots of a container's: the ambassador says how that is spelt.
fn is_name(text: &str) -> bool {
    let within = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    text.bytes().all(within)
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
}

fn is_comment(first: u8) -> bool {
    matches!(first, b'#' | b';')
}

/// What is left of a file, and the number of the line that it begins with.
struct Lines<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.line += usize::from(*first == b'\n');
        Some(*first)
    }

    /// Takes bytes up to one that is asked for, which stays.
    fn until(&mut self, is_end: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| is_end(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.line += taken.split(|byte| *byte == b'\n').count() - 1;
        self.rest = rest;
        taken
    }

    /// Goes to the next line that is not blank, if there is one, and tells its first byte.
    fn skip_blank(&mut self) -> Option<u8> {
        self.until(|byte| !byte.is_ascii_whitespace());
        self.rest.first().copied()
    }

    /// Takes a comment. Whether it ends with a backslash before a line that is no comment itself: a version of systemd
    /// may take that line too.
    fn comment_swallows(&mut self) -> bool {
        let comment = self.until(|byte| byte == b'\n');
        self.next();
        let escapes = comment.iter().rev().take_while(|byte| **byte == b'\\').count();
        let next = self.rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let says = next.trim_ascii_start().first().is_some_and(|first| !is_comment(*first));
        escapes % 2 == 1 && says
    }

    /// What stands before the `=`, and whether there is one.
    fn name(&mut self) -> (&'a [u8], bool) {
        let name = self.until(|byte| matches!(byte, b'=' | b'\n'));
        let is_assigned = self.rest.first() == Some(&b'=');
        if is_assigned {
            self.next();
        }
        (name, is_assigned)
    }

    /// Whether a backslash and the end of a line are next, which are then taken; `wrong` tells if systemd doesn't.
    fn continues(&mut self, wrong: &mut Option<Wrong>) -> bool {
        let end = [&b"\\\n"[..], b"\\\r\n"].into_iter().find(|end| self.rest.starts_with(end));
        for byte in end.into_iter().flatten() {
            if *byte == b'\r' {
                *wrong = Some(CARRIAGE_RETURN);
            }
            self.next();
        }
        end.is_some()
    }

    /// Whether the line that begins here would be an assignment of its own.
    fn is_at_assignment(&self) -> bool {
        let (name, is_assigned) = Lines { rest: self.rest, line: 0 }.name();
        let name = name.trim_ascii();
        let name = name.strip_prefix(b"export ").unwrap_or(name);
        is_assigned && std::str::from_utf8(name).is_ok_and(is_name)
    }

    /// The same within quotation marks, where the last line of a key (`Ab3=`, `Ab==`) is none.
    fn is_at_swallowed(&self, mark: u8) -> bool {
        let line = self.rest.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
        let line = line.strip_suffix(&[mark]).unwrap_or(line);
        let end = line.iter().position(|byte| *byte == b'=').unwrap_or(line.len());
        self.is_at_assignment() && line[end..].iter().any(|byte| *byte != b'=')
    }

    /// What stands behind the `=`, and what is wrong with it. Then the value is one that the line alone makes likely, so
    /// that what else is wrong with the configuration can be told.
    fn value(&mut self) -> (Value, Option<Wrong>) {
        let before = self.until(|byte| !matches!(byte, b' ' | b'\t'));
        let Some(mark @ (b'"' | b'\'')) = self.rest.first().copied() else {
            let (value, wrong) = self.plain();
            return (value, wrong.or((!before.is_empty()).then_some(WHITE_SPACE)));
        };
        self.next();
        let (rest, line) = (self.rest, self.line);
        match self.quoted(mark) {
            Ok((value, wrong)) => {
                let behind = self.until(|byte| byte == b'\n').trim_ascii();
                (value, wrong.or((!behind.is_empty()).then_some(TEXT_BEHIND)))
            }
            Err(wrong) => {
                (self.rest, self.line) = (rest, line);
                let first = self.until(|byte| byte == b'\n').trim_ascii();
                (Value::new(first.to_vec()), Some(wrong))
            }
        }
    }

    /// Room for a value of one line, as nearly all are: growing would leave a copy behind.
    fn room(&self) -> Value {
        let length = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
        Value::new(Vec::with_capacity(length))
    }

    fn plain(&mut self) -> (Value, Option<Wrong>) {
        let mut value = self.room();
        let mut wrong = None;
        loop {
            value.extend(self.until(|byte| matches!(byte, b'\\' | b'\n')));
            if self.continues(&mut wrong) {
                let next = self.rest.trim_ascii_start();
                let is_blank = self.rest[..self.rest.len() - next.len()].contains(&b'\n');
                if is_blank || next.starts_with(b"#") || self.is_at_assignment() {
                    wrong = Some(NEXT_LINE);
                    break;
                }
            } else if self.rest.first() == Some(&b'\\') {
                wrong = Some(BACKSLASH);
                value.extend(self.next());
            } else {
                break;
            }
        }
        // Both take an end of a line of Windows for one.
        let length = value.strip_suffix(b"\r").unwrap_or(&value).len();
        value.truncate(length);
        let length = value.trim_ascii_end().len();
        let wrong = wrong.or((length < value.len()).then_some(WHITE_SPACE));
        value.truncate(length);
        (value, wrong)
    }

    /// Up to the quotation mark that closes it, and what is wrong with it so far.
    fn quoted(&mut self, mark: u8) -> Result<(Value, Option<Wrong>), Wrong> {
        let mut value = self.room();
        let mut wrong = None;
        loop {
            value.extend(self.until(|byte| byte == mark || matches!(byte, b'\\' | b'\n')));
            if mark == b'"' && self.continues(&mut wrong) {
                if self.is_at_swallowed(mark) {
                    return Err(NOT_CLOSED);
                }
                continue;
            }
            match self.next() {
                None => return Err(NOT_CLOSED),
                Some(b'\n') if self.is_at_swallowed(mark) => return Err(NOT_CLOSED),
                Some(b'\\') if mark == b'"' => {
                    let is_escape = matches!(self.rest.first(), Some(b'"' | b'\\' | b'`' | b'$'));
                    value.push(if is_escape { self.next().unwrap_or_default() } else { b'\\' });
                }
                Some(byte) if byte == mark => return Ok((value, wrong)),
                Some(byte) => value.push(byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8]) -> (Vec<(String, String)>, Vec<Fault>) {
        let own = |name: &str| (name == "OWN").then(|| OsString::from(" of the process "));
        let Contents { variables, faults } = parse(text, own);
        let text = |value: Value| String::from_utf8_lossy(&value).into_owned();
        (variables.into_iter().map(|(name, value)| (name, text(value))).collect(), faults)
    }

    #[test]
    fn a_value_is_what_systemd_and_docker_mean() {
        for (line, value) in [
            ("A=plain  text", "plain  text"),
            (" A=indented", "indented"),
            ("A = \"spaced\"", "spaced"),
            ("A=", ""),
            ("A=\"\"", ""),
            ("A=x # no comment", "x # no comment"),
            ("A=it's \"so\"", "it's \"so\""),
            ("A=b=c", "b=c"),
            ("A=\" q 'v' \"  ", " q 'v' "),
            ("A='s\\v \"'", "s\\v \""),
            ("A=\"\\\" \\\\ \\$ \\` \\b\"", "\" \\ $ ` \\b"),
            ("A=con\\\ntinu\\\ned", "continued"),
            ("A=\\\n--b=c", "--b=c"),
            ("A=\"con\\\ntinued\"", "continued"),
            ("A='con\\\ntinued'", "con\\\ntinued"),
            ("A=\"two\nlines\"", "two\nlines"),
            ("A='two\nMIIB=\nlines'", "two\nMIIB=\nlines"),
            ("A=\"two\r\nMI==\r\nlines\"\r\n", "two\r\nMI==\r\nlines"),
            ("A=\"two\nMI==\"", "two\nMI=="),
            ("A=1\r\nA=2\r\n", "2"),
            ("\u{feff}A=1", "1"),
            ("# A=0 \\\n;A=0\n\n\t# A=0\nA=1", "1"),
            ("# A=0 \\\\\nA=1\n# A=0 \\\n \n# \\", "1"),
        ] {
            let (variables, faults) = parsed(line.as_bytes());
            let last = variables.last().map(|(name, value)| (name.as_str(), value.as_str()));
            assert_eq!((last, &faults[..]), (Some(("A", value)), &[][..]), "{line}");
        }
    }

    #[test]
    fn a_name_alone_is_a_variable_of_the_process() {
        let (variables, faults) = parsed(b"OWN\nNOBODYS\n");
        assert_eq!(variables, [("OWN".to_owned(), " of the process ".to_owned())]);
        assert_eq!(faults, []);
    }

    #[test]
    fn every_fault_has_its_line_and_those_behind_it_are_read() {
        for (text, wrong) in [
            ("export A=1", EXPORT),
            ("export OWN", EXPORT),
            ("two words", NO_ASSIGNMENT),
            ("=1", NO_NAME),
            ("A B=1", NO_NAME),
            ("1A='1'", NO_NAME),
            ("A=\"1", NOT_CLOSED),
            ("A='1\nB=2'", NOT_CLOSED),
            ("A='1\nB='2'", NOT_CLOSED),
            ("A='1\nB=\nC=2'", NOT_CLOSED),
            ("A=\"1\\\nB=2\"", NOT_CLOSED),
            ("A=\"1\" 2", TEXT_BEHIND),
            ("A='1\n2' # 3", TEXT_BEHIND),
            ("A=1\\2", BACKSLASH),
            ("A=1 ", WHITE_SPACE),
            ("A= 1", WHITE_SPACE),
            ("A=1\t\r", WHITE_SPACE),
            ("A=\t", WHITE_SPACE),
            ("A=1\\\r\n2", CARRIAGE_RETURN),
            ("A=\"1\\\r\n2\"", CARRIAGE_RETURN),
            ("# 1\\\nA=1", COMMENT),
            ("; 1\\\\\\\n A=1", COMMENT),
            ("A=1\\", NEXT_LINE),
            ("A=1\\\n export B=2", NEXT_LINE),
            ("A=1\\\n\n", NEXT_LINE),
            ("A=1\\\n# 2", NEXT_LINE),
            ("A=\u{0}", ZERO),
        ] {
            let (variables, faults) = parsed(format!("\nZ=0\n{text}\nY=9\n").as_bytes());
            assert!(
                faults.iter().any(|fault| fault.reason == wrong.0 && fault.line >= 3),
                "{text}: {faults:?}"
            );
            assert_eq!(variables.first().map(|(name, _)| &**name), Some("Z"), "{text}");
            assert_eq!(variables.last().map(|(name, _)| &**name), Some("Y"), "{text}");
        }
        let (_, faults) = parsed(b"A=1\nB=\xff\nC=1\\\nD=2\n");
        let faults: Vec<_> = faults.iter().map(|fault| (fault.line, fault.reason)).collect();
        assert_eq!(faults, [(2, NOT_UTF8.0), (3, NEXT_LINE.0)]);
    }
}
