"""Our objects around an endpoint picker next to those of upstream's chart, which the cluster's charts are needed for."""

from __future__ import annotations

import re
import sys

from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import ROOT


def test_differences_from_upstreams_chart_are_those_that_are_known(host) -> None:
    # In CI nothing of it may be skipped.
    command = f"env -C {ROOT} CI=true {sys.executable} -m pytest -p no:cacheprovider -m cluster tests/unit"
    done = host.run(command)
    assert done.rc == 0, done.stdout + done.stderr
    counts = dict(reversed(found) for found in re.findall(r"(\d+) (passed|skipped)", done.stdout.splitlines()[-1]))
    assert int(counts["passed"]) >= 2
    assert "skipped" not in counts
