"""The containers of a node: loading images into its containerd, and ending everything that it runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tarfile
import time
from pathlib import Path

from daemon import start_time
from host import cgroup_processes
from instance import Instance
from log import Log
from shell import ClusterError, output, succeeds

NAMESPACE = "k8s.io"
"""The containerd namespace in which the kubelet's images and containers live."""


def _ctr(instance: Instance, *arguments: str | Path) -> list[str | Path]:
    return ["ctr", "--address", instance.containerd_socket, "--namespace", NAMESPACE, *arguments]


def responds(instance: Instance) -> bool:
    """Whether containerd answers."""
    return instance.containerd_socket.exists() and succeeds(_ctr(instance, "version"))


# --------------------------------------------------------------------------------------------------
# Images


def images(instance: Instance) -> dict[str, tuple[str, str]]:
    """Every image name in containerd: its manifest's digest and its size as text."""
    return {name: image for name, image in _all_images(instance).items() if not name.startswith(UNNAMED)}


UNNAMED = "sha256:"
"""How the second name begins that the kubelet's side of containerd gives to every image, after its configuration."""


def _all_images(instance: Instance) -> dict[str, tuple[str, str]]:
    """As `images`, with the unnamed ones."""
    rows = (line.split() for line in output(_ctr(instance, "images", "list")).splitlines()[1:])
    return {words[0]: (words[2], " ".join(words[3:5])) for words in rows}


def replaced(names: dict[str, tuple[str, str]]) -> list[str]:
    """Of all image names, those that hold on to an image whose proper name means another image by now."""
    in_use = {digest for name, (digest, _size) in names.items() if not name.startswith(UNNAMED)}
    return [name for name, (digest, _size) in names.items() if name.startswith(UNNAMED) and digest not in in_use]


def load(instance: Instance, tars: list[Path], log: Log) -> None:
    """Import image archives; those whose every image is there already are skipped.

    Raises ClusterError for a file that is not an image archive, or that containerd refuses.
    """
    for tar in tars:
        contents = archive_contents(tar)
        with log.step(f"load {', '.join(_short(name) for name in contents) or tar.name}") as step:
            present = images(instance)
            if contents and all(_is_present(instance, present, *wanted) for wanted in contents.items()):
                step.cached(", ".join(digest[:19] for digest in contents.values()))
                continue
            output(_ctr(instance, "images", "import", tar))
            step.note(tar.name)
    # The kubelet collects no images here, and a few rebuilt ones of several GB fill a disk.
    if old := replaced(_all_images(instance)):
        with log.step(f"remove {len(old)} replaced images"):
            output(_ctr(instance, "images", "remove", "--sync", *old))


def archive_contents(tar: Path) -> dict[str, str]:
    """The full image names in an OCI or docker archive, and the digest that identifies each.

    That is the digest of the manifest (OCI) or of the configuration (docker, which has no manifest inside).
    """
    try:
        with tarfile.open(tar) as archive:
            index = _json_member(archive, "index.json")
            if index is not None:
                return _oci_contents(index)
            manifest = _json_member(archive, "manifest.json")
    except (OSError, tarfile.TarError, ValueError) as error:
        raise ClusterError(f"{tar} is not an image archive: {error}") from error
    if manifest is None:
        raise ClusterError(f"{tar} is not an image archive: neither index.json nor manifest.json is in it")
    return {full_name(tag): _config_digest(entry) for entry in manifest for tag in entry.get("RepoTags") or []}


def _json_member(archive: tarfile.TarFile, name: str):
    try:
        member = archive.extractfile(name)
    except KeyError:
        return None
    return json.load(member) if member else None


def _oci_contents(index: dict) -> dict[str, str]:
    names = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
    found = {}
    for manifest in index["manifests"]:
        annotations = manifest.get("annotations") or {}
        name = next((annotations[key] for key in names if key in annotations), "")
        if name:
            found[full_name(name)] = manifest["digest"]
    return found


def _config_digest(entry: dict) -> str:
    """The digest in a docker manifest entry: its configuration is `<hex>.json` or `blobs/sha256/<hex>`."""
    return "sha256:" + Path(entry["Config"]).name.removesuffix(".json")


def full_name(name: str) -> str:
    """An image name as containerd keeps it: with its registry."""
    first, slash, _rest = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    return name if "." in first or ":" in first or first == "localhost" else f"docker.io/{name}"


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _is_present(instance: Instance, present: dict[str, tuple[str, str]], name: str, digest: str) -> bool:
    """Whether the image `name` is there with this manifest or configuration digest."""
    if name not in present:
        return False
    manifest_digest = present[name][0]
    if manifest_digest == digest:
        return True
    try:
        manifest = json.loads(output(_ctr(instance, "content", "get", manifest_digest)))
    except (ClusterError, ValueError):
        return False
    return manifest.get("config", {}).get("digest") == digest


# --------------------------------------------------------------------------------------------------
# Ending them


def kill_all(instance: Instance) -> None:
    """End every container of the node, and containerd's shims, at once.

    containerd need not run: the shims are known by the socket on their command line, their containers are
    their children, and all are in the containers' control groups. Raises ClusterError when something survives.
    """
    sockets = _shim_sockets(instance)
    deadline = time.monotonic() + 15
    while victims := _processes(instance):
        if time.monotonic() > deadline:
            raise ClusterError(f"containers that cannot be killed, pids {sorted(pid for pid, _born in victims)}")
        for pid, born in victims:
            _kill(pid, born)
        time.sleep(0.05)
    for socket in sockets:
        socket.unlink(missing_ok=True)


def _kill(pid: int, born: int) -> None:
    if start_time(pid) == born:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes(instance: Instance) -> list[tuple[int, int]]:
    """(pid, start time) of our shims, of all that descends from them, and of all in our containers' control groups."""
    parents: dict[int, int] = {}
    chosen = cgroup_processes(instance)
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            pid = int(process.name)
            parents[pid] = _parent(process)
            if _is_our_shim(process, instance):
                chosen.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in chosen and pid not in chosen}:
        chosen |= more
    return [(pid, born) for pid in chosen if (born := start_time(pid)) is not None]


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _is_our_shim(process: Path, instance: Instance) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    ours = str(instance.containerd_socket).encode()
    return b"containerd-shim" in words[0] and ours in words


def _shim_sockets(instance: Instance) -> list[Path]:
    """The shims' sockets, which containerd puts into a directory of everybody's."""
    addresses = (path.read_text(encoding="utf-8").strip() for path in instance.tasks.glob("*/address"))
    return [Path(address.removeprefix("unix://")) for address in addresses]
