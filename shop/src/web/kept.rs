//! Pages that are the same for every visitor with an empty basket, kept until anything in the database changes.
//!
//! What differs is the token in the forms: the page is kept in pieces between which each visitor's own is put.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::db::random_hex;

/// The most bytes of pages that are kept.
const MOST_BYTES: usize = 40 * 1024 * 1024;

/// The kept pages, by address.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    stand_in: OnceLock<String>,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    /// The state of the database that they show.
    version: i64,
    bytes: usize,
    by_address: HashMap<String, std::sync::Arc<[Box<str>]>>,
}

impl Kept {
    /// Stands for the form token while a page is made: random, so that no text of the shop can contain it.
    pub(crate) fn token_stand_in(&self) -> &str {
        self.stand_in.get_or_init(random_hex::<16>)
    }

    /// The page of an address as it was made for this state of the database, with a visitor's token.
    pub(crate) fn find(&self, address: &str, version: i64, token: impl FnOnce() -> String) -> Option<String> {
        let pieces = {
            let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
            if pages.version != version {
                return None;
            }
            pages.by_address.get(address)?.clone()
        };
        Some(joined(&pieces, token))
    }

    /// Keeps a page that was made with the stand-in, and answers it with the visitor's token.
    pub(crate) fn keep(
        &self,
        address: &str,
        version: i64,
        page: &str,
        token: impl FnOnce() -> String,
    ) -> String {
        let pieces: std::sync::Arc<[Box<str>]> = page.split(self.token_stand_in()).map(Box::from).collect();
        let answer = joined(&pieces, token);
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        // Beyond the limit all is forgotten: what is asked for often is soon there again.
        if pages.version != version || pages.bytes + page.len() > MOST_BYTES {
            *pages = Pages { version, ..Pages::default() };
        }
        if pages.by_address.insert(address.to_owned(), pieces).is_none() {
            pages.bytes += page.len() + address.len();
        }
        answer
    }
}

fn joined(pieces: &[Box<str>], token: impl FnOnce() -> String) -> String {
    let token = if pieces.len() > 1 { token() } else { String::new() };
    pieces.join(&token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_visitor_gets_the_own_token_and_nobody_an_old_page() {
        let kept = Kept::default();
        let page = format!("<a>{0}</a><b>{0}</b>", kept.token_stand_in());
        assert_eq!(kept.keep("/", 7, &page, || "one".to_owned()), "<a>one</a><b>one</b>");
        assert_eq!(kept.find("/", 7, || "two".to_owned()).unwrap(), "<a>two</a><b>two</b>");
        assert_eq!(kept.find("/", 8, || "two".to_owned()), None, "the database has changed");
        assert_eq!(kept.find("/cart", 7, || "two".to_owned()), None);
        kept.keep("/", 8, "new", String::new);
        assert_eq!(kept.find("/", 7, String::new), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = Kept::default();
        let page = "x".repeat(1024 * 1024);
        for number in 0..100 {
            kept.keep(&number.to_string(), 1, &page, String::new);
            assert!(kept.pages.lock().unwrap().bytes <= MOST_BYTES);
        }
    }
}
