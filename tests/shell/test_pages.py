"""What `clinfra status` and `clinfra top` show."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.shell.rates import Change, Look, as_json, top_lines
from clinfra.shell.status_page import status_lines
from clinfra.shell.words import columns, duration, plain, rate
from tests.shell.reports import proxy, status

_NAMES = st.sampled_from(
    [
        *("products", "listeners", "proxy", "blob", "image", "modules", "crew"),
        *("Forwarder", "pools", "members", "DirectCache", "memcached", "replicas"),
        *("requests", "hits", "bytes", "uptime_seconds"),
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4)
    ),
    max_leaves=20,
)


class WordsTests(SynchronousTestCase):
    """Numbers as people read them."""

    def test_durations(self) -> None:
        """Two units at most."""
        told = [duration(each) for each in (0.9, 61, 3700, 90000)]

        self.assertEqual(["0 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"], told)

    def test_rates(self) -> None:
        """Few are told more exactly than many."""
        self.assertEqual(["0", "0.3", "1234"], [rate(n) for n in (0, 0.26, 1234.4)])

    def test_columns(self) -> None:
        """Texts stand left, numbers right."""
        lines = columns([("a", "1"), ("bcd", "20")], right=frozenset((1,)))

        self.assertEqual(["a     1", "bcd  20"], lines)

    def test_plain(self) -> None:
        """Nothing that is told moves the cursor."""
        self.assertEqual("\\x1b[2Jü", plain("\x1b[2Jü"))


class StatusTests(SynchronousTestCase):
    """`clinfra status`."""

    def test_proxy(self) -> None:
        """Its cache, its memcacheds and its origins are told."""
        text = "\n".join(status_lines(status(proxy=proxy())))

        self.assertIn("clinfra 1.0  up 1 h 1 min  ready", text)
        self.assertIn("50 requests, 1 under way, 3 of 100 connections", text)
        self.assertIn("2 pages, 2.0 KiB of 4.0 KiB, 25 hits", text)
        self.assertIn("10.0.0.1:11211 answers", text)
        self.assertRegex(text, r"web +10\.0\.0\.2:80 +up +1\.00 +40 +2 +1")

    def test_unready(self) -> None:
        """Why it is not ready stands first."""
        lines = status_lines(status(), ["blob: the clock is wrong"])

        self.assertTrue(lines[0].endswith("not ready"))
        self.assertEqual("  blob: the clock is wrong", lines[1])

    def test_hostile_names(self) -> None:
        """Names of origins come from files and the network: they are shown tamely."""
        report = proxy(state="up\x1b]0;x\x07")

        self.assertNotIn("\x1b", "\n".join(status_lines(status(proxy=report))))

    def test_blob_and_image(self) -> None:
        """Room, damage and what waits for replicas; what is made and what waits."""
        blob = {
            "store_disk": {"path": "/d", "free_space": 1024, "total_space": 2048},
            "scrub": {"checked": 5, "damaged": 1, "healed": 1},
            "handoff": {"waiting": 3, "oldest_seconds": 61},
            "replicas": {"b": {"events": 2, "last_failed": 5}, "c": {"events": 1}},
        }
        image = {"rendered": 4, "busy": 1, "workers": 2, "crew": {"wanted": 1}}
        text = "\n".join(status_lines(status(blob=blob, image=image)))

        for told in (
            "/d: 1.0 KiB free of 2.0 KiB",
            "5 checked, 1 damaged, 1 healed",
            "3 waiting for replicas, the oldest for 1 min 1 s",
            "b: lacks 2 changes, failed 5 s ago",
            "c: lacks 1 change",
            "4 rendered",
            "1 of 2 busy",
            "0 of 1 worker ready",
        ):
            self.assertIn(told, text)

    @settings(deadline=None, max_examples=100)
    @given(_JSON)
    def test_any_report(self, products: Any) -> None:
        """Reports of other versions are shown as far as they are understood."""
        told = products if isinstance(products, dict) else {"products": products}
        looks = [Look(at, told) for at in (0.0, 1.0)]

        self.assertTrue(status_lines(looks[0].status))
        self.assertTrue(top_lines(Change(*looks), ""))
        self.assertIn("origins", as_json(Change(*looks)))


class TopTests(SynchronousTestCase):
    """`clinfra top`."""

    def changed(self, seconds: float = 2.0) -> Change:
        """Return ten requests, five of them hits and four of them to an origin."""
        before, after = proxy(), proxy(requests=44)
        after["requests"] += 10
        after["modules"]["DirectCache"]["hits"] += 5
        return Change(Look(0, status(proxy=before)), Look(seconds, status(proxy=after)))

    def test_rates(self) -> None:
        """Counts become rates."""
        text = "\n".join(top_lines(self.changed(), "12:00:00"))

        self.assertIn("12:00:00", text)
        self.assertRegex(text, r"proxy +5\.0 +3 +1 +50% in memory, 2\.0 KiB cached")
        self.assertRegex(text, r"web 10\.0\.0\.2:80 +2\.0 +0 +1 +up +1\.00")

    def test_restarted(self) -> None:
        """Counts that begin anew are no negative rates."""
        before, after = status(proxy={"requests": 90}), status(proxy={"requests": 8})

        self.assertEqual(4.0, Change(Look(0, before), Look(2, after)).requests("proxy"))

    def test_at_the_same_time(self) -> None:
        """Two looks at one moment tell no rate."""
        self.assertEqual(0.0, self.changed(0).requests("proxy"))

    def test_listeners_count(self) -> None:
        """Where a product counts no requests, its listener does."""
        before, after = status(blob={}), status(blob={})
        after["listeners"]["blob"]["requests"] += 6

        self.assertEqual(3.0, Change(Look(0, before), Look(2, after)).requests("blob"))

    def test_worker_replaced(self) -> None:
        """Rates are of all workers' counts: also of those that ended meanwhile."""
        before = status(image={"rendered": 1000, "listener": {"requests": 2000}})
        bygone = {"rendered": 700, "listener": {"requests": 1500}}
        crew = {"crew": {"bygone": bygone}}
        after = status(
            image={"rendered": 310, "listener": {"requests": 520}, **crew},
        )
        for told, requests in ((before, 2000), (after, 520)):
            told["listeners"]["image"]["requests"] = requests
        change = Change(Look(0, before), Look(2, after))
        self.assertEqual(5.0, change.rate("products", "image", "rendered"))
        self.assertEqual(10.0, change.requests("image"))

    def test_json(self) -> None:
        """Programs get the same."""
        told = as_json(self.changed())

        self.assertEqual({"proxy": 5.0}, told["requests_per_second"])
        self.assertEqual(0.5, told["hit_share"])
        self.assertEqual(2.0, told["origins"][0]["requests_per_second"])
