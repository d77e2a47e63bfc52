"""Python programs of others, each in a virtual environment of its own.

What they ask for need not agree with what we have pinned. An environment is made in `.cache` when
it is first asked for, from the Python package index.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

_CACHE = Path(__file__).parents[2] / ".cache"


def environment_with(*requirements: str) -> Path:
    """Return the interpreter of an environment with these; the first requirement names it.

    Raises RuntimeError with pip's words when the installation fails. Safe in parallel: the mark
    that it is whole is written last, and holds what was asked for.
    """
    name = requirements[0].partition("==")[0]
    folder = _CACHE / name
    python = folder / "bin" / "python"
    mark = folder / ".installed"
    wanted = "\n".join(requirements)
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / f"{name}-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if mark.is_file() and mark.read_text() == wanted:
            return python
        shutil.rmtree(folder, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", *requirements],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{name} could not be installed:\n{done.stdout}{done.stderr}")
        mark.write_text(wanted)
    return python
