//! The ambassador's image in real Docker, with real Redis servers and clients that know no password.

mod cluster;
mod deployments;
mod discovery;
mod docker;
mod documents;
mod podman;
mod roles;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command};

use docker::{Container, Images, Network, Recipe, docker, eventually, skipped};
use roles::{Ambassador, Client, Redis, assert_no_password, in_a_url, new_password};

/// A Redis container that wants a password answers PONG to a client that knows none.
#[test]
fn a_client_without_a_password_reads_pong() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let network = Network::create("network");
    let _redis = Redis::on(&network, "database", &images, &password);
    let _ambassador = Ambassador::start(
        Ambassador::recipe(&images)
            .on(&network, "redis")
            .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
            .env("REDIS_AUTH", &password),
    );
    let client = Client::on(&network, &images);

    assert_eq!(client.redis(&["PING"]), "PONG");
    // So it is the ambassador's doing.
    let direct = client.container.run(&["redis-cli", "-h", "database", "PING"]);
    assert!(direct.starts_with("NOAUTH"), "{direct}");
}

/// `--link` and the file with the password are all that it needs: the rest is in the variables that Docker sets.
#[test]
fn the_variables_that_docker_sets_for_a_link_are_enough() {
    let Some(images) = Images::make() else { return };
    if !docker_sets_link_variables() {
        return;
    }
    let password = new_password();
    // Docker hands this one on to whoever links this container, as REDIS_ENV_CACHE_PORT_11211_TCP.
    let recipe = Redis::recipe(&images, &password).env("CACHE_PORT_11211_TCP", "tcp://192.0.2.1:11211");
    let redis = Redis::start(recipe, &password);
    let ambassador = Ambassador::start(linked(&images, &redis, &password));
    let client = Client::start(
        Recipe::of(&images.client).options(&["--link", &format!("{}:redis", ambassador.container.id)]),
    );

    assert_eq!(client.redis(&["PING"]), "PONG");
    // And its own client is told of it in the same way, of nothing but the link.
    let dials = "exec redis-cli -h $REDIS_PORT_6379_TCP_ADDR -p $REDIS_PORT_6379_TCP_PORT PING";
    assert_eq!(client.container.run(&["sh", "-c", dials]), "PONG");
    let variables = client.container.run(&["env"]);
    let ports = variables.lines().filter(|line| line.starts_with("REDIS_PORT_") && line.contains("_TCP="));
    assert_eq!(ports.count(), 1, "{variables}");
    let listening = ambassador.events("listening");
    assert_eq!(listening.len(), 1, "{listening:?}");
    assert_eq!(listening[0]["link"], "redis:6379");
}

/// A linked Redis that comes back with another address is found there, though the variables still say the old one.
#[test]
fn a_linked_redis_is_found_again_at_its_new_address() {
    let Some(images) = Images::make() else { return };
    if !docker_sets_link_variables() {
        return;
    }
    let password = new_password();
    let redis = Redis::start(Redis::recipe(&images, &password), &password);
    let ambassador = Ambassador::start(linked(&images, &redis, &password));
    let client = Client::start(
        Recipe::of(&images.client).options(&["--link", &format!("{}:redis", ambassador.container.id)]),
    );
    assert_eq!(client.redis(&["PING"]), "PONG");

    let old = redis.address();
    let mut others = Vec::new();
    eventually("Redis gets another address", || {
        docker(["stop", "--time", "0", redis.id()]);
        // Somebody else takes its address meanwhile.
        others.push(Client::start(Recipe::of(&images.client)));
        docker(["start", redis.id()]);
        (redis.address() != old).then_some(())
    });
    redis.wait();

    assert_eq!(client.redis(&["PING"]), "PONG");
}

/// Without `--link`: the variable that Docker would have set, written by hand, and a mounted secret.
#[test]
fn a_variable_and_a_mounted_secret_are_enough() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let network = Network::create("network");
    let _redis = Redis::on(&network, "database", &images, &password);
    let _ambassador = Ambassador::start(
        Ambassador::recipe(&images)
            .on(&network, "redis")
            .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
            .env("REDIS_AUTH_FILE", "/run/secrets/redis")
            .file("/run/secrets/redis", format!("{password}\n")),
    );
    let client = Client::on(&network, &images);

    assert_eq!(client.redis(&["PING"]), "PONG");
}

/// A client that comes while Redis is restarted waits for it, though Docker's DNS has forgotten its name meanwhile.
#[test]
fn a_client_waits_for_a_redis_that_is_restarted() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let network = Network::create("network");
    let redis = Redis::on(&network, "database", &images, &password);
    let ambassador = Ambassador::start(
        Ambassador::recipe(&images)
            .on(&network, "redis")
            .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
            .env("REDIS_AUTH", &password)
            .env("REDIS_CONNECT_TIMEOUT", "60s")
            .env("AMBASSADOR_LOG", "debug"),
    );
    let client = Client::on(&network, &images);

    docker(["stop", "--time", "0", redis.id()]);
    let ping = client.container.converse(&["redis-cli", "-h", "redis", "PING"]);
    eventually("the client waits", || ambassador.events("dial retried").pop());
    docker(["start", redis.id()]);
    let answer = ping.wait_with_output().expect("redis-cli ends");
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "PONG");
}

/// A network that the running ambassador is connected to serves at once: names are known there that were not before.
#[test]
fn a_network_that_is_connected_later_is_used() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let network = Network::create("network");
    let _redis = Redis::on(&network, "database", &images, &password);
    let client = Client::on(&network, &images);
    let ambassador = Ambassador::start(
        Ambassador::recipe(&images)
            .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
            .env("REDIS_AUTH", &password),
    );

    network.connect(&ambassador.container, "redis");
    assert_eq!(client.redis(&["PING"]), "PONG");
}

/// Staging and production have their own Redis and their own password; the client and its command are the same.
#[test]
fn staging_and_production_need_no_change_in_the_client() {
    let Some(images) = Images::make() else { return };
    let set_up = |environment| {
        let password = new_password();
        let network = Network::create(environment);
        let redis = Redis::on(&network, "database", &images, &password);
        redis.command(&["SET", "environment", environment]);
        let ambassador = Ambassador::start(
            Ambassador::recipe(&images)
                .on(&network, "redis")
                .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
                .env("REDIS_AUTH_FILE", "/run/secrets/redis")
                .file("/run/secrets/redis", password),
        );
        // In the order in which they go: a network goes last.
        (Client::on(&network, &images), ambassador, redis, network)
    };
    let environments = ["staging", "production"];
    let command = ["GET", "environment"];

    assert_eq!(environments.map(set_up).map(|(client, ..)| client.redis(&command)), environments);
}

/// Two ambassadors carry a client across hosts: its own one has nothing but the other's address, the other one has the password.
#[test]
fn two_ambassadors_carry_a_client_from_host_to_host() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let client_host = Network::create("client-host");
    let between = Network::create("between");
    let redis_host = Network::create("redis-host");
    let redis = Redis::on(&redis_host, "database", &images, &password);
    redis.command(&["SET", "where", "the other host"]);
    let _far = Ambassador::start(
        Ambassador::recipe(&images)
            .on(&redis_host, "ambassador")
            .on(&between, "far")
            .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
            .env("REDIS_AUTH_FILE", "/run/secrets/redis")
            .file("/run/secrets/redis", password),
    );
    let _near = Ambassador::start(
        Ambassador::recipe(&images)
            .on(&client_host, "redis")
            .on(&between, "near")
            .env("REDIS_PORT_6379_TCP", "tcp://far:6379"),
    );
    let client = Client::on(&client_host, &images);

    assert_eq!(client.redis(&["GET", "where"]), "the other host");
}

/// One ambassador serves a Redis link and a plain tunnel, and the tunnel's target gets the client's bytes and no others.
#[test]
fn a_plain_tunnel_beside_a_redis_link_carries_only_the_clients_bytes() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let network = Network::create("network");
    let _redis = Redis::on(&network, "database", &images, &password);
    let _echo = echo(&network, &images);
    let _ambassador = Ambassador::start(redis_and_echo(&network, &images, &password));
    let client = Client::on(&network, &images);

    let sent = "*2\r\n$4\r\nAUTH\r\n$4\r\nmine\r\n\0 and no line end";
    let mut socat = client.container.converse(&["socat", "-t", "30", "-", "TCP:redis:7"]);
    // Dropped, and so the end of the stream: what comes back after it has passed a half-closed tunnel.
    socat.stdin.take().expect("piped").write_all(sent.as_bytes()).expect("socat reads");
    let output = socat.wait_with_output().expect("socat ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), sent, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(client.redis(&["PING"]), "PONG");
}

/// `docker stop` with two seconds' grace is a clean end, with connections open: one that was never used, two that were.
#[test]
fn docker_stop_ends_within_two_seconds_with_idle_connections_open() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let network = Network::create("network");
    let redis = Redis::on(&network, "database", &images, &password);
    let _echo = echo(&network, &images);
    let ambassador = Ambassador::start(redis_and_echo(&network, &images, &password));
    let client = Client::on(&network, &images);
    let connections = [
        Connection::open(&client, "TCP:redis:6379"),
        Connection::open(&client, "TCP:redis:6379").exchange("PING\r\n", "+PONG\r\n"),
        Connection::open(&client, "TCP:redis:7").exchange("hello\r\n", "hello\r\n"),
    ];
    // The two that came through the ambassador, and the one that asks.
    eventually("Redis has both connections", || {
        (redis.command(&["CLIENT", "LIST", "TYPE", "normal"]).lines().count() == 3).then_some(())
    });

    // What has not ended by itself after that, Docker kills, and the exit code is 137.
    docker(["stop", "--time", "2", &ambassador.container.id]);
    assert_eq!(ambassador.container.exit_code(), "0");
    assert_eq!(ambassador.events("stopped").len(), 1);
    for connection in connections {
        connection.assert_clean_end();
    }
}

/// It needs no capability, no file to write and no root.
#[test]
fn a_read_only_file_system_and_no_capability_are_enough() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let network = Network::create("network");
    let _redis = Redis::on(&network, "database", &images, &password);
    let ambassador = Ambassador::start(
        Ambassador::recipe(&images)
            // Nor any other process than its own.
            .options(&[
                "--read-only",
                "--cap-drop",
                "ALL",
                "--security-opt",
                "no-new-privileges",
                "--no-healthcheck",
            ])
            .on(&network, "redis")
            .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
            .env("REDIS_AUTH_FILE", "/run/secrets/redis")
            .file("/run/secrets/redis", password),
    );
    let client = Client::on(&network, &images);

    assert_eq!(client.redis(&["PING"]), "PONG");
    let processes = docker(["top", &ambassador.container.id, "-o", "pid,uid,gid,args"]);
    let processes: Vec<Vec<_>> =
        processes.lines().skip(1).map(|line| line.split_whitespace().skip(1).collect()).collect();
    assert_eq!(processes, [["65532", "65532", "/redis-ambassador"]]);
    docker(["stop", "--time", "2", &ambassador.container.id]);
    assert_eq!(ambassador.container.exit_code(), "0");
}

/// At most 10 MB, a user in numbers who is not root, nothing but the program and the authorities' certificates, and labels that
/// tell the version.
#[test]
fn the_image_is_small_and_its_user_is_not_root() {
    let Some(images) = Images::make() else { return };
    let inspect = |format: &str| docker(["image", "inspect", "--format", format, &images.ambassador]);

    let size: u64 = inspect("{{.Size}}").parse().expect("a number");
    assert!(size <= 10_000_000, "{size} bytes");
    assert_eq!(inspect("{{.Config.User}}"), "65532:65532");
    assert_eq!(inspect("{{json .Config.Entrypoint}}"), r#"["/redis-ambassador"]"#);
    assert_eq!(inspect("{{json .Config.ExposedPorts}}"), r#"{"6379/tcp":{}}"#);
    let version = r#"{{index .Config.Labels "org.opencontainers.image.version"}}"#;
    assert_eq!(inspect(version), env!("CARGO_PKG_VERSION"));

    let container = Recipe::of(&images.ambassador).command(&["--version"]).start();
    assert_eq!(container.exit_code(), "0");
    assert_eq!(container.printed().trim(), concat!("redis-ambassador ", env!("CARGO_PKG_VERSION")));
    let certificates = docker(["cp", &format!("{}:/etc/ssl/certs/ca-certificates.crt", container.id), "-"]);
    assert!(certificates.contains("-----BEGIN CERTIFICATE-----"));
    let listed = Command::new("sh")
        .args(["-c", "docker export \"$0\" | tar --list", &container.id])
        .output()
        .expect("a shell runs");
    let listed = String::from_utf8(listed.stdout).expect("a list of files");
    // What Docker puts into every container.
    let of_docker = [".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"];
    let mut files: Vec<_> =
        listed.lines().filter(|path| !path.ends_with('/') && !of_docker.contains(path)).collect();
    files.sort_unstable();
    assert_eq!(files, ["etc/ssl/certs/ca-certificates.crt", "redis-ambassador"]);
}

/// A checkout with passwords and keys in it, as the examples put them there: no build sees them.
#[test]
fn no_secret_of_a_checkout_gets_into_an_image() {
    let Some(_images) = Images::make() else { return };
    let checkout = tempfile::tempdir().expect("a folder");
    let write = |path: &str, content: &str| {
        let path = checkout.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    };
    write(".dockerignore", include_str!("../../.dockerignore"));
    write("Dockerfile", "FROM scratch\nCOPY . /\n");
    for path in ["secrets/redis", "deploy/secrets/redis", "src/secrets/new/server.key", "src/main.rs"] {
        write(path, "x");
    }
    let image = docker(["build", "--quiet", &checkout.path().display().to_string()]);
    let container = docker(["create", &image, "nothing"]);
    let listed = Command::new("sh")
        .args(["-c", "docker export \"$0\" | tar --list", &container])
        .output()
        .expect("a shell runs");
    docker(["rm", &container]);
    docker(["rmi", &image]);
    let listed = String::from_utf8(listed.stdout).expect("a list of files");
    assert!(listed.contains("src/main.rs") && !listed.contains("secrets"), "{listed}");
}

/// Whatever goes wrong and however much it is asked to tell, it never prints a password, and never tells one to a client.
#[test]
fn no_password_is_ever_printed() {
    let Some(images) = Images::make() else { return };
    let (right, wrong, clients) = (new_password(), new_password(), new_password());
    let network = Network::create("network");
    let _redis = Redis::on(&network, "database", &images, &right);
    let client = Client::on(&network, &images);
    let recipe = || Ambassador::recipe(&images).env("AMBASSADOR_LOG", "trace").on(&network, "redis");

    let from_url = |password| format!("redis://:{}@database", in_a_url(password));
    for recipe in [
        recipe().env("REDIS_PORT_6379_TCP", from_url(&wrong)),
        recipe().env("REDIS_PORT_6379_TCP", "tcp://database:6379").env("REDIS_AUTH", &wrong),
        recipe()
            .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
            .env("REDIS_AUTH_FILE", "/run/secrets/redis")
            .file("/run/secrets/redis", &wrong),
    ] {
        let ambassador = Ambassador::start(recipe);
        let answer = client.redis(&["PING"]);
        assert!(answer.starts_with("ERR redis-ambassador: redis:6379: "), "{answer}");
        assert!(answer.contains("WRONGPASS"), "{answer}");
        assert_no_password(&answer);
        let failed = eventually("the failure is logged", || ambassador.events("connection failed").pop());
        assert_eq!(failed["stage"], "auth", "{failed}");
    }

    {
        let ambassador = Ambassador::start(recipe().env("REDIS_PORT_6379_TCP", from_url(&right)));
        assert_eq!(client.redis(&["PING"]), "PONG");
        let answer =
            client.container.try_run(&[("REDISCLI_AUTH", &clients)], &["redis-cli", "-h", "redis", "PING"]);
        assert!(String::from_utf8_lossy(&answer.stderr).contains("WRONGPASS"), "{answer:?}");
        eventually("both connections are logged", || {
            (ambassador.events("connection closed").len() == 2).then_some(())
        });
    }

    for (command, expected) in
        [(&["links"][..], "database"), (&["links", "--format", "json"], r#""auth":"url""#)]
    {
        let links = recipe().env("REDIS_PORT_6379_TCP", from_url(&right)).command(command).start();
        assert_eq!(links.exit_code(), "0", "{}", links.printed());
        let printed = links.printed();
        assert!(printed.replace(": ", ":").contains(expected), "{printed}");
        assert_no_password(&printed);
    }

    let mistaken = recipe()
        .env("REDIS_PORT_6379_TCP", from_url(&right))
        .env("REDIS_AUTH", &wrong)
        .env("REDIS_PASSWORD", &clients)
        .start();
    assert_eq!(mistaken.exit_code(), "2");
    let printed = mistaken.printed();
    assert!(printed.contains("REDIS_AUTH: "), "{printed}");
    assert_no_password(&printed);
}

/// The image is built by the toolchain that the sources are developed with.
#[test]
fn the_dockerfile_builds_with_the_pinned_toolchain() {
    let toolchain = include_str!("../../rust-toolchain.toml");
    let dockerfile = include_str!("../../Dockerfile");
    let version = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).expect("a channel");
    let image = format!("FROM rust:{}-", version.trim_matches('"'));
    assert!(dockerfile.lines().any(|line| line.starts_with(&image)), "{image}");
}

/// Since version 29 Docker sets none, unless told to.
fn docker_sets_link_variables() -> bool {
    let version = docker(["version", "--format", "{{.Server.Version}}"]);
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok()).expect("a version");
    if major >= 29 {
        skipped(&format!("Docker {version} sets no variables for a link"));
    }
    major < 29
}

/// An ambassador that is told by Docker where its Redis is.
fn linked<'a>(images: &'a Images, redis: &Redis, password: &str) -> Recipe<'a> {
    Ambassador::recipe(images)
        .options(&["--link", &format!("{}:redis", redis.id())])
        .env("REDIS_AUTH_FILE", "/run/secrets/redis")
        .file("/run/secrets/redis", password)
}

/// A server that sends back what it gets.
fn echo(network: &Network, images: &Images) -> Container {
    let echo = Recipe::of(&images.client)
        .on(network, "echo")
        .command(&["socat", "TCP-LISTEN:7,fork,reuseaddr", "EXEC:cat"])
        .start();
    eventually("the echo server listens", || {
        let probe = echo.try_run(&[], &["socat", "-u", "OPEN:/dev/null", "TCP:localhost:7"]);
        probe.status.success().then_some(())
    });
    echo
}

fn redis_and_echo<'a>(network: &'a Network, images: &'a Images, password: &str) -> Recipe<'a> {
    Ambassador::recipe(images)
        .on(network, "redis")
        .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
        .env("REDIS_AUTH_FILE", "/run/secrets/redis")
        .file("/run/secrets/redis", password)
        .env("ECHO_PORT_7_TCP", "tcp://echo:7")
}

/// A client's connection that stays open.
struct Connection {
    socat: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Connection {
    fn open(client: &Client, address: &str) -> Self {
        // One that is forgotten ends by itself: the test fails instead of waiting for ever.
        let mut socat = client.container.converse(&["socat", "-T", "60", "-", address]);
        let to = socat.stdin.take().expect("piped");
        let from = BufReader::new(socat.stdout.take().expect("piped"));
        Self { socat, to, from }
    }

    fn exchange(mut self, line: &str, answer: &str) -> Self {
        self.to.write_all(line.as_bytes()).expect("socat reads");
        let mut read = String::new();
        self.from.read_line(&mut read).expect("socat writes");
        assert_eq!(read, answer);
        self
    }

    /// An end of stream and no reset, which would be an error of socat's.
    fn assert_clean_end(mut self) {
        let mut rest = String::new();
        self.from.read_to_string(&mut rest).expect("socat writes");
        assert_eq!(rest, "");
        let output = self.socat.wait_with_output().expect("socat ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
