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
use crate::upstream::cluster::topology::{Topology, Unseen};
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
        let looked = match look(dialler, link, backends, OTHERS_TIMEOUT).await {
            // At the first look these are the same.
            Err(_) if cluster.is_known() => look(dialler, link, &seeds, OTHERS_TIMEOUT).await,
            looked => looked,
        };
        match looked {
            Ok(views) => cluster.publish(service, Ok(newest(views))),
            Err(unseen) => {
                backends.unknown(&unseen.reason);
                cluster.publish(service, Err(unseen));
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

/// What was seen at one look.
pub struct Look {
    pub topology: Topology,
    /// Nodes that tell of other nodes or slots.
    pub disagreeing: Vec<String>,
}

/// Looks once: at the nodes that the configuration names, and then at those that these tell of.
///
/// # Errors
/// No node has told of it.
pub async fn look_once(dialler: &Dialler, link: &Link, metrics: &Arc<LinkMetrics>) -> Result<Look, Unseen> {
    let at = |endpoints: &[Endpoint]| Backends::at(link, endpoints, Arc::default(), Arc::clone(metrics));
    let mut views = look(dialler, link, &at(&link.endpoints), TIMEOUT).await?;
    let known: Vec<_> = newest(views.clone()).nodes.into_iter().map(|node| node.endpoint).collect();
    // Where these can't be reached, that is said of each of them.
    if let Ok(told) = look(dialler, link, &at(&known), TIMEOUT).await {
        views = told;
    }
    let topology = newest(views.clone());
    let disagreeing = views.into_iter().filter(|(_, view)| !view.agrees_with(&topology));
    Ok(Look { disagreeing: disagreeing.map(|(node, _)| node).collect(), topology })
}

/// The answer that is believed, of which there is at least one.
fn newest(views: Vec<(String, Topology)>) -> Topology {
    let views = views.into_iter().map(|(_, view)| view);
    views.reduce(|one, other| if other.weight() > one.weight() { other } else { one }).unwrap_or_default()
}

/// Asks the nodes; the others may take so long once one has answered. There is an answer if it is no error.
async fn look(
    dialler: &Dialler,
    link: &Link,
    backends: &Backends,
    others_timeout: Duration,
) -> Result<Vec<(String, Topology)>, Unseen> {
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
    let (mut until, mut views, mut single) = (deadline, Vec::new(), 0);
    while let Ok(Some((name, answer))) = timeout_at(until, asking.next()).await {
        match answer {
            Ok(told) => {
                until = until.min(Instant::now() + others_timeout);
                views.push((name, told));
            }
            Err(Unseen { reason, is_no_cluster }) => {
                single += usize::from(is_no_cluster);
                // Most failures of a dial name it themselves.
                failures.push(if reason.contains(&name) { reason } else { format!("{name}: {reason}") });
            }
        }
    }
    if views.is_empty() {
        let is_no_cluster = single > 0 && single == failures.len();
        if failures.is_empty() {
            failures.push("no answer in time".to_owned());
        }
        let more = failures.len().saturating_sub(SHOWN);
        failures.truncate(SHOWN);
        if more > 0 {
            failures.push(format!("and {more} more"));
        }
        let reason = format!("no node tells of the cluster: {}", failures.join("; "));
        return Err(Unseen { reason, is_no_cluster });
    }
    Ok(views)
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
) -> (String, Result<Topology, Unseen>) {
    let name = entry.to_string();
    let Some(backend) = entry.backends.first() else { return (name, Err("it has no address".into())) };
    let lease = Lease::at(entry, backend);
    let told = timeout_at(deadline, async {
        let upstream = dialler.ask(link, backends, &lease, deadline).await;
        let (stream, leading) = upstream.map_err(|failure| failure.to_string())?.into_parts();
        if !leading.is_empty() {
            return Err("it speaks without being asked".into());
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
    (name, told.await.unwrap_or_else(|_| Err("no answer in time".into())))
}
