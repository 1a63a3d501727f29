//! Sessions: a client and the servers that it is led to one after the other, each of which answers as Redis does, command by
//! command, and may break at any time. What was acknowledged was executed, nothing is executed twice, and every reply is
//! the one to its command.

use super::*;
use crate::metrics::Metrics;
use crate::resp;
use crate::resp::commands::{First, UNLIMITED, first};

/// A command, by the reply that it has.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// A value of so many bytes, full of what looks like other replies.
    Value(usize),
    /// `+OK`, to a write with so many bytes in it.
    Write(usize),
    /// A number, after so many milliseconds in which nothing else is answered.
    Blocks(u64),
    Select(u8),
    Reset,
}

impl Asked {
    fn command(self, number: usize) -> Vec<u8> {
        let number = number.to_string();
        let number = number.as_bytes();
        let value = vec![b'x'; if let Self::Write(length) = self { length } else { 0 }];
        let database = [if let Self::Select(database) = self { b'0' + database } else { 0 }];
        let command = match self {
            Self::Value(_) => vec![&b"GET"[..], number],
            Self::Write(_) => vec![&b"SET"[..], number, &value],
            Self::Blocks(_) => vec![&b"BLPOP"[..], number, b"0"],
            Self::Select(_) => vec![&b"SELECT"[..], &database],
            Self::Reset => vec![&b"RESET"[..]],
        };
        resp::commands(&[command]).expose().to_vec()
    }

    fn reply(self, number: usize) -> Vec<u8> {
        match self {
            Self::Value(length) => {
                let value: Vec<u8> =
                    b"+OK\r\n+RESET\r\n$-1\r\n".iter().copied().cycle().take(length).collect();
                [format!("${length}\r\n").as_bytes(), &value, b"\r\n"].concat()
            }
            Self::Write(_) | Self::Select(_) => b"+OK\r\n".to_vec(),
            Self::Blocks(_) => format!(":{number}\r\n").into_bytes(),
            Self::Reset => b"+RESET\r\n".to_vec(),
        }
    }
}

#[derive(Debug, Clone)]
struct Story {
    /// What the client asks, told from each other by their numbers.
    commands: Vec<Asked>,
    client: Script,
    /// The lines to the servers, and after how many replies each of them breaks, or ends its stream.
    servers: Vec<(Manners, Option<(usize, bool)>)>,
    /// How many milliseconds each dial takes.
    dial: u64,
    /// When the session is asked to leave its upstream.
    moves: Option<u64>,
    /// After how many quiet milliseconds it gives its upstream back.
    release: Option<u64>,
}

/// What a server has executed: the number of the command in the story.
type Executed = Arc<Mutex<Vec<usize>>>;

/// Serves as Redis does, up to its end.
async fn serve(mut socket: Socket, story: &Story, ends: Option<(usize, bool)>, executed: Executed) {
    let (mut heard, mut at) = (Vec::new(), 0);
    let mut left = ends.map_or(usize::MAX, |(replies, _)| replies);
    loop {
        while let First::Command(words, length) = first(&heard[at..], UNLIMITED) {
            if left == 0 {
                break;
            }
            left -= 1;
            // Those without a number have nothing to be executed twice.
            let number = words.get(1).and_then(|word| std::str::from_utf8(word).ok()?.parse::<usize>().ok());
            let name = words[0].to_vec();
            at += length;
            let reply = match (&name[..], number) {
                (b"RESET", _) => Asked::Reset.reply(0),
                (b"SELECT", _) => b"+OK\r\n".to_vec(),
                (_, Some(number)) => {
                    let asked = story.commands[number];
                    if let Asked::Blocks(time) = asked {
                        sleep(Duration::from_millis(time)).await;
                    }
                    if !matches!(asked, Asked::Value(_)) {
                        executed.lock().push(number);
                    }
                    asked.reply(number)
                }
                other => panic!("a server heard {other:?}"),
            };
            if socket.write_all(&reply).await.is_err() {
                return;
            }
        }
        if left == 0 {
            if ends.is_some_and(|(_, cleanly)| cleanly) {
                let _ = socket.shutdown().await;
            }
            return;
        }
        if !matches!(socket.read_buf(&mut heard).await, Ok(1..)) {
            let _ = socket.shutdown().await;
            return;
        }
    }
}

/// Leads the client from one server to the next, as a connection does.
async fn lead(story: &Story, mut client: Socket, targets: Vec<Socket>) -> End {
    let handle = Handle::default();
    let metrics = Metrics::new().link("redis:6379");
    let release_after = story.release.map(Duration::from_millis);
    let limits = || Limits { idle: None, idle_since: Instant::now(), lifetime: None, release_after };
    let policy = Policy {
        reset: Reset::Renews,
        absorbs: false,
        resends: false,
        patience: Duration::from_secs(5),
        database: 0,
        shares: false,
    };
    let mut session = Session::new(Vec::new(), Vec::new(), limits(), policy);
    let mut targets = targets.into_iter();
    let mut target = targets.next();
    let asking = async {
        if let Some(after) = story.moves {
            sleep(Duration::from_millis(after)).await;
            let now = Instant::now();
            handle.ask(DrainRequest {
                reason: Reason::Moved,
                from: now,
                latest: now + Duration::from_mins(1),
            });
        }
        std::future::pending::<()>().await;
    };
    let running = async {
        loop {
            let event =
                poll_fn(|cx| session.poll(cx, &mut client, &mut target, &handle, &metrics.session)).await;
            match event {
                Event::End(end) => return end,
                Event::Upstream(_) => {
                    sleep(Duration::from_millis(story.dial)).await;
                    target = targets.next();
                    assert!(target.is_some(), "a server for each that ends, and for each move or release");
                    session.attach(b"", limits(), &handle);
                }
                Event::Reset => session.greeted(b""),
                Event::Own(_) | Event::AuthRefused | Event::Share | Event::Wait | Event::Reauthenticate => {
                    unreachable!("nothing of the kind was said")
                }
            }
        }
    };
    tokio::select! {
        end = running => end,
        () = asking => unreachable!("it is pending for ever"),
    }
}

/// Plays a story, and judges what came of it.
fn judge(story: &Story) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let numbered = || story.commands.iter().enumerate();
    let said: Vec<u8> = numbered().flat_map(|(number, asked)| asked.command(number)).collect();
    let replies: Vec<Vec<u8>> = numbered().map(|(number, asked)| asked.reply(number)).collect();
    let (our_client, their_client) = line(&story.client.line);
    let ways = (Arc::clone(&their_client.inbound), Arc::clone(&their_client.outbound));
    let (ours, theirs): (Vec<_>, Vec<_>) = story.servers.iter().map(|(manners, _)| line(manners)).unzip();
    let executed = Executed::default();
    let serving = theirs
        .into_iter()
        .zip(&story.servers)
        .map(|(socket, (_, ends))| serve(socket, story, *ends, Arc::clone(&executed)));
    let all = replies.concat();
    let played = async {
        tokio::join!(
            lead(story, our_client, ours),
            play(&story.client, (&said, &all), their_client, ways),
            futures_util::future::join_all(serving),
        )
    };
    let played = runtime.block_on(async { timeout(Duration::from_hours(1), played).await });
    let (end, client, _) = played.expect("somebody waits for ever");
    let executed = executed.lock().clone();
    let mut once = executed.clone();
    once.dedup();
    assert_eq!(executed, once, "something was executed twice");
    assert!(executed.is_sorted(), "the order was changed: {executed:?}");
    // That replies are the right ones has been seen byte by byte.
    let mut heard = client.heard;
    for (number, asked) in numbered() {
        if heard < replies[number].len() {
            break;
        }
        heard -= replies[number].len();
        let leaves_a_trace = matches!(asked, Asked::Write(_) | Asked::Blocks(_));
        assert!(!leaves_a_trace || executed.contains(&number), "{number} was acknowledged and not executed");
    }
    let writes = |asked: &Asked| matches!(asked, Asked::Write(_) | Asked::Blocks(_));
    let breaks = story.servers.iter().any(|(_, ends)| ends.is_some());
    if !breaks {
        assert!(matches!(end, End::Closed), "{}", end.name());
        // Who says no more, and has commands held back behind one that blocks, is not waited for when that takes long: Redis
        // would not do it either.
        let blocks = story.commands.iter().any(|asked| matches!(asked, Asked::Blocks(_)));
        let holds = story.moves.is_some() || story.commands.iter().any(|asked| matches!(asked, Asked::Reset));
        let may_be_cut = blocks && holds;
        assert!(client.heard_end && (may_be_cut || client.heard == all.len()), "{client:?} of {}", all.len());
    }
    if breaks && !story.commands.iter().any(writes) && story.client.line.reads.is_empty() {
        let large = story.commands.iter().any(|asked| matches!(asked, Asked::Value(1000..)));
        assert!(large || client.heard == all.len(), "a reader noticed: {client:?} of {}", all.len());
    }
}

fn stories() -> impl Strategy<Value = Story> {
    let asked = prop_oneof![
        5 => (0..200_usize).prop_map(Asked::Value),
        1 => (0..100_000_usize).prop_map(Asked::Value),
        2 => (0..200_usize).prop_map(Asked::Write),
        1 => (0..100_000_usize).prop_map(Asked::Write),
        1 => (0..500_u64).prop_map(Asked::Blocks),
        1 => (0..10_u8).prop_map(Asked::Select),
        1 => Just(Asked::Reset),
    ];
    let pieces = vec((1..60_000_usize, prop_oneof![Just(0), 1..400_u64]), 0..8);
    let ends = vec(prop_oneof![1 => Just(None), 2 => (0..6_usize, any::<bool>()).prop_map(Some)], 0..4);
    let moves = prop_oneof![2 => Just(None), 1 => (0..2000_u64).prop_map(Some)];
    let release = prop_oneof![2 => Just(None), 1 => (8..400_u64).prop_map(Some)];
    (vec(asked, 1..12), pieces, 0..200_u64, (ends, moves, release), manners()).prop_flat_map(
        |(commands, pieces, dial, (mut ends, moves, release), line)| {
            let said: usize =
                commands.iter().enumerate().map(|(number, asked)| asked.command(number).len()).sum();
            let (mut acts, mut left) = (Vec::new(), said);
            for (length, pause) in pieces {
                acts.extend([Act::Say(length.min(left)), Act::Wait(pause)]);
                left -= length.min(left);
            }
            acts.push(Act::Say(left));
            let client = Script { early: 0, acts, leaves: Leaves::WithAnEnd, deaf: 0, line };
            // One after the last that ends, and one more to move to; and each command may be the next one after a release.
            ends.extend([None, None]);
            ends.extend(vec![None; release.map_or(0, |_| commands.len())]);
            vec(manners(), ends.len()).prop_map(move |lines| Story {
                commands: commands.clone(),
                client: client.clone(),
                servers: lines.into_iter().zip(ends.clone()).collect(),
                dial,
                moves,
                release,
            })
        },
    )
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn every_command_is_answered_once_whatever_becomes_of_its_servers(story in stories()) {
        judge(&story);
    }
}
