CREATE TABLE slot (
    nid INTEGER NOT NULL PRIMARY KEY,
    ver INTEGER NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE entry (
    nid INTEGER NOT NULL PRIMARY KEY,
    pos INTEGER,
    writer TEXT NOT NULL,
    number INTEGER NOT NULL,
    body BLOB NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX entry_pos ON entry (pos);
CREATE INDEX entry_writer ON entry (writer, number);
