"""Istio's upgrade while it runs, by Helm 4; Helm 3 does the same in empty_cluster.py."""

from __future__ import annotations

from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import STATE, Traffic, istiod_values


def requested(kube) -> str:
    (container,) = kube.get("istio-system", "deployment", "istiod")["spec"]["template"]["spec"]["containers"]
    return container["resources"]["requests"]["cpu"]


def test_an_upgrade_goes_unnoticed_and_is_done_once(ansible, kube, host, gateway) -> None:
    assert host.run(f"{STATE}/bin/helm version --template '{{{{.Version}}}}'").stdout.startswith("v4.")
    owners = kube(
        "get", "validatingwebhookconfiguration", "istio-validator-istio-system", "--show-managed-fields", "-o", "json"
    )
    # What Helm 4 would stop at, were it to apply on the server.
    assert '"manager": "pilot-discovery"' in owners
    changed = {"istio_gateway_istiod_values": istiod_values(cpu="60m")}
    with Traffic(gateway, {"model": "tiny-qwen3"}) as requests:
        ansible("local", "gateway", **changed).ok(changed=True)
        assert requested(kube) == "60m"
        ansible("local", "gateway", **changed).ok(changed=False)
        ansible("local", "gateway").ok(changed=True)
        assert requested(kube) == "50m"
    requests.unharmed()
