"""The embedded cluster's images: the archives, what makes one anew, and the model."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

CLUSTER = Path(__file__).resolve().parents[1] / "cluster"
# It is a program, not a package: its modules import each other by their plain names.
sys.path.insert(0, str(CLUSTER))

import image_sglang
import images
import model
import oci
import paths
from log import Log
from shell import ClusterError


@pytest.fixture(autouse=True)
def cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, so that no test sees or changes the real one."""
    monkeypatch.setenv("LLM_D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small(tmp_path: Path) -> oci.Image:
    """An image of a base layer and a layer of files of every kind."""
    base = tmp_path / "base.tar"
    with tarfile.open(base, "w") as tar:
        tar.addfile(tarfile.TarInfo("./etc/os-release"))
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True, exist_ok=True)
    (tree / "below" / "file").write_text("text")
    (tree / "link").unlink(missing_ok=True)
    (tree / "link").symlink_to("below/file")
    files = {"/opt/tree": oci.Entry(tree, 0o755), "usr/bin/run": oci.Entry(b"#!/bin/sh\n", 0o755)}
    layers = [oci.TarLayer(base), oci.FilesLayer(files, {"tmp": 0o1777})]
    return oci.Image("example.org/a/b:1", layers, entrypoint=["/usr/bin/run"], env={"B": "2", "A": "1"}, user="1:1")


def blob(archive: tarfile.TarFile, described: dict[str, Any]) -> bytes:
    """The content of a blob, whose digest and size have to be what its descriptor says."""
    member = archive.extractfile(f"blobs/{described['digest'].replace(':', '/')}")
    assert member is not None
    content = member.read()
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == described["digest"]
    assert len(content) == described["size"]
    return content


def read(archive: tarfile.TarFile) -> tuple[dict[str, Any], dict[str, Any], list[bytes]]:
    """The descriptor of an archive's image, its configuration and its layers."""
    index = archive.extractfile("index.json")
    assert index is not None
    (described,) = json.load(index)["manifests"]
    manifest = json.loads(blob(archive, described))
    layers = [blob(archive, layer) for layer in manifest["layers"]]
    return described, json.loads(blob(archive, manifest["config"])), layers


def test_an_archive_names_its_image_and_how_to_run_it(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    assert oci.write_image(small(tmp_path), target) == target.stat().st_size
    with tarfile.open(target) as archive:
        described, config, layers = read(archive)
    assert described["annotations"]["io.containerd.image.name"] == "example.org/a/b:1"
    assert config["config"] == {"Entrypoint": ["/usr/bin/run"], "Env": ["A=1", "B=2"], "User": "1:1"}
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]


def test_a_layer_holds_its_files_and_the_directories_above_them(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    oci.write_image(small(tmp_path), target)
    with tarfile.open(target) as archive:
        _, _, (base, files) = read(archive)
    assert base == (tmp_path / "base.tar").read_bytes()
    with tarfile.open(fileobj=BytesIO(files)) as layer:
        members = {member.name: member for member in layer}
    assert list(members) == sorted(members)
    assert set(members) == {
        *("opt", "opt/tree", "opt/tree/below", "opt/tree/below/file", "opt/tree/link"),
        *("tmp", "usr", "usr/bin", "usr/bin/run"),
    }
    assert members["opt/tree/link"].linkname == "below/file"
    assert members["usr/bin/run"].mode == 0o755
    assert members["tmp"].mode == 0o1777
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}


def test_the_same_image_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.tar", "two.tar"):
        oci.write_image(small(tmp_path), tmp_path / name)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_nothing_is_left_of_an_archive_that_failed(tmp_path: Path) -> None:
    broken = oci.Image("a:1", [oci.TarLayer(tmp_path / "not-there.tar")])
    with pytest.raises(FileNotFoundError):
        oci.write_image(broken, tmp_path / "images" / "a.tar")
    assert list((tmp_path / "images").iterdir()) == []


@pytest.mark.parametrize("name", ["../up", "/", ""])
def test_a_layer_stays_inside_its_image(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a path inside an image"):
        oci.write_image(oci.Image("a:1", [oci.FilesLayer({name: oci.Entry(b"")})]), tmp_path / "a.tar")


def test_every_image_has_a_name_of_its_own() -> None:
    recipes = [image(paths.cache_dir(), paths.versions()) for image in images.IMAGES.values()]
    names = [recipe.name for recipe in recipes]
    assert len(set(names)) == len(names)
    assert f"docker.io/lmsysorg/sglang:v{image_sglang.version()}-xeon" in names
    # IfNotPresent is the default for a tag that is not `latest` only.
    assert not [name for name in names if name.endswith(":latest") or ":" not in name.rpartition("/")[2]]


def test_an_image_without_its_binary_says_which(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"needs files that are not there .*/epp"):
        images.build_images(["epp"], tmp_path, paths.versions(), Log())


def test_an_image_is_built_once_and_again_when_its_binary_changes(cache_directory: Path) -> None:
    binary = cache_directory / "bin" / f"gaie-{paths.versions()['gaie']}" / "epp"
    binary.parent.mkdir(parents=True)
    binary.write_bytes(b"one")
    (first,) = images.build_images(["epp"], cache_directory, paths.versions(), Log())
    written = first.stat().st_mtime_ns
    assert images.build_images(["epp"], cache_directory, paths.versions(), Log()) == [first]
    assert first.stat().st_mtime_ns == written
    binary.write_bytes(b"two")
    (second,) = images.build_images(["epp"], cache_directory, paths.versions(), Log())
    assert second != first
    assert not first.exists()


def test_the_model_is_whole(tmp_path: Path, cache_directory: Path) -> None:
    target = images.install_model(tmp_path / "state", cache_directory, Log())
    content = (target / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    end = 0
    for tensor in header.values():
        begin, after = tensor["data_offsets"]
        size = 2
        for dimension in tensor["shape"]:
            size *= dimension
        assert (begin, after - begin) == (end, size)
        end = after
    assert len(content) == 8 + length + end
    config = json.loads((target / "config.json").read_text())
    vocabulary = json.loads((target / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(256))
    assert header["lm_head.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in target.iterdir())


def test_the_model_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        model.write_model(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
