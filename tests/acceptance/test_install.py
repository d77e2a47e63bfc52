"""The administrator's first day, as docs/operations/install.md tells it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from yizhan_testing.install_guide import Machine, find_unprivileged_user, shell_blocks
from yizhan_testing.installation import Process, Talk
from yizhan_testing.js_client import JsClient
from yizhan_testing.named_machines import make_certificates, name_in_hosts
from yizhan_testing.stand_ins import free_ports
from yizhan_testing.town import share_room

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.geteuid() != 0 or not os.access("/etc/hosts", os.W_OK),
        reason="only root may write a name into /etc/hosts and open port 443",
    ),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing"),
]

NAME = "yizhan-first-day.test"


def people(count: int) -> str:
    """Return the file that an institution brings."""
    lines = [f"p{number},员工{number},办公室,p{number}@{NAME}\n" for number in range(1, count + 1)]
    return "localpart,display_name,department,email\n" + "".join(lines)


def passwords_of(sheet: str) -> dict[str, str]:
    """Return what the cards say, by user id."""
    cards = re.findall(
        r"Matrix ID</dt><dd>(\S+)</dd>\s*<dt>[^<]*Password</dt><dd>(\S+)</dd>", sheet
    )
    return dict(cards)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine whose folders everybody may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="yizhan-first-day-") as folder:
        Path(folder).chmod(0o755)
        yield Machine(Path(folder), NAME, find_unprivileged_user())


async def test_from_nothing_to_two_hundred_people_who_find_the_server_by_its_name(
    machine: Machine,
) -> None:
    address = str(ipaddress.IPv4Address("127.77.0.0") + 1 + os.getpid() % 60_000)
    client, gateway, bots = free_ports(3)
    elsewhere = [
        f"listen.client=127.0.0.1:{client}",
        f"push_gateway.listen=127.0.0.1:{gateway}",
        f"bots.listen=127.0.0.1:{bots}",
        f'outbound.allow=["127.0.0.1:{gateway}"]',
        f"listen.tls={address}:443",
    ]
    ca = make_certificates(machine.home, NAME)
    async with AsyncExitStack() as stack:
        stack.enter_context(name_in_hosts(NAME, address))

        async def signs_in(user_id: str, password: str) -> JsClient:
            signed_in = await JsClient.start(None, user_id, password, ca=ca)
            stack.push_async_callback(signed_in.close)
            return signed_in

        (block,) = shell_blocks("2. Make a user")
        await machine.runs(block)
        (block,) = shell_blocks("3. Write the configuration")
        options = "".join(f" --set='{option}'" for option in elsewhere)
        said = await machine.runs(block.replace("yizhan init", f"yizhan init{options}"))
        assert "Configuration, keys and secrets are in" in said

        _, start, first_password, checks = shell_blocks("4. Start")

        async def starts() -> Process:
            running = await Process.start(
                ["bash", "-c", f"exec {machine.here(start)}"], machine.environment
            )
            stack.push_async_callback(running.end)
            await running.until("Ctrl-C stops everything", within=120)
            return running

        running = await starts()
        printed = await machine.runs(first_password)
        ((admin_id, admin_password),) = re.findall(
            rf"^(@admin:{NAME}) (\S+)$", printed, re.MULTILINE
        )
        said = await machine.runs(checks.replace("\n", " && echo\n"), CURL_CA_BUNDLE=str(ca))
        well_known, server, versions = (json.loads(line) for line in json_lines(said))
        assert well_known["m.homeserver"]["base_url"] == f"https://{NAME}"
        assert server == {"m.server": f"{NAME}:443"}
        assert "v1.11" in versions["versions"]

        (machine.home / "people.csv").write_text(people(200), encoding="utf-8")
        imported, fetched = shell_blocks("5. Bring in the people")
        assert "200" in await machine.runs(imported)
        await machine.runs(fetched)
        cards = passwords_of((machine.home / "cards.html").read_text(encoding="utf-8"))
        assert len(cards) == 200
        assert not (machine.data / "cards.html").exists()

        admin = await signs_in(admin_id, admin_password)
        await admin.sets_up_identity()
        (block,) = shell_blocks("6. Sign in")
        said = await machine.runs(block)
        assert (await admin.identity())["master_key"] in "".join(said.split())

        alice_id, bob_id = f"@p1:{NAME}", f"@p200:{NAME}"
        alice = await signs_in(alice_id, cards[alice_id])
        bob = await signs_in(bob_id, cards[bob_id])
        assert alice.base_url == f"https://{NAME}"
        await asyncio.gather(alice.sets_up_identity(), bob.sets_up_identity())
        room = await share_room(alice, bob)
        sent = await alice.says(room, "第一天")
        read = await bob.reads("第一天", room=room)
        assert (read.event_id, read.encrypted) == (sent, True)
        bot = f"@yizhan:{NAME}"
        direct = await alice.creates_room(invite=[bot], direct=True)
        await Talk(alice, direct, bot).hears("请您审批：驿站助手 练习")

        daily, lost_password = shell_blocks("Daily work")
        said = await machine.runs(daily)
        assert f"@zhao:{NAME}" in said
        new_password = re.search(r"\S+-\S+-\S+-\S+", await machine.runs(lost_password))
        assert new_password is not None

        # The long polls of the clients do not hold up the end.
        assert await running.end(within=9) == 0
        await starts()
        await bob.reloads()
        assert (await bob.reads(event_id=sent)).body == "第一天"
        await bob.says(room, "第二天")
        assert (await alice.reads("第二天", room=room)).encrypted
        await Talk(alice, direct, bot).asks("3", "等您审批的有 1 件")
        assert f"{bob_id}" in await machine.runs(daily.splitlines()[0])
        await signs_in(admin_id, new_password[0])


def json_lines(text: str) -> list[str]:
    """Return the lines that are objects; curl says more where its output is no terminal."""
    return [line for line in text.splitlines() if line.startswith("{")]
