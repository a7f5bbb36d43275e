# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Single values in a TOML file, changed in place so that everything else stays as somebody wrote it.

Python's own parser cannot write, came with 3.11, and drops comments. What is read here is what
containerd's configurations use: tables by their headers, one value a line, lists over several
lines. Whoever changes a file with this has containerd read the result before it is used.
"""

from __future__ import annotations

import re

#: A table, as the parts of its name; the root is ().
Table = tuple
_HEADER = re.compile(r"^\s*\[(?!\[)(.+?)\]\s*(?:#.*)?$")
_ARRAY_HEADER = re.compile(r"^\s*\[\[(.+?)\]\]\s*(?:#.*)?$")
_KEY = re.compile(r"^(\s*)([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*=\s*(.*)$")
_PART = re.compile(r"\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+)")
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'")
_BARE = re.compile(r"^[A-Za-z0-9_-]+$")


class Entry:
    """A value: its table, key, text, and the lines ``first`` to ``last`` that hold it."""

    def __init__(self, table: Table, key: str, value: str, first: int, last: int) -> None:
        self.table, self.key, self.value, self.first, self.last = table, key, value, first, last


def entries(text: str) -> list[Entry]:
    """Return all values, in order.

    :raises ValueError: for a value that does not end.
    """
    return _scan(text)[0]


def values(text: str) -> dict[tuple[Table, str], str]:
    """Return the text of each value, by table and key."""
    return {(entry.table, entry.key): entry.value for entry in entries(text)}


def edited(text: str, wanted: dict[Table, dict[str, str]]) -> str:
    """Return ``text`` with the values of ``wanted``: table to key to TOML text.

    Values that are there already stay as they are written. New ones stand at the head of their
    table, new tables at the end.
    """
    for table, pairs in wanted.items():
        for key, value in reversed(pairs.items()):
            text = _with(text, table, key, value)
    return text


def string(value: str) -> str:
    """Return ``value`` as a TOML string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquoted(value: str) -> str:
    """Return what a TOML string holds; other values as they are."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def strings(value: str) -> list[str]:
    """Return the strings in the text of a list."""
    return [match[0][1:-1] for match in _QUOTED.finditer(value)]


def _with(text: str, table: Table, key: str, value: str) -> str:
    found, headers = _scan(text)
    lines = text.splitlines()
    same = next((entry for entry in found if entry.table == table and entry.key == key), None)
    if same:
        if same.value == value:
            return text
        indent = re.match(r"\s*", lines[same.first])[0]
        lines[same.first : same.last + 1] = [f"{indent}{_name(key)} = {value}"]
    elif not table:
        # Before the first table, and below the comments that a file begins with.
        first = next(
            (index for index, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines)
        )
        lines.insert(first, f"{_name(key)} = {value}")
    elif table in headers:
        index = headers[table]
        indent = re.match(r"\s*", lines[index])[0]
        lines.insert(index + 1, f"{indent}  {_name(key)} = {value}")
    else:
        lines += ["", f"[{'.'.join(map(_name, table))}]", f"  {_name(key)} = {value}"]
    return "\n".join(lines) + "\n"


def _scan(text: str) -> tuple[list[Entry], dict[Table, int]]:
    table: Table = ()
    found: list[Entry] = []
    headers: dict[Table, int] = {}
    lines = text.splitlines()
    index = 0
    while index < len(lines):
        line = lines[index]
        array, header, pair = _ARRAY_HEADER.match(line), _HEADER.match(line), _KEY.match(line)
        if line.lstrip().startswith("#"):
            pass
        elif array:
            # Each is a table of its own; a number keeps them apart.
            table = (*_parts(array[1]), f"[{index}]")
        elif header and not pair:
            table = _parts(header[1])
            headers[table] = index
        elif pair:
            value, last = _value(lines, index, pair[3])
            found.append(Entry(table, unquoted(pair[2]), value, index, last))
            index = last
        index += 1
    return found, headers


def _value(lines: list[str], first: int, rest: str) -> tuple[str, int]:
    """Return a value that may go on in the next lines, without comments, and its last line."""
    for quote in ('"""', "'''"):
        if rest.startswith(quote):
            last, text = first, rest
            while text.count(quote) < 2:
                last += 1
                if last == len(lines):
                    raise ValueError(f"line {first + 1}: a text does not end")
                text += "\n" + lines[last]
            return text, last
    last, text = first, _uncommented(rest)
    while _depth(text) > 0:
        last += 1
        if last == len(lines):
            raise ValueError(f"line {first + 1}: a list does not end")
        text += " " + _uncommented(lines[last])
    return text.strip(), last


def _uncommented(text: str) -> str:
    masked = _QUOTED.sub(lambda match: "x" * len(match[0]), text)
    return text[: masked.index("#")] if "#" in masked else text


def _depth(text: str) -> int:
    bare = _QUOTED.sub("", text)
    return bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}")


def _parts(name: str) -> Table:
    return tuple(next(part for part in match.groups() if part is not None) for match in _PART.finditer(name))


def _name(key: str) -> str:
    return key if _BARE.match(key) else string(key)
