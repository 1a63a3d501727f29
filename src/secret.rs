//! Secrets and their sources.
//!
//! A [`Secret`] is zeroed when dropped and can't reach a log: its `Debug` shows nothing, it has no `Display`, and
//! [`Secret::expose`] is called only where bytes are sent. Every buffer that a secret passes through is allocated at
//! its
//! final size (growing would leave copies behind) and zeroed too.
//!
//! Bytes from clients are not treated as secrets, though they may contain the password that a link requires: the buffer
//! in which it is searched for is zeroed, but not an inline argument, nor what the relay forwards.
//!
//! A [`Source`] is a variable, a URL, a file that is read again when it changes, or whoever issues [`tokens`], such as a
//! [program](command).

pub mod command;
mod file;
pub mod tokens;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use secrecy::{ExposeSecret, SecretSlice};
use zeroize::Zeroizing;

pub use self::file::{FileError, OptionalSecretFile, SecretFile};
use self::tokens::{TokenError, Tokens};
use crate::reload::Failure;

/// The longest password that a Redis server reads: its limit in bytes for a bulk string before authentication.
pub const LONGEST: usize = 16 * 1024;

/// Bytes that must never be shown.
pub struct Secret(SecretSlice<u8>);

impl Secret {
    /// Takes over `bytes`. To leave no copy behind, their capacity should equal their length.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(SecretSlice::from(bytes))
    }

    /// The bytes, to be sent and nothing else.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// `text` with this secret masked: a server may quote its input, whole or truncated.
    ///
    /// Masks every prefix of the secret of six bytes or more, and a shorter secret as a whole. The text is one line,
    /// with
    /// spaces in place of the secret's control characters.
    pub fn mask(&self, text: &str) -> String {
        const TELLING: usize = 6;
        let mut secret = Zeroizing::new(Vec::with_capacity(self.expose().len()));
        secret.extend(self.expose().iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }));
        let secret = Zeroizing::new(String::from_utf8_lossy(&secret).into_owned());
        let mut masked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let shared: usize =
                secret.chars().zip(rest.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
            if shared > 0 && (shared == secret.len() || shared >= TELLING) {
                masked.push_str("***");
                rest = &rest[shared..];
            } else {
                masked.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        masked
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Not in constant time: do not compare bytes from a peer with it.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

/// The source of a value; read at every dial.
#[derive(Debug)]
pub enum Source {
    Variable(Arc<Secret>),
    /// The user information of a target URL.
    Url(Arc<Secret>),
    /// Read again whenever the value is needed.
    File(SecretFile),
    /// Tokens that expire.
    Token(Arc<Tokens>),
    /// The user whom those tokens name as their own.
    UserOfToken(Arc<Tokens>),
}

impl Source {
    /// The current value.
    pub async fn current(&self) -> Result<Arc<Secret>, Unavailable> {
        self.recent(Duration::ZERO).await
    }

    /// The value as of at most `age` ago, for frequent callers.
    pub async fn recent(&self, age: Duration) -> Result<Arc<Secret>, Unavailable> {
        match self {
            Self::Variable(secret) | Self::Url(secret) => Ok(Arc::clone(secret)),
            Self::File(file) => Ok(file.recent(age).await),
            Self::Token(tokens) => Ok(tokens.current().await?),
            Self::UserOfToken(tokens) => Ok(tokens.user().await?),
        }
    }

    /// A value to try after `refused`: another token may be issued for it.
    pub async fn instead_of(&self, refused: &Secret) -> Result<Arc<Secret>, Unavailable> {
        match self {
            Self::Token(tokens) => Ok(tokens.instead_of(refused).await?),
            _ => self.current().await,
        }
    }

    /// Whether the value can change while the process runs.
    pub fn can_change(&self) -> bool {
        !matches!(self, Self::Variable(_) | Self::Url(_))
    }

    /// Whether the last read failed, so that the value is an old one or missing.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Variable(_) | Self::Url(_) => false,
            Self::File(file) => file.failure().is_some(),
            Self::Token(tokens) | Self::UserOfToken(tokens) => tokens.is_failing(),
        }
    }

    /// What helps a file that gives no new value, and why it gives none.
    pub fn remedy(&self) -> Option<String> {
        let Self::File(file) = self else { return None };
        let Failure { reason, remedy } = file.failure()?;
        Some(format!("{}: {reason}", remedy?))
    }

    /// Why a file gives no new value and what helps, as the log says it; `None` where nothing is known to help.
    pub fn trouble(&self) -> Option<String> {
        let Self::File(file) = self else { return None };
        let Failure { reason, remedy } = file.failure()?;
        Some(format!("{reason}: {}", remedy?))
    }

    /// The kind of source, as `links` and the log show it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Variable(_) => "env",
            Self::Url(_) => "url",
            Self::File(_) => "file",
            Self::Token(tokens) | Self::UserOfToken(tokens) => tokens.kind().word(),
        }
    }

    /// The last known value, without reading again; `None` where no token has been issued yet.
    pub fn last(&self) -> Option<Arc<Secret>> {
        match self {
            Self::Variable(secret) | Self::Url(secret) => Some(Arc::clone(secret)),
            Self::File(file) => Some(file.last()),
            Self::Token(tokens) => tokens.last(),
            Self::UserOfToken(tokens) => tokens.last_user(),
        }
    }
}

/// A source without a value.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("the secret can't be read: {0}")]
    File(#[from] FileError),
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Protects the memory of this process: no core dumps, and only root can trace it or read its memory and environment
/// (ptrace(2), proc(5)), not other processes of the same user.
pub fn harden_process() {
    // Both fail only on a kernel that does not know them.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Whether this is most likely the path of a file; what random passwords are made of stands in it too, but hardly so.
pub fn is_path(bytes: &[u8]) -> bool {
    bytes.starts_with(b"/")
        && bytes[1..].contains(&b'/')
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte))
}

/// A value from a file or variable without one trailing line ending.
pub fn without_line_ending(bytes: &[u8]) -> &[u8] {
    match bytes.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_ending_is_cut_off_and_every_other_byte_counts() {
        for (file, value) in [
            (&b"p"[..], &b"p"[..]),
            (b"p\n", b"p"),
            (b"p\r\n", b"p"),
            (b"p\n\n", b"p\n"),
            (b"p\r\r\n", b"p\r"),
            (b"p\r", b"p\r"),
            (b" p ", b" p "),
        ] {
            assert_eq!(without_line_ending(file), value);
        }
    }

    #[test]
    fn a_quoted_secret_is_masked_whole_cut_short_or_repeated() {
        let secret = Secret::new(b"hunter2hunter2".to_vec());
        assert_eq!(secret.mask("ERR unknown command 'hunter2hunter2'"), "ERR unknown command '***'");
        assert_eq!(secret.mask("ERR 'hunter2hu'"), "ERR '***'");
        assert_eq!(secret.mask("a hunter"), "a ***");
        assert_eq!(secret.mask("a hunt"), "a hunt");
        assert_eq!(Secret::new(b"abc".to_vec()).mask("xabcabx"), "x***abx");
        assert_eq!(Secret::new(b"a\nb\tcdefg".to_vec()).mask("ERR 'a b cdefg'"), "ERR '***'");
    }

    #[test]
    fn debug_shows_nothing() {
        assert!(!format!("{:?}", Secret::new(b"hunter2".to_vec())).contains("hunter"));
    }
}
