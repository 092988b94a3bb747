"""Names of results, with the originals' vectors."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from clinfra.image.naming import BlobNames, base62, base_name


class NamingTests(SynchronousTestCase):
    def test_base62(self) -> None:
        """Digits come first, then small letters, then capitals."""
        for number, text in ((0, "0"), (9, "9"), (10, "a"), (36, "A"), (62, "10")):
            self.assertEqual(text, base62(number))

    def test_vectors(self) -> None:
        """Names are those the original gave its own test pictures."""
        for digest, name in (
            ("76a4f55a9c8c5560", "abxyl0kjyow"),
            ("69cf2278dc41fbf4", "95dBBQOa8MA"),
        ):
            self.assertEqual(name, base_name(digest + "f" * 48))

    def test_blob_names(self) -> None:
        """The info and the renditions share a stored name."""
        names = BlobNames("000_abxyl0kjyow")
        self.assertEqual("000_abxyl0kjyow.json", names.info)
        self.assertEqual("000_abxyl0kjyow_50x50c.jpg", names.size("50x50c"))
