"""Settings of pools: what is wrong with them is found before anything starts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import CheckConfig, PoolConfig, ProxyConfig
from clinfra.errors import ConfigProblems
from clinfra.proxy.connections import Connections, name_server_of, pool_problems
from clinfra.proxy.loading import check_modules
from clinfra.proxy.origins import Origins
from tests.proxy.real_origins import Authority


class ProblemTests(SynchronousTestCase):
    """What is wrong with a pool."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="clinfra-test-")
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name)

    def problems(self, **pool: Any) -> list[str]:
        """Return what is wrong."""
        return list(pool_problems(PoolConfig(**pool)))

    def test_all_at_once(self) -> None:
        """Each with its key."""
        found = self.problems(
            members=("a:80", "a"),
            backups=("b:x",),
            hash_key="moon",
            check=CheckConfig(path="well"),
            tls_ca_file="/x",
        )
        self.assertEqual(
            ["members[1]", "backups[0]", "hash_key", "check.path", "tls_ca_file"],
            [problem.partition(":")[0] for problem in found],
        )

    def test_tls_files(self) -> None:
        """They must be there, and be what they are said to be."""
        authority, other = Authority(self.path), Authority(self.path, "other")
        nonsense = self.path / "nonsense.pem"
        nonsense.write_text("nonsense")
        pair, second = authority.pair("a.test"), other.pair("b.test")
        for files, wrong in (
            ({"tls_ca_file": authority.file}, ""),
            ({"tls_certificate_file": pair}, ""),
            ({"tls_certificate_file": pair, "tls_key_file": pair}, ""),
            ({"tls_ca_file": "/none.pem"}, "tls_ca_file"),
            ({"tls_ca_file": str(nonsense)}, "tls_ca_file"),
            ({"tls_certificate_file": authority.file}, "tls_certificate_file"),
            ({"tls_key_file": pair}, "tls_key_file"),
            (
                {"tls_certificate_file": authority.file, "tls_key_file": second},
                "tls_certificate_file",
            ),
        ):
            found = self.problems(members=("a:80",), tls=True, **files)
            keys = [problem.partition(":")[0] for problem in found]
            self.assertEqual([wrong] if wrong else [], keys, (files, found))

    def test_no_tls_over_unix(self) -> None:
        """There is no name to check."""
        (problem,) = self.problems(members=("unix:/x",), tls=True)
        self.assertTrue(problem.startswith("members[0]: "))

    def test_name_servers(self) -> None:
        """Addresses, perhaps with a port; of the proxy, with the key."""
        for text, expected in (
            ("10.0.0.2", ("10.0.0.2", 53)),
            ("10.0.0.2:5353", ("10.0.0.2", 5353)),
            ("::1", ("::1", 53)),
            ("[::1]:5353", ("::1", 5353)),
        ):
            self.assertEqual(expected, name_server_of(text))
        for text in ("", "dns.test", "10.0.0.2:0", "10.0.0.2:x", "10.0.0:53"):
            with self.assertRaises(ValueError):
                name_server_of(text)
        with self.assertRaises(ConfigProblems) as caught:
            check_modules(ProxyConfig(nameservers=("dns.test",)))
        self.assertIn("proxy.nameservers[0]: ", caught.exception.problems[0])


class SharingTests(SynchronousTestCase):
    """Which pools have connections in common."""

    def test_equal_settings(self) -> None:
        """Those with equal time-outs, bounds and TLS; not the others."""
        names = {
            "a": PoolConfig(members=("a:1",)),
            "b": PoolConfig(members=("b:1",), choice="round_robin"),
            "c": PoolConfig(members=("a:1",), read_timeout=1.0),  # type: ignore[arg-type] # seconds
            "d": PoolConfig(members=("a:1",), tls=True),
        }
        origins = Origins(names, dict, Random(1))
        it = Connections(origins, Clock(), lambda *_: None, Random(1))  # type: ignore[arg-type] # never dialled
        a, b, c, d = (it.client(pool) for pool in origins.configured())
        self.assertIs(a, b)
        self.assertEqual(3, len({id(each) for each in (a, c, d)}))
