"""Everything that can be wrong is refused before a change, with variable, value, what is allowed and what to do."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.usefixtures("converged", "unchanged")
FIRST = {"name": "first", "source": "hf://Qwen/Qwen3-0.6B"}
GPU = {**FIRST, "accelerator": "nvidia", "gpus": 4}

BAD_MODELS = [
    {"name": "no-source"},
    {**FIRST, "name": "twice", "served_name": "one"},
    {**FIRST, "name": "twice", "served_name": "two"},
    {**FIRST, "name": "version", "engine_version": "0.4.0"},
    {**FIRST, "name": "no-version", "engine_version": "newest"},
    {**FIRST, "name": "none", "replicas": 0},
    {**FIRST, "name": "mistyped", "context_lenght": 1024},
    {**FIRST, "name": "layout", "topology": "disagregated"},
    {**FIRST, "name": "card", "accelerator": "nvida"},
    {**FIRST, "name": "engine", "engine": "sglnag"},
]
REFUSED = {
    "source": ["llm_d_models[0] (no-source).source: missing.", "Allowed: hf://ORG/NAME"],
    "duplicate": ["llm_d_models[2].name: name 'twice' is taken by llm_d_models[1].", "Names are unique"],
    "version": ["llm_d_models[3] (version).engine_version: sglang 0.4.0", "Known versions: >=0.5.5", "llm_d_overrides"],
    "not a version": ["llm_d_models[4] (no-version).engine_version: 'newest' is not a version.", "Known versions of"],
    "replicas": ["llm_d_models[5] (none).replicas: 0 is too small.", "at least 1"],
    "key": ["llm_d_models[6] (mistyped).context_lenght: unknown key.", "Did you mean 'context_length'?", "Allowed: "],
    "topology": ["llm_d_models[7] (layout).topology: 'disagregated' is not allowed.", "Allowed: aggregated"],
    "accelerator": ["llm_d_models[8] (card).accelerator: unknown accelerator 'nvida'.", "Did you mean 'nvidia'?"],
    "engine": [
        "llm_d_models[9] (engine).engine: unknown engine 'sglnag'.",
        "Did you mean 'sglang'?",
        "sglang, simulator, vllm",
    ],
}


@pytest.fixture(scope="module")
def refused(ansible, converged) -> list[str]:
    """The lines of one message about all models at once."""
    return ansible("models", llm_d_models=BAD_MODELS).message.splitlines()


@pytest.fixture
def nodes(api):
    """Two nodes of which one offers two GPUs; the cluster has none by itself."""
    for name, gpus in (("small", "2"), ("plain", None)):
        api.kubectl("create", "-f", "-", stdin={"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        if gpus:
            patch = json.dumps({"status": {key: {"nvidia.com/gpu": gpus} for key in ("allocatable", "capacity")}})
            api.kubectl("patch", "node", name, "--subresource", "status", "--type", "merge", "-p", patch)
    yield
    api.delete("node", "small", "plain")


@pytest.mark.parametrize("what", REFUSED)
def test_of_a_model(what: str, refused: list[str]) -> None:
    first, *rest = REFUSED[what]
    lines = [line for line in refused if first in line]
    assert len(lines) == 1, refused
    assert [part for part in rest if part not in lines[0]] == []


def test_all_of_it_is_told_at_once(refused: list[str]) -> None:
    assert refused[0] == "The inventory cannot work; nothing was changed:"
    assert len([line for line in refused if line.startswith("- ")]) == len(REFUSED)


def test_of_an_engine(ansible) -> None:
    message = ansible("site", options="-e inference_engine=sglong").message
    assert "nothing was changed" in message
    assert (
        "inference_engine: unknown engine 'sglong'. Did you mean 'sglang'? Known engines: sglang, simulator, vllm."
        in message
    )


def test_of_the_stack(ansible) -> None:
    wrong = {"llm_d_release": "llm-d-0.1", "llm_d_accelerator": "cpus", "llm_d_namespace": "Models"}
    message = ansible("site", **wrong).message
    assert "llm_d_release: unknown release 'llm-d-0.1'. Did you mean 'llm-d-0.10'? Known releases: " in message
    assert "llm_d_accelerator: unknown accelerator 'cpus'. Did you mean 'cpu'? sglang knows: nvidia, " in message
    assert "llm_d_namespace: 'Models' is not a DNS label. Allowed: lower-case letters" in message


def test_of_a_role(ansible) -> None:
    message = ansible("gateway", istio_gateway_istio="manged").message
    assert "value of istio_gateway_istio must be one of: managed, existing, got: manged" in message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"llm_d_gateway_name": "theirs"}, "stack molecule did not make Gateway molecule/theirs: all requests"),
        ({"gaie_gateway_namespace": "default"}, "a filter reaches Gateways of its own namespace only."),
    ],
)
def test_of_a_gateway_of_others(ansible, api, changed: dict, said: str) -> None:
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    spec = {"gatewayClassName": "nobodys", "listeners": [listener]}
    api.create("gateway.networking.k8s.io/v1", "Gateway", "theirs", spec=spec)
    message = ansible("models", options="--tags gaie", llm_d_body_routing=True, **changed).message
    api.delete("-n", "molecule", "gateways.gateway.networking.k8s.io", "theirs")
    assert message.startswith("llm_d_body_routing is true, but ")
    assert said in message
    assert message.rstrip().endswith("Nothing was changed.")


def test_no_cluster_answers(ansible, tmp_path, api) -> None:
    closed = tmp_path / "kubeconfig"
    text = api.kubectl("config", "view", "--raw")
    closed.write_text(text.replace("127.0.0.1:26443", "127.0.0.1:9"))
    assert closed.read_text() != text
    message = ansible("site", llm_d_kubeconfig=str(closed)).message
    assert "No Kubernetes API answers" in message
    assert "127.0.0.1" in message
    assert f"kubeconfig {closed}" in message
    assert "Check llm_d_kubeconfig and llm_d_context, and that the API server runs." in message


def test_no_such_kubeconfig(ansible) -> None:
    message = ansible("site", llm_d_kubeconfig="/nonexistent/kubeconfig").message
    assert "/nonexistent/kubeconfig" in message
    assert "llm_d_kubeconfig" in message


def test_no_such_context(ansible) -> None:
    message = ansible("site", llm_d_context="elsewhere").message
    assert "elsewhere" in message
    assert "llm_d_context" in message


def test_no_permission(ansible, api, tmp_path) -> None:
    mine = tmp_path / "kubeconfig"
    token = api.kubectl("create", "token", "default", "-n", "default").strip()
    config = json.loads(api.kubectl("config", "view", "--raw", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    mine.write_text(json.dumps(config))
    message = ansible("site", llm_d_kubeconfig=str(mine)).message
    assert "llm_d_kubeconfig: the credentials lack permission to " in message
    assert "patch deployments.apps in namespace molecule" in message
    assert "patch inferencepools.inference.networking.k8s.io in namespace molecule" in message
    assert "Ask for them, or name other credentials." in message
    assert token not in message


def test_no_node_offers_gpus(ansible) -> None:
    message = ansible("models", llm_d_models=[GPU]).message
    assert "llm_d_models[0] (first).gpus: no schedulable node of 0 offers nvidia.com/gpu" in message
    assert "asks for 4 per replica" in message
    assert "Prepare GPU nodes" in message


@pytest.mark.usefixtures("nodes")
def test_a_node_offers_fewer_gpus(ansible) -> None:
    message = ansible("models", llm_d_models=[GPU]).message
    assert "llm_d_models[0] (first).gpus: a node offers at most 2 nvidia.com/gpu" in message
    assert "asks for 4 per replica. Use at most 2, or spread a replica over several nodes." in message
    assert "add 'no-devices' to llm_d_overrides" in message


@pytest.fixture
def foreign(api):
    """An object of somebody else where ours would stand."""
    api.create("v1", "Service", "third-epp", spec={"ports": [{"port": 80}], "clusterIP": "None"})
    yield
    api.delete("service", "-n", "molecule", "third-epp")


@pytest.mark.usefixtures("foreign")
def test_an_object_of_somebody_else(ansible, api) -> None:
    earlier = api.objects()
    message = ansible("models", llm_d_models=[{**FIRST, "name": "third"}]).message
    assert "Service molecule/third-epp: it exists and was not made by this collection." in message
    assert "Nothing was changed." in message
    assert "Choose other names or another namespace, or take them over with" in message
    assert api.changed_since(earlier) == set()


def test_a_field_of_another_manager(ansible, api) -> None:
    mine = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "second-vllm", "namespace": "molecule"}}
    api.apply({**mine, "spec": {"replicas": 5}}, manager="autoscaler")
    earlier = api.objects()
    message = ansible("models").message
    assert "Deployment molecule/second-vllm: Fields belong to somebody else: .spec.replicas" in message
    assert "autoscaler" in message
    assert "take them over with" in message
    assert api.changed_since(earlier) == set()
    # What it offers works.
    run = ansible("models", options="--diff", model_service_force_conflicts=True).ok(changed=1)
    assert run.diffs == {"Deployment molecule/second-vllm": ["-replicas: 5", "+replicas: 2"]}
