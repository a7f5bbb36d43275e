"""What a cluster's facts forbid."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.gate import (
    bundle_decision,
    istio_findings,
    stack_findings,
)
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import catalogue, resolved

SWITCH = {"ENABLE_GATEWAY_API_INFERENCE_EXTENSION": "true"}
NODE = {"name": "gpu-1", "schedulable": True, "allocatable": {"cpu": "96", "nvidia.com/gpu": "8"}}
PLANE = {"name": "istiod", "namespace": "istio-system", "version": "1.29.2", "labels": {}, "env": SWITCH, "ours": True}
CLUSTER: dict[str, Any] = {
    "version": "v1.35.4+k3s1",
    "namespace_exists": True,
    "definitions": {},
    "nodes": [NODE],
    "istio": [PLANE],
    "denied": [],
}
RELEASE = {"name": "llm-d-0.10", **catalogue()["releases"]["llm-d-0.10"]}


@pytest.mark.parametrize(
    ("changed", "gpus", "finding"),
    [
        ({}, 8, None),
        ({"version": "v1.31.0"}, 8, None),
        (
            {"version": "v1.36.0"},
            8,
            (
                "llm_d_release: release llm-d-0.10 supports Kubernetes >=1.31,<1.36, the cluster is v1.36.0. Choose "
                "another release or upgrade the cluster. To go on regardless, add 'kubernetes-version' to "
            ),
        ),
        ({"version": "v1.30.14-gke.1"}, 8, "llm_d_release: release llm-d-0.10 supports Kubernetes >=1.31,<1.36, the "),
        (
            {"denied": ["patch deployments.apps in namespace llm-d", "get pods in namespace llm-d"]},
            8,
            (
                "llm_d_kubeconfig: the credentials lack permission to patch deployments.apps in namespace llm-d; "
                "get pods in namespace llm-d. Ask for them, or name other credentials."
            ),
        ),
        (
            {},
            16,
            (
                "llm_d_models[0] (qwen).gpus: a node offers at most 8 nvidia.com/gpu, the model asks for 16 per "
                "replica. Use at most 8, or spread a replica over several nodes."
            ),
        ),
        (
            {"nodes": [{**NODE, "schedulable": False}, {"name": "cpu", "schedulable": True, "allocatable": {}}]},
            1,
            (
                "llm_d_models[0] (qwen).gpus: no schedulable node of 2 offers nvidia.com/gpu, the model asks for 1 per "
                "replica. Prepare GPU nodes"
            ),
        ),
        ({"nodes": []}, 1, "llm_d_models[0] (qwen).gpus: no schedulable node of 0 offers nvidia.com/gpu"),
        # What could not be seen forbids nothing.
        ({"nodes": None, "istio": None, "definitions": None}, 16, None),
    ],
)
def test_stack(changed: dict[str, Any], gpus: int, finding: str | None) -> None:
    found = stack_findings(resolved({"gpus": gpus}), {**CLUSTER, **changed}, [])
    assert len(found) == (1 if finding else 0)
    if finding:
        assert found[0].startswith(finding)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"version": "v1.36.0"}, "kubernetes-version"),
        ({"denied": ["get pods in namespace llm-d"]}, "permissions"),
        ({"nodes": []}, "no-devices"),
    ],
)
def test_stack_waved_through(changed: dict[str, Any], rule: str) -> None:
    stack, cluster = resolved({}), {**CLUSTER, **changed}
    assert len(stack_findings(stack, cluster, ["another"])) == 1
    assert stack_findings(stack, cluster, [rule]) == []


def test_a_model_without_devices_needs_no_node_with_some() -> None:
    assert stack_findings(resolved({"accelerator": "cpu"}), {**CLUSTER, "nodes": []}, []) == []


def offering(name: str = "gpu-1", **resources: str) -> dict[str, Any]:
    """Return a node with eight GPUs and other resources, `__` standing for `/`."""
    offered = {key.replace("__", "/"): value for key, value in resources.items()}
    return {**NODE, "name": name, "labels": {}, "allocatable": {**NODE["allocatable"], **offered}}


@pytest.mark.parametrize(
    ("nodes", "rdma", "finding"),
    [
        ([offering(rdma__ib="1k")], {}, None),
        ([offering(rdma__ib="8")], {"resource": "rdma/ib", "count": 8}, None),
        ([offering(), offering("gpu-2", rdma__ib="1")], {"resource": "rdma/ib"}, None),
        (None, {"resource": "rdma/ib"}, None),
        # Without GPUs there is more to say first.
        ([], {"resource": "rdma/ib"}, "llm_d_models[0] (qwen).gpus: no schedulable node of 0 offers nvidia.com/gpu"),
        (
            [offering()],
            {"resource": "rdma/ib"},
            (
                "llm_d_models[0] (qwen).rdma.resource: no schedulable node that fits offers rdma/ib, the model asks for 1 "
                "per pod. Install an RDMA device plugin, or leave rdma.resource out. To go on regardless, add 'rdma-resource'"
            ),
        ),
        (
            [offering(rdma__hca="63")],
            {"resource": "rdma/ib"},
            (
                "llm_d_models[0] (qwen).rdma.resource: no schedulable node that fits offers rdma/ib, the model asks for 1 "
                "per pod. These nodes offer rdma/hca."
            ),
        ),
        (
            [offering(rdma__ib="4")],
            {"resource": "rdma/ib", "count": 8},
            "llm_d_models[0] (qwen).rdma.resource: no schedulable node that fits offers more than 4 rdma/ib,",
        ),
        # Only a node without GPUs has it.
        (
            [offering(), {**NODE, "name": "cpu", "allocatable": {"rdma/ib": "1"}}],
            {"resource": "rdma/ib"},
            "llm_d_models[0] (qwen).rdma.resource: no schedulable node that fits offers rdma/ib,",
        ),
        (
            [{**offering(rdma__ib="1"), "schedulable": False}, offering("gpu-2")],
            {"resource": "rdma/ib"},
            "llm_d_models[0] (qwen).rdma.resource: no schedulable node that fits offers rdma/ib,",
        ),
    ],
)
def test_rdma(nodes: list[dict[str, Any]] | None, rdma: dict[str, Any], finding: str | None) -> None:
    stack, cluster = resolved({"gpus": 8, "rdma": rdma}), {**CLUSTER, "nodes": nodes}
    found = stack_findings(stack, cluster, [])
    assert len(found) == (1 if finding else 0)
    if finding:
        assert found[0].startswith(finding)
        assert stack_findings(stack, cluster, ["rdma-resource", "no-devices"]) == []


@pytest.mark.parametrize(
    ("mode", "planes", "adopt", "finding"),
    [
        ("managed", [], False, None),
        ("managed", [PLANE], False, None),
        (
            "managed",
            [PLANE, {**PLANE, "ours": False, "namespace": "mesh"}],
            False,
            (
                "istio_gateway_istio: 'managed', but an Istio that this collection did not install runs: mesh/istiod "
                "1.29.2. Set istio_gateway_istio: existing to leave it alone, or istio_gateway_adopt: true to take it"
            ),
        ),
        ("managed", [{**PLANE, "ours": False}], True, None),
        ("managed", None, False, None),
        ("existing", [{**PLANE, "ours": False}], False, None),
        ("existing", None, False, None),
        (
            "existing",
            [],
            False,
            "istio_gateway_istio: 'existing', but no istiod runs in the cluster. Install Istio, or set ",
        ),
        (
            "existing",
            [{**PLANE, "env": {}}],
            False,
            (
                "istio_gateway_istio: no istiod has ENABLE_GATEWAY_API_INFERENCE_EXTENSION=true (istio-system/istiod "
                "1.29.2). Set it in pilot.env of its values and restart it."
            ),
        ),
        ("existing", [{**PLANE, "env": {**SWITCH, "X": ""}}, {**PLANE, "env": {}}], False, None),
        (
            "existing",
            [{**PLANE, "version": "1.27.3"}],
            False,
            (
                "istio_gateway_istio: release llm-d-0.10 works with Istio >=1.28,<1.30, the cluster runs 1.27.3. "
                "Upgrade Istio or choose another release. To go on regardless, add 'istio-version' to llm_d_overrides."
            ),
        ),
        ("existing", [{**PLANE, "version": "1.29.1-distroless"}], False, None),
        ("existing", [{**PLANE, "version": "latest"}], False, "istio_gateway_istio: release llm-d-0.10 works with"),
    ],
)
def test_istio(mode: str, planes: list | None, adopt: bool, finding: str | None) -> None:
    found = istio_findings(mode, RELEASE, {**CLUSTER, "istio": planes}, adopt, [])
    assert len(found) == (1 if finding else 0)
    if finding:
        assert found[0].startswith(finding)


def test_istio_waved_through() -> None:
    cluster = {**CLUSTER, "istio": [{**PLANE, "version": "1.27.3"}]}
    assert istio_findings("existing", RELEASE, cluster, False, ["istio-version"]) == []


BUNDLE = {"version": "1.5.1", "crds": ["a.example", "b.example"], "bundle_annotation": "bundle", "manifest": "URL"}


def definitions(*versions: str | None) -> dict[str, Any]:
    """Return definitions of the bundle's names, None for one without the annotation."""
    return {
        name: {"annotations": {"bundle": version} if version else {}, "labels": {}}
        for name, version in zip(BUNDLE["crds"], versions, strict=False)
    }


@pytest.mark.parametrize(
    ("seen", "state", "applied_by"),
    [
        ({}, "missing", ["install", "upgrade"]),
        (definitions("v1.5.1"), "missing", ["install", "upgrade"]),
        (definitions("v1.5.1", "v1.5.1"), "same", []),
        (definitions("v1.5.1", "v1.4.0"), "older", ["upgrade"]),
        (definitions("v1.6.0", "v1.5.2"), "newer", []),
        (definitions("v1.5.1", None), "unknown", []),
        (definitions("main-dev", "v1.5.1"), "unknown", []),
        (None, "unknown", []),
    ],
)
@pytest.mark.parametrize("policy", ["install", "upgrade", "existing"])
def test_bundle(seen: dict | None, state: str, applied_by: list[str], policy: str) -> None:
    decision = bundle_decision(BUNDLE, {**CLUSTER, "definitions": seen}, "Gateway API", policy, "the_policy")
    assert (decision["state"], decision["apply"]) == (state, policy in applied_by)
    lacking = state in ("missing", "older") and policy not in applied_by
    assert len(decision["findings"]) == (1 if lacking else 0)


@pytest.mark.parametrize(
    ("seen", "policy", "finding"),
    [
        (
            {},
            "existing",
            (
                "the_policy: the cluster lacks definitions of Gateway API: a.example, b.example. "
                "Install URL, or set it to install."
            ),
        ),
        (
            definitions("v1.4.0", "v1.5.1"),
            "install",
            (
                "the_policy: the cluster's definitions of Gateway API are older than 1.5.1, which the release needs. "
                "Upgrade them, or set it to upgrade; others in this cluster may use them too."
            ),
        ),
    ],
)
def test_bundle_findings(seen: dict, policy: str, finding: str) -> None:
    cluster = {**CLUSTER, "definitions": seen}
    assert bundle_decision(BUNDLE, cluster, "Gateway API", policy, "the_policy")["findings"] == [finding]


OCI = {"source": "oci://quay.io/models/qwen3:32b", "node_selector": {"gpu": "yes"}}
ABLE = {**NODE, "labels": {"gpu": "yes"}, "kubelet": "v1.35.4", "runtime": "containerd://2.1.5"}


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({}, []),
        ({"nodes": [{**ABLE, "runtime": "cri-o://1.35.0"}]}, []),
        # What nobody could see, and where the model cannot run, forbids nothing.
        ({"nodes": None}, []),
        ({"nodes": [{**ABLE, "runtime": None, "kubelet": None}]}, []),
        ({"nodes": [ABLE, {**ABLE, "runtime": "containerd://1.7.29", "labels": {}}]}, []),
        ({"nodes": [ABLE, {**ABLE, "runtime": "containerd://1.7.29", "schedulable": False}]}, []),
        ({"nodes": [ABLE, {**ABLE, "runtime": "containerd://1.7.29", "allocatable": {}}]}, []),
        (
            {"nodes": [ABLE, *({**ABLE, "name": f"old-{n}", "runtime": "containerd://2.0.7"} for n in range(6))]},
            [
                (
                    "runtime_version is 2.0.7, needed is >=2.1: containerd mounts images as volumes from 2.1 on "
                    "(https://github.com/containerd/containerd/releases/tag/v2.1.0). "
                    "So it is on node old-0, node old-1, node old-2, node old-3 and 2 more. Upgrade it, "
                )
            ],
        ),
        (
            {"nodes": [{**ABLE, "runtime": "docker://27.0"}]},
            ["runtime is docker, needed is ['containerd', 'cri-o']: of other container runtimes it is not known "],
        ),
        (
            {"version": "v1.34.2", "nodes": [{**ABLE, "kubelet": "v1.34.2"}]},
            ["kubernetes is v1.34.2, needed is >=1.35: before 1.35 image volumes are off unless "],
        ),
        # A kubelet may be older than the API server.
        (
            {"nodes": [{**ABLE, "kubelet": "v1.33.1", "runtime": "containerd://1.7.29"}]},
            ["kubernetes is v1.33.1, needed is >=1.35: ", "runtime_version is 1.7.29, needed is >=2.1: "],
        ),
    ],
)
def test_weights_in_an_image_need_a_cluster_that_mounts_them(changed: dict[str, Any], problems: list[str]) -> None:
    found = stack_findings(resolved(OCI), {**CLUSTER, "nodes": [ABLE], **changed}, [])
    assert len(found) == len(problems)
    for text, problem in zip(found, problems, strict=True):
        assert text.startswith(f"llm_d_models[0] (qwen): {problem}")
    assert stack_findings(resolved({}), {**CLUSTER, "nodes": [ABLE], **changed}, []) == []


def test_an_image_volume_can_be_insisted_on_rule_by_rule() -> None:
    cluster = {
        **CLUSTER,
        "version": "v1.34.2",
        "nodes": [{**ABLE, "kubelet": "v1.34.2", "runtime": "containerd://2.0"}],
    }
    kubernetes, runtime = stack_findings(resolved(OCI), cluster, [])
    assert "So it is on the API server, node gpu-1." in kubernetes
    assert "To go on regardless, add 'image-volume-kubernetes' to llm_d_overrides." in kubernetes
    assert stack_findings(resolved(OCI), cluster, ["image-volume-kubernetes"]) == [runtime]
    assert stack_findings(resolved(OCI), cluster, ["image-volume-kubernetes", "image-volume-containerd"]) == []


@pytest.mark.parametrize(
    ("labels", "version", "problems"),
    [
        ({"nvidia.com/cuda.driver-version.full": "550.107.02", "nvidia.com/cuda.driver.major": "550"}, "0.5.20", 1),
        ({"nvidia.com/cuda.driver.major": "550"}, "0.5.20", 1),
        ({"nvidia.com/cuda.driver-version.full": "580.65.06"}, "0.5.20", 0),
        # Built for CUDA 12.
        ({"nvidia.com/cuda.driver-version.full": "550.107.02"}, "0.5.6.post2", 0),
        # Nobody says.
        ({}, "0.5.20", 0),
    ],
)
def test_drivers_that_nodes_tell_of(labels: dict[str, str], version: str, problems: int) -> None:
    cluster = {**CLUSTER, "nodes": [{**NODE, "labels": labels}]}
    stack = resolved({"engine_version": version})
    found = stack_findings(stack, cluster, [])
    assert len(found) == problems
    for message in found:
        assert "needed is >=580: images built for CUDA 13 need a driver of branch 580 or later" in message
        assert f"So it is on node {NODE['name']}." in message
    assert stack_findings(stack, cluster, ["cuda13-driver"]) == []
