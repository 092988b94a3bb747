"""Cache keys: one per page and variant, safe for any URL.

Pure.  Keys are hashes, so that two long URLs never share a page and nothing a client
sends can be an invalid memcached key.  A page (scheme and host_path) has one primary
key.  When its answers vary, the primary key holds the names of the fields they vary
on and a generation; each variant has a key made of these and of the request's values.
A new generation makes all older variants unreachable: that is how a purge forgets
variants it cannot enumerate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b

_CODING = re.compile(
    rb"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:;\s*q\s*=\s*([0-9.]+)\s*)?\Z"
)

Getter = Callable[[bytes], bytes | None]
"""Returns the value of a request field by its lower-case name."""


def primary_key(scheme: str, host_path: str) -> bytes:
    """Return the key of a page."""
    return _digest(b"page", scheme.encode("latin-1"), host_path.encode("utf-8"))


def variant_key(
    primary: bytes, generation: bytes, names: Sequence[bytes], get: Getter
) -> bytes:
    """Return the key of the variant of a page that answers this request.

    Args:
        names: lower-case names of the fields the page varies on.
        get: the request's fields.
    """
    parts = [primary, generation]
    for name in names:
        parts.append(name)
        parts.append(normalised(name, get(name)))
    return _digest(b"variant", *parts)


def vary_names(vary: bytes | None) -> tuple[bytes, ...] | None:
    """Return the lower-case names of a Vary field, sorted; None when it says "*"."""
    if vary is None:
        return ()
    names = {name.strip().lower() for name in vary.split(b",")}
    names.discard(b"")
    return None if b"*" in names else tuple(sorted(names))


def normalised(name: bytes, value: bytes | None) -> bytes:
    """Return a request field in a form in which equal meanings are equal.

    Absent and empty differ; so do values whose meaning could.
    """
    if value is None:
        return b"-"
    if name == b"accept-encoding":
        return b"+" + _accepted_codings(value)
    if name == b"accept-language":
        return b"+" + _accepted_languages(value)
    return b"+" + b",".join(part.strip() for part in value.split(b","))


def _accepted_codings(value: bytes) -> bytes:
    """Return the acceptable codings, sorted: their order and weights do not matter.

    An answer in any coding the client accepts is right for it, and two clients that
    accept the same set may share one.  "identity" is implied unless refused.
    """
    accepted: set[bytes] = set()
    for part in value.lower().split(b","):
        if not part.strip():
            continue
        match = _CODING.match(part)
        if match is None:
            return b"?" + value  # nonsense shares with nothing but equal nonsense
        coding, weight = match.groups()
        if weight is not None and not weight.strip(b"0."):
            if coding in (b"identity", b"*"):
                accepted.add(b"!" + coding)
        elif coding != b"identity":
            accepted.add(b"gzip" if coding == b"x-gzip" else coding)
    return b",".join(sorted(accepted))


def _accepted_languages(value: bytes) -> bytes:
    """Return the languages and their weights, sorted: neither order nor case matters.

    Languages of equal weight have no order (RFC 9110 §12.5.4).
    """
    accepted: set[bytes] = set()
    for part in value.lower().split(b","):
        if not part.strip():
            continue
        match = _CODING.match(part)
        if match is None:
            return b"?" + value
        language, weight = match.groups()
        if weight and b"." in weight:
            weight = weight.rstrip(b"0").rstrip(b".")
        accepted.add(language if weight in (None, b"1") else language + b";q=" + weight)
    return b",".join(sorted(accepted))


def _digest(*parts: bytes) -> bytes:
    """Hash parts so that no two lists of parts run together; 40 hex digits."""
    state = blake2b(digest_size=20)
    for part in parts:
        state.update(b"%d:" % len(part))
        state.update(part)
    return state.hexdigest().encode("ascii")
