"""The composition root: builds each part of the gateway once and hands it its collaborators."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext

from aiohttp import web
from aiohttp.abc import AbstractResolver

from yizhan_bridges.api import build_application
from yizhan_bridges.delivery import Delivery, DeliveryLimits, ProviderTable
from yizhan_bridges.payload import Detail
from yizhan_bridges.provider import Provider
from yizhan_bridges.pseudonyms import Pseudonyms
from yizhan_bridges.webpush.provider import WebPushProvider
from yizhan_bridges.webpush.vapid import VapidKey, load_or_create_private_key
from yizhan_config.outbound import outbound_session
from yizhan_config.settings import PushGateway

_PSEUDONYM_CONTEXT = "yizhan/push-pseudonyms/v1"
_DETAILS = {"ids": Detail.IDS, "names": Detail.NAMES, "content": Detail.CONTENT}


@dataclass(frozen=True)
class Surroundings:
    """What differs between an installation and a test: names, trust and patience."""

    resolver: AbstractResolver | None = None
    ssl_context: SSLContext | None = None
    timeout_seconds: float = 10
    limits: DeliveryLimits = field(default_factory=DeliveryLimits)


@asynccontextmanager
async def open_application(
    section: PushGateway, surroundings: Surroundings | None = None
) -> AsyncIterator[web.Application]:
    """Build the gateway; its connections are closed when the block ends.

    Creates the VAPID key on the first start. Raises ConfigurationError.
    """
    surroundings = surroundings or Surroundings()
    private_key = load_or_create_private_key(section.vapid_key_file)
    vapid = VapidKey(private_key, section.vapid_contact)
    pseudonyms = Pseudonyms(vapid.derive_key(_PSEUDONYM_CONTEXT))
    session = outbound_session(
        section.outbound_allow,
        resolver=surroundings.resolver,
        ssl_context=surroundings.ssl_context,
        key="push_gateway.outbound_allow",
    )

    def webpush(detail: str) -> Provider:
        return WebPushProvider(
            session,
            vapid,
            pseudonyms,
            detail=_DETAILS[detail],
            ttl_seconds=section.ttl_seconds,
            timeout_seconds=surroundings.timeout_seconds,
        )

    providers = ProviderTable(
        # `kind` has one value so far; APNs and FCM join here.
        by_app_id={
            app_id: webpush(app.detail or section.detail) for app_id, app in section.apps.items()
        },
        webpush=webpush(section.detail) if section.webpush_default else None,
    )
    async with session:
        delivery = Delivery(providers, pseudonyms, surroundings.limits)
        yield build_application(delivery, vapid.public_key)
