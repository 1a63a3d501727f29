//! What a certificate says of itself. Whether it is to be believed is rustls' affair: nothing that is read here decides that.
//! Of clients whose certificates are believed, their names decide who is served ([`names`](super::names)).
//!
//! A certificate is a stranger's bytes: DER (X.690), laid out as in RFC 5280, 4.1.

use crate::text;
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::SystemTime;

/// A certificate in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// Whose it is, by its common name or else its organisation.
    pub subject: Option<String>,
    /// Who vouches for it, by the same.
    pub issuer: Option<String>,
    /// The end of its time.
    pub ends: SystemTime,
}

impl Summary {
    /// Reads a certificate; `None` if it can't be read.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let certificate = Certificate::read(certificate)?;
        Some(Self {
            names: certificate.names(),
            subject: name(certificate.subject),
            issuer: name(certificate.issuer),
            ends: certificate.ends?,
        })
    }
}

/// A certificate taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// 1 to 3.
    pub version: u8,
    /// What it is signed with: an algorithm's identifier and parameters.
    pub signed_with: &'a [u8],
    /// The name of who vouches for it.
    pub issuer: &'a [u8],
    /// The beginning of its time.
    pub begins: Option<SystemTime>,
    /// The end of its time.
    pub ends: Option<SystemTime>,
    /// Its own name.
    pub subject: &'a [u8],
    /// Its public key, as a whole element (`SubjectPublicKeyInfo`).
    pub key: &'a [u8],
    extensions: Vec<Extension<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Extension<'a> {
    id: &'a [u8],
    is_critical: bool,
    value: &'a [u8],
}

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// Of the certificate's parts that have a tag of their own: the version and the extensions.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// Identifiers of extensions (RFC 5280, 4.2.1), of which those below `2.5.29` are the ones that certificates have.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];

/// Those that rustls' verification heeds: key usage, names, basic and name constraints, distribution points of revocation
/// lists, extended key usage.
const HEEDED: [u8; 6] = [15, 17, 19, 30, 31, 37];

impl<'a> Certificate<'a> {
    /// Takes a certificate apart; `None` if that can't be done.
    pub fn read(mut certificate: &'a [u8]) -> Option<Self> {
        let mut certificate = expect(&mut certificate, SEQUENCE)?;
        let mut signed = expect(&mut certificate, SEQUENCE)?;
        let version = version(&mut signed)?;
        expect(&mut signed, INTEGER)?;
        let signed_with = expect(&mut signed, SEQUENCE)?;
        let issuer = expect(&mut signed, SEQUENCE)?;
        let mut validity = expect(&mut signed, SEQUENCE)?;
        let mut moments = std::iter::from_fn(|| element(&mut validity)).map(moment);
        let (begins, ends) = (moments.next().flatten(), moments.next().flatten());
        let subject = expect(&mut signed, SEQUENCE)?;
        let before = signed;
        expect(&mut signed, SEQUENCE)?;
        let key = &before[..before.len() - signed.len()];
        let mut read =
            Self { version, signed_with, issuer, begins, ends, subject, key, extensions: Vec::new() };
        while let Some((tag, mut contents)) = element(&mut signed) {
            if tag == EXTENSIONS {
                read.extensions = extensions(&mut contents)?;
            }
        }
        Some(read)
    }

    fn extension(&self, id: &[u8]) -> Option<&'a [u8]> {
        self.extensions.iter().find(|extension| extension.id == id).map(|extension| extension.value)
    }

    /// The names and addresses that it is for (RFC 5280, 4.2.1.6).
    pub fn names(&self) -> Vec<String> {
        self.alternative_names().filter_map(|name| name.shown()).collect()
    }

    fn alternative_names(&self) -> impl Iterator<Item = Name<'a>> + use<'a> {
        const MAIL: u8 = 0x81;
        const DNS: u8 = 0x82;
        const URI: u8 = 0x86;
        const ADDRESS: u8 = 0x87;
        let mut value = self.extension(SUBJECT_ALT_NAME).unwrap_or_default();
        let mut rest = expect(&mut value, SEQUENCE).unwrap_or_default();
        std::iter::from_fn(move || element(&mut rest)).filter_map(|(tag, bytes)| {
            let kind = match tag {
                MAIL => Kind::Email,
                DNS => Kind::Dns,
                URI => Kind::Uri,
                ADDRESS => Kind::Address,
                _ => return None,
            };
            Some(Name { kind, bytes })
        })
    }

    /// All that it may be called by: those, then its common names.
    pub fn all_names(&self) -> impl Iterator<Item = Name<'a>> + use<'a> {
        const UTF8_STRING: u8 = 0x0c;
        const PRINTABLE_STRING: u8 = 0x13;
        let common = attributes(self.subject).filter(|(kind, _, _)| *kind == COMMON_NAME);
        // What older kinds of strings mean is not the same to everybody.
        let common = common.filter(|(_, tag, _)| matches!(*tag, UTF8_STRING | PRINTABLE_STRING));
        self.alternative_names().chain(common.map(|(_, _, bytes)| Name { kind: Kind::CommonName, bytes }))
    }

    /// Its common name, which has not counted as a name of the server since RFC 6125.
    pub fn common_name(&self) -> Option<String> {
        attribute(self.subject, COMMON_NAME)
    }

    /// Whether it vouches for itself.
    pub fn is_self_signed(&self) -> bool {
        self.issuer == self.subject
    }

    /// Whether it says that it may vouch for others (RFC 5280, 4.2.1.9).
    pub fn is_authority(&self) -> bool {
        let mut value = self.extension(BASIC_CONSTRAINTS).unwrap_or_default();
        let mut constraints = expect(&mut value, SEQUENCE).unwrap_or_default();
        expect(&mut constraints, BOOLEAN).is_some_and(|value| value != [0])
    }

    /// Whether it says what it is for, and that is something else (RFC 5280, 4.2.1.12).
    pub fn is_for_another_purpose(&self, purpose: Purpose) -> bool {
        let Some(mut value) = self.extension(EXTENDED_KEY_USAGE) else { return false };
        let mut purposes = expect(&mut value, SEQUENCE).unwrap_or_default();
        while let Some(id) = expect(&mut purposes, OBJECT_IDENTIFIER) {
            if id == purpose.id() {
                return false;
            }
        }
        true
    }

    /// The first extension that whoever does not know it has to refuse, and that rustls does not know.
    pub fn unheeded(&self) -> Option<String> {
        let is_heeded = |id: &[u8]| matches!(id, [0x55, 0x1d, number] if HEEDED.contains(number));
        let unheeded =
            self.extensions.iter().find(|extension| extension.is_critical && !is_heeded(extension.id))?;
        Some(match known_extension(unheeded.id) {
            Some(name) => name.to_owned(),
            None => dotted(unheeded.id),
        })
    }

    /// Its public key.
    pub fn key(&self) -> Option<Key> {
        let mut key = self.key;
        Key::read(expect(&mut key, SEQUENCE)?)
    }
}

/// The kinds of names that clients' certificates have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Dns,
    Uri,
    Email,
    Address,
    /// A part of the subject's distinguished name.
    CommonName,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Dns, Self::Uri, Self::Email, Self::Address, Self::CommonName];

    /// As it is written before a name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Uri => "uri",
            Self::Email => "email",
            Self::Address => "ip",
            Self::CommonName => "cn",
        }
    }
}

/// A name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    pub kind: Kind,
    bytes: &'a [u8],
}

impl<'a> Name<'a> {
    /// All of it, as it is compared; `None` for what is no text or no address.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        match self.kind {
            Kind::Address => address(self.bytes).map(|address| address.to_string().into()),
            _ => std::str::from_utf8(self.bytes).ok().map(Cow::Borrowed),
        }
    }

    /// For people: on one line, and not too long.
    fn shown(&self) -> Option<String> {
        match self.kind {
            Kind::Address => address(self.bytes).map(|address| address.to_string()),
            _ => Some(shown(self.bytes)),
        }
    }
}

/// With its kind, for people.
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.shown().unwrap_or_default())
    }
}

/// Which side of TLS a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A server's.
    Server,
    /// A client's.
    Client,
}

impl Purpose {
    fn id(self) -> &'static [u8] {
        match self {
            Self::Server => &[0x2b, 6, 1, 5, 5, 7, 3, 1],
            Self::Client => &[0x2b, 6, 1, 5, 5, 7, 3, 2],
        }
    }
}

fn version(signed: &mut &[u8]) -> Option<u8> {
    if signed.first() != Some(&VERSION) {
        return Some(1);
    }
    let mut version = expect(signed, VERSION)?;
    match expect(&mut version, INTEGER)? {
        [number @ 0..=2] => Some(number + 1),
        _ => None,
    }
}

fn extensions<'a>(contents: &mut &'a [u8]) -> Option<Vec<Extension<'a>>> {
    const OCTET_STRING: u8 = 0x04;
    let mut list = expect(contents, SEQUENCE)?;
    let mut extensions = Vec::new();
    while !list.is_empty() {
        let mut extension = expect(&mut list, SEQUENCE)?;
        let id = expect(&mut extension, OBJECT_IDENTIFIER)?;
        let is_critical = match extension.first() {
            Some(&BOOLEAN) => expect(&mut extension, BOOLEAN)? != [0],
            _ => false,
        };
        extensions.push(Extension { id, is_critical, value: expect(&mut extension, OCTET_STRING)? });
    }
    Some(extensions)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A time as certificates write it (RFC 5280, 4.1.2.5): `YYMMDDHHMMSSZ`, from 2050 on `YYYYMMDDHHMMSSZ`.
fn moment((kind, text): (u8, &[u8])) -> Option<SystemTime> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let text = std::str::from_utf8(text).ok()?;
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

/// The longest name that is shown; the words are a stranger's. No name of DNS is longer.
const LONGEST_NAME: usize = 253;

fn shown(name: &[u8]) -> String {
    text::one_line(name).chars().take(LONGEST_NAME).collect()
}

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANISATION: &[u8] = &[0x55, 4, 10];

/// The telling part of a distinguished name: the common name, else the organisation.
pub fn name(distinguished: &[u8]) -> Option<String> {
    attribute(distinguished, COMMON_NAME).or_else(|| attribute(distinguished, ORGANISATION))
}

fn attribute(distinguished: &[u8], wanted: &[u8]) -> Option<String> {
    attributes(distinguished).find(|(kind, _, _)| *kind == wanted).map(|(_, _, value)| shown(value))
}

/// The attributes of a distinguished name (X.501, RFC 5280, 4.1.2.4), up to one that can't be read: of each the identifier, and
/// a string's tag and bytes.
fn attributes(distinguished: &[u8]) -> impl Iterator<Item = (&[u8], u8, &[u8])> {
    let (mut sets, mut set) = (distinguished, &[][..]);
    std::iter::from_fn(move || {
        while set.is_empty() {
            set = expect(&mut sets, SET)?;
        }
        let mut attribute = expect(&mut set, SEQUENCE)?;
        let (_, kind) = element(&mut attribute)?;
        let (tag, value) = element(&mut attribute)?;
        Some((kind, tag, value))
    })
    .fuse()
}

/// A public key, as far as it matters whether it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// RSA, and how many bits its modulus has.
    Rsa(usize),
    /// Any other, by the name of its kind.
    Other(String),
}

impl Key {
    /// The sizes of RSA keys that the cryptography takes.
    pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

    /// Reads what is in a `SubjectPublicKeyInfo`: an algorithm's identifier and parameters, and the key itself.
    pub fn read(mut key: &[u8]) -> Option<Self> {
        const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
        let algorithm = expect(&mut key, SEQUENCE)?;
        let mut identifier = algorithm;
        if expect(&mut identifier, OBJECT_IDENTIFIER)? != RSA {
            return Some(Self::Other(key_kind(algorithm)));
        }
        // The first byte of a bit string counts the bits at its end that are none of it.
        let mut numbers = expect(&mut key, BIT_STRING)?.get(1..)?;
        let mut numbers = expect(&mut numbers, SEQUENCE)?;
        let modulus = expect(&mut numbers, INTEGER)?;
        let significant = modulus.iter().position(|byte| *byte != 0).map_or(&[][..], |at| &modulus[at..]);
        let unused = significant.first().map_or(0, |byte| byte.leading_zeros() as usize);
        Some(Self::Rsa(significant.len() * 8 - unused))
    }

    /// Whether it is an RSA key that is too short or too long.
    pub fn is_wrong_size(&self) -> bool {
        matches!(self, Self::Rsa(bits) if !Self::RSA_BITS.contains(bits))
    }

    /// What it is, with its article.
    pub fn name(&self) -> String {
        match self {
            Self::Rsa(bits) => format!("an RSA key of {bits} bits"),
            Self::Other(kind) => format!("a key of the kind {kind}"),
        }
    }
}

/// The kind of a key, from its algorithm's identifier and parameters (RFC 5480, RFC 8410).
pub fn key_kind(algorithm: &[u8]) -> String {
    const ELLIPTIC_CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    let mut rest = algorithm;
    let Some(id) = expect(&mut rest, OBJECT_IDENTIFIER) else { return "unknown".to_owned() };
    if id != ELLIPTIC_CURVE {
        return known_algorithm(id).map_or_else(|| dotted(id), str::to_owned);
    }
    match expect(&mut rest, OBJECT_IDENTIFIER) {
        Some(curve) => {
            format!("ECDSA on {}", known_curve(curve).map_or_else(|| dotted(curve), str::to_owned))
        }
        // `openssl ecparam -param_enc explicit` writes the curve's numbers instead of its name.
        None => "ECDSA on a curve without a name".to_owned(),
    }
}

/// What something is signed with, from the algorithm's identifier and parameters.
pub fn signature_kind(algorithm: &[u8]) -> String {
    let mut rest = algorithm;
    match expect(&mut rest, OBJECT_IDENTIFIER) {
        Some(id) => known_algorithm(id).map_or_else(|| dotted(id), str::to_owned),
        None => "unknown".to_owned(),
    }
}

/// Algorithms by the names that openssl shows (RFC 3279, 4055, 5758, 8410).
fn known_algorithm(id: &[u8]) -> Option<&'static str> {
    Some(match id {
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, kind] => match kind {
            1 => "rsaEncryption",
            2 => "md2WithRSAEncryption",
            4 => "md5WithRSAEncryption",
            5 => "sha1WithRSAEncryption",
            10 => "rsassaPss",
            11 => "sha256WithRSAEncryption",
            12 => "sha384WithRSAEncryption",
            13 => "sha512WithRSAEncryption",
            14 => "sha224WithRSAEncryption",
            _ => return None,
        },
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1] => "ecdsa-with-SHA1",
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, kind] => match kind {
            1 => "ecdsa-with-SHA224",
            2 => "ecdsa-with-SHA256",
            3 => "ecdsa-with-SHA384",
            4 => "ecdsa-with-SHA512",
            _ => return None,
        },
        [0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1] => "dsaEncryption",
        [0x2a, 0x86, 0x48, 0xce, 0x38, 4, 3] => "dsaWithSHA1",
        [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 1 | 2] => "dsaWithSHA2",
        [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 17..=19] => "ML-DSA",
        [0x2b, 0x65, 0x70] => "Ed25519",
        [0x2b, 0x65, 0x71] => "Ed448",
        [0x2a, 0x81, 0x1c, 0xcf, 0x55, 1, 0x83, 0x75] => "SM2 with SM3",
        _ => return None,
    })
}

fn known_curve(id: &[u8]) -> Option<&'static str> {
    Some(match id {
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7] => "P-256",
        [0x2b, 0x81, 4, 0, 0x22] => "P-384",
        [0x2b, 0x81, 4, 0, 0x23] => "P-521",
        [0x2b, 0x81, 4, 0, 0x21] => "P-224",
        [0x2b, 0x81, 4, 0, 0x0a] => "secp256k1",
        [0x2b, 0x24, 3, 3, 2, 8, 1, 1, 1..=14] => "a Brainpool curve",
        [0x2a, 0x81, 0x1c, 0xcf, 0x55, 1, 0x82, 0x2d] => "SM2",
        _ => return None,
    })
}

fn known_extension(id: &[u8]) -> Option<&'static str> {
    Some(match id {
        [0x55, 0x1d, number] => match number {
            16 => "privateKeyUsagePeriod",
            18 => "issuerAltName",
            32 => "certificatePolicies",
            33 => "policyMappings",
            36 => "policyConstraints",
            54 => "inhibitAnyPolicy",
            _ => return None,
        },
        [0x2b, 6, 1, 5, 5, 7, 1, 24] => "tlsfeature",
        [0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 1, 1] => "nsCertType",
        _ => return None,
    })
}

/// More numbers than this has no identifier that anybody uses.
const MOST_NUMBERS: usize = 20;

/// An identifier of objects as people write it (X.690, 8.19): in bytes of seven bits, the first two numbers in one.
fn dotted(id: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number: u64 = 0;
    for byte in id {
        number = number.saturating_mul(128).saturating_add(u64::from(byte & 0x7f));
        if byte & 0x80 == 0 {
            numbers.push(std::mem::take(&mut number));
        }
    }
    let first = numbers.first().copied().unwrap_or_default();
    let root = (first / 40).min(2);
    let mut text = format!("{root}.{}", first - root * 40);
    for number in numbers.iter().skip(1).take(MOST_NUMBERS) {
        // Writing to a string can't fail.
        let _ = write!(text, ".{number}");
    }
    text
}

/// Takes one element off the front, if it has this tag, and returns its contents.
pub(super) fn expect<'a>(rest: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    let mut after = *rest;
    let (tag, contents) = element(&mut after)?;
    (tag == wanted).then(|| {
        *rest = after;
        contents
    })
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
        let seconds = |kind, text: &str| {
            let time = moment((kind, text.as_bytes()))?;
            time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs())
        };
        assert_eq!(seconds(0x17, "231114221320Z"), Some(1_700_000_000));
        assert_eq!(seconds(0x18, "20231114221320Z"), Some(1_700_000_000));
        assert_eq!(seconds(0x18, "20500101000000Z"), Some(2_524_608_000));
        for (kind, text) in [(0x17, ""), (0x17, "Z"), (0x17, "20231114221320Z"), (0x17, "2311142213+1Z")] {
            assert_eq!(seconds(kind, text), None, "{text}");
        }
        assert_eq!(seconds(0x18, "20231399000000Z"), None);
        assert_eq!(seconds(0x0c, "231114221320Z"), None);
        assert_eq!(Certificate::read(&[0x30, 2, 0x30, 0]), None);
    }

    #[test]
    fn identifiers_are_dotted_or_have_names() {
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5]), "1.2.840.113549.1.1.5");
        assert_eq!(dotted(&[0x55, 0x1d, 36]), "2.5.29.36");
        assert_eq!(dotted(&[0x88, 0x37]), "2.999");
        assert_eq!(dotted(&[]), "0.0");
        assert_eq!(signature_kind(&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1]), "ecdsa-with-SHA1");
        assert_eq!(
            key_kind(&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x23]),
            "ECDSA on P-521"
        );
        assert_eq!(key_kind(&[6, 3, 0x2b, 0x65, 0x71]), "Ed448");
        assert_eq!(key_kind(b"x"), "unknown");
    }
}
