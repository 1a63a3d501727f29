//! Discovery in a Redis Cluster: each node is asked for all of them.
//!
//! Nodes that were cut off from the others know less than these: of all answers that with the newest epoch is believed.
//! The nodes are asked at an interval, when a dial has failed, and when a reply names an address that is not known. Should
//! none of them answer any more, those that the configuration names are asked again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::ready;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::some;
use crate::backoff::Backoff;
use crate::config::Link;
use crate::metrics::LinkMetrics;
use crate::net::{Endpoint, Host};
use crate::random::{fraction, jittered};
use crate::upstream::LinkRuntime;
use crate::upstream::backends::{Backends, Entry, Lease, Listed};
use crate::upstream::cluster::Cluster;
use crate::upstream::cluster::topology::{Topology, Unseen};
use crate::upstream::conversation::Conversation;
use crate::upstream::dial::Dialler;

/// The interval of looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// The shortest time between two of them.
const MIN_INTERVAL: Duration = Duration::from_millis(200);
/// Between looks that no node has answered.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(10) };

/// The timeout of one.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout of the others once one node has answered.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(250);

/// Nodes that are asked at a look, at the most: enough to find those that know more than others.
const MOST_ASKED: usize = 12;

/// A node, and what it has told.
type Answer = (String, Result<Topology, Unseen>);

/// Looks at the cluster again and again. Never returns.
pub(super) async fn follow(service: &LinkRuntime, cluster: &Cluster) {
    let LinkRuntime { link, dialler, backends, .. } = service;
    // Those that the configuration names, whatever becomes of the list.
    let seeds = Backends::at(link, &link.endpoints, Arc::default(), Arc::clone(&service.metrics));
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        cluster.begin_look();
        let looked = match look(dialler, link, backends, OTHERS_TIMEOUT).await {
            // At the first look these are the same.
            Err(_) if cluster.is_known() => look(dialler, link, &seeds, OTHERS_TIMEOUT).await,
            looked => looked,
        };
        failures = if looked.is_ok() { 0 } else { failures + 1 };
        match looked {
            Ok(views) => cluster.publish(service, Ok(views.into_iter().map(|(_, view)| view).collect())),
            Err(unseen) => {
                backends.unknown(&unseen.reason, Some(&unseen.remedy(link)));
                cluster.publish(service, Err(unseen));
                // A password that is refused is not shown again and again, whoever asks.
                sleep(BACKOFF.wait(failures)).await;
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
pub async fn look_once(
    dialler: &Dialler,
    link: &Arc<Link>,
    metrics: &Arc<LinkMetrics>,
) -> Result<Look, Unseen> {
    let at = |endpoints: &[Endpoint]| Backends::at(link, endpoints, Arc::default(), Arc::clone(metrics));
    let mut views = look(dialler, link, &at(&link.endpoints), TIMEOUT).await?;
    let known: Vec<_> = newest(&views).nodes.into_iter().map(|node| node.endpoint).collect();
    // Where these can't be reached, that is said of each of them.
    if let Ok(told) = look(dialler, link, &at(&known), TIMEOUT).await {
        views = told;
    }
    let topology = newest(&views);
    let disagreeing = views.into_iter().filter(|(_, view)| !view.agrees_with(&topology));
    Ok(Look { disagreeing: disagreeing.map(|(node, _)| node).collect(), topology })
}

/// What is believed of them.
fn newest(views: &[(String, Topology)]) -> Topology {
    Topology::believed(views.iter().map(|(_, view)| view.clone()).collect(), &Topology::default())
}

/// Asks the nodes; the others may take so long once one has answered. There is an answer if it is no error.
async fn look(
    dialler: &Dialler,
    link: &Link,
    backends: &Backends,
    others_timeout: Duration,
) -> Result<Vec<(String, Topology)>, Unseen> {
    let deadline = Instant::now() + TIMEOUT.min(link.connect_timeout);
    let mut failures = Vec::new();
    let mut asked = backends.listed();
    if asked.len() > MOST_ASKED {
        asked.sort_by_cached_key(|_| fraction().to_bits());
        asked.truncate(MOST_ASKED);
    }
    // Each name by itself, so that one that can't be resolved holds up no others.
    let asking = asked.into_iter().map(|listed| ask_each(dialler, link, backends, listed, deadline));
    let mut asking = stream::select_all(asking);
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
        let reason = format!("no node tells of the cluster: {}", some(&failures));
        return Err(Unseen { reason, is_no_cluster });
    }
    Ok(views)
}

/// Asks the nodes that a name stands for.
fn ask_each<'a>(
    dialler: &'a Dialler,
    link: &'a Link,
    backends: &'a Backends,
    listed: Arc<Listed>,
    deadline: Instant,
) -> Pin<Box<dyn Stream<Item = Answer> + Send + 'a>> {
    let resolved = async move {
        if listed.name().is_some() {
            match dialler.resolve(&listed, deadline).await {
                Ok(answer) => backends.resolved(&listed, &answer),
                Err(failure) => return Err((listed.endpoint.to_string(), Err(failure.to_string().into()))),
            }
        }
        let entries = backends.list();
        let entries = entries.iter().filter(|entry| entry.endpoint() == &listed.endpoint);
        Ok(entries.take(MOST_ASKED).cloned().collect::<Vec<_>>())
    };
    Box::pin(stream::once(resolved).flat_map(move |entries| match entries {
        Ok(entries) => {
            let asking = entries.into_iter().map(|entry| ask(dialler, link, backends, entry, deadline));
            asking.collect::<FuturesUnordered<_>>().left_stream()
        }
        Err(failed) => stream::once(ready(failed)).right_stream(),
    }))
}

/// Asks one node. That it answers ends its back-off, so that a node to which no client goes is known to be back; that it does
/// not is told to nobody else: a client's own dial decides who is passed over.
async fn ask(
    dialler: &Dialler,
    link: &Link,
    backends: &Backends,
    entry: Arc<Entry>,
    deadline: Instant,
) -> Answer {
    let name = entry.to_string();
    let Some(backend) = entry.backends.first() else { return (name, Err("it has no address".into())) };
    let lease = Lease::at(&entry, backend);
    let told = timeout_at(deadline, async {
        let upstream = dialler.ask(link, backends, &lease, deadline).await;
        let (stream, leading) = upstream.map_err(|failure| failure.to_string())?.into_parts();
        backends.works(&lease);
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
