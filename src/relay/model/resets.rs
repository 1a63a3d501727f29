//! A client that sends RESET now and then, and the targets that it is led to one after the other, each of which answers
//! as Redis does: command by command, `+RESET` to RESET, `+OK` and an end to QUIT.

use super::*;
use crate::resp;

/// A command, by the reply that it has.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// A value of so many bytes, full of what looks like other replies.
    Value(usize),
    /// `+OK`, to a command with so many bytes in it.
    Ok(usize),
    /// A number, after so many milliseconds in which nothing else is answered.
    Blocks(u64),
    Reset,
}

impl Asked {
    fn command(self, number: usize) -> Vec<u8> {
        let number = number.to_string();
        let number = number.as_bytes();
        let value = vec![b'x'; if let Self::Ok(length) = self { length } else { 0 }];
        let command = match self {
            Self::Value(_) => vec![&b"GET"[..], number],
            Self::Ok(_) => vec![&b"SET"[..], number, &value],
            Self::Blocks(_) => vec![&b"BLPOP"[..], number, b"0"],
            Self::Reset => vec![&b"RESET"[..]],
        };
        resp::commands(&[command]).expose().to_vec()
    }

    fn reply(self, number: usize) -> Vec<u8> {
        match self {
            Self::Value(length) => {
                let mut value: Vec<u8> = b"+OK\r\n+RESET\r\n".iter().copied().cycle().take(length).collect();
                // Not at its end: a target that breaks right there looks like one that has answered and closed.
                if let Some(last) = value.last_mut() {
                    *last = b'.';
                }
                [format!("${length}\r\n").as_bytes(), &value, b"\r\n"].concat()
            }
            Self::Ok(_) => b"+OK\r\n".to_vec(),
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
    /// The lines to the targets.
    lines: Vec<Manners>,
    /// How many milliseconds each dial takes.
    dial: u64,
    /// The target that breaks, and after how many replies.
    breaks: Option<(usize, usize)>,
}

impl Story {
    /// What each target is to hear, and answer.
    fn shares(&self) -> Vec<Vec<(usize, Asked)>> {
        let numbered: Vec<_> = self.commands.iter().copied().enumerate().collect();
        numbered.split_inclusive(|(_, asked)| matches!(asked, Asked::Reset)).map(<[_]>::to_vec).collect()
    }
}

/// Serves as Redis does; returns what was heard.
async fn serve(mut socket: Socket, share: &[(usize, Asked)], replies: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut read = 0;
    for (number, asked) in share.iter().take(replies) {
        read += asked.command(*number).len();
        while heard.len() < read {
            if !matches!(socket.read_buf(&mut heard).await, Ok(1..)) {
                // Nothing more comes; what was whole has been answered.
                let _ = socket.shutdown().await;
                return heard;
            }
        }
        if let Asked::Blocks(time) = asked {
            sleep(Duration::from_millis(*time)).await;
        }
        if socket.write_all(&asked.reply(*number)).await.is_err() {
            return heard;
        }
    }
    if replies < share.len() {
        return heard;
    }
    while heard.len() < read + QUIT.len() && matches!(socket.read_buf(&mut heard).await, Ok(1..)) {}
    if heard.len() > read {
        // It may be gone.
        let _ = socket.write_all(b"+OK\r\n").await;
    }
    let _ = socket.shutdown().await;
    heard
}

/// Leads the client from one target to the next, as a connection does.
async fn lead(story: &Story, mut client: Socket, targets: Vec<Socket>) -> End {
    let handle = Handle::default();
    let limits = Limits { idle: None, idle_since: Instant::now(), lifetime: None };
    let mut relay = Relay::new(Vec::new(), Vec::new(), limits).watch(true, false);
    let mut targets = targets.into_iter();
    let mut target = targets.next().expect("a target");
    loop {
        match relay.run(&mut client, &mut target, &handle).await.end {
            End::Cut => {}
            end => return end,
        }
        tokio::select! {
            () = sleep(Duration::from_millis(story.dial)) => {}
            outcome = relay.run(&mut client, &mut target, &handle) => return outcome.end,
        }
        if !relay.is_cut() {
            continue;
        }
        relay.part();
        match relay.run(&mut client, &mut target, &handle).await.end {
            End::Parted => {}
            end => return end,
        }
        target = targets.next().expect("a target behind each RESET");
        relay.resume_with(b"");
    }
}

/// Plays a story, and judges what came of it.
fn judge(story: &Story) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let shares = story.shares();
    let said: Vec<Vec<u8>> = shares
        .iter()
        .map(|share| share.iter().flat_map(|(number, asked)| asked.command(*number)).collect())
        .collect();
    let replies: Vec<u8> = shares.iter().flatten().flat_map(|(number, asked)| asked.reply(*number)).collect();
    let all_said = said.concat();
    let (our_client, their_client) = line(&story.client.line);
    let ways = (Arc::clone(&their_client.inbound), Arc::clone(&their_client.outbound));
    let (ours, theirs): (Vec<_>, Vec<_>) = story.lines.iter().map(line).unzip();
    let serving = theirs.into_iter().enumerate().map(|(index, socket)| {
        let share = shares.get(index).map_or(&[][..], Vec::as_slice);
        let replies = story.breaks.filter(|(target, _)| *target == index).map(|(_, replies)| replies);
        serve(socket, share, replies.unwrap_or(usize::MAX).min(share.len()))
    });
    let played = async {
        tokio::join!(
            lead(story, our_client, ours),
            play(&story.client, (&all_said, &replies), their_client, ways),
            futures_util::future::join_all(serving),
        )
    };
    let played = runtime.block_on(async { timeout(Duration::from_hours(1), played).await });
    let (end, client, heard) = played.expect("somebody waits for ever");
    for (heard, said) in heard.iter().zip(said.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]))) {
        let (own, quit) = heard.split_at(heard.len().min(said.len()));
        assert!(said.starts_with(own) && QUIT.starts_with(quit), "a target heard another's commands");
    }
    if story.breaks.is_none() {
        assert!(matches!(end, End::Closed), "{end:?}");
        assert!(client.heard_end && client.heard == replies.len(), "{client:?} of {}", replies.len());
        for (heard, said) in heard.iter().zip(&said) {
            assert!(heard.len() >= said.len(), "a command got lost");
        }
    }
}

fn stories() -> impl Strategy<Value = Story> {
    let asked = prop_oneof![
        3 => (0..200_usize).prop_map(Asked::Value),
        1 => (0..100_000_usize).prop_map(Asked::Value),
        3 => (0..200_usize).prop_map(Asked::Ok),
        1 => (0..100_000_usize).prop_map(Asked::Ok),
        1 => (0..500_u64).prop_map(Asked::Blocks),
        3 => Just(Asked::Reset),
    ];
    let pieces = vec((1..60_000_usize, prop_oneof![Just(0), 1..400_u64]), 0..8);
    let breaks = prop_oneof![3 => Just(None), 1 => (0..4_usize, 0..4_usize).prop_map(Some)];
    (vec(asked, 1..12), pieces, 0..200_u64, breaks, manners()).prop_flat_map(
        |(commands, pieces, dial, breaks, line)| {
            let said: usize =
                commands.iter().enumerate().map(|(number, asked)| asked.command(number).len()).sum();
            let (mut acts, mut left) = (Vec::new(), said);
            for (length, pause) in pieces {
                acts.extend([Act::Say(length.min(left)), Act::Wait(pause)]);
                left -= length.min(left);
            }
            acts.push(Act::Say(left));
            let client = Script { early: 0, acts, leaves: Leaves::WithAnEnd, deaf: 0, line };
            let resets = commands.iter().filter(|asked| matches!(asked, Asked::Reset)).count();
            vec(manners(), resets + 1).prop_map(move |lines| Story {
                commands: commands.clone(),
                client: client.clone(),
                lines,
                dial,
                breaks,
            })
        },
    )
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn every_command_is_answered_by_the_target_whose_it_is(story in stories()) {
        judge(&story);
    }
}
