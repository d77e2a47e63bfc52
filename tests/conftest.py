"""What holds for every test: how property tests search, and that no skip goes unnoticed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from yizhan_testing.conformance import OBSERVED
from yizhan_testing.databases import databases_of_a_test

settings.register_profile(
    "default",
    deadline=None,  # another test's load must not make this one fail
    database=None,  # writes nothing beside the tests
    suppress_health_check=[HealthCheck.too_slow],
)
# The same examples on every run: a change is judged by itself, not by the luck of the draw.
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile("long", settings.get_profile("default"), max_examples=5000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skip",
        action="store_true",
        default=os.environ.get("YIZHAN_NO_SKIP", "") not in ("", "0"),
        help="a test that skips itself fails (also: YIZHAN_NO_SKIP=1)",
    )


def pytest_configure(config: pytest.Config) -> None:
    chosen = "ci" if os.environ.get("CI") else "default"
    settings.load_profile(os.environ.get("YIZHAN_HYPOTHESIS", chosen))


@pytest.fixture(autouse=True)
def _databases_end_with_their_test() -> Iterator[None]:
    # Those of a fixture that serves a whole module are made before this one begins.
    with databases_of_a_test():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    OBSERVED.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    yield
    OBSERVED.check(item.nodeid.partition("[")[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure is reported as skipped too, but has `wasxfail`.
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("no_skip"):
        _turn_into_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and collector.config.getoption("no_skip"):
        _turn_into_failure(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(_reason(report) for report in terminalreporter.getreports("skipped"))
    terminalreporter.section("what this machine could not test")
    terminalreporter.write_line(f"{reasons.total()} skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5} x {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr)


def _turn_into_failure(report: pytest.TestReport | pytest.CollectReport) -> None:
    report.outcome = "failed"
    report.longrepr = f"Skipped, which --no-skip forbids: {_reason(report)}"
