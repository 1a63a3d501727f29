//! The traffic.
//!
//! The generator is our own. redis-benchmark can neither keep connecting out of a proxy's processor time, run for
//! a set time, hold thousands of silent connections beside active ones, nor time a connection from its connect on. The
//! `redis-benchmark` workload repeats the most common cells with it, as a check that anybody can do by hand.

pub mod bulk;
pub mod requests;
pub mod short;
pub mod tls;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::ClientConfig;

use self::tls::Session;

/// An answer that takes longer than this never comes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A command as RESP: an array of bulk strings.
pub fn encode(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A client's connection, plain or TLS.
pub struct Conversation<S = TcpStream> {
    socket: S,
    tls: Option<Box<Session>>,
}

impl<S: Read + Write> Conversation<S> {
    /// The same over the same socket in another form.
    pub fn map<T>(self, change: impl FnOnce(S) -> io::Result<T>) -> io::Result<Conversation<T>> {
        Ok(Conversation { socket: change(self.socket)?, tls: self.tls })
    }

    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the TLS session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.is_resumed())
    }

    /// Says goodbye where the protocol has a word for it; the socket is closed by dropping this.
    pub fn say_goodbye(&mut self) {
        if let Some(session) = &mut self.tls {
            session.close(&mut self.socket);
        }
    }
}

impl<S: Read + Write> Read for Conversation<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(session) => session.read(&mut self.socket, buffer),
            None => self.socket.read(buffer),
        }
    }
}

impl<S: Read + Write> Write for Conversation<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(session) => session.write(&mut self.socket, bytes),
            None => self.socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(session) => session.flush(&mut self.socket),
            None => self.socket.flush(),
        }
    }
}

/// Who a client is to the other side.
#[derive(Clone, Default)]
pub struct Credentials {
    /// None where the client need not authenticate.
    pub password: Option<String>,
    /// None where the other side speaks no TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Opens a connection that is known to work: authenticated where the client must, and answered once.
pub fn open(address: SocketAddr, credentials: &Credentials) -> Result<Conversation> {
    let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    greet(stream, credentials)
}

/// Shakes hands and authenticates where the client must, as every client library does it: the reply is awaited
/// before the first command.
pub fn greet(mut socket: TcpStream, credentials: &Credentials) -> Result<Conversation> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let tls = match &credentials.tls {
        Some(config) => Some(Box::new(Session::start(config, &mut socket).context("TLS handshake")?)),
        None => None,
    };
    let mut conversation = Conversation { socket, tls };
    if let Some(password) = &credentials.password {
        exchange(&mut conversation, &encode(&[b"AUTH", password.as_bytes()]), b"+OK\r\n").context("AUTH")?;
    }
    exchange(&mut conversation, &encode(&[b"PING"]), b"+PONG\r\n").context("PING")?;
    Ok(conversation)
}

fn exchange(conversation: &mut Conversation, request: &[u8], expected: &[u8]) -> Result<()> {
    conversation.write_all(request)?;
    conversation.flush()?;
    let mut reply = vec![0; expected.len()];
    conversation.read_exact(&mut reply)?;
    ensure!(reply == expected, "answered {:?}", String::from_utf8_lossy(&reply));
    Ok(())
}

/// How long things took.
#[derive(Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency that `percent` of all do not exceed, in microseconds.
    pub fn percentile(&mut self, percent: usize) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        self.0.sort_unstable();
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1].as_secs_f64() * 1e6
    }
}
