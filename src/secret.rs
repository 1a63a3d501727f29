//! Secrets, from the first byte read to the last byte written.
//!
//! A [`Secret`] is zeroed when it is dropped and has no way into a log line: its `Debug` shows nothing, it has no
//! `Display`, and [`Secret::expose`] is called only where bytes go to the target. Every buffer that a secret passes
//! through on its way is allocated at its final size (growing would leave copies behind) and zeroed too.
//!
//! What clients say is theirs, though it may hold the password that a link requires of them: the buffer in which that is
//! looked for is zeroed, but an inline argument, and what the relay passes on, are bytes like any others.
//!
//! A [`Source`] is where a secret comes from: a variable, a URL, a file that is read again, or a [program](command).

pub mod command;
mod file;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use secrecy::{ExposeSecret, SecretSlice};
use zeroize::Zeroizing;

use self::command::{CommandError, SecretCommand};
pub use self::file::{FileError, OptionalSecretFile, SecretFile};

/// The longest password a Redis server takes before authentication: its limit for one bulk string, in bytes.
pub const LONGEST: usize = 16 * 1024;

/// Bytes that must never be shown.
pub struct Secret(SecretSlice<u8>);

impl Secret {
    /// Takes over `bytes`. To leave no copy behind, their capacity should equal their length.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(SecretSlice::from(bytes))
    }

    /// The bytes themselves; for the wire, and for nothing else.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// `text` with every trace of this secret masked: a server may quote what it was sent, whole or cut short.
    ///
    /// Any run of at least six bytes that begins like the secret is masked, and so is a shorter secret as a whole. The
    /// text is one line: where the secret has control characters it has spaces.
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

/// How long a comparison takes tells how the two begin: not for what a stranger has sent.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

/// Where a value comes from; asked at every dial.
#[derive(Debug)]
pub enum Source {
    /// A variable of the environment.
    Variable(Arc<Secret>),
    /// The user information of a target URL.
    Url(Arc<Secret>),
    /// A file that is read again whenever the value is needed.
    File(SecretFile),
    /// A program that prints the value.
    Command(SecretCommand),
}

impl Source {
    /// The value as of now.
    pub async fn current(&self) -> Result<Arc<Secret>, Unavailable> {
        self.recent(Duration::ZERO).await
    }

    /// The same where many ask again and again: a look that is at most so old will do.
    pub async fn recent(&self, age: Duration) -> Result<Arc<Secret>, Unavailable> {
        match self {
            Self::Variable(secret) | Self::Url(secret) => Ok(Arc::clone(secret)),
            Self::File(file) => Ok(file.recent(age).await),
            Self::Command(command) => Ok(command.current().await?),
        }
    }

    /// The value that has taken the place of `refused`, if there is another one.
    pub async fn instead_of(&self, refused: &Secret) -> Result<Arc<Secret>, Unavailable> {
        match self {
            Self::Command(command) => Ok(command.instead_of(refused).await?),
            _ => self.current().await,
        }
    }

    /// Whether the value can become another one while the process runs.
    pub fn can_change(&self) -> bool {
        matches!(self, Self::File(_) | Self::Command(_))
    }

    /// Whether there was nothing to be had when somebody looked last, so that the value is an old one or none.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Variable(_) | Self::Url(_) => false,
            Self::File(file) => file.is_stale(),
            Self::Command(command) => command.is_failing(),
        }
    }

    /// How `links` and the log name this source.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Variable(_) => "env",
            Self::Url(_) => "url",
            Self::File(_) => "file",
            Self::Command(_) => "command",
        }
    }

    /// The value as it was last known, without looking again; a program that was not run yet has none.
    pub fn last(&self) -> Option<Arc<Secret>> {
        match self {
            Self::Variable(secret) | Self::Url(secret) => Some(Arc::clone(secret)),
            Self::File(file) => Some(file.last()),
            Self::Command(command) => command.last(),
        }
    }
}

/// A secret can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// From its file.
    #[error("the secret can't be read: {0}")]
    File(#[from] FileError),
    /// From its program.
    #[error("the secret can't be had from its program: {0}")]
    Command(#[from] CommandError),
}

/// Keeps what is in memory out of core dumps and out of reach of other processes of the same user, as far as the kernel
/// lets: nobody but root can trace this process then, or look into its memory or environment (ptrace(2), proc(5)).
pub fn harden_process() {
    // Both can only be refused by a kernel that knows neither; there is nothing else that could be done.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// A value as people write it into files and variables, without one line ending at its end.
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

    /// Many ask for the previous password, and one of them reads it; who is late can tell what is waited for.
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
