"""The READMEs say what the catalogue and the argument specifications say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("roles/*/README.md"))]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def test_generated_parts_are_up_to_date() -> None:
    command = [sys.executable, ROOT / "tests/tools/docs.py", "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_matrix_can_be_printed_alone() -> None:
    command = [sys.executable, ROOT / "tests/tools/docs.py", "matrix"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert printed.startswith("| release | engine | versions | aggregated | disaggregated | not |")
    assert printed in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(readme: Path) -> None:
    links = LINK.findall(readme.read_text())
    assert not [link for link in links if not (readme.parent / link).exists()]


def test_every_role_has_its_generated_table() -> None:
    for readme in READMES[1:]:
        assert "<!-- begin generated: variables -->" in readme.read_text(), readme
