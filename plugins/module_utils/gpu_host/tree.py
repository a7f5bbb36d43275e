# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a host, below a root that may be a made-up tree.

Nothing here raises because of what a host holds: what cannot be read is ``None``, and noted down
where that is not simply because it does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Optional

#: Takes a command line, gives its standard output, or None when it failed.
Runner = Callable[[list], Optional[str]]
#: Where programs are looked for, in this order.
PROGRAM_FOLDERS = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/opt/bin",
    "/var/lib/rancher/rke2/bin",
)


class Tree:
    """A host's files, all named by absolute paths below ``root``.

    :ivar unreadable: paths that exist and could not be read, with the reason.
    """

    def __init__(self, root: str, run: Runner) -> None:
        self._root = root.rstrip("/")
        self._run = run
        self.unreadable: dict[str, str] = {}

    def at(self, path: str) -> str:
        """Return where ``path`` really is."""
        return self._root + path

    def bytes(self, path: str, limit: int = -1) -> bytes | None:
        """Return what a file holds, its first ``limit`` bytes at most."""
        try:
            with open(self.at(path), "rb") as file:
                return file.read(limit)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.unreadable[path] = error.strerror or str(error)
            return None

    def text(self, path: str) -> str | None:
        """Return what a file holds; characters that are none are replaced."""
        content = self.bytes(path)
        return None if content is None else content.decode("utf-8", "replace")

    def line(self, path: str) -> str | None:
        """Return a file's only line without white space around it; None also of an empty file."""
        return (self.text(path) or "").replace("\0", "").strip() or None

    def number(self, path: str, base: int = 10) -> int | None:
        """Return the number that a file holds."""
        try:
            return int(self.line(path) or "", base)
        except ValueError:
            return None

    def names(self, path: str) -> list[str]:
        """Return what is in a folder, in order."""
        try:
            return sorted(os.listdir(self.at(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.unreadable[path] = error.strerror or str(error)
            return []

    def exists(self, path: str) -> bool:
        """Whether there is something at ``path``."""
        return os.path.exists(self.at(path))

    def target(self, path: str) -> str | None:
        """Return the name of what a link points to, as sysfs links a device to its driver."""
        try:
            return os.path.basename(os.readlink(self.at(path)))
        except OSError:
            return None

    def parts(self, path: str) -> list[str]:
        """Return the names on the way to what ``path`` really is."""
        return os.path.realpath(self.at(path)).split(os.sep)

    def inside(self, path: str) -> str:
        """Return ``path`` without links, seen from the root; links that leave it stay as they are."""
        real, root = os.path.realpath(self.at(path)), os.path.realpath(self._root or "/").rstrip("/")
        return real[len(root) :] if real.startswith(root + "/") else path

    def size(self, path: str) -> int:
        """Return the size of a file, 0 when it is gone."""
        try:
            return os.stat(self.at(path)).st_size
        except OSError:
            return 0

    def below(self, path: str) -> list[str]:
        """Return all files below a folder."""
        found = []
        for folder, _folders, files in os.walk(self.at(path)):
            found += [os.path.join(folder, file)[len(self._root) :] for file in files]
        return sorted(found)

    def programs(self, name: str) -> list[str]:
        """Return every program called ``name``, without the same one twice."""
        found: dict[str, str] = {}
        for folder in PROGRAM_FOLDERS:
            path = f"{folder}/{name}"
            if os.access(self.at(path), os.X_OK) and os.path.isfile(self.at(path)):
                found.setdefault(self.inside(path), path)
        return list(found.values())

    def output(self, path: str, *arguments: str) -> str | None:
        """Return what a program of this tree prints."""
        return self._run([self.at(path), *arguments])

    def space(self, path: str) -> dict | None:
        """Return ``path``, ``total`` and ``free`` bytes of the filesystem that holds or would hold ``path``."""
        existing = path
        while existing != "/" and not self.exists(existing):
            existing = os.path.dirname(existing)
        try:
            stat = os.statvfs(self.at(existing))
        except OSError as error:
            self.unreadable[existing] = error.strerror or str(error)
            return None
        return {"path": path, "total": stat.f_frsize * stat.f_blocks, "free": stat.f_frsize * stat.f_bavail}
