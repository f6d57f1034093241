//! What must hold of the result before anybody sees it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rusqlite::Connection;

use super::judge::place;
use super::ledger::{APPLIED, CHANGED, DELETED, INSERTED, PENDING, ROW, number as stored_place};
use super::pages::Pages;
use super::plan::Mapping;
use super::shape::{Shapes, faithful, of};
use super::trees;
use crate::sqlite::connection::quoted;
use crate::sqlite::fingerprint::{Known, count};
use crate::sqlite::page_set::PageSet;
use crate::sqlite::verify::integrity;

/// Rows per table of the backup.
pub(super) type Counts = BTreeMap<String, u64>;

pub(super) fn counts(connection: &Connection, pre: &Shapes) -> rusqlite::Result<Counts> {
    pre.tables.values().map(|shape| Ok((shape.name.clone(), count(connection, &shape.name)?))).collect()
}

/// By how many rows each table of the backup must have grown; only those with a mapping.
pub(super) type Growth = BTreeMap<String, i64>;

/// The conservation law: `entries` differences were written down, and each is in exactly one class. What counts as
/// applied is really there. Returns what does not hold, and by how much each table must have grown: whether another row
/// came or went is seen by [`grown`], or page by page.
pub(super) fn conservation(
    connection: &Connection,
    mappings: &[Mapping],
    entries: u64,
) -> rusqlite::Result<(Vec<String>, Growth)> {
    let mut failures = Vec::new();
    let number = |sql: &str| -> rusqlite::Result<i64> { connection.query_row(sql, [], |row| row.get(0)) };
    let kept = number(&format!("SELECT count(*) FROM work.entry WHERE state > {PENDING}"))?;
    if u64::try_from(kept) != Ok(entries) {
        failures.push(format!("{entries} differences were found and {kept} are accounted for"));
    }
    let mut growth = Growth::new();
    for (at, mapping) in mappings.iter().enumerate() {
        let Some(target) = &mapping.target else { continue };
        let rows = |op: i64| {
            number(&format!(
                "SELECT count(*) FROM work.entry e JOIN work.d{at} s ON s.id = e.row
                 WHERE e.mapping = {at} AND e.column = {ROW} AND e.state = {APPLIED} AND s.op = {op}"
            ))
        };
        *growth.entry(target.name.clone()).or_default() += rows(INSERTED)? - rows(DELETED)?;
        let missing = if mapping.key.is_empty() || mapping.refused.is_some() {
            0
        } else {
            missing(connection, at, mapping)?
        };
        if missing > 0 {
            failures.push(format!("{}: {missing} applied difference(s) are not in the result", target.name));
        }
    }
    Ok((failures, growth))
}

/// Whether just the rows came and went that were meant to. Returns what does not hold.
pub(super) fn grown(before: &Counts, after: &Counts, growth: &Growth) -> Vec<String> {
    let wrong = |(name, rows): (&String, &u64)| {
        let expected = i64::try_from(*rows).unwrap_or(i64::MAX) + growth.get(name).copied().unwrap_or(0);
        let found = after.get(name).copied().unwrap_or(0);
        (u64::try_from(expected) != Ok(found))
            .then(|| format!("{name} has {found} rows instead of {expected}"))
    };
    before.iter().filter_map(wrong).collect()
}

/// One tree of the result.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    name: String,
    table: String,
    root: u32,
    holds: Holds,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Holds {
    /// The rows of a table of which all is known.
    Rows,
    /// An entry for each row of its table.
    Entries,
    /// What SQLite or a virtual table keeps for itself, or entries for some rows.
    Other,
}

pub(super) fn trees_of(connection: &Connection, pre: &Shapes) -> rusqlite::Result<Vec<Tree>> {
    let mut statement = connection.prepare(
        "SELECT m.type, m.name, m.tbl_name, m.rootpage, l.type = 'shadow' OR substr(m.tbl_name, 1, 7) = 'sqlite_',
             coalesce((SELECT partial FROM pragma_index_list(m.tbl_name, 'main') i WHERE i.name = m.name), 0)
         FROM main.sqlite_schema m LEFT JOIN pragma_table_list l ON l.schema = 'main' AND l.name = m.tbl_name
         WHERE m.rootpage > 0",
    )?;
    let rows = statement.query_map([], |row| {
        let (kind, name, table): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (root, own, partial): (u32, bool, bool) = (row.get(3)?, row.get(4)?, row.get(5)?);
        let known = pre.tables.get(&table.to_lowercase()).is_none_or(|shape| !shape.virtual_table);
        let holds = match kind.as_str() {
            _ if own || partial || !known => Holds::Other,
            "index" => Holds::Entries,
            _ => Holds::Rows,
        };
        Ok(Tree { name, table, root, holds })
    })?;
    rows.collect()
}

/// What counting all rows and `integrity_check` would say, as far as `unlike`, the only pages in which the result and the
/// backup differ, can tell: each page of a tree among them is one, no row came or went but those that were meant to, and
/// every index that has an entry for each row has as many more as its table. `None` when a page is not understood.
pub(super) fn by_pages(
    pre: &Path,
    out: &Path,
    trees: &[Tree],
    unlike: &PageSet,
    growth: &Growth,
) -> io::Result<Option<Vec<String>>> {
    let (mut one, mut two) = (Pages::open(pre)?.here_and_there(), Pages::open(out)?.here_and_there());
    if !one.like(&two) {
        return Ok(None);
    }
    let mut failures = Vec::new();
    for tree in trees {
        let Some(found) = trees::growth(&mut one, &mut two, tree.root, unlike)? else { return Ok(None) };
        let expected = growth.get(&tree.table).copied().unwrap_or(0);
        if tree.holds != Holds::Other && found != expected {
            failures.push(format!("{} has grown by {found} instead of {expected}", tree.name));
        }
    }
    Ok(Some(failures))
}

/// Applied differences that the result does not show.
fn missing(connection: &Connection, at: usize, mapping: &Mapping) -> rusqlite::Result<i64> {
    let Some(target) = &mapping.target else { return Ok(0) };
    let table = quoted(&target.name);
    let (by_new, by_old) = (place(mapping, 'n'), place(mapping, 'o'));
    let targets: Vec<(usize, &str)> = mapping.targets().collect();
    let equal = |side: char, places: &dyn Fn(usize) -> bool| {
        let conditions = targets
            .iter()
            .filter(|(place, _)| places(*place))
            .map(|(place, name)| format!(" AND ({})", faithful(&of("m", name), &format!("s.{side}{place}"))));
        conditions.collect::<String>()
    };
    let applied = |column: i64, op: i64, condition: &str| {
        format!(
            "SELECT count(*) FROM work.entry e JOIN work.d{at} s ON s.id = e.row
             WHERE e.mapping = {at} AND e.column = {column} AND e.state = {APPLIED} AND s.op = {op} AND NOT s.bag
               AND {condition}"
        )
    };
    let number = |sql: String| -> rusqlite::Result<i64> { connection.query_row(&sql, [], |row| row.get(0)) };
    let there = equal('n', &|place| mapping.columns[place].in_now);
    let mut missing = number(applied(
        ROW,
        INSERTED,
        &format!("NOT EXISTS (SELECT 1 FROM main.{table} m WHERE {by_new}{there})"),
    ))?;
    let same_key = equal('o', &|place| mapping.key.contains(&place));
    missing += number(applied(
        ROW,
        DELETED,
        &format!("EXISTS (SELECT 1 FROM main.{table} m WHERE {by_old}{same_key})"),
    ))?;
    for (place, name) in &targets {
        let equal = faithful(&of("m", name), &format!("s.n{place}"));
        // By either key: a key's own column may be among the changed ones, applied or not.
        let condition = format!(
            "NOT EXISTS (SELECT 1 FROM main.{table} m WHERE (({by_new}) OR ({by_old})) AND ({equal}))"
        );
        missing += number(applied(stored_place(*place), CHANGED, &condition))?;
    }
    Ok(missing)
}

/// What `integrity_check` has to say; `Err` is what could not be checked.
pub(super) fn whole(connection: &Connection) -> rusqlite::Result<Result<Vec<String>, String>> {
    Ok(match integrity(connection)? {
        Known::Is(problems) => Ok(problems),
        Known::Unknown(why) => Err(why),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Case;
    use super::super::{apply, draft::attach, judge, ledger, moved::Moved, plan};
    use super::*;
    use crate::sqlite::connection::{ForeignKeys, open_finished, open_own};

    /// What goes wrong between applying and looking is seen: nothing is taken on the ledger's word.
    #[test]
    fn a_row_that_is_not_where_the_ledger_says_closes_the_gate() {
        let spoils = [
            ("", 0),
            ("DELETE FROM main.t WHERE k = 2", 2),
            ("DELETE FROM main.t WHERE k = 4", 1),
            ("UPDATE main.t SET a = 'other' WHERE k = 1", 1),
            ("UPDATE main.t SET k = 3 WHERE k = 4", 1),
            ("INSERT INTO main.still VALUES (1)", 1),
            ("DELETE FROM work.entry WHERE column >= 0", 1),
            ("UPDATE work.entry SET state = 0 WHERE column >= 0", 1),
        ];
        for (spoil, failures) in spoils {
            let case = Case::new(
                "CREATE TABLE t (k INTEGER PRIMARY KEY, a TEXT); CREATE TABLE still (v); INSERT INTO t VALUES (1, 'a'), (3, 'c'), (4, 'd');",
                "ALTER TABLE t ADD COLUMN late TEXT;",
                "UPDATE t SET a = 'b' WHERE k = 1; DELETE FROM t WHERE k = 3; INSERT INTO t VALUES (2, 'n', NULL);",
            );
            std::fs::copy(case.path("pre"), case.path("out")).unwrap();
            std::fs::write(case.path("work"), "").unwrap();
            let own = open_own(&case.path("out"), ForeignKeys::Off).unwrap();
            attach(&own, &case.path("post"), &case.path("now"), &case.path("work")).unwrap();
            let shapes = |name: &str| Shapes::read(&open_finished(&case.path(name)).unwrap()).unwrap();
            let pre = shapes("pre");
            let (mappings, _) = plan::mappings(
                &own,
                &pre,
                &shapes("post"),
                &shapes("now"),
                &[],
                &mut Moved::between(&case.path("pre"), &case.path("post"), None),
            )
            .unwrap();
            let before = counts(&own, &pre).unwrap();
            ledger::begin(&own, &mappings).unwrap();
            let mut entries = 0;
            for (at, mapping) in mappings.iter().enumerate() {
                entries += ledger::write(&own, at, mapping).unwrap();
                judge::rows(&own, at, mapping).unwrap();
            }
            apply::all(&own, &mappings).unwrap();
            own.execute_batch(spoil).unwrap();
            let after = counts(&own, &pre).unwrap();
            let (mut found, growth) = conservation(&own, &mappings, entries).unwrap();
            found.extend(grown(&before, &after, &growth));
            assert_eq!(found.len(), failures, "{spoil}: {found:?}");
        }
    }
}
