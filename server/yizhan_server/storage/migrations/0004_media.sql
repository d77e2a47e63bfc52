-- Media: files by their content, and the mxc:// ids that name them.

CREATE TABLE media_file (
    -- SHA-256 of the bytes, which are a file in the media folder.
    digest BLOB NOT NULL PRIMARY KEY,
    size INTEGER NOT NULL,
    -- Rows of `media` that name it. A file of which none is left may be removed.
    reference_count INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE media (
    media_id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    -- NULL: the id was handed out and nothing has been uploaded to it.
    digest BLOB,
    content_type TEXT NOT NULL,
    file_name TEXT,
    created_ms INTEGER NOT NULL,
    -- Until when something may be uploaded; NULL once that has happened.
    expires_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX media_by_owner ON media (owner, expires_ms);
