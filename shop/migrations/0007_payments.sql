-- One row per order at the payment gateway. It is written before the gateway is called: `receipt` finds an order
-- whose answer was lost.
CREATE TABLE payments (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id          INTEGER NOT NULL REFERENCES orders (id),
    receipt           TEXT NOT NULL UNIQUE CHECK (length(receipt) <= 40),
    razorpay_order_id TEXT UNIQUE,
    -- The captured or last tried payment. One payment pays one order.
    payment_id        TEXT UNIQUE,
    amount_paise      INTEGER NOT NULL CHECK (amount_paise >= 100),
    currency          TEXT NOT NULL DEFAULT 'INR',
    -- `failed` is not the end: a silent bank may still authorise for days.
    status            TEXT NOT NULL DEFAULT 'created'
                      CHECK (status IN ('created', 'attempted', 'authorized', 'captured', 'failed', 'abandoned', 'refunded')),
    attempts          INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error        TEXT,
    -- When the reconciler looks at it again; NULL when there is nothing left to learn.
    next_check_at     TEXT,
    created_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    updated_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

CREATE INDEX payments_by_order ON payments (order_id);
CREATE INDEX payments_to_check ON payments (next_check_at) WHERE next_check_at IS NOT NULL;

-- Events are told at least once and in any order: the id lets each have one effect.
CREATE TABLE webhook_events (
    event_id    TEXT PRIMARY KEY,
    event       TEXT NOT NULL,
    payment_id  TEXT,
    order_id    INTEGER REFERENCES orders (id),
    outcome     TEXT NOT NULL,
    received_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT, WITHOUT ROWID;

-- Money on its way back. `due` is to be sent to the gateway; `by-hand` was given back at the door or by the bank.
CREATE TABLE refunds (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id           INTEGER NOT NULL REFERENCES orders (id),
    payment_id         TEXT,
    idempotency_key    TEXT NOT NULL UNIQUE CHECK (length(idempotency_key) BETWEEN 10 AND 60),
    amount_paise       INTEGER NOT NULL CHECK (amount_paise > 0),
    method             TEXT NOT NULL CHECK (method IN ('razorpay', 'by-hand')),
    reason             TEXT NOT NULL DEFAULT '',
    status             TEXT NOT NULL DEFAULT 'due' CHECK (status IN ('due', 'pending', 'processed', 'failed')),
    razorpay_refund_id TEXT UNIQUE,
    attempts           INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error         TEXT,
    next_try_at        TEXT,
    created_at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    updated_at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

CREATE INDEX refunds_by_order ON refunds (order_id);
CREATE INDEX refunds_open ON refunds (status, next_try_at) WHERE status IN ('due', 'pending');
