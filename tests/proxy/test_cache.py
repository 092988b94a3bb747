"""The two tiers."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.cache import PageCache
from clinfra.proxy.entry import Entry, Vary
from clinfra.proxy.freshness import Verdict
from clinfra.proxy.hot_tier import HotTier
from clinfra.proxy.key import primary_key
from clinfra.proxy.record import ENTRY_MARK, VARY_MARK, decode, encode, encode_vary


def entry(page: str = "a", body: bytes = b"body", lifetime: float = 60) -> Entry:
    """Return a fresh entry of a page."""
    key = primary_key("http", page)
    fields = ((b"X", b"y"),)
    return Entry.of(key, 200, fields, body, Verdict("", lifetime), 1000)


def page_cache(max_bytes: int = 1 << 20) -> PageCache:
    """Return a cache without memcached."""
    return PageCache(HotTier(max_bytes, 100_000), None, Random(1), 3600, 10)


def nothing(name: bytes) -> bytes | None:
    """A request without fields."""
    return None


class EntryTests(SynchronousTestCase):
    """How entries are written down."""

    @settings(deadline=None)
    @given(
        st.integers(200, 599),
        st.lists(
            st.tuples(
                st.from_regex(rb"[A-Za-z-]{1,20}", fullmatch=True),
                st.from_regex(rb"[!-~][ -~]{0,30}", fullmatch=True),
            ),
            max_size=8,
        ),
        st.binary(max_size=500),
        st.booleans(),
    )
    def test_round_trip(
        self,
        status: int,
        fields: list[tuple[bytes, bytes]],
        body: bytes,
        always: bool,
    ) -> None:
        """What is encoded is decoded as it was."""
        verdict = Verdict("", 60, 5, always)
        one = Entry.of(b"p", status, tuple(fields), body, verdict, 1000)
        two = decode(b"k", b"p", encode(one))

        assert isinstance(two, Entry)
        for name in ("status", "fields", "body", "born", "lifetime", "fresh_until"):
            self.assertEqual(getattr(one, name), getattr(two, name), name)

    def test_vary_record(self) -> None:
        """So is what a page varies on."""
        for vary in (Vary(b"1", ()), Vary(b"2", (b"a", b"b"))):
            self.assertEqual(vary, decode(b"k", b"k", encode_vary(vary)))

    @settings(deadline=None)
    @given(st.binary(max_size=100))
    def test_anything(self, raw: bytes) -> None:
        """Anything else is a miss."""
        if not raw.startswith((ENTRY_MARK, VARY_MARK)):
            self.assertIsNone(decode(b"k", b"k", raw))
        self.assertIsNone(decode(b"k", b"k", ENTRY_MARK + raw))
        whole = encode(entry())
        self.assertIsNone(decode(b"k", b"k", whole[:-1]))
        self.assertIsNone(decode(b"k", b"k", whole + b"x"))

    def test_prebuilt(self) -> None:
        """The message of a hit is whole, and made anew when the second changes."""
        it = entry()
        first = it.wire(1000.2)

        self.assertIs(first, it.wire(1000.9))
        self.assertTrue(first.startswith(b"HTTP/1.1 200 OK\r\nX: y\r\nDate: "))
        self.assertIn(b"\r\nAge: 0\r\n", first)
        self.assertTrue(first.endswith(b"\r\nContent-Length: 4\r\n\r\nbody"))
        self.assertIn(b"\r\nAge: 1\r\n", it.wire(1001.1))


class HotTierTests(SynchronousTestCase):
    """The tier in this process."""

    def test_bound(self) -> None:
        """It never counts more bytes than it may; the used stay longest."""
        hot = HotTier(20_000, 100_000)
        first = entry("first", b"x" * 1000)
        hot.add(first)
        for number in range(100):
            first.used = True
            hot.add(entry(str(number), b"x" * 1000))
            self.assertLessEqual(hot.bytes_used, 20_000)

        self.assertIn(first.key, hot.entries)
        self.assertNotIn(primary_key("http", "0"), hot.entries)

    @settings(deadline=None, max_examples=50)
    @given(
        st.lists(
            st.tuples(st.sampled_from("abcd"), st.integers(0, 5000), st.booleans()),
            max_size=40,
        )
    )
    def test_accounts(self, steps: list[tuple[str, int, bool]]) -> None:
        """What is counted is what is there."""
        hot = HotTier(15_000, 4000)
        for page, size, drop in steps:
            if drop:
                hot.drop_page(primary_key("http", page))
            else:
                hot.add(entry(page, b"x" * size))
            counted = sum(each.size for each in hot.entries.values())
            self.assertEqual(counted, hot.bytes_used)
            self.assertLessEqual(counted, 15_000)


class PageCacheTests(SynchronousTestCase):
    """Pages and variants."""

    def test_a_new_name_to_vary_on(self) -> None:
        """Variants of an older Vary are forgotten when a new field joins."""
        cache = page_cache()
        primary = primary_key("http", "a")
        english = {b"accept-language": b"en", b"cookie": b"1"}.get
        german = {b"accept-language": b"de", b"cookie": b"1"}.get
        cache.store(entry(body=b"en"), (b"accept-language",), english, 1000)
        cache.store(entry(body=b"de"), (b"accept-language",), german, 1000)
        found = cache.find_hot(primary, english, 1000)
        assert found is not None
        self.assertEqual(b"en", found.body)

        cache.store(entry(body=b"de1"), (b"cookie",), german, 1000)

        self.assertIsNone(cache.find_hot(primary, english, 1000))
        found = cache.find_hot(primary, german, 1000)
        assert found is not None
        self.assertEqual(b"de1", found.body)

    def test_variants_kept_again(self) -> None:
        """A variant that is kept anew still belongs to its page: a purge finds it."""
        cache = page_cache()
        get = {b"cookie": b"1"}.get
        for _ in range(3):
            cache.store(entry(), (b"cookie",), get, 1000)
        primary = primary_key("http", "a")
        self.assertIsNotNone(cache.find_hot(primary, get, 1000))
        self.successResultOf(cache.purge(primary))

        self.assertEqual({}, cache.hot.entries)
        self.assertEqual(0, cache.hot.bytes_used)

    def test_grace(self) -> None:
        """Stale entries are there for validation, for a while."""
        cache = page_cache()
        cache.store(entry(), (), nothing, 1000)
        primary = primary_key("http", "a")

        self.assertIsNotNone(cache.find_hot(primary, nothing, 1000 + 3600))
        self.assertIsNone(cache.find_hot(primary, nothing, 1060 + 3600))
        self.assertEqual(0, cache.hot.bytes_used)

    def test_purge(self) -> None:
        """A purge is remembered for fetches that began before it."""
        cache = page_cache()
        cache.store(entry(), (), nothing, 1000)
        primary = primary_key("http", "a")

        self.assertTrue(self.successResultOf(cache.purge(primary)))
        self.assertFalse(self.successResultOf(cache.purge(primary)))
        self.assertIsNone(cache.find_hot(primary, nothing, 1007))
        self.assertTrue(cache.purged_since(primary, 1))
        self.assertFalse(cache.purged_since(primary, 2))
