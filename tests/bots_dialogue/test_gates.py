"""Who may decide, and what a homeserver that tampers achieves: nothing, and it is recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from yizhan_bots.approvals import storage
from yizhan_bots.approvals.desk import access_witness
from yizhan_bots.approvals.events import State
from yizhan_bots.conversation import (
    PollAnswer,
    Redacted,
    Standing,
    Text,
    Undecryptable,
)

if TYPE_CHECKING:
    from yizhan_testing.office import Colleague, Office

ONE_LINE = "请假 开始=明天 天数=3 事由=探亲 审批人=李四"
UNHEARD = [standing for standing in Standing if standing is not Standing.VERIFIED]


async def state_of(zhang: Colleague) -> State:
    request, *_ = await storage.requests_of(zhang.office.database, zhang.user_id)
    return request.state


async def request_id(zhang: Colleague) -> str:
    request, *_ = await storage.requests_of(zhang.office.database, zhang.user_id)
    return request.id


@pytest.fixture
async def asked(office: Office) -> tuple[Colleague, Colleague, Colleague]:
    """张三 has asked 李四 for a leave; 王五 has nothing to do with it."""
    zhang, li, wang = await office.newcomers("张三", "李四", "王五")
    await zhang.says(ONE_LINE)
    for person in (zhang, li, wang):
        person.reads()
    return zhang, li, wang


Asked = tuple["Colleague", "Colleague", "Colleague"]


@pytest.mark.parametrize("standing", UNHEARD)
async def test_only_a_verified_author_decides_and_the_others_are_told_what_to_do(
    office: Office, asked: Asked, standing: Standing
) -> None:
    zhang, li, _ = asked
    for content in (Text(f"1 {li.code()}"), PollAnswer(f"{li.code()}:approve")):
        await office.delivers(li.incoming(content, standing=standing))
        (answer,) = li.reads()
        assert "没有执行" in answer
        assert li.code()[:4] not in answer
        assert "探亲" not in answer
        assert "张三" not in answer
    assert await state_of(zhang) is State.OPEN
    entry = ("refused", standing.value, standing.value, await request_id(zhang))
    assert await office.record() == [entry, entry]

    await li.says(f"1 {li.code()}")
    assert await state_of(zhang) is State.APPROVED


async def test_a_witness_needs_each_of_four_things(office: Office) -> None:
    li = office.person("李四")
    good = li.incoming_text("1 7K2M-93")
    witness = access_witness(good)
    assert witness is not None
    assert witness.actor.user_id == li.user_id
    for standing in UNHEARD:
        assert access_witness(replace(good, standing=standing)) is None
    assert access_witness(replace(good, actor=None)) is None
    assert access_witness(replace(good, sender="@other:office.test")) is None
    assert access_witness(replace(good, encrypted_room=False)) is None


async def test_a_verified_key_under_another_name_is_nobodys(office: Office, asked: Asked) -> None:
    # The homeserver shows 李四's encrypted decision as if 王五 had sent it, and the reverse.
    zhang, li, wang = asked
    for sender, author in ((wang, li), (li, wang)):
        theirs = author.incoming(Text(f"1 {li.code()}"))
        await office.delivers(replace(theirs, sender=sender.user_id))
    assert await state_of(zhang) is State.OPEN
    assert [detail for _, _, detail, _ in await office.record()] == ["sender_mismatch"] * 2


async def test_a_re_targeted_decision_decides_what_its_own_text_names(
    office: Office, asked: Asked
) -> None:
    zhang, li, _ = asked
    first = await request_id(zhang)
    code = li.code()
    office.passes(1)
    await zhang.says(ONE_LINE.replace("探亲", "看病"))
    # The relation, in clear, says that this answers the second card. The text does not.
    await office.delivers(li.incoming(Text(f"1 {code}", replies_to="$card-of-the-second")))
    states = {r.id: r.state for r in await storage.requests_of(office.database, zhang.user_id)}
    assert states.pop(first) is State.APPROVED
    assert list(states.values()) == [State.OPEN]


async def test_a_word_that_was_held_back_meets_no_other_request(
    office: Office, asked: Asked
) -> None:
    zhang, li, _ = asked
    await li.says("同意")
    assert "带上代码" in li.reads()[0]
    held = li.incoming_text(f"1 {li.code()}")
    office.passes(1)
    await zhang.says(f"撤回 {zhang.ref()}")
    await zhang.says(ONE_LINE)
    li.reads()
    await office.delivers(held)
    assert "已被申请人撤回" in li.reads()[0]
    assert await state_of(zhang) is State.OPEN
    assert (await office.record())[-1][:3] == ("refused", "verified", "closed")


@pytest.mark.parametrize("held_by_the_bot", [True, False])
async def test_a_late_decision_is_shown_and_not_carried_out(
    office: Office, asked: Asked, *, held_by_the_bot: bool
) -> None:
    zhang, li, _ = asked
    decision = li.incoming_text(f"2 {li.code()}")
    office.passes(11)
    # The homeserver may claim any time; what the bot itself has seen counts all the same.
    if held_by_the_bot:
        decision = replace(decision, sent_ms=office.now_ms)
    else:
        decision = replace(decision, received_ms=office.now_ms)
    await office.delivers(decision)
    (answer,) = li.reads()
    assert "晚到了 11 分钟" in answer
    again = answer.splitlines()[-1].partition("：")[2]
    assert await state_of(zhang) is State.OPEN
    assert (await office.record())[-1][0] == "late"
    await li.says(again)
    assert await state_of(zhang) is State.REJECTED


async def test_a_late_command_is_shown_and_a_late_question_is_answered(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    sent_ms = office.now_ms
    office.passes(30)
    await zhang.says(ONE_LINE, sent_ms=sent_ms)
    assert "晚到了 30 分钟" in zhang.reads()[0]
    assert li.reads() == []
    await zhang.says("0", sent_ms=sent_ms)
    assert "1 请假" in zhang.reads()[0]


async def test_a_replay_has_no_effect_and_one_decision_stays_one(
    office: Office, asked: Asked
) -> None:
    zhang, li, _ = asked
    await li.says(f"1 {li.code()}")
    li.reads()
    zhang.reads()
    await li.says(f"1 {li.code()}", standing=Standing.REPLAYED)
    assert "没有执行" in li.reads()[0]
    await li.says(f"1 {li.code()}")
    assert "已经同意过" in li.reads()[0]
    await li.says(f"2 {li.code()}")
    assert "不能改" in li.reads()[0]
    assert zhang.reads() == []
    assert await state_of(zhang) is State.APPROVED
    (request,) = await storage.requests_of(office.database, zhang.user_id)
    assert request.rev == 3
    assert sorted(matter for matter, *_ in await office.record()) == [
        "refused",
        "refused",
        "repeated",
    ]


async def test_decisions_in_another_order_are_those_of_their_own_codes(
    office: Office, asked: Asked
) -> None:
    zhang, li, _ = asked
    first = li.incoming_text(f"1 {li.code()}")
    office.passes(1)
    await zhang.says(ONE_LINE.replace("探亲", "看病"))
    second = li.incoming_text(f"2 {li.code()}")
    await office.delivers(second)
    await office.delivers(first)
    requests = await storage.requests_of(office.database, zhang.user_id)
    by_reason = {request.fields["reason"]: request.state for request in requests}
    assert by_reason == {"探亲": State.APPROVED, "看病": State.REJECTED}


async def test_a_reaction_decides_nothing_and_is_explained_once(
    office: Office, asked: Asked
) -> None:
    zhang, li, _ = asked
    await li.reacts("✅")
    await li.reacts("✅")
    (hint,) = li.reads()
    assert "表情" in hint
    assert await state_of(zhang) is State.OPEN
    assert [matter for matter, *_ in await office.record()] == ["reaction", "reaction"]


async def test_somebody_elses_and_a_wrong_code_are_refused_without_telling_more(
    office: Office, asked: Asked
) -> None:
    zhang, li, wang = asked
    code = li.code()
    wrong = code[:5] + ("0" if code[5] != "0" else "1")
    await wang.says(f"1 {code}")
    await wang.says(f"1 {wrong}")
    await wang.says("1 0000-00")
    not_yours, guess, unknown = wang.reads()
    assert "不由您审批" in not_yours
    assert "李四" not in not_yours
    assert guess.replace(wrong[:4] + "-" + wrong[4:], "0000-00") == unknown
    await li.says(f"1 {wrong}")
    assert "不符" in li.reads()[0]
    assert await state_of(zhang) is State.OPEN
    assert sorted(detail for _, _, detail, _ in await office.record()) == [
        "code_changed",
        "not_yours",
        "unknown_code",
        "unknown_code",
    ]
    await zhang.says(f"进度 {zhang.ref()}")
    assert "被拒绝（不是审批人）" in zhang.reads()[-1]


async def test_two_decisions_in_one_message_are_none(office: Office, asked: Asked) -> None:
    zhang, li, _ = asked
    for rest in (" 不行，我错了", f"\n2 {li.code()}", f"：2 {li.code()}"):
        await li.says(f"1 {li.code()}{rest}")
        assert "没有执行" in li.reads()[0]
    assert await state_of(zhang) is State.OPEN


async def test_in_a_room_without_encryption_there_is_help_only(
    office: Office, asked: Asked
) -> None:
    zhang, li, _ = asked
    await li.says(f"1 {li.code()}", encrypted_room=False, standing=Standing.UNENCRYPTED)
    await li.says("帮助", encrypted_room=False, standing=Standing.UNENCRYPTED)
    refused, helped = li.reads()
    assert "没有加密" in refused
    assert "1 请假" in helped
    assert await state_of(zhang) is State.OPEN


async def test_who_changed_identity_is_refused_restored_and_decides(
    office: Office, asked: Asked
) -> None:
    zhang, li, wang = asked
    code = li.code()
    li.master_key = office.pins.published[li.user_id] = "NewKeyOfLiSi" + "x" * 31
    await li.says(f"1 {code}", standing=Standing.IDENTITY_CHANGED)
    assert f"成员 信任 {li.user_id}" in li.reads()[0]

    await wang.says(f"!成员 信任 {li.user_id} NewKeyOfLiSi")
    assert "只有管理员" in wang.reads()[0]
    office.pins.administrators.add(wang.user_id)
    for standing in UNHEARD:
        await wang.says(f"!成员 信任 {li.user_id} NewKeyOfLiSi", standing=standing)
    wang.reads()
    await wang.says("!成员 信任 @李四", room_id="!admins:office.test")
    (check,) = wang.reads()
    assert "NewK eyOf LiSi" in check
    assert office.pins.pinned[li.user_id] != li.master_key
    await wang.says(check.splitlines()[-1])
    assert office.pins.pinned[li.user_id] == li.master_key
    assert "已恢复" in wang.reads()[0]
    assert "新身份" in li.reads()[0]
    trusts = [detail for matter, _, detail, _ in await office.record() if matter == "trust"]
    assert trusts == [f"pinned {li.user_id} {li.master_key}"]

    await li.says(f"1 {code}")
    assert await state_of(zhang) is State.APPROVED


async def test_trust_that_was_held_back_does_not_pin_what_was_put_in_the_persons_place(
    office: Office,
) -> None:
    li, chief = await office.newcomers("李四", "局长")
    office.pins.administrators.add(chief.user_id)
    pinned = office.pins.pinned[li.user_id]
    office.pins.published[li.user_id] = "TheRealNewKeyOfLiSi"
    held = chief.incoming_text(f"!成员 信任 {li.user_id} TheRealNewKe")
    office.pins.published[li.user_id] = "TheKeyOfTheHomeserver"
    await office.delivers(held)
    for proof in ("", "T", "TheRealNewKe", "theKeyOfTheH"):
        await chief.says(f"!成员 信任 {li.user_id} {proof}")
    assert office.pins.pinned[li.user_id] == pinned
    details = [detail for _, _, detail, _ in await office.record()]
    assert details == ["another_fingerprint"] * 4


async def test_an_unreadable_message_is_answered_once_until_a_readable_one(
    office: Office,
) -> None:
    (zhang,) = await office.newcomers("张三")
    unreadable = Undecryptable()
    for _ in range(3):
        await office.delivers(zhang.incoming(unreadable, standing=Standing.UNENCRYPTED))
    assert len(zhang.reads()) == 1
    await zhang.says("0")
    zhang.reads()
    await office.delivers(zhang.incoming(unreadable, standing=Standing.UNENCRYPTED))
    assert len(zhang.reads()) == 1


async def test_a_decision_shown_under_another_card_counts_for_its_code_and_is_on_record(
    office: Office, asked: Asked
) -> None:
    zhang, li, _ = asked
    first = await request_id(zhang)
    task, code = li.message("task:").key, li.code()
    office.passes(1)
    await zhang.says(ONE_LINE)
    other = li.message("task:").key
    assert other != task

    for content in (Text(f"1 {code}"), PollAnswer(f"{li.code()}:reject")):
        await office.delivers(li.incoming(content, attached_to=other))

    assert (await storage.get_request(zhang.office.database, first)).state is State.APPROVED
    assert await state_of(zhang) is State.REJECTED
    assert await office.record() == [("redirected", "verified", other, first)]
    zhang.reads()
    await zhang.says(f"进度 {code[:4]}")
    assert "被显示为对另一件事的回复" in zhang.reads()[0]


async def test_a_redaction_after_the_fact_undoes_nothing(office: Office, asked: Asked) -> None:
    zhang, li, _ = asked
    await li.says(f"1 {li.code()}")
    redacted = Redacted("$decision", before_execution=False)
    await office.delivers(li.incoming(redacted, standing=Standing.UNENCRYPTED))
    assert await state_of(zhang) is State.APPROVED
    assert (await office.record())[-1][0] == "redaction"


@pytest.mark.parametrize(
    "hostile", ["\0", "\ud800", "\u202e", "{0}{x.__class__}", "'; --", "%s", "长" * 60_000]
)
async def test_hostile_text_is_answered_like_any_other(office: Office, hostile: str) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    for text in (hostile, f"!{hostile}", f"请假 事由={hostile}", f"1 {li.code()}：{hostile}"):
        assert await li.says(text) is not None
    await zhang.says(f"请假 开始=明天 天数=1 事由=x{hostile[:300]} 审批人=李四")
    await zhang.says(f"撤回 {hostile}")
    await zhang.says(f"进度 {zhang.ref()}")
    await zhang.reacts(hostile)
    assert zhang.ref() in zhang.reads()[-1]
    assert await state_of(zhang) is State.OPEN
