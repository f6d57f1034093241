//! Every difference between POST and NOW, written down once, and what became of it.
//!
//! A scratch database beside the result: one table of old and new values per mapping, and the entries. An entry is a
//! row that came or went, or one column of a row that changed. Its primary key is why nothing is counted twice, and
//! `state` has one value, so that an entry is in exactly one class.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, Statement, params};

use super::Reason;
use super::plan::Mapping;
use super::shape::of;
use crate::sqlite::connection::quoted;

pub(super) const PENDING: i64 = 0;
pub(super) const APPLIED: i64 = 1;
pub(super) const EQUAL: i64 = 2;
pub(super) const ASIDE: i64 = 3;

pub(super) const INSERTED: i64 = 0;
pub(super) const CHANGED: i64 = 1;
pub(super) const DELETED: i64 = 2;

/// The column of an entry that is about the whole row.
pub(super) const ROW: i64 = -1;

/// The number of a mapping or the place of a column, as it is stored.
pub(super) fn number(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

/// The place of a column; `None` for [`ROW`].
pub(super) fn column_at(number: i64) -> Option<usize> {
    usize::try_from(number).ok()
}

/// Makes the scratch database's own tables.
pub(super) fn begin(connection: &Connection, mappings: &[Mapping]) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE work.entry (
             mapping INTEGER NOT NULL, row INTEGER NOT NULL, column INTEGER NOT NULL, state INTEGER NOT NULL,
             reason TEXT, PRIMARY KEY (mapping, row, column)
         ) WITHOUT ROWID;",
    )?;
    for (at, mapping) in mappings.iter().enumerate() {
        let sides = |side: char| (0..mapping.columns.len()).map(move |place| format!(", {side}{place}"));
        // No declared types: values stay what they are.
        let columns: String = sides('o').chain(sides('n')).collect();
        connection.execute_batch(&format!(
            "CREATE TABLE work.d{at} (id INTEGER PRIMARY KEY, op INTEGER NOT NULL, bag INTEGER NOT NULL{columns});"
        ))?;
        let Some(near) = &mapping.near else { continue };
        connection.execute_batch(&format!("CREATE TABLE work.r{at} (low INTEGER, high INTEGER);"))?;
        let mut insert = connection.prepare(&format!("INSERT INTO work.r{at} VALUES (?1, ?2)"))?;
        for (low, high) in &near.ranges {
            insert.execute([low, high])?;
        }
    }
    Ok(())
}

/// Writes down the differences of one mapping. Returns how many there are.
pub(super) fn write(connection: &Connection, at: usize, mapping: &Mapping) -> rusqlite::Result<u64> {
    let width = mapping.columns.len();
    let holes = vec!["?"; width * 2 + 2].join(", ");
    let mut writer = Writer {
        row: connection.prepare(&format!("INSERT INTO work.d{at} VALUES (NULL, {holes})"))?,
        entry: connection.prepare("INSERT INTO work.entry VALUES (?1, ?2, ?3, ?4, ?5)")?,
        connection,
        number: number(at),
        mapping,
        entries: 0,
    };
    if !mapping.key.is_empty() {
        keyed(connection, mapping, &mut writer)?;
    }
    bag(connection, mapping, &mut writer)?;
    Ok(writer.entries)
}

struct Writer<'a> {
    connection: &'a Connection,
    row: Statement<'a>,
    entry: Statement<'a>,
    number: i64,
    mapping: &'a Mapping,
    entries: u64,
}

impl Writer<'_> {
    fn add(
        &mut self,
        op: i64,
        bag: bool,
        old: Option<&[ValueRef<'_>]>,
        new: Option<&[ValueRef<'_>]>,
    ) -> rusqlite::Result<()> {
        let width = self.mapping.columns.len();
        self.row.raw_bind_parameter(1, op)?;
        self.row.raw_bind_parameter(2, bag)?;
        for place in 0..width {
            let [old, new] = [old, new].map(|side| side.map_or(ValueRef::Null, |side| side[place]));
            // Bound as they were read: text that is not valid UTF-8 stays the text that it is.
            self.row.raw_bind_parameter(3 + place, ToSqlOutput::Borrowed(old))?;
            self.row.raw_bind_parameter(3 + width + place, ToSqlOutput::Borrowed(new))?;
        }
        self.row.raw_execute()?;
        let row = self.connection.last_insert_rowid();
        match (old, new) {
            (Some(old), Some(new)) => {
                for place in 0..width {
                    if !same(old[place], new[place]) {
                        let known = self.mapping.columns[place].target.is_some();
                        self.enter(row, number(place), known)?;
                    }
                }
            }
            _ => self.enter(row, ROW, true)?,
        }
        let Some(new) = new.filter(|_| op == INSERTED && self.mapping.refused.is_none()) else {
            return Ok(());
        };
        for (place, column) in self.mapping.columns.iter().enumerate() {
            // What the migration would give the row by itself is no loss.
            let plain = matches!(new[place], ValueRef::Null) || same(new[place], (&column.default).into());
            if column.target.is_none() && !plain {
                self.enter(row, number(place), false)?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, row: i64, column: i64, known: bool) -> rusqlite::Result<()> {
        let reason = self.mapping.refused.or((!known).then_some(Reason::NoColumn));
        let state = if reason.is_some() { ASIDE } else { PENDING };
        self.entry.execute(params![self.number, row, column, state, reason.map(Reason::code)])?;
        self.entries += 1;
        Ok(())
    }
}

/// Type and value, to the bit.
fn same(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    match (a, b) {
        (ValueRef::Real(a), ValueRef::Real(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

/// The columns of one side; NULL where that side has no such column.
fn list(mapping: &Mapping, alias: &str, now: bool) -> String {
    let column = |column: &super::plan::Mapped| {
        if if now { column.in_now } else { column.in_post } { of(alias, &column.name) } else { "NULL".into() }
    };
    mapping.columns.iter().map(column).collect::<Vec<_>>().join(", ")
}

/// A side's table as `alias`; only the rows that can differ, where that is known.
fn rows_of(at: i64, mapping: &Mapping, now: bool, table: &str, alias: &str) -> String {
    let (schema, table) = (if now { "now" } else { "post" }, quoted(table));
    match &mapping.near {
        Some(near) => {
            let rowid = if now { near.now } else { near.post };
            // CROSS JOIN: the ranges first, whatever SQLite guesses.
            format!(
                "work.r{at} r CROSS JOIN {schema}.{table} {alias} ON {alias}.{rowid} BETWEEN r.low AND r.high"
            )
        }
        None => format!("{schema}.{table} {alias}"),
    }
}

fn key_columns<'a>(mapping: &'a Mapping, alias: &'a str) -> impl Iterator<Item = String> + 'a {
    mapping.key.iter().map(move |place| of(alias, &mapping.columns[*place].name))
}

fn all(conditions: impl Iterator<Item = String>) -> String {
    conditions.collect::<Vec<_>>().join(" AND ")
}

fn values<'a>(row: &'a Row<'_>, from: usize, width: usize) -> rusqlite::Result<Vec<ValueRef<'a>>> {
    (from..from + width).map(|place| row.get_ref(place)).collect()
}

/// Rows with a key without NULL are paired through the key's own index, one lookup a row, so that its collation and
/// type conversion are those by which it is unique.
fn keyed(connection: &Connection, mapping: &Mapping, writer: &mut Writer<'_>) -> rusqlite::Result<()> {
    let width = mapping.columns.len();
    let matched =
        all(key_columns(mapping, "p").zip(key_columns(mapping, "n")).map(|(p, n)| format!("{p} = {n}")));
    let back =
        all(key_columns(mapping, "p").zip(key_columns(mapping, "n")).map(|(p, n)| format!("{n} = {p}")));
    let given = |alias| all(key_columns(mapping, alias).map(|column| format!("{column} IS NOT NULL")));
    let (new, old) = (list(mapping, "n", true), list(mapping, "p", false));
    if let Some(now) = &mapping.now {
        let now = rows_of(writer.number, mapping, true, now, "n");
        let sql = match &mapping.post {
            Some(post) => {
                let first = key_columns(mapping, "p").next().unwrap_or_default();
                let post = quoted(post);
                format!(
                    "SELECT {new}, {old}, {first} IS NOT NULL FROM {now} LEFT JOIN post.{post} p ON {matched} WHERE {}",
                    given("n")
                )
            }
            None => format!("SELECT {new}, {new}, 0 FROM {now} WHERE {}", given("n")),
        };
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let new = values(row, 0, width)?;
            if !row.get::<_, bool>(width * 2)? {
                writer.add(INSERTED, false, None, Some(&new))?;
                continue;
            }
            let old = values(row, width, width)?;
            if !old.iter().zip(&new).all(|(old, new)| same(*old, *new)) {
                writer.add(CHANGED, false, Some(&old), Some(&new))?;
            }
        }
    }
    if let Some(post) = &mapping.post {
        let gone = match &mapping.now {
            Some(now) => format!("NOT EXISTS (SELECT 1 FROM now.{} n WHERE {back})", quoted(now)),
            None => "1".into(),
        };
        let from = rows_of(writer.number, mapping, false, post, "p");
        let sql = format!("SELECT {old} FROM {from} WHERE {} AND {gone}", given("p"));
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            writer.add(DELETED, false, Some(&values(row, 0, width)?), None)?;
        }
    }
    Ok(())
}

/// Rows that only their values tell apart: without a key, or with NULL in it, which SQLite allows more than once. What
/// one side has more often than the other came or went; a change is one of each.
fn bag(connection: &Connection, mapping: &Mapping, writer: &mut Writer<'_>) -> rusqlite::Result<()> {
    let width = mapping.columns.len();
    let at = writer.number;
    let side = |schema: &str, alias: &str, table: Option<&String>, weight: i64| {
        let table = table?;
        let condition = if mapping.key.is_empty() {
            "1".into()
        } else {
            key_columns(mapping, alias).map(|c| format!("{c} IS NULL")).collect::<Vec<_>>().join(" OR ")
        };
        let columns = mapping.columns.iter().enumerate().map(|(place, column)| {
            let there = if schema == "now" { column.in_now } else { column.in_post };
            if there {
                format!("{} AS c{place}", of(alias, &column.name))
            } else {
                format!("NULL AS c{place}")
            }
        });
        let columns = columns.collect::<Vec<_>>().join(", ");
        Some(format!(
            "SELECT {columns}, {weight} AS times FROM {} WHERE {condition}",
            rows_of(at, mapping, schema == "now", table, alias)
        ))
    };
    let sides = [side("now", "n", mapping.now.as_ref(), 1), side("post", "p", mapping.post.as_ref(), -1)];
    let both = sides.into_iter().flatten().collect::<Vec<_>>().join(" UNION ALL ");
    let select: String = (0..width).map(|place| format!("c{place}, ")).collect();
    let group = (0..width)
        .map(|place| format!("c{place} COLLATE BINARY, typeof(c{place})"))
        .collect::<Vec<_>>()
        .join(", ");
    let sql = format!("SELECT {select} sum(times) AS more FROM ({both}) GROUP BY {group} HAVING more <> 0");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let more: i64 = row.get(width)?;
        let values = values(row, 0, width)?;
        for _ in 0..more.unsigned_abs() {
            if more > 0 {
                writer.add(INSERTED, true, None, Some(&values))?;
            } else {
                writer.add(DELETED, true, Some(&values), None)?;
            }
        }
    }
    Ok(())
}

/// How many entries of a mapping have a state and a reason.
pub(super) struct Sum {
    pub(super) mapping: usize,
    pub(super) state: i64,
    pub(super) reason: Option<String>,
    pub(super) count: u64,
}

pub(super) fn sums(connection: &Connection) -> rusqlite::Result<Vec<Sum>> {
    let mut statement = connection
        .prepare("SELECT mapping, state, reason, count(*) FROM work.entry GROUP BY mapping, state, reason")?;
    let rows = statement.query_map([], |row| {
        let mapping = column_at(row.get(0)?).unwrap_or(usize::MAX);
        Ok(Sum {
            mapping,
            state: row.get(1)?,
            reason: row.get(2)?,
            count: row.get::<_, i64>(3)?.unsigned_abs(),
        })
    })?;
    rows.collect()
}
