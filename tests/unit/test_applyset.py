"""ApplySets as KEP-3659 writes them down."""

from __future__ import annotations

from ansible_collections.llm_d.multi_engine.plugins.module_utils import applyset


def test_identity() -> None:
    # sha256 of "llm-d-gaie.llm-d.ConfigMap.", in base64url without padding, as kubectl computes it.
    assert applyset.set_name("llm-d", "model_service") == "llm-d-model-service"
    assert applyset.set_id("llm-d-gaie", "llm-d") == "applyset-H7zPqsSVTriHELxcH1al2RcshM_Oy8yyRa0hbVMekRA-v1"
    assert applyset.set_id("llm-d-gaie", "other") != applyset.set_id("llm-d-gaie", "llm-d")


def test_parent_says_what_is_in_it_and_is_read_back() -> None:
    kinds = {("", "Service"), ("apps", "Deployment"), ("gateway.networking.k8s.io", "HTTPRoute")}
    parent = applyset.parent("llm-d", "gaie", "llm-d", kinds, {"llm-d", "b", "a"})
    assert parent["metadata"]["annotations"] == {
        "applyset.kubernetes.io/tooling": "llm_d.multi_engine/v1",
        "applyset.kubernetes.io/contains-group-kinds": "Deployment.apps,HTTPRoute.gateway.networking.k8s.io,Service",
        "applyset.kubernetes.io/additional-namespaces": "a,b",
    }
    assert applyset.kinds_of(parent) == kinds
    assert applyset.namespaces_of(parent) == {"llm-d", "a", "b"}


def test_parent_of_one_namespace_and_none_at_all() -> None:
    parent = applyset.parent("llm-d", "gaie", "llm-d", (), ("llm-d",))
    assert "applyset.kubernetes.io/additional-namespaces" not in parent["metadata"]["annotations"]
    assert applyset.kinds_of(parent) == set()
    assert (applyset.kinds_of(None), applyset.namespaces_of(None)) == (set(), set())
