//! Sockets: [`Listener`], [`Stream`] (TCP, Unix or TLS), and the addresses of both.

mod address;
mod link_local;
mod listener;
mod passed;
pub mod proxy_protocol;
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
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

pub use self::address::{Endpoint, Host, Interface, Listen, ListenAddress, covers};
pub use self::link_local::LinkLocal;
pub use self::listener::{Accepted, BACKLOG, Listener};
pub use self::passed::{PassedSocket, PassedSockets, is_stored, name_of_socket};
use crate::net::tls::stream::TlsStream;

/// One side of a relay.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The pending error of the socket (`SO_ERROR`), if any.
    fn take_error(&self) -> Option<io::Error>;

    /// Whether the peer is there, and has said nothing that was not read, as far as is known without reading.
    fn is_quiet(&self) -> bool {
        true
    }

    /// Whether others say something on it, too: it takes whole commands that leave nothing behind, those
    /// that it [bears](Self::bears), and no others.
    fn is_shared(&self) -> bool {
        false
    }

    /// Whether others would not notice that this command was said on it, which sets something.
    fn bears(&self, _command: &[u8]) -> bool {
        false
    }

    /// For how long nobody has heard anything on it, where that is more than this session's own.
    fn silence(&self) -> Duration {
        Duration::ZERO
    }

    /// It was asked something, and has not answered in time.
    fn does_not_answer(&self) {}

    /// Whether nothing more is to be said on it.
    fn is_leaving(&self) -> bool {
        false
    }

    /// Whether what was asked on it stands behind somebody else's huge reply; then it is to be left as well.
    fn is_delayed(&self) -> bool {
        false
    }
}

/// A resolved address to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// Its interface is looked up for every dial.
    LinkLocal(LinkLocal, u16),
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

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TLS over TCP or a Unix socket; boxed, so that the plain kinds stay small.
    Tls(Box<TlsStream>),
}

impl Stream {
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

    /// The addresses of a TCP connection: this end's and the other one's. An IPv4 address is one, however it was dialled.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Unix(_) => return None,
            Self::Tls(stream) => return stream.ends(),
        };
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Some((canonical(stream.local_addr().ok()?), canonical(stream.peer_addr().ok()?)))
    }

    /// Moves it to the current runtime.
    pub fn into_this_runtime(self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream.into_std()?).map(Self::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream.into_std()?).map(Self::Unix),
            Self::Tls(stream) => Ok(Self::Tls(Box::new(stream.into_this_runtime()?))),
        }
    }

    /// Whether the connection is open and has no unread bytes. Asks the kernel: the runtime only knows the state at its
    /// last poll.
    pub fn is_quiet(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => return stream.is_quiet(),
        };
        let looked = recv(socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        looked.is_err_and(|error| error == Errno::AGAIN)
    }

    /// Reads what is there without taking it, once there is something; 0 at EOF. What is inside of TLS can't be seen so.
    async fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let (flags, read) = (RecvFlags::PEEK | RecvFlags::DONTWAIT, Interest::READABLE);
        match self {
            Self::Tcp(stream) => stream.async_io(read, || Ok(recv(stream, &mut *bytes, flags)?.1)).await,
            Self::Unix(stream) => stream.async_io(read, || Ok(recv(stream, &mut *bytes, flags)?.1)).await,
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether the kernel knows that the peer is gone: the connection was reset, or a Unix socket closed. A half-close
    /// does not count.
    pub fn is_gone(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => return stream.is_gone(),
        };
        // POLLERR and POLLHUP are always reported.
        let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
        let ready = poll(&mut polled, Some(&Timespec::default()));
        ready.is_ok_and(|ready| ready > 0)
    }

    /// Appends available bytes to `bytes`; ready with their number, 0 at EOF. Holds no buffer while pending.
    pub fn poll_read_more(&mut self, cx: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let mut chunk = [MaybeUninit::uninit(); 4096];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(self).poll_read(cx, &mut chunk))?;
        bytes.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(chunk.filled().len()))
    }

    /// Closes with a reset. The peer of a Unix socket sees one only if it had sent bytes that were not read.
    pub fn reset(self) {
        match self {
            // If this fails, the socket is closed without a reset.
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

    fn is_quiet(&self) -> bool {
        // The stream's own.
        Self::is_quiet(self)
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

/// A client, for the log and for `ALLOW`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Tcp(SocketAddr),
    Unix,
}

impl Client {
    /// The client's address; IPv4-mapped addresses as IPv4.
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

/// Sets the options of every TCP socket: no delay (Nagle's algorithm off) and keepalive.
fn set_options(socket: &SockRef<'_>, keepalive: Option<Duration>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if let Some(time) = keepalive {
        // Three unanswered probes ten seconds apart: a dead peer is detected half a minute after `time`.
        let probes =
            TcpKeepalive::new().with_time(time).with_interval(Duration::from_secs(10)).with_retries(3);
        socket.set_tcp_keepalive(&probes)?;
    }
    Ok(())
}

/// The current index of a zone's interface, which may change while the process runs.
pub fn zone_index(zone: &str) -> io::Result<u32> {
    if let Ok(index) = zone.parse() {
        return Ok(index);
    }
    // The kernel is asked through any socket (netdevice(7)).
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    Ok(name_to_index(&socket, zone)?)
}

/// A socket address; `zone` is the index of the interface for IPv6, or 0.
pub fn at(address: IpAddr, port: u16, zone: u32) -> SocketAddr {
    match address {
        IpAddr::V4(address) => (address, port).into(),
        IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, zone).into(),
    }
}
