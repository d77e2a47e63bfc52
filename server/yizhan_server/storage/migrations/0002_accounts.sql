-- Accounts: people, their devices and tokens, profiles, settings, pushers, and what administrators did.

CREATE TABLE account (
    user_id TEXT NOT NULL PRIMARY KEY,
    -- PHC string of argon2id; NULL: nobody can sign in by password.
    password_hash TEXT,
    -- 1 while the password is one that an administrator handed out.
    has_initial_password INTEGER NOT NULL,
    is_admin INTEGER NOT NULL,
    is_locked INTEGER NOT NULL,
    -- NULL while the account is in use. The row stays, so that nobody gets the name again.
    deactivated_ms INTEGER,
    created_ms INTEGER NOT NULL,
    signed_in_ms INTEGER,
    -- Raised by every change of password, lock, rights or state: what a sign-in in flight compares.
    ver INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE device (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    display_name TEXT,
    created_ms INTEGER NOT NULL,
    -- Written at most once in a few minutes.
    last_seen_ms INTEGER,
    last_seen_ip TEXT,
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;

-- Tokens are kept as SHA-256 digests only.
CREATE TABLE access_token (
    nid INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- NULL: valid until signed out.
    expires_ms INTEGER,
    -- The refresh token that bought this one and dies with its first use.
    supersedes INTEGER
);
CREATE INDEX access_token_by_device ON access_token (user_id, device_id);

CREATE TABLE refresh_token (
    nid INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    supersedes INTEGER
);
CREATE INDEX refresh_token_by_device ON refresh_token (user_id, device_id);

-- Single-use tokens of `m.login.token`.
CREATE TABLE login_token (
    digest BLOB NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX login_token_by_user ON login_token (user_id);
CREATE INDEX login_token_by_expiry ON login_token (expires_ms);

-- Tokens with which another service learns whose they are, and nothing else.
CREATE TABLE openid_token (
    digest BLOB NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX openid_token_by_expiry ON openid_token (expires_ms);

-- User-interactive authentications of which some stage, but not all, is done.
CREATE TABLE confirmation (
    session_id TEXT NOT NULL PRIMARY KEY,
    -- '' where nobody is signed in (registration).
    user_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    -- JSON list of stages.
    completed TEXT NOT NULL,
    registration_token TEXT,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX confirmation_by_expiry ON confirmation (expires_ms);

CREATE TABLE registration_token (
    token TEXT NOT NULL PRIMARY KEY,
    -- NULL: without limit.
    uses_allowed INTEGER,
    used INTEGER NOT NULL,
    expires_ms INTEGER,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE profile_field (
    user_id TEXT NOT NULL,
    field TEXT NOT NULL,
    -- JSON.
    value BLOB NOT NULL,
    PRIMARY KEY (user_id, field)
) WITHOUT ROWID;

-- room_id '' is the account data of the account itself.
CREATE TABLE account_data (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    -- JSON.
    content BLOB NOT NULL,
    pos INTEGER NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
) WITHOUT ROWID;
CREATE INDEX account_data_by_pos ON account_data (user_id, pos);

-- Whoever has no row has the default rules.
CREATE TABLE push_rules (
    user_id TEXT NOT NULL PRIMARY KEY,
    -- JSON of the ruleset; server-default rules in it only hold what the user changed of them.
    ruleset BLOB NOT NULL,
    pos INTEGER NOT NULL,
    -- Raised by every change: an optimistic lock among the user's devices.
    ver INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE filter (
    user_id TEXT NOT NULL,
    -- Beginning of the digest of the filter's canonical JSON.
    filter_id TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (user_id, filter_id)
) WITHOUT ROWID;

CREATE TABLE pusher (
    user_id TEXT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    -- The device that set it; signing out removes it.
    device_id TEXT NOT NULL,
    app_display_name TEXT NOT NULL,
    device_display_name TEXT NOT NULL,
    profile_tag TEXT,
    lang TEXT NOT NULL,
    -- JSON, `url` included.
    data BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    -- Events above this position are its business.
    pos INTEGER NOT NULL,
    PRIMARY KEY (user_id, app_id, pushkey)
) WITHOUT ROWID;
CREATE INDEX pusher_by_key ON pusher (app_id, pushkey);
CREATE INDEX pusher_by_device ON pusher (user_id, device_id);

-- What administrators did, appended and never changed.
CREATE TABLE audit_log (
    nid INTEGER PRIMARY KEY,
    ts_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    -- JSON, free of secrets.
    details TEXT NOT NULL
);
CREATE INDEX audit_log_by_subject ON audit_log (subject, nid);
