"""`yizhan user`, on the database itself and through the running server."""

from __future__ import annotations

import asyncio
import io
import json
import re
import stat
import sys
from typing import TYPE_CHECKING, Any

import pytest

from yizhan_server.admin.local_socket import SOCKET_NAME
from yizhan_server.user_command import main
from yizhan_testing.account_server import PASSWORD, AccountServer, password_login
from yizhan_testing.homeserver import write_secrets

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.account_server import StartServer

NEW = "a brand new password"


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder of a server that is not running."""
    write_secrets(tmp_path)
    (tmp_path / "yizhan.toml").write_text(
        'server_name = "home.test"\n[public]\nclient_baseurl = "https://im.home.test"\n'
    )
    return tmp_path


def run(folder: Path, *words: str) -> int:
    return main(["--data", str(folder), *words])


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what was printed, as JSON."""
    return json.loads(capsys.readouterr().out)


def test_an_administrator_is_added_listed_and_made_ordinary(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "add", "root", "--admin", "--display-name", "管理员", "--json") == 0
    made = said(capsys)
    assert made["user_id"] == "@root:home.test"
    assert len(made["password"]) > 15

    assert run(folder, "list", "--json") == 0
    [person] = said(capsys)
    assert (person["user_id"], person["display_name"]) == ("@root:home.test", "管理员")
    assert (person["admin"], person["initial_password"]) == (True, True)

    assert run(folder, "admin", "root", "--revoke") == 0
    assert run(folder, "lock", "@root:home.test") == 0
    capsys.readouterr()
    run(folder, "list", "--json")
    [person] = said(capsys)
    assert (person["admin"], person["locked"]) == (False, True)


def test_a_password_comes_from_standard_input_and_is_never_printed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{NEW}\n"))
    assert run(folder, "add", "alice", "--password-stdin") == 0
    shown = capsys.readouterr()
    assert NEW not in shown.out + shown.err
    database = b"".join(file.read_bytes() for file in folder.glob("homeserver.db*"))
    assert NEW.encode() not in database


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (["add", "a:b"], 1, "cannot be a user name"),
        (["add", "李"], 1, "cannot be a user name"),
        (["password", "nobody"], 1, "There is no account nobody"),
        (["lock", "@x:elsewhere.test"], 1, "There is no account"),
        (["token", "--uses", "0"], 1, "Uses from 1"),
        (["token", "--days", "x"], 64, "must be a number"),
        (["add"], 64, "usage: yizhan user add LOCALPART"),
        (["ad", "x"], 64, "no subcommand ad"),
        (["list", "--jsn"], 64, "--json"),
        (["import", "missing.csv"], 1, "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    complaint: str,
) -> None:
    assert run(folder, *words) == status
    shown = capsys.readouterr()
    assert complaint in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_a_name_is_given_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "add", "alice") == 0
    assert run(folder, "add", "Alice") == 1
    assert "exists already" in capsys.readouterr().err


def test_an_import_makes_accounts_and_a_private_sheet_of_cards(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = folder / "people.csv"
    people.write_bytes(
        "用户名,姓名,部门,邮箱\nzhangsan,张三,财务处,z@x.test\nlisi,李<四>,,\n".encode("gb18030")
    )
    run(folder, "add", "lisi")
    capsys.readouterr()
    assert run(folder, "import", str(people), "--json") == 0
    answer = said(capsys)
    assert answer["created"] == ["@zhangsan:home.test"]
    assert answer["existing"] == ["@lisi:home.test"]

    [sheet] = folder.glob("cards-*.html")
    assert str(sheet) == answer["sheet"]
    assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    page = sheet.read_text(encoding="utf-8")
    for expected in ("张三", "财务处", "@zhangsan:home.test", "https://im.home.test", "Password"):
        assert expected in page
    assert not re.search(r"(?:src|href)=", page)

    # Repeated: nobody is new, nothing changes, no sheet is made.
    assert run(folder, "import", str(people), "--json") == 0
    assert said(capsys)["created"] == []
    assert len(list(folder.glob("cards-*.html"))) == 1


def test_the_text_of_a_card_cannot_break_the_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = folder / "people.csv"
    people.write_text("localpart,display_name\nlisi,<script>alert(1)</script>\n")
    sheet = folder / "my cards.html"
    assert run(folder, "import", str(people), "--sheet", str(sheet)) == 0
    assert "<script" not in sheet.read_text()
    # An existing file is never written over: it may be the only place of some passwords.
    people.write_text("localpart,display_name\nwangwu,王五\n")
    assert run(folder, "import", str(people), "--sheet", str(sheet)) == 1
    capsys.readouterr()
    run(folder, "list", "--json")
    assert [person["user_id"] for person in said(capsys)] == ["@lisi:home.test"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must name the columns"),
        ("name,age\nx,5\n", "must name the columns"),
        ("localpart,localpart,display_name\na,b,c\n", "must name the columns"),
        ("localpart,display_name\nalice,Alice\nbob,\n", "Line 3"),
        ("localpart,display_name\nalice,Alice\nALICE,Other\n", "twice"),
        ("localpart,display_name\nalice,Alice\nb b,Bob\n", "'b b' cannot be a user name"),
    ],
)
def test_a_file_with_one_wrong_line_creates_nobody(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    people = folder / "people.csv"
    people.write_text(text)
    assert run(folder, "import", str(people)) == 1
    assert complaint in capsys.readouterr().err
    run(folder, "list", "--json")
    assert said(capsys) == []
    assert list(folder.glob("cards-*.html")) == []


def test_every_act_is_on_the_record_without_secrets(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["add", "a"], ["lock", "a"], ["unlock", "a"], ["admin", "a"], ["password", "a"]):
        assert run(folder, *words, "--json") == 0
    shown = capsys.readouterr().out
    secrets = [json.loads(line).get("password") for line in shown.splitlines()]
    assert run(folder, "log", "--json") == 0
    text = capsys.readouterr().out
    entries = json.loads(text)
    assert [entry["action"] for entry in reversed(entries)] == [
        "add",
        "lock",
        "unlock",
        "admin",
        "password",
    ]
    assert {entry["subject"] for entry in entries} == {"@a:home.test"}
    assert all(entry["actor"].startswith("console:") for entry in entries)
    assert not any(secret in text for secret in secrets if secret)


async def _runs(server: AccountServer, *words: str) -> int:
    # In a thread, as the command has an event loop of its own.
    return await asyncio.to_thread(run, server.data, *words)


@pytest.fixture
async def running(start_server: StartServer, folder: Path) -> AccountServer:
    """A running server whose data folder the command is pointed at."""
    server = await start_server()
    assert server.data == folder
    return server


async def test_through_the_running_server_a_new_account_can_sign_in_at_once(
    running: AccountServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await _runs(running, "add", "alice", "--json") == 0
    password = said(capsys)["password"]
    login = await running.call("POST", "/v3/login", password_login("alice", password))
    assert login.status == 200
    assert await _runs(running, "add", "alice") == 1
    assert "exists already" in capsys.readouterr().err


async def test_through_the_running_server_a_lock_and_a_password_count_at_once(
    running: AccountServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await running.has("alice")
    assert await alice.is_signed_in()
    assert await _runs(running, "lock", "alice") == 0
    assert not await alice.is_signed_in()
    assert await _runs(running, "unlock", "alice") == 0
    assert await alice.is_signed_in()

    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{NEW}\n"))
    assert await _runs(running, "password", "alice", "--password-stdin") == 0
    assert not await alice.is_signed_in()
    old = await running.call("POST", "/v3/login", password_login("alice", PASSWORD))
    new = await running.call("POST", "/v3/login", password_login("alice", NEW))
    assert (old.status, new.status) == (403, 200)


async def test_an_administrator_gets_and_loses_rights_at_once(running: AccountServer) -> None:
    alice = await running.has("alice")
    sessions = running.services.sessions
    assert not (await sessions.authenticate(alice.token)).is_admin
    assert await _runs(running, "admin", "alice") == 0
    assert (await sessions.authenticate(alice.token)).is_admin
    assert await _runs(running, "admin", "alice", "--revoke") == 0
    assert not (await sessions.authenticate(alice.token)).is_admin


async def test_only_the_owner_of_the_data_may_open_the_door(running: AccountServer) -> None:
    door = running.data / SOCKET_NAME
    assert stat.S_IMODE(door.stat().st_mode) == 0o600


async def test_the_door_refuses_what_it_does_not_know(running: AccountServer) -> None:
    reader, writer = await asyncio.open_unix_connection(str(running.data / SOCKET_NAME))
    body = b'{"actor": "x", "localpart": 5}'
    for path, data, status in (
        (b"/user/add", body, b"400"),
        (b"/user/add", b"nonsense", b"400"),
        (b"/user/explode", b"{}", b"400"),
        (b"/other", b"{}", b"404"),
    ):
        writer.write(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path, len(data), data)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == status, (path, data)
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length is not None
        await reader.readexactly(int(length[1]))
    writer.close()
    await writer.wait_closed()


async def test_a_deep_data_folder_is_no_obstacle(start_server: StartServer) -> None:
    server = await start_server(folder="deep/" + "d" * 120)
    alice = await server.has("alice")
    write_secrets(server.data)
    (server.data / "yizhan.toml").write_text('server_name = "home.test"\n')
    assert await _runs(server, "lock", "alice") == 0
    assert not await alice.is_signed_in()
