//! Assigns the variables of settings to links.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustls::RootCertStore;

use super::{Candidate, Draft};
use crate::config::notation::{flag, unquoted};
use crate::config::settings::{
    OF_CLUSTER, OF_TLS, OF_ZOOKEEPER, PASSWORDS, SECRETS, SETTINGS, Scope, near_miss, setting,
};
use crate::config::target::Backends;
use crate::config::{Diagnostics, Env};

/// The link or alias that a setting's variable applies to.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address<'a> {
    alias: &'a str,
    /// `None` for the whole alias.
    port: Option<u16>,
    setting: &'static str,
}

/// The variables of all settings, by the link or alias that they apply to.
pub(super) struct Settings<'a> {
    pub(super) env: &'a Env,
    variables: BTreeMap<Address<'a>, &'a str>,
    /// The only port of each alias that its alias-wide credentials apply to.
    pub(super) credential_ports: BTreeMap<&'a str, u16>,
    /// Variables that hold secrets of links.
    pub(super) secret_variables: BTreeSet<&'a str>,
    /// The system's certificate authorities, loaded when the first link needs them.
    pub(super) system_authorities: OnceCell<Result<Arc<RootCertStore>, String>>,
}

impl<'a> Settings<'a> {
    pub(super) fn collect(
        env: &'a Env,
        taken: &[Candidate<'a>],
        drafts: &[Draft],
        secret_variables: BTreeSet<&'a str>,
        findings: &mut Diagnostics,
    ) -> Settings<'a> {
        // The longest first: REDIS_CACHE_AUTH is AUTH of REDIS_CACHE, if that exists, not CACHE_AUTH of REDIS.
        let mut aliases: Vec<&str> = taken.iter().map(|candidate| candidate.alias).collect();
        aliases.sort_by_key(|alias| (std::cmp::Reverse(alias.len()), *alias));
        aliases.dedup();
        let mut settings = Settings {
            env,
            variables: BTreeMap::new(),
            credential_ports: BTreeMap::new(),
            secret_variables,
            system_authorities: OnceCell::new(),
        };
        for variable in env.names() {
            settings.place(variable, &aliases, taken, findings);
        }
        for alias in aliases {
            settings.choose_credential_port(alias, drafts, findings);
        }
        settings
    }

    /// Assigns `variable` to a link or alias, if it is a setting.
    fn place(
        &mut self,
        variable: &'a str,
        aliases: &[&'a str],
        taken: &[Candidate<'a>],
        findings: &mut Diagnostics,
    ) {
        let mut slip = None;
        for alias in aliases {
            let Some(rest) = variable.strip_prefix(alias).and_then(|rest| rest.strip_prefix('_')) else {
                continue;
            };
            let (port, name) = match port_and_name(rest) {
                Some((port, name)) => (Some(port), name),
                None => (None, rest),
            };
            if let Some(setting) = setting(name) {
                if let Some(port) = port
                    && !taken.iter().any(|link| link.alias == *alias && link.port == port)
                {
                    findings.mistake(
                        variable,
                        format!("there is no link {alias}_PORT_{port}_TCP for this setting to apply to"),
                        format!("set {alias}_PORT_{port}_TCP, or name the port of an existing link"),
                    );
                    return;
                }
                let address = Address {
                    alias,
                    // A port out of range has been reported with its link.
                    port: port.and_then(|port| port.parse().ok()),
                    setting: setting.name,
                };
                self.variables.insert(address, variable);
                return;
            }
            if slip.is_none() && !is_companion(rest) {
                let meant = near_miss(name);
                slip = meant.map(|meant| format!("{}{meant}", variable.strip_suffix(name).unwrap_or("")));
            }
        }
        if let Some(meant) = slip {
            findings.warning(variable, format!("nothing reads this variable; did you mean {meant}?"));
        }
    }

    /// Chooses the port for alias-wide credentials: of several, only one that is clearly Redis, so that they are never
    /// sent to another service.
    fn choose_credential_port(&mut self, alias: &'a str, drafts: &[Draft], findings: &mut Diagnostics) {
        let of_alias: Vec<_> = drafts.iter().filter(|draft| draft.alias == alias).collect();
        let by_name = of_alias.iter().find(|draft| draft.port == 6379);
        let by_target: Vec<_> = of_alias.iter().filter(|draft| draft.dials(6379)).collect();
        let port = match (&of_alias[..], by_name, &by_target[..]) {
            ([only], _, _) => only.port,
            (_, Some(named), _) => named.port,
            (_, None, [dialled]) => dialled.port,
            _ => {
                let is_redis = of_alias.iter().any(|draft| {
                    draft.target.scheme.is_redis()
                        || PASSWORDS.iter().any(|name| self.at_port(alias, draft.port, name).is_some())
                });
                self.refuse_credentials_without_port(alias, &of_alias, is_redis, findings);
                return;
            }
        };
        self.credential_ports.insert(alias, port);
    }

    fn refuse_credentials_without_port(
        &self,
        alias: &str,
        drafts: &[&Draft],
        is_redis: bool,
        findings: &mut Diagnostics,
    ) {
        let Some(port) = drafts.first().map(|draft| draft.port) else {
            return;
        };
        for setting in SETTINGS.iter().filter(|setting| setting.credential) {
            let Some(variable) = self.alias_wide(alias, setting.name) else {
                continue;
            };
            let name = setting.name;
            if setting.scope == Scope::RedisCommonName && !is_redis {
                findings.warning(variable, format!("{alias} has no Redis link; the variable is ignored"));
            } else {
                findings.mistake(
                    variable,
                    format!("{alias} has several ports, and it is not clear which one is Redis: not exactly one is 6379"),
                    format!("name the port, as in {alias}_PORT_{port}_{name}"),
                );
            }
        }
    }

    /// Refuses TLS settings of a link without TLS.
    pub(super) fn refuse_tls_settings_without_tls(&self, drafts: &[Draft], findings: &mut Diagnostics) {
        // A name is the target's alone.
        let uses = |draft: &Draft, name| {
            self.asks_for(draft, "TLS", draft.target.scheme.is_tls())
                || (name != "TLS_SERVER_NAME" && self.asks_for(draft, "ZOOKEEPER_TLS", false))
        };
        self.refuse_unused(OF_TLS, drafts, uses, findings, |draft, variable| {
            let alias = &draft.alias;
            (
                "there is no TLS towards the target",
                format!("write rediss:// or tls://, or set {alias}_TLS=true, or remove {variable}"),
            )
        });
    }

    /// Refuses settings of a cluster where there is none.
    pub(super) fn refuse_cluster_settings_without_cluster(
        &self,
        drafts: &[Draft],
        findings: &mut Diagnostics,
    ) {
        let uses =
            |draft: &Draft, _| draft.is_unreadable() || matches!(draft.target.backends, Backends::Cluster(_));
        self.refuse_unused(OF_CLUSTER, drafts, uses, findings, |draft, variable| {
            let scheme = if draft.target.scheme.is_tls() { "rediss" } else { "redis" };
            let link = &draft.variable;
            (
                "the link's target is no Redis Cluster",
                format!("begin {link} with {scheme}+cluster:// if it is one, or remove {variable}"),
            )
        });
    }

    /// Refuses settings of ZooKeeper where it lists nothing.
    pub(super) fn refuse_zookeeper_settings_without_zookeeper(
        &self,
        drafts: &[Draft],
        findings: &mut Diagnostics,
    ) {
        let uses = |draft: &Draft, _| {
            draft.is_unreadable() || matches!(draft.target.backends, Backends::ZooKeeper { .. })
        };
        self.refuse_unused(OF_ZOOKEEPER, drafts, uses, findings, |draft, variable| {
            let link = &draft.variable;
            (
                "the link's backends are not listed in ZooKeeper",
                format!("write {link}=redis+zookeeper://HOST:2181/PATH if they are, or remove {variable}"),
            )
        });
    }

    /// Refuses settings that would silently have no effect. An alias-wide one needs at least one link that uses it.
    fn refuse_unused<R: Into<String>>(
        &self,
        names: &[&'static str],
        drafts: &[Draft],
        uses: impl Fn(&Draft, &'static str) -> bool,
        findings: &mut Diagnostics,
        words: impl Fn(&Draft, &str) -> (&'static str, R),
    ) {
        let aliases: BTreeMap<&str, &Draft> =
            drafts.iter().map(|draft| (draft.alias.as_str(), draft)).collect();
        let at_ports = drafts.iter().flat_map(|draft| {
            let unused = names.iter().filter(|name| !uses(draft, name));
            unused.map(move |name| (draft, self.at_port(&draft.alias, draft.port, name)))
        });
        let alias_wide = aliases.iter().flat_map(|(alias, last)| {
            let of_alias = || drafts.iter().filter(|draft| draft.alias == *alias);
            let unused = names.iter().filter(|name| !of_alias().any(|draft| uses(draft, name)));
            unused.map(|name| (*last, self.alias_wide(alias, name))).collect::<Vec<_>>()
        });
        for (draft, variable) in at_ports.chain(alias_wide) {
            if let Some(variable) = variable {
                let (reason, remedy) = words(draft, variable);
                findings.mistake(variable, reason, remedy.into());
            }
        }
    }

    /// Whether a flag is set, or what it says is wanted anyway.
    fn asks_for(&self, draft: &Draft, name: &'static str, anyway: bool) -> bool {
        let variable =
            self.at_port(&draft.alias, draft.port, name).or_else(|| self.alias_wide(&draft.alias, name));
        let value = variable.and_then(|variable| std::str::from_utf8(self.env.bytes(variable)?).ok());
        // An invalid value is reported separately.
        anyway || value.is_some_and(|value| flag(unquoted(value)) != Ok(false))
    }

    pub(super) fn at_port(&self, alias: &str, port: u16, name: &'static str) -> Option<&'a str> {
        let address = Address { alias, port: Some(port), setting: name };
        self.variables.get(&address).copied()
    }

    pub(super) fn alias_wide(&self, alias: &str, name: &'static str) -> Option<&'a str> {
        let address = Address { alias, port: None, setting: name };
        self.variables.get(&address).copied()
    }
}

/// The variables that hold secrets of links, including ignored links.
pub(super) fn secret_variables<'a>(env: &'a Env, candidates: &[Candidate<'a>]) -> BTreeSet<&'a str> {
    let is_secret_of = |alias: &str, variable: &str| {
        let rest = variable.strip_prefix(alias).and_then(|rest| rest.strip_prefix('_'));
        rest.is_some_and(|rest| SECRETS.contains(&port_and_name(rest).map_or(rest, |(_, name)| name)))
    };
    let settings =
        env.names().filter(|name| candidates.iter().any(|candidate| is_secret_of(candidate.alias, name)));
    // A target with an @ may have user information; a parameter's value may be a password.
    let may_hold_one = |url: &[u8]| url.contains(&b'@') || url.contains(&b'=');
    let urls = candidates.iter().map(|candidate| candidate.variable);
    let urls = urls.filter(|variable| env.bytes(variable).is_some_and(may_hold_one));
    settings.chain(urls).collect()
}

/// Splits `PORT_<digits>_<NAME>`.
fn port_and_name(rest: &str) -> Option<(&str, &str)> {
    let (port, name) = rest.strip_prefix("PORT_")?.split_once('_')?;
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    digits.then_some((port, name))
}

/// Whether it is a variable that Docker or Kubernetes sets beside a link.
fn is_companion(rest: &str) -> bool {
    let beside_a_port = port_and_name(rest).is_some_and(|(_, name)| {
        name.starts_with("TCP") || name.starts_with("UDP") || name.starts_with("SCTP")
    });
    beside_a_port
        || rest == "PORT"
        || rest == "NAME"
        || rest.starts_with("ENV_")
        || rest.starts_with("SERVICE_")
}
