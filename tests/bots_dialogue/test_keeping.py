"""What is kept: canonical bytes, codes, the chain of events, and indexes rebuilt from it."""

from __future__ import annotations

import asyncio
import json
import tempfile
import unicodedata
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import canonicaljson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from typing_extensions import override

from yizhan_bots.approvals import storage
from yizhan_bots.approvals.canonical import canonical_bytes, digest
from yizhan_bots.approvals.codes import ALPHABET, code_of, fold_code, new_id
from yizhan_bots.approvals.events import (
    Action,
    BrokenChain,
    State,
    Step,
    Submission,
    apply,
    read_event,
    record_event,
)
from yizhan_bots.approvals.forms import FORMS
from yizhan_bots.storage import migrations
from yizhan_database import Transaction, open_database
from yizhan_testing.databases import StatementRecorder, fresh_database, opened_fresh
from yizhan_testing.office import Office

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_testing.office import Colleague

ONE_LINE = "请假 开始=明天 天数=3 事由=探亲 审批人=李四"

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(
    lambda text: unicodedata.normalize("NFC", text)
)
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | _texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcXYZ_0", max_size=4), inner, max_size=3)
    ),
)


@given(st.dictionaries(st.text("abcXYZ_0", max_size=4), _values, max_size=4))
def test_canonical_bytes_are_those_of_an_independent_writer(value: dict[str, Any]) -> None:
    expected = b"yizhan/approval-step/v1\n" + canonicaljson.encode_canonical_json(value)
    assert canonical_bytes("approval-step", value) == expected


@pytest.mark.parametrize("value", [1.0, 2**53, "e\u0301", "\ud800", b"x", {1: 2}, {"é": 1}, [0.5]])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_bytes("approval-step", {"value": value})


def test_a_code_changes_with_the_request_the_task_and_the_installation() -> None:
    codes = {
        code_of(secret, task, "7K2M", request)
        for secret in (b"a" * 32, b"b" * 32)
        for task in ("T1", "T2")
        for request in map(str, range(8))
    }
    # Two characters: 1024 codes, so that a few of 32 may meet, but not many.
    assert len(codes) >= 28
    assert all(code.startswith("7K2M") and set(code) <= set(ALPHABET) for code in codes)


@given(st.text(ALPHABET, min_size=6, max_size=6))
def test_a_code_is_read_however_it_is_typed(code: str) -> None:
    assert fold_code(code) == code
    assert fold_code(f"{code[:4]}-{code[4:]}".lower()) == code
    assert fold_code(code.replace("0", "o").replace("1", "l")) == code


def test_ids_sort_by_time() -> None:
    assert new_id(1_795_399_200_000) < new_id(1_795_399_200_001)
    assert len(new_id(0)) == 26


def test_forms_have_their_own_hash_and_distinct_keys() -> None:
    assert len({form.hash for form in FORMS.values()}) == len(FORMS)
    for form in FORMS.values():
        keys = [key for field in form.fields for key in field.keys]
        assert len(keys) == len(set(keys)), form.id


async def decided(office: Office) -> tuple[Colleague, str]:
    """Return an applicant and the id of a request of theirs that was approved."""
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says(ONE_LINE)
    await li.says(f"1 {li.code()}：一路平安")
    (request,) = await storage.requests_of(office.database, zhang.user_id)
    return zhang, request.id


async def test_each_event_is_canonical_names_the_one_before_and_says_who(office: Office) -> None:
    zhang, request_id = await decided(office)
    rows = await office.database.rows(
        "SELECT canonical FROM approval_event WHERE request = ? ORDER BY seq", request_id
    )
    chain = [bytes(row[0]) for row in rows]
    kinds, events = zip(*(c.split(b"\n", 1) for c in chain), strict=True)
    assert kinds == (
        b"yizhan/approval-request/v1",
        b"yizhan/approval-step/v1",
        b"yizhan/approval-step/v1",
    )
    submission, opened, decision = map(json.loads, events)
    assert submission["applicant"] == zhang.user_id
    assert submission["fields"] == {"start": "2026-11-24", "days": "3", "reason": "探亲"}
    assert opened["prev"] == "sha256:" + sha256(chain[0]).hexdigest()
    assert decision["prev"] == "sha256:" + sha256(chain[1]).hexdigest()
    assert decision["action"] == "approve"
    assert decision["opinion"] == "一路平安"
    assert decision["level"] == "L1"
    assert decision["evidence"]["device_id"] == "DEVICE"
    assert decision["evidence"]["master_key"] == f"key of {decision['actor']}"
    assert len(decision["evidence"]["digest"]) == 64


async def test_a_changed_event_is_noticed(office: Office) -> None:
    _zhang, request_id = await decided(office)
    (canonical,) = await office.database.row(
        "SELECT canonical FROM approval_event WHERE request = ? AND seq = 0", request_id
    ) or (b"",)
    forged = bytes(canonical).replace(b'"days":"3"', b'"days":"9"')
    assert forged != canonical
    # Once without, once with a fitting hash of its own.
    for stored in (digest(bytes(canonical)), digest(forged)):
        tx = Transaction()
        tx.execute(
            "UPDATE approval_event SET canonical = ?, hash = ? WHERE request = ? AND seq = 0",
            forged,
            stored,
            request_id,
        )
        await office.database.commit(tx)
        with pytest.raises(BrokenChain):
            await storage.find_request(office.database, request_id)


async def test_events_that_cannot_follow_do_not_fold(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says(ONE_LINE)
    (request,) = await storage.requests_of(office.database, zhang.user_id)
    good = Step(
        v=1,
        request=request.id,
        seq=request.rev,
        action=Action.APPROVE,
        actor=li.user_id,
        prev=request.head,
        level="L1",
        at="2026-11-23T02:00:00.000Z",
        task=request.tasks[0].id,
    )
    after = apply(request, record_event(good))
    assert after.state is State.APPROVED
    changes: list[dict[str, Any]] = [
        {"actor": zhang.user_id},
        {"seq": request.rev + 1},
        {"prev": request.digest},
        {"request": "another"},
        {"task": "another"},
        {"action": Action.WITHDRAW},
        {"action": Action.OPEN},
    ]
    for change in changes:
        with pytest.raises(BrokenChain):
            apply(request, record_event(Step(**(fields_of(good) | change))))
    second = Step(**(fields_of(good) | {"seq": after.rev, "prev": after.head}))
    with pytest.raises(BrokenChain):
        apply(after, record_event(second))
    with pytest.raises(BrokenChain):
        apply(None, record_event(good))


def fields_of(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in step.__struct_fields__}


def test_bytes_with_unknown_keys_or_another_spelling_are_no_event() -> None:
    event = Submission(
        v=1, id="I", ref="7K2M", template="leave", template_version=1, template_hash="h",
        applicant="@a:b", fields={}, created="2026-11-23T02:00:00.000Z", salt="00",
    )  # fmt: skip
    canonical = record_event(event).canonical
    assert read_event(canonical).event == event
    for forged in (
        canonical.replace(b'"v":1', b'"v":1,"w":1'),
        canonical.replace(b'"v":1', b'"v": 1'),
        canonical.replace(b"/v1", b"/v2"),
        canonical.replace(b"approval-request", b"approval-step"),
    ):
        with pytest.raises(BrokenChain):
            read_event(forged)


async def test_no_answer_reads_a_whole_table(tmp_path: Path) -> None:
    url = await fresh_database("sqlite", migrations, tmp_path)
    with StatementRecorder() as recorder:
        database = await open_database(url, migrations)
        office = await Office.open(database)
        zhang, _ = await decided(office)
        everything = [
            "待办",
            "我的",
            "统计",
            "进度",
            "撤回",
            "催办",
            "1",
            "明天",
            "2",
            "李四",
            "教程",
        ]
        for text in (*everything, f"进度 {zhang.ref()}"):
            await zhang.says(text)
        tx = Transaction()
        assert await storage.rebuild(database, tx) >= 1
        await database.commit(tx)
        await database.close()
    ours = [
        scan
        for scan in recorder.full_scans(Path(url.removeprefix("sqlite://")))
        if "approval_" in scan or "dialogue_" in scan or "office_" in scan
    ]
    assert [scan for scan in ours if "DELETE" not in scan] == []


async def projection(database: Database) -> tuple[list[Any], list[Any]]:
    return (
        await database.rows("SELECT * FROM approval_request ORDER BY id"),
        await database.rows("SELECT * FROM approval_task ORDER BY id"),
    )


class OfficeLife(RuleBasedStateMachine):
    """Three colleagues do anything in any order; the truth stays one and rebuilds the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.opened = opened_fresh("sqlite", migrations, Path(self.folder.name), Random(1))
        self.codes: list[str] = ["0000-00"]
        self.refs: list[str] = ["ZZZZ"]

    @initialize()
    def open(self) -> None:
        self.loop.run(self._open())

    async def _open(self) -> None:
        self.office = await Office.open(await self.opened.__aenter__())
        self.people = await self.office.newcomers("张三", "李四", "王五")

    @override
    def teardown(self) -> None:
        self.loop.run(self.opened.__aexit__(None, None, None))
        self.loop.close()
        self.folder.cleanup()

    @rule(who=st.integers(0, 2), whom=st.integers(0, 2), days=st.integers(1, 9))
    def asks(self, who: int, whom: int, days: int) -> None:
        approver = self.people[whom]
        line = f"请假 开始=明天 天数={days} 事由=探亲 审批人={approver.name}"
        self.loop.run(self.people[who].says(line))
        self.loop.run(self.people[who].says("取消"))
        if who != whom:
            self.codes.append(approver.code())
            self.refs.append(self.people[who].ref())

    @rule(who=st.integers(0, 2), which=st.integers(0), verdict=st.sampled_from("12"))
    def decides(self, who: int, which: int, verdict: str) -> None:
        self.loop.run(self.people[who].says(f"{verdict} {self.codes[which % len(self.codes)]}"))

    @rule(who=st.integers(0, 2), which=st.integers(0), late=st.integers(0, 20))
    def decides_late(self, who: int, which: int, late: int) -> None:
        sent_ms = self.office.now_ms - late * 60_000
        code = self.codes[which % len(self.codes)]
        self.loop.run(self.people[who].says(f"同意 {code}", sent_ms=sent_ms))

    @rule(
        who=st.integers(0, 2), which=st.integers(0), verb=st.sampled_from(["撤回", "催办", "进度"])
    )
    def acts(self, who: int, which: int, verb: str) -> None:
        self.loop.run(self.people[who].says(f"{verb} {self.refs[which % len(self.refs)]}"))

    @rule(who=st.integers(0, 2), which=st.integers(0))
    def crashes(self, who: int, which: int) -> None:
        decision = self.people[who].incoming_text(f"1 {self.codes[which % len(self.codes)]}")
        self.loop.run(self.office.delivers(decision, crash=True))
        self.loop.run(self.office.restart())

    @rule(minutes=st.integers(1, 90))
    def waits(self, minutes: int) -> None:
        self.office.passes(minutes)

    @invariant()
    def the_indexes_are_what_the_events_make(self) -> None:
        self.loop.run(self._check())

    async def _check(self) -> None:
        database = self.office.database
        before = await projection(database)
        tx = Transaction()
        await storage.rebuild(database, tx)
        await database.commit(tx)
        assert await projection(database) == before
        for (request_id,) in await database.rows("SELECT id FROM approval_request"):
            request = await storage.get_request(database, request_id)
            chain = [one.event for one in await storage.chain_of(database, request_id)]
            steps = [event for event in chain if isinstance(event, Step)]
            decisions = [s for s in steps if s.action in {Action.APPROVE, Action.REJECT}]
            assert len(decisions) <= 1
            assert all(s.actor == request.tasks[0].assignee for s in decisions)
            assert all(s.evidence is not None for s in decisions)
            ended = decisions or any(s.action is Action.WITHDRAW for s in steps)
            assert bool(ended) == (request.state is not State.OPEN)


TestOfficeLife = OfficeLife.TestCase
TestOfficeLife.settings = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
