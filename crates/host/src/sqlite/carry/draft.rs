//! The result while it is made: differences applied until the foreign keys hold, counters raised, and the gates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::moved::{Moved, rows_in, same_bytes};
use super::plan::{Mapping, Rename};
use super::shape::{Shapes, faithful, of};
use super::{Error, Reason, Tally, apply, gates, judge, keys, ledger};
use crate::sqlite::connection::{open_finished, quoted};
use crate::sqlite::fingerprint::Known;
use crate::sqlite::{Stop, schema};

pub(super) fn attach(connection: &Connection, post: &Path, now: &Path, work: &Path) -> rusqlite::Result<()> {
    // Their effects are among the differences already.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    for (path, name, flags) in
        [(post, "post", "?mode=ro&immutable=1"), (now, "now", "?mode=ro&immutable=1"), (work, "work", "")]
    {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
        let escaped = percent_encoding::percent_encode(bytes, percent_encoding::NON_ALPHANUMERIC);
        connection.execute(&format!("ATTACH ?1 AS {name}"), [format!("file:{escaped}{flags}")])?;
    }
    // Synced once when it gets its name; the scratch never.
    connection.execute_batch("PRAGMA main.synchronous = OFF; PRAGMA work.synchronous = OFF;")
}

/// The result in the making: the copy of the backup as `main`, the others and the ledger attached.
pub(super) struct Draft {
    pub(super) connection: Connection,
    pub(super) pre: Shapes,
    pub(super) mappings: Vec<Mapping>,
    /// How many differences were written down.
    pub(super) entries: u64,
    pub(super) unchecked: Vec<String>,
}

impl Draft {
    pub(super) fn write_down(&self, number: usize) -> rusqlite::Result<u64> {
        let mapping = &self.mappings[number];
        let entries = ledger::write(&self.connection, number, mapping)?;
        if entries > 0 {
            judge::rows(&self.connection, number, mapping)?;
            judge::types(&self.connection, number, mapping)?;
        }
        Ok(entries)
    }

    /// Applies until the foreign keys are no worse than before: what made them so is set aside, and all is done anew.
    /// Returns by how much each table must have grown. Rows are counted unless that is told by the pages afterwards.
    pub(super) fn apply(&mut self, pre: &Path, by_pages: bool, stop: &Stop) -> Result<gates::Growth, Error> {
        let path = PathBuf::from(self.connection.path().unwrap_or_default());
        let failed = |e: rusqlite::Error| -> crate::sqlite::Error {
            crate::sqlite::fingerprint::interrupted(&path, &e, stop)
        };
        let count = !by_pages || cfg!(test);
        let counts = |draft: &Draft| match count {
            true => gates::counts(&draft.connection, &draft.pre).map_err(failed),
            false => Ok(gates::Counts::new()),
        };
        let before = counts(self)?;
        // Only what is broken now has to be compared with what was broken before.
        let mut before_too = None;
        loop {
            self.connection.execute_batch("SAVEPOINT round").map_err(failed)?;
            apply::all(&self.connection, &self.mappings).map_err(failed)?;
            let unharmed = keys::unharmed(&self.connection, &self.mappings, &self.pre).map_err(failed)?;
            let after = if unharmed && !cfg!(test) {
                Known::Is(keys::Violations::new())
            } else {
                keys::violations(&self.connection).map_err(failed)?
            };
            let worse = match &after {
                Known::Is(found) if found.is_empty() => Vec::new(),
                _ => {
                    if before_too.is_none() {
                        let backup = open_finished(pre)?;
                        before_too = Some(keys::violations(&backup).map_err(failed)?);
                    }
                    before_too.as_ref().map_or_else(Vec::new, |before| keys::worse(before, &after))
                }
            };
            debug_assert!(!unharmed || worse.is_empty(), "a broken foreign key was overlooked: {worse:?}");
            if let Known::Unknown(why) = &after {
                self.unchecked.push(format!("the foreign keys could not be checked: {why}"));
            }
            if worse.is_empty() {
                break;
            }
            let culprits =
                keys::culprits(&self.connection, &self.mappings, &self.pre, &worse).map_err(failed)?;
            self.connection.execute_batch("ROLLBACK TO round; RELEASE round").map_err(failed)?;
            if culprits.is_empty() {
                let list: Vec<String> =
                    worse.iter().map(|(child, parent, _)| format!("{child} to {parent}")).collect();
                return Err(Error::Gate {
                    failures: vec![format!("foreign keys are broken: {}", list.join(", "))],
                });
            }
            for (mapping, row) in culprits {
                let sql = "UPDATE work.entry SET state = 3, reason = 'FK' WHERE mapping = ?1 AND row = ?2 AND state = 0";
                self.connection
                    .execute(sql, rusqlite::params![ledger::number(mapping), row])
                    .map_err(failed)?;
            }
        }
        let after = counts(self)?;
        let (mut failures, growth) =
            gates::conservation(&self.connection, &self.mappings, self.entries).map_err(failed)?;
        failures.extend(gates::grown(&before, &after, &growth));
        if !failures.is_empty() {
            return Err(Error::Gate { failures });
        }
        self.connection.execute_batch("RELEASE round").map_err(failed)?;
        self.build_again().map_err(failed)?;
        Ok(growth)
    }

    /// Full-text indexes over other tables are derived from them.
    fn build_again(&self) -> rusqlite::Result<()> {
        let applied: bool = self.connection.query_row(
            "SELECT EXISTS (SELECT 1 FROM work.entry WHERE state = 1)",
            [],
            |row| row.get(0),
        )?;
        for derived in self.pre.derived.iter().filter(|_| applied) {
            let name = quoted(&derived.name);
            self.connection.execute_batch(&format!("INSERT INTO main.{name}({name}) VALUES ('rebuild')"))?;
        }
        Ok(())
    }

    /// Raises the AUTOINCREMENT counters, so that a number that somebody has seen is never given again.
    pub(super) fn raise(
        &self,
        renames: &[Rename],
        counters: &[BTreeMap<String, i64>],
    ) -> rusqlite::Result<()> {
        let own = schema::sequences(&self.connection)?;
        for target in
            self.pre.tables.values().filter(|shape| shape.sql.to_ascii_uppercase().contains("AUTOINCREMENT"))
        {
            let renamed =
                renames.iter().find(|r| r.column.is_none() && r.table.eq_ignore_ascii_case(&target.name));
            let name = renamed.map_or(&target.name, |rename| &rename.to);
            let highest = |counter: &BTreeMap<String, i64>| {
                counter
                    .iter()
                    .filter(|(table, _)| table.eq_ignore_ascii_case(name))
                    .map(|(_, seq)| *seq)
                    .max()
            };
            let Some(highest) = counters.iter().filter_map(highest).max() else { continue };
            if own.get(&target.name).is_none_or(|own| *own < highest) {
                let changed = self.connection.execute(
                    "UPDATE main.sqlite_sequence SET seq = ?2 WHERE name = ?1",
                    rusqlite::params![target.name, highest],
                )?;
                if changed == 0 {
                    self.connection.execute(
                        "INSERT INTO main.sqlite_sequence (name, seq) VALUES (?1, ?2)",
                        rusqlite::params![target.name, highest],
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Numbers above the highest one left, of rows that were set aside.
    pub(super) fn reusable(&self) -> rusqlite::Result<BTreeMap<String, i64>> {
        let mut found = BTreeMap::new();
        for (at, mapping) in self.mappings.iter().enumerate() {
            let (Some(target), [place]) = (&mapping.target, &mapping.key[..]) else { continue };
            let Some(name) = &mapping.columns[*place].target else { continue };
            let numbered = target.column(name).is_some_and(|c| c.declared.eq_ignore_ascii_case("integer"));
            if !numbered
                || target.rowid.is_none()
                || target.sql.to_ascii_uppercase().contains("AUTOINCREMENT")
            {
                continue;
            }
            let sql = format!(
                "SELECT max(s.n{place}) FROM work.d{at} s JOIN work.entry e ON e.mapping = {at} AND e.row = s.id
                 WHERE e.column = -1 AND e.state = 3 AND s.op = 0 AND typeof(s.n{place}) = 'integer'
                   AND s.n{place} > (SELECT coalesce(max({}), 0) FROM main.{})",
                quoted(name),
                quoted(&target.name)
            );
            let highest: Option<i64> = self.connection.query_row(&sql, [], |row| row.get(0))?;
            found.extend(highest.map(|number| (target.name.clone(), number)));
        }
        Ok(found)
    }

    /// Columns of tables with differences that the migration rewrote somewhere. Seen before anything is applied.
    pub(super) fn rewritten(
        &self,
        after: &Shapes,
        moved: &mut Moved,
    ) -> rusqlite::Result<BTreeMap<String, Vec<String>>> {
        let mut found = BTreeMap::new();
        for (at, mapping) in self.mappings.iter().enumerate() {
            let (Some(target), Some(post)) = (&mapping.target, &mapping.post) else { continue };
            let any: bool = self.connection.query_row(
                "SELECT EXISTS (SELECT 1 FROM work.entry WHERE mapping = ?1)",
                [ledger::number(at)],
                |row| row.get(0),
            )?;
            if !any {
                continue;
            }
            let Some(shape) = after.tables.get(&post.to_lowercase()) else { continue };
            let columns: Vec<(&str, &str)> = mapping
                .targets()
                .filter(|(place, _)| mapping.columns[*place].in_post)
                .map(|(place, name)| (name, mapping.columns[place].name.as_str()))
                .collect();
            if columns.is_empty() {
                continue;
            }
            let same = |(before, after): &(&str, &str)| {
                target.column(before).zip(shape.column(after)).is_some_and(|(old, new)| same_bytes(old, new))
            };
            let near =
                if columns.iter().all(same) { moved.ranges(&self.connection, target, shape)? } else { None };
            let near = near.as_deref();
            let keyed = !mapping.key.is_empty() && mapping.refused.is_none();
            let flags: Vec<bool> = if keyed {
                let on = mapping.key.iter().filter_map(|place| {
                    let column = &mapping.columns[*place];
                    Some(format!("{} = {}", of("p", &column.name), of("m", column.target.as_deref()?)))
                });
                let on = on.collect::<Vec<_>>().join(" AND ");
                let changed = columns.iter().map(|(before, after)| {
                    format!("coalesce(max(NOT ({})), 0)", faithful(&of("m", before), &of("p", after)))
                });
                let changed = changed.collect::<Vec<_>>().join(", ");
                let sql = format!(
                    "SELECT {changed} FROM {} JOIN post.{} p ON {on}",
                    rows_in(near, "main", target, "m"),
                    quoted(post)
                );
                self.connection
                    .query_row(&sql, [], |row| (0..columns.len()).map(|place| row.get(place)).collect())?
            } else {
                let differs = |(before, after): &(&str, &str)| {
                    let sql = format!(
                        "SELECT EXISTS (SELECT 1 FROM (SELECT {} AS v, 1 AS n FROM {} UNION ALL
                         SELECT {}, -1 FROM {}) GROUP BY v COLLATE BINARY, typeof(v) HAVING sum(n) <> 0)",
                        of("m", before),
                        rows_in(near, "main", target, "m"),
                        of("p", after),
                        rows_in(near, "post", shape, "p")
                    );
                    self.connection.query_row(&sql, [], |row| row.get(0))
                };
                columns.iter().map(differs).collect::<rusqlite::Result<_>>()?
            };
            let named = columns.iter().zip(flags).filter(|(_, changed)| *changed);
            let named: Vec<String> = named.map(|((name, _), _)| (*name).to_owned()).collect();
            if !named.is_empty() {
                found.insert(target.name.clone(), named);
            }
        }
        Ok(found)
    }

    /// Counts the rows of the backup and of the result, where the pages did not tell.
    pub(super) fn recount(&self, pre: &Path, growth: &gates::Growth) -> Result<(), Error> {
        let count = |connection: &Connection| {
            gates::counts(connection, &self.pre)
                .map_err(|e| crate::sqlite::Error::of(pre, "counting rows", &e))
        };
        let failures = gates::grown(&count(&open_finished(pre)?)?, &count(&self.connection)?, growth);
        if failures.is_empty() { Ok(()) } else { Err(Error::Gate { failures }) }
    }

    pub(super) fn tallies(&self) -> rusqlite::Result<BTreeMap<String, Tally>> {
        let mut tables: BTreeMap<String, Tally> = BTreeMap::new();
        for ledger::Sum { mapping, state, reason, count } in ledger::sums(&self.connection)? {
            let tally = tables.entry(self.mappings[mapping].name.clone()).or_default();
            match (state, reason.as_deref().and_then(Reason::of)) {
                (ledger::APPLIED, _) => tally.applied += count,
                (ledger::EQUAL, _) => tally.equal += count,
                (_, reason) => *tally.set_aside.entry(reason.unwrap_or(Reason::NoKey)).or_default() += count,
            }
        }
        Ok(tables)
    }

    pub(super) fn check_whole(&mut self) -> rusqlite::Result<Result<(), Error>> {
        Ok(match gates::whole(&self.connection)? {
            Ok(problems) if problems.is_empty() => Ok(()),
            Ok(failures) => Err(Error::Gate { failures }),
            Err(why) => {
                self.unchecked.push(format!("the result's integrity could not be checked: {why}"));
                Ok(())
            }
        })
    }
}
