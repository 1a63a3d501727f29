//! Addresses of a Redis Cluster's nodes in replies, and what clients are told in their place.
//!
//! What a reply is shows in its shape, whatever was asked: CLUSTER SLOTS, SHARDS and NODES, the lines of CLUSTER REPLICAS,
//! redirections, and an EXEC's list of such. A null, a count or an order that a decoder would not keep has to stay as it was
//! in both protocols, so a reply is not decoded by `redis-protocol` but becomes a small tree of slices, and all that is
//! not an address is copied from the reply itself.
//!
//! <https://redis.io/docs/latest/commands/cluster-slots/>, `cluster-shards`, `cluster-nodes`.

use std::fmt::Write;
use std::ops::Range;
use std::{iter, str};

use super::NotReply;

/// How deep lists may lie in each other. The deepest that servers send is COMMAND DOCS, with arguments in arguments.
const DEEPEST: usize = 32;

/// As far from a node's own port as it is, where nothing else is said, to the port of the cluster bus.
const TO_BUS: u16 = 10_000;

/// There are so many slots.
pub const SLOTS: u16 = 16_384;

/// A node as a reply names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Its id, where the reply has it.
    pub id: Option<&'a str>,
    /// Its address or name; empty where the reply says none, which is the host that was asked.
    pub host: &'a str,
    pub port: u16,
    /// The slot of a redirection.
    pub slot: Option<u16>,
}

/// What clients are told instead.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// Without brackets, as servers write it.
    pub host: &'a str,
    /// Whether clients speak TLS.
    pub is_tls: bool,
}

/// What becomes of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Its listener's number.
    Known(u16),
    /// It has no address that could be told: it is shown as a node without one (`:0@0`).
    Hidden,
    /// Nobody knows it: the reply can't be rewritten (yet).
    Unknown,
}

/// The reply (whole, exactly one) with every node's address replaced; `None` if a place is unknown. All places are asked for,
/// but those that have no address, so that the caller learns of all of them at once.
pub fn rewritten(
    reply: &[u8],
    told: &Told<'_>,
    port_of: &mut dyn FnMut(&Place<'_>) -> Port,
) -> Result<Option<Vec<u8>>, NotReply> {
    let tree = Tree::of(reply)?;
    let out = Vec::with_capacity(reply.len() + reply.len() / 4);
    let mut rewriting = Rewriting { tree: &tree, told, port_of, out, copied: 0, is_unknown: false };
    rewriting.whole();
    if rewriting.is_unknown {
        return Ok(None);
    }
    rewriting.out.extend_from_slice(&reply[rewriting.copied..]);
    Ok(Some(rewriting.out))
}

/// Whether a reply is a redirection, by its first 7 bytes at least.
pub fn is_redirection(head: &[u8]) -> bool {
    head.starts_with(b"-MOVED ") || head.starts_with(b"-ASK ")
}

/// One element's own bytes, without those in it.
struct Element<'a> {
    kind: u8,
    text: &'a [u8],
    items: u64,
    body: usize,
    end: usize,
}

impl<'a> Element<'a> {
    fn at(reply: &'a [u8], at: usize) -> Result<Self, NotReply> {
        let (&kind, rest) = reply.get(at..).and_then(<[u8]>::split_first).ok_or(NotReply)?;
        let length = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).ok_or(NotReply)?;
        if !rest[length..].starts_with(b"\r\n") {
            return Err(NotReply);
        }
        let line = &rest[..length];
        let body = at + 1 + length + 2;
        let mut element = Self { kind, text: line, items: 0, body, end: body };
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'$' | b'!' | b'=' | b'*' | b'~' if line == b"-1" => element.kind = b'_',
            b'$' | b'!' | b'=' => {
                let length = usize::try_from(count(line)?).map_err(|_| NotReply)?;
                let end = body.checked_add(length).ok_or(NotReply)?;
                element.text = reply.get(body..end).ok_or(NotReply)?;
                if reply.get(end..).is_none_or(|rest| !rest.starts_with(b"\r\n")) {
                    return Err(NotReply);
                }
                element.end = end + 2;
            }
            b'*' | b'~' | b'>' => element.items = count(line)?,
            b'%' | b'|' => element.items = count(line)?.checked_mul(2).ok_or(NotReply)?,
            _ => return Err(NotReply),
        }
        Ok(element)
    }
}

/// A count as servers write it: nothing but digits, no zeros in front, and not beyond 63 bits.
fn count(line: &[u8]) -> Result<u64, NotReply> {
    if line.len() > 1 && line[0] == b'0' {
        return Err(NotReply);
    }
    let number = digits(line).and_then(|digits| digits.parse::<i64>().ok()).ok_or(NotReply)?;
    u64::try_from(number).map_err(|_| NotReply)
}

/// The text, if it is made of digits.
fn digits(text: &[u8]) -> Option<&str> {
    (!text.is_empty() && text.iter().all(u8::is_ascii_digit)).then(|| str::from_utf8(text).ok())?
}

/// Where so many elements end that begin there, with all that is in them.
fn end_of(reply: &[u8], mut at: usize, mut due: u64) -> Result<usize, NotReply> {
    while due > 0 {
        let element = Element::at(reply, at)?;
        if element.kind == b'>' {
            return Err(NotReply);
        }
        // An attribute stands beside the element that it belongs to.
        due -= u64::from(element.kind != b'|');
        due = due.checked_add(element.items).ok_or(NotReply)?;
        at = element.end;
    }
    Ok(at)
}

/// An element of a reply.
struct Part<'a> {
    /// Its first byte; `_` for RESP2's nulls too.
    kind: u8,
    /// In how many others it is.
    depth: usize,
    /// What its line or string says.
    text: &'a [u8],
    /// Where its attributes begin; it itself; what is in it; and where that ends.
    from: usize,
    at: usize,
    body: usize,
    to: usize,
    /// The part behind it and all that is in it.
    next: usize,
}

/// A reply's parts, each before those that are in it.
struct Tree<'a> {
    reply: &'a [u8],
    parts: Vec<Part<'a>>,
}

impl<'a> Tree<'a> {
    fn of(reply: &'a [u8]) -> Result<Self, NotReply> {
        let mut parts: Vec<Part<'a>> = Vec::new();
        // The lists that are not at their end, each with how many of its items are to come.
        let mut open: Vec<(usize, u64)> = Vec::new();
        let mut at = 0;
        loop {
            let from = at;
            let mut element = Element::at(reply, at)?;
            while element.kind == b'|' {
                at = end_of(reply, element.end, element.items)?;
                element = Element::at(reply, at)?;
            }
            let Element { kind, text, items, body, end } = element;
            let depth = open.len();
            if depth > DEEPEST || kind == b'>' && depth > 0 {
                return Err(NotReply);
            }
            let index = parts.len();
            parts.push(Part { kind, depth, text, from, at, body, to: end, next: index + 1 });
            at = end;
            if items > 0 {
                open.push((index, items));
                continue;
            }
            // What is complete with it.
            loop {
                let Some((index, left)) = open.last_mut() else {
                    return if at == reply.len() { Ok(Self { reply, parts }) } else { Err(NotReply) };
                };
                *left -= 1;
                if *left > 0 {
                    break;
                }
                parts[*index].to = at;
                parts[*index].next = parts.len();
                open.pop();
            }
        }
    }

    fn items(&self, list: usize) -> impl Iterator<Item = usize> {
        let end = self.parts[list].next;
        let inside = move |index: usize| (index < end).then_some(index);
        iter::successors(inside(list + 1), move |index| inside(self.parts[*index].next))
    }

    /// Whether it is a list that is not empty, and all that is in it is so.
    fn is_list_of(&self, list: usize, is_so: impl Fn(usize) -> bool) -> bool {
        self.parts[list].kind == b'*' && self.parts[list].next > list + 1 && self.items(list).all(is_so)
    }

    /// Names and what they stand for: a map, or RESP2's flat list.
    fn pairs(&self, table: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut items = self.items(table);
        iter::from_fn(move || Some((items.next()?, items.next()?)))
    }

    fn is_table(&self, table: usize) -> bool {
        match self.parts[table].kind {
            b'%' => {}
            b'*' if self.items(table).count().is_multiple_of(2) => {}
            _ => return false,
        }
        self.pairs(table).all(|(name, _)| self.text(name).is_some())
    }

    /// What stands for that name.
    fn field(&self, table: usize, name: &str) -> Option<usize> {
        self.pairs(table).find(|(key, _)| self.text(*key) == Some(name)).map(|(_, value)| value)
    }

    fn text(&self, index: usize) -> Option<&'a str> {
        let part = &self.parts[index];
        matches!(part.kind, b'$' | b'+').then(|| str::from_utf8(part.text).ok())?
    }

    fn is_null(&self, index: usize) -> bool {
        self.parts[index].kind == b'_'
    }

    /// A port or a slot.
    fn number(&self, index: usize) -> Option<u16> {
        let part = &self.parts[index];
        (part.kind == b':').then(|| digits(part.text)?.parse().ok())?
    }

    fn is_slots(&self, list: usize) -> bool {
        self.is_list_of(list, |range| {
            let mut items = self.items(range);
            let mut is_slot = || items.next().is_some_and(|slot| self.number(slot).is_some());
            self.parts[range].kind == b'*'
                && is_slot()
                && is_slot()
                && items
                    .next()
                    .is_some_and(|first| iter::once(first).chain(items).all(|node| self.is_node(node)))
        })
    }

    /// Whether it is a node of CLUSTER SLOTS: host, port, and since Redis 4 an id.
    fn is_node(&self, node: usize) -> bool {
        let mut items = self.items(node);
        self.parts[node].kind == b'*'
            && items.next().is_some_and(|host| self.is_null(host) || self.text(host).is_some())
            && items.next().is_some_and(|port| self.number(port).is_some())
            && items.next().is_none_or(|id| self.text(id).is_some())
    }

    fn is_shards(&self, list: usize) -> bool {
        let is_list = |index: usize| self.parts[index].kind == b'*';
        let is = |node, name, is: &dyn Fn(usize) -> bool| self.field(node, name).is_none_or(is);
        let is_port = |port| self.number(port).is_some();
        let is_host = |host| self.is_null(host) || self.text(host).is_some();
        // Of a node that has been replaced at its address no port is told.
        let is_node = |node| {
            self.is_table(node)
                && ["port", "tls-port"].iter().all(|name| is(node, name, &is_port))
                && ["ip", "endpoint"].iter().all(|name| is(node, name, &is_host))
                && ["ip", "endpoint", "port", "tls-port"].iter().any(|name| self.field(node, name).is_some())
        };
        self.is_list_of(list, |shard| {
            self.is_table(shard)
                && self.field(shard, "slots").is_some_and(is_list)
                && self
                    .field(shard, "nodes")
                    .is_some_and(|nodes| is_list(nodes) && self.items(nodes).all(is_node))
        })
    }

    /// Whether these are the lines of CLUSTER REPLICAS.
    fn is_replicas(&self, list: usize) -> bool {
        self.is_list_of(list, |line| {
            let text = self.parts[line].text;
            matches!(self.parts[line].kind, b'$' | b'+')
                && str::from_utf8(text).ok().and_then(Line::of).is_some()
        })
    }
}

/// A line of CLUSTER NODES.
struct Line<'a> {
    id: &'a str,
    host: &'a str,
    port: u16,
    /// Whether it says the port of the cluster bus, as since Redis 4.
    has_bus: bool,
    /// What follows the address: a host name, and names with values.
    more: Option<&'a str>,
    /// Whether the node is known to have no address.
    is_lost: bool,
    /// From the flags on.
    rest: &'a str,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let (id, rest) = line.split_at_checked(40)?;
        let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let (address, rest) = rest.strip_prefix(' ')?.split_once(' ')?;
        let (address, more) = match address.split_once(',') {
            Some((address, more)) => (address, Some(more)),
            None => (address, None),
        };
        let (address, bus) = match address.split_once('@') {
            Some((address, bus)) => (address, Some(bus)),
            None => (address, None),
        };
        let (host, port) = host_and_port(address)?;
        let mut fields = rest.split(' ');
        let flags = fields.next()?;
        let primary = fields.next()?;
        let is_number = |text: &str| digits(text.as_bytes()).is_some();
        let is_so = is_hex(id)
            && bus.is_none_or(is_number)
            && (primary == "-" || primary.len() == 40 && is_hex(primary))
            // Ping, pong, epoch.
            && (0..3).all(|_| fields.next().is_some_and(is_number))
            && matches!(fields.next()?, "connected" | "disconnected");
        let is_lost = flags.split(',').any(|flag| flag == "noaddr");
        is_so.then_some(Self { id, host, port, has_bus: bus.is_some(), more, is_lost, rest })
    }

    /// What follows the address, without a host's name and port.
    fn names(&self, port: u16, is_tls: bool) -> String {
        let (mut names, mut says_any) = (String::new(), false);
        for (at, word) in self.more.into_iter().flat_map(|more| more.split(',')).enumerate() {
            let number = |is_ours: bool| if is_ours { port } else { 0 };
            says_any |= at > 0 || word.contains('=');
            // Writing to a string can't fail.
            let _ = match word.split_once('=') {
                Some((name @ "tls-port", _)) => write!(names, ",{name}={}", number(is_tls)),
                Some((name @ "tcp-port", _)) => write!(names, ",{name}={}", number(!is_tls)),
                None if at == 0 => write!(names, ","),
                _ => write!(names, ",{word}"),
            };
        }
        if says_any { names } else { String::new() }
    }
}

/// The lines of CLUSTER NODES, if it is nothing else.
fn lines(text: &[u8]) -> Option<Vec<Line<'_>>> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.split(|byte| *byte == b'\n').map(|line| Line::of(str::from_utf8(line).ok()?)).collect()
}

/// As servers write them: IPv6 without brackets, and nothing for a host that is the one that was asked.
fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, digits(port.as_bytes())?.parse().ok()?))
}

/// An error that sends clients elsewhere: where, and where in its text that stands.
fn elsewhere(error: &[u8]) -> Option<(Place<'_>, Range<usize>)> {
    let word = if error.starts_with(b"MOVED ") { 6 } else { 4 };
    if word == 4 && !error.starts_with(b"ASK ") {
        return None;
    }
    let mut words = error[word..].split(|byte| *byte == b' ');
    let (slot, address) = (words.next()?, words.next()?);
    let from = word + slot.len() + 1;
    let slot = digits(slot)?.parse().ok().filter(|slot| *slot < SLOTS)?;
    let (host, port) = host_and_port(str::from_utf8(address).ok()?)?;
    Some((Place { id: None, host: named(Some(host)), port, slot: Some(slot) }, from..from + address.len()))
}

/// A name, if it is one. A server that has none to tell says `?`.
fn named(host: Option<&str>) -> &str {
    host.filter(|host| *host != "?").unwrap_or_default()
}

struct Rewriting<'a> {
    tree: &'a Tree<'a>,
    told: &'a Told<'a>,
    port_of: &'a mut dyn FnMut(&Place<'_>) -> Port,
    out: Vec<u8>,
    /// How much of the reply is in `out` already.
    copied: usize,
    is_unknown: bool,
}

impl<'a> Rewriting<'a> {
    fn whole(&mut self) {
        let tree = self.tree;
        let is_list = tree.parts[0].kind == b'*';
        let mut index = 0;
        while let Some(part) = tree.parts.get(index) {
            // The reply itself, or one among those of an EXEC.
            let may_be_reply = part.depth == 0 || part.depth == 1 && is_list;
            let is_whole = match part.kind {
                b'-' | b'!' => self.error(part),
                b'$' | b'+' | b'=' if may_be_reply => self.nodes(part),
                b'*' if may_be_reply => self.list(index),
                _ => false,
            };
            index = if is_whole { part.next } else { index + 1 };
        }
    }

    /// Whether it was a list of nodes.
    fn list(&mut self, list: usize) -> bool {
        let tree = self.tree;
        if tree.is_slots(list) {
            for range in tree.items(list) {
                tree.items(range).skip(2).for_each(|node| self.slots_node(node));
            }
        } else if tree.is_shards(list) {
            for nodes in tree.items(list).filter_map(|shard| tree.field(shard, "nodes")) {
                tree.items(nodes).for_each(|node| self.shards_node(node));
            }
        } else if tree.is_replicas(list) {
            tree.items(list).for_each(|line| _ = self.nodes(&tree.parts[line]));
        } else {
            return false;
        }
        true
    }

    /// The host and the port that are told for a place; none for one that has none, or must not be told.
    fn told(&mut self, place: &Place<'_>) -> (&'a str, u16) {
        if place.host.is_empty() && place.port == 0 {
            return ("", 0);
        }
        match (self.port_of)(place) {
            Port::Known(port) => (self.told.host, port),
            Port::Hidden => ("", 0),
            Port::Unknown => {
                self.is_unknown = true;
                ("", 0)
            }
        }
    }

    fn slots_node(&mut self, node: usize) {
        let tree = self.tree;
        let mut items = tree.items(node);
        let (Some(host), Some(port)) = (items.next(), items.next()) else { return };
        let id = items.next().and_then(|id| tree.text(id));
        let place = Place {
            id,
            host: named(tree.text(host)),
            port: tree.number(port).unwrap_or_default(),
            slot: None,
        };
        let (told, number) = self.told(&place);
        self.replace_text(host, told);
        self.replace_number(port, number);
        if let Some(about) = items.next().filter(|about| tree.is_table(*about)) {
            let is_dropped = |name| matches!(tree.text(name), Some("ip" | "hostname"));
            let dropped = tree.pairs(about).filter(|(name, _)| is_dropped(*name)).count();
            self.replace_count(about, dropped);
            tree.pairs(about).filter(|(name, _)| is_dropped(*name)).for_each(|pair| self.drop_pair(pair));
        }
    }

    fn shards_node(&mut self, node: usize) {
        let tree = self.tree;
        let text = |name| tree.field(node, name).and_then(|value| tree.text(value));
        let port =
            |name| tree.field(node, name).and_then(|value| tree.number(value)).filter(|port| *port > 0);
        let host = Some(named(text("endpoint"))).filter(|host| !host.is_empty());
        let place = Place {
            id: text("id"),
            host: host.unwrap_or_else(|| named(text("ip"))),
            port: port("port").or_else(|| port("tls-port")).unwrap_or_default(),
            slot: None,
        };
        let (told, number) = self.told(&place);
        let is_port = |name| matches!(tree.text(name), Some("port" | "tls-port"));
        let kept = tree.pairs(node).map(|(name, _)| name).find(|name| is_port(*name));
        let is_dropped = |name| tree.text(name) == Some("hostname") || is_port(name) && Some(name) != kept;
        self.replace_count(node, tree.pairs(node).filter(|(name, _)| is_dropped(*name)).count());
        for (name, value) in tree.pairs(node) {
            if is_dropped(name) {
                self.drop_pair((name, value));
            } else if Some(name) == kept {
                self.replace_text(name, if self.told.is_tls { "tls-port" } else { "port" });
                self.replace_number(value, number);
            } else if matches!(tree.text(name), Some("ip" | "endpoint")) {
                self.replace_text(value, told);
            }
        }
    }

    /// Whether it was lines of CLUSTER NODES.
    fn nodes(&mut self, string: &Part<'_>) -> bool {
        // RESP3 says first what kind of text it is.
        let (format, text) = if string.kind == b'=' {
            string.text.split_at(string.text.len().min(4))
        } else {
            string.text.split_at(0)
        };
        let Some(lines) = lines(text) else { return false };
        let mut new = format.to_vec();
        for (at, line) in lines.iter().enumerate() {
            let place = Place { id: Some(line.id), host: line.host, port: line.port, slot: None };
            let (host, port) = if line.is_lost { ("", 0) } else { self.told(&place) };
            let bus = match port {
                0 => 0,
                _ => port.checked_add(TO_BUS).unwrap_or_else(|| port - TO_BUS),
            };
            let bus = if line.has_bus { format!("@{bus}") } else { String::new() };
            let more = line.names(port, self.told.is_tls);
            let end = if at > 0 { "\n" } else { "" };
            new.extend_from_slice(
                format!("{end}{} {host}:{port}{bus}{more} {}", line.id, line.rest).as_bytes(),
            );
        }
        if text.ends_with(b"\n") {
            new.push(b'\n');
        }
        self.replace_string(string, &new);
        true
    }

    /// Whether it was a redirection.
    fn error(&mut self, error: &Part<'_>) -> bool {
        let Some((place, range)) = elsewhere(error.text) else { return false };
        let (host, port) = self.told(&place);
        let address = format!("{host}:{port}");
        let new = [&error.text[..range.start], address.as_bytes(), &error.text[range.end..]].concat();
        self.replace_string(error, &new);
        true
    }

    fn replace(&mut self, range: Range<usize>, new: &[u8]) {
        self.out.extend_from_slice(&self.tree.reply[self.copied..range.start]);
        self.out.extend_from_slice(new);
        self.copied = range.end;
    }

    /// A string or an error, in the way in which it is written.
    fn replace_string(&mut self, part: &Part<'_>, new: &[u8]) {
        self.replace(part.at..part.at, &[]);
        match part.kind {
            kind @ (b'+' | b'-') => self.out.push(kind),
            kind => {
                let kind = if kind == b'_' { '$' } else { char::from(kind) };
                self.out.extend_from_slice(format!("{kind}{}\r\n", new.len()).as_bytes());
            }
        }
        self.out.extend_from_slice(new);
        self.out.extend_from_slice(b"\r\n");
        self.copied = part.to;
    }

    fn replace_text(&mut self, index: usize, new: &str) {
        let part = &self.tree.parts[index];
        // A null says the same.
        if part.kind != b'_' || !new.is_empty() {
            self.replace_string(part, new.as_bytes());
        }
    }

    fn replace_number(&mut self, index: usize, number: u16) {
        let part = &self.tree.parts[index];
        self.replace(part.at..part.to, format!(":{number}\r\n").as_bytes());
    }

    /// How many a table has, when so many pairs are dropped.
    fn replace_count(&mut self, table: usize, dropped: usize) {
        if dropped > 0 {
            let part = &self.tree.parts[table];
            let pairs = self.tree.pairs(table).count() - dropped;
            let count = if part.kind == b'%' { pairs } else { 2 * pairs };
            self.replace(part.at..part.body, format!("{}{count}\r\n", char::from(part.kind)).as_bytes());
        }
    }

    fn drop_pair(&mut self, (name, value): (usize, usize)) {
        self.replace(self.tree.parts[name].from..self.tree.parts[value].to, &[]);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::{env, fs};

    use super::super::replies::Replies;
    use super::*;
    use crate::fixtures::all;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    /// RESP as it is written in these tests: lines with spaces between, `$text` for a string with its length, and `'` before
    /// one that has spaces.
    fn resp(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (at, part) in text.split('\'').enumerate() {
            let words: Vec<&str> = if at % 2 == 1 { vec![part] } else { part.split_whitespace().collect() };
            for word in words {
                let (kind, rest) = word.split_at(1);
                let line = match kind {
                    "$" | "=" | "!" if rest != "-1" => format!("{kind}{}\r\n{rest}\r\n", rest.len()),
                    _ => format!("{word}\r\n"),
                };
                bytes.extend_from_slice(line.as_bytes());
            }
        }
        bytes
    }

    /// What becomes of a reply, with clients that were told `proxy`, by a table of ports in which node A is at 9001, B at 9002,
    /// the port 7009 hidden, and 7008 unknown; and what was asked for.
    fn told(reply: &[u8], is_tls: bool) -> (Option<Vec<u8>>, Vec<String>) {
        let mut asked = Vec::new();
        let mut port_of = |place: &Place<'_>| {
            let id = place.id.map_or(String::new(), |id| format!("{}=", &id[..1]));
            let slot = place.slot.map_or(String::new(), |slot| format!("/{slot}"));
            asked.push(format!("{id}{}:{}{slot}", place.host, place.port));
            match (place.id, place.port) {
                (_, 7009) => Port::Hidden,
                (_, 7008) => Port::Unknown,
                (Some(B), _) | (None, 7002) => Port::Known(9002),
                _ => Port::Known(9001),
            }
        };
        let result = rewritten(reply, &Told { host: "proxy", is_tls }, &mut port_of).expect("a reply");
        (result, asked)
    }

    #[track_caller]
    fn assert_told(before: &str, after: &str, asked: &[&str]) {
        let (result, places) = told(&resp(before), false);
        assert_eq!(
            result.map(|bytes| bytes.escape_ascii().to_string()),
            Some(resp(after).escape_ascii().to_string())
        );
        assert_eq!(places, asked);
    }

    #[track_caller]
    fn assert_left(reply: &str) {
        assert_told(reply, reply, &[]);
    }

    #[test]
    fn redirections_name_the_listener() {
        for word in ["MOVED", "ASK"] {
            for (host, asked) in
                [("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("node.test", "node.test"), ("", ""), ("?", "")]
            {
                for more in ["", " script: 4ab, on @user_script:1."] {
                    assert_told(
                        &format!("'-{word} 3999 {host}:7002{more}'"),
                        &format!("'-{word} 3999 proxy:9002{more}'"),
                        &[&format!("{asked}:7002/3999")],
                    );
                    assert_told(
                        &format!("'!{word} 3999 {host}:7002{more}'"),
                        &format!("'!{word} 3999 proxy:9002{more}'"),
                        &[&format!("{asked}:7002/3999")],
                    );
                }
            }
        }
        assert_told("'-MOVED 1 h:7009'", "'-MOVED 1 :0'", &["h:7009/1"]);
        assert_eq!(told(&resp("'-MOVED 1 h:7008'"), false), (None, vec!["h:7008/1".to_owned()]));
    }

    #[test]
    fn what_is_no_redirection_is_left() {
        for error in [
            "-MOVED",
            "'-MOVED 1'",
            "'-MOVED 1 '",
            "'-MOVED  1 h:1'",
            "'-MOVED x h:1'",
            "'-MOVED 16384 h:1'",
            "'-MOVED +1 h:1'",
            "'-MOVED 1 h'",
            "'-MOVED 1 h:'",
            "'-MOVED 1 h:65536'",
            "'-MOVED 1 h:+1'",
            "'-MOVED 1 :0'",
            "'-MOVEDX 1 h:1'",
            "'-ERR MOVED 1 h:1'",
            "'+MOVED 1 h:1'",
            "'$MOVED 1 h:1'",
        ] {
            assert_left(error);
        }
    }

    #[test]
    fn redirections_are_known_by_their_head() {
        for head in ["-MOVED 1", "-MOVED ", "-ASK 3999 h:1"] {
            assert!(is_redirection(head.as_bytes()), "{head}");
        }
        for head in ["-MOVED", "-ASKING", "+MOVED 1", "-ERR MOVED ", "$6\r\nASK 1 "] {
            assert!(!is_redirection(head.as_bytes()), "{head}");
        }
    }

    #[test]
    fn only_errors_are_redirections() {
        let told = Told { host: "proxy", is_tls: false };
        let mut port_of = |_: &Place<'_>| Port::Known(1);
        let mut ask = |line: &[u8]| rewritten(line, &told, &mut port_of);
        assert_eq!(ask(b"-ASK 1 h:7002\r\n"), Ok(Some(b"-ASK 1 proxy:1\r\n".to_vec())));
        assert_eq!(ask(b"-ERR no\r\n"), Ok(Some(b"-ERR no\r\n".to_vec())));
        assert_eq!(ask(b"+ASK 1 h:7002\r\n"), Ok(Some(b"+ASK 1 h:7002\r\n".to_vec())));
        for other in [&b""[..], b"-ASK 1 h:1", b"-ASK 1 h:1\r\n+OK\r\n"] {
            assert_eq!(ask(other), Err(NotReply));
        }
    }

    #[test]
    fn slots_name_the_listeners_and_no_other_address() {
        assert_told(
            &format!("*1 *4 :0 :5460 *3 $10.0.0.1 :7001 ${A} *3 $10.0.0.2 :7002 ${B}"),
            &format!("*1 *4 :0 :5460 *3 $proxy :9001 ${A} *3 $proxy :9002 ${B}"),
            &["a=10.0.0.1:7001", "b=10.0.0.2:7002"],
        );
        // Before Redis 4.
        assert_told("*1 *3 :0 :9 *2 $h :7002", "*1 *3 :0 :9 *2 $proxy :9002", &["h:7002"]);
        // Names, and what else is known of a node.
        let zone = "$availability-zone $z1";
        assert_told(
            &format!("*1 *3 :0 :9 *4 $n.test :7001 ${A} *6 $ip $10.0.0.1 {zone} $hostname $n.test"),
            &format!("*1 *3 :0 :9 *4 $proxy :9001 ${A} *2 {zone}"),
            &["a=n.test:7001"],
        );
        assert_told(
            &format!("*1 *3 :0 :9 *4 $-1 :7001 ${A} %2 $ip $10.0.0.1 {zone}"),
            &format!("*1 *3 :0 :9 *4 $proxy :9001 ${A} %1 {zone}"),
            &["a=:7001"],
        );
        assert_told(
            &format!("*1 *3 :0 :9 *4 _ :7001 +{A} %1 +ip +10.0.0.1"),
            &format!("*1 *3 :0 :9 *4 $proxy :9001 +{A} %0"),
            &["a=:7001"],
        );
        for none in ["$?", "+?"] {
            assert_told(
                &format!("*1 *3 :0 :9 *3 {none} :7001 ${A}"),
                &format!("*1 *3 :0 :9 *3 {}proxy :9001 ${A}", &none[..1]),
                &["a=:7001"],
            );
        }
    }

    #[test]
    fn a_node_without_an_address_is_not_asked_for() {
        for none in ["$-1", "_", "$"] {
            assert_left(&format!("*1 *3 :0 :9 *4 {none} :0 ${A} *0"));
        }
        assert_left(&format!("'${A} :0@0 master,noaddr - 0 0 1 disconnected\n'"));
        assert_left(&format!("'${A} :0@0 slave {B} 0 0 1 connected'"));
        assert_told(
            &format!("'${A} 10.0.0.1:7001@17001,n.test master,noaddr - 0 0 1 disconnected'"),
            &format!("'${A} :0@0 master,noaddr - 0 0 1 disconnected'"),
            &[],
        );
        let shards = |node: &str| format!("*1 %2 $slots *0 $nodes *1 {node}");
        assert_left(&shards("%3 $ip $ $port :0 $endpoint _"));
    }

    #[test]
    fn a_hidden_node_is_shown_without_an_address() {
        assert_told(
            &format!("*1 *4 :0 :9 *4 $h :7009 ${A} *2 $ip $10.0.0.1 *4 $-1 :7009 ${B} *0"),
            &format!("*1 *4 :0 :9 *4 $ :0 ${A} *0 *4 $-1 :0 ${B} *0"),
            &["a=h:7009", "b=:7009"],
        );
        assert_told(
            &format!("'${A} h:7009@17009,n.test,,shard-id=1,tls-port=7 master - 0 0 1 connected 0-9'"),
            &format!("'${A} :0@0,,,shard-id=1,tls-port=0 master - 0 0 1 connected 0-9'"),
            &["a=h:7009"],
        );
        assert_told(
            &format!("*1 %2 $slots *0 $nodes *1 %4 $id ${A} $port :7009 $ip $10.0.0.1 $endpoint $n.test"),
            &format!("*1 %2 $slots *0 $nodes *1 %4 $id ${A} $port :0 $ip $ $endpoint $"),
            &["a=n.test:7009"],
        );
    }

    #[test]
    fn all_places_are_asked_for_though_the_first_is_unknown() {
        let reply = resp(&format!("*1 *5 :0 :5460 *3 $h :7008 ${A} *3 $h :7002 ${B} *3 $h :7008 ${B}"));
        let asked = ["a=h:7008", "b=h:7002", "b=h:7008"].map(str::to_owned);
        assert_eq!(told(&reply, false), (None, asked.to_vec()));
    }

    #[test]
    fn shards_tell_one_port_on_the_side_of_the_clients() {
        let shards = |node: &str| format!("*1 %2 $slots *2 :0 :9 $nodes *1 {node}");
        let both = format!(
            "%6 $id ${A} $port :7001 $tls-port :7101 $ip $10.0.0.1 $endpoint $10.0.0.1 $role $master"
        );
        let one = |name| format!("%5 $id ${A} ${name} :9001 $ip $proxy $endpoint $proxy $role $master");
        assert_told(&shards(&both), &shards(&one("port")), &["a=10.0.0.1:7001"]);
        let of_tls = told(&resp(&shards(&both)), true).0;
        assert_eq!(of_tls, Some(resp(&shards(&one("tls-port")))));
        // The first of the two keeps its place; flat as RESP2 has it.
        assert_told(
            &format!(
                "*1 *4 $nodes *1 *10 $tls-port :7102 $id ${B} $endpoint _ $port :7002 $hostname $n $slots *0"
            ),
            &format!("*1 *4 $nodes *1 *6 $port :9002 $id ${B} $endpoint $proxy $slots *0"),
            &["b=:7002"],
        );
        assert_told(
            &shards("%2 $tls-port :7102 $ip $::1"),
            &shards("%2 $port :9001 $ip $proxy"),
            &["::1:7102"],
        );
        assert_told(
            &shards("%3 $port :0 $tls-port :7102 $endpoint $?"),
            &shards("%2 $port :9001 $endpoint $proxy"),
            &[":7102"],
        );
    }

    #[test]
    fn a_node_of_shards_without_a_port_is_not_named_either() {
        let shards = |node: &str| format!("*1 %2 $slots *0 $nodes *1 {node}");
        assert_told(
            &shards("%4 $id $x $ip $10.0.0.1 $endpoint $10.0.0.1 $hostname $h"),
            &shards("%3 $id $x $ip $proxy $endpoint $proxy"),
            &["x=10.0.0.1:0"],
        );
    }

    #[test]
    fn lines_of_nodes_name_the_listeners() {
        let rest = "myself,master - 0 1718 1 connected 0-5460 [5461->-bb]";
        for (before, after, asked) in [
            ("10.0.0.1:7001@17001", "proxy:9001@19001", "a=10.0.0.1:7001"),
            (":7001@17001", "proxy:9001@19001", "a=:7001"),
            ("::1:7001@17001", "proxy:9001@19001", "a=::1:7001"),
            ("10.0.0.1:7001", "proxy:9001", "a=10.0.0.1:7001"),
            ("h:7001@17001,n.test", "proxy:9001@19001", "a=h:7001"),
            ("h:7001@17001,", "proxy:9001@19001", "a=h:7001"),
            ("h:7001@1,n.test,shard-id=9", "proxy:9001@19001,,shard-id=9", "a=h:7001"),
            ("h:7001@1,,tls-port=0,shard-id=9", "proxy:9001@19001,,tls-port=0,shard-id=9", "a=h:7001"),
            ("h:7001@1,tcp-port=7,nodename=n", "proxy:9001@19001,tcp-port=9001,nodename=n", "a=h:7001"),
        ] {
            for format in ["$", "=txt:"] {
                for end in ["", "\n"] {
                    assert_told(
                        &format!("'{format}{A} {before} {rest}{end}'"),
                        &format!("'{format}{A} {after} {rest}{end}'"),
                        &[asked],
                    );
                }
            }
        }
        let line = format!("'${A} h:7001@1,n,tls-port=7,tcp-port=7 {rest}'");
        let of_tls = format!("'${A} proxy:9001@19001,,tls-port=9001,tcp-port=0 {rest}'");
        assert_eq!(told(&resp(&line), true).0, Some(resp(&of_tls)));
        let replica = |id: &str, place: &str| format!("'${id} {place} slave {B} 0 0 1 connected'");
        assert_told(
            &format!("*2 {} {}", replica(A, "h:7001@17001"), replica(B, "h:7002@17002")),
            &format!("*2 {} {}", replica(A, "proxy:9001@19001"), replica(B, "proxy:9002@19002")),
            &["a=h:7001", "b=h:7002"],
        );
    }

    #[test]
    fn a_bus_port_is_a_port() {
        let line = resp(&format!("'${A} h:1@1 master - 0 0 1 connected'"));
        for (port, bus) in [(55_535, 65_535), (55_536, 45_536), (65_535, 55_535), (1, 10_001)] {
            let mut port_of = |_: &Place<'_>| Port::Known(port);
            let told = rewritten(&line, &Told { host: "p", is_tls: false }, &mut port_of).unwrap().unwrap();
            let after = format!("'${A} p:{port}@{bus} master - 0 0 1 connected'");
            assert_eq!(told, resp(&after));
        }
    }

    #[test]
    fn an_exec_holds_any_of_these_among_others() {
        let slots = |host: &str| format!("*1 *3 :0 :9 *3 ${host} ${A}");
        let line = |place: &str| format!("'${A} {place} slave {B} 0 0 1 connected'");
        let others = "$value :7 $-1 _ *0 *-1 %1 $ip $10.0.0.1 *2 :0 :9 ~1 $h:1 |1 $ttl :5 $v";
        assert_told(
            &format!(
                "*15 {others} {} '=txt:{A} h:7001@1 master - 0 0 1 connected\n' *1 {} '-MOVED 1 h:7002' *1 *1 '-ASK 2 h:7002'",
                slots("h :7001"),
                line("h:7001@1")
            ),
            &format!(
                "*15 {others} {} '=txt:{A} proxy:9001@19001 master - 0 0 1 connected\n' *1 {} '-MOVED 1 proxy:9002' *1 *1 '-ASK 2 proxy:9002'",
                slots("proxy :9001"),
                line("proxy:9001@19001")
            ),
            &["a=h:7001", "a=h:7001", "a=h:7001", "h:7002/1", "h:7002/2"],
        );
    }

    #[test]
    fn what_only_looks_alike_is_left() {
        let rest = "master - 0 0 1 connected";
        for reply in [
            "*0".to_owned(),
            "*1 *0".to_owned(),
            "*1 *2 :0 :9".to_owned(),
            "*1 *3 :0 $9 *2 $h :1".to_owned(),
            "*1 *3 :0 :9 *2 $h $1".to_owned(),
            "*1 *3 :0 :9 *2 $h :65536".to_owned(),
            "*1 *3 :0 :9 *2 $h :-1".to_owned(),
            "*2 *3 :0 :9 *2 $h :1 $other".to_owned(),
            "*1 %1 $nodes *1 %1 $port :1".to_owned(),
            "*1 %2 $slots *0 $nodes $none".to_owned(),
            "*1 %2 $slots *0 $nodes *1 %2 $ip :1 $port :1".to_owned(),
            "*1 %2 $slots *0 $nodes *1 %2 $ip $::1 $port $1".to_owned(),
            "*1 *3 $slots *0 $nodes".to_owned(),
            format!("'${A} h:1@1 {rest}\nmore'"),
            format!("'${A} h:1@1 {rest}\n\n'"),
            format!("'${A} h@1 {rest}'"),
            format!("'${A} h:1@1 master - 0 0 1 broken'"),
            format!("'${} h:1@1 {rest}'", A.to_uppercase()),
            format!("'${} h:1@1 {rest}'", &A[1..]),
            // What a client has stored is not deeper than in an EXEC.
            format!("*1 *2 $field '${A} h:1@1 {rest}'"),
            format!("%1 $field '${A} h:1@1 {rest}'"),
        ] {
            assert_left(&reply);
        }
    }

    #[test]
    fn what_is_not_one_whole_reply_is_none() {
        let deep = |depth: usize| [&b"*1\r\n".repeat(depth)[..], b":1\r\n"].concat();
        assert_eq!(told(&deep(DEEPEST), false).0, Some(deep(DEEPEST)));
        let attributes = b"|1\r\n:1\r\n".repeat(1000);
        for reply in [
            &b""[..],
            b"+OK",
            b"+OK\n",
            b"+O\nK\r\n",
            b"+OK\r\n+OK\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"$3\r\nab\r\n",
            b"$2\r\nabc\r\n",
            b"$-2\r\n",
            b"$+1\r\na\r\n",
            b"$01\r\na\r\n",
            b"$18446744073709551615\r\n",
            b"$9223372036854775807\r\n\r\n",
            b"*2\r\n:1\r\n",
            b"*4294967296\r\n",
            b"*9223372036854775807\r\n:1\r\n",
            b"%9223372036854775807\r\n:1\r\n",
            b"|9223372036854775807\r\n|9223372036854775807\r\n",
            b"%-1\r\n",
            b"*1\r\n>1\r\n:1\r\n",
            b"*?\r\n.\r\n",
            b"|1\r\n:1\r\n:2\r\n",
            &deep(DEEPEST + 1),
            &deep(1_000_000),
            &attributes,
        ] {
            let mut port_of = |_: &Place<'_>| Port::Hidden;
            let told = Told { host: "proxy", is_tls: false };
            let head = &reply[..reply.len().min(40)];
            assert_eq!(rewritten(reply, &told, &mut port_of), Err(NotReply), "{}", head.escape_ascii());
        }
    }

    /// The replies of a recording, one by one.
    fn replies(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut replies = Vec::new();
        while !bytes.is_empty() {
            let (reply, rest) = bytes.split_at(Replies::default().follow(bytes).expect("replies").length);
            replies.push(reply);
            bytes = rest;
        }
        replies
    }

    /// What real nodes say, and what becomes of it: node 7001 is listened for on 8001, the next on 8002, …
    ///
    /// `UPDATE_GOLDEN=1 cargo test --lib resp::cluster` writes it anew.
    #[test]
    fn what_real_nodes_say_names_the_listeners() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        for (path, said) in
            all("cluster").into_iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "resp"))
        {
            let about = path.file_stem().and_then(|name| name.to_str()).expect("a name");
            let is_tls = about.starts_with("tls");
            let told = Told { host: if about.starts_with("ipv6") { "fd00::9" } else { "10.9.9.9" }, is_tls };
            let mut new = Vec::new();
            for reply in replies(&said) {
                let mut asked = 0;
                let mut port_of = |place: &Place<'_>| {
                    asked += 1;
                    assert!(
                        ["127.0.0.1", "::1", ""].contains(&place.host) || place.host.contains(".test"),
                        "{place:?}"
                    );
                    assert!((7001..=7004).contains(&place.port), "{place:?}");
                    // Each has the id that its number says.
                    let letter = char::from(b'a' + u8::try_from(place.port - 7001).unwrap());
                    assert!(place.id.is_none_or(|id| id.chars().all(|digit| digit == letter)), "{place:?}");
                    Port::Known(place.port + 1000)
                };
                let result = rewritten(reply, &told, &mut port_of);
                assert!(asked > 0, "{}: {}", path.display(), reply.escape_ascii());
                new.extend(result.expect("a reply").expect("known"));
            }
            let text = String::from_utf8_lossy(&new);
            for address in ["127.0.0.1", "::1", ".test", "?", ":70", ":17", ":71", "@17"] {
                assert!(!text.contains(address), "{}: {address}", path.display());
            }
            let golden = root.join("golden").join(path.strip_prefix(&root).expect("a fixture"));
            if env::var_os("UPDATE_GOLDEN").is_some() {
                fs::create_dir_all(golden.parent().expect("a folder")).expect("a folder");
                fs::write(&golden, &new).expect("written");
            }
            let wanted = fs::read(&golden).unwrap_or_else(|error| panic!("{}: {error}", golden.display()));
            assert_eq!(text, String::from_utf8_lossy(&wanted), "{}", golden.display());
        }
    }

    /// Servers say much that has no address in it.
    #[test]
    fn what_names_no_node_is_left_as_it_is() {
        for (path, said) in [all("replies"), all("sentinel")].concat() {
            if path.extension().is_none_or(|kind| kind != "resp") {
                continue;
            }
            for reply in replies(&said) {
                let (new, asked) = told(reply, false);
                assert_eq!((new.as_deref(), asked), (Some(reply), Vec::new()), "{}", path.display());
            }
        }
    }

    #[test]
    fn an_exec_says_what_each_of_its_commands_would_have_said() {
        let recorded = all("cluster");
        let mut all_of_them = vec![b"+OK\r\n".to_vec()];
        for (path, said) in
            recorded.iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "resp"))
        {
            let is_exec = path.file_stem().is_some_and(|name| name.as_encoded_bytes().starts_with(b"plain"));
            let mut replies = replies(said);
            replies.truncate(replies.len() - usize::from(is_exec));
            all_of_them.extend(replies.into_iter().map(<[u8]>::to_vec));
        }
        let exec =
            |replies: &[Vec<u8>]| [format!("*{}\r\n", replies.len()).as_bytes(), &replies.concat()].concat();
        let alone: Vec<_> = all_of_them.iter().map(|reply| told(reply, false).0.expect("known")).collect();
        assert_eq!(told(&exec(&all_of_them), false).0, Some(exec(&alone)));
    }
}
