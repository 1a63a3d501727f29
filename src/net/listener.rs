//! Listening sockets.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::socket_file::{self, SocketFile};
use super::{Address, Client, Stream, at, set_options, zone_index};
use crate::net::{Interface, Listen, ListenAddress};

/// The bound sockets of one link or of the admin endpoint.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<Bound>,
    /// The socket that is polled first the next time: round-robin, so that a busy one does not starve the others.
    first: usize,
}

#[derive(Debug)]
struct Bound {
    /// The file of a Unix socket. Dropped before the socket: between the two another process could replace a file whose
    /// socket is closed, and its file would be removed instead.
    file: Option<SocketFile>,
    socket: AsyncFd<Socket>,
}

/// The listen backlog; the kernel lowers it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

impl Listener {
    /// Binds every address, or returns the errors of all that can't be bound. Must be called within a runtime.
    pub fn bind(
        listen: &Listen,
        keepalive: Option<Duration>,
    ) -> Result<Self, Vec<(ListenAddress, io::Error)>> {
        let (mut sockets, mut errors) = (Vec::new(), Vec::new());
        for address in &listen.addresses {
            let bound = match address {
                ListenAddress::Tcp(interface, port) => tcp(interface, *port, keepalive),
                ListenAddress::Unix(path) => {
                    socket_file::bind(path, listen.mode, BACKLOG).and_then(|(socket, file)| {
                        Ok(vec![Bound { file: Some(file), socket: watched(socket)? }])
                    })
                }
            };
            match bound {
                Ok(bound) => sockets.extend(bound),
                Err(error) => errors.push((address.clone(), error)),
            }
        }
        if errors.is_empty() { Ok(Self { sockets, first: 0 }) } else { Err(errors) }
    }

    /// The bound addresses, separated by commas.
    pub fn address(&self) -> String {
        self.sockets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// The same, one by one.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        self.sockets.iter().filter_map(|bound| match &bound.file {
            Some(file) => Some(Address::Unix(file.path().to_owned())),
            None => bound.socket.get_ref().local_addr().ok()?.as_socket().map(Address::Tcp),
        })
    }

    /// The number of sockets.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    pub async fn accept(&mut self) -> io::Result<(Accepted, Client)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Accepted, Client)>> {
        let count = self.sockets.len();
        for index in (0..count).map(|offset| (self.first + offset) % count) {
            if let Poll::Ready(accepted) = self.sockets[index].poll_accept(cx) {
                self.first = index + 1;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

impl Bound {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Accepted, Client)>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (accepted, address) = loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            // The client may have left since.
            if let Ok(accepted) = ready.try_io(|socket| Ok(acceptfrom_with(socket.get_ref(), flags)?)) {
                break accepted?;
            }
        };
        if self.file.is_some() {
            return Poll::Ready(Ok((Accepted::Unix(accepted), Client::Unix)));
        }
        Poll::Ready(match address.map(SocketAddr::try_from) {
            Some(Ok(address)) => Ok((Accepted::Tcp(accepted), Client::Tcp(address))),
            _ => Err(io::ErrorKind::ConnectionAborted.into()),
        })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            return file.fmt(f);
        }
        match self.socket.get_ref().local_addr().map(|address| address.as_socket()) {
            Ok(Some(address)) => address.fmt(f),
            Ok(None) | Err(_) => f.write_str("unknown"),
        }
    }
}

/// An accepted socket, not yet registered with a runtime, so that any thread can take it.
#[derive(Debug)]
pub enum Accepted {
    /// It has inherited the options of its listener.
    Tcp(OwnedFd),
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

fn tcp(interface: &Interface, port: u16, keepalive: Option<Duration>) -> io::Result<Vec<Bound>> {
    let bind = |address: IpAddr, port| tcp_socket(at(address, port, 0), keepalive);
    match interface {
        Interface::All => match bind(Ipv6Addr::UNSPECIFIED.into(), port) {
            // A host without IPv6 has no such address, or no IPv6 sockets.
            Err(e) if e.kind() != io::ErrorKind::AddrInUse && e.kind() != io::ErrorKind::PermissionDenied => {
                bind(Ipv4Addr::UNSPECIFIED.into(), port)
            }
            bound => bound,
        },
        Interface::Localhost => return localhost(port, keepalive),
        Interface::Address(address) => bind(*address, port),
        Interface::LinkLocal(link_local) => {
            let zone = zone_index(&link_local.zone)?;
            tcp_socket(at(link_local.address.into(), port, zone), keepalive)
        }
    }
    .map(|bound| vec![bound])
}

/// Binds both loopback addresses, as far as the host has them, to the same port (also for port 0).
fn localhost(port: u16, keepalive: Option<Duration>) -> io::Result<Vec<Bound>> {
    let mut bound: Vec<Bound> = Vec::new();
    let mut missing = None;
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let port = match bound.first() {
            Some(bound) => bound.port()?,
            None => port,
        };
        match tcp_socket(at(address, port, 0), keepalive) {
            Ok(socket) => bound.push(socket),
            Err(error) if is_missing(&error) => missing = Some((address, error)),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some((_, error)) if bound.is_empty() => return Err(error),
        Some((address, _)) => {
            tracing::info!(target: "listen", %address, "localhost has one address on this host");
        }
        None => {}
    }
    Ok(bound)
}

/// Whether the host lacks the address or its address family.
fn is_missing(error: &io::Error) -> bool {
    let missing = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].map(|errno| Some(errno.raw_os_error()));
    missing.contains(&error.raw_os_error())
}

impl Bound {
    fn port(&self) -> io::Result<u16> {
        let address = self.socket.get_ref().local_addr()?;
        Ok(address.as_socket().map_or(0, |address| address.port()))
    }
}

fn tcp_socket(address: SocketAddr, keepalive: Option<Duration>) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Only the wildcard accepts IPv4 too; set explicitly, as the default is a setting of the host.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restart must not wait for the predecessor's connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit the options of their listener (tcp(7)), which saves five system calls a connection.
    set_options(&SockRef::from(&socket), keepalive)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(Bound { file: None, socket: watched(socket)? })
}

// Deprecated, because a type could return a descriptor that it does not own; `Socket` owns it. The replacement is
// unsafe.
#[expect(deprecated)]
fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    socket.set_nonblocking(true)?;
    AsyncFd::with_interest(socket, Interest::READABLE)
}
