//! Signature version 4: a URL that is signed, and so is what it asks for.

use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use ring::{digest, hmac};
use zeroize::Zeroizing;

use super::keys::Keys;
use crate::cloud::{joined, parameters};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What a signature is good for.
pub struct Scope<'a> {
    pub service: &'a str,
    pub region: &'a str,
    pub host: &'a str,
    pub life: Duration,
}

/// The URL of a GET without its scheme, signed with the keys.
pub fn presigned(
    keys: &Keys,
    scope: &Scope<'_>,
    asked: &[(&str, &str)],
    now: SystemTime,
) -> Zeroizing<String> {
    // 2006-01-02T15:04:05Z without its marks.
    let time: String = humantime::format_rfc3339_seconds(now)
        .to_string()
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .collect();
    let day = time.split('T').next().unwrap_or_default();
    let region = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let credential = joined([&keys.id, "/", &region]);
    let life = scope.life.as_secs().to_string();
    let mut query = vec![
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", &credential),
        ("X-Amz-Date", &time),
        ("X-Amz-Expires", &life),
        ("X-Amz-SignedHeaders", "host"),
    ];
    query.extend(keys.token.as_ref().map(|token| ("X-Amz-Security-Token", token.as_str())));
    query.extend(asked);
    query.sort_unstable();
    let query = parameters(&query);
    let request = joined(["GET\n/\n", &query, "\nhost:", scope.host, "\n\nhost\n", &hash("")]);
    let to_sign = [ALGORITHM, &time, &region, &hash(&request)].join("\n");
    let secret = joined(["AWS4", &keys.secret]);
    let first = mac(secret.as_bytes(), day);
    let key =
        [scope.region, scope.service, "aws4_request"].iter().fold(first, |key, part| mac(key.as_ref(), part));
    let signature = Zeroizing::new(HEXLOWER.encode(mac(key.as_ref(), &to_sign).as_ref()));
    joined([scope.host, "/?", &query, "&X-Amz-Signature=", &signature])
}

fn hash(text: &str) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What botocore signs for the same requests at the same time; `fixtures/aws/record.py` has asked it.
    #[test]
    fn signatures_are_those_of_botocore() {
        let recorded = std::fs::read("fixtures/aws/signatures.json").expect("signatures");
        let recorded: Vec<serde_json::Value> = serde_json::from_slice(&recorded).expect("JSON");
        assert!(recorded.len() >= 5);
        for case in recorded {
            let text = |name: &str| case[name].as_str().unwrap_or_default();
            let keys = Keys {
                id: Zeroizing::new(text("id").to_owned()),
                secret: Zeroizing::new(text("secret").to_owned()),
                token: case["token"].as_str().map(|token| Zeroizing::new(token.to_owned())),
                ends: None,
            };
            let asked = case["parameters"].as_object().expect("parameters").iter();
            let asked: Vec<_> =
                asked.map(|(name, value)| (name.as_str(), value.as_str().expect("a value"))).collect();
            let life = Duration::from_secs(case["expires"].as_u64().expect("a life"));
            let scope = Scope { service: text("service"), region: text("region"), host: text("host"), life };
            let now = humantime::parse_rfc3339(text("time")).expect("a time");
            let ours = presigned(&keys, &scope, &asked, now);
            let sorted = |url: &str| {
                let (place, query) = url.split_once('?').expect("a query");
                let mut query: Vec<_> = query.split('&').map(str::to_owned).collect();
                query.sort_unstable();
                (place.to_owned(), query)
            };
            // Its order is that in which they were given; what is signed is sorted.
            assert_eq!(sorted(&ours), sorted(text("signed")), "{case}");
        }
    }
}
