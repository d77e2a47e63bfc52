"""docker-compose.yml: every service by its very command, on PostgreSQL, and two who chat there."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import asyncpg  # type: ignore[import-untyped]
import pytest

from yizhan_testing.compose import ROOT, Composition
from yizhan_testing.databases import EmbeddedPostgres
from yizhan_testing.installation import Talk
from yizhan_testing.js_client import JsClient
from yizhan_testing.stand_ins import free_ports
from yizhan_testing.town import share_room

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PASSWORD = "correct horse battery staple"
SERVICES = ("homeserver", "push-gateway", "bots")


async def prepare(server: EmbeddedPostgres, composition: Composition) -> None:
    """Do what PostgreSQL's image does at its first start, with the file's own environment."""
    variables = composition.environment("postgres")
    name, password = variables["POSTGRES_USER"], variables["POSTGRES_PASSWORD"]
    connection = await asyncpg.connect(server.url())
    try:
        await connection.execute(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{password}'")
        await connection.execute(
            f"CREATE DATABASE {variables['POSTGRES_DB']} OWNER {name}"
            " TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
        )
        (script,) = (
            path.partition(":")[0]
            for path in composition.services["postgres"]["volumes"]
            if ":/docker-entrypoint-initdb.d/" in path
        )
        await connection.execute((ROOT / script).read_text(encoding="utf-8"))
    finally:
        await connection.close()


def check_postgres(server: EmbeddedPostgres, composition: Composition) -> None:
    """Run the health check of the service as its container would."""
    mark, *words = composition.services["postgres"]["healthcheck"]["test"]
    assert mark == "CMD"
    # In the container the programs of PostgreSQL are in the PATH, and its port is the usual one.
    environment = {"PGHOST": "127.0.0.1", "PGPORT": str(composition.ports[5432])}
    subprocess.run([server.programs / words[0], *words[1:]], env=environment, check=True)


async def test_two_people_chat_on_the_services_of_the_compose_file(tmp_path: Path) -> None:
    data = tmp_path / "volume"
    data.mkdir(mode=0o700)
    client_port, *others = free_ports(4)
    ports = dict(zip((8008, 8009, 8010, 5432), (client_port, *others), strict=True))
    variables = {
        "YIZHAN_SERVER_NAME": "a.test",
        "YIZHAN_PUBLIC_URL": "https://im.a.test",
        "POSTGRES_PASSWORD": "a-long-random-text",
    }
    server = await asyncio.to_thread(EmbeddedPostgres, port=ports[5432])
    async with AsyncExitStack() as stack:
        stack.callback(server.stop)
        composition = stack.enter_context(Composition(data, variables, ports))
        await prepare(server, composition)
        check_postgres(server, composition)
        await asyncio.to_thread(composition.run, "setup")
        for service in SERVICES:
            composition.start(service)
            await asyncio.to_thread(composition.wait_healthy, service)

        first = composition.execute("homeserver", "cat", "/data/first-start.txt")
        assert "@admin:a.test " in first

        async def joins(localpart: str) -> JsClient:
            words = ("user", "add", localpart, "--password-stdin", "--json", "--data", "/data")
            said = await asyncio.to_thread(
                composition.execute, "homeserver", "yizhan", *words, typed=PASSWORD
            )
            user_id = json.loads(said)["user_id"]
            client = await JsClient.start(f"http://127.0.0.1:{client_port}", user_id, PASSWORD)
            stack.push_async_callback(client.close)
            await client.sets_up_identity()
            return client

        alice, bob = await asyncio.gather(joins("alice"), joins("bob"))
        room = await share_room(alice, bob)
        sent = await alice.says(room, "你好")
        read = await bob.reads("你好", room=room)
        assert (read.event_id, read.encrypted) == (sent, True)
        direct = await alice.creates_room(invite=["@yizhan:a.test"], direct=True)
        await Talk(alice, direct, "@yizhan:a.test").hears("请您审批：驿站助手 练习")

        assert composition.stop("homeserver") == 0
        composition.start("homeserver")
        await asyncio.to_thread(composition.wait_healthy, "homeserver")
        await bob.says(room, "还在")
        assert (await alice.reads("还在", room=room)).encrypted
        await Talk(alice, direct, "@yizhan:a.test").asks("3", "等您审批的有 1 件")
        assert not (data / "homeserver.db").exists()
        for service in SERVICES:
            assert composition.stop(service) == 0
