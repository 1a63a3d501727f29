//! What went wrong with TLS, in words that a person can act on.

use std::io;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::stream::Broken;
use crate::config::Link;
use crate::failure::{Failure, Stage};
use crate::resp::one_line;

/// More names than this tell nobody anything.
const MOST_NAMES: usize = 5;

fn broken(error: &io::Error) -> Option<&Broken> {
    error.get_ref()?.downcast_ref()
}

/// Whether a handshake failed because the other side speaks something else.
pub fn is_no_tls(error: &io::Error) -> bool {
    broken(error).is_some_and(|broken| {
        matches!(broken.error, Error::InvalidMessage(InvalidMessage::InvalidContentType))
    })
}

/// Why the TLS with a link's target failed.
pub fn by_target(error: io::Error, endpoint: &str, link: &Link) -> Failure {
    let endpoint = endpoint.to_owned();
    match broken(&error) {
        Some(broken) => {
            let (what, remedy) = Target { endpoint: &endpoint, link }.explain(broken);
            Failure::Tls { what, remedy }
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Failure::Closed { stage: Stage::Tls, endpoint, hint: "" }
        }
        None => Failure::Broken { stage: Stage::Tls, endpoint, hint: "", source: error },
    }
}

/// A target may refuse the handshake when for us it is over already: in TLS 1.3 it looks at our certificate last. An
/// error of the stream that is such a refusal, in words.
pub fn late_refusal(error: &io::Error, endpoint: &str, link: &Link) -> Option<Failure> {
    let broken = broken(error).filter(|broken| matches!(broken.error, Error::AlertReceived(_)))?;
    let (what, remedy) = Target { endpoint, link }.explain(broken);
    Some(Failure::Tls { what, remedy })
}

/// Why the TLS with a client failed.
pub fn by_client(error: &io::Error, link: &Link) -> Failure {
    match broken(error) {
        Some(broken) => {
            let (what, remedy) = Client { link }.explain(broken);
            Failure::Tls { what, remedy }
        }
        // It closed or reset the connection without a word, as port scanners and health checks do.
        None => Failure::ClientLeft,
    }
}

/// A client whose handshake took longer than the connect timeout.
pub fn slow_client(after: Duration) -> Failure {
    Failure::Tls {
        what: format!(
            "the client did not finish the TLS handshake within {}",
            humantime::format_duration(after)
        ),
        remedy: "see whether the client speaks TLS at all, and the network between".to_owned(),
    }
}

type Words = (String, String);

struct Target<'a> {
    endpoint: &'a str,
    link: &'a Link,
}

impl Target<'_> {
    fn has_identity(&self) -> bool {
        self.link.tls.as_ref().is_some_and(|tls| tls.files.identity.is_some())
    }

    fn explain(&self, broken: &Broken) -> Words {
        let endpoint = self.endpoint;
        let Link { alias, variable, .. } = self.link;
        match &broken.error {
            Error::InvalidCertificate(error) => self.certificate(error, broken.issuer.as_deref()),
            Error::AlertReceived(alert) => self.alert(*alert),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
                format!("{endpoint} does not speak TLS"),
                format!(
                    "name its TLS port in {variable}, or turn TLS off: redis:// or tcp://, without {alias}_TLS"
                ),
            ),
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired,
            )
            | Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => self.old_version(),
            Error::NoCertificatesPresented => {
                (format!("{endpoint} shows no certificate"), "give the server a certificate".to_owned())
            }
            other => (
                format!(
                    "the TLS handshake with {endpoint} failed: {}",
                    one_line(other.to_string().as_bytes())
                ),
                "see the target's own log".to_owned(),
            ),
        }
    }

    fn old_version(&self) -> Words {
        (
            format!("{} speaks neither TLS 1.2 nor TLS 1.3", self.endpoint),
            "let the server speak TLS 1.2 or later".to_owned(),
        )
    }

    fn certificate(&self, error: &CertificateError, issuer: Option<&str>) -> Words {
        let endpoint = self.endpoint;
        let alias = &self.link.alias;
        let files = self.link.tls.as_ref().map(|tls| &tls.files);
        let names_remedy = format!(
            "dial the target by a name that its certificate has, or set {alias}_TLS_SERVER_NAME to one"
        );
        match error {
            CertificateError::UnknownIssuer => {
                let authority = authority(issuer);
                let remedy = match files.and_then(|files| files.authorities.as_ref()) {
                    Some(path) => format!(
                        "put the certificate of {authority} into {}, if it is to be trusted; or let the server send the whole chain",
                        path.display()
                    ),
                    None => format!(
                        "set {alias}_TLS_CA_FILE to a file with the certificate of {authority}, if it is to be trusted"
                    ),
                };
                (format!("the certificate of {endpoint} is from an unknown authority: {authority}"), remedy)
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let names = names(presented);
                (
                    format!("the certificate of {endpoint} is for {names}, not for {}", expected.to_str()),
                    names_remedy,
                )
            }
            CertificateError::NotValidForName => {
                (format!("the certificate of {endpoint} is for another name"), names_remedy)
            }
            _ => {
                let (what, remedy) = unfit(error);
                (format!("the certificate of {endpoint} {what}"), remedy.to_owned())
            }
        }
    }

    fn alert(&self, alert: AlertDescription) -> Words {
        let endpoint = self.endpoint;
        let alias = &self.link.alias;
        let demanded = || {
            (
                format!("{endpoint} demands a client certificate"),
                format!("set {alias}_TLS_CERT_FILE and {alias}_TLS_KEY_FILE to one that the target knows"),
            )
        };
        match alert {
            AlertDescription::CertificateRequired => demanded(),
            // What servers say in TLS 1.2 when they have been shown no certificate; and, rarely, for no cipher in common.
            AlertDescription::HandshakeFailure if !self.has_identity() => {
                let (what, remedy) = demanded();
                (format!("{what}, or has no cipher in common with us (handshake_failure)"), remedy)
            }
            AlertDescription::ProtocolVersion => self.old_version(),
            AlertDescription::UnrecognisedName => (
                format!("{endpoint} knows no server of the name that was asked for (unrecognized_name)"),
                format!("set {alias}_TLS_SERVER_NAME to the server's name"),
            ),
            _ => match refused_certificate(alert) {
                Some(why) if self.has_identity() => (
                    format!("{endpoint} refused our client certificate: {why}"),
                    format!(
                        "set {alias}_TLS_CERT_FILE to a certificate that the target takes; see its own log"
                    ),
                ),
                // Some servers say this to those who show none.
                Some(_) => demanded(),
                None => (
                    format!("{endpoint} ended the TLS handshake: {alert:?}"),
                    "see the target's own log".to_owned(),
                ),
            },
        }
    }
}

struct Client<'a> {
    link: &'a Link,
}

impl Client<'_> {
    fn explain(&self, broken: &Broken) -> Words {
        let alias = &self.link.alias;
        let files = self.link.listen_tls.as_ref().map(|tls| &tls.files);
        let known = files.and_then(|files| files.authorities.as_ref());
        let known = known.map(|path| path.display().to_string()).unwrap_or_default();
        match &broken.error {
            Error::NoCertificatesPresented => (
                "the client shows no certificate".to_owned(),
                format!("give the client a certificate from an authority in {known}"),
            ),
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                let authority = authority(broken.issuer.as_deref());
                (
                    format!("the client's certificate is from an unknown authority: {authority}"),
                    format!("put the certificate of {authority} into {known}, if it is to be trusted"),
                )
            }
            Error::InvalidCertificate(error) => {
                let (what, remedy) = unfit(error);
                (format!("the client's certificate {what}"), remedy.to_owned())
            }
            Error::AlertReceived(alert) => match refused_certificate(*alert) {
                Some(why) => (
                    format!("the client refused our certificate: {why}"),
                    format!(
                        "let the client trust the authority of {alias}_LISTEN_TLS_CERT_FILE and dial a name that the certificate has"
                    ),
                ),
                None => (
                    format!("the client ended the TLS handshake: {alert:?}"),
                    "see the client's own log".to_owned(),
                ),
            },
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
                "the client does not speak TLS, and this port does".to_owned(),
                format!("turn TLS on in the client, or remove {alias}_LISTEN_TLS_CERT_FILE and its key"),
            ),
            Error::PeerIncompatible(
                // Which TLS 1.2 is the first to have.
                PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired,
            )
            | Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => (
                "the client speaks neither TLS 1.2 nor TLS 1.3".to_owned(),
                "let the client speak TLS 1.2 or later".to_owned(),
            ),
            Error::PeerIncompatible(_) => (
                format!("the client has no TLS in common with us: {}", broken.error),
                "let the client speak TLS 1.2 with modern ciphers, or TLS 1.3".to_owned(),
            ),
            other => (
                format!("the TLS handshake with the client failed: {other}"),
                "see the client's own log".to_owned(),
            ),
        }
    }
}

fn authority(issuer: Option<&str>) -> String {
    issuer.map_or_else(|| "one without a name".to_owned(), |issuer| format!("\"{issuer}\""))
}

/// What is wrong with a certificate as such, and the remedy.
fn unfit(error: &CertificateError) -> (String, &'static str) {
    const RENEW: &str = "renew the certificate; if it is new, look at the clock of this host";
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            (format!("expired on {}", date(*not_after)), RENEW)
        }
        CertificateError::Expired => ("has expired".to_owned(), RENEW),
        CertificateError::NotValidYetContext { not_before, .. } => (
            format!("is not valid before {}", date(*not_before)),
            "look at the clocks of this host and of the one that issued the certificate",
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            "is not meant for this side of TLS (its extended key usage)".to_owned(),
            "have a certificate issued for serverAuth to servers and for clientAuth to clients",
        ),
        CertificateError::BadSignature => (
            "is not signed by the authority that it names".to_owned(),
            "see whether the authority has a new certificate of the same name, and let both sides have it",
        ),
        CertificateError::Other(other)
            if matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
        {
            (
                "is that of an authority, which vouches for others and not for itself".to_owned(),
                "have a certificate for the server itself issued (basicConstraints CA:FALSE)",
            )
        }
        other => (
            format!("can't be verified: {}", one_line(other.to_string().as_bytes())),
            "look at the certificate: openssl x509 -text -noout",
        ),
    }
}

/// What a peer's alert says about the certificate that it was shown; `None` if it is about something else.
fn refused_certificate(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::UnknownCA => "it does not know its authority (unknown_ca)",
        AlertDescription::CertificateExpired => "it has expired (certificate_expired)",
        AlertDescription::CertificateRevoked => "it is revoked (certificate_revoked)",
        AlertDescription::BadCertificate => "it is not good (bad_certificate)",
        AlertDescription::UnsupportedCertificate => "its kind is not taken (unsupported_certificate)",
        AlertDescription::CertificateUnknown => "it is not taken (certificate_unknown)",
        AlertDescription::AccessDenied => "access denied (access_denied)",
        AlertDescription::HandshakeFailure => "no agreement (handshake_failure)",
        _ => return None,
    })
}

/// A name of a certificate without the wrapping that it has in rustls' errors: `DnsName("a.example")`,
/// `IpAddress(10.0.0.1)`.
pub(super) fn bare_name(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')'));
    one_line(inner.trim_matches('"').as_bytes())
}

/// The names of a certificate in one line.
fn names(presented: &[String]) -> String {
    match presented {
        [] => "no name at all".to_owned(),
        names => {
            let mut shown: Vec<_> = names.iter().take(MOST_NAMES).map(|name| bare_name(name)).collect();
            if names.len() > MOST_NAMES {
                shown.push(format!("{} more", names.len() - MOST_NAMES));
            }
            shown.join(", ")
        }
    }
}

fn date(time: UnixTime) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    time.map_or_else(
        || "a day beyond reckoning".to_owned(),
        |time| humantime::format_rfc3339_seconds(time).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_without_their_wrapping_and_not_too_many() {
        let presented: Vec<_> =
            ["DnsName(\"a.example\")", "IpAddress(10.0.0.1)", "IpAddress(::1)"].map(str::to_owned).into();
        assert_eq!(names(&presented), "a.example, 10.0.0.1, ::1");
        assert_eq!(names(&[]), "no name at all");
        let many: Vec<_> = (0..9).map(|number| format!("DnsName(\"{number}\")")).collect();
        assert_eq!(names(&many), "0, 1, 2, 3, 4, 4 more");
    }

    #[test]
    fn dates_are_readable() {
        assert_eq!(
            date(UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000))),
            "2023-11-14T22:13:20Z"
        );
    }
}
