"""What the inventory does not ask for any more goes, and nothing else."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("converged", "restored")
MODELS = [
    {"name": "first", "source": "hf://Qwen/Qwen3-0.6B", "context_length": 2048},
    {"name": "second", "source": "hf://Qwen/Qwen3-1.7B", "engine": "vllm", "replicas": 2},
]
KINDS = {"Deployment", "Service", "ConfigMap", "ServiceAccount", "Role", "RoleBinding", "InferencePool", "HTTPRoute"}


@pytest.fixture
def restored(ansible, api):
    """Make the stack of the inventory again, after a test that removed of it."""
    yield
    api.delete("configmap", "-n", "molecule", "second-notes")
    ansible("models").ok()


def of_model(objects: dict[str, str], name: str) -> set[str]:
    """Return the names of a model's objects."""
    return {found for found in objects if f" molecule/{name}" in found}


def test_a_model_that_left_the_list(ansible, api) -> None:
    before = api.objects()
    doomed = of_model(before, "second")
    assert {name.split()[0] for name in doomed} >= KINDS
    api.create("v1", "ConfigMap", "second-notes", data={"of": "somebody"})

    shown = ansible("models", options="--check --diff", llm_d_models=MODELS[:1]).ok(changed=2).diffs
    removed = {name for name, lines in shown.items() if all(line.startswith("-") for line in lines)}
    assert removed == doomed
    assert of_model(api.objects(), "second") == {*doomed, "ConfigMap molecule/second-notes"}

    ansible("models", llm_d_models=MODELS[:1]).ok(changed=2)
    after = api.objects()
    assert before.keys() - after.keys() == doomed
    assert "ConfigMap molecule/second-notes" in after
    # Of what is left only two things were touched: what stands for the two sets, and the route of the
    # model that is alone now, which needs no header any more. The diff said so.
    route = "HTTPRoute molecule/first"
    touched = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert touched - {"ConfigMap molecule/molecule-gaie", "ConfigMap molecule/molecule-model-service"} == {route}
    assert any("X-Gateway-Base-Model-Name" in line for line in shown[route])
    ansible("models", llm_d_models=MODELS[:1]).ok(changed=0)


def test_an_engine_that_was_changed(ansible, api) -> None:
    models = [{**MODELS[0], "engine": "vllm"}, MODELS[1]]
    kept = ansible("models", llm_d_models=models, llm_d_prune=False).ok(changed=True)
    assert kept.changed == 2
    names = {"Deployment molecule/first-sglang", "Deployment molecule/first-vllm"}
    assert names <= api.objects().keys()
    ansible("models", llm_d_models=models).ok(changed=1)
    assert names & api.objects().keys() == {"Deployment molecule/first-vllm"}


def test_a_list_that_is_empty_by_mistake(ansible, api) -> None:
    before = api.objects()
    for options in ("", "--check"):
        message = ansible("models", options=options, llm_d_models=[]).message
        assert "Nothing was changed. Nothing is asked for any more, and everything that role gaie of stack" in message
        assert "llm_d_allow_empty=true" in message
    assert api.changed_since(before) == set()
    ansible("models", llm_d_models=[], llm_d_allow_empty=True).ok(changed=2)
    left = api.objects()
    assert not of_model(left, "first") | of_model(left, "second")
