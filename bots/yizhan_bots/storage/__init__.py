"""The bots' own database: its migrations (0001 the runner's, 0002 and later the skills')."""
