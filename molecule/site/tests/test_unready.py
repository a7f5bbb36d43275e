"""What fails says what and why, within its deadline."""

from __future__ import annotations

import pytest

#: By run: its deadline in seconds. ansible-playbook itself takes its time on a busy machine.
DEADLINES = {"site": 5, "verify": 5, "model_service": 15, "gateway": 5}
OVERHEAD = 60


@pytest.fixture(scope="module")
def runs(broken):
    """What became of each run."""
    return broken.result()


@pytest.mark.parametrize("name", DEADLINES)
def test_nothing_is_waited_for_in_vain(runs, name: str) -> None:
    assert runs[name].failed()
    assert runs[name].seconds < DEADLINES[name] + OVERHEAD


def test_a_stack_that_never_worked_can_be_uninstalled(runs) -> None:
    runs["uninstall"].ok(changed=True)


def test_a_picker_that_cannot_be_pulled_when_waited_for(runs) -> None:
    message = runs["site"].failed()
    assert "Deployment broken/bad-flag-epp: 0 of 1 pods are ready" in message
    assert "container epp: ErrImagePull" in message or "container epp: ImagePullBackOff" in message
    assert "localhost/llm-d-multi-engine/epp:none" in message


def test_a_picker_that_cannot_be_pulled_when_asked(runs) -> None:
    message = runs["verify"].failed()
    assert message.startswith("Model bad-flag did not answer within 5 s: ")
    assert "Broken hop: picker: Deployment broken/bad-flag-epp: 0 of 1 pods are ready" in message
    assert "container epp: ErrImagePull" in message or "container epp: ImagePullBackOff" in message


@pytest.fixture(scope="module")
def message(runs) -> str:
    """What is said of model servers that cannot start."""
    return runs["model_service"].failed()


def about(message: str, workload: str) -> str:
    """Return the part of ``message`` about one workload."""
    (part,) = [part for part in message.split("\nDeployment ") if part.startswith(f"broken/{workload}:")]
    return part


def test_an_argument_that_the_engine_does_not_know(message) -> None:
    said = about(message, "bad-flag-sglang")
    assert "0 of 1 pods are ready" in said
    assert "pod bad-flag-sglang-" in said
    assert "exit code 2" in said
    assert "error: unrecognized arguments: --no-such-flag=1" in said


def test_an_image_that_is_not_there(message) -> None:
    said = about(message, "no-image-sglang")
    assert "pod no-image-sglang-" in said
    assert "ErrImagePull" in said or "ImagePullBackOff" in said
    assert "localhost/llm-d-multi-engine/stand-in-sglang:no-such-tag" in said


def test_a_path_that_is_not_on_the_node(message) -> None:
    said = about(message, "no-path-sglang")
    assert "pod no-path-sglang-" in said
    assert 'FailedMount: MountVolume.SetUp failed for volume "model"' in said
    assert "/var/lib/llm-d-embedded/models/no-such-model is not a directory" in said


def test_a_path_without_a_model(message) -> None:
    said = about(message, "no-model-sglang")
    assert "exit code 1" in said
    assert "/model does not appear to have a file named config.json" in said


def test_a_load_balancer_that_nobody_provides(runs) -> None:
    message = runs["gateway"].failed()
    assert "Not ready after " in message
    assert "Gateway broken/balanced: Programmed is False: AddressNotAssigned" in message
    assert "balanced-istio" in message
