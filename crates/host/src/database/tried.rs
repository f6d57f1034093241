//! The part of a run's rehearsal in which whole releases run on the copy: how it is asked for, and what its findings
//! mean for the run.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::check::Check;
use plimsoll_core::plan::{Loss, Rehearsal, Release, ReleaseId, Smoke};
use plimsoll_core::ports::{Failure, FailureKind};

use super::{AppFolder, Migrations, RunDatabase, failure, make_empty, ms};
use crate::durable;
use crate::rehearsal::{self, Candidate, Findings, Proof, Spec};
use crate::service::App;
use crate::sqlite::backup;
use crate::sqlite::copy::copy;
use crate::sqlite::migration::Migration;
use crate::sqlite::trial::Outcome;
use crate::sqlite::{Limits, compressed, lint, verify};

/// The folder of a rehearsal's own snapshot, in the run's.
const SNAPSHOT: &str = "snapshot";

/// How releases are tried on a copy.
pub struct Trying {
    /// How the app is run: `[service]` of kind `process`, or `[rehearsal].command`.
    pub app: App,
    /// `[rehearsal].env`, secrets revealed.
    pub env: BTreeMap<String, String>,
    /// The release that is live.
    pub old: Option<ReleaseId>,
    /// A release's whole folder.
    pub folder: AppFolder,
    /// `[[smoke]]`.
    pub smoke: Vec<Smoke>,
    /// `[front].public_url`.
    pub public_url: Option<String>,
    /// Folders of production beside those in the app's root.
    pub refused: Vec<PathBuf>,
    /// How this program is started to confine itself and become another.
    pub launcher: Vec<String>,
    /// For all of it.
    pub limit: Duration,
}

impl RunDatabase {
    fn trial(&self) -> PathBuf {
        self.settings.run_folder.join("scratch/trial.db")
    }

    /// The copy that everything is tried on: of this run's backup, made as the snapshot in the hold will be, so that
    /// its time foretells that one's.
    pub(super) fn copy_to_try(&self, exists: bool) -> Result<PathBuf, Failure> {
        let to = self.keep.scratch("trial.db")?;
        let (Some(backup), true) = (&self.backup, exists) else {
            make_empty(&to)?;
            return Ok(to);
        };
        let failed = |e: &crate::sqlite::Error| failure("the copy to rehearse on could not be made", e);
        let mut control = self.control(self.settings.stop.clone());
        let bytes = Some(backup.manifest.bytes);
        let unpacked = compressed::is(&backup.path)
            .then(|| compressed::unpack(&backup.path, bytes, &control.stop))
            .transpose()
            .map_err(|e| failed(&e))?;
        let from = unpacked.as_ref().map_or(backup.path.as_path(), |plain| plain.path());
        copy(from, &to, &Limits::default(), &mut control).map_err(|e| failed(&e))?;
        Ok(to)
    }

    /// The snapshot that a rehearsal alone works on: made and verified as a backup is, and gone with the run.
    pub(super) fn snapshot_to_rehearse(&mut self) -> Result<Vec<Check>, Failure> {
        let folder = self.settings.run_folder.join(SNAPSHOT);
        durable::create_dir(&folder, durable::PRIVATE_DIR)?;
        let request = backup::Request {
            run: Some(self.run_name()),
            ..backup::Request::new(&self.settings.file, folder, "rehearsal")
        };
        let mut control = self.control(self.settings.stop.clone());
        let made = backup::create(&request, &mut control)
            .map_err(|e| failure("the database could not be copied", &e))?;
        let (bytes, took) = (made.manifest.bytes, made.manifest.took_ms);
        self.backup = Some(made);
        let check =
            Check::pass("pre.staging", "A snapshot of production").with("bytes", bytes).with("ms", took);
        Ok(vec![check])
    }

    /// What one migration was seen to lose.
    pub(super) fn losses(&self, outcome: &Outcome) -> Vec<Loss> {
        let version = i64::try_from(outcome.version).ok();
        let loss = |loss: &crate::sqlite::census::Loss| Loss {
            word: loss.word.clone(),
            version,
            quantity: loss.quantity,
            detail: loss.detail.clone(),
            acknowledged_by: None,
        };
        outcome.losses.iter().map(loss).collect()
    }

    /// Says of each loss who acknowledged it, and gathers those that nobody did.
    pub(super) fn acknowledge(&self, rehearsal: &mut Rehearsal, checks: &mut Vec<Check>) {
        for loss in &mut rehearsal.losses {
            let named = |typed: &String| *typed == loss.word || Some(typed) == versioned(loss).as_ref();
            if !self.settings.acknowledged.iter().any(named) {
                continue;
            }
            loss.acknowledged_by = Some(self.settings.by.clone());
            checks.push(
                Check::pass("pre.review", format!("Acknowledged: {}", loss.word))
                    .with("by", self.settings.by.as_str())
                    .with("version", loss.version)
                    .with("quantity", loss.quantity)
                    .with("detail", loss.detail.as_str()),
            );
        }
        let open = rehearsal.losses.iter().filter(|loss| loss.acknowledged_by.is_none());
        rehearsal.unacknowledged = open.map(|loss| loss.word.clone()).collect();
    }

    /// Runs the new release and the old one on the copy, and notes what that means.
    pub(super) fn try_release(
        &mut self,
        release: &Release,
        rehearsal: &mut Rehearsal,
        checks: &mut Vec<Check>,
    ) -> Result<(), Failure> {
        let migrate = match &self.settings.migrations {
            Migrations::Commands(commands) => commands.clone(),
            Migrations::Folder(_) | Migrations::App => Vec::new(),
        };
        let by_itself = !matches!(self.settings.migrations, Migrations::Folder(_));
        let begun = Instant::now();
        let mut control = self.control(self.settings.stop.clone());
        // It is done in the hold too.
        verify::database(&self.trial(), &mut control)
            .map_err(|e| failure("the copy to rehearse on cannot be read", &e))?;
        let verified_ms = ms(begun.elapsed());
        let findings = self.findings(release, migrate);
        checks.extend(findings.checks.iter().cloned());
        if let Proof::Failed(failure) = &findings.new
            && failure.kind == FailureKind::Interrupted
        {
            return Err(failure.clone());
        }
        let proven = findings.new.is_proven();
        let changed = !findings.schema_changed_at_start.is_empty() || findings.changed_by_commands;
        rehearsal.migrates_itself = changed || (by_itself && !proven);
        let times = &findings.times;
        rehearsal.migrate_ms += times.migrate_ms.unwrap_or(0);
        rehearsal.restore_ms = times.restore_ms.unwrap_or(rehearsal.restore_ms);
        if let (Some(start), Some(stop), Some(smoke)) = (times.startup_ms, times.stop_ms, times.smoke_ms) {
            rehearsal.restart_ms = Some(start + stop + smoke + verified_ms);
            rehearsal.restart_old_ms = times.old_startup_ms.map(|old| old + stop);
        }
        rehearsal.code_only = match &findings.old_on_new {
            Proof::Proven => Some(true),
            Proof::Failed(_) => Some(false),
            Proof::NotTried(_) => None,
        };
        let known: Vec<String> = rehearsal.losses.iter().map(|loss| loss.word.clone()).collect();
        let new = findings.losses.into_iter().filter(|word| !known.contains(word));
        rehearsal.losses.extend(new.map(|word| Loss {
            word,
            version: None,
            quantity: 0,
            detail: "by the app itself, when it migrated the copy".to_owned(),
            acknowledged_by: None,
        }));
        Ok(())
    }

    fn findings(&self, release: &Release, migrate: Vec<Vec<String>>) -> Findings {
        let trying = match &self.settings.trying {
            Ok(trying) => trying,
            Err(why) => return Findings::not_tried(why),
        };
        let candidate = |id: &ReleaseId| Candidate { id: id.clone(), folder: (trying.folder)(id) };
        rehearsal::rehearse(&Spec {
            app: trying.app.clone(),
            env: trying.env.clone(),
            new: candidate(&release.id),
            // One whose folder is gone cannot be gone back to either.
            old: trying.old.as_ref().map(candidate).filter(|old| old.folder.is_dir()),
            copy: self.trial(),
            migrate,
            backup: self.backup.as_ref().map(|backup| backup.path.clone()),
            smoke: trying.smoke.clone(),
            public_url: trying.public_url.clone(),
            refused: trying.refused.clone(),
            launcher: trying.launcher.clone(),
            scratch: self.settings.run_folder.join("rehearsal"),
            log: self.settings.run_folder.join("rehearsal.log"),
            limit: trying.limit,
            stop: self.settings.stop.clone(),
            on_line: Arc::clone(&self.settings.on_line),
        })
    }

    /// Removes what a crash in the middle of a rehearsal left.
    pub(super) fn forget_rehearsal(&self) -> Result<(), Failure> {
        for name in ["rehearsal", SNAPSHOT] {
            let folder = self.settings.run_folder.join(name);
            match fs::remove_dir_all(&folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(super::io_failure("the rehearsal's folder", &folder, &e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What stands out in the migrations: dangers and warnings. Losses have a place of their own, and how long it may take
/// is for the strategy to say.
pub(super) fn remarked(pending: &[Migration], outcomes: &[Outcome]) -> Option<Check> {
    let texts = pending.iter().flat_map(lint::text);
    let seen = outcomes.iter().flat_map(|outcome| lint::tried(outcome, Duration::MAX));
    let mut remarks: Vec<_> =
        texts.chain(seen).filter(|r| r.severity != lint::Severity::Note && r.rule != "loss").collect();
    remarks.sort_by(|a, b| (a.severity, &a.file, a.line).cmp(&(b.severity, &b.file, b.line)));
    let check = Check::pass("pre.review", "What stands out in the migrations");
    (!remarks.is_empty()).then(|| rehearsal::with_remarks(check, &remarks))
}

/// The loss of one version alone: `7:drop:sso_nonce`.
fn versioned(loss: &Loss) -> Option<String> {
    loss.version.map(|version| format!("{version}:{}", loss.word))
}

/// How the release can be taken back, as far as the rehearsal has shown.
pub(super) fn mode(rehearsal: &Rehearsal) -> &'static str {
    match rehearsal.code_only {
        Some(true) => "undo before the commit point; code-only after it",
        Some(false) => "undo before the commit point; the data must go back with the code after it",
        None => "undo before the commit point; code-only after it while the schema is the same",
    }
}
