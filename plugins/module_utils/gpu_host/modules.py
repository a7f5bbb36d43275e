# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Modules of kernels: which file one would load, what it says of itself, and whether another build of it is loaded."""

from __future__ import annotations

import gzip
import lzma
import re

from .tree import Tree


def file_of(tree: Tree, release: str | None, name: str) -> str | None:
    """Return the file of module ``name`` for a kernel; ``modules.dep`` names the one that modprobe takes of several."""
    folder, pattern = f"/lib/modules/{release}", re.compile(rf"^(?:\S*/)?{name}\.ko(?:\.gz|\.xz|\.zst)?$")
    listed = (line.partition(":")[0] for line in (tree.text(f"{folder}/modules.dep") or "").splitlines())
    path = next((found for found in listed if pattern.match(found)), None)
    return path if path is None or path.startswith("/") else f"{folder}/{path}"


def told(tree: Tree, file: str) -> dict[str, str]:
    """Return what a module says of itself."""
    return _modinfo(tree, file) or _read_module(tree, file)


def loaded_and_next(tree: Tree, release: str | None, name: str) -> dict | None:
    """Return which build of a module is ``loaded``, and which one a kernel would load (``next_kernel``).

    Each is ``version`` (a kernel's own modules have none, as a rule) and ``srcversion``, null where it is not known.
    None where the module is not loaded.
    """
    folder = f"/sys/module/{name}"
    if not tree.exists(folder):
        return None
    loaded = {key: tree.line(f"{folder}/{key}") or None for key in ("version", "srcversion")}
    file = file_of(tree, release, name)
    following = told(tree, file) if file else {}
    return {
        "loaded": loaded,
        "next_kernel": {key: following.get(key) for key in loaded} if following else None,
    }


def _modinfo(tree: Tree, file: str) -> dict[str, str] | None:
    for program in tree.programs("modinfo"):
        text = tree.output(program, tree.at(file))
        if text:
            pairs = (line.partition(":") for line in text.splitlines())
            # The first of each name: the signature's own fields come later.
            return {name.strip(): value.strip() for name, _colon, value in reversed(list(pairs))}
    return None


def _read_module(tree: Tree, file: str) -> dict[str, str]:
    """Return what a module says of itself, where there is no modinfo. The standard library reads no zstd."""
    content = tree.bytes(file) or b""
    try:
        if file.endswith(".xz"):
            content = lzma.decompress(content)
        elif file.endswith(".gz"):
            content = gzip.decompress(content)
    except (OSError, EOFError, lzma.LZMAError) as error:
        tree.unreadable[file] = str(error)
        return {}
    found = {}
    for name in ("version", "srcversion", "license"):
        match = re.search(rb"(?:^|\0)%s=([^\0]*)\0" % name.encode(), content)
        if match:
            found[name] = match[1].decode("utf-8", "replace")
    return found
