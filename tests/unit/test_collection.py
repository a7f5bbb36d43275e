"""The checkout as a collection, and the artifact that is built from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# Of the environment that runs this test, which `make matrix` does under several ansible-cores.
BIN = Path(sys.executable).parent

SHIPPED = {
    "CHANGELOG.rst",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.md",
    "changelogs",
    "docs",
    "meta",
    "playbooks",
    "plugins",
    "roles",
}


def ansible(command: str, *args: object, cwd: Path = ROOT, **environment: object) -> str:
    """Run one of ansible's programs, and show what it said where it fails."""
    done = subprocess.run(
        [BIN / command, *map(str, args)],
        check=False,
        cwd=cwd,
        env=os.environ | {key: str(value) for key, value in environment.items()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command} {args}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def names(folder: str, pattern: str = "*") -> set[str]:
    """Tell what the checkout holds in a folder, by the names that playbooks call it."""
    found = {path.stem for path in ROOT.glob(f"{folder}/{pattern}") if not path.name.startswith(("_", "."))}
    assert found, f"nothing in {folder}"
    return {f"llm_d.multi_engine.{name}" for name in found}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    ansible("ansible-galaxy", "collection", "build", "--output-path", folder)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of collections with the artifact and what galaxy.yml says it depends on."""
    folder = tmp_path_factory.mktemp("collections")
    ansible("ansible-galaxy", "collection", "install", artifact, "--no-deps", "-p", folder, cwd=folder)
    for dependency in yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]:
        place = Path("ansible_collections", *dependency.split("."))
        (folder / place).parent.mkdir()
        (folder / place).symlink_to(ROOT / ".collections" / place)
    return folder


@pytest.mark.parametrize(
    ("kind", "folder"),
    [("module", "plugins/modules"), ("filter", "plugins/filter"), ("role", "roles")],
)
def test_the_checkout_is_the_collection(kind: str, folder: str) -> None:
    listed = json.loads(ansible("ansible-doc", "--json", "--list", "--type", kind, "llm_d.multi_engine"))
    assert names(folder) <= set(listed)


def test_the_artifact_holds_only_what_users_need(artifact: Path) -> None:
    with tarfile.open(artifact) as tar:
        files = tar.getnames()
    assert {name.split("/")[0] for name in files} <= SHIPPED
    assert not [name for name in files if "__pycache__" in name]


def test_the_installed_playbooks_are_sound(installed: Path) -> None:
    for playbook in names("playbooks", "*.yml"):
        ansible(
            "ansible-playbook",
            "--syntax-check",
            "-i",
            ROOT / "inventories/bare_metal",
            playbook,
            cwd=installed,
            ANSIBLE_COLLECTIONS_PATH=installed,
        )


def test_one_version_range_of_each_collection() -> None:
    wanted = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]
    for file in ("requirements.yml", "meta/ee-requirements.yml"):
        collections = yaml.safe_load((ROOT / file).read_text())["collections"]
        assert {item["name"]: item["version"] for item in collections} == wanted, file
