"""Becoming and ceasing to be a member across servers: join, invite, knock, leave.

`residing` is the side of a server in the room, which lets others in; `joining` and `inviting` ask
such a server. `out_of_band` keeps memberships of rooms that this server is not in; `versions` says
of which version those are.

Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Inviting to a room", "Leaving
Rooms (Rejecting Invites)".
"""
