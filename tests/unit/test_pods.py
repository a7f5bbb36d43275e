"""Why a pod is not ready, by statuses and events as Kubernetes 1.35 writes them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import (
    Trouble,
    ended_since,
    is_overdue,
    restarts,
    trouble,
    troubles,
)


def condition(name: str, status: str = "True", **more: Any) -> dict[str, Any]:
    return {"type": name, "status": status, **more}


RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
CRASHED = {"terminated": {"exitCode": 1, "reason": "Error"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}}
WHERE = "pod qwen-1, container model-server"


def pod(*containers: dict[str, Any], **status: Any) -> dict[str, Any]:
    entries = [{"name": "model-server", "ready": False, "restartCount": 0, **entry} for entry in containers]
    return {"metadata": {"name": "qwen-1"}, "status": {"phase": "Pending", "containerStatuses": entries, **status}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        (pod({"ready": True, "state": RUNNING}), None),
        (pod(), None),
        ({"metadata": {"name": "qwen-1"}}, None),
        (pod(waiting("ContainerCreating")), None),
        (pod(waiting("PodInitializing")), None),
        (
            pod(
                conditions=[
                    condition(
                        "PodScheduled",
                        "False",
                        reason="Unschedulable",
                        message="0/4 nodes are available: 4 Insufficient nvidia.com/gpu.",
                    )
                ]
            ),
            Trouble("pod qwen-1 is not scheduled: 0/4 nodes are available: 4 Insufficient nvidia.com/gpu."),
        ),
        (
            pod(waiting("ErrImagePull", "dial tcp: i/o timeout")),
            Trouble(f"{WHERE}: ErrImagePull: dial tcp: i/o timeout"),
        ),
        (
            pod(waiting("ImagePullBackOff", 'failed to resolve reference "x:y": x:y: not found')),
            Trouble(f'{WHERE}: ImagePullBackOff: failed to resolve reference "x:y": x:y: not found', final=True),
        ),
        (
            pod(waiting("ErrImagePull", "manifest unknown")),
            Trouble(f"{WHERE}: ErrImagePull: manifest unknown", final=True),
        ),
        (pod(waiting("InvalidImageName", "bad")), Trouble(f"{WHERE}: InvalidImageName: bad", final=True)),
        (
            pod(waiting("CreateContainerConfigError", 'secret "llm-d-hf-token" not found')),
            Trouble(f'{WHERE}: CreateContainerConfigError: secret "llm-d-hf-token" not found', final=True),
        ),
        (
            pod({"state": BACK_OFF, "lastState": CRASHED, "restartCount": 2}),
            Trouble(f"{WHERE}: restarted 2 times, last with exit code 1 (Error)", "model-server", True),
        ),
        (
            pod({"state": BACK_OFF, "lastState": CRASHED, "restartCount": 3}),
            Trouble(f"{WHERE}: restarted 3 times, last with exit code 1 (Error)", "model-server", True, True),
        ),
        (
            pod({"state": BACK_OFF, "restartCount": 4}),
            Trouble(f"{WHERE}: restarted 4 times, last with unknown exit", "model-server", True, True),
        ),
        (
            pod(
                {
                    "state": RUNNING,
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                    "restartCount": 1,
                }
            ),
            Trouble(
                f"{WHERE}: restarted 1 times, last with exit code 137 (OOMKilled): out of memory, it has no limit of its own",
                "model-server",
                True,
            ),
        ),
        # The terminated container's own log is the one to read.
        (
            pod({"state": CRASHED, "lastState": CRASHED, "restartCount": 1}),
            Trouble(f"{WHERE}: restarted 1 times, last with exit code 1 (Error)", "model-server", False),
        ),
        (pod({"state": CRASHED}), Trouble(f"{WHERE}: ended with exit code 1 (Error)", "model-server")),
        (
            pod({"state": RUNNING}),
            Trouble(f"{WHERE}: runs and is not ready yet, since 2026-01-01T00:00:00Z", "model-server"),
        ),
        # What went wrong once and is well now is no trouble.
        (pod({"state": RUNNING, "ready": True, "lastState": CRASHED, "restartCount": 5}), None),
        (
            pod(
                {"state": RUNNING, "ready": True, "lastState": CRASHED, "restartCount": 5},
                {"name": "sidecar", **waiting("ErrImagePull", "timeout")},
            ),
            Trouble("pod qwen-1, container sidecar: ErrImagePull: timeout"),
        ),
        (
            pod(
                waiting("PodInitializing"),
                initContainerStatuses=[{"name": "download", "restartCount": 1, "state": CRASHED, "lastState": CRASHED}],
            ),
            Trouble(
                "pod qwen-1, container download: restarted 1 times, last with exit code 1 (Error)", "download", False
            ),
        ),
        (
            pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
            Trouble("pod qwen-1 failed: Evicted: The node was low on resource: memory."),
        ),
    ],
)
def test_trouble(live: dict[str, Any], expected: Trouble | None) -> None:
    assert trouble(live) == expected


def event(reason: str, message: str, container: str | None = "model-server", **more: Any) -> dict[str, Any]:
    about = {"kind": "Pod", "name": "qwen-1", "uid": "u1"}
    if container:
        about["fieldPath"] = f"spec.containers{{{container}}}"
    return {"type": "Warning", "reason": reason, "message": message, "involvedObject": about, **more}


def with_spec(live: dict[str, Any], **container: Any) -> dict[str, Any]:
    return {**live, "spec": {"containers": [{"name": "model-server", **container}]}}


def first(text: str, container: str = "download", **spec: Any) -> dict[str, Any]:
    """A pod whose init container is in a state."""
    states = {"runs": RUNNING, "crashes": BACK_OFF, "ends": CRASHED}
    entry = {"name": container, "restartCount": 4 if text == "crashes" else 0, "state": states[text]}
    if text == "crashes":
        entry["lastState"] = CRASHED
    live = pod(waiting("PodInitializing"), initContainerStatuses=[entry])
    return {**live, "spec": {"initContainers": [{"name": container, **spec}], "containers": [{"name": "model-server"}]}}


PULL = 'Failed to pull image "x:y": rpc error: code = NotFound desc = x:y: not found'
OOM = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:10Z"}}
CRASHED_AGAIN = {
    "state": {"terminated": {"exitCode": 3, "reason": "Error", "finishedAt": "2026-11-22T22:11:08Z"}},
    "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "2026-11-22T22:10:15Z"}},
}
STOPPED = {
    "terminated": {
        "exitCode": 137,
        "reason": "Error",
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:05:00Z",
    }
}


@pytest.mark.parametrize(
    ("live", "events", "expected"),
    [
        # Until 1.31 the status does not repeat what the registry said.
        (
            pod(waiting("ImagePullBackOff", 'Back-off pulling image "x:y"')),
            [event("Failed", PULL), event("Failed", "Error: ImagePullBackOff")],
            [Trouble(f"{WHERE}: ImagePullBackOff: {PULL}", final=True)],
        ),
        (
            pod(waiting("ImagePullBackOff", 'Back-off pulling image "x:y": ErrImagePull: dial tcp: i/o timeout')),
            [event("Failed", PULL)],
            [Trouble(f'{WHERE}: ImagePullBackOff: Back-off pulling image "x:y": ErrImagePull: dial tcp: i/o timeout')],
        ),
        (
            pod(waiting("ErrImagePull", "content digest sha256:0: not found")),
            [],
            [Trouble(f"{WHERE}: ErrImagePull: content digest sha256:0: not found")],
        ),
        (
            pod(waiting("ErrImagePull", "pull access denied, repository does not exist or may require authorization")),
            [],
            [
                Trouble(
                    f"{WHERE}: ErrImagePull: pull access denied, repository does not exist or may require authorization",
                    final=True,
                )
            ],
        ),
        (
            with_spec(
                pod({"state": BACK_OFF, "lastState": OOM, "restartCount": 5}), resources={"limits": {"memory": "2Gi"}}
            ),
            [],
            [
                Trouble(
                    f"{WHERE}: restarted 5 times, last with exit code 137 (OOMKilled): out of memory, its limit is 2Gi",
                    "model-server",
                    True,
                    True,
                )
            ],
        ),
        (
            pod({"state": RUNNING, "lastState": STOPPED, "restartCount": 1}),
            [
                event("Unhealthy", "Startup probe failed: HTTP probe failed with statuscode: 503"),
                event(
                    "Killing",
                    "Container model-server failed startup probe, will be restarted",
                    lastTimestamp="2026-01-01T00:04:30Z",
                ),
            ],
            [
                Trouble(
                    f"{WHERE}: restarted 1 times, last with exit code 137 (Error), stopped by Kubernetes: Container "
                    "model-server failed startup probe, will be restarted; Startup probe failed: HTTP probe failed "
                    "with statuscode: 503",
                    "model-server",
                    True,
                )
            ],
        ),
        # Kubernetes 1.35 shows the end of the last run for most of the time until the next one.
        (
            pod({**CRASHED_AGAIN, "restartCount": 4}),
            [],
            [Trouble(f"{WHERE}: restarted 4 times, last with exit code 3 (Error)", "model-server", final=True)],
        ),
        # It was stopped once, and ended by itself since.
        (
            pod({"state": RUNNING, "lastState": CRASHED, "restartCount": 2}),
            [event("Killing", "Container model-server failed liveness probe, will be restarted")],
            [Trouble(f"{WHERE}: restarted 2 times, last with exit code 1 (Error)", "model-server", True)],
        ),
        (
            pod(
                {
                    "state": BACK_OFF,
                    "lastState": {
                        "terminated": {
                            "exitCode": 128,
                            "reason": "StartError",
                            "message": 'exec: "sglang": not found\n',
                        }
                    },
                    "restartCount": 3,
                }
            ),
            [],
            [
                Trouble(
                    f'{WHERE}: restarted 3 times, last with exit code 128 (StartError): exec: "sglang": not found',
                    "model-server",
                    True,
                    True,
                )
            ],
        ),
        (
            pod({"state": RUNNING, "started": True}),
            [
                event("Unhealthy", "Startup probe failed: too early"),
                event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503"),
                event("Unhealthy", "Readiness probe failed: of another", container="sidecar"),
            ],
            [
                Trouble(
                    f"{WHERE}: runs and is not ready yet, since 2026-01-01T00:00:00Z; Readiness probe failed: HTTP "
                    "probe failed with statuscode: 503",
                    "model-server",
                )
            ],
        ),
        (
            pod({"state": RUNNING, "started": False}),
            [event("Unhealthy", "(combined from similar events): Startup probe failed: connection refused\n")],
            [
                Trouble(
                    f"{WHERE}: runs and is not ready yet, since 2026-01-01T00:00:00Z; Startup probe failed: "
                    "connection refused",
                    "model-server",
                )
            ],
        ),
        (
            pod({"state": RUNNING}),
            [event("Unhealthy", "Readiness probe failed: ")],
            [
                Trouble(
                    f"{WHERE}: runs and is not ready yet, since 2026-01-01T00:00:00Z; Readiness probe failed",
                    "model-server",
                )
            ],
        ),
        (
            first("runs"),
            [],
            [
                Trouble(
                    "pod qwen-1, container download: the pod waits for it to end; it runs, since 2026-01-01T00:00:00Z",
                    "download",
                )
            ],
        ),
        (
            first("runs", "routing-proxy", restartPolicy="Always"),
            [],
            [
                Trouble(
                    "pod qwen-1, container routing-proxy: runs and is not ready yet, since 2026-01-01T00:00:00Z",
                    "routing-proxy",
                )
            ],
        ),
        (
            first("crashes", "routing-proxy", restartPolicy="Always"),
            [],
            [
                Trouble(
                    "pod qwen-1, container routing-proxy: restarted 4 times, last with exit code 1 (Error)",
                    "routing-proxy",
                    True,
                    True,
                )
            ],
        ),
        (first("ends"), [], [Trouble("pod qwen-1, container download: ended with exit code 1 (Error)", "download")]),
        # A proxy that runs waits for the engine that crashes.
        (
            pod(
                {"name": "proxy", "state": RUNNING},
                {"state": BACK_OFF, "lastState": CRASHED, "restartCount": 3},
                {"name": "other", **waiting("InvalidImageName", "bad")},
            ),
            [],
            [
                Trouble(f"{WHERE}: restarted 3 times, last with exit code 1 (Error)", "model-server", True, True),
                Trouble("pod qwen-1, container other: InvalidImageName: bad", final=True),
            ],
        ),
        (
            pod(waiting("ContainerCreating")),
            [
                event("FailedMount", 'MountVolume.SetUp failed for volume "config"', None),
                event("Preempting", "something else", None),
                event("Scheduled", "fine", None, type="Normal"),
            ],
            [Trouble('pod qwen-1: FailedMount: MountVolume.SetUp failed for volume "config"')],
        ),
        (
            pod(waiting("ContainerCreating")),
            [event("FailedScheduling", "no longer so", None), event("Odd", "all there is", None)],
            [Trouble("pod qwen-1: Odd: all there is")],
        ),
        (pod(phase="Running"), [event("FailedMount", "long ago", None)], []),
        (
            pod(
                conditions=[
                    condition(
                        "PodScheduled",
                        "False",
                        reason="Unschedulable",
                        message="0/4 nodes are available: 4 Insufficient nvidia.com/gpu. no new claims to deallocate, "
                        "preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling.",
                    )
                ]
            ),
            [],
            [Trouble("pod qwen-1 is not scheduled: 0/4 nodes are available: 4 Insufficient nvidia.com/gpu.")],
        ),
        (
            pod(phase="Failed", reason="UnexpectedAdmissionError", message="no healthy devices present"),
            [],
            [Trouble("pod qwen-1 failed: UnexpectedAdmissionError: no healthy devices present")],
        ),
    ],
)
def test_troubles(live: dict[str, Any], events: list[dict[str, Any]], expected: list[Trouble]) -> None:
    assert troubles(live, events) == expected


NOON = 1767268800.5  # 2026-01-01T12:00:00.5Z
BEFORE, AFTER = "2026-01-01T11:59:59Z", "2026-01-01T12:00:00Z"


@pytest.mark.parametrize(("at", "final"), [(BEFORE, False), (AFTER, True)])
def test_what_was_wrong_before_may_be_mended_by_now(at: str, final: bool) -> None:
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": at}}
    missing = 'secret "llm-d-hf-token" not found'
    for live, events in (
        (pod({"state": BACK_OFF, "lastState": ended, "restartCount": 3}), []),
        (
            pod(waiting("CreateContainerConfigError", missing)),
            [event("Failed", f"Error: {missing}", lastTimestamp=at)],
        ),
        (
            pod(waiting("ErrImagePull", "x: not found")),
            [
                event("Failed", PULL, lastTimestamp=at),
                # No new word of the registry.
                event("Failed", "Error: ImagePullBackOff", lastTimestamp="2026-01-01T13:00:00Z"),
            ],
        ),
    ):
        (found,) = troubles(live, events, NOON)
        assert found.final is final


def test_how_containers_have_ended() -> None:
    last = {"lastState": {"terminated": {"exitCode": 139, "reason": "Error"}}}
    crashed = {"name": "crashed", "restartCount": 2, "state": RUNNING, **last}
    ended = {"name": "ended", "restartCount": 1, "state": {"terminated": {"exitCode": 1}}, **last}
    live = pod(crashed, ended, {"name": "fine", "state": RUNNING})
    # One that has ended will be restarted.
    assert restarts([live]) == {"qwen-1 crashed": 2, "qwen-1 ended": 2, "qwen-1 fine": 0}
    assert ended_since([live], {"qwen-1 crashed": 1, "qwen-1 ended": 1, "qwen-1 fine": -1}) == [
        "container crashed of pod qwen-1 ended with exit code 139 (Error)",
        "container ended of pod qwen-1 ended with exit code 1",
        "container fine of pod qwen-1 ended",
    ]
    assert ended_since([live], restarts([live])) == ended_since([live], {}) == []
    assert restarts([{"metadata": {"name": "qwen-1"}}]) == {}


@pytest.mark.parametrize(
    ("since", "overdue"), [(-30, False), (0, False), (299, False), (301, True)], ids=["grace", "due", "late", "lost"]
)
def test_a_pod_that_does_not_go(since: int, overdue: bool) -> None:
    due = 1767225600
    live = {"metadata": {"name": "qwen-1", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert is_overdue(live, due + since) is overdue
    assert not is_overdue(pod(), due + since)
