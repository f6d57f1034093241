-- What is sold, and where it is delivered. Money is whole paise everywhere: an INTEGER never rounds.
CREATE TABLE categories (
    id       INTEGER PRIMARY KEY,
    slug     TEXT NOT NULL UNIQUE,
    name     TEXT NOT NULL,
    position INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE products (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    category_id  INTEGER NOT NULL REFERENCES categories (id),
    name         TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
    local_name   TEXT,
    description  TEXT NOT NULL DEFAULT '',
    pack_size    TEXT NOT NULL,
    -- Net quantity in `unit`: what the price per kilogram, litre or piece is worked out from.
    net_quantity INTEGER NOT NULL CHECK (net_quantity > 0),
    unit         TEXT NOT NULL CHECK (unit IN ('g', 'ml', 'piece')),
    mrp_paise    INTEGER NOT NULL CHECK (mrp_paise > 0),
    price_paise  INTEGER NOT NULL CHECK (price_paise > 0 AND price_paise <= mrp_paise),
    stock        INTEGER NOT NULL DEFAULT 0 CHECK (stock >= 0),
    is_active    INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    is_featured  INTEGER NOT NULL DEFAULT 0 CHECK (is_featured IN (0, 1)),
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    updated_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    UNIQUE (name, pack_size)
) STRICT;

CREATE INDEX products_by_category ON products (category_id, is_active);

CREATE TABLE regions (
    id    INTEGER PRIMARY KEY,
    name  TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL
) STRICT;

-- A pincode belongs to the region with its longest matching prefix; one without a match is not served.
CREATE TABLE region_pincodes (
    prefix    TEXT PRIMARY KEY CHECK (length(prefix) BETWEEN 3 AND 6 AND prefix NOT GLOB '*[^0-9]*'),
    region_id INTEGER NOT NULL REFERENCES regions (id)
) STRICT;

CREATE INDEX region_pincodes_by_region ON region_pincodes (region_id);
