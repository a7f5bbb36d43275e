# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Versions of engines, releases and clusters, and the ranges that data files write about them.

Engines number their releases in PEP 440's manner (``0.5.6.post2``) and tag their images in
another (``v0.5.6.post2-runtime``); Kubernetes adds build metadata (``v1.35.4+k3s1``). All of
them are read here, so that data files compare them in one way.
"""

from __future__ import annotations

import re

_VERSION = re.compile(
    r"^v?(?P<release>\d+(?:\.\d+)*)"
    r"(?:\.?(?P<pre>a|b|rc)(?P<pre_number>\d+))?"
    r"(?:\.post(?P<post>\d+))?"
    r"(?:[-+].*)?$"
)
_CLAUSE = re.compile(r"^(?P<operator>>=|<=|==|!=|>|<)\s*(?P<version>\S+)$")

Key = tuple[tuple[int, ...], tuple[int, int], int]


class VersionError(ValueError):
    """A version or a range that cannot be read."""


def parse(version: str) -> Key:
    """Return a sortable key for ``version``.

    A leading ``v`` and everything behind ``-`` or ``+`` (image variants, build metadata) do not
    count: ``v0.5.6.post2-runtime`` equals ``0.5.6.post2``.

    :raises VersionError: when it does not begin with a dotted number.
    """
    match = _VERSION.match(str(version).strip())
    if not match:
        raise VersionError(f"{version!r} is not a version such as 0.5.20 or v0.5.6.post2")
    release = tuple(int(part) for part in match["release"].split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    stages = {"a": 0, "b": 1, "rc": 2}
    pre = (stages[match["pre"]], int(match["pre_number"])) if match["pre"] else (3, 0)
    return release, pre, int(match["post"] or 0)


def is_version(text: str) -> bool:
    """Whether ``text`` can be read as a version."""
    try:
        parse(text)
    except VersionError:
        return False
    return True


def matches(version: str, spec: str) -> bool:
    """Whether ``version`` lies in ``spec``: comma-separated clauses that all must hold.

    ``spec`` is written like ``>=0.5.20,<0.6``; an empty one matches everything.

    :raises VersionError: when either cannot be read.
    """
    key = parse(version)
    for clause in filter(None, (part.strip() for part in str(spec).split(","))):
        match = _CLAUSE.match(clause)
        if not match:
            raise VersionError(f"{clause!r} in {spec!r} is not a comparison such as >=0.5.20")
        bound = parse(match["version"])
        holds = {
            ">=": key >= bound,
            "<=": key <= bound,
            "==": key == bound,
            "!=": key != bound,
            ">": key > bound,
            "<": key < bound,
        }[match["operator"]]
        if not holds:
            return False
    return True
