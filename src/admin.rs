//! The admin endpoint: liveness, readiness, the state of links, metrics, and a page for people.
//!
//! HTTP for infrequent probes and scrapes: one request a connection, each connection limited in time and size. At the
//! limit of connections the oldest is closed, so that slow clients can't lock others out. Nothing here shows a secret
//! or the environment.

mod collector;
pub mod figures;
mod history;
mod page;
mod process;

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

pub use self::collector::LinkCollector;
pub use self::history::keep;
use self::history::{Events, History, Sample, rounded};
pub use self::process::ProcessCollector;
use crate::config::link::Redis;
use crate::metrics::{self, Metrics};
use crate::net::{Accepted, Listener};
use crate::resp::cluster::SLOTS;
use crate::upstream::LinkRuntime;
use crate::upstream::backends::BackendState;
use crate::upstream::cluster::{ClusterState, NodeState, topology};
use crate::upstream::connections::Connections;
use crate::upstream::dial::DialState;

/// The timeout of one connection; longer than all dials of `/links?dial` together.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The time for all dials of `/links?dial`.
const DIALS_TIMEOUT: Duration = Duration::from_secs(12);

/// The timeout of one of them, unless the link's connect timeout or its share of the time for all is shorter.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Links dialled concurrently.
const MAX_CONCURRENT_DIALS: usize = 8;

/// A request within this time of the last dials gets their result: frequent requests must not load the targets.
const DIALS_VALID: Duration = Duration::from_secs(1);

/// The longest request head, in bytes.
const LONGEST_HEAD: usize = 8 * 1024;

/// The pause after a failed accept: where descriptors are exhausted, connections have to end first.
const PAUSE: Duration = Duration::from_millis(100);

const PATHS: &str = "/, /livez, /readyz, /links, /links?dial, /history and /metrics";

/// The state that the endpoint serves.
pub struct Admin {
    /// Every link with its listen address.
    links: Vec<(String, Arc<LinkRuntime>)>,
    metrics: Metrics,
    draining: AtomicBool,
    history: History,
    /// When `/links?dial` last dialled the links; locked while it does.
    dialled: Arc<Mutex<Option<Instant>>>,
}

/// The JSON of `/links`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Links {
    /// As `/readyz`.
    pub ready: bool,
    pub links: Vec<LinkState>,
}

/// The state of a link.
#[derive(Debug, Serialize, Deserialize)]
pub struct LinkState {
    /// Its name, `redis:6379`.
    pub link: String,
    pub listen: String,
    /// `redis` or `tcp`.
    pub kind: String,
    /// What is dialled, without user and password.
    pub target: String,
    /// Current clients.
    pub connections: usize,
    /// Those of them of whom others say who they are, the ones with the most connections.
    #[serde(default)]
    pub clients: Vec<ClientState>,
    /// How many such clients there are beside these.
    #[serde(default)]
    pub more_clients: usize,
    /// Current connections to the target, those kept ready among them.
    #[serde(default)]
    pub upstreams: usize,
    /// Of clients, since the start; `None` where no session follows them.
    #[serde(default)]
    pub commands: Option<u64>,
    /// Error replies, in the same way.
    #[serde(default)]
    pub errors: Option<u64>,
    /// As the last seconds had it.
    #[serde(default)]
    pub commands_per_second: Option<f32>,
    #[serde(default)]
    pub errors_per_second: Option<f32>,
    /// All in one word: `works`, `degraded`, `fails`, or `unknown` before the first dial.
    #[serde(default)]
    pub state: String,
    /// What should be looked at though it works, each with what to do.
    #[serde(default)]
    pub warnings: Vec<String>,
    pub backends: Vec<BackendState>,
    /// The nodes of a link that leads to a Redis Cluster, which are its backends.
    #[serde(default)]
    pub cluster: Option<ClusterState>,
    /// The result of the last dial; `None` before the first.
    pub last_dial: Option<DialState>,
}

/// What a link's `state` can be and its word for people, in the order in which links are shown.
pub const STATES: [(&str, &str); 4] =
    [("fails", "fails"), ("degraded", "degraded"), ("works", "works"), ("unknown", "not dialled")];

/// A client of whom a certificate or a balancer says who it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientState {
    /// The name that counts of its certificate, with its kind: `uri:spiffe://example.org/api`.
    pub name: Option<String>,
    /// `unix` for one without.
    pub address: String,
    pub connections: usize,
}

/// Clients that are shown of a link at most.
const MOST_CLIENTS: usize = 20;

impl ClientState {
    /// Those with the most connections.
    fn most(connections: &Connections) -> (Vec<Self>, usize) {
        let known = connections.known().into_iter();
        let mut clients: Vec<_> = known
            .map(|((name, address), connections)| Self {
                name: name.as_deref().map(str::to_owned),
                address: address.map_or_else(|| "unix".to_owned(), |address| address.to_string()),
                connections,
            })
            .collect();
        clients.sort_by_key(|client| Reverse(client.connections));
        let more = clients.len().saturating_sub(MOST_CLIENTS);
        clients.truncate(MOST_CLIENTS);
        (clients, more)
    }
}

impl LinkState {
    fn known(&self) -> Option<usize> {
        STATES.iter().position(|(state, _)| *state == self.state)
    }

    /// Its place among the links of other states.
    pub fn place(&self) -> usize {
        self.known().unwrap_or(STATES.len())
    }

    /// Its state, for people.
    pub fn word(&self) -> &str {
        self.known().map_or(&self.state, |place| STATES[place].1)
    }

    fn of(listen: &str, service: &LinkRuntime, sample: &Sample) -> Self {
        let last_dial = service.health.last_dial();
        let backends = service.backends.states();
        let works = last_dial.as_ref().is_none_or(|dial| dial.worked);
        let cluster = service.cluster.as_ref().map(|cluster| cluster.states(&service.link));
        let warnings = warnings(service, &backends, cluster.as_ref(), works);
        let lacks_listeners = cluster.as_ref().is_some_and(|cluster| cluster.without_listener > 0);
        let state = match (&last_dial, works) {
            (_, false) => "fails",
            // Clients of a cluster can't even begin then.
            _ if lacks_listeners => "fails",
            _ if !warnings.is_empty() => "degraded",
            (None, true) => "unknown",
            (Some(_), true) => "works",
        };
        let (clients, more_clients) = ClientState::most(&service.connections);
        let is_followed = service.link.redis.as_ref().is_some_and(|redis| redis.sessions);
        Self {
            link: service.link.name.clone(),
            listen: listen.to_owned(),
            kind: if service.link.redis.is_some() { "redis" } else { "tcp" }.to_owned(),
            target: service.link.target.to_string(),
            connections: service.connections.count(),
            clients,
            more_clients,
            upstreams: service.upstreams().all() + service.metrics.warm_connections(),
            commands: is_followed.then(|| service.connections.moved().commands),
            errors: is_followed.then(|| service.metrics.session.errors()),
            commands_per_second: is_followed.then(|| rounded(sample.commands)),
            errors_per_second: is_followed.then(|| rounded(sample.errors)),
            state: state.to_owned(),
            warnings,
            backends,
            cluster,
            last_dial,
        }
    }
}

/// What a node of a cluster is and does, for people.
pub fn of_node(node: &NodeState) -> Vec<String> {
    let what = match (&node.role, &node.follows, &node.id) {
        (Some(role), Some(master), _) => format!("{role} of {master}"),
        (Some(role), None, _) => role.clone(),
        (None, _, Some(_)) => "left the cluster".to_owned(),
        (None, _, None) => "named by a redirection".to_owned(),
    };
    let down = node.is_down().then(|| "down".to_owned());
    let slots = (!node.slots.is_empty()).then(|| format!("slots {}", topology::shown(&node.slots)));
    let connections = (node.connections > 0).then(|| figures::count(node.connections, "connection"));
    [down, Some(what), slots, connections].into_iter().flatten().collect()
}

/// What should be looked at in a link. Where it fails, its failure says what is the matter with the backends.
fn warnings(
    service: &LinkRuntime,
    backends: &[BackendState],
    cluster: Option<&ClusterState>,
    works: bool,
) -> Vec<String> {
    let count = |holds: fn(&BackendState) -> bool| backends.iter().filter(|backend| holds(backend)).count();
    let all = backends.len();
    let (down, open) = (count(BackendState::is_down), count(|backend| backend.wants_no_password));
    let mut sources = service.link.redis.as_ref().into_iter().flat_map(Redis::sources);
    let stale = sources.find(|source| source.is_stale());
    // Those of a cluster are told by their names.
    let is_seen = cluster.is_some_and(|cluster| !cluster.nodes.is_empty());
    let down = (works && down > 0 && !is_seen)
        .then(|| format!("{down} of {all} backends failed when last dialled; each is tried again by itself"));
    let open = (open > 0).then(|| {
        format!("{open} of {all} backends want no password: check that it is the right server, and protected")
    });
    let stale = stale.map(|source| {
        source.trouble().unwrap_or_else(|| {
            "a secret can't be read: the last value serves on, and is lost by a restart; the log names its file, \
             program or provider"
                .to_owned()
        })
    });
    // A cluster has words of its own, and so has a list that there never was.
    let reason = service.backends.stale().filter(|_| cluster.is_none() && !backends.is_empty());
    let list = reason.map(|reason| {
        format!(
            "the list of backends can't be had; the last one serves on, and is lost by a restart: {reason}"
        )
    });
    let names = service.backends.listed().into_iter().filter_map(|listed| {
        let name = listed.name().filter(|name| service.dialler.resolver.is_stale(name))?;
        Some(format!(
            "no name server answers for {name}; its last addresses serve on, and are lost by a restart: check the name \
             servers"
        ))
    });
    let names = names.take(NAMED).collect::<Vec<_>>();
    let of_cluster = cluster.into_iter().flat_map(|cluster| of_cluster(cluster, works));
    of_cluster.chain([down, open, stale, list].into_iter().flatten()).chain(names).collect()
}

/// Nodes, or names, that are named in warnings at most.
const NAMED: usize = 5;

fn of_cluster(cluster: &ClusterState, works: bool) -> Vec<String> {
    let ClusterState { nodes, slots_uncovered, without_listener, trouble, remedy } = cluster;
    let uncovered = (!slots_uncovered.is_empty()).then(|| {
        format!(
            "nobody serves {} of {} slots ({}), for which clients read CLUSTERDOWN; bring back the nodes that served \
             them, or give them to others (redis-cli --cluster fix)",
            topology::number(slots_uncovered),
            SLOTS,
            topology::shown(slots_uncovered)
        )
    });
    let known = nodes.iter().filter(|node| !node.has_left());
    let down: Vec<_> = known.clone().filter(|node| node.is_down()).map(|node| &*node.address).collect();
    let is_down = (works && !down.is_empty()).then(|| {
        let more = down.len().saturating_sub(NAMED);
        let named = down[..down.len() - more].join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let all = known.count();
        format!("down: {} of {all} nodes ({named}{more}); each is tried again by itself", down.len())
    });
    // Where all of it fails, its failure says why nobody tells of it.
    let trouble = trouble.as_ref().filter(|_| works || *without_listener > 0).zip(remedy.as_ref());
    let trouble = trouble.map(|(trouble, remedy)| format!("{trouble}; {remedy}"));
    [uncovered, is_down, trouble].into_iter().flatten().collect()
}

type Answer = Response<String>;

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn plain(status: StatusCode, words: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{words}\n"))
}

/// It fails only for maps with keys other than strings.
fn json(text: serde_json::Result<String>) -> Answer {
    match text {
        Ok(json) => answer(StatusCode::OK, "application/json", json + "\n"),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

impl Admin {
    pub fn new(links: Vec<(String, Arc<LinkRuntime>)>, metrics: Metrics) -> Self {
        Self {
            history: History::of(&links),
            links,
            metrics,
            draining: AtomicBool::new(false),
            dialled: Arc::default(),
        }
    }

    /// Makes `/readyz` fail from now on.
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
            ("/", _) => self.page(),
            ("/livez", _) => plain(StatusCode::OK, "alive"),
            // Independent of targets: replacing this process would not repair one.
            ("/readyz", _) if self.is_ready() => plain(StatusCode::OK, "ready"),
            ("/readyz", _) => plain(StatusCode::SERVICE_UNAVAILABLE, "draining"),
            ("/metrics", _) => {
                self.reread_certificates().await;
                answer(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.text())
            }
            ("/links", query) => {
                if query == Some("dial") {
                    self.dial_every_link().await;
                }
                self.links()
            }
            ("/history", query) => self.history(query),
            _ => plain(StatusCode::NOT_FOUND, &format!("not found; the paths are {PATHS}")),
        }
    }

    /// So that their ends are told as the next connection finds them.
    async fn reread_certificates(&self) {
        let reread = |(_, service): &(_, Arc<LinkRuntime>)| {
            let service = Arc::clone(service);
            async move {
                if let Some(tls) = &service.link.tls {
                    tls.reread().await;
                }
                if let Some(tls) = &service.link.listen_tls {
                    tls.reread().await;
                }
            }
        };
        join_all(self.links.iter().map(reread)).await;
    }

    /// With the last sample of each link.
    fn states(&self, last: &[(Sample, Events)]) -> Vec<LinkState> {
        let links = self.links.iter().zip(last);
        links.map(|((listen, service), (sample, _))| LinkState::of(listen, service, sample)).collect()
    }

    /// The page for people.
    fn page(&self) -> Answer {
        let last = self.history.last();
        let page = page::page(self.is_ready(), self.states(&last), &last);
        let mut answer = answer(StatusCode::OK, "text/html; charset=utf-8", page);
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
        answer
    }

    /// The last ten minutes, or what came after so many samples: `after=17`.
    fn history(&self, query: Option<&str>) -> Answer {
        let after = query.and_then(|query| query.strip_prefix("after=")?.parse().ok());
        let names = self.links.iter().map(|(_, service)| service.link.name.clone());
        json(serde_json::to_string(&self.history.report(names, after.unwrap_or(0))))
    }

    fn links(&self) -> Answer {
        let links = self.states(&self.history.last());
        json(serde_json::to_string_pretty(&Links { ready: self.is_ready(), links }))
    }

    /// Dials every link once, unless that has just been done; the results are in the links' health.
    async fn dial_every_link(&self) {
        let mut dialled = Arc::clone(&self.dialled).lock_owned().await;
        if dialled.is_some_and(|at| at.elapsed() < DIALS_VALID) {
            return;
        }
        let services: Vec<_> = self.links.iter().map(|(_, service)| Arc::clone(service)).collect();
        // A task of its own, so that a client that leaves does not cancel the dials and release the lock.
        let round = tokio::spawn(async move {
            let (end, count) = (Instant::now() + DIALS_TIMEOUT, services.len());
            let dial = |(before, service): (usize, Arc<LinkRuntime>)| async move {
                let share = share(end - Instant::now(), count - before);
                service.find_out(share.min(DIAL_TIMEOUT)).await;
            };
            stream::iter(services).enumerate().for_each_concurrent(MAX_CONCURRENT_DIALS, dial).await;
            *dialled = Some(Instant::now());
        });
        // If it panicked, the earlier results are shown.
        let _ = round.await;
    }

    async fn talk(&self, accepted: Accepted) {
        let Ok(stream) = accepted.into_stream() else { return };
        let answer = async |request| Ok::<_, Infallible>(self.answer(&request).await);
        let talk = http1::Builder::new()
            .keep_alive(false)
            // The whole connection has a timeout.
            .header_read_timeout(None)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        // Errors are the client's: it disconnected, was too slow, or does not speak HTTP.
        let _ = timeout(TIMEOUT, talk).await;
    }
}

/// The time for the next of so many dials, so that all of them end in the time that is left.
fn share(left: Duration, dials: usize) -> Duration {
    let turns = dials.div_ceil(MAX_CONCURRENT_DIALS);
    left / u32::try_from(turns).unwrap_or(u32::MAX).max(1)
}

/// Serves at most `most` connections at the same time. Never returns.
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
