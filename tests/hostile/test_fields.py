"""A wrong type in every field of the bodies, a strange identifier in every place of the paths."""

from __future__ import annotations

import json
from itertools import count
from urllib.parse import quote

from yizhan_testing.attacks import Town

JsonObject = dict[str, object]

VALUES: list[object] = [
    True, 0, -1, 1.5, 10**30, "", "x", "\0", "y" * 5000, [], [0], ["x"], [None], {}, {"x": 0},
    {"x": {"y": []}},
]  # fmt: skip
"""What is put where it does not belong; null means an absent field to many clients."""

BODIES: dict[str, JsonObject] = {
    "POST /v3/createRoom": {
        "visibility": "private", "name": "n", "topic": "t", "invite": ["@bob:test.example"],
        "room_version": "10", "creation_content": {"m.federate": False},
        "initial_state": [{"type": "m.room.name", "state_key": "", "content": {"name": "n"}}],
        "preset": "private_chat", "is_direct": True, "room_alias_name": "alias",
        "power_level_content_override": {"users_default": 0},
    },
    "POST /v3/join/{room}": {"reason": "r", "third_party_signed": {}},
    "POST /v3/knock/{room}": {"reason": "r"},
    "POST /v3/rooms/{room}/invite": {"user_id": "@carol:test.example", "reason": "r"},
    "POST /v3/rooms/{room}/kick": {"user_id": "@carol:test.example", "reason": "r"},
    "POST /v3/rooms/{room}/ban": {"user_id": "@carol:test.example", "reason": "r"},
    "POST /v3/rooms/{room}/unban": {"user_id": "@carol:test.example", "reason": "r"},
    "POST /v3/rooms/{gone}/leave": {"reason": "r"},
    "PUT /v3/rooms/{room}/redact/{event}/t": {"reason": "r"},
    "PUT /v3/rooms/{room}/typing/{alice}": {"typing": True, "timeout": 1000},
    "POST /v3/rooms/{room}/receipt/m.read/{event}": {"thread_id": "main"},
    "POST /v3/rooms/{room}/read_markers": {
        "m.fully_read": "{event}", "m.read": "{event}", "m.read.private": "{event}",
    },
    "PUT /v3/presence/{alice}/status": {"presence": "online", "status_msg": "s"},
    "PUT /v3/directory/room/{alias}": {"room_id": "{room}"},
    "PUT /v3/directory/list/room/{room}": {"visibility": "private"},
    "POST /v3/publicRooms": {
        "limit": 1, "since": "0", "include_all_networks": False, "third_party_instance_id": "t",
        "filter": {"generic_search_term": "g", "room_types": ["m.space"]},
    },
    "POST /v3/user_directory/search": {"search_term": "s", "limit": 1},
    "POST /v3/user/{alice}/filter": {
        "event_fields": ["content"], "event_format": "client",
        "presence": {"limit": 1, "types": ["x"], "not_types": ["x"], "senders": ["x"]},
        "room": {
            "rooms": ["x"], "include_leave": True,
            "timeline": {"limit": 1, "contains_url": True, "lazy_load_members": True},
        },
    },
    "POST /v3/login": {
        "type": "m.login.password", "password": "p", "device_id": "D",
        "identifier": {"type": "m.id.user", "user": "nobody"},
        "initial_device_display_name": "i", "refresh_token": True,
    },
    "PUT /v3/devices/{device}": {"display_name": "d"},
    "PUT /v3/profile/{alice}/displayname": {"displayname": "d"},
    "PUT /v3/sendToDevice/m.x/{txn}": {"messages": {"@bob:test.example": {"*": {}}}},
    "POST /v3/keys/query": {"device_keys": {"@bob:test.example": ["D"]}},
    "POST /v3/keys/claim": {"one_time_keys": {"@bob:test.example": {"D": "signed_curve25519"}}},
    "POST /v3/pushers/set": {
        "pushkey": "k", "kind": "http", "app_id": "a", "app_display_name": "d",
        "device_display_name": "d", "lang": "zh", "append": False, "profile_tag": "p",
        "data": {"url": "https://push.example/_matrix/push/v1/notify"},
    },
}  # fmt: skip
"""A good body for each endpoint, from which bad ones are made."""


async def test_no_type_in_any_field_is_a_server_error(town: Town) -> None:
    gone = await town.alice.creates_room()
    await town.alice.leaves(gone)
    numbers = count()
    for endpoint, body in BODIES.items():
        method, path = endpoint.split(" ")
        for field, _ in _fields(_filled(town, gone, body, 0)):
            for value in VALUES:
                await _attack(town, gone, method, path, field(value), next(numbers))


async def test_a_wrong_type_is_said_to_be_one(town: Town) -> None:
    gone = await town.alice.creates_room()
    for number, (endpoint, body) in enumerate(BODIES.items()):
        method, path = endpoint.split(" ")
        for field, good in _fields(_filled(town, gone, body, number)):
            for value in (True, 7, "x", ["x"], {"x": {"y": 1}}):
                # The content of an event is its sender's own.
                if _kind(value) == _kind(good) or "content" in field.place[:-1]:
                    continue
                answer = await _attack(town, gone, method, path, field(value), number)
                if field.place == ("identifier", "type"):
                    continue  # an unknown kind of identifier names nobody
                assert answer[0] == 400, (endpoint, field.place, value, answer)
                assert answer[1] in ("M_BAD_JSON", "M_INVALID_PARAM", "M_MISSING_PARAM"), answer


async def test_strange_identifiers_in_paths_name_nothing(town: Town) -> None:
    room, event, alice = (
        quote(each, safe="") for each in (town.room, town.event, town.alice.user_id)
    )
    long = "x" * 5000
    strange = [
        "x", "..", "%2E%2E", "%2F",
        "%2F..%2F..%2Fetc%2Fpasswd", "%00", "%0A", "%20", "*", "%25", "'",
        "%22%3B--", "!", "$", "@", "%23", "!:test.example", "$" + long, "!" + long, "@" + long,
        "%F0%9F%98%80", "@alice:", "@:test.example", "@alice%00:test.example", "%E2%80%AE",
        "!x:y:z",
        "%5C", "%2E", "0", "-1", "null", "undefined", "%C3%A9" * 200,
    ]  # fmt: skip
    for odd in strange:
        for method, path in (
            ("GET", f"/v3/rooms/{odd}/state"), ("GET", f"/v3/rooms/{odd}/messages?dir=b"),
            ("GET", f"/v3/rooms/{odd}/members"), ("GET", f"/v3/rooms/{odd}/joined_members"),
            ("GET", f"/v3/rooms/{odd}/aliases"), ("GET", f"/v3/directory/list/room/{odd}"),
            ("GET", f"/v3/rooms/{room}/event/{odd}"), ("GET", f"/v3/rooms/{room}/context/{odd}"),
            ("GET", f"/v3/rooms/{room}/state/{odd}"), ("GET", f"/v3/rooms/{room}/state/m.x/{odd}"),
            ("GET", f"/v1/rooms/{room}/relations/{odd}"), ("GET", f"/v1/rooms/{odd}/threads"),
            ("GET", f"/v3/presence/{odd}/status"), ("GET", f"/v3/profile/{odd}"),
            ("GET", f"/v3/directory/room/{odd}"), ("GET", f"/v3/user/{odd}/filter/x"),
            ("GET", f"/v3/user/{alice}/filter/{odd}"), ("GET", f"/v3/devices/{odd}"),
            ("GET", f"/v3/user/{odd}/account_data/m.x"), ("GET", f"/v3/profile/{alice}/{odd}"),
            ("GET", f"/v3/pushrules/global/{odd}/"), ("GET", f"/v3/pushrules/global/room/{odd}"),
            ("GET", f"/v3/room_keys/version/{odd}"), ("GET", f"/v3/room_keys/keys/{odd}?version=1"),
            ("GET", f"/v1/media/download/test.example/{odd}"),
            ("GET", f"/v1/media/download/{odd}/x"),
            ("POST", f"/v3/join/{odd}"), ("POST", f"/v3/rooms/{odd}/join"),
            ("POST", f"/v3/knock/{odd}"), ("POST", f"/v3/rooms/{odd}/leave"),
            ("POST", f"/v3/rooms/{odd}/forget"), ("DELETE", f"/v3/directory/room/{odd}"),
            ("PUT", f"/v3/rooms/{odd}/send/m.x/t"), ("PUT", f"/v3/rooms/{odd}/state/m.x"),
            ("PUT", f"/v3/rooms/{room}/redact/{odd}/t"), ("PUT", f"/v3/rooms/{room}/typing/{odd}"),
            ("POST", f"/v3/rooms/{room}/receipt/m.read/{odd}"),
            ("POST", f"/v3/rooms/{room}/receipt/{odd}/{event}"),
            ("PUT", f"/v3/rooms/{room}/state/m.room.member/{odd}"),
        ):  # fmt: skip
            body = None if method == "GET" else b'{"membership":"invite"}'
            answer = await town.attacks(method, f"/_matrix/client{path}", body)
            # A type or tag may be any text; what is asked for under it is not there.
            assert answer.status in (400, 403, 404, 405), (method, path, answer.status)


async def test_what_clients_name_freely_is_stored_or_refused(town: Town) -> None:
    room, alice = quote(town.room, safe=""), quote(town.alice.user_id, safe="")
    for odd in (
        "%00", "a%00b", "%F0%9F%98%80", "%2F", "..", "%20", "x" * 255, "x" * 256, "%C3%A9" * 127,
        "%C3%A9" * 128, "%0D%0A",
    ):  # fmt: skip
        for method, path in (
            ("PUT", f"/v3/rooms/{room}/send/{odd}/txn{len(odd)}"),
            ("PUT", f"/v3/rooms/{room}/send/m.x/{odd}"),
            ("PUT", f"/v3/rooms/{room}/state/{odd}"), ("PUT", f"/v3/rooms/{room}/state/m.x/{odd}"),
            ("PUT", f"/v3/user/{alice}/account_data/{odd}"),
            ("PUT", f"/v3/user/{alice}/rooms/{room}/account_data/{odd}"),
            ("PUT", f"/v3/user/{alice}/rooms/{room}/tags/{odd}"),
            ("PUT", f"/v3/sendToDevice/{odd}/t"), ("PUT", f"/v3/sendToDevice/m.x/{odd}"),
            ("PUT", f"/v3/devices/{odd}"), ("PUT", f"/v3/profile/{alice}/{odd}"),
            ("PUT", f"/v3/pushrules/global/override/{odd}"),
        ):  # fmt: skip
            body = b'{"x":1,"messages":{},"actions":[],"conditions":[]}'
            answer = await town.attacks(method, f"/_matrix/client{path}", body)
            assert answer.status in (200, 400, 404, 413), (method, path, answer.status)
    # All of it can be read back.
    assert (await town.attacks("GET", "/_matrix/client/v3/sync")).status == 200
    assert (await town.attacks("GET", f"/_matrix/client/v3/rooms/{room}/state")).status == 200


async def _attack(
    town: Town, gone: str, method: str, path: str, body: JsonObject, number: int
) -> tuple[int, str | None]:
    filled = _fill(town, gone, path, number, in_path=True)
    # The default separators of Python, and lone surrogates are not made here.
    answer = await town.attacks(method, "/_matrix/client" + filled, json.dumps(body).encode())
    return answer.status, answer.errcode


def _fields(body: JsonObject) -> list[tuple[_Setter, object]]:
    """Return, for every field at any depth, a function that puts something else there."""
    found: list[tuple[_Setter, object]] = []

    def walk(value: object, place: tuple[str | int, ...]) -> None:
        if place:
            found.append((_Setter(body, place), value))
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, (*place, key))
        elif isinstance(value, list):
            for index, part in enumerate(value):
                walk(part, (*place, index))

    walk(body, ())
    return found


class _Setter:
    def __init__(self, body: JsonObject, place: tuple[str | int, ...]) -> None:
        self._body = body
        self.place = place

    def __call__(self, value: object) -> JsonObject:
        copy: JsonObject = json.loads(json.dumps(self._body))
        part: object = copy
        for key in self.place[:-1]:
            part = part[key]  # type: ignore[index]
        part[self.place[-1]] = value  # type: ignore[index]
        return copy


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "none" if value is None else type(value).__name__


def _filled(town: Town, gone: str, body: JsonObject, number: int) -> JsonObject:
    text = _fill(town, gone, json.dumps(body), number, in_path=False)
    filled: JsonObject = json.loads(text)
    return filled


def _fill(town: Town, gone: str, text: str, number: int, *, in_path: bool) -> str:
    for name, value in (
        ("room", town.room), ("gone", gone), ("event", town.event), ("alice", town.alice.user_id),
        ("alias", f"#a{number}:test.example"), ("device", town.alice.device_id),
        ("txn", str(number)),
    ):  # fmt: skip
        text = text.replace(f"{{{name}}}", quote(value, safe="") if in_path else value)
    return text
