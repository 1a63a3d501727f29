//! Certificates, made for one run: an authority, and what servers and proxies show. ECDSA P-256 throughout.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

/// Files; gone with this.
pub struct Certificates {
    folder: PathBuf,
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Certificate and key in one file, as HAProxy wants them.
    pub pair: PathBuf,
}

impl Certificates {
    pub fn make(folder: &Path) -> Result<Self> {
        // What a run that was killed has left.
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let folder = fs::canonicalize(folder)?;

        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "redis-ambassador benchmark");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let certificate = params.signed_by(&key, &issuer)?;

        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        Ok(Self {
            authority: write("authority.pem", issuer.pem())?,
            certificate: write("certificate.pem", certificate.pem())?,
            key: write("key.pem", key.serialize_pem())?,
            pair: write("pair.pem", certificate.pem() + &key.serialize_pem())?,
            folder,
        })
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // The next run removes what stays.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
