# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Tells from an object's managed fields whether applying it again would change anything.

Server-side apply notes down which fields a manager set. Whoever else changes one of them takes it
over, so an object is as it was asked for when we own just the fields that we ask for, and their
values are those. Where this cannot be told for sure (a quantity written another way, say) the
answer is no, and the API server decides.
"""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import FIELD_MANAGER

#: They say which object it is; nobody owns them.
_IDENTITY = ("apiVersion", "kind")
_NAMES = ("name", "namespace")


def is_as_asked(asked: dict, live: dict) -> bool:
    """Whether applying ``asked`` would leave ``live`` as it is.

    :param live: as the API server returns it, with its managed fields.
    """
    fields = _fields(live)
    if fields is None:
        return False
    wanted = {key: value for key, value in asked.items() if key not in _IDENTITY}
    wanted["metadata"] = {key: value for key, value in asked["metadata"].items() if key not in _NAMES}
    return _same(wanted, live, fields)


def _fields(live: dict) -> dict | None:
    """Return the fields that we applied, as Kubernetes writes them down."""
    for entry in live["metadata"].get("managedFields") or []:
        if entry["manager"] == FIELD_MANAGER and entry["operation"] == "Apply" and not entry.get("subresource"):
            return entry["fieldsV1"]
    return None


def _same(asked: Any, live: Any, fields: dict) -> bool:
    owned = {key: value for key, value in fields.items() if key != "."}
    if not owned:
        # One value to Kubernetes, whatever is in it.
        return _within(asked, live)
    if isinstance(asked, dict) and isinstance(live, dict):
        return _same_dict(asked, live, owned)
    if isinstance(asked, list) and isinstance(live, list):
        return _same_list(asked, live, owned)
    return False


def _same_dict(asked: dict, live: dict, owned: dict) -> bool:
    asked = {key: value for key, value in asked.items() if value is not None}
    if {f"f:{key}" for key in asked} != owned.keys():
        return False
    return all(key in live and _same(value, live[key], owned[f"f:{key}"]) for key, value in asked.items())


def _same_list(asked: list, live: list, owned: dict) -> bool:
    """Compare lists whose items Kubernetes tells apart by a key (``k:``) or by value (``v:``)."""
    if len(asked) != len(owned):
        return False
    if all(key.startswith("v:") for key in owned):
        return {json.dumps(item) for item in asked} == {json.dumps(json.loads(key[2:])) for key in owned}
    for name, fields in owned.items():
        if not name.startswith("k:"):
            return False
        key = json.loads(name[2:])
        wanted = [item for item in asked if _has(item, key, missing=True)]
        there = [item for item in live if _has(item, key, missing=False)]
        if len(wanted) != 1 or len(there) != 1 or not _same(wanted[0], there[0], fields):
            return False
    return True


def _has(item: Any, key: dict, missing: bool) -> bool:
    """Whether ``item`` has the values of ``key``; ``missing`` ones may be left to a default."""
    if not isinstance(item, dict):
        return False
    return all(item[name] == value if name in item else missing for name, value in key.items())


def _within(asked: Any, live: Any) -> bool:
    """Whether ``live`` is ``asked``, filled up with defaults at most."""
    if isinstance(asked, dict) and isinstance(live, dict):
        return all(key in live and _within(value, live[key]) for key, value in asked.items())
    if isinstance(asked, list) and isinstance(live, list):
        return len(asked) == len(live) and all(map(_within, asked, live))
    return type(asked) is type(live) and asked == live
