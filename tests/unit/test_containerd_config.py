"""What containerd is to read, by its version and by what stands in its root file already."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host import containerd_config as config
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host import toml
from ansible_collections.llm_d.multi_engine.plugins.modules.containerd_config import generation_of, present
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


SECRETS = """\
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
  endpoint = ["https://me:in-a-url@mirror.example.com"]
[plugins."io.containerd.grpc.v1.cri".registry.configs."registry.example.com".auth]
  username = "me"
  password = "in-a-text"
  # password = "in-a-comment"
  auth = "aW4tYmFzZTY0"
  identitytoken = 'in-a-literal'
  token = "with \\"quotes\\""
[plugins."io.containerd.grpc.v1.cri".registry.configs."b"]
  auth = { username = "me", password = "in-a-table", auth = "in-a-table-too" }
  tls = { key_file = "/etc/key.pem" }
"""


def test_secrets_of_registries_are_hidden() -> None:
    shown = config.hidden(V2 + SECRETS)
    assert not re.findall(r"in-a|aW4t|quotes", shown)
    assert shown.count("(hidden)") == 8
    assert shown.startswith(V2)
    for kept in ('username = "me"', "@mirror.example.com", 'key_file = "/etc/key.pem"'):
        assert kept in shown
    assert len(shown.splitlines()) == len((V2 + SECRETS).splitlines())


@pytest.mark.parametrize("key", ["password", "auth", "identitytoken", "token"])
def test_secrets_that_would_be_lost_are_told_without_their_values(key: str) -> None:
    lost = config.lost(f'[a."b.example.com".auth]\n  {key} = "its-value"\n', "", {})
    shown = config.hidden(f"{ROOT}: nothing was changed: {lost[0]} would be lost.")
    assert shown == f'{ROOT}: nothing was changed: a.b.example.com.auth.{key} = "(hidden)" would be lost.'


CONTAINERD = """\
#!/bin/sh
[ "$1" = --version ] && echo "containerd github.com/containerd/containerd 1.7.29 x" && exit
cat "$2"
"""


class Module:
    """A module on a host whose containerd dumps what it reads."""

    check_mode = False
    run_command = staticmethod(
        lambda argv: (0, subprocess.run(argv, check=True, capture_output=True, text=True).stdout, "")
    )

    def __init__(self, folder: Path) -> None:
        self.tmpdir = str(folder / "tmp")
        program = folder / "bin/containerd"
        for made in (program.parent, folder / "tmp"):
            made.mkdir()
        program.write_text(CONTAINERD)
        program.chmod(0o755)
        self.params = {
            **SETTINGS,
            "program": str(program),
            "config": str(folder / "config.toml"),
            "journal": str(folder / "state/before.json"),
            "generations": GENERATIONS,
            "plugins": PLUGINS,
        }

    @staticmethod
    def atomic_move(source: str, target: str) -> None:
        """Give modes as Ansible does: that of the file before, for a new one what umask leaves."""
        umask = os.umask(0)
        os.umask(umask)
        mode = Path(target).stat().st_mode if Path(target).exists() else 0o666 & ~umask
        Path(source).replace(target)
        Path(target).chmod(mode)


def test_what_has_passwords_in_it_is_read_by_nobody_else(tmp_path: Path) -> None:
    module, root = Module(tmp_path), tmp_path / "config.toml"
    root.write_text(V2 + SECRETS)
    root.chmod(0o640)
    result = present(module)
    assert (result["changed"], result["restart"], result["files"]) == (True, True, [str(root)])
    assert "in-a-text" not in str(result)
    assert 'password = "in-a-text"' in root.read_text()
    assert root.stat().st_mode & 0o777 == 0o640
    journal = tmp_path / "state/before.json"
    assert json.loads(journal.read_text()) == {str(root): V2 + SECRETS}
    assert journal.stat().st_mode & 0o777 == 0o600
    assert present(module)["changed"] is False


def test_a_change_that_is_hidden_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, root = Module(tmp_path), tmp_path / "config.toml"
    root.write_text('version = 2\npassword = "one"\n')
    monkeypatch.setattr(config, "wanted", lambda *_: {str(root): 'version = 2\npassword = "two"\n'})
    monkeypatch.setattr(config, "missing", lambda *_: [])
    monkeypatch.setattr(config, "lost", lambda *_: [])
    result = present(module)
    assert result["changed"] is True
    assert result["diff"][0]["before"] == result["diff"][0]["after"] == 'version = 2\npassword = "(hidden)"\n'


def test_a_new_file_is_for_everybody(tmp_path: Path) -> None:
    present(Module(tmp_path))
    assert (tmp_path / "config.toml").stat().st_mode & 0o777 == 0o644


def test_the_client_is_the_one_beside_containerd(tmp_path: Path) -> None:
    module = Module(tmp_path)
    assert present(module)["ctr"] == "ctr"
    client = tmp_path / "bin/ctr"
    client.write_text("#!/bin/sh\n")
    client.chmod(0o755)
    assert present(module)["ctr"] == str(client)
