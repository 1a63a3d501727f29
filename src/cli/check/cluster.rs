//! A Redis Cluster: its nodes, who serves which slots, and what is wrong with that.

use std::sync::Arc;

use serde::Serialize;

use super::findings::{Finding, Level};
use crate::admin::figures::count;
use crate::config::Link;
use crate::metrics::LinkMetrics;
use crate::net::Endpoint;
use crate::resp::cluster::SLOTS;
use crate::upstream::cluster::topology::{Node, Topology, Unseen, number, shown};
use crate::upstream::cluster::{remedy, too_few};
use crate::upstream::dial::Dialler;
use crate::upstream::discovery::cluster::{Look, look_once};

/// What the nodes tell.
#[derive(Debug, Serialize)]
pub(super) struct Cluster {
    pub(super) nodes: Vec<CheckedNode>,
    /// The first and the last slot of each range that nobody serves.
    slots_uncovered: Vec<(u16, u16)>,
}

/// A node of it.
#[derive(Debug, Serialize)]
pub(super) struct CheckedNode {
    id: String,
    pub(super) address: String,
    /// `master` or `replica`.
    role: String,
    /// The address of the master that a replica follows.
    follows: Option<String>,
    /// Whether the others say that it has failed.
    failed: bool,
    pub(super) slots: Vec<(u16, u16)>,
}

impl CheckedNode {
    fn of(topology: &Topology, node: &Node) -> Self {
        Self {
            id: node.id.clone(),
            address: node.endpoint.to_string(),
            role: node.role.to_string(),
            follows: topology.primary_of(node).map(ToString::to_string),
            failed: node.is_failed,
            slots: node.slots.clone(),
        }
    }

    /// Whether the backend is this one, which may have several addresses.
    pub(super) fn is_at(&self, backend: &str) -> bool {
        let rest = backend.strip_prefix(&*self.address);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
    }
}

impl Cluster {
    /// For people.
    pub(super) fn summary(&self) -> String {
        let masters = self.nodes.iter().filter(|node| node.role == "master" && !node.failed).count();
        let served = SLOTS - number(&self.slots_uncovered);
        let slots = if served == SLOTS { format!("all {SLOTS}") } else { format!("{served} of {SLOTS}") };
        let (nodes, masters) = (count(self.nodes.len(), "node"), count(masters, "master"));
        format!("a cluster of {nodes} with {masters}; {slots} slots are served")
    }

    /// Makes of problems with nodes that have failed something to look at: clients are led to the others.
    pub(super) fn lower(&self, findings: &mut [Finding]) {
        let failed: Vec<_> = self.nodes.iter().filter(|node| node.failed).collect();
        for finding in findings.iter_mut().filter(|finding| finding.level == Level::Problem) {
            let backend = finding.backend.as_deref();
            if backend.is_some_and(|backend| failed.iter().any(|node| node.is_at(backend))) {
                finding.level = Level::Warning;
            }
        }
    }
}

/// A look at the cluster, if a link leads to one: which nodes are to be examined.
pub(super) async fn look(
    link: &Arc<Link>,
    dialler: &Dialler,
    metrics: &Arc<LinkMetrics>,
) -> Option<Result<Look, Unseen>> {
    link.redis.as_ref()?.cluster.as_ref()?;
    Some(look_once(dialler, link, metrics).await)
}

/// The endpoints of the nodes, and what is wrong with them all.
pub(super) fn judge(link: &Link, look: &Look) -> (Cluster, Vec<Endpoint>, Vec<Finding>) {
    let Look { topology, disagreeing } = look;
    let cluster = Cluster {
        nodes: topology.nodes.iter().map(|node| CheckedNode::of(topology, node)).collect(),
        slots_uncovered: topology.uncovered(),
    };
    let mut findings = Vec::new();
    if !cluster.slots_uncovered.is_empty() {
        findings.push(of_slots(link, &cluster));
    }
    let ports = link.redis.as_ref().and_then(|redis| Some(&redis.cluster.as_ref()?.ports));
    if let Some(ports) = ports.filter(|ports| ports.len() < cluster.nodes.len()) {
        let what = too_few(ports, cluster.nodes.len(), 0);
        findings.push(Finding::of_cluster(Level::Problem, link, None, what, remedy(link)));
    }
    findings.extend(cluster.nodes.iter().filter(|node| node.failed).map(|node| of_failed(link, node)));
    findings.extend(disagreeing.iter().map(|node| of_disagreeing(link, node)));
    let endpoints = topology.nodes.iter().map(|node| node.endpoint.clone()).collect();
    (cluster, endpoints, findings)
}

/// A cluster that nobody tells of.
pub(super) fn of_unseen(link: &Link, unseen: &Unseen) -> Finding {
    let Unseen { reason, is_no_cluster } = unseen;
    let what = if *is_no_cluster {
        format!("{} leads to no Redis Cluster: cluster mode is off there", link.target)
    } else {
        reason.clone()
    };
    Finding::of_cluster(Level::Problem, link, None, what, unseen.remedy(link))
}

fn of_slots(link: &Link, cluster: &Cluster) -> Finding {
    let uncovered = &cluster.slots_uncovered;
    let any = cluster.nodes.iter().find(|node| !node.failed).map_or("HOST:PORT", |node| &*node.address);
    let what = format!(
        "nobody serves {} of {SLOTS} slots ({}), for which clients read CLUSTERDOWN",
        number(uncovered),
        shown(uncovered)
    );
    let remedy = format!(
        "bring back the nodes that served them, or give them to others: redis-cli --cluster fix {any}"
    );
    Finding::of_cluster(Level::Problem, link, None, what, remedy)
}

fn of_failed(link: &Link, node: &CheckedNode) -> Finding {
    let address = &node.address;
    let what = match &node.follows {
        Some(master) => format!("the cluster says that {address}, a replica of {master}, has failed"),
        None => format!("the cluster says that {address} has failed"),
    };
    let remedy = format!(
        "start it again, or if it is gone for good, have the others forget it: CLUSTER FORGET {}",
        node.id
    );
    Finding::of_cluster(Level::Warning, link, Some(address), what, remedy)
}

fn of_disagreeing(link: &Link, node: &str) -> Finding {
    let what = format!("{node} tells of other nodes or slots than the rest");
    let remedy =
        format!("look again in a few seconds; if it stays like that: redis-cli --cluster check {node}");
    Finding::of_cluster(Level::Warning, link, Some(node), what, remedy)
}
