-- Customers may leave a note for the person who delivers.
--
-- The table is rebuilt, so that the column's CHECK holds for every row. Foreign keys must be off while this runs:
-- with them on, DROP TABLE first deletes the orders, which order_items refuses.
CREATE TABLE orders_new (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    token           TEXT NOT NULL UNIQUE,
    idempotency_key TEXT NOT NULL UNIQUE,
    user_id         INTEGER REFERENCES users (id) ON DELETE SET NULL,
    customer_name   TEXT NOT NULL,
    phone           TEXT NOT NULL,
    email           TEXT,
    address         TEXT NOT NULL,
    city            TEXT NOT NULL,
    pincode         TEXT NOT NULL,
    region_id       INTEGER NOT NULL REFERENCES regions (id),
    delivery_day    TEXT CHECK (delivery_day GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]'),
    slot_id         INTEGER REFERENCES delivery_slots (id),
    substitution    TEXT NOT NULL DEFAULT 'call' CHECK (substitution IN ('call', 'similar', 'none')),
    delivery_note   TEXT CHECK (length(delivery_note) <= 200),
    subtotal_paise  INTEGER NOT NULL CHECK (subtotal_paise > 0),
    delivery_paise  INTEGER NOT NULL CHECK (delivery_paise >= 0),
    total_paise     INTEGER NOT NULL CHECK (total_paise = subtotal_paise + delivery_paise),
    refunded_paise  INTEGER NOT NULL DEFAULT 0 CHECK (refunded_paise BETWEEN 0 AND total_paise),
    payment_method  TEXT NOT NULL DEFAULT 'on-delivery' CHECK (payment_method IN ('on-delivery', 'razorpay')),
    payment_status  TEXT NOT NULL DEFAULT 'pending'
                    CHECK (payment_status IN ('pending', 'paid', 'part-refunded', 'refunded')),
    state           TEXT NOT NULL DEFAULT 'placed'
                    CHECK (state IN ('awaiting-payment', 'expired', 'placed', 'packed', 'out', 'delivered', 'cancelled')),
    refund_wish     TEXT CHECK (length(refund_wish) <= 500),
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    updated_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

INSERT INTO orders_new (id, token, idempotency_key, user_id, customer_name, phone, email, address, city, pincode, region_id,
    delivery_day, slot_id, substitution, subtotal_paise, delivery_paise, total_paise, refunded_paise,
    payment_method, payment_status, state, refund_wish, created_at, updated_at)
SELECT id, token, idempotency_key, user_id, customer_name, phone, email, address, city, pincode, region_id,
    delivery_day, slot_id, substitution, subtotal_paise, delivery_paise, total_paise, refunded_paise,
    payment_method, payment_status, state, refund_wish, created_at, updated_at
FROM orders;

-- The rebuilt table goes on counting where the old one was: no order number is given twice.
DELETE FROM sqlite_sequence WHERE name = 'orders_new';
INSERT INTO sqlite_sequence (name, seq) SELECT 'orders_new', seq FROM sqlite_sequence WHERE name = 'orders';

DROP TABLE orders;
ALTER TABLE orders_new RENAME TO orders;

CREATE INDEX orders_by_state ON orders (state, id);
CREATE INDEX orders_by_created_at ON orders (created_at);
CREATE INDEX orders_by_user ON orders (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX orders_by_slot ON orders (delivery_day, slot_id) WHERE slot_id IS NOT NULL;
