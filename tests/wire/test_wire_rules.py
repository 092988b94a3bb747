"""Rules in real processes: exchanged, shared, and never stalled by hostile requests."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.test_wire_proxy import RealOrigin, say
from tests.support import ClinfraProcess, memcached, wait_until


@pytest.fixture
def origin() -> Iterator[RealOrigin]:
    """Run an origin."""
    made = RealOrigin()
    made.answer = lambda handler: say(handler, b"page", Cache_Control="max-age=600")
    yield made
    made.close()


def front(origin: RealOrigin, *modules: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the configuration of a proxy with these modules first."""
    usual = ({"use": name} for name in ("DirectCache", "Forwarder", "Exceptions"))
    return {
        "proxy": {
            "pools": {"o": {"members": [f"127.0.0.1:{origin.port}"]}},
            "default_pool": "o",
            "routes": [],
            "modules": [*modules, *usual],
            **more,
        }
    }


def get(clinfra: ClinfraProcess, path: str, **fields: str) -> tuple[int, bytes]:
    """Return the answer to a request."""
    port = clinfra.ports["proxy"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers=fields)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_rules_are_exchanged(origin: RealOrigin, tmp_path: Path) -> None:
    """Files that are dropped in hold within seconds; bad ones change nothing."""
    config = front(origin, rules_dir=str(tmp_path), rules_reload=0.1)
    with ClinfraProcess(config) as clinfra:
        assert get(clinfra, "/tea") == (200, b"page")
        (tmp_path / "tea.py").write_text(
            "from clinfra.proxy.message import Reply\n"
            "class Tea:\n"
            "    head_only = True\n"
            "    def received(self, request):\n"
            "        if request.path == '/tea':\n"
            "            return Reply(418, body=b'short and stout')\n"
        )
        (tmp_path / "tea.toml").write_text('[[Blocker.rules]]\npaths = ["/x"]\n')
        wait_until(lambda: get(clinfra, "/tea")[0] == 418, "the rule holds")
        wait_until(lambda: get(clinfra, "/x")[0] == 403, "the other holds too")

        (tmp_path / "tea.py").write_text("class Tea:\n    def received(self\n")
        clinfra.running.wait_for("tea.py:2: ")
        assert get(clinfra, "/tea") == (418, b"short and stout")

        (tmp_path / "tea.py").unlink()
        wait_until(lambda: get(clinfra, "/tea")[0] == 200, "the rule is gone")


def test_catastrophic_patterns(origin: RealOrigin) -> None:
    """Addresses made to ruin regular expressions are answered, and hold up nobody."""
    patterns = ("^[^/]*/(a+)+$", r"/(\w+\s?)*$", "/(a|aa)+$(?!x)", r"/((a+)+)\1$")
    redirector = {
        "use": "Redirector",
        "redirects": [[pattern, "^.*$", "/found"] for pattern in patterns],
        "rewrites": [[pattern, "^.*$", "/found"] for pattern in patterns],
    }
    config = front(origin, redirector)
    with ClinfraProcess(config) as clinfra, ThreadPoolExecutor(8) as clients:
        assert get(clinfra, "/fine-") == (200, b"page")
        hostile = "/" + "a" * 3000 + "!"
        answers = [clients.submit(get, clinfra, hostile) for _ in range(40)]
        longest = 0.0
        while not all(answer.done() for answer in answers):
            began = time.monotonic()
            assert get(clinfra, "/fine-") == (200, b"page")
            longest = max(longest, time.monotonic() - began)
        assert {answer.result()[0] for answer in answers} <= {200, 400}
        assert longest < 5


def test_limits_are_shared(origin: RealOrigin) -> None:
    """Two processes on one memcached let through what one would, and a little more."""
    with memcached() as child:
        limit = {"per": "rule", "rate": 0.1, "burst": 20, "shared": True}
        throttler = {"use": "Throttler", "limits": [limit]}
        cache = {"memcached": [f"127.0.0.1:{child.port}"]}
        config = front(origin, throttler, cache=cache)
        with ClinfraProcess(config) as one, ClinfraProcess(config) as other:
            passed = [get(one, "/a")[0] for _ in range(15)].count(200)
            time.sleep(1.5)
            passed += [get(other, "/a")[0] for _ in range(2)].count(200)
            time.sleep(1.5)
            passed += [get(other, "/a")[0] for _ in range(15)].count(200)

    assert 20 <= passed <= 22


def test_lists_are_read_again(origin: RealOrigin, tmp_path: Path) -> None:
    """A client that is put on a list is refused, also what is in memory."""
    listed = tmp_path / "blocked"
    listed.write_text("10.0.0.0/8\n")
    rules = [{"file": str(listed)}]
    with ClinfraProcess(front(origin, {"use": "Blocker", "rules": rules})) as clinfra:
        assert [get(clinfra, "/a")[0] for _ in range(3)] == [200] * 3
        listed.write_text("10.0.0.0/8\n127.0.0.0/8\n")
        wait_until(lambda: get(clinfra, "/a")[0] == 403, "the list holds")
