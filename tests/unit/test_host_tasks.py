"""Expressions in the tasks of role gpu_node."""

from __future__ import annotations

import re

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

SWAP = yaml.safe_load((shipped.ROOT / "roles/gpu_node/tasks/base/swap.yml").read_text())[0]["ansible.builtin.replace"]
OFF = "# swap is off for the kubelet: "


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/swap.img none swap sw 0 0\n", f"{OFF}/swap.img none swap sw 0 0\n"),
        ("UUID=1 / ext4 x 0 1\n\n\n/dev/sda2\tnone\tswap\tsw\n", f"UUID=1 / ext4 x 0 1\n\n\n{OFF}/dev/sda2\tnone\tswap\tsw\n"),
        ("\n  /a none swap sw\n/b none swap sw\n", f"\n{OFF}  /a none swap sw\n{OFF}/b none swap sw\n"),
        # No swap of their own, not even with the next line.
        ("/dev/sda1 /swap ext4 x 0 1\n", None),
        ("/dev/sda1 /x\nswap y\n", None),
        ("  # /swap.img none swap sw 0 0\n", None),
        (f"{OFF}/swap.img none swap sw 0 0\n", None),
    ],
)  # fmt: skip
def test_swap_is_taken_out_of_fstab(before: str, after: str | None) -> None:
    assert re.sub(SWAP["regexp"], SWAP["replace"], before, flags=re.MULTILINE) == (after or before)
    assert SWAP["backup"]
