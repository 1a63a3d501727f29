//! Discovery: background tasks that keep a link's list of backends current, one module a source; [`watch`] checks the
//! backends in use.

pub mod cluster;
pub mod file;
mod mdns;
pub mod sentinel;
mod srv;
mod watch;
pub mod zookeeper;

use std::collections::HashSet;
use std::net::Ipv6Addr;

use futures_util::future::join;
use tokio::time::{Instant, timeout_at};

use crate::config::Link;
use crate::config::target::Backends as Source;
use crate::failure::tls::by_target;
use crate::net::tls::Connector;
use crate::net::{Address, Endpoint, Host, Stream};
use crate::upstream::LinkRuntime;
use crate::upstream::dial::Dialler;

/// Keeps a link's backends current. Never returns.
pub async fn follow(service: &LinkRuntime) {
    let LinkRuntime { link, dialler, backends, .. } = service;
    let source = async {
        match &link.target.backends {
            Source::Listed(_) => {}
            Source::Srv(name) => srv::follow(backends, &dialler.resolver, name).await,
            Source::File(path) => file::follow(backends, path, link.target.scheme.default_port()).await,
            Source::Sentinel { sentinels, service } => {
                sentinel::follow(backends, dialler, link, sentinels, service).await;
            }
            Source::ZooKeeper { servers, path } => {
                zookeeper::follow(backends, dialler, link, servers, path).await;
            }
            Source::Mdns(name) => mdns::follow(backends, link, name).await,
            Source::Cluster(_) => {
                if let Some(cluster) = &service.cluster {
                    cluster::follow(service, cluster).await;
                }
            }
        }
    };
    join(source, watch::watch(service)).await;
}

/// What a look for a link's backends has found.
pub struct Found {
    pub endpoints: Vec<Endpoint>,
    /// Entries that name no server.
    pub passed_over: Option<PassedOver>,
}

/// What of a list can't be understood.
pub struct PassedOver {
    /// Some of the entries, with what is wrong with each.
    pub what: String,
    pub remedy: &'static str,
}

impl From<Vec<Endpoint>> for Found {
    fn from(endpoints: Vec<Endpoint>) -> Self {
        Self { endpoints, passed_over: None }
    }
}

/// Looks a link's backends up once.
pub async fn look_up(link: &Link, dialler: &Dialler) -> Result<Found, String> {
    let mut found = match &link.target.backends {
        Source::Listed(_) | Source::File(_) | Source::Cluster(_) => link.endpoints.clone().into(),
        Source::Srv(name) => {
            let services = dialler.resolver.services(name).await;
            let mut records =
                services.map_err(|reason| format!("the SRV records of {name}: {reason}"))?.records;
            records.sort_by_key(|record| record.priority);
            records
                .into_iter()
                .map(|record| Endpoint::Tcp(record.host, record.port))
                .collect::<Vec<_>>()
                .into()
        }
        Source::Sentinel { sentinels, service } => {
            sentinel::ask_once(dialler, link, sentinels, service).await?.into()
        }
        Source::ZooKeeper { servers, path } => zookeeper::ask_once(dialler, link, servers, path).await?,
        Source::Mdns(name) => mdns::ask_once(link, name).await?,
    };
    let mut seen = HashSet::new();
    found.endpoints.retain(|endpoint| seen.insert(endpoint.clone()));
    if found.endpoints.is_empty() { Err("there is none at the moment".to_owned()) } else { Ok(found) }
}

/// Entries or failures named in one message at most.
const SHOWN: usize = 5;

/// Some of the reasons, on one line.
fn some(reasons: &[String]) -> String {
    let shown = reasons[..reasons.len().min(SHOWN)].join("; ");
    match reasons.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// The endpoint of a host and a port as servers write them: an IPv6 address has no brackets.
pub(super) fn endpoint_of(host: &str, port: u16) -> Option<Endpoint> {
    let host = match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]").parse().ok()?,
        Err(_) => host.parse().ok()?,
    };
    (port != 0).then_some(Endpoint::Tcp(host, port))
}

/// The addresses of a server that is asked for backends.
async fn addresses(dialler: &Dialler, server: &Endpoint, deadline: Instant) -> Result<Vec<Address>, String> {
    let (host, port) = match server {
        Endpoint::Tcp(Host::LinkLocal(link_local), port) => {
            return Ok(vec![Address::LinkLocal(link_local.clone(), *port)]);
        }
        Endpoint::Tcp(host, port) => (host, *port),
        Endpoint::Unix(path) => return Ok(vec![Address::Unix(path.clone())]),
    };
    let addresses = timeout_at(deadline, dialler.resolver.addresses(host))
        .await
        .map_err(|_| format!("{} did not answer", dialler.resolver))?
        .map_err(|reason| reason.to_string())?;
    Ok(addresses.iter().map(|address| Address::Tcp((*address, port).into())).collect())
}

/// Connects to a server that is asked for backends, over TLS where there is any.
async fn open(
    dialler: &Dialler,
    link: &Link,
    tls: Option<&Connector>,
    server: &Endpoint,
    address: &Address,
    deadline: Instant,
) -> Result<Stream, String> {
    let shown = address.to_string();
    let stream = dialler
        .connect(&shown, address, None, Instant::now(), deadline)
        .await
        .map_err(|failure| failure.to_string())?;
    let Some(tls) = tls else { return Ok(stream) };
    timeout_at(deadline, tls.connect(stream, server))
        .await
        .map_err(|_| "no TLS in time".to_owned())?
        .map_err(|error| by_target(error, &shown, link).to_string())
}
