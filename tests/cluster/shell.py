"""Running other programs, and the one exception whose message is meant for the user."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from log import Step

TAIL_LINES = 25
"""How many of a failed program's last lines an error shows."""


class ClusterError(Exception):
    """Something the user has to know; its text is complete, no traceback is needed."""


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last `lines` lines of the text file `path`, or a note that there are none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            last = deque(stream, maxlen=lines)
    except OSError:
        return "(no log)"
    return "".join(last).rstrip() or "(the log is empty)"


def output(argv: Sequence[str | Path], *, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run `argv` and return its standard output.

    `env` is added to this process's environment. Raises ClusterError with the program's own words when
    it cannot be started or ends with another status than 0.
    """
    try:
        done = subprocess.run(
            [str(arg) for arg in argv], input=stdin, env=_environment(env), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ClusterError(f"cannot run {argv[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-4000:]
        raise ClusterError(f"{_words(argv)} failed with status {done.returncode}:\n{said}")
    return done.stdout


def succeeds(argv: Sequence[str | Path]) -> bool:
    """Whether `argv` can be run and ends with status 0; its output is dropped."""
    try:
        return subprocess.run([str(arg) for arg in argv], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def logged(
    argv: Sequence[str | Path],
    log_file: Path,
    step: Step,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a long `argv`: all it prints goes to `log_file`, its latest line to the step's progress.

    Raises ClusterError with the last lines and the path of the log when it fails.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("w", encoding="utf-8") as sink:
        try:
            process = subprocess.Popen(
                [str(arg) for arg in argv],
                cwd=cwd,
                env=_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise ClusterError(f"cannot run {argv[0]}: {error}") from error
        with process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout, start=1):
                sink.write(line)
                step.progress(f"{count} lines, now: {line.strip()[:70]}")
    if process.returncode:
        raise ClusterError(
            f"{_words(argv)} failed with status {process.returncode}; its last lines:\n{tail(log_file)}\nlog: {log_file}"
        )


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(extra or {})}


def _words(argv: Sequence[str | Path]) -> str:
    """A short name for the command in an error message."""
    words = " ".join([Path(argv[0]).name, *(str(arg) for arg in argv[1:])])
    return words if len(words) <= 120 else f"{words[:117]}..."
