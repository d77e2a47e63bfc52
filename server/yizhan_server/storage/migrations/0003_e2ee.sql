-- End-to-end encryption: public keys, signatures, device-list changes, to-device messages, backups.

-- What the server holds for a device that has uploaded keys.
CREATE TABLE device_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- Canonical JSON of the identity keys, with the signatures of the user's own keys that were
    -- found right; NULL until they are uploaded.
    keys BLOB,
    -- Raised by every change: an optimistic lock, and the order in which one-time keys came.
    ver INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;

CREATE TABLE one_time_key (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    -- JSON.
    key BLOB NOT NULL,
    -- device_keys.ver of its upload: what came first is given out first.
    upload INTEGER NOT NULL,
    -- Who took it: a random number of that claim. A claimed key stays for a while, so that an
    -- upload that is repeated because its answer was lost cannot bring it back.
    claim INTEGER,
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
) WITHOUT ROWID;
CREATE INDEX one_time_key_unclaimed
    ON one_time_key (user_id, device_id, algorithm, upload, key_id) WHERE claim IS NULL;
CREATE INDEX one_time_key_by_claim ON one_time_key (claim) WHERE claim IS NOT NULL;

CREATE TABLE fallback_key (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    -- JSON.
    key BLOB NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm)
) WITHOUT ROWID;

-- A user's cross-signing identity. Each key is canonical JSON with the signatures of the user's
-- own keys that were found right.
CREATE TABLE cross_signing (
    user_id TEXT NOT NULL PRIMARY KEY,
    master BLOB NOT NULL,
    self_signing BLOB,
    user_signing BLOB,
    -- Raised by every change: an optimistic lock among the user's devices.
    ver INTEGER NOT NULL
) WITHOUT ROWID;

-- Signatures of other people's master keys by a user-signing key. Only the signer sees them.
CREATE TABLE master_signature (
    signer TEXT NOT NULL,
    target TEXT NOT NULL,
    -- The public key that signed, and the one that was signed.
    signer_key TEXT NOT NULL,
    target_key TEXT NOT NULL,
    signature TEXT NOT NULL,
    pos INTEGER NOT NULL,
    PRIMARY KEY (signer, target)
) WITHOUT ROWID;
CREATE INDEX master_signature_by_pos ON master_signature (signer, pos);
CREATE INDEX master_signature_by_target ON master_signature (target);

-- Every change of a user's devices or cross-signing keys, appended.
CREATE TABLE device_change (
    pos INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    -- '' for the user's cross-signing keys.
    device_id TEXT NOT NULL,
    -- The change of this user before it: other servers find gaps by it.
    prev_pos INTEGER,
    -- keys, deleted, cross_signing, or own: what only the user's own devices can see.
    kind TEXT NOT NULL,
    PRIMARY KEY (pos, user_id, device_id)
) WITHOUT ROWID;
CREATE INDEX device_change_by_user ON device_change (user_id, pos);

-- Which memberships changed since some position, in all rooms: usually none did.
CREATE INDEX membership_by_pos ON membership (pos);

CREATE TABLE to_device (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    pos INTEGER NOT NULL,
    -- JSON: type, sender, content.
    event BLOB NOT NULL,
    PRIMARY KEY (user_id, device_id, pos)
) WITHOUT ROWID;

CREATE TABLE key_backup (
    user_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    -- JSON.
    auth_data BLOB NOT NULL,
    -- How many keys it holds, and a number that every change of them raises.
    count INTEGER NOT NULL,
    etag INTEGER NOT NULL,
    -- 1: its keys are gone; the row stays, so that its number is not given out again.
    deleted INTEGER NOT NULL,
    PRIMARY KEY (user_id, version)
) WITHOUT ROWID;

CREATE TABLE backup_key (
    user_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    first_message_index INTEGER NOT NULL,
    forwarded_count INTEGER NOT NULL,
    is_verified INTEGER NOT NULL,
    -- JSON.
    session_data BLOB NOT NULL,
    PRIMARY KEY (user_id, version, room_id, session_id)
) WITHOUT ROWID;
