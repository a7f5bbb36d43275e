"""Playbooks run as a user runs them, and what is in the cluster before and after."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import testinfra
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / "molecule/default/inventory"
BIN = Path(sys.executable).parent
STATE = Path("/var/lib/llm-d-embedded-api")
#: Comes and goes without us, or follows from another object.
DERIVED = {"APIService", "ComponentStatus", "Endpoints", "Event", "IPAddress", "Lease", "ServiceCIDR"}
BOOKKEEPING = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink")


@dataclass
class Run:
    """What a run of ansible-playbook ended with.

    :ivar output: both streams as they came.
    :ivar results: per task its name and its result on localhost, in order.
    :ivar changed: number of changed tasks.
    """

    rc: int
    output: str
    results: list[tuple[str, dict]] = field(default_factory=list)
    changed: int = 0

    def ok(self, changed: bool | int | None = None) -> Run:
        """Assert that it succeeded, and that it changed something, nothing, or so many tasks."""
        assert self.rc == 0, self.message or self.output[-5000:]
        if changed is not None:
            did = [name for name, result in self.results if result.get("changed")]
            assert self.changed == changed if isinstance(changed, int) and changed is not True else self.changed, did
        return self

    @property
    def message(self) -> str:
        """What failed, as the user reads it; nothing when nothing did."""
        return "\n".join(str(result.get("msg", result)) for _name, result in self.results if result.get("failed"))

    def said(self) -> str:
        """All messages of tasks that did not fail."""
        return "\n".join(str(result["msg"]) for _name, result in self.results if result.get("msg"))

    @property
    def diffs(self) -> dict[str, list[str]]:
        """Per object its changed lines, with + or - in front."""
        found: dict[str, list[str]] = {}
        for _name, result in self.results:
            diffs = result.get("diff") or []
            for diff in diffs if isinstance(diffs, list) else [diffs]:
                if "before" not in diff:
                    continue
                lines = difflib.ndiff(diff["before"].splitlines(), diff["after"].splitlines())
                changes = [f"{line[0]}{line[2:].strip()}" for line in lines if line[0] in "+-"]
                found.setdefault(diff.get("after_header", ""), []).extend(changes)
        return found


class Ansible:
    """Runs playbooks of the collection against the scenario's inventory."""

    def __init__(self, host) -> None:
        self._host = host

    def __call__(
        self,
        *playbooks: str,
        options: str = "",
        plain: bool = False,
        environment: dict[str, str] | None = None,
        cwd: Path = ROOT,
        **variables: object,
    ) -> Run:
        """Run ``playbooks`` (names inside the collection) with ``variables`` on top of the inventory.

        :param plain: leave the output as users see it, without results per task.
        """
        words = [str(BIN / "ansible-playbook"), "-i", str(INVENTORY), *options.split()]
        words += ["-e", json.dumps(variables)] if variables else []
        words += [f"llm_d.multi_engine.{name}" for name in playbooks]
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        settings["PATH"] = f"{BIN}:{os.environ['PATH']}"
        if not plain:
            settings["ANSIBLE_STDOUT_CALLBACK"] = "ansible.posix.json"
            settings["ANSIBLE_JSON_INDENT"] = "0"
        settings |= environment or {}
        words = ["env", "-C", str(cwd), *(f"{key}={value}" for key, value in settings.items()), *words]
        done = self._host.run(shlex.join(words))
        run = Run(done.rc, done.stdout + done.stderr)
        if not plain:
            self._read(run, done.stdout)
        return run

    @staticmethod
    def _read(run: Run, text: str) -> None:
        # One report a playbook, each with everything before it.
        reports = [line for line in text.splitlines() if line.startswith("{")]
        assert reports, run.output
        report = json.loads(reports[-1])
        for play in report["plays"]:
            for task in play["tasks"]:
                run.results += [(task["task"]["name"], result) for result in task["hosts"].values()]
        run.changed = sum(stats["changed"] for stats in report["stats"].values())


class Api:
    """The cluster, by kubectl."""

    def __init__(self, host) -> None:
        self._host = host

    def kubectl(self, *words: str, stdin: dict | None = None) -> str:
        """Return what kubectl prints."""
        command = [str(STATE / "bin/kubectl"), "--kubeconfig", str(STATE / "kubeconfig"), *words]
        line = shlex.join(command)
        if stdin:
            line = f"{line} <<< {shlex.quote(json.dumps(stdin))}"
        done = self._host.run("bash -c %s", line)
        assert done.rc == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def get(self, kind: str, name: str, namespace: str = "molecule") -> dict:
        """Return one object."""
        return json.loads(self.kubectl("get", "-n", namespace, kind, name, "-o", "json"))

    def apply(self, item: dict, manager: str = "somebody") -> None:
        """Apply ``item`` as somebody else would."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager", manager, "-f", "-", stdin=item)

    def create(self, api_version: str, kind: str, name: str, namespace: str = "molecule", **content: object) -> None:
        """Make an object that is not ours."""
        metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
        self.apply({"apiVersion": api_version, "kind": kind, "metadata": metadata, **content})

    @contextlib.contextmanager
    def watching(self, kind: str, name: str, field: str, namespace: str = "molecule") -> Iterator[list[str]]:
        """Collect what ``field`` (a JSON path) of an object is in every version of it meanwhile; full at the end."""
        command = [str(STATE / "bin/kubectl"), "--kubeconfig", str(STATE / "kubeconfig"), "get", "-n", namespace]
        command += [kind, name, "--watch", "-o", f'jsonpath={{{field}}}{{"\\n"}}']
        found: list[str] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            found.append(process.stdout.readline().strip())
            try:
                yield found
            finally:
                # What was written last is on its way.
                time.sleep(1)
                process.terminate()
                found += process.stdout.read().split()

    def delete(self, *words: str) -> None:
        """Delete what ``words`` name."""
        self.kubectl("delete", "--ignore-not-found", *words)

    def _items(self) -> list[dict]:
        """Return every object of the cluster that does not come and go by itself."""
        kinds = self.kubectl("api-resources", "--verbs", "list", "-o", "name").split()
        kinds = [kind for kind in kinds if not kind.startswith(("events", "componentstatuses"))]
        items = json.loads(self.kubectl("get", "-A", ",".join(kinds), "-o", "json"))["items"]
        return [item for item in items if item["kind"] not in DERIVED]

    def versions(self) -> dict[str, str]:
        """Return the version of each object: another one after any write, whatever it changed."""
        return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in self._items()}

    def objects(self) -> dict[str, str]:
        """Return every object of the cluster, as ``Kind namespace/name``, with its content."""
        items, found = self._items(), {}
        # Tests do not wait until their namespaces are gone.
        going = {
            item["metadata"]["name"]
            for item in items
            if item["kind"] == "Namespace" and "deletionTimestamp" in item["metadata"]
        }
        for item in items:
            metadata = item["metadata"]
            place = metadata["name"] if item["kind"] == "Namespace" else metadata.get("namespace")
            if metadata.get("ownerReferences") or place in going:
                continue
            for key in BOOKKEEPING:
                metadata.pop(key, None)
            item.pop("status", None)
            if item["kind"] == "Node":
                # Controllers taint nodes that nobody heard of.
                item.pop("spec", None)
                metadata["annotations"] = {}
            if "aggregationRule" in item:
                item.pop("rules", None)
            name = f"{item['kind']} {metadata.get('namespace', '')}/{metadata['name']}"
            (metadata.get("annotations") or {}).pop("deployment.kubernetes.io/revision", None)
            found[name] = json.dumps(item, sort_keys=True)
        return found

    def changed_since(self, earlier: dict[str, str]) -> set[str]:
        """Return the names of objects that came, went or are not as they were; short where a dict says too much."""
        later = self.objects()
        return {name for name in earlier.keys() | later.keys() if earlier.get(name) != later.get(name)}


@pytest.fixture(scope="session")
def host():
    """This machine; testinfra's own fixture is of a narrower scope."""
    return testinfra.get_host("local://")


@pytest.fixture(scope="session")
def ansible(host) -> Ansible:
    return Ansible(host)


@pytest.fixture(scope="session")
def api(host) -> Api:
    return Api(host)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster as modules use it, for what a playbook would be a slow way to."""
    # All that the client reads of a module.
    params = {"kubeconfig": f"{STATE}/kubeconfig"}
    return Cluster(SimpleNamespace(params=params, requires=lambda *_names, **_more: None, server_side_dry_run=False))


@pytest.fixture(scope="session")
def before() -> Path:
    """Where the tests of the empty cluster leave the list of its objects."""
    return STATE / "objects-before.json"


@pytest.fixture(scope="module")
def converged(ansible: Ansible, api: Api) -> None:
    """The stack of the inventory, made again where the last module removed it."""
    found = api.kubectl("get", "deployment", "-n", "molecule", "-o", "name")
    if not all(name in found for name in ("first-sglang", "second-vllm")):
        ansible("gateway", "models").ok()


@pytest.fixture(scope="module")
def unchanged(api: Api):
    """Assert that the tests of a module leave every object of the cluster as it was."""
    earlier = api.objects()
    yield
    assert api.changed_since(earlier) == set()
