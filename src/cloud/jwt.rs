//! JSON web tokens (RFC 7519): signed by us with a key of a file, or issued by others.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use zeroize::Zeroizing;

use super::json::Object;

/// The claims, signed with RS256 by an RSA key in PEM.
pub fn signed(header: &str, claims: &str, key: &str) -> Result<Zeroizing<String>, String> {
    let key = pair(key).ok_or("private_key is no RSA key in PEM")?;
    let encoded = |part: &[u8]| Zeroizing::new(BASE64URL_NOPAD.encode(part));
    let signed =
        super::joined([encoded(header.as_bytes()).as_str(), ".", encoded(claims.as_bytes()).as_str()]);
    let mut signature = Zeroizing::new(vec![0; key.public().modulus_len()]);
    let done = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature);
    done.map_err(|_| "private_key can't sign".to_owned())?;
    Ok(super::joined([signed.as_str(), ".", encoded(&signature).as_str()]))
}

/// The key in PEM (RFC 7468), as PKCS #8 or PKCS #1. Libraries that read PEM leave what they decode in buffers that they
/// do not zero.
fn pair(pem: &str) -> Option<RsaKeyPair> {
    let (_, rest) = pem.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (encoded, _) = rest.split_once("-----END ")?;
    let encoded = super::joined(encoded.split_ascii_whitespace());
    let der = Zeroizing::new(BASE64.decode(encoded.as_bytes()).ok()?);
    match label {
        "PRIVATE KEY" => RsaKeyPair::from_pkcs8(&der).ok(),
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der).ok(),
        _ => None,
    }
}

/// A claim of a token that was issued to us: its signature is the business of who accepts it.
pub fn claim(token: &str, name: &str) -> Option<String> {
    let claims = Zeroizing::new(BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?);
    let claim = Object::parse(&claims).ok()?.text(name).ok()?;
    Some(claim.to_string())
}
