"""An S3 server for tests: moto, with users, and signatures that must be right.

Run as a program: prints a line of JSON with the key of the only user, then serves.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from clinfra.image.store_urls import S3Url
from tests.support import Child, accepts, lasting_ports, wait_until

BUCKET = "pictures"
REGION = "eu-central-1"
_ACCOUNT = "123456789012"


@frozen
class S3Server:
    """A running server.

    Attributes:
        environment: variables that hold the credentials.
    """

    child: Child
    port: int
    tls: bool
    environment: dict[str, str]

    def url(self, prefix: str = "", bucket: str = BUCKET) -> S3Url:
        """Return the URL of a prefix of a bucket, as a store takes it."""
        host = "localhost" if self.tls else "127.0.0.1"
        return S3Url(bucket, prefix, REGION, host, self.port, self.tls)

    def text_url(self, prefix: str = "") -> str:
        """Return it as it is configured."""
        scheme = "https" if self.tls else "http"
        endpoint = f"{scheme}://127.0.0.1:{self.port}"
        return f"s3://{BUCKET}/{prefix}?endpoint={endpoint}&region={REGION}"


@contextlib.contextmanager
def s3_server(pem: Path | None = None) -> Iterator[S3Server]:
    """Run a server with an empty bucket; with TLS when given a key and certificate."""
    (port,) = lasting_ports(1)
    command = [sys.executable, "-W", "ignore", "-m", "tests.image.s3_server", str(port)]
    if pem is not None:
        command.append(str(pem))
    with (
        tempfile.TemporaryDirectory(prefix="clinfra-s3-") as directory,
        Child(command, env={"TMPDIR": directory}) as child,
    ):
        child.wait_for("}\n", timeout_seconds=60)
        told = json.loads(child.output.splitlines()[0])
        wait_until(lambda: accepts(port), "the S3 server accepts connections")
        yield S3Server(child, port, pem is not None, told)


def main(port: int, pem: str | None) -> None:
    """Make a user and a bucket, and serve."""
    os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"
    os.environ["MOTO_S3_DEFAULT_KEY_BUFFER_SIZE"] = str(1 << 20)
    from moto.iam.models import iam_backends
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        create_backend_app,
    )
    from moto.s3.models import s3_backends
    from werkzeug.serving import run_simple

    iam = iam_backends[_ACCOUNT]["aws"]
    iam.create_user("aws", "clinfra")
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    iam.put_user_policy("clinfra", "all", json.dumps(policy))
    key = iam.create_access_key("clinfra")
    s3_backends[_ACCOUNT]["aws"].create_bucket(BUCKET, REGION)
    told = {
        "AWS_ACCESS_KEY_ID": key.access_key_id,
        "AWS_SECRET_ACCESS_KEY": key.secret_access_key,
    }
    print(json.dumps(told), flush=True)
    run_simple(
        "127.0.0.1",
        port,
        DomainDispatcherApplication(create_backend_app),
        threaded=True,
        ssl_context=(pem, pem) if pem else None,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if sys.argv[2:] else None)
