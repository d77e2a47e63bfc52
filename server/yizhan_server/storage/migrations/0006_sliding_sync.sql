-- What each connection of a simplified sliding sync has been sent: at most two states of each,
-- the one that the client has confirmed and the one of the answer after it.

CREATE TABLE sliding_connection (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    conn_id TEXT NOT NULL,
    -- Random; the `pos` that clients keep names it.
    number INTEGER NOT NULL,
    -- MessagePack: see sync/sliding/connection.py.
    state BLOB NOT NULL,
    -- Written at most once a day.
    used_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id, conn_id, number)
) WITHOUT ROWID;
CREATE INDEX sliding_connection_by_use ON sliding_connection (used_ms);
