"""Replicas over several nodes: what is refused, and what the golden manifests do not show."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gaie
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.gate import stack_findings
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.model_service import compose
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.questions import questions
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status import wanted_models
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import (
    GAIE_OPTIONS,
    MODEL_OPTIONS,
    catalogue,
    findings,
    one,
    resolved,
    settings,
)

TWO: dict[str, Any] = {"gpus": 8, "nodes": 2}
WHERE = "llm_d_models[0] (qwen)"
CRD = "leaderworkersets.leaderworkerset.x-k8s.io"


def group(model: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return the LeaderWorkerSet of ``model``, which is over two nodes unless it says otherwise."""
    stack = resolved({**TWO, **model}, **changed)
    objects = compose("llm-d", "llm-d", stack["models"][0], MODEL_OPTIONS)
    (item,) = [item for item in objects if item["kind"] == "LeaderWorkerSet"]
    return item


def containers(model: dict[str, Any], **changed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the engine's container of the leader, and of the workers."""
    template = group(model, **changed)["spec"]["leaderWorkerTemplate"]
    leader, worker = (template[name]["spec"]["containers"][0] for name in ("leaderTemplate", "workerTemplate"))
    return leader, worker


@pytest.mark.parametrize(
    ("engine", "model", "sizes"),
    [
        ("sglang", {}, ["--tp-size=16"]),
        ("sglang", {"pipeline_parallel": 2}, ["--tp-size=8", "--pp-size=2"]),
        ("sglang", {"pipeline_parallel": 4}, ["--tp-size=4", "--pp-size=4"]),
        ("sglang", {"tensor_parallel": 16, "data_parallel": 1}, ["--tp-size=16", "--dp-size=1"]),
        ("vllm", {"data_parallel": 4}, ["--tensor-parallel-size=4", "--data-parallel-size=4"]),
        # A copy over two nodes each.
        ("vllm", {"nodes": 4, "data_parallel": 2}, ["--tensor-parallel-size=16", "--data-parallel-size=2"]),
        ("vllm", {"nodes": 1}, ["--tensor-parallel-size=8"]),
    ],
)
def test_parallel_sizes(engine: str, model: dict[str, Any], sizes: list[str]) -> None:
    args = one({**TWO, **model}, engine=engine)["args"]
    assert [argument for argument in args if "-size=" in argument or "p-size=" in argument] == sizes


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("none", {"nodes": 0}, {}, f"{WHERE}.nodes: 0 is too small. Allowed: a whole number, at least 1."),
    (
        "sizes that do not fill the nodes",
        {**TWO, "tensor_parallel": 8},
        {},
        f"{WHERE}.gpus: tensor x pipeline x data parallel = 8, but gpus x nodes is 8 x 2 = 16. Make them equal, or ",
    ),
    (
        "sizes that do not divide the nodes",
        {**TWO, "pipeline_parallel": 3},
        {},
        f"{WHERE}.gpus: pipeline_parallel x data_parallel = 3 does not divide 8 gpus x 2 nodes = 16. Use a multiple",
    ),
    (
        "a copy from the middle of a node",
        {"gpus": 4, "nodes": 3, "data_parallel": 2},
        {"engine": "vllm"},
        f"{WHERE}.nodes: 3, but tensor x pipeline parallel = 6 and 4 gpus a node: a data-parallel copy would begin in",
    ),
    (
        "a stage from the middle of a node",
        {"gpus": 6, "nodes": 2, "pipeline_parallel": 3},
        {},
        f"{WHERE}.nodes: 2, but pipeline_parallel is 3: a stage would begin in the middle of a node. Make one a ",
    ),
    (
        "copies of SGLang",
        {**TWO, "data_parallel": 2},
        {},
        f"{WHERE}.data_parallel: 2, but {WHERE}.nodes is 2: SGLang has no data-parallel copies over several nodes, ",
    ),
    (
        "no devices",
        {"nodes": 2},
        {"accelerator": "cpu"},
        f"{WHERE}.nodes: 2, but accelerator 'cpu' has no devices to spread a replica over. Leave it out, or choose ",
    ),
    (
        "exclusive on one node",
        {"exclusive_topology": "topology.kubernetes.io/rack"},
        {},
        f"{WHERE}.exclusive_topology: set, but {WHERE}.nodes is 1. Leave it out, or set nodes.",
    ),
    (
        "exclusive by host",
        {**TWO, "exclusive_topology": "kubernetes.io/hostname"},
        {},
        f"{WHERE}.exclusive_topology: 'kubernetes.io/hostname' would put all nodes of a replica on the same host. ",
    ),
    (
        "a flag that other objects depend on",
        {**TWO, "engine_args": {"sglang": {"dist_init_addr": "x:1"}}},
        {},
        f"{WHERE}.engine_args.sglang.dist_init_addr: other objects depend on this value. Set nodes of the model",
    ),
    (
        "no unavailable group",
        {**TWO, "disruption_budget": {"min_available": 1}},
        {},
        f"{WHERE}.disruption_budget: 1 of 1 replicas have to be available: no node could be drained. ",
    ),
]


@pytest.mark.parametrize(
    ("model", "changed", "finding"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refused(model: dict[str, Any], changed: dict[str, Any], finding: str) -> None:
    (found,) = findings(model, **changed)
    assert found.startswith(finding)


def test_names_that_are_too_long_for_labels() -> None:
    """Kubernetes would not make the workers: their StatefulSet's name and a hash are a label of theirs."""
    roles = {**TWO, "topology": "disaggregated", "page_size": 64}
    # With room for `-canary`, by which a rollout calls it.
    name = "a" * 29
    # "decode" is a character shorter.
    (found,) = findings({**roles, "name": name})
    assert found == (
        f"llm_d_models[0] ({name}).name: the pods of {name}-sglang-prefill and of its rollouts would get labels of more than 63 "
        "characters. With nodes, the name may have 28 characters."
    )
    assert findings({**roles, "name": "a" * 28}) == []
    # A second digit of the group's index, another character.
    assert len(findings({**roles, "name": "a" * 28, "prefill": {"replicas": 11}})) == 1
    assert findings({**TWO, "name": "a" * 35, "replicas": 100}) == []


def test_an_engine_that_cannot() -> None:
    own = catalogue()
    del own["engines"]["sglang"]["multi_node"]
    assert resolve(settings(TWO), own)["findings"] == [
        f"{WHERE}.nodes: SGLang cannot spread a replica over several nodes, as far as its profile knows. Leave it out."
    ]


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_only_leaders_get_requests(engine: str) -> None:
    stack = resolved(TWO, engine=engine)
    model, template = stack["models"][0], group({}, engine=engine)["spec"]["leaderWorkerTemplate"]
    labels = {name: template[name]["metadata"]["labels"].items() for name in ("leaderTemplate", "workerTemplate")}
    objects = gaie.compose("llm-d", "llm-d", model, stack["release"], GAIE_OPTIONS)
    (pool,) = [item["spec"]["selector"]["matchLabels"] for item in objects if item["kind"] == "InferencePool"]
    assert pool.items() <= labels["leaderTemplate"]
    assert not pool.items() <= labels["workerTemplate"]
    # A label of the user's does not make a worker answer.
    named = group({"pod_labels": {"llm-d.ai/inference-serving": "true", "a": "b"}}, engine=engine)
    own = named["spec"]["leaderWorkerTemplate"]["workerTemplate"]["metadata"]["labels"]
    assert "llm-d.ai/inference-serving" not in own
    assert own["a"] == "b"


def test_each_pod_knows_its_rank_and_its_leader() -> None:
    for container in containers({"nodes": 4}):
        assert {"--nnodes=4", "--node-rank=$(LWS_WORKER_INDEX)"} < set(container["args"])
        assert "--dist-init-addr=$(LWS_LEADER_ADDRESS):20000" in container["args"]
    leader, worker = containers({}, engine="vllm")
    assert "--headless" not in leader["args"]
    assert worker["args"] == [*leader["args"], "--headless"]


def test_workers_have_probes_of_their_own() -> None:
    given = {"readiness": {"httpGet": {"path": "/v1/models"}}, "startup": {"periodSeconds": 20}}
    leader, worker = containers({"probes": given, "startup_seconds": 600})
    assert leader["readinessProbe"]["httpGet"]["path"] == "/v1/models"
    assert (leader["startupProbe"]["periodSeconds"], leader["startupProbe"]["failureThreshold"]) == (20, 30)
    assert {worker[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")} == {"/health"}
    assert (worker["startupProbe"]["periodSeconds"], worker["startupProbe"]["failureThreshold"]) == (10, 60)
    _leader, headless = containers({"probes": given}, engine="vllm")
    assert not headless.keys() & {"startupProbe", "readinessProbe", "livenessProbe", "ports"}


def test_workers_outlast_the_requests_of_their_leader() -> None:
    leader, worker = containers({"port": 9000})
    assert leader["lifecycle"]["preStop"] == {"sleep": {"seconds": 15}}
    assert "/dev/tcp/$LWS_LEADER_ADDRESS/9000)" in worker["lifecycle"]["preStop"]["exec"]["command"][-1]


def test_arguments_of_the_users_own() -> None:
    leader, worker = containers({"args": ["model", "--headless"]}, engine="vllm")
    assert leader["args"] == worker["args"] == ["model", "--headless"]


def test_behind_a_routing_proxy() -> None:
    template = group({"routing_proxy": True})["spec"]["leaderWorkerTemplate"]
    leader, worker = template["leaderTemplate"]["spec"], template["workerTemplate"]["spec"]
    assert [container["name"] for container in leader["initContainers"]] == ["routing-proxy"]
    assert leader["serviceAccountName"] == "qwen-sglang"
    assert not worker.keys() & {"initContainers", "serviceAccountName"}
    assert {volume["name"] for volume in leader["volumes"]} - {volume["name"] for volume in worker["volumes"]} == {
        "routing-proxy-credentials"
    }
    assert worker["containers"][0]["ports"][0]["containerPort"] == 8200


@pytest.mark.parametrize(
    ("model", "path", "value"),
    [
        ({}, "rolloutStrategy.rollingUpdateConfiguration", {"maxSurge": 0, "maxUnavailable": 1}),
        ({"strategy": {"type": "RollingUpdate"}}, "rolloutStrategy", {"type": "RollingUpdate"}),
        ({"nodes": 3, "gpus": 4}, "leaderWorkerTemplate.size", 3),
        ({"replicas": 3}, "replicas", 3),
        ({"scheduler": "volcano"}, "leaderWorkerTemplate.workerTemplate.spec.schedulerName", "volcano"),
        ({"scheduler": "volcano"}, "leaderWorkerTemplate.leaderTemplate.spec.schedulerName", "volcano"),
    ],
)
def test_the_set(model: dict[str, Any], path: str, value: Any) -> None:
    found: Any = group(model)["spec"]
    for part in path.split("."):
        found = found[part]
    assert found == value


def test_exclusive_topology() -> None:
    rack = "topology.kubernetes.io/rack"
    annotations = {"leaderworkerset.sigs.k8s.io/exclusive-topology": rack}
    assert group({"exclusive_topology": rack})["metadata"]["annotations"] == annotations
    assert "annotations" not in group({})["metadata"]


@pytest.mark.parametrize(
    ("budget", "pods"),
    [
        ({"max_unavailable": 1}, 1),
        ({"max_unavailable": "50%"}, 2),
        ({"max_unavailable": "34%"}, 2),
        ({"min_available": 1}, 3),
        ({"min_available": "51%"}, 1),
    ],
)
def test_a_pod_that_goes_takes_its_group_along(budget: dict[str, Any], pods: int) -> None:
    """As many pods may be away as groups: each might be of another one."""
    assert one({**TWO, "replicas": 4, "disruption_budget": budget})["disruption_budget"] == {"maxUnavailable": pods}


def test_a_role_of_a_disaggregated_model() -> None:
    stack = resolved({"gpus": 8, "topology": "disaggregated", "page_size": 64, "decode": {"gpus": 4, "nodes": 2}})
    server = [
        {"kind": "Deployment", "name": "qwen-sglang-prefill"},
        {"kind": "LeaderWorkerSet", "name": "qwen-sglang-decode"},
    ]
    assert questions(stack)[0]["workloads"] == server
    (wanted,) = wanted_models(stack)
    assert wanted["workloads"] == server
    # Of pods that answer there are two; the decode pods are two of four GPUs.
    assert (wanted["replicas"], wanted["devices"]) == (2, {"nvidia.com/gpu": 16})


def cluster(**changed: Any) -> dict[str, Any]:
    nodes = [{"name": "gpu-1", "schedulable": True, "allocatable": {"nvidia.com/gpu": "8"}}]
    return {"version": "v1.35.4", "definitions": {CRD: {}}, "nodes": nodes, "istio": [], "denied": [], **changed}


@pytest.mark.parametrize(
    ("nodes", "changed", "finding"),
    [
        (2, {}, None),
        # What could not be seen forbids nothing.
        (2, {"definitions": None}, None),
        (1, {"definitions": {}}, None),
        (
            2,
            {"definitions": {}},
            (
                f"{WHERE}.nodes: replicas over several nodes are LeaderWorkerSets, which the cluster does not know "
                f"({CRD}). Install LeaderWorkerSet >=0.6, for example its chart oci://registry.k8s.io/lws/charts/lws, "
                "or leave nodes out."
            ),
        ),
        (
            2,
            {"nodes": [{"name": "a", "schedulable": True, "allocatable": {"nvidia.com/gpu": "4"}}]},
            f"{WHERE}.gpus: a node offers at most 4 nvidia.com/gpu, the model asks for 8 per node of a replica. Use at ",
        ),
    ],
)
def test_the_cluster(nodes: int, changed: dict[str, Any], finding: str | None) -> None:
    found = stack_findings(resolved({"gpus": 8, "nodes": nodes}), cluster(**changed), [])
    assert len(found) == (1 if finding else 0)
    if finding:
        assert found[0].startswith(finding)


def test_a_missing_definition_names_all_models_and_cannot_be_waved_through() -> None:
    stack = resolved({**TWO, "name": "a", "source": "hf://a/a"}, {**TWO, "name": "b", "source": "hf://a/b"})
    (found,) = stack_findings(stack, cluster(definitions={}), ["leader-worker-set"])
    assert found.startswith("llm_d_models[0] (a).nodes, llm_d_models[1] (b).nodes: ")
    assert "llm_d_overrides" not in found
