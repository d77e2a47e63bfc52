"""A host and a port: where a program listens, or whom it may call."""

import re

from typing_extensions import override


class Address:
    """`host:port`; an empty host is every interface, port 0 any free one."""

    # Not a dataclass: msgspec would decode one as an object instead of asking `parse`.
    __slots__ = ("host", "port")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `host:port`, `[ipv6]:port` or `:port`; ValueError for anything else."""
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([^\s:\[\]/]*)):([0-9]{1,5})", text)
        if match is None or int(match[3]) > 65535:
            raise ValueError(text)
        return cls(match[1] or match[2] or "", int(match[3]))

    @property
    def reachable(self) -> "Address":
        """The address under which a program of the same machine reaches this listener."""
        every_interface = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        return Address(every_interface.get(self.host, self.host), self.port)

    @override
    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @override
    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and str(self) == str(other)

    @override
    def __hash__(self) -> int:
        return hash(str(self))
