"""What was made goes, and nothing else."""

from __future__ import annotations

import json

import pytest

OTHER = {"llm_d_namespace": "other", "llm_d_models": [{"name": "third", "source": "hf://Qwen/Qwen3-4B"}]}
#: Made by Kubernetes in every namespace.
IN_NAMESPACES = ("ConfigMap {}/kube-root-ca.crt", "ServiceAccount {}/default")
ROUTES = "httproute.gateway.networking.k8s.io"


@pytest.fixture(scope="module", autouse=True)
def stacks(ansible, api, converged):
    """The stack of the inventory, a second one, and objects of others beside ours."""
    ansible("gateway", "models", **OTHER).ok()
    api.create("v1", "ConfigMap", "theirs", data={"key": "value"})
    api.create(
        "gateway.networking.k8s.io/v1", "HTTPRoute", "theirs", spec={"rules": [{"matches": [{"path": {"value": "/"}}]}]}
    )
    # As a running istiod does.
    for name in ("istio", "istio-remote"):
        api.create(
            "gateway.networking.k8s.io/v1",
            "GatewayClass",
            name,
            namespace="",
            spec={"controllerName": "istio.io/gateway-controller"},
        )
    yield
    api.delete("configmap", "-n", "molecule", "theirs")


def kept(before, *namespaces: str) -> set[str]:
    """The objects of the empty cluster, and what stays of ``namespaces``."""
    names = set(json.loads(before.read_text()))
    for namespace in namespaces:
        names |= {f"Namespace /{namespace}", *(name.format(namespace) for name in IN_NAMESPACES)}
    return names | {"ConfigMap molecule/theirs"}


def definitions(names) -> set[str]:
    """Those of Gateway API and GAIE; Istio's own stay, as its chart says, and their policies go with them."""
    return {name for name in names if "networking.k8s.io" in name or "networking.x-k8s.io" in name}


def istio_definitions(names) -> set[str]:
    """Helm leaves them, as Istio's chart asks it to."""
    return {name for name in names if name.startswith("CustomResourceDefinition ") and name.endswith(".istio.io")}


def test_one_stack_after_the_other(ansible, api, before) -> None:
    earlier = api.objects()
    ansible("uninstall", options="--check --diff").ok(changed=True)
    assert api.changed_since(earlier) == set()

    # The first stack goes; the second one, Istio and what is not ours are not touched.
    run = ansible("uninstall").ok(changed=True)
    assert "Istio stays: these Gateways use it: other/llm-d-inference-gateway" in run.said()
    theirs = {"ConfigMap molecule/theirs", "HTTPRoute molecule/theirs"}
    theirs |= {name.format("molecule") for name in IN_NAMESPACES}
    gone = {name for name in earlier if " molecule/" in name} - theirs
    assert len(gone) > 15
    assert api.changed_since(earlier) == gone
    ansible("uninstall").ok(changed=0)
    later = api.objects()

    # The second stack and somebody's route use the definitions: none of them goes.
    run = ansible("uninstall", uninstall_crds=True).ok(changed=0)
    told = "\n".join(reason for _name, result in run.results for reason in result.get("kept", []))
    assert "inferencepools.inference.networking.k8s.io: in use by InferencePool other/third" in told
    assert "httproutes.gateway.networking.k8s.io: in use by HTTPRoute" in told
    assert "inferenceobjectives.inference.networking.x-k8s.io: goes with those in use" in told
    assert api.changed_since(later) == set()

    # The last one takes Istio with it, and then the definitions that nobody uses.
    ansible("uninstall", **OTHER).ok(changed=True)
    left = set(api.objects()) - {"HTTPRoute molecule/theirs"}
    assert definitions(left) == definitions(earlier) - {name for name in definitions(earlier) if "GatewayClass" in name}
    stays = kept(before, "molecule", "other", "istio-system")
    assert left - definitions(left) - istio_definitions(left) == stays

    run = ansible("uninstall", uninstall_crds=True, **OTHER).ok(changed=True)
    left = definitions(api.objects())
    assert {name for name in left if "inference.networking" in name} == set()
    assert any("gateways.gateway.networking.k8s.io" in name for name in left)
    api.delete(ROUTES, "-n", "molecule", "theirs")
    ansible("uninstall", uninstall_crds=True, **OTHER).ok(changed=True)
    left = set(api.objects())
    assert left - istio_definitions(left) == stays
    ansible("uninstall", uninstall_crds=True, **OTHER).ok(changed=0)


def test_all_at_once(ansible, api, before, stacks) -> None:
    """One run removes a stack together with the definitions that it alone used."""
    ansible("gateway", "models").ok(changed=True)
    ansible("uninstall", uninstall_crds=True).ok(changed=True)
    left = set(api.objects())
    assert left - istio_definitions(left) == kept(before, "molecule", "other", "istio-system")
