"""The device lists of other servers' users, kept up to date by what their servers tell.

A list is asked for when a client first wants it, or its user's server tells of a change. From then
on each change names the one before it; one that does not follow what is known breaks the list:
clients are told that it changed, and it is asked for again.

Keys are handed on as they are: whether they are any good, clients judge. Only their form, their
owner and the master key's signature of the self-signing key are checked here.

Spec: server-server API, "Device Management", "End-to-End Encryption".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from yizhan_database import GuardFailed, Transaction
from yizhan_server.e2ee.cross_signing import check_key
from yizhan_server.e2ee.input import check_name
from yizhan_server.e2ee.remote_forms import devices_by_id, encode_device_keys, fit_name
from yizhan_server.e2ee.retrying import ATTEMPTS, until_committed
from yizhan_server.e2ee.signatures import (
    WrongSignature,
    claimed_signatures,
    cross_signing_public_key,
    encode_signed,
    is_signed,
    load_key,
    signed_part,
)
from yizhan_server.e2ee.to_device import parse_sender
from yizhan_server.protocol.errors import BadJson, MatrixError
from yizhan_server.storage import e2ee_keys as stored_keys
from yizhan_server.storage import remote_devices as storage
from yizhan_server.storage.e2ee_keys import CrossSigningKeys
from yizhan_server.storage.remote_devices import RemoteDevice

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.e2ee.device_changes import DeviceChanges
    from yizhan_server.federation_client.queries import QueryRequests, UserDevices
    from yizhan_server.protocol.identifiers import ServerName, UserID
    from yizhan_server.storage.remote_devices import RemoteList
    from yizhan_server.streams import Stream

JsonObject = dict[str, Any]
T = TypeVar("T")

FETCHES = 3
"""How often a list is asked for because it changed meanwhile."""
MAX_STREAM_ID = 2**63 - 1


class _Update(msgspec.Struct):
    """Content of m.device_list_update."""

    user_id: str
    device_id: str
    stream_id: int
    prev_id: list[int] = []
    deleted: bool = False
    keys: JsonObject | None = None
    device_display_name: str | None = None


class _SigningUpdate(msgspec.Struct):
    """Content of m.signing_key_update."""

    user_id: str
    master_key: JsonObject | None = None
    self_signing_key: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """A list that is to be asked for."""

    user_id: UserID
    is_told: bool
    """Whether clients know already that it is another now."""


class RemoteLists:
    """Keeps the lists."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        changes: DeviceChanges,
        requests: QueryRequests,
        *,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._stream = stream
        self._changes = changes
        self._requests = requests
        self._server_name = server_name

    async def update(self, origin: ServerName, content: JsonObject) -> Missing | None:
        """Take m.device_list_update of a user who shares a room with somebody here.

        Returns whose list is now to be asked for, and whether clients are to be told then.
        """
        said = _parse(content, _Update)
        user_id = parse_sender(origin, said.user_id)
        check_name(said.device_id, "A device id")
        if not 0 <= said.stream_id <= MAX_STREAM_ID:
            raise BadJson("No such 'stream_id'")
        device = None
        if said.keys is not None and not said.deleted:
            keys = encode_device_keys(user_id, said.device_id, said.keys)
            device = RemoteDevice(keys, fit_name(said.device_display_name))
        if not await storage.users_sharing(self._db, self._server_name, [user_id]):
            return None

        async def attempt() -> Missing | None:
            known = await storage.find_list(self._db, user_id)
            kept = await storage.users_kept(self._db, self._server_name, [user_id])
            tx = Transaction()
            holds = known is not None and (kept or not known.complete)
            if known is not None and holds and said.stream_id <= known.stream_id:
                return None  # counted in already, or known to be missing
            follows = known is not None and max(said.prev_id, default=-1) == known.stream_id
            if known is not None and kept and follows:
                storage.advance_list(tx, user_id, known, said.stream_id)
                storage.replace_device(tx, user_id, said.device_id, device)
            else:
                storage.break_list(tx, user_id, known, said.stream_id)
            # Of one that was never here, or has been broken since, no client has an answer that it
            # need be told of: what it was told of already, it has not asked for yet.
            is_told = known is not None and known.complete
            if is_told:
                self._changes.record_remote(tx, user_id)
            await self._db.commit(tx)
            return None if kept and follows else Missing(user_id, is_told)

        return await until_committed(attempt)

    async def update_signing_keys(self, origin: ServerName, content: JsonObject) -> Missing | None:
        """Take m.signing_key_update of a user who shares a room with somebody here.

        Returns whose list is now to be asked for.
        """
        said = _parse(content, _SigningUpdate)
        user_id = parse_sender(origin, said.user_id)
        if not await storage.users_sharing(self._db, self._server_name, [user_id]):
            return None

        async def attempt() -> Missing | None:
            found = await stored_keys.find_cross_signing(self._db, [user_id])
            stored = found.get(user_id)
            tx = Transaction()
            try:
                new = _merged(user_id, stored, said.master_key, said.self_signing_key)
            except WrongSignature:
                # Perhaps of a master key that is not known here: all of it is to be asked for.
                known = await storage.find_list(self._db, user_id)
                storage.break_list(tx, user_id, known, 0)
                new = None
            if new is not None:
                if stored is not None and _same(stored, new):
                    return None
                _record_identity(tx, stored, new)
            self._changes.record_remote(tx, user_id)
            await self._db.commit(tx)
            return Missing(user_id, is_told=True) if new is None else None

        return await until_committed(attempt)

    async def fetch(self, user_id: UserID, server: ServerName) -> None:
        """Ask for a user's list and keep it. Raises RemoteFailure.

        What changes while it is asked for has it asked for again, a few times.
        """
        for _ in range(FETCHES):
            known = await storage.find_list(self._db, user_id)
            identities = await stored_keys.find_cross_signing(self._db, [user_id])
            pos = self._stream.position
            answer = await self._requests.user_devices(server, user_id)
            if await self._keep(user_id, known, identities.get(user_id), pos, answer):
                return

    async def _keep(
        self,
        user_id: UserID,
        before: RemoteList | None,
        identity: CrossSigningKeys | None,
        pos: int,
        answer: UserDevices,
    ) -> bool:
        """Keep an answer, unless something has come meanwhile that it does not hold."""
        stream_id = min(max(answer.stream_id, 0), MAX_STREAM_ID)
        devices = devices_by_id(user_id, answer.devices)
        try:
            new = _merged(user_id, identity, answer.master_key, answer.self_signing_key)
        except MatrixError:
            new = None  # the devices stand for themselves
        for _ in range(ATTEMPTS):
            known = await storage.find_list(self._db, user_id)
            if known is not None and known != before and known.stream_id > stream_id:
                return False
            identities = await stored_keys.find_cross_signing(self._db, [user_id])
            if identities.get(user_id) != identity:
                return False
            tx = Transaction()
            storage.replace_list(tx, user_id, known, stream_id, pos, devices)
            if answer.master_key is None:
                # All that there is of the user: whoever is not named any more has none.
                if identity is not None:
                    stored_keys.delete_known_cross_signing(tx, user_id, identity.ver)
            elif new is not None and (identity is None or not _same(identity, new)):
                _record_identity(tx, identity, new)
            try:
                await self._db.commit(tx)
            except GuardFailed:
                continue
            return True
        return False

    async def tell_changed(self, user_id: UserID) -> None:
        """Have clients ask again for somebody of whom they could not be told before."""
        tx = Transaction()
        self._changes.record_remote(tx, user_id)
        await self._db.commit(tx)


def _merged(
    user_id: UserID,
    stored: CrossSigningKeys | None,
    master: JsonObject | None,
    self_signing: JsonObject | None,
) -> CrossSigningKeys | None:
    """Return a user's cross-signing keys after an update; None where there are none.

    Answers M_BAD_JSON and such, and WrongSignature for what the master key has not signed.
    """
    if master is not None:
        check_key(user_id, "master", master)
        encoded_master = _encode(user_id, master)
    elif stored is not None:
        encoded_master = stored.master
    else:
        return None
    signer = cross_signing_public_key(load_key(encoded_master))
    is_same_master = (
        stored is not None and cross_signing_public_key(load_key(stored.master)) == signer
    )
    encoded_self = stored.self_signing if stored is not None and is_same_master else None
    if self_signing is not None:
        check_key(user_id, "self_signing", self_signing)
        if not is_signed(self_signing, user_id, signer, signer):
            raise WrongSignature("The self-signing key is not signed by the master key")
        encoded_self = _encode(user_id, self_signing)
    return CrossSigningKeys(user_id, encoded_master, encoded_self, None, 0)


def _encode(user_id: UserID, key: JsonObject) -> bytes:
    """Return a key with the signatures of its owner's keys."""
    signatures = claimed_signatures(key, user_id)
    texts = {name: value for name, value in signatures.items() if isinstance(value, str)}
    return encode_signed(signed_part(key), user_id, texts)


def _same(stored: CrossSigningKeys, new: CrossSigningKeys) -> bool:
    return (stored.master, stored.self_signing) == (new.master, new.self_signing)


def _record_identity(
    tx: Transaction, stored: CrossSigningKeys | None, new: CrossSigningKeys
) -> None:
    stored_keys.advance_cross_signing(tx, new, 0 if stored is None else stored.ver)
    if stored is not None:
        before = cross_signing_public_key(load_key(stored.master))
        if before != cross_signing_public_key(load_key(new.master)):
            stored_keys.delete_signatures_of(tx, new.user_id)


def _parse(content: JsonObject, kind: type[T]) -> T:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise BadJson(str(error)) from None
