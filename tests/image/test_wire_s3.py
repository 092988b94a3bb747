"""The S3 store against a server that checks signatures, and against bad ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import treq
from botocore.session import Session
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.ssl import Certificate, trustRootFromCertificates

from clinfra.config import Limits
from clinfra.errors import NotFound, OriginFailed, StorageDamaged, StorageFull, Trouble
from clinfra.image import store_s3
from clinfra.image.store_s3 import S3Store
from clinfra.image.store_s3_signer import Signer
from clinfra.image.store_urls import S3Url
from clinfra.web.exchange import IExchange, Response
from clinfra.web.pool import Pool
from clinfra.web.resource import Resource
from clinfra.web.site import Site
from clinfra.web.tls import tls_connector
from tests.blobs_contract import EXAM
from tests.image.live import in_reactor
from tests.image.pictures import jpeg
from tests.image.s3_server import S3Server, s3_server
from tests.support import ClinfraProcess
from tests.web.test_wire_tls import make_certificate

SECRET = "a-secret-that-nobody-may-see"


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Server]:
    """Run an S3 server."""
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a key and a certificate for localhost."""
    path = tmp_path_factory.mktemp("tls") / "pair.pem"
    make_certificate(path)
    return path


@pytest.fixture(scope="module")
def secure(certificate: Path) -> Iterator[S3Server]:
    """Run an S3 server that speaks TLS."""
    with s3_server(certificate) as running:
        yield running


def session(key: str, secret: str = SECRET) -> Session:
    """Return a session with fixed credentials."""
    made = Session()
    made.set_credentials(key, secret)
    return made


@asynccontextmanager
async def store(
    url: S3Url, known: Session, pool: Pool | None = None
) -> AsyncIterator[S3Store]:
    """Use a store."""
    more = {} if pool is None else {"pool": pool}
    made = S3Store(url, reactor=reactor, signer=Signer(reactor, known), **more)
    made.open()
    try:
        yield made
    finally:
        await made.close()


async def trouble(work: Any) -> Trouble:
    """Return what something fails with."""
    try:
        await work
    except Trouble as error:
        assert SECRET not in error.sentence
        return error
    raise AssertionError("did not fail")


@in_reactor
async def test_wrong_credentials(bucket: S3Server) -> None:
    """A wrong secret, an unknown key and a missing bucket are refused at once."""
    right = bucket.environment["AWS_ACCESS_KEY_ID"]
    for url, known, code in (
        (bucket.url(), session(right), "SignatureDoesNotMatch"),
        (bucket.url(), session("AKIAUNKNOWN"), "InvalidAccessKeyId"),
        (
            bucket.url(bucket="nowhere"),
            session(*bucket.environment.values()),
            "NoSuchBucket",
        ),
    ):
        async with store(url, known) as blobs:
            for work in (blobs.put("x", b"1"), blobs.get("000_x")):
                error = await trouble(work)
                assert isinstance(error, OriginFailed)
                assert code in error.sentence


@in_reactor
async def test_no_credentials(bucket: S3Server, monkeypatch: Any) -> None:
    """Without credentials it says so."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with store(bucket.url(), Session()) as blobs:
        works = [Deferred.fromCoroutine(trouble(blobs.get("000_x"))) for _ in range(3)]
        for error in await gatherResults(works):
            assert "no credentials" in error.sentence


@in_reactor
async def test_tls(secure: S3Server, certificate: Path) -> None:
    """Over HTTPS with a trusted certificate everything works as without."""
    authority = Certificate.loadPEM(certificate.read_bytes())
    trust = trustRootFromCertificates([authority])
    pool = Pool(reactor, None, tls_connector(reactor, trust))
    known = session(*secure.environment.values())
    async with store(secure.url("tls/"), known, pool) as blobs:
        for exam in EXAM:
            if exam.__name__ not in ("ends", "refuses_names"):
                await exam(blobs)


@in_reactor
async def test_untrusted(secure: S3Server, monkeypatch: Any) -> None:
    """A certificate of nobody known ends it before anything is sent."""
    monkeypatch.setattr(store_s3, "_PAUSE_SECONDS", 0.001)
    known = session(*secure.environment.values())
    async with store(secure.url(), known) as blobs:
        error = await trouble(blobs.put("x", b"1"))
    assert isinstance(error, OriginFailed)
    assert "certificate verify failed" in repr(error.__cause__)


class Scripted(Resource):
    """Answers with one response after the other; the last stays."""

    def __init__(self, *answers: Response) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked = 0

    async def respond(self, exchange: IExchange) -> Response:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@asynccontextmanager
async def scripted(*answers: Response) -> AsyncIterator[tuple[S3Store, Scripted]]:
    """Use a store whose server answers so."""
    resource = Scripted(*answers)
    site = Site(resource, reactor=reactor, limits=Limits())
    port = cast(Any, reactor).listenTCP(0, site, interface="127.0.0.1")
    url = S3Url("pictures", "", "eu", "127.0.0.1", port.getHost().port, False)
    try:
        async with store(url, session("key")) as blobs:
            yield blobs, resource
    finally:
        await port.stopListening()


def said(status: int, code: str) -> Response:
    """Return an answer as S3 refuses."""
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>"
    return Response(status, ((b"Content-Type", b"application/xml"),), body.encode())


@in_reactor
async def test_passing_troubles(monkeypatch: Any) -> None:
    """What likely passes is asked again, a few times; then it is told."""
    monkeypatch.setattr(store_s3, "_PAUSE_SECONDS", 0.001)
    slow, broken = said(503, "SlowDown"), said(500, "InternalError")
    async with scripted(slow, broken, Response(200)) as (blobs, server):
        await blobs.put("x", b"1")
        assert server.asked == 3
    async with scripted(slow) as (blobs, server):
        error = await trouble(blobs.get("000_x"))
        assert isinstance(error, OriginFailed)
        assert (server.asked, "SlowDown" in error.sentence) == (3, True)
    async with scripted(said(400, "ExpiredToken"), Response(200)) as (blobs, server):
        await blobs.put("x", b"1")
        assert server.asked == 2


@in_reactor
async def test_lasting_troubles() -> None:
    """What will not pass is told at once, as what it is."""
    for answer, kind in (
        (said(404, "NoSuchKey"), NotFound),
        (said(507, "XMinioStorageFull"), StorageFull),
        (said(403, "QuotaExceeded"), StorageFull),
        (said(403, "AccessDenied"), OriginFailed),
        (said(301, "PermanentRedirect"), OriginFailed),
        (said(400, "AuthorizationHeaderMalformed"), OriginFailed),
        (said(418, "<b>"), OriginFailed),
        (Response(200, ((b"x-amz-meta-sha256", b"00"),), b"evil"), StorageDamaged),
        (Response(200, ((b"x-amz-meta-expires", b"1"),), b"old"), NotFound),
    ):
        async with scripted(answer) as (blobs, server):
            assert isinstance(await trouble(blobs.get("000_x")), kind)
            assert server.asked == 1


@in_reactor
async def test_from_elsewhere() -> None:
    """An object that came another way is served, as far as is known."""
    date = (b"Last-Modified", b"Sun, 06 Nov 1994 08:49:37 GMT")
    async with scripted(Response(200, (date,), b"picture")) as (blobs, _):
        info, body = await blobs.get("000_x.jpg")

        assert (body, info.size, info.deleted) == (b"picture", 7, 0)
        assert info.modified == 784111777 << 32
        assert info.sha256 is not None
        assert await blobs.info("000_x.jpg") == info


@in_reactor
async def test_uploads(bucket: S3Server, monkeypatch: Any) -> None:
    """The image service keeps what it makes in the bucket, and ends in order."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    tables = {"image": {"blob_url": bucket.text_url("up/")}}
    with ClinfraProcess(tables) as process:
        answer = await treq.put(
            process.url("image", "/x?response=info&sizes=30x30"),
            jpeg(80, 60),
            persistent=False,
        )
        assert answer.code == 200, await answer.text()
        told = await answer.json()
        assert process.running.terminate() == 0
        output = process.running.output
    assert not any(value in output for value in bucket.environment.values())
    async with store(bucket.url("up/"), session(*bucket.environment.values())) as blobs:
        info, body = await blobs.get(told["blob_names"]["30x30"])
        assert info.content_type == "image/jpeg"
        assert body[:3] == b"\xff\xd8\xff"
        assert (await blobs.info(told["blob_info_name"])).deleted > 0
