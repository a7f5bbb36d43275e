# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Files on the controller."""

from __future__ import annotations

import os
import tempfile


def replace(path: str, content: str) -> None:
    """Write a file at once, so that nobody reads half of it; it keeps the usual permissions."""
    mask = os.umask(0)
    os.umask(mask)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
    with open(handle, "w", encoding="utf-8") as file:
        file.write(content)
    os.chmod(temporary, 0o666 & ~mask)
    os.replace(temporary, path)
