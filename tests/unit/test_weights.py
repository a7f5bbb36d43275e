"""Where weights come from, and which settings of theirs contradict each other."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.images import of_objects
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.model_service import compose
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import MODEL_OPTIONS, findings, one, resolved

WHERE = "llm_d_models[0] (qwen)"
DIGEST = f"@sha256:{'0' * 64}"
ON_NODE = {"cache": {"host_path": "/var/lib/cache"}}
OTHER = {"name": "other", "source": "hf://a/b", **ON_NODE}


def pod(model: dict[str, Any], **changed: Any) -> dict[str, Any]:
    (deployment,) = compose("llm-d", "llm-d", one(model, **changed), MODEL_OPTIONS)
    spec = deployment["spec"]["template"]["spec"]
    return {**spec, "container": spec["containers"][0]}


@pytest.mark.parametrize(
    ("source", "path", "name", "reference"),
    [
        ("oci://quay.io/models/qwen3:32b", "/model", "qwen3", "quay.io/models/qwen3:32b"),
        ("oci://quay.io/models/qwen3:32b#models/a/", "/model/models/a", "a", "quay.io/models/qwen3:32b"),
        (f"oci://127.0.0.1:5000/qwen3{DIGEST}", "/model", "qwen3", f"127.0.0.1:5000/qwen3{DIGEST}"),
        (f"oci://quay.io/a/b:1{DIGEST}#c", "/model/c", "c", f"quay.io/a/b:1{DIGEST}"),
    ],
)
def test_weights_in_an_image(source: str, path: str, name: str, reference: str) -> None:
    weights = one({"source": source})["weights"]
    volume = {"image": {"reference": reference, "pullPolicy": "IfNotPresent"}}
    assert weights == {"path": path, "id": name, "revision": None, "volume": volume}


@pytest.mark.parametrize(
    "source",
    ["oci://qwen3", "oci://quay.io/Models/qwen3:1", "oci://quay.io/a/b:1@sha256:12", "oci://quay.io/a#b#c", "oci://"],
)
def test_what_is_no_image(source: str) -> None:
    (found,) = findings({"source": source})
    assert found.startswith(f"{WHERE}.source: {source!r} is not valid. Allowed: hf://ORG/NAME[@REVISION], ")


def test_an_image_with_weights_is_mirrored_and_listed() -> None:
    stack = resolved({"source": "oci://quay.io/models/qwen3:32b"}, image_registry="mirror.example.com/all")
    pulled = "mirror.example.com/all/models/qwen3:32b"
    assert stack["image_sources"][pulled] == "quay.io/models/qwen3:32b"
    assert pulled in of_objects(compose("llm-d", "llm-d", stack["models"][0], MODEL_OPTIONS))


@pytest.mark.parametrize(
    ("model", "changed", "env"),
    [
        ({}, {}, {}),
        ({}, {"hf_endpoint": "https://hf.example.com/hub"}, {"HF_ENDPOINT": "https://hf.example.com/hub"}),
        (ON_NODE, {"hf_offline": "true"}, {"HF_HUB_OFFLINE": "1"}),
        ({"source": "pvc://a"}, {"hf_endpoint": "https://hf.example.com", "hf_offline": True}, {}),
        (
            {"source": "pvc://a", "lora_adapters": [{"name": "x", "source": "hf://a/b"}]},
            {"hf_endpoint": "https://hf.example.com"},
            {"HF_ENDPOINT": "https://hf.example.com"},
        ),
        # What a model says of itself goes before.
        ({"env": {"HF_ENDPOINT": "http://own"}}, {"hf_endpoint": "https://other"}, {"HF_ENDPOINT": "http://own"}),
        ({"env": {"HF_ENDPOINT": None}}, {"hf_endpoint": "https://other"}, {}),
    ],
)
def test_the_way_to_hugging_face(model: dict[str, Any], changed: dict[str, Any], env: dict[str, str]) -> None:
    entries = {entry["name"]: entry.get("value") for entry in pod(model, **changed)["container"]["env"]}
    assert {name: entries[name] for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE") if name in entries} == env


def test_the_renderer_goes_the_same_way() -> None:
    settings = {"hf_endpoint": "https://hf.example.com"}
    model = one({"engine_version": "0.5.19", "routing": "precise-prefix"}, **settings)
    renderer = next(item for item in compose("llm-d", "llm-d", model, MODEL_OPTIONS) if "render" in str(item["spec"]))
    (container,) = renderer["spec"]["template"]["spec"]["containers"]
    assert {"name": "HF_ENDPOINT", "value": "https://hf.example.com"} in container["env"]


@pytest.mark.parametrize(
    "endpoint", ["hf.example.com", "https://hf.example.com/", "ftp://a", "https://a b", "https://a?b"]
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    (found,) = findings({}, hf_endpoint=endpoint)
    assert found == (
        f"llm_d_hf_endpoint: {endpoint!r} is not an address. Write it like https://hf.example.com, without trailing slash."
    )


@pytest.mark.parametrize(
    ("model", "changed", "messages"),
    [
        (
            {"cache": {"claim": "a", "host_path": "/b"}},
            {},
            [f"{WHERE}.cache.claim: 'a', but {WHERE}.cache.host_path is '/b'. One volume keeps the cache"],
        ),
        (
            {"cache": {"claim": "a", "size": "1Gi"}},
            {},
            [f"{WHERE}.cache.size: '1Gi', but {WHERE}.cache.claim is 'a'. It limits the emptyDir"],
        ),
        (
            {"cache": {"host_path": "/b", "size": "1Gi"}},
            {},
            [f"{WHERE}.cache.size: '1Gi', but {WHERE}.cache.host_path is '/b'. It limits the emptyDir"],
        ),
        (
            {},
            {"hf_offline": True},
            [
                (
                    f"llm_d_hf_offline: true, but {WHERE}.source is 'hf://Qwen/Qwen3-32B', and {WHERE}.cache is an emptyDir "
                    "that starts empty. Name a claim or a host_path"
                )
            ],
        ),
        (
            {"cache": {"claim": "a"}, "routing": "precise-prefix", "engine_version": "0.5.19"},
            {"hf_offline": True},
            [
                (
                    f"llm_d_hf_offline: true, but {WHERE}.routing precise-prefix reads the tokenizer of "
                    "'hf://Qwen/Qwen3-32B' in pods of its own. Use pvc://"
                )
            ],
        ),
        ({"run_as": {"group": 1}}, {}, [f"{WHERE}.run_as.user: missing."]),
        ({"run_as": {"user": -1}}, {}, [f"{WHERE}.run_as.user: -1 is "]),
        ({}, {"hf_offline": "perhaps"}, ["llm_d_hf_offline: 'perhaps' is not of type bool."]),
    ],
)
def test_contradictions(model: dict[str, Any], changed: dict[str, Any], messages: list[str]) -> None:
    found = findings(model, **changed)
    assert len(found) == len(messages)
    for text, message in zip(found, messages, strict=True):
        assert text.startswith(message)


def test_prefill_and_decode_are_checked_each() -> None:
    model = {"topology": "disaggregated", "cache": {"claim": "a"}, "prefill": {"cache": {"claim": "a", "size": "1Gi"}}}
    (found,) = findings(model)
    assert found.startswith(f"{WHERE}.prefill.cache.size: '1Gi', but {WHERE}.prefill.cache.claim is 'a'.")


def test_a_directory_of_the_node_belongs_to_one_user() -> None:
    (found,) = findings({**ON_NODE, "run_as": {"user": 2000}}, {**OTHER, "run_as": {"user": 2000, "group": 0}})
    assert found == (
        "llm_d_models[1] (other).run_as: 2000:0, but llm_d_models[0] (qwen).run_as is 2000:2000, and both keep their "
        "cache in /var/lib/cache. Let them run as the same user, or give each a host_path of its own."
    )
    (found,) = findings({**ON_NODE, "run_as": {"user": 2000}}, OTHER)
    assert "the image's own, but " in found
    assert findings({**ON_NODE, "run_as": {"user": 2000}}, {**OTHER, "cache": {"claim": "a"}}) == []


def test_an_engine_gets_its_volumes_from_kubernetes_where_it_can() -> None:
    user = {"run_as": {"user": 2000, "group": 0}}
    assert "securityContext" not in pod({})
    assert pod({"cache": {"claim": "a"}, **user})["securityContext"]["fsGroup"] == 0
    assert "initContainers" not in pod({"cache": {"claim": "a"}, **user})
    assert "initContainers" not in pod(ON_NODE)
    (owning,) = pod({**ON_NODE, **user})["initContainers"]
    assert owning["command"] == ["chown", "--recursive", "2000:0", "/cache"]
    container = pod(user)["container"]["securityContext"]
    assert (container["runAsUser"], container["runAsGroup"]) == (2000, 0)
