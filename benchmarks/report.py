# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of benchmark ``apply``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from figures import VERBS, Figure, both, chosen, growth, number, ratio, table
from measure import Seconds

PHASES = ("first", "no change", "one change")
SCOPES = ("gaie", "whole")
#: Tools; those of kubectl end in ``apply`` and ``diff``.
OURS, CHECK, HELM = "ours", "ours, check", "helm"


def report(
    figures: list[Figure], said: dict[tuple[str, str], Counter[str]], floor: Mapping[str, Seconds] | None = None
) -> str:
    """Return all tables.

    :param said: requests of the largest run as our modules say, by scope and phase.
    :param floor: what plays that do nothing cost.
    """
    parts = [
        f"floor: ansible-playbook with {name}: {both(seconds, seconds.processor, 2)} s"
        for name, seconds in (floor or {}).items()
    ]
    for scope in SCOPES:
        here = chosen(figures, scope=scope)
        if not here:
            continue
        parts += [f"{scope}: seconds, in brackets of processor time", seconds_table(here)]
        parts += [f"{scope}: seconds of the API server's processor time", server_table(here)]
        parts += [f"{scope}: times as long as ours, in brackets by processor time", ratio_table(here)]
        parts += [
            f"{scope}: milliseconds that a further model costs, in brackets of processor time",
            growth_table(here),
        ]
        most = max(figure.count for figure in here)
        parts += [f"{scope}: requests to the API server, {most} models", request_table(chosen(here, count=most))]
        for phase in PHASES:
            parts.append(f"  ours, {phase}, calls of the modules: {dict(said.get((scope, phase)) or {})}")
    return "\n".join(parts)


def tools(figures: list[Figure]) -> list[str]:
    """Return the tools that were measured, in their order."""
    return list(dict.fromkeys(figure.tool for figure in figures))


def counts(figures: list[Figure]) -> list[int]:
    """Return the numbers of models that were measured."""
    return sorted({figure.count for figure in figures})


def seconds_table(figures: list[Figure]) -> str:
    """Return what each tool took, a row for each number of models."""
    rows = []
    for count in counts(figures):
        for tool in tools(figures):
            cells = []
            for phase in PHASES:
                found = chosen(figures, tool=tool, phase=phase, count=count)
                cells.append(both(found[0].seconds, found[0].processor) if found else both(None, None))
            rows.append([f"{count} models, {tool}", *cells])
    return table(["", *PHASES], rows)


def server_table(figures: list[Figure]) -> str:
    """Return the processor time of the API server, a row for each number of models and tool."""
    rows = []
    for count in counts(figures):
        for tool in tools(figures):
            found = [chosen(figures, tool=tool, phase=phase, count=count) for phase in PHASES]
            rows.append([f"{count} models, {tool}", *(number(one[0].server if one else None) for one in found)])
    return table(["", *PHASES], rows)


def ratios(found: Sequence[str]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return which of the tools that were ``found`` are divided by which."""
    kubectls = [tool.removesuffix(" apply") for tool in found if tool.endswith(" apply")]
    pairs: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((HELM,), (OURS,))] if HELM in found else []
    for tool in kubectls:
        pairs += [((f"{tool} apply",), (OURS,)), ((f"{tool} diff", f"{tool} apply"), (OURS,))]
    return pairs + [((f"{tool} diff",), (CHECK,)) for tool in kubectls]


def ratio_table(figures: list[Figure]) -> str:
    """Return how much longer others took."""
    rows = []
    for count in counts(figures):
        for one, other in ratios(tools(figures)):
            cells = []
            for phase in PHASES:
                here = chosen(figures, phase=phase, count=count)
                cells.append(both(ratio(here, one, other), ratio(here, one, other, "processor")))
            rows.append([f"{count} models, {' + '.join(one)} / {' + '.join(other)}", *cells])
    return table(["", *PHASES], rows)


def growth_table(figures: list[Figure]) -> str:
    """Return what a further model costs each tool, from the last number of models but one to the last."""
    rows = []
    last = [figure for figure in figures if figure.count in counts(figures)[-2:]]
    for tool in tools(figures):
        runs = [chosen(last, tool=tool, phase=phase) for phase in PHASES]
        rows.append([tool, *(both(growth(run), growth(run, "processor"), 0) for run in runs)])
    return table(["", *PHASES], rows)


def request_table(figures: list[Figure]) -> str:
    """Return the requests that the API server counted."""
    rows = [
        [
            f"{figure.tool}, {figure.phase}",
            *(str(figure.requests[verb]) for verb in VERBS),
            str(figure.requests.total()),
        ]
        for figure in figures
    ]
    return table(["", *VERBS, "all"], rows)
