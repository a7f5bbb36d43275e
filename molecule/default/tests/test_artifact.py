"""The collection as users get it: built, installed somewhere else, used by its name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GALAXY = f"{Path(sys.executable).parent}/ansible-galaxy collection"


@pytest.fixture
def installed(host, tmp_path) -> Path:
    """A folder of collections with the artifact and what it depends on."""
    assert host.run(f"cd {ROOT} && {GALAXY} build --output-path {tmp_path}").rc == 0
    # By force, for ansible.cfg in the environment makes the checkout count as installed.
    done = host.run(
        f"cd {tmp_path} && {GALAXY} install --force --no-deps -p {tmp_path} {tmp_path}/llm_d-multi_engine-*.tar.gz"
    )
    assert done.rc == 0, done.stdout + done.stderr
    for name in ("kubernetes", "ansible", "community"):
        (tmp_path / "ansible_collections" / name).symlink_to(ROOT / ".collections/ansible_collections" / name)
    return tmp_path


def test_site_runs_from_the_artifact(ansible, api, converged, installed: Path) -> None:
    earlier = api.objects()
    config = installed / "ansible.cfg"
    config.write_text("")
    settings = {"ANSIBLE_CONFIG": str(config), "ANSIBLE_COLLECTIONS_PATH": str(installed)}
    run = ansible("site", options="--check", environment=settings, cwd=installed).ok(changed=0)
    assert any("Ask each model" in name for name, _result in run.results)
    assert api.changed_since(earlier) == set()
