"""The one stream of durable changes: its position, those who wait on it and those who follow it.

Storage assigns positions inside the commit; after the commit the writer publishes here, in
commit order. Nothing in this package reads the database.
"""

from yizhan_server.streams.stream import Listener, Stream

__all__ = ["Listener", "Stream"]
