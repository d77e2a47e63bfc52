"""E-mail addresses of accounts, with a real mail server: adding, signing in, forgetting, ending."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from yizhan_testing.account_server import PASSWORD, StartServer, password_login
from yizhan_testing.browser import Browser
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.mail_reader import MailReader, email_login, email_stage, wanted
from yizhan_testing.mail_server import PASSWORD as MAIL_PASSWORD
from yizhan_testing.mail_server import USER, MailServer, mail_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.account_server import Answer

LI, WANG = "li@home.test", "wang@home.test"
NEW_PASSWORD = "a quite different one"
FROM = "im@home.test"


def mailing(mails: MailServer, **more: object) -> dict[str, object]:
    return {
        "email__host": "127.0.0.1",
        "email__port": mails.port,
        "email__security": "none",
        "email__from_address": FROM,
        **more,
    }


@pytest.fixture
async def mails() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


@pytest.fixture
async def reader(start_server: StartServer, mails: MailServer) -> MailReader:
    """A server that sends mails and lets people register, and who reads them."""
    server = await start_server(
        **mailing(mails, registration__enabled=True, registration__require_token=False)
    )
    return MailReader(server, mails)


async def addresses(person: Any) -> list[str]:
    listed = (await person.calls("GET", "/v3/account/3pid")).json["threepids"]
    assert all(each["medium"] == "email" for each in listed)
    return [each["address"] for each in listed]


# region adding


async def test_an_address_is_added_once_its_reader_has_agreed(reader: MailReader) -> None:
    alice = await reader.server.has("alice")
    capabilities = (await alice.calls("GET", "/v3/capabilities")).json["capabilities"]
    assert capabilities["m.3pid_changes"] == {"enabled": True}

    sid = (await reader.asks("account/3pid", "Li@HOME.test")).json["sid"]
    mail = reader.mails.last_to(LI)
    assert (mail.sender, mail.was_encrypted) == (FROM, False)
    assert "加到 home.test 上的账号" in mail.text
    assert "add this address to an account on home.test" in mail.text
    shown = {"sid": sid, "client_secret": "s3cret"}
    # A scanner follows the link; that is nobody's consent.
    status, page = await reader.opens(mail.link)
    assert (status, LI in page) == (200, True)
    too_early = await alice.calls("POST", "/v3/account/3pid/add", shown)
    assert (too_early.status, too_early.errcode) == (403, "M_THREEPID_AUTH_FAILED")

    assert (await reader.agrees(mail.link))[0] == 200
    added = await alice.confirms("POST", "/v3/account/3pid/add", shown)
    assert (added.status, added.json) == (200, {})
    now = reader.server.clock.ms
    assert (await alice.calls("GET", "/v3/account/3pid")).json == {
        "threepids": [{"medium": "email", "address": LI, "validated_at": now, "added_at": now}]
    }


async def test_the_page_speaks_chinese_and_english_and_shows_where_a_client_leads(
    reader: MailReader,
) -> None:
    await reader.asks("account/3pid", LI, next_link="https://app.home.test/done?x=1")
    link = reader.mails.last_to(LI).link
    assert "确认邮箱？" in (await reader.opens(f"{link}&lang=zh"))[1]
    assert "Confirm your e-mail address?" in (await reader.opens(f"{link}&lang=en"))[1]
    _, page = await reader.agrees(link)
    assert 'href="https://app.home.test/done?x=1"' in page
    assert "app.home.test</a>" in page

    refused = await reader.asks("account/3pid", LI, 2, next_link="javascript:alert(1)")
    assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")


async def test_a_verification_is_good_for_its_client_its_purpose_and_one_use(
    reader: MailReader,
) -> None:
    alice, bob = await reader.server.has("alice"), await reader.server.has("bob")
    shown = await reader.verifies("account/3pid", LI)
    for wrong in (
        {**shown, "client_secret": "other"},
        {**shown, "sid": "other"},
        {**shown, "sid": "\0"},
        {**shown, "sid": ""},
    ):
        refused = await alice.calls("POST", "/v3/account/3pid/add", wrong)
        assert (refused.status, refused.errcode) == (403, "M_THREEPID_AUTH_FAILED")
    for_registering = await reader.verifies("register", WANG)
    refused = await alice.calls("POST", "/v3/account/3pid/add", for_registering)
    assert (refused.status, refused.errcode) == (403, "M_THREEPID_AUTH_FAILED")

    assert (await alice.confirms("POST", "/v3/account/3pid/add", shown)).status == 200
    again = await bob.calls("POST", "/v3/account/3pid/add", shown)
    assert (again.status, again.errcode) == (403, "M_THREEPID_AUTH_FAILED")
    assert await addresses(alice) == [LI]
    assert await addresses(bob) == []


async def test_a_link_is_good_once_and_for_an_hour(reader: MailReader) -> None:
    await reader.asks("account/3pid", LI)
    link = reader.mails.last_to(LI).link
    assert (await reader.agrees(link.replace("token=", "token=x")))[0] == 404
    assert (await reader.agrees(link))[0] == 200
    assert (await reader.agrees(link))[0] == 404
    assert (await reader.opens(link))[0] == 404

    await reader.asks("account/3pid", WANG)
    late = reader.mails.last_to(WANG).link
    reader.server.clock.pass_seconds(3600)
    assert (await reader.opens(late))[0] == 404
    assert (await reader.agrees(late))[0] == 404


async def test_a_mail_is_sent_once_for_each_attempt(reader: MailReader) -> None:
    first, again = [await reader.asks("account/3pid", LI, 1) for _ in range(2)]
    assert first.json == again.json
    assert len(reader.mails.mails) == 1
    reminder = await reader.asks("account/3pid", LI, 2)
    assert reminder.json == first.json
    old, new = [mail.link for mail in reader.mails.mails]
    assert (await reader.agrees(old))[0] == 404
    assert (await reader.agrees(new))[0] == 200


async def test_an_address_belongs_to_one_account_and_only_its_mailbox_learns_so(
    reader: MailReader,
) -> None:
    alice, bob = await reader.server.has("alice"), await reader.server.has("bob")
    # Both verify it while it is free.
    of_bob = await reader.verifies("account/3pid", LI, secret="bobs")
    assert (await reader.adds(alice, LI)).status == 200
    refused = await bob.calls("POST", "/v3/account/3pid/add", of_bob)
    assert (refused.status, refused.errcode) == (400, "M_THREEPID_IN_USE")

    # Whoever asks later hears what they would hear of a free one.
    reader.server.clock.pass_seconds(1800)
    for purpose in ("account/3pid", "register"):
        answer = await reader.asks(purpose, LI, secret=f"later-{purpose[:3]}")
        assert (answer.status, list(answer.json)) == (200, ["sid"])
        mail = reader.mails.mails[-1]
        assert (mail.recipient, mail.has_link) == (LI, False)
        assert "已经属于" in mail.text
        assert "belongs to an account" in mail.text
    assert await addresses(bob) == []


async def test_two_who_add_one_address_at_once_do_not_both_get_it(reader: MailReader) -> None:
    people = [await reader.server.has(name) for name in ("alice", "bob")]
    shown = [
        await reader.verifies("account/3pid", LI, secret=f"secret-{n}") for n in range(len(people))
    ]
    answers: list[Answer] = await asyncio.gather(
        *(
            person.confirms("POST", "/v3/account/3pid/add", each)
            for person, each in zip(people, shown, strict=True)
        )
    )
    assert sorted(answer.status for answer in answers) == [200, 400]
    assert sorted([await addresses(person) for person in people]) == [[], [LI]]


async def test_an_address_is_not_had_without_the_password(reader: MailReader) -> None:
    alice = await reader.server.has("alice")
    shown = await reader.verifies("account/3pid", LI)
    wrong = await alice.confirms("POST", "/v3/account/3pid/add", shown, password="guessed")
    assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
    credentials = {**shown, "id_server": "id.home.test", "id_access_token": "token"}
    old_way = await alice.calls("POST", "/v3/account/3pid", {"three_pid_creds": credentials})
    assert (old_way.status, old_way.errcode) == (403, "M_THREEPID_AUTH_FAILED")
    assert await addresses(alice) == []


async def test_what_is_no_plain_address_gets_no_mail(reader: MailReader) -> None:
    for address in (
        "li",
        "li@",
        "@home.test",
        "li@home@test",
        "Li <li@home.test>",
        "li@home.test\r\nBcc: all@home.test",
        "li@home.test\0",
        "李@home.test",
        "strauß@home.test",
        f"{'l' * 65}@home.test",
        f"li@{'h.' * 130}test",
    ):
        answer = await reader.asks("account/3pid", address)
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM"), address
    assert reader.mails.mails == []


async def test_a_request_for_a_mail_must_be_well_formed(reader: MailReader) -> None:
    good = wanted(LI)
    for bad, errcode in (
        ({**good, "client_secret": "not allowed!"}, "M_INVALID_PARAM"),
        ({**good, "client_secret": ""}, "M_INVALID_PARAM"),
        ({**good, "send_attempt": -1}, "M_BAD_JSON"),
        ({**good, "send_attempt": "1"}, "M_BAD_JSON"),
        ({"email": LI}, "M_BAD_JSON"),
    ):
        path = "/v3/account/3pid/email/requestToken"
        answer = await reader.server.call("POST", path, bad)
        assert (answer.status, answer.errcode) == (400, errcode)
    assert reader.mails.mails == []


async def test_an_address_is_shown_to_administrators_and_on_the_account_page(
    reader: MailReader,
) -> None:
    server = reader.server
    alice, admin = await server.has("alice"), await server.has("admin", admin=True)
    await reader.adds(alice, LI)
    listed = (await alice.calls("GET", "/v3/account/3pid")).json["threepids"]
    path = f"/v2/users/{alice.user_id}"
    shown = await server.call("GET", path, token=admin.token, prefix="/_synapse/admin")
    assert shown.json["threepids"] == listed

    async with Browser(server.url) as browser:
        login = await browser.opens("/_yizhan/account/")
        overview = await browser.signs_in(login, LI.upper(), PASSWORD)
        assert f"E-mail addresses: {LI}" in overview.text


async def test_the_button_of_the_page_is_all_that_a_browser_needs(reader: MailReader) -> None:
    await reader.asks("register", LI)
    link = reader.mails.last_to(LI).link
    async with Browser(reader.server.url) as browser:
        page = await browser.opens(link.partition("127.0.0.1")[2])
        done = await browser.sends(page.form("/email"))
        assert (done.status, "Your address is confirmed" in done.text) == (200, True)
        assert not page.tags & {"script", "img", "iframe", "link"}


# region removing


async def test_an_address_is_removed_by_its_owner_and_free_again(reader: MailReader) -> None:
    alice, bob = await reader.server.has("alice"), await reader.server.has("bob")
    await reader.adds(alice, LI)
    address = {"medium": "email", "address": "LI@home.test"}
    await bob.calls("POST", "/v3/account/3pid/delete", address)
    assert await addresses(alice) == [LI]

    begun = await reader.verifies("account/password", LI)
    removed = await alice.calls("POST", "/v3/account/3pid/delete", address)
    assert removed.json == {"id_server_unbind_result": "no-support"}
    assert await addresses(alice) == []
    signed_in = await reader.server.call("POST", "/v3/login", email_login(LI, PASSWORD))
    assert signed_in.status == 403
    reset = {"new_password": NEW_PASSWORD, "auth": email_stage(begun)}
    assert (await reader.server.call("POST", "/v3/account/password", reset)).status == 401

    reader.server.clock.pass_seconds(1800)
    assert (await reader.adds(bob, LI, secret="bobs")).status == 200


async def test_a_deactivated_account_has_no_address(reader: MailReader) -> None:
    alice, bob = await reader.server.has("alice"), await reader.server.has("bob")
    await reader.adds(alice, LI)
    assert (await alice.confirms("POST", "/v3/account/deactivate", {})).status == 200
    assert (
        await reader.server.call("POST", "/v3/login", email_login(LI, PASSWORD))
    ).errcode == "M_FORBIDDEN"
    assert (await reader.adds(bob, LI, secret="bobs")).status == 200


# region signing in


async def test_a_person_signs_in_by_address(reader: MailReader) -> None:
    alice = await reader.server.has("alice")
    await reader.adds(alice, LI)
    old_form = {"type": "m.login.password", "medium": "email", "address": LI, "password": PASSWORD}
    untyped = {**old_form, "identifier": {"medium": "email", "address": LI}}
    for login in (email_login("Li@Home.Test", PASSWORD), old_form, untyped):
        answer = await reader.server.call("POST", "/v3/login", login)
        assert (answer.status, answer.json["user_id"]) == (200, alice.user_id)

    wrong = await reader.server.call("POST", "/v3/login", email_login(LI, "guessed"))
    unknown = await reader.server.call("POST", "/v3/login", email_login(WANG, PASSWORD))
    strange = await reader.server.call("POST", "/v3/login", email_login(alice.user_id, PASSWORD))
    assert wrong == unknown == strange
    assert (wrong.status, wrong.errcode) == (403, "M_FORBIDDEN")
    number = {**email_login(LI, PASSWORD), "identifier": {"type": "m.id.phone", "phone": "1"}}
    assert (await reader.server.call("POST", "/v3/login", number)).status == 403


async def test_a_person_confirms_by_address_and_password(reader: MailReader) -> None:
    alice, bob = await reader.server.has("alice"), await reader.server.has("bob")
    await reader.adds(alice, LI)
    for person, status in ((bob, 403), (alice, 200)):
        asked = await person.calls("POST", "/v1/login/get_token", {})
        auth = {**email_login(LI, PASSWORD), "session": asked.json["session"]}
        answer = await person.calls("POST", "/v1/login/get_token", {"auth": auth})
        assert answer.status == status


# region a forgotten password


async def test_a_forgotten_password_is_replaced_by_who_reads_the_mail(reader: MailReader) -> None:
    server = reader.server
    alice = await server.has("alice")
    await reader.adds(alice, LI)
    asked = await server.call("POST", "/v3/account/password", {"new_password": NEW_PASSWORD})
    assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.email.identity"]}])
    session = asked.json["session"]

    sid = (await reader.asks("account/password", LI, secret="forgot")).json["sid"]
    mail = reader.mails.last_to(LI)
    assert alice.user_id in mail.text
    shown = {"sid": sid, "client_secret": "forgot"}
    change = {"new_password": NEW_PASSWORD, "auth": email_stage(shown, session)}
    early = await server.call("POST", "/v3/account/password", change)
    assert (early.status, early.errcode) == (401, "M_THREEPID_AUTH_FAILED")
    assert (await reader.agrees(mail.link))[0] == 200
    weak = {**change, "new_password": "short"}
    assert (await server.call("POST", "/v3/account/password", weak)).errcode == "M_WEAK_PASSWORD"

    assert (await server.call("POST", "/v3/account/password", change)).json == {}
    assert not await alice.is_signed_in()
    assert (await server.call("POST", "/v3/login", password_login("alice"))).status == 403
    assert (await server.call("POST", "/v3/login", email_login(LI, NEW_PASSWORD))).status == 200
    again = await server.call("POST", "/v3/account/password", change)
    assert (again.status, again.errcode) == (401, "M_THREEPID_AUTH_FAILED")


async def test_devices_stay_where_that_is_wished(reader: MailReader) -> None:
    alice = await reader.server.has("alice")
    await reader.adds(alice, LI)
    shown = await reader.verifies("account/password", LI)
    change = {"new_password": NEW_PASSWORD, "auth": email_stage(shown), "logout_devices": False}
    assert (await reader.server.call("POST", "/v3/account/password", change)).status == 200
    assert await alice.is_signed_in()


async def test_a_password_is_not_reset_by_what_was_verified_for_something_else(
    reader: MailReader,
) -> None:
    alice = await reader.server.has("alice")
    await reader.adds(alice, LI)
    await reader.server.has("bob")
    for purpose in ("account/3pid", "register"):
        shown = await reader.verifies(purpose, WANG, secret="other")
        change = {"new_password": NEW_PASSWORD, "auth": email_stage(shown)}
        answer = await reader.server.call("POST", "/v3/account/password", change)
        assert (answer.status, answer.errcode) == (401, "M_THREEPID_AUTH_FAILED")


async def test_whether_an_address_has_an_account_is_told_to_its_mailbox_only(
    reader: MailReader,
) -> None:
    alice = await reader.server.has("alice")
    await reader.adds(alice, LI)
    known = await reader.asks("account/password", LI)
    unknown = await reader.asks("account/password", WANG)
    assert known.status == unknown.status == 200
    assert len(known.json["sid"]) == len(unknown.json["sid"])
    assert reader.mails.last_to(LI).has_link
    mail = reader.mails.last_to(WANG)
    assert not mail.has_link
    assert "没有可以用它重设密码的账号" in mail.text
    assert "no account" in mail.text


# region registering


async def test_a_person_registers_with_an_address(reader: MailReader) -> None:
    server = reader.server
    wish = {"username": "alice", "password": PASSWORD}
    asked = await server.call("POST", "/v3/register", wish)
    assert asked.json["flows"] == [
        {"stages": ["m.login.dummy"]},
        {"stages": ["m.login.email.identity"]},
    ]
    shown = await reader.verifies("register", LI)
    assert "create an account on home.test" in reader.mails.last_to(LI).text
    auth = email_stage(shown, asked.json["session"])
    registered = await server.call("POST", "/v3/register", {**wish, "auth": auth})
    assert registered.status == 200
    signed_in = await server.call("POST", "/v3/login", email_login(LI, PASSWORD))
    assert signed_in.json["user_id"] == "@alice:home.test"
    # The address is taken, and the verification used up.
    other = {"username": "bob", "password": PASSWORD}
    session = (await server.call("POST", "/v3/register", other)).json["session"]
    again = {**other, "auth": email_stage(shown, session)}
    answer = await server.call("POST", "/v3/register", again)
    assert (answer.status, answer.errcode) == (401, "M_THREEPID_AUTH_FAILED")


async def test_an_address_can_be_demanded_for_an_account(
    start_server: StartServer, mails: MailServer
) -> None:
    server = await start_server(
        **mailing(mails, registration__enabled=True, registration__require_email=True)
    )
    reader = MailReader(server, mails)
    wish = {"username": "alice", "password": PASSWORD}
    asked = await server.call("POST", "/v3/register", wish)
    stages = ["m.login.registration_token", "m.login.email.identity"]
    assert asked.json["flows"] == [{"stages": stages}]
    session = asked.json["session"]
    shown = await reader.verifies("register", LI)
    token = (await server.administration.make_token("test", uses=1, days=None))["token"]
    with_token = {"type": stages[0], "token": token, "session": session}
    with_email = email_stage(shown, session)
    dummy = {"type": "m.login.dummy", "session": session}
    for auth, status in ((with_email, 401), (with_token, 401), (dummy, 401), (with_email, 200)):
        answer = await server.call("POST", "/v3/register", {**wish, "auth": auth})
        assert answer.status == status, answer.json
    signed_in = await server.call("POST", "/v3/login", email_login(LI, PASSWORD))
    assert signed_in.status == 200

    # The account pages know no mails; they say so, and are no way around.
    status, page = await reader.opens("/_yizhan/account/register?lang=en")
    assert (status, "Create your account in an app" in page) == (200, True)
    _, page = await reader.opens("/_yizhan/account/login")
    assert "/_yizhan/account/register" not in page


async def test_nobody_gets_a_mail_to_register_where_registration_is_closed(
    start_server: StartServer, mails: MailServer
) -> None:
    reader = MailReader(await start_server(**mailing(mails)), mails)
    answer = await reader.asks("register", LI)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert mails.mails == []


# region the mail server


async def test_who_cannot_be_sent_a_mail_is_told_and_may_ask_again(
    reader: MailReader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await reader.asks("account/3pid", LI)
    await reader.mails.stop()
    failed = await reader.asks("account/3pid", LI, 2)
    assert (failed.status, failed.errcode) == (503, "M_UNKNOWN")
    await reader.mails.start()

    # What was sent before is good still, and the attempt does not count.
    earlier = reader.mails.last_to(LI).link
    assert (await reader.opens(earlier))[0] == 200
    assert (await reader.asks("account/3pid", LI, 2)).status == 200
    assert (await reader.agrees(reader.mails.last_to(LI).link))[0] == 200

    reader.mails.is_polite = False
    assert (await reader.asks("account/3pid", "zhao@home.test")).status == 200
    for code, status in ((550, 400), (451, 503)):
        reader.mails.refusing = code
        refused = await reader.asks("account/3pid", WANG)
        assert refused.status == status
    written = "".join(str(vars(record)) for record in caplog.records)
    assert "a mail was not sent" in written
    assert LI not in written
    assert WANG not in written


async def test_nobody_is_sent_many_mails(start_server: StartServer, mails: MailServer) -> None:
    server = await start_server(**mailing(mails, rate_limits__enabled=True))
    reader = MailReader(server, mails)
    # Whoever asks, under whatever secret.
    answers = [
        (await reader.asks("account/password", LI, secret=f"secret-{n}")).status for n in range(5)
    ]
    assert answers == [200, 200, 200, 429, 429]
    assert len(mails.mails) == 3
    # Nor does one caller have many people sent one.
    answers = [(await reader.asks("account/3pid", f"a{n}@home.test")).status for n in range(6)]
    assert answers == [200, 200, 200, 200, 200, 429]


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_mail_server_is_spoken_to_under_tls_and_password(
    start_server: StartServer, tmp_path: Path, security: str
) -> None:
    authority = CertificateAuthority(tmp_path)
    password_file = tmp_path / "mail.password"
    password_file.touch(mode=0o600)
    password_file.write_text(MAIL_PASSWORD)
    async with AsyncExitStack() as stack:
        trusted, stranger = [
            await stack.enter_async_context(
                mail_server(each.server_context("127.0.0.1"), from_the_start=security == "tls")
            )
            for each in (authority, CertificateAuthority(tmp_path, "authority of others"))
        ]
        for mails, status in ((trusted, 200), (stranger, 503)):
            server = await start_server(
                folder=str(mails.port),
                **mailing(
                    mails,
                    email__security=security,
                    email__username=USER,
                    email__password_file=str(password_file),
                    outbound__trusted_ca_files=[str(authority.file)],
                ),
            )
            assert (await MailReader(server, mails).asks("account/3pid", LI)).status == status
        assert stranger.mails == []
        (mail,) = trusted.mails
        assert (mail.was_encrypted, mail.user) == (True, USER)
