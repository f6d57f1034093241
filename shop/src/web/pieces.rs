//! Pages of the catalogue in pieces: what is the same for everybody as text, and between it places for what is the
//! visitor's own. A page is made with marks in these places, parted at them, and put together for each visitor.

use std::collections::HashSet;
use std::sync::Arc;

use crate::db::random_hex;

/// Where a control stands, which decides how it looks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Place {
    /// On a card of a shelf.
    Card,
    /// On the product's own page.
    Page,
    /// How full the basket is, in the header; of no product.
    Header,
}

/// A part of a page.
#[derive(Debug)]
pub(crate) enum Piece {
    Text(Arc<str>),
    /// The visitor's form token.
    Token,
    /// The page's address, to come back to.
    Here,
    /// How full the visitor's basket is.
    Basket,
    Card(Arc<[Piece]>),
    Control(Arc<Control>),
}

/// What puts a product into the basket.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) place: Place,
    pub(crate) product: i64,
    /// Of the product as it was when this was made.
    pub(crate) made_of: u64,
    /// For those who have none of it in the basket.
    pub(crate) plain: Box<[Piece]>,
}

/// Texts that many pages share.
pub(crate) type Shared = HashSet<Arc<str>>;

/// What marks the places while a template is filled in: random, so that no text of the shop can contain it.
#[derive(Debug)]
pub(crate) struct Marks {
    secret: String,
}

impl Default for Marks {
    fn default() -> Self {
        Self { secret: random_hex::<16>() }
    }
}

impl Marks {
    /// The form token.
    pub(crate) fn token(&self) -> String {
        format!("{}T;", self.secret)
    }

    /// The page's address.
    pub(crate) fn here(&self) -> String {
        format!("{}H;", self.secret)
    }

    /// How full the basket is.
    pub(crate) fn basket(&self) -> String {
        format!("{}B;", self.secret)
    }

    /// The card of this number among those given to [`Marks::part`].
    pub(crate) fn card(&self, number: usize) -> String {
        format!("{}C{number};", self.secret)
    }

    /// The control of this number.
    pub(crate) fn control(&self, number: usize) -> String {
        format!("{}Q{number};", self.secret)
    }

    /// From here on the text is that of many pages; prints nothing.
    pub(crate) fn shared(&self) -> String {
        format!("{}S;", self.secret)
    }

    /// From here on it is this page's own; prints nothing.
    pub(crate) fn own(&self) -> String {
        format!("{}O;", self.secret)
    }

    /// Parts what a template printed at its marks.
    pub(crate) fn part(
        &self,
        html: &str,
        shared: &mut Shared,
        cards: &[Arc<[Piece]>],
        controls: &[Arc<Control>],
    ) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut is_shared = false;
        for (number, part) in html.split(self.secret.as_str()).enumerate() {
            let text = match part.split_once(';') {
                Some((mark, rest)) if number > 0 => {
                    let index = || mark.get(1..).and_then(|digits| digits.parse::<usize>().ok());
                    match mark.as_bytes().first() {
                        Some(b'T') => pieces.push(Piece::Token),
                        Some(b'H') => pieces.push(Piece::Here),
                        Some(b'B') => pieces.push(Piece::Basket),
                        Some(b'S') => is_shared = true,
                        Some(b'O') => is_shared = false,
                        Some(b'C') => {
                            pieces.extend(index().and_then(|at| cards.get(at)).cloned().map(Piece::Card))
                        }
                        Some(b'Q') => {
                            pieces
                                .extend(index().and_then(|at| controls.get(at)).cloned().map(Piece::Control));
                        }
                        _ => {}
                    }
                    rest
                }
                _ => part,
            };
            if text.is_empty() {
                continue;
            }
            let known = if is_shared { shared.get(text).cloned() } else { None };
            let text = known.unwrap_or_else(|| {
                let text: Arc<str> = text.into();
                if is_shared {
                    shared.insert(text.clone());
                }
                text
            });
            pieces.push(Piece::Text(text));
        }
        pieces
    }
}

/// The bytes that pieces take; of texts that are shared, and of cards, only the place.
pub(crate) fn size(pieces: &[Piece]) -> usize {
    /// An allocation's own counts and rounding.
    const OVERHEAD: usize = 32;
    let of = |piece: &Piece| match piece {
        // Text that is shared has another owner.
        Piece::Text(text) if Arc::strong_count(text) == 1 => text.len() + OVERHEAD,
        Piece::Control(control) => size(&control.plain) + size_of::<Control>() + OVERHEAD,
        _ => 0,
    };
    pieces.iter().map(|piece| size_of::<Piece>() + of(piece)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pieces: &[Piece]) -> String {
        let one = |piece: &Piece| match piece {
            Piece::Text(text) => text.to_string(),
            Piece::Token => "[token]".to_owned(),
            Piece::Here => "[here]".to_owned(),
            Piece::Basket => "[basket]".to_owned(),
            Piece::Card(card) => format!("[card {}]", told(card)),
            Piece::Control(control) => format!("[control {}]", control.product),
        };
        pieces.iter().map(one).collect()
    }

    #[test]
    fn a_page_is_parted_at_its_marks_and_nowhere_else() {
        let (marks, mut shared) = (Marks::default(), Shared::new());
        let card: Arc<[Piece]> = marks.part(&format!("x;{}y", marks.here()), &mut shared, &[], &[]).into();
        let control = Arc::new(Control { place: Place::Page, product: 7, made_of: 1, plain: Box::new([]) });
        let html =
            format!("a;T;b{}c{}{}{}d;", marks.token(), marks.card(0), marks.control(0), marks.basket());
        let pieces = marks.part(&html, &mut shared, &[card], &[control]);
        assert_eq!(told(&pieces), "a;T;b[token]c[card x;[here]y][control 7][basket]d;");
        assert!(shared.is_empty());
    }

    #[test]
    fn what_many_pages_have_is_kept_once() {
        let (marks, mut shared) = (Marks::default(), Shared::new());
        let page = |own: &str| format!("{}head{}{own}{}foot", marks.shared(), marks.own(), marks.shared());
        let one = marks.part(&page("one"), &mut shared, &[], &[]);
        let two = marks.part(&page("two"), &mut shared, &[], &[]);
        assert_eq!((told(&one), told(&two)), ("headonefoot".to_owned(), "headtwofoot".to_owned()));
        let (Piece::Text(first), Piece::Text(second)) = (&one[0], &two[0]) else { panic!("{one:?}") };
        assert!(Arc::ptr_eq(first, second));
        assert_eq!(shared.len(), 2);
    }
}
