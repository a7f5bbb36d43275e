"""Manifests as files, without a cluster."""

from __future__ import annotations

import json

import yaml


def test_files_hold_what_would_be_applied(ansible, api, converged, tmp_path) -> None:
    nowhere = {"render_dir": str(tmp_path), "llm_d_kubeconfig": "/nonexistent/kubeconfig"}
    ansible("render", **nowhere).ok(changed=True)
    ansible("render", **nowhere).ok(changed=0)

    values = {path.name for path in tmp_path.glob("istio_gateway/*-values.yaml")}
    assert values == {"istio-base-values.yaml", "istiod-values.yaml"}
    documents = [
        item
        for path in tmp_path.rglob("*.yaml")
        if path.name not in values | {"images.yaml"}
        for item in yaml.safe_load_all(path.read_text())
    ]
    assert documents
    # What stands for a set of applied objects is made by applying.
    ours = "app.kubernetes.io/managed-by=llm_d.multi_engine,multi-engine.llm-d.ai/role,!applyset.kubernetes.io/id"
    kinds = sorted({item["kind"] for item in documents} | {"Secret", "PersistentVolumeClaim"})
    applied = json.loads(api.kubectl("get", ",".join(kinds), "-n", "molecule", "-l", ours, "-o", "json"))["items"]
    assert names(documents) == names(item for item in applied if not item["metadata"].get("ownerReferences"))


def test_the_directory_is_not_guessed(ansible) -> None:
    message = ansible("render").message
    assert "render_dir is not set" in message
    assert "-e render_dir=" in message


def names(items) -> list[tuple[str, str, str]]:
    return sorted((item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]) for item in items)
