//! A TLS connection as one more kind of stream.
//!
//! It is here, and not a crate's, because the relay's promises reach into it: what an idle connection holds, how much
//! is read at once, and that an end of stream, a truncation and a failed handshake can be told apart.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use rustls::{Connection, HandshakeKind, IoState, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::verify::Refused;
use super::{explain, verify};
use crate::net::Side;
use crate::net::Stream;

/// What is read from the socket at once at the least: a caller with a small buffer must not cost a system call every
/// few bytes.
const SMALLEST_READ: usize = 4 * 1024;

/// What is read from the socket at once at the most: a few records, which are 16 KiB each.
const LARGEST_READ: usize = 64 * 1024;

thread_local! {
    /// Where records are read to. They are taken in before another connection has its turn, so an idle one holds none.
    static RECORDS: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGEST_READ]);
}

/// What a peer was refused for, or refused us for, and what is not in rustls' own error.
#[derive(Debug, thiserror::Error)]
#[error("{}", explain::sentence(error, "the other side"))]
pub struct Broken {
    /// What went wrong.
    pub error: rustls::Error,
    /// The certificates that were refused.
    pub refused: Option<Box<Refused>>,
}

/// An error of rustls as one of the stream, at once: what is not in it is known to this thread, and not for long.
pub(super) fn refusal(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Broken { error, refused: verify::take_refused() })
}

/// A socket with TLS on it.
#[derive(Debug)]
pub struct TlsStream<S = Stream> {
    socket: S,
    connection: Connection,
    said_goodbye: bool,
    /// An error that came right behind bytes, for the read after theirs.
    broken: Option<io::Error>,
}

impl TlsStream {
    /// Makes the socket one of the current runtime.
    pub fn into_this_runtime(self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.into_this_runtime()?, ..self })
    }

    /// The addresses of both ends.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.socket.ends()
    }

    /// Whether the peer is there, and has said nothing that was not read. Records that are no bytes of the peer's own
    /// count too: its goodbye is one.
    pub fn is_quiet(&self) -> bool {
        self.broken.is_none() && self.socket.is_quiet()
    }

    /// Whether nothing can reach the peer any more.
    pub fn is_gone(&self) -> bool {
        self.socket.is_gone()
    }

    /// Closes the socket so that the peer sees a reset.
    pub fn reset(self) {
        self.socket.reset();
    }
}

impl<S: Side> TlsStream<S> {
    /// Before the handshake.
    pub(crate) fn new(socket: S, connection: Connection) -> Self {
        Self { socket, connection, said_goodbye: false, broken: None }
    }

    /// The socket without the TLS.
    pub(super) fn into_socket(self) -> S {
        self.socket
    }

    /// Whether the handshake took up an earlier session; known once it is done.
    pub(super) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The version of TLS that is spoken, as people write it.
    pub fn version(&self) -> Option<&'static str> {
        match self.connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("1.2"),
            ProtocolVersion::TLSv1_3 => Some("1.3"),
            // No other is offered.
            _ => None,
        }
    }

    /// What the other side has shown of itself: its own certificate, then those between it and its authority.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.connection.peer_certificates().unwrap_or_default()
    }

    /// Goes on until both sides know that they may speak. The end of the stream before that is an error.
    pub(crate) async fn handshake(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            loop {
                ready!(self.poll_write_records(cx))?;
                if !self.connection.is_handshaking() {
                    return Pin::new(&mut self.socket).poll_flush(cx);
                }
                // What may already follow the handshake waits in the connection.
                if ready!(self.poll_read_records(cx, &mut ReadBuf::new(&mut [])))? == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        })
        .await
    }

    /// Sends the alert that says why the connection is over, as far as the socket takes it at once.
    pub(super) async fn send_alert(&mut self) {
        // Nobody waits for a peer that has broken the rules.
        let _ = poll_fn(|cx| Poll::Ready(self.poll_write_records(cx))).await;
    }

    /// Reads once from the socket, and hands on the bytes in it as far as `plain` has room. Returns how many bytes
    /// came; without any the socket has ended.
    fn poll_read_records(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        RECORDS.with_borrow_mut(|records| {
            // Not more than the caller has room for: rustls takes no records while it holds a record's bytes.
            let size = plain.remaining().clamp(SMALLEST_READ, LARGEST_READ);
            let mut read = ReadBuf::new(&mut records[..size]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
            let mut rest = read.filled();
            loop {
                if self.connection.read_tls(&mut rest)? == 0 && !rest.is_empty() {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                let peer_has_closed = self.process()?.peer_has_closed();
                if plain.remaining() > 0 {
                    // An end that is no clean one is found again by whoever reads next.
                    let _ = self.take_plain(plain);
                }
                // Nothing that follows a peer's goodbye counts.
                if rest.is_empty() || peer_has_closed {
                    return Poll::Ready(Ok(read.filled().len()));
                }
            }
        })
    }

    fn process(&mut self) -> io::Result<IoState> {
        self.connection.process_new_packets().map_err(refusal)
    }

    /// Takes decrypted bytes; `false` if there are none yet.
    fn take_plain(&mut self, plain: &mut ReadBuf<'_>) -> io::Result<bool> {
        match self.connection.reader().read(plain.initialize_unfilled()) {
            Ok(length) => {
                plain.advance(length);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(io::Error::new(error.kind(), "the stream ended without its goodbye (close_notify)"))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes until the socket has all that is to go out.
    fn poll_write_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            let mut writer = Blocking { socket: &mut self.socket, cx };
            match self.connection.write_tls(&mut writer) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Side> Side for TlsStream<S> {
    fn take_error(&self) -> Option<io::Error> {
        self.socket.take_error()
    }
}

impl<S: Side> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        plain: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if plain.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Err(error));
        }
        let before = plain.filled().len();
        // An end with the peer's goodbye is a read of nothing, an end without it an error.
        while plain.filled().len() == before && !this.take_plain(plain)? {
            if let Err(error) = ready!(this.poll_read_records(cx, plain)) {
                // The peer is told what is wrong with it, as far as its socket takes it at once.
                let _ = this.poll_write_records(cx);
                if plain.filled().len() == before {
                    return Poll::Ready(Err(error));
                }
                this.broken = Some(error);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Side> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // What was taken before goes first, so that a slow reader's connection holds no more than was taken at once.
        ready!(this.poll_write_records(cx))?;
        let taken = this.connection.writer().write(bytes)?;
        match this.poll_write_records(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_records(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    /// Says goodbye (`close_notify`) and ends this side of the socket; the peer may go on speaking.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.said_goodbye {
            this.said_goodbye = true;
            this.connection.send_close_notify();
        }
        ready!(this.poll_write_records(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

/// A socket as rustls writes to it.
struct Blocking<'a, 'b, S> {
    socket: &'a mut S,
    cx: &'a mut Context<'b>,
}

impl<S: Side> Write for Blocking<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        now(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        now(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, parts))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
