//! From a link to an upstream that is ready for a client, within one deadline.
//!
//! A target that refuses or resets is tried again until the deadline: its restart costs a new client a wait, not an
//! error. One that has failed for longer than the connect timeout gets one try a client until a dial works again, so
//! that a long outage fails fast.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::Link;
use crate::config::target::{Endpoint, Host};
use crate::failure::{Failure, Stage};
use crate::greet::{Upstream, greet};
use crate::net::Stream;
use crate::resolve::Resolver;
use crate::tls::explain::by_target;

/// The first wait before a target is tried again; each is twice the one before, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(25);
/// Long enough to spare a starting server, short enough for nobody to notice.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// How long an address has for itself before the next one of the same name is tried beside it (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// What a link's dials know of their target.
#[derive(Debug, Default)]
pub struct Health {
    failing_since: Mutex<Option<Instant>>,
}

impl Health {
    fn works(&self) {
        *self.lock() = None;
    }

    /// Notes a failure, and returns since when there have been nothing but failures.
    fn fails(&self) -> Instant {
        *self.lock().get_or_insert_with(Instant::now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.failing_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that a dial needs and that outlives it.
pub struct Dialler {
    /// Looks names up.
    pub resolver: Resolver,
    /// When TCP probes a silent target.
    pub keepalive: Option<Duration>,
}

impl Dialler {
    /// Dials until there is an upstream, the connect timeout is over, or the target's answer is final.
    pub async fn dial(&self, link: &Link, health: &Health) -> Result<Upstream, Failure> {
        let deadline = Instant::now() + link.connect_timeout;
        let mut wait = FIRST_WAIT;
        let mut refusal = None;
        loop {
            let failure = match self.try_once(link, deadline).await {
                Ok(upstream) => {
                    health.works();
                    return Ok(upstream);
                }
                Err(failure) => failure,
            };
            if !failure.is_passing() {
                // Where the deadline cut the last try short, what ended those before it says more.
                let cut_short =
                    matches!(failure, Failure::TimedOut { stage: Stage::Resolve | Stage::Connect, .. });
                return Err(refusal.filter(|_| cut_short).unwrap_or(failure));
            }
            let patience_ends = deadline.min(health.fails() + link.connect_timeout);
            if Instant::now() + wait >= patience_ends {
                return Err(failure);
            }
            tracing::debug!(link = link.name, error = %failure, "dialling again");
            refusal = Some(failure);
            sleep(wait).await;
            wait = LONGEST_WAIT.min(wait * 2);
        }
    }

    /// One try: resolve, connect, TLS, greet. Each step is told by its own name when the deadline ends it.
    async fn try_once(&self, link: &Link, deadline: Instant) -> Result<Upstream, Failure> {
        // More than one endpoint is refused by the configuration until they can be balanced.
        let endpoint = &link.endpoints()[0];
        let shown = endpoint.to_string();
        let late =
            |stage, doing: String| move |_| Failure::TimedOut { stage, doing, after: link.connect_timeout };
        let addresses = match endpoint {
            Endpoint::Unix(_) => Vec::new(),
            Endpoint::Tcp(Host::Address(address), _) => vec![*address],
            Endpoint::Tcp(Host::Name(name), _) => timeout_at(deadline, self.resolver.lookup(name))
                .await
                .map_err(late(Stage::Resolve, format!("resolving {name}")))?
                .map_err(|reason| Failure::Resolve { name: name.clone(), reason: reason.to_string() })?
                .to_vec(),
        };
        let connecting = async {
            match endpoint {
                Endpoint::Unix(path) => Stream::connect_unix(path).await,
                Endpoint::Tcp(_, port) => self.connect(&addresses, *port).await,
            }
        };
        let stream = timeout_at(deadline, connecting)
            .await
            .map_err(late(Stage::Connect, format!("connecting to {shown}")))?
            .map_err(|source| Failure::Connect { endpoint: shown.clone(), source })?;
        let stream = match &link.tls {
            None => stream,
            Some(tls) => timeout_at(deadline, tls.connect(stream, endpoint))
                .await
                .map_err(late(Stage::Tls, format!("the TLS handshake with {shown}")))?
                .map_err(|error| by_target(error, &shown, link))?,
        };
        match &link.redis {
            None => Ok(Upstream::of_plain_tunnel(stream)),
            Some(redis) => timeout_at(deadline, greet(stream, &shown, link, redis))
                .await
                .map_err(late(Stage::Auth, format!("the handshake with {shown}")))?,
        }
    }

    /// The first of a name's addresses to take the connection. Each has a head start on the next.
    async fn connect(&self, addresses: &[IpAddr], port: u16) -> std::io::Result<Stream> {
        let mut waiting = addresses.iter().map(|address| SocketAddr::new(*address, port));
        let mut racing = FuturesUnordered::new();
        let mut last_error = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        loop {
            match waiting.next() {
                Some(address) => racing.push(Stream::connect_tcp(address, self.keepalive)),
                None if racing.is_empty() => return Err(last_error),
                None => {}
            }
            let finished = async {
                match racing.next().await {
                    Some(Ok(stream)) => Ok(stream),
                    Some(Err(e)) => Err(Some(e)),
                    None => Err(None),
                }
            };
            let finished = if waiting.len() == 0 {
                finished.await
            } else {
                // A head start that is over is no error: the next address joins the race.
                tokio::time::timeout(HEAD_START, finished).await.unwrap_or(Err(None))
            };
            match finished {
                Ok(stream) => return Ok(stream),
                Err(Some(e)) => last_error = e,
                Err(None) => {}
            }
        }
    }
}
