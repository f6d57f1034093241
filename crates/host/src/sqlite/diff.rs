//! The rows in which two databases differ, paired by primary key.
//!
//! Both sides are read in the order of the key and merged, so memory does not grow with the tables. A table without a
//! key is compared as a bag of rows: its "key" is the whole row, an update shows as one deleted and one inserted.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Rows};

use super::connection::{open_finished, open_read, quoted};
use super::schema::{self, Table};
use super::{Error, Stop};

/// One row that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange {
    /// The primary key's columns; empty for a table without one.
    pub key: Vec<(String, Value)>,
    /// What became of it.
    pub change: Change,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Only in the second database: all its columns.
    Inserted(Vec<(String, Value)>),
    /// Only in the first: all its columns.
    Deleted(Vec<(String, Value)>),
    /// In both with other values: column, first value, second value.
    Changed(Vec<(String, Value, Value)>),
}

/// How one table differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableDiff {
    /// Rows only in the second.
    pub inserted: u64,
    /// Rows only in the first.
    pub deleted: u64,
    /// Rows with other values.
    pub changed: u64,
    /// How many rows have another value, per column.
    pub changed_columns: BTreeMap<String, u64>,
    /// The rows themselves, up to the limit.
    pub rows: Vec<RowChange>,
    /// Whether rows were paired by a key; otherwise they were counted as a bag.
    pub keyed: bool,
    /// Columns that only the first has.
    pub only_first: Vec<String>,
    /// Columns that only the second has.
    pub only_second: Vec<String>,
}

impl TableDiff {
    /// Rows that differ.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.inserted + self.deleted + self.changed
    }
}

/// How two databases differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// The tables that differ, by name.
    pub tables: BTreeMap<String, TableDiff>,
    /// Tables that only the first has, and their rows.
    pub only_first: BTreeMap<String, u64>,
    /// Tables that only the second has, and their rows.
    pub only_second: BTreeMap<String, u64>,
}

impl Diff {
    /// Whether no row differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.only_first.is_empty() && self.only_second.is_empty()
    }

    /// Rows that differ, those of tables that only one has included.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.tables.values().map(TableDiff::total).sum::<u64>()
            + self.only_first.values().sum::<u64>()
            + self.only_second.values().sum::<u64>()
    }
}

/// A database to compare.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// One that others may have open.
    Live(&'a Path),
    /// A finished copy that nobody writes.
    Finished(&'a Path),
}

impl Side<'_> {
    fn open(self) -> Result<(Connection, PathBuf), Error> {
        match self {
            Side::Live(path) => Ok((open_read(path)?, path.to_owned())),
            Side::Finished(path) => Ok((open_finished(path)?, path.to_owned())),
        }
    }
}

/// Compares two databases; keeps at most `limit` rows of each table, and counts all.
///
/// # Errors
/// When one cannot be read; [`Error::Stopped`], [`Error::Deadline`].
pub fn rows(first: Side<'_>, second: Side<'_>, limit: usize, stop: &Stop) -> Result<Diff, Error> {
    let mut kept: BTreeMap<String, Vec<RowChange>> = BTreeMap::new();
    let mut diff = each(first, second, stop, &mut |table, row| {
        let rows = kept.entry(table.to_owned()).or_default();
        if rows.len() < limit {
            rows.push(row);
        }
        Ok(())
    })?;
    for (table, rows) in kept {
        if let Some(found) = diff.tables.get_mut(&table) {
            found.rows = rows;
        }
    }
    Ok(diff)
}

/// Compares two databases and hands every differing row to `visit`, those of tables that only one has included.
///
/// # Errors
/// As [`rows`], and whatever `visit` returns.
pub fn each(
    first: Side<'_>,
    second: Side<'_>,
    stop: &Stop,
    visit: &mut dyn FnMut(&str, RowChange) -> Result<(), Error>,
) -> Result<Diff, Error> {
    let ((mut one, one_path), (mut two, two_path)) = (first.open()?, second.open()?);
    stop.interrupts(&mut one);
    stop.interrupts(&mut two);
    let failed = |path: &Path, e: &rusqlite::Error| super::fingerprint::interrupted(path, e, stop);
    let one = one.unchecked_transaction().map_err(|e| failed(&one_path, &e))?;
    let two = two.unchecked_transaction().map_err(|e| failed(&two_path, &e))?;
    let one_tables = schema::tables(&one).map_err(|e| failed(&one_path, &e))?;
    let two_tables = schema::tables(&two).map_err(|e| failed(&two_path, &e))?;
    let mut diff = Diff::default();
    let names: BTreeSet<&String> = one_tables.keys().chain(two_tables.keys()).collect();
    for name in names {
        let (first, second) = (one_tables.get(name), two_tables.get(name));
        let (Some(some), Some(other)) = (first.or(second), second.or(first)) else { continue };
        let sides = Sides { one: first.map(|_| &*one), two: second.map(|_| &*two) };
        let found = Pairing::of(some, other).merge(sides, name, &mut |row| visit(name, row));
        let found = found.map_err(|e| match e {
            Stopped::Sqlite(e) => failed(if second.is_some() { &two_path } else { &one_path }, &e),
            Stopped::Visit(e) => e,
        })?;
        match (first, second) {
            (Some(_), None) => drop(diff.only_first.insert(name.clone(), found.deleted)),
            (None, Some(_)) => drop(diff.only_second.insert(name.clone(), found.inserted)),
            _ if found.total() > 0 => drop(diff.tables.insert(name.clone(), found)),
            _ => {}
        }
    }
    Ok(diff)
}

/// The sides that have the table.
#[derive(Clone, Copy)]
struct Sides<'a> {
    one: Option<&'a Connection>,
    two: Option<&'a Connection>,
}

enum Stopped {
    Sqlite(rusqlite::Error),
    Visit(Error),
}

impl From<rusqlite::Error> for Stopped {
    fn from(error: rusqlite::Error) -> Self {
        Stopped::Sqlite(error)
    }
}

/// How the rows of two tables of one name are paired.
struct Pairing {
    key: Vec<String>,
    /// The columns that both have, key first.
    columns: Vec<String>,
    keyed: bool,
    only_first: Vec<String>,
    only_second: Vec<String>,
}

impl Pairing {
    fn of(first: &Table, second: &Table) -> Self {
        let missing = |from: &Table, other: &Table| -> Vec<String> {
            from.columns.iter().filter(|c| !other.has(&c.name)).map(|c| c.name.clone()).collect()
        };
        let common: Vec<String> =
            first.columns.iter().filter(|c| second.has(&c.name)).map(|c| c.name.clone()).collect();
        let lower = |names: &[String]| names.iter().map(|n| n.to_lowercase()).collect::<Vec<_>>();
        let keyed = !first.key.is_empty() && lower(&first.key) == lower(&second.key);
        let key = if keyed { first.key.clone() } else { common.clone() };
        let rest = common.into_iter().filter(|column| !key.contains(column));
        let columns = key.iter().cloned().chain(rest).collect();
        Pairing {
            key,
            columns,
            keyed,
            only_first: missing(first, second),
            only_second: missing(second, first),
        }
    }

    /// BINARY, whatever the columns' own collations: they may be the app's, and pairing needs equality only.
    fn sql(&self, table: &str) -> String {
        let columns = self.columns.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(", ");
        let order =
            self.key.iter().map(|c| format!("{} COLLATE BINARY", quoted(c))).collect::<Vec<_>>().join(", ");
        format!("SELECT {columns} FROM {} ORDER BY {order}", quoted(table))
    }

    fn merge(
        &self,
        sides: Sides<'_>,
        table: &str,
        visit: &mut dyn FnMut(RowChange) -> Result<(), Error>,
    ) -> Result<TableDiff, Stopped> {
        let mut diff = TableDiff {
            keyed: self.keyed,
            only_first: self.only_first.clone(),
            only_second: self.only_second.clone(),
            ..TableDiff::default()
        };
        if self.columns.is_empty() {
            return Ok(diff);
        }
        let sql = self.sql(table);
        let orders = [sides.one, sides.two].map(|side| side.map(TextOrder::of).transpose());
        let [one_order, two_order] = orders;
        let (one_order, two_order) = (one_order?, two_order?);
        if one_order.is_some() && two_order.is_some() && one_order != two_order {
            // Two encodings sort text in two ways. Nothing in a migration changes it; say so rather than guess.
            return Err(Stopped::Visit(Error::Sqlite {
                path: PathBuf::from(table),
                doing: "comparing rows".into(),
                why: "the two databases have different text encodings".into(),
            }));
        }
        let text = one_order.or(two_order).unwrap_or(TextOrder::Utf8);
        let mut first = sides.one.map(|side| side.prepare(&sql)).transpose()?;
        let mut second = sides.two.map(|side| side.prepare(&sql)).transpose()?;
        let mut first = first.as_mut().map(|statement| statement.query([])).transpose()?;
        let mut second = second.as_mut().map(|statement| statement.query([])).transpose()?;
        let (mut left, mut right) = (self.next(&mut first)?, self.next(&mut second)?);
        loop {
            let order = match (&left, &right) {
                (None, None) => return Ok(diff),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => {
                    let width = self.key.len();
                    compare(&a[..width], &b[..width], text)
                }
            };
            let row = match order {
                Ordering::Less => {
                    diff.deleted += 1;
                    let row = left.take().unwrap_or_default();
                    left = self.next(&mut first)?;
                    Some(self.change(&row, Change::Deleted(self.named(&row))))
                }
                Ordering::Greater => {
                    diff.inserted += 1;
                    let row = right.take().unwrap_or_default();
                    right = self.next(&mut second)?;
                    Some(self.change(&row, Change::Inserted(self.named(&row))))
                }
                Ordering::Equal => {
                    let (a, b) = (left.take().unwrap_or_default(), right.take().unwrap_or_default());
                    left = self.next(&mut first)?;
                    right = self.next(&mut second)?;
                    self.changed(&a, &b, &mut diff)
                }
            };
            if let Some(row) = row {
                visit(row).map_err(Stopped::Visit)?;
            }
        }
    }

    fn changed(&self, a: &[Value], b: &[Value], diff: &mut TableDiff) -> Option<RowChange> {
        let columns: Vec<_> = self
            .columns
            .iter()
            .zip(a.iter().zip(b))
            .filter(|(_, (a, b))| !same(a, b))
            .map(|(name, (a, b))| (name.clone(), a.clone(), b.clone()))
            .collect();
        if columns.is_empty() {
            return None;
        }
        diff.changed += 1;
        for (name, _, _) in &columns {
            *diff.changed_columns.entry(name.clone()).or_default() += 1;
        }
        Some(self.change(a, Change::Changed(columns)))
    }

    fn change(&self, row: &[Value], change: Change) -> RowChange {
        let key =
            if self.keyed { self.key.iter().cloned().zip(row.iter().cloned()).collect() } else { Vec::new() };
        RowChange { key, change }
    }

    fn named(&self, row: &[Value]) -> Vec<(String, Value)> {
        self.columns.iter().cloned().zip(row.iter().cloned()).collect()
    }

    fn next(&self, rows: &mut Option<Rows<'_>>) -> rusqlite::Result<Option<Vec<Value>>> {
        let Some(rows) = rows else { return Ok(None) };
        let Some(row) = rows.next()? else { return Ok(None) };
        (0..self.columns.len()).map(|place| row.get_ref(place).map(owned)).collect::<Result<_, _>>().map(Some)
    }
}

/// Text that is not valid UTF-8 is kept as a blob, so that no byte is lost.
fn owned(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Blob(bytes.to_vec()),
        },
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// Equal in type and value: 1 and 1.0 differ here, although they are one key.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

/// How SQLite orders text: by the bytes of the database's encoding.
#[derive(Clone, Copy, Eq, PartialEq)]
enum TextOrder {
    Utf8,
    Utf16Little,
    Utf16Big,
}

impl TextOrder {
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
        Ok(match encoding.as_str() {
            "UTF-16le" => TextOrder::Utf16Little,
            "UTF-16be" => TextOrder::Utf16Big,
            _ => TextOrder::Utf8,
        })
    }

    fn compare(self, a: &str, b: &str) -> Ordering {
        match self {
            TextOrder::Utf8 => a.as_bytes().cmp(b.as_bytes()),
            TextOrder::Utf16Big => a.encode_utf16().cmp(b.encode_utf16()),
            TextOrder::Utf16Little => {
                a.encode_utf16().map(u16::swap_bytes).cmp(b.encode_utf16().map(u16::swap_bytes))
            }
        }
    }
}

/// SQLite's order of values: NULL, numbers, text, blobs.
fn compare(a: &[Value], b: &[Value], text: TextOrder) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    };
    for (a, b) in a.iter().zip(b) {
        let order = match (a, b) {
            (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
            (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
            (Value::Integer(a), Value::Real(b)) => integer_to_real(*a, *b),
            (Value::Real(a), Value::Integer(b)) => integer_to_real(*b, *a).reverse(),
            (Value::Text(a), Value::Text(b)) => text.compare(a, b),
            (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
            (a, b) => rank(a).cmp(&rank(b)),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Exact, also where a 64-bit integer has no equal among the reals.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the range is checked first"
)]
fn integer_to_real(a: i64, b: f64) -> Ordering {
    const EDGE: f64 = 9_223_372_036_854_775_808.0;
    if b >= EDGE {
        return Ordering::Less;
    }
    if b < -EDGE {
        return Ordering::Greater;
    }
    match a.cmp(&(b as i64)) {
        Ordering::Equal => (0.0).partial_cmp(&(b - (b as i64) as f64)).unwrap_or(Ordering::Equal),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(first: &str, second: &str) -> (tempfile::TempDir, Diff) {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.db"), dir.path().join("b.db"));
        Connection::open(&a).unwrap().execute_batch(first).unwrap();
        Connection::open(&b).unwrap().execute_batch(second).unwrap();
        let diff = rows(Side::Finished(&a), Side::Live(&b), 100, &Stop::new()).unwrap();
        (dir, diff)
    }

    fn int(name: &str, value: i64) -> (String, Value) {
        (name.to_owned(), Value::Integer(value))
    }

    #[test]
    fn rows_are_paired_by_key_and_named_column_by_column() {
        let schema = "CREATE TABLE stock (item TEXT, shop INT, n INT, note, PRIMARY KEY (item, shop));";
        let (_dir, diff) = pair(
            &format!(
                "{schema} INSERT INTO stock VALUES ('dal', 1, 5, NULL), ('dal', 2, 6, NULL), ('rice', 1, 7, 'x');"
            ),
            &format!(
                "{schema} INSERT INTO stock VALUES ('rice', 1, 9, 'x'), ('dal', 2, 6, NULL), ('tea', 1, 1, NULL);"
            ),
        );
        let found = &diff.tables["stock"];
        assert_eq!((found.inserted, found.deleted, found.changed, found.keyed), (1, 1, 1, true));
        assert_eq!(found.changed_columns, BTreeMap::from([("n".to_owned(), 1)]));
        let changed = found.rows.iter().find(|row| matches!(row.change, Change::Changed(_))).unwrap();
        assert_eq!(changed.key, [("item".into(), Value::Text("rice".into())), int("shop", 1)]);
        assert_eq!(changed.change, Change::Changed(vec![("n".into(), Value::Integer(7), Value::Integer(9))]));
    }

    #[test]
    fn a_table_without_a_key_is_a_bag() {
        let (_dir, diff) = pair(
            "CREATE TABLE log (line); INSERT INTO log VALUES ('a'), ('a'), ('b'), (NULL), (NULL);",
            "CREATE TABLE log (line); INSERT INTO log VALUES (NULL), ('b'), ('a'), ('c'), (NULL);",
        );
        let found = &diff.tables["log"];
        assert_eq!((found.inserted, found.deleted, found.changed, found.keyed), (1, 1, 0, false));
    }

    #[test]
    fn equal_databases_do_not_differ_whatever_their_layout() {
        let fill = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT COLLATE NOCASE UNIQUE, r REAL);
             INSERT INTO t VALUES (2, 'b', 0.5), (1, 'A', 2.0), (3, 'ä', NULL), (-5, '', -1e300);";
        let (_dir, diff) = pair(fill, &format!("PRAGMA page_size = 512; {fill} VACUUM;"));
        assert!(diff.is_empty(), "{diff:?}");
    }

    #[test]
    fn keys_of_mixed_types_null_keys_and_large_numbers_are_ordered_as_sqlite_orders_them() {
        let rows = "(NULL, 1), (NULL, 2), (1, 3), (1.5, 4), (9007199254740993, 5), (9007199254740992.0, 6), ('', 7),
             ('a', 8), ('A', 9), (x'00', 10), (x'ff', 11), (-9223372036854775808, 12), (1e300, 13), (-1e300, 14)";
        for prepare in ["", "PRAGMA encoding = 'UTF-16le';", "PRAGMA encoding = 'UTF-16be';"] {
            let fill = format!(
                "{prepare} CREATE TABLE t (k PRIMARY KEY, v); INSERT INTO t VALUES {rows}, ('ﬀ', 15), ('😀', 16);"
            );
            let (_dir, diff) = pair(&fill, &format!("{fill} UPDATE t SET v = -v WHERE v = 5;"));
            let found = &diff.tables["t"];
            assert_eq!((found.inserted, found.deleted, found.changed), (0, 0, 1), "{prepare} {found:?}");
        }
    }

    #[test]
    fn the_type_of_a_value_counts() {
        let schema = "CREATE TABLE t (k INTEGER PRIMARY KEY, v);";
        let (_dir, diff) = pair(
            &format!("{schema} INSERT INTO t VALUES (1, 1);"),
            &format!("{schema} INSERT INTO t VALUES (1, 1.0);"),
        );
        assert_eq!(diff.tables["t"].changed, 1);
    }

    #[test]
    fn other_tables_and_columns_are_named_and_common_columns_compared() {
        let (_dir, diff) = pair(
            "CREATE TABLE gone (a); INSERT INTO gone VALUES (1), (2); CREATE TABLE t (k INTEGER PRIMARY KEY, old, v);
             INSERT INTO t VALUES (1, 'o', 'v');",
            "CREATE TABLE new (a); CREATE TABLE t (k INTEGER PRIMARY KEY, v, extra DEFAULT 3);
             INSERT INTO t VALUES (1, 'w', 3);",
        );
        assert_eq!(diff.only_first, BTreeMap::from([("gone".to_owned(), 2)]));
        assert_eq!(diff.only_second, BTreeMap::from([("new".to_owned(), 0)]));
        let found = &diff.tables["t"];
        assert_eq!(
            (&found.only_first[..], &found.only_second[..]),
            (&["old".to_owned()][..], &["extra".to_owned()][..])
        );
        assert_eq!(found.changed_columns.keys().collect::<Vec<_>>(), ["v"]);
    }

    #[test]
    fn the_limit_bounds_the_rows_and_not_the_counts() {
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO t SELECT i FROM n;";
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.db"), dir.path().join("b.db"));
        Connection::open(&a).unwrap().execute_batch("CREATE TABLE t (i INTEGER PRIMARY KEY)").unwrap();
        Connection::open(&b)
            .unwrap()
            .execute_batch(&format!("CREATE TABLE t (i INTEGER PRIMARY KEY); {fill}"))
            .unwrap();
        let diff = rows(Side::Finished(&a), Side::Finished(&b), 7, &Stop::new()).unwrap();
        assert_eq!((diff.tables["t"].inserted, diff.tables["t"].rows.len()), (500, 7));
    }
}
