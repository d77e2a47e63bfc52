-- The words of messages, names and topics in rooms that are not encrypted, and how far each follower of the stream is.

-- Tokens are made by us (search/tokens.py); the databases only keep them and their positions.
-- dialect: sqlite
CREATE VIRTUAL TABLE search_text USING fts5(
    body, room, content = '', contentless_delete = 1, tokenize = 'ascii'
);
-- dialect: postgresql
CREATE TABLE search_text (
    rowid BIGINT PRIMARY KEY,
    room BIGINT NOT NULL,
    body TSVECTOR NOT NULL
);
CREATE INDEX search_text_by_body ON search_text USING gin (body);
-- dialect: all

CREATE TABLE follower (
    name TEXT NOT NULL PRIMARY KEY,
    -- Everything up to this stream position has been dealt with.
    pos INTEGER NOT NULL
) WITHOUT ROWID;
