//! Listening sockets.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::passed::{PassedSocket, PassedSockets, is_stored, stored_name};
use super::socket_file::{self, SocketFile};
use super::{Address, Client, Stream, at, set_options, zone_index};
use crate::net::{Interface, Listen, ListenAddress};
use crate::systemd::ServiceManager;

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
    socket: AsyncFd<Arc<Socket>>,
    /// Its name at the service manager, if that has it too: then it lives on when it is closed here.
    kept: Option<String>,
}

/// The listen backlog; the kernel lowers it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

impl Listener {
    /// Listens for a link, or the admin endpoint, of this name. Sockets that were passed for that name are all that it
    /// listens on; else each address has those that were passed for it, or is bound. Returns the errors of all that can't
    /// be had; what was passed is given back then. Must be called within a runtime.
    pub fn open(
        name: Option<&str>,
        listen: &Listen,
        keepalive: Option<Duration>,
        passed: &mut PassedSockets,
    ) -> Result<Self, Vec<(ListenAddress, io::Error)>> {
        let named = name.map(|name| passed.take_named(name)).unwrap_or_default();
        let (mut sockets, mut errors, mut taken) = (Vec::new(), Vec::new(), named.clone());
        if !named.is_empty() {
            let adopted = adopt(named, listen.mode, keepalive);
            return adopted.map(|sockets| Self { sockets, first: 0 }).map_err(|error| {
                passed.give_back(taken);
                vec![(listen.addresses[0].clone(), error)]
            });
        }
        for address in &listen.addresses {
            let passed = passed.take_at(address);
            taken.extend_from_slice(&passed);
            let is_of_a_unit = passed.iter().any(|socket| !socket.is_stored());
            let bound = match address {
                ListenAddress::Tcp(Interface::Localhost, port) if !is_of_a_unit => {
                    adopt(passed, listen.mode, keepalive)
                        .and_then(|stored| localhost(stored, *port, keepalive))
                }
                _ if !passed.is_empty() => adopt(passed, listen.mode, keepalive),
                ListenAddress::Tcp(interface, port) => tcp(interface, *port, keepalive),
                ListenAddress::Unix(path) => {
                    socket_file::bind(path, listen.mode, BACKLOG).and_then(|(socket, file)| {
                        Ok(vec![Bound { file: Some(file), socket: watched(Arc::new(socket))?, kept: None }])
                    })
                }
            };
            match bound {
                Ok(bound) => sockets.extend(bound),
                Err(error) => errors.push((address.clone(), error)),
            }
        }
        if errors.is_empty() {
            return Ok(Self { sockets, first: 0 });
        }
        passed.give_back(taken);
        Err(errors)
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

    /// The names of those sockets that the service manager has, separated by commas.
    pub fn names(&self) -> Option<String> {
        let names: Vec<_> = self.sockets.iter().filter_map(|bound| bound.kept.as_deref()).collect();
        (!names.is_empty()).then(|| names.join(","))
    }

    /// How many of its sockets come from the service manager's store.
    pub fn stored(&self) -> usize {
        self.sockets.iter().filter(|bound| bound.is_stored()).count()
    }

    /// Has the service manager keep the sockets that it does not have yet: they live on when this process closes them.
    pub async fn store(&mut self, manager: &ServiceManager) {
        for bound in self.sockets.iter_mut().filter(|bound| bound.kept.is_none()) {
            let name = stored_name(&bound.to_string());
            if manager.store(&name, bound.socket.get_ref().as_fd()).await {
                if let Some(file) = &mut bound.file {
                    file.stay();
                }
                bound.kept = Some(name);
            }
        }
    }

    /// Closes it for everybody who has it: no next process is to go on with what is stored.
    pub async fn take_back(self, manager: &ServiceManager) {
        for bound in self.sockets.iter().filter(|bound| bound.is_stored()) {
            // It fails only where nothing listens.
            let _ = bound.socket.get_ref().shutdown(Shutdown::Both);
            if let Some(name) = &bound.kept {
                manager.take_back(name).await;
            }
        }
    }

    /// Closes its own descriptors of the sockets that live on: who waits there is the next process' client.
    pub fn let_go(&mut self) {
        self.sockets.retain(|bound| bound.kept.is_none());
        self.first = 0;
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
    fn is_stored(&self) -> bool {
        self.kept.as_deref().is_some_and(is_stored)
    }

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

/// Goes on with sockets that are bound already.
fn adopt(
    passed: Vec<PassedSocket>,
    mode: Option<u32>,
    keepalive: Option<Duration>,
) -> io::Result<Vec<Bound>> {
    let adopt = |PassedSocket { name, socket, address }| {
        let file = match address {
            Address::Unix(path) => {
                let file = SocketFile::of_another(path);
                // That of a socket unit is the unit's affair (SocketMode=).
                if is_stored(&name) {
                    file.set_mode(mode)?;
                }
                Some(file)
            }
            Address::Tcp(_) | Address::LinkLocal(..) => {
                let options = SockRef::from(&socket);
                options.set_keepalive(keepalive.is_some())?;
                set_options(&options, keepalive)?;
                None
            }
        };
        Ok(Bound { file, socket: watched(socket)?, kept: Some(name) })
    };
    passed.into_iter().map(adopt).collect()
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
        Interface::Localhost => return localhost(Vec::new(), port, keepalive),
        Interface::Address(address) => bind(*address, port),
        Interface::LinkLocal(link_local) => {
            let zone = zone_index(&link_local.zone)?;
            tcp_socket(at(link_local.address.into(), port, zone), keepalive)
        }
    }
    .map(|bound| vec![bound])
}

/// Binds both loopback addresses, as far as the host has them and they are not bound yet, to the same port (also for port 0).
fn localhost(mut bound: Vec<Bound>, port: u16, keepalive: Option<Duration>) -> io::Result<Vec<Bound>> {
    let mut missing = None;
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        if bound.iter().any(|bound| bound.ip() == Some(address)) {
            continue;
        }
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
    fn ip(&self) -> Option<IpAddr> {
        Some(self.socket.get_ref().local_addr().ok()?.as_socket()?.ip())
    }

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
    Ok(Bound { file: None, socket: watched(Arc::new(socket))?, kept: None })
}

// Deprecated, because a type could return a descriptor that it does not own; `Socket` owns it. The replacement is
// unsafe.
#[expect(deprecated)]
fn watched(socket: Arc<Socket>) -> io::Result<AsyncFd<Arc<Socket>>> {
    socket.set_nonblocking(true)?;
    AsyncFd::with_interest(socket, Interest::READABLE)
}
