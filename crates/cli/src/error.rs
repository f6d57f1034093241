//! What a command can fail with: kind, what, why, the state of production, what to type next; and the exit codes.

use crate::config::{ConfigError, SecretError};

/// Done.
pub(crate) const EXIT_DONE: u8 = 0;
/// A check or the rehearsal failed, or the run was undone: production is as it was.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Usage, configuration, or `plimsoll serve` is not running.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Blocked until a person acts; nothing changed.
pub(crate) const EXIT_BLOCKED: u8 = 3;
/// Interrupted and not yet resolved.
pub(crate) const EXIT_UNRESOLVED: u8 = 4;
/// Live, but a later step failed.
pub(crate) const EXIT_UNFINISHED: u8 = 5;
/// A deployment was rolled back after the commit point; or a rollback was done, with values set aside.
pub(crate) const EXIT_ROLLED_BACK: u8 = 6;
/// A bug in Plimsoll.
pub(crate) const EXIT_BUG: u8 = 70;

/// What an error means for whoever started the command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A check, the rehearsal or a step failed; production is as it was.
    Failed,
    /// Usage, configuration, or `plimsoll serve` is not running.
    Usage,
    /// Only a person's acknowledgement, answer, window or unlock lets it go on; nothing changed.
    Blocked,
    /// Interrupted and not yet resolved: `plimsoll resume`.
    Unresolved,
    /// Live, but a later step failed.
    Unfinished,
    /// Rolled back after the commit point; or rolled back with values set aside.
    RolledBack,
    /// Plimsoll's own mistake.
    Bug,
}

impl Kind {
    /// The word in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::Usage => "usage",
            Kind::Blocked => "blocked",
            Kind::Unresolved => "unresolved",
            Kind::Unfinished => "unfinished",
            Kind::RolledBack => "rolled-back",
            Kind::Bug => "bug",
        }
    }
}

/// The table of exit codes: the only place that knows them.
pub(crate) fn exit_code(result: &Result<(), Error>) -> u8 {
    match result.as_ref().map_err(|error| error.kind) {
        Ok(()) => EXIT_DONE,
        Err(Kind::Failed) => EXIT_FAILED,
        Err(Kind::Usage) => EXIT_USAGE,
        Err(Kind::Blocked) => EXIT_BLOCKED,
        Err(Kind::Unresolved) => EXIT_UNRESOLVED,
        Err(Kind::Unfinished) => EXIT_UNFINISHED,
        Err(Kind::RolledBack) => EXIT_ROLLED_BACK,
        Err(Kind::Bug) => EXIT_BUG,
    }
}

/// Why a command did not do what it was asked for. Never holds a secret.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Error {
    /// What it means.
    pub(crate) kind: Kind,
    /// What failed, one line.
    pub(crate) what: String,
    /// One for each of several causes: the mistakes in a file, the losses to acknowledge. Each may have lines.
    pub(crate) details: Box<[String]>,
    /// Why; empty when `what` says it all.
    pub(crate) why: String,
    /// What state production is in; empty when nothing was about to touch it.
    pub(crate) state: String,
    /// What to type or mend next; may be empty.
    pub(crate) next: String,
}

impl Error {
    /// An error of this kind; the rest is added by the methods below.
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        let nothing = String::new;
        Error {
            kind,
            what: what.into(),
            details: Box::default(),
            why: nothing(),
            state: nothing(),
            next: nothing(),
        }
    }

    /// Something failed; production is as it was.
    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Error::new(Kind::Failed, what)
    }

    /// Usage, configuration, or `plimsoll serve` is not running.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Error::new(Kind::Usage, what)
    }

    /// Why.
    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// What state production is in.
    pub(crate) fn state(mut self, state: impl Into<String>) -> Self {
        self.state = state.into();
        self
    }

    /// What to type or mend next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// Each of several causes.
    pub(crate) fn details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details = details.into_iter().collect();
        self
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        let what = error.to_string();
        match error {
            ConfigError::NotFound { .. } => {
                Error::usage(what).next("write one with: plimsoll init   (or name it: --config FILE, -C DIR)")
            }
            ConfigError::Unreadable { path, source } => Error::usage(what)
                .why(source.to_string())
                .next(format!("see who may read it: ls -l {}", path.display())),
            ConfigError::Mistakes { mistakes, .. } => Error::usage(what)
                .details(mistakes.iter().map(ToString::to_string))
                .state("nothing was started or changed")
                .next("mend the file, then: plimsoll check"),
        }
    }
}

impl From<SecretError> for Error {
    fn from(error: SecretError) -> Self {
        let next = match &error {
            SecretError::Env { name, .. } => {
                format!("set {name} in the environment that Plimsoll is started with")
            }
            SecretError::File { path, .. } | SecretError::Empty { path } => {
                format!("write the secret into {}, readable by Plimsoll alone", path.display())
            }
        };
        Error::usage(error.to_string()).next(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_contract() {
        let table = [
            (Kind::Failed, 1),
            (Kind::Usage, 2),
            (Kind::Blocked, 3),
            (Kind::Unresolved, 4),
            (Kind::Unfinished, 5),
            (Kind::RolledBack, 6),
            (Kind::Bug, 70),
        ];
        assert_eq!(exit_code(&Ok(())), 0);
        for (kind, code) in table {
            assert_eq!(exit_code(&Err(Error::new(kind, "x"))), code);
        }
    }
}
