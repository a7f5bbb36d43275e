"""The embedded cluster: playbooks as a user runs them, what is in the cluster, and clients outside of it."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import ssl
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
STATE = Path("/var/lib/llm-d-embedded")
BIN = Path(sys.executable).parent
#: By stack: what a user gives to ansible-playbook for it.
STACKS = {
    "local": ["-i", "inventories/local", "-e", "inference_engine=sglang"],
    "stand-ins": ["-i", "inventories/local", "-i", "molecule/site/stand_ins"],
    "broken": ["-i", "inventories/local", "-i", "molecule/site/broken"],
    "disaggregated": ["-i", "inventories/local", "-i", "molecule/site/disaggregated"],
    "proxied": ["-i", "inventories/local", "-i", "molecule/site/proxied"],
}
#: Comes and goes without us, or follows from another object.
DERIVED = {"APIService", "ComponentStatus", "EndpointSlice", "Endpoints", "Event", "IPAddress", "Lease", "ServiceCIDR"}
PICKED = "x-went-into-resp-headers"


@dataclass
class Run:
    """What a run of ansible-playbook ended with.

    :ivar output: both streams as they came.
    :ivar results: per task its name and its result, in order.
    """

    rc: int
    output: str
    seconds: float
    results: list[tuple[str, dict]] = field(default_factory=list)

    @property
    def changed(self) -> list[str]:
        """Names of the tasks that changed something."""
        return [name for name, result in self.results if result.get("changed")]

    @property
    def message(self) -> str:
        """What failed, as the user reads it; nothing when nothing did."""
        found: list[dict] = []
        for _name, result in self.results:
            if result.get("failed"):
                # Of a loop, what its items say; which of them failed is not told.
                found += [item for item in result.get("results", []) if "msg" in item] or [result]
        return "\n".join(str(result.get("msg", result)) for result in found)

    def ok(self, changed: bool | None = None) -> Run:
        """Assert that it succeeded, and that it changed something or nothing."""
        assert self.rc == 0, self.message or self.output[-5000:]
        if changed is not None:
            assert bool(self.changed) is changed, self.changed
        return self

    def failed(self) -> str:
        """Assert that it failed, and return the message."""
        assert self.rc == 2, self.output[-5000:]
        assert self.message, self.output[-5000:]
        return self.message


class Ansible:
    """Runs playbooks of the collection."""

    def __init__(self, host) -> None:
        self._host = host

    def __call__(self, stack: str, playbook: str, options: str = "", **variables: object) -> Run:
        """Run ``playbook`` (a name inside the collection) for ``stack``, with ``variables`` on top."""
        words = ["env", "-C", str(ROOT), "ANSIBLE_STDOUT_CALLBACK=ansible.posix.json", "ANSIBLE_JSON_INDENT=0"]
        words += [f"ANSIBLE_CONFIG={ROOT / 'ansible.cfg'}", f"PATH={BIN}:{os.environ['PATH']}"]
        words += [str(BIN / "ansible-playbook"), *STACKS[stack], *options.split()]
        words += ["-e", json.dumps(variables)] if variables else []
        began = time.monotonic()
        done = self._host.run(shlex.join([*words, f"llm_d.multi_engine.{playbook}"]))
        run = Run(done.rc, done.stdout + done.stderr, time.monotonic() - began)
        # One report a playbook, each with everything before it.
        reports = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert reports, run.output
        for play in json.loads(reports[-1])["plays"]:
            for task in play["tasks"]:
                run.results += [(task["task"]["name"], result) for result in task["hosts"].values()]
        return run


class Kube:
    """The cluster, by kubectl."""

    def __init__(self, host) -> None:
        self._host = host

    def __call__(self, *words: str) -> str:
        """Return what kubectl prints."""
        command = [str(STATE / "bin/kubectl"), "--kubeconfig", str(STATE / "kubeconfig"), *words]
        done = self._host.run(shlex.join(command))
        assert done.rc == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def get(self, namespace: str, kind: str, name: str) -> dict:
        """Return one object."""
        return json.loads(self("get", "-n", namespace, kind, name, "-o", "json"))

    def pods(self, namespace: str, **labels: str) -> list[dict]:
        """Return the pods with ``labels`` (``_`` for ``-``, under llm-d.ai) that are not going away."""
        selector = ",".join(f"llm-d.ai/{key.replace('_', '-')}={value}" for key, value in labels.items())
        found = json.loads(self("get", "-n", namespace, "pods", "-l", selector, "-o", "json"))["items"]
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def through(self, pod: dict, path: str, port: int = 8000) -> str:
        """Return what ``pod`` answers to GET ``path``."""
        metadata = pod["metadata"]
        where = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{port}/proxy"
        return self("get", "--raw", f"{where}{path}")

    def objects(self) -> dict[str, str]:
        """Return for each object of the cluster, as ``Kind namespace/name``, what tells one state from another."""
        kinds = self("api-resources", "--verbs", "list", "-o", "name").split()
        kinds = [kind for kind in kinds if not kind.startswith(("events", "componentstatuses"))]
        items = json.loads(self("get", "-A", ",".join(kinds), "-o", "json"))["items"]
        # Deleted namespaces take their time, and that of the broken stack comes and goes meanwhile.
        going = {item["metadata"]["name"] for item in items if item.get("status", {}).get("phase") == "Terminating"}
        going |= {"adopted", "broken", "pairs", "proxied"}
        found = {}
        for item in items:
            metadata = item["metadata"]
            if item["kind"] not in DERIVED and not {metadata["name"], metadata.get("namespace")} & going:
                name = f"{item['kind']} {metadata.get('namespace', '')}/{metadata['name']}"
                found[name] = f"{metadata['uid']} {metadata.get('generation', '')}"
        return found


@dataclass
class Answer:
    """An HTTP answer; ``headers`` by names in lower case.

    :ivar arrivals: when each piece of the body came, in seconds after the request.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    arrivals: list[float]

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def is_complete(self) -> bool:
        """Whether it is a whole completion, also one that came as a stream."""
        if self.status != 200:
            return False
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            # An engine that fails in the middle tells so in the stream, and ends it all the same.
            return self.events[-1:] == ["[DONE]"] and all("choices" in json.loads(event) for event in self.events[:-1])
        return bool(self.json["choices"])

    @property
    def events(self) -> list[str]:
        """The data of server-sent events."""
        return [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]


class Client:
    """Asks one gateway at its own address, a new connection each time, as somebody outside of the cluster does."""

    def __init__(self, address: str, port: int = 80, tls: ssl.SSLContext | None = None) -> None:
        self.address, self._port, self._tls = address, port, tls

    def ask(
        self, path: str, body: dict | None = None, headers: dict[str, str] | None = None, timeout: float = 20
    ) -> Answer:
        """GET ``path``, or POST ``body`` to it."""
        if self._tls:
            connection = http.client.HTTPSConnection(self.address, self._port, timeout=timeout, context=self._tls)
        else:
            connection = http.client.HTTPConnection(self.address, self._port, timeout=timeout)
        start, pieces, arrivals = time.monotonic(), [], []
        try:
            text = json.dumps(body) if body else None
            headers = {"Content-Type": "application/json", **(headers or {})}
            connection.request("POST" if body else "GET", path, text, headers)
            response = connection.getresponse()
            while piece := response.read1():
                pieces.append(piece)
                arrivals.append(time.monotonic() - start)
        finally:
            connection.close()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, b"".join(pieces), arrivals)

    def complete(self, model: str, path: str = "", **more: object) -> Answer:
        """Ask ``model`` for a completion."""
        headers = more.pop("headers", None)
        body = {"model": model, "prompt": "The capital of France is", "max_tokens": 8, **more}
        return self.ask(f"{path}/v1/completions", body, headers)


@dataclass
class Failure:
    """A request without an answer.

    :ivar began: seconds since the first request.
    """

    began: float
    model: str
    said: str


class Traffic:
    """A few requests a second to a gateway, from its start to its end and never longer than ``SECONDS``."""

    SECONDS = 120
    PAUSE = 0.25
    #: More answers than this are enough to see whether a change did harm.
    ENOUGH = 10

    def __init__(self, client: Client, *targets: dict) -> None:
        """:param targets: arguments of :meth:`Client.complete`; each is asked again and again, by itself."""
        self._client, self._stop = client, threading.Event()
        self._threads = [threading.Thread(target=self._loop, args=(target,), daemon=True) for target in targets]
        self._began = time.monotonic()
        self.answered = 0
        self.failures: list[Failure] = []

    def __enter__(self) -> Traffic:  # noqa: PYI034 (typing.Self came with Python 3.11)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        # What a change breaks, it may break a moment later; and a fast one is over before there was enough to see.
        time.sleep(1)
        patience = time.monotonic() + 20
        while self.answered <= self.ENOUGH and time.monotonic() < patience:
            time.sleep(self.PAUSE)
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        alive = [thread.name for thread in self._threads if thread.is_alive()]
        assert not alive
        assert self.seconds() < self.SECONDS, "the requests stopped before what was tested did"

    def _loop(self, target: dict) -> None:
        while not self._stop.wait(self.PAUSE) and self.seconds() < self.SECONDS:
            began = self.seconds()
            try:
                answer = self._client.complete(**target)
                whole = answer.is_complete
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.failures.append(Failure(began, target["model"], repr(error)))
                continue
            if whole:
                self.answered += 1
            else:
                said = f"{answer.status} {answer.body[:200]!r} ... {answer.body[-200:]!r}"
                self.failures.append(Failure(began, target["model"], said))

    def seconds(self) -> float:
        """Seconds since the first request."""
        return time.monotonic() - self._began

    def unharmed(self) -> None:
        """Assert that requests were answered, all of them."""
        assert not self.failures, "\n".join(map(str, self.failures))
        assert self.answered > self.ENOUGH


def eventually(check, seconds: float = 30) -> None:
    """Assert that ``check()`` becomes true in time; its last answer is in the message."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"{check} still says {answer!r} after {seconds} s"
        time.sleep(0.5)


def restart_api_server(host, away: float = 3) -> None:
    """Kill the API server, and start it again after ``away`` seconds."""
    record = STATE / "run/kube-apiserver.json"
    pid = json.loads(record.read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    down = host.run(f"{STATE}/bin/kubectl --kubeconfig {STATE}/kubeconfig get --raw /readyz --request-timeout=2s")
    assert down.rc != 0
    time.sleep(away)
    up = host.run(f"{sys.executable} {ROOT}/tests/cluster up")
    assert up.rc == 0, up.stdout + up.stderr
    assert json.loads(record.read_text())["pid"] != pid


def istiod_values(cpu: str) -> dict:
    """Return the istiod chart's values of the first stack, with another request of ``cpu``."""
    variables = yaml.safe_load((ROOT / "inventories/local/group_vars/all/main.yml").read_text())
    values = variables["istio_gateway_istiod_values"]
    values["pilot"]["resources"]["requests"]["cpu"] = cpu
    return values


def cluster_ip(kube: Kube, namespace: str, service: str) -> str:
    return kube.get(namespace, "service", service)["spec"]["clusterIP"]


@dataclass
class StandIns:
    """The second stack.

    :ivar before: objects of the cluster before it was installed.
    :ivar certificate: the gateway's, self-signed.
    """

    before: dict[str, str]
    certificate: Path
    client: Client
    swift: dict = field(default_factory=lambda: {"model": "birds/swift"})
    robin: dict = field(default_factory=lambda: {"model": "birds/robin", "path": "/robin"})
