-- Who is to be told that a room was removed from this server: nothing else of it is left to say so.

CREATE TABLE room_departure (
    pos INTEGER PRIMARY KEY,
    room_id TEXT NOT NULL,
    -- JSON list of user ids.
    users TEXT NOT NULL,
    ts_ms INTEGER NOT NULL
);
