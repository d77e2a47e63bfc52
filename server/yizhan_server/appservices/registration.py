"""Registration files: which application services there are, and what each of them owns.

The files come from the bridges; the administrator lists them in `appservices.registrations`.
Whatever is wrong with one is a ConfigurationError that names the file, the key and the remedy.

Spec: application service API, "Registration".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yarl import URL

from yizhan_config.errors import ConfigurationError
from yizhan_config.secret_files import check_private
from yizhan_server.protocol.identifiers import (
    InvalidIdentifier,
    ServerName,
    UserID,
    check_new_localpart,
    server_name_of,
)

_UNSTABLE_EPHEMERAL = "de.sorunome.msc2409.push_ephemeral"
_DEVICE_EXTENSIONS = "org.matrix.msc3202"


@dataclass(frozen=True, slots=True)
class Namespace:
    """Identifiers that an application service is interested in, or owns alone."""

    pattern: re.Pattern[str]
    is_exclusive: bool

    def holds(self, identifier: str) -> bool:
        """Whether the identifier belongs to it. As elsewhere, its beginning has to match."""
        return self.pattern.match(identifier) is not None


@dataclass(frozen=True, slots=True)
class Appservice:
    """One registered application service."""

    id: str
    url: str | None
    """Without a slash at its end; None: it wants no traffic."""
    as_token: str
    hs_token: str
    sender: UserID
    users: tuple[Namespace, ...]
    aliases: tuple[Namespace, ...]
    rooms: tuple[Namespace, ...]
    is_rate_limited: bool
    receives_ephemeral: bool
    names_ephemeral_as_before: bool
    """It asked under the name of before v1.13, and may know only that one."""
    receives_device_changes: bool
    """MSC3202: device lists and counts of one-time keys of its users' devices."""
    protocols: tuple[str, ...]

    def has_user(self, user_id: str) -> bool:
        """Whether a user of this server is the service's own, or in its namespaces."""
        if user_id == self.sender:
            return True
        if server_name_of(user_id) != server_name_of(self.sender):
            return False
        return any(namespace.holds(user_id) for namespace in self.users)

    def owns_user(self, user_id: str) -> bool:
        """Whether nobody but the service may be this user."""
        return user_id == self.sender or (
            server_name_of(user_id) == server_name_of(self.sender)
            and any(each.is_exclusive and each.holds(user_id) for each in self.users)
        )

    def has_alias(self, alias: str) -> bool:
        """Whether the alias is in the service's namespaces."""
        return any(namespace.holds(alias) for namespace in self.aliases)

    def owns_alias(self, alias: str) -> bool:
        """Whether nobody but the service may give this alias."""
        return any(each.is_exclusive and each.holds(alias) for each in self.aliases)

    def has_room(self, room_id: str) -> bool:
        """Whether the room is in the service's namespaces."""
        return any(namespace.holds(room_id) for namespace in self.rooms)


def load_registrations(files: Sequence[Path], server_name: ServerName) -> tuple[Appservice, ...]:
    """Read the registration files, in order."""
    services = tuple(_read(file, server_name) for file in files)
    for key, value_of in _UNIQUE:
        seen: dict[str, Path] = {}
        for file, service in zip(files, services, strict=True):
            other = seen.setdefault(value_of(service), file)
            if other is not file:
                raise ConfigurationError(
                    f"{file} 与 {other} 的 {key} 相同；每个应用服务的 {key} 必须不同。",
                    f"{file} and {other} have the same {key}; each application service needs "
                    "its own.",
                    key="appservices.registrations",
                )
    for service, file in zip(services, files, strict=True):
        for owner, its_file in zip(services, files, strict=True):
            if owner is not service and owner.owns_user(service.sender):
                raise ConfigurationError(
                    f"{file} 的 {service.sender} 落在 {its_file} 独占的用户命名空间内；"
                    "请修改其中一个。",
                    f"{service.sender} of {file} lies in a namespace of users that {its_file} "
                    "has for itself; change one of them.",
                    key="appservices.registrations",
                )
    return services


_UNIQUE: tuple[tuple[str, Callable[[Appservice], str]], ...] = (
    ("id", lambda service: service.id),
    ("as_token", lambda service: service.as_token),
    ("sender_localpart", lambda service: service.sender),
)


class _File:
    """One registration file, and the voice in which its faults are told."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self._path = path
        self._values = values

    def refuse(self, key: str, zh: str, en: str) -> NoReturn:
        raise ConfigurationError(
            f"应用服务注册文件 {self._path} 中的 {key} {zh}。",
            f"{key} in the registration file {self._path} {en}.",
            key="appservices.registrations",
        )

    def text(self, key: str) -> str:
        value = self._values.get(key)
        if not isinstance(value, str) or not value or "\0" in value:
            self.refuse(key, "必须是非空文字", "must be a text that is not empty")
        return value

    def truth(self, key: str, *, default: bool) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "必须是 true 或 false", "must be true or false")
        return value

    def url(self) -> str | None:
        value = self._values.get("url", "")
        if value is None:
            return None
        try:
            url = URL(value) if isinstance(value, str) else URL()
            is_good = url.scheme in ("http", "https") and bool(url.host) and not url.query_string
        except ValueError:
            is_good = False
        if not is_good:
            self.refuse(
                "url", '必须是 "http://主机:端口"，或 null', 'must be "http://HOST:PORT", or null'
            )
        return str(value).rstrip("/")

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self.refuse(key, "必须是文字的列表", "must be a list of texts")
        return tuple(value)

    def namespaces(self, kind: str) -> tuple[Namespace, ...]:
        groups = self._values.get("namespaces")
        if not isinstance(groups, dict):
            self.refuse("namespaces", "必须是一个映射", "must be a mapping")
        key = f"namespaces.{kind}"
        entries = groups.get(kind)
        if entries is None:
            return ()
        if not isinstance(entries, list):
            self.refuse(key, "必须是列表", "must be a list")
        return tuple(self._namespace(key, entry) for entry in entries)

    def _namespace(self, key: str, entry: object) -> Namespace:
        if not isinstance(entry, dict):
            self.refuse(key, "的每一项必须是映射", "must hold mappings")
        regex, is_exclusive = entry.get("regex"), entry.get("exclusive", False)
        if not isinstance(regex, str) or not isinstance(is_exclusive, bool):
            self.refuse(
                key,
                "的每一项必须有 regex（文字）和 exclusive（true 或 false）",
                "must hold in each entry regex (a text) and exclusive (true or false)",
            )
        try:
            return Namespace(re.compile(regex), is_exclusive)
        except re.error as error:
            self.refuse(
                key,
                f"含有无效的正则表达式 {regex!r}（{error}）",
                f"holds {regex!r}, which is no regular expression ({error})",
            )


def _read(path: Path, server_name: ServerName) -> Appservice:
    file = _File(path, _parse(path))
    localpart = file.text("sender_localpart")
    try:
        sender = check_new_localpart(localpart, server_name)
    except InvalidIdentifier:
        file.refuse(
            "sender_localpart",
            "只能含有 a-z、0-9 和 ._=-/+",
            "may hold only a-z, 0-9 and ._=-/+",
        )
    return Appservice(
        id=file.text("id"),
        url=file.url(),
        as_token=file.text("as_token"),
        hs_token=file.text("hs_token"),
        sender=sender,
        users=file.namespaces("users"),
        aliases=file.namespaces("aliases"),
        rooms=file.namespaces("rooms"),
        is_rate_limited=file.truth("rate_limited", default=True),
        receives_ephemeral=file.truth(
            "receive_ephemeral", default=file.truth(_UNSTABLE_EPHEMERAL, default=False)
        ),
        names_ephemeral_as_before=file.truth(_UNSTABLE_EPHEMERAL, default=False),
        receives_device_changes=file.truth(_DEVICE_EXTENSIONS, default=False),
        protocols=file.texts("protocols"),
    )


def _parse(path: Path) -> Mapping[str, Any]:
    # It holds the tokens of both sides.
    check_private(path, group_may_read=True)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"应用服务注册文件 {path} 不是正确的 YAML：{error}；请更正。",
            f"the registration file {path} is not valid YAML: {error}; correct it.",
            key="appservices.registrations",
        ) from None
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"应用服务注册文件 {path} 的最外层不是映射；请使用桥接程序生成的文件。",
            f"the registration file {path} does not hold a mapping; use the file that the bridge "
            "generated.",
            key="appservices.registrations",
        )
    return values
