"""A real Matrix client for tests: matrix-js-sdk with its Rust cryptography, in a Node process.

One `JsClient` is one device of one person. What it can do is written in `tests/clients/js`; this
module starts it, speaks its protocol of JSON lines and gives its methods the product's words:

    alice = await JsClient.start(homeserver.base_url, "@alice:localhost", "secret")
    room = await alice.creates_room(invite=[bob.user_id])
    sent = await alice.says(room, "hi")
    assert (await bob.reads("hi", room=room)).encrypted

The client's packages are installed once, beside the driver: see `node`.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypedDict, Unpack, cast

from yizhan_testing.driven_program import Connection
from yizhan_testing.node import find_node, install_packages

DRIVER = Path(__file__).parents[1] / "clients" / "js"
WAIT_S = 30.0
"""How long a client waits for what it is to see, unless a call says otherwise."""

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event as a client sees it: decrypted, with edits and redactions applied.

    `failure` is the SDK's reason why it cannot be decrypted, None when there is nothing to decrypt
    or it went well. `thread` is the id of the thread's root.
    """

    event_id: str
    room_id: str
    sender: str
    type: str
    state_key: str | None
    body: str | None
    content: JsonObject
    relates_to: JsonObject | None
    thread: str | None
    encrypted: bool
    failure: str | None
    redacted: bool
    edited: bool
    origin_server_ts: int


@dataclass(frozen=True, slots=True)
class Emojis:
    """What one side of a verification shows: seven times (sign, English name), three numbers."""

    emojis: tuple[tuple[str, str], ...]
    decimals: tuple[int, ...]


class Match(TypedDict, total=False):
    """What an event must have, beside its body: all that is given.

    `contains` is a part of the body; `relates_to` an event id; `after` the id of an event that must
    have come before it.
    """

    room: str
    event_id: str
    sender: str
    type: str
    contains: str
    relates_to: str
    edited: bool
    redacted: bool
    after: str


def _renamed(match: Match) -> JsonObject:
    names = {"room": "roomId", "event_id": "eventId", "relates_to": "relatesTo"}
    return {names.get(name, name): value for name, value in match.items()}


class JsClient:
    """One signed-in, syncing device. Ids of rooms and events are plain strings.

    Every `sees_`, `reads`, `awaits_` method waits until the thing is there, for `within` seconds,
    and then fails with a text that says what was awaited and what the client saw last.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.base_url = ""
        self.user_id = ""
        self.device_id = ""
        self.access_token = ""
        self.recovery_key = ""

    @classmethod
    async def start(
        cls,
        base_url: str | None,
        user_id: str,
        password: str = "",
        *,
        token: str | None = None,
        access_token: str | None = None,
        device_id: str | None = None,
        device_name: str | None = None,
        ca: Path | None = None,
        sync: str = "classic",
        exclude_insecure_devices: bool = False,
    ) -> Self:
        """Sign in and sync.

        With `base_url` None the server is found from the user id alone, by well-known over TLS;
        `ca` is the file of a private certification authority. `token` is one of m.login.token;
        with `access_token` and `device_id` an existing session goes on. `sync` is "classic" or
        "sliding". `exclude_insecure_devices` is the strict mode, in which keys are neither shared
        with nor accepted from devices that their owner has not signed.
        """
        client = await cls.launch(ca=ca)
        try:
            if base_url is None:
                base_url = await client.discovers(user_id)
            await client.signs_in(
                base_url,
                user_id,
                password,
                token=token,
                access_token=access_token,
                device_id=device_id,
                device_name=device_name,
            )
            await client.starts_syncing(
                sync=sync, exclude_insecure_devices=exclude_insecure_devices
            )
        except BaseException:
            await client.close()
            raise
        return client

    @classmethod
    async def launch(cls, *, ca: Path | None = None, before: tuple[str, ...] = ()) -> Self:
        """Start the process only: for tests of discovery and of failing logins.

        `before` are words before the command, such as those that enter a network namespace.
        """
        await asyncio.to_thread(install_packages, DRIVER)
        environment = dict(os.environ)
        if ca is not None:
            environment["NODE_EXTRA_CA_CERTS"] = str(ca)
        loop = asyncio.get_running_loop()
        _, connection = await loop.subprocess_exec(
            Connection, *before, find_node(), DRIVER / "driver.mjs", env=environment
        )
        await connection.ready
        return cls(connection)

    async def discovers(self, user_id: str) -> str:
        """Return the client base URL of the person's server, by well-known over TLS."""
        return str((await self.call("discover", userId=user_id))["base_url"])

    async def signs_in(
        self,
        base_url: str,
        user_id: str,
        password: str = "",
        *,
        token: str | None = None,
        access_token: str | None = None,
        device_id: str | None = None,
        device_name: str | None = None,
    ) -> None:
        """Log in, or take over the session that `access_token` and `device_id` name."""
        if access_token is not None:
            session = await self.call(
                "use",
                baseUrl=base_url,
                userId=user_id,
                deviceId=device_id,
                accessToken=access_token,
                password=password,
            )
        else:
            session = await self.call(
                "login",
                baseUrl=base_url,
                userId=user_id,
                password=password,
                token=token,
                deviceName=device_name,
                deviceId=device_id,
            )
        self.base_url = base_url
        self.user_id = session["user_id"]
        self.device_id = session["device_id"]
        self.access_token = session["access_token"]

    async def starts_syncing(
        self,
        *,
        sync: str = "classic",
        exclude_insecure_devices: bool = False,
        initial_limit: int = 30,
        room_list: JsonObject | None = None,
        within: float = 60,
    ) -> None:
        """Start encryption and /sync; returns after the first answer.

        `initial_limit` is the length of timelines in the first answer of the classic sync;
        `room_list` is what the sliding one asks for at first: its own words, and `last`, the
        index of the last room.
        """
        await self.call(
            "start",
            within,
            sync=sync,
            excludeInsecureDevices=exclude_insecure_devices,
            initialSyncLimit=initial_limit,
            list=room_list,
        )

    async def call(self, method: str, within: float = WAIT_S, /, **params: Any) -> JsonObject:
        """Call a method of the driver; parameters that are None are left out."""
        chosen = {name: value for name, value in params.items() if value is not None}
        return await self._connection.call(method, {**chosen, "timeoutMs": round(within * 1000)})

    async def request(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        query: JsonObject | None = None,
    ) -> JsonObject:
        """Send an authenticated request of one's own; `path` is whole, from `/_matrix` on."""
        return await self.call("request", method=method, path=path, query=query, body=body)

    async def reloads(self, within: float = 60) -> None:
        """Do what a reload of the page does: only the device's own database is kept."""
        await self.call("reload", within)

    async def logs_out(self) -> None:
        await self.call("logout")

    async def awaits_logout(self, within: float = WAIT_S) -> str:
        """Wait until the server has ended the session; returns the errcode it gave."""
        return str((await self.call("logged_out", within))["errcode"])

    async def close(self) -> None:
        """Stop syncing and end the process."""
        await self._connection.close()

    # Rooms

    async def creates_room(
        self,
        *,
        name: str | None = None,
        invite: list[str] | None = None,
        encrypted: bool = True,
        direct: bool = False,
        options: JsonObject | None = None,
    ) -> str:
        """Create a room and wait until it is in one's own list; `options` go into the request."""
        answer = await self.call(
            "create_room",
            name=name,
            invite=invite or [],
            encrypted=encrypted,
            direct=direct,
            options=options or {},
        )
        return str(answer["room_id"])

    async def invites(self, room: str, user_id: str) -> None:
        await self.call("invite", roomId=room, userId=user_id)

    async def is_invited(
        self, room: str | None = None, *, by: str | None = None, within: float = WAIT_S
    ) -> str:
        """Wait for an invitation, and return the room's id."""
        answer = await self.call("invited", within, roomId=room, inviter=by)
        return str(answer["room_id"])

    async def joins(self, room: str) -> str:
        return str((await self.call("join", roomId=room))["room_id"])

    async def accepts_invitation(self, room: str | None = None, *, by: str | None = None) -> str:
        """Wait for an invitation and join; returns the room's id."""
        return await self.joins(await self.is_invited(room, by=by))

    async def leaves(self, room: str) -> None:
        await self.call("leave", roomId=room)

    async def sees_member(
        self, room: str, user_id: str, membership: str = "join", within: float = WAIT_S
    ) -> None:
        await self.call("sees_member", within, roomId=room, userId=user_id, membership=membership)

    # Sending

    async def says(
        self,
        room: str,
        body: str,
        *,
        thread: str | None = None,
        reply_to: str | None = None,
        mentions: list[str] | None = None,
    ) -> str:
        """Send a text; `thread` is the id of the thread's root. Returns the event id."""
        answer = await self.call(
            "says", roomId=room, body=body, thread=thread, replyTo=reply_to, mentions=mentions
        )
        return str(answer["event_id"])

    async def sends(
        self,
        room: str,
        event_type: str,
        content: JsonObject,
        *,
        thread: str | None = None,
    ) -> str:
        answer = await self.call(
            "send", roomId=room, type=event_type, content=content, thread=thread
        )
        return str(answer["event_id"])

    async def sets_state(
        self,
        room: str,
        event_type: str,
        content: JsonObject,
        state_key: str = "",
    ) -> str:
        answer = await self.call(
            "send_state", roomId=room, type=event_type, content=content, stateKey=state_key
        )
        return str(answer["event_id"])

    async def reacts(self, room: str, event_id: str, key: str) -> str:
        answer = await self.call("reacts", roomId=room, eventId=event_id, key=key)
        return str(answer["event_id"])

    async def edits(self, room: str, event_id: str, body: str) -> str:
        answer = await self.call("edits", roomId=room, eventId=event_id, body=body)
        return str(answer["event_id"])

    async def redacts(self, room: str, event_id: str, reason: str | None = None) -> str:
        answer = await self.call("redacts", roomId=room, eventId=event_id, reason=reason)
        return str(answer["event_id"])

    async def asks_poll(self, room: str, question: str, answers: list[str]) -> str:
        """Start a poll (MSC3381); the answers' ids are "1", "2", ... Returns the poll's id."""
        answer = await self.call("asks_poll", roomId=room, question=question, answers=answers)
        return str(answer["event_id"])

    async def answers_poll(self, room: str, poll: str, *answers: str) -> str:
        answer = await self.call("answers_poll", roomId=room, pollId=poll, answers=list(answers))
        return str(answer["event_id"])

    async def sends_file(self, room: str, path: Path, mimetype: str | None = None) -> str:
        """Upload a file, encrypted if the room is, and send it; returns the event id."""
        answer = await self.call(
            "sends_file", roomId=room, path=str(path), name=path.name, mimetype=mimetype
        )
        return str(answer["event_id"])

    async def saves_file(self, event_id: str, path: Path) -> JsonObject:
        """Download the file of a message and decrypt it to `path`; returns the answer's headers."""
        answer = await self.call("saves_file", eventId=event_id, path=str(path))
        return dict(answer["headers"])

    async def marks_read(self, event_id: str) -> None:
        await self.call("marks_read", eventId=event_id)

    async def types(self, room: str, *, typing: bool = True) -> None:
        await self.call("types", roomId=room, typing=typing)

    # Reading

    async def reads(
        self, body: str | None = None, *, within: float = WAIT_S, **match: Unpack[Match]
    ) -> SeenEvent:
        """Wait for the first decrypted event that matches; see `Match`.

        An event that cannot be decrypted never matches: that is `fails_to_read`.
        """
        return SeenEvent(**await self.call("reads", within, body=body, **_renamed(match)))

    async def fails_to_read(
        self, event_id: str, *, room: str | None = None, within: float = WAIT_S
    ) -> str:
        """Wait until the event is there but cannot be decrypted; returns the SDK's reason."""
        answer = await self.call("reads", within, eventId=event_id, roomId=room, failed=True)
        return str(answer["failure"])

    async def events(self, body: str | None = None, **match: Unpack[Match]) -> list[SeenEvent]:
        """Return all events seen so far that match, in the order of arrival, without waiting."""
        found = await self.call("events", body=body, **_renamed(match))
        return [SeenEvent(**event) for event in cast("list[JsonObject]", found)]

    async def scrolls_back(self, room: str, limit: int = 100) -> None:
        """Fetch older events of the room; `reads` and `events` find them then."""
        await self.call("scrolls_back", roomId=room, limit=limit)

    async def shield(self, event_id: str) -> tuple[str | None, str | None]:
        """Return (colour, reason) of the warning that a client shows beside the event."""
        answer = await self.call("shield", eventId=event_id)
        return answer["colour"], answer["reason"]

    async def sees_reactions(
        self, room: str, event_id: str, key: str, count: int = 1, within: float = WAIT_S
    ) -> list[str]:
        """Wait for `count` reactions with that key; returns who gave them."""
        answer = await self.call(
            "reactions", within, roomId=room, eventId=event_id, key=key, count=count
        )
        return list(answer["senders"])

    async def sees_receipt(
        self,
        user_id: str,
        event_id: str,
        *,
        receipt_type: str | None = None,
        within: float = WAIT_S,
    ) -> JsonObject:
        return await self.call(
            "receipt_of", within, userId=user_id, eventId=event_id, type=receipt_type
        )

    async def sees_typing(
        self, room: str, user_id: str, *, typing: bool = True, within: float = WAIT_S
    ) -> None:
        await self.call("sees_typing", within, roomId=room, userId=user_id, typing=typing)

    async def rooms(self, *, latest: int = 3) -> dict[str, JsonObject]:
        """Return of each room `membership`, `name`, the counts, and ids of its `latest` events."""
        return dict((await self.call("rooms", latest=latest))["rooms"])

    async def widens_list(self, last: int) -> None:
        """Ask the sliding sync for the rooms up to the index `last` from now on."""
        await self.call("widens_list", last=last)

    async def lists_rooms(self, count: int, within: float = WAIT_S) -> None:
        """Wait until the list shows so many rooms by the names that they were given."""
        await self.call("lists_rooms", within, count=count)

    async def unread(self, room: str) -> JsonObject:
        """Return `notifications`, `highlights`, and the same of each of `threads`."""
        return await self.call("unread", roomId=room)

    async def sees_unread(
        self,
        room: str,
        notifications: int | None = None,
        highlights: int | None = None,
        within: float = WAIT_S,
    ) -> None:
        await self.call(
            "unread_becomes",
            within,
            roomId=room,
            notifications=notifications,
            highlights=highlights,
        )

    # Identity

    async def sets_up_identity(self, *, backup: bool = True) -> str:
        """Make cross-signing keys, secret storage and a key backup; returns the recovery key."""
        answer = await self.call("sets_up_identity", backup=backup)
        self.recovery_key = answer["recovery_key"]
        return self.recovery_key

    async def resets_identity(self) -> str:
        """Give up the identity for a new one; returns the new recovery key."""
        self.recovery_key = (await self.call("resets_identity"))["recovery_key"]
        return self.recovery_key

    async def recovers(self, recovery_key: str) -> None:
        """Unlock secret storage: this device signs itself and learns the backup's key."""
        await self.call("recovers", recoveryKey=recovery_key)
        self.recovery_key = recovery_key

    async def restores_backup(self) -> int:
        """Import every key of the backup; returns how many."""
        return int((await self.call("restores_backup"))["imported"])

    async def awaits_complete_backup(self, within: float = WAIT_S) -> int:
        """Wait until the backup holds every key of this device; returns how many it holds."""
        return int((await self.call("backup_is_complete", within))["count"])

    async def identity(self) -> JsonObject:
        """Return this device's keys and the state of its identity, storage and backup."""
        return await self.call("identity")

    async def devices(self, user_id: str | None = None) -> list[JsonObject]:
        """Return a person's devices and what this client thinks of each."""
        return list((await self.call("devices", userId=user_id))["devices"])

    async def sees_device(
        self,
        user_id: str,
        device_id: str,
        *,
        signed: bool = True,
        trusted: bool | None = None,
        within: float = WAIT_S,
    ) -> JsonObject:
        """Wait until the device counts as signed by its owner, and as trusted when asked."""
        return await self.call(
            "sees_device",
            within,
            userId=user_id,
            deviceId=device_id,
            signed=signed,
            trusted=trusted,
        )

    async def trust(self, user_id: str) -> JsonObject:
        """Return `known`, `verified`, `was_verified`, `identity_changed` of a person."""
        return await self.call("trust", userId=user_id)

    async def sees_trust(self, user_id: str, within: float = WAIT_S, **wanted: bool) -> JsonObject:
        """Wait until `trust` has these values."""
        return await self.call("trust_becomes", within, userId=user_id, **wanted)

    async def accepts_identity(self, user_id: str) -> None:
        """Accept a person's changed identity without verification."""
        await self.call("accepts_identity", userId=user_id)

    async def sessions(self) -> list[JsonObject]:
        """Return the account's devices as the server lists them."""
        return list((await self.call("sessions"))["devices"])

    async def account_data(self, event_type: str, content: JsonObject | None = None) -> JsonObject:
        """Return one's account data of that type, after setting it if `content` is given."""
        return await self.call("account_data", type=event_type, content=content)

    # Verification

    async def requests_verification(
        self, user_id: str | None = None, *, room: str | None = None, device_id: str | None = None
    ) -> Verification:
        """Ask a person in a room, one device, or (without arguments) one's other devices."""
        answer = await self.call(
            "requests_verification", userId=user_id, roomId=room, deviceId=device_id
        )
        return Verification(self, answer["handle"])

    async def accepts_verification(
        self, user_id: str | None = None, within: float = WAIT_S
    ) -> Verification:
        """Wait for somebody's request, and accept it."""
        answer = await self.call("accepts_verification", within, userId=user_id)
        return Verification(self, answer["handle"])

    async def verifies(self, other: JsClient, room: str | None = None) -> Emojis:
        """Go through a whole verification with another test client, and return the emojis.

        Fails when the two sides do not show the same. In `room` for another person; between two
        devices of one person without a room.
        """
        if room is None:  # a request of an unknown device is ignored
            await other.sees_device(self.user_id, self.device_id, signed=False)
        ours = await self.requests_verification(
            other.user_id if room or other.user_id != self.user_id else None,
            room=room,
            device_id=None if room else other.device_id,
        )
        theirs = await other.accepts_verification(self.user_id)
        await ours.starts_sas()
        shown, seen = await asyncio.gather(ours.emojis(), theirs.emojis())
        assert shown == seen, f"{self.user_id} shows {shown}, {other.user_id} shows {seen}"
        await asyncio.gather(ours.confirms(), theirs.confirms())
        await asyncio.gather(ours.is_done(), theirs.is_done())
        return shown


class Driven(Protocol):
    """A client whose program has the methods of verification."""

    async def call(self, method: str, within: float = WAIT_S, /, **params: Any) -> JsonObject:
        """Call a method of the program."""


class Verification:
    """One verification in progress, on one side."""

    def __init__(self, client: Driven, handle: int) -> None:
        self._client = client
        self._handle = handle

    async def _call(self, method: str, within: float) -> JsonObject:
        return await self._client.call(method, within, handle=self._handle)

    async def starts_sas(self, within: float = WAIT_S) -> None:
        """Choose emojis once the other side is ready; only one of the two does this."""
        await self._call("starts_sas", within)

    async def emojis(self, within: float = WAIT_S) -> Emojis:
        """Wait until there is something to compare, in either role."""
        shown = await self._call("emojis", within)
        return Emojis(
            emojis=tuple((sign, name) for sign, name in shown["emojis"] or ()),
            decimals=tuple(shown["decimals"] or ()),
        )

    async def confirms(self) -> None:
        await self._call("confirms_emojis", WAIT_S)

    async def refuses(self) -> None:
        """Say that the emojis are not the same."""
        await self._call("refuses_emojis", WAIT_S)

    async def cancels(self) -> None:
        await self._call("cancels_verification", WAIT_S)

    async def is_done(self, within: float = WAIT_S) -> None:
        await self._call("verification_done", within)

    async def is_cancelled(self, within: float = WAIT_S) -> str:
        """Wait until either side has cancelled; returns the code."""
        return str((await self._call("verification_cancelled", within))["code"])
