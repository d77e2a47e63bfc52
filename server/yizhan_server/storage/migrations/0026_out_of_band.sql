-- Memberships of rooms that this server is not in, as they changed: for those who follow the
-- stream, since their events have no positions.

CREATE TABLE out_of_band (
    pos INTEGER NOT NULL PRIMARY KEY,
    room INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    event INTEGER NOT NULL
);
CREATE INDEX out_of_band_by_user ON out_of_band (user_id, pos);
CREATE INDEX out_of_band_by_room ON out_of_band (room);
