//! What the settings of one link say.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use super::variables::Settings;
use super::{Access, Redis, Reset, Role, on_or_off, proxy_version, reset, role};
use super::{ClientAuth, Credentials, Memory, Required};
use crate::cloud::aws::Cache;
use crate::cloud::{Cloud, Wanted};
use crate::config::backends_file;
use crate::config::notation::{
    DURATION_OR_OFF, Refusal, duration, duration_or_off, flag, items, unquoted, word,
};
use crate::config::settings::{OF_CLUSTER, PASSWORDS, SETTINGS, Scope, Setting, setting};
use crate::config::target::{Backends, ONE_DATABASE, Scheme, Target, database, endpoint};
use crate::config::{Diagnostics, Process};
use crate::net::proxy_protocol::Version;
use crate::net::resolve::Resolver;
use crate::net::tls::names::Pattern;
use crate::net::tls::{
    Acceptor, Connector, Files, Identity, Part, Trust, Unusable, Verification, parse_server_name,
    server_name, system_authorities,
};
use crate::net::{Endpoint, Host};
use crate::net::{Interface, Listen};
use crate::secret::command::CommandSpec;
use crate::secret::tokens::Tokens;
use crate::secret::{
    FileError, LONGEST, OptionalSecretFile, Secret, SecretFile, Source, is_path, without_line_ending,
};

/// Where systemd puts the credentials of services.
const CREDENTIALS: &str = "/run/credentials";

/// A variable that is set, and the setting that it gives.
#[derive(Clone, Copy)]
struct Given<'a> {
    variable: &'a str,
    name: &'static str,
}

/// How long an answer of `AUTH_COMMAND` serves, if nothing else is said.
const COMMAND_TTL: Duration = Duration::from_mins(1);

/// The settings of one link, while it is being built.
pub(super) struct LinkSettings<'a, 'b> {
    pub(super) settings: &'a Settings<'a>,
    pub(super) alias: &'b str,
    pub(super) port: u16,
    pub(super) findings: &'b mut Diagnostics,
}

impl<'a> LinkSettings<'a, '_> {
    /// The variable that gives a setting: the port's own wins over the alias-wide one.
    pub(super) fn variable(&self, name: &'static str) -> Option<&'a str> {
        self.settings.at_port(self.alias, self.port, name).or_else(|| self.alias_wide(name))
    }

    /// All settings that are given, with their variables.
    pub(super) fn given(&self) -> BTreeMap<&'static str, String> {
        let variable = |setting: &Setting| Some((setting.name, self.variable(setting.name)?.to_owned()));
        SETTINGS.iter().filter_map(variable).collect()
    }

    /// The alias-wide variable, where it applies to this port.
    pub(super) fn alias_wide(&self, name: &'static str) -> Option<&'a str> {
        let meant =
            setting(name).is_none_or(|setting| !setting.credential) || self.has_credentials_of_alias();
        meant.then(|| self.settings.alias_wide(self.alias, name)).flatten()
    }

    fn has_credentials_of_alias(&self) -> bool {
        self.settings.credential_ports.get(self.alias) == Some(&self.port)
    }

    /// What the variables of its credentials begin with, for remedies: the alias, where those of the alias apply to this
    /// port, or else the port too.
    pub(super) fn credential_prefix(&self) -> String {
        if self.has_credentials_of_alias() {
            format!("{}_", self.alias)
        } else {
            format!("{}_PORT_{}_", self.alias, self.port)
        }
    }

    /// Of variables that say the same in several ways, the one that applies and its setting; two of them on one level
    /// are a mistake.
    fn one_of(&mut self, names: &[&'static str]) -> Option<Given<'a>> {
        let (alias, port, settings) = (self.alias, self.port, self.settings);
        let at_port = names.iter().map(|name| (settings.at_port(alias, port, name), *name)).collect();
        let alias_wide = names.iter().map(|name| (self.alias_wide(name), *name)).collect();
        for level in [at_port, alias_wide] {
            let level: Vec<(Option<&'a str>, &'static str)> = level;
            let mut given =
                level.into_iter().filter_map(|(variable, name)| Some(Given { variable: variable?, name }));
            match (given.next(), given.next()) {
                (Some(Given { variable: first, .. }), Some(Given { variable: second, .. })) => {
                    self.findings.mistake(
                        first,
                        format!("{second} is set too, and they say the same thing"),
                        format!("remove {first} or {second}"),
                    );
                    return None;
                }
                (Some(given), _) => return Some(given),
                (None, _) => {}
            }
        }
        None
    }

    fn empty(&mut self, variable: &str, wanted: &str) {
        let remedy = format!("give it {wanted}, or remove {variable}");
        self.findings.mistake(variable, "it is set, but empty", remedy);
    }

    pub(super) fn value<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
        remedy: &str,
    ) -> Option<T> {
        let variable = self.variable(name)?;
        let text = unquoted(self.settings.env.text(variable, self.findings)?);
        if text.is_empty() {
            self.empty(variable, "a value");
            return None;
        }
        match parse(text) {
            Ok(value) => Some(value),
            Err(refusal) => {
                let remedy = refusal.remedy(variable, remedy);
                self.findings.mistake(variable, refusal.reason, remedy);
                None
            }
        }
    }

    /// How connections are prepared, if this is a Redis link at all.
    pub(super) fn redis(&mut self, target: &mut Target, process: &Process) -> Option<Redis> {
        let password = self.one_of(PASSWORDS);
        let scheme = target.scheme;
        if !(scheme.is_redis() || scheme == Scheme::Tcp && password.is_some()) {
            if let (Some(Given { variable, .. }), Scheme::Tls | Scheme::Unix) = (password, scheme) {
                let (is, should_be) = match scheme {
                    Scheme::Tls => ("tls://", "rediss://"),
                    _ => ("unix://", "redis+unix://"),
                };
                self.findings.mistake(
                    variable,
                    format!("the link is a plain tunnel ({is}), which can't send a password"),
                    format!("write {should_be} if the target is a Redis server, or remove {variable}"),
                );
            }
            return None;
        }
        let credentials = self.credentials(password, target, process);
        let is_cluster = matches!(target.backends, Backends::Cluster(_));
        let database = self.database(target.database, is_cluster);
        let asks_sentinel = matches!(target.backends, Backends::Sentinel { .. });
        let role = self.value("ROLE", role, "write master or replica");
        let reset = self.value("RESET", reset, "write reauth or forward");
        let reset = reset.unwrap_or(Reset::Reauthenticate);
        let sessions = self.value("SESSIONS", on_or_off, "write on or off").unwrap_or(true);
        Some(Redis {
            credentials,
            database,
            // What a Sentinel says may be old; the server itself is asked too.
            role: role.or(asks_sentinel.then_some(Role::Master)),
            reset,
            sessions,
            share: self.share(sessions),
            release_after: self.release_after(sessions),
            reauth: self.value("REAUTH", on_or_off, "write on or off").unwrap_or(true),
            client_auth: self.client_auth(reset, sessions),
            warm: self.value("WARM", warm, "write a number, such as 4").unwrap_or_default(),
            sentinel: self.sentinel_access(asks_sentinel),
            cluster: is_cluster.then(|| self.cluster(role, sessions)),
        })
    }

    /// What a variable asks for can't be had beside another setting of this value.
    fn contradicts(&mut self, variable: &str, other: &'static str, value: &str, why: &str) {
        let other = self.variable(other).unwrap_or(other);
        self.findings.mistake(
            variable,
            format!("with {other}={value} {why}"),
            format!("remove {other}, or {variable}"),
        );
    }

    /// How many upstreams clients share.
    fn share(&mut self, sessions: bool) -> usize {
        let asked_for = self.variable("SHARE");
        let share = self
            .value("SHARE", share, "write a number, such as 1, or nothing for a connection each")
            .unwrap_or_default();
        if let (Some(variable), 1.., false) = (asked_for, share, sessions) {
            self.contradicts(variable, "SESSIONS", "off", "nobody knows to whom a reply belongs");
        }
        share
    }

    /// After how long without a byte a session gives its connection back.
    fn release_after(&mut self, sessions: bool) -> Option<Duration> {
        let asked_for = self.variable("RELEASE_AFTER");
        let after = self.value("RELEASE_AFTER", duration_or_off, DURATION_OR_OFF).flatten();
        if let (Some(variable), Some(_), false) = (asked_for, after, sessions) {
            self.contradicts(
                variable,
                "SESSIONS",
                "off",
                "nobody knows when a client has no use for its connection",
            );
        }
        after
    }

    /// What becomes of a client's own authentication.
    fn client_auth(&mut self, reset: Reset, sessions: bool) -> ClientAuth {
        let password = self.one_of(&["CLIENT_PASSWORD", "CLIENT_PASSWORD_FILE"]);
        let username = self.one_of(&["CLIENT_USERNAME"]);
        let asked_for = self.variable("CLIENT_AUTH");
        let manner = self.value("CLIENT_AUTH", ClientAuthMode::parse, "write forward, absorb or require");
        if let (Some(ClientAuthMode::Absorb | ClientAuthMode::Require), Some(variable), false) =
            (manner, asked_for, sessions)
        {
            self.contradicts(variable, "SESSIONS", "off", "nobody looks at what clients say");
        }
        match (manner, asked_for) {
            (Some(ClientAuthMode::Require), Some(variable)) => {
                if reset == Reset::Forward {
                    let why = "a client would have to show the target's own password after a RESET";
                    self.contradicts(variable, "RESET", "forward", why);
                }
                return self.required(variable, password, username);
            }
            (None, Some(_)) => return ClientAuth::Forward,
            _ => {}
        }
        for Given { variable, .. } in [password, username].into_iter().flatten() {
            self.findings.mistake(
                variable,
                "the link requires nothing of its clients",
                format!("set {}_CLIENT_AUTH=require, or remove {variable}", self.alias),
            );
        }
        if manner == Some(ClientAuthMode::Absorb) { ClientAuth::Absorb } else { ClientAuth::Forward }
    }

    /// What clients have to show.
    fn required(
        &mut self,
        asked_for: &str,
        password: Option<Given<'a>>,
        username: Option<Given<'a>>,
    ) -> ClientAuth {
        let mistakes = self.findings.mistakes.len();
        let username = self.source(username, None, "user");
        if let Some(password) = self.source(password, None, "password") {
            return ClientAuth::Require(Box::new(Required { username, password }));
        }
        // One that is there, but of no use, has been reported.
        if self.findings.mistakes.len() == mistakes {
            self.findings.mistake(
                asked_for,
                "there is no password that clients could show",
                format!("set {}_CLIENT_PASSWORD_FILE to the file that holds it", self.alias),
            );
        }
        ClientAuth::Forward
    }

    /// What authenticates the link to its target.
    fn credentials(
        &mut self,
        password: Option<Given<'a>>,
        target: &mut Target,
        process: &Process,
    ) -> Option<Credentials> {
        let link_variable = format!("{}_PORT_{}_TCP", self.alias, self.port);
        let prefix = self.credential_prefix();
        let mistakes = self.findings.mistakes.len();
        let username = self.one_of(&["USERNAME", "USERNAME_FILE"]);
        let username_source = self.source(username, target.username.take().map(Arc::new), "user");
        let mut username_source = username_source.map(Arc::new);
        let source = match (password, target.password.take()) {
            (Some(Given { variable, name: "AUTH_PROVIDER" }), of_url) => {
                let provider =
                    self.value("AUTH_PROVIDER", Provider::parse, "write aws-elasticache, gcp or azure");
                if provider.is_some_and(|provider| provider != Provider::Aws) {
                    self.refuse_endpoint();
                }
                match (provider, of_url) {
                    (provider, None) => {
                        self.cloud(provider?, variable, target, &mut username_source, process)
                    }
                    (_, of_url) => self.source(password, of_url.map(Arc::new), "password"),
                }
            }
            (password, of_url) => {
                self.refuse_endpoint();
                self.source(password, of_url.map(Arc::new), "password")
            }
        };
        let previous = self.previous();
        // One that is there, but of no use, has been reported.
        let has_none = source.is_none() && password.is_none();
        if has_none && let Some(Given { variable, .. }) = username {
            self.findings.mistake(
                variable,
                "a user without a password can't authenticate",
                format!("set {prefix}AUTH_FILE, or remove {variable}"),
            );
        } else if has_none && username_source.is_some() {
            self.findings.mistake(
                &link_variable,
                "its URL has a user but no password",
                format!("set {prefix}AUTH_FILE, or take the user out of the URL"),
            );
        }
        // A password that is there, but of no use, has been reported.
        let is_missing = source.is_none() && self.findings.mistakes.len() == mistakes;
        if let (true, Some(variable)) = (is_missing, self.variable("AUTH_PREVIOUS_FILE")) {
            self.findings.mistake(
                variable,
                "there is no password that this one could have come before",
                format!("set {prefix}AUTH_FILE, or remove {variable}"),
            );
        }
        if let Some(variable) = self.variable("AUTH_COMMAND_TTL")
            && password.is_none_or(|given| given.name != "AUTH_COMMAND")
        {
            self.findings.mistake(
                variable,
                "there is no program whose tokens could expire",
                format!("set {prefix}AUTH_COMMAND, or remove {variable}"),
            );
        }
        let previous_variable = match self.variable("AUTH_PREVIOUS_FILE") {
            Some(variable) => variable.to_owned(),
            None => format!("{prefix}AUTH_PREVIOUS_FILE"),
        };
        let variable = password.map_or(&*link_variable, |given| given.variable);
        let level = variable.strip_suffix(password.map_or("TCP", |given| given.name)).unwrap_or_default();
        let username_variable = match username {
            Some(given) => given.variable.to_owned(),
            None if username_source.is_some() => link_variable.clone(),
            None => format!("{level}USERNAME"),
        };
        Some(Credentials {
            link: self.name(),
            username: username_source,
            password: source?,
            previous,
            variable: variable.to_owned(),
            username_variable,
            previous_variable,
            memory: Memory::default(),
        })
    }

    /// The password to fall back on.
    fn previous(&mut self) -> Option<OptionalSecretFile> {
        let variable = self.variable("AUTH_PREVIOUS_FILE")?;
        let path = self.path("AUTH_PREVIOUS_FILE")?;
        OptionalSecretFile::open(path)
            .map_err(|error| self.unreadable(variable, &error, "previous password"))
            .ok()
    }

    fn unreadable(&mut self, variable: &str, error: &FileError, what: &str) {
        let is_below = error.path.starts_with(".") || error.path.starts_with("..");
        if !is_below && !is_path(error.path.as_os_str().as_bytes()) {
            let is = if error.path.is_relative() { "not a whole path" } else { "hardly a path" };
            // Maybe it is the secret itself, which nobody is to read.
            let place = variable.strip_suffix("_FILE").filter(|place| !place.ends_with("_PREVIOUS"));
            let itself = place.map(|place| format!("; the {what} itself goes into {place}"));
            self.findings.mistake(
                variable,
                format!("what it names is {is}, and can't be read: {}", error.reason),
                format!("write the path of the file that holds the {what}{}", itself.unwrap_or_default()),
            );
            return;
        }
        let remedy = if error.path.starts_with(CREDENTIALS) {
            let is_there = error.path.parent().is_some_and(Path::exists);
            let start = if is_there {
                ""
            } else {
                "start the service, whose credentials are there only while it runs; or, if it runs, "
            };
            format!(
                "{start}put a file that holds the {what} where LoadCredential= in the unit reads it (credential_NAME is \
                 /etc/redis-ambassador/credentials/NAME)"
            )
        } else if error.path.is_dir() {
            "check the path before the colon of the mount, and remove that directory".to_owned()
        } else {
            let user = rustix::process::geteuid().as_raw();
            format!("mount a file there that user {user} may read and that holds the {what}")
        };
        self.findings.mistake(variable, error.to_string(), remedy);
    }

    /// The program behind `AUTH_COMMAND`.
    fn command(&mut self, variable: &'a str) -> Option<Source> {
        let line = self.settings.env.text(variable, self.findings)?;
        let example = || {
            format!(
                "write the program and its arguments, as in {variable}='/usr/local/bin/token --for \"my redis\"'"
            )
        };
        let words = match shlex::split(line) {
            // Quotation marks that an env-file has kept around all of it.
            Some(words) if words.len() == 1 && words[0].contains(' ') && !Path::new(&words[0]).exists() => {
                self.findings.mistake(
                    variable,
                    "all of it stands in quotation marks, so that it is the name of one program",
                    format!("take the quotation marks around the whole of {variable} away"),
                );
                return None;
            }
            Some(words) if words.first().is_some_and(|program| !program.is_empty()) => words,
            Some(_) => {
                self.findings.mistake(variable, "it names no program", example());
                return None;
            }
            None => {
                self.findings.mistake(variable, "a quotation mark in it is not closed", example());
                return None;
            }
        };
        let remedy = "write a number and a unit, such as 60s or 10m";
        let ttl = self.value("AUTH_COMMAND_TTL", |text| duration(text, false), remedy).unwrap_or(COMMAND_TTL);
        let environment = self.settings.env.of_programs(&self.settings.secret_variables);
        let recipe =
            CommandSpec { variable: variable.to_owned(), link: self.name(), words, ttl, environment };
        if let Err(reason) = recipe.find() {
            self.findings.mistake(
                variable,
                reason,
                "build an image that has the program: docs/credentials.md shows how, under Tokens",
            );
            return None;
        }
        Some(Source::Token(Arc::new(Tokens::new(recipe, variable, self.name()))))
    }

    /// The cloud behind `AUTH_PROVIDER`, whose tokens may say who their user is.
    fn cloud(
        &mut self,
        provider: Provider,
        variable: &'a str,
        target: &Target,
        username: &mut Option<Arc<Source>>,
        process: &Process,
    ) -> Option<Source> {
        let wanted = match provider {
            Provider::Aws => {
                let cache = self.cache(variable, target);
                if username.is_none() {
                    let prefix = self.credential_prefix();
                    self.findings.mistake(
                        variable,
                        "AWS signs tokens for a user, and there is none",
                        format!("set {prefix}USERNAME to the user of the cache"),
                    );
                }
                Wanted::Aws(cache?, Arc::clone(username.as_ref()?))
            }
            Provider::Gcp => Wanted::Gcp,
            Provider::Azure => Wanted::Azure,
        };
        let resolver = Resolver::new(process.dns.as_deref());
        let cloud = Cloud::new(wanted, self.name(), self.settings.env.of_clouds(), resolver);
        let tokens = Arc::new(Tokens::new(cloud, variable, self.name()));
        if provider == Provider::Azure && username.is_none() {
            *username = Some(Arc::new(Source::UserOfToken(Arc::clone(&tokens))));
        }
        Some(Source::Token(tokens))
    }

    /// The cache that tokens of AWS are for: that of the setting, or else of the target.
    fn cache(&mut self, variable: &str, target: &Target) -> Option<Cache> {
        let reason = "it is not the name of a cache's endpoint at AWS";
        let remedy = "write it as AWS shows it, such as master.my-group.abc123.euc1.cache.amazonaws.com";
        let parse = |text: &str| {
            // With a port, as AWS shows it.
            let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
            Cache::of(host).ok_or_else(|| Refusal::from(reason))
        };
        if self.variable("AUTH_ENDPOINT").is_some() {
            return self.value("AUTH_ENDPOINT", parse, remedy);
        }
        let endpoints = match &target.backends {
            Backends::Listed(endpoints) | Backends::Cluster(endpoints) => &endpoints[..],
            _ => &[],
        };
        let of_endpoint = |endpoint: &Endpoint| match endpoint {
            Endpoint::Tcp(Host::Name(name), _) => Cache::of(name),
            _ => None,
        };
        let caches: Vec<_> = endpoints.iter().map(of_endpoint).collect();
        if let [Some(first), others @ ..] = &caches[..]
            && others.iter().all(|other| other.as_ref() == Some(first))
        {
            return Some(first.clone());
        }
        self.findings.mistake(
            variable,
            "AWS signs tokens for one cache and its region, and the target's name does not say which",
            format!(
                "set {}AUTH_ENDPOINT to the name of the cache's endpoint at AWS, such as \
                 master.my-group.abc123.euc1.cache.amazonaws.com",
                self.credential_prefix()
            ),
        );
        None
    }

    /// Only tokens of AWS are signed for one cache.
    fn refuse_endpoint(&mut self) {
        if let Some(variable) = self.variable("AUTH_ENDPOINT") {
            let prefix = self.credential_prefix();
            self.findings.mistake(
                variable,
                "there are no tokens of AWS, which are signed for an endpoint",
                format!("set {prefix}AUTH_PROVIDER=aws-elasticache, or remove {variable}"),
            );
        }
    }

    /// Whoever reads a token on its way has what it is good for.
    pub(super) fn warn_of_open_token(&mut self, target: &Target, is_tls: bool) {
        let is_unix = target.scheme == Scheme::Unix
            || matches!(&target.backends, Backends::Listed(all) if matches!(all[..], [Endpoint::Unix(_)]));
        if let (Some(variable), false, false) = (self.variable("AUTH_PROVIDER"), is_tls, is_unix) {
            let message = "the token goes to the target unencrypted, and caches of clouds mostly take tokens over TLS alone; \
                           write rediss:// if it speaks TLS";
            self.findings.warning(variable, message);
        }
    }

    /// How Sentinels are asked; without any, their settings are mistakes.
    fn sentinel_access(&mut self, asks_sentinel: bool) -> Access {
        let password = self.one_of(&["SENTINEL_AUTH", "SENTINEL_AUTH_FILE"]);
        let username = self.one_of(&["SENTINEL_USERNAME"]);
        if !asks_sentinel {
            for Given { variable, .. } in [password, username].into_iter().flatten() {
                self.findings.mistake(
                    variable,
                    "the link's target names no Sentinels",
                    format!("write redis+sentinel://HOST:26379/SERVICE as the target, or remove {variable}"),
                );
            }
            return Access::default();
        }
        if let (None, Some(Given { variable, .. })) = (password, username) {
            self.findings.mistake(
                variable,
                "a user without a password can't authenticate",
                format!("set {}SENTINEL_AUTH_FILE, or remove {variable}", self.credential_prefix()),
            );
        }
        Access {
            password: self.source(password, None, "password"),
            username: self.source(username, None, "user"),
        }
    }

    /// Docker freezes an address in the variable, but keeps the alias in the hosts file up to date. What it writes
    /// beside the variable shows that it was Docker: the link's name, and the same address once more.
    pub(super) fn follow_docker(&mut self, target: &mut Target) {
        let env = self.settings.env;
        let text = |name: String| env.bytes(&name).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let (Some(name), Some(written)) = (
            text(format!("{}_NAME", self.alias)),
            text(format!("{}_PORT_{}_TCP_ADDR", self.alias, self.port)),
        ) else {
            return;
        };
        if let Backends::Listed(endpoints) = &mut target.backends
            && let [Endpoint::Tcp(host, _)] = &mut endpoints[..]
            && let Host::Address(address) = *host
            && written.parse() == Ok(address)
        {
            // `/consumer/alias`; in the variables' names the alias has other letters.
            let alias = match name.rsplit_once('/') {
                Some((_, alias)) if !alias.is_empty() => alias.to_owned(),
                _ => self.alias.to_lowercase(),
            };
            *host = Host::Linked { alias, address };
        }
    }

    /// The places to dial that the target or its file lists.
    pub(super) fn endpoints(&mut self, variable: &str, target: &Target) -> Vec<Endpoint> {
        match &target.backends {
            Backends::Listed(endpoints) | Backends::Cluster(endpoints) => endpoints.clone(),
            Backends::File(path) => {
                backends_file::read(path, target.scheme.default_port()).unwrap_or_else(|error| {
                    self.findings.mistake(
                        variable,
                        error.to_string(),
                        format!(
                            "mount a file there that user {} may read, with one HOST:PORT a line",
                            rustix::process::geteuid().as_raw()
                        ),
                    );
                    Vec::new()
                })
            }
            Backends::Srv(_) | Backends::Sentinel { .. } | Backends::ZooKeeper { .. } | Backends::Mdns(_) => {
                Vec::new()
            }
        }
    }

    /// The source behind a variable or a URL's user information; both is a mistake.
    fn source(&mut self, given: Option<Given<'a>>, url: Option<Arc<Secret>>, what: &str) -> Option<Source> {
        let Given { variable, name } = match (given, url) {
            (Some(Given { variable, .. }), Some(_)) => {
                self.findings.mistake(
                    variable,
                    format!("the target's URL has a {what} too"),
                    format!("take the {what} out of the URL, or remove {variable}"),
                );
                return None;
            }
            (None, url) => return url.map(Source::Url),
            (Some(given), None) => given,
        };
        if name == "AUTH_COMMAND" {
            return self.command(variable);
        }
        let is_file = name.ends_with("_FILE");
        let value = self.settings.env.bytes(variable)?;
        let value = match name {
            _ if is_file => file_name(value),
            // In a password every byte counts; no user's name stands in quotation marks.
            _ if name.ends_with("USERNAME") => without_quotes(without_line_ending(value)),
            _ => without_line_ending(value),
        };
        if value.is_empty() {
            self.empty(variable, "a value");
            return None;
        }
        if is_file {
            let path = PathBuf::from(OsString::from_vec(value.to_vec()));
            return match SecretFile::open(path) {
                Ok(file) => Some(Source::File(file)),
                Err(error) => {
                    self.unreadable(variable, &error, what);
                    None
                }
            };
        }
        if value.len() > LONGEST {
            self.findings.mistake(
                variable,
                format!("it is longer than {LONGEST} bytes, the most that a Redis server takes"),
                "give it the right value",
            );
            return None;
        }
        Some(Source::Variable(Arc::new(Secret::new(value.to_vec()))))
    }

    fn database(&mut self, of_url: Option<u32>, is_cluster: bool) -> Option<u32> {
        let Some(variable) = self.variable("DB") else {
            return of_url;
        };
        if of_url.is_some() {
            self.findings.mistake(
                variable,
                "the target's URL names a database too",
                format!("take the database out of the URL, or remove {variable}"),
            );
            return None;
        }
        let parse = |text: &str| match database(text) {
            Some(1..) if is_cluster => Err(ONE_DATABASE.into()),
            number => number.ok_or("it is not the number of a database".into()),
        };
        let remedy =
            if is_cluster { format!("remove {variable}") } else { "write a number, such as 0".to_owned() };
        self.value("DB", parse, &remedy)
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.value(name, flag, "write true or false")
    }

    pub(super) fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        let variable = self.variable(name)?;
        let value = file_name(self.settings.env.bytes(variable)?);
        if value.is_empty() {
            self.empty(variable, "the path of a file");
            return None;
        }
        Some(PathBuf::from(OsString::from_vec(value.to_vec())))
    }

    /// A certificate and its key, which are nothing without each other.
    fn identity(&mut self, certificate_name: &'static str, key_name: &'static str) -> Option<Identity> {
        let (certificate, key) = (self.path(certificate_name), self.path(key_name));
        let (given, name, missing) = match (self.variable(certificate_name), self.variable(key_name)) {
            (Some(given), None) => (given, certificate_name, key_name),
            (None, Some(given)) => (given, key_name, certificate_name),
            _ => return Some(Identity { certificate: certificate?, key: key? }),
        };
        let missing = given.replace(name, missing);
        self.findings.mistake(
            given,
            format!("{missing} is not set, and a certificate goes with its key"),
            format!("set {missing} too, or remove {given}"),
        );
        None
    }

    fn unusable(&mut self, unusable: &Unusable, names: [&'static str; 3]) {
        let [authorities, certificate, key] = names;
        let variable = self.variable(match unusable.part {
            Part::Authorities => authorities,
            Part::Certificate => certificate,
            Part::Key => key,
        });
        let remedy = format!(
            "{}; user {} has to be able to read it",
            unusable.remedy,
            rustix::process::geteuid().as_raw()
        );
        self.findings.mistake(variable.unwrap_or(authorities), unusable.to_string(), remedy);
    }

    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.alias.to_lowercase(), self.port)
    }

    /// TLS towards the target and towards ZooKeeper, as far as it is asked for. Only the name of the target can be another one.
    pub(super) fn tls(
        &mut self,
        link_variable: &'a str,
        target: &Target,
    ) -> (Option<Connector>, Option<Connector>) {
        let to_target = self.asks_for_tls(link_variable, target);
        let to_zookeeper = self.flag("ZOOKEEPER_TLS").unwrap_or_default();
        if !(to_target || to_zookeeper) {
            return (None, None);
        }
        let files = Files {
            authorities: self.path("TLS_CA_FILE"),
            identity: self.identity("TLS_CERT_FILE", "TLS_KEY_FILE"),
        };
        let remedy = "write the name or the address that the target's certificate has";
        let name = self.value("TLS_SERVER_NAME", certificate_name, remedy);
        if to_target {
            self.refuse_hosts_without_name(link_variable, target);
        }
        let Some(trust) = self.trust(link_variable, target, &files) else { return (None, None) };
        let link = self.name();
        let make = |is_asked_for: bool, name| {
            let connector = || Connector::new(link.clone(), files.clone(), trust.clone(), name);
            is_asked_for.then(connector).transpose()
        };
        let both = make(to_target, name).and_then(|target| Ok((target, make(to_zookeeper, None)?)));
        both.unwrap_or_else(|unusable| {
            self.unusable(&unusable, ["TLS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE"]);
            (None, None)
        })
    }

    /// What ZooKeeper knows us by.
    pub(super) fn zookeeper_digest(&mut self, target: &Target) -> Option<Source> {
        let given = self.one_of(&["ZOOKEEPER_AUTH", "ZOOKEEPER_AUTH_FILE"])?;
        // Elsewhere it has been refused.
        if !matches!(target.backends, Backends::ZooKeeper { .. }) {
            return None;
        }
        let source = self.source(Some(given), None, "credentials")?;
        if source.last().is_some_and(|secret| !secret.expose().contains(&b':')) {
            self.findings.mistake(
                given.variable,
                "it is not USER:PASSWORD, which is how ZooKeeper knows its clients",
                "write what was given to addauth digest",
            );
            return None;
        }
        Some(source)
    }

    /// Whether the setting or the scheme asks for TLS; a mistake where they contradict each other or the target.
    fn asks_for_tls(&mut self, link_variable: &'a str, target: &Target) -> bool {
        const ON_UNIX: &str = "the target is a Unix socket, which has no TLS";
        let (asked, of_scheme) = (self.flag("TLS"), target.scheme.is_tls());
        let variable = self.variable("TLS").unwrap_or(link_variable);
        let is_unix =
            matches!(&target.backends, Backends::Listed(all) if matches!(all[..], [Endpoint::Unix(_)]));
        let (variable, reason, remedy) = match asked {
            Some(false) if of_scheme => (
                variable,
                "the target's scheme asks for TLS",
                match target.backends {
                    Backends::Cluster(_) => format!("write redis+cluster://, or remove {variable}"),
                    _ => format!("write redis:// or tcp://, or remove {variable}"),
                },
            ),
            Some(true) if is_unix => (variable, ON_UNIX, format!("remove {variable}")),
            _ if of_scheme && is_unix => (link_variable, ON_UNIX, "write redis+unix://".to_owned()),
            _ => return asked == Some(true) || of_scheme,
        };
        self.findings.mistake(variable, reason, remedy);
        false
    }

    /// A certificate is for a name; a host that can't be one needs another.
    fn refuse_hosts_without_name(&mut self, link_variable: &str, target: &Target) {
        let (Backends::Listed(endpoints) | Backends::Cluster(endpoints), None) =
            (&target.backends, self.variable("TLS_SERVER_NAME"))
        else {
            return;
        };
        for reason in endpoints.iter().filter_map(|endpoint| server_name(endpoint).err()) {
            let alias = self.alias;
            let remedy = format!("set {alias}_TLS_SERVER_NAME to the name that the target's certificate has");
            self.findings.mistake(link_variable, reason, remedy);
        }
    }

    /// What the target's certificate is held against.
    fn trust(&mut self, link_variable: &'a str, target: &Target, files: &Files) -> Option<Trust> {
        let (verification, given_by) = self.verification(target, link_variable);
        let system = match verification {
            Verification::Nothing => Arc::new(RootCertStore::empty()),
            _ if files.authorities.is_some() => Arc::new(RootCertStore::empty()),
            // One that was meant, and has been reported.
            _ if self.variable("TLS_CA_FILE").is_some() => return None,
            _ => self.system_authorities(link_variable)?,
        };
        if let Some(variable) = given_by {
            self.warn_of_weakness(variable, verification, files);
        }
        Some(Trust { verification, system })
    }

    /// What of the target's certificate is verified, and the variable that says so. `TLS_INSECURE` is another way to
    /// write it; of the two the one for the port wins, and on one level they may not contradict each other.
    fn verification(&mut self, target: &Target, link_variable: &'a str) -> (Verification, Option<&'a str>) {
        let parse = |text: &str| {
            let parsed = Verification::parse(text);
            parsed.ok_or_else(|| Refusal::from(format!("\"{text}\" is neither full nor ca nor none")))
        };
        let verify = self.value("TLS_VERIFY", parse, "write full, ca or none");
        let verify = verify.zip(self.variable("TLS_VERIFY"));
        let insecure = self.flag("TLS_INSECURE").zip(self.variable("TLS_INSECURE"));
        let is_at_port = |name| self.settings.at_port(self.alias, self.port, name).is_some();
        let of_flag = |is_insecure| if is_insecure { Verification::Nothing } else { Verification::Full };
        match (verify, insecure) {
            // What the link's own setting says wins over the URL.
            (None, None) if target.is_insecure => (Verification::Nothing, Some(link_variable)),
            (None, None) => (Verification::Full, None),
            (Some((verification, variable)), None) => (verification, Some(variable)),
            (None, Some((flag, variable))) => (of_flag(flag), Some(variable)),
            (Some((verification, variable)), Some((flag, flag_variable))) => {
                let levels = (is_at_port("TLS_VERIFY"), is_at_port("TLS_INSECURE"));
                if levels == (false, true) {
                    return (of_flag(flag), Some(flag_variable));
                }
                if levels.0 == levels.1 && flag != (verification == Verification::Nothing) {
                    self.findings.mistake(
                        flag_variable,
                        format!("{variable} is {}, and contradicts it", verification.name()),
                        format!("remove {flag_variable}: {variable} says all of it"),
                    );
                }
                (verification, Some(variable))
            }
        }
    }

    /// Says at every start who else could stand in for the target.
    fn warn_of_weakness(&mut self, variable: &str, verification: Verification, files: &Files) {
        let name = self.name();
        match verification {
            Verification::Nothing => {
                let ca_file = match files.authorities {
                    Some(_) => format!("; {}_TLS_CA_FILE has no effect", self.alias),
                    None => String::new(),
                };
                self.findings.warning(
                    variable,
                    format!(
                        "the target of {name} is not verified: anyone in between can read and change everything, passwords too{ca_file}"
                    ),
                );
            }
            Verification::Authority if files.authorities.is_none() => self.findings.warning(
                variable,
                format!(
                    "the target of {name} may be anyone who has a certificate from a public authority, which anyone can \
                     have; set {}_TLS_CA_FILE to the one authority that is meant",
                    self.alias
                ),
            ),
            _ => {}
        }
    }

    fn system_authorities(&mut self, link_variable: &str) -> Option<Arc<RootCertStore>> {
        if self.settings.system_authorities.get().is_none() {
            for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
                let env = self.settings.env;
                if env.is_other_than_ours(name) {
                    let message = if env.contains(name) {
                        "it says where the system's authorities are, but only in the environment of this process, where it \
                         is not the same as in the file: set it there too"
                    } else {
                        "it says where the system's authorities are, and counts here, but the file does not have it: set it \
                         in the file too, or remove it from the environment of this process"
                    };
                    self.findings.warning(name, message);
                }
            }
        }
        match self.settings.system_authorities.get_or_init(system_authorities) {
            Ok(authorities) => Some(Arc::clone(authorities)),
            Err(reason) => {
                self.findings.mistake(
                    link_variable,
                    format!("the certificate authorities of the system can't be had: {reason}"),
                    format!("set {}_TLS_CA_FILE, or install ca-certificates", self.alias),
                );
                None
            }
        }
    }

    /// TLS for clients, if it is asked for.
    pub(super) fn listen_tls(&mut self) -> Option<Acceptor> {
        const NAMES: [&str; 3] = ["LISTEN_TLS_CLIENT_CA_FILE", "LISTEN_TLS_CERT_FILE", "LISTEN_TLS_KEY_FILE"];
        let authorities = self.path(NAMES[0]);
        let names = self.client_names();
        let identity = self.identity(NAMES[1], NAMES[2]);
        let is_asked_for = self.variable(NAMES[1]).or(self.variable(NAMES[2])).is_some();
        if let (Some(variable), false) = (self.variable(NAMES[0]), is_asked_for) {
            self.findings.mistake(
                variable,
                "there is no TLS for clients, and this is a setting of it",
                format!(
                    "set {0}_LISTEN_TLS_CERT_FILE and {0}_LISTEN_TLS_KEY_FILE, or remove {variable}",
                    self.alias
                ),
            );
        }
        // Without a file or names that were asked for this would be another, weaker thing than was meant.
        if authorities.is_none() && self.variable(NAMES[0]).is_some() {
            return None;
        }
        let files = Files { authorities, identity: Some(identity?) };
        let are_names_read = names.is_some();
        match Acceptor::new(self.name(), files, names.unwrap_or_default()) {
            Ok(acceptor) => are_names_read.then_some(acceptor),
            Err(unusable) => {
                self.unusable(&unusable, NAMES);
                None
            }
        }
    }

    /// The names of which clients' certificates have to have one, none where any will do; `None` where they are a mistake.
    fn client_names(&mut self) -> Option<Vec<Pattern>> {
        let Some(variable) = self.variable("LISTEN_TLS_CLIENT_NAMES") else { return Some(Vec::new()) };
        if self.variable("LISTEN_TLS_CLIENT_CA_FILE").is_none() {
            self.findings.mistake(
                variable,
                "nobody vouches for the names of clients, so that each could have any",
                format!(
                    "set {}_LISTEN_TLS_CLIENT_CA_FILE to the authorities that vouch for clients, or remove {variable}",
                    self.alias
                ),
            );
        }
        let remedy =
            "write names and their kinds, such as uri:spiffe://example.org/api,dns:*.example.org,cn:api";
        self.value("LISTEN_TLS_CLIENT_NAMES", client_names, remedy)
    }

    /// Where clients come in.
    pub(super) fn listen(&mut self, process: &Process) -> Listen {
        let port = self.port;
        let given = self.value(
            "LISTEN",
            |text| Listen::parse(text, port),
            "write for example 127.0.0.1:6379, [::1]:6379 or unix:/run/redis.sock",
        );
        let is_given = given.is_some() || self.variable("LISTEN").is_none();
        let mut listen = given.unwrap_or_else(|| match &process.bind {
            Some(interfaces) => Listen::on(interfaces, port),
            None => Listen::on(&[Interface::All], port),
        });
        let remedy = "write the digits of chmod, such as 0660 for the owner and the group";
        listen.mode = self.value("LISTEN_MODE", mode, remedy);
        if let (true, false, Some(variable)) = (is_given, listen.has_unix(), self.variable("LISTEN_MODE")) {
            self.findings.mistake(
                variable,
                "the link listens on no Unix socket, and this is the mode of its file",
                format!("set {}_LISTEN=unix:/PATH, or remove {variable}", self.alias),
            );
        }
        listen
    }

    /// Whether Kubernetes wrote the link: the target is the address that it gives the Service.
    pub(super) fn is_from_kubernetes(&self, target: &Target) -> bool {
        let address = self.settings.env.bytes(&format!("{}_SERVICE_HOST", self.alias));
        let address = address.and_then(|address| std::str::from_utf8(address).ok()?.parse::<IpAddr>().ok());
        address.is_some_and(|address| {
            matches!(&target.backends, Backends::Listed(all)
                if matches!(&all[..], [Endpoint::Tcp(Host::Address(dialled), _)] if *dialled == address))
        })
    }

    /// The networks that may connect.
    pub(super) fn allow(&mut self, listen: &Listen, is_announced: bool) -> Vec<IpNet> {
        let remedy = "write networks or addresses, such as 10.0.0.0/8,192.168.1.7,fd00::/8";
        let allow = self.value("ALLOW", allowed, remedy);
        let variable = self.variable("ALLOW");
        if let (true, Some(_), Some(variable)) = (listen.is_unix_only() && !is_announced, &allow, variable) {
            self.findings.mistake(
                variable,
                "the link listens on a Unix socket, whose clients have no address",
                format!("remove {variable} and set {}_LISTEN_MODE", self.alias),
            );
        }
        let allow = allow.unwrap_or_default();
        for network in allow.iter().filter(|network| network.trunc() != **network) {
            let message =
                format!("{network} is taken as the network {}; write that, if it is meant", network.trunc());
            self.findings.warning(variable.unwrap_or("ALLOW"), message);
        }
        allow
    }

    /// In which form the target is told whose connection it is. One that is nobody's yet or everybody's can't be told of.
    pub(super) fn proxy_protocol(&mut self, redis: Option<&Redis>) -> Option<Version> {
        let version = self.value("PROXY_PROTOCOL", proxy_version, "write v1 or v2")?;
        let variable = self.variable("PROXY_PROTOCOL")?;
        let (warm, share) = redis.map(|redis| (redis.warm, redis.share)).unwrap_or_default();
        for (name, number, reason) in [
            ("WARM", warm, "a connection that is kept ready has been dialled before its client is known"),
            ("SHARE", share, "a connection that clients share is of none of them alone"),
        ] {
            if let (Some(other), 1..) = (self.variable(name), number) {
                let reason = format!("{reason}, and {variable} has the target told whose it is");
                self.findings.mistake(other, reason, format!("remove {variable} or {other}"));
            }
        }
        Some(version)
    }

    /// A Redis setting on a plain tunnel would be silently without effect.
    pub(super) fn refuse_redis_settings(&mut self) {
        for setting in SETTINGS.iter().filter(|setting| setting.scope != Scope::Any) {
            let name = setting.name;
            // A password makes a Docker link a Redis link, or has been refused already, as those of a cluster have been.
            if PASSWORDS.contains(&name) || OF_CLUSTER.contains(&name) {
                continue;
            }
            let Some(variable) = self.variable(name) else {
                continue;
            };
            if setting.scope == Scope::RedisCommonName {
                self.findings.warning(
                    variable,
                    format!(
                        "{}:{} is a plain tunnel; the variable is ignored",
                        self.alias.to_lowercase(),
                        self.port
                    ),
                );
            } else {
                self.findings.mistake(
                    variable,
                    "the link is a plain tunnel, and this is a setting of Redis links",
                    format!(
                        "set {}AUTH_FILE or write redis:// if the target is a Redis server, or remove {variable}",
                        self.credential_prefix()
                    ),
                );
            }
        }
    }
}

fn warm(text: &str) -> Result<usize, Refusal> {
    text.parse().map_err(|_| format!("\"{text}\" is not a number from 0 on").into())
}

/// So many threads have more than enough to do with.
const MOST_SHARED: usize = 64;

fn share(text: &str) -> Result<usize, Refusal> {
    match text.parse() {
        Ok(number) if number > MOST_SHARED => {
            Err(Refusal::instead(format!("\"{text}\" is more than {MOST_SHARED}"), "1"))
        }
        Ok(0) => Err("\"0\" leaves nothing to share".into()),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("\"{text}\" is not a number from 1 to {MOST_SHARED}").into()),
    }
}

fn certificate_name(text: &str) -> Result<ServerName<'static>, Refusal> {
    let name = text.strip_suffix('.').unwrap_or(text);
    parse_server_name(name).map_err(|reason| match endpoint(name, None) {
        Ok(Endpoint::Tcp(host, _)) => Refusal::instead(reason, host.to_string()),
        _ => reason.into(),
    })
}

/// The names of `LISTEN_TLS_CLIENT_NAMES`. Common names may have white space in them, so that commas alone separate them.
fn client_names(text: &str) -> Result<Vec<Pattern>, Refusal> {
    let items: Vec<_> = text.split([',', ';']).map(str::trim).filter(|item| !item.is_empty()).collect();
    let (names, wrong): (Vec<_>, Vec<_>) =
        items.iter().map(|item| (item, Pattern::parse(item))).partition(|(_, parsed)| parsed.is_ok());
    if items.is_empty() {
        return Err("it names nobody, so no client could connect".into());
    }
    if wrong.is_empty() {
        return Ok(names.into_iter().filter_map(|(_, parsed)| parsed.ok()).collect());
    }
    let wrong: Vec<_> = wrong.into_iter().filter_map(|(item, parsed)| Some((item, parsed.err()?))).collect();
    let reason = wrong.iter().map(|(_, no)| no.reason.as_str()).collect::<Vec<_>>().join("; ");
    let mended = |item: &&str| match wrong.iter().find(|(wrong, _)| *wrong == item) {
        Some((_, no)) => no.instead.clone(),
        None => Some((*item).to_owned()),
    };
    let instead: Option<Vec<_>> = items.iter().map(mended).collect();
    Err(Refusal { reason, instead: instead.map(|items| items.join(",")) })
}

/// A value without the quotation marks that an env-file keeps.
fn without_quotes(value: &[u8]) -> &[u8] {
    std::str::from_utf8(value).map_or(value, |text| unquoted(text).as_bytes())
}

/// A file's path, which some write as a URL.
fn file_name(value: &[u8]) -> &[u8] {
    let value = without_quotes(value);
    value.strip_prefix(b"file://").filter(|path| path.starts_with(b"/")).unwrap_or(value)
}

/// The mode of a Unix socket's file in octal digits.
fn mode(text: &str) -> Result<u32, Refusal> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = u32::from_str_radix(digits, 8).ok().filter(|_| !digits.starts_with('+'));
    match octal {
        Some(mode) if mode <= 0o777 && is_useful(mode) => return Ok(mode),
        Some(mode) if mode > 0o777 => return Err(format!("\"{text}\" is more than 0777").into()),
        _ => {}
    }
    let reason = match octal {
        Some(_) => format!("\"{text}\" lets not even the owner connect, who needs the right to write"),
        None => format!("\"{text}\" is not a mode in octal digits"),
    };
    // YAML reads 0660 as an octal number, and hands it over as the decimal one that it is.
    let from_yaml = digits.parse().ok().filter(|mode| *mode <= 0o777 && is_useful(*mode));
    Err(match from_yaml {
        Some(mode) => Refusal::instead(
            format!(
                "{reason}; in decimal it is {mode:04o}, as YAML makes of an octal number without quotation marks"
            ),
            format!("\"{mode:04o}\""),
        ),
        None => reason.into(),
    })
}

/// Whether the owner may connect, for which a socket's file has to be writable.
fn is_useful(mode: u32) -> bool {
    mode & 0o200 != 0
}

/// The word that says what becomes of a client's own authentication.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientAuthMode {
    Forward,
    Absorb,
    Require,
}

impl ClientAuthMode {
    fn parse(text: &str) -> Result<Self, Refusal> {
        match word(text).as_str() {
            "forward" => Ok(Self::Forward),
            "absorb" => Ok(Self::Absorb),
            "require" => Ok(Self::Require),
            // Not quoted: a password may have been written in the wrong place.
            _ => Err("it is neither forward nor absorb nor require".into()),
        }
    }
}

/// The clouds of `AUTH_PROVIDER`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Provider {
    Aws,
    Gcp,
    Azure,
}

impl Provider {
    fn parse(text: &str) -> Result<Self, Refusal> {
        match word(text).as_str() {
            "aws-elasticache" => Ok(Self::Aws),
            "gcp" => Ok(Self::Gcp),
            "azure" => Ok(Self::Azure),
            "aws" | "elasticache" | "memorydb" | "aws-memorydb" => {
                Err(Refusal::instead("it is not the name of a provider", "aws-elasticache"))
            }
            "google" | "gce" | "gke" => Err(Refusal::instead("it is not the name of a provider", "gcp")),
            // Not quoted: a password may have been written in the wrong place.
            _ => Err("it is none of aws-elasticache, gcp and azure".into()),
        }
    }
}

/// The networks of `ALLOW`.
fn allowed(text: &str) -> Result<Vec<IpNet>, Refusal> {
    let mut networks = Vec::new();
    for item in items(text) {
        if item.eq_ignore_ascii_case("localhost") {
            networks.extend([
                IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                IpAddr::V6(Ipv6Addr::LOCALHOST).into(),
            ]);
        } else {
            networks.push(network(item)?);
        }
    }
    if networks.is_empty() {
        return Err("it names no network, so no client could connect".into());
    }
    Ok(networks)
}

/// A network as `ADDRESS/LENGTH` or `ADDRESS/NETMASK`, or an address.
fn network(word: &str) -> Result<IpNet, Refusal> {
    let (address, length) = match word.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (word, None),
    };
    let address = address.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(address);
    let wrong = || {
        let reason = format!("\"{word}\" is neither a network nor an address");
        match word {
            "*" | "all" | "any" => {
                Refusal::from(format!("{reason}; without the setting everybody may connect"))
            }
            _ => reason.into(),
        }
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let network = match length {
        None => Some(IpNet::from(address)),
        Some(length) => match length.parse::<u8>() {
            Ok(length) => IpNet::new(address, length).ok(),
            Err(_) => length.parse().ok().and_then(|netmask| IpNet::with_netmask(address, netmask).ok()),
        },
    };
    network.map(canonical).ok_or_else(wrong)
}

/// An IPv4 network as such, where it is written as a part of IPv6: that is how clients' addresses are compared.
fn canonical(network: IpNet) -> IpNet {
    /// The bits before an IPv4 address in an IPv6 one.
    const MAPPED: u8 = 96;
    let length = network.prefix_len().checked_sub(MAPPED);
    match (network.addr().to_canonical(), length) {
        (address @ IpAddr::V4(_), Some(length)) if network.addr().is_ipv6() => {
            IpNet::new(address, length).unwrap_or(network)
        }
        _ => network,
    }
}
