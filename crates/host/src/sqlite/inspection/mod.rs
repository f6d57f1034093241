//! A finished database looked at page by page, past SQLite: whether its pages, records and indexes are sound, and what its
//! tables hold. Each page is read once, on two threads, where SQLite's own check and reading every row take several passes.
//!
//! It has no last word against a file: whatever looks odd is left to SQLite's `integrity_check`, and so is what only SQL can
//! tell (conditions, expressions, an app's own collations). What it passes, `integrity_check` passes: a test compares the two
//! on random schemas and random damage.

mod file;
mod model;
mod page;
#[cfg(test)]
mod random;
mod record;
mod references;
mod rows;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::Error;
use super::control::{Control, Phase};
use super::fingerprint::{Content, Hashing};
use file::Pages;
pub(crate) use model::Left;
use model::Table;
use rows::Found;
use tree::{Branch, Walker};

/// What the pages of a sound file told.
#[derive(Debug)]
pub(crate) struct Seen {
    /// What tables hold; those that are missing here must be read through SQLite.
    pub(crate) tables: BTreeMap<String, Content>,
    /// The tables about which SQLite must say something too. Virtual tables are always among them.
    pub(crate) left: BTreeMap<String, Left>,
    /// The tables whose foreign keys SQLite must count. Those of all others point somewhere.
    pub(crate) references: BTreeSet<String>,
}

/// Looks at a finished file. `None` when SQLite must look at all of it: something is odd, or the file is of a kind that is
/// not known here.
///
/// # Errors
/// When it cannot be read, and when `control` says stop.
pub(crate) fn inspect(
    path: &Path,
    connection: &Connection,
    hashing: Hashing,
    control: &mut Control<'_>,
) -> Result<Option<Seen>, Error> {
    match look(path, connection, hashing, control) {
        Ok(seen) => Ok(seen),
        Err(Trouble::Odd(_)) => Ok(None),
        Err(Trouble::Sql(e)) if e.sqlite_error_code() != Some(ErrorCode::OperationInterrupted) => Ok(None),
        Err(Trouble::Sql(e)) => Err(super::fingerprint::interrupted(path, &e, &control.stop)),
        Err(Trouble::Io(e)) => Err(Error::io(path, "read", e)),
        Err(Trouble::Stopped(e)) => Err(e),
    }
}

/// Why the pages did not tell all.
#[derive(Debug)]
enum Trouble {
    /// Something is not as it should be, or not known here.
    #[allow(dead_code, reason = "what it was is for whoever debugs this; SQLite's own words are for people")]
    Odd(String),
    Io(io::Error),
    Sql(rusqlite::Error),
    Stopped(Error),
}

impl Trouble {
    fn odd(what: &str) -> Trouble {
        Trouble::Odd(what.to_owned())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Trouble::odd("the end of the file"),
            _ => Trouble::Io(error),
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Trouble {
        Trouble::Sql(error)
    }
}

/// What one thread does at a time.
#[derive(Clone, Copy, Debug)]
enum Task {
    /// A part of a table whose rows have numbers.
    Rows(usize, Branch),
    /// A table without row numbers.
    Entries(usize),
    /// An index of a table.
    Index(usize, usize),
}

/// More than two would be in the way of the app, and the disk is not faster for more.
const THREADS: usize = 2;

fn look(
    path: &Path,
    connection: &Connection,
    hashing: Hashing,
    control: &mut Control<'_>,
) -> Result<Option<Seen>, Trouble> {
    let Some(pages) = Pages::open(path)? else { return Ok(None) };
    let tables = model::read(connection)?;
    let (given_up, looked) = (AtomicBool::new(false), AtomicU64::new(0));
    let stop = control.stop.clone();
    let each = || -> Result<(), Trouble> {
        if looked.fetch_add(1, Ordering::Relaxed).is_multiple_of(64) {
            stop.check("checking the copy").map_err(Trouble::Stopped)?;
            if given_up.load(Ordering::Relaxed) {
                return Err(Trouble::odd("another thread found something"));
            }
        }
        Ok(())
    };
    let tasks = tasks(&pages, &tables, &each)?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<Found, Trouble> {
        let mut walker = Walker::new(&pages, &each);
        let mut found = Found::new(&tables, hashing);
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            match *task {
                Task::Rows(table, branch) => {
                    let depth =
                        walker.rows(branch, &mut |row, record| found.row(table, Some(row), record))?;
                    found.depth(table, depth)?;
                }
                Task::Entries(table) => {
                    let mut order = found.order(&tables[table]);
                    walker.entries(tables[table].root, 0, &mut |record| {
                        order.next(record)?;
                        found.row(table, None, record)
                    })?;
                }
                Task::Index(table, index) => {
                    let root = tables[table].indexes[index].root;
                    walker.entries(root, 0, &mut |record| found.entry(table, index, record))?;
                    found.next_index();
                }
            }
        }
        Ok(found)
    };
    let all = thread::scope(|scope| {
        let (sender, results) = channel();
        for _ in 0..THREADS {
            let sender = sender.clone();
            let work = &work;
            let given_up = &given_up;
            scope.spawn(move || {
                let found = work();
                given_up.fetch_or(found.is_err(), Ordering::Relaxed);
                // It fails only when nobody waits any more.
                let _ = sender.send(found);
            });
        }
        drop(sender);
        let mut all: Result<Option<Found>, Trouble> = Ok(None);
        loop {
            match results.recv_timeout(Duration::from_millis(100)) {
                Ok(found) => {
                    all = match (all, found) {
                        (Ok(None), Ok(found)) => Ok(Some(found)),
                        (Ok(Some(one)), Ok(two)) => Ok(Some(one.join(two))),
                        // What stopped the other one matters more than that it was stopped.
                        (Err(Trouble::Odd(_)) | Ok(_), Err(e)) | (Err(e), _) => Err(e),
                    };
                }
                Err(RecvTimeoutError::Timeout) => {
                    let looked = looked.load(Ordering::Relaxed).min(pages.count.into());
                    control.tell(Phase::Checking, looked, pages.count.into(), "pages");
                }
                Err(RecvTimeoutError::Disconnected) => return all,
            }
        }
    })?;
    pages.all_met()?;
    match all {
        Some(all) => all.judge(&tables).map(Some),
        None => Err(Trouble::odd("a thread ended early")),
    }
}

/// Meets what belongs to no tree, and says what there is to walk, the largest first.
fn tasks(
    pages: &Pages,
    tables: &[Table],
    each: &(dyn Fn() -> Result<(), Trouble> + Sync),
) -> Result<Vec<Task>, Trouble> {
    let mut walker = Walker::new(pages, each);
    pages.free(&mut walker.map)?;
    let (mut tasks, mut highest) = (Vec::new(), 0);
    for (place, table) in tables.iter().enumerate().filter(|(_, table)| table.root != 0) {
        for root in table.indexes.iter().map(|index| index.root).chain([table.root]) {
            if root == 0 || root > pages.count {
                return Err(Trouble::odd("a root page"));
            }
            if root > 1 {
                pages.expect(root, file::Role::Root, 0, &mut walker.map)?;
            }
            highest = highest.max(root);
        }
        if table.without_rowid {
            tasks.push(Task::Entries(place));
        } else {
            let branches = walker.branches(table.root)?;
            tasks.extend(branches.into_iter().map(|branch| Task::Rows(place, branch)));
        }
        tasks.extend((0..table.indexes.len()).map(|index| Task::Index(place, index)));
    }
    pages.expect_highest_root(highest)?;
    // An index is walked by one thread: begun late, it would be waited for.
    tasks.sort_by_key(|task| matches!(task, Task::Rows(..)));
    Ok(tasks)
}
