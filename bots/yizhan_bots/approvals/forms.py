"""The forms that can be filled in: what each asks, how an answer is read and written out.

A form is data. A change of what it asks needs a new `version`: the hash of the form stands in
each request, so that it is known for ever which questions were answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import Enum
from functools import cached_property

from yizhan_bots.wording import Language, Sentence
from yizhan_bots.wording import values as wording

from .canonical import canonical_bytes, digest

Value = str | int


class Kind(Enum):
    """How the answer to a field is read, kept and written."""

    DATE = "date"
    """Kept as `2026-12-01`."""
    DAYS = "days"
    """Kept as `3` or `1.5`, a string: canonical bytes have no floats."""
    MONEY = "money"
    """Kept in fen, an integer."""
    TEXT = "text"
    """Kept as one line."""

    def parse(self, text: str, today: date) -> Value:
        """Return the value to keep. `wording.values.NotUnderstood` names the fix."""
        match self:
            case Kind.DATE:
                return wording.parse_date(text, today).isoformat()
            case Kind.DAYS:
                return wording.parse_days(text)
            case Kind.MONEY:
                return wording.parse_money(text)
            case Kind.TEXT:
                return wording.parse_text(text)

    def write(self, value: Value, language: Language) -> str:
        """Return a kept value as people read it."""
        match self:
            case Kind.DATE:
                return wording.write_date(date.fromisoformat(str(value)), language)
            case Kind.DAYS:
                return wording.write_days(str(value), language)
            case Kind.MONEY:
                return wording.write_money(int(value), language)
            case Kind.TEXT:
                return str(value)


@dataclass(frozen=True)
class Field:
    """One question of a form."""

    name: str
    kind: Kind
    label: Sentence
    question: Sentence
    words: tuple[str, ...]
    """What may stand before `=` in a command, besides the labels and the name."""
    choices: tuple[Sentence, ...] = ()
    """Common answers, offered by number; anything else may be written instead."""

    @cached_property
    def keys(self) -> frozenset[str]:
        """Everything that may stand before `=`, folded."""
        labels = (self.label.zh, self.label.en)
        return frozenset(wording.fold(k) for k in (self.name, *labels, *self.words))


@dataclass(frozen=True)
class Form:
    """One kind of request."""

    id: str
    version: int
    title: Sentence
    words: tuple[str, ...]
    """The commands that start it, besides its titles."""
    fields: tuple[Field, ...]
    offered: bool = True
    """False for the practice form, which only the tutorial starts."""

    @cached_property
    def hash(self) -> str:
        """The digest of what this form asks, as it stands in requests."""
        fields = [{"name": f.name, "kind": f.kind.value} for f in self.fields]
        form = {"v": 1, "id": self.id, "version": self.version, "fields": fields}
        return digest(canonical_bytes("template", form))

    def field(self, name: str) -> Field:
        """Return the field of that name."""
        return next(f for f in self.fields if f.name == name)


START = Field(
    "start",
    Kind.DATE,
    Sentence("开始", "Start"),
    Sentence(
        "从哪一天开始？例：明天、下周一、12月1日、2026-12-01。",
        "From which day? For example: tomorrow, next Monday, 1 December, 2026-12-01.",
    ),
    ("开始日期", "日期", "from", "date"),
)
DAYS = Field(
    "days",
    Kind.DAYS,
    Sentence("天数", "Length"),
    Sentence("一共几天？例：3、1.5、半天。", "How many days? For example: 3, 1.5, half a day."),
    ("天", "时长", "duration"),
)
LEAVE = Form(
    "leave",
    1,
    Sentence("请假", "Leave"),
    ("休假", "请假申请", "vacation", "holiday"),
    (
        START,
        DAYS,
        Field(
            "reason",
            Kind.TEXT,
            Sentence("事由", "Reason"),
            Sentence("什么事由？选一个号码，或直接写。", "What for? Choose a number, or write it."),
            ("原因", "理由", "why"),
            (
                Sentence("年休假", "Annual leave"),
                Sentence("病假", "Sick leave"),
                Sentence("事假", "Personal leave"),
                Sentence("探亲", "Visiting family"),
            ),
        ),
    ),
)
EXPENSE = Form(
    "expense",
    1,
    Sentence("报销", "Expense"),
    ("费用报销", "报账", "expenses", "reimbursement"),
    (
        Field(
            "amount",
            Kind.MONEY,
            Sentence("金额", "Amount"),
            Sentence("报销多少元？例：128.50。", "How much, in yuan? For example: 128.50."),
            ("费用", "钱", "money"),
        ),
        Field(
            "purpose",
            Kind.TEXT,
            Sentence("用途", "Purpose"),
            Sentence("用在哪里？选一个号码，或直接写。", "For what? Choose a number, or write it."),
            ("事由", "项目", "for", "reason"),
            (
                Sentence("差旅", "Travel"),
                Sentence("办公用品", "Office supplies"),
                Sentence("培训", "Training"),
                Sentence("公务接待", "Official reception"),
            ),
        ),
        Field(
            "spent",
            Kind.DATE,
            Sentence("日期", "Spent on"),
            Sentence(
                "哪一天花的？例：昨天、12月1日、2026-12-01。",
                "On which day? For example: yesterday, 1 December, 2026-12-01.",
            ),
            ("发生日期", "date"),
        ),
    ),
)
TRIP = Form(
    "trip",
    1,
    Sentence("出差", "Business trip"),
    ("出差申请", "trip", "travel"),
    (
        START,
        DAYS,
        Field(
            "place",
            Kind.TEXT,
            Sentence("地点", "Place"),
            Sentence("去哪里？", "Where to?"),
            ("目的地", "去", "to", "destination"),
        ),
        Field(
            "reason",
            Kind.TEXT,
            Sentence("事由", "Reason"),
            Sentence("什么事由？选一个号码，或直接写。", "What for? Choose a number, or write it."),
            ("原因", "理由", "why"),
            (
                Sentence("开会", "Meeting"),
                Sentence("培训", "Training"),
                Sentence("检查", "Inspection"),
                Sentence("调研", "Field study"),
            ),
        ),
    ),
)
PRACTICE = Form(
    "practice",
    1,
    Sentence("练习", "Practice"),
    (),
    (
        Field(
            "reason",
            Kind.TEXT,
            Sentence("事由", "Reason"),
            Sentence("什么事由？", "What for?"),
            (),
        ),
    ),
    offered=False,
)
FORMS = {form.id: form for form in (LEAVE, EXPENSE, TRIP, PRACTICE)}
