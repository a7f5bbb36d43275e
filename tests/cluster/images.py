"""The cluster's container images, made on this machine under the names that production manifests use.

No registry is asked: every image is put together from binaries in the cache, from Debian packages and from
Python wheels, and written as an archive `<cache>/images/<name>-<key>.tar` for `ctr -n k8s.io images import`.
The key covers everything the image is made of, so an archive that is there is the right one.

`imagePullPolicy: Always` cannot work with such images; `IfNotPresent` with a fixed tag does.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import image_debian
import image_sglang
import oci
from build import GO_ENVIRONMENT, go_binary, module_source
from cache import lock, scratch
from image_debian import SITE_PACKAGES, console_script, debian
from log import Log, Step
from model import install_model
from oci import Entry, FilesLayer, Image, write_image
from paths import HERE
from shell import ClusterError, output

__all__ = ["IMAGES", "build_images", "install_model"]

THIS = Path(__file__)

SOURCES = HERE / "images"
"""The sources of what is in no package: one directory an image."""

FLAG_LISTS = HERE.parent / "unit" / "data" / "flags"
"""The engines' flags, by engine and version; the stand-ins are as strict as these."""


@dataclass(frozen=True)
class Recipe:
    """How one image comes to be.

    `inputs` are the files and texts that decide the result. `make` gets a scratch directory and returns
    the image, which is written before the directory goes.
    """

    name: str
    """The full image name, with its tag."""

    inputs: tuple[Path | str, ...]
    make: Callable[[Path, Step], Image]

    def missing(self) -> list[Path]:
        """The input files that are not there."""
        return [path for path in self.inputs if isinstance(path, Path) and not path.exists()]

    def key(self) -> str:
        """A short digest of the name, the inputs and the way archives are written."""
        digest = hashlib.sha256(self.name.encode())
        for part in (*self.inputs, oci.REVISION):
            digest.update(part.encode() if isinstance(part, str) else _fingerprint(part))
        return digest.hexdigest()[:12]


def build_images(names: Iterable[str] | None, cache: Path, versions: Mapping[str, str], log: Log) -> list[Path]:
    """Build the images `names` (None: all of IMAGES) that the cache does not have.

    Returns the archives in the order of `names`. Raises ClusterError for an unknown name, and for an image
    whose binaries have not been built.
    """
    wanted = list(IMAGES) if names is None else list(names)
    unknown = [name for name in wanted if name not in IMAGES]
    if unknown:
        raise ClusterError(f"no such image: {', '.join(unknown)}; there are: {', '.join(IMAGES)}")
    recipes = {name: IMAGES[name](cache, versions) for name in wanted}
    for recipe in recipes.values():
        if missing := recipe.missing():
            listed = ", ".join(str(path) for path in missing)
            raise ClusterError(f"image {recipe.name} needs files that are not there (build them first): {listed}")
    return [_build_one(name, recipe, cache, log) for name, recipe in recipes.items()]


def _build_one(short: str, recipe: Recipe, cache: Path, log: Log) -> Path:
    archive = cache / "images" / f"{short}-{recipe.key()}.tar"
    with log.step(f"image {recipe.name}") as step, lock(f"image-{short}"):
        if archive.exists():
            step.cached(str(archive))
            return archive
        with scratch(f"image-{short}") as workshop:
            size = write_image(recipe.make(workshop, step), archive)
        _remove_older(archive, short)
        step.note(f"{size / 1e6:.0f} MB in {archive}")
    return archive


def _remove_older(archive: Path, short: str) -> None:
    """Remove the archives that `archive` replaces: the big ones would fill the disk."""
    for other in archive.parent.glob(f"{short}-*.tar"):
        if other != archive and re.fullmatch(rf"{re.escape(short)}-[0-9a-f]{{12}}\.tar", other.name):
            other.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------
# The images


NONROOT = "65532:65532"
"""The user that the images without a distribution run as, as in the upstream ones."""

STATIC_ROOT = {
    "etc/passwd": Entry(
        b"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
    ),
    "etc/group": Entry(b"root:x:0:\nnonroot:x:65532:\n"),
}
"""The files that a static binary may look for."""


def _static_binary(name: str, binary: Path, target: str, user: str) -> Recipe:
    """An image of one static binary at `target`."""

    def make(_workshop: Path, _step: Step) -> Image:
        layer = FilesLayer({**STATIC_ROOT, target: Entry(binary, 0o755)}, {"tmp": 0o1777})
        return Image(name, [layer], entrypoint=[target], user=user, workdir="/")

    return Recipe(name, (THIS, binary), make)


def _pause(_cache: Path, versions: Mapping[str, str]) -> Recipe:
    name = f"registry.k8s.io/pause:{versions['pause']}"
    source = SOURCES / "pause" / "main.go"

    def make(workshop: Path, _step: Step) -> Image:
        binary = workshop / "pause"
        output([go_binary(), "build", "-trimpath", "-ldflags=-s -w", "-o", binary, source], env=GO_ENVIRONMENT)
        layer = FilesLayer({"pause": Entry(binary, 0o755)})
        return Image(name, [layer], entrypoint=["/pause"], user="65535:65535")

    return Recipe(name, (THIS, source), make)


def _pilot(cache: Path, versions: Mapping[str, str]) -> Recipe:
    name = f"docker.io/istio/pilot:{versions['istio']}"
    binary = cache / "bin" / f"istio-{versions['istio']}" / "pilot-discovery"
    target = "/usr/local/bin/pilot-discovery"

    def make(_workshop: Path, step: Step) -> Image:
        layers = [debian(cache, step), FilesLayer({target: Entry(binary, 0o755)})]
        return Image(name, layers, entrypoint=[target], user="1337:1337")

    return Recipe(name, (THIS, binary, image_debian.RECIPE), make)


def _proxy(cache: Path, versions: Mapping[str, str]) -> Recipe:
    """Istio's proxy, on a stock Envoy: Istio's own build of it comes from no package registry."""
    name = f"docker.io/istio/proxyv2:{versions['istio']}"
    agent = cache / "bin" / f"istio-{versions['istio']}" / "pilot-agent"
    envoy = cache / "bin" / f"envoy-{versions['envoy']}" / "envoy"

    def make(_workshop: Path, step: Step) -> Image:
        istio = module_source("istio.io/istio", versions["istio_module"])
        files = {
            "/usr/local/bin/pilot-agent": Entry(agent, 0o755),
            "/usr/local/bin/envoy": Entry(envoy, 0o755),
            "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": Entry(
                istio / "tools" / "packaging" / "common" / "envoy_bootstrap.json", 0o644
            ),
        }
        return Image(
            name,
            [debian(cache, step), FilesLayer(files)],
            entrypoint=["/usr/local/bin/pilot-agent"],
            env={"ISTIO_META_ISTIO_PROXY_SHA": f"envoy-{versions['envoy']}"},
            workdir="/",
        )

    return Recipe(name, (THIS, agent, envoy, versions["istio_module"], image_debian.RECIPE), make)


STAND_IN_VERSION = {"sglang": "0.5.23", "vllm": "0.32.0"}
"""The engine version whose flags a stand-in takes."""


def _stand_in(engine: str, cache: Path) -> Recipe:
    """An engine without a model: its command line, its HTTP interface, its way to start and to stop."""
    name = f"localhost/llm-d-multi-engine/stand-in-{engine}:1"
    source = SOURCES / "stand_in"
    flags = FLAG_LISTS / f"{engine}-{STAND_IN_VERSION[engine]}.json"

    def make(_workshop: Path, step: Step) -> Image:
        files = {
            f"{SITE_PACKAGES}/{path.relative_to(source).as_posix()}": Entry(path, 0o644)
            for path in _tree(source)
            if path.relative_to(source).parts[0] in ("stand_in", engine)
        }
        files[f"{SITE_PACKAGES}/stand_in/{engine}.json"] = Entry(flags, 0o644)
        if engine == "vllm":
            files["usr/local/bin/vllm"] = Entry(console_script("vllm.entrypoints.cli.main"), 0o755)
        # As upstream: vLLM's image runs `vllm serve` with what it is given, SGLang's has no command of its own.
        entrypoint = ["vllm", "serve"] if engine == "vllm" else []
        return Image(name, [debian(cache, step), FilesLayer(files)], entrypoint=entrypoint)

    return Recipe(name, (THIS, source, flags, image_debian.RECIPE), make)


def _stand_in_sglang(cache: Path, _versions: Mapping[str, str]) -> Recipe:
    return _stand_in("sglang", cache)


def _stand_in_vllm(cache: Path, _versions: Mapping[str, str]) -> Recipe:
    return _stand_in("vllm", cache)


def _sglang(cache: Path, _versions: Mapping[str, str]) -> Recipe:
    """A real SGLang server, on the CPU.

    It has the name of upstream's image for CPUs, so that production manifests need no change.
    """
    name = f"docker.io/lmsysorg/sglang:v{image_sglang.version()}-xeon"

    def make(workshop: Path, step: Step) -> Image:
        return image_sglang.make(name, debian(cache, step), cache, workshop, step)

    return Recipe(name, (image_sglang.RECIPE, image_sglang.SOURCES, image_debian.RECIPE), make)


# --------------------------------------------------------------------------------------------------
# The table


def _coredns(cache: Path, versions: Mapping[str, str]) -> Recipe:
    # As root, unlike upstream's: an unprivileged user would need a file capability for port 53.
    binary = cache / "bin" / f"coredns-{versions['coredns']}" / "coredns"
    return _static_binary(f"registry.k8s.io/coredns/coredns:v{versions['coredns']}", binary, "/coredns", user="")


def _gaie(program: str, cache: Path, versions: Mapping[str, str]) -> Recipe:
    name = f"registry.k8s.io/gateway-api-inference-extension/{program}:v{versions['gaie']}"
    return _static_binary(name, cache / "bin" / f"gaie-{versions['gaie']}" / program, f"/{program}", NONROOT)


def _epp(cache: Path, versions: Mapping[str, str]) -> Recipe:
    return _gaie("epp", cache, versions)


def _bbr(cache: Path, versions: Mapping[str, str]) -> Recipe:
    return _gaie("bbr", cache, versions)


def _routing_sidecar(cache: Path, versions: Mapping[str, str]) -> Recipe:
    version = versions["routing_proxy"]
    name = f"ghcr.io/llm-d/llm-d-routing-sidecar:v{version}"
    return _static_binary(name, cache / "bin" / f"routing_proxy-{version}" / "pd-sidecar", "/app/pd-sidecar", NONROOT)


def _llm_d_picker(cache: Path, versions: Mapping[str, str]) -> Recipe:
    version = versions["llm_d_picker"]
    name = f"ghcr.io/llm-d/llm-d-inference-scheduler:v{version}"
    return _static_binary(name, cache / "bin" / f"llm_d_picker-{version}" / "epp", "/app/epp", NONROOT)


IMAGES: dict[str, Callable[[Path, Mapping[str, str]], Recipe]] = {
    "pause": _pause,
    "coredns": _coredns,
    "epp": _epp,
    "bbr": _bbr,
    "routing-sidecar": _routing_sidecar,
    "llm-d-picker": _llm_d_picker,
    "pilot": _pilot,
    "proxyv2": _proxy,
    "stand-in-sglang": _stand_in_sglang,
    "stand-in-vllm": _stand_in_vllm,
    "sglang": _sglang,
}
"""All images by their short names. Given the cache and the versions, each function tells how to make its image."""


# --------------------------------------------------------------------------------------------------
# Small things


def _tree(directory: Path) -> list[Path]:
    """The files below `directory`, without what Python compiled there."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _fingerprint(path: Path) -> bytes:
    """What tells one state of an input file or directory from another.

    Binaries are told by size and date: reading them all at each start would take seconds.
    """
    if path.is_dir():
        return b"".join(f"{below.relative_to(path)}\0".encode() + below.read_bytes() for below in _tree(path))
    status = path.stat()
    if status.st_size > 1 << 20:
        return f"{status.st_size} {status.st_mtime_ns}".encode()
    return path.read_bytes()


def main() -> None:
    """Build the images named on the command line (none: all), for work on this module."""
    from paths import cache_dir, versions

    names = sys.argv[1:] or None
    try:
        for path in build_images(names, cache_dir(), versions(), Log()):
            print(path)
    except ClusterError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    os.umask(0o022)
    main()
