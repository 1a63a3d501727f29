//! Real Sentinels, with a primary and replicas of their own.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Peer, RedisServer, command_is_missing, eventually, own_address};

/// The name by which the Sentinels know the primary.
pub(crate) const SERVICE: &str = "mymaster";

/// A Sentinel. Killed when dropped.
pub(crate) struct Sentinel {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Sentinel {
    fn start(address: SocketAddr, primary: SocketAddr, password: &str, configuration: &str) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let (ip, port) = (address.ip(), address.port());
        let lines = format!(
            "bind {ip}\nport {port}\ndir {directory}\nprotected-mode no\nlogfile {directory}/sentinel.log\n\
             sentinel announce-ip {ip}\nsentinel monitor {SERVICE} {} {} 2\n\
             sentinel auth-pass {SERVICE} {password}\nsentinel down-after-milliseconds {SERVICE} 1000\n\
             sentinel failover-timeout {SERVICE} 5000\n{configuration}\n",
            primary.ip(),
            primary.port(),
            directory = directory.path().display(),
        );
        let path = directory.path().join("sentinel.conf");
        fs::write(&path, lines).expect("a configuration file");
        let child = Command::new("redis-server")
            .arg(&path)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a Sentinel starts");
        Self { child, address, _directory: directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs a Sentinel command as an administrator.
    fn command(&self, password: Option<&str>, command: &[&str]) -> Option<redis::Value> {
        let user = password.map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{user}{}/", self.address)).expect("a URL");
        let mut connection = client.get_connection().ok()?;
        redis::cmd("SENTINEL").arg(command).query(&mut connection).ok()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three Sentinels, a primary and two replicas that want a password.
pub(crate) struct Quorum {
    pub(crate) sentinels: Vec<Sentinel>,
    pub(crate) servers: Vec<RedisServer>,
    pub(crate) password: String,
    sentinel_password: Option<String>,
}

impl Quorum {
    pub(crate) fn start(password: &str) -> Option<Self> {
        Self::start_with(password, None)
    }

    /// The same, with Sentinels that want a password of their own, which a user `app` has too.
    pub(crate) fn start_with(password: &str, sentinel_password: Option<&str>) -> Option<Self> {
        if command_is_missing("redis-server") {
            return None;
        }
        let mut servers: Vec<RedisServer> = Vec::new();
        for _ in 0..3 {
            let mut configuration =
                format!("requirepass {password}\nmasterauth {password}\nrepl-diskless-sync-delay 0");
            if let Some(primary) = servers.first() {
                let _ = write!(
                    configuration,
                    "\nreplicaof {} {}",
                    primary.address().ip(),
                    primary.address().port()
                );
            }
            servers.push(RedisServer::start_announced(&configuration)?);
        }
        let primary = servers[0].address();
        eventually("replicas that follow", || {
            let mut connection = servers[0].administrator(password);
            let info: String = redis::cmd("INFO").arg("replication").query(&mut connection).expect("INFO");
            info.matches("state=online").count() == 2
        });
        let configuration = sentinel_password.map_or_else(String::new, |password| {
            format!("requirepass {password}\nuser app on >{password} allchannels +@all")
        });
        // One port, so that one name can stand for all.
        let sentinels = loop {
            let port = own_address().port();
            let addresses: Vec<_> = (0..3).map(|_| SocketAddr::new(own_address().ip(), port)).collect();
            if addresses.iter().all(|address| std::net::TcpListener::bind(address).is_ok()) {
                let sentinel = |address| Sentinel::start(address, primary, password, &configuration);
                break addresses.into_iter().map(sentinel).collect::<Vec<_>>();
            }
        };
        let quorum = Self {
            sentinels,
            servers,
            password: password.to_owned(),
            sentinel_password: sentinel_password.map(str::to_owned),
        };
        eventually("Sentinels that know each other and the replicas", || {
            quorum.sentinels.iter().all(|sentinel| {
                let count =
                    |what| match sentinel.command(quorum.sentinel_password.as_deref(), &[what, SERVICE]) {
                        Some(redis::Value::Array(items)) => items.len(),
                        _ => 0,
                    };
                count("SENTINELS") == 2 && count("REPLICAS") == 2
            })
        });
        Some(quorum)
    }

    /// `redis+sentinel://` of all Sentinels.
    pub(crate) fn target(&self) -> String {
        let sentinels: Vec<_> = self.sentinels.iter().map(|sentinel| sentinel.address.to_string()).collect();
        format!("redis+sentinel://{}/{SERVICE}", sentinels.join(","))
    }

    /// The number of the server that this Sentinel holds for the primary.
    pub(crate) fn primary(&self, sentinel: usize) -> Option<usize> {
        let sentinel = &self.sentinels[sentinel];
        let answer =
            sentinel.command(self.sentinel_password.as_deref(), &["GET-MASTER-ADDR-BY-NAME", SERVICE])?;
        let (ip, port): (String, u16) = redis::from_redis_value(answer).ok()?;
        let address = SocketAddr::new(ip.parse().ok()?, port);
        self.servers.iter().position(|server| server.address() == address)
    }

    /// Has the Sentinels choose another primary, though nothing is wrong with this one.
    pub(crate) fn fail_over(&self) {
        let password = self.sentinel_password.as_deref();
        eventually("a failover", || self.sentinels[0].command(password, &["FAILOVER", SERVICE]).is_some());
    }

    pub(crate) fn administrator(&self, server: usize) -> redis::Connection {
        self.servers[server].administrator(&self.password)
    }

    /// Connections at a server that could be asked something now: neither a Sentinel's nor one that is blocked.
    pub(crate) fn free_clients(&self, server: usize) -> usize {
        let mut list = redis::cmd("CLIENT");
        let list = list.arg(&["LIST", "TYPE", "normal"]);
        let list: String = list.query(&mut self.administrator(server)).expect("CLIENT LIST");
        let is_ours = |line: &&str| {
            !line.contains(" name=sentinel-")
                && !line.contains(" flags=b ")
                && !line.contains(" cmd=client|list ")
        };
        list.lines().filter(is_ours).count()
    }

    /// The process of a server.
    pub(crate) fn process(&self, server: usize) -> Process {
        let info: String =
            redis::cmd("INFO").arg("server").query(&mut self.administrator(server)).expect("INFO");
        let id = info.lines().find_map(|line| line.strip_prefix("process_id:")).expect("a process");
        Process(Pid::from_raw(id.trim().parse().expect("a number")).expect("a process"))
    }

    /// Connections of clients with this name at a server.
    pub(crate) fn clients(&self, server: usize, name: &str) -> usize {
        let list: String =
            redis::cmd("CLIENT").arg("LIST").query(&mut self.administrator(server)).expect("CLIENT LIST");
        list.lines().filter(|line| line.contains(&format!(" name={name} "))).count()
    }
}

/// A process that can be frozen; thawed when dropped.
pub(crate) struct Process(Pid);

impl Process {
    pub(crate) fn freeze(&self) {
        kill_process(self.0, Signal::STOP).expect("a process to freeze");
    }

    pub(crate) fn thaw(&self) {
        kill_process(self.0, Signal::CONT).expect("a process to thaw");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Plays a Sentinel that answers every command with the bytes that `answer` has for its name.
pub(crate) fn play_sentinel(peer: Peer, answer: impl Fn(&str) -> String) {
    play_server(peer, |words| {
        let name = if words.first() == Some(&"SENTINEL") { words.get(1) } else { words.first() };
        answer(&name.unwrap_or(&"").to_uppercase())
    });
}

/// Plays a server that answers every command with the bytes that `answer` has for its words.
pub(crate) fn play_server(mut peer: Peer, answer: impl Fn(&[&str]) -> String) {
    use std::io::Read as _;
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(len @ 1..) = peer.read(&mut chunk) {
        received.extend(&chunk[..len]);
        let text = String::from_utf8_lossy(&received).into_owned();
        let mut answers = String::new();
        // As a person types it.
        if text.starts_with("PING") {
            answers += &answer(&["PING"]);
        }
        for command in text.split('*').skip(1) {
            let words: Vec<_> = command.split("\r\n").skip(2).step_by(2).collect();
            answers += &answer(&words);
        }
        received.clear();
        if peer.try_send(answers.as_bytes()).is_err() {
            return;
        }
    }
}
