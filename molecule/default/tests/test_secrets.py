"""The token for Hugging Face is in the cluster, and in no output."""

from __future__ import annotations

import base64
import json

import pytest

TOKEN = "hf_NeverShowThisToAnybody0123456789"
ENCODED = base64.b64encode(TOKEN.encode()).decode()


@pytest.fixture(scope="module")
def secretive(ansible, api, converged, tmp_path_factory):
    """Run role model_service with the token, given in a file as users of a vault do."""
    variables = tmp_path_factory.mktemp("vars") / "token.json"
    variables.write_text(json.dumps({"llm_d_hf_token": TOKEN}))

    def run(options: str = "") -> str:
        done = ansible("models", options=f"--tags model_service --diff -vvv -e @{variables} {options}", plain=True).ok()
        for hidden in (TOKEN, ENCODED, TOKEN[3:]):
            assert hidden not in done.output
        assert "Secret" in done.output or "changed=0" in done.output
        return done.output

    yield run
    api.delete("secret", "-n", "molecule", "llm-d-hf-token")
    ansible("models", options="--tags model_service").ok()


def test_the_token_is_stored_and_never_shown(secretive, api) -> None:
    output = secretive("--check")
    assert "after: Secret molecule/llm-d-hf-token" in output
    assert "llm-d-hf-token" not in api.kubectl("get", "secret", "-n", "molecule", "-o", "name")

    output = secretive()
    assert "after: Secret molecule/llm-d-hf-token" in output
    assert api.get("secret", "llm-d-hf-token")["data"] == {"HF_TOKEN": ENCODED}
    entries = api.get("deployment", "first-sglang")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "llm-d-hf-token", "key": "HF_TOKEN"} in [
        entry.get("valueFrom", {}).get("secretKeyRef") for entry in entries
    ]

    assert "changed=0" in secretive()
    assert "changed=0" in secretive("--check")


def test_a_failure_does_not_show_it_either(secretive, ansible, api) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm-d-hf-token", "namespace": "molecule"}}
    api.apply({**secret, "data": {"HF_TOKEN": base64.b64encode(b"another").decode()}}, manager="rotation")
    done = ansible("models", options="--tags model_service --diff -vvv", plain=True, llm_d_hf_token=TOKEN)
    assert done.rc != 0
    assert "rotation" in done.output
    output = done.output
    for hidden in (TOKEN, ENCODED, base64.b64encode(b"another").decode()):
        assert hidden not in output
