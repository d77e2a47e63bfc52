-- What other servers say that their users' devices are called; many do not say.
ALTER TABLE remote_device ADD COLUMN display_name TEXT;
