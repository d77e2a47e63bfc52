"""People and what belongs to a person: accounts, devices, tokens, profiles, settings."""
