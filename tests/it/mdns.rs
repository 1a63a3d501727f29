//! Backends that announce themselves in the local network: by Avahi, and by a stranger who lies.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, OpCode};
use hickory_resolver::proto::rr::rdata::{A, PTR, SRV, TXT};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tempfile::TempDir;

use crate::faults::{Network, Running};
use crate::support::{Launch, Named, Peer, command_is_missing, eventually, noise, try_whom, whom};

const SERVICE: &str = "_db._tcp.local.";

/// An ambassador with a network of its own, in which there are three hosts: two at one interface, and one at another.
struct Site {
    home: Network,
    hosts: [Network; 3],
    directory: TempDir,
}

const ADDRESSES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(198, 18, 0, 2), Ipv4Addr::new(198, 18, 0, 3), Ipv4Addr::new(198, 18, 1, 2)];

impl Site {
    fn new() -> Option<Self> {
        let (home, hosts) = (Network::new()?, [Network::new()?, Network::new()?, Network::new()?]);
        let at_home = |arguments: &str| {
            let arguments: Vec<_> = ["-n", &home.0].into_iter().chain(arguments.split(' ')).collect();
            home.ip(&arguments);
        };
        at_home("link add lan type bridge mcast_snooping 0");
        for (number, host) in hosts.iter().enumerate() {
            at_home(&format!("link add host{number} type veth peer name home netns {}", host.0));
            at_home(&format!("link set host{number} up"));
            let address = format!("{}/24", ADDRESSES[number]);
            home.ip(&["-n", &host.0, "addr", "add", &address, "dev", "home"]);
            home.ip(&["-n", &host.0, "link", "set", "home", "up"]);
            home.ip(&["-n", &host.0, "route", "add", "default", "dev", "home"]);
        }
        at_home("link set host0 master lan");
        at_home("link set host1 master lan");
        at_home("addr add 198.18.0.1/24 dev lan");
        at_home("addr add 198.18.1.1/24 dev host2");
        at_home("link set lan up");
        Some(Self { home, hosts, directory: TempDir::new().expect("a temporary directory") })
    }

    /// A server at one of the hosts, which nobody knows of yet.
    fn server(&self, host: usize, name: &str) -> Named {
        self.at(host, || Named::at((ADDRESSES[host], 0).into(), name))
    }

    /// Does something in the network of a host.
    fn at<T: Send>(&self, host: usize, job: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/run/netns/{}", self.hosts[host].0)).expect("a network");
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("a network");
                job()
            });
            inside.join().expect("a job that is done")
        })
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("db.sock")
    }

    fn launch(&self) -> Launch {
        Launch::plain("unused:1")
            .variable("DB_PORT_5432_TCP", "tcp+mdns://_db._tcp")
            .variable("DB_LISTEN", format!("unix:{}", self.socket().display()))
            .variable("DB_CONNECT_TIMEOUT", "1s")
            .under(&["ip", "netns", "exec", &self.home.0])
    }

    /// Those that serve new connections.
    fn serving(&self) -> BTreeSet<String> {
        (0..6).filter_map(|_| try_whom(&mut Peer::connect_unix(&self.socket()))).collect()
    }

    #[track_caller]
    fn expect_serving(&self, names: &[&str]) {
        let names: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
        eventually("those serve", || self.serving() == names);
    }
}

/// Debian's Avahi at a host, with a file for each service that it announces.
struct Avahi {
    services: PathBuf,
    _running: Running,
}

impl Avahi {
    fn start(site: &Site, host: usize) -> Option<Self> {
        if command_is_missing("avahi-daemon") {
            return None;
        }
        let directory = site.directory.path().join(host.to_string());
        let services = directory.join("services");
        fs::create_dir_all(&services).expect("a folder");
        let configuration = directory.join("avahi.conf");
        let lines = format!("[server]\nhost-name=host{host}\nenable-dbus=no\n");
        fs::write(&configuration, lines).expect("a file");
        let script = "mount --bind \"$0\" /etc/avahi/services && mount -t tmpfs none /run && \
                      exec avahi-daemon --no-drop-root --no-chroot --no-rlimits --file \"$1\"";
        let arguments = [
            "netns",
            "exec",
            &site.hosts[host].0,
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            services.to_str().expect("a path of text"),
            configuration.to_str().expect("a path of text"),
        ];
        Some(Self { _running: Running::start("ip", &arguments), services })
    }

    fn announce(&self, name: &str, server: &Named) {
        let service = format!(
            "<service-group><name>{name}</name><service><type>_db._tcp</type><port>{}</port></service>\
             </service-group>",
            server.address().port()
        );
        // Avahi looks when a file has its name.
        let draft = self.services.with_extension("draft");
        fs::write(&draft, service).expect("a file");
        fs::rename(draft, self.services.join(format!("{name}.service"))).expect("a file");
    }

    fn withdraw(&self, name: &str) {
        fs::remove_file(self.services.join(format!("{name}.service"))).expect("a file");
    }
}

/// Servers that Avahi announces are found at every interface, and two of one name, to which Avahi gives another one. One
/// that takes its leave is left within two seconds, one of which the protocol itself waits. When all hosts fall
/// silent, their servers serve on.
#[test]
fn servers_that_announce_themselves_are_followed() {
    let Some(site) = Site::new() else { return };
    let Some(hosts) = [0, 1, 2].map(|host| Avahi::start(&site, host)).into_iter().collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let ambassador = site.launch().start();
    let line = ambassador.wait_for("discovery failed; keeping the last known backends");
    assert_eq!(line["error"], "nobody in the local network announces _db._tcp.local", "{line}");
    let (a, b, c) = (site.server(0, "a"), site.server(1, "b"), site.server(2, "c"));
    hosts[0].announce("one", &a);
    site.expect_serving(&["a"]);
    hosts[1].announce("one", &b);
    hosts[2].announce("another", &c);
    site.expect_serving(&["a", "b", "c"]);

    let mut client = loop {
        let mut client = Peer::connect_unix(&site.socket());
        if whom(&mut client) == "c" {
            break client;
        }
    };
    let begun = Instant::now();
    hosts[2].withdraw("another");
    site.expect_serving(&["a", "b"]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    client.expect_end();
    let line = ambassador.wait_for("backends changed");
    assert_eq!((&line["reason"], &line["to"]), (&"mdns".into(), &a.address().to_string().into()), "{line}");

    let checked = site.launch().without("DB_CONNECT_TIMEOUT").argument("check").finish();
    for server in [&a, &b] {
        assert!(checked.stdout.contains(&server.address().to_string()), "{}", checked.stdout);
    }
    hosts[1].withdraw("one");
    site.expect_serving(&["a"]);
    drop(hosts);
    site.expect_serving(&["a"]);
}

/// A name belongs to a server within its network: two of one name at two interfaces are two, and the leave of one is not
/// that of the other. Interfaces are listened at when they come, and their servers left when they go.
#[test]
fn servers_of_one_name_at_two_interfaces_are_two() {
    let Some(site) = Site::new() else { return };
    let Some(hosts) = [0, 2].map(|host| Avahi::start(&site, host)).into_iter().collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let (a, c) = (site.server(0, "a"), site.server(2, "c"));
    hosts[0].announce("one", &a);
    hosts[1].announce("one", &c);
    let ambassador = site.launch().start();
    site.expect_serving(&["a", "c"]);
    hosts[1].withdraw("one");
    site.expect_serving(&["a"]);
    hosts[1].announce("one", &c);
    site.expect_serving(&["a", "c"]);
    let interface = |state: &str| site.home.ip(&["-n", &site.home.0, "link", "set", "host2", state]);
    interface("down");
    site.expect_serving(&["a"]);
    interface("up");
    site.expect_serving(&["a", "c"]);
    let failures = ambassador.logged(|line| line["message"] == "discovery recovered");
    assert!(failures.len() <= 1, "{failures:?}");
}

/// As many places as are listened at are told to nobody; one more is told, and when it came later too.
#[test]
fn more_places_than_are_listened_at_are_told() {
    let Some(home) = Network::new() else { return };
    let no_ipv6 = "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6";
    home.ip(&["netns", "exec", &home.0, "sh", "-c", no_ipv6]);
    let pair = |number: u8| {
        let ends = [format!("a{number}"), format!("b{number}")];
        home.ip(&["-n", &home.0, "link", "add", &ends[0], "type", "veth", "peer", "name", &ends[1]]);
        for (end, network) in ends.iter().zip([18, 19]) {
            let address = format!("198.{network}.{number}.1/24");
            home.ip(&["-n", &home.0, "addr", "add", &address, "dev", end]);
            home.ip(&["-n", &home.0, "link", "set", end, "up"]);
        }
    };
    // The loopback interface has two.
    (0..31).for_each(pair);
    let ambassador = Launch::plain("unused:1")
        .variable("DB_PORT_5432_TCP", "tcp+mdns://_db._tcp")
        .under(&["ip", "netns", "exec", &home.0])
        .start();
    ambassador.wait_for("discovery failed; keeping the last known backends");
    let is_told =
        |line: &Value| line["message"] == "listening at the first 64 places of the local network alone";
    assert!(ambassador.logged(is_told).is_empty());
    pair(31);
    let line = ambassador.wait_for_log("the number of places", is_told);
    assert!(line["places"] == 65 || line["places"] == 66, "{line}");
    assert!(line["remedy"].as_str().is_some_and(|remedy| remedy.contains("fewer interfaces")), "{line}");
}

/// Somebody at a host who says anything.
struct Stranger(UdpSocket);

impl Stranger {
    fn at(site: &Site, host: usize) -> Self {
        Self(site.at(host, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353)).expect("the port of mDNS")))
    }

    fn say(&self, bytes: &[u8]) {
        self.0.send_to(bytes, (Ipv4Addr::new(224, 0, 0, 251), 5353)).expect("a packet");
    }

    /// Announces a service of this name at a port of an address, for so many seconds.
    fn announce(&self, name: &str, address: Ipv4Addr, port: u16, ttl: u32) {
        self.say_all(&announcement(name, address, port, ttl));
    }

    fn say_all(&self, records: &[Record]) {
        let mut message = Message::response(0, OpCode::Query);
        message.metadata.authoritative = true;
        message.add_answers(records.iter().cloned());
        self.say(&message.to_vec().expect("a message"));
    }
}

fn named(text: &str) -> Name {
    Name::from_str(text).expect("a name")
}

/// What there is of a service of this name and its host.
fn announcement(name: &str, address: Ipv4Addr, port: u16, ttl: u32) -> [Record; 4] {
    let (host, full) = (named(&format!("{name}-host.local.")), named(&format!("{name}.{SERVICE}")));
    [
        (named(SERVICE), RData::PTR(PTR(full.clone()))),
        (full.clone(), RData::SRV(SRV::new(0, 0, port, host.clone()))),
        (full, RData::TXT(TXT::new(vec![String::new()]))),
        (host, RData::A(A(address))),
    ]
    .map(|(name, data)| {
        let mut record = Record::from_rdata(name, ttl, data);
        // What was said before is over; not of the list, which all have a part in.
        if !matches!(record.data, RData::PTR(_)) {
            record.dns_class = DNSClass::from(0x8001);
        }
        record
    })
}

/// A server that is heard at two interfaces, with an address at each, is one.
#[test]
fn a_server_that_is_heard_at_two_interfaces_is_one() {
    let Some(site) = Site::new() else { return };
    let ambassador = site.launch().start();
    let a = site.server(0, "a");
    // Nobody is at the other address.
    let own = [(Stranger::at(&site, 0), ADDRESSES[0]), (Stranger::at(&site, 2), ADDRESSES[2])];
    let b = site.server(1, "b");
    eventually("both serve", || {
        for (stranger, address) in &own {
            stranger.announce("one", *address, a.address().port(), 120);
        }
        own[0].0.announce("two", ADDRESSES[1], b.address().port(), 120);
        site.serving().len() == 2
    });
    // The last of those that are known: there are two, and neither is at the other interface.
    let changes = ambassador.logged(|line| line["message"] == "backends changed");
    let known = changes.last().expect("a change")["to"].clone();
    assert_eq!(known, format!("{},{}", a.address(), b.address()));
}

/// Records without an end, which nobody has asked for, are told with the limit. The last list serves on, and memory is bounded.
#[test]
fn records_without_an_end_are_told_and_leave_the_last_servers() {
    let Some(site) = Site::new() else { return };
    let ambassador = site.launch().start();
    let a = site.server(0, "a");
    let stranger = Stranger::at(&site, 0);
    eventually("a serves", || {
        stranger.announce("one", ADDRESSES[0], a.address().port(), 120);
        site.serving().contains("a")
    });
    let is_told = || {
        let told =
            ambassador.logged(|line| line["message"] == "discovery failed; keeping the last known backends");
        told.iter().any(|line| line["error"] == "more than 65536 records are announced in the local network")
    };
    // No faster than the library reads, which does nothing else meanwhile.
    let begun = Instant::now();
    for packet in 1_u32.. {
        let address = |host: u32| {
            Record::from_rdata(named(&format!("{host}.local.")), u32::MAX, RData::A(A(ADDRESSES[1])))
        };
        stranger.say_all(&(packet * 300..packet * 300 + 300).map(address).collect::<Vec<_>>());
        if packet.is_multiple_of(25) && is_told() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_mins(2), "the limit is not told");
        thread::sleep((begun + Duration::from_millis(20) * packet).saturating_duration_since(Instant::now()));
    }
    site.expect_serving(&["a"]);
    println!("{} MiB", ambassador.memory() >> 20);
    assert!(ambassador.memory() < 200 << 20, "{}", ambassador.memory());
}

/// What strangers say in the local network ends nothing: noise is passed over, what can't be dialled is named. A hundred
/// changes a second take little time of the processor, and the last of them is followed.
#[test]
fn strangers_in_the_local_network_end_nothing() {
    let Some(site) = Site::new() else { return };
    let ambassador = site.launch().start();
    let stranger = Stranger::at(&site, 0);
    let servers = ["a", "b"].map(|name| site.server(0, name));
    let announce = |server: &Named, ttl| stranger.announce("one", ADDRESSES[0], server.address().port(), ttl);
    // The first one is heard once the ambassador listens.
    eventually("a serves", || {
        announce(&servers[0], 120);
        site.serving().contains("a")
    });
    for seed in 0..200_u8 {
        stranger.say(&noise(seed.into(), 7 * usize::from(seed)));
    }
    stranger.announce("two", ADDRESSES[0], 0, 120);
    stranger.announce("three", Ipv4Addr::UNSPECIFIED, 1, 120);
    for name in ["two", "three"] {
        ambassador.wait_for_log("it is named", |line| {
            line["message"] == "announcement passed over"
                && line["remedy"].is_string()
                && line["server"].as_str().is_some_and(|server| server.starts_with(name))
        });
    }
    let before = ambassador.processor_ticks();
    let begun = Instant::now();
    for change in 1..=200_u32 {
        announce(&servers[change as usize % 2], 120);
        thread::sleep((begun + Duration::from_millis(10) * change).saturating_duration_since(Instant::now()));
    }
    announce(&servers[1], 120);
    let begun = Instant::now();
    site.expect_serving(&["b"]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let ticks = ambassador.processor_ticks() - before;
    // In two seconds there are 200 of them.
    assert!(ticks < 60, "{ticks} hundredths of a second");
    println!("{ticks} hundredths of a second for 200 changes in two seconds");
    // The last one takes its leave; it may as well be that nothing is heard.
    announce(&servers[1], 0);
    ambassador.wait_for("discovery failed; keeping the last known backends");
    site.expect_serving(&["b"]);
}

/// When all servers have fallen silent, the first one that is heard again is not all there is: the others serve on until they
/// had the time to be heard too.
#[test]
fn who_is_heard_first_after_silence_is_not_alone() {
    let Some(site) = Site::new() else { return };
    let ambassador = site.launch().start();
    let stranger = Stranger::at(&site, 0);
    let servers = ["a", "b"].map(|name| site.server(0, name));
    let announce = |number: usize, ttl| {
        stranger.announce(["one", "two"][number], ADDRESSES[0], servers[number].address().port(), ttl);
    };
    let both = BTreeSet::from(["a", "b"].map(str::to_owned));
    eventually("both serve", || {
        (0..2).for_each(|number| announce(number, 120));
        site.serving() == both
    });
    let count = |message: &str| {
        ambassador.logged(|line| line["message"].as_str().is_some_and(|it| it.starts_with(message))).len()
    };
    for _ in 0..2 {
        let (failed, recovered) = (count("discovery failed"), count("discovery recovered"));
        (0..2).for_each(|number| announce(number, 0));
        eventually("nobody is heard", || count("discovery failed") > failed);
        announce(0, 120);
        // A second is ten times what servers may be apart while some are heard.
        let heard = Instant::now();
        while heard.elapsed() < Duration::from_secs(1) {
            assert_eq!(site.serving(), both);
        }
        announce(1, 120);
        eventually("it has recovered", || count("discovery recovered") > recovered);
        assert_eq!(site.serving(), both);
    }
}
