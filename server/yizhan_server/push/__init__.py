"""Delivers to push gateways what `rooms` judged when the event was written; evaluates nothing."""
