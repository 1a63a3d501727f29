//! Short-lived connections: connect, authenticate where the client must, PING, close.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::{Latencies, open};

pub struct Outcome {
    pub connections: usize,
    pub elapsed: Duration,
    /// From the start of the connect to the PONG.
    pub latencies: Latencies,
}

/// Keeps `concurrency` clients at it for that long.
pub fn run(
    address: SocketAddr,
    password: Option<&str>,
    concurrency: usize,
    duration: Duration,
) -> Result<Outcome> {
    let start = Instant::now();
    let mut latencies = Latencies::default();
    thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> =
            (0..concurrency).map(|_| scope.spawn(|| client(address, password, start + duration))).collect();
        for client in clients {
            latencies.append(client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(())
    })?;
    Ok(Outcome { connections: latencies.count(), elapsed: start.elapsed(), latencies })
}

fn client(address: SocketAddr, password: Option<&str>, deadline: Instant) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    loop {
        let start = Instant::now();
        let stream = open(address, password)?;
        let end = Instant::now();
        latencies.add(end - start);
        drop(stream);
        if end > deadline {
            return Ok(latencies);
        }
    }
}
