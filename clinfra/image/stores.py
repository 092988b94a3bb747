"""The stores of our own that `image.blob_url` can name: a directory and S3."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinfra.errors import ConfigProblems
from clinfra.image.store_directory import Directory, DirectoryStore
from clinfra.image.store_urls import DirectoryUrl, S3Url, parse_store_url

if TYPE_CHECKING:
    from clinfra.image.store_s3 import S3Store


def check_url(text: str) -> list[str]:
    """Return what is wrong with `image.blob_url`."""
    try:
        url = parse_store_url(text) if text else None
    except ValueError as error:
        return [f"image.blob_url: {error}"]
    if isinstance(url, S3Url) and find_spec("botocore") is None:
        return ["image.blob_url: S3 needs botocore: pip install 'clinfra[s3]'"]
    return []


def make_store(text: str, reactor: Any) -> DirectoryStore | S3Store | None:
    """Return the store at a URL; None when that is a blob service's.

    It is to be opened before the reactor runs, and closed at its end.

    Raises ConfigProblems.
    """
    problems = check_url(text)
    if problems:
        raise ConfigProblems(problems)
    url = parse_store_url(text)
    if isinstance(url, DirectoryUrl):
        return DirectoryStore(Directory(Path(url.path)), reactor=reactor)
    if isinstance(url, S3Url):
        from clinfra.image.store_s3 import S3Store

        return S3Store.at(url, reactor)
    return None
