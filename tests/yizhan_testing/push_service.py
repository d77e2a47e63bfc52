"""A Web Push service and its user agents, speaking RFC 8030, 8291 and 8292 over real HTTP.

It refuses what a strict service would refuse and says why in `refusals`, so that a gateway
that strays from the RFCs fails its test even if it never looks at the answer. Decryption is
`http-ece`'s and the token is checked here from the RFC: no code of ours judges itself.
"""

import asyncio
import base64
import datetime as dt
import ipaddress
import json
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import http_ece  # type: ignore[import-untyped]
from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID

_MAX_MESSAGE_BYTES = 4096
_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Message:
    """One message as the user agent gets it: decrypted, beside what travelled in the open."""

    payload: dict[str, Any]
    ttl: int
    urgency: str
    topic: str | None
    body_bytes: int


@dataclass
class Subscription:
    """What `PushManager.subscribe` returns in a browser, and the keys that it keeps."""

    endpoint: str
    application_server_key: str
    private_key: ec.EllipticCurvePrivateKey
    auth_secret: bytes
    received: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    ended: bool = False

    @property
    def p256dh(self) -> str:
        """The public key, as `subscription.toJSON().keys.p256dh`."""
        return _base64url(_point(self.private_key.public_key()))

    @property
    def auth(self) -> str:
        """The shared secret, as `subscription.toJSON().keys.auth`."""
        return _base64url(self.auth_secret)

    def device(self, app_id: str = "io.example.web", **data: object) -> dict[str, object]:
        """Return the device of a `/notify` request, in the form that Sygnal documents."""
        return {
            "app_id": app_id,
            "pushkey": self.p256dh,
            "pushkey_ts": 1_700_000_000,
            "data": {"endpoint": self.endpoint, "auth": self.auth, **data},
        }

    async def next_message(self) -> Message:
        """Return the next message, waiting for it."""
        async with asyncio.timeout(10):
            return await self.received.get()

    @property
    def is_idle(self) -> bool:
        """Whether nothing has arrived that was not taken by `next_message`."""
        return self.received.empty()


@dataclass(frozen=True)
class Answer:
    """An answer that the service gives instead of doing its work."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    hangs: bool = False


@dataclass
class PushService:
    """The service's outside: where it is, who subscribed, what it refused, what it shall answer."""

    base_url: str = ""
    requests: int = 0
    refusals: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    """Taken one by one, before real work is done."""
    arrivals: list[float] = field(default_factory=list)
    """Monotonic time of each request."""
    _subscriptions: dict[str, Subscription] = field(default_factory=dict)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    def subscribe(self, application_server_key: str) -> Subscription:
        """Act as a browser that subscribes, restricted to the VAPID key of one server."""
        token = secrets.token_urlsafe(24)
        subscription = Subscription(
            endpoint=f"{self.base_url}/push/{token}",
            application_server_key=application_server_key,
            private_key=ec.generate_private_key(ec.SECP256R1()),
            auth_secret=secrets.token_bytes(16),
        )
        self._subscriptions[token] = subscription
        return subscription

    async def handle_push(self, request: web.Request) -> web.Response:
        """Take a push message (RFC 8030 §5)."""
        self.requests += 1
        self.arrivals.append(time.monotonic())
        body = await request.read()
        if self.answers:
            answer = self.answers.pop(0)
            if answer.hangs:
                await self._released.wait()
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        subscription = self._subscriptions.get(request.match_info["token"])
        if subscription is None:
            return web.Response(status=404)
        if subscription.ended:
            return web.Response(status=410)
        try:
            message = self._check(request, body, subscription)
        except _Refusal as refusal:
            self.refusals.append(refusal.reason)
            return web.Response(status=refusal.status, text=refusal.reason)
        subscription.received.put_nowait(message)
        return web.Response(
            status=201, headers={"Location": f"{self.base_url}/message/{secrets.token_hex(8)}"}
        )

    def release(self) -> None:
        """Let the answers that hang go."""
        self._released.set()

    def _check(self, request: web.Request, body: bytes, subscription: Subscription) -> Message:
        headers = request.headers
        _require("TTL" in headers and headers["TTL"].isdecimal(), 400, "no TTL (RFC 8030 §5.2)")
        urgency = headers.get("Urgency", "normal")
        _require(urgency in {"very-low", "low", "normal", "high"}, 400, "unknown urgency (§5.3)")
        topic = headers.get("Topic")
        is_topic = topic is None or re.fullmatch(r"[A-Za-z0-9_-]{1,32}", topic) is not None
        _require(is_topic, 400, "malformed topic (§5.4)")
        _require(len(body) <= _MAX_MESSAGE_BYTES, 413, "larger than 4096 bytes (§7.2)")
        encoding = headers.get("Content-Encoding")
        _require(encoding == "aes128gcm", 400, "not aes128gcm (RFC 8291 §4)")
        _check_vapid(headers.get("Authorization", ""), self.base_url, subscription)
        plaintext = http_ece.decrypt(
            body,
            private_key=subscription.private_key,
            auth_secret=subscription.auth_secret,
            version="aes128gcm",
        )
        return Message(json.loads(plaintext), int(headers["TTL"]), urgency, topic, len(body))


class _Refusal(Exception):
    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason


def _require(condition: bool, status: int, reason: str) -> None:
    if not condition:
        raise _Refusal(status, reason)


def _check_vapid(authorization: str, audience: str, subscription: Subscription) -> None:
    match = re.fullmatch(r"vapid t=([\w-]+)\.([\w-]+)\.([\w-]+), k=([\w-]+)", authorization)
    if match is None:
        raise _Refusal(401, "no VAPID credentials (RFC 8292 §3)")
    header, claims, signature, key = match.groups()
    _require(key == subscription.application_server_key, 403, "another VAPID key (§4.2)")
    public_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), _decode(key))
    raw = _decode(signature)
    _require(len(raw) == 64, 401, "not a JWS signature (RFC 7518 §3.4)")
    r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
    try:
        public_key.verify(
            encode_dss_signature(r, s), f"{header}.{claims}".encode(), ec.ECDSA(hashes.SHA256())
        )
    except InvalidSignature:
        raise _Refusal(401, "the VAPID signature is wrong") from None
    _require(json.loads(_decode(header))["alg"] == "ES256", 401, "not ES256 (§2)")
    parsed = json.loads(_decode(claims))
    _require(parsed["aud"] == audience, 401, "for another audience (§2)")
    remaining = parsed["exp"] - time.time()
    _require(0 < remaining <= _DAY_SECONDS, 401, "expired, or valid for more than a day (§2)")
    is_contact = parsed.get("sub", "").startswith(("mailto:", "https:"))
    _require(is_contact, 401, "no contact (§2.1)")


@asynccontextmanager
async def run_push_service(
    host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[PushService]:
    """Run a push service on a free port of the loopback, under `host` in its URLs."""
    service = PushService()
    application = web.Application(client_max_size=1024 * 1024)
    application.router.add_post("/push/{token}", service.handle_push)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        port = runner.addresses[0][1]
        service.base_url = f"{'https' if tls else 'http'}://{host}:{port}"
        yield service
    finally:
        service.release()
        await runner.cleanup()


def make_loopback_certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate for 127.0.0.1 and `names`; returns the server's and a client's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "push service of a test")])
    now = dt.datetime.now(dt.UTC)
    alternatives = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), *map(x509.DNSName, names)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "push-service.crt", folder / "push-service.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate_file, key_file)
    return server, ssl.create_default_context(cafile=certificate_file)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
