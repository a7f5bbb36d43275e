"""Files of the catalogue, and of users."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.catalogue_files import FileError, load
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import VARS


def test_what_is_shipped() -> None:
    found = load(VARS)
    assert set(found["engines"]) == {path.stem for path in (VARS / "engines").iterdir()}
    assert set(found["releases"]) == {path.stem for path in (VARS / "releases").iterdir()}
    assert found["engine_files"] == {}
    assert found["rules"]
    assert found["model_schema"]["options"]["name"]["required"]


def test_files_of_the_user(tmp_path: Path) -> None:
    release, engine = tmp_path / "mine.yml", tmp_path / "engine.yml"
    release.write_text(yaml.safe_dump({"mine": {"kubernetes": "{{ no template }}"}}))
    engine.write_text("name: {}")
    found = load(VARS, str(release), [str(engine), "/nowhere.yml"])
    assert found["releases"]["mine"] == {"kubernetes": "{{ no template }}"}
    assert "gaie-1.5" in found["releases"]
    # What is wrong with them is told with everything else.
    assert found["engine_files"] == {str(engine): "name: {}", "/nowhere.yml": None}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"^llm_d_release: \S+/mine.yml is no file. Name a YAML file"),
        ("{", r"^llm_d_release: \S+/mine.yml is no YAML: "),
        ("text", r"^llm_d_release: \S+/mine.yml has no release. Write its name as the only key"),
    ],
)
def test_a_release_that_cannot_be_read(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "mine.yml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FileError, match=told):
        load(VARS, str(path))
