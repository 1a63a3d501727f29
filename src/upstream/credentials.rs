//! What a Redis link authenticates with, and what becomes of it while passwords are rotated.
//!
//! A rotation changes two things, the server and the file, one after the other, and nobody waits for us in between. So
//! a refused password is no end: on the same connection a [`Login`] offers, each once, what the file holds *now*, what
//! `AUTH_PREVIOUS_FILE` holds, and what worked last. If none of them serves though one has served before, a rotation is
//! under way whose other half is still to come, and [`Failure::Rotation`] has the dial wait for it.
//!
//! What a server said to our passwords is its [`AuthState`], which all connections share: what is known to be refused
//! is not offered again by each of them, but by one after growing pauses, or when there is something new to offer. A
//! server's log is no dumping ground, and some lock an account that is refused too often.

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
use crate::secret::{FileError, Secret, Source, Unavailable};
use crate::text;

/// So many rounds of refusals cost no pause: two changes that cross each other, or a slip that is mended at once.
const FREE_ROUNDS: u32 = 3;
/// Before what was refused is offered again: at the longest enough for any server's log, and short enough for whoever
/// mends the server and tries again.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(10) };

/// One connection that offers again has the server for itself for so long, if it does not come to an end before.
const TRIAL: Duration = Duration::from_secs(1);

/// How long clients are held for the other half of a rotation. Kubernetes takes a minute or two to bring a Secret into a
/// pod, a person with two windows longer; what lasts for more is a broken configuration, and told at once.
const LONGEST_HOLD: Duration = Duration::from_mins(10);

/// How old a look at a file may be for those who are held: thousands of them are no more work than one.
const HELD_LOOK: Duration = Duration::from_millis(20);

impl Credential {
    /// The command that authenticates with it.
    pub fn command(&self) -> Vec<&[u8]> {
        auth(self.username.as_ref().map(|username| username.expose()), self.password.expose())
    }
}

/// The user that AUTH means where it names none.
const DEFAULT_USER: &[u8] = b"default";

/// The command that authenticates. The default user is not named: servers before 6.0 know no users, and one that wants no
/// password says so to a password alone, but takes anything of this user.
pub fn auth<'a>(username: Option<&'a [u8]>, password: &'a [u8]) -> Vec<&'a [u8]> {
    let username = username.filter(|username| *username != DEFAULT_USER);
    [Some(&b"AUTH"[..]), username, Some(password)].into_iter().flatten().collect()
}

/// What one server has said to our passwords.
#[derive(Debug, Default)]
pub struct AuthState {
    record: Mutex<Record>,
    /// Held by the one connection that offers what did not work last.
    trial: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct Record {
    /// What worked last here.
    good: Option<Arc<Credential>>,
    /// What was refused since.
    refused: Vec<Arc<Credential>>,
    /// The server's words to that.
    words: String,
    /// Rounds of offers that met with a refusal, in a row.
    rounds: u32,
    /// When what was refused may be offered again.
    backoff_until: Option<Instant>,
    /// Since when a rotation has been under way.
    rotation: Option<Instant>,
    /// Since when nothing that there is has served.
    stuck: Option<Instant>,
    /// A refused credential that was tried without the white space around its password, and whether that worked.
    diagnosis: Option<(Arc<Credential>, bool)>,
}

impl Record {
    fn is_refused(&self, credential: &Credential) -> bool {
        self.refused.iter().any(|refused| **refused == *credential)
    }

    /// Nothing that was refused is offered for a while, a longer one each time.
    fn rest(&mut self) -> Duration {
        self.rounds = self.rounds.saturating_add(1);
        let pause = BACKOFF.wait(self.rounds.saturating_sub(FREE_ROUNDS));
        self.backoff_until = Some(Instant::now() + pause);
        pause
    }

    /// Whether what was refused may be offered again; whoever is told so has a moment to do it.
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
    /// Begins what a program needs to begin with, before the first client comes.
    pub fn start(&self) {
        if let Source::Command(command) = &self.password {
            command.start();
        }
    }

    /// What to offer to a server, as of now; a failure if all of that has been refused already and it is not time yet
    /// to offer it again.
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
        // What worked last works on, mostly; only else it matters what there is besides.
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

    /// Looks the sources up again. What can't be had now is told of by its source, and leaves what was had last.
    pub async fn look(&self, metrics: &LinkMetrics) {
        let _ = self.current(Duration::ZERO, metrics).await;
    }

    /// What the sources gave last, without looking again.
    pub fn last(&self) -> Option<Arc<Credential>> {
        let username = self.username.as_ref().and_then(Source::last);
        self.password.last().map(|password| Arc::new(Credential { username, password }))
    }

    /// The failure of a password that did not come in time.
    pub fn late(&self, after: Duration) -> Failure {
        let reason = format!("it has not come within {}", humantime::format_duration(after));
        Failure::Secret(match &self.password {
            Source::Command(command) => command.error(reason).into(),
            Source::File(file) => FileError::unreadable(file.path(), reason).into(),
            Source::Variable(_) | Source::Url(_) => {
                FileError::unreadable(std::path::Path::new(&self.variable), reason).into()
            }
        })
    }

    /// Whether another password may come without a restart.
    fn can_change(&self) -> bool {
        self.password.can_change()
            || self.previous.is_some()
            || self.username.as_ref().is_some_and(Source::can_change)
    }

    /// What it comes to when nothing that there is serves.
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
            Some(hint) => format!(
                "take away what is around it: what {variable} gives is {hint}, and without that it works"
            ),
            None => self.other_causes(&words, is_held),
        };
        let pause =
            record.backoff_until.map(|until| until.saturating_duration_since(Instant::now()).as_secs());
        let remedy = match pause {
            Some(seconds @ 1..) => {
                format!("{remedy} (it is not tried again for {seconds}s, unless it changes)")
            }
            _ => remedy,
        };
        if is_held {
            Failure::Rotation { words, remedy }
        } else {
            Failure::Refused { stage: Stage::Auth, what: REFUSED, words, remedy }
        }
    }

    /// What to do about a refusal that may have several causes. A server with users says the same of all of them; one
    /// without, before Redis 6, can only mean the password.
    fn other_causes(&self, words: &str, is_held: bool) -> String {
        let Self { variable, username_variable, .. } = self;
        let knows_users = words.starts_with("WRONGPASS");
        let user = self.username.as_ref().and_then(Source::last).map(|user| shown_user(&user));
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
        let password = format!("check {variable}: is it this target's password, and complete?");
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

    /// Whether the sources had this the last time that somebody looked.
    fn is_last(&self, credential: &Credential) -> bool {
        self.last().is_some_and(|last| *last == *credential)
    }

    /// What is around the password that may not be meant, such as `33 bytes, ends with a newline`.
    pub fn surroundings(&self) -> Option<String> {
        surroundings(self.password.last()?.as_ref())
    }
}

/// One connection's offers to a server.
pub struct Login<'a> {
    credentials: &'a Credentials,
    auth_state: &'a AuthState,
    metrics: &'a LinkMetrics,
    /// What there is, in the order of preference: first the current credential.
    offers: Vec<(CredentialKind, Arc<Credential>)>,
    /// What this connection has offered.
    tried: Vec<Arc<Credential>>,
    /// What was refused before may be offered again as long as nobody has since: the number of rounds at the beginning.
    round: Option<u32>,
    /// Whether the current password was looked up again.
    is_renewed: bool,
    trial: Option<AsyncMutexGuard<'a, ()>>,
}

impl Login<'_> {
    /// What to offer next; `None` if all of it was refused, to this connection or another one.
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
                // What worked last everybody may offer, and anything where nothing is known. Else it is one after the
                // other, and whoever has waited looks again.
                let everybody_may = match &record.good {
                    Some(good) => good == offer && !record.is_refused(offer),
                    None => record.refused.is_empty(),
                };
                if everybody_may {
                    self.trial = None;
                }
                if everybody_may || self.trial.is_some() {
                    let offer = Arc::clone(offer);
                    self.tried.push(Arc::clone(&offer));
                    return Some(offer);
                }
            }
            self.trial = Some(auth_state.trial.lock().await);
            self.add_good();
        }
    }

    /// The server refused what was offered last, in these words. Returns what to offer instead, if there is anything.
    pub async fn refused(&mut self, words: String) -> Option<Arc<Credential>> {
        let refused = Arc::clone(self.tried.last()?);
        {
            let mut record = self.auth_state.record.lock();
            record.words = words;
            if record.good.as_ref() == Some(&refused) && !record.is_refused(&refused) {
                // The server has changed: what it refused before may be right by now.
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
        // Not where this connection had only begun before the password was changed.
        if self.credentials.is_last(&refused) && self.has_ever_worked() {
            self.begin_rotation(&mut self.auth_state.record.lock(), "new_password_refused");
        }
        self.next().await
    }

    fn has_ever_worked(&self) -> bool {
        self.auth_state.record.lock().good.is_some() || self.credentials.memory.good.lock().is_some()
    }

    /// Looks the current password up once more: it may have changed since, and have been the reason.
    async fn renew(&mut self) {
        if std::mem::replace(&mut self.is_renewed, true) {
            return;
        }
        let current = self.current();
        // One that can't be had now is no worse than the one that was refused.
        if self.credentials.password.instead_of(&current.password).await.is_ok()
            && let Ok(renewed) = self.credentials.current(Duration::ZERO, self.metrics).await
            && renewed != current
        {
            self.offers.insert(0, (CredentialKind::Current, renewed));
        }
    }

    /// The current credential, as this connection knows it.
    fn current(&self) -> Arc<Credential> {
        Arc::clone(&self.offers[0].1)
    }

    /// What there is besides the current password; a look at a file that is at most so old will do.
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
        // A server that is new to us, after a failover say, knows what another one knew.
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

    /// Where what was offered last came from.
    pub fn offered(&self) -> Option<CredentialKind> {
        let credential = self.tried.last()?;
        self.offers.iter().find(|(_, offer)| offer == credential).map(|(which, _)| *which)
    }

    /// The server took what was offered last; returns where that came from.
    pub fn served(mut self) -> Option<CredentialKind> {
        self.round = None;
        let credential = Arc::clone(self.tried.last()?);
        let which = self.offered()?;
        let mut record = self.auth_state.record.lock();
        // Another connection may know better by now than this one did when it began.
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

    /// Of what was refused, what nobody would offer any more need not be remembered: a program's tokens are many.
    fn forget_the_rest(&self, record: &mut Record) {
        let Record { refused, good, .. } = record;
        let is_offered = |refused: &Arc<Credential>| self.offers.iter().any(|(_, offer)| offer == refused);
        refused.retain(|refused| {
            good.as_ref() == Some(refused) || is_offered(refused) || self.credentials.is_last(refused)
        });
    }

    /// Everything was refused; or, where `interrupted`, the connection ended before everything was offered.
    pub fn failed(mut self, interrupted: bool) -> Failure {
        self.round = None;
        let mut record = self.auth_state.record.lock();
        let mut is_more = interrupted;
        if !self.tried.is_empty() {
            let Record { refused, good, .. } = &mut *record;
            // Also what the server refused before it changed: another connection finds out when it is time. But not
            // what has served another one since.
            for tried in &self.tried {
                if !interrupted && !refused.contains(tried) && good.as_ref() != Some(tried) {
                    refused.push(Arc::clone(tried));
                }
            }
            self.forget_the_rest(&mut record);
            is_more |= record.good.as_ref().is_some_and(|good| !record.is_refused(good));
            if !is_more {
                record.stuck.get_or_insert_with(Instant::now);
            }
            record.rest();
        }
        match self.credentials.failure(&record) {
            Failure::Refused { words, remedy, .. } if is_more => Failure::Rotation { words, remedy },
            failure => failure,
        }
    }

    /// The current password without the white space around it, if it has any and that has not been tried yet. To find out
    /// what is wrong, and never to serve a client: what the file holds is not what was meant.
    pub fn trimmed(&self) -> Option<Credential> {
        let current = self.current();
        let password = Secret::new(trimmed(current.password.expose()).to_vec());
        let is_known =
            self.auth_state.record.lock().diagnosis.as_ref().is_some_and(|(known, _)| *known == current);
        let is_tried = self.tried.iter().any(|tried| *tried.password == password);
        let is_worth_it = !is_known && !is_tried && !password.expose().is_empty();
        is_worth_it.then(|| Credential { username: current.username.clone(), password: Arc::new(password) })
    }

    /// Whether that worked.
    pub fn diagnosed(&self, works: bool) {
        self.auth_state.record.lock().diagnosis = Some((self.current(), works));
    }
}

impl Drop for Login<'_> {
    /// Whoever ends without an answer, because its client has left, say, gives its turn to the next one.
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

/// The longest user that is shown in full.
const LONGEST_USER: usize = 64;

/// A user as remedies name it.
fn shown_user(user: &Secret) -> String {
    text::one_line(user.expose()).chars().take(LONGEST_USER).collect()
}

/// What editors put before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A password without the white space and the quotation marks around it.
fn trimmed(password: &[u8]) -> &[u8] {
    let password = password.strip_prefix(BYTE_ORDER_MARK).unwrap_or(password).trim_ascii();
    let quoted = |mark: &[u8]| password.strip_prefix(mark)?.strip_suffix(mark);
    quoted(b"\"").or_else(|| quoted(b"'")).unwrap_or(password)
}

/// The length of a password that begins or ends with what is hardly ever meant, and with what.
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

    /// Of a file that holds "the first".
    fn credentials(path: &std::path::Path) -> Credentials {
        std::fs::write(path, "the first").expect("a file");
        Credentials {
            link: "redis:6379".to_owned(),
            username: None,
            password: Source::File(SecretFile::open(path.to_owned()).expect("a password")),
            previous: None,
            variable: "REDIS_AUTH_FILE".to_owned(),
            username_variable: "REDIS_USERNAME".to_owned(),
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

    /// As where a program's tokens are refused, one after the other, and the previous password serves meanwhile.
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
