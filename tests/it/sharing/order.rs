//! What a client says is done in its order, whichever upstream does it, and what one client says is no other one's matter.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::wire::{Wire, show};
use super::{LINK, real, sharing, upstreams};
use crate::sessions::{counted, differential};
use crate::support::{
    Ambassador, Dice, Load, Peer, RedisServer, Version, command, eventually, noise, password,
};

/// What may travel together and what may not, in turn: what is said, and what has to be heard.
fn all_in_turn(key: &str) -> (Vec<u8>, Vec<u8>) {
    let [small, large] = [noise(1, 100), noise(2, 20_000)];
    let set = |value: &[u8]| command(&[b"SET", key.as_bytes(), value]);
    let bulk = |value: &[u8]| [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
    let get = format!("GET {key}\r\n").into_bytes();
    let text = |text: &str| text.replace("{key}", key).into_bytes();
    let turns: Vec<[Vec<u8>; 2]> = vec![
        [text("SET {key} 1\r\n"), text("+OK\r\n")],
        [
            text("MULTI\r\nGET {key}\r\nINCR {key}\r\nEXEC\r\n"),
            text("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$1\r\n1\r\n:2\r\n"),
        ],
        [get.clone(), text("$1\r\n2\r\n")],
        [text("BLPOP {key}:none 0.01\r\n"), text("*-1\r\n")],
        [text("INCR {key}\r\n"), text(":3\r\n")],
        [text("EVAL \"return redis.call('INCR', KEYS[1])\" 1 {key}\r\n"), text(":4\r\n")],
        [get.clone(), text("$1\r\n4\r\n")],
        [set(&large), text("+OK\r\n")],
        [get.clone(), bulk(&large)],
        [set(&small), text("+OK\r\n")],
        [get.clone(), bulk(&small)],
        [text("SELECT 3\r\n"), text("+OK\r\n")],
        [get.clone(), text("$-1\r\n")],
        [
            text(
                "RPUSH {key}:list a b\r\nBLPOP {key}:list 0\r\nLRANGE {key}:list 0 -1\r\nDEL {key}:list\r\n",
            ),
            {
                let name = format!("{key}:list");
                format!(":2\r\n*2\r\n${}\r\n{name}\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n:1\r\n", name.len())
                    .into_bytes()
            },
        ],
        [text("SELECT 0\r\n"), text("+OK\r\n")],
        [get.clone(), bulk(&small)],
        [
            text("WATCH {key}\r\nSET {key} 5\r\nMULTI\r\nINCR {key}\r\nEXEC\r\n"),
            text("+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n"),
        ],
        [get.clone(), text("$1\r\n5\r\n")],
        [text("NONSENSE\r\n"), b"-ERR unknown command 'NONSENSE', with args beginning with: \r\n".to_vec()],
        [text("GET\r\n"), text("-ERR wrong number of arguments for 'get' command\r\n")],
        [
            text("SUBSCRIBE c\r\nPING\r\nUNSUBSCRIBE c\r\n"),
            text(
                "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n\
             *3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n",
            ),
        ],
        [text("INCR {key}\r\n"), text(":6\r\n")],
        [text("CLIENT SETNAME me\r\nCLIENT GETNAME\r\n"), text("+OK\r\n$2\r\nme\r\n")],
        [text("CLIENT REPLY SKIP\r\nINCR {key}\r\nINCR {key}\r\n"), text(":8\r\n")],
        [text("\r\n*0\r\n"), Vec::new()],
        [text("RESET\r\n"), text("+RESET\r\n")],
        [text("CLIENT GETNAME\r\n"), text("$-1\r\n")],
        [get, text("$1\r\n8\r\n")],
        [text("ECHO the-last-word\r\n"), text("$13\r\nthe-last-word\r\n")],
    ];
    let [said, heard] =
        [0, 1].map(|side| turns.iter().map(|turn| &turn[side][..]).collect::<Vec<_>>().concat());
    (said, heard)
}

/// In one write, and cut anywhere; with others that say the same about their own keys.
#[test]
fn all_is_done_and_answered_in_a_clients_order() {
    const CLIENTS: usize = 8;
    const ROUNDS: u64 = 12;
    for (upstreams, threads) in [(1, 1), (2, 2)] {
        let Some((_server, ambassador, _)) = real("", upstreams, threads) else { return };
        let address = ambassador.address(LINK);
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                scope.spawn(move || {
                    let (said, heard) = all_in_turn(&format!("key:{number}"));
                    for round in 0..ROUNDS {
                        let mut client = Peer::connect(address);
                        let mut dice = Dice::new((round + 1) << 20);
                        let mut cuts: Vec<_> = (0..round).map(|_| dice.below(said.len())).collect();
                        cuts.sort_unstable();
                        cuts.push(said.len());
                        let mut from = 0;
                        for cut in cuts {
                            client.send(&said[from..cut]);
                            from = cut;
                        }
                        client.expect(&heard);
                    }
                });
            }
        });
    }
}

/// Whatever one client says, to others that share their upstream with it nothing happens: what they say is done once, and
/// answered.
#[test]
fn what_one_client_says_is_no_other_ones_matter() {
    // No administrator would let clients do all of this, but who does has to live with it only as far as it goes.
    let said: [&[u8]; 28] = [
        b"QUIT\r\n",
        b"GET a\r\nQUIT\r\nGET b\r\n",
        b"RESET\r\n",
        b"MULTI\r\n",
        b"MULTI\r\nGET\r\nSET a b\r\n",
        b"WATCH a\r\n",
        b"SELECT 7\r\n",
        b"HELLO 3\r\n",
        b"HELLO 3 AUTH default wrong\r\n",
        b"AUTH wrong\r\n",
        b"AUTH default wrong\r\n",
        b"SUBSCRIBE a\r\n",
        b"MONITOR\r\n",
        b"CLIENT REPLY OFF\r\nGET a\r\nGET b\r\n",
        b"CLIENT REPLY SKIP\r\n",
        b"CLIENT SETNAME somebody\r\nCLIENT NO-EVICT on\r\n",
        b"HELLO 3\r\nCLIENT TRACKING ON BCAST\r\n",
        b"BLPOP none 0\r\n",
        b"ASKING\r\nREADONLY\r\n",
        b"SYNC\r\n",
        b"GET a\r\nSET a \"b\r\n",
        b"GET a\r\n*x\r\n",
        b"GET a\r\n*1\r\n!4\r\n",
        b"*2\r\n$3\r\nGET\r\n$-1\r\n",
        b"*2\r\n$3\r\nGET\r\n$10\r\nhalf",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$20000\r\nhalf",
        b"*99999999999\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\n",
    ];
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let mut others = [(); 3].map(|()| ambassador.connect(LINK));
    let mut count = 0;
    let mut work = |others: &mut [Peer; 3]| {
        for (number, other) in others.iter_mut().enumerate() {
            count += 1;
            other.send(
                format!("SET value:{number} {count}\r\nINCR counter\r\nGET value:{number}\r\n").as_bytes(),
            );
            let value = format!("${}\r\n{count}\r\n", count.to_string().len());
            other.expect(format!("+OK\r\n:{count}\r\n{value}").as_bytes());
        }
    };
    for said in said {
        work(&mut others);
        let mut one = ambassador.connect(LINK);
        one.send(said);
        work(&mut others);
        let mut two = ambassador.connect(LINK);
        two.send(said);
        two.reset();
        work(&mut others);
        // It says nothing more, and hears all that it has to.
        let _ = one.try_finish_sending();
        work(&mut others);
        drop(one);
        work(&mut others);
    }
}

/// What one session has left on an upstream that it was lent, the next one does not find there.
#[test]
fn nothing_is_left_on_what_was_lent() {
    let Some((server, ambassador, password)) = real("", 1, 1) else { return };
    let mut administrator = server.administrator(&password);
    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg(&["who", "nobody"]).cmd("SELECT").arg(5).cmd("SET").arg(&["who", "five"]);
    pipeline.exec(&mut administrator).expect("data");
    for left in [
        "SELECT 5\r\nMULTI\r\nGET who\r\nEXEC\r\n",
        "CLIENT SETNAME one\r\nBLPOP none 0.01\r\n",
        "HELLO 3\r\nBLPOP none 0.01\r\n",
        "HELLO 3 SETNAME one\r\nSELECT 5\r\nWATCH who\r\nMULTI\r\nGET who\r\nEXEC\r\n",
        "CLIENT REPLY OFF\r\nBLPOP none 0.01\r\nCLIENT REPLY ON\r\n",
        "CLIENT REPLY SKIP\r\nGET who\r\n",
        "CLIENT REPLY SKIP\r\nBLPOP who:next 0\r\n",
        // Given back by a client that has gone.
        "MULTI\r\nSET who somebody\r\n",
        "WATCH who\r\n",
        "SUBSCRIBE a\r\n",
        "MULTI\r\nSELECT 5\r\nEXEC\r\n",
        "BLPOP who:next 0\r\n",
    ] {
        let mut one = ambassador.connect(LINK);
        one.send(left.as_bytes());
        one.send(b"ECHO end\r\n");
        // However far it gets.
        one.patience(Duration::from_millis(200));
        let mut heard = Vec::new();
        let mut byte = [0];
        while !heard.ends_with(b"end\r\n")
            && std::io::Read::read(&mut one, &mut byte).is_ok_and(|len| len > 0)
        {
            heard.push(byte[0]);
        }
        drop(one);
        eventually("it is given back", || upstreams(&ambassador, "lent") == 0);
        for _ in 0..3 {
            let mut next = ambassador.connect(LINK);
            next.send(
                b"MULTI\r\nGET who\r\nCLIENT GETNAME\r\nEXEC\r\nBLPOP none 0.01\r\nGET who\r\nRPUSH who:next a\r\n\
                  DEL who:next\r\n",
            );
            let name = "$6\r\nnobody\r\n";
            next.expect(
                format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n{name}$-1\r\n*-1\r\n{name}:1\r\n:1\r\n")
                    .as_bytes(),
            );
            let mut in_five = ambassador.connect(LINK);
            in_five.send(
                b"SELECT 5\r\nMULTI\r\nGET who\r\nCLIENT GETNAME\r\nEXEC\r\nBLPOP none 0.01\r\nGET who\r\n",
            );
            let name = "$4\r\nfive\r\n";
            in_five.expect(
                format!("+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n{name}$-1\r\n*-1\r\n{name}").as_bytes(),
            );
        }
    }
}

/// A transaction is one client's, and what others say meanwhile is not in it.
#[test]
fn nobody_is_drawn_into_anothers_transaction() {
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let mut all: Vec<_> = (0..10).map(|_| ambassador.connect(LINK)).collect();
    for client in &mut all {
        client.send(b"SET shared 0\r\n");
        client.expect(b"+OK\r\n");
    }
    let (inside, outside) = all.split_at_mut(5);
    for (number, client) in inside.iter_mut().enumerate() {
        client.send(format!("MULTI\r\nSET inside:{number} {number}\r\n").as_bytes());
        client.expect(b"+OK\r\n+QUEUED\r\n");
    }
    for client in &mut *outside {
        client.send(
            b"EXISTS inside:0 inside:1 inside:2 inside:3 inside:4\r\nEXEC\r\nDISCARD\r\nINCR shared\r\n",
        );
        client.expect(b":0\r\n-ERR EXEC without MULTI\r\n-ERR DISCARD without MULTI\r\n");
        assert!(client.expect_line().starts_with(':'));
    }
    for (number, client) in inside.iter_mut().enumerate() {
        client.send(format!("GET inside:{number}\r\nEXEC\r\nGET inside:{number}\r\n").as_bytes());
        client.expect(format!("+QUEUED\r\n*2\r\n+OK\r\n$1\r\n{number}\r\n$1\r\n{number}\r\n").as_bytes());
    }
    outside[0].send(b"GET shared\r\n");
    outside[0].expect(b"$1\r\n5\r\n");
}

/// A key that is watched is watched on the server, whoever changes it, and where.
#[test]
fn a_watched_key_is_watched() {
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let [mut one, mut two] = [(); 2].map(|()| ambassador.connect(LINK));
    for (change, executed) in [("SET k 2\r\n", false), ("GET k\r\n", true), ("SET other 2\r\n", true)] {
        one.send(b"SET k 1\r\nWATCH k\r\nGET k\r\n");
        one.expect(b"+OK\r\n+OK\r\n$1\r\n1\r\n");
        two.send(change.as_bytes());
        two.expect_line();
        if change.starts_with("GET") {
            two.expect(b"1\r\n");
        }
        one.send(b"MULTI\r\nSET k 3\r\nEXEC\r\nGET k\r\n");
        one.expect(b"+OK\r\n+QUEUED\r\n");
        one.expect(if executed { b"*1\r\n+OK\r\n$1\r\n3\r\n" } else { b"*-1\r\n$1\r\n2\r\n" });
    }
}

/// Who waits for something delays nobody, not even the one that it waits for.
#[test]
fn who_blocks_delays_nobody() {
    const BLOCKED: usize = 20;
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let mut blocked: Vec<_> = (0..BLOCKED).map(|_| ambassador.connect(LINK)).collect();
    for (number, client) in blocked.iter_mut().enumerate() {
        client.send(
            format!("SET before:{number} 1\r\nBLPOP queue:{number} 0\r\nGET before:{number}\r\n").as_bytes(),
        );
        client.expect(b"+OK\r\n");
    }
    let mut other = ambassador.connect(LINK);
    for number in (0..BLOCKED).rev() {
        other.send(
            format!("PING\r\nGET before:{number}\r\nRPUSH queue:{number} value:{number}\r\n").as_bytes(),
        );
        other.expect(b"+PONG\r\n$1\r\n1\r\n:1\r\n");
        let [queue, value] = [format!("queue:{number}"), format!("value:{number}")];
        let heard =
            format!("*2\r\n${}\r\n{queue}\r\n${}\r\n{value}\r\n$1\r\n1\r\n", queue.len(), value.len());
        blocked[number].expect(heard.as_bytes());
    }
}

/// While a script keeps the server busy, a client that shares its database with others can end it.
#[test]
fn who_shares_can_end_what_keeps_the_server_busy() {
    let Some((_server, ambassador, _)) = real("lua-time-limit 10", 1, 1) else { return };
    let [mut one, mut two] = [(); 2].map(|()| ambassador.connect(LINK));
    for client in [&mut one, &mut two] {
        client.send(b"SELECT 3\r\nGET k\r\n");
        client.expect(b"+OK\r\n$-1\r\n");
    }
    // While the server is busy, nobody gets to a shared upstream of that database who is not there yet.
    eventually("what was lent is given back", || upstreams(&ambassador, "lent") == 0);
    two.send(b"GET k\r\n");
    two.expect(b"$-1\r\n");
    assert_eq!(upstreams(&ambassador, "lent"), 0);
    one.send(b"EVAL \"while true do end\" 0\r\n");
    eventually("the server is busy", || {
        two.send(b"GET k\r\n");
        two.expect_line().starts_with("-BUSY")
    });
    two.send(b"SCRIPT KILL\r\n");
    two.expect(b"+OK\r\n");
    assert!(one.expect_line().contains("killed by user"));
    two.send(b"FUNCTION KILL\r\nGET k\r\n");
    two.expect(b"-NOTBUSY No scripts in execution right now.\r\n$-1\r\n");
}

/// Messages are for those who have subscribed, in both protocols.
#[test]
fn messages_are_for_subscribers() {
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let address = ambassador.address(LINK);
    let mut wires = [(); 4].map(|()| Wire::connect(address));
    let [two, three, other_two, other_three] = &mut wires;
    for wire in [&mut *three, &mut *other_three] {
        wire.say(b"HELLO 3\r\n");
        assert!(wire.hear().is_ok_and(|reply| reply.starts_with(b"%7\r\n")));
    }
    for (wire, kind) in [(&mut *two, '*'), (&mut *three, '>')] {
        wire.say(b"GET none\r\nSUBSCRIBE channel\r\n");
        let _none = wire.hear();
        let subscribed = format!("{kind}3\r\n$9\r\nsubscribe\r\n$7\r\nchannel\r\n:1\r\n");
        assert_eq!(wire.hear().as_deref(), Ok(subscribed.as_bytes()));
    }
    for number in 0..50 {
        for wire in [&mut *other_two, &mut *other_three] {
            wire.say(format!("PUBLISH channel {number:03}\r\nECHO own\r\n").as_bytes());
            assert_eq!(wire.hear().as_deref(), Ok(&b":2\r\n"[..]));
            assert_eq!(wire.hear().as_deref(), Ok(&b"$3\r\nown\r\n"[..]));
        }
        for (wire, kind) in [(&mut *two, '*'), (&mut *three, '>')] {
            let message = format!("{kind}3\r\n$7\r\nmessage\r\n$7\r\nchannel\r\n$3\r\n{number:03}\r\n");
            for _ in 0..2 {
                assert_eq!(wire.hear().as_deref(), Ok(message.as_bytes()));
            }
        }
    }
}

/// An invalidation is for the client that tracks, and comes though others share the rest.
#[test]
fn invalidations_are_for_those_who_track() {
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let address = ambassador.address(LINK);
    let mut wires = [(); 3].map(|()| Wire::connect(address));
    for wire in &mut wires {
        wire.say(b"SET before 1\r\nHELLO 3\r\nSET k 1\r\n");
        for _ in 0..3 {
            assert!(wire.hear().is_ok());
        }
    }
    let [tracking, other, reader] = &mut wires;
    tracking.say(b"CLIENT TRACKING ON\r\nGET k\r\n");
    assert_eq!(tracking.hear().as_deref(), Ok(&b"+OK\r\n"[..]));
    assert_eq!(tracking.hear().as_deref(), Ok(&b"$1\r\n1\r\n"[..]));
    reader.say(b"GET k\r\n");
    assert_eq!(reader.hear().as_deref(), Ok(&b"$1\r\n1\r\n"[..]));
    other.say(b"SET k 2\r\nECHO own\r\n");
    assert_eq!(other.hear().as_deref(), Ok(&b"+OK\r\n"[..]));
    assert_eq!(other.hear().as_deref(), Ok(&b"$3\r\nown\r\n"[..]));
    assert_eq!(tracking.hear().as_deref(), Ok(&b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"[..]));
    reader.say(b"GET k\r\n");
    assert_eq!(reader.hear().as_deref(), Ok(&b"$1\r\n2\r\n"[..]));
}

/// `WAIT` says how many replicas have what this client wrote, whichever upstream wrote it; or nothing at all.
#[test]
fn a_wait_is_no_false_promise() {
    let Some((server, ambassador, password)) = real("repl-diskless-sync-delay 0", 1, 1) else { return };
    let (ip, port) = (server.address().ip(), server.address().port());
    let configuration = format!("masterauth {password}\nreplicaof {ip} {port}");
    let Some(replica) = RedisServer::start_announced(&configuration) else { return };
    let mut administrator = server.administrator(&password);
    eventually("a replica", || {
        let info: String = redis::cmd("INFO").arg("replication").query(&mut administrator).expect("INFO");
        info.contains("state=online")
    });
    let mut client = Wire::connect(ambassador.address(LINK));
    client.say(b"SET k 1\r\nWAIT 1 20000\r\n");
    assert_eq!(client.hear().as_deref(), Ok(&b"+OK\r\n"[..]));
    // It may be that a session with shared upstreams does not know, and ends.
    let waited = client.hear();
    assert!(waited.as_deref().is_ok_and(|reply| reply == b":1\r\n") || waited.is_err(), "{waited:?}");
    replica.signal(Signal::STOP);
    let mut client = Wire::connect(ambassador.address(LINK));
    client.say(b"SET k 2\r\nWAIT 1 200\r\n");
    assert_eq!(client.hear().as_deref(), Ok(&b"+OK\r\n"[..]));
    let waited = client.hear().map(|reply| show(&reply));
    assert_ne!(waited.as_deref(), Ok(":1\\r\\n"), "no replica has it");
    replica.signal(Signal::CONT);
}

/// Neighbours that speak all the time, on the upstreams that a stream of commands shares with them.
fn neighbours(ambassador: &Ambassador) -> Load {
    let mut load = Load::on(ambassador.address(LINK));
    for options in ["", "?protocol=resp3"] {
        load.add_with(options, "neighbour", 3, Duration::from_millis(1), |connection, client, number| {
            let own = format!("{client}:{number}");
            let mut pipeline = redis::pipe();
            pipeline.cmd("ECHO").arg(&own).cmd("GET").arg(format!("neighbour:{own}")).cmd("ECHO").arg(&own);
            let heard: (String, Option<String>, String) = pipeline.query(connection)?;
            assert_eq!(heard, (own.clone(), None, own));
            Ok(())
        });
    }
    load
}

/// Random streams of commands are answered as by a server that the client has to itself, byte for byte, though others
/// speak between them, and the others hear their own.
#[test]
fn among_others_every_byte_is_the_servers() {
    for (version, password) in [(Version::Redis70, password()), (Version::Valkey91, String::new())] {
        let is_open = password.is_empty();
        differential::compare_beside(
            version,
            password,
            is_open,
            |launch| sharing(launch, 1, 1),
            Some(neighbours),
        );
    }
}

/// Every command is counted once, wherever it is done.
#[test]
fn commands_are_counted_wherever_they_are_done() {
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let mut clients: Vec<_> = (0..5).map(|_| ambassador.connect(LINK)).collect();
    for client in &mut clients {
        client.send(b"SET k v\r\nGET k\r\nMULTI\r\nEXEC\r\nGET\r\n");
        client.expect(b"+OK\r\n$1\r\nv\r\n+OK\r\n*0\r\n-ERR wrong number of arguments for 'get' command\r\n");
    }
    assert_eq!(counted(&ambassador, &format!("commands_total{{link=\"{LINK}\"}}")), 25);
    assert_eq!(counted(&ambassador, &format!("errors_total{{link=\"{LINK}\",code=\"ERR\"}}")), 5);
}

/// Who says that it leaves is not heard any more, and the others stay.
#[test]
fn nothing_behind_quit_is_done() {
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let mut other = ambassador.connect(LINK);
    for said in
        ["QUIT\r\nSET k v\r\n", "PING\r\nQUIT\r\nSET k v\r\nPING\r\n", "MULTI\r\nEXEC\r\nQUIT\r\nSET k v\r\n"]
    {
        let mut client = ambassador.connect(LINK);
        client.send(said.as_bytes());
        let heard = client.expect_rest();
        assert!(heard.ends_with(b"+OK\r\n"), "{said:?}: {}", heard.escape_ascii());
        other.send(b"GET k\r\n");
        other.expect(b"$-1\r\n");
    }
}

/// The number of its connection is a client's own, and stays so.
#[test]
fn who_asks_for_its_number_keeps_it() {
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let mut numbers = Vec::new();
    let mut clients: Vec<_> = (0..5).map(|_| ambassador.connect(LINK)).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.send(b"CLIENT ID\r\n");
            numbers.push(client.expect_line());
            client.send(b"GET k\r\n");
            client.expect(b"$-1\r\n");
        }
    }
    let [first, second, third] = [0, 1, 2].map(|round| &numbers[5 * round..][..5]);
    assert_eq!([first, first], [second, third]);
    let mut once = first.to_vec();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), 5, "{first:?}");
}

/// A WAIT in a transaction is one command of it, and one behind writes is for those.
#[test]
fn a_wait_is_answered_as_it_is() {
    let Some((_server, ambassador, _)) = real("", 1, 1) else { return };
    let mut client = ambassador.connect(LINK);
    for _ in 0..3 {
        client.send(b"SET k v\r\nWAIT 0 10\r\nMULTI\r\nSET k v\r\nWAIT 0 10\r\nEXEC\r\nGET k\r\n");
        client.expect(b"+OK\r\n:0\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:0\r\n$1\r\nv\r\n");
    }
}
