//! What the environment says, read once at the start.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

/// The key that cookies and forms are signed with. It is never shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The shortest secret that is taken, in bytes.
const SECRET_BYTES: usize = 32;

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
    /// `GREENGROCER_SECRET`, or the content of the file `GREENGROCER_SECRET_FILE`.
    pub(crate) secret: Option<Secret>,
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
    /// In production there is no secret.
    #[error(
        "GREENGROCER_ENV is production and there is no secret: set GREENGROCER_SECRET or \
             GREENGROCER_SECRET_FILE to one made with `openssl rand -hex 32`"
    )]
    NoSecret,
    /// The secret's file cannot be read.
    #[error("cannot read GREENGROCER_SECRET_FILE {}", path.display())]
    SecretFile {
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
    /// A value that cannot be used, or no secret in production.
    pub fn from_env() -> Result<Self, SettingsError> {
        let port = parsed("PORT", "8000", "a port number")?;
        let bind = parsed("GREENGROCER_BIND", "127.0.0.1", "an IP address")?;
        let production = match text("GREENGROCER_ENV").as_deref() {
            None | Some("development") => false,
            Some("production") => true,
            Some(other) => {
                return Err(SettingsError::Value {
                    name: "GREENGROCER_ENV",
                    value: other.to_owned(),
                    wanted: "`development` or `production`",
                });
            }
        };
        let secret = secret()?;
        if production && secret.is_none() {
            return Err(SettingsError::NoSecret);
        }
        Ok(Self {
            bind,
            port,
            database: text("DATABASE_PATH").map_or_else(|| PathBuf::from("store.db"), PathBuf::from),
            release: text("PLIMSOLL_RELEASE").unwrap_or_else(|| "development".to_owned()),
            home: home()?,
            secret,
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

fn parsed<T: std::str::FromStr>(
    name: &'static str,
    default: &str,
    wanted: &'static str,
) -> Result<T, SettingsError> {
    let value = text(name).unwrap_or_else(|| default.to_owned());
    value.parse().map_err(|_| SettingsError::Value { name, value, wanted })
}

fn secret() -> Result<Option<Secret>, SettingsError> {
    let given = match (text("GREENGROCER_SECRET"), text("GREENGROCER_SECRET_FILE")) {
        (Some(secret), _) => secret,
        (None, Some(path)) => {
            let path = PathBuf::from(path);
            fs::read_to_string(&path).map_err(|source| SettingsError::SecretFile { path, source })?
        }
        (None, None) => return Ok(None),
    };
    let bytes = given.trim().as_bytes();
    if bytes.len() < SECRET_BYTES {
        return Err(SettingsError::WeakSecret(bytes.len()));
    }
    Ok(Some(Secret(bytes.to_vec())))
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
