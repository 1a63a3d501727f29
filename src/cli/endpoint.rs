//! A client of the running process' admin endpoint.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::net::{Interface, ListenAddress};
use crate::net::{at, zone_index};
use crate::text;

/// The longest answer in bytes: links by the thousand.
const LONGEST: usize = 8 * 1024 * 1024;

/// Why the process can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unasked {
    /// There is nobody to ask.
    #[error("AMBASSADOR_ADMIN=off leaves nothing to ask; remove it, or set AMBASSADOR_ADMIN=127.0.0.1:9180")]
    Off,
    /// The process chose a port that nobody else can know.
    #[error("AMBASSADOR_ADMIN={0} is any free port; name one, as in AMBASSADOR_ADMIN=127.0.0.1:9180")]
    AnyPort(ListenAddress),
    /// Nobody listens there.
    #[error(
        "no answer from {0}: the ambassador is not running, or its AMBASSADOR_ADMIN is another; start it, or name its \
         endpoint with --admin ADDRESS:PORT, or the file of its variables with --env-file FILE; of one in a container ask \
         inside it: docker exec NAME /redis-ambassador"
    )]
    NotRunning(ListenAddress),
    /// The process does not answer.
    #[error(
        "no answer from {address}: {}; is AMBASSADOR_ADMIN the same as for the running process?",
        text::io_error(source)
    )]
    Silent {
        /// Where it should listen.
        address: ListenAddress,
        /// What happened.
        source: io::Error,
    },
    /// Somebody else answers.
    #[error(
        "{0} does not answer like redis-ambassador; is AMBASSADOR_ADMIN the same as for the running process?"
    )]
    Stranger(ListenAddress),
}

/// What it said.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks the process whose admin endpoint is there.
pub(super) fn ask(address: &ListenAddress, path: &str, patience: Duration) -> Result<Answer, Unasked> {
    if matches!(address, ListenAddress::Tcp(_, 0)) {
        return Err(Unasked::AnyPort(address.clone()));
    }
    let answer = get_at(address, path, patience).map_err(|source| match source.kind() {
        io::ErrorKind::ConnectionRefused => Unasked::NotRunning(address.clone()),
        _ => Unasked::Silent { address: address.clone(), source },
    })?;
    let parsed = || {
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, body: body.to_owned() })
    };
    parsed().ok_or_else(|| Unasked::Stranger(address.clone()))
}

/// The whole answer to one request.
fn get(address: SocketAddr, path: &str, patience: Duration) -> io::Result<Vec<u8>> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    // In version 1.0 an answer ends where the connection does.
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while answer.len() < LONGEST {
        // No time left is no timeout to the kernel, but an error to the library.
        let left = patience.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// The answer of whoever listens there, by the first of its addresses that takes a connection.
fn get_at(address: &ListenAddress, path: &str, patience: Duration) -> io::Result<Vec<u8>> {
    let mut first_error = None;
    for address in reachable(address)? {
        match get(address, path, patience) {
            // Nobody waits twice.
            Err(error) if error.kind() != io::ErrorKind::TimedOut => {
                first_error.get_or_insert(error);
            }
            done => return done,
        }
    }
    Err(first_error.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// Where a listener can be dialled from this host. Who listens on every address can be asked on the loopback one.
fn reachable(address: &ListenAddress) -> io::Result<Vec<SocketAddr>> {
    let (ipv4, ipv6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let ListenAddress::Tcp(interface, port) = address else { return Ok(Vec::new()) };
    let addresses = match interface {
        Interface::All | Interface::Localhost => vec![ipv4, ipv6],
        Interface::Address(address) if address.is_unspecified() => {
            vec![if address.is_ipv4() { ipv4 } else { ipv6 }]
        }
        Interface::Address(address) => vec![*address],
        Interface::LinkLocal(link_local) => {
            return Ok(vec![at(link_local.address.into(), *port, zone_index(&link_local.zone)?)]);
        }
    };
    Ok(addresses.into_iter().map(|address| at(address, *port, 0)).collect())
}
