-- Customers may leave a note for the person who delivers.
--
-- The table is rebuilt, so that the column's CHECK holds for every row. Foreign keys must be off while this runs:
-- with them on, DROP TABLE first deletes the orders, which order_items refuses.
CREATE TABLE orders_new (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    token           TEXT NOT NULL UNIQUE,
    idempotency_key TEXT NOT NULL UNIQUE,
    customer_name   TEXT NOT NULL,
    phone           TEXT NOT NULL,
    email           TEXT,
    address         TEXT NOT NULL,
    city            TEXT NOT NULL,
    pincode         TEXT NOT NULL,
    region_id       INTEGER NOT NULL REFERENCES regions (id),
    delivery_note   TEXT CHECK (length(delivery_note) <= 200),
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

INSERT INTO orders_new (id, token, idempotency_key, customer_name, phone, email, address, city, pincode, region_id,
    subtotal_paise, delivery_paise, total_paise, payment_method, payment_status, state, created_at, updated_at)
SELECT id, token, idempotency_key, customer_name, phone, email, address, city, pincode, region_id,
    subtotal_paise, delivery_paise, total_paise, payment_method, payment_status, state, created_at, updated_at
FROM orders;

-- The rebuilt table goes on counting where the old one was: no order number is given twice.
DELETE FROM sqlite_sequence WHERE name = 'orders_new';
INSERT INTO sqlite_sequence (name, seq) SELECT 'orders_new', seq FROM sqlite_sequence WHERE name = 'orders';

DROP TABLE orders;
ALTER TABLE orders_new RENAME TO orders;

CREATE INDEX orders_by_state ON orders (state, id);
CREATE INDEX orders_by_created_at ON orders (created_at);
