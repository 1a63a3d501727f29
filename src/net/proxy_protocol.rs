//! The PROXY protocol, versions 1 and 2: before a client's first byte a balancer says whose connection it is.
//!
//! <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>, whose sections the comments name. A header is a stranger's
//! bytes until it was read; of what follows it nothing is taken. What it says beside the addresses (TLVs) is passed over.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Client, Stream};

/// The form of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text (2.1).
    One,
    /// Binary (2.2).
    Two,
}

impl Version {
    /// As the setting has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "v1",
            Self::Two => "v2",
        }
    }
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A client's over TCP; both addresses are of one family.
    Tcp {
        from: SocketAddr,
        /// What the client had dialled.
        to: SocketAddr,
    },
    /// A client's over a Unix socket.
    Unix,
    /// The sender's own, such as a health check (`LOCAL`), or that of a client of whom it knows nothing (`UNKNOWN`).
    Own,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub enum NoHeader {
    /// The peer has left without a word, as some health checks do.
    #[error("the client left before it was served")]
    Left,
    #[error("it ended in the midst of the header")]
    CutOff,
    #[error("it began with a TLS handshake instead")]
    Tls,
    #[error("it began with something else")]
    SomethingElse,
    /// It begins as one does, and is none.
    #[error("the header {0}")]
    Malformed(&'static str),
}

/// What version 2 begins with; in most other protocols an error that ends the connection.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 1 begins with.
const PROXY: &[u8] = b"PROXY ";

/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;

/// The part of version 2 that is always there: signature, version and command, family and protocol, length.
const FIXED: usize = 16;

/// The addresses of version 2 over IPv4, IPv6 and Unix sockets.
const OF_IPV4: usize = 12;
const OF_IPV6: usize = 36;
const OF_UNIX: usize = 216;

/// So much of a header says all that is wanted of it.
const MOST: usize = FIXED + OF_UNIX;

/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

impl Header {
    /// Of a client who has dialled that address.
    pub fn of(client: Client, to: Option<SocketAddr>) -> Self {
        match (client, to) {
            (Client::Tcp(from), Some(to)) => Self::between(from, to),
            (Client::Tcp(_), None) => Self::Own,
            (Client::Unix, _) => Self::Unix,
        }
    }

    /// An IPv4 address is one, however it is written, unless the other one is of IPv6.
    fn between(from: SocketAddr, to: SocketAddr) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let mapped = |address: SocketAddr| SocketAddr::new(as_ipv6(address).into(), address.port());
        let (from, to) = (canonical(from), canonical(to));
        if from.is_ipv4() == to.is_ipv4() {
            Self::Tcp { from, to }
        } else {
            Self::Tcp { from: mapped(from), to: mapped(to) }
        }
    }

    /// Finds the header that bytes begin with, and its length, which may be more than there is: `None` where they are too
    /// few to tell, fewer than [`MOST`] then.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, NoHeader> {
        let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, wanted)| byte == wanted);
        if begins(SIGNATURE) {
            parse_binary(bytes)
        } else if begins(PROXY) {
            parse_line(bytes)
        } else if bytes.first() == Some(&TLS_HANDSHAKE) {
            Err(NoHeader::Tls)
        } else {
            Err(NoHeader::SomethingElse)
        }
    }

    /// Takes the header off a connection, and no byte behind it. There is no limit on the time.
    pub async fn read(stream: &mut Stream) -> Result<Self, NoHeader> {
        let mut said = Vec::with_capacity(MOST);
        loop {
            let before = said.len();
            said.resize(MOST, 0);
            let more = match stream.peek(&mut said[before..]).await {
                Ok(0) | Err(_) if before == 0 => return Err(NoHeader::Left),
                Ok(0) | Err(_) => return Err(NoHeader::CutOff),
                Ok(more) => more,
            };
            said.truncate(before + more);
            let parsed = Self::parse(&said)?;
            let length = parsed.map_or(said.len(), |(_, length)| length);
            skip(stream, length - before).await.map_err(|_| NoHeader::CutOff)?;
            if let Some((header, _)) = parsed {
                return Ok(header);
            }
        }
    }

    fn line(self) -> String {
        match self {
            Self::Tcp { from, to } => {
                let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
            }
            Self::Unix | Self::Own => "PROXY UNKNOWN\r\n".to_owned(),
        }
    }

    fn binary(self) -> Vec<u8> {
        const LOCAL: u8 = 0x20;
        const PROXIED: u8 = 0x21;
        let (command, family, addresses) = match self {
            Self::Tcp { from: SocketAddr::V4(from), to: SocketAddr::V4(to) } => {
                (PROXIED, 0x11, [from.ip().octets(), to.ip().octets()].concat())
            }
            Self::Tcp { from, to } => {
                (PROXIED, 0x21, [as_ipv6(from).octets(), as_ipv6(to).octets()].concat())
            }
            // Clients' sockets have no path, and ours is nobody's business.
            Self::Unix => (PROXIED, 0x31, vec![0; OF_UNIX]),
            Self::Own => (LOCAL, 0x00, Vec::new()),
        };
        let ports = match self {
            Self::Tcp { from, to } => [from.port().to_be_bytes(), to.port().to_be_bytes()].concat(),
            Self::Unix | Self::Own => Vec::new(),
        };
        // At most 216.
        let length = u16::try_from(addresses.len() + ports.len()).unwrap_or_default();
        [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), &addresses, &ports].concat()
    }

    /// As it is sent.
    pub fn bytes(self, version: Version) -> Vec<u8> {
        match version {
            Version::One => self.line().into_bytes(),
            Version::Two => self.binary(),
        }
    }
}

/// A header and its form, for a connection that we dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    pub version: Version,
    pub header: Header,
}

impl Announcement {
    /// Sends it on a fresh connection.
    pub async fn send(self, stream: &mut Stream) -> io::Result<()> {
        // Version 1 has no word for a connection of the sender's own that all receivers take; its own addresses are
        // (2.1).
        let header = match (self.version, self.header, stream.ends()) {
            (Version::One, Header::Own, Some((from, to))) => Header::between(from, to),
            (_, header, _) => header,
        };
        stream.write_all(&header.bytes(self.version)).await
    }
}

/// Takes so many bytes off a connection.
async fn skip(stream: &mut Stream, mut length: usize) -> io::Result<()> {
    let mut passed = [0; 512];
    while length > 0 {
        let most = length.min(passed.len());
        length -= stream.read_exact(&mut passed[..most]).await?;
    }
    Ok(())
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 6379`, and CRLF.
fn parse_line(bytes: &[u8]) -> Result<Option<(Header, usize)>, NoHeader> {
    const UNKNOWN: &[u8] = b"PROXY UNKNOWN";
    let bytes = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        if bytes.len() == LONGEST_LINE {
            return Err(NoHeader::Malformed("does not end within 107 bytes"));
        }
        // Whatever stands behind UNKNOWN does not count; elsewhere a wrong byte is told as soon as it is there.
        let is_text =
            bytes.strip_suffix(b"\r").unwrap_or(bytes).iter().all(|byte| matches!(byte, b' '..=b'~'));
        return if is_text || bytes.starts_with(UNKNOWN) { Ok(None) } else { Err(NOT_A_LINE) };
    };
    let (line, length) = (&bytes[..end], end + 2);
    if line.strip_prefix(UNKNOWN).is_some_and(|rest| rest.is_empty() || rest.starts_with(b" ")) {
        return Ok(Some((Header::Own, length)));
    }
    let line = std::str::from_utf8(line).map_err(|_| NOT_A_LINE)?;
    let fields: Vec<_> = line.split(' ').collect();
    let [_, family, from, to, from_port, to_port] = fields[..] else { return Err(NOT_A_LINE) };
    let ip = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(Into::into).map_err(|_| NOT_AN_ADDRESS),
        "TCP6" => text.parse::<Ipv6Addr>().map(Into::into).map_err(|_| NOT_AN_ADDRESS),
        _ => Err(NoHeader::Malformed("names neither TCP4 nor TCP6 nor UNKNOWN")),
    };
    let from = SocketAddr::new(ip(from)?, port(from_port)?);
    let to = SocketAddr::new(ip(to)?, port(to_port)?);
    Ok(Some((Header::Tcp { from, to }, length)))
}

const NOT_A_LINE: NoHeader = NoHeader::Malformed("is no line of version 1");
const NOT_AN_ADDRESS: NoHeader = NoHeader::Malformed("has an address that is none of its family");

fn port(text: &str) -> Result<u16, NoHeader> {
    let is_plain = text == "0" || text.starts_with(|first: char| first.is_ascii_digit() && first != '0');
    let port = text.parse().ok().filter(|_| is_plain);
    port.ok_or(NoHeader::Malformed("has a port that is none"))
}

/// Version 2, whatever its TLVs are.
fn parse_binary(bytes: &[u8]) -> Result<Option<(Header, usize)>, NoHeader> {
    const VERSION: u8 = 2;
    const STREAM: u8 = 1;
    let Some((fixed, addresses)) = bytes.split_first_chunk::<FIXED>() else { return Ok(None) };
    let [.., version_and_command, family_and_protocol, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version_and_command >> 4 != VERSION {
        return Err(NoHeader::Malformed("is of a version other than 1 and 2"));
    }
    let own = Ok(Some((Header::Own, FIXED + length)));
    match version_and_command & 0xf {
        0 => return own,
        1 => {}
        _ => return Err(NoHeader::Malformed("has a command other than LOCAL and PROXY")),
    }
    let wanted = match (family_and_protocol >> 4, family_and_protocol & 0xf) {
        (1, STREAM) => OF_IPV4,
        (2, STREAM) => OF_IPV6,
        (3, STREAM) => OF_UNIX,
        // Of what is valid, and no stream, the addresses need not be known.
        (0..=3, 0..=2) => return own,
        _ => return Err(NoHeader::Malformed("names an unknown family or protocol")),
    };
    if length < wanted {
        return Err(NoHeader::Malformed("is too short for its addresses"));
    }
    let Some(addresses) = addresses.get(..wanted) else { return Ok(None) };
    let header = match *addresses {
        [ref ips @ .., a, b, c, d] if wanted != OF_UNIX => {
            let (from_port, to_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let (from, to) = ips.split_at(ips.len() / 2);
            Header::Tcp { from: socket_address(from, from_port), to: socket_address(to, to_port) }
        }
        _ => Header::Unix,
    };
    Ok(Some((header, FIXED + length)))
}

fn as_ipv6(address: SocketAddr) -> Ipv6Addr {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped(),
        SocketAddr::V6(v6) => *v6.ip(),
    }
}

/// From the 4 or 16 bytes of an address.
fn socket_address(ip: &[u8], port: u16) -> SocketAddr {
    match (<[u8; 4]>::try_from(ip), <[u8; 16]>::try_from(ip)) {
        (Ok(v4), _) => (v4, port).into(),
        (_, Ok(v6)) => (v6, port).into(),
        _ => (Ipv4Addr::UNSPECIFIED, port).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent is understood, in both versions, as far as they can say it.
    #[test]
    fn what_is_written_is_read() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let of = |from: &str, to: &str| Header::of(Client::Tcp(address(from)), Some(address(to)));
        for header in [
            of("192.0.2.1:1", "192.0.2.2:65535"),
            of("[2001:db8::1]:1", "[::1]:6379"),
            // Of two families, as a listener on every address has them, both are written as the longer one.
            of("[::ffff:192.0.2.1]:1", "[2001:db8::2]:6379"),
            Header::Unix,
            Header::Own,
        ] {
            let binary = header.bytes(Version::Two);
            assert_eq!(Header::parse(&binary).unwrap(), Some((header, binary.len())));
            let line = header.bytes(Version::One);
            let told = if header == Header::Unix { Header::Own } else { header };
            assert_eq!(Header::parse(&line).unwrap(), Some((told, line.len())));
        }
        assert_eq!(
            of("[::ffff:192.0.2.1]:1", "192.0.2.2:2").bytes(Version::One),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
        );
    }
}
