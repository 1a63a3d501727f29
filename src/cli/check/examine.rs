//! One backend, step by step.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use tokio::time::{Instant, sleep, timeout_at};

use super::findings::{Finding, Level};
use super::server::Server;
use crate::config::Link;
use crate::config::link::Credentials;
use crate::config::link::{Redis, Role};
use crate::failure::REFUSED;
use crate::failure::{Failure, Stage};
use crate::metrics::{LinkMetrics, Which};
use crate::net::resolve::Addresses;
use crate::net::tls::certificate::Summary;
use crate::net::tls::stream::TlsStream;
use crate::net::tls::{Connector, Verification};
use crate::net::{Address, Stream};
use crate::net::{Endpoint, Host};
use crate::random;
use crate::secret::Source;
use crate::upstream::backends::{Backends, Done, Entry, Next};
use crate::upstream::dial::{Dialler, late, secure};
use crate::upstream::handshake::{Interview, Probe};

/// A port that is silent for so long after a TLS greeting may be a plain Redis, which waits for the rest of a command.
const SILENCE: Duration = Duration::from_secs(1);

/// What was found out about one backend.
#[derive(Debug, Serialize)]
pub(super) struct Examined {
    pub(super) backend: String,
    pub(super) state: Level,
    /// The ways to it: more than one where its name has an address of each family.
    pub(super) addresses: Vec<IpAddr>,
    /// The one that took the connection.
    pub(super) address: Option<IpAddr>,
    pub(super) steps: Vec<Step>,
    pub(super) tls: Option<Tls>,
    pub(super) auth: Option<Auth>,
    pub(super) db: Option<u32>,
    /// How long PING took.
    pub(super) latency_ms: Option<f64>,
    pub(super) server: Option<Server>,
}

/// A step on the way to a connection that serves.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    #[serde(rename = "step")]
    pub(super) name: &'static str,
    pub(super) state: State,
    pub(super) ms: Option<f64>,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// As it should.
    Ok,
    /// Not as it should.
    Failed,
    /// One before it failed.
    NotReached,
}

/// The TLS with a backend.
#[derive(Debug, Serialize)]
pub(super) struct Tls {
    pub(super) version: Option<&'static str>,
    /// Whether somebody vouches for the certificate.
    pub(super) verified: bool,
    /// What of it is verified, as `TLS_VERIFY` has it.
    pub(super) verify: &'static str,
    pub(super) certificate: Option<Certificate>,
    pub(super) authority: Option<Authority>,
}

/// The certificate that a backend shows.
#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) names: Vec<String>,
    pub(super) issuer: Option<String>,
    #[serde(serialize_with = "as_text")]
    pub(super) ends: SystemTime,
}

/// The authority that vouches for it.
#[derive(Debug, Serialize)]
pub(super) struct Authority {
    pub(super) name: Option<String>,
    #[serde(serialize_with = "as_text")]
    pub(super) ends: SystemTime,
}

fn as_text<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_rfc3339_seconds(*time))
}

/// As whom a link authenticates.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Auth {
    pub(super) username: Option<String>,
    /// Where the password comes from.
    pub(super) source: &'static str,
    pub(super) variable: String,
    /// Which password served: `current` or `previous`.
    pub(super) which: Option<&'static str>,
}

impl Auth {
    fn of(redis: &Redis) -> Option<Self> {
        let credentials = redis.credentials.as_ref()?;
        let username = credentials.username.as_ref().and_then(Source::last);
        Some(Self {
            username: username.map(|name| String::from_utf8_lossy(name.expose()).into_owned()),
            source: credentials.password.kind(),
            variable: credentials.variable.clone(),
            which: None,
        })
    }
}

impl Examined {
    fn of(link: &Link, entry: &Entry) -> Self {
        let redis = link.redis.as_ref();
        let auth = redis.and_then(Auth::of);
        let db = redis.and_then(|redis| redis.database);
        let has_name = matches!(entry.endpoint(), Endpoint::Tcp(Host::Name(_) | Host::Linked { .. }, _));
        let steps = [
            (has_name, "resolve"),
            (true, "connect"),
            (link.tls.is_some(), "tls"),
            (auth.is_some(), "auth"),
            (redis.is_some_and(|redis| redis.select().is_some()), "select"),
            (redis.is_some(), "ping"),
            (redis.is_some_and(|redis| redis.role.is_some()), "role"),
        ];
        let step = |name| Step { name, state: State::NotReached, ms: None };
        Self {
            backend: entry.to_string(),
            state: Level::Ok,
            addresses: entry.addresses(),
            address: None,
            steps: steps.into_iter().filter(|(is_taken, _)| *is_taken).map(|(_, name)| step(name)).collect(),
            tls: None,
            auth,
            db,
            latency_ms: None,
            server: None,
        }
    }

    fn step(&mut self, name: &str) -> Option<&mut Step> {
        self.steps.iter_mut().find(|step| step.name == name)
    }

    /// How a step went, if the link has it.
    pub(super) fn state_of(&self, name: &str) -> Option<State> {
        self.steps.iter().find(|step| step.name == name).map(|step| step.state)
    }
}

/// The servers that an endpoint stands for.
pub(super) struct Servers {
    backends: Backends,
    /// How long it took to find them out, or why nobody can; then there is one without an address.
    found: Result<Duration, Failure>,
}

impl Servers {
    /// Finds them out.
    pub(super) async fn of(
        link: &Link,
        dialler: &Dialler,
        endpoint: &Endpoint,
        metrics: &Arc<LinkMetrics>,
    ) -> Self {
        let begun = Instant::now();
        let endpoints = std::slice::from_ref(endpoint);
        let backends = Backends::at(link, endpoints, Arc::default(), Arc::clone(metrics));
        let found = resolve(dialler, &backends, begun + link.connect_timeout).await;
        Self { backends, found: found.map(|()| begun.elapsed()) }
    }

    /// Each of them.
    pub(super) fn all(&self) -> Vec<(&Self, Arc<Entry>)> {
        self.backends.list().iter().map(|entry| (self, Arc::clone(entry))).collect()
    }
}

async fn resolve(dialler: &Dialler, backends: &Backends, deadline: Instant) -> Result<(), Failure> {
    let mut given_up = Done::default();
    let mut round = backends.round(&mut given_up);
    if let Some(Next::Resolve(listed)) = round.step() {
        round.resolved(&listed, &dialler.resolve(&listed, deadline).await?);
    }
    Ok(())
}

/// Goes through the steps of a dial with one server, and says what was found on the way.
pub(super) async fn examine(
    link: &Link,
    dialler: &Dialler,
    (servers, entry): (&Servers, Arc<Entry>),
    metrics: &LinkMetrics,
) -> (Examined, Vec<Finding>) {
    let deadline = Instant::now() + link.connect_timeout;
    let examined = Examined::of(link, &entry);
    let mut examination = Examination {
        link,
        dialler,
        backends: &servers.backends,
        entry,
        metrics,
        deadline,
        reached: None,
        examined,
        findings: Vec::new(),
    };
    // It ends where a step fails that the others build upon.
    let _ = examination.go_through(&servers.found).await;
    (examination.examined, examination.findings)
}

struct Examination<'a> {
    link: &'a Link,
    dialler: &'a Dialler,
    backends: &'a Backends,
    entry: Arc<Entry>,
    metrics: &'a LinkMetrics,
    deadline: Instant,
    /// The address that took the connection.
    reached: Option<Address>,
    examined: Examined,
    findings: Vec<Finding>,
}

impl Examination<'_> {
    async fn go_through(&mut self, found: &Result<Duration, Failure>) -> Option<()> {
        match found {
            Ok(took) => self.note("resolve", Ok(((), *took))),
            Err(failure) => self.fail("resolve", failure),
        }?;
        let shown = self.entry.to_string();
        let stream = self.connect().await?;
        let stream = self.secure(stream, &shown).await?;
        let redis = self.link.redis.as_ref()?;
        let probe = Probe::default();
        let mut interview = Interview::begin(stream, &shown, self.link, redis, &probe);
        if let Some(credentials) = &redis.credentials {
            let step = self.within(&shown, interview.authenticate(self.metrics)).await;
            self.judge_auth(credentials, step)?;
        }
        if let Some(database) = redis.select() {
            let step = self.within(&shown, interview.select(database)).await;
            self.note_and_go_on("select", step)?;
        }
        let step = self.within(&shown, interview.ping()).await;
        if let Ok(((), took)) = &step {
            self.examined.latency_ms = Some(milliseconds(*took));
        }
        let is_served = step.is_ok();
        self.note_and_go_on("ping", step)?;
        // What it does not tell in time, or not like this, it does not tell.
        let asked = self.within(&shown, Server::ask(&mut interview)).await;
        let server = asked.map(|(server, _)| server).unwrap_or_default();
        // One that does not serve us has other troubles than its role.
        self.judge_server(&server, &shown, redis.role.filter(|_| is_served));
        let is_sentinel = server.mode.as_deref() == Some("sentinel");
        self.examined.server = Some(server);
        drop(interview);
        if is_sentinel {
            // Everything else that it refuses comes from that.
            self.findings.retain(|finding| finding.about == "sentinel");
        } else if redis.credentials.is_some() {
            let stranger = timeout_at(self.deadline, self.come_as_a_stranger(redis)).await;
            self.findings.extend(stranger.ok().flatten());
        } else if is_served {
            self.findings.push(Finding::of_open_server(self.link, &self.examined.backend));
        }
        Some(())
    }

    fn judge_auth(
        &mut self,
        credentials: &Credentials,
        step: Result<(Option<Which>, Duration), Failure>,
    ) -> Option<()> {
        let is_refused = matches!(&step, Err(Failure::Refused { what: REFUSED, .. }));
        let served = self.note("auth", step);
        if let (true, Some(finding)) = (is_refused, self.findings.last_mut()) {
            finding.add_surroundings(credentials);
        }
        let which = served?;
        if let Some(auth) = &mut self.examined.auth {
            auth.which = which.map(Which::name);
        }
        if which.is_some_and(|which| which != Which::Current) {
            let finding = Finding::of_rotation(self.link, &self.examined.backend, credentials);
            self.findings.push(finding);
        }
        Some(())
    }

    async fn connect(&mut self) -> Option<Stream> {
        let begun = Instant::now();
        let mut given_up = Done::default();
        let mut round = self.backends.round_at(&self.entry, &mut given_up);
        let connected = match round.next_known() {
            Some(place) => {
                self.dialler.race(&mut round, (place, begun), &mut Addresses::whole([]), self.deadline).await
            }
            None => None,
        };
        let connected = connected.ok_or_else(|| round.failure());
        let (stream, place) = self.note("connect", connected.map(|done| (done, begun.elapsed())))?;
        self.reached = Some(place.backend().address.clone());
        self.examined.address = place.backend().address.ip();
        Some(stream)
    }

    /// One more connection to where the first one led.
    async fn connect_again(&self) -> Option<Stream> {
        let reached = self.reached.as_ref()?;
        self.dialler.connect(&self.examined.backend, reached, Instant::now(), self.deadline).await.ok()
    }

    async fn secure(&mut self, stream: Stream, shown: &str) -> Option<Stream> {
        let Some(connector) = &self.link.tls else {
            return Some(stream);
        };
        let begun = Instant::now();
        let secured = tokio::select! {
            secured = secure(self.link, stream, self.entry.endpoint(), shown, begun, self.deadline) => secured,
            plain = self.speak_plainly(shown) => Err(plain),
        };
        let stream = self.note("tls", secured.map(|stream| (stream, begun.elapsed())))?;
        if let Stream::Tls(tls) = &stream {
            self.examined.tls = Some(self.certificates(connector, tls));
        }
        Some(stream)
    }

    /// What the target has shown of itself, with a finding for each certificate whose end is near.
    fn certificates(&mut self, connector: &Connector, tls: &TlsStream) -> Tls {
        let chain = tls.peer_certificates();
        let is_verified = connector.verification != Verification::Nothing;
        let authority = if is_verified { connector.authority_of(chain) } else { None };
        let mut shown = chain.iter().map(|certificate| Summary::of(certificate));
        let own = shown.next().flatten();
        let backend = &self.examined.backend;
        let findings = own.iter().filter_map(|own| Finding::of_certificate(self.link, backend, own));
        // Some servers send their authority's own certificate too.
        let above =
            shown.flatten().filter(|above| Some(above) != authority.as_ref()).chain(authority.clone());
        let above = above.filter_map(|above| Finding::of_authority(self.link, Some(backend), &above));
        self.findings.extend(findings.chain(above));
        Tls {
            version: tls.version(),
            verified: is_verified,
            verify: connector.verification.name(),
            certificate: own.map(|Summary { names, issuer, ends, .. }| Certificate { names, issuer, ends }),
            authority: authority.map(|Summary { subject, ends, .. }| Authority { name: subject, ends }),
        }
    }

    /// Finds out whether a port that is silent in TLS speaks Redis without; returns only if it does.
    async fn speak_plainly(&self, shown: &str) -> Failure {
        sleep(SILENCE.min(self.link.connect_timeout / 2)).await;
        if let Some(redis) = &self.link.redis
            && let Some(stream) = self.connect_again().await
            && let Ok(()) | Err(Failure::Refused { .. }) =
                Interview::begin(stream, shown, self.link, redis, &Probe::default()).ping().await
        {
            let Link { alias, variable, .. } = self.link;
            return Failure::Tls {
                what: format!("{shown} does not speak TLS, but plain Redis"),
                remedy: format!(
                    "name its TLS port in {variable}, or turn TLS off: redis:// or tcp://, without {alias}_TLS"
                ),
            };
        }
        std::future::pending().await
    }

    /// Comes once more, as one who knows no password.
    async fn come_as_a_stranger(&self, redis: &Redis) -> Option<Finding> {
        let begun = Instant::now();
        let shown = &self.examined.backend;
        let stream = self.connect_again().await?;
        let stream =
            secure(self.link, stream, self.entry.endpoint(), shown, begun, self.deadline).await.ok()?;
        let probe = Probe::default();
        let mut stranger = Interview::begin(stream, shown, self.link, redis, &probe);
        let is_served = stranger.ping().await.is_ok();
        let credentials = redis.credentials.as_ref();
        let username = credentials.and_then(|credentials| credentials.username.as_ref()?.last());
        let username = username.as_ref().map(|username| username.expose());
        // Some servers close the connection instead of an answer; that is no welcome.
        let bluff = stranger.bluff(username, &random::word()).await.ok();
        Finding::of_stranger(self.link, &self.examined.backend, bluff, is_served)
    }

    fn judge_server(&mut self, server: &Server, shown: &str, wanted: Option<Role>) {
        self.findings.extend(Finding::of_server(self.link, &self.examined.backend, server));
        let Some(wanted) = wanted else {
            return;
        };
        let has = match server.role.as_deref() {
            Some("master") => Some(Role::Master),
            Some("replica") => Some(Role::Replica),
            _ => None,
        };
        let step = if has == Some(wanted) {
            Ok(((), Duration::ZERO))
        } else {
            let role =
                has.map_or_else(|| "of a role that it does not tell".to_owned(), |has| format!("a {has}"));
            Err(Failure::WrongRole { endpoint: shown.to_owned(), role, wanted })
        };
        self.note("role", step);
    }

    /// One step of the handshake, and how long it took.
    async fn within<T>(
        &self,
        shown: &str,
        step: impl Future<Output = Result<T, Failure>>,
    ) -> Result<(T, Duration), Failure> {
        let begun = Instant::now();
        let since = self.deadline - self.link.connect_timeout;
        let done = timeout_at(self.deadline, step).await.map_err(late(
            Stage::Auth,
            format!("the handshake with {shown}"),
            since,
            self.deadline,
        ))??;
        Ok((done, begun.elapsed()))
    }

    /// Notes how a step went.
    fn note<T>(&mut self, name: &'static str, step: Result<(T, Duration), Failure>) -> Option<T> {
        match step {
            Ok((done, took)) => {
                if let Some(step) = self.examined.step(name) {
                    (step.state, step.ms) = (State::Ok, Some(milliseconds(took)));
                }
                Some(done)
            }
            Err(failure) => self.fail(name, &failure),
        }
    }

    /// Notes that a step failed.
    fn fail<T>(&mut self, name: &'static str, failure: &Failure) -> Option<T> {
        // A server looks at our certificate when for us the handshake is over already.
        let name = if failure.stage() == Stage::Tls { "tls" } else { name };
        let backend = Some(self.examined.backend.as_str());
        self.findings.push(Finding::of_failure(self.link, backend, name, failure));
        if let Some(step) = self.examined.step(name) {
            step.state = State::Failed;
        }
        None
    }

    /// The same for a step after whose refusal the server still answers; `None` where it does not.
    fn note_and_go_on<T>(&mut self, name: &'static str, step: Result<(T, Duration), Failure>) -> Option<()> {
        let is_over = match &step {
            Ok(_) => false,
            // Who says this hangs up, or says the same to everything else.
            Err(Failure::Refused { words, .. }) => {
                words.starts_with("DENIED")
                    || words.starts_with("NOAUTH")
                    || words.contains("max number of clients")
            }
            Err(_) => true,
        };
        self.note(name, step);
        (!is_over).then_some(())
    }
}

/// In milliseconds, to the hundredth.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}
