//! What went wrong with TLS, in words that a person can act on. No `Debug` of a library is among them: every error that
//! rustls knows has a sentence here.

pub mod alerts;
mod certificates;

use std::io;

use rustls::{Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

pub use self::certificates::{Shown, Unknown};
use super::certificate::Purpose;
use super::stream::Broken;
use crate::text;

/// The error of TLS that an error of the stream is.
pub fn broken(error: &io::Error) -> Option<&Broken> {
    error.get_ref()?.downcast_ref()
}

/// Whether a handshake failed because the other side speaks something else.
pub fn is_no_tls(error: &io::Error) -> bool {
    broken(error).is_some_and(|broken| {
        matches!(broken.error, Error::InvalidMessage(InvalidMessage::InvalidContentType))
    })
}

/// What is wrong, and what to do about it.
pub type Words = (String, String);

/// An error in words, of which `who` is the other side.
pub fn sentence(error: &Error, who: &str) -> String {
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
            "it was led to speak TLS 1.2 though both sides know TLS 1.3; a middlebox may be the reason"
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
