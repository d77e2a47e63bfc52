-- What other servers' users send to devices here (docs/architecture.md, "Federation").

-- Messages that have come, so that none is shown twice; forgotten after a while.
CREATE TABLE received_message (
    origin TEXT NOT NULL,
    message_id TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    PRIMARY KEY (origin, message_id)
) WITHOUT ROWID;
CREATE INDEX received_message_by_time ON received_message (received_ms);
