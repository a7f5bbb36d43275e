"""Istio by Helm 3 where there is none: installed, left alone, upgraded while it runs, left alone, removed.

Run by prepare.yml, before converge, which installs it by Helm 4.
"""

from __future__ import annotations

from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import STATE, istiod_values

ROOT_OF_TRUST = "Secret istio-system/istio-ca-secret"


def test_istio_by_helm_3(ansible, kube, host) -> None:
    helm = {"istio_gateway_helm": f"{STATE}/bin/helm3"}
    assert host.run(f"{helm['istio_gateway_helm']} version --template '{{{{.Version}}}}'").stdout.startswith("v3.")
    before = kube.objects()
    assert not [name for name in before if "istiod" in name]

    ansible("local", "gateway", **helm).ok(changed=True)
    gateway = kube.get("llm-d", "gateways.gateway.networking.k8s.io", "llm-d-inference-gateway")
    assert gateway["status"]["addresses"]
    ansible("local", "gateway", **helm).ok(changed=False)

    changed = {**helm, "istio_gateway_istiod_values": istiod_values(cpu="60m")}
    ansible("local", "gateway", **changed).ok(changed=True)
    (container,) = kube.get("istio-system", "deployment", "istiod")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["cpu"] == "60m"
    ansible("local", "gateway", **changed).ok(changed=False)

    ansible("local", "uninstall", uninstall_crds=True, **helm).ok(changed=True)
    left = [name for name in kube.objects() if name not in before]
    # Namespaces stay, with what Kubernetes and Istio put into each.
    kept = ("Namespace /", "ServiceAccount llm-d/default", "ServiceAccount istio-system/default", "ConfigMap ", "Pod ")
    left = [name for name in left if not name.startswith(kept)]
    # So do Istio's own definitions, which its chart keeps for objects of others, and its root of
    # trust. Both are there before where the cluster has had an Istio.
    assert [name for name in left if not name.endswith(".istio.io") and name != ROOT_OF_TRUST] == []
