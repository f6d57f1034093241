//! What a database holds, apart from how its file is laid out: the same after VACUUM, in another page size or
//! journal mode, and different when one value of one row is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_128;

use super::connection::{open_read, quoted};
use super::control::{Control, Phase};
use super::error::{app_defined, message};
use super::inspection::Seen;
use super::schema::{self, Object, Table};
use super::{Error, Stop};

/// The rows of one table.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// How many.
    pub rows: u64,
    /// A hash over all of them, whatever their order; `None` when only counted.
    pub hash: Option<String>,
}

/// Something that may be impossible to know on this connection.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known<T> {
    /// Seen.
    Is(T),
    /// Could not be checked, and why. Never the same as a good or a bad answer.
    Unknown(String),
}

/// How much of the rows to read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Depth {
    /// Count them.
    Counts,
    /// Read and hash every value.
    Content,
}

/// How rows are hashed. The text of a hash says which it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hashing {
    /// XXH3, 128 bits: a third of the time. Begins with `xxh3:`.
    Fast,
    /// SHA-256, as manifests before this one have it.
    Sha256,
}

/// What stands before a hash of [`Hashing::Fast`].
const FAST: &str = "xxh3:";

/// What to read of a database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// `None`: only count the rows.
    pub(crate) rows: Option<Hashing>,
    /// Whether to count the foreign keys that point nowhere.
    pub(crate) foreign_keys: bool,
}

impl From<Depth> for Reading {
    fn from(depth: Depth) -> Self {
        let content = depth == Depth::Content;
        Reading { rows: content.then_some(Hashing::Fast), foreign_keys: content }
    }
}

/// What a database holds.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Tables, indexes, triggers and views.
    pub objects: Vec<Object>,
    /// The rows per table.
    pub tables: BTreeMap<String, Content>,
    /// The AUTOINCREMENT counters.
    pub sequences: BTreeMap<String, i64>,
    /// `PRAGMA user_version`: often the app's own schema version.
    pub user_version: i64,
    /// `PRAGMA application_id`.
    pub application_id: i64,
    /// Rows whose foreign key points nowhere. Many real databases have some: compare, never demand 0.
    pub fk_violations: Known<u64>,
}

/// One thing in which two databases differ.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Difference {
    /// An object that only one of them has, or that is defined otherwise.
    Object {
        /// `table`, `index`, `trigger` or `view`.
        object: String,
        /// Its name.
        name: String,
        /// `missing`, `new` or `changed`, seen from the first.
        how: String,
    },
    /// A table with another number of rows.
    Rows {
        /// The table.
        table: String,
        /// Rows in the first.
        before: u64,
        /// Rows in the second.
        after: u64,
    },
    /// A table with as many rows and other values.
    Values {
        /// The table.
        table: String,
    },
    /// A number outside the tables: a sequence, `user_version`, `application_id`, foreign key violations.
    Setting {
        /// Its name.
        name: String,
        /// In the first.
        before: String,
        /// In the second.
        after: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Object { object, name, how } => write!(f, "{object} {name} is {how}"),
            Difference::Rows { table, before, after } => {
                write!(f, "{table} has {after} rows instead of {before}")
            }
            Difference::Values { table } => write!(f, "{table} has other values in as many rows"),
            Difference::Setting { name, before, after } => write!(f, "{name} is {after} instead of {before}"),
        }
    }
}

impl Fingerprint {
    /// Reads a live or finished database.
    ///
    /// # Errors
    /// As [`open_read`]; [`Error::Stopped`] or [`Error::Deadline`].
    pub fn of(path: &Path, depth: Depth, control: &mut Control<'_>) -> Result<Self, Error> {
        let mut connection = open_read(path)?;
        control.stop.interrupts(&mut connection);
        let failed = |e: &rusqlite::Error, stop: &Stop| interrupted(path, e, stop);
        let transaction = connection.unchecked_transaction().map_err(|e| failed(&e, &control.stop))?;
        Fingerprint::read(&transaction, depth, control).map_err(|e| failed(&e, &control.stop))
    }

    /// Reads through a connection. The caller holds a read transaction, so that all of it is one moment.
    ///
    /// # Errors
    /// What SQLite said; an interrupt when `control` says stop.
    pub fn read(connection: &Connection, depth: Depth, control: &mut Control<'_>) -> rusqlite::Result<Self> {
        Fingerprint::read_as(connection, depth.into(), control)
    }

    /// Reads so that the result can be compared with this one, which an earlier version may have made.
    pub(crate) fn read_like(
        &self,
        connection: &Connection,
        depth: Depth,
        control: &mut Control<'_>,
    ) -> rusqlite::Result<Self> {
        let mut reading = Reading::from(depth);
        reading.rows = reading.rows.map(|_| self.hashing());
        Fingerprint::read_as(connection, reading, control)
    }

    /// How its rows were hashed.
    pub(crate) fn hashing(&self) -> Hashing {
        let mut hashes = self.tables.values().filter_map(|content| content.hash.as_ref());
        if hashes.any(|hash| !hash.starts_with(FAST)) { Hashing::Sha256 } else { Hashing::Fast }
    }

    pub(crate) fn read_as(
        connection: &Connection,
        reading: Reading,
        control: &mut Control<'_>,
    ) -> rusqlite::Result<Self> {
        Fingerprint::read_rest(connection, reading, None, control)
    }

    /// Reads what is not seen already.
    pub(crate) fn read_rest(
        connection: &Connection,
        reading: Reading,
        seen: Option<&Seen>,
        control: &mut Control<'_>,
    ) -> rusqlite::Result<Self> {
        let tables = schema::tables(connection)?;
        let total = tables.len() as u64;
        let mut contents = BTreeMap::new();
        for (done, (name, table)) in tables.iter().enumerate() {
            control.tell(Phase::Reading, done as u64, total, "tables");
            let seen = seen.and_then(|seen| seen.tables.get(name));
            let found = seen.cloned().map_or_else(|| content(connection, table, reading.rows), Ok)?;
            contents.insert(name.clone(), found);
        }
        control.tell(Phase::Reading, total, total, "tables");
        Ok(Fingerprint {
            objects: schema::objects(connection)?,
            tables: contents,
            sequences: schema::sequences(connection)?,
            user_version: connection.query_row("PRAGMA user_version", [], |row| row.get(0))?,
            application_id: connection.query_row("PRAGMA application_id", [], |row| row.get(0))?,
            fk_violations: match (reading.foreign_keys, seen) {
                (true, None) => fk_violations(connection)?,
                (true, Some(seen)) => fk_violations_in(connection, &seen.references)?,
                (false, _) => Known::Unknown("only counted".into()),
            },
        })
    }

    /// In what `other` differs from this. What one of the two does not know is not a difference.
    #[must_use]
    pub fn differences(&self, other: &Fingerprint) -> Vec<Difference> {
        let mut found = object_differences(&self.objects, &other.objects);
        for (table, before) in &self.tables {
            let Some(after) = other.tables.get(table) else { continue };
            if before.rows != after.rows {
                found.push(Difference::Rows { table: table.clone(), before: before.rows, after: after.rows });
            } else if let (Some(one), Some(two)) = (&before.hash, &after.hash)
                && one != two
            {
                found.push(Difference::Values { table: table.clone() });
            }
        }
        let mut setting = |name: String, before: String, after: String| {
            if before != after {
                found.push(Difference::Setting { name, before, after });
            }
        };
        let names = self.sequences.keys().chain(other.sequences.keys());
        for name in names.collect::<BTreeSet<_>>() {
            let value = |of: &Fingerprint| of.sequences.get(name).map_or("none".into(), i64::to_string);
            setting(format!("the sequence of {name}"), value(self), value(other));
        }
        setting("user_version".into(), self.user_version.to_string(), other.user_version.to_string());
        setting("application_id".into(), self.application_id.to_string(), other.application_id.to_string());
        if let (Known::Is(before), Known::Is(after)) = (&self.fk_violations, &other.fk_violations) {
            setting("the number of foreign key violations".into(), before.to_string(), after.to_string());
        }
        found
    }

    /// A hash over the definitions of all objects.
    #[must_use]
    pub fn schema_hash(&self) -> String {
        let mut hasher = Sha256::new();
        for object in &self.objects {
            for part in
                [&object.kind, &object.name, &object.table, object.sql.as_ref().unwrap_or(&String::new())]
            {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
        hex::encode(hasher.finalize())
    }

    /// All rows of all tables.
    #[must_use]
    pub fn total_rows(&self) -> u64 {
        self.tables.values().map(|content| content.rows).sum()
    }
}

/// An interrupt is our own doing: says which of flag and deadline it was.
pub(crate) fn interrupted(path: &Path, error: &rusqlite::Error, stop: &Stop) -> Error {
    match Error::of(path, "reading the rows", error) {
        Error::Stopped { doing } => stop.check(&doing).err().unwrap_or(Error::Stopped { doing }),
        other => other,
    }
}

fn object_differences(before: &[Object], after: &[Object]) -> Vec<Difference> {
    let by_name = |list: &[Object]| -> BTreeMap<(String, String), Option<String>> {
        list.iter().map(|o| ((o.kind.clone(), o.name.clone()), o.sql.clone())).collect()
    };
    let (before, after) = (by_name(before), by_name(after));
    let difference = |(object, name): &(String, String), how: &str| Difference::Object {
        object: object.clone(),
        name: name.clone(),
        how: how.into(),
    };
    let mut found: Vec<Difference> = before
        .iter()
        .filter_map(|(key, sql)| match after.get(key) {
            None => Some(difference(key, "missing")),
            Some(other) if other != sql => Some(difference(key, "changed")),
            Some(_) => None,
        })
        .collect();
    found.extend(after.keys().filter(|key| !before.contains_key(*key)).map(|key| difference(key, "new")));
    found
}

/// Counts or hashes the rows of a table.
///
/// The hash is a sum over the hashes of the rows. A sum needs no order, so it needs no sorting, no index and no
/// collation (which may be the app's own), counts duplicates, and one pass in constant memory serves every kind of
/// table. Against chance it is as good as a hash over ordered rows; it is no defence against somebody who forges rows,
/// which the hash of the file is for, and so the rows need no cryptographic one.
fn content(connection: &Connection, table: &Table, hashing: Option<Hashing>) -> rusqlite::Result<Content> {
    let Some(hashing) = hashing.filter(|_| !table.columns.is_empty()) else {
        let rows = count(connection, &table.name)?;
        return Ok(Content { rows, hash: None });
    };
    let mut tally = Tally::new(hashing);
    each_row(connection, table, |row| tally.add(row))?;
    let (rows, hash) = tally.finish();
    Ok(Content { rows, hash: Some(hash) })
}

/// Rows counted, and the sum of their hashes.
pub(crate) struct Tally {
    rows: u64,
    sum: Sum,
}

enum Sum {
    Fast(u128),
    Sha256([u64; 4]),
}

impl Tally {
    pub(crate) fn new(hashing: Hashing) -> Tally {
        let sum = match hashing {
            Hashing::Fast => Sum::Fast(0),
            Hashing::Sha256 => Sum::Sha256([0; 4]),
        };
        Tally { rows: 0, sum }
    }

    /// Adds a row: its values, each as [`encode`] writes it.
    pub(crate) fn add(&mut self, row: &[u8]) {
        self.rows += 1;
        match &mut self.sum {
            Sum::Fast(sum) => *sum = sum.wrapping_add(XxHash3_128::oneshot(row)),
            Sum::Sha256(sum) => add(sum, &Sha256::digest(row)),
        }
    }

    /// Adds the rows of another.
    pub(crate) fn join(&mut self, other: Tally) {
        self.rows += other.rows;
        match (&mut self.sum, other.sum) {
            (Sum::Fast(sum), Sum::Fast(more)) => *sum = sum.wrapping_add(more),
            (Sum::Sha256(sum), Sum::Sha256(more)) => {
                let more: Vec<u8> = more.iter().flat_map(|word| word.to_le_bytes()).collect();
                add(sum, &more);
            }
            // Both come from the same call.
            (Sum::Fast(_), Sum::Sha256(_)) | (Sum::Sha256(_), Sum::Fast(_)) => {}
        }
    }

    /// How many rows, and the hash over all of them.
    pub(crate) fn finish(self) -> (u64, String) {
        let hash = match self.sum {
            Sum::Fast(sum) => format!("{FAST}{sum:032x}"),
            Sum::Sha256(sum) => {
                let mut hasher = Sha256::new();
                hasher.update(self.rows.to_le_bytes());
                for word in sum {
                    hasher.update(word.to_le_bytes());
                }
                hex::encode(hasher.finalize())
            }
        };
        (self.rows, hash)
    }
}

/// Gives every row of a table, each value with its type and length.
fn each_row(connection: &Connection, table: &Table, mut take: impl FnMut(&[u8])) -> rusqlite::Result<()> {
    // NOT INDEXED: the rows themselves are to be read, not an index that happens to cover them.
    let sql = format!("SELECT {} FROM {} NOT INDEXED", table.column_list(), quoted(&table.name));
    let mut statement = connection.prepare(&sql)?;
    let width = table.columns.len();
    let mut rows = statement.query([])?;
    let mut buffer = Vec::with_capacity(256);
    while let Some(row) = rows.next()? {
        buffer.clear();
        for column in 0..width {
            encode(row.get_ref(column)?, &mut buffer);
        }
        take(&buffer);
    }
    Ok(())
}

/// How many rows a table has.
pub(crate) fn count(connection: &Connection, table: &str) -> rusqlite::Result<u64> {
    let sql = format!("SELECT count(*) FROM {}", quoted(table));
    connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}

/// A value with its type, so that 1, 1.0, '1' and x'31' are four different things.
pub(crate) fn encode(value: ValueRef<'_>, into: &mut Vec<u8>) {
    match value {
        ValueRef::Null => into.push(0),
        ValueRef::Integer(number) => {
            into.push(1);
            into.extend_from_slice(&number.to_le_bytes());
        }
        ValueRef::Real(number) => {
            into.push(2);
            into.extend_from_slice(&number.to_bits().to_le_bytes());
        }
        ValueRef::Text(bytes) => {
            into.push(3);
            into.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            into.extend_from_slice(bytes);
        }
        ValueRef::Blob(bytes) => {
            into.push(4);
            into.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            into.extend_from_slice(bytes);
        }
    }
}

fn add(sum: &mut [u64; 4], digest: &[u8]) {
    let mut carry = false;
    for (word, bytes) in sum.iter_mut().zip(digest.chunks_exact(8)) {
        let value = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
        let (partial, over) = word.overflowing_add(value);
        let (total, over_again) = partial.overflowing_add(u64::from(carry));
        *word = total;
        carry = over || over_again;
    }
}

/// Counts the rows whose foreign key points nowhere.
///
/// # Errors
/// What SQLite said, except when it cannot judge: a parent table that is missing, or an app-defined collation.
pub fn fk_violations(connection: &Connection) -> rusqlite::Result<Known<u64>> {
    violations(connection, "PRAGMA foreign_key_check")
}

/// Counts those of some tables.
fn fk_violations_in(connection: &Connection, tables: &BTreeSet<String>) -> rusqlite::Result<Known<u64>> {
    let mut all = 0;
    for table in tables {
        match violations(connection, &format!("PRAGMA foreign_key_check({})", quoted(table)))? {
            Known::Is(count) => all += count,
            // Said as it is said of all tables together.
            Known::Unknown(_) => return fk_violations(connection),
        }
    }
    Ok(Known::Is(all))
}

fn violations(connection: &Connection, sql: &str) -> rusqlite::Result<Known<u64>> {
    let count = || -> rusqlite::Result<u64> {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut count = 0;
        while rows.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    };
    match count() {
        Ok(count) => Ok(Known::Is(count)),
        Err(e) => {
            let why = message(&e);
            if app_defined(&why) || why.contains("foreign key mismatch") {
                Ok(Known::Unknown(why))
            } else {
                Err(e)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Fingerprint {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        connection.execute_batch(sql).unwrap();
        Fingerprint::read(&connection, Depth::Content, &mut Control::default()).unwrap()
    }

    fn words(a: &Fingerprint, b: &Fingerprint) -> Vec<String> {
        a.differences(b).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn order_and_layout_do_not_matter() {
        let a = of("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (2, 'y');");
        let b = of(
            "PRAGMA page_size = 512; CREATE TABLE t (a, b);
             INSERT INTO t VALUES (2, 'y'), (9, 'z'), (1, 'x'), (2, 'y'); DELETE FROM t WHERE a = 9; VACUUM;",
        );
        assert_eq!(words(&a, &b), Vec::<String>::new());
    }

    #[test]
    fn every_value_and_its_type_matter() {
        let one = |value: &str| of(&format!("CREATE TABLE t (a); INSERT INTO t VALUES ({value});"));
        let values = ["1", "1.0", "'1'", "x'31'", "NULL", "''", "x''", "-1", "'1 '", "0"];
        for (place, a) in values.iter().enumerate() {
            for b in &values[place + 1..] {
                assert_eq!(words(&one(a), &one(b)), ["t has other values in as many rows"], "{a} and {b}");
            }
        }
    }

    #[test]
    fn values_that_move_between_columns_or_rows_are_noticed() {
        let a = of("CREATE TABLE t (a, b); INSERT INTO t VALUES ('x', 'y'), ('p', 'q');");
        let columns = of("CREATE TABLE t (a, b); INSERT INTO t VALUES ('xy', ''), ('p', 'q');");
        let rows = of("CREATE TABLE t (a, b); INSERT INTO t VALUES ('x', 'q'), ('p', 'y');");
        let twice = of("CREATE TABLE t (a, b); INSERT INTO t VALUES ('x', 'y'), ('x', 'y');");
        for other in [columns, rows, twice] {
            assert_eq!(words(&a, &other), ["t has other values in as many rows"]);
        }
    }

    /// Manifests of earlier versions have SHA-256 in them: what is compared with one is read as it was.
    #[test]
    fn a_fingerprint_of_an_earlier_version_is_compared_in_its_own_hash() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (2, 'y');").unwrap();
        let old = Reading { rows: Some(Hashing::Sha256), foreign_keys: true };
        let old = Fingerprint::read_as(&connection, old, &mut Control::default()).unwrap();
        // What version 0.1.0 wrote for these rows.
        let known = "153e2ac4c09fb61d38fe4be5c60b7b6dc018045b62e3a4af27408a051fb33a60";
        let hash = old.tables["t"].hash.as_deref().unwrap();
        assert_eq!(hash, known);
        let again = old.read_like(&connection, Depth::Content, &mut Control::default()).unwrap();
        assert_eq!(words(&old, &again), Vec::<String>::new());
        connection.execute_batch("UPDATE t SET b = 'z' WHERE a = 2").unwrap();
        let changed = old.read_like(&connection, Depth::Content, &mut Control::default()).unwrap();
        assert_eq!(words(&old, &changed), ["t has other values in as many rows"]);
        let new = Fingerprint::read(&connection, Depth::Content, &mut Control::default()).unwrap();
        assert!(new.tables["t"].hash.as_deref().unwrap().starts_with(FAST));
    }

    #[test]
    fn differences_are_named() {
        let a =
            of("CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, n); CREATE INDEX i ON orders (n);
             INSERT INTO orders VALUES (1, 2), (2, 3); PRAGMA user_version = 4;");
        let b = of("CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, n, note);
             INSERT INTO orders VALUES (1, 2, NULL); CREATE TABLE coupons (code);");
        assert_eq!(
            words(&a, &b),
            [
                "index i is missing",
                "table orders is changed",
                "table coupons is new",
                "orders has 1 rows instead of 2",
                "the sequence of orders is 1 instead of 2",
                "user_version is 0 instead of 4",
            ]
        );
    }

    #[test]
    fn every_kind_of_table_can_be_read() {
        let print =
            of("CREATE TABLE wr (k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO wr VALUES ('a', 1);
             CREATE TABLE st (a INTEGER, b TEXT) STRICT; INSERT INTO st VALUES (1, 'b');
             CREATE TABLE gen (a, b AS (a + 1), c AS (a * 2) STORED); INSERT INTO gen (a) VALUES (4);
             CREATE VIRTUAL TABLE fts USING fts5(body); INSERT INTO fts VALUES ('fresh mangoes');
             CREATE VIEW v AS SELECT a FROM st; CREATE TABLE \"odd \"\"name\" (\"select\", \"a b\");
             INSERT INTO \"odd \"\"name\" VALUES (1, 2);");
        for name in ["wr", "st", "gen", "odd \"name", "fts_content"] {
            assert_eq!(print.tables[name].rows, 1, "{name}");
            assert!(print.tables[name].hash.is_some(), "{name}");
        }
        assert!(!print.tables.contains_key("v") && !print.tables.contains_key("fts"));
        assert_eq!(print.fk_violations, Known::Is(0));
    }

    #[test]
    fn foreign_key_violations_are_counted_and_a_missing_parent_is_not_taken_for_none() {
        let print = of("CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (p REFERENCES p);
             INSERT INTO c VALUES (1), (2), (NULL);");
        assert_eq!(print.fk_violations, Known::Is(2));
        let broken =
            of("CREATE TABLE p (id); CREATE TABLE c (p REFERENCES p (id)); INSERT INTO c VALUES (1);");
        assert!(matches!(broken.fk_violations, Known::Unknown(_)), "{:?}", broken.fk_violations);
    }

    #[test]
    fn it_survives_json() {
        let print = of("CREATE TABLE t (a); INSERT INTO t VALUES (1);");
        let text = serde_json::to_string(&print).unwrap();
        assert_eq!(serde_json::from_str::<Fingerprint>(&text).unwrap(), print);
    }
}
