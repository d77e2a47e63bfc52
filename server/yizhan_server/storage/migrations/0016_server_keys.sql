-- The signing keys of other servers, kept for as long as the events that they signed.

CREATE TABLE server_key (
    server_name TEXT NOT NULL,
    key_id TEXT NOT NULL,
    public_key BLOB NOT NULL,
    -- Of events later than this it is no proof.
    valid_until_ms INTEGER NOT NULL,
    -- 1: it no longer signs requests.
    is_old INTEGER NOT NULL,
    PRIMARY KEY (server_name, key_id)
) WITHOUT ROWID;

-- What each server last published, in its own words: handed on to those who ask us as a notary.
CREATE TABLE server_key_answer (
    server_name TEXT NOT NULL PRIMARY KEY,
    -- Canonical JSON with that server's signatures only.
    answer BLOB NOT NULL,
    fetched_ms INTEGER NOT NULL,
    valid_until_ms INTEGER NOT NULL
) WITHOUT ROWID;
