# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What benchmarks measure, as tables: pure functions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

#: Labels of a line of metrics.
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_REQUESTS = "apiserver_request_total{"
#: What controllers and the API server itself ask for all the time.
_OTHERS = {
    "apiservices", "endpoints", "endpointslices", "events", "flowschemas", "ipaddresses", "leases", "pods",
    "prioritylevelconfigurations", "replicasets", "resourcequotas", "servicecidrs", "tokenreviews",
}  # fmt: skip
_OTHER_PARTS = {"/healthz", "/livez", "/readyz", "/metrics", "finalize", "status", "token"}
VERBS = ("GET", "LIST", "APPLY", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Figure:
    """One run of one tool.

    :ivar scope: which objects, ``gaie`` or ``whole``.
    :ivar phase: ``first``, ``no change`` or ``one change``.
    :ivar count: number of models.
    :ivar requests: requests that the API server counted, by verb.
    :ivar server: processor time that the API server spent meanwhile, in seconds.
    """

    tool: str
    scope: str
    phase: str
    count: int
    seconds: float
    processor: float
    requests: Counter[str] = field(default_factory=Counter)
    server: float = 0.0


def requests(metrics: str) -> Counter[str]:
    """Return by verb the requests that an API server has counted, without those that controllers send.

    Watches are left out, and so is what only controllers write: status, replica sets, pods, the revisions of
    Deployments (by PUT), and leases.
    """
    found: Counter[str] = Counter()
    for line in metrics.splitlines():
        if not line.startswith(_REQUESTS):
            continue
        labels, _brace, value = line[len(_REQUESTS) :].rpartition("}")
        told = dict(_LABEL.findall(labels))
        verb, resource, part = told.get("verb"), told.get("resource"), told.get("subresource")
        if verb not in VERBS or resource in _OTHERS or part in _OTHER_PARTS:
            continue
        if (verb, resource) == ("PUT", "deployments"):
            continue
        found[verb] += int(float(value))
    return found


def server_seconds(metrics: str) -> float:
    """Return the processor time that an API server says it has used, in seconds."""
    return sum(float(line.split()[1]) for line in metrics.splitlines() if line.startswith("process_cpu_seconds_total "))


def ratio(figures: Iterable[Figure], one: Sequence[str], other: Sequence[str], of: str = "seconds") -> float | None:
    """Return how many times longer the runs of tools ``one`` took, together, than those of ``other``.

    None where something was not measured.

    :param of: ``seconds`` or ``processor``.
    """
    by_tool = {figure.tool: getattr(figure, of) for figure in figures}
    if not by_tool.keys() >= {*one, *other}:
        return None
    spent = sum(by_tool[tool] for tool in other)
    return sum(by_tool[tool] for tool in one) / spent if spent else None


def growth(figures: Iterable[Figure], of: str = "seconds") -> float | None:
    """Return the milliseconds that a further model costs, of runs that differ in nothing but their number.

    From the last number but one to the last: with few models the tool's own start is most of it. None with less
    than two.

    :param of: ``seconds`` or ``processor``.
    """
    last = sorted(figures, key=lambda figure: figure.count)[-2:]
    if len(last) < 2 or last[0].count == last[1].count:
        return None
    return (getattr(last[1], of) - getattr(last[0], of)) / (last[1].count - last[0].count) * 1000


def chosen(figures: Iterable[Figure], **wanted: object) -> list[Figure]:
    """Return those of ``figures`` whose fields are as ``wanted``."""
    return [figure for figure in figures if all(getattr(figure, key) == value for key, value in wanted.items())]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines of columns, the first one to the left and all others to the right; nothing without rows."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"  {'   '.join(cells)}".rstrip())
    return "\n".join(lines)


def both(clock: float | None, processor: float | None, digits: int = 1) -> str:
    """Return a cell with a figure by the clock and, in brackets, of processor time."""
    return number(clock) if clock is None else f"{number(clock, digits)} ({number(processor, digits)})"


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """Return a cell of a table; a dash for what was not measured."""
    return "-" if value is None else f"{value:.{digits}f}{unit}"
