//! Sessions: the client stays, whatever becomes of the upstream.

mod boundaries;
pub(crate) mod clients;
pub(crate) mod differential;
pub(crate) mod failover;
mod idle;
mod lost;
pub(crate) mod moves;
mod owed;
pub(crate) mod passwords;
mod release;
pub(crate) mod resets;
pub(crate) mod restart;
pub(crate) mod sentinel;
pub(crate) mod silence;
mod state;
mod tokens;

use std::time::{Duration, Instant};

use redis::{Connection, RedisResult};

use crate::support::{Ambassador, Load, appended, get, metric};

const LINK: &str = "redis:6379";

/// How long a busy client waits between two commands.
const PACE: Duration = Duration::from_millis(50);

/// How many times the sessions of the link got another upstream for this cause.
fn exchanges(ambassador: &Ambassador, cause: &str) -> usize {
    counted(ambassador, &format!("exchanges_total{{link=\"{LINK}\",cause=\"{cause}\"}}"))
}

/// What a series has counted.
pub(crate) fn counted(ambassador: &Ambassador, series: &str) -> usize {
    format!("{:.0}", metric(ambassador.admin(), series)).parse().expect("a number of times")
}

/// The sum of all series of a metric.
fn sum(ambassador: &Ambassador, name: &str) -> usize {
    let page = get(ambassador.admin(), "/metrics").body;
    let start = format!("redis_ambassador_{name}{{");
    let series = page.lines().filter(|line| line.starts_with(&start));
    series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok()).sum()
}

/// How many rounds a test of failures has: `usual`, or what `SESSIONS_ROUNDS` says for the long run.
fn rounds(usual: usize) -> usize {
    std::env::var("SESSIONS_ROUNDS").map_or(usual, |rounds| rounds.parse().expect("a number of rounds"))
}

fn read(connection: &mut Connection, _: usize, _: usize) -> RedisResult<()> {
    redis::cmd("GET").arg("value").exec(connection)
}

/// Appends the number of the round to the list `NAME:CLIENT`.
fn append_to(name: &'static str) -> impl Fn(&mut Connection, usize, usize) -> RedisResult<()> {
    move |connection, client, number| {
        redis::cmd("RPUSH").arg(format!("{name}:{client}")).arg(number).exec(connection)
    }
}

/// The kinds of clients of [`work`] that write one number a round to a list.
const LISTS: [&str; 3] = ["writer", "script", "transaction"];

/// Numbers in a pipeline.
const PIPELINE: usize = 16;

/// Clients of every kind that an application has, `each` of a kind, and what each does once a round.
fn work(load: &mut Load, each: usize, pace: Duration) {
    load.add("reader", each, pace, read);
    load.add_with("?protocol=resp3", "reader", each, pace, read);
    load.add("writer", each, pace, append_to("writer"));
    load.add("counter", each, pace, |connection, client, number| {
        redis::cmd("SET").arg(format!("set:{client}")).arg(number).exec(connection)?;
        redis::cmd("INCR").arg(format!("counter:{client}")).exec(connection)
    });
    load.add("pipeline", each, pace, |connection, client, number| {
        let mut pipeline = redis::pipe();
        for at in 0..PIPELINE {
            pipeline.cmd("RPUSH").arg(format!("pipeline:{client}")).arg(PIPELINE * number + at);
        }
        pipeline.exec(connection)
    });
    load.add("script", each, pace, |connection, client, number| {
        let script = "redis.call('RPUSH', KEYS[1], ARGV[1]) return redis.status_reply('DONE')";
        redis::cmd("EVAL").arg(script).arg(1).arg(format!("script:{client}")).arg(number).exec(connection)
    });
    load.add("transaction", each, pace, |connection, client, number| {
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("RPUSH").arg(format!("transaction:{client}")).arg(number);
        pipeline.exec(connection)
    });
}

/// Of the lists that [`work`] made: nothing is in one twice, and every round that must be there is.
#[track_caller]
fn check_lists(
    administrator: &mut Connection,
    load: &Load,
    each: usize,
    must: impl Fn(Instant, Instant) -> bool,
) {
    for client in 0..each {
        for name in LISTS.into_iter().chain(["pipeline"]) {
            let list = format!("{name}:{client}");
            let there = appended(administrator, &list);
            let a_round = if name == "pipeline" { PIPELINE } else { 1 };
            for round in load.done(name, client).iter().filter(|round| must(round.sent, round.answered)) {
                let number = round.number * a_round;
                assert!(
                    there.binary_search(&number).is_ok(),
                    "{list} lacks {number}, which was acknowledged"
                );
            }
        }
    }
}
