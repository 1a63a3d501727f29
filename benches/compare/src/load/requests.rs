//! Requests over connections that stay open: one thread, one epoll, the next batch as soon as the last is
//! answered.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Conversation, Latencies, PATIENCE, encode};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Get,
    Set,
    /// So many elements of a list.
    Lrange(usize),
    /// A hash of so many fields.
    Hgetall(usize),
}

impl Operation {
    /// Those of a single value.
    pub const SIMPLE: [Self; 2] = [Self::Get, Self::Set];
    /// Those whose replies have many parts.
    pub const NESTED: [Self; 3] = [Self::Lrange(100), Self::Lrange(600), Self::Hgetall(50)];
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get => write!(formatter, "GET"),
            Self::Set => write!(formatter, "SET"),
            Self::Lrange(number) => write!(formatter, "LRANGE {number} ×"),
            Self::Hgetall(number) => write!(formatter, "HGETALL {number} ×"),
        }
    }
}

/// An operation, and what is known of its reply.
pub struct Request {
    /// Gives the key what the operation expects there, however often it is sent.
    pub preparation: Vec<Vec<u8>>,
    bytes: Vec<u8>,
    reply_length: usize,
    reply_start: u8,
}

impl Request {
    /// With values of that size, under a key of its own.
    pub fn new(operation: Operation, size: usize) -> Self {
        let value = vec![b'x'; size];
        let bulk = |length: usize| format!("${length}\r\n\r\n").len() + length;
        let array = |length: usize| format!("*{length}\r\n").len();
        let command = |arguments: &[&[u8]]| arguments.iter().map(|argument| argument.to_vec()).collect();
        match operation {
            Operation::Get | Operation::Set => {
                let key = format!("value:{size}").into_bytes();
                let (bytes, reply_length, reply_start) = match operation {
                    Operation::Get => (encode(&[b"GET", &key]), bulk(size), b'$'),
                    _ => (encode(&[b"SET", &key, &value]), b"+OK\r\n".len(), b'+'),
                };
                let preparation = command(&[b"SET", &key, &value]);
                Self { preparation, bytes, reply_length, reply_start }
            }
            Operation::Lrange(number) => {
                let key = format!("list:{number}:{size}").into_bytes();
                let mut preparation = command(&[b"RPUSH", &key]);
                preparation.resize(2 + number, value);
                Self {
                    preparation,
                    bytes: encode(&[b"LRANGE", &key, b"0", (number - 1).to_string().as_bytes()]),
                    reply_length: array(number) + number * bulk(size),
                    reply_start: b'*',
                }
            }
            Operation::Hgetall(number) => {
                let key = format!("hash:{number}:{size}").into_bytes();
                let field = |index| format!("field:{index:04}").into_bytes();
                let mut preparation: Vec<_> = command(&[b"HSET", &key]);
                preparation.extend((0..number).flat_map(|index| [field(index), value.clone()]));
                Self {
                    preparation,
                    bytes: encode(&[b"HGETALL", &key]),
                    reply_length: array(2 * number) + number * (bulk(field(0).len()) + bulk(size)),
                    reply_start: b'*',
                }
            }
        }
    }
}

/// A pipeline of equal requests, and what is known of the replies.
///
/// Their number and length is known beforehand, so that replies are counted, not parsed: the generator should
/// cost little.
#[derive(Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    requests: usize,
    reply_length: usize,
    reply_start: u8,
}

impl Batch {
    pub fn new(request: &Request, pipeline: usize) -> Self {
        Self {
            bytes: request.bytes.repeat(pipeline),
            requests: pipeline,
            reply_length: request.reply_length * pipeline,
            reply_start: request.reply_start,
        }
    }
}

pub struct Outcome {
    pub requests: usize,
    pub elapsed: Duration,
    /// One for each batch, from its first byte sent to its last byte received.
    pub latencies: Latencies,
}

/// Connections that work through batches.
pub struct Generator {
    poll: Poll,
    connections: Vec<Connection>,
    batch: Batch,
    buffer: Vec<u8>,
}

struct Connection {
    stream: Conversation<TcpStream>,
    started: Instant,
    sent: usize,
    received: usize,
}

impl Generator {
    pub fn new(streams: Vec<Conversation>, batch: Batch) -> Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(streams.len());
        for (index, stream) in streams.into_iter().enumerate() {
            let mut stream = stream.map(|socket| {
                socket.set_nonblocking(true)?;
                Ok(TcpStream::from_std(socket))
            })?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(stream.socket_mut(), Token(index), interest)?;
            connections.push(Connection { stream, started: Instant::now(), sent: 0, received: 0 });
        }
        Ok(Self { poll, connections, batch, buffer: vec![0; 256 * 1024] })
    }

    /// Keeps every connection busy for that long and until there were that many batches, and waits for the last
    /// replies.
    pub fn run(&mut self, duration: Duration, batches: usize) -> Result<Outcome> {
        let mut latencies = Latencies::default();
        let start = Instant::now();
        for connection in &mut self.connections {
            connection.start(&self.batch)?;
        }
        let mut busy = self.connections.len();
        let mut events = Events::with_capacity(1024);
        while busy > 0 {
            self.poll.poll(&mut events, Some(PATIENCE))?;
            ensure!(!events.is_empty(), "no answer within {PATIENCE:?}");
            for event in &events {
                let connection = &mut self.connections[event.token().0];
                if event.is_writable() {
                    connection.send(&self.batch)?;
                }
                if event.is_readable() && connection.receive(&self.batch, &mut self.buffer)? {
                    let now = Instant::now();
                    latencies.add(now - connection.started);
                    if now - start < duration || latencies.count() + busy <= batches {
                        connection.start(&self.batch)?;
                    } else {
                        busy -= 1;
                    }
                }
            }
        }
        Ok(Outcome { requests: latencies.count() * self.batch.requests, elapsed: start.elapsed(), latencies })
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        for connection in &mut self.connections {
            connection.stream.say_goodbye();
        }
    }
}

impl Connection {
    fn start(&mut self, batch: &Batch) -> Result<()> {
        self.started = Instant::now();
        self.sent = 0;
        self.received = 0;
        self.send(batch)
    }

    fn send(&mut self, batch: &Batch) -> Result<()> {
        while self.sent < batch.bytes.len() {
            match self.stream.write(&batch.bytes[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("send"),
            }
        }
        match self.stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error).context("send"),
            _ => Ok(()),
        }
    }

    /// Takes what has arrived; true with the batch's last byte.
    fn receive(&mut self, batch: &Batch, buffer: &mut [u8]) -> Result<bool> {
        if self.received == batch.reply_length {
            // Nothing is awaited: this batch is done and the next one not begun.
            return Ok(false);
        }
        while self.received < batch.reply_length {
            match self.stream.read(buffer) {
                Ok(0) => bail!("the connection was closed"),
                Ok(length) => {
                    let fresh = self.received == 0;
                    ensure!(
                        !fresh || buffer[0] == batch.reply_start,
                        "answered {:?}",
                        String::from_utf8_lossy(&buffer[..length.min(80)])
                    );
                    self.received += length;
                    // A short read has emptied a plain socket: epoll tells when there is more.
                    if length < buffer.len() && !self.stream.is_tls() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("receive"),
            }
        }
        ensure!(self.received <= batch.reply_length, "more bytes than the replies have");
        Ok(self.received == batch.reply_length)
    }
}
