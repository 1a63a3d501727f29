//! Every error of rustls and webpki: each has a message of its own, never a library's `Debug`. The lists are compared
//! with the sources of the versions in Cargo.lock, so that an update with a new error fails here.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Debug;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{
    AlertDescription, CertRevocationListError, CertificateError, EncryptedClientHelloError, Error,
    ExtendedKeyPurpose, InconsistentKeys, InvalidMessage, OtherError, PeerIncompatible, PeerMisbehaved,
    RootCertStore,
};
use webpki::Error as Webpki;

use super::*;
use crate::config::{Config, Env, ProcessArguments};
use crate::net::tls::Refused;
use crate::net::tls::stream::Broken;

const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000));

fn name() -> ServerName<'static> {
    ServerName::try_from("redis.test").expect("a name")
}

fn other(error: Webpki) -> CertificateError {
    CertificateError::Other(OtherError(Arc::new(error)))
}

#[expect(deprecated, reason = "what is still in the list has words too")]
fn certificate_errors() -> Vec<CertificateError> {
    use CertificateError as E;
    vec![
        E::BadEncoding,
        E::Expired,
        E::ExpiredContext { time: NOW, not_after: NOW },
        E::NotValidYet,
        E::NotValidYetContext { time: NOW, not_before: NOW },
        E::Revoked,
        E::UnhandledCriticalExtension,
        E::UnknownIssuer,
        E::UnknownRevocationStatus,
        E::ExpiredRevocationList,
        E::ExpiredRevocationListContext { time: NOW, next_update: NOW },
        E::BadSignature,
        E::UnsupportedSignatureAlgorithm,
        E::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: vec![6, 3, 0x2b, 0x65, 0x71],
            supported_algorithms: Vec::new(),
        },
        E::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: Vec::new(),
            public_key_algorithm_id: vec![6, 3, 0x2b, 0x65, 0x71],
        },
        E::NotValidForName,
        E::NotValidForNameContext { expected: name(), presented: vec!["DnsName(\"x.test\")".to_owned()] },
        E::InvalidPurpose,
        E::InvalidPurposeContext {
            required: ExtendedKeyPurpose::ServerAuth,
            presented: vec![ExtendedKeyPurpose::Other(vec![1, 2])],
        },
        E::InvalidOcspResponse,
        E::ApplicationVerificationFailure,
        other(Webpki::UnsupportedCertVersion),
    ]
}

#[expect(deprecated, reason = "what is still in the list has words too")]
fn webpki_errors() -> Vec<Webpki> {
    use Webpki as E;
    let algorithm = || webpki::UnsupportedSignatureAlgorithmContext {
        signature_algorithm_id: Vec::new(),
        supported_algorithms: Vec::new(),
    };
    let key = || webpki::UnsupportedSignatureAlgorithmForPublicKeyContext {
        signature_algorithm_id: Vec::new(),
        public_key_algorithm_id: Vec::new(),
    };
    vec![
        E::BadDer,
        E::BadDerTime,
        E::CaUsedAsEndEntity,
        E::CertDistrusted,
        E::CertExpired { time: NOW, not_after: NOW },
        E::CertNotValidForName(webpki::InvalidNameContext { expected: name(), presented: Vec::new() }),
        E::CertNotValidYet { time: NOW, not_before: NOW },
        E::CertRevoked,
        E::CrlExpired { time: NOW, next_update: NOW },
        E::EmptyEkuExtension,
        E::EndEntityUsedAsCa,
        E::ExtensionValueInvalid,
        E::InvalidCertValidity,
        E::InvalidCrlNumber,
        E::InvalidNetworkMaskConstraint,
        E::InvalidSerialNumber,
        E::InvalidCrlSignatureForPublicKey,
        E::InvalidSignatureForPublicKey,
        E::IssuerNotCrlSigner,
        E::MalformedDnsIdentifier,
        E::MalformedExtensions,
        E::MalformedNameConstraint,
        E::MaximumNameConstraintComparisonsExceeded,
        E::MaximumPathBuildCallsExceeded,
        E::MaximumPathDepthExceeded,
        E::MaximumSignatureChecksExceeded,
        E::NameConstraintViolation,
        E::PathLenConstraintViolated,
        E::RequiredEkuNotFound,
        E::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext {
            required: webpki::KeyUsage::server_auth(),
            present: vec![vec![1, 2]],
        }),
        E::SignatureAlgorithmMismatch,
        E::TrailingData(webpki::DerTypeId::Certificate),
        E::UnknownIssuer,
        E::UnknownRevocationStatus,
        E::UnsupportedCertVersion,
        E::UnsupportedCriticalExtension,
        E::UnsupportedCrlIssuingDistributionPoint,
        E::UnsupportedCrlVersion,
        E::UnsupportedDeltaCrl,
        E::UnsupportedIndirectCrl,
        E::UnsupportedNameType,
        E::UnsupportedRevocationReason,
        E::UnsupportedRevocationReasonsPartitioning,
        E::UnsupportedCrlSignatureAlgorithm,
        E::UnsupportedCrlSignatureAlgorithmContext(algorithm()),
        E::UnsupportedSignatureAlgorithm,
        E::UnsupportedSignatureAlgorithmContext(algorithm()),
        E::UnsupportedCrlSignatureAlgorithmForPublicKey,
        E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(key()),
        E::UnsupportedSignatureAlgorithmForPublicKey,
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(key()),
    ]
}

fn invalid_messages() -> Vec<InvalidMessage> {
    use InvalidMessage as E;
    vec![
        E::CertificatePayloadTooLarge,
        E::HandshakePayloadTooLarge,
        E::InvalidCcs,
        E::InvalidContentType,
        E::InvalidCertificateStatusType,
        E::InvalidCertRequest,
        E::InvalidDhParams,
        E::InvalidEmptyPayload,
        E::InvalidKeyUpdate,
        E::InvalidServerName,
        E::MessageTooLarge,
        E::MessageTooShort,
        E::MissingData("CipherSuite"),
        E::MissingKeyExchange,
        E::NoSignatureSchemes,
        E::TrailingData("CipherSuite"),
        E::UnexpectedMessage("CipherSuite"),
        E::UnknownProtocolVersion,
        E::UnsupportedCompression,
        E::UnsupportedCurveType,
        E::UnsupportedKeyExchangeAlgorithm(rustls::crypto::KeyExchangeAlgorithm::DHE),
        E::EmptyTicketValue,
        E::IllegalEmptyList("CipherSuites"),
        E::IllegalEmptyValue,
        E::DuplicateExtension(1),
        E::PreSharedKeyIsNotFinalExtension,
        E::UnknownHelloRetryRequestExtension,
        E::UnknownCertificateExtension,
    ]
}

fn incompatibilities() -> Vec<PeerIncompatible> {
    use PeerIncompatible as E;
    vec![
        E::EcPointsExtensionRequired,
        E::ExtendedMasterSecretExtensionRequired,
        E::IncorrectCertificateTypeExtension,
        E::KeyShareExtensionRequired,
        E::NamedGroupsExtensionRequired,
        E::NoCertificateRequestSignatureSchemesInCommon,
        E::NoCipherSuitesInCommon,
        E::NoEcPointFormatsInCommon,
        E::NoKxGroupsInCommon,
        E::NoSignatureSchemesInCommon,
        E::NullCompressionRequired,
        E::ServerDoesNotSupportTls12Or13,
        E::ServerSentHelloRetryRequestWithUnknownExtension,
        E::ServerTlsVersionIsDisabledByOurConfig,
        E::SignatureAlgorithmsExtensionRequired,
        E::SupportedVersionsExtensionRequired,
        E::Tls12NotOffered,
        E::Tls12NotOfferedOrEnabled,
        E::Tls13RequiredForQuic,
        E::UncompressedEcPointsRequired,
        E::UnsolicitedCertificateTypeExtension,
        E::ServerRejectedEncryptedClientHello(None),
    ]
}

/// Variants without fields.
macro_rules! misbehaviours {
    ($($name:ident)*) => { vec![$(PeerMisbehaved::$name),*] };
}

fn misbehaviours() -> Vec<PeerMisbehaved> {
    misbehaviours![
        AttemptedDowngradeToTls12WhenTls13IsSupported BadCertChainExtensions CipherSuiteDifferedOnRetry
        DisallowedEncryptedExtension DuplicateClientHelloExtensions DuplicateEncryptedExtensions
        DuplicateHelloRetryRequestExtensions DuplicateNewSessionTicketExtensions DuplicateServerHelloExtensions
        DuplicateServerNameTypes EarlyDataAttemptedInSecondClientHello EarlyDataExtensionWithoutResumption
        EarlyDataOfferedWithVariedCipherSuite EchAcceptanceVariedAfterRetry HandshakeHashVariedAfterRetry
        IllegalHelloRetryRequestWithEmptyCookie IllegalHelloRetryRequestWithNoChanges
        IllegalHelloRetryRequestWithOfferedGroup IllegalHelloRetryRequestWithUnofferedCipherSuite
        IllegalHelloRetryRequestWithUnofferedNamedGroup IllegalHelloRetryRequestWithUnsupportedVersion
        IllegalHelloRetryRequestWithWrongSessionId IllegalHelloRetryRequestWithInvalidEch
        IllegalMiddleboxChangeCipherSpec IllegalTlsInnerPlaintext IncorrectBinder InvalidCertCompression
        InvalidMaxEarlyDataSize InvalidKeyShare KeyEpochWithPendingFragment KeyUpdateReceivedInQuicConnection
        MessageInterleavedWithHandshakeMessage MissingBinderInPskExtension MissingKeyShare
        MissingPskExtensionInSecondClientHello MissingPskModesExtension MissingQuicTransportParameters
        OfferedDuplicateCertificateCompressions OfferedDuplicateKeyShares OfferedEarlyDataWithOldProtocolVersion
        OfferedEmptyApplicationProtocol OfferedIncorrectCompressions PskExtensionMustBeLast
        PskExtensionWithMismatchedIdsAndBinders RefusedToFollowHelloRetryRequest
        RejectedEarlyDataInterleavedWithHandshakeMessage ResumptionAttemptedWithVariedEms
        ResumptionOfferedWithVariedCipherSuite ResumptionOfferedWithVariedEms
        ResumptionOfferedWithIncompatibleCipherSuite SelectedDifferentCipherSuiteAfterRetry SelectedInvalidPsk
        SelectedTls12UsingTls13VersionExtension SelectedUnofferedApplicationProtocol SelectedUnofferedCertCompression
        SelectedUnofferedCipherSuite SelectedUnofferedCompression SelectedUnofferedKxGroup SelectedUnofferedPsk
        SelectedUnusableCipherSuiteForVersion ServerEchoedCompatibilitySessionId
        ServerHelloMustOfferUncompressedEcPoints ServerNameDifferedOnRetry ServerNameMustContainOneHostName
        SignedKxWithWrongAlgorithm SignedHandshakeWithUnadvertisedSigScheme TooManyEmptyFragments
        TooManyKeyUpdateRequests TooManyRenegotiationRequests TooManyWarningAlertsReceived TooMuchEarlyDataReceived
        UnexpectedCleartextExtension UnsolicitedCertExtension UnsolicitedEncryptedExtension UnsolicitedSctList
        UnsolicitedServerHelloExtension WrongGroupForKeyShare UnsolicitedEchExtension
    ]
}

/// One error of each variant.
fn errors() -> Vec<Error> {
    use rustls::{ContentType, HandshakeType};
    vec![
        Error::InappropriateMessage {
            expect_types: vec![ContentType::Handshake],
            got_type: ContentType::ApplicationData,
        },
        Error::InappropriateHandshakeMessage {
            expect_types: vec![HandshakeType::ServerHello],
            got_type: HandshakeType::ClientHello,
        },
        Error::InvalidEncryptedClientHello(EncryptedClientHelloError::SniRequired),
        Error::InvalidMessage(InvalidMessage::InvalidCcs),
        Error::NoCertificatesPresented,
        Error::UnsupportedNameType,
        Error::DecryptError,
        Error::EncryptError,
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
        Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare),
        Error::AlertReceived(AlertDescription::HandshakeFailure),
        Error::InvalidCertificate(CertificateError::BadEncoding),
        Error::InvalidCertRevocationList(CertRevocationListError::ParseError),
        Error::General("words".to_owned()),
        Error::FailedToGetCurrentTime,
        Error::FailedToGetRandomBytes,
        Error::HandshakeNotComplete,
        Error::PeerSentOversizedRecord,
        Error::NoApplicationProtocol,
        Error::BadMaxFragmentSize,
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch),
    ]
}

/// The name of a variant: the beginning of its `Debug`.
fn variant(value: &impl Debug) -> String {
    format!("{value:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

fn variants<T: Debug>(values: &[T]) -> BTreeSet<String> {
    values.iter().map(variant).collect()
}

/// The variants in the source of a crate in Cargo.lock.
fn in_source(metadata: &serde_json::Value, package: &str, name: &str) -> BTreeSet<String> {
    let packages = metadata["packages"].as_array().expect("packages");
    let manifest = packages.iter().find(|known| known["name"] == package).expect("the package");
    let manifest = Path::new(manifest["manifest_path"].as_str().expect("a path"));
    let source = std::fs::read_to_string(manifest.with_file_name("src/error.rs")).expect("the source");
    let (_, body) = source.split_once(&format!("pub enum {name} {{\n")).expect("the list");
    let (body, _) = body.split_once("\n}").expect("its end");
    let names = body.lines().filter_map(|line| line.strip_prefix("    "));
    let names = names.filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    names.map(|line| line.chars().take_while(char::is_ascii_alphanumeric).collect()).collect()
}

#[test]
fn no_error_that_the_libraries_know_is_left_out() {
    let cargo = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO")).args(arguments).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    // Crates of other platforms may not be downloaded.
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a platform");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let metadata = ["metadata", "--format-version", "1", "--offline", "--manifest-path", manifest];
    let metadata = cargo(&[&metadata[..], &["--filter-platform", host]].concat());
    let metadata = serde_json::from_str(&metadata).expect("JSON");
    let has = |package, name, values: BTreeSet<String>, without: &[&str]| {
        let mut known = in_source(&metadata, package, name);
        known.retain(|name| !without.contains(&name.as_str()));
        assert_eq!(values, known, "{package}'s {name}");
    };
    // `Other` wraps any error.
    has("rustls", "Error", variants(&errors()), &["Other"]);
    has("rustls", "CertificateError", variants(&certificate_errors()), &[]);
    has("rustls", "InvalidMessage", variants(&invalid_messages()), &[]);
    has("rustls", "PeerIncompatible", variants(&incompatibilities()), &[]);
    has("rustls", "PeerMisbehaved", variants(&misbehaviours()), &[]);
    has("rustls-webpki", "Error", variants(&webpki_errors()), &[]);
}

/// The messages for errors without one of their own.
const WITHOUT_WORDS: [&str; 4] =
    ["no words", "a message can't be read", "not known here", "not as it should be"];

#[test]
fn every_error_is_a_sentence_with_a_remedy_and_none_is_a_librarys_debug() {
    let variables = [("REDIS_PORT_6379_TCP", "rediss://redis.test"), ("REDIS_TLS_VERIFY", "none")];
    let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let config = Config::load(&Env::new(variables), &ProcessArguments::default());
    let config = config.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let link = &config.links[0];

    let mut all = errors();
    all.extend(certificate_errors().into_iter().map(Error::InvalidCertificate));
    all.extend(webpki_errors().into_iter().map(|error| Error::InvalidCertificate(other(error))));
    all.extend(invalid_messages().into_iter().map(Error::InvalidMessage));
    all.extend(incompatibilities().into_iter().map(Error::PeerIncompatible));
    all.extend(misbehaviours().into_iter().map(Error::PeerMisbehaved));
    all.extend((0..=u8::MAX).map(|number| Error::AlertReceived(AlertDescription::from(number))));
    let debug = [
        variants(&errors()),
        variants(&certificate_errors()),
        variants(&webpki_errors()),
        variants(&invalid_messages()),
        variants(&incompatibilities()),
        variants(&misbehaviours()),
    ];
    for (error, is_proof) in all.into_iter().flat_map(|error| [(error.clone(), false), (error, true)]) {
        let shown = format!("{error:?}");
        let refused = Refused {
            chain: Vec::new(),
            authorities: RootCertStore::empty().into(),
            name: Some(name()),
            is_proof,
        };
        for refused in [None, Some(Box::new(refused))] {
            let broken = Broken { error: error.clone(), refused };
            let (what, remedy) = Target { endpoint: "redis.test:6379", link }.explain(&broken);
            let (of_client, clients_remedy) = Client { link }.explain(&broken);
            assert!(what.contains("redis.test:6379") || !what.contains("redis.test"), "{shown}: {what}");
            for words in [what, remedy, of_client, clients_remedy, broken.to_string()] {
                assert!(words.len() > 8, "{shown}: {words:?}");
                assert!(!WITHOUT_WORDS.iter().any(|fallback| words.contains(fallback)), "{shown}: {words}");
                assert!(!words.contains(['{', '}', '[', ']']), "{shown}: {words}");
                for word in words.split(|c: char| !c.is_ascii_alphanumeric()) {
                    // An ordinary word, such as "Expired", is a variant's name only as Debug writes it.
                    let is_debug = word.chars().filter(char::is_ascii_uppercase).count() > 1
                        && debug.iter().any(|names| names.contains(word));
                    assert!(!is_debug, "{shown}: {words}");
                }
            }
        }
    }
}
