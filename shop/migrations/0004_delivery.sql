-- When and on which terms a region is served. What is NULL follows the shop's general terms.
ALTER TABLE regions ADD COLUMN is_active INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1));
ALTER TABLE regions ADD COLUMN delivery_paise INTEGER CHECK (delivery_paise >= 0);
ALTER TABLE regions ADD COLUMN free_from_paise INTEGER CHECK (free_from_paise >= 0);
ALTER TABLE regions ADD COLUMN minimum_paise INTEGER CHECK (minimum_paise >= 0);

-- A product without a row here is sold everywhere: a region that is added later gets it too.
CREATE TABLE product_regions (
    product_id INTEGER NOT NULL REFERENCES products (id) ON DELETE CASCADE,
    region_id  INTEGER NOT NULL REFERENCES regions (id) ON DELETE CASCADE,
    PRIMARY KEY (product_id, region_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX product_regions_by_region ON product_regions (region_id);

-- Hours of the day (India's) in which orders are brought, each day. How many are booked is counted in `orders`.
CREATE TABLE delivery_slots (
    id             INTEGER PRIMARY KEY,
    starts         TEXT NOT NULL CHECK (starts GLOB '[0-2][0-9]:[0-5][0-9]'),
    ends           TEXT NOT NULL CHECK (ends GLOB '[0-2][0-9]:[0-5][0-9]' AND ends > starts),
    capacity       INTEGER NOT NULL CHECK (capacity >= 0),
    -- Orders are taken until this long before it starts.
    cutoff_minutes INTEGER NOT NULL DEFAULT 120 CHECK (cutoff_minutes >= 0),
    is_active      INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    UNIQUE (starts, ends)
) STRICT;

INSERT INTO delivery_slots (starts, ends, capacity) VALUES ('07:00', '10:00', 40), ('17:00', '20:00', 40);
