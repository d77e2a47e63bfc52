"""Server-side key backups: versions, and the keys of sessions within them.

A backup's `count` and `etag` are exact: every change of its keys is decided on what one reading
showed and committed only if the etag is still the same.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from yizhan_database import Transaction
from yizhan_server.e2ee.input import check_name, check_object
from yizhan_server.e2ee.retrying import until_committed
from yizhan_server.protocol.canonical_json import MAX_INTEGER, encode_canonical
from yizhan_server.protocol.errors import BadJson, InvalidParam, MatrixError, NotFound, TooLarge
from yizhan_server.storage import key_backup as storage
from yizhan_server.storage.key_backup import Backup, BackupKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yizhan_database import Database
    from yizhan_server.protocol.identifiers import UserID

JsonObject = dict[str, Any]

MAX_AUTH_DATA_BYTES = 65_536
MAX_SESSION_DATA_BYTES = 65_536
KEYS_PER_READ = 500


class KeyBackups:
    """Keeps the backups of all users."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # region versions

    async def create(self, user_id: UserID, body: JsonObject) -> str:
        """Begin a new backup and return its version."""
        algorithm = check_name(body.get("algorithm"), "'algorithm'")
        auth_data = _encode(body.get("auth_data"), "'auth_data'", MAX_AUTH_DATA_BYTES)

        async def store() -> str:
            version = await storage.find_last_version(self._db, user_id) + 1
            tx = Transaction()
            storage.create_backup(tx, user_id, version, algorithm, auth_data)
            await self._db.commit(tx)
            return str(version)

        return await until_committed(store)

    async def describe(self, user_id: UserID, version: str | None) -> JsonObject:
        """Describe a version (None: the current one), or answer M_NOT_FOUND."""
        if version is None:
            backup = await storage.find_current_backup(self._db, user_id)
            if backup is None:
                raise NotFound("No current backup version")
        else:
            backup = await self._find(user_id, version)
        return {
            "algorithm": backup.algorithm,
            "auth_data": orjson.Fragment(backup.auth_data),
            "version": str(backup.version),
            **_state(backup.count, backup.etag),
        }

    async def update(self, user_id: UserID, version: str, body: JsonObject) -> None:
        """Replace a version's auth_data, or answer M_NOT_FOUND or M_INVALID_PARAM."""
        if body.get("version", version) != version:
            raise InvalidParam("The version in the body is not the one in the path")
        auth_data = _encode(body.get("auth_data"), "'auth_data'", MAX_AUTH_DATA_BYTES)

        async def store() -> None:
            backup = await self._find(user_id, version)
            if body.get("algorithm") != backup.algorithm:
                raise InvalidParam("Algorithm does not match")
            tx = Transaction()
            storage.update_auth_data(tx, user_id, backup.version, auth_data)
            await self._db.commit(tx)

        await until_committed(store)

    async def delete(self, user_id: UserID, version: str) -> None:
        """Delete a version with its keys; once more does no harm. M_NOT_FOUND if never there."""
        number = _version(version)
        backup = await storage.find_backup(self._db, user_id, number)
        if backup is None:
            raise NotFound("Unknown backup version")
        if not backup.deleted:
            tx = Transaction()
            storage.mark_deleted(tx, user_id, number)
            await self._db.commit(tx)

    # region keys

    async def put(
        self, user_id: UserID, version: str, rooms: dict[str, dict[str, Any]]
    ) -> JsonObject:
        """Store room -> session -> key data in the current backup; return its count and etag.

        Of two keys of a session the better one is kept. Answers M_BAD_JSON or M_INVALID_PARAM,
        M_NOT_FOUND without any backup, M_WRONG_ROOM_KEYS_VERSION when `version` is not current.
        """
        offered = {
            check_name(room_id, "A room id"): {
                check_name(session_id, "A session id"): _check_key(room_id, session_id, data)
                for session_id, data in sessions.items()
            }
            for room_id, sessions in rooms.items()
        }

        async def store() -> JsonObject:
            backup = await self._find_writable(user_id, version)
            better, added = await self._better(user_id, backup.version, offered)
            if not better:
                return _state(backup.count, backup.etag)
            count = backup.count + added
            tx = Transaction()
            storage.advance_backup(tx, user_id, backup, count=count)
            storage.check_current(tx, user_id, backup.version)
            storage.upsert_keys(tx, user_id, backup.version, better)
            await self._db.commit(tx)
            return _state(count, backup.etag + 1)

        return await until_committed(store)

    async def get_all(self, user_id: UserID, version: str) -> JsonObject:
        """Return all keys: {rooms: {room: {sessions: {session: data}}}}."""
        backup = await self._find(user_id, version)
        rooms: JsonObject = {}
        async for key in self._scan(user_id, backup.version):
            sessions = rooms.setdefault(key.room_id, {"sessions": {}})["sessions"]
            sessions[key.session_id] = _show(key)
        return {"rooms": rooms}

    async def get_room(self, user_id: UserID, version: str, room_id: str) -> JsonObject:
        """Return the keys of a room: {sessions: {session: data}}."""
        check_name(room_id, "The room id")
        backup = await self._find(user_id, version)
        sessions = {
            key.session_id: _show(key)
            async for key in self._scan_room(user_id, backup.version, room_id)
        }
        return {"sessions": sessions}

    async def get_session(
        self, user_id: UserID, version: str, room_id: str, session_id: str
    ) -> JsonObject:
        """Return one session's key, or answer M_NOT_FOUND."""
        check_name(room_id, "The room id")
        check_name(session_id, "The session id")
        backup = await self._find(user_id, version)
        found = await storage.find_keys_of_sessions(
            self._db, user_id, backup.version, room_id, [session_id]
        )
        if not found:
            raise NotFound("Key not found")
        return _show(found[0])

    async def delete_keys(
        self,
        user_id: UserID,
        version: str,
        room_id: str | None = None,
        session_id: str | None = None,
    ) -> JsonObject:
        """Delete a session's key, a room's keys, or all; return the new count and etag."""
        if room_id is not None:
            check_name(room_id, "The room id")
        if session_id is not None:
            check_name(session_id, "The session id")

        async def store() -> JsonObject:
            backup = await self._find(user_id, version)
            number = backup.version
            gone = backup.count
            if room_id is not None:
                gone = await storage.count_keys(self._db, user_id, number, room_id, session_id)
            if not gone:
                return _state(backup.count, backup.etag)
            tx = Transaction()
            storage.advance_backup(tx, user_id, backup, count=backup.count - gone)
            storage.delete_keys(tx, user_id, number, room_id, session_id)
            await self._db.commit(tx)
            return _state(backup.count - gone, backup.etag + 1)

        return await until_committed(store)

    # region inner steps

    async def _find(self, user_id: UserID, version: str) -> Backup:
        backup = await storage.find_backup(self._db, user_id, _version(version))
        if backup is None or backup.deleted:
            raise NotFound("Unknown backup version")
        return backup

    async def _find_writable(self, user_id: UserID, version: str) -> Backup:
        current = await storage.find_current_backup(self._db, user_id)
        if current is None:
            raise NotFound("Unknown backup version")
        if str(current.version) != version:
            raise MatrixError(
                403,
                "M_WRONG_ROOM_KEYS_VERSION",
                "Wrong backup version",
                current_version=str(current.version),
            )
        return current

    async def _better(
        self, user_id: UserID, version: int, offered: dict[str, dict[str, BackupKey]]
    ) -> tuple[list[BackupKey], int]:
        """Return the keys that are better than what is stored, and how many are of new sessions."""
        better: list[BackupKey] = []
        added = 0
        for room_id, keys in offered.items():
            sessions = list(keys)
            stored: dict[str, BackupKey] = {}
            for start in range(0, len(sessions), KEYS_PER_READ):
                portion = sessions[start : start + KEYS_PER_READ]
                found = await storage.find_keys_of_sessions(
                    self._db, user_id, version, room_id, portion
                )
                stored.update((key.session_id, key) for key in found)
                await asyncio.sleep(0)
            for session_id, key in keys.items():
                before = stored.get(session_id)
                if before is None:
                    added += 1
                if before is None or key.rank < before.rank:
                    better.append(key)
        return better, added

    async def _scan(self, user_id: UserID, version: int) -> AsyncIterator[BackupKey]:
        after = ("", "")
        while True:
            page = await storage.find_page_of_keys(self._db, user_id, version, after, KEYS_PER_READ)
            for key in page:
                yield key
            if len(page) < KEYS_PER_READ:
                return
            after = (page[-1].room_id, page[-1].session_id)
            await asyncio.sleep(0)

    async def _scan_room(
        self, user_id: UserID, version: int, room_id: str
    ) -> AsyncIterator[BackupKey]:
        after = ""
        while True:
            page = await storage.find_page_of_room_keys(
                self._db, user_id, version, room_id, after, KEYS_PER_READ
            )
            for key in page:
                yield key
            if len(page) < KEYS_PER_READ:
                return
            after = page[-1].session_id
            await asyncio.sleep(0)


def check_rooms(body: JsonObject) -> dict[str, dict[str, Any]]:
    """Return room -> session -> data of a body for several rooms, or answer M_BAD_JSON."""
    rooms = check_object(body.get("rooms"), "'rooms'")
    return {room_id: check_sessions(part) for room_id, part in rooms.items()}


def check_sessions(part: object) -> dict[str, Any]:
    """Return session -> data of a room's part, or answer M_BAD_JSON."""
    return check_object(check_object(part, "A room's part").get("sessions"), "'sessions'")


def _version(text: str) -> int:
    """Return the number that is a version; M_NOT_FOUND for a text that we never gave out."""
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and text[0] != "0"):
        raise NotFound("Unknown backup version")
    return int(text)


def _encode(value: object, what: str, max_bytes: int) -> bytes:
    # What is in it is between the devices; some put a text where others put an object.
    encoded = encode_canonical(value if isinstance(value, str) else check_object(value, what))
    if len(encoded) > max_bytes:
        raise TooLarge(f"{what} is longer than {max_bytes} bytes")
    return encoded


def _check_key(room_id: str, session_id: str, value: object) -> BackupKey:
    data = check_object(value, "A key's data")
    is_verified = data.get("is_verified")
    if not isinstance(is_verified, bool):
        raise BadJson("'is_verified' must be a boolean")
    return BackupKey(
        room_id,
        session_id,
        _check_number(data.get("first_message_index"), "'first_message_index'"),
        _check_number(data.get("forwarded_count"), "'forwarded_count'"),
        is_verified,
        _encode(data.get("session_data"), "'session_data'", MAX_SESSION_DATA_BYTES),
    )


def _check_number(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise BadJson(f"{what} must be an integer from 0 up")
    return value


def _show(key: BackupKey) -> JsonObject:
    return {
        "first_message_index": key.first_message_index,
        "forwarded_count": key.forwarded_count,
        "is_verified": key.is_verified,
        "session_data": orjson.Fragment(key.session_data),
    }


def _state(count: int, etag: int) -> JsonObject:
    return {"count": count, "etag": str(etag)}
