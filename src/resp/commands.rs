//! Where a client's commands end, and what they are.
//!
//! [`Commands`] follows the framing as Redis does (`processMultibulkBuffer`, `processInlineBuffer` and `sdssplitargs` in
//! its sources). A command is found once its name is there, and where it has to be looked at once all of it is; whoever
//! follows keeps the bytes up to then and shows them again with more. Arguments are skipped by their lengths. What is no
//! command to Redis ends the following for good; Redis itself closes such a connection. [`first`] takes a command apart,
//! for who has to know what it says.

mod table;

use std::borrow::Cow;

use self::table::Known;
pub use self::table::{Class, Special};

/// The longest inline command that Redis takes for sure, in bytes.
const LONGEST_LINE: u32 = 64 * 1024;

/// The longest command that is waited for to be looked at as a whole: a password and more. What is longer is found when it
/// begins.
const LONGEST_LOOK: usize = 32 * 1024;

/// The longest command that shares a connection with those of other clients, in bytes.
pub const LONGEST_TOGETHER: usize = 16 * 1024;

/// The most arguments that every version of Redis takes. Some refuse more before there is a name, so it is not waited for.
const MANY_ARGUMENTS: i64 = 1024 * 1024;

/// No name of a command is longer.
const LONGEST_NAME: usize = 64;

/// Stands for any argument that is too long for a name.
const NO_NAME: &[u8] = &[0; LONGEST_NAME + 1];

/// Redis' own limit on an argument's bytes (`proto-max-bulk-len`), by default.
const LONGEST_ARGUMENT: usize = 512 * 1024 * 1024;

/// What a client's bytes begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A command of which there is not enough yet. Nothing is taken; it has to be shown again with more.
    Partial,
    /// An empty line or array, so long, to which nobody answers.
    Nothing(usize),
    /// A whole command, and how long it is.
    Whole(Class, usize),
    /// The beginning of a command: all that there is.
    Begun(Class),
    /// So many more bytes of a command that was begun.
    More(usize),
}

/// What came is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCommand;

/// What is left of a command whose beginning has been found.
#[derive(Debug, Default)]
pub struct Commands {
    /// Arguments that are still to come.
    arguments: u32,
    at: At,
    /// Digits of the number that is being read.
    digits: u8,
    /// The number, or how much of an argument is still to come.
    number: u64,
}

/// What the next byte is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The `$` of an argument.
    #[default]
    Argument,
    /// Part of its length.
    Length,
    LengthEnd,
    /// Its bytes, and the line ending behind them.
    Bytes,
    BytesReturn,
    BytesEnd,
}

impl Commands {
    /// Whether no command was begun that has not ended.
    pub fn is_between(&self) -> bool {
        self.arguments == 0
    }

    /// So many bytes are still to come of it at the least.
    pub fn rest(&self) -> usize {
        if self.at == At::Bytes { usize::try_from(self.number).unwrap_or(usize::MAX) } else { 0 }
    }

    /// Finds what comes next. `bytes` are not empty, and follow what was taken before.
    // Inlined into the one loop that calls it for every command.
    #[inline]
    pub fn find(&mut self, bytes: &[u8]) -> Result<Found, NoCommand> {
        if self.arguments == 0
            && let Some((name, length)) = whole_array(bytes)
            && let Known::Class(class) = table::lookup(name)
        {
            return Ok(Found::Whole(class, length));
        }
        self.find_slowly(bytes)
    }

    fn find_slowly(&mut self, bytes: &[u8]) -> Result<Found, NoCommand> {
        if self.arguments > 0 {
            let length = self.follow(bytes)?;
            return Ok(Found::More(length));
        }
        if bytes.first() != Some(&b'*') {
            return find_line(bytes);
        }
        let Some((count, header)) = number(bytes, "").map_err(|_| NoCommand)? else {
            return Ok(Found::Partial);
        };
        // Any negative one is a null array.
        if count <= 0 {
            return Ok(Found::Nothing(header));
        }
        if count > i64::from(i32::MAX) {
            return Err(NoCommand);
        }
        let class = match class(bytes, header)? {
            Some(class) => class,
            None if bytes.len() < LONGEST_LOOK && count <= MANY_ARGUMENTS => return Ok(Found::Partial),
            None => Class::Unknown,
        };
        self.arguments = u32::try_from(count).map_err(|_| NoCommand)?;
        let length = header + self.follow(&bytes[header..])?;
        if self.is_between() {
            return Ok(Found::Whole(class, length));
        }
        if matches!(class, Class::Special(_)) && bytes.len() < LONGEST_LOOK {
            *self = Self::default();
            return Ok(Found::Partial);
        }
        Ok(Found::Begun(class))
    }

    /// Follows an array up to its end; returns how many bytes of it there are.
    fn follow(&mut self, bytes: &[u8]) -> Result<usize, NoCommand> {
        let mut position = 0;
        while let Some(&byte) = bytes.get(position)
            && self.arguments > 0
        {
            if self.at == At::Argument
                && let Some((length, start)) = short_number(bytes, b'$', position)
                && bytes.get(start + length..start + length + 2) == Some(b"\r\n")
            {
                position = start + length + 2;
                self.arguments -= 1;
                continue;
            }
            position += 1;
            match self.at {
                At::Argument => {
                    self.number = 0;
                    self.digits = 0;
                    self.expect(byte, b'$', At::Length)?;
                }
                At::Length => match byte {
                    b'\r' if self.digits > 0 => self.at = At::LengthEnd,
                    byte => self.digit(byte)?,
                },
                At::LengthEnd => {
                    let next = if self.number == 0 { At::BytesReturn } else { At::Bytes };
                    self.expect(byte, b'\n', next)?;
                }
                At::Bytes => {
                    let here = (bytes.len() - position + 1) as u64;
                    let skipped = self.number.min(here);
                    self.number -= skipped;
                    // No more than there are bytes.
                    position += usize::try_from(skipped - 1).unwrap_or_default();
                    if self.number == 0 {
                        self.at = At::BytesReturn;
                    }
                }
                At::BytesReturn => self.expect(byte, b'\r', At::BytesEnd)?,
                At::BytesEnd => {
                    self.expect(byte, b'\n', At::Argument)?;
                    self.arguments -= 1;
                }
            }
        }
        Ok(position)
    }

    /// Takes a digit of a number as Redis writes them itself: no zeros in front, and not beyond 63 bits.
    fn digit(&mut self, byte: u8) -> Result<(), NoCommand> {
        let starts_with_zero = self.digits > 0 && self.number == 0;
        let number = self.number.saturating_mul(10).saturating_add(u64::from(byte.wrapping_sub(b'0')));
        if !byte.is_ascii_digit() || starts_with_zero || i64::try_from(number).is_err() {
            return Err(NoCommand);
        }
        self.number = number;
        self.digits += 1;
        Ok(())
    }

    fn expect(&mut self, byte: u8, expected: u8, next: At) -> Result<(), NoCommand> {
        if byte != expected {
            return Err(NoCommand);
        }
        self.at = next;
        Ok(())
    }
}

/// What the array is, if so much of it is there.
fn class(bytes: &[u8], header: usize) -> Result<Option<Class>, NoCommand> {
    let Some((name, next)) = argument(bytes, header)? else { return Ok(None) };
    if name.len() > LONGEST_NAME {
        return Ok(Some(Class::Unknown));
    }
    match table::lookup(name) {
        Known::Class(class) => Ok(Some(class)),
        Known::Container if bytes.starts_with(b"*1\r") => Ok(Some(Class::Other)),
        Known::Container => {
            Ok(argument(bytes, next)?.map(|(subcommand, _)| table::subcommand(name, subcommand)))
        }
    }
}

/// An inline command.
fn find_line(bytes: &[u8]) -> Result<Found, NoCommand> {
    let arguments = match line(bytes) {
        Ok(First::Command(arguments, length)) => (arguments, length),
        Ok(_) => return Ok(Found::Partial),
        Err(_) => return Err(NoCommand),
    };
    let (arguments, length) = arguments;
    let class = match &arguments[..] {
        [] => return Ok(Found::Nothing(length)),
        [name, rest @ ..] => match (table::lookup(name), rest.first()) {
            (Known::Class(class), _) => class,
            (Known::Container, Some(subcommand)) => table::subcommand(name, subcommand),
            (Known::Container, None) => Class::Other,
        },
    };
    Ok(Found::Whole(class, length))
}

/// The argument that begins there, if all of it is there, and where the next one begins.
fn argument(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, NoCommand> {
    match bytes.get(at) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(_) => return Err(NoCommand),
    }
    let Some((length, header)) = number(&bytes[at..], "").map_err(|_| NoCommand)? else { return Ok(None) };
    let start = at + header;
    let length = usize::try_from(length).map_err(|_| NoCommand)?;
    if length > LONGEST_NAME {
        // Whatever it is, it is no name; and Redis refuses the longest.
        return if length > LONGEST_ARGUMENT { Err(NoCommand) } else { Ok(Some((NO_NAME, start))) };
    }
    let Some(ending) = bytes.get(start + length..start + length + 2) else { return Ok(None) };
    if ending != b"\r\n" {
        return Err(NoCommand);
    }
    Ok(Some((&bytes[start..start + length], start + length + 2)))
}

/// The name and the length of the array of arguments that the bytes begin with, if all of it is there.
#[inline]
fn whole_array(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (count, start) = short_number(bytes, b'*', 0)?;
    let (length, start) = short_number(bytes, b'$', start)?;
    let mut at = start + length + 2;
    if length > LONGEST_NAME || bytes.get(at - 2..at)? != b"\r\n" {
        return None;
    }
    let name = &bytes[start..start + length];
    for _ in 1..count {
        let (length, start) = short_number(bytes, b'$', at)?;
        at = start + length + 2;
        if bytes.get(at - 2..at)? != b"\r\n" {
            return None;
        }
    }
    Some((name, at))
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

/// What Redis takes from all others, and more.
pub const UNLIMITED: Limits = Limits { arguments: i32::MAX as i64, length: i64::MAX };

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

    /// The ends of all commands in a stream that comes in these pieces, what they are, and whether it is lost.
    fn commands<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(usize, Class)>, bool) {
        let (mut commands, mut ends, mut before) = (Commands::default(), Vec::new(), 0);
        let (mut kept, mut begun) = (Vec::new(), None);
        for piece in pieces {
            kept.extend_from_slice(piece);
            while !kept.is_empty() {
                let (length, ended) = match commands.find(&kept) {
                    Err(NoCommand) => return (ends, true),
                    Ok(Found::Partial) => break,
                    Ok(Found::Nothing(length)) => (length, None),
                    Ok(Found::Whole(class, length)) => (length, Some(class)),
                    Ok(Found::Begun(class)) => {
                        begun = Some(class);
                        (kept.len(), None)
                    }
                    Ok(Found::More(length)) => (length, begun.take_if(|_| commands.is_between())),
                };
                assert!(length > 0 && length <= kept.len());
                kept.drain(..length);
                before += length;
                ends.extend(ended.map(|class| (before, class)));
            }
        }
        (ends, false)
    }

    /// The same by the parser that has the whole stream and takes commands apart.
    fn reference(stream: &[u8]) -> Vec<usize> {
        let limits = Limits { arguments: i32::MAX.into(), length: i64::MAX };
        let (mut ends, mut at) = (Vec::new(), 0);
        while let First::Command(arguments, length) = first(&stream[at..], limits) {
            at += length;
            ends.extend((!arguments.is_empty()).then_some(at));
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
            Just(b"GET".to_vec()),
            Just(b"config".to_vec()),
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
        fn commands_are_those_that_redis_sees_in_whatever_pieces_they_come(
            said in proptest::collection::vec(said(), 0..12),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream = said.concat();
            let (found, lost) = commands([&stream[..]]);
            prop_assert_eq!(found.iter().map(|(end, _)| *end).collect::<Vec<_>>(), reference(&stream));
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            for again in [
                commands(cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]])),
                commands(stream.chunks(1)),
            ] {
                prop_assert_eq!(&again, &(found.clone(), lost));
            }
        }
    }

    #[test]
    fn a_reset_is_found_where_it_ends() {
        for (ends, stream) in labelled("commands/resets.txt") {
            let ends: Vec<usize> =
                ends.split_whitespace().map(|end| end.parse().expect("a number")).collect();
            let (found, _) = commands([&stream[..]]);
            let reset = Class::Special(Special::Reset);
            let limits = Limits { arguments: i32::MAX.into(), length: i64::MAX };
            let mut resets = Vec::new();
            let mut begin = 0;
            for (end, class) in found {
                let is_alone =
                    matches!(first(&stream[begin..], limits), First::Command(words, _) if words.len() == 1);
                resets.extend((class == reset && is_alone).then_some(end));
                begin = end;
            }
            assert_eq!(resets, ends, "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn a_line_without_end_is_not_followed() {
        let mut stream = vec![b'x'; LONGEST_LINE as usize + 1];
        stream.extend_from_slice(b"\nRESET\r\n");
        assert!(commands([&stream[..]]).1);
        assert_eq!(commands([&stream[2..]]).0.len(), 2);
    }

    #[test]
    fn a_long_command_is_found_by_its_beginning() {
        let mut commands = Commands::default();
        let begun = b"*3\r\n$3\r\nSET\r\n$1\r\nk";
        assert_eq!(commands.find(begun), Ok(Found::Begun(Class::Writes)));
        assert!(!commands.is_between());
        assert_eq!(commands.find(b"\r\n$5\r\nval"), Ok(Found::More(9)));
        assert_eq!(commands.find(b"ue\r\nPING\r\n"), Ok(Found::More(4)));
        assert_eq!(commands.find(b"*2\r\n$4\r\nAUTH\r\n"), Ok(Found::Partial));
        assert_eq!(commands.find(b"*3\r\n$6\r\nCONFIG\r\n$3\r\nG"), Ok(Found::Partial));
        let begun = b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n";
        assert_eq!(commands.find(begun), Ok(Found::Begun(Class::Reads)));
    }
}
