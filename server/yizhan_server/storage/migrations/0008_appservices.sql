-- Application services: how far each has been told, and the rooms that its networks list.

CREATE TABLE appservice_delivery (
    appservice TEXT NOT NULL PRIMARY KEY,
    -- Everything up to this stream position has been taken, or is of no interest.
    pos INTEGER NOT NULL,
    -- Number of the last transaction; never used twice.
    txn INTEGER NOT NULL,
    -- Where that transaction ends.
    upto INTEGER NOT NULL,
    -- Its JSON from before it is first sent until it is known to be taken.
    body BLOB
) WITHOUT ROWID;

CREATE TABLE appservice_room (
    appservice TEXT NOT NULL,
    network TEXT NOT NULL,
    room INTEGER NOT NULL,
    PRIMARY KEY (appservice, network, room)
) WITHOUT ROWID;
CREATE INDEX appservice_room_by_room ON appservice_room (room);

-- For those who follow the whole stream.
CREATE INDEX to_device_by_pos ON to_device (pos);
