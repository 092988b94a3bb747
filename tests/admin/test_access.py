"""Who may see the admin pages, and who may change something by them."""

from __future__ import annotations

import tempfile
from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from clinfra.admin.access import Access, check
from clinfra.admin.service import make_admin_service
from clinfra.config import AdminConfig, Endpoint
from clinfra.errors import StartupFailed
from tests.admin.test_resource import Cache
from tests.web.clients import Answer, Client, make_site

SECRET = "correct-horse-battery"


def listening(*endpoints: str) -> tuple[Endpoint, ...]:
    return tuple(map(Endpoint, endpoints))


class ExposureTests(SynchronousTestCase):
    """Without a token nobody but this machine is let in by chance."""

    def test_configuration(self) -> None:
        """Endpoints that others can reach are refused, and say what can be done."""
        for endpoint, refused in (
            ("tcp:8090:interface=127.0.0.1", False),
            ("tcp:8090:interface=127.3.2.1", False),
            ("tcp:8090:interface=localhost", False),
            (r"tcp6:8090:interface=\:\:1", False),
            ("unix:/run/admin.sock", False),
            ("systemd:domain=INET:index=0", False),  # known once it is bound
            ("tcp:8090", True),
            ("tcp:port=8090:interface=0.0.0.0", True),
            (r"tcp6:8090:interface=\:\:", True),
            ("tcp:8090:interface=10.1.2.3", True),
            ("haproxy:tcp:8090", True),
            ("ssl:8090:privateKey=a.pem:interface=192.168.1.1", True),
        ):
            listen = listening(endpoint)
            problems = check(AdminConfig(listen=listen))
            self.assertEqual(refused, bool(problems), endpoint)
            if refused:
                self.assertIn("admin.allow_remote", problems[0])
                self.assertIn("admin.token", problems[0])
            self.assertEqual([], check(AdminConfig(listen=listen, token=SECRET)))
            self.assertEqual([], check(AdminConfig(listen=listen, allow_remote=True)))

    def test_bound(self) -> None:
        """What is bound counts, however it came to be: then nothing starts."""
        for addresses, refused in (
            (["127.0.0.1", "::1"], False),
            ([], False),
            (["127.0.0.1", "0.0.0.0"], True),
            (["::"], True),
            (["fe80::1%eth0"], True),
        ):
            access = Access(AdminConfig(), "", partial(list, addresses))
            if refused:
                self.assertRaises(StartupFailed, access.open)
            else:
                access.open()
            Access(AdminConfig(allow_remote=True), "", lambda: ["::"]).open()
            Access(AdminConfig(token=SECRET), "", lambda: ["::"]).open()

    def test_secrets(self) -> None:
        """Short ones, two of them, and files that cannot be read are refused."""
        directory = Path(self.mktemp())
        directory.mkdir()
        file = directory / "token"
        self.assertIn("No such file", check(AdminConfig(token_file=str(file)))[0])
        file.write_text("short\n")
        self.assertIn("fewer than 16", check(AdminConfig(token_file=str(file)))[0])
        file.write_bytes(b"\xff" * 20)
        self.assertIn("not UTF-8", check(AdminConfig(token_file=str(file)))[0])
        file.write_text(SECRET + "\n")
        self.assertEqual([], check(AdminConfig(token_file=str(file))))
        both = AdminConfig(token=SECRET, token_file=str(file))
        self.assertIn("give one", check(both)[0])
        self.assertIn("fewer than 16", check(AdminConfig(token="short"))[0])

    def test_hosts(self) -> None:
        """Names are names, without ports and schemes."""
        good = AdminConfig(hosts=("admin.example.com", "Box_1"))
        self.assertEqual([], check(good))
        for name in ("http://x", "x:80", "", "a b", "*"):
            self.assertEqual(1, len(check(AdminConfig(hosts=(name,)))), name)

    def test_secret_is_not_shown(self) -> None:
        """Neither in tracebacks nor in logs."""
        self.assertNotIn(SECRET, repr(AdminConfig(token=SECRET)))
        access = Access(AdminConfig(token=SECRET))
        access.open()
        self.assertNotIn(SECRET, repr(access))
        self.assertNotIn(access.page_token, repr(access))


class AccessTests(SynchronousTestCase):
    """Requests, through a real site."""

    def setUp(self) -> None:
        self.cache = Cache()
        self.use(AdminConfig())

    def use(self, config: AdminConfig) -> None:
        self.access = Access(config, "box7")
        service = make_admin_service(
            products=[self.cache],
            purge=self.cache,
            state=lambda: "running",
            uptime_seconds=lambda: 1.0,
            version="1",
            proxy_ports=lambda: [8080],
            default_port=80,
            maintenance=self.cache,
            access=self.access,
        )
        service.open()
        self.resource = service.resource

    def ask(
        self, request: bytes, *fields: bytes, host: bytes = b"127.0.0.1:8090"
    ) -> Answer:
        """Return the answer to "METHOD target"."""
        site, clock = make_site(resource=self.resource)
        client = Client(site, clock)
        body = b"h:8080/a\n" if request.startswith(b"POST") else b""
        lines = [request + b" HTTP/1.1", b"Host: " + host, *fields]
        client.send(
            b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])
        )
        (answer,) = client.answers(request.split()[0].decode())
        return answer

    def statuses(self, requests: Sequence[bytes], *fields: bytes) -> list[int]:
        return [self.ask(request, *fields).status for request in requests]

    def test_hosts(self) -> None:
        """Names that could have been made to point here see nothing (DNS rebinding)."""
        self.use(AdminConfig(hosts=("Admin.Example.com",)))
        for host, seen in (
            (b"127.0.0.1:8090", True),
            (b"[::1]:8090", True),
            (b"localhost:8090", True),
            (b"LOCALHOST", True),
            (b"10.2.3.4", True),
            (b"admin.example.com:8090", True),
            (b"admin.example.com.", True),
            (b"box7:8090", True),
            (b"evil.example", False),
            (b"127.0.0.1.evil.example", False),
            (b"xadmin.example.com", False),
        ):
            for page in (b"GET /", b"GET /status", b"GET /cache?page=h/"):
                status = self.ask(page, host=host).status
                self.assertEqual(200 if seen else 403, status, (host, page))
            self.assertEqual(200, self.ask(b"GET /health/live", host=host).status)

    def test_page_token(self) -> None:
        """What a browser sends changes something only with the token of the page."""
        own = (b"Origin: http://127.0.0.1:8090", b"Sec-Fetch-Site: same-origin")
        changes = [b"POST /purge", b"PURGE /a", b"PUT /maintenance", b"POST /explain"]
        for wrong in ((), (b"X-Console-Token: ",), (b"X-Console-Token: abc",)):
            self.assertEqual([403] * 4, self.statuses(changes, *own, *wrong))
        for part in own:
            self.assertEqual([403] * 4, self.statuses(changes, part))
        self.assertEqual(([], []), (self.cache.asked, self.cache.out))

        token = b"X-Console-Token: " + self.access.page_token.encode()
        self.assertIn(self.access.page_token.encode(), self.ask(b"GET /").body)
        # There is no proxy that could explain anything.
        self.assertEqual([200, 200, 200, 404], self.statuses(changes, *own, token))
        foreign = b"Origin: http://evil.example"
        self.assertEqual([403] * 4, self.statuses(changes, foreign, token))

    def test_named_origin(self) -> None:
        """A name in admin.hosts may be an origin, also behind a proxy with TLS."""
        self.use(AdminConfig(hosts=("admin.example.com",)))
        token = b"X-Console-Token: " + self.access.page_token.encode()
        for origin, host, status in (
            (b"http://admin.example.com:8090", b"admin.example.com:8090", 200),
            (b"https://admin.example.com", b"admin.example.com", 200),
            (b"https://127.0.0.1:8090", b"127.0.0.1:8090", 403),
            (b"http://box7", b"admin.example.com", 403),
        ):
            answer = self.ask(b"POST /purge", b"Origin: " + origin, token, host=host)
            self.assertEqual(status, answer.status, origin)

    def test_actions_off(self) -> None:
        """Then nothing changes anything, and all can be seen."""
        self.use(AdminConfig(actions=False))
        changes = [b"POST /purge", b"PURGE /a", b"PUT /maintenance"]

        self.assertEqual([403] * 3, self.statuses(changes))
        self.assertIn(b"admin.actions", self.ask(b"PURGE /a").body)
        self.assertEqual([200] * 2, self.statuses([b"GET /status", b"GET /"]))
        self.assertEqual(([], []), (self.cache.asked, self.cache.out))

    def test_secret(self) -> None:
        """It is asked for everywhere but at /health, as a token or as a password."""
        self.use(AdminConfig(token=SECRET))
        all_pages = [
            b"GET /",
            b"GET /status",
            b"GET /else",
            b"PURGE /a",
            b"POST /purge",
        ]
        secret = SECRET.encode()
        for wrong in (
            b"",
            b"Bearer wrong",
            b"Bearer",
            b"Basic " + b64encode(b"me:wrong"),
            b"Basic " + b64encode(secret),
            b"Basic !!!",
            b"Digest " + secret,
        ):
            given = b"Authorization: " + wrong
            self.assertEqual([401] * 5, self.statuses(all_pages, given), wrong)
        self.assertEqual(401, self.ask(b"PURGE /health/live").status)
        refused = self.ask(b"GET /status")
        self.assertIn("Basic", refused.fields["WWW-Authenticate"])
        self.assertEqual([], self.cache.asked)
        for right in (b"Bearer " + secret, b"basic " + b64encode(b"me:" + secret)):
            given = b"Authorization: " + right
            self.assertEqual([200, 200, 404, 200, 200], self.statuses(all_pages, given))
        healthy = [b"GET /health/live", b"GET /health/ready"]
        self.assertEqual([200, 200], self.statuses(healthy))

    def test_secret_is_not_enough(self) -> None:
        """Browsers send passwords along by themselves: other pages still cannot."""
        self.use(AdminConfig(token=SECRET))
        known = b"Authorization: Bearer " + SECRET.encode()
        foreign = b"Origin: http://evil.example"

        self.assertEqual([403], self.statuses([b"POST /purge"], known, foreign))
        answer = self.ask(b"GET /status", known, host=b"evil.example")
        self.assertEqual(403, answer.status)

    def test_secret_file(self) -> None:
        """It is read at start; without it nothing starts."""
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(SECRET + "\n")
            file.flush()
            config = AdminConfig(token_file=file.name)
            self.use(config)
        self.assertEqual(401, self.ask(b"GET /status").status)
        self.assertRaises(StartupFailed, self.use, config)
