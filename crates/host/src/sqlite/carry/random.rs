//! Random histories over random schemas and migrations, and what must hold of each, seen without the ledger.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::tests::Case;
use super::{Carried, Error, Reason};
use crate::sqlite::connection::quoted;
use crate::sqlite::diff::{self, Change, RowChange, Side};
use crate::sqlite::fingerprint::{Depth, Difference, Fingerprint};
use crate::sqlite::{Control, Stop, schema};

/// A few bytes, read as an act on whatever schema is there.
type Act = [u8; 5];

#[derive(Clone, Debug)]
struct History {
    tables: Vec<[u8; 5]>,
    before: Vec<Act>,
    migration: Vec<Act>,
    users: Vec<Act>,
    /// Which full-text indexes there are.
    text: u8,
}

impl History {
    /// One that keeps its rows itself.
    fn own_text(&self) -> bool {
        self.text.is_multiple_of(3)
    }

    /// One over `t0`, kept by triggers, where that has row numbers of its own.
    fn derived_text(&self) -> bool {
        self.text % 5 < 2 && self.tables.first().is_some_and(|[kind, ..]| matches!(kind % 9, 0..=2 | 8))
    }
}

fn histories() -> impl Strategy<Value = History> {
    let acts = |most| prop::collection::vec(any::<Act>(), 0..most);
    (prop::collection::vec(any::<[u8; 5]>(), 1..4), acts(24), acts(4), acts(20), any::<u8>()).prop_map(
        |(tables, before, migration, users, text)| History { tables, before, migration, users, text },
    )
}

const VALUES: [&str; 20] = [
    "NULL",
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "1.0",
    "2.5",
    "'a'",
    "'A'",
    "'b'",
    "'5'",
    "'05'",
    "''",
    "x'61'",
    "x''",
    "9007199254740993",
    "-7",
    "'long text that says something'",
];
const TYPES: [&str; 6] = ["", "INT", "TEXT", "REAL", "BLOB", "TEXT COLLATE NOCASE"];

fn of<'a>(list: &[&'a str], byte: u8) -> &'a str {
    list[usize::from(byte) % list.len()]
}

fn create(number: usize, [kind, one, two, unique, more]: [u8; 5]) -> String {
    let (key, tail) = match kind % 9 {
        0 => ("k INTEGER PRIMARY KEY", ""),
        1 | 2 => ("k INTEGER PRIMARY KEY AUTOINCREMENT", ""),
        3 => ("k TEXT PRIMARY KEY", ""),
        4 => ("k TEXT COLLATE NOCASE PRIMARY KEY, k2 INT", ""),
        5 => ("k INT, k2 TEXT, PRIMARY KEY (k, k2)", " WITHOUT ROWID"),
        6 => ("k", ""),
        7 => ("k INT, k2 TEXT, PRIMARY KEY (k2, k)", ""),
        _ => ("k INTEGER PRIMARY KEY", " STRICT"),
    };
    let declared = |byte| {
        if kind % 9 == 8 { of(&["ANY", "INTEGER", "TEXT", "REAL", "BLOB"], byte) } else { of(&TYPES, byte) }
    };
    let mut columns =
        vec![format!("a {}", declared(one)), format!("b {}", declared(two)), "u INTEGER".to_owned()];
    if unique % 2 == 0 {
        columns[2] = format!(
            "u INTEGER UNIQUE{}",
            of(&["", " ON CONFLICT REPLACE", " ON CONFLICT IGNORE"], unique / 2)
        );
    }
    if more % 3 == 0 {
        columns.push("c INTEGER CHECK (c IS NULL OR c < 5)".into());
    }
    if more % 4 == 0 {
        columns.push("g AS (a || 'x')".into());
    }
    if number > 0 && more % 2 == 0 {
        let action = of(&["CASCADE", "SET NULL", "RESTRICT"], more / 2);
        columns.push(format!("p INTEGER REFERENCES t0x(k) ON DELETE {action}"));
    }
    if kind % 9 == 8 {
        columns.retain(|column| !column.starts_with("g "));
    }
    // The key first in all but the two that end with a constraint.
    let (names, constraint) = match key.split_once(", PRIMARY KEY") {
        Some((names, rest)) => (names, format!(", PRIMARY KEY{rest}")),
        None => (key, String::new()),
    };
    format!("CREATE TABLE t{number} ({names}, {}{constraint}){tail};", columns.join(", "))
}

fn begin(history: &History) -> String {
    // What foreign keys point to: always there, never migrated.
    let parent = "CREATE TABLE t0x (k INTEGER PRIMARY KEY, v); INSERT INTO t0x VALUES (0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5);";
    let tables =
        history.tables.iter().enumerate().map(|(number, spec)| create(number, *spec)).collect::<String>();
    let mut sql = format!("{parent}{tables}CREATE INDEX shadowed ON t0 (a);");
    if history.own_text() {
        sql.push_str("CREATE VIRTUAL TABLE own_text USING fts5(body);");
    }
    if history.derived_text() {
        sql.push_str(
            "CREATE VIRTUAL TABLE found USING fts5(a, content='t0', content_rowid='k');
             CREATE TRIGGER found_i AFTER INSERT ON t0 BEGIN INSERT INTO found (rowid, a) VALUES (new.k, new.a); END;
             CREATE TRIGGER found_d AFTER DELETE ON t0 BEGIN INSERT INTO found (found, rowid, a) VALUES ('delete', old.k, old.a); END;
             CREATE TRIGGER found_u AFTER UPDATE ON t0 BEGIN INSERT INTO found (found, rowid, a) VALUES ('delete', old.k, old.a);
                 INSERT INTO found (rowid, a) VALUES (new.k, new.a); END;",
        );
    }
    sql
}

/// Tables of rows; the shadow tables of full-text indexes are not.
fn names(own: &Connection) -> Vec<String> {
    schema::tables(own).unwrap().into_keys().filter(|name| !shadow(name)).collect()
}

fn shadow(name: &str) -> bool {
    name.starts_with("own_text_") || name.starts_with("found_")
}

/// The rows of the full-text index that keeps them; empty when there is none.
fn texts(own: &Connection) -> BTreeMap<i64, Value> {
    let Ok(mut statement) = own.prepare("SELECT rowid, body FROM own_text") else { return BTreeMap::new() };
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
}

/// An act on that index, when there is one and the act is meant for it.
fn act_on_text(own: &Connection, [what, table, row, _, value]: Act) -> bool {
    let there = own.query_row("SELECT 1 FROM sqlite_schema WHERE name = 'own_text'", [], |_| Ok(())).is_ok();
    if table % 4 > 0 || !there {
        return false;
    }
    let (row, value) = (row % 8, of(&VALUES, value));
    let sql = match what % 5 {
        0 => format!("INSERT INTO own_text (body) VALUES ({value})"),
        1 => format!("INSERT INTO own_text (rowid, body) VALUES ({row}, {value})"),
        2 => format!("DELETE FROM own_text WHERE rowid = {row}"),
        3 => format!("UPDATE own_text SET body = {value}"),
        _ => format!("UPDATE own_text SET body = {value} WHERE rowid = {row}"),
    };
    let _ = own.execute_batch(&sql);
    true
}

fn writable(own: &Connection, table: &str) -> Vec<String> {
    schema::tables(own)
        .unwrap()
        .remove(table)
        .map(|t| t.columns.into_iter().map(|c| c.name).collect())
        .unwrap_or_default()
}

/// What an app does. Whatever its database refuses does not happen.
fn act(own: &Connection, [what, table, row, column, value]: Act) {
    if act_on_text(own, [what, table, row, column, value]) {
        return;
    }
    let tables = names(own);
    let name = &tables[usize::from(table) % tables.len()];
    let columns = writable(own, name);
    let pick = |byte: u8| quoted(&columns[usize::from(byte) % columns.len()]);
    let table = quoted(name);
    let which = {
        let key = schema::tables(own).unwrap().remove(name).map(|t| t.key).unwrap_or_default();
        let without_rowid: bool = own
            .query_row("SELECT wr FROM pragma_table_list WHERE name = ?1", [name], |row| row.get(0))
            .unwrap();
        let by = if without_rowid {
            key.iter().map(|k| quoted(k)).collect::<Vec<_>>().join(", ")
        } else {
            "rowid".into()
        };
        format!("({by}) = (SELECT {by} FROM {table} LIMIT 1 OFFSET {})", row % 8)
    };
    let sql = match what % 10 {
        0..=3 => {
            let values = columns.iter().enumerate().map(|(place, name)| {
                let byte = value
                    .wrapping_mul(31)
                    .wrapping_add(column.wrapping_mul(place.to_le_bytes()[0] + 7))
                    .wrapping_add(row);
                if name == "k" && what % 10 < 2 {
                    format!("{}", row % 16)
                } else {
                    of(&VALUES, byte).to_owned()
                }
            });
            format!(
                "INSERT OR ABORT INTO {table} ({}) VALUES ({})",
                columns.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(", "),
                values.collect::<Vec<_>>().join(", ")
            )
        }
        4 | 5 => {
            format!("UPDATE OR ABORT {table} SET {} = {} WHERE {which}", pick(column), of(&VALUES, value))
        }
        6 => format!("DELETE FROM {table} WHERE {which}"),
        7 if columns.iter().any(|c| c == "u") => {
            // Two rows take each other's value, or everyone moves up by one.
            if value % 2 == 0 {
                let (a, b) = (row % 6, column % 6);
                format!(
                    "UPDATE {table} SET u = 1000 + u WHERE u IN ({a}, {b}); UPDATE {table} SET u = {b} WHERE u = 1000 + {a};
                     UPDATE {table} SET u = {a} WHERE u = 1000 + {b} AND {a} <> {b};"
                )
            } else {
                format!("UPDATE {table} SET u = -1 - u; UPDATE {table} SET u = -u")
            }
        }
        8 => format!("INSERT OR REPLACE INTO {table} ({}) VALUES ({})", pick(column), of(&VALUES, value)),
        _ => format!("UPDATE OR ABORT {table} SET {} = {} + 1", pick(column), pick(column)),
    };
    let _ = own.execute_batch(&format!("BEGIN; {sql}; COMMIT;")).or_else(|_| own.execute_batch("ROLLBACK"));
}

/// What the migration made of the names: table now to table before and its columns, the same way round.
type Names = BTreeMap<String, (Option<String>, BTreeMap<String, Option<String>>)>;

fn migrate(own: &Connection, acts: &[Act]) -> Names {
    let mut known: Names = names(own)
        .into_iter()
        .map(|name| {
            (
                name.clone(),
                (
                    Some(name.clone()),
                    writable(own, &name).into_iter().map(|c| (c.clone(), Some(c))).collect(),
                ),
            )
        })
        .collect();
    for (turn, [what, table, column, value, more]) in acts.iter().enumerate() {
        if what % 10 == 9 && act_on_text(own, [*value, *table, *column, 0, *more]) {
            continue;
        }
        let tables: Vec<String> = names(own).into_iter().filter(|name| name != "t0x").collect();
        if tables.is_empty() {
            break;
        }
        let name = &tables[usize::from(*table) % tables.len()];
        let columns = writable(own, name);
        let picked = &columns[usize::from(*column) % columns.len()];
        let (t, c) = (quoted(name), quoted(picked));
        let (new, constant) = (format!("n{turn}"), of(&VALUES, *value));
        let done = |sql: &str| {
            own.execute_batch(&format!("BEGIN; {sql}; COMMIT;"))
                .or_else(|e| own.execute_batch("ROLLBACK").and(Err(e)))
                .is_ok()
        };
        match what % 10 {
            0 | 1 => {
                if done(&format!(
                    "ALTER TABLE {t} ADD COLUMN {new} {} DEFAULT {constant}",
                    of(&["INTEGER", "TEXT"], *more)
                )) && let Some((_, columns)) = known.get_mut(name)
                {
                    columns.insert(new, None);
                }
            }
            2 => {
                if done(&format!("ALTER TABLE {t} DROP COLUMN {c}"))
                    && let Some((_, columns)) = known.get_mut(name)
                {
                    columns.remove(picked);
                }
            }
            3 | 4 => {
                if done(&format!("ALTER TABLE {t} RENAME COLUMN {c} TO {new}"))
                    && let Some((_, columns)) = known.get_mut(name)
                {
                    let before = columns.remove(picked).flatten();
                    columns.insert(new, before);
                }
            }
            5 => {
                let sql: String = own
                    .query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [name], |row| row.get(0))
                    .unwrap();
                let Some(open) = sql.find('(') else { continue };
                let list = columns.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(", ");
                done(&format!(
                    "CREATE TABLE rebuilt {}; INSERT INTO rebuilt ({list}) SELECT {list} FROM {t}; DROP TABLE {t}; ALTER TABLE rebuilt RENAME TO {t}",
                    &sql[open..]
                ));
            }
            6 => {
                let filter = of(&["1", "rowid % 2", "typeof(a) = 'text'"], *more);
                done(&format!("UPDATE OR ABORT {t} SET {c} = {constant} WHERE {filter}"));
            }
            7 => {
                let name = format!("made{turn}");
                if done(&format!("CREATE TABLE {name} (k INTEGER PRIMARY KEY, a, u INT)")) {
                    known.insert(
                        name.clone(),
                        (None, writable(own, &name).into_iter().map(|c| (c, None)).collect()),
                    );
                }
            }
            8 => {
                let renamed = format!("r{turn}");
                if done(&format!("ALTER TABLE {t} RENAME TO {renamed}"))
                    && let Some(was) = known.remove(name)
                {
                    known.insert(renamed, was);
                }
            }
            _ => {
                done(&match more % 3 {
                    0 => format!("DELETE FROM {t} WHERE typeof({c}) = 'integer'"),
                    1 => format!("INSERT INTO {t} ({c}) VALUES ({constant})"),
                    _ => format!("DELETE FROM {t}"),
                });
            }
        }
    }
    known
}

/// The three databases of a history.
fn live(history: &History, migration: bool) -> (Case, Names) {
    let case = Case::empty();
    let open = |name: &str, keys: bool| {
        let own = Connection::open(case.path(name)).unwrap();
        own.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, keys).unwrap();
        own.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;").unwrap();
        own
    };
    let own = open("pre", true);
    own.execute_batch(&format!("BEGIN; {} COMMIT;", begin(history))).unwrap();
    history.before.iter().for_each(|each| act(&own, *each));
    drop(own);
    std::fs::copy(case.path("pre"), case.path("post")).unwrap();
    let own = open("post", false);
    let names = migrate(&own, if migration { &history.migration } else { &[] });
    drop(own);
    std::fs::copy(case.path("post"), case.path("now")).unwrap();
    let own = open("now", true);
    history.users.iter().for_each(|each| act(&own, *each));
    drop(own);
    (case, names)
}

fn fingerprint(path: &Path) -> Fingerprint {
    Fingerprint::of(path, Depth::Content, &mut Control::default()).unwrap()
}

/// Without a migration the carried database is the one that is replaced.
fn identity(history: &History) -> Result<(), String> {
    let (case, _) = live(history, false);
    let carried = case.carry_with(&[]).map_err(|e| e.to_string())?;
    if let Some((table, tally)) = carried.tables.iter().find(|(_, tally)| tally.aside() > 0) {
        return Err(format!("{table}: {tally:?}"));
    }
    indexes_hold(&case, &carried)?;
    same(&case)
}

fn same(case: &Case) -> Result<(), String> {
    let (now, out) = (fingerprint(&case.path("now")), fingerprint(&case.path("out")));
    // A counter may be higher than it is now, never lower.
    if let Some(lower) =
        now.sequences.iter().find(|(table, seq)| out.sequences.get(*table).is_none_or(|out| out < *seq))
    {
        return Err(format!("the counter of {lower:?} is lower"));
    }
    let out = Fingerprint { sequences: now.sequences.clone(), ..out };
    let inside = |difference: &&Difference| match difference {
        // How an index is laid out inside depends on the order of the acts; its rows are compared.
        Difference::Rows { table, .. } | Difference::Values { table } => !shadow(table),
        _ => true,
    };
    let found: Vec<String> = now.differences(&out).iter().filter(inside).map(Difference::to_string).collect();
    let open = |name: &str| Connection::open(case.path(name)).unwrap();
    if texts(&open("now")) != texts(&open("out")) {
        return Err("the full-text index has other rows".into());
    }
    if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
}

/// Every full-text index of the result finds what its rows hold.
fn indexes_hold(case: &Case, carried: &Carried) -> Result<(), String> {
    let out = Connection::open(case.path("out")).unwrap();
    let applied: u64 = carried.tables.values().map(|tally| tally.applied).sum();
    let there =
        |name: &str| out.query_row("SELECT 1 FROM sqlite_schema WHERE name = ?1", [name], |_| Ok(())).is_ok();
    // An index that the app let go stale before is built again only when something was carried.
    for name in ["own_text", "found"].into_iter().filter(|name| there(name) && applied > 0) {
        out.execute_batch(&format!("INSERT INTO {name}({name}, rank) VALUES ('integrity-check', 1)"))
            .map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

/// With one, every difference is in the result or in the file, as the two databases and the test's own record of the
/// renames have it.
fn conserved(history: &History) -> Result<(Case, Carried, Names), String> {
    let (case, names) = live(history, true);
    let carried = case.carry_with(&[]).map_err(|e: Error| e.to_string())?;
    nothing_silent(&case, &carried, &names)?;
    indexes_hold(&case, &carried)?;
    Ok((case, carried, names))
}

fn nothing_silent(case: &Case, carried: &Carried, names: &Names) -> Result<(), String> {
    let out = Connection::open(case.path("out")).unwrap();
    let (pre, now) = (fingerprint(&case.path("pre")), fingerprint(&case.path("now")));
    let result = fingerprint(&case.path("out"));
    let broken = |of: &Fingerprint| match of.fk_violations {
        crate::sqlite::fingerprint::Known::Is(count) => count,
        crate::sqlite::fingerprint::Known::Unknown(_) => 0,
    };
    if broken(&result) > broken(&pre) {
        return Err(format!("{} foreign keys are broken, {} were", broken(&result), broken(&pre)));
    }
    for (table, seq) in &now.sequences {
        let before = names.get(table).and_then(|(before, _)| before.clone());
        let kept = before.as_ref().and_then(|name| result.sequences.get(name));
        let floor = before.as_ref().and_then(|name| pre.sequences.get(name)).copied().unwrap_or(0).max(*seq);
        let numbered = before.as_ref().is_some_and(|name| {
            pre.objects
                .iter()
                .any(|o| o.name == *name && o.sql.as_ref().is_some_and(|sql| sql.contains("AUTOINCREMENT")))
        });
        // A rename without rows to show it is not recognised: then the whole table is in the file.
        let found =
            carried.tables.get(table).is_some_and(|tally| !tally.set_aside.contains_key(&Reason::NoTable));
        if numbered && found && kept.is_none_or(|kept| *kept < floor) {
            return Err(format!("the counter of {table} is {kept:?} and was {floor}"));
        }
    }
    let written: u64 = match &carried.set_aside {
        Some(aside) => aside.rows(),
        None => 0,
    };
    let told: u64 = carried.tables.values().map(super::Tally::aside).sum();
    if written != told {
        return Err(format!("{written} set aside in the file, {told} in the report"));
    }
    let aside = carried.set_aside.as_ref().map(|aside| Connection::open(&aside.database).unwrap());
    let mut silent = Vec::new();
    let (post_side, now_path) = (case.path("post"), case.path("now"));
    let (was, is) = [&post_side, &now_path].map(|path| texts(&Connection::open(path).unwrap())).into();
    let carried_texts = texts(&out);
    let rows: std::collections::BTreeSet<&i64> = was.keys().chain(is.keys()).collect();
    for row in rows.into_iter().filter(|row| was.get(row) != is.get(row)) {
        let key = [(&"rowid".to_owned(), &Value::Integer(*row))];
        let filed = ["inserted", "changed", "deleted"]
            .iter()
            .any(|what| in_file(aside.as_ref(), "own_text", &key, Entry::Whole(what)));
        if carried_texts.get(row) != is.get(row) && !filed {
            silent.push(format!("own_text: {row}"));
        }
    }
    diff::each(Side::Finished(&post_side), Side::Finished(&now_path), &Stop::new(), &mut |table, row| {
        if !shadow(table) && !accounted(&out, aside.as_ref(), case, table, &row, names) {
            silent.push(format!("{table}: {row:?}"));
        }
        Ok(())
    })
    .unwrap();
    if silent.is_empty() { Ok(()) } else { Err(format!("silent: {}", silent.join("; "))) }
}

/// The row itself, or one value of it, as the file has it.
#[derive(Clone, Copy)]
enum Entry<'a> {
    Whole(&'a str),
    Value(&'a str, &'a Value),
    /// A key that is the same to its collation, and another one to the byte.
    Recased(&'a str, &'a Value),
}

/// Whether the file has an entry of a row; with a key, of this very row.
fn in_file(aside: Option<&Connection>, table: &str, key: &[(&String, &Value)], entry: Entry<'_>) -> bool {
    let Some(aside) = aside else { return false };
    let mut given: Vec<Value> = vec![table.to_owned().into()];
    let condition = match entry {
        Entry::Whole(what) => format!("s.what = '{what}'"),
        Entry::Value(column, value) => {
            given.extend([column.to_owned().into(), value.clone()]);
            "s.what = 'changed' AND NOT s.is_key AND s.column_name IS ?2 AND s.new_value IS ?3".into()
        }
        Entry::Recased(column, value) => {
            given.extend([column.to_owned().into(), value.clone()]);
            "s.what = 'changed' AND s.is_key AND s.column_name IS ?2 AND s.old_value IS NOT s.new_value
             AND (s.old_value IS ?3 OR s.new_value IS ?3)"
                .into()
        }
    };
    let same_row = key.iter().map(|(name, value)| {
        given.extend([Value::Text((*name).clone()), (*value).clone()]);
        let (name, value) = (given.len() - 1, given.len());
        format!(
            " AND EXISTS (SELECT 1 FROM set_aside k WHERE k.row = s.row AND k.is_key AND k.column_name IS ?{name}
             AND (k.old_value IS ?{value} OR k.new_value IS ?{value}))"
        )
    });
    let same_row: String = same_row.collect();
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM set_aside s WHERE s.table_name = ?1 COLLATE NOCASE AND {condition}{same_row})"
    );
    aside.query_row(&sql, params_from_iter(given), |row| row.get(0)).unwrap()
}

/// How many rows of the backup's table have these values, by the backup's names.
fn count(own: &Connection, table: Option<&String>, wanted: &[(String, Value)]) -> i64 {
    let Some(table) = table else { return 0 };
    let conditions = wanted.iter().enumerate().map(|(place, (name, _))| {
        let (name, value) = (quoted(name), place + 1);
        format!("+{name} COLLATE BINARY IS ?{value} AND typeof({name}) = typeof(?{value})")
    });
    let conditions = conditions.chain(["1".to_owned()]).collect::<Vec<_>>().join(" AND ");
    let sql = format!("SELECT count(*) FROM {} WHERE {conditions}", quoted(table));
    own.query_row(&sql, params_from_iter(wanted.iter().map(|(_, value)| value)), |row| row.get(0)).unwrap()
}

fn accounted(
    out: &Connection,
    aside: Option<&Connection>,
    case: &Case,
    table: &str,
    row: &RowChange,
    names: &Names,
) -> bool {
    let Some((before, columns)) = names.get(table) else { return false };
    let before = before.as_ref();
    let bag = row.key.is_empty() || row.key.iter().any(|(_, value)| *value == Value::Null);
    let key: Vec<(&String, &Value)> =
        if bag { Vec::new() } else { row.key.iter().map(|(name, value)| (name, value)).collect() };
    let mapped = |list: &[(&String, &Value)]| -> Vec<(String, Value)> {
        list.iter()
            .filter_map(|(name, value)| Some((columns.get(*name)?.clone()?, (*value).clone())))
            .collect()
    };
    let filed = |entry: Entry<'_>| in_file(aside, table, &key, entry);
    let recased = || key.iter().any(|(name, value)| filed(Entry::Recased(name, value)));
    match &row.change {
        Change::Inserted(values) => {
            let now = Connection::open(case.path("now")).unwrap();
            let post = Connection::open(case.path("post")).unwrap();
            // Rows that only their values tell apart: this one was there as often before, and is paired with another.
            let same = |own: &Connection| count(own, Some(&table.to_owned()), values);
            if bag && same(&now) <= same(&post) {
                return true;
            }
            // Each value is in the row, or is in the file, or is what every row has there.
            let values: Vec<(&String, &Value)> = values.iter().map(|(name, value)| (name, value)).collect();
            let in_row: Vec<_> =
                values.iter().copied().filter(|(name, value)| !filed(Entry::Value(name, value))).collect();
            let homeless = in_row.iter().filter(|(name, _)| columns.get(*name).is_none_or(Option::is_none));
            let lost = homeless
                .filter(|(name, value)| **value != Value::Null && !default(&now, table, name, value))
                .count();
            lost == 0 && count(out, before, &mapped(&in_row)) > 0
                || filed(Entry::Whole("inserted"))
                || recased()
        }
        Change::Deleted(values) => {
            let values: Vec<(&String, &Value)> = values.iter().map(|(name, value)| (name, value)).collect();
            let wanted = mapped(if bag { &values } else { &key });
            let were = count(&Connection::open(case.path("pre")).unwrap(), before, &wanted);
            let are = count(out, before, &wanted);
            // One like it, but for a column that has no place here, may have come instead.
            let like = values.iter().filter(|(name, _)| columns.get(*name).is_some_and(Option::is_some));
            let like: Vec<(String, Value)> =
                like.map(|(name, value)| ((*name).clone(), (*value).clone())).collect();
            let now = Connection::open(case.path("now")).unwrap();
            let gone =
                if bag { are < were || are <= count(&now, Some(&table.to_owned()), &like) } else { are == 0 };
            gone || filed(Entry::Whole("deleted")) || recased()
        }
        // In a bag a change is one row less and one more.
        Change::Changed(changes) if bag => {
            let there = |name: &String, new: &Value| {
                let wanted = mapped(&[(name, new)]);
                !wanted.is_empty() && count(out, before, &wanted) > 0
            };
            let each =
                changes.iter().all(|(name, _, new)| there(name, new) || filed(Entry::Value(name, new)));
            each || filed(Entry::Whole("inserted")) || filed(Entry::Whole("deleted"))
        }
        Change::Changed(changes) => changes.iter().all(|(name, _, new)| {
            let home = columns.get(name).is_some_and(Option::is_some);
            let others = key.iter().copied().filter(|(key, _)| *key != name);
            let wanted: Vec<(&String, &Value)> = others.chain([(name, new)]).collect();
            home && count(out, before, &mapped(&wanted)) > 0
                || filed(Entry::Value(name, new))
                || filed(Entry::Recased(name, new))
        }),
    }
}

fn default(now: &Connection, table: &str, column: &str, value: &Value) -> bool {
    let default: Option<String> = now
        .query_row("SELECT dflt_value FROM pragma_table_xinfo(?1) WHERE name = ?2", [table, column], |row| {
            row.get(0)
        })
        .unwrap_or(None);
    let Some(default) = default else { return false };
    let declared: String = now
        .query_row("SELECT type FROM pragma_table_xinfo(?1) WHERE name = ?2", [table, column], |row| {
            row.get(0)
        })
        .unwrap();
    // As the column stores it.
    let scratch = Connection::open_in_memory().unwrap();
    scratch
        .execute_batch(&format!("CREATE TABLE d (v {declared}); INSERT INTO d VALUES ({default});"))
        .unwrap();
    scratch.query_row("SELECT v FROM d", [], |row| row.get::<_, Value>(0)).unwrap() == *value
}

/// The same 400 histories every time, so that a change is judged and not luck; other ones, and as many as asked for, with
/// `PLIMSOLL_CARRY_CASES`.
fn run(check: fn(&History) -> Result<(), String>) {
    let asked = std::env::var("PLIMSOLL_CARRY_CASES").ok().and_then(|n| n.parse().ok());
    let cases = asked.unwrap_or(400);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let mut runner = match asked {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let result = runner.run(&histories(), |history| check(&history).map_err(TestCaseError::fail));
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn without_a_migration_the_carried_database_is_the_present_one() {
    run(identity);
}

/// The migration makes a row without a key, users change it and make another one just like it.
#[test]
fn a_row_without_a_key_that_came_back_as_another_is_no_difference() {
    let history = History {
        tables: vec![[210, 0, 0, 0, 25], [0; 5], [0; 5]],
        before: Vec::new(),
        migration: vec![[78, 64, 0, 0, 0], [49, 22, 235, 86, 151]],
        users: vec![[37, 57, 173, 102, 0], [78, 125, 0, 55, 86]],
        text: 1,
    };
    conserved(&history).unwrap();
}

#[test]
fn with_a_migration_no_difference_is_silent() {
    run(|history| conserved(history).map(drop));
}

/// The property can fail: a row taken from the result, a value changed in it, or an entry taken from the file.
#[test]
fn a_lost_row_a_changed_value_and_a_lost_entry_are_noticed() {
    let spoils = [
        ("out", "DELETE FROM t WHERE k = 2", true),
        ("out", "UPDATE t SET a = 'other' WHERE k = 1", true),
        ("out", "INSERT INTO t (k, a) VALUES (3, 'back')", true),
        ("aside", "DELETE FROM set_aside WHERE column_name = 'late'", true),
        ("out", "UPDATE sqlite_sequence SET seq = 1", true),
        ("out", "DELETE FROM bag WHERE v = 'new'", true),
        ("out", "INSERT INTO other VALUES (1)", false),
    ];
    for (file, spoil, noticed) in spoils {
        let case = Case::new(
            "CREATE TABLE t (k INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT); CREATE TABLE bag (v); CREATE TABLE other (x);
             INSERT INTO t VALUES (1, 'a'), (3, 'c');",
            "ALTER TABLE t ADD COLUMN late TEXT;",
            "UPDATE t SET a = 'b' WHERE k = 1; DELETE FROM t WHERE k = 3; INSERT INTO t VALUES (2, 'n', 'lost'); INSERT INTO bag VALUES ('new');",
        );
        let carried = case.carry_with(&[]).unwrap();
        let names: Names = [
            ("t", vec![("k", Some("k")), ("a", Some("a")), ("late", None)]),
            ("bag", vec![("v", Some("v"))]),
        ]
        .into_iter()
        .map(|(table, columns)| {
            let columns =
                columns.into_iter().map(|(now, before)| (now.to_owned(), before.map(str::to_owned)));
            (table.to_owned(), (Some(table.to_owned()), columns.collect()))
        })
        .collect();
        nothing_silent(&case, &carried, &names).unwrap();
        Connection::open(case.path(file)).unwrap().execute_batch(spoil).unwrap();
        assert_eq!(nothing_silent(&case, &carried, &names).is_err(), noticed, "{spoil}");
    }
}
