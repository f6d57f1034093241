-- An order is its own record: what was bought, at which price, is copied and never looked up again.
CREATE TABLE orders (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The key to the customer's page. The number can be guessed, this cannot.
    token           TEXT NOT NULL UNIQUE,
    -- Made by the checkout form: the same form sent twice is one order.
    idempotency_key TEXT NOT NULL UNIQUE,
    customer_name   TEXT NOT NULL,
    phone           TEXT NOT NULL,
    email           TEXT,
    address         TEXT NOT NULL,
    city            TEXT NOT NULL,
    pincode         TEXT NOT NULL,
    region_id       INTEGER NOT NULL REFERENCES regions (id),
    subtotal_paise  INTEGER NOT NULL CHECK (subtotal_paise > 0),
    delivery_paise  INTEGER NOT NULL CHECK (delivery_paise >= 0),
    total_paise     INTEGER NOT NULL CHECK (total_paise = subtotal_paise + delivery_paise),
    payment_method  TEXT NOT NULL DEFAULT 'on-delivery',
    payment_status  TEXT NOT NULL DEFAULT 'pending' CHECK (payment_status IN ('pending', 'paid')),
    state           TEXT NOT NULL DEFAULT 'placed'
                    CHECK (state IN ('placed', 'packed', 'out', 'delivered', 'cancelled')),
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    updated_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

CREATE INDEX orders_by_state ON orders (state, id);
CREATE INDEX orders_by_created_at ON orders (created_at);

-- No ON DELETE CASCADE: an order with lines must not vanish by a side effect.
CREATE TABLE order_items (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id         INTEGER NOT NULL REFERENCES orders (id),
    product_id       INTEGER NOT NULL REFERENCES products (id),
    product_name     TEXT NOT NULL,
    pack_size        TEXT NOT NULL,
    quantity         INTEGER NOT NULL CHECK (quantity > 0),
    unit_price_paise INTEGER NOT NULL CHECK (unit_price_paise > 0),
    UNIQUE (order_id, product_id)
) STRICT;

CREATE INDEX order_items_by_product ON order_items (product_id);
