//! Makes the differences in the copy of the backup: deletes, then updates and inserts until nothing moves any more, then
//! what only stands in each other's way.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension, Params, Statement, ffi, params};

use super::Reason;
use super::ledger::{APPLIED, ASIDE, CHANGED, DELETED, INSERTED, PENDING, column_at, number};
use super::plan::Mapping;
use super::shape::{Shape, faithful, of};
use crate::sqlite::connection::quoted;
use crate::sqlite::error::{app_defined, message};

/// A row with differences that are still open.
#[derive(Clone, Copy, Debug)]
struct Unit {
    mapping: usize,
    row: i64,
    op: i64,
    bag: bool,
}

/// Applies whatever is pending; afterwards nothing is.
pub(super) fn all(connection: &Connection, mappings: &[Mapping]) -> rusqlite::Result<()> {
    let apply = Apply { connection, mappings, prepared: RefCell::default() };
    for unit in apply.open(true)? {
        let refusal = apply.delete(unit)?;
        apply.settle(unit, refusal)?;
    }
    let mut open: Vec<(Unit, Reason)> = Vec::new();
    for unit in apply.open(false)? {
        match apply.attempt(unit)? {
            Some(Reason::Unique) => open.push((unit, Reason::Unique)),
            refusal => apply.settle(unit, refusal)?,
        }
    }
    // Backwards once: a shift by one frees its places from the end.
    for turn in 0..2 {
        let before = open.len();
        open.reverse();
        let mut left = Vec::new();
        for (unit, _) in open {
            match apply.attempt(unit)? {
                Some(Reason::Unique) => left.push((unit, Reason::Unique)),
                refusal => apply.settle(unit, refusal)?,
            }
        }
        open = left;
        if open.is_empty() || (turn > 0 && open.len() == before) {
            break;
        }
    }
    apply.together(open)
}

struct Apply<'a> {
    connection: &'a Connection,
    mappings: &'a [Mapping],
    /// One for each table and set of columns: the same few statements serve every row.
    prepared: RefCell<HashMap<String, Statement<'a>>>,
}

impl<'a> Apply<'a> {
    fn with<T>(
        &self,
        sql: &str,
        run: impl FnOnce(&mut Statement<'a>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut prepared = self.prepared.borrow_mut();
        if !prepared.contains_key(sql) {
            prepared.insert(sql.to_owned(), self.connection.prepare(sql)?);
        }
        match prepared.get_mut(sql) {
            Some(statement) => run(statement),
            None => Err(rusqlite::Error::InvalidQuery),
        }
    }

    fn run(&self, sql: &str, values: impl Params) -> rusqlite::Result<usize> {
        self.with(sql, |statement| statement.execute(values))
    }

    /// The rows with open entries: only the deleted ones, or all others with the changed ones first.
    fn open(&self, deleted: bool) -> rusqlite::Result<Vec<Unit>> {
        let mut units = Vec::new();
        for mapping in 0..self.mappings.len() {
            let which = if deleted { "=" } else { "<>" };
            let mut statement = self.connection.prepare(&format!(
                "SELECT id, op, bag FROM work.d{mapping} WHERE op {which} {DELETED} AND EXISTS
                 (SELECT 1 FROM work.entry WHERE mapping = {mapping} AND row = id AND state = {PENDING})"
            ))?;
            let rows = statement.query_map([], |row| {
                Ok(Unit { mapping, row: row.get(0)?, op: row.get(1)?, bag: row.get(2)? })
            })?;
            for unit in rows {
                units.push(unit?);
            }
        }
        units.sort_by_key(|unit| (unit.op != CHANGED, unit.mapping, unit.row));
        Ok(units)
    }

    fn settle(&self, unit: Unit, refusal: Option<Reason>) -> rusqlite::Result<()> {
        let state = if refusal.is_some() { ASIDE } else { APPLIED };
        let sql =
            "UPDATE work.entry SET state = ?1, reason = ?2 WHERE mapping = ?3 AND row = ?4 AND state = 0";
        self.run(sql, params![state, refusal.map(Reason::code), number(unit.mapping), unit.row])?;
        Ok(())
    }

    fn target(&self, unit: Unit) -> Option<(&Mapping, &Shape)> {
        let mapping = &self.mappings[unit.mapping];
        mapping.target.as_ref().map(|target| (mapping, target))
    }

    /// `None` when it is done.
    fn attempt(&self, unit: Unit) -> rusqlite::Result<Option<Reason>> {
        if unit.op == INSERTED { self.insert(unit) } else { self.update(unit) }
    }

    fn delete(&self, unit: Unit) -> rusqlite::Result<Option<Reason>> {
        let Some((mapping, target)) = self.target(unit) else { return Ok(Some(Reason::NoTable)) };
        let table = quoted(&target.name);
        if !unit.bag {
            let sql = format!("DELETE FROM main.{table} WHERE {}", key_of(mapping, unit));
            return self.once(&sql, unit, Reason::RowNotInBackup);
        }
        let Some(rowid) = target.rowid else { return Ok(Some(Reason::NoKey)) };
        let alike = |(place, name)| faithful(&of("m", name), &format!("s.o{place}"));
        let alike: Vec<String> = mapping.targets().map(alike).collect();
        let found = format!(
            "FROM main.{table} m, work.d{} s WHERE s.id = ?1 AND {}",
            unit.mapping,
            alike.join(" AND ")
        );
        if mapping.narrower() {
            // Rows that only a column that the migration dropped tells apart: which one is meant cannot be known.
            let sql = format!("SELECT count(*) {found}");
            let many: i64 = self.with(&sql, |statement| statement.query_row([unit.row], |row| row.get(0)))?;
            if many > 1 {
                return Ok(Some(Reason::NoKey));
            }
        }
        let sql = format!("DELETE FROM main.{table} WHERE {rowid} = (SELECT m.{rowid} {found} LIMIT 1)");
        self.once(&sql, unit, Reason::RowNotInBackup)
    }

    fn insert(&self, unit: Unit) -> rusqlite::Result<Option<Reason>> {
        let Some((mapping, target)) = self.target(unit) else { return Ok(Some(Reason::NoTable)) };
        let given = mapping.targets().filter(|(place, _)| mapping.columns[*place].in_now);
        let (places, names): (Vec<String>, Vec<String>) =
            given.map(|(place, name)| (format!("n{place}"), quoted(name))).unzip();
        // OR ABORT: a conflict clause in the schema could replace another row or skip this one without a word.
        let sql = format!(
            "INSERT OR ABORT INTO main.{} ({}) SELECT {} FROM work.d{} WHERE id = ?1",
            quoted(&target.name),
            names.join(", "),
            places.join(", "),
            unit.mapping
        );
        self.once(&sql, unit, Reason::NoKey)
    }

    fn update(&self, unit: Unit) -> rusqlite::Result<Option<Reason>> {
        let Some((mapping, target)) = self.target(unit) else { return Ok(Some(Reason::NoTable)) };
        let set = self
            .changed(unit, mapping)?
            .into_iter()
            .map(|(name, value)| format!("{} = {value}", quoted(&name)));
        let sql = format!(
            "UPDATE OR ABORT main.{} SET {} WHERE {}",
            quoted(&target.name),
            set.collect::<Vec<_>>().join(", "),
            key_of(mapping, unit)
        );
        self.once(&sql, unit, Reason::RowNotInBackup)
    }

    /// The open columns of a row and their new values as SQL.
    fn changed(&self, unit: Unit, mapping: &Mapping) -> rusqlite::Result<Vec<(String, String)>> {
        let sql =
            "SELECT column FROM work.entry WHERE mapping = ?1 AND row = ?2 AND state = 0 ORDER BY column";
        let places: Vec<i64> = self.with(sql, |statement| {
            statement.query_map(params![number(unit.mapping), unit.row], |row| row.get(0))?.collect()
        })?;
        let mut set = Vec::new();
        for place in places {
            let Some(place) = column_at(place) else { continue };
            if let Some(name) = &mapping.columns[place].target {
                let value = format!("(SELECT n{place} FROM work.d{} WHERE id = ?1)", unit.mapping);
                set.push((name.clone(), value));
            }
        }
        Ok(set)
    }

    /// Runs a statement that must touch one row; `none` is the reason when it touches none.
    fn once(&self, sql: &str, unit: Unit, none: Reason) -> rusqlite::Result<Option<Reason>> {
        match self.run(sql, [unit.row]) {
            Ok(0) => Ok(Some(none)),
            Ok(_) => Ok(None),
            Err(e) => refusal(&e).map_or(Err(e), |reason| Ok(Some(reason))),
        }
    }

    /// Rows that take each other's unique values: all out, all in again. Whoever does not fit stays as it was, and the
    /// others try again without it.
    fn together(&self, open: Vec<(Unit, Reason)>) -> rusqlite::Result<()> {
        let virtual_table = |unit: &Unit| {
            self.mappings[unit.mapping].target.as_ref().is_some_and(|target| target.virtual_table)
        };
        let (alone, mut group): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|(unit, _)| virtual_table(unit));
        for (unit, reason) in alone {
            self.settle(unit, Some(reason))?;
        }
        while !group.is_empty() {
            self.connection.execute_batch("SAVEPOINT together")?;
            self.park(&group)?;
            let mut refused = BTreeMap::new();
            for (number, (unit, _)) in group.iter().enumerate() {
                let refusal = if unit.op == INSERTED { self.insert(*unit)? } else { self.unpark(*unit)? };
                if let Some(reason) = refusal {
                    refused.insert(number, reason);
                }
            }
            if refused.is_empty() {
                self.connection.execute_batch("RELEASE together")?;
                for (unit, _) in group {
                    self.settle(unit, None)?;
                }
                break;
            }
            self.connection.execute_batch("ROLLBACK TO together; RELEASE together")?;
            let mut left = Vec::new();
            for (number, (unit, _)) in group.into_iter().enumerate() {
                match refused.get(&number) {
                    Some(reason) => self.settle(unit, Some(*reason))?,
                    None => left.push((unit, Reason::Unique)),
                }
            }
            group = left;
        }
        Ok(())
    }

    /// Moves the changed rows out of their tables, with their new values.
    fn park(&self, group: &[(Unit, Reason)]) -> rusqlite::Result<()> {
        for (unit, _) in group.iter().filter(|(unit, _)| unit.op == CHANGED) {
            let Some((mapping, target)) = self.target(*unit) else { continue };
            let (table, parked) = (quoted(&target.name), format!("work.p{}", unit.mapping));
            let columns = stored(target);
            let names: Vec<String> = (0..columns.len()).map(|place| format!("c{place}")).collect();
            let made: Option<i64> = self
                .connection
                .query_row(
                    "SELECT 1 FROM work.sqlite_schema WHERE name = ?1",
                    [format!("p{}", unit.mapping)],
                    |row| row.get(0),
                )
                .optional()?;
            if made.is_none() {
                let list = names.join(", ");
                self.connection
                    .execute_batch(&format!("CREATE TABLE {parked} (id INTEGER PRIMARY KEY, {list})"))?;
            }
            let key = key_of(mapping, *unit);
            let list = columns.join(", ");
            self.run(
                &format!("INSERT INTO {parked} SELECT ?1, {list} FROM main.{table} WHERE {key}"),
                [unit.row],
            )?;
            let set = self.changed(*unit, mapping)?.into_iter().filter_map(|(name, value)| {
                let at = columns.iter().position(|column| *column == quoted(&name))?;
                Some(format!("c{at} = {value}"))
            });
            let set = set.collect::<Vec<_>>().join(", ");
            self.run(&format!("UPDATE {parked} SET {set} WHERE id = ?1"), [unit.row])?;
            self.run(&format!("DELETE FROM main.{table} WHERE {key}"), [unit.row])?;
        }
        Ok(())
    }

    fn unpark(&self, unit: Unit) -> rusqlite::Result<Option<Reason>> {
        let Some((_, target)) = self.target(unit) else { return Ok(Some(Reason::NoTable)) };
        let columns = stored(target);
        let names: Vec<String> = (0..columns.len()).map(|place| format!("c{place}")).collect();
        let sql = format!(
            "INSERT OR ABORT INTO main.{} ({}) SELECT {} FROM work.p{} WHERE id = ?1",
            quoted(&target.name),
            columns.join(", "),
            names.join(", "),
            unit.mapping
        );
        self.once(&sql, unit, Reason::RowNotInBackup)
    }
}

/// All columns of a table that are stored, and the row number when no column is it.
fn stored(target: &Shape) -> Vec<String> {
    let mut columns: Vec<String> = target.columns.iter().map(|column| quoted(&column.name)).collect();
    let integer_key = target.key.len() == 1
        && target.column(&target.key[0]).is_some_and(|c| c.declared.eq_ignore_ascii_case("integer"));
    if let (Some(rowid), false) = (target.rowid, integer_key) {
        columns.push(rowid.to_owned());
    }
    columns
}

/// Where a row is in the backup's table; ?1 is its number among the written-down rows.
fn key_of(mapping: &Mapping, unit: Unit) -> String {
    let condition = |place: &usize| {
        let target = mapping.columns[*place].target.as_deref()?;
        Some(format!("{} = (SELECT o{place} FROM work.d{} WHERE id = ?1)", quoted(target), unit.mapping))
    };
    mapping.key.iter().filter_map(condition).collect::<Vec<_>>().join(" AND ")
}

/// Why SQLite did not take a row; `None` when that is no judgement of the row.
fn refusal(error: &rusqlite::Error) -> Option<Reason> {
    if app_defined(&message(error)) {
        return Some(Reason::AppDefined);
    }
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return None };
    match failure.extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE
        | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
        | ffi::SQLITE_CONSTRAINT_ROWID
        | ffi::SQLITE_CONSTRAINT_VTAB => Some(Reason::Unique),
        ffi::SQLITE_CONSTRAINT_NOTNULL => Some(Reason::NotNull),
        ffi::SQLITE_CONSTRAINT_DATATYPE => Some(Reason::Type),
        ffi::SQLITE_CONSTRAINT_CHECK => Some(Reason::Check),
        ffi::SQLITE_MISMATCH => Some(Reason::Type),
        code if code & 0xff == ffi::SQLITE_CONSTRAINT => Some(Reason::Check),
        _ => None,
    }
}
