//! The little RESP that the ambassador itself speaks: commands out, replies in.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

pub mod auth;
pub mod cluster;
pub mod commands;
pub mod replies;

use bytes::{Buf, BytesMut};
use redis_protocol::resp2::decode::{decode_bytes, decode_bytes_mut};
use redis_protocol::resp2::types::BytesFrame;

use crate::secret::Secret;

/// The longest reply that is waited for, in bytes. The longest that a real server sends to AUTH or SELECT are the
/// 1101 bytes of protected mode.
pub const LONGEST_REPLY: usize = 8 * 1024;

/// Commands as RESP arrays of bulk strings: whatever bytes an argument holds, it can't become another command.
///
/// The result may hold a password, so it is a [`Secret`], and its buffer never grows.
pub fn commands(commands: &[Vec<&[u8]>]) -> Secret {
    let header = |kind: char, count: usize| format!("{kind}{count}\r\n");
    let bulk = |argument: &[u8]| header('$', argument.len()).len() + argument.len() + 2;
    let length = |command: &Vec<&[u8]>| {
        let arguments: usize = command.iter().map(|argument| bulk(argument)).sum();
        header('*', command.len()).len() + arguments
    };
    let mut bytes = Vec::with_capacity(commands.iter().map(length).sum());
    for command in commands {
        bytes.extend_from_slice(header('*', command.len()).as_bytes());
        for argument in command {
            bytes.extend_from_slice(header('$', argument.len()).as_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
    }
    Secret::new(bytes)
}

/// A reply of one line.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+…`
    Good,
    /// `-…`, without the dash.
    Error(String),
}

/// What came is not a reply of one line.
#[derive(Debug, PartialEq, Eq)]
pub struct NotReply;

/// Takes one reply off the front of `buffer`; `None` if it is not all there yet.
pub fn reply(buffer: &mut BytesMut) -> Result<Option<Reply>, NotReply> {
    match buffer.first() {
        None => return Ok(None),
        Some(b'+' | b'-') => {}
        // AUTH and SELECT have no other replies. The decoder, which would nest as deep as arrays do, never sees one.
        Some(_) => return Err(NotReply),
    }
    match decode_bytes_mut(buffer) {
        // In whatever pieces it comes, it may not be longer.
        Ok(Some((_, length, _))) if length > LONGEST_REPLY => Err(NotReply),
        Ok(Some((BytesFrame::SimpleString(_), ..))) => Ok(Some(Reply::Good)),
        Ok(Some((BytesFrame::Error(words), ..))) => Ok(Some(Reply::Error(words.to_string()))),
        Ok(None) if buffer.len() < LONGEST_REPLY => Ok(None),
        Ok(_) | Err(_) => Err(NotReply),
    }
}

/// Takes one reply of any kind off the front of `buffer`, to see whether it is good.
pub fn outcome(buffer: &mut BytesMut) -> Result<Option<Reply>, NotReply> {
    if buffer.first() == Some(&b'-') {
        return reply(buffer);
    }
    match length(buffer)? {
        Some(length) => {
            buffer.advance(length);
            Ok(Some(Reply::Good))
        }
        None if buffer.len() < LONGEST_OUTCOME => Ok(None),
        None => Err(NotReply),
    }
}

/// The longest reply to a HELLO: it lists the server's modules.
const LONGEST_OUTCOME: usize = 256 * 1024;

/// How deep arrays may lie in each other. HELLO's list of modules, with lists of arguments, is three deep; the decoder
/// would follow a stranger's arrays until the stack ends.
const DEEPEST: usize = 8;

/// Takes one reply of any kind off the front of `buffer`, if it is at most `longest` bytes; `None` if it is not all
/// there yet.
pub fn value(buffer: &mut BytesMut, longest: usize) -> Result<Option<BytesFrame>, NotReply> {
    match extent(buffer, DEEPEST)? {
        Some(length) if length <= longest => {
            let bytes = buffer.split_to(length).freeze();
            match decode_bytes(&bytes) {
                Ok(Some((frame, used))) if used == length => Ok(Some(frame)),
                _ => Err(NotReply),
            }
        }
        None if buffer.len() < longest => Ok(None),
        _ => Err(NotReply),
    }
}

/// How long the reply is that `bytes` begin with, in RESP2 or RESP3, if all of it is there.
fn length(bytes: &[u8]) -> Result<Option<usize>, NotReply> {
    extent(bytes, DEEPEST)
}

fn extent(bytes: &[u8], depth: usize) -> Result<Option<usize>, NotReply> {
    let Some(kind) = bytes.first() else {
        return Ok(None);
    };
    if !b"+-:$*_#,(!=%~".contains(kind) {
        return Err(NotReply);
    }
    let line = &bytes[..bytes.len().min(LONGEST_REPLY)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LONGEST_REPLY { Ok(None) } else { Err(NotReply) };
    };
    let after_line = end + 2;
    let number = || -> Result<Option<usize>, NotReply> {
        let digits = std::str::from_utf8(&bytes[1..end]).map_err(|_| NotReply)?;
        // -1 is null, which is all there.
        if digits == "-1" { Ok(None) } else { digits.parse().map(Some).map_err(|_| NotReply) }
    };
    match kind {
        b'$' | b'!' | b'=' => {
            let length = number()?.map_or(0, |length| length.saturating_add(2));
            let whole = after_line.saturating_add(length);
            Ok((whole <= bytes.len()).then_some(whole))
        }
        b'*' | b'~' | b'%' => {
            let Some(depth) = depth.checked_sub(1) else {
                return Err(NotReply);
            };
            let mut at = after_line;
            let items = number()?.unwrap_or_default();
            // A map has a key and a value for each.
            for _ in 0..items.saturating_mul(if *kind == b'%' { 2 } else { 1 }) {
                match extent(&bytes[at..], depth)? {
                    Some(length) => at += length,
                    None => return Ok(None),
                }
            }
            Ok(Some(at))
        }
        _ => Ok(Some(after_line)),
    }
}

/// The text of a reply, if it is one.
pub fn text(frame: &BytesFrame) -> Option<&str> {
    match frame {
        BytesFrame::SimpleString(bytes) | BytesFrame::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// The value that follows `name` in a flat list of names and values.
pub fn field<'a>(frame: &'a BytesFrame, name: &str) -> Option<&'a BytesFrame> {
    let BytesFrame::Array(items) = frame else {
        return None;
    };
    items.chunks_exact(2).find(|pair| text(&pair[0]) == Some(name)).map(|pair| &pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_bulk_strings_whatever_they_hold() {
        let sent = commands(&[vec![b"AUTH", b"a\r\n*1\r\n"], vec![b"SELECT", b"3"]]);
        assert_eq!(
            sent.expose(),
            b"*2\r\n$4\r\nAUTH\r\n$7\r\na\r\n*1\r\n\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"
        );
    }

    #[test]
    fn replies_are_taken_one_by_one_at_every_split_and_leave_the_rest() {
        let stream = b"+OK\r\n-ERR no\r\n$3\r\nabc\r\n";
        for split in 0..stream.len() {
            let mut buffer = BytesMut::new();
            let mut replies = Vec::new();
            for part in [&stream[..split], &stream[split..]] {
                buffer.extend_from_slice(part);
                while replies.len() < 2
                    && let Some(reply) = reply(&mut buffer).unwrap()
                {
                    replies.push(reply);
                }
            }
            assert_eq!(replies, [Reply::Good, Reply::Error("ERR no".into())]);
            assert_eq!(&buffer[..], b"$3\r\nabc\r\n");
        }
    }

    #[test]
    fn replies_of_any_kind_are_taken_at_every_split() {
        let stream = b"*4\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*1\r\n*0\r\n$-1\r\n*-1\r\n:7\r\n-ERR\r\n+x";
        for split in 0..stream.len() {
            let mut buffer = BytesMut::new();
            let mut values = Vec::new();
            for part in [&stream[..split], &stream[split..]] {
                buffer.extend_from_slice(part);
                while let Some(value) = value(&mut buffer, 1024).unwrap() {
                    values.push(value);
                }
            }
            assert_eq!(values.len(), 5);
            assert_eq!(field(&values[0], "role").and_then(text), Some("master"));
            assert_eq!(values[1], BytesFrame::Null);
            assert_eq!(values[4], BytesFrame::Error("ERR".into()));
            assert_eq!(&buffer[..], b"+x");
        }
    }

    #[test]
    fn arrays_without_end_are_no_replies() {
        let deep = b"*1\r\n".repeat(100_000);
        assert_eq!(value(&mut BytesMut::from(&deep[..]), 1024), Err(NotReply));
        for stream in
            [&b"*99999999999999999999\r\n"[..], b"$18446744073709551615\r\n", b"*x\r\n", b"HTTP/1.1"]
        {
            let mut buffer = BytesMut::from(stream);
            assert!(matches!(value(&mut buffer, 1024), Err(NotReply) | Ok(None)), "{stream:?}");
        }
        let mut long = BytesMut::from(&b"$2000\r\n"[..]);
        long.resize(1024, b'x');
        assert_eq!(value(&mut long, 1024), Err(NotReply));
    }

    #[test]
    fn other_protocols_and_endless_lines_are_no_replies() {
        for stream in [&b"HTTP/1.1 400"[..], b"\x15\x03\x01", b"*1\r\n", b":1\r\n", b"$-1\r\n"] {
            assert_eq!(reply(&mut BytesMut::from(stream)), Err(NotReply));
        }
        let mut endless = BytesMut::from(&b"+"[..]);
        endless.resize(LONGEST_REPLY - 1, b'x');
        assert_eq!(reply(&mut endless), Ok(None));
        endless.resize(LONGEST_REPLY, b'x');
        assert_eq!(reply(&mut endless), Err(NotReply));
    }

    #[test]
    fn a_line_that_is_too_long_is_none_even_if_it_comes_at_once() {
        let mut line = vec![b'+'];
        line.resize(LONGEST_REPLY - 2, b'x');
        line.extend_from_slice(b"\r\n");
        assert_eq!(reply(&mut BytesMut::from(&line[..])), Ok(Some(Reply::Good)));
        assert!(matches!(value(&mut BytesMut::from(&line[..]), 2 * LONGEST_REPLY), Ok(Some(_))));
        line.insert(1, b'x');
        assert_eq!(reply(&mut BytesMut::from(&line[..])), Err(NotReply));
        assert_eq!(value(&mut BytesMut::from(&line[..]), 2 * LONGEST_REPLY), Err(NotReply));
    }
}
