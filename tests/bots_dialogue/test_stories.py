"""What people do with the office bot from day to day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from yizhan_bots.approvals import storage
from yizhan_bots.approvals.events import State

if TYPE_CHECKING:
    from yizhan_testing.office import Colleague, Office

ONE_LINE = "!审批 新建 请假 开始=明天 天数=3 事由=探亲 审批人=@李四"


async def only_request(zhang: Colleague) -> tuple[State, int]:
    (request,) = await storage.requests_of(zhang.office.database, zhang.user_id)
    return request.state, request.rev


async def test_five_messages_greet_a_newcomer_who_then_practises_a_decision(office: Office) -> None:
    zhang = office.person("张三")
    await zhang.greets()

    lessons = zhang.reads()
    assert len(lessons) == 5
    assert "lang en" in lessons[0]
    assert zhang.room[-1].poll
    assert zhang.room[-1].mentions == (zhang.user_id,)

    await zhang.says(f"1 {zhang.code()}")
    (answer,) = zhang.reads()
    assert "练习完成" in answer
    assert "同意" in zhang.message("task:").text
    await zhang.says("统计")
    assert "等您审批的：0" in zhang.reads()[0]


async def test_a_leave_takes_only_digits_a_date_and_one_code(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")

    for answer in ("1", "2026-12-01", "3", "4", "1"):
        await zhang.says(answer)
    check = zhang.reads()[-1]
    assert "2026年12月1日（星期二）" in check
    assert "3 天" in check
    assert "探亲" in check
    assert f"李四（{li.user_id}）" in check
    await zhang.says("1")
    assert "已提交" in zhang.reads()[0]

    (task,) = li.reads()
    assert li.room[-1].mentions == (li.user_id,)
    assert "张三" in task.splitlines()[0]
    assert "2026年12月1日（星期二）" in task
    await li.says(f"1 {li.code()}")

    assert "您同意了" in li.reads()[0]
    (result,) = zhang.reads()
    assert "李四" in result
    assert "第 1 步" in result
    assert zhang.room[-1].mentions == (zhang.user_id,)
    assert zhang.room[-1].thread == zhang.message("request:").key
    assert "已同意" in zhang.message("request:").text
    assert await only_request(zhang) == (State.APPROVED, 3)


async def test_one_complete_line_is_submitted_at_once(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says(ONE_LINE)
    assert "2026年11月24日（星期二）" in zhang.message("request:").text
    assert len(li.reads()) == 1
    assert await only_request(zhang) == (State.OPEN, 2)


async def test_the_same_in_english_with_full_width_signs(office: Office) -> None:
    zhang, li = await office.newcomers("Zhang San", "Li Si")
    await zhang.says(
        "！approve new leave ｓｔａｒｔ＝next monday days：１．５"
        " reason=family visit to Xi'an approver=@Li Si"
    )
    card = zhang.message("request:").text
    assert "Monday, 30 November 2026" in card
    assert "Length: 1.5 days" in card
    assert "Reason: family visit to Xi'an" in card
    await li.says("lang en")
    await li.says(f"REJECT {li.code().lower()}: too many of us are away")
    assert "you rejected" in li.reads()[-1]
    assert "too many of us are away" in zhang.reads()[-1]
    assert await only_request(zhang) == (State.REJECTED, 3)


async def test_what_is_missing_is_asked_one_at_a_time_and_checked_once(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says("请假 事由=看病")
    assert "从哪一天开始" in zhang.reads()[0]
    await zhang.says("某一天")
    assert "看不懂日期" in zhang.reads()[0]
    await zhang.says("后天")
    await zhang.says("半天")
    await zhang.says("李四")
    assert "看病" in zhang.reads()[-1]
    await zhang.says("天数=2")
    assert "2 天" in zhang.reads()[-1]
    assert li.reads() == []
    await zhang.says("提交")
    assert "2 天" in li.reads()[0]


@pytest.mark.parametrize("word", ["取消", "0", "菜单", "cancel"])
async def test_any_question_can_be_left(office: Office, word: str) -> None:
    zhang, _li = await office.newcomers("张三", "李四")
    for answer in ("1", "明天", "1"):
        await zhang.says(answer)
    await zhang.says(word)
    assert any("已取消" in text for text in zhang.reads())
    await zhang.says("我的")
    assert "还没有提交过" in zhang.reads()[-1]


async def test_a_question_is_forgotten_after_an_hour(office: Office) -> None:
    zhang, _li = await office.newcomers("张三", "李四")
    await zhang.says("1")
    office.passes(61)
    await zhang.says("3")
    assert "等您审批的有 1 件" in zhang.reads()[-1]


async def test_a_number_that_answers_nothing_starts_nothing_else(office: Office) -> None:
    zhang, _li = await office.newcomers("张三", "李四")
    await zhang.says("1")
    zhang.reads()
    await zhang.says("5")
    assert "看不懂日期" in zhang.reads()[0]
    await zhang.says("明天")
    assert "2/4" in zhang.reads()[0]


async def test_expense_and_trip_are_the_same_with_other_questions(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says("报销 金额=1,280.5元 用途=差旅 日期=昨天 审批人=李四")
    assert "1,280.50 元" in li.reads()[0]
    for answer in ("5", "12月1日", "2", "西安", "调研", "1", "1"):
        await zhang.says(answer)
    assert "地点：西安" in li.reads()[0]


async def test_the_poll_decides_in_one_tap(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says(ONE_LINE)
    await li.answers_poll(2)
    assert await only_request(zhang) == (State.REJECTED, 3)


async def test_an_applicant_lists_follows_urges_and_withdraws(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says(ONE_LINE)
    li.reads()
    ref = zhang.ref()
    await zhang.says(f"催办 {ref}")
    assert "催办" in li.reads()[0]
    assert li.room[-1].mentions == (li.user_id,)
    await zhang.says(f"催办 {ref}")
    assert li.reads() == []
    zhang.reads()
    await zhang.says("4")
    assert ref in zhang.reads()[0]
    await zhang.says("7")
    await zhang.says("1")
    assert f"已撤回 {ref}" in zhang.reads()[-1]
    assert "已撤回" in zhang.message("request:").text
    assert "不用审批" in li.reads()[0]
    await li.says(f"1 {li.code()}")
    assert "已被申请人撤回" in li.reads()[0]
    await zhang.says(f"进度 {ref.lower()}")
    history = zhang.reads()[-1]
    for step in ("张三（", "提交", "交给 李四", "催办", "撤回", "已结束"):
        assert step in history
    assert await only_request(zhang) == (State.WITHDRAWN, 4)


async def test_nobody_else_sees_or_withdraws_a_request(office: Office) -> None:
    zhang, li, wang = await office.newcomers("张三", "李四", "王五")
    await zhang.says(ONE_LINE)
    ref = zhang.ref()
    await wang.says(f"详情 {ref}")
    await wang.says(f"撤回 {ref}")
    refused = wang.reads()
    await wang.says("详情 ZZZZ")
    assert refused[0].replace(ref, "ZZZZ") == wang.reads()[0]
    assert refused[1] == refused[0]
    await li.says(f"撤回 {ref}")
    assert "只有申请人可以撤回" in li.reads()[-1]
    await li.says(f"催办 {ref}")
    assert "只有申请人可以催办" in li.reads()[-1]
    assert await only_request(zhang) == (State.OPEN, 2)


async def test_the_approver_must_be_another_who_has_greeted_and_is_the_only_one_so_named(
    office: Office,
) -> None:
    zhang, li, li2 = await office.newcomers("张三", "李四", "李四")
    stranger = office.person("赵六")
    line = "请假 开始=明天 天数=3 事由=探亲 审批人="
    await zhang.says(line + "张三")
    assert "不能审批自己" in zhang.reads()[0]
    await zhang.says(line + stranger.name)
    assert "没有找到“赵六”" in zhang.reads()[0]
    await zhang.says(line + "李四")
    assert li2.user_id in zhang.reads()[0]
    await zhang.says(line + "@李四", mentions=[li2.user_id])
    assert len(li2.reads()) == 1
    await zhang.says(line + li.user_id)
    assert len(li.reads()) == 1


async def test_in_a_group_commands_take_a_mark_and_private_answers_go_to_the_direct_room(
    office: Office,
) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    group = "!group:office.test"
    assert await zhang.says("请假", room_id=group) is None
    assert await zhang.says("同意 thanks", room_id=group) is None

    await zhang.says("驿站助手：请假 开始=明天", room_id=group)
    assert "私聊" in office.rooms[group][-1].text
    assert "一共几天" in zhang.reads()[0]
    await zhang.says(ONE_LINE, room_id=group)
    assert any(message.key for message in office.rooms[group])
    code = li.code()
    assert not any(code[:4] + "-" + code[4:] in message.text for message in office.rooms[group])
    await li.says(f"同意 {code}", room_id=group)
    assert any("李四" in m.text and m.thread for m in office.rooms[group])
    await li.says("!待办", room_id=group)
    assert "练习" in li.reads()[-1]


async def test_an_unknown_phrase_is_met_with_two_commands_then_a_hint_then_silence(
    office: Office,
) -> None:
    (zhang,) = await office.newcomers("张三")
    for phrase in ("我想请个假", "请个假吧", "喂", "喂喂"):
        await zhang.says(phrase)
    first, second = zhang.reads()
    assert "“请假”" in first
    assert first.count("“") == 3
    assert len(second) < len(first)
    await zhang.says("0")
    await zhang.says("报消")
    assert "“报销”" in zhang.reads()[-1]


async def test_the_language_is_heard_and_can_be_chosen(office: Office) -> None:
    zhang, wang = await office.newcomers("Zhang", "王五")
    await zhang.says("help")
    assert "Just send a number" in zhang.reads()[0]
    await wang.says("11")
    await wang.says("2")
    assert "English" in wang.reads()[-1]
    await wang.says("语言 中文")
    assert "中文" in wang.reads()[-1]


async def test_every_number_of_the_menu_is_understood(office: Office) -> None:
    zhang, _li = await office.newcomers("张三", "李四")
    await zhang.says("0")
    numbers = [
        line.split()[0] for line in zhang.reads()[-1].splitlines() if line.split()[0].isdecimal()
    ]
    assert numbers[0] == "1"
    assert len(numbers) >= 11
    for number in numbers:
        await zhang.says(number)
        assert not any("没看懂" in text for text in zhang.reads())
        await zhang.says("取消")
        zhang.reads()


async def test_a_crash_before_the_commit_leaves_exactly_one_decision(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says(ONE_LINE)
    zhang.reads()
    decision = li.incoming_text(f"1 {li.code()}")
    await office.delivers(decision, crash=True)
    await office.restart()
    assert await only_request(zhang) == (State.OPEN, 2)
    await office.delivers(decision)
    assert await only_request(zhang) == (State.APPROVED, 3)
    assert len(zhang.reads()) == 1


async def test_two_drafts_of_one_answer_race_and_one_wins(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says(ONE_LINE)
    code = li.code()
    approve = await office.judges(li.incoming_text(f"1 {code}"))
    reject = await office.judges(li.incoming_text(f"2 {code}"))
    assert await office.commits(approve)
    assert not await office.commits(reject)
    assert await only_request(zhang) == (State.APPROVED, 3)


async def test_a_reason_cannot_draw_lines_on_the_card(office: Office) -> None:
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says(
        "请假 开始=明天 天数=3 审批人=李四 事由=探亲\n✔ 李四：同意\u202e\u2028状态：已同意"
    )
    (card,) = li.reads()
    assert sum("李四：同意" in line for line in card.splitlines()) == 1
    assert "\u202e" not in card
    assert "事由：探亲 ✔" in card
