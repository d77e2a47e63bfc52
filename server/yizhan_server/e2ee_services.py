"""Composes the services of end-to-end encryption, for `app`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.e2ee.cross_signing import CrossSigning
from yizhan_server.e2ee.device_changes import DeviceChanges
from yizhan_server.e2ee.device_lists import DeviceLists
from yizhan_server.e2ee.forgetting import KeyForgetter
from yizhan_server.e2ee.key_backup import KeyBackups
from yizhan_server.e2ee.key_queries import KeyQueries
from yizhan_server.e2ee.keys import Keys
from yizhan_server.e2ee.signature_uploads import SignatureUploads
from yizhan_server.e2ee.to_device import ToDevice

if TYPE_CHECKING:
    from yizhan_config.tasks import Background
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.protocol.identifiers import ServerName
    from yizhan_server.streams import Stream


@dataclass(frozen=True, slots=True)
class E2eeServices:
    """Everything of `e2ee` that others call."""

    changes: DeviceChanges
    device_lists: DeviceLists
    keys: Keys
    key_queries: KeyQueries
    cross_signing: CrossSigning
    signature_uploads: SignatureUploads
    to_device: ToDevice
    key_backups: KeyBackups
    forgetter: KeyForgetter


def assemble_e2ee(
    db: Database, stream: Stream, clock: Clock, background: Background, server_name: ServerName
) -> E2eeServices:
    """Build the services. `background` runs the wake-ups of those who share rooms."""
    changes = DeviceChanges(db, stream, background)
    return E2eeServices(
        changes=changes,
        device_lists=DeviceLists(db, stream),
        keys=Keys(db, changes, server_name=server_name),
        key_queries=KeyQueries(db, server_name=server_name),
        cross_signing=CrossSigning(db, changes),
        signature_uploads=SignatureUploads(db, changes),
        to_device=ToDevice(db, stream, clock, server_name=server_name),
        key_backups=KeyBackups(db),
        forgetter=KeyForgetter(changes),
    )
