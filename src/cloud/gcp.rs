//! Google: access tokens, from where its own libraries take them (Application Default Credentials): a file of
//! credentials, or the metadata server.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::http::{FORM, JSON, Request};
use super::json::Object;
use super::{Context, Found, Tried, joined, jwt, not_set, parameters, read, read_if_there, until};
use crate::secret::tokens::Token;

/// What the tokens are for: Memorystore has no narrower scope.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// How long a signed assertion is good for.
const ASSERTION_LIFE: Duration = Duration::from_hours(1);

pub const VARIABLES: &[&str] = &["GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "GCE_METADATA_HOST"];

pub struct Gcp;

impl Gcp {
    pub(super) async fn token(&self, context: &Context) -> Result<Token, String> {
        let mut tried = Tried::default();
        if let Some(token) = tried.look("GOOGLE_APPLICATION_CREDENTIALS", named(context).await)? {
            return Ok(token);
        }
        if let Some(token) = tried.look("gcloud's own file", of_gcloud(context).await)? {
            return Ok(token);
        }
        of_metadata(context).await.map_err(|reason| tried.in_vain("metadata server", &reason))
    }
}

async fn named(context: &Context) -> Result<Found<Token>, String> {
    match context.get("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(path) => {
            let path = Path::new(path);
            of_text(context, path, &read(path).await?).await.map(Found::Identity)
        }
        None => Ok(Found::Absent("it is not set".to_owned())),
    }
}

async fn of_gcloud(context: &Context) -> Result<Found<Token>, String> {
    const FILE: &str = "application_default_credentials.json";
    let directory = context.get("CLOUDSDK_CONFIG").map(PathBuf::from);
    let Some(directory) = directory.or_else(|| context.variables.at_home(".config/gcloud")) else {
        return Ok(Found::Absent(not_set("HOME")));
    };
    let path = directory.join(FILE);
    match read_if_there(&path).await? {
        Found::Identity(text) => of_text(context, &path, &text).await.map(Found::Identity),
        Found::Absent(reason) => Ok(Found::Absent(reason)),
    }
}

async fn of_metadata(context: &Context) -> Result<Token, String> {
    let host = context.get("GCE_METADATA_HOST").unwrap_or("metadata.google.internal");
    let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
    let headers = [("Metadata-Flavor", "Google")];
    let request =
        Request { url: &url, headers: &headers, is_near: true, is_metadata: true, ..Request::default() };
    answered(context, &request).await
}

/// By the text of a file of credentials.
async fn of_text(context: &Context, path: &Path, text: &str) -> Result<Token, String> {
    let of_file = |reason: String| format!("{}: {reason}", path.display());
    let file = Object::parse(text.as_bytes()).map_err(of_file)?;
    let kind = file.text("type").map_err(of_file)?;
    match kind.as_str() {
        "service_account" => {
            let (url, form) = service_account(&file).map_err(of_file)?;
            exchanged(context, &url, form).await
        }
        "authorized_user" => {
            let (url, form) = authorized_user(&file).map_err(of_file)?;
            exchanged(context, &url, form).await
        }
        "external_account" => external_account(context, &file).await.map_err(of_file),
        other => Err(of_file(format!("its type {other} is not supported; use AUTH_COMMAND"))),
    }
}

type Form = (Zeroizing<String>, Zeroizing<String>);

/// An assertion that is signed with the key in the file (RFC 7523).
fn service_account(file: &Object<'_>) -> Result<Form, String> {
    let (email, url) = (file.text("client_email")?, file.text("token_uri")?);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let claims = serde_json::json!({
        "iss": *email,
        "scope": SCOPE,
        "aud": *url,
        "iat": now.as_secs(),
        "exp": (now + ASSERTION_LIFE).as_secs(),
    });
    let mut header = serde_json::json!({ "alg": "RS256", "typ": "JWT" });
    if let Some(id) = file.optional("private_key_id")? {
        header["kid"] = (*id).clone().into();
    }
    let assertion = jwt::signed(&header.to_string(), &claims.to_string(), &file.text("private_key")?)?;
    let kind = ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
    Ok((url, parameters(&[kind, ("assertion", &assertion)])))
}

/// What `gcloud auth application-default login` leaves.
fn authorized_user(file: &Object<'_>) -> Result<Form, String> {
    let url = file
        .optional("token_uri")?
        .unwrap_or_else(|| Zeroizing::new("https://oauth2.googleapis.com/token".into()));
    let form = parameters(&[
        ("grant_type", "refresh_token"),
        ("client_id", &file.text("client_id")?),
        ("client_secret", &file.text("client_secret")?),
        ("refresh_token", &file.text("refresh_token")?),
    ]);
    Ok((url, form))
}

/// Workload identity federation: somebody else's token is exchanged for one of Google (RFC 8693), and that for one of a
/// service account, where the file names one.
async fn external_account(context: &Context, file: &Object<'_>) -> Result<Token, String> {
    let subject = subject(context, &file.object("credential_source")?).await?;
    let form = parameters(&[
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", &file.text("audience")?),
        ("scope", SCOPE),
        ("subject_token_type", &file.text("subject_token_type")?),
        ("subject_token", &subject),
    ]);
    let token = exchanged(context, &file.text("token_url")?, form).await?;
    let Some(url) = file.optional("service_account_impersonation_url")? else { return Ok(token) };
    let federated =
        std::str::from_utf8(token.secret.expose()).map_err(|_| "the token is not UTF-8".to_owned())?;
    let authorization = joined(["Bearer ", federated]);
    let body = Zeroizing::new(serde_json::json!({ "scope": [SCOPE] }).to_string());
    let request = Request {
        method: "POST",
        url: &url,
        headers: &[("Authorization", &authorization)],
        body: Some((JSON, body)),
        ..Request::default()
    };
    let answer = context.client.ask(&request).await?;
    let impersonated = || {
        let answer = Object::parse(&answer)?;
        let end = humantime::parse_rfc3339(&answer.text("expireTime")?);
        let end = end.map_err(|_| "expireTime in its JSON is no time".to_owned())?;
        super::token(&answer.text("accessToken")?, None, until(end))
    };
    impersonated().map_err(|reason: String| format!("{}: {reason}", request.shown()))
}

/// The token that is exchanged: in a file, or from a URL.
async fn subject(context: &Context, source: &Object<'_>) -> Result<Zeroizing<String>, String> {
    let (answer, shown) = if let Some(path) = source.optional("file")? {
        (Zeroizing::new(read(Path::new(path.as_str())).await?.as_bytes().to_vec()), path.to_string())
    } else if let Some(url) =
        source.optional("url")?.filter(|_| source.optional("environment_id") == Ok(None))
    {
        let fields = source.object("headers").ok();
        let fields = fields.as_ref().map(Object::texts).transpose()?.unwrap_or_default();
        let headers: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let request = Request { url: &url, headers: &headers, ..Request::default() };
        (context.client.ask(&request).await?, request.shown().to_owned())
    } else {
        return Err(
            "its credential_source has neither file nor url, and others are not supported; use AUTH_COMMAND"
                .into(),
        );
    };
    let token = || match source.object("format") {
        Ok(format) if format.text("type").is_ok_and(|kind| kind.as_str() == "json") => {
            Object::parse(&answer)?.text(&format.text("subject_token_field_name")?)
        }
        _ => {
            let text = std::str::from_utf8(answer.trim_ascii()).map_err(|_| "it is not UTF-8".to_owned())?;
            Ok(Zeroizing::new(text.to_owned()))
        }
    };
    token().map_err(|reason: String| format!("{shown}: {reason}"))
}

/// A form for a token.
async fn exchanged(context: &Context, url: &str, form: Zeroizing<String>) -> Result<Token, String> {
    let body = Some((FORM, form));
    answered(context, &Request { method: "POST", url, body, ..Request::default() }).await
}

async fn answered(context: &Context, request: &Request<'_>) -> Result<Token, String> {
    let answer = context.client.ask(request).await?;
    let token = || {
        let answer = Object::parse(&answer)?;
        let lives = Duration::from_secs(answer.number("expires_in")?);
        super::token(&answer.text("access_token")?, None, lives)
    };
    token().map_err(|reason: String| format!("{}: {reason}", request.shown()))
}
