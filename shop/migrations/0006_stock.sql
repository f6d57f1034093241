-- Every change of a stock, with its reason. `products.stock` is what can be sold: held goods are off it.
CREATE TABLE stock_movements (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    product_id  INTEGER NOT NULL REFERENCES products (id),
    change      INTEGER NOT NULL CHECK (change <> 0),
    stock_after INTEGER NOT NULL CHECK (stock_after >= 0),
    reason      TEXT NOT NULL CHECK (reason IN ('start', 'order', 'cancelled', 'expired', 'count', 'delivery', 'spoiled', 'import')),
    order_id    INTEGER REFERENCES orders (id),
    user_id     INTEGER REFERENCES users (id) ON DELETE SET NULL,
    note        TEXT NOT NULL DEFAULT '',
    at          TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

CREATE INDEX stock_movements_by_product ON stock_movements (product_id, id);
CREATE INDEX stock_movements_by_order ON stock_movements (order_id) WHERE order_id IS NOT NULL;

-- The goods of an order that waits for its payment (the lines are those of the order). `held` until paid
-- (`kept`), or given back to the shelf at the latest after `expires_at` (`released`).
CREATE TABLE stock_holds (
    order_id   INTEGER PRIMARY KEY REFERENCES orders (id),
    expires_at TEXT NOT NULL,
    status     TEXT NOT NULL DEFAULT 'held' CHECK (status IN ('held', 'kept', 'released')),
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

CREATE INDEX stock_holds_due ON stock_holds (expires_at) WHERE status = 'held';
