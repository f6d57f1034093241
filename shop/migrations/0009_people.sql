ALTER TABLE users ADD COLUMN phone TEXT;

CREATE TABLE addresses (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id    INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    phone      TEXT NOT NULL,
    address    TEXT NOT NULL,
    city       TEXT NOT NULL,
    pincode    TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    UNIQUE (user_id, name, address, pincode)
) STRICT;

-- The basket of a member, so that it is there on the next device too. `lines` is as in the cookie.
CREATE TABLE member_carts (
    user_id    INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    lines      TEXT NOT NULL,
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

-- The second factor: a shared secret for codes that change every 30 seconds (RFC 6238).
CREATE TABLE second_factors (
    user_id      INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    secret       TEXT NOT NULL,
    -- NULL until the first right code was typed.
    confirmed_at TEXT,
    -- A code counts once.
    last_step    INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Links in mails, once and for a short time. Only the SHA-256 is kept.
CREATE TABLE password_resets (
    token_hash TEXT PRIMARY KEY,
    user_id    INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at TEXT NOT NULL,
    used_at    TEXT
) STRICT;

CREATE INDEX password_resets_by_user ON password_resets (user_id);

-- What customers write, under a ticket that they can quote.
CREATE TABLE messages (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    ticket      TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    email       TEXT NOT NULL,
    phone       TEXT NOT NULL DEFAULT '',
    order_id    INTEGER REFERENCES orders (id),
    body        TEXT NOT NULL CHECK (length(body) BETWEEN 1 AND 4000),
    state       TEXT NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'answered', 'closed')),
    answer      TEXT,
    answered_at TEXT,
    created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;

CREATE INDEX messages_by_state ON messages (state, id);

-- What admins did. The address is kept although the account may be gone.
CREATE TABLE audit_log (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    user_id INTEGER REFERENCES users (id) ON DELETE SET NULL,
    email   TEXT NOT NULL,
    act     TEXT NOT NULL,
    object  TEXT NOT NULL,
    detail  TEXT NOT NULL DEFAULT ''
) STRICT;
