"""Writes OCI image archives with nothing but the standard library.

An image is a list of layers and a configuration; the archive is what
`ctr -n k8s.io images import` reads, and the image then has exactly the name it was given.

* Layers are not compressed: the archive never leaves the machine, and gzip would cost minutes for the big ones.
* The same input gives the same bytes: entries are sorted, owned by root and dated 1970.
* A layer that is a tar file already is copied as it is, so images made from the same base share that layer
  wherever they are imported.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

CHUNK = 1 << 20

REVISION = "1"
"""Changes when the same image is written as other bytes: archives made before are then no longer taken."""

MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_LAYER = "application/vnd.oci.image.layer.v1.tar"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"

EPOCH = "1970-01-01T00:00:00Z"


class Layer(Protocol):
    """Anything that can write itself as one uncompressed tar stream."""

    def write(self, out: BinaryIO) -> None:
        """Write the whole layer to `out`, which cannot seek."""


@dataclass(frozen=True)
class TarLayer:
    """An uncompressed tar file, taken as it is."""

    path: Path

    def write(self, out: BinaryIO) -> None:
        """Copy the file."""
        with self.path.open("rb") as source:
            while chunk := source.read(CHUNK):
                out.write(chunk)


@dataclass(frozen=True)
class Entry:
    """What one path of a layer is: a file or directory of this machine, or the bytes of a file."""

    source: Path | bytes
    mode: int | None = None
    """Permissions; None keeps those of `source` (and gives 0644 to bytes)."""


@dataclass(frozen=True)
class FilesLayer:
    """A layer of files: path in the image to where its content comes from.

    A directory is taken with all that is in it. Directories above an entry are made, mode 0755.
    """

    files: Mapping[str, Entry]
    directories: Mapping[str, int] = field(default_factory=dict)
    """Empty directories to make, with their modes."""

    def write(self, out: BinaryIO) -> None:
        """Write the tar stream."""
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT, bufsize=CHUNK) as tar:
            for info, source in self._members():
                if isinstance(source, bytes):
                    tar.addfile(info, io.BytesIO(source))
                elif info.isreg():
                    with source.open("rb") as content:
                        tar.addfile(info, content)
                else:
                    tar.addfile(info)

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, Path | bytes]]:
        """All members by path, which puts each directory before its content."""
        members: dict[str, tuple[tarfile.TarInfo, Path | bytes]] = {}
        for name, mode in self.directories.items():
            members[_clean(name)] = (_directory(_clean(name), mode), b"")
        for name, entry in self.files.items():
            for path, info, source in _entries(_clean(name), entry):
                members[path] = (info, source)
        for name in list(members):
            for parent in _parents(name):
                members.setdefault(parent, (_directory(parent, 0o755), b""))
        for name in sorted(members):
            yield members[name]


@dataclass(frozen=True)
class Image:
    """One image: its full name, its layers from the lowest up, and what runs in it by default."""

    name: str
    layers: Sequence[Layer]
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def write_image(image: Image, path: Path, architecture: str = "amd64") -> int:
    """Write `image` as an OCI archive to `path` and return its size in bytes.

    The file appears under its name only when it is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w+b") as out:
            _Archive(out).write(image, architecture)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path.stat().st_size


class _Archive:
    """An OCI layout inside a tar file that is being written."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._written: set[str] = set()

    def write(self, image: Image, architecture: str) -> None:
        """Write everything, the index last."""
        self._file("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        layers = [self._layer(layer) for layer in image.layers]
        config = self._blob(_json(_config(image, architecture, layers)), MEDIA_CONFIG)
        manifest = self._blob(
            _json(
                {
                    "schemaVersion": 2,
                    "mediaType": MEDIA_MANIFEST,
                    "config": config,
                    "layers": layers,
                }
            ),
            MEDIA_MANIFEST,
        )
        manifest["platform"] = {"architecture": architecture, "os": "linux"}
        # The first is the one containerd names the image by; the second is the OCI specification's, a tag only.
        manifest["annotations"] = {
            "io.containerd.image.name": image.name,
            "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
        }
        self._file("index.json", _json({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [manifest]}))
        self._out.write(b"\0" * (2 * tarfile.BLOCKSIZE))

    def _layer(self, layer: Layer) -> dict[str, Any]:
        """Stream one layer into the archive.

        Its digest is its name in the archive, and its size stands before it: both are known only
        afterwards, so the header is written then, into the gap left for it.
        """
        start = self._out.tell()
        self._out.write(b"\0" * tarfile.BLOCKSIZE)
        sink = _Hashing(self._out)
        layer.write(sink)
        digest = sink.digest()
        if digest in self._written:
            # The same layer twice in one image: an archive may hold it once only.
            self._out.seek(start)
            self._out.truncate()
        else:
            self._pad(sink.size)
            end = self._out.tell()
            self._out.seek(start)
            self._header(f"blobs/sha256/{digest}", sink.size)
            self._out.seek(end)
            self._written.add(digest)
        return {"mediaType": MEDIA_LAYER, "digest": f"sha256:{digest}", "size": sink.size}

    def _blob(self, content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        self._file(f"blobs/sha256/{digest}", content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def _file(self, name: str, content: bytes) -> None:
        self._header(name, len(content))
        self._out.write(content)
        self._pad(len(content))

    def _header(self, name: str, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        self._out.write(info.tobuf(tarfile.GNU_FORMAT))

    def _pad(self, size: int) -> None:
        self._out.write(b"\0" * (-size % tarfile.BLOCKSIZE))


class _Hashing(io.RawIOBase):
    """Passes everything on to `out`, and knows its size and digest."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Pass `data` on."""
        self._hash.update(data)
        self._out.write(data)
        self.size += len(data)
        return len(data)

    def digest(self) -> str:
        """The SHA-256 of what was written so far, in hexadecimal."""
        return self._hash.hexdigest()


def _config(image: Image, architecture: str, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The image's configuration; empty settings are left out."""
    run = {
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.command),
        "Env": [f"{name}={value}" for name, value in sorted(image.env.items())],
        "User": image.user,
        "WorkingDir": image.workdir,
        "Labels": dict(image.labels),
    }
    return {
        "created": EPOCH,
        "architecture": architecture,
        "os": "linux",
        "config": {key: value for key, value in run.items() if value},
        # Uncompressed layers: the digest of the content is the digest of the blob.
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        "history": [{"created": EPOCH} for _ in layers],
    }


def _entries(name: str, entry: Entry) -> Iterator[tuple[str, tarfile.TarInfo, Path | bytes]]:
    """The members of one entry of a files layer: itself, and all below it when it is a directory."""
    source = entry.source
    if isinstance(source, bytes):
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(source), 0o644 if entry.mode is None else entry.mode
        yield name, info, source
        return
    yield name, _member(name, source, entry.mode), source
    if source.is_symlink() or not source.is_dir():
        return
    for folder, directories, files in os.walk(source):
        for child in (*directories, *files):
            path = Path(folder, child)
            below = f"{name}/{path.relative_to(source).as_posix()}"
            yield below, _member(below, path, None), path


def _member(name: str, source: Path, mode: int | None) -> tarfile.TarInfo:
    """The tar header of a file, directory or symbolic link of this machine, without owner and date."""
    status = source.lstat()
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(status.st_mode) if mode is None else mode
    if stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(source)
    elif stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISREG(status.st_mode):
        info.size = status.st_size
    else:
        raise ValueError(f"{source} is neither a file nor a directory nor a symbolic link")
    return info


def _directory(name: str, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info


def _clean(name: str) -> str:
    """A path as tar members have it: relative, without `.` and `..`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise ValueError(f"not a path inside an image: {name!r}")
    return "/".join(parts)


def _parents(name: str) -> Iterator[str]:
    """All directories above `name`, inside the image."""
    parts = name.split("/")
    for length in range(1, len(parts)):
        yield "/".join(parts[:length])


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
