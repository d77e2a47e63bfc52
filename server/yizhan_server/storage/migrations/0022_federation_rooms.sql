-- Rooms that several servers share (docs/architecture.md, "Federation").

-- Which servers are in a room, as intervals of the current line; to_pos 0: still there.
CREATE TABLE room_server (
    room INTEGER NOT NULL,
    server TEXT NOT NULL,
    to_pos INTEGER NOT NULL,
    from_pos INTEGER NOT NULL,
    -- How many of its users are joined.
    joined INTEGER NOT NULL,
    PRIMARY KEY (room, server, to_pos)
) WITHOUT ROWID;
CREATE INDEX room_server_by_server ON room_server (server, to_pos);
CREATE INDEX room_server_by_end ON room_server (room, to_pos);

-- dialect: sqlite
INSERT INTO room_server (room, server, to_pos, from_pos, joined)
SELECT room, substr(user_id, instr(user_id, ':') + 1), 0, min(pos), count(*)
FROM membership WHERE membership = 'join' GROUP BY 1, 2;
-- dialect: postgresql
INSERT INTO room_server (room, server, to_pos, from_pos, joined)
SELECT room, substr(user_id, strpos(user_id, ':') + 1), 0, min(pos), count(*)
FROM membership WHERE membership = 'join' GROUP BY 1, 2;
-- dialect: all

-- Events that somebody refers to and that are not here.
CREATE TABLE backward_extremity (
    room INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    -- The depth of the event that refers to it.
    depth INTEGER NOT NULL,
    PRIMARY KEY (room, event_id)
) WITHOUT ROWID;
CREATE INDEX backward_extremity_by_depth ON backward_extremity (room, depth);

-- What this server owes to others, for those who follow the stream.
CREATE INDEX event_of_ours ON event (pos) WHERE (flags & 32) <> 0 AND pos > 0;

-- What somebody is shown of a room that this server is not in: JSON list of state events.
CREATE TABLE invitation_state (
    room INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (room, user_id)
) WITHOUT ROWID;

-- Servers that something is owed to; the others have no row.
CREATE TABLE busy_destination (
    server TEXT PRIMARY KEY,
    -- Everything of the stream up to here has been taken by the server.
    sent_pos INTEGER NOT NULL,
    -- The transaction on its way, sent again byte for byte until it is taken; NULL between two.
    txn_id TEXT,
    body BLOB,
    -- What it brings the server to: a position, and the last of the outbox.
    upto_pos INTEGER,
    upto_edu INTEGER
);

-- EDUs that must arrive and that nothing else here says: to-device messages.
CREATE TABLE outbox (
    server TEXT NOT NULL,
    nid INTEGER NOT NULL,
    edu BLOB NOT NULL,
    PRIMARY KEY (server, nid)
) WITHOUT ROWID;
