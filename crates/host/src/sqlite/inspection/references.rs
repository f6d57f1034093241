//! Row numbers as bits, so that foreign keys need no search for each row.

use std::collections::HashMap;

/// Numbers per block.
const BLOCK: usize = 1 << 16;

/// A set of numbers that lie close together: row numbers do.
#[derive(Default)]
pub(super) struct Numbers {
    blocks: HashMap<i64, Box<[u64; BLOCK / 64]>>,
    /// The block that was used last, out of the map: the next number mostly lies in it too.
    last: Option<(i64, Box<[u64; BLOCK / 64]>)>,
    /// They lay too far apart: it is not known any more.
    lost: bool,
}

impl Numbers {
    /// Blocks of all sets of one thread together: 16 MiB.
    pub(super) const MOST: usize = 16 << 20 >> 13;

    /// Adds a number; takes what it needs from `room`, in blocks.
    pub(super) fn add(&mut self, number: i64, room: &mut usize) {
        let block = number >> 16;
        if self.lost {
            return;
        }
        if self.last.as_ref().is_none_or(|(one, _)| *one != block) {
            if let Some((one, bits)) = self.last.take() {
                self.blocks.insert(one, bits);
            }
            let bits = match self.blocks.remove(&block) {
                Some(bits) => bits,
                None if *room == 0 => return self.lose(),
                None => {
                    *room -= 1;
                    Box::new([0; BLOCK / 64])
                }
            };
            self.last = Some((block, bits));
        }
        if let Some((_, bits)) = &mut self.last {
            let at = (number & 0xffff).unsigned_abs() as usize;
            bits[at / 64] |= 1 << (at % 64);
        }
    }

    /// What it holds is not to be known any more.
    pub(super) fn lose(&mut self) {
        *self = Numbers { lost: true, ..Numbers::default() };
    }

    pub(super) fn join(&mut self, mut other: Numbers) {
        if self.lost || other.lost {
            return self.lose();
        }
        self.blocks.extend(self.last.take());
        other.blocks.extend(other.last.take());
        for (block, more) in other.blocks {
            match self.blocks.entry(block) {
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(more);
                }
                std::collections::hash_map::Entry::Occupied(mut entry) => {
                    entry.get_mut().iter_mut().zip(more.iter()).for_each(|(bits, more)| *bits |= more);
                }
            }
        }
    }

    /// Whether all of these are in the other; `false` also when that is not known.
    pub(super) fn within(&mut self, other: &mut Numbers) -> bool {
        self.blocks.extend(self.last.take());
        other.blocks.extend(other.last.take());
        !self.lost
            && !other.lost
            && self.blocks.iter().all(|(block, bits)| match other.blocks.get(block) {
                Some(all) => bits.iter().zip(all.iter()).all(|(bits, all)| bits & !all == 0),
                None => bits.iter().all(|bits| *bits == 0),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(list: &[i64]) -> Numbers {
        let (mut found, mut room) = (Numbers::default(), 100);
        list.iter().for_each(|number| found.add(*number, &mut room));
        found
    }

    #[test]
    fn a_number_that_is_missing_is_noticed_wherever_it_lies() {
        let all = [0, 1, -1, 65_535, 65_536, i64::MAX, i64::MIN, -65_537];
        assert!(numbers(&all).within(&mut numbers(&all)));
        for left_out in all {
            let rest: Vec<i64> = all.into_iter().filter(|number| *number != left_out).collect();
            assert!(numbers(&rest).within(&mut numbers(&all)));
            assert!(!numbers(&all).within(&mut numbers(&rest)), "{left_out}");
            let (mut one, mut two) = (numbers(&rest), numbers(&[left_out]));
            one.join(std::mem::take(&mut two));
            assert!(numbers(&all).within(&mut one));
        }
    }

    #[test]
    fn numbers_that_lie_too_far_apart_are_never_taken_for_known() {
        let (mut one, mut room) = (Numbers::default(), 2);
        [1, 1 << 20, 1 << 30].iter().for_each(|number| one.add(*number, &mut room));
        assert!(!one.within(&mut numbers(&[1, 1 << 20, 1 << 30])));
        assert!(!numbers(&[1]).within(&mut one));
    }
}
