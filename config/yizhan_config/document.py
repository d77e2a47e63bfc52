"""Turning a TOML or JSON file into frozen sections, with errors that name key, line and remedy.

Knows nothing of what the sections are: `settings` declares them.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from yizhan_config.address import Address
from yizhan_config.errors import ConfigurationError
from yizhan_config.key_lines import KeyLines, find_json_key_lines, find_toml_key_lines

KeyPath = tuple[str, ...]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file. Fields of type `Path` are relative to the data folder."""


S = TypeVar("S", bound=Section)


class Document:
    """The file that settings come from, and the voice in which its faults are told."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lines: KeyLines = {}

    def read(self) -> dict[str, Any]:
        """Parse the file; a ConfigurationError if it is absent, unreadable or malformed."""
        if self.path is None:
            return {}
        text = self._read_text(self.path)
        is_json = self.path.suffix == ".json"
        try:
            values = json.loads(text) if is_json else tomllib.loads(text)
        except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
            kind = "JSON" if is_json else "TOML"
            at = re.search(r"line (\d+)", str(error))
            raise ConfigurationError(
                f"{self.path} 不是正确的 {kind}：{error}；请更正这一处。",
                f"{self.path} is not valid {kind}: {error}; correct that place.",
                line=int(at[1]) if at else None,
            ) from None
        if not isinstance(values, dict):
            raise ConfigurationError(
                f"{self.path} 的最外层不是对象；请把所有键放进 {{...}}。",
                f"{self.path} does not hold an object; put its keys between {{ and }}.",
            )
        self._lines = (find_json_key_lines if is_json else find_toml_key_lines)(text)
        return values

    def convert(self, kind: type[S], given: Mapping[str, object], data: Path) -> S:
        """Make the root section from the values `given`; paths are resolved against `data`."""
        return self._convert_section(kind, None, given, data, ())

    def refuse(self, at: KeyPath, *, zh: str, en: str) -> NoReturn:
        """Raise the error that `at` is wrong; `en` continues "KEY (line N of FILE) ..."."""
        line = self._find_line(at)
        where_zh = f"（{self.path} 第 {line} 行）" if line else ""
        where_en = f" (line {line} of {self.path})" if line else ""
        key = _dotted(at)
        raise ConfigurationError(
            f"{key}{where_zh}{zh}。", f"{key}{where_en} {en}.", key=key, line=line
        )

    def _convert_section(
        self, kind: type[S], default: S | None, given: object, data: Path, at: KeyPath
    ) -> S:
        if not isinstance(given, Mapping):
            table = f"[{_dotted(at)}]"
            self.refuse(at, zh=f"应为一节；请写成 {table}", en=f"must be a table; write {table}")
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for name in given:
            if name not in fields:
                self._refuse_unknown((*at, name), list(fields))
        values: dict[str, Any] = {}
        for name, field in fields.items():
            path = (*at, name)
            fallback = getattr(default, name) if default else field.default
            if isinstance(fallback, Section):
                values[name] = self._convert_section(
                    type(fallback), fallback, given.get(name, {}), data, path
                )
            elif name in given:
                values[name] = self._convert_value(field.type, given[name], data, path)
            elif isinstance(fallback, Path):
                values[name] = data / fallback
            else:
                values[name] = fallback
        return kind(**values)

    def _convert_value(self, kind: Any, value: object, data: Path, at: KeyPath) -> Any:
        def decode(custom: type, raw: object) -> object:
            if not isinstance(raw, str) or not raw:
                raise ValueError
            return data / raw if custom is Path else Address.parse(raw)

        if isinstance(value, Path | Address):  # from overrides, which are Python values
            value = str(value)
        try:
            return msgspec.convert(value, kind, dec_hook=decode)
        except msgspec.ValidationError:
            zh, en = _describe(msgspec.inspect.type_info(kind))
            self.refuse(at, zh=f"应为{zh}", en=f"must be {en}")

    def _refuse_unknown(self, at: KeyPath, siblings: list[str]) -> NoReturn:
        near = difflib.get_close_matches(at[-1], siblings, n=1)
        parent = _dotted(at[:-1])
        if near:
            meant = _dotted((*at[:-1], near[0]))
            zh, en = f"您要写的可能是 {meant}", f"perhaps you meant {meant}"
        else:
            known = ", ".join(siblings)
            place_zh, place_en = (f"[{parent}] 中", f" in [{parent}]") if parent else ("", " here")
            zh, en = f"请删去；{place_zh}可用的键：{known}", f"remove it; known{place_en}: {known}"
        self.refuse(
            at, zh=f"不是驿站认识的键；{zh}", en=f"is not a key of Yizhan; {en}".rstrip("?")
        )

    def _read_text(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigurationError(
                f"没有 {path} 这个文件；请运行 yizhan init，或用 --config 指出正确的文件。",
                f"{path} does not exist; run yizhan init, or name the right file by --config.",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"无法读取 {path}（{error}）；请检查权限，并保存为 UTF-8。",
                f"{path} cannot be read ({error}); check its permissions and save it as UTF-8.",
            ) from error

    def _find_line(self, at: KeyPath) -> int | None:
        # A key inside an inline table has no entry: the table's own line is near enough. A table
        # of which only sub-tables are written begins where the first of them does.
        for length in range(len(at), 0, -1):
            inside = (line for key, line in self._lines.items() if key[:length] == at[:length])
            if (line := min(inside, default=None)) is not None:
                return line
        return None


def find_keys(kind: type[Section], at: KeyPath = ()) -> Iterator[str]:
    """Yield every dotted key that a file with the root section `kind` may hold."""
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            yield from find_keys(field.type, (*at, field.name))
        else:
            yield _dotted((*at, field.name))


def _dotted(at: KeyPath) -> str:
    return ".".join(at)


def _describe(kind: msgspec.inspect.Type) -> tuple[str, str]:
    """Say in Chinese and English what a value of `kind` looks like."""
    match kind:
        case msgspec.inspect.Metadata(extra={"zh": str() as zh, "en": str() as en}):
            return zh, en
        case msgspec.inspect.Metadata(type=inner):
            return _describe(inner)
        case msgspec.inspect.UnionType(types=types):
            return _describe(types[0])
        case msgspec.inspect.VarTupleType(item_type=item):
            zh, en = _describe(item)
            return f"方括号中的列表，每一项为{zh}", f"a list in brackets, each item {en}"
        case msgspec.inspect.LiteralType(values=values):
            choices = [f'"{value}"' for value in sorted(values, key=_by_length)]
            return " 或 ".join(choices), " or ".join(choices)
        case msgspec.inspect.IntType(ge=int() as least):
            return f"不小于 {least} 的整数", f"a whole number of at least {least}"
        case msgspec.inspect.CustomType(cls=cls) if cls is Address:
            return '"主机:端口"，如 "127.0.0.1:8008"', '"host:port", such as "127.0.0.1:8008"'
        case _:
            return _PLAIN[type(kind)]


def _by_length(value: object) -> tuple[int, str]:
    return len(str(value)), str(value)  # so that "10" stands behind "9"


_PLAIN = {
    msgspec.inspect.BoolType: ("true 或 false", "true or false"),
    msgspec.inspect.FloatType: ("大于 0 的数", "a number above 0"),
    msgspec.inspect.StrType: ("加引号的文字", "text in quotes"),
    msgspec.inspect.CustomType: ("加引号的路径", "a path in quotes"),
}
