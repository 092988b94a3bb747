"""Checksums that travel with a body: Content-Digest, Repr-Digest, Content-MD5.

A writer may announce the digest of what it sends (RFC 9530, or the older RFC 1864);
a body that does not match is refused and nothing of it is kept.  Readers are told the
SHA-256 that was computed when the blob was stored.

Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Protocol

from clinfra.errors import InvalidRequest
from clinfra.web.heads import RequestHead

_MEMBER = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)\s*=\s*:([A-Za-z0-9+/=]*):\s*\Z")
_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5", "sha": "sha1"}


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


def digest_value(sha256: bytes) -> bytes:
    """Return the value of a Content-Digest or Repr-Digest field."""
    return b"sha-256=:" + base64.b64encode(sha256) + b":"


def parse_digests(field: bytes, value: str) -> dict[str, bytes]:
    """Return hashlib's name → digest, for the algorithms known.

    Raises InvalidRequest for what is no dictionary of byte sequences.
    """
    found: dict[str, bytes] = {}
    for member in value.split(","):
        match = _MEMBER.match(member)
        if match is None:
            raise InvalidRequest(f"Invalid {field.decode()}: {value[:200]}")
        algorithm = _ALGORITHMS.get(match[1])
        if algorithm is not None:
            found[algorithm] = _decoded(field, match[2])
    return found


def _decoded(field: bytes, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise InvalidRequest(f"Invalid {field.decode()}: {text[:200]}") from None


class Announced:
    """The digests a request announced, and the running hashes to hold it to them."""

    def __init__(self, expected: Mapping[str, bytes]) -> None:
        self.expected = dict(expected)
        self._running: dict[str, _Hash] = {
            name: hashlib.new(name, usedforsecurity=False)
            for name in expected
            if name != "sha256"
        }

    @classmethod
    def in_head(cls, head: RequestHead) -> Announced:
        """Read the fields of a request.  Raises InvalidRequest."""
        expected: dict[str, bytes] = {}
        for field in (b"content-digest", b"repr-digest"):
            value = head.get(field)
            if value is not None:
                for name, digest in parse_digests(
                    field, value.decode("latin-1")
                ).items():
                    if expected.setdefault(name, digest) != digest:
                        raise InvalidRequest("Digests contradict one another")
        value = head.get(b"content-md5")
        if value is not None:
            digest = _decoded(b"content-md5", value.decode("latin-1"))
            if expected.setdefault("md5", digest) != digest:
                raise InvalidRequest("Digests contradict one another")
        return cls(expected)

    def update(self, data: bytes) -> None:
        """Take the next piece of the body."""
        for running in self._running.values():
            running.update(data)

    def check(self, sha256: bytes) -> None:
        """Raise InvalidRequest unless the body was what was announced."""
        for name, digest in self.expected.items():
            found = sha256 if name == "sha256" else self._running[name].digest()
            if found != digest:
                raise InvalidRequest(f"Body does not match its {name} digest")
