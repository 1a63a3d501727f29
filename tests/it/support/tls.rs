//! Certificates, made when a test runs, and both ends of TLS connections in the hands of a test.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};
use socket2::SockRef;
use tempfile::TempDir;

use super::{Launch, PATIENCE, Peer, RedisServer, own_address};

/// A certificate with its key, in files.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Identity {
    /// Puts this certificate and key where `other`'s are, each by a rename, as careful rotation does.
    pub(crate) fn replace(&self, other: &Self) {
        replace(&self.certificate, &other.certificate);
        replace(&self.key, &other.key);
    }

    pub(crate) fn certificates(&self) -> Vec<CertificateDer<'static>> {
        certificates(&self.certificate)
    }
}

/// Puts a copy of `source` in the place of `destination`, in one step.
pub(crate) fn replace(source: &Path, destination: &Path) {
    let new = destination.with_extension("new");
    fs::copy(source, &new).expect("a copy");
    fs::rename(new, destination).expect("a rename");
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let found: Result<_, _> = CertificateDer::pem_file_iter(path).expect("a file of certificates").collect();
    found.expect("certificates")
}

/// An authority of a test's own, with a directory for what it issues.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self::new_with(name, |_| {})
    }

    /// The same after `change` to what its own certificate says.
    pub(crate) fn new_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = Self::params(name, change);
        Self::of(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// An authority that this one vouches for.
    pub(crate) fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = Self::params(name, change);
        Self::of(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.issuer).unwrap())
    }

    fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        params
    }

    fn of(issuer: CertifiedIssuer<'static, KeyPair>) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    /// A certificate as [`Self::issue`] makes it, in a file with this authority's own behind it.
    pub(crate) fn issue_with_chain(&self, names: &[&str]) -> Identity {
        let identity = self.issue(names);
        let chain = fs::read_to_string(&identity.certificate).unwrap() + &self.issuer.pem();
        fs::write(&identity.certificate, chain).unwrap();
        identity
    }

    /// Its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A path for a file of the test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A certificate for these names and addresses, fit for servers and clients.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, &KeyPair::generate().unwrap(), |_| {})
    }

    /// The same with a key of choice, and after `change` to what it says.
    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let names: Vec<_> = names.iter().copied().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "redis-ambassador's tests");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        let number = super::secret::random();
        let identity = Identity {
            certificate: self.path(&format!("{number:016x}.pem")),
            key: self.path(&format!("{number:016x}.key")),
        };
        fs::write(&identity.certificate, certificate.pem()).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.file()));
        roots
    }

    /// What a client believes that trusts this authority alone.
    pub(crate) fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        self.client_of_versions(identity, rustls::ALL_VERSIONS)
    }

    pub(crate) fn client_of_versions(
        &self,
        identity: Option<&Identity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots());
        Arc::new(match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
                config.with_client_auth_cert(identity.certificates(), key).unwrap()
            }
        })
    }

    /// A server that shows `identity`, and with `mutual` demands a certificate of this authority.
    pub(crate) fn server(
        &self,
        identity: &Identity,
        mutual: bool,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let config = if mutual {
            let verifier = WebPkiClientVerifier::builder_with_provider(self.roots().into(), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            config.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
        Arc::new(config.with_single_cert(identity.certificates(), key).unwrap())
    }
}

impl Launch {
    /// TLS for the clients of an alias.
    pub(crate) fn listen_tls(self, alias: &str, identity: &Identity) -> Self {
        self.variable(format!("{alias}_LISTEN_TLS_CERT_FILE"), &identity.certificate)
            .variable(format!("{alias}_LISTEN_TLS_KEY_FILE"), &identity.key)
    }

    /// A certificate for the target of an alias.
    pub(crate) fn tls_identity(self, alias: &str, identity: &Identity) -> Self {
        self.variable(format!("{alias}_TLS_CERT_FILE"), &identity.certificate)
            .variable(format!("{alias}_TLS_KEY_FILE"), &identity.key)
    }
}

/// One end of a TLS connection; fails the test instead of waiting for ever.
pub(crate) struct TlsPeer {
    connection: Connection,
    socket: TcpStream,
}

impl TlsPeer {
    fn new(connection: Connection, socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { connection, socket }
    }

    /// Connects and finishes the handshake, or says why not.
    pub(crate) fn try_connect(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::IpAddress(address.ip().into());
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut peer = Self::new(connection.into(), TcpStream::connect(address)?);
        peer.handshake()?;
        Ok(peer)
    }

    #[track_caller]
    pub(crate) fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        Self::try_connect(address, config).unwrap_or_else(|error| panic!("TLS with {address}: {error}"))
    }

    /// The server's end of a connection that a target has taken in.
    pub(crate) fn accept(peer: Peer, config: &Arc<ServerConfig>) -> io::Result<Self> {
        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
        let mut peer = Self::new(connection.into(), peer.into());
        peer.handshake()?;
        Ok(peer)
    }

    fn handshake(&mut self) -> io::Result<()> {
        while self.connection.is_handshaking() {
            self.connection.complete_io(&mut self.socket)?;
        }
        self.write_records()
    }

    fn write_records(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The name that a client asked for.
    pub(crate) fn asked_name(&self) -> Option<String> {
        match &self.connection {
            Connection::Server(connection) => connection.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        }
    }

    /// The certificate that the other side has shown.
    pub(crate) fn shown(&self) -> Option<CertificateDer<'static>> {
        self.connection.peer_certificates()?.first().cloned()
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.write_all(bytes).expect("the other side takes bytes");
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        let mut received = vec![0; bytes.len()];
        self.read_exact(&mut received).unwrap_or_else(|error| {
            panic!("{error} instead of {}, after {}", bytes.escape_ascii(), received.escape_ascii())
        });
        assert!(received == bytes, "{} instead of {}", received.escape_ascii(), bytes.escape_ascii());
    }

    /// Everything up to the other side's goodbye; an end without it fails the test.
    #[track_caller]
    pub(crate) fn expect_rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("{error} instead of a goodbye"));
        bytes
    }

    #[track_caller]
    pub(crate) fn expect_reset(&mut self) {
        match self.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("{other:?} instead of a reset"),
        }
    }

    /// Says goodbye, and goes on receiving.
    #[track_caller]
    pub(crate) fn finish_sending(&mut self) {
        self.connection.send_close_notify();
        self.write_records().expect("an open connection");
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).expect("a socket that lingers");
    }

    /// Ends the socket in the middle of what TLS is about.
    pub(crate) fn truncate(&mut self) {
        self.socket.shutdown(Shutdown::Write).expect("an open connection");
    }
}

impl Read for TlsPeer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            self.connection.read_tls(&mut self.socket)?;
            self.connection.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

impl Write for TlsPeer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.connection.writer().write(bytes)?;
        self.write_records()?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_records()
    }
}

/// The name in the certificate of [`redis_over_tls`].
pub(crate) const SERVER_NAME: &str = "redis.test";

/// A Redis server whose TLS port shows a certificate for [`SERVER_NAME`].
pub(crate) fn redis_over_tls(
    authority: &Authority,
    configuration: &str,
) -> Option<(RedisServer, SocketAddr)> {
    let port = own_address().port();
    let identity = authority.issue(&[SERVER_NAME]);
    let server = RedisServer::start(&format!(
        "tls-port {port}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n{configuration}",
        identity.certificate.display(),
        identity.key.display(),
        authority.file().display(),
    ))?;
    let address = SocketAddr::new(server.address().ip(), port);
    Some((server, address))
}

/// A directory of certificates that are made as people make them: with lines of a shell.
pub(crate) struct Workbench(TempDir);

impl Workbench {
    /// With an authority in `ca.pem` and `ca.key`, and in `server.key` and `server.csr` who wants to have a certificate of
    /// it, of the name `localhost`.
    pub(crate) fn new() -> Self {
        let bench = Self(TempDir::new().expect("a temporary directory"));
        bench.authority("ca", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256", "");
        bench.key("server", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
        bench
    }

    /// An authority that vouches for itself, with a key of this kind.
    pub(crate) fn authority(&self, name: &str, key: &str, more: &str) {
        self.run(&format!(
            "openssl genpkey -quiet {key} -out {name}.key && openssl req -x509 -new -key {name}.key -subj '/CN=The {name}' -days 30 {more} \
             -out {name}.pem"
        ));
    }

    /// A key of this kind, and the request for a certificate of it.
    pub(crate) fn key(&self, name: &str, kind: &str) {
        self.run(&format!(
            "openssl genpkey -quiet {kind} -out {name}.key && openssl req -new -key {name}.key -subj /CN=localhost -out {name}.csr"
        ));
    }

    /// A certificate with these extensions for who has asked for one, from an authority.
    pub(crate) fn issue(&self, name: &str, authority: &str, extensions: &[&str], more: &str) {
        fs::write(self.path("x.ext"), extensions.join("\n")).unwrap();
        self.run(&format!(
            "openssl x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 30 {more} \
             -extfile x.ext -out {name}.pem"
        ));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A certificate and its key by their name.
    pub(crate) fn identity(&self, name: &str) -> Identity {
        Identity { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) }
    }

    /// Runs a line of a shell.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) {
        let mut shell = Command::new("sh");
        let output = shell
            .args(["-c", line])
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .output()
            .expect("a shell runs");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Runs `openssl` and returns what it printed on standard output.
#[track_caller]
pub(crate) fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
