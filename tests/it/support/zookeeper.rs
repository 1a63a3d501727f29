//! A real ZooKeeper, a client that registers servers there, and what a scripted one says.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Authority, PATIENCE, Peer, Target, command_is_missing, leave_out, own_address};

/// Of Debian's package; Netty, by which it has TLS, needs two more than it names itself.
const CLASSES: &str =
    "/usr/share/java/zookeeper.jar:/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar";

/// A Java machine on a busy one.
const STARTED_WITHIN: Duration = Duration::from_mins(2);

/// A server of the test's own, for plain clients and for such with TLS. Killed when dropped.
pub(crate) struct ZooKeeper {
    child: Option<Child>,
    directory: TempDir,
    pub(crate) authority: Authority,
    address: SocketAddr,
    secure: SocketAddr,
}

impl ZooKeeper {
    /// The one that the tests share that run at the time; each uses nodes of its own. `None` where there is none to start.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<ZooKeeper>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    /// One that the test can stop.
    pub(crate) fn start() -> Option<Self> {
        if command_is_missing("java") {
            return None;
        }
        if !CLASSES.split(':').all(|library| Path::new(library).exists()) {
            leave_out("zookeeper is not installed");
            return None;
        }
        let authority = Authority::new("ZooKeeper's");
        let (address, secure) = (own_address(), own_address());
        let secure = SocketAddr::new(address.ip(), secure.port());
        let identity = authority.issue(&[&address.ip().to_string()]);
        let directory = TempDir::new().expect("a temporary directory");
        let pem = directory.path().join("server.pem");
        let read = |path| fs::read_to_string(path).expect("a file of PEM");
        fs::write(&pem, read(&identity.key) + &read(&identity.certificate)).expect("a file");
        let configuration = format!(
            "dataDir={data}\nclientPort={}\nclientPortAddress={ip}\nsecureClientPort={}\nsecureClientPortAddress={ip}\n\
             tickTime=2000\nmaxSessionTimeout=60000\nmaxClientCnxns=0\nadmin.enableServer=false\n\
             serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             ssl.keyStore.location={pem}\nssl.trustStore.location={ca}\nssl.clientAuth=need\n",
            address.port(),
            secure.port(),
            ip = address.ip(),
            data = directory.path().join("data").display(),
            pem = pem.display(),
            ca = authority.file().display(),
        );
        fs::write(directory.path().join("zoo.cfg"), configuration).expect("a configuration file");
        let mut server = Self { child: None, directory, authority, address, secure };
        server.start_again();
        Some(server)
    }

    /// With the data of before: sessions that are not over go on.
    pub(crate) fn start_again(&mut self) {
        let path = self.directory.path().join("log");
        let log = fs::File::create(&path).expect("a file");
        let child = Command::new("java")
            .args(["-Xmx192m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .args(["-cp", CLASSES])
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg(self.directory.path().join("zoo.cfg"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("java starts");
        self.child = Some(child);
        let deadline = Instant::now() + STARTED_WITHIN;
        while Registrar::try_begin(self.address).is_none() {
            let said = || fs::read_to_string(&path).unwrap_or_default();
            assert!(Instant::now() < deadline, "ZooKeeper does not serve: {}", said());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it wants TLS, and a certificate of its authority.
    pub(crate) fn secure_address(&self) -> SocketAddr {
        self.secure
    }

    pub(crate) fn begin(&self) -> Registrar {
        Registrar::try_begin(self.address).expect("a session")
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A session that makes nodes. When it is dropped, its ephemeral ones are gone.
pub(crate) struct Registrar {
    stream: TcpStream,
    xid: i32,
    digest: bool,
}

impl Registrar {
    fn try_begin(address: SocketAddr) -> Option<Self> {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut record = [&[0; 12][..], &60_000_i32.to_be_bytes(), &[0; 8]].concat();
        put(&mut record, &[0; 16]);
        stream.write_all(&framed(&record)).ok()?;
        let answer = read_frame(&mut stream)?;
        (answer.len() > 8 && answer[4..8] != [0; 4]).then_some(Self { stream, xid: 0, digest: false })
    }

    /// Nodes made from now on are for those alone who show the same `USER:PASSWORD`.
    pub(crate) fn show(&mut self, credentials: &str) {
        let mut record = 0_i32.to_be_bytes().to_vec();
        put(&mut record, b"digest");
        put(&mut record, credentials.as_bytes());
        assert_eq!(self.ask(-4, 100, &record), 0);
        self.digest = true;
    }

    /// A node that stays, with those above it.
    pub(crate) fn create(&mut self, path: &str, data: &str) {
        for (at, _) in path.match_indices('/').skip(1) {
            self.create_as(&path[..at], "", 0);
        }
        self.create_as(path, data, 0);
    }

    /// A node that goes with this session.
    pub(crate) fn register(&mut self, path: &str, data: &str) {
        assert_eq!(self.create_as(path, data, 1), 0, "{path}");
    }

    fn create_as(&mut self, path: &str, data: &str, flags: i32) -> i32 {
        let mut record = Vec::new();
        put(&mut record, path.as_bytes());
        put(&mut record, data.as_bytes());
        // One entry: all may do everything, or whoever shows the same credentials.
        record.extend([1_i32, 31].map(i32::to_be_bytes).concat());
        let (scheme, id): (&[u8], &[u8]) = if self.digest { (b"auth", b"") } else { (b"world", b"anyone") };
        put(&mut record, scheme);
        put(&mut record, id);
        record.extend(flags.to_be_bytes());
        self.next(1, &record)
    }

    pub(crate) fn set(&mut self, path: &str, data: &str) {
        let mut record = Vec::new();
        put(&mut record, path.as_bytes());
        put(&mut record, data.as_bytes());
        record.extend((-1_i32).to_be_bytes());
        assert_eq!(self.next(5, &record), 0, "{path}");
    }

    pub(crate) fn delete(&mut self, path: &str) {
        let mut record = Vec::new();
        put(&mut record, path.as_bytes());
        record.extend((-1_i32).to_be_bytes());
        assert_eq!(self.next(2, &record), 0, "{path}");
    }

    fn next(&mut self, operation: i32, record: &[u8]) -> i32 {
        self.xid += 1;
        self.ask(self.xid, operation, record)
    }

    /// The error in the reply; 0 for none.
    fn ask(&mut self, xid: i32, operation: i32, record: &[u8]) -> i32 {
        let header = [xid, operation].map(i32::to_be_bytes).concat();
        self.stream.write_all(&framed(&[&header, record].concat())).expect("a request");
        let reply = read_frame(&mut self.stream).expect("a reply");
        assert_eq!(reply[..4], xid.to_be_bytes());
        i32::from_be_bytes(reply[12..16].try_into().expect("an error's number"))
    }
}

impl Drop for Registrar {
    /// Ends the session, and waits until it is over.
    fn drop(&mut self) {
        let close = framed(&[self.xid + 1, -11].map(i32::to_be_bytes).concat());
        if self.stream.write_all(&close).is_ok() {
            let _ = read_frame(&mut self.stream);
        }
    }
}

/// A ZooKeeper that the test plays: `answer` gets each request's number, operation and path, and says what is sent.
/// The session is begun, and pings are answered.
pub(crate) fn play_zookeeper(
    answer: impl Fn(i32, i32, &str) -> Vec<u8> + Send + Sync + 'static,
) -> super::Served {
    Target::at(own_address()).serve(move |mut client: Peer| {
        let frame = |client: &mut Peer| {
            let mut length = [0; 4];
            client.read_exact(&mut length).ok()?;
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            client.read_exact(&mut frame).ok().map(|()| frame)
        };
        if frame(&mut client).is_none() {
            return;
        }
        let mut begun = [&[0; 4][..], &6000_i32.to_be_bytes(), &[0, 0, 0, 0, 0, 0, 0, 1]].concat();
        put(&mut begun, &[0; 16]);
        begun.push(0);
        let mut said = framed(&begun);
        while client.try_send(&said).is_ok() {
            let Some(request) = frame(&mut client) else { return };
            let number = |at: usize| i32::from_be_bytes(request[at..at + 4].try_into().expect("a number"));
            let (xid, operation) = (number(0), number(4));
            said = if operation == 11 {
                reply(xid, 0, &[])
            } else {
                let path = &request[12..12 + usize::try_from(number(8)).expect("a length")];
                answer(xid, operation, std::str::from_utf8(path).expect("a path"))
            };
        }
    })
}

/// A reply to a request.
pub(crate) fn reply(xid: i32, error: i32, record: &[u8]) -> Vec<u8> {
    framed(&[&xid.to_be_bytes()[..], &[0; 8], &error.to_be_bytes(), record].concat())
}

/// An event about a node: 3 for its data, 4 for its children, and a state of the session, of which 3 is the usual one.
pub(crate) fn event(kind: i32, state: i32, path: &str) -> Vec<u8> {
    let mut record = [kind, state].map(i32::to_be_bytes).concat();
    put(&mut record, path.as_bytes());
    reply(-1, 0, &record)
}

/// The list of a node's children.
pub(crate) fn names<T: AsRef<[u8]>>(names: &[T]) -> Vec<u8> {
    let mut record = i32::try_from(names.len()).expect("few names").to_be_bytes().to_vec();
    for name in names {
        put(&mut record, name.as_ref());
    }
    record
}

/// The data of a node, and what else there is about it.
pub(crate) fn data(data: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    put(&mut record, data);
    record.extend([0; 68]);
    record
}

fn put(record: &mut Vec<u8>, bytes: &[u8]) {
    record.extend(u32::try_from(bytes.len()).expect("few bytes").to_be_bytes());
    record.extend(bytes);
}

fn framed(record: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put(&mut frame, record);
    frame
}

fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).ok().map(|()| frame)
}
