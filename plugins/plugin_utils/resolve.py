# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""From what an inventory says of a stack to its release and its models with every decision made.

No other code decides what an engine, a release or an accelerator means: the functions that
compose Kubernetes objects only read what is resolved here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from . import (
    body_router,
    gaie,
    images,
    model_service,
    one_model,
    own_engines,
    patches,
    profiles,
    schema,
    testers,
    tracks,
    upgrade,
    weights,
)
from . import catalogue as catalogue_checks
from .findings import Finding, did_you_mean, listing

_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
#: Settings of a stack, the variable that users know each by, and its type.
_VARIABLES: dict[str, tuple[str, dict[str, str]]] = {
    "engine": ("inference_engine", {"type": "str"}),
    "release": ("llm_d_release", {"type": "str"}),
    "namespace": ("llm_d_namespace", {"type": "str"}),
    "stack": ("llm_d_stack", {"type": "str"}),
    "accelerator": ("llm_d_accelerator", {"type": "str"}),
    "model_defaults": ("llm_d_model_defaults", {"type": "dict"}),
    "overrides": ("llm_d_overrides", {"type": "list", "elements": "str"}),
    "patches": ("llm_d_patches", {"type": "list", "elements": "raw"}),
    "image_registry": ("llm_d_image_registry", {"type": "str"}),
    "images": ("llm_d_images", {"type": "dict", "values": "str"}),
    "image_pull_secrets": ("llm_d_image_pull_secrets", {"type": "list", "elements": "str"}),
    "hf_endpoint": ("llm_d_hf_endpoint", {"type": "str"}),
    "hf_offline": ("llm_d_hf_offline", {"type": "bool"}),
    "body_routing": ("llm_d_body_routing", {"type": "bool"}),
    "prometheus": ("llm_d_prometheus", {"type": "str"}),
}


def resolve(settings: Mapping[str, Any], catalogue: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the roles need to know of a stack, or why it is refused.

    :param settings: ``engine``, ``release``, ``namespace``, ``stack``, ``accelerator`` (each a
        str, the first may be empty), ``models`` (list of dicts), ``model_defaults`` (dict of a
        model's keys, for every model that does not set them), ``patches`` (list of dicts),
        ``image_registry`` (str), ``images`` (dict of str), ``image_pull_secrets`` (list of str),
        ``hf_endpoint``, ``prometheus`` (str), ``hf_offline``, ``body_routing`` (bool), ``overrides`` (names of rules to wave through)
        and ``hosts`` (GPU hosts that models take their network cards from, see :func:`network_cards.host`).
    :param catalogue: ``engines``, ``releases`` (name to data), ``engine_files`` (see
        :func:`own_engines.added`), ``model_schema`` and ``rules``.
    :returns: ``stack``, ``namespace``, ``release`` (dict with ``name``), ``engines`` (name to
        what the data path needs), ``devices`` (Kubernetes resources that are accelerators),
        ``metrics`` (of all engines by name, also of one that served before),
        ``models`` (list, see :func:`_model`), ``rules`` (the catalogue's, for hosts to be compared
        with), ``releases`` (see :func:`upgrade.outline`), ``notes`` (list of str) and ``findings`` (list of str; the rest is incomplete unless it is empty).
    """
    findings: list[Finding] = []
    settings = _settings(settings, findings)
    catalogue = own_engines.added(catalogue, findings)
    images.check(*one_model.mirror(settings), catalogue, findings)
    weights.check_hub(settings, findings)
    release = _release(settings, catalogue, findings)
    _check_names(settings, findings)
    one_model.check_engine(settings.get("engine"), "inference_engine", catalogue, findings)
    models = _models(settings, catalogue, release, findings)
    findings += body_router.check(settings["body_routing"], release, catalogue["releases"], models)
    stack_patches = _stack_patches(settings["patches"], catalogue, findings)
    findings = [item for item in findings if not (item.overridable and item.rule in settings["overrides"])]
    if not findings and (stack_patches or any(model["patches"] for model in models)):
        _try_patches(settings, models, release, stack_patches, findings)
    return {
        "stack": settings["stack"],
        "namespace": settings["namespace"],
        "release": release,
        "engines": _engines(settings, catalogue, models),
        "devices": profiles.devices(catalogue["engines"]),
        "metrics": {name: profile["metrics"] for name, profile in catalogue["engines"].items()},
        "models": models,
        "body_routing": settings["body_routing"],
        "patches": stack_patches,
        "image_sources": _image_sources(settings, catalogue, release, models),
        "rules": catalogue["rules"],
        "releases": upgrade.outline(catalogue["releases"], release),
        "notes": _notes(settings, models),
        "findings": [str(item) for item in findings],
    }


def _settings(settings: Mapping, findings: list[Finding]) -> dict[str, Any]:
    """Return ``settings`` with every value of its type; the list of models is left to :func:`_models`."""
    result = {"models": settings.get("models") or [], "hosts": settings.get("hosts") or []}
    for name, (variable, spec) in _VARIABLES.items():
        empty = {"str": "", "list": [], "dict": {}, "bool": False}[spec["type"]]
        own: list[Finding] = []
        checked = schema.check(settings.get(name) or empty, spec, variable, own)
        result[name] = empty if own else checked
        findings += own
    return result


def _release(settings: Mapping, catalogue: Mapping, findings: list[Finding]) -> dict[str, Any]:
    name, releases = settings["release"], catalogue["releases"]
    if name in releases:
        found = catalogue_checks.check_release(f"{name} (llm_d_release)", releases[name])
        findings += found
        return {} if found else {"name": name, **images.mirrored_release(releases[name], *one_model.mirror(settings))}
    remedy = f"{did_you_mean(name, releases)}Known releases: {listing(sorted(releases))}."
    findings.append(Finding("release", "llm_d_release", f"unknown release {name!r}.", remedy))
    return {}


def _image_sources(settings: Mapping, catalogue: Mapping, release: Mapping, models: list[dict]) -> dict[str, str]:
    """Return for each image that is not pulled from upstream where upstream has it."""
    known = images.sources(catalogue["releases"][release["name"]], *one_model.mirror(settings)) if release else {}
    known.update({model["image"]: model["image_source"] for model in models})
    for model in models:
        source = weights.image_source(model["source"])
        if source:
            known[model["weights"]["volume"]["image"]["reference"]] = source
    return {image: source for image, source in known.items() if image != source}


def _check_names(settings: Mapping, findings: list[Finding]) -> None:
    for variable, value in (("llm_d_namespace", settings["namespace"]), ("llm_d_stack", settings["stack"])):
        if not _DNS_LABEL.fullmatch(str(value)):
            remedy = "Allowed: lower-case letters, digits and '-', at most 63, beginning with a letter."
            findings.append(Finding("name", variable, f"{value!r} is not a DNS label.", remedy))


def _models(settings: Mapping, catalogue: Mapping, release: Mapping, findings: list[Finding]) -> list[dict[str, Any]]:
    given = settings["models"]
    if not isinstance(given, (list, tuple)):
        remedy = "Allowed: a list of models, each with name and source."
        findings.append(Finding("models", "llm_d_models", f"{given!r} is not a list.", remedy))
        return []
    defaults = _model_defaults(settings, catalogue, findings)
    resolved = []
    for index, entry in enumerate(given):
        where = _where(index, entry)
        own: list[Finding] = []
        if isinstance(entry, Mapping):
            entry = {**defaults, **entry}
        checked = schema.check(entry, catalogue["model_schema"], where, own)
        if not own:
            model = one_model.resolve(checked, where, settings, catalogue, release, own)
            resolved += [model] if model else []
        findings += own
    _check_unique(given, resolved, findings)
    weights.check_owners(resolved, findings)
    _settle_routes(resolved)
    testers.check(resolved, findings)
    return resolved


def _model_defaults(settings: Mapping, catalogue: Mapping, findings: list[Finding]) -> Mapping[str, Any]:
    """Return the defaults of all models; none when they are wrong, so that this is told once."""
    own: list[Finding] = []
    options = catalogue["model_schema"]["options"]
    optional = {name: {**option, "required": False} for name, option in options.items()}
    schema.check(settings["model_defaults"], {"type": "dict", "options": optional}, "llm_d_model_defaults", own)
    findings += own
    return {} if own else settings["model_defaults"]


def _stack_patches(given: list, catalogue: Mapping, findings: list[Finding]) -> list[dict[str, Any]]:
    spec = catalogue["model_schema"]["options"]["patches"]
    own: list[Finding] = []
    checked = schema.check(given, spec, "llm_d_patches", own)
    findings += own
    return [] if own else one_model.placed(checked, "llm_d_patches", findings)


def _try_patches(
    settings: Mapping, models: list[dict], release: Mapping, stack_patches: list[dict], findings: list[Finding]
) -> None:
    """Lay all patches over what the models give, so that what does not fit is told before anything is changed.

    Roles have options of their own, which are not known here: what they decide about an endpoint picker is found when
    it is composed.
    """
    every, unsure = [], []
    options = defaultdict(str, pod_monitor=True, network_policies=True)
    place = settings["stack"], settings["namespace"]
    for model in models:
        pickers = gaie.compose(*place, model, release, options)
        servers = model_service.compose(*place, model, options)
        patches.check_targets(model["patches"], pickers + servers, findings)
        own = [*stack_patches, *model["patches"]]
        patches.apply(servers, own, findings)
        patches.apply(pickers, own, unsure)
        every += pickers + servers
    findings += [item for item in unsure if item.rule == patches.IDENTITY_RULE]
    # A patch of the stack fails in the same way for every model.
    findings[:] = dict.fromkeys(findings)
    if models:
        # Role istio_gateway knows the name of its Gateway.
        patches.check_targets(stack_patches, every, findings, elsewhere=["Gateway"])


def _where(index: int, entry: Any) -> str:
    name = _name(entry)
    return f"llm_d_models[{index}] ({name})" if name else f"llm_d_models[{index}]"


def _name(entry: Any) -> str | None:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) else None


def _check_unique(given: Any, resolved: list[dict], findings: list[Finding]) -> None:
    names: dict[str, int] = {}
    for index, entry in enumerate(given):
        name = _name(entry)
        if name in names:
            problem = f"name {name!r} is taken by llm_d_models[{names[name]}]."
            findings.append(Finding("unique", f"llm_d_models[{index}].name", problem, "Names are unique in a stack."))
        elif name:
            names[name] = index
    for name, index in names.items():
        own, dash, last = name.rpartition("-")
        if dash and last in tracks.RESERVED and own in names:
            problem = f"{name!r} is what a rollout of llm_d_models[{names[own]}] ({own}) calls objects of its own."
            findings.append(Finding("unique", f"llm_d_models[{index}].name", problem, "Choose another name."))
    routes: dict[tuple[str, str], str] = {}
    for model in resolved:
        for match, key in _matches(model):
            place = f"{model['where']}.{key}"
            if match in routes:
                problem = f"{match[1]!r} is that of {routes[match]}, too."
                remedy = "Give one of them another served_name, route.header or route.path."
                if match[0] == "default":
                    problem = f"true, as {routes[match]}."
                    remedy = "Set it for at most one model."
                findings.append(Finding("unique", place, problem, remedy))
            routes.setdefault(match, place)


def _matches(model: Mapping) -> list[tuple[tuple[str, str], str]]:
    """Return what brings requests to ``model``, each with the key of the model that says so."""
    route = model["route"]
    result = []
    if route["path"]:
        result.append((("path", route["path"]), "route.path"))
    if route["header"]:
        name, own = route["header"]["name"].lower(), route["header"]["value"]
        key = "served_name" if own == model["served_name"] else "route.header"
        result.append((("header", f"{name}: {own}"), key))
        result += [(("header", f"{name}: {value}"), "lora_adapters") for value in route["adapters"]]
    if route["default"]:
        result.append((("default", ""), "route.default"))
    return result


def _settle_routes(models: list[dict]) -> None:
    """A lone model takes all requests unless it says otherwise."""
    for model in models:
        if model["route"]["default"] is None:
            model["route"]["default"] = len(models) == 1


def _engines(settings: Mapping, catalogue: Mapping, models: list[dict]) -> dict[str, Any]:
    """Return what the data path needs of each engine in use, the default one included."""
    used = {model["engine"]: model["http"] for model in models}
    default = settings.get("engine")
    if default in catalogue["engines"]:
        used.setdefault(default, catalogue["engines"][default]["http"])
    return {name: {"http": http} for name, http in used.items()}


def _notes(settings: Mapping, models: list[dict]) -> list[str]:
    default = settings.get("engine")
    return [
        f"Model {model['name']} names its own engine {model['engine']}; inference_engine={default} does not change it."
        for model in models
        if default and model["engine"] != default
    ]
