//! Pages of the catalogue, kept in pieces. A page is shown as it was kept only while nothing in the database has
//! changed since it was made or last compared; afterwards what it was made of is read again, and the page is made
//! anew when that is not the same. What is kept is the same for every visitor with the same language and pincode.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pieces::{Marks, Piece, Place, Shared, size};

/// The most bytes that are kept: the pages of more than 10,000 products, with their cards.
const MOST_BYTES: usize = 56 * 1024 * 1024;

/// What an entry costs beside its pieces: its key, and its place in the map.
const OVERHEAD: usize = 160;

/// A page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) pieces: Vec<Piece>,
    /// Of what was read for it.
    pub(crate) made_of: u64,
    /// The state of the database in which that was so.
    version: AtomicI64,
    /// About how long it is when put together.
    pub(crate) length: usize,
}

impl Page {
    /// One that is not kept.
    pub(crate) fn passing(pieces: Vec<Piece>, made_of: u64, length: usize) -> Self {
        Self { pieces, made_of, version: AtomicI64::new(0), length }
    }

    /// Nothing at all has changed since.
    pub(crate) fn is_of(&self, version: i64) -> bool {
        self.version.load(Ordering::Acquire) == version
    }

    /// What it was made of was read again, after `version` was asked for, and is the same.
    pub(crate) fn is_still_right(&self, version: i64) {
        self.version.store(version, Ordering::Release);
    }
}

/// Which control: language, place, product and how much of it is in the basket.
pub(crate) type Which = (usize, Place, i64, i64);

type Pieces = Arc<[Piece]>;

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) marks: Marks,
    hasher: RandomState,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Of everything that was kept since all was last forgotten, also of what was replaced: pages may still hold it.
    bytes: usize,
    pages: HashMap<String, Arc<Page>>,
    /// By language and product, with what each was made of.
    cards: HashMap<(usize, i64), (u64, Pieces)>,
    controls: HashMap<Which, (u64, Pieces)>,
    shared: Shared,
}

impl Kept {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for what something is made of; another one for other values.
    pub(crate) fn hash(&self, of: &impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }

    /// The page of an address, of whatever state of the database.
    pub(crate) fn page(&self, address: &str) -> Option<Arc<Page>> {
        self.held().pages.get(address).cloned()
    }

    /// The card of a product, made of just this.
    pub(crate) fn card(&self, language: usize, product: i64, made_of: u64) -> Option<Pieces> {
        let held = self.held();
        held.cards.get(&(language, product)).filter(|(of, _)| *of == made_of).map(|(_, card)| card.clone())
    }

    /// A control, made of just this.
    pub(crate) fn control(&self, which: Which, made_of: u64) -> Option<Pieces> {
        let held = self.held();
        held.controls.get(&which).filter(|(of, _)| *of == made_of).map(|(_, pieces)| pieces.clone())
    }

    /// Parts what a template printed, with the texts that are kept already.
    pub(crate) fn part(
        &self,
        html: &str,
        cards: &[Pieces],
        controls: &[Arc<super::pieces::Control>],
    ) -> Vec<Piece> {
        self.marks.part(html, &mut self.held().shared, cards, controls)
    }

    /// Keeps a card.
    pub(crate) fn keep_card(&self, language: usize, product: i64, made_of: u64, card: &Pieces) {
        self.keep(size(card), |held| {
            held.cards.insert((language, product), (made_of, card.clone()));
        });
    }

    /// Keeps a control.
    pub(crate) fn keep_control(&self, which: Which, made_of: u64, pieces: &Pieces) {
        self.keep(size(pieces), |held| {
            held.controls.insert(which, (made_of, pieces.clone()));
        });
    }

    /// Keeps a page that was made of what was read after `version` was asked for.
    pub(crate) fn keep_page(
        &self,
        address: &str,
        version: i64,
        pieces: Vec<Piece>,
        made_of: u64,
        length: usize,
    ) -> Arc<Page> {
        let bytes = size(&pieces) + address.len();
        let page = Arc::new(Page { pieces, made_of, version: AtomicI64::new(version), length });
        self.keep(bytes, |held| {
            held.pages.insert(address.to_owned(), page.clone());
        });
        page
    }

    /// Beyond the limit all is forgotten: what is asked for often is soon there again.
    fn keep(&self, bytes: usize, put: impl FnOnce(&mut Held)) {
        let mut held = self.held();
        let forgotten = (held.bytes + bytes > MOST_BYTES).then(|| std::mem::take(&mut *held));
        held.bytes += bytes + OVERHEAD;
        put(&mut held);
        // Thousands of pages take their time to be freed: nobody should wait for that.
        drop(held);
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<Piece> {
        vec![Piece::Text(text.into())]
    }

    #[test]
    fn a_page_is_right_for_the_state_it_was_made_or_compared_in() {
        let kept = Kept::default();
        assert!(kept.page("/").is_none());
        let page = kept.keep_page("/", 7, text("₹45"), 1, 3);
        assert!(page.is_of(7) && !page.is_of(8));
        kept.page("/").unwrap().is_still_right(8);
        assert!(page.is_of(8) && !page.is_of(7));
    }

    #[test]
    fn a_card_or_control_of_before_a_change_is_not_found_after_it() {
        let kept = Kept::default();
        let pieces: Pieces = text("₹45").into();
        kept.keep_card(0, 1, 11, &pieces);
        kept.keep_control((0, Place::Card, 1, 2), 11, &pieces);
        assert!(kept.card(0, 1, 11).is_some() && kept.control((0, Place::Card, 1, 2), 11).is_some());
        assert!(kept.card(0, 1, 12).is_none() && kept.control((0, Place::Card, 1, 2), 12).is_none());
        assert!(kept.card(1, 1, 11).is_none(), "another language");
        assert!(kept.control((0, Place::Card, 1, 3), 11).is_none(), "another quantity");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = Kept::default();
        let long = "x".repeat(1024 * 1024);
        for number in 0..100 {
            kept.keep_page(&number.to_string(), 1, text(&long), 1, 1);
            kept.keep_card(0, 1, number, &text(&long).into());
            kept.keep_control((0, Place::Card, 1, 1), number, &text(&long).into());
            assert!(kept.held().bytes <= MOST_BYTES + OVERHEAD);
        }
    }
}
