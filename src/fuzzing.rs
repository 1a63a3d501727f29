//! What strangers may send, and what must hold whatever they do: the bodies of the fuzz targets in `fuzz/`, and of the
//! property tests here that every run of the tests has.
//!
//! A body takes bytes and panics where a promise is broken.
#![expect(clippy::missing_panics_doc, reason = "it is what all of them are for")]

use std::ffi::OsString;
use std::fmt::{Debug, Write};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hickory_resolver::proto::op::Message;
use redis_protocol::resp2::types::BytesFrame;
use redis_protocol::resp3;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, OtherError, RootCertStore};
use zeroize::Zeroizing;

use crate::cli::screen::Screen;
use crate::cli::{Format, links};
use crate::cloud::aws::{Cache, between};
use crate::cloud::{Object, Profiles, Received, Sections};
use crate::config::backends_file::parse as parse_backends;
use crate::config::env_file::parse as parse_variables;
use crate::config::target::{Backends, Target, endpoint};
use crate::config::{Config, Env, Link, ProcessArguments};
use crate::failure::tls::{by_client, by_target};
use crate::net::Endpoint;
use crate::net::proxy_protocol::{Header, Version};
use crate::net::tls::Refused;
use crate::net::tls::certificate::{Certificate, Purpose, Summary};
use crate::net::tls::stream::Broken;
use crate::resp::cluster::{Place, Port, Told, rewritten};
use crate::resp::commands::{Class, Commands, First, Found, NoCommand, UNLIMITED, first};
use crate::resp::replies::{Frame, Replies};
use crate::resp::{self, NotReply};
use crate::secret::Secret;
use crate::text;
use crate::upstream::discovery::{sentinel, zookeeper};

/// The first byte says into what pieces the rest is cut; the same for a seed, whatever the rest.
fn pieces(data: &[u8]) -> (&[u8], impl Iterator<Item = &[u8]>) {
    let (seed, rest) = data.split_first().map_or((0, data), |(seed, rest)| (*seed, rest));
    let mut left = rest;
    let mut state = u32::from(seed) + 1;
    let pieces = std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Mostly a few bytes, sometimes thousands.
        let length = 1 + (state >> 16) as usize % if state & 0x1000 == 0 { 7 } else { 5000 };
        (!left.is_empty()).then(|| {
            let (piece, more) = left.split_at(length.min(left.len()));
            left = more;
            piece
        })
    });
    (rest, pieces)
}

/// Everything that a decoder takes off bytes that come in pieces, and whether it still stands at the end.
fn decode_all<'a, T>(
    pieces: impl Iterator<Item = &'a [u8]>,
    decode: impl Fn(&mut BytesMut) -> Result<Option<T>, NotReply>,
) -> (Vec<T>, Option<NotReply>) {
    let mut buffer = BytesMut::new();
    let mut taken = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decode(&mut buffer) {
                Ok(Some(value)) => taken.push(value),
                Ok(None) => break,
                Err(error) => return (taken, Some(error)),
            }
        }
    }
    (taken, None)
}

/// Replies of a server: in whatever pieces they come, they are the same.
pub fn replies(data: &[u8]) {
    fn same<T: PartialEq + Debug>(
        data: &[u8],
        decode: impl Fn(&mut BytesMut) -> Result<Option<T>, NotReply>,
    ) {
        let (whole, pieces) = pieces(data);
        assert_eq!(decode_all(pieces, &decode), decode_all(std::iter::once(whole), &decode));
    }
    same(data, resp::reply);
    for longest in [64, 1024, 256 * 1024] {
        same(data, |buffer| resp::value(buffer, longest));
    }
}

/// Commands of a client: in whatever pieces they come, the same are found, those of the commands taken apart one by one.
pub fn commands(data: &[u8]) {
    fn found<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(usize, Class)>, bool) {
        let (mut commands, mut found, mut before) = (Commands::default(), Vec::new(), 0);
        let (mut kept, mut begun) = (Vec::new(), None);
        for piece in pieces {
            kept.extend_from_slice(piece);
            while !kept.is_empty() {
                let (length, ended) = match commands.find(&kept) {
                    Err(NoCommand) => return (found, true),
                    Ok(Found::Partial) => break,
                    Ok(Found::Nothing(length)) => (length, None),
                    Ok(Found::Whole(class, length)) => (length, Some(class)),
                    Ok(Found::Begun(class)) => {
                        begun = Some(class);
                        (kept.len(), None)
                    }
                    Ok(Found::More(length)) => (length, begun.take_if(|_| commands.is_between())),
                };
                assert!(length > 0 && length <= kept.len(), "a command ends outside of the bytes");
                kept.drain(..length);
                before += length;
                found.extend(ended.map(|class| (before, class)));
            }
        }
        (found, false)
    }
    let (whole, parts) = pieces(data);
    let (mut at, mut ends) = (0, Vec::new());
    while let First::Command(arguments, length) = first(&whole[at..], UNLIMITED) {
        assert!(length > 0 && at + length <= whole.len(), "a command ends outside of the bytes");
        at += length;
        if !arguments.is_empty() {
            ends.push(at);
        }
    }
    let all = found(std::iter::once(whole));
    assert_eq!(all.0.iter().map(|(end, _)| *end).collect::<Vec<_>>(), ends);
    assert_eq!(found(parts), all);
}

/// Replies of a server, followed and not read: in whatever pieces they come they end at the same places, which are those
/// that a decoder finds.
pub fn frames(data: &[u8]) {
    fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(usize, Frame, Vec<u8>)>, bool) {
        let (mut replies, mut frames, mut before) = (Replies::default(), Vec::new(), 0);
        for piece in pieces {
            let mut at = 0;
            while at < piece.len() {
                let Ok(step) = replies.follow(&piece[at..]) else { return (frames, true) };
                assert!(
                    step.length > 0 && at + step.length <= piece.len(),
                    "a reply ends outside of the bytes"
                );
                let last = &piece[at..at + step.length];
                at += step.length;
                frames.extend(step.ended.map(|frame| (before + at, frame, replies.head(last).to_vec())));
            }
            before += piece.len();
        }
        (frames, false)
    }
    let (whole, parts) = pieces(data);
    let all = frames(std::iter::once(whole));
    assert_eq!(frames(parts), all);
    let mut begin = 0;
    for (end, frame, _) in &all.0 {
        let reply = Bytes::copy_from_slice(&whole[begin..*end]);
        // The decoder nests as deep as arrays do, and reads numbers that nothing was asked of.
        if reply.iter().filter(|byte| b"*%~|>".contains(byte)).count() < 64
            && let Ok(Some((decoded, length))) = resp3::decode::complete::decode_bytes(&reply)
        {
            assert_eq!(length, reply.len(), "{}", reply.escape_ascii());
            let is_push = matches!(decoded, resp3::types::BytesFrame::Push { .. });
            assert_eq!(is_push, *frame == Frame::Push, "{}", reply.escape_ascii());
        }
        begin = *end;
    }
}

/// Replies of a cluster's node: what is one whole reply is one afterwards too, in which nothing is left to be replaced, and
/// what names no node is as it was.
pub fn cluster(data: &[u8]) {
    let told = Told { host: "ambassador.test", is_tls: data.len() % 2 == 1 };
    let rewrite = |reply: &[u8], becomes: Port| {
        let mut asked = 0;
        let mut port_of = |_: &Place<'_>| {
            asked += 1;
            becomes
        };
        (rewritten(reply, &told, &mut port_of), asked)
    };
    let mut rest = data;
    loop {
        let step = Replies::default().follow(rest);
        let Some(length) = step.ok().and_then(|step| step.ended.and(Some(step.length))) else {
            assert_eq!(rewrite(rest, Port::Hidden).0, Err(NotReply), "{}", rest.escape_ascii());
            return;
        };
        let reply;
        (reply, rest) = rest.split_at(length);
        for becomes in [Port::Known(6380), Port::Hidden, Port::Unknown] {
            let (result, asked) = rewrite(reply, becomes);
            let new = match result {
                Ok(Some(new)) => new,
                Ok(None) => {
                    assert!(becomes == Port::Unknown && asked > 0, "{}", reply.escape_ascii());
                    continue;
                }
                Err(NotReply) => {
                    // It is too deep.
                    let lists = reply.iter().filter(|byte| b"*~%>".contains(byte)).count();
                    assert!(lists > 32, "{}", reply.escape_ascii());
                    break;
                }
            };
            assert_eq!(rewrite(&new, becomes).0, Ok(Some(new.clone())), "{}", reply.escape_ascii());
            // Nodes without an address are not asked for.
            if asked == 0
                && !text::one_line(reply).contains(":0")
                && !text::one_line(reply).contains("noaddr")
            {
                assert_eq!(new, reply, "{}", reply.escape_ascii());
            }
        }
        if rest.is_empty() {
            return;
        }
    }
}

/// A target: what is printed is read again as the same, on one line, without user and password.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(target) = text.parse::<Target>() else { return };
    let shown = target.to_string();
    assert_one_line(&shown);
    let again: Target =
        shown.parse().unwrap_or_else(|error| panic!("{text:?} is shown as {shown:?}: {error}"));
    assert_eq!(again.to_string(), shown, "{text:?}");
    assert!(again.username.is_none() && again.password.is_none(), "{text:?} is shown as {shown:?}");
    assert_eq!((again.scheme, again.database), (target.scheme, target.database));
    assert_eq!(without_dots(again.backends), without_dots(target.backends), "{text:?} is shown as {shown:?}");
}

/// The root's dot at the end of a name is not shown.
fn without_dots(backends: Backends) -> Backends {
    use crate::net::Host;

    let undotted = |endpoints: Vec<Endpoint>| {
        let undotted = |endpoint| match endpoint {
            Endpoint::Tcp(Host::Name(name), port) => {
                Endpoint::Tcp(Host::Name(name.trim_end_matches('.').to_owned()), port)
            }
            other => other,
        };
        endpoints.into_iter().map(undotted).collect()
    };
    match backends {
        Backends::Listed(endpoints) => Backends::Listed(undotted(endpoints)),
        Backends::Cluster(nodes) => Backends::Cluster(undotted(nodes)),
        Backends::Sentinel { sentinels, service } => {
            Backends::Sentinel { sentinels: undotted(sentinels), service }
        }
        Backends::ZooKeeper { servers, path } => Backends::ZooKeeper { servers: undotted(servers), path },
        other => other,
    }
}

/// In every secret that [`environment`] sets, and in nothing else.
const TOKEN: &str = "hush-Q7vX2zK9";

/// The environment, a variable a line: whatever it says, no secret is in what people get to see.
pub fn environment(data: &[u8]) {
    let mut variables = Vec::new();
    let mut arguments = ProcessArguments::default();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let (name, value) = match line.iter().position(|byte| *byte == b'=') {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let name = String::from_utf8_lossy(name).into_owned();
        // Files are read at start; what is in those of this machine is no part of a test.
        if name.contains('\0') || value.starts_with(b"/") {
            continue;
        }
        arguments.0.insert(name.clone(), String::from_utf8_lossy(value).into_owned());
        let value = with_token(&name, value);
        variables.push((OsString::from(name), OsString::from_vec(value)));
    }
    let mut shown = String::new();
    let narrow = Screen { width: Some(40), ..Screen::default() };
    match Config::load(&Env::new(variables), &arguments) {
        Ok(config) => {
            let mut out = Vec::new();
            for format in [Format::Json, Format::Table] {
                links::show(&config, format, &narrow, &mut out).expect("memory takes everything");
            }
            shown.push_str(&String::from_utf8_lossy(&out));
            // Writing to a string can't fail.
            let _ = write!(shown, "{config:?}");
        }
        Err(mistakes) => {
            let _ = write!(shown, "{mistakes}{mistakes:?}");
        }
    }
    assert!(!shown.contains(TOKEN), "a secret is shown:\n{shown}");
}

/// A value with the token in it, where the variable may hold a secret.
fn with_token(name: &str, value: &[u8]) -> Vec<u8> {
    let secret = ["AUTH", "PASSWORD", "PASS", "SECRET", "REQUIREPASS"];
    if secret.iter().any(|secret| name.ends_with(secret)) {
        return [value, TOKEN.as_bytes()].concat();
    }
    match value.windows(3).position(|part| part == b"://") {
        // As a password, and where nobody may write one.
        Some(at) if name.ends_with("_TCP") => {
            [&value[..at], b"://u:", TOKEN.as_bytes(), b"@", &value[at + 3..]].concat()
        }
        _ => value.to_vec(),
    }
}

/// A message of a name server: its SRV records become services that can be shown on one line.
pub fn service_records(data: &[u8]) {
    let Ok(message) = Message::from_vec(data) else { return };
    for service in crate::net::resolve::services(&message.answers).records {
        assert_one_line(&Endpoint::Tcp(service.host, service.port).to_string());
    }
}

/// Words of a Sentinel: what it names is a place that can be dialled and shown on one line, or nothing.
pub fn sentinel_replies(data: &[u8]) {
    let (_, pieces) = pieces(data);
    let (frames, _) = decode_all(pieces, |buffer| resp::value(buffer, 64 * 1024));
    for frame in frames {
        let mut places = sentinel::healthy(&frame).unwrap_or_default();
        if let BytesFrame::Array(items) = &frame {
            places.extend(sentinel::endpoint(items.first(), items.get(1)));
        }
        for place in places {
            assert_same_place(&place);
        }
    }
}

/// What services of clouds answer, in pieces of any size: the whole is understood in the same way; and what stands in it is
/// taken out as JSON, as XML and as a file of profiles.
pub fn cloud_answer(data: &[u8]) {
    let whole = Received::parse(data, true);
    let body = match &whole {
        Ok(received) => {
            let received = received.as_ref().expect("nothing more comes");
            assert!(received.body.len() <= data.len());
            &received.body[..]
        }
        Err(_) => data,
    };
    // Whatever is complete before the end is the same as with it.
    for length in 0..data.len().min(300) {
        if let Ok(Some(early)) = Received::parse(&data[..length], false) {
            let whole = whole.as_ref().ok().and_then(Option::as_ref).expect("it was complete");
            assert_eq!((early.status, &early.body), (whole.status, &whole.body));
        }
    }
    if let Ok(object) = Object::parse(body) {
        for name in ["access_token", "expires_in", "error"] {
            let (text, number) = (object.text(name), object.number(name));
            assert!(text.as_ref().is_ok_and(|text| !text.is_empty()) || text.is_err());
            assert!(number.is_err() || text.is_ok());
        }
        let _ = (object.object("error"), object.optional("a"), object.texts());
    }
    let _ = between(body, "AccessKeyId");
    if let Ok(text) = std::str::from_utf8(body) {
        for sections in [Sections::Bare, Sections::Profile] {
            let profiles = Profiles::new(Zeroizing::new(text.to_owned()), sections);
            if let Some(value) = profiles.value("default", "aws_access_key_id") {
                assert!(profiles.has("default") && !value.is_empty() && value.trim() == value);
            }
        }
        let _ = Cache::of(text);
    }
}

/// Frames of a ZooKeeper: in whatever pieces they come, they are the same, and whatever is in them, it is an answer or
/// none.
pub fn zookeeper_frames(data: &[u8]) {
    use zookeeper::wire;

    let (rest, pieces) = pieces(data);
    let decode = |buffer: &mut BytesMut| wire::frame(buffer).map_err(|_| NotReply);
    let (frames, error) = decode_all(pieces, decode);
    let whole = decode_all(std::iter::once(rest), decode);
    assert_eq!((&frames, error.is_some()), (&whole.0, whole.1.is_some()));
    for frame in frames {
        let _ = wire::connected(frame.clone());
        let record = match wire::said(frame.clone()) {
            Ok(wire::Said::Reply(_, Ok(record))) => record,
            _ => frame,
        };
        let names = wire::children(record.clone()).unwrap_or_default();
        assert!(names.iter().map(|name| name.len() + 4).sum::<usize>() <= record.len());
        let _ = wire::data(record);
    }
}

/// What a server says of itself in ZooKeeper: a place that can be dialled and shown on one line, or why it is none.
pub fn zookeeper_entry(data: &[u8]) {
    let (name, data) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    for is_tls in [false, true] {
        match zookeeper::read(&String::from_utf8_lossy(name), data, is_tls) {
            Ok(place) => place.iter().for_each(assert_same_place),
            Err(reason) => assert_one_line(&reason),
        }
    }
}

/// A file of backends: the lines that it means are read again as the same.
pub fn backends_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse_backends(text, Some(6379)) {
        Ok(endpoints) => {
            for endpoint in &endpoints {
                assert_same_place(endpoint);
            }
            let shown: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
            let again = parse_backends(&shown.join("\n"), None).expect("what was shown");
            assert_eq!(again.len(), endpoints.len());
        }
        Err((line, reason)) => {
            assert!((1..=text.lines().count()).contains(&line), "line {line}");
            assert_one_line(&reason);
        }
    }
}

/// A file of variables: its faults have lines, and what has none is the same variables when they are written in quotes.
pub fn env_file(data: &[u8]) {
    let contents = parse_variables(data, |_| None);
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(contents.faults.iter().all(|fault| (1..=lines).contains(&fault.line)), "{:?}", contents.faults);
    assert!(contents.faults.is_sorted_by_key(|fault| fault.line), "{:?}", contents.faults);
    if !contents.faults.is_empty() {
        return;
    }
    let quoted = |value: &[u8]| {
        let escaped = value.iter().flat_map(|byte| match byte {
            b'"' | b'\\' | b'$' | b'`' => vec![b'\\', *byte],
            byte => vec![*byte],
        });
        escaped.collect::<Vec<_>>()
    };
    // In a value of several lines one may look like an assignment, which the quotes don't allow.
    let variables = contents.variables.into_iter().filter(|(_, value)| !value.contains(&b'\n'));
    let variables: Vec<_> = variables.collect();
    let line = |(name, value): &(String, Zeroizing<Vec<u8>>)| {
        [name.as_bytes(), b"=\"", &quoted(value), b"\"\n"].concat()
    };
    let written: Vec<_> = variables.iter().flat_map(line).collect();
    let again = parse_variables(&written, |_| None);
    assert_eq!((again.variables, again.faults), (variables, Vec::new()));
}

/// A secret and a text that may hold it: afterwards it does not.
pub fn masked(data: &[u8]) {
    let Some(at) = data.iter().position(|byte| *byte == 0) else { return };
    let (secret, text) = (text::one_line(&data[..at]), text::one_line(&data[at + 1..]));
    // What it is masked with may make up a secret of stars.
    if secret.is_empty() || secret.contains('*') {
        return;
    }
    let quoting = format!("{text}{secret}{text}");
    for text in [text, quoting] {
        let masked = Secret::new(secret.clone().into_bytes()).mask(&text);
        assert!(!masked.contains(&secret), "{secret:?} in {masked:?}");
    }
}

/// A link over TLS, for errors to be about.
static OVER_TLS: LazyLock<Arc<Link>> = LazyLock::new(|| {
    let variables = [("REDIS_PORT_6379_TCP", "rediss://h"), ("REDIS_TLS_VERIFY", "none")];
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let config = Config::load(&Env::new(variables), &ProcessArguments::default());
    config.unwrap_or_else(|mistakes| panic!("{mistakes}")).links.remove(0)
});

/// The longest sentence about a certificate and the longest remedy: a few of its names, which are bounded, and words of ours.
const LONGEST_SENTENCE: usize = 3000;

/// A certificate of a stranger, which may be anything: what rustls can take apart we can too, into the same parts; and what is
/// said of it is short, and on one line.
pub fn certificate(data: &[u8]) {
    let der = CertificateDer::from(data);
    let read = Certificate::read(data);
    if let Ok(known) = webpki::EndEntityCert::try_from(&der) {
        let read = read.as_ref().expect("what rustls reads");
        assert_eq!((read.version, read.issuer, read.subject), (3, known.issuer(), known.subject()));
        assert_eq!(read.key, known.subject_public_key_info().as_ref());
        let names = read.names();
        for name in known.valid_dns_names() {
            assert!(names.iter().any(|read| read == name), "{name} is not in {names:?}");
        }
    }
    if let Some(read) = &read {
        let mut words = read.names();
        words.extend(read.all_names().map(|name| name.to_string()));
        words.extend(read.common_name());
        words.extend(read.unheeded());
        words.extend(read.key().map(|key| key.name()));
        let summary = Summary::of(data);
        words.extend(summary.iter().map(|summary| humantime::format_rfc3339(summary.ends).to_string()));
        words.extend(summary.into_iter().flat_map(|summary| [summary.subject, summary.issuer]).flatten());
        for words in words {
            assert_one_line(&words);
            assert!(words.len() <= LONGEST_SENTENCE, "{words}");
        }
        let _ = (read.is_authority(), read.is_for_another_purpose(Purpose::Client));
    }
    // Twice it is its own authority, which is a circle.
    for chain in [vec![der.clone()], vec![der.clone(), der.clone()]] {
        explained(&chain);
    }
}

/// What comes before a client's first byte: however little of it is there, nothing else is read than in the end; and what is
/// passed on is read as the same.
pub fn proxy_header(data: &[u8]) {
    /// The longest addresses, and what stands before them.
    const MOST: usize = 16 + 216;
    let mut found: Option<Result<(Header, usize), ()>> = None;
    for end in 0..=data.len().min(MOST) {
        let parsed = Header::parse(&data[..end]);
        if let Some(found) = &found {
            assert_eq!(parsed.map_err(drop).transpose().as_ref(), Some(found), "after {end} bytes");
            continue;
        }
        assert!(end < MOST || !matches!(parsed, Ok(None)), "nothing is known after {end} bytes");
        found = parsed.map_err(|error| assert_one_line(&error.to_string())).transpose();
    }
    if let Some(Ok((header, length))) = found {
        assert!((15..=16 + usize::from(u16::MAX)).contains(&length));
        let written = header.bytes(Version::Two);
        assert!(
            matches!(Header::parse(&written), Ok(Some((read, length))) if read == header && length == written.len())
        );
        let line = header.bytes(Version::One);
        let told = if header == Header::Unix { Header::Own } else { header };
        assert!(
            matches!(Header::parse(&line), Ok(Some((read, length))) if read == told && length == line.len())
        );
    }
}

/// Whatever a chain of certificates is refused for, it is told on one line, without `Debug` and of bounded length.
fn explained(chain: &[CertificateDer<'_>]) {
    let other = |error: webpki::Error| CertificateError::Other(OtherError(Arc::new(error)));
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000));
    let read = Certificate::read(&chain[0]);
    let algorithm = read.map(|read| read.signed_with.to_vec()).unwrap_or_default();
    for error in [
        CertificateError::UnknownIssuer,
        CertificateError::NotValidForName,
        CertificateError::BadEncoding,
        CertificateError::BadSignature,
        CertificateError::Expired,
        CertificateError::ExpiredContext { time: now, not_after: now },
        CertificateError::InvalidPurpose,
        CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: algorithm.clone(),
            supported_algorithms: Vec::new(),
        },
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: Vec::new(),
            public_key_algorithm_id: algorithm.clone(),
        },
        other(webpki::Error::UnsupportedCertVersion),
        other(webpki::Error::UnsupportedCriticalExtension),
        other(webpki::Error::EndEntityUsedAsCa),
    ] {
        for is_proof in [false, true] {
            let refused = Refused {
                chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
                authorities: RootCertStore::empty().into(),
                name: ServerName::try_from("h").ok(),
                is_proof,
            };
            let error = rustls::Error::InvalidCertificate(error.clone());
            let broken = Broken { error, refused: Some(Box::new(refused)) };
            let error = io::Error::new(io::ErrorKind::InvalidData, broken);
            for failure in [by_client(&error, &OVER_TLS), by_target(error, "h:6379", &OVER_TLS)] {
                for words in [failure.to_string(), failure.remedy(&OVER_TLS)] {
                    assert_one_line(&words);
                    assert!(words.len() <= LONGEST_SENTENCE, "{words}");
                }
            }
        }
    }
}

fn assert_one_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

fn assert_same_place(place: &Endpoint) {
    let shown = place.to_string();
    assert_one_line(&shown);
    let again =
        endpoint(&shown, None).unwrap_or_else(|error| panic!("{place:?} is shown as {shown:?}: {error}"));
    assert_eq!(again.to_string(), shown);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::fixtures::{all, words};

    /// Pieces of what is expected, in any order, with some of anything between them.
    fn soup(tokens: Vec<Vec<u8>>, most: usize) -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            24 => select(tokens),
            2 => vec(any::<u8>(), 0..6),
            2 => any::<u16>().prop_map(|number| number.to_string().into_bytes()),
            1 => (1..9000_usize).prop_map(|length| vec![b'x'; length]),
        ];
        vec(piece, 0..most).prop_map(|pieces| pieces.concat())
    }

    /// The same behind a byte that says how to cut.
    fn cut(tokens: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        (any::<u8>(), soup(tokens, 24)).prop_map(|(seed, soup)| [&[seed][..], &soup].concat())
    }

    /// The words of a list, and none at all.
    fn or_nothing(path: &str) -> Vec<Vec<u8>> {
        [words(path), vec![Vec::new()]].concat()
    }

    /// A target's value: mostly a scheme that there is, and then anything.
    fn target_value() -> impl Strategy<Value = Vec<u8>> {
        (select(or_nothing("fuzz/schemes.dict")), soup(words("fuzz/targets.dict"), 7))
            .prop_map(|(scheme, rest)| [scheme, rest].concat())
    }

    /// An environment: names and values that go together, and some that don't.
    fn variables() -> impl Strategy<Value = Vec<u8>> {
        let link = (select(words("fuzz/links.dict")), target_value())
            .prop_map(|(name, value)| [&name[..], b"=", &value].concat());
        let prefixes = or_nothing("fuzz/prefixes.dict");
        let names = select(words("fuzz/settings.dict"));
        let setting = (select(prefixes.clone()), names, soup(words("fuzz/values.dict"), 3))
            .prop_map(|(prefix, name, value)| [&prefix[..], &name, b"=", &value].concat());
        let good = Just(b"REDIS_PORT_6379_TCP=redis://host".to_vec());
        vec(prop_oneof![2 => good, 3 => link, 6 => setting, 1 => soup(prefixes, 4)], 0..8)
            .prop_map(|lines| lines.join(&b'\n'))
    }

    fn cases() -> ProptestConfig {
        ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
    }

    #[test]
    fn what_fuzzing_found_stays_mended() {
        for (_, found) in all("fuzz/commands") {
            commands(&found);
        }
    }

    #[test]
    fn what_real_servers_say_keeps_every_promise() {
        for (_, said) in [all("replies"), all("sentinel"), all("cluster")].concat() {
            cluster(&said);
            // However it is cut: some of the ways.
            for seed in (0..=u8::MAX).step_by(32) {
                let data = [&[seed][..], &said].concat();
                replies(&data);
                frames(&data);
                sentinel_replies(&data);
            }
        }
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn replies_are_the_same_in_whatever_pieces_they_come(data in cut(words("fuzz/resp.dict"))) {
            replies(&data);
        }

        #[test]
        fn replies_end_at_the_same_places_in_whatever_pieces_they_come(data in cut(words("fuzz/resp.dict"))) {
            frames(&data);
        }

        #[test]
        fn addresses_of_nodes_are_replaced_and_nothing_else(data in soup(words("fuzz/cluster.dict"), 24)) {
            cluster(&data);
        }

        #[test]
        fn damaged_replies_of_nodes_lose_nothing_but_addresses(data in damaged(&SAID_BY_NODES)) {
            cluster(&data);
        }

        #[test]
        fn commands_are_the_same_in_whatever_pieces_they_come(data in cut(words("fuzz/commands.dict"))) {
            commands(&data);
        }

        #[test]
        fn targets_are_shown_as_they_are_read(data in target_value()) {
            target(&data);
        }

        #[test]
        fn no_environment_shows_a_secret(data in variables()) {
            environment(&data);
        }

        #[test]
        fn answers_of_clouds_are_understood_in_whatever_pieces_they_come(data in soup(words("fuzz/cloud.dict"), 24)) {
            cloud_answer(&data);
        }

        #[test]
        fn answers_of_name_servers_are_shown_on_one_line(data in message()) {
            service_records(&data);
        }

        #[test]
        fn sentinels_name_places_or_nothing(data in cut(words("fuzz/resp.dict"))) {
            sentinel_replies(&data);
        }

        #[test]
        fn frames_of_zookeeper_are_the_same_in_whatever_pieces_they_come(data in cut(words("fuzz/zookeeper.dict"))) {
            zookeeper_frames(&data);
        }

        #[test]
        fn nodes_of_zookeeper_name_places_or_nothing(data in soup(words("fuzz/entries.dict"), 24)) {
            zookeeper_entry(&data);
        }

        #[test]
        fn files_of_backends_are_shown_as_they_are_read(data in soup(words("fuzz/backends.dict"), 24)) {
            backends_file(&data);
        }

        #[test]
        fn files_of_variables_are_read_as_they_are_written(data in soup(words("fuzz/env-file.dict"), 24)) {
            env_file(&data);
        }

        #[test]
        fn certificates_are_read_as_rustls_reads_them_and_told_on_one_line(data in damaged_certificate()) {
            certificate(&data);
        }

        #[test]
        fn headers_of_balancers_are_read_alike_in_whatever_pieces_they_come(data in damaged(&HEADERS)) {
            proxy_header(&data);
        }

        #[test]
        fn a_secret_in_a_text_is_masked(data in soup(words("fuzz/masked.dict"), 24)) {
            masked(&data);
        }
    }

    /// Certificates of people and of an authority, with all that they may say.
    static CERTIFICATES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

        let names = ["redis.test", "*.redis.test", "10.0.0.1", "::1"].map(str::to_owned);
        let mut own = CertificateParams::new(names).expect("names");
        own.distinguished_name.push(DnType::CommonName, "redis");
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::OrganizationName, "Example");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        let made = [own, authority].map(|params| {
            let key = KeyPair::generate().expect("a key");
            params.self_signed(&key).expect("a certificate").der().to_vec()
        });
        made.into()
    });

    /// Headers of both versions, each with something behind it.
    static HEADERS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let addresses = |from: &str, to: &str| Header::Tcp {
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
        };
        let headers = [
            addresses("192.0.2.1:50001", "192.0.2.2:6379"),
            addresses("[2001:db8::1]:50001", "[::1]:6379"),
            Header::Unix,
            Header::Own,
        ];
        let both = headers.iter().flat_map(|header| [header.bytes(Version::One), header.bytes(Version::Two)]);
        both.map(|header| [&header[..], b"PING\r\n"].concat()).collect()
    });

    /// What real nodes say, each reply by itself.
    static SAID_BY_NODES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let mut replies = Vec::new();
        for (_, said) in all("cluster") {
            let mut rest = &said[..];
            while let Ok(step) = Replies::default().follow(rest)
                && step.ended.is_some()
            {
                replies.push(rest[..step.length].to_vec());
                rest = &rest[step.length..];
            }
        }
        replies
    });

    fn damaged_certificate() -> impl Strategy<Value = Vec<u8>> {
        damaged(&CERTIFICATES)
    }

    /// One of these that was changed in a few places, or cut.
    fn damaged(whole: &'static [Vec<u8>]) -> impl Strategy<Value = Vec<u8>> {
        let change = (any::<prop::sample::Index>(), any::<u8>());
        let cut = prop_oneof![4 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
        (select(whole), vec(change, 0..4), cut).prop_map(|(mut whole, changes, cut)| {
            for (at, byte) in changes {
                let at = at.index(whole.len());
                whole[at] = byte;
            }
            if let Some(cut) = cut {
                whole.truncate(cut.index(whole.len()));
            }
            whole
        })
    }

    fn byte(number: usize) -> u8 {
        number.try_into().expect("a small number")
    }

    /// An answer with SRV records whose targets are made of any bytes, at times cut or changed.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let label = prop_oneof![vec(any::<u8>(), 1..12), Just(b"redis".to_vec())];
        let record = (vec(label, 0..4), any::<[u8; 6]>()).prop_map(|(labels, numbers)| {
            let mut name: Vec<u8> =
                labels.iter().flat_map(|label| [&[byte(label.len())][..], label].concat()).collect();
            name.push(0);
            // The question's name, type SRV, class IN, a TTL.
            let mut record = vec![0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60];
            record.extend([0, byte(numbers.len() + name.len())]);
            record.extend(numbers);
            record.extend(name);
            record
        });
        let damage = prop_oneof![3 => Just(None), 1 => any::<(prop::sample::Index, u8)>().prop_map(Some)];
        (vec(record, 0..4), damage).prop_map(|(records, damage)| {
            let mut message = vec![0, 1, 0x81, 0x80, 0, 1, 0, byte(records.len()), 0, 0, 0, 0];
            message.extend(b"\x01s\x00\x00\x21\x00\x01");
            message.extend(records.concat());
            if let Some((at, byte)) = damage {
                let at = at.index(message.len());
                message[at] = byte;
            }
            message
        })
    }
}
