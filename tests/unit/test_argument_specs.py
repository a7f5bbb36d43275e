"""A role's variables are written in three places, which have to say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())

pytestmark = pytest.mark.parametrize("role", ROLES)


def load(role: str, file: str) -> dict:
    return yaml.safe_load((ROOT / "roles" / role / file).read_text()) or {}


def options(role: str) -> dict:
    return load(role, "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})


def test_defaults_and_specification_have_the_same_variables(role: str) -> None:
    required = {name for name, option in options(role).items() if option.get("required")}
    assert load(role, "defaults/main.yml").keys() == options(role).keys() - required


def test_defaults_and_specification_have_the_same_values(role: str) -> None:
    specified = {name: option["default"] for name, option in options(role).items() if "default" in option}
    defaults = load(role, "defaults/main.yml")
    assert {name: defaults.get(name) for name in specified} == specified


def test_the_readme_explains_every_variable(role: str) -> None:
    readme = (ROOT / "roles" / role / "README.md").read_text()
    assert not [name for name in options(role) if f"`{name}`" not in readme]


def test_the_role_says_what_it_is_and_needs(role: str) -> None:
    oldest = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["requires_ansible"]
    about = load(role, "meta/main.yml")["galaxy_info"]
    assert about["description"]
    assert f">={about['min_ansible_version']}" in oldest
