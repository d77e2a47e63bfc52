-- Sign-in by browser: our own OAuth 2.0 server, its pages, providers that vouch for people; suspension, erasure.

ALTER TABLE account ADD COLUMN is_suspended INTEGER NOT NULL DEFAULT 0;
-- 1: whoever did not see an event of this account before is shown its redacted form.
ALTER TABLE account ADD COLUMN is_erased INTEGER NOT NULL DEFAULT 0;

-- Registered clients. Equal metadata is one client, so that a program's thousand installations are one row.
CREATE TABLE oauth_client (
    client_id TEXT NOT NULL PRIMARY KEY,
    -- JSON.
    metadata BLOB NOT NULL,
    -- When somebody last registered it.
    registered_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX oauth_client_by_registration ON oauth_client (registered_ms);

-- Authorization codes, kept for a while after use: one that is presented twice was stolen.
CREATE TABLE oauth_code (
    digest BLOB NOT NULL PRIMARY KEY,
    client_id TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    -- The S256 code challenge.
    challenge TEXT NOT NULL,
    scope TEXT NOT NULL,
    device_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- `account.ver` when the owner agreed.
    account_ver INTEGER NOT NULL,
    is_used INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    forget_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX oauth_code_by_end ON oauth_code (forget_ms);

CREATE TABLE oauth_device_code (
    digest BLOB NOT NULL PRIMARY KEY,
    user_code TEXT NOT NULL UNIQUE,
    client_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- pending, approved, denied or used.
    state TEXT NOT NULL,
    -- Who approved it, and that account's `ver` then.
    user_id TEXT,
    account_ver INTEGER,
    expires_ms INTEGER NOT NULL,
    forget_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX oauth_device_code_by_end ON oauth_device_code (forget_ms);

-- Devices that signed in through OAuth; those without a row did so through /login.
CREATE TABLE oauth_session (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    -- Digest of the code that bought it.
    bought_by BLOB NOT NULL,
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;
CREATE INDEX oauth_session_by_client ON oauth_session (client_id);

-- Refresh tokens of OAuth sessions that were replaced: one that comes back was stolen.
CREATE TABLE spent_refresh_token (
    digest BLOB NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    forget_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX spent_refresh_token_by_device ON spent_refresh_token (user_id, device_id);
CREATE INDEX spent_refresh_token_by_end ON spent_refresh_token (forget_ms);

-- Browsers that are signed in to the account pages.
CREATE TABLE browser_session (
    digest BLOB NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    -- A change of password, a lock or the end of the account ends the session: `ver` differs then.
    account_ver INTEGER NOT NULL,
    -- When the owner last proved who they are.
    proved_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX browser_session_by_user ON browser_session (user_id);
CREATE INDEX browser_session_by_expiry ON browser_session (expires_ms);

-- Whom the OpenID Connect providers' subjects are here.
CREATE TABLE external_identity (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL,
    linked_ms INTEGER NOT NULL,
    PRIMARY KEY (issuer, subject)
) WITHOUT ROWID;
CREATE INDEX external_identity_by_user ON external_identity (user_id);

-- Who may replace their cross-signing keys once without further proof.
CREATE TABLE identity_reset (
    user_id TEXT NOT NULL PRIMARY KEY,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
