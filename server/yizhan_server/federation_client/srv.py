"""SRV records: where a domain says that its Matrix server is.

The library is asked for nothing else: addresses come from the system's resolver, which also knows
the hosts file. A look-up that fails counts as "no record" for some minutes: networks without a
name server, or with one that answers addresses only, are common, and there a server is at port
8448.

Spec: server-server API, "Resolving server names", steps 3.3, 3.4, 4 and 5; RFC 2782.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
from dns.rdtypes.IN.SRV import SRV

log = logging.getLogger(__name__)

LOOKUP_SECONDS = 5.0
MAX_TARGETS = 10
"""More than anybody needs, and few enough to be tried one after another."""

_SHORTEST_S, _LONGEST_S, _AFTER_FAILURE_S = 60, 86_400, 600
_NO_RECORD_S = 3600
_HOST = re.compile(r"[A-Za-z0-9_.-]{1,255}")


class NoService(Exception):
    """The domain states by a record that it has no Matrix server (a target of ".")."""


@dataclass(frozen=True, slots=True)
class SrvAnswer:
    """Hosts and ports in the order in which they are tried; none if there is no record."""

    targets: tuple[tuple[str, int], ...]
    lifetime_s: int
    failed: bool = False
    """Whether it is not known if there is one."""


class SrvLookup:
    """Looks up SRV records through the system's name servers, or those of `resolver`."""

    def __init__(self, resolver: dns.asyncresolver.Resolver | None = None) -> None:
        self._resolver = resolver or _system_resolver()

    async def find(self, name: str) -> SrvAnswer:
        """Return what `name` leads to. Raises NoService."""
        if self._resolver is None:
            return SrvAnswer((), _AFTER_FAILURE_S, failed=True)
        try:
            answer = await self._resolver.resolve(
                f"{name.rstrip('.')}.", dns.rdatatype.SRV, lifetime=LOOKUP_SECONDS
            )
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return SrvAnswer((), _NO_RECORD_S)
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            log.debug("SRV look-up failed", extra={"record": name, "error": type(error).__name__})
            return SrvAnswer((), _AFTER_FAILURE_S, failed=True)
        lifetime_s = 0 if answer.rrset is None else answer.rrset.ttl
        records = [record for record in answer if isinstance(record, SRV)]
        hosts = _in_order(records)
        if len(records) == 1 and hosts[0][0] == "":
            raise NoService
        usable = [(host, port) for host, port in hosts if _HOST.fullmatch(host) and port]
        return SrvAnswer(tuple(usable[:MAX_TARGETS]), min(max(lifetime_s, _SHORTEST_S), _LONGEST_S))


def _system_resolver() -> dns.asyncresolver.Resolver | None:
    try:
        return dns.asyncresolver.Resolver()
    except dns.exception.DNSException:
        # No name server is configured: the network lives on its hosts files.
        return None


def _in_order(records: Iterable[SRV]) -> list[tuple[str, int]]:
    """Order by priority, within one at random by weight (RFC 2782)."""
    remaining = sorted(records, key=lambda record: (record.priority, record.weight))
    ordered: list[tuple[str, int]] = []
    while remaining:
        equal = [record for record in remaining if record.priority == remaining[0].priority]
        weights = [record.weight for record in equal]
        # Weights of 0 are chosen only where there is nothing else.
        weighted = weights if any(weights) else None
        chosen = random.choices(equal, weighted)[0]  # noqa: S311 (spreads load, hides nothing)
        remaining.remove(chosen)
        ordered.append((chosen.target.to_text(omit_final_dot=True).rstrip("."), chosen.port))
    return ordered
