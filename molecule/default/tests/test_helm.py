"""Istio by Helm 3 and by Helm 4: shown, installed, left alone, shown again, upgraded, left alone."""

from __future__ import annotations

import pytest

WEBHOOK = "istio-validator-istio-system"
#: Some of what the charts hold.
CREATED = {
    "CustomResourceDefinition destinationrules.networking.istio.io",
    "ClusterRole istiod-clusterrole-istio-system",
    "ConfigMap istio-system/istio",
    "Deployment istio-system/istiod",
    "ServiceAccount istio-system/istio-reader-service-account",
    f"ValidatingWebhookConfiguration {WEBHOOK}",
}
VALUES = {"pilot": {"resources": {"requests": {"cpu": "333m"}}}}


@pytest.fixture
def no_istio(ansible, converged) -> None:
    ansible("uninstall").ok()


@pytest.mark.usefixtures("no_istio")
@pytest.mark.parametrize(("program", "version"), [("helm", "v4."), ("helm3", "v3.")])
def test_istio(program: str, version: str, ansible, api, host) -> None:
    helm = f"/var/lib/llm-d-embedded-api/bin/{program}"
    assert host.run(f"{helm} version --template '{{{{.Version}}}}'").stdout.startswith(version)
    shown = ansible("gateway", options="--check --diff", istio_gateway_helm=helm).ok(changed=True).diffs
    assert shown.keys() >= CREATED
    assert all(line.startswith("+") for lines in shown.values() for line in lines)
    ansible("gateway", istio_gateway_helm=helm).ok(changed=True)
    unchanged = ansible("gateway", options="--check --diff", istio_gateway_helm=helm).ok(changed=0)
    assert not [name for name, _result in unchanged.results if "Diff |" in name]
    ansible("gateway", istio_gateway_helm=helm).ok(changed=0)

    own_webhook_field(api)
    options = "--check --diff"
    shown = ansible("gateway", options=options, istio_gateway_helm=helm, istio_gateway_istiod_values=VALUES).ok().diffs
    assert shown.keys() == {"Deployment istio-system/istiod", "ConfigMap istio-system/values"}
    assert shown["Deployment istio-system/istiod"] == ["-cpu: 500m", "+cpu: 333m"]
    ansible("gateway", istio_gateway_helm=helm, istio_gateway_istiod_values=VALUES).ok(changed=True)
    container = api.get("deployment", "istiod", "istio-system")["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["requests"]["cpu"] == "333m"
    ansible("gateway", istio_gateway_helm=helm, istio_gateway_istiod_values=VALUES).ok(changed=0)


def own_webhook_field(api) -> None:
    """Do as a running istiod does: it owns a field that the chart sets too."""
    live = api.get("validatingwebhookconfiguration", WEBHOOK, "")
    webhooks = [{**webhook, "failurePolicy": "Fail"} for webhook in live["webhooks"]]
    metadata = {"name": WEBHOOK}
    api.apply(
        {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata, "webhooks": webhooks},
        manager="pilot-discovery",
    )
    assert api.get("validatingwebhookconfiguration", WEBHOOK, "")["webhooks"][0]["failurePolicy"] == "Fail"
