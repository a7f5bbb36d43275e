# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What the user lays over composed Kubernetes objects, for what no setting foresaw.

A patch names its objects (``target``: kind, name, role of the pods) and says what to change,
either as a strategic merge (``merge``) or as a JSON patch (``json``, RFC 6902).
"""

from __future__ import annotations

import copy
import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import tracks
from .findings import Finding, did_you_mean, listing
from .objects import POD_ROLE_LABEL, Object

RULE = "patch"
IDENTITY_RULE = "patch-identity"
#: Lists whose entries are told apart by a key, as Kubernetes does. All others are replaced.
_MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    # Of a container, and of a Service.
    "ports": ("containerPort", "port"),
}
#: Their entries hold one of several sources: a new one replaces the old one.
_WHOLE_ENTRIES = ("env", "volumes")
_DIRECTIVE = "$patch"
_OPERATIONS = ("add", "remove", "replace", "test")


class PatchError(ValueError):
    """A patch that cannot be laid over an object; the message says where."""

    rule = RULE


class IdentityError(PatchError):
    """A patch that would make another object of the one that it is laid over."""

    rule = IDENTITY_RULE


def check(patch: Mapping[str, Any], where: str, findings: list[Finding]) -> None:
    """Append what is wrong with ``patch`` itself, whose types have been checked.

    :param where: path of the patch, for messages.
    """
    given = [kind for kind in ("merge", "json") if kind in patch]
    if len(given) != 1:
        problem = "both merge and json." if given else "neither merge nor json."
        findings.append(Finding(RULE, where, problem, "Give exactly one of them; write two patches for both."))
    for index, operation in enumerate(patch.get("json") or []):
        _check_operation(operation, f"{where}.json[{index}]", findings)


def _check_operation(operation: Mapping[str, Any], where: str, findings: list[Finding]) -> None:
    allowed = ("op", "path", "value")
    for key in operation:
        if key not in allowed:
            remedy = f"{did_you_mean(key, allowed)}Allowed: {listing(allowed)}."
            findings.append(Finding(RULE, f"{where}.{key}", "unknown key.", remedy))
    op, path = operation.get("op"), operation.get("path")
    if op not in _OPERATIONS:
        remedy = f"{did_you_mean(str(op), _OPERATIONS)}Allowed: {listing(_OPERATIONS)}."
        findings.append(Finding(RULE, f"{where}.op", f"{op!r} is not allowed.", remedy))
    if not isinstance(path, str) or not path.startswith("/"):
        remedy = "Allowed: a JSON pointer such as /spec/template/spec/containers/0/args/-."
        findings.append(Finding(RULE, f"{where}.path", f"{path!r} is not valid.", remedy))
    if op in ("add", "replace", "test") and "value" not in operation:
        findings.append(Finding(RULE, f"{where}.value", "missing.", f"Operation {op} needs one."))


def check_targets(
    patches: Sequence[Mapping[str, Any]],
    objects: Sequence[Object],
    findings: list[Finding],
    elsewhere: Sequence[str] = (),
) -> None:
    """Append a finding for each of ``patches`` that matches none of ``objects``.

    :param patches: each with ``where``, besides what the user wrote.
    :param elsewhere: kinds that are composed by somebody else, who looks for their targets.
    """
    for patch in patches:
        target = patch["target"]
        if target["kind"] in elsewhere or any(_matches(target, item, item["metadata"]["name"]) for item in objects):
            continue
        same_kind = [item for item in objects if item["kind"] == target["kind"]]
        if same_kind:
            suggestion = did_you_mean(target.get("name", ""), [item["metadata"]["name"] for item in same_kind])
            remedy = f"{suggestion}There are: {listing(dict.fromkeys(map(_describe, same_kind)))}."
        else:
            kinds = sorted({*(item["kind"] for item in objects), *elsewhere})
            remedy = f"{did_you_mean(target['kind'], kinds)}Kinds that there are: {listing(kinds) or 'none'}."
        findings.append(Finding(RULE, f"{patch['where']}.target", f"{_wanted(target)} matches nothing.", remedy))


def apply(
    objects: Sequence[Object],
    patches: Sequence[Mapping[str, Any]],
    findings: list[Finding],
    known_as: Callable[[str], str] = str,
) -> list[Object]:
    """Return ``objects`` with the ``patches`` that match them laid over, in their order.

    An object keeps its identity: a patch that would change it is refused, and so is one that does
    not fit.

    :param known_as: from the name of an object to the one that patches call it by.
    """
    return [_patched(item, patches, findings, known_as) for item in objects]


def laid_over(by_model: Mapping[str, Sequence[Object]], resolved: Mapping[str, Any]) -> dict[str, list[Object]]:
    """Return the objects of each model with the patches of the ``resolved`` stack and the model's own.

    :raises PatchError: with all findings, when a patch does not fit.
    """
    findings: list[Finding] = []
    own = {model["name"]: model for model in resolved["models"]}
    result = {}
    for name, objects in by_model.items():
        model = own[name]
        # Whoever patches a model need not know where a rollout has put it.
        known_as = str if tracks.is_neutral(model) else functools.partial(tracks.neutral_name, model)
        result[name] = apply(objects, [*resolved["patches"], *model["patches"]], findings, known_as)
    _refuse(findings)
    return result


def checked(objects: Sequence[Object], patches: Sequence[Mapping[str, Any]]) -> list[Object]:
    """Return ``objects`` with ``patches``, each of which has to match one of them.

    :raises PatchError: with all findings.
    """
    findings: list[Finding] = []
    check_targets(patches, objects, findings)
    result = apply(objects, patches, findings)
    _refuse(findings)
    return result


def _refuse(findings: Sequence[Finding]) -> None:
    """Raise all ``findings`` at once, if there are any."""
    if findings:
        raise PatchError("\n- ".join(["Patches do not fit:", *dict.fromkeys(map(str, findings))]))


def _patched(
    item: Object, patches: Sequence[Mapping[str, Any]], findings: list[Finding], known_as: Callable[[str], str]
) -> Object:
    result, name = item, known_as(item["metadata"]["name"])
    for patch in patches:
        if not _matches(patch["target"], item, name):
            continue
        try:
            changed = merge(result, patch["merge"]) if "merge" in patch else json_patch(result, patch["json"])
            _keep_identity(item, changed)
        except PatchError as error:
            remedy = f"The object is {_describe(item)}; playbook render shows it whole."
            findings.append(Finding(error.rule, patch["where"], f"{error}.", remedy))
            continue
        result = changed
    return result


def _matches(target: Mapping[str, Any], item: Object, name: str) -> bool:
    return (
        item["kind"] == target["kind"]
        and fnmatch.fnmatchcase(name, target.get("name") or "*")
        and target.get("role") in (None, _pod_role(item))
    )


def _pod_role(item: Object) -> str | None:
    """Return the role of an object's pods: prefill, decode, prefill-decode, or None of others."""
    places = [_get(holder, ("metadata", "labels")) or {} for holder in (item, *_pod_templates(item))]
    return next((labels[POD_ROLE_LABEL] for labels in places if POD_ROLE_LABEL in labels), None)


def _pod_templates(item: Object) -> list[Mapping[str, Any]]:
    """Return the pod templates of a workload; nothing of other objects."""
    spec = ("spec",)
    group = ("spec", "leaderWorkerTemplate")
    found = (_get(item, path) for path in ((*spec, "template"), (*group, "leaderTemplate"), (*group, "workerTemplate")))
    return [template for template in found if isinstance(template, Mapping)]


def _wanted(target: Mapping[str, Any]) -> str:
    role = f" of role {target['role']}" if target.get("role") else ""
    return f"{target['kind']} {target.get('name') or '*'}{role}"


def _describe(item: Object) -> str:
    role = _pod_role(item)
    return f"{item['kind']} {item['metadata']['name']}{f' ({role})' if role else ''}"


def _keep_identity(before: Object, after: Any) -> None:
    """Refuse a patch after which an object is another one, or does not find its own pods."""
    for path in (("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")):
        if _get(before, path) != _get(after, path):
            raise IdentityError(f"it would change {'.'.join(path)}, by which the object is known")
    _keep_labels("metadata.labels", _get(before, ("metadata", "labels")), _get(after, ("metadata", "labels")))
    if not _pod_templates(before):
        return
    if _get(before, ("spec", "selector")) != _get(after, ("spec", "selector")):
        raise IdentityError("it would change spec.selector, which has to match the pods")
    templates = _pod_templates(after)
    if len(templates) != len(_pod_templates(before)):
        raise IdentityError("it would take away a pod template")
    for old, new in zip(_pod_templates(before), templates, strict=True):
        path = ("metadata", "labels")
        _keep_labels("the pods' labels", _get(old, path), _get(new, path))


def _keep_labels(where: str, before: Any, after: Any) -> None:
    after = after if isinstance(after, Mapping) else {}
    lost = [key for key, value in (before or {}).items() if after.get(key) != value]
    if lost:
        raise IdentityError(f"it would change {listing(lost)} in {where}, by which objects and pods are found")


def _get(item: Any, path: Sequence[str]) -> Any:
    for part in path:
        item = item.get(part) if isinstance(item, Mapping) else None
    return item


def merge(base: Any, over: Any, field: str = "") -> Any:
    """Return ``over`` merged into ``base`` as Kubernetes' strategic merge does.

    Dicts are merged by key, ``null`` takes a key away. Entries of the lists in ``_MERGE_KEYS`` are
    merged by their key and new ones come last; entries of ``env`` and ``volumes`` are replaced as
    a whole, and so are all other lists. ``$patch: delete`` takes an entry or a dict away,
    ``$patch: replace`` puts a dict, or as an entry of its own a list, in place of what was there.

    :param field: name of the key that holds them.
    """
    if isinstance(over, Mapping):
        return _merge_dict(base if isinstance(base, Mapping) else {}, over)
    if isinstance(over, list) and field in _MERGE_KEYS and isinstance(base, (list, type(None))):
        return _merge_list(base or [], over, field)
    return copy.deepcopy(over)


def _merge_dict(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    replaced = _directive(over) == "replace"
    result: dict[str, Any] = {} if replaced else copy.deepcopy(dict(base))
    for key, value in over.items():
        if key == _DIRECTIVE:
            continue
        if value is None or (isinstance(value, Mapping) and _directive(value) == "delete"):
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value, key)
    return result


def _merge_list(base: Sequence[Any], over: Sequence[Any], field: str) -> list[Any]:
    if any(isinstance(entry, Mapping) and _directive(entry) == "replace" and len(entry) == 1 for entry in over):
        return [copy.deepcopy(entry) for entry in over if not (isinstance(entry, Mapping) and _DIRECTIVE in entry)]
    result = copy.deepcopy(list(base))
    for entry in over:
        keys = [key for key in _MERGE_KEYS[field] if isinstance(entry, Mapping) and key in entry]
        if not keys:
            raise PatchError(f"an entry of {field} lacks {' or '.join(_MERGE_KEYS[field])}, by which entries are told")
        key = keys[0]
        places = [index for index, old in enumerate(result) if old.get(key) == entry[key]]
        if _directive(entry) == "delete":
            if not places:
                raise PatchError(f"{field} has no entry with {key} {entry[key]!r} to delete")
            result = [old for index, old in enumerate(result) if index not in places]
        elif places:
            old = {} if field in _WHOLE_ENTRIES else result[places[0]]
            result[places[0]] = _merge_dict(old, entry)
        else:
            result.append(_merge_dict({}, entry))
    return result


def _directive(value: Mapping[str, Any]) -> str | None:
    directive = value.get(_DIRECTIVE)
    if directive not in (None, "delete", "replace"):
        raise PatchError(f"{_DIRECTIVE}: {directive!r} is not known, only delete and replace are")
    return directive


def json_patch(item: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """Return ``item`` after ``operations`` of RFC 6902: add, remove, replace and test."""
    result = copy.deepcopy(item)
    for operation in operations:
        _operate(result, operation["op"], operation["path"], operation.get("value"))
    return result


def _operate(root: Any, op: str, path: str, value: Any) -> None:
    *above, last = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]
    parent = root
    for part in above:
        parent = _child(parent, part, path)
    if op == "add" and isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(parent, last, path, len(parent)), copy.deepcopy(value))
    elif op == "add" and isinstance(parent, dict):
        parent[last] = copy.deepcopy(value)
    else:
        current = _child(parent, last, path)
        place = int(last) if isinstance(parent, list) else last
        if op == "test" and current != value:
            raise PatchError(f"test of {path} found {current!r} and not {value!r}")
        if op == "remove":
            del parent[place]
        elif op == "replace":
            parent[place] = copy.deepcopy(value)


def _child(parent: Any, part: str, path: str) -> Any:
    if isinstance(parent, list):
        return parent[_index(parent, part, path, len(parent) - 1)]
    if isinstance(parent, dict) and part in parent:
        return parent[part]
    there = f", there is {listing(parent)}" if isinstance(parent, dict) and parent else ""
    raise PatchError(f"{path} does not exist: {part!r} is not there{there}")


def _index(parent: list, part: str, path: str, most: int) -> int:
    if not part.isdecimal() or int(part) > most:
        raise PatchError(f"{path} does not exist: {part!r} is no entry of a list of {len(parent)}")
    return int(part)
