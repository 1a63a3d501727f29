//! A web client of few words.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::{PATIENCE, secret};

/// What a web server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Header lines, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// What `/links` says of a link.
    #[track_caller]
    pub(crate) fn link(&self, name: &str) -> Value {
        let links: Value = serde_json::from_str(&self.body).expect("JSON");
        let links = links["links"].as_array().expect("links").iter();
        links
            .clone()
            .find(|link| link["link"] == name)
            .unwrap_or_else(|| panic!("no {name}: {}", self.body))
            .clone()
    }
}

/// The answer to a request; it never shows a password.
#[track_caller]
pub(crate) fn request(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the admin endpoint");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer and its end");
    let secrets = secret::found_in(&text);
    assert!(secrets.is_empty(), "the admin endpoint shows {secrets:?}:\n{text}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// The answer to a GET.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
}

/// The value of one series of `/metrics`, named without the prefix: `bytes_total{link="db:5432",…}`.
#[track_caller]
pub(crate) fn metric(address: SocketAddr, series: &str) -> f64 {
    let metrics = get(address, "/metrics").body;
    let name = format!("redis_ambassador_{series} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("no {series}:\n{metrics}")).parse().expect("a number")
}
