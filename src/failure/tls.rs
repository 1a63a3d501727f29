//! TLS errors as messages and remedies, with the names of the link's settings.

#[cfg(test)]
mod lists;

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::{Failure, Stage};
use crate::config::Link;
use crate::net::tls::certificate::Purpose;
use crate::net::tls::explain::{Shown, Unknown, Words, alerts, broken, sentence};
use crate::net::tls::stream::Broken;
use crate::net::tls::{Acceptor, Connector};

/// A failed TLS handshake with the target.
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

/// An alert received after the handshake: in TLS 1.3 the server verifies our certificate only after our side of the
/// handshake is complete. `None` for other errors.
pub fn late_refusal(error: &io::Error, endpoint: &str, link: &Link) -> Option<Failure> {
    let broken = broken(error).filter(|broken| matches!(broken.error, Error::AlertReceived(_)))?;
    let (what, remedy) = Target { endpoint, link }.explain(broken);
    Some(Failure::Tls { what, remedy })
}

/// A failed TLS handshake with a client.
pub fn by_client(error: &io::Error, link: &Link) -> Failure {
    match broken(error) {
        Some(broken) => {
            let (what, remedy) = Client { link }.explain(broken);
            Failure::Tls { what, remedy }
        }
        // It closed or reset the connection, as port scanners and health checks do.
        None => Failure::ClientLeft,
    }
}

/// A client that exceeded the connect timeout in its TLS handshake.
pub fn slow_client(after: Duration) -> Failure {
    Failure::Tls {
        what: format!(
            "the client did not finish the TLS handshake within {}",
            humantime::format_duration(after)
        ),
        remedy: "check that the client speaks TLS, and the network in between".to_owned(),
    }
}

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
        let variable = &self.link.variable;
        let what = || sentence(&broken.error, endpoint);
        match &broken.error {
            Error::InvalidCertificate(error) => {
                let whose = format!("the certificate of {endpoint}");
                self.certificate(error, &Shown::of(whose, Purpose::Server, broken.refused.as_deref()))
            }
            Error::AlertReceived(alert) => self.alert(*alert),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
                format!("{endpoint} does not speak TLS"),
                format!(
                    "name its TLS port in {variable}, or turn TLS off: redis:// or tcp://, without {tls}",
                    tls = self.link.setting("TLS")
                ),
            ),
            Error::InvalidMessage(
                InvalidMessage::CertificatePayloadTooLarge | InvalidMessage::HandshakePayloadTooLarge,
            ) => (
                what(),
                "let the server send its own and the intermediate certificates, and no others".to_owned(),
            ),
            error if is_old_version(error) => self.old_version(),
            Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon) => (
                what(),
                format!(
                    "set {tls_cert_file} and {tls_key_file} to a certificate with a key of another kind, RSA or P-256 \
                     say",
                    tls_cert_file = self.link.setting("TLS_CERT_FILE"),
                    tls_key_file = self.link.setting("TLS_KEY_FILE")
                ),
            ),
            Error::PeerIncompatible(_) => {
                (what(), "let the server speak TLS 1.2 with modern ciphers and curves, or TLS 1.3".to_owned())
            }
            Error::NoCertificatesPresented => (what(), "give the server a certificate".to_owned()),
            _ => (what(), "see the target's own log, and check for a proxy in between".to_owned()),
        }
    }

    fn old_version(&self) -> Words {
        (
            format!("{} speaks neither TLS 1.2 nor TLS 1.3", self.endpoint),
            "let the server speak TLS 1.2 or later".to_owned(),
        )
    }

    fn certificate(&self, error: &CertificateError, shown: &Shown<'_>) -> Words {
        let endpoint = self.endpoint;
        if let Some(unknown) = shown.unknown_authority(error) {
            let files = self.link.tls.as_ref().map(|tls| &tls.files);
            let file = files.and_then(|files| files.authorities.as_ref()).map(|path| path.display());
            let put = |whose: &str| match &file {
                Some(file) => format!("put {whose} into {file}, if it is to be trusted"),
                None => format!(
                    "set {tls_ca_file} to a file with {whose}, if it is to be trusted",
                    tls_ca_file = self.link.setting("TLS_CA_FILE")
                ),
            };
            let what = format!("the certificate of {endpoint} is from an unknown authority");
            return match unknown {
                Unknown::Itself => {
                    (format!("{what}: it is signed by itself"), put("that certificate itself"))
                }
                Unknown::Misplaced(authority) => (
                    format!(
                        "{what}: {authority}; the trusted file has that certificate itself, which is no authority"
                    ),
                    put(&format!("the certificate of {authority} instead of the server's")),
                ),
                Unknown::Other(authority) => (
                    format!("{what}: {authority}"),
                    format!(
                        "{}; or let the server send the whole chain",
                        put(&format!("the certificate of {authority}"))
                    ),
                ),
            };
        }
        match error {
            CertificateError::NotValidForNameContext { .. } | CertificateError::NotValidForName => (
                shown.names(),
                shown.names_remedy(&self.link.setting("TLS_SERVER_NAME"), &self.link.setting("TLS_VERIFY")),
            ),
            error => shown.explain(error),
        }
    }

    fn alert(&self, alert: AlertDescription) -> Words {
        let endpoint = self.endpoint;
        let demanded = || {
            (
                format!("{endpoint} demands a client certificate"),
                format!(
                    "set {tls_cert_file} and {tls_key_file} to one that the target trusts",
                    tls_cert_file = self.link.setting("TLS_CERT_FILE"),
                    tls_key_file = self.link.setting("TLS_KEY_FILE")
                ),
            )
        };
        match alert {
            AlertDescription::CertificateRequired => demanded(),
            // TLS 1.2 servers send it without a client certificate; rarely, without a common cipher, or where the
            // server's
            // own key is of a kind that we don't support.
            AlertDescription::HandshakeFailure if !self.has_identity() => {
                let (what, remedy) = demanded();
                (
                    format!("{what}, or has no cipher or kind of key in common with us (handshake_failure)"),
                    format!("{remedy}; or give the server an RSA, P-256, P-384 or Ed25519 key"),
                )
            }
            AlertDescription::ProtocolVersion => self.old_version(),
            AlertDescription::UnrecognisedName => (
                format!("{endpoint} has no server of the requested name (unrecognized_name)"),
                format!(
                    "set {tls_server_name} to the server's name",
                    tls_server_name = self.link.setting("TLS_SERVER_NAME")
                ),
            ),
            _ => match alerts::about_certificate(alert) {
                Some(why) if self.has_identity() => refused(
                    alert,
                    format!("{endpoint} refused our client certificate: {why}"),
                    self.link.tls.as_ref().and_then(Connector::own_fault),
                    format!(
                        "set {tls_cert_file} to a certificate that the target accepts; see its own log",
                        tls_cert_file = self.link.setting("TLS_CERT_FILE")
                    ),
                ),
                // Some servers send it where there was no client certificate.
                Some(_) => demanded(),
                None => {
                    (sentence(&Error::AlertReceived(alert), endpoint), "see the target's own log".to_owned())
                }
            },
        }
    }
}

struct Client<'a> {
    link: &'a Link,
}

impl Client<'_> {
    fn explain(&self, broken: &Broken) -> Words {
        let files = self.link.listen_tls.as_ref().map(|tls| &tls.files);
        let known = files.and_then(|files| files.authorities.as_ref());
        let known = known.map(|path| path.display().to_string()).unwrap_or_default();
        let what = || sentence(&broken.error, "the client");
        match &broken.error {
            Error::NoCertificatesPresented => (
                "the client shows no certificate".to_owned(),
                format!("give the client a certificate from an authority in {known}"),
            ),
            Error::InvalidCertificate(error) => {
                let whose = "the client's certificate".to_owned();
                let shown = Shown::of(whose, Purpose::Client, broken.refused.as_deref());
                if *error == CertificateError::ApplicationVerificationFailure {
                    let (variable, names) =
                        (self.link.setting("LISTEN_TLS_CLIENT_NAMES"), shown.client_names());
                    return (
                        format!("the client's certificate has none of the names in {variable}, but {names}"),
                        format!("add its name to {variable}, if it may come in"),
                    );
                }
                let what = "the client's certificate is from an unknown authority";
                match shown.unknown_authority(error) {
                    Some(Unknown::Itself) => (
                        format!("{what}: it is signed by itself"),
                        format!("put that certificate itself into {known}, if it is to be trusted"),
                    ),
                    Some(Unknown::Other(authority) | Unknown::Misplaced(authority)) => (
                        format!("{what}: {authority}"),
                        format!("put the certificate of {authority} into {known}, if it is to be trusted"),
                    ),
                    None => shown.explain(error),
                }
            }
            Error::AlertReceived(alert) => match alerts::about_certificate(*alert) {
                Some(why) => refused(
                    *alert,
                    format!("the client refused our certificate: {why}"),
                    self.link.listen_tls.as_ref().and_then(Acceptor::own_fault),
                    format!(
                        "let the client trust the authority of {listen_tls_cert_file} and dial a name that the certificate has",
                        listen_tls_cert_file = self.link.setting("LISTEN_TLS_CERT_FILE")
                    ),
                ),
                None => (what(), "see the client's own log".to_owned()),
            },
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
                "the client does not speak TLS, and this port does".to_owned(),
                format!(
                    "turn TLS on in the client, or remove {listen_tls_cert_file} and its key",
                    listen_tls_cert_file = self.link.setting("LISTEN_TLS_CERT_FILE")
                ),
            ),
            error if is_old_version(error) => (
                "the client speaks neither TLS 1.2 nor TLS 1.3".to_owned(),
                "let the client speak TLS 1.2 or later".to_owned(),
            ),
            Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) => (
                what(),
                format!(
                    "set {listen_tls_cert_file} and {listen_tls_key_file} to a certificate with a key of another \
                     kind, RSA or P-256 say",
                    listen_tls_cert_file = self.link.setting("LISTEN_TLS_CERT_FILE"),
                    listen_tls_key_file = self.link.setting("LISTEN_TLS_KEY_FILE")
                ),
            ),
            Error::PeerIncompatible(_) => {
                (what(), "let the client speak TLS 1.2 with modern ciphers, or TLS 1.3".to_owned())
            }
            _ => (what(), "see the client's own log, and check for a proxy in between".to_owned()),
        }
    }
}

/// Our certificate was refused. Where the other side does not say why, what is evidently wrong with it is told.
fn refused(alert: AlertDescription, what: String, fault: Option<Words>, remedy: String) -> Words {
    match fault.filter(|_| alerts::gives_no_reason(alert)) {
        Some((fault, remedy)) => (format!("{what}; {fault}"), remedy),
        None => (what, remedy),
    }
}

fn is_old_version(error: &Error) -> bool {
    matches!(
        error,
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                // An extension that TLS 1.2 introduced.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
        ) | Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion)
    )
}
