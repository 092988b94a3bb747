"""Failing origins as clients see them: a whole proxy, in memory, time by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ModuleConfig, PoolConfig
from tests.proxy.stage import Stage, response

AT_WORK = b"Server maintenance underway, please try again later.\n"
UNABLE = b"Unable to process request, please try again.\n"


def pools(*members: str, **more: Any) -> dict[str, PoolConfig]:
    """Return the one pool of a stage."""
    return {"origin": PoolConfig(members=members, **more)}


def members_of(stage: Stage) -> Any:
    """Return what /status says of the pool's members."""
    report = stage.proxy.report()
    return report["modules"]["Forwarder"]["pools"]["origin"]["members"]


class RetryTests(SynchronousTestCase):
    """Trying again, and when not."""

    def test_bad_statuses(self) -> None:
        """Statuses that count as failures are tried on another member."""
        stage = Stage(
            self,
            lambda asked: (
                response(b"good")
                if asked.origin == "o2:80"
                else response(b"bad", status="503 Service Unavailable")
            ),
            pools=pools("o1:80", "o2:80", retry_statuses=(502, 503)),
        )

        bodies = {stage.get(f"/{number}", turns=20).body for number in range(40)}

        self.assertEqual({b"good"}, bodies)
        self.assertEqual("open", members_of(stage)["o1:80"]["state"])
        self.assertEqual("it answered 503", members_of(stage)["o1:80"]["last_failure"])

    def test_bad_everywhere(self) -> None:
        """When all say so, the client hears what they say."""
        stage = Stage(
            self,
            lambda asked: response(b"bad", status="503 Service Unavailable"),
            pools=pools("o1:80", "o2:80", retry_statuses=(503,)),
        )

        answer = stage.get("/", turns=30)

        self.assertEqual((503, b"bad"), (answer.status, answer.body))
        self.assertEqual(2, len(stage.asked))

    def test_bad_every_time(self) -> None:
        """A status that counts as a failure never takes the short way."""
        stage = Stage(
            self,
            lambda asked: response(b"no", status="404 Not Found"),
            pools=pools("o1:80", "o2:80", retry_statuses=(404,), circuit_failures=0),
        )
        for _ in range(5):
            self.assertEqual(404, stage.get("/", turns=20).status)
        self.assertEqual(10, len(stage.asked))

    def test_other_statuses_are_answers(self) -> None:
        """A 500 is the origin's answer, and no failure of its health."""
        stage = Stage(
            self,
            lambda asked: response(b"no", status="500 Internal Server Error"),
            pools=pools("o1:80", "o2:80", retry_statuses=(503,)),
        )
        for _ in range(5):
            self.assertEqual(500, stage.get("/").status)
        self.assertEqual(5, len(stage.asked))
        self.assertEqual(1.0, members_of(stage)["o1:80"]["confidence"])

    def test_post_is_not_tried_again(self) -> None:
        """A bad status to a POST goes to the client: it may have done something."""
        stage = Stage(
            self,
            lambda asked: response(b"bad", status="503 Service Unavailable"),
            pools=pools("o1:80", "o2:80", retry_statuses=(503,)),
        )
        self.assertEqual(503, stage.get("/", method="POST", body=b"x").status)
        self.assertEqual(1, len(stage.asked))

    def test_budget(self) -> None:
        """When everything fails, there are few more tries than requests."""
        stage = Stage(
            self,
            lambda asked: asked.line.hang_up(),
            pools=pools("o1:80", "o2:80", circuit_failures=0, retry_budget=0.1),
        )
        for number in range(200):
            self.assertEqual(503, stage.get(f"/{number}", turns=20).status)
        self.assertTrue(200 <= len(stage.asked) <= 240, len(stage.asked))

    def test_no_try_begins_late(self) -> None:
        """After `retry_time` a request is not tried again."""
        stage = Stage(
            self,
            lambda asked: None,
            pools=pools("o1:80", "o2:80", response_timeout=20.0, retry_time=10.0),
        )
        client = stage.ask("/")
        stage.pass_time(25)

        self.assertEqual(504, client.answers()[0].status)
        self.assertEqual(1, len(stage.asked))

    def test_missing_blobs_are_nobodys_fault(self) -> None:
        """A stranger who asks for blobs that are not there harms no replica."""
        stage = Stage(
            self,
            lambda asked: response(b"no", status="404 Not Found"),
            modules={"BlobForwarder": {"match": [r"/blob/"]}},
            locate=lambda name: ("r1:80", "r2:80"),
        )
        for number in range(20):
            self.assertEqual(404, stage.get(f"/blob/{number}", turns=20).status)
        dials = Counter(str(origin) for origin in stage.dials)
        self.assertEqual({"r1:80", "r2:80"}, set(dials))
        self.assertEqual(40, len(stage.asked))


class QueueTests(SynchronousTestCase):
    """Members with as many connections as they may have."""

    def test_another_member(self) -> None:
        """What has no room at one goes to another; then it waits; then it is 503."""
        stage = Stage(
            self,
            lambda asked: None,
            pools=pools("o1:80", "o2:80", max_connections=2, max_queue=1),
        )
        clients = [stage.ask(f"/{number}") for number in range(7)]

        self.assertEqual(
            {"o1:80": 2, "o2:80": 2}, Counter(each.origin for each in stage.asked)
        )
        (answer,) = clients[6].answers()
        self.assertEqual(503, answer.status)
        self.assertIn("Retry-After", answer.fields)
        for each in members_of(stage).values():
            self.assertEqual(0, each["failed_requests"], "nobody failed")
        for asked in list(stage.asked):
            asked.line.send(response(b"done"))
        stage.turn()
        self.assertEqual(6, len(stage.asked))

    def test_waiting_too_long(self) -> None:
        """Who waits longer than `queue_timeout` gets 503, and the origin no blame."""
        stage = Stage(
            self,
            lambda asked: None,
            pools=pools("o1:80", max_connections=1, queue_timeout=2.0),
        )
        stage.ask("/1")
        waiting = stage.ask("/2")
        stage.pass_time(5)

        self.assertEqual(503, waiting.answers()[0].status)
        self.assertEqual(0, members_of(stage)["o1:80"]["failed_requests"])


class CircuitTests(SynchronousTestCase):
    """An origin that hangs holds one request at a time, not all."""

    def test_open(self) -> None:
        """Once it is open, others hear at once that there is trouble."""
        stage = Stage(
            self,
            lambda asked: None,
            pools=pools("o1:80", attempts=1, circuit_failures=3, response_timeout=2.0),
        )
        for number in range(3):
            client = stage.ask(f"/{number}")
            stage.pass_time(4)
            self.assertEqual(504, client.answers()[0].status)
        trial = stage.ask("/trial")
        self.assertEqual(4, len(stage.asked))
        answer = stage.get("/other")

        self.assertEqual((503, UNABLE), (answer.status, answer.body))
        self.assertEqual("5", answer.fields["Retry-After"])
        self.assertEqual(4, len(stage.asked))
        stage.asked[3].line.send(response(b"back"))
        stage.turn()
        self.assertEqual(b"back", trial.answers()[0].body)
        stage.script = lambda asked: response(b"well")
        self.assertEqual(b"well", stage.get("/again").body)

    def test_stale_instead(self) -> None:
        """What is kept is served while the circuit is open."""
        stage = Stage(
            self,
            lambda asked: response(
                b"kept", "Cache-Control: max-age=10, stale-if-error=9999"
            ),
            pools=pools("o1:80", circuit_failures=2),
        )
        stage.get("/page")
        stage.pass_time(30)
        stage.dead.add("o1:80")
        for asked in stage.asked:
            asked.line.hang_up()
        bodies = {stage.get("/page", turns=20).body for _ in range(5)}
        self.assertEqual({b"kept"}, bodies)
        self.assertEqual("open", members_of(stage)["o1:80"]["state"])

    def test_back_at_once(self) -> None:
        """An origin that refused connections is used again with the first it takes."""
        stage = Stage(self, pools=pools("o1:80", circuit_failures=2))
        stage.dead.add("o1:80")
        for _ in range(10):
            self.assertEqual(503, stage.get("/", turns=20).status)
        stage.dead.clear()
        self.assertEqual(200, stage.get("/").status)
        self.assertEqual("up", members_of(stage)["o1:80"]["state"])


class MaintenanceTests(SynchronousTestCase):
    """Operators at work."""

    def test_from_the_configuration(self) -> None:
        """Of everything, or of a pool: a page of our own, and no origin is asked."""
        for config in (
            {"maintenance": True},
            {"pools": pools("o1:80", maintenance=True)},
        ):
            stage = Stage(self, **config)
            answer = stage.get("/")
            self.assertEqual((503, AT_WORK), (answer.status, answer.body))
            self.assertEqual("60", answer.fields["Retry-After"])
            self.assertEqual([], stage.asked)

    def test_own_page(self) -> None:
        """Operators may show a page of their own."""
        usual = [
            ModuleConfig(use="Forwarder"),
            ModuleConfig(
                use="Exceptions",
                options={"origin_connect_maintenance_mode": {"content": "Back soon"}},
            ),
        ]
        stage = Stage(self, pipeline=tuple(usual), maintenance=True)
        self.assertEqual(b"Back soon", stage.get("/").body)

    def test_from_admin(self) -> None:
        """Out and back in at once, a member, a pool, or everything."""
        stage = Stage(self, pools=pools("o1:80", "o2:80"))

        def maintain(pool: str, member: str, out: bool) -> None:
            done = stage.proxy.maintain(pool, member, out)
            self.successResultOf(Deferred.fromCoroutine(done))

        stage.get("/")
        maintain("origin", "o1:80", True)
        stage.asked.clear()
        for number in range(20):
            stage.get(f"/{number}")
        self.assertEqual({"o2:80"}, {asked.origin for asked in stage.asked})
        self.assertEqual(
            {"all": False, "pools": [], "members": {"origin": ["o1:80"]}},
            self.successResultOf(Deferred.fromCoroutine(stage.proxy.maintained())),
        )
        maintain("origin", "", True)
        self.assertEqual(503, stage.get("/").status)
        maintain("origin", "", False)
        maintain("", "", True)
        self.assertEqual(503, stage.get("/").status)
        maintain("", "", False)
        self.assertEqual(200, stage.get("/").status)

    def test_what_is_kept(self) -> None:
        """What the cache has is served, however stale, unless it forbids that."""
        stage = Stage(
            self,
            lambda asked: response(
                b"kept",
                "Cache-Control: max-age=10"
                + (", must-revalidate" if asked.target == b"/strict" else ""),
                'ETag: "1"',
            ),
        )
        stage.get("/page")
        stage.get("/strict")
        stage.pass_time(2000)
        self.successResultOf(Deferred.fromCoroutine(stage.proxy.maintain("", "", True)))

        answer = stage.get("/page")
        self.assertEqual((200, b"kept"), (answer.status, answer.body))
        self.assertIn("detail=maintenance", answer.fields["Cache-Status"])
        self.assertEqual(503, stage.get("/strict").status)
        self.assertEqual(503, stage.get("/other").status)
        self.assertEqual(2, len(stage.asked))


class HashTests(SynchronousTestCase):
    """Equal keys go to one origin."""

    def test_sticky(self) -> None:
        """Also when equal requests take the short way."""
        stage = Stage(
            self,
            pools=pools(
                *(f"o{number}:80" for number in range(4)),
                choice="hash",
                hash_key="header:X-User",
            ),
        )
        for _ in range(4):
            for user in range(12):
                stage.get("/", f"X-User: {user}")
        went = {
            (asked.field("x-user"), asked.origin): asked.origin for asked in stage.asked
        }
        self.assertEqual(48, len(stage.asked))
        self.assertEqual(12, len(went))
        self.assertGreater(len(set(went.values())), 2)


class HostTests(SynchronousTestCase):
    """What members are sent as Host."""

    def test_fixed(self) -> None:
        """The pool's own, where it says one; the origin still learns the client's."""
        stage = Stage(self, pools=pools("o1:80", host="www.example:81"))
        for _ in range(3):
            stage.get("/", host="client.example")
        self.assertEqual(
            {("www.example:81", "client.example")},
            {
                (asked.field("host"), asked.field("x-forwarded-host"))
                for asked in stage.asked
            },
        )


class LogTests(SynchronousTestCase):
    """What the access log says of origins."""

    def test_notes(self) -> None:
        """Who answered, after how many tries, and why nobody did."""
        stage = Stage(self, pools=pools("o1:80", "o2:80", circuit_failures=0))
        seen: list[dict[str, Any]] = []
        stage.site.access_log = lambda exchange, seconds: seen.append(
            dict(exchange.notes)
        )
        stage.dead.add("o1:80")
        for _ in range(30):
            stage.get("/", turns=20)
        self.assertEqual({"o2:80"}, {notes["origin"] for notes in seen})
        tries = [notes.get("tries") for notes in seen]
        self.assertEqual({None, 2}, set(tries))
        self.assertGreater(tries.count(None), 20)
        stage.dead.add("o2:80")
        for asked in stage.asked:
            asked.line.hang_up()
        stage.get("/", turns=30)
        self.assertIn("cannot be reached", seen[-1]["trouble"])
