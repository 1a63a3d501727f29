//! Link-local IPv6 addresses with their zone: `fe80::1%eth0` (RFC 4007), in URLs `fe80::1%25eth0` (RFC 6874).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A link-local address and its zone: the interface on whose link it is valid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinkLocal {
    pub address: Ipv6Addr,
    /// The interface's name or index.
    pub zone: String,
}

/// The longest name of an interface in Linux (`IFNAMSIZ`, less the NUL at its end).
const LONGEST_ZONE: usize = 15;

impl FromStr for LinkLocal {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (address, zone) = text.split_once('%').ok_or("it has no zone")?;
        // The rest of an encoded percent sign (%25). Alone, 25 is the index of an interface.
        let zone = zone.strip_prefix("25").filter(|zone| !zone.is_empty()).unwrap_or(zone);
        let is_written = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=LONGEST_ZONE).contains(&zone.len()) || !zone.bytes().all(is_written) {
            return Err("the part after the % is not the name of an interface");
        }
        match address.parse::<Ipv6Addr>() {
            Ok(address) if address.is_unicast_link_local() => Ok(Self { address, zone: zone.to_owned() }),
            Ok(_) => Err("only a link-local address (fe80::…) has a zone"),
            Err(_) => Err("it has a zone, but is not an IPv6 address"),
        }
    }
}

impl fmt::Display for LinkLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // So that it parses to the same zone.
        let percent = if self.zone.starts_with("25") { "%25" } else { "%" };
        write!(f, "{}{percent}{}", self.address, self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_read_and_shown_the_same() {
        for (written, zone, shown) in [
            ("fe80::1%eth0", "eth0", "fe80::1%eth0"),
            ("fe80::1%25eth0", "eth0", "fe80::1%eth0"),
            ("fe80::1%eth0.100", "eth0.100", "fe80::1%eth0.100"),
            ("fe80::1%2", "2", "fe80::1%2"),
            ("fe80::1%25", "25", "fe80::1%2525"),
            ("fe80::1%2525", "25", "fe80::1%2525"),
        ] {
            let address: LinkLocal = written.parse().unwrap_or_else(|error| panic!("{written}: {error}"));
            assert_eq!(address.zone, zone, "{written}");
            assert_eq!(address.to_string(), shown, "{written}");
            assert_eq!(shown.parse::<LinkLocal>().as_ref(), Ok(&address), "{written}");
        }
        for written in ["fe80::1", "fe80::1%", "fe80::1%a/b", "2001:db8::1%eth0", "fe80%eth0", "%eth0"] {
            assert!(written.parse::<LinkLocal>().is_err(), "{written}");
        }
    }
}
