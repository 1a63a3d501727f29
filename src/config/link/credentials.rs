//! A link's credentials towards the target, and the password that it requires of clients.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::secret::{OptionalSecretFile, Secret, Source};

/// A password and its user.
#[derive(Debug, PartialEq)]
pub struct Credential {
    /// The ACL user; `None` is Redis' `default`.
    pub username: Option<Arc<Secret>>,
    pub password: Arc<Secret>,
}

/// The sources of a link's user and password.
#[derive(Debug)]
pub struct Credentials {
    /// The link's name, for the log.
    pub link: String,
    /// Tokens of AWS are signed for it.
    pub username: Option<Arc<Source>>,
    pub password: Source,
    /// The file of `AUTH_PREVIOUS_FILE`.
    pub previous: Option<OptionalSecretFile>,
    /// The variable of the password, for remedies.
    pub variable: String,
    /// The variable of the user, set or not, for remedies.
    pub username_variable: String,
    /// The variable of `previous`, set or not, for remedies.
    pub previous_variable: String,
    pub memory: Memory,
}

impl Credentials {
    /// The last known user, if there is one.
    pub fn user(&self) -> Option<Arc<Secret>> {
        self.username.as_ref().and_then(|source| source.last())
    }
}

/// The history of a link's credentials over all backends.
#[derive(Debug, Default)]
pub struct Memory {
    /// The last one read from the sources.
    pub seen: Mutex<Option<Arc<Credential>>>,
    /// The last accepted one.
    pub good: Mutex<Option<Arc<Credential>>>,
}

/// `CLIENT_AUTH`: what happens with a client's own AUTH.
#[derive(Debug)]
pub enum ClientAuth {
    /// It is forwarded as any other command.
    Forward,
    /// It is answered with OK, whatever the password.
    Absorb,
    /// Clients without the right password are refused.
    Require(Box<Required>),
}

/// The user and password that a client must send.
#[derive(Debug)]
pub struct Required {
    /// `None` is Redis' `default`.
    pub username: Option<Source>,
    pub password: Source,
}
