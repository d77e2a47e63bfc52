"""Application services: bridges and other programs that own users, aliases and rooms here."""
