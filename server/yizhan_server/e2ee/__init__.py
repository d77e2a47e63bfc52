"""End-to-end encryption: public keys, cross-signing, device lists, to-device messages, backups.

The server sees no secret here. What it owes the devices is bookkeeping without a gap: each
one-time key is given out once, each change of somebody's devices is told to whoever shares a
room with them, each to-device message waits until it was received.
"""
