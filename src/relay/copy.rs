//! One direction of a relay: bytes from a reader to a writer, of whatever protocol.
//!
//! Bytes are read into one buffer a thread and written straight out; only what the writer would not take at once is
//! kept. Nothing is read while something is kept, so that a slow writer slows the reader down.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;
use zeroize::Zeroizing;

/// What is read at once at first, and always by a connection whose peer does not keep up: what a slow reader pins a
/// direction.
const SMALL_READ: u32 = 64 * 1024;

/// What is read at once by a bulk stream whose peer takes it all, and so what one pins whose peer stops all of a
/// sudden.
pub(super) const LARGE_READ: u32 = 256 * 1024;

/// What one direction may move before others on the thread have their turn.
const TURN: usize = 1024 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGE_READ as usize]);
}

/// Lends the thread's buffer.
pub(super) fn with_buffer<T>(run: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| run(buffer))
}

/// Ends a task's turn: it goes on when others on the thread have had theirs.
///
/// Among them are those whom the kernel has news for. A task that only woke itself would be in the runtime's queue
/// already, and while that has tasks the runtime asks the kernel no more than once in 61.
pub(super) fn end_turn(cx: &mut Context<'_>) {
    // Its first poll tells the runtime whom to wake behind its next look at the kernel; more is not needed of it.
    let _ = pin!(yield_now()).poll(cx);
}

/// Which half of a direction failed.
#[derive(Debug)]
pub(super) enum Failed {
    Read(io::Error),
    Write(io::Error),
}

/// One direction.
#[derive(Debug)]
pub(super) struct Copy {
    /// What the writer would not take yet; seldom anything.
    kept: Option<Box<Kept>>,
    moved: u64,
    /// In bytes, at most [`LARGE_READ`].
    read_size: u32,
    phase: Phase,
    /// Whether the writer has passed on all that it took. A stream that buffers (TLS) may not have.
    is_flushed: bool,
}

/// Bytes that the writer would not take, and how many of them it has taken since. An AUTH of ours may be among them.
#[derive(Debug, Default)]
struct Kept {
    bytes: Zeroizing<Vec<u8>>,
    taken: usize,
}

#[derive(Debug, Clone, std::marker::Copy, PartialEq, Eq)]
enum Phase {
    /// Bytes flow.
    Flowing,
    /// The reader has ended its stream; this is still to be passed on.
    Ending,
    /// The reader broke; what is kept is still to be written.
    LastWords,
    /// Nothing is left to do.
    Over,
}

impl Copy {
    /// Begins with bytes that were read already.
    pub(super) fn new(first: Vec<u8>) -> Self {
        Self {
            kept: (!first.is_empty()).then(|| Box::new(Kept { bytes: Zeroizing::new(first), taken: 0 })),
            moved: 0,
            read_size: SMALL_READ,
            phase: Phase::Flowing,
            is_flushed: true,
        }
    }

    /// Bytes that the writer took.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether bytes still pass, as far as it knows.
    pub(super) fn is_flowing(&self) -> bool {
        self.phase == Phase::Flowing
    }

    /// Whether it would tell by itself if the reader broke.
    pub(super) fn is_reading(&self) -> bool {
        self.phase == Phase::Flowing && self.kept.is_none()
    }

    /// Whether all that was read has gone out.
    pub(super) fn holds_nothing(&self) -> bool {
        self.is_over() || self.kept.is_none() && self.is_flushed
    }

    /// Where this turn ends.
    pub(super) fn turn(&self) -> u64 {
        self.moved + TURN as u64
    }

    /// Nothing more is written.
    pub(super) fn stop(&mut self) {
        self.kept = None;
        self.phase = Phase::Over;
    }

    /// Nothing more is read.
    pub(super) fn stop_reading(&mut self) {
        self.phase = if self.holds_nothing() { Phase::Over } else { Phase::LastWords };
    }

    /// The reader has ended its stream, which is passed on behind what is kept.
    pub(super) fn end(&mut self) {
        if self.phase == Phase::Flowing {
            self.phase = Phase::Ending;
        }
    }

    /// Adds bytes behind those that are kept.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.is_over() || bytes.is_empty() {
            return;
        }
        let kept = &mut self.kept.get_or_insert_default().bytes;
        if kept.capacity() - kept.len() < bytes.len() {
            // One that grew by itself would leave its bytes behind.
            let mut larger = Vec::with_capacity((kept.len() + bytes.len()).max(2 * kept.len()));
            larger.extend_from_slice(kept);
            *kept = Zeroizing::new(larger);
        }
        kept.extend_from_slice(bytes);
    }

    /// Goes on with another writer, to which nothing of what was kept goes.
    pub(super) fn begin_again(&mut self) {
        *self = Self { moved: self.moved, ..Self::new(Vec::new()) };
    }

    /// Copies what can be copied now. Ready when the direction is over, or when one half failed.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        buffer: &mut [u8],
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let turn = self.turn();
        loop {
            ready!(self.poll_out(cx, writer))?;
            if self.is_over() {
                return Poll::Ready(Ok(()));
            }
            if self.moved >= turn {
                end_turn(cx);
                return Poll::Pending;
            }
            match self.poll_read(cx, reader, buffer) {
                Poll::Ready(Ok(0)) => self.end(),
                Poll::Ready(Ok(length)) => self.write(cx, writer, &buffer[..length])?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Read(error))),
                Poll::Pending => {
                    ready!(self.poll_flush(cx, writer))?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once; 0 is the end of the stream.
    pub(super) fn poll_read<R: AsyncRead + Unpin>(
        &self,
        cx: &mut Context<'_>,
        reader: &mut R,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let size = buffer.len().min(self.read_size as usize);
        let mut read = ReadBuf::new(&mut buffer[..size]);
        ready!(Pin::new(reader).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Writes what was kept, and the end of the stream behind it where that is due. Ready when nothing is kept any more.
    pub(super) fn poll_out<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<Result<(), Failed>> {
        while let Some(kept) = &mut self.kept {
            match ready!(Pin::new(&mut *writer).poll_write(cx, &kept.bytes[kept.taken..])) {
                Ok(0) => return Poll::Ready(Err(Failed::Write(io::ErrorKind::WriteZero.into()))),
                Ok(n) => {
                    self.is_flushed = false;
                    kept.taken += n;
                    self.moved += n as u64;
                    if kept.taken == kept.bytes.len() {
                        self.kept = None;
                    }
                }
                Err(e) => return Poll::Ready(Err(Failed::Write(e))),
            }
        }
        match self.phase {
            Phase::Flowing | Phase::Over => return Poll::Ready(Ok(())),
            Phase::Ending => ready!(Pin::new(writer).poll_shutdown(cx)).map_err(Failed::Write)?,
            Phase::LastWords => ready!(self.poll_flush(cx, writer))?,
        }
        self.phase = Phase::Over;
        Poll::Ready(Ok(()))
    }

    /// Lets the writer pass on what it holds back until it is told that no more comes now.
    pub(super) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<Result<(), Failed>> {
        if !self.is_flushed {
            ready!(Pin::new(writer).poll_flush(cx)).map_err(Failed::Write)?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes bytes, and keeps those that the writer does not take.
    pub(super) fn write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        bytes: &[u8],
    ) -> Result<(), Failed> {
        if self.kept.is_some() || self.is_over() {
            self.keep(bytes);
            return Ok(());
        }
        let filled = bytes.len() == self.read_size as usize;
        let mut rest = bytes;
        while !rest.is_empty() {
            match Pin::new(&mut *writer).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(Failed::Write(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.is_flushed = false;
                    self.moved += n as u64;
                    rest = &rest[n..];
                }
                Poll::Ready(Err(e)) => return Err(Failed::Write(e)),
                Poll::Pending => {
                    self.keep(rest);
                    self.read_size = SMALL_READ;
                    return Ok(());
                }
            }
        }
        if filled {
            self.read_size = LARGE_READ.min(self.read_size * 2);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, repeat, sink};
    use tokio::net::UnixStream;

    use super::*;

    /// A stream that never pauses does not keep the runtime from the kernel's news for others.
    #[tokio::test]
    async fn a_bulk_stream_lets_others_have_their_turn() {
        let (mut near, mut far) = UnixStream::pair().expect("a pair");
        let moved = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&moved);
        tokio::spawn(async move {
            let mut copy = Copy::new(Vec::new());
            poll_fn(|cx| {
                let polled = with_buffer(|buffer| copy.poll(cx, &mut repeat(b'x'), &mut sink(), buffer));
                counted.store(copy.moved(), Ordering::Relaxed);
                polled
            })
            .await
        });
        for _ in 0..10 {
            let before = moved.load(Ordering::Relaxed);
            near.write_all(b"x").await.expect("it is written");
            far.read_exact(&mut [0]).await.expect("it is read");
            let turns = (moved.load(Ordering::Relaxed) - before) / TURN as u64;
            assert!(turns <= 3, "{turns} turns before the kernel was asked");
        }
    }
}
