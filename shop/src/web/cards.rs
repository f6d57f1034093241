//! Making the catalogue's pages from templates, in pieces, and putting them together for a visitor. A card is made once
//! for everybody; what a visitor has in the basket shows in the controls, and these are kept by quantity.

use std::hash::Hash;
use std::sync::Arc;

use minijinja::value::Object;
use minijinja::{HtmlEscape, Value, context};

use super::error::PageError;
use super::kept::Page;
use super::pieces::{Control, Piece, Place};
use super::visit::Visit;
use crate::cart::MAX_QUANTITY;
use crate::db::products::{self, Product};

/// A product on a shelf, with how much of it is in the visitor's basket.
#[derive(Debug)]
pub(crate) struct Shelved {
    product: Product,
    in_cart: i64,
}

impl Shelved {
    /// A product as one sees it who has so much of it in the basket.
    pub(crate) fn of(product: &Product, in_cart: i64) -> Self {
        Self { in_cart, product: product.clone() }
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
            "unit_price_paise" => product.unit_price_paise.into(),
            "unit_of" => product.unit_of.into(),
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

/// What a page of the catalogue shows beside what every page has.
pub(crate) struct Sheet {
    /// The goods on its shelf.
    pub(crate) shelf: Vec<Product>,
    /// The product that it is about.
    pub(crate) product: Option<Product>,
    /// The rest, by name.
    pub(crate) values: Value,
}

/// The page of `here`, from a template; kept when the `version` of the database is known, which was asked for before
/// anything was read.
pub(crate) fn make(
    visit: &Visit,
    address: &str,
    version: Option<i64>,
    made_of: u64,
    template: &str,
    sheet: Sheet,
) -> Result<Arc<Page>, PageError> {
    let shop = &visit.shop;
    let marks = &shop.kept.marks;
    let mut cards = Vec::new();
    let mut shelf = String::new();
    for product in &sheet.shelf {
        shelf.push_str(&marks.card(cards.len()));
        cards.push(card(visit, product)?);
    }
    let (mut controls, mut own) = (Vec::new(), context! {});
    if let Some(product) = &sheet.product {
        controls.push(Arc::new(control(visit, Place::Page, product)?));
        own = context! {
            product => Value::from_object(Shelved::of(product, 0)),
            control => Value::from_safe_string(marks.control(0)),
        };
    }
    let values = context! {
        csrf => marks.token(),
        basket_count => marks.basket(),
        shared => marks.shared(),
        own => marks.own(),
        // Made by a template that escapes what it prints.
        shelf => Value::from_safe_string(shelf),
    };
    let html = visit.text_of_page(template, context! { ..values, ..context! { ..own, ..sheet.values } })?;
    let pieces = shop.kept.part(&html, &cards, &controls);
    let length = length(&pieces);
    // Of an unknown state it is right for this visitor and nobody after.
    Ok(match version {
        Some(version) => shop.kept.keep_page(address, version, pieces, made_of, length),
        None => Arc::new(Page::passing(pieces, made_of, length)),
    })
}

fn length(pieces: &[Piece]) -> usize {
    let of = |piece: &Piece| match piece {
        Piece::Text(text) => text.len(),
        Piece::Card(card) => length(card),
        Piece::Control(control) => length(&control.plain),
        Piece::Token | Piece::Here | Piece::Basket => 64,
    };
    pieces.iter().map(of).sum()
}

fn card(visit: &Visit, product: &Product) -> Result<Arc<[Piece]>, PageError> {
    let kept = &visit.shop.kept;
    let made_of = kept.hash(product);
    if let Some(card) = kept.card(visit.language, product.id, made_of) {
        return Ok(card);
    }
    let control = Arc::new(control(visit, Place::Card, product)?);
    let values = context! {
        product => Value::from_object(Shelved::of(product, 0)),
        control => Value::from_safe_string(kept.marks.control(0)),
    };
    let html = visit.shop.pages.render(visit.language, "partials/card.html", values)?;
    let card: Arc<[Piece]> = kept.part(&html, &[], &[control]).into();
    kept.keep_card(visit.language, product.id, made_of, &card);
    Ok(card)
}

fn control(visit: &Visit, place: Place, product: &Product) -> Result<Control, PageError> {
    let made_of = visit.shop.kept.hash(product);
    let plain = control_with(visit, place, product, 0)?.into();
    Ok(Control { place, product: product.id, made_of, plain })
}

fn control_with(
    visit: &Visit,
    place: Place,
    product: &Product,
    in_cart: i64,
) -> Result<Vec<Piece>, PageError> {
    let kept = &visit.shop.kept;
    let here = kept.marks.here();
    let (place, back) = match place {
        Place::Page | Place::Header => ("page", here),
        Place::Card => ("card", format!("{here}#p{}", product.id)),
    };
    let product = Value::from_object(Shelved::of(product, in_cart));
    let values = context! { product, place, back, csrf => kept.marks.token() };
    let html = visit.shop.pages.render(visit.language, "partials/control.html", values)?;
    Ok(kept.part(&html, &[], &[]))
}

/// A page as this visitor sees it.
pub(crate) fn put_together(visit: &Visit, page: &Page, here: &str) -> Result<String, PageError> {
    let own = Own { visit, token: visit.csrf(), here: HtmlEscape(here).to_string() };
    let mut html = String::with_capacity(page.length + 1024);
    own.write(&page.pieces, &mut html)?;
    Ok(html)
}

/// What is the visitor's own on a page.
struct Own<'a> {
    visit: &'a Visit,
    token: String,
    here: String,
}

impl Own<'_> {
    fn write(&self, pieces: &[Piece], html: &mut String) -> Result<(), PageError> {
        for piece in pieces {
            match piece {
                Piece::Text(text) => html.push_str(text),
                Piece::Token => html.push_str(&self.token),
                Piece::Here => html.push_str(&self.here),
                Piece::Basket => self.write_basket(html)?,
                Piece::Card(card) => self.write(card, html)?,
                Piece::Control(control) => match self.visit.cart.quantity(control.product) {
                    0 => self.write(&control.plain, html)?,
                    in_cart => self.write_control(control, in_cart, html)?,
                },
            }
        }
        Ok(())
    }

    fn write_basket(&self, html: &mut String) -> Result<(), PageError> {
        let (kept, language, count) = (&self.visit.shop.kept, self.visit.language, self.visit.cart.pieces());
        let which = (language, Place::Header, 0, count);
        let pieces = match kept.control(which, 0) {
            Some(pieces) => pieces,
            None => {
                let pieces = kept.part(&self.visit.basket_count()?, &[], &[]).into();
                kept.keep_control(which, 0, &pieces);
                pieces
            }
        };
        self.write(&pieces, html)
    }

    fn write_control(&self, control: &Control, in_cart: i64, html: &mut String) -> Result<(), PageError> {
        let kept = &self.visit.shop.kept;
        let which = (self.visit.language, control.place, control.product, in_cart);
        if let Some(pieces) = kept.control(which, control.made_of) {
            return self.write(&pieces, html);
        }
        let read = self.visit.shop.store.read_here(|connection| products::find(connection, control.product));
        // Gone just now: the page is looked at again with the next request.
        let Some(product) = read? else { return Ok(()) };
        let pieces: Arc<[Piece]> = control_with(self.visit, control.place, &product, in_cart)?.into();
        kept.keep_control(which, kept.hash(&product), &pieces);
        self.write(&pieces, html)
    }
}

/// What a page is made of, in a number.
pub(crate) fn made_of(visit: &Visit, found: &impl Hash) -> u64 {
    visit.shop.kept.hash(found)
}
