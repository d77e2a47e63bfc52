CREATE TABLE note (
    nid INTEGER NOT NULL PRIMARY KEY,
    slot INTEGER NOT NULL REFERENCES slot (nid) ON DELETE CASCADE,
    pos INTEGER,
    weight REAL
);
CREATE INDEX note_slot ON note (slot);
