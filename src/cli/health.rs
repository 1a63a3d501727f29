//! `health`: asks the running process how it does, as Docker's HEALTHCHECK wants to know.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::admin::{LinkState, Links};
use crate::net::{Interface, ListenAddress};
use crate::net::{at, zone_index};
use crate::text;

/// How long the process may take to say whether it is ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same, where it has to dial its links first: more than it takes for that itself.
const PATIENCE_FOR_DIALS: Duration = Duration::from_secs(25);

/// The longest answer in bytes: links by the thousand.
const LONGEST: usize = 8 * 1024 * 1024;

/// Why the process is not well, or can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unwell {
    /// There is nobody to ask.
    #[error("AMBASSADOR_ADMIN=off leaves nothing to ask; remove it, or set AMBASSADOR_ADMIN=127.0.0.1:9180")]
    Off,
    /// The process chose a port that nobody else can know.
    #[error("AMBASSADOR_ADMIN={0} is any free port; name one, as in AMBASSADOR_ADMIN=127.0.0.1:9180")]
    AnyPort(ListenAddress),
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
    /// It says that it is not ready.
    #[error("not ready: {0}")]
    NotReady(String),
    /// Some links can't be used.
    #[error("{failing} of {all} links can't be dialled: {reasons}")]
    Links {
        /// How many can't.
        failing: usize,
        /// How many there are.
        all: usize,
        /// Why, each with its remedy.
        reasons: String,
    },
}

/// Asks the process whose admin endpoint is there; with `links`, whether every link can be dialled too.
pub fn ask(admin: Option<ListenAddress>, links: bool) -> Result<String, Unwell> {
    let address = admin.ok_or(Unwell::Off)?;
    if matches!(address, ListenAddress::Tcp(_, 0)) {
        return Err(Unwell::AnyPort(address));
    }
    let (path, patience) = if links { ("/links?dial", PATIENCE_FOR_DIALS) } else { ("/readyz", PATIENCE) };
    let answer = match get_at(&address, path, patience) {
        Ok(answer) => answer,
        Err(source) => return Err(Unwell::Silent { address, source }),
    };
    let stranger = || Unwell::Stranger(address.clone());
    let answer = String::from_utf8(answer).map_err(|_| stranger())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(stranger)?;
    match (head.split(' ').nth(1), links) {
        (Some("200"), false) if body == "ready\n" => Ok("ready".to_owned()),
        (Some("503"), false) => Err(Unwell::NotReady(body.trim().to_owned())),
        (Some("200"), true) => judge(&serde_json::from_str(body).map_err(|_| stranger())?),
        _ => Err(stranger()),
    }
}

fn judge(found: &Links) -> Result<String, Unwell> {
    if !found.ready {
        return Err(Unwell::NotReady("draining".to_owned()));
    }
    let all = found.links.len();
    let failure = |link: &LinkState| match &link.last_dial {
        Some(dial) if dial.worked => None,
        Some(dial) => dial.failure.as_ref().map(|failure| {
            format!("{}: {}: {} (remedy: {})", link.link, failure.stage, failure.error, failure.remedy)
        }),
        None => Some(format!("{}: it was not dialled", link.link)),
    };
    let reasons: Vec<_> = found.links.iter().filter_map(failure).collect();
    match reasons.len() {
        0 => Ok(format!("ready, and every link can be dialled ({all})")),
        failing => Err(Unwell::Links { failing, all, reasons: reasons.join("; ") }),
    }
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
