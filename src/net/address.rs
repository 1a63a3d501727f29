//! Where something listens, and what is dialled.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::link_local::LinkLocal;

/// A host as a target names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A link-local address, in its zone.
    LinkLocal(LinkLocal),
    /// A name to be resolved at every dial; Docker allows underscores in it.
    Name(String),
    /// A link that Docker wrote: an address that was frozen when it was written, and the alias under which Docker
    /// keeps the hosts file up to date.
    Linked {
        /// The name in the hosts file.
        alias: String,
        /// The address where the hosts file has none.
        address: IpAddr,
    },
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::LinkLocal(address) => write!(f, "[{address}]"),
            // A name from DNS ends with the root's dot, which nobody says.
            Self::Name(name) => f.write_str(name.strip_suffix('.').unwrap_or(name)),
            Self::Linked { address, .. } => Self::Address(*address).fmt(f),
        }
    }
}

/// One place that can be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A host and a TCP port.
    Tcp(Host, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The addresses of this host that a TCP listener is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interface {
    /// Every address, IPv6 and IPv4; where the host has no IPv6, IPv4.
    All,
    /// The loopback addresses, 127.0.0.1 and `::1`: a client that dials `localhost` may try either.
    Localhost,
    /// One address.
    Address(IpAddr),
    /// One link-local address, in its zone.
    LinkLocal(LinkLocal),
}

/// One place that clients dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp(Interface, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Where a link's clients come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// At least one; none of them takes in another one.
    pub addresses: Vec<ListenAddress>,
    /// The mode of the Unix sockets' files, where it is not the umask's business.
    pub mode: Option<u32>,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Localhost => f.write_str("localhost"),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::LinkLocal(address) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(interface, port) => write!(f, "{interface}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.addresses.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            address.fmt(f)?;
        }
        Ok(())
    }
}
