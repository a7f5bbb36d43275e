"""Where the made-up hosts and what they are made from are."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Cache, packages and running programs are as for the embedded cluster.
sys.path.insert(0, str(HERE.parent / "cluster"))

STATE = Path("/var/lib/llm-d-gpu-hosts")
"""Podman's storage, the repository and the key."""

REPOSITORY = STATE / "repository"
"""What the host sees as /srv/nvidia."""
