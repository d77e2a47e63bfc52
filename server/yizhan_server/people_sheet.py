"""The file of people that an institution brings, and the sheet of cards that it gets back.

The sheet is one self-contained HTML page in Chinese and English, a card per person to be printed,
cut and handed out. It holds passwords: whoever writes it makes it 0600.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from yizhan_server.admin.administration import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_COLUMNS = {
    "localpart": "localpart",
    "用户名": "localpart",
    "display_name": "display_name",
    "姓名": "display_name",
    "department": "department",
    "部门": "department",
    "email": "email",
    "邮箱": "email",
}
_REQUIRED = ("localpart", "display_name")
_MAX_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Person:
    """One row of the file."""

    localpart: str
    display_name: str
    department: str = ""
    email: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """What one person is handed."""

    person: Person
    user_id: str
    password: str


def read_people(path: Path) -> list[Person]:
    """Return the people of a CSV file in its order; Refusal names the line that is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refusal(
            f"无法读取 {path}：{error.strerror}。", f"{path} cannot be read: {error.strerror}."
        ) from None
    if len(data) > _MAX_BYTES:
        raise Refusal(f"{path} 超过 10 MB。", f"{path} exceeds 10 MB.")
    reader = csv.reader(io.StringIO(_decode(data, path), newline=""))
    try:
        header = next(reader, [])
        columns = [_COLUMNS.get(name.strip().lower(), "") for name in header]
        missing = [name for name in _REQUIRED if columns.count(name) != 1]
        if missing:
            raise Refusal(
                f"{path} 的第一行要有列名 localpart（用户名）和 display_name（姓名）"
                f"各一次；不对的是 {'、'.join(missing)}。",
                f"The first line of {path} must name the columns localpart and display_name, "
                f"once each; wrong: {', '.join(missing)}.",
            )
        people = [
            _person(dict(zip(columns, row, strict=False)), reader.line_num)
            for row in reader
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise Refusal(
            f"{path} 第 {reader.line_num} 行不是正确的 CSV：{error}。",
            f"Line {reader.line_num} of {path} is not CSV: {error}.",
        ) from None
    _refuse_doubles(people)
    return people


def _decode(data: bytes, path: Path) -> str:
    # What Excel saves on a Chinese Windows is one or the other.
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise Refusal(
        f"{path} 不是文本；请存为 UTF-8 的 CSV。", f"{path} is not text; save it as UTF-8."
    )


def _person(row: dict[str, str], line: int) -> Person:
    cells = {name: row.get(name, "").strip() for name in set(_COLUMNS.values())}
    if not cells["localpart"] or not cells["display_name"]:
        raise Refusal(
            f"第 {line} 行缺少用户名或姓名。", f"Line {line} lacks a user name or a display name."
        )
    return Person(**{**cells, "localpart": cells["localpart"].lower()})


def _refuse_doubles(people: Sequence[Person]) -> None:
    seen: set[str] = set()
    for person in people:
        if person.localpart in seen:
            raise Refusal(
                f"用户名 {person.localpart} 在文件中出现了两次。",
                f"The user name {person.localpart} occurs twice in the file.",
            )
        seen.add(person.localpart)


def make_sheet(cards: Sequence[Card], server_name: str, server_url: str) -> str:
    """Return the printable page."""
    return _PAGE.format(
        server_name=escape(server_name),
        count=len(cards),
        cards="\n".join(_card(card, server_url) for card in cards),
    )


def _card(card: Card, server_url: str) -> str:
    known = " · ".join(filter(None, (card.person.department, card.person.email)))
    return _CARD.format(
        name=escape(card.person.display_name),
        known=f"<span>{escape(known)}</span>" if known else "",
        server=escape(server_url),
        user_id=escape(card.user_id),
        password=escape(card.password),
    )


_PAGE = """<!DOCTYPE html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<meta name="robots" content="noindex">
<title>{server_name} · 账号卡片 · Account cards</title>
<style>
body {{ font: 11pt/1.5 system-ui, "Noto Sans CJK SC", "Microsoft YaHei", sans-serif; margin: 1cm;
  color: #000; background: #fff; }}
main {{ display: grid; grid-template-columns: 1fr 1fr; gap: 4mm; }}
article {{ border: 1px dashed #666; padding: 4mm; break-inside: avoid; }}
h2 {{ font-size: 13pt; margin: 0 0 2mm; }}
h2 span {{ font-weight: normal; font-size: 10pt; margin-inline-start: 1em; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 3mm; margin: 0; }}
dd {{ margin: 0; font-family: "DejaVu Sans Mono", Consolas, monospace; overflow-wrap: anywhere; }}
ol {{ margin: 2mm 0 0; padding-inline-start: 5mm; font-size: 9pt; }}
.warning {{ border: 2px solid #000; padding: 3mm; margin: 0 0 4mm; }}
@media (max-width: 40em) {{ main {{ grid-template-columns: 1fr; }} }}
@media print {{ .warning {{ display: none; }} }}
</style>
</head>
<body>
<p class="warning">本页有 {count} 个初始密码。请打印、裁开、当面交给本人，然后删除此文件。<br>
This page holds {count} initial passwords. Print it, cut it, hand each card to its owner, then
delete this file.</p>
<main>
{cards}
</main>
</body>
</html>
"""

_CARD = """<article>
<h2>{name}{known}</h2>
<dl>
<dt>服务器 Server</dt><dd>{server}</dd>
<dt>账号 Matrix ID</dt><dd>{user_id}</dd>
<dt>初始密码 Password</dt><dd>{password}</dd>
</dl>
<ol>
<li>在 Matrix 客户端中填入服务器地址，用账号和初始密码登录。<br>
Enter the server in a Matrix client and sign in.</li>
<li>立即修改密码，并妥善保存客户端给出的恢复密钥。<br>
Change the password at once, and keep the recovery key that the client gives you.</li>
</ol>
</article>"""
