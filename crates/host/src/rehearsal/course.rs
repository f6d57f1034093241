//! The course of a rehearsal: the new release, the old one, the restore; and what each has shown.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use plimsoll_core::check::Check;
use plimsoll_core::ports::{Failure, FailureKind};

use super::bench::Bench;
use super::tryout::Tried;
use super::{Findings, NEW, OLD, Proof, Spec, ms, old_code};
use crate::sqlite::census::Census;
use crate::sqlite::connection::{ForeignKeys, open_own, open_read};
use crate::sqlite::fingerprint::{Depth, Fingerprint};
use crate::sqlite::lint::Remark;
use crate::sqlite::restore::{self, Guard};
use crate::sqlite::schema::{self, Object};
use crate::sqlite::script::Named;
use crate::sqlite::{self, Control};

/// A rehearsal under way.
pub(super) struct Course<'a> {
    spec: &'a Spec,
    bench: Bench,
    findings: Findings,
    /// What stands out about the new release's changes of the schema.
    remarks: Vec<Remark>,
}

impl Course<'_> {
    pub(super) fn new(spec: &Spec, bench: Bench) -> Course<'_> {
        let mut findings = Findings::not_tried("it was not come to");
        findings.checks.clear();
        Course { spec, bench, findings, remarks: Vec::new() }
    }

    pub(super) fn run(mut self) -> Findings {
        let (spec, say) = (self.spec, Arc::clone(&self.spec.on_line));
        say(&format!("trying {} on a copy of the database", spec.new.id));
        self.findings.new = match self.new_release() {
            Ok(()) => Proof::Proven,
            Err(failure) => Proof::Failed(failure),
        };
        self.findings.confinement = self.bench.confinement();
        let new = self.new_check();
        self.findings.checks.insert(0, new);
        self.findings.old_on_new = match (&spec.old, &self.findings.new) {
            (None, _) => Proof::NotTried("there is no release before".to_owned()),
            (Some(_), Proof::Proven) => {
                say(&format!("trying {} on the migrated copy", self.old_id()));
                self.old_release()
            }
            (Some(_), _) => Proof::NotTried("the new release failed".to_owned()),
        };
        let old = self.old_check();
        self.findings.checks.push(old);
        if self.findings.new.is_proven() && spec.backup.is_some() {
            say("restoring the backup on a copy");
            let restored = self.restore();
            self.findings.checks.push(restored);
        }
        self.findings
    }

    fn old_id(&self) -> String {
        self.spec.old.as_ref().map(|old| old.id.0.clone()).unwrap_or_default()
    }

    /// Migrates, starts and asks the new release.
    fn new_release(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        let (folder, copied) = self.bench.copy(&self.spec.new)?;
        self.findings.times.copy_ms = Some(ms(begun.elapsed()));
        let mut census = self.census()?;
        if !self.spec.migrate.is_empty() {
            let content = self.content()?;
            let begun = Instant::now();
            self.bench.migrate(self.spec, &folder)?;
            self.findings.times.migrate_ms = Some(ms(begun.elapsed()));
            self.findings.changed_by_commands = content != self.content()?;
            let after = self.census()?;
            self.judge(&census, &after);
            census = after;
        }
        let objects = self.objects()?;
        let last = self.spec.old.is_none();
        let tried = self.bench.try_release(self.spec, &self.spec.new, &folder, last)?;
        self.findings.times.startup_ms = Some(tried.startup_ms);
        self.findings.times.stop_ms = Some(tried.stop_ms);
        self.findings.times.smoke_ms = Some(tried.smoke_ms);
        let after = self.objects()?;
        self.findings.schema_changed_at_start = differences(&objects, &after);
        if !self.findings.schema_changed_at_start.is_empty() {
            let now = self.census()?;
            self.judge(&census, &now);
        }
        let changed = &self.findings.schema_changed_at_start;
        self.remarks.extend(old_code::several(&self.spec.new.id.0, tried.processes, changed));
        self.review(&after);
        let verdict = tried.verdict(self.spec, &self.bench);
        self.take_smoke("On a copy: ", &tried);
        self.findings.checks.push(tried.opened.clone());
        self.findings.checks.extend(tried.patience);
        if !copied.notes.is_empty() {
            let notes = Check::pass("pre.staging", "The copy of the release").with("notes", copied.notes);
            self.findings.checks.push(notes.with("files", copied.files).with("bytes", copied.bytes));
        }
        verdict
    }

    fn take_smoke(&mut self, prefix: &str, tried: &Tried) {
        for check in &tried.smoke {
            let mut check = check.clone();
            check.id = "pre.staging".to_owned();
            check.name = format!("{prefix}{}", check.name);
            self.findings.checks.push(check);
        }
    }

    fn new_check(&self) -> Check {
        let (findings, confinement) = (&self.findings, &self.findings.confinement);
        let check = match &findings.new {
            Proof::Proven => Check::pass("pre.staging", NEW),
            Proof::Failed(failure) if failure.kind == FailureKind::Interrupted => {
                Check::unknown("pre.staging", NEW, failure.to_string())
            }
            Proof::Failed(failure) => {
                Check::fail("pre.staging", NEW, failure.to_string()).with("next", failure.next.as_str())
            }
            Proof::NotTried(why) => Check::unknown("pre.staging", NEW, why.as_str()),
        };
        check
            .with("release", self.spec.new.id.0.as_str())
            .with("filesystem", confinement.filesystem.as_str())
            .with("network", confinement.network.as_str())
            .with("sockets", confinement.sockets.as_str())
            .with("startup_ms", findings.times.startup_ms)
            .with("smoke_ms", findings.times.smoke_ms)
            .with("migrate_ms", findings.times.migrate_ms)
            .with("schema_changed_at_start", findings.schema_changed_at_start.clone())
            .with("losses", findings.losses.clone())
    }

    /// The old release: whatever comes of it, the deployment goes on.
    fn old_release(&mut self) -> Proof {
        let Some(old) = &self.spec.old else { return Proof::NotTried(String::new()) };
        let tried = self
            .bench
            .copy(old)
            .and_then(|(folder, _)| self.bench.try_release(self.spec, old, &folder, true));
        match tried {
            Ok(tried) => {
                self.findings.times.old_startup_ms = Some(tried.startup_ms);
                self.findings.checks.extend(tried.patience.clone());
                match tried.verdict(self.spec, &self.bench) {
                    Ok(()) => Proof::Proven,
                    Err(failure) => Proof::Failed(failure),
                }
            }
            Err(failure) => Proof::Failed(failure),
        }
    }

    fn old_check(&self) -> Check {
        let proven = |check: Check, word: &str| {
            check.with("code_only", word).with("startup_ms", self.findings.times.old_startup_ms)
        };
        match &self.findings.old_on_new {
            Proof::Proven => proven(Check::pass("pre.rollback", OLD), "proven"),
            Proof::Failed(failure) => {
                let said = format!("{failure} {}", self.bench.log.tail(40).join(" "));
                let remark = old_code::failure(&self.old_id(), &said);
                let check = Check::unknown("pre.rollback", OLD, failure.to_string());
                proven(old_code::with_remarks(check, remark.as_slice()), "refuted")
            }
            Proof::NotTried(why) => proven(Check::skipped("pre.rollback", OLD, why.as_str()), "not proven"),
        }
        .with("release", self.old_id())
    }

    /// An undo's restore: the backup into the migrated database, through SQLite.
    fn restore(&mut self) -> Check {
        let name = "The backup restored over the migrated copy";
        let (Some(backup), Some(database)) = (&self.spec.backup, self.bench.places.database()) else {
            return Check::skipped("pre.rollback", name, "there is no backup");
        };
        let begun = Instant::now();
        let options = restore::Options {
            app_stopped: true,
            keep: restore::Keep::Copy,
            ..restore::Options::new(self.bench.inside.join("tmp"))
        };
        let mut control = Control::quiet(self.bench.stop.clone());
        match restore::into(backup, database, Guard::Any, &options, &mut control) {
            Ok(restored) if restored.differences.is_empty() => {
                let took = ms(begun.elapsed());
                self.findings.times.restore_ms = Some(took);
                Check::pass("pre.rollback", name).with("ms", took)
            }
            Ok(restored) => Check::unknown("pre.rollback", name, restored.differences.join("; ")),
            Err(error) => Check::unknown("pre.rollback", name, error.to_string()),
        }
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(database) = self.bench.places.database() else { return Ok(None) };
        // Through a connection that may write: a copy that was killed leaves a log to be folded in.
        let mut connection = open_own(database, ForeignKeys::Off).map_err(|e| unreadable(&e))?;
        self.bench.stop.interrupts(&mut connection);
        read(&connection).map(Some).map_err(|e| {
            self.bench.over().unwrap_or_else(|| unreadable(&sqlite::Error::of(database, "reading", &e)))
        })
    }

    fn objects(&self) -> Result<Vec<Object>, Failure> {
        Ok(self.read(schema::objects)?.unwrap_or_default())
    }

    fn census(&self) -> Result<Option<Census>, Failure> {
        self.read(Census::take)
    }

    /// All that is in the copy: counts alone do not show a row that was changed.
    fn content(&self) -> Result<Option<Fingerprint>, Failure> {
        let Some(database) = self.bench.places.database() else { return Ok(None) };
        let mut control = Control::quiet(self.bench.stop.clone());
        let content = Fingerprint::of(database, Depth::Content, &mut control);
        content.map(Some).map_err(|e| self.bench.over().unwrap_or_else(|| unreadable(&e)))
    }

    fn judge(&mut self, before: &Option<Census>, after: &Option<Census>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        let changes = before.changes(after, &Named::in_script(""));
        self.findings.class = self.findings.class.max(Some(changes.class));
        self.findings.losses.extend(changes.losses.into_iter().map(|loss| loss.word));
        self.findings.losses.sort();
        self.findings.losses.dedup();
    }

    /// What becomes of production's schema.
    fn review(&mut self, after: &[Object]) {
        let name = "Schema before and after";
        let Some(live) = &self.spec.app.database else { return };
        let before = match open_read(live) {
            Ok(connection) => schema::objects(&connection).map_err(|e| e.to_string()),
            Err(sqlite::Error::Absent { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        };
        let check = match before {
            Ok(before) => Check::pass("pre.review", name).with("schema", differences(&before, after)),
            Err(why) => Check::unknown("pre.review", name, why),
        };
        if let Some(old) = &self.spec.old {
            // When that cannot be read, the old release itself says more: it is tried.
            let widened = self.widened(live).unwrap_or_default();
            self.remarks.extend(old_code::by_position(&old.folder, &widened));
        }
        self.findings.checks.push(old_code::with_remarks(check, &self.remarks));
    }

    /// The tables that have more columns than production's.
    fn widened(&self, live: &Path) -> Option<Vec<String>> {
        let before = schema::tables(&open_read(live).ok()?).ok()?;
        let after = self.read(schema::tables).ok()??;
        Some(schema::widened(&before, &after))
    }
}

fn unreadable(error: &sqlite::Error) -> Failure {
    Failure::failed("the rehearsal's copy of the database cannot be read", error.to_string(), error.hint())
}

/// In what the second differs from the first: `new table coupons`, `changed table orders`, `gone index by_total`.
fn differences(before: &[Object], after: &[Object]) -> Vec<String> {
    let find = |list: &[Object], object: &Object| -> Option<Object> {
        list.iter().find(|o| o.kind == object.kind && o.name == object.name).cloned()
    };
    let mut found: Vec<String> = after
        .iter()
        .filter_map(|now| match find(before, now) {
            None => Some(format!("new {} {}", now.kind, now.name)),
            Some(was) if was.sql != now.sql => Some(format!("changed {} {}", now.kind, now.name)),
            Some(_) => None,
        })
        .collect();
    let gone = before.iter().filter(|was| find(after, was).is_none());
    found.extend(gone.map(|was| format!("gone {} {}", was.kind, was.name)));
    found.sort();
    found
}
