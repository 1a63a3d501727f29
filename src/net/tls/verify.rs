//! Who is believed: rustls' own verification, the same without the name, and none at all. Each notes what it refuses,
//! because rustls' errors don't say which certificate they are about.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use super::certificate::Certificate;
use super::names::{Pattern, matching};

/// What was shown and refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The other side's own certificate, then those between it and its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The authorities that would have been believed.
    pub authorities: Arc<RootCertStore>,
    /// The name that a server should have had.
    pub name: Option<ServerName<'static>>,
    /// Whether it was not the certificates that failed, but the proof that the other side has the key.
    pub is_proof: bool,
}

thread_local! {
    /// What was refused last on this thread. rustls' error has no room for it, and one of our own would send the peer
    /// another alert.
    static REFUSED: RefCell<Option<Box<Refused>>> = const { RefCell::new(None) };
}

/// What is behind the error that rustls has just returned, if it was one of a certificate.
pub(super) fn take_refused() -> Option<Box<Refused>> {
    REFUSED.take()
}

/// Verifies as the inner one does, and of clients that they have one of the names, if there are any. Notes what is refused.
#[derive(Debug)]
pub(super) struct RecordIssuer<V: ?Sized> {
    pub(super) inner: Arc<V>,
    pub(super) authorities: Arc<RootCertStore>,
    pub(super) names: Arc<[Pattern]>,
}

impl<V: ?Sized> RecordIssuer<V> {
    fn note<T>(
        &self,
        result: Result<T, Error>,
        chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
        name: Option<&ServerName<'_>>,
        is_proof: bool,
    ) -> Result<T, Error> {
        if let Err(Error::InvalidCertificate(_)) = &result {
            let (own, others) = chain;
            let chain = [own].into_iter().chain(others).map(|certificate| certificate.clone().into_owned());
            REFUSED.set(Some(Box::new(Refused {
                chain: chain.collect(),
                authorities: Arc::clone(&self.authorities),
                name: name.map(ServerName::to_owned),
                is_proof,
            })));
        }
        result
    }
}

impl ServerCertVerifier for RecordIssuer<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        self.note(verified, (end_entity, intermediates), Some(server_name), false)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.inner.verify_tls12_signature(message, certificate, signature);
        self.note(verified, (certificate, &[]), None, true)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.inner.verify_tls13_signature(message, certificate, signature);
        self.note(verified, (certificate, &[]), None, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ClientCertVerifier for RecordIssuer<dyn ClientCertVerifier> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let mut verified = self.inner.verify_client_cert(end_entity, intermediates, now);
        if verified.is_ok() && !self.names.is_empty() {
            let own = Certificate::read(end_entity);
            if own.and_then(|own| matching(&own, &self.names)).is_none() {
                // The client hears `access_denied`.
                verified = Err(CertificateError::ApplicationVerificationFailure.into());
            }
        }
        self.note(verified, (end_entity, intermediates), None, false)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.inner.verify_tls12_signature(message, certificate, signature);
        self.note(verified, (certificate, &[]), None, true)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.inner.verify_tls13_signature(message, certificate, signature);
        self.note(verified, (certificate, &[]), None, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes the certificates of an authority, whatever name they have, as `TLS_VERIFY=ca` asks.
#[derive(Debug)]
pub(super) struct AuthorityAlone {
    pub(super) authorities: Arc<RootCertStore>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AuthorityAlone {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.authorities,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Takes any certificate, as `TLS_VERIFY=none` asks, also one that rustls can't read, such as one of X.509's first
/// version. Whoever presents it must still have its key.
#[derive(Debug)]
pub(super) struct NoVerification(pub(super) Arc<CryptoProvider>);

impl NoVerification {
    fn key(certificate: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
        let certificate = Certificate::read(certificate).ok_or(CertificateError::BadEncoding)?;
        Ok(certificate.key.to_vec().into())
    }
}

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = Self::key(certificate)?;
        let key = webpki::RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
        // In TLS 1.2 a scheme leaves open which curve the key is on.
        let of_scheme = self.0.signature_verification_algorithms.mapping.iter();
        let mut algorithms = of_scheme
            .filter(|(scheme, _)| *scheme == signature.scheme)
            .flat_map(|(_, algorithms)| *algorithms);
        if algorithms
            .any(|algorithm| key.verify_signature(*algorithm, message, signature.signature()).is_ok())
        {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = Self::key(certificate)?;
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
