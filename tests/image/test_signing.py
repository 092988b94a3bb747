"""Signed addresses: only who has a key makes them, and only for as long as it says."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import Forbidden
from clinfra.image.signing import Keys, is_signed

OLD, NEW = "the old key, 1234", "the new key, 5678"
PATH = b"/000_abxyl0kjyow/640x_webp"


class SigningTests(SynchronousTestCase):
    def check(self, keys: Keys, address: bytes, now: float = 100) -> int | None:
        path, _, query = address.partition(b"?")
        return keys.verify(path, query, now)

    def refused(self, keys: Keys, address: bytes, now: float = 100) -> str:
        trouble = self.assertRaises(Forbidden, self.check, keys, address, now)
        return str(trouble.sentence)

    def test_vector(self) -> None:
        """Others can make the same signatures: HMAC-SHA256, base64url, no padding."""
        self.assertEqual(
            PATH + b"?e=1795321273&s=1GD0OB3mUoml-7tJ0A1OsRNcUDbKLw-5Bc8kXTpQk7s",
            Keys.of([NEW]).sign(PATH, 1795321273),
        )

    def test_expiry(self) -> None:
        """A signature holds until the second it names, or for ever."""
        keys = Keys.of([NEW])
        address = keys.sign(PATH, 200)
        self.assertEqual(200, self.check(keys, address, 199.9))
        self.assertIn("expired", self.refused(keys, address, 200))
        self.assertIsNone(self.check(keys, keys.sign(PATH), 1e12))

    def test_wrong(self) -> None:
        """Nothing of an address can be changed, least of all when it expires."""
        keys = Keys.of([NEW])
        address = keys.sign(PATH, 200)
        for changed in (
            address.replace(b"640", b"641"),
            address.replace(b"e=200", b"e=300"),
            address.replace(b"e=200&", b""),
            address[:-1] + (b"A" if address[-1:] != b"A" else b"E"),
            Keys.of([OLD]).sign(PATH, 200),
            Keys.of([NEW + "x"]).sign(PATH, 200),
        ):
            self.assertIn("wrong", self.refused(keys, changed))
        letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
        for letter in letters.replace(address[-1:].decode(), "").encode():
            self.assertIn("wrong", self.refused(keys, address[:-1] + bytes([letter])))
        for query in (
            b"",
            b"s=",
            b"e=1&s=x",
            b"s=" + b"A" * 44,
            b"e=-1&s=" + b"A" * 43,
        ):
            self.assertRaises(Forbidden, keys.verify, PATH, query, 100)
        self.assertRaises(Forbidden, Keys.of([]).verify, PATH, b"s=" + b"A" * 43, 100)

    def test_rotation(self) -> None:
        """The first key signs; what older ones signed holds while they are listed."""
        old, both, new = Keys.of([OLD]), Keys.of([NEW, OLD]), Keys.of([NEW])
        address = old.sign(PATH, 200)
        self.assertEqual(200, self.check(both, address))
        self.refused(new, address)
        self.assertEqual(both.sign(PATH, 200), new.sign(PATH, 200))

    def test_keys(self) -> None:
        """Keys are not too short, and never shown."""
        self.assertRaises(ValueError, Keys.of, [NEW, "short"])
        self.assertRaises(ValueError, Keys.of([]).sign, PATH)
        self.assertNotIn("5678", repr(Keys.of([NEW])))
        self.assertEqual(2, len(Keys.of([NEW, OLD])))

    def test_is_signed(self) -> None:
        """What looks like a signature is taken for one, and nothing else."""
        self.assertTrue(is_signed(b"e=1&s=x") and is_signed(b"s=x"))
        self.assertFalse(is_signed(b"") or is_signed(b"v=2") or is_signed(b"e=1"))

    @settings(deadline=None)
    @given(st.binary(max_size=80), st.binary(max_size=80))
    def test_anything(self, path: bytes, query: bytes) -> None:
        """No query that was not signed passes, whatever it is."""
        self.assertRaises(Forbidden, Keys.of([NEW]).verify, path, query, 0)
