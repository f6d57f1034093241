//! What can go wrong with a database file, told apart so that the caller can act on it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::ErrorCode;

use crate::durable;

/// A failed act on a SQLite file. Every variant leaves the database as it was, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file. Nothing was created.
    #[error("there is no database at {}", path.display())]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file exists and is not a SQLite database.
    #[error("{} is not a SQLite database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened or read.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system or SQLite said.
        why: String,
    },
    /// Somebody else held a lock for longer than could be waited.
    #[error("{} is locked by another process ({doing})", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// What was being done.
        doing: String,
    },
    /// SQLite found the file damaged.
    #[error("{} is damaged: {why}", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// The schema uses a collation, function or module that only the app defines.
    #[error("{} needs something only its app defines: {why}", path.display())]
    AppDefined {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// There is not enough room; checked before anything was written.
    #[error("not enough room in {}: {need} bytes are needed, {have} are free", folder.display())]
    NoRoom {
        /// The folder that would be written to.
        folder: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        have: u64,
    },
    /// The disk became full on the way; what was begun has been removed.
    #[error("the disk became full while {doing} ({})", path.display())]
    Full {
        /// The file that was being written.
        path: PathBuf,
        /// What was being done.
        doing: String,
    },
    /// Somebody asked to stop; what was begun has been removed.
    #[error("stopped while {doing}")]
    Stopped {
        /// What was being done.
        doing: String,
    },
    /// The time given was used up; what was begun has been removed.
    #[error("out of time while {doing}")]
    Deadline {
        /// What was being done.
        doing: String,
    },
    /// Every attempt to read the live database made its writers wait, and was given up for them.
    #[error("{} could not be copied in {attempts} attempts: {why}", path.display())]
    GivenUp {
        /// The database.
        path: PathBuf,
        /// How often it was tried.
        attempts: u32,
        /// What made the last attempt give up.
        why: String,
    },
    /// The copy does not hold what was read from its source; the copy has been removed.
    #[error("the copy of {} is not what was read from it: {}", path.display(), differences.join("; "))]
    CopyDiffers {
        /// The source.
        path: PathBuf,
        /// What differs.
        differences: Vec<String>,
    },
    /// A backup failed its verification, so it was not used.
    #[error("the backup {} is not sound: {}", path.display(), failures.join("; "))]
    BadBackup {
        /// The backup.
        path: PathBuf,
        /// The checks that failed.
        failures: Vec<String>,
    },
    /// A manifest cannot be read.
    #[error("the manifest {} cannot be used: {why}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Somebody wrote between the moment the caller judged the database and the moment its write lock was held.
    #[error("{} was written to by somebody else in the meantime ({why}); it was left untouched", path.display())]
    Changed {
        /// The database.
        path: PathBuf,
        /// What differs, as far as it is known.
        why: String,
    },
    /// The file must be replaced, and somebody has it open or that cannot be known.
    #[error("{} cannot be replaced: {why}", path.display())]
    InUse {
        /// The database.
        path: PathBuf,
        /// Who has it open, or why that is unknown.
        why: String,
    },
    /// The backup is in the database's place, whole; only reading it back failed.
    #[error("{} holds the backup now, and it could not be read back: {why}", path.display())]
    NotReadBack {
        /// The database.
        path: PathBuf,
        /// Where what was replaced is kept; `None` when there was nothing.
        kept: Option<PathBuf>,
        /// What went wrong.
        why: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite refused for another reason.
    #[error("{}: {doing}: {why}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What was being done.
        doing: String,
        /// What SQLite said.
        why: String,
    },
}

impl Error {
    /// Puts an error of SQLite into the words of this module.
    pub(crate) fn of(path: &Path, doing: impl Into<String>, source: &rusqlite::Error) -> Self {
        let (path, doing, why) = (path.to_owned(), doing.into(), message(source));
        if app_defined(&why) {
            return Error::AppDefined { path, why };
        }
        if let rusqlite::Error::SqliteFailure(failure, _) = source
            && failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
        {
            // A database in WAL mode needs 32 KiB beside it to be opened, also for reading.
            return Error::Full { path, doing };
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy { path, doing },
            Some(ErrorCode::NotADatabase) => Error::NotADatabase { path },
            Some(ErrorCode::DatabaseCorrupt) => Error::Corrupt { path, why },
            Some(ErrorCode::DiskFull) => Error::Full { path, doing },
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                Error::Unreadable { path, why }
            }
            Some(ErrorCode::OperationInterrupted) => Error::Stopped { doing },
            _ => Error::Sqlite { path, doing, why },
        }
    }

    /// An error of the file system.
    pub(crate) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Error::Full { path: path.to_owned(), doing: doing.to_owned() };
        }
        Error::Io { path: path.to_owned(), doing, source }
    }

    /// What to do next, in one sentence.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Absent { .. } => "Check the path; Plimsoll never creates a database.",
            Error::NotADatabase { .. } => {
                "Check the path: this file belongs to something else, or is encrypted."
            }
            Error::Unreadable { .. } => "Run as the user who owns the database, or as root.",
            Error::Busy { .. } => "See who holds it (fuser on the file) and try again.",
            Error::Corrupt { .. } => "Restore the newest verified backup; keep the damaged file.",
            Error::AppDefined { .. } => "Let the app's own command do this (`migrate = [COMMAND]`).",
            Error::NoRoom { .. } | Error::Full { .. } => "Free some room, or set another folder.",
            Error::Stopped { .. } => "Nothing partial was left; run it again.",
            Error::Deadline { .. } => "Give it more time, or choose a quieter hour.",
            Error::GivenUp { .. } => "Choose a quieter hour, or raise the limits.",
            Error::CopyDiffers { .. } => "Check the disk (dmesg, SMART), then try again.",
            Error::BadBackup { .. } => "Take another backup: `plimsoll backup list` shows the verified ones.",
            Error::Manifest { .. } => {
                "Keep the backup; without its manifest only SQLite's own checks are possible."
            }
            Error::Changed { .. } => {
                "Find out who wrote (a cron job, a shell, another instance), stop it, try again."
            }
            Error::InUse { .. } => "Stop every process that has the file open, then try again.",
            Error::NotReadBack { .. } => "See what it holds: `plimsoll verify`, then start the app again.",
            Error::Io { .. } => "Check the folder and its permissions.",
            Error::Sqlite { .. } => "Read SQLite's message; the database is as it was.",
        }
    }
}

impl From<durable::Error> for Error {
    fn from(error: durable::Error) -> Self {
        match error {
            durable::Error::Io { doing, path, cause } => Error::io(&path, doing, cause),
            durable::Error::Rejected { path, why } => Error::Unreadable { path, why },
        }
    }
}

/// SQLite's message without the wrapping of the binding.
pub(crate) fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(text)) => text.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

/// Whether the message says that the schema needs something only the app's connection has. That must never be
/// taken for damage: `integrity_check` fails with these on a sound file.
pub(crate) fn app_defined(message: &str) -> bool {
    [
        "no such collation sequence",
        "unknown function",
        "no such function",
        "no such module",
        "no such tokenizer",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

/// How long a connection waits for a lock before it reports [`Error::Busy`].
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
