//! The client's side of TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, RootCertStore,
    SignatureScheme,
};

/// The cryptography of both ends of the benchmark's own: one cipher suite, the one that everybody's default
/// comes to, so that no proxy is measured with a cheaper one.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_256_GCM_SHA384);
    Arc::new(provider)
}

/// Whether a client comes back with the session of an earlier connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    Fresh,
    Resumed,
}

/// A client that looks at no certificate: it is not what is measured, and on a few cores its work would hide
/// what the proxy costs.
pub fn credulous(sessions: Sessions) -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone)).with_no_client_auth();
    Ok(with(sessions, config))
}

/// A client as it should be.
pub fn careful(authority: &Path, sessions: Sessions) -> Result<Arc<ClientConfig>> {
    let mut authorities = RootCertStore::empty();
    authorities.add(CertificateDer::from_pem_file(authority).context("the authority's certificate")?)?;
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    Ok(with(sessions, builder.with_root_certificates(authorities).with_no_client_auth()))
}

fn with(sessions: Sessions, mut config: ClientConfig) -> Arc<ClientConfig> {
    if sessions == Sessions::Fresh {
        config.resumption = Resumption::disabled();
    }
    Arc::new(config)
}

#[derive(Debug)]
struct Anyone;

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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// One TLS session; the socket is its owner's, blocking or not.
pub struct Session(ClientConnection);

impl Session {
    /// Shakes hands over a blocking socket.
    pub fn start(config: &Arc<ClientConfig>, socket: &mut (impl Read + Write)) -> Result<Self> {
        let mut connection = ClientConnection::new(Arc::clone(config), "localhost".try_into()?)?;
        while connection.is_handshaking() {
            connection.complete_io(socket)?;
        }
        Ok(Self(connection))
    }

    pub fn is_resumed(&self) -> bool {
        self.0.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Takes bytes and sends what the socket takes; `flush` sends the rest.
    pub fn write(&mut self, socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
        self.flush(socket)?;
        let length = self.0.writer().write(bytes)?;
        match self.flush(socket) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(length),
        }
    }

    pub fn flush(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(socket)?;
        }
        Ok(())
    }

    pub fn read(&mut self, socket: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            // The end of the stream is the reader's to report.
            self.0.read_tls(socket)?;
            self.0.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Tells the other side that nothing more comes.
    pub fn close(&mut self, socket: &mut impl Write) {
        self.0.send_close_notify();
        // Whoever has left already need not be told.
        let _ = self.flush(socket);
    }
}
