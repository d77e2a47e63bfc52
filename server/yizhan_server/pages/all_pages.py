"""Every page: one list of the modules that declare them."""

from __future__ import annotations

from yizhan_server.pages import account, app_login, cas, confirm, consent, email, sign_in

PAGES = (
    account.pages.routes,
    app_login.pages.routes,
    app_login.static_pages.routes,
    cas.pages.routes,
    confirm.pages.routes,
    confirm.fallback_pages.routes,
    consent.pages.routes,
    email.pages.routes,
    sign_in.pages.routes,
)
