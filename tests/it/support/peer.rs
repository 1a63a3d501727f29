//! One end of a connection, in the hands of a test: a client of the ambassador or a server behind it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::PATIENCE;

/// A TCP or Unix stream that fails the test instead of waiting for ever.
#[derive(Debug)]
pub(crate) struct Peer(Socket);

impl Peer {
    pub(crate) fn new(socket: Socket) -> Self {
        socket.set_nonblocking(false).expect("a blocking socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        // Fails on a Unix socket, which has nothing to delay.
        let _ = socket.set_tcp_nodelay(true);
        Self(socket)
    }

    /// Connects, or says why not.
    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.connect_timeout(&address.into(), PATIENCE)?;
        Ok(Self::new(socket))
    }

    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    /// Connects from a loopback address of choice.
    #[track_caller]
    pub(crate) fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("a loopback address");
        socket.connect_timeout(&address.into(), PATIENCE).expect("a connection");
        Self::new(socket)
    }

    #[track_caller]
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        let address = SockAddr::unix(path).expect("a short path");
        socket.connect(&address).unwrap_or_else(|error| panic!("connect to {}: {error}", path.display()));
        Self::new(socket)
    }

    /// A second handle to the same connection, for another thread.
    pub(crate) fn handle(&self) -> Self {
        Self(self.0.try_clone().expect("a second handle"))
    }

    /// This end's own address.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.0.local_addr().ok().and_then(|address| address.as_socket()).expect("a TCP address")
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the other side takes bytes");
    }

    /// Sends as much as the other side takes, which may be nothing.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Sends byte by byte, each in a segment of its own.
    #[track_caller]
    pub(crate) fn drip(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.send(&[*byte]);
            // Leaves the reader the time to see this byte alone.
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes exactly these bytes, in whatever pieces they come.
    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        let mut received = vec![0; bytes.len()];
        let mut len = 0;
        while len < received.len() {
            match self.read(&mut received[len..]) {
                Ok(0) => panic!("the end came after {}, not {}", show(&received[..len]), show(bytes)),
                Ok(more) => len += more,
                Err(error) => panic!("{error} after {}, not {}", show(&received[..len]), show(bytes)),
            }
            assert!(
                bytes.starts_with(&received[..len]),
                "{} instead of {}",
                show(&received[..len]),
                show(bytes)
            );
        }
    }

    /// Receives `len` bytes, whatever they are.
    #[track_caller]
    pub(crate) fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_exact(&mut bytes).expect("bytes from the other side");
        bytes
    }

    /// Takes one line, without its ending.
    #[track_caller]
    pub(crate) fn expect_line(&mut self) -> String {
        let mut line = self.receive_until(b"\r\n");
        line.truncate(line.len() - 2);
        String::from_utf8(line).expect("a line of text")
    }

    /// Takes everything up to these bytes, and them.
    #[track_caller]
    pub(crate) fn receive_until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end) {
            bytes.extend(self.receive(1));
        }
        bytes
    }

    /// Everything up to a clean end; a reset fails the test.
    #[track_caller]
    pub(crate) fn expect_rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(error) = self.read_to_end(&mut bytes) {
            panic!("{error} after {} instead of a clean end", show(&bytes));
        }
        bytes
    }

    /// A clean end, and nothing before it.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let rest = self.expect_rest();
        assert!(rest.is_empty(), "{} instead of the end", show(&rest));
    }

    /// A reset; bytes that were on their way may come before it.
    #[track_caller]
    pub(crate) fn expect_reset(&mut self) {
        match self.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error} instead of a reset"),
            Ok(_) => panic!("a clean end instead of a reset"),
        }
    }

    /// The connection is over, cleanly or not.
    #[track_caller]
    pub(crate) fn expect_gone(&mut self) {
        match self.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the connection is still open"),
            _ => {}
        }
    }

    /// A PING in either form, which is returned.
    #[track_caller]
    pub(crate) fn expect_ping(&mut self) -> Vec<u8> {
        let mut ping = self.receive(1);
        let rest = if ping == b"*" { &b"1\r\n$4\r\nPING\r\n"[..] } else { &b"ING\r\n"[..] };
        self.expect(rest);
        ping.extend(rest);
        ping
    }

    /// The connection is over, cleanly or not, and nothing came before that.
    #[track_caller]
    pub(crate) fn expect_gone_in_silence(&mut self) {
        let mut rest = Vec::new();
        match self.read_to_end(&mut rest) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the connection is still open"),
            _ => assert!(rest.is_empty(), "{} instead of the end", show(&rest)),
        }
    }

    /// Not a byte and no end for so long.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self, time: Duration) {
        self.0.set_read_timeout(Some(time)).expect("a read timeout");
        let result = self.read(&mut [0]);
        self.0.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => panic!("{other:?} instead of silence"),
        }
    }

    /// One line that begins like every refusal of the ambassador, and then a clean end.
    #[track_caller]
    pub(crate) fn expect_refusal(&mut self, link: &str) -> String {
        let bytes = self.expect_rest();
        let text = String::from_utf8(bytes).expect("a line of text");
        let refusal = text.strip_suffix("\r\n").unwrap_or_else(|| panic!("no whole line: {text:?}"));
        assert!(!refusal.contains(['\r', '\n']), "more than one line: {text:?}");
        let start = format!("-ERR redis-ambassador: {link}: ");
        assert!(refusal.starts_with(&start), "not a refusal of {link}: {text:?}");
        refusal[start.len()..].to_owned()
    }

    /// How long to wait for bytes from now on.
    pub(crate) fn patience(&self, time: Duration) {
        self.0.set_read_timeout(Some(time)).expect("a read timeout");
    }

    /// Sends the end of the stream, and goes on receiving.
    #[track_caller]
    pub(crate) fn finish_sending(&mut self) {
        self.0.shutdown(Shutdown::Write).expect("an open connection");
    }

    /// The same towards a peer that may have gone already.
    pub(crate) fn try_finish_sending(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        self.0.set_linger(Some(Duration::ZERO)).expect("a socket that lingers");
    }

    /// Sends until the other side takes nothing more for a whole second, and says how much it took.
    pub(crate) fn send_until_it_blocks(&mut self) -> usize {
        self.0.set_nonblocking(true).expect("a nonblocking socket");
        let block = [0x5a; 16 * 1024];
        let mut sent = 0;
        let mut last_progress = Instant::now();
        while last_progress.elapsed() < Duration::from_secs(1) {
            match self.0.write(&block) {
                Ok(len) => {
                    sent += len;
                    last_progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("{error} after {sent} bytes"),
            }
        }
        self.0.set_nonblocking(false).expect("a blocking socket");
        sent
    }
}

impl From<Peer> for std::net::TcpStream {
    fn from(peer: Peer) -> Self {
        peer.0.into()
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.read(buffer))
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Does what has a timeout again when the whole process was stopped and continued meanwhile, which interrupts it
/// (signal(7)).
pub(super) fn uninterrupted<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Bytes for a person to read, not more than a screen takes.
fn show(bytes: &[u8]) -> String {
    const MOST: usize = 200;
    let mut text = format!("\"{}\"", bytes[..bytes.len().min(MOST)].escape_ascii());
    if bytes.len() > MOST {
        let _ = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}
