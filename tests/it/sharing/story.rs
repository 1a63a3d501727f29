//! What a client says and what it has to hear. All its keys are its own, so that it can tell.

use std::collections::BTreeMap;

use super::wire::show;
use crate::support::{Dice, command, noise};

/// The databases that clients use. The first is the link's.
pub(super) const DATABASES: [usize; 4] = [0, 1, 5, 9];

/// What a client's keys are called behind its name.
pub(super) const KEYS: [&str; 9] =
    ["text:0", "text:1", "text:2", "big", "count", "list", "hash", "queue", "inner"];

/// Texts among them.
const TEXTS: [&str; 3] = ["text:0", "text:1", "text:2"];

/// Commands that only read: none of them is a reason to lose a connection.
const READS: [&str; 13] = [
    "ECHO", "EXISTS", "GET", "GETRANGE", "HGET", "HGETALL", "LLEN", "LRANGE", "MGET", "PING", "STRLEN",
    "TTL", "TYPE",
];

const NOT_A_NUMBER: &str = "-ERR value is not an integer or out of range\r\n";
const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

/// One command, or a line that is none.
pub(super) struct Said {
    pub(super) bytes: Vec<u8>,
    /// A reply, several or none.
    pub(super) heard: Vec<Heard>,
    /// Whether it may be asked again of another upstream.
    pub(super) only_reads: bool,
}

/// A reply that is awaited.
pub(super) enum Heard {
    This(Vec<u8>),
    /// All that is known of it is its beginning.
    Begins(Vec<u8>),
    /// What HELLO is answered, in this protocol.
    Hello(u8),
}

impl Heard {
    pub(super) fn is(&self, reply: &[u8]) -> bool {
        match self {
            Self::This(bytes) => reply == bytes,
            Self::Begins(bytes) => reply.starts_with(bytes),
            Self::Hello(protocol) => {
                let begin: &[u8] = if *protocol == 3 { b"%7\r\n" } else { b"*14\r\n" };
                let told = format!("$5\r\nproto\r\n:{protocol}\r\n");
                reply.starts_with(begin) && reply.windows(told.len()).any(|window| window == told.as_bytes())
            }
        }
    }

    /// For a person to read.
    pub(super) fn show(&self) -> String {
        match self {
            Self::This(bytes) => show(bytes),
            Self::Begins(bytes) => format!("{}…", show(bytes)),
            Self::Hello(protocol) => format!("what HELLO {protocol} is answered"),
        }
    }
}

/// What a key holds.
#[derive(Clone)]
enum Thing {
    Text(Vec<u8>),
    Count(i64),
    List(Vec<Vec<u8>>),
    /// In the order in which they were put there.
    Hash(Vec<(Vec<u8>, Vec<u8>)>),
}

/// A client, and all that it knows of what it has.
pub(super) struct Story {
    /// No other client's, nor any that this one had before it lost a connection: what it has then is not known.
    pub(super) name: String,
    pub(super) dice: Dice,
    pub(super) protocol: u8,
    pub(super) database: usize,
    called: Option<String>,
    things: BTreeMap<(usize, String), Thing>,
    serial: usize,
    /// Whether something is left on this connection that no other one can have.
    pub(super) is_pinned: bool,
}

impl Story {
    pub(super) fn new(name: String, dice: Dice) -> Self {
        Self {
            name,
            dice,
            protocol: 2,
            database: DATABASES[0],
            called: None,
            things: BTreeMap::new(),
            serial: 0,
            is_pinned: false,
        }
    }

    /// The client has another connection.
    pub(super) fn comes_again(&mut self) {
        self.is_reset();
        self.is_pinned = false;
    }

    /// It has another one, and does not know what became of what it said last.
    pub(super) fn begins_again(&mut self, name: String) {
        self.comes_again();
        self.things.clear();
        self.name = name;
    }

    fn is_reset(&mut self) {
        self.protocol = 2;
        self.database = DATABASES[0];
        self.called = None;
    }

    pub(super) fn key(&self, key: &str) -> String {
        format!("{}:{key}", self.name)
    }

    /// A value that no other client has, and this one only once.
    pub(super) fn value(&mut self) -> Vec<u8> {
        let len = match self.dice.below(20) {
            0..16 => 0,
            16..19 => self.dice.below(100),
            _ => self.dice.below(3000),
        };
        self.value_of(len)
    }

    /// The same with so many more bytes.
    fn value_of(&mut self, len: usize) -> Vec<u8> {
        self.serial += 1;
        let mut value = format!("{}#{}@{}", self.name, self.serial, self.database).into_bytes();
        if len > 0 {
            value.extend(b"\r\n");
            value.extend(noise(self.dice.next(), len));
        }
        value
    }

    /// Some commands to be said at once, from one to many.
    pub(super) fn batch(&mut self) -> Vec<Said> {
        let len = if self.dice.percent(50) { 1 } else { 1 + self.dice.below(16) };
        let mut batch = Vec::new();
        while batch.len() < len {
            batch.extend(self.some());
        }
        batch
    }

    /// One command, or several that belong together.
    fn some(&mut self) -> Vec<Said> {
        match self.dice.below(100) {
            0..50 => vec![self.plain()],
            50..53 => vec![self.nothing()],
            53..60 => vec![self.mistake()],
            60..66 => vec![self.select()],
            66..70 => vec![self.hello()],
            70..73 => vec![self.call()],
            73..80 => self.transaction(),
            80..84 => self.watch(),
            84..89 => vec![self.script()],
            89..92 => vec![self.pop_or_wait()],
            92..94 => self.subscribe(),
            94..95 => self.without_replies(),
            95..96 => vec![self.reset()],
            96..98 => vec![self.large()],
            98..99 => self.select_in_a_transaction(),
            _ => self.track(),
        }
    }

    // How it is written.

    /// As a library writes it, or as a line where that is possible.
    fn say(&mut self, words: &[&[u8]], heard: Heard) -> Said {
        let only_reads = READS.iter().any(|name| words[0].eq_ignore_ascii_case(name.as_bytes()));
        let mut words: Vec<_> = words.iter().map(|word| word.to_vec()).collect();
        if self.dice.percent(20) {
            words[0].make_ascii_lowercase();
        }
        let is_plain = |word: &Vec<u8>| {
            !word.is_empty()
                && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b":.#@-".contains(byte))
        };
        let bytes = if self.dice.percent(15) && words.iter().all(is_plain) {
            [&words.join(&b' ')[..], b"\r\n"].concat()
        } else {
            command(&words.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        Said { bytes, heard: vec![heard], only_reads }
    }

    fn say_text(&mut self, words: &str, heard: &str) -> Said {
        let words: Vec<_> = words.split(' ').map(str::as_bytes).collect();
        self.say(&words, Heard::This(heard.as_bytes().to_vec()))
    }

    fn null(&self) -> Vec<u8> {
        if self.protocol == 3 { b"_\r\n".to_vec() } else { b"$-1\r\n".to_vec() }
    }

    fn null_array(&self) -> Vec<u8> {
        if self.protocol == 3 { b"_\r\n".to_vec() } else { b"*-1\r\n".to_vec() }
    }

    fn bulk_or_null(&self, value: Option<&[u8]>) -> Vec<u8> {
        value.map_or_else(|| self.null(), bulk)
    }

    // What it has.

    fn thing(&self, key: &str) -> Option<&Thing> {
        self.things.get(&(self.database, key.to_owned()))
    }

    fn put(&mut self, key: &str, thing: Thing) {
        self.things.insert((self.database, key.to_owned()), thing);
    }

    fn take(&mut self, key: &str) -> Option<Thing> {
        self.things.remove(&(self.database, key.to_owned()))
    }

    fn text(&self, key: &str) -> Option<&[u8]> {
        match self.thing(key) {
            Some(Thing::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn list(&self) -> &[Vec<u8>] {
        match self.thing("list") {
            Some(Thing::List(list)) => list,
            _ => &[],
        }
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let Some(Thing::List(mut list)) = self.take("list") else { return None };
        let first = list.remove(0);
        if !list.is_empty() {
            self.put("list", Thing::List(list));
        }
        Some(first)
    }

    // What it says.

    fn plain(&mut self) -> Said {
        let (words, reply) = self.data();
        let words: Vec<_> = words.iter().map(Vec::as_slice).collect();
        self.say(&words, Heard::This(reply))
    }

    /// A command that has to do with data, and its reply.
    fn data(&mut self) -> (Vec<Vec<u8>>, Vec<u8>) {
        match self.dice.below(10) {
            0..4 => self.data_of_texts(),
            4..6 => self.data_of_a_count(),
            6..8 => self.data_of_a_list(),
            8 => self.data_of_a_hash(),
            _ => self.data_of_nothing(),
        }
    }

    fn data_of_texts(&mut self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let short = self.dice.one_of(&TEXTS);
        let key = self.key(short);
        let has = self.text(short).map(<[u8]>::to_vec);
        let has = has.as_deref();
        match self.dice.below(16) {
            0..4 => (words(&[b"GET", key.as_bytes()]), self.bulk_or_null(has)),
            4..8 => {
                let value = self.value();
                self.put(short, Thing::Text(value.clone()));
                (words(&[b"SET", key.as_bytes(), &value]), ok())
            }
            8 => {
                let values: Vec<_> = TEXTS.iter().map(|short| self.bulk_or_null(self.text(short))).collect();
                let keys: Vec<_> = TEXTS.iter().map(|short| self.key(short).into_bytes()).collect();
                ([words(&[b"MGET"]), keys].concat(), array(&values))
            }
            9 => (words(&[b"STRLEN", key.as_bytes()]), number(has.map_or(0, <[u8]>::len))),
            10 => (words(&[b"EXISTS", key.as_bytes()]), number(usize::from(has.is_some()))),
            11 => {
                let all = has.unwrap_or_default();
                let (from, to) = (self.dice.below(20), 20 + self.dice.below(200));
                let part = all.get(from..all.len().min(to + 1)).unwrap_or_default();
                let [from, to] = [from, to].map(|at| at.to_string());
                (words(&[b"GETRANGE", key.as_bytes(), from.as_bytes(), to.as_bytes()]), bulk(part))
            }
            12 => {
                let more = self.value();
                let all = [has.unwrap_or_default(), &more].concat();
                let reply = number(all.len());
                self.put(short, Thing::Text(all));
                (words(&[b"APPEND", key.as_bytes(), &more]), reply)
            }
            13 => {
                self.take(short);
                (words(&[b"DEL", key.as_bytes()]), number(usize::from(has.is_some())))
            }
            14 => {
                let value = self.value();
                if has.is_none() {
                    self.put(short, Thing::Text(value.clone()));
                }
                (words(&[b"SETNX", key.as_bytes(), &value]), number(usize::from(has.is_none())))
            }
            _ => {
                let reply = self.bulk_or_null(has);
                self.take(short);
                (words(&[b"GETDEL", key.as_bytes()]), reply)
            }
        }
    }

    fn data_of_a_count(&mut self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let key = self.key("count");
        let count = match self.thing("count") {
            Some(Thing::Count(count)) => *count,
            _ => 0,
        };
        let by = i64::try_from(self.dice.below(1000)).expect("a small number") - 300;
        let (words, count) = match self.dice.below(3) {
            0 => (words(&[b"INCRBY", key.as_bytes(), by.to_string().as_bytes()]), count + by),
            1 => (words(&[b"DECR", key.as_bytes()]), count - 1),
            _ => (words(&[b"INCR", key.as_bytes()]), count + 1),
        };
        self.put("count", Thing::Count(count));
        (words, format!(":{count}\r\n").into_bytes())
    }

    fn data_of_a_list(&mut self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let key = self.key("list");
        match self.dice.below(6) {
            0 | 1 if self.list().len() < 40 => {
                let more: Vec<_> = (0..=self.dice.below(3)).map(|_| self.value()).collect();
                let list = [self.list().to_vec(), more.clone()].concat();
                let reply = number(list.len());
                self.put("list", Thing::List(list));
                ([words(&[b"RPUSH", key.as_bytes()]), more].concat(), reply)
            }
            2 => (words(&[b"LLEN", key.as_bytes()]), number(self.list().len())),
            3 => {
                let first = self.pop();
                (words(&[b"LPOP", key.as_bytes()]), self.bulk_or_null(first.as_deref()))
            }
            _ => {
                let list: Vec<_> = self.list().iter().map(|value| bulk(value)).collect();
                (words(&[b"LRANGE", key.as_bytes(), b"0", b"-1"]), array(&list))
            }
        }
    }

    fn data_of_a_hash(&mut self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let key = self.key("hash");
        let mut hash = match self.thing("hash") {
            Some(Thing::Hash(hash)) => hash.clone(),
            _ => Vec::new(),
        };
        let field = format!("field{}", self.dice.below(6)).into_bytes();
        let at = hash.iter().position(|(known, _)| *known == field);
        match self.dice.below(4) {
            0 | 1 => {
                // A longer one would have the server forget the order.
                let value = self.value_of(0);
                if let Some(at) = at {
                    hash[at].1.clone_from(&value);
                } else {
                    hash.push((field.clone(), value.clone()));
                }
                self.put("hash", Thing::Hash(hash));
                (words(&[b"HSET", key.as_bytes(), &field, &value]), number(usize::from(at.is_none())))
            }
            2 => {
                let reply = self.bulk_or_null(at.map(|at| &*hash[at].1));
                (words(&[b"HGET", key.as_bytes(), &field]), reply)
            }
            _ => {
                let head = match self.protocol {
                    3 => format!("%{}\r\n", hash.len()),
                    _ => format!("*{}\r\n", 2 * hash.len()),
                };
                let parts = hash.iter().map(|(field, value)| [bulk(field), bulk(value)].concat());
                let reply = [head.into_bytes(), parts.collect::<Vec<_>>().concat()].concat();
                (words(&[b"HGETALL", key.as_bytes()]), reply)
            }
        }
    }

    /// What changes nothing, and mistakes that a server finds when it executes them.
    fn data_of_nothing(&mut self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let key = self.key("none");
        match self.dice.below(7) {
            0 => (words(&[b"GET", key.as_bytes()]), self.null()),
            1 => {
                let value = self.value();
                (words(&[b"ECHO", &value]), bulk(&value))
            }
            2 => (words(&[b"PING"]), b"+PONG\r\n".to_vec()),
            3 => (words(&[b"TTL", key.as_bytes()]), b":-2\r\n".to_vec()),
            4 => (words(&[b"INCRBY", key.as_bytes(), b"x"]), NOT_A_NUMBER.as_bytes().to_vec()),
            5 if !self.list().is_empty() => {
                (words(&[b"GET", self.key("list").as_bytes()]), WRONG_TYPE.as_bytes().to_vec())
            }
            5 => (words(&[b"TYPE", self.key("list").as_bytes()]), b"+none\r\n".to_vec()),
            _ => {
                let value = self.value();
                (words(&[b"PING", &value]), bulk(&value))
            }
        }
    }

    /// What is no command.
    fn nothing(&mut self) -> Said {
        let bytes: &[u8] = self.dice.one_of(&[&b"\r\n"[..], b"*0\r\n", b"*-1\r\n"]);
        Said { bytes: bytes.to_vec(), heard: Vec::new(), only_reads: true }
    }

    /// What a server refuses before it executes anything.
    fn mistake(&mut self) -> Said {
        let (words, reply) = match self.dice.below(6) {
            0 => (words(&[b"GET"]), "-ERR wrong number of arguments for 'get' command\r\n".to_owned()),
            1 => (
                words(&[b"INCR", b"a", b"b"]),
                "-ERR wrong number of arguments for 'incr' command\r\n".to_owned(),
            ),
            2 => {
                (words(&[b"HGETALL"]), "-ERR wrong number of arguments for 'hgetall' command\r\n".to_owned())
            }
            3 => (words(&[b"SELECT", b"99"]), "-ERR DB index is out of range\r\n".to_owned()),
            4 => (words(&[b"SELECT", b"x"]), "-ERR ".to_owned()),
            _ => {
                let name = format!("nonsense-{}", self.name);
                (words(&[name.as_bytes(), b"x"]), format!("-ERR unknown command '{name}'"))
            }
        };
        let heard = if reply.ends_with('\n') {
            Heard::This(reply.into_bytes())
        } else {
            Heard::Begins(reply.into_bytes())
        };
        self.say(&words.iter().map(Vec::as_slice).collect::<Vec<_>>(), heard)
    }

    fn select(&mut self) -> Said {
        self.database = DATABASES[self.dice.below(DATABASES.len())];
        self.say_text(&format!("SELECT {}", self.database), "+OK\r\n")
    }

    fn hello(&mut self) -> Said {
        self.protocol = if self.dice.percent(50) { 3 } else { 2 };
        let version = self.protocol.to_string();
        let mut words = vec!["HELLO", &version];
        let name = format!("{}-h{}", self.name, self.serial);
        if self.dice.percent(20) {
            words.extend(["SETNAME", &name]);
            self.called = Some(name.clone());
        }
        let words: Vec<_> = words.into_iter().map(str::as_bytes).collect();
        self.say(&words, Heard::Hello(self.protocol))
    }

    fn call(&mut self) -> Said {
        if self.dice.percent(30) {
            let name = format!("{}-n{}", self.name, self.serial);
            self.called = Some(name.clone());
            return self.say_text(&format!("CLIENT SETNAME {name}"), "+OK\r\n");
        }
        let called = self.bulk_or_null(self.called.as_deref().map(str::as_bytes));
        self.say(&[b"CLIENT", b"GETNAME"], Heard::This(called))
    }

    fn transaction(&mut self) -> Vec<Said> {
        let mut said = vec![self.say_text("MULTI", "+OK\r\n")];
        let before = self.things.clone();
        let mut replies = Vec::new();
        for _ in 0..self.dice.below(5) {
            let (words, reply) = self.data();
            replies.push(reply);
            said.push(self.queue(&words));
        }
        match self.dice.below(8) {
            0 => {
                self.things = before;
                said.push(self.say_text("DISCARD", "+OK\r\n"));
            }
            1 => {
                self.things = before;
                let mistake = self.mistake();
                // A database that there isn't is found out later.
                let is_found = !mistake.bytes.to_ascii_uppercase().windows(6).any(|word| word == b"SELECT");
                if is_found {
                    said.push(mistake);
                    let heard = Heard::Begins(b"-EXECABORT ".to_vec());
                    said.push(self.say(&[b"EXEC"], heard));
                } else {
                    said.push(self.say_text("DISCARD", "+OK\r\n"));
                }
            }
            _ => said.push(self.say(&[b"EXEC"], Heard::This(array(&replies)))),
        }
        in_state(said)
    }

    fn queue(&mut self, words: &[Vec<u8>]) -> Said {
        let words: Vec<_> = words.iter().map(Vec::as_slice).collect();
        self.say(&words, Heard::This(b"+QUEUED\r\n".to_vec()))
    }

    fn watch(&mut self) -> Vec<Said> {
        let key = self.key("text:0");
        let mut said = vec![self.say_text(&format!("WATCH {key}"), "+OK\r\n")];
        let has = self.bulk_or_null(self.text("text:0"));
        said.push(self.say(&[b"GET", key.as_bytes()], Heard::This(has)));
        let ends = self.dice.below(4);
        let is_changed = ends < 2;
        if is_changed {
            let value = self.value();
            said.push(self.say(&[b"SET", key.as_bytes(), &value], Heard::This(ok())));
            self.put("text:0", Thing::Text(value));
        }
        match ends {
            0 | 3 => said.push(self.say_text("UNWATCH", "+OK\r\n")),
            _ => {}
        }
        said.push(self.say_text("MULTI", "+OK\r\n"));
        let before = self.things.clone();
        let (words, reply) = self.data();
        said.push(self.queue(&words));
        // Whoever has changed it, even the client itself.
        let heard = if ends == 1 {
            self.things = before;
            self.null_array()
        } else {
            array(&[reply])
        };
        said.push(self.say(&[b"EXEC"], Heard::This(heard)));
        in_state(said)
    }

    fn script(&mut self) -> Said {
        if self.dice.percent(10) {
            let none = b"ffffffffffffffffffffffffffffffffffffffff";
            return self.say(&[b"EVALSHA", none, b"0"], Heard::Begins(b"-NOSCRIPT ".to_vec()));
        }
        let key = self.key("text:1");
        let value = self.value();
        let (script, reply) = match self.dice.below(8) {
            0 => ("return {KEYS[1], ARGV[1]}", array(&[bulk(key.as_bytes()), bulk(&value)])),
            1 => ("return redis.call('GET', KEYS[1])", self.bulk_or_null(self.text("text:1"))),
            2 => {
                self.put("text:1", Thing::Text(value.clone()));
                ("return redis.call('SET', KEYS[1], ARGV[1])", ok())
            }
            3 => ("return redis.error_reply('MYERR of mine')", b"-MYERR of mine\r\n".to_vec()),
            4 => ("return false", self.null()),
            5 => ("return {1, {2, {3, 'x'}}}", b"*2\r\n:1\r\n*2\r\n:2\r\n*2\r\n:3\r\n$1\r\nx\r\n".to_vec()),
            6 => {
                let big = value.repeat(1 + 30_000 / value.len());
                ("return string.rep(ARGV[1], 1 + math.floor(30000 / #ARGV[1]))", bulk(&big))
            }
            _ => {
                let database = self.database;
                self.database = DATABASES[1];
                self.put("inner", Thing::Text(value.clone()));
                self.database = database;
                let key = self.key("inner");
                let script = b"redis.call('SELECT', 1) return redis.call('SET', KEYS[1], ARGV[1])";
                return self.say(&[b"EVAL", script, b"1", key.as_bytes(), &value], Heard::This(ok()));
            }
        };
        self.say(&[b"EVAL", script.as_bytes(), b"1", key.as_bytes(), &value], Heard::This(reply))
    }

    /// What blocks where there is nothing, but not for long.
    fn pop_or_wait(&mut self) -> Said {
        let [none, list] = [self.key("none"), self.key("list")];
        let reply = match self.pop() {
            Some(first) => array(&[bulk(list.as_bytes()), bulk(&first)]),
            None => self.null_array(),
        };
        let words = [&b"BLPOP"[..], none.as_bytes(), list.as_bytes(), b"0.01"];
        self.say(&words, Heard::This(reply))
    }

    fn subscribe(&mut self) -> Vec<Said> {
        let channel = self.key("channel");
        let mut said = vec![self.say_to_channel("SUBSCRIBE", &channel, 1)];
        // In RESP2 nothing else may be asked meanwhile.
        if self.protocol == 3 {
            said.push(self.plain());
        } else {
            said.push(self.say_text("PING", "*2\r\n$4\r\npong\r\n$0\r\n\r\n"));
        }
        said.push(self.say_to_channel("UNSUBSCRIBE", &channel, 0));
        in_state(said)
    }

    pub(super) fn say_to_channel(&mut self, command: &str, channel: &str, left: usize) -> Said {
        let kind = if self.protocol == 3 { '>' } else { '*' };
        let parts =
            [bulk(command.to_lowercase().as_bytes()), bulk(channel.as_bytes()), number(left)].concat();
        let heard = [format!("{kind}3\r\n").as_bytes(), &parts].concat();
        self.say(&[command.as_bytes(), channel.as_bytes()], Heard::This(heard))
    }

    /// A message that comes by a channel.
    pub(super) fn message(&self, channel: &str, message: &[u8]) -> Vec<u8> {
        let kind = if self.protocol == 3 { '>' } else { '*' };
        let parts = [bulk(b"message"), bulk(channel.as_bytes()), bulk(message)].concat();
        [format!("{kind}3\r\n").as_bytes(), &parts].concat()
    }

    fn without_replies(&mut self) -> Vec<Said> {
        let (skips, count) = (self.dice.percent(50), self.dice.below(3));
        let mut unheard =
            vec![self.say_text(if skips { "CLIENT REPLY SKIP" } else { "CLIENT REPLY OFF" }, "")];
        for _ in 0..if skips { 1 } else { count } {
            unheard.push(self.plain());
        }
        for said in &mut unheard {
            said.heard.clear();
        }
        let heard = if skips { self.plain() } else { self.say_text("CLIENT REPLY ON", "+OK\r\n") };
        unheard.push(heard);
        in_state(unheard)
    }

    fn reset(&mut self) -> Said {
        self.is_reset();
        self.say_text("RESET", "+RESET\r\n")
    }

    /// A value that takes many packets.
    fn large(&mut self) -> Said {
        let key = self.key("big");
        if self.dice.percent(40) {
            let len = if self.dice.percent(70) { 20 << 10 } else { 200 << 10 };
            let value = self.value_of(len);
            self.put("big", Thing::Text(value.clone()));
            return self.say(&[b"SET", key.as_bytes(), &value], Heard::This(ok()));
        }
        let has = self.bulk_or_null(self.text("big"));
        self.say(&[b"GET", key.as_bytes()], Heard::This(has))
    }

    /// Which database a client is in then, the ambassador need not know.
    fn select_in_a_transaction(&mut self) -> Vec<Said> {
        self.is_pinned = true;
        let database = DATABASES[self.dice.below(DATABASES.len())];
        let mut said = vec![self.say_text("MULTI", "+OK\r\n")];
        said.push(self.say_text(&format!("SELECT {database}"), "+QUEUED\r\n"));
        self.database = database;
        let (words, reply) = self.data();
        said.push(self.queue(&words));
        said.push(self.say(&[b"EXEC"], Heard::This(array(&[ok(), reply]))));
        in_state(said)
    }

    fn track(&mut self) -> Vec<Said> {
        if self.protocol == 2 {
            return vec![self.plain()];
        }
        let mut said = vec![self.say_text("CLIENT TRACKING ON NOLOOP", "+OK\r\n")];
        said.push(self.plain());
        said.push(self.plain());
        said.push(self.say_text("CLIENT TRACKING OFF", "+OK\r\n"));
        in_state(said)
    }

    /// Waits for a value that somebody else puts into the queue, between two commands.
    pub(super) fn wait_for(&mut self, value: &[u8]) -> Vec<Said> {
        let queue = self.key("queue");
        let before = self.plain();
        let reply = array(&[bulk(queue.as_bytes()), bulk(value)]);
        let waits = self.say(&[b"BLPOP", queue.as_bytes(), b"0"], Heard::This(reply));
        let after = self.plain();
        vec![before, waits, after]
    }

    /// A transaction about a key that is watched, and that somebody else has changed to `value`.
    pub(super) fn is_too_late(&mut self, value: &[u8]) -> [Vec<Said>; 2] {
        let key = self.key("text:2");
        let watch = vec![self.say_text(&format!("WATCH {key}"), "+OK\r\n")];
        let mut said = vec![self.say_text("MULTI", "+OK\r\n")];
        let own = self.value();
        said.push(self.queue(&words(&[b"SET", key.as_bytes(), &own])));
        let heard = self.null_array();
        said.push(self.say(&[b"EXEC"], Heard::This(heard)));
        self.put("text:2", Thing::Text(value.to_vec()));
        said.push(self.say(&[b"GET", key.as_bytes()], Heard::This(bulk(value))));
        [watch, in_state(said)]
    }

    /// Ends the connection.
    pub(super) fn quit(&mut self) -> Said {
        self.say_text("QUIT", "+OK\r\n")
    }
}

/// None of these may be asked again of another upstream, even those that only read.
fn in_state(mut all: Vec<Said>) -> Vec<Said> {
    for said in &mut all {
        said.only_reads = false;
    }
    all
}

fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

fn ok() -> Vec<u8> {
    b"+OK\r\n".to_vec()
}

fn number(number: usize) -> Vec<u8> {
    format!(":{number}\r\n").into_bytes()
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn array(parts: &[Vec<u8>]) -> Vec<u8> {
    [format!("*{}\r\n", parts.len()).into_bytes(), parts.concat()].concat()
}
