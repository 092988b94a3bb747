"""Names and placement are those of the original, for every recorded configuration."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import names, topology
from clinfra.errors import InvalidRequest

GOLDEN = Path(__file__).parent / "golden" / "names.json.gz"
"""The recorded vectors, without the disk layout."""


def told(function: Any, *arguments: Any) -> Any:
    """Return a result, or the error as the recordings write it."""
    try:
        return function(*arguments)
    except InvalidRequest as error:
        return {"error": f"InvalidRequest: {error.sentence}"}


class VectorTests(SynchronousTestCase):
    """What the unmodified original answered."""

    def setUp(self) -> None:
        self.recorded = json.loads(gzip.decompress(GOLDEN.read_bytes()))["configs"]

    def test_placement(self) -> None:
        """Every recorded name gets the original's stored name, buckets and replicas."""
        checked = 0
        for config in self.recorded:
            found = topology.read(json.dumps(config["config"]), None, config["label"])
            for raw, stored, buckets, encoded, replicas, of_encoded in config[
                "vectors"
            ]:
                name = bytes.fromhex(raw).decode("utf-8")
                plain = found.place(name, encoded=False)

                self.assertEqual(stored, plain.stored)
                self.assertEqual(buckets, _keys_as_text(plain.buckets))
                self.assertEqual(replicas, list(found.replicas_of(plain)))

                again = found.place(stored, encoded=True)

                self.assertEqual(encoded, _keys_as_text(again.buckets))
                self.assertEqual(of_encoded, list(found.replicas_of(again)))
                checked += 1
        self.assertEqual(7, len(self.recorded))
        self.assertEqual(1533, checked)

    def test_odd_names(self) -> None:
        """Odd names are read, or refused, as the original did.

        Where it fell over (KeyError, IndexError) they are refused as invalid.
        """
        for config in self.recorded:
            found = topology.read(json.dumps(config["config"]), None, config["label"])
            for raw, plain, buckets, replicas in config["odd"]:
                path = bytes.fromhex(raw)
                self._same(plain, told(_plain, found, path))
                self._same(buckets, told(_buckets, found, path))
                self._same(replicas, told(_replicas, found, path))

    def _same(self, recorded: Any, found: Any) -> None:
        error = recorded.get("error", "") if isinstance(recorded, dict) else ""
        if error.startswith(("KeyError", "IndexError")):
            self.assertTrue(found["error"].startswith("InvalidRequest"), found)
        else:
            self.assertEqual(recorded, found)


def _plain(found: topology.Topology, path: bytes) -> str:
    return found.place(names.from_path(path), encoded=False).stored


def _buckets(found: topology.Topology, path: bytes) -> dict[str, int]:
    return _keys_as_text(found.place(names.from_path(path), encoded=True).buckets)


def _replicas(found: topology.Topology, path: bytes) -> list[str]:
    placement = found.place(names.from_path(path), encoded=True)
    return list(found.replicas_of(placement))


def _keys_as_text(buckets: Any) -> dict[str, int]:
    return {str(cluster): bucket for cluster, bucket in buckets.items()}


class NameTests(SynchronousTestCase):
    """What may be a name, and how it is written."""

    def test_base62(self) -> None:
        """Digits, lower case, upper case: in this order, and back."""
        for number, text in ((0, "00"), (61, "0Z"), (62, "10"), (3843, "ZZ")):
            self.assertEqual(text, names.base62(number, 2))
            self.assertEqual(number, names.from_base62(text))

    def test_hostile(self) -> None:
        """Names that could do harm in a path, a log or a header are refused."""
        hostile = (
            *("a\x00b", "a\nb", "a\rb", "a\tb", "a\x7f", ".", "..", "../x", "a/../b"),
            *("a/./b", "x" * 1025, "ü" * 513),
        )
        for name in hostile:
            with self.assertRaises(InvalidRequest, msg=repr(name)):
                names.check_harmless(name)
        for name in ("a b", ".hidden", "a..b", "a/b", "x" * 1024, "ü" * 512, "☮"):
            names.check_harmless(name)

    def test_paths(self) -> None:
        """Raw UTF-8 and percent-encoding are the same; decoding happens once."""
        for path, name in (
            (b"/x/", "x"),
            (b"//x", "x"),
            ("/ü".encode(), "ü"),
            (b"/%C3%BC", "ü"),
            (b"/a%2520b", "a%20b"),
            (b"/%zz", "%zz"),
            (b"/a%", "a%"),
            (b"/a+b", "a+b"),
            (b"/%5Fx", "_x"),
        ):
            self.assertEqual(name, names.from_path(path))
        for path in (b"/%FF", b"/\xff", b"/%FC"):
            with self.assertRaises(InvalidRequest):
                names.from_path(path)

    @given(st.text(st.characters(codec="utf-8"), min_size=1))
    @settings(deadline=None)
    def test_path_and_back(self, name: str) -> None:
        """Any name survives being written as a path."""
        if name == name.strip("/"):
            self.assertEqual(name, names.from_path(names.to_path(name)))

    @given(st.lists(st.integers(0, names.MAX_BUCKET), max_size=9), st.text())
    @settings(deadline=None)
    def test_encode_and_decode(self, buckets: list[int], name: str) -> None:
        """The buckets written in a name are the buckets read from it."""
        stored = names.encode(name, buckets)

        self.assertEqual(dict(enumerate(buckets)), names.decode(stored))
