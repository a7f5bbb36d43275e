#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: mig
short_description: Split GPUs by MIG
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Splits all of a host's GPUs as a configuration says, by C(nvidia-smi), and leaves them alone when they are split so.
  - Refuses while a process uses a GPU, and configurations that a GPU does not have, with those that it has.
options:
  config:
    description:
      - >-
        C(all-disabled), C(all-balanced) or C(all-PROFILE) for as many instances of a profile as fit, such as
        C(all-1g.18gb), as NVIDIA's mig-parted and GPU operator name them.
    type: str
    required: true
requirements:
  - nvidia-smi and a driver that runs
notes:
  - Supports check mode.
  - Runs on Python 3.9 and needs nothing but nvidia-smi.
"""

EXAMPLES = r"""
- name: Make seven instances of each H200
  llm_d.multi_engine.mig:
    config: all-1g.18gb
"""

RETURN = r"""
steps:
  description: Calls of nvidia-smi that were made, or in check mode would be.
  returned: always
  type: list
  elements: str
users:
  description: Processes that use the GPUs, where something is to be changed. Refused, and in check mode a warning.
  returned: always
  type: list
  elements: str
boot:
  description: Calls of nvidia-smi that split the GPUs again after a boot.
  returned: always
  type: list
  elements: str
pending:
  description: GPUs whose mode changes with the next reset or reboot, because something holds them.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host import mig
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.mig import MigError

#: What nvidia-smi prints, and ends with an error for, where nothing is split.
NONE_YET = ("No MIG-enabled devices found", "No GPU instances found")


class Smi:
    """Runs nvidia-smi."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self.path = module.get_bin_path("nvidia-smi", True)

    def __call__(self, *arguments: str) -> str:
        """Return what a call prints.

        :raises MigError: when it fails, with its words.
        """
        code, output, errors = self._module.run_command([self.path, *arguments], environ_update={"LC_ALL": "C"})
        if code and not any(text in output + errors for text in NONE_YET):
            said = (errors or output).strip()
            raise MigError(f"nvidia-smi {' '.join(arguments)} ended with {code}: {said}")
        return output

    def cards(self) -> list:
        """Return the GPUs as they are."""
        return mig.cards(self(*mig.QUERY), self(*mig.PROFILES), self(*mig.INSTANCES))


def main() -> None:
    module = AnsibleModule({"config": {"type": "str", "required": True}}, supports_check_mode=True)
    smi = Smi(module)
    try:
        result = run(smi, module.params["config"], module.check_mode)
        if module.check_mode and result["users"]:
            # By the time that it counts the node may have been drained.
            module.warn(in_use(result["users"], module.params["config"]))
        module.exit_json(**result)
    except MigError as error:
        module.fail_json(msg=str(error))


def run(smi: Smi, config: str, check_mode: bool) -> dict:
    """Split the GPUs and return the module's result."""
    cards = smi.cards()
    if not cards:
        raise MigError("nvidia-smi lists no GPU.")
    calls = {card.index: mig.steps(card, config) for card in cards}
    result = {
        "changed": any(calls.values()),
        "steps": [" ".join(call) for one in calls.values() for call in one],
        "boot": [" ".join([smi.path, *call]) for call in mig.boot(cards, config)],
        "pending": [],
    }
    result["users"] = mig.users(smi(*mig.USERS)) if result["changed"] else []
    if not check_mode:
        if result["users"]:
            raise MigError(f"{in_use(result['users'], config)} They were left as they are.")
        result["pending"] = [name for index, one in calls.items() if (name := split(smi, index, one))]
    return result


def in_use(users: list[str], config: str) -> str:
    """Return why GPUs cannot be split otherwise."""
    return (
        f"GPUs are in use by {', '.join(users)}, and gpu_node_mig: {config} splits them otherwise. Drain the node first, or "
        "stop what uses them."
    )


def split(smi: Smi, index: int, calls: list[list[str]]) -> str | None:
    """Make the calls for one GPU; returns it where a reset has to come first."""
    for call in calls:
        smi(*call)
        if "-mig" in call:
            card = next(card for card in smi.cards() if card.index == index)
            if card.mode != card.pending:
                return f"GPU {card.index} ({card.name})"
    return None


if __name__ == "__main__":
    main()
