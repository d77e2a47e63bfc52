"""One's devices.

Spec: client-server API, "Device Management".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from yizhan_server.api.confirming import require_confirmation
from yizhan_server.api.login import AuthBody
from yizhan_server.api.routing import Call, JsonObject, Reply, Routes

if TYPE_CHECKING:
    from yizhan_server.storage.devices import Device

routes = Routes()


class DeviceBody(msgspec.Struct):
    """What `PUT /devices/{deviceId}` holds."""

    display_name: str | None = None


class DeleteDevicesBody(msgspec.Struct):
    """What `POST /delete_devices` holds."""

    devices: list[str]
    auth: dict[str, Any] | None = None


@routes.get("/v3/devices")
async def list_devices(call: Call[None]) -> JsonObject:
    """List one's devices."""
    devices = await call.services.sessions.find_all(call.requester.user_id)
    return {"devices": [_to_json(device) for device in devices]}


@routes.get("/v3/devices/{device_id}")
async def get_device(call: Call[None]) -> JsonObject:
    """Show one device."""
    device = await call.services.sessions.get(call.requester.user_id, call.path["device_id"])
    return _to_json(device)


@routes.put("/v3/devices/{device_id}", body=DeviceBody)
async def rename_device(call: Call[DeviceBody]) -> JsonObject | Reply:
    """Rename a device; application services create one so."""
    if (
        call.requester.appservice is not None
        and await call.services.appservice_accounts.ensure_device(
            call.requester.user_id, call.path["device_id"], call.body.display_name
        )
    ):
        return Reply({}, status=201)
    await call.services.device_rename.rename(
        call.requester.user_id, call.path["device_id"], call.body.display_name
    )
    return {}


@routes.delete("/v3/devices/{device_id}", body=AuthBody)
async def delete_device(call: Call[AuthBody]) -> JsonObject:
    """End a device; one that has ended already does no harm."""
    await require_confirmation(call, call.body.auth)
    await call.services.logout.end(call.requester.user_id, [call.path["device_id"]])
    return {}


@routes.post("/v3/delete_devices", body=DeleteDevicesBody)
async def delete_devices(call: Call[DeleteDevicesBody]) -> JsonObject:
    """End several devices."""
    await require_confirmation(call, call.body.auth)
    await call.services.logout.end(call.requester.user_id, call.body.devices)
    return {}


def _to_json(device: Device) -> JsonObject:
    shown: JsonObject = {"device_id": device.device_id}
    if device.display_name is not None:
        shown["display_name"] = device.display_name
    if device.last_seen_ms is not None:
        shown["last_seen_ts"] = device.last_seen_ms
    if device.last_seen_ip is not None:
        shown["last_seen_ip"] = device.last_seen_ip
    return shown
