//! `check`: dials every link as a client's connection would, and says what it found.
//!
//! [`mod@examine`] watches the dial to one backend and asks that some questions, [`findings`] says what is wrong and what to do about it,
//! [`server`] reads what a server tells of itself, [`cluster`] what the nodes of one tell of each other, [`show`] makes a table or JSON of it all.

mod cluster;
mod examine;
mod findings;
mod server;
mod show;

use std::io::{self, Write};
use std::sync::Arc;

use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::timeout;

use self::cluster::Cluster;
use self::examine::{Examined, Servers, State, examine};
use self::findings::{Finding, Level};
use super::Format;
use super::screen::Screen;
use crate::config::{Config, Link};
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::net::ListenAddress;
use crate::net::resolve::Resolver;
use crate::upstream::dial::Dialler;
use crate::upstream::discovery::{self, Found};
use crate::upstream::loops::Unanswered;

/// Backends of one link that are looked at; who has more wants a sample, not a flood.
const MOST_BACKENDS: usize = 32;

/// What was found. The field names are those of `check --format json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether there is no problem; warnings and notes are none.
    ok: bool,
    links: Vec<CheckedLink>,
    findings: Vec<Finding>,
}

/// One link, and each of its backends.
#[derive(Debug, Serialize)]
struct CheckedLink {
    link: String,
    variable: String,
    kind: &'static str,
    target: String,
    state: Level,
    backends: Vec<Examined>,
    /// Of a link to a Redis Cluster, whose nodes are its backends.
    cluster: Option<Cluster>,
}

impl Report {
    /// Dials every link, all of them together.
    pub async fn make(config: &Config) -> Self {
        let dialler = Dialler {
            resolver: Resolver::new(config.process.dns.as_deref()),
            keepalive: config.process.keepalive,
            listening: {
                let addresses = config.links.iter().flat_map(|link| &link.listen.addresses);
                addresses.flat_map(ListenAddress::dialled).collect()
            },
            unanswered: Unanswered::default(),
        };
        let mut findings: Vec<_> = config.warnings.iter().map(Finding::of_configuration).collect();
        let mut links = Vec::new();
        for (link, found) in join_all(config.links.iter().map(|link| check(link, &dialler))).await {
            links.push(link);
            findings.extend(found);
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        let ok = findings.iter().all(|finding| finding.level < Level::Problem);
        Self { ok, links, findings }
    }

    /// Whether there is no problem.
    pub fn is_fine(&self) -> bool {
        self.ok
    }

    pub fn show(&self, format: Format, screen: &Screen, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Json => {
                serde_json::to_writer_pretty(&mut *out, self)?;
                writeln!(out)
            }
            Format::Table => show::table(self, screen, out),
        }
    }
}

async fn check(link: &Arc<Link>, dialler: &Dialler) -> (CheckedLink, Vec<Finding>) {
    let mut findings = Finding::of_own_certificates(link);
    // Nobody reads them.
    let metrics = Arc::new(Metrics::new().link(&link.name));
    let (mut cluster, mut unseen) = (None, None);
    let endpoints = match cluster::look(link, dialler, &metrics).await {
        Some(Ok(look)) => {
            let (seen, endpoints, found) = cluster::judge(link, &look);
            findings.extend(found);
            cluster = Some(seen);
            Ok(endpoints)
        }
        looked => {
            unseen = looked.and_then(Result::err);
            let looked_up = timeout(link.connect_timeout, discovery::look_up(link, dialler));
            let found = looked_up.await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            found.map(|Found { endpoints, passed_over }| {
                findings.extend(passed_over.map(|passed_over| Finding::of_passed_over(link, passed_over)));
                endpoints
            })
        }
    };
    let endpoints = endpoints.unwrap_or_else(|reason| {
        findings.push(Finding::of_failure(link, None, "resolve", &Failure::NoBackend { reason }));
        Vec::new()
    });
    let looked_at = endpoints.iter().take(MOST_BACKENDS);
    let servers = join_all(looked_at.map(|endpoint| Servers::of(link, dialler, endpoint, &metrics))).await;
    let mut servers: Vec<_> = servers.iter().flat_map(Servers::all).collect();
    let more = servers.len().saturating_sub(MOST_BACKENDS) + endpoints.len().saturating_sub(MOST_BACKENDS);
    if more > 0 {
        findings.push(Finding::too_many(link, more));
    }
    servers.truncate(MOST_BACKENDS);
    let examining = servers.into_iter().map(|server| examine(link, dialler, server));
    let (mut backends, found): (Vec<_>, Vec<_>) = join_all(examining).await.into_iter().unzip();
    findings.extend(found.into_iter().flatten());
    findings.extend(Finding::of_old_secrets(link).await);
    if backends.iter().any(|backend| backend.state_of("role") == Some(State::Ok)) {
        // That others have another role is what the setting is for.
        for finding in findings.iter_mut().filter(|finding| finding.about == "role") {
            finding.level = Level::Note;
        }
    }
    if let Some(cluster) = &cluster {
        cluster.lower(&mut findings);
    }
    for backend in &mut backends {
        let own = findings.iter().filter(|finding| finding.backend.as_ref() == Some(&backend.backend));
        backend.state = own.map(|finding| finding.level).max().unwrap_or(Level::Ok);
    }
    // Where no backend serves, each says why.
    if let Some(unseen) = unseen
        && backends.iter().any(|backend| backend.state < Level::Problem)
    {
        findings.push(cluster::of_unseen(link, &unseen));
    }
    let state = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    let checked = CheckedLink {
        link: link.name.clone(),
        variable: link.variable.clone(),
        kind: if link.redis.is_some() { "redis" } else { "tcp" },
        target: link.target.to_string(),
        state,
        backends,
        cluster,
    };
    (checked, findings)
}
