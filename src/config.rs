//! Everything that the environment and the flags say, read once, whole, before any port is opened.
//!
//! [`Config::load`] either returns what the process is to do or *every* mistake at once. The environment comes in as
//! an [`Env`], so that tests never set variables. [`link`] turns variables into links, [`target`] holds the grammar
//! of targets, [`listen`] that of where clients come in, [`settings`] the table of a link's settings, [`process`] the
//! process-wide ones, [`notation`] what all values have in common.

pub mod backends_file;
pub mod link;
pub mod listen;
mod notation;
pub mod process;
pub mod settings;
pub mod target;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;

use serde::Serialize;
use zeroize::Zeroizing;

use crate::net::ListenAddress;
pub use link::Link;
pub use process::{Process, ProcessArguments};

/// The environment. Any of its values may be a secret, so it has no `Debug` and is zeroed when it is dropped.
pub struct Env(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl Env {
    /// Takes in variables; those whose name is not UTF-8 can't be ours.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let named = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, Zeroizing::new(value.into_vec())))
        };
        Self(variables.into_iter().filter_map(named).collect())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|value| value.as_slice())
    }
}

/// What the process is to do.
#[derive(Debug)]
pub struct Config {
    /// The links, by variable.
    pub links: Vec<Link>,
    /// What is not a link's own.
    pub process: Process,
    /// Link variables that were passed over.
    pub ignored: Vec<Ignored>,
    /// What the operator should look at, though everything can start.
    pub warnings: Vec<Warning>,
}

/// A link variable that is passed over, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ignored {
    /// The variable.
    pub variable: String,
    /// Why it makes no link.
    pub reason: String,
}

/// A variable that can stay as it is, but probably was meant otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The variable.
    pub variable: String,
    /// What is odd about it and what to write instead.
    pub message: String,
}

/// One mistake: which variable, what is wrong, what to do. Never holds a value that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The variable (and the flag, where it has one).
    pub variable: String,
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
}

/// Every mistake of a configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => writeln!(f, "the configuration has a mistake:")?,
            n => writeln!(f, "the configuration has {n} mistakes:")?,
        }
        for mistake in &self.0 {
            writeln!(f, "\n{}: {}", mistake.variable, mistake.reason)?;
            writeln!(f, "  remedy: {}", mistake.remedy)?;
        }
        Ok(())
    }
}

/// What is found wrong or odd on the way; handed through all the parsers.
#[derive(Default)]
struct Diagnostics {
    mistakes: Vec<ConfigError>,
    warnings: Vec<Warning>,
    ignored: Vec<Ignored>,
}

impl Diagnostics {
    fn mistake(&mut self, variable: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.mistakes.push(ConfigError {
            variable: variable.to_owned(),
            reason: reason.into(),
            remedy: remedy.into(),
        });
    }

    fn warning(&mut self, variable: &str, message: impl Into<String>) {
        self.warnings.push(Warning { variable: variable.to_owned(), message: message.into() });
    }

    fn ignored(&mut self, variable: &str, reason: impl Into<String>) {
        self.ignored.push(Ignored { variable: variable.to_owned(), reason: reason.into() });
    }
}

impl Config {
    /// Where the admin endpoint of the process that has these settings listens, or a mistake; `None` if it has none.
    pub fn admin(arguments: &ProcessArguments) -> Result<Option<ListenAddress>, ConfigErrors> {
        let mut findings = Diagnostics::default();
        let admin = process::admin(arguments, &mut findings);
        if findings.mistakes.is_empty() { Ok(admin) } else { Err(ConfigErrors(findings.mistakes)) }
    }

    /// Reads it all.
    ///
    /// # Errors
    /// Every mistake at once: malformed values, settings that contradict each other, files that can't be read,
    /// listeners that clash, and the lack of any link.
    pub fn load(env: &Env, arguments: &ProcessArguments) -> Result<Self, ConfigErrors> {
        let mut findings = Diagnostics::default();
        let process = process::parse(env, arguments, &mut findings);
        let links = link::parse(env, &process, &mut findings);
        if findings.mistakes.is_empty() {
            Ok(Self { links, process, ignored: findings.ignored, warnings: findings.warnings })
        } else {
            Err(ConfigErrors(findings.mistakes))
        }
    }
}
