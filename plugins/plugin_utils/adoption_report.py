# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Deployments of somebody else side by side with what this collection would run for them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import documents
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of

from . import adoption, gaie, model_service
from .command_line import flags_of
from .objects import POD_ROLE_LABEL
from .resolve import resolve
from .status_table import aligned

#: Key of a token in its Secret, where nobody says another.
HF_TOKEN = "HF_TOKEN"
#: A row that is the same on both sides.
SAME = "same"
#: What tells how a refusal is waved through.
_RULE = re.compile(r"add '([-\w.]+)' to llm_d_overrides")
#: What a row that is about pods begins or ends with: a difference there takes new ones.
_OF_PODS = (
    "name",
    "selector",
    "image",
    "command",
    "arguments",
    "routing proxy",
    "probe",
    "resources",
    "env",
    "volumes",
    "labels",
)
#: A row of what there are many, of which only what differs is told.
_ONE_OF_MANY = "["


def report(deployment: Mapping[str, Any], settings: Mapping[str, Any], catalogue: Mapping[str, Any]) -> dict[str, Any]:
    """Return how one deployment compares with what this collection would run.

    :param deployment: as module ``adopt`` returns it.
    :param settings: of the stack, as :func:`resolve.resolve` takes them.
    :returns: ``pool``, ``model`` (name), ``taken``, ``releases``, ``entry`` (of ``llm_d_models``), ``listed`` (whether
        the inventory has the model already), ``variables`` (others that the inventory needs), ``notes``, ``findings``,
        ``rows`` (dicts with ``what``, ``now`` and ``ours``) and ``fates`` (dicts with ``object`` and ``fate``).
    """
    pool, servers = deployment["pool"], deployment["servers"]
    release = adoption.release_like(deployment["picker"], catalogue["releases"], settings["release"])
    result: dict[str, Any] = {
        "pool": name_of(pool),
        "model": "",
        "taken": deployment["taken"],
        "releases": deployment["releases"],
        "entry": {},
        "listed": False,
        "variables": _variables(deployment, release, catalogue),
        "notes": [],
        "findings": [],
        "rows": [],
        "fates": [],
    }
    if not servers:
        result["notes"].append("No workload has pods that it selects: there is no model server to take over.")
        return result
    entry, notes = adoption.entry_of(servers, pool, deployment["routes"], catalogue, catalogue["releases"][release])
    stack, listed = _resolved(entry, settings, release, catalogue)
    result |= {"entry": entry, "model": entry["name"], "notes": notes, "listed": listed, "findings": stack["findings"]}
    if not stack["models"]:
        return result
    (model,) = stack["models"]
    result["model"] = model["name"]
    ours = _composed(stack, model, result["variables"])
    pairs = [(server, _counterpart(server, ours)) for server in servers]
    result["rows"] = [row for server, other in pairs for row in _server_rows(server, other, catalogue, len(pairs) > 1)]
    result["rows"] += _route_rows(deployment, ours)
    result["fates"] = _fates(deployment, pairs, ours, catalogue)
    return result


def _resolved(entry: Mapping, settings: Mapping, release: str, catalogue: Mapping) -> tuple[dict[str, Any], bool]:
    """Return the stack with the one model that ``entry`` describes, and whether the inventory has it already.

    What can be waved through is, and told all the same.
    """
    wanted = [model for model in settings["models"] if _is_same(model, entry)]
    given = {**settings, "models": wanted[:1] or [entry], "release": settings["release"] if wanted else release}
    stack = resolve(given, catalogue)
    rules = [rule for text in stack["findings"] for rule in _RULE.findall(text)]
    if rules:
        told = stack["findings"]
        stack = resolve({**given, "overrides": [*settings["overrides"], *rules]}, catalogue)
        stack["findings"] = told
    elif stack["findings"]:
        stack["models"] = []
    return stack, bool(wanted)


def _is_same(model: Any, entry: Mapping) -> bool:
    """Whether a model of the inventory is the one that ``entry`` describes."""
    if not isinstance(model, Mapping):
        return False
    return model.get("name") == entry["name"] or _served(model) == _served(entry)


def _served(model: Mapping) -> str:
    return str(model.get("served_name") or str(model.get("source", "")).removeprefix("hf://"))


def _composed(stack: Mapping, model: Mapping, variables: Mapping) -> list[dict[str, Any]]:
    """Return our objects of ``model``; what other options of the roles decide is not compared."""
    place = stack["stack"], stack["namespace"]
    name, key = variables.get("llm_d_hf_token_secret"), variables.get("model_service_hf_token_key", HF_TOKEN)
    token = {"name": name, "key": key} if name else {}
    options: dict[str, Any] = defaultdict(str, hf_token_secret=token, pod_monitor=False, network_policies=False)
    picker: dict[str, Any] = defaultdict(str, pod_monitor="never")
    return [
        *gaie.compose(*place, model, stack["release"], picker),
        *model_service.compose(*place, model, options),
    ]


def _variables(deployment: Mapping, release: str, catalogue: Mapping) -> dict[str, Any]:
    """Return what an inventory says beside the model, to find the way that requests come."""
    result: dict[str, Any] = {"llm_d_namespace": deployment["pool"]["metadata"]["namespace"], "llm_d_release": release}
    parents = [parent for route in deployment["routes"] for parent in route["spec"].get("parentRefs") or []]
    if parents:
        result["llm_d_gateway_name"] = parents[0]["name"]
        namespace = parents[0].get("namespace")
        if namespace and namespace != result["llm_d_namespace"]:
            result["gaie_gateway_namespace"] = namespace
    for server in deployment["servers"]:
        token = adoption.token_of(adoption.engine_container(adoption.template_of(server)["spec"], catalogue))
        if token:
            result["llm_d_hf_token_secret"] = token["name"]
            result |= {} if token["key"] == HF_TOKEN else {"model_service_hf_token_key": token["key"]}
    return result


def _counterpart(server: Mapping, ours: Sequence[Mapping]) -> Mapping | None:
    """Return our workload with pods of the same role."""
    workloads = [item for item in ours if _is_server(item)]
    role = _labels(adoption.template_of(server)).get(POD_ROLE_LABEL)
    same = [item for item in workloads if _labels(adoption.template_of(item)).get(POD_ROLE_LABEL) == role]
    return (same or workloads or [None])[0]


def _is_server(item: Mapping) -> bool:
    return item["kind"] in ("Deployment", "LeaderWorkerSet") and POD_ROLE_LABEL in _labels(adoption.template_of(item))


def _labels(template: Mapping) -> Mapping[str, str]:
    return (template.get("metadata") or {}).get("labels") or {}


def _server_rows(server: Mapping, ours: Mapping | None, catalogue: Mapping, several: bool) -> list[dict[str, str]]:
    """Return how a workload and its pods compare."""
    if not ours:
        return []
    sides = [_facts(item, catalogue) for item in (server, ours)]
    prefix = f"{server['metadata']['name']}: " if several else ""
    rows = []
    for what in dict.fromkeys(key for side in sides for key in side):
        now, then = (side.get(what, "") for side in sides)
        if now != then or _ONE_OF_MANY not in what:
            rows.append({"what": f"{prefix}{what}", "now": now, "ours": SAME if now == then else then})
    return rows


def _facts(workload: Mapping, catalogue: Mapping) -> dict[str, str]:
    """Return what a workload is, by what a person calls it."""
    template = adoption.template_of(workload)
    spec = template["spec"]
    container = adoption.engine_container(spec, catalogue)
    proxy = adoption.proxy_of(spec, catalogue["releases"])
    line = [*(container.get("command") or []), *(container.get("args") or [])]
    flags, rest = flags_of(line)
    replicas = workload["spec"].get("replicas")
    facts = {
        "name": f"{workload['kind']} {workload['metadata']['name']}",
        "replicas": "left to its autoscaler" if replicas is None else str(replicas),
        **_keyed("selector", (workload["spec"].get("selector") or {}).get("matchLabels") or {}),
        "image": container["image"],
        "command": " ".join(rest),
        **{f"arguments[--{flag}]": "given" if value is True else _text(value) for flag, value in flags.items()},
        "port": ", ".join(str(port["containerPort"]) for port in container.get("ports") or []),
        "routing proxy": proxy["image"] if proxy else "none",
    }
    if proxy:
        given, _rest = flags_of(proxy.get("args") or [])
        facts["routing proxy port"] = _text(given.get("port", ""))
        facts["routing proxy connector"] = _text(given.get("kv-connector") or given.get("connector") or "")
    for name in ("startup", "readiness", "liveness"):
        facts[f"{name} probe"] = _probe(container.get(f"{name}Probe") or {}, container)
    resources = container.get("resources") or {}
    facts["resources"] = _pairs({**(resources.get("requests") or {}), **(resources.get("limits") or {})}) or "none"
    for entry in container.get("env") or []:
        facts[f"env[{entry['name']}]"] = entry.get("value") or ("from elsewhere" if entry.get("valueFrom") else "''")
    facts |= {f"volumes[{mount['mountPath']}]": mount["name"] for mount in container.get("volumeMounts") or []}
    return facts | _keyed("labels", _labels(template))


def _keyed(what: str, values: Mapping[str, str]) -> dict[str, str]:
    return {f"{what}[{key}]": value for key, value in sorted(values.items())}


def _probe(probe: Mapping, container: Mapping) -> str:
    """Return ``/health on 8000, every 10 s, 3 times``."""
    action = probe.get("httpGet") or probe.get("tcpSocket") or probe.get("grpc")
    if not action:
        return "exec" if probe.get("exec") else "none"
    named = {port.get("name"): port["containerPort"] for port in container.get("ports") or []}
    port = named.get(action.get("port"), action.get("port"))
    every, times = probe.get("periodSeconds", 10), probe.get("failureThreshold", 3)
    return f"{action.get('path', '')} on {port}, every {every} s, {times} times".strip()


def _route_rows(deployment: Mapping, ours: Sequence[Mapping]) -> list[dict[str, str]]:
    """Return how pool, picker and routes compare."""
    by_kind = {item["kind"]: item for item in ours if not _is_server(item)}
    pool, wanted = deployment["pool"], by_kind["InferencePool"]
    picker = deployment["picker"]
    sides = [
        ("pool", pool["metadata"]["name"], wanted["metadata"]["name"]),
        *(("pool's " + name, one, other) for name, one, other in _pool_sides(pool, wanted)),
        ("picker", _first_image(picker) if picker else "none", _first_image(by_kind["Deployment"])),
        (
            "route",
            ", ".join(route["metadata"]["name"] for route in deployment["routes"]) or "none",
            by_kind["HTTPRoute"]["metadata"]["name"],
        ),
        (
            "route's matches",
            _matches(deployment["routes"]),
            _matches([by_kind["HTTPRoute"]]),
        ),
    ]
    return [
        {"what": what, "now": now, "ours": SAME if now == then else then}
        for what, now, then in sides
        if now != then or _ONE_OF_MANY not in what
    ]


def _pool_sides(pool: Mapping, wanted: Mapping) -> Iterable[tuple[str, str, str]]:
    one, other = (_keyed("selector", item["spec"]["selector"]["matchLabels"]) for item in (pool, wanted))
    yield from ((key, one.get(key, ""), other.get(key, "")) for key in dict.fromkeys([*one, *other]))
    for name, read in (
        ("port", lambda spec: ", ".join(str(port["number"]) for port in spec.get("targetPorts") or [])),
        ("failure mode", lambda spec: str((spec.get("endpointPickerRef") or {}).get("failureMode", "FailClose"))),
    ):
        yield name, read(pool["spec"]), read(wanted["spec"])


def _first_image(workload: Mapping) -> str:
    return workload["spec"]["template"]["spec"]["containers"][0]["image"]


def _matches(routes: Iterable[Mapping]) -> str:
    found = []
    for route in routes:
        for rule in route["spec"].get("rules") or []:
            for match in rule.get("matches") or [{"path": {"value": "/"}}]:
                headers = "".join(f" {header['name']}={header['value']}" for header in match.get("headers") or [])
                found.append(f"{(match.get('path') or {}).get('value', '/')}{headers}")
    return ", ".join(found) or "none"


def _fates(
    deployment: Mapping, pairs: Sequence[tuple[Mapping, Mapping | None]], ours: Sequence[Mapping], catalogue: Mapping
) -> list[dict[str, str]]:
    """Return what becomes of each object once it is taken over and the inventory's models are served."""
    names = {name_of(item) for item in ours}
    fates = {}
    for server, other in pairs:
        reasons = _reasons(server, other, catalogue)
        fates[name_of(server)] = (
            f"goes on until pods of {name_of(other) if other else 'ours'} serve: {', '.join(reasons)} differ"
            if reasons
            else "stays, and its pods with it: they are as ours would be. Leave it out of adopt_take, and run models with "
            "gaie_adopt, model_service_adopt and rollout_adopt: true"
        )
    for name in deployment["objects"]:
        if name not in fates:
            fates[name] = "stays, and becomes as ours" if name in names else "goes when nothing needs it any more"
    return [{"object": name, "fate": fate} for name, fate in fates.items()]


def _reasons(server: Mapping, ours: Mapping | None, catalogue: Mapping) -> list[str]:
    """Return what takes other pods: a workload's name and selector cannot be changed, its template not without."""
    rows = [row["what"] for row in _server_rows(server, ours, catalogue, False) if row["ours"] != SAME]
    return [kind for kind in _OF_PODS if any(re.search(rf"(^| ){kind}($|[ \[])", row) for row in rows)]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(values.items()))


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def text(found: Sequence[Mapping[str, Any]], namespace: str) -> str:
    """Return reports, as :func:`report` makes them, for a person to read."""
    if not found:
        return f"Namespace {namespace} has no InferencePool of somebody else: there is nothing to take over."
    return "\n\n".join("\n\n".join(_sections(one)) for one in found)


def _sections(one: Mapping[str, Any]) -> Iterable[str]:
    by = f", made by Helm's {', '.join(one['releases'])}" if one["releases"] else ""
    yield f"{one['pool']}{by}{', taken over already' if one['taken'] else ''}"
    if one["rows"]:
        table = [
            ("", "NOW", "OURS"),
            *((row["what"], row["now"] or "none", row["ours"] or "none") for row in one["rows"]),
        ]
        yield "\n".join(aligned(table))
    if one["fates"]:
        yield "\n".join(["What becomes of it:", *(f"  {fate['object']} {fate['fate']}" for fate in one["fates"])])
    if one["notes"]:
        yield "\n".join(["To be known:", *(f"  {note}" for note in one["notes"])])
    if one["findings"]:
        yield "\n".join(["What ours refuses in it:", *(f"  {finding}" for finding in one["findings"])])
    if one["entry"]:
        where = "The inventory has this model. As it runs, it would be" if one["listed"] else "For the inventory"
        yield f"{where}:\n\n{_yaml({**one['variables'], 'llm_d_models': [one['entry']]})}"


def _yaml(content: Mapping[str, Any]) -> str:
    return documents.text(dict(content)).removeprefix("---\n").rstrip()
