//! A database's tables counted column by column, before and after a migration, and what is gone.
//!
//! One scan per table: cheap enough to be taken inside the migration's own transaction, before COMMIT.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::connection::quoted;
use super::error::{app_defined, message};
use super::history;
use super::schema::{self, Object, Table};
use super::script::Named;

/// Something that would be gone, and the word that acknowledges it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// `drop:sso_nonce`, `drop:orders.note`, `rows:order_items`, `values:orders.note`, `sequence:orders`,
    /// `foreign-keys:order_items`.
    pub word: String,
    /// How many rows or values.
    pub quantity: u64,
    /// In words.
    pub detail: String,
}

/// What a migration does, decided by what happened and not by its text; from the harmless to the harmful.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Nothing changed.
    NoOp,
    /// Rows only.
    Data,
    /// New tables, columns, indexes, views.
    Additive,
    /// New rules that rows must keep: UNIQUE, NOT NULL, CHECK, triggers.
    Tightening,
    /// A table or column has another name: old code breaks.
    Rename,
    /// A table was built anew under its name.
    Rebuild,
    /// A table, column or rows are gone.
    Destructive,
}

/// What a migration's time grows with, decided by what happened; from the harmless to the harmful.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// With nothing: only the schema was written.
    Instant,
    /// With the rows of a table: they were read, or changed in place.
    Scan,
    /// With all of a table: it was written anew.
    Rebuild,
    /// Something is gone.
    Destructive,
}

/// What happened between two censuses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Changes {
    pub(crate) losses: Vec<Loss>,
    pub(crate) class: Class,
    pub(crate) work: Work,
    pub(crate) touched: BTreeSet<String>,
    /// Whether a table was dropped or built anew: then foreign keys are better off.
    pub(crate) rebuilt: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) table: Table,
    pub(crate) rows: u64,
    /// Values that are not NULL, by the column's place.
    pub(crate) filled: Vec<u64>,
    /// Whether a column fills rows that do not name it, by its place.
    defaults: Vec<bool>,
    /// Derived columns that refuse NULL.
    derived: u64,
    /// Whether SQLite checks the type of each value.
    strict: bool,
}

/// The counts of one moment.
#[derive(Clone, Debug)]
pub(crate) struct Census {
    pub(crate) tables: BTreeMap<String, Counted>,
    objects: BTreeMap<String, Object>,
    sequences: BTreeMap<String, i64>,
    /// What ANALYZE wrote down.
    statistics: Vec<String>,
    /// Foreign keys that point nowhere, by child table; `None` when SQLite cannot judge.
    violations: Option<BTreeMap<String, u64>>,
    /// Whether any table has a foreign key at all.
    pub(crate) foreign_keys: bool,
}

impl Census {
    pub(crate) fn take(connection: &Connection) -> rusqlite::Result<Self> {
        let shadows = shadows(connection)?;
        let mut tables = BTreeMap::new();
        for (name, table) in schema::tables(connection)? {
            // Our own tables, and what a virtual table keeps for itself, except the rows that users put there.
            let own = name == history::TABLE || name == history::SIDE_TABLE;
            if own || (shadows.contains(&name) && !name.ends_with("_content")) {
                continue;
            }
            tables.insert(name, counted(connection, table)?);
        }
        let objects = schema::objects(connection)?
            .into_iter()
            .filter(|object| object.sql.is_some() && !shadows.contains(&object.table))
            .filter(|object| object.table != history::TABLE && object.table != history::SIDE_TABLE)
            .map(|object| (object.name.clone(), object))
            .collect();
        let foreign_keys: i64 = connection.query_row(
            "SELECT count(*) FROM sqlite_schema s, pragma_foreign_key_list(s.name) WHERE s.type = 'table'",
            [],
            |row| row.get(0),
        )?;
        Ok(Census {
            tables,
            objects,
            sequences: schema::sequences(connection)?,
            statistics: statistics(connection)?,
            violations: violations(connection)?,
            foreign_keys: foreign_keys > 0,
        })
    }

    /// What happened from here to `after`.
    pub(crate) fn changes(&self, after: &Census, named: &Named) -> Changes {
        let mut changes = Changes {
            losses: Vec::new(),
            class: Class::NoOp,
            work: Work::Instant,
            touched: BTreeSet::new(),
            rebuilt: false,
        };
        let renamed = self.renamed_tables(after);
        for (name, before) in &self.tables {
            let now = after.tables.get(renamed.get(name).unwrap_or(name));
            match now {
                None => {
                    changes.mark(name, Class::Destructive);
                    changes.rebuilt = true;
                    changes.lose(format!("drop:{name}"), before.rows, "rows of a table that is gone");
                }
                Some(now) => {
                    if renamed.contains_key(name) {
                        changes.mark(name, Class::Rename);
                    }
                    compare_table(name, before, now, &mut changes);
                }
            }
        }
        let known: BTreeSet<&String> = renamed.values().collect();
        for (name, counted) in &after.tables {
            if !self.tables.contains_key(name) && !known.contains(name) {
                changes.mark(name, if counted.rows > 0 { Class::Data } else { Class::NoOp });
                changes.mark(name, Class::Additive);
            }
        }
        self.compare_objects(after, named, &mut changes);
        self.compare_sequences(after, &renamed, &mut changes);
        self.compare_violations(after, &mut changes);
        if self.statistics != after.statistics && !after.statistics.is_empty() {
            changes.work = changes.work.max(Work::Scan);
        }
        changes
    }

    /// Old name to new name, by the page where the table begins: ALTER TABLE RENAME keeps it.
    fn renamed_tables(&self, after: &Census) -> BTreeMap<String, String> {
        let gone = self.tables.iter().filter(|(name, _)| !after.tables.contains_key(*name));
        gone.filter_map(|(name, before)| {
            let mut new = after.tables.iter().filter(|(new, _)| !self.tables.contains_key(*new));
            let same = new.find(|(_, now)| {
                now.table.root_page == before.table.root_page
                    && now.table.columns.len() >= before.table.columns.len()
            });
            same.map(|(new, _)| (name.clone(), new.clone()))
        })
        .collect()
    }

    fn compare_objects(&self, after: &Census, named: &Named, changes: &mut Changes) {
        for (name, object) in &self.objects {
            if object.kind == "table" || after.objects.contains_key(name) {
                continue;
            }
            changes.mark(&object.table, Class::Additive);
            // Gone with its table, or named in a DROP: not by mistake.
            let with_table = !after.objects.contains_key(&object.table);
            if !with_table && !named.dropped.contains(&name.to_lowercase()) {
                changes.lose(
                    format!("drop:{name}"),
                    1,
                    &format!("{} that a rebuild did not bring back", object.kind),
                );
            }
        }
        for (name, object) in &after.objects {
            if object.kind == "table" || self.objects.contains_key(name) {
                continue;
            }
            let on_existing = self.objects.contains_key(&object.table);
            if object.kind == "index" && on_existing {
                changes.work = changes.work.max(Work::Scan);
            }
            let unique = object.sql.as_ref().is_some_and(|sql| sql.to_ascii_uppercase().contains("UNIQUE"));
            let rules = object.kind == "trigger" || (object.kind == "index" && unique);
            changes
                .mark(&object.table, if rules && on_existing { Class::Tightening } else { Class::Additive });
        }
    }

    fn compare_sequences(&self, after: &Census, renamed: &BTreeMap<String, String>, changes: &mut Changes) {
        for (name, before) in &self.sequences {
            let new_name = renamed.get(name).unwrap_or(name);
            let now = after.sequences.get(new_name).copied().unwrap_or(0);
            if now < *before && after.tables.contains_key(new_name) {
                let detail = format!("the next number was {} and would be {}", before + 1, now + 1);
                changes.lose(format!("sequence:{name}"), (before - now).unsigned_abs(), &detail);
            }
        }
    }

    fn compare_violations(&self, after: &Census, changes: &mut Changes) {
        let (Some(before), Some(after)) = (&self.violations, &after.violations) else { return };
        for (table, now) in after {
            let then = before.get(table).copied().unwrap_or(0);
            if *now > then {
                changes.lose(format!("foreign-keys:{table}"), now - then, "rows whose parent is gone");
            }
        }
    }
}

impl Changes {
    pub(crate) fn lose(&mut self, word: String, quantity: u64, detail: &str) {
        // Whatever holds nothing is not lost.
        if quantity == 0 {
            return;
        }
        self.work = Work::Destructive;
        match self.losses.iter_mut().find(|loss| loss.word == word) {
            Some(loss) => loss.quantity = loss.quantity.max(quantity),
            None => self.losses.push(Loss { word, quantity, detail: detail.to_owned() }),
        }
    }

    pub(crate) fn mark(&mut self, table: &str, class: Class) {
        self.touched.insert(table.to_owned());
        self.class = self.class.max(class);
        self.work = self.work.max(match class {
            Class::NoOp | Class::Additive | Class::Rename | Class::Tightening => Work::Instant,
            Class::Data => Work::Scan,
            Class::Rebuild => Work::Rebuild,
            Class::Destructive => Work::Destructive,
        });
    }
}

fn compare_table(name: &str, before: &Counted, now: &Counted, changes: &mut Changes) {
    if before.table.root_page != now.table.root_page {
        changes.mark(name, Class::Rebuild);
        changes.rebuilt = true;
    }
    if now.rows < before.rows {
        changes.mark(name, Class::Destructive);
        changes.lose(format!("rows:{name}"), before.rows - now.rows, "rows that are gone");
    } else if now.rows > before.rows {
        changes.mark(name, Class::Data);
    }
    let same_place = before.table.root_page == now.table.root_page;
    let mut only_renamed = Vec::new();
    for (place, column) in before.table.columns.iter().enumerate() {
        let filled = before.filled[place];
        if let Some(new_place) =
            now.table.columns.iter().position(|c| c.name.eq_ignore_ascii_case(&column.name))
        {
            // Rows that are gone took their values with them; that is one loss, not one for each column.
            let gone = before.rows.saturating_sub(now.rows);
            let left = now.filled[new_place];
            changes.lose(
                format!("values:{name}.{}", column.name),
                filled.saturating_sub(left).saturating_sub(gone),
                "values that became NULL",
            );
            if !column.not_null && now.table.columns[new_place].not_null {
                changes.mark(name, Class::Tightening);
                changes.work = changes.work.max(Work::Scan);
            }
            continue;
        }
        // RENAME COLUMN: the same place, type and values under a name that was not there.
        let renamed = same_place
            && now.table.columns.get(place).is_some_and(|other| {
                other.declared == column.declared
                    && now.filled[place] == filled
                    && !before.table.has(&other.name)
            });
        if renamed {
            only_renamed.push(now.table.columns[place].name.as_str());
            changes.mark(name, Class::Rename);
        } else {
            changes.mark(name, Class::Destructive);
            changes.lose(format!("drop:{name}.{}", column.name), filled, "values of a column that is gone");
        }
    }
    // Rows are read when they may break a new rule.
    let rules = |table: &Table| table.sql.to_ascii_uppercase().matches("CHECK").count();
    if same_place && rules(&now.table) > rules(&before.table) {
        changes.work = changes.work.max(Work::Scan);
    }
    // ADD COLUMN lets SQLite check every row against all rules of the table, those that were there before too.
    let new = |name: &str| !before.table.has(name) && !only_renamed.contains(&name);
    let added = now.table.columns.iter().any(|column| new(&column.name));
    if same_place && (now.derived > before.derived || (added && (now.strict || rules(&now.table) > 0))) {
        changes.work = changes.work.max(Work::Scan);
    }
    if added {
        // A new column is empty until somebody writes into it.
        let written = now
            .table
            .columns
            .iter()
            .zip(&now.filled)
            .zip(&now.defaults)
            .any(|((column, filled), default)| new(&column.name) && *filled > 0 && !default);
        if written {
            changes.mark(name, Class::Data);
        }
        changes.mark(name, Class::Additive);
    } else if before.table.sql != now.table.sql
        && same_place
        && only_renamed.is_empty()
        && before.table.columns.len() == now.table.columns.len()
    {
        // The same columns under another definition, in place: ALTER COLUMN, ADD CONSTRAINT, writable_schema.
        changes.mark(name, Class::Tightening);
    }
}

fn counted(connection: &Connection, table: Table) -> rusqlite::Result<Counted> {
    let filled: String = table.columns.iter().map(|c| format!(", count({})", quoted(&c.name))).collect();
    let sql = format!("SELECT count(*){filled} FROM {} NOT INDEXED", quoted(&table.name));
    let width = table.columns.len();
    let (derived, strict) = connection.query_row(
        "SELECT (SELECT count(*) FROM pragma_table_xinfo(?1) WHERE hidden IN (2, 3) AND \"notnull\"),
            (SELECT coalesce(max(strict), 0) FROM pragma_table_list(?1) WHERE schema = 'main')",
        [&table.name],
        |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?)),
    )?;
    let defaults = connection
        .prepare("SELECT dflt_value IS NOT NULL FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid")?
        .query_map([&table.name], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<bool>>>()?;
    connection.query_row(&sql, [], |row| {
        let number = |place: usize| row.get::<_, i64>(place).map(i64::unsigned_abs);
        let filled = (1..=width).map(number).collect::<rusqlite::Result<_>>()?;
        Ok(Counted {
            rows: number(0)?,
            filled,
            table: table.clone(),
            defaults: defaults.clone(),
            derived,
            strict,
        })
    })
}

/// The lines of `sqlite_stat1`; none before the first ANALYZE.
fn statistics(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let there = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1')";
    if !connection.query_row(there, [], |row| row.get::<_, bool>(0))? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare(
        "SELECT quote(tbl) || ' ' || quote(idx) || ' ' || quote(stat) FROM sqlite_stat1 ORDER BY 1",
    )?;
    let lines = statement.query_map([], |row| row.get(0))?;
    lines.collect()
}

fn shadows(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement =
        connection.prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'")?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.collect()
}

/// Rows whose foreign key points nowhere, by child table; `None` when SQLite cannot judge.
pub(crate) fn violations(connection: &Connection) -> rusqlite::Result<Option<BTreeMap<String, u64>>> {
    let count = || -> rusqlite::Result<BTreeMap<String, u64>> {
        let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
        let mut rows = statement.query([])?;
        let mut found = BTreeMap::new();
        while let Some(row) = rows.next()? {
            *found.entry(row.get::<_, String>(0)?).or_default() += 1;
        }
        Ok(found)
    };
    match count() {
        Ok(found) => Ok(Some(found)),
        Err(e) => {
            let why = message(&e);
            if app_defined(&why) || why.contains("foreign key mismatch") { Ok(None) } else { Err(e) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_every_row_is_not_called_instant() {
        let cases = [
            ("ALTER TABLE t ADD COLUMN b TEXT", Work::Instant),
            ("ALTER TABLE t ADD COLUMN b TEXT NOT NULL DEFAULT 'x'", Work::Instant),
            ("ALTER TABLE t ADD COLUMN b TEXT AS (a || '!')", Work::Instant),
            ("ALTER TABLE t ADD COLUMN b TEXT NOT NULL AS (coalesce(a, 'none'))", Work::Scan),
            ("ALTER TABLE t ADD COLUMN b INT CHECK (b > 0)", Work::Scan),
            ("ALTER TABLE checked ADD COLUMN b TEXT", Work::Scan),
            ("ALTER TABLE typed ADD COLUMN b TEXT", Work::Scan),
            ("ALTER TABLE t ADD COLUMN b TEXT; UPDATE t SET b = a", Work::Scan),
            ("ALTER TABLE t RENAME COLUMN a TO b", Work::Instant),
            ("ALTER TABLE checked RENAME COLUMN a TO b", Work::Instant),
            ("ALTER TABLE typed RENAME COLUMN a TO b", Work::Instant),
            ("ANALYZE", Work::Scan),
            ("DROP TABLE empty", Work::Destructive),
        ];
        for (sql, work) in cases {
            let own = Connection::open_in_memory().unwrap();
            own.execute_batch(
                "CREATE TABLE t (k INTEGER PRIMARY KEY, a TEXT); CREATE INDEX t_a ON t (a);
                 CREATE TABLE checked (k INTEGER PRIMARY KEY, a INT CHECK (a > 0)); CREATE TABLE empty (x);
                 CREATE TABLE typed (k INTEGER PRIMARY KEY, a TEXT) STRICT; INSERT INTO t (a) VALUES ('x'), ('y');",
            )
            .unwrap();
            let before = Census::take(&own).unwrap();
            own.execute_batch(sql).unwrap();
            let changes = before.changes(&Census::take(&own).unwrap(), &Named::default());
            assert_eq!(changes.work, work, "{sql}");
        }
    }
}
