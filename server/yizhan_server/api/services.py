"""The services that handlers may call, built once by `app.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yizhan_server.accounts.account_data import AccountData
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.confirmation import Confirmations
    from yizhan_server.accounts.filters import Filters
    from yizhan_server.accounts.passwords import Passwords
    from yizhan_server.accounts.profiles import Profiles
    from yizhan_server.accounts.push_rules import PushRules
    from yizhan_server.accounts.pushers import Pushers
    from yizhan_server.accounts.registration import Registration, SharedSecretRegistration
    from yizhan_server.accounts.sessions import Sessions
    from yizhan_server.api.discovery import Discovery, Turn
    from yizhan_server.flows.deactivation import Deactivation
    from yizhan_server.flows.logout import Logout
    from yizhan_server.flows.password_change import PasswordChange
    from yizhan_server.flows.profile_change import ProfileChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One field per service; a handler takes what it needs from here."""

    discovery: Discovery
    turn: Turn
    accounts: Accounts
    sessions: Sessions
    passwords: Passwords
    confirmations: Confirmations
    registration: Registration
    shared_secret_registration: SharedSecretRegistration
    profiles: Profiles
    account_data: AccountData
    filters: Filters
    push_rules: PushRules
    pushers: Pushers
    logout: Logout
    password_change: PasswordChange
    profile_change: ProfileChange
    deactivation: Deactivation
