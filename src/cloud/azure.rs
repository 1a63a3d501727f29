//! Azure: tokens of Microsoft Entra for Redis, from where Azure's own libraries take them: a client's secret, a
//! workload's federated token, a managed identity.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::http::{FORM, Request};
use super::json::Object;
use super::{Context, Found, Tried, jwt, not_set, parameters, read, set, until};
use crate::secret::Secret;
use crate::secret::tokens::Token;

/// What the tokens are for.
const RESOURCE: &str = "https://redis.azure.com";
const SCOPE: &str = "https://redis.azure.com/.default";

pub const VARIABLES: &[&str] = &[
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IMDS_ENDPOINT",
];

pub struct Azure;

impl Azure {
    pub(super) async fn token(&self, context: &Context) -> Result<Token, String> {
        let mut tried = Tried::default();
        if let Some(token) = tried.look("client secret", client_secret(context).await)? {
            return Ok(token);
        }
        if let Some(token) = tried.look("workload identity", workload_identity(context).await)? {
            return Ok(token);
        }
        if let Some(token) = tried.look("managed identity of the service", of_service(context).await)? {
            return Ok(token);
        }
        of_instance(context).await.map_err(|reason| tried.in_vain("instance metadata", &reason))
    }
}

async fn client_secret(context: &Context) -> Result<Found<Token>, String> {
    let Some(secret) = context.get("AZURE_CLIENT_SECRET") else {
        return Ok(Found::Absent(not_set("AZURE_CLIENT_SECRET")));
    };
    of_authority(context, &[("client_secret", secret)]).await
}

async fn workload_identity(context: &Context) -> Result<Found<Token>, String> {
    let Some(file) = context.get("AZURE_FEDERATED_TOKEN_FILE") else {
        return Ok(Found::Absent(not_set("AZURE_FEDERATED_TOKEN_FILE")));
    };
    let assertion = read(Path::new(file)).await?;
    let kind = ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    of_authority(context, &[kind, ("client_assertion", &assertion)]).await
}

/// By what the client proves itself with.
async fn of_authority(context: &Context, proof: &[(&str, &str)]) -> Result<Found<Token>, String> {
    let host = context.get("AZURE_AUTHORITY_HOST").unwrap_or("https://login.microsoftonline.com");
    let scheme = if host.contains("://") { "" } else { "https://" };
    let tenant = set(context, "AZURE_TENANT_ID")?;
    let url = format!("{scheme}{}/{tenant}/oauth2/v2.0/token", host.trim_end_matches('/'));
    let client = set(context, "AZURE_CLIENT_ID")?;
    let mut form = vec![("grant_type", "client_credentials"), ("client_id", client), ("scope", SCOPE)];
    form.extend(proof);
    let body = Some((FORM, parameters(&form)));
    let request = Request { method: "POST", url: &url, body, ..Request::default() };
    answered(context, &request).await.map(Found::Identity)
}

/// App Service, Functions, Container Apps.
async fn of_service(context: &Context) -> Result<Found<Token>, String> {
    let Some(endpoint) = context.get("IDENTITY_ENDPOINT") else {
        return Ok(Found::Absent(not_set("IDENTITY_ENDPOINT")));
    };
    let Some(header) = context.get("IDENTITY_HEADER") else {
        let is_arc = context.get("IMDS_ENDPOINT").is_some();
        let arc = if is_arc { "; Azure Arc is not supported, use AUTH_COMMAND" } else { "" };
        return Err(format!("{}{arc}", not_set("IDENTITY_HEADER")));
    };
    let url = with_resource(context, endpoint, "2019-08-01");
    let headers = [("X-IDENTITY-HEADER", header)];
    let request = Request { url: &url, headers: &headers, is_near: true, ..Request::default() };
    answered(context, &request).await.map(Found::Identity)
}

/// The metadata service of a virtual machine.
async fn of_instance(context: &Context) -> Result<Token, String> {
    let host = context.get("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or("http://169.254.169.254");
    let endpoint = format!("{}/metadata/identity/oauth2/token", host.trim_end_matches('/'));
    let url = with_resource(context, &endpoint, "2018-02-01");
    let request = Request {
        url: &url,
        headers: &[("Metadata", "true")],
        is_near: true,
        is_metadata: true,
        ..Request::default()
    };
    answered(context, &request).await
}

fn with_resource(context: &Context, endpoint: &str, version: &str) -> Zeroizing<String> {
    let mut asked = vec![("api-version", version), ("resource", RESOURCE)];
    asked.extend(context.get("AZURE_CLIENT_ID").map(|client| ("client_id", client)));
    super::joined([endpoint, "?", &parameters(&asked)])
}

async fn answered(context: &Context, request: &Request<'_>) -> Result<Token, String> {
    let answer = context.client.ask(request).await?;
    token(&answer).map_err(|reason| format!("{}: {reason}", request.shown()))
}

fn token(answer: &[u8]) -> Result<Token, String> {
    let answer = Object::parse(answer)?;
    // Not all of them say how long, but then they say when.
    let lives = if let Ok(seconds) = answer.number("expires_in") {
        Duration::from_secs(seconds)
    } else {
        let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(answer.number("expires_on")?));
        end.map(until).unwrap_or_default()
    };
    let token = answer.text("access_token")?;
    let user = jwt::claim(&token, "oid").map(|user| Arc::new(Secret::new(user.into_bytes())));
    super::token(&token, user, lives)
}
