"""How often rules had their way: counted whichever way requests take."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Bytes, CacheConfig, ModuleConfig, PoolConfig
from clinfra.proxy.rule_hits import MOST_TOLD, RuleHits, told
from clinfra.workers.reports import merged
from tests.proxy.fleet import Fleet
from tests.proxy.stage import Asked, Stage, response

FRESH = "Cache-Control: max-age=600"
PRIVATE = "Cache-Control: private"


def hits(stage: Stage, module: str) -> Mapping[str, int]:
    """Return what a module tells of its rules."""
    rules: Mapping[str, int] = stage.proxy.report()["modules"][module]["rules"]
    return rules


class RuleHitsTests(SynchronousTestCase):
    """A rule's hits are the requests that it answered or changed."""

    def test_answers(self) -> None:
        """Redirects, removals and refusals are counted; what never held is told too."""
        rules = [
            {"match": "/tea$", "status": 418},
            {"paths": ["/to"], "redirect": "/there"},
        ]
        options = {
            "rules": rules,
            "moves": [["/old", "/old", "/new"], ["/never", "x", "y"]],
            "redirects": [["/gone$", "/gone"]],
            "cookie_redirects": {"to": [["/by", "/by"]]},
        }
        stage = Stage(self, modules={"Redirector": options})
        for target in ("/old", "/old", "/gone", "/tea", "/to", "/to", "/to", "/other"):
            stage.get(target)
        stage.get("/by", "Cookie: to=/x")

        self.assertEqual(
            {
                "rules[0] match: /tea$ → 418": 1,
                "rules[1] paths: /to → /there": 3,
                "cookie_redirects.to[0] /by: /by → its value": 1,
                "moves[0] /old: /old → /new": 2,
                "moves[1] /never: x → y": 0,
                "redirects[0] /gone$: /gone → 404": 1,
            },
            hits(stage, "Redirector"),
        )

    def test_hits_of_the_cache(self) -> None:
        """Whoever is answered from memory, asking no rule, counts for those before."""
        stage = Stage(
            self,
            lambda asked: response(b"page", FRESH),
            modules={"Redirector": {"rewrites": [["/a", "/a", "/b"]]}},
        )
        for _ in range(7):
            stage.get("/a")
        stage.get("/b")

        self.assertEqual(1, len(stage.asked))
        self.assertGreaterEqual(stage.proxy.pipeline.hits, 4)
        self.assertEqual([7], list(hits(stage, "Redirector").values()))

    def test_hits_of_memcached(self) -> None:
        """The same for pages that another process keeps."""
        fleet = Fleet(self, count=0)
        stage = Stage(
            self,
            lambda asked: response(b"page", FRESH),
            clock=fleet.clock,
            servers=fleet.servers,
            cache=CacheConfig(memcached=tuple(fleet.servers), hot_bytes=Bytes(0)),
            modules={"Redirector": {"rules": [{"paths": ["/a"], "rewrite": "/b"}]}},
        )
        for _ in range(6):
            stage.get("/a", turns=60)
        quick = stage.proxy.pipeline.hits
        # Gone there: it takes the long way, and is not counted twice.
        for server in fleet.servers.values():
            server.items.clear()
        stage.get("/a", turns=60)

        self.assertGreaterEqual(quick, 3)
        self.assertEqual(2, len(stage.asked))
        self.assertEqual([7], list(hits(stage, "Redirector").values()))

    def test_passes(self) -> None:
        """What is passed by the short way counts for every rule on it."""
        stamps = {
            "modify_request_headers": [{"paths": ["/z"], "set": {"X-A": "1"}}],
            "modify_response_headers": [
                {"paths": ["/y"], "drop": ["X-B"]},
                {"paths": ["/z"], "drop": ["X-B"]},
            ],
        }
        stage = Stage(
            self,
            lambda asked: response(b"page", PRIVATE, "X-B: 1"),
            modules={
                "Redirector": {"rewrites": [["/a", "/a", "/z"]]},
                "HeaderStamper": stamps,
            },
        )
        client = stage.client()
        for _ in range(9):
            client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
            stage.turn()

        self.assertEqual(9, len(stage.asked))
        self.assertGreaterEqual(stage.proxy.pipeline.passes, 5)
        self.assertTrue(all(each.field("X-A") == "1" for each in stage.asked))
        self.assertEqual([9], list(hits(stage, "Redirector").values()))
        self.assertEqual(
            {
                "modify_request_headers[0] paths: /z": 9,
                "modify_response_headers[0] paths: /y": 0,
                "modify_response_headers[1] paths: /z": 9,
            },
            hits(stage, "HeaderStamper"),
        )

    def test_passes_with_another_answer(self) -> None:
        """An answer that leads off the short way counts once all the same."""

        def script(asked: Asked) -> bytes:
            return response(b"page", PRIVATE, f"X: {len(stage.asked) // 4}")

        stamps = [{"set": {"X-A": "1"}}]
        stage = Stage(
            self,
            script,
            modules={
                "HeaderStamper": {
                    "modify_request_headers": stamps,
                    "modify_response_headers": stamps,
                }
            },
        )
        client = stage.client()
        for _ in range(12):
            client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
            stage.turn()

        self.assertGreaterEqual(stage.proxy.pipeline.passes, 6)
        self.assertEqual([12, 12], list(hits(stage, "HeaderStamper").values()))

    def test_tried_again(self) -> None:
        """A request for which two origins are tried is one."""
        stamps = {"modify_request_headers": [{"set": {"X": "1"}}]}
        stage = Stage(
            self,
            pools={"origin": PoolConfig(members=("o1:80", "o2:80"))},
            modules={"HeaderStamper": stamps},
        )
        stage.dead.add("o1:80")
        for number in range(4):
            self.assertEqual(200, stage.get(f"/{number}").status)

        self.assertGreater(stage.proxy.report()["modules"]["Forwarder"]["retries"], 0)
        self.assertEqual([4], list(hits(stage, "HeaderStamper").values()))

    def test_let_through(self) -> None:
        """Whoever is let through is counted as well, from memory too."""
        rules = [
            {"name": "ours", "networks": ["192.0.2.0/24"], "allow": True},
            {"paths": ["/a"]},
        ]
        blocker = ModuleConfig(use="Blocker", options={"rules": rules})
        stage = Stage(self, lambda asked: response(b"page", FRESH), first=(blocker,))
        for _ in range(6):
            stage.get("/a")

        self.assertGreaterEqual(stage.proxy.pipeline.hits, 3)
        self.assertEqual(
            {"ours networks: 192.0.2.0/24 → let through": 6, "1 paths: /a → 403": 0},
            hits(stage, "Blocker"),
        )

    def test_workers(self) -> None:
        """Those of several processes are added up."""
        one, two = ({"rules": {"moves[0] a": n, "moves[1] b": 0}} for n in (3, 4))

        self.assertEqual(
            {"moves[0] a": 7, "moves[1] b": 0}, merged([one, two])["rules"]
        )

    def test_bounded(self) -> None:
        """Thousands of rules, and long ones, make no report of megabytes."""
        every = [RuleHits(f"moves[{n}]", "x" * 1000, n) for n in range(5000)]

        shown = told(every)
        self.assertEqual(MOST_TOLD, len(shown))
        self.assertLess(len(repr(shown)), 60_000)
