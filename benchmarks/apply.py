#!/usr/bin/env python3
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What it costs to bring 1, 10 and 100 models into a cluster, next to helm and kubectl.

    .venv/bin/python benchmarks/apply.py --kubeconfig /var/lib/llm-d-embedded-api/kubeconfig [--models 1 100] [--scope gaie]

Each tool does the same three things: a first apply into an empty namespace, a run that changes nothing, and one after
one model's port has changed. It is always given all models, as automation does that does not know what changed.

* ours: ``ansible-playbook llm_d.multi_engine.models``, composing included; ``check`` is the same with --check --diff.
  Scope ``gaie`` is the endpoint pickers, pools and routes (--tags gaie), ``whole`` the model servers too.
* helm: ``helm upgrade --install`` of upstream's inferencepool chart, once a model. It makes what scope ``gaie`` is.
* kubectl: ``kubectl apply --server-side`` of the files that playbook ``render`` wrote before; ``diff`` is ``kubectl
  diff`` of them. Rendering is not counted. Another kubectl in PATH is measured, too: clients before 1.34 or so send
  50 requests a second at most.
* floor: ``ansible-playbook`` of a play without tasks, and of one with one module that does nothing. No playbook is
  faster than that.

Nothing waits until anything is ready. Seconds are by the clock, and of processor time (of the clients, not of the API
server, whose own is in a table of its own: no client is faster than that). Requests are counted by the API server (GET includes discovery), without those of controllers; ``calls`` is
what our modules say themselves. All figures are of one run on one machine, side by side: compare ratios.

It wants an API server with a controller manager, such as ``tests/cluster up --api-only`` starts; nodes are not needed.
What is not given is looked for beside the kubeconfig, where that command puts it: bin/helm, bin/kubectl,
charts/inferencepool-*.tgz, charts/base-*.tgz and manifests/*.yaml. Definitions that are missing in the cluster are
made, and removed in the end unless something uses them by then; so are the namespaces.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from figures import Figure, requests, server_seconds
from measure import ROOT, Seconds, play, processor, timed
from report import CHECK, HELM, OURS, PHASES, SCOPES, report

MODELS = (1, 10, 100)
#: Of the release below, with whose chart it is compared.
RELEASE = "gaie-1.5"
OTHER_PORT = 8001
#: Plays that do nothing, by what they are called.
FLOORS: dict[str, list[dict]] = {"no task": [], "one module": [{"ansible.builtin.ping": {}}]}


@dataclass(frozen=True)
class Setup:
    """The programs and files that take part.

    :ivar definitions: files with CustomResourceDefinitions that the objects need.
    :ivar base_chart: Istio's chart of definitions.
    :ivar helm_jobs: helm's runs at the same time.
    :ivar kubectls: what is measured, by its name in tables.
    """

    kubeconfig: Path
    helm: Path
    kubectl: Path
    chart: Path
    base_chart: Path
    definitions: tuple[Path, ...]
    prefix: str
    helm_jobs: int
    kubectls: dict[str, Path]

    def namespace(self, name: str) -> str:
        """Return the namespace of one tool and scope."""
        return f"{self.prefix}-{name}"

    def ask(self, *words: str | Path, given: str | None = None) -> str:
        """Return what kubectl answers, untimed."""
        command = [self.kubectl, "--kubeconfig", self.kubeconfig, *words]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"kubectl {' '.join(map(str, words))} failed:\n{done.stderr}")
        return done.stdout

    def counted(self) -> tuple[Counter[str], float]:
        """Return the requests that the API server has counted so far, and its seconds of processor time."""
        metrics = self.ask("get", "--raw", "/metrics")
        return requests(metrics), server_seconds(metrics)


@contextmanager
def definitions(setup: Setup) -> Iterator[None]:
    """Have the definitions that the objects need in the cluster, as before in the end."""
    rendered = subprocess.run(
        [setup.helm, "template", "istio-base", setup.base_chart], capture_output=True, text=True, check=True
    ).stdout
    documents = [item for text in (rendered, *(path.read_text() for path in setup.definitions)) for item in load(text)]
    there = set(setup.ask("get", "customresourcedefinitions", "-o", "name").split())
    missing = {
        item["metadata"]["name"]: item
        for item in documents
        if item["kind"] == "CustomResourceDefinition"
        and f"customresourcedefinition.apiextensions.k8s.io/{item['metadata']['name']}" not in there
    }
    if missing:
        setup.ask("create", "-f", "-", given=yaml.safe_dump_all(missing.values()))
        setup.ask("wait", "--for=condition=established", "--timeout=60s", "crd", *missing)
    try:
        yield
    finally:
        unused = [name for name in missing if not setup.ask("get", name, "-A", "-o", "name").strip()]
        if unused:
            setup.ask("delete", "crd", *unused)


def load(text: str) -> list[dict]:
    """Return the objects in a YAML text."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [item for item in yaml.load_all(text, Loader=loader) if item]


@contextmanager
def namespaces(setup: Setup, *names: str) -> Iterator[None]:
    """Have empty namespaces, which are removed in the end."""
    full = [setup.namespace(name) for name in names]

    def remove() -> None:
        setup.ask("delete", "namespace", "--ignore-not-found", "--timeout=600s", *full)

    remove()
    try:
        yield
    finally:
        remove()


def settle(setup: Setup, patience: float = 120) -> None:
    """Wait until controllers have dealt with what was applied, for they use the same processors."""
    deadline, before = time.monotonic() + patience, -1
    while time.monotonic() < deadline:
        now = len(setup.ask("get", "replicasets,pods", "-A", "-o", "name").split())
        if now == before:
            return
        before = now
        time.sleep(2)


class Run:
    """Measures the tools for one number of models.

    :ivar figures: what was measured; it adds to them.
    :ivar calls: what our modules say that they sent, by scope and phase; those of the last run stay.
    """

    def __init__(
        self,
        setup: Setup,
        count: int,
        folder: Path,
        figures: list[Figure],
        calls: dict[tuple[str, str], Counter[str]],
    ) -> None:
        self.figures, self.calls = figures, calls
        self._setup, self._count, self._folder = setup, count, folder

    def all(self, scopes: Sequence[str]) -> None:
        """Measure everything in ``scopes``."""
        for scope in scopes:
            with namespaces(self._setup, f"ours-{scope}"):
                self._ours(scope)
            for tool in self._setup.kubectls:
                with namespaces(self._setup, place(tool, scope)):
                    self._kubectl(tool, scope)
        if "gaie" in scopes:
            with namespaces(self._setup, HELM):
                self._helm()

    def _ours(self, scope: str) -> None:
        for phase in PHASES:
            words = [str(ROOT / "playbooks/models.yml"), *self._words(f"ours-{scope}", phase)]
            words += ["--tags", "gaie"] if scope == "gaie" else []
            self._measure(CHECK, scope, phase, play, *words, "--check", "--diff")
            self.calls[scope, phase] = calls(self._measure(OURS, scope, phase, play, *words))

    def _helm(self) -> None:
        setup, namespace = self._setup, self._setup.namespace(HELM)
        setup.ask("create", "namespace", namespace)
        for phase in PHASES:
            commands = []
            for model in inventory(self._count, phase):
                values = self._folder / f"{model['name']}.values.yml"
                values.write_text(yaml.safe_dump(chart_values(model)), encoding="utf-8")
                words = [setup.helm, "upgrade", "--install", model["name"], setup.chart, "--values", values]
                commands.append([*words, "--namespace", namespace, "--kubeconfig", setup.kubeconfig])
            self._measure(HELM, "gaie", phase, all_timed, commands, setup.helm_jobs)

    def _kubectl(self, tool: str, scope: str) -> None:
        name = place(tool, scope)
        self._setup.ask("create", "namespace", self._setup.namespace(name))
        kubectl = [self._setup.kubectls[tool], "--kubeconfig", self._setup.kubeconfig]
        for phase in PHASES:
            folder = self._folder / name / phase.replace(" ", "-")
            play(str(ROOT / "playbooks/render.yml"), *self._words(name, phase), "-e", f"render_dir={folder}")
            roles = ["gaie"] if scope == "gaie" else ["gaie", "model_service"]
            files = ["--server-side", *(word for role in roles for word in ("-f", folder / role))]
            # 1 says that there are differences.
            self._measure(f"{tool} diff", scope, phase, timed, [*kubectl, "diff", *files], accepted=(0, 1))
            self._measure(f"{tool} apply", scope, phase, timed, [*kubectl, "apply", *files])

    def _words(self, name: str, phase: str) -> list[str]:
        """Return arguments of ansible-playbook, with an inventory of the models."""
        settings = {
            "ansible_connection": "local",
            "inference_engine": "vllm",
            "llm_d_accelerator": "cpu",
            "llm_d_kubeconfig": str(self._setup.kubeconfig),
            "llm_d_models": inventory(self._count, phase),
            "llm_d_namespace": self._setup.namespace(name),
            "llm_d_release": RELEASE,
            "gaie_crds": "existing",
            "gaie_wait": False,
            "model_service_wait": False,
        }
        path = self._folder / f"{name}-{phase.replace(' ', '-')}.yml"
        path.write_text(yaml.safe_dump({"all": {"hosts": {"localhost": settings}}}), encoding="utf-8")
        return ["-i", str(path)]

    def _measure(self, tool: str, scope: str, phase: str, function: Callable, *words: Any, **options: Any) -> Any:
        """Call a function that tells how long it took and what came of it; keep the former, return the latter."""
        settle(self._setup)
        before, server = self._setup.counted()
        seconds, answer = function(*words, **options)
        after, server_after = self._setup.counted()
        cost = float(seconds), seconds.processor, after - before, server_after - server
        self.figures.append(Figure(tool, scope, phase, self._count, *cost))
        name = f"{self._count} models, {scope}: {tool}, {phase}"
        print(f"  {name:50}{seconds:7.1f} s   processor {seconds.processor:6.1f} s", flush=True)
        return answer


def place(tool: str, scope: str) -> str:
    """Return the name of the namespace that a kubectl works in."""
    return f"{tool}-{scope}".replace(" ", "-").replace(".", "-")


def floors(folder: Path) -> dict[str, Seconds]:
    """Return what plays that do nothing cost."""
    found = {}
    for name, tasks in FLOORS.items():
        plays = [
            {
                "hosts": "localhost",
                "connection": "local",
                "gather_facts": False,
                "vars": {"ansible_python_interpreter": sys.executable},
                "tasks": tasks,
            }
        ]
        path = folder / "floor.yml"
        path.write_text(yaml.safe_dump(plays), encoding="utf-8")
        found[name] = min((play(str(path))[0] for _time in range(3)), key=float)
    return found


def all_timed(commands: list, jobs: int) -> tuple[Seconds, None]:
    """Run commands, so many at the same time; return the seconds that all of them took together."""
    start, used = time.monotonic(), processor()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(timed, commands))
    seconds = Seconds(time.monotonic() - start)
    seconds.processor = processor() - used
    return seconds, None


def inventory(count: int, phase: str) -> list[dict]:
    """Return so many models; in the last phase the first one has another port."""
    models = [
        {"name": f"model-{index}", "source": f"hf://example/model-{index}", "replicas": 2, "context_length": 32768}
        for index in range(count)
    ]
    if phase == "one change":
        models[0]["port"] = OTHER_PORT
    return models


def chart_values(model: dict) -> dict:
    """Return values of upstream's chart for what the role makes of ``model``."""
    pool: dict = {"modelServerType": "vllm", "modelServers": {"matchLabels": {"app": model["name"]}}}
    if "port" in model:
        pool["targetPorts"] = [{"number": model["port"]}]
    return {
        "inferencePool": pool,
        "provider": {"name": "istio"},
        "experimentalHttpRoute": {"enabled": True, "inferenceGatewayName": "llm-d-inference-gateway"},
    }


def calls(result: dict) -> Counter[str]:
    """Return the requests that our modules say they sent, by verb."""
    found: Counter[str] = Counter()
    for one in result["plays"]:
        for task in one["tasks"]:
            for host in task["hosts"].values():
                found.update(host.get("calls") or {})
    return found


def setup_of(options: argparse.Namespace) -> Setup:
    """Return the programs and files, those that were not given from beside the kubeconfig."""
    home = options.kubeconfig.resolve().parent

    def found(given: Path | None, pattern: str, option: str) -> Path:
        paths = [given] if given else sorted(home.glob(pattern))
        if not paths or not paths[-1].exists():
            sys.exit(f"{option}: there is no {paths[-1] if paths else home / pattern}. Say where it is by {option}.")
        return paths[-1].resolve()

    kubectl = found(options.kubectl, "bin/kubectl", "--kubectl")
    manifests = options.definitions or sorted(home.glob("manifests/*.yaml"))
    return Setup(
        kubeconfig=options.kubeconfig.resolve(),
        helm=found(options.helm, "bin/helm", "--helm"),
        kubectl=kubectl,
        chart=found(options.chart, "charts/inferencepool-*.tgz", "--chart"),
        base_chart=found(options.base_chart, "charts/base-*.tgz", "--base-chart"),
        definitions=tuple(path.resolve() for path in manifests),
        prefix=options.prefix,
        helm_jobs=options.helm_jobs,
        kubectls=kubectls(kubectl, shutil.which("kubectl")),
    )


def kubectls(given: Path, other: str | None) -> dict[str, Path]:
    """Return the programs to measure by name; ``other`` only if it is of another version."""
    versions = {path: kubectl_version(path) for path in (given, *([Path(other)] if other else []))}
    return {f"kubectl {version}": path for path, version in reversed(versions.items())}


def kubectl_version(path: Path) -> str:
    """Return a kubectl's version, such as ``1.37``."""
    done = subprocess.run([path, "version", "--client", "-o", "json"], capture_output=True, text=True, check=True)
    return ".".join(json.loads(done.stdout)["clientVersion"]["gitVersion"].lstrip("v").split(".")[:2])


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    what, _blank, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=what, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kubeconfig", type=Path, required=True, help="of the API server")
    parser.add_argument("--models", type=int, nargs="+", default=MODELS, help="numbers of models (%(default)s)")
    parser.add_argument("--scope", choices=SCOPES, action="append", help="only these objects; can be repeated")
    parser.add_argument("--prefix", default="apply-benchmark", help="of the namespaces; they are emptied (%(default)s)")
    parser.add_argument("--helm", type=Path, help="Helm's program, version 3 or 4")
    parser.add_argument("--helm-jobs", type=int, default=1, help="Helm's runs at the same time (%(default)s)")
    parser.add_argument("--kubectl", type=Path, help="kubectl's program")
    parser.add_argument("--chart", type=Path, help="upstream's chart inferencepool")
    parser.add_argument("--base-chart", type=Path, help="Istio's chart base")
    parser.add_argument("--definitions", type=Path, action="append", help="file with definitions; can be repeated")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    setup = setup_of(options)
    figures: list[Figure] = []
    said: dict[tuple[str, str], Counter[str]] = {}
    floor: dict[str, Seconds] = {}
    try:
        with definitions(setup), tempfile.TemporaryDirectory() as folder:
            floor.update(floors(Path(folder)))
            for count in options.models:
                mine = Path(folder, str(count))
                mine.mkdir()
                Run(setup, count, mine, figures, said).all(options.scope or SCOPES)
    finally:
        # Also of a run that was interrupted.
        print(report(figures, said, floor))


if __name__ == "__main__":
    main()
