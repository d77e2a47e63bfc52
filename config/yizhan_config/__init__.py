"""Configuration, logging and background tasks of every program, and the `yizhan` command.

The command *executes* the other programs (`python -m yizhan_server ...`) and imports none of
them, so that each stays deployable alone.
"""
