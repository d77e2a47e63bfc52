"""`python -m yizhan_server [--config FILE] [--data DIR] serve | user ... | federation ...`."""

import gc
import sys
from pathlib import Path

from yizhan_config import logs
from yizhan_config.errors import EXIT_STATUS, ConfigurationError
from yizhan_config.options import UsageError, take
from yizhan_config.settings import load
from yizhan_database import DatabaseUnavailable, OpeningRefused


def main() -> int:
    """Run what the first word names; returns the exit status."""
    try:
        typed = take(sys.argv[1:], ["config", "data"])
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201 (read by whoever typed it)
        return EXIT_STATUS
    if typed.words[:1] in (["user"], ["federation"]):
        # Imported only where needed: the commands of an administrator are not part of serving.
        from yizhan_server import federation_command, user_command  # noqa: PLC0415

        command = {"user": user_command.main, "federation": federation_command.main}
        files = [
            word
            for name in ("config", "data")
            if (value := typed.find(name)) is not None
            for word in (f"--{name}", value)
        ]
        return command[typed.words[0]]([*files, *typed.words[1:]])
    if typed.words != ["serve"]:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return EXIT_STATUS
    config, data = typed.find("config"), typed.find("data")
    gc.disable()  # until it serves: next to nothing of what is imported and built is garbage
    from yizhan_server.app import OtherInstallation  # noqa: PLC0415
    from yizhan_server.serving import run  # noqa: PLC0415

    try:
        settings = load(
            None if config is None else Path(config), None if data is None else Path(data)
        )
        logs.configure(settings.logging)
        run(settings)
    except (ConfigurationError, OpeningRefused, OtherInstallation) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_STATUS
    except DatabaseUnavailable as error:
        # It may come back: whoever supervises this program tries again.
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
