# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a rollout: one HTML file with pictures inside, which needs nothing from elsewhere.

It can be mailed, put next to a play's log and read in ten years: no scripts, no fonts, no links. Colours follow the
reader's dark or light mode, and everything that a colour says is said in words, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .timeline import Event, Phase, Span, bars, clock, counted, duration, phases, read_events, read_traffic

_WHO = {"old": "the old one", "both": "both", "new": "the new one"}
#: Pixels: of the picture, and of what is left and right of its panels.
_WIDTH, _LEFT, _RIGHT = 960, 64, 56
#: Of the band that shows who serves, and how far from the top.
_HALVES = (("old", 18), ("new", 33))
#: Distances between marks of the axis of time, in seconds.
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c2024; --soft: #5f6771; --line: #d5dae0; --card: #f5f7f9;
  --old: #6b7785; --new: #0f7d8c; --bad: #c62828; --bar: #9db4c8; --latency: #8a5a00 }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --text: #e6e9ec; --soft: #9aa4af; --line: #353c44;
  --card: #1d2126; --old: #9aa7b5; --new: #3fc3d3; --bad: #ff6b60; --bar: #4d6478; --latency: #e0a94a } }
@media print { :root { color-scheme: light } section { break-inside: avoid } }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 1000px; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif }
h1 { font-size: 22px; margin: 0 0 2px } h2 { font-size: 18px; margin: 34px 0 10px } p { margin: 4px 0 }
.soft { color: var(--soft) } .bad { color: var(--bad); font-weight: 600 }
dl { display: flex; flex-wrap: wrap; gap: 10px; margin: 12px 0 }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 8px 14px }
dt { color: var(--soft); font-size: 13px } dd { margin: 0; font-size: 20px; font-variant-numeric: tabular-nums }
svg { display: block; width: 100%; height: auto; margin: 6px 0 14px; font: 12px system-ui, sans-serif }
svg text { fill: var(--text) } svg .soft { fill: var(--soft) }
.grid { stroke: var(--line) } .edge { stroke: var(--soft); stroke-dasharray: 2 3 }
.old { fill: var(--old) } .new { fill: var(--new) } .bar { fill: var(--bar) } svg .bad { fill: var(--bad) }
.line { fill: none; stroke-width: 2 } .line.old { stroke: var(--old); stroke-dasharray: 6 3 }
.line.new { stroke: var(--new) } .line.latency { stroke: var(--latency) }
.table { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 500; font-size: 13px }
td { font-variant-numeric: tabular-nums } .words { text-align: left; white-space: normal; min-width: 200px }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px }
"""


def page(
    title: str,
    events: Iterable[Mapping[str, Any]],
    traffic: Iterable[Mapping[str, Any]] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the report as HTML.

    :param events: as ``timeline`` documents them, of one model or of several.
    :param traffic: what clients saw, where there were any that tell; drawn where one model is in the report.
    :param notes: what else a reader should know, such as why a rollout went back; shown as they are.
    :raises TimelineError: when an event or a record cannot be read.
    """
    models = read_events(events)
    seen = read_traffic(traffic or ())
    sections = [_section(model, items, seen if len(models) == 1 else []) for model, items in models.items()]
    if not sections:
        sections = ['<p class="soft">Nothing happened: no model had to change.</p>']
    told = "".join(f"<pre>{escape(note)}</pre>" for note in notes)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join([*sections, told]).rstrip() + "\n</html>\n"
    )


def _section(model: str, events: Sequence[Event], seen: Sequence[Span]) -> str:
    begin = events[0].at
    # What clients met before the rollout is not its own.
    spans = [span for span in seen or counted(events) if span.begin >= begin]
    rows = phases(events, spans)
    # A moment has no width: without one nothing could be placed.
    end = max(rows[-1].end, begin + 1)
    source = "counted by clients" if seen else "counted by the endpoint picker"
    return (
        f"<section>\n<h2>{escape(model)}</h2>\n"
        f'<p class="soft">{clock(begin)} to {clock(end)} UTC. Requests: {source if spans else "not counted"}.</p>\n'
        f"{_figures(events, spans)}\n{_picture(rows, events, spans, end)}\n{_table(rows, begin)}\n</section>"
    )


def _figures(events: Sequence[Event], spans: Sequence[Span]) -> str:
    total, failed = sum(span.requests for span in spans), sum(span.failures for span in spans)
    last = events[-1]
    figures = [
        ("Took", duration(last.at - events[0].at), ""),
        ("Serves now", _WHO[last.serve], ""),
        ("Requests", str(total) if spans else "unknown", ""),
        ("Failed", str(failed) if spans else "unknown", ' class="bad"' if failed else ""),
        ("Fewest serving", str(min(_ready(event) for event in events)), ""),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd{style}>{value}</dd></div>" for name, value, style in figures)
    return f"<dl>{items}</dl>"


def _ready(event: Event) -> int:
    """Return how many replicas got requests from this moment on."""
    return {"old": event.old, "both": event.old + event.new, "new": event.new}[event.serve]


def _table(rows: Sequence[Phase], begin: float) -> str:
    heads = ["", "What", "Began", "Took", "Serves", "Ready old", "Ready new", "Requests", "Failed", "Latency"]
    lines = ["".join(f'<th class="words">{name}</th>' if name == "What" else f"<th>{name}</th>" for name in heads)]
    for row in rows:
        failed = f'<td class="bad">{row.failures}</td>' if row.failures else f"<td>{_known(row.failures)}</td>"
        lines.append(
            f'<td>{row.step}</td><td class="words">{escape(row.words)}</td><td>+{duration(row.begin - begin)}</td>'
            f"<td>{duration(row.end - row.begin) if row.end > row.begin else '-'}</td><td>{_WHO[row.serve]}</td>"
            f"<td>{row.old}</td><td>{row.new}</td><td>{_known(row.requests)}</td>{failed}"
            f"<td>{'-' if row.latency_ms is None else f'{row.latency_ms:.0f} ms'}</td>"
        )
    return f'<div class="table"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _known(value: int | None) -> str:
    return "-" if value is None else str(value)


@dataclass(frozen=True)
class _Panel:
    """A part of the picture with its own scale.

    :ivar top: pixels from the picture's top.
    :ivar most: value at its upper edge.
    """

    title: str
    top: int
    height: int
    most: float
    begin: float
    end: float

    def x(self, at: float) -> float:
        share = (at - self.begin) / (self.end - self.begin)
        return _LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return self.top + self.height * (1 - min(1.0, value / self.most))

    @property
    def bottom(self) -> int:
        return self.top + self.height


def _picture(rows: Sequence[Phase], events: Sequence[Event], spans: Sequence[Span], end: float) -> str:
    begin, spans = events[0].at, bars(spans)
    parts = [_band(rows, begin, end)]
    panels = [_Panel("ready replicas", 74, 76, _upper(max(e.old + e.new for e in events)), begin, end)]
    parts.append(_replicas(panels[0], events))
    if spans:
        panels.append(_Panel("requests a second", 184, 90, _upper(max(map(_rate, spans))), begin, end))
        parts.append(_requests(panels[-1], spans))
    timed = [span for span in spans if span.latency_ms is not None]
    if timed:
        most = _upper(max(span.latency_ms or 0 for span in timed))
        panels.append(_Panel("mean latency, ms", 308, 76, most, begin, end))
        parts.append(_latency(panels[-1], timed))
    bottom = panels[-1].bottom
    frames = [_frame(panel, rows) for panel in panels] + [_axis(panels[-1])]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {bottom + 30}" role="img" aria-label="Timeline of {escape(events[0].model)}">'
        f"{''.join(frames)}{''.join(parts)}</svg>"
    )


def _band(rows: Sequence[Phase], begin: float, end: float) -> str:
    """Draw who serves in each phase: the upper half stands for the old one, the lower for the new one."""
    place = _Panel("", 18, 28, 1, begin, end)
    parts = ['<text class="soft" x="0" y="12">serves</text>']
    parts += [
        f'<text class="soft" x="{_LEFT - 8}" y="{top + 11}" text-anchor="end">{who}</text>' for who, top in _HALVES
    ]
    for row in rows:
        left, width = place.x(row.begin), place.x(row.end) - place.x(row.begin)
        title = f"<title>{row.step}: {escape(row.words)}</title>"
        for who, top in _HALVES:
            if row.serve in (who, "both") and width:
                parts.append(
                    f'<rect class="{who}" x="{left:.1f}" y="{top}" width="{width:.1f}" height="13">{title}</rect>'
                )
        # A number for each phase of the table, where there is room for it.
        if width >= 14:
            parts.append(f'<text class="soft" x="{left + width / 2:.1f}" y="12" text-anchor="middle">{row.step}</text>')
    return "".join(parts)


def _frame(panel: _Panel, rows: Sequence[Phase]) -> str:
    right = _WIDTH - _RIGHT
    parts = [f'<text class="soft" x="{_LEFT}" y="{panel.top - 8}">{panel.title}</text>']
    for value in (0, panel.most / 2, panel.most):
        y = panel.y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="soft" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts += [
        f'<path class="edge" d="M{panel.x(row.begin):.1f} {panel.top}V{panel.bottom}"/>'
        for row in rows[1:]
        if row.begin < panel.end
    ]
    return "".join(parts)


def _axis(panel: _Panel) -> str:
    length = panel.end - panel.begin
    step = next((step for step in _STEPS if length / step <= 10), _STEPS[-1])
    marks = [index * step for index in range(int(length / step) + 1)]
    return "".join(
        f'<text class="soft" x="{panel.x(panel.begin + mark):.1f}" y="{panel.bottom + 20}" text-anchor="middle">'
        f"{_mark(mark)}</text>"
        for mark in marks
    )


def _mark(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds // 60}:{seconds % 60:02d}"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d} h"


def _replicas(panel: _Panel, events: Sequence[Event]) -> str:
    # The new one on top: where the lines meet, it is what one looks for.
    after = panel.end
    lines = [
        _stairs(panel, [*((e.at, getattr(e, who)) for e in events), (after, getattr(events[-1], who))], who)
        for who in ("old", "new")
    ]
    old, new = panel.y(events[-1].old), panel.y(events[-1].new)
    # Names do not stand on each other.
    if abs(old - new) < 13:
        old, new = (old - 7, new + 7) if old < new else (old + 7, new - 7)
    x = _WIDTH - _RIGHT + 8
    names = (
        f'<text class="old" x="{x}" y="{old + 4:.1f}">old</text><text class="new" x="{x}" y="{new + 4:.1f}">new</text>'
    )
    return "".join(lines) + names


def _stairs(panel: _Panel, points: Sequence[tuple[float, float]], style: str) -> str:
    """Draw values that hold until the next one."""
    path = f"M{panel.x(points[0][0]):.1f} {panel.y(points[0][1]):.1f}"
    path += "".join(f"H{panel.x(at):.1f}V{panel.y(value):.1f}" for at, value in points[1:])
    return f'<path class="line {style}" d="{path}"/>'


def _requests(panel: _Panel, spans: Sequence[Span]) -> str:
    parts = []
    for span in spans:
        seconds = span.end - span.begin
        left = panel.x(span.begin)
        # Never thinner than what one can see: a failure is to be found.
        width = max(panel.x(span.end) - left - 0.5, 1.5)
        good, all_of_them = (span.requests - span.failures) / seconds, span.requests / seconds
        if good:
            parts.append(_bar("bar", left, panel.y(good), width, panel.bottom))
        if span.failures:
            lower = panel.y(good)
            parts.append(_bar("bad", left, min(panel.y(all_of_them), lower - 3), width, lower))
            parts.append(f'<path class="bad" d="M{left + width / 2:.1f} {panel.top - 2}l-4 -7h8z"/>')
    return "".join(parts)


def _bar(style: str, left: float, top: float, width: float, bottom: float) -> str:
    return f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"/>'


def _latency(panel: _Panel, spans: Sequence[Span]) -> str:
    parts = []
    for span in spans:
        y = panel.y(span.latency_ms or 0)
        parts.append(f"M{panel.x(span.begin):.1f} {y:.1f}H{panel.x(span.end):.1f}")
    return f'<path class="line latency" d="{"".join(parts)}"/>'


def _rate(span: Span) -> float:
    return span.requests / (span.end - span.begin) if span.end > span.begin else 0.0


def _upper(most: float) -> float:
    """Return a round number that is not less than ``most``."""
    size = 1.0
    while size * 10 <= most:
        size *= 10
    while size > most > 0:
        size /= 10
    return next(size * factor for factor in (1, 2, 4, 6, 8, 10) if size * factor >= most)
