//! The traffic.
//!
//! The generator is our own. redis-benchmark can neither keep connecting out of a proxy's processor time, run for
//! a set time, hold thousands of silent connections beside active ones, nor time a connection from its connect on. The
//! `redis-benchmark` workload repeats the most common cells with it, as a check that anybody can do by hand.

pub mod bulk;
pub mod requests;
pub mod short;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

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

/// Opens a connection that is known to work: authenticated where the client must, and answered once.
pub fn open(address: SocketAddr, password: Option<&str>) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    greet(stream, password)
}

/// Authenticates where the client must, as every client library does it: the reply is awaited before the
/// first command.
pub fn greet(mut stream: TcpStream, password: Option<&str>) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    if let Some(password) = password {
        exchange(&mut stream, &encode(&[b"AUTH", password.as_bytes()]), b"+OK\r\n").context("AUTH")?;
    }
    exchange(&mut stream, &encode(&[b"PING"]), b"+PONG\r\n").context("PING")?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream, request: &[u8], expected: &[u8]) -> Result<()> {
    stream.write_all(request)?;
    let mut reply = vec![0; expected.len()];
    stream.read_exact(&mut reply)?;
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
