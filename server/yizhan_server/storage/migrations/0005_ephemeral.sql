-- Receipts. Typing and presence live in memory.

CREATE TABLE receipt (
    room INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    -- m.read or m.read.private
    type TEXT NOT NULL,
    -- '' for an unthreaded receipt, 'main', or the id of the thread root.
    thread TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event_pos INTEGER NOT NULL,
    ts_ms INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    PRIMARY KEY (room, user_id, type, thread)
) WITHOUT ROWID;
CREATE INDEX receipt_by_room_pos ON receipt (room, pos);
CREATE INDEX receipt_by_pos ON receipt (pos);
