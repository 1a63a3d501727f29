//! A client that does not read costs what is promised, and delays nobody.

use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{LINK, real, sharing};
use crate::sessions::counted;
use crate::support::{Ambassador, Launch, Peer, RedisServer, Target, eventually, noise};

const MIB: usize = 1 << 20;

/// More than is kept for a client before nothing more is taken from it, with room for what the process needs besides.
const A_LITTLE: usize = 6 * MIB;

/// More than is ever kept for one.
const AT_MOST: usize = (16 + 8) * MIB;

/// A server with a value of so many bytes, and an ambassador whose clients share one upstream of one thread. Also what
/// a GET of the value is answered.
fn with_value(len: usize) -> Option<(RedisServer, Ambassador, Vec<u8>)> {
    let (server, ambassador, password) = real("", 1, 1)?;
    let value = noise(7, len);
    let mut administrator = server.administrator(&password);
    redis::cmd("SET").arg("value").arg(&value).exec(&mut administrator).expect("a value");
    let reply = [format!("${len}\r\n").as_bytes(), &value, b"\r\n"].concat();
    Some((server, ambassador, reply))
}

/// Others, who are served: sooner or later, as the machine may have other things to do. How soon is shown where the clock is
/// the test's own.
struct Others(Vec<Peer>);

impl Others {
    fn connect(ambassador: &Ambassador) -> Self {
        let mut others = Self((0..10).map(|_| ambassador.connect(LINK)).collect());
        others.are_served(1);
        others
    }

    #[track_caller]
    fn are_served(&mut self, rounds: usize) {
        for round in 0..rounds {
            for (number, other) in self.0.iter_mut().enumerate() {
                let value = format!("{number}:{round}");
                let heard = format!("+PONG\r\n+OK\r\n${}\r\n{value}\r\n", value.len());
                other
                    .send(format!("PING\r\nSET other:{number} {value}\r\nGET other:{number}\r\n").as_bytes());
                other.expect(heard.as_bytes());
            }
        }
    }
}

/// Asks for the value so many times, one by one, each when the one before has been answered; as far as anything more is
/// taken. The other one, which shares the upstream, is answered behind it.
fn ask_one_by_one(client: &mut Peer, other: &mut Peer, count: usize) {
    for _ in 0..count {
        client.send(b"GET value\r\n");
        other.send(b"PING\r\n");
        other.expect(b"+PONG\r\n");
    }
}

/// Takes this reply so many times, or as far as they come; says how many there were before the end.
#[track_caller]
fn take(client: &mut Peer, reply: &[u8], count: usize) -> usize {
    let mut heard = vec![0; reply.len()];
    for number in 0..count {
        let mut len = 0;
        while len < reply.len() {
            match client.read(&mut heard[len..]) {
                Ok(more @ 1..) => len += more,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("nothing comes behind {number} replies and {len} bytes")
                }
                // It was closed.
                _ => {
                    assert!(heard[..len] == reply[..len], "another reply");
                    return number;
                }
            }
        }
        assert!(heard == reply, "another reply");
    }
    count
}

/// It asks for thirty megabytes, and reads nothing: no more than a mebibyte is kept for it, others are answered as ever,
/// and when it reads at last it has all that it asked for.
#[test]
fn a_client_that_does_not_read_delays_nobody_and_costs_little() {
    const COUNT: usize = 3000;
    let Some((_server, ambassador, reply)) = with_value(10_000) else { return };
    let mut others = Others::connect(&ambassador);
    let mut client = ambassador.connect(LINK);
    let before = ambassador.memory();
    ask_one_by_one(&mut client, &mut others.0[0], COUNT);
    others.are_served(100);
    let more = ambassador.memory().saturating_sub(before);
    assert!(more < A_LITTLE, "{more} bytes more");
    assert_eq!(take(&mut client, &reply, COUNT), COUNT);
    client.send(b"GET none\r\n");
    client.expect(b"$-1\r\n");
    others.are_served(1);
}

/// The same where it has asked for all at once, before anything was answered: it is served or closed, and hears nothing
/// that it has not asked for.
#[test]
fn a_client_that_asks_for_too_much_at_once_delays_nobody_and_is_bounded() {
    // Thirty and a hundred megabytes.
    for (len, count) in [(10_000, 3000), (100_000, 1000)] {
        let Some((_server, ambassador, reply)) = with_value(len) else { return };
        let mut others = Others::connect(&ambassador);
        let mut client = ambassador.connect(LINK);
        let before = ambassador.memory();
        client.send(&b"GET value\r\n".repeat(count));
        let mut most = 0;
        for _ in 0..30 {
            others.are_served(5);
            most = most.max(ambassador.memory().saturating_sub(before));
        }
        assert!(most < AT_MOST, "{most} bytes more");
        let taken = take(&mut client, &reply, count);
        println!("{taken} of {count} replies of {len} bytes, and at most {most} bytes more");
        others.are_served(1);
        drop(client);
        is_gone(&ambassador, others.0.len());
    }
}

/// One of many such clients is as cheap as the other.
#[test]
fn many_clients_that_do_not_read_are_bounded_each() {
    const CLIENTS: usize = 8;
    let Some((_server, ambassador, reply)) = with_value(10_000) else { return };
    let mut others = Others::connect(&ambassador);
    let before = ambassador.memory();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| ambassador.connect(LINK)).collect();
    for client in &mut clients {
        ask_one_by_one(client, &mut others.0[0], 1000);
    }
    others.are_served(20);
    let more = ambassador.memory().saturating_sub(before);
    assert!(more < A_LITTLE + CLIENTS * 2 * MIB, "{more} bytes more for {CLIENTS} clients");
    for client in &mut clients {
        assert_eq!(take(client, &reply, 1000), 1000);
    }
}

/// A client that has gone is owed nothing: what is kept for it is thrown away, and what still comes for it too.
#[test]
fn a_client_that_goes_without_reading_leaves_nothing() {
    for resets in [false, true] {
        let Some((_server, ambassador, reply)) = with_value(100_000) else { return };
        let mut others = Others::connect(&ambassador);
        let before = ambassador.memory();
        for _ in 0..20 {
            let mut client = ambassador.connect(LINK);
            client.send(&b"GET value\r\n".repeat(100));
            // Its first reply is on its way.
            assert_eq!(client.receive(7), reply[..7]);
            if resets {
                client.reset();
            }
            others.are_served(2);
        }
        is_gone(&ambassador, others.0.len());
        let more = ambassador.memory().saturating_sub(before);
        assert!(more < AT_MOST, "{more} bytes more");
        others.are_served(20);
    }
}

/// Only those others are there any more.
#[track_caller]
fn is_gone(ambassador: &Ambassador, others: usize) {
    let active = format!("connections_active{{link=\"{LINK}\"}}");
    eventually("it is gone", || counted(ambassador, &active) == others);
}

/// A large command, or one that comes in slowly, has an upstream of its own: nobody waits for its end.
#[test]
fn a_command_that_comes_slowly_delays_nobody() {
    const LEN: usize = 200_000;
    let Some((_server, ambassador, _)) = with_value(1) else { return };
    let mut others = Others::connect(&ambassador);
    let mut slow: Vec<_> = [LEN, 10_000, 10]
        .into_iter()
        .map(|len| {
            let mut client = ambassador.connect(LINK);
            client.send(format!("GET none\r\n*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n${len}\r\nbegin").as_bytes());
            client.expect(b"$-1\r\n");
            (client, len)
        })
        .collect();
    others.are_served(20);
    for (client, len) in &mut slow {
        client.send(&vec![b'x'; *len - 5]);
        client.send(b"\r\nSTRLEN slow\r\n");
        client.expect(format!("+OK\r\n:{len}\r\n").as_bytes());
    }
    others.are_served(1);
}

/// Nor does anybody wait for a large value that one client reads slowly.
#[test]
fn a_large_value_that_is_read_slowly_delays_nobody() {
    let Some((_server, ambassador, reply)) = with_value(12 * MIB) else { return };
    let mut others = Others::connect(&ambassador);
    let mut client = ambassador.connect(LINK);
    client.send(b"GET value\r\nPING\r\n");
    let mut from = 0;
    let begun = Instant::now();
    while from < reply.len() && begun.elapsed() < Duration::from_secs(2) {
        let to = reply.len().min(from + 64 * 1024);
        client.expect(&reply[from..to]);
        from = to;
        others.are_served(1);
    }
    client.expect(&reply[from..]);
    client.expect(b"+PONG\r\n");
}

/// A value that is larger than all that is kept arrives, though others stand behind it, and those are served.
#[test]
fn a_huge_value_arrives_among_others() {
    const CLIENTS: usize = 6;
    let Some((_server, ambassador, reply)) = with_value(64 * MIB) else { return };
    let address = ambassador.address(LINK);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut other = Peer::connect(address);
                for round in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("other:{number}");
                    other.send(format!("SET {key} {round}\r\n").as_bytes());
                    other.expect(b"+OK\r\n");
                    other.send(format!("GET {key}\r\n").as_bytes());
                    other.expect(format!("${}\r\n{round}\r\n", round.to_string().len()).as_bytes());
                }
            });
        }
        let reader = scope.spawn(|| {
            for _ in 0..5 {
                let mut client = ambassador.connect(LINK);
                client.send(b"GET value\r\n");
                assert_eq!(take(&mut client, &reply, 1), 1);
            }
        });
        let has_read = reader.join();
        is_over.store(true, Ordering::Relaxed);
        has_read.expect("all of it");
    });
}

/// What takes long to say holds up nobody: who has only asked for something asks again elsewhere, and so does who comes
/// now. Who has written has to wait, and is answered.
#[test]
fn nobody_stands_behind_a_huge_reply() {
    let target = Target::start();
    let ambassador = sharing(Launch::redis(target.address()).variable("REDIS_AUTH", "secret"), 1, 1).start();
    let [mut huge, mut reader, mut writer, mut next] = [(); 4].map(|()| ambassador.connect(LINK));
    let mut first = target.accept_authenticated();
    for (client, said) in
        [(&mut huge, "GET huge\r\n"), (&mut reader, "GET a\r\n"), (&mut writer, "SET b 1\r\n")]
    {
        client.send(said.as_bytes());
        first.expect(said.as_bytes());
    }
    let value = noise(9, 12 * MIB);
    let reply = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
    let (begin, rest) = reply.split_at(reply.len() / 2);
    let mut server = first.handle();
    let begin = begin.to_vec();
    let half = begin.len();
    let saying = thread::spawn(move || server.send(&begin));
    huge.expect(&reply[..half]);
    saying.join().expect("half a reply");
    let mut second = target.accept_authenticated();
    second.expect(b"GET a\r\n");
    second.send(b"$1\r\na\r\n");
    reader.expect(b"$1\r\na\r\n");
    next.send(b"SET c 1\r\n");
    second.expect(b"SET c 1\r\n");
    second.send(b"+OK\r\n");
    next.expect(b"+OK\r\n");
    writer.expect_silence(Duration::from_millis(50));
    let behind = [rest, b"$1\r\na\r\n+OK\r\n"].concat();
    let mut server = first.handle();
    let saying = thread::spawn(move || server.send(&behind));
    huge.expect(rest);
    saying.join().expect("the rest");
    writer.expect(b"+OK\r\n");
    // Nobody has any use for it now, and nobody has heard what was said there twice.
    first.expect_gone_in_silence();
    for client in [&mut reader, &mut writer, &mut next] {
        client.send(b"GET d\r\n");
        second.expect(b"GET d\r\n");
        second.send(b"$-1\r\n");
        client.expect(b"$-1\r\n");
    }
    // Who reads what is large has one of its own.
    huge.send(b"GET d\r\n");
    let mut third = target.accept_authenticated();
    third.expect(b"GET d\r\n");
    third.send(b"$-1\r\n");
    huge.expect(b"$-1\r\n");
}
