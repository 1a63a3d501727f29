//! Discovery: background tasks that keep a link's list of backends current, one module a source; [`watch`] checks the
//! backends in use.

pub mod cluster;
pub mod file;
pub mod sentinel;
mod srv;
mod watch;

use std::collections::HashSet;
use std::net::Ipv6Addr;

use futures_util::future::join;

use crate::config::Link;
use crate::config::target::Backends as Source;
use crate::net::Endpoint;
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
            Source::Cluster(_) => {
                if let Some(cluster) = &service.cluster {
                    cluster::follow(service, cluster).await;
                }
            }
        }
    };
    join(source, watch::watch(service)).await;
}

/// Looks a link's backends up once.
pub async fn look_up(link: &Link, dialler: &Dialler) -> Result<Vec<Endpoint>, String> {
    let found = match &link.target.backends {
        Source::Listed(_) | Source::File(_) | Source::Cluster(_) => link.endpoints.clone(),
        Source::Srv(name) => {
            let services = dialler.resolver.services(name).await;
            let mut records =
                services.map_err(|reason| format!("the SRV records of {name}: {reason}"))?.records;
            records.sort_by_key(|record| record.priority);
            records.into_iter().map(|record| Endpoint::Tcp(record.host, record.port)).collect()
        }
        Source::Sentinel { sentinels, service } => {
            sentinel::ask_once(dialler, link, sentinels, service).await?
        }
    };
    let mut seen = HashSet::new();
    let found: Vec<_> = found.into_iter().filter(|endpoint| seen.insert(endpoint.clone())).collect();
    if found.is_empty() { Err("there is none at the moment".to_owned()) } else { Ok(found) }
}

/// The endpoint of a host and a port as servers write them: an IPv6 address has no brackets.
pub(super) fn endpoint_of(host: &str, port: u16) -> Option<Endpoint> {
    let host = match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]").parse().ok()?,
        Err(_) => host.parse().ok()?,
    };
    (port != 0).then_some(Endpoint::Tcp(host, port))
}
