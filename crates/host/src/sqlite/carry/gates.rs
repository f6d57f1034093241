//! What must hold of the result before anybody sees it.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::judge::place;
use super::ledger::{APPLIED, CHANGED, DELETED, INSERTED, PENDING, ROW, number as stored_place};
use super::plan::Mapping;
use super::shape::{Shapes, faithful, of};
use crate::sqlite::connection::quoted;
use crate::sqlite::fingerprint::{Known, count};
use crate::sqlite::verify::integrity;

/// Rows per table of the backup.
pub(super) type Counts = BTreeMap<String, u64>;

pub(super) fn counts(connection: &Connection, pre: &Shapes) -> rusqlite::Result<Counts> {
    pre.tables.values().map(|shape| Ok((shape.name.clone(), count(connection, &shape.name)?))).collect()
}

/// The conservation law: `entries` differences were written down, and each is in exactly one class. What counts as
/// applied is really there, and no other row came or went. Returns what does not hold.
pub(super) fn conservation(
    connection: &Connection,
    mappings: &[Mapping],
    before: &Counts,
    after: &Counts,
    entries: u64,
) -> rusqlite::Result<Vec<String>> {
    let mut failures = Vec::new();
    let number = |sql: &str| -> rusqlite::Result<i64> { connection.query_row(sql, [], |row| row.get(0)) };
    let kept = number(&format!("SELECT count(*) FROM work.entry WHERE state > {PENDING}"))?;
    if u64::try_from(kept) != Ok(entries) {
        failures.push(format!("{entries} differences were found and {kept} are accounted for"));
    }
    let mut expected: BTreeMap<&String, i64> =
        before.iter().map(|(name, rows)| (name, i64::try_from(*rows).unwrap_or(i64::MAX))).collect();
    for (at, mapping) in mappings.iter().enumerate() {
        let Some(target) = &mapping.target else { continue };
        let rows = |op: i64| {
            number(&format!(
                "SELECT count(*) FROM work.entry e JOIN work.d{at} s ON s.id = e.row
                 WHERE e.mapping = {at} AND e.column = {ROW} AND e.state = {APPLIED} AND s.op = {op}"
            ))
        };
        if let Some(expected) = expected.get_mut(&target.name) {
            *expected += rows(INSERTED)? - rows(DELETED)?;
        }
        let missing = if mapping.key.is_empty() || mapping.refused.is_some() {
            0
        } else {
            missing(connection, at, mapping)?
        };
        if missing > 0 {
            failures.push(format!("{}: {missing} applied difference(s) are not in the result", target.name));
        }
    }
    for (name, expected) in expected {
        let found = after.get(name).copied().unwrap_or(0);
        if u64::try_from(expected) != Ok(found) {
            failures.push(format!("{name} has {found} rows instead of {expected}"));
        }
    }
    Ok(failures)
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
                &mut Moved::between(&case.path("pre"), &case.path("post")),
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
            let found = conservation(&own, &mappings, &before, &after, entries).unwrap();
            assert_eq!(found.len(), failures, "{spoil}: {found:?}");
        }
    }
}
