//! Discovery in a Redis Cluster: each node is asked for all of them.
//!
//! Nodes that were cut off from the others know less than these: of all answers that with the newest epoch is believed.
//! The nodes are asked at an interval, when a dial has failed, and when a reply names an address that is not known. Should
//! none of them answer any more, those that the configuration names are asked again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::config::Link;
use crate::metrics::LinkMetrics;
use crate::net::{Endpoint, Host};
use crate::random::{fraction, jittered};
use crate::upstream::LinkRuntime;
use crate::upstream::backends::{Backends, Entry, Lease};
use crate::upstream::cluster::Cluster;
use crate::upstream::cluster::topology::Topology;
use crate::upstream::conversation::Conversation;
use crate::upstream::dial::Dialler;

/// The interval of looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// The shortest time between two of them.
const MIN_INTERVAL: Duration = Duration::from_millis(200);
/// The timeout of one.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout of the others once one node has answered.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(250);

/// Nodes that are asked at a look, at the most: enough to find those that know more than others.
const MOST_ASKED: usize = 12;

/// Nodes named in an error at most.
const SHOWN: usize = 3;

/// Looks at the cluster again and again. Never returns.
pub(super) async fn follow(service: &LinkRuntime, cluster: &Cluster) {
    let LinkRuntime { link, dialler, backends, .. } = service;
    // Those that the configuration names, whatever becomes of the list.
    let seeds = Backends::at(link, &link.endpoints, Arc::default(), Arc::clone(&service.metrics));
    loop {
        let begun = Instant::now();
        let looked = match look(dialler, link, backends).await {
            // At the first look these are the same.
            Err(_) if cluster.is_known() => look(dialler, link, &seeds).await,
            looked => looked,
        };
        match looked {
            Ok(topology) => cluster.publish(service, Some(topology)),
            Err(reason) => {
                backends.unknown(&reason);
                cluster.publish(service, None);
            }
        }
        let farewell = cluster.next_farewell(link.move_grace);
        tokio::select! {
            () = sleep(jittered(INTERVAL)) => {}
            () = sleep_until(farewell.unwrap_or(begun)), if farewell.is_some() => {}
            () = backends.refresh_requested() => {}
            () = cluster.look_wanted() => {}
        }
        sleep_until(begun + MIN_INTERVAL).await;
    }
}

/// Looks once, at the nodes that the configuration names.
///
/// # Errors
/// No node has answered, in words for people.
pub async fn look_once(
    dialler: &Dialler,
    link: &Link,
    metrics: &Arc<LinkMetrics>,
) -> Result<Topology, String> {
    look(dialler, link, &Backends::at(link, &link.endpoints, Arc::default(), Arc::clone(metrics))).await
}

/// Asks the nodes, and believes the newest answer.
async fn look(dialler: &Dialler, link: &Link, backends: &Backends) -> Result<Topology, String> {
    let deadline = Instant::now() + TIMEOUT.min(link.connect_timeout);
    let mut failures = resolve(dialler, backends, deadline).await;
    let entries = backends.list();
    let mut asked: Vec<_> = entries.iter().collect();
    if asked.len() > MOST_ASKED {
        asked.sort_by_cached_key(|_| fraction().to_bits());
        asked.truncate(MOST_ASKED);
    }
    let asking: Vec<_> =
        asked.into_iter().map(|entry| ask(dialler, link, backends, entry, deadline)).collect();
    let mut asking = stream::iter(asking).buffer_unordered(MOST_ASKED);
    let (mut until, mut newest) = (deadline, None::<Topology>);
    while let Ok(Some((name, answer))) = timeout_at(until, asking.next()).await {
        match answer {
            Ok(told) => {
                until = until.min(Instant::now() + OTHERS_TIMEOUT);
                if newest.as_ref().is_none_or(|newest| told.weight() > newest.weight()) {
                    newest = Some(told);
                }
            }
            Err(reason) => failures.push(format!("{name}: {reason}")),
        }
    }
    newest.ok_or_else(|| {
        if failures.is_empty() {
            failures.push("no answer in time".to_owned());
        }
        let more = failures.len().saturating_sub(SHOWN);
        failures.truncate(SHOWN);
        if more > 0 {
            failures.push(format!("and {more} more"));
        }
        format!("no node tells of the cluster: {}", failures.join("; "))
    })
}

/// Resolves the names among them; returns why some can't be.
async fn resolve(dialler: &Dialler, backends: &Backends, deadline: Instant) -> Vec<String> {
    let mut failures = Vec::new();
    for listed in backends.listed().iter().filter(|listed| listed.name().is_some()) {
        match dialler.resolve(listed, deadline).await {
            Ok(answer) => backends.resolved(listed, &answer),
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    failures
}

/// Asks one node. What comes of it is told to nobody else: a client's own dial decides who is passed over.
async fn ask(
    dialler: &Dialler,
    link: &Link,
    backends: &Backends,
    entry: &Arc<Entry>,
    deadline: Instant,
) -> (String, Result<Topology, String>) {
    let name = entry.to_string();
    let Some(backend) = entry.backends.first() else { return (name, Err("it has no address".to_owned())) };
    let lease = Lease::at(entry, backend);
    let told = timeout_at(deadline, async {
        let upstream = dialler.ask(link, backends, &lease, deadline).await;
        let (stream, leading) = upstream.map_err(|failure| failure.to_string())?.into_parts();
        if !leading.is_empty() {
            return Err("it speaks without being asked".to_owned());
        }
        let mut conversation = Conversation::over(stream, "Redis server");
        conversation.send(&[vec![b"CLUSTER", b"NODES"], vec![b"CLUSTER", b"SLOTS"]]).await?;
        let (nodes, slots) = (conversation.receive().await?, conversation.receive().await?);
        let host = match entry.endpoint() {
            Endpoint::Tcp(host, _) => host.clone(),
            Endpoint::Unix(_) => Host::Name("localhost".to_owned()),
        };
        Topology::of(&nodes, &slots, &host)
    });
    (name, told.await.unwrap_or_else(|_| Err("no answer in time".to_owned())))
}
