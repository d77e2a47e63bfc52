"""The one wrapper around every endpoint: find it, authenticate, limit, parse, answer.

A handler receives a `Call` in which all of that has happened, acts through a service and
returns a JSON object (or bytes that are JSON already, or a `Reply`). Everything it may raise is
translated here and only here, so no handler names an HTTP status for a failure.

aiohttp's own router matches regular expressions one after the other and tells 404 from 405
by exception; with two hundred routes a dictionary walk over the path segments is several
times cheaper and decodes each segment exactly once, after splitting (an identifier may hold
an encoded slash).

Spec: client-server API, "Standard error response", "Client Authentication", "Web Browser Clients";
server-server API, "Request Authentication", "Unsupported endpoints".
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar, cast
from urllib.parse import unquote

import msgspec
import orjson
from aiohttp import web

from yizhan_database import DatabaseUnavailable
from yizhan_server.accounts.requester import Requester
from yizhan_server.admin.gate import Administrator, access_administrator
from yizhan_server.api.client_address import ClientAddresses
from yizhan_server.api.compression import encoded
from yizhan_server.api.guests import guest_forbidden, is_open_to_guests
from yizhan_server.api.limits import RateLimits
from yizhan_server.api.peer_authentication import PeerAuthentication
from yizhan_server.api.services import Services
from yizhan_server.api.suspension import is_open_to_suspended, user_suspended
from yizhan_server.appservices.identities import AppserviceIdentities
from yizhan_server.protocol.canonical_json import encode_any, holds_nul
from yizhan_server.protocol.errors import BadJson, MatrixError, MissingToken, TooLarge
from yizhan_server.protocol.identifiers import InvalidIdentifier, ServerName
from yizhan_server.rooms.access import JoinedRoom, ReadableRoom, VisibleEvent
from yizhan_server.rooms.rendering import Reader

log = logging.getLogger(__name__)

request_id: ContextVar[str] = ContextVar("request_id", default="-")

JsonObject = dict[str, Any]
Body = TypeVar("Body")

CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": (
        "X-Requested-With, Content-Type, Authorization, If-Match, If-None-Match, If-Range, Range"
    ),
    "Access-Control-Expose-Headers": "Retry-After, ETag",
}
JSON_HEADERS = {**CORS_HEADERS, "Content-Type": "application/json"}

_INTEGER = re.compile(r"-?[0-9]{1,17}", re.ASCII)

DEFAULT_MAX_BODY = 1 << 20
"""Bytes. An event is at most 64 KiB; key uploads and state of a new room are a few times that."""


class Auth(Enum):
    """What an endpoint demands of its caller."""

    NONE = "none"
    OPTIONAL = "optional"
    USER = "user"
    OPTIONAL_APPSERVICE = "optional application service"
    """Anybody; an application service is known by its token, and no user is looked at."""
    APPSERVICE = "application service"
    ADMIN = "admin"
    SERVER = "server"
    """Another homeserver, which has signed the request and is let in by `federation.allow`."""


PEER_LIMIT = "federation"
"""The rate limit of other servers, by name."""

PEER_ADDRESS_LIMIT = "federation addresses"
"""That of their addresses, before a signature is checked and where none is needed."""


QUESTIONS_LIMIT = "questions"
"""The rate limit of what other servers are asked on behalf of one user."""


@dataclass(slots=True)
class Reply:
    """An answer that is not simply 200 with JSON."""

    body: JsonObject | list[Any] | bytes | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: web.StreamResponse | None = None
    """Set when the handler has written (and finished) the response itself."""


@dataclass(slots=True)
class Call(Generic[Body]):
    """One authenticated, limited and parsed request."""

    request: web.BaseRequest
    services: Services
    path: dict[str, str]
    """The decoded path parameters."""
    body: Body
    _requester: Requester | None
    find_token: Callable[[web.BaseRequest], str | None]
    """Finds the access token where the settings allow it to be."""
    _origin: ServerName | None = None

    @property
    def origin(self) -> ServerName:
        """Which server makes this call. Only on endpoints for servers (`Auth.SERVER`)."""
        if self._origin is None:
            raise MatrixError(401, "M_UNAUTHORIZED", "The request is not signed")
        return self._origin

    @property
    def requester(self) -> Requester:
        """Whose call this is. Only on endpoints that demand authentication."""
        if self._requester is None:
            raise MatrixError(401, "M_MISSING_TOKEN", "Missing access token")
        return self._requester

    @property
    def administrator(self) -> Administrator:
        """Return proof that the requester administers this server, or answer M_FORBIDDEN."""
        return access_administrator(self.requester)

    @property
    def maybe_requester(self) -> Requester | None:
        """Whose call this is, or None on an endpoint with optional authentication."""
        return self._requester

    def query(self, name: str) -> str | None:
        """Return a query parameter, or None; M_INVALID_PARAM if no text can hold it."""
        value = self.request.query.get(name)
        if value is not None and "\0" in value:
            raise MatrixError(400, "M_INVALID_PARAM", f"'{name}' holds a NUL character")
        return value

    def query_required(self, name: str) -> str:
        """Return a query parameter, or answer M_MISSING_PARAM."""
        value = self.query(name)
        if value is None:
            raise MatrixError(400, "M_MISSING_PARAM", f"Missing query parameter '{name}'")
        return value

    def query_all(self, name: str) -> list[str]:
        """Return every value of a repeated query parameter; M_INVALID_PARAM as above."""
        values = list(self.request.query.getall(name, []))
        if any("\0" in value for value in values):
            raise MatrixError(400, "M_INVALID_PARAM", f"'{name}' holds a NUL character")
        return values

    def query_int(self, name: str, default: int, *, low: int = 0, high: int = 2**53 - 1) -> int:
        """Return an integer query parameter, limited to [low, high]; M_INVALID_PARAM if none."""
        value = self.request.query.get(name)
        if value is None:
            return default
        if _INTEGER.fullmatch(value) is None:
            raise MatrixError(400, "M_INVALID_PARAM", f"'{name}' must be an integer")
        number = int(value)
        if number < low:
            raise MatrixError(400, "M_INVALID_PARAM", f"'{name}' must be at least {low}")
        return min(number, high)

    def query_bool(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean query parameter; M_INVALID_PARAM unless it is true or false."""
        value = self.request.query.get(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise MatrixError(400, "M_INVALID_PARAM", f"'{name}' must be true or false")
        return value == "true"

    def query_choice(self, name: str, choices: tuple[str, ...], default: str | None) -> str | None:
        """Return a query parameter that must be one of `choices`."""
        value = self.request.query.get(name, default)
        if value is not None and value not in choices:
            raise MatrixError(
                400, "M_INVALID_PARAM", f"'{name}' must be one of {', '.join(choices)}"
            )
        return value

    def ask_another_server(self) -> None:
        """Count a question that another server has to answer; refuse it to whom it is not for.

        Guests, and who has not signed in, get what is here.
        """
        requester = self._requester
        if requester is None:
            raise MissingToken
        if requester.is_guest:
            raise guest_forbidden()
        if requester.is_rate_limited:
            self.services.limits.check(QUESTIONS_LIMIT, requester.user_id)

    async def joined_room(self) -> JoinedRoom:
        """Return proof that the requester is joined to the path's room, or answer 403."""
        return await self.services.access.access_joined_room(
            self.requester.user_id, self.path["room_id"]
        )

    async def readable_room(self, *, peek: bool = True) -> ReadableRoom:
        """Return proof that the requester may read the path's room, or answer 403."""
        return await self.services.access.access_readable_room(
            self.requester.user_id, self.path["room_id"], peek=peek
        )

    async def visible_event(self) -> VisibleEvent:
        """Return the path's event, if the requester may see it, or answer 404."""
        return await self.services.access.access_event(
            self.requester.user_id, self.path["room_id"], self.path["event_id"]
        )

    def reader_of(self, readable: ReadableRoom) -> Reader:
        """Return the requester's device as the reader of a room."""
        return Reader(readable, self.requester.device_id)


Answer = JsonObject | list[Any] | bytes | Reply
OnError = Callable[[web.BaseRequest, MatrixError], Reply]
Handler = Callable[[Call[Any]], Awaitable[Answer]]
HandlerT = TypeVar("HandlerT", bound=Callable[..., Awaitable[Any]])


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint: how it is reached, what it demands and who serves it."""

    method: str
    path: str
    handler: Handler
    auth: Auth
    limit: str | None
    parse: Callable[[bytes], Any] | None
    max_body: int
    raw_body: bool
    alternatives: tuple[str, ...] = ()
    """Other paths of the same operation: older versions, unstable names."""
    open_to_suspended: bool = False
    open_to_guests: bool = False
    on_error: OnError | None = None
    """Words a failure where the caller is a person's browser and not a client."""
    may_compress: bool = False
    """No answer holds a credential, and nobody but who knows the token can cause one."""
    body: type | None = None


_CREDENTIALS_IN_ANSWERS = (Auth.NONE, Auth.OPTIONAL_APPSERVICE)
"""Signing in, registering and refreshing, and the pages, whose forms carry codes."""


class Routes:
    """Collects the endpoints of one module; paths are given after `prefix`.

    `auth` is what they demand unless they say otherwise. Every `/v3/` path is served under `/r0/`
    too: clients in use still call it.
    """

    def __init__(
        self,
        prefix: str = "/_matrix/client",
        on_error: OnError | None = None,
        *,
        auth: Auth = Auth.USER,
    ) -> None:
        self._prefix = prefix
        self._on_error = on_error
        self._auth = auth
        self.routes: list[Route] = []

    def _add(
        self,
        method: str,
        path: str,
        *,
        body: type | None = None,
        auth: Auth | None = None,
        limit: str | None = None,
        max_body: int = DEFAULT_MAX_BODY,
        raw_body: bool = False,
        also: tuple[str, ...] = (),
        gives_credential: bool = False,
    ) -> Callable[[HandlerT], HandlerT]:
        parse = None if body is None else _parser(body)
        demanded = self._auth if auth is None else auth
        paths = [path, *also]
        alternatives = tuple(
            self._prefix + other
            for other in [*also, *(p.replace("/v3/", "/r0/", 1) for p in paths if "/v3/" in p)]
        )

        def register(handler: HandlerT) -> HandlerT:
            route = Route(
                method, self._prefix + path, cast("Handler", handler),
                demanded, limit, parse, max_body,
                raw_body, alternatives,
                is_open_to_suspended(method, [self._prefix + path, *alternatives]),
                is_open_to_guests(method, [self._prefix + path, *alternatives]),
                self._on_error, not gives_credential and demanded not in _CREDENTIALS_IN_ANSWERS,
                body,
            )  # fmt: skip
            self.routes.append(route)
            return handler

        return register

    def get(self, path: str, **options: Any) -> Callable[[HandlerT], HandlerT]:
        """Declare a GET endpoint."""
        return self._add("GET", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[HandlerT], HandlerT]:
        """Declare a PUT endpoint; `body` is the msgspec type (or dict) of its JSON body."""
        return self._add("PUT", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[HandlerT], HandlerT]:
        """Declare a POST endpoint; `body` is the msgspec type (or dict) of its JSON body."""
        return self._add("POST", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[HandlerT], HandlerT]:
        """Declare a DELETE endpoint."""
        return self._add("DELETE", path, **options)


def _parser(body: type) -> Callable[[bytes], Any]:
    """Return a function from bytes to `body`; an absent body counts as `{}`.

    Free-form objects go through orjson, which refuses lone surrogates and bad UTF-8;
    declared ones through msgspec, which also checks every type and ignores unknown keys.
    """
    if body is dict:

        def parse_object(data: bytes) -> JsonObject:
            value = orjson.loads(data or b"{}")
            if not isinstance(value, dict):
                raise MatrixError(400, "M_BAD_JSON", "The body must be a JSON object")
            return value

        return parse_object
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)

    def parse_typed(data: bytes) -> Any:
        if not data.isascii():
            data.decode()  # msgspec does not look into the values of unknown keys
        try:
            parsed = decoder.decode(data or b"{}")
            # JSON can only spell it so; an escaped backslash before it is somebody's prose.
            has_nul = b"\\u0000" in data and holds_nul(orjson.loads(data))
        except RecursionError:
            raise MatrixError(400, "M_BAD_JSON", "The body is nested too deeply") from None
        if has_nul:
            raise MatrixError(400, "M_BAD_JSON", "The body holds a NUL character")
        return parsed

    return parse_typed


def _converted(content: JsonObject, body: type) -> Any:
    """Return a parsed object as `body`, with the checks that `_parser` makes."""
    if body is dict:
        return content
    if holds_nul(content):
        raise BadJson("The body holds a NUL character")
    return msgspec.convert(content, body)


class _Node:
    """One segment of the path tree."""

    __slots__ = ("children", "names", "parameter", "routes")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.routes: dict[str, Route] = {}
        self.names: dict[str, tuple[str, ...]] = {}


class Router:
    """Finds the endpoint of a method and a raw path."""

    def __init__(self, modules: list[Routes]) -> None:
        self._root = _Node()
        self.routes: list[Route] = []
        for module in modules:
            for route in module.routes:
                self.routes.append(route)
                for path in (route.path, *route.alternatives):
                    self._insert(path, route)

    def _insert(self, path: str, route: Route) -> None:
        node = self._root
        names: list[str] = []
        for segment in path.split("/")[1:]:
            if segment.startswith("{"):
                names.append(segment[1:-1])
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.children.setdefault(segment, _Node())
        if route.method in node.routes:
            raise ValueError(f"two endpoints at {route.method} {path}")
        node.routes[route.method] = route
        node.names[route.method] = tuple(names)

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """Return the route and its decoded parameters; MatrixError 404 or 405 when none."""
        segments = raw_path.split("/")[1:]
        found = self._descend(self._root, segments, 0, [])
        if found is None:
            raise MatrixError(404, "M_UNRECOGNIZED", "Unrecognized request")
        node, values = found
        route = node.routes.get(method)
        if route is None:
            raise MatrixError(405, "M_UNRECOGNIZED", "Unrecognized method for this path")
        return route, dict(zip(node.names[method], values, strict=True))

    def _descend(
        self, node: _Node, segments: list[str], index: int, values: list[str]
    ) -> tuple[_Node, list[str]] | None:
        # Literal segments win; only where one leads nowhere is the parameter tried instead.
        if index == len(segments):
            return (node, values) if node.routes else None
        segment = segments[index]
        child = node.children.get(segment)
        if child is not None:
            found = self._descend(child, segments, index + 1, values)
            if found is not None:
                return found
        if node.parameter is not None:
            try:
                value = unquote(segment, errors="strict") if "%" in segment else segment
            except UnicodeDecodeError:
                raise MatrixError(400, "M_INVALID_PARAM", "The path is not UTF-8") from None
            if "\0" in value:
                raise MatrixError(400, "M_INVALID_PARAM", "The path holds a NUL character")
            return self._descend(node.parameter, segments, index + 1, [*values, value])
        return None


class Wrapper:
    """The aiohttp request handler that every request passes through."""

    def __init__(
        self,
        router: Router,
        services: Services,
        limits: RateLimits,
        authenticate: Callable[[str], Awaitable[Requester]],
        appservices: AppserviceIdentities,
        addresses: ClientAddresses,
        peers: PeerAuthentication,
        *,
        query_string_tokens: bool,
        compress: bool,
    ) -> None:
        self._router = router
        self._services = services
        self._limits = limits
        self._authenticate = authenticate
        self._appservices = appservices
        self._addresses = addresses
        self._peers = peers
        self._query_string_tokens = query_string_tokens
        self._compress = compress

    async def __call__(  # noqa: PLR0911 - one answer for each kind of failure
        self, request: web.BaseRequest
    ) -> web.StreamResponse:
        """Answer one request; never raises but for cancellation."""
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=CORS_HEADERS)
        try:
            route, answer = await self._answer(request)
        except MatrixError as error:
            return _error_response(error)
        except (orjson.JSONDecodeError, UnicodeDecodeError):
            return _error_response(MatrixError(400, "M_NOT_JSON", "The body is not JSON"))
        except msgspec.ValidationError as error:
            return _error_response(MatrixError(400, "M_BAD_JSON", str(error)))
        except msgspec.DecodeError:
            return _error_response(MatrixError(400, "M_NOT_JSON", "The body is not JSON"))
        except InvalidIdentifier as error:
            return _error_response(MatrixError(400, "M_INVALID_PARAM", str(error)))
        except web.RequestPayloadError:
            return _error_response(
                MatrixError(400, "M_NOT_JSON", "The body is not what its encoding says")
            )
        except DatabaseUnavailable:
            log.exception("database unavailable", extra={"path": request.path})
            return _error_response(
                MatrixError(503, "M_UNKNOWN", "The server cannot store anything at the moment"),
                {"Retry-After": "5"},
            )
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            if request.transport is not None and not request.transport.is_closing():
                raise
            # The client is gone, in the middle of a file or of its own body: no fault of anybody's.
            return web.Response(status=499)
        except Exception:
            log.exception("request failed", extra={"method": request.method})
            return _error_response(MatrixError(500, "M_UNKNOWN", "Internal server error"))
        return await self._response(request, route, answer)

    async def _response(
        self, request: web.BaseRequest, route: Route, answer: Answer
    ) -> web.StreamResponse:
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        if reply.stream is not None:
            return reply.stream
        body = encode_any(reply.body) if isinstance(reply.body, dict | list) else reply.body
        headers = {**JSON_HEADERS, **reply.headers}
        if self._compress and route.may_compress and body is not None:
            body, headers = await encoded(request, body, headers)
        return web.Response(body=body, status=reply.status, headers=headers)

    async def _answer(self, request: web.BaseRequest) -> tuple[Route, Answer]:
        request_id.set(secrets.token_hex(4))
        raw_path = request.rel_url.raw_path
        route, path = self._router.find(
            "GET" if request.method == "HEAD" else request.method, raw_path
        )
        try:
            return route, await self._serve(request, route, path)
        except MatrixError as error:
            if route.on_error is None:
                raise
            return route, route.on_error(request, error)

    async def _serve_peer(
        self, request: web.BaseRequest, route: Route, path: dict[str, str]
    ) -> Answer:
        """Serve another server. Its body is read before it is known, but parsed only once."""
        self._limits.check(PEER_ADDRESS_LIMIT, self._addresses.limited(request))
        claimed = self._peers.read_claim(request)
        data = await read_body(request, route.max_body)
        content = await self._peers.check(request, claimed, data)
        # Not earlier: in another server's name anybody could use up what it is allowed.
        self._limits.check(PEER_LIMIT, claimed.origin)
        if route.limit is not None:
            self._limits.check(route.limit, claimed.origin)
        body = None if route.body is None else _converted(content or {}, route.body)
        call = Call(request, self._services, path, body, None, self._find_token, claimed.origin)
        return await route.handler(call)

    async def _serve(self, request: web.BaseRequest, route: Route, path: dict[str, str]) -> Answer:
        if route.auth is Auth.SERVER:
            return await self._serve_peer(request, route, path)
        requester = None
        if route.auth is not Auth.NONE:
            requester = await self._requester(request, route.auth)
            if requester is not None and requester.is_suspended and not route.open_to_suspended:
                raise user_suspended()
            if requester is not None and requester.is_guest and not route.open_to_guests:
                raise guest_forbidden()
        if route.limit is not None and (requester is None or requester.is_rate_limited):
            self._limits.check(
                route.limit, requester.user_id if requester else self._addresses.limited(request)
            )
        body: Any = None
        if route.parse is not None:
            body = route.parse(await read_body(request, route.max_body))
        elif not route.raw_body and request.can_read_body:
            await read_body(request, route.max_body)
        call = Call(request, self._services, path, body, requester, self._find_token)
        return await route.handler(call)

    def _find_token(self, request: web.BaseRequest) -> str | None:
        token = access_token(request)
        if token is None and self._query_string_tokens:
            # Removed from the specification in v1.18; older clients and test suites send it.
            token = request.query.get("access_token")
        return token

    async def _requester(self, request: web.BaseRequest, auth: Auth) -> Requester | None:
        token = self._find_token(request)
        if auth is Auth.OPTIONAL_APPSERVICE:
            return None if token is None else self._appservices.find_service(token)
        if token is None:
            if auth is Auth.OPTIONAL:
                return None
            raise MatrixError(401, "M_MISSING_TOKEN", "Missing access token")
        requester = await self._appservices.find(token, request.query)
        if requester is not None and not requester.device_id:
            return self._check(requester, auth)
        requester = requester or await self._authenticate(token)
        self._services.sessions.note_seen(
            requester, self._addresses.of(request), request.headers.get("User-Agent")
        )
        return self._check(requester, auth)

    @staticmethod
    def _check(requester: Requester, auth: Auth) -> Requester:
        if auth is Auth.ADMIN:
            access_administrator(requester)
        if auth is Auth.APPSERVICE and requester.appservice is None:
            raise MatrixError(403, "M_FORBIDDEN", "Only application services may do this")
        return requester


def access_token(request: web.BaseRequest) -> str | None:
    """Return the access token of the Authorization header, or None."""
    header = request.headers.get("Authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer" and token:
            return token.strip()
        raise MatrixError(401, "M_MISSING_TOKEN", "The Authorization header must be 'Bearer TOKEN'")
    return None


async def read_body(request: web.BaseRequest, max_body: int) -> bytes:
    """Return the request's body, or answer M_TOO_LARGE beyond `max_body` bytes."""
    if request.content_length is not None and request.content_length > max_body:
        raise TooLarge(f"The body exceeds {max_body} bytes")
    if not request.can_read_body:
        return b""
    chunks = bytearray()
    async for chunk in request.content.iter_any():
        chunks += chunk
        if len(chunks) > max_body:
            raise TooLarge(f"The body exceeds {max_body} bytes")
    return bytes(chunks)


def _error_response(error: MatrixError, headers: Mapping[str, str] | None = None) -> web.Response:
    extra = dict(headers or {})
    body = error.body()
    retry_after_ms = body.get("retry_after_ms")
    if isinstance(retry_after_ms, int):
        extra["Retry-After"] = str(-(-retry_after_ms // 1000))
    return web.Response(
        body=orjson.dumps(body), status=error.status, headers={**JSON_HEADERS, **extra}
    )
