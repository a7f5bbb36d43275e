"""The layer that all images with a distribution start from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cache import lock
from log import Step
from oci import TarLayer
from shell import logged

SITE_PACKAGES = "usr/local/lib/python3.11/dist-packages"
"""Where Debian 12's python3 looks for what does not come from Debian."""

COMMAND = (
    "mmdebstrap",
    "--quiet",
    "--mode=root",
    "--variant=essential",
    "--include=ca-certificates,libnuma1,libstdc++6,python3",
    '--aptopt=Apt::Install-Recommends "false"',
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")),
    # The dates of files are not kept, and Python would not trust what its package compiled by date.
    "--customize-hook=chroot $1 python3 -m compileall -qf --invalidation-mode=unchecked-hash /usr/lib/python3*",
    # What differs from run to run, and apt's lists.
    "--customize-hook=rm -rf $1/var/log/* $1/var/cache/* $1/var/lib/apt/lists/*",
    "bookworm",
)
RECIPE = " ".join(COMMAND)
"""What decides the layer, as text."""


def debian(cache: Path, step: Step) -> TarLayer:
    """The layer that all images with a distribution start from: a small Debian 12 with Python and certificates."""
    path = cache / "images" / "layers" / f"debian-{hashlib.sha256(RECIPE.encode()).hexdigest()[:12]}.tar"
    with lock("image-debian"):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}")
            command = [*COMMAND, partial]
            logged(command, cache / "logs" / "mmdebstrap.log", step, env={"SOURCE_DATE_EPOCH": "0"})
            partial.replace(path)
    return TarLayer(path)


def console_script(module: str) -> bytes:
    """The text of a command that calls `main` of `module`, as pip would write it."""
    return f"#!/usr/bin/python3\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n".encode()
