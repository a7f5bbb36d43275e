# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Programs run and timed, ansible-playbook above all."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Seconds(float):
    """Seconds by the clock, with those of processor time beside them.

    :ivar processor: does not depend on what else the machine is doing.
    """

    processor: float


def timed(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, accepted: Collection[int] = (0,)
) -> tuple[Seconds, str]:
    """Run ``command`` in the checkout; return the seconds it took and what it wrote.

    :param accepted: exit codes of a run that went well; any other ends the benchmark.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        start, used = time.monotonic(), processor()
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        seconds = Seconds(time.monotonic() - start)
        seconds.processor = processor() - used
        output.seek(0)
        text = output.read()
    if done.returncode not in accepted:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{text[-3000:]}\n{done.stderr[-1000:]}")
    return seconds, text


def play(*arguments: str) -> tuple[Seconds, dict]:
    """Run ansible-playbook; return the seconds it took and what its tasks returned."""
    reporting = {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_JSON_INDENT": "0"}
    seconds, text = timed([Path(sys.executable).parent / "ansible-playbook", *arguments], reporting)
    return seconds, json.loads(text[text.index("{") :])


def processor() -> float:
    """Return the processor time of all programs run so far, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
