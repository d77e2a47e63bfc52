"""The Matrix side of the bots: account, keys, sync, judging, sending. Only here lives matrix-nio.

Reading order: `cross_signing` (identities and their chains), `machine` and `keystore` (nio's Olm
machine over our own database), `identities` (who is judged how), `sync` (homeserver -> inbox, in
one transaction), `deliver` (inbox -> skill -> outbox, in one transaction), `send` (outbox ->
homeserver), `verification` (SAS), `runner` (all of them together).
"""
