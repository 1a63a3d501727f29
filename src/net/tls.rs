//! TLS on either side: what files say becomes configurations, which are made anew when the files change.
//!
//! A [`Connector`] speaks TLS to a link's target, an [`Acceptor`] to its clients. What comes out of a handshake is a kind
//! of [`Stream`], [`stream::TlsStream`], that everything else uses like any other. [`explain`] turns what went wrong into
//! words, `verify` decides who is believed, [`names`] who of them may come in.

pub mod certificate;
pub mod explain;
pub mod names;
mod pem;
pub mod stream;
mod verify;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{
    ResolvesClientCert, Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
};
use zeroize::Zeroizing;

use self::certificate::{Certificate, Purpose, Summary};
use self::explain::{Shown, Words};
use self::names::Pattern;
use self::pem::Wanted;
use self::stream::TlsStream;
#[cfg(any(test, fuzzing))]
pub use self::verify::Refused;
use self::verify::{AuthorityAlone, NoVerification, RecordIssuer};
use crate::files;
use crate::net::Stream;
use crate::net::{Endpoint, Host};
use crate::reload::{Event, Failure, Reloading};
use crate::text;

/// The cryptography. It is named here and nowhere installed for the whole process, so nothing else can choose another.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// The files of one side of a link.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The authorities that vouch for the other side.
    pub authorities: Option<PathBuf>,
    /// What this side shows of itself.
    pub identity: Option<Identity>,
}

/// A certificate with its chain, and its key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
}

/// Which of the files can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The authorities.
    Authorities,
    /// The certificate.
    Certificate,
    /// The key.
    Key,
}

/// Why files make no configuration.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unusable {
    /// The file that is to blame.
    pub part: Part,
    /// What is wrong with it, with its path.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Unusable {
    fn new(part: Part, path: &Path, reason: impl fmt::Display, remedy: impl Into<String>) -> Self {
        Self { part, reason: format!("{}: {reason}", path.display()), remedy: remedy.into() }
    }
}

impl From<Unusable> for Failure {
    fn from(unusable: Unusable) -> Self {
        Self { reason: unusable.reason, remedy: Some(unusable.remedy) }
    }
}

/// What of a target's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// That an authority vouches for it, and that it is for the name that is dialled.
    Full,
    /// That an authority vouches for it, whatever its name.
    Authority,
    /// Nothing.
    Nothing,
}

impl Verification {
    /// As `TLS_VERIFY` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Authority => "ca",
            Self::Nothing => "none",
        }
    }

    /// The other way round.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Full, Self::Authority, Self::Nothing].into_iter().find(|known| known.name() == text)
    }
}

/// Who may be a link's target.
#[derive(Debug, Clone)]
pub struct Trust {
    /// How much of its certificate is verified.
    pub verification: Verification,
    /// Who may vouch for it, where no file of authorities is named.
    pub system: Arc<RootCertStore>,
}

/// The authorities of the system, or why there are none.
pub fn system_authorities() -> Result<Arc<RootCertStore>, String> {
    use rustls_native_certs::ErrorKind;

    let found = rustls_native_certs::load_native_certs();
    let mut authorities = RootCertStore::empty();
    // Systems carry certificates that nothing takes any more; the others do their work.
    let (usable, _) = authorities.add_parsable_certificates(found.certs);
    if usable > 0 {
        return Ok(Arc::new(authorities));
    }
    Err(match found.errors.first().map(|error| &error.kind) {
        None => "there are none".to_owned(),
        Some(ErrorKind::Io { inner, path }) => format!("{}: {}", path.display(), text::io_error(inner)),
        Some(ErrorKind::Pem(_)) => "they are not PEM".to_owned(),
        Some(_) => "the system does not say where they are".to_owned(),
    })
}

/// Speaks TLS to a link's target.
pub struct Connector {
    config: Reloading<Made<Arc<ClientConfig>>>,
    server_name: Option<ServerName<'static>>,
    /// The end of the certificate that the target has shown last.
    target_ends: Mutex<Option<SystemTime>>,
    /// The files, for remedies.
    pub files: Files,
    /// What of the target's certificate is verified.
    pub verification: Verification,
}

impl Connector {
    /// Reads the files for the first time. `link` is the link's name in the log, `server_name` the name that the
    /// target's certificate has to have where it is not the host's.
    pub fn new(
        link: String,
        files: Files,
        trust: Trust,
        server_name: Option<ServerName<'static>>,
    ) -> Result<Self, Unusable> {
        let verification = trust.verification;
        let make = move |material: Material| client_config(material, &trust).map(Arc::new);
        let config = reloading(link, Purpose::Client, files.clone(), make)?;
        Ok(Self { config, server_name, target_ends: Mutex::default(), files, verification })
    }

    /// Makes a TLS stream of a fresh socket.
    pub async fn connect(&self, socket: Stream, endpoint: &Endpoint) -> io::Result<Stream> {
        let config = Arc::clone(&self.config.current().await.config);
        self.connect_with(config, socket, endpoint).await
    }

    /// As one who has no certificate.
    pub async fn connect_as_a_stranger(&self, socket: Stream, endpoint: &Endpoint) -> io::Result<Stream> {
        let mut config = ClientConfig::clone(&self.config.current().await.config);
        config.client_auth_cert_resolver = Arc::new(NoCertificate);
        // A session that is taken up again brings the certificate of its first connection with it.
        config.resumption = Resumption::disabled();
        self.connect_with(Arc::new(config), socket, endpoint).await
    }

    async fn connect_with(
        &self,
        config: Arc<ClientConfig>,
        socket: Stream,
        endpoint: &Endpoint,
    ) -> io::Result<Stream> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(endpoint).map_err(io::Error::other)?,
        };
        let connection = ClientConnection::new(config, name).map_err(stream::refusal)?;
        let mut stream = TlsStream::new(socket, connection.into());
        if let Err(error) = stream.handshake().await {
            stream.send_alert().await;
            return Err(error);
        }
        if !stream.is_resumed() {
            *self.target_ends.lock() = stream.peer_certificates().first().and_then(ends);
        }
        tracing::trace!(target: "tls", resumed = stream.is_resumed(), "TLS handshake with the target completed");
        Ok(Stream::Tls(Box::new(stream)))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Connector {
    /// Looks whether the files have changed.
    pub async fn reread(&self) {
        self.config.current().await;
    }

    /// The end of the certificate that is shown to the target.
    pub fn own_ends(&self) -> Option<SystemTime> {
        self.config.last().ends
    }

    /// Why the certificate that is shown to the target may be refused, whoever its authority is.
    pub fn own_fault(&self) -> Option<Words> {
        self.config.last().fault.clone()
    }

    /// The end of the certificate that the target has shown last.
    pub fn target_ends(&self) -> Option<SystemTime> {
        *self.target_ends.lock()
    }

    /// The authority that vouches for this chain, as its certificate describes it; of several of one name the one that
    /// does so for the longest time.
    pub fn authority_of(&self, chain: &[CertificateDer<'_>]) -> Option<Summary> {
        let [own, others @ ..] = chain else { return None };
        let own = ParsedCertificate::try_from(own).ok()?;
        let known = match &self.files.authorities {
            Some(path) => certificates_in(path, Wanted::Authorities),
            None => rustls_native_certs::load_native_certs().certs,
        };
        let vouches = |authority: &CertificateDer<'_>| {
            let Ok(anchor) = webpki::anchor_from_trusted_cert(authority) else { return false };
            let alone = RootCertStore { roots: vec![anchor.to_owned()] };
            let algorithms = PROVIDER.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&own, &alone, others, UnixTime::now(), algorithms)
                .is_ok()
        };
        let vouching = known.iter().filter(|authority| vouches(authority));
        vouching.filter_map(|authority| Summary::of(authority)).max_by_key(|authority| authority.ends)
    }
}

/// The name of an endpoint's host as certificates have it.
pub fn server_name(endpoint: &Endpoint) -> Result<ServerName<'static>, String> {
    match endpoint {
        Endpoint::Tcp(Host::Address(address) | Host::Linked { address, .. }, _) => {
            Ok(ServerName::IpAddress((*address).into()))
        }
        // No certificate knows of zones, which every host calls by its own names.
        Endpoint::Tcp(Host::LinkLocal(link_local), _) => {
            Ok(ServerName::IpAddress(IpAddr::from(link_local.address).into()))
        }
        // Certificates have names without the root's dot.
        Endpoint::Tcp(Host::Name(name), _) => parse_server_name(name.strip_suffix('.').unwrap_or(name)),
        Endpoint::Unix(_) => Err("a Unix socket has no name that a certificate could have".to_owned()),
    }
}

/// A name or an address that a certificate can have.
pub fn parse_server_name(text: &str) -> Result<ServerName<'static>, String> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = inner.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    ServerName::try_from(text.to_owned())
        .map_err(|_| format!("\"{text}\" is not a name that a certificate can have"))
}

/// Speaks TLS to a link's clients.
pub struct Acceptor {
    listening: Reloading<Made<Listening>>,
    /// The names of which a client's certificate has to have one; none for any.
    names: Arc<[Pattern]>,
    /// The files, for remedies.
    pub files: Files,
}

/// A client that could not be taken in: why, and its socket.
#[derive(Debug)]
pub struct AcceptError {
    /// Why.
    pub error: io::Error,
    /// The socket. An alert has been sent, unless the client speaks no TLS.
    pub socket: Stream,
}

impl Acceptor {
    /// Reads the files for the first time. `link` is the link's name in the log; clients' certificates have to have one of the
    /// `names`, if there are any.
    pub fn new(link: String, files: Files, names: Vec<Pattern>) -> Result<Self, Unusable> {
        let names: Arc<[Pattern]> = names.into();
        let make = {
            let names = Arc::clone(&names);
            move |material: Material| listening(material, &names)
        };
        let listening = reloading(link, Purpose::Server, files.clone(), make)?;
        Ok(Self { listening, names, files })
    }

    /// The name of a client that has come in: the one that counts, else the first one that its certificate has.
    pub fn name_of(&self, client: &TlsStream) -> Option<String> {
        let own = Certificate::read(client.peer_certificates().first()?)?;
        match &*self.names {
            [] => own.all_names().next().map(|name| name.to_string()),
            wanted => names::matching(&own, wanted),
        }
    }

    /// Looks whether the files have changed.
    pub async fn reread(&self) {
        self.listening.current().await;
    }

    /// The end of the certificate that is shown to clients.
    pub fn own_ends(&self) -> Option<SystemTime> {
        self.listening.last().ends
    }

    /// Why the certificate that is shown to clients may be refused, whoever its authority is.
    pub fn own_fault(&self) -> Option<Words> {
        self.listening.last().fault.clone()
    }

    /// Makes a TLS stream of a client's socket.
    pub async fn accept(&self, socket: Stream) -> Result<Stream, AcceptError> {
        let current = self.listening.current().await;
        let listening = &current.config;
        let connection = match ServerConnection::new(Arc::clone(&listening.config)) {
            Ok(connection) => connection,
            Err(error) => return Err(AcceptError { error: stream::refusal(error), socket }),
        };
        let mut stream = TlsStream::new(socket, connection.into());
        if let Err(error) = stream.handshake().await {
            if !explain::is_no_tls(&error) {
                stream.send_alert().await;
            }
            return Err(AcceptError { error, socket: stream.into_socket() });
        }
        if stream.is_resumed()
            && let Err(error) = listening.verify_again(&stream)
        {
            return Err(AcceptError { error, socket: stream.into_socket() });
        }
        tracing::trace!(target: "tls", resumed = stream.is_resumed(), "TLS handshake with the client completed");
        Ok(Stream::Tls(Box::new(stream)))
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What the files hold.
struct Material {
    authorities: Option<Arc<RootCertStore>>,
    identity: Option<Arc<CertifiedKey>>,
}

fn client_config(material: Material, trust: &Trust) -> Result<ClientConfig, String> {
    let authorities = material.authorities.unwrap_or_else(|| Arc::clone(&trust.system));
    let inner: Arc<dyn ServerCertVerifier> = match trust.verification {
        Verification::Full => {
            let authorities = Arc::clone(&authorities);
            let verifier = WebPkiServerVerifier::builder_with_provider(authorities, Arc::clone(&PROVIDER));
            verifier.build().map_err(|_| NO_AUTHORITY)?
        }
        Verification::Authority => Arc::new(AuthorityAlone {
            authorities: Arc::clone(&authorities),
            algorithms: PROVIDER.signature_verification_algorithms,
        }),
        Verification::Nothing => Arc::new(NoVerification(Arc::clone(&PROVIDER))),
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| explain::sentence(&error, "the target"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RecordIssuer {
            inner,
            authorities,
            names: Arc::default(),
        }));
    Ok(match material.identity {
        Some(identity) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        None => config.with_no_client_auth(),
    })
}

/// Shows none, whoever asks.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// What a verifier can't be made without.
const NO_AUTHORITY: &str = "there is no authority to believe";

/// What clients find.
struct Listening {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Listening {
    /// A session can be resumed again and again. The certificate that it began with may have expired meanwhile.
    fn verify_again(&self, stream: &TlsStream) -> io::Result<()> {
        let Some(verifier) = &self.verifier else {
            return Ok(());
        };
        let result = match stream.peer_certificates() {
            [] => Err(rustls::Error::NoCertificatesPresented),
            [own, chain @ ..] => verifier.verify_client_cert(own, chain, UnixTime::now()).map(|_| ()),
        };
        result.map_err(stream::refusal)
    }
}

fn listening(material: Material, names: &Arc<[Pattern]>) -> Result<Listening, String> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| explain::sentence(&error, "clients"))?;
    let mut verifier: Option<Arc<dyn ClientCertVerifier>> = None;
    if let Some(authorities) = material.authorities {
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&authorities), Arc::clone(&PROVIDER));
        let inner: Arc<dyn ClientCertVerifier> = builder.build().map_err(|_| NO_AUTHORITY)?;
        let names = Arc::clone(names);
        verifier = Some(Arc::new(RecordIssuer { inner, authorities, names }));
    }
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let identity = material.identity.ok_or("there is no certificate to show to clients")?;
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    // A ticket opens only with the configuration that issued it: other authorities mean that every client shows its
    // certificate anew.
    config.ticketer = ring::Ticketer::new().map_err(|error| explain::sentence(&error, "clients"))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Listening { config: Arc::new(config), verifier })
}

impl Files {
    /// What the certificate says that this side shows, as it is now; `None` if there is none that can be read.
    pub fn own_certificate(&self) -> Option<Summary> {
        let path = &self.identity.as_ref()?.certificate;
        Summary::of(certificates_in(path, Wanted::Certificate).first()?)
    }

    /// What the authorities' certificates say that the file of authorities holds now.
    pub fn own_authorities(&self) -> Vec<Summary> {
        let path = self.authorities.as_ref();
        let found = path.map(|path| certificates_in(path, Wanted::Authorities)).unwrap_or_default();
        found.iter().filter_map(|certificate| Summary::of(certificate)).collect()
    }

    fn paths(&self) -> impl Iterator<Item = (Part, &Path)> {
        let authorities = self.authorities.iter().map(|path| (Part::Authorities, path.as_path()));
        let identity = self.identity.iter().flat_map(|identity| {
            [(Part::Certificate, identity.certificate.as_path()), (Part::Key, identity.key.as_path())]
        });
        authorities.chain(identity)
    }

    fn read(&self) -> Result<Vec<Contents>, Unusable> {
        self.paths()
            .map(|(part, path)| {
                let bytes =
                    read(path).map_err(|reason| Unusable::new(part, path, reason, part.wanted().remedy()))?;
                Ok(Contents { part, path: path.to_path_buf(), bytes })
            })
            .collect()
    }
}

/// A file that was read.
struct Contents {
    part: Part,
    path: PathBuf,
    bytes: Zeroizing<Vec<u8>>,
}

impl Contents {
    fn unusable(&self, reason: impl fmt::Display, remedy: impl Into<String>) -> Unusable {
        Unusable::new(self.part, &self.path, reason, remedy)
    }

    fn faulty(&self, fault: pem::Fault) -> Unusable {
        self.unusable(fault.reason, fault.remedy)
    }

    /// Every certificate that it holds, at least one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        pem::certificates(&self.bytes, &self.path, self.part.wanted()).map_err(|fault| self.faulty(fault))
    }
}

impl Part {
    fn wanted(self) -> Wanted {
        match self {
            Self::Authorities => Wanted::Authorities,
            Self::Certificate => Wanted::Certificate,
            Self::Key => Wanted::Key,
        }
    }
}

/// The certificates of a file, as far as they can be had.
fn certificates_in(path: &Path, wanted: Wanted) -> Vec<CertificateDer<'static>> {
    let bytes = read(path).unwrap_or_default();
    pem::certificates(&bytes, path, wanted).unwrap_or_default()
}

/// Far more than the largest bundle of authorities has.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = files::open(path)?;
    let size = file.metadata().map_or(0, |found| found.len());
    // Of its final size from the start: a vector that grew would leave parts of a key behind.
    let capacity = usize::try_from(size.min(LONGEST_FILE)).unwrap_or_default() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    let length = file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(|e| text::io_error(&e))?;
    if length as u64 > LONGEST_FILE {
        return Err(format!("it holds more than {LONGEST_FILE} bytes"));
    }
    Ok(bytes)
}

impl Material {
    fn parse(read: &[Contents]) -> Result<Self, Unusable> {
        let of = |part| read.iter().find(|contents| contents.part == part);
        let authorities = match of(Part::Authorities) {
            Some(file) => Some(Arc::new(authorities(file)?)),
            None => None,
        };
        let identity = match (of(Part::Certificate), of(Part::Key)) {
            (Some(file), Some(key_file)) => Some(Arc::new(identity(file, key_file)?)),
            _ => None,
        };
        Ok(Self { authorities, identity })
    }
}

fn authorities(file: &Contents) -> Result<RootCertStore, Unusable> {
    let mut authorities = RootCertStore::empty();
    let found = file.certificates()?;
    for (index, certificate) in found.iter().enumerate() {
        let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|error| {
            let whose = format!("certificate number {} in it", index + 1);
            let shown = Shown::alone(whose, Purpose::Server, std::slice::from_ref(certificate));
            let (what, _) = shown.explain_webpki(&error);
            file.unusable(what, "take it out of the file, or put the authority's right certificate there")
        })?;
        authorities.roots.push(anchor.to_owned());
    }
    Ok(authorities)
}

/// A certificate, its chain and its key. What the other side thinks of the certificate is its affair: rustls takes none of
/// X.509's first version, openssl does.
fn identity(file: &Contents, key_file: &Contents) -> Result<CertifiedKey, Unusable> {
    let chain = file.certificates()?;
    let Some(own) = Certificate::read(&chain[0]) else {
        return Err(file.unusable("its certificate can't be read", "have it issued anew"));
    };
    let key = pem::key(&key_file.bytes, &key_file.path).map_err(|fault| key_file.faulty(fault))?;
    let key = PROVIDER.key_provider.load_private_key(key).map_err(|_| {
        let kind = own.key().map(|key| format!("; its certificate has {}", key.name())).unwrap_or_default();
        let what = "it is neither an RSA key of 2048 to 8192 bits, nor ECDSA P-256 or P-384, nor Ed25519";
        key_file.unusable(format!("{what}{kind}"), pem::NEW_KEY)
    })?;
    if !is_key_of(&*key, &own) {
        return Err(of_another(file, key_file, &chain, &*key));
    }
    Ok(CertifiedKey::new(chain, key))
}

fn is_key_of(key: &dyn SigningKey, certificate: &Certificate<'_>) -> bool {
    key.public_key().is_none_or(|public| public.as_ref() == certificate.key)
}

/// A key that is not the first certificate's.
fn of_another(
    file: &Contents,
    key_file: &Contents,
    chain: &[CertificateDer<'_>],
    key: &dyn SigningKey,
) -> Unusable {
    let is_its = |certificate: &CertificateDer<'_>| {
        Certificate::read(certificate).is_some_and(|certificate| is_key_of(key, &certificate))
    };
    if let Some(index) = chain.iter().position(is_its) {
        return file.unusable(
            format!(
                "the certificate of the key in {} is number {} in it",
                key_file.path.display(),
                index + 1
            ),
            "put it first, then those between it and its authority",
        );
    }
    key_file.unusable(
        format!("it is not the key of the certificate in {}", file.path.display()),
        format!(
            "put the key there that the certificate was issued for; then these print the same: openssl x509 -noout -pubkey -in {}; \
             openssl pkey -pubout -in {}",
            file.path.display(),
            key_file.path.display()
        ),
    )
}

/// What files make.
struct Made<T> {
    config: T,
    /// The end of the certificate that this side shows.
    ends: Option<SystemTime>,
    /// Why that certificate may be refused.
    fault: Option<Words>,
    /// Of the files' bytes. The same bytes make nothing new, which would end the sessions that can be resumed.
    hash: u64,
}

/// What the files make, now and whenever they change. `link` is for the log; by `purpose` a certificate is shown
/// to clients or to the target.
fn reloading<T: Send + Sync + 'static>(
    link: String,
    purpose: Purpose,
    files: Files,
    make: impl Fn(Material) -> Result<T, String> + Send + 'static,
) -> Result<Reloading<Made<T>>, Unusable> {
    let hasher = RandomState::new();
    let hash = move |read: &[Contents]| {
        hasher.hash_one(read.iter().map(|file| file.bytes.as_slice()).collect::<Vec<_>>())
    };
    let paths: Vec<_> = files.paths().map(|(_, path)| path.to_path_buf()).collect();
    let read = files.read()?;
    let first = made(&files, &read, hash(&read), purpose, &make)?;
    let look = move |last: &Made<T>| {
        let read = files.read()?;
        let hash = hash(&read);
        if hash == last.hash {
            return Ok(None);
        }
        Ok(Some(made(&files, &read, hash, purpose, &make)?))
    };
    let side = match purpose {
        Purpose::Client => "to the target",
        Purpose::Server => "for clients",
    };
    let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let shown = shown.join(",");
    Ok(Reloading::new(paths, first, look, move |event| match event {
        Event::Changed => tracing::info!(target: "tls", link, side, files = shown, "certificates reloaded"),
        Event::Failed(Failure { reason, remedy }) => tracing::warn!(
            target: "tls",
            link,
            side,
            files = shown,
            error = reason,
            remedy = remedy.as_deref(),
            "certificate reload failed; keeping the previous certificates"
        ),
        Event::Recovered => {
            tracing::info!(target: "tls", link, side, files = shown, "certificate reload recovered");
        }
    }))
}

fn made<T>(
    files: &Files,
    read: &[Contents],
    hash: u64,
    purpose: Purpose,
    make: &impl Fn(Material) -> Result<T, String>,
) -> Result<Made<T>, Unusable> {
    let material = Material::parse(read)?;
    let chain = material.identity.as_ref().map(|identity| identity.cert.as_slice()).unwrap_or_default();
    let ends = chain.first().and_then(ends);
    let fault = Shown::alone("it".to_owned(), purpose, chain).fault();
    let config = make(material).map_err(|reason| {
        let part = files.paths().next().map_or(Part::Authorities, |(part, _)| part);
        let remedy = part.wanted().remedy().to_owned();
        match files.paths().next() {
            Some((_, path)) => Unusable::new(part, path, reason, remedy),
            None => Unusable { part, reason, remedy },
        }
    })?;
    Ok(Made { config, ends, fault, hash })
}

/// The end of a certificate's time.
fn ends(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    Certificate::read(certificate)?.ends
}
