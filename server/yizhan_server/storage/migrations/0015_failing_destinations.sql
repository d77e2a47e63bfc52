-- Servers that have not answered for a while and are left alone for a time; no row, no failure.

CREATE TABLE failing_destination (
    server_name TEXT NOT NULL PRIMARY KEY,
    since_ms INTEGER NOT NULL,
    interval_ms INTEGER NOT NULL,
    retry_ms INTEGER NOT NULL
) WITHOUT ROWID;
