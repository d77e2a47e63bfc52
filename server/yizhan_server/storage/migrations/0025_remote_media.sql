-- Files of other servers that were fetched for people of this one: a cache.

CREATE TABLE remote_media (
    server TEXT NOT NULL,
    media_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    size INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    file_name TEXT,
    fetched_ms INTEGER NOT NULL,
    -- When somebody last read it, to a day.
    read_ms INTEGER NOT NULL,
    PRIMARY KEY (server, media_id)
) WITHOUT ROWID;
CREATE INDEX remote_media_by_reading ON remote_media (read_ms);
