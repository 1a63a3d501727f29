//! Servers that say their name, so that a client knows where it has ended up.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{Peer, own_address};

/// Answers every request, of whatever bytes, with its name. When it is dropped its connections end with it.
pub(crate) struct Named {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Named {
    pub(crate) fn start(name: &str) -> Self {
        Self::at(SocketAddr::new(own_address().ip(), 0), name)
    }

    pub(crate) fn at(address: SocketAddr, name: &str) -> Self {
        Self::try_at(address, name).unwrap_or_else(|| panic!("{address} is taken"))
    }

    /// Several servers at one port of different addresses.
    pub(crate) fn at_one_port<const N: usize>(names: [&str; N]) -> [Self; N] {
        loop {
            let port = own_address().port();
            let servers: Vec<_> = names
                .iter()
                .map_while(|name| Self::try_at(SocketAddr::new(own_address().ip(), port), name))
                .collect();
            if let Ok(servers) = servers.try_into() {
                return servers;
            }
        }
    }

    /// One at an IPv4 address and one at an IPv6 address, at one port.
    pub(crate) fn of_both_kinds(names: [&str; 2]) -> [Self; 2] {
        loop {
            let four = Self::start(names[0]);
            let six = SocketAddr::from((Ipv6Addr::LOCALHOST, four.address().port()));
            if let Some(six) = Self::try_at(six, names[1]) {
                return [four, six];
            }
        }
    }

    fn try_at(address: SocketAddr, name: &str) -> Option<Self> {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).ok()?;
        listener.set_reuse_address(true).ok()?;
        listener.bind(&address.into()).ok()?;
        listener.listen(4096).ok()?;
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true).ok()?;
        let address = listener.local_addr().ok()?;
        let open = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (open, connections, stopped) =
                (Arc::clone(&open), Arc::clone(&connections), Arc::clone(&stopped));
            let name = format!("+{name}\r\n");
            move || {
                while !stopped.load(Ordering::Relaxed) {
                    let Ok((mut stream, _)) = listener.accept() else {
                        thread::sleep(Duration::from_millis(2));
                        continue;
                    };
                    stream.set_nonblocking(false).expect("a blocking socket");
                    open.fetch_add(1, Ordering::Relaxed);
                    let handle = stream.try_clone().expect("a second handle");
                    connections.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
                    let (open, name) = (Arc::clone(&open), name.clone());
                    thread::spawn(move || {
                        let mut request = [0; 4096];
                        while stream.read(&mut request).is_ok_and(|len| len > 0)
                            && stream.write_all(name.as_bytes()).is_ok()
                        {}
                        let _ = stream.shutdown(Shutdown::Both);
                        open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
        });
        Some(Self { address, open, connections, stopped, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for connection in self.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that has ended by itself can't be ended again.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// The name of the server that a client is connected to.
#[track_caller]
pub(crate) fn whom(client: &mut Peer) -> String {
    client.send(b"whom?\n");
    client.expect_line().split_off(1)
}

/// The name, or `None` where the connection ended.
pub(crate) fn try_whom(client: &mut Peer) -> Option<String> {
    client.try_send(b"whom?\n").ok()?;
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        match client.read(&mut byte) {
            Ok(1) => line.push(byte[0]),
            _ => return None,
        }
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).ok().map(|mut line| line.split_off(1))
}
