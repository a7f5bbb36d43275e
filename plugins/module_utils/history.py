# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What served a model before, and why its last change failed: a ConfigMap a model, in the model's own namespace.

Its annotations say what there is, so that a list of metadata is enough to know; its data has the objects.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    METADATA_ONLY,
    Cluster,
    ClusterError,
    Conflict,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ASKED,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    MODEL_LABEL,
    ROLE_LABEL,
    STACK_LABEL,
    selector,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.redact import Redactor

ROLE = "rollout"
#: Annotations of the ConfigMap.
REVISIONS, FAILURE = "multi-engine.llm-d.ai/revisions", "multi-engine.llm-d.ai/failure"
RETURNING = "multi-engine.llm-d.ai/returning"
#: Revisions that are kept, and bytes that their objects may take together: an object of etcd has at most 1.5 MiB.
MOST, MOST_BYTES = 5, 700_000
#: Characters of a reason that are kept; annotations may have 256 KiB together.
LONGEST_REASON = 4000
#: Tries of a write that others get in the way of.
_TRIES = 5


class HistoryError(Exception):
    """Objects of a revision are not there, or cannot be read."""


@dataclass(frozen=True)
class Record:
    """The history of one model.

    :ivar revisions: those that served, the last one last. Each has ``revision``, ``asked`` (a digest of all its
        objects), ``since`` (when it began to serve), ``engine``, ``version``, ``image``, ``release`` and, where a
        rollback led to it, ``back_from``.
    :ivar failure: of the last change that failed while what served stayed the same: ``at``, ``revision``, ``wanted`` and
        ``reason``; None when there is none.
    :ivar objects: revision to its objects, packed.
    :ivar returning: revision that a rollback leads to, from its beginning until it is noted down that it is there.
    """

    revisions: Sequence[Mapping[str, Any]] = field(default_factory=list)
    failure: Mapping[str, Any] | None = None
    objects: Mapping[str, str] = field(default_factory=dict)
    returning: str = ""

    @property
    def asked(self) -> str:
        """Digest of the objects of the last one."""
        return self.revisions[-1]["asked"] if self.revisions else ""


def read(cluster: Cluster, stack: str, namespace: str) -> dict[str, Record]:
    """Return by model what is known of it, without the objects, by one small request."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    answer = cluster.raw("get", path, accept=METADATA_ONLY, labelSelector=selector(stack, ROLE))
    found = {}
    for item in (answer or {}).get("items") or []:
        model = item["metadata"]["labels"].get(MODEL_LABEL)
        if model:
            found[model] = record_of(item)
    return found


def record_of(live: Mapping[str, Any] | None) -> Record:
    """Return what a live ConfigMap says."""
    annotations = (live or {"metadata": {}})["metadata"].get("annotations") or {}
    objects = (live or {}).get("binaryData") or {}
    revisions, failure = _parsed(annotations, REVISIONS, list) or [], _parsed(annotations, FAILURE, dict)
    return Record(revisions, failure, objects, annotations.get(RETURNING, ""))


def _parsed(annotations: Mapping[str, str], name: str, kind: type) -> Any:
    try:
        found = json.loads(annotations.get(name, "null"))
    except ValueError:  # somebody wrote in it: as good as none
        return None
    return found if isinstance(found, kind) else None


def served(record: Record, entry: Mapping[str, Any], objects: str | None) -> Record:
    """Return ``record`` after a revision began to serve, or is there with other objects.

    :param entry: of the revision, see :class:`Record`.
    :param objects: of it, packed; None where they are known from before.
    """
    revision, last = entry["revision"], record.revisions[-1] if record.revisions else {}
    known = next((item for item in record.revisions if item["revision"] == revision), {})
    entry = {**known, **entry}
    same = last.get("revision") == revision
    if same:
        # It began to serve when it did, whatever else has changed since.
        entry.update({key: last[key] for key in ("since", "back_from") if key in last})
    elif "back_from" in known:
        entry.pop("back_from")
    others = [item for item in record.revisions if item["revision"] != revision]
    kept = record.objects if objects is None else {**record.objects, revision: objects}
    return _bounded(Record([*others, entry], record.failure if same else None, kept))


def goes_back(record: Record, revision: str) -> Record:
    """Return ``record`` when a rollback to ``revision`` begins, so that one that is interrupted knows where it led."""
    return replace(record, returning=revision)


def went_back(record: Record, revision: str, since: str) -> Record:
    """Return ``record`` after a rollback to ``revision`` from the last one."""
    if revision not in [item["revision"] for item in record.revisions[:-1]]:
        # Somebody else was faster.
        return replace(record, returning="")
    left = record.revisions[-1]
    after = served(record, {"revision": revision, "since": since}, None)
    place = {name: left.get(name, "") for name in ("revision", "engine", "version")}
    return replace(after, revisions=[*after.revisions[:-1], {**after.revisions[-1], "back_from": place}])


def failed(record: Record, at: str, revision: str, wanted: str, reason: str) -> Record:
    """Return ``record`` after a change that failed.

    :param revision: that was wanted, and ``wanted`` in words.
    """
    text = Redactor().text(reason)
    if len(text) > LONGEST_REASON:
        text = f"{text[:LONGEST_REASON]} [...]"
    return replace(record, failure={"at": at, "revision": revision, "wanted": wanted, "reason": text})


def _bounded(record: Record) -> Record:
    """Return ``record`` without the oldest revisions where it would get too large."""
    kept: list[Mapping[str, Any]] = []
    objects: dict[str, str] = {}
    size = 0
    for entry in reversed(record.revisions[-MOST:]):
        packed = record.objects.get(entry["revision"], "")
        size += len(packed)
        if size > MOST_BYTES and kept:
            break
        kept.insert(0, entry)
        # What serves is listed in any case, so that whoever wants it back is told why it cannot be.
        if packed and size <= MOST_BYTES:
            objects[entry["revision"]] = packed
    return replace(record, revisions=kept, objects=objects)


def keep(cluster: Cluster, stack: str, namespace: str, model: str, change: Callable[[Record], Record]) -> bool:
    """Write down what ``change`` makes of the record of ``model``, at once; return whether it is another one.

    :raises ClusterError: where the ConfigMap belongs to somebody else, or cannot be written.
    """
    name = name_for(stack, model)
    labels = {MANAGED_BY_LABEL: MANAGED_BY, STACK_LABEL: stack, ROLE_LABEL: ROLE, MODEL_LABEL: model}
    for _try in range(_TRIES):
        live = cluster.get("v1", "ConfigMap", name, namespace)
        if live and not labels.items() <= (live["metadata"].get("labels") or {}).items():
            raise ClusterError(
                f"ConfigMap {namespace}/{name} is not of this stack's rollouts: what serves model {model} is not noted "
                "down, and a rollback will not know it. Rename or remove it."
            )
        before = record_of(live)
        after = change(before)
        if after == before:
            return False
        metadata = {"name": name, "namespace": namespace, "labels": labels, "annotations": _annotations(after)}
        if live:
            metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
        item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": dict(after.objects)}
        try:
            cluster.write(item)
            return True
        except Conflict:
            continue
    raise ClusterError(f"Somebody else keeps changing ConfigMap {namespace}/{name}.")


def _annotations(record: Record) -> dict[str, str]:
    result = {ASKED: record.asked, REVISIONS: json.dumps(list(record.revisions))}
    if record.failure:
        result[FAILURE] = json.dumps(record.failure)
    if record.returning:
        result[RETURNING] = record.returning
    return result


def name_for(stack: str, model: str) -> str:
    """Return the name of the ConfigMap."""
    return f"{stack}-{ROLE}-{model}"


def pack(content: Any) -> str:
    """Return plain data as short text."""
    return base64.b64encode(zlib.compress(json.dumps(content, sort_keys=True).encode(), 9)).decode()


def unpack(text: str | None) -> Any:
    """Return what :func:`pack` was given.

    :raises HistoryError: when nothing can be made of ``text``.
    """
    if not text:
        raise HistoryError("its objects were not kept: they are too large")
    try:
        return json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise HistoryError(f"its objects cannot be read: {error}") from error
