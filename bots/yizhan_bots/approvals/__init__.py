"""Approvals: requests, tasks and decisions, event-sourced. Knows neither Matrix nor dialogue.

Reading order: `canonical` (bytes that are kept for ever), `codes` (what a decision must
carry), `forms`, `events` (what can happen and what follows), `storage`, `desk` (the acts, each
behind its gate), `cards` (a request as text).
"""
