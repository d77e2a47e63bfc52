"""Dates, days, money, decisions and assignments as people write them; what is refused."""

from __future__ import annotations

import contextlib
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_bots.approvals.desk import Verdict
from yizhan_bots.dialogue.commands import COMMANDS, Verb, match_command, nearest_commands
from yizhan_bots.dialogue.grammar import (
    Decision,
    parse_assignments,
    parse_decision,
    parse_poll_answer,
    strip_address,
)
from yizhan_bots.wording.values import (
    NotUnderstood,
    fold,
    parse_date,
    parse_days,
    parse_money,
    parse_text,
    write_date,
    write_money,
)

if TYPE_CHECKING:
    from yizhan_bots.wording import Language

WEDNESDAY = date(2026, 11, 25)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("今天", "2026-11-25"),
        ("明天", "2026-11-26"),
        ("大后天", "2026-11-28"),
        ("昨天", "2026-11-24"),
        ("3天后", "2026-11-28"),
        ("十天后", "2026-12-05"),
        ("周三", "2026-11-25"),
        ("周二", "2026-12-01"),
        ("下周一", "2026-11-30"),
        ("本周一", "2026-11-23"),
        ("下个星期天", "2026-12-06"),
        ("下周7", "2026-12-06"),
        ("12月1日", "2026-12-01"),
        ("12月1号", "2026-12-01"),
        ("十二月一日", "2026-12-01"),
        ("十二月二十三", "2026-12-23"),
        ("１２月１日", "2026-12-01"),
        ("1月5日", "2027-01-05"),
        ("明年3月1日", "2027-03-01"),
        ("2026年12月1日", "2026-12-01"),
        ("2026-12-1", "2026-12-01"),
        ("2026/12/01", "2026-12-01"),
        ("20261201", "2026-12-01"),
        ("tomorrow", "2026-11-26"),
        ("Next Monday", "2026-11-30"),
        ("fri", "2026-11-27"),
        ("this friday", "2026-11-27"),
        ("in 3 days", "2026-11-28"),
        ("1 December", "2026-12-01"),
        ("1st of Dec", "2026-12-01"),
        ("Dec. 1, 2026", "2026-12-01"),
        ("the day after tomorrow", "2026-11-27"),
    ],
)
def test_a_date_is_the_one_day_that_it_names(text: str, day: str) -> None:
    assert parse_date(text, WEDNESDAY).isoformat() == day


@pytest.mark.parametrize(
    "text",
    [
        "", "某天", "明天下午", "12/1", "1.12", "12-1", "月底", "下周", "next week", "soon",
        "d", "ma 1", "2月30日", "2026-02-30", "2026-13-01", "13月1日", "0月0日", "10月1日",
        "1 October", "9999-12-31", "2020-01-01", "一百天后", "-1天后", "明天 后天", "下周八",
        "2026-12-01T00:00", "jun 31 2027",
    ],
)  # fmt: skip
def test_what_is_no_one_day_is_refused_and_the_fix_is_named(text: str) -> None:
    with pytest.raises(NotUnderstood) as refused:
        parse_date(text, WEDNESDAY)
    assert "2" in refused.value.say("zh") or "日历" in refused.value.say("zh")


@given(
    st.dates(WEDNESDAY - timedelta(365), WEDNESDAY + timedelta(730)),
    st.sampled_from(["zh", "en"]),
)
def test_a_date_as_it_is_echoed_reads_as_itself(day: date, language: Language) -> None:
    echoed = write_date(day, language)
    words = echoed.partition("（")[0] if language == "zh" else echoed.partition(", ")[2]
    assert parse_date(words, WEDNESDAY) == day


@given(st.text(max_size=12))
def test_no_text_breaks_the_readers(text: str) -> None:
    assert len(fold(text)) == len(text)
    for read in (lambda t: parse_date(t, WEDNESDAY), parse_days, parse_money, parse_text):
        with contextlib.suppress(NotUnderstood):
            read(text)
    parse_decision(text)
    match_command(text)
    parse_assignments(text, {"开始": "start", "start": "start"})


@pytest.mark.parametrize(
    ("text", "days"),
    [("3", "3"), ("３天", "3"), ("三天", "3"), ("两天半", "2.5"), ("半天", "0.5"), ("1.5", "1.5"),
     ("2.0", "2"), ("10 days", "10"), ("half a day", "0.5"), ("366", "366")],
)  # fmt: skip
def test_days(text: str, days: str) -> None:
    assert parse_days(text) == days


@pytest.mark.parametrize("text", ["0", "-1", "1.3", "367", "几天", "3-4", "1.5天半", "一周", ""])
def test_what_is_no_number_of_days_is_refused(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse_days(text)


@pytest.mark.parametrize(
    ("text", "fen"),
    [("128", 12800), ("128.5", 12850), ("¥1,280.05", 128005), ("128元", 12800), ("０.０１", 1)],
)
def test_money_is_kept_in_fen(text: str, fen: int) -> None:
    assert parse_money(text) == fen
    assert parse_money(write_money(fen, "zh")) == fen


@pytest.mark.parametrize("text", ["0", "1.234", "12,80", "-5", "一百", "1e3", "128$", ""])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse_money(text)


APPROVED = Decision(Verdict.APPROVE, "7K2M93", "")
REJECTED = Decision(Verdict.REJECT, "7K2M93", "")


@pytest.mark.parametrize(
    ("text", "decision"),
    [
        ("1 7K2M-93", APPROVED),
        ("１　７ｋ２ｍ－９３", APPROVED),
        ("1、7k2m93。", APPROVED),
        ("同意7K2M93", APPROVED),
        ("批准：7K2M 93", APPROVED),
        ("Approve 7k2m-93", APPROVED),
        ("2 7K2M-93", REJECTED),
        ("不同意 7K2M-93", REJECTED),
        ("驳回7k2m-93", REJECTED),
        ("rejected 7K2M93", REJECTED),
        ("1 O1IL-0o", Decision(Verdict.APPROVE, "011100", "")),
        ("同意 7K2M-93：请按预算执行", Decision(Verdict.APPROVE, "7K2M93", "请按预算执行")),
        ("2 7K2M-93, Ｂudget！\n spent", Decision(Verdict.REJECT, "7K2M93", "Ｂudget！ spent")),
        ("1 7K2M-93 不行", Decision(Verdict.APPROVE, "7K2M93", "", clear=False)),
    ],
)
def test_a_decision_is_a_verdict_and_a_code(text: str, decision: Decision) -> None:
    assert parse_decision(text) == decision


@pytest.mark.parametrize(
    "text",
    ["1", "同意", "17K2M93", "1 7K2M", "1 7K2M-933", "1 UUUU-UU", "3 7K2M-93", "我同意 7K2M-93",
     "approve list", "1 2026-12-01", "notice12", "okay1234"],
)  # fmt: skip
def test_anything_else_is_none(text: str) -> None:
    assert parse_decision(text) is None


def test_poll_answers_carry_code_and_verdict() -> None:
    assert parse_poll_answer("7K2M93:approve") == APPROVED
    assert parse_poll_answer("7K2M93:reject") == REJECTED
    for foreign in ("1", "7K2M:approve", "7K2M93:maybe", "7K2M93", ":approve", "yes:no:7K2M93"):
        assert parse_poll_answer(foreign) is None


def test_values_reach_to_the_next_known_key() -> None:
    keys = {"开始": "start", "事由": "reason", "reason": "reason", "start": "start"}
    given = parse_assignments("开始＝下周一 事由：回 家, 看 父母", keys)
    assert given.values == {"start": "下周一", "reason": "回 家, 看 父母"}
    assert given.stray == ""
    given = parse_assignments('明天 reason="a b" start=today', keys)
    assert given.values == {"reason": "a b", "start": "today"}
    assert given.stray == "明天"
    assert parse_assignments("开始=明天 天气=好", keys).stray == "天气=好"


@pytest.mark.parametrize(
    ("text", "verb", "rest"),
    [
        ("请假", Verb.FORM, ""),
        ("审批 新建 请假 开始=明天", Verb.FORM, "开始=明天"),
        ("审批新建请假", Verb.FORM, ""),
        ("Approve  New Leave days=3", Verb.FORM, "days=3"),
        ("审批 待办", Verb.TODO, ""),
        ("approve list", Verb.TODO, ""),
        ("撤回7K2M", Verb.WITHDRAW, "7K2M"),
        ("审批 详情 7K2M", Verb.SHOW, "7K2M"),
        ("成员　信任　@li:office.test", Verb.TRUST, "@li:office.test"),
        ("lang en", Verb.LANGUAGE, "en"),
        ("帮助！", Verb.HELP, ""),
    ],
)
def test_commands_are_matched_whole(text: str, verb: Verb, rest: str) -> None:
    matched = match_command(text)
    assert matched is not None
    assert (matched[0].verb, matched[1]) == (verb, rest)


@pytest.mark.parametrize("text", ["请假条在哪", "leaves", "todoist", "帮助同事", "开始请假"])
def test_a_word_within_a_word_is_no_command(text: str) -> None:
    assert match_command(text) is None


def test_every_word_of_the_table_finds_its_own_row() -> None:
    for command in COMMANDS:
        for word in (*command.zh, *command.en):
            matched = match_command(word)
            assert matched is not None
            assert matched[0] is command, word


@pytest.mark.parametrize(
    ("text", "language", "first"),
    [
        ("请个假行吗", "zh", "请假"),
        ("报消", "zh", "报销"),
        ("leav", "en", "leave"),
        ("withdrow", "en", "withdraw"),
    ],
)
def test_the_nearest_command_is_named(text: str, language: Language, first: str) -> None:
    assert nearest_commands(text, language)[0] == first


def test_the_bot_is_addressed_by_mark_or_name() -> None:
    names = ("驿站助手", "@yizhan:office.test")
    assert strip_address("！请假", names) == ("请假", True)
    assert strip_address("@驿站助手：请假", names) == ("请假", True)
    assert strip_address("@yizhan:office.test: !leave", names) == ("leave", True)
    assert strip_address("驿站助手在哪", names) == ("驿站助手在哪", False)
    assert strip_address("请假", names) == ("请假", False)
