//! What the migration left alone. ALTER TABLE touches no row's bytes, and most migrations touch few tables: where PRE and
//! POST have the same pages, the rows are the same and need not be compared value by value.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;

use super::pages::{self, Known, Pages};
use super::shape::{Column, Shape};
use crate::sqlite::page_set::PageSet;

/// PRE and POST, page by page.
pub(super) struct Moved {
    pages: Option<(Pages, Pages)>,
    /// The pages in which they differ, when that is known, and whether long values may differ besides.
    unlike: Option<(PageSet, bool)>,
    /// By root page: whether the scratch database knows where a table can differ.
    known: BTreeMap<i64, bool>,
}

impl Moved {
    pub(super) fn between(pre: &Path, post: &Path, unlike: Option<(PageSet, bool)>) -> Moved {
        let open = |path: &Path| Pages::open(path).map(|pages| pages.for_known(unlike.is_some()));
        // What cannot be read here is compared row by row.
        let pages = open(pre).and_then(|one| Ok((one, open(post)?))).ok();
        Moved { pages, unlike, known: BTreeMap::new() }
    }

    /// Knows nothing: every row is compared.
    pub(super) fn anywhere() -> Moved {
        Moved { pages: None, unlike: None, known: BTreeMap::new() }
    }

    /// A table with row numbers, `low` to `high`: only there can `old`, before the migration, and `new`, after it, hold
    /// other bytes. `None` when that can be anywhere.
    pub(super) fn ranges(
        &mut self,
        connection: &Connection,
        old: &Shape,
        new: &Shape,
    ) -> rusqlite::Result<Option<String>> {
        let rows = |shape: &Shape| !shape.virtual_table && shape.rowid.is_some();
        if old.root_page != new.root_page || !rows(old) || !rows(new) || places(old) != places(new) {
            return Ok(None);
        }
        let table = format!("work.q{}", old.root_page);
        if let Some(known) = self.known.get(&old.root_page) {
            return Ok(known.then_some(table));
        }
        let known = self.unlike.as_ref().map(|(unlike, beyond)| Known { unlike, beyond: *beyond });
        let differing = |(one, two): &mut (Pages, Pages)| pages::differing(one, two, old.root_page, known);
        let found = self.pages.as_mut().and_then(|pages| differing(pages).ok().flatten());
        self.known.insert(old.root_page, found.is_some());
        let Some(ranges) = found else { return Ok(None) };
        connection
            .execute_batch(&format!("SAVEPOINT q; CREATE TABLE {table} (low INTEGER, high INTEGER);"))?;
        let mut insert = connection.prepare(&format!("INSERT INTO {table} VALUES (?1, ?2)"))?;
        for (low, high) in ranges {
            insert.execute([low, high])?;
        }
        connection.execute_batch("RELEASE q")?;
        Ok(Some(table))
    }
}

/// Where the key's columns are: the one that is the row number is not stored among the others.
fn places(shape: &Shape) -> Vec<Option<i64>> {
    shape.key.iter().map(|name| shape.column(name).map(|column| column.place)).collect()
}

/// Whether the same bytes of a row are the same value of both columns.
pub(super) fn same_bytes(old: &Column, new: &Column) -> bool {
    old.place == new.place && old.declared.eq_ignore_ascii_case(&new.declared) && old.default == new.default
}

/// A side's table as `alias`, only the rows in `ranges`, when those are known.
pub(super) fn rows_in(ranges: Option<&str>, schema: &str, shape: &Shape, alias: &str) -> String {
    let table = crate::sqlite::connection::quoted(&shape.name);
    match (ranges, shape.rowid) {
        // CROSS JOIN: the ranges first, whatever SQLite guesses.
        (Some(ranges), Some(rowid)) => format!(
            "{ranges} {alias}_in CROSS JOIN {schema}.{table} {alias} ON {alias}.{rowid} BETWEEN {alias}_in.low AND {alias}_in.high"
        ),
        _ => format!("{schema}.{table} {alias}"),
    }
}
