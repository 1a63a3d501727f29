//! Sockets: listening, connecting, and the one kind of stream that everything else works on.

mod address;
mod link_local;
mod listener;
pub mod resolve;
mod socket_file;
pub mod tls;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

pub use self::address::{Endpoint, Host, Interface, Listen, ListenAddress};
pub use self::link_local::LinkLocal;
pub use self::listener::{Accepted, BACKLOG, Listener};
use crate::net::tls::stream::TlsStream;

/// A stream that can be relayed.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The error that waits on the socket, if it broke.
    fn take_error(&self) -> Option<io::Error>;
}

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address and a TCP port.
    Tcp(SocketAddr),
    /// A link-local address, whose interface is looked up for every dial, and a TCP port.
    LinkLocal(LinkLocal, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Its IP address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::LinkLocal(link_local, _) => Some(link_local.address.into()),
            Self::Unix(_) => None,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::LinkLocal(link_local, port) => write!(f, "[{link_local}]:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS on one of them; boxed, so that the plain kinds stay small.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Connects.
    pub async fn connect(address: &Address, keepalive: Option<Duration>) -> io::Result<Self> {
        let address = match address {
            Address::Tcp(address) => *address,
            Address::LinkLocal(LinkLocal { address, zone }, port) => {
                at((*address).into(), *port, zone_index(zone)?)
            }
            Address::Unix(path) => return UnixStream::connect(path).await.map(Self::Unix),
        };
        let stream = TcpStream::connect(address).await?;
        set_options(&SockRef::from(&stream), keepalive)?;
        Ok(Self::Tcp(stream))
    }

    /// Makes it a stream of the current runtime, whichever one it belonged to.
    pub fn into_this_runtime(self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream.into_std()?).map(Self::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream.into_std()?).map(Self::Unix),
            Self::Tls(stream) => Ok(Self::Tls(Box::new(stream.into_this_runtime()?))),
        }
    }

    /// Whether the peer is there, and has said nothing that was not read: as the kernel knows it at this moment, while
    /// the runtime learns it at its next turn.
    pub fn is_quiet(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => return stream.is_quiet(),
        };
        let looked = recv(socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        looked.is_err_and(|error| error == Errno::AGAIN)
    }

    /// Whether nothing can reach the peer any more, as the kernel knows it: its connection was reset, or a Unix socket
    /// closed for good. An end of stream alone (half-close) is no such thing.
    pub fn is_gone(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => return stream.is_gone(),
        };
        // Errors and hang-ups are told without being asked for.
        let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
        let told = poll(&mut asked, Some(&Timespec::default()));
        told.is_ok_and(|told| told > 0)
    }

    /// Reads what is there to the end of `bytes`, without holding memory while nothing is; ready with how much it was.
    pub fn poll_read_more(&mut self, cx: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let mut chunk = [MaybeUninit::uninit(); 4096];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(self).poll_read(cx, &mut chunk))?;
        bytes.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(chunk.filled().len()))
    }

    /// Closes so that the peer sees a reset, as far as the kind of socket has one: a Unix socket's peer sees a reset
    /// only where it had sent something that was not read.
    pub fn reset(self) {
        match self {
            // If it can't be set the socket is closed in the ordinary way, which is all that is left to do.
            Self::Tcp(stream) => drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
            Self::Unix(_) => {}
            Self::Tls(stream) => stream.reset(),
        }
    }
}

impl Side for Stream {
    fn take_error(&self) -> Option<io::Error> {
        let error = match self {
            Self::Tcp(stream) => stream.take_error(),
            Self::Unix(stream) => stream.take_error(),
            Self::Tls(stream) => return stream.take_error(),
        };
        error.unwrap_or_else(Some)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, parts),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// One that came over TCP.
    Tcp(SocketAddr),
    /// One that came through a Unix socket.
    Unix,
}

impl Client {
    /// The client's address, an IPv4 one as such even where an IPv6 socket took it in.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Sets what every TCP socket of ours has: no delay for small messages, and probes for a silent peer.
fn set_options(socket: &SockRef<'_>, keepalive: Option<Duration>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if let Some(time) = keepalive {
        // Three unanswered probes ten seconds apart: half a minute more, and a dead peer is known.
        let probes =
            TcpKeepalive::new().with_time(time).with_interval(Duration::from_secs(10)).with_retries(3);
        socket.set_tcp_keepalive(&probes)?;
    }
    Ok(())
}

/// The number of the interface that a zone names; it may come and go, and have another number then.
pub fn zone_index(zone: &str) -> io::Result<u32> {
    if let Ok(index) = zone.parse() {
        return Ok(index);
    }
    // Any socket will do to ask the kernel (netdevice(7)).
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    Ok(name_to_index(&socket, zone)?)
}

/// An address to connect to, in the zone with this number, where it has one.
pub fn at(address: IpAddr, port: u16, zone: u32) -> SocketAddr {
    match address {
        IpAddr::V4(address) => (address, port).into(),
        IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, zone).into(),
    }
}
