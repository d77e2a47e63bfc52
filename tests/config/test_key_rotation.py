"""`yizhan federation rotate-key`: a new signing key, and the old one kept for what it signed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from yizhan_config import installation
from yizhan_config.errors import ConfigurationError
from yizhan_config.settings import Settings
from yizhan_server.federation_client.own_keys import load_own_keys, read_old_keys
from yizhan_testing.homeserver import Homeserver


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation.create(tmp_path / "data", "a.test", {"outbound.allow": []})


def rotate_key(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("yizhan")), "federation", "rotate-key"]
    command += ["--data", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"LANG": "C"})


def test_the_key_is_replaced_and_the_old_one_noted(settings: Settings) -> None:
    before = load_own_keys(settings).signing_key
    done = rotate_key(settings.data)
    assert done.returncode == 0, done.stderr
    after = load_own_keys(settings).signing_key
    assert after.key_id in done.stdout
    assert after.serialize().split()[2] not in done.stdout
    assert (after.key_id, after.seed) != (before.key_id, before.seed)
    (old,) = read_old_keys(settings.old_signing_keys_file)
    assert old.key == before.verify_key
    assert before.serialize().split()[2] not in settings.old_signing_keys_file.read_text()
    for file in (settings.signing_key_file, settings.old_signing_keys_file):
        assert file.stat().st_mode & 0o777 == 0o600

    assert rotate_key(settings.data).returncode == 0
    assert [each.key for each in read_old_keys(settings.old_signing_keys_file)] == [
        before.verify_key, after.verify_key
    ]  # fmt: skip


def test_a_file_of_old_keys_that_cannot_be_read_is_named_with_the_line(settings: Settings) -> None:
    settings.old_signing_keys_file.write_text("# from before\n\ned25519:x nothing\n")
    with pytest.raises(ConfigurationError, match=r"line 3 of .*old-signing\.keys"):
        load_own_keys(settings)


def test_other_words_are_answered_with_the_usage(settings: Settings) -> None:
    words = ["--data", str(settings.data), "federation", "x"]
    command = [sys.executable, "-m", "yizhan_server", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "rotate-key" in done.stdout


@pytest.mark.slow
async def test_a_running_server_keeps_its_key(tmp_path: Path) -> None:
    server = await Homeserver.start(tmp_path)
    try:
        before = (tmp_path / "secrets/signing.key").read_text()
        done = await asyncio.to_thread(rotate_key, tmp_path)
        assert done.returncode == 78
        assert "stop it first" in done.stderr
        assert (tmp_path / "secrets/signing.key").read_text() == before
    finally:
        await server.stop()
    assert (await asyncio.to_thread(rotate_key, tmp_path)).returncode == 0
