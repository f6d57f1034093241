//! What the backup says to each difference: there or not, changed by the migration, already so, of another type.

use rusqlite::{Connection, params};

use super::Reason;
use super::ledger::{ASIDE, CHANGED, DELETED, EQUAL, INSERTED, PENDING, ROW, number};
use super::plan::Mapping;
use super::shape::{faithful, of};
use crate::sqlite::connection::quoted;

/// Where the backup's row of a difference is: joins `m`, the backup's table, to `s`, the written-down rows.
pub(super) fn place(mapping: &Mapping, side: char) -> String {
    joined(mapping.key.iter().filter_map(|place| {
        let target = mapping.columns[*place].target.as_deref()?;
        Some(format!("{} = s.{side}{place}", of("m", target)))
    }))
}

/// Looks at the backup's row of every difference that is still open: is it there, does it hold the old value, does
/// it hold the new one already?
pub(super) fn rows(connection: &Connection, at: usize, mapping: &Mapping) -> rusqlite::Result<()> {
    let (Some(target), None) = (&mapping.target, mapping.refused) else { return Ok(()) };
    if mapping.key.is_empty() {
        return Ok(());
    }
    let mut settle = connection
        .prepare("UPDATE work.entry SET state = ?1, reason = ?2 WHERE mapping = ?3 AND row = ?4 AND column = ?5 AND state = 0")?;
    let targets: Vec<(usize, &str)> = mapping.targets().collect();
    for (op, side) in [(INSERTED, 'n'), (CHANGED, 'o'), (DELETED, 'o')] {
        let key =
            mapping.key.iter().filter_map(|place| Some((place, mapping.columns[*place].target.as_deref()?)));
        let key: Vec<(String, String)> =
            key.map(|(place, name)| (of("m", name), format!("s.{side}{place}"))).collect();
        let first = key.first().map(|(column, _)| column.as_str()).unwrap_or("NULL");
        let sure = joined(key.iter().map(|(column, value)| faithful(column, value)));
        let flags: String = targets
            .iter()
            .map(|(place, name)| {
                let column = of("m", name);
                format!(
                    ", {}, {}",
                    faithful(&column, &format!("s.o{place}")),
                    faithful(&column, &format!("s.n{place}"))
                )
            })
            .collect();
        let sql = format!(
            "SELECT s.id, {first} IS NOT NULL, {sure}{flags} FROM work.d{at} s LEFT JOIN main.{} m ON {}
             WHERE s.op = {op} AND NOT s.bag",
            quoted(&target.name),
            place(mapping, side)
        );
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let (there, sure) = (row.get::<_, bool>(1)?, row.get::<_, Option<bool>>(2)?.unwrap_or(false));
            let holds = |index: usize| -> rusqlite::Result<(bool, bool)> {
                Ok((row.get(3 + index * 2)?, row.get(4 + index * 2)?))
            };
            let mut set = |state: i64, reason: Option<Reason>, column: i64| {
                settle.execute(params![state, reason.map(Reason::code), number(at), id, column])
            };
            let changed = Some(Reason::MigrationChanged);
            match op {
                DELETED if !there => drop(set(EQUAL, None, ROW)?),
                DELETED if !sure => drop(set(ASIDE, changed, ROW)?),
                INSERTED if there => {
                    let mut equal = sure;
                    for index in 0..targets.len() {
                        equal = equal && holds(index)?.1;
                    }
                    if equal {
                        set(EQUAL, None, ROW)?;
                    }
                }
                CHANGED => {
                    for (index, (place, _)) in targets.iter().enumerate() {
                        let column = number(*place);
                        // Old before new: to SQL, 0.0 and -0.0 are both.
                        match holds(index)? {
                            _ if !there => set(ASIDE, Some(Reason::RowNotInBackup), column)?,
                            _ if !sure => set(ASIDE, changed, column)?,
                            (true, _) => 0,
                            (false, true) => set(EQUAL, None, column)?,
                            (false, false) => set(ASIDE, changed, column)?,
                        };
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Sets values aside that the backup's column would store as something else.
pub(super) fn types(connection: &Connection, at: usize, mapping: &Mapping) -> rusqlite::Result<()> {
    let converted: Vec<(usize, &str)> = mapping
        .columns
        .iter()
        .enumerate()
        .filter_map(|(place, column)| Some((place, column.converts.as_deref()?)))
        .collect();
    if converted.is_empty() || mapping.refused.is_some() {
        return Ok(());
    }
    // A declared type may be any words; quoted, SQLite derives the same affinity from them.
    let declared = |(place, declared): &(usize, &str)| {
        format!(", c{place} {}", if declared.is_empty() { String::new() } else { quoted(declared) })
    };
    let columns: String = converted.iter().map(declared).collect();
    let from: String = converted.iter().map(|(place, _)| format!(", n{place}")).collect();
    connection.execute_batch(&format!(
        "CREATE TABLE work.t{at} (id INTEGER PRIMARY KEY{columns});
         INSERT INTO work.t{at} SELECT id{from} FROM work.d{at} WHERE op <> {DELETED};"
    ))?;
    for (place, _) in converted {
        let kept = faithful(&format!("t.c{place}"), &format!("s.n{place}"));
        connection.execute_batch(&format!(
            "UPDATE work.entry AS e SET state = {ASIDE}, reason = '{}'
             FROM work.d{at} s, work.t{at} t
             WHERE e.mapping = {at} AND e.row = s.id AND t.id = s.id AND e.state = {PENDING} AND NOT ({kept})
               AND e.column = CASE s.op WHEN {INSERTED} THEN {ROW} ELSE {place} END;",
            Reason::Type.code()
        ))?;
    }
    connection.execute_batch(&format!("DROP TABLE work.t{at};"))
}

fn joined(conditions: impl Iterator<Item = String>) -> String {
    conditions.collect::<Vec<_>>().join(" AND ")
}
