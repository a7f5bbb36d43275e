from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.action.write_manifests import write_all
from ansible_collections.llm_d.multi_engine.plugins.module_utils.documents import text


def write(folder: Path, files: dict[str, Any], check_mode: bool = False) -> dict[str, Any]:
    """Do what the action does, in a folder inside ``folder``."""
    texts = {f"{name}.yaml": text(content) for name, content in files.items()}
    return write_all(str(folder / "out"), texts, check_mode)


def test_second_run_changes_nothing(tmp_path: Path) -> None:
    files = {"qwen": [{"kind": "A"}, {"kind": "B"}], "values": {"x": 1}}
    paths = [str(tmp_path / "out" / name) for name in ("qwen.yaml", "values.yaml")]
    first = write(tmp_path, files)
    assert (first["changed"], first["written"], first["stale"]) == (True, paths, [])
    assert [Path(path).read_text() for path in paths] == ["---\nkind: A\n---\nkind: B\n", "---\nx: 1\n"]
    assert write(tmp_path, files) == {"changed": False, "written": [], "stale": [], "diff": []}


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write(tmp_path, {"a": {"x": 1}})
    (tmp_path / "usual").touch()
    (file,) = (tmp_path / "out").iterdir()
    assert file.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_changed_and_what_is_stale(tmp_path: Path) -> None:
    write(tmp_path, {"a": [{"x": 1}], "b": [{"y": 1}]})
    path = str(tmp_path / "out" / "a.yaml")
    result = write(tmp_path, {"a": [{"x": 2}]})
    assert (result["written"], result["stale"]) == ([path], [str(tmp_path / "out" / "b.yaml")])
    assert result["diff"] == [
        {"before_header": path, "after_header": path, "before": "---\nx: 1\n", "after": "---\nx: 2\n"}
    ]


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    result = write(tmp_path, {"a": [{"x": 1}]}, check_mode=True)
    assert (result["changed"], result["stale"]) == (True, [])
    assert result["diff"][0]["after"] == "---\nx: 1\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], ""),
        ({"b": 1, "a": 2}, "---\nb: 1\na: 2\n"),
        ({"config.yaml": "a: 1\nb: 2\n"}, "---\nconfig.yaml: |\n  a: 1\n  b: 2\n"),
        ({"args": ["--v=1", "yes", "8"]}, "---\nargs:\n- --v=1\n- 'yes'\n- '8'\n"),
        ({"name": "käse"}, "---\nname: käse\n"),
    ],
)
def test_text(content: Any, expected: str) -> None:
    assert text(content) == expected


def test_text_has_no_anchors() -> None:
    shared = {"a": 1}
    assert "&" not in text({"x": shared, "y": shared})


@pytest.mark.parametrize("value", ["trailing blank \nnext", "\ttab\n", " leading\n", "a\n\n", "# no\ncomment", "\n"])
def test_text_is_read_as_written(value: str) -> None:
    assert yaml.safe_load(text({"x": value})) == {"x": value}
