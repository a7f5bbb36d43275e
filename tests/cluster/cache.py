"""Directories in the cache that are either finished or not there.

A directory is made under a temporary name, stamped, and renamed, so that an interrupted build is
never taken for a finished one. The stamp holds the recipe; another recipe makes it again.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from paths import cache_dir

STAMP = ".complete"
"""Name of the file that holds the recipe of a finished directory."""


def is_complete(directory: Path, recipe: str, files: tuple[str, ...] = ()) -> bool:
    """Whether `directory` was finished with exactly this `recipe` and still has all `files` (relative paths)."""
    try:
        stamped = (directory / STAMP).read_text(encoding="utf-8")
    except OSError:
        return False
    return stamped == recipe and all((directory / name).is_file() for name in files)


def ensure(directory: Path, recipe: str, files: tuple[str, ...], make: Callable[[Path], None]) -> bool:
    """Have `directory` made by `make` unless it is complete; returns True if it already was.

    `make` gets an empty directory to fill. Two processes that want the same directory wait for each other.
    Raises what `make` raises, and FileNotFoundError when it did not write all `files`.
    """
    if is_complete(directory, recipe, files):
        return True
    with lock(directory.name):
        if is_complete(directory, recipe, files):
            return True
        with scratch(directory.name) as workshop:
            made = workshop / "made"
            made.mkdir()
            make(made)
            _publish(made, directory, recipe, files)
    return False


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the cache's lock `name`; other processes wait. The kernel frees it when this process dies."""
    locks = cache_dir() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / name).open("w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A temporary directory inside the cache (so that a rename out of it is atomic), removed afterwards."""
    parent = cache_dir() / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _publish(made: Path, directory: Path, recipe: str, files: tuple[str, ...]) -> None:
    missing = [name for name in files if not (made / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{directory.name}: the build did not write {', '.join(missing)}")
    made.chmod(0o755)
    (made / STAMP).write_text(recipe, encoding="utf-8")
    directory.parent.mkdir(parents=True, exist_ok=True)
    if directory.exists():
        # A rename cannot replace a directory that has content; the old one goes first.
        shutil.rmtree(directory)
    made.rename(directory)
