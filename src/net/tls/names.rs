//! Who may come in of those that the client authority vouches for: by the names in their certificates.
//!
//! A name and a pattern are taken apart in the same way, by their kind: a name of DNS into its labels, a URI into its scheme
//! and host and the elements of its path, an email address into what stands before the @ and the labels behind it. They match
//! where each part does, and `*` is one whole part. So no `*` reaches across a dot or a slash, and no name counts as one of
//! another kind.

use std::net::IpAddr;

use super::certificate::{Certificate, Kind};

/// The name that a client's certificate has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    kind: Kind,
    /// `None` for any one part.
    parts: Vec<Option<String>>,
}

/// Why something is no pattern, and what was probably meant.
#[derive(Debug, PartialEq, Eq)]
pub struct NoPattern {
    pub reason: String,
    pub instead: Option<String>,
}

/// Any one part.
const ANY: &str = "*";

impl Pattern {
    /// Reads `KIND:NAME`.
    pub fn parse(text: &str) -> Result<Self, NoPattern> {
        let no = |reason: String| NoPattern { reason, instead: None };
        let found = text.split_once(':').and_then(|(kind, name)| {
            Kind::ALL
                .into_iter()
                .find(|known| known.name().eq_ignore_ascii_case(kind.trim()))
                .zip(Some(name.trim()))
        });
        let Some((kind, name)) = found else {
            let kinds = Kind::ALL.map(|kind| format!("{}:", kind.name())).join(", ");
            let reason = format!("\"{text}\" begins with none of {kinds}");
            let instead = likely_kind(text).map(|kind| format!("{}:{text}", kind.name()));
            return Err(NoPattern { reason, instead });
        };
        let is_plain = |byte: u8| byte.is_ascii_graphic() || kind == Kind::CommonName;
        let name = match kind {
            Kind::Address => {
                let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
                let networks = if name.contains('/') { ": certificates have no networks" } else { "" };
                let address: Result<IpAddr, _> = inner.parse();
                address.map_err(|_| no(format!("\"{text}\" has no address{networks}")))?.to_string()
            }
            Kind::Dns => name.strip_suffix('.').unwrap_or(name).to_owned(),
            _ => name.to_owned(),
        };
        if !name.bytes().all(is_plain) {
            let instead =
                idna::domain_to_ascii(&name).ok().filter(|_| kind == Kind::Dns && !name.contains(' '));
            let reason = format!("\"{text}\" has letters that no such name in a certificate has");
            return Err(NoPattern { reason, instead: instead.map(|name| format!("{}:{name}", kind.name())) });
        }
        let parts = kind.parts(&name).filter(|parts| kind.are_whole(parts));
        let parts = parts.ok_or_else(|| no(format!("\"{text}\" is no name of its kind: {}", kind.form())))?;
        for (at, part) in parts.iter().enumerate() {
            if part.contains(ANY) && (*part != ANY || !kind.may_be_any(at)) {
                return Err(no(format!("in \"{text}\" a * does not stand for {}", kind.any())));
            }
        }
        let parts = parts.into_iter().map(|part| (part != ANY).then(|| part.to_owned())).collect();
        Ok(Self { kind, parts })
    }

    fn matches(&self, kind: Kind, parts: &[&str]) -> bool {
        let alike = |(at, (wanted, part)): (usize, (&Option<String>, &&str))| match wanted {
            None => kind.is_one(part),
            Some(wanted) if kind.ignores_case(at) => wanted.eq_ignore_ascii_case(part),
            Some(wanted) => wanted == part,
        };
        self.kind == kind
            && self.parts.len() == parts.len()
            && self.parts.iter().zip(parts).enumerate().all(alike)
    }
}

/// What somebody most likely meant who has named no kind.
fn likely_kind(text: &str) -> Option<Kind> {
    let is_dns = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*');
    if text.contains("://") {
        Some(Kind::Uri)
    } else if text.parse::<IpAddr>().is_ok() {
        Some(Kind::Address)
    } else if text.contains('@') {
        Some(Kind::Email)
    } else {
        (text.contains('.') && text.bytes().all(is_dns)).then_some(Kind::Dns)
    }
}

impl Kind {
    /// Takes a name apart; `None` where it is none of this kind.
    fn parts(self, name: &str) -> Option<Vec<&str>> {
        match self {
            Self::Dns | Self::CommonName => Some(name.split('.').collect()),
            Self::Email => {
                let (local, domain) = name.rsplit_once('@')?;
                Some([local].into_iter().chain(domain.split('.')).collect())
            }
            Self::Uri => {
                let path = match name.find("://") {
                    Some(scheme) => {
                        let host = scheme + "://".len();
                        name[host..].find('/').map_or(name.len(), |path| host + path)
                    }
                    // One without a host, such as `urn:example:1`, is a single part.
                    None => name.len(),
                };
                let elements = name[path..].split('/').skip(1);
                Some([&name[..path]].into_iter().chain(elements).collect())
            }
            Self::Address => Some(vec![name]),
        }
    }

    /// Whether a pattern of these parts could be a name.
    fn are_whole(self, parts: &[&str]) -> bool {
        let is_filled = |part: &&str| !part.is_empty();
        match self {
            Self::Dns | Self::CommonName | Self::Email | Self::Address => parts.iter().all(is_filled),
            Self::Uri => parts.first().is_some_and(|start| {
                start
                    .split_once(':')
                    .is_some_and(|(scheme, rest)| !scheme.is_empty() && !matches!(rest, "" | "//"))
            }),
        }
    }

    /// Whether this part of a name is one whole part that `*` stands for, and nothing that is read as several by others.
    fn is_one(self, part: &str) -> bool {
        let is_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        match self {
            Self::Dns => part.bytes().all(is_label) && !part.is_empty(),
            Self::Email | Self::CommonName => {
                !part.is_empty() && !part.contains(ANY) && !part.contains(char::is_control)
            }
            Self::Uri => {
                let is_plain =
                    |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'?' | b'#' | b'*');
                part.bytes().all(is_plain) && !matches!(part, "" | "." | "..")
            }
            Self::Address => false,
        }
    }

    /// Whether the part of that number may be any.
    fn may_be_any(self, at: usize) -> bool {
        match self {
            Self::Dns | Self::Email | Self::CommonName => true,
            // A scheme or a host that is any would be anybody's.
            Self::Uri => at > 0,
            Self::Address => false,
        }
    }

    /// Whether the case of a part does not count (RFC 5280, 7).
    fn ignores_case(self, at: usize) -> bool {
        match self {
            Self::Dns => true,
            Self::Uri => at == 0,
            Self::Email => at > 0,
            Self::Address | Self::CommonName => false,
        }
    }

    /// What such a name looks like.
    fn form(self) -> &'static str {
        match self {
            Self::Dns => "labels with dots, api.example.org",
            Self::Uri => "scheme, host and path, spiffe://example.org/api",
            Self::Email => "ops@example.org",
            Self::Address => "192.0.2.7",
            Self::CommonName => "any words",
        }
    }

    /// What `*` stands for.
    fn any(self) -> &'static str {
        match self {
            Self::Dns | Self::CommonName => "one whole label, as in *.example.org",
            Self::Uri => "one whole element of the path, as in spiffe://example.org/ns/*",
            Self::Email => "all that stands before the @, or one whole label, as in *@example.org",
            Self::Address => "an address: write each",
        }
    }
}

/// The name by which a certificate matches one of the patterns.
pub fn matching(certificate: &Certificate<'_>, patterns: &[Pattern]) -> Option<String> {
    let is_wanted = |kind: Kind, name: &str| {
        let parts = kind.parts(name);
        parts.is_some_and(|parts| patterns.iter().any(|pattern| pattern.matches(kind, &parts)))
    };
    let mut names = certificate.all_names();
    names
        .find(|name| name.text().is_some_and(|text| is_wanted(name.kind, &text)))
        .map(|name| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_whole_part_and_a_name_counts_in_its_own_kind() {
        let matches = |pattern: &str, name: &str| {
            let pattern = Pattern::parse(pattern).unwrap();
            let (kind, name) = name.split_once(':').unwrap();
            let kind = Kind::ALL.into_iter().find(|known| known.name() == kind).unwrap();
            kind.parts(name).is_some_and(|parts| pattern.matches(kind, &parts))
        };
        for (pattern, name) in [
            ("dns:API.example.org.", "dns:api.EXAMPLE.org"),
            ("DNS: a.*.example.org", "dns:a.b.example.org"),
            ("uri:urn:example:1", "uri:URN:example:1"),
            ("uri:https://example.org/a?b=/c", "uri:https://example.org/a?b=/c"),
            ("uri:spiffe://example.org", "uri:spiffe://example.org"),
            ("email:*@*.example.org", "email:jo@a.Example.org"),
            ("ip:[2001:DB8:0::1]", "ip:2001:db8::1"),
            ("cn:*", "cn:Jörg von nebenan"),
            ("cn:jobs.*", "cn:jobs.7"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("dns:*.example.org", "dns:.example.org"),
            ("dns:*.example.org", "dns:a\0.example.org"),
            ("dns:*.example.org", "dns:a.example.org."),
            ("dns:*.example.org", "cn:a.example.org"),
            ("dns:*.example.org", "uri:a.example.org"),
            ("uri:spiffe://example.org/*", "uri:spiffe://example.org/a/b"),
            ("uri:spiffe://example.org/*", "uri:spiffe://example.org/"),
            ("uri:spiffe://example.org/*", "uri:spiffe://example.org/.."),
            ("uri:spiffe://example.org/*", "uri:spiffe://example.org/a?b"),
            ("uri:spiffe://example.org/*", "uri:spiffe://example.org:1/a"),
            ("uri:spiffe://example.org/a", "uri:spiffe://example.org/a/"),
            ("email:jo@example.org", "email:JO@example.org"),
            ("email:*@example.org", "email:@example.org"),
            ("cn:*", "cn:a.b"),
            ("cn:api", "cn:API"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
