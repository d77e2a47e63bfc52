-- How far each room's old messages have been erased, and each person's room of server notices.

CREATE TABLE retention (
    room INTEGER PRIMARY KEY,
    -- Every message with a time up to this one has been erased.
    upto_ms INTEGER NOT NULL
);

CREATE TABLE server_notice_room (
    user_id TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL
) WITHOUT ROWID;
