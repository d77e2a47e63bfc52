"""What changed for a user since a position: classic /sync, and later simplified sliding sync.

Reading order: `filters` (what the client wants), `rooms` (one room's section), `sync` (the
answer and the long poll).
"""
