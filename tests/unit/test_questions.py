from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.gaie import compose
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.questions import questions
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import GAIE_OPTIONS, resolved

OTHER = {"name": "other", "source": "hf://a/b"}
HEADER = {"name": "X-Model", "value": "q"}


@pytest.mark.parametrize(
    ("models", "path", "headers"),
    [
        ([{}], "", {}),
        ([{"route": {"path": "/qwen"}}], "", {}),
        ([{}, OTHER], "", {"X-Gateway-Base-Model-Name": "Qwen/Qwen3-32B"}),
        ([{"route": {"default": True}}, OTHER], "", {}),
        ([{"route": {"path": "/qwen"}}, OTHER], "/qwen", {}),
        ([{"route": {"path": "/qwen", "header": HEADER}}, OTHER], "", {"X-Model": "q"}),
        ([{"route": {"path": "/qwen", "default": False}}], "/qwen", {}),
    ],
)
def test_how_to_reach_a_model(models: list[dict[str, Any]], path: str, headers: dict[str, str]) -> None:
    stack = resolved(*models)
    question = questions(stack)[0]
    assert question == {
        "name": "qwen",
        "served_name": "Qwen/Qwen3-32B",
        "body_router": "",
        "picker": "qwen-epp",
        "workloads": [{"kind": "Deployment", "name": "qwen-sglang"}],
        "port": 8000,
        "path": path,
        "headers": headers,
        "by_body": False,
        "adapters": [],
        "api_key": None,
    }
    route = next(item for item in objects(stack) if item["kind"] == "HTTPRoute")
    assert any(takes(match, question) for rule in route["spec"]["rules"] for match in rule["matches"])


def objects(stack: dict[str, Any]) -> list[dict[str, Any]]:
    return compose(stack["stack"], stack["namespace"], stack["models"][0], stack["release"], GAIE_OPTIONS)


def takes(match: dict[str, Any], question: dict[str, Any]) -> bool:
    """Whether the route sends the question to its model, as Gateway API defines it."""
    path = f"{question['path']}/v1/models"
    prefix = match["path"]["value"].rstrip("/")
    wanted = {header["name"]: header["value"] for header in match.get("headers", [])}
    return path.startswith(f"{prefix}/") and wanted.items() <= question["headers"].items()
