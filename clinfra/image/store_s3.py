"""Blobs as objects of an S3 bucket: `image.blob_url = "s3://BUCKET/PREFIX"`.

An object's key is the prefix and the stored name; stamp, expiry and digest are its
metadata, and expiry is its Expires field as well.  What has expired is not found any
more; that it is removed is a lifecycle rule's part.  Bytes are proved both ways: S3
checks the digest that is signed, and what comes back is checked against it.

The credentials need s3:GetObject, s3:PutObject and s3:DeleteObject, and s3:ListBucket:
without, S3 answers for what is not there as for what is forbidden.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.errors import (
    NotFound,
    OriginFailed,
    StorageDamaged,
    StorageFull,
    Trouble,
)
from clinfra.image import store_names
from clinfra.image.store_names import Kept
from clinfra.image.store_s3_signer import S3Refused, Signer, to_path
from clinfra.image.store_urls import S3Url
from clinfra.interfaces import BlobInfo, IBlobs
from clinfra.web.heads import ResponseHead
from clinfra.web.pool import Origin, Pool, PoolSettings
from clinfra.web.tls import tls_connector

MAX_BODY_BYTES: Final = 64 << 20
"""Largest blob that is read; no result of a worker is larger."""

_STAMP: Final = "x-amz-meta-modified"
_EXPIRES: Final = "x-amz-meta-expires"
_SHA256: Final = "x-amz-meta-sha256"

_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 0.1
"""Half of what is waited before the second attempt; it doubles with each."""

_PASSING: Final = frozenset((408, 409, 429, 500, 502, 503, 504))
_RENEWABLE: Final = frozenset(("ExpiredToken", "TokenRefreshRequired"))
_TROUBLE_BYTES: Final = 65536
_EMPTY_SHA256: Final = hashlib.sha256().hexdigest()
_HASHED_AT_ONCE: Final = 1 << 20
"""Bytes that are hashed without a thread: a millisecond or less."""

_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_SETTINGS: Final = PoolSettings(response_timeout=20.0, read_timeout=20.0)


@frozen
class _Answer:
    head: ResponseHead
    body: bytes


@implementer(IBlobs)
@define(eq=False)
class S3Store:
    """Blobs in a bucket.

    Args:
        url: with region and host decided (`S3Url.at`).
        reactor: Twisted's; its clock is unix time.
        signer: knows the credentials.
        pool: connections of the kind that the endpoint speaks.
    """

    log = Logger()

    _url: S3Url
    _reactor: Any = field(kw_only=True)
    _signer: Signer = field(kw_only=True)
    _pool: Pool = field(kw_only=True)

    @_pool.default
    def _make_pool(self) -> Pool:
        connect = tls_connector(self._reactor) if self._url.tls else None
        return Pool(self._reactor, _SETTINGS, connect)

    @classmethod
    def at(cls, url: S3Url, reactor: Any) -> S3Store:
        """Return the store at a URL, for the credentials of this machine."""
        signer = Signer(reactor)
        return cls(url.at(signer.region), reactor=reactor, signer=signer)

    def open(self) -> None:
        """Look for credentials as soon as the reactor runs, so that the log tells."""
        self._reactor.callWhenRunning(self._signer.prepare)

    def close(self) -> Deferred[None]:
        """Close the connections."""
        return self._pool.close()

    async def encode(self, name: str) -> str:
        """Return the stored name of a plain name."""
        return store_names.encode(name)

    async def put(
        self,
        name: str,
        body: bytes,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
        encoded: bool = False,
    ) -> BlobInfo:
        """Keep a body durably: S3 has it in several places when this returns.

        Raises errors.StorageFull, errors.OriginFailed.
        """
        stored = store_names.check(name) if encoded else store_names.encode(name)
        kept = Kept.of(
            stored,
            await self._digest(body),
            now=self._reactor.seconds(),
            ttl_seconds=ttl_seconds,
            content_type=content_type,
        )
        fields = {
            "Content-Type": kept.content_type,
            _STAMP: str(kept.modified),
            _EXPIRES: str(kept.expires),
            _SHA256: kept.sha256,
        }
        if kept.expires:
            fields["Expires"] = formatdate(kept.expires, usegmt=True)
        await self._ask(b"PUT", stored, fields, body, kept.sha256)
        return kept.info(stored, len(body))

    async def get(self, name: str) -> tuple[BlobInfo, bytes]:
        """Return a blob whole.  Raises errors.NotFound, errors.StorageDamaged."""
        stored = store_names.check(name)
        answer = await self._ask(b"GET", stored)
        sha256 = await self._digest(answer.body)
        kept = self._kept(stored, answer.head, sha256)
        if kept.sha256 != sha256:
            raise StorageDamaged("The bytes in the bucket are not those stored.")
        return kept.info(stored, len(answer.body)), answer.body

    async def info(self, name: str) -> BlobInfo:
        """Return what is known of a blob.  Raises errors.NotFound."""
        stored = store_names.check(name)
        head = (await self._ask(b"HEAD", stored)).head
        if head.get(_SHA256.encode()) is None:
            # It came here another way: only its bytes tell.
            return (await self.get(stored))[0]
        length = head.get(b"content-length") or b""
        if not length.isdigit():
            raise OriginFailed("The bucket does not say how long a blob is.")
        return self._kept(stored, head, "").info(stored, int(length))

    async def delete(self, name: str) -> BlobInfo:
        """Delete at once."""
        stored = store_names.check(name)
        try:
            await self._ask(b"DELETE", stored)
        except NotFound:
            pass
        return store_names.deleted(stored, self._reactor.seconds())

    def _kept(self, stored: str, head: ResponseHead, sha256: str) -> Kept:
        """Read what is kept beside the bytes.

        Args:
            sha256: of the bytes, for an object that came here another way.

        Raises errors.NotFound: it has expired.
        """
        modified = _number(head, _STAMP) or store_names.stamp_at(_last_modified(head))
        kept = Kept(
            modified=modified,
            expires=_number(head, _EXPIRES),
            sha256=(head.get(_SHA256.encode()) or b"").decode("latin-1") or sha256,
            content_type=(head.get(b"content-type") or b"").decode("latin-1")
            or store_names.guess_type(stored),
        )
        if kept.is_over(self._reactor.seconds()):
            raise NotFound("There is no such blob.")
        return kept

    async def _digest(self, body: bytes) -> str:
        if len(body) <= _HASHED_AT_ONCE:
            return hashlib.sha256(body).hexdigest()
        threads = self._reactor.getThreadPool()
        digest: str = await deferToThreadPool(
            self._reactor, threads, lambda: hashlib.sha256(body).hexdigest()
        )
        return digest

    # Requests

    async def _ask(
        self,
        method: bytes,
        stored: str,
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
        sha256: str = _EMPTY_SHA256,
    ) -> _Answer:
        """Send a request, and again what may pass; every kind may be sent twice.

        Raises errors.Trouble.
        """
        attempt = 1
        while True:
            try:
                return await self._attempt(method, stored, fields or {}, body, sha256)
            except S3Refused:
                raise
            except OriginFailed as failed:
                self.log.warn(
                    "image.blob_url: attempt {attempt}: {error} ({cause})",
                    attempt=attempt,
                    error=failed.sentence,
                    cause=str(failed.__cause__ or ""),
                )
                if attempt == _ATTEMPTS:
                    raise
            await deferLater(self._reactor, _PAUSE_SECONDS * 2**attempt)
            attempt += 1

    async def _attempt(
        self,
        method: bytes,
        stored: str,
        fields: Mapping[str, str],
        body: bytes | None,
        sha256: str,
    ) -> _Answer:
        url = self._url
        path = to_path(url.bucket, url.prefix + stored)
        scheme = "https" if url.tls else "http"
        signed = await self._signer.sign(
            url.region, method, f"{scheme}://{url.authority}{path}", fields, sha256
        )
        host = (b"Host", url.authority.encode("ascii"))
        response = await self._pool.request(
            Origin(url.host, url.port), method, path.encode(), (host, *signed), body
        )
        async with response:
            head = response.head
            if head.status in (200, 204):
                return _Answer(head, await response.read_all(MAX_BODY_BYTES))
            raise self._trouble(head, await response.read_all(_TROUBLE_BYTES))

    def _trouble(self, head: ResponseHead, body: bytes) -> Trouble:
        """Return the trouble that an answer means; nothing of it tells secrets."""
        found = _CODE.search(body)
        code = found[1].decode("ascii") if found else str(head.status)
        if head.status == 404 and code != "NoSuchBucket":
            return NotFound("There is no such blob.")
        if head.status == 507 or code in ("QuotaExceeded", "XMinioStorageFull"):
            return StorageFull("There is no room for what was sent.")
        if code in _RENEWABLE:
            self._signer.forget()
            return OriginFailed(f"The bucket wants newer credentials ({code}).")
        if head.status in _PASSING:
            return OriginFailed(f"The bucket does not work now ({code}).")
        self.log.error(
            "image.blob_url: S3 answers {code}: are bucket, region, endpoint and"
            " credentials right, and are s3:GetObject, s3:PutObject, s3:DeleteObject"
            " and s3:ListBucket allowed?",
            code=code,
        )
        return S3Refused(f"The bucket refuses this service ({code}).")


def _number(head: ResponseHead, name: str) -> int:
    value = head.get(name.encode()) or b""
    return int(value) if value.isdigit() and len(value) <= 20 else 0


def _last_modified(head: ResponseHead) -> float:
    try:
        date = parsedate_to_datetime(
            (head.get(b"last-modified") or b"").decode("latin-1")
        )
    except ValueError:
        return 0.0
    return date.timestamp()
