//! What a certificate says of itself, as far as people want to know it. Whether it is to be believed is rustls' affair.

use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, ServerName};

use super::explain::bare_name;
use crate::resp::one_line;

/// A certificate in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// Who vouches for it.
    pub issuer: Option<String>,
    /// The end of its time.
    pub ends: SystemTime,
}

impl Summary {
    /// Reads a certificate; `None` if it can't be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        Some(Self { names: names(certificate), issuer: issuer(certificate), ends: ends(certificate)? })
    }
}

/// Its names, as the refusal of one that nobody has tells them: there is no other way to ask for the addresses too.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let nobody = ServerName::try_from("nobody.invalid").map(|nobody| {
        webpki::EndEntityCert::try_from(certificate)
            .and_then(|certificate| certificate.verify_is_valid_for_subject_name(&nobody))
    });
    match nobody {
        Ok(Err(webpki::Error::CertNotValidForName(context))) => {
            context.presented.iter().map(|name| bare_name(name)).collect()
        }
        _ => Vec::new(),
    }
}

/// The end of its validity (RFC 5280 4.1).
fn ends(certificate: &[u8]) -> Option<SystemTime> {
    const VERSION: u8 = 0xa0;
    let mut rest = certificate;
    let (_, mut certificate) = element(&mut rest)?;
    let (_, mut signed) = element(&mut certificate)?;
    if signed.first() == Some(&VERSION) {
        element(&mut signed)?;
    }
    // The serial number, the algorithm of the signature and the issuer come first.
    for _ in 0..3 {
        element(&mut signed)?;
    }
    let (_, mut validity) = element(&mut signed)?;
    element(&mut validity)?;
    let (kind, time) = element(&mut validity)?;
    moment(kind, std::str::from_utf8(time).ok()?)
}

/// A time as certificates write it (RFC 5280 4.1.2.5): `YYMMDDHHMMSSZ`, from 2050 on `YYYYMMDDHHMMSSZ`.
fn moment(kind: u8, text: &str) -> Option<SystemTime> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let century = match (kind, text.get(..2)?) {
        (UTC_TIME, year) if year < "50" => "20",
        (UTC_TIME, _) => "19",
        (GENERALIZED_TIME, _) => "",
        _ => return None,
    };
    let digits = format!("{century}{}", text.strip_suffix('Z')?);
    if digits.len() != 14 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| &digits[from..to];
    let date = format!("{}-{}-{}", part(0, 4), part(4, 6), part(6, 8));
    let time = format!("{}:{}:{}", part(8, 10), part(10, 12), part(12, 14));
    humantime::parse_rfc3339(&format!("{date}T{time}Z")).ok()
}

/// The longest name of an issuer that is shown; the words are a stranger's.
const LONGEST_NAME: usize = 100;

/// The issuer of a certificate, by its common name or else its organisation.
pub(super) fn issuer(certificate: &CertificateDer<'_>) -> Option<String> {
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

    #[test]
    fn times_are_read_in_both_forms_and_nonsense_is_none() {
        let seconds = |kind, text| {
            let time = moment(kind, text)?;
            time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs())
        };
        assert_eq!(seconds(0x17, "231114221320Z"), Some(1_700_000_000));
        assert_eq!(seconds(0x18, "20231114221320Z"), Some(1_700_000_000));
        assert_eq!(seconds(0x18, "20500101000000Z"), Some(2_524_608_000));
        for (kind, text) in [(0x17, ""), (0x17, "Z"), (0x17, "20231114221320Z"), (0x17, "2311142213+1Z")] {
            assert_eq!(moment(kind, text), None, "{text}");
        }
        assert_eq!(moment(0x18, "20231399000000Z"), None);
        assert_eq!(moment(0x0c, "231114221320Z"), None);
        assert_eq!(ends(&[0x30, 2, 0x30, 0]), None);
    }
}
