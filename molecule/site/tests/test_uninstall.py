"""A model goes, then the second stack, and nothing else."""

from __future__ import annotations

import time

import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import ROOT, Traffic, eventually

#: What the user put there, and what belongs to any namespace that is not deleted.
KEPT = {
    "Namespace /stand-ins",
    "Secret stand-ins/aviary",
    "ServiceAccount stand-ins/default",
    "ConfigMap stand-ins/kube-root-ca.crt",
    "ConfigMap stand-ins/istio-ca-root-cert",
    "ConfigMap stand-ins/istio-ca-crl",
}


def test_a_model_goes_and_the_other_one_serves_on(stand_ins, ansible, kube) -> None:
    inventory = yaml.safe_load((ROOT / "molecule/site/stand_ins/group_vars/all.yml").read_text())
    swift = [model for model in inventory["llm_d_models"] if model["name"] == "swift"]

    def of_robin() -> list[str]:
        return [name for name in kube.objects() if " stand-ins/robin" in name]

    assert len(of_robin()) > 10
    assert stand_ins.client.complete(**stand_ins.robin).status == 200
    with Traffic(stand_ins.client, stand_ins.swift) as requests:
        ansible("stand-ins", "models", llm_d_models=swift).ok(changed=True)
    requests.unharmed()
    # Pods end when their requests have had time to.
    eventually(lambda: not of_robin(), 90)
    # Back to the only model, which knows no such path.
    assert stand_ins.client.complete(**stand_ins.robin).status == 404


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
