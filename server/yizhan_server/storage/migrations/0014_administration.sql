-- What administrators do to devices, rooms and files.

-- The User-Agent header of the device's last request.
ALTER TABLE device ADD COLUMN last_seen_agent TEXT;

-- Rooms that nobody of this server may enter, known here or not.
CREATE TABLE room_block (
    room_id TEXT NOT NULL PRIMARY KEY,
    actor TEXT NOT NULL,
    ts_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- Rooms whose rows are being removed: what a crash interrupts goes on at the next start.
CREATE TABLE room_removal (
    room_id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;

-- Bytes that are not served, under whichever id they were or will be uploaded.
CREATE TABLE media_quarantine (
    digest BLOB NOT NULL PRIMARY KEY,
    actor TEXT NOT NULL,
    ts_ms INTEGER NOT NULL
) WITHOUT ROWID;
-- 1: served although its bytes are in quarantine, and left out when a room or a user is.
ALTER TABLE media ADD COLUMN is_protected INTEGER NOT NULL DEFAULT 0;
