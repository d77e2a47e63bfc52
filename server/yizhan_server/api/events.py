"""Events of a room: sending them, and reading timeline, state and members.

Spec: client-server API, "Sending events to a room", "Getting events for a room", "Redactions".
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from yizhan_server.api.routing import Call, JsonObject, Routes
from yizhan_server.api.suspension import user_suspended
from yizhan_server.protocol.canonical_json import encode_any, parse_any
from yizhan_server.protocol.errors import BadJson, InvalidParam
from yizhan_server.protocol.identifiers import parse_event_id, parse_user_id
from yizhan_server.rooms.access import JoinedRoom
from yizhan_server.rooms.writer import ClientTxn, Draft
from yizhan_server.sync.filters import EventFilter, parse_event_filter

routes = Routes()

MAX_PAGE = 1000
DEFAULT_PAGE = 10
DELAY = "org.matrix.msc4140.delay"


class RedactBody(msgspec.Struct):
    """PUT /redact."""

    reason: str | None = None


@routes.put("/v3/rooms/{room_id}/send/{type}/{txn_id}", body=dict, limit="messages")
async def send(call: Call[JsonObject]) -> JsonObject:
    """Send a message event; the same transaction id is the same event."""
    if call.path["type"] == "m.room.redaction" and isinstance(call.body.get("redacts"), str):
        if call.query(DELAY) is not None:
            # Rather than at once: what is redacted does not come back.
            raise InvalidParam("Redactions cannot be delayed")
        return await _redact(call, call.body.pop("redacts"), call.body)
    joined = await call.joined_room()
    draft = Draft(joined.user_id, call.path["type"], call.body, ts_ms=_time(call))
    if (delayed := await _delayed(call, joined, draft)) is not None:
        return delayed
    event_id = await call.services.writer.send(
        joined.room, draft, _txn(call, f"send/{joined.room.room_id}/{call.path['type']}")
    )
    return {"event_id": event_id}


@routes.post("/v3/rooms/{room_id}/send/{type}", body=dict, limit="messages")
async def send_once(call: Call[JsonObject]) -> JsonObject:
    """Send a message event without a transaction id: gone from the specification, still used."""
    joined = await call.joined_room()
    event_id = await call.services.writer.send(
        joined.room, Draft(joined.user_id, call.path["type"], call.body, ts_ms=_time(call))
    )
    return {"event_id": event_id}


async def _delayed(call: Call[JsonObject], joined: JoinedRoom, draft: Draft) -> JsonObject | None:
    """Keep the event for later if the request asks for that (MSC4140)."""
    if call.query(DELAY) is None:
        return None
    delay_ms = call.query_int(DELAY, 0)
    delay_id = await call.services.delayed.delay(joined, call.requester, draft, delay_ms)
    return {"delay_id": delay_id}


@routes.put("/v3/rooms/{room_id}/redact/{event_id}/{txn_id}", body=RedactBody, limit="messages")
async def redact(call: Call[RedactBody]) -> JsonObject:
    """Strip an event of its content."""
    content = {} if call.body.reason is None else {"reason": call.body.reason}
    return await _redact(call, call.path["event_id"], content)


@routes.post("/v3/rooms/{room_id}/redact/{event_id}", body=RedactBody, limit="messages")
async def redact_once(call: Call[RedactBody]) -> JsonObject:
    """Do it without a transaction id: gone from the specification, still used."""
    return await redact(call)


async def _redact(call: Call[Any], target: str, content: JsonObject) -> JsonObject:
    parse_event_id(target)
    joined = await call.joined_room()
    if call.requester.is_suspended:
        event = await call.services.access.access_event(joined.user_id, joined.room.room_id, target)
        if event.event.sender != joined.user_id:
            raise user_suspended()
    has_txn = "txn_id" in call.path
    event_id = await call.services.writer.send(
        joined.room,
        Draft(joined.user_id, "m.room.redaction", content, redacts=target),
        _txn(call, f"redact/{joined.room.room_id}/{target}") if has_txn else None,
    )
    return {"event_id": event_id}


@routes.put("/v3/rooms/{room_id}/state/{type}/{state_key}", body=dict, limit="messages")
async def set_state(call: Call[JsonObject]) -> JsonObject:
    """Set the state of a key."""
    return await _set_state(call, call.path["state_key"])


@routes.put(
    "/v3/rooms/{room_id}/state/{type}", body=dict, limit="messages",
    also=("/v3/rooms/{room_id}/state/{type}/",),
)  # fmt: skip
async def set_state_without_key(call: Call[JsonObject]) -> JsonObject:
    """Set the state of the empty key."""
    return await _set_state(call, "")


async def _set_state(call: Call[JsonObject], state_key: str) -> JsonObject:
    kind, content = call.path["type"], call.body
    if kind == "m.room.create":
        raise InvalidParam("A room is created once")
    if kind == "m.room.canonical_alias":
        await call.services.room_reading.check_canonical_alias(
            call.path["room_id"], call.body, call.ask_another_server
        )
    if kind == "m.room.member":
        # Inviting and joining this way is legal; the content is the client's own.
        target = parse_user_id(state_key)
        if not isinstance(call.body.get("membership"), str):
            raise BadJson("'membership' must be a string")
        is_invitation = call.body["membership"] == "invite"
        if call.query(DELAY) is not None and (is_invitation or target == call.requester.user_id):
            # Rather than at once, or without the server of whom is invited.
            raise InvalidParam("One's own membership and invitations cannot be delayed")
        if is_invitation:
            await call.services.members.check_invitable(target)
    if kind == "m.room.member" and state_key == call.requester.user_id:
        # One's own membership changes from outside, too: the authorisation rules decide.
        room = await call.services.rooms.get(call.path["room_id"])
        if call.requester.is_guest:
            await call.services.guest_access.check_may_join(room, call.requester.user_id)
        content = await call.services.members.own_content(
            call.requester.user_id, room.room_id, content
        )
    else:
        joined = await call.joined_room()
        draft = Draft(joined.user_id, kind, call.body, state_key)
        if (delayed := await _delayed(call, joined, draft)) is not None:
            return delayed
        room = joined.room
    draft = Draft(call.requester.user_id, kind, content, state_key, ts_ms=_time(call))
    if kind == "m.room.member" and content["membership"] == "invite":
        # Another server has to learn of it, and to agree.
        return {"event_id": await call.services.members.invite_with(room, draft)}
    event_id = await call.services.writer.send(room, draft)
    if kind == "m.room.guest_access":
        await call.services.guest_access.send_away(room)
    return {"event_id": event_id}


@routes.get("/v3/rooms/{room_id}/state/{type}/{state_key}")
async def get_state_event(call: Call[None]) -> JsonObject | bytes:
    """Return the content (or, with format=event, the event) of one state key."""
    return await _state_event(call, call.path["state_key"])


@routes.get("/v3/rooms/{room_id}/state/{type}", also=("/v3/rooms/{room_id}/state/{type}/",))
async def get_state_event_without_key(call: Call[None]) -> JsonObject | bytes:
    """Return the content of the empty state key."""
    return await _state_event(call, "")


async def _state_event(call: Call[None], state_key: str) -> JsonObject | bytes:
    form = call.query_choice("format", ("content", "event"), "content")
    event = await call.services.room_reading.state_event(
        await call.readable_room(), call.path["type"], state_key
    )
    if form == "event":
        rendered = await call.services.renderer.render(
            call.reader_of(event.readable), [event.event]
        )
        return rendered[0]
    return encode_any(parse_any(event.event_json)["content"])


@routes.get("/v3/rooms/{room_id}/state")
async def get_state(call: Call[None]) -> bytes:
    """Return the whole current state, as a list."""
    readable = await call.readable_room()
    events = await call.services.room_reading.state(readable)
    return _json_list(await call.services.renderer.render(call.reader_of(readable), events))


@routes.get("/v3/rooms/{room_id}/members")
async def get_members(call: Call[None]) -> bytes:
    """Return the member events."""
    memberships = ("join", "invite", "knock", "leave", "ban")
    readable = await call.readable_room(peek=False)
    events = await call.services.room_reading.members(
        readable,
        membership=call.query_choice("membership", memberships, None),
        not_membership=call.query_choice("not_membership", memberships, None),
        at=call.query("at"),
    )
    rendered = await call.services.renderer.render(call.reader_of(readable), events, bundle=False)
    return b'{"chunk":' + _json_list(rendered) + b"}"


@routes.get("/v3/rooms/{room_id}/joined_members")
async def get_joined_members(call: Call[None]) -> JsonObject:
    """Return names and avatars of the joined members."""
    joined = await call.joined_room()
    return {"joined": await call.services.room_reading.joined_members(joined)}


@routes.get("/v3/rooms/{room_id}/messages")
async def get_messages(call: Call[None]) -> bytes:
    """Return a page of the room's history."""
    readable = await call.readable_room()
    direction = call.query_choice("dir", ("b", "f"), None)
    if direction is None:
        raise InvalidParam("'dir' must be b or f")
    page = await call.services.room_reading.messages(
        readable,
        backwards=direction == "b",
        start=call.query("from"),
        stop=call.query("to"),
        limit=call.query_int("limit", DEFAULT_PAGE, high=MAX_PAGE),
        wanted=_filter(call),
        ignored=await call.services.ignoring.ignored_by(call.requester.user_id),
    )
    reader = call.reader_of(readable)
    answer: dict[str, Any] = {
        "start": page.start,
        "chunk": _fragments(await call.services.renderer.render(reader, page.events)),
    }
    if page.end is not None:
        answer["end"] = page.end
    if page.state:
        answer["state"] = _fragments(await call.services.renderer.render(reader, page.state))
    return orjson.dumps(answer)


@routes.get("/v3/rooms/{room_id}/context/{event_id}")
async def get_context(call: Call[None]) -> bytes:
    """Return an event with what came before and after it."""
    limit = call.query_int("limit", DEFAULT_PAGE, high=100)
    # Who is outside of the room is told so, whether or not the event exists.
    await call.readable_room()
    context = await call.services.room_reading.context(
        await call.visible_event(),
        limit=limit,
        wanted=_filter(call),
        ignored=await call.services.ignoring.ignored_by(call.requester.user_id),
    )
    reader = call.reader_of(context.readable)
    render = call.services.renderer.render
    return orjson.dumps(
        {
            "event": orjson.Fragment((await render(reader, [context.event]))[0]),
            "events_before": _fragments(await render(reader, context.before)),
            "events_after": _fragments(await render(reader, context.after)),
            "state": _fragments(await render(reader, context.state)),
            "start": context.start,
            "end": context.end,
        }
    )


@routes.get(
    "/v1/rooms/{room_id}/timestamp_to_event",
    also=("/unstable/org.matrix.msc3030/rooms/{room_id}/timestamp_to_event",),
)
async def get_event_by_time(call: Call[None]) -> JsonObject:
    """Find the event closest to a time."""
    call.query_required("ts")
    direction = call.query_choice("dir", ("b", "f"), None)
    if direction is None:
        raise InvalidParam("'dir' must be b or f")
    event_id, ts_ms = await call.services.events_by_time.event_at(
        await call.readable_room(), call.query_int("ts", 0), backwards=direction == "b"
    )
    return {"event_id": event_id, "origin_server_ts": ts_ms}


@routes.get("/v3/rooms/{room_id}/event/{event_id}")
async def get_event(call: Call[None]) -> bytes:
    """Return one event."""
    visible = await call.visible_event()
    reader = call.reader_of(visible.readable)
    return (await call.services.renderer.render(reader, [visible.event]))[0]


def _time(call: Call[Any]) -> int | None:
    """Return the time that an application service gives its event."""
    if call.requester.appservice is None or call.query("ts") is None:
        return None
    time_ms = call.query_int("ts", 0, high=2**53)
    if time_ms == 2**53:
        raise InvalidParam("'ts' is more than an event can hold")
    return time_ms


def _txn(call: Call[Any], scope: str) -> ClientTxn:
    requester = call.requester
    return ClientTxn(requester.user_id, requester.device_id, scope, call.path["txn_id"])


def _filter(call: Call[None]) -> EventFilter:
    text = call.query("filter")
    if text is None:
        return EventFilter()
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidParam("'filter' must be a JSON object") from None
    if not isinstance(value, dict):
        raise InvalidParam("'filter' must be a JSON object")
    return parse_event_filter(value)


def _fragments(rendered: list[bytes]) -> list[orjson.Fragment]:
    return [orjson.Fragment(each) for each in rendered]


def _json_list(rendered: list[bytes]) -> bytes:
    return b"[" + b",".join(rendered) + b"]"
