//! Keeps open sessions authenticated: another secret is shown on each of them.
//!
//! Servers that take tokens end connections whose token has ended; and a server may forget a password that was rotated.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::LinkRuntime;
use super::connections::Reference;
use crate::backoff::Backoff;
use crate::config::link::Credentials;

/// How often the sources are looked at, while there are connections.
const INTERVAL: Duration = Duration::from_millis(250);

/// The longest time over which the sessions are spread.
const LONGEST: Duration = Duration::from_mins(1);

/// Waits between sessions that show whether the secret is accepted.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// How long one session may take to its next boundary and the reply, before another one is asked.
const PATIENCE: Duration = Duration::from_millis(250);

/// Returns once one session was accepted with the last secret; false if there is no session any more. A file may be ahead
/// of its server: a refusal on each session would fill the server's log, some servers lock the account, and the sessions
/// would not try again once the server has the secret.
async fn is_accepted(service: &LinkRuntime, credentials: &Credentials) -> bool {
    let mut refusals = 0;
    loop {
        let sessions = service.connections.all();
        if sessions.is_empty() {
            return false;
        }
        let (accepted, refused) = service.metrics.session.reauthentications();
        // Those without an upstream would be waited for in vain; the next one that they get knows the secret.
        for session in sessions.into_iter().filter(Reference::has_upstream) {
            session.ask_for_authentication();
            let begun = Instant::now();
            while begun.elapsed() < PATIENCE
                && service.metrics.session.reauthentications() == (accepted, refused)
            {
                sleep(INTERVAL / 10).await;
            }
            if service.metrics.session.reauthentications() != (accepted, refused) {
                break;
            }
        }
        if service.metrics.session.reauthentications().0 > accepted {
            return true;
        }
        refusals += 1;
        sleep(BACKOFF.wait(refusals)).await;
        credentials.refresh(INTERVAL, &service.metrics).await;
    }
}

/// Has open sessions show each secret that comes, for as long as the process runs.
pub async fn run(service: &LinkRuntime) {
    let redis = service.link.redis.as_ref().filter(|redis| redis.sessions && redis.reauth);
    let Some(credentials) = redis.and_then(|redis| redis.credentials.as_ref()) else { return };
    if !credentials.can_change() {
        return;
    }
    let mut known = credentials.last();
    let mut since = Instant::now();
    loop {
        sleep(INTERVAL).await;
        // An upstream that clients share outlives them for a while.
        if service.connections.is_empty() {
            known = credentials.last();
            continue;
        }
        credentials.refresh(INTERVAL, &service.metrics).await;
        let last = credentials.last();
        if last == known {
            continue;
        }
        known = last;
        // A tenth of what the last one has lived for.
        let spread = (since.elapsed() / 10).min(LONGEST);
        since = Instant::now();
        if is_accepted(service, credentials).await {
            known = credentials.last();
            let sessions = service.connections.all();
            let pause = spread / u32::try_from(sessions.len()).unwrap_or(u32::MAX).max(1);
            for session in sessions {
                session.ask_for_authentication();
                sleep(pause).await;
            }
        }
    }
}
