from __future__ import annotations

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.versions import (
    VersionError,
    is_version,
    matches,
    parse,
)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("0.5.9", "0.5.10"),
        ("0.5.6", "0.5.6.post1"),
        ("0.5.6.post2", "0.5.6.post10"),
        ("0.5.6.post2", "0.5.7"),
        ("0.5.20rc1", "0.5.20"),
        ("0.5.20a1", "0.5.20b1"),
        ("0.5.20b2", "0.5.20rc1"),
        ("0.5.20rc2", "0.5.20rc10"),
        ("0.5", "0.5.1"),
        ("v1.35.4+k3s1", "v1.36.0"),
        ("580.65.06", "580.82.07"),
    ],
)
def test_order(older: str, newer: str) -> None:
    assert parse(older) < parse(newer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("v0.5.6.post2-runtime", "0.5.6.post2"),
        ("0.5", "0.5.0"),
        ("v1.35.4+k3s1", "1.35.4"),
        ("v1.33.5-eks-3cfe0ce", "1.33.5"),
        (" 0.5.20 ", "0.5.20"),
        ("0.5.20.rc1", "0.5.20rc1"),
        ("1.29.1-distroless", "1.29.1"),
    ],
)
def test_equal(one: str, other: str) -> None:
    assert parse(one) == parse(other)


@pytest.mark.parametrize("text", ["", "latest", "v", "nightly-dev", "0.5.x", "0.5.20.dev1", "0.5.20post1", "1..2"])
def test_not_a_version(text: str) -> None:
    assert not is_version(text)
    with pytest.raises(VersionError, match="is not a version such as"):
        parse(text)


@pytest.mark.parametrize(
    ("version", "spec", "expected"),
    [
        ("0.5.20", "", True),
        ("0.5.20", ">=0.5.20", True),
        ("0.5.19", ">=0.5.20", False),
        ("0.5.19.post1", "<0.5.20", True),
        ("0.5.20", "<0.5.20", False),
        ("0.5.20", "<=0.5.20", True),
        ("0.5.20.post1", "<=0.5.20", False),
        ("0.5.20", ">0.5.20", False),
        ("v0.5.20-runtime", "==0.5.20", True),
        ("0.5.20", "!=0.5.20", False),
        ("1.36.0", ">=1.31,<1.36", False),
        ("v1.35.9+k3s1", ">=1.31, <1.36", True),
        ("1.30.9", ">=1.31,<1.36", False),
    ],
)
def test_matches(version: str, spec: str, expected: bool) -> None:
    assert matches(version, spec) is expected


@pytest.mark.parametrize("spec", ["0.5.20", "~=0.5", ">=latest", "=>1", ">="])
def test_a_range_that_cannot_be_read(spec: str) -> None:
    with pytest.raises(VersionError):
        matches("0.5.20", spec)
