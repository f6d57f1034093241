//! A basket: product numbers and quantities, kept in the customer's browser under the shop's signature.
//! Putting something into a basket writes nothing to the database.

use std::collections::BTreeMap;

use crate::sign::Signer;

/// The most of one product in one basket.
pub(crate) const MAX_QUANTITY: i64 = 20;

/// The most different products in one basket: a cookie holds about 4 000 bytes, these need 1 000.
pub(crate) const MAX_LINES: usize = 60;

const PURPOSE: &str = "cart";

/// What a customer wants to buy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cart {
    lines: BTreeMap<i64, i64>,
}

/// Why a basket did not take something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CartFull {
    /// More than [`MAX_QUANTITY`] of one product.
    Quantity,
    /// More than [`MAX_LINES`] products.
    Lines,
}

impl Cart {
    /// Reads a cookie's value. One that is missing, old or forged is an empty basket.
    pub(crate) fn from_cookie(signer: &Signer, value: Option<&str>) -> Self {
        let read = || {
            let (lines, signature) = value?.split_once('.')?;
            if !signer.verify(PURPOSE, &[lines], signature) {
                return None;
            }
            Self::from_lines(lines)
        };
        read().unwrap_or_default()
    }

    /// The cookie's value.
    pub(crate) fn to_cookie(&self, signer: &Signer) -> String {
        let lines = self.to_lines();
        let signature = signer.sign(PURPOSE, &[&lines]);
        format!("{lines}.{signature}")
    }

    /// The lines alone, without a signature: as a member's basket is stored.
    pub(crate) fn to_lines(&self) -> String {
        let lines: Vec<String> = self.lines.iter().map(|(id, quantity)| format!("{id}-{quantity}")).collect();
        lines.join("_")
    }

    /// Reads such lines.
    pub(crate) fn from_lines(lines: &str) -> Option<Self> {
        let pair = |line: &str| {
            let (id, quantity) = line.split_once('-')?;
            Some((id.parse().ok()?, quantity.parse().ok()?))
        };
        let lines = lines.split('_').filter(|line| !line.is_empty()).map(pair).collect::<Option<_>>()?;
        Some(Self { lines })
    }

    /// Puts another basket's goods into this one. Of a product that is in both, the larger quantity is kept: who
    /// signs in does not buy twice. What does not fit is left out.
    pub(crate) fn join(&mut self, other: &Self) {
        for (id, quantity) in &other.lines {
            if self.quantity(*id) < *quantity {
                let _ = self.set(*id, (*quantity).min(MAX_QUANTITY));
            }
        }
    }

    /// Sets the quantity of a product, at least 1.
    pub(crate) fn set(&mut self, product_id: i64, quantity: i64) -> Result<(), CartFull> {
        if quantity > MAX_QUANTITY {
            return Err(CartFull::Quantity);
        }
        if !self.lines.contains_key(&product_id) && self.lines.len() >= MAX_LINES {
            return Err(CartFull::Lines);
        }
        self.lines.insert(product_id, quantity);
        Ok(())
    }

    /// Takes a product out.
    pub(crate) fn remove(&mut self, product_id: i64) {
        self.lines.remove(&product_id);
    }

    /// How much of a product is in it.
    pub(crate) fn quantity(&self, product_id: i64) -> i64 {
        self.lines.get(&product_id).copied().unwrap_or(0)
    }

    /// Product and quantity, by product.
    pub(crate) fn lines(&self) -> Vec<(i64, i64)> {
        self.lines.iter().map(|(id, quantity)| (*id, *quantity)).collect()
    }

    /// Pieces over all lines.
    pub(crate) fn pieces(&self) -> i64 {
        self.lines.values().sum()
    }

    /// Nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Secret;

    #[test]
    fn a_basket_survives_its_cookie_and_a_forged_one_is_empty() {
        let signer = Signer::new(Secret(vec![1; 32]));
        let mut cart = Cart::default();
        cart.set(12, 2).unwrap();
        cart.set(7, 20).unwrap();
        let cookie = cart.to_cookie(&signer);
        assert_eq!(Cart::from_cookie(&signer, Some(&cookie)), cart);
        let forged = cookie.replace("12-2", "12-3");
        assert_ne!(forged, cookie);
        assert!(Cart::from_cookie(&signer, Some(&forged)).is_empty());
        assert!(Cart::from_cookie(&signer, Some("rubbish")).is_empty());
        assert!(Cart::from_cookie(&signer, None).is_empty());
    }

    #[test]
    fn a_full_basket_fits_into_a_cookie() {
        let signer = Signer::new(Secret(vec![1; 32]));
        let mut cart = Cart::default();
        for id in 0..MAX_LINES as i64 {
            cart.set(9_000_000 + id, MAX_QUANTITY).unwrap();
        }
        assert_eq!(cart.set(1, 1), Err(CartFull::Lines));
        assert_eq!(cart.set(9_000_000, MAX_QUANTITY + 1), Err(CartFull::Quantity));
        assert!(cart.to_cookie(&signer).len() < 3_500);
    }
}
