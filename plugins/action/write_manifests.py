# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Runs where the manifests are composed: a module would carry them all through another program."""

from __future__ import annotations

import os

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.llm_d.multi_engine.plugins.module_utils.documents import load, text
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.files import replace
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


class ActionModule(ActionBase):
    """Writes manifests on the controller."""

    _supports_check_mode = True
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "dest": {"type": "path", "required": True},
                "files": {"type": "dict"},
                "sections": {"type": "dict"},
            },
            required_one_of=[["files", "sections"]],
            mutually_exclusive=[["files", "sections"]],
        )
        dest = os.path.expanduser(arguments["dest"])
        try:
            if arguments["sections"] is None:
                wanted = {f"{name}.yaml": content for name, content in to_plain(arguments["files"]).items()}
                result.update(write_all(dest, wanted, self._task.check_mode))
            else:
                wanted = {f"{name}.yaml": keys for name, keys in to_plain(arguments["sections"]).items()}
                result.update(write_all(dest, with_sections(dest, wanted), self._task.check_mode, shared=True))
        except OSError as error:
            raise AnsibleActionFail(f"{error.filename} cannot be written: {error.strerror}.") from error
        return result


def write_all(dest: str, files: dict[str, str], check_mode: bool, shared: bool = False) -> dict:
    """Write ``files`` (name to text) that differ into ``dest`` and return what changed.

    :param shared: whether others have files in ``dest``, too: nothing is stale there.
    """
    written, diffs = [], []
    if not check_mode:
        os.makedirs(dest, exist_ok=True)
    for name, after in files.items():
        path = os.path.join(dest, name)
        before = read(path)
        if before == after:
            continue
        written.append(path)
        diffs.append({"before_header": path, "after_header": path, "before": before, "after": after})
        if not check_mode:
            replace(path, after)
    left = [] if shared else stale(dest, set(files))
    result = {"changed": bool(written), "written": written, "stale": left, "diff": diffs}
    if left:
        result["warnings"] = [f"Not asked for any more, and left: {', '.join(left)}"]
    return result


def with_sections(dest: str, sections: dict[str, dict]) -> dict[str, str]:
    """Return the text of each file in ``dest`` with the keys of its ``sections`` laid over those that it has."""
    return {name: text({**_keys(os.path.join(dest, name)), **keys}) for name, keys in sections.items()}


def _keys(path: str) -> dict:
    try:
        there = load(read(path))
    except yaml.YAMLError as error:
        raise AnsibleActionFail(f"{path} is not YAML: {error}. Remove it.") from error
    if len(there) > 1 or not all(isinstance(item, dict) for item in there):
        raise AnsibleActionFail(f"{path} is another file than this collection's: it is no dictionary. Remove it.")
    return there[0] if there else {}


def read(path: str) -> str:
    """Return a file's text; nothing when it does not exist."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def stale(dest: str, wanted: set[str]) -> list[str]:
    """Return YAML files in ``dest`` that are not among ``wanted``."""
    present = os.listdir(dest) if os.path.isdir(dest) else []
    return sorted(os.path.join(dest, name) for name in present if name.endswith(".yaml") and name not in wanted)
