//! A link to a Redis Cluster: its nodes, each with a listener of its own, and what clients are told of them.
//!
//! [`discovery`](crate::upstream::discovery) looks at the cluster and [publishes](Cluster::publish) its [`Topology`]. Each node
//! that is known has a number, by its id, and a [`LinkRuntime`] that leads to it alone; whoever runs the process accepts
//! clients on the [listeners](Opened) that come of it. Sessions have the addresses in replies [retold](LinkRuntime::retell):
//! an address that is not known yet is told to discovery, and waited for.

mod retell;
pub mod topology;

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};

use self::topology::{Node, Topology, Unseen};
use super::backends::{BackendState, Listing};
use super::discovery::endpoint_of;
use super::link::LinkRuntime;
use crate::config::Link;
use crate::config::link::shown_ports;
use crate::failure::no_list_remedy;
use crate::net::{Endpoint, ListenAddress, Listener, PassedSockets};
use crate::resp::cluster::Place;
use crate::text;

/// So long what a redirection has named is listened for, though no node is known there.
const NAMED: Duration = Duration::from_secs(30);

/// What becomes of the nodes' listeners.
pub enum Change {
    Opened(Opened),
    /// The names of sockets from before a restart that no node needs.
    Unneeded(Vec<String>),
}

/// A listener for the clients of one node.
pub struct Opened {
    pub listener: Listener,
    pub service: Arc<LinkRuntime>,
    /// True once the node is gone for good, or the process ends.
    pub stop: watch::Receiver<bool>,
}

/// The nodes of one link.
pub struct Cluster {
    ports: RangeInclusive<u16>,
    announce: Option<String>,
    keepalive: Option<Duration>,
    state: Mutex<State>,
    /// Where listeners go. None once the process accepts no more clients.
    changes: Mutex<Option<mpsc::UnboundedSender<Change>>>,
    /// Notified when somebody waits for a look at the cluster.
    wanted: Notify,
    /// Told of each look that is over.
    looks: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    topology: Topology,
    /// Why the last look has shown nothing.
    unseen: Option<Unseen>,
    nodes: Vec<Served>,
    /// Places that replies have named, for the next look, and for the one that is under way.
    asked_for: Vec<Wanted>,
    looked_for: Vec<Wanted>,
    /// Listeners of nodes from before a restart, until the cluster is seen.
    passed: PassedSockets,
    /// Numbers that others listen on.
    taken: BTreeSet<u16>,
    /// Whether the last listener could not be opened whatever its number.
    is_short: bool,
    /// How many nodes had no number when that was told last.
    told_without_number: usize,
}

/// A place that is not known.
#[derive(Clone, PartialEq, Eq)]
struct Wanted {
    endpoint: Endpoint,
    /// Whether it has a listener though no node is known there, as clients are sent to it.
    is_served: bool,
}

/// A node with its listener.
struct Served {
    /// None for a place that a redirection has named, and no node.
    id: Option<String>,
    endpoint: Endpoint,
    /// Its listener's number; none where there are too few.
    port: Option<u16>,
    /// None while the node is down, too: clients are to find that out as they would from the node itself.
    open: Option<Open>,
    /// Whether the cluster says that it has failed, and it can't be dialled.
    is_down: bool,
    gone_since: Option<Instant>,
    service: Arc<LinkRuntime>,
}

/// A listener that is open.
struct Open {
    /// Where, for people.
    listen: String,
    stop: watch::Sender<bool>,
}

impl Served {
    fn new(id: Option<String>, endpoint: Endpoint, link: &LinkRuntime) -> Self {
        let service = Arc::new(link.at_node(&endpoint));
        let gone_since = id.is_none().then(Instant::now);
        Self { id, endpoint, port: None, open: None, is_down: false, gone_since, service }
    }

    fn is(&self, node: &Node) -> bool {
        self.id.as_ref() == Some(&node.id)
    }

    /// Whether a redirection has named the node's place before it was known.
    fn is_place_of(&self, node: &Node) -> bool {
        self.id.is_none() && node.is_at_endpoint(&self.endpoint)
    }

    /// Takes in what is known of it now.
    fn follow(&mut self, node: &Node, link: &LinkRuntime) {
        self.id = Some(node.id.clone());
        self.gone_since = None;
        self.endpoint = node.endpoint.clone();
        self.service.backends.lead_to_part(Some(&node.endpoint), &link.backends);
        self.is_down = node.is_failed && self.service.backends.states().iter().all(BackendState::is_down);
        if node.is_failed {
            self.service.health.is_known_to_fail(link.link.connect_timeout);
        }
    }

    /// No node is known there any more.
    fn leave(&mut self, link: &LinkRuntime) {
        if self.id.is_some() && self.gone_since.is_none() {
            self.gone_since = Some(Instant::now());
            if link.link.move_grace.is_some() {
                self.service.backends.lead_to_part(None, &link.backends);
            }
        }
    }

    /// When it loses its listener, if it does: what no node is known at a while after it was named last.
    fn farewell(&self, grace: Option<Duration>) -> Option<Instant> {
        let grace = if self.id.is_some() { grace } else { Some(NAMED) };
        Some(self.gone_since? + grace?)
    }

    /// Closes its listener.
    fn close(&mut self, link: &LinkRuntime, why: &str) {
        let Some(Open { listen, stop }) = self.open.take() else { return };
        let (link_name, backend) = (&link.link.name, &self.endpoint);
        tracing::info!(target: "cluster", link = link_name, %backend, listen, why, "listener of a node closed");
        link.dialler.listening.remove(&listen);
        stop.send_replace(true);
    }
}

impl Cluster {
    /// Of a link that leads to one, and the receiver of its listeners. What was passed for its nodes is taken.
    pub fn of(
        link: &Link,
        keepalive: Option<Duration>,
        passed: &mut PassedSockets,
    ) -> Option<(Arc<Self>, mpsc::UnboundedReceiver<Change>)> {
        let cluster = link.redis.as_ref()?.cluster.as_ref()?;
        let (changes, listeners) = mpsc::unbounded_channel();
        let state = State { passed: passed.take_stored_at(&node_addresses(link)), ..State::default() };
        let cluster = Self {
            ports: cluster.ports.clone(),
            announce: cluster.announce.clone(),
            keepalive,
            state: Mutex::new(state),
            changes: Mutex::new(Some(changes)),
            wanted: Notify::new(),
            looks: watch::Sender::new(()),
        };
        Some((Arc::new(cluster), listeners))
    }

    /// How many listeners of nodes it has from before a restart.
    pub fn passed(&self) -> usize {
        self.state.lock().passed.count()
    }

    /// Waits until somebody needs a look.
    pub async fn look_wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether a look has ever shown it.
    pub fn is_known(&self) -> bool {
        !self.state.lock().topology.nodes.is_empty()
    }

    /// When the next node that is gone loses its listener.
    pub fn next_farewell(&self, grace: Option<Duration>) -> Option<Instant> {
        self.state.lock().nodes.iter().filter_map(|node| node.farewell(grace)).min()
    }

    /// A look begins, for all that was asked for so far.
    pub fn begin_look(&self) {
        let mut state = self.state.lock();
        state.looked_for = std::mem::take(&mut state.asked_for);
    }

    /// Takes in what nodes have answered, at least one of them. Every place that was looked for has a listener then, as far
    /// as there are numbers. To be called in the runtime that accepts clients, with the link's own runtime.
    pub fn publish(&self, link: &LinkRuntime, looked: Result<Vec<Topology>, Unseen>) {
        let mut state = self.state.lock();
        let is_seen = looked.is_ok();
        state.unseen = looked.as_ref().err().cloned();
        if let Ok(views) = looked {
            let topology = Topology::believed(views, &state.topology);
            take_in(&mut state, link, topology);
        }
        let (grace, now) = (link.link.move_grace, Instant::now());
        let is_over = |node: &mut Served| node.farewell(grace).is_some_and(|at| at <= now);
        // Their numbers are free when the listeners have been closed, in a moment.
        let mut closing = BTreeSet::new();
        for mut node in state.nodes.extract_if(.., is_over) {
            closing.extend(node.port);
            node.close(link, "gone");
        }
        for Wanted { endpoint, is_served } in std::mem::take(&mut state.looked_for) {
            // One beyond the numbers tells that there are too few.
            if is_served && !state.is_known(&endpoint) && state.nodes.len() <= self.ports.len() {
                tracing::warn!(
                    target: "cluster",
                    link = link.link.name,
                    backend = %endpoint,
                    remedy = "if it lasts, see whether all nodes announce themselves alike (cluster-announce-ip, -port, -hostname)",
                    "a node names an address that no node is known at; it has a listener all the same"
                );
                state.nodes.push(Served::new(None, endpoint, link));
            }
        }
        for node in state.nodes.iter_mut().filter(|node| node.is_down) {
            node.close(link, "down");
        }
        self.open(&mut state, link, &closing);
        let unneeded = if is_seen { state.passed.close() } else { Vec::new() };
        if let Some(changes) = self.changes.lock().as_ref().filter(|_| !unneeded.is_empty()) {
            // Where nobody receives it the process ends.
            let _ = changes.send(Change::Unneeded(unneeded));
        }
        if closing.is_empty() {
            self.tell_of_numbers(&mut state, &link.link);
        } else {
            self.wanted.notify_one();
        }
        drop(state);
        self.looks.send_replace(());
    }

    /// Opens the listeners that nodes lack: each on its number, or else on the first free one that is not just `closing`.
    fn open(&self, state: &mut State, link: &LinkRuntime, closing: &BTreeSet<u16>) {
        for at in 0..state.nodes.len() {
            let node = &state.nodes[at];
            if node.open.is_some() || node.is_down {
                continue;
            }
            let used: BTreeSet<_> = state.nodes.iter().filter_map(|node| node.port).collect();
            let free = self.ports.clone().filter(|port| !used.contains(port) && !closing.contains(port));
            let numbers = node.port.into_iter().chain(free).collect();
            let Some((port, listener)) = self.bind_one(state, link, numbers) else { continue };
            let Some(changes) = &*self.changes.lock() else { return };
            let node = &mut state.nodes[at];
            let (listen, (stop, stopped)) = (listener.address(), watch::channel(false));
            let (id, backend) = (node.id.as_deref(), &node.endpoint);
            tracing::info!(target: "cluster", link = link.link.name, %backend, id, listen, "node listening");
            link.dialler.listening.add(&listen, listener.addresses());
            // Where nobody receives it the process ends.
            let _ = changes.send(Change::Opened(Opened {
                listener,
                service: Arc::clone(&node.service),
                stop: stopped,
            }));
            node.port = Some(port);
            node.open = Some(Open { listen, stop });
        }
    }

    /// Binds the first of these numbers that can be had.
    fn bind_one(&self, state: &mut State, link: &LinkRuntime, numbers: Vec<u16>) -> Option<(u16, Listener)> {
        for port in numbers {
            let listen = link.link.listen.at(port);
            // Where a node is that is down at the moment, it would be dialled here.
            if state.nodes.iter().any(|node| listen.answers(&node.endpoint)) {
                continue;
            }
            let (address, error) = match Listener::open(None, &listen, self.keepalive, &mut state.passed) {
                Ok(listener) => {
                    state.taken.remove(&port);
                    state.is_short = false;
                    return Some((port, listener));
                }
                Err(mut errors) => errors.remove(0),
            };
            let (link, error_text) = (&link.link, text::io_error(&error));
            if !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) {
                // No other number could be had either; the next look tries again.
                if !std::mem::replace(&mut state.is_short, true) {
                    tracing::error!(
                        target: "cluster",
                        link = link.name,
                        listen = %address,
                        error = error_text,
                        remedy = "raise the limit on open files (ulimit -n)",
                        "node not listening"
                    );
                }
                return None;
            }
            if state.taken.insert(port) {
                tracing::warn!(
                    target: "cluster",
                    link = link.name,
                    listen = %address,
                    error = error_text,
                    remedy = remedy(link),
                    "number passed over: it can't be listened on"
                );
            }
        }
        None
    }

    fn tell_of_numbers(&self, state: &mut State, link: &Link) {
        let without = state.without_number();
        if without > state.told_without_number {
            tracing::error!(
                target: "cluster",
                link = link.name,
                error = self.too_few(state),
                remedy = remedy(link),
                "nodes have no listener"
            );
        }
        state.told_without_number = without;
    }

    fn too_few(&self, state: &State) -> String {
        if state.is_short {
            return "there are no file descriptors left for listeners of nodes".to_owned();
        }
        too_few(&self.ports, state.nodes.len(), state.taken.len())
    }

    /// No further listener is opened, and those that are there are closed.
    pub fn close(&self) {
        *self.changes.lock() = None;
        for open in self.state.lock().nodes.iter().filter_map(|node| node.open.as_ref()) {
            open.stop.send_replace(true);
        }
    }

    /// The nodes and slots, for the admin endpoint.
    pub fn states(&self, link: &Link) -> ClusterState {
        let state = self.state.lock();
        let of_node = |served: &Served| {
            let node = state.topology.nodes.iter().find(|node| Some(&node.id) == served.id.as_ref());
            let backends = served.service.backends.states();
            let is_up = !backends.is_empty() && backends.iter().all(|backend| backend.up);
            NodeState {
                id: served.id.clone(),
                address: served.endpoint.to_string(),
                listen: served.open.as_ref().map(|open| open.listen.clone()),
                role: node.map(|node| node.role.to_string()),
                follows: node.and_then(|node| state.topology.primary_of(node)).map(ToString::to_string),
                up: is_up && node.is_none_or(|node| !node.is_failed),
                slots: node.map(|node| node.slots.clone()).unwrap_or_default(),
                connections: backends.iter().map(|backend| backend.connections).sum(),
            }
        };
        let without_listener = state.without_number();
        let too_few = (without_listener > 0).then(|| self.too_few(&state));
        let trouble = match (too_few, &state.unseen) {
            (Some(too_few), _) => Some((too_few, remedy(link))),
            (None, Some(unseen)) => Some((unseen.reason.clone(), unseen.remedy(link))),
            (None, None) => None,
        };
        let (trouble, remedy) = trouble.unzip();
        let mut nodes: Vec<_> = state.nodes.iter().collect();
        nodes.sort_by_key(|node| (node.port.is_none(), node.port));
        ClusterState {
            nodes: nodes.into_iter().map(of_node).collect(),
            slots_uncovered: if state.topology.nodes.is_empty() {
                Vec::new()
            } else {
                state.topology.uncovered()
            },
            without_listener,
            trouble,
            remedy,
        }
    }

    /// Waits until the places have been looked for.
    async fn find(&self, places: Vec<Wanted>, within: Duration) {
        let mut looks = self.looks.subscribe();
        {
            let mut state = self.state.lock();
            for place in &places {
                if !state.asked_for.contains(place) {
                    state.asked_for.push(place.clone());
                }
            }
        }
        self.wanted.notify_one();
        let is_found = |(): &()| {
            let state = self.state.lock();
            let is_due = |place: &Wanted| state.asked_for.contains(place) || state.looked_for.contains(place);
            !places.iter().any(is_due)
        };
        // The sender is ours.
        let _ = timeout(within, looks.wait_for(is_found)).await;
    }
}

impl State {
    /// Nodes for which there was no number.
    fn without_number(&self) -> usize {
        self.nodes.iter().filter(|node| node.port.is_none() && !node.is_down).count()
    }

    fn is_known(&self, endpoint: &Endpoint) -> bool {
        self.nodes.iter().any(|node| node.endpoint == *endpoint)
            || self.topology.nodes.iter().any(|node| node.is_at_endpoint(endpoint))
    }

    /// The node that a reply means. A place without one is kept for a while again.
    fn node(&mut self, place: &Place<'_>) -> Option<&Served> {
        let at = self.position(place)?;
        let node = &mut self.nodes[at];
        if node.id.is_none() {
            node.gone_since = Some(Instant::now());
        }
        Some(node)
    }

    fn position(&self, place: &Place<'_>) -> Option<usize> {
        let by_id = |id: &str| self.nodes.iter().position(|node| node.id.as_deref() == Some(id));
        let by_place = || {
            let known = self.topology.nodes.iter().find(|node| node.is_at(place.host, place.port));
            known.and_then(|node| by_id(&node.id))
        };
        let by_endpoint = || {
            let endpoint = endpoint_of(place.host, place.port)?;
            self.nodes.iter().position(|node| node.endpoint == endpoint)
        };
        place.id.and_then(by_id).or_else(by_place).or_else(by_endpoint)
    }

    /// The host of a node that is told by its port alone: "the host that you have asked", which was `asked`. A cluster that
    /// says so has each node at a port of its own there, or at least the one that serves the slot.
    fn host(&self, place: &Place<'_>, asked: Option<&Endpoint>) -> Option<String> {
        let at_port = || self.topology.nodes.iter().filter(|node| node.port == place.port);
        let by_slot = at_port().find(|node| place.slot.is_some_and(|slot| node.serves(slot)));
        let by_host = || {
            let asked = asked.and_then(host_of)?;
            at_port().find(|node| node.is_at(&asked, place.port))
        };
        let known = by_slot.or_else(by_host).or_else(|| at_port().next());
        known.map_or_else(|| asked.and_then(host_of), |node| host_of(&node.endpoint))
    }
}

impl Node {
    fn is_at_endpoint(&self, endpoint: &Endpoint) -> bool {
        let Endpoint::Tcp(_, port) = endpoint else { return false };
        self.endpoint == *endpoint || host_of(endpoint).is_some_and(|host| self.is_at(&host, *port))
    }
}

/// Where nodes may be listened for.
pub fn node_addresses(link: &Link) -> Vec<ListenAddress> {
    let cluster = link.redis.as_ref().and_then(|redis| redis.cluster.as_ref());
    let ports = cluster.map(|cluster| cluster.ports.clone());
    ports.into_iter().flatten().flat_map(|port| link.listen.at(port).addresses).collect()
}

/// As servers write it, without brackets.
fn host_of(endpoint: &Endpoint) -> Option<String> {
    match endpoint {
        Endpoint::Tcp(host, _) => Some(host.to_string().trim_matches(['[', ']']).to_owned()),
        Endpoint::Unix(_) => None,
    }
}

/// Each node is where it is now, and those that are there no more are gone.
fn take_in(state: &mut State, link: &LinkRuntime, topology: Topology) {
    let listing = |node: &Node| Listing {
        endpoint: node.endpoint.clone(),
        priority: u16::from(node.is_failed),
        weight: None,
    };
    link.backends.publish(topology.nodes.iter().map(listing).collect(), "cluster");
    for known in &mut state.nodes {
        match topology.nodes.iter().find(|node| known.is(node)) {
            Some(node) => known.follow(node, link),
            None => known.leave(link),
        }
    }
    for node in &topology.nodes {
        if state.nodes.iter().any(|known| known.is(node)) {
            continue;
        }
        match state.nodes.iter_mut().find(|known| known.is_place_of(node)) {
            Some(place) => place.follow(node, link),
            None => state.nodes.push(Served::new(Some(node.id.clone()), node.endpoint.clone(), link)),
        }
    }
    let uncovered = topology.uncovered();
    let changed = |is: fn(&Topology) -> usize| is(&state.topology) != is(&topology);
    if uncovered != state.topology.uncovered()
        || changed(|topology| topology.nodes.len())
        || changed(Topology::masters)
    {
        tell_of_change(&link.link.name, &topology, &uncovered);
    }
    state.topology = topology;
}

/// What is wrong where so many nodes want a number of these, some of which others have taken.
pub fn too_few(ports: &RangeInclusive<u16>, nodes: usize, taken: usize) -> String {
    let free = if taken == 0 { "" } else { "free " };
    let s = |number| if number == 1 { "" } else { "s" };
    let numbers = ports.len() - taken.min(ports.len());
    format!(
        "the cluster has {nodes} node{}, but CLUSTER_PORTS={} has {numbers} {free}number{}",
        s(nodes),
        shown_ports(ports),
        s(numbers)
    )
}

/// What helps where there are too few numbers.
pub fn remedy(link: &Link) -> String {
    let cluster = link.redis.as_ref().and_then(|redis| redis.cluster.as_ref());
    let variable = cluster.map_or("CLUSTER_PORTS", |cluster| &cluster.ports_variable);
    format!("set {variable} to a range with a number for each node and some to spare")
}

impl Unseen {
    /// What helps.
    pub fn remedy(&self, link: &Link) -> String {
        let servers = link.same_target(false).filter(|_| self.is_no_cluster);
        servers.unwrap_or_else(|| no_list_remedy(link))
    }
}

fn tell_of_change(link: &str, topology: &Topology, uncovered: &[(u16, u16)]) {
    let (nodes, masters) = (topology.nodes.len(), topology.masters());
    if uncovered.is_empty() {
        tracing::info!(target: "cluster", link, nodes, masters, "cluster seen");
        return;
    }
    tracing::warn!(
        target: "cluster",
        link,
        nodes,
        masters,
        uncovered = topology::shown(uncovered),
        remedy = "see redis-cli --cluster check; commands for these slots are answered CLUSTERDOWN",
        "cluster seen; nobody serves some slots"
    );
}

/// A cluster, as the admin endpoint shows it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct ClusterState {
    /// By their listeners' numbers.
    pub nodes: Vec<NodeState>,
    /// The first and the last slot of each range that nobody serves.
    pub slots_uncovered: Vec<(u16, u16)>,
    /// So many nodes have no listener, because there are too few numbers.
    #[serde(default)]
    pub without_listener: usize,
    /// Why some nodes have no listener, or why no node tells of the cluster.
    pub trouble: Option<String>,
    /// What helps against that.
    pub remedy: Option<String>,
}

/// A node of it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct NodeState {
    /// None for an address that a redirection has named, and at which no node is known.
    pub id: Option<String>,
    pub address: String,
    /// None where there are too few numbers, and while it is down.
    pub listen: Option<String>,
    /// `master` or `replica`; none where the cluster does not, or no longer, tell of it.
    pub role: Option<String>,
    /// The address of the master that a replica follows.
    pub follows: Option<String>,
    /// Whether neither the cluster nor the last dial says that it has failed.
    pub up: bool,
    /// The first and the last slot of each range that it serves.
    pub slots: Vec<(u16, u16)>,
    /// Current connections to it.
    pub connections: usize,
}

impl NodeState {
    /// Whether the cluster no longer tells of it.
    pub fn has_left(&self) -> bool {
        self.id.is_some() && self.role.is_none()
    }

    /// Whether it ought to be up.
    pub fn is_down(&self) -> bool {
        !self.up && !self.has_left()
    }
}
