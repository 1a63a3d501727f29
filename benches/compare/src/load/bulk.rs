//! Bulk streams through a plain tunnel, one way each.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::Result;

use crate::targets::{BulkTarget, CHUNK, Direction, swallow};

/// Streams that flow until this is dropped.
pub struct Streams {
    streams: Vec<(TcpStream, JoinHandle<()>)>,
    /// Counts at the receiving end.
    received: Arc<AtomicU64>,
}

impl Streams {
    pub fn start(
        address: SocketAddr,
        number: usize,
        direction: Direction,
        target: &BulkTarget,
    ) -> Result<Self> {
        let received = match direction {
            Direction::ToTarget => Arc::clone(target.swallowed()),
            Direction::ToClient => Arc::default(),
        };
        let mut started = Self { streams: Vec::new(), received };
        for _ in 0..number {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(&[direction.byte()])?;
            let mut end = stream.try_clone()?;
            let count = Arc::clone(&started.received);
            let thread = thread::spawn(move || match direction {
                Direction::ToTarget => {
                    let chunk = vec![0x55; CHUNK];
                    while end.write_all(&chunk).is_ok() {}
                }
                // An error is the end of the stream, as the count then shows.
                Direction::ToClient => drop(swallow(&end, &count)),
            });
            started.streams.push((stream, thread));
        }
        Ok(started)
    }

    /// The bytes that have arrived so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for (stream, thread) in self.streams.drain(..) {
            // A stream that the proxy has ended already needs no shutdown, and a thread has nothing to say.
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}
