"""One archive with what somebody needs to help with a stack, and no secret in it."""

from __future__ import annotations

import base64
import json
import stat
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
NAMESPACE = "support"
LABELS = {"app.kubernetes.io/managed-by": "llm_d.multi_engine", "multi-engine.llm-d.ai/stack": NAMESPACE}
#: In a Secret, in a Deployment's environment, in a ConfigMap's file, in the inventory.
STORED, PLAIN, WRITTEN, GIVEN = (
    "zX-stored/by+somebody",
    "Plain1Environment2Value",
    "hf_" + "aB3" * 11,
    "hf_" + "cD4" * 11,
)
FILE = f"plugins:\n- type: token-load-scorer\nmax-tokens: 128\nupstream:\n  api_key: {WRITTEN}\n"
SECRETS = [
    form for value in (STORED, PLAIN, WRITTEN, GIVEN) for form in (value, base64.b64encode(value.encode()).decode())
]
CONTAINER = {
    "name": "model-server",
    "image": "docker.io/lmsysorg/sglang@sha256:" + "0123456789abcdef" * 4,
    "args": ["--max-total-tokens=128", "--tokenizer-path=x", f"--api-key={PLAIN}", f"--note=as {STORED}"],
    "env": [
        {"name": "HF_TOKEN", "value": PLAIN},
        {"name": "OTHER_TOKEN", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "password"}}},
        {"name": "FROM_NOWHERE", "valueFrom": {"secretKeyRef": {"name": "forgotten", "key": "x"}}},
    ],
}


@pytest.fixture(scope="module", autouse=True)
def stack(api):
    """A stack of somebody who writes secrets everywhere."""
    api.kubectl("create", "namespace", NAMESPACE)
    secret = {"password": base64.b64encode(STORED.encode()).decode()}
    api.create("v1", "Secret", "theirs", NAMESPACE, data=secret)
    mine = {"namespace": NAMESPACE, "labels": LABELS}
    selector = {"app": "qwen"}
    spec = {
        "selector": {"matchLabels": selector},
        "template": {"metadata": {"labels": selector}, "spec": {"containers": [CONTAINER]}},
    }
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "qwen", **mine}, "spec": spec}
    api.kubectl("apply", "-f", "-", stdin=deployment)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "picker", **mine}, "data": {"c.yaml": FILE}}
    api.kubectl("apply", "-f", "-", stdin=config)
    api.create("v1", "ConfigMap", "not-ours", NAMESPACE, data={"x": "y"})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "alone", **mine},
        "spec": {"containers": [CONTAINER]},
    }
    api.kubectl("apply", "-f", "-", stdin=pod)
    about = {"kind": "Deployment", "name": "qwen", "namespace": NAMESPACE}
    times = {"firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-02T00:00:00Z"}
    message = f"pulling with Authorization: Bearer {PLAIN} failed"
    api.create(
        "v1", "Event", "warned", NAMESPACE, involvedObject=about, type="Warning", reason="Odd", message=message, **times
    )
    yield
    api.delete("namespace", NAMESPACE)


@pytest.fixture
def bundle(ansible, tmp_path):
    """Run the playbook and return it, with the files of its archive."""
    variables = tmp_path / "token.json"
    variables.write_text(json.dumps({"llm_d_hf_token": GIVEN}))

    def run(cwd: Path = ROOT, **more: object) -> tuple[object, dict[str, str]]:
        settings = {"llm_d_namespace": NAMESPACE, "support_bundle_dest": str(tmp_path / "out"), **more}
        done = ansible("support_bundle", options=f"-vvv -e @{variables}", cwd=cwd, **settings).ok(changed=1)
        (archive,) = (tmp_path / "out").iterdir()
        assert f"Written to {archive}" in done.said()
        assert stat.S_IMODE(archive.stat().st_mode) == 0o600
        with tarfile.open(archive) as tar:
            (top,) = {name.partition("/")[0] for name in tar.getnames()}
            files = {
                member.name.removeprefix(f"{top}/"): tar.extractfile(member).read().decode()
                for member in tar.getmembers()
            }
        assert archive.name == f"{top}.tar.gz"
        for name, text in {**files, "output": done.output}.items():
            assert [value for value in SECRETS if value in text] == [], name
        return done, files

    return run


def test_what_is_in_it(bundle) -> None:
    _done, files = bundle()
    (deployment,) = yaml.safe_load_all(files[f"objects/{NAMESPACE}/Deployment.apps.yaml"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == CONTAINER["image"]
    assert container["args"] == [
        "--max-total-tokens=128", "--tokenizer-path=x", "--api-key=(hidden)", "--note=as (hidden)"
    ]  # fmt: skip
    assert container["env"] == [{"name": "HF_TOKEN", "value": "(hidden)"}, *CONTAINER["env"][1:]]
    assert deployment["metadata"]["uid"].count("-") == 4
    # What was made from it carries no label of ours.
    assert [made["kind"] for made in yaml.safe_load_all(files[f"objects/{NAMESPACE}/ReplicaSet.apps.yaml"])]
    (config,) = yaml.safe_load_all(files[f"objects/{NAMESPACE}/ConfigMap.yaml"])
    assert yaml.safe_load(config["data"]["c.yaml"]) == {
        "plugins": [{"type": "token-load-scorer"}],
        "max-tokens": 128,
        "upstream": {"api_key": "(hidden)"},
    }
    assert "2026-01-02T00:00:00Z Warning Odd Deployment support/qwen: pulling" in files[f"events/{NAMESPACE}.txt"]
    versions = yaml.safe_load(files["versions.yaml"])
    assert versions["kubernetes"]["gitVersion"].startswith("v1.")
    assert {"ansible-core", "llm_d.multi_engine", "kubernetes.core"} <= versions["controller"].keys()
    assert yaml.safe_load(files["inventory/inputs.yaml"])["llm_d_hf_token"] == "(hidden)"
    resolved = yaml.safe_load(files["inventory/resolved.yaml"])
    assert [model["name"] for model in resolved["models"]] == ["first", "second"]
    (secret,) = yaml.safe_load_all(files[f"objects/{NAMESPACE}/Secret.yaml"])
    assert secret["data"] == {"password": f"(hidden, {len(STORED)} bytes)"}
    index = files["index.md"]
    assert "- Secret support/forgotten: does not exist, and pods name it" in index
    assert "- Deployment support/qwen: 0 of 1 pods are ready" in index
    assert "Warning Odd Deployment support/qwen" in index


GPU = {"name": "x", "source": "hf://Qwen/Qwen3-4B", "accelerator": "nvidia", "gpus": 4}


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"llm_d_models": [{"name": "x", "source": "nowhere"}]}, ["llm_d_models[0] (x).source: "]),
        ({"llm_d_models": [GPU]}, ["llm_d_models[0] (x).gpus: no schedulable node"]),
        (
            {"llm_d_release": "/nonexistent/release.yml", "llm_d_models": "{{ nowhere }}"},
            ["/nonexistent/release.yml", "llm_d_models: it has no value: "],
        ),
    ],
)
def test_a_broken_inventory_is_part_of_it(bundle, broken: dict, told: list[str]) -> None:
    _done, files = bundle(**broken)
    for part in told:
        assert part in files["inventory/findings.txt"]
        assert part in files["index.md"]
    assert f"objects/{NAMESPACE}/Deployment.apps.yaml" in files
    assert "llm_d_models" in yaml.safe_load(files["inventory/inputs.yaml"])


def test_missing_permissions_are_part_of_it(bundle, api, tmp_path) -> None:
    config = json.loads(api.kubectl("config", "view", "--raw", "-o", "json"))
    token = api.kubectl("create", "token", "default", "-n", "default").strip()
    config["users"][0]["user"] = {"token": token}
    mine = tmp_path / "kubeconfig"
    mine.write_text(json.dumps(config))
    done, files = bundle(llm_d_kubeconfig=str(mine))
    assert token not in json.dumps(files)
    assert "no permission to list in namespace support: " in files["index.md"]
    assert (
        "Secrets of namespace support, whose values could not be looked for therefore: No permission"
        in files["index.md"]
    )
    assert "- nodes: No permission" in files["index.md"]
    assert "nodes: No permission" in done.said()
    assert "versions.yaml" in files


def test_credentials_that_are_too_old(bundle, api, tmp_path) -> None:
    config = json.loads(api.kubectl("config", "view", "--raw", "-o", "json"))
    config["users"][0]["user"] = {"token": "no-token-of-this-cluster"}
    mine = tmp_path / "kubeconfig"
    mine.write_text(json.dumps(config))
    # Empty takes the caller's directory.
    (tmp_path / "out").mkdir()
    _done, files = bundle(cwd=tmp_path / "out", support_bundle_dest="", llm_d_kubeconfig=str(mine))
    assert "- everything of the cluster: The API server does not accept the credentials" in files["index.md"]
    assert yaml.safe_load(files["inventory/resolved.yaml"])["models"]


def test_no_cluster_answers(ansible, api, tmp_path) -> None:
    closed = tmp_path / "kubeconfig"
    closed.write_text(api.kubectl("config", "view", "--raw").replace("127.0.0.1:26443", "127.0.0.1:9"))
    settings = {"llm_d_kubeconfig": str(closed), "support_bundle_dest": str(tmp_path / "out")}
    message = ansible("support_bundle", **settings).message
    assert "No Kubernetes API answers" in message
    assert list((tmp_path / "out").iterdir()) == []


def test_check_mode_writes_nothing(ansible, tmp_path) -> None:
    settings = {"llm_d_namespace": NAMESPACE, "support_bundle_dest": str(tmp_path / "out")}
    run = ansible("support_bundle", options="--check --diff", **settings).ok(changed=1)
    assert f"It would be written to {tmp_path}/out/support-bundle-{NAMESPACE}-" in run.said()
    assert not (tmp_path / "out").exists()
