"""The place of nio's own store: Olm keys kept in our database, in the same commits as the rest.

nio's store writes to a file of its own as it decrypts. A crash between that write and ours
would leave an Olm ratchet that has moved on beside a sync token that has not: the homeserver
sends the same room key again, nobody can read it any more, and its owner is never known. So
this store only *records* what changed; `write_into` moves the record into the transaction
that also holds the sync token. Every change of key material must be committed before a
request that depends on it is sent (a ratchet step must never be used twice).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import vodozemac
from nio.crypto import (  # type: ignore[import-untyped]
    DeviceStore,
    GroupSessionStore,
    OlmAccount,
    OlmDevice,
    OutgoingKeyRequest,
    Session,
    SessionStore,
    TrustState,
)
from nio.crypto.sessions import derive_pickle_key  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction, Value

DIRECT = "direct"
"""Received as m.room_key over Olm from the device that owns the session."""
RESENT = "resent"
"""Received as m.forwarded_room_key over Olm from the very device that owns the session."""
SECOND_HAND = "second_hand"
"""Forwarded by another device: may be read, names nobody."""


@dataclass(frozen=True, slots=True)
class RoomKey:
    """A Megolm session and who claims to own it, as the Olm message proved."""

    room_id: str
    session_id: str
    sender_key: str
    user_id: str
    ed25519: str
    how: str
    first_index: int
    pickle: str


@dataclass(frozen=True, slots=True)
class Decrypted:
    """The plaintext of one Megolm message and its place in the ratchet."""

    plaintext: bytes
    message_index: int


class KeyStore:
    """What nio's Olm machine needs of a store, plus the room keys with their owners."""

    def __init__(self, database: Database, user_id: str, device_id: str, pickle_key: str) -> None:
        self._database = database
        self._user_id = user_id
        self._device_id = device_id
        self._pickle_key = pickle_key
        self._recorded: list[tuple[str, tuple[Value, ...]]] = []
        self._account: OlmAccount | None = None
        self._sessions = SessionStore()

    async def load(self) -> None:
        """Read the account and the Olm sessions; before the Olm machine is made."""
        row = await self._database.row(
            "SELECT device_id, olm_account, keys_shared FROM matrix_account WHERE user_id = ?",
            self._user_id,
        )
        if row is not None and row[0] == self._device_id and row[1] is not None:
            self._account = OlmAccount.from_pickle(
                row[1].encode(), self._pickle_key, shared=bool(row[2])
            )
        elif row is not None:
            # Another device signed in: sessions of the lost one could never be continued.
            self._record("DELETE FROM matrix_olm_session")
            return
        sessions = self._database.scan(
            "SELECT session_id, sender_key, pickle, created_ms, used_ms FROM matrix_olm_session"
            " WHERE session_id > ? ORDER BY session_id LIMIT ?",
            after="",
        )
        async for _, sender_key, pickle, created_ms, used_ms in sessions:
            session = Session.from_pickle(
                pickle.encode(), _time(created_ms), self._pickle_key, _time(used_ms)
            )
            self._sessions.add(sender_key, session)

    def write_into(self, tx: Transaction) -> None:
        """Move all recorded changes into `tx`.

        Should it not commit, the process must end: the keys in memory would be ahead of those
        in the database.
        """
        for sql, args in self._recorded:
            tx.execute(sql, *args)
        self._recorded.clear()

    @property
    def has_changes(self) -> bool:
        """Whether changes wait for a transaction."""
        return bool(self._recorded)

    # --- room keys ---

    def record_room_key(self, key: RoomKey, now_ms: int) -> None:
        """Keep a room key; it replaces a worse one of the same claimed owner only."""
        self._record(
            """
            INSERT INTO matrix_room_key
              (room_id, session_id, sender_key, user_id, ed25519, how, first_index, pickle,
               received_ms)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (room_id, session_id, sender_key) DO UPDATE SET
              user_id = excluded.user_id, ed25519 = excluded.ed25519, how = excluded.how,
              first_index = excluded.first_index, pickle = excluded.pickle,
              received_ms = excluded.received_ms
            WHERE (matrix_room_key.how = 'second_hand' AND excluded.how <> 'second_hand')
               OR (matrix_room_key.user_id = excluded.user_id
                   AND (matrix_room_key.how = 'second_hand') = (excluded.how = 'second_hand')
                   AND excluded.first_index < matrix_room_key.first_index)
            """,
            key.room_id,
            key.session_id,
            key.sender_key,
            key.user_id,
            key.ed25519,
            key.how,
            key.first_index,
            key.pickle,
            now_ms,
        )

    async def find_room_keys(self, room_id: str, session_id: str) -> list[RoomKey]:
        """All claims on a session, those that name an owner first."""
        rows = await self._database.rows(
            """
            SELECT room_id, session_id, sender_key, user_id, ed25519, how, first_index, pickle
            FROM matrix_room_key WHERE room_id = ? AND session_id = ?
            ORDER BY how = 'second_hand', received_ms, sender_key
            """,
            room_id,
            session_id,
        )
        return [RoomKey(*row) for row in rows]

    def pickled(self, session: vodozemac.InboundGroupSession) -> str:
        """Encrypt a Megolm session for the database."""
        return session.pickle(derive_pickle_key(self._pickle_key))

    def decrypt(self, key: RoomKey, ciphertext: str) -> Decrypted | None:
        """Decrypt a Megolm message; None when this key does not fit it."""
        try:
            session = vodozemac.InboundGroupSession.from_pickle(
                key.pickle, derive_pickle_key(self._pickle_key)
            )
            message = session.decrypt(vodozemac.MegolmMessage.from_base64(ciphertext))
        except (
            vodozemac.MegolmDecryptionException,
            vodozemac.DecodeException,
            vodozemac.PickleException,
        ):
            return None
        return Decrypted(bytes(message.plaintext), message.message_index)

    # --- what nio calls ---

    def load_account(self) -> OlmAccount | None:  # noqa: D102 - nio's interface
        return self._account

    def save_account(self, account: OlmAccount) -> None:  # noqa: D102 - nio's interface
        self._account = account
        self._record(
            """
            INSERT INTO matrix_account (user_id, device_id, olm_account, keys_shared)
            VALUES (?, ?, ?, ?)
            ON CONFLICT (user_id) DO UPDATE SET device_id = excluded.device_id,
              olm_account = excluded.olm_account, keys_shared = excluded.keys_shared
            """,
            self._user_id,
            self._device_id,
            account.pickle(self._pickle_key).decode(),
            int(account.shared),
        )

    def load_sessions(self) -> SessionStore:  # noqa: D102 - nio's interface
        return self._sessions

    def save_session(self, curve_key: str, session: Session) -> None:  # noqa: D102 - nio's
        self._record(
            """
            INSERT INTO matrix_olm_session (session_id, sender_key, pickle, created_ms, used_ms)
            VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (session_id) DO UPDATE SET
              pickle = excluded.pickle, used_ms = excluded.used_ms
            """,
            session.id,
            curve_key,
            session.pickle(self._pickle_key).decode(),
            _ms(session.creation_time),
            _ms(session.use_time),
        )

    def load_inbound_group_sessions(self) -> GroupSessionStore:  # noqa: D102 - nio's interface
        return GroupSessionStore()  # `find_room_keys` reads them one by one instead

    def load_device_keys(self) -> DeviceStore:  # noqa: D102 - nio's interface
        return DeviceStore()  # `identities` fills it, after judging

    def load_outgoing_key_requests(self) -> dict[str, OutgoingKeyRequest]:  # noqa: D102 - nio's
        return {}  # `machine` keeps its own, with the person who was asked

    def verify_device(self, device: OlmDevice) -> bool:  # noqa: D102 - nio's interface
        device.trust_state = TrustState.verified
        return True

    def blacklist_device(self, device: OlmDevice) -> bool:  # noqa: D102 - nio's interface
        device.trust_state = TrustState.blacklisted
        return True

    def is_device_verified(self, device: OlmDevice) -> bool:  # noqa: D102 - nio's interface
        return bool(device.verified)

    def is_device_blacklisted(self, device: OlmDevice) -> bool:  # noqa: D102 - nio's interface
        return bool(device.blacklisted)

    def is_device_ignored(self, device: OlmDevice) -> bool:  # noqa: D102 - nio's interface
        return bool(device.ignored)

    def _record(self, sql: str, *args: Value) -> None:
        self._recorded.append((sql, args))


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000)  # noqa: DTZ006 - nio compares naive local times


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)
