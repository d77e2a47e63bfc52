"""How the other programs are started: as `python -m PACKAGE --config FILE --data DIR ...`.

They are executed and never imported, so that each of them can be deployed alone.
"""

import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path

from yizhan_config.errors import ConfigurationError
from yizhan_config.settings import FILE_NAME

SYSTEM_CONFIG = Path("/etc/yizhan") / FILE_NAME


def find_files(config: str | None, data: str | None) -> tuple[Path | None, Path | None]:
    """Complete what was typed: /etc/yizhan/yizhan.toml, else the folder `data` right here."""
    if config is None and data is None:
        if SYSTEM_CONFIG.exists():
            return SYSTEM_CONFIG, None
        here = Path("data")
        if (here / FILE_NAME).exists():
            return None, here.absolute()
        raise ConfigurationError(
            f"这里没有驿站的数据（没有 {SYSTEM_CONFIG}，也没有 data/{FILE_NAME}）；"
            "请加上 --data 目录，或先运行 yizhan init。",
            f"there is no Yizhan here (neither {SYSTEM_CONFIG} nor data/{FILE_NAME}); "
            "add --data DIR, or run yizhan init first.",
        )
    return (
        Path(config).absolute() if config is not None else None,
        Path(data).absolute() if data is not None else None,
    )


def command_line(
    package: str, config: Path | None, data: Path | None, arguments: Sequence[str] = ()
) -> list[str]:
    """Return the command that runs `package` in this very Python."""
    files = [
        *(["--config", str(config)] if config else []),
        *(["--data", str(data)] if data else []),
    ]
    # -P: a folder of the same name in the working directory must not win over the package.
    return [sys.executable, "-P", "-m", package, *files, *arguments]


def check_data_folder(folder: Path) -> None:
    """Refuse a data folder that is absent, or to act as root on somebody else's.

    Files that root creates beside the database could not be opened by the programs afterwards.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"没有数据目录 {folder}；请运行 yizhan init，或用 --data 指出正确的目录。",
            f"there is no data folder {folder}; run yizhan init, or name the right one by --data.",
        )
    owner = folder.stat().st_uid
    if os.geteuid() != 0 or owner == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    typed = " ".join(["yizhan", *sys.argv[1:]])
    raise ConfigurationError(
        f"{folder} 属于用户 {name}；请运行 sudo -u {name} {typed}",
        f"{folder} belongs to the user {name}; run sudo -u {name} {typed}",
    )
