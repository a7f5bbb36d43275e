"""Fingerprints, compared with what gpg said when it made the keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.openpgp import fingerprints

DATA = Path(__file__).parent / "data" / "openpgp"
RSA, ED25519 = "59D97A5C684C523DC6AD92F7DB56332C04A22F14", "248CBBF03EC51EFE2AB254A1F8BB10DB5551696D"
ARMOURED, BINARY = (DATA / "rsa.asc").read_bytes(), (DATA / "ed25519.gpg").read_bytes()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (ARMOURED, [RSA]),
        (BINARY, [ED25519]),
        # Mirrors and editors change line ends, and keys come with words around them.
        (b"A key.\r\n" + ARMOURED.replace(b"\n", b"\r\n"), [RSA]),
        (ARMOURED.replace(b"\n\n", b"\nVersion: GnuPG v2\n\n", 1), [RSA]),
        # All of them: a second key would sign as well.
        (ARMOURED + ARMOURED, [RSA, RSA]),
        (BINARY + BINARY, [ED25519, ED25519]),
    ],
)
def test_fingerprints(content: bytes, found: list[str]) -> None:
    assert fingerprints(content) == found


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no OpenPGP public key"),
        (b"<html>404</html>", "is no OpenPGP key"),
        (BINARY[:40], "ends in the middle of a key"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n%%%\n-----END PGP PUBLIC KEY BLOCK-----\n", "is no armoured key"),
        (BINARY[:2] + b"\x06" + BINARY[3:], "key of version 6"),
    ],
)
def test_what_is_no_key(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fingerprints(content)
