# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: kubespray
short_description: What is known of kubespray where Ansible runs
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Tells whether kubespray's collection is installed, which versions of Kubernetes it knows, and what to start.
  - Runs nothing.
options:
  _terms:
    description: A playbook of the collection, one of V(cluster), V(scale) and V(upgrade_cluster).
    type: list
    elements: str
    default: [cluster]
"""

EXAMPLES = r"""
- name: Make the cluster
  ansible.builtin.import_playbook: "{{ lookup('llm_d.multi_engine.kubespray').playbook or 'how.yml' }}"
"""

RETURN = r"""
_value:
  description:
    - C(collection), null where it is not installed, with C(version), C(requires_ansible) and C(kubernetes) (list of
      versions, the newest first).
    - C(playbook), what to import; empty where that cannot work, and C(why) it cannot.
  type: list
  elements: dict
"""

import importlib
import os

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible.release import __version__
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import kubespray


def _collection() -> dict | None:
    try:
        package = importlib.import_module(f"ansible_collections.{kubespray.COLLECTION}")
    except ImportError:
        return None
    folder = os.path.dirname(package.__file__)
    return kubespray.described({name: _text(os.path.join(folder, path)) for name, path in kubespray.FILES.items()})


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list, variables: object = None, **kwargs: object) -> list:
        name = str(terms[0]) if terms else kubespray.PLAYBOOKS[0]
        if name not in kubespray.PLAYBOOKS:
            raise AnsibleError(
                f"kubernetes_playbook: {name!r} is not allowed. Allowed: {', '.join(kubespray.PLAYBOOKS)}."
            )
        collection = _collection()
        why = kubespray.why_not(collection, __version__)
        return [{"collection": collection, "playbook": "" if why else f"{kubespray.COLLECTION}.{name}", "why": why}]
