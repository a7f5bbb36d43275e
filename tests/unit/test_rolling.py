"""A whole change on a cluster that is a dictionary, interrupted at every write: somebody always answers."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.action.rollout import ActionModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils import (
    applying,
    canary,
    proving,
    rolling,
    serving,
    trying,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import with_digest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import MODEL_SERVERS
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import stays_ready
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import judge
from ansible_collections.llm_d.multi_engine.plugins.module_utils.waiting import Pending
from ansible_collections.llm_d.multi_engine.plugins.modules import rollout as module
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import changes, composing
from ansible_collections.llm_d.multi_engine.tests.unit import shipped
from ansible_collections.llm_d.multi_engine.tests.unit.fake_cluster import FakeCluster

GPU = "nvidia.com/gpu"


class LiveCluster(FakeCluster):
    """Makes pods of Deployments, at once, as far as there are devices, and watches over those who ask.

    :param devices: accelerators of its only node.
    """

    def __init__(self, devices: int) -> None:
        allocatable = {"cpu": "64", "memory": "1Ti", "pods": "100", GPU: str(devices)}
        node = {"kind": "Node", "metadata": {"name": "node"}, "spec": {}, "status": {"allocatable": allocatable}}
        super().__init__(node, {"kind": "Namespace", "metadata": {"name": "llm-d"}}, as_asked=True)
        self.devices, self.clock, self.writes = devices, 0, 0
        #: What was there before each write, where somebody keeps it.
        self.kept: list[bytes] | None = None
        #: Images whose pods are never ready, and pods that gave a completion.
        self.broken: set[str] = set()
        self.tried: set[str] = set()
        #: Smallest number of pods that answered after any write since it was set, None to look away.
        self.least: int | None = None
        #: What was noted down of changes that failed.
        self.failures: list[dict[str, str]] = []

    def apply(self, item: dict, force: bool, dry_run: bool) -> dict:
        key = item["kind"], item["metadata"]["name"]
        before = self.live.get(key, {})
        self._wrote()
        after = super().apply(item, force, dry_run)
        live = self.live[key]
        self.clock += 1
        live["metadata"]["creationTimestamp"] = before.get("metadata", {}).get("creationTimestamp", f"{self.clock:04}")
        self._settle()
        return after

    def scale(self, item: dict, replicas: int) -> None:
        self._wrote()
        self.live[item["kind"], item["metadata"]["name"]]["spec"]["replicas"] = replicas
        self._settle()

    def delete(self, item: dict, dry_run: bool) -> None:
        self._wrote()
        super().delete(item, dry_run)
        self._settle()

    def _wrote(self) -> None:
        self.writes += 1
        if self.kept is not None:
            self.kept.append(frozen(self))

    def _settle(self) -> None:
        """Do what controllers do."""
        servers = [item for (kind, _name), item in self.live.items() if kind in MODEL_SERVERS]
        pods: dict[str, dict] = {}
        for item in sorted(servers, key=lambda item: item["metadata"]["creationTimestamp"]):
            template = item["spec"]["template"]
            (container,) = template["spec"]["containers"][:1]
            ready = 0
            for number in range(item["spec"].get("replicas", 1)):
                # Another template is another pod.
                digest = abs(hash(json.dumps(template, sort_keys=True))) % 10**6
                name = f"{item['metadata']['name']}-{digest}-{number}"
                asked = int(container.get("resources", {}).get("requests", {}).get(GPU, 0))
                used = sum(pod["devices"] for pod in pods.values())
                fits = used + asked <= self.devices
                is_ready = fits and container["image"] not in self.broken
                ready += is_ready
                pods[name] = {
                    "kind": "Pod",
                    "metadata": {"name": name, "namespace": "llm-d", "labels": template["metadata"]["labels"]},
                    "spec": {**template["spec"], **({"nodeName": "node"} if fits else {})},
                    "status": {
                        "conditions": [{"type": "Ready", "status": str(is_ready)}],
                        "containerStatuses": [{"name": container["name"], "restartCount": 0}],
                    },
                    "devices": asked if fits else 0,
                }
            count = item["spec"].get("replicas", 1)
            item["status"] = {
                "replicas": count,
                "updatedReplicas": count,
                "availableReplicas": ready,
                "readyReplicas": ready,
            }
        self.live = {key: item for key, item in self.live.items() if key[0] != "Pod"}
        self.live.update({("Pod", name): pod for name, pod in pods.items()})
        if self.least is not None:
            self.least = min(self.least, len(self.answering()))

    def answering(self) -> list[str]:
        """Return the pods that requests of the model go to."""
        route = self.live["HTTPRoute", "qwen"]
        (backend,) = route["spec"]["rules"][0]["backendRefs"]
        labels = self.live["InferencePool", backend["name"]]["spec"]["selector"]["matchLabels"]
        return [pod["metadata"]["name"] for pod in self.list("v1", "Pod", None, text(labels)) if stays_ready(pod)]


def frozen(cluster: LiveCluster) -> bytes:
    """Return a copy of ``cluster``, to be thawed as often as one likes."""
    kept, cluster.kept = cluster.kept, None
    copy = pickle.dumps(cluster, pickle.HIGHEST_PROTOCOL)
    cluster.kept = kept
    return copy


class AtOnce(Executor):
    """Does what it is asked for without threads."""

    def __init__(self, _workers: int) -> None: ...

    def submit(self, call: Callable, /, *args: Any, **options: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(call(*args, **options))
        except BaseException as error:  # noqa: BLE001 (it is raised by result)
            future.set_exception(error)
        return future


def text(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())


class Plugin(ActionModule):
    """Runs the module's own code in this process."""

    def __init__(self, cluster: LiveCluster, change: dict[str, Any], **arguments: Any) -> None:
        arguments["change"] = change
        self._task = SimpleNamespace(args=arguments, check_mode=False)
        self._display = SimpleNamespace(display=lambda _text: None)
        self._cluster = cluster

    def go(self) -> dict[str, Any]:
        return self.follow({}, self._module({}, None)["room"], None)

    def call(self, module: Any, arguments: Any, _task_vars: Any) -> dict[str, Any]:
        assert module.__name__.endswith("rollout_history")
        self._cluster.failures.append(arguments["failure"])
        return {}

    def _module(self, more: dict[str, Any], _task_vars: Any) -> dict[str, Any]:
        params = {
            "stack": "llm-d",
            "namespace": "llm-d",
            "force_conflicts": False,
            "adopt": False,
            "timeout": 60,
            "observe": False,
            "part": None,
            **self._task.args,
            **more,
        }
        result: dict[str, Any] = {"changed": False}
        stub = SimpleNamespace(params=params, warn=print, check_mode=False, _diff=False)
        try:
            module.run(stub, self._cluster, result)
        except ClusterError as error:
            worse = isinstance(error, rolling.Worse)
            result.update(failed=True, msg=str(error), worse=worse)
        return json.loads(json.dumps(result))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes any time."""

    def wait(cluster: LiveCluster, objects: list[dict], *_times: float) -> list[Pending]:
        late = [
            item["metadata"]["name"]
            for item in objects
            if item["kind"] in MODEL_SERVERS
            and not judge(cluster.live.get((item["kind"], item["metadata"]["name"]))).ready
        ]
        taken = {serving.backend_of(item) for (kind, _name), item in cluster.live.items() if kind == "HTTPRoute"}
        # As gateways do: they take a pool when a route leads to it.
        late += [
            item["metadata"]["name"]
            for item in objects
            if item["kind"] == "InferencePool" and item["metadata"]["name"] not in taken
        ]
        if late:
            raise ClusterError(f"Not ready after 60 s: {late}")
        return []

    def ask(cluster: LiveCluster, _namespace: str, pod: dict, _question: dict, _times: int = 1) -> None:
        if pod["spec"]["containers"][0]["image"].endswith("mute"):
            raise trying.Failed("answered 500")
        cluster.tried.add(pod["metadata"]["name"])

    monkeypatch.setattr(rolling, "wait", wait)

    def ask_gateway(cluster: LiveCluster, gateway: dict, _namespace: str, _question: dict, _times: int = 1) -> None:
        route = cluster.live["HTTPRoute", "qwen-try"]["spec"]["rules"][0]
        (header,) = route["matches"][0]["headers"]
        assert gateway["headers"] == {header["name"]: header["value"]}
        labels = cluster.live["InferencePool", route["backendRefs"][0]["name"]]["spec"]["selector"]["matchLabels"]
        for pod in cluster.list("v1", "Pod", None, text(labels)):
            ask(cluster, "", pod, {})

    monkeypatch.setattr(trying, "ask_pod", ask)
    monkeypatch.setattr(trying, "ask_gateway", ask_gateway)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(proving, "why_not_ready", lambda *_arguments: (["no reason"], False))
    # Threads are slower than a dictionary.
    monkeypatch.setattr(applying, "ThreadPoolExecutor", AtOnce)
    # Nobody else is there.
    monkeypatch.setattr(module.RunLease, "check", lambda _self: None)
    monkeypatch.setattr(module.RunLease, "__enter__", lambda self: self)
    monkeypatch.setattr(module.RunLease, "__exit__", lambda *_arguments: None)


def stack(**model: Any) -> dict[str, Any]:
    return _stack(json.dumps(model))


@functools.cache
def _stack(model: str) -> dict[str, Any]:
    return shipped.resolved({"replicas": 2, "rollout": {"strategy": "auto", "hold_seconds": 0}, **json.loads(model)})


def live_serving(cluster: LiveCluster) -> dict[str, Any]:
    kinds = ("HTTPRoute", "InferencePool", *MODEL_SERVERS)
    return serving.told({kind: cluster.list("v1", kind) for kind in kinds})


def install(cluster: LiveCluster, resolved: dict[str, Any]) -> None:
    """Apply what the roles gaie and model_service do, and remove what they would."""
    there = live_serving(cluster)
    objects = [
        *composing.routing(resolved, shipped.GAIE_OPTIONS, there)["qwen"],
        *composing.model_servers(resolved, shipped.MODEL_OPTIONS, there)["qwen"],
    ]
    for item in objects:
        item = with_digest(item)
        # As module apply does: what is there as it is asked for is not written.
        live = cluster.live.get((item["kind"], item["metadata"]["name"]))
        if not live or any(live.get(key) != value for key, value in item.items() if key != "metadata"):
            cluster.apply(item, False, False)
    names = {item["metadata"]["name"] for item in objects}
    for item in cluster.list("apps/v1", "Deployment"):
        if item["metadata"]["name"] not in names:
            cluster.delete(item, False)


def change(cluster: LiveCluster, resolved: dict[str, Any]) -> dict[str, Any] | None:
    """Change what has to be, as the role does; return the result."""
    found = changes.wanted(resolved, live_serving(cluster), shipped.GAIE_OPTIONS, shipped.MODEL_OPTIONS)
    for one in found:
        return Plugin(cluster, one).go()
    return None


@functools.cache
def _installed(devices: int) -> bytes:
    cluster = LiveCluster(devices)
    install(cluster, stack())
    return frozen(cluster)


def made(devices: int) -> LiveCluster:
    cluster: LiveCluster = pickle.loads(_installed(devices))
    cluster.tried = set(cluster.answering())
    assert len(cluster.tried) == 2
    cluster.writes, cluster.least = 0, 2
    return cluster


def servers(cluster: LiveCluster) -> list[tuple[str, int]]:
    found = [item for item in cluster.list("apps/v1", "Deployment") if not item["metadata"]["name"].endswith("-epp")]
    return sorted((item["metadata"]["name"], item["spec"]["replicas"]) for item in found)


#: Devices that there are, what is changed, and what serves afterwards.
CASES = {
    "surge to another engine": (4, {"engine": "vllm"}, "qwen-vllm", 2),
    "surge of the same engine": (4, {"context_length": 4096}, "qwen-sglang-canary", 2),
    "surge to more replicas": (5, {"engine": "vllm", "replicas": 3}, "qwen-vllm", 2),
    "surge to a pool of its own": (4, {"engine": "vllm", "port": 9000}, "qwen-vllm", 2),
    "surge of the same engine to a pool of its own": (4, {"port": 9000}, "qwen-sglang-canary", 2),
    "in place to another engine": (2, {"engine": "vllm"}, "qwen-vllm", 1),
    "in place of the same engine": (3, {"context_length": 4096}, "qwen-sglang-canary", 1),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_that_works(case: str) -> None:
    devices, model, name, least = CASES[case]
    cluster, wanted = made(devices), stack(**model)
    result = change(cluster, wanted)
    assert result is not None
    assert not result.get("failed"), result["msg"]
    count = wanted["models"][0]["replicas"]
    assert servers(cluster) == [(name, count)]
    assert cluster.least == least
    # Nobody was sent to a pod of the first ones that had not been tried.
    assert len(cluster.answering()) == count
    assert cluster.tried & set(cluster.answering())
    # A step is noted down when it begins, and when it ends.
    serves = [serve for serve, _entries in itertools.groupby(entry["serve"] for entry in result["timeline"])]
    assert serves[:2] == ["old", "new" if "own" in case else "both"]
    assert live_serving(cluster)["qwen"]["pool"] == ("qwen-canary" if "own" in case else "qwen")
    # The roles that follow, and the next run, find nothing to do.
    cluster.writes = 0
    assert change(cluster, wanted) is None
    before = servers(cluster)
    install(cluster, wanted)
    assert servers(cluster) == before


@functools.cache
def _killed(case: str) -> list[bytes]:
    devices, model, _name, _least = CASES[case]
    cluster = made(devices)
    cluster.kept = []
    change(cluster, stack(**model))
    return cluster.kept


def killed(case: str) -> Iterator[LiveCluster]:
    """Return what a controller leaves that is killed before each of its writes: nothing else outlives it."""
    return map(pickle.loads, _killed(case))


@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_moment_the_next_run_goes_on(case: str) -> None:
    _devices, model, name, least = CASES[case]
    wanted = stack(**model)
    for fatal, cluster in enumerate(killed(case)):
        assert cluster.answering(), fatal
        result = change(cluster, wanted)
        if result is not None:
            assert not result.get("failed"), (fatal, result["msg"])
        # What is left when it serves already, role model_service removes.
        install(cluster, wanted)
        assert servers(cluster) == [(name, wanted["models"][0]["replicas"])], fatal
        assert cluster.least is not None
        assert cluster.least >= least, fatal
    assert fatal > 3


@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_moment_and_wanted_back(case: str) -> None:
    _devices, _model, _name, least = CASES[case]
    for fatal, cluster in enumerate(killed(case)):
        result = change(cluster, stack())
        if result is not None:
            assert not result.get("failed"), (fatal, result["msg"])
        install(cluster, stack())
        ((name, count),) = servers(cluster)
        assert name.startswith("qwen-sglang")
        assert count == 2
        assert cluster.least is not None
        assert cluster.least >= least, fatal


@pytest.mark.parametrize(("devices", "more"), [(2, {}), (4, {}), (4, {"port": 9000})])
@pytest.mark.parametrize("fault", ["never ready", "mute"])
def test_one_that_is_not_fit_leaves_the_old_one(fault: str, devices: int, more: dict[str, Any]) -> None:
    cluster = made(devices)
    before = set(cluster.live)
    image = f"example.com/engine:{'mute' if fault == 'mute' else 'bad'}"
    if fault == "never ready":
        cluster.broken.add(image)
    wanted = stack(engine="vllm", image=image, engine_version="0.32.0", **more)
    result = change(cluster, wanted)
    assert result is not None
    assert result["failed"]
    assert "serving" not in result
    assert result["msg"].startswith("Model qwen stays on sglang (")
    assert {"never ready": "Not ready after", "mute": "answered 500"}[fault] in result["msg"]
    (failure,) = cluster.failures
    assert (failure["model"], failure["wanted"], failure["reason"]) == ("qwen", "vllm 0.32.0", result["msg"])
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert len(cluster.answering()) == 2
    # Nothing is left of it, but what stands for all that a role has applied.
    assert {key for key in cluster.live.keys() - before if key[0] != "Lease"} <= {
        ("ConfigMap", "llm-d-gaie"),
        ("ConfigMap", "llm-d-model-service"),
    }
    # The roles that only apply refuse to go on from there.
    assert changes.pending(wanted, live_serving(cluster))
    assert not changes.pending(stack(), live_serving(cluster))


def test_one_that_falls_ill_under_load_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = made(4)
    serve = rolling.Rolling._serve

    def falls_ill(self: rolling.Rolling, who: str) -> None:
        serve(self, who)
        if who == "both":
            cluster.broken.add("example.com/engine:ill")
            cluster._settle()

    monkeypatch.setattr(rolling.Rolling, "_serve", falls_ill)
    model = {"engine": "vllm", "image": "example.com/engine:ill", "engine_version": "0.32.0"}
    result = change(cluster, stack(**model, rollout={"strategy": "surge", "hold_seconds": 5}))
    assert result is not None
    assert result["failed"]
    assert "did not stay well" in result["msg"]
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert cluster.least == 2


def test_one_that_is_restarted_by_others_requests_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = made(4)

    def crashes(_seconds: float) -> None:
        """While it is watched; it is ready again at once."""
        new = [pod for (kind, name), pod in cluster.live.items() if kind == "Pod" and name.startswith("qwen-vllm-")]
        new[0]["status"]["containerStatuses"][0]["restartCount"] = 1

    monkeypatch.setattr(time, "sleep", crashes)
    result = change(cluster, stack(engine="vllm", rollout={"strategy": "surge", "hold_seconds": 5}))
    assert result is not None
    assert result["failed"]
    assert "The new one did not stay well when it got requests:" in result["msg"]
    assert "it has restarted" in result["msg"]
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert cluster.least == 2


@pytest.mark.parametrize(
    ("strategy", "more", "who"),
    [
        ("surge", {}, "Pod qwen-vllm-"),
        ("canary", {}, "Pod qwen-vllm-"),
        ("surge", {"port": 9000}, "The new one serves"),
    ],
)
def test_one_that_answers_no_more_when_it_serves_leaves_the_old_one(
    monkeypatch: pytest.MonkeyPatch, strategy: str, more: dict[str, Any], who: str
) -> None:
    # Its probes are fine, and neither it nor the picker counts what it has not begun.
    cluster, asked = made(4), set()

    def gives_one(name: str) -> None:
        if name in asked:
            raise trying.Failed("answered 500")
        asked.add(name)

    monkeypatch.setattr(trying, "ask_pod", lambda _cluster, _space, pod, *_rest: gives_one(pod["metadata"]["name"]))
    monkeypatch.setattr(trying, "ask_gateway", lambda _cluster, gateway, *_rest: gives_one(gateway["name"]))
    monkeypatch.setattr(canary, "page", lambda *_arguments: None)
    result = change(cluster, stack(engine="vllm", rollout={"strategy": strategy, "hold_seconds": 5}, **more))
    assert result is not None
    assert result["failed"]
    assert result["msg"].startswith("Model qwen stays on sglang (")
    assert "lost no request" not in result["msg"]
    assert who in result["msg"]
    assert "not answer as it should any more: answered 500" in result["msg"]
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert cluster.least == 2


@pytest.mark.parametrize("more", [{}, {"port": 9000}], ids=["pod by pod", "behind a pool of its own"])
def test_one_that_does_not_stand_its_trial_gets_no_request(monkeypatch: pytest.MonkeyPatch, more: dict) -> None:
    cluster, times = made(4), []

    def restarts(_cluster: LiveCluster, *arguments: Any) -> None:
        """Answer, after a restart that the API server tells of by then."""
        times.append(arguments[-1])
        new = [pod for (kind, name), pod in cluster.live.items() if kind == "Pod" and name.startswith("qwen-vllm-")]
        ended = {"terminated": {"exitCode": 139, "reason": "Error"}}
        new[0]["status"]["containerStatuses"][0].update(restartCount=1, lastState=ended)

    monkeypatch.setattr(trying, "ask_pod", restarts)
    monkeypatch.setattr(trying, "ask_gateway", restarts)
    rollout = {"strategy": "surge", "hold_seconds": 0, "trial_requests": 8}
    result = change(cluster, stack(engine="vllm", rollout=rollout, **more))
    assert result is not None
    assert "The new one was restarted while it was tried." in result["msg"]
    assert "container model-server of pod qwen-vllm-" in result["msg"]
    assert "ended with exit code 139 (Error)" in result["msg"]
    assert set(times) == {8}
    assert servers(cluster) == [("qwen-sglang", 2)]


def test_where_the_old_one_has_gone_the_new_one_stays() -> None:
    # Replica by replica on two GPUs, of which somebody takes the last one that becomes free.
    cluster, delete = made(2), LiveCluster.delete

    def taken(self: LiveCluster, item: dict, dry_run: bool) -> None:
        delete(self, item, dry_run)
        if item["metadata"]["name"] == "qwen-sglang":
            self.devices -= 1
            self._settle()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveCluster, "delete", taken)
        result = change(cluster, stack(engine="vllm"))
    assert result is not None
    assert result["failed"]
    assert "Model qwen has no old one to go back to" in result["msg"]
    assert "stays on" not in result["msg"]
    assert servers(cluster) == [("qwen-vllm", 2)]
    assert len(cluster.answering()) == cluster.least == 1
    # With room again it goes on from there.
    cluster.devices += 1
    cluster._settle()
    assert change(cluster, stack(engine="vllm")) is None
    assert len(cluster.answering()) == 2


def test_pods_of_a_node_that_is_lost_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cluster = made(4)
    (name, _other) = cluster.answering()
    ghost = copy.deepcopy(cluster.live["Pod", name])
    ghost["metadata"].update(name="qwen-sglang-lost", deletionTimestamp="2026-01-01T00:00:00Z")
    settle = LiveCluster._settle

    def stays(self: LiveCluster) -> None:
        settle(self)
        self.live["Pod", "qwen-sglang-lost"] = ghost

    monkeypatch.setattr(LiveCluster, "_settle", stays)
    result = change(cluster, stack(engine="vllm"))
    assert result is not None
    assert not result.get("failed"), result["msg"]
    assert "Pod qwen-sglang-lost is not waited for: its node, node, does not let it go." in capsys.readouterr().out
    assert servers(cluster) == [("qwen-vllm", 2)]


def test_pickers_are_changed_before_engines() -> None:
    cluster = made(4)
    # Another release brings another picker, with the configuration that is there.
    options = {**shipped.GAIE_OPTIONS, "picker_image": "example.com/picker:2"}
    (one,) = changes.wanted(stack(engine="vllm"), live_serving(cluster), options, shipped.MODEL_OPTIONS)
    apply = LiveCluster.apply

    def noting(self: LiveCluster, item: dict, force: bool, dry_run: bool) -> dict:
        names.append(item["metadata"]["name"])
        return apply(self, item, force, dry_run)

    names: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveCluster, "apply", noting)
        assert not Plugin(cluster, one).go().get("failed")
    assert names.index("qwen-epp") < names.index("qwen-vllm")


def test_a_pool_of_its_own_where_the_old_one_makes_room_first() -> None:
    cluster = made(2)
    before = dict(cluster.live["InferencePool", "qwen"])
    # Not fit any more, and somebody had begun a change.
    cluster.broken.add(cluster.live["Deployment", "qwen-sglang"]["spec"]["template"]["spec"]["containers"][0]["image"])
    cluster.least = None
    del cluster.live["InferencePool", "qwen"]["spec"]["selector"]["matchLabels"]["multi-engine.llm-d.ai/track"]
    cluster._settle()
    result = change(cluster, stack(engine="vllm", port=9000))
    assert result is not None
    assert not result.get("failed"), result["msg"]
    assert result["strategy"] == "recreate"
    assert live_serving(cluster)["qwen"]["pool"] == "qwen-canary"
    assert before["spec"]["targetPorts"] == [{"number": 8000}]
    assert servers(cluster) == [("qwen-vllm", 2)]
    assert len(cluster.answering()) == 2


def test_without_room_nothing_is_changed() -> None:
    cluster = made(2)
    result = change(cluster, stack(engine="vllm", rollout={"strategy": "surge", "hold_seconds": 0}))
    assert result is not None
    assert result["msg"].startswith("Nothing was changed.\nModel qwen: old and new beside each other need 2 nvidia.com")
    assert cluster.writes == 0


def test_recreate_makes_room_first() -> None:
    cluster = made(2)
    result = change(cluster, stack(engine="vllm", rollout={"strategy": "recreate", "hold_seconds": 0}))
    assert result is not None
    assert not result.get("failed")
    assert cluster.least == 0
    assert servers(cluster) == [("qwen-vllm", 2)]
    assert len(cluster.answering()) == 2


def test_an_autoscaled_model_comes_as_often_as_the_old_one_is_there() -> None:
    """Its autoscaler has made three of two; the new one starts with three, and is scaled when it serves."""
    autoscaling = {"by": "existing", "max_replicas": 4}
    cluster = LiveCluster(8)
    install(cluster, stack(autoscaling=autoscaling))
    (old,) = [item for (kind, name), item in cluster.live.items() if (kind, name) == ("Deployment", "qwen-sglang")]
    cluster.scale(old, 3)
    result = change(cluster, stack(engine="vllm", autoscaling=autoscaling))
    assert result
    assert servers(cluster) == [("qwen-vllm", 3)]
    (new,) = [item for item in cluster.list("apps/v1", "Deployment") if item["metadata"]["name"] == "qwen-vllm"]
    assert "multi-engine.llm-d.ai/initial-replicas" not in new["metadata"]["annotations"]


def test_what_was_taken_over_is_left_alone() -> None:
    """Behind no pool that was taken over with it, it is no leftover of a change."""
    cluster = made(4)
    labels = {"llm-d.ai/model": "qwen", "multi-engine.llm-d.ai/stack": "llm-d"}
    metadata = {"name": "ms-decode", "labels": {**labels, "multi-engine.llm-d.ai/adopted-from": "helm.ms"}}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "vllm:1"}]}}
    theirs = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**metadata, "creationTimestamp": "0"}}
    theirs["spec"] = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    cluster.live["Deployment", "ms-decode"] = theirs
    assert "ms-decode" not in [workload["name"] for workload in live_serving(cluster)["qwen"]["workloads"]]
    assert change(cluster, stack(engine="vllm"))
    assert ("ms-decode", 1) in servers(cluster)
