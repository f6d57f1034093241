//! Whether a database is what it should be: the paper's seven checks and a few more. Reads only, creates nothing.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use plimsoll_core::check::Verdict;
use rusqlite::Connection;

use super::compressed;
use super::connection::open_read;
use super::diff::{self, Side};
use super::error::message;
use super::fingerprint::{Known, count, interrupted};
use super::history::{self, Applied, Status};
use super::migration::Migrations;
use super::replay::{Expectation, replay};
use super::schema::{self, Column};
use super::verify::{Finding, integrity};
use super::{Control, Error, Phase, census};

/// What a database is compared with.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Tables that must be there.
    pub tables: Vec<String>,
    /// The migrations of the release that runs on it.
    pub migrations: Option<Migrations>,
    /// What was learned from a good database.
    pub learned: Option<Expectation>,
    /// What its owner has written down.
    pub declared: Declared,
}

/// What the owner of a database has written down about it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Declared {
    /// Columns that a table must have, whatever their types.
    pub columns: BTreeMap<String, Vec<String>>,
    /// So many rows a table must have at least.
    pub at_least: BTreeMap<String, u64>,
    /// Versions that must be applied.
    pub versions: Vec<u64>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The checks in their order; each of the paper's seven is always among them.
    pub checks: Vec<Finding>,
    /// Rows by table.
    pub counts: BTreeMap<String, u64>,
    /// What `schema_version` says was applied.
    pub versions: Vec<Applied>,
    /// The database as it is, to be learned; `None` when it cannot be read.
    pub seen: Option<Expectation>,
}

impl Verification {
    /// Whether nothing failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.verdict != Verdict::Fail)
    }

    fn new() -> Self {
        Verification { checks: Vec::new(), counts: BTreeMap::new(), versions: Vec::new(), seen: None }
    }

    fn add(&mut self, name: &str, verdict: Verdict, detail: impl Into<String>) {
        self.checks.push(Finding { name: name.into(), verdict, detail: detail.into() });
    }

    /// What could not be looked at any more.
    fn skip_from(mut self, first: usize, why: &str) -> Self {
        for name in SEVEN.iter().skip(first) {
            self.add(name, Verdict::Skipped, why);
        }
        self
    }
}

/// The paper's checks, in its order.
pub const SEVEN: [&str; 7] =
    ["file_exists", "integrity", "tables", "columns", "data_integrity", "schema_versions", "data_counts"];

/// Examines a database, live or not.
///
/// # Errors
/// [`Error::Unreadable`], [`Error::Busy`], [`Error::Stopped`]. That it is missing or damaged is no error but a failed
/// check.
pub fn examine(path: &Path, wanted: &Wanted, control: &mut Control<'_>) -> Result<Verification, Error> {
    let mut found = Verification::new();
    if path.is_dir() {
        found.add("file_exists", Verdict::Fail, format!("{} is a folder", path.display()));
        return Ok(found.skip_from(1, "there is no database"));
    }
    let mut connection = match open_read(path) {
        Ok(connection) => connection,
        Err(Error::Absent { .. }) => {
            found.add("file_exists", Verdict::Fail, format!("there is no {}", path.display()));
            return Ok(found.skip_from(1, "there is no database"));
        }
        Err(e @ (Error::NotADatabase { .. } | Error::Corrupt { .. })) => {
            found.add("file_exists", Verdict::Pass, path.display().to_string());
            found.add("integrity", Verdict::Fail, e.to_string());
            return Ok(found.skip_from(2, "it cannot be read"));
        }
        Err(e) => return Err(e),
    };
    control.stop.interrupts(&mut connection);
    let stop = control.stop.clone();
    let failed = |e: rusqlite::Error| interrupted(path, &e, &stop);
    // One moment for all of it, also while an app writes.
    let transaction = connection.unchecked_transaction().map_err(failed)?;
    found.add("file_exists", Verdict::Pass, path.display().to_string());
    control.tell(Phase::Checking, 0, 0, "pages");
    match integrity(&transaction) {
        Ok(Known::Is(problems)) if problems.is_empty() => found.add("integrity", Verdict::Pass, "ok"),
        Ok(Known::Is(problems)) => found.add("integrity", Verdict::Fail, problems.join("; ")),
        Ok(Known::Unknown(why)) => {
            found.add("integrity", Verdict::Unknown, format!("could not be checked, app-defined: {why}"));
        }
        Err(e) => match failed(e) {
            Error::Corrupt { why, .. } => found.add("integrity", Verdict::Fail, why),
            other => return Err(other),
        },
    }
    match rest(&transaction, path, wanted, &mut found) {
        Ok(()) => Ok(found),
        Err(e) => match failed(e) {
            Error::Corrupt { why, .. } => {
                let done = found.checks.len();
                found.add("readable", Verdict::Fail, why);
                Ok(found.skip_from(done, "the file is damaged"))
            }
            other => Err(other),
        },
    }
}

fn rest(
    connection: &Connection,
    path: &Path,
    wanted: &Wanted,
    found: &mut Verification,
) -> rusqlite::Result<()> {
    let history = history_of(connection, path, wanted.migrations.as_ref());
    let seen = Expectation::of(connection, path.display().to_string(), true)?;
    for (name, table) in schema::tables(connection)? {
        found.counts.insert(name, count(connection, &table.name)?);
    }
    let (replayed, no_replay) = expected_of_release(wanted.migrations.as_ref(), history.as_ref().ok());
    let expected: Vec<&Expectation> = replayed.iter().chain(&wanted.learned).collect();
    let declared = wanted.declared.columns.keys().chain(wanted.declared.at_least.keys());
    let named: Vec<String> = wanted.tables.iter().chain(declared).cloned().collect();
    tables(&seen, &expected, &named, found);
    columns(&seen, &expected, &wanted.declared, found);
    data_integrity(connection, wanted.learned.as_ref(), found)?;
    versions(&history, wanted, found);
    counts(&seen, wanted, found);
    objects(&seen, &expected, found);
    leftovers(&seen, found);
    if let Some(why) = no_replay {
        found.add("replay", Verdict::Unknown, format!("the migrations could not be replayed: {why}"));
    }
    if let Ok(status) = history {
        found.versions = status.applied;
    }
    let versions = found.versions.iter().map(|line| line.written.clone()).collect();
    found.seen = Some(Expectation { versions, learned_at: Some(Timestamp::now()), ..seen });
    Ok(())
}

fn history_of(
    connection: &Connection,
    path: &Path,
    migrations: Option<&Migrations>,
) -> Result<Status, String> {
    let none = Migrations::default();
    history::read(connection, path, migrations.unwrap_or(&none)).map_err(|e| e.to_string())
}

/// The schema that the applied migrations make; why not, when a file needs rows to run.
fn expected_of_release(
    migrations: Option<&Migrations>,
    status: Option<&Status>,
) -> (Option<Expectation>, Option<String>) {
    let (Some(migrations), Some(status)) = (migrations, status) else { return (None, None) };
    let applied: Vec<_> =
        migrations.all.iter().filter(|migration| !status.pending.contains(&migration.version)).collect();
    if applied.is_empty() {
        return (None, None);
    }
    match replay(&applied) {
        Ok(expectation) => (Some(expectation), None),
        Err(e) => (None, Some(e.to_string())),
    }
}

/// Passes when nothing is wrong; what is only worth a word comes after it.
fn judged(wrong: &[String], remarks: &[String], good: String) -> (Verdict, String) {
    if !wrong.is_empty() {
        return (Verdict::Fail, wrong.join("; "));
    }
    let remarks = if remarks.is_empty() { String::new() } else { format!("; {}", remarks.join("; ")) };
    (Verdict::Pass, format!("{good}{remarks}"))
}

fn has(seen: &Expectation, table: &str) -> bool {
    seen.tables.keys().any(|name| name.eq_ignore_ascii_case(table))
}

fn tables(seen: &Expectation, expected: &[&Expectation], named: &[String], found: &mut Verification) {
    let mut wrong = Vec::new();
    if seen.tables.is_empty() {
        wrong.push("there is no table at all".to_owned());
    }
    let from_config = named.iter().map(|table| (table.as_str(), "the configuration"));
    let from_expected =
        expected.iter().flat_map(|e| e.tables.keys().map(|table| (table.as_str(), e.source.as_str())));
    for (table, source) in from_config.chain(from_expected) {
        if !has(seen, table) && !wrong.iter().any(|line: &String| line.starts_with(&format!("{table} is "))) {
            wrong.push(format!("{table} is missing (expected from {source})"));
        }
    }
    let mut remarks = Vec::new();
    if expected.is_empty() {
        remarks.push("nothing to compare them with: learn from a good database with --learn".to_owned());
    } else {
        let more = seen.tables.keys().filter(|name| !expected.iter().any(|e| has(e, name)));
        let more: Vec<&str> = more.map(String::as_str).collect();
        if !more.is_empty() {
            remarks.push(format!("not expected, and there: {}", more.join(", ")));
        }
    }
    let (verdict, detail) = judged(&wrong, &remarks, format!("{} tables", seen.tables.len()));
    found.add("tables", verdict, detail);
}

fn columns(seen: &Expectation, expected: &[&Expectation], declared: &Declared, found: &mut Verification) {
    if expected.is_empty() && declared.columns.is_empty() {
        let total: usize = seen.tables.values().map(|shape| shape.columns.len()).sum();
        found.add("columns", Verdict::Skipped, format!("{total} columns, and nothing to compare them with"));
        return;
    }
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (table, names) in &declared.columns {
        let now = seen.tables.iter().find(|(name, _)| name.eq_ignore_ascii_case(table));
        // A missing table is told once.
        let Some((_, now)) = now else { continue };
        compared += names.len();
        let missing =
            names.iter().filter(|name| !now.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name)));
        wrong.extend(missing.map(|name| format!("{table}.{name} is missing")));
    }
    for (table, wanted) in expected.iter().flat_map(|e| &e.tables) {
        let now = seen.tables.iter().find(|(name, _)| name.eq_ignore_ascii_case(table));
        // A missing table is told once.
        let Some((_, now)) = now else { continue };
        for column in &wanted.columns {
            compared += 1;
            let there = now.columns.iter().find(|c| c.name.eq_ignore_ascii_case(&column.name));
            let line = match there {
                None => format!("{table}.{} is missing", column.name),
                Some(there) if differs(there, column) => {
                    format!("{table}.{} is {} instead of {}", column.name, words(there), words(column))
                }
                Some(_) => continue,
            };
            if !wrong.contains(&line) {
                wrong.push(line);
            }
        }
    }
    let (verdict, detail) = judged(&wrong, &[], format!("{compared} columns as expected"));
    found.add("columns", verdict, detail);
}

fn differs(one: &Column, other: &Column) -> bool {
    let declared = |column: &Column| column.declared.split_whitespace().collect::<Vec<_>>().join(" ");
    !declared(one).eq_ignore_ascii_case(&declared(other)) || one.not_null != other.not_null
}

fn words(column: &Column) -> String {
    let declared = if column.declared.is_empty() { "without a type" } else { &column.declared };
    format!("{declared}{}", if column.not_null { " NOT NULL" } else { "" })
}

fn data_integrity(
    connection: &Connection,
    learned: Option<&Expectation>,
    found: &mut Verification,
) -> rusqlite::Result<()> {
    let Some(now) = census::violations(connection)? else {
        let why =
            "foreign keys could not be checked: a parent table is missing, or something only the app defines";
        found.add("data_integrity", Verdict::Unknown, why);
        return Ok(());
    };
    let mut wrong = Vec::new();
    let mut known = 0;
    for (table, orphans) in &now {
        let before = learned.and_then(|learned| learned.violations.get(table)).copied().unwrap_or(0);
        if *orphans > before {
            let were = if before > 0 { format!(" instead of {before}") } else { String::new() };
            wrong.push(format!("{table} has {orphans} rows whose parent is gone{were}"));
        } else {
            known += orphans;
        }
    }
    if !wrong.is_empty() && learned.is_none() {
        wrong.push("if they have been there for years, accept them with --learn".to_owned());
    }
    let remarks = if known > 0 {
        vec![format!("{known} orphans that were there when it was learned")]
    } else {
        Vec::new()
    };
    let (verdict, detail) = judged(&wrong, &remarks, "every foreign key has its parent".to_owned());
    found.add("data_integrity", verdict, detail);
    Ok(())
}

fn versions(history: &Result<Status, String>, wanted: &Wanted, found: &mut Verification) {
    let status = match history {
        Ok(status) => status,
        Err(why) => return found.add("schema_versions", Verdict::Fail, why.clone()),
    };
    let numbers = |list: &[u64]| list.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let mut wrong = Vec::new();
    if !status.failed.is_empty() {
        wrong.push(format!("not applied, and noted: {}", status.failed.join(", ")));
    }
    if wanted.migrations.is_some() {
        if !status.pending.is_empty() {
            wrong.push(format!("not applied yet: {}", numbers(&status.pending)));
        }
        if !status.edited.is_empty() {
            wrong.push(format!("edited after they were applied: {}", numbers(&status.edited)));
        }
        let gone: Vec<&str> = status.missing_files.iter().map(|line| line.written.as_str()).collect();
        if !gone.is_empty() {
            wrong.push(format!("applied, and not in the release: {}", gone.join(", ")));
        }
    }
    for version in wanted.learned.iter().flat_map(|learned| &learned.versions) {
        if !status.applied.iter().any(|line| line.written == *version) {
            wrong.push(format!("{version} is missing"));
        }
    }
    for version in &wanted.declared.versions {
        if !status.applied.iter().any(|line| line.version == Some(*version)) {
            wrong.push(format!("{version} is missing"));
        }
    }
    if wrong.is_empty() && status.applied.is_empty() {
        return found.add(
            "schema_versions",
            Verdict::Skipped,
            "there is no schema_version, and none is expected",
        );
    }
    let good = match status.applied.last() {
        Some(last) => {
            format!("{} applied, the last is {} {}", status.applied.len(), last.written, last.description)
        }
        None => String::new(),
    };
    let (verdict, detail) = judged(&wrong, &[], good.trim_end().to_owned());
    found.add("schema_versions", verdict, detail);
}

fn counts(seen: &Expectation, wanted: &Wanted, found: &mut Verification) {
    let mut wrong = Vec::new();
    for (table, shape) in wanted.learned.iter().flat_map(|learned| &learned.tables) {
        let now = seen.tables.get(table).and_then(|shape| shape.rows);
        if let (Some(before @ 1..), Some(0)) = (shape.rows, now) {
            wrong.push(format!("{table} is empty and had {before} rows"));
        }
    }
    for (table, least) in &wanted.declared.at_least {
        let now = seen.tables.iter().find(|(name, _)| name.eq_ignore_ascii_case(table));
        if let Some(rows) = now.and_then(|(_, shape)| shape.rows).filter(|rows| rows < least) {
            wrong.push(format!("{table} has {rows} rows, and at least {least} are expected"));
        }
    }
    let rows: u64 = seen.tables.values().filter_map(|shape| shape.rows).sum();
    let named: Vec<String> = wanted
        .tables
        .iter()
        .filter_map(|table| Some(format!("{table}: {}", seen.tables.get(table)?.rows?)))
        .collect();
    let (verdict, detail) = judged(&wrong, &named, format!("{rows} rows in {} tables", seen.tables.len()));
    found.add("data_counts", verdict, detail);
}

fn objects(seen: &Expectation, expected: &[&Expectation], found: &mut Verification) {
    if expected.is_empty() {
        return;
    }
    let mut wrong: Vec<String> = Vec::new();
    for object in expected.iter().flat_map(|e| &e.objects) {
        if !seen.objects.iter().any(|o| o.kind == object.kind && o.name == object.name) {
            let line = format!("{} {} on {} is missing", object.kind, object.name, object.table);
            if !wrong.contains(&line) {
                wrong.push(line);
            }
        }
    }
    let (verdict, detail) =
        judged(&wrong, &[], format!("{} indexes, triggers and views", seen.objects.len()));
    found.add("objects", verdict, detail);
}

/// What a rebuild that was cut off leaves behind poisons the next one.
fn leftovers(seen: &Expectation, found: &mut Verification) {
    let helper = |name: &str| {
        let base = ["_new", "_old", "_tmp", "_temp", "_backup"].iter().find_map(|end| name.strip_suffix(end));
        base.or_else(|| name.strip_prefix("new_")).is_some_and(|base| has(seen, base))
    };
    let left: Vec<&str> = seen.tables.keys().map(String::as_str).filter(|name| helper(name)).collect();
    if !left.is_empty() {
        let detail =
            format!("beside a table of that name, perhaps of a rebuild cut off: {}", left.join(", "));
        found.add("leftovers", Verdict::Unknown, detail);
    }
}

/// Compares a database with a backup: what is gone fails, what came or changed is told.
///
/// # Errors
/// When one of the two cannot be read.
pub fn compare(backup: &Path, database: &Path, control: &mut Control<'_>) -> Result<Vec<Finding>, Error> {
    let unpacked =
        if compressed::is(backup) { Some(compressed::unpack(backup, None, &control.stop)?) } else { None };
    let plain = unpacked.as_ref().map_or(backup, |partial| partial.path());
    let found = diff::rows(Side::Finished(plain), Side::Live(database), 0, &control.stop)?;
    let own = |table: &str| table == history::TABLE || table == history::SIDE_TABLE;
    let mut list = Vec::new();
    let mut add = |name: String, verdict, detail| list.push(Finding { name, verdict, detail });
    for (table, rows) in &found.only_first {
        add(format!("compare {table}"), Verdict::Fail, format!("the table is gone, and with it {rows} rows"));
    }
    for (table, rows) in &found.only_second {
        add(format!("compare {table}"), Verdict::Pass, format!("new, {rows} rows"));
    }
    for (table, rows) in found.tables.iter().filter(|(table, _)| !own(table)) {
        let gone = if rows.only_first.is_empty() {
            String::new()
        } else {
            format!(", columns gone: {}", rows.only_first.join(", "))
        };
        let detail =
            format!("{} rows new, {} changed, {} gone{gone}", rows.inserted, rows.changed, rows.deleted);
        // A row that is gone may be a cart that was emptied; fewer rows than the backup has are not.
        let fewer = rows.deleted > rows.inserted || !gone.is_empty();
        add(format!("compare {table}"), if fewer { Verdict::Fail } else { Verdict::Pass }, detail);
    }
    let objects = |path: &Path, live: bool| -> Result<Vec<schema::Object>, Error> {
        let connection = if live { open_read(path)? } else { super::connection::open_finished(path)? };
        schema::objects(&connection).map_err(|e| Error::Sqlite {
            path: path.to_owned(),
            doing: "comparing schemas".into(),
            why: message(&e),
        })
    };
    let now = objects(database, true)?;
    for object in objects(plain, false)?.iter().filter(|o| o.kind != "table" && o.sql.is_some()) {
        if !now.iter().any(|other| other.kind == object.kind && other.name == object.name) {
            add(
                format!("compare {}", object.table),
                Verdict::Fail,
                format!("{} {} is gone", object.kind, object.name),
            );
        }
    }
    if list.is_empty() {
        let name = backup.file_name().unwrap_or_default().to_string_lossy();
        list.push(Finding {
            name: "compare".into(),
            verdict: Verdict::Pass,
            detail: format!("tables, schema and rows are those of {name}"),
        });
    }
    Ok(list)
}
