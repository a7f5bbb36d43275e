"""What the roles write for a few inventories, byte by byte.

Each folder of tests/golden holds an ``input.yml`` (the settings of a stack or the name of an example inventory, files
with engines of the user's own, and options of the roles that differ from their defaults) and what becomes of it, in the
files that the roles write to ``render_dir``. After a change that is meant, write them anew and read the difference:

    .venv/bin/python -m pytest tests/unit/test_golden.py --update-golden && git diff tests/golden
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.filter.gaie_objects import FilterModule as GaieObjects
from ansible_collections.llm_d.multi_engine.plugins.filter.gateway_objects import FilterModule as GatewayObjects
from ansible_collections.llm_d.multi_engine.plugins.filter.istiod_values import FilterModule as IstiodValues
from ansible_collections.llm_d.multi_engine.plugins.filter.model_service_objects import FilterModule as ModelObjects
from ansible_collections.llm_d.multi_engine.plugins.module_utils.documents import dump
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

GOLDEN = shipped.ROOT / "tests" / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
#: The newest Kubernetes that all releases support.
KUBERNETES = "1.35"
#: Kinds whose definitions are not Kubernetes' own.
CUSTOM = {
    "EnvoyFilter",
    "DestinationRule",
    "Gateway",
    "HTTPRoute",
    "InferencePool",
    "LeaderWorkerSet",
    "PodMonitor",
    "ScaledObject",
}

FILTERS = {
    name: function
    for module in (GaieObjects, GatewayObjects, IstiodValues, ModelObjects)
    for name, function in module().filters().items()
}


def render(case: str) -> dict[str, Any]:
    """Return what the roles write for ``case``: path of each file to its content."""
    given = yaml.safe_load((GOLDEN / case / "input.yml").read_text())
    stack = _stack(given)
    place = {"gateway_namespace": stack["namespace"]}
    gaie = {**shipped.GAIE_OPTIONS, **place, **given.get("gaie", {})}
    models = {**shipped.MODEL_OPTIONS, **place, **given.get("model_service", {})}
    gateway = {**shipped.GATEWAY_OPTIONS, "namespace": stack["namespace"], **given.get("istio_gateway", {})}
    return {
        **folder("gaie", FILTERS["gaie_objects"](stack, gaie)),
        **folder("model_service", FILTERS["model_service_objects"](stack, models)),
        **folder(
            "istio_gateway",
            {
                "gateway": FILTERS["gateway_objects"](stack, gateway),
                "istiod-values": FILTERS["istiod_values"](stack["release"], {}),
            },
        ),
    }


def _stack(given: dict[str, Any]) -> dict[str, Any]:
    if "inventory" in given:
        stack = shipped.inventory(*given["inventory"])
        assert stack["findings"] == []
        return stack
    settings = given["settings"]
    files = [shipped.ROOT / file for file in given.get("engine_profiles", [])]
    return shipped.resolved(*settings.pop("models"), files=files, **settings)


def test_every_example_inventory_is_among_them() -> None:
    """But those that say where a cluster is, with a role's variables: tests/matrix and molecule render them."""
    given = [yaml.safe_load((GOLDEN / case / "input.yml").read_text()) for case in CASES]
    there = {path.parents[2].name for path in (shipped.ROOT / "inventories").glob("*/group_vars/all/main.yml")}
    assert {entry["inventory"][0] for entry in given if "inventory" in entry} == there - {"bare_metal", "local"}


def folder(name: str, files: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}/{file}.yaml": content for file, content in files.items()}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, request: pytest.FixtureRequest) -> None:
    rendered = {
        path: dump(content if isinstance(content, list) else [content]) for path, content in render(case).items()
    }
    there = {path.relative_to(GOLDEN / case).as_posix(): path for path in (GOLDEN / case).rglob("*.yaml")}
    if request.config.getoption("--update-golden"):
        for path in there.keys() - rendered.keys():
            there[path].unlink()
        for path, content in rendered.items():
            write(GOLDEN / case / path, content)
        return
    assert there.keys() == rendered.keys()
    for path, content in rendered.items():
        assert content == there[path].read_text(encoding="utf-8"), f"{path}: see --update-golden"


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_takes_them(case: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    objects = [item for content in render(case).values() if isinstance(content, list) for item in content]
    assert objects
    for item in objects:
        if item["kind"] not in CUSTOM:
            validator.validate(item, KUBERNETES, strict=True)
        elif item["kind"] == "LeaderWorkerSet":
            for template in pod_templates(item):
                pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
                validator.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_all_objects_are_ours_and_have_a_name_of_their_own(case: str) -> None:
    objects = [item for content in render(case).values() if isinstance(content, list) for item in content]
    names = [(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]) for item in objects]
    assert len(set(names)) == len(names)
    for item in objects:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "llm_d.multi_engine"
        assert labels.keys() >= {"multi-engine.llm-d.ai/stack", "multi-engine.llm-d.ai/role"}


def pod_templates(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the templates of the pods that an object makes."""
    spec = item.get("spec", {})
    group = spec.get("leaderWorkerTemplate", {})
    found = (spec.get("template"), group.get("leaderTemplate"), group.get("workerTemplate"))
    return [template for template in found if template]


@pytest.mark.parametrize("case", CASES)
def test_objects_refer_to_each_other(case: str) -> None:
    """What one object names exists under that name: pools, pickers, ports, labels, volumes."""
    rendered = render(case)
    objects = [item for content in rendered.values() if isinstance(content, list) for item in content]
    by_kind: dict[str, dict[str, Any]] = {}
    for item in objects:
        by_kind.setdefault(item["kind"], {})[item["metadata"]["name"]] = item
    for route in by_kind["HTTPRoute"].values():
        parent = route["spec"]["parentRefs"][0]
        gateway = by_kind["Gateway"][parent["name"]]
        assert gateway["metadata"]["namespace"] == parent["namespace"]
        for rule in route["spec"]["rules"]:
            (backend,) = rule["backendRefs"]
            assert by_kind["InferencePool"][backend["name"]]["spec"]["targetPorts"] == [{"number": backend["port"]}]
    for pool in by_kind["InferencePool"].values():
        picker = pool["spec"]["endpointPickerRef"]
        service = by_kind["Service"][picker["name"]]
        assert picker["port"]["number"] in [port["port"] for port in service["spec"]["ports"]]
        template = by_kind["Deployment"][picker["name"]]["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        selector = pool["spec"]["selector"]["matchLabels"].items()
        answering = [
            template
            for item in objects
            for template in pod_templates(item)
            if selector <= template["metadata"]["labels"].items()
        ]
        roles = [template["metadata"]["labels"]["llm-d.ai/role"] for template in answering]
        assert roles in (["prefill-decode"], ["prefill", "decode"])
        # A prefill pod cannot answer: without the picker none may be asked.
        assert len(roles) == 1 or pool["spec"]["endpointPickerRef"]["failureMode"] == "FailClose"
        for template in answering:
            # The pool's port is the engine's, or the routing proxy's in front of it.
            spec = template["spec"]
            container = next(one for one in [*spec.get("initContainers", []), *spec["containers"]] if "ports" in one)
            assert container["ports"][0]["containerPort"] == pool["spec"]["targetPorts"][0]["number"]
    for deployment in by_kind["Deployment"].values():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for template in [template for item in objects for template in pod_templates(item)]:
        (container,) = template["spec"]["containers"]
        sidecars = template["spec"].get("initContainers", [])
        mounts = {mount["name"] for one in (container, *sidecars) for mount in one.get("volumeMounts", [])}
        for key in ("name", "containerPort"):
            ports = [port[key] for one in (container, *sidecars) for port in one.get("ports", [])]
            assert len(set(ports)) == len(ports)
        assert mounts == {volume["name"] for volume in template["spec"].get("volumes", [])}
        for one in (container, *sidecars):
            names = [entry["name"] for entry in one.get("env", [])]
            assert len(set(names)) == len(names)
