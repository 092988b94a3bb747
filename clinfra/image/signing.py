"""Signed addresses: who holds a key can ask for any recipe, and lend that to others.

Pure.  A signature is HMAC-SHA256 over a path, exactly as it stands in the address, and
the second after which it holds no more; in the query both are ``e`` (may be missing:
it holds as long as the key does) and ``s`` (base64url, no padding)::

    /000_abxyl0kjyow/640x_webp?e=1795321273&s=3q2-7w...

The first of several keys signs, all of them verify: a new key is put first, and the
old one taken away when what it signed has expired.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence

from attrs import field, frozen

from clinfra.errors import Forbidden

LEAST_KEY_BYTES = 16

_CONTEXT = b"clinfra image\n"
_SIGNED = re.compile(rb"(?:e=([0-9]{1,12})&)?s=([A-Za-z0-9_-]{43})")


@frozen
class Keys:
    """Secrets to sign and verify with; never shown.

    Raises ValueError for one that is too short.
    """

    _secrets: tuple[bytes, ...] = field(repr=False)

    def __attrs_post_init__(self) -> None:
        if any(len(secret) < LEAST_KEY_BYTES for secret in self._secrets):
            raise ValueError(f"a key has at least {LEAST_KEY_BYTES} bytes")

    @classmethod
    def of(cls, texts: Sequence[str]) -> Keys:
        """Make them of texts.  Raises ValueError."""
        return cls(tuple(text.encode() for text in texts))

    def and_verify(self, text: str) -> Keys:
        """Return these, and one more that signs nothing as long as there are others."""
        return Keys((*self._secrets, text.encode()))

    def __len__(self) -> int:
        return len(self._secrets)

    def sign(self, path: bytes, expires: int | None = None) -> bytes:
        """Return the path with its signature behind it.

        Args:
            path: from its slash to what would be the question mark.
            expires: unix seconds; None for never.
        """
        if not self._secrets:
            raise ValueError("there is no key to sign with")
        until = b"" if expires is None else b"%d" % expires
        signature = _signature(self._secrets[0], path, until)
        given = b"e=%b&" % until if until else b""
        return b"%b?%bs=%b" % (path, given, signature)

    def verify(self, path: bytes, query: bytes, now: float) -> int | None:
        """Check the signature of a path.

        Returns:
            When it expires, unix seconds; None for never.

        Raises:
            Forbidden: it is not signed by any of these keys, or has expired.
        """
        match = _SIGNED.fullmatch(query)
        if match is None:
            raise Forbidden("This is not a signed address: it ends with ?e=…&s=….")
        until = match[1] or b""
        # As written, for the last letter has bits that mean nothing: an address has one
        # spelling.  All keys are tried, so that time tells nothing.
        good = [
            hmac.compare_digest(_signature(secret, path, until), match[2])
            for secret in self._secrets
        ]
        if not any(good):
            raise Forbidden("The signature of this address is wrong.")
        if not until:
            return None
        if int(until) <= now:
            raise Forbidden("This signed address has expired.")
        return int(until)


def is_signed(query: bytes) -> bool:
    """Tell whether a query claims to be a signature."""
    return query.startswith((b"e=", b"s=")) and b"s=" in query


def _signature(secret: bytes, path: bytes, until: bytes) -> bytes:
    digest = hmac.digest(secret, _CONTEXT + until + b"\n" + path, hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=")
