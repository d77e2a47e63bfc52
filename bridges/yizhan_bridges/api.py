"""The gateway's HTTP interface.

Spec: push gateway API. `/health` and `/_yizhan/push/v1/vapid` are ours (docs/operations/push.md).
"""

import logging
import math
import traceback
from collections.abc import Mapping

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from yizhan_bridges.delivery import Delivery, NotDelivered, Overloaded
from yizhan_bridges.notification import MalformedNotification, parse_notification

log = logging.getLogger(__name__)

# An event has at most 64 KiB; the rest is for names and a hundred devices with their data.
MAX_REQUEST_BYTES = 512 * 1024


def build_application(delivery: Delivery, vapid_public_key: str) -> web.Application:
    """Return the application with all routes."""

    async def notify(request: web.Request) -> web.Response:
        """Deliver one notification (push gateway API, POST /notify)."""
        notification = parse_notification(await request.read())
        return _json(200, {"rejected": await delivery.deliver(notification)})

    async def health(_: web.Request) -> web.Response:
        """Say that the process answers."""
        return _json(200, {"status": "ok"})

    async def vapid(_: web.Request) -> web.Response:
        """Tell the key that browsers need for `PushManager.subscribe`."""
        # Read by scripts of any web client's origin; it is public.
        headers = {"Access-Control-Allow-Origin": "*"}
        return _json(200, {"vapid": vapid_public_key}, headers)

    application = web.Application(middlewares=[_answer_errors], client_max_size=MAX_REQUEST_BYTES)
    application.router.add_post("/_matrix/push/v1/notify", notify)
    application.router.add_get("/health", health)
    application.router.add_get("/_yizhan/push/v1/vapid", vapid)
    return application


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Translate whatever goes wrong into the specification's error bodies."""
    try:
        return await handler(request)
    except MalformedNotification as error:
        return _error(400, error.errcode, str(error))
    except NotDelivered as error:
        return _error(502, "M_UNKNOWN", "A push service did not take the notification", error.after)
    except Overloaded:
        return _error(429, "M_LIMIT_EXCEEDED", "Too many notifications are under way", 1)
    except web.HTTPRequestEntityTooLarge:
        return _error(413, "M_TOO_LARGE", "The body is too large")
    except web.RequestPayloadError:
        return _error(400, "M_NOT_JSON", "The body could not be read")
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
        return _error(error.status, "M_UNRECOGNIZED", "Unrecognized request")
    except web.HTTPException as error:
        return _error(error.status, "M_UNKNOWN", error.reason)
    except Exception as error:  # noqa: BLE001 (the last line: a bug must not answer with itself)
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        # The place but not the message, which may quote a pushkey or an endpoint.
        frames = traceback.format_tb(error.__traceback__)
        log.error(  # noqa: TRY400 (no traceback of the logger's making)
            "unexpected error", extra={"error": type(error).__name__, "frames": "".join(frames)}
        )
        return _error(500, "M_UNKNOWN", "Internal error")


def _error(
    status: int, errcode: str, message: str, retry_after: float | None = None
) -> web.Response:
    body: dict[str, str | int] = {"errcode": errcode, "error": message}
    headers = {}
    if retry_after is not None:
        headers["Retry-After"] = str(math.ceil(retry_after))
        if status == 429:
            body["retry_after_ms"] = math.ceil(retry_after * 1000)
    return _json(status, body, headers)


def _json(
    status: int, body: Mapping[str, object], headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers=headers,
    )
