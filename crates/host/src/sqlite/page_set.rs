//! Which pages of a database file are meant: those in which two files differ, or those that a log holds.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use super::Stop;

/// Page numbers, from 1.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PageSet {
    bits: Vec<u64>,
}

impl PageSet {
    fn place(page: u32) -> (usize, u64) {
        ((page / 64) as usize, 1 << (page % 64))
    }

    pub(crate) fn insert(&mut self, page: u32) {
        let (word, bit) = PageSet::place(page);
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= bit;
    }

    pub(crate) fn contains(&self, page: u32) -> bool {
        let (word, bit) = PageSet::place(page);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Adds those of another set.
    pub(crate) fn add(&mut self, other: &PageSet) {
        if self.bits.len() < other.bits.len() {
            self.bits.resize(other.bits.len(), 0);
        }
        for (bits, more) in self.bits.iter_mut().zip(&other.bits) {
            *bits |= more;
        }
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let words = self.bits.iter().enumerate().filter(|(_, bits)| **bits != 0);
        words.flat_map(|(word, bits)| {
            let first = u32::try_from(word * 64).unwrap_or(u32::MAX);
            (0..64).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| first + bit)
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bits.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|bits| *bits == 0)
    }
}

/// The page size in a database file's header; `None` when it is no SQLite file.
pub(crate) fn page_size(file: &File) -> io::Result<Option<usize>> {
    let mut header = [0; 100];
    match file.read_exact_at(&mut header, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => usize::from(size),
    };
    let sane = (512..=65_536).contains(&size) && size.is_power_of_two();
    Ok((&header[..16] == b"SQLite format 3\0" && sane).then_some(size))
}

/// How much is compared at once; a multiple of every page size.
const BLOCK: usize = 1 << 20;

/// The pages in which two finished files differ, those that only one of them has included. `None` when their pages cannot
/// be told apart by their place: another page size, or no database.
///
/// # Errors
/// When a file cannot be read, or when it is time to stop.
pub(crate) fn unlike(one: &Path, two: &Path, stop: &Stop) -> io::Result<Option<PageSet>> {
    let open = |path: &Path| -> io::Result<(File, u64)> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    let (a, b) = (open(one)?, open(two)?);
    let (Some(size), Some(same)) = (page_size(&a.0)?, page_size(&b.0)?) else { return Ok(None) };
    if size != same || a.1 % size as u64 != 0 || b.1 % size as u64 != 0 {
        return Ok(None);
    }
    let (shorter, longer) = (a.1.min(b.1), a.1.max(b.1));
    // Half of the blocks each: comparing is as fast as memory, and two cores have more of it.
    let half = (shorter / 2).next_multiple_of(BLOCK as u64).min(shorter);
    let part = |from: u64, to: u64| -> io::Result<PageSet> {
        let mut set = PageSet::default();
        let mut blocks = (vec![0; BLOCK], vec![0; BLOCK]);
        let mut at = from;
        while at < to {
            if stop.wanted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let length = usize::try_from((to - at).min(BLOCK as u64)).unwrap_or(BLOCK);
            let (left, right) = (&mut blocks.0[..length], &mut blocks.1[..length]);
            a.0.read_exact_at(left, at)?;
            b.0.read_exact_at(right, at)?;
            if left != right {
                let first = at / size as u64 + 1;
                for (number, (left, right)) in left.chunks(size).zip(right.chunks(size)).enumerate() {
                    if left != right {
                        set.insert(u32::try_from(first + number as u64).unwrap_or(u32::MAX));
                    }
                }
            }
            at += length as u64;
        }
        Ok(set)
    };
    let mut set = thread::scope(|scope| -> io::Result<PageSet> {
        let other = scope.spawn(|| part(half, shorter));
        let mut set = part(0, half)?;
        set.add(&other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        Ok(set)
    })?;
    for page in shorter / size as u64 + 1..=longer / size as u64 {
        set.insert(u32::try_from(page).unwrap_or(u32::MAX));
    }
    Ok(Some(set))
}

/// The pages that a write-ahead log holds, those of transactions that were rolled back or not finished included: more than
/// are in force, never fewer. `None` when it is not there, or no log with pages of this size.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn logged(log: &Path, size: usize) -> io::Result<Option<PageSet>> {
    let file = match File::open(log) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let length = file.metadata()?.len();
    let mut header = [0; 32];
    if length < 32 {
        return Ok(Some(PageSet::default()));
    }
    file.read_exact_at(&mut header, 0)?;
    let word = |from: usize| {
        u32::from_be_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]])
    };
    // Either order of the checksum's bytes.
    if word(0) & !1 != 0x377f_0682 || word(8) as usize != size {
        return Ok(None);
    }
    let mut set = PageSet::default();
    let frame = 24 + size as u64;
    let mut at = 32;
    while at + frame <= length {
        let mut head = [0; 16];
        file.read_exact_at(&mut head, at)?;
        // Frames with other salts are left over from before the log began anew.
        if head[8..16] == header[16..24] {
            set.insert(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        }
        at += frame;
    }
    Ok(Some(set))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::connection::beside;
    use super::*;

    #[test]
    fn a_set_of_pages_holds_what_was_put_in() {
        let mut set = PageSet::default();
        for page in [1, 64, 65, 4_000_000] {
            set.insert(page);
        }
        let mut more = PageSet::default();
        more.insert(7);
        set.add(&more);
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 7, 64, 65, 4_000_000]);
        assert!(set.contains(64) && !set.contains(63) && set.len() == 5);
    }

    /// Whatever was committed is in the log's set, and the two files differ in no other page.
    #[test]
    fn pages_that_differ_are_those_that_the_log_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one.db"), dir.path().join("two.db"));
        let own = Connection::open(&one).unwrap();
        own.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000) INSERT INTO t SELECT i, hex(zeroblob(30)) FROM n";
        own.execute_batch(&format!("CREATE TABLE t (k INTEGER PRIMARY KEY, v); {fill};")).unwrap();
        own.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        std::fs::copy(&one, &two).unwrap();
        own.execute_batch("UPDATE t SET v = 'x' WHERE k IN (1, 20000); DELETE FROM t WHERE k > 39000; INSERT INTO t VALUES (-5, 'a')").unwrap();
        let held = logged(&beside(&one, "-wal"), 4096).unwrap().unwrap();
        drop(own);
        let found = unlike(&one, &two, &Stop::new()).unwrap().unwrap();
        assert!(!found.is_empty() && found.iter().all(|page| held.contains(page)), "{found:?} {held:?}");
        assert!(found.len() < 60, "{}", found.len());
        assert_eq!(logged(&beside(&one, "-wal"), 4096).unwrap(), None, "none is there any more");
    }
}
