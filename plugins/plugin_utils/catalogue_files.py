# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""The catalogue of engines and releases, read from its files and from those of the user.

What is in them is data: no templates, and errors name the file.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.llm_d.multi_engine.plugins.module_utils.documents import LOADER


class FileError(Exception):
    """A file of the user's that cannot be read; the text is for them."""


def load(folder: Path, release: str = "", engines: Iterable[str] = ()) -> dict[str, Any]:
    """Return the catalogue as :func:`resolve.resolve` takes it.

    :param folder: of the shipped files: ``engines``, ``releases``, ``model.yml`` and ``compatibility.yml``.
    :param release: path of a release of the user's own, empty for none.
    :param engines: paths of files with engines of the user's own.
    :raises FileError: if the release cannot be read.
    """
    return {
        "engines": _all(folder / "engines"),
        "engine_files": {path: _text(path) for path in engines},
        "releases": {**_all(folder / "releases"), **(_own(release) if release else {})},
        "model_schema": _parsed(folder / "model.yml")["__inference_engine_model_schema"],
        "rules": _parsed(folder / "compatibility.yml")["__inference_engine_compatibility"],
    }


def _all(folder: Path) -> dict[str, Any]:
    return {name: data for path in sorted(folder.glob("*.yml")) for name, data in _parsed(path).items()}


@functools.cache
def _parsed(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)


def _text(path: str) -> str | None:
    return Path(path).read_text(encoding="utf-8") if os.path.isfile(path) else None


def _own(path: str) -> dict[str, Any]:
    remedy = "Name a YAML file of this machine; a relative path begins at the current directory."
    text = _text(path)
    if text is None:
        raise FileError(f"llm_d_release: {path} is no file. {remedy}")
    try:
        data = yaml.load(text, Loader=LOADER)
    except yaml.YAMLError as error:
        raise FileError(f"llm_d_release: {path} is no YAML: {error}.") from error
    if not isinstance(data, dict):
        raise FileError(f"llm_d_release: {path} has no release. Write its name as the only key, and everything below.")
    return data
