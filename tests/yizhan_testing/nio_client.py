"""A second real client for tests: matrix-nio, with the same words as `JsClient`.

It has no task of its own: whoever waits for something drives /sync meanwhile, with the key uploads,
queries and claims that belong to it. Between calls the device is silent, like a closed laptop.
Devices of others are used without verification.
"""

from __future__ import annotations

import asyncio
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import nio  # type: ignore[import-untyped]
from nio.crypto.attachments import decrypt_attachment  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_S = 30.0

JsonObject = dict[str, Any]
Response = TypeVar("Response")
Found = TypeVar("Found")


class NioClientError(Exception):
    """The server's refusal, or a wait that was in vain."""


@dataclass(frozen=True, slots=True)
class ReadEvent:
    """An event as nio sees it; `content` is the decrypted one. `verified` is nio's own opinion."""

    event_id: str
    room_id: str
    sender: str
    type: str
    body: str | None
    content: JsonObject
    encrypted: bool
    verified: bool


class NioClient:
    """One signed-in device; `folder` keeps its keys."""

    def __init__(self, client: nio.AsyncClient) -> None:
        self.client = client
        self._seen: list[tuple[str, nio.Event]] = []
        self._receipts: list[tuple[str, str, str]] = []  # room, event, person
        self._typing: dict[str, list[str]] = {}
        client.add_event_callback(self._on_event, nio.Event)
        client.add_ephemeral_callback(self._on_receipts, nio.ReceiptEvent)
        client.add_ephemeral_callback(self._on_typing, nio.TypingNoticeEvent)

    @classmethod
    async def start(
        cls,
        base_url: str,
        user_id: str,
        password: str,
        folder: Path,
        *,
        device_name: str = "nio",
    ) -> Self:
        """Sign in, upload keys and sync once."""
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        client = nio.AsyncClient(
            base_url,
            user_id,
            store_path=str(folder),
            config=nio.AsyncClientConfig(encryption_enabled=True, max_timeouts=0),
        )
        self = cls(client)
        try:
            check(await client.login(password, device_name=device_name), nio.LoginResponse)
            await self._turn(wait_ms=0)
        except BaseException:
            await self.close()
            raise
        return self

    @property
    def user_id(self) -> str:
        return str(self.client.user_id)

    @property
    def device_id(self) -> str:
        return self.client.device_id or ""

    async def close(self) -> None:
        await self.client.close()

    # /sync and what belongs to it

    async def _turn(self, wait_ms: int) -> None:
        check(await self.client.sync(timeout=wait_ms, full_state=False), nio.SyncResponse)
        if self.client.should_upload_keys:
            check(await self.client.keys_upload(), nio.KeysUploadResponse)
        if self.client.should_query_keys:
            check(await self.client.keys_query(), nio.KeysQueryResponse)
        if self.client.should_claim_keys:
            wanted = self.client.get_users_for_key_claiming()
            check(await self.client.keys_claim(wanted), nio.KeysClaimResponse)
        await self.client.send_to_device_messages()

    async def _until(self, what: str, probe: Callable[[], Found | None], within: float) -> Found:
        """Sync until `probe` finds something."""
        end = time.monotonic() + within
        while (found := probe()) is None:
            left = end - time.monotonic()
            if left <= 0:
                raise NioClientError(f"{self.user_id} waited {within:.0f} s for {what}")
            # No wait of the server's may outlast ours.
            await self._turn(wait_ms=round(min(left, 10) * 1000))
        return found

    async def _on_event(self, room: nio.MatrixRoom, event: nio.Event) -> None:
        self._seen.append((room.room_id, event))

    async def _on_receipts(self, room: nio.MatrixRoom, event: nio.ReceiptEvent) -> None:
        self._receipts += [(room.room_id, r.event_id, r.user_id) for r in event.receipts]

    async def _on_typing(self, room: nio.MatrixRoom, event: nio.TypingNoticeEvent) -> None:
        self._typing[room.room_id] = event.users

    # Rooms

    async def creates_room(
        self, *, name: str = "", invite: list[str] | None = None, encrypted: bool = True
    ) -> str:
        """Create a private room; returns its id once it is in one's own list."""
        state = [nio.EnableEncryptionBuilder().as_dict()] if encrypted else []
        answer = check(
            await self.client.room_create(name=name, invite=invite or [], initial_state=state),
            nio.RoomCreateResponse,
        )
        await self._knows(answer.room_id)
        return str(answer.room_id)

    async def accepts_invitation(self, room: str, within: float = WAIT_S) -> str:
        await self._until(
            f"an invitation to {room}",
            lambda: room if room in self.client.invited_rooms else None,
            within,
        )
        check(await self.client.join(room), nio.JoinResponse)
        await self._knows(room)
        return room

    async def _knows(self, room: str) -> None:
        await self._until(f"{room}", lambda: self.client.rooms.get(room), WAIT_S)

    async def sees_member(self, room: str, user_id: str, within: float = WAIT_S) -> None:
        """Wait until the person has joined."""

        def joined() -> bool | None:
            found = self.client.rooms.get(room)
            return (found is not None and user_id in found.users) or None

        await self._until(f"{user_id} in {room}", joined, within)

    # Sending

    async def sends(self, room: str, event_type: str, content: JsonObject) -> str:
        # Who has joined and which devices there are decides who gets the key.
        await self._turn(wait_ms=0)
        answer = await self.client.room_send(
            room, event_type, content, ignore_unverified_devices=True
        )
        return str(check(answer, nio.RoomSendResponse).event_id)

    async def says(self, room: str, body: str) -> str:
        return await self.sends(room, "m.room.message", {"msgtype": "m.text", "body": body})

    async def reacts(self, room: str, event_id: str, key: str) -> str:
        relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
        return await self.sends(room, "m.reaction", {"m.relates_to": relation})

    async def edits(self, room: str, event_id: str, body: str) -> str:
        content = {
            "msgtype": "m.text",
            "body": f"* {body}",
            "m.new_content": {"msgtype": "m.text", "body": body},
            "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
        }
        return await self.sends(room, "m.room.message", content)

    async def redacts(self, room: str, event_id: str) -> str:
        answer = await self.client.room_redact(room, event_id)
        return str(check(answer, nio.RoomRedactResponse).event_id)

    async def sends_file(self, room: str, path: Path) -> str:
        """Encrypt, upload and send a file; returns the event id."""
        plaintext = await asyncio.to_thread(path.read_bytes)
        answer, keys = await self.client.upload(
            lambda _retries, _timeouts: io.BytesIO(plaintext),
            encrypt=True,
            filesize=len(plaintext),
        )
        uploaded = check(answer, nio.UploadResponse)
        assert keys is not None
        content = {
            "msgtype": "m.file",
            "body": path.name,
            "info": {"size": len(plaintext)},
            "file": {**keys, "url": uploaded.content_uri},
        }
        return await self.sends(room, "m.room.message", content)

    async def marks_read(self, room: str, event_id: str) -> None:
        check(
            await self.client.update_receipt_marker(room, event_id),
            nio.UpdateReceiptMarkerResponse,
        )

    async def types(self, room: str, *, typing: bool = True) -> None:
        check(await self.client.room_typing(room, typing), nio.RoomTypingResponse)

    # Reading

    def _readable(self, room: str, event: nio.Event) -> ReadEvent:
        content = event.source.get("content", {})
        return ReadEvent(
            event_id=event.event_id,
            room_id=room,
            sender=event.sender,
            type=event.source.get("type", ""),
            body=content.get("body"),
            content=content,
            encrypted=event.decrypted,
            verified=event.verified,
        )

    def _find(
        self,
        body: str | None,
        event_id: str | None,
        event_type: str | None,
        relates_to: str | None,
        contains: str,
        sender: str | None,
    ) -> ReadEvent | None:
        for room, event in self._seen:
            if isinstance(event, nio.MegolmEvent):  # not decrypted
                continue
            read = self._readable(room, event)
            relation = read.content.get("m.relates_to") or {}
            if (
                body in {None, read.body}
                and event_id in {None, read.event_id}
                and event_type in {None, read.type}
                and relates_to in {None, relation.get("event_id")}
                and contains in (read.body or "")
                and sender in {None, read.sender}
            ):
                return read
        return None

    async def reads(
        self,
        body: str | None = None,
        *,
        event_id: str | None = None,
        event_type: str | None = None,
        relates_to: str | None = None,
        contains: str = "",
        sender: str | None = None,
        within: float = WAIT_S,
    ) -> ReadEvent:
        """Wait for the first readable event that has all that is given; `contains`: in its body."""
        return await self._until(
            f"an event {body or event_id or event_type or relates_to or contains}",
            lambda: self._find(body, event_id, event_type, relates_to, contains, sender),
            within,
        )

    async def fails_to_read(self, event_id: str, within: float = WAIT_S) -> None:
        """Wait until the event is there but cannot be decrypted."""

        def unreadable() -> bool | None:
            found = [e for _, e in self._seen if e.event_id == event_id]
            return bool(found and isinstance(found[0], nio.MegolmEvent)) or None

        await self._until(f"the unreadable event {event_id}", unreadable, within)

    async def saves_file(self, event_id: str) -> bytes:
        """Download and decrypt the file of a message."""
        file = (await self.reads(event_id=event_id)).content["file"]
        answer = check(await self.client.download(file["url"]), nio.MemoryDownloadResponse)
        return bytes(
            decrypt_attachment(answer.body, file["key"]["k"], file["hashes"]["sha256"], file["iv"])
        )

    async def sees_redaction(self, event_id: str, within: float = WAIT_S) -> None:
        def redacted() -> bool | None:
            return (
                any(
                    isinstance(event, nio.RedactionEvent) and event.redacts == event_id
                    for _, event in self._seen
                )
                or None
            )

        await self._until(f"the redaction of {event_id}", redacted, within)

    async def sees_receipt(self, user_id: str, event_id: str, within: float = WAIT_S) -> None:
        def found() -> bool | None:
            return any(r[1:] == (event_id, user_id) for r in self._receipts) or None

        await self._until(f"a receipt of {user_id} on {event_id}", found, within)

    async def sees_typing(
        self, room: str, user_id: str, *, typing: bool = True, within: float = WAIT_S
    ) -> None:
        def found() -> bool | None:
            return (user_id in self._typing.get(room, [])) is typing or None

        await self._until(f"{user_id} typing: {typing}", found, within)


def check(answer: object, wanted: type[Response]) -> Response:
    """Return the answer if it is the wanted one; raise with the server's words otherwise."""
    if not isinstance(answer, wanted):
        raise NioClientError(f"{wanted.__name__} expected, but: {answer}")
    return answer
