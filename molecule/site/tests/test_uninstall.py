"""A model goes, then the router that reads bodies, then the second stack, and nothing else.

The router is there since test_traffic_by_body.py.
"""

from __future__ import annotations

import time

import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.test_stand_ins import HEADER, ROBIN
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import PICKED, ROOT, Traffic, eventually

#: What the user put there, and what belongs to any namespace that is not deleted.
KEPT = {
    "Namespace /stand-ins",
    "Secret stand-ins/aviary",
    "ServiceAccount stand-ins/default",
    "ConfigMap stand-ins/kube-root-ca.crt",
    "ConfigMap stand-ins/istio-ca-root-cert",
    "ConfigMap stand-ins/istio-ca-crl",
}


def with_only_swift(**route: object) -> dict[str, list[dict]]:
    """Return the variable of the models without the others, and with another ``route``."""
    inventory = yaml.safe_load((ROOT / "molecule/site/stand_ins/group_vars/all.yml").read_text())
    (swift,) = [model for model in inventory["llm_d_models"] if model["name"] == "swift"]
    return {"llm_d_models": [{**swift, **({"route": route} if route else {})}]}


def test_models_go_and_another_one_serves_on(stand_ins, ansible, kube) -> None:
    def of_others() -> list[str]:
        return [name for name in kube.objects() if " stand-ins/robin" in name or " stand-ins/kestrel" in name]

    assert len(of_others()) > 20
    assert stand_ins.client.complete(ROBIN).json["model"] == ROBIN
    with Traffic(stand_ins.client, stand_ins.swift) as requests:
        ansible("stand-ins", "models", llm_d_body_routing=True, **with_only_swift()).ok(changed=True)
    requests.unharmed()
    # Pods end when their requests have had time to.
    eventually(lambda: not of_others(), 90)
    # Back to the only model, which knows no such path, and answers under any name.
    assert stand_ins.client.complete(**stand_ins.robin).status == 404
    assert stand_ins.client.complete(ROBIN).status == 200


def test_without_a_default_wrong_names_find_no_route(stand_ins, ansible) -> None:
    only = with_only_swift(default=False)
    with Traffic(stand_ins.client, stand_ins.swift) as requests:
        ansible("stand-ins", "models", options="--tags gaie", llm_d_body_routing=True, **only).ok(changed=True)
    requests.unharmed()
    answer = stand_ins.client.complete("birds/nobody")
    assert (answer.status, answer.body, PICKED in answer.headers) == (404, b"", False)


def test_the_router_goes_after_what_asks_it(stand_ins, ansible, kube) -> None:
    only = with_only_swift(default=False)
    # What the router does for those who ask by body alone, the header does after it.
    target = {**stand_ins.swift, "headers": {HEADER: stand_ins.swift["model"]}}
    with Traffic(stand_ins.client, target) as requests:
        ansible("stand-ins", "models", options="--tags gaie", **only).ok(changed=True)
    requests.unharmed()
    assert not [name for name in kube.objects() if "body-based-router" in name and not name.startswith("Pod ")]
    assert stand_ins.client.complete(**target).status == 200
    assert stand_ins.client.complete(**stand_ins.swift).status == 404


def test_the_other_stack_and_istio_stay(stand_ins, ansible, kube, gateway) -> None:
    with Traffic(gateway, {"model": "tiny-qwen3"}) as requests:
        run = ansible("stand-ins", "uninstall").ok(changed=True)
    requests.unharmed()
    said = "\n".join(str(result.get("msg", "")) for _name, result in run.results)
    assert "Istio stays" in said

    def left() -> set[str]:
        return kube.objects().keys() - stand_ins.before.keys() - KEPT

    # Pods end when their requests have had time to.
    deadline = time.monotonic() + 90
    while left() and time.monotonic() < deadline:
        time.sleep(1)
    assert left() == set()
    assert "Deployment istio-system/istiod" in stand_ins.before
    assert "Deployment llm-d/tiny-sglang" in stand_ins.before
    after = kube.objects()
    assert {name: state for name, state in stand_ins.before.items() if after.get(name) != state} == {}
    kube("delete", "namespace", "stand-ins", "--wait=false")
