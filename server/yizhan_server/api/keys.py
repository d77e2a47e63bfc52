"""Public keys: upload, query, claim, changes, cross-signing.

Spec: client-server API, "Key management API", "Cross-signing".
"""

from __future__ import annotations

from functools import partial

from yizhan_server.accounts.confirmation import reset_needed
from yizhan_server.api.confirming import require_confirmation
from yizhan_server.api.routing import Call, JsonObject, Routes
from yizhan_server.appservices.accounts import device_needed
from yizhan_server.e2ee.input import check_object
from yizhan_server.e2ee.remote_keys import timeout_of

routes = Routes()


@routes.post("/v3/keys/upload", body=dict)
async def upload_keys(call: Call[JsonObject]) -> JsonObject:
    """Publish the keys of the device that calls."""
    requester = call.requester
    if not requester.device_id:
        raise device_needed()
    counts = await call.services.e2ee_keys.upload(requester.user_id, requester.device_id, call.body)
    return {"one_time_key_counts": counts}


@routes.post("/v3/keys/query", body=dict)
async def query_keys(call: Call[JsonObject]) -> JsonObject:
    """Look up the identity keys of people's devices."""
    wanted = check_object(call.body.get("device_keys"), "'device_keys'")
    return await call.services.key_queries.query(
        call.requester.user_id, wanted, timeout_of(call.body)
    )


@routes.post("/v3/keys/claim", body=dict)
async def claim_keys(call: Call[JsonObject]) -> JsonObject:
    """Take one-time keys of people's devices."""
    wanted = check_object(call.body.get("one_time_keys"), "'one_time_keys'")
    return await call.services.e2ee_keys.claim(wanted, timeout_of(call.body))


@routes.get("/v3/keys/changes")
async def list_key_changes(call: Call[None]) -> JsonObject:
    """List whose devices changed between two sync tokens."""
    changed, left = await call.services.device_lists.changed_between(
        call.requester.user_id, call.query_required("from"), call.query_required("to")
    )
    return {"changed": changed, "left": left}


@routes.post(
    "/v3/keys/device_signing/upload",
    body=dict,
    also=("/unstable/keys/device_signing/upload",),
)
async def upload_cross_signing_keys(call: Call[JsonObject]) -> JsonObject:
    """Publish one's cross-signing keys."""
    auth = call.body.get("auth")
    if auth is not None:
        check_object(auth, "'auth'")
    await call.services.cross_signing.upload(
        call.requester.user_id, call.body, partial(_confirm_new_identity, call, auth)
    )
    return {}


async def _confirm_new_identity(call: Call[JsonObject], auth: JsonObject | None) -> None:
    """Return when the owner wants other cross-signing keys, or answer what is to be done for it."""
    services, requester = call.services, call.requester
    if requester.appservice is not None:
        return
    if await services.identity_resets.use_up(requester.user_id):
        return
    account = await services.accounts.find_active(requester.user_id)
    has_password = account is not None and account.password_hash is not None
    if has_password and not await services.oauth_grants.is_oauth(requester):
        await require_confirmation(call, auth)
        return
    # Such a client has never seen a password, and is not to ask for one.
    page = services.auth_metadata["account_management_uri"]
    raise reset_needed(f"{page}?action=org.matrix.cross_signing_reset")


@routes.post("/v3/keys/signatures/upload", body=dict, also=("/unstable/keys/signatures/upload",))
async def upload_signatures(call: Call[JsonObject]) -> JsonObject:
    """Publish signatures of one's own keys and of others' master keys."""
    failures = await call.services.signature_uploads.upload(call.requester.user_id, call.body)
    return {"failures": failures}
