//! What a basket costs: worked out from the database's products, never from what a browser sent.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::db::delivery::Terms;
use crate::db::placing::Shortage;
use crate::db::products::Product;

/// A line of a basket.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) product: Product,
    pub(crate) quantity: i64,
    pub(crate) line_paise: i64,
    /// It is sold where the customer lives, as far as that is known.
    pub(crate) sold_there: bool,
    /// It can be delivered in this quantity now.
    pub(crate) available: bool,
}

impl Line {
    /// What is missing to deliver this line.
    pub(crate) fn shortage(&self) -> Shortage {
        Shortage {
            product_id: self.product.id,
            name: self.product.name.clone(),
            wanted: self.quantity,
            left: if self.product.is_active && self.sold_there { self.product.stock } else { 0 },
            sold_there: self.sold_there,
        }
    }
}

/// A basket with today's prices. Products that are gone altogether are in `missing`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Bill {
    pub(crate) lines: Vec<Line>,
    /// Numbers of products that no longer exist.
    pub(crate) missing: Vec<i64>,
    /// Pieces over all lines.
    pub(crate) pieces: i64,
    pub(crate) subtotal_paise: i64,
    pub(crate) delivery_paise: i64,
    pub(crate) total_paise: i64,
    /// Below the MRP.
    pub(crate) saved_paise: i64,
    /// How much more makes delivery free; 0 when it is.
    pub(crate) to_free_delivery_paise: i64,
    /// How much more makes it an order that is taken; 0 when it is one.
    pub(crate) to_minimum_paise: i64,
    /// Every line can be delivered, and it is enough of it.
    pub(crate) orderable: bool,
}

impl Bill {
    /// The bill for `(product, quantity)` lines on these terms; `not_sold` are not sold in the customer's region.
    ///
    /// Prices and quantities have upper bounds that keep every sum far below `i64::MAX`; the release build checks
    /// for overflow all the same and fails instead of charging a wrong amount.
    pub(crate) fn of(
        wanted: &[(i64, i64)],
        products: &BTreeMap<i64, Product>,
        terms: &Terms,
        not_sold: &[i64],
    ) -> Self {
        let mut lines = Vec::new();
        let mut missing = Vec::new();
        for (id, quantity) in wanted {
            match products.get(id) {
                Some(product) => {
                    let sold_there = !not_sold.contains(id);
                    lines.push(Line {
                        line_paise: product.price_paise * quantity,
                        sold_there,
                        available: sold_there && product.is_active && product.stock >= *quantity,
                        quantity: *quantity,
                        product: product.clone(),
                    });
                }
                None => missing.push(*id),
            }
        }
        let subtotal_paise: i64 = lines.iter().map(|line| line.line_paise).sum();
        let free = lines.is_empty() || subtotal_paise >= terms.free_from_paise;
        let delivery_paise = if free { 0 } else { terms.delivery_paise };
        let to_minimum_paise = (terms.minimum_paise - subtotal_paise).max(0);
        Self {
            pieces: lines.iter().map(|line| line.quantity).sum(),
            saved_paise: lines.iter().map(|line| line.product.mrp_paise * line.quantity).sum::<i64>()
                - subtotal_paise,
            subtotal_paise,
            delivery_paise,
            total_paise: subtotal_paise + delivery_paise,
            to_free_delivery_paise: if free { 0 } else { terms.free_from_paise - subtotal_paise },
            to_minimum_paise,
            orderable: missing.is_empty()
                && !lines.is_empty()
                && to_minimum_paise == 0
                && lines.iter().all(|line| line.available),
            lines,
            missing,
        }
    }

    /// The lines that cannot be delivered.
    pub(crate) fn shortages(&self) -> Vec<Shortage> {
        let gone = self.missing.iter().map(|id| Shortage {
            product_id: *id,
            // Its name is gone with it.
            name: String::new(),
            wanted: 1,
            left: 0,
            sold_there: true,
        });
        gone.chain(self.lines.iter().filter(|line| !line.available).map(Line::shortage)).collect()
    }
}
