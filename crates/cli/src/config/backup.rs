//! `[backup]` and `[backup.s3]`: how long backups are kept, where second copies go, and how a bucket is reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_host::backups::Retention;
use plimsoll_host::copies::{Access, Bucket, Encryption, Keys, Place};

use super::SecretError;
use super::form::command;
use super::secret::Secret;
use super::table::Table;
use super::url::Destination;

/// `[backup]`
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    /// What stays. What any rule keeps is kept, and the last good one always. Default: 14 days.
    pub(crate) keep: Retention,
    /// Default: false.
    pub(crate) compress: bool,
    /// Where second copies go. Default: none.
    pub(crate) copies: Vec<Destination>,
    /// How the buckets among them are reached.
    pub(crate) s3: S3,
}

/// `[backup.s3]`: what is left out comes from where the AWS tools look.
#[derive(Clone, Debug)]
pub(crate) struct S3 {
    /// The server's address. Default: `AWS_ENDPOINT_URL`, else Amazon's.
    pub(crate) endpoint: Option<String>,
    /// Default: `AWS_REGION`, else `us-east-1`.
    pub(crate) region: Option<String>,
    /// The keys.
    pub(crate) keys: S3Keys,
    /// Who encrypts at rest. Default: as the bucket is set.
    pub(crate) encryption: Option<S3Encryption>,
    /// How long a request is repeated. Default: one minute.
    pub(crate) retry_for: Duration,
}

/// Where the keys of a bucket come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum S3Keys {
    /// `AWS_ACCESS_KEY_ID` and its like, or the files of the AWS tools.
    Environment,
    /// From these places.
    Secrets {
        /// `access_key_id`
        id: Secret,
        /// `secret_access_key`
        secret: Secret,
        /// `session_token`
        token: Option<Secret>,
    },
    /// `credentials_command` prints them.
    Command(String),
}

/// Who encrypts objects at rest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum S3Encryption {
    /// `AES256`
    Server,
    /// `aws:kms`, with `kms_key`.
    KeyService(Option<String>),
    /// `customer`, with `encryption_key`.
    Customer(Secret),
}

impl Default for S3 {
    fn default() -> Self {
        S3 {
            endpoint: None,
            region: None,
            keys: S3Keys::Environment,
            encryption: None,
            retry_for: Access::default().retry_for,
        }
    }
}

impl S3 {
    /// How a bucket is reached, secrets revealed. What cannot be revealed is told when the bucket is used: a missing
    /// key must not cost the local backup.
    fn access(&self) -> Access {
        let hidden = |error: SecretError| Keys::Unusable(error.to_string());
        let keys = match &self.keys {
            S3Keys::Environment => Keys::Environment,
            S3Keys::Command(line) => match shell_words::split(line) {
                Ok(words) => Keys::Command(words),
                Err(error) => Keys::Unusable(error.to_string()),
            },
            S3Keys::Secrets { id, secret, token } => {
                match (id.reveal(), secret.reveal(), token.as_ref().map(Secret::reveal).transpose()) {
                    (Ok(id), Ok(secret), Ok(token)) => Keys::Given { id, secret, token },
                    (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => hidden(error),
                }
            }
        };
        let (encryption, keys) = match &self.encryption {
            None => (None, keys),
            Some(S3Encryption::Server) => (Some(Encryption::Server), keys),
            Some(S3Encryption::KeyService(key)) => (Some(Encryption::KeyService { key: key.clone() }), keys),
            Some(S3Encryption::Customer(key)) => match key.reveal() {
                Ok(key) => (Some(Encryption::Customer { key }), keys),
                // Never unencrypted instead.
                Err(error) => (None, hidden(error)),
            },
        };
        let (endpoint, region) = (self.endpoint.clone(), self.region.clone());
        Access { endpoint, region, keys, encryption, retry_for: self.retry_for }
    }
}

impl Backup {
    /// The folders among the places for second copies.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        self.copies.iter().filter_map(|destination| match destination {
            Destination::Folder(folder) => Some(folder),
            Destination::S3 { .. } => None,
        })
    }

    /// The places for second copies, in their order.
    pub(crate) fn places(&self) -> Vec<Place> {
        self.copies.iter().map(|destination| self.s3.place(destination)).collect()
    }
}

impl S3 {
    /// The destination as a place to copy to.
    pub(crate) fn place(&self, destination: &Destination) -> Place {
        match destination {
            Destination::Folder(folder) => Place::Folder(folder.clone()),
            Destination::S3 { bucket, prefix } => Place::Bucket(Box::new(Bucket {
                name: bucket.clone(),
                prefix: prefix.clone(),
                access: self.access(),
            })),
        }
    }
}

/// When nothing says how many days.
pub(crate) const KEEP_DAYS: u32 = 14;

pub(super) fn backup(table: Option<&Table<'_>>, root: &Path) -> Backup {
    let keep = Retention { days: KEEP_DAYS, ..Retention::default() };
    let mut backup = Backup { keep, compress: false, copies: Vec::new(), s3: S3::default() };
    let Some(table) = table else { return backup };
    let number = |key, least, place: &mut u32| {
        if let Some(number) = table.number(key, least..=3_650) {
            *place = number.value;
        }
    };
    number("keep_days", 1, &mut backup.keep.days);
    number("keep_last", 0, &mut backup.keep.last);
    number("keep_daily", 0, &mut backup.keep.daily);
    number("keep_weekly", 0, &mut backup.keep.weekly);
    number("keep_monthly", 0, &mut backup.keep.monthly);
    backup.compress = table.flag("compress").unwrap_or(backup.compress);
    for text in table.distinct("copies") {
        let copy = table.fit(text, |text| Destination::parse(text, root));
        backup.copies.extend(copy.map(|c| c.value));
    }
    if let Some(value) = table.any("s3")
        && let Some(table) = table.table_of("s3", "[backup.s3]".to_owned(), value)
    {
        backup.s3 = s3(&table);
    }
    backup
}

fn s3(table: &Table<'_>) -> S3 {
    let both = |what: &str, help: &str| table.mistakes().wrong(&table.span(), what, help);
    let secret = |key| table.parsed(key, Secret::parse).map(|secret| secret.value);
    let (id, key, token) = (secret("access_key_id"), secret("secret_access_key"), secret("session_token"));
    let line = table.parsed("credentials_command", command).map(|line| line.value);
    let given = table.has("access_key_id") || table.has("secret_access_key") || table.has("session_token");
    let keys = match (id, key, line) {
        (Some(id), Some(secret), None) => S3Keys::Secrets { id, secret, token },
        (None, None, Some(line)) if !given => S3Keys::Command(line),
        (_, _, Some(_)) => {
            both("[backup.s3] has keys and a command that prints them", "keep one of the two");
            S3Keys::Environment
        }
        (None, None, None) if !given => S3Keys::Environment,
        _ => {
            if !(table.has("access_key_id") && table.has("secret_access_key")) {
                both("[backup.s3] needs both `access_key_id` and `secret_access_key`", "or neither of them");
            }
            S3Keys::Environment
        }
    };
    let word = table.text("encryption");
    let (kms_key, customer) = (table.text("kms_key"), secret("encryption_key"));
    if table.has("kms_key") && word.as_ref().is_none_or(|word| word.value != "aws:kms") {
        both("`kms_key` is for encryption = \"aws:kms\"", "leave it out, or set that");
    }
    let encryption = word.and_then(|word| match word.value.as_str() {
        "AES256" => Some(S3Encryption::Server),
        "aws:kms" => Some(S3Encryption::KeyService(kms_key.map(|key| key.value))),
        "customer" => {
            if !table.has("encryption_key") {
                both(
                    "encryption = \"customer\" needs the key `encryption_key`",
                    "for example: encryption_key = \"file:/etc/plimsoll/sse.key\"",
                );
            }
            customer.map(S3Encryption::Customer)
        }
        other => {
            let what = format!("`encryption` cannot be `{other}`");
            table.mistakes().wrong(&word.span, what, "one of: AES256, aws:kms, customer");
            None
        }
    });
    let endpoint = table.parsed("endpoint", |text| {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        match host {
            Some(host) if !host.is_empty() && !host.contains('@') => {
                Ok(text.trim_end_matches('/').to_owned())
            }
            _ => Err(super::mistake::Unfit::new(
                format!("`{text}` is not the address of a server"),
                "for example: https://s3.example.com",
            )),
        }
    });
    S3 {
        endpoint: endpoint.map(|endpoint| endpoint.value),
        region: table.text("region").map(|region| region.value),
        keys,
        encryption,
        retry_for: table.limit("retry_for").map_or(S3::default().retry_for, |limit| limit.value),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{mistakes, parse_with};
    use super::*;

    fn with(below: &str) -> Backup {
        parse_with(below).backup
    }

    #[test]
    fn how_long_backups_are_kept_is_read_rule_by_rule() {
        let keep = with(
            "[backup]\nkeep_days = 3\nkeep_last = 2\nkeep_daily = 7\nkeep_weekly = 4\nkeep_monthly = 12\n",
        )
        .keep;
        assert_eq!(keep, Retention { days: 3, last: 2, daily: 7, weekly: 4, monthly: 12 });
        assert_eq!(with("").keep, Retention { days: KEEP_DAYS, ..Retention::default() });
        assert!(mistakes("[backup]\nkeep_last = 9999\n").contains("`keep_last` is out of bounds"));
    }

    #[test]
    fn a_bucket_is_reached_as_its_section_says() {
        let backup = with(
            "[backup]\ncopies = [\"s3://b/p\"]\n[backup.s3]\nendpoint = \"https://s3.example.com/\"\nregion = \"eu\"\n\
             access_key_id = \"env:K\"\nsecret_access_key = \"file:/etc/s\"\nencryption = \"aws:kms\"\nkms_key = \"k1\"\nretry_for = \"5s\"\n",
        );
        assert_eq!(backup.s3.endpoint.as_deref(), Some("https://s3.example.com"));
        assert_eq!(backup.s3.encryption, Some(S3Encryption::KeyService(Some("k1".into()))));
        assert_eq!(backup.s3.retry_for, Duration::from_secs(5));
        let id = Secret::Env("K".into());
        let secret = Secret::File(PathBuf::from("/etc/s"));
        assert_eq!(backup.s3.keys, S3Keys::Secrets { id, secret, token: None });
        assert_eq!(backup.places()[0].key(), "s3://b/p");
    }

    #[test]
    fn keys_in_the_file_itself_and_half_of_them_are_refused() {
        for (below, said) in [
            (
                "access_key_id = \"AKIA\"\nsecret_access_key = \"env:S\"\n",
                "a secret does not stand in the file",
            ),
            ("access_key_id = \"env:K\"\n", "needs both `access_key_id` and `secret_access_key`"),
            (
                "access_key_id = \"env:K\"\nsecret_access_key = \"env:S\"\ncredentials_command = \"pass s3\"\n",
                "keep one of the two",
            ),
            ("encryption = \"customer\"\n", "needs the key `encryption_key`"),
            ("encryption = \"rot13\"\n", "one of: AES256, aws:kms, customer"),
            ("kms_key = \"k\"\n", "`kms_key` is for"),
            ("endpoint = \"s3.example.com\"\n", "is not the address of a server"),
            ("endpoint = \"https://key:secret@s3.example.com\"\n", "is not the address of a server"),
        ] {
            let text = mistakes(&format!("[backup.s3]\n{below}"));
            assert!(text.contains(said), "{below}: {text}");
            assert_eq!(text.matches("plimsoll.toml:").count(), 1, "{below}: {text}");
        }
    }

    /// A key that is not there is told by the copy; the backup itself is made.
    #[test]
    fn a_secret_that_cannot_be_had_is_no_mistake_of_the_file() {
        let backup = with(
            "[backup]\ncopies = [\"s3://b\"]\n[backup.s3]\naccess_key_id = \"env:NOT_SET_1\"\nsecret_access_key = \"env:NOT_SET_2\"\n",
        );
        let Place::Bucket(bucket) = &backup.places()[0] else { panic!() };
        assert!(matches!(&bucket.access.keys, Keys::Unusable(why) if why.contains("NOT_SET_1")));
    }
}
