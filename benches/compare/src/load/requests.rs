//! Requests over connections that stay open: one thread, one epoll, the next batch as soon as the last is
//! answered.

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
}

impl Operation {
    pub const ALL: [Self; 2] = [Self::Get, Self::Set];

    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Set => "SET",
        }
    }
}

/// A pipeline of equal requests, and what is known of the replies.
///
/// Their number and length is known beforehand, so that replies are counted, not parsed: the generator should
/// cost little.
pub struct Batch {
    bytes: Vec<u8>,
    requests: usize,
    reply_length: usize,
    reply_start: u8,
}

impl Batch {
    /// The key must hold a value of that size before it is asked for.
    pub fn new(operation: Operation, key: &[u8], value: &[u8], pipeline: usize) -> Self {
        let (request, reply_length, reply_start) = match operation {
            Operation::Get => {
                (encode(&[b"GET", key]), format!("${}\r\n\r\n", value.len()).len() + value.len(), b'$')
            }
            Operation::Set => (encode(&[b"SET", key, value]), b"+OK\r\n".len(), b'+'),
        };
        Self {
            bytes: request.repeat(pipeline),
            requests: pipeline,
            reply_length: reply_length * pipeline,
            reply_start,
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
