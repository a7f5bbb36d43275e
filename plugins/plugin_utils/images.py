# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Container images: where they come from when there is a mirror, and which ones objects need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .findings import Finding, did_you_mean, listing

RULE = "images"
_REGISTRY = re.compile(r"[A-Za-z0-9][-A-Za-z0-9.]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_REFERENCE = re.compile(r"[A-Za-z0-9][-A-Za-z0-9.]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[\w][\w.-]*)?(@sha256:\w+)?")


def split(reference: str) -> tuple[str, str]:
    """Return the repository and the rest (``:tag``, ``@digest``, nothing) of an image reference."""
    repository, at, digest = reference.partition("@")
    head, slash, name = repository.rpartition("/")
    name, colon, tag = name.partition(":")
    return f"{head}{slash}{name}", f"{colon}{tag}{at}{digest}"


def mirrored(reference: str, registry: str, replaced: Mapping[str, str]) -> str:
    """Return from where to pull the image ``reference``.

    :param registry: prefix that takes the place of the image's registry, empty for none:
        ``docker.io/lmsysorg/sglang:v1`` becomes ``<registry>/lmsysorg/sglang:v1``.
    :param replaced: reference, or repository of any tag, to what takes its place as a whole.
    """
    repository, rest = split(reference)
    if reference in replaced:
        return replaced[reference]
    if repository in replaced:
        return replaced[repository] + rest
    if not registry or reference.startswith(f"{registry}/"):
        return reference
    return f"{registry}/{_path(repository)}{rest}"


def _path(repository: str) -> str:
    """Return a repository without its registry, which has a dot or a port."""
    first, slash, path = repository.partition("/")
    return path if slash and ("." in first or ":" in first or first == "localhost") else repository


def mirrored_release(release: Mapping[str, Any], registry: str, replaced: Mapping[str, str]) -> dict[str, Any]:
    """Return ``release`` with its own images, and those of Istio, pulled from the mirror."""
    result: dict[str, Any] = {}
    for name, part in release.items():
        result[name] = part
        if isinstance(part, Mapping) and isinstance(part.get("image"), str):
            result[name] = {**part, "image": mirrored(part["image"], registry, replaced)}
    result["istio"] = {**release["istio"], "hub": mirrored(release["istio"]["hub"], registry, replaced)}
    return result


def sources(release: Mapping[str, Any], registry: str, replaced: Mapping[str, str]) -> dict[str, str]:
    """Return for what is pulled by ``release``, not yet mirrored, where upstream has it."""
    parts = [part.get("image") for part in release.values() if isinstance(part, Mapping)]
    own = [image for image in (*parts, release["istio"]["hub"]) if isinstance(image, str)]
    return {mirrored(image, registry, replaced): image for image in own}


def with_sources(images: Sequence[str], known: Mapping[str, str]) -> list[dict[str, str]]:
    """Return for each of ``images`` what is pulled (``image``) and where upstream has it (``source``).

    :param known: image, or prefix of Istio's, to where upstream has it; others are upstream's already.
    """
    return [{"image": image, "source": _source(image, known)} for image in images]


def _source(image: str, known: Mapping[str, str]) -> str:
    hub, _slash, name = image.rpartition("/")
    if image not in known and hub in known:
        return f"{known[hub]}/{name}"
    return known.get(image, image)


def check(registry: str, replaced: Mapping[str, str], catalogue: Mapping[str, Any], findings: list[Finding]) -> None:
    """Append what is wrong with a mirror's prefix and with the images that have one of their own.

    :param catalogue: as :func:`resolve.resolve` takes it; its images are those that can be replaced.
    """
    if registry and not _REGISTRY.fullmatch(registry):
        remedy = "Write it without scheme, tag and trailing slash, like registry.example.com/mirror."
        findings.append(Finding(RULE, "llm_d_image_registry", f"{registry!r} is no place for images.", remedy))
    known = sorted({split(reference)[0] for part in ("engines", "releases") for reference in _known(catalogue[part])})
    for reference, target in replaced.items():
        where = f"llm_d_images.{reference}"
        repository, rest = split(str(reference))
        if repository not in known:
            remedy = f"{did_you_mean(repository, known)}Known: {listing(known)}."
            findings.append(Finding(RULE, where, "no engine and no release has this image.", remedy, overridable=True))
        if not _REFERENCE.fullmatch(target):
            remedy = "Write it like registry.example.com/lmsysorg/sglang."
            findings.append(Finding(RULE, where, f"{target!r} is no image reference.", remedy))
        elif bool(rest) != bool(split(target)[1]):
            problem = f"{target!r} {'has no tag' if rest else 'has a tag'}."
            remedy = "Give a tag or a digest on both sides, or on none to keep the tag."
            findings.append(Finding(RULE, where, problem, remedy))


def _known(value: Any) -> Iterable[str]:
    """Give all images that the catalogue holds, wherever in it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in ("image", "hub", "repository") and isinstance(item, str) and "://" not in item:
                yield item
            yield from _known(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _known(item)


def of_objects(objects: Sequence[Any]) -> list[str]:
    """Return the images that the pods of Kubernetes ``objects`` need, each once, sorted."""
    return sorted(set(_found(objects)))


def _found(value: Any) -> Iterable[str]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _found(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _found(item)
        if isinstance(value.get("containers"), list):
            yield from _of_pod(value)


def _of_pod(spec: Mapping[str, Any]) -> Iterable[str]:
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        if container.get("image"):
            yield container["image"]
    for volume in spec.get("volumes") or []:
        if "image" in volume:
            yield volume["image"]["reference"]


def of_istio(values: Mapping[str, Any]) -> list[str]:
    """Return the images that istiod and the gateways that it makes need, by its chart's ``values``."""
    common, pilot = values["global"], values.get("pilot") or {}
    return sorted(
        [
            _istio_image({**common, **pilot}, pilot.get("image") or "pilot"),
            _istio_image(common, (common.get("proxy") or {}).get("image") or "proxyv2"),
        ]
    )


def _istio_image(values: Mapping[str, Any], name: str) -> str:
    # A name with a slash is a whole reference.
    variant = f"-{values['variant']}" if values.get("variant") else ""
    return name if "/" in name else f"{values['hub']}/{name}:{values['tag']}{variant}"
