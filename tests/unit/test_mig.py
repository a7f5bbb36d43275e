"""How GPUs are split by MIG: what nvidia-smi prints, and what it is told to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host import mig
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.mig import MigError
from ansible_collections.llm_d.multi_engine.plugins.modules import mig as module

#: As a real H200 with driver 580.159.04 prints it, with MIG off.
H200 = (Path(__file__).parent / "data/gpu_host/h200.lgip").read_text()
NONE = "No MIG-enabled devices found.\n"
A30 = """
|   1  MIG 1g.6gb          14     4/4        5.81       No     14     1     0   |
|   1  MIG 1g.6gb+me       21     1/1        5.81       No     14     1     0   |
|   1  MIG 2g.12gb          5     2/2        11.69      No     28     2     0   |
|   1  MIG 4g.24gb          0     1/1        23.44      No     56     4     0   |
"""


def listed(*instances: tuple[int, str, int]) -> str:
    """Return what nvidia-smi prints of GPU instances: GPU, profile and its number."""
    head = "| GPU instances:                                        |\n"
    rows = (
        f"|   {gpu}  MIG {name:14} {number:>6} {place:>8}          {place}:1     |"
        for place, (gpu, name, number) in enumerate(instances)
    )
    return head + "\n".join(rows)


def card(mode: str = "Disabled", instances: str = NONE, pending: str = "", profiles: str = H200) -> mig.Card:
    index = profiles.strip().splitlines()[-2].split()[1] if profiles == A30 else "0"
    (found,) = mig.cards(f"{index}, NVIDIA H200, {mode}, {pending or mode}\n", profiles, instances)
    return found


SEVEN = listed(*[(0, "1g.18gb", 19)] * 7)


def test_a_real_gpu_says_what_it_can_be_split_into() -> None:
    assert mig.configurations(card()) == {
        "all-1g.18gb": {"1g.18gb": 7},
        "all-1g.18gb.me": {"1g.18gb+me": 1},
        "all-1g.35gb": {"1g.35gb": 4},
        "all-2g.35gb": {"2g.35gb": 3},
        "all-3g.71gb": {"3g.71gb": 2},
        "all-4g.71gb": {"4g.71gb": 1},
        "all-7g.141gb": {"7g.141gb": 1},
        # As mig-parted's configuration for this GPU.
        "all-balanced": {"1g.18gb": 2, "2g.35gb": 1, "3g.71gb": 1},
    }


def test_a_gpu_of_four_slices() -> None:
    assert mig.configurations(card(profiles=A30))["all-balanced"] == {"1g.6gb": 2, "2g.12gb": 1}


@pytest.mark.parametrize(
    ("found", "config", "steps"),
    [
        (card(), "all-disabled", []),
        (card(), "all-1g.18gb", ["-i 0 -mig 1", "mig -i 0 -cgi 19,19,19,19,19,19,19 -C"]),
        (card(), "all-1g.18gb+me", ["-i 0 -mig 1", "mig -i 0 -cgi 20 -C"]),
        # The largest first.
        (card(), "all-balanced", ["-i 0 -mig 1", "mig -i 0 -cgi 9,14,19,19 -C"]),
        (card("Enabled", SEVEN), "all-1g.18gb", []),
        (card("Enabled", "No GPU instances found: Not Found"), "all-3g.71gb", ["mig -i 0 -cgi 9,9 -C"]),
        (card("Enabled", SEVEN), "all-3g.71gb", ["mig -i 0 -dci", "mig -i 0 -dgi", "mig -i 0 -cgi 9,9 -C"]),
        (card("Enabled", listed((0, "1g.18gb", 19))), "all-1g.18gb", ["mig -i 0 -dci", "mig -i 0 -dgi", "mig -i 0 -cgi 19,19,19,19,19,19,19 -C"]),
        (card("Enabled", SEVEN), "all-disabled", ["mig -i 0 -dci", "mig -i 0 -dgi", "-i 0 -mig 0"]),
        # On after the next reset: taken back.
        (card("Disabled", pending="Enabled"), "all-disabled", ["-i 0 -mig 0"]),
    ],
)  # fmt: skip
def test_steps(found: mig.Card, config: str, steps: list[str]) -> None:
    assert [" ".join(step) for step in mig.steps(found, config)] == steps


def test_a_profile_of_another_gpu_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(MigError) as refused:
        mig.steps(card(), "all-1g.10gb")
    text = str(refused.value)
    assert text.startswith("gpu_node_mig: 'all-1g.10gb': GPU 0 (NVIDIA H200) has no such profile. It has all-1g.18gb, ")
    assert text.endswith("all-7g.141gb, all-balanced, all-disabled.")


def test_a_gpu_without_mig() -> None:
    with pytest.raises(MigError, match=r"GPU 0 \(NVIDIA H200\) cannot be split by MIG"):
        mig.steps(card("[N/A]", profiles=""), "all-1g.10gb")
    assert mig.steps(card("[N/A]", profiles=""), "all-disabled") == []


def test_after_a_boot() -> None:
    two = [card(), mig.Card(1, "NVIDIA H200", "Disabled", "Disabled", card().profiles, {})]
    assert [" ".join(call) for call in mig.boot(two, "all-3g.71gb")] == [
        "-i 0,1 -mig 1",
        "mig -i 0 -cgi 9,9 -C",
        "mig -i 1 -cgi 9,9 -C",
    ]
    assert mig.boot(two, "all-disabled") == []


class Smi:
    """An nvidia-smi that remembers what it was told."""

    path = "/usr/bin/nvidia-smi"

    def __init__(self, found: mig.Card, users: str = "", after: mig.Card | None = None) -> None:
        self.found, self.users, self.after, self.told = found, users, after or found, []

    def cards(self) -> list[mig.Card]:
        return [self.after if self.told else self.found]

    def __call__(self, *arguments: str) -> str:
        if arguments == mig.USERS:
            return self.users
        self.told.append(" ".join(arguments))
        return ""


def test_gpus_in_use_are_left_alone() -> None:
    smi = Smi(card(), "4711, python3\n")
    with pytest.raises(MigError, match=r"GPUs are in use by python3 \(4711\).*Drain the node first"):
        module.run(smi, "all-1g.18gb", check_mode=False)
    assert smi.told == []
    # Split like that already, they may well be in use.
    assert not module.run(Smi(card("Enabled", SEVEN), "4711, x\n"), "all-1g.18gb", check_mode=False)["changed"]


def test_check_mode_changes_nothing() -> None:
    smi = Smi(card(), "4711, python3\n")
    result = module.run(smi, "all-1g.18gb", check_mode=True)
    assert (result["changed"], result["users"], smi.told) == (True, ["python3 (4711)"], [])
    assert result["boot"][0] == "/usr/bin/nvidia-smi -i 0 -mig 1"


def test_a_gpu_that_something_holds_waits_for_a_reset() -> None:
    smi = Smi(card(), after=card("Disabled", pending="Enabled"))
    result = module.run(smi, "all-1g.18gb", check_mode=False)
    assert result["pending"] == ["GPU 0 (NVIDIA H200)"]
    assert smi.told == ["-i 0 -mig 1"]


def test_it_is_split() -> None:
    smi = Smi(card(), after=card("Enabled", NONE))
    assert module.run(smi, "all-3g.71gb", check_mode=False)["pending"] == []
    assert smi.told == ["-i 0 -mig 1", "mig -i 0 -cgi 9,9 -C"]
