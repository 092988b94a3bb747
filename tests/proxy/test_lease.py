"""Several proxies over the same memcached: one of them asks the origin."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.fleet import Fleet

FRESH = "Cache-Control: max-age=60"


class LeaseTests(SynchronousTestCase):
    """One fetch for several processes."""

    def test_cold_page(self) -> None:
        """Everybody gets the one answer, also who comes while it is on its way."""
        fleet = Fleet(self)
        clients = fleet.ask()
        fleet.turn(1.5)
        clients += fleet.ask()
        self.assertEqual(1, len(fleet.held))

        fleet.answer(0, FRESH)

        answers = [client.answers()[0] for client in clients]
        self.assertEqual([(200, b"page")] * 18, [(a.status, a.body) for a in answers])
        self.assertEqual(1, len(fleet.held))
        coalesced = [a for a in answers if "hit" in (a.fields["Cache-Status"] or "")]
        self.assertEqual(17, len(coalesced))

    def test_late(self) -> None:
        """Who asks right afterwards finds the page, and does not fetch it."""
        fleet = Fleet(self)
        fleet.ask(times=1)
        fleet.answer(0, FRESH)
        for client in fleet.ask():
            self.assertEqual(b"page", client.answers()[0].body)

        self.assertEqual(1, len(fleet.held))

    def test_variants(self) -> None:
        """A variant that is not what they wanted sends them to the origin."""
        fleet = Fleet(self, count=2)
        first = fleet.stages[0].ask("/", "X: a")
        second = fleet.stages[1].ask("/", "X: b")
        fleet.turn()
        self.assertEqual(1, len(fleet.held))
        fleet.answer(0, FRESH, "Vary: X", body=b"a")
        fleet.turn(1)
        self.assertEqual(2, len(fleet.held))
        fleet.answer(1, FRESH, "Vary: X", body=b"b")

        self.assertEqual(b"a", first.answers()[0].body)
        self.assertEqual(b"b", second.answers()[0].body)

    def test_not_for_everybody(self) -> None:
        """An answer that cannot be shared ends the waiting at once."""
        fleet = Fleet(self)
        fleet.ask(times=1)
        fleet.answer(0, "Cache-Control: no-store")

        self.assertEqual(3, len(fleet.held))

    def test_holder_dies(self) -> None:
        """A process that dies holds up the others for no longer than the lease."""
        fleet = Fleet(self, lease=3.0)
        fleet.stages[0].ask("/")
        fleet.turn()
        for call in list(fleet.clock.getDelayedCalls()):
            call.cancel()  # it does nothing any more
        waiting = fleet.stages[1].ask("/")
        fleet.turn(2.5)
        self.assertEqual(1, len(fleet.held))
        fleet.turn(0.8)
        self.assertEqual(2, len(fleet.held))
        fleet.answer(1, FRESH)

        self.assertEqual(b"page", waiting.answers()[0].body)

    def test_slow_holder(self) -> None:
        """One that is only slow keeps its lease, until patience ends."""
        fleet = Fleet(self, count=2, lease=3.0, patience=8.0)
        fleet.ask(times=1)
        fleet.turn(7.5)
        self.assertEqual(1, len(fleet.held))
        fleet.turn(1)
        self.assertEqual(2, len(fleet.held))

    def test_holders_client_leaves(self) -> None:
        """The client that made a process fetch leaves: the fetch goes on."""
        fleet = Fleet(self, count=2)
        first = fleet.stages[0].ask("/")
        others = fleet.ask(times=2)
        first.hang_up()
        fleet.turn()
        fleet.answer(0, FRESH)

        self.assertEqual(1, len(fleet.held))
        for client in others:
            self.assertEqual(b"page", client.answers()[0].body)

    def test_first_of_those_who_wait_leaves(self) -> None:
        """Another of its process waits on in its place: nobody fetches twice."""
        fleet = Fleet(self, count=2)
        fleet.stages[0].ask("/")
        fleet.turn()
        first, *others = [fleet.stages[1].ask("/") for _ in range(4)]
        first.hang_up()
        fleet.turn(0.5)
        self.assertEqual(1, len(fleet.held))
        fleet.answer(0, FRESH)

        for client in others:
            self.assertEqual(b"page", client.answers()[0].body)

    def test_origin_fails(self) -> None:
        """The next process tries; it does not wait for the lease to lapse."""
        fleet = Fleet(self, count=2)
        clients = fleet.ask(times=1)
        fleet.held[0].line.send(b"nonsense\r\n\r\n")
        fleet.turn(0.5)

        self.assertEqual(2, len(fleet.held))
        fleet.answer(1, FRESH)
        self.assertEqual(
            [b"page"],
            [a.body for c in clients for a in c.answers() if a.status == 200],
        )

    def test_memcached_away(self) -> None:
        """Without it each process fetches once, and nobody waits."""
        fleet = Fleet(self)
        for server in fleet.servers.values():
            for line in server.lines:
                line.hang_up()
        clients = fleet.ask()
        self.assertEqual(3, len(fleet.held))
        for number in range(3):
            fleet.answer(number, FRESH)

        for client in clients:
            self.assertEqual(b"page", client.answers()[0].body)

    def test_memcached_stalls(self) -> None:
        """One that answers nothing costs its time-out, once."""
        fleet = Fleet(self, count=2)
        for server in fleet.servers.values():
            server.frozen = True
        fleet.ask(times=1)
        fleet.turn(0.6)

        self.assertEqual(2, len(fleet.held))

    def test_purge_ends_a_lease(self) -> None:
        """Who asks after a purge does not wait for what was fetched before it."""
        fleet = Fleet(self, count=2)
        fleet.stages[0].ask("/")
        fleet.turn()
        fleet.purge("example.com/")
        fleet.stages[1].ask("/")
        fleet.turn(0.2)

        self.assertEqual(2, len(fleet.held))

    def test_stale_page(self) -> None:
        """One validates for all."""
        fleet = Fleet(self)
        fleet.ask(times=1)
        fleet.answer(0, FRESH, 'ETag: "x"')
        fleet.turn(61)
        clients = fleet.ask()
        self.assertEqual(2, len(fleet.held))
        fleet.held[1].line.send(
            b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\n\r\n"
        )
        fleet.turn(0.3)

        for client in clients:
            self.assertEqual(b"page", client.answers()[0].body)
        self.assertEqual(2, len(fleet.held))

    def test_refresh_in_the_background(self) -> None:
        """One refreshes for all, and all use what is stale meanwhile."""
        fleet = Fleet(self)
        fleet.ask(times=1)
        fleet.answer(0, "Cache-Control: max-age=10, stale-while-revalidate=60")
        fleet.turn(11)
        for client in fleet.ask():
            self.assertEqual(b"page", client.answers()[0].body)
        self.assertEqual(2, len(fleet.held))
        fleet.answer(1, FRESH, body=b"new")
        fleet.turn(0.1)

        for client in fleet.ask(times=1):
            self.assertEqual(b"new", client.answers()[0].body)
        self.assertEqual(2, len(fleet.held))

    def test_switched_off(self) -> None:
        """Then each process fetches."""
        fleet = Fleet(self, lease=0.0)
        fleet.ask()

        self.assertEqual(3, len(fleet.held))
