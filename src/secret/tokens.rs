//! Secrets that expire, and who issues them: a program, or a cloud's token service.
//!
//! One task for each, the keeper, has a token issued before the last one expires and when another one is requested, and
//! publishes it. So one issue serves all waiting dials, and a dial that times out does not cancel it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::Secret;
use crate::backoff::Backoff;
use crate::text;

/// The most time that an issue may take. Clouds and their tools need seconds for a request or two; one that hangs must
/// not block the next one.
pub const ISSUED_WITHIN: Duration = Duration::from_secs(30);

/// The part of a token's life after which the next one is issued: the last quarter is left for failures.
const RENEWED_AFTER: f64 = 0.75;

/// Between failed issues. At its longest it spares the issuer. During the back-off dials do not wait but fail with the
/// error of the last issue.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// A refused token that is younger than this is not issued again: it would be the same.
const MIN_AGE_TO_RENEW: Duration = Duration::from_secs(1);

/// Who issues tokens.
pub trait Issuer: Send + Sync {
    fn kind(&self) -> Kind;

    /// Issues a token within [`ISSUED_WITHIN`], or says why not, never quoting a secret.
    fn issue(&self) -> BoxFuture<'_, Result<Token, String>>;
}

/// The kinds of issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// That of `AUTH_COMMAND`.
    Program,
    /// The cloud of `AUTH_PROVIDER`.
    Provider,
}

impl Kind {
    /// As `links` and the log show it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Program => "command",
            Self::Provider => "provider",
        }
    }

    /// What it means that there is no token.
    fn failure(self) -> &'static str {
        match self {
            Self::Program => "the secret can't be had from its program",
            Self::Provider => "the secret can't be had from its provider",
        }
    }

    /// As messages of the log name it.
    fn name(self) -> &'static str {
        match self {
            Self::Program => "secret program",
            Self::Provider => "token provider",
        }
    }
}

/// A token as it was issued.
pub struct Token {
    pub secret: Arc<Secret>,
    /// The user that it names as its own, for issuers whose tokens do.
    pub user: Option<Arc<Secret>>,
    /// How long it is valid from now on.
    pub lives: Duration,
}

/// Why no token was issued; never quotes a secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub struct TokenError {
    /// Of which issuer, and why.
    what: String,
    /// What the operator can do.
    pub remedy: String,
}

/// An issuer and its last token.
pub struct Tokens {
    shared: Arc<Shared>,
    is_started: AtomicBool,
}

/// What the keeper shares with its callers.
struct Shared {
    issuer: Box<dyn Issuer>,
    /// The variable that names the issuer.
    variable: String,
    /// The link, for the log.
    link: String,
    state: watch::Sender<State>,
    /// Notified when another token is requested.
    requested: Notify,
}

#[derive(Default)]
struct State {
    issued: Option<Issued>,
    /// The error of the last issue, if it failed, and the end of the back-off.
    failure: Option<(TokenError, Instant)>,
    /// Completed issues.
    count: u64,
}

struct Issued {
    token: Token,
    at: Instant,
}

impl Issued {
    /// How long it is still valid.
    fn lasts(&self) -> Duration {
        self.token.lives.saturating_sub(self.at.elapsed())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What an issuer has to know may be secret too.
        f.debug_struct("Tokens").field("variable", &self.shared.variable).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Has none issued yet. `variable` names the issuer; the name of the `link` is for the log.
    pub fn new(issuer: impl Issuer + 'static, variable: &str, link: String) -> Self {
        let shared = Shared {
            issuer: Box::new(issuer),
            variable: variable.to_owned(),
            link,
            state: watch::Sender::default(),
            requested: Notify::new(),
        };
        Self { shared: Arc::new(shared), is_started: AtomicBool::new(false) }
    }

    /// Starts the keeper on the current runtime, once. What it has begun lives no longer than that runtime.
    pub fn start(&self) {
        if !self.is_started.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep(Arc::clone(&self.shared)));
        }
    }

    /// The valid token; if there is none, that of the issue in progress or of a new one.
    pub(super) async fn current(&self) -> Result<Arc<Secret>, TokenError> {
        self.issued(|issued| !issued.lasts().is_zero(), |token| Arc::clone(&token.secret)).await
    }

    /// The user whom the valid token names as its own.
    pub(super) async fn user(&self) -> Result<Arc<Secret>, TokenError> {
        let user = self.issued(|issued| !issued.lasts().is_zero(), |token| token.user.clone()).await?;
        let variable = &self.shared.variable;
        let prefix = variable.strip_suffix("AUTH_PROVIDER").unwrap_or(variable);
        user.ok_or_else(|| TokenError {
            remedy: format!("set {prefix}USERNAME to the user whose token it is"),
            ..self.error("the token names no user (it has no oid)")
        })
    }

    /// Another token than `refused`; has one issued if necessary.
    pub(super) async fn instead_of(&self, refused: &Secret) -> Result<Arc<Secret>, TokenError> {
        let will_do = |issued: &Issued| {
            let is_other = *issued.token.secret != *refused || issued.at.elapsed() < MIN_AGE_TO_RENEW;
            is_other && !issued.lasts().is_zero()
        };
        self.issued(will_do, |token| Arc::clone(&token.secret)).await
    }

    /// What is wanted of the current token if that `will_do`, else of one more.
    async fn issued<T>(
        &self,
        will_do: impl Fn(&Issued) -> bool,
        wanted: impl Fn(&Token) -> T,
    ) -> Result<T, TokenError> {
        self.start();
        let mut state = self.shared.state.subscribe();
        let count = {
            let state = state.borrow_and_update();
            if let Some(issued) = state.issued.as_ref().filter(|issued| will_do(issued)) {
                return Ok(wanted(&issued.token));
            }
            match &state.failure {
                Some((error, not_before)) if Instant::now() < *not_before => return Err(error.clone()),
                _ => state.count,
            }
        };
        self.shared.requested.notify_one();
        // The keeper lives as long as the runtime, and so longer than its callers.
        let Ok(state) = state.wait_for(|state| state.count > count).await else {
            return Err(self.error("the runtime is shutting down"));
        };
        match (&state.issued, &state.failure) {
            (_, Some((error, _))) => Err(error.clone()),
            (Some(issued), None) => Ok(wanted(&issued.token)),
            (None, None) => Err(self.error("nothing was issued")),
        }
    }

    /// The last token, whatever its age.
    pub fn last(&self) -> Option<Arc<Secret>> {
        self.shared.state.borrow().issued.as_ref().map(|issued| Arc::clone(&issued.token.secret))
    }

    /// The user whom the last token names.
    pub fn last_user(&self) -> Option<Arc<Secret>> {
        self.shared.state.borrow().issued.as_ref()?.token.user.clone()
    }

    /// Whether the last issue failed.
    pub fn is_failing(&self) -> bool {
        self.shared.state.borrow().failure.is_some()
    }

    pub fn kind(&self) -> Kind {
        self.shared.issuer.kind()
    }

    pub fn error(&self, reason: impl fmt::Display) -> TokenError {
        self.shared.error(reason)
    }
}

impl Shared {
    fn error(&self, reason: impl fmt::Display) -> TokenError {
        let (variable, kind) = (&self.variable, self.issuer.kind());
        let remedy = match kind {
            Kind::Program => format!(
                "run the program of {variable} by hand, as user {}; its standard error is in the log",
                rustix::process::geteuid().as_raw()
            ),
            Kind::Provider => format!(
                "give this process an identity in the cloud of {variable}: docs/credentials.md says from where it is taken, \
                 under Cloud tokens"
            ),
        };
        TokenError { what: format!("{}: {variable}: {reason}", kind.failure()), remedy }
    }
}

/// The keeper: has tokens issued before they expire, on request, and after failures. Never returns.
async fn keep(shared: Arc<Shared>) {
    let Shared { issuer, variable, link, state, requested } = &*shared;
    let name = issuer.kind().name();
    let mut failures = 0;
    loop {
        let outcome = issuer.issue().await.map_err(|reason| text::one_line(reason.as_bytes()));
        // This answers all requests so far.
        let _ = requested.notified().now_or_never();
        match outcome {
            Ok(token) => {
                if std::mem::take(&mut failures) > 0 {
                    tracing::info!(target: "secret", link, variable, "{name} recovered");
                }
                let renewed_after = token.lives.mul_f64(RENEWED_AFTER);
                state.send_modify(|state| {
                    state.issued = Some(Issued { token, at: Instant::now() });
                    state.failure = None;
                    state.count += 1;
                });
                tokio::select! {
                    () = sleep(renewed_after) => {}
                    () = requested.notified() => {}
                }
            }
            Err(reason) => {
                failures += 1;
                let not_before = Instant::now() + BACKOFF.wait(failures);
                let error = shared.error(&reason);
                state.send_modify(|state| {
                    let lasts = state.issued.as_ref().map(Issued::lasts).unwrap_or_default();
                    tracing::warn!(
                        target: "secret",
                        link,
                        variable,
                        error = reason,
                        remedy = error.remedy,
                        last_answer_serves = %humantime::format_duration(Duration::from_secs(lasts.as_secs())),
                        "{name} failed"
                    );
                    state.failure = Some((error, not_before));
                    state.count += 1;
                });
                sleep_until(not_before).await;
            }
        }
    }
}
