-- What the law wants to be shown, what accountants need, and how else people call it (for the search).
ALTER TABLE products ADD COLUMN search_words TEXT NOT NULL DEFAULT '';
ALTER TABLE products ADD COLUMN maker TEXT NOT NULL DEFAULT '';
ALTER TABLE products ADD COLUMN origin TEXT NOT NULL DEFAULT 'India';
ALTER TABLE products ADD COLUMN best_before TEXT NOT NULL DEFAULT '';
ALTER TABLE products ADD COLUMN hsn TEXT NOT NULL DEFAULT '';
-- Hundredths of a percent: 5 % is 500. Prices include it.
ALTER TABLE products ADD COLUMN gst_basis_points INTEGER NOT NULL DEFAULT 0 CHECK (gst_basis_points BETWEEN 0 AND 2800);
ALTER TABLE products ADD COLUMN sku TEXT;

CREATE UNIQUE INDEX products_by_sku ON products (sku) WHERE sku IS NOT NULL;
CREATE INDEX products_featured ON products (category_id, id) WHERE is_featured = 1;
CREATE INDEX products_by_price ON products (price_paise, id);
CREATE INDEX products_by_name ON products (name COLLATE NOCASE, id);

-- Pictures, cut to size and encoded anew. They are in the database so that one backup holds all of the shop.
CREATE TABLE product_images (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    product_id INTEGER NOT NULL REFERENCES products (id) ON DELETE CASCADE,
    name       TEXT NOT NULL UNIQUE CHECK (length(name) = 32),
    position   INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

CREATE INDEX product_images_by_product ON product_images (product_id, position, id);

CREATE TABLE product_image_sizes (
    image_id INTEGER NOT NULL REFERENCES product_images (id) ON DELETE CASCADE,
    width    INTEGER NOT NULL,
    height   INTEGER NOT NULL,
    jpeg     BLOB NOT NULL,
    PRIMARY KEY (image_id, width)
) STRICT;

-- The words of the goods. Without `categories`, words of Indian scripts would be split at each vowel sign.
CREATE VIRTUAL TABLE product_search USING fts5 (
    name, local_name, search_words, description,
    content = 'products', content_rowid = 'id', prefix = '2 3',
    tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'"
);

INSERT INTO product_search (product_search) VALUES ('rebuild');

CREATE TRIGGER product_search_insert AFTER INSERT ON products BEGIN
    INSERT INTO product_search (rowid, name, local_name, search_words, description)
    VALUES (new.id, new.name, new.local_name, new.search_words, new.description);
END;

CREATE TRIGGER product_search_delete AFTER DELETE ON products BEGIN
    INSERT INTO product_search (product_search, rowid, name, local_name, search_words, description)
    VALUES ('delete', old.id, old.name, old.local_name, old.search_words, old.description);
END;

CREATE TRIGGER product_search_update AFTER UPDATE OF name, local_name, search_words, description ON products BEGIN
    INSERT INTO product_search (product_search, rowid, name, local_name, search_words, description)
    VALUES ('delete', old.id, old.name, old.local_name, old.search_words, old.description);
    INSERT INTO product_search (rowid, name, local_name, search_words, description)
    VALUES (new.id, new.name, new.local_name, new.search_words, new.description);
END;
