//! Names to addresses: the hosts file first, then DNS, for every dial anew.
//!
//! An answer is shared by the dials within [`SHARED_FOR`] and no longer, whatever its TTL: Docker's DNS says 600
//! seconds and changes at once. The hosts file is read each time, because Docker rewrites it under running containers.

use std::collections::HashMap;
use std::fs::File;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// How long dials share an answer.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// What a lookup came to; the error is the reason in words.
type Answer = Result<Arc<[IpAddr]>, Arc<str>>;

/// The last answer and its time, locked while a lookup is under way.
type Shared = Arc<AsyncMutex<Option<(Instant, Answer)>>>;

/// Looks names up.
pub struct Resolver {
    /// Without name servers, names can still be in the hosts file.
    dns: Result<TokioResolver, String>,
    answers: Mutex<HashMap<String, Shared>>,
}

impl Resolver {
    /// With the system's name servers and search domains, as `/etc/resolv.conf` has them now.
    pub fn from_system() -> Self {
        let build = || {
            let mut builder = TokioResolver::builder_tokio()?;
            let options = builder.options_mut();
            options.cache_size = 0;
            options.use_hosts_file = ResolveHosts::Never;
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            builder.build()
        };
        Self {
            dns: build().map_err(|e| format!("no name server can be asked: /etc/resolv.conf: {e}")),
            answers: Mutex::default(),
        }
    }

    /// Every address of `name`, at least one, or the reason why there is none.
    pub async fn lookup(&self, name: &str) -> Answer {
        let shared = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(answers.entry(name.to_owned()).or_default())
        };
        // Whoever comes while a lookup is under way waits for it here.
        let mut answer = shared.lock().await;
        if let Some((at, answer)) = &*answer
            && at.elapsed() < SHARED_FOR
        {
            return answer.clone();
        }
        let fresh = self.look_up(name).await;
        *answer = Some((Instant::now(), fresh.clone()));
        fresh
    }

    async fn look_up(&self, name: &str) -> Answer {
        let parsed = Name::from_str_relaxed(name).map_err(|e| Arc::from(e.to_string()))?;
        let listed = in_hosts_file(&parsed);
        if !listed.is_empty() {
            return Ok(listed.into());
        }
        let dns = self.dns.as_ref().map_err(|e| Arc::from(e.as_str()))?;
        let found = dns.lookup_ip(parsed).await.map_err(|e| Arc::from(e.to_string()))?;
        let addresses: Vec<_> = found.iter().collect();
        if addresses.is_empty() {
            return Err("it has no address".into());
        }
        Ok(addresses.into())
    }
}

/// What the hosts file has for `name`; a file that can't be read has nothing.
fn in_hosts_file(name: &Name) -> Vec<IpAddr> {
    let mut hosts = Hosts::default();
    let Ok(Ok(())) = File::open("/etc/hosts").map(|file| hosts.read_hosts_conf(file)) else {
        return Vec::new();
    };
    [RecordType::A, RecordType::AAAA]
        .into_iter()
        .filter_map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)))
        .flat_map(|lookup| {
            let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
            addresses.collect::<Vec<_>>()
        })
        .collect()
}
