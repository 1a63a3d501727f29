//! A session changes no byte: what a server says directly and what its twin says through a session is the same, whatever
//! they are asked.

use std::fmt::Write as _;
use std::io::Read as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::{LINK, rounds};
use crate::support::{
    Ambassador, Dice, Launch, Load, PATIENCE, Peer, RedisServer, Version, password, random,
};

/// What a server can be asked, from its own list: a name, and how many words a command has, as Redis writes it (less than
/// zero: so many or more).
struct Known {
    commands: Vec<(String, i64)>,
    /// Whether what no parser can follow may be asked too.
    all: bool,
}

/// Where two servers may differ, because of time, chance or the order of a hash table; and what ends a server, or blocks.
/// Wrong numbers of arguments are asked of these too.
const LEFT_OUT: [&str; 107] = [
    "acl",
    "auth",
    "bgrewriteaof",
    "bgsave",
    "blmove",
    "blmpop",
    "blpop",
    "brpop",
    "brpoplpush",
    "bzmpop",
    "bzpopmax",
    "bzpopmin",
    "client",
    "cluster",
    "command",
    "config",
    "debug",
    "discard",
    "dump",
    "exec",
    "expire",
    "expireat",
    "expiretime",
    "failover",
    "flushall",
    "flushdb",
    "function",
    "getex",
    "hello",
    "hexpire",
    "hexpireat",
    "hexpiretime",
    "hgetex",
    "host:",
    "hpexpire",
    "hpexpireat",
    "hpexpiretime",
    "hpttl",
    "hrandfield",
    "hscan",
    "hsetex",
    "httl",
    "info",
    "keys",
    "lastsave",
    "latency",
    "lolwut",
    "memory",
    "migrate",
    "module",
    "monitor",
    "msetex",
    "multi",
    "object",
    "pexpire",
    "pexpireat",
    "pexpiretime",
    "pfdebug",
    "pfselftest",
    "post",
    "psetex",
    "psubscribe",
    "psync",
    "pttl",
    "pubsub",
    "punsubscribe",
    "quit",
    "randomkey",
    "replconf",
    "replicaof",
    "reset",
    "restore-asking",
    "role",
    "save",
    "scan",
    "script",
    "sdiff",
    "setex",
    "shutdown",
    "sinter",
    "slaveof",
    "slowlog",
    "smembers",
    "sort",
    "sort_ro",
    "spop",
    "srandmember",
    "sscan",
    "ssubscribe",
    "subscribe",
    "sunion",
    "sunsubscribe",
    "sync",
    "time",
    "ttl",
    "unsubscribe",
    "wait",
    "waitaof",
    "watch",
    "xadd",
    "xautoclaim",
    "xclaim",
    "xgroup",
    "xinfo",
    "xpending",
    "xread",
    "xreadgroup",
];

/// Words of which arguments are made.
const WORDS: [&[u8]; 26] = [
    b"k1",
    b"k2",
    b"k3",
    b"k4",
    b"k1",
    b"k2",
    b"f1",
    b"f2",
    b"value",
    b"",
    b"0",
    b"-1",
    b"7",
    b"100000",
    b"1.5",
    b"nan",
    b"(1",
    b"+inf",
    b"[a",
    b"\r\n",
    b"\x00\xff",
    b"*1\r\n$5\r\nRESET\r\n",
    b"LEFT",
    b"COUNT",
    b"WITHSCORES",
    b"LIMIT",
];

/// Replies of every type and depth, in both protocols.
const ASKED: [&[&str]; 46] = [
    &["EVAL", "return {1, {2, {3, {4}}}, 'a', false, redis.status_reply('S')}", "0"],
    &["EVAL", "return redis.error_reply('MYERR of mine')", "0"],
    &["EVAL", "return redis.pcall('NONSENSE')", "0"],
    &["EVAL", "error('thrown')", "0"],
    &["EVAL", "redis.setresp(3) return redis.call('HGETALL', KEYS[1])", "1", "h"],
    &["EVAL", "return {double = 3.25}", "0"],
    &["EVAL", "return {big_number = '12345678901234567890'}", "0"],
    &["EVAL", "return {verbatim_string = {format = 'txt', string = 'a\\r\\nb'}}", "0"],
    &["EVAL", "return {map = {a = {set = {b = true}}}}", "0"],
    &["EVAL", "return string.rep('x', 70000)", "0"],
    &["EVAL", "local t = {} for i = 1, 3000 do t[i] = i end return t", "0"],
    &["EVAL", "redis.call('SELECT', 5) return redis.call('SET', 'inner', '1')", "0"],
    &["EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "0"],
    &["SCRIPT", "LOAD", "return 1"],
    &["SCRIPT", "EXISTS", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "x"],
    &["SCRIPT", "FLUSH"],
    &["DEBUG", "PROTOCOL", "attrib"],
    &["DEBUG", "PROTOCOL", "push"],
    &["DEBUG", "PROTOCOL", "map"],
    &["DEBUG", "PROTOCOL", "set"],
    &["DEBUG", "PROTOCOL", "array"],
    &["DEBUG", "PROTOCOL", "null"],
    &["DEBUG", "PROTOCOL", "true"],
    &["DEBUG", "PROTOCOL", "double"],
    &["DEBUG", "PROTOCOL", "bignum"],
    &["DEBUG", "PROTOCOL", "verbatim"],
    &["COMMAND", "INFO", "get", "nonsense", "xadd"],
    &["COMMAND", "DOCS", "set"],
    &["COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2"],
    &["CONFIG", "GET", "maxmemory"],
    &["HSET", "h", "f1", "v1", "f2", "v2"],
    &["HGETALL", "h"],
    &["ZADD", "z", "1", "a", "2.5", "b", "inf", "c"],
    &["ZRANGE", "z", "0", "-1", "WITHSCORES"],
    &["SADD", "s", "1", "2", "3"],
    &["SMEMBERS", "s"],
    &["XADD", "x", "1-1", "f", "v"],
    &["XADD", "x", "1-2", "f", "v"],
    &["XRANGE", "x", "-", "+"],
    &["XREAD", "COUNT", "2", "STREAMS", "x", "0"],
    &["SET", "k1", "v", "GET"],
    &["LPUSH", "l", "a", "b", "c"],
    &["BLPOP", "l", "none", "0.01"],
    &["BLMOVE", "none", "l", "LEFT", "RIGHT", "0.01"],
    &["OBJECT", "ENCODING", "k1"],
    &["CLUSTER", "INFO"],
];

/// What a connection remembers.
const STATE: [&[&str]; 29] = [
    &["SELECT", "0"],
    &["SELECT", "5"],
    &["SELECT", "99"],
    &["SELECT", "x"],
    &["HELLO"],
    &["HELLO", "2"],
    &["HELLO", "3"],
    &["HELLO", "3", "SETNAME", "somebody"],
    &["HELLO", "3", "SETNAME", "some body"],
    &["HELLO", "3", "NONSENSE"],
    &["HELLO", "4"],
    &["HELLO", "x"],
    &["CLIENT", "SETNAME", "somebody"],
    &["CLIENT", "SETNAME", "some body"],
    &["CLIENT", "SETNAME", ""],
    &["CLIENT", "GETNAME"],
    &["CLIENT", "SETINFO", "LIB-NAME", "lib"],
    &["CLIENT", "NO-EVICT", "on"],
    &["CLIENT", "NO-TOUCH", "off"],
    &["CLIENT", "TRACKING", "on"],
    &["CLIENT", "TRACKING", "on", "NOLOOP"],
    &["CLIENT", "TRACKING", "off"],
    &["CLIENT", "CACHING", "yes"],
    &["CLIENT", "CAPA", "redirect"],
    &["CLIENT", "NONSENSE"],
    &["CLIENT", "UNBLOCK", "999999"],
    &["READONLY"],
    &["ASKING"],
    &["RESET"],
];

const TRANSACTION: [&[&str]; 6] =
    [&["MULTI"], &["MULTI"], &["EXEC"], &["DISCARD"], &["WATCH", "k1"], &["UNWATCH"]];

/// What leads to more or fewer replies than commands.
const UNEVEN: [&[&str]; 17] = [
    &["SUBSCRIBE", "a"],
    &["SUBSCRIBE", "a", "b", "a"],
    &["PSUBSCRIBE", "p*"],
    &["SSUBSCRIBE", "s"],
    &["UNSUBSCRIBE", "a"],
    &["UNSUBSCRIBE", "a", "b", "none"],
    &["PUNSUBSCRIBE", "p*"],
    &["SUNSUBSCRIBE", "s"],
    &["PUBLISH", "a", "+OK"],
    &["PUBLISH", "pp", "$5"],
    &["PING"],
    &["PING", "x"],
    &["CLIENT", "REPLY", "OFF"],
    &["CLIENT", "REPLY", "ON"],
    &["CLIENT", "REPLY", "SKIP"],
    &["CLIENT", "REPLY", "SKIP"],
    &["CLIENT", "REPLY", "NONSENSE"],
];

/// Lines, as people type them, good and bad; and what is no command at all.
const LINES: [&[u8]; 14] = [
    b"PING\r\n",
    b"  ping \n",
    b"SET k1 \"a b\\x00\\n\"\r\n",
    b"set 'k1' v\r\n",
    b"GET k1\r\n",
    b"\r\n",
    b"\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"ECHO x\r\n",
    b"\"\\x52ESET\" \r\n",
    b"NONSENSE a b c\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"*3\r\n$3\r\nSET\r\n$2\r\nk1\r\n$3\r\n\r\n\x00\r\n",
];

/// What ends a connection.
const ENDS: [&[u8]; 10] = [
    b"QUIT\r\nPING\r\n",
    b"*1\r\n$4\r\nQUIT\r\n",
    b"*x\r\nPING\r\n",
    b"*1\r\n!4\r\nPING\r\n",
    b"*2\r\n$3\r\nGET\r\n$-1\r\n",
    b"*99999999999\r\n",
    b"*1\r\n$99999999999\r\n",
    b"SET \"a b\r\n",
    b"*-9999999999999\r\nPING\r\nQUIT\r\n",
    b"*1\r\n$x\r\n",
];

impl Known {
    fn of(server: &RedisServer, all: bool) -> Self {
        let list: Vec<Vec<redis::Value>> =
            redis::cmd("COMMAND").query(&mut server.administrator("")).expect("commands");
        let known = |entry: Vec<redis::Value>| {
            let [name, arity, ..] = &entry[..] else { panic!("{entry:?} is no command") };
            let name: String = redis::from_redis_value(name.clone()).expect("a name");
            (name, redis::from_redis_value(arity.clone()).expect("a number"))
        };
        let mut commands: Vec<_> = list.into_iter().map(known).collect();
        commands.sort();
        Self { commands, all }
    }

    /// A stream of commands, one after the other.
    fn stream(&self, dice: &mut Dice, len: usize) -> Vec<Vec<u8>> {
        let mut is_queueing = false;
        let mut stream = Vec::new();
        while stream.len() < len {
            let words: Vec<Vec<u8>> = match dice.below(100) {
                0..30 => self.with_any_words(dice),
                30..45 => self.with_too_many_or_too_few(dice),
                45..60 => words(dice.one_of(&ASKED)),
                60..70 => words(dice.one_of(&STATE)),
                70..80 => words(dice.one_of(&TRANSACTION)),
                80..92 => {
                    let uneven = words(dice.one_of(&UNEVEN));
                    // Nobody can tell how many replies EXEC has then.
                    if is_queueing && !self.all {
                        continue;
                    }
                    uneven
                }
                _ => {
                    stream.push(dice.one_of(&LINES).to_vec());
                    continue;
                }
            };
            match &words[0].to_ascii_uppercase()[..] {
                b"MULTI" => is_queueing = true,
                b"EXEC" | b"DISCARD" | b"RESET" => is_queueing = false,
                _ => {}
            }
            stream.push(written(dice, &words));
        }
        stream
    }

    /// Any command, with any words; their number may be right.
    fn with_any_words(&self, dice: &mut Dice) -> Vec<Vec<u8>> {
        loop {
            let (name, arity) = &self.commands[dice.below(self.commands.len())];
            // Modules have dots, vectors begin with a v; chance is in them.
            if LEFT_OUT.contains(&&**name) || name.contains('.') || name.starts_with('v') {
                continue;
            }
            let least = usize::try_from(arity.unsigned_abs()).expect("a small number").saturating_sub(1);
            let more = if *arity < 0 { dice.below(4) } else { 0 };
            let mut words = vec![name.clone().into_bytes()];
            words.extend((0..least + more).map(|_| dice.one_of(&WORDS).to_vec()));
            return words;
        }
    }

    fn with_too_many_or_too_few(&self, dice: &mut Dice) -> Vec<Vec<u8>> {
        loop {
            let (name, arity) = &self.commands[dice.below(self.commands.len())];
            let number = usize::try_from(arity.unsigned_abs()).expect("a small number");
            let count = match (arity.is_positive(), dice.percent(50)) {
                (true, true) => number + 1 + dice.below(2),
                _ if number >= 2 => number - 1 - dice.below(number - 1),
                _ => continue,
            };
            let mut words = vec![name.to_uppercase().into_bytes()];
            words.extend((1..count).map(|_| dice.one_of(&WORDS).to_vec()));
            return words;
        }
    }
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// As a library writes it, or as a line where that is possible.
fn written(dice: &mut Dice, words: &[Vec<u8>]) -> Vec<u8> {
    let is_plain = |word: &Vec<u8>| !word.is_empty() && word.iter().all(u8::is_ascii_alphanumeric);
    if dice.percent(15) && words.iter().all(is_plain) {
        return [&words.join(&b' ')[..], b"\r\n"].concat();
    }
    let words: Vec<_> = words.iter().map(Vec::as_slice).collect();
    crate::support::command(&words)
}

/// Where neither bytes nor an end come.
const NOTHING: &[u8] = b"(and then nothing)";

/// Behind every stream: whatever it has led to, this comes back, and is the last.
const LAST: &[u8] = b"RESET\r\nECHO the-very-last\r\n";
const LAST_HEARD: &[u8] = b"$13\r\nthe-very-last\r\n";

/// A server and its twin behind an ambassador, in one state.
struct Twins {
    servers: [RedisServer; 2],
    password: String,
    ambassador: Ambassador,
}

impl Twins {
    fn start(version: Version, password: String, launch: impl FnOnce(Launch) -> Launch) -> Option<Self> {
        // The oldest has no such setting, and lets everybody do it.
        let debug = if version == Version::Redis62 { "" } else { "enable-debug-command yes" };
        let protect = if password.is_empty() { String::new() } else { format!("requirepass {password}") };
        let direct = RedisServer::start_version(version, debug)?;
        let twin = RedisServer::start_version(version, &format!("{debug}\n{protect}"))?;
        let mut behind = Launch::redis(twin.address());
        if !password.is_empty() {
            behind = behind.variable("REDIS_AUTH", &password);
        }
        Some(Self { servers: [direct, twin], password, ambassador: launch(behind).start() })
    }

    /// What is heard directly, and through the session.
    fn ask(&self, stream: &[Vec<u8>], end: &[u8], seed: u64) -> [Vec<u8>; 2] {
        for (server, password) in self.servers.iter().zip(["", &self.password]) {
            let mut pipeline = redis::pipe();
            pipeline.cmd("FLUSHALL").cmd("SCRIPT").arg("FLUSH");
            pipeline.exec(&mut server.administrator(password)).expect("an empty server");
        }
        let said = [&stream.concat()[..], LAST, end].concat();
        let direct = converse(self.servers[0].address(), &said, !end.is_empty(), None);
        let mut dice = Dice::new(seed);
        let through = converse(self.ambassador.address(LINK), &said, !end.is_empty(), Some(&mut dice));
        [without_ids(&direct), without_ids(&through)]
    }

    /// A shorter stream with which they still differ, as far as it is found in the time that one waits for it.
    fn shrink(&self, stream: &[Vec<u8>], end: &[u8], seed: u64) -> Vec<Vec<u8>> {
        let differ = |stream: &[Vec<u8>]| {
            let [direct, through] = self.ask(stream, end, seed);
            direct != through
        };
        let mut stream = stream.to_vec();
        let deadline = Instant::now() + PATIENCE;
        let mut chunk = stream.len() / 2;
        while chunk > 0 {
            let mut at = 0;
            while at < stream.len() && Instant::now() < deadline {
                let mut shorter = stream.clone();
                shorter.drain(at..(at + chunk).min(stream.len()));
                if differ(&shorter) {
                    stream = shorter;
                } else {
                    at += chunk;
                }
            }
            chunk /= 2;
        }
        stream
    }
}

/// Sends all, in one piece or in many, and returns what is heard up to the last word or up to the end.
fn converse(address: SocketAddr, said: &[u8], to_the_end: bool, split: Option<&mut Dice>) -> Vec<u8> {
    let mut client = Peer::connect(address);
    client.patience(Duration::from_secs(3));
    let mut pieces = Vec::new();
    if let Some(dice) = split {
        let mut cuts: Vec<_> = (0..dice.below(24)).map(|_| dice.below(said.len())).collect();
        cuts.sort_unstable();
        let mut from = 0;
        for cut in cuts {
            pieces.push(said[from..cut].to_vec());
            from = cut;
        }
        pieces.push(said[from..].to_vec());
    } else {
        pieces.push(said.to_vec());
    }
    let mut writer = client.handle();
    let writing = thread::spawn(move || {
        for piece in pieces {
            // The server may have had enough.
            if writer.try_send(&piece).is_err() {
                return;
            }
            // So that it comes as a piece of its own.
            thread::sleep(Duration::from_micros(300));
        }
    });
    let (mut heard, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    while to_the_end || !heard.ends_with(LAST_HEARD) {
        match client.read(&mut chunk) {
            Ok(len @ 1..) => heard.extend(&chunk[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                heard.extend(NOTHING);
                break;
            }
            _ => break,
        }
    }
    drop(client);
    writing.join().expect("a writer");
    heard
}

/// HELLO tells the number of the connection, which differs.
fn without_ids(heard: &[u8]) -> Vec<u8> {
    const ID: &[u8] = b"$2\r\nid\r\n:";
    let mut plain = Vec::with_capacity(heard.len());
    let mut rest = heard;
    while let Some(at) = rest.windows(ID.len()).position(|window| window == ID) {
        let (before, behind) = rest.split_at(at + ID.len());
        plain.extend(before);
        rest = &behind[behind.iter().take_while(|byte| byte.is_ascii_digit()).count()..];
    }
    plain.extend(rest);
    plain
}

/// Where two differ, and what stands there.
fn difference(direct: &[u8], through: &[u8]) -> String {
    let at = direct.iter().zip(through).take_while(|(a, b)| a == b).count();
    let part =
        |bytes: &[u8]| bytes[at.saturating_sub(60)..(at + 120).min(bytes.len())].escape_ascii().to_string();
    format!("from byte {at} on\n  directly:  {}\n  through:   {}", part(direct), part(through))
}

/// Asks both the same, many times.
fn compare(version: Version, password: String, all: bool, launch: impl FnOnce(Launch) -> Launch) {
    compare_beside(version, password, all, launch, None);
}

/// The same while others may be at work at the ambassador, who must not notice it.
pub(crate) fn compare_beside(
    version: Version,
    password: String,
    all: bool,
    launch: impl FnOnce(Launch) -> Launch,
    others: Option<fn(&Ambassador) -> Load>,
) {
    let has_password = !password.is_empty();
    let Some(twins) = Twins::start(version, password, launch) else { return };
    let known = Known::of(&twins.servers[0], all);
    let others = others.map(|start| start(&twins.ambassador));
    let seed_of_all = std::env::var("SESSIONS_SEED").ok().and_then(|seed| seed.parse().ok());
    // The same streams each time; in the long run others.
    let is_long = std::env::var_os("SESSIONS_ROUNDS").is_some();
    for round in 1..=rounds(8) {
        let usual = || if is_long { random() } else { u64::try_from(round).expect("a number") << 20 };
        let seed = seed_of_all.unwrap_or_else(usual);
        let mut dice = Dice::new(seed);
        let len = 1 + dice.below(200);
        let stream = known.stream(&mut dice, len);
        let end = if dice.percent(30) { dice.one_of(&ENDS) } else { &[] };
        let [direct, through] = twins.ask(&stream, end, seed);
        // Redis 8 hears nothing of a protocol error that comes while it blocks, in the same packet.
        if direct == through || direct.ends_with(NOTHING) {
            continue;
        }
        // A server with a password ends a client that sends RESET while more than 1 KiB of replies waits for it; and one
        // that gives up for a protocol error may reset the connection before its last replies have passed.
        if direct.starts_with(&through) && (has_password || !end.is_empty()) {
            continue;
        }
        let shorter = twins.shrink(&stream, end, seed);
        let [shorter_direct, shorter_through] = twins.ask(&shorter, end, seed);
        let mut said = String::new();
        for command in shorter.iter().map(Vec::as_slice).chain([LAST, end]) {
            let _ = writeln!(said, "    {}", command.escape_ascii());
        }
        panic!(
            "{} and its twin differ (SESSIONS_SEED={seed}), {}\n shortened, {}\n after\n{said}",
            version.name(),
            difference(&direct, &through),
            difference(&shorter_direct, &shorter_through),
        );
    }
    if let Some(mut others) = others {
        others.goes_on();
        others.expect_no_failure();
    }
}

/// Behind a password, and the handshake that it takes after every RESET.
#[test]
fn behind_a_password_every_byte_is_the_servers() {
    for version in Version::ALL {
        compare(version, password(), false, |launch| launch);
    }
}

/// Without one; what no parser can follow is passed on too.
#[test]
fn without_a_password_every_byte_is_the_servers() {
    for version in Version::ALL {
        compare(version, String::new(), true, |launch| launch);
    }
}

/// With connections that are kept ready, and a database that is the default anyway.
#[test]
fn on_a_connection_that_was_ready_every_byte_is_the_servers() {
    for version in [Version::Redis70, Version::Valkey91] {
        compare(version, password(), false, |launch| {
            launch.variable("REDIS_WARM", "2").variable("REDIS_DB", "0")
        });
    }
}
