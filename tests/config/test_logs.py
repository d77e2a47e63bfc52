import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from yizhan_config import logs
from yizhan_config.settings import Logging

log = logging.getLogger("yizhan_server.rooms")


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def configured(section: Logging) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(section, stream)
    return stream


def test_a_record_is_one_line_with_its_fields_and_those_of_its_context() -> None:
    stream = configured(Logging())
    with logs.fields(request_id="r1"):
        log.warning("pdu soft-failed", extra={"event_id": "$a"})
    log.warning("later")

    first, second = stream.getvalue().splitlines()
    assert first.endswith("WARNING yizhan_server.rooms pdu soft-failed request_id=r1 event_id=$a")
    assert second.endswith("later")


async def test_tasks_started_in_a_context_keep_its_fields() -> None:
    stream = configured(Logging(format="json"))

    async def work() -> None:
        log.info("worked")

    async with asyncio.TaskGroup() as group:
        with logs.fields(user_id="@a:b"):
            group.create_task(work())

    assert json.loads(stream.getvalue())["user_id"] == "@a:b"


def test_json_lines_hold_level_logger_message_and_traceback() -> None:
    stream = configured(Logging(format="json"))
    try:
        int("本地")
    except ValueError:
        log.exception("failed", extra={"count": 3, "where": {1}})

    record = json.loads(stream.getvalue())
    assert record["level"] == "ERROR"
    assert record["logger"] == "yizhan_server.rooms"
    assert (record["message"], record["count"], record["where"]) == ("failed", 3, "{1}")
    assert "本地" in record["exception"]


def test_text_from_strangers_cannot_forge_a_line() -> None:
    stream = configured(Logging())
    log.info("refused", extra={"value": "a\n2026 CRITICAL fake"})

    assert len(stream.getvalue().splitlines()) == 1
    assert "a\\n2026" in stream.getvalue()


def test_records_below_the_level_are_not_written() -> None:
    stream = configured(Logging(level="warning"))
    log.info("quiet")
    assert stream.getvalue() == ""
