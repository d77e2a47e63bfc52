"""One attempt to deliver to a browser's push service, and what its answer means.

RFC 8030 §5 (requesting delivery), §8.4 (rate limits)
"""

import base64
import logging
from contextlib import suppress

import aiohttp
from yarl import URL

from yizhan_bridges.notification import Device, Notification
from yizhan_bridges.payload import Detail, build_payload
from yizhan_bridges.provider import (
    ProviderMisconfigured,
    PushkeyRejected,
    Retry,
    parse_retry_after,
)
from yizhan_bridges.pseudonyms import Pseudonyms
from yizhan_bridges.webpush.encryption import MAX_PLAINTEXT_BYTES, encrypt
from yizhan_bridges.webpush.subscription import Subscription
from yizhan_bridges.webpush.vapid import VapidKey
from yizhan_config.outbound import (
    OutboundRefused,
    OutboundSession,
    ResponseTooLarge,
    read_bounded,
)

log = logging.getLogger(__name__)

# Nothing in the answer is of use; a little is read so that the connection can be used again.
_MAX_ANSWER_BYTES = 4096


class WebPushProvider:
    """Delivers to whatever endpoint a subscription names, within the outbound session's gate."""

    def __init__(
        self,
        session: OutboundSession,
        vapid: VapidKey,
        pseudonyms: Pseudonyms,
        *,
        detail: Detail = Detail.IDS,
        ttl_seconds: int = 86_400,
        timeout_seconds: float = 10,
    ) -> None:
        """`ttl_seconds`: how long a push service keeps what it cannot deliver at once."""
        self._session = session
        self._vapid = vapid
        self._pseudonyms = pseudonyms
        self._detail = detail
        self._ttl_seconds = ttl_seconds
        self._timeout_seconds = timeout_seconds

    async def deliver(self, notification: Notification, device: Device) -> None:
        """Encrypt for the subscription and post it, once. See `Provider`."""
        subscription = Subscription.parse(device)
        if subscription.events_only and not notification.event_id:
            return
        endpoint = self._check_endpoint(subscription)
        headers = self._headers(notification, device, subscription, str(endpoint.origin()))
        payload = build_payload(
            notification, subscription.default_payload, self._detail, MAX_PLAINTEXT_BYTES
        )
        body = encrypt(payload, subscription.key, subscription.auth_secret)
        try:
            async with self._session.request(
                "POST", endpoint, headers=headers, data=body, timeout_seconds=self._timeout_seconds
            ) as response:
                await _discard_body(response)
        except OutboundRefused as error:
            raise PushkeyRejected(f"the endpoint is not allowed: {error}") from None
        except (TimeoutError, aiohttp.ClientError) as error:
            # The error's text may hold the endpoint, which is a capability: only its kind is told.
            log.info(
                "push service not reached",
                extra={"host": endpoint.raw_host, "error": type(error).__name__},
            )
            raise Retry from None
        _check_status(response, endpoint.raw_host or "")

    def _check_endpoint(self, subscription: Subscription) -> URL:
        try:
            return self._session.check_url(subscription.endpoint)
        except OutboundRefused as error:
            raise PushkeyRejected(f"the endpoint is not allowed: {error}") from None

    def _headers(
        self, notification: Notification, device: Device, subscription: Subscription, origin: str
    ) -> dict[str, str]:
        headers = {
            "Authorization": self._vapid.get_authorization(origin),
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(self._ttl_seconds),
            # RFC 8030 §5.3 names chat messages as its example of "normal".
            "Urgency": "low" if notification.is_low_priority else "normal",
        }
        if subscription.only_last_per_room and notification.room_id:
            # 24 bytes fill the 32 characters of a topic. Different for each subscription, so
            # that a push service cannot tell who is in the same room.
            topic = self._pseudonyms.digest("topic", device.pushkey, notification.room_id, size=24)
            headers["Topic"] = base64.urlsafe_b64encode(topic).decode()
        return headers


async def _discard_body(response: aiohttp.ClientResponse) -> None:
    # The status has arrived and it alone decides: trying again would notify twice.
    with suppress(ResponseTooLarge, aiohttp.ClientPayloadError):
        await read_bounded(response, _MAX_ANSWER_BYTES)


def _check_status(response: aiohttp.ClientResponse, host: str) -> None:
    status = response.status
    if 200 <= status < 300:
        return
    log.info("push service answered", extra={"host": host, "status": status})
    if status in {404, 410}:
        raise PushkeyRejected("the subscription has ended")
    if status in {408, 425, 429} or status >= 500:
        raise Retry(parse_retry_after(response.headers.get("Retry-After")))
    if status in {401, 403}:
        raise ProviderMisconfigured("the push service does not accept our VAPID key or token")
    # A redirect, or a complaint about this very message: the same bytes would be refused again.
    log.warning("push service refused a message", extra={"host": host, "status": status})
