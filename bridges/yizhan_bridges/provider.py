"""The contract between the gateway and one push vendor, and the errors that carry a decision.

A provider makes one attempt and says what came of it; how often, how long and how many at once
is `delivery`'s business. APNs, FCM and Web Push differ in everything else, so nothing else is
shared.
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

from yizhan_bridges.notification import Device, Notification

_LONGEST_WAIT_SECONDS = 86_400.0


class Retry(Exception):
    """Not delivered this time; `after` is the wait in seconds that the vendor asked for, if any."""

    def __init__(self, after: float | None = None) -> None:
        super().__init__(after)
        self.after = after


class PushkeyRejected(Exception):
    """This pushkey can never be delivered to: the homeserver is told to remove the pusher."""


class ProviderMisconfigured(Exception):
    """The vendor refuses *us* (credentials, keys, clock): an administrator must act.

    The pushkey may be good, so it is not rejected and the homeserver tries again later.
    """


class Provider(Protocol):
    """One vendor's push service with our credentials for one app."""

    async def deliver(self, notification: Notification, device: Device) -> None:
        """Make one attempt, bounded in time by the provider.

        Returns when the vendor took responsibility, or when this notification is not to reach
        this device (the device asked for events only; the vendor refuses this very message).
        Raises Retry, PushkeyRejected or ProviderMisconfigured.
        """


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Read a Retry-After header (RFC 9110 §10.2.3) as seconds from now, within [0, 1 day].

    None when the header is absent or makes no sense.
    """
    if value is None:
        return None
    if value.strip().isdecimal() and value.isascii():
        # Not int(): a header of thousands of digits is a ValueError there.
        return min(float(value), _LONGEST_WAIT_SECONDS)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    wait = (at - (now or datetime.now(UTC))).total_seconds()
    return min(max(wait, 0.0), _LONGEST_WAIT_SECONDS)
