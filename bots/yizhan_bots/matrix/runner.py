"""The running bot: account, keys, sync, skills and sending, put together.

Essential parts end the program when they fail: what is in memory may then be ahead of what is
durable, and a fresh start from the database is the one state that is surely right.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from yizhan_bots.conversation import Actor, People, Skill, Trust, TrustOutcome
from yizhan_bots.matrix.account import Account, Folder, sign_in
from yizhan_bots.matrix.cross_signing import OwnIdentity, fingerprint, publish
from yizhan_bots.matrix.deliver import UNREADABLE_MS, Deliver
from yizhan_bots.matrix.http import Homeserver, Refusal, path
from yizhan_bots.matrix.identities import ADMINISTRATOR, MACHINE, Identities
from yizhan_bots.matrix.keystore import KeyStore
from yizhan_bots.matrix.machine import Machine
from yizhan_bots.matrix.rate import Rates
from yizhan_bots.matrix.rooms import Rooms
from yizhan_bots.matrix.send import Send
from yizhan_bots.matrix.sharing import Sharing
from yizhan_bots.matrix.sync import Admission, Sync, new_txn_id
from yizhan_bots.matrix.verification import OwnKeys, Verifications
from yizhan_config.tasks import Background
from yizhan_database import Transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from yizhan_database import Database

log = logging.getLogger(__name__)

Json = dict[str, Any]

OpenSkill = Callable[["Database", People], "Awaitable[Skill]"]


@dataclass(frozen=True, slots=True)
class BotSettings:
    """What the runner is told by the configuration."""

    homeserver_url: str
    user_id: str
    password: str
    display_name: str = "驿站助手"
    administrators: frozenset[str] = frozenset()
    allow_servers: tuple[str, ...] = ()
    unreadable_ms: int = UNREADABLE_MS


class Runner:
    """One bot on one device. Make it with `start`, end it with `stop`."""

    def __init__(
        self,
        *,
        settings: BotSettings,
        database: Database,
        homeserver: Homeserver,
        account: Account,
        identity: OwnIdentity,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._database = database
        self._homeserver = homeserver
        self._account = account
        self._identity = identity
        self._now_ms = now_ms
        self._background = Background()

    @classmethod
    async def start(
        cls,
        settings: BotSettings,
        database: Database,
        folder: Folder,
        open_skill: OpenSkill,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> Self:
        """Sign in, publish the keys and begin to work. Raises `Refusal` and `Unreachable`."""
        homeserver = Homeserver(settings.homeserver_url)
        try:
            account = await _get_account(settings, homeserver, folder)
            identity = folder.get_identity(account.user_id)
            runner = cls(
                settings=settings,
                database=database,
                homeserver=homeserver,
                account=account,
                identity=identity,
                now_ms=now_ms,
            )
            await runner._prepare(open_skill)
        except BaseException:
            await homeserver.close()
            raise
        return runner

    async def stop(self) -> None:
        """Stop working; everything durable stays as it is."""
        await self._background.stop()
        await self._homeserver.close()

    async def failed(self) -> None:
        """Wait until an essential part fails, and raise why."""
        await self._background.failed()

    @property
    def user_id(self) -> str:
        """The bot's user id."""
        return self._account.user_id

    @property
    def device_id(self) -> str:
        """The bot's device."""
        return self._account.device_id

    @property
    def fingerprint(self) -> str:
        """The bot's cross-signing master key, in the groups of four that clients show."""
        return fingerprint(self._identity.master_key)

    @property
    def emoji(self) -> list[tuple[int, ...]]:
        """The emoji of verifications in progress, as indices into the spec's table."""
        return self._verifications.emoji

    async def trust(self, user_id: str, expected: str = "") -> TrustOutcome:
        """Pin a person's present identity on the word of whoever commands this machine.

        `REFUSED`, and nothing is pinned, when `expected` is not how its fingerprint begins.
        """
        tx = Transaction()
        outcome = await self._identities.trust(user_id, MACHINE, MACHINE, tx)
        if not "".join(outcome.fingerprint.split()).startswith("".join(expected.split())):
            return TrustOutcome(Trust.REFUSED, outcome.fingerprint)
        await self._database.commit(tx)
        return outcome

    async def _prepare(self, open_skill: OpenSkill) -> None:
        account, now_ms = self._account, self._now_ms
        keys = KeyStore(self._database, account.user_id, account.device_id, account.pickle_key)
        await keys.load()
        machine = Machine(account.user_id, account.device_id, keys, now_ms)
        rooms = Rooms(self._database, account.user_id)
        await rooms.load()
        self._identities = Identities(
            self._database, self._homeserver, machine, rooms.is_met, now_ms
        )
        admission = Admission(account.user_id.partition(":")[2], self._settings.allow_servers)
        sharing = Sharing(
            database=self._database,
            homeserver=self._homeserver,
            own_user_id=account.user_id,
            machine=machine,
            keys=keys,
            identities=self._identities,
            now_ms=now_ms,
        )
        self._verifications = Verifications(
            own=OwnKeys(
                account.user_id,
                account.device_id,
                machine.fingerprint_key,
                self._identity.master_key,
            ),
            admits=admission.admits,
            to_device=self._send_to_device,
            to_room=_RoomSender(self._homeserver, rooms, sharing),
            spawn=self._background.spawn,
            now_ms=now_ms,
        )
        people = _People(self._settings.administrators, self._identities, rooms)
        skill = await open_skill(self._database, people)
        send = Send(
            database=self._database,
            homeserver=self._homeserver,
            rooms=rooms,
            sharing=sharing,
            now_ms=now_ms,
        )
        deliver = Deliver(
            database=self._database,
            homeserver=self._homeserver,
            machine=machine,
            keys=keys,
            identities=self._identities,
            rooms=rooms,
            rates=Rates(),
            verifications=self._verifications,
            skill=skill,
            on_queued=send.wake,
            now_ms=now_ms,
            unreadable_ms=self._settings.unreadable_ms,
        )
        await deliver.load()

        def stored() -> None:
            deliver.wake()
            send.wake()

        sync = Sync(
            database=self._database,
            homeserver=self._homeserver,
            own_user_id=account.user_id,
            machine=machine,
            keys=keys,
            identities=self._identities,
            rooms=rooms,
            admission=admission,
            on_to_device=self._verifications.take_to_device,
            on_stored=stored,
            now_ms=now_ms,
        )
        await sync.load()
        await sync.upload_keys()
        await publish(
            self._homeserver.request,
            self._identity,
            account.device_id,
            machine.fingerprint_key,
            self._settings.password,
        )
        await self._show_name()
        # Rooms made by a run that was killed must be known before rooms are made again.
        await sync.step(0)
        self._background.require("sync", sync.run)
        self._background.require("deliver", deliver.run)
        self._background.require("send", send.run)

    async def _show_name(self) -> None:
        where = path("v3", "profile", self.user_id, "displayname")
        wanted = {"displayname": self._settings.display_name}
        try:
            if await self._find_name(where) != wanted:  # each change is an event in every room
                await self._homeserver.request("PUT", where, wanted)
        except Refusal as refusal:
            log.warning("display name not set", extra={"reason": str(refusal)})

    async def _find_name(self, where: str) -> Json:
        try:
            return await self._homeserver.request("GET", where)
        except Refusal as refusal:
            if refusal.status != 404:
                raise
            return {}

    async def _send_to_device(self, user_id: str, device_id: str, kind: str, content: Json) -> None:
        where = path("v3", "sendToDevice", kind, new_txn_id())
        await self._homeserver.request("PUT", where, {"messages": {user_id: {device_id: content}}})


async def _get_account(settings: BotSettings, homeserver: Homeserver, folder: Folder) -> Account:
    account = folder.find_account(settings.user_id)
    if account is not None:
        homeserver.access_token = account.access_token
        try:
            await homeserver.request("GET", "v3/account/whoami")
        except Refusal as refusal:
            if refusal.errcode != "M_UNKNOWN_TOKEN":
                raise
            homeserver.access_token = None
        else:
            return account
    account = await sign_in(
        homeserver, settings.user_id, settings.password, settings.display_name, account
    )
    folder.save_account(account)
    homeserver.access_token = account.access_token
    return account


@dataclass(frozen=True, slots=True)
class _RoomSender:
    """Sends what belongs to a verification into a room, readable by whoever verifies."""

    homeserver: Homeserver
    rooms: Rooms
    sharing: Sharing

    async def __call__(self, room_id: str, kind: str, content: Json) -> None:
        room = self.rooms.find(room_id)
        if room is None:
            return
        if room.encrypted:
            # Free of secrets; and one verifies the bot before being verified oneself.
            public = self.rooms.find_person(room) is not None
            content = await self.sharing.encrypt(room, kind, content, public=public)
            kind = "m.room.encrypted"
        where = path("v3", "rooms", room_id, "send", kind, new_txn_id())
        await self.homeserver.request("PUT", where, content)


@dataclass(frozen=True, slots=True)
class _People:
    """What the skills may ask about persons."""

    administrators: frozenset[str]
    identities: Identities
    rooms: Rooms

    async def is_administrator(self, actor: Actor) -> bool:
        return actor.user_id in self.administrators and (
            await self.identities.is_pinned_on_the_machine(actor.user_id, actor.master_key)
        )

    async def trust(self, user_id: str, by: Actor, tx: Transaction) -> TrustOutcome:
        if user_id in self.administrators or not await self.is_administrator(by):
            return TrustOutcome(Trust.REFUSED)
        return await self.identities.trust(user_id, ADMINISTRATOR, by.user_id, tx)

    def display_name(self, user_id: str) -> str | None:
        return self.rooms.display_name(user_id)
