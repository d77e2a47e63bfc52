"""Holds every answer of a homeserver under test against the specification's OpenAPI.

`observed` stands between aiohttp and the application. An answer to one of the operations of
`tests/openapi/client-server.json` or `server-server.json` must have a status that the
specification knows and a body that fits its schema; what does not is told to the test that got it,
whatever else that test looks at.

It is also noted which operations of the client-server API were answered. `proofs.toml` beside the
schemas names for each operation the test that proves it, and a test that is named so fails if it
does not.
"""

from __future__ import annotations

import gzip
import tomllib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from yizhan_server.protocol.canonical_json import parse_roughly

DELAY = "org.matrix.msc4140.delay"
"""Asks for an answer that the specification does not know yet."""

CLIENT_IS_GONE = 499
"""The status of an answer that nobody gets."""

ASKED_BY_HEADER = {206: "Range", 304: "If-None-Match"}
"""What HTTP itself answers when a request asks for it."""

FOLDER = Path(__file__).parents[1] / "openapi"

JsonObject = dict[str, Any]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of the specification."""

    id: str
    method: str
    path: str
    tag: str
    deprecated: bool
    since: str | None
    answers: dict[str, dict[str, Any]]
    """By status and content type: the schema of the body."""


@dataclass(frozen=True)
class Proof:
    """What proves an operation: a test, and the answer that it must have seen."""

    operation: str
    test: str
    """As pytest names it, without parameters."""
    answer: str = ""
    """The status and error code, where nothing but a refusal can be right here; else empty."""
    reason: str = ""


class Specification:
    """The operations, and how to find the one of a request."""

    def __init__(self, document: JsonObject) -> None:
        self._schemas: JsonObject = {}
        for name, schema in document["schemas"].items():
            self._schemas.setdefault(name, {}).update(self._linked(schema))
        self.operations = [
            Operation(
                item["id"], item["method"], item["path"], item["tag"],
                item.get("deprecated", False), item.get("since"), self._linked(item["answers"]),
            )
            for item in document["operations"]
        ]  # fmt: skip
        self._by_length: dict[tuple[str, int], list[tuple[list[str], Operation]]] = {}
        for operation in self.operations:
            segments = operation.path.split("/")
            self._by_length.setdefault((operation.method, len(segments)), []).append(
                (segments, operation)
            )

    def _linked(self, schema: Any) -> Any:
        """Return a schema with the schemas that it names in their places."""
        if isinstance(schema, list):
            return [self._linked(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        linked = {name: self._linked(part) for name, part in schema.items() if name != "$ref"}
        if "$ref" not in schema:
            return linked
        target = self._schemas.setdefault(schema["$ref"], {})
        return {**linked, "allOf": [*linked.get("allOf", []), target]} if linked else target

    def find(self, method: str, path: str, query: Iterable[str]) -> list[Operation]:
        """Return the operations that a request may be: two where two share method and path."""
        segments = path.replace("/r0/", "/v3/", 1).split("/")
        best: list[Operation] = []
        most = 0
        for pattern, operation in self._by_length.get((method, len(segments)), ()):
            literal = _literal(pattern, segments)
            if literal > most:
                best, most = [operation], literal
            elif literal == most and literal:
                best.append(operation)
        if {"getEvents", "peekEvents"} & {operation.id for operation in best}:
            wanted = "peekEvents" if "room_id" in query else "getEvents"
            return [operation for operation in best if operation.id == wanted]
        return best


def _literal(pattern: list[str], segments: list[str]) -> int:
    """Return how many segments are literally the pattern's, 0 if it does not match."""
    literal = 0
    for part, segment in zip(pattern, segments, strict=True):
        if part == segment:
            literal += 1
        elif not part.startswith("{") or (not segment and part != "{stateKey}"):
            return 0
    return literal


@cache
def specification() -> Specification:
    """Return the client-server API as it was extracted."""
    return _extracted("client-server")


@cache
def between_servers() -> Specification:
    """Return the server-server API as it was extracted."""
    return _extracted("server-server")


def _extracted(api: str) -> Specification:
    return Specification(orjson.loads((FOLDER / f"{api}.json").read_bytes()))


@cache
def proofs() -> dict[str, Proof]:
    """Return what is said to prove each operation."""
    document = tomllib.loads((FOLDER / "proofs.toml").read_text("utf-8"))
    answered = {name: Proof(name, test) for name, test in document["answered"].items()}
    refused = {name: Proof(name, **said) for name, said in document["refused"].items()}
    return answered | refused


@cache
def _proofs_of_test(test: str) -> tuple[Proof, ...]:
    return tuple(proof for proof in proofs().values() if proof.test == test)


@dataclass
class Observed:
    """What was answered since a test began."""

    answers: set[tuple[str, str]] = field(default_factory=set)
    """Operation, and '' for success or status and error code."""
    faults: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Forget what was before."""
        self.answers.clear()
        self.faults.clear()

    def check(self, test: str) -> None:
        """Raise AssertionError for answers that break the specification, and false proofs."""
        assert not self.faults, "answers against the specification:\n" + "\n".join(self.faults)
        for proof in _proofs_of_test(test):
            assert (proof.operation, proof.answer) in self.answers, (
                f"tests/openapi/proofs.toml says that this test proves {proof.operation}, "
                f"but it got no such answer ({proof.answer or 'success'})"
            )

    def note(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Note one answer, and what is wrong with it."""
        url = request.rel_url
        of_clients = specification().find(request.method, url.raw_path, url.query)
        operations = of_clients or between_servers().find(request.method, url.raw_path, ())
        if not operations or DELAY in url.query or response.status == CLIENT_IS_GONE:
            return
        body: Any = None
        if isinstance(response, web.Response) and response.content_type == "application/json":
            body = parse_roughly(_decoded(response))
        outcome = "" if response.status < 400 else f"{response.status} {_errcode(body)}"
        self.answers.update((operation.id, outcome) for operation in of_clients)
        if ASKED_BY_HEADER.get(response.status, "") in request.headers:
            return
        faults = [_faults(operation, response, body) for operation in operations]
        if all(faults):
            self.faults += [f"{request.method} {url.raw_path}: {fault}" for fault in faults[0]]


OBSERVED = Observed()


def observed(handler: Handler) -> Handler:
    """Return a handler that answers the same and is watched."""

    async def watch(request: web.BaseRequest) -> web.StreamResponse:
        response = await handler(request)
        OBSERVED.note(request, response)
        return response

    return watch


def _is_refusal(body: Any) -> bool:
    """Whether it is a standard error, or what begins user-interactive authentication."""
    if not isinstance(body, dict):
        return False
    if "errcode" in body or "error" in body:
        return isinstance(body.get("errcode"), str) and isinstance(body.get("error"), str)
    flows = body.get("flows")
    return isinstance(flows, list) and all("stages" in flow for flow in flows)


def _decoded(response: web.Response) -> bytes:
    assert isinstance(response.body, bytes)
    if response.headers.get("Content-Encoding") == "gzip":
        return gzip.decompress(response.body)
    return response.body


def _errcode(body: Any) -> str:
    return str(body.get("errcode", "")) if isinstance(body, dict) else ""


def _faults(operation: Operation, response: web.StreamResponse, body: Any) -> list[str]:
    """Return what is wrong with an answer to an operation."""
    if response.status >= 400:
        return [] if _is_refusal(body) else [f"{response.status} without code, text or flows"]
    kinds = operation.answers.get(str(response.status))
    if kinds is None:
        return [f"{operation.id} has no answer {response.status}"]
    if "application/json" not in kinds:
        return []
    if body is None:
        return [f"{operation.id} answers in JSON, not {response.content_type}"]
    return [
        f"{operation.id} {error.json_path} {error.message[:500]}"
        for error in _validator(operation, response.status).iter_errors(_judged(body, operation))
    ]


def _judged(body: Any, operation: Operation) -> Any:
    """Return an answer without what deviates from its schema on purpose: docs/conformance.md."""
    if operation.id in ("getEvents", "peekEvents"):
        chunk = [event for event in body["chunk"] if "event_id" in event]
        return {**body, "chunk": chunk}
    if operation.id == "getTurnServer" and body == {}:
        return {"username": "", "password": "", "uris": [], "ttl": 0}
    return body


@cache
def _validator(operation: Operation, status: int) -> Draft202012Validator:
    return Draft202012Validator(operation.answers[str(status)]["application/json"])
