-- In which language a customer is written to. A table of its own: orders that have no row are in English, and a release
-- that knows nothing of it works as before.
CREATE TABLE order_languages (
    order_id INTEGER PRIMARY KEY REFERENCES orders (id) ON DELETE CASCADE,
    language TEXT NOT NULL CHECK (length(language) BETWEEN 2 AND 8)
) STRICT;

ALTER TABLE messages ADD COLUMN language TEXT NOT NULL DEFAULT 'en' CHECK (length(language) BETWEEN 2 AND 8);
