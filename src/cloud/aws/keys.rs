//! The keys that AWS' requests are signed with, and where they are found, in the order of AWS' own libraries: the
//! environment, a web identity, profiles, a container's agent, the instance.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::sign::{Scope, presigned};
use super::{AGENT, between};
use crate::cloud::http::{FORM, Request, authority_of, shown};
use crate::cloud::ini::{Profiles, Sections};
use crate::cloud::json::Object;
use crate::cloud::{Context, Found, Tried, joined, not_set, parameters, read, read_if_there, set};

/// Roles that profiles lead to one after the other; more are a circle.
const MOST_ROLES: usize = 5;

/// How long a request to assume a role is good for.
const REQUEST_LIFE: Duration = Duration::from_mins(1);

/// How an assumed role's session is called where nothing else is said.
const SESSION: &str = "redis-ambassador";

/// What a request is signed with.
pub struct Keys {
    pub id: Zeroizing<String>,
    pub secret: Zeroizing<String>,
    /// The session's, for keys that end.
    pub token: Option<Zeroizing<String>>,
    pub ends: Option<SystemTime>,
}

/// The first keys that a source has; `region` is that of the cache.
pub async fn find(context: &Context, region: &str) -> Result<Keys, String> {
    let region = context.get("AWS_REGION").or_else(|| context.get("AWS_DEFAULT_REGION")).unwrap_or(region);
    let mut tried = Tried::default();
    if let Some(keys) = tried.look("environment", environment(context))? {
        return Ok(keys);
    }
    if let Some(keys) = tried.look("web identity", web_identity(context, region).await)? {
        return Ok(keys);
    }
    if let Some(keys) = tried.look("profile", profile(context, region).await)? {
        return Ok(keys);
    }
    if let Some(keys) = tried.look("container", container(context).await)? {
        return Ok(keys);
    }
    instance(context).await.map_err(|reason| tried.in_vain("instance metadata", &reason))
}

fn environment(context: &Context) -> Result<Found<Keys>, String> {
    let Some(id) = context.get("AWS_ACCESS_KEY_ID") else {
        return Ok(Found::Absent(not_set("AWS_ACCESS_KEY_ID")));
    };
    Ok(Found::Identity(Keys {
        id: owned(id),
        secret: owned(set(context, "AWS_SECRET_ACCESS_KEY")?),
        token: context.get("AWS_SESSION_TOKEN").map(owned),
        ends: None,
    }))
}

fn owned(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

async fn web_identity(context: &Context, region: &str) -> Result<Found<Keys>, String> {
    let Some(file) = context.get("AWS_WEB_IDENTITY_TOKEN_FILE") else {
        return Ok(Found::Absent(not_set("AWS_WEB_IDENTITY_TOKEN_FILE")));
    };
    let role = Role {
        arn: set(context, "AWS_ROLE_ARN")?,
        session: context.get("AWS_ROLE_SESSION_NAME").unwrap_or(SESSION),
        external_id: None,
    };
    role.by_web_identity(context, region, Path::new(file)).await.map(Found::Identity)
}

/// A role to assume.
#[derive(Clone, Copy)]
struct Role<'a> {
    arn: &'a str,
    session: &'a str,
    external_id: Option<&'a str>,
}

impl Role<'_> {
    /// By a token of somebody whom AWS trusts, such as Kubernetes.
    async fn by_web_identity(self, context: &Context, region: &str, file: &Path) -> Result<Keys, String> {
        let token = read(file).await?;
        let form = parameters(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", self.arn),
            ("RoleSessionName", self.session),
            ("WebIdentityToken", &token),
        ]);
        let url = security_token_service(context, region);
        let request = Request { method: "POST", url: &url, body: Some((FORM, form)), ..Request::default() };
        of_xml(&context.client.ask(&request).await?, &request)
    }

    /// By other keys.
    async fn by_keys(self, context: &Context, region: &str, keys: &Keys) -> Result<Keys, String> {
        let mut asked = vec![
            ("Action", "AssumeRole"),
            ("Version", "2011-06-15"),
            ("RoleArn", self.arn),
            ("RoleSessionName", self.session),
        ];
        asked.extend(self.external_id.map(|id| ("ExternalId", id)));
        let url = security_token_service(context, region);
        let host = authority_of(&url)?;
        let scheme = if url.starts_with("https") { "https" } else { "http" };
        if url.trim_end_matches('/') != format!("{scheme}://{host}") {
            return Err(format!(
                "{}: a request that is signed can't go to a path; set the URL without it",
                shown(&url)
            ));
        }
        let scope = Scope { service: "sts", region, host, life: REQUEST_LIFE };
        let signed = presigned(keys, &scope, &asked, SystemTime::now());
        let url = joined([scheme, "://", &signed]);
        let request = Request { url: &url, ..Request::default() };
        of_xml(&context.client.ask(&request).await?, &request)
    }
}

/// The region's own, as AWS' libraries have it by default.
fn security_token_service(context: &Context, region: &str) -> String {
    let set = context.get("AWS_ENDPOINT_URL_STS").or_else(|| context.get("AWS_ENDPOINT_URL"));
    let top = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    set.map_or_else(|| format!("https://sts.{region}.{top}"), str::to_owned)
}

fn of_xml(xml: &[u8], request: &Request<'_>) -> Result<Keys, String> {
    let element = |name| between(xml, name).ok_or_else(|| format!("its answer has no {name}"));
    let keys = || {
        Ok(Keys {
            id: owned(element("AccessKeyId")?),
            secret: owned(element("SecretAccessKey")?),
            token: Some(owned(element("SessionToken")?)),
            ends: Some(time(element("Expiration")?)?),
        })
    };
    keys().map_err(|reason: String| format!("{}: {reason}", request.shown()))
}

fn of_json(json: &[u8], request: &Request<'_>) -> Result<Keys, String> {
    let keys = || {
        let object = Object::parse(json)?;
        // An instance says so where its role can't be assumed.
        if let Some(code) = object.optional("Code")?.filter(|code| code.as_str() != "Success") {
            return Err(format!("it answered {}", request.masked(&code)));
        }
        Ok(Keys {
            id: object.text("AccessKeyId")?,
            secret: object.text("SecretAccessKey")?,
            token: object.optional("Token")?,
            ends: object.optional("Expiration")?.map(|end| time(&end)).transpose()?,
        })
    };
    keys().map_err(|reason: String| format!("{}: {reason}", request.shown()))
}

fn time(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text).map_err(|_| "Expiration in its answer is no time".to_owned())
}

/// A file of profiles, empty where there is none; and which one it is, or why there is none.
async fn profiles(
    context: &Context,
    kind: Sections,
    variable: &str,
    at_home: &str,
) -> Result<(Profiles, String), String> {
    let path = context.get(variable).map(PathBuf::from).or_else(|| context.variables.at_home(at_home));
    let Some(path) = path else { return Ok((Profiles::new(Zeroizing::default(), kind), not_set("HOME"))) };
    Ok(match read_if_there(&path).await? {
        Found::Identity(text) => (Profiles::new(text, kind), path.display().to_string()),
        Found::Absent(reason) => (Profiles::new(Zeroizing::default(), kind), reason),
    })
}

async fn profile(context: &Context, region: &str) -> Result<Found<Keys>, String> {
    let asked = context.get("AWS_PROFILE").or_else(|| context.get("AWS_DEFAULT_PROFILE"));
    let (credentials, first) =
        profiles(context, Sections::Bare, "AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials").await?;
    let (config, second) = profiles(context, Sections::Profile, "AWS_CONFIG_FILE", ".aws/config").await?;
    let value =
        |profile: &str, name: &str| credentials.value(profile, name).or_else(|| config.value(profile, name));
    let mut name = asked.unwrap_or("default");
    let mut roles = Vec::new();
    // From the profile to those that it names, until there are keys.
    let mut keys = loop {
        if !credentials.has(name) && !config.has(name) {
            let reason = format!("there is no {name} in {first}, nor in {second}");
            return if asked.is_none() && roles.is_empty() { Ok(Found::Absent(reason)) } else { Err(reason) };
        }
        let role = value(name, "role_arn").map(|arn| Role {
            arn,
            session: value(name, "role_session_name").unwrap_or(SESSION),
            external_id: value(name, "external_id"),
        });
        if let Some(role) = role.filter(|_| !roles.iter().any(|(known, _)| *known == name)) {
            if value(name, "mfa_serial").is_some() {
                return Err(format!("{name} wants a second factor, which nobody is there to give"));
            }
            if let Some(file) = value(name, "web_identity_token_file") {
                break role.by_web_identity(context, region, Path::new(file)).await?;
            }
            roles.push((name, role));
            if roles.len() > MOST_ROLES {
                return Err(format!("{name} leads in a circle of source_profile"));
            }
            match (value(name, "source_profile"), value(name, "credential_source")) {
                (Some(source), _) => name = source,
                (None, Some(source)) => break from(source, context).await?,
                (None, None) => {
                    return Err(format!(
                        "{name} has a role_arn, but neither source_profile nor credential_source"
                    ));
                }
            }
            continue;
        }
        if let Some(id) = value(name, "aws_access_key_id") {
            let secret = value(name, "aws_secret_access_key");
            let secret = secret.ok_or_else(|| format!("{name} has no aws_secret_access_key"))?;
            let token = value(name, "aws_session_token").map(owned);
            break Keys { id: owned(id), secret: owned(secret), token, ends: None };
        }
        let others = ["credential_process", "sso_session", "sso_start_url", "login_session"];
        if let Some(other) = others.into_iter().find(|other| value(name, other).is_some()) {
            return Err(format!("{name} has {other}, which is not supported; use AUTH_COMMAND"));
        }
        let reason = format!("{name} has no keys and no role in {first} or {second}");
        return if asked.is_none() && roles.is_empty() { Ok(Found::Absent(reason)) } else { Err(reason) };
    };
    while let Some((_, role)) = roles.pop() {
        keys = role.by_keys(context, region, &keys).await?;
    }
    Ok(Found::Identity(keys))
}

/// The `credential_source` of a profile.
async fn from(source: &str, context: &Context) -> Result<Keys, String> {
    let found = match source {
        "Environment" => environment(context)?,
        "EcsContainer" => container(context).await?,
        "Ec2InstanceMetadata" => Found::Identity(instance(context).await?),
        other => return Err(format!("the credential_source {other} is unknown")),
    };
    match found {
        Found::Identity(keys) => Ok(keys),
        Found::Absent(reason) => Err(format!("credential_source {source}: {reason}")),
    }
}

/// The agent of a container on ECS or EKS.
async fn container(context: &Context) -> Result<Found<Keys>, String> {
    const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
    const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    let (variable, url) = match (context.get(RELATIVE), context.get(FULL)) {
        (Some(path), _) => (RELATIVE, joined(["http://", AGENT, path])),
        (None, Some(url)) => (FULL, owned(url)),
        (None, None) => return Ok(Found::Absent(format!("neither {RELATIVE} nor {FULL} is set"))),
    };
    let token = match context.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => Some(read(Path::new(file)).await?),
        None => context.get("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(owned),
    };
    let headers: Vec<_> = token.iter().map(|token| ("Authorization", token.as_str())).collect();
    let request =
        Request { url: &url, headers: &headers, is_near: true, hides_path: true, ..Request::default() };
    let named = |reason| format!("{variable}: {reason}");
    let answer = context.client.ask(&request).await.map_err(named)?;
    of_json(&answer, &request).map(Found::Identity).map_err(named)
}

/// The metadata service of an instance, version 2.
async fn instance(context: &Context) -> Result<Keys, String> {
    const PATH: &str = "/latest/meta-data/iam/security-credentials/";
    const SECONDS: &str = "300";
    if context.get("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err("AWS_EC2_METADATA_DISABLED says that there is none".to_owned());
    }
    let is_ipv6 = context
        .get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
        .is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
    let default = if is_ipv6 { "http://[fd00:ec2::254]" } else { "http://169.254.169.254" };
    let base = context.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(default).trim_end_matches('/');
    let url = format!("{base}/latest/api/token");
    let headers = [("X-aws-ec2-metadata-token-ttl-seconds", SECONDS)];
    let request = Request {
        method: "PUT",
        url: &url,
        headers: &headers,
        is_near: true,
        is_metadata: true,
        ..Request::default()
    };
    let token = line(&context.client.ask(&request).await?)
        .ok_or_else(|| format!("{}: it gave no token", request.shown()))?;
    let headers = [("X-aws-ec2-metadata-token", token.as_str())];
    let url = format!("{base}{PATH}");
    let request =
        Request { url: &url, headers: &headers, is_near: true, is_metadata: true, ..Request::default() };
    let roles = context.client.ask(&request).await?;
    let role =
        line(&roles).ok_or_else(|| format!("{}: it named no role of the instance", request.shown()))?;
    let url = format!("{url}{}", *role);
    let request =
        Request { url: &url, headers: &headers, is_near: true, is_metadata: true, ..Request::default() };
    let answer = context.client.ask(&request).await?;
    of_json(&answer, &request)
}

/// The first line of an answer that is a word, as it goes into a header or a path.
fn line(answer: &[u8]) -> Option<Zeroizing<String>> {
    let line = answer.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let is_word = !line.is_empty() && line.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'<');
    is_word.then(|| std::str::from_utf8(line).ok().map(owned)).flatten()
}
