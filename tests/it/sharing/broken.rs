//! A server that misbehaves on a shared upstream: nobody is told what another one was to hear.

use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{LINK, sharing, upstreams};
use crate::support::{Ambassador, Launch, PATIENCE, Peer, Served, Target, eventually};

/// A server whose replies are Redis', but for what it was told to answer on the first connection that it is asked
/// something on.
struct Played {
    served: Served,
    asked: Arc<Mutex<Asked>>,
}

/// What a server was asked, of handshakes nothing.
#[derive(Default)]
struct Asked {
    connections: usize,
    /// The number of the connection, and the command.
    commands: Vec<(usize, Vec<String>)>,
    /// A handle to the connection that all of this is about.
    first: Option<(usize, Peer)>,
    /// The number of the connection on which the server has misbehaved. It does so once.
    spoiled: Option<usize>,
}

/// After how many commands a server answers, with which bytes, and whether it ends the connection then.
#[derive(Clone, Copy)]
struct Answer {
    after: usize,
    bytes: &'static str,
    ends: bool,
}

fn lock(asked: &Mutex<Asked>) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Played {
    fn start(answer: Option<Answer>) -> Self {
        let asked = Arc::new(Mutex::new(Asked::default()));
        let served = Target::start().serve({
            let asked = Arc::clone(&asked);
            move |peer| play(peer, &asked, answer)
        });
        Self { served, asked }
    }

    fn ambassador(&self, change: impl FnOnce(Launch) -> Launch) -> Ambassador {
        change(sharing(Launch::redis(self.served.address()).variable("REDIS_AUTH", "secret"), 1, 1)).start()
    }

    /// Waits until so many commands have come.
    #[track_caller]
    fn has_heard(&self, count: usize) {
        eventually(&format!("{count} commands at the server"), || lock(&self.asked).commands.len() >= count);
    }

    /// How many times the server was asked to do this.
    fn times(&self, words: &[&str]) -> usize {
        lock(&self.asked).commands.iter().filter(|(_, command)| command == words).count()
    }

    /// How many connections were asked something.
    fn connections(&self) -> usize {
        let asked = lock(&self.asked);
        let mut connections: Vec<_> = asked.commands.iter().map(|(connection, _)| *connection).collect();
        connections.sort_unstable();
        connections.dedup();
        connections.len()
    }

    /// Says something on the first connection that nobody has asked for.
    fn say(&self, bytes: &[u8]) {
        let mut asked = lock(&self.asked);
        let (_, first) = asked.first.as_mut().expect("a connection");
        // Where it has been closed already, that is what has to come of it.
        let _ = first.try_send(bytes);
    }
}

/// Plays one connection.
fn play(mut peer: Peer, asked: &Mutex<Asked>, answer: Option<Answer>) {
    let number = {
        let mut asked = lock(asked);
        asked.connections += 1;
        asked.connections
    };
    let (mut received, mut chunk) = (Vec::new(), [0; 4096]);
    // It is told of the other side's end.
    peer.patience(3 * PATIENCE);
    while let Ok(len @ 1..) = peer.read(&mut chunk) {
        received.extend(&chunk[..len]);
        while let Some((words, len)) = first_command(&received) {
            received.drain(..len);
            if words.is_empty() {
                continue;
            }
            let mut asked = lock(asked);
            let reply = honest(&words);
            let is_handshake =
                ["AUTH", "HELLO", "SELECT", "RESET", "CLIENT", "PING"].contains(&&*words[0].to_uppercase());
            if is_handshake {
                if peer.try_send(&reply).is_err() {
                    return;
                }
                continue;
            }
            asked.commands.push((number, words));
            if asked.first.is_none() {
                asked.first = Some((number, peer.handle()));
            }
            let is_first = asked.first.as_ref().is_some_and(|(first, _)| *first == number);
            match (answer, asked.spoiled) {
                (Some(answer), None) if is_first => {
                    if asked.commands.len() < answer.after {
                        continue;
                    }
                    asked.spoiled = Some(number);
                    let _ = peer.try_send(answer.bytes.as_bytes());
                    if answer.ends {
                        let _ = peer.try_finish_sending();
                    }
                }
                // Nothing more is answered there.
                (_, Some(spoiled)) if spoiled == number => {}
                _ => {
                    if peer.try_send(&reply).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// The value of a key is its name; all else is done.
fn honest(words: &[String]) -> Vec<u8> {
    let name = words[0].to_uppercase();
    match &*name {
        "GET" => format!("${}\r\n{}\r\n", words[1].len(), words[1]),
        "PING" if words.len() == 2 => format!("${}\r\n{}\r\n", words[1].len(), words[1]),
        "PING" => "+PONG\r\n".to_owned(),
        "RESET" => "+RESET\r\n".to_owned(),
        "HELLO" => {
            "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n\
                    $2\r\nid\r\n:7\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n\
                    $7\r\nmodules\r\n*0\r\n"
                .to_owned()
        }
        _ => "+OK\r\n".to_owned(),
    }
    .into_bytes()
}

/// The words of the command with which these bytes begin, and how long it is, where it is whole.
fn first_command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let (first, mut at) = line_at(bytes, 0)?;
    let Some(count) = first.strip_prefix('*') else {
        return Some((first.split_whitespace().map(str::to_owned).collect(), at));
    };
    let mut words = Vec::new();
    for _ in 0..count.parse().expect("a number of words") {
        let (head, begin) = line_at(bytes, at)?;
        let len: usize = head[1..].parse().expect("a length");
        words.push(String::from_utf8_lossy(bytes.get(begin..begin + len)?).into_owned());
        at = begin + len + 2;
    }
    (at <= bytes.len()).then_some((words, at))
}

/// A line that begins there, and where the next one does.
fn line_at(bytes: &[u8], at: usize) -> Option<(String, usize)> {
    let rest = bytes.get(at..)?;
    let len = rest.windows(2).position(|two| two == b"\r\n")?;
    Some((String::from_utf8_lossy(&rest[..len]).into_owned(), at + len + 2))
}

/// The log says that a shared upstream was given up, as an error.
#[track_caller]
fn expect_error(ambassador: &Ambassador) {
    ambassador.wait_for_log("an error about a shared upstream", |line| {
        line["level"] == "ERROR" && line["link"] == LINK && line.to_string().contains("shared")
    });
}

/// A client for each of what is [said](SAID), which the server has heard in this order.
fn all_ask(played: &Played) -> (Ambassador, [Peer; SAID.len()]) {
    let ambassador = played.ambassador(|launch| launch);
    let mut clients = SAID.map(|_| ambassador.connect(LINK));
    for (number, (client, said)) in clients.iter_mut().zip(SAID).enumerate() {
        client.send(said.as_bytes());
        played.has_heard(number + 1);
    }
    (ambassador, clients)
}

/// It reads what is its own, or its connection is over and it has read a part of that at most; or a part of what the
/// server said in its place. Says which.
#[track_caller]
fn is_served(client: &mut Peer, own: &str, in_its_place: &str) -> bool {
    let mut heard = Vec::new();
    let mut byte = [0];
    while heard != own.as_bytes() {
        match client.read(&mut byte) {
            Ok(1) => heard.push(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nothing comes behind {}", heard.escape_ascii())
            }
            _ => return false,
        }
        assert!(
            own.as_bytes().starts_with(&heard) || in_its_place.as_bytes().starts_with(&heard),
            "{} instead of {}",
            heard.escape_ascii(),
            own.escape_debug()
        );
    }
    true
}

/// Those who have asked for something when their server misbehaves: one after the other two readers, a writer, and one
/// more reader.
const SAID: [&str; 4] = ["GET a\r\n", "GET b\r\n", "SET c 1\r\n", "GET d\r\n"];
const OWN: [&str; 4] = ["$1\r\na\r\n", "$1\r\nb\r\n", "+OK\r\n", "$1\r\nd\r\n"];

/// What the server says to all four of them, and how many of them it tells what is right.
const BROKEN: [(&str, usize); 20] = [
    // Pushes, which nobody on a shared upstream asks for.
    (">2\r\n+push\r\n+in RESP2\r\n$1\r\na\r\n$1\r\nb\r\n+OK\r\n$1\r\nd\r\n", 0),
    ("$1\r\na\r\n>2\r\n+push\r\n+in RESP2\r\n$1\r\nb\r\n+OK\r\n$1\r\nd\r\n", 1),
    ("$1\r\na\r\n$1\r\nb\r\n>2\r\n+push\r\n+in RESP2\r\n+OK\r\n$1\r\nd\r\n", 2),
    (">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\na\r\n", 0),
    // What is no reply.
    ("HTTP/1.1 400 Bad Request\r\n\r\n", 0),
    ("$1\r\na\r\nHTTP/1.1 400 Bad Request\r\n\r\n", 1),
    ("\u{0}\u{1}\u{2}\r\n", 0),
    ("a\r\n", 0),
    ("$1\r\na\r\n\r\n$1\r\nb\r\n", 1),
    // Lengths that are none.
    ("$99999999999999999999\r\n", 0),
    ("$1\r\na\r\n$-2\r\n", 1),
    ("$1\r\na\r\n*-3\r\n+a\r\n", 1),
    ("*1x\r\n+a\r\n", 0),
    ("$x\r\na\r\n", 0),
    ("*99999999999999999999\r\n", 0),
    // Values that are longer than they say.
    ("$1\r\nab\r\n$1\r\nb\r\n", 0),
    ("$1\r\na\r\n$1\r\nb\r\n$1\r\nccc\r\n", 2),
    // Lines that are two.
    ("$1\r\na\r\n+a\n+b\r\n\r\n", 1),
    ("$1\r\na\r\n-ERR a\nb\r\n$1\r\nb\r\n", 1),
    ("$1\r\na\r\n$1\r\nb\r\n-ERR a\rb\r\n", 2),
];

/// Who was answered before has that; readers are served by another upstream, or closed; a writer is closed, and what it
/// said not said again; and from then on everything is right. The log says so.
#[test]
fn nobody_hears_what_a_broken_upstream_says() {
    for (bytes, right) in BROKEN {
        let played = Played::start(Some(Answer { after: 4, bytes, ends: false }));
        let (ambassador, mut clients) = all_ask(&played);
        let case = bytes.escape_debug();
        let wrong = &bytes[OWN[..right].concat().len()..];
        // A push may be anybody's.
        let wrong = if wrong.starts_with('>') { "" } else { wrong };
        let served: Vec<_> = clients
            .iter_mut()
            .zip(OWN)
            .enumerate()
            .map(|(number, (client, own))| is_served(client, own, if number == right { wrong } else { "" }))
            .collect();
        println!("{case}: {served:?}");
        for (number, served) in served.iter().enumerate().take(right) {
            assert!(served, "client {number} had been answered before: {case}");
        }
        assert!(!served[2], "nobody knows whether it was written: {case}");
        expect_error(&ambassador);
        for ((client, served), said) in clients.iter_mut().zip(&served).zip(["e", "f", "g", "h"]) {
            if *served {
                client.send(format!("GET {said}\r\nSET {said} 1\r\n").as_bytes());
                client.expect(format!("$1\r\n{said}\r\n+OK\r\n").as_bytes());
            } else {
                client.expect_gone_in_silence();
            }
        }
        let mut fresh = ambassador.connect(LINK);
        fresh.send(b"SET z 1\r\nGET z\r\n");
        fresh.expect(b"+OK\r\n$1\r\nz\r\n");
        assert_eq!(played.times(&["SET", "c", "1"]), 1, "it was written again: {case}");
        assert_eq!(upstreams(&ambassador, "shared"), 1, "{case}");
        assert_eq!(played.connections(), 2, "{case}");
    }
}

/// Replies that nobody has asked for, behind right ones: the clients have theirs, and the next ones get theirs from
/// another upstream.
#[test]
fn more_replies_than_commands_are_nobodys() {
    for more in
        ["+more\r\n", "$4\r\nmore\r\n", "-ERR more\r\n", ":1\r\n:2\r\n:3\r\n", "*2\r\n:1\r\n:2\r\n", "+mo"]
    {
        let bytes: &'static str = format!("{}{more}", OWN.concat()).leak();
        let played = Played::start(Some(Answer { after: 4, bytes, ends: false }));
        let (ambassador, mut clients) = all_ask(&played);
        for (client, own) in clients.iter_mut().zip(OWN) {
            client.expect(own.as_bytes());
        }
        expect_error(&ambassador);
        for (client, key) in clients.iter_mut().zip(["e", "f", "g", "h"]) {
            client.send(format!("GET {key}\r\nSET {key} 1\r\nGET {key}\r\n").as_bytes());
            client.expect(format!("$1\r\n{key}\r\n+OK\r\n$1\r\n{key}\r\n").as_bytes());
        }
        assert_eq!(played.connections(), 2, "{more:?}");
    }
}

/// The same out of the blue, while nobody is owed anything.
#[test]
fn what_a_shared_upstream_says_unasked_is_nobodys() {
    for unasked in [
        "+unasked\r\n",
        "-ERR max number of clients reached\r\n",
        ">2\r\n+push\r\n+b\r\n",
        "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
        "\r\n",
        "+half",
    ] {
        let played = Played::start(None);
        let ambassador = played.ambassador(|launch| launch);
        let mut clients = [(); 5].map(|()| ambassador.connect(LINK));
        for client in &mut clients {
            client.send(b"GET a\r\nSET a 1\r\n");
            client.expect(b"$1\r\na\r\n+OK\r\n");
        }
        played.say(unasked.as_bytes());
        expect_error(&ambassador);
        for client in &mut clients {
            client.send(b"GET b\r\nSET b 1\r\nGET bb\r\n");
            client.expect(b"$1\r\nb\r\n+OK\r\n$2\r\nbb\r\n");
        }
        assert_eq!(played.connections(), 2, "{unasked:?}");
    }
}

/// Pushes are expected where somebody has subscribed, which on a shared upstream nobody has, in RESP3 neither.
#[test]
fn a_push_on_a_shared_upstream_is_nobodys_in_resp3_too() {
    let played = Played::start(None);
    let ambassador = played.ambassador(|launch| launch);
    let mut clients = [(); 3].map(|()| ambassador.connect(LINK));
    for client in &mut clients {
        client.send(b"HELLO 3\r\n");
        assert!(client.expect_line().starts_with('%'));
        while client.expect_line() != "*0" {}
        client.send(b"GET a\r\n");
        client.expect(b"$1\r\na\r\n");
    }
    played.say(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n");
    expect_error(&ambassador);
    for client in &mut clients {
        client.send(b"GET b\r\n");
        client.expect(b"$1\r\nb\r\n");
    }
}

/// A shared upstream that ends is no error: readers are served by the next one, whoever has read a part of its reply is
/// closed, and so is a writer.
#[test]
fn a_shared_upstream_that_ends_in_a_reply_costs_one_reader_at_most() {
    for (bytes, right) in [
        ("", 0),
        ("$1\r\na\r\n", 1),
        ("$1\r\na\r\n$1\r\nb\r\n", 2),
        ("$1\r", 0),
        ("$1\r\na", 0),
        ("$1\r\na\r\n$1\r\nb\r", 1),
        ("$1\r\na\r\n$1\r\nb\r\n+O", 2),
    ] {
        let played = Played::start(Some(Answer { after: 4, bytes, ends: true }));
        let (_ambassador, mut clients) = all_ask(&played);
        let case = bytes.escape_debug();
        let is_half = !bytes.ends_with('\n') && !bytes.is_empty();
        let served: Vec<_> =
            clients.iter_mut().zip(OWN).map(|(client, own)| is_served(client, own, "")).collect();
        for (number, served) in served.iter().enumerate() {
            let may_end = number == 2 || (is_half && number == right);
            assert!(*served || may_end, "client {number} is closed: {case}");
        }
        assert!(!served[2], "nobody knows whether it was written: {case}");
        assert_eq!(played.times(&["SET", "c", "1"]), 1, "it was written again: {case}");
    }
}

/// Says something of its own accord before every reply, as some proxies do.
fn says_more(mut peer: Peer) {
    let (mut received, mut chunk) = (Vec::new(), [0; 4096]);
    peer.patience(3 * PATIENCE);
    while let Ok(len @ 1..) = peer.read(&mut chunk) {
        received.extend(&chunk[..len]);
        while let Some((words, len)) = first_command(&received) {
            received.drain(..len);
            let more = if words[0] == "GET" { &b">1\r\n+more\r\n"[..] } else { b"" };
            if peer.try_send(&[more, &honest(&words)].concat()).is_err() {
                return;
            }
        }
    }
}

/// Whoever is owed a write is reset, as without us: it may have been executed.
#[test]
fn who_is_owed_a_write_is_reset_when_a_shared_upstream_breaks() {
    let target = Target::start();
    let launch = Launch::redis(target.address()).variable("REDIS_AUTH", "secret");
    let ambassador = sharing(launch, 1, 1).start();
    for push in [None, Some(b">1\r\n+more\r\n")] {
        let mut client = ambassador.connect(LINK);
        let mut upstream = target.accept_authenticated();
        client.send(b"SET a 1\r\n");
        upstream.expect(b"SET a 1\r\n");
        match push {
            Some(push) => upstream.send(push),
            None => upstream.reset(),
        }
        client.expect_reset();
    }
}

/// Errors of scripts have line ends in them here, and a line of such an error is late: it comes with the next answer.
fn says_late(mut peer: Peer) {
    let (mut received, mut chunk) = (Vec::new(), [0; 4096]);
    peer.patience(3 * PATIENCE);
    let mut late: &[u8] = b"";
    while let Ok(len @ 1..) = peer.read(&mut chunk) {
        received.extend(&chunk[..len]);
        while let Some((words, len)) = first_command(&received) {
            received.drain(..len);
            let said = if words[0] == "EVAL" { b"*1\r\n-a\r\n".to_vec() } else { honest(&words) };
            if peer.try_send(&[late, &said].concat()).is_err() {
                return;
            }
            late = if words[0] == "EVAL" { b"+of another one\r\n" } else { b"" };
        }
    }
}

/// Before an upstream that was lent is lent to somebody else, the server has to prove that it has said all that there was to
/// say to the one before.
#[test]
fn what_is_late_on_a_lent_upstream_is_nobodys() {
    let served = Target::start().serve(says_late);
    let launch = Launch::redis(served.address()).variable("REDIS_AUTH", "secret");
    let ambassador = sharing(launch, 1, 1).start();
    for _ in 0..10 {
        let mut client = ambassador.connect(LINK);
        client.send(b"EVAL return 0\r\n");
        client.expect(b"*1\r\n-a\r\n");
        eventually("nothing is lent", || upstreams(&ambassador, "lent") == 0);
        client.finish_sending();
        client.expect_end();
    }
}

/// What can't be shared is not shared: after a few tries each client has its own connection, with one warning.
#[test]
fn a_target_that_can_not_be_shared_serves_each_client_on_its_own() {
    let served = Target::start().serve(says_more);
    let launch = Launch::redis(served.address()).variable("REDIS_AUTH", "secret");
    let ambassador = sharing(launch, 1, 1).start();
    let mut early = ambassador.connect(LINK);
    early.send(b"PING\r\n");
    early.expect(b"+PONG\r\n");
    let told = || ambassador.logged(|line| line["message"].to_string().contains("can't be shared"));
    eventually("the target is not shared any more", || {
        let mut client = ambassador.connect(LINK);
        client.send(b"GET a\r\n");
        client.receive(1);
        !told().is_empty()
    });
    for client in [&mut early, &mut ambassador.connect(LINK)] {
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
        client.send(b"GET a\r\n");
        client.expect(b">1\r\n+more\r\n$1\r\na\r\n");
    }
    let told = told();
    let [told] = &told[..] else { panic!("{told:?}") };
    assert!(told["remedy"].to_string().contains("remove REDIS_SHARE"), "{told}");
    assert_eq!(upstreams(&ambassador, "shared"), 0);
}
