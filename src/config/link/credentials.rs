//! Who authenticates to whom, and where the passwords come from.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::secret::{OptionalSecretFile, Secret, Source};

/// A password and the user that it belongs to.
#[derive(Debug, PartialEq)]
pub struct Credential {
    /// The ACL user.
    pub username: Option<Arc<Secret>>,
    /// The password.
    pub password: Arc<Secret>,
}

/// Where a link's user and password come from.
#[derive(Debug)]
pub struct Credentials {
    /// The link's name, for the log.
    pub link: String,
    /// The ACL user.
    pub username: Option<Source>,
    /// The password.
    pub password: Source,
    /// The password before this one.
    pub previous: Option<OptionalSecretFile>,
    /// The variable that gave the password, for remedies.
    pub variable: String,
    /// The variable that gave the user, or that would.
    pub username_variable: String,
    /// What became of them so far.
    pub memory: Memory,
}

/// What is known of a link's credentials, at whichever backend.
#[derive(Debug, Default)]
pub struct Memory {
    /// What the sources gave last.
    pub seen: Mutex<Option<Arc<Credential>>>,
    /// What worked last.
    pub good: Mutex<Option<Arc<Credential>>>,
}

/// What becomes of a client's own authentication.
#[derive(Debug)]
pub enum ClientAuth {
    /// It is the target's business, as every other command.
    Forward,
    /// It is taken for good, whatever it is.
    Absorb,
    /// Without the right one nobody is served.
    Require(Box<Required>),
}

/// What a client has to show.
#[derive(Debug)]
pub struct Required {
    /// The user; without one, Redis' `default`.
    pub username: Option<Source>,
    /// The password.
    pub password: Source,
}
