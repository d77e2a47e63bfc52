"""Skips are counted with their reasons, and with --no-skip they are failures."""

import os
import re
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"

SUITE = """\
import pytest

@pytest.fixture
def engine():
    pytest.skip("no engine")

def test_skips_in_its_body():
    pytest.skip("no network namespace")

def test_skips_in_a_fixture(engine):
    pass

@pytest.mark.skipif(True, reason="no network namespace")
def test_skips_by_a_mark():
    pass

@pytest.mark.xfail(reason="known")
def test_fails_as_expected():
    assert False

def test_passes():
    pass
"""


def run(folder: Path, *options: str, **environment: str) -> str:
    (folder / "conftest.py").write_text(CONFTEST.read_text("utf-8"), "utf-8")
    (folder / "test_some.py").write_text(SUITE, "utf-8")
    (folder / "test_module.py").write_text("import pytest\npytest.importorskip('no_such')\n")
    inherited = {key: value for key, value in os.environ.items() if key != "YIZHAN_NO_SKIP"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, *options],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_skips_are_counted_with_their_reasons(tmp_path: Path) -> None:
    printed = run(tmp_path)

    assert "4 skipped\n" in printed
    assert "    2 x no network namespace\n" in printed
    assert "    1 x no engine\n" in printed
    assert "    1 x could not import 'no_such'" in printed
    assert "1 passed, 4 skipped, 1 xfailed" in printed


def test_a_run_without_skips_says_so_too(tmp_path: Path) -> None:
    assert "\n0 skipped\n" in run(tmp_path, "-k", "passes", "--ignore=test_module.py")


def test_skips_are_failures_where_everything_is_at_hand(tmp_path: Path) -> None:
    collected = "--continue-on-collection-errors"
    for printed in (
        run(tmp_path, "--no-skip", collected),
        run(tmp_path, collected, YIZHAN_NO_SKIP="1"),
    ):
        assert "Skipped, which --no-skip forbids: no network namespace" in printed
        assert "1 failed, 1 passed, 1 xfailed, 3 errors" in printed


def test_skips_are_failures_when_several_processes_share_the_tests(tmp_path: Path) -> None:
    printed = run(tmp_path, "--no-skip", "--ignore=test_module.py", "-n", "2")

    assert "1 failed, 1 passed, 1 xfailed, 2 errors" in printed


def test_every_debian_package_has_a_reason() -> None:
    lines = CONFTEST.with_name("debian-packages.txt").read_text("utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]

    assert wanted
    assert [line for line in wanted if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+ +\S.+", line)] == []
