//! Numbers about the shop, for the dashboard and for those who watch over it.

use rusqlite::Connection;
use serde::Serialize;

use super::Result;

/// One day of sales, by India's calendar.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Day {
    /// `2026-03-01`.
    pub(crate) day: String,
    pub(crate) orders: i64,
    pub(crate) paise: i64,
}

/// The last `days` days, today last; days without orders are there with zeros.
pub(crate) fn days(connection: &Connection, days: i64) -> Result<Vec<Day>> {
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE calendar (day, n) AS (
             SELECT date('now', '+330 minutes'), 1
             UNION ALL SELECT date(day, '-1 day'), n + 1 FROM calendar WHERE n < ?1)
         SELECT c.day, count(o.id) AS orders, coalesce(sum(o.total_paise - o.refunded_paise), 0) AS paise
         FROM calendar AS c LEFT JOIN orders AS o
             ON o.created_at >= strftime('%Y-%m-%dT%H:%M:%SZ', c.day, '-330 minutes')
            AND o.created_at < strftime('%Y-%m-%dT%H:%M:%SZ', c.day, '+1 day', '-330 minutes')
            AND o.state IN ('placed', 'packed', 'out', 'delivered')
         GROUP BY c.day ORDER BY c.day",
    )?;
    let rows = statement
        .query_map([days], |row| {
            Ok(Day { day: row.get("day")?, orders: row.get("orders")?, paise: row.get("paise")? })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// What a watcher wants to know of the database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Orders by state.
    pub(crate) orders: Vec<(String, i64)>,
    pub(crate) products_for_sale: i64,
    pub(crate) mails_waiting: i64,
    pub(crate) mails_given_up: i64,
    /// Seconds that the oldest waiting mail has waited.
    pub(crate) oldest_mail_seconds: i64,
    pub(crate) refunds_due: i64,
    pub(crate) refunds_failed: i64,
    pub(crate) holds: i64,
    pub(crate) messages_waiting: i64,
}

/// Counts what a watcher wants to know.
pub(crate) fn counts(connection: &Connection) -> Result<Counts> {
    let mut statement =
        connection.prepare_cached("SELECT state, count(*) FROM orders GROUP BY state ORDER BY state")?;
    let orders = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<std::result::Result<_, _>>()?;
    let number =
        |sql: &str| -> Result<i64> { Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?) };
    let (mails_waiting, mails_given_up) = super::outbox::counts(connection)?;
    Ok(Counts {
        orders,
        products_for_sale: number("SELECT count(*) FROM products WHERE is_active = 1")?,
        mails_waiting,
        mails_given_up,
        oldest_mail_seconds: number(
            "SELECT coalesce(max(unixepoch('now') - unixepoch(created_at)), 0) FROM outbox WHERE status = 'waiting'",
        )?,
        refunds_due: number("SELECT count(*) FROM refunds WHERE status IN ('due', 'pending')")?,
        refunds_failed: number("SELECT count(*) FROM refunds WHERE status = 'failed'")?,
        holds: number("SELECT count(*) FROM stock_holds WHERE status = 'held'")?,
        messages_waiting: super::messages::waiting(connection)?,
    })
}
