"""Our own OAuth 2.0 authorization server: clients, grants, scopes; its pages are in `pages`."""
