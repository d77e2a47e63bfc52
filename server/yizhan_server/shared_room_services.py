"""Part of the composition root: rooms that this server shares with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.e2ee.remote_keys import RemoteKeys
from yizhan_server.e2ee.remote_lists import RemoteLists
from yizhan_server.federation.device_edus import DeviceEdus
from yizhan_server.federation.early_events import EarlyEvents
from yizhan_server.federation.early_receipts import EarlyReceipts
from yizhan_server.federation.ephemeral_edus import EphemeralReceiving, EphemeralTelling
from yizhan_server.federation.newly_shared import EarlyPresence, NewlyShared
from yizhan_server.federation.outbox import Outbox
from yizhan_server.federation.transactions import IncomingTransactions
from yizhan_server.rooms.auth_chains import AuthChains
from yizhan_server.rooms.handshakes.handshakes import Handshakes
from yizhan_server.rooms.handshakes.inviting import Inviting
from yizhan_server.rooms.handshakes.joining import Joining
from yizhan_server.rooms.handshakes.out_of_band import OutOfBand
from yizhan_server.rooms.handshakes.residing import Residing
from yizhan_server.rooms.handshakes.under_way import JoinsUnderWay
from yizhan_server.rooms.handshakes.versions import Versions
from yizhan_server.rooms.incoming.adoption import Adoption
from yizhan_server.rooms.incoming.backfill import Backfill
from yizhan_server.rooms.incoming.gaps import Gaps
from yizhan_server.rooms.incoming.history import History
from yizhan_server.rooms.incoming.outliers import Outliers
from yizhan_server.rooms.incoming.placing import Placing
from yizhan_server.rooms.incoming.reception import Reception
from yizhan_server.rooms.incoming.recommendation import Recommendation
from yizhan_server.rooms.incoming.state_intake import StateIntake
from yizhan_server.rooms.incoming.verification import SignatureChecks, Verification
from yizhan_server.rooms.policy_servers import PolicyServers
from yizhan_server.rooms.recording import Recorder
from yizhan_server.rooms.server_access import ServerAccess
from yizhan_server.rooms.serving_events import ServingEvents
from yizhan_server.rooms.state_resolution import StateResolver
from yizhan_server.rooms.writer import EventWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yizhan_config.tasks import Background
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.e2ee.device_changes import DeviceChanges
    from yizhan_server.e2ee.to_device import ToDevice
    from yizhan_server.ephemeral.presence import Presence
    from yizhan_server.ephemeral.receipts import Receipts
    from yizhan_server.ephemeral.typing import Typing
    from yizhan_server.federation.transactions import EduReceiver, StateFollower
    from yizhan_server.federation_client.client import FederationClient
    from yizhan_server.federation_client.rooms import RoomRequests
    from yizhan_server.protocol.identifiers import ServerName
    from yizhan_server.protocol.signing import SigningKey
    from yizhan_server.rooms.push_evaluation import PushEvaluation
    from yizhan_server.rooms.registry import Rooms
    from yizhan_server.rooms.state_keys import StateKeys
    from yizhan_server.storage.numbers import Numbers
    from yizhan_server.streams import Stream


@dataclass(frozen=True, slots=True)
class Writing:
    """What records events, of whatever origin."""

    resolver: StateResolver
    recorder: Recorder
    placing: Placing
    policies: PolicyServers
    writer: EventWriter


def assemble_writing(
    db: Database,
    stream: Stream,
    clock: Clock,
    rooms: Rooms,
    keys: StateKeys,
    numbers: Numbers,
    push: PushEvaluation,
    requests: RoomRequests,
    server_name: ServerName,
    signing_key: SigningKey,
) -> Writing:
    """Build these services."""
    resolver = StateResolver(db, keys)
    recorder = Recorder(db, stream, keys, numbers, push, resolver)
    policies = PolicyServers(db, clock, requests)
    placing = Placing(db, keys, numbers, recorder, resolver, policies)
    writer = EventWriter(
        db, clock, rooms, keys, numbers, recorder, placing, policies, server_name, signing_key
    )
    return Writing(resolver, recorder, placing, policies, writer)


@dataclass(frozen=True, slots=True)
class SharedRoomServices:
    """What lets events and people pass between servers."""

    access: ServerAccess
    serving: ServingEvents
    verification: Verification
    reception: Reception
    residing: Residing
    handshakes: Handshakes
    under_way: JoinsUnderWay
    outbox: Outbox
    backfill: Backfill
    telling: EphemeralTelling


def assemble_shared_rooms(
    db: Database,
    stream: Stream,
    clock: Clock,
    rooms: Rooms,
    keys: StateKeys,
    numbers: Numbers,
    writing: Writing,
    background: Background,
    *,
    push: PushEvaluation,
    client: FederationClient,
    signatures: SignatureChecks,
    server_name: ServerName,
    signing_key: SigningKey,
) -> SharedRoomServices:
    """Build these services."""
    recorder, resolver, writer = writing.recorder, writing.resolver, writing.writer
    placing, policies = writing.placing, writing.policies
    access = ServerAccess(db, rooms, keys, server_name)
    serving = ServingEvents(db, access, AuthChains(db))
    verification = Verification(signatures)
    outliers = Outliers(db, numbers)
    history = History(db, keys, numbers)
    intake = StateIntake(db, verification, outliers)
    gaps = Gaps(db, client.events, verification, outliers, history)
    reception = Reception(clock, access, verification, gaps, placing, Recommendation(policies))
    adoption = Adoption(db, rooms, keys, numbers, recorder, resolver)
    versions = Versions(verification, adoption)
    out_of_band = OutOfBand(db, stream, numbers, push)
    under_way = JoinsUnderWay(clock)
    joining = Joining(
        db, clock, client.rooms, client.events, verification, intake, adoption, versions,
        reception, out_of_band, under_way, server_name, signing_key,
    )  # fmt: skip
    inviting = Inviting(
        client.rooms, rooms, access, writer, placing, policies, verification, versions, out_of_band,
        server_name, signing_key,
    )  # fmt: skip
    residing = Residing(
        access, writer, verification, reception, policies, serving, server_name, signing_key
    )
    handshakes = Handshakes(
        rooms, access, client.peers, joining, inviting, out_of_band, server_name
    )
    outbox = Outbox(
        db, stream, clock, client.events, client.destinations, client.peers,
        [DeviceEdus(db)], background,
        server_name,
    )  # fmt: skip
    backfill = Backfill(
        db, clock, background, client.events, client.peers, verification, gaps, history
    )
    telling = EphemeralTelling(db, stream, outbox, background, server_name)
    return SharedRoomServices(
        access,
        serving,
        verification,
        reception,
        residing,
        handshakes,
        under_way,
        outbox,
        backfill,
        telling,
    )


def assemble_remote_keys(
    db: Database,
    stream: Stream,
    changes: DeviceChanges,
    background: Background,
    client: FederationClient,
    server_name: ServerName,
) -> RemoteKeys:
    """Build what keeps, and asks for, the keys of other servers' users."""
    lists = RemoteLists(db, stream, changes, client.queries, server_name=server_name)
    return RemoteKeys(
        db, lists, client.queries, client.destinations, background, server_name=server_name
    )


@dataclass(frozen=True, slots=True)
class Incoming:
    """What takes transactions, and what follows the stream for their sake."""

    transactions: IncomingTransactions
    newly_shared: NewlyShared
    early_receipts: EarlyReceipts


def assemble_incoming(
    db: Database,
    stream: Stream,
    clock: Clock,
    rooms: Rooms,
    shared: SharedRoomServices,
    background: Background,
    *,
    typing: Typing,
    receipts: Receipts,
    presence: Presence,
    believes_presence: bool,
    to_device: ToDevice,
    remote_keys: RemoteKeys,
    server_name: ServerName,
    followers: Mapping[str, StateFollower],
) -> Incoming:
    """Build what takes transactions, and what follows the stream for their sake.

    What other servers say of presence is ignored unless it is believed.
    """
    early = EarlyPresence(clock)
    early_receipts = EarlyReceipts(db, stream, clock, rooms, receipts)
    ephemeral = EphemeralReceiving(
        db, clock, shared.access, typing, early_receipts,
        presence if believes_presence else None, early, server_name,
    )  # fmt: skip
    edus: dict[str, EduReceiver] = {
        "m.typing": ephemeral.typing,
        "m.receipt": ephemeral.receipts,
        "m.presence": ephemeral.presence,
        "m.direct_to_device": to_device.receive,
        "m.device_list_update": remote_keys.update,
        "m.signing_key_update": remote_keys.update_signing_keys,
    }
    transactions = IncomingTransactions(
        rooms, shared.reception, shared.verification, shared.handshakes.inviting,
        EarlyEvents(background, shared.handshakes), edus, followers,
    )  # fmt: skip
    newly_shared = NewlyShared(db, stream, rooms, presence, shared.telling, early, server_name)
    return Incoming(transactions, newly_shared, early_receipts)
