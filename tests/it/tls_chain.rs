//! The two-host pattern: an ambassador beside the consumer, one beside the server, and between them a network that
//! nobody trusts. What crosses it is recorded.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::{
    Authority, Launch, Peer, RedisServer, Target, TlsPeer, command, eventually, password, token,
};

/// Passes bytes on to `target`, and keeps all of them.
struct Wire {
    address: SocketAddr,
    recorded: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&recorded);
        // The listener lasts as long as the test's process; both ends of every connection are ended by others.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(target) else { continue };
                for (from, to) in
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    let record = Arc::clone(&record);
                    thread::spawn(move || pass_on(from, to, &record));
                }
            }
        });
        Self { address, recorded }
    }

    fn holds(&self, text: &str) -> bool {
        let recorded = self.recorded.lock().unwrap();
        recorded.windows(text.len()).any(|window| window == text.as_bytes())
    }

    fn length(&self) -> usize {
        self.recorded.lock().unwrap().len()
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, record: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        record.lock().unwrap().extend(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Consumer → ambassador ⇒ ambassador → Redis: the password is added beside Redis, or beside the consumer, and in
/// neither case does it or the name of a key cross the network in between. A plain service goes the same way.
#[test]
fn nothing_can_be_read_on_the_wire_between_two_ambassadors() {
    let authority = Authority::new("Test CA");
    let (near_identity, far_identity) = (authority.issue(&["near"]), authority.issue(&["127.0.0.1"]));
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let service = Target::start().echo();

    for far_adds_the_password in [true, false] {
        let mut far = Launch::new()
            .variable("REDIS_LISTEN", "127.0.0.1:0")
            .listen_tls("REDIS", &far_identity)
            .variable("REDIS_LISTEN_TLS_CLIENT_CA_FILE", authority.file())
            .plain_link("DB", service.address())
            .listen_tls("DB", &far_identity)
            .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", authority.file());
        far = if far_adds_the_password {
            far.variable("REDIS_PORT_6379_TCP", format!("redis://{}", server.address()))
                .variable("REDIS_AUTH", &password)
        } else {
            far.variable("REDIS_PORT_6379_TCP", format!("tcp://{}", server.address()))
        };
        let far = far.start();
        let (redis_wire, service_wire) =
            (Wire::start(far.address("redis:6379")), Wire::start(far.address("db:5432")));
        let mut near = Launch::new()
            .variable("REDIS_PORT_6379_TCP", format!("rediss://{}", redis_wire.address))
            .variable("REDIS_LISTEN", "127.0.0.1:0")
            .variable("REDIS_TLS_CA_FILE", authority.file())
            .tls_identity("REDIS", &near_identity)
            .variable("DB_PORT_5432_TCP", format!("tls://{}", service_wire.address))
            .variable("DB_LISTEN", "127.0.0.1:0")
            .variable("DB_TLS_CA_FILE", authority.file())
            .tls_identity("DB", &near_identity);
        if !far_adds_the_password {
            near = near.variable("REDIS_AUTH", &password);
        }
        let near = near.start();

        let key = token();
        let mut client = near.connect("redis:6379");
        client.send(&command(&[b"SET", key.as_bytes(), b"value"]));
        client.expect(b"+OK\r\n");
        client.send(&command(&[b"KEYS", key.as_bytes()]));
        client.expect(format!("*1\r\n${}\r\n{key}\r\n", key.len()).as_bytes());

        let words = token();
        let mut client = near.connect("db:5432");
        client.send(words.as_bytes());
        client.finish_sending();
        assert_eq!(client.expect_rest(), words.as_bytes());

        eventually("the capture has something", || redis_wire.length() > 0 && service_wire.length() > 0);
        for readable in [&password, &key, &words] {
            assert!(!redis_wire.holds(readable) && !service_wire.holds(readable), "{readable} can be read");
        }
    }
}

/// The capture would show what crosses it in clear: the test above can fail.
#[test]
fn the_capture_shows_what_is_in_clear() {
    let server = Target::start().echo();
    let wire = Wire::start(server.address());
    let mut client = Peer::connect(wire.address);
    client.send(b"in clear");
    client.expect(b"in clear");
    assert!(wire.holds("in clear"));
}

/// On the way between the two ambassadors, who has no certificate gets no answer from Redis: neither in clear, nor over
/// TLS, nor with the certificate of another authority.
#[test]
fn a_third_party_without_a_certificate_gets_nothing() {
    let (authority, stranger) = (Authority::new("Test CA"), Authority::new("Stranger"));
    let identity = authority.issue(&["127.0.0.1"]);
    let target = Target::start();
    let far = Launch::redis(target.address())
        .variable("REDIS_AUTH", password())
        .listen_tls("REDIS", &identity)
        .variable("REDIS_LISTEN_TLS_CLIENT_CA_FILE", authority.file())
        .start();
    let address = far.address("redis:6379");
    let ask = |mut peer: TlsPeer| {
        peer.write_all(b"PING\r\n")?;
        peer.read(&mut [0; 64])
    };
    let strangers_identity = stranger.issue(&["127.0.0.1"]);
    for identity in [None, Some(&strangers_identity)] {
        let answer = TlsPeer::try_connect(address, &authority.client(identity)).and_then(ask);
        assert!(answer.is_err(), "{answer:?}");
    }
    let mut plain = Peer::connect(address);
    plain.send(b"PING\r\n");
    plain.expect_refusal("redis:6379");
    target.expect_no_connection(Duration::from_millis(200));
}
