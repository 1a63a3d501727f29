//! Where clients come in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::target::{Endpoint, Host};

/// Where clients come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// This port on every address, IPv6 and IPv4.
    Everywhere(u16),
    /// One address.
    Address(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere(port) => write!(f, "*:{port}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    fn port(&self) -> Option<u16> {
        match self {
            Self::Everywhere(port) => Some(*port),
            Self::Address(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }

    /// Whether both can't be bound at the same time; port 0 is any free one.
    pub(super) fn clashes_with(&self, other: &Self) -> bool {
        if let (Self::Unix(a), Self::Unix(b)) = (self, other) {
            return a == b;
        }
        let (Some(a), Some(b)) = (self.port(), other.port()) else {
            return false;
        };
        let wide = |listen: &Self| match listen {
            Self::Address(address) => address.ip().is_unspecified(),
            _ => true,
        };
        a == b && a != 0 && (wide(self) || wide(other) || self == other)
    }

    /// Whether a dial to `endpoint` would come straight back.
    pub(super) fn answers(&self, endpoint: &Endpoint) -> bool {
        match (self, endpoint) {
            (Self::Unix(listen), Endpoint::Unix(dialled)) => listen == dialled,
            (listen, Endpoint::Tcp(host, port)) if listen.port() == Some(*port) => {
                let address = match host {
                    Host::Address(address) | Host::Linked { address, .. } => *address,
                    Host::Name(name) if name == "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    Host::Name(_) => return false,
                };
                match listen {
                    Self::Address(bound) if !bound.ip().is_unspecified() => bound.ip() == address,
                    _ => address.is_loopback() || address.is_unspecified(),
                }
            }
            _ => false,
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let written = || format!("\"{text}\" is neither ADDRESS:PORT nor unix:/PATH");
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///PATH` is what the same place is called as a target.
            let path = path.strip_prefix("//").unwrap_or(path);
            let absolute = path.starts_with('/') && !path.ends_with('/');
            return absolute.then(|| Self::Unix(PathBuf::from(path))).ok_or_else(written);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(written)?;
        let port = port.parse().map_err(|_| written())?;
        match host {
            "" | "*" => Ok(Self::Everywhere(port)),
            "localhost" => Ok(Self::Address((Ipv4Addr::LOCALHOST, port).into())),
            _ => Err(written()),
        }
    }
}
