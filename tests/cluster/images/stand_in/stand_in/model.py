"""What an engine wants to know of the model before it starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

UNKNOWN_CONTEXT = 32768
"""The context length of a model that cannot be looked at."""


def context_length(model: str, asked: int | None) -> tuple[int, int | None]:
    """The context length to serve with, and the model's own when it is known.

    Raises OSError, in the words of the library that both engines load models with, for a path that is no model.
    """
    own = _own_context(model)
    return asked or own or UNKNOWN_CONTEXT, own


def _own_context(model: str) -> int | None:
    path = Path(model)
    if path.is_dir():
        config = path / "config.json"
        if not config.is_file():
            raise OSError(f"{model} does not appear to have a file named config.json.")
        found = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings")
        return int(found) if found else None
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
        raise OSError(
            f"Repo id must be in the form 'repo_name' or 'namespace/repo_name': '{model}'."
            " Use `repo_type` argument if needed."
        )
    return None
