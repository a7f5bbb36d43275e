"""The second stack goes, and nothing else."""

from __future__ import annotations

import time

from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import Traffic

#: What the user put there, and what belongs to any namespace that is not deleted.
KEPT = {
    "Namespace /stand-ins",
    "Secret stand-ins/aviary",
    "ServiceAccount stand-ins/default",
    "ConfigMap stand-ins/kube-root-ca.crt",
    "ConfigMap stand-ins/istio-ca-root-cert",
    "ConfigMap stand-ins/istio-ca-crl",
}


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
