//! What the nodes of a cluster tell of it: who they are, where, and who serves which slots.
//!
//! `CLUSTER NODES` knows every node with its address and its configuration's epoch; `CLUSTER SLOTS` has the *preferred*
//! endpoint, which is what clients are to dial: an address, a name, or "the host that you have asked".

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use redis_protocol::resp2::types::BytesFrame;

use crate::config::link::Role;
use crate::net::{Endpoint, Host};
use crate::resp;
use crate::resp::cluster::SLOTS;
use crate::upstream::discovery::endpoint_of;

/// The longest id of a node, in bytes; every server's has forty.
const LONGEST_ID: usize = 64;

/// A cluster, as one of its nodes sees it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The newest epoch of all nodes' configurations.
    pub epoch: u64,
    /// In the order of their endpoints, so that it is the same whoever is asked, and behind a failover.
    pub nodes: Vec<Node>,
}

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    /// What is dialled.
    pub endpoint: Endpoint,
    /// The hosts by which nodes may tell of it, in lower case, and its port.
    pub hosts: Vec<String>,
    pub port: u16,
    pub role: Role,
    /// The id of the primary that a replica follows.
    pub primary: Option<String>,
    /// Whether the others agree that it has failed.
    pub is_failed: bool,
    /// The first and the last slot of each range that it serves.
    pub slots: Vec<(u16, u16)>,
}

/// Why nobody has told of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// In words for people.
    pub reason: String,
    /// Whether it is because there is none: who was asked is a server by itself.
    pub is_no_cluster: bool,
}

impl<T: Into<String>> From<T> for Unseen {
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), is_no_cluster: false }
    }
}

/// Ranges that are shown at most.
const SHOWN: usize = 8;

/// Ranges of slots, for people: `0-5460, 8000`.
pub fn shown(ranges: &[(u16, u16)]) -> String {
    let range = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let shown: Vec<_> = ranges.iter().take(SHOWN).map(range).collect();
    match ranges.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more ranges", shown.join(", ")),
    }
}

/// So many slots have these ranges.
pub fn number(ranges: &[(u16, u16)]) -> u16 {
    ranges.iter().fold(0, |sum: u16, (first, last)| sum.saturating_add(last - first + 1))
}

impl Node {
    /// Whether a redirection to that place means this node.
    pub fn is_at(&self, host: &str, port: u16) -> bool {
        self.port == port && self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }

    pub fn serves(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

impl Topology {
    /// How one answer goes before another: the newest epoch is believed, and of one epoch what knows of most.
    pub fn weight(&self) -> (u64, u16, usize) {
        (self.epoch, self.covered(), self.nodes.len())
    }

    /// Of several answers the one with the newest epoch. Where that does not decide, what was believed `before` stands. An
    /// answer of those who know none of its nodes comes from another cluster, at addresses that were those of this one.
    pub fn believed(mut views: Vec<Self>, before: &Self) -> Self {
        let is_related =
            |view: &Self| view.nodes.iter().any(|node| before.nodes.iter().any(|old| old.id == node.id));
        if views.iter().any(is_related) {
            views.retain(is_related);
        }
        let heaviest = views.iter().map(Self::weight).max();
        views.retain(|view| Some(view.weight()) == heaviest);
        let same = views.iter().position(|view| view == before);
        views.into_iter().nth(same.unwrap_or_default()).unwrap_or_default()
    }

    /// Whether it has the same nodes, each with the same role and slots.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let of = |topology: &Self| -> BTreeMap<String, (bool, Vec<(u16, u16)>)> {
            let nodes = topology.nodes.iter();
            nodes.map(|node| (node.id.clone(), (node.role == Role::Master, node.slots.clone()))).collect()
        };
        of(self) == of(other)
    }

    /// Slots that somebody serves.
    pub fn covered(&self) -> u16 {
        SLOTS - number(&self.uncovered())
    }

    /// Where the primary is that a node follows.
    pub fn primary_of(&self, node: &Node) -> Option<&Endpoint> {
        let id = node.primary.as_ref()?;
        self.nodes.iter().find(|node| node.id == *id).map(|node| &node.endpoint)
    }

    /// The ranges of slots that nobody serves.
    pub fn uncovered(&self) -> Vec<(u16, u16)> {
        let serving = self.nodes.iter().filter(|node| !node.is_failed);
        let mut ranges: Vec<_> = serving.flat_map(|node| &node.slots).copied().collect();
        ranges.sort_unstable();
        let (mut next, mut uncovered) = (0, Vec::new());
        for (first, last) in ranges {
            if first > next {
                uncovered.push((next, first - 1));
            }
            next = next.max(last + 1);
        }
        if next < SLOTS {
            uncovered.push((next, SLOTS - 1));
        }
        uncovered
    }

    /// Those that have not failed.
    pub fn masters(&self) -> usize {
        self.nodes.iter().filter(|node| node.role == Role::Master && !node.is_failed).count()
    }

    /// What a node has answered that was asked at this host.
    ///
    /// # Errors
    /// It told nothing that is to be understood.
    pub fn of(nodes: &BytesFrame, slots: &BytesFrame, asked: &Host) -> Result<Self, Unseen> {
        let preferred = preferred(slots);
        let mut told = match nodes {
            BytesFrame::Error(words) if words.contains("cluster support disabled") => {
                let reason =
                    "it is no node of a cluster (a link to one server begins with redis://)".to_owned();
                return Err(Unseen { reason, is_no_cluster: true });
            }
            // Not every user may ask for the nodes.
            BytesFrame::Error(words) if preferred.is_empty() => return Err((&**words).into()),
            BytesFrame::Error(_) => Self { epoch: 0, nodes: of_slots(slots, asked) },
            nodes => {
                let text = resp::text(nodes).ok_or("it does not answer like a node of a cluster")?;
                Self::of_lines(text, &preferred, asked)
            }
        };
        if told.nodes.is_empty() {
            return Err("it knows no node of a cluster".into());
        }
        told.nodes.sort_by_cached_key(|node| order(&node.endpoint));
        Ok(told)
    }

    fn of_lines(text: &str, preferred: &HashMap<&str, Preferred<'_>>, asked: &Host) -> Self {
        let lines: Vec<_> = text.lines().filter_map(Line::parse).collect();
        // What those without slots are to be dialled by is what the others prefer.
        let prefers = |is: fn(&Preferred<'_>, &Line<'_>) -> bool| {
            lines.iter().any(|line| preferred.get(line.id).is_some_and(|preferred| is(preferred, line)))
        };
        let by_name = prefers(|preferred, line| preferred.host.is_some_and(|host| host == line.name));
        let by_asked = prefers(|preferred, _| preferred.host.is_none());
        let asked_host = asked.to_string();
        let mut epoch = 0;
        let mut nodes = Vec::new();
        for line in &lines {
            epoch = epoch.max(line.epoch);
            let (host, port) = match preferred.get(line.id) {
                Some(preferred) => (preferred.host.unwrap_or(&asked_host), preferred.port),
                None if by_name && !line.name.is_empty() => (line.name, line.port),
                None if by_asked || line.ip.is_empty() => (asked_host.as_str(), line.port),
                None => (line.ip, line.port),
            };
            let Some(endpoint) = endpoint_of(host.trim_matches(['[', ']']), port) else {
                continue;
            };
            nodes.push(Node {
                id: line.id.to_owned(),
                endpoint,
                hosts: hosts([host, line.ip, line.name]),
                port,
                role: line.role,
                primary: line.primary.map(str::to_owned),
                is_failed: line.is_failed,
                slots: line.slots.clone(),
            });
        }
        Self { epoch, nodes }
    }
}

/// The distinct ones of these that say anything, in lower case.
fn hosts<'a>(told: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut hosts: Vec<_> =
        told.into_iter().map(|host| host.trim_matches(['[', ']']).to_ascii_lowercase()).collect();
    hosts.retain(|host| !host.is_empty());
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// The order of endpoints: addresses by their numbers, names by their letters and then by the numbers in them.
fn order(endpoint: &Endpoint) -> (Option<IpAddr>, usize, String) {
    match endpoint {
        Endpoint::Tcp(Host::Address(address), port) => (Some(*address), usize::from(*port), String::new()),
        // Of names that are counted the shorter one has the lower number.
        Endpoint::Tcp(host, port) => (None, host.to_string().len(), format!("{host}:{port:05}")),
        Endpoint::Unix(path) => (None, 0, path.display().to_string()),
    }
}

/// A line of `CLUSTER NODES`.
struct Line<'a> {
    id: &'a str,
    ip: &'a str,
    name: &'a str,
    port: u16,
    role: Role,
    primary: Option<&'a str>,
    is_failed: bool,
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

impl<'a> Line<'a> {
    /// `<id> <ip:port@cport[,hostname[,…]]> <flags> <primary> <ping> <pong> <epoch> <link-state> <slot> …`; none where it
    /// names no node with an address.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let (id, place, flags) = (words.next()?, words.next()?, words.next()?);
        let primary = words.next().filter(|id| *id != "-");
        let epoch = words.nth(2)?.parse().ok()?;
        let _link_state = words.next()?;
        let mut parts = place.split(',');
        let address = parts.next()?;
        let name = parts.next().unwrap_or_default();
        let (ip, port) = address.split('@').next()?.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let has = |flag: &str| flags.split(',').any(|known| known == flag);
        if has("handshake") || has("noaddr") || id.is_empty() || id.len() > LONGEST_ID {
            return None;
        }
        let role = if has("master") { Role::Master } else { Role::Replica };
        let slots = words.filter(|word| !word.starts_with('[')).filter_map(range).collect();
        Some(Self { id, ip, name, port, role, primary, is_failed: has("fail"), epoch, slots })
    }
}

/// `FIRST-LAST`, or one slot.
fn range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let range: (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (range.0 <= range.1 && range.1 < SLOTS).then_some(range)
}

/// Where clients are to dial a node.
struct Preferred<'a> {
    /// None where it is the host that was asked.
    host: Option<&'a str>,
    port: u16,
}

/// By the nodes' ids.
fn preferred(slots: &BytesFrame) -> HashMap<&str, Preferred<'_>> {
    let nodes = ranges(slots).flat_map(|(_, nodes)| nodes);
    nodes.filter_map(of_node).collect()
}

/// A node in a reply to `CLUSTER SLOTS`: host, port, id, metadata.
fn of_node(node: &BytesFrame) -> Option<(&str, Preferred<'_>)> {
    let BytesFrame::Array(items) = node else { return None };
    let [host, BytesFrame::Integer(port), id, ..] = &items[..] else { return None };
    let host = resp::text(host).filter(|host| !host.is_empty() && *host != "?");
    let port = u16::try_from(*port).ok().filter(|port| *port != 0)?;
    Some((resp::text(id)?, Preferred { host, port }))
}

/// Each range of slots, with its nodes.
fn ranges(slots: &BytesFrame) -> impl Iterator<Item = ((u16, u16), &[BytesFrame])> {
    let items = if let BytesFrame::Array(items) = slots { &items[..] } else { &[] };
    items.iter().filter_map(|item| {
        let BytesFrame::Array(items) = item else { return None };
        let [BytesFrame::Integer(first), BytesFrame::Integer(last), nodes @ ..] = &items[..] else {
            return None;
        };
        let range = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        (range.0 <= range.1 && range.1 < SLOTS).then_some((range, nodes))
    })
}

/// Those that serve slots, and their replicas.
fn of_slots(slots: &BytesFrame, asked: &Host) -> Vec<Node> {
    let asked = asked.to_string();
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    for (range, servers) in ranges(slots) {
        for (number, server) in servers.iter().enumerate() {
            let Some((id, preferred)) = of_node(server) else { continue };
            let host = preferred.host.unwrap_or(&asked);
            let endpoint = endpoint_of(host.trim_matches(['[', ']']), preferred.port);
            let Some(endpoint) = endpoint.filter(|_| id.len() <= LONGEST_ID) else { continue };
            let role = if number == 0 { Role::Master } else { Role::Replica };
            let primary = servers.first().filter(|_| number > 0).and_then(of_node);
            let node = nodes.entry(id).or_insert_with(|| Node {
                id: id.to_owned(),
                endpoint,
                hosts: hosts([host]),
                port: preferred.port,
                role,
                primary: primary.map(|(id, _)| id.to_owned()),
                is_failed: false,
                slots: Vec::new(),
            });
            if number == 0 {
                node.slots.push(range);
            }
        }
    }
    nodes.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
07c37dfeb235213a872192d90877d0cd55635b91 127.0.0.1:30004@31004,hostname4 slave e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 0 1426238317239 4 connected
67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1 127.0.0.1:30002@31002,hostname2 master - 0 1426238316232 2 connected 5461-10922
292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f 127.0.0.1:30003@31003,hostname3 master,fail - 0 1426238318243 3 connected 10923-16383
6ec23923021cf3ffec47632106199cb7f496ce01 127.0.0.1:30005@31005,hostname5 handshake - 0 1426238316232 5 connected
824fe116063bc5fcf9f4ffd895bc17aee7731ac3 :0@0 slave,noaddr - 0 1426238317741 6 disconnected
e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 127.0.0.1:30001@31001,hostname1 myself,master - 0 0 1 connected 0-5460 [77->-67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1]
";

    fn bulk(text: &str) -> BytesFrame {
        BytesFrame::BulkString(text.to_owned().into())
    }

    fn slots(hosts: [BytesFrame; 2]) -> BytesFrame {
        let [one, two] = hosts;
        let node = |host, port, id: &str| BytesFrame::Array(vec![host, BytesFrame::Integer(port), bulk(id)]);
        let range = |first, last, node| {
            BytesFrame::Array(vec![BytesFrame::Integer(first), BytesFrame::Integer(last), node])
        };
        BytesFrame::Array(vec![
            range(0, 5460, node(one, 30001, "e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca")),
            range(5461, 10922, node(two, 30002, "67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1")),
        ])
    }

    fn endpoints(told: &Topology) -> Vec<String> {
        told.nodes.iter().map(|node| node.endpoint.to_string()).collect()
    }

    fn asked() -> Host {
        "seed.example".parse().unwrap()
    }

    #[test]
    fn nodes_are_where_the_cluster_prefers_them_to_be_dialled() {
        let by_ip = slots([bulk("127.0.0.1"), bulk("127.0.0.1")]);
        let told = Topology::of(&bulk(NODES), &by_ip, &asked()).unwrap();
        assert_eq!(
            endpoints(&told),
            ["127.0.0.1:30001", "127.0.0.1:30002", "127.0.0.1:30003", "127.0.0.1:30004"]
        );
        assert_eq!((told.epoch, told.uncovered(), told.covered()), (4, vec![(10923, 16383)], 10923));
        let primaries: Vec<_> =
            told.nodes.iter().map(|node| told.primary_of(node).map(ToString::to_string)).collect();
        assert_eq!(primaries, [None, None, None, Some("127.0.0.1:30001".to_owned())]);
        assert!(told.nodes[0].is_at("HOSTNAME1", 30001) && told.nodes[0].is_at("127.0.0.1", 30001));
        let by_name = slots([bulk("hostname1"), bulk("hostname2")]);
        let told = Topology::of(&bulk(NODES), &by_name, &asked()).unwrap();
        assert_eq!(
            endpoints(&told),
            ["hostname1:30001", "hostname2:30002", "hostname3:30003", "hostname4:30004"]
        );
        let by_asked = slots([BytesFrame::Null, bulk("")]);
        let told = Topology::of(&bulk(NODES), &by_asked, &asked()).unwrap();
        assert!(endpoints(&told).iter().all(|endpoint| endpoint.starts_with("seed.example:3000")));
    }

    #[test]
    fn what_a_user_may_not_ask_is_done_without() {
        let refused = BytesFrame::Error("NOPERM this user has no permissions".into());
        let by_ip = slots([bulk("10.0.0.1"), bulk("::1")]);
        let told = Topology::of(&refused, &by_ip, &asked()).unwrap();
        assert_eq!(
            endpoints(&told),
            ["[::1]:30002", "10.0.0.1:30001"].map(String::from).into_iter().rev().collect::<Vec<_>>()
        );
        assert_eq!(told.masters(), 2);
        let unseen = |nodes: &BytesFrame| Topology::of(nodes, &refused, &asked()).unwrap_err();
        let reason = |nodes: &BytesFrame| unseen(nodes).reason;
        assert!(reason(&refused).starts_with("NOPERM") && !unseen(&refused).is_no_cluster);
        let disabled = BytesFrame::Error("ERR This instance has cluster support disabled".into());
        assert!(
            reason(&disabled).starts_with("it is no node of a cluster") && unseen(&disabled).is_no_cluster
        );
        assert_eq!(reason(&bulk("")), "it knows no node of a cluster");
        assert_eq!(reason(&BytesFrame::Integer(1)), "it does not answer like a node of a cluster");
    }

    #[test]
    fn ranges_are_shown_in_a_few_characters() {
        assert_eq!(shown(&[]), "");
        assert_eq!(shown(&[(0, 5460), (8000, 8000)]), "0-5460, 8000");
        let many: Vec<_> = (0..1000).map(|slot| (slot * 2, slot * 2)).collect();
        assert_eq!(shown(&many), "0, 2, 4, 6, 8, 10, 12, 14 and 992 more ranges");
        assert_eq!(number(&[(0, 16383)]), SLOTS);
    }

    #[test]
    fn nonsense_is_passed_over() {
        for line in [
            "",
            "id",
            "id x flags",
            "id h:1@2 master - 0 0 x connected",
            "id h:99999 master - 0 0 1 connected",
        ] {
            assert!(Line::parse(line).is_none(), "{line}");
        }
        for word in ["16384", "5-4", "0-16384", "-", "x"] {
            assert_eq!(range(word), None, "{word}");
        }
    }
}
