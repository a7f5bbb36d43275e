"""The engines' command lines, from the lists of their flags."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def parser(engine: str, prog: str) -> argparse.ArgumentParser:
    """A parser with all flags of `engine`; abbreviations are allowed, as the engines allow them."""
    made = argparse.ArgumentParser(prog=prog)
    listed = json.loads((Path(__file__).parent / f"{engine}.json").read_text(encoding="utf-8"))
    for name, flag in listed["flags"].items():
        if name != "--help":
            _add(made, name, flag)
    return made


def _add(made: argparse.ArgumentParser, name: str, flag: dict[str, Any]) -> None:
    names = [name, *flag.get("aliases", [])]
    dest = name.lstrip("-").replace("-", "_")
    if flag["nargs"] == 0:
        # --no-x is the opposite of --x, unless the flag itself is called so.
        opposites = [other for other in names if other.startswith("--no-") and f"--{other[5:]}" in names]
        rest = [other for other in names if other not in opposites]
        made.add_argument(*rest, dest=dest, action="store_true", default=None)
        if opposites:
            made.add_argument(*opposites, dest=dest, action="store_false", default=None)
        return
    made.add_argument(
        *names,
        dest=dest,
        action="append" if flag.get("repeatable") else "store",
        nargs=None if flag["nargs"] == 1 else flag["nargs"],
        type=_type(flag),
        choices=flag.get("choices"),
        required=flag.get("required", False),
    )


def _type(flag: dict[str, Any]) -> Callable[[str], Any]:
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": float}
    kind = kinds.get(flag.get("type", ""), str)
    if not flag.get("nullable"):
        return kind

    def optional(text: str) -> Any:
        return None if text in ("", "None") else kind(text)

    # argparse names the type in its message.
    optional.__name__ = getattr(kind, "__name__", "value")
    return optional


def number(text: str) -> int:
    """A whole number, which may end in k, m or g (thousands) or in K, M or G (powers of 1024)."""
    factors = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
    if text and text[-1] in factors:
        return int(float(text[:-1]) * factors[text[-1]])
    return int(text)
