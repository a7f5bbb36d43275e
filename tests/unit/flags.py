"""The engines' command-line flags by version, from tests/unit/data/flags/ (see tests/tools/engine_flags.py)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data" / "flags"


@cache
def load_flags(engine: str, version: str) -> dict[str, dict[str, Any]]:
    """Every spelling of every flag of `engine` at `version`, to what is known of the flag.

    Each record has `name` (the first long spelling), `aliases`, `nargs` (0: takes no value, 1, another number, or
    argparse's `?`, `*`, `+`), `takes_value`, and where they are known `choices`, `type` (int or float), `required`,
    `repeatable` and `nullable` (the word None is taken). Spellings of one flag share the record.
    Raises FileNotFoundError with the versions that there are.
    """
    path = DATA / f"{engine}-{version}.json"
    if not path.exists():
        there = ", ".join(versions(engine)) or "none"
        raise FileNotFoundError(f"no flag list of {engine} {version}; there are: {there}")
    found: dict[str, dict[str, Any]] = {}
    for name, flag in json.loads(path.read_text(encoding="utf-8"))["flags"].items():
        aliases = flag.get("aliases", [])
        record = {**flag, "name": name, "aliases": aliases, "takes_value": flag["nargs"] != 0}
        found.update(dict.fromkeys([name, *aliases], record))
    return found


def versions(engine: str) -> list[str]:
    """The versions of `engine` that have a flag list, oldest first."""
    names = [path.stem.removeprefix(f"{engine}-") for path in DATA.glob(f"{engine}-*.json")]
    return sorted(names, key=lambda name: [int(part) for part in name.replace("post", "").split(".")])
