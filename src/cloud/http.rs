//! A client of token services: one request a connection (RFC 9112), over TLS where the URL says so, with everything
//! bounded: the time, the size, and no redirect is followed, for it would take the secret elsewhere.
//!
//! It is our own because what is sent and received are secrets: they stay in buffers of a fixed size, which are zeroed.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::json::Object;
use crate::files;
use crate::net::resolve::{Addresses, Resolver};
use crate::net::tls::{Connector, Files, Trust, Verification, system_authorities};
use crate::net::{Address, Endpoint, Host, Stream, at};
use crate::secret::Secret;
use crate::text;

/// The longest answer: a token has some kilobytes.
const LONGEST: usize = 64 * 1024;

/// Header fields of an answer.
const MOST_FIELDS: usize = 64;

/// Characters of the service's own words that are shown.
const SHOWN_CHARACTERS: usize = 300;

/// How long a service may take for its answer: those on this host ask others.
const WITHIN: Duration = Duration::from_secs(10);

/// How long a service on this host may take to take the connection: outside of the cloud there is none, and nothing answers.
const NEAR: Duration = Duration::from_secs(2);

/// One request.
#[derive(Default)]
pub struct Request<'a> {
    /// GET where it is empty.
    pub method: &'static str,
    pub url: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    /// With its type.
    pub body: Option<(&'static str, Zeroizing<String>)>,
    /// The service is on this host, if there is one.
    pub is_near: bool,
    /// It is the metadata service of a machine, which is asked without TLS wherever the cloud's own variables say that it is.
    pub is_metadata: bool,
    /// Who knows the path has the answer: it is not shown.
    pub hides_path: bool,
}

impl Request<'_> {
    /// Its URL in errors: the query may be secret, the path seldom is.
    pub fn shown(&self) -> &str {
        if self.hides_path { authority_of(self.url).unwrap_or("its URL") } else { shown(self.url) }
    }

    /// A service's words in one line, without what was sent to it: it may quote that.
    pub fn masked(&self, words: &str) -> String {
        /// Shorter values are words of the protocol.
        const TELLING: usize = 16;
        let body = self.body.as_ref().map_or("", |(_, body)| body.as_str());
        let (url, query) = self.url.split_once('?').unwrap_or((self.url, ""));
        let pairs = [body, query].into_iter().flat_map(|pairs| pairs.split('&'));
        let values = pairs.filter_map(|pair| pair.split_once('=')).chain(self.headers.iter().copied());
        let values = values.map(|(_, value)| value.strip_prefix("Bearer ").unwrap_or(value));
        // Its parts are shorter than the path, and tell as much.
        let path = if self.hides_path { url } else { "" };
        let mut words = Zeroizing::new(text::one_line(words.as_bytes()));
        for value in values.chain(path.split('/')).filter(|value| value.len() >= TELLING) {
            // As it was meant, and as it was written.
            let mut meant = Zeroizing::new(Vec::with_capacity(value.len()));
            meant.extend(percent_encoding::percent_decode_str(value));
            for quoted in [&meant, value.as_bytes()] {
                words = Zeroizing::new(Secret::new(quoted.to_vec()).mask(&words));
            }
        }
        words.chars().take(SHOWN_CHARACTERS).collect()
    }
}

/// A URL in errors, without its query, and without a user and a password, which it is not to have.
pub fn shown(url: &str) -> &str {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

const NO_CONNECTION: &str = "it does not take the connection";

/// The type of a form.
pub const FORM: &str = "application/x-www-form-urlencoded";
pub const JSON: &str = "application/json";

/// A URL of which only what was needed was taken apart.
struct Place<'a> {
    is_tls: bool,
    /// As it stands in the URL.
    authority: &'a str,
    endpoint: Endpoint,
    /// The path and the query.
    path: &'a str,
}

impl<'a> Place<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        let is_unfit = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'@' | b'#' | b'\\');
        let (scheme, rest) = url.split_once("://")?;
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        if url.bytes().any(is_unfit) {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (authority, if is_tls { 443 } else { 80 }),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = match bare.parse::<IpAddr>() {
            Ok(address) => Host::Address(address),
            Err(_) if host.is_empty() || host != bare => return None,
            Err(_) => Host::Name(host.to_owned()),
        };
        Some(Self { is_tls, authority, endpoint: Endpoint::Tcp(host, port), path })
    }

    /// Whether a secret may go there: what is not encrypted stays on this host.
    fn is_safe(&self) -> bool {
        match &self.endpoint {
            _ if self.is_tls => true,
            Endpoint::Tcp(Host::Name(name), _) => is_localhost(name),
            Endpoint::Tcp(Host::Address(IpAddr::V4(address)), _) => {
                address.is_loopback() || address.is_link_local()
            }
            Endpoint::Tcp(Host::Address(IpAddr::V6(address)), _) => {
                address.is_loopback() || address.is_unicast_link_local() || *address == AGENT
            }
            _ => false,
        }
    }
}

/// The agent of EKS' Pod Identity, on the host itself; the other agents have addresses that are link-local.
const AGENT: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23);

/// This name is this host, whatever name servers say (RFC 6761, 6.3).
fn is_localhost(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
}

/// The authority of a URL, host and port, as a request names it.
pub fn authority_of(url: &str) -> Result<&str, String> {
    Place::parse(url).map(|place| place.authority).ok_or_else(|| unfit(shown(url), url))
}

/// Why a URL can't be asked.
fn unfit(shown: &str, url: &str) -> String {
    let with_user = if url.contains('@') { ", without a user and a password" } else { "" };
    format!("\"{shown}\" is no URL of http or https{with_user}")
}

/// Asks token services.
pub struct Client {
    resolver: Resolver,
}

impl Client {
    pub fn new(resolver: Resolver) -> Self {
        Self { resolver }
    }

    /// The body of the answer, if that is a success; or why there is none, with the service's own words.
    pub async fn ask(&self, request: &Request<'_>) -> Result<Zeroizing<Vec<u8>>, String> {
        let shown = request.shown();
        let place = Place::parse(request.url).ok_or_else(|| unfit(shown, request.url))?;
        if !(request.is_metadata || place.is_safe()) {
            return Err(format!(
                "{shown} is neither https nor a loopback or link-local address, so no secret goes there"
            ));
        }
        let has_control = |text: &&str| text.contains(char::is_control);
        if request.headers.iter().any(|(name, value)| has_control(name) || has_control(value)) {
            return Err(format!("{shown}: what is to be sent there has more than one line"));
        }
        let deadline = Instant::now() + WITHIN;
        let received = timeout_at(deadline, self.exchange(&place, request, deadline)).await;
        let received = received
            .unwrap_or_else(|_| Err(format!("no answer within {}", humantime::format_duration(WITHIN))));
        let received = received.map_err(|reason| format!("{shown}: {reason}"))?;
        match received.status {
            200..=299 => Ok(received.body),
            status @ 300..=399 => {
                Err(format!("{shown}: it answered {status}, a redirect, which is not followed"))
            }
            status => Err(format!("{shown}: it answered {status}{}", said(&received.body, request))),
        }
    }

    async fn exchange(
        &self,
        place: &Place<'_>,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<Received, String> {
        let connected_by = if request.is_near { Instant::now() + NEAR } else { deadline };
        let connected = timeout_at(connected_by, self.connect(place, connected_by)).await;
        let mut stream = connected.unwrap_or_else(|_| Err(NO_CONNECTION.to_owned()))?;
        let sent = written(place, request);
        stream.write_all(sent.as_bytes()).await.map_err(|error| text::io_error(&error))?;
        stream.flush().await.map_err(|error| text::io_error(&error))?;
        let mut buffer = Zeroizing::new(vec![0; LONGEST]);
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await.map_err(|error| text::io_error(&error))?;
            filled += read;
            if let Some(received) = Received::parse(&buffer[..filled], read == 0)? {
                return Ok(received);
            }
            if filled == LONGEST {
                return Err(format!("its answer is longer than {LONGEST} bytes"));
            }
        }
    }

    /// Each address has its share of the time that is left.
    async fn connect(&self, place: &Place<'_>, deadline: Instant) -> Result<Stream, String> {
        let Endpoint::Tcp(host, port) = &place.endpoint else { return Err("it has no host".to_owned()) };
        let mut addresses = match host {
            Host::Name(name) if is_localhost(name) => {
                Addresses::whole([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
            }
            _ => self.resolver.addresses(host).await.map_err(|reason| reason.to_string())?,
        };
        let mut waiting: VecDeque<_> = addresses.iter().copied().collect();
        let mut failure = String::new();
        loop {
            let Some(address) = waiting.pop_front() else {
                if !addresses.may_be_more() {
                    return Err(failure);
                }
                waiting.extend(addresses.more().await);
                continue;
            };
            let others = waiting.len() + usize::from(addresses.may_be_more());
            let share = share(deadline.saturating_duration_since(Instant::now()), others);
            let address = Address::Tcp(at(address, *port, 0));
            match timeout_at(Instant::now() + share, Stream::connect(&address, None)).await {
                Ok(Ok(stream)) if place.is_tls => return secured(stream, &place.endpoint).await,
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = text::io_error(&error),
                Err(_) => NO_CONNECTION.clone_into(&mut failure),
            }
        }
    }
}

/// What one address has of the time, if others wait.
fn share(left: Duration, others: usize) -> Duration {
    left / u32::try_from(others + 1).unwrap_or(u32::MAX)
}

/// TLS with the system's authorities, which are read anew: tokens are rare.
async fn secured(stream: Stream, endpoint: &Endpoint) -> Result<Stream, String> {
    let connector = files::offload(|| {
        let system = system_authorities()
            .map_err(|reason| format!("the certificate authorities of the system can't be had: {reason}"))?;
        let trust = Trust { verification: Verification::Full, system };
        Connector::new(String::new(), Files::default(), trust, None).map_err(|unusable| unusable.reason)
    });
    let connector = connector.await.unwrap_or_else(|| Err(files::NO_THREAD.to_owned()))?;
    connector.connect(stream, endpoint).await.map_err(|error| format!("TLS: {error}"))
}

/// The request as it is sent.
fn written(place: &Place<'_>, request: &Request<'_>) -> Zeroizing<String> {
    let (method, slash) = (
        if request.method.is_empty() { "GET" } else { request.method },
        if place.path.starts_with('/') { "" } else { "/" },
    );
    let mut parts = vec![
        method,
        " ",
        slash,
        place.path,
        " HTTP/1.1\r\nHost: ",
        place.authority,
        "\r\nConnection: close\r\n",
    ];
    for (name, value) in request.headers {
        parts.extend([*name, ": ", *value, "\r\n"]);
    }
    let length = request.body.as_ref().map_or(0, |(_, body)| body.len()).to_string();
    if let Some((kind, _)) = &request.body {
        parts.extend(["Content-Type: ", *kind, "\r\n"]);
    }
    if method != "GET" {
        parts.extend(["Content-Length: ", &length, "\r\n"]);
    }
    parts.push("\r\n");
    parts.extend(request.body.as_ref().map(|(_, body)| body.as_str()));
    super::joined(parts)
}

/// What a service says of its own failure, in the forms that clouds have, or what it said instead.
fn said(body: &[u8], request: &Request<'_>) -> String {
    let words = Object::parse(body).ok().and_then(|object| {
        let nested = object.object("error").ok().and_then(|error| error.text("message").ok());
        ["error_description", "message", "Message", "error", "code"]
            .into_iter()
            .fold(nested, |found, name| found.or_else(|| object.text(name).ok()))
    });
    let words =
        words.or_else(|| super::aws::between(body, "Message").map(|text| Zeroizing::new(text.to_owned())));
    match words {
        Some(words) => format!(": {}", request.masked(&words)),
        None if body.trim_ascii().is_empty() => " and nothing more".to_owned(),
        None => format!(" and {}", kind_of(body)),
    }
}

/// What an answer is that was not understood.
pub fn kind_of(body: &[u8]) -> &'static str {
    match body.trim_ascii_start() {
        [] => "nothing",
        [b'<', ..] => "HTML or XML",
        [b'{', ..] => "other JSON",
        _ => "something that is no JSON",
    }
}

/// An answer.
#[derive(Debug)]
pub struct Received {
    pub status: u16,
    pub body: Zeroizing<Vec<u8>>,
}

impl Received {
    /// An answer of which so much has come; `None` while it is not whole.
    pub fn parse(bytes: &[u8], is_end: bool) -> Result<Option<Self>, String> {
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let rest = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => &bytes[length..],
            Ok(httparse::Status::Partial) if is_end && bytes.is_empty() => {
                return Err("it answered nothing".to_owned());
            }
            Ok(httparse::Status::Partial) if is_end => return Err("its answer breaks off".to_owned()),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err("it does not answer in HTTP/1.1".to_owned()),
        };
        let status = head.code.unwrap_or_default();
        let field = |name: &str| {
            let field = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(field.value).ok()
        };
        let is_chunked =
            field("Transfer-Encoding").is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"));
        let body = if status == 204 {
            Some(Zeroizing::default())
        } else if is_chunked {
            unchunked(rest)?
        } else if let Some(length) = field("Content-Length") {
            let length: usize = length.trim().parse().map_err(|_| "its answer has no length".to_owned())?;
            if length > LONGEST {
                return Err(format!("its answer is longer than {LONGEST} bytes"));
            }
            rest.get(..length).map(|body| Zeroizing::new(body.to_vec()))
        } else {
            is_end.then(|| Zeroizing::new(rest.to_vec()))
        };
        match body {
            Some(body) => Ok(Some(Self { status, body })),
            None if is_end => Err("its answer breaks off".to_owned()),
            None => Ok(None),
        }
    }
}

/// A body in chunks; `None` while it is not whole.
fn unchunked(mut rest: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
    let mut body = Zeroizing::new(Vec::with_capacity(rest.len()));
    loop {
        let (start, length) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(chunk)) => chunk,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err("its answer comes in broken chunks".to_owned()),
        };
        // The fields behind the last one say nothing that matters.
        if length == 0 {
            return Ok(Some(body));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let chunk = rest.get(start..).and_then(|rest| rest.get(..length));
        let Some(chunk) = chunk else { return Ok(None) };
        body.extend_from_slice(chunk);
        match rest.get(start + length..) {
            Some([b'\r', b'\n', more @ ..]) => rest = more,
            Some([] | [b'\r']) | None => return Ok(None),
            Some(_) => return Err("its answer comes in broken chunks".to_owned()),
        }
    }
}
