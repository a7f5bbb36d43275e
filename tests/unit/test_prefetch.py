"""Caches that are filled before engines start: what is made for it, and what contradicts it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.filter.model_service_objects import FilterModule
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.model_service import compose
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import MODEL_OPTIONS, findings, one, resolved

WHERE = "llm_d_models[0] (qwen)"
CLAIM = {"claim": "weights", "prefetch": True}
NODES = {"host_path": "/var/lib/cache", "prefetch": True}
GPU_NODES = {"node_selector": {"gpu": "yes"}}


def fills(model: dict[str, Any], **changed: Any) -> list[dict[str, Any]]:
    """Return what fills caches of ``model``, after the ConfigMap with the script."""
    options = {**MODEL_OPTIONS, **changed.pop("options", {})}
    script, *rest = [
        item
        for item in compose("llm-d", "llm-d", one(model, **changed), options)
        if item["metadata"]["labels"]["app.kubernetes.io/component"] == "weights"
    ]
    assert script["kind"] == "ConfigMap"
    return rest


def download(item: dict[str, Any]) -> dict[str, Any]:
    spec = item["spec"]["template"]["spec"]
    return next(one for one in [*spec.get("initContainers", []), *spec["containers"]] if one["name"] == "prefetch")


def env(item: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in download(item)["env"]}


def applied(*models: dict[str, Any], **changed: Any) -> dict[str, list[str]]:
    objects = FilterModule().filters()["model_service_objects"](resolved(*models, **changed), MODEL_OPTIONS)
    return {name: [f"{item['kind']} {item['metadata']['name']}" for item in items] for name, items in objects.items()}


def test_nothing_is_made_unless_it_is_asked_for() -> None:
    assert [item["kind"] for item in compose("llm-d", "llm-d", one({"cache": {"claim": "a"}}), MODEL_OPTIONS)] == [
        "Deployment"
    ]


def test_a_claim_is_filled_by_a_job() -> None:
    (job,) = fills({"source": "hf://a/b@v1", "cache": {**CLAIM, "weights_size": "1.5Gi"}})
    assert job["kind"] == "Job"
    assert download(job)["args"] == ["a/b", "--revision=v1", "--size=1610612736", "--place=claim weights"]
    # What the script ends with when no new try can help.
    (fatal, _drained) = job["spec"]["podFailurePolicy"]["rules"]
    assert fatal["onExitCodes"] == {"containerName": "prefetch", "operator": "In", "values": [78]}


def test_directories_of_nodes_are_filled_by_a_daemon_set() -> None:
    affinity = {"nodeAffinity": {"x": "y"}, "podAntiAffinity": {"z": "z"}}
    tolerations = [{"operator": "Exists"}]
    (made,) = fills({"cache": NODES, **GPU_NODES, "affinity": affinity, "tolerations": tolerations})
    spec = made["spec"]["template"]["spec"]
    assert made["kind"] == "DaemonSet"
    assert (spec["nodeSelector"], spec["tolerations"]) == (GPU_NODES["node_selector"], tolerations)
    # That engines keep away from each other does not keep them from nodes.
    assert spec["affinity"] == {"nodeAffinity": {"x": "y"}}
    assert download(made)["args"] == ["Qwen/Qwen3-32B", "--place=/var/lib/cache of node $(NODE_NAME)"]
    # GPUs are left to engines.
    assert "nvidia.com/gpu" not in str(made)


def test_downloads_have_the_engines_environment_and_are_offline_only_with_the_stack() -> None:
    token = {"hf_token_secret": {"name": "t", "key": "k"}}
    model = {"cache": CLAIM, "env": {"HTTPS_PROXY": "http://proxy", "HF_HUB_OFFLINE": "1"}}
    (job,) = fills(model, options=token)
    assert env(job)["HTTPS_PROXY"] == "http://proxy"
    assert env(job)["HF_TOKEN"] == {"secretKeyRef": {"name": "t", "key": "k"}}
    assert "HF_HUB_OFFLINE" not in env(job)
    (job,) = fills(model, hf_offline=True)
    assert env(job)["HF_HUB_OFFLINE"] == "1"


def test_a_directory_of_the_node_belongs_to_the_engine_before_it_is_filled() -> None:
    (made,) = fills({"cache": NODES, **GPU_NODES, "run_as": {"user": 2000}})
    first, second = made["spec"]["template"]["spec"]["initContainers"]
    assert (first["name"], second["name"]) == ("cache-owner", "prefetch")
    assert (first["securityContext"]["runAsUser"], second["securityContext"]["runAsUser"]) == (0, 2000)


@pytest.mark.parametrize(
    ("prefill", "made"),
    [
        ({}, ["Job qwen-weights"]),
        ({"replicas": 2}, ["Job qwen-weights"]),
        ({"cache": {"claim": "other", "prefetch": True}}, ["Job qwen-weights-prefill", "Job qwen-weights-decode"]),
        ({"cache": {"claim": "other"}}, ["Job qwen-weights"]),
        (
            {"cache": NODES, **GPU_NODES},
            ["DaemonSet qwen-weights-prefill", "Job qwen-weights-decode"],
        ),
    ],
)
def test_prefill_and_decode_share_what_they_can(prefill: dict[str, Any], made: list[str]) -> None:
    items = fills({"topology": "disaggregated", "cache": CLAIM, "prefill": prefill})
    assert [f"{item['kind']} {item['metadata']['name']}" for item in items] == made


def test_another_download_is_another_job() -> None:
    (name,) = [name for name in applied({"cache": CLAIM})["qwen"] if name.startswith("Job ")]
    assert name.startswith("Job qwen-weights-")
    assert name in applied({"cache": CLAIM, "replicas": 3})["qwen"]
    assert name not in applied({"cache": CLAIM, "source": "hf://Qwen/Qwen3-32B@v2"})["qwen"]
    limits = {"spec": {"activeDeadlineSeconds": 60}}
    patch = {"target": {"kind": "Job", "name": "qwen-weights"}, "merge": limits}
    assert name not in applied({"cache": CLAIM, "patches": [patch]})["qwen"]


def test_names_fit() -> None:
    model = {
        "name": "a" * 40,
        "topology": "disaggregated",
        "cache": CLAIM,
        "prefill": {"cache": {**CLAIM, "claim": "b"}},
    }
    assert max(len(name.split()[1]) for name in applied(model)["a" * 40]) <= 63


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"source": "pvc://a/b", "cache": CLAIM},
            f"{WHERE}.cache.prefetch: true, but {WHERE}.source is 'pvc://a/b', of which nothing is downloaded. Leave it",
        ),
        (
            {"cache": {"prefetch": True}},
            f"{WHERE}.cache.prefetch: true, but {WHERE}.cache is an emptyDir, which is another one for each pod. Name a",
        ),
        (
            {"cache": NODES},
            (
                f"{WHERE}.cache.prefetch: true with {WHERE}.cache.host_path, but {WHERE}.node_selector is empty: nodes "
                "without nvidia.com/gpu would download the weights too. Choose the nodes by a label, "
            ),
        ),
        (
            {"cache": CLAIM, "env": {"HF_HOME": "/models"}},
            f"{WHERE}.cache.prefetch: true, but {WHERE}.env.HF_HOME is '/models', and the cache is mounted at /cache.",
        ),
        (
            {"cache": CLAIM, "env": {"HF_HUB_CACHE": "/cached"}},
            f"{WHERE}.cache.prefetch: true, but {WHERE}.env.HF_HUB_CACHE is '/cached', and the cache is mounted at /cache",
        ),
        (
            {"cache": CLAIM, "env": {"HF_HOME": None}},
            f"{WHERE}.cache.prefetch: true, but {WHERE}.env.HF_HOME is None, ",
        ),
        (
            {"cache": {"claim": "a", "weights_size": "70G"}},
            f"{WHERE}.cache.weights_size: '70G', but {WHERE}.cache.prefetch is not set, and nothing else reads it. Set ",
        ),
        (
            {"cache": {**CLAIM, "weights_size": "much"}},
            f"{WHERE}.cache.weights_size: 'much' is not valid. Allowed: a quantity such as 70G.",
        ),
    ],
)
def test_contradictions(model: dict[str, Any], message: str) -> None:
    (found,) = findings(model)
    assert found.startswith(message)


def test_all_contradictions_are_told_at_once() -> None:
    model = {"cache": {"prefetch": True}, "env": {"HF_HOME": "/models"}}
    assert len(findings(model)) == 2


def test_nodes_are_chosen_by_labels_unless_any_will_do() -> None:
    assert findings({"cache": NODES, **GPU_NODES}) == []
    assert findings({"cache": NODES, "affinity": {"nodeAffinity": {"a": 1}}}) == []
    assert findings({"cache": NODES, "accelerator": "cpu"}) == []
    assert findings({"cache": NODES}, overrides=["prefetch-nodes"]) == []
    (made,) = fills({"cache": NODES}, overrides=["prefetch-nodes"])
    assert made["kind"] == "DaemonSet"
