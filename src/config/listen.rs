//! The grammar of listen addresses: `LISTEN`, `AMBASSADOR_BIND` and `AMBASSADOR_ADMIN`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::notation::{Refusal, each, items};
use super::target::socket_path;
use crate::net::{Endpoint, Host, Interface, Listen, ListenAddress, covers};

const IPV6_LOOPBACK: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const IPV4_LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl Interface {
    /// Its addresses; the unspecified IPv4 address stands for all of IPv4, that of IPv6 for all of both families.
    fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::All => vec![Ipv6Addr::UNSPECIFIED.into()],
            Self::Localhost => vec![IPV4_LOOPBACK, IPV6_LOOPBACK],
            Self::Address(address) => vec![*address],
            Self::LinkLocal(link_local) => vec![link_local.address.into()],
        }
    }

    fn takes_in(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::LinkLocal(_), _) => self == other,
            _ => {
                other.addresses().iter().all(|other| self.addresses().iter().any(|one| covers(*one, *other)))
            }
        }
    }

    fn clashes_with(&self, other: &Self) -> bool {
        if let (Self::LinkLocal(_), Self::LinkLocal(_)) = (self, other) {
            return self == other;
        }
        let (ours, theirs) = (self.addresses(), other.addresses());
        ours.iter().any(|one| theirs.iter().any(|other| covers(*one, *other) || covers(*other, *one)))
    }

    /// Whether a dial to `address` from this host would connect to this listener.
    fn answers(&self, address: IpAddr) -> bool {
        let arrives = if address.is_unspecified() { IPV4_LOOPBACK } else { address };
        let is_ours = |own: IpAddr| match own {
            own if own.is_unspecified() => arrives.is_loopback() && covers(own, arrives),
            own => own == arrives,
        };
        self.addresses().into_iter().any(is_ours)
    }

    /// Parses an address, with or without brackets. The only name is `localhost`.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if inner.contains('%') {
            return inner.parse().map(Self::LinkLocal).map_err(|reason| reason.to_string().into());
        }
        if let Ok(address) = inner.parse::<IpAddr>() {
            return match address.to_canonical() {
                IpAddr::V6(address) if address.is_unicast_link_local() => Err(format!(
                    "{address} is a link-local address, which needs its interface: {address}%eth0"
                )
                .into()),
                address => Ok(Self::Address(address)),
            };
        }
        match inner {
            "" | "*" => Ok(Self::All),
            name if name.trim_end_matches('.').eq_ignore_ascii_case("localhost") => Ok(Self::Localhost),
            _ => Err(format!("\"{text}\" is no IP address").into()),
        }
    }

    /// `AMBASSADOR_BIND`: addresses without a port, separated by commas.
    pub(super) fn parse_list(text: &str) -> Result<Vec<Self>, Refusal> {
        let written: Vec<_> = items(text).collect();
        let interfaces = each(&written, |item| {
            Self::parse(item).map_err(|refusal| match ListenAddress::parse(item, None) {
                Ok(ListenAddress::Tcp(interface, _)) => Refusal::instead(
                    format!("\"{item}\" has a port, and each link has a port of its own"),
                    interface.to_string(),
                ),
                Ok(ListenAddress::Unix(_)) => "a Unix socket is one link's own: set <ALIAS>_LISTEN".into(),
                Err(_) => refusal,
            })
        })?;
        if interfaces.is_empty() { Err("it names no address".into()) } else { Ok(interfaces) }
    }
}

impl ListenAddress {
    fn takes_in(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one, port), Self::Tcp(other, same)) => port == same && one.takes_in(other),
            _ => self == other,
        }
    }

    /// Whether both can't be bound at the same time; port 0 never clashes.
    fn clashes_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one, port), Self::Tcp(other, same)) => {
                port == same && *port != 0 && one.clashes_with(other)
            }
            _ => self == other,
        }
    }

    fn answers(&self, endpoint: &Endpoint) -> bool {
        match (self, endpoint) {
            (Self::Unix(listen), Endpoint::Unix(dialled)) => listen == dialled,
            (Self::Tcp(interface, port), Endpoint::Tcp(host, dialled)) if port == dialled => match host {
                Host::Address(address) | Host::Linked { address, .. } => interface.answers(*address),
                Host::LinkLocal(address) => *interface == Interface::LinkLocal(address.clone()),
                Host::Name(name) if name.trim_end_matches('.').eq_ignore_ascii_case("localhost") => {
                    interface.answers(IPV4_LOOPBACK) || interface.answers(IPV6_LOOPBACK)
                }
                Host::Name(_) => false,
            },
            _ => false,
        }
    }

    /// `ADDRESS:PORT` or `unix:/PATH`. `port` is suggested where the port is missing.
    pub(super) fn parse(text: &str, port: Option<u16>) -> Result<Self, Refusal> {
        if text.starts_with('/') {
            return unix(text);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            // Also `unix:///PATH`, the form in a target.
            return unix(path.strip_prefix("//").unwrap_or(path));
        }
        let text = text.strip_prefix("tcp://").unwrap_or(text);
        let written = || format!("\"{text}\" is neither ADDRESS:PORT nor unix:/PATH");
        let default_port = port.unwrap_or(6379);
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let reason = format!("\"{text}\" has no address");
            return Err(Refusal::instead(
                reason,
                format!("*:{text} (or localhost:{text}, for this host alone)"),
            ));
        }
        let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        if let Some((host, port)) = split {
            match Interface::parse(host) {
                Ok(interface) if host.contains(':') && !host.starts_with('[') => {
                    let reason = format!("\"{text}\" has an IPv6 address without brackets");
                    return Err(Refusal::instead(reason, format!("{interface}:{port}")));
                }
                Ok(interface) => return Ok(Self::Tcp(interface, port)),
                Err(refusal) if host.starts_with('[') => return Err(refusal),
                Err(_) => {}
            }
        }
        match Interface::parse(text) {
            Ok(interface) => {
                let reason = format!("\"{text}\" has no port");
                Err(Refusal::instead(reason, format!("{interface}:{default_port}")))
            }
            Err(_) => Err(written().into()),
        }
    }
}

fn unix(path: &str) -> Result<ListenAddress, Refusal> {
    if path.starts_with('@') {
        return Err(
            "it is an abstract socket, which every process on the host may connect to: name a file".into()
        );
    }
    if !path.starts_with('/') || path.ends_with('/') {
        let reason = format!("\"{path}\" is not the absolute path of a socket's file");
        let name = path.trim_matches('/');
        return Err(if name.is_empty() {
            reason.into()
        } else {
            Refusal::instead(reason, format!("unix:/{name}"))
        });
    }
    let path = PathBuf::from(path);
    socket_path(path).map(ListenAddress::Unix).map_err(|malformed| malformed.to_string().into())
}

impl Listen {
    /// The default without a `LISTEN`: a port on these interfaces.
    pub(super) fn on(interfaces: &[Interface], port: u16) -> Self {
        let addresses =
            interfaces.iter().map(|interface| ListenAddress::Tcp(interface.clone(), port)).collect();
        Self { addresses, mode: None }.without_repetition()
    }

    /// Parses `LISTEN`: addresses separated by commas.
    pub(super) fn parse(text: &str, port: u16) -> Result<Self, Refusal> {
        // Not by spaces, which a path may contain.
        let written: Vec<_> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        let addresses = each(&written, |item| ListenAddress::parse(item, Some(port)))?;
        if addresses.is_empty() {
            return Err("it names no address".into());
        }
        let listen = Self { addresses, mode: None }.without_repetition();
        for (index, one) in listen.addresses.iter().enumerate() {
            if let Some(other) = listen.addresses[..index].iter().find(|other| other.clashes_with(one)) {
                return Err(format!("{one} and {other} can't be listened on at the same time").into());
            }
        }
        Ok(listen)
    }

    /// Drops addresses that others in the list cover.
    fn without_repetition(mut self) -> Self {
        let mut kept: Vec<ListenAddress> = Vec::new();
        for address in self.addresses {
            if !kept.iter().any(|other| other.takes_in(&address)) {
                kept.retain(|other| !address.takes_in(other));
                kept.push(address);
            }
        }
        self.addresses = kept;
        self
    }

    /// Its TCP addresses with another port: where a node of a cluster is listened for.
    pub fn at(&self, port: u16) -> Self {
        let addresses = self.addresses.iter().filter_map(|address| match address {
            ListenAddress::Tcp(interface, _) => Some(ListenAddress::Tcp(interface.clone(), port)),
            ListenAddress::Unix(_) => None,
        });
        Self { addresses: addresses.collect(), mode: None }.without_repetition()
    }

    pub(super) fn has_unix(&self) -> bool {
        self.addresses.iter().any(|address| matches!(address, ListenAddress::Unix(_)))
    }

    pub(super) fn is_unix_only(&self) -> bool {
        self.addresses.iter().all(|address| matches!(address, ListenAddress::Unix(_)))
    }

    /// Whether both can't be bound at the same time.
    pub(super) fn clashes_with(&self, other: &Self) -> bool {
        self.addresses.iter().any(|one| other.addresses.iter().any(|other| one.clashes_with(other)))
    }

    /// Whether a dial to `endpoint` would connect to this listener, a loop.
    pub fn answers(&self, endpoint: &Endpoint) -> bool {
        self.addresses.iter().any(|address| address.answers(endpoint))
    }
}
