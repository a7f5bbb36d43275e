# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""How GPUs are split by MIG, and what has to be done for them to be split otherwise.

Everything is read from what ``nvidia-smi`` prints: which profiles a GPU has, it says itself, so there is no
table of GPUs here. Configurations are named as NVIDIA's mig-parted and GPU operator name them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

QUERY = ("--query-gpu=index,name,mig.mode.current,mig.mode.pending", "--format=csv,noheader")
PROFILES = ("mig", "-lgip")
INSTANCES = ("mig", "-lgi")
USERS = ("--query-compute-apps=pid,process_name", "--format=csv,noheader")
DISABLED, BALANCED = "all-disabled", "all-balanced"
#: `|   0  MIG 1g.18gb+me      20     1/1        16.00 ...`
_PROFILE = re.compile(r"^\|\s+(\d+)\s+MIG (\S+)\s+(\d+)\s+\d+/(\d+)\s")
#: `|   0  MIG 1g.18gb         19       13          6:1     |`
_INSTANCE = re.compile(r"^\|\s+(\d+)\s+MIG (\S+)\s+(\d+)\s+(\d+)\s+\d+:\d+\s")
#: What is balanced, by how many of the smallest instances a GPU takes (mig-parted's all-balanced).
_BALANCE = {7: {1: 2, 2: 1, 3: 1}, 4: {1: 2, 2: 1}}


class MigError(Exception):
    """Something that cannot be done; the text is for the user."""


@dataclass(frozen=True)
class Profile:
    """A way to cut an instance out of a GPU.

    :ivar number: by which nvidia-smi creates it.
    :ivar most: how many fit.
    """

    name: str
    number: int
    most: int


@dataclass(frozen=True)
class Card:
    """A GPU.

    :ivar mode: ``Enabled``, ``Disabled`` or ``[N/A]``, and what it is going to be.
    :ivar instances: name of a profile to how many instances of it there are.
    """

    index: int
    name: str
    mode: str
    pending: str
    profiles: tuple[Profile, ...]
    instances: Mapping[str, int]


def cards(query: str, profiles: str, instances: str) -> list[Card]:
    """Return the GPUs, of what nvidia-smi prints for :data:`QUERY`, :data:`PROFILES` and :data:`INSTANCES`."""
    known: dict[int, list[Profile]] = {}
    for match in filter(None, map(_PROFILE.match, profiles.splitlines())):
        known.setdefault(int(match[1]), []).append(Profile(match[2], int(match[3]), int(match[4])))
    there: dict[int, Counter] = {}
    for match in filter(None, map(_INSTANCE.match, instances.splitlines())):
        there.setdefault(int(match[1]), Counter())[match[2]] += 1
    found = []
    for line in query.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 4 and words[0].isdigit():
            index = int(words[0])
            found.append(Card(index, *words[1:], tuple(known.get(index, ())), dict(there.get(index, {}))))
    return found


def wanted(card: Card, config: str) -> dict[str, int] | None:
    """Return the instances that ``config`` makes of a GPU; None where MIG is off.

    :raises MigError: when the GPU cannot be split like that, with the configurations that it has.
    """
    if config == DISABLED:
        return None
    options = configurations(card)
    if config.replace("+", ".") not in options:
        told = ", ".join([*options, DISABLED])
        problem = "cannot be split by MIG." if not options else f"has no such profile. It has {told}."
        raise MigError(f"gpu_node_mig: {config!r}: GPU {card.index} ({card.name}) {problem}")
    return options[config.replace("+", ".")]


def configurations(card: Card) -> dict[str, dict[str, int]]:
    """Return what a GPU can be split into, by name of the configuration."""
    found = {f"all-{item.name.replace('+', '.')}": {item.name: item.most} for item in card.profiles}
    plain = [item for item in card.profiles if "+" not in item.name and "-" not in item.name]
    # Of several with one slice, the one that most fit of.
    first = {_slices(item): item for item in sorted(plain, key=lambda item: item.most)}
    smallest = first.get(1)
    parts = _BALANCE.get(smallest.most, {}) if smallest else {}
    if parts and parts.keys() <= first.keys():
        found[BALANCED] = {first[slices].name: count for slices, count in parts.items()}
    return found


def steps(card: Card, config: str) -> list[list[str]]:
    """Return the arguments of nvidia-smi, call by call, that split a GPU as ``config`` says; none when it is."""
    instances, on = wanted(card, config), card.mode == "Enabled"
    if instances is None:
        if not on and card.pending != "Enabled":
            return []
        return [*_destroy(card), ["-i", str(card.index), "-mig", "0"]]
    if on and card.instances == instances:
        return []
    mode = [] if on else [["-i", str(card.index), "-mig", "1"]]
    return [*_destroy(card), *mode, _create(card, instances)]


def boot(found: Sequence[Card], config: str) -> list[list[str]]:
    """Return the arguments of nvidia-smi that split the GPUs after a boot, which leaves no instance."""
    if config == DISABLED:
        return []
    calls = [["-i", ",".join(str(card.index) for card in found), "-mig", "1"]]
    return [*calls, *(_create(card, wanted(card, config) or {}) for card in found)]


def users(printed: str) -> list[str]:
    """Return the processes that use GPUs, of what nvidia-smi prints for :data:`USERS`."""
    lines = (line.partition(",") for line in printed.splitlines())
    return [f"{name.strip()} ({pid.strip()})" for pid, _comma, name in lines if pid.strip().isdigit()]


def _destroy(card: Card) -> list[list[str]]:
    """Compute instances go first: a GPU instance that has some stays."""
    return [["mig", "-i", str(card.index), word] for word in ("-dci", "-dgi")] if card.instances else []


def _create(card: Card, instances: Mapping[str, int]) -> list[str]:
    """The largest first: smaller ones before it may leave it no place. `-C` makes their compute instances, too."""
    kinds = {item.name: item for item in card.profiles}
    names = [name for name, count in instances.items() for _number in range(count)]
    names.sort(key=lambda name: _slices(kinds[name]), reverse=True)
    return ["mig", "-i", str(card.index), "-cgi", ",".join(str(kinds[name].number) for name in names), "-C"]


def _slices(profile: Profile) -> int:
    return int(profile.name.partition("g")[0])
