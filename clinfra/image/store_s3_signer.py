"""Signing requests to S3 with `botocore` (the extra `s3`): its signer, nothing more.

Credentials are found as every tool of Amazon's finds them: environment, profile,
container or instance role.  That waits for files and servers, so a thread does it; so
does renewing those that end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from attrs import define, field
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.session import Session
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from clinfra.errors import OriginFailed
from clinfra.web.heads import Fields

_RENEWED_SECONDS: Final = 60.0
"""How often it is asked whether credentials are to be renewed."""

_UNRESERVED: Final = "/-._~"


def to_path(bucket: str, key: str) -> str:
    """Return the path of an object, in the one form that is signed."""
    return quote(f"/{bucket}/{key}", safe=_UNRESERVED)


class S3Refused(OriginFailed):
    """S3 will say the same again, or there is nothing to ask it with."""


class _Signature(S3SigV4Auth):  # type: ignore[misc]  # botocore is untyped
    """Signs for a body whose digest is known already."""

    def payload(self, request: Any) -> str:
        digest: str = request.context["sha256"]
        return digest


@define(eq=False)
class Signer:
    """Signs requests with the credentials of this machine.

    Args:
        reactor: Twisted's.
        session: where credentials come from.
    """

    log = Logger()

    _reactor: Any
    _session: Session = field(factory=Session)
    _credentials: Any = field(init=False, default=None)
    _renewed_at: float = field(init=False, default=0.0)
    _renewing: Deferred[None] | None = field(init=False, default=None)
    _waiting: list[Deferred[None]] = field(init=False, factory=list)

    @property
    def region(self) -> str:
        """The region that the environment or the profile names; "" for none.

        Reads files.
        """
        return str(self._session.get_config_variable("region") or "")

    async def sign(
        self,
        region: str,
        method: bytes,
        url: str,
        fields: Mapping[str, str],
        sha256: str,
    ) -> Fields:
        """Return the fields of a request, with those that sign it.

        Args:
            sha256: hex digest of the body.

        Raises:
            S3Refused: there are no credentials.
        """
        age = self._reactor.seconds() - self._renewed_at
        if self._credentials is None or age > _RENEWED_SECONDS:
            await self._wait()
        request = AWSRequest(method.decode("ascii"), url, headers=dict(fields))
        request.context["sha256"] = sha256
        _Signature(self._credentials, "s3", region).add_auth(request)
        return tuple(
            (str(name).encode("latin-1"), str(value).encode("latin-1"))
            for name, value in request.headers.items()
        )

    def prepare(self) -> None:
        """Look for credentials."""
        if self._renewing is None:
            self._renewing = Deferred.fromCoroutine(self._renew())

    def forget(self) -> None:
        """Look for newer credentials with the next request."""
        self._credentials = None

    async def _wait(self) -> None:
        """Wait for credentials; whoever comes meanwhile waits for the same."""
        self.prepare()
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        await waiting
        if self._credentials is None:
            raise S3Refused("There are no credentials for the store of images.")

    async def _renew(self) -> None:
        threads = self._reactor.getThreadPool()
        try:
            self._credentials = await deferToThreadPool(
                self._reactor, threads, self._find
            )
        except (BotoCoreError, OSError) as error:
            self.log.error(
                "image.blob_url: no credentials for S3: {error}", error=str(error)
            )
        finally:
            self._renewed_at = self._reactor.seconds()
            self._renewing = None
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                if not each.called:
                    each.callback(None)

    def _find(self) -> Any:
        """Return credentials that hold for a while; in a thread."""
        found = self._session.get_credentials()
        if found is None:
            self.log.error(
                "image.blob_url: no credentials for S3 in the environment, the profile"
                " or the instance's role"
            )
            return None
        return found.get_frozen_credentials()
