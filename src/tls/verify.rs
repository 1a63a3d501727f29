//! Who is believed: rustls' own verification, which forgets to say which authority it does not know, and none at all.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::resp::one_line;

thread_local! {
    /// Who issued the certificate that was refused last on this thread. rustls' error does not say it, and one of our
    /// own would send the peer another alert than "unknown authority".
    static UNKNOWN_ISSUER: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The issuer behind the error that rustls has just returned, if it was one of an unknown issuer.
pub(super) fn take_unknown_issuer() -> Option<String> {
    UNKNOWN_ISSUER.take()
}

fn note_issuer(certificate: &CertificateDer<'_>, error: &Error) {
    if matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer)) {
        UNKNOWN_ISSUER.set(issuer(certificate));
    }
}

/// Verifies as the inner one does, and notes whose certificate it refuses.
#[derive(Debug)]
pub(super) struct Noting<V: ?Sized>(pub(super) Arc<V>);

impl ServerCertVerifier for Noting<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .inspect_err(|error| note_issuer(intermediates.last().unwrap_or(end_entity), error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Noting<dyn ClientCertVerifier> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0
            .verify_client_cert(end_entity, intermediates, now)
            .inspect_err(|error| note_issuer(intermediates.last().unwrap_or(end_entity), error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Takes any certificate, as `TLS_INSECURE` asks. Whoever presents it must still have its key.
#[derive(Debug)]
pub(super) struct Anyone(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The longest name of an issuer that is shown; the words are a stranger's.
const LONGEST_NAME: usize = 100;

/// The issuer of a certificate, by its common name or else its organisation.
fn issuer(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    name(certificate.issuer())
}

/// Takes the telling part out of a distinguished name (X.501, RFC 5280 4.1.2.4): of its attributes, each an identifier
/// and a string, the common name, else the organisation.
fn name(distinguished: &[u8]) -> Option<String> {
    const SEQUENCE: u8 = 0x30;
    const SET: u8 = 0x31;
    const COMMON_NAME: &[u8] = &[0x55, 4, 3];
    const ORGANISATION: &[u8] = &[0x55, 4, 10];
    let mut organisation = None;
    let mut sets = distinguished;
    while let Some((SET, mut attributes)) = element(&mut sets) {
        while let Some((SEQUENCE, mut attribute)) = element(&mut attributes) {
            let (_, kind) = element(&mut attribute)?;
            let (_, value) = element(&mut attribute)?;
            let value: String = one_line(value).chars().take(LONGEST_NAME).collect();
            match kind {
                COMMON_NAME => return Some(value),
                ORGANISATION => organisation = Some(value),
                _ => {}
            }
        }
    }
    organisation
}

/// Takes one element of DER off the front: its tag and its contents.
fn element<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (tag, after) = rest.split_first()?;
    let (first, mut after) = after.split_first()?;
    let mut length = usize::from(*first);
    if length >= 0x80 {
        // The lower bits are then the number of bytes of the length; four are more than any certificate has.
        let (bytes, behind) = after.split_at_checked(length & 0x7f)?;
        if bytes.len() > 4 {
            return None;
        }
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        after = behind;
    }
    let (contents, behind) = after.split_at_checked(length)?;
    *rest = behind;
    Some((*tag, contents))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_name_is_taken_else_the_organisation_and_nonsense_is_no_name() {
        let attribute = |kind: u8, value: &[u8]| {
            let mut inner = vec![6, 3, 0x55, 4, kind, 12, u8::try_from(value.len()).unwrap()];
            inner.extend(value);
            let length = u8::try_from(inner.len()).unwrap();
            [&[0x31, length + 2, 0x30, length][..], &inner].concat()
        };
        let both = [attribute(10, b"Example"), attribute(3, b"Example\nCA")].concat();
        assert_eq!(name(&both).as_deref(), Some("Example CA"));
        assert_eq!(name(&attribute(10, b"Example")).as_deref(), Some("Example"));
        assert_eq!(name(&attribute(6, b"DE")), None);
        for cut in 0..both.len() {
            // Whatever comes of it, no panic.
            let _ = name(&both[..cut]);
        }
        assert_eq!(name(&[0x31, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30]), None);
        assert_eq!(name(&[0x31, 0x89, 1, 1, 1, 1, 1, 1, 1, 1, 1]), None);
    }
}
