-- Devices of other servers' users (docs/architecture.md, "Federation").

-- Lists that are kept up to date by what the users' servers tell.
CREATE TABLE remote_device_list (
    user_id TEXT PRIMARY KEY,
    -- The last change that is counted in, or known of, by its server's number.
    stream_id INTEGER NOT NULL,
    -- Where the stream was before the list was asked for: it holds only as long as a room has been
    -- shared all the time since.
    pos INTEGER NOT NULL,
    -- 0: a change is missing, and the list must be asked for again.
    complete INTEGER NOT NULL
);

CREATE TABLE remote_device (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- Canonical JSON of the identity keys, without `unsigned`.
    keys BLOB NOT NULL,
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;
