-- What a server last published while it still listed a key that it has dropped since: handed on to
-- those who ask for that key, since it goes on proving what it has signed.
ALTER TABLE server_key ADD COLUMN answer BLOB;
