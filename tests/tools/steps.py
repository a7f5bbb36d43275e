"""Run make targets one after another, in several lanes at once, and end with a table of what each cost.

    python tests/tools/steps.py lint unit molecule -- e2e

A lane ends at the first target that fails, and what failed is said again at the end: a log's end
is what people see. Fails as well where a molecule scenario of the checkout did not run to its
end: forgotten, skipped, or with a playbook missing, which molecule only warns about.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# molecule --report: "default : actions=4 successful=3 disabled=0 skipped=0 missing=1 failed=0"
RECAP = re.compile(r"^(\S+)\s*:\s+actions=(\d+)\s+successful=(\d+)\s+disabled=0\s+skipped=0\s+missing=0\s+failed=0")
# What a task or a test that failed begins with, and what a failure looks like that says less.
FAILURE = re.compile(r"fatal: \[|= FAILURES|= ERRORS")
COMPLAINT = re.compile(r"^(FAILED|ERROR) |\[ERROR\]|\bError \d+$")
# A test that failed, as pytest's summary names it, also within what molecule draws around it.
NAMED = re.compile(r"\b(?:FAILED|ERROR) (\S+\.py(?:::\S+)?.*)")
# Lines that are said again, and tests that are named at the very end.
EXCERPT, NAMES = 60, 12
# Scenarios that `make test` leaves out, and what runs them.
APART = {"gpu_node": "make hosts"}
# The recap does not count what testinfra verified.
VERIFIED = re.compile(r"(\S+) ➜ verify: Verifier completed successfully")


@dataclass
class Step:
    """One make target.

    :ivar result: passed, failed or not run.
    :ivar excerpt: lines from its last failure on.
    :ivar named: tests that failed.
    :ivar complete: per scenario that it ran whether that came to its end.
    """

    name: str
    result: str = "not run"
    seconds: float = 0
    excerpt: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    complete: dict[str, bool] = field(default_factory=dict)
    verified: set[str] = field(default_factory=set)

    def run(self, prefix: str) -> bool:
        """Run it and show its output as it comes, each line after ``prefix``."""
        started = time.monotonic()
        with subprocess.Popen(
            ["make", "--no-print-directory", self.name],
            cwd=ROOT,
            # Nothing is broken in the middle, names of tests above all.
            env={**os.environ, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout
            for line in process.stdout:
                print(f"{prefix}{line}", end="", flush=True)
                self._read(COLOUR.sub("", line).rstrip())
        self.seconds = time.monotonic() - started
        self.result = "failed" if process.returncode else "passed"
        return process.returncode == 0

    def _read(self, line: str) -> None:
        if FAILURE.search(line):
            self.excerpt.clear()
        if (self.excerpt or FAILURE.search(line) or COMPLAINT.search(line)) and len(self.excerpt) < EXCERPT:
            # Output of programs comes as one line.
            self.excerpt.extend(line.replace("\\n", "\n").splitlines())
        if name := NAMED.search(line):
            self.named.append(name[1])
        if verdict := VERIFIED.search(line):
            self.verified.add(verdict[1])
        if recap := RECAP.match(line):
            scenario, actions, successful = recap[1], int(recap[2]), int(recap[3])
            self.complete[scenario] = actions == successful + (scenario in self.verified)


def run_lane(steps: list[Step], prefixed: bool) -> None:
    """Run ``steps`` one after another, up to the first that fails."""
    for step in steps:
        prefix = f"{step.name:>8} | " if prefixed else ""
        print(f"\n{prefix}==> make {step.name}", flush=True)
        if not step.run(prefix):
            return


def lanes_of(words: list[str]) -> list[list[Step]]:
    """Return the targets of each lane."""
    lanes: list[list[Step]] = [[]]
    for word in words:
        if word == "--":
            lanes.append([])
        else:
            lanes[-1].append(Step(word))
    return lanes


def main(words: list[str]) -> int:
    started = time.monotonic()
    lanes = lanes_of(words)
    with ThreadPoolExecutor(len(lanes)) as pool:
        for lane in [pool.submit(run_lane, lane, len(lanes) > 1) for lane in lanes]:
            lane.result()

    steps = [step for lane in lanes for step in lane]
    for step in steps:
        if step.result == "failed":
            print(f"\n==> what failed in {step.name}", *step.excerpt[:EXCERPT], sep="\n")
    print(f"\n{'step':<12}{'result':<10}{'seconds':>8}")
    for step in steps:
        print(f"{step.name:<12}{step.result:<10}{step.seconds:>8.0f}")
    print(f"{'total':<22}{time.monotonic() - started:>8.0f}\n")
    for step in steps:
        for name in step.named[:NAMES]:
            print(f"failed in {step.name}: {name}")

    results = [step.result for step in steps]
    failed = results.count("failed")
    if not failed:
        complete = {scenario: ended for step in steps for scenario, ended in step.complete.items()}
        for scenario in sorted({path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")} - APART.keys()):
            if not complete.get(scenario):
                failed += 1
                what = "left actions out" if scenario in complete else "did not run"
                print(f"molecule scenario {scenario} {what}")
    print(f"steps: {results.count('passed')} passed, {failed} failed, {results.count('not run')} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
