-- A message is found by its event id too: what is a reply or a poll answer attached to?
CREATE INDEX outbox_key_event ON outbox_key (event_id);
