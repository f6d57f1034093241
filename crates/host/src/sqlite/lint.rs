//! What is dangerous in migrations on SQLite: what a text can show, what trying them on real rows has shown, and what
//! the folder itself says. Each remark says why, and what to write instead.

use std::time::Duration;

use serde::Serialize;

use super::census::Class;
use super::error::app_defined;
use super::history::Status;
use super::migration::{Migration, Migrations};
use super::script::{Statement, statements};
use super::trial::Outcome;

/// How much a remark matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Data or the deployment is in danger.
    Danger,
    /// Often a mistake.
    Warning,
    /// Good to know.
    Note,
}

/// Something about a migration.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Remark {
    /// The rule's short name.
    pub rule: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// The file.
    pub file: String,
    /// The line on which the statement begins, when it is about one.
    pub line: Option<usize>,
    /// What was seen.
    pub what: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to write instead.
    pub instead: &'static str,
}

impl Remark {
    /// All of it in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let line = self.line.map_or(String::new(), |line| format!(":{line}"));
        let Remark { file, rule, what, why, instead, .. } = self;
        format!("{file}{line} {rule}: {what}; {why}; instead: {instead}")
    }
}

/// A rule: its name, how much it matters, why, and what to write instead.
pub(crate) struct Rule(
    pub(crate) &'static str,
    pub(crate) Severity,
    pub(crate) &'static str,
    pub(crate) &'static str,
);

impl Rule {
    pub(crate) fn at(&self, file: &str, line: Option<usize>, what: impl Into<String>) -> Remark {
        let Rule(rule, severity, why, instead) = *self;
        Remark { rule, severity, file: file.to_owned(), line, what: what.into(), why, instead }
    }
}

const KEYS_IN_TRANSACTION: Rule = Rule(
    "foreign-keys-pragma",
    Severity::Note,
    "inside a transaction SQLite ignores this without a word, and most runners put a file into one",
    "leave it out: Plimsoll sets foreign keys itself, in the way that the trial on real rows found to lose nothing",
);
const SETTING_IN_TRANSACTION: Rule = Rule(
    "setting-pragma",
    Severity::Warning,
    "it has no effect inside a transaction, so this file has to run without one and cannot simply be rolled back",
    "set it where the app opens the database, not in a migration",
);
const DEFERRED: Rule = Rule(
    "defer-foreign-keys",
    Severity::Danger,
    "it puts off the check and not the cascade: DROP TABLE still empties the child tables",
    "leave it out; the trial finds the mode in which the children stay",
);
const RENAME_FIRST: Rule = Rule(
    "rename-before-create",
    Severity::Danger,
    "renaming the old table away makes foreign keys, triggers and views of others follow it to the old name",
    "create the new table, copy, drop the old one, and then rename the new one",
);
const SELECT_STAR: Rule = Rule(
    "select-star",
    Severity::Warning,
    "values go by position: another order of columns swaps them silently",
    "name the columns on both sides: INSERT INTO t (a, b) SELECT a, b FROM ...",
);
const PLACEHOLDER: Rule = Rule(
    "placeholder",
    Severity::Danger,
    "nothing fills it in, so it is part of the SQL",
    "write the value itself",
);
const WRITABLE_SCHEMA: Rule = Rule(
    "writable-schema",
    Severity::Warning,
    "a slip here leaves a database that cannot be opened, and no row count shows it",
    "use ALTER TABLE, or rebuild the table",
);
const OWN_TRANSACTION: Rule = Rule(
    "own-transaction",
    Severity::Note,
    "Plimsoll puts the file and its line in schema_version into one transaction and passes over these",
    "leave BEGIN and COMMIT out",
);
const IF_NOT_EXISTS: Rule = Rule(
    "if-exists",
    Severity::Note,
    "an object of that name with another definition stays as it is, and nobody hears of it",
    "leave IF [NOT] EXISTS out: a migration runs once, and should fail when the schema is not what it was written for",
);
const LOSS: Rule = Rule(
    "loss",
    Severity::Danger,
    "rows or values would be gone, and neither integrity_check nor foreign_key_check would say so",
    "correct the file; or, if it is meant, acknowledge it by its word when it is applied",
);
const RENAME: Rule = Rule(
    "rename",
    Severity::Warning,
    "the release that runs now knows the old name: it breaks in the moment the file is applied",
    "add the new name beside the old one, move the code over, and drop the old one in a later release",
);
const TIGHTENING: Rule = Rule(
    "tightening",
    Severity::Warning,
    "rows that the release before still writes may be refused from then on",
    "make the code obey the rule first, and add the rule in a later release",
);
const LONG_TRANSACTION: Rule = Rule(
    "long-transaction",
    Severity::Warning,
    "SQLite has one writer: requests wait for it longer than they may, and the app's own writes run into their timeout",
    "split it into smaller steps; or fill new columns in batches, in a later release's background work; or set a [window]",
);
const DIFFERS_BY_MODE: Rule = Rule(
    "mode",
    Severity::Note,
    "with foreign keys the other way it does something else; a runner with a fixed setting would have done that",
    "nothing: Plimsoll applies it in the way that loses least",
);
const NO_CHANGE: Rule = Rule(
    "no-change",
    Severity::Note,
    "it changed nothing on a copy of the database",
    "see whether something is missing in it, or whether it is needed at all",
);
const FAILS: Rule = Rule(
    "fails-on-data",
    Severity::Danger,
    "it works in no mode on a copy of the real rows; on an empty database it may well have",
    "give new NOT NULL columns a default, and clean up rows that a new rule refuses first",
);
const APP_DEFINED: Rule = Rule(
    "app-defined",
    Severity::Danger,
    "it needs a function or a collation that only the app's own connections have",
    "let the app's own command migrate: [database] migrate = [\"COMMAND\"] in place of `migrations`",
);
const IN_THE_WAY: Rule = Rule(
    "view-in-the-way",
    Severity::Danger,
    "a view or a trigger of another table reads the table that is rebuilt, so the last RENAME fails",
    "drop the view or trigger first, and create it again at the end of the file",
);
const GAP: Rule = Rule(
    "gap",
    Severity::Note,
    "a number is left out: perhaps a file was forgotten",
    "add the file, or leave the gap as it is",
);
const OUT_OF_ORDER: Rule = Rule(
    "out-of-order",
    Severity::Warning,
    "a later one has been applied already, so this order was never tried anywhere else",
    "give it the next free number",
);
const EDITED: Rule = Rule(
    "edited",
    Severity::Danger,
    "other databases have had other SQL under this number",
    "put the file back and make a new one; or, when the outcome is the same: plimsoll migrate accept N",
);
const NOT_HERE: Rule = Rule(
    "not-here",
    Severity::Danger,
    "the database has had it and no file has it: the database is newer, or another one",
    "bring the file back, or see that this is the right database",
);
const NO_WAY_BACK: Rule = Rule(
    "no-down",
    Severity::Note,
    "`migrate down` cannot take it back; a deployment's undo does not need it",
    "add NNNN_description.down.sql if you want to",
);

/// What the text of a migration shows.
#[must_use]
pub fn text(migration: &Migration) -> Vec<Remark> {
    let file = migration.file();
    let mut remarks = Vec::new();
    let all = statements(&migration.sql);
    for (place, statement) in all.iter().enumerate() {
        let mut add = |rule: &Rule, what: &str| remarks.push(rule.at(&file, Some(statement.line), what));
        match statement.pragma().as_deref() {
            Some("foreign_keys") => add(&KEYS_IN_TRANSACTION, "PRAGMA foreign_keys"),
            Some("defer_foreign_keys") => add(&DEFERRED, "PRAGMA defer_foreign_keys"),
            Some("writable_schema" | "schema_version") => {
                add(&WRITABLE_SCHEMA, "the schema is written by hand")
            }
            Some(name @ ("journal_mode" | "synchronous" | "page_size" | "auto_vacuum" | "encoding")) => {
                add(&SETTING_IN_TRANSACTION, &format!("PRAGMA {name}"));
            }
            _ => {}
        }
        if statement.is_transaction() && !statement.begins(&["END"]) {
            add(&OWN_TRANSACTION, statement.words().first().map_or("", String::as_str));
        }
        if statement.text.contains("${") || statement.text.contains("{{") {
            add(&PLACEHOLDER, "an unfilled placeholder");
        }
        let has = |words: &[&str]| statement.words().windows(words.len()).any(|w| w == words);
        if has(&["IF", "NOT", "EXISTS"]) || (statement.begins(&["DROP"]) && has(&["IF", "EXISTS"])) {
            add(&IF_NOT_EXISTS, "IF [NOT] EXISTS");
        }
        if statement.begins(&["INSERT"])
            && has(&["SELECT", "*"])
            && !statement.words().iter().any(|w| w == "VALUES")
        {
            add(&SELECT_STAR, "INSERT ... SELECT *");
        }
        if let Some(table) = renamed_away(statement)
            && all[place + 1..].iter().any(|later| creates(later, table))
        {
            add(&RENAME_FIRST, &format!("{table} is renamed, and made anew after it"));
        }
    }
    remarks
}

/// The table of `ALTER TABLE t RENAME TO ...`.
fn renamed_away<'a>(statement: &'a Statement<'_>) -> Option<&'a str> {
    let words = statement.words();
    let to = words.windows(2).any(|w| w[0] == "RENAME" && w[1] == "TO");
    (statement.begins(&["ALTER", "TABLE"]) && to).then(|| words.get(2).map(String::as_str)).flatten()
}

fn creates(statement: &Statement<'_>, table: &str) -> bool {
    statement.begins(&["CREATE", "TABLE"])
        && statement.words().get(2).is_some_and(|name| name.eq_ignore_ascii_case(table))
}

/// What the trial of a migration on a copy of the database has shown. `budget` is how long requests may wait for it.
#[must_use]
pub fn tried(outcome: &Outcome, budget: Duration) -> Vec<Remark> {
    let file = &outcome.file;
    let mut remarks: Vec<Remark> = outcome
        .losses
        .iter()
        .map(|loss| LOSS.at(file, None, format!("{}: {} {}", loss.word, loss.quantity, loss.detail)))
        .collect();
    let touched = outcome.touched.join(", ");
    match outcome.class {
        Class::Rename => remarks.push(RENAME.at(file, None, touched)),
        Class::Tightening => remarks.push(TIGHTENING.at(file, None, touched)),
        Class::NoOp => remarks.push(NO_CHANGE.at(file, None, "no schema and no row changed")),
        _ => {}
    }
    remarks.extend(outcome.seen.iter().map(|seen| seen.remark(file)));
    if outcome.took > budget {
        let (took, budget) = (outcome.took.as_secs_f64(), budget.as_secs_f64());
        let what = format!("{took:.1} s on a copy, and the hold may last {budget:.1} s");
        remarks.push(LONG_TRANSACTION.at(file, None, what));
    }
    if let Some(other) = outcome.other.as_ref().filter(|other| !other.ends_with("loses nothing")) {
        remarks.push(DIFFERS_BY_MODE.at(file, None, format!("{}; chosen: {}", other, outcome.mode.words())));
    }
    remarks
}

/// That a migration works in no mode.
#[must_use]
pub fn fails(file: &str, why: &str) -> Remark {
    let rule = if app_defined(why) {
        APP_DEFINED
    } else if why.contains("error in view") || why.contains("error in trigger") {
        IN_THE_WAY
    } else {
        FAILS
    };
    rule.at(file, None, why)
}

/// What the folder shows, and how the database stands to it when there is one.
#[must_use]
pub fn folder(migrations: &Migrations, status: Option<&Status>) -> Vec<Remark> {
    let mut remarks: Vec<Remark> = migrations
        .gaps
        .iter()
        .map(|version| GAP.at(&format!("{version:04}_?"), None, "there is no such file"))
        .collect();
    let file = |version: &u64| {
        migrations
            .all
            .iter()
            .find(|m| m.version == *version)
            .map_or_else(|| version.to_string(), Migration::file)
    };
    for migration in migrations.all.iter().filter(|m| m.down.is_none()) {
        remarks.push(NO_WAY_BACK.at(&migration.file(), None, "there is no .down.sql"));
    }
    let Some(status) = status else { return remarks };
    remarks.extend(
        status.out_of_order.iter().map(|v| OUT_OF_ORDER.at(&file(v), None, "below one that is applied")),
    );
    remarks.extend(status.edited.iter().map(|v| EDITED.at(&file(v), None, "edited after it was applied")));
    for line in &status.missing_files {
        remarks.push(NOT_HERE.at(&line.written, None, format!("applied {}", line.applied_at)));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::sqlite::migration::Direction;

    fn rules(sql: &str) -> Vec<(&'static str, usize)> {
        let migration = Migration {
            version: 2,
            description: "test".into(),
            path: PathBuf::from("0002_test.sql"),
            sql: sql.to_owned(),
            checksum: String::new(),
            down: None,
            direction: Direction::Up,
        };
        text(&migration).into_iter().map(|r| (r.rule, r.line.unwrap())).collect()
    }

    #[test]
    fn each_rule_is_seen_in_the_statement_it_is_about() {
        for (sql, rule) in [
            ("PRAGMA foreign_keys = OFF", "foreign-keys-pragma"),
            ("PRAGMA main.defer_foreign_keys = ON", "defer-foreign-keys"),
            ("PRAGMA journal_mode = WAL", "setting-pragma"),
            ("BEGIN IMMEDIATE", "own-transaction"),
            ("INSERT INTO b SELECT * FROM a", "select-star"),
            ("CREATE TABLE IF NOT EXISTS a (b)", "if-exists"),
            ("DROP TABLE IF EXISTS a", "if-exists"),
            ("UPDATE a SET b = '${value}'", "placeholder"),
            ("PRAGMA writable_schema = 1", "writable-schema"),
            ("ALTER TABLE \"a\" RENAME TO a_old; CREATE TABLE a (b)", "rename-before-create"),
        ] {
            assert_eq!(rules(&format!("-- one\n\n{sql};")), [(rule, 3)], "{sql}");
        }
    }

    #[test]
    fn what_a_failure_is_about_is_told_apart() {
        for (why, rule) in [
            ("0002_x.sql, line 3: unknown function: normalize()", "app-defined"),
            ("0002_x.sql: no such collation sequence: NATURAL_CI", "app-defined"),
            ("0002_x.sql, line 9: error in view v: no such table: main.t", "view-in-the-way"),
            ("0002_x.sql, line 1: NOT NULL constraint failed: t.a", "fails-on-data"),
        ] {
            assert_eq!(fails("0002_x.sql", why).rule, rule);
        }
    }

    #[test]
    fn what_is_right_is_not_remarked_on() {
        for sql in [
            "CREATE TABLE a_new (b); INSERT INTO a_new (b) SELECT b FROM a; DROP TABLE a; ALTER TABLE a_new RENAME TO a;",
            "SELECT * FROM a",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET b = 1; END;",
            "INSERT INTO notes (t) VALUES ('PRAGMA foreign_keys; BEGIN; SELECT *')",
        ] {
            assert_eq!(rules(sql), [], "{sql}");
        }
    }
}
