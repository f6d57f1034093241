-- Orders can wait for a payment, expire and be refunded; they can belong to a member and have a time of delivery.
--
-- The table is rebuilt because SQLite cannot change a CHECK. Foreign keys must be off while this runs.
CREATE TABLE orders_wider (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    token           TEXT NOT NULL UNIQUE,
    idempotency_key TEXT NOT NULL UNIQUE,
    -- Set for those who were signed in when they ordered. Never found by e-mail address: anybody can type one.
    user_id         INTEGER REFERENCES users (id) ON DELETE SET NULL,
    customer_name   TEXT NOT NULL,
    phone           TEXT NOT NULL,
    email           TEXT,
    address         TEXT NOT NULL,
    city            TEXT NOT NULL,
    pincode         TEXT NOT NULL,
    region_id       INTEGER NOT NULL REFERENCES regions (id),
    -- The day in India, YYYY-MM-DD, and the hours.
    delivery_day    TEXT CHECK (delivery_day GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]'),
    slot_id         INTEGER REFERENCES delivery_slots (id),
    substitution    TEXT NOT NULL DEFAULT 'call' CHECK (substitution IN ('call', 'similar', 'none')),
    subtotal_paise  INTEGER NOT NULL CHECK (subtotal_paise > 0),
    delivery_paise  INTEGER NOT NULL CHECK (delivery_paise >= 0),
    total_paise     INTEGER NOT NULL CHECK (total_paise = subtotal_paise + delivery_paise),
    -- What went back to the customer; kept equal to the sum of `refunds` that are not failed.
    refunded_paise  INTEGER NOT NULL DEFAULT 0 CHECK (refunded_paise BETWEEN 0 AND total_paise),
    payment_method  TEXT NOT NULL DEFAULT 'on-delivery' CHECK (payment_method IN ('on-delivery', 'razorpay')),
    payment_status  TEXT NOT NULL DEFAULT 'pending'
                    CHECK (payment_status IN ('pending', 'paid', 'part-refunded', 'refunded')),
    state           TEXT NOT NULL DEFAULT 'placed'
                    CHECK (state IN ('awaiting-payment', 'expired', 'placed', 'packed', 'out', 'delivered', 'cancelled')),
    -- A customer who asks for money back; answered by refunds or a message.
    refund_wish     TEXT CHECK (length(refund_wish) <= 500),
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    updated_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

INSERT INTO orders_wider (id, token, idempotency_key, customer_name, phone, email, address, city, pincode, region_id,
    subtotal_paise, delivery_paise, total_paise, payment_method, payment_status, state, created_at, updated_at)
SELECT id, token, idempotency_key, customer_name, phone, email, address, city, pincode, region_id,
    subtotal_paise, delivery_paise, total_paise, payment_method, payment_status, state, created_at, updated_at
FROM orders;

-- The rebuilt table goes on counting where the old one was: no order number is given twice.
DELETE FROM sqlite_sequence WHERE name = 'orders_wider';
INSERT INTO sqlite_sequence (name, seq) SELECT 'orders_wider', seq FROM sqlite_sequence WHERE name = 'orders';

DROP TABLE orders;
ALTER TABLE orders_wider RENAME TO orders;

CREATE INDEX orders_by_state ON orders (state, id);
CREATE INDEX orders_by_created_at ON orders (created_at);
CREATE INDEX orders_by_user ON orders (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX orders_by_slot ON orders (delivery_day, slot_id) WHERE slot_id IS NOT NULL;

-- Every step of an order and of its payment, never changed afterwards.
CREATE TABLE order_history (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id   INTEGER NOT NULL REFERENCES orders (id),
    from_state TEXT,
    to_state   TEXT NOT NULL,
    -- customer, admin, payment or clock.
    actor      TEXT NOT NULL,
    note       TEXT NOT NULL DEFAULT '',
    at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

CREATE INDEX order_history_by_order ON order_history (order_id, id);
