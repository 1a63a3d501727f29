//! One backend: a dial, step by step, and questions to the server that it led to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::findings::{Finding, Level};
use super::server::Server;
use crate::config::Link;
use crate::config::link::{Credentials, Redis};
use crate::failure::REFUSED;
use crate::failure::{Failure, Stage};
use crate::metrics::{CredentialKind, LinkMetrics};
use crate::net::Stream;
use crate::net::proxy_protocol::Header;
use crate::net::resolve::Addresses;
use crate::net::tls::certificate::Summary;
use crate::net::tls::stream::TlsStream;
use crate::net::tls::{Connector, Verification};
use crate::net::{Endpoint, Host};
use crate::random;
use crate::resp::{self, Reply};
use crate::upstream::backends::{Backends, Done, Entry, Lease, Next};
use crate::upstream::dial::{Dialler, Introduced, Introduction, late};
use crate::upstream::handshake::{self, Interview, Observer, Probe};

/// A port that is silent for so long after a TLS greeting may be a plain Redis, which waits for the rest of a command.
const SILENCE: Duration = Duration::from_secs(1);

/// The port of Redis.
const REDIS_PORT: u16 = 6379;

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
        let username = credentials.user();
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
        link: &Arc<Link>,
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

/// Watches a dial to one server, asks that some questions, and says what was found on the way.
pub(super) async fn examine(
    link: &Arc<Link>,
    dialler: &Dialler,
    (servers, entry): (&Servers, Arc<Entry>),
) -> (Examined, Vec<Finding>) {
    let now = Instant::now();
    let seen = Seen { examined: Examined::of(link, &entry), findings: Vec::new(), since: now };
    let examination = Examination {
        link,
        dialler,
        backends: &servers.backends,
        shown: entry.to_string(),
        entry,
        deadline: now + link.connect_timeout,
        seen: Mutex::new(seen),
    };
    // It ends where a step fails that the others build upon.
    let _ = examination.go_through(&servers.found).await;
    let Seen { examined, findings, .. } = examination.seen.into_inner();
    (examined, findings)
}

struct Examination<'a> {
    link: &'a Link,
    dialler: &'a Dialler,
    backends: &'a Backends,
    entry: Arc<Entry>,
    shown: String,
    deadline: Instant,
    seen: Mutex<Seen>,
}

/// What the steps have come to so far.
struct Seen {
    examined: Examined,
    findings: Vec<Finding>,
    /// When the step began that is under way.
    since: Instant,
}

impl Observer for Examination<'_> {
    fn has_done(&self, step: handshake::Step<'_>) {
        match step {
            handshake::Step::Tls(stream) => {
                self.has_taken("tls", self.begin());
                if let (Some(connector), Stream::Tls(tls)) = (&self.link.tls, stream) {
                    let told = self.certificates(connector, tls);
                    self.seen.lock().examined.tls = Some(told);
                }
            }
            handshake::Step::Auth(which) => {
                self.has_taken("auth", self.begin());
                self.judge_auth(which);
            }
            handshake::Step::Select => self.has_taken("select", self.begin()),
            handshake::Step::Role => self.has_taken("role", self.begin()),
        }
    }

    /// One that does not let us in has nothing more to say.
    fn goes_on_after(&self, refusal: &Failure) -> bool {
        refusal.stage() != Stage::Auth && still_answers(refusal)
    }
}

impl Examination<'_> {
    async fn go_through(&self, found: &Result<Duration, Failure>) -> Option<()> {
        match found {
            Ok(took) => self.has_taken("resolve", *took),
            Err(failure) => return self.fail(failure),
        }
        let (stream, lease) = self.connect().await?;
        let auth_state = &lease.backend().auth_state;
        let login = self.dialler.login(self.link, self.backends, auth_state, self.deadline).await;
        let begun = self.deadline - self.link.connect_timeout;
        let introduction = Introduction::to(self.link, &lease, begun, self.deadline);
        self.begin();
        let introduced = tokio::select! {
            introduced = introduction.make(stream, login, self) => introduced,
            plain = self.speak_plainly(&lease), if self.link.tls.is_some() => Err(plain),
        };
        let (mut interview, refusals) = match introduced {
            Ok(Introduced::Redis(greeted)) => greeted.interview(),
            Ok(Introduced::Tunnel(stream)) => {
                self.find(self.recognise_redis(stream).await);
                return None;
            }
            Err(failure) => return self.fail(&failure),
        };
        for failure in &refusals {
            self.fail::<()>(failure);
            self.judge_refusal(failure);
        }
        refusals.iter().all(|failure| self.goes_on_after(failure)).then_some(())?;
        let is_served = self.ping(&mut interview).await?;
        // What it does not tell in time, or not like this, it does not tell.
        let asked = self.within(Server::ask(&mut interview)).await;
        let server = asked.map(|(server, _)| server).unwrap_or_default();
        drop(interview);
        let is_sentinel = server.mode.as_deref() == Some("sentinel");
        self.find(Finding::of_server(self.link, &self.shown, &server));
        self.seen.lock().examined.server = Some(server);
        let redis = self.link.redis.as_ref()?;
        if is_sentinel {
            // Everything else that it refuses comes from that.
            self.seen.lock().findings.retain(|finding| finding.about == "sentinel");
        } else if redis.credentials.is_some() {
            let stranger = self.come_as_a_stranger(redis, &lease, &introduction);
            self.find(timeout_at(self.deadline, stranger).await.ok().flatten());
        } else if is_served && !self.demands_a_certificate(redis, &lease).await {
            self.find(Some(Finding::of_open_server(self.link, &self.shown)));
        }
        Some(())
    }

    async fn connect(&self) -> Option<(Stream, Lease)> {
        let begun = Instant::now();
        let mut given_up = Done::default();
        let mut round = self.backends.round_at(&self.entry, &mut given_up);
        let announcement = self.link.announcement(Header::Own);
        let mut answer = Addresses::whole([]);
        let connected = match round.next_known() {
            Some(lease) => {
                let racing =
                    self.dialler.race(&mut round, (lease, begun), &mut answer, announcement, self.deadline);
                racing.await
            }
            None => None,
        };
        let Some((stream, lease)) = connected else { return self.fail(&round.failure()) };
        self.has_taken("connect", begun.elapsed());
        self.seen.lock().examined.address = lease.backend().address.ip();
        Some((stream, lease))
    }

    /// Whether the server serves us, `None` if it says nothing more.
    async fn ping(&self, interview: &mut Interview<'_>) -> Option<bool> {
        match self.within(interview.ping()).await {
            Ok(((), took)) => {
                self.has_taken("ping", took);
                self.seen.lock().examined.latency_ms = Some(milliseconds(took));
                Some(true)
            }
            Err(failure) => {
                self.fail_at::<()>("ping", &failure);
                still_answers(&failure).then_some(false)
            }
        }
    }

    /// One more connection to where the first one led.
    async fn connect_again(&self, lease: &Lease) -> Option<Stream> {
        let address = &lease.backend().address;
        let announcement = self.link.announcement(Header::Own);
        let connecting =
            self.dialler.connect(&self.shown, address, announcement, Instant::now(), self.deadline);
        connecting.await.ok()
    }

    /// What the target has shown of itself, with a finding for each certificate whose end is near.
    fn certificates(&self, connector: &Connector, tls: &TlsStream) -> Tls {
        let chain = tls.peer_certificates();
        let is_verified = connector.verification != Verification::Nothing;
        let authority = if is_verified { connector.authority_of(chain) } else { None };
        let mut shown = chain.iter().map(|certificate| Summary::of(certificate));
        let own = shown.next().flatten();
        self.find(own.iter().filter_map(|own| Finding::of_certificate(self.link, &self.shown, own)));
        // Some servers send their authority's own certificate too.
        let above =
            shown.flatten().filter(|above| Some(above) != authority.as_ref()).chain(authority.clone());
        self.find(above.filter_map(|above| Finding::of_authority(self.link, Some(&self.shown), &above)));
        Tls {
            version: tls.version(),
            verified: is_verified,
            verify: connector.verification.name(),
            certificate: own.map(|Summary { names, issuer, ends, .. }| Certificate { names, issuer, ends }),
            authority: authority.map(|Summary { subject, ends, .. }| Authority { name: subject, ends }),
        }
    }

    fn judge_auth(&self, which: Option<CredentialKind>) {
        if let Some(auth) = &mut self.seen.lock().examined.auth {
            auth.which = which.map(CredentialKind::name);
        }
        let credentials = self.link.credentials();
        let is_previous = which.is_some_and(|which| which != CredentialKind::Current);
        let rotated = credentials.filter(|_| is_previous);
        self.find(rotated.map(|credentials| Finding::of_rotation(self.link, &self.shown, credentials)));
    }

    /// Says more of a password that was refused.
    fn judge_refusal(&self, failure: &Failure) {
        let credentials = self.link.credentials();
        if let (Failure::Refused { what: REFUSED, .. }, Some(credentials)) = (failure, credentials)
            && let Some(finding) = self.seen.lock().findings.last_mut()
        {
            finding.add_surroundings(credentials);
        }
    }

    /// Finds out whether a port that is silent in TLS speaks Redis without; returns only if it does.
    async fn speak_plainly(&self, lease: &Lease) -> Failure {
        sleep(SILENCE.min(self.link.connect_timeout / 2)).await;
        let speaks_tls = self.seen.lock().examined.tls.is_some();
        if let Some(redis) = self.link.redis.as_ref().filter(|_| !speaks_tls)
            && let Some(stream) = self.connect_again(lease).await
            && let Ok(()) | Err(Failure::Refused { .. }) =
                Interview::begin(stream, &self.shown, self.link, redis, &Probe::default()).ping().await
        {
            let variable = &self.link.variable;
            return Failure::Tls {
                what: format!("{} does not speak TLS, but plain Redis", self.shown),
                remedy: format!(
                    "name its TLS port in {variable}, or turn TLS off: redis:// or tcp://, without {tls}",
                    tls = self.link.setting("TLS")
                ),
            };
        }
        std::future::pending().await
    }

    /// Finds out whether a plain tunnel leads to a Redis, where its name or its target suggests so: what has nothing to do with
    /// Redis is not spoken to.
    async fn recognise_redis(&self, mut stream: Stream) -> Option<Finding> {
        let is_dialled = matches!(self.entry.endpoint(), Endpoint::Tcp(_, REDIS_PORT));
        let is_port_of_redis = is_dialled || self.link.port == REDIS_PORT;
        if !is_port_of_redis && !self.link.alias.to_uppercase().contains("REDIS") {
            return None;
        }
        let answered = async {
            // A server may speak and close before it has read anything; its words then wait to be read all the same.
            let _ = stream.write_all(b"PING\r\n").await;
            let _ = stream.flush().await;
            let mut buffer = BytesMut::new();
            loop {
                if let Some(reply) = resp::reply(&mut buffer).ok()? {
                    return Some(reply);
                }
                if stream.read_buf(&mut buffer).await.ok()? == 0 {
                    return None;
                }
            }
        };
        let reply = timeout(SILENCE.min(self.link.connect_timeout / 2), answered).await.ok().flatten()?;
        // On other ports a PONG is that of a Sentinel, too.
        let is_clear = is_port_of_redis || reply != Reply::Good;
        is_clear.then(|| Finding::of_redis_behind_tunnel(self.link, &self.shown, &reply)).flatten()
    }

    /// Comes once more, as one who knows no password.
    async fn come_as_a_stranger(
        &self,
        redis: &Redis,
        lease: &Lease,
        introduction: &Introduction<'_>,
    ) -> Option<Finding> {
        let stream = introduction.secure(self.connect_again(lease).await?).await.ok()?;
        let probe = Probe::default();
        let mut stranger = Interview::begin(stream, &self.shown, self.link, redis, &probe);
        let is_served = stranger.ping().await.is_ok();
        let credentials = redis.credentials.as_ref();
        let username = credentials.and_then(Credentials::user);
        let username = username.as_ref().map(|username| username.expose());
        // Some servers close the connection instead of an answer; that is no welcome.
        let try_random_password = stranger.try_random_password(username, &random::word()).await.ok();
        Finding::of_stranger(self.link, &self.shown, try_random_password, is_served)
    }

    /// Whether it is our certificate that lets us in: without one, nobody is served. Where that can't be found out any
    /// more, it is believed.
    async fn demands_a_certificate(&self, redis: &Redis, lease: &Lease) -> bool {
        let Some(tls) = self.link.tls.as_ref().filter(|tls| tls.files.identity.is_some()) else {
            return false;
        };
        let is_served = async {
            let stream = self.connect_again(lease).await?;
            let stream = tls.connect_as_a_stranger(stream, &lease.listed().endpoint).await.ok()?;
            let probe = Probe::default();
            Interview::begin(stream, &self.shown, self.link, redis, &probe).ping().await.ok()
        };
        timeout_at(self.deadline, is_served).await.ok().flatten().is_none()
    }

    /// What a question comes to until the deadline, and how long it took.
    async fn within<T>(
        &self,
        asked: impl Future<Output = Result<T, Failure>>,
    ) -> Result<(T, Duration), Failure> {
        let begun = Instant::now();
        let since = self.deadline - self.link.connect_timeout;
        let done = timeout_at(self.deadline, asked).await.map_err(late(
            Stage::Auth,
            format!("the handshake with {}", self.shown),
            since,
            self.deadline,
        ))??;
        Ok((done, begun.elapsed()))
    }

    /// Begins the next step; returns how long the one before it took.
    fn begin(&self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.seen.lock().since, now)
    }

    /// Notes that a step went well.
    fn has_taken(&self, name: &str, took: Duration) {
        if let Some(step) = self.seen.lock().examined.step(name) {
            (step.state, step.ms) = (State::Ok, Some(milliseconds(took)));
        }
    }

    fn find(&self, findings: impl IntoIterator<Item = Finding>) {
        self.seen.lock().findings.extend(findings);
    }

    /// Notes that a step of the dial failed.
    fn fail<T>(&self, failure: &Failure) -> Option<T> {
        let stage = failure.stage().name();
        let name = {
            let Seen { examined, .. } = &*self.seen.lock();
            let mut to_come = examined.steps.iter().filter(|step| step.state == State::NotReached);
            let first = to_come.clone().find(|step| step.name != "ping").map(|step| step.name);
            // One that was cut short by the deadline may be another one than it has its name from.
            to_come.find(|step| step.name == stage).map(|step| step.name).or(first).unwrap_or("ping")
        };
        self.fail_at(name, failure)
    }

    /// Notes that this step failed.
    fn fail_at<T>(&self, name: &'static str, failure: &Failure) -> Option<T> {
        // A server looks at our certificate when for us the handshake is over already.
        let name = if failure.stage() == Stage::Tls { "tls" } else { name };
        self.find([Finding::of_failure(self.link, Some(&self.shown), name, failure)]);
        if let Some(step) = self.seen.lock().examined.step(name) {
            step.state = State::Failed;
        }
        None
    }
}

/// Whether a server says more after such a refusal.
fn still_answers(failure: &Failure) -> bool {
    match failure {
        // Who says this hangs up, or says the same to everything else.
        Failure::Refused { words, .. } => {
            !(words.starts_with("DENIED")
                || words.starts_with("NOAUTH")
                || words.contains("max number of clients"))
        }
        Failure::WrongRole { .. } => true,
        _ => false,
    }
}

/// In milliseconds, to the hundredth.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}
