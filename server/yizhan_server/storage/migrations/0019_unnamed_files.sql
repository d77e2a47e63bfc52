-- Files that nothing names any more, and are to be removed.

CREATE INDEX media_file_unnamed ON media_file (digest) WHERE reference_count = 0;
