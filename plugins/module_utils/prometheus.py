# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics as programs show them to Prometheus, and Prometheus' own answers: pure functions.

A selector says which samples are meant, as in PromQL: ``name`` alone, or with labels that must be equal or match a
whole regular expression, ``vllm:request_success_total{finished_reason=~"abort|error"}``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf"^({_NAME})(?:\{{(.*)\}})?\s+(\S+)(?:\s+-?\d+)?$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_SELECTOR = re.compile(rf"^({_NAME})(?:\{{(.*)\}})?$")
_CONDITION = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|=)\s*"((?:[^"\\]|\\.)*)"\s*')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


class SelectorError(ValueError):
    """A selector that cannot be read."""


class QueryError(Exception):
    """An answer of Prometheus without a number."""


@dataclass(frozen=True)
class Sample:
    """One line of a page of metrics."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Selector:
    """Which samples are meant.

    :ivar conditions: label, ``=`` or ``=~``, and what it must be.
    """

    name: str
    conditions: tuple[tuple[str, str, str], ...] = ()

    def takes(self, sample: Sample, suffix: str = "") -> bool:
        """Whether ``sample`` is meant; ``suffix`` is what a histogram's parts have behind the name."""
        return sample.name == self.name + suffix and all(
            re.fullmatch(wanted, sample.labels.get(label, ""))
            if operator == "=~"
            else sample.labels.get(label, "") == wanted
            for label, operator, wanted in self.conditions
        )


def selector(text: str) -> Selector:
    """Return the selector that ``text`` is.

    :raises SelectorError: says what is wrong.
    """
    match = _SELECTOR.match(text.strip())
    if not match:
        raise SelectorError(f'{text!r} is not a metric such as name or name{{label="value"}}')
    conditions, rest = [], match[2] or ""
    while rest:
        condition = _CONDITION.match(rest)
        after = rest[condition.end() :] if condition else ""
        if not condition or (after and not after.startswith(",")):
            raise SelectorError(f'{rest!r} in {text!r} is not label="value" or label=~"expression"')
        label, operator, wanted = condition.groups()
        if operator == "=~":
            try:
                re.compile(wanted)
            except re.error as error:
                raise SelectorError(f"{wanted!r} in {text!r} is not a regular expression: {error}") from None
        conditions.append((label, operator, _plain(wanted)))
        rest = after[1:]
    return Selector(match[1], tuple(conditions))


def samples(page: str) -> list[Sample]:
    """Return the samples of a page of metrics; lines that are none are passed over."""
    found = []
    for line in page.splitlines():
        match = None if line.startswith("#") else _SAMPLE.match(line.strip())
        if match:
            try:
                value = float(match[3])
            except ValueError:
                continue
            labels = {name: _plain(text) for name, text in _LABEL.findall(match[2] or "")}
            found.append(Sample(match[1], labels, value))
    return found


def total(page: list[Sample], wanted: Selector) -> float | None:
    """Return the sum of the samples that are meant, ``None`` where there are none."""
    values = [sample.value for sample in page if wanted.takes(sample) and math.isfinite(sample.value)]
    return sum(values) if values else None


def histogram(page: list[Sample], wanted: Selector) -> dict[str, Any] | None:
    """Return ``sum``, ``count`` and ``buckets`` of a histogram, ``None`` where there is none.

    ``buckets`` has the upper bounds as text, ``+Inf`` among them, each with the count up to it.
    """
    count = total(page, Selector(f"{wanted.name}_count", wanted.conditions))
    if count is None:
        return None
    buckets: dict[str, float] = {}
    for sample in page:
        if wanted.takes(sample, "_bucket") and "le" in sample.labels:
            # 1 and 1.0 are one bound, whichever way a program writes it.
            bound = f"{float(sample.labels['le']):g}" if sample.labels["le"] != "+Inf" else "+Inf"
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return {
        "sum": total(page, Selector(f"{wanted.name}_sum", wanted.conditions)) or 0.0,
        "count": count,
        "buckets": buckets,
    }


def quantile(buckets: dict[str, float], share: float) -> float | None:
    """Return the value below which ``share`` of a histogram lies, as PromQL's histogram_quantile estimates it.

    :param buckets: as :func:`histogram` returns them.
    :returns: ``None`` without observations or bounds; the highest bound where it lies above all of them.
    """
    bounds = sorted((float(bound), count) for bound, count in buckets.items())
    if len(bounds) < 2 or bounds[-1][0] != math.inf or bounds[-1][1] <= 0:
        return None
    rank, lower, below = share * bounds[-1][1], 0.0, 0.0
    for bound, count in bounds:
        if count >= rank:
            if bound == math.inf:
                return lower
            inside = count - below
            return lower + (bound - lower) * ((rank - below) / inside if inside else 1.0)
        lower, below = bound, count
    return lower


def queried(answer: Any) -> float:
    """Return the number that Prometheus' ``/api/v1/query`` answered; the largest one where there are several.

    :raises QueryError: says why there is none.
    """
    if not isinstance(answer, dict) or answer.get("status") != "success":
        reason = answer.get("error") if isinstance(answer, dict) else None
        raise QueryError(f"Prometheus refused the query: {reason or 'it says no reason'}")
    data = answer.get("data") or {}
    rows = data.get("result") or []
    kind = data.get("resultType")
    if kind == "scalar":
        texts = [rows[1]]
    elif kind == "vector":
        texts = [row["value"][1] for row in rows]
    else:
        raise QueryError(f"the query gives a {kind}; write one that gives a single number")
    values = [value for value in map(float, texts) if not math.isnan(value)]
    if not values:
        raise QueryError("the query gives no number: nothing matches it, or nothing was counted yet")
    return max(values)


def _plain(text: str) -> str:
    return re.sub(r'\\[\\"n]', lambda match: _ESCAPES[match[0]], text) if "\\" in text else text
