"""What the bot says about itself, its menu and what it did not understand. Decides nothing."""

from __future__ import annotations

from . import Sentence

# The tutorial: five messages, the last one a practice request.
TUTORIAL_1 = Sentence(
    "您好，我是驿站助手：请假、报销、出差的申请和审批，都可以在这里办。\n"
    "For English, send: lang en",
    "Hello, I am the office bot (驿站助手). Requests for leave, expenses and business trips are"
    " made and decided here.\n要用中文，请发：语言 中文",
)
TUTORIAL_2 = Sentence(
    "和我说话不用记命令：发 0 看菜单，再发号码，我会一项一项地问。发“取消”随时退出。",
    "No commands to learn: send 0 for the menu, then a number, and I ask one thing at a time."
    " Send “cancel” to leave at any time.",
)
TUTORIAL_3 = Sentence(
    "申请：发 1 请假。也可以写成一句话：\n"
    "请假 开始=明天 天数=3 事由=探亲 审批人=@李四\n"
    "提交后，这里会有一张卡片，进展随时更新。",
    "To ask for leave, send 1, or write it in one line:\n"
    "leave start=tomorrow days=3 reason=family visit approver=@lisi\n"
    "A card here then always shows how it stands.",
)
TUTORIAL_4 = Sentence(
    "审批：每件事有一个代码，同意发“1 代码”，不同意发“2 代码”，也可以点投票。"
    "没有代码的话和表情都不算审批。\n"
    "这个房间是加密的，服务器看不到内容；我只认您已验证的设备发来的决定。",
    "To decide: each task has a code. Send “1 CODE” to approve, “2 CODE” to reject, or answer the"
    " poll. Words without the code and reactions never decide.\n"
    "This room is encrypted: the server cannot read it, and I accept decisions from your"
    " verified devices only.",
)
PRACTICE_REASON = Sentence("第一次练习审批", "A first decision, for practice")

# Menu and help.
MENU_TITLE = Sentence("发号码就行：", "Just send a number:")
MENU_ITEM = Sentence("{number} {label}", "{number} {label}")
MENU_HOW = Sentence(
    "审批：1 代码（同意）或 2 代码（不同意）。在群里，请在命令前加“!”，例如：!请假",
    "To decide: 1 CODE (approve) or 2 CODE (reject). In a group, put “!” before a command, as in:"
    " !leave",
)
HELP_LABEL = Sentence("菜单和帮助", "Menu and help")
TODO_LABEL = Sentence("待办（等我审批的）", "To do (waiting for my decision)")
MINE_LABEL = Sentence("我发起的", "My requests")
SHOW_LABEL = Sentence("查进度", "How a request stands")
WITHDRAW_LABEL = Sentence("撤回申请", "Withdraw a request")
URGE_LABEL = Sentence("催办", "Urge a decision")
STATISTICS_LABEL = Sentence("统计", "Statistics")
TUTORIAL_LABEL = Sentence("教程", "Tutorial")
LANGUAGE_LABEL = Sentence("语言 Language", "Language 语言")
TRUST_LABEL = Sentence("恢复成员的信任（管理员）", "Restore trust in a member (administrator)")
NEW_LABEL = Sentence("新建申请", "New request")
HELLO = Sentence("您好！", "Hello!")

# What was not understood.
SUGGESTIONS = Sentence(
    "没看懂“{text}”。您是不是想发：“{first}”或“{second}”？发 0 看菜单。",
    "I do not understand “{text}”. Did you mean “{first}” or “{second}”? Send 0 for the menu.",
)
SHORT_HINT = Sentence("还是没看懂。发 0 看菜单。", "Still not understood. Send 0 for the menu.")
UNEXPECTED = Sentence(
    "看不懂“{text}”。可以写的项目：{keys}，例如：{example}",
    "I cannot read “{text}”. These can be given: {keys}; for example: {example}",
)

# Filling in a form.
QUESTION = Sentence("【{form} {step}/{steps}】{question}", "[{form} {step}/{steps}] {question}")
CHOICE = Sentence("{number} {label}", "{number} {label}")
ASK_APPROVER = Sentence(
    "请谁审批？发号码，或写姓名。", "Who decides? Send a number, or write a name."
)
MORE_APPROVERS = Sentence(
    "还有 {count} 人没有列出，请写姓名。", "{count} more are not listed: write a name."
)
NOBODY_GREETED = Sentence(
    "还没有别的同事和我打过招呼。请审批人先私聊我（发一句“你好”），再来提交。",
    "No colleague has greeted me yet. Let the approver send me a direct message first, then ask"
    " again.",
)
APPROVER_WORD = Sentence("审批人", "Approver")
APPROVER_UNKNOWN = Sentence(
    "没有找到“{text}”。审批人要先私聊我打个招呼；名字请写全，或用 @用户:服务器。",
    "I do not know “{text}”. The approver must greet me in a direct message first; write the full"
    " name, or @user:server.",
)
APPROVER_AMBIGUOUS = Sentence(
    "叫“{text}”的不止一位，请写完整的账号：{people}",
    "There are several named “{text}”. Write the full id: {people}",
)
APPROVER_SELF = Sentence(
    "不能审批自己的申请，请换一位。", "Nobody decides their own request: choose somebody else."
)
CHOOSE_NUMBER = Sentence("请发 1 到 {count} 的号码。", "Send a number from 1 to {count}.")
CHOOSE_OR_WRITE = Sentence(
    "请发 1 到 {count} 的号码，或直接写内容。", "Send a number from 1 to {count}, or write it."
)
CONFIRM = Sentence(
    "请核对：\n{content}\n1 提交\n2 取消\n要改哪一项，直接写，例如：{example}",
    "Please check:\n{content}\n1 Submit\n2 Cancel\nTo change something, write it, for example:"
    " {example}",
)
CONFIRM_HOW = Sentence(
    "请发 1 提交，或 2 取消。要改哪一项，直接写，例如：{example}",
    "Send 1 to submit or 2 to cancel. To change something, write it, for example: {example}",
)
CANCELLED = Sentence("已取消，没有提交。", "Cancelled; nothing was submitted.")
NOTHING_TO_CANCEL = Sentence("没有正在填写的内容。", "There is nothing to cancel.")
CONTINUED_DIRECTLY = Sentence(
    "还有几项要问，我私聊您了。", "A few things are missing: I ask you in our direct room."
)
OPEN_TASKS_HINT = Sentence(
    "（您有 {count} 件待审批：审批要带代码，请发“待办”查看。）",
    "({count} wait for your decision: that needs the code; send “todo” to see it.)",
)
GIVE_REF = Sentence(
    "请带上编号，例如：{verb} 7K2M。", "Please give the number, for example: {verb} 7K2M."
)
WHICH_REQUEST = Sentence("哪一件？请发号码。", "Which one? Send its number.")
NONE_OPEN = Sentence("您没有审批中的申请。", "None of your requests is waiting for a decision.")
WHICH_LANGUAGE = Sentence("1 中文\n2 English", "1 中文\n2 English")
LANGUAGE_SET = Sentence(
    "以后我说中文。发“教程”可以再看一遍介绍。",
    "I shall speak English. Send “tutorial” to read the introduction again.",
)

# Members.
TRUST_WHOM = Sentence(
    "恢复谁的信任？请先当面或打电话确认本人换了身份，再写账号，例如：@lisi:example.org",
    "Trust in whom? First make sure, in person or by telephone, that they have a new identity;"
    " then write the id, for example @lisi:example.org",
)
TRUST_NOT_ADMINISTRATOR = Sentence(
    "只有管理员可以恢复成员的信任。请联系管理员。",
    "Only an administrator can restore trust in a member. Please ask one.",
)
TRUST_CHECK = Sentence(
    "{who} 现在的身份指纹是：\n{fingerprint}\n"
    "请当面或打电话确认本人确实换了身份。确认后请发送：\n!成员 信任 {command}",
    "The identity of {who} now has the fingerprint:\n{fingerprint}\n"
    "Make sure, in person or by telephone, that they do have a new identity. Then send:\n"
    "!member trust {command}",
)
TRUST_PINNED = Sentence(
    "已恢复 {who}，认可的身份指纹是：\n{fingerprint}\n已有的审批不受影响。",
    "{who} is trusted again, with the fingerprint:\n{fingerprint}\nPast decisions stay valid.",
)
TRUST_UNCHANGED = Sentence(
    "{who} 的身份没有变化，不需要恢复。", "The identity of {who} has not changed."
)
TRUST_NO_IDENTITY = Sentence(
    "{who} 还没有可用的身份（交叉签名）。请本人先在客户端里完成“设置安全备份/验证会话”。",
    "{who} has no valid cross-signing identity. Let them set it up in their client first.",
)
TRUST_REFUSED = Sentence(
    "不能在这里恢复 {who}：管理员的身份只能在服务器上用 yizhan bots trust 恢复。",
    "{who} cannot be restored here: an administrator is restored with “yizhan bots trust” on the"
    " machine only.",
)
TRUSTED_NOTICE = Sentence(
    "管理员已确认您的新身份，您可以照常办理和审批了。",
    "An administrator has confirmed your new identity: you can act and decide as before.",
)

# Who cannot be held to a message, and what to do about it. Free of secrets.
STANDINGS = {
    "unencrypted": Sentence(
        "这条消息没有加密，谁都可能改写，所以没有执行。请在加密的房间里用加密消息再发一次。",
        "This message was not encrypted, so anybody could have written it; nothing was done."
        " Please send it again, encrypted, in an encrypted room.",
    ),
    "unsigned_device": Sentence(
        "您这台设备还没有验证，所以没有执行。"
        "请在客户端的“设置 → 会话/加密”里验证这台设备，再发一次。",
        "The device that sent this is not verified, so nothing was done. Verify this device in"
        " your client (Settings, Sessions or Encryption) and send it again.",
    ),
    "identity_changed": Sentence(
        "您的加密身份换过了，所以没有执行。"
        "请联系管理员，当面确认后由管理员发送：!成员 信任 {sender}",
        "Your encryption identity has changed, so nothing was done. Ask an administrator to make"
        " sure that it is you and to send: !member trust {sender}",
    ),
    "second_hand_key": Sentence(
        "这条消息的密钥是转交或备份来的，不能证明是您发的，所以没有执行。请再发一次。",
        "The key of this message was forwarded or restored and does not prove who wrote it, so"
        " nothing was done. Please send it again.",
    ),
    "sender_mismatch": Sentence(
        "这条消息署名 {sender}，但不是用其密钥加密的，所以没有执行。请把这一情况告诉管理员。",
        "This message bears the name of {sender} but was not encrypted with their key, so nothing"
        " was done. Please tell your administrator.",
    ),
    "replayed": Sentence(
        "服务器把您以前的一条消息又送来一次，没有执行。如果要再办一次，请重新发送。",
        "The server delivered an earlier message of yours again; nothing was done. To do it"
        " again, please send it anew.",
    ),
}
ROOM_UNENCRYPTED = Sentence(
    "这个房间没有加密，办公事项只在加密的房间里办。请和我新开一个加密的私聊，或在房间设置里开启加密。",
    "This room is not encrypted, and office matters are handled in encrypted rooms only. Open an"
    " encrypted direct room with me, or switch encryption on in the room's settings.",
)
UNREADABLE = Sentence(
    "有一条您的消息我无法解密，所以没有执行，请再发一次。",
    "I could not decrypt a message of yours, so nothing was done. Please send it again.",
)
REACTION_HINT = Sentence(
    "表情没有加密，不算审批。请回复带代码的消息，发“待办”查看。",
    "Reactions are not encrypted and do not decide. Reply with the code; send “todo” to see it.",
)
LATE = Sentence(
    "您这条消息晚到了 {minutes} 分钟，没有执行：{text}\n如仍要办理，请再发一次。",
    "Your message came {minutes} minutes late and was not carried out: {text}\nIf you still want"
    " it, please send it again.",
)
