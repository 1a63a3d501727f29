//! A real Redis Cluster, each node at a loopback address of its own.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use super::{Authority, RedisServer, SERVER_NAME, Version, eventually, own_address};

/// Slots of a cluster.
pub(crate) const SLOTS: u16 = 16384;

/// Nodes that want a password: primaries, and as many replicas. Killed when dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<RedisServer>,
    pub(crate) password: String,
    tls: Option<Tls>,
}

/// Where nodes speak TLS to each other and to those who know them.
struct Tls {
    authority: PathBuf,
    port: u16,
}

/// A node as the cluster tells of it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    pub(crate) is_primary: bool,
    /// Ranges of slots, as they are written.
    pub(crate) slots: String,
}

impl Known {
    pub(crate) fn has_slots(&self) -> bool {
        !self.slots.is_empty()
    }
}

impl Cluster {
    /// Three primaries with a replica each.
    pub(crate) fn start(password: &str) -> Option<Self> {
        Self::start_with(Version::Redis70, password, 6, |_| String::new())
    }

    /// So many nodes of any version, with these lines of configuration beside what all have.
    pub(crate) fn start_with(
        version: Version,
        password: &str,
        nodes: usize,
        configuration: impl Fn(usize) -> String,
    ) -> Option<Self> {
        Self::start_at(version, password, nodes, address_of_node, configuration, None)
    }

    /// Six that speak TLS, with certificates of this authority for [`SERVER_NAME`].
    pub(crate) fn start_over_tls(authority: &Authority, password: &str) -> Option<Self> {
        // Each node has its own address.
        let tls = Tls { authority: authority.file(), port: address_of_node().port() };
        let identity = authority.issue(&[SERVER_NAME]);
        let configuration = format!(
            "tls-cluster yes\ntls-replication yes\ntls-auth-clients no\ntls-port {}\ntls-cert-file {}\n\
             tls-key-file {}\ntls-ca-cert-file {}",
            tls.port,
            identity.certificate.display(),
            identity.key.display(),
            authority.file().display()
        );
        let lines = |_| configuration.clone();
        Self::start_at(Version::Redis70, password, 6, address_of_node, lines, Some(tls))
    }

    /// The same at one loopback address, each node at a port of its own.
    pub(crate) fn start_at_one_address(
        at: IpAddr,
        password: &str,
        nodes: usize,
        configuration: impl Fn(usize) -> String,
    ) -> Option<Self> {
        let free = || SocketAddr::new(at, address_of_node().port());
        Self::start_at(Version::Redis70, password, nodes, free, configuration, None)
    }

    fn start_at(
        version: Version,
        password: &str,
        nodes: usize,
        free: impl Fn() -> SocketAddr,
        configuration: impl Fn(usize) -> String,
        tls: Option<Tls>,
    ) -> Option<Self> {
        let mut cluster = Self { nodes: Vec::new(), password: password.to_owned(), tls };
        for number in 0..nodes {
            cluster.nodes.push(cluster.another_at(version, &free, &configuration(number))?);
        }
        // Without the brackets of IPv6, as redis-cli takes them.
        let addresses: Vec<_> =
            cluster.addresses().iter().map(|address| address.replace(['[', ']'], "")).collect();
        let replicas = usize::from(nodes >= 6).to_string();
        let mut create = vec!["create"];
        create.extend(addresses.iter().map(String::as_str));
        create.extend(["--cluster-replicas", &replicas, "--cluster-yes"]);
        cluster.administer(&create);
        cluster.settle();
        Some(cluster)
    }

    /// A node that has not met the others.
    pub(crate) fn another(&self, version: Version, configuration: &str) -> Option<RedisServer> {
        self.another_at(version, address_of_node, configuration)
    }

    fn another_at(
        &self,
        version: Version,
        free: impl Fn() -> SocketAddr,
        configuration: &str,
    ) -> Option<RedisServer> {
        let mut lines = format!(
            "cluster-enabled yes\ncluster-node-timeout 1000\nrequirepass {password}\nmasterauth {password}\n\
             repl-diskless-sync-delay 0",
            password = self.password
        );
        let _ = write!(lines, "\n{configuration}");
        RedisServer::start_node(version, free, &lines)
    }

    /// `redis-cli --cluster` with these arguments, which must succeed.
    #[track_caller]
    pub(crate) fn administer(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        if let Some(tls) = &self.tls {
            command.arg("--tls").arg("--cacert").arg(&tls.authority);
        }
        let done = command
            .args(["-a", &self.password, "--no-auth-warning", "--cluster"])
            .args(arguments)
            .output()
            .expect("redis-cli runs");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "redis-cli --cluster {arguments:?}:\n{said}");
        said
    }

    /// Waits until every node that runs knows the same of the others, and replicas follow.
    #[track_caller]
    pub(crate) fn settle(&self) {
        eventually("the cluster agrees", || {
            let running: Vec<_> = self.nodes.iter().filter(|node| node.is_running()).collect();
            let mut views = running.iter().map(|node| {
                let mut told = known(node, &self.password);
                told.sort_by(|one, other| one.id.cmp(&other.id));
                told.into_iter().map(|node| (node.id, node.is_primary, node.slots)).collect::<Vec<_>>()
            });
            let first = views.next().expect("a node");
            let agree = views.all(|view| view == first);
            agree
                && running.iter().all(|node| {
                    let mut administrator = node.administrator(&self.password);
                    let state: String =
                        redis::cmd("CLUSTER").arg("INFO").query(&mut administrator).expect("INFO");
                    let role: String =
                        redis::cmd("INFO").arg("replication").query(&mut administrator).expect("INFO");
                    state.contains("cluster_state:ok") && !role.contains("master_link_status:down")
                })
        });
    }

    /// Has nodes tell of replicas in `CLUSTER SLOTS` too, which they don't before these have followed a write.
    #[track_caller]
    pub(crate) fn show_replicas(&self) {
        // One for each of three primaries.
        for key in ["a", "b", "c"] {
            let primary = self.nodes.iter().find(|node| node.address() == self.serving(key)).expect("a node");
            let mut administrator = primary.administrator(&self.password);
            redis::cmd("SET").arg(key).arg("").exec(&mut administrator).expect("SET");
        }
        eventually("every node tells of the replicas", || {
            self.nodes.iter().all(|node| {
                let mut administrator = node.administrator(&self.password);
                let slots: Vec<Vec<redis::Value>> =
                    redis::cmd("CLUSTER").arg("SLOTS").query(&mut administrator).expect("CLUSTER SLOTS");
                // The first and the last slot, the primary, a replica.
                slots.iter().all(|range| range.len() == 4)
            })
        });
    }

    /// All nodes, as the first one that runs tells.
    pub(crate) fn known(&self) -> Vec<Known> {
        known(self.nodes.iter().find(|node| node.is_running()).expect("a node"), &self.password)
    }

    /// The node at that address.
    pub(crate) fn at(&mut self, address: SocketAddr) -> &mut RedisServer {
        self.nodes.iter_mut().find(|node| node.address() == address).expect("a node")
    }

    /// The node that serves the slot of this key.
    pub(crate) fn serving(&self, key: &str) -> SocketAddr {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            let mut administrator = node.administrator(&self.password);
            let found: redis::RedisResult<Option<String>> =
                redis::cmd("GET").arg(key).query(&mut administrator);
            if found.is_ok() {
                return node.address();
            }
        }
        panic!("nobody serves {key}");
    }

    /// What a link names.
    pub(crate) fn target(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}+cluster://{}", self.addresses().join(","))
    }

    /// Where nodes are dialled.
    fn addresses(&self) -> Vec<String> {
        let of_node = |node: &RedisServer| {
            let port = self.tls.as_ref().map_or(node.address().port(), |tls| tls.port);
            SocketAddr::new(node.address().ip(), port).to_string()
        };
        self.nodes.iter().map(of_node).collect()
    }

    /// Whether any of these bytes names one of the nodes, by its address or its port.
    #[track_caller]
    pub(crate) fn expect_unnamed(&self, said: &[u8]) {
        let text = String::from_utf8_lossy(said);
        for node in &self.nodes {
            let (ip, port) = (node.address().ip().to_string(), node.address().port());
            let bus = port + 10000;
            for word in
                [ip, format!(":{port}\r"), format!(":{port}@"), format!("@{bus}"), format!("\n{port}\r")]
            {
                assert!(!text.contains(&word), "{} is named: {text}", word.escape_debug());
            }
        }
    }
}

fn known(node: &RedisServer, password: &str) -> Vec<Known> {
    let mut administrator = node.administrator(password);
    let told: String = redis::cmd("CLUSTER").arg("NODES").query(&mut administrator).expect("CLUSTER NODES");
    let node = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        // An IPv6 address has no brackets there.
        let (ip, port) = words[1].split('@').next()?.rsplit_once(':')?;
        let address = SocketAddr::new(ip.parse().ok()?, port.parse().ok()?);
        Some(Known {
            id: words[0].to_owned(),
            address,
            is_primary: words[2].contains("master") && !words[2].contains("fail"),
            slots: words[8..].join(" "),
        })
    };
    told.lines().filter_map(node).collect()
}

/// An address whose port leaves room for that of the cluster's bus.
fn address_of_node() -> SocketAddr {
    loop {
        let address = own_address();
        if address.port() < u16::MAX - 10_000 {
            return address;
        }
    }
}
