//! Why a certificate was refused, and the line that mends it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, RootCertStore};
use webpki::Error as Webpki;

use super::Words;
use crate::net::tls::certificate::{Certificate, Key, Purpose, key_kind, name, signature_kind};
use crate::net::tls::pem::NEW_KEY;
use crate::net::tls::verify::Refused;

/// More names than this tell nobody anything.
const MOST_NAMES: usize = 5;

const RENEW: &str = "renew the certificate; if it is new, look at the clock of this host";
const LOOK: &str = "look at the certificate: openssl x509 -text -noout";
const AS_AUTHORITY: &str = "issue that authority's certificate anew, with basicConstraints=critical,CA:TRUE and without \
                            extendedKeyUsage";
const NO_LISTS: &str = "can't be looked up in a list of revoked ones";

/// What one side has shown of itself, and who would have been believed.
pub struct Shown<'a> {
    /// The beginning of every sentence: `the certificate of redis:6380`, say.
    whose: String,
    purpose: Purpose,
    /// Its own certificate first; `None` for one that can't be read.
    chain: Vec<Option<Certificate<'a>>>,
    authorities: Option<&'a RootCertStore>,
    name: Option<&'a ServerName<'static>>,
    is_proof: bool,
}

/// Which authority it is that nobody knows.
pub enum Unknown {
    /// The certificate has none but itself.
    Itself,
    /// The certificate is among the authorities, where it vouches for nobody. Whose certificate should be there instead.
    Misplaced(String),
    /// Any other.
    Other(String),
}

impl<'a> Shown<'a> {
    pub fn of(whose: String, purpose: Purpose, refused: Option<&'a Refused>) -> Self {
        let chain = refused.map(|refused| refused.chain.as_slice()).unwrap_or_default();
        Self {
            authorities: refused.map(|refused| &*refused.authorities),
            name: refused.and_then(|refused| refused.name.as_ref()),
            is_proof: refused.is_some_and(|refused| refused.is_proof),
            ..Self::alone(whose, purpose, chain)
        }
    }

    /// Of a certificate that was not shown by anybody, but read from a file.
    pub fn alone(whose: String, purpose: Purpose, chain: &'a [CertificateDer<'_>]) -> Self {
        let chain = chain.iter().map(|certificate| Certificate::read(certificate)).collect();
        Self { whose, purpose, chain, authorities: None, name: None, is_proof: false }
    }

    fn own(&self) -> Option<&Certificate<'a>> {
        self.chain.first()?.as_ref()
    }

    /// The first certificate that is to blame, else its own.
    fn culprit(&self, is_to_blame: impl Fn(&Certificate<'a>) -> bool) -> usize {
        self.chain.iter().position(|read| read.as_ref().is_some_and(&is_to_blame)).unwrap_or(0)
    }

    /// A sentence about one certificate of the chain.
    fn says(&self, culprit: usize, predicate: &str) -> String {
        let whose = &self.whose;
        match self.chain.get(culprit) {
            Some(Some(authority)) if culprit > 0 => {
                format!("{whose} comes with that of {}, which {predicate}", quoted(name(authority.subject)))
            }
            Some(None) if culprit > 0 => format!("{whose} comes with another one, which {predicate}"),
            _ => format!("{whose} {predicate}"),
        }
    }

    /// The line that issues the certificate anew with these extensions.
    ///
    /// Nothing that a stranger wrote may be in it: people run it. The name is from the configuration.
    fn anew(&self, extensions: &[String]) -> String {
        let stem = self.side();
        if self.own().is_some_and(Certificate::is_self_signed) {
            let extensions: Vec<_> = extensions.iter().map(|line| format!("-addext {line} ")).collect();
            return format!(
                "openssl req -x509 -key {stem}.key -subj /CN={stem} -days 365 -sha256 {}-addext \
                 basicConstraints=critical,CA:FALSE -out {stem}.pem",
                extensions.concat()
            );
        }
        format!(
            "(echo {}) > {stem}.ext && openssl x509 -req -in {stem}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -sha256 \
             -days 365 -extfile {stem}.ext -out {stem}.pem",
            extensions.join("; echo ")
        )
    }

    /// The extension by which a certificate is for the name that is dialled, or at least for this side of TLS.
    fn named(&self) -> String {
        match (self.name, self.purpose) {
            (Some(ServerName::DnsName(name)), _) => format!("subjectAltName=DNS:{}", name.as_ref()),
            (Some(ServerName::IpAddress(address)), _) => {
                format!("subjectAltName=IP:{}", std::net::IpAddr::from(*address))
            }
            (_, Purpose::Server) => "subjectAltName=DNS:NAME".to_owned(),
            (_, Purpose::Client) => self.usage(),
        }
    }

    /// Whose certificate it is.
    fn side(&self) -> &'static str {
        match self.purpose {
            Purpose::Server => "server",
            Purpose::Client => "client",
        }
    }

    fn usage(&self) -> String {
        match self.purpose {
            Purpose::Server => "extendedKeyUsage=serverAuth",
            Purpose::Client => "extendedKeyUsage=clientAuth",
        }
        .to_owned()
    }

    /// What this side can tell by itself of why its own certificate may be refused, whoever its authority is.
    pub fn fault(&self) -> Option<Words> {
        let own = self.own()?;
        if own.version != 3 {
            Some(self.version())
        } else if own.is_authority() {
            Some(self.explain_webpki(&Webpki::CaUsedAsEndEntity))
        } else if own.is_for_another_purpose(self.purpose) {
            Some(self.purpose())
        } else if self.purpose == Purpose::Server && own.names().is_empty() {
            Some((self.names(), self.with_names()))
        } else {
            None
        }
    }

    /// What is wrong with it, and what to do about it.
    pub fn explain(&self, error: &CertificateError) -> Words {
        match error {
            CertificateError::BadEncoding => self.unreadable("can't be read"),
            CertificateError::ExpiredContext { not_after, .. } => self.expired(*not_after),
            // What there is no moment for: its end is before its beginning.
            CertificateError::Expired => {
                let culprit = self.culprit(|read| read.begins > read.ends);
                (self.says(culprit, "ends before it begins"), "have it issued anew".to_owned())
            }
            CertificateError::NotValidYetContext { not_before, .. } => self.early(*not_before),
            CertificateError::NotValidYet => {
                (self.says(0, "is not valid yet"), "look at the clock of this host".to_owned())
            }
            CertificateError::Revoked => {
                (self.says(0, "is revoked"), "have another certificate issued".to_owned())
            }
            CertificateError::UnhandledCriticalExtension => self.critical_extension(),
            CertificateError::UnknownIssuer => {
                (self.says(0, "is from an unknown authority"), "let its authority be trusted".to_owned())
            }
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => {
                (self.says(0, NO_LISTS), LOOK.to_owned())
            }
            CertificateError::BadSignature => self.bad_signature(),
            CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
                self.signed_with(signature_algorithm_id)
            }
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                public_key_algorithm_id,
                ..
            } => self.key_kind(public_key_algorithm_id),
            CertificateError::NotValidForNameContext { .. } | CertificateError::NotValidForName => {
                (self.names(), "let it be asked for by a name that it has".to_owned())
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                self.purpose()
            }
            CertificateError::InvalidOcspResponse => (
                self.says(0, "comes with a statement about its revocation that is not good (OCSP)"),
                "see the server's settings of OCSP stapling".to_owned(),
            ),
            CertificateError::ApplicationVerificationFailure => (self.says(0, "is refused"), LOOK.to_owned()),
            CertificateError::Other(other) => match other.0.downcast_ref() {
                Some(error) => self.explain_webpki(error),
                None => self.unknown(),
            },
            other => self.explain_deprecated(other),
        }
    }

    /// What no version of rustls that is in use says any more.
    #[expect(deprecated, reason = "it is still in the list")]
    fn explain_deprecated(&self, error: &CertificateError) -> Words {
        match error {
            CertificateError::UnsupportedSignatureAlgorithm => self.signed_with(&[]),
            _ => self.unknown(),
        }
    }

    /// What rustls has no error of its own for.
    pub fn explain_webpki(&self, error: &Webpki) -> Words {
        match error {
            Webpki::BadDer | Webpki::TrailingData(_) => self.unreadable("can't be read"),
            Webpki::BadDerTime => self.unreadable("has a date that is none"),
            Webpki::SignatureAlgorithmMismatch => {
                self.unreadable("names one algorithm for its signature inside and another outside")
            }
            Webpki::InvalidSerialNumber => self.unreadable("has a serial number that is none"),
            Webpki::ExtensionValueInvalid | Webpki::MalformedExtensions => {
                self.unreadable("has an extension that can't be read, or one twice")
            }
            Webpki::MalformedDnsIdentifier => self.unreadable("has a name that is none"),
            Webpki::UnsupportedCertVersion => self.version(),
            Webpki::UnsupportedCriticalExtension => self.critical_extension(),
            Webpki::CaUsedAsEndEntity => (
                self.says(0, "is that of an authority, which vouches for others and not for itself"),
                format!(
                    "have a certificate for the {} itself issued (basicConstraints CA:FALSE): {}",
                    self.side(),
                    self.anew(&[self.named()])
                ),
            ),
            Webpki::EndEntityUsedAsCa => {
                let culprit = 1 + self
                    .chain
                    .iter()
                    .skip(1)
                    .position(|read| read.as_ref().is_some_and(|read| !read.is_authority()))
                    .unwrap_or(0);
                (
                    self.says(culprit, "vouches for others and may not (no basicConstraints CA:TRUE)"),
                    AS_AUTHORITY.to_owned(),
                )
            }
            Webpki::EmptyEkuExtension | Webpki::RequiredEkuNotFoundContext(_) => self.purpose(),
            Webpki::NameConstraintViolation => (
                self.says(0, "has a name that its authority may not vouch for (nameConstraints)"),
                "have it issued for a name that its authority may vouch for, or by another authority: openssl x509 -text \
                 -noout shows what it may"
                    .to_owned(),
            ),
            Webpki::MalformedNameConstraint | Webpki::InvalidNetworkMaskConstraint => (
                self.says(0, "is from an authority whose nameConstraints can't be read"),
                AS_AUTHORITY.to_owned(),
            ),
            Webpki::PathLenConstraintViolated => (
                self.says(0, "has more authorities above it than the highest of them allows (pathlen)"),
                "have it issued by an authority higher up, or issue the authorities anew with a larger pathlen".to_owned(),
            ),
            Webpki::MaximumPathDepthExceeded
            | Webpki::MaximumPathBuildCallsExceeded
            | Webpki::MaximumSignatureChecksExceeded
            | Webpki::MaximumNameConstraintComparisonsExceeded => (
                self.says(0, "comes with more certificates, or in a longer chain, than are looked through"),
                "let the server send its own certificate and those between it and its authority, and no others".to_owned(),
            ),
            Webpki::CertDistrusted => (
                self.says(0, "has a key, or an authority with one, that is known to be in wrong hands"),
                NEW_KEY.to_owned(),
            ),
            Webpki::CertRevoked => self.explain(&CertificateError::Revoked),
            Webpki::CertExpired { not_after, .. } => self.expired(*not_after),
            Webpki::CertNotValidYet { not_before, .. } => self.early(*not_before),
            Webpki::InvalidCertValidity => self.explain(&CertificateError::Expired),
            Webpki::CertNotValidForName(_) => self.explain(&CertificateError::NotValidForName),
            Webpki::UnsupportedNameType => (
                self.says(0, "can't be compared with a name of the kind that is dialled"),
                "dial the target by a name of DNS or an address".to_owned(),
            ),
            Webpki::UnknownIssuer => self.explain(&CertificateError::UnknownIssuer),
            Webpki::InvalidSignatureForPublicKey => self.bad_signature(),
            Webpki::UnsupportedSignatureAlgorithmContext(context) => {
                self.signed_with(&context.signature_algorithm_id)
            }
            Webpki::UnsupportedSignatureAlgorithmForPublicKeyContext(context) => {
                self.key_kind(&context.public_key_algorithm_id)
            }
            Webpki::CrlExpired { .. }
            | Webpki::InvalidCrlNumber
            | Webpki::InvalidCrlSignatureForPublicKey
            | Webpki::IssuerNotCrlSigner
            | Webpki::UnknownRevocationStatus
            | Webpki::UnsupportedCrlIssuingDistributionPoint
            | Webpki::UnsupportedCrlVersion
            | Webpki::UnsupportedDeltaCrl
            | Webpki::UnsupportedIndirectCrl
            | Webpki::UnsupportedRevocationReason
            | Webpki::UnsupportedRevocationReasonsPartitioning
            | Webpki::UnsupportedCrlSignatureAlgorithmContext(_)
            | Webpki::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
                (self.says(0, NO_LISTS), LOOK.to_owned())
            }
            other => self.explain_deprecated_webpki(other),
        }
    }

    #[expect(deprecated, reason = "they are still in the list")]
    fn explain_deprecated_webpki(&self, error: &Webpki) -> Words {
        match error {
            Webpki::RequiredEkuNotFound => self.purpose(),
            Webpki::UnsupportedSignatureAlgorithm => self.signed_with(&[]),
            Webpki::UnsupportedSignatureAlgorithmForPublicKey => self.key_kind(&[]),
            Webpki::UnsupportedCrlSignatureAlgorithm
            | Webpki::UnsupportedCrlSignatureAlgorithmForPublicKey => {
                (self.says(0, NO_LISTS), LOOK.to_owned())
            }
            _ => self.unknown(),
        }
    }

    fn unknown(&self) -> Words {
        (self.says(0, "can't be verified, for a reason that has no words here"), LOOK.to_owned())
    }

    fn unreadable(&self, predicate: &str) -> Words {
        let culprit = self.chain.iter().position(Option::is_none).unwrap_or(0);
        (self.says(culprit, predicate), format!("have it issued anew; {LOOK}"))
    }

    fn expired(&self, not_after: UnixTime) -> Words {
        let culprit = self.culprit(|read| seconds(read.ends) == Some(not_after.as_secs()));
        let remedy =
            if culprit == 0 { RENEW } else { "let the new certificate of that authority be sent with it" };
        (self.says(culprit, &format!("expired on {}", date(not_after))), remedy.to_owned())
    }

    fn early(&self, not_before: UnixTime) -> Words {
        let culprit = self.culprit(|read| seconds(read.begins) == Some(not_before.as_secs()));
        (
            self.says(culprit, &format!("is not valid before {}", date(not_before))),
            "look at the clocks of this host and of the one that issued the certificate".to_owned(),
        )
    }

    fn version(&self) -> Words {
        let culprit = self.culprit(|read| read.version != 3);
        let (predicate, remedy) = if culprit == 0 {
            (
                match self.purpose {
                    Purpose::Server => {
                        "is of X.509's first version, which has no place for the names that it is for"
                    }
                    Purpose::Client => {
                        "is of X.509's first version, which has no place to say what it is for"
                    }
                },
                format!(
                    "issue it anew with extensions, without which openssl x509 -req makes such ones: {}",
                    self.anew(&[self.named()])
                ),
            )
        } else {
            (
                "is of X.509's first version, which has no place to say that it may vouch for others",
                AS_AUTHORITY.to_owned(),
            )
        };
        (self.says(culprit, predicate), remedy)
    }

    fn critical_extension(&self) -> Words {
        let culprit = self.culprit(|read| read.unheeded().is_some());
        let read = self.chain.get(culprit).and_then(Option::as_ref);
        let extension =
            read.and_then(Certificate::unheeded).unwrap_or_else(|| "one without a name".to_owned());
        (
            self.says(culprit, &format!("has a critical extension that is not understood here: {extension}")),
            "have it issued anew without that extension, or with it not critical".to_owned(),
        )
    }

    fn purpose(&self) -> Words {
        let culprit = self.culprit(|read| read.is_for_another_purpose(self.purpose));
        let usage = self.usage();
        let predicate = format!("is not meant for this side of TLS, which is {usage}");
        let remedy = if culprit == 0 {
            let mut extensions = vec![self.named(), usage];
            // For a client the usage is all that it has to be issued for.
            extensions.dedup();
            format!(
                "have a certificate issued with extendedKeyUsage serverAuth for servers and clientAuth for clients: {}",
                self.anew(&extensions)
            )
        } else {
            AS_AUTHORITY.to_owned()
        };
        (self.says(culprit, &predicate), remedy)
    }

    fn bad_signature(&self) -> Words {
        let range = Key::RSA_BITS;
        if self.is_proof {
            return match self.own().and_then(Certificate::key) {
                Some(key) if key.is_wrong_size() => (
                    self.says(
                        0,
                        &format!("has {}, and {} to {} are taken", key.name(), range.start(), range.end()),
                    ),
                    NEW_KEY.to_owned(),
                ),
                _ => (
                    self.says(0, "is shown without proof of its key"),
                    "see whether certificate and key belong together there, and who is in between".to_owned(),
                ),
            };
        }
        match self.authority_key_of_wrong_size() {
            Some((culprit, key)) => (
                self.says(
                    culprit,
                    &format!(
                        "is signed by an authority with {}, and {} to {} are taken",
                        key.name(),
                        range.start(),
                        range.end()
                    ),
                ),
                "make the authority anew with a key of at least 2048 bits, and have the certificate issued by it".to_owned(),
            ),
            None => (
                self.says(0, "is not signed by the authority that it names"),
                "see whether the authority has a new certificate of the same name, and let both sides have it".to_owned(),
            ),
        }
    }

    /// The first certificate whose issuer, in the chain or among the authorities, has an RSA key that nothing can be
    /// verified with.
    fn authority_key_of_wrong_size(&self) -> Option<(usize, Key)> {
        self.chain.iter().enumerate().find_map(|(index, read)| {
            let issuer = read.as_ref()?.issuer;
            let in_chain = self.chain.iter().flatten().filter(|other| other.subject == issuer);
            let in_chain = in_chain.filter_map(Certificate::key);
            let roots = self.authorities.map(|authorities| authorities.roots.as_slice()).unwrap_or_default();
            let known = roots.iter().filter(|root| root.subject.as_ref() == issuer);
            let known = known.filter_map(|root| Key::read(root.subject_public_key_info.as_ref()));
            let key = in_chain.chain(known).find(Key::is_wrong_size)?;
            Some((index, key))
        })
    }

    fn signed_with(&self, algorithm: &[u8]) -> Words {
        let kind = signature_kind(algorithm);
        if self.is_proof {
            return (
                self.says(0, &format!("is proved with {kind}, which is not taken")),
                "let the other side sign with SHA-256 or better".to_owned(),
            );
        }
        let culprit = self.culprit(|read| read.signed_with == algorithm);
        (
            self.says(culprit, &format!("is signed with {kind}, which is not taken")),
            format!(
                "have it issued anew by an authority with an RSA, P-256, P-384 or Ed25519 key, with SHA-256 or better: {}",
                self.anew(&[self.named()])
            ),
        )
    }

    fn key_kind(&self, algorithm: &[u8]) -> Words {
        let kind = key_kind(algorithm);
        let taken = "RSA, P-256, P-384 and Ed25519 are";
        if self.is_proof {
            let predicate = format!("has a key of the kind {kind}, which is not taken; {taken}");
            return (self.says(0, &predicate), NEW_KEY.to_owned());
        }
        (
            self.says(
                0,
                &format!(
                    "is signed by an authority with a key of the kind {kind}, which is not taken; {taken}"
                ),
            ),
            "make the authority anew with a key of such a kind, and have the certificate issued by it"
                .to_owned(),
        )
    }

    /// Which name it has, and which it should have.
    pub fn names(&self) -> String {
        let expected = self.expected();
        let Some(own) = self.own() else {
            return self.says(0, &format!("is for another name than {expected}"));
        };
        let names = own.names();
        if names.is_empty() {
            let common_name = match own.common_name() {
                Some(name) => format!(", and its common name \"{name}\" does not count"),
                None => String::new(),
            };
            let wanted = match self.name {
                Some(_) => format!("; it is to be {expected}"),
                None => String::new(),
            };
            return self
                .says(0, &format!("has no name that counts (no subjectAltName){common_name}{wanted}"));
        }
        // As a name of DNS, that is: a slip of whoever wrote `DNS:10.0.0.1`.
        if names.iter().any(|name| *name == expected) {
            return self.says(0, &format!("has {expected} as a name (DNS:) and not as an address (IP:)"));
        }
        let more = names.len().saturating_sub(MOST_NAMES);
        let mut names: Vec<_> = names.into_iter().take(MOST_NAMES).collect();
        if more > 0 {
            names.push(format!("{more} more"));
        }
        self.says(0, &format!("is for {}, not for {expected}", names.join(", ")))
    }

    /// The names of a client, the first of many.
    pub fn client_names(&self) -> String {
        let own = self.own();
        let mut names = own.into_iter().flat_map(Certificate::all_names);
        let mut told: Vec<_> = names.by_ref().take(MOST_NAMES).map(|name| name.to_string()).collect();
        let more = names.count();
        if more > 0 {
            told.push(format!("{more} more"));
        }
        if told.is_empty() { "no name".to_owned() } else { told.join(", ") }
    }

    fn expected(&self) -> Cow<'_, str> {
        self.name.map(ServerName::to_str).unwrap_or_default()
    }

    fn with_names(&self) -> String {
        format!("issue it anew with subjectAltName: {}", self.anew(&[self.named()]))
    }

    /// Whether it has a name at all that could be dialled instead; with the variables that say which name it is to have, and
    /// how it is verified.
    pub fn names_remedy(&self, server_name: &str, verify: &str) -> String {
        let or = format!("or set {verify}=ca, if it is enough that its authority vouches for it");
        let names = self.own().map(Certificate::names).unwrap_or_default();
        let expected = self.expected();
        if names.is_empty() || names.iter().any(|name| *name == expected) {
            return format!("{}; {or}", self.with_names());
        }
        format!("dial the target by a name that its certificate has, or set {server_name} to one; {or}")
    }

    /// Which authority is not known, if that is what is wrong.
    pub fn unknown_authority(&self, error: &CertificateError) -> Option<Unknown> {
        let is_version = |error: &Webpki| matches!(error, Webpki::UnsupportedCertVersion);
        match error {
            CertificateError::UnknownIssuer => {}
            // An authority's own certificate that was sent along, and would not have been looked at had it been known.
            CertificateError::Other(other) if other.0.downcast_ref().is_some_and(is_version) => {
                let first = self.chain.iter().flatten().find(|read| read.version != 3)?;
                let is_root = first.is_self_signed() && self.own().is_some_and(|own| own.version == 3);
                is_root.then_some(())?;
            }
            _ => return None,
        }
        let Some(own) = self.own() else { return Some(Unknown::Other(quoted(None))) };
        if own.is_self_signed() {
            return Some(Unknown::Itself);
        }
        let mut highest = own;
        // Not more often than there are certificates: they may go round in a circle.
        for _ in &self.chain {
            let above = self.chain.iter().flatten().find(|above| above.subject == highest.issuer);
            match above {
                Some(above) if !above.is_self_signed() => highest = above,
                _ => break,
            }
        }
        let unknown = quoted(name(highest.issuer));
        let roots = self.authorities.map(|authorities| authorities.roots.as_slice()).unwrap_or_default();
        Some(if roots.iter().any(|root| root.subject.as_ref() == own.subject) {
            Unknown::Misplaced(unknown)
        } else {
            Unknown::Other(unknown)
        })
    }
}

fn quoted(name: Option<String>) -> String {
    name.map_or_else(|| "one without a name".to_owned(), |name| format!("\"{name}\""))
}

fn seconds(time: Option<SystemTime>) -> Option<u64> {
    Some(time?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

fn date(time: UnixTime) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    // The library of dates ends where years have five digits, and would panic.
    let known = time.filter(|time| seconds(Some(*time)).is_some_and(|seconds| seconds < YEAR_10000));
    known.map_or_else(
        || "a day beyond reckoning".to_owned(),
        |time| humantime::format_rfc3339_seconds(time).to_string(),
    )
}

/// The first second of the year 10000.
const YEAR_10000: u64 = 253_402_300_800;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_readable() {
        let date = |seconds| date(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert_eq!(date(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(date(YEAR_10000 - 1), "9999-12-31T23:59:59Z");
        assert_eq!(date(YEAR_10000), "a day beyond reckoning");
        assert_eq!(date(u64::MAX), "a day beyond reckoning");
    }
}
