"""OAuth sign-in of matrix-js-sdk: through the consent page in a real browser, and by a code."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from yizhan_testing import chromium
from yizhan_testing.browser_sign_in import (
    AT_HOME,
    WayBack,
    open_homeserver,
    open_way_back,
    signs_in,
)
from yizhan_testing.chromium import Chromium, open_chromium
from yizhan_testing.driven_program import ProgramError
from yizhan_testing.js_client import JsClient
from yizhan_testing.town import PASSWORD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        bool(chromium.missing()),
        reason=f"needs {', '.join(chromium.missing())}: see debian-packages.txt",
    ),
]

KEEP = os.environ.get("YIZHAN_SCREENSHOTS")
"""A folder for the pictures that the documentation shows, docs/images; nowhere by default."""


class Application:
    """A native application: matrix-js-sdk, and the way back to it."""

    def __init__(self, client: JsClient, way_back: WayBack) -> None:
        self.client = client
        self.way_back = way_back

    async def step(self, step: str, within: float = 30, **params: Any) -> dict[str, Any]:
        return await self.client.call("oauth", within, step=step, **params)

    async def registers(self, base_url: str) -> dict[str, Any]:
        return await self.step(
            "registers",
            baseUrl=base_url,
            clientName="Letterbox",
            clientUri="https://letterbox.example/",
            redirectUri=self.way_back.redirect_uri,
        )

    async def came_back(self) -> dict[str, str]:
        """Wait for the browser; returns the answer that it brings."""
        return dict(URL(await self.way_back.address).query)


@asynccontextmanager
async def open_application() -> AsyncIterator[Application]:
    async with open_way_back() as way_back:
        client = await JsClient.launch()
        try:
            yield Application(client, way_back)
        finally:
            await client.close()


async def keeps(browser: Chromium, name: str) -> None:
    """Check that the page fits a phone and nothing of it was blocked; keep its picture if asked."""
    assert await browser.overflow() <= 0
    assert [text for text in await browser.complaints() if "favicon" not in text] == []
    if KEEP:
        await browser.photographs(Path(KEEP) / f"{name}.png")


async def test_an_application_signs_in_through_the_consent_page(tmp_path: Path) -> None:
    async with (
        open_homeserver(tmp_path / "server") as server,
        open_application() as app,
        open_chromium(tmp_path / "chromium") as browser,
    ):
        user_id = await server.register("zhang", PASSWORD)
        registered = await app.registers(server.base_url)
        await browser.opens((await app.step("url", state="seven"))["url"])
        await browser.shows("Sign in")
        await keeps(browser, "account-sign-in")
        await signs_in(browser, "zhang")
        await browser.shows("Allow Letterbox to sign in?", "letterbox.example")
        await keeps(browser, "account-consent")
        await browser.presses("button[value=allow]")
        await browser.shows(AT_HOME)
        answer = await app.came_back()
        assert answer["state"] == "seven"

        tokens = await app.step("completes", code=answer["code"])
        await app.client.signs_in(
            server.base_url, user_id, access_token=tokens["access_token"],
            device_id=registered["device_id"],
        )  # fmt: skip
        await app.client.starts_syncing()
        await app.client.sets_up_identity()
        room = await app.client.creates_room()
        await app.client.says(room, "from the application")
        assert (await app.client.reads("from the application", room=room)).encrypted

        renewed = await app.step("refreshes")
        assert renewed["access_token"] != tokens["access_token"]
        await app.step("revokes")
        with pytest.raises(ProgramError):
            await app.step("refreshes")


async def test_a_device_without_a_browser_is_let_in_by_its_code(tmp_path: Path) -> None:
    async with (
        open_homeserver(tmp_path / "server") as server,
        open_application() as app,
        open_chromium(tmp_path / "chromium", language="zh-CN") as browser,
    ):
        user_id = await server.register("zhang", PASSWORD)
        registered = await app.registers(server.base_url)
        started = await app.step("beginsOnDevice")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(app.step("completesOnDevice", 60))
            await browser.opens(started["verification_uri"])
            await browser.shows("登录")
            await signs_in(browser, "zhang")
            await browser.shows("设备上显示的代码")
            await keeps(browser, "account-device-code")
            await browser.types("#user_code", started["user_code"].lower())
            await browser.presses("main form button")
            await browser.shows(started["user_code"], "Letterbox")
            await keeps(browser, "account-device-consent")
            await browser.presses("button[value=allow]")
            await browser.shows("已同意")

        tokens = waiting.result()
        await app.client.signs_in(
            server.base_url, user_id, access_token=tokens["access_token"],
            device_id=registered["device_id"],
        )  # fmt: skip
        await app.client.starts_syncing()
        assert [device["device_id"] for device in await app.client.sessions()] == [
            registered["device_id"]
        ]


async def test_who_lost_everything_gets_a_new_identity_by_the_account_page(
    tmp_path: Path,
) -> None:
    async with (
        open_homeserver(tmp_path / "server") as server,
        open_application() as app,
        open_chromium(tmp_path / "chromium", language="zh-CN") as browser,
    ):
        user_id = await server.register("zhang", PASSWORD)
        old = await JsClient.start(server.base_url, user_id, PASSWORD)
        await old.sets_up_identity()
        before = (await old.identity())["master_key"]
        await old.close()
        registered = await app.registers(server.base_url)
        await browser.opens((await app.step("url", state="s"))["url"])
        await signs_in(browser, "zhang")
        await browser.shows("Letterbox")
        await browser.presses("button[value=allow]")
        tokens = await app.step("completes", code=(await app.came_back())["code"])
        await app.client.signs_in(
            server.base_url, user_id, access_token=tokens["access_token"],
            device_id=registered["device_id"],
        )  # fmt: skip
        await app.client.starts_syncing()
        with pytest.raises(ProgramError) as refused:
            await app.client.resets_identity()
        assert refused.value.status == 401

        page = f"{server.base_url}/_yizhan/account/"
        await browser.opens(page)
        await browser.shows("重设加密身份")
        await keeps(browser, "account-overview")
        await browser.opens(f"{page}?action=org.matrix.cross_signing_reset")
        await browser.shows("会失去", "不会失去")
        await keeps(browser, "account-reset-identity")
        await browser.presses("main form button")
        await browser.shows("已允许重设")
        await keeps(browser, "account-reset-allowed")
        await browser.opens(f"{page}devices?lang=en")
        await browser.shows("Letterbox")
        await keeps(browser, "account-devices")

        await app.client.resets_identity()
        assert (await app.client.identity())["master_key"] != before
