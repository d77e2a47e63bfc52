"""A document of docs/operations carried out: its own commands, on a machine within a folder.

What differs from install.md, and from what goes on from there, is here, and only here: the folders
of the system lie within `root`; the user is `nobody`, who exists everywhere, in place of one made
by `useradd`; `sudo` is a few lines, since who runs this is root already; the program is the one
under test.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from yizhan_testing.compose import ROOT

GUIDE = ROOT / "docs/operations/install.md"
_EXAMPLE_NAME, _OTHER_NAME = "example.gov.cn", "other.gov.cn"
_SUDO = """#!/bin/sh
if [ "$1" = -u ]; then
  user=$2; shift 2
  exec setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups -- "$@"
fi
exec "$@"
"""


def shell_blocks(section: str, guide: Path = GUIDE, language: str = "sh") -> list[str]:
    """Return the blocks of shell commands in the section whose heading holds `section`."""
    text = guide.read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    (body,) = (
        body for heading, body in zip(parts[1::2], parts[2::2], strict=True) if section in heading
    )
    return re.findall(rf"^```{language}\n(.*?)^```$", body, flags=re.DOTALL | re.MULTILINE)


@dataclass
class Machine:
    """A machine named `name`, whose files lie in `root`; `other` is the one that it speaks with."""

    root: Path
    name: str
    user: str
    other: str = "other.gov.cn"
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the folders and the programs that the document takes for granted."""
        programs = self.root / "usr/local/bin"
        for folder in (programs, self.root / "var/lib", self.root / "etc", self.home):
            folder.mkdir(parents=True, exist_ok=True)
        call = "from yizhan_config.command import main; main()"
        for program, text in {
            "sudo": _SUDO,
            "yizhan": f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -c "{call}" "$@"\n',
        }.items():
            (programs / program).write_text(text)
            (programs / program).chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "LANG": "en_US.UTF-8",
            "HOME": str(self.home),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @property
    def home(self) -> Path:
        """The administrator's current folder."""
        return self.root / "root"

    @property
    def data(self) -> Path:
        """The data folder of the document."""
        return self.root / "var/lib/yizhan"

    def here(self, block: str) -> str:
        """Return a block of the document for this machine."""
        group = subprocess.check_output(["id", "-gn", self.user], text=True).strip()
        text = block.replace(_EXAMPLE_NAME, self.name).replace(_OTHER_NAME, self.other)
        text = re.sub(
            r"(?<![\w.])/(var/lib/yizhan|etc/yizhan|usr/local/bin)\b", rf"{self.root}/\1", text
        )
        text = re.sub(r"(-o|-u|--reuid) yizhan\b", rf"\1 {self.user}", text)
        text = re.sub(r"(-g|--regid) yizhan\b", rf"\1 {group}", text)
        return re.sub(r"^sudo useradd .*\n", "", text, flags=re.MULTILINE)

    async def runs(self, block: str, **more: str) -> str:
        """Run a block as an administrator would type it; returns what it printed."""
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-e", "-o", "pipefail", "-c", self.here(block)],
            cwd=self.home,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}"
        return done.stdout


def find_unprivileged_user() -> str:
    """Return `nobody`, or root where nobody else may read the program under test."""
    user = pwd.getpwnam("nobody")
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import yizhan_config"],
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            check=False,
            capture_output=True,
        )
    except PermissionError:
        return "root"
    return "nobody" if done.returncode == 0 else "root"
