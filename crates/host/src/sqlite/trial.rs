//! Trying migrations on a copy of the real database, with foreign keys on and off, to find the way that loses nothing.
//!
//! With foreign keys on, `DROP TABLE` in a rebuild deletes the children through ON DELETE CASCADE, and every check
//! that SQLite has is content afterwards. With them off, a file that relies on the cascade leaves orphans. No fixed
//! setting is right; running both ways on real rows and counting is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ForeignKeys;
use super::census::{Census, Changes, Class, Loss};
use super::connection::{beside, open_own};
use super::control::{Control, Phase};
use super::diff::{self, Side, TableDiff};
use super::history::{self, Record};
use super::migrate::{Error, Mode, Wrap, run_script, wrap_of};
use super::migration::Migration;
use super::partial::remove_with_sides;
use super::script::Named;

/// What the trial of one migration found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its version.
    pub version: u64,
    /// Its file.
    pub file: String,
    /// The mode that loses least.
    pub mode: Mode,
    /// How long the migration itself took.
    pub took: Duration,
    /// What it does.
    pub class: Class,
    /// What it loses even so; each needs its acknowledgement.
    pub losses: Vec<Loss>,
    /// The tables that it changes.
    pub touched: Vec<String>,
    /// What the other mode did, in words.
    pub other: Option<String>,
}

impl Outcome {
    /// What it loses beyond what was acknowledged.
    #[must_use]
    pub fn unacknowledged(&self, acknowledged: &[String]) -> Vec<&Loss> {
        self.losses.iter().filter(|loss| !acknowledged.contains(&loss.word)).collect()
    }
}

/// Tries migrations in their order on `copy`, a finished copy of the real database that is nobody else's. Afterwards
/// the copy is what the real database would be. Needs room for three more of it beside it.
///
/// # Errors
/// [`Error::NoMode`] with SQLite's message, file and line; [`Error::Database`]. The copy is then of no more use.
pub fn run(copy: &Path, pending: &[Migration], control: &mut Control<'_>) -> Result<Vec<Outcome>, Error> {
    let mut outcomes = Vec::new();
    for (place, migration) in pending.iter().enumerate() {
        control.tell(Phase::Trying, place as u64, pending.len() as u64, "migrations");
        control.stop.check("trying migrations")?;
        let scratch = [beside(copy, ".keys-off"), beside(copy, ".keys-on")];
        let outcome = one(copy, &scratch, migration, control);
        for path in &scratch {
            remove_with_sides(path);
        }
        outcomes.push(outcome?);
    }
    control.tell(Phase::Trying, pending.len() as u64, pending.len() as u64, "migrations");
    Ok(outcomes)
}

/// One migration in one mode.
struct Attempt {
    mode: Mode,
    path: PathBuf,
    took: Duration,
    changes: Changes,
}

fn one(
    copy: &Path,
    scratch: &[PathBuf; 2],
    migration: &Migration,
    control: &mut Control<'_>,
) -> Result<Outcome, Error> {
    let wrap = wrap_of(&migration.sql);
    let mut good: Vec<Attempt> = Vec::new();
    let mut bad: Vec<String> = Vec::new();
    let modes = [ForeignKeys::Off, ForeignKeys::On].map(|foreign_keys| Mode { foreign_keys, wrap });
    for (mode, path) in modes.into_iter().zip(scratch) {
        match attempt(copy, path, migration, mode, control) {
            Ok((attempt, has_keys)) => {
                good.push(attempt);
                if !has_keys {
                    // Without a single foreign key both ways are the same.
                    break;
                }
            }
            Err(e @ (Error::Statement { .. } | Error::Loss { .. })) => {
                bad.push(format!("{}: {e}", mode.words()))
            }
            Err(other) => return Err(other),
        }
    }
    let tried: Vec<String> = good
        .iter()
        .map(|a| format!("{}: {}", a.mode.words(), in_words(&a.changes)))
        .chain(bad.clone())
        .collect();
    let Some(best) = choose(good) else {
        return Err(Error::NoMode { file: migration.file(), tried: bad });
    };
    let words = best.mode.words();
    let other = tried.into_iter().find(|line| !line.starts_with(&words));
    record(&best, migration, control)?;
    fs::rename(&best.path, copy).map_err(|e| super::Error::io(copy, "replacing", e))?;
    Ok(Outcome {
        version: migration.version,
        file: migration.file(),
        mode: best.mode,
        took: best.took,
        class: best.changes.class,
        losses: best.changes.losses,
        touched: best.changes.touched.into_iter().collect(),
        other,
    })
}

/// The fewest things lost, then the fewest rows; of two equals, foreign keys off when a table was rebuilt.
fn choose(good: Vec<Attempt>) -> Option<Attempt> {
    let rebuilt = good.iter().any(|attempt| attempt.changes.rebuilt);
    good.into_iter().min_by_key(|attempt| {
        let losses = &attempt.changes.losses;
        let off = attempt.mode.foreign_keys == ForeignKeys::Off;
        (losses.len(), losses.iter().map(|loss| loss.quantity).sum::<u64>(), off != rebuilt)
    })
}

fn in_words(changes: &Changes) -> String {
    if changes.losses.is_empty() {
        return "loses nothing".into();
    }
    let losses = changes.losses.iter().map(|loss| format!("{} ({})", loss.word, loss.quantity));
    format!("loses {}", losses.collect::<Vec<_>>().join(", "))
}

fn attempt(
    copy: &Path,
    path: &Path,
    migration: &Migration,
    mode: Mode,
    control: &mut Control<'_>,
) -> Result<(Attempt, bool), Error> {
    let stop = control.stop.clone();
    remove_with_sides(path);
    fs::copy(copy, path).map_err(|e| super::Error::io(path, "copying", e))?;
    let failed =
        |doing: &'static str| move |e: rusqlite::Error| Error::from(super::Error::of(path, doing, &e));
    let mut connection = open_own(path, mode.foreign_keys)?;
    stop.interrupts(&mut connection);
    connection.execute_batch("PRAGMA synchronous = OFF").map_err(failed("preparing"))?;
    let before = Census::take(&connection).map_err(failed("counting"))?;
    let started = Instant::now();
    if mode.wrap == Wrap::SelfManaged {
        run_script(&connection, migration, mode.wrap, &stop)?;
    } else {
        let transaction =
            rusqlite::Transaction::new_unchecked(&connection, rusqlite::TransactionBehavior::Immediate)
                .map_err(failed("beginning"))?;
        run_script(&transaction, migration, mode.wrap, &stop)?;
        // Deferred foreign keys are judged here.
        transaction.commit().map_err(|e| Error::Statement {
            file: migration.file(),
            line: 1 + migration.sql.trim_end().matches('\n').count(),
            why: super::error::message(&e),
            statement: "COMMIT".into(),
        })?;
    }
    let took = started.elapsed();
    let after = Census::take(&connection).map_err(failed("counting again"))?;
    let has_keys = before.foreign_keys || after.foreign_keys;
    drop(connection);
    let named = Named::in_script(&migration.sql);
    let mut changes = before.changes(&after, &named);
    let found = diff::rows(Side::Finished(copy), Side::Finished(path), 0, &stop)?;
    for (table, diff) in &found.tables {
        if after.tables.contains_key(table) {
            judge_rows(table, diff, &named, &mut changes);
        }
    }
    Ok((Attempt { mode, path: path.to_owned(), took, changes }, has_keys))
}

/// What counting cannot see: rows replaced by others, and values that changed without a word about it.
fn judge_rows(table: &str, diff: &TableDiff, named: &Named, changes: &mut Changes) {
    changes.mark(table, Class::Data);
    let said = named.updated.contains(&table.to_lowercase());
    if !said {
        for (column, quantity) in &diff.changed_columns {
            let detail = "values that changed although the file has no UPDATE of the table";
            changes.lose(format!("values:{table}.{column}"), *quantity, detail);
        }
        if diff.keyed {
            changes.lose(format!("rows:{table}"), diff.deleted, "rows that are gone");
        } else {
            // Without a key a changed row is one deleted and one inserted.
            let replaced = diff.deleted.min(diff.inserted);
            changes.lose(
                format!("values:{table}"),
                replaced,
                "rows replaced by others, in a table without a key",
            );
        }
    }
}

/// Leaves the copy as the real database would be: with its line in `schema_version`.
fn record(best: &Attempt, migration: &Migration, control: &mut Control<'_>) -> Result<(), Error> {
    control.stop.check("trying migrations")?;
    let connection = open_own(&best.path, ForeignKeys::Off)?;
    let mode = best.mode.words();
    let duration_ms = u64::try_from(best.took.as_millis()).unwrap_or(u64::MAX);
    history::record(&connection, &Record { migration, mode: &mode, duration_ms, run: None })
        .map_err(|e| super::Error::of(&best.path, "writing schema_version", &e))?;
    drop(connection);
    super::copy::settle(&best.path)?;
    Ok(())
}
