"""Receiving events of other servers: a file for each step of the specification's checklist.

1. `verification`: the event has the format of its room version (else it is dropped), the
   signatures that it needs (else dropped), and the hash of its content (else it is redacted).
2. `gaps`: what it refers to is here, or is fetched; without its auth events it is refused.
3. `judgement`: its own auth events permit it, and the state before it does (else it is rejected:
   kept, never shown, never part of a state); the room's current state does (else it is
   soft-failed: kept, never shown, until an event that is accepted refers to it).
   `recommendation`: so does the room's policy server, if it has one (else it is soft-failed).
4. `placing`: it gets its place in the DAG, the state log and the stream, once; `runs`: with others
   of its kind, where nothing is to be said against it.

`outliers` keeps events that only authorise others; `current_state` says what new ends make of the
room; `reception` leads an event through all of it, with `patience`.

Spec: server-server API, "Checks performed on receipt of a PDU".
"""
