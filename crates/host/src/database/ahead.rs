//! What a rollback with its data does before the hold, so that what is left in it follows what users changed and not how
//! large the database is: the database is copied, the one from before is copied and checked, and the two are compared.
//! In the hold the first copy is brought up to date by the log alone. With a rollback journal, or when the app's own
//! checkpoint had to go first, nothing of it is used and all is copied in the hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use plimsoll_core::ports::Failure;

use super::back::{Leg, options_of};
use super::{carried, failure, io_failure, ms};
use crate::sqlite::carry::{self, Carried, Staged};
use crate::sqlite::page_set::PageSet;
use crate::sqlite::since::Since;
use crate::sqlite::{Control, copy::settle};

/// Done before the hold.
pub(super) struct Ahead {
    /// Begun before the copy.
    since: Since,
    /// A finished copy of the database.
    now: PathBuf,
    staged: Staged,
    /// The pages of it that were brought up to date so far.
    changed: PageSet,
    /// How long it took to bring the copy up to date and to carry over, when that was tried.
    pub(super) snapshot_ms: u64,
    pub(super) carry_ms: u64,
}

/// What is left of it in the hold: the copy is PRE by now.
pub(super) struct Ready {
    pub(super) staged: Staged,
    /// The pages that changed since the copy was made.
    pub(super) changed: PageSet,
}

impl Ahead {
    /// Does it, and tries the rest on copies in the same folder. `None` when nothing of it would be of use in the hold.
    /// What is returned beside it is what going back would have done just now; its files are there.
    pub(super) fn prepare(
        since: Since,
        leg: &Leg,
        backup: &Path,
        folder: &Path,
        control: &mut Control<'_>,
    ) -> Result<Option<(Ahead, Carried)>, Failure> {
        let now = folder.join("now.db");
        // The kernel copies; where the file system shares blocks, at once. The backup itself stays as it was verified.
        fs::copy(backup, &now).map_err(|e| io_failure("a copy of the backup", &now, &e))?;
        settle(&now).map_err(|e| failure("a copy of the backup", &e))?;
        let synced = fs::File::open(&now).and_then(|file| file.sync_all());
        synced.map_err(|e| io_failure("a copy of the backup", &now, &e))?;
        let (out, aside) = (folder.join("post.db"), folder.join("set-aside.db"));
        let options = options_of(leg, &now, &out, &aside);
        let staged = carry::stage(&options, control).map_err(|e| carried::failed(&e))?;
        let trial = staged.copy(&options, control).map_err(|e| carried::failed(&e))?;
        let began = Instant::now();
        let brought =
            since.bring_up(&now).map_err(|e| failure("the copy could not be brought up to date", &e))?;
        let snapshot_ms = ms(began.elapsed());
        let Some(changed) = brought else { return Ok(None) };
        let began = Instant::now();
        let carried =
            carry::prepare_staged(&options, trial, &changed, control).map_err(|e| carried::failed(&e))?;
        let carry_ms = ms(began.elapsed());
        Ok(Some((Ahead { since, now, staged, changed, snapshot_ms, carry_ms }, carried)))
    }

    /// In the hold: makes PRE of the copy. `None`, and nothing is there, when all must be copied.
    pub(super) fn take_pre(self, pre: &Path) -> Result<Option<Ready>, Failure> {
        let failed = |e| failure("the final snapshot could not be taken", &e);
        let Some(mut changed) = self.since.bring_up(&self.now).map_err(failed)? else { return Ok(None) };
        changed.add(&self.changed);
        fs::rename(&self.now, pre).map_err(|e| io_failure("the final snapshot", pre, &e))?;
        crate::durable::sync_dir(pre.parent().unwrap_or(Path::new(".")))?;
        Ok(Some(Ready { staged: self.staged, changed }))
    }
}
