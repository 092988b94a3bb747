"""Purges by page, prefix and tag, hard and soft, of one proxy and of several."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.bans import PAGE, PREFIX, TAG, Ban, decode_bans, split_tags
from tests.proxy.fleet import Fleet
from tests.proxy.stage import Asked, Stage, response

FRESH = "Cache-Control: max-age=600"


def tagged(asked: Asked) -> bytes:
    """Answer the target, tagged by its words, with an entity tag."""
    target = asked.target
    if asked.field("If-None-Match"):
        return b"HTTP/1.1 304 Not Modified\r\n\r\n"
    words = target.decode().strip("/").replace("/", " ")
    return response(target, FRESH, 'ETag: "x"', "Surrogate-Key: " + words)


class BanTests(SynchronousTestCase):
    """What bans cover, and how they are written."""

    def test_table(self) -> None:
        """Pages, beginnings and tags."""
        for kind, text, name, tags, covered in (
            (PAGE, "h/a", "h/a", (), True),
            (PAGE, "h/a", "h/ab", (), False),
            (PREFIX, "h/a", "h/ab", (), True),
            (PREFIX, "h/a/", "h/a", (), False),
            (PREFIX, "h/", "h2/a", (), False),
            (TAG, "x", "h/a", (b"y", b"x"), True),
            (TAG, "x", "h/x", (b"xx",), False),
        ):
            self.assertEqual(covered, Ban(1, kind, text).covers(name, tags))

    @settings(deadline=None)
    @given(
        st.lists(
            st.builds(
                Ban,
                st.integers(0, 2**33).map(float),
                st.sampled_from([PAGE, PREFIX, TAG]),
                st.text(min_size=1).filter(lambda text: "\n" not in text),
                st.booleans(),
            )
        )
    )
    def test_round_trip(self, bans: list[Ban]) -> None:
        """What is written is what is read, the newest first."""
        read = decode_bans(b"".join(ban.encode() for ban in bans))

        assert read is not None
        self.assertCountEqual(bans, read)
        self.assertEqual(
            sorted((b.at for b in bans), reverse=True), [b.at for b in read]
        )

    @settings(deadline=None)
    @given(st.binary())
    def test_nonsense(self, raw: bytes) -> None:
        """Whatever memcached holds, nothing raises."""
        decode_bans(raw)

    def test_tags(self) -> None:
        """Blanks and commas are between tags."""
        for values, tags in (
            ((b"a b  c",), (b"a", b"b", b"c")),
            ((b"a,b , c",), (b"a", b"b", b"c")),
            ((b"a", None, b"b a"), (b"a", b"b")),
            ((b" , ",), ()),
            ((), ()),
        ):
            self.assertEqual(tags, split_tags(*values))


class OneProxyTests(SynchronousTestCase):
    """Without memcached."""

    def setUp(self) -> None:
        self.stage = Stage(self, tagged)
        for target in ("/blog/a", "/blog/b", "/shop/a"):
            self.stage.get(target)
        self.stage.clock.advance(1)

    def purge(self, *urls: str, **more: Any) -> int:
        """Purge; return how many were known."""
        purging = Deferred.fromCoroutine(self.stage.proxy.purge(urls, **more))
        return self.successResultOf(purging)

    def fetched(self) -> list[str]:
        """Ask for the pages; return which of them the origin was asked for."""
        before = len(self.stage.asked)
        for target in ("/blog/a", "/blog/b", "/shop/a"):
            self.assertEqual(target.encode(), self.stage.get(target).body)
            self.stage.get(target)
        return [asked.target.decode() for asked in self.stage.asked[before:]]

    def test_tag(self) -> None:
        """Everything with the tag, and nothing else."""
        self.assertEqual(2, self.purge(tags=["a"]))
        self.assertEqual(["/blog/a", "/shop/a"], self.fetched())
        self.assertEqual([], self.fetched())

    def test_prefix(self) -> None:
        """Everything that begins so, and nothing else."""
        self.assertEqual(2, self.purge(prefixes=["example.com/blog/"]))
        self.assertEqual(["/blog/a", "/blog/b"], self.fetched())
        self.assertEqual(3, self.purge(prefixes=["http://EXAMPLE.com"]))

    def test_soft(self) -> None:
        """What is stale is validated."""
        self.assertEqual(2, self.purge(tags=["a"], soft=True))
        self.assertEqual(["/blog/a", "/shop/a"], self.fetched())
        for asked in self.stage.asked[-2:]:
            self.assertEqual('"x"', asked.field("If-None-Match"))
        self.assertEqual(1, self.purge("example.com/blog/b", soft=True))
        self.assertEqual(["/blog/b"], self.fetched())

    def test_soft_purge_and_no_origin(self) -> None:
        """What is stale is better than nothing."""
        self.purge(tags=["a"], soft=True)
        self.stage.dead.add("o1:80")

        self.assertEqual(b"/blog/a", self.stage.get("/blog/a", turns=50).body)

    def test_while_it_is_fetched(self) -> None:
        """What was asked for before a purge is not kept after it."""
        for more in ({"tags": ["new"]}, {"prefixes": ["example.com/new"]}):
            self.stage.script = lambda asked: None
            client = self.stage.ask("/new")
            self.stage.clock.advance(1)
            self.purge(**more)
            asked = self.stage.asked[-1]
            asked.line.send(response(b"old", FRESH, "Cache-Tag: new"))
            self.stage.turn()
            self.assertEqual(b"old", client.answers()[0].body)
            self.stage.script = tagged
            self.assertEqual(b"/new", self.stage.get("/new").body)
            self.purge("example.com/new")

    def test_index_is_exact(self) -> None:
        """Tags are known as long as a page has them, and no longer."""
        self.stage.script = lambda asked: response(b"", FRESH, "Cache-Tag: other")
        self.stage.get("/shop/a", "Cache-Control: no-cache")
        self.stage.clock.advance(1)

        self.assertEqual(1, self.purge(tags=["a"]))
        self.assertEqual(1, self.purge(tags=["other"]))
        self.assertEqual(0, self.purge(tags=["other", "shop"]))

    def test_too_many_tags(self) -> None:
        """What could not be purged exactly is not kept."""
        tags = " ".join(map(str, range(200)))
        self.stage.script = lambda asked: response(b"", FRESH, "Surrogate-Key: " + tags)
        for _ in range(2):
            self.stage.get("/many")
        self.assertEqual(5, len(self.stage.asked))


class ClusterTests(SynchronousTestCase):
    """Several proxies over memcached: a purge at one of them reaches all."""

    def setUp(self) -> None:
        self.fleet = Fleet(self, count=2)
        self.fleet.script = tagged
        self.warm()

    def warm(self) -> None:
        """Have every page kept, and the origin's part forgotten."""
        for target in ("/blog/a", "/blog/b", "/shop/a"):
            self.fleet.ask(target, times=1)
        self.fleet.turn(11)  # hot copies are not used unasked any more
        for stage in self.fleet.stages:
            stage.asked.clear()

    def fetched(self) -> list[str]:
        """Ask for the pages at every proxy; return which the origin was asked for."""
        self.fleet.turn(11)
        for stage in self.fleet.stages:
            stage.asked.clear()
        for target in ("/blog/a", "/blog/b", "/shop/a"):
            for stage in self.fleet.stages:
                client = stage.ask(target, turns=0)
                self.fleet.turn(0.3)
                self.assertEqual(target.encode(), client.answers()[0].body)
        return [
            asked.target.decode()
            for stage in self.fleet.stages
            for asked in stage.asked
        ]

    def test_nothing(self) -> None:
        """Without a purge everything comes from memcached."""
        self.assertEqual([], self.fetched())

    def test_tag(self) -> None:
        """Each page is fetched once more, whoever is asked for it."""
        self.fleet.purge(tags=["a"])
        self.fleet.turn(1)
        self.assertEqual(["/blog/a", "/shop/a"], sorted(self.fetched()))
        self.assertEqual([], self.fetched())

    def test_prefix(self) -> None:
        """The same by prefix."""
        self.fleet.purge(prefixes=["example.com/blog"], proxy=1)
        self.fleet.turn(1)
        self.assertEqual(["/blog/a", "/blog/b"], sorted(self.fetched()))
        self.assertEqual([], self.fetched())

    def test_soft(self) -> None:
        """Pages are validated, by one of the proxies each."""
        self.fleet.purge("example.com/shop/a", soft=True)
        self.fleet.purge(tags=["b"], soft=True)
        self.fleet.turn(1)
        self.assertEqual(["/blog/b", "/shop/a"], sorted(self.fetched()))
        self.assertEqual([], self.fetched())

    def test_by_a_proxy_that_never_saw_the_page(self) -> None:
        """Also what only memcached holds is purged."""
        self.fleet.stages[1].proxy.stopService()
        fresh = Fleet(self, count=1)
        fresh.clock.advance(self.fleet.clock.seconds() - fresh.clock.seconds())
        for name, server in fresh.servers.items():
            server.items = self.fleet.servers[name].items
        self.assertEqual(0, fresh.purge(tags=["shop"]))
        fresh.turn(1)
        fresh.script = tagged
        self.fleet = fresh

        self.assertEqual(["/shop/a"], self.fetched())

    def test_record_is_lost(self) -> None:
        """A scope whose record is gone takes its pages along: hits are lost."""
        for server in self.fleet.servers.values():
            for key in [key for key in server.items if key.startswith(b"scope:")]:
                del server.items[key]

        self.assertEqual(["/blog/a", "/blog/b", "/shop/a"], sorted(self.fetched()))
        self.assertEqual([], self.fetched())

    def test_server_is_away_during_a_purge(self) -> None:
        """It is told when it is back, before anything it has is used."""
        for server in self.fleet.servers.values():
            for line in server.lines:
                line.hang_up()
            server.lines.clear()
        self.fleet.purge(tags=["a"])
        self.fleet.turn(6)  # connected again

        self.assertLessEqual({"/blog/a", "/shop/a"}, set(self.fetched()))

    def test_fetched_elsewhere_meanwhile(self) -> None:
        """What another proxy asked for before a purge is not used after it."""
        self.fleet.script = lambda asked: None
        client = self.fleet.stages[1].ask("/blog/new", turns=0)
        self.fleet.turn(1)
        self.fleet.purge(tags=["blog"])
        asked = self.fleet.stages[1].asked[-1]
        asked.line.send(response(b"old", FRESH, "Surrogate-Key: blog"))
        self.fleet.turn(0.2)
        self.assertEqual(b"old", client.answers()[0].body)
        self.fleet.script = tagged
        other = self.fleet.stages[0].ask("/blog/new", turns=0)
        self.fleet.turn(1)

        self.assertEqual(b"/blog/new", other.answers()[0].body)

    def test_too_many_bans(self) -> None:
        """A scope with too many of them is forgotten as a whole."""
        for number in range(40):
            prefix = f"example.com/{number}" + "x" * 8000
            Deferred.fromCoroutine(
                self.fleet.stages[0].proxy.purge([], prefixes=[prefix])
            )
        self.fleet.turn(1)

        self.assertEqual(["/blog/a", "/blog/b", "/shop/a"], sorted(self.fetched()))
        self.assertEqual([], self.fetched())
