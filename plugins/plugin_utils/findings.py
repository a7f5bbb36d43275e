# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an input, said in a way that one can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One reason to refuse an input.

    :ivar rule: name of the rule that refused it, as ``llm_d_overrides`` takes it.
    :ivar where: variable that holds the value, such as ``llm_d_models[1].replicas``.
    :ivar problem: what is wrong, with the value.
    :ivar remedy: what to write instead, with the allowed values.
    :ivar overridable: whether ``llm_d_overrides`` can wave it through.
    """

    rule: str
    where: str
    problem: str
    remedy: str
    overridable: bool = False

    def __str__(self) -> str:
        text = f"{self.where}: {self.problem} {self.remedy}"
        if self.overridable:
            text += f" To go on regardless, add '{self.rule}' to llm_d_overrides."
        return text


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ``Did you mean 'x'? `` for the nearest of ``allowed``, or nothing."""
    near = difflib.get_close_matches(str(word), list(allowed), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'? " if near else ""


def listing(values: Iterable[object]) -> str:
    """Return ``a, b, c`` in the order of ``values``."""
    return ", ".join(str(value) for value in values)
