//! Walks a b-tree: every page below its root once, every record in order.

use super::Trouble;
use super::file::{Map, Pages, Role};
use super::page::{Cell, Page};

/// Deeper than any tree that fits on a disk; SQLite has the same bound.
const DEEPEST: usize = 20;

/// What walks trees: its buffers are used again and again.
pub(super) struct Walker<'a> {
    pages: &'a Pages,
    /// Called for every page.
    each: &'a (dyn Fn() -> Result<(), Trouble> + Sync),
    buffers: Vec<Vec<u8>>,
    record: Vec<u8>,
    overflow: Vec<u8>,
    spans: Vec<(u32, u32)>,
    pub(super) map: Map,
}

/// Takes a row: its number and its record.
pub(super) type TakeRow<'a> = &'a mut dyn FnMut(i64, &[u8]) -> Result<(), Trouble>;
/// Takes an entry of an index, or a row of a table without row numbers.
pub(super) type TakeEntry<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Trouble>;

/// A part of a tree whose rows have numbers above `after` and up to `to`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Branch {
    pub(super) page: u32,
    after: Option<i64>,
    to: i64,
    level: usize,
}

impl Branch {
    /// All of a tree.
    pub(super) fn root(page: u32) -> Branch {
        Branch { page, after: None, to: i64::MAX, level: 0 }
    }
}

impl<'a> Walker<'a> {
    pub(super) fn new(pages: &'a Pages, each: &'a (dyn Fn() -> Result<(), Trouble> + Sync)) -> Walker<'a> {
        Walker {
            pages,
            each,
            buffers: vec![Vec::new(); DEEPEST],
            record: Vec::new(),
            overflow: Vec::new(),
            spans: Vec::new(),
            map: Map::default(),
        }
    }

    /// Reads a page into a buffer of its own level and gives both; [`Walker::done`] takes the buffer back.
    fn open(&mut self, page: u32, level: usize) -> Result<Vec<u8>, Trouble> {
        (self.each)()?;
        self.pages.meet(page)?;
        let buffer = self.buffers.get_mut(level).ok_or_else(|| Trouble::odd("the depth of a tree"))?;
        let mut bytes = std::mem::take(buffer);
        self.pages.read(page, &mut bytes)?;
        Ok(bytes)
    }

    fn done(&mut self, level: usize, bytes: Vec<u8>) {
        self.buffers[level] = bytes;
    }

    /// An error unless the page's cells fill it; gives them to `take` on the way.
    fn cells(
        &mut self,
        page: &Page<'_>,
        mut take: impl FnMut(Cell) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        self.spans.clear();
        for place in 0..page.cells {
            let cell = page.cell(place)?;
            Page::span(&cell, &mut self.spans);
            take(cell)?;
        }
        page.covered(&mut self.spans)
    }

    /// The branches of a table's tree at the first level that has enough of them for several to walk; what is above has been
    /// met then.
    pub(super) fn branches(&mut self, root: u32) -> Result<Vec<Branch>, Trouble> {
        const ENOUGH: usize = 16;
        let mut found = vec![Branch::root(root)];
        let mut bytes = Vec::new();
        while found.len() < ENOUGH {
            let mut all = Vec::new();
            for branch in &found {
                self.pages.read(branch.page, &mut bytes)?;
                let page = Page::parse(&bytes, branch.page)?;
                if !page.kind.table || branch.level + 1 >= DEEPEST {
                    return Err(page.odd());
                }
                if !page.kind.leaf {
                    all.extend(self.below(&page, *branch)?);
                } else if !all.is_empty() {
                    return Err(page.odd());
                }
            }
            if all.is_empty() {
                break;
            }
            found.iter().try_for_each(|branch| self.pages.meet(branch.page))?;
            found = all;
        }
        Ok(found)
    }

    /// The branches below an interior page of a table.
    fn below(&mut self, page: &Page<'_>, branch: Branch) -> Result<Vec<Branch>, Trouble> {
        let mut found = Vec::with_capacity(page.cells + 1);
        let mut after = branch.after;
        let level = branch.level + 1;
        self.cells(page, |cell| {
            if after.is_some_and(|after| cell.row <= after) || cell.row > branch.to {
                return Err(page.odd());
            }
            found.push(Branch { page: cell.child, after, to: cell.row, level });
            after = Some(cell.row);
            Ok(())
        })?;
        found.push(Branch { page: page.last_child()?, after, to: branch.to, level });
        for below in &found {
            self.pages.expect(below.page, Role::Below, branch.page, &mut self.map)?;
        }
        Ok(found)
    }

    /// Walks a table whose rows have numbers. Returns how deep its tree is, from the root on.
    pub(super) fn rows(&mut self, branch: Branch, take: TakeRow<'_>) -> Result<usize, Trouble> {
        let bytes = self.open(branch.page, branch.level)?;
        let page = Page::parse(&bytes, branch.page)?;
        if !page.kind.table || (page.cells == 0 && page.kind.leaf && branch.level > 0) {
            return Err(page.odd());
        }
        let mut depth = branch.level;
        if page.kind.leaf {
            let mut after = branch.after;
            self.spans.clear();
            for place in 0..page.cells {
                let cell = page.cell(place)?;
                if after.is_some_and(|after| cell.row <= after) || cell.row > branch.to {
                    return Err(page.odd());
                }
                after = Some(cell.row);
                Page::span(&cell, &mut self.spans);
                let record = self.whole(&page, &bytes, branch.page, &cell)?;
                take(cell.row, record)?;
            }
            page.covered(&mut self.spans)?;
        } else {
            let mut deepest = None;
            for below in self.below(&page, branch)? {
                let found = self.rows(below, take)?;
                if *deepest.get_or_insert(found) != found {
                    return Err(page.odd());
                }
            }
            depth = deepest.unwrap_or(depth);
        }
        self.done(branch.level, bytes);
        Ok(depth)
    }

    /// Walks an index, or a table without row numbers. Returns how deep it is.
    pub(super) fn entries(
        &mut self,
        number: u32,
        level: usize,
        take: TakeEntry<'_>,
    ) -> Result<usize, Trouble> {
        let bytes = self.open(number, level)?;
        let page = Page::parse(&bytes, number)?;
        if page.kind.table || (page.cells == 0 && level > 0) {
            return Err(page.odd());
        }
        let mut deepest = None;
        let mut below = |walker: &mut Self, child: u32, take: TakeEntry<'_>| {
            walker.pages.expect(child, Role::Below, number, &mut walker.map)?;
            let found = walker.entries(child, level + 1, take)?;
            if *deepest.get_or_insert(found) == found { Ok(()) } else { Err(page.odd()) }
        };
        for place in 0..page.cells {
            let cell = page.cell(place)?;
            if !page.kind.leaf {
                below(self, cell.child, take)?;
            }
            let record = self.whole(&page, &bytes, number, &cell)?;
            take(record)?;
        }
        if !page.kind.leaf {
            below(self, page.last_child()?, take)?;
        }
        // After the walk below, which uses the same list.
        self.cells(&page, |_| Ok(()))?;
        self.done(level, bytes);
        Ok(1 + deepest.unwrap_or(0))
    }

    /// A cell's record in one piece.
    fn whole<'b>(
        &'b mut self,
        page: &Page<'_>,
        bytes: &'b [u8],
        number: u32,
        cell: &Cell,
    ) -> Result<&'b [u8], Trouble> {
        let here = bytes.get(cell.at..cell.at + cell.here).ok_or_else(|| page.odd())?;
        if cell.here == cell.length {
            return Ok(here);
        }
        // No record is longer than the file.
        if cell.length as u64 > u64::from(self.pages.count) * self.pages.usable as u64 {
            return Err(page.odd());
        }
        self.record.clear();
        self.record.extend_from_slice(here);
        let (mut next, mut from, mut role) = (cell.overflow, number, Role::Overflow);
        while self.record.len() < cell.length {
            (self.each)()?;
            self.pages.meet(next)?;
            self.pages.expect(next, role, from, &mut self.map)?;
            self.pages.read(next, &mut self.overflow)?;
            (from, role) = (next, Role::FurtherOverflow);
            next = match self.overflow.first_chunk::<4>() {
                Some(four) => u32::from_be_bytes(*four),
                None => return Err(page.odd()),
            };
            let more = (cell.length - self.record.len()).min(self.pages.usable - 4);
            self.record.extend_from_slice(&self.overflow[4..4 + more]);
        }
        if next == 0 { Ok(&self.record) } else { Err(page.odd()) }
    }
}
