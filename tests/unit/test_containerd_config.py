"""What containerd is to read, by its version and by what stands in its root file already."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host import containerd_config as config
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host import toml
from ansible_collections.llm_d.multi_engine.plugins.modules.containerd_config import generation_of
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

KNOWN = yaml.safe_load((shipped.ROOT / "roles/gpu_node/vars/containerd.yml").read_text())
GENERATIONS, PLUGINS = KNOWN["__gpu_node_containerd_generations"], KNOWN["__gpu_node_containerd_plugins"]
SETTINGS = {"binary": "/usr/bin/nvidia-container-runtime", "systemd_cgroup": True, "default_runtime": "runc"}
ROOT = "/etc/containerd/config.toml"
V2 = """\
version = 2
# pulled from our mirror
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.example.com/pause:3.10"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = "/etc/containerd/cri-base.json"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""
V3 = 'version = 3\n[plugins."io.containerd.cri.v1.images".pinned_images]\n  sandbox = "registry.example.com/pause:3.10"\n'
DOCKER = '# By Docker\'s package.\ndisabled_plugins = ["cri"]\n\n#root = "/var/lib/containerd"\n'


def wanted(version: str, root: str | None, **settings: object) -> dict[str, str]:
    return config.wanted(root, generation_of(version, GENERATIONS), PLUGINS, {**SETTINGS, **settings}, ROOT)


def nvidia(text: str, plugin: str) -> dict[str, str]:
    """Return what a file says about NVIDIA's runtime, without the table's name."""
    table = ("plugins", plugin, "containerd", "runtimes", "nvidia")
    return {key: value for (where, key), value in toml.values(text).items() if where[: len(table)] == table}


@pytest.mark.parametrize(
    ("version", "root", "drop_in", "number", "plugin"),
    [
        ("1.6.20", V2, False, 2, "io.containerd.grpc.v1.cri"),
        ("1.7.29", V2, False, 2, "io.containerd.grpc.v1.cri"),
        ("2.0.3", V3, False, 3, "io.containerd.cri.v1.runtime"),
        ("2.1.5", V3, True, 3, "io.containerd.cri.v1.runtime"),
        ("2.2.1", V3, True, 3, "io.containerd.cri.v1.runtime"),
        ("2.3.4", V3, True, 3, "io.containerd.cri.v1.runtime"),
        # Never above the root's: 2.3 would not start, earlier ones would lose the root file.
        ("2.1.5", V2, True, 2, "io.containerd.grpc.v1.cri"),
        ("2.3.4", V2, True, 2, "io.containerd.grpc.v1.cri"),
        # Without a root file it is what this containerd writes itself.
        ("1.6.20", None, False, 2, "io.containerd.grpc.v1.cri"),
        ("2.2.1", None, True, 3, "io.containerd.cri.v1.runtime"),
        ("2.3.4", None, True, 4, "io.containerd.cri.v1.runtime"),
        ("2.3.4", DOCKER, True, 4, "io.containerd.cri.v1.runtime"),
    ],
)
def test_file_and_version(version: str, root: str | None, drop_in: bool, number: int, plugin: str) -> None:
    files = wanted(version, root)
    assert (config.DROP_IN in files) is drop_in
    place = config.DROP_IN if drop_in else ROOT
    assert toml.values(files[place])[(), "version"] == str(number)
    assert toml.values(files[ROOT])[(), "version"] == str(number)
    assert nvidia(files[place], plugin)["BinaryName"] == '"/usr/bin/nvidia-container-runtime"'
    assert nvidia(files[place], plugin)["SystemdCgroup"] == "true"
    assert nvidia(files[place], plugin)["runtime_type"] == '"io.containerd.runc.v2"'


@pytest.mark.parametrize(
    ("version", "root", "imports"),
    [
        ("2.1.5", V3, '["/etc/containerd/conf.d/*.toml"]'),
        # A default from 2.2 on, but not where the file has a list of its own.
        ("2.2.1", V3, None),
        ("2.3.4", f'imports = ["/opt/*.toml"]\n{V3}', '["/opt/*.toml", "/etc/containerd/conf.d/*.toml"]'),
        ("2.1.5", f'imports = ["conf.d/*.toml"]\n{V3}', '["conf.d/*.toml"]'),
        ("1.7.29", V2, None),
    ],
)
def test_imports(version: str, root: str, imports: str | None) -> None:
    assert toml.values(wanted(version, root)[ROOT]).get(((), "imports")) == imports


def test_all_else_stays_as_it_is_written() -> None:
    after = wanted("1.6.20", V2)[ROOT]
    kept = [line for line in V2.splitlines() if "SystemdCgroup" not in line]
    assert [line for line in after.splitlines() if line in kept] == kept
    assert after.count("SystemdCgroup = true") == 2
    assert "SystemdCgroup = false" not in after
    # Limits of containers are the same with and without GPUs.
    assert nvidia(after, "io.containerd.grpc.v1.cri")["base_runtime_spec"] == '"/etc/containerd/cri-base.json"'
    assert wanted("1.6.20", after)[ROOT] == after


@pytest.mark.parametrize(("version", "said"), [("1.6.20", 0), ("1.7.29", 1), ("2.1.5", 0)])
def test_cdi_where_it_is_not_on_by_itself(version: str, said: int) -> None:
    assert "".join(wanted(version, V2).values()).count("enable_cdi = true") == said


def test_settings() -> None:
    text = wanted("1.7.29", V2, systemd_cgroup=False, default_runtime="nvidia")[ROOT]
    assert 'default_runtime_name = "nvidia"' in text
    assert text.count("SystemdCgroup = false") == 2


def test_dockers_package_turns_off_what_kubernetes_needs() -> None:
    root = wanted("1.7.29", DOCKER)[ROOT]
    assert "disabled_plugins = []\n" in root
    assert root.startswith("# By Docker's package.\n")


@pytest.mark.parametrize(
    ("version", "root", "why"),
    [
        ("1.6.20", V3, "its version is 3, this containerd reads up to 2"),
        ("1.6.20", '[plugins.cri]\n  sandbox_image = "x"\n', "its version is 1.*containerd config migrate"),
        ("2.3.4", "version = 9\n[a]\nb = 1\n", "its version is 9, this containerd reads up to 4"),
        ("1.6.20", "version = two\n", "version is two, which is no number.*it was not changed"),
        ("1.6.20", "imports = [\n", "line 1: a list does not end.*it was not changed"),
        ("1.6.20", f'disabled_plugins = ["cri"]\n{V2}', "disabled_plugins turns off the plugin that Kubernetes uses"),
    ],
)
def test_refused(version: str, root: str, why: str) -> None:
    with pytest.raises(config.Refused, match=why) as refused:
        wanted(version, root)
    assert ROOT in str(refused.value)


def test_versions_that_nobody_knows() -> None:
    assert generation_of("1.5.9", GENERATIONS)["config"] == 0
    assert generation_of("2.10.0", GENERATIONS)["config"] == 4


def test_what_would_be_lost_is_told() -> None:
    before = '[a]\n  kept = 1\n  gone = "x"\n  empty = ""\n  ours = 1\n'
    after = "[a]\n  kept = 1\n  ours = 2\n"
    assert config.lost(before, after, {("a",): {"ours": "2"}}) == ['a.gone = "x"']
    assert config.missing(after, {("a",): {"ours": "3", "kept": "1"}}) == ["a.ours = 3"]


@pytest.mark.skipif(not shutil.which("containerd"), reason="needs a containerd")
@pytest.mark.parametrize("root", [None, V2, DOCKER], ids=["none", "v2", "docker"])
def test_a_real_containerd_reads_it_and_loses_nothing(root: str | None, tmp_path: Path) -> None:
    version = subprocess.run(["containerd", "--version"], check=True, capture_output=True, text=True).stdout.split()[2]
    generation = generation_of(version.lstrip("v").partition("~")[0], GENERATIONS)
    if generation["drop_in"]:
        pytest.skip(f"containerd {version} takes drop-ins; Debian 12 has one that does not")

    def dump(text: str) -> str:
        (tmp_path / "config.toml").write_text(text)
        command = ["containerd", "--config", tmp_path / "config.toml", "config", "dump"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    after = dump(config.wanted(root, generation, PLUGINS, SETTINGS, ROOT)[ROOT])
    values = config.dumped(generation, PLUGINS, SETTINGS)
    assert config.missing(after, values) == []
    assert config.lost(dump(root or f"version = {generation['config']}\n"), after, values) == []
    if root == V2:
        assert 'sandbox_image = "registry.example.com/pause:3.10"' in after
