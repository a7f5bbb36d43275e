"""Values of a TOML file that are changed in place."""

from __future__ import annotations

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host import toml

FILE = """\
# by hand
version = 2
imports = [ # why
  "/a/*.toml", # with a ] and a #
]

[plugins."a.b"]
  path = "x # no comment" # a comment
  [plugins."a.b".inner]
    on = true
"""


def test_values() -> None:
    assert toml.values(FILE) == {
        ((), "version"): "2",
        ((), "imports"): '[    "/a/*.toml",  ]',
        (("plugins", "a.b"), "path"): '"x # no comment"',
        (("plugins", "a.b", "inner"), "on"): "true",
    }


@pytest.mark.parametrize(
    ("table", "key", "value", "old", "new"),
    [
        ((), "version", "3", "version = 2\n", "version = 3\n"),
        (("plugins", "a.b", "inner"), "on", "false", "    on = true\n", "    on = false\n"),
        (("plugins", "a.b"), "n", "1", '[plugins."a.b"]\n', '[plugins."a.b"]\n  n = 1\n'),
        (("plugins", "c"), "n", "1", "    on = true\n", "    on = true\n\n[plugins.c]\n  n = 1\n"),
        ((), "imports", '["/b"]', 'imports = [ # why\n  "/a/*.toml", # with a ] and a #\n]\n', 'imports = ["/b"]\n'),
        ((), "root", '"/r"', "version = 2\n", 'root = "/r"\nversion = 2\n'),
    ],
)
def test_only_the_wanted_lines_change(table: tuple, key: str, value: str, old: str, new: str) -> None:
    assert old in FILE
    changed = toml.edited(FILE, {table: {key: value}})
    assert changed == FILE.replace(old, new)
    assert toml.edited(changed, {table: {key: value}}) == changed


def test_what_is_there_is_left_as_it_is_written() -> None:
    text = "  on=true   # so\n"
    assert toml.edited(text, {(): {"on": "true"}}) == text


def test_an_empty_file() -> None:
    assert toml.edited("", {(): {"version": "2"}, ("a", "b.c"): {"k": "1"}}) == 'version = 2\n\n[a."b.c"]\n  k = 1\n'


def test_tables_of_a_list_are_kept_apart() -> None:
    text = '[[stream]]\n  id = "a"\n[[stream]]\n  id = "b"\n'
    assert sorted(toml.values(text).values()) == ['"a"', '"b"']


@pytest.mark.parametrize("text", ["imports = [\n", 'text = """\n'])
def test_what_does_not_end(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1: a (list|text) does not end"):
        toml.entries(text)
