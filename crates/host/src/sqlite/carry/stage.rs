//! What has to go through the whole database is done before anybody waits: PRE is copied and checked, and POST is compared
//! with the database as it is. What is left is as much work as there are changes.
//!
//! The copy is in WAL mode until it is finished: its log says which of its pages are no longer those of PRE, and only
//! those need to be looked at again.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::pages::Pages;
use super::trees;
use super::{Error, Options, Side, clone, gates};
use crate::sqlite::connection::{beside, open_finished};
use crate::sqlite::page_set::{self, PageSet};
use crate::sqlite::partial::Partial;
use crate::sqlite::{Control, Phase, Stop};

/// What was done beforehand. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Staged {
    out: Partial,
    pre: PathBuf,
    post: PathBuf,
    /// Where PRE and POST differ, and whether long values may differ besides.
    moved: Option<(PageSet, bool)>,
    /// Where POST and the database differed.
    since: Option<PageSet>,
    /// The pages of POST that no long value goes on on.
    seats: Option<PageSet>,
    unchecked: Vec<String>,
}

/// What a carry-over may take as known.
#[derive(Debug, Default)]
pub(super) struct Basis {
    pub(super) moved: Option<(PageSet, bool)>,
    pub(super) since: Option<(PageSet, bool)>,
    pub(super) unchecked: Vec<String>,
}

impl Staged {
    /// Whether it is of these two snapshots.
    #[must_use]
    pub fn is_of(&self, pre: &Path, post: &Path) -> bool {
        self.pre == pre && self.post == post
    }

    /// The same for a trial, on a copy that is not checked again.
    ///
    /// # Errors
    /// As [`stage`].
    pub fn copy(&self, options: &Options<'_>, control: &mut Control<'_>) -> Result<Staged, Error> {
        let out = begun(options)?;
        drop(clone::finished(self.out.path(), &out, &options.limits, control)?);
        Ok(Staged {
            out,
            pre: self.pre.clone(),
            post: self.post.clone(),
            moved: self.moved.clone(),
            since: self.since.clone(),
            seats: self.seats.clone(),
            unchecked: self.unchecked.clone(),
        })
    }

    pub(super) fn into_parts(self, post: &Path, changed: &PageSet) -> (Partial, Basis) {
        let since = self.since.zip(self.seats).map(|(mut unlike, seats)| {
            unlike.add(changed);
            let beyond = beyond(post, &seats, &unlike);
            (unlike, beyond)
        });
        (self.out, Basis { moved: self.moved, since, unchecked: self.unchecked })
    }
}

/// What cannot be told counts as yes: more is read then.
fn beyond(post: &Path, seats: &PageSet, unlike: &PageSet) -> bool {
    let told = Pages::open(post).and_then(|pages| trees::beyond(&mut pages.here_and_there(), seats, unlike));
    told.unwrap_or(true)
}

/// Does what can be done before the writers are held. [`Options::now`] is a finished copy of the database as it is.
///
/// # Errors
/// As [`prepare`](super::prepare); no file is left.
pub fn stage(options: &Options<'_>, control: &mut Control<'_>) -> Result<Staged, Error> {
    let (Side::Finished(now) | Side::Live(now)) = options.now;
    let out = begun(options)?;
    let copy = clone::finished(options.pre, &out, &options.limits, control)?;
    let write = |e| crate::sqlite::Error::io(out.path(), "sync", e);
    copy.sync_data().map_err(write)?;
    drop(copy);
    control.tell(Phase::Checking, 0, 1, "databases");
    let mut unchecked = Vec::new();
    let stop = control.stop.clone();
    let mut connection = open_finished(out.path())?;
    control.stop.interrupts(&mut connection);
    match gates::whole(&connection)
        .map_err(|e| crate::sqlite::fingerprint::interrupted(out.path(), &e, &stop))?
    {
        Ok(problems) if problems.is_empty() => {}
        Ok(failures) => return Err(Error::Gate { failures }),
        Err(why) => unchecked.push(format!("the result's integrity could not be checked: {why}")),
    }
    drop(connection);
    control.tell(Phase::Checking, 1, 1, "databases");
    // What cannot be read past SQLite is compared row by row later.
    let seats = seats(options.post).ok().flatten();
    let unlike = |one: &Path, two: &Path| page_set::unlike(one, two, &Stop::clone(&stop)).ok().flatten();
    let moved = unlike(options.pre, options.post).map(|unlike| {
        let beyond = seats.as_ref().is_none_or(|seats| beyond(options.post, seats, &unlike));
        (unlike, beyond)
    });
    let since = unlike(options.post, now);
    stop.check("comparing pages")?;
    Ok(Staged {
        out,
        pre: options.pre.to_owned(),
        post: options.post.to_owned(),
        moved,
        since,
        seats,
        unchecked,
    })
}

fn begun(options: &Options<'_>) -> Result<Partial, Error> {
    let folder =
        options.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(Partial::new(folder, &options.out.file_name().unwrap_or_default().to_string_lossy())?)
}

fn seats(post: &Path) -> Result<Option<PageSet>, Box<dyn std::error::Error>> {
    let connection = open_finished(post)?;
    let mut statement = connection.prepare("SELECT rootpage FROM sqlite_schema WHERE rootpage > 0")?;
    let roots = statement.query_map([], |row| row.get(0))?;
    let roots = std::iter::once(Ok(1)).chain(roots).collect::<rusqlite::Result<Vec<u32>>>()?;
    Ok(trees::seats(&mut Pages::open(post)?.here_and_there(), &roots)?)
}

/// From here on whatever is written goes to the log alone.
pub(super) fn log_only(connection: &Connection) -> rusqlite::Result<()> {
    let set = |sql: &str| connection.query_row(sql, [], |_| Ok(()));
    set("PRAGMA main.journal_mode = WAL")?;
    set("PRAGMA main.wal_autocheckpoint = 0")
}

/// Puts the log into the file and makes it one without a log again. Returns the pages that it held, and the first one;
/// `None` when that is unknown.
pub(super) fn fold_in(connection: &Connection, out: &Path) -> Result<Option<PageSet>, Error> {
    let failed = |e: rusqlite::Error| crate::sqlite::Error::of(out, "finishing the result", &e);
    let size: i64 = connection.query_row("PRAGMA main.page_size", [], |row| row.get(0)).map_err(failed)?;
    let mode: String =
        connection.query_row("PRAGMA main.journal_mode", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Ok(None);
    }
    let log = beside(out, "-wal");
    let held = page_set::logged(&log, usize::try_from(size).unwrap_or(0));
    let mut held = held.map_err(|e| crate::sqlite::Error::io(&log, "read", e))?;
    if let Some(held) = &mut held {
        // Its header says what mode the file is in.
        held.insert(1);
    }
    let mode: String =
        connection.query_row("PRAGMA main.journal_mode = DELETE", [], |row| row.get(0)).map_err(failed)?;
    if mode != "delete" {
        let why = format!("it stayed in journal mode {mode}");
        let (path, doing) = (out.to_owned(), "finishing the result".into());
        return Err(crate::sqlite::Error::Sqlite { path, doing, why }.into());
    }
    Ok(held)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::Case;
    use super::super::{Carried, Rename, prepare_staged};
    use super::*;
    use crate::sqlite::Limits;
    use crate::sqlite::fingerprint::{Depth, Fingerprint};
    use crate::sqlite::restore::{self, Guard};

    /// What was done ahead gives the same result, and put in place page by page it is the same database.
    pub(in super::super) fn the_same_ahead(case: &Case, carried: &Carried, renames: &[Rename]) {
        let folder = tempfile::tempdir_in(case.dir.path().parent().unwrap()).unwrap();
        let at = |name: &str| folder.path().join(name);
        let (pre, post, now) = (case.path("pre"), case.path("post"), case.path("now"));
        let (out, aside) = (at("out.db"), at("aside.db"));
        // The database was still as the migration left it, or nothing came any more.
        let early = if carried.tables.len().is_multiple_of(2) { &post } else { &now };
        let options = |now| Options {
            pre: &pre,
            post: &post,
            now: Side::Finished(now),
            out: &out,
            aside: &aside,
            renames,
            skip: &[],
            hash_now: false,
            limits: Limits::default(),
        };
        let Some(changed) = page_set::unlike(early, &now, &Stop::new()).unwrap() else { return };
        let mut control = Control::default();
        let staged = stage(&options(early), &mut control).unwrap();
        let again = prepare_staged(&options(&now), staged, &changed, &mut control).unwrap();
        assert_eq!(
            (&again.tables, &again.rewritten, &again.reusable),
            (&carried.tables, &carried.rewritten, &carried.reusable)
        );
        let holds = |path: &Path| Fingerprint::of(path, Depth::Content, &mut Control::default()).unwrap();
        let (long, short) = (holds(&carried.out), holds(&out));
        assert_eq!(long.differences(&short), [], "done ahead and done at once");
        let live = at("live.db");
        std::fs::copy(&now, &live).unwrap();
        let mode = if carried.tables.len().is_multiple_of(3) { "WAL" } else { "DELETE" };
        Connection::open(&live)
            .unwrap()
            .query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(()))
            .unwrap();
        let put = restore::Options {
            app_stopped: true,
            keep: restore::Keep::Is(now.clone()),
            checked: true,
            only: again.differ.clone(),
            ..restore::Options::new(folder.path())
        };
        assert!(again.differ.is_some() || page_set::unlike(&pre, &post, &Stop::new()).unwrap().is_none());
        let restored = restore::into(&out, &live, Guard::Any, &put, &mut control).unwrap();
        assert_eq!(restored.differences, Vec::<String>::new());
        assert_eq!(holds(&live).differences(&short), [], "put in place page by page");
        let sound = gates::whole(&open_finished(&live).unwrap()).unwrap();
        assert!(sound.as_ref().map_or(true, Vec::is_empty), "{sound:?}");
    }

    const FILL: &str = "CREATE TABLE t (k INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT); CREATE INDEX ti ON t (v);
        CREATE TABLE bag (v); CREATE TABLE c (code TEXT PRIMARY KEY, v) WITHOUT ROWID;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) INSERT INTO t SELECT i, 'value ' || i FROM n;
        INSERT INTO bag SELECT k % 50 FROM t; INSERT INTO c SELECT 'c' || k, k FROM t WHERE k < 300;
        INSERT INTO t (v) VALUES (hex(zeroblob(6000)));";

    /// Staged on the database as it was at some moment, carried with what came since.
    fn staged(case: &Case, later: &str) -> Carried {
        let (pre, post, now) = (case.path("pre"), case.path("post"), case.path("now"));
        let before = case.path("before");
        std::fs::copy(&now, &before).unwrap();
        let (out, aside) = (case.path("out"), case.path("aside"));
        let options = |now| Options {
            pre: &pre,
            post: &post,
            now: Side::Finished(now),
            out: &out,
            aside: &aside,
            renames: &[],
            skip: &[],
            hash_now: false,
            limits: Limits::default(),
        };
        let mut control = Control::default();
        let staged = stage(&options(&before), &mut control).unwrap();
        assert!(staged.is_of(&pre, &post) && staged.since.is_some() && staged.seats.is_some());
        Connection::open(&now).unwrap().execute_batch(later).unwrap();
        let changed = page_set::unlike(&before, &now, &Stop::new()).unwrap().unwrap();
        prepare_staged(&options(&now), staged, &changed, &mut control).unwrap()
    }

    #[test]
    fn what_came_after_the_staging_is_carried_too_and_nothing_is_left() {
        let case = Case::new(
            FILL,
            "ALTER TABLE t ADD COLUMN late;",
            "INSERT INTO t (v) VALUES ('early'); UPDATE t SET v = 'x' WHERE k = 5000; DELETE FROM bag WHERE rowid = 100;",
        );
        let carried = staged(
            &case,
            "INSERT INTO t (v) VALUES ('later'), (hex(zeroblob(7000))); DELETE FROM t WHERE k = 7; INSERT INTO bag VALUES ('b');
             UPDATE c SET v = -1 WHERE code = 'c9'; UPDATE t SET v = CAST(hex(zeroblob(5990)) || '12345678901234567890' AS TEXT) WHERE k = 9001;",
        );
        assert!(carried.set_aside.is_none(), "{carried:?}");
        let holds =
            |name: &str| Fingerprint::of(&case.path(name), Depth::Content, &mut Control::default()).unwrap();
        let (out, now) = (holds("out"), holds("now"));
        for table in ["bag", "c"] {
            assert_eq!(out.tables[table], now.tables[table], "{table}");
        }
        let rows = |name: &str| -> (i64, i64, String) {
            let own = open_finished(&case.path(name)).unwrap();
            own.query_row("SELECT count(*), sum(k), group_concat(v ORDER BY k) FROM t", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .unwrap()
        };
        assert!(rows("out") == rows("now"));
        let mut names: Vec<_> =
            std::fs::read_dir(case.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["before.db", "now.db", "out.db", "post.db", "pre.db"]);
    }

    #[test]
    fn a_backup_that_is_damaged_is_found_out_before_anybody_waits() {
        let case = Case::new(FILL, "", "");
        let mut bytes = std::fs::read(case.path("pre")).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 4096].fill(7);
        std::fs::write(case.path("pre"), bytes).unwrap();
        let (pre, post, now) = (case.path("pre"), case.path("post"), case.path("now"));
        let (out, aside) = (case.path("out"), case.path("aside"));
        let options = Options {
            pre: &pre,
            post: &post,
            now: Side::Finished(&now),
            out: &out,
            aside: &aside,
            renames: &[],
            skip: &[],
            hash_now: false,
            limits: Limits::default(),
        };
        assert!(stage(&options, &mut Control::default()).is_err());
        assert_eq!(std::fs::read_dir(case.dir.path()).unwrap().count(), 3);
    }
}
