"""The bot's pages: health for those who start it, and how to know that it is the right bot.

The emoji shown here are those of verifications in progress. A person compares them with the
client's: the page travels over TLS, another way than the messages of the verification.
"""

from __future__ import annotations

import asyncio
from html import escape
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from yizhan_bots.conversation import TrustOutcome
    from yizhan_bots.matrix.runner import Runner

# The spec's table of short authentication string emoji, in order.
SAS_EMOJI = (
    "🐶🐱🦁🐎🦄🐷🐘🐰🐼🐓🐧🐢🐟🐙🦋🌷🌳🌵🍄🌏🌙☁🔥🍌🍎🍓🌽🍕🎂❤😀🤖"
    "🎩👓🔧🎅👍☂⌛⏰🎁💡📕✏📎✂🔒🔑🔨☎🏁🚂🚲✈🚀🏆⚽🎸🎺🔔⚓🎧📁📌"
)


def office_pages(runner: Runner) -> web.Application:
    """The pages of `bots.listen`."""

    async def show_health(_: web.Request) -> web.Response:
        return web.json_response(
            {"status": "ok", "user_id": runner.user_id, "fingerprint": runner.fingerprint}
        )

    async def show_bot(_: web.Request) -> web.Response:
        return web.Response(text=_bot_page(runner), content_type="text/html")

    pages = web.Application()
    pages.router.add_get("/health", show_health)
    pages.router.add_get("/", show_bot)
    pages.router.add_get("/office/", show_bot)
    return pages


def _bot_page(runner: Runner) -> str:
    shown = [
        f"<p class=emoji>{' '.join(SAS_EMOJI[index] for index in indices)}</p>"
        for indices in runner.emoji
    ]
    return f"""<!doctype html>
<html lang="zh-CN"><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<meta name="viewport" content="width=device-width">
<title>驿站助手 Yizhan</title>
<style>body{{font:1rem/1.6 sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}}
.emoji{{font-size:2.5rem}}code{{overflow-wrap:anywhere}}</style>
<h1>驿站助手 <small>Yizhan assistant</small></h1>
<p>{escape(runner.user_id)}</p>
<p>身份指纹 · Fingerprint<br><code>{escape(runner.fingerprint)}</code></p>
<h2>正在验证 · Verifications in progress</h2>
{"".join(shown) or "<p>无 · none</p>"}
<p>与您客户端上的表情一致，才确认。 Confirm only if your client shows the same emoji.</p>
</html>"""


def control_pages(trust: Callable[[str, str], Awaitable[TrustOutcome]]) -> web.Application:
    """What `yizhan bots trust` asks of the running bot, over a socket only its owner opens."""

    async def take_trust(request: web.Request) -> web.Response:
        body = await request.json()
        outcome = await trust(str(body["user_id"]), str(body["fingerprint"]))
        return web.json_response({"trust": outcome.trust.value, "fingerprint": outcome.fingerprint})

    pages = web.Application()
    pages.router.add_post("/trust", take_trust)
    return pages


async def serve(pages: web.Application, host: str, port: int) -> web.AppRunner:
    """Serve pages on a TCP port; OSError when it is taken."""
    runner = web.AppRunner(pages, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


async def serve_control(pages: web.Application, socket: Path) -> web.AppRunner:
    """Serve pages on a Unix socket of ours."""
    # Whoever owns the folder is the only one: a socket found here is a dead one's.
    await asyncio.to_thread(socket.unlink, missing_ok=True)
    runner = web.AppRunner(pages, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    return runner
