//! What a carry-over did, in the words of a run: evidence for its report, and what a person must allow first.

use std::path::Path;

use plimsoll_core::check::Check;
use plimsoll_core::ports::{Failure, FailureKind};
use serde_json::{Map, Value};

use super::failure;
use crate::durable;
use crate::sqlite::carry::{self, Carried};

/// Tables that the migrator writes itself: they go back with the schema.
pub(super) const BOOKS: [&str; 2] = ["schema_version", "plimsoll_migrations"];

/// What became of all differences of one or more carry-overs, one after the other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sums {
    /// Made in the result.
    pub applied: u64,
    /// The result had them already.
    pub equal: u64,
    /// In the file.
    pub set_aside: u64,
}

impl Sums {
    /// Of all tables.
    #[must_use]
    pub fn of(carried: &[Carried]) -> Sums {
        let tallies = carried.iter().flat_map(|one| one.tables.values());
        tallies.fold(Sums::default(), |sums, tally| Sums {
            applied: sums.applied + tally.applied,
            equal: sums.equal + tally.equal,
            set_aside: sums.set_aside + tally.aside(),
        })
    }
}

/// The evidence: per table what was carried, was there already, and was set aside with its reasons.
pub(super) fn evidence(carried: &[Carried]) -> Check {
    let sums = Sums::of(carried);
    let name = match sums {
        Sums { applied: 0, set_aside: 0, .. } => "Nothing had to be carried over",
        Sums { set_aside: 0, .. } => "What users wrote was carried over",
        _ => "What users wrote was carried over or set aside",
    };
    let mut per_table: [Map<String, Value>; 3] = Default::default();
    let mut reasons = Vec::new();
    for (table, tally) in carried.iter().flat_map(|one| &one.tables) {
        let counts = [tally.applied, tally.equal, tally.aside()];
        for (map, count) in per_table.iter_mut().zip(counts) {
            if count > 0 {
                let before = map.get(table).and_then(Value::as_u64).unwrap_or(0);
                map.insert(table.clone(), (before + count).into());
            }
        }
        let why = tally.set_aside.iter().map(|(reason, count)| format!("{table}: {count} {reason}"));
        reasons.extend(why);
    }
    let [applied, equal, aside] = per_table.map(Value::Object);
    let mut check = Check::pass("back.rows", name)
        .with("carried", sums.applied)
        .with("already_there", sums.equal)
        .with("set_aside", sums.set_aside)
        .with("carried_per_table", applied)
        .with("already_there_per_table", equal)
        .with("set_aside_per_table", aside);
    if !reasons.is_empty() {
        check = check.with("reasons", reasons);
    }
    let files: Vec<String> = files(carried);
    if !files.is_empty() {
        check = check.with("files", files);
    }
    let list = |what: &dyn Fn(&Carried) -> Vec<String>| carried.iter().flat_map(what).collect::<Vec<_>>();
    let notes = [
        (
            "renames",
            list(&|one| {
                let name = |r: &carry::Rename| match &r.column {
                    Some(column) => format!("{}.{column} is {} now", r.table, r.to),
                    None => format!("{} is {} now", r.table, r.to),
                };
                one.renames.iter().map(name).collect()
            }),
        ),
        (
            "meaning_may_differ",
            list(&|one| {
                let columns = one.rewritten.iter();
                columns.flat_map(|(table, list)| list.iter().map(move |c| format!("{table}.{c}"))).collect()
            }),
        ),
        (
            "numbers_that_could_come_again",
            list(&|one| one.reusable.iter().map(|(t, n)| format!("{t}: {n}")).collect()),
        ),
        ("unchecked", list(&|one| one.unchecked.clone())),
    ];
    for (name, list) in notes {
        if !list.is_empty() {
            check = check.with(name, list);
        }
    }
    check
}

/// The readable files of what was set aside.
pub(super) fn files(carried: &[Carried]) -> Vec<String> {
    let aside = carried.iter().filter_map(|one| one.set_aside.as_ref());
    aside.flat_map(|aside| [&aside.database, &aside.sql]).map(|path| path.display().to_string()).collect()
}

/// One clause: "12 changes of users are carried over, 3 values are kept in FILE".
pub(super) fn words(carried: &[Carried], whose: &str) -> Option<String> {
    let sums = Sums::of(carried);
    let many = |count: u64, one: &str, more: &str| {
        if count == 1 { format!("1 {one}") } else { format!("{count} {more}") }
    };
    let mut parts = Vec::new();
    if sums.applied + sums.equal > 0 {
        let changes = many(sums.applied + sums.equal, "change", "changes");
        parts.push(format!("{changes} {whose} carried over"));
    }
    if sums.set_aside > 0 {
        let values = many(sums.set_aside, "value that has", "values that have");
        let files = files(carried).into_iter().filter(|file| file.ends_with(".sql")).collect::<Vec<_>>();
        parts.push(format!("{values} no place there kept in {}", files.join(", ")));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The acknowledgements that are missing, each once.
pub(super) fn unacknowledged(carried: &[Carried], given: &[String]) -> Vec<String> {
    let mut words: Vec<String> = carried.iter().flat_map(|one| one.unacknowledged(given)).collect();
    words.sort();
    words.dedup();
    words
}

/// Removes the result and what was set aside with it.
pub(super) fn discard(carried: &[Carried]) -> Result<(), Failure> {
    for one in carried {
        let aside = one.set_aside.iter().flat_map(|aside| [aside.database.as_path(), aside.sql.as_path()]);
        for path in aside.chain([one.out.as_path()]) {
            durable::remove(path)?;
        }
    }
    Ok(())
}

/// Removes a database and its readable text.
pub(super) fn remove_aside(path: &Path) -> Result<(), Failure> {
    durable::remove(path)?;
    durable::remove(&crate::sqlite::connection::beside(path, ".sql"))?;
    Ok(())
}

/// A carry-over that is not there.
pub(super) fn failed(error: &carry::Error) -> Failure {
    let what = "what users wrote could not be carried over";
    match error {
        carry::Error::Sqlite(error) => failure(what, error),
        carry::Error::Gate { .. } => {
            Failure::failed(what, error.to_string(), error.hint()).of_kind(FailureKind::Failed)
        }
    }
}
