"""Requests made from the specification's OpenAPI, sent to a server in a thread of its own.

`tests/openapi/client-server-requests.json` holds the parameters and bodies of every operation;
schemathesis makes requests of them, such as fit their schemas and such as do not. It is loaded only
by the tests that use it, for that takes seconds. It and hypothesis are synchronous, so the server
has another event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import strategies as st

from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process

FILE = Path(__file__).parents[1] / "openapi" / "client-server-requests.json"

JsonObject = dict[str, Any]

ENDS_THE_SESSION = ("/logout", "/logout/all")
MOVES_OUT = ("/leave", "/forget", "/upgrade")
"""What would take the known room away from the requests that follow."""
WAITS = ("/sync", "/events")
PLACES = ("from", "to", "since", "at")
"""Parameters that only an earlier answer can give; what is made up is mostly refused."""


@dataclass
class KnownTown:
    """A server that has something of everything, and what it is called."""

    base_url: str = ""
    token: str = ""
    known: dict[str, str] = field(default_factory=dict)


@contextmanager
def town_in_thread(folder: Path) -> Iterator[KnownTown]:
    """Serve a town from another thread."""
    town, is_ready = KnownTown(), threading.Event()
    loop = asyncio.new_event_loop()
    is_over = asyncio.Event()
    failures: list[BaseException] = []

    async def serve() -> None:
        async with homeserver_in_process(folder) as server:
            await _settle(server, town)
            is_ready.set()
            await is_over.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            failures.append(error)
        finally:
            is_ready.set()

    thread = threading.Thread(target=run, name="town")
    thread.start()
    is_ready.wait()
    try:
        if not failures:
            yield town
    finally:
        if not failures:
            loop.call_soon_threadsafe(is_over.set)
        thread.join()
    if failures:
        raise failures[0]


async def _settle(server: HomeserverInProcess, town: KnownTown) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.creates_room(name="局务会", room_alias_name="known", invite=[bob])
    await bob.joins(room)
    backup = {
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": {"public_key": "x", "signatures": {}},
    }
    version = (await alice.post("/v3/room_keys/version", backup))["version"]
    town.base_url, town.token = server.base_url, alice.token
    town.known = {
        "userId": alice.user_id,
        "roomId": room,
        "roomIdOrAlias": room,
        "eventId": await alice.says(room, "你好"),
        "roomAlias": "#known:test.example",
        "serverName": "test.example",
        "mediaId": await _uploaded(alice),
        "deviceId": alice.device_id,
        "eventType": "m.room.message",
        "receiptType": "m.read",
        "version": version,
        "keyName": "displayname",
        "kind": "override",
        "filterId": (await alice.post(f"/v3/user/{quote(alice.user_id)}/filter", {}))["filter_id"],
    }


async def _uploaded(person: Person) -> str:
    answer = await person.call("POST", "/_matrix/media/v3/upload", data=b"x")
    return str(answer["content_uri"]).rpartition("/")[2]


def labels() -> list[str]:
    """Return method and path of every operation."""
    found = orjson.loads(FILE.read_bytes())["operations"]
    return sorted({f"{said['method']} {said['path']}" for said in found})


@cache
def operations() -> dict[str, Any]:
    """Return schemathesis' operations, by method and path."""
    schema = _schemathesis().openapi.from_dict(_document())
    made = [result.ok() for result in schema.get_all_operations()]
    return {operation.label: operation for operation in made}


def _schemathesis() -> Any:
    return pytest.importorskip("schemathesis", reason="schemathesis is not installed: make setup")


def _document() -> JsonObject:
    """Return the extracted operations as an OpenAPI document."""
    extracted = orjson.loads(FILE.read_bytes())
    paths: JsonObject = {}
    for said in extracted["operations"]:
        operation: JsonObject = {
            "operationId": said["id"],
            "parameters": _linked(said["parameters"]),
            "responses": {"default": {"description": ""}},
        }
        if "bodies" in said:
            content = {kind: {"schema": _linked(body)} for kind, body in said["bodies"].items()}
            operation["requestBody"] = {"required": said["required"], "content": content}
        paths.setdefault(said["path"], {})[said["method"].lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "client-server", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {_name(key): _linked(part) for key, part in extracted["schemas"].items()}
        },
    }


def _name(file: str) -> str:
    return "".join(letter if letter.isalnum() else "." for letter in file)


def _linked(part: Any) -> Any:
    if isinstance(part, list):
        return [_linked(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {
        word: f"#/components/schemas/{_name(value)}"
        if word == "$ref" and isinstance(value, str)
        else _linked(value)
        for word, value in part.items()
    }


def cases_of(operation: Any) -> st.SearchStrategy[Any]:
    """Return requests to an operation: as specified, and where there is something to break, not."""
    modes = _schemathesis().GenerationMode
    ways = [modes.POSITIVE]
    if operation.query or operation.body:
        ways.append(modes.NEGATIVE)
    return st.one_of([operation.as_strategy(generation_mode=way) for way in ways])


def send(town: KnownTown, case: Any, *, names_known: bool, has_token: bool) -> tuple[int, Any]:
    """Send a request and return the status and, if it is JSON, the body of the answer."""
    path = case.operation.path
    if names_known and not path.endswith(MOVES_OUT):
        for name in case.path_parameters or {}:
            if name in town.known:
                case.path_parameters[name] = town.known[name]
        case.query = {key: value for key, value in (case.query or {}).items() if key not in PLACES}
    if path.endswith(WAITS):
        case.query = {**(case.query or {}), "timeout": "0"}
    if "timeout_ms" in (case.query or {}):
        case.query["timeout_ms"] = "0"
    is_out = path.endswith(ENDS_THE_SESSION) or not has_token
    headers = {} if is_out else {"Authorization": f"Bearer {town.token}"}
    response = case.call(base_url=town.base_url, headers=headers, timeout=30)
    is_json = response.headers.get("content-type", [""])[0].startswith("application/json")
    return response.status_code, orjson.loads(response.content) if is_json else None
