"""A client made of libolm and HTTP, in an encrypted room with matrix-nio (vodozemac).

libolm is the other implementation of the protocol: that the two read each other shows that what the
server stores and hands out is what both of them signed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from yizhan_testing.town import PASSWORD, Town, open_town

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.nio_client import NioClient
    from yizhan_testing.servers import RunningHomeserver

aiohttp = pytest.importorskip("aiohttp")
olm = pytest.importorskip("olm", reason="python-olm has wheels for Python 3.11 and 3.12 only")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]

OLM = "m.olm.v1.curve25519-aes-sha2"
MEGOLM = "m.megolm.v1.aes-sha2"
WAIT_S = 30.0

JsonObject = dict[str, Any]


def canonical(value: JsonObject) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass
class LibolmClient:
    """One device whose cryptography is libolm's; the user is signed in already."""

    http: Any
    base_url: str
    user_id: str
    device_id: str
    token: str
    since: str = ""
    account: Any = field(default_factory=olm.Account)
    sessions: dict[str, Any] = field(default_factory=dict)
    """Olm sessions by the other's Curve25519 key."""
    room_keys: dict[str, Any] = field(default_factory=dict)
    """Inbound Megolm sessions by id."""
    timeline: list[JsonObject] = field(default_factory=list)
    counts: JsonObject = field(default_factory=dict)
    _txn: int = 0

    async def call(self, method: str, path: str, body: JsonObject | None = None) -> JsonObject:
        async with self.http.request(
            method, f"{self.base_url}/_matrix/client/v3{path}", json=body,
            headers={"Authorization": f"Bearer {self.token}"},
        ) as response:  # fmt: skip
            answer: JsonObject = await response.json()
            assert response.status == 200, answer
            return answer

    @property
    def identity(self) -> JsonObject:
        keys: JsonObject = self.account.identity_keys
        return keys

    def sign(self, value: JsonObject) -> JsonObject:
        signature = self.account.sign(canonical(value))
        return {**value, "signatures": {self.user_id: {f"ed25519:{self.device_id}": signature}}}

    async def uploads_keys(self) -> None:
        keys = {f"{name}:{self.device_id}": key for name, key in self.identity.items()}
        device_keys = {
            "algorithms": [OLM, MEGOLM], "device_id": self.device_id, "keys": keys,
            "user_id": self.user_id,
        }  # fmt: skip
        self.account.generate_one_time_keys(5)
        one_time = self.account.one_time_keys["curve25519"]
        body = {
            "device_keys": self.sign(device_keys),
            "one_time_keys": {
                f"signed_curve25519:{name}": self.sign({"key": key})
                for name, key in one_time.items()
            },
        }
        answer = await self.call("POST", "/keys/upload", body)
        assert answer["one_time_key_counts"]["signed_curve25519"] == 5
        self.account.mark_keys_as_published()

    async def syncs(self) -> None:
        since = f"&since={quote(self.since)}" if self.since else ""
        answer = await self.call("GET", f"/sync?timeout=2000{since}")
        self.since = answer["next_batch"]
        self.counts = answer["device_one_time_keys_count"]
        for event in answer.get("to_device", {}).get("events", []):
            self.receives(event)
        for room in answer.get("rooms", {}).get("join", {}).values():
            self.timeline += room["timeline"]["events"]

    def receives(self, event: JsonObject) -> None:
        """Take an Olm message, and the room key in it."""
        content = event["content"]
        if event["type"] != "m.room.encrypted" or content["algorithm"] != OLM:
            return
        sealed, key = content["ciphertext"][self.identity["curve25519"]], content["sender_key"]
        if sealed["type"] == 0:
            message = olm.OlmPreKeyMessage(sealed["body"])
            session = self.sessions.get(key)
            if session is None or not session.matches(message, key):
                session = self.sessions[key] = olm.InboundSession(self.account, message, key)
                self.account.remove_one_time_keys(session)
        else:
            message, session = olm.OlmMessage(sealed["body"]), self.sessions[key]
        opened = json.loads(session.decrypt(message))
        assert opened["sender"] == event["sender"]
        assert opened["recipient"] == self.user_id
        assert opened["recipient_keys"] == {"ed25519": self.identity["ed25519"]}
        if opened["type"] == "m.room_key":
            room_key = opened["content"]
            self.room_keys[room_key["session_id"]] = olm.InboundGroupSession(
                room_key["session_key"]
            )

    async def reads(self, event_id: str) -> JsonObject:
        """Wait for a room's event and decrypt it."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            for event in self.timeline:
                content = event["content"]
                if event["event_id"] == event_id and content["session_id"] in self.room_keys:
                    session = self.room_keys[content["session_id"]]
                    opened: JsonObject = json.loads(session.decrypt(content["ciphertext"])[0])
                    return opened
            await self.syncs()
        raise AssertionError(f"{event_id} could not be read")

    async def device_keys(self, user_id: str, device_id: str) -> JsonObject:
        """Query another device's identity keys and check their signature."""
        found = await self.call("POST", "/keys/query", {"device_keys": {user_id: [device_id]}})
        device: JsonObject = found["device_keys"][user_id][device_id]
        keys: JsonObject = device["keys"]
        self.verify(device, user_id, device_id, keys[f"ed25519:{device_id}"])
        return keys

    @staticmethod
    def verify(value: JsonObject, user_id: str, device_id: str, key: str) -> None:
        """Raise olm.OlmVerifyError unless the device signed the value."""
        signed = {k: v for k, v in value.items() if k not in ("signatures", "unsigned")}
        signature = value["signatures"][user_id][f"ed25519:{device_id}"]
        olm.ed25519_verify(key, canonical(signed), signature)

    async def sends_olm(self, user_id: str, device_id: str, kind: str, content: JsonObject) -> None:
        """Send a to-device message to one device, over a new session where there is none."""
        keys = await self.device_keys(user_id, device_id)
        theirs, signing = keys[f"curve25519:{device_id}"], keys[f"ed25519:{device_id}"]
        if theirs not in self.sessions:
            wanted = {user_id: {device_id: "signed_curve25519"}}
            claimed = await self.call("POST", "/keys/claim", {"one_time_keys": wanted})
            (one_time,) = claimed["one_time_keys"][user_id][device_id].values()
            self.verify(one_time, user_id, device_id, signing)
            self.sessions[theirs] = olm.OutboundSession(self.account, theirs, one_time["key"])
        payload = {
            "type": kind, "content": content, "sender": self.user_id,
            "sender_device": self.device_id, "keys": {"ed25519": self.identity["ed25519"]},
            "recipient": user_id, "recipient_keys": {"ed25519": signing},
        }  # fmt: skip
        sealed = self.sessions[theirs].encrypt(canonical(payload))
        body = {
            "algorithm": OLM, "sender_key": self.identity["curve25519"],
            "ciphertext": {theirs: {"type": sealed.message_type, "body": sealed.ciphertext}},
        }  # fmt: skip
        self._txn += 1
        await self.call(
            "PUT", f"/sendToDevice/m.room.encrypted/{self._txn}",
            {"messages": {user_id: {device_id: body}}},
        )  # fmt: skip

    async def says(self, room: str, body: str, session: Any) -> str:
        """Send a text that is encrypted with an outbound Megolm session."""
        payload = {
            "type": "m.room.message", "room_id": room,
            "content": {"msgtype": "m.text", "body": body},
        }  # fmt: skip
        content = {
            "algorithm": MEGOLM, "ciphertext": session.encrypt(canonical(payload)),
            "session_id": session.id, "sender_key": self.identity["curve25519"],
            "device_id": self.device_id,
        }  # fmt: skip
        self._txn += 1
        answer = await self.call(
            "PUT", f"/rooms/{quote(room)}/send/m.room.encrypted/{self._txn}", content
        )
        return str(answer["event_id"])


@pytest_asyncio.fixture(loop_scope="module")
async def town(homeserver: RunningHomeserver, tmp_path: Path) -> AsyncIterator[Town]:
    async with open_town(homeserver, tmp_path) as here:
        yield here


@pytest_asyncio.fixture(loop_scope="module")
async def frank(town: Town) -> AsyncIterator[LibolmClient]:
    user_id = await town.person("frank")
    base_url = town.homeserver.base_url
    async with aiohttp.ClientSession() as http:
        body = {
            "type": "m.login.password", "password": PASSWORD,
            "identifier": {"type": "m.id.user", "user": user_id},
        }  # fmt: skip
        async with http.post(f"{base_url}/_matrix/client/v3/login", json=body) as response:
            signed_in = await response.json()
        frank = LibolmClient(
            http, base_url, user_id, signed_in["device_id"], signed_in["access_token"]
        )
        await frank.uploads_keys()
        await frank.syncs()
        yield frank


async def test_libolm_and_vodozemac_read_each_other(town: Town, frank: LibolmClient) -> None:
    carol: NioClient = await town.nio(await town.person("carol"))
    room = await carol.creates_room(invite=[frank.user_id])
    await frank.call("POST", f"/join/{quote(room)}", {})
    await carol.sees_member(room, frank.user_id)

    # vodozemac begins: a claimed one-time key, an Olm pre-key message, a Megolm message.
    first = await carol.says(room, "你好，libolm")
    opened = await frank.reads(first)
    assert opened["room_id"] == room
    assert opened["content"]["body"] == "你好，libolm"
    assert frank.counts["signed_curve25519"] == 4

    # libolm answers over the session that it was given, with a Megolm session of its own.
    session = olm.OutboundGroupSession()
    room_key = {
        "algorithm": MEGOLM, "room_id": room, "session_id": session.id,
        "session_key": session.session_key,
    }  # fmt: skip
    await frank.sends_olm(carol.user_id, carol.device_id, "m.room_key", room_key)
    answered = await frank.says(room, "hello, vodozemac", session)
    read = await carol.reads("hello, vodozemac")
    assert (read.event_id, read.encrypted, read.sender) == (answered, True, frank.user_id)

    # And once more each way, on the sessions that there are.
    second = await carol.says(room, "再来一次")
    assert (await frank.reads(second))["content"]["body"] == "再来一次"
    await frank.says(room, "and again", session)
    assert (await carol.reads("and again")).encrypted


async def test_libolm_begins_a_session_with_vodozemac(town: Town, frank: LibolmClient) -> None:
    dan: NioClient = await town.nio(await town.person("dan"))
    room = await dan.creates_room(invite=[frank.user_id])
    await frank.call("POST", f"/join/{quote(room)}", {})
    await dan.sees_member(room, frank.user_id)
    assert not frank.sessions

    session = olm.OutboundGroupSession()
    room_key = {
        "algorithm": MEGOLM, "room_id": room, "session_id": session.id,
        "session_key": session.session_key,
    }  # fmt: skip
    await frank.sends_olm(dan.user_id, dan.device_id, "m.room_key", room_key)
    sent = await frank.says(room, "first from libolm", session)
    read = await dan.reads("first from libolm")
    assert (read.event_id, read.encrypted) == (sent, True)
