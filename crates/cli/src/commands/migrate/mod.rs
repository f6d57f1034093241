//! `migrate`: migrations on their own, without a deployment: status, up, down, lint, baseline, accept.

mod apply;
mod history;
mod lint;

use std::path::Path;

use plimsoll_host::sqlite::history::{Status, status};
use plimsoll_host::sqlite::migrate::Error as Failure;
use plimsoll_host::sqlite::migration::{Migrations, load};

use crate::args::{Global, MigrateArgs, MigrateCommand, MigratePlace};
use crate::error::{Error, Kind};
use crate::place::{Place, failed};
use crate::ui::Ui;

/// `plimsoll migrate`
pub(crate) fn migrate(global: &Global, args: &MigrateArgs, ui: &Ui) -> Result<(), Error> {
    let find = |typed: &MigratePlace| Subject::find(global, typed);
    match &args.command {
        MigrateCommand::Status(place) => history::show(&find(place)?, ui),
        MigrateCommand::Up(way) => apply::up(&find(&way.place)?, way.to, &way.acknowledge, ui),
        MigrateCommand::Down(way) => apply::down(&find(&way.place)?, way.to, &way.acknowledge, ui),
        MigrateCommand::Lint(place) => lint::lint(&find(place)?, ui),
        MigrateCommand::Baseline(one) => {
            history::baseline(&find(&one.place)?, one.version, &one.acknowledge, ui)
        }
        MigrateCommand::Accept(one) => history::accept(&find(&one.place)?, one.version, &one.acknowledge, ui),
    }
}

/// A database and the migrations that are its.
struct Subject {
    place: Place,
    migrations: Migrations,
}

impl Subject {
    fn find(global: &Global, typed: &MigratePlace) -> Result<Subject, Error> {
        let place = Place::existing(global, typed.db.as_deref(), None)?;
        let here = global.directory.join("migrations");
        let folder = place.migrations(global, typed.dir.as_deref()).or_else(|| here.is_dir().then_some(here));
        let Some(folder) = folder else {
            return Err(Error::usage("there are no migrations here")
                .why("neither a current release nor this folder has a folder `migrations`")
                .next("name it: --dir MIGRATIONS"));
        };
        let migrations = load(&folder).map_err(|error| {
            Error::usage("the migrations cannot be used").why(error.to_string()).next(error.hint())
        })?;
        Ok(Subject { place, migrations })
    }

    fn database(&self) -> &Path {
        &self.place.database
    }

    fn status(&self) -> Result<Status, Error> {
        status(self.database(), &self.migrations)
            .map_err(|error| told("it is unknown what is applied", &error))
    }
}

/// An error of migrations as a command tells it.
fn told(what: &str, error: &Failure) -> Error {
    let state = "the database is as it was";
    match error {
        Failure::Database(error) => failed(what, error).state(state),
        Failure::Loss { losses, .. } => Error::new(Kind::Blocked, what)
            .why(error.to_string())
            .state(state)
            .next(words_to_type(losses.iter().map(|loss| loss.word.as_str()))),
        Failure::NotBaselined { .. } => {
            Error::new(Kind::Blocked, what).why(error.to_string()).state(state).next(error.hint())
        }
        Failure::File { .. } | Failure::Duplicate { .. } => {
            Error::usage(what).why(error.to_string()).state(state).next(error.hint())
        }
        Failure::HalfApplied { .. } => {
            Error::new(Kind::Unresolved, what).why(error.to_string()).next(error.hint())
        }
        Failure::NoMode { tried, .. } => {
            Error::failed(what).details(tried.iter().cloned()).state(state).next(error.hint())
        }
        _ => Error::failed(what).why(error.to_string()).state(state).next(error.hint()),
    }
}

/// What to add to the command so that it goes on.
fn words_to_type<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let flags: Vec<String> = words.map(|word| format!("--acknowledge {word}")).collect();
    format!("if that is meant, run it once more with: {}", flags.join(" "))
}
