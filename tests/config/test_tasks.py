import asyncio
import logging

import pytest

from yizhan_config.tasks import Background, EssentialTaskFailed


def fast() -> Background:
    return Background(first_delay=0.001, longest_delay=0.002)


async def test_a_kept_task_is_logged_with_its_traceback_and_starts_again_until_it_returns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempts: list[int] = []

    async def fails_twice() -> None:
        attempts.append(len(attempts))
        if len(attempts) < 3:
            raise ValueError("not yet")

    async with fast() as background:
        await background.keep("sender", fails_twice).wait()

    assert len(attempts) == 3
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [vars(record)["task"] for record in records] == ["sender", "sender"]
    assert all(record.exc_info and record.exc_info[0] is ValueError for record in records)


async def test_delays_grow_to_a_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempts = 0

    async def fails_four_times() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 5:
            raise ValueError

    async with Background(first_delay=0.001, longest_delay=0.003) as background:
        await background.keep("sender", fails_four_times).wait()

    assert [vars(record)["in_s"] for record in caplog.records] == [0.001, 0.002, 0.003, 0.003]


async def test_work_done_once_fails_aloud_and_does_not_start_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        raise ValueError("once")

    async with fast() as background:
        task = background.spawn("thumbnail", fails())
        await task.wait()
        assert background.names == []

    assert [record.getMessage() for record in caplog.records] == ["task failed"]
    assert vars(caplog.records[0])["task"] == "thumbnail"


async def test_the_failure_of_a_required_task_ends_who_waits_for_it() -> None:
    cause = ValueError("the writer is gone")

    async def fails() -> None:
        raise cause

    async with fast() as background:
        background.require("writer", fails)
        with pytest.raises(EssentialTaskFailed, match="writer") as ended:
            await background.failed()
    assert ended.value.__cause__ is cause


async def test_stopping_cancels_what_runs_and_refuses_what_comes_later() -> None:
    ended = asyncio.Event()

    async def runs_forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    background = fast()
    async with background:
        task = background.keep("follower", runs_forever)
        never_started = background.spawn("late", runs_forever())
        assert background.names == ["follower", "late"]
        await asyncio.sleep(0)

    assert task.cancelled
    assert never_started.cancelled
    assert ended.is_set()
    with pytest.raises(RuntimeError, match="follower"):
        background.keep("follower", runs_forever)


async def test_a_task_that_ignores_cancellation_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    background = fast()
    task = background.spawn("stubborn", stubborn())
    await asyncio.sleep(0)
    await background.stop(grace=0.01)
    release.set()
    await task.wait()

    assert [vars(record).get("task") for record in caplog.records] == ["stubborn"]
