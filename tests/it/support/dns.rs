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
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SRV};
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
    /// It answers so much later.
    Late(Duration),
    /// It answers with bytes that are no message.
    Babbles,
    /// It answers with records of another kind.
    Errs,
    /// It says that there is nothing of the kind, which may not be true.
    Denies,
    /// It says over UDP that the answer is too long for that, and over TCP nothing.
    Truncates,
}

/// What a name server knows, and what it was asked.
struct Zone {
    manner: Manner,
    /// Its manners with questions of one kind, where they are others.
    manners: HashMap<RecordType, Manner>,
    /// How many questions for a name it is going to lose.
    losses: HashMap<(String, RecordType), usize>,
    asked: HashMap<RecordType, usize>,
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
        Self::at(None)
    }

    /// At the port where name servers are that nobody gives a port for; only root may be there.
    pub(crate) fn at_the_usual_port() -> Self {
        Self::at(Some(53))
    }

    fn at(port: Option<u16>) -> Self {
        let (udp, tcp) = loop {
            let mut address = own_address();
            address.set_port(port.unwrap_or(address.port()));
            if let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address), TcpListener::bind(address)) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("a bound socket has an address");
        let zone = Zone {
            manner: Manner::Answers,
            manners: HashMap::new(),
            losses: HashMap::new(),
            asked: HashMap::new(),
            ttl: 600,
            records: HashMap::new(),
        };
        let zone = Arc::new(Mutex::new(zone));
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

    /// The same for questions of one kind alone.
    pub(crate) fn behaves_for(&self, kind: RecordType, manner: Manner) {
        self.zone().manners.insert(kind, manner);
    }

    /// The next questions of one kind for a name, so many of them, are lost.
    pub(crate) fn loses(&self, count: usize, kind: RecordType, name: &str) {
        self.zone().losses.insert((name.to_lowercase(), kind), count);
    }

    /// How many of those it has still to lose.
    pub(crate) fn losses(&self, kind: RecordType, name: &str) -> usize {
        self.zone().losses.get(&(name.to_lowercase(), kind)).copied().unwrap_or_default()
    }

    /// Questions of one kind so far.
    pub(crate) fn asked_for(&self, kind: RecordType) -> usize {
        self.zone().asked.get(&kind).copied().unwrap_or_default()
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

    /// From now on `name` is another name for `target`.
    pub(crate) fn alias(&self, name: &str, target: &str) {
        let target = Name::from_str(target).expect("a name");
        self.records(name, vec![RData::CNAME(CNAME(target))]);
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
        let Some((question, answer, manner)) = answer(&buffer[..len], zone) else {
            continue;
        };
        let mut bytes = answer.to_vec().expect("an answer");
        if manner == Manner::Truncates || bytes.len() > usize::from(question.max_payload().max(512)) {
            bytes = answer.truncate().to_vec().expect("an answer");
        }
        if manner == Manner::Babbles {
            // The number of the question stays.
            bytes[2..].fill(0xff);
        }
        let Manner::Late(time) = manner else {
            // Whoever asked may have gone.
            let _ = socket.send_to(&bytes, client);
            continue;
        };
        let socket = socket.try_clone().expect("a second handle");
        thread::spawn(move || {
            thread::sleep(time);
            let _ = socket.send_to(&bytes, client);
        });
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
            let Some((_, answer, manner)) = answer(&question[2..], zone) else {
                return true;
            };
            if manner == Manner::Truncates {
                return true;
            }
            let answer = answer.to_vec().expect("an answer");
            let length = u16::try_from(answer.len()).expect("an answer of 64 KiB at most");
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend(answer);
            client.write_all(&bytes).is_ok()
        });
    }
}

fn answer(bytes: &[u8], zone: &Mutex<Zone>) -> Option<(Message, Message, Manner)> {
    let question = Message::from_vec(bytes).ok()?;
    let query = question.queries.first()?.clone();
    let kind = query.query_type();
    let name = query.name().to_ascii().to_lowercase();
    let name = name.trim_end_matches('.');
    let mut zone = lock(zone);
    *zone.asked.entry(kind).or_default() += 1;
    if let Some(losses) = zone.losses.get_mut(&(name.to_owned(), kind)).filter(|losses| **losses > 0) {
        *losses -= 1;
        return None;
    }
    let manner = zone.manners.get(&kind).copied().unwrap_or(zone.manner);
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.add_query(query.clone());
    match manner {
        Manner::Hangs => return None,
        Manner::Says(code) => answer.metadata.response_code = code,
        Manner::Denies => {}
        _ => match zone.records.get(name) {
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(records) => {
                let is_meant = |data: &&RData| {
                    data.record_type() == RecordType::CNAME
                        || (data.record_type() == kind) != (manner == Manner::Errs)
                };
                for data in records.iter().filter(is_meant) {
                    answer.add_answer(Record::from_rdata(query.name().clone(), zone.ttl, data.clone()));
                }
            }
        },
    }
    Some((question, answer, manner))
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
