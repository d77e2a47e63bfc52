"""The Matrix homeserver; started as `python -m yizhan_server`."""
