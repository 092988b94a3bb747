"""Cache keys: equal for equal meanings, different for everything else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.key import normalised, primary_key, variant_key, vary_names

texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=300)
values = st.none() | st.binary(max_size=20)


class KeyTests(SynchronousTestCase):
    """Keys of pages and variants."""

    @settings(deadline=None)
    @given(texts, texts)
    def test_pages(self, one: str, other: str) -> None:
        """Two pages never share a key, and every key suits memcached."""
        keys = {primary_key("http", one), primary_key("http", other)}

        self.assertEqual(len({one, other}), len(keys))
        self.assertNotEqual(primary_key("http", one), primary_key("https", one))
        for key in keys:
            self.assertRegex(key, rb"\A[0-9a-f]{40}\Z")

    @settings(deadline=None)
    @given(values, values, values, values)
    def test_variants(
        self, a: bytes | None, b: bytes | None, c: bytes | None, d: bytes | None
    ) -> None:
        """Values of two fields never run together."""
        names = (b"cookie", b"x-user")
        one = variant_key(b"p", b"g", names, {b"cookie": a, b"x-user": b}.get)
        two = variant_key(b"p", b"g", names, {b"cookie": c, b"x-user": d}.get)

        same = [normalised(b"cookie", v) for v in (a, b)] == [
            normalised(b"cookie", v) for v in (c, d)
        ]
        self.assertEqual(same, one == two)

    def test_generation(self) -> None:
        """A new generation makes old variants unreachable."""
        get = {b"a": b"1"}.get
        self.assertNotEqual(
            variant_key(b"p", b"1", (b"a",), get), variant_key(b"p", b"2", (b"a",), get)
        )


class VaryTests(SynchronousTestCase):
    """Vary and the fields it names."""

    def test_names(self) -> None:
        """Names are lower-case, sorted, once; "*" anywhere is None."""
        for vary, names in (
            (None, ()),
            (b"", ()),
            (b"Cookie, accept, COOKIE", (b"accept", b"cookie")),
            (b"*", None),
            (b"Cookie, *", None),
        ):
            self.assertEqual(names, vary_names(vary))

    def test_accept_encoding(self) -> None:
        """Order, weights and case do not matter; refusals and codings do."""

        def norm(value: bytes | None) -> bytes:
            return normalised(b"accept-encoding", value)

        for one, other in (
            (b"gzip, br", b"BR;q=0.1,gzip"),
            (b"x-gzip", b"gzip"),
            (b"gzip;q=0", b""),
            (b"identity, gzip", b"gzip"),
        ):
            self.assertEqual(norm(one), norm(other))
        for one, other in (
            (b"gzip", b"br"),
            (b"gzip", b"gzip, br"),
            (b"gzip", b"gzip, identity;q=0"),
            (b"gzip", b"gzip;;"),
            (b"*", b"*;q=0"),
        ):
            self.assertNotEqual(norm(one), norm(other))
        self.assertNotEqual(norm(None), norm(b""))

    def test_accept_language(self) -> None:
        """RFC 9110 §12.5.4: neither order nor case matters, but weights do."""

        def key(value: bytes) -> bytes:
            return normalised(b"accept-language", value)

        for one, other, same in (
            (b"en, de", b"de, en", True),
            (b"en, de", b"eN,  De", True),
            (b"en;q=1.0, de;q=0.50", b"de ; q=0.5, en", True),
            (b"en, de", b"en, de;q=0.5", False),
            (b"en", b"en-GB", False),
            (b"en, *;q=0", b"en", False),
            (b"en; q=x", b"en", False),
        ):
            self.assertEqual(same, key(one) == key(other), (one, other))

    @settings(deadline=None)
    @given(st.permutations([b"gzip", b"br", b"deflate;q=0.3", b"zstd ; q=1"]))
    def test_any_order(self, codings: list[bytes]) -> None:
        """Any order of the same codings is the same variant."""
        self.assertEqual(
            normalised(b"accept-encoding", b"gzip,br,deflate,zstd"),
            normalised(b"accept-encoding", b" , ".join(codings)),
        )

    @settings(deadline=None)
    @given(st.binary(max_size=60))
    def test_anything(self, value: bytes) -> None:
        """Nothing a client sends breaks it."""
        normalised(b"accept-encoding", value)
