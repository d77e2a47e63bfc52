"""A real browser: Debian's Chromium without a screen, driven by its chromedriver.

It speaks the W3C's WebDriver protocol over HTTP, so no package is needed for it. The profile is
empty at each start.
"""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

PROGRAMS = {"chromium": "chromium", "chromedriver": "chromium-driver"}
"""Program, and the Debian package that has it."""

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
WAIT_S = 20.0


def missing() -> list[str]:
    """Return the Debian packages that this machine lacks."""
    return [package for program, package in PROGRAMS.items() if shutil.which(program) is None]


class Chromium:
    """One browser with one window."""

    def __init__(self, http: aiohttp.ClientSession, session_url: str) -> None:
        self._http = http
        self._url = session_url

    async def _command(self, method: str, path: str, body: Any = None) -> Any:
        async with self._http.request(
            method, self._url + path, json={} if body is None and method == "POST" else body
        ) as response:
            value = (await response.json())["value"]
            if response.status != 200:
                raise AssertionError(f"{path}: {value['error']}: {value['message']}")
            return value

    async def opens(self, url: str) -> None:
        """Go to an address; returns when the page is loaded."""
        await self._command("POST", "/url", {"url": url})

    async def address(self) -> str:
        return str(await self._command("GET", "/url"))

    async def text(self) -> str:
        """Return what the page says."""
        # By a script, for an element that was found may be of the page before.
        script = "return document.body ? document.body.innerText : ''"
        return str(await self._command("POST", "/execute/sync", {"script": script, "args": []}))

    async def types(self, selector: str, text: str) -> None:
        """Replace what stands in a field."""
        element = await self._find(selector)
        await self._command("POST", f"/element/{element}/clear")
        await self._command("POST", f"/element/{element}/value", {"text": text})

    async def presses(self, selector: str) -> None:
        element = await self._find(selector)
        await self._command("POST", f"/element/{element}/click")

    async def shows(self, *texts: str) -> str:
        """Wait until the page says all of `texts`; returns all that it says."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while True:
            shown = await self.text()
            if all(text in shown for text in texts):
                return shown
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{texts} not on {await self.address()}:\n{shown}")
            await asyncio.sleep(0.05)

    async def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        script = "return document.documentElement.scrollWidth - window.innerWidth"
        return int(await self._command("POST", "/execute/sync", {"script": script, "args": []}))

    async def complaints(self) -> list[str]:
        """Return what the console complains of: blocked styles, forms, redirects."""
        entries = await self._command("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    async def photographs(self, path: Path) -> None:
        """Keep a picture of the window."""
        picture = base64.b64decode(await self._command("GET", "/screenshot"))
        await asyncio.to_thread(path.write_bytes, picture)

    async def _find(self, selector: str) -> str:
        wanted = {"using": "css selector", "value": selector}
        return str((await self._command("POST", "/element", wanted))[_ELEMENT])


@asynccontextmanager
async def open_chromium(
    folder: Path, *, width: int = 390, height: int = 844, language: str = "en"
) -> AsyncIterator[Chromium]:
    """Start a browser with a window of a phone's size and its profile below `folder`."""
    driver = await asyncio.create_subprocess_exec(
        "chromedriver", "--port=0",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert driver.stdout is not None
    try:
        while b"started successfully on port" not in (line := await driver.stdout.readline()):
            assert line, "chromedriver ended at once"
        port = int(line.split(b"port")[1].strip(b" .\n"))
        base = f"http://127.0.0.1:{port}"
        arguments = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--no-proxy-server", "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}", f"--accept-lang={language}",
        ]  # fmt: skip
        metrics = {"width": width, "height": height, "pixelRatio": 2.0, "mobile": True}
        wanted = {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {
                "args": arguments,
                "mobileEmulation": {"deviceMetrics": metrics},
                "prefs": {"intl.accept_languages": language},
            },
        }
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
            body = {"capabilities": {"alwaysMatch": wanted}}
            async with http.post(f"{base}/session", json=body) as response:
                value = (await response.json())["value"]
            assert "sessionId" in value, value
            session = f"{base}/session/{value['sessionId']}"
            try:
                yield Chromium(http, session)
            finally:
                async with http.delete(session):
                    pass
    finally:
        driver.terminate()
        await driver.wait()
