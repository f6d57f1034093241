//! Where a table can differ between two snapshots, page by page: an app changes few of its pages, and comparing bytes is
//! far cheaper than comparing rows.
//!
//! Only finished files are read here, past SQLite. Two leaves with the same number and the same bytes hold the same rows,
//! so only the row numbers below the other leaves need to be looked at. Whatever is not understood counts as different.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::sqlite::page_set::{self, PageSet};

/// Row numbers from the first to the second, both included.
pub(super) type Range = (i64, i64);

const INTERIOR: u8 = 0x05;
const LEAF: u8 = 0x0d;
/// How much is read at once; tables lie mostly in one piece.
const BLOCK: usize = 256 << 10;
/// Deeper than any tree that fits on a disk.
const DEEPEST: u32 = 24;

/// A finished database file.
pub(super) struct Pages {
    file: File,
    size: usize,
    /// The page size without what is reserved at its end.
    usable: usize,
    /// How text is stored.
    encoding: [u8; 4],
    count: u64,
    /// How much is read at once.
    step: usize,
    block: Vec<u8>,
    at: Option<u64>,
}

impl Pages {
    /// # Errors
    /// When it is no SQLite file, or cannot be read.
    pub(super) fn open(path: &Path) -> io::Result<Pages> {
        let file = File::open(path)?;
        let Some(size) = page_set::page_size(&file)? else { return Err(io::ErrorKind::InvalidData.into()) };
        let mut header = [0; 100];
        file.read_exact_at(&mut header, 0)?;
        let count = file.metadata()?.len() / size as u64;
        let usable = size - usize::from(header[20]);
        let encoding = [header[56], header[57], header[58], header[59]];
        Ok(Pages { file, size, usable, encoding, count, step: BLOCK, block: Vec::new(), at: None })
    }

    /// The same, for a few pages here and there.
    pub(super) fn here_and_there(self) -> Pages {
        Pages { step: self.size, at: None, ..self }
    }

    /// For all pages, or only those that lead to known ones.
    pub(super) fn for_known(self, known: bool) -> Pages {
        if known { self.here_and_there() } else { self }
    }

    /// Whether both have pages of the same kind, so that equal bytes are equal rows.
    pub(super) fn like(&self, other: &Pages) -> bool {
        self.size == other.size && self.usable == other.usable && self.encoding == other.encoding
    }

    /// How many pages there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The page size without what is reserved at its end.
    pub(super) fn usable(&self) -> usize {
        self.usable
    }

    /// The bytes of a page, from 1. `None` beyond the end.
    pub(super) fn page(&mut self, number: u32) -> io::Result<Option<&[u8]>> {
        let number = u64::from(number);
        if number == 0 || number > self.count {
            return Ok(None);
        }
        let offset = (number - 1) * self.size as u64;
        let block = offset / self.step as u64;
        if self.at != Some(block) {
            let start = block * self.step as u64;
            let length = (self.count * self.size as u64 - start).min(self.step as u64);
            self.block.resize(usize::try_from(length).unwrap_or(self.step), 0);
            self.at = None;
            self.file.read_exact_at(&mut self.block, start)?;
            self.at = Some(block);
        }
        let from = usize::try_from(offset % self.step as u64).unwrap_or(0);
        Ok(self.block.get(from..from + self.size))
    }
}

/// What is known of two files before they are read: outside these pages they are the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) unlike: &'a PageSet,
    /// Whether a page on which a long value goes on may be among them while the row's own page is not.
    pub(super) beyond: bool,
}

/// The row numbers of a table below which `one` and `two` can differ, in order; the table's tree begins at page `root` in
/// both. `None` when that cannot be told. Without `known` every page of the tree is read and compared; with it only
/// those that lead to a page that is not the same.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn differing(
    one: &mut Pages,
    two: &mut Pages,
    root: i64,
    known: Option<Known<'_>>,
) -> io::Result<Option<Vec<Range>>> {
    let Ok(root) = u32::try_from(root) else { return Ok(None) };
    if !one.like(two) || root < 2 {
        return Ok(None);
    }
    let mut ranges = Vec::new();
    let whole = (i64::MIN, i64::MAX);
    let level = match (level(one, root)?, level(two, root)?) {
        (Some(one), Some(two)) if one == two => one,
        (Some(_), Some(_)) => return Ok(Some(vec![whole])),
        _ => return Ok(None),
    };
    if !walk(one, two, root, whole, level, known, &mut ranges)? {
        return Ok(None);
    }
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::new();
    for (low, high) in ranges {
        match joined.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => joined.push((low, high)),
        }
    }
    Ok(Some(joined))
}

/// How many levels a table's tree has below a page; all its leaves lie equally deep. `None` when it is no such tree.
fn level(pages: &mut Pages, root: u32) -> io::Result<Option<u32>> {
    let mut number = root;
    for level in 0..=DEEPEST {
        let Some(page) = pages.page(number)? else { return Ok(None) };
        match page[0] {
            LEAF => return Ok(Some(level)),
            INTERIOR => match children(page, (i64::MIN, i64::MAX)).and_then(|below| below.first().copied()) {
                Some((first, _)) => number = first,
                None => return Ok(None),
            },
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Compares two trees below one page number, `level` levels above the leaves. `false` when a page is not what it should be.
fn walk(
    one: &mut Pages,
    two: &mut Pages,
    number: u32,
    range: Range,
    level: u32,
    known: Option<Known<'_>>,
    ranges: &mut Vec<Range>,
) -> io::Result<bool> {
    let usable = one.usable;
    let same = known.map(|known| !known.unlike.contains(number));
    if same == Some(true) && level == 0 && !known.is_some_and(|known| known.beyond) {
        return Ok(true);
    }
    let (Some(a), Some(b)) = (one.page(number)?, two.page(number)?) else { return Ok(false) };
    let same = same.unwrap_or_else(|| a == b);
    match (a[0], b[0], level) {
        (LEAF, LEAF, 0) if same => {
            // A long value goes on in other pages, which are not compared.
            if spills(a, usable).unwrap_or(true) {
                ranges.push(range);
            }
            Ok(true)
        }
        (INTERIOR, INTERIOR, 1..) => {
            let (Some(below_a), Some(below_b)) = (children(a, range), children(b, range)) else {
                return Ok(false);
            };
            for child in &below_b {
                if same
                    || below_a
                        .binary_search_by_key(&child.1, |other| other.1)
                        .is_ok_and(|at| below_a[at] == *child)
                {
                    if !walk(one, two, child.0, child.1, level - 1, known, ranges)? {
                        return Ok(false);
                    }
                } else {
                    ranges.push(child.1);
                }
            }
            if !same {
                let gone = |child: &&(u32, Range)| {
                    below_b
                        .binary_search_by_key(&child.1, |other| other.1)
                        .map_or(true, |at| below_b[at] != **child)
                };
                ranges.extend(below_a.iter().filter(gone).map(|child| child.1));
            }
            Ok(true)
        }
        (LEAF, LEAF, 0) => {
            ranges.push(range);
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The pages below an interior page and their row numbers, in order.
fn children(page: &[u8], (low, high): Range) -> Option<Vec<(u32, Range)>> {
    let cells = usize::from(u16::from_be_bytes([*page.get(3)?, *page.get(4)?]));
    let number = |at: usize| Some(u32::from_be_bytes(page.get(at..at + 4)?.try_into().ok()?));
    let mut found = Vec::with_capacity(cells + 1);
    let mut from = low;
    for cell in 0..cells {
        let pointer = 12 + 2 * cell;
        let at = usize::from(u16::from_be_bytes([*page.get(pointer)?, *page.get(pointer + 1)?]));
        let (key, _) = varint(page, at + 4)?;
        if key < from || key > high {
            return None;
        }
        found.push((number(at)?, (from, key)));
        from = key.checked_add(1)?;
    }
    found.push((number(8)?, (from, high)));
    Some(found)
}

/// Whether a row of a leaf goes on in other pages.
fn spills(page: &[u8], usable: usize) -> Option<bool> {
    let cells = usize::from(u16::from_be_bytes([*page.get(3)?, *page.get(4)?]));
    for cell in 0..cells {
        let pointer = 8 + 2 * cell;
        let at = usize::from(u16::from_be_bytes([*page.get(pointer)?, *page.get(pointer + 1)?]));
        let (payload, _) = varint(page, at)?;
        if usize::try_from(payload).map_or(true, |payload| payload > usable - 35) {
            return Some(true);
        }
    }
    Some(false)
}

/// SQLite's numbers of one to nine bytes, and where the next thing begins.
pub(super) fn varint(page: &[u8], at: usize) -> Option<(i64, usize)> {
    let mut value: u64 = 0;
    for place in 0..8 {
        let byte = *page.get(at + place)?;
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some((value.cast_signed(), at + place + 1));
        }
    }
    let last = *page.get(at + 8)?;
    Some(((value << 8 | u64::from(last)).cast_signed(), at + 9))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// Two files and the ranges in which `t` differs.
    fn changed(fill: &str, change: &str) -> (tempfile::TempDir, Option<Vec<Range>>) {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (one, two) = (dir.path().join("one.db"), dir.path().join("two.db"));
        let own = Connection::open(&one).unwrap();
        own.execute_batch(&format!("PRAGMA page_size = 1024; BEGIN; {fill} COMMIT;")).unwrap();
        drop(own);
        std::fs::copy(&one, &two).unwrap();
        let own = Connection::open(&two).unwrap();
        own.execute_batch(change).unwrap();
        let root = own.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 't'", [], |row| row.get(0));
        drop(own);
        let found =
            differing(&mut Pages::open(&one).unwrap(), &mut Pages::open(&two).unwrap(), root.unwrap(), None)
                .unwrap();
        (dir, found)
    }

    fn inside(ranges: &[Range], row: i64) -> bool {
        ranges.iter().any(|(low, high)| (*low..=*high).contains(&row))
    }

    const MANY: &str = "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT);
        WITH RECURSIVE n(i) AS (SELECT -20000 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO t SELECT i * 3, hex(zeroblob(20)) FROM n;";

    #[test]
    fn what_did_not_change_is_passed_over_and_what_did_is_found() {
        let (_dir, none) = changed(MANY, "CREATE TABLE other (x); INSERT INTO other VALUES (1);");
        assert_eq!(none, Some(Vec::new()));
        let change = "UPDATE t SET v = 'x' WHERE k = -300; DELETE FROM t WHERE k = 9000; INSERT INTO t VALUES (30001, 'n'), (90000, 'e'), (-70000, 'b');";
        let (_dir, found) = changed(MANY, change);
        let found = found.unwrap();
        for row in [-300, 9_000, 30_001, 90_000, -70_000] {
            assert!(inside(&found, row), "{row} is in none of {found:?}");
        }
        let rows: i64 = (-20_000..=20_000).filter(|row| inside(&found, row * 3)).count().try_into().unwrap();
        assert!(rows < 1_000, "{rows} of 40001 rows would be read: {found:?}");
    }

    /// The row is as long as before, and its leaf is the same to the byte: only the page on which it goes on differs.
    #[test]
    fn a_long_value_that_changed_beyond_its_leaf_is_found() {
        let fill = "CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB); INSERT INTO t VALUES (1, zeroblob(9000)), (2, zeroblob(10));";
        let (_dir, found) = changed(
            fill,
            "UPDATE t SET v = CAST(zeroblob(8990) || x'01020304050607080910' AS BLOB) WHERE k = 1;",
        );
        assert!(inside(&found.unwrap(), 1));
    }

    #[test]
    fn random_changes_are_all_inside() {
        use proptest::prelude::*;
        let acts = prop::collection::vec((0_u8..4, -700_i64..700), 1..60);
        proptest!(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() }, |(acts in acts)| {
            let fill = "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT);
                WITH RECURSIVE n(i) AS (SELECT -500 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                INSERT INTO t SELECT i, hex(zeroblob(abs(i % 60))) FROM n;";
            let change: String = acts.iter().map(|(what, row)| match what {
                0 => format!("DELETE FROM t WHERE k = {row};"),
                1 => format!("INSERT OR REPLACE INTO t VALUES ({row}, 'new');"),
                2 => format!("UPDATE t SET v = v || 'longer' WHERE k BETWEEN {row} AND {row} + 3;"),
                _ => format!("UPDATE OR IGNORE t SET k = k + 10000 WHERE k = {row};"),
            }).collect();
            let (dir, found) = changed(fill, &format!("BEGIN; {change} COMMIT;"));
            let found = found.unwrap();
            let own = Connection::open(dir.path().join("one.db")).unwrap();
            own.execute("ATTACH ?1 AS two", [dir.path().join("two.db").to_str().unwrap()]).unwrap();
            let sql = "SELECT k FROM (SELECT * FROM t EXCEPT SELECT * FROM two.t) UNION SELECT k FROM (SELECT * FROM two.t EXCEPT SELECT * FROM t)";
            let mut statement = own.prepare(sql).unwrap();
            for row in statement.query_map([], |row| row.get::<_, i64>(0)).unwrap() {
                let row = row.unwrap();
                prop_assert!(inside(&found, row), "{} is in none of {:?}", row, found);
            }
        });
    }

    #[test]
    fn another_page_size_or_another_kind_of_tree_is_not_guessed_at() {
        let (_dir, vacuumed) = changed(MANY, "PRAGMA page_size = 4096; VACUUM;");
        assert_eq!(vacuumed, None);
        let (_dir, without) = changed(
            "CREATE TABLE t (k TEXT PRIMARY KEY) WITHOUT ROWID; INSERT INTO t VALUES ('a');",
            "DELETE FROM t;",
        );
        assert_eq!(without, None);
    }
}
