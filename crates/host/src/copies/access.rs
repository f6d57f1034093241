//! How a bucket is reached: endpoint, region, keys and encryption, from the configuration and, where that is silent,
//! from where the AWS tools look. Shows as itself without the keys.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, RetryConfig};

use super::http::Connector;

/// Where the keys come from.
#[derive(Clone)]
pub enum Keys {
    /// From the environment (`AWS_ACCESS_KEY_ID`...) or the files of the AWS tools (`AWS_PROFILE`).
    Environment,
    /// These.
    Given {
        /// The access key's id.
        id: String,
        /// The secret.
        secret: String,
        /// For keys that last only a while.
        token: Option<String>,
    },
    /// What this command prints: the JSON of the AWS tools' `credential_process`.
    Command(Vec<String>),
    /// They cannot be had, and why.
    Unusable(String),
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Keys::Environment => "Environment",
            Keys::Given { .. } => "Given",
            Keys::Command(_) => "Command",
            Keys::Unusable(_) => "Unusable",
        })
    }
}

/// Who encrypts the objects at rest.
#[derive(Clone)]
pub enum Encryption {
    /// The server, with keys of its own (SSE-S3).
    Server,
    /// The server, with a key of its key service (SSE-KMS).
    KeyService {
        /// The key's name; the service's default key when there is none.
        key: Option<String>,
    },
    /// The server, with a key that comes with every request and that it forgets (SSE-C): 32 bytes in base64.
    Customer {
        /// The key.
        key: String,
    },
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Encryption::Server => "Server",
            Encryption::KeyService { .. } => "KeyService",
            Encryption::Customer { .. } => "Customer",
        })
    }
}

/// How a bucket is reached.
#[derive(Clone, Debug)]
pub struct Access {
    /// Its server's address. Default: the environment's, else Amazon's.
    pub endpoint: Option<String>,
    /// Its region. Default: the environment's, else `us-east-1`.
    pub region: Option<String>,
    /// Where the keys come from.
    pub keys: Keys,
    /// Who encrypts. Default: as the bucket is set.
    pub encryption: Option<Encryption>,
    /// How long a request is repeated when the server does not answer or is overloaded.
    pub retry_for: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Access {
            endpoint: None,
            region: None,
            keys: Keys::Environment,
            encryption: None,
            retry_for: Duration::from_secs(60),
        }
    }
}

/// What must not be seen in a message, and how to reach the bucket.
pub(super) struct Opened {
    pub(super) store: AmazonS3,
    secrets: Vec<String>,
}

impl Opened {
    /// The text without keys: servers repeat them in their answers.
    pub(super) fn without_secrets(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

impl Access {
    /// Gets everything together; asks the server nothing yet. An error is what is missing, in words.
    pub(super) fn open(&self, bucket: &str) -> Result<Opened, String> {
        let profile = Profile::read();
        let mut builder = environment(matches!(self.keys, Keys::Environment));
        let from_env = |key| builder.get_config_value(&key);
        let keyed = from_env(AmazonS3ConfigKey::AccessKeyId).is_some();
        // Keys that the surroundings give to a container or a machine.
        let surroundings = [
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
            || on_amazon();
        let region = self
            .region
            .clone()
            .or_else(|| from_env(AmazonS3ConfigKey::Region))
            .or_else(|| from_env(AmazonS3ConfigKey::DefaultRegion))
            .or_else(|| profile.get("region"))
            .unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = self
            .endpoint
            .clone()
            .or_else(|| from_env(AmazonS3ConfigKey::S3Endpoint))
            .or_else(|| from_env(AmazonS3ConfigKey::Endpoint))
            .or_else(|| profile.get("endpoint_url"));
        let keys = match &self.keys {
            Keys::Given { id, secret, token } => Some((id.clone(), secret.clone(), token.clone())),
            Keys::Command(words) => Some(printed(words)?),
            Keys::Unusable(why) => return Err(why.clone()),
            Keys::Environment if keyed => None,
            Keys::Environment => match (profile.keys()?, surroundings) {
                (Some(keys), _) => Some(keys),
                (None, true) => None,
                (None, false) => {
                    return Err(
                        "there are no keys: neither AWS_ACCESS_KEY_ID nor a profile of the AWS tools".into(),
                    );
                }
            },
        };
        builder = builder
            .with_bucket_name(bucket)
            .with_region(region)
            .with_http_connector(Connector)
            .with_retry(RetryConfig {
                backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
                max_retries: 1000,
                retry_timeout: self.retry_for,
            })
            // One object in one request: not every server knows the other form.
            .with_disable_bulk_delete(true);
        if let Some(endpoint) = endpoint {
            builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
        }
        if let Some((id, secret, token)) = keys {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            if let Some(token) = token {
                builder = builder.with_token(token);
            }
        }
        builder = match &self.encryption {
            None => builder,
            Some(Encryption::Server) => with_encryption(builder, "AES256"),
            Some(Encryption::KeyService { key: None }) => with_encryption(builder, "aws:kms"),
            Some(Encryption::KeyService { key: Some(key) }) => builder.with_sse_kms_encryption(key),
            Some(Encryption::Customer { key }) if is_customer_key(key) => builder.with_ssec_encryption(key),
            Some(Encryption::Customer { .. }) => {
                return Err(
                    "the encryption_key is not 32 bytes in base64; make one: openssl rand -base64 32".into(),
                );
            }
        };
        let secret =
            [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::SecretAccessKey, AmazonS3ConfigKey::Token];
        let secrets =
            secret.iter().filter_map(|key| builder.get_config_value(key)).filter(|text| !text.is_empty());
        let mut secrets: Vec<String> = secrets.collect();
        if let Some(Encryption::Customer { key }) = &self.encryption {
            secrets.push(key.clone());
        }
        let store = builder.build().map_err(|e| e.to_string())?;
        Ok(Opened { store, secrets })
    }
}

/// What the environment says, as the AWS tools read it. Its keys belong together: with others none of them counts.
fn environment(with_keys: bool) -> AmazonS3Builder {
    use AmazonS3ConfigKey::{AccessKeyId, SecretAccessKey, Token};
    let mut builder = AmazonS3Builder::new();
    for (name, value) in std::env::vars() {
        if !name.starts_with("AWS_") {
            continue;
        }
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()
            && (with_keys || !matches!(key, AccessKeyId | SecretAccessKey | Token))
        {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

/// 32 bytes are 43 letters of base64 and one sign that fills up.
fn is_customer_key(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    text.len() == 44 && text.strip_suffix('=').is_some_and(|rest| rest.bytes().all(letter))
}

fn with_encryption(builder: AmazonS3Builder, word: &str) -> AmazonS3Builder {
    match "aws_server_side_encryption".parse() {
        Ok(key) => builder.with_config(key, word),
        Err(_) => builder,
    }
}

/// Whether this machine is one of Amazon's, which hand out keys on a link-local address. Anywhere else asking there
/// takes a long time and gives nothing.
fn on_amazon() -> bool {
    std::env::var_os("AWS_EC2_METADATA_DISABLED").is_none_or(|value| value != "true")
        && fs::read_to_string("/sys/devices/virtual/dmi/id/sys_vendor")
            .is_ok_and(|vendor| vendor.trim() == "Amazon EC2")
}

type KeyParts = (String, String, Option<String>);

/// Runs the command that prints keys. What it prints on stderr may hold them, and is not shown.
fn printed(words: &[String]) -> Result<KeyParts, String> {
    let (program, rest) = words.split_first().ok_or("the command for the keys is empty")?;
    let output = Command::new(program)
        .args(rest)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|e| format!("the command for the keys, {program}, cannot be run: {e}"))?;
    if !output.status.success() {
        return Err(format!("the command for the keys, {program}, failed: {}", output.status));
    }
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|_| {
        format!("the command for the keys, {program}, did not print the JSON of a credential process")
    })?;
    let text = |name: &str| value.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    match (text("AccessKeyId"), text("SecretAccessKey")) {
        (Some(id), Some(secret)) => Ok((id, secret, text("SessionToken"))),
        _ => Err(format!("the command for the keys, {program}, printed no AccessKeyId and SecretAccessKey")),
    }
}

/// A section of the AWS tools' files.
struct Profile(BTreeMap<String, String>);

impl Profile {
    fn read() -> Self {
        let name = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
        let file = |variable: &str, usual: &str| {
            let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".aws").join(usual));
            let path = std::env::var_os(variable).map(PathBuf::from).or_else(home);
            path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
        };
        let mut values = section(&file("AWS_CONFIG_FILE", "config"), &name);
        values.extend(section(&file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), &name));
        Profile(values)
    }

    fn get(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    fn keys(&self) -> Result<Option<KeyParts>, String> {
        if let (Some(id), Some(secret)) = (self.get("aws_access_key_id"), self.get("aws_secret_access_key")) {
            return Ok(Some((id, secret, self.get("aws_session_token"))));
        }
        let Some(line) = self.get("credential_process") else { return Ok(None) };
        let words = shell_words::split(&line).map_err(|e| format!("credential_process: {e}"))?;
        printed(&words).map(Some)
    }
}

/// The keys of `[name]` or `[profile name]`.
fn section(text: &str, name: &str) -> BTreeMap<String, String> {
    let mut within = false;
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let title = title.trim();
            within = title.strip_prefix("profile ").unwrap_or(title).trim() == name;
        } else if within
            && !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            found.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_aws_tools_are_read_by_profile() {
        let text = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=B=\n\n[profile nas]\nregion = eu-1\n";
        assert_eq!(section(text, "default")["aws_secret_access_key"], "B=");
        assert_eq!(section(text, "nas")["region"], "eu-1");
        assert!(section(text, "other").is_empty());
    }

    #[test]
    fn keys_come_from_a_command_and_its_failures_show_nothing_of_them() {
        let words = |text: &str| ["sh", "-c", text].map(str::to_owned).to_vec();
        let good =
            r#"echo '{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "B", "SessionToken": "C"}'"#;
        assert_eq!(printed(&words(good)).unwrap(), ("A".into(), "B".into(), Some("C".into())));
        for bad in ["echo hunter2; exit 3", "echo hunter2", "echo '{\"AccessKeyId\": \"hunter2\"}'"] {
            let why = printed(&words(bad)).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn a_customer_key_that_is_none_is_refused_before_anything_is_sent_and_not_shown() {
        let access = |key: &str| Access {
            endpoint: Some("http://127.0.0.1:1".into()),
            keys: Keys::Given { id: "id1".into(), secret: "secret1".into(), token: None },
            encryption: Some(Encryption::Customer { key: key.into() }),
            ..Access::default()
        };
        let good = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let opened = access(good).open("b").unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(opened.without_secrets(&format!("refused: {good}")), "refused: ***");
        for bad in ["hunter2", "aHVudGVyMg==", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8 "] {
            let Err(why) = access(bad).open("b") else { panic!("{bad} was taken") };
            assert!(why.contains("openssl rand") && !why.contains(bad), "{why}");
        }
    }

    #[test]
    fn keys_are_never_shown() {
        let keys = Keys::Given { id: "id1".into(), secret: "hunter2".into(), token: Some("hunter3".into()) };
        let access = Access {
            endpoint: Some("http://127.0.0.1:1".into()),
            keys,
            encryption: Some(Encryption::Customer { key: "hunter4".into() }),
            ..Access::default()
        };
        assert!(!format!("{access:?}").contains("hunter"), "{access:?}");
    }
}
