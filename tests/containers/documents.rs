//! The commands in the documents, run as they stand there: only images and names are the tests' own.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::Connection;
use crate::docker::{Images, Network, clean_up, docker, eventually, output, unique};
use crate::roles::{Client, Redis, assert_no_password, new_password};

/// The first block of commands in a page that has these words in it.
pub(crate) fn example(page: &str, words: &str) -> String {
    let text = fs::read_to_string(format!("{}/{page}", env!("CARGO_MANIFEST_DIR"))).expect(page);
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("a first part"));
    blocks.into_iter().find(|block| block.contains(words)).expect(words).to_owned()
}

/// From a clone to PONG: the first thing that anyone tries.
#[test]
fn the_readme_leads_to_pong() {
    let Some(images) = Images::make() else { return };
    let network = Network::create("network");
    let mut shell = Shell::new(&images, &[("app", &network)]);
    // The image is there, and so is the network.
    let commands = example("README.md", "docker run").replace("make image ", ": ");
    shell.run_until_pong(&commands);
}

/// `docker run` in front of a Redis elsewhere.
#[test]
fn the_page_about_docker_leads_to_pong() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let network = Network::create("network");
    let _redis = Redis::on(&network, "redis.example.com", &images, &password);
    let mut shell = Shell::new(&images, &[("app", &network)]);
    shell.secret(&password);
    shell.run_until_pong(&example("docs/deploy/docker.md", "docker run"));
}

/// The host's own programs reach a port that is published for them, and nobody else does.
#[test]
fn a_published_port_leads_the_host_to_pong_and_no_other() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    // Docker publishes no port of a network without a way out of the machine.
    let redis = Redis::start(Redis::recipe(&images, &password), &password);
    let mut shell = Shell::new(&images, &[]);
    shell.secret(&password);
    let commands = example("docs/deploy/docker.md", "--publish ");
    assert!(commands.contains("--publish 127.0.0.1:6379:6379"), "{commands}");
    // Any port that is free; and there are no names on Docker's own bridge.
    let commands = commands.replace("127.0.0.1:6379:6379", "127.0.0.1::6379");
    shell.run(&commands.replace("redis.example.com", &redis.address()));
    let published = docker(["port", &shell.name("redis")]);
    let port =
        published.strip_prefix("6379/tcp -> 127.0.0.1:").expect("one address, which is the host's own");
    eventually("a program of the host reads PONG", || {
        let answer = Command::new("redis-cli").args(["-p", port, "ping"]).output().expect("redis-cli runs");
        (String::from_utf8_lossy(&answer.stdout).trim() == "PONG").then_some(())
    });
}

/// Certificates by the lines of the page, and two ambassadors that know each other by them. A client without a
/// certificate is turned away by the far one.
#[test]
fn two_hosts_know_each_other_by_the_certificates_of_the_page() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let (app, storage) = (Network::create("app"), Network::create("storage"));
    let _redis = Redis::on(&storage, "redis-server", &images, &password);
    let mut shell = Shell::new(&images, &[("app", &app), ("storage", &storage)]);
    let page = "docs/deploy/two-hosts.md";
    shell.run(&example(page, "deploy/certificates secrets"));
    shell.secret(&password);
    // One machine is both hosts: the far ambassador is on the near network, too, by the name that is dialled.
    shell.run(&example(page, "LISTEN_TLS").replace("--publish 6379:6379", "--name far"));
    docker(["network", "connect", "--alias", "storage.example.com", app.id(), &shell.name("far")]);
    let commands = example(page, "redis-cli");
    let (ping, check) = commands.split_once('\n').expect("two commands");
    shell.run_until_pong(ping);
    // It sees through both: it is Redis that it tells of.
    let checked = shell.run(check);
    assert!(checked.contains("Redis 7") && checked.contains("master"), "{checked}");
    // And it keeps its client where the far one goes and comes back.
    let client = Client::on(&app, &images);
    let stays = Connection::open(&client, "TCP:redis:6379").exchange("PING\r\n", "+PONG\r\n");
    docker(["restart", &shell.name("far")]);
    stays.exchange("PING\r\n", "+PONG\r\n");

    // New pairs serve without a restart, as often as they are made.
    for _ in 0..2 {
        let before = fs::read(shell.folder.path().join("secrets/server.pem")).expect("a file");
        shell.run(&example(page, "--authority"));
        assert_ne!(fs::read(shell.folder.path().join("secrets/server.pem")).expect("a file"), before);
        shell.run_until_pong(ping);
    }

    let stranger = "docker run --rm --network app redis:7 redis-cli -h storage.example.com ping";
    let answer = shell.try_run(stranger);
    assert_ne!(String::from_utf8_lossy(&answer.stdout).trim(), "PONG", "{answer:?}");
}

/// Runs commands of a page in a folder of its own. Their containers are gone when it is.
struct Shell<'a> {
    images: &'a Images,
    networks: Vec<(&'a str, &'a Network)>,
    folder: TempDir,
    suffix: String,
    containers: Vec<String>,
}

impl<'a> Shell<'a> {
    fn new(images: &'a Images, networks: &[(&'a str, &'a Network)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let networks = networks.to_vec();
        Self { images, networks, folder, suffix: unique("example"), containers: Vec::new() }
    }

    /// Puts the password where the pages have it.
    fn secret(&self, password: &str) {
        let folder = self.folder.path().join("secrets");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("redis"), password).expect("a secret");
    }

    /// What a container is called here.
    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.suffix)
    }

    /// The commands with the tests' images, networks and names.
    fn adapted(&mut self, commands: &str) -> String {
        let mut adapted = String::new();
        for line in commands.lines().filter(|line| !line.starts_with("docker network create ")) {
            let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            for at in 0..words.len() {
                let before = if at > 0 { words[at - 1].clone() } else { String::new() };
                let word = words[at].clone();
                words[at] = match (&*before, &*word) {
                    ("--name", name) => {
                        self.containers.push(self.name(name));
                        // Docker's own bridge has no names.
                        let alias = if self.networks.is_empty() {
                            String::new()
                        } else {
                            format!(" --network-alias {name}")
                        };
                        format!("{}{alias}", self.name(name))
                    }
                    ("exec", name) if words[..at].ends_with(&["docker".to_owned(), "exec".to_owned()]) => {
                        self.name(name)
                    }
                    ("--network", name) => {
                        let known = self.networks.iter().find(|(known, _)| *known == name);
                        known.expect("a network of the test").1.id().to_owned()
                    }
                    (_, "deploy/certificates") => {
                        concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/certificates").to_owned()
                    }
                    (_, "redis:7") => self.images.redis.clone(),
                    (_, "redis-ambassador") => self.images.ambassador.clone(),
                    _ => word,
                };
            }
            adapted.push_str(&words.join(" "));
            adapted.push('\n');
        }
        adapted
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-e", "-c", script]).current_dir(self.folder.path());
        command
    }

    fn run(&mut self, commands: &str) -> String {
        let script = self.adapted(commands);
        String::from_utf8_lossy(&output(&mut self.command(&script)).stdout).into_owned()
    }

    fn try_run(&mut self, command: &str) -> Output {
        let script = self.adapted(command);
        self.command(&script).output().expect("a shell")
    }

    /// Runs the commands; the last one is a client's, which is tried again until everything has started.
    fn run_until_pong(&mut self, commands: &str) {
        let (commands, ping) = commands.trim().rsplit_once('\n').unwrap_or(("", commands));
        self.run(commands);
        eventually("the client reads PONG", || {
            let answer = self.try_run(ping);
            (String::from_utf8_lossy(&answer.stdout).trim() == "PONG").then_some(())
        });
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        for name in &self.containers {
            if std::thread::panicking() {
                let logs = Command::new("docker").args(["logs", name]).output();
                eprintln!("{name} printed:\n{logs:?}");
            } else {
                let logs = output(Command::new("docker").args(["logs", name]));
                assert_no_password(&String::from_utf8_lossy(&[logs.stdout, logs.stderr].concat()));
            }
            clean_up(Command::new("docker").args(["rm", "--force", "--volumes", name]));
        }
    }
}
