//! Certificates and keys as they lie in files: PEM (RFC 7468), and what people have instead, each with the line that
//! makes PEM of it.

use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::{Certificate, expect};

/// Why a file is of no use, and the remedy. Nothing of a key is quoted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: String,
    pub(super) remedy: String,
}

fn fault(reason: impl Into<String>, remedy: impl Into<String>) -> Fault {
    Fault { reason: reason.into(), remedy: remedy.into() }
}

/// What is looked for in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Authorities,
    Certificate,
    Key,
}

impl Wanted {
    /// The remedy where nothing more is known.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Authorities => "put the certificates of the authorities there, in PEM",
            Self::Certificate => {
                "put the certificate there, followed by those between it and its authority, in PEM"
            }
            Self::Key => "put the unencrypted key of the certificate there, in PEM (PKCS#8, PKCS#1 or SEC1)",
        }
    }

    fn missing(self) -> &'static str {
        match self {
            Self::Authorities | Self::Certificate => "it holds no certificate in PEM",
            Self::Key => "it holds no private key in PEM",
        }
    }
}

/// Every certificate of a file, at least one.
pub(super) fn certificates(
    bytes: &[u8],
    path: &Path,
    wanted: Wanted,
) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let text = without_mark(bytes);
    match CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(instead(text, path, wanted)),
        Err(error) => Err(broken(&error, text, path, wanted)),
    }
}

/// The first key of a file.
pub(super) fn key(bytes: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, Fault> {
    let text = without_mark(bytes);
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        // A PKCS#1 or SEC1 key says so within what would be base64 else.
        _ if contains(text, b"ENCRYPTED") => encrypted(path),
        pem::Error::NoItemsFound => instead(text, path, Wanted::Key),
        error => broken(&error, text, path, Wanted::Key),
    })
}

/// Editors put a byte-order mark before a text, and with it before the first line of PEM, which nobody would see then.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A file that becomes what is looked for by a command, which ends before the name of its result.
fn convertible(reason: impl Into<String>, how: &str, command: &str, path: &Path) -> Fault {
    let path = path.display();
    fault(reason, format!("{how}: {command} {path}.pem, and name {path}.pem"))
}

fn encrypted(path: &Path) -> Fault {
    convertible(
        "the key is encrypted; give a key without a passphrase",
        "decrypt it",
        &format!("openssl pkey -in {} -out", path.display()),
        path,
    )
}

/// PEM that can't be read.
fn broken(error: &pem::Error, text: &[u8], path: &Path, wanted: Wanted) -> Fault {
    match error {
        pem::Error::IllegalSectionStart { line } if contains(line, b"\\n") => convertible(
            "its line breaks are written as \\n",
            "make lines of them",
            &format!("printf '%b' \"$(cat {})\" >", path.display()),
            path,
        ),
        pem::Error::IllegalSectionStart { .. } => {
            fault("it is not PEM: there is more on its BEGIN line than that", wanted.remedy())
        }
        pem::Error::MissingSectionEnd { .. } => fault(
            "it is not PEM: it ends before its END line, as a file does that was not copied whole",
            wanted.remedy(),
        ),
        pem::Error::NoItemsFound => instead(text, path, wanted),
        _ => fault("it is not PEM: what stands between BEGIN and END is no base64", wanted.remedy()),
    }
}

/// A file without what is looked for: what it is instead.
fn instead(text: &[u8], path: &Path, wanted: Wanted) -> Fault {
    let shown = path.display();
    if text.trim_ascii().is_empty() {
        return fault("it is empty", wanted.remedy());
    }
    if matches!(text, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
        return convertible(
            "it is UTF-16, as PowerShell writes it",
            "write it in ASCII",
            &format!("iconv -f UTF-16 -t ASCII {shown} >"),
            path,
        );
    }
    if contains(text, b"-----BEGIN ") {
        return other_section(text, path, wanted);
    }
    binary(text, path, wanted).unwrap_or_else(|| fault(wanted.missing(), wanted.remedy()))
}

/// PEM of something else.
fn other_section(text: &[u8], path: &Path, wanted: Wanted) -> Fault {
    let shown = path.display();
    let has = |label: &str| contains(text, format!("-----BEGIN {label}-----").as_bytes());
    let missing = wanted.missing();
    if contains(text, b" -----BEGIN ") || contains(text, b"\t-----BEGIN ") {
        return convertible(
            format!("{missing}: its lines are indented"),
            "take the white space away",
            &format!("sed 's/^[[:space:]]*//' {shown} >"),
            path,
        );
    }
    if has("PKCS7") || has("CMS") {
        return convertible(
            format!("{missing}, but PKCS#7"),
            "take the certificates out of it",
            &format!("openssl pkcs7 -print_certs -in {shown} -out"),
            path,
        );
    }
    if has("TRUSTED CERTIFICATE") || has("X509 CERTIFICATE") {
        return convertible(
            format!("{missing}, but one with openssl's own additions"),
            "write it without them",
            &format!("openssl x509 -in {shown} -out"),
            path,
        );
    }
    if has("CERTIFICATE REQUEST") || has("NEW CERTIFICATE REQUEST") {
        return fault(
            format!("{missing}, but a request for a certificate"),
            format!("have an authority sign it: openssl x509 -req -in {shown} -CA ca.pem -CAkey ca.key …"),
        );
    }
    if has("OPENSSH PRIVATE KEY") {
        return fault(
            format!("{missing}, but one of OpenSSH's own form"),
            format!("write it as PKCS#8: ssh-keygen -p -m PKCS8 -f {shown}"),
        );
    }
    let has_key = contains(text, b"PRIVATE KEY-----");
    match wanted {
        Wanted::Key if has("DSA PRIVATE KEY") => {
            fault("it holds a DSA key, which TLS no longer takes", NEW_KEY)
        }
        Wanted::Key if has("PUBLIC KEY") => fault(format!("{missing}, but the public one"), wanted.remedy()),
        Wanted::Key if has("CERTIFICATE") => {
            fault(format!("{missing}, but certificates"), "name the key's file here; are the two exchanged?")
        }
        Wanted::Authorities | Wanted::Certificate if has_key => fault(
            format!("{missing}, but a private key"),
            "name the certificate's file here; are the two exchanged?",
        ),
        _ => fault(missing, wanted.remedy()),
    }
}

/// How to make a key of a kind that everybody takes.
pub(super) const NEW_KEY: &str = "make another key, and have a certificate issued for it: openssl genpkey -algorithm EC \
                                  -pkeyopt ec_paramgen_curve:P-256 -out new.key";

/// Something that is not even text.
fn binary(bytes: &[u8], path: &Path, wanted: Wanted) -> Option<Fault> {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 0x02;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    const JAVA_KEYSTORE: &[u8] = &[0xfe, 0xed, 0xfe, 0xed];
    /// The number that PKCS#12 begins with (RFC 7292, 4); keys begin with smaller ones.
    const PKCS12: &[u8] = &[3];
    let shown = path.display();
    let of_key = wanted == Wanted::Key;
    if bytes.starts_with(JAVA_KEYSTORE) {
        return Some(fault(
            "it is a keystore of Java's",
            format!(
                "make PKCS#12 of it, and then PEM: keytool -importkeystore -srckeystore {shown} -destkeystore {shown}.p12 \
                 -deststoretype pkcs12"
            ),
        ));
    }
    if Certificate::read(bytes).is_some() {
        return Some(convertible(
            "it is a certificate in DER, not in PEM",
            "convert it",
            &format!("openssl x509 -inform der -in {shown} -out"),
            path,
        ));
    }
    let mut rest = bytes;
    let mut contents = expect(&mut rest, SEQUENCE)?;
    let mut inner = contents;
    if expect(&mut inner, OBJECT_IDENTIFIER).is_some() {
        return Some(convertible(
            "it is PKCS#7 in DER, not PEM",
            "take the certificates out of it",
            &format!("openssl pkcs7 -inform der -print_certs -in {shown} -out"),
            path,
        ));
    }
    Some(match expect(&mut contents, INTEGER) {
        Some(PKCS12) => {
            let what = if of_key { "-nocerts -nodes" } else { "-nokeys" };
            let command = format!("openssl pkcs12 -in {shown} {what} -out");
            convertible("it is PKCS#12, not PEM", "take it apart", &command, path)
        }
        _ if of_key => {
            let command = format!("openssl pkey -inform der -in {shown} -out");
            convertible("it is DER, not PEM", "convert it", &command, path)
        }
        _ => fault("it is DER, not PEM", wanted.remedy()),
    })
}
