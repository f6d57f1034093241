//! What a migration leaves besides losses, seen on the copy that it was tried on: work that keeps writers out, helper
//! tables, settings, and what the app's own SQLite must know from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::connection::{ForeignKeys, open_own, quoted};
use super::diff::Diff;
use super::fingerprint::count;
use super::lint::{Remark, Rule, Severity};
use super::schema::{self, Object};
use super::script::double_quoted;
use super::{Error, Stop, history};

/// From so many rows on work on them is long enough to be told. 300,000 rows took an index 0.1 s and an UPDATE 1.3 s.
const MANY: u64 = 100_000;
/// From so many bytes in the log on room is worth a word.
const MUCH_LOG: u64 = 64 << 20;

/// Something that was seen.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "snake_case")]
pub enum Seen {
    /// Very many rows were changed or deleted at once.
    ManyRows {
        /// The table.
        table: String,
        /// How many.
        rows: u64,
    },
    /// An index was made on a large table.
    LargeIndex {
        /// The index.
        index: String,
        /// Its table.
        table: String,
        /// The table's rows.
        rows: u64,
    },
    /// So much of the file was written anew.
    Log {
        /// How much.
        bytes: u64,
    },
    /// A helper table of a rebuild is there.
    Leftover {
        /// The table.
        table: String,
    },
    /// A setting of the whole file is another.
    Setting {
        /// Its name.
        name: String,
        /// Before.
        before: String,
        /// After.
        after: String,
    },
    /// A table became STRICT or WITHOUT ROWID, or ceased to be.
    Options {
        /// The table.
        table: String,
        /// Before.
        before: String,
        /// After.
        after: String,
    },
    /// Rows got other rowids, and a virtual table refers to them.
    RowidsMoved {
        /// The table that was rebuilt.
        table: String,
        /// The virtual table.
        dependent: String,
    },
    /// The schema has something that older versions of SQLite cannot read.
    Needs {
        /// The first version that can.
        sqlite: String,
        /// What it is.
        what: String,
        /// In which object.
        object: String,
    },
    /// A text in double quotes, which are for names.
    QuotedText {
        /// The object.
        object: String,
        /// The text.
        text: String,
    },
    /// An index or a column is computed from JSON.
    OverJson {
        /// The index or the table.
        object: String,
    },
    /// A column that every INSERT must give is new in a table that was there.
    Required {
        /// The column, with its table.
        column: String,
    },
    /// A column has a type of another kind, so SQLite stores values otherwise.
    Affinity {
        /// The column, with its table.
        column: String,
        /// Its type before.
        before: String,
        /// Its type after.
        after: String,
    },
}

const MANY_ROWS: Rule = Rule(
    "many-rows",
    Severity::Warning,
    "one statement over all of them keeps every writer out until it is done",
    "do it in batches, in a later release's background work; or deploy it in a quiet hour",
);
const LARGE_INDEX: Rule = Rule(
    "large-index",
    Severity::Warning,
    "SQLite has no CREATE INDEX CONCURRENTLY: writers wait until all rows have been read",
    "nothing else is possible; deploy it in a quiet hour",
);
const LOG: Rule = Rule(
    "log-growth",
    Severity::Warning,
    "so much goes into the log or the journal as well: that room must be free beside the database, twice",
    "see that there is room; dropping a column rewrites its whole table, so leave an unused one until a rebuild",
);
const LEFTOVER: Rule = Rule(
    "leftover",
    Severity::Warning,
    "it looks like a helper table of a rebuild: one that stays makes the next rebuild fail, or copies old rows",
    "drop it at the end of the file that makes it; look at what is in it first",
);
const SETTING: Rule = Rule(
    "file-setting",
    Severity::Warning,
    "it belongs to the whole file, and user_version is often the app's own count of its migrations",
    "leave it to the app, unless it is the point of this migration",
);
const OPTIONS: Rule = Rule(
    "table-options",
    Severity::Warning,
    "STRICT refuses values that were taken before, and WITHOUT ROWID takes `rowid` and `last_insert_rowid()` away",
    "make sure that no code relies on what it was; otherwise keep it",
);
const ROWIDS: Rule = Rule(
    "rowids-moved",
    Severity::Danger,
    "the index of the virtual table points at rowids, and now finds other rows",
    "give the table an INTEGER PRIMARY KEY and copy it, or rebuild the index: INSERT INTO fts(fts) VALUES ('rebuild')",
);
const NEEDS: Rule = Rule(
    "sqlite-version",
    Severity::Note,
    "an app whose own SQLite is older can neither change nor, for some, open the database any more",
    "compare with the app's: SELECT sqlite_version()",
);
const QUOTED: Rule = Rule(
    "double-quoted-text",
    Severity::Warning,
    "double quotes are for names: whether this is taken for a text depends on how the app's SQLite was built",
    "write texts in single quotes",
);
const JSON: Rule = Rule(
    "computed-from-json",
    Severity::Warning,
    "one row with malformed JSON makes the statement fail, and later every write of such a row",
    "check first: SELECT count(*) FROM t WHERE NOT json_valid(column); or guard it with CASE WHEN json_valid(...)",
);
const REQUIRED: Rule = Rule(
    "required-column",
    Severity::Warning,
    "the release before does not know the column: each of its INSERTs into the table is refused from then on",
    "give it a DEFAULT now; take that away in a later release, when every INSERT names the column",
);
const AFFINITY: Rule = Rule(
    "affinity",
    Severity::Warning,
    "SQLite converts values to fit: '007' becomes 7, '1e3' becomes 1000, a large number loses its last digits in REAL",
    "keep the type; or add a column and fill it with a conversion that you wrote yourself",
);

impl Seen {
    /// What is to be said about it.
    #[must_use]
    pub fn remark(&self, file: &str) -> Remark {
        match self {
            Seen::ManyRows { table, rows } => MANY_ROWS.at(file, None, format!("{rows} rows of {table}")),
            Seen::LargeIndex { index, table, rows } => {
                LARGE_INDEX.at(file, None, format!("{index} on {rows} rows of {table}"))
            }
            Seen::Log { bytes } => LOG.at(file, None, format!("{} MiB are written", bytes >> 20)),
            Seen::Leftover { table } => LEFTOVER.at(file, None, table.as_str()),
            Seen::Setting { name, before, after } => {
                SETTING.at(file, None, format!("{name} becomes {after} instead of {before}"))
            }
            Seen::Options { table, before, after } => {
                OPTIONS.at(file, None, format!("{table} becomes {after} instead of {before}"))
            }
            Seen::RowidsMoved { table, dependent } => ROWIDS.at(
                file,
                None,
                format!("{table} was rebuilt with other rowids, and {dependent} uses them"),
            ),
            Seen::Needs { sqlite, what, object } => {
                NEEDS.at(file, None, format!("{object} has {what}: SQLite {sqlite} or newer"))
            }
            Seen::QuotedText { object, text } => QUOTED.at(file, None, format!("\"{text}\" in {object}")),
            Seen::OverJson { object } => JSON.at(file, None, object.as_str()),
            Seen::Required { column } => {
                REQUIRED.at(file, None, format!("{column} is NOT NULL without a default"))
            }
            Seen::Affinity { column, before, after } => {
                AFFINITY.at(file, None, format!("{column} becomes {after} instead of {before}"))
            }
        }
    }
}

/// Compares the copies from before and after a migration. `rows` is the difference of their rows.
///
/// # Errors
/// When one of the two cannot be read.
pub(crate) fn look(before: &Path, after: &Path, rows: &Diff, stop: &Stop) -> Result<Vec<Seen>, Error> {
    let mut seen = Vec::new();
    for (table, diff) in &rows.tables {
        let changed = diff.changed + diff.deleted;
        if changed >= MANY && table != history::TABLE {
            seen.push(Seen::ManyRows { table: table.clone(), rows: changed });
        }
    }
    let bytes = written(before, after, stop)?;
    if bytes >= MUCH_LOG {
        seen.push(Seen::Log { bytes });
    }
    let old = open_own(before, ForeignKeys::Off)?;
    let new = open_own(after, ForeignKeys::Off)?;
    compare(&old, &new, &mut seen).map_err(|e| Error::of(after, "comparing the schemas", &e))?;
    Ok(seen)
}

/// How many bytes of the second file are not where they were in the first: what goes through the log.
fn written(before: &Path, after: &Path, stop: &Stop) -> Result<u64, Error> {
    const PAGE: usize = 4096;
    let open = |path: &Path| File::open(path).map_err(|e| Error::io(path, "read", e));
    let (mut old, mut new) = (open(before)?, open(after)?);
    let (mut one, mut two) = (vec![0; PAGE * 256], vec![0; PAGE * 256]);
    let mut bytes = 0;
    loop {
        stop.check("comparing the copies")?;
        let (had, has) = (
            fill(&mut old, &mut one).map_err(|e| Error::io(before, "read", e))?,
            fill(&mut new, &mut two).map_err(|e| Error::io(after, "read", e))?,
        );
        if has == 0 {
            return Ok(bytes);
        }
        let olds = one[..had].chunks(PAGE).map(Some).chain(std::iter::repeat(None));
        bytes += two[..has].chunks(PAGE).zip(olds).filter(|(page, old)| Some(*page) != *old).count() as u64
            * PAGE as u64;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn compare(old: &Connection, new: &Connection, seen: &mut Vec<Seen>) -> rusqlite::Result<()> {
    let (was, is) = (schema::tables(old)?, schema::tables(new)?);
    let objects_before: BTreeMap<(String, String), Option<String>> =
        schema::objects(old)?.into_iter().map(|o| ((o.kind, o.name), o.sql)).collect();
    let objects = schema::objects(new)?;
    let fresh: Vec<&Object> = objects
        .iter()
        .filter(|o| o.table != history::TABLE && o.table != history::SIDE_TABLE)
        .filter(|o| o.sql.is_some() && objects_before.get(&(o.kind.clone(), o.name.clone())) != Some(&o.sql))
        .collect();
    for object in fresh.iter().filter(|object| object.kind == "index" && was.contains_key(&object.table)) {
        let rows = count(new, &object.table)?;
        if rows >= MANY {
            let (index, table) = (object.name.clone(), object.table.clone());
            seen.push(Seen::LargeIndex { index, table, rows });
        }
    }
    let has = |name: &str| is.keys().any(|table| table.eq_ignore_ascii_case(name));
    let helpers = is.keys().filter(|name| helps(name, &has));
    seen.extend(helpers.map(|table| Seen::Leftover { table: table.clone() }));
    for name in ["user_version", "application_id", "encoding", "page_size", "auto_vacuum"] {
        let value = |of: &Connection| -> rusqlite::Result<String> {
            of.query_row(&format!("PRAGMA {name}"), [], |row| {
                Ok(match row.get_ref(0)? {
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    other => other.as_str().unwrap_or_default().to_owned(),
                })
            })
        };
        let (before, after) = (value(old)?, value(new)?);
        if before != after {
            seen.push(Seen::Setting { name: name.to_owned(), before, after });
        }
    }
    let (options_before, options) = (options(old)?, options(new)?);
    for (table, after) in &options {
        if let Some(before) = options_before.get(table).filter(|before| *before != after) {
            let (before, after) = (before.clone(), after.clone());
            seen.push(Seen::Options { table: table.clone(), before, after });
        }
    }
    for (table, now) in &is {
        let Some(then) = was.get(table) else { continue };
        let fresh = required(new, table)?.into_iter().filter(|column| !then.has(column));
        seen.extend(fresh.map(|column| Seen::Required { column: format!("{table}.{column}") }));
        for column in &now.columns {
            let before = then.columns.iter().find(|c| c.name.eq_ignore_ascii_case(&column.name));
            let Some(before) =
                before.filter(|before| affinity(&before.declared) != affinity(&column.declared))
            else {
                continue;
            };
            let shown =
                |declared: &str| if declared.is_empty() { "no type".to_owned() } else { declared.to_owned() };
            seen.push(Seen::Affinity {
                column: format!("{table}.{}", column.name),
                before: shown(&before.declared),
                after: shown(&column.declared),
            });
        }
        if then.root_page != now.root_page && options.get(table).is_none_or(|o| !o.contains("WITHOUT ROWID"))
        {
            let sum = format!("SELECT total(rowid) FROM {}", quoted(table));
            let moved = old.query_row(&sum, [], |row| row.get::<_, f64>(0)).ok()
                != new.query_row(&sum, [], |row| row.get::<_, f64>(0)).ok();
            let uses = objects.iter().filter(|o| moved && uses_rows_of(o, table));
            seen.extend(uses.map(|o| Seen::RowidsMoved { table: table.clone(), dependent: o.name.clone() }));
        }
    }
    let names: BTreeSet<String> = objects
        .iter()
        .map(|object| object.name.to_lowercase())
        .chain(is.values().flat_map(|table| table.columns.iter().map(|column| column.name.to_lowercase())))
        .chain(generated(new)?)
        .collect();
    for object in fresh {
        let sql = object.sql.as_deref().unwrap_or_default();
        seen.extend(needs(object, sql));
        for text in double_quoted(sql).into_iter().filter(|text| !names.contains(&text.to_lowercase())) {
            seen.push(Seen::QuotedText { object: object.name.clone(), text });
        }
        let lower = sql.to_lowercase();
        let json = lower.contains("json_") || lower.contains("->");
        let computed = object.kind == "index" || (object.kind == "table" && lower.contains(" as ("));
        if json && computed {
            seen.push(Seen::OverJson { object: object.name.clone() });
        }
    }
    Ok(())
}

/// The columns that an INSERT has to give: NOT NULL without a default. SQLite fills in an INTEGER PRIMARY KEY itself.
fn required(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0 AND \"notnull\" AND dflt_value IS NULL AND pk = 0",
    )?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

/// Whether the name is that of a helper beside a table that is there.
fn helps(name: &str, has: &dyn Fn(&str) -> bool) -> bool {
    let after = ["_new", "_old", "_tmp", "_temp", "_backup"].iter().find_map(|end| name.strip_suffix(end));
    let before = ["new_", "old_", "tmp_", "temp_"].iter().find_map(|begin| name.strip_prefix(begin));
    after.or(before).is_some_and(has)
}

/// STRICT and WITHOUT ROWID, by table.
fn options(connection: &Connection) -> rusqlite::Result<BTreeMap<String, String>> {
    let mut statement = connection
        .prepare("SELECT name, wr, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")?;
    let rows = statement.query_map([], |row| {
        let words = [("WITHOUT ROWID", row.get::<_, bool>(1)?), ("STRICT", row.get::<_, bool>(2)?)];
        let words: Vec<&str> = words.iter().filter(|(_, on)| *on).map(|(word, _)| *word).collect();
        let words = if words.is_empty() { "an ordinary table".to_owned() } else { words.join(", ") };
        Ok((row.get(0)?, words))
    })?;
    rows.collect()
}

/// The names of generated columns, in lower case.
fn generated(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT lower(x.name) FROM sqlite_schema s, pragma_table_xinfo(s.name) x
         WHERE s.type IN ('table', 'view') AND (x.hidden > 1 OR s.type = 'view')",
    )?;
    let names = statement.query_map([], |row| row.get(0))?;
    // A view that cannot be read has no columns to know.
    Ok(names.filter_map(Result::ok).collect())
}

/// Whether it is a virtual table that keeps rowids of the table.
fn uses_rows_of(object: &Object, table: &str) -> bool {
    let sql = object.sql.as_deref().unwrap_or_default().to_lowercase();
    let table = table.to_lowercase();
    let content = sql.split("content").skip(1).any(|rest| {
        let rest = rest.trim_start_matches([' ', '=']).trim_start_matches(['\'', '"', ' ']);
        rest.strip_prefix(&table).is_some_and(|rest| rest.starts_with(['\'', '"', ',', ')', ' ']))
    });
    sql.starts_with("create virtual table") && content
}

/// What only newer versions of SQLite know.
fn needs(object: &Object, sql: &str) -> Option<Seen> {
    let upper = format!(" {} ", sql.split_whitespace().collect::<Vec<_>>().join(" ").to_uppercase());
    let end = upper.trim_end().rsplit(')').next().unwrap_or_default().to_owned();
    let table = object.kind == "table";
    let (sqlite, what) = if upper.contains(" RIGHT JOIN ")
        || upper.contains(" FULL JOIN ")
        || upper.contains(" FULL OUTER JOIN ")
    {
        ("3.39", "RIGHT or FULL JOIN")
    } else if upper.contains(" IS DISTINCT FROM ") || upper.contains(" IS NOT DISTINCT FROM ") {
        ("3.39", "IS DISTINCT FROM")
    } else if upper.contains("->") {
        ("3.38", "the operator -> of JSON")
    } else if table && end.contains("STRICT") {
        ("3.37", "STRICT")
    } else if table && (upper.contains(" GENERATED ALWAYS ") || upper.contains(" AS (")) {
        ("3.31", "a generated column")
    } else {
        return None;
    };
    Some(Seen::Needs { sqlite: sqlite.to_owned(), what: what.to_owned(), object: object.name.clone() })
}

/// The kind of values that a declared type makes of what it gets: SQLite's own rules, in their order.
fn affinity(declared: &str) -> &'static str {
    let upper = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| upper.contains(word));
    if has(&["INT"]) {
        "INTEGER"
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        "TEXT"
    } else if upper.is_empty() || has(&["BLOB"]) {
        "BLOB"
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        "REAL"
    } else {
        "NUMERIC"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::diff::{self, Side};

    /// What is seen when a database is changed.
    fn after(prepare: &str, change: &str) -> Vec<Seen> {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one.db"), dir.path().join("two.db"));
        Connection::open(&one).unwrap().execute_batch(prepare).unwrap();
        std::fs::copy(&one, &two).unwrap();
        let own = Connection::open(&two).unwrap();
        own.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        own.execute_batch(change).unwrap();
        drop(own);
        let stop = Stop::new();
        let rows = diff::rows(Side::Finished(&one), Side::Finished(&two), 0, &stop).unwrap();
        look(&one, &two, &rows, &stop).unwrap()
    }

    fn rules(prepare: &str, change: &str) -> Vec<&'static str> {
        after(prepare, change).iter().map(|seen| seen.remark("0002_x.sql").rule).collect()
    }

    #[test]
    fn each_rule_is_seen_in_what_a_migration_left() {
        let orders = "CREATE TABLE orders (id INTEGER PRIMARY KEY, code TEXT, note TEXT);
                      INSERT INTO orders VALUES (1, '007', '{}'), (5, '1e3', '{}');";
        for (change, rule) in [
            ("CREATE TABLE orders_new (id)", "leftover"),
            ("PRAGMA user_version = 7", "file-setting"),
            ("CREATE TABLE s (a INT) STRICT", "sqlite-version"),
            ("CREATE VIEW v AS SELECT * FROM orders a RIGHT JOIN orders b ON a.id = b.id", "sqlite-version"),
            ("CREATE VIEW v AS SELECT id FROM orders WHERE code = \"open\"", "double-quoted-text"),
            ("CREATE INDEX i ON orders (json_extract(note, '$.a'))", "computed-from-json"),
        ] {
            assert_eq!(rules(orders, change), [rule], "{change}");
        }
        let rebuild = |columns: &str, options: &str| {
            format!(
                "CREATE TABLE n ({columns}) {options}; INSERT INTO n SELECT * FROM orders; DROP TABLE orders;
                 ALTER TABLE n RENAME TO orders"
            )
        };
        let kept = "id INTEGER PRIMARY KEY, code TEXT, note TEXT";
        assert_eq!(rules(orders, &rebuild(kept, "")), Vec::<&str>::new());
        assert_eq!(rules(orders, &rebuild("id INTEGER PRIMARY KEY, code INT, note TEXT", "")), ["affinity"]);
        assert!(rules(orders, &rebuild(kept, "STRICT")).contains(&"table-options"));
    }

    #[test]
    fn an_index_of_words_whose_rows_moved_is_a_danger_and_one_whose_rows_stayed_is_none() {
        let with = |key: &str| {
            format!(
                "CREATE TABLE notes (k {key}, body TEXT); INSERT INTO notes (body) VALUES ('a'), ('b'), ('c');
                 CREATE VIRTUAL TABLE words USING fts5(body, content='notes');
                 DELETE FROM notes WHERE body = 'a';"
            )
        };
        let rebuild = |key: &str| {
            format!(
                "CREATE TABLE n (k {key}, body TEXT); INSERT INTO n SELECT k, body FROM notes; DROP TABLE notes;
                 ALTER TABLE n RENAME TO notes"
            )
        };
        assert_eq!(rules(&with("TEXT"), &rebuild("TEXT")), ["rowids-moved"]);
        assert_eq!(rules(&with("INTEGER PRIMARY KEY"), &rebuild("INTEGER PRIMARY KEY")), Vec::<&str>::new());
    }

    #[test]
    fn work_on_very_many_rows_is_told_with_its_numbers() {
        let many = format!(
            "CREATE TABLE t (a INTEGER PRIMARY KEY, b INT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})
             INSERT INTO t SELECT i, 0 FROM n"
        );
        assert_eq!(rules(&many, "CREATE INDEX i ON t (b)"), ["large-index"]);
        assert_eq!(rules(&many, "UPDATE t SET b = 1"), ["many-rows"]);
        let seen = after(&many, "UPDATE t SET b = 1");
        assert!(seen[0].remark("f").what.contains("100000 rows of t"), "{seen:?}");
    }
}
