"""No question that people ask of the newer services reads a whole table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from yizhan_config.settings import Retention as RetentionSettings
from yizhan_server.app import MIGRATIONS
from yizhan_server.clock import SystemClock
from yizhan_server.rooms.retention import Retention
from yizhan_testing.databases import StatementRecorder, fresh_database
from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process
from yizhan_testing.media import uploads

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS: dict[str, Any] = {
    "registration.guests": True,
    "server_notices.localpart": "notices",
    "retention.enabled": True,
    "url_previews.enabled": True,
}
DELAY = "org.matrix.msc4140.delay=3600000"


async def asks_everything(homeserver: HomeserverInProcess) -> None:
    alice = await homeserver.person("alice", admin=True)
    bob = await homeserver.person("bob")
    space = await alice.creates_room(creation_content={"type": "m.space"}, invite=[bob])
    room = await alice.creates_room(
        room_version="11", preset="public_chat", room_alias_name="a", invite=[bob]
    )
    await alice.sets(space, "m.space.child", {"via": ["x"]}, room)
    await bob.joins(room)
    event = await alice.says(room, "你好")
    path = f"/v3/rooms/{quote(room)}"
    await alice.get(f"/v1/rooms/{quote(space)}/hierarchy")
    await bob.get(f"/v1/room_summary/{quote(room)}")
    await alice.get(f"/v1{path[3:]}/timestamp_to_event", ts="0", dir="f")
    await bob.get("/v1/mutual_rooms", user_id=alice.user_id)
    await bob.post(f"{path}/report/{quote(event)}", {"reason": "x"})
    await alice.get("/_synapse/admin/v1/event_reports")
    for order in ("rank", "recent"):
        wish: dict[str, Any] = {"search_term": "你好", "order_by": order, "event_context": {}}
        await bob.post("/v3/search", {"search_categories": {"room_events": wish}})
    account = f"/v3/user/{quote(bob.user_id)}/account_data"
    await bob.put(f"{account}/m.ignored_user_list", {"ignored_users": {alice.user_id: {}}})
    await alice.says(room, "有人吗")
    delayed = await alice.put(f"{path}/send/m.room.message/1?{DELAY}", {"body": "x"})
    delays = "/unstable/org.matrix.msc4140/delayed_events"
    await alice.get(delays)
    await alice.post(f"{delays}/{delayed['delay_id']}", {"action": "restart"})
    await alice.post(f"{delays}/{delayed['delay_id']}", {"action": "send"})
    await bob.get(f"/v1/media/preview_url?url={quote('https://127.0.0.1.nip.invalid/', safe='')}")
    await alice.post(f"{path}/upgrade", {"new_version": "12"})
    url = f"{homeserver.base_url}/_matrix/client/v3/register?kind=guest"
    async with homeserver.http.post(url, json={}) as response:
        assert response.status == 200
    await alice.sets(space, "m.room.guest_access", {"guest_access": "forbidden"})
    notice = {"user_id": bob.user_id, "content": {"body": "x"}}
    await alice.post("/_synapse/admin/v1/send_server_notice", notice)
    await administers(alice, bob)
    services = homeserver.parts.services
    settings = RetentionSettings(enabled=True, default_days=1)
    await Retention(services.db, SystemClock(), services.rooms, settings).erase_due()
    await services.url_previews.tidy()


async def administers(admin: Person, bob: Person) -> None:
    """Look at and act upon everything that administrators can."""
    prefix, user = "/_synapse/admin", quote(bob.user_id)
    room = await bob.creates_room(room_alias_name="administered")
    mxc = (await uploads(bob, b"x")).partition("/")[2]
    event = await bob.says(room, "x", url=f"mxc://test.example/{mxc}")
    for what in (
        "v2/users", f"v2/users/{user}", f"v2/users/{user}/devices", f"v1/whois/{user}",
        f"v1/users/{user}/joined_rooms", f"v1/users/{user}/memberships", f"v1/users/{user}/media",
        "v1/rooms", f"v1/rooms/{quote(room)}", f"v1/rooms/{quote(room)}/members",
        f"v1/rooms/{quote(room)}/state", f"v1/rooms/{quote(room)}/state?type=m.room.name",
        f"v1/rooms/{quote(room)}/block", f"v1/room/{quote(room)}/media",
        f"v1/media/test.example/{mxc}",
    ):  # fmt: skip
        await admin.get(f"{prefix}/{what}")
    await admin.get("/_yizhan/admin/v1/joins")
    await admin.get("/_yizhan/admin/v1/record")
    await admin.post(f"{prefix}/v1/room/{quote(room)}/media/quarantine", {})
    await admin.delete(f"{prefix}/v1/users/{user}/media")
    purge = {"delete_local_events": True}
    begun = await admin.post(f"{prefix}/v1/purge_history/{quote(room)}/{quote(event)}", purge)
    while (await admin.get(f"{prefix}/v1/purge_history_status/{begun['purge_id']}"))[
        "status"
    ] == "active":
        pass
    await admin.delete(f"{prefix}/v1/rooms/{quote(room)}", {"block": True})


async def test_the_services_read_no_whole_table(tmp_path: Path) -> None:
    # The tables are made before anybody listens.
    await fresh_database("sqlite", MIGRATIONS, tmp_path / "first")
    with StatementRecorder() as recorder:
        async with homeserver_in_process(tmp_path, "sqlite", **SETTINGS) as homeserver:
            await asks_everything(homeserver)
    [file] = tmp_path.glob("test*.db")
    assert recorder.full_scans(file) == []
    assert any("search_text MATCH ?" in sql for sql in recorder.statements)
