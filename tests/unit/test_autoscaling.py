"""Models whose replicas an autoscaler writes: what is refused, and what the golden manifests do not show."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError, Forbidden
from ansible_collections.llm_d.multi_engine.plugins.modules.cluster_facts import metrics
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.gate import stack_findings
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status import wanted_models
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import catalogue, findings, one, resolved, settings

WHERE = "llm_d_models[0] (qwen)"
PROMETHEUS = "http://prometheus:9090"
KEDA: dict[str, Any] = {"max_replicas": 4}
EXTERNAL = {"type": "External", "external": {"metric": {"name": "queue"}, "target": {}}}
CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {}}}
PODS = {"type": "Pods", "pods": {"metric": {"name": "tokens"}, "target": {}}}


def hpa(*given: Any, **more: Any) -> dict[str, Any]:
    return {"by": "hpa", "max_replicas": 4, "metrics": list(given), **more}


@pytest.mark.parametrize(
    ("model", "stack", "finding"),
    [
        ({"autoscaling": KEDA}, {}, None),
        (
            {"autoscaling": KEDA},
            {"prometheus": ""},
            (
                "llm_d_prometheus: missing: KEDA asks Prometheus what the endpoint picker has told it. Set its address "
                "as KEDA reaches it, such as http://prometheus-operated.monitoring.svc:9090."
            ),
        ),
        ({"autoscaling": {"by": "keda"}}, {}, f"{WHERE}.autoscaling.max_replicas: missing. Allowed: a whole number"),
        (
            {"autoscaling": {"min_replicas": 5, "max_replicas": 4}},
            {},
            f"{WHERE}.autoscaling.max_replicas: 4, but there are at least 5 replicas. Use 5 or more.",
        ),
        ({"replicas": 5, "autoscaling": KEDA}, {}, f"{WHERE}.autoscaling.max_replicas: 4, but there are at least 5"),
        (
            {"replicas": 5, "autoscaling": {**KEDA, "min_replicas": 1}},
            {},
            f"{WHERE}.replicas: 5, but autoscaling keeps 1 to 4. A new workload starts with it: stay within.",
        ),
        # Down to none.
        ({"autoscaling": {**KEDA, "min_replicas": 0, "running_requests": 16}}, {}, None),
        (
            {"autoscaling": {**KEDA, "min_replicas": 0}},
            {},
            (
                f"{WHERE}.autoscaling.running_requests: missing, with min_replicas 0: nothing else tells an idle model "
                "from one that works on its requests. Set it: 16 in llm-d's guide."
            ),
        ),
        (
            {"autoscaling": hpa(CPU, min_replicas=0)},
            {},
            (
                f"{WHERE}.autoscaling.min_replicas: 0, but Kubernetes scales to zero by a HorizontalPodAutoscaler only "
                "behind its alpha gate HPAScaleToZero. Use 1, or by: keda."
            ),
        ),
        ({"autoscaling": {"by": "existing", "min_replicas": 0, "max_replicas": 2}}, {}, None),
        (
            {"topology": "disaggregated", "autoscaling": {"by": "existing", "min_replicas": 0, "max_replicas": 2}},
            {},
            (
                f"{WHERE}.autoscaling.min_replicas: 0, but {WHERE}.topology is disaggregated: it serves with both kinds "
                "of pods only. Use 1."
            ),
        ),
        # What one of them reads is nothing to the others.
        (
            {"autoscaling": {**KEDA, "metrics": [CPU]}},
            {},
            f"{WHERE}.autoscaling.metrics: set, but {WHERE}.autoscaling.by is keda. Only hpa reads it: leave it out.",
        ),
        ({"autoscaling": hpa(CPU, idle_seconds=9)}, {}, f"{WHERE}.autoscaling.idle_seconds: set, but"),
        ({"autoscaling": {**KEDA, "by": "existing", "queued_requests": 1}}, {}, f"{WHERE}.autoscaling.queued_requests"),
        # A HorizontalPodAutoscaler's own metrics.
        ({"autoscaling": hpa(CPU, PODS, EXTERNAL)}, {"prometheus": ""}, None),
        ({"autoscaling": hpa()}, {}, f"{WHERE}.autoscaling.metrics: missing. Write them as in a Horizontal"),
        (
            {"autoscaling": hpa(CPU, {"type": "external"})},
            {},
            (
                f"{WHERE}.autoscaling.metrics[1].type: 'external' is no type of a metric. Allowed: Resource, "
                "ContainerResource, Pods, Object, External."
            ),
        ),
        ({"autoscaling": hpa({"type": "Pods", "pods": {}})}, {}, f"{WHERE}.autoscaling.metrics[0]: names no metric of"),
        # Prefill and decode.
        (
            {"topology": "disaggregated", "autoscaling": KEDA},
            {},
            (
                f"{WHERE}.autoscaling.by: keda, but {WHERE}.topology is disaggregated: the picker's metrics are averages "
                "over prefill and decode pods together, and do not tell which of them are too few. Leave it out, or "
                "scale both elsewhere: by: existing."
            ),
        ),
        ({"topology": "disaggregated", "autoscaling": {"by": "existing", "max_replicas": 4}}, {}, None),
        (
            {
                "topology": "disaggregated",
                "prefill": {"replicas": 9},
                "autoscaling": {"by": "existing", "max_replicas": 4},
            },
            {},
            f"{WHERE}.prefill.replicas: 9, but autoscaling keeps 1 to 4.",
        ),
        # A budget has to leave room at the fewest replicas.
        ({"replicas": 2, "autoscaling": KEDA, "disruption_budget": {"min_available": 1}}, {}, None),
        (
            {"replicas": 3, "autoscaling": {**KEDA, "min_replicas": 1}, "disruption_budget": {"min_available": 1}},
            {},
            f"{WHERE}.disruption_budget: 1 of 1 replicas have to be available: no node could be drained.",
        ),
    ],
)
def test_what_is_refused(model: dict[str, Any], stack: dict[str, Any], finding: str | None) -> None:
    found = findings({"gpus": 2, **model}, **{"prometheus": PROMETHEUS, **stack})
    assert [text[: len(finding or "")] for text in found] == ([finding] if finding else [])


@pytest.mark.parametrize("release", catalogue()["releases"])
def test_every_release_can_be_scaled(release: str) -> None:
    own = one(
        {"autoscaling": {**KEDA, "min_replicas": 0, "running_requests": 8}}, release=release, prometheus=PROMETHEUS
    )
    triggers = {trigger["name"]: trigger["query"] for trigger in own["autoscaling"]["triggers"]}
    assert set(triggers) == {"queued-requests", "running-requests", "held-requests"}
    for query in triggers.values():
        assert '{namespace="{namespace}",' in query
        assert query.count("(") == query.count(")")


def test_a_picker_that_says_nothing_of_its_load() -> None:
    own = catalogue()
    load = own["releases"]["llm-d-0.10"]["endpoint_picker"]
    scaled = settings({"autoscaling": {**KEDA, "min_replicas": 0, "running_requests": 8}}, prometheus=PROMETHEUS)
    del load["load"]["from_zero"]
    (found,) = resolve(scaled, own)["findings"]
    assert found == (
        f"{WHERE}.autoscaling.min_replicas: 0, but the endpoint picker of release llm-d-0.10 has no pod to choose then, "
        "and refuses. Use 1."
    )
    del load["load"]
    scaled = settings({"autoscaling": KEDA}, prometheus=PROMETHEUS)
    (found,) = resolve(scaled, own)["findings"]
    assert found == (
        f"{WHERE}.autoscaling.by: keda, but release llm-d-0.10 does not say which metrics its endpoint picker has. Name "
        "endpoint_picker.load there, or use hpa."
    )


CLUSTER: dict[str, Any] = {
    "version": "v1.35.4",
    "definitions": {"scaledobjects.keda.sh": {}},
    "nodes": [{"name": "a", "schedulable": True, "allocatable": {"nvidia.com/gpu": "8"}}],
    "istio": [],
    "denied": [],
}


@pytest.mark.parametrize(
    ("autoscaling", "changed", "finding"),
    [
        (KEDA, {}, None),
        (
            KEDA,
            {"definitions": {}},
            f"{WHERE}.autoscaling.by: keda, but the cluster has no KEDA (scaledobjects.keda.sh). Install it, for example",
        ),
        (KEDA, {"definitions": None}, None),
        ({"by": "existing", "max_replicas": 4}, {"definitions": {}}, None),
        # As many GPUs as there may be replicas.
        (
            {"max_replicas": 5},
            {},
            (
                f"{WHERE}.autoscaling.max_replicas: 5 replicas take 10 nvidia.com/gpu, all nodes together offer 8. Use at "
                "most 4; others may have taken some of them. To go on regardless, add 'no-devices' to llm_d_overrides."
            ),
        ),
        ({"max_replicas": 5}, {"nodes": None}, None),
        # Metrics have to be served.
        (hpa(EXTERNAL), {"metrics": {"external.metrics.k8s.io": ["queue"]}}, None),
        (hpa(PODS), {"metrics": {"custom.metrics.k8s.io": ["pods/tokens", "namespaces/x"]}}, None),
        (hpa(CPU), {"metrics": {"metrics.k8s.io": ["nodes", "pods"]}}, None),
        (hpa(EXTERNAL), {"metrics": None}, None),
        (hpa(EXTERNAL), {"metrics": {"external.metrics.k8s.io": None}}, None),
        (
            hpa(CPU, EXTERNAL),
            {"metrics": {"metrics.k8s.io": ["pods"]}},
            (
                f"{WHERE}.autoscaling.metrics[1]: a metric of type External, but nothing in the cluster serves "
                "external.metrics.k8s.io. Install what does, such as an adapter for Prometheus, or use by: keda."
            ),
        ),
        (
            hpa(EXTERNAL),
            # As KEDA's own adapter lists them.
            {"metrics": {"external.metrics.k8s.io": ["externalmetrics"]}},
            (
                f"{WHERE}.autoscaling.metrics[0]: the cluster's external.metrics.k8s.io does not serve 'queue'. It serves "
                "externalmetrics."
            ),
        ),
    ],
)
def test_what_the_cluster_lacks(autoscaling: dict[str, Any], changed: dict[str, Any], finding: str | None) -> None:
    stack = resolved({"gpus": 2, "autoscaling": autoscaling}, prometheus=PROMETHEUS)
    found = stack_findings(stack, {**CLUSTER, **changed}, [])
    assert [text[: len(finding or "")] for text in found] == ([finding] if finding else [])


def test_what_is_wanted_of_it() -> None:
    (wanted,) = wanted_models(
        resolved({"gpus": 2, "replicas": 2, "autoscaling": {**KEDA, "min_replicas": 1}}, prometheus=PROMETHEUS)
    )
    assert (wanted["replicas"], wanted["autoscaled"]) == (1, True)
    assert wanted["devices"] == {"nvidia.com/gpu": 8}


class Apis:
    """Answers by path; what is an exception is raised."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def impatient(self) -> Apis:
        return self

    def raw(self, _method: str, path: str) -> Any:
        found = self.answers[path.removeprefix("/apis").removeprefix("/") or "groups"]
        if isinstance(found, Exception):
            raise found
        return found


def group(name: str) -> dict[str, Any]:
    return {"name": name, "preferredVersion": {"groupVersion": f"{name}/v1beta1"}}


def test_metrics_that_the_cluster_serves() -> None:
    groups = {"groups": [group("apps"), group("custom.metrics.k8s.io"), group("external.metrics.k8s.io")]}
    listed = {"custom.metrics.k8s.io/v1beta1": {"resources": [{"name": "pods/tokens"}]}}
    away = {"external.metrics.k8s.io/v1beta1": ClusterError("the server is currently unable to handle the request")}
    assert metrics(Apis(groups=groups, **listed, **away)) == {
        "custom.metrics.k8s.io": ["pods/tokens"],
        "external.metrics.k8s.io": None,
    }
    assert metrics(Apis(groups=Forbidden("no"))) is None
