"""What a person is told while objects are waited for."""

from __future__ import annotations

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.progress import Progress, clock


def test_it_says_what_is_missing_and_since_when() -> None:
    progress = Progress(count=3, timeout=600)
    reason = "Deployment llm-d/a: 0 of 2 pods are ready\n  pod a-1: runs and is not ready yet\n  more"
    pending = [{"name": "Deployment llm-d/a", "reason": reason}]
    short = "Deployment llm-d/a: 0 of 2 pods are ready; pod a-1: runs and is not ready yet"
    assert progress.text(pending, 10) == f"  0:10 of 10:00: 2 of 3 objects are ready\n    {short}"
    assert progress.text(pending, 75) == f"  1:15 of 10:00: 2 of 3 objects are ready\n    {short} (for 1:05)"
    other = [{"name": "Deployment llm-d/a", "reason": "1 of 2 pods are ready"}]
    assert progress.text(other, 80).endswith("Deployment llm-d/a: 1 of 2 pods are ready")


def test_it_does_not_fill_the_screen() -> None:
    pending = [{"name": f"Deployment llm-d/{number}", "reason": "does not exist"} for number in range(9)]
    lines = Progress(9, 60).text(pending, 1).splitlines()
    assert (len(lines), lines[-1]) == (8, "    and 3 more")


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 59.9, 60, 3605)] == ["0:00", "0:59", "1:00", "60:05"]
