//! Which table and column of the backup takes the rows of which table and column of the migrated database.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::Reason;
use super::moved::{Moved, rows_in, same_bytes};
use super::pages::{self, Known, Pages, Range};
use super::shape::{Column, Shape, Shapes, faithful, of};
use crate::sqlite::connection::quoted;

/// A table of the migrated database and where its rows go.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Its name now.
    pub(super) name: String,
    /// Its name in POST and in NOW, where it is there.
    pub(super) post: Option<String>,
    pub(super) now: Option<String>,
    pub(super) columns: Vec<Mapped>,
    /// The places of the key's columns; empty for a bag of rows.
    pub(super) key: Vec<usize>,
    /// The backup's table.
    pub(super) target: Option<Shape>,
    /// Why no row can be carried at all.
    pub(super) refused: Option<Reason>,
    /// Where POST and NOW can differ; `None` when any row can.
    pub(super) near: Option<Near>,
}

/// The row numbers below the pages that are not the same.
#[derive(Clone, Debug)]
pub(super) struct Near {
    pub(super) ranges: Vec<Range>,
    /// The name of the row number in POST and in NOW.
    pub(super) post: &'static str,
    pub(super) now: &'static str,
}

/// A column of the migrated database and where its values go.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    pub(super) name: String,
    pub(super) in_post: bool,
    pub(super) in_now: bool,
    pub(super) default: Value,
    /// The backup's column.
    pub(super) target: Option<String>,
    /// The backup's declared type when it is another one.
    pub(super) converts: Option<String>,
}

impl Mapping {
    /// Places of the columns that the backup has, with its names.
    pub(super) fn targets(&self) -> impl Iterator<Item = (usize, &str)> {
        self.columns.iter().enumerate().filter_map(|(place, c)| Some((place, c.target.as_deref()?)))
    }

    /// Whether the backup's table has columns that the migrated one has not.
    pub(super) fn narrower(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.columns.len() > self.targets().count())
    }
}

/// A rename that the migration made, as recognised or as told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rename {
    /// The table's name before the migration.
    pub table: String,
    /// The column's name before; `None` when the table itself was renamed.
    pub column: Option<String>,
    /// The name after.
    pub to: String,
}

/// `connection` has the backup as `main` and the migrated database as `post`.
pub(super) fn mappings(
    connection: &Connection,
    pre: &Shapes,
    post: &Shapes,
    now: &Shapes,
    told: &[Rename],
    moved: &mut Moved,
) -> rusqlite::Result<(Vec<Mapping>, Vec<Rename>)> {
    let mut renames: Vec<Rename> = told.to_vec();
    let names: BTreeSet<&String> = post.tables.keys().chain(now.tables.keys()).collect();
    let mut mappings = Vec::new();
    for name in names {
        let (after, current) = (post.tables.get(name), now.tables.get(name));
        let Some(shape) = after.or(current) else { continue };
        let target = match pre.tables.get(name) {
            Some(target) => Some(target),
            None => renamed_table(connection, pre, post, shape, told)?,
        };
        if let Some(target) = target
            && !target.name.eq_ignore_ascii_case(&shape.name)
            && !told.iter().any(|told| told.column.is_none() && told.to.eq_ignore_ascii_case(&shape.name))
        {
            renames.push(Rename { table: target.name.clone(), column: None, to: shape.name.clone() });
        }
        let target = target.filter(|target| target.virtual_table == shape.virtual_table);
        let mut mapping = columns(after, current, shape);
        if let Some(target) = target {
            let found = match after {
                Some(after) => renamed_columns(connection, target, after, told, moved)?,
                None => Vec::new(),
            };
            for column in &mut mapping.columns {
                let to = found.iter().find(|(_, new)| new.eq_ignore_ascii_case(&column.name));
                let wanted = to.map_or(&column.name, |(old, _)| old);
                let Some(takes) = target.column(wanted) else { continue };
                column.target = Some(takes.name.clone());
                let declared = after.or(current).and_then(|from| from.column(&column.name));
                let same = declared.is_some_and(|from| from.declared.eq_ignore_ascii_case(&takes.declared))
                    && shape.strict == target.strict;
                let any = target.strict && takes.declared.eq_ignore_ascii_case("any");
                column.converts = (!same && !any).then(|| takes.declared.clone());
            }
            for (old, new) in found {
                let rename = Rename { table: target.name.clone(), column: Some(old), to: new };
                if !renames.contains(&rename) {
                    renames.push(rename);
                }
            }
        }
        mapping.target = target.cloned();
        mapping.refused = refused(&mapping, after, current);
        mappings.push(mapping);
    }
    Ok((mappings, renames))
}

/// The columns of both, those of POST first.
fn columns(after: Option<&Shape>, current: Option<&Shape>, shape: &Shape) -> Mapping {
    let mut columns: Vec<Mapped> = Vec::new();
    for (side, in_post) in [(after, true), (current, false)] {
        for column in side.map_or(&[][..], |side| &side.columns) {
            match columns.iter_mut().find(|known| known.name.eq_ignore_ascii_case(&column.name)) {
                Some(known) => known.in_now = true,
                None => columns.push(Mapped {
                    name: column.name.clone(),
                    in_post,
                    in_now: !in_post,
                    default: column.default.clone(),
                    target: None,
                    converts: None,
                }),
            }
        }
    }
    let lower = |side: &Shape| side.key.iter().map(|key| key.to_lowercase()).collect::<BTreeSet<_>>();
    let same_key = match (after, current) {
        (Some(after), Some(current)) => lower(after) == lower(current),
        _ => true,
    };
    let place = |key: &String| columns.iter().position(|column| column.name.eq_ignore_ascii_case(key));
    let key = if same_key { shape.key.iter().filter_map(place).collect() } else { Vec::new() };
    Mapping {
        name: shape.name.clone(),
        post: after.map(|side| side.name.clone()),
        now: current.map(|side| side.name.clone()),
        columns,
        key,
        target: None,
        refused: None,
        near: None,
    }
}

/// Compares the pages of POST and NOW, so that only rows that can differ are read.
pub(super) fn near(
    mappings: &mut [Mapping],
    post: (&Path, &Shapes),
    now: (&Path, &Shapes),
    known: Option<Known<'_>>,
) {
    let open = |path: &Path| Pages::open(path).map(|pages| pages.for_known(known.is_some()));
    let (Ok(mut one), Ok(mut two)) = (open(post.0), open(now.0)) else { return };
    for mapping in mappings {
        let shape = |name: &Option<String>, shapes: &Shapes| {
            let shape = shapes.tables.get(&name.as_ref()?.to_lowercase())?;
            (!shape.virtual_table).then_some((shape.root_page, shape.rowid?))
        };
        let sides = shape(&mapping.post, post.1).zip(shape(&mapping.now, now.1));
        let Some(((root, before), (same, after))) = sides else { continue };
        // What cannot be read here is compared row by row.
        let found = (root == same).then(|| pages::differing(&mut one, &mut two, root, known).ok().flatten());
        mapping.near = found.flatten().map(|ranges| Near { ranges, post: before, now: after });
    }
}

/// Rows whose key the backup does not know cannot be found there.
fn refused(mapping: &Mapping, after: Option<&Shape>, current: Option<&Shape>) -> Option<Reason> {
    let Some(target) = &mapping.target else { return Some(Reason::NoTable) };
    if current.is_none() || (after.is_none() && current.is_some()) {
        // Dropped, or made anew, by the release itself after the migration: what that means only its authors know.
        return Some(Reason::MigrationChanged);
    }
    let key: BTreeSet<Option<String>> = mapping
        .key
        .iter()
        .map(|place| mapping.columns[*place].target.as_ref().map(|name| name.to_lowercase()))
        .collect();
    let wanted: BTreeSet<Option<String>> = target.key.iter().map(|name| Some(name.to_lowercase())).collect();
    (key != wanted).then_some(Reason::NoKey)
}

/// ALTER TABLE RENAME keeps the root page. So may DROP and CREATE, which take the freed page again: hence the same
/// columns and the same rows too.
fn renamed_table<'a>(
    connection: &Connection,
    pre: &'a Shapes,
    post: &Shapes,
    shape: &Shape,
    told: &[Rename],
) -> rusqlite::Result<Option<&'a Shape>> {
    let told = told.iter().find(|told| told.column.is_none() && told.to.eq_ignore_ascii_case(&shape.name));
    if let Some(told) = told {
        return Ok(pre.tables.get(&told.table.to_lowercase()));
    }
    let mut gone = pre.tables.iter().filter(|(name, _)| !post.tables.contains_key(*name)).map(|(_, old)| old);
    let Some(old) = gone.find(|old| old.root_page == shape.root_page && old.root_page > 0) else {
        return Ok(None);
    };
    let names = |shape: &Shape| -> Vec<(String, String)> {
        shape.columns.iter().map(|c| (c.name.to_lowercase(), c.declared.to_lowercase())).collect()
    };
    let common: Vec<&Column> =
        old.columns.iter().filter(|column| shape.column(&column.name).is_some()).collect();
    // Something may have been added or renamed besides; a table that shares less than half is another one.
    if common.is_empty() || common.len() * 2 < old.columns.len() || old.key != shape.key {
        return Ok(None);
    }
    let rows = |schema: &str, table: &str| -> rusqlite::Result<i64> {
        connection
            .query_row(&format!("SELECT count(*) FROM {schema}.{}", quoted(table)), [], |row| row.get(0))
    };
    let (before, after) = (rows("main", &old.name)?, rows("post", &shape.name)?);
    let same = if before == 0 || old.key.is_empty() {
        before == after && names(shape).starts_with(&names(old))
    } else {
        before == after && before == paired(connection, old, shape)?
    };
    Ok(same.then_some(old))
}

/// How many rows of both have the same key.
fn paired(connection: &Connection, old: &Shape, new: &Shape) -> rusqlite::Result<i64> {
    let on = join(&old.key);
    let sql = format!(
        "SELECT count(*) FROM main.{} m JOIN post.{} p ON {on}",
        quoted(&old.name),
        quoted(&new.name)
    );
    connection.query_row(&sql, [], |row| row.get(0))
}

fn join(key: &[String]) -> String {
    key.iter().map(|name| format!("{} = {}", of("p", name), of("m", name))).collect::<Vec<_>>().join(" AND ")
}

/// Old and new name of each column that ALTER TABLE RENAME COLUMN gave another name: the same root page, the same place
/// among the columns that stayed, the same type, and the same values. Values there must be: without any, dropping one
/// column and adding another looks the same, and carrying would be a guess.
fn renamed_columns(
    connection: &Connection,
    old: &Shape,
    new: &Shape,
    told: &[Rename],
    moved: &mut Moved,
) -> rusqlite::Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = told
        .iter()
        .filter(|told| told.table.eq_ignore_ascii_case(&old.name))
        .filter_map(|told| Some((told.column.clone()?, told.to.clone())))
        .collect();
    if old.root_page != new.root_page || old.virtual_table {
        return Ok(found);
    }
    let rank = |from: &Shape, other: &Shape, name: &str| {
        let before = from.columns.iter().take_while(|column| column.name != name);
        before.filter(|column| other.column(&column.name).is_some()).count()
    };
    let mut candidates = Vec::new();
    for before in old.columns.iter().filter(|column| new.column(&column.name).is_none()) {
        for after in new.columns.iter().filter(|column| old.column(&column.name).is_none()) {
            let taken = found.iter().any(|(a, b)| *a == before.name || *b == after.name);
            if !taken
                && before.declared.eq_ignore_ascii_case(&after.declared)
                && rank(old, new, &before.name) == rank(new, old, &after.name)
                && same_values(connection, (old, before), (new, after), moved)?
            {
                candidates.push((before.name.clone(), after.name.clone()));
            }
        }
    }
    let alone = |(before, after): &&(String, String)| {
        candidates.iter().filter(|(a, b)| a == before || b == after).count() == 1
    };
    found.extend(candidates.iter().filter(alone).cloned());
    Ok(found)
}

/// Whether two columns hold the same values, row by row, and at least one that is not NULL.
fn same_values(
    connection: &Connection,
    (old, before): (&Shape, &Column),
    (new, after): (&Shape, &Column),
    moved: &mut Moved,
) -> rusqlite::Result<bool> {
    let near = if same_bytes(before, after) { moved.ranges(connection, old, new)? } else { None };
    if let (Some(ranges), Some(one), Some(two)) = (near, old.rowid, new.rowid) {
        let (m, p) = (of("m", &before.name), of("p", &after.name));
        let (inside, too) =
            (rows_in(Some(&ranges), "main", old, "m"), rows_in(Some(&ranges), "post", new, "p"));
        let sql = format!(
            "SELECT (SELECT count(*) FROM {inside}), (SELECT count(*) FROM {too}),
                (SELECT coalesce(sum({}), 0) FROM {inside} JOIN post.{} p ON p.{two} = m.{one}),
                EXISTS (SELECT 1 FROM main.{} m WHERE {m} IS NOT NULL)",
            faithful(&m, &p),
            quoted(&new.name),
            quoted(&old.name)
        );
        return connection.query_row(&sql, [], |row| {
            let number = |place| row.get::<_, i64>(place);
            Ok(number(0)? == number(2)? && number(1)? == number(2)? && number(3)? > 0)
        });
    }
    // In the same place: the row numbers are the same too, and a key may be among the renamed columns.
    let on = match (old.rowid, new.rowid) {
        (Some(one), Some(two)) => format!("p.{two} = m.{one}"),
        _ if old.key.iter().all(|key| new.keyed_by(key)) => join(&old.key),
        _ => return Ok(false),
    };
    let (m, p) = (of("m", &before.name), of("p", &after.name));
    // Columns that have nothing to do with each other differ in the first rows: then the others need not be read.
    let differ = format!(
        "SELECT EXISTS (SELECT 1 FROM main.{} m JOIN post.{} p ON {on} WHERE NOT ({}))",
        quoted(&old.name),
        quoted(&new.name),
        faithful(&m, &p)
    );
    if connection.query_row(&differ, [], |row| row.get(0))? {
        return Ok(false);
    }
    let sql = format!(
        "SELECT count(*), count({m}), coalesce(sum({}), 0), (SELECT count(*) FROM main.{old}), (SELECT count(*) FROM post.{new})
         FROM main.{old} m JOIN post.{new} p ON {on}",
        faithful(&m, &p),
        old = quoted(&old.name),
        new = quoted(&new.name)
    );
    connection.query_row(&sql, [], |row| {
        let number = |place| row.get::<_, i64>(place);
        let rows = number(0)?;
        Ok(rows == number(2)? && rows == number(3)? && rows == number(4)? && number(1)? > 0)
    })
}
