"""What clients get wrong, over HTTP: 4xx, one sentence, and nothing stored.

Sentences are the original's where it had one; where it answered 500, numbers of the
recordings say so.  `test_parameters` has the table of query parameters.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.stamps import stamp_at
from tests.blob.support import NOW, Rig

FAR = stamp_at(NOW + 301)
LAST = (1 << 64) - 1

REFUSED = (
    # Stamps that would make a blob immortal.
    *(
        (method, f"/000_a?{query}{key}={stamp}", 400, f"{why}: {stamp}")
        for method, query, keys in (
            ("PUT", "encoded=1&", ("modified", "modified_deleted")),
            ("DELETE", "", ("modified_deleted",)),
        )
        for key in keys
        for stamp, why in (
            (FAR, "Stamp too far in the future"),
            ((1 << 63) - 1, "Stamp too far in the future"),
            (LAST, "Stamp too far in the future"),
            (1 << 65, "Stamp too far in the future"),
            (-1, "Stamp cannot be negative"),
        )
    ),
    # Parameters of admin requests.
    ("GET", "/_list?checksum=bad", 400, "Invalid boolean value for checksum: bad"),
    ("GET", "/_list?checksum", 400, "Invalid boolean value for checksum: None"),
    (
        "GET",
        "/_list?checksum_modulo=abc",
        400,
        "Invalid int value for checksum_modulo: abc",
    ),
    (
        "GET",
        "/_list?checksum_modulo=0",
        400,
        "Invalid int value for checksum_modulo: 0",
    ),
    (
        "GET",
        "/_list?modified_start=abc",
        400,
        "Invalid int value for modified_start: abc",
    ),
    ("GET", "/_list?modified_stop=", 400, "Invalid int value for modified_stop: "),
    (
        "POST",
        "/_sync?modified_start=abc",
        400,
        "Invalid int value for modified_start: abc",
    ),
    ("PUT", "/_configcheck", 400, "400 Bad Request"),
    ("PUT", "/_configcheck?brief=bad", 400, "Invalid boolean value for brief: bad"),
    ("PUT", "/_configcheck?tolerance=x", 400, "Unknown tolerance: x"),
    *(
        (method, f"/{command}/bad", 404, "Unknown replica: bad")
        for method, command in (
            ("GET", "_status"),
            ("GET", "_list"),
            ("GET", "_quarantine"),
            ("PUT", "_configcheck"),
            ("POST", "_buffer"),
            ("POST", "_discard"),
            ("POST", "_logstatus"),
            ("POST", "_purge"),
            ("POST", "_scrub"),
            ("POST", "_sync"),
        )
    ),
    ("GET", "/_bad", 404, None),
    ("GET", "/_config/blob", 404, None),
    # Names.
    ("GET", "/", 400, "Name cannot be empty"),
    ("PUT", "/", 400, "Name cannot be empty"),
    ("DELETE", "//", 400, "Name cannot be empty"),
    ("PUT", "/inv%FF", 400, "Name must be UTF-8 safe"),
    ("GET", "/inv%FF", 400, "Name must be UTF-8 safe"),
    ("DELETE", "/inv%FF", 400, "Name must be UTF-8 safe"),
    ("GET", "/plain", 400, "Name version not valid: plain"),
    ("DELETE", "/10000_x", 400, "Name version not valid: 10000_x"),
    ("GET", "/00_x", 400, "Name bucket list corrupt: 00_x"),
    ("PUT", "/00_x?encoded=true", 400, "Name bucket list corrupt: 00_x"),
    ("PUT", "/0-0_x?encoded=true", 400, "Name bucket list corrupt: 0-0_x"),
    ("PUT", "/009_x?encoded=true", 400, "Name bucket out of range: 009_x"),
    ("PUT", "/a%00b", 400, "Name cannot contain control characters"),
    ("PUT", "/..%2f..%2fx", 400, "Name cannot contain . or .. as a path segment"),
    ("POST", "/000_a", 405, None),
)


class RefusalTests(SynchronousTestCase):
    """The table."""

    def test_table(self) -> None:
        """Each is refused with its status and sentence, and leaves nothing behind."""
        rig = Rig()
        self.addCleanup(rig.close)
        for method, target, status, sentence in REFUSED:
            body = b"" if "_configcheck" in target else b"body"
            answer = rig.ask(method, target, body if method == "PUT" else None)
            where = f"{method} {target}: {answer}"
            self.assertEqual(status, answer.status, where)
            if sentence is not None:
                self.assertEqual(f"{sentence}\n".encode(), answer.body, where)
            self.assertEqual(1, answer.body.count(b"\n"), where)
            self.assertTrue(answer.fields["Content-Type"].startswith("text/plain"))
        index = rig.service.replica.index

        self.assertEqual([], list(index.names_after("", 10)))
        self.assertEqual(0, index.last_seq())

    def test_almost(self) -> None:
        """A stamp that clocks can differ by is taken."""
        rig = Rig()
        self.addCleanup(rig.close)
        stamp = stamp_at(NOW + 299)
        told = rig.put(f"/a?modified={stamp}&modified_deleted={stamp}")
        self.assertEqual(
            (stamp, stamp, "000_a"),
            (told["modified"], told["modified_deleted"], told["name"]),
        )
