"""Push rules and pushers.

Spec: client-server API, "Push Notifications".
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from yizhan_server.accounts.pushers import to_json
from yizhan_server.api.routing import Call, JsonObject, Routes
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.push_rules import check_kind

routes = Routes()


class EnabledBody(msgspec.Struct):
    """What `PUT .../enabled` holds."""

    enabled: bool


class ActionsBody(msgspec.Struct):
    """What `PUT .../actions` holds."""

    actions: list[Any]


_RULE = "/v3/pushrules/global/{kind}/{rule_id}"


@routes.get("/v3/pushrules/")
async def list_rules(call: Call[None]) -> JsonObject:
    """List all rules, by scope."""
    return {"global": await call.services.push_rules.get(call.requester.user_id)}


@routes.get("/v3/pushrules/global/")
async def list_global_rules(call: Call[None]) -> JsonObject:
    """List all rules of the one scope that there is."""
    return await call.services.push_rules.get(call.requester.user_id)


@routes.get("/v3/pushrules/global/{kind}/")
async def list_rules_of_kind(call: Call[None]) -> bytes:
    """List the rules of one kind: gone from the specification, still asked for."""
    kind = check_kind(call.path["kind"])
    rules = await call.services.push_rules.get(call.requester.user_id)
    return orjson.dumps(rules[kind])


@routes.get(
    "/v3/pushrules/global",
    also=(
        "/v3/pushrules/global/{kind}", "/v3/pushrules/{scope}/",
        "/v3/pushrules/{scope}/{kind}/{rule_id}", _RULE + "/{attribute}",
    ),
)  # fmt: skip
@routes.put(
    "/v3/pushrules/",
    also=(
        "/v3/pushrules/global", "/v3/pushrules/global/{kind}", "/v3/pushrules/global/{kind}/",
        "/v3/pushrules/{scope}/{kind}/{rule_id}", _RULE + "/{attribute}",
    ),
)  # fmt: skip
async def name_no_rule(call: Call[None]) -> JsonObject:
    """Refuse a path that names neither a rule nor a list of them."""
    raise InvalidParam("A push rule is named by the scope 'global', its kind and its id")


@routes.get(_RULE)
async def get_rule(call: Call[None]) -> JsonObject:
    """Show a rule."""
    return await call.services.push_rules.get_rule(call.requester.user_id, *_rule(call))


@routes.put(_RULE, body=dict)
async def put_rule(call: Call[dict[str, Any]]) -> JsonObject:
    """Add or change a rule."""
    await call.services.push_rules.put_rule(
        call.requester.user_id,
        *_rule(call),
        call.body,
        before=call.query("before"),
        after=call.query("after"),
    )
    return {}


@routes.delete(_RULE)
async def delete_rule(call: Call[None]) -> JsonObject:
    """Remove a rule."""
    await call.services.push_rules.delete_rule(call.requester.user_id, *_rule(call))
    return {}


@routes.get(_RULE + "/enabled")
async def is_rule_enabled(call: Call[None]) -> JsonObject:
    """Tell whether a rule is enabled."""
    rule = await call.services.push_rules.get_rule(call.requester.user_id, *_rule(call))
    return {"enabled": rule["enabled"]}


@routes.put(_RULE + "/enabled", body=EnabledBody)
async def set_rule_enabled(call: Call[EnabledBody]) -> JsonObject:
    """Enable or disable a rule."""
    await call.services.push_rules.set_enabled(
        call.requester.user_id, *_rule(call), enabled=call.body.enabled
    )
    return {}


@routes.get(_RULE + "/actions")
async def get_rule_actions(call: Call[None]) -> JsonObject:
    """Show what a rule does."""
    rule = await call.services.push_rules.get_rule(call.requester.user_id, *_rule(call))
    return {"actions": rule["actions"]}


@routes.put(_RULE + "/actions", body=ActionsBody)
async def set_rule_actions(call: Call[ActionsBody]) -> JsonObject:
    """Change what a rule does."""
    await call.services.push_rules.set_actions(
        call.requester.user_id, *_rule(call), call.body.actions
    )
    return {}


@routes.get("/v3/pushers")
async def list_pushers(call: Call[None]) -> JsonObject:
    """List one's pushers."""
    pushers = await call.services.pushers.find_all(call.requester.user_id)
    return {"pushers": [to_json(pusher) for pusher in pushers]}


@routes.post("/v3/pushers/set", body=dict)
async def set_pusher(call: Call[dict[str, Any]]) -> JsonObject:
    """Create, change or delete a pusher."""
    await call.services.pushers.set(call.requester, call.body)
    return {}


def _rule(call: Call[Any]) -> tuple[str, str]:
    return call.path["kind"], call.path["rule_id"]
