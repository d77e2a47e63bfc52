"""Rooms: the aggregate and its cache, access gates, and the only writer of events.

Reading order: `room` (what is known of a room, durable and not yet), `writer` (build, authorise,
enqueue), `access` (gates that return proof), `membership`, `creation`, `rendering`.
"""
