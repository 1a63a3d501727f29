//! Registries of services that need nothing of ours: Consul, by its SRV records, and etcd, by a file that a script writes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::faults::Running;
use crate::support::{
    Ambassador, Launch, NameServer, Named, command_is_missing, eventually, leave_out, own_address, try_whom,
};

/// All new connections go to this server.
#[track_caller]
fn expect_server(ambassador: &Ambassador, name: &str) {
    let are_there = || (0..4).all(|_| try_whom(&mut ambassador.connect("db:5432")).as_deref() == Some(name));
    eventually("it serves", are_there);
}

/// Consul names the servers that are healthy, each with a name of its own kind, for no time at all.
#[test]
fn consul_is_followed_by_its_srv_records() {
    let dns = NameServer::start();
    dns.ttl(0);
    let servers = ["a", "b"].map(Named::start);
    let healthy = |healthy: &[&Named]| {
        let names: Vec<_> = healthy
            .iter()
            .map(|server| {
                let octets = server.ip().to_string();
                let hex =
                    octets.split('.').map(|octet| format!("{:02x}", octet.parse::<u8>().expect("an octet")));
                (format!("{}.addr.dc1.consul", hex.collect::<String>()), *server)
            })
            .collect();
        for (name, server) in &names {
            dns.addresses(name, &[server.ip()]);
        }
        let services: Vec<_> =
            names.iter().map(|(name, server)| (1, 1, server.address().port(), name.as_str())).collect();
        dns.services("db.service.consul", &services);
    };
    healthy(&[&servers[0]]);
    let ambassador = Launch::plain("unused:1")
        .variable("DB_PORT_5432_TCP", "tcp+srv://db.service.consul")
        .variable("AMBASSADOR_DNS", dns.address().to_string())
        .start();
    expect_server(&ambassador, "a");
    healthy(&[&servers[1]]);
    expect_server(&ambassador, "b");
    // Of a service without a healthy server Consul knows no name.
    healthy(&[]);
    ambassador.wait_for("discovery failed; keeping the last known backends");
    expect_server(&ambassador, "b");
}

/// The script of the documentation follows etcd's keys; while etcd is away the last servers serve.
#[test]
fn etcd_is_followed_by_the_script_of_the_documentation() {
    if command_is_missing("etcd") || command_is_missing("etcdctl") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        leave_out("only root may end a script with all that it has started");
        return;
    }
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/discovery.md");
    let page = fs::read_to_string(pages).expect("a page");
    let script = page.split("```").find(|block| block.contains("etcdctl watch")).expect("a script");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a path of text").to_owned();
    fs::write(path("script"), script.trim_start_matches("sh\n")).expect("a file");
    let [clients, peers] = [(); 2].map(|()| format!("http://{}", own_address()));
    let member = format!("default={peers}");
    let etcd = Running::start(
        "etcd",
        &[
            "--data-dir",
            &path("data"),
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &clients,
            "--listen-peer-urls",
            &peers,
            "--initial-advertise-peer-urls",
            &peers,
            "--initial-cluster",
            &member,
        ],
    );
    let control = |arguments: &[&str]| {
        let done = Command::new("etcdctl").args(["--endpoints", &clients]).args(arguments).output();
        done.expect("etcdctl runs").status.success()
    };
    let servers = ["a", "b"].map(Named::start);
    let [a, b] = servers.each_ref().map(|server| server.address().to_string());
    eventually("etcd serves", || control(&["put", "/services/db/1", &a]));
    let endpoints = format!("ETCDCTL_ENDPOINTS={clients}");
    let backends = path("backends");
    let _script = Running::start(
        "env",
        &[
            &endpoints,
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            &path("script"),
            &backends,
            "/services/db/",
        ],
    );
    eventually("the file is there", || Path::new(&backends).exists());
    let ambassador =
        Launch::plain("unused:1").variable("DB_PORT_5432_TCP", format!("tcp+file://{backends}")).start();
    expect_server(&ambassador, "a");
    assert!(control(&["put", "/services/db/2", &b]) && control(&["del", "/services/db/1"]));
    expect_server(&ambassador, "b");
    drop(etcd);
    expect_server(&ambassador, "b");
}
