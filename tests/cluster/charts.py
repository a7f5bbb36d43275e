"""Charts and CRDs as their projects release them, made from the projects' Go modules.

The modules hold the sources; a release's own build sets version numbers and image tags in them and puts the
CRDs into one file. The same is done here, so that what the cluster gets looks like the released artifacts.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import cache
from build import GAIE_MODULE, module_source
from log import Log
from paths import binary, cache_dir, versions
from shell import ClusterError, output


def make_charts(log: Log) -> Path:
    """The cached directory with `charts/*.tgz` and `manifests/*.yaml`; made when it is missing.

    Needs the binaries helm and kubectl in the cache.
    """
    version = versions()
    istio, gaie, gateway = version["istio"], version["gaie"], version["gateway_api"]
    plugin = version["device_plugin"]
    files = (
        f"charts/base-{istio}.tgz",
        f"charts/istiod-{istio}.tgz",
        f"charts/inferencepool-{gaie}.tgz",
        f"charts/nvidia-device-plugin-{plugin}.tgz",
        f"manifests/gateway-api-{gateway}.yaml",
        f"manifests/gaie-{gaie}.yaml",
    )
    directory = cache_dir() / f"artifacts-istio-{istio}-gaie-{gaie}-gateway-api-{gateway}-device-plugin-{plugin}"
    with log.step("charts and CRDs") as step:
        if cache.ensure(directory, f"{version['istio_module']} 1", files, _make):
            step.cached(str(directory))
    return directory


def _make(directory: Path) -> None:
    (directory / "charts").mkdir()
    (directory / "manifests").mkdir()
    _istio_charts(directory / "charts")
    _inference_pool_chart(directory / "charts")
    _device_plugin_chart(directory / "charts")
    _gateway_api_manifest(directory / "manifests" / f"gateway-api-{versions()['gateway_api']}.yaml")
    _gaie_manifest(directory / "manifests" / f"gaie-{versions()['gaie']}.yaml")


def _istio_charts(target: Path) -> None:
    version = versions()["istio"]
    source = module_source("istio.io/istio", versions()["istio_module"]) / "manifests" / "charts"
    with cache.scratch("istio-charts") as workshop:
        base = _copy(source / "base", workshop / "base")
        istiod = _copy(source / "istio-control" / "istio-discovery", workshop / "istiod")
        values = istiod / "values.yaml"
        text = values.read_text(encoding="utf-8")
        text = _replace_once(text, "hub: gcr.io/istio-testing", "hub: docker.io/istio", values)
        text = _replace_once(text, "tag: latest", f"tag: {version}", values)
        values.write_text(text, encoding="utf-8")
        for chart in (base, istiod):
            _package(chart, version, target)


def _inference_pool_chart(target: Path) -> None:
    version = versions()["gaie"]
    source = module_source(GAIE_MODULE, f"v{version}") / "config" / "charts"
    with cache.scratch("gaie-charts") as workshop:
        _copy(source / "epplib", workshop / "epplib")
        chart = _copy(source / "inferencepool", workshop / "inferencepool")
        output([binary("helm", "helm"), "dependency", "update", chart], env=_no_repositories(workshop))
        # Upstream gives the chart the tag's name, with the letter; file names here go without it.
        _package(chart, f"v{version}", target)
        (target / f"inferencepool-v{version}.tgz").rename(target / f"inferencepool-{version}.tgz")


def _device_plugin_chart(target: Path) -> None:
    version = versions()["device_plugin"]
    source = module_source("github.com/NVIDIA/k8s-device-plugin", f"v{version}")
    with cache.scratch("device-plugin-chart") as workshop:
        # What it depends on is in the module, too.
        name = "nvidia-device-plugin"
        _package(_copy(source / "deployments" / "helm" / name, workshop / name), version, target)


def _package(chart: Path, version: str, target: Path) -> None:
    output([binary("helm", "helm"), "package", chart, "--version", version, "--app-version", version, "-d", target])


def _no_repositories(directory: Path) -> dict[str, str]:
    """An environment in which Helm knows no repository of the user's, and asks none."""
    return {"HELM_REPOSITORY_CONFIG": str(directory / "none.yaml"), "HELM_REPOSITORY_CACHE": str(directory / "none")}


def _gateway_api_manifest(target: Path) -> None:
    """Write what Gateway API's `hack/build-install-yaml.sh` writes as standard-install.yaml."""
    source = module_source("sigs.k8s.io/gateway-api", f"v{versions()['gateway_api']}")
    parts = [
        (source / "hack" / "boilerplate" / "boilerplate.sh.txt").read_text(encoding="utf-8"),
        "#\n# Gateway API Standard channel install\n#\n",
    ]
    for path in sorted((source / "config" / "crd" / "standard").glob("gateway*.yaml")):
        parts.append(f"---\n#\n# config/crd/standard/{path.name}\n#\n{path.read_text(encoding='utf-8')}")
    target.write_text("".join(parts), encoding="utf-8")


def _gaie_manifest(target: Path) -> None:
    """Write what GAIE's `make artifacts` writes as manifests.yaml: the v1 CRD and the experimental ones."""
    source = module_source(GAIE_MODULE, f"v{versions()['gaie']}") / "config" / "crd"
    target.write_text(output([binary("kubectl", "kubectl"), "kustomize", source]), encoding="utf-8")


def _copy(source: Path, target: Path) -> Path:
    """Copy a directory out of Go's module cache, where everything is read-only, and make it writable."""
    shutil.copytree(source, target)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def _replace_once(text: str, old: str, new: str, path: Path) -> str:
    if text.count(old) != 1:
        raise ClusterError(f"{path.name}: expected '{old}' once, found it {text.count(old)} times")
    return text.replace(old, new)
