//! The database file that `backup`, `verify` and `migrate` work on: named by `--db` without any configuration, or by
//! the configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use plimsoll_host::journal::Runs;
use plimsoll_host::lock::{self, Lock};
use plimsoll_host::sqlite::{self, Stop, connection};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::Global;
use crate::config::{Config, ConfigError, Migrations};
use crate::error::{Error, Kind};
use crate::station;

/// A database and where its backups are.
pub(crate) struct Place {
    /// The file, absolute, links resolved when it exists.
    pub(crate) database: PathBuf,
    /// The folder of its backups.
    pub(crate) backups: PathBuf,
    /// The configuration, when it is this database's.
    pub(crate) config: Option<Config>,
}

impl Place {
    /// From what was typed; the database need not exist.
    pub(crate) fn find(global: &Global, db: Option<&Path>, dir: Option<&Path>) -> Result<Place, Error> {
        let file = Config::locate(&global.directory, global.config.as_deref());
        let dir = dir.map(|dir| absolute(&global.directory.join(dir)));
        let Some(db) = db else {
            let config = Config::load(&file).map_err(|error| match error {
                ConfigError::NotFound { .. } => Error::from(error)
                    .next("name the database: --db FILE   (or write a configuration with: plimsoll init)"),
                other => other.into(),
            })?;
            let Some(database) = config.database_file().map(resolved) else {
                return Err(Error::usage("this works on SQLite files only")
                    .why("[database].url is PostgreSQL")
                    .next("use pg_dump and pg_restore for it"));
            };
            let backups = dir.unwrap_or_else(|| config.backups());
            return Ok(Place { database, backups, config: Some(config) });
        };
        let database = resolved(&absolute(&global.directory.join(db)));
        // No configuration is needed, but when there is one of this very file, its lock and its rules hold.
        let named = global.config.is_some();
        let config = match Config::load(&file) {
            Ok(config) if config.database_file().map(resolved).as_ref() == Some(&database) => Some(config),
            Err(error) if named => return Err(error.into()),
            Ok(_) | Err(_) => None,
        };
        let beside = database.parent().unwrap_or(Path::new("/")).join("backups");
        let backups = dir.unwrap_or_else(|| config.as_ref().map_or(beside, Config::backups));
        Ok(Place { database, backups, config })
    }

    /// The same for a command that has nothing to do without a database.
    pub(crate) fn existing(global: &Global, db: Option<&Path>, dir: Option<&Path>) -> Result<Place, Error> {
        let place = Place::find(global, db, dir)?;
        if !place.database.exists() {
            return Err(Error::usage(format!("there is no database at {}", place.database.display()))
                .state("nothing was created")
                .next("check the path; Plimsoll never creates a database"));
        }
        Ok(place)
    }

    /// The database's file name, with which the names of its backups begin.
    pub(crate) fn name(&self) -> String {
        self.database.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The folder of migrations: what was typed, else that of the current release; `None` when there is none.
    pub(crate) fn migrations(&self, global: &Global, dir: Option<&Path>) -> Option<PathBuf> {
        if let Some(dir) = dir {
            return Some(absolute(&global.directory.join(dir)));
        }
        let config = self.config.as_ref()?;
        let Migrations::Folder(folder) = &config.database.migrations else { return None };
        let folder = config.current().join(&config.source.directory).join(folder);
        folder.is_dir().then_some(folder)
    }

    /// As [`Place::own`]; beside a `serve` that has nothing to do it is `None`: for one short transaction that an app goes
    /// on beside. A deployment that begins in the same moment notices it, as it notices every write of others.
    pub(crate) fn own_or_beside_serve(&self, what: &str) -> Result<Option<Owned>, Error> {
        match self.own(what) {
            Ok(owned) => Ok(Some(owned)),
            Err(error) if error.kind == Kind::Blocked => {
                let runs = self.config.as_ref().map(|config| Runs::of(&config.app.root).unfinished());
                if matches!(runs, Some(Ok(None))) { Ok(None) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the lock of a command that changes the database: the app's own when it is configured, one beside the
    /// file otherwise.
    pub(crate) fn own(&self, what: &str) -> Result<Owned, Error> {
        let Some(config) = &self.config else {
            let path = connection::beside(&self.database, ".plimsoll-lock");
            return match lock::try_lock(&path, what) {
                Ok(lock) => Ok(Owned(Some(lock), true)),
                Err(lock::Error::Held { .. }) => {
                    Err(Error::new(Kind::Blocked, "another command is changing this database")
                        .why(format!("{} is held", path.display()))
                        .state("nothing was changed by this command")
                        .next("wait until it has ended, then run this once more"))
                }
                Err(error) => Err(Error::failed("the lock beside the database cannot be taken")
                    .why(error.to_string())
                    .state("nothing was changed by this command")
                    .next("run it as a user who may write in the database's folder")),
            };
        };
        let lock = station::own(config, what).map_err(|error| match error.kind {
            Kind::Usage => {
                Error::new(Kind::Blocked, "the app is taken care of by another process").why(error.why)
            }
            _ => error,
        })?;
        if let Ok(Some(run)) = Runs::of(&config.app.root).unfinished() {
            return Err(Error::new(Kind::Unresolved, format!("run {run} is not resolved"))
                .why("what it still needs to finish or to undo lies in this database")
                .state("nothing was changed by this command")
                .next("plimsoll resume"));
        }
        Ok(Owned(Some(lock), false))
    }
}

/// A lock; the file of one beside a database goes with it.
pub(crate) struct Owned(Option<Lock>, bool);

impl Drop for Owned {
    fn drop(&mut self) {
        if let (Some(lock), true) = (self.0.take(), self.1) {
            // A lock file left behind locks nobody out.
            let _ = lock.remove();
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// SQLite keeps its log beside the real file, not beside a link to it.
fn resolved(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Raised by the first Ctrl-C or SIGTERM; the second ends the command as if nobody had caught it.
pub(crate) fn stop_on_signals() -> Stop {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // They fail only for signals that cannot be caught.
        let _ = signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag));
        let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
    }
    Stop::on(flag)
}

/// An error of the database as a command tells it.
pub(crate) fn failed(what: impl Into<String>, error: &sqlite::Error) -> Error {
    let kind = match error {
        sqlite::Error::Absent { .. } | sqlite::Error::NotADatabase { .. } => Kind::Usage,
        _ => Kind::Failed,
    };
    Error::new(kind, what).why(error.to_string()).next(error.hint())
}
