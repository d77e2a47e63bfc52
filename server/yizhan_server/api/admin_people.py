"""Accounts, for administrators: the endpoints that admin tools for Synapse know.

Left out on purpose: signing in as somebody else, and reading somebody's account data.

Spec: client-server API, "Server Administration" (whois); the rest is documented by Synapse's
admin API, whose paths and keys these are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from yizhan_server.admin.people import Changes
from yizhan_server.api.contact_addresses import list_addresses
from yizhan_server.api.routing import Auth, Call, JsonObject, Reply, Routes
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.identifiers import UserID, localpart_of, parse_user_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from yizhan_server.storage.devices import Device
    from yizhan_server.storage.people import ListedAccount

whois_routes = Routes()
routes = Routes(prefix="/_synapse/admin")

_SORT_KEYS: dict[str, Callable[[ListedAccount], Any]] = {
    "name": lambda each: "",
    "is_guest": lambda each: each.account.is_guest,
    "admin": lambda each: each.account.is_admin,
    "user_type": lambda each: "",
    "deactivated": lambda each: each.account.is_deactivated,
    "shadow_banned": lambda each: "",
    "displayname": lambda each: each.display_name or "",
    "avatar_url": lambda each: each.avatar_url or "",
    "creation_ts": lambda each: each.account.created_ms,
    "last_seen_ts": lambda each: each.last_seen_ms or 0,
}


class AccountBody(msgspec.Struct):
    """PUT /v2/users: what is not named stays as it is."""

    password: str | None = None
    logout_devices: bool = True
    displayname: str | None = None
    avatar_url: str | None = None
    admin: bool | None = None
    deactivated: bool | None = None
    locked: bool | None = None
    user_type: str | None = None
    threepids: list[Any] | None = None
    external_ids: list[Any] | None = None


class PasswordBody(msgspec.Struct):
    """POST /v1/reset_password."""

    new_password: str
    logout_devices: bool = True


class AdminBody(msgspec.Struct):
    """PUT /v1/users/{user}/admin."""

    admin: bool


class SuspendBody(msgspec.Struct):
    """PUT /v1/suspend."""

    suspend: bool


class EraseBody(msgspec.Struct):
    """POST /v1/deactivate."""

    erase: bool = False


class DeviceNameBody(msgspec.Struct):
    """PUT /v2/users/{user}/devices/{device}."""

    display_name: str | None = None


class DevicesBody(msgspec.Struct):
    """POST /v2/users/{user}/delete_devices."""

    devices: list[str]


@whois_routes.get("/v3/admin/whois/{user_id}")
async def whois_oneself(call: Call[None]) -> JsonObject:
    """Tell where somebody was last seen: oneself, or for administrators anybody."""
    user_id = parse_user_id(call.path["user_id"])
    if user_id != call.requester.user_id:
        call.administrator  # noqa: B018 - the gate: it answers M_FORBIDDEN
    return await _whois(call, user_id)


@routes.get("/v1/whois/{user_id}", auth=Auth.ADMIN)
async def whois(call: Call[None]) -> JsonObject:
    """Tell where somebody was last seen."""
    return await _whois(call, _subject(call))


async def _whois(call: Call[None], user_id: UserID) -> JsonObject:
    devices = await call.services.people.devices(user_id)
    return {
        "user_id": user_id,
        "devices": {
            device.device_id: {"sessions": [{"connections": _connections(device)}]}
            for device in devices
        },
    }


def _connections(device: Device) -> list[JsonObject]:
    if device.last_seen_ms is None:
        return []
    return [
        {
            "ip": device.last_seen_ip or "",
            "last_seen": device.last_seen_ms,
            "user_agent": device.last_seen_agent or "",
        }
    ]


# region accounts


@routes.get("/v2/users", auth=Auth.ADMIN)
async def list_accounts(call: Call[None]) -> JsonObject:
    """List accounts; those that are locked or have ended only when they are asked for."""
    found = await call.services.people.list_accounts()
    chosen = [
        each
        for each in _filtered(call, found)
        if call.query_bool("deactivated") or not each.account.is_deactivated
    ]
    return _page(call, chosen)


@routes.get("/v3/users", auth=Auth.ADMIN)
async def list_accounts_by_state(call: Call[None]) -> JsonObject:
    """List accounts; `deactivated` chooses those that have ended, or the others."""
    chosen = _filtered(call, await call.services.people.list_accounts())
    if call.query("deactivated") is not None:
        wanted = call.query_bool("deactivated")
        chosen = [each for each in chosen if each.account.is_deactivated == wanted]
    return _page(call, list(chosen))


def _filtered(call: Call[None], found: Iterable[ListedAccount]) -> list[ListedAccount]:
    name, part = call.query("name"), call.query("user_id")
    guests, locked = call.query_bool("guests", default=True), call.query_bool("locked")
    admins = None if call.query("admins") is None else call.query_bool("admins")
    return [
        each
        for each in found
        if (guests or not each.account.is_guest)
        and (locked or not each.account.is_locked)
        and (admins is None or each.account.is_admin == admins)
        and _is_named(each, name, part)
    ]


def _is_named(each: ListedAccount, name: str | None, part: str | None) -> bool:
    if name is not None:
        wanted = name.lower()
        return (
            wanted in localpart_of(each.account.user_id)
            or wanted in (each.display_name or "").lower()
        )
    return part is None or part.lower() in each.account.user_id


def _page(call: Call[None], chosen: list[ListedAccount]) -> JsonObject:
    order = call.query_choice("order_by", tuple(_SORT_KEYS), "name") or "name"
    backwards = call.query_choice("dir", ("f", "b"), "f") == "b"
    # They come by name, and equal ones stay in that order.
    chosen.sort(key=_SORT_KEYS[order], reverse=backwards and order != "name")
    if backwards and order == "name":
        chosen.reverse()
    start, limit = call.query_int("from", 0), call.query_int("limit", 100, low=1, high=1000)
    answer: JsonObject = {
        "users": [_to_json(each) for each in chosen[start : start + limit]],
        "total": len(chosen),
    }
    if start + limit < len(chosen):
        answer["next_token"] = str(start + limit)
    return answer


@routes.get("/v2/users/{user_id}", auth=Auth.ADMIN)
async def get_account(call: Call[None]) -> JsonObject:
    """Show an account."""
    return await _details(call, _subject(call))


@routes.put("/v2/users/{user_id}", auth=Auth.ADMIN, body=AccountBody)
async def put_account(call: Call[AccountBody]) -> Reply:
    """Create or change an account."""
    body, user_id = call.body, _subject(call)
    if body.threepids or body.external_ids or body.user_type:
        raise InvalidParam("'threepids', 'external_ids' and 'user_type' cannot be set here")
    created = await call.services.people.put(
        call.administrator, user_id,
        Changes(
            password=body.password, logout_devices=body.logout_devices,
            display_name=body.displayname, avatar_url=body.avatar_url, is_admin=body.admin,
            is_deactivated=body.deactivated, is_locked=body.locked,
        ),
    )  # fmt: skip
    return Reply(await _details(call, user_id), status=201 if created else 200)


async def _details(call: Call[Any], user_id: UserID) -> JsonObject:
    shown = _to_json(await call.services.people.get(user_id))
    # In seconds, unlike in the list: so the tools expect it.
    shown["creation_ts"] //= 1000
    nothing: JsonObject = dict.fromkeys(
        ("appservice_id", "consent_server_notice_sent", "consent_version", "consent_ts")
    )
    threepids = await list_addresses(call.services.email_addresses, user_id)
    return {**shown, "threepids": threepids, "external_ids": [], **nothing}


def _to_json(each: ListedAccount) -> JsonObject:
    account = each.account
    return {
        "name": account.user_id,
        "displayname": each.display_name,
        "avatar_url": each.avatar_url,
        "is_guest": account.is_guest,
        "admin": account.is_admin,
        "user_type": None,
        "deactivated": account.is_deactivated,
        "erased": account.is_erased,
        "shadow_banned": False,
        "creation_ts": account.created_ms,
        "last_seen_ts": each.last_seen_ms,
        "locked": account.is_locked,
        "suspended": account.is_suspended,
    }


@routes.post("/v1/reset_password/{user_id}", auth=Auth.ADMIN, body=PasswordBody)
async def reset_password(call: Call[PasswordBody]) -> JsonObject:
    """Set somebody's password."""
    await call.services.people.reset_password(
        call.administrator, _subject(call), call.body.new_password,
        logout_devices=call.body.logout_devices,
    )  # fmt: skip
    return {}


@routes.post("/v1/deactivate/{user_id}", auth=Auth.ADMIN, body=EraseBody)
async def deactivate(call: Call[EraseBody]) -> JsonObject:
    """End an account."""
    unbound = await call.services.people.deactivate(
        call.administrator, _subject(call), erase=call.body.erase
    )
    return {"id_server_unbind_result": "success" if unbound else "no-support"}


@routes.put("/v1/suspend/{user_id}", auth=Auth.ADMIN, body=SuspendBody)
async def suspend(call: Call[SuspendBody]) -> JsonObject:
    """Suspend an account, or end that."""
    user_id = _subject(call)
    await call.services.people.set_suspended(
        call.administrator, user_id, is_suspended=call.body.suspend
    )
    return {f"user_{user_id}_suspended": call.body.suspend}


@routes.get("/v1/users/{user_id}/admin", auth=Auth.ADMIN)
async def is_admin(call: Call[None]) -> JsonObject:
    """Tell whether somebody is an administrator."""
    return {"admin": (await call.services.people.get(_subject(call))).account.is_admin}


@routes.put("/v1/users/{user_id}/admin", auth=Auth.ADMIN, body=AdminBody)
async def set_admin(call: Call[AdminBody]) -> JsonObject:
    """Make somebody an administrator, or no longer."""
    await call.services.people.set_admin(
        call.administrator, _subject(call), is_admin=call.body.admin
    )
    return {}


# region devices


@routes.get("/v2/users/{user_id}/devices", auth=Auth.ADMIN)
async def list_devices(call: Call[None]) -> JsonObject:
    """List somebody's devices."""
    user_id = _subject(call)
    devices = await call.services.people.devices(user_id)
    return {"devices": [_device(user_id, each) for each in devices], "total": len(devices)}


@routes.get("/v2/users/{user_id}/devices/{device_id}", auth=Auth.ADMIN)
async def get_device(call: Call[None]) -> JsonObject:
    """Show one device."""
    user_id = _subject(call)
    return _device(user_id, await call.services.people.device(user_id, call.path["device_id"]))


@routes.put("/v2/users/{user_id}/devices/{device_id}", auth=Auth.ADMIN, body=DeviceNameBody)
async def rename_device(call: Call[DeviceNameBody]) -> JsonObject:
    """Name a device."""
    await call.services.people.rename_device(
        call.administrator, _subject(call), call.path["device_id"], call.body.display_name
    )
    return {}


@routes.delete("/v2/users/{user_id}/devices/{device_id}", auth=Auth.ADMIN)
async def end_device(call: Call[None]) -> JsonObject:
    """Sign a device out."""
    await call.services.people.end_devices(
        call.administrator, _subject(call), [call.path["device_id"]]
    )
    return {}


@routes.post("/v2/users/{user_id}/delete_devices", auth=Auth.ADMIN, body=DevicesBody)
async def end_devices(call: Call[DevicesBody]) -> JsonObject:
    """Sign several devices out."""
    await call.services.people.end_devices(call.administrator, _subject(call), call.body.devices)
    return {}


def _device(user_id: UserID, device: Device) -> JsonObject:
    return {
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_user_agent": device.last_seen_agent,
        "last_seen_ts": device.last_seen_ms,
        "user_id": user_id,
    }


# region rooms


@routes.get("/v1/users/{user_id}/joined_rooms", auth=Auth.ADMIN)
async def joined_rooms(call: Call[None]) -> JsonObject:
    """List the rooms that somebody is in."""
    rooms = sorted(await call.services.room_reading.joined_rooms(_subject(call)))
    return {"joined_rooms": rooms, "total": len(rooms)}


@routes.get("/v1/users/{user_id}/memberships", auth=Auth.ADMIN)
async def memberships(call: Call[None]) -> JsonObject:
    """List the rooms that somebody has to do with, and how."""
    return {"memberships": await call.services.room_reading.memberships(_subject(call))}


def _subject(call: Call[Any]) -> UserID:
    return parse_user_id(call.path["user_id"])
