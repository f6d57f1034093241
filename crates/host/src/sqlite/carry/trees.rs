//! What the trees of a database file hold, told by the pages above their leaves: a leaf is read only where it may differ.
//!
//! As in [`super::pages`], only finished files are read here, past SQLite, and whatever is not understood is `None`.

use std::collections::BTreeSet;
use std::io;

use super::pages::{Pages, varint};
use crate::sqlite::page_set::PageSet;

const INDEX_INTERIOR: u8 = 0x02;
const TABLE_INTERIOR: u8 = 0x05;
const INDEX_LEAF: u8 = 0x0a;
const TABLE_LEAF: u8 = 0x0d;
/// Deeper than any tree that fits on a disk.
const DEEPEST: u32 = 24;

/// A page of a tree.
struct Node {
    kind: u8,
    /// Where its cells are.
    cells: Vec<usize>,
    /// The last page below.
    last: Option<u32>,
    bytes: Vec<u8>,
}

impl Node {
    /// `None` when it is no page of a tree.
    fn read(pages: &mut Pages, number: u32) -> io::Result<Option<Node>> {
        let usable = pages.usable();
        let Some(bytes) = pages.page(number)?.map(<[u8]>::to_vec) else { return Ok(None) };
        Ok(Node::of(bytes, if number == 1 { 100 } else { 0 }, usable))
    }

    fn of(bytes: Vec<u8>, start: usize, usable: usize) -> Option<Node> {
        let kind = *bytes.get(start)?;
        let interior = match kind {
            INDEX_INTERIOR | TABLE_INTERIOR => true,
            INDEX_LEAF | TABLE_LEAF => false,
            _ => return None,
        };
        let short = |at: usize| Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
        let count = short(start + 3)?;
        let first = start + if interior { 12 } else { 8 };
        let mut cells = Vec::with_capacity(count);
        for cell in 0..count {
            let at = short(first + 2 * cell)?;
            if at < first + 2 * count || at >= usable {
                return None;
            }
            cells.push(at);
        }
        let last = if interior { Some(long(&bytes, start + 8)?) } else { None };
        Some(Node { kind, cells, last, bytes })
    }

    fn is_index(&self) -> bool {
        matches!(self.kind, INDEX_INTERIOR | INDEX_LEAF)
    }

    /// The pages below, in order; none below a leaf.
    fn below(&self) -> Option<Vec<u32>> {
        let Some(last) = self.last else { return Some(Vec::new()) };
        let mut below = self.cells.iter().map(|at| long(&self.bytes, *at)).collect::<Option<Vec<_>>>()?;
        below.push(last);
        Some(below)
    }

    /// Rows of a table, or entries of an index, on this page itself.
    fn rows(&self) -> i64 {
        if self.kind == TABLE_INTERIOR { 0 } else { i64::try_from(self.cells.len()).unwrap_or(i64::MAX) }
    }

    /// Row numbers rise.
    fn in_order(&self) -> Option<bool> {
        let mut before: Option<i64> = None;
        for at in self.cells.iter().filter(|_| !self.is_index()) {
            let number = match self.kind {
                TABLE_INTERIOR => varint(&self.bytes, at + 4)?.0,
                _ => varint(&self.bytes, varint(&self.bytes, *at)?.1)?.0,
            };
            if before.is_some_and(|before| before >= number) {
                return Some(false);
            }
            before = Some(number);
        }
        Some(true)
    }

    /// The first page on which each long value of this page goes on.
    fn long_values(&self, usable: usize) -> Option<Vec<u32>> {
        let mut found = Vec::new();
        for at in &self.cells {
            let at = match self.kind {
                TABLE_INTERIOR => continue,
                INDEX_INTERIOR => at + 4,
                _ => *at,
            };
            let (payload, mut from) = varint(&self.bytes, at)?;
            let payload = usize::try_from(payload).ok()?;
            let most = if self.is_index() { (usable - 12) * 64 / 255 - 23 } else { usable - 35 };
            if payload <= most {
                continue;
            }
            if self.kind == TABLE_LEAF {
                from = varint(&self.bytes, from)?.1;
            }
            let least = (usable - 12) * 32 / 255 - 23;
            let here = least + (payload - least) % (usable - 4);
            found.push(long(&self.bytes, from + if here <= most { here } else { least })?);
        }
        Some(found)
    }
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// How many levels lie below a page: all leaves of a tree lie equally deep.
fn level(pages: &mut Pages, root: u32) -> io::Result<Option<u32>> {
    let mut number = root;
    for level in 0..=DEEPEST {
        let Some(node) = Node::read(pages, number)? else { return Ok(None) };
        match node.below().map(|below| below.first().copied()) {
            Some(Some(first)) => number = first,
            Some(None) => return Ok(Some(level)),
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// The pages of a file that no row's long value goes on on: those of its trees, and those that are free. `None` when a
/// page is not what it should be.
pub(super) fn seats(pages: &mut Pages, roots: &[u32]) -> io::Result<Option<PageSet>> {
    let mut seats = PageSet::default();
    for root in roots {
        let Some(level) = level(pages, *root)? else { return Ok(None) };
        let mut row = vec![*root];
        for _ in 0..level {
            let mut next = Vec::new();
            for number in row {
                seats.insert(number);
                match Node::read(pages, number)?.and_then(|node| node.below()) {
                    Some(below) => next.extend(below),
                    None => return Ok(None),
                }
            }
            row = next;
        }
        row.into_iter().for_each(|number| seats.insert(number));
    }
    let Some(mut trunk) = pages.page(1)?.and_then(|header| long(header, 32)) else { return Ok(None) };
    while trunk != 0 && !seats.contains(trunk) {
        seats.insert(trunk);
        let usable = pages.usable();
        let Some(page) = pages.page(trunk)? else { return Ok(None) };
        let (next, count) = (long(page, 0), long(page, 4).unwrap_or(0) as usize);
        for at in 0..count.min(usable / 4 - 2) {
            let Some(free) = long(page, 8 + 4 * at) else { return Ok(None) };
            seats.insert(free);
        }
        trunk = next.unwrap_or(0);
    }
    Ok(Some(seats))
}

/// Whether a long value may go on on one of the pages `unlike` while the row's own page is not among them. `seats` are
/// those of this file; it may be either of the two that are unlike.
pub(super) fn beyond(pages: &mut Pages, seats: &PageSet, unlike: &PageSet) -> io::Result<bool> {
    let (usable, count) = (pages.usable(), pages.count());
    let mut told = PageSet::default();
    for number in unlike.iter().filter(|number| seats.contains(*number)) {
        // A free page has no rows.
        let Some(node) = Node::read(pages, number)? else { continue };
        let Some(first) = node.long_values(usable) else { continue };
        for mut number in first {
            while number != 0 && !told.contains(number) {
                told.insert(number);
                number = pages.page(number)?.and_then(|page| long(page, 0)).unwrap_or(0);
            }
        }
    }
    let known = |number: u32| u64::from(number) > count || seats.contains(number) || told.contains(number);
    Ok(!unlike.iter().all(known))
}

/// By how many rows, or entries of an index, the tree at `root` is larger in `two` than in `one`, which differ only in the
/// pages `unlike`. `None` when a page that differs is not what it should be.
pub(super) fn growth(
    one: &mut Pages,
    two: &mut Pages,
    root: u32,
    unlike: &PageSet,
) -> io::Result<Option<i64>> {
    let (Some(before), Some(after)) = (level(one, root)?, level(two, root)?) else { return Ok(None) };
    if before != after {
        return Ok(all(two, root, after, true)?
            .zip(all(one, root, before, false)?)
            .map(|(two, one)| two - one));
    }
    below(one, two, root, before, unlike)
}

fn below(
    one: &mut Pages,
    two: &mut Pages,
    number: u32,
    level: u32,
    unlike: &PageSet,
) -> io::Result<Option<i64>> {
    let same = !unlike.contains(number);
    if same && level == 0 {
        return Ok(Some(0));
    }
    let Some(before) = Node::read(one, number)? else { return Ok(None) };
    let (Some(children), mut sum) = (before.below(), 0) else { return Ok(None) };
    let mut both = children.clone();
    if !same {
        let Some(after) = Node::read(two, number)? else { return Ok(None) };
        let Some(now) = sound(&after, &before, two.count()) else { return Ok(None) };
        sum += after.rows() - before.rows();
        let (old, new): (BTreeSet<u32>, BTreeSet<u32>) =
            (children.into_iter().collect(), now.into_iter().collect());
        for gone in old.difference(&new) {
            let Some(rows) = all(one, *gone, level - 1, false)? else { return Ok(None) };
            sum -= rows;
        }
        for come in new.difference(&old) {
            let Some(rows) = all(two, *come, level - 1, true)? else { return Ok(None) };
            sum += rows;
        }
        both.retain(|child| new.contains(child));
    }
    if level == 0 {
        return Ok(Some(sum));
    }
    for child in both {
        let Some(more) = below(one, two, child, level - 1, unlike)? else { return Ok(None) };
        sum += more;
    }
    Ok(Some(sum))
}

/// The pages below a page that was changed, when it is what it should be.
fn sound(after: &Node, before: &Node, count: u64) -> Option<Vec<u32>> {
    let below = after.below()?;
    let distinct = below.iter().collect::<BTreeSet<_>>().len() == below.len();
    let there = below.iter().all(|number| *number > 1 && u64::from(*number) <= count);
    (after.kind == before.kind && distinct && there && after.in_order()?).then_some(below)
}

/// All rows or entries below a page.
fn all(pages: &mut Pages, number: u32, level: u32, look: bool) -> io::Result<Option<i64>> {
    let Some(node) = Node::read(pages, number)? else { return Ok(None) };
    let Some(below) = node.below().filter(|below| below.is_empty() == (level == 0)) else { return Ok(None) };
    if look && sound(&node, &node, pages.count()).is_none() {
        return Ok(None);
    }
    let mut sum = node.rows();
    for child in below {
        let Some(more) = all(pages, child, level - 1, look)? else { return Ok(None) };
        sum += more;
    }
    Ok(Some(sum))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;
    use crate::sqlite::{Stop, page_set};

    fn open(path: &Path) -> Pages {
        Pages::open(path).unwrap().here_and_there()
    }

    fn roots(own: &Connection) -> Vec<(String, u32)> {
        let mut statement =
            own.prepare("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0").unwrap();
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    const FILL: &str = "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT); CREATE INDEX ti ON t (v, k); CREATE TABLE w (c TEXT PRIMARY KEY, v) WITHOUT ROWID;
        WITH RECURSIVE n(i) AS (SELECT -900 UNION ALL SELECT i + 1 FROM n WHERE i < 900) INSERT INTO t SELECT i, hex(zeroblob(abs(i % 60))) FROM n;
        INSERT INTO t VALUES (5000, hex(zeroblob(3000))), (5001, hex(zeroblob(9)));
        INSERT INTO w SELECT 'c' || k, k FROM t;";

    /// Against SQLite's own counts, for tables, indexes and tables that are indexes.
    #[test]
    fn growth_told_by_pages_is_what_sqlite_counts() {
        let acts = prop::collection::vec((0_u8..6, -1000_i64..1000), 1..60);
        proptest!(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() }, |(acts in acts)| {
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            let (one, two) = (dir.path().join("one.db"), dir.path().join("two.db"));
            Connection::open(&one).unwrap().execute_batch(&format!("PRAGMA page_size = 512; BEGIN; {FILL} COMMIT;")).unwrap();
            std::fs::copy(&one, &two).unwrap();
            let change: String = acts.iter().map(|(what, row)| match what {
                0 => format!("DELETE FROM t WHERE k BETWEEN {row} AND {row} + 20;"),
                1 => format!("INSERT OR REPLACE INTO t VALUES ({row}, 'new');"),
                2 => format!("UPDATE t SET v = v || 'longer' WHERE k BETWEEN {row} AND {row} + 3;"),
                3 => format!("INSERT OR REPLACE INTO w VALUES ('n{row}', hex(zeroblob(abs({row}))));"),
                4 => format!("DELETE FROM w WHERE v > {row} AND v < {row} + 90;"),
                _ => format!("INSERT OR REPLACE INTO t VALUES ({row} + 10000, hex(zeroblob(2000)));"),
            }).collect();
            let own = Connection::open(&two).unwrap();
            own.execute_batch(&format!("BEGIN; {change} COMMIT;")).unwrap();
            let roots = roots(&own);
            own.execute("ATTACH ?1 AS one", [one.to_str().unwrap()]).unwrap();
            let unlike = page_set::unlike(&one, &two, &Stop::new()).unwrap().unwrap();
            for (name, root) in roots {
                let table = if name == "ti" { "t" } else { &name };
                let sql = format!("SELECT (SELECT count(*) FROM main.{table}) - (SELECT count(*) FROM one.{table})");
                let counted: i64 = own.query_row(&sql, [], |row| row.get(0)).unwrap();
                prop_assert_eq!(growth(&mut open(&one), &mut open(&two), root, &unlike).unwrap(), Some(counted), "{}", name);
            }
        });
    }

    #[test]
    fn a_long_value_that_changed_alone_is_suspected_and_new_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one.db"), dir.path().join("two.db"));
        Connection::open(&one).unwrap().execute_batch(FILL).unwrap();
        for (change, suspected) in [
            (
                "UPDATE t SET v = CAST(hex(zeroblob(2990)) || '12345678901234567890' AS TEXT) WHERE k = 5000",
                true,
            ),
            ("INSERT INTO t VALUES (7000, hex(zeroblob(9000)))", false),
            ("DELETE FROM t WHERE k = 5000", false),
        ] {
            std::fs::copy(&one, &two).unwrap();
            let own = Connection::open(&two).unwrap();
            // Its index would hold the value too.
            own.execute_batch("DROP INDEX ti; VACUUM;").unwrap();
            std::fs::copy(&two, dir.path().join("base.db")).unwrap();
            own.execute_batch(change).unwrap();
            drop(own);
            let base = dir.path().join("base.db");
            let numbers: Vec<u32> = roots(&Connection::open(&base).unwrap())
                .into_iter()
                .map(|(_, root)| root)
                .chain([1])
                .collect();
            let unlike = page_set::unlike(&base, &two, &Stop::new()).unwrap().unwrap();
            let seats = seats(&mut open(&base), &numbers).unwrap().unwrap();
            assert_eq!(beyond(&mut open(&base), &seats, &unlike).unwrap(), suspected, "{change}: {unlike:?}");
        }
    }

    #[test]
    fn a_page_that_is_no_page_of_a_tree_is_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one.db"), dir.path().join("two.db"));
        let own = Connection::open(&one).unwrap();
        own.execute_batch(FILL).unwrap();
        let (_, root) = roots(&own).remove(0);
        drop(own);
        let mut bytes = std::fs::read(&one).unwrap();
        let mut unlike = PageSet::default();
        unlike.insert(root);
        let at = (root as usize - 1) * 4096;
        for (place, spoiled) in [(0, 0x0a), (12, 0xff), (9, 0xff)] {
            let kept = std::mem::replace(&mut bytes[at + place], spoiled);
            std::fs::write(&two, &bytes).unwrap();
            assert_eq!(growth(&mut open(&one), &mut open(&two), root, &unlike).unwrap(), None, "{place}");
            bytes[at + place] = kept;
        }
    }
}
