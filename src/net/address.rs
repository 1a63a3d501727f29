//! Configured addresses: endpoints to dial, and addresses to listen on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::link_local::LinkLocal;
use super::{Address, zone_index};

/// The host of a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    Address(IpAddr),
    LinkLocal(LinkLocal),
    /// A name, resolved at every dial; Docker allows underscores in it.
    Name(String),
    /// A link that Docker wrote: an address frozen at that time, and the alias whose entry in the hosts file Docker
    /// keeps
    /// current.
    Linked {
        /// The name in the hosts file.
        alias: String,
        /// Used if the hosts file has no entry.
        address: IpAddr,
    },
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::LinkLocal(address) => write!(f, "[{address}]"),
            // Names from DNS end with the root's dot.
            Self::Name(name) => f.write_str(name.strip_suffix('.').unwrap_or(name)),
            Self::Linked { address, .. } => Self::Address(*address).fmt(f),
        }
    }
}

/// A configured or discovered endpoint to dial.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Tcp(Host, u16),
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
    /// Every IPv6 and IPv4 address; only IPv4 if the host has no IPv6.
    All,
    /// The loopback addresses, 127.0.0.1 and `::1`: a client that dials `localhost` may try either.
    Localhost,
    Address(IpAddr),
    LinkLocal(LinkLocal),
}

/// One address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(Interface, u16),
    Unix(PathBuf),
}

/// The addresses that a link listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// At least one; none of them covers another.
    pub addresses: Vec<ListenAddress>,
    /// The mode of the Unix sockets' files; `None` leaves it to the umask.
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

/// Whether a listener on `one` accepts connections to `other`.
pub fn covers(one: IpAddr, other: IpAddr) -> bool {
    one == other || one.is_unspecified() && (one.is_ipv6() || other.is_ipv4())
}

impl Interface {
    /// Whether a socket that is bound there listens on nothing but this.
    fn includes(&self, bound: SocketAddr) -> bool {
        match self {
            Self::All => true,
            Self::Address(address) => covers(*address, bound.ip()),
            Self::Localhost | Self::LinkLocal(_) => self.binds(bound),
        }
    }

    /// Whether a listener on this binds a socket there.
    fn binds(&self, bound: SocketAddr) -> bool {
        match (self, bound) {
            (Self::All, _) => bound.ip().is_unspecified(),
            (Self::Localhost, _) => {
                [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].contains(&bound.ip())
            }
            (Self::Address(address), _) => *address == bound.ip(),
            (Self::LinkLocal(LinkLocal { address, zone }), SocketAddr::V6(bound)) => {
                address == bound.ip() && zone_index(zone).is_ok_and(|zone| zone == bound.scope_id())
            }
            (Self::LinkLocal(_), SocketAddr::V4(_)) => false,
        }
    }
}

impl ListenAddress {
    /// Whether a socket that is bound there listens on nothing but this.
    pub fn includes(&self, bound: &Address) -> bool {
        match (self, bound) {
            (Self::Tcp(interface, port), Address::Tcp(bound)) => {
                *port == bound.port() && interface.includes(*bound)
            }
            _ => self.binds(bound),
        }
    }

    /// Whether a listener on this binds a socket there.
    pub fn binds(&self, bound: &Address) -> bool {
        match (self, bound) {
            (Self::Tcp(interface, port), Address::Tcp(bound)) => {
                *port == bound.port() && interface.binds(*bound)
            }
            (Self::Unix(path), Address::Unix(bound)) => path == bound,
            _ => false,
        }
    }

    /// What a client dials; none where the system chooses the port.
    pub fn dialled(&self) -> Vec<Address> {
        let at = |address: IpAddr, port| Address::Tcp(SocketAddr::new(address, port));
        match self {
            Self::Tcp(_, 0) => Vec::new(),
            Self::Tcp(Interface::All, port) => vec![at(Ipv6Addr::UNSPECIFIED.into(), *port)],
            Self::Tcp(Interface::Localhost, port) => {
                vec![at(Ipv4Addr::LOCALHOST.into(), *port), at(Ipv6Addr::LOCALHOST.into(), *port)]
            }
            Self::Tcp(Interface::Address(address), port) => vec![at(*address, *port)],
            Self::Tcp(Interface::LinkLocal(address), port) => {
                vec![Address::LinkLocal(address.clone(), *port)]
            }
            Self::Unix(path) => vec![Address::Unix(path.clone())],
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
