"""A cluster that is a dictionary, for what module ``apply`` does with objects."""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError, Conflict, UnknownKind
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import FIELD_MANAGER


def fields(value: Any) -> dict:
    """Return managed fields of ``value``, as Kubernetes writes them down of maps."""
    return {f"f:{key}": fields(entry) for key, entry in value.items()} if isinstance(value, dict) else {}


def _copy(value: Any) -> Any:
    """As copy.deepcopy, in a tenth of the time: what is copied here is plain data."""
    return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))


class FakeCluster:
    """Keeps objects by kind and name; what is applied is merged as a server would, roughly.

    :param unknown: kinds that it does not serve.
    :param refused: kinds that it does not take.
    :param as_asked: note down managed fields, so that what is as asked for can be told.
    """

    def __init__(
        self,
        *live: dict[str, Any],
        unknown: tuple[str, ...] = (),
        refused: tuple[str, ...] = (),
        as_asked: bool = False,
    ) -> None:
        self.live = {(item["kind"], item["metadata"]["name"]): copy.deepcopy(item) for item in live}
        self.unknown, self.refused, self.as_asked = unknown, refused, as_asked
        #: Kind and whether it was only tried, of each apply, and kinds of other writes.
        self.applied: list[tuple[str, bool]] = []
        self.written: list[str] = []
        self.calls: Counter[str] = Counter()
        #: How many writes are to find that somebody was faster.
        self.conflicts = 0

    def impatient(self) -> FakeCluster:
        return self

    def served(self, _group: str, kind: str) -> str | None:
        return None if kind in self.unknown else "v1"

    def get(self, _api_version: str, kind: str, name: str, _namespace: str | None = None) -> dict | None:
        if kind in self.unknown:
            raise UnknownKind(f"The cluster does not know {kind}")
        return _copy(self.live.get((kind, name)))

    def list(
        self, _api_version: str, kind: str, _namespace: str | None = None, labels: str = "", known: bool = False
    ) -> list[dict]:
        if kind in self.unknown:
            if not known:
                return []
            raise UnknownKind(f"The cluster does not know {kind}")
        wanted = dict(entry.split("=") for entry in labels.split(",") if entry)
        return [
            _copy(live)
            for (of_kind, _name), live in self.live.items()
            if of_kind == kind and wanted.items() <= live["metadata"].get("labels", {}).items()
        ]

    def apply(self, item: dict, force: bool, dry_run: bool, manager: str = FIELD_MANAGER) -> dict:
        if item["kind"] in self.unknown:
            raise UnknownKind(f"The cluster does not know {item['kind']}")
        if item["kind"] in self.refused:
            raise ClusterError("no such luck")
        namespace = item["metadata"].get("namespace")
        if namespace and ("Namespace", namespace) not in self.live:
            raise ClusterError(f'namespaces "{namespace}" not found')
        after = {**_copy(item), "status": {}, "defaulted": True}
        after["metadata"]["uid"] = "1"
        if self.as_asked:
            asked = {key: value for key, value in item.items() if key not in ("apiVersion", "kind")}
            asked["metadata"] = {
                key: value for key, value in item["metadata"].items() if key not in ("name", "namespace")
            }
            entry = {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields(asked)}
            after["metadata"]["managedFields"] = [entry]
        self.applied.append((item["kind"], dry_run))
        if not dry_run:
            self.live[item["kind"], item["metadata"]["name"]] = _copy(after)
        return after

    def write(self, item: dict) -> dict:
        key = item["kind"], item["metadata"]["name"]
        there = self.live.get(key)
        seen = item["metadata"].get("resourceVersion")
        if self.conflicts or (there["metadata"]["resourceVersion"] if there else None) != seen:
            self.conflicts = max(0, self.conflicts - 1)
            raise Conflict("the object has been modified")
        self.written.append(item["kind"])
        after = json.loads(json.dumps(item))
        after["metadata"]["uid"] = there["metadata"].get("uid", "1") if there else "1"
        after["metadata"]["resourceVersion"] = str(int(seen or 0) + 1)
        self.live[key] = after
        return copy.deepcopy(after)

    def delete(self, item: dict, dry_run: bool) -> None:
        if not dry_run:
            self.live.pop((item["kind"], item["metadata"]["name"]))

    def renew(self) -> None:
        """Renew a Lease, as another run that is alive does."""
        for (kind, _name), live in self.live.items():
            if kind == "Lease":
                live["spec"]["renewTime"] += "+"
