-- When messages for other servers were queued, and since when a server's transaction has been on its
-- way: what is not taken for a month is given up. 0 for what was queued before this was kept.
ALTER TABLE outbox ADD COLUMN ts_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE busy_destination ADD COLUMN since_ms INTEGER NOT NULL DEFAULT 0;
