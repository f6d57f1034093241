//! Writes what was set aside, one entry after the other.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};

use super::ledger::{ASIDE, CHANGED, INSERTED, ROW, column_at};
use super::plan::Mapping;
use crate::sqlite::Error;
use crate::sqlite::diff::{Change, RowChange};
use crate::sqlite::set_aside::Writer;

pub(super) fn write(
    connection: &Connection,
    mappings: &[Mapping],
    out: &Path,
    writer: &mut Writer,
) -> Result<(), Error> {
    for (at, mapping) in mappings.iter().enumerate() {
        let failed = |e: rusqlite::Error| Error::of(out, "setting rows aside", &e);
        let width = mapping.columns.len();
        let mut statement = connection
            .prepare(&format!(
                "SELECT e.column, e.reason, s.op, s.* FROM work.entry e JOIN work.d{at} s ON s.id = e.row
                 WHERE e.mapping = {at} AND e.state = {ASIDE} ORDER BY e.row, e.column"
            ))
            .map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let values = |from: usize| -> rusqlite::Result<Vec<Value>> {
                (from..from + width).map(|place| row.get_ref(place).map(owned)).collect()
            };
            let read = || -> rusqlite::Result<(RowChange, String)> {
                let (old, new) = (values(6)?, values(6 + width)?);
                Ok((change(mapping, row.get(0)?, row.get(2)?, row.get(5)?, &old, &new), row.get(1)?))
            };
            let (change, reason) = read().map_err(failed)?;
            writer.add(&mapping.name, &change, Some(&reason))?;
        }
    }
    Ok(())
}

fn change(mapping: &Mapping, column: i64, op: i64, bag: bool, old: &[Value], new: &[Value]) -> RowChange {
    let side = if op == INSERTED { new } else { old };
    // Only its other values tell a row without a key apart.
    let others = || (0..side.len()).filter(|place| column_at(column) != Some(*place)).collect();
    let key: Vec<usize> = match bag {
        false => mapping.key.clone(),
        true if column == ROW => Vec::new(),
        true => others(),
    };
    let key =
        key.into_iter().map(|place| (mapping.columns[place].name.clone(), side[place].clone())).collect();
    let change = match column_at(column) {
        Some(place) => {
            // One value: of a changed row, or of a new one whose other values were carried.
            let before = if op == CHANGED { old[place].clone() } else { Value::Null };
            Change::Changed(vec![(mapping.columns[place].name.clone(), before, new[place].clone())])
        }
        None => {
            let there = |in_now: bool| {
                mapping
                    .columns
                    .iter()
                    .enumerate()
                    .filter(move |(_, c)| if in_now { c.in_now } else { c.in_post })
            };
            if op == INSERTED {
                Change::Inserted(there(true).map(|(place, c)| (c.name.clone(), new[place].clone())).collect())
            } else {
                Change::Deleted(there(false).map(|(place, c)| (c.name.clone(), old[place].clone())).collect())
            }
        }
    };
    RowChange { key, change }
}

/// Text that is not valid UTF-8 is kept as a blob, so that no byte is lost.
fn owned(value: ValueRef<'_>) -> Value {
    Value::try_from(value).unwrap_or_else(|_| match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
        _ => Value::Null,
    })
}
