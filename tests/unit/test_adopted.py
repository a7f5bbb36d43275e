"""From what was taken over to ours on a cluster that is a dictionary: somebody always answers, whenever it is interrupted."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import adopted, rolling
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Conflict
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import labels_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import stays_ready
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import changes, rollback
from ansible_collections.llm_d.multi_engine.tests.unit import shipped
from ansible_collections.llm_d.multi_engine.tests.unit.test_rolling import (
    GPU,
    LiveCluster,
    change,
    frozen,
    install,
    live_serving,
    quick,  # noqa: F401 (a fixture: nothing takes any time)
    servers,
    stack,
    text,
)

LABELS = {
    "app.kubernetes.io/managed-by": "llm_d.multi_engine",
    "multi-engine.llm-d.ai/stack": "llm-d",
    "llm-d.ai/model": "qwen",
    "multi-engine.llm-d.ai/adopted-from": "helm.gaie",
}
THEIRS = {"llm-d.ai/guide": "multi-engine", "llm-d.ai/inference-serving": "true"}
API = {
    "Deployment": "apps/v1",
    "InferencePool": "inference.networking.k8s.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
}
IMAGE = "sglang:theirs"
VERSION = shipped.one()["engine_version"]


def theirs(kind: str, name: str, spec: dict[str, Any] | None = None, **labels: str) -> dict[str, Any]:
    """Return something that was taken over."""
    metadata = {
        "name": name,
        "namespace": "llm-d",
        "labels": {**LABELS, **labels},
        "creationTimestamp": "0000",
        "resourceVersion": "1",
    }
    return {"apiVersion": API.get(kind, "v1"), "kind": kind, "metadata": metadata, **({"spec": spec} if spec else {})}


def workload(name: str, image: str, labels: dict[str, str], replicas: int = 2, gpus: str = "1") -> dict[str, Any]:
    container = {"name": "c", "image": image, "resources": {"requests": {GPU: gpus}}}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return theirs("Deployment", name, {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template})


def route(*backends: str, name: str = "gaie", **rule: Any) -> dict[str, Any]:
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "llm-d-inference-gateway"}
    refs = [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": backend} for backend in backends]
    rules = [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": refs, **rule}]
    return theirs("HTTPRoute", name, {"parentRefs": [parent], "rules": rules})


def pool(name: str = "gaie", selector: dict[str, str] = THEIRS) -> dict[str, Any]:
    picker = {"name": f"{name}-epp"}
    spec = {"selector": {"matchLabels": selector}, "targetPorts": [{"number": 8000}], "endpointPickerRef": picker}
    return theirs("InferencePool", name, spec)


class Taken(LiveCluster):
    """One in which what others made serves, and was taken over: a Gateway takes the older one of two equal routes."""

    def write(self, item: dict) -> dict:
        self._wrote()
        after = super().write(item)
        self._settle()
        return after

    def answering(self) -> list[str]:
        live = next(self.live[key] for key in (("HTTPRoute", "gaie"), ("HTTPRoute", "qwen")) if key in self.live)
        names = {backend["name"] for backend in live["spec"]["rules"][0]["backendRefs"]}
        found = []
        for name in names:
            labels = self.live["InferencePool", name]["spec"]["selector"]["matchLabels"]
            pods = self.list("v1", "Pod", None, text(labels))
            found += [pod["metadata"]["name"] for pod in pods if stays_ready(pod)]
        return found


@functools.cache
def _taken_over() -> bytes:
    cluster = Taken(4)
    for item in (
        workload("ms-decode", IMAGE, THEIRS),
        workload("gaie-epp", "epp:theirs", {"app": "gaie-epp"}, replicas=1, gpus="0"),
        pool(),
        route("gaie"),
        *(theirs(kind, "gaie-epp") for kind in ("Service", "ServiceAccount", "ConfigMap", "Role", "RoleBinding")),
        # Not all of it may go, and what is somebody else's may not at all.
        theirs("Secret", "token"),
        theirs("PersistentVolumeClaim", "weights"),
        theirs("ConfigMap", "of-another-model", **{"llm-d.ai/model": "other"}),
        theirs("ConfigMap", "of-another-stack", **{"multi-engine.llm-d.ai/stack": "other"}),
    ):
        cluster.live[item["kind"], item["metadata"]["name"]] = item
    cluster._settle()
    return frozen(cluster)


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What pods of theirs say of their requests, and whom it was asked."""
    told: dict[str, Any] = {"running": [], "asked": []}

    def page(_cluster: Any, pod: dict, _port: int, _path: str) -> str | None:
        told["asked"].append(pod["metadata"]["name"])
        count = told["running"].pop(0) if told["running"] else 0
        return None if count is None else f'sglang:num_running_reqs{{a="b"}} {count}\nsglang:num_queue_reqs 0\n'

    monkeypatch.setattr(adopted.canary, "page", page)
    return told


def taken_over() -> Taken:
    cluster: Taken = pickle.loads(_taken_over())
    assert len(cluster.answering()) == 2
    cluster.writes, cluster.least = 0, 2
    return cluster


def left(cluster: Taken) -> set[tuple[str, str]]:
    """Return what is there of what was taken over."""
    return {key for key, item in cluster.live.items() if "multi-engine.llm-d.ai/adopted-from" in labels_of(item)}


KEPT = {
    ("Secret", "token"),
    ("PersistentVolumeClaim", "weights"),
    ("ConfigMap", "of-another-model"),
    ("ConfigMap", "of-another-stack"),
}


def led(cluster: Taken, name: str = "gaie") -> list[str]:
    rules = cluster.live["HTTPRoute", name]["spec"]["rules"]
    return [backend["name"] for rule in rules for backend in rule["backendRefs"]]


def test_what_was_taken_over_serves_until_ours_does() -> None:
    cluster = taken_over()
    found = live_serving(cluster)["qwen"]
    assert {key: found[key] for key in ("pool", "engine", "track", "port", "protocol", "adopted")} == {
        "pool": "gaie",
        "engine": "adopted",
        "track": "adopted",
        "port": 8000,
        "protocol": "http",
        "adopted": {"pools": ["gaie"], "routes": ["gaie"]},
    }
    # The picker is none of those that serve.
    assert [(one["name"], one["replicas"], one["ready"]) for one in found["workloads"]] == [("ms-decode", 2, 2)]
    (reason,) = changes.pending(stack(), live_serving(cluster))
    assert "model qwen is served by what was taken over, behind InferencePool gaie. Run the playbook models" in reason


def test_ours_takes_its_place() -> None:
    cluster = taken_over()
    result = change(cluster, stack())
    assert result
    assert not result.get("failed"), result["msg"]
    head, *words = result["words"]
    assert head == (
        f"Model qwen: adopted ({IMAGE}) -> sglang {VERSION}, strategy surge. The new one takes 2 {GPU}; free: 2 {GPU}. It "
        "gets a pool of its own: what serves was taken over, and its pods lack the labels by which ours are told apart."
    )
    assert words == [
        f"1. start sglang {VERSION} and a picker beside it, behind pool qwen, and try them",
        "2. lead HTTPRoute gaie there, for 0 s",
        f"3. remove adopted ({IMAGE}) when its requests are finished",
        "4. remove what came with the one that was taken over: routes, pool, picker",
    ]
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert cluster.least == 2
    assert cluster.tried == set(cluster.answering())
    assert left(cluster) == KEPT
    # The roles that follow, and the next run, find nothing to do.
    assert change(cluster, stack()) is None
    before = dict(cluster.live)
    install(cluster, stack())
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert before.keys() == cluster.live.keys()
    # Nobody kept what others made.
    ways = rollback.ways({}, {}, live_serving(cluster), "qwen")
    assert ways["refusals"] == ["Nothing is known of what served model qwen. Models with a history: none."]


@functools.cache
def _killed(strategy: str) -> list[bytes]:
    cluster = taken_over()
    cluster.kept = []
    change(cluster, stack(rollout={"strategy": strategy, "hold_seconds": 0}))
    return cluster.kept


def killed(strategy: str) -> Iterator[Taken]:
    return map(pickle.loads, _killed(strategy))


@pytest.mark.parametrize("strategy", ["surge", "recreate"])
def test_killed_at_any_moment_the_next_run_goes_on(strategy: str) -> None:
    wanted = stack(rollout={"strategy": strategy, "hold_seconds": 0})
    for fatal, cluster in enumerate(killed(strategy)):
        if strategy == "surge":
            assert cluster.answering(), fatal
        result = change(cluster, wanted)
        if result is not None:
            assert not result.get("failed"), (fatal, result["msg"])
        install(cluster, wanted)
        assert servers(cluster) == [("qwen-sglang", 2)], fatal
        assert left(cluster) == KEPT, fatal
        assert len(cluster.answering()) == 2, fatal
        assert cluster.least == (2 if strategy == "surge" else 0), fatal
    assert fatal > 10


def test_killed_at_any_moment_and_the_next_one_is_not_fit() -> None:
    """As long as what was taken over is there, it serves again."""
    wanted = stack(image="example.com/engine:mute", engine_version=VERSION)
    for fatal, cluster in enumerate(killed("surge")):
        there = live_serving(cluster)["qwen"]
        result = change(cluster, wanted)
        assert result, fatal
        assert result["failed"], fatal
        assert "answered 500" in result["msg"]
        assert len(cluster.answering()) == 2, fatal
        assert cluster.least == 2, fatal
        if there["engine"] == "adopted":
            assert servers(cluster) == [("ms-decode", 2)], fatal
            assert led(cluster) == ["gaie"]
            assert ("HTTPRoute", "qwen") not in cluster.live, fatal


@pytest.mark.parametrize("fault", ["never ready", "mute"])
def test_one_that_is_not_fit_leaves_what_was_taken_over(fault: str) -> None:
    cluster = taken_over()
    before = copy.deepcopy(cluster.live)
    image = f"example.com/engine:{'mute' if fault == 'mute' else 'bad'}"
    cluster.broken.add("example.com/engine:bad")
    result = change(cluster, stack(image=image, engine_version=VERSION))
    assert result
    assert result["failed"]
    assert result["msg"].startswith(f"Model qwen stays on adopted ({IMAGE}), and lost no request.")
    assert cluster.least == 2
    assert {key for key in cluster.live.keys() - before if key[0] != "ConfigMap"} == set()
    assert {key: item for key, item in cluster.live.items() if key in left(cluster)} == {
        key: item for key, item in before.items() if "adopted" in str(item["metadata"].get("labels"))
    }


def test_one_that_falls_ill_when_it_serves_gives_the_route_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = taken_over()
    serve = rolling.Rolling._serve

    def falls_ill(self: rolling.Rolling, who: str) -> None:
        serve(self, who)
        if who == "new":
            assert led(cluster) == ["qwen"]
            cluster.broken.add("example.com/engine:ill")
            cluster.least = None
            cluster._settle()

    monkeypatch.setattr(rolling.Rolling, "_serve", falls_ill)
    model = {"image": "example.com/engine:ill", "engine_version": VERSION}
    result = change(cluster, stack(**model, rollout={"strategy": "surge", "hold_seconds": 5}))
    assert result
    assert "did not stay well" in result["msg"]
    assert servers(cluster) == [("ms-decode", 2)]
    assert led(cluster) == ["gaie"]
    assert ("HTTPRoute", "qwen") not in cluster.live
    assert len(cluster.answering()) == 2


def test_its_requests_are_waited_for(pages: dict[str, Any]) -> None:
    cluster = taken_over()
    # Two pods a look; one that says nothing and is ready may be busy.
    pages["running"] = [1, 0, None, 0, 0, 0, 2, 0]
    result = change(cluster, stack())
    assert result
    assert not result.get("failed")
    # Four looks at those that answer, and as many as it takes to be sure that none does.
    assert len(pages["asked"]) == 2 * (4 + adopted.QUIET_LOOKS)


def test_an_end_that_nobody_tells_is_waited_for_only_so_long(pages: dict[str, Any]) -> None:
    cluster, wanted = taken_over(), stack()
    pages["running"] = [None] * 5000
    result = change(cluster, wanted)
    assert result
    assert not result.get("failed")
    (drain,) = {sum(wanted["models"][0]["drain"][name] for name in ("pre_stop_seconds", "requests_seconds"))}
    assert len(pages["asked"]) >= 2 * drain
    assert servers(cluster) == [("qwen-sglang", 2)]


def overlap(cluster: Taken) -> None:
    selector = {"llm-d.ai/inference-serving": "true"}
    cluster.live["InferencePool", "gaie"]["spec"]["selector"]["matchLabels"] = selector


def another_pool(cluster: Taken) -> None:
    cluster.live["InferencePool", "b"] = pool("b", {"b": "c"})


def another_route(cluster: Taken) -> None:
    item = route("gaie", name="testers")
    item["metadata"]["labels"] = {}
    cluster.live["HTTPRoute", "testers"] = item


def called(kind: str, name: str) -> Callable[[Taken], None]:
    def add(cluster: Taken) -> None:
        cluster.live[kind, name] = theirs(kind, name)
        if kind == "Deployment":
            cluster.live[kind, name] = workload(name, IMAGE, THEIRS)
        if kind == "HTTPRoute":
            cluster.live[kind, name] = route("gaie", name=name)

    return add


@pytest.mark.parametrize(
    ("made", "model", "said"),
    [
        (overlap, {}, "Add a label to its selector that its own pods alone have: llm-d.ai/guide: multi-engine."),
        (another_pool, {}, "2 InferencePools were taken over for it: b, gaie. Only one can be led"),
        (another_route, {}, "HTTPRoute llm-d/testers leads to InferencePool gaie and was not taken over with it"),
        (called("Deployment", "qwen-sglang"), {}, "names that ours would have: Deployment llm-d/qwen-sglang. Both"),
        (called("HTTPRoute", "qwen"), {}, "HTTPRoute llm-d/qwen. Both have to be there for a while. Take it over for"),
        (called("Service", "qwen-epp"), {}, "Service llm-d/qwen-epp"),
        (
            lambda _cluster: None,
            {"rollout": {"strategy": "in_place", "hold_seconds": 0}},
            "cannot change in_place: what",
        ),
        (lambda _cluster: None, {"rollout": {"strategy": "canary", "hold_seconds": 0}}, "by a canary, for both cannot"),
        (lambda _cluster: None, {"gpus": 4}, "old and new beside each other need 8 nvidia.com/gpu more"),
    ],
)
def test_what_would_do_harm_is_refused_beforehand(made: Any, model: dict[str, Any], said: str) -> None:
    cluster = taken_over()
    made(cluster)
    cluster.writes = 0
    found = changes.wanted(stack(**model), live_serving(cluster), shipped.GAIE_OPTIONS, shipped.MODEL_OPTIONS)
    result = refused(cluster, found[0])
    assert result["failed"]
    assert said in result["msg"]
    assert cluster.writes == 0


def refused(cluster: Taken, one: dict[str, Any]) -> dict[str, Any]:
    """Return what the action plugin ends with."""
    from ansible_collections.llm_d.multi_engine.tests.unit.test_rolling import Plugin

    plugin = Plugin(cluster, one)
    looked = plugin._module({}, None)
    return looked if looked.get("failed") else plugin.follow({}, looked["room"], None)


def test_a_pool_that_is_called_as_ours_would_be() -> None:
    cluster = taken_over()
    item = pool("qwen")
    item["spec"]["endpointPickerRef"] = {"name": "gaie-epp"}
    cluster.live["InferencePool", "qwen"] = item
    cluster.live["HTTPRoute", "gaie"] = route("qwen")
    del cluster.live["InferencePool", "gaie"]
    result = change(cluster, stack())
    assert result
    assert not result.get("failed"), result["msg"]
    assert live_serving(cluster)["qwen"]["pool"] == "qwen-canary"
    assert left(cluster) == KEPT
    assert cluster.least == 2


def test_a_route_that_leads_elsewhere_too_stays_and_follows() -> None:
    cluster = taken_over()
    item = cluster.live["HTTPRoute", "gaie"]
    other = {"matches": [{"path": {"type": "PathPrefix", "value": "/other"}}], "backendRefs": [{"name": "elsewhere"}]}
    item["spec"]["rules"].append(other)
    result = change(cluster, stack())
    assert result
    assert not result.get("failed"), result["msg"]
    assert led(cluster) == ["qwen", "elsewhere"]
    assert left(cluster) == {*KEPT, ("HTTPRoute", "gaie")}
    assert change(cluster, stack()) is None
    # Requests come by it still, wherever ours are.
    result = change(cluster, stack(port=9000))
    assert result
    assert not result.get("failed"), result["msg"]
    assert led(cluster) == ["qwen-canary", "elsewhere"]
    assert cluster.least == 2


@pytest.mark.parametrize(("conflicts", "fine"), [(2, True), (99, False)])
def test_a_route_that_others_write_too(conflicts: int, fine: bool) -> None:
    """Controllers note down its state; its port goes with its pool where it names one."""
    cluster = taken_over()
    cluster.live["HTTPRoute", "gaie"]["spec"]["rules"][0]["backendRefs"][0]["port"] = 8000
    cluster.least, cluster.conflicts = None, conflicts
    led_away = adopted.Adopted(cluster, ("llm-d", "llm-d", "qwen"), {}).lead(
        {"pool": "gaie", "port": 8000}, {"pool": "qwen", "port": 9000}
    )
    if not fine:
        with pytest.raises(Conflict):
            list(led_away)
        return
    ((before, after),) = led_away
    (backend,) = after["spec"]["rules"][0]["backendRefs"]
    assert (backend["name"], backend["port"], before["spec"]["parentRefs"]) == (
        "qwen",
        9000,
        after["spec"]["parentRefs"],
    )
    assert {**before["spec"]["rules"][0], "backendRefs": []} == {**after["spec"]["rules"][0], "backendRefs": []}


def test_what_ours_refer_to_stays() -> None:
    cluster = taken_over()
    cluster.live["ConfigMap", "templates"] = theirs("ConfigMap", "templates")
    volumes = [{"name": "t", "configMap": {"name": "templates"}}]
    assert change(cluster, stack(volumes=volumes, volume_mounts=[{"name": "t", "mountPath": "/t"}]))
    assert left(cluster) == {*KEPT, ("ConfigMap", "templates")}


def test_ours_that_are_beside_it_already_take_its_place() -> None:
    cluster = taken_over()
    install(cluster, stack())
    cluster.live["Deployment", "ms-decode"] = pickle.loads(_taken_over()).live["Deployment", "ms-decode"]
    cluster._settle()
    assert servers(cluster) == [("ms-decode", 2), ("qwen-sglang", 2)]
    cluster.least = 2
    result = change(cluster, stack())
    assert result
    assert not result.get("failed"), result["msg"]
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert left(cluster) == KEPT
    assert cluster.least == 2


def test_one_that_answers_nothing_goes_first_only_when_somebody_says_so() -> None:
    cluster = taken_over()
    cluster.broken.add(IMAGE)
    cluster.least = None
    cluster._settle()
    (one,) = changes.wanted(stack(gpus=2), live_serving(cluster), shipped.GAIE_OPTIONS, shipped.MODEL_OPTIONS)
    assert "old and new beside each other need 4 nvidia.com/gpu more" in refused(cluster, one)["msg"]
    assert change(cluster, stack(gpus=2, rollout={"strategy": "recreate", "hold_seconds": 0}))
    assert servers(cluster) == [("qwen-sglang", 2)]


def test_workloads_that_are_gone_already() -> None:
    cluster = taken_over()
    cluster.least = None
    del cluster.live["Deployment", "ms-decode"]
    cluster._settle()
    assert change(cluster, stack())
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert left(cluster) == KEPT


PREFIX = {"path": {"type": "PathPrefix", "value": "/"}}
HEADER = {"type": "Exact", "name": "X-Gateway-Base-Model-Name", "value": "qwen"}
REWRITE = [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}]


def with_parent(item: dict[str, Any], **parent: Any) -> dict[str, Any]:
    item["spec"]["parentRefs"][0].update(parent)
    return item


@pytest.mark.parametrize(
    ("old", "own", "reason"),
    [
        (route("qwen"), route("qwen"), ""),
        (route("qwen", matches=[{**PREFIX, "headers": [HEADER]}]), route("qwen"), ""),
        (route("qwen", matches=[{"path": {"type": "Exact", "value": "/v1/chat"}}]), route("qwen"), ""),
        (route("qwen", matches=[{"path": {"type": "RegularExpression", "value": "/v."}}]), route("qwen"), ""),
        (with_parent(route("qwen"), namespace="llm-d"), route("qwen"), ""),
        (with_parent(route("qwen"), sectionName="http"), route("qwen"), ""),
        (route("qwen"), with_parent(route("qwen"), sectionName="http"), "it belongs to Gateway llm-d/llm-d-inf"),
        (with_parent(route("qwen"), name="old"), route("qwen"), "it belongs to Gateway llm-d/old, and ours does not"),
        (route("qwen", "elsewhere"), route("qwen"), "it also leads to elsewhere"),
        (route("qwen"), route("qwen", matches=[{**PREFIX, "headers": [HEADER]}]), "that ours does not take (path /)"),
        (
            route("qwen", matches=[{**PREFIX, "headers": [{**HEADER, "name": "x-gateway-base-model-name"}]}]),
            route("qwen", matches=[{**PREFIX, "headers": [HEADER]}]),
            "",
        ),
        (
            route("qwen", matches=[{"path": {"type": "PathPrefix", "value": "/ab"}}]),
            route("qwen", matches=[{"path": {"type": "PathPrefix", "value": "/a"}}]),
            "that ours does not take (path /ab)",
        ),
        (route("qwen", filters=REWRITE), route("qwen"), "that ours does not take (path /)"),
        (route("qwen", filters=REWRITE), route("qwen", filters=REWRITE), ""),
        (route("qwen"), route("qwen", matches=[{**PREFIX, "method": "POST"}]), "that ours does not take (path /)"),
    ],
)
def test_routes_that_ours_takes_the_place_of(old: dict[str, Any], own: dict[str, Any], reason: str) -> None:
    found = adopted.not_replaced(copy.deepcopy(old), copy.deepcopy(own))
    assert (reason in found) if reason else found == ""
