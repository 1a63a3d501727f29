//! JSON objects of token services and of files, whose strings are secrets: they are taken out into buffers that are
//! zeroed.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// An object whose values have not been looked at yet.
pub struct Object<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    /// Fails with words for what it is not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let object = serde_json::from_slice(bytes).map(Self);
        object.map_err(|_| format!("{} came instead of a JSON object", super::http::kind_of(bytes)))
    }

    fn raw(&self, name: &str) -> Result<&'a str, String> {
        let value = self.0.get(name).map(|value| value.get());
        value.filter(|value| *value != "null").ok_or_else(|| format!("its JSON has no {name}"))
    }

    /// A string, which is not empty; a number is one too.
    pub fn text(&self, name: &str) -> Result<Zeroizing<String>, String> {
        let raw = self.raw(name)?;
        let text = match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
            Some(quoted) => unescaped(quoted),
            None if raw.bytes().all(|byte| byte.is_ascii_digit()) => Some(Zeroizing::new(raw.to_owned())),
            None => None,
        };
        text.filter(|text| !text.is_empty()).ok_or_else(|| format!("{name} in its JSON is no text"))
    }

    /// A whole number, which some services write as a string.
    pub fn number(&self, name: &str) -> Result<u64, String> {
        let number = self.text(name)?.parse();
        number.map_err(|_| format!("{name} in its JSON is no whole number"))
    }

    pub fn object(&self, name: &str) -> Result<Object<'a>, String> {
        let object = Object::parse(self.raw(name)?.as_bytes());
        object.map_err(|_| format!("{name} in its JSON is no object"))
    }

    /// All members, as text.
    pub fn texts(&self) -> Result<Vec<(String, Zeroizing<String>)>, String> {
        self.0.keys().map(|name| Ok((name.clone(), self.text(name)?))).collect()
    }

    /// The text of a member that may be missing.
    pub fn optional(&self, name: &str) -> Result<Option<Zeroizing<String>>, String> {
        self.raw(name).ok().map(|_| self.text(name)).transpose()
    }
}

/// A string without its escapes (RFC 8259, 7). The parser has seen that they are whole.
fn unescaped(text: &str) -> Option<Zeroizing<String>> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let mut behind = rest[at + 1..].chars();
        let escaped = match behind.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'b' => '\u{8}',
            'f' => '\u{c}',
            // No halves of pairs: what clouds say is ASCII.
            'u' => {
                let digits = behind.as_str().get(..4)?;
                behind = behind.as_str()[4..].chars();
                char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
            }
            other => other,
        };
        plain.push(escaped);
        rest = behind.as_str();
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_write_is_read() {
        let object =
            br#"{"a":"x\n\u003d\"\\\/\u00fc","n":"3599","m":7,"o":{"p":"q"},"z":null,"e":"","h":"\ud83d"}"#;
        let object = Object::parse(object).unwrap();
        assert_eq!(*object.text("a").unwrap(), "x\n=\"\\/ü");
        assert_eq!((object.number("n").unwrap(), object.number("m").unwrap()), (3599, 7));
        assert_eq!(*object.object("o").unwrap().text("p").unwrap(), "q");
        assert!(object.optional("z").unwrap().is_none() && object.optional("y").unwrap().is_none());
        assert!(object.text("e").is_err() && object.text("h").is_err() && object.text("o").is_err());
        assert!(object.number("a").is_err() && object.object("a").is_err());
    }
}
