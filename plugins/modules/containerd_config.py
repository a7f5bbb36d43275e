#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: containerd_config
short_description: NVIDIA's runtime in containerd's configuration
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Adds NVIDIA's runtime and the control groups of systemd to containerd's configuration, as a drop-in where containerd
    merges those value by value, otherwise in the root file. Everything else stays as it is written.
  - containerd itself reads the result before it is put in place, and has to find in it all that it found before.
  - What was there before is kept until O(state=proven) drops it or O(state=restored) puts it back. As long as it is
    kept, the module says RV(restart), also in a later run.
options:
  state:
    description:
      - V(present) writes the configuration.
      - V(proven) forgets what was there before, once containerd runs with the new one.
      - V(restored) puts back what was there before.
    type: str
    choices: [present, proven, restored]
    default: present
  config:
    description: The root file.
    type: path
    default: /etc/containerd/config.toml
  program:
    description: The containerd that runs. Empty takes that of the service, otherwise the first one in PATH.
    type: str
    default: ""
  binary:
    description: NVIDIA's runtime.
    type: path
    default: /usr/bin/nvidia-container-runtime
  systemd_cgroup:
    description: Whether control groups are those of systemd, as the kubelet's are by default.
    type: bool
    default: true
  default_runtime:
    description: Runtime of pods that name none.
    type: str
    choices: [runc, nvidia]
    default: runc
  generations:
    description: What is known of containerd by its version, as in C(vars/containerd.yml) of role C(gpu_node).
    type: list
    elements: dict
  plugins:
    description: The plugin that runs pods, by version of the configuration.
    type: dict
    default: {}
  journal:
    description: Where what was there before is kept.
    type: path
    default: /var/lib/llm-d/containerd-before.json
requirements:
  - python >= 3.9
notes:
  - Supports check mode and diff. Check mode has containerd read the result as well.
  - Passwords and tokens of registries are shown neither in the diff nor in messages.
"""

EXAMPLES = r"""
- name: Add NVIDIA's runtime
  llm_d.multi_engine.containerd_config:
    generations: "{{ __gpu_node_containerd_generations }}"
    plugins: "{{ __gpu_node_containerd_plugins }}"
"""

RETURN = r"""
restart:
  description: Whether containerd has to be restarted.
  returned: success
  type: bool
files:
  description: Files that were changed, or would be.
  returned: success
  type: list
  elements: str
version:
  description: Version of containerd.
  returned: O(state=present)
  type: str
ctr:
  description: The client that came with this containerd, otherwise the one in PATH.
  returned: O(state=present)
  type: str
"""

import json
import os
import re
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compat.version import LooseVersion
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host import containerd_config
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.containerd_config import (
    DROP_IN_FOLDER,
    Refused,
    hidden,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.runtime import version

ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "proven", "restored"], "default": "present"},
    "config": {"type": "path", "default": "/etc/containerd/config.toml"},
    "program": {"type": "str", "default": ""},
    "binary": {"type": "path", "default": "/usr/bin/nvidia-container-runtime"},
    "systemd_cgroup": {"type": "bool", "default": True},
    "default_runtime": {"type": "str", "choices": ["runc", "nvidia"], "default": "runc"},
    "generations": {"type": "list", "elements": "dict"},
    "plugins": {"type": "dict", "default": {}},
    "journal": {"type": "path", "default": "/var/lib/llm-d/containerd-before.json"},
}
SETTINGS = ("binary", "systemd_cgroup", "default_runtime")


def generation_of(number: str, generations: list) -> dict:
    """Return what is known of this containerd; the first that fits counts."""
    for item in generations:
        operator, bound = re.match(r"(<|>=)\s*(\S+)", item["containerd"]).groups()
        less = LooseVersion(number) < LooseVersion(bound)
        if less == (operator == "<"):
            return item
    raise Refused(f"containerd {number} is not known here.")


def program_of(module: AnsibleModule) -> str:
    """Return the containerd that runs: where there are several, another one may read another configuration."""
    if module.params["program"]:
        return module.params["program"]
    systemctl = module.get_bin_path("systemctl")
    if systemctl:
        _code, output, _errors = module.run_command([systemctl, "show", "--property=ExecStart", "containerd.service"])
        match = re.search(r"path=(\S+)", output)
        if match and os.access(match[1], os.X_OK):
            return match[1]
    return module.get_bin_path("containerd", required=True)


def ctr_of(program: str) -> str:
    """Return the client beside a containerd: PATH with sudo often leaves out /usr/local/bin."""
    beside = os.path.join(os.path.dirname(program), "ctr")
    return beside if os.access(beside, os.X_OK) else "ctr"


def dump(module: AnsibleModule, program: str, config: str) -> tuple[str, str]:
    """Return what containerd makes of a configuration, and its complaint."""
    code, output, errors = module.run_command([program, "--config", config, "config", "dump"])
    return (output, "") if code == 0 else ("", errors.strip() or output.strip() or f"status {code}")


def read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(module: AnsibleModule, path: str, content: str | None, mode: int = 0o644) -> None:
    """Write a file as a whole or not at all; None removes it. One that is there keeps its mode."""
    if content is None:
        if os.path.exists(path):
            os.unlink(path)
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
    # A new file gets what umask leaves.
    umask = os.umask(0o777 & ~mode)
    try:
        module.atomic_move(temporary, path)
    finally:
        os.umask(umask)


def tried(module: AnsibleModule, program: str, files: dict) -> tuple[str, str]:
    """Return what containerd would make of ``files``, from copies that nothing else reads."""
    config, inside = module.params["config"], tempfile.mkdtemp(dir=module.tmpdir)
    folder = os.path.join(inside, "conf.d")
    if os.path.isdir(DROP_IN_FOLDER):
        shutil.copytree(DROP_IN_FOLDER, folder)
    os.makedirs(folder, exist_ok=True)
    root = files[config]
    for path, content in files.items():
        if path != config:
            write(module, os.path.join(folder, os.path.basename(path)), content)
    there = containerd_config.toml.values(root).get(((), "imports"), "[]")
    items = containerd_config.toml.strings(there) or [f"{DROP_IN_FOLDER}/*.toml"] * (len(files) > 1)
    moved = [
        item.replace(DROP_IN_FOLDER, folder) if item.startswith("/") else os.path.join(os.path.dirname(config), item)
        for item in items
    ]
    imports = "[" + ", ".join(map(containerd_config.toml.string, moved)) + "]"
    copy = os.path.join(inside, "config.toml")
    write(module, copy, containerd_config.toml.edited(root, {(): {"imports": imports}}))
    return dump(module, program, copy)


def present(module: AnsibleModule) -> dict:
    params = module.params
    config, settings = params["config"], {name: params[name] for name in SETTINGS}
    program = program_of(module)
    code, output, errors = module.run_command([program, "--version"])
    number = version(output) if code == 0 else None
    if not number:
        raise Refused(f"{program} does not tell its version: {errors.strip() or output.strip()}")
    # Debian writes 1.6.20~ds1.
    number = re.match(r"[\d.]*\d", number)[0]
    generation = generation_of(number, params["generations"])
    if not generation["config"]:
        raise Refused(f"containerd {number} is too old: Kubernetes needs 1.6 or later.")

    root = read(config)
    before, complaint = dump(module, program, config) if root is not None else ("", "")
    if complaint:
        raise Refused(f"{config}: containerd does not read it: {complaint}. Correct it; it was not changed.")
    files = containerd_config.wanted(root, generation, params["plugins"], settings, config)
    after, complaint = tried(module, program, files)
    if complaint:
        raise Refused(f"{config}: containerd would not read what would be written: {complaint}. Nothing was changed.")
    values = containerd_config.dumped(generation, params["plugins"], settings)
    problems = [f"{item} would not count" for item in containerd_config.missing(after, values)]
    problems += [f"{item} would be lost" for item in containerd_config.lost(before, after, values)]
    if problems:
        raise Refused(f"{config}: nothing was changed, for containerd would read it otherwise: {'; '.join(problems)}.")

    changes = {path: (read(path), content) for path, content in files.items()}
    changes = {path: pair for path, pair in changes.items() if pair[0] != pair[1]}
    if changes and not module.check_mode:
        # What an unfinished run kept is older, and known to work.
        kept = {**{path: pair[0] for path, pair in changes.items()}, **json.loads(read(params["journal"]) or "{}")}
        # It holds the root file, which may have passwords of registries in it.
        write(module, params["journal"], json.dumps(kept), mode=0o600)
        for path, (_before, content) in changes.items():
            write(module, path, content)
    return {
        "changed": bool(changes),
        "restart": bool(changes) or read(params["journal"]) is not None,
        "files": list(changes),
        "version": number,
        "ctr": ctr_of(program),
        "diff": [
            {"before_header": path, "after_header": path, "before": hidden(old or ""), "after": hidden(new)}
            for path, (old, new) in changes.items()
        ],
    }


def restored(module: AnsibleModule) -> dict:
    kept = json.loads(read(module.params["journal"]) or "{}")
    if kept and not module.check_mode:
        for path, content in kept.items():
            write(module, path, content)
        write(module, module.params["journal"], None)
    return {"changed": bool(kept), "restart": bool(kept), "files": list(kept)}


def proven(module: AnsibleModule) -> dict:
    # Bookkeeping only: nothing on the host behaves otherwise.
    if not module.check_mode:
        write(module, module.params["journal"], None)
    return {"changed": False, "restart": False, "files": []}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_if=[("state", "present", ("generations", "plugins"))],
    )
    try:
        module.exit_json(**{"present": present, "proven": proven, "restored": restored}[module.params["state"]](module))
    except Refused as problem:
        module.fail_json(msg=hidden(str(problem)))


if __name__ == "__main__":
    main()
