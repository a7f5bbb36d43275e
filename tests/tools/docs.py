"""Write the parts of the READMEs that other files already say.

    python tests/tools/docs.py            bring the READMEs up to date
    python tests/tools/docs.py --check    change nothing; exit 1 where one has drifted
    python tests/tools/docs.py matrix     print one part, here the matrix of releases, engines, topologies and routings

A part stands between `<!-- begin generated: NAME -->` and `<!-- end generated -->`; NAME is a key
of PARTS. Tables come from the roles' argument specifications and defaults, and from the catalogue
of engines and releases.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = ROOT / "roles" / "inference_engine" / "vars"
PART = re.compile(r"(<!-- begin generated: (\S+) -->\n).*?(<!-- end generated -->)", re.DOTALL)
# "{{ llm_d_namespace | default('llm-d') }}" and "{{ gaie_namespace }}"
EXPRESSION = re.compile(r"\{\{ (\w+)(?: \| default\(('[^']*'|\[\]|\{\}|\w+)\))? \}\}")
INPUT = re.compile(r"\{\{ ((?:llm_d|inference_engine)\w*) \| default\(")
ROLES = (
    "inference_engine",
    "istio_gateway",
    "rollout",
    "gaie",
    "model_service",
    "smoke_test",
    "stack_status",
    "adopt",
    "gpu_node",
    "gpu_cluster",
)
# Ansible's marks for options, values and code.
MARK = re.compile(r"\b[OVC]\(([^)]*)\)")


def load(path: Path) -> Any:
    """Return the data of a YAML file."""
    return yaml.safe_load(path.read_text())


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(value: Any) -> str:
    """Return a value as it is written in YAML, as code."""
    if isinstance(value, str):
        return f"`{value}`" if value else "`''`"
    return f"`{yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix('...' + chr(10)).strip()}`"


def prose(description: str | list[str]) -> str:
    """Return a description without Ansible's marks."""
    text = description if isinstance(description, str) else " ".join(description)
    return MARK.sub(r"`\1`", text)


def default(value: Any, defaults: dict[str, Any]) -> str:
    """Return a role's default: a value, or the variable that it is taken from.

    :param defaults: all defaults of the role.
    """
    if not isinstance(value, str) or "{{" not in value:
        return code(value)
    match = EXPRESSION.fullmatch(value)
    if not match:
        return "see meaning" if "default(" in value else code(value)
    source, otherwise = match.groups()
    return f"`{source}`" + (f", else {fallback(otherwise, defaults)}" if otherwise else "")


def fallback(otherwise: str, defaults: dict[str, Any]) -> str:
    """Return what a default is when the variable that it is taken from is not set."""
    inner = INPUT.match(str(defaults.get(otherwise)))
    # `inference_engine_namespace` is itself taken from `llm_d_namespace`.
    return f"`{inner[1]}`" if inner else code(yaml.safe_load(otherwise))


def options(role: str) -> dict[str, dict]:
    """Return the options of a role's argument specification."""
    return load(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]


def meaning(option: dict) -> str:
    """Return an option's description, with the values that it may have."""
    text = prose(option["description"])
    if "of_model" in option:
        text += f" Keys: {', '.join(f'`{key}`' for key in option['of_model'])}."
    choices = [f"`{choice}`" for choice in option.get("choices", [])]
    # Most descriptions explain each value.
    if any(choice not in text for choice in choices):
        text += f" One of {', '.join(choices)}." if len(choices) > 1 else f" Only {choices[0]} so far."
    return text


def role_variables(role: str) -> str:
    """Return the table of a role's variables."""
    defaults = load(ROOT / "roles" / role / "defaults/main.yml")
    rows = ([f"`{name}`", default(defaults[name], defaults), meaning(option)] for name, option in options(role).items())
    return table(["variable", "default", "meaning"], rows)


def collection_variables() -> str:
    """Return the table of the collection's inputs, which the roles' defaults are taken from."""
    first: dict[str, list[str]] = {}
    readers: dict[str, list[str]] = {}
    # The role that resolves everything comes first and describes them best.
    for role in ROLES:
        defaults = load(ROOT / "roles" / role / "defaults/main.yml")
        for name, value in defaults.items():
            match = INPUT.match(str(value))
            if not match:
                continue
            preset = default(value, defaults).partition(", else ")[2] or "see meaning"
            first.setdefault(match[1], [preset, meaning(options(role)[name])])
            readers.setdefault(match[1], []).append(role)
    rows = (
        [f"`{name}`", *first[name], "all" if len(read) == len(ROLES) else ", ".join(f"`{role}`" for role in read)]
        for name, read in readers.items()
    )
    return table(["variable", "default", "meaning", "roles"], rows)


def flattened(keys: dict[str, dict], prefix: str = "") -> Iterator[tuple[str, dict]]:
    """Give the keys of a model with those inside of them, as `route.header.name`."""
    for name, option in keys.items():
        # Probes are Kubernetes' own; naming their fields would hide the rest of the table.
        yield f"{prefix}{name}", option
        if prefix != "probes.":
            yield from flattened(option.get("options", {}), f"{prefix}{name}.")


def model_keys() -> str:
    """Return the table of all keys of a model."""
    keys = load(CATALOGUE / "model.yml")["__inference_engine_model_schema"]["options"]
    rows = []
    for name, option in flattened(keys):
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        text = meaning(option)
        if "allowed" in option:
            text += f" Write {option['allowed']}."
        bounds = [f"at least {option['minimum']}"] if "minimum" in option else []
        bounds += [f"at most {option['maximum']}"] if "maximum" in option else []
        if bounds:
            text += f" {' and '.join(bounds).capitalize()}."
        preset = "**required**" if option.get("required") else code(option["default"]) if "default" in option else ""
        rows.append([f"`{name}`", kind, preset, text])
    return table(["key", "type", "default", "meaning"], rows)


def catalogue(kind: str) -> dict[str, dict]:
    """Return all engines or all releases, by name, newer ones first."""
    entries = {name: data for path in (CATALOGUE / kind).glob("*.yml") for name, data in load(path).items()}
    return dict(sorted(entries.items(), key=lambda entry: natural(entry[0]), reverse=True))


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts `llm-d-0.10` behind `llm-d-0.9`."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)]


def engines() -> str:
    """Return the table of engines."""
    rows = (
        [
            f"`{name}`",
            data["title"],
            f"`{data['versions']}`",
            f"`{data['image']['repository']}`",
            ", ".join(f"`{accelerator}`" for accelerator in data["accelerators"]),
        ]
        for name, data in sorted(catalogue("engines").items())
    )
    return table(["`inference_engine`", "engine", "known versions", "image", "accelerators"], rows)


def releases() -> str:
    """Return the table of releases."""
    known = sorted(catalogue("engines"))
    rows = (
        [
            f"`{name}`",
            f"`{data['kubernetes']}`",
            f"{data['istio']['version']} (existing: `{data['istio']['existing']}`)",
            data["gateway_api"]["version"],
            data["gaie"]["version"],
            f"`{data['endpoint_picker']['image'].rpartition('/')[2]}`",
            *(
                f"{data['engines'][engine]['default']} (`{data['engines'][engine]['versions']}`)"
                if engine in data["engines"]
                else ""
                for engine in known
            ),
        ]
        for name, data in catalogue("releases").items()
    )
    parts = ["`llm_d_release`", "Kubernetes", "Istio", "Gateway API", "GAIE", "endpoint picker"]
    return table([*parts, *(f"`{engine}` (allowed)" for engine in known)], rows)


def evidence() -> str:
    """Return the table of what is known about each release, and how."""
    rows = (
        [f"`{name}`", f"`{part}`", fact["kind"], fact["note"]]
        for name, data in catalogue("releases").items()
        for part, fact in data["evidence"].items()
    )
    return table(["release", "part", "evidence", "note"], rows)


def matrix() -> str:
    """Return the table of what each release can do with each engine; a test composes every cell of it."""
    rows = []
    for name, data in catalogue("releases").items():
        picker = data["endpoint_picker"]
        for engine, profile in sorted(catalogue("engines").items()):
            pinned = data["engines"].get(engine, {"versions": profile["versions"]})
            note = f"`{pinned['versions']}`" + ("" if "default" in pinned else ", to be named")
            # Engines that tell nobody what is in their caches.
            never = {} if profile["kv_events"] else {"precise-prefix": "the engine publishes no KV events"}
            ways = [", ".join(f"`{way}`" for way in ways if way not in never) for ways in picker["config"].values()]
            lacks = [f"no `{what}`: {why}" for what, why in {**never, **picker["lacks"]}.items()]
            rows.append([f"`{name}`", f"`{engine}`", note, *(way or "no" for way in ways), "; ".join(lacks)])
    return table(["release", "engine", "versions", "aggregated", "disaggregated", "not"], rows)


PARTS: dict[str, Callable[[], str]] = {
    "collection-variables": collection_variables,
    "model-keys": model_keys,
    "engines": engines,
    "releases": releases,
    "matrix": matrix,
    "evidence": evidence,
}


def filled(readme: Path) -> str:
    """Return the text of a README with its generated parts brought up to date."""

    def replace(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        body = role_variables(readme.parent.name) if name == "variables" else PARTS[name]()
        return f"{begin}\n{body}\n{end}"

    return PART.sub(replace, readme.read_text())


def main() -> int:
    given = sys.argv[1:]
    check = given == ["--check"]
    if len(given) == 1 and given[0] in PARTS:
        print(PARTS[given[0]]())
        return 0
    if given and not check:
        print(__doc__, file=sys.stderr)
        return 2
    drifted = []
    for readme in (ROOT / "README.md", *sorted(ROOT.glob("roles/*/README.md"))):
        wanted = filled(readme)
        if wanted != readme.read_text():
            drifted.append(str(readme.relative_to(ROOT)))
            if not check:
                readme.write_text(wanted)
    if drifted:
        print(f"{'drifted, run python tests/tools/docs.py' if check else 'written'}: {', '.join(drifted)}")
    return 1 if drifted and check else 0


if __name__ == "__main__":
    sys.exit(main())
