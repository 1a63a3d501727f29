//! The way of a session's bytes to the target: an upstream of its own, or a seat at one that it shares.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::shared::Seat;
use crate::net::Side;

#[derive(Debug)]
pub enum Way<S> {
    /// An upstream of its own.
    Own(S),
    /// Among those of other clients.
    Seat(Seat),
}

impl<S: Side> AsyncRead for Way<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Seat(seat) => Pin::new(seat).poll_read(cx, buffer),
        }
    }
}

impl<S: Side> AsyncWrite for Way<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Seat(seat) => Pin::new(seat).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream).poll_flush(cx),
            Self::Seat(seat) => Pin::new(seat).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Seat(seat) => Pin::new(seat).poll_shutdown(cx),
        }
    }
}

impl<S: Side> Side for Way<S> {
    fn take_error(&self) -> Option<io::Error> {
        match self {
            Self::Own(stream) => stream.take_error(),
            Self::Seat(seat) => seat.take_error(),
        }
    }

    fn bears(&self, command: &[u8]) -> bool {
        match self {
            Self::Own(stream) => stream.bears(command),
            Self::Seat(seat) => seat.bears(command),
        }
    }

    fn is_quiet(&self) -> bool {
        match self {
            Self::Own(stream) => stream.is_quiet(),
            Self::Seat(seat) => seat.is_quiet(),
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self, Self::Seat(_))
    }

    fn silence(&self) -> Duration {
        match self {
            Self::Own(stream) => stream.silence(),
            Self::Seat(seat) => seat.silence(),
        }
    }

    fn does_not_answer(&self) {
        match self {
            Self::Own(stream) => stream.does_not_answer(),
            Self::Seat(seat) => seat.does_not_answer(),
        }
    }

    fn is_leaving(&self) -> bool {
        match self {
            Self::Own(stream) => stream.is_leaving(),
            Self::Seat(seat) => seat.is_leaving(),
        }
    }

    fn is_delayed(&self) -> bool {
        match self {
            Self::Own(stream) => stream.is_delayed(),
            Self::Seat(seat) => seat.is_delayed(),
        }
    }
}
