"""Writing files that others may be reading at this moment."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    """Have `text` in the file `path`, with `mode`; returns `path`.

    Left alone when it is right already, else replaced at once: a reader sees the old or the new text, never half.
    """
    if not path.exists() or path.read_text(encoding="utf-8") != text or path.stat().st_mode & 0o777 != mode:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        # Never readable by more than in the end, not even for a moment.
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as stream:
            stream.write(text)
        temporary.chmod(mode)
        temporary.rename(path)
    return path


def copy(source: Path, target: Path) -> None:
    """Copy the file `source` to `target` in the same way: only when they differ, and at once."""
    if not target.exists() or not filecmp.cmp(source, target, shallow=False):
        temporary = target.with_name(f".{target.name}.new")
        shutil.copy2(source, temporary)
        temporary.rename(target)
