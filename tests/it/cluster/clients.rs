//! Real cluster clients of several languages, which know one address and no password.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{FIRST, Front, launch};
use crate::faults::Network;
use crate::sessions::clients::{Client as _, Program, has_php, python};
use crate::support::{Authority, Cluster, SERVER_NAME, command_is_missing, eventually, password, random};

/// Programs of `clients/`. Those of Python speak either protocol.
const PROGRAMS: [&str; 4] = ["redis_py.py", "redis_py_async.py", "valkey_glide.py", PHP];
const PHP: &str = "phpredis.php";

/// Clients at work on all slots.
struct Clients(Vec<(String, Program)>);

impl Clients {
    /// A program in every protocol that it speaks; none where it is not installed.
    fn start(front: &Front, program: &str, change: impl Fn(&mut Command)) -> Self {
        let address = front.ambassador.address("redis:6379");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cluster/clients").join(program);
        let (interpreter, protocols) = if program == PHP {
            (has_php().then(|| "php".into()), &[""][..])
        } else {
            (python(), &["2", "3"][..])
        };
        let protocols = if interpreter.is_some() { protocols } else { &[] };
        let programs = protocols.iter().map(|protocol| {
            let mut command = Command::new(interpreter.as_deref().expect("it is installed"));
            command.arg(&path).args([address.ip().to_string(), address.port().to_string()]).arg(protocol);
            change(&mut command);
            (format!("{program} {protocol}"), Program::start(&mut command))
        });
        Self(programs.collect())
    }

    /// Waits until all have done everything once more, from its beginning.
    #[track_caller]
    fn go_on(&self) {
        let before: Vec<_> = self.0.iter().map(|(_, program)| program.steps()).collect();
        for more in 1..=2 {
            for ((name, program), before) in self.0.iter().zip(&before) {
                eventually(&format!("{name} goes on"), || program.steps() >= before + more);
            }
        }
    }

    /// Nothing has gone wrong.
    #[track_caller]
    fn expect_content(self) {
        for (name, mut program) in self.0 {
            let wrong = program.finish();
            assert!(wrong.is_empty(), "{name}: {}", wrong.join("\n"));
        }
    }
}

#[test]
fn clients_of_many_languages_need_one_address_and_no_password() {
    let password = password();
    let Some(cluster) = Cluster::start(&password) else { return };
    cluster.show_replicas();
    let front = Front::of(&cluster);
    for program in PROGRAMS {
        let clients = Clients::start(&front, program, |_| {});
        clients.go_on();
        clients.expect_content();
    }
    // Those that read from replicas did.
    for replica in cluster.known().iter().filter(|node| !node.is_primary) {
        let node = cluster.nodes.iter().find(|node| node.address() == replica.address).expect("a node");
        assert!(node.calls(&password, "get") > 0, "{} was read from", replica.address);
    }
}

#[test]
fn redis_py_shares_upstreams_of_every_node() {
    let password = password();
    let Some(cluster) = Cluster::start(&password) else { return };
    cluster.show_replicas();
    let (launch, at) = launch(&cluster.target(), &password);
    let front = Front::start((launch.variable("REDIS_SHARE", "2"), at));
    for program in ["redis_py.py", "redis_py_async.py"] {
        let clients = Clients::start(&front, program, |_| {});
        clients.go_on();
        clients.expect_content();
    }
}

#[test]
fn tls_on_both_sides_leads_to_every_node() {
    let (password, authority) = (password(), Authority::new("The authority"));
    let Some(cluster) = Cluster::start_over_tls(&authority, &password) else { return };
    cluster.show_replicas();
    let (launch, at) = launch(&cluster.target(), &password);
    let launch = launch
        .variable("REDIS_TLS_CA_FILE", authority.file())
        .variable("REDIS_TLS_SERVER_NAME", SERVER_NAME)
        .listen_tls("REDIS", &authority.issue(&[&at.to_string()]));
    let front = Front::start((launch, at));
    let trust = |command: &mut Command| {
        // redis-py reads the system's authorities again for every connection, which takes its time.
        command.env("CA_FILE", authority.file()).env("SSL_CERT_FILE", authority.file());
    };
    for program in PROGRAMS {
        let clients = Clients::start(&front, program, trust);
        clients.go_on();
        clients.expect_content();
    }
    // No node was spoken to without TLS.
    for node in &cluster.nodes {
        let mut administrator = node.administrator(&password);
        let list: String =
            redis::cmd("CLIENT").arg(&["LIST", "TYPE", "normal"]).query(&mut administrator).expect("a list");
        let plain = format!(" laddr={} ", node.address());
        assert_eq!(list.lines().filter(|line| line.contains(&plain)).count(), 1, "{list}");
    }
}

/// A network from which this machine has one address, and nothing else is there.
struct Apart {
    network: Network,
    gateway: Ipv4Addr,
}

impl Apart {
    fn new() -> Option<Self> {
        let network = Network::new()?;
        // The range is for tests of networks (RFC 2544).
        let [low, high, ..] = random().to_le_bytes();
        let [gateway, inside] = [1, 2].map(|last| Ipv4Addr::new(198, 18 + high % 2, low, high & 0xfc | last));
        let name = format!("amb{:x}", u32::from(gateway));
        network.ip(&["link", "add", &name, "type", "veth", "peer", "name", "outside", "netns", &network.0]);
        network.ip(&["addr", "add", &format!("{gateway}/30"), "dev", &name]);
        network.ip(&["link", "set", &name, "up"]);
        network.ip(&["-n", &network.0, "addr", "add", &format!("{inside}/30"), "dev", "outside"]);
        network.ip(&["-n", &network.0, "link", "set", "outside", "up"]);
        Some(Self { network, gateway })
    }

    /// The same command, in that network.
    fn place(&self, command: &mut Command) {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.network.0]).arg(command.get_program()).args(command.get_args());
        *command = inside;
    }
}

#[test]
fn who_can_reach_nothing_but_the_ambassador_follows_a_failover() {
    let password = password();
    let Some(apart) = Apart::new() else { return };
    let Some(mut cluster) = Cluster::start(&password) else { return };
    cluster.show_replicas();
    let (launch, _) = launch(&cluster.target(), &password);
    let at = apart.gateway;
    let front = Front::start((launch.variable("REDIS_LISTEN", format!("{at}:0")), at));
    let seed = cluster.nodes[0].address();
    let mut ping = redis_cli_at(seed);
    apart.place(ping.arg("PING"));
    let done = ping.output().expect("redis-cli runs");
    assert!(!done.status.success(), "a node can be reached");
    let programs = ["redis_py.py", "redis_py_async.py"];
    let start = || programs.map(|program| Clients::start(&front, program, |command| apart.place(command)));
    let clients = start();
    let go_on = |clients: &[Clients]| clients.iter().for_each(Clients::go_on);
    go_on(&clients);
    for node in cluster.known().iter().filter(|node| !node.is_primary) {
        let replica = cluster.nodes.iter().find(|own| own.address() == node.address).expect("a node");
        let mut administrator = replica.administrator(&password);
        redis::cmd("CLUSTER").arg("FAILOVER").exec(&mut administrator).expect("CLUSTER FAILOVER");
        go_on(&clients);
    }
    clients.into_iter().for_each(Clients::expect_content);
    cluster.settle();
    // Until another one has taken over, who asks for what a dead one served may have an error.
    let clients = start();
    go_on(&clients);
    let killed = cluster.serving("a");
    cluster.at(killed).stop();
    eventually("another one serves", || {
        cluster.known().iter().filter(|node| node.has_slots() && node.is_primary).count() == 3
    });
    go_on(&clients);
}

fn redis_cli_at(address: SocketAddr) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-c", "-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `redis-cli -c` prints for these lines, but for where it is led; that is one of our listeners.
#[track_caller]
fn redis_cli(front: &Front, address: SocketAddr, lines: &[String]) -> Vec<String> {
    let mut program = redis_cli_at(address).spawn().expect("redis-cli runs");
    let mut input = program.stdin.take().expect("a pipe");
    input.write_all((lines.join("\n") + "\n").as_bytes()).expect("redis-cli reads");
    drop(input);
    let done = program.wait_with_output().expect("redis-cli ends");
    let said = String::from_utf8([done.stdout, done.stderr].concat()).expect("text");
    let (led, said): (Vec<_>, Vec<_>) = said.lines().partition(|line| line.starts_with("-> Redirected"));
    let ours = format!(" {}:{}", front.at, FIRST / 100);
    assert!(led.iter().all(|line| line.contains(&ours)), "{led:#?}");
    said.into_iter().map(str::to_owned).collect()
}

#[test]
fn redis_cli_follows_redirections_to_our_listeners() {
    let password = password();
    let Some(cluster) = Cluster::start(&password) else { return };
    if command_is_missing("redis-cli") {
        return;
    }
    let front = Front::of(&cluster);
    front.knows(6);
    let address = front.ambassador.address("redis:6379");
    let keys = 0..200;
    let lines = |command: &dyn Fn(usize) -> String| keys.clone().map(command).collect::<Vec<_>>();
    let values = lines(&|key| key.to_string());
    let said = redis_cli(&front, address, &lines(&|key| format!("SET key:{key} {key}")));
    assert_eq!(said, vec!["OK"; keys.len()]);
    let gets = lines(&|key| format!("GET key:{key}"));
    assert_eq!(redis_cli(&front, address, &gets), values);
    // A transaction is begun where its slot is.
    let transaction = ["SET {t}one 1", "MULTI", "INCR {t}one", "INCR {t}two", "EXEC"];
    let said = redis_cli(&front, address, &transaction.map(str::to_owned));
    assert_eq!(said, ["OK", "OK", "QUEUED", "QUEUED", "2", "1"]);
    // Who is led to a channel of any slot hears what is said there.
    for channel in ["a", "b", "c"] {
        let mut subscriber =
            Running(redis_cli_at(address).args(["SSUBSCRIBE", channel]).spawn().expect("redis-cli runs"));
        let mut heard = BufReader::new(subscriber.0.stdout.take().expect("a pipe"))
            .lines()
            .map(|line| line.expect("a line"));
        assert_eq!(heard.by_ref().take(3).collect::<Vec<_>>(), ["ssubscribe", channel, "1"]);
        // How many have heard it at the primary: this one may be at a replica.
        redis_cli(&front, address, &[format!("SPUBLISH {channel} word")]);
        assert_eq!(heard.take(3).collect::<Vec<_>>(), ["smessage", channel, "word"]);
    }
    // A replica serves who asks for that.
    for node in cluster.known().iter().filter(|node| !node.is_primary) {
        let replica = cluster.nodes.iter().find(|own| own.address() == node.address).expect("a node");
        let mut administrator = replica.administrator(&password);
        redis::cmd("READONLY").exec(&mut administrator).expect("READONLY");
        let served: Vec<_> = keys
            .clone()
            .filter(|key| redis::cmd("GET").arg(format!("key:{key}")).exec(&mut administrator).is_ok())
            .collect();
        let before = replica.calls(&password, "get");
        let lines: Vec<_> = served.iter().map(|key| format!("GET key:{key}")).collect();
        let listener = SocketAddr::new(front.at.into(), front.number_of(node.address));
        let said = redis_cli(&front, listener, &[&["READONLY".to_owned()], &lines[..]].concat());
        assert_eq!(said[1..], served.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(replica.calls(&password, "get"), before + served.len());
    }
}
