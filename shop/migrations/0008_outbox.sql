-- Mail that is to be sent, written in the transaction of what it tells about. The words are in templates/mail/.
CREATE TABLE outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The same thing is told once: for orders `order/NUMBER/KIND`.
    dedupe_key TEXT NOT NULL UNIQUE,
    -- Which text: templates/mail/KIND.txt.
    kind       TEXT NOT NULL,
    order_id   INTEGER REFERENCES orders (id),
    recipient  TEXT NOT NULL,
    -- JSON: what the text needs beside the order. Emptied once sent, because a link may be in it.
    facts      TEXT NOT NULL DEFAULT '{}',
    status     TEXT NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'sent', 'given-up')),
    attempts   INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    last_error TEXT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    sent_at    TEXT
) STRICT;

CREATE INDEX outbox_waiting ON outbox (next_at) WHERE status = 'waiting';
CREATE INDEX outbox_by_order ON outbox (order_id) WHERE order_id IS NOT NULL;
