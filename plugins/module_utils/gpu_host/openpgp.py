# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of OpenPGP keys, on hosts that have no gpg.

A fingerprint of version 4 is the SHA-1 of the public key's packet (RFC 9580, 5.5.4.2).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

_ARMOUR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)
_PUBLIC_KEY = 6


def fingerprints(content: bytes) -> list[str]:
    """Return the fingerprints of the primary keys in a file, armoured or not.

    :raises ValueError: when it holds no key that can be read.
    """
    found = []
    blocks = [_decoded(match[1]) for match in _ARMOUR.finditer(content)] or [content]
    for block in blocks:
        found += [_fingerprint(body) for tag, body in _packets(block) if tag == _PUBLIC_KEY]
    if not found:
        raise ValueError("it holds no OpenPGP public key")
    return found


def _decoded(armoured: bytes) -> bytes:
    """Return the bytes of an armoured block: headers end with an empty line, ``=`` begins the checksum."""
    lines = [line.strip() for line in armoured.splitlines()]
    start = lines.index(b"") + 1 if b"" in lines else 0
    data = [line for line in lines[start:] if line and not line.startswith(b"=")]
    try:
        return base64.b64decode(b"".join(data), validate=True)
    except binascii.Error as error:
        raise ValueError(f"it is no armoured key: {error}") from error


def _packets(content: bytes) -> list[tuple[int, bytes]]:
    found, position = [], 0
    while position < len(content):
        head = content[position]
        if not head & 0x80:
            raise ValueError("it is no OpenPGP key")
        position += 1
        tag, length, position = (_new if head & 0x40 else _old)(head, content, position)
        if position + length > len(content):
            raise ValueError("it ends in the middle of a key")
        found.append((tag, content[position : position + length]))
        position += length
    return found


def _old(head: int, content: bytes, position: int) -> tuple[int, int, int]:
    kind = head & 0x03
    if kind == 3:
        return (head >> 2) & 0x0F, len(content) - position, position
    size = 1 << kind
    return (head >> 2) & 0x0F, int.from_bytes(content[position : position + size], "big"), position + size


def _new(head: int, content: bytes, position: int) -> tuple[int, int, int]:
    first = content[position] if position < len(content) else 0
    if first < 192:
        return head & 0x3F, first, position + 1
    if first < 224:
        second = int.from_bytes(content[position + 1 : position + 2], "big")
        return head & 0x3F, ((first - 192) << 8) + second + 192, position + 2
    if first == 255:
        return head & 0x3F, int.from_bytes(content[position + 1 : position + 5], "big"), position + 5
    raise ValueError("it has a packet in parts, which keys do not have")


def _fingerprint(body: bytes) -> str:
    if body[:1] != b"\x04":
        raise ValueError(f"it has a key of version {body[0] if body else '?'}; only version 4 is known here")
    # SHA-1 is what the format says; it protects nothing that a longer pin would not.
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()
