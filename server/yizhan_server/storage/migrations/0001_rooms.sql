-- Rooms, their events, state and memberships (docs/architecture.md, "Storage").

CREATE TABLE room (
    nid INTEGER PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    -- JSON [[nid, event_id, depth, line, seq], ...]: the events without successors, and the state after each.
    forward_extremities TEXT NOT NULL,
    -- Raised by every commit that moves the forward extremities: an optimistic lock among writers.
    ver INTEGER NOT NULL
);

CREATE TABLE event (
    nid INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    room INTEGER NOT NULL,
    -- > 0: live, in arrival order; < 0: history; NULL: outlier, rejected or soft-failed.
    pos INTEGER,
    depth INTEGER NOT NULL,
    type TEXT NOT NULL,
    sender TEXT NOT NULL,
    state_key TEXT,
    ts_ms INTEGER NOT NULL,
    -- The state after the event.
    line INTEGER,
    seq INTEGER,
    -- The event id of the thread root, of the related event, and how it is related.
    thread TEXT,
    rel_type TEXT,
    rel_to TEXT,
    -- Bits: see storage/events.py.
    flags INTEGER NOT NULL,
    -- JSON that every reader may see: event_id, type, sender, state_key, content, origin_server_ts, room_id.
    client BLOB NOT NULL,
    -- JSON of all other top-level keys of the PDU.
    rest BLOB NOT NULL
);
CREATE UNIQUE INDEX event_by_pos ON event (room, pos);
-- For those who follow the whole stream.
CREATE INDEX event_by_stream ON event (pos);
CREATE INDEX event_by_depth ON event (room, depth, pos);
CREATE INDEX event_by_ts ON event (room, ts_ms);
CREATE INDEX event_by_relation ON event (rel_to, rel_type, pos);
CREATE INDEX event_by_thread ON event (room, thread, pos);

CREATE TABLE state_key (
    nid INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    UNIQUE (type, state_key)
);

-- A fork of the room DAG is a child line that begins at (parent, parent_seq).
CREATE TABLE state_line (
    line INTEGER PRIMARY KEY,
    room INTEGER NOT NULL,
    parent INTEGER,
    parent_seq INTEGER,
    depth INTEGER NOT NULL,
    head INTEGER NOT NULL
);
CREATE INDEX state_line_by_room ON state_line (room);

-- event 0: the key was removed.
CREATE TABLE state_log (
    line INTEGER NOT NULL,
    key INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    event INTEGER NOT NULL,
    PRIMARY KEY (line, key, seq)
) WITHOUT ROWID;
CREATE INDEX state_log_by_seq ON state_log (line, seq);

-- The current line: the room's current state as of each stream position.
CREATE TABLE current_state (
    room INTEGER NOT NULL,
    key INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    event INTEGER NOT NULL,
    PRIMARY KEY (room, key, pos)
) WITHOUT ROWID;
CREATE INDEX current_state_by_pos ON current_state (room, pos);

-- Each user's current membership in each room.
CREATE TABLE membership (
    room INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    membership TEXT NOT NULL,
    -- Whose event made it so, and the one before, which an incremental sync needs.
    sender TEXT NOT NULL,
    event INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    forgotten INTEGER NOT NULL,
    PRIMARY KEY (room, user_id)
) WITHOUT ROWID;
CREATE INDEX membership_by_user ON membership (user_id, membership);
CREATE INDEX membership_by_user_pos ON membership (user_id, pos);
CREATE INDEX membership_by_room ON membership (room, membership);

-- Idempotence: what a device's transaction id was answered with, in the same commit as the event.
CREATE TABLE txn (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    ts_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id, scope, txn_id)
) WITHOUT ROWID;
CREATE INDEX txn_by_ts ON txn (ts_ms);
CREATE INDEX txn_by_event ON txn (event_id);

CREATE TABLE redaction (
    target TEXT NOT NULL,
    event INTEGER NOT NULL,
    -- 1 once the target is known and the redaction authorised, 2 once the original is erased.
    applied INTEGER NOT NULL,
    PRIMARY KEY (target, event)
) WITHOUT ROWID;
CREATE INDEX redaction_by_applied ON redaction (applied, event);

-- Whose push rules judged a live event otherwise than the default rules did.
-- notify and highlight are differences to the event's own flags: -1, 0 or 1.
CREATE TABLE push_exception (
    room INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    pos INTEGER NOT NULL,
    notify INTEGER NOT NULL,
    highlight INTEGER NOT NULL,
    -- JSON tweaks for delivery, NULL when nothing is delivered.
    tweaks TEXT,
    PRIMARY KEY (room, user_id, pos)
) WITHOUT ROWID;
CREATE INDEX push_exception_by_pos ON push_exception (room, pos);

CREATE TABLE room_alias (
    alias TEXT PRIMARY KEY,
    room INTEGER NOT NULL,
    creator TEXT NOT NULL
);
CREATE INDEX room_alias_by_room ON room_alias (room);

-- Rooms that the public directory lists.
CREATE TABLE room_published (
    room INTEGER PRIMARY KEY
);

-- The installation that this database belongs to; a start under another name is refused.
CREATE TABLE installation (
    one INTEGER PRIMARY KEY,
    server_name TEXT NOT NULL
);
