-- Addresses that were published at identity servers through this server, to be taken back there.
CREATE TABLE identity_binding (
    user_id TEXT NOT NULL,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    id_server TEXT NOT NULL,
    PRIMARY KEY (user_id, medium, address, id_server)
) WITHOUT ROWID;
