-- Reports, delayed events, guests, and who ignores whom.

-- What people reported to the administrators.
CREATE TABLE report (
    nid INTEGER PRIMARY KEY,
    ts_ms INTEGER NOT NULL,
    reporter TEXT NOT NULL,
    -- event, room or user; the other columns are what it names.
    kind TEXT NOT NULL,
    room_id TEXT,
    event_id TEXT,
    user_id TEXT,
    reason TEXT NOT NULL
);

-- Events to be sent later, unless their sender asks for something else before (MSC4140).
CREATE TABLE delayed_event (
    delay_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT,
    -- JSON.
    content BLOB NOT NULL,
    delay_ms INTEGER NOT NULL,
    -- When the delay began; raised by a restart.
    since_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    -- Stream position of the request: another user's later change of the same state ends it.
    pos INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX delayed_event_by_due ON delayed_event (due_ms);
CREATE INDEX delayed_event_by_user ON delayed_event (user_id);

-- 1: made by POST /register?kind=guest, without a password.
ALTER TABLE account ADD COLUMN is_guest INTEGER NOT NULL DEFAULT 0;

-- Everybody's lists of ignored users: few, and read as a whole.
CREATE INDEX account_data_ignoring ON account_data (user_id) WHERE type = 'm.ignored_user_list';
