"""Freshness: tables of RFC 9111."""

from __future__ import annotations

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.freshness import (
    NO_WISH,
    Terms,
    Verdict,
    Wish,
    judge,
    read_wish,
)
from clinfra.web.headers import format_http_date

NOW = 1_700_000_000
DATE = format_http_date(NOW)
ETAG = {b"etag": b'"1"'}


def verdict(
    fields: dict[bytes, bytes],
    *,
    status: int = 200,
    request: dict[bytes, bytes] | None = None,
    delay: float = 0.0,
    **more: object,
) -> Verdict:
    """Judge a response that came just now."""
    return judge(
        status,
        fields.get,
        (request or {}).get,
        asked_at=NOW - delay,
        answered_at=float(NOW),
        **more,  # type: ignore[arg-type] # options of judge
    )


class LifetimeTests(SynchronousTestCase):
    """How long an answer is fresh."""

    def test_table(self) -> None:
        """The most specific statement counts."""
        later = format_http_date(NOW + 100)
        for fields, lifetime in (
            ({b"cache-control": b"max-age=5"}, 5),
            ({b"cache-control": b"MAX-AGE=5"}, 5),
            ({b"cache-control": b'max-age="5"'}, 5),
            ({b"cache-control": b"max-age=5, s-maxage=7"}, 7),
            ({b"cache-control": b"max-age=5", b"expires": later}, 5),
            ({b"expires": later, b"date": DATE}, 100),
            ({b"expires": later}, 100),
            ({b"cache-control": b"public", b"expires": later, b"date": DATE}, 100),
            ({b"cache-control": b"max-age=99999999999999999999"}, 2**31),
            (
                {b"cache-control": b"max-age=5", b"x-mcp-cache-control": b"max-age=9"},
                9,
            ),
            (
                {b"cache-control": b"max-age=5", b"x-mcp-cache-control": b"max-age=0"},
                5,
            ),
        ):
            self.assertEqual(
                ("", lifetime),
                (verdict(fields).refused, verdict(fields).lifetime),
                fields,
            )

    def test_doubt_is_not_fresh(self) -> None:
        """What cannot be read gives no lifetime."""
        for fields in (
            {b"cache-control": b"max-age=-5"},
            {b"cache-control": b"max-age=5.5"},
            {b"cache-control": b"max-age"},
            {b"expires": b"0"},
            {b"expires": b"tomorrow"},
            {b"expires": DATE, b"date": DATE},
            {b"cache-control": b"s-maxage=0, max-age=5"},
        ):
            self.assertEqual("not-fresh", verdict(fields).refused, fields)
            # With a validator it can be kept, to be asked about.
            self.assertEqual(
                ("", 0),
                (lambda v: (v.refused, v.lifetime))(verdict({**fields, **ETAG})),
            )

    def test_age(self) -> None:
        """The age on arrival is the largest of what is known."""
        control = {b"cache-control": b"max-age=100"}
        earlier = format_http_date(NOW - 30)
        for fields, delay, age in (
            ({}, 0, 0),
            ({b"age": b"20"}, 0, 20),
            ({b"age": b"20"}, 5, 25),
            ({b"age": b"20, 90"}, 0, 20),
            ({b"age": b"x"}, 0, 0),
            ({b"date": earlier}, 0, 30),
            ({b"date": earlier, b"age": b"40"}, 2, 42),
            ({b"date": format_http_date(NOW + 500)}, 0, 0),
        ):
            self.assertEqual(age, verdict({**control, **fields}, delay=delay).age)


class StorableTests(SynchronousTestCase):
    """What may be kept at all."""

    def test_refusals(self) -> None:
        """Each reason has its word."""
        for reason, control, more in (
            ("no-store", b"no-store, max-age=9", {}),
            ("private", b"private, max-age=9", {}),
            ("private", b'private="x", max-age=9', {}),
            ("set-cookie", b"max-age=9", {b"set-cookie": b"a=b"}),
            ("vary", b"max-age=9", {b"vary": b"a, *"}),
            ("no-lifetime", b"public", {}),
            ("no-lifetime", b"", ETAG),
        ):
            fields = {b"cache-control": control, **more}
            self.assertEqual(reason, verdict(fields).refused)

    def test_statuses(self) -> None:
        """Any final status with a lifetime, but not parts and not 304."""
        control = {b"cache-control": b"max-age=9"}
        for status in (200, 203, 301, 302, 404, 410, 500, 503):
            self.assertEqual("", verdict(control, status=status).refused)
        for status in (100, 206, 304, 600, 999):
            self.assertEqual("status", verdict(control, status=status).refused)

    def test_must_understand(self) -> None:
        """It lets known statuses be kept in spite of no-store, and no others."""
        control = {b"cache-control": b"must-understand, no-store, max-age=9"}

        self.assertEqual("", verdict(control).refused)
        self.assertEqual("must-understand", verdict(control, status=299).refused)

    def test_authorization(self) -> None:
        """Kept for others only when the origin says that this is meant."""
        request = {b"authorization": b"Basic eA=="}
        for control, kept in (
            (b"max-age=9", False),
            (b"max-age=9, public", True),
            (b"s-maxage=9", True),
            (b"max-age=9, must-revalidate", True),
        ):
            got = verdict({b"cache-control": control}, request=request)
            self.assertEqual(kept, not got.refused, control)

    def test_set_cookie_where_allowed(self) -> None:
        """The operator may know better."""
        fields = {b"cache-control": b"max-age=9", b"set-cookie": b"a=b"}

        allowed = Terms(set_cookie_allowed=True)
        self.assertEqual("", verdict(fields, terms=allowed).refused)

    def test_negative_ttl(self) -> None:
        """It is for what states no lifetime."""
        negative = Terms(negative_ttl=7)
        self.assertEqual(7, verdict({}, status=404, terms=negative).lifetime)
        self.assertEqual("no-lifetime", verdict({}, status=404).refused)
        stated = {b"cache-control": b"max-age=9"}
        self.assertEqual(9, verdict(stated, status=404, terms=negative).lifetime)

    def test_no_cache(self) -> None:
        """Kept when there is something to ask by, and never fresh."""
        fields = {b"cache-control": b"no-cache, max-age=9", **ETAG}

        self.assertTrue(verdict(fields).always_validate)
        self.assertEqual("not-fresh", verdict({b"cache-control": b"no-cache"}).refused)

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(
                [b"cache-control", b"expires", b"date", b"age", b"vary", b"etag"]
            ),
            st.binary(max_size=40)
            | st.lists(
                st.sampled_from(
                    [
                        b"max-age=9",
                        b"no-store",
                        b"private",
                        b"public",
                        b"x",
                        b"s-maxage=1",
                    ]
                )
            ).map(b", ".join),
        )
    )
    def test_never_against_a_ban(self, fields: dict[bytes, bytes]) -> None:
        """Whatever else is said, no-store and private are obeyed."""
        got = verdict(fields)
        said = [
            part.strip().lower()
            for part in fields.get(b"cache-control", b"").split(b",")
        ]
        if (b"no-store" in said or b"private" in said) and b'"' not in b"".join(said):
            self.assertTrue(got.refused)
        self.assertGreaterEqual(got.lifetime, 0)


class StaleTests(SynchronousTestCase):
    """How long past freshness an answer is of use: RFC 5861, RFC 9111 §4.2.4."""

    def test_windows(self) -> None:
        """RFC 5861 §3-4: the origin's word counts before the operator's."""
        terms = Terms(refresh_window=10, error_window=20)
        for control, windows in (
            (b"max-age=9", (10, 20)),
            (b"max-age=9, stale-while-revalidate=5", (5, 20)),
            (b"max-age=9, stale-if-error=5", (10, 5)),
            (b"max-age=9, stale-if-error=0, stale-while-revalidate=0", (0, 0)),
            (b"max-age=9, stale-if-error=x", (10, 0)),
        ):
            got = verdict({b"cache-control": control}, terms=terms)
            self.assertEqual(windows, (got.refresh_window, got.error_window), control)
            self.assertFalse(got.never_stale)

    def test_forbidden(self) -> None:
        """RFC 9111 §4.2.4: never where the origin wants to be asked."""
        terms = Terms(refresh_window=10, error_window=20)
        for control in (
            b"max-age=9, must-revalidate, stale-if-error=60",
            b"max-age=9, proxy-revalidate, stale-while-revalidate=60",
            b"s-maxage=9",
            b"no-cache, max-age=9",
        ):
            got = verdict({b"cache-control": control, **ETAG}, terms=terms)
            windows = (got.refresh_window, got.error_window)
            self.assertEqual(
                ("", True, (0, 0)), (got.refused, got.never_stale, windows)
            )

    def test_stale_at_once_but_useful(self) -> None:
        """RFC 5861 §3: "max-age=0, stale-while-revalidate=9" is worth keeping."""
        for control, refused in (
            (b"max-age=0, stale-while-revalidate=9", ""),
            (b"max-age=0, stale-if-error=9", ""),
            (b"max-age=0, stale-if-error=9, must-revalidate", "not-fresh"),
            (b"max-age=0", "not-fresh"),
        ):
            terms = Terms(error_window=300)
            got = verdict({b"cache-control": control}, terms=terms)
            self.assertEqual(refused, got.refused, control)


class GuessTests(SynchronousTestCase):
    """Heuristic freshness, RFC 9111 §4.2.2: only where an operator wants it."""

    def test_table(self) -> None:
        """A part of the time since Last-Modified, up to a bound."""
        terms = Terms(heuristic_fraction=0.1, heuristic_longest=50)
        for status, fields, lifetime in (
            (200, {b"last-modified": format_http_date(NOW - 100)}, 10),
            (404, {b"last-modified": format_http_date(NOW - 100)}, 10),
            (200, {b"last-modified": format_http_date(NOW - 9999)}, 50),
            (200, {b"last-modified": format_http_date(NOW + 9), **ETAG}, 0),
            (200, {}, None),
            (302, {b"last-modified": format_http_date(NOW - 100)}, None),
            (599, {b"last-modified": format_http_date(NOW - 100)}, None),
            (
                599,
                {
                    b"last-modified": format_http_date(NOW - 100),
                    b"cache-control": b"public",
                },
                10,
            ),
        ):
            got = verdict(fields, status=status, terms=terms)
            if lifetime is None:
                self.assertEqual("no-lifetime", got.refused)
            else:
                self.assertEqual(("", lifetime), (got.refused, got.lifetime))

    def test_off_by_default(self) -> None:
        """Nothing is guessed unless asked for."""
        fields = {b"last-modified": format_http_date(NOW - 100)}
        self.assertEqual("no-lifetime", verdict(fields).refused)


class TargetedTests(SynchronousTestCase):
    """Fields meant for this kind of cache: RFC 9213."""

    terms = Terms(targets=(b"cdn-cache-control", b"surrogate-control"))

    def judged(self, **fields: bytes) -> Verdict:
        """Judge fields by their names with "_" for "-"."""
        named = {name.replace("_", "-").encode(): fields[name] for name in fields}
        return verdict(named, terms=self.terms)

    def test_it_alone_counts(self) -> None:
        """RFC 9213 §2.2: neither Cache-Control nor Expires counts any more."""
        later = format_http_date(NOW + 100)
        for fields, refused, lifetime in (
            ({"cdn_cache_control": b"max-age=9"}, "", 9),
            ({"cdn_cache_control": b"foobar, max-age=9"}, "", 9),
            ({"cdn_cache_control": b"max-age=99999999999"}, "", 2**31),
            ({"cdn_cache_control": b"max-age=9", "cache_control": b"no-store"}, "", 9),
            ({"cdn_cache_control": b"max-age=9", "cache_control": b"max-age=1"}, "", 9),
            ({"cdn_cache_control": b"max-age=9", "expires": b"0"}, "", 9),
            ({"cdn_cache_control": b"max-age=0", "expires": later}, "not-fresh", 0),
            (
                {"cdn_cache_control": b"no-store", "cache_control": b"max-age=9"},
                "no-store",
                0,
            ),
            (
                {"cdn_cache_control": b"private", "cache_control": b"max-age=9"},
                "private",
                0,
            ),
            ({"cdn_cache_control": b"foo", "expires": later}, "no-lifetime", 0),
            ({"cdn_cache_control": b"max-age=9", "age": b"10"}, "not-fresh", 0),
        ):
            got = self.judged(**fields)
            self.assertEqual((refused, lifetime), (got.refused, got.lifetime), fields)

    def test_what_cannot_be_read_is_ignored(self) -> None:
        """RFC 9213 §2.1: a field that is broken or empty leaves Cache-Control."""
        for broken in (
            b"max-age=9, &&&",
            b"max-age =9",
            b"max-age= 9",
            b"",
            b"MaX-aGe=9",
        ):
            got = self.judged(cdn_cache_control=broken, cache_control=b"max-age=5")
            self.assertEqual(("", 5), (got.refused, got.lifetime), broken)

    def test_wrong_types(self) -> None:
        """RFC 9213 §2.1: an argument of the wrong type is no lifetime."""
        for wrong in (b'max-age="9"', b"max-age=9.5", b"max-age", b"max-age=-1"):
            got = self.judged(cdn_cache_control=wrong, cache_control=b"max-age=5")
            self.assertTrue(got.refused, wrong)

    def test_surrogate_control(self) -> None:
        """The older field: "+" says how much longer it may be used stale."""
        for value, refused, lifetime, window in (
            (b"max-age=9", "", 9, 0),
            (b"max-age=9+5", "", 9, 5),
            (b'max-age=9, content="ESI/1.0"', "", 9, 0),
            (b"no-store", "no-store", 0, 0),
            (b'content="ESI/1.0"', "", 3, 0),
        ):
            got = self.judged(surrogate_control=value, cache_control=b"max-age=3")
            self.assertEqual(
                (refused, lifetime, window),
                (got.refused, got.lifetime, got.refresh_window),
                value,
            )

    def test_the_first_counts(self) -> None:
        """RFC 9213 §2.2: the list of targets is in order."""
        got = self.judged(cdn_cache_control=b"max-age=9", surrogate_control=b"no-store")
        self.assertEqual(9, got.lifetime)


class WishTests(SynchronousTestCase):
    """What requests ask of a cache."""

    def test_reading(self) -> None:
        """Cache-Control counts; Pragma only without it."""
        for fields, wish in (
            ({}, NO_WISH),
            ({b"pragma": b"no-cache"}, Wish(no_cache=True)),
            (
                {b"pragma": b"no-cache", b"cache-control": b"max-age=5"},
                Wish(max_age=5),
            ),
            ({b"cache-control": b"no-store"}, Wish(no_store=True)),
            ({b"cache-control": b"min-fresh=3"}, Wish(min_fresh=3)),
            ({b"cache-control": b"max-stale=3"}, Wish(max_stale=3)),
            ({b"cache-control": b"max-stale"}, Wish(max_stale=inf)),
            ({b"cache-control": b"max-stale=x"}, Wish(max_stale=0)),
            ({b"cache-control": b"only-if-cached"}, Wish(only_if_cached=True)),
        ):
            self.assertEqual(wish, read_wish(fields.get))

    def test_accepting(self) -> None:
        """Age and remaining freshness are compared with what is wished."""
        for wish, age, ttl, accepted in (
            (Wish(), 99, 1, True),
            (Wish(no_cache=True), 0, 99, False),
            (Wish(max_age=5), 5, 1, True),
            (Wish(max_age=5), 6, 1, False),
            (Wish(min_fresh=5), 1, 5, True),
            (Wish(min_fresh=5), 1, 4, False),
        ):
            self.assertEqual(accepted, wish.accepts(age, ttl))

    def test_accepting_what_is_stale(self) -> None:
        """RFC 9111 §5.2.1.2: as stale as max-stale says, if nothing else forbids it."""
        for wish, age, stale, accepted in (
            (Wish(), 10, 1, False),
            (Wish(max_stale=5), 10, 5, True),
            (Wish(max_stale=5), 10, 6, False),
            (Wish(max_stale=inf), 10, 10**9, True),
            (Wish(max_stale=5, max_age=9), 10, 1, False),
            (Wish(max_stale=5, no_cache=True), 10, 1, False),
            (Wish(max_stale=5, min_fresh=1), 10, 1, False),
        ):
            self.assertEqual(accepted, wish.accepts_stale(age, stale))
