"""How a stack is, against how it is wanted, and how that reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.llm_d.multi_engine.plugins.action.stack_status import now, speaks_json, write
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gaie, model_service
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status import (
    changed_fields,
    complaint,
    report,
    version_of,
    wanted_models,
)
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status_table import table
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import GAIE_OPTIONS, MODEL_OPTIONS, resolved

GPU = "nvidia.com/gpu"
IMAGE = "docker.io/lmsysorg/sglang:v0.5.20"
TIME = "2026-01-02T03:04:05Z"
NAMES = {"route": "HTTPRoute", "pool": "InferencePool", "picker": "Deployment", "server": "Deployment"}


def hop(name: str, reason: str = "", model: str = "qwen") -> dict[str, Any]:
    kind = NAMES.get(name, "InferencePool")
    return {"hop": name, "object": f"{kind} llm-d/{model}", "ready": not reason, "reason": reason}


def gateway(reason: str = "") -> dict[str, Any]:
    item = {"hop": "gateway", "object": "Gateway llm-d/gate", "ready": not reason, "reason": reason}
    return {**item, "addresses": [] if reason else ["192.0.2.1"]}


def group(version: str = "0.5.20", pods: int = 2, engine: str = "sglang", **more: Any) -> dict[str, Any]:
    return {"engine": engine, "image": f"docker.io/lmsysorg/sglang:v{version}", "pods": pods, "ready": pods, **more}


def model(name: str = "qwen", **more: Any) -> dict[str, Any]:
    """A model as module ``stack_status`` sees it; ``late`` has the hops that are not ready, with their reasons."""
    late = more.pop("late", {})
    return {
        "name": name,
        "wanted": {"engine": "sglang", "version": "0.5.20", "image": IMAGE, "replicas": 2, "devices": {GPU: 4}},
        "endpoints": {"ready": 2, "wanted": 2},
        "running": [group()],
        "devices": {GPU: 4},
        "hops": [hop(each, late.get(each, ""), name) for each in (*NAMES, "endpoints")],
        "history": {"revisions": [], "failure": None},
        **more,
    }


def live(*models: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "server": "https://api:6443",
        "stack": "birds",
        "namespace": "llm-d",
        "release": "llm-d-0.10",
        "gateway": gateway(),
        "models": list(models),
        "others": [],
        **more,
    }


def compared(*objects: tuple[str, str], **diffs: str) -> dict[str, Any]:
    """A result of module ``apply``."""
    return {"objects": [{"name": name, "action": action, "checked": True} for name, action in objects], **diffs}


# What is wanted


def test_what_is_wanted_is_what_is_composed() -> None:
    stack = resolved({"gpus": 2, "replicas": 3})
    (wanted,) = wanted_models(stack)
    assert wanted == {
        "name": "qwen",
        "engine": "sglang",
        "version": "0.5.20",
        "image": IMAGE,
        "replicas": 3,
        "autoscaled": False,
        "devices": {GPU: 6},
        "workloads": [{"kind": "Deployment", "name": "qwen-sglang"}],
        "body_router": "",
        "picker": "qwen-epp",
        "pool": "qwen",
        "route": "qwen",
    }
    (only,) = stack["models"]
    objects = gaie.compose(stack["stack"], stack["namespace"], only, stack["release"], GAIE_OPTIONS)
    objects += model_service.compose(stack["stack"], stack["namespace"], only, MODEL_OPTIONS)
    named = {(item["kind"], item["metadata"]["name"]) for item in objects}
    kinds = {"picker": "Deployment", "pool": "InferencePool", "route": "HTTPRoute"}
    assert {(kind, wanted[key]) for key, kind in kinds.items()} <= named
    assert {(entry["kind"], entry["name"]) for entry in wanted["workloads"]} <= named


def test_which_resources_are_accelerators() -> None:
    assert resolved({}, accelerator="cpu")["devices"] == ["amd.com/gpu", GPU]
    (wanted,) = wanted_models(resolved({}, accelerator="cpu"))
    assert wanted["devices"] == {}


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("docker.io/lmsysorg/sglang:v0.5.6.post2-runtime", "0.5.6.post2"),
        ("vllm/vllm-openai:v0.30.0@sha256:0123", "0.30.0"),
        ("registry:5000/sglang", ""),
        ("registry:5000/sglang:0.5.20", "0.5.20"),
        ("lmsysorg/sglang@sha256:0123", ""),
        ("lmsysorg/sglang:latest", ""),
        ("sglang", ""),
        ("", ""),
    ],
)
def test_the_version_that_a_tag_tells(image: str, version: str) -> None:
    assert version_of(image) == version


# What is amiss


OTHER_IMAGE = {"image": "localhost/mine:1"}


@pytest.mark.parametrize(
    ("wanted", "running", "versions", "as_wanted"),
    [
        ({}, group(), "0.5.20", True),
        ({}, group("0.5.20-runtime"), "0.5.20", True),
        ({}, group("0.5.16"), "0.5.16", False),
        ({}, group(engine="vllm"), "0.5.20", False),
        # The inventory says which version an image of its own is.
        (OTHER_IMAGE, group(**OTHER_IMAGE), "0.5.20", True),
        (OTHER_IMAGE, group(engine="vllm", **OTHER_IMAGE), "1", False),
        (OTHER_IMAGE, group(image="localhost/mine:2"), "2", False),
        ({}, group(image="localhost/mine:latest"), "", False),
    ],
)
def test_versions(wanted: dict[str, str], running: dict[str, Any], versions: str, as_wanted: bool) -> None:
    seen = model(running=[running])
    seen["wanted"].update(wanted)
    status = report(live(seen), {}, TIME)
    assert [entry["version"] for entry in status["models"][0]["running"]] == [versions]
    assert status["models"][0]["as_wanted"] is as_wanted
    assert status["failing"] == ([] if as_wanted else ["version"])


ROUTER = {"hop": "body-router", "object": "Deployment llm-d/router", "ready": False, "reason": "does not exist"}
LATE_MODELS: list[tuple[str, dict[str, str]]] = [("qwen", {}), ("other", {"route": "no"})]
LEFT = {"object": "Deployment llm-d/old-vllm", "model": "old", "adopted": False, "running": [], "devices": {GPU: 2}}


@pytest.mark.parametrize(
    ("seen", "comparisons", "failing", "said"),
    [
        (live(model()), {}, [], ""),
        (live(), {}, [], ""),
        (live(gateway=gateway("does not exist")), {}, ["unready"], "Stack birds: not ready: gateway."),
        (live(model(late={"pool": "no"})), {}, ["unready"], "Stack birds: not ready: qwen."),
        (
            live(model(), model("other", late={"route": "no"}), gateway=gateway("no")),
            {},
            ["unready"],
            "Stack birds: not ready: gateway, other.",
        ),
        (
            live(model(running=[group("0.5.16")]), model("other")),
            {},
            ["version"],
            "Stack birds: another engine or version runs: qwen.",
        ),
        (
            live(model(), others=[LEFT]),
            {},
            ["drift"],
            "Stack birds: not as the inventory wants it: Deployment llm-d/old-vllm.",
        ),
        # What all models share is told once.
        (
            live(*(model(name, hops=[ROUTER, *model(name, late=late)["hops"]]) for name, late in LATE_MODELS)),
            {},
            ["unready"],
            "Stack birds: not ready: body-router, other.",
        ),
        # Told twice, and one object.
        (
            live(model(), others=[LEFT]),
            {
                "gaie": compared(("Pod x", "created")),
                "model_service": compared(("Deployment llm-d/old-vllm", "removed")),
            },
            ["drift"],
            "Stack birds: not as the inventory wants it: Pod x, Deployment llm-d/old-vllm.",
        ),
        (live(model()), {"gaie": compared(("Service x", "unchanged")), "istio_gateway": {}}, [], ""),
        # Nobody knows.
        (live(model()), {"gaie": {"msg": "No permission: to patch", "changed": False}}, [], ""),
        (
            live(model()),
            {"gaie": {**compared(("A", "created"), ("B", "unchanged")), "msg": "No permission: x"}},
            ["drift"],
            "Stack birds: not as the inventory wants it: A.",
        ),
        (
            live(model()),
            {"gaie": {"msg": "Deployment x: The API server refused (422): selector is immutable"}},
            ["drift"],
            "Stack birds: not as the inventory wants it: role gaie (could not be compared).",
        ),
        (
            live(model(late={"server": "no"}, running=[group("0.5.16")])),
            {"gaie": compared(*((name, "created") for name in "ABCD"))},
            ["unready", "drift", "version"],
            "Stack birds: not ready: qwen; not as the inventory wants it: A, B, C and 1 more; another engine or version runs: qwen.",
        ),
    ],
)
def test_what_is_amiss(seen: dict, comparisons: dict, failing: list[str], said: str) -> None:
    status = report(seen, comparisons, TIME)
    assert (status["failing"], status["ok"]) == (failing, not failing)
    assert complaint(status, ["unready", "drift", "version"]) == said
    assert complaint(status, []) == ""
    assert complaint(status, [name for name in ("unready", "drift", "version") if name not in failing]) == ""


def test_drift() -> None:
    before = "kind: Deployment\nspec:\n  replicas: 2\n"
    diffs = [
        {"before_header": "A", "after_header": "A", "before": before, "after": before.replace("2", "3")},
        {"before_header": "B", "after_header": "B", "before": "", "after": before},
        {"before_header": "C", "after_header": "C", "before": before, "after": ""},
    ]
    gone = compared(("A", "changed"), ("B", "created"), ("C", "removed"), ("D", "unchanged"))
    # Each role asks for the namespace.
    again = compared(("Namespace llm-d", "created"))
    status = report(
        live(),
        {
            "istio_gateway": again,
            "gaie": {**again, "objects": again["objects"]},
            "model_service": {**gone, "diff": diffs},
        },
        TIME,
    )
    assert status["drift"] == [
        {"object": "Namespace llm-d", "role": "istio_gateway", "state": "missing", "fields": []},
        {"object": "A", "role": "model_service", "state": "drifted", "fields": ["spec.replicas"]},
        {"object": "B", "role": "model_service", "state": "missing", "fields": []},
        {"object": "C", "role": "model_service", "state": "unwanted", "fields": []},
    ]


@pytest.mark.parametrize(
    ("before", "after", "fields"),
    [
        ("", "", []),
        ("a: 1", "a: 1", []),
        ("a: 1", "a: 2", ["a"]),
        ("a: {b: 1}", "a: {b: 1, c: 2}", ["a.c"]),
        ("a: {b: 1, c: 2}", "a: {b: 1}", ["a.c"]),
        ("a: {b: 1}", "{}", ["a"]),
        ("m: {l: {x/y: 1}}", "m: {l: {x/y: 2}}", ["m.l[x/y]"]),
        ("data: {config.yaml: a}", "data: {config.yaml: b}", ["data[config.yaml]"]),
        ("c: [{name: x, args: [1]}]", "c: [{name: x, args: [1, 2]}]", ["c[x].args"]),
        ("c: [{name: x}, {name: y}]", "c: [{name: y, image: z}]", ["c[y].image", "c[x]"]),
        ("p: [{port: 80}]", "p: [{port: 81}]", ["p[0].port"]),
        ("p: [{port: 80}]", "p: [{port: 80}, {port: 81}]", ["p[1]"]),
        ("p: []", "p: [{port: 80}]", ["p"]),
        ("a: '(hidden)'", "a: '(hidden, another value)'", ["a"]),
        ("a: {b: 1}", "a: [1]", ["a"]),
    ],
)
def test_changed_fields(before: str, after: str, fields: list[str]) -> None:
    assert changed_fields({"before": before, "after": after}) == fields


# The table


HEALTHY = """\
Stack birds in namespace llm-d of https://api:6443, release llm-d-0.10
Gateway llm-d/gate at 192.0.2.1

MODEL  WANTED         RUNNING            ENDPOINTS  GPUS  READY
qwen   sglang 0.5.20  sglang 0.5.20 (2)  2/2        4/4   yes
tiny   sglang 0.5.20  sglang 0.5.20 (2)  2/2        -     yes

Ready, and as wanted."""

AMISS = """\
Stack birds in namespace llm-d of https://api:6443, release llm-d-0.10

MODEL  WANTED         RUNNING                                              ENDPOINTS  GPUS  READY
qwen   sglang 0.5.20  sglang 0.5.16 (1), sglang localhost/mine:latest (1)  2/2        4/4   no: gateway
tiny   sglang 0.5.20  nothing                                              0/2        0/4   no: gateway, server

Drift:
  Deployment llm-d/tiny-sglang drifted: spec.replicas, spec.template
  Service llm-d/tiny-epp is missing
  Deployment llm-d/old-vllm is not wanted any more

Not compared:
  role gaie: Service llm-d/x: No permission: a
    Service llm-d/y: No permission: b

Not in the inventory:
  Deployment llm-d/old-vllm, model old: runs vllm 0.30.0 (2), holds 2 nvidia.com/gpu
  Deployment llm-d/ms, model qwen: taken over; the playbook models puts ours in its place

Not ready:
  gateway: Gateway llm-d/gate: does not exist
  tiny, server: Deployment llm-d/tiny: 0 of 2 pods are ready
    pod tiny-1: not scheduled

Not as wanted: unready, drift, version."""


def test_the_table_of_a_healthy_stack() -> None:
    tiny = model("tiny", devices={})
    tiny["wanted"] = {**tiny["wanted"], "devices": {}}
    assert table(report(live(model(), tiny), {}, TIME)) == HEALTHY


def test_the_table_tells_once_what_all_models_share() -> None:
    models = [model(name, hops=[ROUTER, *model(name, late=late)["hops"]]) for name, late in LATE_MODELS]
    told = table(report(live(*models), {}, TIME))
    late = ["body-router: Deployment llm-d/router: does not exist", "other, route: HTTPRoute llm-d/other: no"]
    assert told.split("Not ready:\n")[1].splitlines()[:2] == [f"  {line}" for line in late]
    rows = [line for line in told.splitlines() if "2/2" in line]
    assert [row.split("4/4")[1].strip() for row in rows] == ["no: body-router", "no: body-router, route"]


def test_the_table_of_a_stack_that_is_not_as_wanted() -> None:
    before, after = "spec: {replicas: 1, template: x}", "spec: {replicas: 2, template: y}"
    name = "Deployment llm-d/tiny-sglang"
    actions = [(name, "changed"), ("Service llm-d/tiny-epp", "created"), ("Deployment llm-d/old-vllm", "removed")]
    diff = {"before_header": name, "after_header": name, "before": before, "after": after}
    comparisons = {
        "model_service": {**compared(*actions), "diff": [diff]},
        "gaie": {"msg": "Service llm-d/x: No permission: a\nService llm-d/y: No permission: b"},
    }
    late = {"server": "0 of 2 pods are ready\npod tiny-1: not scheduled"}
    seen = live(
        model(running=[group("0.5.16", 1), group(pods=1, image="localhost/mine:latest")]),
        model("tiny", late=late, running=[], devices={}, endpoints={"ready": 0, "wanted": 2}),
        gateway=gateway("does not exist"),
        others=[
            {**LEFT, "running": [group(engine="vllm", image="vllm/vllm-openai:v0.30.0")]},
            {**LEFT, "object": "Deployment llm-d/ms", "model": "qwen", "adopted": True},
        ],
    )
    assert table(report(seen, comparisons, TIME)).splitlines() == AMISS.splitlines()


def test_the_table_of_what_is_not_known_or_there() -> None:
    status = report(live(release=""), {"gaie": {"msg": "No permission: x"}}, TIME)
    lines = table(status).splitlines()
    assert lines[0] == "Stack birds in namespace llm-d of https://api:6443"
    assert "The inventory has no models." in lines
    assert lines[-1] == "Ready, except for what could not be compared."


def test_the_table_of_a_stack_that_is_not_installed() -> None:
    absent = "does not exist"
    nothing = model(late=dict.fromkeys([*NAMES, "endpoints"], absent), running=[], devices={})
    assert table(report(live(nothing, gateway=gateway(absent)), {}, TIME)).endswith("\n\nNot installed.")
    assert table(report(live(nothing), {}, TIME)).endswith("\n\nNot as wanted: unready.")


def test_the_table_tells_of_changes_that_failed_or_were_taken_back() -> None:
    left = {"engine": "vllm", "version": "0.30.0", "revision": "b2"}
    last = {"engine": "sglang", "version": "0.5.20", "revision": "a1", "since": TIME, "back_from": left}
    failure = {"at": TIME, "revision": "c3", "wanted": "vllm 0.31.0", "reason": "It was not ready:\n  no GPU"}
    models = [
        model("qwen", history={"revisions": [last], "failure": None}, late={"server": "no"}),
        model("swan", history={"revisions": [{**last, "back_from": None}], "failure": failure}),
        # Nobody may look.
        model("crow", history=None),
    ]
    status = report(live(*models), {}, TIME)
    assert [entry["history"] for entry in status["models"]] == [entry["history"] for entry in models]
    assert f"""
Changes:
  qwen went back to sglang 0.5.20, revision a1, from vllm 0.30.0, revision b2, at {TIME}
  swan could not change to vllm 0.31.0, revision c3, at {TIME}: It was not ready:
      no GPU

Not as wanted: unready.""" in table(status)
    well = report(live(model("qwen", history={"revisions": [last], "failure": None})), {}, TIME)
    assert "went back" not in table(well)


def test_several_kinds_of_devices() -> None:
    status = report(live(model(devices={GPU: 2, "amd.com/gpu": 1})), {}, TIME)
    assert "nvidia.com/gpu 2/4, amd.com/gpu 1/0" in table(status)


# The file


def test_the_file_is_json_with_the_usual_permissions(tmp_path: Path) -> None:
    status = report(live(model()), {}, TIME)
    write(str(tmp_path / "status.json"), status)
    write(str(tmp_path / "status.json"), status)
    (tmp_path / "usual").touch()
    file = tmp_path / "status.json"
    assert json.loads(file.read_text()) == status
    assert file.stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["status.json", "usual"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AnsibleActionFail, match=r"none/status\.json cannot be written: No such file or directory"):
        write(str(tmp_path / "none" / "status.json"), {})


@pytest.mark.parametrize(
    ("callback", "json_only"), [("default", False), ("ansible.posix.json", True), ("ansible.posix.jsonl", True)]
)
def test_who_reads_the_terminal(callback: str, json_only: bool) -> None:
    assert speaks_json(callback) is json_only


def test_the_time_is_in_utc() -> None:
    assert now().endswith("Z")
