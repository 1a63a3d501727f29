//! A client that takes reply by reply, and can tell an end from a wrong reply.

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::{Dice, Peer};

/// More than this is said by a thread of its own, so that the replies to the first half are read meanwhile.
const AT_ONCE: usize = 16 * 1024;

/// A connection, and what has been heard on it and not been taken yet.
pub(super) struct Wire {
    peer: Peer,
    heard: Vec<u8>,
    speaker: Option<JoinHandle<()>>,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Trouble {
    /// The connection is over, amid a reply or between two.
    Over { amid: bool },
    /// Nothing comes any more; these bytes did.
    Silence(String),
    /// These bytes are no reply.
    Nonsense(String),
}

impl Wire {
    pub(super) fn connect(address: SocketAddr) -> Self {
        Self { peer: Peer::connect(address), heard: Vec::new(), speaker: None }
    }

    /// Says all in one piece.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.say_in_pieces(vec![bytes.to_vec()]);
    }

    /// Says all, cut at a few places that chance has chosen.
    pub(super) fn say_cut(&mut self, bytes: &[u8], dice: &mut Dice) {
        // Half of what clients say comes in one piece.
        let count = if dice.percent(50) { 0 } else { 1 + dice.below(4) };
        let mut cuts: Vec<_> = (0..count).map(|_| dice.below(bytes.len().max(1))).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut from = 0;
        let pieces = cuts.into_iter().map(|cut| {
            let piece = bytes[from..cut].to_vec();
            from = cut;
            piece
        });
        self.say_in_pieces(pieces.collect());
    }

    /// Says one piece after the other. Where the other side takes no more, its replies tell why.
    fn say_in_pieces(&mut self, pieces: Vec<Vec<u8>>) {
        let len: usize = pieces.iter().map(Vec::len).sum();
        let mut peer = self.peer.handle();
        let count = pieces.len();
        let speak = move || {
            for (number, piece) in pieces.into_iter().enumerate() {
                if peer.try_send(&piece).is_err() {
                    return;
                }
                if number + 1 < count {
                    // So that the next one comes as a piece of its own.
                    thread::sleep(Duration::from_micros(300));
                }
            }
        };
        self.wait_until_said();
        if len > AT_ONCE {
            self.speaker = Some(thread::spawn(speak));
        } else {
            speak();
        }
    }

    fn wait_until_said(&mut self) {
        if let Some(speaker) = self.speaker.take() {
            speaker.join().expect("a speaker");
        }
    }

    /// The next reply or push, all its bytes.
    pub(super) fn hear(&mut self) -> Result<Vec<u8>, Trouble> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match reply_len(&self.heard) {
                Ok(Some(len)) => {
                    let rest = self.heard.split_off(len);
                    return Ok(std::mem::replace(&mut self.heard, rest));
                }
                Ok(None) => {}
                Err(NoReply) => return Err(Trouble::Nonsense(show(&self.heard))),
            }
            match self.peer.read(&mut chunk) {
                Ok(len @ 1..) => self.heard.extend(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(Trouble::Silence(show(&self.heard)));
                }
                _ => return Err(Trouble::Over { amid: !self.heard.is_empty() }),
            }
        }
    }

    /// The end of all that is said; replies still come.
    pub(super) fn finish_sending(&mut self) {
        self.wait_until_said();
        // The other side may have gone already.
        let _ = self.peer.try_finish_sending();
    }

    /// Reads so many bytes more at most, whatever they are, and is gone, with a reset or without.
    pub(super) fn vanish(mut self, bytes: usize, resets: bool) {
        // They may have come already.
        if bytes > 0 && self.heard.is_empty() {
            let _ = self.peer.read(&mut vec![0; bytes]);
        }
        if resets {
            self.peer.reset();
        }
    }
}

/// What can't be framed.
#[derive(Debug, PartialEq)]
struct NoReply;

/// How long the reply is with which these bytes begin, where all of it is there.
fn reply_len(bytes: &[u8]) -> Result<Option<usize>, NoReply> {
    let (mut at, mut due) = (0, 1_usize);
    while due > 0 {
        let Some(line) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
        let kind = line[0];
        if !b"+-:_#,($=!*~>%|".contains(&kind) {
            return Err(NoReply);
        }
        let Some(end) = line.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        at += end + 2;
        due -= 1;
        if b"+-:_#,(".contains(&kind) {
            continue;
        }
        let number = std::str::from_utf8(&line[1..end]).ok().and_then(|text| text.parse::<i64>().ok());
        let number = number.filter(|number| *number >= -1).ok_or(NoReply)?;
        // A null has nothing behind it.
        let Ok(number) = usize::try_from(number) else { continue };
        match kind {
            b'*' | b'~' | b'>' => due += number,
            b'%' => due += 2 * number,
            // What comes with a reply, and is none.
            b'|' => due += 2 * number + 1,
            _ => {
                at += number + 2;
                if bytes.get(at - 2..at).is_some_and(|end| end != b"\r\n") {
                    return Err(NoReply);
                }
            }
        }
    }
    Ok((at <= bytes.len()).then_some(at))
}

/// Bytes for a person to read: their beginning, and how many they are.
pub(super) fn show(bytes: &[u8]) -> String {
    const MOST: usize = 160;
    let begin = bytes[..bytes.len().min(MOST)].escape_ascii();
    if bytes.len() > MOST { format!("{begin}… ({} bytes)", bytes.len()) } else { begin.to_string() }
}

/// The tests stand on it.
#[test]
fn a_reply_is_all_its_bytes() {
    for reply in [
        &b"+OK\r\n"[..],
        b":1\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$4\r\n\r\n+O\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
        b"%1\r\n+a\r\n*2\r\n_\r\n#t\r\n",
        b">3\r\n$1\r\na\r\n$1\r\nb\r\n:1\r\n",
        b"|1\r\n+a\r\n+b\r\n,1.5\r\n",
    ] {
        assert_eq!(reply_len(reply), Ok(Some(reply.len())));
        assert_eq!(reply_len(&[reply, b"+next"].concat()), Ok(Some(reply.len())));
        for cut in 0..reply.len() {
            assert_eq!(reply_len(&reply[..cut]), Ok(None), "{}", show(&reply[..cut]));
        }
    }
    for nonsense in [&b"PING\r\n"[..], b"$x\r\n", b"*-2\r\n", b"$1\r\nabc\r\n", b"\r\n"] {
        assert_eq!(reply_len(nonsense), Err(NoReply), "{}", show(nonsense));
    }
}
