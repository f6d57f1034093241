//! What the customers noted: requests, failures, and the orders that they were promised.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::Trouble;

/// An order that the shop confirmed.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    /// Its number.
    pub(crate) order: i64,
    /// The key of its page.
    pub(crate) token: String,
    pub(crate) product: i64,
    pub(crate) quantity: i64,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    requests: u64,
    slowest: Duration,
    failures: Vec<String>,
    promises: Vec<Promise>,
    lost: Vec<String>,
}

impl Ledger {
    pub(crate) fn asked(&mut self, took: Duration) {
        self.requests += 1;
        self.slowest = self.slowest.max(took);
    }

    pub(crate) fn failed(&mut self, what: String) {
        self.failures.push(what);
    }

    pub(crate) fn promise(&mut self, promise: Promise) {
        self.promises.push(promise);
    }

    /// Requests that were answered or failed.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    pub(crate) fn slowest_ms(&self) -> u64 {
        u64::try_from(self.slowest.as_millis()).unwrap_or(u64::MAX)
    }

    /// Connections that broke and answers that were not the expected ones, in words.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// How many orders were promised.
    pub(crate) fn promised(&self) -> usize {
        self.promises.len()
    }

    /// Promised orders that are not in the database as they were promised, in words; known after
    /// [`Ledger::compared_with`].
    pub(crate) fn lost(&self) -> &[String] {
        &self.lost
    }

    /// Looks for every promised order, and for what was bought with it.
    pub(crate) fn compared_with(mut self, database: &Path) -> Result<Ledger, Trouble> {
        let mistake = |source| Trouble::Database { what: "the orders cannot be looked up", source };
        let connection =
            Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(mistake)?;
        let mut find = connection
            .prepare(
                "SELECT o.token, i.product_id, i.quantity
                 FROM orders o LEFT JOIN order_items i ON i.order_id = o.id WHERE o.id = ?1",
            )
            .map_err(mistake)?;
        for promise in &self.promises {
            let found = find
                .query_map([promise.order], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .and_then(Iterator::collect::<Result<Vec<(String, Option<i64>, Option<i64>)>, _>>)
                .map_err(mistake)?;
            let wanted = (promise.token.clone(), Some(promise.product), Some(promise.quantity));
            if found != [wanted] {
                self.lost.push(format!("lost: {promise:?}; in the database are {found:?}"));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_without_its_items_or_under_another_number_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        Connection::open(&file)
            .unwrap()
            .execute_batch(
                "CREATE TABLE orders (id INTEGER PRIMARY KEY, token TEXT);
                 CREATE TABLE order_items (order_id INTEGER, product_id INTEGER, quantity INTEGER);
                 INSERT INTO orders VALUES (1, 'a'), (2, 'b'), (4, 'c'), (5, 'e');
                 INSERT INTO order_items VALUES (1, 7, 2), (4, 7, 2), (5, 7, 1);",
            )
            .unwrap();
        let mut ledger = Ledger::default();
        for (order, token) in [(1, "a"), (2, "b"), (3, "c"), (5, "e")] {
            ledger.promise(Promise { order, token: token.to_owned(), product: 7, quantity: 2 });
        }
        let ledger = ledger.compared_with(&file).unwrap();
        let lost: Vec<bool> =
            [1, 2, 3, 5].map(|n| ledger.lost().iter().any(|l| l.contains(&format!("order: {n},")))).into();
        assert_eq!(lost, [false, true, true, true], "{:#?}", ledger.lost());
    }
}
