"""Two administrators bring their servers together, as docs/operations/federation.md tells it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from yizhan_testing.compose import ROOT
from yizhan_testing.install_guide import Machine, find_unprivileged_user, shell_blocks
from yizhan_testing.installation import Process
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
    pytest.mark.skipif(
        shutil.which("curl") is None or shutil.which("openssl") is None,
        reason="curl or openssl is missing",
    ),
]

GUIDE = ROOT / "docs/operations/federation.md"
NAMES = ("yizhan-here.test", "yizhan-there.test")
FIRST_ADDRESS = 1 + os.getpid() % 60_000


def address(number: int) -> str:
    """Return an address of the loopback for one of the machines."""
    host = 2 * FIRST_ADDRESS + number
    return f"127.{78 + host // 65_536}.{host // 256 % 256}.{host % 256}"


@dataclass
class Side:
    """One administrator with the machine, and what is needed to be reached on it."""

    machine: Machine
    address: str
    ca: Path
    running: Process | None = None

    async def installs(self) -> None:
        """Carry out install.md."""
        client, gateway, bots = free_ports(3)
        settings = [
            f"listen.client=127.0.0.1:{client}",
            f"push_gateway.listen=127.0.0.1:{gateway}",
            f"bots.listen=127.0.0.1:{bots}",
            f'outbound.allow=["127.0.0.1:{gateway}"]',
            f"listen.tls={self.address}:443",
            # Machines of a test are at the loopback, which no real other server is.
            'federation.private_addresses=["127.0.0.0/8"]',
        ]
        (block,) = shell_blocks("2. Make a user")
        await self.machine.runs(block)
        (block,) = shell_blocks("3. Write the configuration")
        options = "".join(f" --set='{option}'" for option in settings)
        await self.machine.runs(block.replace("yizhan init", f"yizhan init{options}"))

    async def starts(self) -> None:
        """Start the programs by the one command, where there is no systemd."""
        _, start, _, _ = shell_blocks("4. Start")
        self.running = await Process.start(
            ["bash", "-c", f"exec {self.machine.here(start)}"], self.machine.environment
        )
        await self.running.until("Ctrl-C stops everything", within=120)

    async def ends(self) -> None:
        """End them."""
        if self.running is not None:
            assert await self.running.end(within=20) == 0

    def lets_the_other_in(self) -> None:
        """Write what the document says below the line that it names."""
        (lines,) = guided("From nothing", "toml")
        file = self.machine.data / "yizhan.toml"
        text = file.read_text(encoding="utf-8")
        assert text.count("[federation]\n") == 1
        text = text.replace("[federation]\n", f"[federation]\n{self.machine.here(lines)}")
        file.write_text(text, encoding="utf-8")

    async def adds_person(self, localpart: str) -> tuple[str, str]:
        """Make an account; returns the user id and the password."""
        said = await self.machine.runs(
            f"sudo -u yizhan yizhan user add {localpart} --data /var/lib/yizhan"
        )
        password = re.search(r"\S+-\S+-\S+-\S+", said)
        assert password is not None, said
        return f"@{localpart}:{self.machine.name}", password[0]


def guided(section: str, language: str = "sh") -> list[str]:
    return shell_blocks(section, GUIDE, language)


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    """Two machines whose folders everybody may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="yizhan-federate-") as folder:
        Path(folder).chmod(0o755)
        made = []
        for number, name in enumerate(NAMES):
            root = Path(folder) / name
            root.mkdir(mode=0o755)
            machine = Machine(root, name, find_unprivileged_user(), NAMES[1 - number])
            made.append(Side(machine, address(number), make_certificates(machine.home, name)))
        here, there = made
        yield here, there


async def test_from_two_servers_to_an_encrypted_room_of_both(sides: tuple[Side, Side]) -> None:
    reach, trust, restart, check = guided("From nothing")
    assert "systemctl restart" in restart
    async with AsyncExitStack() as stack:
        for side in sides:
            stack.enter_context(name_in_hosts(side.machine.name, side.address))
            stack.push_async_callback(side.ends)
        await asyncio.gather(*(side.installs() for side in sides))
        await asyncio.gather(*(side.starts() for side in sides))

        here, there = sides
        for side, other in ((here, there), (there, here)):
            shutil.copy(other.ca, side.machine.home / "other-ca.pem")
            said = await side.machine.runs(reach)
            assert f'{{"m.server":"{other.machine.name}:443"}}' in said
            await side.machine.runs(trust)

        here.lets_the_other_in()
        await here.ends()
        await here.starts()
        # Half way, the check says what is missing, and where.
        with pytest.raises(AssertionError, match=f"add {here.machine.name} to its federation"):
            await here.machine.runs(check)
        there.lets_the_other_in()
        await there.ends()
        await there.starts()
        for side in sides:
            said = await side.machine.runs(check)
            assert said.rstrip().endswith("lets    this server in"), said

        async def signs_in(side: Side, localpart: str) -> JsClient:
            user_id, password = await side.adds_person(localpart)
            client = await JsClient.start(None, user_id, password, ca=side.ca)
            stack.push_async_callback(client.close)
            await client.sets_up_identity()
            return client

        li, wang = await signs_in(here, "li"), await signs_in(there, "wang")
        room = await share_room(li, wang)
        for speaker, reader, text in ((li, wang, "贵单位好"), (wang, li, "您好")):
            sent = await speaker.says(room, text)
            read = await reader.reads(text, room=room)
            assert (read.event_id, read.encrypted) == (sent, True)
