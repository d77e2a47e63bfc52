"""Whether a program answers: `python -m yizhan_config.health URL` exits 0 if it does.

The health checks of the containers run it, because an image has no curl.
"""

import http.client
import sys
from urllib.parse import urlsplit

_TIMEOUT_SECONDS = 5


def is_healthy(url: str) -> bool:
    """Whether a plain HTTP GET of `url` answers 200. Blocks, for a few seconds at most."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port or 80, timeout=_TIMEOUT_SECONDS
    )
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_healthy(sys.argv[1]))
