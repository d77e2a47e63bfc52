"""Where a CAS server sends the browser of a client of the older kind back to.

No cookie ties the browser to the client that began: clients open one browser for the way there and
are handed the way back by another. So nobody is sent on without looking: the page names the
account and the client, and only whoever presses the link takes the sign-in token there.

Spec: client-server API, "SSO client login/authentication".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.oauth.redirects import add_login_token, describe_target
from yizhan_server.pages.consent import client_url
from yizhan_server.pages.sign_in import sso_failure
from yizhan_server.pages.visitor import Pages, Visitor
from yizhan_server.protocol.errors import NotFound
from yizhan_server.sso.cas import TICKET_PATH
from yizhan_server.sso.provider import ProviderFailed
from yizhan_server.sso.sign_in import SignInFailed, provider_failed

if TYPE_CHECKING:
    from aiohttp import web

pages = Pages(prefix="")


@pages.get(TICKET_PATH, limit="login")
async def take_ticket(visitor: Visitor) -> web.StreamResponse:
    """Redeem a ticket, and ask whether the client may sign in."""
    cas, sso = visitor.services.cas, visitor.services.sso
    if cas is None or sso is None:
        raise NotFound("There is no CAS server")
    url = client_url(visitor)
    ticket = visitor.call.query("ticket")
    if ticket is None:
        return sso_failure(visitor, SignInFailed("refused"))
    try:
        account = await sso.find_or_create(await cas.redeem_for_client(url, ticket))
    except ProviderFailed as error:
        return sso_failure(visitor, provider_failed(error))
    except SignInFailed as failed:
        return sso_failure(visitor, failed)
    token, _ = await visitor.services.accounts.make_login_token(account.user_id)
    return visitor.show(
        "cas_client.html",
        is_good_once=True,
        target=describe_target(url),
        account=account.user_id,
        onwards=add_login_token(url, token),
    )
