//! Listening sockets that the service manager has passed, until the listener is found that they are for.

use std::net::Shutdown;
use std::sync::Arc;

use rustix::net::sockopt::socket_acceptconn;
use socket2::Socket;

use super::{Address, ListenAddress, socket_file};
use crate::systemd;

/// What the names begin with under which this program has sockets stored.
const STORED: &str = "stored-";

/// Sockets that no listener has taken yet.
#[derive(Debug, Default)]
pub struct PassedSockets {
    sockets: Vec<PassedSocket>,
    /// Names of what is none, or has no address.
    strangers: Vec<String>,
}

/// A socket that listens.
#[derive(Clone, Debug)]
pub struct PassedSocket {
    pub name: String,
    pub socket: Arc<Socket>,
    /// Where it listens.
    pub address: Address,
}

impl PassedSocket {
    /// Whether it was stored by this program, and not made by a socket unit.
    pub fn is_stored(&self) -> bool {
        is_stored(&self.name)
    }

    /// Whether it is one for this address: a stored one is what would be bound there; that of a unit may listen on less.
    fn serves(&self, address: &ListenAddress) -> bool {
        match &self.address {
            // Without its file nobody finds it.
            Address::Unix(path) if !path.exists() => false,
            bound if self.is_stored() => address.binds(bound),
            bound => address.includes(bound),
        }
    }
}

impl PassedSockets {
    pub fn new(passed: Vec<systemd::Passed>) -> Self {
        let mut all = Self::default();
        for systemd::Passed { name, socket } in passed {
            let listening = socket
                .filter(|socket| socket_acceptconn(socket).unwrap_or_default())
                .map(Socket::from)
                .map(Arc::new);
            match listening.and_then(|socket| Some((address(&socket)?, socket))) {
                Some((address, socket)) => all.sockets.push(PassedSocket { name, socket, address }),
                None => all.strangers.push(name),
            }
        }
        all
    }

    /// Whether a socket unit has passed any.
    pub fn are_of_a_unit(&self) -> bool {
        self.sockets.iter().any(|socket| !socket.is_stored())
    }

    /// Those that are named after a link or the admin endpoint, wherever they listen.
    pub(super) fn take_named(&mut self, link: &str) -> Vec<PassedSocket> {
        let name = name_of_socket(link);
        self.sockets.extract_if(.., |socket| socket.name == name).collect()
    }

    /// Those for this address.
    pub(super) fn take_at(&mut self, address: &ListenAddress) -> Vec<PassedSocket> {
        self.sockets.extract_if(.., |socket| socket.serves(address)).collect()
    }

    /// Takes those back that no listener could be made of.
    pub(super) fn give_back(&mut self, sockets: Vec<PassedSocket>) {
        self.sockets.extend(sockets);
    }

    /// Those that this program has stored for any of these addresses.
    pub fn take_stored_at(&mut self, addresses: &[ListenAddress]) -> Self {
        let is_wanted = |socket: &mut PassedSocket| {
            socket.is_stored() && addresses.iter().any(|address| socket.serves(address))
        };
        Self { sockets: self.sockets.extract_if(.., is_wanted).collect(), strangers: Vec::new() }
    }

    /// Closes those that this program has stored for any other address, so that their ports are free. Returns their names.
    pub fn close_stored_but(&mut self, addresses: &[ListenAddress]) -> Vec<String> {
        let is_unwanted = |socket: &mut PassedSocket| {
            socket.is_stored() && !addresses.iter().any(|address| socket.serves(address))
        };
        self.sockets.extract_if(.., is_unwanted).map(close).collect()
    }

    pub fn count(&self) -> usize {
        self.sockets.len()
    }

    /// Closes all that are left, and returns their names.
    pub fn close(&mut self) -> Vec<String> {
        self.sockets.drain(..).map(close).collect()
    }

    /// Those that are left, and the names of what is none.
    pub fn into_rest(self) -> (Vec<PassedSocket>, Vec<String>) {
        (self.sockets, self.strangers)
    }
}

/// Closes a stored socket for everybody who has it: the service manager takes its time. Returns its name.
fn close(PassedSocket { name, socket, address }: PassedSocket) -> String {
    tracing::info!(target: "listen", name, listen = %address, "stored listener closed: no link listens there any more");
    // It fails only where nothing listens.
    let _ = socket.shutdown(Shutdown::Both);
    if let Address::Unix(path) = &address {
        // By its file the next start would take it for one that listens: the manager may still have it then. Where it can't
        // be removed, or is another's by now, it stays.
        let _ = socket_file::remove_abandoned(path);
    }
    name
}

/// The name that a socket for this link has, `redis-6379` for `redis:6379`: there is no colon in such names.
pub fn name_of_socket(link: &str) -> String {
    link.replace(':', "-")
}

/// Where a socket listens; none for a Unix socket without a file.
fn address(socket: &Socket) -> Option<Address> {
    let address = socket.local_addr().ok()?;
    match address.as_socket() {
        Some(address) => Some(Address::Tcp(address)),
        None => Some(Address::Unix(address.as_pathname()?.to_owned())),
    }
}

/// Whether it is the name of a socket that this program has stored.
pub fn is_stored(name: &str) -> bool {
    name.starts_with(STORED)
}

/// The name for a socket in the service manager's store: no colon, no byte that is not printable.
pub(super) fn stored_name(listener: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_graphic() && *c != ':';
    let plain = |c: char| if is_plain(&c) { c } else { '-' };
    format!("{STORED}{}", listener.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;
    use crate::net::{Interface, Listen, Listener};

    /// It listens at the service manager: whoever closes it has to know of it.
    #[tokio::test]
    async fn what_was_taken_is_given_back_where_another_address_can_t_be_had() {
        let [stored, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let at = [&stored, &other].map(|socket| socket.local_addr().unwrap());
        let listen = Listen {
            addresses: at
                .map(|at| ListenAddress::Tcp(Interface::Address(Ipv4Addr::LOCALHOST.into()), at.port()))
                .to_vec(),
            mode: None,
        };
        let passed = systemd::Passed { name: format!("{STORED}one"), socket: Some(stored.into()) };
        let mut passed = PassedSockets::new(vec![passed]);
        Listener::open(None, &listen, None, &mut passed).expect_err("the other one is taken");
        assert_eq!(passed.count(), 1);
        TcpStream::connect(at[0]).expect("it listens");
        assert_eq!(passed.close().len(), 1);
    }
}
