"""What happens to a run that is disturbed: nothing is lost, and the next run ends what it began."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.molecule.default.tests.conftest import BIN, INVENTORY, ROOT, STATE
from ansible_collections.llm_d.multi_engine.tests.tools import processes

SET = "faults-test"
PLAYBOOK = ROOT / "molecule/default/playbooks/apply.yml"


@dataclass
class Job:
    """A run of ansible-playbook in the background."""

    process: subprocess.Popen
    log: Path
    result: dict = field(default_factory=dict)

    def wait(self, seconds: float = 150) -> Job:
        """Wait until it ends and read the result of its task."""
        self.process.wait(seconds)
        return self

    @property
    def output(self) -> str:
        """What a user has seen so far."""
        return self.log.read_text()

    def ok(self, changed: bool | None = None) -> Job:
        """Assert that it succeeded and changed something or nothing."""
        assert self.wait().process.returncode == 0, self.output
        if changed is not None:
            assert ("changed=1" if changed else "changed=0") in self.output, self.output
        return self

    def failed(self) -> str:
        """Assert that it failed and return what was said."""
        assert self.wait().process.returncode not in (0, None), self.output
        return self.output


class Runs:
    """Runs over objects of one namespace, which each test has for itself."""

    def __init__(self, api, directory: Path, namespace: str) -> None:
        self._api, self._directory, self.namespace = api, directory, namespace
        self._jobs: list[Job] = []

    def item(self, name: str, kind: str = "ConfigMap", api_version: str = "v1", **content: Any) -> dict[str, Any]:
        """Return an object as the roles compose them."""
        labels = {
            "app.kubernetes.io/managed-by": "llm_d.multi_engine",
            "multi-engine.llm-d.ai/stack": "faults",
            "multi-engine.llm-d.ai/role": "test",
        }
        metadata = {"name": name, "namespace": self.namespace, "labels": labels}
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}

    def config_maps(self, count: int, prefix: str = "item", value: str = "1") -> list[dict[str, Any]]:
        """Return many small objects."""
        return [self.item(f"{prefix}-{number:04d}", data={"value": value}) for number in range(count)]

    def start(self, objects: list[dict], options: str = "", **arguments: Any) -> Job:
        """Begin to apply ``objects``."""
        turn = len(self._jobs)
        variables, log = self._directory / f"variables-{turn}.json", self._directory / f"log-{turn}"
        wanted = {"stack": "faults", "role": "test", "namespace": self.namespace, "objects": objects, **arguments}
        variables.write_text(json.dumps({"apply_arguments": wanted}))
        words = [BIN / "ansible-playbook", "-i", INVENTORY, *options.split(), "-e", f"@{variables}", PLAYBOOK]
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        with log.open("w") as file:
            process = subprocess.Popen(
                [str(word) for word in words],
                env={**os.environ, **settings, "PATH": f"{BIN}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C reaches the whole group.
                start_new_session=True,
            )
        self._jobs.append(Job(process, log))
        return self._jobs[-1]

    def names(self) -> list[str]:
        """Return the names of the ConfigMaps that runs made."""
        selector = "multi-engine.llm-d.ai/stack=faults,!applyset.kubernetes.io/id"
        where = ("-n", self.namespace, "-l", selector, "--ignore-not-found", "-o", "name")
        return sorted(
            line.removeprefix("configmap/") for line in self._api.kubectl("get", "configmaps", *where).split()
        )

    def kubectl(self, *words: str) -> str:
        """Return what kubectl prints of the namespace."""
        return self._api.kubectl("-n", self.namespace, *words)

    def end(self) -> None:
        """Kill what still runs, and remove everything."""
        for job in self._jobs:
            if job.process.poll() is None:
                processes.kill(job.process.pid)
                job.process.wait()
        self._api.delete("namespace", self.namespace, "--wait=false")


@pytest.fixture
def runs(api, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Runs]:
    # A namespace takes its time to go.
    runs = Runs(api, tmp_path, f"faults-{zlib.crc32(request.node.name.encode()):08x}-{int(time.time())}")
    yield runs
    runs.end()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def kill_api_server() -> None:
    record = json.loads((STATE / "run/kube-apiserver.json").read_text())
    os.kill(record["pid"], signal.SIGKILL)


def start_api_server() -> None:
    subprocess.run([sys.executable, str(ROOT / "tests/cluster"), "up", "--api-only"], check=True, capture_output=True)


def wanted_names(objects: list[dict]) -> list[str]:
    return sorted(entry["metadata"]["name"] for entry in objects)


def test_the_api_server_is_killed_in_the_middle_of_1000_objects(api, runs: Runs) -> None:
    objects = runs.config_maps(1000)
    job = runs.start(objects)
    until(lambda: len(runs.names()) > 50)
    kill_api_server()
    time.sleep(2)
    start_api_server()
    job.ok(changed=True)
    assert runs.names() == wanted_names(objects)
    runs.start(objects).ok(changed=False)
    # One is changed, one is not wanted any more, one was deleted and one edited by hand.
    runs.kubectl("delete", "configmap", "item-0003")
    runs.kubectl("patch", "configmap", "item-0004", "-p", '{"data": {"value": "by hand"}}')
    objects[1]["data"]["value"] = "2"
    shown = runs.start(objects[:-1], options="--check --diff").ok(changed=True).output
    for name in ("item-0001", "item-0003", "item-0004", "item-0999"):
        assert f"ConfigMap {runs.namespace}/{name}" in shown
    assert "item-0002" not in shown
    assert "-  value: by hand" in shown
    assert "+  value: '1'" in shown
    assert len(runs.names()) == 999
    runs.start(objects[:-1]).ok(changed=True)
    assert runs.names() == wanted_names(objects[:-1])
    assert api.get("configmap", "item-0004", runs.namespace)["data"] == {"value": "1"}
    runs.start(objects[:-1]).ok(changed=False)


def waiting_gateway(runs: Runs) -> dict[str, Any]:
    """Return an object that becomes ready when a test says so."""
    spec = {"gatewayClassName": "nobody", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}
    return runs.item("waited-for", "Gateway", "gateway.networking.k8s.io/v1", spec=spec)


def program(runs: Runs) -> None:
    """Say of the Gateway that it works, as its controller would."""
    conditions = [
        {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind in ("Accepted", "Programmed")
    ]
    status = {"status": {"conditions": conditions, "addresses": [{"value": "127.0.0.1"}]}}
    patch = ("--subresource", "status", "--type", "merge", "-p", json.dumps(status))
    runs.kubectl("patch", "gateways.gateway.networking.k8s.io", "waited-for", *patch)


def test_the_api_server_is_killed_in_the_middle_of_a_wait(api, runs: Runs) -> None:
    gateway = waiting_gateway(runs)
    job = runs.start([gateway], wait=True, wait_timeout=120)
    until(lambda: "0:10 of 2:00: 2 of 3 objects are ready" in job.output)
    kill_api_server()
    time.sleep(12)
    start_api_server()
    program(runs)
    said = job.ok(changed=True).output
    assert f"Gateway {runs.namespace}/waited-for: " in said
    assert "No Kubernetes API answers" in said
    runs.start([gateway], wait=True).ok(changed=False)


def test_too_many_requests(api, runs: Runs, robot: Path) -> None:
    limited = {"nominalConcurrencyShares": 0, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}
    level = {"type": "Limited", "limited": {**limited, "borrowingLimitPercent": 0}}
    subject = {"kind": "ServiceAccount", "serviceAccount": {"name": "robot", "namespace": "default"}}
    rule = {"verbs": ["patch"], "apiGroups": [""], "resources": ["configmaps"], "namespaces": ["*"]}
    flow = {
        "priorityLevelConfiguration": {"name": "faults"},
        "matchingPrecedence": 2,
        "rules": [{"subjects": [subject], "resourceRules": [rule]}],
    }
    api.create("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", "faults", "", spec=level)
    api.create("flowcontrol.apiserver.k8s.io/v1", "FlowSchema", "faults", "", spec=flow)
    job = runs.start(runs.config_maps(20), kubeconfig=str(robot))
    try:
        until(lambda: rejected(api) > 3)
    finally:
        api.delete("flowschema", "faults")
        api.delete("prioritylevelconfiguration", "faults")
    job.ok(changed=True)
    assert len(runs.names()) == 20


def rejected(api) -> int:
    """Return how many requests of the limited level were turned down."""
    metrics = api.kubectl("get", "--raw", "/metrics").splitlines()
    found = [line for line in metrics if line.startswith("apiserver_flowcontrol_rejected_requests_total")]
    return sum(int(float(line.split()[-1])) for line in found if 'priority_level="faults"' in line)


@pytest.fixture
def robot(api, tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig of a ServiceAccount that may do everything."""
    subject = {"kind": "ServiceAccount", "name": "robot", "namespace": "default"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    api.create("v1", "ServiceAccount", "robot", "default")
    binding = {"roleRef": role, "subjects": [subject]}
    api.create("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "robot", "", **binding)
    config = json.loads(api.kubectl("config", "view", "--raw", "-o", "json"))
    token = api.kubectl("create", "token", "-n", "default", "robot").strip()
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path = tmp_path / "robot.json"
    path.touch(0o600)
    path.write_text(json.dumps(config))
    yield path
    api.delete("clusterrolebinding", "robot")
    api.delete("serviceaccount", "-n", "default", "robot")


def test_credentials_end_in_the_middle(api, runs: Runs, robot: Path) -> None:
    gateway = waiting_gateway(runs)
    job = runs.start([gateway], kubeconfig=str(robot), wait=True, wait_timeout=120)
    until(lambda: "0:10 of 2:00: 2 of 3 objects are ready" in job.output)
    api.delete("serviceaccount", "-n", "default", "robot")
    said = job.failed()
    assert "The API server does not accept the credentials: Unauthorized. Check llm_d_kubeconfig" in said
    # Long before the deadline: no time heals that.
    assert "1:30 of 2:00" not in said
    runs.start([gateway]).ok(changed=False)


def test_two_runs_at_the_same_time(runs: Runs) -> None:
    runs.start(runs.config_maps(1)).ok(changed=True)
    lists = {prefix: runs.config_maps(1000, prefix) for prefix in ("one", "other")}
    jobs = {prefix: runs.start(objects) for prefix, objects in lists.items()}
    ended = {prefix: job.wait().process.returncode == 0 for prefix, job in jobs.items()}
    # Ansible breaks the lines of warnings.
    said = " ".join("".join(job.output for job in jobs.values()).split())
    # The second one gives up, or has waited if the first one was about to end. Both tell of it.
    assert "Another run is changing role test of stack faults: " in said
    assert any(ended.values()), said
    assert runs.names() in [wanted_names(objects) for prefix, objects in lists.items() if ended[prefix]]
    runs.start(lists["one"]).ok()
    assert runs.names() == wanted_names(lists["one"])


def test_what_a_newer_run_applied_is_not_removed_by_an_older_one(runs: Runs) -> None:
    gateway = waiting_gateway(runs)
    runs.start([*runs.config_maps(2), gateway]).ok(changed=True)
    older = runs.start([*runs.config_maps(1), gateway], wait=True, wait_timeout=120)
    until(lambda: "0:10 of 2:00" in older.output)
    newest = runs.config_maps(3, value="2")
    runs.start([*newest, gateway]).ok(changed=True)
    program(runs)
    said = older.failed()
    assert "Another run has changed role test of stack faults since: nothing was removed." in said
    assert runs.names() == wanted_names(newest)
    runs.start([*newest, gateway], wait=True).ok(changed=False)


def test_a_part_of_a_value_that_kubernetes_takes_as_one(api, runs: Runs) -> None:
    def service(**selector: str) -> dict[str, Any]:
        return runs.item("part", "Service", spec={"selector": selector, "ports": [{"name": "http", "port": 80}]})

    def role(**rule: Any) -> dict[str, Any]:
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], **rule}]
        return runs.item("part", "Role", "rbac.authorization.k8s.io/v1", rules=rules)

    before = [service(app="part", node="one"), role(resourceNames=["one"])]
    runs.start(before).ok(changed=True)
    runs.start(before).ok(changed=False)
    runs.start([service(app="part"), role()]).ok(changed=True)
    assert api.get("service", "part", runs.namespace)["spec"]["selector"] == {"app": "part"}
    assert "resourceNames" not in api.get("role", "part", runs.namespace)["rules"][0]


#: The interpreter of the playbook by another name is another one, to which Ansible sends the module.
SENT = "-e ansible_python_interpreter={{ansible_playbook_python|dirname}}/./{{ansible_playbook_python|basename}}"


@pytest.mark.parametrize("options", ["", SENT], ids=["forked", "sent"])
def test_interrupted_and_run_again(api, runs: Runs, options: str) -> None:
    objects = runs.config_maps(600)
    job = runs.start(objects, options)
    until(lambda: len(runs.names()) > 50)
    os.killpg(job.process.pid, signal.SIGINT)
    job.wait()
    assert job.process.returncode != 0
    runs.start(objects).ok()
    assert runs.names() == wanted_names(objects)
    runs.start(objects).ok(changed=False)


def test_killed_and_run_again(api, runs: Runs) -> None:
    objects = runs.config_maps(600)
    job = runs.start([*objects, *runs.config_maps(1, "extra")])
    until(lambda: len(runs.names()) > 50)
    processes.kill(job.process.pid)
    job.wait()
    runs.start(objects).ok(changed=True)
    assert runs.names() == wanted_names(objects)


def test_an_object_that_cannot_go(api, runs: Runs) -> None:
    runs.start([*runs.config_maps(2), *runs.config_maps(1, "held")]).ok(changed=True)
    hold = ("--type", "merge", "-p", '{"metadata": {"finalizers": ["example.com/hold"]}}')
    let_go = ("--type", "merge", "-p", '{"metadata": {"finalizers": null}}')
    for name in ("item-0001", "held-0000"):
        runs.kubectl("patch", "configmap", name, *hold)
    runs.kubectl("delete", "configmap", "item-0001", "--wait=false")
    # Wanted, and about to vanish.
    said = runs.start(runs.config_maps(2), wait_timeout=3).failed()
    assert f"ConfigMap {runs.namespace}/item-0001 was deleted at " in said
    assert "it waits for finalizers example.com/hold" in said
    runs.kubectl("patch", "configmap", "item-0001", *let_go)
    # Not wanted, and does not go.
    said = runs.start(runs.config_maps(2), wait_timeout=3).failed()
    assert f"ConfigMap {runs.namespace}/held-0000 was deleted at " in said
    runs.kubectl("patch", "configmap", "held-0000", *let_go)
    runs.start(runs.config_maps(2)).ok()
    assert runs.names() == wanted_names(runs.config_maps(2))
    runs.start(runs.config_maps(2)).ok(changed=False)


def test_a_second_writer(api, runs: Runs) -> None:
    runs.start(runs.config_maps(3)).ok(changed=True)
    theirs = {**runs.item("item-0001", data={"value": "theirs"})}
    api.apply(theirs, manager="other-tool")
    said = runs.start(runs.config_maps(3, value="2")).failed()
    assert f"ConfigMap {runs.namespace}/item-0001: Fields belong to somebody else: .data.value" in said
    assert 'conflict with "other-tool"' in said
    assert api.get("configmap", "item-0001", runs.namespace)["data"] == {"value": "theirs"}


def test_kubectl_lists_the_set_and_does_not_change_it(api, host, runs: Runs) -> None:
    runs.start(runs.config_maps(2)).ok(changed=True)
    parent = api.get("configmap", SET, runs.namespace)
    identity = parent["metadata"]["labels"]["applyset.kubernetes.io/id"]
    listed = api.kubectl("get", "configmaps", "-A", "-l", f"applyset.kubernetes.io/part-of={identity}", "-o", "name")
    assert listed.split() == ["configmap/item-0000", "configmap/item-0001"]
    kubectl = f"KUBECTL_APPLYSET=true {STATE}/bin/kubectl --kubeconfig {STATE}/kubeconfig"
    one = json.dumps(runs.config_maps(1)[0])
    done = host.run(
        "bash -c %s", f"{kubectl} apply -n {runs.namespace} --prune --applyset=configmap/{SET} -f - <<< '{one}'"
    )
    assert done.rc != 0
    assert 'is managed by tooling "llm_d.multi_engine" instead of "kubectl"' in done.stderr
    assert len(runs.names()) == 2
