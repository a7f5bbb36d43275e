# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects as text: YAML that a person reads, JSON that Ansible need not walk."""

from __future__ import annotations

import json

try:
    import yaml
except ImportError:  # the modules say so in their own words
    yaml = None

if yaml is not None:
    LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
        """Writes text of several lines as it reads, and never uses anchors."""

        def ignore_aliases(self, data) -> bool:
            return True

    def _text(dumper: Dumper, text: str):
        style = "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, _text)


def load(text: str | bytes) -> list:
    """Return the documents of ``text`` that are not empty."""
    return [document for document in yaml.load_all(text, Loader=LOADER) if document]


def text(content: list | dict) -> str:
    """Return a file's text: a document for each object of a list, or one for a dictionary."""
    return dump(content if isinstance(content, list) else [content])


def as_json(by_model: dict[str, list[dict]]) -> str:
    """Return all objects of ``by_model`` as one text, for :func:`objects_of`.

    Ansible templates, tags and checks every leaf of what it hands to a module: seconds for the objects of a hundred
    models. Of a text it looks at nothing.
    """
    return json.dumps([item for items in by_model.values() for item in items])


def objects_of(given: list) -> list[dict]:
    """Return the objects of a parameter.

    :param given: objects, lists of them, or such lists as JSON text.
    :raises ValueError: when something else is among them.
    """
    found = []
    for part in given:
        content = json.loads(part) if isinstance(part, str) else part
        found += content if isinstance(content, list) else [content]
    for item in found:
        if not isinstance(item, dict) or not {"apiVersion", "kind", "metadata"} <= item.keys():
            raise ValueError(f"{json.dumps(item, default=str)[:200]} has no apiVersion, kind and metadata")
    return found


def dump(documents: list, explicit_start: bool = True) -> str:
    """Return ``documents`` as one text, nothing for none."""
    if not documents:
        return ""
    return yaml.dump_all(
        documents,
        Dumper=Dumper,
        sort_keys=False,
        explicit_start=explicit_start,
        width=120,
        allow_unicode=True,
    )
