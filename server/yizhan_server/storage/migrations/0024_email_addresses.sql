-- E-mail addresses of accounts, and verifications that were asked for.

CREATE TABLE email_address (
    -- In canonical form. An address belongs to one account.
    address TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    validated_ms INTEGER NOT NULL,
    added_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX email_address_by_user ON email_address (user_id);

CREATE TABLE email_verification (
    sid TEXT NOT NULL PRIMARY KEY,
    address TEXT NOT NULL,
    -- 'register', 'add' or 'password': what it is good for.
    purpose TEXT NOT NULL,
    -- SHA-256 of the client's secret, and of the token in the last mail.
    secret_digest BLOB NOT NULL,
    token_digest BLOB,
    -- The client's number of the last mail that the mail server took.
    attempt INTEGER NOT NULL,
    next_link TEXT,
    validated_ms INTEGER,
    expires_ms INTEGER NOT NULL,
    UNIQUE (address, purpose, secret_digest)
) WITHOUT ROWID;
CREATE INDEX email_verification_by_expiry ON email_verification (expires_ms);

-- The verification that a stage of the session was passed with.
ALTER TABLE confirmation ADD COLUMN email_sid TEXT;
