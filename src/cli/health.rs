//! `health`: asks the running process how it does, as Docker's HEALTHCHECK wants to know.

use std::time::Duration;

use super::endpoint::{self, Answer, Unasked};
use crate::admin::{LinkState, Links};
use crate::net::ListenAddress;

/// How long the process may take to say whether it is ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same, where it has to dial its links first: more than it takes for that itself.
const PATIENCE_FOR_DIALS: Duration = Duration::from_secs(25);

/// Why the process is not well, or can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unwell {
    #[error(transparent)]
    Unasked(#[from] Unasked),
    /// It says that it is not ready.
    #[error("not ready: {0}")]
    NotReady(String),
    /// Some links can't be used.
    #[error("{failing} of {all} links fail: {reasons}")]
    Links {
        /// How many can't.
        failing: usize,
        /// How many there are.
        all: usize,
        /// Why, each with its remedy.
        reasons: String,
    },
}

/// Asks the process whose admin endpoint is there; with `links`, whether every link can be dialled too.
pub fn ask(admin: Option<ListenAddress>, links: bool) -> Result<String, Unwell> {
    let address = admin.ok_or(Unasked::Off)?;
    let (path, patience) = if links { ("/links?dial", PATIENCE_FOR_DIALS) } else { ("/readyz", PATIENCE) };
    let Answer { status, body } = endpoint::ask(&address, path, patience)?;
    let stranger = || Unasked::Stranger(address.clone());
    match (status, links) {
        (200, false) if body == "ready\n" => Ok("ready".to_owned()),
        (503, false) => Err(Unwell::NotReady(body.trim().to_owned())),
        (200, true) => judge(&serde_json::from_str(&body).map_err(|_| stranger())?),
        _ => Err(stranger().into()),
    }
}

fn judge(found: &Links) -> Result<String, Unwell> {
    if !found.ready {
        return Err(Unwell::NotReady("draining".to_owned()));
    }
    let all = found.links.len();
    let failure = |link: &LinkState| match &link.last_dial {
        Some(dial) if dial.worked && link.state != "fails" => None,
        Some(dial) if dial.worked => Some(format!("{}: {}", link.link, link.warnings.join("; "))),
        Some(dial) => dial.failure.as_ref().map(|failure| {
            format!("{}: {}: {} (remedy: {})", link.link, failure.stage, failure.error, failure.remedy)
        }),
        None => Some(format!("{}: it was not dialled", link.link)),
    };
    let reasons: Vec<_> = found.links.iter().filter_map(failure).collect();
    match reasons.len() {
        0 => Ok(format!("ready, and every link can be dialled ({all})")),
        failing => Err(Unwell::Links { failing, all, reasons: reasons.join("; ") }),
    }
}
