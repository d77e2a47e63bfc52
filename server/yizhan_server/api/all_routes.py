"""Every endpoint: one list of the modules that declare them."""

from __future__ import annotations

from yizhan_server.api import (
    account,
    account_data,
    devices,
    directories,
    discovery,
    ephemeral,
    event_stream,
    events,
    key_backup,
    keys,
    login,
    media,
    profiles,
    push_rules,
    registration,
    relations,
    rooms,
    sync,
    to_device,
)

ROUTES = (
    account.routes,
    account_data.routes,
    devices.routes,
    directories.routes,
    discovery.routes,
    discovery.well_known_routes,
    ephemeral.routes,
    event_stream.routes,
    events.routes,
    key_backup.routes,
    keys.routes,
    login.routes,
    media.routes,
    profiles.routes,
    push_rules.routes,
    registration.routes,
    registration.admin_routes,
    relations.routes,
    rooms.routes,
    sync.routes,
    to_device.routes,
)
