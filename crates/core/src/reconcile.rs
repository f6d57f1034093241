//! The accounts of a run: what went in through the door and what came of it, and every table's rows from before to now.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Verdict};

/// What a run leaves, reckoned up at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reconciliation {
    /// What users asked for since the door was told of the run; `None` without a front door.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// Every table's rows.
    #[serde(default)]
    pub tables: BTreeMap<String, Rows>,
    /// Every AUTOINCREMENT counter.
    #[serde(default)]
    pub sequences: BTreeMap<String, Sequence>,
}

/// Requests: accepted = answered + left + inside.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// Their heads were read.
    pub accepted: u64,
    /// Of these, waited at the shut door.
    pub held: u64,
    /// Got an answer.
    pub answered: u64,
    /// Of these, were sent away by the door with 503.
    pub turned_away: u64,
    /// Their client left before an answer.
    pub left: u64,
    /// Neither yet: the app is at them, or they wait.
    pub inside: u64,
}

/// The rows of a table: before + by the migration + by users = now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// Before the run; 0 when there was no such table.
    pub before: u64,
    /// More or fewer through the migration, or through the data going back.
    pub by_migration: i64,
    /// More or fewer since then: what users wrote.
    pub by_users: i64,
    /// At the end.
    pub now: u64,
}

/// A counter, and the largest number that a row has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    /// The last number that was given.
    pub counter: i64,
    /// The largest that is there.
    pub largest: i64,
}

impl Requests {
    /// Whether nothing is missing. Requests move on while they are counted, hence not before they are all through.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.accepted == self.answered + self.left + self.inside
    }
}

impl Rows {
    /// From three counts; `migrated` is the count right after the migration, where it was taken.
    #[must_use]
    pub fn of(before: Option<u64>, migrated: Option<u64>, now: u64) -> Rows {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let first = before.unwrap_or(0);
        let then = migrated.unwrap_or(first);
        Rows {
            before: first,
            by_migration: signed(then) - signed(first),
            by_users: signed(now) - signed(then),
            now,
        }
    }
}

impl Reconciliation {
    /// Counters below the largest number of their table: the next row would get a number that somebody has already.
    #[must_use]
    pub fn behind(&self) -> Vec<String> {
        let behind = self.sequences.iter().filter(|(_, sequence)| sequence.counter < sequence.largest);
        behind.map(|(table, s)| format!("{table}: {} below {}", s.counter, s.largest)).collect()
    }

    /// The same as observations for the report.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        if let Some(requests) = self.requests {
            let verdict = if requests.balanced() { Verdict::Pass } else { Verdict::Unknown };
            let mut check = Check::new("reconcile.requests", "Requests during the run", verdict)
                .with("accepted", requests.accepted)
                .with("held", requests.held)
                .with("answered", requests.answered)
                .with("turned_away", requests.turned_away)
                .with("left_before_an_answer", requests.left)
                .with("still_inside", requests.inside);
            if !requests.balanced() {
                check = check.with("why", "some were under way while they were counted");
            }
            checks.push(check);
        }
        if !self.tables.is_empty() {
            let moved = self.tables.iter().filter(|(_, rows)| rows.by_migration != 0 || rows.by_users != 0);
            let mut check = Check::pass("reconcile.rows", "Rows before, by the migration, by users, now");
            for (table, rows) in moved {
                check = check.with(
                    table,
                    format!("{} {:+} {:+} = {}", rows.before, rows.by_migration, rows.by_users, rows.now),
                );
            }
            let still =
                self.tables.values().filter(|rows| rows.by_migration == 0 && rows.by_users == 0).count();
            checks.push(check.with("tables_with_as_many_rows_as_before", still as u64));
        }
        if !self.sequences.is_empty() {
            let behind = self.behind();
            let mut check = if behind.is_empty() {
                Check::pass("reconcile.numbers", "No number is given twice")
            } else {
                Check::fail("reconcile.numbers", "No number is given twice", behind.join("; "))
            };
            for (table, s) in &self.sequences {
                check = check.with(table, format!("last given {}, largest there {}", s.counter, s.largest));
            }
            checks.push(check);
        }
        checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_add_up_whichever_counts_there_are() {
        for (before, migrated, now) in
            [(Some(10), Some(8), 12), (Some(10), None, 7), (None, Some(3), 3), (None, None, 0)]
        {
            let rows = Rows::of(before, migrated, now);
            let sum = i64::try_from(rows.before).unwrap() + rows.by_migration + rows.by_users;
            assert_eq!(u64::try_from(sum), Ok(rows.now), "{rows:?}");
        }
        let rows = Rows::of(Some(10), Some(8), 12);
        assert_eq!((rows.by_migration, rows.by_users), (-2, 4));
    }

    #[test]
    fn a_counter_below_a_number_that_is_there_fails() {
        let mut all = Reconciliation::default();
        all.sequences.insert("orders".into(), Sequence { counter: 9, largest: 9 });
        assert!(all.checks().iter().all(|check| check.verdict == Verdict::Pass));
        all.sequences.insert("orders".into(), Sequence { counter: 8, largest: 9 });
        assert_eq!(all.behind(), ["orders: 8 below 9"]);
        assert_eq!(all.checks()[0].verdict, Verdict::Fail);
    }

    #[test]
    fn requests_that_vanished_are_not_called_accounted_for() {
        let requests = Requests { accepted: 5, answered: 3, left: 1, inside: 1, ..Requests::default() };
        assert!(requests.balanced());
        assert!(!Requests { accepted: 6, ..requests }.balanced());
    }
}
