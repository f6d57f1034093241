//! What the environment says, read once at the start. Every secret can also be given as a file: `NAME_FILE`.

mod mail;
mod payments;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

pub(crate) use mail::{Smtp, SmtpTls};
#[allow(unused_imports, reason = "what talks to the gateway names them")]
pub(crate) use payments::{Gateway, PaymentMode, Payments};
use serde::Serialize;

/// A key or password. It is never shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The shortest secret that is taken, in bytes.
const SECRET_BYTES: usize = 32;

/// Secrets out of examples: who uses one has none.
const KNOWN_SECRETS: [&str; 5] =
    ["change-this-secret-key", "change-me", "changeme", "your-secret-key", "secret-key"];

/// How this process is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `GREENGROCER_BIND`: the address to listen on.
    pub bind: IpAddr,
    /// `PORT`; 0 lets the system choose.
    pub port: u16,
    /// `DATABASE_PATH`.
    pub database: PathBuf,
    /// `PLIMSOLL_RELEASE`: which release this is, told in every answer.
    pub release: String,
    /// `GREENGROCER_HOME`: the folder of `templates/`, `migrations/` and `static/`.
    pub home: PathBuf,
    /// `GREENGROCER_SECRET`.
    pub(crate) secret: Option<Secret>,
    /// `GREENGROCER_ENV=production`.
    pub(crate) production: bool,
    /// `PLIMSOLL_REHEARSAL=1`: a copy is tried out, which must send no mail and ask nobody for money.
    pub(crate) rehearsal: bool,
    /// `GREENGROCER_URL`: how customers reach the shop, for links in mails. No slash at the end.
    pub(crate) public_url: String,
    /// `GREENGROCER_LOG=json`: one JSON object per line instead of text.
    pub(crate) log_json: bool,
    /// `GREENGROCER_METRICS_TOKEN`: who knows it may read `/metrics` through the proxy.
    pub(crate) metrics_token: Option<Secret>,
    /// `SMTP_*`: where mail goes; without it, mail waits in the outbox.
    pub(crate) smtp: Option<Smtp>,
    /// `GREENGROCER_PAYMENTS`, `RAZORPAY_*`.
    pub(crate) payments: Payments,
    /// `SHOP_*`: who sells.
    pub(crate) seller: Seller,
}

/// Who sells: what the law wants to be shown on every page that sells.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Seller {
    pub(crate) legal_name: String,
    pub(crate) address: String,
    pub(crate) phone: String,
    pub(crate) email: String,
    pub(crate) fssai: String,
    pub(crate) gstin: String,
    pub(crate) grievance_officer: String,
}

impl Seller {
    fn from_env() -> Self {
        let of = |name: &str| text(name).unwrap_or_default();
        Self {
            legal_name: of("SHOP_LEGAL_NAME"),
            address: of("SHOP_ADDRESS"),
            phone: of("SHOP_PHONE"),
            email: of("SHOP_EMAIL"),
            fssai: of("SHOP_FSSAI"),
            gstin: of("SHOP_GSTIN"),
            grievance_officer: of("SHOP_GRIEVANCE_OFFICER"),
        }
    }

    /// The settings that a shop open to the public still lacks.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let all = [
            ("SHOP_LEGAL_NAME", &self.legal_name),
            ("SHOP_ADDRESS", &self.address),
            ("SHOP_PHONE", &self.phone),
            ("SHOP_EMAIL", &self.email),
            ("SHOP_FSSAI", &self.fssai),
            ("SHOP_GRIEVANCE_OFFICER", &self.grievance_officer),
        ];
        all.into_iter().filter(|(_, value)| value.is_empty()).map(|(name, _)| name).collect()
    }
}

/// A setting that cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value is of the wrong kind.
    #[error("{name} is {value:?}, which is not {wanted}")]
    Value {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The secret is too short to protect anything.
    #[error(
        "the signing secret has {0} bytes, {SECRET_BYTES} are the least: make one with `openssl rand -hex 32`"
    )]
    WeakSecret(usize),
    /// The secret is one that everybody knows.
    #[error(
        "the signing secret is one from an example, which everybody knows: make one with `openssl rand -hex 32`"
    )]
    KnownSecret,
    /// In production there is no secret.
    #[error(
        "GREENGROCER_ENV is production and there is no secret: set GREENGROCER_SECRET or \
             GREENGROCER_SECRET_FILE to one made with `openssl rand -hex 32`"
    )]
    NoSecret,
    /// Payments cannot be taken like this.
    #[error("{0}")]
    Payments(String),
    /// Mail cannot be sent like this.
    #[error("{0}")]
    Mail(String),
    /// A secret's file cannot be read.
    #[error("cannot read {name}_FILE {}", path.display())]
    SecretFile {
        /// The variable without `_FILE`.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No folder with the shop's files was found.
    #[error("there is no templates folder in {}: set GREENGROCER_HOME to the folder of templates, migrations \
             and static", .0.display())]
    Home(PathBuf),
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// A value that cannot be used; in production no secret, or payments that would not be real.
    pub fn from_env() -> Result<Self, SettingsError> {
        let port = parsed("PORT", "8000", "a port number")?;
        let bind = parsed("GREENGROCER_BIND", "127.0.0.1", "an IP address")?;
        let production = one_of("GREENGROCER_ENV", &["development", "production"])? == "production";
        let secret = signing_secret()?;
        if production && secret.is_none() {
            return Err(SettingsError::NoSecret);
        }
        let rehearsal = text("PLIMSOLL_REHEARSAL").is_some();
        let public_url = text("GREENGROCER_URL").unwrap_or_else(|| format!("http://127.0.0.1:{port}"));
        if !(public_url.starts_with("https://") || public_url.starts_with("http://")) {
            let wanted = "an address such as https://shop.example.in";
            return Err(SettingsError::Value { name: "GREENGROCER_URL", value: public_url, wanted });
        }
        Ok(Self {
            bind,
            port,
            database: text("DATABASE_PATH").map_or_else(|| PathBuf::from("store.db"), PathBuf::from),
            release: text("PLIMSOLL_RELEASE").unwrap_or_else(|| "development".to_owned()),
            home: home()?,
            secret,
            production,
            rehearsal,
            public_url: public_url.trim_end_matches('/').to_owned(),
            log_json: one_of("GREENGROCER_LOG", &["text", "json"])? == "json",
            metrics_token: secret_text("GREENGROCER_METRICS_TOKEN")?,
            smtp: Smtp::from_env()?,
            payments: Payments::from_env(production, rehearsal)?,
            seller: Seller::from_env(),
        })
    }
}

/// Whether nothing that is ordered here will be delivered: it runs on somebody's desk, or as a rehearsal.
pub(crate) fn test_shop() -> bool {
    text("GREENGROCER_ENV").as_deref() != Some("production")
}

/// A variable that is set and not empty.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// One of a few words; the first when nothing is set.
fn one_of(name: &'static str, words: &'static [&'static str]) -> Result<&'static str, SettingsError> {
    let Some(value) = text(name) else { return Ok(words.first().copied().unwrap_or_default()) };
    let found = words.iter().find(|word| **word == value).copied();
    found.ok_or_else(|| {
        let wanted = match name {
            "GREENGROCER_ENV" => "`development` or `production`",
            "GREENGROCER_LOG" => "`text` or `json`",
            _ => "one of the words that the README names",
        };
        SettingsError::Value { name, value, wanted }
    })
}

fn parsed<T: std::str::FromStr>(
    name: &'static str,
    default: &str,
    wanted: &'static str,
) -> Result<T, SettingsError> {
    let value = text(name).unwrap_or_else(|| default.to_owned());
    value.parse().map_err(|_| SettingsError::Value { name, value, wanted })
}

/// The variable, or the content of the file that `NAME_FILE` names.
fn secret_text(name: &'static str) -> Result<Option<Secret>, SettingsError> {
    let given = match (text(name), text(&format!("{name}_FILE"))) {
        (Some(secret), _) => secret,
        (None, Some(path)) => {
            let path = PathBuf::from(path);
            fs::read_to_string(&path).map_err(|source| SettingsError::SecretFile { name, path, source })?
        }
        (None, None) => return Ok(None),
    };
    let bytes = given.trim().as_bytes().to_vec();
    Ok((!bytes.is_empty()).then_some(Secret(bytes)))
}

fn signing_secret() -> Result<Option<Secret>, SettingsError> {
    let Some(secret) = secret_text("GREENGROCER_SECRET")? else { return Ok(None) };
    let lower = String::from_utf8_lossy(&secret.0).to_lowercase();
    let one_sign = secret.0.iter().all(|byte| Some(byte) == secret.0.first());
    if secret.0.len() < SECRET_BYTES {
        return Err(SettingsError::WeakSecret(secret.0.len()));
    }
    if one_sign || KNOWN_SECRETS.iter().any(|known| lower.contains(known)) {
        return Err(SettingsError::KnownSecret);
    }
    Ok(Some(secret))
}

/// The folder with the shop's files: as set, else this folder, the program's folder, or the source.
fn home() -> Result<PathBuf, SettingsError> {
    let has_templates = |folder: &Path| folder.join("templates").is_dir();
    if let Some(set) = text("GREENGROCER_HOME") {
        let folder = PathBuf::from(set);
        return if has_templates(&folder) { Ok(folder) } else { Err(SettingsError::Home(folder)) };
    }
    let here = env::current_dir().unwrap_or_default();
    let beside = env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    [Some(here.clone()), beside, Some(source)]
        .into_iter()
        .flatten()
        .find(|folder| has_templates(folder))
        .ok_or(SettingsError::Home(here))
}
