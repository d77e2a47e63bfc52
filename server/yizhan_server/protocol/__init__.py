"""The Matrix protocol as pure functions over values.

No I/O, no clock, no configuration, no logging, no asyncio: only the standard library, orjson and
PyNaCl. Everything that decides who may do what, which bytes are hashed and signed, and what a
user may see is here, so that it can be tested in microseconds and against the specification's
own numbered lists.

Reading order: `identifiers`, `canonical_json`, `room_version`, `redaction`, `hashes`, `signing`,
`request_signing`, `server_keys`, `event`, `auth_events`, `power_levels`, `auth_rules`,
`state_resolution`, `visibility`, `server_acl`, `policy_server`, `push_rules`, `stream_token`.
"""
