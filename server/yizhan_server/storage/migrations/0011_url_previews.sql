-- Previews of pages that messages link to; fetched again when they have expired.

CREATE TABLE url_preview (
    -- SHA-256 of the URL.
    url BLOB NOT NULL PRIMARY KEY,
    -- JSON: the answer.
    answer BLOB NOT NULL,
    -- The picture that it names, which goes with it.
    media_id TEXT,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX url_preview_by_expiry ON url_preview (expires_ms);
