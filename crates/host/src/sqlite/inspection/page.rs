//! One page of a b-tree: where its cells are, and that they and the free room fill it without a gap.

use super::Trouble;
use super::record::varint;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Kind {
    /// Rows under numbers; otherwise entries that are their own keys.
    pub(super) table: bool,
    pub(super) leaf: bool,
}

pub(super) struct Page<'a> {
    bytes: &'a [u8],
    number: u32,
    /// Where its header begins: behind the file's on the first page.
    start: usize,
    pub(super) kind: Kind,
    pub(super) cells: usize,
    /// Where its content begins.
    content: usize,
}

/// A cell; what it does not have is 0.
#[derive(Clone, Copy, Default)]
pub(super) struct Cell {
    /// The page below that comes before it.
    pub(super) child: u32,
    pub(super) row: i64,
    /// The length of its record.
    pub(super) length: usize,
    /// Where the record begins on this page, and how much of it is here.
    pub(super) at: usize,
    pub(super) here: usize,
    /// The page on which the record goes on.
    pub(super) overflow: u32,
    from: usize,
    size: usize,
}

impl<'a> Page<'a> {
    /// `bytes` without what is reserved at the end.
    pub(super) fn parse(bytes: &'a [u8], number: u32) -> Result<Page<'a>, Trouble> {
        let start = if number == 1 { 100 } else { 0 };
        let kind = match bytes.get(start) {
            Some(2) => Kind { table: false, leaf: false },
            Some(5) => Kind { table: true, leaf: false },
            Some(10) => Kind { table: false, leaf: true },
            Some(13) => Kind { table: true, leaf: true },
            _ => return Err(Trouble::Odd(format!("the kind of page {number}"))),
        };
        let mut page = Page { bytes, number, start, kind, cells: 0, content: 0 };
        page.cells = page.two(start + 3)?;
        page.content = match page.two(start + 5)? {
            0 => 65_536,
            content => content,
        };
        let most = (bytes.len().next_power_of_two() - 8) / 6;
        if page.content > bytes.len() || page.pointers() + 2 * page.cells > page.content || page.cells > most
        {
            return Err(page.odd());
        }
        Ok(page)
    }

    pub(super) fn odd(&self) -> Trouble {
        Trouble::Odd(format!("page {}", self.number))
    }

    fn two(&self, at: usize) -> Result<usize, Trouble> {
        match self.bytes.get(at..at + 2) {
            Some(two) => Ok(usize::from(u16::from_be_bytes([two[0], two[1]]))),
            None => Err(self.odd()),
        }
    }

    fn four(&self, at: usize) -> Result<u32, Trouble> {
        match self.bytes.get(at..at + 4) {
            Some(four) => Ok(u32::from_be_bytes([four[0], four[1], four[2], four[3]])),
            None => Err(self.odd()),
        }
    }

    fn pointers(&self) -> usize {
        self.start + if self.kind.leaf { 8 } else { 12 }
    }

    /// The page below that comes after the last cell.
    pub(super) fn last_child(&self) -> Result<u32, Trouble> {
        self.four(self.start + 8)
    }

    pub(super) fn cell(&self, place: usize) -> Result<Cell, Trouble> {
        let from = self.two(self.pointers() + 2 * place)?;
        let usable = self.bytes.len();
        if from < self.content || from > usable - 4 {
            return Err(self.odd());
        }
        let (mut cell, mut at) = (Cell { from, ..Cell::default() }, from);
        if !self.kind.leaf {
            cell.child = self.four(at)?;
            at += 4;
        }
        let record = self.kind.leaf || !self.kind.table;
        let next = |at: &mut usize| {
            let (value, after) = varint(self.bytes, *at).ok_or_else(|| self.odd())?;
            *at = after;
            Ok::<i64, Trouble>(value)
        };
        if record {
            cell.length = usize::try_from(next(&mut at)?).map_err(|_| self.odd())?;
        }
        if self.kind.table {
            cell.row = next(&mut at)?;
        }
        if record {
            let most = if self.kind.table { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
            cell.at = at;
            cell.here = cell.length;
            at += cell.length.min(most);
            if cell.length > most {
                let least = (usable - 12) * 32 / 255 - 23;
                let surplus = least + (cell.length - least) % (usable - 4);
                cell.here = if surplus <= most { surplus } else { least };
                at = cell.at + cell.here;
                cell.overflow = self.four(at)?;
                at += 4;
            }
        }
        cell.size = (at - from).max(4);
        if cell.from + cell.size > usable { Err(self.odd()) } else { Ok(cell) }
    }

    /// Notes where a cell is.
    pub(super) fn span(cell: &Cell, spans: &mut Vec<(u32, u32)>) {
        // A page has 65,536 bytes at most.
        spans
            .push((u32::try_from(cell.from).unwrap_or(0), u32::try_from(cell.from + cell.size).unwrap_or(0)));
    }

    /// An error unless these spans and the free room lie side by side to the end of the page.
    pub(super) fn covered(&self, spans: &mut Vec<(u32, u32)>) -> Result<(), Trouble> {
        let (mut at, usable) = (self.two(self.start + 1)?, self.bytes.len());
        while at != 0 {
            let (next, size) = (self.two(at)?, self.two(at + 2)?);
            if at < self.content || size < 4 || at + size > usable || (next != 0 && next <= at + size + 3) {
                return Err(self.odd());
            }
            spans.push((u32::try_from(at).unwrap_or(0), u32::try_from(at + size).unwrap_or(0)));
            at = next;
        }
        spans.sort_unstable();
        let (mut end, mut lost) = (u32::try_from(self.content).unwrap_or(0), 0);
        for (from, to) in spans.iter() {
            lost += from.checked_sub(end).ok_or_else(|| self.odd())?;
            end = *to;
        }
        lost += u32::try_from(usable).unwrap_or(0) - end;
        match self.bytes.get(self.start + 7).copied().map(u32::from) {
            Some(told) if told == lost => Ok(()),
            _ => Err(self.odd()),
        }
    }
}
