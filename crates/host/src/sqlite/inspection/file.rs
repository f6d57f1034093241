//! A finished database file, read page by page past SQLite, and which of its pages have been met.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Trouble;

/// The byte that SQLite locks instead of using it: the page around it is never part of anything.
const LOCKED_BYTE: u64 = 0x4000_0000;

/// What a pointer map says of a page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Root = 1,
    Free = 2,
    Overflow = 3,
    FurtherOverflow = 4,
    Below = 5,
}

/// A finished file. Never a live one: opening that as a plain file drops this process's locks on it.
pub(super) struct Pages {
    file: File,
    size: usize,
    /// The page size without what is reserved at its end.
    pub(super) usable: usize,
    pub(super) count: u32,
    first_free: u32,
    free: u32,
    /// The highest root page; 0 without `auto_vacuum`.
    highest_root: u32,
    /// One bit for each page that was met.
    met: Vec<AtomicU64>,
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

impl Pages {
    /// Opens a file whose text is UTF-8. `None` when its pages are not for us: text in UTF-16, or nothing in it.
    pub(super) fn open(path: &Path) -> Result<Option<Pages>, Trouble> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        if bytes < 512 {
            return Ok(None);
        }
        let mut header = [0; 100];
        file.read_exact_at(&mut header, 0)?;
        let size = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65_536,
            size => usize::from(size),
        };
        let plain = header[18] == 1 && header[19] == 1 && header[21..24] == [64, 32, 32];
        let whole = size >= 512 && size.is_power_of_two() && bytes.is_multiple_of(size as u64);
        let count = if whole { bytes / size as u64 } else { 0 };
        if &header[..16] != b"SQLite format 3\0" || !plain || !whole {
            return Err(Trouble::odd("the header of the file"));
        }
        if number(&header, 56) != 1 {
            return Ok(None);
        }
        let usable = size - usize::from(header[20]);
        let count = u32::try_from(count).map_err(|_| Trouble::odd("more pages than there can be"))?;
        if usable < 480 || number(&header, 28) != count || number(&header, 24) != number(&header, 92) {
            return Err(Trouble::odd("the size in the header of the file"));
        }
        let highest_root = number(&header, 52);
        if highest_root == 0 && number(&header, 64) != 0 {
            return Err(Trouble::odd("incremental vacuum without a pointer map"));
        }
        let met = (0..=count / 64).map(|_| AtomicU64::new(0)).collect();
        let (first_free, free) = (number(&header, 32), number(&header, 36));
        Ok(Some(Pages { file, size, usable, count, first_free, free, highest_root, met }))
    }

    /// Whether it has pages that say what every other page is for.
    pub(super) fn mapped(&self) -> bool {
        self.highest_root != 0
    }

    /// An error unless the header names this as the highest root page.
    pub(super) fn expect_highest_root(&self, highest: u32) -> Result<(), Trouble> {
        match self.mapped() && self.highest_root != highest {
            true => Err(Trouble::odd("the highest root page")),
            false => Ok(()),
        }
    }

    /// Notes that something uses a page. Each is used once.
    pub(super) fn meet(&self, page: u32) -> Result<(), Trouble> {
        let word = self.met.get(page as usize / 64).filter(|_| page != 0 && page <= self.count);
        let word = word.ok_or_else(|| Trouble::odd("a page beyond the end"))?;
        let bit = 1 << (page % 64);
        match word.fetch_or(bit, Ordering::Relaxed) & bit {
            0 => Ok(()),
            _ => Err(Trouble::Odd(format!("page {page} is used twice"))),
        }
    }

    /// Reads a page without what is reserved at its end.
    pub(super) fn read(&self, page: u32, into: &mut Vec<u8>) -> Result<(), Trouble> {
        let before = page.checked_sub(1).filter(|_| page <= self.count);
        let before = before.ok_or_else(|| Trouble::odd("a page beyond the end"))?;
        into.resize(self.usable, 0);
        Ok(self.file.read_exact_at(into, u64::from(before) * self.size as u64)?)
    }

    fn lock_page(&self) -> u32 {
        u32::try_from(LOCKED_BYTE / self.size as u64 + 1).unwrap_or(u32::MAX)
    }

    /// The page of the pointer map that tells about this page; for a page of the map itself, that page.
    fn map_page(&self, page: u32) -> u32 {
        let each = u32::try_from(self.usable / 5 + 1).unwrap_or(u32::MAX);
        let found = (page - 2) / each * each + 2;
        found + u32::from(found == self.lock_page())
    }

    /// An error when there is a pointer map and it says something else.
    pub(super) fn expect(&self, page: u32, role: Role, parent: u32, map: &mut Map) -> Result<(), Trouble> {
        if !self.mapped() {
            return Ok(());
        }
        let odd = || Trouble::Odd(format!("the pointer map on page {page}"));
        if page < 2 || page > self.count {
            return Err(odd());
        }
        let at = self.map_page(page);
        if at != map.page {
            self.read(at, &mut map.bytes)?;
            map.page = at;
        }
        let entry = page.checked_sub(at + 1).ok_or_else(odd)? as usize * 5;
        let kind = map.bytes.get(entry).copied();
        match kind == Some(role as u8) && number(&map.bytes, entry + 1) == parent && entry + 5 <= self.usable
        {
            true => Ok(()),
            false => Err(odd()),
        }
    }

    /// Meets the page around the locked byte, and all pages that are free.
    pub(super) fn free(&self, map: &mut Map) -> Result<(), Trouble> {
        if self.lock_page() <= self.count {
            self.meet(self.lock_page())?;
        }
        let (mut page, mut found, mut trunk) = (self.first_free, 0_u32, Vec::new());
        while page != 0 {
            self.meet(page)?;
            self.expect(page, Role::Free, 0, map)?;
            self.read(page, &mut trunk)?;
            let leaves = number(&trunk, 4) as usize;
            if leaves > self.usable / 4 - 2 {
                return Err(Trouble::odd("a list of free pages"));
            }
            for leaf in 0..leaves {
                let leaf = number(&trunk, 8 + 4 * leaf);
                self.meet(leaf)?;
                self.expect(leaf, Role::Free, 0, map)?;
            }
            found += 1 + u32::try_from(leaves).unwrap_or(0);
            page = number(&trunk, 0);
        }
        if found == self.free { Ok(()) } else { Err(Trouble::odd("the number of free pages")) }
    }

    /// An error unless every page has been met; those of the pointer map must not have been.
    pub(super) fn all_met(&self) -> Result<(), Trouble> {
        let met = |page: u32| self.met[page as usize / 64].load(Ordering::Relaxed) >> (page % 64) & 1 == 1;
        let strange = (1..=self.count).find(|page| {
            let of_map = self.mapped() && *page > 1 && self.map_page(*page) == *page;
            met(*page) == of_map
        });
        strange.map_or(Ok(()), |page| Err(Trouble::Odd(format!("page {page} is used by nothing"))))
    }
}

/// The page of the pointer map that was read last.
#[derive(Default)]
pub(super) struct Map {
    page: u32,
    bytes: Vec<u8>,
}
