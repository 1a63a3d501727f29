//! The configuration from the environment and the flags, read once, before any port is opened.
//!
//! [`Config::load`] returns the configuration or *every* mistake at once. The environment is passed in as an [`Env`]:
//! that of the process, or what [`env_file`] reads instead of it. [`link`] turns variables into links, [`target`] has the grammar of targets,
//! [`listen`] that of listen addresses, [`settings`] the table of a link's settings, [`process`] the process-wide ones,
//! [`notation`] what all values have in common.

pub mod backends_file;
pub mod env_file;
pub mod link;
pub mod listen;
mod notation;
pub mod process;
pub mod settings;
pub mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use zeroize::Zeroizing;

use crate::cloud::{self, Variables};
use crate::net::ListenAddress;
use crate::programs::Environment;
use crate::text;
pub use link::Link;
pub use process::{Process, ProcessArguments};

/// The environment. Any value may be a secret, so it has no `Debug` and is zeroed when dropped.
pub struct Env {
    variables: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// For what comes from a file instead of this process' own environment, what is wrong with that file.
    of_file: Option<Vec<ConfigError>>,
}

impl Env {
    /// Variables whose name is not UTF-8 can't be ours and are dropped.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let named = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, Zeroizing::new(value.into_vec())))
        };
        Self { variables: variables.into_iter().filter_map(named).collect(), of_file: None }
    }

    /// The variables of a file, instead of those of this process. Mistakes in its lines are told with all others.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn read(path: &Path) -> Result<Self, ConfigErrors> {
        let name = text::one_line(path.as_os_str().as_encoded_bytes());
        let bytes = env_file::read(path).map_err(|reason| {
            let user = rustix::process::geteuid().as_raw();
            let remedy = format!("name a file of variables that user {user} may read");
            ConfigErrors(vec![ConfigError { variable: format!("--env-file {name}"), reason, remedy }])
        })?;
        let contents = env_file::parse(&bytes, |name| std::env::var_os(name));
        let mistakes = contents.faults.into_iter().map(|fault| ConfigError {
            variable: format!("{name}:{}", fault.line),
            reason: fault.reason.to_owned(),
            remedy: fault.remedy.to_owned(),
        });
        Ok(Self { variables: contents.variables.into_iter().collect(), of_file: Some(mistakes.collect()) })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    fn contains(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.variables.get(name).map(|value| value.as_slice())
    }

    /// A variable's value as text.
    fn text(&self, name: &str, findings: &mut Diagnostics) -> Option<&str> {
        let bytes = self.bytes(name)?;
        let text = std::str::from_utf8(bytes).ok();
        if text.is_none() {
            findings.mistake(name, "its value is not UTF-8", "write it in plain text");
        }
        text
    }

    /// Whether it is incomplete, because some of its file could not be understood.
    fn is_faulty(&self) -> bool {
        self.of_file.as_ref().is_some_and(|mistakes| !mistakes.is_empty())
    }

    /// Whether a variable that libraries read by themselves is not the same in the environment of this process.
    fn is_other_than_ours(&self, name: &str) -> bool {
        let ours = || std::env::var_os(name).map(OsString::into_vec);
        self.of_file.is_some() && self.bytes(name) != ours().as_deref()
    }

    /// What the clouds' own libraries read of it.
    fn of_clouds(&self) -> Variables {
        let text =
            |name| Some((name, Zeroizing::new(std::str::from_utf8(self.bytes(name)?).ok()?.to_owned())));
        Variables::new(cloud::VARIABLES.iter().copied().flatten().filter_map(|name| text(*name)))
    }

    /// What programs get to see of it: no variable in `hidden`.
    fn of_programs(&self, hidden: &BTreeSet<&str>) -> Environment {
        if self.of_file.is_none() {
            return Environment::Ours { hidden: hidden.iter().map(|name| (*name).to_owned()).collect() };
        }
        let shown = self.variables.iter().filter(|(name, _)| !hidden.contains(name.as_str()));
        Environment::Other(shown.map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

/// The configuration of the whole process.
#[derive(Debug)]
pub struct Config {
    /// In the order of their variables.
    pub links: Vec<Arc<Link>>,
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
    /// Begins with what is wrong with the file that the environment comes from.
    fn of(env: &Env) -> Self {
        Self { mistakes: env.of_file.clone().unwrap_or_default(), ..Self::default() }
    }

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
    pub fn admin(env: &Env, arguments: &ProcessArguments) -> Result<Option<ListenAddress>, ConfigErrors> {
        let mut findings = Diagnostics::of(env);
        let admin = process::admin(env, arguments, &mut findings);
        if findings.mistakes.is_empty() { Ok(admin) } else { Err(ConfigErrors(findings.mistakes)) }
    }

    /// Reads the whole configuration.
    ///
    /// # Errors
    /// Every mistake at once: malformed values, settings that contradict each other, files that can't be read,
    /// listeners that clash, and the lack of any link.
    pub fn load(env: &Env, arguments: &ProcessArguments) -> Result<Self, ConfigErrors> {
        let mut findings = Diagnostics::of(env);
        let process = process::parse(env, arguments, &mut findings);
        let links = link::parse(env, &process, &mut findings).into_iter().map(Arc::new).collect();
        if findings.mistakes.is_empty() {
            Ok(Self { links, process, ignored: findings.ignored, warnings: findings.warnings })
        } else {
            Err(ConfigErrors(findings.mistakes))
        }
    }
}
