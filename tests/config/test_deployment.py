import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from yizhan_config.address import Address
from yizhan_config.settings import load
from yizhan_testing.compose import ROOT, Composition
from yizhan_testing.stand_ins import free_ports

CONTAINERS = ("homeserver", "push-gateway", "bots")
UNITS = sorted((ROOT / "config/systemd").glob("*.service"))


@pytest.fixture
def composition(stand_ins: Path, tmp_path: Path) -> Composition:
    variables = {
        "YIZHAN_SERVER_NAME": "a.test",
        "YIZHAN_PUBLIC_URL": "https://im.a.test",
        "POSTGRES_PASSWORD": "a secret",
    }
    ports = dict(zip((8008, 8009, 8010, 5432), free_ports(4), strict=True))
    data = tmp_path / "volume"
    data.mkdir()
    return Composition(data, variables, ports, (stand_ins,))


def test_each_service_starts_by_its_very_command_and_passes_its_own_health_check(
    composition: Composition,
) -> None:
    with composition:
        composition.run("setup")
        written = (composition.data / "yizhan.toml").read_bytes()
        composition.run("setup")
        assert (composition.data / "yizhan.toml").read_bytes() == written

        for service in CONTAINERS:
            composition.start(service)
            composition.wait_healthy(service)

        settings = load(data=composition.data)
        assert settings.public.client_baseurl == "https://im.a.test"
        assert settings.database.url == (
            f"postgresql://yizhan@127.0.0.1:{composition.ports[5432]}/yizhan"
        )
        assert settings.listen.client == Address("", composition.ports[8008])
        accounts = json.loads((composition.data / "accounts.json").read_text())
        assert [a["user_id"] for a in accounts] == ["@admin:a.test", "@yizhan:a.test"]
        for service in CONTAINERS:
            assert composition.stop(service) == 0


def test_a_health_check_fails_while_nothing_answers(composition: Composition) -> None:
    with composition:
        composition.run("setup")
        composition.start("push-gateway")
        composition.wait_healthy("push-gateway")
        check = composition.services["bots"]["healthcheck"]["test"][1:]
        words = composition._executable([composition._here(word) for word in check])
        done = subprocess.run(words, env=composition.environment("bots"), check=False)
        assert done.returncode == 1


def test_containers_run_without_root_and_reach_the_host_only_through_loopback(
    composition: Composition,
) -> None:
    for name in ("setup", *CONTAINERS):
        service = composition.services[name]
        assert service["user"] == "10001:10001"
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert service["volumes"] == ["data:/data"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "ports" not in composition.services["postgres"]
    dockerfile = (ROOT / "config/Dockerfile").read_text(encoding="utf-8")
    assert "USER 10001:10001" in dockerfile
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for path in source.split():
            if path not in {"README.md", "LICENSE"}:
                assert (ROOT / path).exists(), path


def test_no_password_is_written_into_the_configuration_of_the_containers(
    composition: Composition,
) -> None:
    composition.run("setup")
    assert "a secret" not in (composition.data / "yizhan.toml").read_text()


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_systemd_unit_runs_unprivileged_and_does_not_repeat_what_must_be_corrected(
    unit: Path,
) -> None:
    parsed = configparser.RawConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read(unit)
    service = parsed["Service"]
    assert service["User"] == "yizhan"
    assert service["RestartPreventExitStatus"] == "78"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ExecStart"].endswith("--data /var/lib/yizhan")
    granted = service.get("AmbientCapabilities", "")
    assert granted == ("CAP_NET_BIND_SERVICE" if unit.stem == "yizhan-homeserver" else "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert len(UNITS) == 3
    for unit in UNITS:
        # The programs are not installed here, which is all that may be complained of.
        text = re.sub(r"/opt/yizhan/\.venv/bin/\w+", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / unit.name for unit in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "yizhan" in line]
    assert complaints == []
