"""Where the original keeps a blob's bytes: ``aa/bb/NAME``.

``aa`` and ``bb`` are the first hex pairs of the MD5 of the stored name.  A name that
cannot be a file name (over 255 bytes, or with a slash: the original lost these) is
percent-encoded and cut in pieces, ``aa/bb/_/+PIECE/…/=LAST``; no stored name begins
with ``_``, so nothing meets.

Pure.
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote, unquote

_LONGEST = 255
_PIECE = 240
_ODD = "_"


def path_of(name: str) -> str:
    """Return the path of a stored name's bytes, relative to the store."""
    digest = hashlib.md5(name.encode("utf-8"), usedforsecurity=False).hexdigest()
    directory = f"{digest[:2]}/{digest[2:4]}"
    if "/" not in name and len(name.encode("utf-8")) <= _LONGEST:
        return f"{directory}/{name}"
    quoted = quote(name, safe="")
    pieces = [quoted[at : at + _PIECE] for at in range(0, len(quoted), _PIECE)]
    return "/".join(
        [directory, _ODD, *(f"+{each}" for each in pieces[:-1]), f"={pieces[-1]}"]
    )


def name_of(path: str) -> str | None:
    """Return the stored name that `path_of` gave this path, None for any other path."""
    pieces = path.split("/")
    if len(pieces) == 3:
        name = pieces[2]
    elif len(pieces) > 3 and pieces[2] == _ODD:
        name = unquote("".join(each[1:] for each in pieces[3:]))
    else:
        return None
    try:
        return name if path_of(name) == path else None
    except UnicodeEncodeError:
        return None


def version_of(name: str, sha256: bytes) -> str:
    """Return a file name for just these bytes of a name."""
    known = hashlib.blake2b(name.encode("utf-8"), digest_size=32)
    known.update(b"\0" + sha256)
    return known.hexdigest()
