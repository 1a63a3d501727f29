//! Short-lived connections: connect, authenticate where the client must, PING, close.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::{Conversation, Latencies};

pub struct Outcome {
    pub connections: usize,
    /// Those of them whose TLS session was resumed.
    pub resumed: usize,
    pub elapsed: Duration,
    /// From the start of the connect to the PONG.
    pub latencies: Latencies,
}

/// Keeps `concurrency` clients at it for that long. Each rests for `pause` after every connection.
pub fn run(
    concurrency: usize,
    duration: Duration,
    pause: Duration,
    open: impl Fn() -> Result<Conversation> + Sync,
) -> Result<Outcome> {
    let start = Instant::now();
    let (mut latencies, mut resumed) = (Latencies::default(), 0);
    thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> =
            (0..concurrency).map(|_| scope.spawn(|| client(start + duration, pause, &open))).collect();
        for client in clients {
            let (others, resumed_too) = client.join().map_err(|_| anyhow!("a client panicked"))??;
            latencies.append(others);
            resumed += resumed_too;
        }
        Ok(())
    })?;
    Ok(Outcome { connections: latencies.count(), resumed, elapsed: start.elapsed(), latencies })
}

fn client(
    deadline: Instant,
    pause: Duration,
    open: &impl Fn() -> Result<Conversation>,
) -> Result<(Latencies, usize)> {
    let (mut latencies, mut resumed) = (Latencies::default(), 0);
    loop {
        let start = Instant::now();
        let mut conversation = open()?;
        let end = Instant::now();
        latencies.add(end - start);
        resumed += usize::from(conversation.is_resumed());
        conversation.say_goodbye();
        drop(conversation);
        if end > deadline {
            return Ok((latencies, resumed));
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
}
