//! The admin endpoint: is the process alive, is it ready, what do its links do, and what has it counted.
//!
//! HTTP for probes and scrapes, which come now and then: one request a connection, each connection bounded in time and
//! size. Where more come than there is room for, the oldest goes, so that clients that dawdle keep nobody out. Nothing
//! here shows a secret or the environment.

mod collector;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

pub use self::collector::LinkCollector;
use crate::metrics::{self, Metrics};
use crate::net::{Accepted, Listener};
use crate::upstream::LinkRuntime;
use crate::upstream::backends::BackendState;
use crate::upstream::dial::DialState;

/// How long one may take, a request for dials included.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the dials of one such request may take, where the link's connect timeout is not shorter.
const DIAL: Duration = Duration::from_secs(10);

/// Links that are dialled together.
const DIALS: usize = 8;

/// Links are not dialled again for a request that comes so soon after the last: whoever asks often must not become a
/// burden for the targets.
const FRESH: Duration = Duration::from_secs(1);

/// The longest request head, in bytes.
const LONGEST_HEAD: usize = 8 * 1024;

/// The pause after a failed accept: the cure for a lack of descriptors is that connections end.
const PAUSE: Duration = Duration::from_millis(100);

const PATHS: &str = "/livez, /readyz, /links, /links?dial and /metrics";

/// What the endpoint tells about.
pub struct Admin {
    /// Every link, and the address that it listens on.
    links: Vec<(String, Arc<LinkRuntime>)>,
    metrics: Metrics,
    draining: AtomicBool,
    /// When the links were last dialled for somebody who asked; held while they are.
    dialled: Arc<Mutex<Option<Instant>>>,
}

/// `/links`, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Links {
    /// What `/readyz` says.
    pub ready: bool,
    /// Every link.
    pub links: Vec<LinkState>,
}

/// How a link does.
#[derive(Debug, Serialize, Deserialize)]
pub struct LinkState {
    /// Its name, `redis:6379`.
    pub link: String,
    /// Where clients come in.
    pub listen: String,
    /// `redis` or `tcp`.
    pub kind: String,
    /// What is dialled, without user or password.
    pub target: String,
    /// Clients at this moment.
    pub connections: usize,
    /// The places that may be dialled, as they are known now.
    pub backends: Vec<BackendState>,
    /// How the last dial ended; nothing where there was none yet.
    pub last_dial: Option<DialState>,
}

impl LinkState {
    fn of(listen: &str, service: &LinkRuntime) -> Self {
        Self {
            link: service.link.name.clone(),
            listen: listen.to_owned(),
            kind: if service.link.redis.is_some() { "redis" } else { "tcp" }.to_owned(),
            target: service.link.target.to_string(),
            connections: service.connections.count(),
            backends: service.backends.states(),
            last_dial: service.health.last_dial(),
        }
    }
}

type Answer = Response<String>;

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn plain(status: StatusCode, words: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{words}\n"))
}

impl Admin {
    /// What is told of these links and metrics.
    pub fn new(links: Vec<(String, Arc<LinkRuntime>)>, metrics: Metrics) -> Self {
        Self { links, metrics, draining: AtomicBool::new(false), dialled: Arc::default() }
    }

    /// From now on the process is not ready any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed)
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match (request.uri().path(), request.uri().query()) {
            ("/livez", _) => plain(StatusCode::OK, "alive"),
            // It never depends on a target: no replacement of this process would mend one.
            ("/readyz", _) if self.is_ready() => plain(StatusCode::OK, "ready"),
            ("/readyz", _) => plain(StatusCode::SERVICE_UNAVAILABLE, "draining"),
            ("/metrics", _) => answer(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.text()),
            ("/links", query) => {
                if query == Some("dial") {
                    self.dial_every_link().await;
                }
                self.links()
            }
            _ => plain(StatusCode::NOT_FOUND, &format!("not here; there are {PATHS}")),
        }
    }

    fn links(&self) -> Answer {
        let links = self.links.iter().map(|(listen, service)| LinkState::of(listen, service)).collect();
        match serde_json::to_string_pretty(&Links { ready: self.is_ready(), links }) {
            Ok(json) => answer(StatusCode::OK, "application/json", json + "\n"),
            // Only maps with keys that are no text would fail.
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    /// Dials every link once, unless that has just been done; the links remember what came of it.
    async fn dial_every_link(&self) {
        let mut dialled = Arc::clone(&self.dialled).lock_owned().await;
        if dialled.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let services: Vec<_> = self.links.iter().map(|(_, service)| Arc::clone(service)).collect();
        // A task of its own: whoever asks and leaves does not make room for another round before its time.
        let round = tokio::spawn(async move {
            let dial = |service: Arc<LinkRuntime>| async move { service.find_out(DIAL).await };
            stream::iter(services).for_each_concurrent(DIALS, dial).await;
            *dialled = Some(Instant::now());
        });
        // If it met a mistake of the program, the links remember what they had found out before.
        let _ = round.await;
    }

    async fn talk(&self, accepted: Accepted) {
        let Ok(stream) = accepted.into_stream() else { return };
        let answer = async |request| Ok::<_, Infallible>(self.answer(&request).await);
        let talk = http1::Builder::new()
            .keep_alive(false)
            // The whole connection has its time.
            .header_read_timeout(None)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        // Whoever breaks off, dawdles or speaks something else has had its answer, or none.
        let _ = timeout(PATIENCE, talk).await;
    }
}

/// Answers for as long as the process runs, so many at the same time.
pub async fn serve(mut listener: Listener, admin: Arc<Admin>, most: usize) {
    let mut open = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((accepted, _)) => {
                open.retain(|talk: &tokio::task::AbortHandle| !talk.is_finished());
                if open.len() >= most
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let admin = Arc::clone(&admin);
                open.push_back(tokio::spawn(async move { admin.talk(accepted).await }).abort_handle());
            }
            Err(error) => {
                tracing::debug!(target: "admin", %error, "admin endpoint: accept failed; retrying");
                sleep(PAUSE).await;
            }
        }
    }
}
