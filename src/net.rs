//! Sockets: listening, connecting, and the one kind of stream that everything else works on.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, acceptfrom_with, recv};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::config::Listen;
use crate::relay::Side;
use crate::tls::stream::TlsStream;

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address and a TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Its IP address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
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
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(*address).await?;
                set_options(&SockRef::from(&stream), keepalive)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
        }
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

/// A bound socket that accepts clients.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(AsyncFd<Socket>),
    /// A Unix socket, and the file that goes when it does.
    Unix(AsyncFd<Socket>, SocketFile),
}

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

impl Listener {
    /// Binds. Must be called within a runtime.
    pub fn bind(listen: &Listen, keepalive: Option<Duration>) -> io::Result<Self> {
        match listen {
            Listen::Everywhere(port) => match tcp((Ipv6Addr::UNSPECIFIED, *port).into(), keepalive) {
                // A host without IPv6 has no such address or no such sockets.
                Err(e)
                    if e.kind() != io::ErrorKind::AddrInUse
                        && e.kind() != io::ErrorKind::PermissionDenied =>
                {
                    tcp((Ipv4Addr::UNSPECIFIED, *port).into(), keepalive)
                }
                bound => bound,
            },
            Listen::Address(address) => tcp(*address, keepalive),
            Listen::Unix(path) => unix(path),
        }
    }

    /// The address that was bound, as clients dial it.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(socket) => match socket.get_ref().local_addr().map(|address| address.as_socket()) {
                Ok(Some(address)) => address.to_string(),
                Ok(None) | Err(_) => "unknown".to_owned(),
            },
            Self::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }

    /// Waits for the next client.
    pub async fn accept(&self) -> io::Result<(Accepted, Client)> {
        let (Self::Tcp(socket) | Self::Unix(socket, _)) = self;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = |socket: &Socket| Ok(acceptfrom_with(socket, flags)?);
        let (accepted, address) = socket.async_io(Interest::READABLE, accept).await?;
        match (self, address.map(SocketAddr::try_from)) {
            (Self::Tcp(_), Some(Ok(address))) => Ok((Accepted::Tcp(accepted), Client::Tcp(address))),
            (Self::Tcp(_), _) => Err(io::ErrorKind::ConnectionAborted.into()),
            (Self::Unix(..), _) => Ok((Accepted::Unix(accepted), Client::Unix)),
        }
    }
}

/// A client's socket just as the kernel gave it: no runtime's yet, so that any thread can take it.
#[derive(Debug)]
pub enum Accepted {
    /// TCP, with the options that its listener has.
    Tcp(OwnedFd),
    /// A Unix socket.
    Unix(OwnedFd),
}

impl Accepted {
    /// Makes it a stream of the current runtime.
    pub fn into_stream(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(socket) => TcpStream::from_std(socket.into()).map(Stream::Tcp),
            Self::Unix(socket) => UnixStream::from_std(socket.into()).map(Stream::Unix),
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

fn tcp(address: SocketAddr, keepalive: Option<Duration>) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Only the wildcard takes in IPv4 too; whether it does by default is the host's own setting.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restart must not wait for the connections of its predecessor to be forgotten.
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit the options of their listener (tcp(7)), which spares five calls a connection.
    set_options(&SockRef::from(&socket), keepalive)?;
    socket.bind(&address.into())?;
    listen(socket).map(Listener::Tcp)
}

fn unix(path: &Path) -> io::Result<Listener> {
    // A socket left behind by a process that is gone refuses connections; one that is in use takes them.
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        match std::os::unix::net::UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(Listener::Unix(listen(socket)?, SocketFile(path.to_path_buf())))
}

// Deprecated because a type could lie about its descriptor; a `Socket` owns the one it names. What replaces it is unsafe.
#[expect(deprecated)]
fn listen(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// The file of a Unix socket, removed with its listener.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If it is gone already, all is well; if it can't be removed, the next start finds it refusing connections.
        let _ = std::fs::remove_file(&self.0);
    }
}
