//! Where a server's replies end, in RESP2 and RESP3.
//!
//! There is no tree and no recursion: a reply is over when as many elements have come as are due, and whatever has a
//! length is skipped by it. A null is one element, an array of n is n more, a map twice as many, an attribute is none
//! itself. Bytes are followed where they lie, in whatever pieces they come; none are kept but a reply's first ones.
//! What is not RESP as servers write it ends the following, for good.

use super::NotReply;

/// So much of a reply's beginning is known when it is over: enough for the first word of an error, and for the kind of
/// what a subscriber gets (`*3\r\n$12\r\npunsubscribe\r\n`).
pub const HEAD: usize = 24;

/// What one server has said so far.
#[derive(Debug, Default)]
pub struct Replies {
    /// Elements that are still to come of the reply under way; 0 between replies.
    due: u64,
    /// The number that is being read, or how many bytes are still to be skipped.
    number: u64,
    at: At,
    /// Digits of the number.
    digits: u8,
    /// Whether the number is the -1 of a null.
    is_null: bool,
    /// Whether the reply's own first byte, behind its attributes, has been read.
    is_open: bool,
    is_push: bool,
    errors: Errors,
    /// The beginning of a reply that came in several pieces.
    head: [u8; HEAD],
    head_length: u8,
}

/// What becomes of errors inside of other replies.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Errors {
    /// They are part of these, like any other element.
    #[default]
    Elements,
    /// Each is a step of its own.
    Steps,
    /// The same, and one of them has begun.
    Step,
}

/// What the next byte is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The first of an element.
    #[default]
    Element,
    /// Part of a line, and the line feed behind it.
    Line,
    LineEnd,
    /// Part of the number of that kind of element.
    Number(Kind),
    NumberEnd(Kind),
    /// Bytes that have a length, and the line ending behind them.
    Bytes,
    BytesReturn,
    BytesEnd,
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bytes,
    Elements,
    Pairs,
    /// Pairs of an attribute, which is no element.
    Attributes,
}

/// What has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// The reply to a command.
    Reply,
    /// What a server says of its own accord (`>`).
    Push,
}

/// How far a server's bytes were followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// So many of them belong to one reply.
    pub length: usize,
    /// What ended with them.
    pub ended: Option<Frame>,
    /// Whether they are an error inside a reply, or part of one.
    pub is_error: bool,
}

impl Replies {
    /// Those of a server, of which errors inside other replies are steps of their own.
    pub fn telling_errors(tells_errors: bool) -> Self {
        let errors = if tells_errors { Errors::Steps } else { Errors::Elements };
        Self { errors, ..Self::default() }
    }

    /// Whether no reply is half there.
    pub fn is_between(&self) -> bool {
        self.due == 0
    }

    /// The first bytes of the reply that ended last, of which `last` are the ones that the step took.
    pub fn head<'a>(&'a self, last: &'a [u8]) -> &'a [u8] {
        match self.head_length {
            0 => &last[..last.len().min(HEAD)],
            length => &self.head[..usize::from(length)],
        }
    }

    /// Follows `bytes`, which came behind all those before, up to the end of one reply.
    // Inlined into the one loop that calls it for every reply.
    #[inline]
    pub fn follow(&mut self, bytes: &[u8]) -> Result<Step, NotReply> {
        // What most replies are: one short element, all there.
        if self.due == 0 {
            if let Some(length) = whole_element(bytes) {
                self.head_length = 0;
                return Ok(Step { length, ended: Some(Frame::Reply), is_error: false });
            }
            if bytes.is_empty() {
                return Ok(Step { length: 0, ended: None, is_error: false });
            }
            self.due = 1;
            self.is_open = false;
            self.is_push = false;
            self.head_length = 0;
        }
        self.follow_elements(bytes)
    }

    fn follow_elements(&mut self, bytes: &[u8]) -> Result<Step, NotReply> {
        let mut position = 0;
        while self.due > 0 {
            if self.at == At::Element && self.is_open {
                let due = self.skip_whole(bytes, &mut position);
                if due == 0 {
                    break;
                }
                if self.errors == Errors::Steps && bytes.get(position) == Some(&b'-') {
                    if position > 0 {
                        return Ok(self.part(&bytes[..position], false));
                    }
                    self.errors = Errors::Step;
                }
            }
            let Some(&byte) = bytes.get(position) else {
                return Ok(self.part(bytes, self.errors == Errors::Step));
            };
            position += self.element(byte, &bytes[position..])?;
            if self.errors == Errors::Step && self.at == At::Element {
                self.errors = Errors::Steps;
                if self.due > 0 {
                    return Ok(self.part(&bytes[..position], true));
                }
                self.keep_head(&bytes[..position]);
                return Ok(Step { length: position, ended: Some(self.kind()), is_error: true });
            }
        }
        if self.head_length > 0 {
            self.keep_head(&bytes[..position]);
        }
        Ok(Step { length: position, ended: Some(self.kind()), is_error: false })
    }

    fn kind(&self) -> Frame {
        if self.is_push { Frame::Push } else { Frame::Reply }
    }

    /// A step that ends inside a reply.
    fn part(&mut self, bytes: &[u8], is_error: bool) -> Step {
        self.keep_head(bytes);
        Step { length: bytes.len(), ended: None, is_error }
    }

    /// Skips elements that lie whole in the bytes, as most of most replies do; returns how many are still due.
    fn skip_whole(&mut self, bytes: &[u8], position: &mut usize) -> u64 {
        let (mut at, mut due) = (*position, self.due);
        // Elements to measure before the next look for a pattern: after one that did not hold some more.
        let mut until_look = 2;
        let mut before = None;
        while due > 0
            && let Some(length) = whole_element(&bytes[at..])
        {
            let like = if until_look <= 2 { Like::of(bytes, at, length) } else { None };
            at += length;
            due -= 1;
            until_look -= 1;
            if until_look > 0 {
                before = like;
                continue;
            }
            until_look = 16;
            if let (Some(one), Some(other)) = (before, like) {
                let pairs = one.alternates(&other, &bytes[at - 2..], due / 2);
                at += pairs * (one.length + other.length);
                due -= 2 * pairs as u64;
                if pairs > 0 {
                    until_look = 2;
                }
            }
        }
        (*position, self.due) = (at, due);
        due
    }

    fn keep_head(&mut self, bytes: &[u8]) {
        let from = usize::from(self.head_length);
        let length = bytes.len().min(HEAD - from);
        self.head[from..from + length].copy_from_slice(&bytes[..length]);
        // At most HEAD.
        self.head_length += u8::try_from(length).unwrap_or_default();
    }

    /// Goes on by at least one byte, the first of `bytes`; returns by how many.
    fn element(&mut self, byte: u8, bytes: &[u8]) -> Result<usize, NotReply> {
        match self.at {
            At::Element => self.begin(byte)?,
            At::Line => {
                let length = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
                let Some(length) = length else { return Ok(bytes.len()) };
                if bytes[length] == b'\n' {
                    return Err(NotReply);
                }
                self.at = At::LineEnd;
                return Ok(length + 1);
            }
            At::LineEnd | At::BytesEnd => {
                expect(byte, b'\n')?;
                self.end_element();
            }
            At::Number(kind) => self.digit(byte, kind)?,
            At::NumberEnd(kind) => {
                expect(byte, b'\n')?;
                self.counted(kind)?;
            }
            At::Bytes => {
                let length = usize::try_from(self.number).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.number -= length as u64;
                if self.number == 0 {
                    self.at = At::BytesReturn;
                }
                return Ok(length);
            }
            At::BytesReturn => {
                expect(byte, b'\r')?;
                self.at = At::BytesEnd;
            }
        }
        Ok(1)
    }

    /// The first byte of an element.
    fn begin(&mut self, byte: u8) -> Result<(), NotReply> {
        // An attribute's own elements are due beside the one that it belongs to.
        let is_first = !self.is_open && self.due == 1;
        let kind = match byte {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => None,
            b'$' | b'!' | b'=' => Some(Kind::Bytes),
            b'*' | b'~' => Some(Kind::Elements),
            b'%' => Some(Kind::Pairs),
            b'|' => Some(Kind::Attributes),
            b'>' if is_first => Some(Kind::Elements),
            _ => return Err(NotReply),
        };
        if is_first {
            self.is_open = byte != b'|';
            self.is_push = byte == b'>';
        }
        self.number = 0;
        self.digits = 0;
        self.is_null = false;
        self.at = kind.map_or(At::Line, At::Number);
        Ok(())
    }

    /// Takes a digit of a number as servers write them: no zeros in front, -1 for a null, and not beyond 63 bits.
    fn digit(&mut self, byte: u8, kind: Kind) -> Result<(), NotReply> {
        match byte {
            b'0'..=b'9' => {
                let starts_with_zero = self.digits > 0 && self.number == 0;
                let number =
                    self.number.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(byte - b'0')));
                let number = number.filter(|number| i64::try_from(*number).is_ok()).ok_or(NotReply)?;
                if starts_with_zero || self.is_null && byte != b'1' || self.is_null && self.digits > 0 {
                    return Err(NotReply);
                }
                self.number = number;
                self.digits += 1;
            }
            b'-' if self.digits == 0 && !self.is_null && matches!(kind, Kind::Bytes | Kind::Elements) => {
                self.is_null = true;
            }
            b'\r' if self.digits > 0 => self.at = At::NumberEnd(kind),
            _ => return Err(NotReply),
        }
        Ok(())
    }

    /// A number is complete.
    fn counted(&mut self, kind: Kind) -> Result<(), NotReply> {
        let due = match kind {
            _ if self.is_null => {
                self.end_element();
                return Ok(());
            }
            Kind::Bytes => {
                self.at = if self.number == 0 { At::BytesReturn } else { At::Bytes };
                return Ok(());
            }
            Kind::Elements => self.number.checked_add(self.due - 1),
            Kind::Pairs => self.number.checked_mul(2).and_then(|items| items.checked_add(self.due - 1)),
            Kind::Attributes => self.number.checked_mul(2).and_then(|items| items.checked_add(self.due)),
        };
        self.due = due.ok_or(NotReply)?;
        self.at = At::Element;
        Ok(())
    }

    fn end_element(&mut self) {
        self.due -= 1;
        self.at = At::Element;
    }
}

/// What a bulk string of a certain length looks like.
///
/// Elements of one length stand in rows in most replies, or two lengths take turns, as fields and values do. A string
/// that has the same header as one before is as long, so that the processor need not wait for a number to know where the
/// next begins.
#[derive(Clone, Copy)]
struct Like {
    /// The line ending of what stands before it, and its header; and which of eight bytes belong to these.
    mark: u64,
    mask: u64,
    /// Of the whole element, in bytes.
    length: usize,
}

impl Like {
    /// Of an element that lies there, if it is a string with a short header.
    #[inline]
    fn of(bytes: &[u8], at: usize, length: usize) -> Option<Self> {
        let [kind, one, two, three, four, five] = *bytes.get(at..)?.first_chunk::<6>()?;
        let begin = [b'\r', b'\n', kind, one, two, three, four, five];
        let end = begin.iter().skip(3).position(|byte| *byte == b'\n')?;
        let mask = u64::MAX >> (32 - 8 * end);
        (kind == b'$').then_some(Self { mark: u64::from_le_bytes(begin) & mask, mask, length })
    }

    /// Whether the element that has stood before these bytes' third one has ended, and one like this begins there.
    #[inline]
    fn is_at(&self, bytes: &[u8]) -> bool {
        bytes.first_chunk().is_some_and(|begin| u64::from_le_bytes(*begin) & self.mask == self.mark)
    }

    /// How often, and at most so often, the bytes go on with two like this one and the other. `bytes` begin with the line
    /// ending of the element before, which is known to be one.
    // Not inlined, so that all of it stays in registers.
    #[inline(never)]
    fn alternates(&self, other: &Self, bytes: &[u8], most: u64) -> usize {
        let pair = self.length + other.length;
        let (mut at, mut pairs) = (0, 0);
        while pairs < most
            && bytes.get(at..).is_some_and(|rest| self.is_at(rest))
            && bytes.get(at + self.length..).is_some_and(|rest| other.is_at(rest))
        {
            at += pair;
            pairs += 1;
        }
        // The next one's mark would have told.
        let is_ended = bytes.get(at..at + 2) == Some(b"\r\n");
        let pairs = at / pair;
        pairs - usize::from(pairs > 0 && !is_ended)
    }
}

fn expect(byte: u8, expected: u8) -> Result<(), NotReply> {
    if byte == expected { Ok(()) } else { Err(NotReply) }
}

/// How long the element is that the bytes begin with, if it is one of the usual kinds and lies whole in them.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "one comes with every element, and a call costs as much as the element"
)]
fn whole_element(bytes: &[u8]) -> Option<usize> {
    let length = match bytes {
        [b'$', one @ b'0'..=b'9', b'\r', b'\n', ..] => 4 + usize::from(one - b'0'),
        [b'$', ten @ b'1'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', ..] => {
            5 + usize::from(ten - b'0') * 10 + usize::from(one - b'0')
        }
        [b'$', b'1'..=b'9', ..] => long_bulk(bytes)?,
        [b':' | b'+', ..] => {
            // A short line; a longer one is followed in another way.
            let line = &bytes[..bytes.len().min(64)];
            let end = line.iter().position(|byte| *byte < b' ')?;
            return (bytes.get(end..end + 2)? == b"\r\n").then_some(end + 2);
        }
        // What is not there.
        [b'$' | b'*', b'-', b'1', b'\r', b'\n', ..] => return Some(5),
        [b'_', b'\r', b'\n', ..] => return Some(3),
        _ => return None,
    };
    (bytes.get(length..length + 2)? == b"\r\n").then_some(length + 2)
}

/// Where a bulk string with a length of three digits or more ends, without its line ending.
fn long_bulk(bytes: &[u8]) -> Option<usize> {
    // As many as never are too much for 32 bits.
    const DIGITS: usize = 9;
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().skip(1).take(DIGITS + 1) {
        match byte {
            b'0'..=b'9' if index <= DIGITS => number = number * 10 + usize::from(byte - b'0'),
            b'\r' if bytes.get(index + 1) == Some(&b'\n') => return Some(number + index + 2),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where replies and pushes end in a stream that comes in these pieces, and their heads; and whether it is lost.
    fn ends<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(usize, Frame, Vec<u8>)>, bool) {
        let pieces: Vec<_> = pieces.into_iter().collect();
        let ends = ends_of(Replies::default(), pieces.iter().copied());
        // They end where they end, with or without the errors in them.
        assert_eq!(ends_of(Replies::telling_errors(true), pieces.iter().copied()), ends);
        ends
    }

    fn ends_of<'a>(
        mut replies: Replies,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<(usize, Frame, Vec<u8>)>, bool) {
        let (mut ends, mut before) = (Vec::new(), 0);
        for piece in pieces {
            let mut at = 0;
            while at < piece.len() {
                let Ok(step) = replies.follow(&piece[at..]) else { return (ends, true) };
                let last = &piece[at..at + step.length];
                at += step.length;
                if let Some(frame) = step.ended {
                    ends.push((before + at, frame, replies.head(last).to_vec()));
                }
            }
            before += piece.len();
        }
        (ends, false)
    }

    fn assert_ends(stream: &[u8], expected: &[(usize, Frame)]) {
        for split in 0..=stream.len() {
            let (ends, lost) = ends([&stream[..split], &stream[split..]]);
            let found: Vec<_> = ends.iter().map(|(end, frame, _)| (*end, *frame)).collect();
            assert_eq!((&found[..], lost), (expected, false), "{}, split at {split}", stream.escape_ascii());
        }
        assert_eq!(ends(stream.chunks(1)), ends([stream]), "{}", stream.escape_ascii());
    }

    #[test]
    fn errors_inside_replies_are_told_in_whatever_pieces_they_come() {
        let stream = b"*3\r\n-ERR a\r\n$4\r\n-x\r\n\r\n*1\r\n-ERR b\r\n-ERR c\r\n+d\r\n";
        for size in 1..=stream.len() {
            let mut replies = Replies::telling_errors(true);
            let (mut errors, mut error) = (Vec::new(), Vec::new());
            for piece in stream.chunks(size) {
                let mut at = 0;
                while at < piece.len() {
                    let step = replies.follow(&piece[at..]).expect("replies");
                    let bytes = &piece[at..at + step.length];
                    at += step.length;
                    if step.is_error {
                        error.extend_from_slice(bytes);
                        if bytes.ends_with(b"\n") {
                            errors.push(std::mem::take(&mut error));
                        }
                    }
                }
            }
            assert_eq!(errors, [&b"-ERR a\r\n"[..], b"-ERR b\r\n"], "{size}");
        }
    }

    #[test]
    fn replies_of_every_kind_end_where_they_end() {
        for reply in [
            &b"+OK\r\n"[..],
            b"+\r\n",
            b"-ERR no\r\n",
            b":-12\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"$0\r\n\r\n",
            b"$7\r\n+OK\r\n:1\r\n",
            b"*0\r\n",
            b"*3\r\n$1\r\na\r\n$-1\r\n*2\r\n:1\r\n*0\r\n",
            b"%2\r\n+a\r\n:1\r\n+b\r\n%1\r\n+c\r\n*1\r\n_\r\n",
            b"~2\r\n#t\r\n,1.5\r\n",
            b"(123456789012345678901234567890\r\n",
            b"!5\r\nERR x\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"|1\r\n+ttl\r\n:1\r\n*1\r\n|1\r\n+a\r\n+b\r\n:1\r\n",
        ] {
            assert_ends(reply, &[(reply.len(), Frame::Reply)]);
            let twice = [reply, b">2\r\n+invalidate\r\n*1\r\n$1\r\na\r\n", reply].concat();
            let pushed = reply.len() + 28;
            let ends = [(reply.len(), Frame::Reply), (pushed, Frame::Push), (twice.len(), Frame::Reply)];
            assert_ends(&twice, &ends);
        }
        // Rows of one length, of two that take turns, and of ever other ones.
        let rows: [fn(usize) -> usize; 4] =
            [|_| 3, |index| [12, 0][index % 2], |index| index % 13, |index| index / 7];
        for row in rows {
            let strings = (0..60).map(|index| format!("${}\r\n{}\r\n", row(index), "\n".repeat(row(index))));
            let reply = format!("*60\r\n{}", strings.collect::<String>());
            assert_ends(reply.as_bytes(), &[(reply.len(), Frame::Reply)]);
        }
        let long = [&b"$100000\r\n"[..], &vec![b'x'; 100_000], b"\r\n"].concat();
        assert_eq!(ends([&long[..]]).0[0].0, long.len());
        assert_eq!(ends(long.chunks(4096)).0[0].0, long.len());
    }

    #[test]
    fn the_beginning_is_known_in_whatever_pieces_it_came() {
        let stream = b"*3\r\n$12\r\npunsubscribe\r\n$1\r\na\r\n:0\r\n-READONLY You can't\r\n";
        let (whole, _) = ends([&stream[..]]);
        assert_eq!(whole[0].2, &stream[..HEAD]);
        assert!(whole[1].2.starts_with(b"-READONLY "));
        assert_eq!(ends(stream.chunks(1)).0, whole);
    }

    #[test]
    fn what_no_server_writes_is_not_followed() {
        for stream in [
            &b"HTTP/1.1 200 OK\r\n"[..],
            b"\x15\x03\x01",
            b"+OK\n",
            b"+O\rK\r\n",
            b"$01\r\na\r\n",
            b"$-2\r\n",
            b"$-11\r\n",
            b"$--1\r\n",
            b"$\r\n",
            b"%-1\r\n",
            b"$+1\r\na\r\n",
            b"$?\r\n",
            b"*?\r\n",
            b"$3\r\nabcd\r\n",
            b"$9223372036854775808\r\n",
            b"*2\r\n*9223372036854775807\r\n*9223372036854775807\r\n*9223372036854775807\r\n",
            b"%9223372036854775807\r\n*9223372036854775807\r\n",
            b"*1\r\n>1\r\n:1\r\n",
            b"-ERR two\r\nlines\r\n",
        ] {
            for pieces in [1, 2, stream.len()] {
                assert!(ends(stream.chunks(pieces)).1, "{}", stream.escape_ascii());
            }
        }
    }

    #[test]
    fn a_row_is_followed_no_further_than_it_is_one() {
        let row = "$3\r\nabc\r\n$12\r\nabcdefghijkl\r\n".repeat(10);
        let reply = [b"*20\r\n", row.as_bytes()].concat();
        for (at, byte) in reply.iter().enumerate() {
            let mut other = reply.clone();
            // Values may hold anything; all else may not.
            other[at] = if byte.is_ascii_lowercase() { b'\r' } else { b'x' };
            assert_eq!(ends([&other[..]]).1, !byte.is_ascii_lowercase(), "{at}");
            assert_eq!(ends([&other[..]]), ends(other.chunks(1)), "{at}");
        }
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = [&b"*1\r\n".repeat(100_000)[..], b":1\r\n"].concat();
        assert_eq!(ends([&deep[..]]).0.len(), 1);
    }
}
