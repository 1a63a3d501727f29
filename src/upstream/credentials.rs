//! A Redis link's credentials, and password rotation.
//!
//! A rotation changes the server and the file one after the other, so for some time they differ. A [`Login`] therefore
//! tries up to three credentials on one connection, each once: the current one, re-read from its source, that of
//! `AUTH_PREVIOUS_FILE`, and the last one that was accepted. If all are refused though one was accepted before, a
//! rotation is in progress, and [`Failure::Rotation`] makes the dial wait for its other half.
//!
//! The [`AuthState`] of a server records which credentials it has refused; all connections share it. A refused
//! credential is retried by one connection at a time, after growing pauses, or when there is a new one to try:
//! otherwise every client would add a refusal to the server's log, and some servers lock an account after too many.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::config::link::{Credential, Credentials};
use crate::failure::{Failure, REFUSED, Stage};
use crate::metrics::{CredentialKind, LinkMetrics};
use crate::secret::tokens::Kind;
use crate::secret::{FileError, Secret, Source, Unavailable, is_path};
use crate::text;

/// Rounds of refusals before the back-off starts: for two changes that cross each other, or a mistake fixed at once.
const FREE_ROUNDS: u32 = 3;
/// Before refused credentials are retried. At its longest it keeps refusals in the server's log rare, and an operator
/// who has fixed the server does not wait long.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(10) };

/// For how long one connection retries refused credentials alone, at most.
const TRIAL: Duration = Duration::from_secs(1);

/// For how long clients are held during a rotation. Kubernetes takes one or two minutes to update a Secret in a pod, an
/// operator takes longer; after this it is a wrong configuration, and clients get the error at once.
const LONGEST_HOLD: Duration = Duration::from_mins(10);

/// How old a reading of the file may be for held clients, so that thousands of them read it no more often than one.
const HELD_LOOK: Duration = Duration::from_millis(20);

impl Credential {
    /// The AUTH command.
    pub fn command(&self) -> Vec<&[u8]> {
        auth(self.username.as_ref().map(|username| username.expose()), self.password.expose())
    }
}

/// The user of an AUTH without one.
const DEFAULT_USER: &[u8] = b"default";

/// The AUTH command. The default user is left out: servers before 6.0 have no users, and a server that requires no
/// password answers an error to a password alone, but accepts any password with this user.
pub fn auth<'a>(username: Option<&'a [u8]>, password: &'a [u8]) -> Vec<&'a [u8]> {
    let username = username.filter(|username| *username != DEFAULT_USER);
    [Some(&b"AUTH"[..]), username, Some(password)].into_iter().flatten().collect()
}

/// The credentials that one server has accepted and refused.
#[derive(Debug, Default)]
pub struct AuthState {
    record: Mutex<Record>,
    /// Held by the connection that offers a credential other than the last accepted one.
    trial: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct Record {
    /// The last accepted credential.
    good: Option<Arc<Credential>>,
    /// Credentials refused since.
    refused: Vec<Arc<Credential>>,
    /// The server's error message.
    words: String,
    /// Consecutive rounds that ended in a refusal.
    rounds: u32,
    /// The end of the back-off.
    backoff_until: Option<Instant>,
    /// Since when a rotation has been in progress.
    rotation: Option<Instant>,
    /// Since when every credential has been refused.
    stuck: Option<Instant>,
    /// A refused credential that was tried without the white space around its password, and whether it was accepted.
    diagnosis: Option<(Arc<Credential>, bool)>,
}

impl Record {
    fn is_refused(&self, credential: &Credential) -> bool {
        self.refused.iter().any(|refused| **refused == *credential)
    }

    /// Starts the back-off, longer each time; returns its length.
    fn rest(&mut self) -> Duration {
        self.rounds = self.rounds.saturating_add(1);
        let pause = BACKOFF.wait(self.rounds.saturating_sub(FREE_ROUNDS));
        self.backoff_until = Some(Instant::now() + pause);
        pause
    }

    /// Whether refused credentials may be retried now. If so, the caller has [`TRIAL`] for it.
    fn begins_trial(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.backoff_until.is_none_or(|until| until <= now);
        if is_due {
            self.backoff_until = Some(now + TRIAL);
        }
        is_due
    }
}

impl Credentials {
    /// Has the first token issued, where passwords are tokens, so that it is there before the first client.
    pub fn start(&self) {
        if let Source::Token(tokens) = &self.password {
            tokens.start();
        }
    }

    /// The credentials to try on a new connection; fails if all of them are known to be refused and in back-off.
    pub async fn login<'a>(
        &'a self,
        auth_state: &'a AuthState,
        metrics: &'a LinkMetrics,
    ) -> Result<Login<'a>, Failure> {
        let are_held = auth_state.record.lock().rotation.is_some();
        let age = if are_held { HELD_LOOK } else { Duration::ZERO };
        let current = self.current(age, metrics).await?;
        let mut login = Login {
            credentials: self,
            auth_state,
            metrics,
            offers: vec![(CredentialKind::Current, current)],
            tried: Vec::new(),
            round: None,
            is_renewed: false,
            trial: None,
        };
        // The common case: the current credential is the last accepted one, and no other needs to be read.
        let is_good = {
            let record = auth_state.record.lock();
            let current = &login.offers[0].1;
            record.good.as_ref().is_some_and(|good| **good == **current) && !record.is_refused(current)
        };
        if !is_good {
            login.add_others(age).await;
        }
        let mut record = auth_state.record.lock();
        let refused = login.offers.iter().filter(|(_, offer)| record.is_refused(offer)).count();
        if refused > 0 && record.begins_trial() {
            login.round = Some(record.rounds);
        } else if refused == login.offers.len() {
            return Err(self.failure(&record));
        }
        drop(record);
        Ok(login)
    }

    /// Looks at the sources, unless that was done within `age`.
    pub async fn refresh(&self, age: Duration, metrics: &LinkMetrics) {
        // A source that has no secret has logged that.
        let _ = self.current(age, metrics).await;
    }

    async fn current(&self, age: Duration, metrics: &LinkMetrics) -> Result<Arc<Credential>, Unavailable> {
        let before = self.last();
        let username = match &self.username {
            Some(source) => Some(source.recent(age).await?),
            None => None,
        };
        let current = Arc::new(Credential { username, password: self.password.recent(age).await? });
        let mut seen = self.memory.seen.lock();
        let known = seen.replace(Arc::clone(&current));
        if known.or(before).is_some_and(|known| known != current) {
            metrics.secret_reloaded();
        }
        Ok(current)
    }

    /// Reads the sources again. A source that fails logs it and keeps its last value.
    pub async fn look(&self, metrics: &LinkMetrics) {
        let _ = self.current(Duration::ZERO, metrics).await;
    }

    /// The last value of the sources, without reading them again.
    pub fn last(&self) -> Option<Arc<Credential>> {
        let username = self.user();
        self.password.last().map(|password| Arc::new(Credential { username, password }))
    }

    /// The failure of a password source that took longer than `after`.
    pub fn late(&self, after: Duration) -> Failure {
        let reason = format!("it was not read within {}", humantime::format_duration(after));
        Failure::Secret(match &self.password {
            Source::Token(tokens) | Source::UserOfToken(tokens) => tokens.error(reason).into(),
            Source::File(file) => FileError::unreadable(file.path(), reason).into(),
            Source::Variable(_) | Source::Url(_) => {
                FileError::unreadable(std::path::Path::new(&self.variable), reason).into()
            }
        })
    }

    /// Whether the credential can change without a restart.
    pub fn can_change(&self) -> bool {
        self.password.can_change()
            || self.previous.is_some()
            || self.username.as_ref().is_some_and(|source| source.can_change())
    }

    /// The failure when every credential was refused.
    fn failure(&self, record: &Record) -> Failure {
        let words = record.words.clone();
        let variable = &self.variable;
        let works_trimmed = |credential: &Credential| {
            let diagnosis = record.diagnosis.as_ref();
            diagnosis.is_some_and(|(known, works)| **known == *credential && *works)
        };
        let refused = record.refused.iter().find(|refused| works_trimmed(refused));
        let hint = refused.filter(|refused| self.is_last(refused)).and_then(|r| surroundings(&r.password));
        let is_stuck = record.stuck.is_some_and(|since| since.elapsed() >= LONGEST_HOLD);
        let is_held = record.rotation.is_some() && !is_stuck;
        let remedy = match hint {
            _ if let Some(remedy) = self.password.remedy() => remedy,
            Some(hint) => format!(
                "remove what is around the password: {variable} has {hint}, and without it the password is accepted"
            ),
            None => self.other_causes(&words, is_held),
        };
        let pause =
            record.backoff_until.map(|until| until.saturating_duration_since(Instant::now()).as_secs());
        let remedy = match pause {
            Some(seconds @ 1..) => {
                format!("{remedy} (not retried for {seconds}s, unless it changes)")
            }
            _ => remedy,
        };
        // Another connection may have found one that works a moment ago.
        let is_more = record.good.as_ref().is_some_and(|good| !record.is_refused(good));
        if is_held || is_more {
            Failure::Rotation { words, remedy }
        } else {
            Failure::Refused { stage: Stage::Auth, what: REFUSED, words, remedy }
        }
    }

    /// The remedy of a refusal whose cause is unknown. A server with ACL users answers the same error for a wrong
    /// password and a wrong or disabled user; before Redis 6, it can only be the password.
    fn other_causes(&self, words: &str, is_held: bool) -> String {
        let Self { variable, username_variable, .. } = self;
        let knows_users = words.starts_with("WRONGPASS");
        let user = self.user().map(|user| shown_user(&user));
        if let Source::Token(tokens) = &self.password
            && tokens.kind() == Kind::Provider
        {
            let user = user.as_deref().unwrap_or("default");
            return format!(
                "see at the cloud whether the identity of {variable} may connect to this target as the user \"{user}\", and \
                 whether the target takes tokens"
            );
        }
        if is_held {
            let password =
                format!("finish the rotation: give {variable} the password that the server has now");
            return match user {
                _ if !knows_users => password,
                Some(user) => format!(
                    "{password}; or enable the user \"{user}\", if it was disabled there (ACL GETUSER {user})"
                ),
                None => format!(
                    "{password}; or set {username_variable}, if the user \"default\" was disabled there (ACL LIST)"
                ),
            };
        }
        let is_of_url = matches!(self.password, Source::Url(_));
        let has_user = user.is_some();
        let looks = self.password.last().map(|password| looks(&password, is_of_url, has_user));
        let looks = looks.unwrap_or_default();
        let password = format!("check {variable}{looks}: is it this target's password, and complete?");
        match user {
            _ if !knows_users => password,
            Some(user) => format!(
                "{password} And {username_variable}: is \"{user}\" spelt right, and enabled there (ACL GETUSER {user})?"
            ),
            None => format!(
                "{password} If the server's ACL LIST has \"user default off\", set {username_variable} to the user that the \
                 password belongs to."
            ),
        }
    }

    /// Whether this is the last value of the sources.
    fn is_last(&self, credential: &Credential) -> bool {
        self.last().is_some_and(|last| *last == *credential)
    }

    /// White space or quotes around the password, as a hint: `33 bytes, ends with a newline`.
    pub fn surroundings(&self) -> Option<String> {
        surroundings(self.password.last()?.as_ref())
    }
}

/// The credentials that one connection tries.
pub struct Login<'a> {
    credentials: &'a Credentials,
    auth_state: &'a AuthState,
    metrics: &'a LinkMetrics,
    /// All credentials in the order of preference; the current one is the first.
    offers: Vec<(CredentialKind, Arc<Credential>)>,
    /// Credentials tried on this connection.
    tried: Vec<Arc<Credential>>,
    /// `Some` if this connection may retry refused credentials: the number of rounds when it began. Void once another
    /// connection has completed a round.
    round: Option<u32>,
    /// Whether the current password was read again.
    is_renewed: bool,
    trial: Option<AsyncMutexGuard<'a, ()>>,
}

impl Login<'_> {
    /// The next credential to try; `None` if all were refused, on this connection or another.
    pub async fn next(&mut self) -> Option<Arc<Credential>> {
        let auth_state = self.auth_state;
        loop {
            {
                let record = auth_state.record.lock();
                let again = self.round == Some(record.rounds);
                let is_open = |offer: &Arc<Credential>| {
                    !self.tried.contains(offer) && (again || !record.is_refused(offer))
                };
                let offer = self.offers.iter().map(|(_, offer)| offer).find(|offer| is_open(offer))?;
                // Connections try in parallel the last accepted credential, and any where none is known yet. Anything
                // else is tried by one at a time; the others wait here and then decide again.
                let in_parallel = match &record.good {
                    Some(good) => good == offer && !record.is_refused(offer),
                    None => record.refused.is_empty(),
                };
                if in_parallel {
                    self.trial = None;
                }
                if in_parallel || self.trial.is_some() {
                    let offer = Arc::clone(offer);
                    self.tried.push(Arc::clone(&offer));
                    return Some(offer);
                }
            }
            self.trial = Some(auth_state.trial.lock().await);
            self.add_good();
        }
    }

    /// Records that the server refused the last tried credential with this error; returns the next one to try.
    pub async fn refused(&mut self, words: String) -> Option<Arc<Credential>> {
        let refused = Arc::clone(self.tried.last()?);
        {
            let mut record = self.auth_state.record.lock();
            record.words = words;
            if record.good.as_ref() == Some(&refused) && !record.is_refused(&refused) {
                // The server has changed: a credential that it refused before may be accepted now.
                record.refused.clear();
                record.rounds = 0;
                self.begin_rotation(&mut record, "password_refused");
            }
            if !record.is_refused(&refused) {
                record.refused.push(Arc::clone(&refused));
            }
        }
        self.renew().await;
        self.add_others(Duration::ZERO).await;
        // Not if this connection merely began before the password was changed.
        if self.credentials.is_last(&refused) && self.has_ever_worked() {
            self.begin_rotation(&mut self.auth_state.record.lock(), "new_password_refused");
        }
        self.next().await
    }

    fn has_ever_worked(&self) -> bool {
        self.auth_state.record.lock().good.is_some() || self.credentials.memory.good.lock().is_some()
    }

    /// Reads the current password once more: it may have changed since this connection began.
    async fn renew(&mut self) {
        if std::mem::replace(&mut self.is_renewed, true) {
            return;
        }
        let current = self.current();
        // If it can't be read, the refused one stays.
        if self.credentials.password.instead_of(&current.password).await.is_ok()
            && let Ok(renewed) = self.credentials.current(Duration::ZERO, self.metrics).await
            && renewed != current
        {
            self.offers.insert(0, (CredentialKind::Current, renewed));
        }
    }

    /// The current credential as read by this connection.
    fn current(&self) -> Arc<Credential> {
        Arc::clone(&self.offers[0].1)
    }

    /// Adds the previous and the last accepted password; a reading of the file may be `age` old.
    async fn add_others(&mut self, age: Duration) {
        if let Some(previous) = &self.credentials.previous
            && !self.offers.iter().any(|(which, _)| *which == CredentialKind::Previous)
            && let Some(password) = previous.recent(age).await
        {
            let username = self.current().username.clone();
            self.add(CredentialKind::Previous, Arc::new(Credential { username, password }));
        }
        self.add_good();
    }

    fn add_good(&mut self) {
        let here = self.auth_state.record.lock().good.clone();
        // A server without a record, after a failover say, probably accepts what another one accepted.
        let good = here.or_else(|| self.credentials.memory.good.lock().clone());
        if let Some(good) = good {
            self.add(CredentialKind::LastGood, good);
        }
    }

    fn add(&mut self, which: CredentialKind, credential: Arc<Credential>) {
        if !self.offers.iter().any(|(_, offer)| **offer == *credential) {
            self.offers.push((which, credential));
        }
    }

    /// Where the credential that was offered last came from.
    pub fn offered(&self) -> Option<CredentialKind> {
        let credential = self.tried.last()?;
        self.offers.iter().find(|(_, offer)| offer == credential).map(|(which, _)| *which)
    }

    /// Records that the server accepted the last tried credential; returns which one that is.
    pub fn served(mut self) -> Option<CredentialKind> {
        self.round = None;
        let credential = Arc::clone(self.tried.last()?);
        let which = self.offered()?;
        let mut record = self.auth_state.record.lock();
        // Another connection may have recorded a newer result since this one began.
        let is_news = match which {
            CredentialKind::Current => self.credentials.is_last(&credential),
            CredentialKind::Previous | CredentialKind::LastGood => {
                record.good.as_ref().is_none_or(|good| *good == credential || record.is_refused(good))
            }
        };
        if is_news {
            let is_other = record.good.as_ref().is_some_and(|good| *good != credential);
            if which == CredentialKind::Current {
                if is_other {
                    self.begin_rotation(&mut record, "new_password");
                }
                self.complete_rotation(&mut record);
                *record = Record::default();
            } else {
                self.begin_rotation(&mut record, "new_password_refused");
                record.refused.retain(|refused| *refused != credential);
                record.stuck = None;
                if self.tried.len() > 1 {
                    record.rest();
                }
            }
            record.good = Some(Arc::clone(&credential));
            self.forget_the_rest(&mut record);
            *self.credentials.memory.good.lock() = Some(credential);
        }
        self.metrics.secret_used(which);
        tracing::debug!(target: "credentials", link = self.credentials.link, which = which.name(), "authenticated");
        Some(which)
    }

    fn begin_rotation(&self, record: &mut Record, reason: &str) {
        if record.rotation.is_none() && self.credentials.can_change() {
            record.rotation = Some(Instant::now());
            tracing::info!(target: "credentials", link = self.credentials.link, reason, "password rotation started");
        }
    }

    fn complete_rotation(&self, record: &mut Record) {
        if let Some(since) = record.rotation.take() {
            let took = Duration::from_millis(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
            tracing::info!(
                target: "credentials",
                link = self.credentials.link,
                took = %humantime::format_duration(took),
                "password rotation completed"
            );
        }
    }

    /// Drops refused credentials that no connection would try any more: a program issues many tokens.
    fn forget_the_rest(&self, record: &mut Record) {
        let Record { refused, good, .. } = record;
        let is_offered = |refused: &Arc<Credential>| self.offers.iter().any(|(_, offer)| offer == refused);
        refused.retain(|refused| {
            good.as_ref() == Some(refused) || is_offered(refused) || self.credentials.is_last(refused)
        });
    }

    /// The failure after every credential was refused, or, if `interrupted`, after the connection ended before that.
    pub fn failed(mut self, interrupted: bool) -> Failure {
        self.round = None;
        let mut record = self.auth_state.record.lock();
        if !self.tried.is_empty() {
            let Record { refused, good, .. } = &mut *record;
            // Also those refused before the server changed: another connection retries them after the back-off. But not
            // the one that another connection has used successfully since.
            for tried in &self.tried {
                if !interrupted && !refused.contains(tried) && good.as_ref() != Some(tried) {
                    refused.push(Arc::clone(tried));
                }
            }
            self.forget_the_rest(&mut record);
            let works = record.good.as_ref().is_some_and(|good| !record.is_refused(good));
            if !works && !interrupted {
                record.stuck.get_or_insert_with(Instant::now);
            }
            record.rest();
        }
        match self.credentials.failure(&record) {
            Failure::Refused { words, remedy, .. } if interrupted => Failure::Rotation { words, remedy },
            failure => failure,
        }
    }

    /// The current password without the white space around it, if it has any and this was not tried yet. For the
    /// diagnosis alone, never to serve a client: the file must hold the exact password.
    pub fn trimmed(&self) -> Option<Credential> {
        let current = self.current();
        let password = Secret::new(trimmed(current.password.expose()).to_vec());
        let is_known =
            self.auth_state.record.lock().diagnosis.as_ref().is_some_and(|(known, _)| *known == current);
        let is_tried = self.tried.iter().any(|tried| *tried.password == password);
        let is_worth_it = !is_known && !is_tried && !password.expose().is_empty();
        is_worth_it.then(|| Credential { username: current.username.clone(), password: Arc::new(password) })
    }

    /// Records whether [`Self::trimmed`] was accepted.
    pub fn diagnosed(&self, works: bool) {
        self.auth_state.record.lock().diagnosis = Some((self.current(), works));
    }
}

impl Drop for Login<'_> {
    /// A connection that ends without a result, because its client has left, say, lets the next one retry at once.
    fn drop(&mut self) {
        if self.round.is_some() {
            self.auth_state.record.lock().backoff_until = None;
        }
    }
}

impl fmt::Debug for Login<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("tried", &self.tried.len()).finish_non_exhaustive()
    }
}

/// Characters of a user name shown at most.
const LONGEST_USER: usize = 64;

/// A user name for remedies.
fn shown_user(user: &Secret) -> String {
    text::one_line(user.expose()).chars().take(LONGEST_USER).collect()
}

/// Some editors write it at the beginning of UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A password without the white space and the quotation marks around it.
fn trimmed(password: &[u8]) -> &[u8] {
    let password = password.strip_prefix(BYTE_ORDER_MARK).unwrap_or(password).trim_ascii();
    let quoted = |mark: &[u8]| password.strip_prefix(mark)?.strip_suffix(mark);
    quoted(b"\"").or_else(|| quoted(b"'")).unwrap_or(password)
}

/// What a password looks like, for who wonders whether it is the one that was meant; no byte of it.
fn looks(password: &Secret, is_of_url: bool, has_user: bool) -> String {
    let bytes = password.expose();
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let is_escaped =
        bytes.windows(3).any(|three| three[0] == b'%' && is_hex(three.get(1)) && is_hex(three.get(2)));
    let kind = if matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) || bytes.contains(&0) {
        " that look like UTF-16, where Redis compares UTF-8"
    } else if is_text_in_base64(bytes) {
        " that look like base64, which is not decoded"
    } else if is_path(bytes) {
        " that look like a path, and the path of a file goes into AUTH_FILE"
    } else if is_of_url {
        " once each %XX of the URL is decoded: a % itself is written %25"
    } else if is_escaped {
        " with a %XX, which is decoded in a URL alone"
    } else if bytes.contains(&b':') && !has_user {
        " with a colon, and a user in front of one goes into USERNAME"
    } else if !bytes.is_ascii() {
        " with characters beyond ASCII"
    } else if bytes.trim_ascii().iter().any(u8::is_ascii_whitespace) {
        " with white space in their midst"
    } else {
        ""
    };
    let unit = if bytes.len() == 1 { "byte" } else { "bytes" };
    format!(" (it gives {} {unit}{kind})", bytes.len())
}

/// Whether these are at least eight characters of base64, in either alphabet, that stand for printable text. Random ones
/// stand for random bytes.
fn is_text_in_base64(bytes: &[u8]) -> bool {
    let digits = bytes.strip_suffix(b"==").or_else(|| bytes.strip_suffix(b"=")).unwrap_or(bytes);
    if bytes.len() < 8 || digits.len() % 4 == 1 {
        return false;
    }
    let (mut bits, mut width) = (0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return false,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        width += 6;
        if width >= 8 {
            width -= 8;
            let byte = (bits >> width) & 0xff;
            // Of a line that `echo` wrote.
            if !matches!(byte, 0x20..=0x7e | 0x0a) {
                return false;
            }
        }
    }
    true
}

/// The length of a password and the white space or quotes around it; `None` if there are none.
fn surroundings(password: &Secret) -> Option<String> {
    let bytes = password.expose();
    let is_quoted = bytes.len() > 1 && bytes.first() == bytes.last();
    let name = |byte: Option<&u8>| match byte {
        Some(b'\n') => Some("a newline"),
        Some(b'\r') => Some("a carriage return"),
        Some(b' ') => Some("a space"),
        Some(b'\t') => Some("a tab"),
        Some(b'"' | b'\'') if is_quoted => Some("a quotation mark"),
        Some(byte) if byte.is_ascii_whitespace() => Some("white space"),
        _ => None,
    };
    let begins =
        if bytes.starts_with(BYTE_ORDER_MARK) { Some("a byte-order mark") } else { name(bytes.first()) };
    let mut shown = format!("{} bytes", bytes.len());
    for (how, what) in [("begins", begins), ("ends", name(bytes.last()))] {
        if let Some(what) = what {
            shown = format!("{shown}, {how} with {what}");
        }
    }
    (begins.is_some() || name(bytes.last()).is_some()).then_some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::link::Memory;
    use crate::metrics::Metrics;
    use crate::secret::{OptionalSecretFile, SecretFile};

    #[test]
    fn what_a_password_looks_like_is_told_without_it() {
        for (password, shown) in [
            (&b"hunter2"[..], "7 bytes)"),
            (b"\xff\xfeh\0u\0", "6 bytes that look like UTF-16, where Redis compares UTF-8)"),
            (b"aHVudGVyMg==", "12 bytes that look like base64, which is not decoded)"),
            (b"aHVudGVyMjI", "11 bytes that look like base64, which is not decoded)"),
            (b"aHVudGVyMgo=", "12 bytes that look like base64, which is not decoded)"),
            // What stands for other bytes is random, and a password like any other; the next is no base64 at all.
            (b"mEFBVTnQ5Z1p2A==", "16 bytes)"),
            (b"aHVudGVyM", "9 bytes)"),
            (
                b"/run/secrets/redis",
                "18 bytes that look like a path, and the path of a file goes into AUTH_FILE)",
            ),
            (b"/run+secrets/redis", "18 bytes)"),
            (b"app:hunter2", "11 bytes with a colon, and a user in front of one goes into USERNAME)"),
            (b"hun%74er2", "9 bytes with a %XX, which is decoded in a URL alone)"),
            ("h\u{fc}nter".as_bytes(), "7 bytes with characters beyond ASCII)"),
            (b"hun ter", "7 bytes with white space in their midst)"),
            (b"x", "1 byte)"),
            (b"hunter\n", "7 bytes)"),
            (b"100%sure", "8 bytes)"),
        ] {
            assert_eq!(looks(&Secret::new(password.to_vec()), false, false), format!(" (it gives {shown}"));
        }
        let hunter = Secret::new(b"app:hunt%41".to_vec());
        let shown = " (it gives 11 bytes once each %XX of the URL is decoded: a % itself is written %25)";
        assert_eq!(looks(&hunter, true, false), shown);
        let hunter = Secret::new(b"app:hunter2".to_vec());
        assert_eq!(looks(&hunter, false, true), " (it gives 11 bytes)");
    }

    #[test]
    fn what_is_around_a_password_is_told_without_it() {
        for (password, shown) in [
            (&b"hunter2\n"[..], Some("8 bytes, ends with a newline")),
            (b" hunter2\t", Some("9 bytes, begins with a space, ends with a tab")),
            (b"\xef\xbb\xbfhunter2", Some("10 bytes, begins with a byte-order mark")),
            (b"\"hunter2\"", Some("9 bytes, begins with a quotation mark, ends with a quotation mark")),
            (b"'hunter2", None),
            (b"hunter2", None),
            (b"hun ter2", None),
        ] {
            assert_eq!(surroundings(&Secret::new(password.to_vec())).as_deref(), shown);
        }
    }

    /// Credentials from a file that holds "the first".
    fn credentials(path: &std::path::Path) -> Credentials {
        std::fs::write(path, "the first").expect("a file");
        Credentials {
            link: "redis:6379".to_owned(),
            username: None,
            password: Source::File(SecretFile::open(path.to_owned()).expect("a password")),
            previous: None,
            variable: "REDIS_AUTH_FILE".to_owned(),
            username_variable: "REDIS_USERNAME".to_owned(),
            previous_variable: "REDIS_AUTH_PREVIOUS_FILE".to_owned(),
            memory: Memory::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotation_that_is_never_finished_is_a_mistake_in_the_end() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let credentials = credentials(&directory.path().join("password"));
        let (auth_state, metrics) = (AuthState::default(), Metrics::new().link("redis:6379"));
        let mut login = credentials.login(&auth_state, &metrics).await.expect("something to offer");
        assert!(login.next().await.is_some() && login.served().is_some());
        let refused = async || {
            let mut login = credentials.login(&auth_state, &metrics).await.expect("something to offer");
            while login.next().await.is_some() {
                login.refused("WRONGPASS".to_owned()).await;
            }
            login.failed(false)
        };
        assert!(matches!(refused().await, Failure::Rotation { .. }));
        tokio::time::sleep(LONGEST_HOLD.mul_f64(0.9)).await;
        assert!(matches!(refused().await, Failure::Rotation { .. }));
        tokio::time::sleep(LONGEST_HOLD.mul_f64(0.2)).await;
        assert!(matches!(refused().await, Failure::Refused { stage: Stage::Auth, .. }));
    }

    /// Two connections show the new password while the server changes: the first is refused, and the second one accepted before
    /// the first has told its client. A third one, which began with the old password, finds that refused.
    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_an_acceptance_overtakes_is_a_rotation() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("password");
        let credentials = credentials(&path);
        let (auth_state, metrics) = (AuthState::default(), Metrics::new().link("redis:6379"));
        let login = async || credentials.login(&auth_state, &metrics).await.expect("something to offer");
        let (mut early, mut other) = (login().await, login().await);
        assert!(early.next().await.is_some());
        std::fs::write(&path, "the second").expect("a file");
        let mut late = login().await;
        let second = late.next().await.expect("a password");
        assert_eq!(second.password.expose(), b"the second");
        assert_eq!(early.refused("WRONGPASS".to_owned()).await, Some(second));
        assert_eq!(early.refused("WRONGPASS".to_owned()).await, None);
        assert!(late.served().is_some());
        assert!(matches!(early.failed(false), Failure::Rotation { .. }));
        assert_eq!(other.next().await, None);
        assert!(matches!(other.failed(false), Failure::Rotation { .. }));
    }

    /// Each new token of a program is refused, while the previous password is accepted.
    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_forgotten_once_nobody_would_offer_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (current, previous) = (directory.path().join("current"), directory.path().join("previous"));
        std::fs::write(&previous, "serves").expect("a file");
        let previous = OptionalSecretFile::open(previous).expect("a password");
        let credentials = Credentials { previous: Some(previous), ..credentials(&current) };
        let (auth_state, metrics) = (AuthState::default(), Metrics::new().link("redis:6379"));
        let mut refusals = 0;
        for number in 0..10 {
            std::fs::write(&current, format!("token {number}")).expect("a file");
            tokio::time::sleep(HELD_LOOK).await;
            let mut login = credentials.login(&auth_state, &metrics).await.expect("something to offer");
            let mut offer = login.next().await;
            while offer.is_some_and(|offer| offer.password.expose() != b"serves") {
                refusals += 1;
                offer = login.refused("WRONGPASS".to_owned()).await;
            }
            assert!(login.served().is_some());
            assert_eq!(auth_state.record.lock().refused.len(), 1);
        }
        assert_eq!(refusals, 10);
    }

    #[test]
    fn refusals_are_offered_again_after_growing_pauses() {
        let mut record = Record::default();
        let pauses: Vec<_> = (0..20).map(|_| record.rest()).collect();
        assert_eq!(pauses[..4], [Duration::ZERO, Duration::ZERO, Duration::ZERO, BACKOFF.first]);
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&BACKOFF.longest));
        assert!(!record.begins_trial());
    }
}
