//! Secrets: the file says where one is, never what it is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::mistake::Unfit;

/// Where a secret is. Shows as its place; what it is comes only from [`Secret::reveal`], as late as possible.
#[derive(Clone, Eq, PartialEq)]
pub(crate) enum Secret {
    /// `env:NAME`: a variable of Plimsoll's own environment.
    Env(String),
    /// `file:/path`: a file's text, without the line end.
    File(PathBuf),
}

/// Why a secret could not be had. Never holds the secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// The variable is not set, or not text.
    #[error("the environment variable {name} is {problem}")]
    Env {
        /// Its name.
        name: String,
        /// `not set`, `empty` or `not text`.
        problem: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read the secret in {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is empty.
    #[error("the secret in {} is empty", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// Reads `env:NAME` or `file:/path`.
    pub(super) fn parse(text: &str) -> Result<Secret, Unfit> {
        match Secret::reference(text) {
            Some(secret) => Ok(secret),
            None => Err(Unfit::new(
                "a secret does not stand in the file itself",
                "write where it is: \"env:NAME\" or \"file:/path\"",
            )),
        }
    }

    /// The secret that the text refers to, if it refers to one. `file:shared/x` and `file:///x` are no references:
    /// applications have such texts as their own database addresses.
    fn reference(text: &str) -> Option<Secret> {
        if let Some(name) = text.strip_prefix("env:") {
            return is_variable(name).then(|| Secret::Env(name.to_owned()));
        }
        let path = text.strip_prefix("file:")?;
        (path.starts_with('/') && !path.starts_with("//")).then(|| Secret::File(PathBuf::from(path)))
    }

    /// The secret itself, as it is now.
    pub(crate) fn reveal(&self) -> Result<String, SecretError> {
        match self {
            Secret::Env(name) => {
                let missing = |problem| SecretError::Env { name: name.clone(), problem };
                match std::env::var(name) {
                    Ok(value) if value.is_empty() => Err(missing("empty")),
                    Ok(value) => Ok(value),
                    Err(std::env::VarError::NotPresent) => Err(missing("not set")),
                    Err(std::env::VarError::NotUnicode(_)) => Err(missing("not text")),
                }
            }
            Secret::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| SecretError::File { path: path.clone(), source })?;
                match text.trim_end_matches(['\r', '\n']) {
                    "" => Err(SecretError::Empty { path: path.clone() }),
                    secret => Ok(secret.to_owned()),
                }
            }
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Env(name) => write!(f, "env:{name}"),
            Secret::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({self})")
    }
}

/// A setting for the app or a webhook's address: a plain text, or a [`Secret`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Setting {
    /// As it stands in the file.
    Plain(String),
    /// Somewhere else.
    Secret(Secret),
}

impl Setting {
    pub(super) fn new(text: String) -> Setting {
        match Secret::reference(&text) {
            Some(secret) => Setting::Secret(secret),
            None => Setting::Plain(text),
        }
    }

    /// The value itself, as it is now.
    pub(crate) fn reveal(&self) -> Result<String, SecretError> {
        match self {
            Setting::Plain(text) => Ok(text.clone()),
            Setting::Secret(secret) => secret.reveal(),
        }
    }
}

/// Names of environment variables to their values.
pub(crate) type Settings = BTreeMap<String, Setting>;

/// All values of `settings`, secrets revealed: for a child's environment, never for an argument or a log.
pub(crate) fn reveal_all(settings: &Settings) -> Result<BTreeMap<String, String>, SecretError> {
    settings.iter().map(|(name, value)| Ok((name.clone(), value.reveal()?))).collect()
}

/// Whether the text is a name that an environment variable can have.
pub(super) fn is_variable(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_references_are_secrets() {
        assert_eq!(Secret::parse("env:TEAM_WEBHOOK").unwrap(), Secret::Env("TEAM_WEBHOOK".into()));
        assert_eq!(Secret::parse("file:/etc/pw").unwrap(), Secret::File("/etc/pw".into()));
        for text in ["hunter2", "env:", "env:A-B", "file:etc/pw", "file:///etc/pw", ""] {
            assert!(Secret::parse(text).is_err(), "{text}");
        }
        // What Prisma calls its database.
        assert_eq!(Setting::new("file:./dev.db".into()), Setting::Plain("file:./dev.db".into()));
    }

    #[test]
    fn a_secret_is_read_late_without_its_line_end_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pw");
        let secret = Secret::parse(&format!("file:{}", path.display())).unwrap();
        assert!(matches!(secret.reveal(), Err(SecretError::File { .. })));
        std::fs::write(&path, "hunter2\r\n").unwrap();
        assert_eq!(secret.reveal().unwrap(), "hunter2");
        assert!(!format!("{secret} {secret:?}").contains("hunter2"));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(secret.reveal(), Err(SecretError::Empty { .. })));
        assert!(matches!(Secret::Env("PLIMSOLL_NO_SUCH_NAME".into()).reveal(), Err(SecretError::Env { .. })));
    }
}
