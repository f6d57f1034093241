//! The cards of goods on a shelf. One of a product that is not in the visitor's basket is the same for everybody but
//! for the form's token and the page to come back to: it is made once and kept until anything in the database changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::Object;
use minijinja::{HtmlEscape, Value, context};

use super::error::PageError;
use super::visit::Visit;
use crate::cart::MAX_QUANTITY;
use crate::db::products::Product;
use crate::db::random_hex;

/// The most bytes of cards that are kept: those of more than 10,000 products.
const MOST_BYTES: usize = 24 * 1024 * 1024;

/// What a kept card costs beside its text: its pieces, and its place in the map.
const OVERHEAD: usize = 256;

/// A product on a shelf, with how much of it is in the visitor's basket.
#[derive(Debug)]
pub(crate) struct Shelved {
    product: Product,
    in_cart: i64,
}

impl Shelved {
    /// A product as a visitor sees it.
    pub(crate) fn of(visit: &Visit, product: Product) -> Self {
        Self { in_cart: visit.cart.quantity(product.id), product }
    }
}

/// Templates ask for a few of the fields; a map would be made of all of them, for each card.
impl Object for Shelved {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let product = &self.product;
        Some(match key {
            "id" => product.id.into(),
            "category_id" => product.category_id.into(),
            "category_slug" => product.category_slug.as_str().into(),
            "category_name" => product.category_name.as_str().into(),
            "name" => product.name.as_str().into(),
            "local_name" => product.local_name.as_deref().into(),
            "description" => product.description.as_str().into(),
            "pack_size" => product.pack_size.as_str().into(),
            "net_quantity" => product.net_quantity.into(),
            "unit" => product.unit.as_str().into(),
            "mrp_paise" => product.mrp_paise.into(),
            "price_paise" => product.price_paise.into(),
            "stock" => product.stock.into(),
            "is_active" => product.is_active.into(),
            "is_featured" => product.is_featured.into(),
            "search_words" => product.search_words.as_str().into(),
            "maker" => product.maker.as_str().into(),
            "origin" => product.origin.as_str().into(),
            "best_before" => product.best_before.as_str().into(),
            "hsn" => product.hsn.as_str().into(),
            "gst_basis_points" => product.gst_basis_points.into(),
            "sku" => product.sku.as_deref().into(),
            "image" => product.image.as_deref().into(),
            "percent_off" => product.percent_off.into(),
            "unit_price" => product.unit_price.as_str().into(),
            "in_cart" => self.in_cart.into(),
            // One more could be added.
            "can_add" => (self.in_cart < product.stock.min(MAX_QUANTITY)).into(),
            _ => return None,
        })
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// A part of a card.
#[derive(Debug, Eq, PartialEq)]
enum Piece {
    Text(Box<str>),
    /// The visitor's form token.
    Token,
    /// The page that the card is on.
    Here,
}

/// The kept cards, by product.
#[derive(Debug)]
pub(crate) struct Cards {
    /// Stand for the form token and for the page: random, so that no text of the shop can contain them.
    token: String,
    here: String,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The state of the database that they show.
    version: i64,
    bytes: usize,
    by_product: HashMap<i64, Arc<[Piece]>>,
}

impl Default for Cards {
    fn default() -> Self {
        Self { token: random_hex::<16>(), here: random_hex::<16>(), kept: Mutex::default() }
    }
}

impl Cards {
    /// The cards that were made for this state of the database.
    fn find(&self, version: i64, products: &[Product]) -> Vec<Option<Arc<[Piece]>>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.version != version {
            return vec![None; products.len()];
        }
        products.iter().map(|product| kept.by_product.get(&product.id).cloned()).collect()
    }

    /// Keeps a card that was made with the stand-ins, from what was read after `version` was.
    fn keep(&self, version: i64, product_id: i64, card: &Arc<[Piece]>) {
        let size = card.iter().fold(OVERHEAD, |sum, piece| {
            sum + size_of::<Piece>() + if let Piece::Text(text) = piece { text.len() } else { 0 }
        });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Beyond the limit all is forgotten: what is shown often is soon there again.
        if kept.version != version || kept.bytes + size > MOST_BYTES {
            *kept = Kept { version, ..Kept::default() };
        }
        if kept.by_product.insert(product_id, card.clone()).is_none() {
            kept.bytes += size;
        }
    }

    fn pieces(&self, card: &str) -> Arc<[Piece]> {
        let mut pieces = Vec::new();
        for (number, part) in card.split(self.token.as_str()).enumerate() {
            if number > 0 {
                pieces.push(Piece::Token);
            }
            for (number, text) in part.split(self.here.as_str()).enumerate() {
                if number > 0 {
                    pieces.push(Piece::Here);
                }
                pieces.push(Piece::Text(text.into()));
            }
        }
        pieces.into()
    }
}

/// The cards of products as this visitor sees them on the page `here`. `version` is that of the database, asked for
/// before the products were read; without it nothing is kept.
pub(crate) fn shelf(
    visit: &Visit,
    version: Option<i64>,
    here: &str,
    products: Vec<Product>,
) -> Result<Value, PageError> {
    let (cards, pages) = (&visit.shop.cards, &visit.shop.pages);
    let token = visit.csrf();
    let escaped = HtmlEscape(here).to_string();
    let kept = match version {
        Some(version) => cards.find(version, &products),
        None => vec![None; products.len()],
    };
    let mut html = String::with_capacity(products.len() * 2048);
    for (product, kept) in products.into_iter().zip(kept) {
        let id = product.id;
        let shelved = Shelved::of(visit, product);
        if shelved.in_cart > 0 {
            // Nobody else's: made for this visitor alone.
            let values =
                context! { product => Value::from_object(shelved), csrf => token.as_str(), here => here };
            html.push_str(&pages.render("partials/card.html", values)?);
            continue;
        }
        let card = match kept {
            Some(card) => card,
            None => {
                let product = Value::from_object(shelved);
                let values = context! { product => product, csrf => cards.token.as_str(), here => cards.here.as_str() };
                let card = cards.pieces(&pages.render("partials/card.html", values)?);
                if let Some(version) = version {
                    cards.keep(version, id, &card);
                }
                card
            }
        };
        for piece in card.iter() {
            html.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Token => &token,
                Piece::Here => &escaped,
            });
        }
    }
    // Made by a template that escapes what it prints.
    Ok(Value::from_safe_string(html))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_of_before_a_change_is_not_found_after_it() {
        let cards = Cards::default();
        let card = cards.pieces("<b>₹45</b>");
        cards.keep(7, 1, &card);
        assert!(cards.kept.lock().unwrap().by_product.contains_key(&1));
        cards.keep(8, 2, &card);
        let kept = cards.kept.lock().unwrap();
        assert_eq!((kept.version, kept.by_product.len()), (8, 1), "product 1 was of before");
    }

    #[test]
    fn a_card_has_places_for_the_token_and_the_page() {
        let cards = Cards::default();
        let pieces = cards.pieces(&format!("a{}b{}c{}", cards.token, cards.here, cards.token));
        let text = |text: &str| Piece::Text(text.into());
        let expected = [text("a"), Piece::Token, text("b"), Piece::Here, text("c"), Piece::Token, text("")];
        assert_eq!(*pieces, expected);
    }

    #[test]
    fn what_is_kept_of_cards_is_bounded() {
        let cards = Cards::default();
        let card = cards.pieces(&"x".repeat(1024 * 1024));
        for id in 0..100 {
            cards.keep(1, id, &card);
            assert!(cards.kept.lock().unwrap().bytes <= MOST_BYTES);
        }
    }
}
