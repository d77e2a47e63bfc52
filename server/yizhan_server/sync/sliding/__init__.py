"""Simplified sliding sync: the rooms that a client looks at, and what changed in them.

Reading order: `request` (what the client wants), `required_state` (which state of a room),
`connection` (what the client has), `lists` and `room_filters` (which rooms), `rooms` (one room's
data), `extensions` (all else), `sliding_sync` (the answer). What changed for a user is asked of
the same modules as for the classic sync.

Spec: MSC4186, and MSC3884, 3885, 3959, 3960 and 3961 for the extensions.
"""
