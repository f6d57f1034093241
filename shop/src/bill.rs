//! What a basket costs: worked out from the database's products, never from what a browser sent.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::db::placing::Shortage;
use crate::db::products::Product;

/// From this subtotal on delivery is free.
pub(crate) const FREE_DELIVERY_FROM_PAISE: i64 = 49_900;

/// What delivery costs below that.
pub(crate) const DELIVERY_PAISE: i64 = 4_000;

/// A line of a basket.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) product: Product,
    pub(crate) quantity: i64,
    pub(crate) line_paise: i64,
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
            left: if self.product.is_active { self.product.stock } else { 0 },
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
    /// Every line can be delivered.
    pub(crate) orderable: bool,
}

impl Bill {
    /// The bill for `(product, quantity)` lines.
    pub(crate) fn of(wanted: &[(i64, i64)], products: &BTreeMap<i64, Product>) -> Self {
        let mut lines = Vec::new();
        let mut missing = Vec::new();
        for (id, quantity) in wanted {
            match products.get(id) {
                Some(product) => lines.push(Line {
                    line_paise: product.price_paise * quantity,
                    available: product.is_active && product.stock >= *quantity,
                    quantity: *quantity,
                    product: product.clone(),
                }),
                None => missing.push(*id),
            }
        }
        let subtotal_paise: i64 = lines.iter().map(|line| line.line_paise).sum();
        let free = lines.is_empty() || subtotal_paise >= FREE_DELIVERY_FROM_PAISE;
        let delivery_paise = if free { 0 } else { DELIVERY_PAISE };
        Self {
            pieces: lines.iter().map(|line| line.quantity).sum(),
            saved_paise: lines.iter().map(|line| line.product.mrp_paise * line.quantity).sum::<i64>()
                - subtotal_paise,
            subtotal_paise,
            delivery_paise,
            total_paise: subtotal_paise + delivery_paise,
            to_free_delivery_paise: if free { 0 } else { FREE_DELIVERY_FROM_PAISE - subtotal_paise },
            orderable: missing.is_empty() && !lines.is_empty() && lines.iter().all(|line| line.available),
            lines,
            missing,
        }
    }

    /// The lines that cannot be delivered.
    pub(crate) fn shortages(&self) -> Vec<Shortage> {
        let gone = self.missing.iter().map(|id| Shortage {
            product_id: *id,
            name: "A product that we no longer sell".to_owned(),
            wanted: 1,
            left: 0,
        });
        gone.chain(self.lines.iter().filter(|line| !line.available).map(Line::shortage)).collect()
    }
}
