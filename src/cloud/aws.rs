//! AWS: signed requests to connect, which are the passwords of `ElastiCache` and `MemoryDB`, and the keys that sign them.

mod keys;
mod sign;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use self::keys::Keys;
use super::{Context, until};
use crate::secret::Source;
use crate::secret::tokens::Token;

/// How long a token is valid, the longest that the services take.
const LIFE: Duration = Duration::from_mins(15);

pub const VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_STS",
];

/// What a token is signed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// `elasticache` or `memorydb`.
    service: &'static str,
    /// The replication group, the serverless cache, the cluster.
    pub name: String,
    region: String,
    is_serverless: bool,
}

impl Cache {
    /// The cache whose endpoint has this name, as AWS gives them:
    ///
    /// - `master.GROUP.ID.euc1.cache.amazonaws.com`, also `replica.…`, `clustercfg.…` and a node's
    /// - `CACHE-ID.serverless.euc1.cache.amazonaws.com`
    /// - `clustercfg.CLUSTER.ID.memorydb.eu-central-1.amazonaws.com`, also a node's
    pub fn of(host: &str) -> Option<Self> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let host = host.strip_suffix(".cn").unwrap_or(&host).strip_suffix(".amazonaws.com")?;
        let labels: Vec<&str> = host.split('.').collect();
        let (service, name, region, is_serverless) = match labels[..] {
            [cache, "serverless", region, "cache"] => {
                ("elasticache", cache.rsplit_once('-')?.0, whole_region(region)?, true)
            }
            // The endpoint of a group without TLS, which knows no tokens, has a number in the place of the id.
            [_, group, id, region, "cache"] if !id.bytes().all(|byte| byte.is_ascii_digit()) => {
                ("elasticache", group, whole_region(region)?, false)
            }
            [_, cluster, _, "memorydb", region] => ("memorydb", cluster, region.to_owned(), false),
            _ => return None,
        };
        let is_name = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        (is_name(name) && is_name(&region)).then(|| Self {
            service,
            name: name.to_owned(),
            region,
            is_serverless,
        })
    }
}

/// The region of an abbreviation in the names of `ElastiCache`: `euc1` is `eu-central-1`.
fn whole_region(short: &str) -> Option<String> {
    const AREAS: &[&str] = &["us-gov", "us", "eu", "ap", "ca", "sa", "af", "me", "il", "mx", "cn"];
    const DIRECTIONS: &[(&str, &str)] = &[
        ("ne", "northeast"),
        ("nw", "northwest"),
        ("se", "southeast"),
        ("sw", "southwest"),
        ("n", "north"),
        ("e", "east"),
        ("s", "south"),
        ("w", "west"),
        ("c", "central"),
    ];
    AREAS.iter().find_map(|area| {
        let prefix = if *area == "us-gov" { "usg" } else { area };
        let rest = short.strip_prefix(prefix)?;
        let number = rest.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
        let direction = &rest[..rest.len() - number.len()];
        let (_, direction) = DIRECTIONS.iter().find(|(letters, _)| *letters == direction)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| format!("{area}-{direction}-{number}"))
    })
}

/// Signs for one cache.
pub struct Aws {
    cache: Cache,
    user: Arc<Source>,
    /// For the log.
    link: String,
    /// The last keys that end: while they last, a service that gives no new ones costs nothing.
    last: Mutex<Option<Arc<Keys>>>,
}

impl Aws {
    pub fn new(cache: Cache, user: Arc<Source>, link: String) -> Self {
        Self { cache, user, link, last: Mutex::default() }
    }

    pub(super) async fn token(&self, context: &Context) -> Result<Token, String> {
        let user = self.user.current().await.map_err(|error| error.to_string())?;
        let user = std::str::from_utf8(user.expose()).map_err(|_| "the user is not UTF-8".to_owned())?;
        let keys = self.keys(context).await?;
        let mut parameters = vec![("Action", "connect"), ("User", user)];
        if self.cache.is_serverless {
            parameters.push(("ResourceType", "ServerlessCache"));
        }
        let Cache { service, name, region, .. } = &self.cache;
        let scope = sign::Scope { service, region, host: name, life: LIFE };
        let signed = sign::presigned(&keys, &scope, &parameters, SystemTime::now());
        // A signature ends with the keys that it was made with.
        let lives = keys.ends.map_or(LIFE, |ends| LIFE.min(until(ends)));
        super::token(&signed, None, lives)
    }

    async fn keys(&self, context: &Context) -> Result<Arc<Keys>, String> {
        let found = keys::find(context, &self.cache.region).await;
        let mut last = self.last.lock();
        match found {
            Ok(keys) => {
                let keys = Arc::new(keys);
                *last = keys.ends.map(|_| Arc::clone(&keys));
                Ok(keys)
            }
            Err(reason) => {
                match last.as_ref().filter(|keys| keys.ends.is_some_and(|ends| until(ends) > LIFE)) {
                    Some(keys) => {
                        tracing::warn!(
                            target: "secret",
                            link = self.link,
                            cache = self.cache.name,
                            error = crate::text::one_line(reason.as_bytes()),
                            remedy = "mend it before they end: docs/credentials.md says from where keys are taken, under Cloud \
                                      tokens",
                            "no new keys from AWS; the last ones sign on"
                        );
                        Ok(Arc::clone(keys))
                    }
                    None => Err(reason),
                }
            }
        }
    }
}

/// What stands in an element of XML, as AWS' older services answer.
pub fn between<'a>(xml: &'a [u8], element: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(xml).ok()?;
    let (_, rest) = text.split_once(&format!("<{element}>"))?;
    Some(rest.split_once("</")?.0)
}

/// The agent that serves containers of ECS: an address of the host itself.
const AGENT: &str = "169.254.170.2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_known_by_the_names_of_their_endpoints() {
        let cache = |host: &str| Cache::of(host).map(|it| (it.service, it.name, it.region, it.is_serverless));
        let is = |service, name: &str, region: &str, is_serverless| {
            Some((service, name.to_owned(), region.to_owned(), is_serverless))
        };
        for (host, expected) in [
            (
                "master.my-group.abc123.euc1.cache.amazonaws.com",
                is("elasticache", "my-group", "eu-central-1", false),
            ),
            (
                "Clustercfg.g.abc123.apse2.cache.amazonaws.com.",
                is("elasticache", "g", "ap-southeast-2", false),
            ),
            ("g-0001-001.g.abc123.usgw1.cache.amazonaws.com", is("elasticache", "g", "us-gov-west-1", false)),
            ("master.g.abc123.cnn1.cache.amazonaws.com.cn", is("elasticache", "g", "cn-north-1", false)),
            ("my-c-abc123.serverless.use1.cache.amazonaws.com", is("elasticache", "my-c", "us-east-1", true)),
            ("clustercfg.c.abc123.memorydb.eu-west-3.amazonaws.com", is("memorydb", "c", "eu-west-3", false)),
            ("c-0001-001.c.abc123.memorydb.eu-west-3.amazonaws.com", is("memorydb", "c", "eu-west-3", false)),
            ("g.abc123.ng.0001.euc1.cache.amazonaws.com", None),
            ("g-001.abc123.0001.euc1.cache.amazonaws.com", None),
            ("master.g.abc123.xyz9.cache.amazonaws.com", None),
            ("noid.serverless.use1.cache.amazonaws.com", None),
            ("redis.example.com", None),
            ("", None),
        ] {
            assert_eq!(cache(host), expected, "{host}");
        }
    }
}
