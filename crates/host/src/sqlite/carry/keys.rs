//! Foreign keys of the result: no worse than the backup's, or the differences that make them so are set aside.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::judge::place;
use super::ledger::{APPLIED, CHANGED, DELETED, INSERTED, number as stored};
use super::plan::Mapping;
use super::shape::{Shape, Shapes, of};
use crate::sqlite::connection::quoted;
use crate::sqlite::error::{app_defined, message};
use crate::sqlite::fingerprint::Known;

/// Rows whose parent is missing, per child table, parent table and foreign key.
pub(super) type Violations = BTreeMap<(String, String, i64), u64>;

pub(super) fn violations(connection: &Connection) -> rusqlite::Result<Known<Violations>> {
    let count = || -> rusqlite::Result<Violations> {
        let mut statement = connection.prepare("PRAGMA main.foreign_key_check")?;
        let mut rows = statement.query([])?;
        let mut found = Violations::new();
        while let Some(row) = rows.next()? {
            *found.entry((row.get(0)?, row.get(2)?, row.get(3)?)).or_default() += 1;
        }
        Ok(found)
    };
    match count() {
        Ok(found) => Ok(Known::Is(found)),
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

/// Whether nothing that was applied left a child without its parent, as far as the rows that were touched can tell: then
/// the others need not be read. `false` is no verdict, and all must be looked at.
pub(super) fn unharmed(
    connection: &Connection,
    mappings: &[Mapping],
    pre: &Shapes,
) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare(
        "SELECT DISTINCT m.name, f.id, f.\"table\" FROM main.sqlite_schema m, pragma_foreign_key_list(m.name, 'main') f
         WHERE m.type = 'table'",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let keys = rows.collect::<rusqlite::Result<Vec<(String, i64, String)>>>()?;
    for (child, number, parent) in keys {
        let of = |name: &str| pre.tables.get(&name.to_lowercase());
        let (Some(child), Some(parent)) = (of(&child), of(&parent)) else { return Ok(false) };
        let Some(key) = key(connection, pre, &child.name, number)? else { return Ok(false) };
        if !plain(&key, child, parent) {
            return Ok(false);
        }
        for (at, mapping) in mappings.iter().enumerate() {
            let (Some(target), None) = (&mapping.target, mapping.refused) else { continue };
            let is = |shape: &Shape| target.name.eq_ignore_ascii_case(&shape.name);
            if !(is(child) || is(parent)) || !any(connection, at, "1")? {
                continue;
            }
            let carried = |names: &[String]| {
                places(mapping, names)
                    .into_iter()
                    .filter(|place| mapping.columns[*place].in_post && mapping.columns[*place].in_now)
                    .count()
                    == names.len()
            };
            if is(child)
                && (!carried(&key.from)
                    || !children(connection, at, mapping, target, &key, Some(parent))?.is_empty())
            {
                return Ok(false);
            }
            if !is(parent) {
                continue;
            }
            if !carried(&key.to) {
                return Ok(false);
            }
            let touched = format!("s.op = {DELETED} OR {}", among(&places(mapping, &key.to)));
            if any(connection, at, &format!("s.op <> {INSERTED} AND ({touched})"))?
                && (!indexed(connection, child, &key.from[0])?
                    || !gone(connection, at, mapping, target, &key, &child.name)?.is_empty())
            {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether SQL compares the key's columns as SQLite's own check does: to a primary key, of the same type, without a
/// collation of its own.
fn plain(key: &Key, child: &Shape, parent: &Shape) -> bool {
    let collates = |shape: &Shape| shape.sql.to_ascii_uppercase().contains("COLLATE");
    let type_of = |shape: &Shape, name: &String| shape.column(name).map(|column| affinity(&column.declared));
    let named = |name: &String| parent.keyed_by(name);
    !collates(child)
        && !collates(parent)
        && parent.key.len() == key.to.len()
        && key.to.iter().all(named)
        && key
            .from
            .iter()
            .zip(&key.to)
            .all(|(from, to)| type_of(child, from).is_some_and(|from| Some(from) == type_of(parent, to)))
}

/// What SQLite makes of a declared type.
fn affinity(declared: &str) -> &'static str {
    let upper = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| upper.contains(word));
    match () {
        () if has(&["INT"]) => "integer",
        () if has(&["CHAR", "CLOB", "TEXT"]) => "text",
        () if upper.is_empty() || has(&["BLOB"]) => "blob",
        () if has(&["REAL", "FLOA", "DOUB"]) => "real",
        () => "numeric",
    }
}

/// Whether anything of a mapping was applied for which `condition` holds, of the row `s` and its entry `e`.
fn any(connection: &Connection, at: usize, condition: &str) -> rusqlite::Result<bool> {
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM work.entry e CROSS JOIN work.d{at} s ON s.id = e.row
         WHERE e.mapping = ?1 AND e.state = {APPLIED} AND ({condition}))"
    );
    connection.query_row(&sql, [stored(at)], |row| row.get(0))
}

/// Whether the children of one parent are found without reading all of them.
fn indexed(connection: &Connection, child: &Shape, column: &str) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?1, 'main') l, pragma_index_info(l.name, 'main') i
         WHERE NOT l.partial AND i.seqno = 0 AND i.name = ?2 COLLATE NOCASE)",
        [&child.name, column],
        |row| row.get(0),
    )
}

/// The keys that have more violations than before.
pub(super) fn worse(before: &Known<Violations>, after: &Known<Violations>) -> Vec<(String, String, i64)> {
    let (Known::Is(before), Known::Is(after)) = (before, after) else { return Vec::new() };
    let more = |(key, count): (&(String, String, i64), &u64)| {
        (*count > before.get(key).copied().unwrap_or(0)).then(|| key.clone())
    };
    after.iter().filter_map(more).collect()
}

struct Key {
    parent: String,
    from: Vec<String>,
    to: Vec<String>,
}

fn key(connection: &Connection, pre: &Shapes, child: &str, number: i64) -> rusqlite::Result<Option<Key>> {
    let mut statement = connection.prepare(
        "SELECT \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1) WHERE id = ?2 ORDER BY seq",
    )?;
    let mut rows = statement.query(rusqlite::params![child, number])?;
    let (mut parent, mut from, mut to) = (String::new(), Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        parent = row.get(0)?;
        from.push(row.get(1)?);
        to.extend(row.get::<_, Option<String>>(2)?);
    }
    if to.is_empty() {
        to = pre.tables.get(&parent.to_lowercase()).map(|shape| shape.key.clone()).unwrap_or_default();
    }
    Ok((!from.is_empty() && to.len() == from.len()).then_some(Key { parent, from, to }))
}

/// The applied rows that left a child without its parent: mapping and row. Children first: a parent's deletion is
/// only to blame when the child is not itself new. Removes the inserted ones, so that their children show too.
pub(super) fn culprits(
    connection: &Connection,
    mappings: &[Mapping],
    pre: &Shapes,
    worse: &[(String, String, i64)],
) -> rusqlite::Result<BTreeSet<(usize, i64)>> {
    let mut found = BTreeSet::new();
    let mut parents = BTreeSet::new();
    for (child, _, number) in worse {
        let Some(key) = key(connection, pre, child, *number)? else { continue };
        let parent = pre.tables.get(&key.parent.to_lowercase());
        for (at, mapping) in mappings.iter().enumerate() {
            let (Some(target), None) = (&mapping.target, mapping.refused) else { continue };
            if target.name.eq_ignore_ascii_case(child) {
                found.extend(children(connection, at, mapping, target, &key, parent)?);
            }
            if target.name.eq_ignore_ascii_case(&key.parent) {
                parents.extend(gone(connection, at, mapping, target, &key, child)?);
            }
        }
    }
    for (at, row) in &found {
        let mapping = &mappings[*at];
        if let (Some(target), false) = (&mapping.target, mapping.key.is_empty()) {
            let condition = mapping.key.iter().filter_map(|place| {
                let name = mapping.columns[*place].target.as_deref()?;
                Some(format!(
                    "{} = (SELECT n{place} FROM work.d{at} WHERE id = ?1 AND op = {INSERTED})",
                    quoted(name)
                ))
            });
            let condition = condition.collect::<Vec<_>>().join(" AND ");
            connection
                .execute(&format!("DELETE FROM main.{} WHERE {condition}", quoted(&target.name)), [row])?;
        }
    }
    Ok(if found.is_empty() { parents } else { found })
}

fn applied(at: usize, columns: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM work.entry e WHERE e.mapping = {at} AND e.row = s.id AND e.state = {APPLIED} AND ({columns}))"
    )
}

fn places(mapping: &Mapping, names: &[String]) -> Vec<usize> {
    let place = |name: &String| mapping.targets().find(|(_, target)| target.eq_ignore_ascii_case(name));
    names.iter().filter_map(place).map(|(place, _)| place).collect()
}

fn among(places: &[usize]) -> String {
    let list = places.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    format!("e.column IN ({list})")
}

fn children(
    connection: &Connection,
    at: usize,
    mapping: &Mapping,
    target: &Shape,
    key: &Key,
    parent: Option<&Shape>,
) -> rusqlite::Result<Vec<(usize, i64)>> {
    let mut rows = Vec::new();
    for bag in [false, true] {
        if !bag && mapping.key.is_empty() {
            continue;
        }
        let value = |name: &String| {
            if !bag {
                return of("m", name);
            }
            let place = mapping.targets().find(|(_, target)| target.eq_ignore_ascii_case(name));
            place.map_or("NULL".into(), |(place, _)| format!("s.n{place}"))
        };
        let given: Vec<String> = key.from.iter().map(|name| format!("{} IS NOT NULL", value(name))).collect();
        let missing = match parent {
            Some(parent) => {
                let same = key
                    .to
                    .iter()
                    .zip(&key.from)
                    .map(|(to, from)| format!("{} = {}", of("x", to), value(from)));
                let same = same.collect::<Vec<_>>().join(" AND ");
                format!("NOT EXISTS (SELECT 1 FROM main.{} x WHERE {same})", quoted(&parent.name))
            }
            None => "1".into(),
        };
        let (join, on) = if bag {
            (String::new(), "s.bag".to_owned())
        } else {
            (
                format!(" CROSS JOIN main.{} m", quoted(&target.name)),
                format!("NOT s.bag AND {}", place(mapping, 'n')),
            )
        };
        let touched = format!("s.op = {INSERTED} OR {}", among(&places(mapping, &key.from)));
        let sql = format!(
            "SELECT s.id FROM work.d{at} s{join} WHERE s.op <> {DELETED} AND {on} AND {} AND {missing} AND {}",
            given.join(" AND "),
            applied(at, &touched)
        );
        let mut statement = connection.prepare(&sql)?;
        for row in statement.query_map([], |row| row.get(0))? {
            rows.push((at, row?));
        }
    }
    Ok(rows)
}

fn gone(
    connection: &Connection,
    at: usize,
    mapping: &Mapping,
    target: &Shape,
    key: &Key,
    child: &str,
) -> rusqlite::Result<Vec<(usize, i64)>> {
    let to = places(mapping, &key.to);
    if to.len() != key.to.len() {
        return Ok(Vec::new());
    }
    let pairs = |alias: &str, names: &[String]| -> String {
        let same = names.iter().zip(&to).map(|(name, place)| format!("{} = s.o{place}", of(alias, name)));
        same.collect::<Vec<_>>().join(" AND ")
    };
    let sql = format!(
        "SELECT s.id FROM work.d{at} s WHERE s.op IN ({DELETED}, {CHANGED})
         AND EXISTS (SELECT 1 FROM main.{} c WHERE {})
         AND NOT EXISTS (SELECT 1 FROM main.{} x WHERE {}) AND {}",
        quoted(child),
        pairs("c", &key.from),
        quoted(&target.name),
        pairs("x", &key.to),
        applied(at, &format!("s.op = {DELETED} OR {}", among(&to)))
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([], |row| Ok((at, row.get(0)?)))?;
    rows.collect()
}
