-- Messages that are to be erased at a time that their senders named (MSC2228).
CREATE TABLE self_destruction (
    event INTEGER PRIMARY KEY,
    room INTEGER NOT NULL,
    due_ms INTEGER NOT NULL
);
CREATE INDEX self_destruction_by_time ON self_destruction (due_ms);
