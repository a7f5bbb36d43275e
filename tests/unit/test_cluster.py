"""The embedded cluster's pure functions, and its handling of processes that end when they should not."""

from __future__ import annotations

import json
import socket
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest

CLUSTER = Path(__file__).resolve().parents[1] / "cluster"
# It is a program, not a package: its modules import each other by their plain names.
sys.path.insert(0, str(CLUSTER))

import build
import cache
import cluster
import containers
import daemon
import host
import node
import paths
import ports
from instance import API_ONLY, FULL
from shell import ClusterError


@pytest.fixture(autouse=True)
def cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, so that no test sees or changes the real one."""
    monkeypatch.setenv("LLM_D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# Cache


def test_binaries_have_the_paths_that_others_rely_on(cache_directory: Path) -> None:
    version = paths.versions()
    assert paths.binary("kubernetes", "kubelet") == cache_directory / f"bin/kubernetes-{version['kubernetes']}/kubelet"
    assert paths.binary("helm3", "helm") == cache_directory / f"bin/helm-{version['helm3']}/helm"


def test_a_finished_directory_is_made_once(cache_directory: Path) -> None:
    made = []

    def make(directory: Path) -> None:
        made.append(directory)
        (directory / "tool").write_text("x")

    target = cache_directory / "bin" / "tool-1"
    assert not cache.ensure(target, "recipe", ("tool",), make)
    assert cache.ensure(target, "recipe", ("tool",), make)
    assert len(made) == 1


def test_another_recipe_makes_it_again_and_drops_the_old_files(cache_directory: Path) -> None:
    target = cache_directory / "bin" / "tool-1"
    cache.ensure(target, "old", ("a",), lambda directory: (directory / "a").touch())
    assert not cache.ensure(target, "new", ("b",), lambda directory: (directory / "b").touch())
    assert sorted(path.name for path in target.iterdir()) == [cache.STAMP, "b"]


def test_an_interrupted_build_leaves_nothing_that_looks_finished(cache_directory: Path) -> None:
    def interrupted(directory: Path) -> None:
        (directory / "tool").touch()
        raise KeyboardInterrupt

    target = cache_directory / "bin" / "tool-1"
    with pytest.raises(KeyboardInterrupt):
        cache.ensure(target, "recipe", ("tool",), interrupted)
    assert not target.exists()
    assert list((cache_directory / "tmp").iterdir()) == []


def test_a_build_that_forgets_a_file_fails(cache_directory: Path) -> None:
    with pytest.raises(FileNotFoundError, match="tool"):
        cache.ensure(cache_directory / "bin" / "tool-1", "recipe", ("tool",), lambda directory: None)


def test_a_directory_without_a_stamp_or_a_file_is_not_complete(tmp_path: Path) -> None:
    assert not cache.is_complete(tmp_path, "recipe")
    (tmp_path / cache.STAMP).write_text("recipe")
    assert cache.is_complete(tmp_path, "recipe")
    assert not cache.is_complete(tmp_path, "recipe", ("gone",))


# Builds


def test_staging_modules_are_replaced_by_their_published_versions() -> None:
    upstream = "module x\n\ngo 1.25.0\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\told/a v1.0.0 => new/a v1.1.0\n)\n"
    program = build.GoProgram("k8s.io/kubernetes", "v1.35.4", ("cmd/kubelet",), staging_version="v0.35.4")
    assert build.go_mod(program, upstream).splitlines()[2:] == [
        "go 1.25.0",
        "",
        "require k8s.io/kubernetes v1.35.4",
        "replace k8s.io/api => k8s.io/api v0.35.4",
        "replace old/a v1.0.0 => new/a v1.1.0",
    ]


def test_a_command_at_the_modules_root_is_named_like_the_module() -> None:
    program = build.programs()["coredns"]
    assert program.binaries() == ("coredns",)
    assert program.packages() == ["github.com/coredns/coredns"]


def test_our_own_commands_are_built_of_a_modules_packages() -> None:
    picker = build.programs()["llm_d_picker"]
    assert (picker.binaries(), picker.packages()) == (("epp",), ["./epp"])
    # They decide the result, and nothing of them is in that of others.
    assert "plugin.Register(filter.PrefillRoleType" in picker.recipe()
    assert picker.recipe().startswith("github.com/llm-d/llm-d-inference-scheduler@v")
    assert "plugin.Register" not in build.programs()["routing_proxy"].recipe()


# Ports


def test_a_port_in_use_is_reported_with_its_holder() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (sentence,) = ports.conflicts({port: "kube-apiserver"})
        assert sentence.startswith(f"port {port} (kube-apiserver) is in use by ")
        assert f"(pid {Path('/proc/self').resolve().name})" in sentence
    assert ports.conflicts({port: "kube-apiserver"}) == []


def test_only_listening_sockets_take_a_port() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:303B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
        "   1: 0100007F:303C 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n"
    )
    assert ports.listening(table) == {0x303B: {"4711"}}


def test_both_instances_can_run_at_the_same_time() -> None:
    assert not set(FULL.ports()) & set(API_ONLY.ports())
    assert FULL.state != API_ONLY.state


# Daemons


def test_a_daemon_is_started_once_and_again_when_its_command_line_changes(tmp_path: Path) -> None:
    supervisor = daemon.Supervisor(tmp_path)
    sleeper = daemon.Daemon("sleeper", ("/bin/sleep", "60"), "1")
    assert not supervisor.start(sleeper)
    first = supervisor.record("sleeper")
    assert supervisor.start(sleeper)
    assert not supervisor.start(daemon.Daemon("sleeper", ("/bin/sleep", "61"), "1"))
    second = supervisor.record("sleeper")
    supervisor.stop("sleeper")
    assert first is not None
    assert second is not None
    assert first.pid != second.pid
    assert daemon.start_time(first.pid) is None
    assert supervisor.record("sleeper") is None


def test_a_pid_that_belongs_to_somebody_else_now_is_not_ours(tmp_path: Path) -> None:
    supervisor = daemon.Supervisor(tmp_path)
    sleeper = daemon.Daemon("sleeper", ("/bin/sleep", "60"), "1")
    supervisor.start(sleeper)
    path = tmp_path / "run" / "sleeper.json"
    truth = json.loads(path.read_text())
    for lie in ({"born": truth["born"] + 1}, {"boot": "another"}):
        path.write_text(json.dumps(truth | lie))
        assert supervisor.record("sleeper") is None
        supervisor.stop("sleeper")
        assert daemon.start_time(truth["pid"]) == truth["born"]
    daemon.terminate(truth["pid"], truth["born"], seconds=5)


def test_a_daemon_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    supervisor = daemon.Supervisor(tmp_path)
    supervisor.start(daemon.Daemon("loser", ("/bin/sh", "-c", "sleep 0.1; echo out of luck; exit 3"), "1"))
    deadline = time.monotonic() + 10
    while supervisor.record("loser") and time.monotonic() < deadline:
        time.sleep(0.02)
    message = str(supervisor.failure("loser", "ended"))
    assert "out of luck" in message
    assert str(tmp_path / "logs" / "loser.log") in message


# The machine

SAVED = """\
*nat
:POSTROUTING ACCEPT [0:0]
:KUBE-POSTROUTING - [0:0]
:CNI-other - [0:0]
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -s 192.168.0.0/24 -j MASQUERADE
-A POSTROUTING -j CNI-other
-A KUBE-POSTROUTING -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p tcp --dport 22 -j ACCEPT
COMMIT
"""


def test_only_our_chains_and_the_rules_to_them_are_swept() -> None:
    assert host.sweep_script(SAVED, keep={"nat/CNI-other"}).splitlines() == [
        "*nat",
        '-D POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
        "-F KUBE-POSTROUTING",
        "-X KUBE-POSTROUTING",
        "COMMIT",
    ]
    assert host.sweep_script(SAVED, keep={"nat/CNI-other", "nat/KUBE-POSTROUTING"}) == ""


def test_mount_points_below_a_directory() -> None:
    mountinfo = (
        "20 1 0:1 / / rw - ext4 /dev/vda rw\n"
        "30 20 0:2 / /state/a rw - tmpfs none rw\n"
        "31 30 0:3 / /state/a/with\\040blank rw - tmpfs none rw\n"
        "32 20 0:4 / /state-of-others rw - tmpfs none rw\n"
    )
    points = host.mount_points(mountinfo, Path("/state"))
    assert points == [Path("/state/a"), Path("/state/a/with blank")]


def test_pods_do_not_get_a_name_server_on_the_loopback(tmp_path: Path) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("search example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver ::1\n")
    assert node.resolver_config(resolver) == "search example.org\nnameserver 192.0.2.53\n"
    assert node.resolver_config(tmp_path / "none") == ""


# Images


def archive(path: Path, name: str, content: object) -> Path:
    """A tar at `path` with one JSON file."""
    data = json.dumps(content).encode()
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, BytesIO(data))
    return path


def test_contents_of_an_oci_archive(tmp_path: Path) -> None:
    manifest = {
        "digest": "sha256:abc",
        "annotations": {
            "io.containerd.image.name": "registry.k8s.io/pause:3.10",
            "org.opencontainers.image.ref.name": "3.10",
        },
    }
    tar = archive(tmp_path / "oci.tar", "index.json", {"manifests": [manifest]})
    assert containers.archive_contents(tar) == {"registry.k8s.io/pause:3.10": "sha256:abc"}


def test_contents_of_a_docker_archive(tmp_path: Path) -> None:
    tar = archive(
        tmp_path / "docker.tar", "manifest.json", [{"Config": "abc.json", "RepoTags": ["me/tool:1", "alone:2"]}]
    )
    assert containers.archive_contents(tar) == {
        "docker.io/me/tool:1": "sha256:abc",
        "docker.io/library/alone:2": "sha256:abc",
    }


def test_an_image_that_lost_its_name_to_another_is_replaced() -> None:
    names = {"docker.io/a:1": ("sha256:new", ""), "sha256:c1": ("sha256:new", ""), "sha256:c0": ("sha256:old", "")}
    assert containers.replaced(names) == ["sha256:c0"]


def test_what_is_not_an_image_archive_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.tar"
    text.write_text("no tar at all")
    for tar in (text, tmp_path / "none.tar", archive(tmp_path / "empty.tar", "other.json", {})):
        with pytest.raises(ClusterError, match="is not an image archive"):
            containers.archive_contents(tar)


def test_nothing_is_started_while_a_port_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.ports, "conflicts", lambda wanted: [f"port {min(wanted)} is in use"])
    with pytest.raises(ClusterError, match="cannot start: port 20257 is in use"):
        cluster._check_ports(API_ONLY, daemon.Supervisor(tmp_path))
