//! What went wrong with TLS, in words that a person can act on. No `Debug` of a library is among them: every error that
//! rustls knows has a sentence here.

use crate::text;
mod alerts;
mod certificates;
#[cfg(test)]
mod lists;

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

pub(super) use self::certificates::Shown;
use self::certificates::Unknown;
use super::certificate::Purpose;
use super::stream::Broken;
use crate::config::Link;
use crate::failure::{Failure, Stage};

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

/// What is wrong, and what to do about it.
pub(super) type Words = (String, String);

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
                    "name its TLS port in {variable}, or turn TLS off: redis:// or tcp://, without {alias}_TLS"
                ),
            ),
            Error::InvalidMessage(
                InvalidMessage::CertificatePayloadTooLarge | InvalidMessage::HandshakePayloadTooLarge,
            ) => (
                what(),
                "let the server send its own certificate and those between it and its authority, and no others"
                    .to_owned(),
            ),
            error if is_old_version(error) => self.old_version(),
            Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon) => (
                what(),
                format!(
                    "set {alias}_TLS_CERT_FILE and {alias}_TLS_KEY_FILE to a certificate with a key of another kind, RSA or P-256 \
                     say"
                ),
            ),
            Error::PeerIncompatible(_) => {
                (what(), "let the server speak TLS 1.2 with modern ciphers and curves, or TLS 1.3".to_owned())
            }
            Error::NoCertificatesPresented => (what(), "give the server a certificate".to_owned()),
            _ => (what(), "see the target's own log, and who is in between".to_owned()),
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
        let alias = &self.link.alias;
        if let Some(unknown) = shown.unknown_authority(error) {
            let files = self.link.tls.as_ref().map(|tls| &tls.files);
            let file = files.and_then(|files| files.authorities.as_ref()).map(|path| path.display());
            let put = |whose: &str| match &file {
                Some(file) => format!("put {whose} into {file}, if it is to be trusted"),
                None => format!("set {alias}_TLS_CA_FILE to a file with {whose}, if it is to be trusted"),
            };
            let what = format!("the certificate of {endpoint} is from an unknown authority");
            return match unknown {
                Unknown::Itself => {
                    (format!("{what}: it is signed by itself"), put("that certificate itself"))
                }
                Unknown::Misplaced(authority) => (
                    format!(
                        "{what}: {authority}; what is trusted is that certificate itself, which vouches for nobody"
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
            CertificateError::NotValidForNameContext { .. } | CertificateError::NotValidForName => {
                (shown.names(), shown.names_remedy(alias))
            }
            error => shown.explain(error),
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
            // What servers say in TLS 1.2 when they have been shown no certificate; and, rarely, for no cipher in common, or
            // for a key of their own of a kind that we don't take.
            AlertDescription::HandshakeFailure if !self.has_identity() => {
                let (what, remedy) = demanded();
                (
                    format!("{what}, or has no cipher or kind of key in common with us (handshake_failure)"),
                    format!("{remedy}; or give the server an RSA, P-256, P-384 or Ed25519 key"),
                )
            }
            AlertDescription::ProtocolVersion => self.old_version(),
            AlertDescription::UnrecognisedName => (
                format!("{endpoint} knows no server of the name that was asked for (unrecognized_name)"),
                format!("set {alias}_TLS_SERVER_NAME to the server's name"),
            ),
            _ => match alerts::about_certificate(alert) {
                Some(why) if self.has_identity() => (
                    format!("{endpoint} refused our client certificate: {why}"),
                    format!(
                        "set {alias}_TLS_CERT_FILE to a certificate that the target takes; see its own log"
                    ),
                ),
                // Some servers say this to those who show none.
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
        let alias = &self.link.alias;
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
                Some(why) => (
                    format!("the client refused our certificate: {why}"),
                    format!(
                        "let the client trust the authority of {alias}_LISTEN_TLS_CERT_FILE and dial a name that the certificate has"
                    ),
                ),
                None => (what(), "see the client's own log".to_owned()),
            },
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
                "the client does not speak TLS, and this port does".to_owned(),
                format!("turn TLS on in the client, or remove {alias}_LISTEN_TLS_CERT_FILE and its key"),
            ),
            error if is_old_version(error) => (
                "the client speaks neither TLS 1.2 nor TLS 1.3".to_owned(),
                "let the client speak TLS 1.2 or later".to_owned(),
            ),
            Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) => (
                what(),
                format!(
                    "set {alias}_LISTEN_TLS_CERT_FILE and {alias}_LISTEN_TLS_KEY_FILE to a certificate with a key of another \
                     kind, RSA or P-256 say"
                ),
            ),
            Error::PeerIncompatible(_) => {
                (what(), "let the client speak TLS 1.2 with modern ciphers, or TLS 1.3".to_owned())
            }
            _ => (what(), "see the client's own log, and who is in between".to_owned()),
        }
    }
}

fn is_old_version(error: &Error) -> bool {
    matches!(
        error,
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                // Which TLS 1.2 is the first to have.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
        ) | Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion)
    )
}

/// An error in words, of which `who` is the other side.
pub(super) fn sentence(error: &Error, who: &str) -> String {
    match error {
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            format!("{who} sent a message of TLS that has no place there")
        }
        Error::InvalidEncryptedClientHello(_) => format!("{who} wants the server's name encrypted (ECH)"),
        Error::InvalidMessage(why) => format!("{who} sent what is no good TLS: {}", invalid_message(*why)),
        Error::NoCertificatesPresented => format!("{who} shows no certificate"),
        Error::UnsupportedNameType => format!("{who} has a name of a kind that no certificate has"),
        Error::DecryptError => format!("what {who} sent can't be decrypted: it was changed on the way"),
        Error::EncryptError => format!("what is to be sent to {who} can't be encrypted: it is too long"),
        Error::PeerIncompatible(why) => format!("{who} has no TLS in common with us: {}", incompatible(why)),
        Error::PeerMisbehaved(why) => format!("{who} does not keep to the rules of TLS: {}", misbehaved(why)),
        Error::AlertReceived(alert) => format!("{who} ended the TLS connection: {}", alerts::words(*alert)),
        Error::InvalidCertificate(error) => {
            Shown::of(format!("the certificate of {who}"), Purpose::Server, None).explain(error).0
        }
        Error::InvalidCertRevocationList(_) => "a list of revoked certificates can't be read".to_owned(),
        Error::General(words) => format!("TLS with {who} failed: {}", text::one_line(words.as_bytes())),
        Error::FailedToGetCurrentTime => "this host has no clock".to_owned(),
        Error::FailedToGetRandomBytes => "this host has no random numbers".to_owned(),
        Error::HandshakeNotComplete => format!("the TLS handshake with {who} is not done"),
        Error::PeerSentOversizedRecord => format!("{who} sent a longer piece than TLS has"),
        Error::NoApplicationProtocol => format!("{who} wants another protocol inside of TLS (ALPN)"),
        Error::BadMaxFragmentSize => "pieces of TLS can't have the length that is asked for".to_owned(),
        Error::InconsistentKeys(_) => "the certificate and its key do not belong together".to_owned(),
        _ => format!("TLS with {who} failed for a reason that has no words here"),
    }
}

fn invalid_message(why: InvalidMessage) -> &'static str {
    match why {
        InvalidMessage::InvalidContentType => "it speaks something else",
        InvalidMessage::UnknownProtocolVersion => "it is of an unknown version",
        InvalidMessage::CertificatePayloadTooLarge => "its certificates are more than 64 KiB",
        InvalidMessage::HandshakePayloadTooLarge | InvalidMessage::MessageTooLarge => "a message is too long",
        InvalidMessage::MessageTooShort | InvalidMessage::MissingData(_) => "a message ends too early",
        InvalidMessage::TrailingData(_) => "a message goes on behind its end",
        InvalidMessage::InvalidEmptyPayload
        | InvalidMessage::EmptyTicketValue
        | InvalidMessage::IllegalEmptyList(_)
        | InvalidMessage::IllegalEmptyValue
        | InvalidMessage::NoSignatureSchemes => "something is empty that may not be",
        InvalidMessage::MissingKeyExchange => "it names no way to agree on a key",
        InvalidMessage::UnexpectedMessage(_) | InvalidMessage::InvalidKeyUpdate => {
            "a message has no place where it came"
        }
        InvalidMessage::UnsupportedCompression => "it is compressed",
        InvalidMessage::UnsupportedCurveType | InvalidMessage::InvalidDhParams => {
            "its share of the key is of an unknown kind"
        }
        InvalidMessage::UnsupportedKeyExchangeAlgorithm(_) => "its way to agree on a key is not known",
        InvalidMessage::InvalidServerName => "the name of a server is none",
        InvalidMessage::InvalidCcs
        | InvalidMessage::InvalidCertificateStatusType
        | InvalidMessage::InvalidCertRequest => "a message holds what it may not",
        InvalidMessage::DuplicateExtension(_) => "it says something twice",
        InvalidMessage::PreSharedKeyIsNotFinalExtension
        | InvalidMessage::UnknownHelloRetryRequestExtension
        | InvalidMessage::UnknownCertificateExtension => "a message says what has no place there",
        _ => "a message can't be read",
    }
}

fn incompatible(why: &PeerIncompatible) -> &'static str {
    match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => "it speaks neither TLS 1.2 nor TLS 1.3",
        PeerIncompatible::NoCipherSuitesInCommon => "no cipher that both know",
        PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::KeyShareExtensionRequired => "no curve that both know (X25519, P-256, P-384)",
        PeerIncompatible::NoSignatureSchemesInCommon => {
            "it takes no signature that our certificate's key can make"
        }
        PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
            "it takes no client certificate with a key of our certificate's kind"
        }
        PeerIncompatible::EcPointsExtensionRequired
        | PeerIncompatible::NoEcPointFormatsInCommon
        | PeerIncompatible::UncompressedEcPointsRequired => "it does not write points of curves in full",
        PeerIncompatible::ExtendedMasterSecretExtensionRequired => {
            "it does not bind keys to the handshake (extended_master_secret)"
        }
        PeerIncompatible::IncorrectCertificateTypeExtension
        | PeerIncompatible::UnsolicitedCertificateTypeExtension => {
            "it wants bare keys instead of certificates"
        }
        PeerIncompatible::NullCompressionRequired => "it wants everything compressed",
        PeerIncompatible::ServerSentHelloRetryRequestWithUnknownExtension => "it asks for more than it may",
        PeerIncompatible::Tls13RequiredForQuic => "it is no QUIC",
        PeerIncompatible::ServerRejectedEncryptedClientHello(_) => {
            "it does not take its name encrypted (ECH)"
        }
        _ => "it asks for something that is not known here",
    }
}

fn misbehaved(why: &PeerMisbehaved) -> &'static str {
    use PeerMisbehaved as M;
    match why {
        M::AttemptedDowngradeToTls12WhenTls13IsSupported => {
            "it was led to speak TLS 1.2 though both sides know TLS 1.3; somebody in between may be the reason"
        }
        M::SignedHandshakeWithUnadvertisedSigScheme | M::SignedKxWithWrongAlgorithm => {
            "it signed with an algorithm that was not offered"
        }
        M::SelectedUnofferedApplicationProtocol
        | M::SelectedUnofferedCertCompression
        | M::SelectedUnofferedCipherSuite
        | M::SelectedUnofferedCompression
        | M::SelectedUnofferedKxGroup
        | M::SelectedUnofferedPsk
        | M::SelectedInvalidPsk
        | M::SelectedUnusableCipherSuiteForVersion
        | M::SelectedTls12UsingTls13VersionExtension
        | M::IllegalHelloRetryRequestWithUnofferedCipherSuite
        | M::IllegalHelloRetryRequestWithUnofferedNamedGroup
        | M::IllegalHelloRetryRequestWithUnsupportedVersion
        | M::WrongGroupForKeyShare => "it chose what was not offered",
        M::UnsolicitedCertExtension
        | M::UnsolicitedEncryptedExtension
        | M::UnsolicitedSctList
        | M::UnsolicitedServerHelloExtension
        | M::UnsolicitedEchExtension
        | M::UnexpectedCleartextExtension
        | M::DisallowedEncryptedExtension
        | M::BadCertChainExtensions
        | M::ServerEchoedCompatibilitySessionId => "it answered what it was not asked",
        M::DuplicateClientHelloExtensions
        | M::DuplicateEncryptedExtensions
        | M::DuplicateHelloRetryRequestExtensions
        | M::DuplicateNewSessionTicketExtensions
        | M::DuplicateServerHelloExtensions
        | M::DuplicateServerNameTypes
        | M::OfferedDuplicateCertificateCompressions
        | M::OfferedDuplicateKeyShares
        | M::ServerNameMustContainOneHostName => "it said something twice",
        M::CipherSuiteDifferedOnRetry
        | M::EchAcceptanceVariedAfterRetry
        | M::HandshakeHashVariedAfterRetry
        | M::SelectedDifferentCipherSuiteAfterRetry
        | M::ServerNameDifferedOnRetry
        | M::RefusedToFollowHelloRetryRequest
        | M::EarlyDataAttemptedInSecondClientHello
        | M::MissingPskExtensionInSecondClientHello
        | M::IllegalHelloRetryRequestWithEmptyCookie
        | M::IllegalHelloRetryRequestWithNoChanges
        | M::IllegalHelloRetryRequestWithOfferedGroup
        | M::IllegalHelloRetryRequestWithWrongSessionId
        | M::IllegalHelloRetryRequestWithInvalidEch => {
            "what it said the second time does not go with the first"
        }
        M::ResumptionAttemptedWithVariedEms
        | M::ResumptionOfferedWithVariedCipherSuite
        | M::ResumptionOfferedWithVariedEms
        | M::ResumptionOfferedWithIncompatibleCipherSuite
        | M::EarlyDataExtensionWithoutResumption
        | M::EarlyDataOfferedWithVariedCipherSuite
        | M::OfferedEarlyDataWithOldProtocolVersion
        | M::IncorrectBinder
        | M::MissingBinderInPskExtension
        | M::MissingPskModesExtension
        | M::PskExtensionMustBeLast
        | M::PskExtensionWithMismatchedIdsAndBinders => "it took up a session that is another one",
        M::TooManyEmptyFragments
        | M::TooManyKeyUpdateRequests
        | M::TooManyRenegotiationRequests
        | M::TooManyWarningAlertsReceived
        | M::TooMuchEarlyDataReceived
        | M::InvalidMaxEarlyDataSize => "it sent too much of one kind",
        M::IllegalMiddleboxChangeCipherSpec
        | M::IllegalTlsInnerPlaintext
        | M::KeyEpochWithPendingFragment
        | M::KeyUpdateReceivedInQuicConnection
        | M::MessageInterleavedWithHandshakeMessage
        | M::RejectedEarlyDataInterleavedWithHandshakeMessage => "a message came where none may be",
        M::InvalidCertCompression
        | M::InvalidKeyShare
        | M::MissingKeyShare
        | M::MissingQuicTransportParameters
        | M::OfferedEmptyApplicationProtocol
        | M::OfferedIncorrectCompressions
        | M::ServerHelloMustOfferUncompressedEcPoints => "a message lacks something, or holds it badly made",
        _ => "a message is not as it should be",
    }
}
