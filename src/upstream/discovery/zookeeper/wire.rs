//! ZooKeeper's protocol, as far as a reader of nodes needs it: *jute* records, each in a frame behind its length.
//!
//! Numbers are big-endian; a string or a buffer is a length of 32 bits and its bytes.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use zeroize::Zeroizing;

/// The longest frame of a server, in bytes: a list of ten thousand nodes with names of 400 letters.
pub const LONGEST: usize = 4 * 1024 * 1024;

/// Bytes that are none of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct NotZooKeeper;

/// The number of a request, which its reply repeats. Some have a fixed one.
pub type Xid = i32;
const EVENT: Xid = -1;
const PING: Xid = -2;
pub const AUTH: Xid = -4;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    Exists = 3,
    Data = 4,
    Children = 8,
    /// Makes the server as current as the leader of its ensemble.
    Sync = 9,
}

/// The first frame of a client: a new session, whose server may forget it after so long a silence.
pub fn connect(timeout: Duration) -> Vec<u8> {
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let mut record = Vec::new();
    record.extend(0_i32.to_be_bytes());
    // The last change that was seen: none.
    record.extend(0_i64.to_be_bytes());
    record.extend(timeout.to_be_bytes());
    // No session so far, and the password of none.
    record.extend(0_i64.to_be_bytes());
    put(&mut record, &[0; 16]);
    record.push(u8::from(false));
    framed(&record)
}

/// Asks about a node, and has what is asked for watched: its next change leads to an event.
pub fn request(xid: Xid, operation: Operation, path: &str) -> Vec<u8> {
    let mut record = Vec::new();
    record.extend(xid.to_be_bytes());
    record.extend((operation as i32).to_be_bytes());
    put(&mut record, path.as_bytes());
    if !matches!(operation, Operation::Sync) {
        record.push(u8::from(true));
    }
    framed(&record)
}

/// Shows who we are: `USER:PASSWORD`.
pub fn digest(credentials: &[u8]) -> Zeroizing<Vec<u8>> {
    const OPERATION: i32 = 100;
    const SCHEME: &[u8] = b"digest";
    let length = 5 * size_of::<i32>() + SCHEME.len() + credentials.len();
    // Allocated at its final size: growing would leave parts of a password in memory.
    let mut frame = Zeroizing::new(Vec::with_capacity(size_of::<i32>() + length));
    frame.extend(length_of(length));
    frame.extend(AUTH.to_be_bytes());
    frame.extend(OPERATION.to_be_bytes());
    frame.extend(0_i32.to_be_bytes());
    put(&mut frame, SCHEME);
    put(&mut frame, credentials);
    frame
}

pub fn ping() -> Vec<u8> {
    const OPERATION: i32 = 11;
    framed(&[PING.to_be_bytes(), OPERATION.to_be_bytes()].concat())
}

fn put(record: &mut Vec<u8>, bytes: &[u8]) {
    record.extend(length_of(bytes.len()));
    record.extend(bytes);
}

fn framed(record: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(size_of::<i32>() + record.len());
    put(&mut frame, record);
    frame
}

/// Paths and passwords have bounds far below what does not fit.
fn length_of(length: usize) -> [u8; 4] {
    i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes()
}

/// Takes a whole frame off what was read; `None` if there is none yet.
pub fn frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, NotZooKeeper> {
    let Some(length) = buffer.first_chunk() else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| NotZooKeeper)?;
    if length > LONGEST {
        return Err(NotZooKeeper);
    }
    if buffer.len() - size_of::<i32>() < length {
        return Ok(None);
    }
    buffer.advance(size_of::<i32>());
    Ok(Some(buffer.split_to(length).freeze()))
}

/// The answer to [`connect`]: after how long a silence the server forgets the session; zero if it has begun none.
pub fn connected(mut frame: Bytes) -> Result<Duration, NotZooKeeper> {
    let _version = frame.try_get_i32().map_err(|_| NotZooKeeper)?;
    let timeout = frame.try_get_i32().map_err(|_| NotZooKeeper)?;
    let _session = frame.try_get_i64().map_err(|_| NotZooKeeper)?;
    u64::try_from(timeout).map(Duration::from_millis).map_err(|_| NotZooKeeper)
}

/// A frame of a server, later on.
#[derive(Debug)]
pub enum Said {
    /// The reply to a request: a record, or an error's number.
    Reply(Xid, Result<Bytes, i32>),
    /// The node of this path, which is watched, has changed.
    Changed(String),
    /// The session is over.
    Expired,
    /// What says only that the server is there.
    Nothing,
}

pub fn said(mut frame: Bytes) -> Result<Said, NotZooKeeper> {
    let xid = frame.try_get_i32().map_err(|_| NotZooKeeper)?;
    let _change = frame.try_get_i64().map_err(|_| NotZooKeeper)?;
    let error = frame.try_get_i32().map_err(|_| NotZooKeeper)?;
    match xid {
        PING => Ok(Said::Nothing),
        EVENT => event(frame),
        xid => Ok(Said::Reply(xid, if error == 0 { Ok(frame) } else { Err(error) })),
    }
}

fn event(mut frame: Bytes) -> Result<Said, NotZooKeeper> {
    /// Of the client's connection: its session has expired, what it showed of itself was refused.
    const ENDED: [i32; 2] = [-112, 4];
    let kind = frame.try_get_i32().map_err(|_| NotZooKeeper)?;
    let state = frame.try_get_i32().map_err(|_| NotZooKeeper)?;
    if ENDED.contains(&state) {
        return Ok(Said::Expired);
    }
    // A change of the session alone has no kind.
    if kind < 1 { Ok(Said::Nothing) } else { text(&mut frame).map(Said::Changed) }
}

/// The names in the reply to [`Operation::Children`].
pub fn children(mut frame: Bytes) -> Result<Vec<String>, NotZooKeeper> {
    let count = frame.try_get_i32().map_err(|_| NotZooKeeper)?;
    // Their number may be a lie; their bytes are there.
    (0..count).map(|_| text(&mut frame)).collect()
}

/// The node's data in the reply to [`Operation::Data`].
pub fn data(mut frame: Bytes) -> Result<Bytes, NotZooKeeper> {
    buffer(&mut frame)
}

fn text(frame: &mut Bytes) -> Result<String, NotZooKeeper> {
    String::from_utf8(buffer(frame)?.into()).map_err(|_| NotZooKeeper)
}

/// A buffer; the length -1 stands for none.
fn buffer(frame: &mut Bytes) -> Result<Bytes, NotZooKeeper> {
    let length = match frame.try_get_i32().map_err(|_| NotZooKeeper)? {
        -1 => 0,
        length => usize::try_from(length).map_err(|_| NotZooKeeper)?,
    };
    if length > frame.len() {
        return Err(NotZooKeeper);
    }
    Ok(frame.split_to(length))
}
