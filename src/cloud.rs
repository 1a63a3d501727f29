//! Tokens of clouds, from where each cloud's own libraries take them: variables, files, and services on the network. It
//! knows the variables of clouds, but no setting of ours.
//!
//! A [`Cloud`] is an [`Issuer`] of tokens: an identity is *found* in one of its sources, in the order of the cloud's own
//! libraries, and shown for a token. A source that is not set up is passed over; one that is, and fails, is an error: another
//! identity than the one that was meant would be refused where nobody looks. The error names every source that was
//! tried. What is secret passes through buffers of its own size, which are zeroed.

pub mod aws;
mod azure;
mod gcp;
mod http;
mod ini;
mod json;
mod jwt;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Mutex as Turn;
use tokio::time::timeout;
use zeroize::Zeroizing;

use self::aws::Aws;
use self::azure::Azure;
use self::gcp::Gcp;
use self::http::Client;
#[cfg(any(test, fuzzing))]
pub use self::http::Received;
#[cfg(any(test, fuzzing))]
pub use self::ini::{Profiles, Sections};
#[cfg(any(test, fuzzing))]
pub use self::json::Object;
use crate::files;
use crate::net::resolve::Resolver;
use crate::secret::tokens::{ISSUED_WITHIN, Issuer, Kind, Token};
use crate::secret::{LONGEST, Secret, Source};
use crate::text;

/// The longest file of an identity: tokens, keys and profiles have some kilobytes.
const LONGEST_FILE: u64 = 256 * 1024;

/// A token that ends sooner is of no use: it would hardly get to the server, and be asked for all the time.
const SHORTEST: Duration = Duration::from_secs(2);

/// The variables that the clouds' own libraries read.
pub const VARIABLES: &[&[&str]] = &[aws::VARIABLES, gcp::VARIABLES, azure::VARIABLES, &["HOME"]];

/// Their values.
#[derive(Default)]
pub struct Variables(BTreeMap<&'static str, Zeroizing<String>>);

impl Variables {
    /// Takes those that have a value.
    pub fn new(values: impl Iterator<Item = (&'static str, Zeroizing<String>)>) -> Self {
        Self(values.filter(|(_, value)| !value.is_empty()).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.as_str())
    }

    /// A file in the home directory.
    fn at_home(&self, path: &str) -> Option<PathBuf> {
        self.get("HOME").map(|home| Path::new(home).join(path))
    }
}

/// What a token is for.
pub enum Wanted {
    /// An AWS cache, and the user of it.
    Aws(aws::Cache, Arc<Source>),
    /// Google Memorystore.
    Gcp,
    /// Azure Managed Redis, Azure Cache for Redis.
    Azure,
}

/// A cloud whose tokens are passwords.
pub struct Cloud {
    provider: Provider,
    context: Context,
}

enum Provider {
    Aws(Aws),
    Gcp(Gcp),
    Azure(Azure),
}

/// What all providers need.
struct Context {
    variables: Variables,
    client: Client,
}

impl Cloud {
    /// The name of the `link` is for the log.
    pub fn new(wanted: Wanted, link: String, variables: Variables, resolver: Resolver) -> Self {
        let provider = match wanted {
            Wanted::Aws(cache, user) => Provider::Aws(Aws::new(cache, user, link)),
            Wanted::Gcp => Provider::Gcp(Gcp),
            Wanted::Azure => Provider::Azure(Azure),
        };
        Self { provider, context: Context { variables, client: Client::new(resolver) } }
    }
}

impl Issuer for Cloud {
    fn kind(&self) -> Kind {
        Kind::Provider
    }

    fn issue(&self) -> BoxFuture<'_, Result<Token, String>> {
        let issued = async {
            match &self.provider {
                Provider::Aws(aws) => aws.token(&self.context).await,
                Provider::Gcp(gcp) => gcp.token(&self.context).await,
                Provider::Azure(azure) => azure.token(&self.context).await,
            }
        };
        async {
            let Ok(token) = timeout(ISSUED_WITHIN, issued).await else {
                return Err(format!("no token within {}", humantime::format_duration(ISSUED_WITHIN)));
            };
            let token = token?;
            if token.lives < SHORTEST {
                let lives = humantime::format_duration(Duration::from_secs(token.lives.as_secs()));
                return Err(format!("the token that was issued ends in {lives}; are the clocks right?"));
            }
            Ok(token)
        }
        .boxed()
    }
}

/// What a source gave.
enum Found<T> {
    Identity(T),
    /// It is not set up, and why that is known.
    Absent(String),
}

/// The sources that were tried in vain.
#[derive(Default)]
struct Tried(Vec<String>);

impl Tried {
    /// What a source found; an error if it is set up, but failed.
    fn look<T>(&mut self, source: &str, found: Result<Found<T>, String>) -> Result<Option<T>, String> {
        match found {
            Ok(Found::Identity(identity)) => Ok(Some(identity)),
            Ok(Found::Absent(reason)) => {
                self.0.push(format!("{source}: {reason}"));
                Ok(None)
            }
            Err(reason) => Err(format!("{source}: {reason}")),
        }
    }

    /// The last source's failure, which may mean that this is another place.
    fn in_vain(mut self, source: &str, reason: &str) -> String {
        self.0.push(format!("{source}: {reason}"));
        format!("no identity was found; {}", self.0.join("; "))
    }
}

impl Context {
    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name)
    }
}

/// A token that came with its life.
fn token(secret: &str, user: Option<Arc<Secret>>, lives: Duration) -> Result<Token, String> {
    if secret.is_empty() || secret.len() > LONGEST {
        return Err(format!(
            "the token has {} bytes, of 1 to {LONGEST} that a Redis server takes",
            secret.len()
        ));
    }
    Ok(Token { secret: Arc::new(Secret::new(secret.as_bytes().to_vec())), user, lives })
}

/// How long it is until then.
fn until(end: SystemTime) -> Duration {
    end.duration_since(SystemTime::now()).unwrap_or_default()
}

/// The whole text of a file that is read for every token: it may be replaced. Without white space around it.
async fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    match read_if_there(path).await? {
        Found::Identity(text) => Ok(text),
        Found::Absent(reason) => Err(reason),
    }
}

/// Whose turn it is to read a file: one that hangs holds up one thread, however often it is asked for.
static TURNS: Mutex<BTreeMap<PathBuf, Arc<Turn<()>>>> = Mutex::new(BTreeMap::new());

fn turn(path: &Path) -> Arc<Turn<()>> {
    let mut turns = TURNS.lock();
    turns.retain(|_, turn| Arc::strong_count(turn) > 1);
    Arc::clone(turns.entry(path.to_owned()).or_default())
}

/// The same of a file that need not exist. Whether one does in a directory that is closed to us nobody can tell; clouds' own
/// libraries take it that it does not.
async fn read_if_there(path: &Path) -> Result<Found<Zeroizing<String>>, String> {
    let shown = path.display();
    let path = path.to_owned();
    let turn = turn(&path).lock_owned().await;
    let read = files::offload(move || {
        // It goes on until the read ends, though nobody may wait any more.
        let _turn = turn;
        if let Err(error) = std::fs::metadata(&path) {
            let reason = text::io_error(&error);
            return match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied => {
                    Ok(Found::Absent(reason))
                }
                _ => Err(reason),
            };
        }
        let file = files::open(&path)?;
        let length = file.metadata().map_err(|error| text::io_error(&error))?.len();
        if length > LONGEST_FILE {
            return Err(format!("it has more than {LONGEST_FILE} bytes"));
        }
        // One byte more, so that the buffer does not grow, which would leave a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1));
        file.take(length).read_to_end(&mut bytes).map_err(|error| text::io_error(&error))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        Ok(Found::Identity(Zeroizing::new(text.trim().to_owned())))
    });
    match read.await.unwrap_or_else(|| Err(files::NO_THREAD.to_owned())) {
        Ok(Found::Absent(reason)) => Ok(Found::Absent(format!("{shown}: {reason}"))),
        text => text.map_err(|reason| format!("{shown}: {reason}")),
    }
}

/// Parts as one text, in a buffer that is neither grown nor left behind.
fn joined<'a>(parts: impl IntoIterator<Item = &'a str, IntoIter: Clone>) -> Zeroizing<String> {
    let parts = parts.into_iter();
    let mut text = Zeroizing::new(String::with_capacity(parts.clone().map(str::len).sum()));
    parts.for_each(|part| text.push_str(part));
    text
}

/// What stands for itself in a URL (RFC 3986, 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Parameters of a URL, or of a form.
fn parameters(pairs: &[(&str, &str)]) -> Zeroizing<String> {
    let encoded = |text: &str| utf8_percent_encode(text, UNRESERVED).map(str::len).sum::<usize>();
    let length = pairs.iter().map(|(name, value)| encoded(name) + encoded(value) + 2).sum();
    let mut text = Zeroizing::new(String::with_capacity(length));
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(utf8_percent_encode(name, UNRESERVED));
        text.push('=');
        text.extend(utf8_percent_encode(value, UNRESERVED));
    }
    text
}

/// A value that is set, or the words that it is not.
fn set<'a>(context: &'a Context, name: &str) -> Result<&'a str, String> {
    context.get(name).ok_or_else(|| not_set(name))
}

fn not_set(name: impl Display) -> String {
    format!("{name} is not set")
}
