"""Carries one notification to all its devices: attempts, waits and bounds.

Each device ends as delivered, rejected (the homeserver removes the pusher) or postponed (the
homeserver is answered 502 and sends the notification again). Nothing is stored: until a push
service has taken a notification, it is the homeserver's.
"""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from yizhan_bridges.notification import Device, Notification
from yizhan_bridges.provider import Provider, ProviderMisconfigured, PushkeyRejected, Retry
from yizhan_bridges.pseudonyms import Pseudonyms

log = logging.getLogger(__name__)

_MAX_PAUSES = 10_000
_jitter = random.SystemRandom()


class NotDelivered(Exception):
    """At least one device could not be reached; send the notification again.

    `after` is the longest wait in seconds that a push service asked for, if any did.
    """

    def __init__(self, after: float | None) -> None:
        super().__init__(after)
        self.after = after


class Overloaded(Exception):
    """More deliveries are under way than this gateway is configured for."""


@dataclass(frozen=True)
class DeliveryLimits:
    """Bounds of the work for one notification, and of all work."""

    attempts: int = 3
    retry_seconds: float = 20
    """No attempt starts later than this after the first."""
    backoff_seconds: float = 0.5
    """The first wait when the push service names none; it doubles each time."""
    max_pending: int = 2000
    """Devices being delivered to, waiting ones included."""


@dataclass(frozen=True)
class ProviderTable:
    """Which provider serves which app."""

    by_app_id: Mapping[str, Provider]
    webpush: Provider | None = None
    """Serves every other pusher that names a Web Push endpoint; None: no other app is served."""

    def find_provider(self, device: Device) -> Provider | None:
        """Return the provider for the device's app, or None if the app is not served here."""
        provider = self.by_app_id.get(device.app_id)
        if provider is None and device.data and "endpoint" in device.data:
            return self.webpush
        return provider


@dataclass(frozen=True)
class _Postponed:
    after: float | None


class Delivery:
    """Delivers notifications; one for the whole process."""

    def __init__(
        self, providers: ProviderTable, pseudonyms: Pseudonyms, limits: DeliveryLimits
    ) -> None:
        self._providers = providers
        self._pseudonyms = pseudonyms
        self._limits = limits
        self._pending = 0
        self._pauses: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def deliver(self, notification: Notification) -> list[str]:
        """Deliver to every device and return the rejected pushkeys.

        Raises NotDelivered when a device was postponed - after every other device had its
        turn - and Overloaded before anything was sent.
        """
        count = len(notification.devices)
        if self._pending + count > self._limits.max_pending:
            raise Overloaded
        self._pending += count
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._deliver_to(device, notification))
                    for device in notification.devices
                ]
        finally:
            self._pending -= count
        outcomes = [task.result() for task in tasks]
        postponed = [outcome for outcome in outcomes if isinstance(outcome, _Postponed)]
        if postponed:
            waits = [outcome.after for outcome in postponed if outcome.after is not None]
            raise NotDelivered(max(waits, default=None))
        # A dict, not a set: the answer keeps the order of the request.
        return list(dict.fromkeys(outcome for outcome in outcomes if isinstance(outcome, str)))

    async def _deliver_to(
        self, device: Device, notification: Notification
    ) -> str | _Postponed | None:
        """Return the pushkey if it is rejected, when it is postponed how long, else None."""
        fields = {"app_id": device.app_id, "pushkey": self._pseudonyms.name(device.pushkey)}
        provider = self._providers.find_provider(device)
        if provider is None:
            log.warning("pushkey rejected: the app is not served here", extra=fields)
            return device.pushkey
        pause = self._find_pause(device)
        if pause is not None:
            return _Postponed(pause)
        try:
            await self._attempt(provider, notification, device)
        except PushkeyRejected as error:
            log.info("pushkey rejected", extra={**fields, "reason": str(error)})
            return device.pushkey
        except ProviderMisconfigured as error:
            log.error("provider misconfigured", extra={**fields, "reason": str(error)})  # noqa: TRY400
            return _Postponed(None)
        except Retry as retry:
            log.warning("not delivered", extra={**fields, "retry_after": retry.after})
            self._pause(device, retry.after)
            return _Postponed(retry.after)
        return None

    async def _attempt(
        self, provider: Provider, notification: Notification, device: Device
    ) -> None:
        """Try until it succeeds or the limits are reached; raises the last attempt's error."""
        last_start = time.monotonic() + self._limits.retry_seconds
        for attempt in range(1, self._limits.attempts + 1):
            try:
                return await provider.deliver(notification, device)
            except Retry as retry:
                wait = retry.after
                if wait is None:
                    wait = self._limits.backoff_seconds * 2 ** (attempt - 1)
                    wait *= _jitter.uniform(0.75, 1.25)
                if attempt == self._limits.attempts or time.monotonic() + wait > last_start:
                    raise
            await asyncio.sleep(wait)
        return None

    def _pause(self, device: Device, after: float | None) -> None:
        """Leave the device alone as long as its push service asked (RFC 8030 §8.4)."""
        if after:
            self._pauses[_identity(device)] = time.monotonic() + after
            while len(self._pauses) > _MAX_PAUSES:
                self._pauses.popitem(last=False)

    def _find_pause(self, device: Device) -> float | None:
        until = self._pauses.get(_identity(device))
        if until is None:
            return None
        remaining = until - time.monotonic()
        if remaining <= 0:
            del self._pauses[_identity(device)]
            return None
        return remaining


def _identity(device: Device) -> tuple[str, str]:
    return device.app_id, device.pushkey
