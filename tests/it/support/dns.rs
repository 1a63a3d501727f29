//! Name servers: one that answers what a test says, faults and all, and a real dnsmasq.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{command_is_missing, eventually, own_address};

/// How a name server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It answers.
    Answers,
    /// It takes questions and never answers.
    Hangs,
    /// It answers every question with this.
    Says(ResponseCode),
}

/// What a name server knows.
struct Zone {
    manner: Manner,
    ttl: u32,
    records: HashMap<String, Vec<RData>>,
}

/// A name server on a loopback address of its own, on UDP and TCP. What it knows can change at any time.
pub(crate) struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    asked: Arc<AtomicUsize>,
    asked_over_tcp: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    pub(crate) fn start() -> Self {
        let (udp, tcp) = loop {
            let address = own_address();
            if let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address), TcpListener::bind(address)) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("a bound socket has an address");
        let zone = Arc::new(Mutex::new(Zone { manner: Manner::Answers, ttl: 600, records: HashMap::new() }));
        let stopped = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let asked_over_tcp = Arc::new(AtomicUsize::new(0));
        let threads = vec![
            thread::spawn({
                let (zone, asked, stopped) = (Arc::clone(&zone), Arc::clone(&asked), Arc::clone(&stopped));
                move || over_udp(&udp, &zone, &asked, &stopped)
            }),
            thread::spawn({
                let (zone, asked, stopped) =
                    (Arc::clone(&zone), Arc::clone(&asked_over_tcp), Arc::clone(&stopped));
                move || over_tcp(&tcp, &zone, &asked, &stopped)
            }),
        ];
        Self { address, zone, asked, asked_over_tcp, stopped, threads }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn behaves(&self, manner: Manner) {
        self.zone().manner = manner;
    }

    pub(crate) fn ttl(&self, ttl: u32) {
        self.zone().ttl = ttl;
    }

    /// Questions so far, over UDP.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Questions so far, over TCP.
    pub(crate) fn asked_over_tcp(&self) -> usize {
        self.asked_over_tcp.load(Ordering::Relaxed)
    }

    /// From now on `name` has these addresses; without any there is no such name.
    pub(crate) fn addresses(&self, name: &str, addresses: &[IpAddr]) {
        let data = |address: &IpAddr| match *address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        self.records(name, addresses.iter().map(data).collect());
    }

    /// From now on `name` has these services: priority, weight, port, target.
    pub(crate) fn services(&self, name: &str, services: &[(u16, u16, u16, &str)]) {
        let data = |&(priority, weight, port, target): &(u16, u16, u16, &str)| {
            RData::SRV(SRV::new(priority, weight, port, Name::from_str(target).expect("a name")))
        };
        self.records(name, services.iter().map(data).collect());
    }

    fn records(&self, name: &str, records: Vec<RData>) {
        let name = name.to_lowercase();
        let mut zone = self.zone();
        if records.is_empty() {
            zone.records.remove(&name);
        } else {
            zone.records.insert(name, records);
        }
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        lock(&self.zone)
    }
}

impl Drop for NameServer {
    /// Once dropped, nothing listens at the address any more.
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of its own has been printed already.
            let _ = thread.join();
        }
    }
}

fn lock(zone: &Mutex<Zone>) -> MutexGuard<'_, Zone> {
    zone.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOOK: Duration = Duration::from_millis(50);

fn over_udp(socket: &UdpSocket, zone: &Mutex<Zone>, asked: &AtomicUsize, stopped: &AtomicBool) {
    socket.set_read_timeout(Some(LOOK)).expect("a timeout");
    let mut buffer = [0; 4096];
    while !stopped.load(Ordering::Relaxed) {
        let Ok((len, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        asked.fetch_add(1, Ordering::Relaxed);
        let Some((question, answer)) = answer(&buffer[..len], zone) else {
            continue;
        };
        let mut bytes = answer.to_vec().expect("an answer");
        if bytes.len() > usize::from(question.max_payload().max(512)) {
            bytes = answer.truncate().to_vec().expect("an answer");
        }
        // Whoever asked may have gone.
        let _ = socket.send_to(&bytes, client);
    }
}

fn over_tcp(listener: &TcpListener, zone: &Mutex<Zone>, asked: &AtomicUsize, stopped: &AtomicBool) {
    listener.set_nonblocking(true).expect("a nonblocking listener");
    let mut clients = Vec::new();
    while !stopped.load(Ordering::Relaxed) {
        if let Ok((client, _)) = listener.accept() {
            client.set_nonblocking(false).expect("a blocking socket");
            client.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
            clients.push(client);
        } else if clients.is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        clients.retain_mut(|client| {
            let mut length = [0; 2];
            match client.peek(&mut length) {
                Ok(2) => {}
                Ok(0) => return false,
                _ => return true,
            }
            let mut question = vec![0; usize::from(u16::from_be_bytes(length)) + 2];
            if client.read_exact(&mut question).is_err() {
                return false;
            }
            asked.fetch_add(1, Ordering::Relaxed);
            let Some((_, answer)) = answer(&question[2..], zone) else {
                return true;
            };
            let answer = answer.to_vec().expect("an answer");
            let length = u16::try_from(answer.len()).expect("an answer of 64 KiB at most");
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend(answer);
            client.write_all(&bytes).is_ok()
        });
    }
}

fn answer(bytes: &[u8], zone: &Mutex<Zone>) -> Option<(Message, Message)> {
    let question = Message::from_vec(bytes).ok()?;
    let query = question.queries.first()?.clone();
    let zone = lock(zone);
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.add_query(query.clone());
    match zone.manner {
        Manner::Hangs => return None,
        Manner::Says(code) => answer.metadata.response_code = code,
        Manner::Answers => {
            let name = query.name().to_ascii().to_lowercase();
            match zone.records.get(name.trim_end_matches('.')) {
                None => answer.metadata.response_code = ResponseCode::NXDomain,
                Some(records) => {
                    let of_type = |data: &&RData| data.record_type() == query.query_type();
                    for data in records.iter().filter(of_type) {
                        let record = Record::from_rdata(query.name().clone(), zone.ttl, data.clone());
                        answer.add_answer(record);
                    }
                }
            }
        }
    }
    Some((question, answer))
}

/// A dnsmasq of the test's own. Killed when dropped.
pub(crate) struct Dnsmasq {
    child: Option<Child>,
    directory: TempDir,
    address: SocketAddr,
}

impl Dnsmasq {
    /// Starts one with these lines of configuration; `None` where there is none to start.
    pub(crate) fn start(configuration: &str) -> Option<Self> {
        if command_is_missing("dnsmasq") {
            return None;
        }
        let directory = TempDir::new().expect("a temporary directory");
        let mut server = Self { child: None, directory, address: own_address() };
        server.serve(configuration);
        Some(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves something else from now on.
    pub(crate) fn serve(&mut self, configuration: &str) {
        self.stop();
        let path = self.directory.path().join("dnsmasq.conf");
        let lines = format!(
            "no-resolv\nno-hosts\nbind-interfaces\nlisten-address={}\nport={}\nlog-facility={}\n{configuration}\n",
            self.address.ip(),
            self.address.port(),
            self.directory.path().join("dnsmasq.log").display(),
        );
        fs::write(&path, lines).expect("a configuration file");
        let child = Command::new("dnsmasq")
            .arg("--keep-in-foreground")
            .arg("--user=root")
            .arg("--pid-file")
            .arg(format!("--conf-file={}", path.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq starts");
        self.child = Some(child);
        let address = self.address;
        eventually("dnsmasq answers", || {
            let socket = UdpSocket::bind((address.ip(), 0)).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            let mut question = Message::query();
            question.add_query(hickory_resolver::proto::op::Query::query(Name::root(), RecordType::A));
            let bytes = question.to_vec().expect("a question");
            socket.send_to(&bytes, address).is_ok() && socket.recv(&mut [0; 512]).is_ok()
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a dnsmasq that runs");
        kill_process(Pid::from_child(child), signal).expect("a process to signal");
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.stop();
    }
}
