"""Numbered, forward-only SQL, run by yizhan_database when the database is opened."""
