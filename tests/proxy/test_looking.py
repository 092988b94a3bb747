"""Looking up what the cache has of a page."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.looking import MOST_VARIANTS
from tests.proxy.fleet import Fleet
from tests.proxy.stage import Asked, Stage, response

FRESH = "Cache-Control: max-age=60"


def varying(asked: Asked) -> bytes:
    """A script whose pages vary on the language."""
    return response(b"page", FRESH, "Vary: Accept-Language", "Cache-Tag: a b")


class OneProxyTests(SynchronousTestCase):
    """In memory alone."""

    def look_up(self, stage: Stage, *urls: str) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(stage.proxy.look_up(urls)))

    def test_page(self) -> None:
        """How large it is, how old, and how long it is fresh."""
        stage = Stage(self, lambda asked: response(b"page", FRESH, "Content-Type: a/b"))
        self.assertEqual([], self.look_up(stage, "example.com/a"))
        stage.get("/a")
        stage.pass_time(7)

        (found,) = self.look_up(stage, "http://EXAMPLE.com/a")

        self.assertEqual(
            {
                "page": "http://example.com/a",
                "tier": "memory",
                "status": 200,
                "bytes": 4,
                "type": "a/b",
                "age_seconds": 7,
                "fresh_seconds": 53,
            },
            found,
        )
        stage.pass_time(60)
        (found,) = self.look_up(stage, "example.com/a")
        self.assertEqual(-7, found["fresh_seconds"])
        self.assertEqual([], self.look_up(stage, "example.com/b"))

    def test_looking_changes_nothing(self) -> None:
        """Neither counts nor what is evicted first."""
        stage = Stage(self, lambda asked: response(b"page", FRESH))
        stage.get("/a")
        (entry,) = stage.proxy.pipeline.hot.values()
        entry.used = False
        before = stage.proxy.report()["modules"]["DirectCache"]
        self.look_up(stage, "example.com/a")

        self.assertFalse(entry.used)
        self.assertEqual(before, stage.proxy.report()["modules"]["DirectCache"])

    def test_variants(self) -> None:
        """All of them, but not without end."""
        stage = Stage(self, varying)
        for language in ("de", "en"):
            stage.get("/a", f"Accept-Language: {language}")

        found = self.look_up(stage, "example.com/a")

        self.assertEqual([["accept-language"]] * 2, [f["varies_on"] for f in found])
        self.assertEqual([["a", "b"]] * 2, [f["tags"] for f in found])
        for number in range(MOST_VARIANTS + 10):
            stage.get("/a", f"Accept-Language: {number}")
        self.assertGreater(MOST_VARIANTS, len(self.look_up(stage, "example.com/a")) - 1)


class FleetTests(SynchronousTestCase):
    """With memcached."""

    def test_afar(self) -> None:
        """What another process has stored is found, also that it varies."""
        for script in (lambda asked: response(b"page", FRESH), varying):
            fleet = Fleet(self, 2)
            fleet.script = script
            one, other = fleet.stages
            one.ask("/a", turns=0)
            fleet.turn(0.2)
            looking = Deferred.fromCoroutine(other.proxy.look_up(["example.com/a"]))
            fleet.turn(0.2)

            (found,) = self.successResultOf(looking)

            self.assertEqual("memcached", found["tier"])
            if script is varying:
                self.assertEqual(["accept-language"], found["varies_on"])
            else:
                self.assertEqual((200, 4), (found["status"], found["bytes"]))
