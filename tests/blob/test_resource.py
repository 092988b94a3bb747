"""The blob protocol over HTTP, as recorded for a single replica, and what we add.

Numbers are those of the wire recordings: A is recorded without encoded names, B with.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.stamps import stamp_at
from clinfra.config import Bytes, Seconds
from tests.blob.support import NOW, Rig
from tests.blob.test_topology import PEER
from tests.web.clients import Answer, Client

INFO_KEYS = ["name", "modified", "deleted", "modified_deleted", "buckets"]


class RigCase(SynchronousTestCase):
    """A test case with a blob store in memory."""

    config: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def setUp(self) -> None:
        self.rig = Rig(**self.config)
        self.addCleanup(self.rig.close)

    def refused(self, status: int, sentence: str, answer: Answer) -> None:
        """Check an answer that refuses: status, sentence, type."""
        self.assertEqual((status, sentence), (answer.status, answer.body.decode()[:-1]))
        self.assertEqual("text/plain; charset=utf-8", answer.fields["Content-Type"])


class ProtocolTests(RigCase):
    """PUT, GET, DELETE and info."""

    def test_a001_put(self) -> None:
        """A PUT answers 200 and the info JSON, original keys first, compact."""
        answer = self.rig.ask("PUT", "/cat.jpg", b"hello blob")
        told = json.loads(answer.body)

        self.assertEqual(200, answer.status)
        self.assertEqual("application/json", answer.fields["Content-Type"])
        self.assertEqual(INFO_KEYS, list(told)[:5])
        self.assertEqual("000_cat.jpg", told["name"])
        self.assertEqual({"0": 0}, told["buckets"])
        self.assertEqual(
            (0, told["modified"]), (told["deleted"], told["modified_deleted"])
        )
        self.assertEqual(int(NOW), told["modified"] >> 32)
        self.assertNotIn(b" ", answer.body)
        self.assertEqual(10, told["size"])
        self.assertEqual(hashlib.sha256(b"hello blob").hexdigest(), told["sha256"])

    def test_a002_get(self) -> None:
        """A GET answers the bytes, with the type of the name's extension."""
        for name, expected in (
            ("x", "application/octet-stream"),
            ("x.jpg", "image/jpeg"),
            ("x.json", "application/json"),
            ("x.tar.gz", "application/x-tar"),
            ("x.gz", "application/octet-stream"),
        ):
            self.rig.put(f"/{name}", b"hello")
            answer = self.rig.ask("GET", f"/000_{name}?response=data")

            self.assertEqual((200, b"hello"), (answer.status, answer.body))
            self.assertEqual(expected, answer.fields["Content-Type"])
            self.assertEqual("nosniff", answer.fields["X-Content-Type-Options"])

    def test_a004_info(self) -> None:
        """Info is what PUT said."""
        told = self.rig.put("/x")

        self.assertEqual(told, self.rig.info("/000_x"))

    def test_a015_put_again(self) -> None:
        """A second PUT has new stamps and takes an earlier expiry back."""
        first = self.rig.put("/x?ttl=5")
        second = self.rig.put("/x", b"two")

        self.assertGreater(second["modified"], first["modified"])
        self.assertEqual(0, second["deleted"])
        self.assertEqual(b"two", self.rig.get("/000_x"))

    def test_a016_delete(self) -> None:
        """DELETE answers 200 and the time; the blob is 404 at once, its info is not."""
        put = self.rig.put("/x")
        told = self.rig.delete("/000_x")

        self.assertEqual(
            (int(NOW), put["modified"]), (told["deleted"], told["modified"])
        )
        self.assertGreater(told["modified_deleted"], put["modified_deleted"])
        self.assertIsNone(self.rig.get("/000_x"))
        self.assertEqual(404, self.rig.ask("HEAD", "/000_x").status)
        self.assertEqual(told, self.rig.info("/000_x"))

    def test_a022_delete_with_a_body(self) -> None:
        """The body of a DELETE is ignored."""
        self.rig.put("/x")

        self.assertEqual(200, self.rig.ask("DELETE", "/000_x", b"some body").status)

    def test_a023_put_after_delete(self) -> None:
        """A PUT after a DELETE brings the name back."""
        self.rig.put("/x", b"one")
        self.rig.delete("/000_x")
        self.rig.put("/x", b"third")

        self.assertEqual(b"third", self.rig.get("/000_x"))

    def test_a024_unknown(self) -> None:
        """What was never put is 404, data and info."""
        self.refused(404, "404 Not Found", self.rig.ask("GET", "/000_nope"))
        self.assertIsNone(self.rig.info("/000_nope"))

    def test_a026_delete_unknown(self) -> None:
        """Deleting what is not there records a tombstone, which is 404 itself."""
        told = self.rig.delete("/000_tomb")

        self.assertIsNone(told["modified"])
        self.assertEqual(int(NOW), told["deleted"])
        self.assertIsNone(self.rig.info("/000_tomb"))
        self.assertIsNone(self.rig.get("/000_tomb"))

    def test_ttl_and_deleted(self) -> None:
        """084-113: ttl counts from now, deleted is stronger, both take any sign."""
        now = int(NOW)
        for query, expected in (
            ("ttl=100", now + 100),
            ("ttl=-5", now - 5),
            ("ttl=0", now),
            ("deleted=0", 0),
            ("deleted=1234", 1234),
            ("deleted=-1", -1),
            ("deleted=4000000000", 4000000000),
            ("ttl=100&deleted=1234", 1234),
            ("ttl=100&deleted=0", 0),
        ):
            self.assertEqual(expected, self.rig.put(f"/x?{query}")["deleted"], query)
            found = self.rig.delete(f"/000_x?{query}")
            self.assertEqual(expected, found["deleted"], query)

    def test_a112_undelete(self) -> None:
        """DELETE with deleted=0 brings a blob back."""
        self.rig.put("/x", b"one")
        self.rig.delete("/000_x")
        self.rig.delete("/000_x?deleted=0")

        self.assertEqual(b"one", self.rig.get("/000_x"))

    def test_expiry(self) -> None:
        """A blob is there until its time comes, and 404 from then on."""
        self.rig.put("/x?ttl=100", b"one")
        self.assertEqual(b"one", self.rig.get("/000_x"))
        self.rig.clock.advance(98)
        answer = self.rig.ask("GET", "/000_x")
        self.assertEqual("max-age=1", answer.fields["Cache-Control"])
        self.rig.clock.advance(2)

        self.assertIsNone(self.rig.get("/000_x"))

    def test_stamps(self) -> None:
        """117-127: each register goes to the later stamp; ties go by content."""
        t = stamp_at(NOW)
        sha = {b: hashlib.sha256(b).digest() for b in (b"one", b"two-same-stamp")}
        self.rig.put(f"/x?modified={t}", b"one")
        told = self.rig.put(f"/x?modified={t}", b"two-same-stamp")
        winner = max(sha, key=lambda body: sha[body])
        self.assertEqual((t, t), (told["modified"], told["modified_deleted"]))
        self.assertEqual(winner, self.rig.get("/000_x"))

        told = self.rig.put(f"/x?modified={t - 1}", b"older")
        self.assertEqual(t, told["modified"])
        self.assertEqual(winner, self.rig.get("/000_x"))

        query = f"modified={t - 1}&modified_deleted={t + 5}&deleted=77"
        told = self.rig.put(f"/x?{query}", b"older")
        self.assertEqual((t, 77, t + 5), _registers(told))

        told = self.rig.put(f"/x?modified={t + 10}&modified_deleted={t}", b"newer")
        self.assertEqual((t + 10, 77, t + 5), _registers(told))

        told = self.rig.delete(f"/000_x?deleted=98&modified_deleted={t}")
        self.assertEqual((t + 10, 77, t + 5), _registers(told))
        told = self.rig.delete(f"/000_x?deleted=98&modified_deleted={t + 5}")
        self.assertEqual((t + 10, 98, t + 5), _registers(told))

    def test_a128_zero_stamps(self) -> None:
        """A stamp of 0 is as if it were not given."""
        told = self.rig.put("/x?modified=0&modified_deleted=0")

        self.assertEqual(int(NOW), told["modified"] >> 32)
        self.assertEqual(told["modified"], told["modified_deleted"])

    def test_a135_modified_deleted_alone(self) -> None:
        """A given modified_deleted stands beside a stamp of ours."""
        told = self.rig.put("/x?modified_deleted=5&deleted=123")

        self.assertEqual((123, 5), (told["deleted"], told["modified_deleted"]))
        self.assertEqual(int(NOW), told["modified"] >> 32)

    def test_a136_delete_before_put(self) -> None:
        """A tombstone keeps an older PUT that comes later deleted."""
        t = stamp_at(NOW)
        self.rig.delete(f"/000_x?modified_deleted={t}")
        told = self.rig.put(f"/x?modified={t - 1}", b"late")

        self.assertEqual((t - 1, int(NOW), t), _registers(told))
        self.assertIsNone(self.rig.get("/000_x"))

    def test_replicate(self) -> None:
        """139-188: any value of replicate is taken."""
        for value in ("all", "cluster", "replica", "none", "bogus", "", "ALL"):
            self.rig.put(f"/x?replicate={value}")
            self.rig.delete(f"/000_x?replicate={value}")

    def test_wrong_parameters(self) -> None:
        """Parameters that mean nothing to a method are refused (the original: 500)."""
        self.rig.put("/x")
        for method, query, sentence in (
            ("PUT", "response=info", "Parameter not known to PUT: response"),
            ("GET", "ttl=1", "Parameter not known to GET: ttl"),
            ("GET", "response=bad", "Unknown response option: bad"),
            ("DELETE", "response=info", "Parameter not known to DELETE: response"),
            ("PUT", "ttl=abc", "Invalid int value for ttl: abc"),
            ("PUT", "encoded=yes", "Invalid boolean value for encoded: yes"),
            ("POST", "ttl=abc", "Invalid int value for ttl: abc"),
        ):
            body = b"x" if method in ("PUT", "POST") else None
            answer = self.rig.ask(method, f"/000_x?{query}", body)
            self.refused(400, sentence, answer)

    def test_methods(self) -> None:
        """238-247: HEAD works; others are 405 with Allow; small letters are taken."""
        self.rig.put("/x", b"hello")
        head = self.rig.ask("HEAD", "/000_x")

        self.assertEqual((200, b""), (head.status, head.body))
        self.assertEqual("5", head.fields["Content-Length"])
        for method in ("POST", "PATCH", "COPY", "TRACE"):
            answer = self.rig.ask(method, "/000_x", b"x")
            self.refused(405, "405 Method Not Allowed", answer)
            self.assertEqual("GET, HEAD, PUT, DELETE, OPTIONS", answer.fields["Allow"])
        options = self.rig.ask("OPTIONS", "/000_x")
        self.assertEqual(204, options.status)
        self.assertEqual("GET, HEAD, PUT, DELETE, OPTIONS", options.fields["Allow"])
        self.assertEqual(200, self.rig.ask("put", "/y", b"x").status)
        self.assertEqual(b"x", self.rig.ask("get", "/000_y").body)

    def test_empty_body(self) -> None:
        """264-272: an empty blob is a blob, with Content-Length: 0 or without one."""
        self.rig.put("/x", b"")
        self.assertEqual(b"", self.rig.get("/000_x"))
        self.assertEqual(200, self.rig.ask("PUT", "/y").status)
        self.assertEqual(b"", self.rig.get("/000_y"))
        self.assertEqual(200, self.rig.ask("HEAD", "/000_y").status)

    def test_a277_chunked(self) -> None:
        """A chunked body is stored whole."""
        head = b"PUT /x HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.rig.client.send(
            head + b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nT: 1\r\n\r\n"
        )

        self.assertEqual(b"hello world", self.rig.get("/000_x"))

    def test_a288_cut_short(self) -> None:
        """A body that is cut short stores nothing, chunked or counted."""
        chunked = b"Transfer-Encoding: chunked~~ff~"
        for framing in (chunked, b"Content-Length: 9~~"):
            framing = framing.replace(b"~", b"\r\n")
            self.rig.client.send(b"PUT /x HTTP/1.1\r\nHost: b\r\n" + framing + b"half")
            self.rig.client.hang_up()

            self.assertIsNone(self.rig.get("/000_x"))

    def test_a287_bad_chunk(self) -> None:
        """A bad chunk size is 400 and stores nothing."""
        head = b"PUT /x HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.rig.client.send(head + b"zz\r\nhello\r\n0\r\n\r\n")
        (answer,) = self.rig.client.answers()
        self.rig.client.hang_up()

        self.assertEqual(400, answer.status)
        self.assertIsNone(self.rig.get("/000_x"))

    def test_names(self) -> None:
        """318-1264: names that were taken are taken still."""
        for path in (
            "/L-trail/",
            "//L-double",
            "/a/b",
            "/a%2Fb",
            "/sp%20ace",
            "/plus+",
            "/per%25cent",
            "/d%2520",
            "/bad%zz",
            "/lone%",
            "/que%3Fst",
            "/ha%23sh",
            "/am&p",
            "/e=q",
            "/s;c",
            "/c:o",
            "/c,o",
            "/%22q%5C",
            "/~!*'()",
            "/%C3%BC",
            "/%E2%98%AE",
            "/%F0%9F%98%80",
            "/.hidden",
            "/-dash",
            "/favicon.ico",
            "/" + "n" * 1020,
        ):
            told = self.rig.put(path, path.encode("latin-1"))
            stored = "/000_" + path.lstrip("/")
            self.assertEqual(path.encode("latin-1"), self.rig.get(stored), path)
            self.assertEqual(told, self.rig.info(stored), path)

    def test_bad_names(self) -> None:
        """Names that did harm are 400 whatever the method, and nothing is stored."""
        for path, sentence in (
            ("/", "Name cannot be empty"),
            ("///", "Name cannot be empty"),
            ("/?ttl=1", "Name cannot be empty"),
            ("/%FF", "Name must be UTF-8 safe"),
            ("/..%2f..%2fEVIL", "Name cannot contain . or .. as a path segment"),
            ("/a/../b", "Name cannot contain . or .. as a path segment"),
            ("/x%00y", "Name cannot contain control characters"),
            ("/x%0Ay", "Name cannot contain control characters"),
            ("/x%0D%0Ay", "Name cannot contain control characters"),
            ("/x%09y", "Name cannot contain control characters"),
            ("/" + "n" * 1021, "Name cannot be longer than 1024 bytes"),
        ):
            self.refused(400, sentence, self.rig.ask("PUT", path, b"x"))
        for path in ("/", "/%FF"):
            for method in ("GET", "DELETE"):
                self.assertEqual(400, self.rig.ask(method, path).status)
        self.assertEqual([], list(self.rig.service.replica.index.names_after("", 9)))

    def test_b_encoded_names(self) -> None:
        """B 001-040: encoded names are read as the original reads them."""
        told = self.rig.put("/000_x?encoded=true", b"one")
        self.assertEqual("000_x", told["name"])
        twice = self.rig.put("/000_x", b"two")
        self.assertEqual("000_000_x", twice["name"])
        self.assertEqual(b"one", self.rig.get("/000_x"))
        for path, sentence in (
            ("/10000_x", "Name version not valid: 10000_x"),
            ("/00_x", "Name bucket list corrupt: 00_x"),
            ("/0-0_x", "Name bucket list corrupt: 0-0_x"),
            ("/.x", "Name bucket list corrupt: .x"),
        ):
            self.refused(400, sentence, self.rig.ask("GET", path))
            self.refused(400, sentence, self.rig.ask("PUT", path + "?encoded=1", b"x"))
            self.refused(400, sentence, self.rig.ask("DELETE", path))
        self.refused(
            400, "Name bucket out of range: 009_x", self.rig.ask("GET", "/009_x")
        )

    def test_far_future(self) -> None:
        """131-132: a stamp that makes a blob immortal is 400 and stores nothing."""
        for stamp in ((1 << 63) - 2, 1 << 63, 1 << 64, stamp_at(NOW + 1000), -5):
            for query in (f"modified={stamp}", f"modified_deleted={stamp}"):
                self.assertEqual(400, self.rig.ask("PUT", f"/x?{query}", b"x").status)
            target = f"/000_x?modified_deleted={stamp}"
            self.assertEqual(400, self.rig.ask("DELETE", target).status)
        self.assertIsNone(self.rig.info("/000_x"))


def _registers(told: dict[str, Any]) -> tuple[int, int, int]:
    return told["modified"], told["deleted"], told["modified_deleted"]


class ModernTests(RigCase):
    """What HTTP clients expect beyond the original."""

    def setUp(self) -> None:
        super().setUp()
        self.rig.put("/x.txt", b"0123456789")
        self.sha256 = hashlib.sha256(b"0123456789")
        self.etag = f'"{self.sha256.hexdigest()}"'

    def get(self, **fields: str) -> Answer:
        return self.rig.ask(
            "GET",
            "/000_x.txt",
            fields={name.replace("_", "-"): value for name, value in fields.items()},
        )

    def test_fields(self) -> None:
        """A GET says everything needed to validate it; the fast lane says the same."""
        first, second = self.get(), self.get()

        self.assertEqual(sorted(first.fields.items()), sorted(second.fields.items()))
        self.assertEqual(self.etag, first.fields["ETag"])
        self.assertEqual("bytes", first.fields["Accept-Ranges"])
        digest = f"sha-256=:{base64.b64encode(self.sha256.digest()).decode()}:"
        self.assertEqual(digest, first.fields["Content-Digest"])
        self.assertEqual(digest, first.fields["Repr-Digest"])
        self.assertEqual("Fri, 15 Jan 2027 08:00:00 GMT", first.fields["Last-Modified"])
        # It may be replaced or deleted any time: caches may not keep it for long.
        self.assertEqual("max-age=3600", first.fields["Cache-Control"])

    def test_not_modified(self) -> None:
        """A client that has it gets 304, by tag or by date; the tag is stronger."""
        for fields in (
            {"If_None_Match": self.etag},
            {"If_None_Match": f'"x", W/{self.etag}'},
            {"If_None_Match": "*"},
            {"If_Modified_Since": "Fri, 15 Jan 2027 08:00:00 GMT"},
        ):
            answer = self.get(**fields)
            self.assertEqual((304, b""), (answer.status, answer.body))
            self.assertEqual(self.etag, answer.fields["ETag"])
        old = {"If_Modified_Since": "Fri, 15 Jan 2027 07:59:59 GMT"}
        self.assertEqual(200, self.get(**old).status)
        both = {
            "If_None_Match": '"x"',
            "If_Modified_Since": "Fri, 15 Jan 2027 08:00:00 GMT",
        }
        self.assertEqual(200, self.get(**both).status)

    def test_precondition(self) -> None:
        """A reader that wants another version gets 412."""
        self.assertEqual(412, self.get(If_Match='"x"').status)
        self.assertEqual(200, self.get(If_Match=self.etag).status)
        past = "Fri, 15 Jan 2027 07:00:00 GMT"
        self.assertEqual(412, self.get(If_Unmodified_Since=past).status)

    def test_ranges(self) -> None:
        """Single ranges, open ends, suffixes; too far is 416, nonsense is ignored."""
        for value, status, body in (
            ("bytes=0-3", 206, b"0123"),
            ("bytes=8-", 206, b"89"),
            ("bytes=-3", 206, b"789"),
            ("bytes=5-100", 206, b"56789"),
            ("bytes=0-4,5-9", 206, b"0123456789"),
            ("bytes=10-", 416, b"No such range: there are 10 bytes.\n"),
            ("bytes=5-2", 200, b"0123456789"),
            ("lines=1-2", 200, b"0123456789"),
        ):
            answer = self.get(Range=value)
            self.assertEqual((status, body), (answer.status, answer.body), value)
        self.assertEqual(
            "bytes 8-9/10", self.get(Range="bytes=8-").fields["Content-Range"]
        )
        self.assertEqual(
            "bytes */10", self.get(Range="bytes=10-").fields["Content-Range"]
        )

    def test_multirange(self) -> None:
        """Several ranges come as multipart/byteranges of the announced length."""
        answer = self.get(Range="bytes=0-1,5-6,-1")
        kind, _, boundary = answer.fields["Content-Type"].partition("; boundary=")

        self.assertEqual((206, "multipart/byteranges"), (answer.status, kind))
        parts = answer.body.split(b"--" + boundary.encode())
        self.assertEqual(
            [b"01", b"56", b"9"], [p.split(b"\r\n\r\n")[1][:-2] for p in parts[1:-1]]
        )
        self.assertEqual(str(len(answer.body)), answer.fields["Content-Length"])

    def test_if_range(self) -> None:
        """If-Range: the part while it is the same blob, else the whole."""
        self.assertEqual(206, self.get(Range="bytes=0-1", If_Range=self.etag).status)
        self.assertEqual(200, self.get(Range="bytes=0-1", If_Range='"x"').status)

    def test_conditional_put(self) -> None:
        """If-None-Match: * makes, If-Match replaces, and neither does the other."""

        def put(path: str, **fields: str) -> int:
            given = {name.replace("_", "-"): value for name, value in fields.items()}
            return self.rig.ask("PUT", path, b"new", given).status

        self.assertEqual(412, put("/x.txt", If_None_Match="*"))
        self.assertEqual(200, put("/y", If_None_Match="*"))
        self.assertEqual(412, put("/z", If_Match="*"))
        self.assertEqual(412, put("/x.txt", If_Match='"x"'))
        self.assertEqual(b"0123456789", self.rig.get("/000_x.txt"))
        self.assertEqual(200, put("/x.txt", If_Match=self.etag))
        self.assertEqual(b"new", self.rig.get("/000_x.txt"))
        self.rig.delete("/000_y")
        self.assertEqual(200, put("/y", If_None_Match="*"))

    def test_conditional_delete(self) -> None:
        """A DELETE can insist on a version."""
        refused = self.rig.ask("DELETE", "/000_x.txt", fields={"If-Match": '"x"'})
        self.assertEqual(412, refused.status)
        done = self.rig.ask("DELETE", "/000_x.txt", fields={"If-Match": self.etag})
        self.assertEqual(200, done.status)

    def test_content_type(self) -> None:
        """The writer's type is kept; a form's, which clients send unasked, is not."""
        self.rig.put("/a.txt", b"x", **{"Content-Type": "image/webp"})
        self.rig.put(
            "/b.txt", b"x", **{"Content-Type": "application/x-www-form-urlencoded"}
        )
        bad = self.rig.ask("PUT", "/c.txt", b"x", {"Content-Type": "no type"})

        for path, expected in (
            ("/000_a.txt", "image/webp"),
            ("/000_b.txt", "text/plain"),
        ):
            self.assertEqual(expected, self.rig.ask("GET", path).fields["Content-Type"])
        self.assertEqual(400, bad.status)

    def test_digests(self) -> None:
        """A body that is not what was announced is 400, and nothing is stored."""

        def b64(name: str, body: bytes) -> str:
            return base64.b64encode(hashlib.new(name, body).digest()).decode()

        for field, value in (
            ("Content-Digest", f"sha-256=:{b64('sha256', b'y')}:"),
            ("Content-Digest", f"sha-512=:{b64('sha512', b'y')}:"),
            ("Repr-Digest", f"sha-256=:{b64('sha256', b'y')}:"),
            ("Content-MD5", b64("md5", b"y")),
            ("Content-MD5", "%%%"),
            ("Content-Digest", "sha-256=nonsense"),
        ):
            answer = self.rig.ask("PUT", "/d", b"x", {field: value})
            self.assertEqual(400, answer.status, value)
            self.assertIsNone(self.rig.info("/000_d"))
        self.rig.put(
            "/d",
            b"x",
            **{
                "Content-Digest": f"sha-512=:{b64('sha512', b'x')}:, unknown=:AA==:",
                "Content-MD5": b64("md5", b"x"),
            },
        )

    def test_partial_put(self) -> None:
        """A PUT with Content-Range is refused, not taken for the whole."""
        answer = self.rig.ask("PUT", "/x", b"x", {"Content-Range": "bytes 0-0/2"})

        self.assertEqual(400, answer.status)

    def test_lane_forgets(self) -> None:
        """A blob in the fast lane that changes or ends is never served old."""
        self.assertEqual(b"0123456789", self.rig.get("/000_x.txt"))
        self.assertEqual(b"0123456789", self.rig.get("/000_x.txt"))
        self.rig.put("/x.txt", b"new")
        self.assertEqual(b"new", self.rig.get("/000_x.txt"))
        self.assertEqual(b"new", self.rig.get("/000_x.txt"))
        self.rig.delete("/000_x.txt?ttl=10")
        self.assertEqual(b"new", self.rig.get("/000_x.txt"))
        self.rig.clock.advance(10)
        self.assertIsNone(self.rig.get("/000_x.txt"))


class LimitTests(SynchronousTestCase):
    """Limits and switches."""

    def rig(self, **config: Any) -> Rig:
        rig = Rig(**config)
        self.addCleanup(rig.close)
        return rig

    def test_too_large(self) -> None:
        """A body over the limit is 413, announced or not, and nothing is stored."""
        rig = self.rig(max_blob_bytes=Bytes(10))
        head = b"PUT /x HTTP/1.1\r\nHost: b\r\n"
        rig.client.send(head + b"Content-Length: 11\r\nExpect: 100-continue\r\n\r\n")
        (answer,) = rig.client.answers()
        self.assertEqual(413, answer.status)
        rig.client.hang_up()
        self.assertEqual(413, rig.ask("PUT", "/x", b"x" * 11).status)
        rig.client.hang_up()
        self.assertEqual(404, rig.ask("GET", "/000_x").status)
        rig.client.received.clear()
        rig.client.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
        rig.client.send(b"b\r\nhello world\r\n0\r\n\r\n")
        self.assertEqual(413, rig.client.answers()[0].status)
        rig.client.hang_up()
        self.assertIsNone(rig.info("/000_x"))

    def test_full(self) -> None:
        """Below the reserve a PUT is 507, and DELETE still works."""
        rig = self.rig(min_free_bytes=Bytes(1000))
        rig.put("/x")
        rig.service.replica.free_bytes = 1001
        self.assertEqual(507, rig.ask("PUT", "/y", b"xx").status)

        self.assertIsNone(rig.info("/000_y"))
        rig.delete("/000_x")
        self.assertIsNone(rig.get("/000_x"))

    def test_filling_up(self) -> None:
        """Blobs count at once, even while they come in: bursts spare the reserve."""
        rig = self.rig(min_free_bytes=Bytes(1000))
        rig.service.replica.free_bytes = 100_000
        rig.client.send(
            b"PUT /slow HTTP/1.1\r\nHost: b\r\nContent-Length: 50000\r\n\r\n"
        )
        other = Client(rig.site, rig.clock)
        put = b"PUT /x%d HTTP/1.1\r\nHost: b\r\nContent-Length: 10000\r\n\r\n"
        for n in range(5):
            other.send(put % n + bytes(10000))
        statuses = [answer.status for answer in other.answers("PUT")]
        self.assertEqual([200, 200, 200, 507, 507], statuses)
        other.hang_up()
        rig.clock.advance(1)

        self.assertGreater(rig.service.replica.free_bytes, 100_000)
        rig.client.send(bytes(50000))
        self.assertEqual(200, rig.client.answers("PUT")[0].status)

    def test_serve_deleted(self) -> None:
        """A017: with the switch a deleted blob is served until it is purged."""
        rig = self.rig(serve_deleted=True)
        rig.put("/x", b"one")
        rig.delete("/000_x")

        self.assertEqual(b"one", rig.get("/000_x"))

    def test_default_ttl(self) -> None:
        """The configured time to live holds for what is put without one."""
        rig = self.rig(ttl=Seconds(60))

        self.assertEqual(int(NOW) + 60, rig.put("/x")["deleted"])
        self.assertEqual(int(NOW) + 5, rig.put("/x?ttl=5")["deleted"])
        self.assertEqual(0, rig.put("/x?deleted=0")["deleted"])

    def test_other_buckets(self) -> None:
        """What was passed on to us and is not ours is not passed on once more."""
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        cluster = [{"replicas": [name], "write_weight": 1} for name in "ab"]
        client = {
            "clusters": [cluster, [{"replicas": ["c"], "write_weight": 1}]],
            "replicas": dict.fromkeys("abc", PEER),
        }
        file = directory / "cluster.conf"
        file.write_text(json.dumps({"clblob": {"client": client}}))
        rig = self.rig(cluster_file=str(file), replica="a")
        hop = {"X-Clblob-Hop": "1"}
        for method, target in (
            ("PUT", "/00100_x?encoded=true"),
            ("GET", "/00100_x"),
            ("DELETE", "/00100_x"),
        ):
            refused = rig.ask(method, target, b"x" if method == "PUT" else None, hop)
            self.assertEqual(421, refused.status)
            self.assertIn(b"00100_x is not kept here", refused.body)
        rig.put("/00000_x?encoded=true", b"mine")
        self.assertEqual(b"mine", rig.get("/00000_x"))
        for stored in ("00009_x", "0000000_x", "0_x"):
            self.assertEqual(
                400, rig.ask("PUT", f"/{stored}?encoded=true", b"x").status, stored
            )
        self.assertEqual(404, rig.ask("GET", "/0_x").status)


class AdminTests(RigCase):
    """The admin requests of a single replica (1269-1319)."""

    def ask(self, path: str, method: str = "GET") -> Any:
        answer = self.rig.ask(method, path)
        self.assertEqual(200, answer.status, answer.body)
        self.assertEqual("application/json", answer.fields["Content-Type"])
        return json.loads(answer.body)

    def test_status(self) -> None:
        """Status has the original's keys."""
        self.rig.put("/x")
        told = self.ask("/_status")

        self.assertEqual(
            (0, 0, "blob"), (told["cluster"], told["bucket"], told["replica"])
        )
        self.assertEqual({"current": 0, "max": 1, "total": 1}, told["events"]["put"])
        self.assertEqual(1, told["events"]["status"]["current"])
        for key in ("buffer_status", "purge_status", "sync_status", "logstatus_status"):
            self.assertIn(key, told)
        for key in ("replicas", "clusters", "index_sqlite", "store_disk"):
            self.assertIn(key, told)
        self.assertEqual("blob", self.ask("/_status/blob")["replica"])
        self.assertEqual("blob", self.ask("/_status/", "POST")["replica"])

    def test_config(self) -> None:
        """Config tells the cluster under the original's keys."""
        client = self.ask("/_config")["clblob"]["client"]

        self.assertEqual(
            [[{"replicas": ["blob"], "write_weight": 1}]], client["clusters"]
        )
        self.assertTrue(client["encode_name"])

    def test_list(self) -> None:
        """Lists and checksums are the original's."""
        self.assertEqual([], self.ask("/_list"))
        t = stamp_at(NOW)
        self.rig.put(f"/a?modified={t}")
        self.rig.put(f"/b?modified={t + 4096}&ttl=60")
        self.rig.delete("/000_tomb")
        window = 86400 << 32
        start = t // window * window

        self.assertEqual(
            [["000_a", t, 0, t], ["000_b", t + 4096, int(NOW) + 60, t + 4096]],
            self.ask("/_list?checksum=false"),
        )
        ((begin, end, count, total),) = self.ask("/_list")
        self.assertEqual((start, start + window, 2), (begin, end, count))
        self.assertLessEqual(abs(t + 2048 - total), 2048)
        query = f"checksum=false&modified_start={t + 1}"
        self.assertEqual(1, len(self.ask(f"/_list?{query}")))
        self.assertEqual([], self.ask(f"/_list?modified_start={t + 5000}"))

    def test_list_refusals(self) -> None:
        """1291-1299: bad numbers are 400; none of them can keep the server busy."""
        for query in (
            "checksum=bad",
            "checksum",
            "checksum_modulo=abc",
            "checksum_modulo=0",
            "checksum_modulo=-10",
            "modified_start=abc",
        ):
            self.assertEqual(400, self.rig.ask("GET", f"/_list?{query}").status, query)
        self.rig.put("/x")
        self.assertEqual(1, len(self.ask("/_list?checksum_modulo=1&modified_start=0")))

    def test_unknown(self) -> None:
        """1317-1319: an unknown command or replica is 404."""
        for path in ("/_x", "/_", "/__status", "/_config/x", "/_status/bad", "/%5Fx"):
            self.assertEqual(404, self.rig.ask("GET", path).status, path)

    def test_purge_from_elsewhere(self) -> None:
        """What changes something is refused to other machines."""
        self.assertEqual(403, self.rig.ask("GET", "/_purge").status)
