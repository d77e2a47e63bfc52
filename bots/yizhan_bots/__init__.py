"""The office bots: commands in rooms that drive approvals and, later, documents and calendars."""
