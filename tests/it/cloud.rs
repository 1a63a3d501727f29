//! Tokens of clouds. Their metadata and token services are played on loopback; how it goes with the real ones can't be
//! seen here. That signatures are right is seen by botocore's (`src/cloud/aws/sign.rs`).

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use percent_encoding::percent_decode_str;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use ring::{digest, hmac};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::faults::hang;
use crate::support::{
    Ambassador, Asked, Authority, BlackHole, Launch, NameServer, RedisServer, Target, TlsPeer, TokenService,
    Workbench, another_user, answered, command_is_missing, eventually, leave_out, metric, own_address,
    password,
};

const LINK: &str = "redis:6379";
const GROUP: &str = "master.my-group.abc123.euc1.cache.amazonaws.com";

/// What the ambassador shows to a server: the user, if any, and the token.
fn shown(launch: Launch) -> (Option<String>, String) {
    let target = Target::start();
    let ambassador = launch.variable("REDIS_PORT_6379_TCP", format!("redis://{}", target.address())).start();
    let _client = ambassador.connect(LINK);
    let mut server = target.accept();
    let count: usize = server.expect_line().trim().trim_start_matches('*').parse().expect("a command");
    let mut words: Vec<String> = (0..count)
        .map(|_| {
            server.expect_line();
            server.expect_line().trim_end().to_owned()
        })
        .collect();
    assert_eq!(words.remove(0), "AUTH");
    let token = words.pop().expect("a token");
    (words.pop(), token)
}

/// Why no client is served.
#[track_caller]
fn refusal(launch: Launch) -> String {
    let target = Target::start();
    let ambassador = launch.variable("REDIS_PORT_6379_TCP", format!("redis://{}", target.address())).start();
    let words = ambassador.connect(LINK).expect_refusal(LINK);
    target.expect_no_connection(Duration::from_millis(1));
    assert!(words.contains("REDIS_AUTH_PROVIDER"), "{words}");
    words
}

fn provider(name: &str) -> Launch {
    Launch::redis("127.0.0.1:1")
        .variable("REDIS_AUTH_PROVIDER", name)
        // A machine under load is no reason to fail.
        .variable("REDIS_CONNECT_TIMEOUT", "15s")
}

fn write(directory: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).expect("a file");
    path
}

/// Keys of AWS.
struct Keys {
    id: String,
    secret: String,
    session: String,
}

impl Keys {
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), secret: password(), session: format!("{}/+==", password()) }
    }

    /// As agents and instances say them.
    fn json(&self) -> String {
        json!({
            "Code": "Success", "AccessKeyId": self.id, "SecretAccessKey": self.secret, "Token": self.session,
            "Expiration": "2036-01-01T00:00:00Z",
        })
        .to_string()
    }

    /// As the security token service says them.
    fn xml(&self) -> String {
        format!(
            "<R><Result><Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}\
             </SessionToken><Expiration>2036-01-01T00:00:00Z</Expiration></Credentials></Result></R>",
            self.id, self.secret, self.session
        )
    }

    /// Whether a token of the group was signed with them for a user.
    #[track_caller]
    fn expect_signed(&self, token: &str, user: &str) {
        let (query, signature) = token.rsplit_once("&X-Amz-Signature=").expect("a signature");
        let query = query.strip_prefix("my-group/?").expect("the group");
        let value = |name: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            percent_decode_str(pair.unwrap_or_default()).decode_utf8().expect("text").into_owned()
        };
        assert_eq!((value("Action"), value("User")), ("connect".to_owned(), user.to_owned()));
        assert_eq!(value("X-Amz-Security-Token"), self.session);
        assert_eq!(value("X-Amz-Expires"), "900");
        let credential = value("X-Amz-Credential");
        let scope =
            credential.strip_prefix(&format!("{}/", self.id)).unwrap_or_else(|| panic!("{credential}"));
        let request = format!("GET\n/\n{query}\nhost:my-group\n\nhost\n{}", hash(""));
        let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", value("X-Amz-Date"), hash(&request));
        let first = format!("AWS4{}", self.secret).into_bytes();
        let key = scope.split('/').fold(first, |key, part| mac(&key, part));
        assert_eq!(scope.split_once('/').expect("a day").1, "eu-central-1/elasticache/aws4_request");
        assert_eq!(HEXLOWER.encode(&mac(&key, &to_sign)), signature);
    }
}

fn hash(text: &str) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn aws() -> Launch {
    provider("aws-elasticache").variable("REDIS_USERNAME", "app").variable("REDIS_AUTH_ENDPOINT", GROUP)
}

/// An instance with a role whose name is `cache-role`.
fn instance(keys: &Keys) -> TokenService {
    let (json, session) = (keys.json(), password());
    TokenService::start(move |asked| match (&*asked.method, &*asked.path) {
        ("PUT", "/latest/api/token") if !asked.header("x-aws-ec2-metadata-token-ttl-seconds").is_empty() => {
            answered(200, &session)
        }
        ("GET", _) if asked.header("x-aws-ec2-metadata-token") != session => answered(401, ""),
        ("GET", "/latest/meta-data/iam/security-credentials/") => answered(200, "cache-role\n"),
        ("GET", "/latest/meta-data/iam/security-credentials/cache-role") => answered(200, &json),
        _ => answered(404, ""),
    })
}

/// Keys are found wherever AWS' own libraries find them, and a source before another one wins.
#[test]
fn aws_keys_come_from_wherever_its_own_libraries_find_them() {
    let home = TempDir::new().unwrap();
    let of_instance = Keys::new("AKIAINSTANCE");
    let metadata = instance(&of_instance);
    let launch = || {
        aws()
            .variable("HOME", home.path())
            .variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("{}/", metadata.url()))
    };
    let (user, token) = shown(launch());
    assert_eq!(user.as_deref(), Some("app"));
    of_instance.expect_signed(&token, "app");

    let of_container = Keys::new("AKIACONTAINER");
    let (json, secret) = (of_container.json(), password());
    let authorization = write(&home, "authorization", &format!("{secret}\n"));
    let agent = TokenService::start(move |asked| {
        if asked.header("authorization") != secret {
            return answered(403, "{\"message\":\"who are you?\"}");
        }
        // In chunks, as some agents do.
        let (first, rest) = json.split_at(5);
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked";
        format!("{head}\r\n\r\n5\r\n{first}\r\n{:x}\r\n{rest}\r\n0\r\n\r\n", rest.len()).into_bytes()
    });
    let with_container = || {
        launch()
            .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/role", agent.url()))
            .variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &authorization)
    };
    of_container.expect_signed(&shown(with_container()).1, "app");

    // A profile leads to keys by a role, and by the role of its source.
    let (of_profile, of_role) = (Keys::new("AKIAPROFILE"), Keys::new("ASIAROLE"));
    fs::create_dir(home.path().join(".aws")).unwrap();
    let credentials = format!(
        "[base]\naws_access_key_id = {}\n  nested = x\naws_secret_access_key={} # a comment\n\
         aws_session_token = {}\n",
        of_profile.id, of_profile.secret, of_profile.session
    );
    write(&home, ".aws/credentials", &credentials);
    write(
        &home,
        ".aws/config",
        "[profile cache]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\nexternal_id = x\n[default]\n",
    );
    of_profile.expect_signed(&shown(with_container().variable("AWS_PROFILE", "base")).1, "app");
    let xml = of_role.xml();
    let service = TokenService::start(move |_| answered(200, &xml));
    let with_service = || with_container().variable("AWS_ENDPOINT_URL_STS", service.url());
    of_role.expect_signed(&shown(with_service().variable("AWS_PROFILE", "cache")).1, "app");
    let asked = service.asked().pop().unwrap();
    assert_eq!((asked.parameter("Action"), asked.parameter("ExternalId")), (Some("AssumeRole"), Some("x")));
    assert!(asked.parameter("X-Amz-Credential").unwrap().starts_with("AKIAPROFILE"), "{}", asked.path);

    // A pod's own token is shown for a role.
    let token = password();
    let file = write(&home, "token", &token);
    let with_pod = || {
        with_service()
            .variable("AWS_PROFILE", "base")
            .variable("AWS_WEB_IDENTITY_TOKEN_FILE", &file)
            .variable("AWS_ROLE_ARN", "arn:aws:iam::1:role/pod")
    };
    of_role.expect_signed(&shown(with_pod()).1, "app");
    let asked = service.asked().pop().unwrap();
    assert_eq!((&*asked.method, asked.parameter("WebIdentityToken")), ("POST", Some(&*token)));
    assert_eq!(asked.parameter("RoleArn"), Some("arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fpod"));

    // Before all of them goes what is in the environment.
    let of_environment = Keys::new("AKIAENVIRONMENT");
    let launch = with_pod()
        .variable("AWS_ACCESS_KEY_ID", &of_environment.id)
        .variable("AWS_SECRET_ACCESS_KEY", &of_environment.secret)
        .variable("AWS_SESSION_TOKEN", &of_environment.session);
    of_environment.expect_signed(&shown(launch).1, "app");
}

/// An answer with a token, as Google and Azure give it.
fn token_answer(token: &str) -> String {
    json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" }).to_string()
}

/// The same as with AWS.
#[test]
fn google_tokens_come_from_wherever_its_own_libraries_find_them() {
    let home = TempDir::new().unwrap();
    let (of_metadata, of_file) = (password(), password());
    let answer = token_answer(&of_metadata);
    let metadata = TokenService::start(move |asked| match (asked.header("metadata-flavor"), &*asked.path) {
        ("Google", "/computeMetadata/v1/instance/service-accounts/default/token") => answered(200, &answer),
        _ => answered(403, ""),
    });
    let launch = || {
        provider("gcp")
            .variable("HOME", home.path())
            .variable("GCE_METADATA_HOST", metadata.address().to_string())
    };
    assert_eq!(shown(launch()), (None, of_metadata));

    let answer = token_answer(&of_file);
    let service = TokenService::start(move |_| answered(200, &answer));
    let named = |file: Value| {
        let file = write(&home, "file.json", &file.to_string());
        shown(launch().variable("GOOGLE_APPLICATION_CREDENTIALS", file))
    };
    let user = json!({
        "type": "authorized_user", "client_id": "id", "client_secret": password(), "refresh_token": password(),
        "token_uri": service.url(),
    });
    assert_eq!(named(user), (None, of_file.clone()));
    assert_eq!(service.asked().pop().unwrap().parameter("grant_type"), Some("refresh_token"));

    // A pod's or another cloud's token is exchanged, and what comes of it for a service account's.
    let (subject, impersonated) = (password(), password());
    let end = json!({ "accessToken": impersonated, "expireTime": "2036-01-01T00:00:00.5Z" }).to_string();
    let bearer = format!("Bearer {of_file}");
    let account = TokenService::start(move |asked| {
        if asked.header("authorization") == bearer { answered(200, &end) } else { answered(403, "") }
    });
    let subject_file = write(&home, "subject", &json!({ "id_token": subject }).to_string());
    let external = json!({
        "type": "external_account", "audience": "//iam.googleapis.com/pool", "token_url": service.url(),
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "credential_source": {
            "file": subject_file, "format": { "type": "json", "subject_token_field_name": "id_token" },
        },
        "service_account_impersonation_url": account.url(),
    });
    assert_eq!(named(external), (None, impersonated));
    let asked = service.asked().pop().unwrap();
    assert_eq!(asked.parameter("subject_token"), Some(&*subject));
    assert_eq!(asked.parameter("audience"), Some("%2F%2Fiam.googleapis.com%2Fpool"));

    if command_is_missing("openssl") {
        return leave_out("openssl is missing");
    }
    let bench = Workbench::new();
    bench.run("openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem");
    bench.run("openssl rsa -in key.pem -RSAPublicKey_out -outform DER -out key.der");
    let account = json!({
        "type": "service_account", "client_email": "app@example.com", "private_key_id": "7",
        "private_key": fs::read_to_string(bench.path("key.pem")).unwrap(), "token_uri": service.url(),
    });
    assert_eq!(named(account), (None, of_file));
    let asked = service.asked().pop().unwrap();
    let assertion = asked.parameter("assertion").unwrap();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let part = |index| BASE64URL_NOPAD.decode(signed.split('.').nth(index).unwrap().as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&part(1)).unwrap();
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("app@example.com"), &json!(service.url())));
    assert_eq!(serde_json::from_slice::<Value>(&part(0)).unwrap()["kid"], "7");
    let public = fs::read(bench.path("key.der")).unwrap();
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public);
    key.verify(signed.as_bytes(), &signature).expect("a signature");
}

/// The same as with AWS; and a token says whose it is.
#[test]
fn azure_tokens_come_from_wherever_its_own_libraries_find_them() {
    let home = TempDir::new().unwrap();
    let token = |user: &str| {
        let claims = BASE64URL_NOPAD.encode(json!({ "oid": user, "aud": "x" }).to_string().as_bytes());
        format!("e30.{claims}.{}", password())
    };
    let of_instance = token("of-instance");
    let answer = json!({ "access_token": of_instance, "expires_in": "86399", "expires_on": "1" }).to_string();
    let metadata = TokenService::start(move |asked| {
        let is_right = asked.header("metadata") == "true"
            && asked.path.starts_with("/metadata/identity/oauth2/token?api-version=2018-02-01&")
            && asked.parameter("resource") == Some("https%3A%2F%2Fredis.azure.com");
        if is_right { answered(200, &answer) } else { answered(400, "") }
    });
    let launch = || provider("azure").variable("AZURE_POD_IDENTITY_AUTHORITY_HOST", metadata.url());
    assert_eq!(shown(launch()), (Some("of-instance".to_owned()), of_instance.clone()));
    // One that is set wins, and an identity of several is named by its client.
    let launch = || launch().variable("AZURE_CLIENT_ID", "client");
    assert_eq!(shown(launch().variable("REDIS_USERNAME", "me")), (Some("me".to_owned()), of_instance));
    assert_eq!(metadata.asked().pop().unwrap().parameter("client_id"), Some("client"));

    let of_service = token("of-service");
    let (secret, answer) =
        (password(), json!({ "access_token": of_service, "expires_on": "4000000000" }).to_string());
    let header = secret.clone();
    let service = TokenService::start(move |asked| {
        if asked.header("x-identity-header") == header { answered(200, &answer) } else { answered(400, "") }
    });
    let launch = || {
        launch()
            .variable("IDENTITY_ENDPOINT", format!("{}/msi", service.url()))
            .variable("IDENTITY_HEADER", &secret)
    };
    assert_eq!(shown(launch()), (Some("of-service".to_owned()), of_service));

    let of_workload = token("of-workload");
    let answer = token_answer(&of_workload);
    let authority = TokenService::start(move |_| answered(200, &answer));
    let assertion = password();
    let launch = || {
        launch()
            .variable("AZURE_FEDERATED_TOKEN_FILE", write(&home, "token", &assertion))
            .variable("AZURE_TENANT_ID", "tenant")
            .variable("AZURE_AUTHORITY_HOST", format!("{}/", authority.url()))
    };
    let expected = (Some("of-workload".to_owned()), of_workload);
    assert_eq!(shown(launch()), expected);
    let asked = authority.asked().pop().unwrap();
    assert_eq!((&*asked.method, &*asked.path), ("POST", "/tenant/oauth2/v2.0/token"));
    assert_eq!(asked.parameter("client_assertion"), Some(&*assertion));
    assert_eq!(asked.parameter("scope"), Some("https%3A%2F%2Fredis.azure.com%2F.default"));

    let secret = password();
    assert_eq!(shown(launch().variable("AZURE_CLIENT_SECRET", &secret)), expected);
    assert_eq!(authority.asked().pop().unwrap().parameter("client_secret"), Some(&*secret));
}

/// Clouds' services are verified by the system's authorities.
#[test]
fn a_token_service_is_verified() {
    let (authority, stranger) = (Authority::new("theirs"), Authority::new("a stranger's"));
    let identity = authority.issue(&["localhost"]);
    let config = authority.server(&identity, false, rustls::ALL_VERSIONS);
    let token = password();
    let answer = answered(200, &token_answer(&token));
    let service = Target::start();
    let port = service.address().port();
    let _served = service.serve(move |peer| {
        let Ok(mut peer) = TlsPeer::accept(peer, &config) else { return };
        peer.send(&answer);
        peer.finish_sending();
        peer.expect_rest();
    });
    let launch = |authority: &Authority| {
        provider("azure")
            .variable("REDIS_USERNAME", "me")
            .variable("AZURE_AUTHORITY_HOST", format!("https://localhost:{port}"))
            .variable("AZURE_TENANT_ID", "tenant")
            .variable("AZURE_CLIENT_ID", "client")
            .variable("AZURE_CLIENT_SECRET", password())
            .variable("SSL_CERT_FILE", authority.file())
    };
    assert_eq!(shown(launch(&authority)).1, token);
    let words = refusal(launch(&stranger));
    assert!(words.contains("client secret: https://localhost") && words.contains("TLS: "), "{words}");
}

/// Tokens that the cache takes no longer than they live.
struct Renewed {
    redis: RedisServer,
    service: TokenService,
    is_broken: Arc<AtomicBool>,
    ambassador: Ambassador,
}

impl Renewed {
    fn start() -> Option<Self> {
        let administrator_password = password();
        let redis = RedisServer::start(&format!("user admin on >{administrator_password} ~* &* +@all"))?;
        let administrator =
            redis::Client::open(format!("redis://admin:{administrator_password}@{}", redis.address()));
        let administrator = Mutex::new(administrator.unwrap().get_connection().unwrap());
        let is_broken = Arc::new(AtomicBool::new(false));
        let broken = Arc::clone(&is_broken);
        let issued = AtomicUsize::new(0);
        let service = TokenService::start(move |_| {
            if broken.load(Ordering::Relaxed) {
                return answered(
                    503,
                    "{\"error\":\"unavailable\",\"error_description\":\"come back later\"}",
                );
            }
            let token = password();
            // The cache takes the new token alone.
            let mut set = redis::cmd("ACL");
            set.arg("SETUSER").arg("default").arg("resetpass").arg(format!(">{token}"));
            let () = set.query(&mut administrator.lock().unwrap()).unwrap();
            // The first one is soon renewed, the second one lasts for what is done while the service is broken.
            let lives = if issued.fetch_add(1, Ordering::Relaxed) == 0 { 3 } else { 6 };
            answered(200, &json!({ "access_token": token, "expires_in": lives }).to_string())
        });
        let ambassador = provider("gcp")
            .variable("REDIS_PORT_6379_TCP", format!("redis://{}", redis.address()))
            .variable("GCE_METADATA_HOST", service.address().to_string())
            .start();
        Some(Self { redis, service, is_broken, ambassador })
    }

    fn issued(&self) -> usize {
        self.service.asked().len()
    }

    /// What a new client hears.
    fn answer(&self) -> String {
        let mut client = self.ambassador.connect(LINK);
        client.send(b"PING\r\n");
        client.finish_sending();
        String::from_utf8(client.expect_rest()).unwrap()
    }
}

/// A token is renewed before its end, open sessions show the new one, and a service that fails costs nothing while the
/// token lives.
#[test]
fn a_token_is_renewed_and_a_service_that_fails_costs_nothing_while_it_lives() {
    let Some(renewed) = Renewed::start() else { return };
    assert!(renewed.redis.is_running());
    let mut client = renewed.ambassador.connect(LINK);
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    eventually("a second token", || renewed.issued() == 2);
    let admin = renewed.ambassador.admin();
    let reauthenticated =
        || metric(admin, &format!("reauthentications_total{{link=\"{LINK}\",result=\"ok\"}}")) > 0.5;
    eventually("a session that has shown it", reauthenticated);
    assert_eq!(renewed.answer(), "+PONG\r\n");
    renewed.is_broken.store(true, Ordering::Relaxed);
    let failed = renewed.ambassador.wait_for("token provider failed");
    let reason = failed["error"].as_str().unwrap();
    assert!(reason.contains("metadata server") && reason.contains("503: come back later"), "{failed}");
    assert_eq!(failed["variable"], "REDIS_AUTH_PROVIDER", "{failed}");
    assert!(failed["remedy"].as_str().unwrap().contains("Cloud tokens"), "{failed}");
    assert_eq!(renewed.answer(), "+PONG\r\n");
    let stale = format!("secret_stale{{link=\"{LINK}\"}}");
    assert!(metric(admin, &stale) > 0.5);
    let mut refused = String::new();
    eventually("the token's end", || {
        refused = renewed.answer();
        refused != "+PONG\r\n"
    });
    assert!(refused.starts_with("-ERR redis-ambassador: redis:6379: "), "{refused}");
    assert!(refused.contains("come back later"), "{refused}");
    let failure = renewed.ambassador.wait_for("connection failed");
    assert!(failure["remedy"].as_str().unwrap().contains("Cloud tokens"), "{failure}");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    renewed.is_broken.store(false, Ordering::Relaxed);
    eventually("another token", || renewed.answer() == "+PONG\r\n");
    renewed.ambassador.wait_for("token provider recovered");
    assert!(metric(admin, &stale) < 0.5);
}

/// Keys that last outlive the service that gave them: only tokens are short.
#[test]
fn a_token_that_is_refused_is_signed_anew_with_the_keys_that_last() {
    let keys = Keys::new("AKIAINSTANCE");
    let json = keys.json();
    let count = AtomicUsize::new(0);
    let agent = TokenService::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => answered(200, &json),
        _ => answered(500, ""),
    });
    let target = Target::start();
    let ambassador = aws()
        .variable("REDIS_PORT_6379_TCP", format!("redis://{}", target.address()))
        .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.url())
        .start();
    let _client = ambassador.connect(LINK);
    let mut server = target.accept();
    let auth = |server: &mut crate::support::Peer| {
        (0..7).map(|_| server.expect_line()).last().unwrap().trim_end().to_owned()
    };
    let first = auth(&mut server);
    keys.expect_signed(&first, "app");
    // One that is younger than a second would be the same.
    server.expect_silence(Duration::from_millis(1100));
    server.send(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    let second = auth(&mut server);
    keys.expect_signed(&second, "app");
    assert_ne!(first, second);
    let warned = ambassador.wait_for("no new keys from AWS; the last ones sign on");
    assert!(warned["error"].as_str().unwrap().contains("500"), "{warned}");
    assert!(warned["remedy"].is_string(), "{warned}");
}

/// Whatever a service answers instead of a token, the error says what, and where.
#[test]
fn what_is_no_token_is_told() {
    let elsewhere = TokenService::start(|_| answered(200, "{}"));
    let redirect =
        format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", elsewhere.url());
    let huge = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(100_000));
    let quoted = password();
    for (answer, reason) in [
        (answered(200, "<!doctype html><p>hello"), "HTML or XML came instead of a JSON object"),
        (answered(404, "<!doctype html><p>hello"), "it answered 404 and HTML or XML"),
        (Vec::new(), "it answered nothing"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}".to_vec(), "its answer breaks off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "it does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(), "broken chunks"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec(), "longer than 65536 bytes"),
        (huge.into_bytes(), "longer than 65536 bytes"),
        (redirect.into_bytes(), "it answered 302, a redirect, which is not followed"),
        (answered(500, ""), "it answered 500 and nothing more"),
        (
            answered(400, "{\"error\":{\"message\":\"no such\\naccount\"}}"),
            "it answered 400: no such account",
        ),
        (answered(200, "{}"), "its JSON has no expires_in"),
        (answered(200, "{\"expires_in\":3599}"), "its JSON has no access_token"),
        (answered(200, "{\"expires_in\":3599,\"access_token\":\"\"}"), "access_token in its JSON is no text"),
        (answered(200, &json!({ "expires_in": 1, "access_token": quoted }).to_string()), "ends in 1s"),
        (
            answered(200, &json!({ "expires_in": 99, "access_token": quoted.repeat(999) }).to_string()),
            "16384",
        ),
    ] {
        let service = TokenService::start(move |_| answer.clone());
        let launch = provider("gcp").variable("GCE_METADATA_HOST", service.address().to_string());
        let words = refusal(launch);
        assert!(words.contains(reason), "{words}\nhas no: {reason}");
    }
    assert!(elsewhere.asked().is_empty());
    // It takes the connection, and says nothing.
    let silent = Target::start();
    let launch = provider("gcp").variable("REDIS_CONNECT_TIMEOUT", "1m");
    let words = refusal(launch.variable("GCE_METADATA_HOST", silent.address().to_string()));
    assert!(words.contains("no answer within 10s"), "{words}");
}

/// That nobody is there is known soon; who is there may ask others first, and has time for that.
#[test]
fn a_service_on_this_host_has_time_for_its_answer() {
    let token = password();
    let answer = answered(200, &token_answer(&token));
    let service = TokenService::start(move |_| {
        thread::sleep(Duration::from_millis(2_500));
        answer.clone()
    });
    let launch = provider("gcp").variable("GCE_METADATA_HOST", service.address().to_string());
    assert_eq!(shown(launch), (None, token));
}

/// One that quotes what was sent to it is not quoted, whether it quotes the whole, the beginning, or as it was written in the
/// form.
#[test]
fn a_service_that_quotes_a_secret_is_masked() {
    let secret = format!("a+b/{}", password());
    let echo = TokenService::start({
        let secret = secret.clone();
        move |asked: &Asked| {
            let (written, header) =
                (asked.parameter("client_secret").unwrap_or_default(), asked.header("x-identity-header"));
            let words = format!("what is {written}{header}, {secret} or {}?", &secret[..12]);
            answered(401, &json!({ "error": "invalid_client", "error_description": words }).to_string())
        }
    });
    let azure = || provider("azure").variable("AZURE_CLIENT_ID", "client");
    // So does one whose words are part of a success, and of more than one line; and one that names the path by which who knows
    // it has the keys.
    let code = TokenService::start(|asked: &Asked| {
        let words = format!("{}\r\n+OK\r\n", asked.header("authorization"));
        answered(200, &json!({ "Code": words }).to_string())
    });
    let words = refusal(
        aws()
            .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", code.url())
            .variable("AWS_CONTAINER_AUTHORIZATION_TOKEN", &secret),
    );
    assert!(words.contains("it answered ***  +OK"), "{words}");
    let names_path = TokenService::start(|asked: &Asked| {
        answered(404, &json!({ "message": format!("nothing at {}", asked.path) }).to_string())
    });
    let url = format!("{}/v2/{}", names_path.url(), password());
    let words = refusal(aws().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", url));
    assert!(words.contains("it answered 404: nothing at /v2/***"), "{words}");
    for launch in [
        azure()
            .variable("AZURE_AUTHORITY_HOST", echo.url())
            .variable("AZURE_TENANT_ID", "tenant")
            .variable("AZURE_CLIENT_SECRET", &secret),
        azure().variable("IDENTITY_ENDPOINT", echo.url()).variable("IDENTITY_HEADER", &secret),
    ] {
        let words = refusal(launch);
        assert!(words.contains("it answered 401: what is ***, *** or ***?"), "{words}");
    }
}

/// Who knows the path of a container's agent has its keys, and what stands in a query may be secret: neither is in an error,
/// whatever comes back.
#[test]
fn secrets_in_urls_are_not_shown() {
    let home = TempDir::new().unwrap();
    // A user and a password are sent nowhere.
    let secret = password();
    let gateway = format!("https://app:{secret}@gateway.example/path?key={secret}");
    let keys = format!("[base]\naws_access_key_id = x\naws_secret_access_key = {}\n", password());
    let role = "[profile default]\nrole_arn = r\nsource_profile = base\n";
    let azure = provider("azure").variable("AZURE_TENANT_ID", "t").variable("AZURE_CLIENT_ID", "c");
    for launch in [
        azure.variable("AZURE_CLIENT_SECRET", password()).variable("AZURE_AUTHORITY_HOST", &gateway),
        provider("azure").variable("IDENTITY_ENDPOINT", &gateway).variable("IDENTITY_HEADER", password()),
        provider("azure").variable("AZURE_POD_IDENTITY_AUTHORITY_HOST", &gateway),
        aws().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &gateway),
        aws()
            .variable("AWS_SHARED_CREDENTIALS_FILE", write(&home, "credentials", &keys))
            .variable("AWS_CONFIG_FILE", write(&home, "config", role))
            .variable("AWS_ENDPOINT_URL_STS", &gateway),
    ] {
        let words = refusal(launch);
        assert!(words.contains("is no URL of http or https, without a user and a password"), "{words}");
        assert!(!words.contains(&secret), "{words}");
    }
    for answer in [answered(404, ""), answered(200, "{}"), answered(200, "<!doctype html>"), Vec::new()] {
        let service = TokenService::start(move |_| answer.clone());
        let (address, secret) = (service.address(), password());
        let words = refusal(
            aws().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/{secret}", service.url())),
        );
        assert!(words.contains(&format!("AWS_CONTAINER_CREDENTIALS_FULL_URI: {address}: ")), "{words}");
        let url = format!("{}/path?key={secret}", service.url());
        let token = write(&home, "token", &password());
        let with_source = |source: Value, token_url: &str, account: &str| {
            json!({
                "type": "external_account", "audience": "x", "subject_token_type": "x", "token_url": token_url,
                "credential_source": source, "service_account_impersonation_url": account,
            })
        };
        let issuer = TokenService::start(|_| answered(200, &token_answer("x")));
        for file in [
            json!({
                "type": "authorized_user", "client_id": "x", "client_secret": "x", "refresh_token": "x",
                "token_uri": url,
            }),
            with_source(json!({ "file": token }), &url, "https://unused"),
            with_source(json!({ "file": token }), &issuer.url(), &url),
            with_source(
                json!({ "url": url, "format": { "type": "json", "subject_token_field_name": "x" } }),
                "https://unused",
                "https://unused",
            ),
        ] {
            let file = write(&home, "file.json", &file.to_string());
            let words = refusal(provider("gcp").variable("GOOGLE_APPLICATION_CREDENTIALS", file));
            assert!(words.contains(&format!("{}/path: ", service.url())), "{words}");
        }
    }
}

/// What was shown for a token, and what it was made of, does not stay in memory.
#[test]
fn what_a_token_was_issued_for_is_overwritten() {
    let home = TempDir::new().unwrap();
    let token = password();
    let service = {
        let answer = answered(200, &token_answer(&token));
        TokenService::start(move |_| answer.clone())
    };
    let served = |launch: Launch| {
        let target = Target::start();
        let ambassador =
            launch.variable("REDIS_PORT_6379_TCP", format!("redis://{}", target.address())).start();
        let _client = ambassador.connect(LINK);
        target.accept().receive_until(token.as_bytes());
        ambassador
    };
    let assertion = password();
    let ambassador = served(
        provider("azure")
            .variable("REDIS_USERNAME", "app")
            .variable("AZURE_FEDERATED_TOKEN_FILE", write(&home, "token", &assertion))
            .variable("AZURE_TENANT_ID", "tenant")
            .variable("AZURE_CLIENT_ID", "client")
            .variable("AZURE_AUTHORITY_HOST", service.url()),
    );
    if ambassador.hides_its_memory() {
        return;
    }
    assert!(ambassador.has_in_memory(token.as_bytes()), "the search finds nothing");
    assert!(!ambassador.has_in_memory(assertion.as_bytes()), "the assertion is still there");

    if command_is_missing("openssl") {
        return leave_out("openssl is missing");
    }
    let bench = Workbench::new();
    // In the other form.
    bench.run("openssl genrsa -traditional -out key.pem 2048");
    let key = fs::read_to_string(bench.path("key.pem")).unwrap();
    let account = json!({
        "type": "service_account", "client_email": "app@example.com", "private_key": key,
        "token_uri": service.url(),
    });
    let account = write(&home, "account.json", &account.to_string());
    // What is left behind may be overwritten by what comes next; of several some is not.
    let links = 1..20;
    let several = links.clone().fold(provider("gcp"), |launch, number| {
        let alias = format!("LINK{number}");
        launch.redis_link(&alias, "127.0.0.1:1").variable(format!("{alias}_AUTH_PROVIDER"), "gcp")
    });
    let before = service.asked().len();
    let ambassador = served(several.variable("GOOGLE_APPLICATION_CREDENTIALS", account));
    eventually("all have a token", || service.asked().len() > before + links.len());
    assert!(ambassador.has_in_memory(token.as_bytes()), "the search finds nothing");
    // Of the private exponent.
    let line = key.lines().nth(9).unwrap();
    for (what, part) in [
        ("the key is gone", line.as_bytes().to_vec()),
        ("the decoded key is gone", BASE64.decode(line.as_bytes()).unwrap()),
    ] {
        eventually(what, || !ambassador.has_in_memory(&part));
    }
    // Those of one second are the same.
    let asked = service.asked().split_off(before);
    let assertions: BTreeSet<_> = asked.iter().map(|asked| asked.parameter("assertion").unwrap()).collect();
    for assertion in assertions {
        let (signed, signature) = assertion.rsplit_once('.').unwrap();
        for part in
            [signed.as_bytes(), signature.as_bytes(), &BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap()]
        {
            eventually("the assertion is gone", || !ambassador.has_in_memory(part));
        }
    }
}

/// Each of a service's addresses has its share of the time.
#[test]
fn an_address_that_answers_nothing_leaves_time_for_the_next() {
    let token = password();
    let answer = answered(200, &token_answer(&token));
    let service = TokenService::start(move |_| answer.clone());
    let silent = BlackHole::at(SocketAddr::new(own_address().ip(), service.address().port()));
    let names = NameServer::start();
    names.addresses("metadata.test", &[silent.address().ip(), service.address().ip()]);
    let launch = provider("gcp")
        .variable("AMBASSADOR_DNS", names.address().to_string())
        .variable("GCE_METADATA_HOST", format!("metadata.test:{}", service.address().port()));
    assert_eq!(shown(launch), (None, token));
}

/// However many ask for tokens, one thread reads a file: where its file system hangs, the other threads are there for others.
#[test]
fn a_file_system_that_hangs_leaves_threads_for_others() {
    if command_is_missing("perl") {
        return;
    }
    let home = TempDir::new().unwrap();
    let hanging = write(&home, "token", &password());
    let token = password();
    let answer = answered(200, &token_answer(&token));
    let service = TokenService::start(move |_| answer.clone());
    let user = json!({
        "type": "authorized_user", "client_id": "id", "client_secret": password(), "refresh_token": password(),
        "token_uri": service.url(),
    });
    let target = Target::start();
    // More than there are threads.
    let links = 0..20;
    let launch = links.clone().fold(Launch::new(), |launch, number| {
        launch
            .redis_link(&format!("LINK{number}"), target.address())
            .variable(format!("LINK{number}_AUTH_PROVIDER"), "azure")
            .variable(format!("LINK{number}_USERNAME"), "app")
    });
    let holder = hang(&hanging);
    let ambassador = launch
        .variable("AZURE_FEDERATED_TOKEN_FILE", &hanging)
        .variable("AZURE_TENANT_ID", "tenant")
        .variable("AZURE_CLIENT_ID", "client")
        .variable("AZURE_AUTHORITY_HOST", service.url())
        .redis_link("SOUND", target.address())
        .variable("SOUND_AUTH_PROVIDER", "gcp")
        .variable("GOOGLE_APPLICATION_CREDENTIALS", write(&home, "user.json", &user.to_string()))
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "1s")
        .variable("AMBASSADOR_THREADS", "1")
        .start();
    let link = |number| format!("link{number}:6379");
    let clients: Vec<_> = links.clone().map(|number| ambassador.connect(&link(number))).collect();
    for (number, mut client) in links.clone().zip(clients) {
        let words = client.expect_refusal(&link(number));
        assert!(words.contains("not read within"), "{words}");
    }
    let _client = ambassador.connect("sound:6379");
    target.accept().receive_until(token.as_bytes());
    drop(holder);
    eventually("all have a token", || service.asked().len() > links.len());
}

/// Without any identity the error names every source that was tried; one that is set up and fails is the last one.
#[test]
fn an_error_names_the_sources_that_were_tried() {
    let home = TempDir::new().unwrap();
    let nobody = own_address();
    let aws = || {
        aws()
            .variable("HOME", home.path())
            .variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{nobody}"))
    };
    let no_file = Path::new("/no/such/file");
    // It is not absent, but can't be read.
    let looped = home.path().join("looped");
    std::os::unix::fs::symlink(&looped, &looped).unwrap();
    for (launch, reasons) in [
        (
            aws(),
            &[
                "environment: AWS_ACCESS_KEY_ID is not set",
                "web identity: AWS_WEB_IDENTITY_TOKEN_FILE is not set",
                "profile: there is no default in ",
                "container: neither AWS_CONTAINER_CREDENTIALS_RELATIVE_URI nor AWS_CONTAINER_CREDENTIALS_FULL_URI is set",
                "/latest/api/token: Connection refused",
            ][..],
        ),
        (aws().variable("AWS_ACCESS_KEY_ID", "x"), &["environment: AWS_SECRET_ACCESS_KEY is not set"]),
        (aws().variable("AWS_PROFILE", "mine"), &["profile: there is no mine in "]),
        (
            aws().variable("AWS_WEB_IDENTITY_TOKEN_FILE", no_file).variable("AWS_ROLE_ARN", "a"),
            &["web identity: /no/such/file: No such file"],
        ),
        (
            aws().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.com/"),
            &["AWS_CONTAINER_CREDENTIALS_FULL_URI: example.com is neither https nor a loopback"],
        ),
        (aws().variable("AWS_SHARED_CREDENTIALS_FILE", &looped), &["profile: ", "/looped: "]),
        (
            aws()
                .variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@/secret-path")
                .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.com/"),
            &["container: AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: \"its URL\" is no URL"],
        ),
        (
            aws().variable("AWS_EC2_METADATA_DISABLED", "true"),
            &["instance metadata: AWS_EC2_METADATA_DISABLED says that there is none"],
        ),
        (
            provider("gcp").variable("HOME", home.path()).variable("GCE_METADATA_HOST", nobody.to_string()),
            &[
                "GOOGLE_APPLICATION_CREDENTIALS: it is not set",
                "gcloud's own file: ",
                "/application_default_credentials.json: No such file or directory",
                "metadata server: http://",
            ],
        ),
        (
            provider("gcp").variable("GOOGLE_APPLICATION_CREDENTIALS", "/etc/passwd"),
            &["/etc/passwd: something that is no JSON came instead of a JSON object"],
        ),
        (
            provider("azure").variable("AZURE_POD_IDENTITY_AUTHORITY_HOST", format!("http://{nobody}")),
            &[
                "client secret: AZURE_CLIENT_SECRET is not set",
                "workload identity: AZURE_FEDERATED_TOKEN_FILE is not set",
                "managed identity of the service: IDENTITY_ENDPOINT is not set",
                "/metadata/identity/oauth2/token: Connection refused",
            ],
        ),
        (
            provider("azure").variable("AZURE_CLIENT_SECRET", password()),
            &["client secret: AZURE_TENANT_ID is not set"],
        ),
    ] {
        let words = refusal(launch);
        for reason in reasons {
            assert!(words.contains(reason), "{words}\nhas no: {reason}");
        }
    }
}

/// A home directory of somebody else has no file for this process: the next source is asked, and the error says so.
#[test]
fn a_home_that_is_closed_to_us_is_passed_over() {
    let Some(user) = another_user() else { return };
    let user = user.each_ref().map(String::as_str);
    let home = TempDir::new().unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap();
    let keys = Keys::new("AKIAINSTANCE");
    let metadata = instance(&keys);
    let at = |metadata: &str| {
        aws()
            .variable("HOME", home.path())
            .variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)
            .under(&user)
    };
    let (_, token) = shown(at(&metadata.url()));
    keys.expect_signed(&token, "app");
    let words = refusal(at(&format!("http://{}", own_address())));
    for reason in
        ["/.aws/credentials: Permission denied", "/.aws/config: Permission denied", "Connection refused"]
    {
        assert!(words.contains(reason), "{words}\nhas no: {reason}");
    }
}

/// Nobody is authenticated with a token that does not say whose it is.
#[test]
fn a_token_without_a_user_asks_for_one() {
    let token = format!("e30.{}.{}", BASE64URL_NOPAD.encode(b"{\"aud\":\"x\"}"), password());
    let metadata = TokenService::start(move |_| answered(200, &token_answer(&token)));
    let launch = || provider("azure").variable("AZURE_POD_IDENTITY_AUTHORITY_HOST", metadata.url());
    let ambassador = launch().start();
    let words = ambassador.connect(LINK).expect_refusal(LINK);
    assert!(words.contains("the token names no user"), "{words}");
    let failure = ambassador.wait_for("connection failed");
    assert!(failure["remedy"].as_str().unwrap().starts_with("set REDIS_USERNAME to the user"), "{failure}");
    assert_eq!(shown(launch().variable("REDIS_USERNAME", "me")).0.as_deref(), Some("me"));
}

/// Secrets go over plain HTTP to this host alone, whoever asks for it.
#[test]
fn a_secret_goes_nowhere_without_tls() {
    let home = TempDir::new().unwrap();
    let (far, refused) = ("http://192.0.2.1/x", "is neither https nor a loopback or link-local address");
    let azure =
        || provider("azure").variable("AZURE_TENANT_ID", "tenant").variable("AZURE_CLIENT_ID", "client");
    let user = json!({
        "type": "authorized_user", "client_id": "id", "client_secret": password(), "refresh_token": password(),
        "token_uri": far,
    });
    let token = write(&home, "token", &password());
    for launch in [
        azure().variable("AZURE_AUTHORITY_HOST", far).variable("AZURE_CLIENT_SECRET", password()),
        azure().variable("IDENTITY_ENDPOINT", far).variable("IDENTITY_HEADER", password()),
        provider("gcp")
            .variable("GOOGLE_APPLICATION_CREDENTIALS", write(&home, "user.json", &user.to_string())),
        aws()
            .variable("AWS_ENDPOINT_URL_STS", far)
            .variable("AWS_WEB_IDENTITY_TOKEN_FILE", token)
            .variable("AWS_ROLE_ARN", "a"),
    ] {
        let words = refusal(launch);
        assert!(words.contains(refused), "{words}");
    }
}

fn settings(variables: &[(&str, &str)]) -> Launch {
    variables.iter().fold(Launch::new(), |launch, (name, value)| launch.variable(name, value))
}

/// Where a token comes from is shown like any other source.
#[test]
fn a_provider_makes_a_redis_link_and_is_shown() {
    let wiring = settings(&[
        ("REDIS_PORT_6379_TCP", &format!("tcp://{GROUP}:6379")),
        ("REDIS_USERNAME", "app"),
        ("REDIS_TLS", "true"),
        ("REDIS_AUTH_PROVIDER", "aws-elasticache"),
        ("CACHE_PORT_6380_TCP", "redis://10.0.0.3"),
        ("CACHE_AUTH_PROVIDER", "GCP"),
    ])
    .wiring();
    let of = |index: usize, name: &str| wiring["links"][index][name].clone();
    assert_eq!(
        (of(1, "kind"), of(1, "auth"), of(1, "username")),
        (json!("redis"), json!("provider"), json!("app"))
    );
    assert_eq!((of(0, "auth"), of(0, "username")), (json!("provider"), Value::Null));
    let warnings = wiring["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0]["variable"], "CACHE_AUTH_PROVIDER");
    assert!(warnings[0]["message"].as_str().unwrap().contains("unencrypted"), "{warnings:?}");
}

/// What can't be meant is refused at start, all at once.
#[test]
fn a_provider_that_can_not_be_meant_is_a_mistake() {
    let refused = |variables: &[(&str, &str)], mistake: &str| -> String {
        let with_default = [&[("REDIS_PORT_6379_TCP", "rediss://cache")], variables].concat();
        settings(&with_default).argument("links").finish().expect_mistake(mistake)
    };
    let (secret, name) = (password(), "REDIS_AUTH_PROVIDER");
    let aws = (name, "aws-elasticache");
    let told = refused(&[(name, &secret)], name);
    assert!(told.contains("none of aws-elasticache, gcp and azure"), "{told}");
    let told = refused(&[(name, "memorydb")], name);
    assert!(told.contains("REDIS_AUTH_PROVIDER=aws-elasticache"), "{told}");
    let other = (
        "REDIS_PORT_6379_TCP",
        "rediss://master.a.x1.euc1.cache.amazonaws.com,master.b.x1.euc1.cache.amazonaws.com",
    );
    refused(&[aws, other, ("REDIS_USERNAME", "app")], name);
    for endpoint in ["cache.example.com", "my-group", "g.abc.ng.0001.euc1.cache.amazonaws.com"] {
        refused(&[aws, ("REDIS_USERNAME", "app"), ("REDIS_AUTH_ENDPOINT", endpoint)], "REDIS_AUTH_ENDPOINT");
    }
    refused(&[(name, "gcp"), ("REDIS_AUTH_ENDPOINT", GROUP)], "REDIS_AUTH_ENDPOINT");
    refused(&[("REDIS_AUTH", &secret), ("REDIS_AUTH_ENDPOINT", GROUP)], "REDIS_AUTH_ENDPOINT");
    refused(&[(name, "gcp"), ("REDIS_AUTH", &secret)], "REDIS_AUTH");
    refused(&[(name, "gcp"), ("REDIS_AUTH_FILE", "/etc/passwd")], "REDIS_AUTH_FILE");
    refused(&[(name, "gcp"), ("REDIS_AUTH_COMMAND", "cat x")], "REDIS_AUTH_COMMAND");
    refused(&[(name, "gcp"), ("REDIS_AUTH_COMMAND_TTL", "5s")], "REDIS_AUTH_COMMAND_TTL");
    refused(&[(name, "gcp"), ("REDIS_PORT_6379_TCP", &format!("rediss://:{secret}@cache"))], name);
    refused(&[(name, "gcp"), ("REDIS_PORT_6379_TCP", "tls://cache:1")], name);
    // A wrong provider is told beside a second password.
    let with_password = ("REDIS_PORT_6379_TCP", &*format!("rediss://:{secret}@cache"));
    let told = refused(&[(name, "memorydb"), with_password], name);
    assert!(told.contains("REDIS_AUTH_PROVIDER=aws-elasticache"), "{told}");
    let told = refused(&[aws, with_password, ("REDIS_AUTH_ENDPOINT", GROUP)], name);
    assert!(!told.contains("REDIS_AUTH_PROVIDER=aws-elasticache"), "{told}");
    // Not twice.
    let told = refused(&[aws, ("REDIS_USERNAME", "app")], name);
    assert!(!told.contains("a user without a password"), "{told}");
    let told = settings(&[("REDIS_PORT_6379_TCP", "rediss://cache"), aws]).argument("links").finish().stderr;
    assert!(told.contains("the configuration has 2 mistakes"), "{told}");
    assert!(told.contains("set REDIS_AUTH_ENDPOINT") && told.contains("set REDIS_USERNAME"), "{told}");
}
