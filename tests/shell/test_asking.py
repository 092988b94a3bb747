"""Where the admin listener is."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import AdminConfig, Config, Endpoint
from clinfra.shell.asking import Admin, Unreached, find_admin, place_of


class PlaceTests(SynchronousTestCase):
    """From an endpoint to where it is reached."""

    def test_places(self) -> None:
        """What can be told is, what cannot is not."""
        for endpoint, place in (
            ("tcp:8090:interface=127.0.0.1", "http://127.0.0.1:8090"),
            ("tcp:8090", "http://127.0.0.1:8090"),
            ("tcp:port=8090:interface=10.0.0.1", "http://10.0.0.1:8090"),
            (r"tcp6:8090:interface=\:\:1", "http://[::1]:8090"),
            (r"tcp6:8090:interface=\:\:", "http://[::1]:8090"),
            ("unix:/run/x.sock:mode=600", "unix:/run/x.sock"),
            ("tcp:0", None),
            ("systemd:domain=INET:name=admin", None),
            ("tls:443:privateKey=x", None),
        ):
            self.assertEqual(place, place_of(endpoint), endpoint)

    def test_which_one(self) -> None:
        """The one named, else the configured, else the usual."""

        def found(url: str | None, configuration: Config | None) -> str:
            return find_admin(url, configuration, 1, {}).url

        elsewhere = attrs.evolve(
            Config(), admin=AdminConfig(listen=(Endpoint("tcp:1:interface=127.0.0.2"),))
        )
        self.assertEqual("http://127.0.0.1:8090", found(None, None))
        self.assertEqual("http://127.0.0.2:1", found(None, elsewhere))
        self.assertEqual("http://x:2", found("http://x:2/", elsewhere))
        there = {"CLINFRA_ADMIN": "http://y:3"}
        self.assertEqual("http://y:3", find_admin(None, None, 1, there).url)
        for bad in (
            attrs.evolve(Config(), admin=None),
            attrs.evolve(Config(), admin=AdminConfig(listen=(Endpoint("tcp:0"),))),
        ):
            self.assertRaises(Unreached, found, None, bad)

    def test_token(self) -> None:
        """The environment has the operators' secret, or the configuration."""
        variables = {"CLINFRA_ADMIN_TOKEN": "secret"}
        configured = attrs.evolve(Config(), admin=AdminConfig(token="other"))

        self.assertEqual("secret", find_admin(None, None, 1, variables).token)
        self.assertEqual("other", find_admin(None, configured, 1, {}).token)

    def test_bad_urls(self) -> None:
        """What cannot be asked is said, not raised as something else."""
        for url in ("ftp://x", "http://", "http://[", "http://x/path", "http://x:y"):
            with self.assertRaises(Unreached, msg=url):
                Admin(url).ask("/status")
