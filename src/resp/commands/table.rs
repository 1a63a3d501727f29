//! What commands are, and what they leave behind on a connection.
//!
//! It is a list of what is known: a command that is on no list may leave anything behind. The lists are those of COMMAND,
//! asked of Redis 6.2 to 8.2 and of Valkey 8.1 and 9.1, and of later versions' documentation.

/// What a command is, for who forwards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It changes nothing: it does not matter how often it is executed.
    Reads,
    /// It changes nothing, and is answered with addresses of servers.
    Names,
    /// It runs a script or a function that changes nothing.
    ReadsByScript,
    /// It changes data, or has another effect on what others see.
    Writes,
    /// It changes data, and may be answered late.
    Blocks,
    /// It runs a script or a function, so that an error may come from within.
    Runs,
    /// It leaves nothing behind on the connection.
    Other,
    /// It leaves something behind that can be told, or is answered in another way than all others.
    Special(Special),
    /// Nobody knows.
    Unknown,
}

impl Class {
    /// Whether such commands of several clients may share one connection: they are answered at once, by one reply that is all
    /// theirs, and leave nothing behind.
    pub fn travels(self) -> bool {
        matches!(self, Self::Reads | Self::Names | Self::Writes)
    }
}

/// A command that has to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Asking,
    Auth,
    Client,
    Discard,
    Exec,
    Hello,
    /// What comes behind it are no replies to commands any more: MONITOR, SYNC, SCRIPT DEBUG.
    Lasting,
    Multi,
    Quit,
    Readonly,
    Readwrite,
    Reset,
    Select,
    Subscribe,
    Unsubscribe,
    Unwatch,
    Wait,
    Watch,
    /// It reads, but may ask for what is new to one server.
    Xread,
}

/// They change nothing, so that it does not matter how often they are executed.
const READS: &str = "bitcount bitfield_ro bitpos clusterscan dbsize digest dump echo exists expiretime geodist geohash geopos georadius_ro georadiusbymember_ro geosearch get getbit getrange hexists \
     hexpiretime hget hgetall hkeys hlen hmget hpexpiretime hpttl hrandfield hscan hstrlen httl hvals info \
     keys lastsave lcs lindex llen lolwut lpos lrange mget pexpiretime pfcount ping pttl randomkey role scan \
     scard sdiff sinter sintercard sismember smembers smismember sort_ro srandmember sscan stralgo strlen \
     substr sunion time touch ttl type vcard vdim vemb vgetattr vinfo vismember vlinks vrandmember vsim xinfo \
     xlen xpending xrange xrevrange zcard zcount zdiff zinter zintercard zlexcount zmscore zrandmember \
     zrange zrangebylex zrangebyscore zrank zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore \
     zunion";

/// They change data, or tell others something that replicas hear too.
const WRITES: &str = "append bitfield bitop copy decr decrby del delex delifeq expire expireat flushall flushdb geoadd \
     georadius georadiusbymember geosearchstore getdel getex getset hdel hexpire hexpireat hgetdel hgetex \
     hincrby hincrbyfloat hmset hpersist hpexpire hpexpireat hset hsetex hsetnx incr incrby incrbyfloat \
     linsert lmove lmpop lpop lpush lpushx lrem lset ltrim move mset msetex msetnx persist pexpire \
     pexpireat pfadd pfdebug pfmerge psetex publish rename renamenx restore restore-asking rpop rpoplpush rpush \
     rpushx sadd sdiffstore set setbit setex setnx setrange sinterstore smove sort spop spublish srem sunionstore \
     swapdb unlink vadd vrem vsetattr xack xackdel xadd xautoclaim xclaim xdel xdelex xgroup xsetid xtrim \
     zadd zdiffstore zincrby zinterstore zmpop zpopmax zpopmin zrangestore zrem zremrangebylex \
     zremrangebyrank zremrangebyscore zunionstore";

/// They change data, and may be answered late.
const BLOCKS: &str = "blmove blmovem blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin xreadgroup";

/// They change the server, and leave nothing behind on the connection.
const OTHERS: &str = "bgrewriteaof bgsave failover migrate pfselftest replicaof save shutdown slaveof";

/// They run scripts that change nothing.
const READING_RUNS: &str = "eval_ro evalsha_ro fcall_ro";

/// They run scripts.
const RUNS: &str = "eval evalsha fcall";

/// Those with subcommands that only read; their others leave nothing behind.
const CONTAINERS: &str =
    "acl cluster command commandlog config function latency memory module object pubsub script slowlog";

/// Subcommands that change nothing.
const READING_SUBCOMMANDS: &str = "acl|cat acl|getuser acl|help acl|list acl|users acl|whoami cluster|countkeysinslot \
     cluster|getkeysinslot cluster|help cluster|info cluster|keyslot cluster|links cluster|myid cluster|myshardid \
     cluster|slot-stats command|count \
     command|docs command|getkeys command|getkeysandflags command|help command|info command|list commandlog|get \
     commandlog|help commandlog|len config|get config|help function|dump function|help function|list function|stats \
     latency|doctor latency|graph latency|help latency|histogram latency|history latency|latest memory|doctor memory|help \
     memory|malloc-stats memory|stats memory|usage module|help module|list object|encoding object|freq object|help \
     object|idletime object|refcount pubsub|channels pubsub|help pubsub|numpat pubsub|numsub pubsub|shardchannels \
     pubsub|shardnumsub script|exists script|help slowlog|get slowlog|help slowlog|len";

/// Subcommands that change nothing, and are answered with the addresses of a cluster's nodes.
const NAMING_SUBCOMMANDS: &str = "cluster|nodes cluster|replicas cluster|shards cluster|slaves cluster|slots";

/// Subcommands that end what keeps the server busy. While it is, it lets nobody into a database, so they go where the
/// client is already.
const ENDING_SUBCOMMANDS: &str = "function|kill script|kill";

/// What the commands of modules that come with Redis begin with; they leave nothing behind.
const MODULES: &[&str] = &["bf.", "cf.", "cms.", "ft.", "json.", "tdigest.", "topk.", "ts."];

const SPECIAL: &[(&str, Special)] = &[
    ("asking", Special::Asking),
    ("auth", Special::Auth),
    ("client", Special::Client),
    ("discard", Special::Discard),
    ("exec", Special::Exec),
    ("hello", Special::Hello),
    ("monitor", Special::Lasting),
    ("multi", Special::Multi),
    ("psubscribe", Special::Subscribe),
    ("psync", Special::Lasting),
    ("punsubscribe", Special::Unsubscribe),
    ("quit", Special::Quit),
    ("readonly", Special::Readonly),
    ("readwrite", Special::Readwrite),
    ("replconf", Special::Lasting),
    ("reset", Special::Reset),
    ("select", Special::Select),
    ("ssubscribe", Special::Subscribe),
    ("subscribe", Special::Subscribe),
    ("sunsubscribe", Special::Unsubscribe),
    ("sync", Special::Lasting),
    ("unsubscribe", Special::Unsubscribe),
    ("unwatch", Special::Unwatch),
    ("wait", Special::Wait),
    ("waitaof", Special::Wait),
    ("watch", Special::Watch),
    ("xread", Special::Xread),
];

/// One that a name stands for.
#[derive(Clone, Copy)]
pub(super) enum Known {
    Class(Class),
    /// One whose second argument says what it is.
    Container,
}

/// A slot of the table: where in the list the name is, how long it is, and which list.
#[derive(Clone, Copy)]
struct Slot {
    name: &'static str,
    known: Option<Known>,
}

/// Three times as many as there are names, so that most are found at once.
const SLOTS: usize = 1024;

static TABLE: [Slot; SLOTS] = table();

#[expect(clippy::large_stack_arrays, reason = "it is made by the compiler")]
const fn table() -> [Slot; SLOTS] {
    let mut table = [Slot { name: "", known: None }; SLOTS];
    let lists = [
        (READS, Known::Class(Class::Reads)),
        (WRITES, Known::Class(Class::Writes)),
        (BLOCKS, Known::Class(Class::Blocks)),
        (READING_RUNS, Known::Class(Class::ReadsByScript)),
        (RUNS, Known::Class(Class::Runs)),
        (OTHERS, Known::Class(Class::Other)),
        (CONTAINERS, Known::Container),
        (READING_SUBCOMMANDS, Known::Class(Class::Reads)),
        (NAMING_SUBCOMMANDS, Known::Class(Class::Names)),
        (ENDING_SUBCOMMANDS, Known::Class(Class::Writes)),
    ];
    let mut list = 0;
    while list < lists.len() {
        let (names, known) = lists[list];
        let mut rest = names;
        while !rest.is_empty() {
            let mut end = 0;
            while end < rest.len() && rest.as_bytes()[end] != b' ' {
                end += 1;
            }
            let (name, more) = rest.split_at(end);
            table = with(table, name, known);
            rest = if more.is_empty() { more } else { more.split_at(1).1 };
        }
        list += 1;
    }
    let mut special = 0;
    while special < SPECIAL.len() {
        let (name, what) = SPECIAL[special];
        table = with(table, name, Known::Class(Class::Special(what)));
        special += 1;
    }
    table
}

const fn with(mut table: [Slot; SLOTS], name: &'static str, known: Known) -> [Slot; SLOTS] {
    let mut at = hash(name.as_bytes(), b"") % SLOTS;
    while table[at].known.is_some() {
        at = (at + 1) % SLOTS;
    }
    table[at] = Slot { name, known: Some(known) };
    table
}

/// FNV over a name in lower case, and over a second one behind it.
#[inline]
const fn hash(name: &[u8], more: &[u8]) -> usize {
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < name.len() + more.len() {
        let byte = if at < name.len() { name[at] } else { more[at - name.len()] };
        hash = (hash ^ (byte | 0x20) as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    (hash ^ (hash >> 15)) as usize
}

/// What a name stands for, in whatever case.
#[inline]
pub(super) fn lookup(name: &[u8]) -> Known {
    let mut at = hash(name, b"") % SLOTS;
    while let Slot { name: known, known: Some(what) } = TABLE[at] {
        if known.as_bytes().eq_ignore_ascii_case(name) {
            return what;
        }
        at = (at + 1) % SLOTS;
    }
    let begins_with = |prefix: &&str| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    Known::Class(if MODULES.iter().any(begins_with) { Class::Other } else { Class::Unknown })
}

/// What a command with this subcommand is.
pub(super) fn subcommand(name: &[u8], subcommand: &[u8]) -> Class {
    // It leaves the connection to a debugger.
    if name.eq_ignore_ascii_case(b"script") && subcommand.eq_ignore_ascii_case(b"debug") {
        return Class::Special(Special::Lasting);
    }
    let both = [name, b"|", subcommand].concat();
    match lookup(&both) {
        Known::Class(Class::Unknown) | Known::Container => Class::Other,
        Known::Class(class) => class,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str) -> Class {
        match lookup(name.as_bytes()) {
            Known::Class(class) => class,
            Known::Container => panic!("{name} has subcommands"),
        }
    }

    #[test]
    fn every_name_is_found_once_and_in_any_case() {
        let lists = [
            READS,
            WRITES,
            BLOCKS,
            READING_RUNS,
            RUNS,
            OTHERS,
            CONTAINERS,
            READING_SUBCOMMANDS,
            NAMING_SUBCOMMANDS,
            ENDING_SUBCOMMANDS,
        ];
        let mut names: Vec<_> = lists.iter().flat_map(|list| list.split(' ')).collect();
        names.extend(SPECIAL.iter().map(|(name, _)| *name));
        let count = names.len();
        for name in &names {
            assert!(
                !matches!(lookup(name.to_uppercase().as_bytes()), Known::Class(Class::Unknown)),
                "{name}"
            );
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name is on two lists");
        assert!(count < SLOTS / 2, "the table is full");
    }

    #[test]
    fn commands_are_what_they_are() {
        for (name, expected) in [
            ("GET", Class::Reads),
            ("xread", Class::Special(Special::Xread)),
            ("Set", Class::Writes),
            ("SORT", Class::Writes),
            ("blpop", Class::Blocks),
            ("evalsha", Class::Runs),
            ("eval_ro", Class::ReadsByScript),
            ("PUBLISH", Class::Writes),
            ("FAILOVER", Class::Other),
            ("JSON.SET", Class::Other),
            ("reset", Class::Special(Special::Reset)),
            ("HIMPORT", Class::Unknown),
            ("resets", Class::Unknown),
            ("", Class::Unknown),
        ] {
            assert_eq!(class(name), expected, "{name}");
        }
        assert_eq!(subcommand(b"CONFIG", b"Get"), Class::Reads);
        assert_eq!(subcommand(b"CONFIG", b"SET"), Class::Other);
        assert_eq!(subcommand(b"CLUSTER", b"SHARDS"), Class::Names);
        assert_eq!(subcommand(b"SCRIPT", b"KILL"), Class::Writes);
        assert_eq!(subcommand(b"SCRIPT", b"LOAD"), Class::Other);
        assert_eq!(subcommand(b"SCRIPT", b"DEBUG"), Class::Special(Special::Lasting));
    }
}
