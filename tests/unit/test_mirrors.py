"""Where images come from when there is a mirror, and the list of all that an inventory needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.llm_d.multi_engine.plugins.action.write_manifests import with_sections, write_all
from ansible_collections.llm_d.multi_engine.plugins.filter.images import FilterModule as Images
from ansible_collections.llm_d.multi_engine.plugins.filter.istiod_values import FilterModule as IstiodValues
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gaie, model_service
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.images import mirrored, of_istio, of_objects, split
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import (
    GAIE_OPTIONS,
    MODEL_OPTIONS,
    findings,
    one,
    resolved,
)

MIRROR = "registry.example.com:5000/mirror"
DIGEST = f"@sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("docker.io/lmsysorg/sglang:v1", ("docker.io/lmsysorg/sglang", ":v1")),
        ("host:5000/a/b", ("host:5000/a/b", "")),
        ("host:5000/a:v1", ("host:5000/a", ":v1")),
        (f"a/b:v1{DIGEST}", ("a/b", f":v1{DIGEST}")),
        (f"a{DIGEST}", ("a", DIGEST)),
        ("a:v1", ("a", ":v1")),
    ],
)
def test_split(reference: str, parts: tuple[str, str]) -> None:
    assert split(reference) == parts


@pytest.mark.parametrize(
    ("reference", "replaced", "pulled"),
    [
        ("docker.io/lmsysorg/sglang:v1", {}, f"{MIRROR}/lmsysorg/sglang:v1"),
        ("ghcr.io/llm-d/router:v1", {}, f"{MIRROR}/llm-d/router:v1"),
        ("localhost:5000/a/b:v1", {}, f"{MIRROR}/a/b:v1"),
        ("localhost/a", {}, f"{MIRROR}/a"),
        ("lmsysorg/sglang:v1", {}, f"{MIRROR}/lmsysorg/sglang:v1"),
        ("nginx", {}, f"{MIRROR}/nginx"),
        (f"docker.io/a/b{DIGEST}", {}, f"{MIRROR}/a/b{DIGEST}"),
        (f"{MIRROR}/a/b:v1", {}, f"{MIRROR}/a/b:v1"),
        ("docker.io/istio", {}, f"{MIRROR}/istio"),
        ("docker.io/a/b:v1", {"docker.io/a/b": "x/y"}, "x/y:v1"),
        ("docker.io/a/b:v1", {"docker.io/a/b:v1": "x/y:v2", "docker.io/a/b": "z"}, "x/y:v2"),
        ("docker.io/a/b:v1", {"docker.io/a/b:v2": "x/y:v2"}, f"{MIRROR}/a/b:v1"),
    ],
)
def test_mirrored(reference: str, replaced: dict[str, str], pulled: str) -> None:
    assert mirrored(reference, MIRROR, replaced) == pulled


def test_without_a_mirror_images_are_upstreams() -> None:
    stack = resolved({}, OTHER)
    assert stack["image_sources"] == {}
    assert stack["release"]["istio"]["hub"] == "docker.io/istio"


OTHER = {"name": "other", "source": "hf://a/b", "engine": "vllm", "routing_proxy": True}


def test_a_mirror_is_for_everything_but_what_the_user_names() -> None:
    own = {"name": "own", "source": "hf://c/d", "image": "docker.io/me/sglang:v1", "engine_version": "0.5.20"}
    stack = resolved(
        {}, OTHER, own, image_registry=MIRROR, images={"docker.io/vllm/vllm-openai": "own.example.com/vllm"}
    )
    objects = [
        item
        for model in stack["models"]
        for item in (
            *gaie.compose("s", "n", model, stack["release"], GAIE_OPTIONS),
            *model_service.compose("s", "n", model, MODEL_OPTIONS),
        )
    ]
    assert Images().filters()["images"](objects, sources=stack["image_sources"]) == [
        {"image": "docker.io/me/sglang:v1", "source": "docker.io/me/sglang:v1"},
        {"image": "own.example.com/vllm:v0.30.0", "source": "docker.io/vllm/vllm-openai:v0.30.0"},
        {"image": f"{MIRROR}/llm-d/{(name := 'llm-d-router-disagg-sidecar:v0.11.0')}", "source": f"ghcr.io/llm-d/{name}"},
        {"image": f"{MIRROR}/llm-d/{(name := 'llm-d-router-endpoint-picker:v0.11.0')}", "source": f"ghcr.io/llm-d/{name}"},
        {"image": f"{MIRROR}/lmsysorg/sglang:v0.5.20", "source": "docker.io/lmsysorg/sglang:v0.5.20"},
    ]  # fmt: skip
    values = IstiodValues().filters()["istiod_values"](stack["release"], {}, "", "registry,other")
    assert values["global"]["imagePullSecrets"] == ["registry", "other"]
    assert Images().filters()["images"](values, "istiod_values", stack["image_sources"]) == [
        {"image": f"{MIRROR}/istio/{name}:1.29.2", "source": f"docker.io/istio/{name}:1.29.2"}
        for name in ("pilot", "proxyv2")
    ]


@pytest.mark.parametrize(
    ("values", "images"),
    [
        ({"global": {"hub": "h", "tag": "1"}}, ["h/pilot:1", "h/proxyv2:1"]),
        ({"global": {"hub": "h", "tag": "1", "variant": "distroless"}}, ["h/pilot:1-distroless", "h/proxyv2:1-distroless"]),
        ({"global": {"hub": "h", "tag": "1"}, "pilot": {"hub": "i", "tag": "2"}}, ["h/proxyv2:1", "i/pilot:2"]),
        ({"global": {"hub": "h", "tag": "1", "proxy": {"image": "a/b:c"}}, "pilot": {"image": "d"}}, ["a/b:c", "h/d:1"]),
    ],
)  # fmt: skip
def test_images_of_istio(values: dict[str, Any], images: list[str]) -> None:
    assert of_istio(values) == images


def test_images_of_objects() -> None:
    pod = {
        "initContainers": [{"image": "b"}],
        "containers": [{"image": "a"}, {"image": "b"}, {"name": "injected"}],
        "volumes": [{"image": {"reference": "c"}}, {"emptyDir": {}}],
    }
    assert of_objects([{"spec": {"template": {"spec": pod}}}, {"spec": {"image": "no pod"}}]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("model", "secrets"), [({}, ["registry"]), ({"image_pull_secrets": ["own"]}, ["own"])]
)  # fmt: skip
def test_pull_secrets(model: dict[str, Any], secrets: list[str]) -> None:
    assert one(model, image_pull_secrets=["registry"])["image_pull_secrets"] == secrets


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"image_registry": "https://registry.example.com"},
            (
                "llm_d_image_registry: 'https://registry.example.com' is no place for images. Write it without scheme, "
                "tag and trailing slash, like registry.example.com/mirror."
            ),
        ),
        (
            {"image_registry": "registry.example.com/"},
            (
                "llm_d_image_registry: 'registry.example.com/' is no place for images. Write it without scheme, "
                "tag and trailing slash, like registry.example.com/mirror."
            ),
        ),
        (
            {"image_registry": ["a"]},
            "llm_d_image_registry: ['a'] is not of type str. Allowed: text.",
        ),
        (
            {"images": {"docker.io/lmsysorg/sglang": "x y"}},
            (
                "llm_d_images.docker.io/lmsysorg/sglang: 'x y' is no image reference. "
                "Write it like registry.example.com/lmsysorg/sglang."
            ),
        ),
        (
            {"images": {"docker.io/lmsysorg/sglang": "a/b:v1"}},
            (
                "llm_d_images.docker.io/lmsysorg/sglang: 'a/b:v1' has a tag. "
                "Give a tag or a digest on both sides, or on none to keep the tag."
            ),
        ),
        (
            {"images": {"docker.io/lmsysorg/sglang:v0.5.20": "a/b"}},
            (
                "llm_d_images.docker.io/lmsysorg/sglang:v0.5.20: 'a/b' has no tag. "
                "Give a tag or a digest on both sides, or on none to keep the tag."
            ),
        ),
        (
            {"images": "a"},
            "llm_d_images: 'a' is not of type dict. Allowed: a dict.",
        ),
    ],
)
def test_mirrors_that_are_refused(changed: dict[str, Any], message: str) -> None:
    assert findings({}, **changed) == [message]


def test_an_image_that_nobody_has_is_mistyped() -> None:
    (message,) = findings({}, images={"docker.io/lmsys/sglang": "a/b"})
    assert message.startswith(
        "llm_d_images.docker.io/lmsys/sglang: no engine and no release has this image. "
        "Did you mean 'docker.io/lmsysorg/sglang'? Known: docker.io/istio, "
    )
    assert message.endswith("add 'images' to llm_d_overrides.")
    assert findings({}, images={"docker.io/lmsys/sglang": "a/b"}, overrides=["images"]) == []


def test_sections_of_a_file(tmp_path: Path) -> None:
    def write(section: str, content: Any) -> dict[str, Any]:
        texts = with_sections(str(tmp_path), {"images.yaml": {section: content}})
        return write_all(str(tmp_path), texts, False, shared=True)

    (tmp_path / "other.yaml").write_text("a: 1\n")
    assert write("gaie", {"images": ["a"]})["written"] == [str(tmp_path / "images.yaml")]
    assert write("models", {"images": ["b"]})["changed"]
    assert write("gaie", {"images": ["c"]}) | {"diff": None} == {
        "changed": True,
        "written": [str(tmp_path / "images.yaml")],
        "stale": [],
        "diff": None,
    }
    assert not write("gaie", {"images": ["c"]})["changed"]
    text = (tmp_path / "images.yaml").read_text()
    assert text == "---\ngaie:\n  images:\n  - c\nmodels:\n  images:\n  - b\n"


@pytest.mark.parametrize("text", ["- a\n", "a: 1\n---\nb: 1\n", "a: ["])
def test_a_file_of_somebody_else_is_not_overwritten(text: str, tmp_path: Path) -> None:
    (tmp_path / "images.yaml").write_text(text)
    with pytest.raises(AnsibleActionFail, match="Remove it"):
        with_sections(str(tmp_path), {"images.yaml": {"a": 1}})
