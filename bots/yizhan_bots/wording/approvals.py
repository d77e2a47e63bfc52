"""What the bot says about requests and decisions. Decides nothing."""

from __future__ import annotations

from . import Sentence

# Cards. Every card is complete as text, for clients without polls, threads or edits.
CARD_TITLE = Sentence("【{form}】{applicant}　编号 {ref}", "[{form}] {applicant}, no. {ref}")
CARD_FIELD = Sentence("{label}：{value}", "{label}: {value}")
CARD_STATE = Sentence("状态：{state}", "Status: {state}")
CARD_HINT = Sentence(
    "可发送：进度 {ref} ｜ 撤回 {ref} ｜ 催办 {ref}",
    "You can send: show {ref} | withdraw {ref} | urge {ref}",
)
STEP_WAITING = Sentence("… {assignee}：待审批", "… {assignee}: to decide")
STEP_APPROVED = Sentence("✔ {assignee}：同意（{at}）", "✔ {assignee}: approved ({at})")
STEP_REJECTED = Sentence("✘ {assignee}：不同意（{at}）", "✘ {assignee}: rejected ({at})")
STEP_VOID = Sentence("－ {assignee}：未审批", "- {assignee}: not decided")
STEP_OPINION = Sentence("　意见：{opinion}", "  Opinion: {opinion}")
STATE_OPEN = Sentence("审批中", "waiting for a decision")
STATE_APPROVED = Sentence("已同意", "approved")
STATE_REJECTED = Sentence("未同意", "rejected")
STATE_WITHDRAWN = Sentence("已撤回", "withdrawn")

TASK_TITLE = Sentence(
    "请您审批：{applicant} {form}　代码 {code}",
    "For your decision: {applicant}, {form}, code {code}",
)
TASK_HOW = Sentence(
    "同意请回复：1 {code}\n不同意请回复：2 {code}\n"
    "可附意见：1 {code}：请按时返岗\n表情符号不算审批。",
    "To approve, reply: 1 {code}\nTo reject, reply: 2 {code}\n"
    "With an opinion: 1 {code}: safe travels\nA reaction does not count.",
)
POLL_APPROVE = Sentence("1 同意 {code}", "1 Approve {code}")
POLL_REJECT = Sentence("2 不同意 {code}", "2 Reject {code}")
BOT_NAME = Sentence("驿站助手", "the office bot")

# Submitting.
SUBMITTED = Sentence(
    "已提交，编号 {ref}，等 {assignee} 审批。有结果会在这里告诉您。",
    "Submitted as no. {ref}; {assignee} will decide. You will hear the result here.",
)

# Deciding.
DECIDED_APPROVED = Sentence(
    "已记录（第 {node} 步）：您同意了 {applicant} 的{form}（{ref}）。",
    "Recorded (step {node}): you approved the request of {applicant} ({form}, {ref}).",
)
DECIDED_REJECTED = Sentence(
    "已记录（第 {node} 步）：您没有同意 {applicant} 的{form}（{ref}）。",
    "Recorded (step {node}): you rejected the request of {applicant} ({form}, {ref}).",
)
RESULT_APPROVED = Sentence(
    "✔ 第 {node} 步：{assignee} 同意了您的{form}（{ref}）。",
    "✔ Step {node}: {assignee} approved your request ({form}, {ref}).",
)
RESULT_REJECTED = Sentence(
    "✘ 第 {node} 步：{assignee} 没有同意您的{form}（{ref}）。",
    "✘ Step {node}: {assignee} rejected your request ({form}, {ref}).",
)
PRACTICE_DONE = Sentence(
    "练习完成：您刚才做了一次真正的审批，步骤和真的一样。发 0 随时看菜单。",
    "Practice done: you have just decided a request, in the very same way as a real one."
    " Send 0 for the menu at any time.",
)

# Refusals: each names the fix, none tells what is not the reader's.
UNKNOWN_CODE = Sentence(
    "没有找到代码为 {code} 的待办。请核对代码，或发“待办”查看。",
    "There is no task with the code {code}. Please check it, or send “todo”.",
)
NOT_YOURS = Sentence(
    "代码 {code} 的事项不由您审批，所以没有执行。您的事项请发“待办”查看。",
    "The task {code} is not yours to decide, so nothing was done. Send “todo” for yours.",
)
CODE_CHANGED = Sentence(
    "代码 {code} 与现在的申请不符（申请内容可能变了），所以没有执行。请发“待办”看最新内容和代码。",
    "The code {code} does not fit the request as it is now (it may have changed), so nothing was"
    " done. Send “todo” for its present content and code.",
)
CLOSED_WITHDRAWN = Sentence(
    "{ref} 已被申请人撤回，不用审批了。", "{ref} was withdrawn by its applicant: no need to decide."
)
CLOSED_OTHERWISE = Sentence(
    "{ref} 已经结束，不用审批了。", "{ref} is already closed: no need to decide."
)
ALREADY_APPROVED = Sentence(
    "您在 {at} 已经同意过 {ref}，不会重复处理。",
    "You already approved {ref} on {at}; it is not done twice.",
)
ALREADY_REJECTED = Sentence(
    "您在 {at} 已经对 {ref} 表示不同意，不会重复处理。",
    "You already rejected {ref} on {at}; it is not done twice.",
)
CANNOT_REVERSE = Sentence(
    "决定已经生效，不能改。需要更正请让申请人重新提交。",
    "The decision stands. To correct it, the applicant submits a new request.",
)
CODE_NEEDED = Sentence(
    "审批时一定要带上代码，例如：1 7K2M-93。请发“待办”查看您的代码。",
    "A decision always needs its code, for example: 1 7K2M-93. Send “todo” to see yours.",
)
CODE_MALFORMED = Sentence(
    "代码是 4 位加 2 位，例如：1 7K2M-93。请再发一次。",
    "A code has 4 and 2 characters, for example: 1 7K2M-93. Please send it again.",
)
OPINION_UNCLEAR = Sentence(
    "没有执行：意见请写在冒号后面，一条消息只审批一件。例：1 {code}：请按时返岗",
    "Nothing was done: write the opinion after a colon, and one decision in one message."
    " For example: 1 {code}: safe travels",
)
LATE_DECISION = Sentence(
    "您这条消息晚到了 {minutes} 分钟（代码 {code}），没有执行，以免您已经改了主意。\n"
    "如仍要审批，请再发：{digit} {code}",
    "Your message came {minutes} minutes late (code {code}) and was not carried out, in case you"
    " have changed your mind.\nIf you still want it, send again: {digit} {code}",
)

# Lists.
TODO_NONE = Sentence("您没有待审批的事项。", "Nothing waits for your decision.")
TODO_TITLE = Sentence("等您审批的有 {count} 件：", "{count} waiting for your decision:")
TODO_ITEM = Sentence(
    "{code}　{applicant}　{form}　{summary}", "{code}  {applicant}  {form}  {summary}"
)
TODO_HOW = Sentence(
    "审批请回复：1 代码（同意）或 2 代码（不同意）；看内容请发：详情 代码",
    "To decide, reply: 1 CODE (approve) or 2 CODE (reject); to read one: show CODE",
)
MINE_NONE = Sentence(
    "您还没有提交过申请。发 1 请假。", "You have no requests yet. Send 1 for leave."
)
MINE_TITLE = Sentence("您最近的申请：", "Your latest requests:")
MINE_ITEM = Sentence("{ref}　{form}　{summary}　{state}", "{ref}  {form}  {summary}  {state}")
MINE_HOW = Sentence("看详细情况请发：进度 编号", "To see one of them in detail, send: show NUMBER")
STATISTICS = Sentence(
    "您提交的：审批中 {open}，已同意 {approved}，未同意 {rejected}，已撤回 {withdrawn}。\n"
    "等您审批的：{waiting}。",
    "Submitted by you: {open} waiting, {approved} approved, {rejected} rejected,"
    " {withdrawn} withdrawn.\nWaiting for your decision: {waiting}.",
)

# One request.
NO_SUCH_REQUEST = Sentence(
    "没有找到编号 {ref}。请发“我发起的”或“待办”查看编号。",
    "There is no request {ref}. Send “mine” or “todo” to see the numbers.",
)
HISTORY_TITLE = Sentence("经过：", "History:")
HISTORY_SUBMITTED = Sentence("{at}　{who} 提交", "{at}  {who} submitted it")
HISTORY_OPENED = Sentence("{at}　第 {node} 步交给 {who} 审批", "{at}  step {node} given to {who}")
HISTORY_APPROVED = Sentence("{at}　{who} 同意", "{at}  {who} approved it")
HISTORY_REJECTED = Sentence("{at}　{who} 不同意", "{at}  {who} rejected it")
HISTORY_WITHDRAWN = Sentence("{at}　{who} 撤回", "{at}  {who} withdrew it")
HISTORY_URGED = Sentence("{at}　{who} 催办", "{at}  {who} urged")
HISTORY_REFUSED = Sentence(
    "{at}　以 {who} 的名义发来的消息被拒绝（{why}）",
    "{at}  a message in the name of {who} was refused ({why})",
)
HISTORY_REDIRECTED = Sentence(
    "{at}　{who} 的决定被显示为对另一件事的回复；以其中的代码为准",
    "{at}  the decision of {who} was shown as an answer to another task; its code counts",
)
WHY = {
    "unencrypted": Sentence("未加密", "not encrypted"),
    "unsigned_device": Sentence("设备未验证", "device not verified"),
    "identity_changed": Sentence("身份已更换", "identity changed"),
    "second_hand_key": Sentence("密钥来自转交", "second-hand key"),
    "sender_mismatch": Sentence("发件人与密钥不符", "sender does not own the key"),
    "replayed": Sentence("重放", "replayed"),
    "not_yours": Sentence("不是审批人", "not the approver"),
    "code_changed": Sentence("代码不符", "wrong code"),
    "closed": Sentence("已结束", "already closed"),
    "late": Sentence("晚到", "late"),
}

# Withdrawing and urging.
WITHDRAWN = Sentence("已撤回 {ref}。", "{ref} is withdrawn.")
WITHDRAWN_NOTICE = Sentence(
    "{applicant} 撤回了{form}（{ref}），不用审批了。",
    "{applicant} withdrew the request ({form}, {ref}): no need to decide.",
)
NOT_OPEN = Sentence(
    "{ref} 已经结束（{state}），不能再{verb}。", "{ref} is closed ({state}): too late to {verb}."
)
NOT_APPLICANT = Sentence(
    "{ref} 不是您提交的，只有申请人可以{verb}。",
    "You did not submit {ref}: only its applicant can {verb}.",
)
VERB_WITHDRAW = Sentence("撤回", "withdraw")
VERB_URGE = Sentence("催办", "urge")
URGED = Sentence("已提醒 {assignee} 审批 {ref}。", "{assignee} was reminded of {ref}.")
URGED_ALREADY = Sentence(
    "{ref} 刚催办过，请 {minutes} 分钟后再催。",
    "{ref} was urged just now; again in {minutes} minutes.",
)
URGE_TITLE = Sentence(
    "催办：{applicant} 的{form}还在等您审批，代码 {code}",
    "A reminder: the request of {applicant} ({form}) waits for you, code {code}",
)
