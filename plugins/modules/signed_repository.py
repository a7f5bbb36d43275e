#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: signed_repository
short_description: A package repository whose key is the one it should be
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Writes the key and the definition of a repository of packages. Both are written only after the key has been
    found to have the given fingerprint, and the repository to answer; otherwise nothing is changed.
  - The host fetches what it needs itself, through the proxy of its environment.
options:
  key:
    description: Address of the key, V(https://), V(http://) or V(file://) for a file of the host.
    type: str
  key_content:
    description: The key itself, armoured, where it comes from the controller.
    type: str
  fingerprint:
    description: Fingerprint of the key, 40 hexadecimal digits. It has to be the only key of the file.
    type: str
    required: true
  key_path:
    description: Where the key is kept.
    type: path
    required: true
  path:
    description: File that defines the repository.
    type: path
    required: true
  content:
    description: What stands in it.
    type: str
    required: true
  index:
    description: Address of a file that the repository has to have, V(https://), V(http://) or V(file://).
    type: str
    required: true
  timeout:
    description: Seconds to wait for an answer.
    type: int
    default: 30
requirements:
  - python >= 3.9
notes:
  - Supports check mode and diff. Check mode fetches and compares as well.
"""

EXAMPLES = r"""
- name: NVIDIA's container toolkit
  llm_d.multi_engine.signed_repository:
    key: https://nvidia.github.io/libnvidia-container/gpgkey
    fingerprint: C95B321B61E88C1809C4F759DDCAE044F796ECB0
    key_path: /etc/apt/keyrings/nvidia-container-toolkit.asc
    path: /etc/apt/sources.list.d/nvidia-container-toolkit.sources
    content: |
      Types: deb
      URIs: https://nvidia.github.io/libnvidia-container/stable/deb/amd64/
      Suites: /
      Signed-By: /etc/apt/keyrings/nvidia-container-toolkit.asc
    index: https://nvidia.github.io/libnvidia-container/stable/deb/amd64/InRelease
"""

RETURN = r"""
fingerprints:
  description: Fingerprints of the keys that were found.
  returned: success
  type: list
  elements: str
"""

import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.openpgp import fingerprints

ARGUMENTS = {
    "key": {"type": "str", "no_log": False},
    "key_content": {"type": "str", "no_log": False},
    "fingerprint": {"type": "str", "required": True},
    "key_path": {"type": "path", "required": True, "no_log": False},
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "required": True},
    "index": {"type": "str", "required": True},
    "timeout": {"type": "int", "default": 30},
}


def fetch(module: AnsibleModule, what: str, address: str) -> bytes:
    """Return what is at ``address``; ends the module where it does not answer."""
    try:
        if address.startswith("file://"):
            with open(address[len("file://") :], "rb") as file:
                return file.read()
        return open_url(address, timeout=module.params["timeout"], http_agent="ansible").read()
    except Exception as error:  # noqa: BLE001 - names, certificates, proxies, statuses: each with its own words
        remedy = "Check the address, gpu_node_environment (proxies) and the firewall, or name a mirror."
        module.fail_json(msg=f"{what}: {address} could not be read: {error}. {remedy} Nothing was changed.")


def check_key(module: AnsibleModule, key: bytes) -> list:
    """Return the fingerprints of the key's file; ends the module where they are not what they should be."""
    origin = module.params["key"] or "the given content"
    wanted = module.params["fingerprint"].replace(" ", "").upper()
    try:
        found = fingerprints(key)
    except ValueError as error:
        module.fail_json(msg=f"key: {origin} is not the key of a repository: {error}. Nothing was changed.")
    if found != [wanted]:
        module.fail_json(
            msg=f"key: {origin} has the fingerprint {', '.join(found)}, expected is {wanted}. Somebody else's key, or "
            "the owner changed it: compare with what the owner publishes before you change the fingerprint. "
            "Nothing was changed."
        )
    return found


def read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(module: AnsibleModule, path: str, content: bytes) -> None:
    """Write a file that everybody can read, as a whole or not at all."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.chmod(temporary, 0o644)
    module.atomic_move(temporary, path)


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        mutually_exclusive=[("key", "key_content")],
        required_one_of=[("key", "key_content")],
    )
    key = (module.params["key_content"] or "").encode() or fetch(module, "key", module.params["key"])
    found = check_key(module, key)
    fetch(module, "repository", module.params["index"])

    wanted = {module.params["key_path"]: key, module.params["path"]: module.params["content"].encode()}
    changes = {path: (read(path), content) for path, content in wanted.items()}
    changes = {path: pair for path, pair in changes.items() if pair[0] != pair[1]}
    if not module.check_mode:
        # The key first: a definition without its key would fail every use of the package manager.
        for path, (_before, after) in changes.items():
            write(module, path, after)
    diff = [
        {
            "before_header": path,
            "after_header": path,
            "before": (before or b"").decode(errors="replace"),
            "after": after.decode(errors="replace"),
        }
        for path, (before, after) in changes.items()
    ]
    module.exit_json(changed=bool(changes), fingerprints=found, diff=diff)


if __name__ == "__main__":
    main()
