"""Replicas that an autoscaler writes: handed over and taken back without ever being another number than somebody wants."""

from __future__ import annotations

import itertools
import json

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.applying import Apply
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import INITIAL_REPLICAS

NAMESPACE = "autoscaling"
LABELS = {"app.kubernetes.io/managed-by": "llm_d.multi_engine", "multi-engine.llm-d.ai/stack": NAMESPACE}
PARAMS = {
    "source_labels": {},
    "upgrade_sources": False,
    "stack": NAMESPACE,
    "role": "model_service",
    "prune": True,
    "allow_empty": False,
    "namespace": NAMESPACE,
    "force_conflicts": False,
    "adopt": False,
    "wait_timeout": 60,
}
OURS = {("llm-d-multi-engine", "Apply")}
LEFT = {("llm-d-multi-engine-replicas", "Apply")}
THEIRS = {("kube-controller-manager", "Update")}


@pytest.fixture(scope="module", autouse=True)
def _nothing_left(api):
    """Others compare all that is in the cluster with what was there."""
    yield
    api.delete("namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def server(api, cluster: Cluster):
    """A namespace of its own, away from those of the playbooks; emptied, for to delete it takes longer."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield cluster
    api.delete("deployment,hpa,lease", "-n", NAMESPACE, "--all")
    api.delete("configmap", "-n", NAMESPACE, f"{NAMESPACE}-model-service")


def made(api_version: str, kind: str, name: str, annotations: dict[str, str] | None = None, **spec: object) -> dict:
    role = {"multi-engine.llm-d.ai/role": "model_service"}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {**LABELS, **role}, "annotations": annotations or {}}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def workload(replicas: int | None = None, start: int | None = None, image: str = "one") -> dict:
    """A Deployment with replicas of ours, or one that starts with some and is scaled by somebody else."""
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    annotations = {} if start is None else {INITIAL_REPLICAS: str(start)}
    return made(
        "apps/v1", "Deployment", "a", annotations, **spec, **({} if replicas is None else {"replicas": replicas})
    )


def autoscaler(name: str = "a") -> dict:
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 9}},
    }
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 9, "metrics": [metric]}
    return made("autoscaling/v2", "HorizontalPodAutoscaler", name, **spec)


def run(server: Cluster, *objects: dict, dry_run: bool = False, **params: object) -> dict[str, str]:
    """Apply ``objects`` as a role does; return what became of each."""
    apply = Apply(server, {**PARAMS, **params}, dry_run)
    apply.all([json.loads(json.dumps(item)) for item in objects])
    if not dry_run:
        apply.prune()
    return {entry["name"].split()[0]: entry["action"] for entry in apply.results if entry["action"] != "unchanged"}


def scale(api, replicas: int) -> None:
    """Write replicas as the controller of HorizontalPodAutoscalers does."""
    patch = json.dumps({"spec": {"replicas": replicas}})
    words = ["patch", "-n", NAMESPACE, "deployment", "a", "--subresource=scale", "--type=merge", "-p", patch]
    api.kubectl(*words, "--field-manager=kube-controller-manager")


def state(server: Cluster) -> tuple[int, set[tuple[str, str]]]:
    """Return the replicas, and who owns them by which operation."""
    live = server.get("apps/v1", "Deployment", "a", NAMESPACE)
    owners = {
        (entry["manager"], entry["operation"])
        for entry in live["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }
    return live["spec"]["replicas"], owners


def test_there_and_back(server, api) -> None:
    run(server, workload(replicas=3))
    assert state(server) == (3, OURS)
    with api.watching("deployment", "a", ".spec.replicas", NAMESPACE) as seen:
        assert run(server, workload(start=2), autoscaler(), dry_run=True)["Deployment"] == "changed"
        assert state(server) == (3, OURS)
        run(server, workload(start=2), autoscaler())
        assert state(server) == (3, LEFT)
        assert run(server, workload(start=2), autoscaler()) == {}
        scale(api, 5)
        assert run(server, workload(start=2), autoscaler()) == {}
        # Whatever else changes, the number stays what its writer says.
        run(server, workload(start=2, image="two"), autoscaler())
        assert state(server) == (5, THEIRS)
        gone = {"Deployment": "changed", "HorizontalPodAutoscaler": "removed"}
        assert gone.items() <= run(server, workload(replicas=4, image="two"), dry_run=True).items()
        assert gone.items() <= run(server, workload(replicas=4, image="two")).items()
        assert state(server) == (4, OURS)
        assert run(server, workload(replicas=4, image="two")) == {}
    # No other number, and none of them twice, in any version that was ever stored.
    assert [number for number, _versions in itertools.groupby(seen)] == ["3", "5", "4"]


def test_what_is_shown_beforehand_says_nothing_of_replicas_that_stay(server) -> None:
    run(server, workload(replicas=3))
    apply = Apply(server, PARAMS, dry_run=True)
    apply.all([workload(start=2)])
    (diff,) = [diff for diff in apply.diffs if diff["after_header"].startswith("Deployment")]
    assert "initial-replicas: '2'" in diff["after"]
    assert "\n  replicas" not in diff["before"] + diff["after"]


def test_taken_back_before_anything_scaled_it(server) -> None:
    run(server, workload(start=2), autoscaler())
    assert state(server) == (2, LEFT)
    run(server, workload(replicas=2))
    assert state(server) == (2, OURS)
    # The other manager of ours has let go: this is nobody's conflict.
    run(server, workload(replicas=3))
    assert state(server) == (3, OURS)


def test_an_autoscaler_that_is_faster_wins(server, api, monkeypatch) -> None:
    """It writes between our look and our word: its number stays."""
    run(server, workload(replicas=3))
    plain = Cluster.apply

    def late(self: Cluster, item: dict, *arguments: object, **options: object) -> dict:
        if options.get("manager"):
            scale(api, 7)
        return plain(self, item, *arguments, **options)

    monkeypatch.setattr(Cluster, "apply", late)
    run(server, workload(start=2), autoscaler())
    assert state(server) == (7, THEIRS)


def test_an_autoscaler_of_somebody_else_is_not_fought(server, api) -> None:
    run(server, workload(replicas=1))
    scale(api, 6)
    with pytest.raises(ClusterError, match=r"\.spec\.replicas.*say so with the model's autoscaling"):
        run(server, workload(replicas=2))
    assert state(server) == (6, THEIRS)
    run(server, workload(start=1))
    assert state(server) == (6, THEIRS)


def test_without_pruning_its_autoscaler_would_fight_us(server) -> None:
    run(server, workload(start=2), autoscaler())
    with pytest.raises(ClusterError, match=r"HorizontalPodAutoscaler autoscaling/a: .*llm_d_prune=false"):
        run(server, workload(replicas=2), prune=False)
    assert state(server) == (2, LEFT)


def test_the_playbook_refuses_metrics_that_nobody_serves(ansible) -> None:
    metric = {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "5"}}
    own = {"by": "hpa", "max_replicas": 2, "metrics": [{"type": "External", "external": metric}]}
    model = {"name": "first", "source": "hf://Qwen/Qwen3-0.6B", "autoscaling": own}
    refused = ansible("models", llm_d_models=[model])
    assert "nothing in the cluster serves external.metrics.k8s.io" in refused.message
