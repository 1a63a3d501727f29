//! Servers behind the ambassador that do exactly what a test says.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::peer::uninterrupted;
use super::{PATIENCE, Peer, command};

/// A listener whose connections the test takes one by one.
pub(crate) struct Target {
    listener: Socket,
}

impl Target {
    /// On a loopback port that the system picks.
    pub(crate) fn start() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        listener.set_reuse_address(true).expect("a listener that can come back at once");
        listener.bind(&address.into()).unwrap_or_else(|error| panic!("bind {address}: {error}"));
        listener.listen(1024).expect("a listener");
        Self { listener }
    }

    pub(crate) fn unix(path: &Path) -> Self {
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        listener.bind(&SockAddr::unix(path).expect("a short path")).expect("a free path");
        listener.listen(1024).expect("a listener");
        Self { listener }
    }

    /// Holds few bytes that nobody reads, on every connection accepted from now on.
    pub(crate) fn with_small_buffers(self) -> Self {
        self.listener.set_recv_buffer_size(64 * 1024).expect("a buffer size");
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().ok().and_then(|address| address.as_socket()).expect("a TCP address")
    }

    /// The next connection.
    #[track_caller]
    pub(crate) fn accept(&self) -> Peer {
        self.accept_within(PATIENCE).expect("the ambassador connects")
    }

    /// The next connection, which shows the password `secret` and is let in.
    #[track_caller]
    pub(crate) fn accept_authenticated(&self) -> Peer {
        let mut upstream = self.accept();
        upstream.expect(&command(&[b"AUTH", b"secret"]));
        upstream.send(b"+OK\r\n");
        upstream
    }

    /// No connection comes for so long.
    #[track_caller]
    pub(crate) fn expect_no_connection(&self, time: Duration) {
        assert!(self.accept_within(time).is_none(), "the ambassador connected");
    }

    fn accept_within(&self, time: Duration) -> Option<Peer> {
        self.listener.set_read_timeout(Some(time)).expect("a timeout");
        uninterrupted(|| self.listener.accept()).ok().map(|(socket, _)| Peer::new(socket))
    }

    /// Plays `script` to every connection, each in a thread of its own, until dropped. What a script does to a
    /// connection that the ambassador has given up meanwhile is nobody's business, so it must bear that.
    pub(crate) fn serve(self, script: impl Fn(Peer) + Send + Sync + 'static) -> Served {
        let address = self.address();
        let accepted = Arc::new(AtomicUsize::new(0));
        let stopped = Arc::new(AtomicBool::new(false));
        let script = Arc::new(script);
        let thread = thread::spawn({
            let (accepted, stopped) = (Arc::clone(&accepted), Arc::clone(&stopped));
            move || {
                while !stopped.load(Ordering::Relaxed) {
                    if let Some(peer) = self.accept_within(Duration::from_millis(50)) {
                        accepted.fetch_add(1, Ordering::Relaxed);
                        let script = Arc::clone(&script);
                        thread::spawn(move || script(peer));
                    }
                }
            }
        });
        Served { address, accepted, stopped, thread: Some(thread) }
    }

    /// Sends every byte back, and the end too.
    pub(crate) fn echo(self) -> Served {
        self.serve(|mut peer| {
            let mut back = peer.handle();
            // The client may end the connection in any way it likes.
            if std::io::copy(&mut peer, &mut back).is_ok() {
                let _ = back.try_finish_sending();
            }
        })
    }
}

/// A target that a script answers for.
pub(crate) struct Served {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there have been.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Served {
    /// Once dropped, nothing listens at the address any more.
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of its own has been printed already.
            let _ = thread.join();
        }
    }
}

/// An address that answers no attempt to connect at all, as behind a firewall that drops: a listener whose queue is
/// full and stays so.
pub(crate) struct BlackHole {
    listener: Socket,
    _filling: Vec<Socket>,
}

impl BlackHole {
    pub(crate) fn start() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let domain = Domain::for_address(address);
        let listener = Socket::new(domain, Type::STREAM, None).expect("a socket");
        listener.bind(&address.into()).expect("a free port");
        listener.listen(0).expect("a listener");
        let address = listener.local_addr().expect("a bound listener has an address");
        let mut filling = Vec::new();
        loop {
            let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
            if socket.connect_timeout(&address, Duration::from_millis(300)).is_err() {
                return Self { listener, _filling: filling };
            }
            filling.push(socket);
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().ok().and_then(|address| address.as_socket()).expect("a TCP address")
    }
}
