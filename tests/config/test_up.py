import http.client
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from yizhan_config.installation import create
from yizhan_config.up import create_trial
from yizhan_testing.stand_ins import free_ports, yizhan

RUNNING = "Yizhan is running"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A trial that uses three free ports."""
    folder = tmp_path / "data"
    create_trial(folder)
    client, gateway, bots = free_ports(3)
    change(
        folder,
        f'listen.client = "127.0.0.1:{client}"\n'
        f'push_gateway.listen = "127.0.0.1:{gateway}"\n'
        f'bots.listen = "127.0.0.1:{bots}"\n',
    )
    return folder


def change(data: Path, top: str) -> None:
    """Write dotted keys before everything else, and drop the tables they would clash with."""
    tables = (
        'outbound.allow = ["127.0.0.1:8009"]\nbots.administrators = ["@admin:localhost"]\n'
        'server_name = "localhost"\n'
    )
    (data / "yizhan.toml").write_text(top + tables)


def process_id(data: Path, program: str) -> int:
    return int((data / f"{program}.pid").read_text())


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        connection.getresponse()
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()
    return True


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_first_start_makes_accounts_and_says_what_to_do(stand_ins: Path, data: Path) -> None:
    with yizhan(stand_ins, "up", "--demo", "--data", str(data)) as terminal:
        said = terminal.until("Ctrl-C stops everything")

    accounts = {a["user_id"]: a for a in json.loads((data / "accounts.json").read_text())}
    assert list(accounts) == [
        "@zhangsan:localhost",
        "@lisi:localhost",
        "@admin:localhost",
        "@yizhan:localhost",
    ]
    assert [user for user, account in accounts.items() if account["admin"]] == ["@admin:localhost"]
    kept = data / "first-start.txt"
    assert kept.stat().st_mode & 0o777 == 0o600
    for user in ("@zhangsan:localhost", "@lisi:localhost", "@admin:localhost"):
        password = accounts[user]["password"]
        assert len(password) >= 20
        assert f"{user} {password}" in kept.read_text()
        assert f"{user}  {password}" in said
    bots_password = (data / "secrets/bots.password").read_text().strip()
    assert accounts["@yizhan:localhost"]["password"] == bots_password
    assert bots_password not in said
    for part in ("http://127.0.0.1:", "AbCd EfGh", "trial", "install.md", str(kept)):
        assert part in said


def test_a_second_start_finds_its_data_and_shows_no_password(stand_ins: Path, data: Path) -> None:
    with yizhan(stand_ins, "up", "--demo", "--data", str(data)) as terminal:
        terminal.until(RUNNING)
    before = (data / "accounts.json").read_bytes()

    with yizhan(stand_ins, "up", "--demo", "--data", str(data)) as terminal:
        said = terminal.until("Ctrl-C stops everything")

    assert (data / "accounts.json").read_bytes() == before
    assert "@zhangsan:localhost" in said
    assert json.loads(before)[0]["password"] not in said


def test_without_demo_there_is_only_the_administrator(stand_ins: Path, data: Path) -> None:
    with yizhan(stand_ins, "up", "--data", str(data)) as terminal:
        terminal.until(RUNNING)

    accounts = json.loads((data / "accounts.json").read_text())
    assert [a["user_id"] for a in accounts] == ["@admin:localhost", "@yizhan:localhost"]


def test_an_administrator_made_by_hand_is_not_joined_by_another(
    stand_ins: Path, data: Path
) -> None:
    by_hand = {"user_id": "@wang:localhost", "admin": True, "password": "x"}
    (data / "accounts.json").write_text(json.dumps([by_hand]))

    with yizhan(stand_ins, "up", "--data", str(data)) as terminal:
        terminal.until(RUNNING)

    accounts = json.loads((data / "accounts.json").read_text())
    assert [a["user_id"] for a in accounts] == ["@wang:localhost", "@yizhan:localhost"]
    assert not (data / "first-start.txt").exists()


def test_an_interrupted_first_start_is_completed_with_the_same_passwords(
    stand_ins: Path, data: Path
) -> None:
    (data / "no-more-accounts").touch()
    with yizhan(stand_ins, "up", "--demo", "--data", str(data)) as terminal:
        said = terminal.rest()
    assert terminal.process.returncode == 78
    assert "the disk is full" in said
    kept = (data / "first-start.txt").read_text()

    (data / "no-more-accounts").unlink()
    with yizhan(stand_ins, "up", "--demo", "--data", str(data)) as terminal:
        terminal.until(RUNNING)

    assert (data / "first-start.txt").read_text() == kept
    accounts = json.loads((data / "accounts.json").read_text())
    assert len(accounts) == 4
    for account in accounts[:3]:
        assert f"{account['user_id']} {account['password']}" in kept


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_every_program_in_order(
    stand_ins: Path, data: Path, number: signal.Signals
) -> None:
    with yizhan(stand_ins, "up", "--data", str(data)) as terminal:
        terminal.until(RUNNING)
        terminal.process.send_signal(number)
        said = terminal.rest()

    assert terminal.process.returncode == 0
    assert "Yizhan has stopped" in said
    for program in ("homeserver", "push-gateway", "bots"):
        assert (data / f"{program}.ended").read_text() == "in order"
        assert not is_alive(process_id(data, program))
        log = data / "logs" / f"{program}.log"
        assert "listening" in log.read_text()
        assert log.stat().st_mode & 0o077 == 0


def test_a_program_that_dies_is_started_again_and_that_is_said(stand_ins: Path, data: Path) -> None:
    with yizhan(stand_ins, "up", "--data", str(data)) as terminal:
        terminal.until(RUNNING)
        first = process_id(data, "push-gateway")
        homeserver = process_id(data, "homeserver")
        os.kill(first, signal.SIGKILL)
        said = terminal.until("starts again")
        assert "push gateway ended unexpectedly (SIGKILL) and starts again in 1 s" in said
        deadline = time.monotonic() + 20
        while process_id(data, "push-gateway") == first and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process_id(data, "push-gateway") != first
        assert process_id(data, "homeserver") == homeserver


def test_programs_end_when_the_supervisor_is_killed(stand_ins: Path, data: Path) -> None:
    with yizhan(stand_ins, "up", "--data", str(data)) as terminal:
        terminal.until(RUNNING)
        numbers = [process_id(data, name) for name in ("homeserver", "push-gateway", "bots")]
        terminal.process.kill()
        deadline = time.monotonic() + 20
        while any(is_alive(number) for number in numbers) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not any(is_alive(number) for number in numbers)


@pytest.mark.parametrize("key", ["listen.client", "push_gateway.listen", "bots.listen"])
def test_a_taken_port_is_named_with_its_key_and_nothing_starts(
    stand_ins: Path, data: Path, key: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        free = free_ports(3)
        names = ["listen.client", "push_gateway.listen", "bots.listen"]
        ports = {name: port if name == key else free.pop() for name in names}
        change(data, "".join(f'{name} = "127.0.0.1:{ports[name]}"\n' for name in names))
        with yizhan(stand_ins, "up", "--data", str(data)) as terminal:
            said = terminal.rest()

    assert terminal.process.returncode == 78
    assert len(said.splitlines()) == 1
    assert f"127.0.0.1:{port} ({key})" in said
    assert f"change {key} in {data / 'yizhan.toml'}" in said
    assert not (data / "homeserver.pid").exists()


def test_a_broken_configuration_is_one_sentence(stand_ins: Path, data: Path) -> None:
    change(data, "registration.enable = true\n")
    with yizhan(stand_ins, "up", "--data", str(data), language="zh_CN.UTF-8") as terminal:
        said = terminal.rest()

    assert terminal.process.returncode == 78
    assert said == (
        f"registration.enable（{data}/yizhan.toml 第 1 行）不是驿站认识的键；"
        "您要写的可能是 registration.enabled。\n"
    )


def test_a_program_that_says_what_to_correct_ends_everything_with_its_sentence(
    stand_ins: Path, data: Path
) -> None:
    (data / "bots.refusal").write_text("the bots need a password; write one")
    with yizhan(stand_ins, "up", "--data", str(data)) as terminal:
        said = terminal.rest()

    assert terminal.process.returncode == 78
    assert said.splitlines()[-1] == "the bots need a password; write one"
    assert (data / "homeserver.ended").exists()


def test_one_folder_is_used_by_one_supervisor(stand_ins: Path, data: Path) -> None:
    with yizhan(stand_ins, "up", "--data", str(data)) as terminal:
        terminal.until(RUNNING)
        with yizhan(stand_ins, "up", "--data", str(data)) as second:
            said = second.rest()
        assert second.process.returncode == 78
        assert f"already runs on {data} (process {terminal.process.pid})" in said


def test_the_greeting_is_chinese_where_the_locale_is(stand_ins: Path, data: Path) -> None:
    with yizhan(stand_ins, "up", "--data", str(data), language="zh_CN.UTF-8") as terminal:
        said = terminal.until("按 Ctrl-C 停止全部程序")
    for part in ("驿站已启动", "管理员  @admin:localhost", "指纹    AbCd EfGh", "试用"):
        assert part in said


def test_a_trial_is_made_where_there_is_none(stand_ins: Path, tmp_path: Path) -> None:
    # The default ports may be taken on this machine: what counts is what has been written.
    data = tmp_path / "new"
    with yizhan(stand_ins, "up", "--demo", "--data", str(data)) as terminal:
        terminal.until("\n")

    assert data.stat().st_mode & 0o777 == 0o700
    assert 'administrators = ["@admin:localhost"]' in (data / "yizhan.toml").read_text()


def test_serve_makes_the_first_accounts_and_becomes_the_homeserver(
    stand_ins: Path, tmp_path: Path
) -> None:
    data = tmp_path / "real"
    (port,) = free_ports(1)
    create(
        data,
        "a.test",
        {"listen.client": f"127.0.0.1:{port}", "bots.administrators": ["@wang:a.test"]},
    )
    with yizhan(stand_ins, "serve", "--data", str(data)) as terminal:
        terminal.until("listening")
        deadline = time.monotonic() + 20
        while not answers(port) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process_id(data, "homeserver") == terminal.process.pid

    accounts = json.loads((data / "accounts.json").read_text())
    assert [(a["user_id"], a["admin"]) for a in accounts] == [
        ("@wang:a.test", True),
        ("@yizhan:a.test", False),
    ]
