"""The URLs of stores: `file:///DIRECTORY` and `s3://BUCKET/PREFIX?endpoint=&region=`.

Pure.  The URL of a blob service (http) is known here, and left to its client.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import frozen

_SCHEMES = "file:///DIRECTORY, s3://BUCKET/PREFIX or http://HOST:PORT"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_AWS_REGION = "us-east-1"


@frozen
class DirectoryUrl:
    """A directory of files.

    Attributes:
        path: absolute.
    """

    path: str


@frozen
class S3Url:
    """A bucket, or a part of one.

    Attributes:
        bucket: its name.
        prefix: before every key, "" or ending with a slash.
        region: "" when the environment decides.
        host: of the endpoint; "" for Amazon's own.
        port: of the endpoint.
        tls: the endpoint speaks HTTPS.
    """

    bucket: str
    prefix: str
    region: str = ""
    host: str = ""
    port: int = 443
    tls: bool = True

    def at(self, region: str) -> S3Url:
        """Return it with its region and host decided.

        Args:
            region: what the environment says; "" for nothing.
        """
        region = self.region or region or _AWS_REGION
        host = self.host or f"s3.{region}.amazonaws.com"
        return S3Url(self.bucket, self.prefix, region, host, self.port, self.tls)

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def parse_store_url(text: str) -> DirectoryUrl | S3Url | None:
    """Read a URL; None for that of a blob service.

    Raises:
        ValueError: one sentence about what is wrong with it.
    """
    if not text.isprintable() or " " in text:
        raise ValueError("has spaces or control characters: write them as %20")
    parts = urlsplit(text)
    if parts.scheme == "http":
        if not _is_host(text):
            raise ValueError("a blob service is http://HOST:PORT")
        return None
    if parts.scheme == "file":
        return _directory(text)
    if parts.scheme == "s3":
        return _s3(text)
    raise ValueError(f"{text!r} is none of {_SCHEMES}")


def _directory(text: str) -> DirectoryUrl:
    parts = urlsplit(text)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/"):
        raise ValueError("a directory is file:///ABSOLUTE/PATH")
    if parts.query or parts.fragment or "\0" in path:
        raise ValueError("a directory has nothing behind its path")
    return DirectoryUrl(path)


def _s3(text: str) -> S3Url:
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise ValueError("credentials belong into the environment or a profile")
    if not _BUCKET.fullmatch(parts.netloc):
        raise ValueError("no such bucket can be: s3://BUCKET/PREFIX")
    options = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(options)
    unknown = given.keys() - {"endpoint", "region"}
    if unknown or parts.fragment or len(given) != len(options):
        raise ValueError("only endpoint= and region= stand behind it, each once")
    region = given.get("region", "")
    if region and not _REGION.fullmatch(region):
        raise ValueError("no such region can be")
    path = unquote(parts.path).strip("/")
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise ValueError("a prefix has no empty, . or .. segments")
    prefix = f"{path}/" if path else ""
    if "endpoint" not in given:
        return S3Url(parts.netloc, prefix, region)
    return S3Url(parts.netloc, prefix, region, *_endpoint(given["endpoint"]))


def _is_host(text: str) -> bool:
    """Say whether there are a host and a port that can be."""
    parts = urlsplit(text)
    try:
        return bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return False


def _endpoint(text: str) -> tuple[str, int, bool]:
    parts = urlsplit(text)
    rest = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not _is_host(text) or rest:
        raise ValueError("endpoint is https://HOST:PORT or http://HOST:PORT")
    tls = parts.scheme == "https"
    return parts.hostname or "", parts.port or (443 if tls else 80), tls
