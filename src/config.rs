//! The configuration from the environment and the flags, read once, before any port is opened.
//!
//! [`Config::load`] returns the configuration or *every* mistake at once. The environment is passed in as an [`Env`],
//! so
//! that tests never set variables. [`link`] turns variables into links, [`target`] has the grammar of targets,
//! [`listen`] that of listen addresses, [`settings`] the table of a link's settings, [`process`] the process-wide ones,
//! [`notation`] what all values have in common.

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

/// The environment. Any value may be a secret, so it has no `Debug` and is zeroed when dropped.
pub struct Env(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl Env {
    /// Variables whose name is not UTF-8 can't be ours and are dropped.
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

/// The configuration of the whole process.
#[derive(Debug)]
pub struct Config {
    /// In the order of their variables.
    pub links: Vec<Link>,
    pub process: Process,
    /// Link variables that are ignored.
    pub ignored: Vec<Ignored>,
    /// What the operator should check, though the process can start.
    pub warnings: Vec<Warning>,
}

/// A link variable that is ignored, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ignored {
    pub variable: String,
    pub reason: String,
}

/// A variable that is valid but probably a mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    pub variable: String,
    /// What is suspicious, and what to write instead.
    pub message: String,
}

/// One mistake in the configuration. Never holds a value that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The variable (and the flag, where it has one).
    pub variable: String,
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
}

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

/// The mistakes and warnings found so far; passed through all parsers.
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
    /// The listen address of the admin endpoint; `None` if it is off. For subcommands that query a running process.
    pub fn admin(arguments: &ProcessArguments) -> Result<Option<ListenAddress>, ConfigErrors> {
        let mut findings = Diagnostics::default();
        let admin = process::admin(arguments, &mut findings);
        if findings.mistakes.is_empty() { Ok(admin) } else { Err(ConfigErrors(findings.mistakes)) }
    }

    /// Reads the whole configuration.
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
