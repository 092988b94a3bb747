"""What is told of a blob: the original's info JSON, and `BlobInfo`.

The original's five keys come first; what we add follows, and old clients ignore it.

Pure.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping

from clinfra.blob.records import Row
from clinfra.interfaces import BlobInfo

NOT_FOUND = "404 Not Found"
"""The original's sentence for what is not there."""

_quoted = json.encoder.encode_basestring_ascii

_TYPES = mimetypes.MimeTypes()
"""Python's own table: what the machine's files say must not change answers."""


def guess_type(name: str) -> str:
    """Return the content type that a name's extension stands for."""
    last = name.rpartition("/")[2]
    # The slash keeps "data:…" names from being read as URLs.
    guessed = _TYPES.guess_type("/" + last)[0] if "." in last else None
    return guessed or "application/octet-stream"


def content_type_of(row: Row) -> str:
    """Return a blob's content type: as stored, else by its name."""
    stored = row.data.content_type if row.data is not None else ""
    return stored or guess_type(row.name)


def info_of(row: Row, buckets: Mapping[int, int]) -> BlobInfo:
    """Return what is known of a row."""
    data = row.data
    return BlobInfo(
        name=row.name,
        modified=data.modified if data is not None else None,
        deleted=row.expiry.deleted,
        modified_deleted=row.expiry.modified_deleted,
        buckets=buckets,
        size=data.size if data is not None else None,
        sha256=data.sha256.hex() if data is not None else None,
        content_type=content_type_of(row),
    )


def to_json(info: BlobInfo) -> bytes:
    """Return the info JSON, compact as the original's."""
    modified = "null" if info.modified is None else info.modified
    buckets = ",".join(f'"{each}":{number}' for each, number in info.buckets.items())
    told = (
        f'{{"name":{_quoted(info.name)},"modified":{modified},'
        f'"deleted":{info.deleted},"modified_deleted":{info.modified_deleted},'
        f'"buckets":{{{buckets}}}'
    )
    if info.sha256 is not None:
        told += (
            f',"size":{info.size},"sha256":"{info.sha256}",'
            f'"content_type":{_quoted(info.content_type)}'
        )
    return told.encode("ascii") + b"}"


def from_json(raw: bytes) -> BlobInfo:
    """Return what an info JSON says, ours or the original's.  Raises ValueError."""
    try:
        told = json.loads(raw)
        return BlobInfo(
            name=told["name"],
            modified=told["modified"],
            deleted=told["deleted"],
            modified_deleted=told["modified_deleted"],
            buckets={int(cluster): int(b) for cluster, b in told["buckets"].items()},
            size=told.get("size"),
            sha256=told.get("sha256"),
            content_type=told.get("content_type") or guess_type(told["name"]),
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not an info: {error!r}") from error
