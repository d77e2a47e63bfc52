-- The runner's tables: one bot device, its keys, whom it has met, what came in, what goes out.

CREATE TABLE matrix_account (
  user_id TEXT PRIMARY KEY,
  device_id TEXT NOT NULL,
  olm_account TEXT,
  keys_shared INTEGER NOT NULL,
  sync_token TEXT
);

CREATE TABLE matrix_olm_session (
  session_id TEXT PRIMARY KEY,
  sender_key TEXT NOT NULL,
  pickle TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  used_ms BIGINT NOT NULL
);

-- Who claims to own a Megolm session, as authenticated by the Olm message that brought it.
-- Two devices may claim the same session (anybody who holds a key can pass it on).
CREATE TABLE matrix_room_key (
  room_id TEXT NOT NULL,
  session_id TEXT NOT NULL,
  sender_key TEXT NOT NULL,
  user_id TEXT NOT NULL,
  ed25519 TEXT NOT NULL,
  how TEXT NOT NULL,
  first_index BIGINT NOT NULL,
  pickle TEXT NOT NULL,
  received_ms BIGINT NOT NULL,
  PRIMARY KEY (room_id, session_id, sender_key)
);

CREATE TABLE matrix_room_key_request (
  room_id TEXT NOT NULL,
  session_id TEXT NOT NULL,
  user_id TEXT NOT NULL,
  request_id TEXT NOT NULL,
  asked_ms BIGINT NOT NULL,
  PRIMARY KEY (room_id, session_id)
);

-- Each ratchet step encrypts one event; a second event under it is a replay.
CREATE TABLE matrix_message_index (
  session_id TEXT NOT NULL,
  message_index BIGINT NOT NULL,
  event_id TEXT NOT NULL,
  PRIMARY KEY (session_id, message_index)
);

-- The last /keys/query answer about a person, verified anew whenever it is read.
CREATE TABLE matrix_identity (
  user_id TEXT PRIMARY KEY,
  keys BLOB NOT NULL,
  stale INTEGER NOT NULL
);

CREATE TABLE matrix_pin (
  user_id TEXT PRIMARY KEY,
  master_key TEXT NOT NULL,
  how TEXT NOT NULL
);

-- Append-only: every identity first seen, seen changed, or restored, and by whom.
CREATE TABLE matrix_pin_record (
  pos BIGINT PRIMARY KEY,
  user_id TEXT NOT NULL,
  master_key TEXT NOT NULL,
  previous TEXT,
  how TEXT NOT NULL,
  by_whom TEXT NOT NULL,
  at_ms BIGINT NOT NULL
);

CREATE TABLE matrix_room (
  room_id TEXT PRIMARY KEY,
  encrypted INTEGER NOT NULL,
  rotation_ms BIGINT NOT NULL,
  rotation_messages BIGINT NOT NULL
);

CREATE TABLE matrix_member (
  room_id TEXT NOT NULL,
  user_id TEXT NOT NULL,
  membership TEXT NOT NULL,
  display_name TEXT,
  PRIMARY KEY (room_id, user_id)
);

-- Invitations not yet answered.
CREATE TABLE matrix_invite (
  room_id TEXT PRIMARY KEY,
  inviter TEXT NOT NULL
);

-- The direct room in which a person last wrote, among several.
CREATE TABLE matrix_direct (
  user_id TEXT PRIMARY KEY,
  room_id TEXT NOT NULL
);

CREATE TABLE matrix_greeted (
  user_id TEXT PRIMARY KEY,
  at_ms BIGINT NOT NULL
);

-- state: new, waiting (for its room key), done, cancelled, failed. The event is erased when done.
CREATE TABLE inbox (
  pos BIGINT PRIMARY KEY,
  room_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  sender TEXT NOT NULL,
  session_id TEXT,
  event BLOB,
  state TEXT NOT NULL,
  received_ms BIGINT NOT NULL,
  due_ms BIGINT NOT NULL,
  attempts INTEGER NOT NULL,
  standing TEXT,
  digest TEXT,
  UNIQUE (room_id, event_id)
);
CREATE INDEX inbox_open ON inbox (state, pos);
CREATE INDEX inbox_session ON inbox (room_id, session_id);

-- state: due, sent, failed. `public`: readable by every listed device of a direct room's person.
CREATE TABLE outbox (
  pos BIGINT PRIMARY KEY,
  txn_id TEXT NOT NULL UNIQUE,
  room_id TEXT,
  direct_to TEXT,
  part TEXT NOT NULL,
  message BLOB,
  public INTEGER NOT NULL,
  state TEXT NOT NULL,
  due_ms BIGINT NOT NULL,
  attempts INTEGER NOT NULL,
  event_id TEXT
);
CREATE INDEX outbox_open ON outbox (state, pos);

CREATE TABLE outbox_key (
  room_id TEXT NOT NULL,
  name TEXT NOT NULL,
  part TEXT NOT NULL,
  event_id TEXT NOT NULL,
  PRIMARY KEY (room_id, name, part)
);
