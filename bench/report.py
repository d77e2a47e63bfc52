"""The results: medians over the rounds, as a table, as JSON, and as a part of the documentation."""

from __future__ import annotations

import datetime as dt
import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.cases import CASES, Sample

_BEGIN = "<!-- bench:begin -->"
_END = "<!-- bench:end -->"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `times` demands that the first server needs so many times less than the last; `at_most` is a
    bound on its own figure. Of a `rate`, more is better.
    """

    name: str
    title: str
    unit: str
    times: float | None = None
    at_most: float | None = None
    rate: bool = False


ROWS = (
    Row("start_first", "start with new data, to the first answer", "s CPU", at_most=1.5),
    Row("start_again", "start with existing data", "s CPU", at_most=1.5),
    Row("memory_idle", "memory, idle after the start", "MiB PSS", at_most=70),
    *(Row(case.name, case.title, "ms CPU", times=case.times) for case in CASES),
    Row("memory_after", "memory after all of this", "MiB PSS"),
    Row("federation_join", "join of a large room of another server, both sides", "ms CPU", times=5),
    Row("federation_join_here", "- of that the server in the room", "ms CPU"),
    Row("federation_join_there", "- of that the server that joins", "ms CPU"),
    Row("federation_join_p50", "- until it is answered", "ms"),
    Row("federation_event", "an event from server to server, both sides", "ms CPU", times=8),
    Row("federation_event_here", "- of that the server that sends", "ms CPU"),
    Row("federation_event_there", "- of that the server that receives", "ms CPU"),
    Row("federation_event_p50", "- from sending to a waiting /sync, median", "ms"),
    Row("federation_event_p95", "- from sending to a waiting /sync, 95 of 100", "ms"),
    Row("federation_throughput", "an event of 16 people at once, both sides", "ms CPU", times=8),
    Row("federation_throughput_here", "- of that the server that sends", "ms CPU"),
    Row("federation_throughput_there", "- of that the server that receives", "ms CPU"),
    Row(
        "federation_throughput_per_s",
        "- from the first sent to the last that can be read",
        "events/s",
        rate=True,
    ),
    Row(
        "federation_catch_up", "an event that a server was away for, both sides", "ms CPU", times=8
    ),
    Row("federation_catch_up_here", "- of that the server that sends", "ms CPU"),
    Row("federation_catch_up_there", "- of that the server that was away", "ms CPU"),
    Row(
        "federation_catch_up_per_s",
        "- from being back to having read all",
        "events/s",
        rate=True,
    ),
)


@dataclass
class Results:
    """Every figure of every round, per server and row."""

    rounds: int
    quick: bool
    pinned: bool
    servers: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    """Sentences on what a server did not do, so that its figures are of the rest."""

    def add_server(self, label: str, version: str) -> None:
        self.servers[label] = version
        self.figures[label] = {}
        self.samples[label] = {}

    def add(self, label: str, row: str, figure: float, sample: Sample | None = None) -> None:
        self.figures[label].setdefault(row, []).append(figure)
        if sample is not None:
            self.samples[label].setdefault(row, []).append(sample)

    def add_failure(self, label: str, sentence: str) -> None:
        self.failures.setdefault(label, []).append(sentence)

    def failure_sentences(self) -> list[str]:
        return [f"{label}: {what}" for label, whole in self.failures.items() for what in whole]

    def _median(self, label: str, row: str) -> float:
        return median(self.figures[label][row])

    def _rows(self) -> list[Row]:
        measured = self.figures[next(iter(self.servers))]
        return [row for row in ROWS if row.name in measured]

    def _ratio(self, row: Row) -> float:
        """How many times better the first server is than the last, which is the reference."""
        first, *_, last = (self._median(label, row.name) for label in self.servers)
        return first / last if row.rate else last / first

    def missed_targets(self) -> list[str]:
        """Return a sentence for each target that the first server misses."""
        ours = next(iter(self.servers))
        sentences = list(self.failures.get(ours, []))
        for row in self._rows():
            figure = self._median(ours, row.name)
            if row.at_most is not None and figure > row.at_most:
                sentences.append(f"{row.title}: {figure:.2f} {row.unit}, at most {row.at_most:g}")
            if row.times is not None and len(self.servers) > 1 and self._ratio(row) < row.times:
                sentences.append(
                    f"{row.title}: {self._ratio(row):.1f} times less than "
                    f"{list(self.servers)[-1]}, at least {row.times:g}"
                )
        return sentences

    def table(self) -> str:
        """Return the medians as a Markdown table, with the range of the rounds in brackets."""
        head = ["", *self.servers.values()]
        if len(self.servers) > 1:
            head.append("ratio")
        lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
        for row in self._rows():
            cells = [f"{row.title}, {row.unit}"]
            cells += [_cell(self.figures[label][row.name]) for label in self.servers]
            if len(self.servers) > 1:
                cells.append(f"{self._ratio(row):.1f}")
            lines.append(_line(cells))
        return "\n".join(lines)

    def description(self) -> str:
        """Return one sentence on when, where and how often."""
        today = dt.datetime.now(dt.UTC).date().isoformat()
        work = "a fifth of the work" if self.quick else "the whole work"
        pinned = "server and driver on a core each" if self.pinned else "one core for everything"
        return (
            f"{today}, {_processor()}, Linux {platform.release()}, Python "
            f"{platform.python_version()}; {self.rounds} rounds of {work}, {pinned}."
        )

    def write(self, folder: Path) -> None:
        """Write latest.json with every figure, and latest.md with the table."""
        folder.mkdir(exist_ok=True)
        content: dict[str, Any] = {
            "description": self.description(),
            "servers": self.servers,
            "figures": self.figures,
            "failures": self.failures,
            "samples": {
                label: {row: [asdict(sample) for sample in taken] for row, taken in rows.items()}
                for label, rows in self.samples.items()
            },
        }
        (folder / "latest.json").write_text(json.dumps(content, indent=1) + "\n")
        (folder / "latest.md").write_text(self._page())

    def _page(self) -> str:
        return "\n\n".join([self.description(), self.table(), *self.failure_sentences()]) + "\n"

    def write_table_into(self, document: Path) -> None:
        """Replace what stands between the two marks of the document."""
        text = document.read_text()
        before, _, rest = text.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        document.write_text(f"{before}{_BEGIN}\n{self._page()}{_END}{after}")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(figures: list[float]) -> str:
    middle = _number(median(figures))
    if len(figures) == 1:
        return middle
    return f"{middle} ({_number(min(figures))}-{_number(max(figures))})"


def _number(figure: float) -> str:
    if figure >= 100:
        return f"{figure:.0f}"
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
