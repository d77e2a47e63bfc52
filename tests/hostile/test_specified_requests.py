"""What the specification says may be asked, asked in every way: made by schemathesis.

Nothing is a 5xx, every error has the specification's shape. That every success has it, too, is seen
by what watches the server (`yizhan_testing.conformance`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yizhan_testing.specified_requests import (
    FILE,
    KnownTown,
    cases_of,
    labels,
    operations,
    send,
    town_in_thread,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KnownTown]:
    with town_in_thread(tmp_path_factory.mktemp("town")) as town:
        yield town


def test_every_operation_is_asked_for() -> None:
    assert len(labels()) > 160
    assert FILE.stat().st_size < 100_000


@pytest.mark.slow
@pytest.mark.parametrize("label", labels())
def test_whatever_is_asked_is_answered_in_the_specifications_way(
    town: KnownTown, label: str
) -> None:
    # The same requests on every run.
    ask(town, label, settings(max_examples=10, derandomize=True))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("label", labels())
def test_whatever_else_is_asked_is_too(town: KnownTown, label: str) -> None:
    ask(town, label, settings(max_examples=300))


def ask(town: KnownTown, label: str, how: settings) -> None:
    @settings(how, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        case=cases_of(operations()[label]),
        names_known=st.booleans(),
        has_token=st.sampled_from([True, True, True, False]),
    )
    def answered(case: Any, names_known: bool, has_token: bool) -> None:
        status, body = send(town, case, names_known=names_known, has_token=has_token)
        what = f"{case.method} {case.formatted_path} -> {status} {body!r:.300}"
        if status == 504:
            assert body["errcode"] == "M_NOT_YET_UPLOADED", what
        elif status >= 400 and not (status == 401 and "flows" in body):
            assert status < 500, what
            assert body["errcode"].startswith("M_"), what
            assert isinstance(body["error"], str), what

    answered()
