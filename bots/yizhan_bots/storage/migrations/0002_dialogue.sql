-- What the bot remembers of a conversation, and what it refused.

-- `memory` is the open question and its answers so far, as JSON; `rev` is its guard.
CREATE TABLE dialogue_person (
    user_id TEXT NOT NULL PRIMARY KEY,
    language TEXT,
    greeted_ms INTEGER,
    memory TEXT NOT NULL,
    rev INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX dialogue_person_greeted ON dialogue_person (greeted_ms);

-- Append-only: what was refused or had no effect, and which identity was restored by whom.
CREATE TABLE office_record (
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    matter TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    sender TEXT NOT NULL,
    standing TEXT NOT NULL,
    actor TEXT,
    master_key TEXT,
    device_id TEXT,
    digest TEXT NOT NULL,
    request TEXT,
    detail TEXT NOT NULL,
    PRIMARY KEY (room_id, event_id, matter)
);
CREATE INDEX office_record_request ON office_record (request, at_ms);
