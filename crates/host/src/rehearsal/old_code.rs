//! What only running code can show about a change of the schema: writes of the release before that are refused, rows that
//! it takes by position, several processes that migrate at once, and an app that waits for no lock.

use std::path::Path;
use std::sync::LazyLock;

use plimsoll_core::check::Check;
use regex::Regex;

use super::culprit;
use crate::sqlite::lint::{Remark, Rule, Severity};

const REFUSED: Rule = Rule(
    "old-writes-refused",
    Severity::Danger,
    "while both releases run, and after a rollback of the code alone, users' writes would fail",
    "let this release obey the new rule first, and add the rule to the schema in the next one",
);
const GONE: Rule = Rule(
    "old-names-gone",
    Severity::Danger,
    "the release before asks for what the migration took away or renamed",
    "keep the old name beside the new one until no release asks for it, and drop it in a later one",
);
const POSITION: Rule = Rule(
    "by-position",
    Severity::Warning,
    "a table with one column more refuses a row without it, and what is read by its place is another column",
    "name the columns: INSERT INTO t (a, b) VALUES (?, ?), SELECT a, b FROM t; deploy that first",
);
const SEVERAL: Rule = Rule(
    "several-migrate",
    Severity::Danger,
    "each of them may begin to migrate: one finds a table half rebuilt by the other, or fails because it is there",
    "migrate before they start: [database] migrations = \"migrations\" or migrate = [\"COMMAND\"]",
);
const IMPATIENT: Rule = Rule(
    "waits-for-no-lock",
    Severity::Warning,
    "a backup, a checkpoint or a second worker holds the lock for a moment now and then, and each time a user sees an error",
    "set PRAGMA busy_timeout = 5000 (or the driver's timeout) on every connection that the app opens",
);

/// SQLite's own words, wherever the app has put them.
static SAYS: LazyLock<Vec<(Regex, Rule)>> = LazyLock::new(|| {
    let says = [
        (r"(?:UNIQUE|NOT NULL|CHECK|FOREIGN KEY) constraint failed(?:: [\w.]+)?", REFUSED),
        (r"table [\w.]+ has \d+ columns but \d+ values were supplied", POSITION),
        (r"no such (?:table|column): [\w.]+|table [\w.]+ has no column named \w+", GONE),
    ];
    says.into_iter().filter_map(|(pattern, rule)| Some((Regex::new(pattern).ok()?, rule))).collect()
});

/// What the failure of the old release on the migrated copy is about, when SQLite's words are in it.
pub(super) fn failure(release: &str, said: &str) -> Option<Remark> {
    let (found, rule) = SAYS.iter().find_map(|(says, rule)| Some((says.find(said)?, rule)))?;
    Some(rule.at(release, None, found.as_str()))
}

/// Where the code of a release puts rows into one of the tables, which have got columns, without naming columns.
#[must_use]
pub fn by_position(folder: &Path, tables: &[String]) -> Vec<Remark> {
    if tables.is_empty() {
        return Vec::new();
    }
    let found = culprit::inserts_by_position(folder, tables).into_iter();
    found
        .map(|(file, line, table)| POSITION.at(&file, Some(line), format!("a row goes into {table}")))
        .collect()
}

/// That several processes had the database open after a start that changed its schema.
pub(super) fn several(release: &str, processes: usize, changed: &[String]) -> Option<Remark> {
    let what =
        format!("{processes} processes have the database open, and its start makes: {}", changed.join(", "));
    (processes > 1 && !changed.is_empty()).then(|| SEVERAL.at(release, None, what))
}

/// That a write failed while somebody else held the lock for a moment, and did not without.
pub(super) fn impatient(release: &str, what: &str) -> Remark {
    IMPATIENT.at(release, None, what)
}

/// Remarks as evidence, for the report and the plan.
pub(crate) fn with_remarks(check: Check, remarks: &[Remark]) -> Check {
    if remarks.is_empty() {
        return check;
    }
    check.with("remarks", remarks.iter().map(Remark::line).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_old_release_ran_into_is_told_by_sqlites_own_words() {
        for (said, rule, what) in [
            (
                "status 500: sqlite3.IntegrityError: NOT NULL constraint failed: orders.state",
                "old-writes-refused",
                "NOT NULL constraint failed: orders.state",
            ),
            (
                "(SqliteError) UNIQUE constraint failed: users.email (19)",
                "old-writes-refused",
                "UNIQUE constraint failed: users.email",
            ),
            (
                "CHECK constraint failed: quantity > 0",
                "old-writes-refused",
                "CHECK constraint failed: quantity",
            ),
            (
                "error: table orders has 4 columns but 3 values were supplied",
                "by-position",
                "table orders has 4 columns but 3 values were supplied",
            ),
            ("no such column: gone", "old-names-gone", "no such column: gone"),
            (
                "table orders has no column named note",
                "old-names-gone",
                "table orders has no column named note",
            ),
        ] {
            let remark = failure("000001-aaaaaaa", said).unwrap();
            assert_eq!((remark.rule, remark.what.as_str()), (rule, what), "{said}");
        }
        assert_eq!(failure("000001-aaaaaaa", "status 500: KeyError: cart"), None);
    }

    #[test]
    fn one_process_that_migrates_at_its_start_is_alone() {
        let changed = ["new table coupons".to_owned()];
        assert_eq!(several("r", 1, &changed), None);
        assert_eq!(several("r", 4, &[]), None);
        assert_eq!(several("r", 2, &changed).unwrap().rule, "several-migrate");
    }
}
