"""Days, numbers of days, money and free text: read strictly, written out exactly.

A person writes 明天 or `next Monday`; the bot answers with the full date and its weekday, so
that a misunderstanding is seen at once. What is not in this grammar is refused with a
sentence that names the fix; nothing is ever guessed. No floats: money is integer fen, and a
number of days is a decimal string that ends in nothing or `.5`.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date, timedelta

from . import Language, Sentence

MAX_TEXT = 500
MAX_FEN = 10**11
"""One thousand million yuan: more is a slip of the finger."""
MAX_DAYS = 366

_ZH_DIGITS = {c: n for n, c in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2}
_ZH_RELATIVE = {"大前天": -3, "前天": -2, "昨天": -1, "今天": 0, "今日": 0, "明天": 1, "明日": 1}
_ZH_RELATIVE |= {"后天": 2, "大后天": 3}
_EN_RELATIVE = {"yesterday": -1, "today": 0, "tomorrow": 1, "day after tomorrow": 2}
_EN_RELATIVE |= {"the day after tomorrow": 2}
_EN_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_EN_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July",
    "August", "September", "October", "November", "December",
)  # fmt: skip
_ZH_WEEKDAYS = "一二三四五六日"

_ZH_NUMBER = r"(?:\d{1,2}|[〇零一二两三四五六七八九十]{1,3})"
_NUMERIC_DATE = re.compile(r"(\d{4})(?:[-/.](\d{1,2})[-/.](\d{1,2})|(\d{2})(\d{2}))")
_ZH_DATE = re.compile(rf"(?:(\d{{4}}|今|明|去)年)?({_ZH_NUMBER})月({_ZH_NUMBER})[日号]?")
_ZH_WEEKDAY = re.compile(r"(下下|下|本|这|上)?个?(?:周|星期|礼拜)([一二三四五六日天1-7])")
_ZH_IN_DAYS = re.compile(rf"({_ZH_NUMBER})天(?:后|之后|以后)")
_EN_WEEKDAY = re.compile(r"(?:(next|this|last) )?([a-z]+)")
_EN_IN_DAYS = re.compile(r"in (\d{1,2}) days?")
_EN_DAY_MONTH = re.compile(r"(\d{1,2})(?:st|nd|rd|th)? (?:of )?([a-z]+)\.?(?:,? (\d{4}))?")
_EN_MONTH_DAY = re.compile(r"([a-z]+)\.? (\d{1,2})(?:st|nd|rd|th)?(?:,? (\d{4}))?")
_UNSAFE = frozenset("\u200b\u200e\u200f\u2028\u2029\u2060\ufeff") | {
    chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""Characters that show nothing themselves but change how their neighbours are shown."""

DATE_UNKNOWN = Sentence(
    "看不懂日期“{text}”。可以写：明天、下周一、12月1日、2026-12-01。",
    "I cannot read the date “{text}”. Write: tomorrow, next Monday, 1 December, 2026-12-01.",
)
DATE_IMPOSSIBLE = Sentence(
    "“{text}”这一天不存在，请看看日历再写。",
    "There is no such day as “{text}”. Please look at a calendar.",
)
DATE_PAST_OR_NEXT = Sentence(
    "“{text}”今年已经过了。补办请写 {past}，明年请写 {next}。",
    "“{text}” is over this year. For the one that is past write {past}, for the next {next}.",
)
DATE_FAR = Sentence(
    "{date}离今天太远了（只接受前一年到后两年之间）。",
    "{date} is too far away (from one year ago to two years ahead is accepted).",
)
DAYS_UNKNOWN = Sentence(
    "看不懂天数“{text}”。可以写：3、1.5、半天，最多 366 天。",
    "I cannot read the number of days “{text}”. Write: 3, 1.5, half a day; at most 366.",
)
MONEY_UNKNOWN = Sentence(
    "看不懂金额“{text}”。请写人民币数目，如：128 或 128.50。",
    "I cannot read the amount “{text}”. Write it in yuan, like 128 or 128.50.",
)
TEXT_EMPTY = Sentence("这一项不能空着。", "This must not be empty.")
TEXT_LONG = Sentence(
    "太长了（{length} 个字），请写在 {limit} 个字以内。",
    "Too long ({length} characters): at most {limit}, please.",
)
HALF_A_DAY = Sentence("半天", "half a day")
SOME_DAYS = Sentence("{days} 天", "{days} days")
ONE_DAY = Sentence("1 天", "1 day")


class NotUnderstood(Exception):
    """What a person wrote does not fit; `sentence` and `values` say so and name the fix."""

    def __init__(self, sentence: Sentence, **values: object) -> None:
        super().__init__(sentence.en)
        self.sentence = sentence
        self.values = values

    def say(self, language: Language) -> str:
        """Return the sentence; dates among the values are written out."""
        shown = {
            k: write_date(v, language) if isinstance(v, date) else v for k, v in self.values.items()
        }
        return self.sentence(language, **shown)


def fold(text: str) -> str:
    """Return `text` with full-width ASCII as plain ASCII in lower case, of the same length.

    Of the same length, so that a position found in the folded text cuts the original.
    """
    return "".join(map(_fold_character, text))


def _fold_character(char: str) -> str:
    if "\uff01" <= char <= "\uff5e":
        char = chr(ord(char) - 0xFEE0)
    elif char in "\u3000\u00a0":
        char = " "
    lower = char.lower()
    return lower if len(lower) == 1 else char


def parse_text(text: str) -> str:
    """Return free text as one safe line in NFC, at most `MAX_TEXT` characters.

    One line, and without characters that turn the direction of writing: otherwise a reason
    could draw a second, false line on the card that an approver reads. NotUnderstood.
    """
    line = " ".join(clean_line(text).split())
    if not line:
        raise NotUnderstood(TEXT_EMPTY)
    if len(line) > MAX_TEXT:
        raise NotUnderstood(TEXT_LONG, length=len(line), limit=MAX_TEXT)
    return line


def clean_line(text: str) -> str:
    """Return `text` in NFC with control and direction characters as spaces."""
    normal = unicodedata.normalize("NFC", text)
    return "".join(
        " " if c in _UNSAFE or unicodedata.category(c) in {"Cc", "Cs"} else c for c in normal
    )


def parse_days(text: str) -> str:
    """Return a number of days as "0.5", "1", "1.5" ... "366". NotUnderstood otherwise."""
    folded = " ".join(fold(text).split())
    if folded in {"半天", "半日", "half a day", "half day"}:
        return "0.5"
    halves = _parse_halves(folded)
    if halves is None or not 0 < halves <= 2 * MAX_DAYS:
        raise NotUnderstood(DAYS_UNKNOWN, text=text.strip()[:40])
    return f"{halves // 2}.5" if halves % 2 else str(halves // 2)


def _parse_halves(folded: str) -> int | None:
    if match := re.fullmatch(r"(\d{1,3})(?:\.(0|5)0?)? ?(?:天|日|days?|d)?", folded):
        return 2 * int(match[1]) + (match[2] == "5")
    if match := re.fullmatch(rf"({_ZH_NUMBER})(?:天|日)(半)?", folded):
        whole = _zh_number(match[1])
        return None if whole is None else 2 * whole + (match[2] is not None)
    return None


def write_days(days: str, language: Language) -> str:
    """Return a canonical number of days in words."""
    if days == "0.5":
        return HALF_A_DAY(language)
    return ONE_DAY(language) if days == "1" else SOME_DAYS(language, days=days)


def parse_money(text: str) -> int:
    """Return an amount in fen; the person writes yuan. NotUnderstood otherwise."""
    folded = fold(text).strip()
    match = re.fullmatch(
        r"(?:¥|￥|rmb|cny)?\s*(\d{1,9}|\d{1,3}(?:,\d{3}){1,2})(?:\.(\d{1,2}))?\s*(?:元|块|yuan|rmb|cny)?",
        folded,
    )
    if match is None:
        raise NotUnderstood(MONEY_UNKNOWN, text=text.strip())
    fen = int(match[1].replace(",", "")) * 100 + int((match[2] or "").ljust(2, "0"))
    if not 0 < fen <= MAX_FEN:
        raise NotUnderstood(MONEY_UNKNOWN, text=text.strip())
    return fen


def write_money(fen: int, language: Language) -> str:
    """Return an amount in yuan with both decimals."""
    return f"{fen // 100:,}.{fen % 100:02d} " + ("元" if language == "zh" else "CNY")


def write_date(day: date, language: Language) -> str:
    """Return the full date with its weekday."""
    if language == "zh":
        return f"{day.year}年{day.month}月{day.day}日（星期{_ZH_WEEKDAYS[day.weekday()]}）"
    return f"{_EN_WEEKDAYS[day.weekday()]}, {day.day} {_EN_MONTHS[day.month - 1]} {day.year}"


def parse_date(text: str, today: date) -> date:
    """Return the one day that `text` names, in Chinese or English. NotUnderstood otherwise.

    周五 / `Friday` is the next one, today included; 下周一 / `next Monday` is that of the next
    week (weeks begin on Monday); a day of the year without a year is the nearest one, but one
    that has passed must be written with its year.
    """
    folded = " ".join(fold(text).split())
    day = _relative_day(folded, today) or _written_day(folded, text.strip(), today)
    if day is None:
        raise NotUnderstood(DATE_UNKNOWN, text=text.strip()[:40])
    if not -366 <= (day - today).days <= 731:
        raise NotUnderstood(DATE_FAR, date=day)
    return day


def _relative_day(folded: str, today: date) -> date | None:
    offset = _ZH_RELATIVE.get(folded, _EN_RELATIVE.get(folded))
    if offset is not None:
        return today + timedelta(days=offset)
    if match := _ZH_IN_DAYS.fullmatch(folded):
        number = _zh_number(match[1])
        return None if number is None else today + timedelta(days=number)
    if match := _EN_IN_DAYS.fullmatch(folded):
        return today + timedelta(days=int(match[1]))
    if match := _ZH_WEEKDAY.fullmatch(folded):
        weekday = "一二三四五六日1234567".find(match[2].replace("天", "日")) % 7
        weeks = {"上": -1, "本": 0, "这": 0, "下": 1, "下下": 2}
        return _weekday(today, weekday, weeks[match[1]] if match[1] else None)
    if match := _EN_WEEKDAY.fullmatch(folded):
        found = _name_index(match[2], _EN_WEEKDAYS)
        if found is not None:
            weeks = {"last": -1, "this": 0, "next": 1}
            return _weekday(today, found, weeks[match[1]] if match[1] else None)
    return None


def _weekday(today: date, weekday: int, week: int | None) -> date:
    if week is None:
        return today + timedelta(days=(weekday - today.weekday()) % 7)
    return today + timedelta(days=weekday - today.weekday() + 7 * week)


def _written_day(folded: str, text: str, today: date) -> date | None:
    if match := _NUMERIC_DATE.fullmatch(folded):
        return _day(int(match[1]), int(match[2] or match[4]), int(match[3] or match[5]), text)
    year: int | None = None
    if match := _ZH_DATE.fullmatch(folded):
        month, day = _zh_number(match[2]), _zh_number(match[3])
        if match[1]:
            near = {"去": -1, "今": 0, "明": 1}
            year = today.year + near[match[1]] if match[1] in near else int(match[1])
    elif match := _EN_DAY_MONTH.fullmatch(folded):
        month, day, written = _month(match[2]), int(match[1]), match[3]
        year = int(written) if written else None
    elif match := _EN_MONTH_DAY.fullmatch(folded):
        month, day, written = _month(match[1]), int(match[2]), match[3]
        year = int(written) if written else None
    else:
        return None
    if month is None or day is None:
        return None
    return _day(year, month, day, text) if year else _nearest_day(month, day, text, today)


def _nearest_day(month: int, day: int, text: str, today: date) -> date:
    this_year = _day(today.year, month, day, text)
    if this_year >= today:
        return this_year
    next_year = _day(today.year + 1, month, day, text)
    # In December 1月5日 can only be meant for the coming year; in March it could be either.
    if (next_year - today) * 2 < (today - this_year):
        return next_year
    raise NotUnderstood(
        DATE_PAST_OR_NEXT, text=text, past=this_year.isoformat(), next=next_year.isoformat()
    )


def _day(year: int, month: int, day: int, text: str) -> date:
    try:
        return date(year, month, day)
    except ValueError:
        raise NotUnderstood(DATE_IMPOSSIBLE, text=text) from None


def _month(word: str) -> int | None:
    found = _name_index(word, _EN_MONTHS)
    return None if found is None else found + 1


def _name_index(word: str, names: tuple[str, ...]) -> int | None:
    """Return the place of the one name that `word` is or abbreviates (three letters or more)."""
    if len(word) < 3:
        return None
    found = [i for i, name in enumerate(names) if name.lower().startswith(word)]
    return found[0] if len(found) == 1 else None


def _zh_number(text: str) -> int | None:
    """Return 0 to 99 written in digits or Chinese numerals, else None."""
    if text.isdecimal():
        return int(text)
    tens, ten, ones = text.rpartition("十")
    if not ten:
        return _ZH_DIGITS.get(text)
    high = _ZH_DIGITS.get(tens) if tens else 1
    low = _ZH_DIGITS.get(ones) if ones else 0
    return None if high is None or low is None else high * 10 + low
