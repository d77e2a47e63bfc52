"""Signing in through an OpenID Connect provider that vouches for people."""
