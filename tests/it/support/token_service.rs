//! A cloud's metadata or token service on loopback, which answers as a test says.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Peer, Served, Target};

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// By their names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Asked {
    /// A whole request.
    fn read(peer: &mut Peer) -> Option<Self> {
        let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let mut lines = head.lines();
                let mut first = lines.next()?.split(' ');
                let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
                let headers: HashMap<_, _> = lines
                    .filter_map(|line| line.split_once(": "))
                    .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                    .collect();
                let length =
                    headers.get("content-length").map_or(0, |length| length.parse().expect("a length"));
                if body.len() >= length {
                    return Some(Self { method, path, headers, body: body.to_owned() });
                }
            }
            match peer.read(&mut chunk) {
                Ok(len @ 1..) => bytes.extend(&chunk[..len]),
                _ => return None,
            }
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// A parameter of the query or of a form, as it is written there.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').chain(self.body.split('&'));
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }
}

/// A service, and what it was asked so far.
pub(crate) struct TokenService {
    served: Served,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl TokenService {
    /// Answers each request with the bytes that `answer` has for it, and closes.
    pub(crate) fn start(answer: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        let served = Target::start().serve(move |mut peer| {
            let Some(request) = Asked::read(&mut peer) else { return };
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            // It may have left.
            let _ = peer.try_send(&answer(&request));
            let _ = peer.try_finish_sending();
        });
        Self { served, asked }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.served.address()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An answer in HTTP.
pub(crate) fn answered(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Whatever\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
