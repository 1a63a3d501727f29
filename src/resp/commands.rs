//! Where a client's commands end, and which of them is a RESET.
//!
//! RESET takes a connection's authentication away, the one that the client never knew of. So the relay has to know
//! where one ends. [`Commands`] follows the framing as Redis does (`processMultibulkBuffer`, `processInlineBuffer` and
//! `sdssplitargs` in its sources), in whatever pieces the bytes come: it goes over the few bytes between arguments,
//! skips arguments by their lengths, keeps no byte and changes none. What is no command to Redis ends the watch and
//! nothing else; Redis itself closes such a connection. [`first`] takes a stream's first command apart, for who has to
//! know what it says.

use std::borrow::Cow;

/// What is looked for, in the letters that it is compared in.
const RESET: &[u8; 5] = b"reset";

/// The longest inline command that Redis takes for sure, in bytes.
const LONGEST_LINE: u32 = 64 * 1024;

/// What one client has said so far.
#[derive(Debug)]
pub struct Commands {
    at: At,
    /// How many letters of RESET the command has been so far.
    matched: u8,
    /// Whether the command has one argument, of the length of RESET.
    may_be_reset: bool,
    /// Digits of the number that is being read, or bytes of the line.
    length: u32,
    /// Arguments of the array that are still to come.
    arguments: u32,
    /// The number that is being read, or how much of an argument is still to come.
    number: u64,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The first of a command.
    Command,
    /// Part of the number of arguments: the first byte, one of a negative number, another digit.
    Count,
    NegativeCount,
    /// The line feed behind it.
    CountEnd,
    /// The `$` of an argument.
    Argument,
    /// Part of its length.
    Length,
    LengthEnd,
    /// Its bytes, and the line ending behind them.
    Bytes,
    BytesReturn,
    BytesEnd,
    /// Part of an inline command.
    Line(Line),
    /// Nobody looks any more.
    Unwatched,
}

/// Where in an inline command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Before the first argument, or between others.
    Leading,
    Between,
    /// In an argument, outside of quotes, or in double or single quotes.
    Word,
    Double,
    Single,
    /// Behind a backslash.
    DoubleEscape,
    SingleEscape,
    /// In the two digits of a `\x` escape; the value of the first one.
    FirstHex,
    SecondHex(u8),
    /// Behind the closing quote, where only a blank may follow.
    Closed,
}

impl Default for Commands {
    fn default() -> Self {
        Self { at: At::Command, matched: 0, may_be_reset: false, length: 0, arguments: 0, number: 0 }
    }
}

impl Commands {
    /// One that finds nothing.
    pub fn unwatched() -> Self {
        Self { at: At::Unwatched, ..Self::default() }
    }

    /// Follows `bytes`, which came behind all those before, up to the end of the first RESET among them. Returns where
    /// that is; the bytes behind it are to be shown next.
    pub fn find_reset(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut position = 0;
        while let Some(&byte) = bytes.get(position) {
            if self.at == At::Command
                && let Some(length) = length_of_others(&bytes[position..])
            {
                position += length;
                continue;
            }
            position += 1;
            match self.at {
                At::Command => match byte {
                    b'*' => self.begin_number(At::Count),
                    byte => {
                        self.matched = 0;
                        self.length = 0;
                        self.at = At::Line(Line::Leading);
                        self.line(Line::Leading, byte);
                    }
                },
                At::Count => match byte {
                    b'-' if self.length == 0 => self.at = At::NegativeCount,
                    b'\r' if self.length > 0 && i32::try_from(self.number).is_ok() => self.at = At::CountEnd,
                    byte => self.digit(byte),
                },
                // A null array is no command at all, whatever the number.
                At::NegativeCount => match byte {
                    b'\r' if self.length > 0 && self.number > 0 => {
                        self.number = 0;
                        self.at = At::CountEnd;
                    }
                    byte => self.digit(byte),
                },
                At::CountEnd => {
                    // Checked before to fit.
                    self.arguments = u32::try_from(self.number).unwrap_or_default();
                    self.may_be_reset = self.arguments == 1;
                    let next = if self.arguments == 0 { At::Command } else { At::Argument };
                    self.expect(byte, b'\n', next);
                }
                At::Argument => {
                    self.begin_number(At::Length);
                    self.expect(byte, b'$', At::Length);
                }
                At::Length => match byte {
                    b'\r' if self.length > 0 => self.at = At::LengthEnd,
                    byte => self.digit(byte),
                },
                At::LengthEnd => {
                    self.may_be_reset &= self.number == RESET.len() as u64;
                    self.matched = 0;
                    let next = if self.number == 0 { At::BytesReturn } else { At::Bytes };
                    self.expect(byte, b'\n', next);
                }
                At::Bytes => {
                    if self.may_be_reset {
                        self.match_letter(byte);
                        self.number -= 1;
                    } else {
                        let here = (bytes.len() - position + 1) as u64;
                        let skipped = self.number.min(here);
                        self.number -= skipped;
                        // No more than there are bytes.
                        position += usize::try_from(skipped - 1).unwrap_or_default();
                    }
                    if self.number == 0 {
                        self.at = At::BytesReturn;
                    }
                }
                At::BytesReturn => self.expect(byte, b'\r', At::BytesEnd),
                At::BytesEnd => {
                    self.arguments -= 1;
                    let next = if self.arguments == 0 { At::Command } else { At::Argument };
                    self.expect(byte, b'\n', next);
                    if self.at == At::Command && self.may_be_reset && self.is_reset() {
                        return Some(position);
                    }
                }
                At::Line(at) => {
                    if self.line(at, byte) {
                        return Some(position);
                    }
                }
                At::Unwatched => return None,
            }
        }
        None
    }

    fn begin_number(&mut self, at: At) {
        self.at = at;
        self.number = 0;
        self.length = 0;
    }

    /// Takes a digit of a number as Redis writes them itself: no zeros in front, and not beyond 64 bits.
    fn digit(&mut self, byte: u8) {
        let starts_with_zero = self.length > 0 && self.number == 0;
        let number = self.number.saturating_mul(10).saturating_add(u64::from(byte.wrapping_sub(b'0')));
        let largest = i64::MAX.unsigned_abs() + u64::from(self.at == At::NegativeCount);
        if byte.is_ascii_digit() && !starts_with_zero && number <= largest {
            self.number = number;
            self.length += 1;
        } else {
            self.at = At::Unwatched;
        }
    }

    fn expect(&mut self, byte: u8, expected: u8, next: At) {
        self.at = if byte == expected { next } else { At::Unwatched };
    }

    /// Takes a letter of what may be a RESET.
    fn match_letter(&mut self, letter: u8) {
        if RESET.get(usize::from(self.matched)) == Some(&letter.to_ascii_lowercase()) {
            self.matched += 1;
        } else {
            self.mismatch();
        }
    }

    /// It is another command, whatever follows.
    fn mismatch(&mut self) {
        self.matched = u8::MAX;
    }

    fn is_reset(&self) -> bool {
        usize::from(self.matched) == RESET.len()
    }

    /// Takes a byte of an inline command; says whether it ends a RESET.
    fn line(&mut self, at: Line, byte: u8) -> bool {
        self.length += 1;
        if byte == b'\n' {
            let is_whole = matches!(at, Line::Leading | Line::Between | Line::Word | Line::Closed);
            self.at = if is_whole { At::Command } else { At::Unwatched };
            return is_whole && self.is_reset();
        }
        // To Redis a line with a zero byte in it never ends.
        self.at = match self.within_line(at, byte) {
            Some(next) if byte != 0 && self.length <= LONGEST_LINE => At::Line(next),
            _ => At::Unwatched,
        };
        false
    }

    /// What the next byte of an inline command is, if it still is one.
    fn within_line(&mut self, at: Line, byte: u8) -> Option<Line> {
        let is_blank = matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c);
        let next = match (at, byte) {
            (Line::Leading | Line::Between, _) if is_blank => at,
            (Line::Word, b' ' | b'\t' | b'\r') => Line::Between,
            (Line::Between, byte) => {
                // It has a second argument.
                self.mismatch();
                return self.within_line(Line::Word, byte);
            }
            (Line::Leading | Line::Word, b'"') => Line::Double,
            (Line::Leading | Line::Word, b'\'') => Line::Single,
            (Line::Leading | Line::Word, byte) => self.letter(byte, Line::Word),
            (Line::Double, b'"') | (Line::Single, b'\'') => Line::Closed,
            (Line::Double, b'\\') => Line::DoubleEscape,
            (Line::DoubleEscape, b'x') => Line::FirstHex,
            // These stand for control characters, which are no letters of RESET, as the byte 0 is none.
            (Line::DoubleEscape, b'n' | b'r' | b't' | b'b' | b'a') => self.letter(0, Line::Double),
            (Line::Double | Line::DoubleEscape, byte) => self.letter(byte, Line::Double),
            (Line::FirstHex, byte) if byte.is_ascii_hexdigit() => Line::SecondHex(hex(byte)),
            (Line::SecondHex(first), byte) if byte.is_ascii_hexdigit() => {
                self.letter(first << 4 | hex(byte), Line::Double)
            }
            // Not an escape after all, but what it looks like.
            (Line::FirstHex | Line::SecondHex(_), byte) => {
                self.mismatch();
                return self.within_line(Line::Double, byte);
            }
            (Line::Single, b'\\') => Line::SingleEscape,
            (Line::SingleEscape, b'\'') => self.letter(byte, Line::Single),
            (Line::SingleEscape, byte) => {
                self.mismatch();
                return self.within_line(Line::Single, byte);
            }
            (Line::Single, byte) => self.letter(byte, Line::Single),
            (Line::Closed, _) if is_blank => Line::Between,
            (Line::Closed, _) => return None,
        };
        Some(next)
    }

    fn letter(&mut self, letter: u8, next: Line) -> Line {
        self.match_letter(letter);
        next
    }
}

/// How long the command is that the bytes begin with, if all of it is there and it has several arguments: no RESET, and
/// what nearly all commands are. Everything else is followed byte by byte.
fn length_of_others(bytes: &[u8]) -> Option<usize> {
    let (count, mut at) = short_number(bytes, b'*', 0)?;
    if count < 2 {
        return None;
    }
    for _ in 0..count {
        let (length, start) = short_number(bytes, b'$', at)?;
        at = start + length + 2;
        if bytes.get(at - 2..at)? != b"\r\n" {
            return None;
        }
    }
    Some(at)
}

/// A number of not too many digits with its line ending, and where it ends.
// Inlined, because one comes with every argument, and a call costs as much as the number.
#[inline(always)]
fn short_number(bytes: &[u8], kind: u8, start: usize) -> Option<(usize, usize)> {
    // As many as never are too much for 32 bits.
    const DIGITS: usize = 9;
    let [first, digits @ ..] = bytes.get(start..)? else { return None };
    if *first != kind || digits.first() == Some(&b'0') {
        return None;
    }
    // What nearly all numbers of small commands are, without the loop.
    match digits {
        [one @ b'1'..=b'9', b'\r', b'\n', ..] => return Some((usize::from(one - b'0'), start + 4)),
        [ten @ b'1'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', ..] => {
            return Some((usize::from(ten - b'0') * 10 + usize::from(one - b'0'), start + 5));
        }
        _ => {}
    }
    let mut number = 0;
    for (index, byte) in digits.iter().take(DIGITS + 1).enumerate() {
        match byte {
            b'0'..=b'9' if index < DIGITS => number = number * 10 + usize::from(byte - b'0'),
            b'\r' if index > 0 && digits.get(index + 1) == Some(&b'\n') => {
                return Some((number, start + 1 + index + 2));
            }
            _ => return None,
        }
    }
    None
}

/// What a stream begins with, as far as it is there. It may hold a password, so it has no `Debug`.
#[derive(PartialEq)]
pub enum First<'a> {
    /// Part of a command; its name, if that is there.
    Partial(Option<&'a [u8]>),
    /// A command, and how long it is. Empty lines and arrays are commands without arguments, which Redis passes over.
    Command(Vec<Cow<'a, [u8]>>, usize),
    /// None, in the words with which Redis closes such a connection.
    Broken(String),
}

/// How much a command may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Arguments.
    pub arguments: i64,
    /// Bytes of one of them.
    pub length: i64,
}

/// What Redis takes from clients that have not authenticated.
pub const UNAUTHENTICATED: Limits = Limits { arguments: 10, length: 16 * 1024 };

/// Takes apart the first command of a stream.
pub fn first(stream: &[u8], limits: Limits) -> First<'_> {
    let parsed = if stream.first() == Some(&b'*') { array(stream, limits) } else { line(stream) };
    parsed.unwrap_or_else(First::Broken)
}

fn array(stream: &[u8], limits: Limits) -> Result<First<'_>, String> {
    let invalid = "invalid multibulk length";
    let Some((count, mut at)) = number(stream, invalid)? else {
        return Ok(First::Partial(None));
    };
    // Any negative one is a null array.
    if count > i64::from(i32::MAX) {
        return Err(invalid.to_owned());
    }
    if count > limits.arguments {
        return Err("unauthenticated multibulk length".to_owned());
    }
    let mut arguments = Vec::new();
    for _ in 0..count {
        let partial = match arguments.first() {
            Some(Cow::Borrowed(name)) => First::Partial(Some(*name)),
            _ => First::Partial(None),
        };
        match stream.get(at) {
            None => return Ok(partial),
            Some(b'$') => {}
            Some(other) => return Err(format!("expected '$', got '{}'", other.escape_ascii())),
        }
        let invalid = "invalid bulk length";
        let Some((length, header)) = number(&stream[at..], invalid)? else {
            return Ok(partial);
        };
        if length > limits.length {
            return Err("unauthenticated bulk length".to_owned());
        }
        let start = at + header;
        let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length));
        let end = end.ok_or(invalid)?;
        let Some(ending) = stream.get(end..end.saturating_add(2)) else {
            return Ok(partial);
        };
        if ending != b"\r\n" {
            return Err(invalid.to_owned());
        }
        arguments.push(Cow::Borrowed(&stream[start..end]));
        at = end + 2;
    }
    Ok(First::Command(arguments, at))
}

/// The number between the first byte and the line ending, if that is there, and what is behind it.
fn number(stream: &[u8], invalid: &str) -> Result<Option<(i64, usize)>, String> {
    // A sign, nineteen digits.
    const LONGEST: usize = 20;
    let Some(end) = stream.iter().position(|byte| *byte == b'\r') else {
        return if stream.len() <= 1 + LONGEST { Ok(None) } else { Err(invalid.to_owned()) };
    };
    let digits = std::str::from_utf8(&stream[1..end]).map_err(|_| invalid)?;
    let number: i64 = digits.parse().map_err(|_| invalid)?;
    // Redis takes no other way to write it.
    if number.to_string() != digits {
        return Err(invalid.to_owned());
    }
    match stream.get(end + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some((number, end + 2))),
        Some(_) => Err(invalid.to_owned()),
    }
}

fn line(stream: &[u8]) -> Result<First<'_>, String> {
    let end = stream.iter().position(|byte| *byte == b'\n');
    let length = end.unwrap_or(stream.len());
    if u32::try_from(length).map_or(true, |length| length > LONGEST_LINE) {
        return Err("too big inline request".to_owned());
    }
    let Some(end) = end else {
        return Ok(First::Partial(None));
    };
    let arguments = split_arguments(&stream[..end]).ok_or("unbalanced quotes in request")?;
    Ok(First::Command(arguments.into_iter().map(Cow::Owned).collect(), end + 1))
}

/// The arguments of an inline command, as `sdssplitargs` finds them.
fn split_arguments(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    // To Redis a line with a zero byte in it never ends.
    if line.contains(&0) {
        return None;
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut rest = line;
    let mut arguments = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        // Which is no blank to Rust.
        while let [0x0b, blank @ ..] = rest {
            rest = blank.trim_ascii_start();
        }
        if rest.is_empty() {
            return Some(arguments);
        }
        let (argument, behind) = split_argument(rest)?;
        arguments.push(argument);
        rest = behind;
    }
}

/// One argument, and what is behind it.
fn split_argument(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut argument = Vec::new();
    let mut quote = None;
    loop {
        let (taken, byte) = match (quote, rest) {
            (None, [] | [b' ' | b'\t' | b'\r', ..]) => return Some((argument, rest)),
            (None, [b'"' | b'\'', ..]) => {
                quote = Some(rest[0]);
                rest = &rest[1..];
                continue;
            }
            (Some(b'"'), [b'\\', b'x', first, second, ..])
                if first.is_ascii_hexdigit() && second.is_ascii_hexdigit() =>
            {
                (4, hex(*first) << 4 | hex(*second))
            }
            (Some(b'"'), [b'\\', escaped, ..]) => (
                2,
                match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                },
            ),
            (Some(b'\''), [b'\\', b'\'', ..]) => (2, b'\''),
            (Some(quote), [end, behind @ ..]) if *end == quote => {
                let is_over = matches!(behind, [] | [b' ' | b'\t' | b'\r' | 0x0b | 0x0c, ..]);
                return is_over.then_some((argument, behind));
            }
            (Some(_), []) => return None,
            (_, [byte, ..]) => (1, *byte),
        };
        argument.push(byte);
        rest = &rest[taken..];
    }
}

/// The value of a digit of base 16.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{labelled, words};

    /// The ends of all RESETs in a stream that comes in these pieces.
    fn resets<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<usize> {
        let mut commands = Commands::default();
        let mut ends = Vec::new();
        let mut before = 0;
        for piece in pieces {
            let mut rest = piece;
            while let Some(end) = commands.find_reset(rest) {
                ends.push(before + piece.len() - rest.len() + end);
                rest = &rest[end..];
            }
            before += piece.len();
        }
        ends
    }

    /// The same by the parser that has the whole stream, takes commands apart and compares arguments.
    fn reference(stream: &[u8]) -> Vec<usize> {
        let limits = Limits { arguments: i32::MAX.into(), length: i64::MAX };
        let mut ends = Vec::new();
        let mut at = 0;
        while let First::Command(arguments, length) = first(&stream[at..], limits) {
            at += length;
            if let [name] = &arguments[..]
                && name.eq_ignore_ascii_case(RESET)
            {
                ends.push(at);
            }
        }
        ends
    }

    fn command(arguments: &[Vec<u8>]) -> Vec<u8> {
        let arguments = arguments.iter().map(Vec::as_slice).collect();
        crate::resp::commands(&[arguments]).expose().to_vec()
    }

    /// Something that a client may say: mostly commands, sometimes what only looks like one.
    fn said() -> impl Strategy<Value = Vec<u8>> {
        let argument = prop_oneof![
            Just(b"RESET".to_vec()),
            Just(b"*1\r\n$5\r\nRESET\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40),
        ];
        let line = proptest::collection::vec(
            prop_oneof![proptest::sample::select(&b"resetRESET \t\"'\\x545\r"[..]), any::<u8>()],
            0..12,
        );
        prop_oneof![
            6 => proptest::collection::vec(argument, 1..4).prop_map(|arguments| command(&arguments)),
            6 => proptest::sample::select(words("commands/said.txt")),
            2 => line.prop_map(|mut line| { line.push(b'\n'); line }),
            1 => proptest::collection::vec(any::<u8>(), 0..20),
        ]
    }

    proptest! {
        #[test]
        fn the_resets_are_those_that_redis_sees_in_whatever_pieces_they_come(
            said in proptest::collection::vec(said(), 0..12),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream = said.concat();
            let expected = reference(&stream);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            prop_assert_eq!(&resets(cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]])), &expected);
            prop_assert_eq!(&resets(stream.chunks(1)), &expected);
            prop_assert_eq!(&resets([&stream[..]]), &expected);
        }
    }

    #[test]
    fn a_reset_is_found_where_it_ends() {
        for (ends, stream) in labelled("commands/resets.txt") {
            let ends: Vec<usize> =
                ends.split_whitespace().map(|end| end.parse().expect("a number")).collect();
            assert_eq!(resets([&stream[..]]), ends, "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn a_line_without_end_is_not_followed() {
        let mut stream = vec![b'x'; LONGEST_LINE as usize + 1];
        stream.extend_from_slice(b"\nRESET\r\n");
        assert!(resets([&stream[..]]).is_empty());
        assert_eq!(resets([&stream[2..]]).len(), 1);
    }
}
