"""Who may see the admin pages, and who may change something by them.

Whoever reaches the listener sees its pages, so it is on this machine alone unless
operators have a secret (`admin.token`) or say that they want it so
(`admin.allow_remote`).  Besides, nobody's web page may use an operator's browser:

* the Host must be an address or a name of this listener, or a page whose name was made
  to point here (DNS rebinding) could read everything;
* what changes something is refused to pages of other origins, and browsers need the
  token that only the console's page is given: forms and links never have it.

Programs need neither.  /health is for everybody.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from secrets import token_urlsafe

from attrs import define, field

from clinfra.config import AdminConfig
from clinfra.errors import Forbidden, StartupFailed
from clinfra.web.exchange import IExchange, Response
from clinfra.web.foreign import is_from_browser, is_own_host, refuse_foreign

LEAST_TOKEN = 16
"""Characters of a secret that cannot be guessed."""

_HEALTH = b"/health/"
_HOST = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,251}[a-z0-9])?")
_INTERFACE = re.compile(r"(?:^|:)interface=((?:[^:\\]|\\.)*)")
_TCP = re.compile(r"(?:haproxy:)?(?:tcp6?|ssl|tls):")

_ASKED = Response(
    401,
    (
        (b"WWW-Authenticate", b'Basic realm="clinfra admin", charset="UTF-8"'),
        (b"WWW-Authenticate", b'Bearer realm="clinfra admin"'),
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Cache-Control", b"no-store"),
    ),
    b"The token of the admin pages is needed (admin.token).\n",
)


def check(config: AdminConfig) -> list[str]:
    """Return what is wrong with a configuration, "admin.key: sentence" each."""
    problems = []
    if config.token and config.token_file:
        problems.append("admin.token_file: there is a token as well; give one of them")
    elif config.token_file:
        try:
            secret = read_secret(config)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            problems.append(f"admin.token_file: {config.token_file}: {reason}")
        else:
            if len(secret) < LEAST_TOKEN:
                problems.append(
                    f"admin.token_file: fewer than {LEAST_TOKEN} characters in it"
                )
    elif config.token and len(config.token) < LEAST_TOKEN:
        problems.append(f"admin.token: fewer than {LEAST_TOKEN} characters")
    problems += [
        f'admin.hosts: "{name}" is not the name of a host'
        for name in config.hosts
        if not _HOST.fullmatch(name.lower())
    ]
    if not (config.token or config.token_file or config.allow_remote):
        problems += [
            f"admin.listen: {_refused(endpoint)}"
            for endpoint in config.listen
            if is_exposed(endpoint)
        ]
    return problems


def is_exposed(endpoint: str) -> bool:
    """Tell whether an endpoint says that other machines can connect to it."""
    if not _TCP.match(endpoint.lower()):
        return False  # of others it is seen once they are bound
    found = _INTERFACE.search(endpoint)
    host = found[1].replace("\\", "") if found else ""
    return host != "localhost" and is_remote(host)


def is_remote(host: str) -> bool:
    """Tell whether other machines can connect to what is bound to an address."""
    try:
        return not ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return True


def _refused(place: str) -> str:
    return (
        f"{place} can be reached from other machines: set admin.token or"
        " admin.token_file, or admin.allow_remote to have it open to all of them"
    )


def read_secret(config: AdminConfig) -> str:
    """Return the secret of operators, if there is one.  Raises OSError, ValueError."""
    if config.token_file:
        return Path(config.token_file).read_text(encoding="utf-8").strip()
    return config.token


@define(eq=False)
class Access:
    """Lets in, or refuses.

    Args:
        config: of the admin pages.
        machine: name of this machine.
        addresses: returns the addresses that are listened on.

    Attributes:
        page_token: what the console's page is given.
    """

    config: AdminConfig
    machine: str = ""
    addresses: Callable[[], Sequence[str]] = tuple
    page_token: str = field(factory=lambda: token_urlsafe(24), init=False, repr=False)
    _secret: bytes = field(default=b"", init=False, repr=False)
    _names: frozenset[bytes] = field(init=False)

    @_names.default
    def _own_names(self) -> frozenset[bytes]:
        names = (*self.config.hosts, self.machine)
        return frozenset(
            name.lower().rstrip(".").encode("ascii", "replace")
            for name in names
            if name
        )

    def open(self) -> None:
        """Read the secret, and see where we are listening.  Raises StartupFailed."""
        try:
            self._secret = read_secret(self.config).encode("utf-8")
        except (OSError, ValueError) as error:
            raise StartupFailed(
                f"cannot read {self.config.token_file}: {error}"
            ) from error
        if self._secret or self.config.allow_remote:
            return
        for address in self.addresses():
            if is_remote(address):
                raise StartupFailed(f"the admin listener: {_refused(address)}")

    def check(self, exchange: IExchange) -> Response | None:
        """Return the answer to somebody who may not see anything; None lets in.

        Raises errors.Forbidden.
        """
        head = exchange.head
        if head.path.startswith(_HEALTH) and head.method in (b"GET", b"HEAD"):
            return None
        if self._secret and not self._knows_secret(head.get(b"authorization")):
            return _ASKED
        # PURGE names its page by the Host; no page's script can read the answer.
        named = bool(head.host) and head.method != b"PURGE"
        if named and not is_own_host(head.host, self._names):
            raise Forbidden(
                "This is not a name of the admin pages: ask by address, or add the"
                " name to admin.hosts."
            )
        return None

    def check_change(self, exchange: IExchange) -> None:
        """Refuse a change that may not be asked for.  Raises errors.Forbidden."""
        if not self.config.actions:
            raise Forbidden("Actions are switched off here (admin.actions).")
        self.check_page(exchange)

    def check_page(self, exchange: IExchange) -> None:
        """Refuse a browser that does not ask for the console.  Raises Forbidden."""
        refuse_foreign(exchange, self._names)
        if not is_from_browser(exchange):
            return
        given = exchange.head.get(b"x-console-token") or b""
        if not hmac.compare_digest(given, self.page_token.encode("ascii")):
            raise Forbidden("clinfra was started anew: please reload this page.")

    def _knows_secret(self, authorization: bytes | None) -> bool:
        scheme, _, given = (authorization or b"").strip().partition(b" ")
        given = given.strip()
        if scheme.lower() == b"basic":
            try:
                given = b64decode(given, validate=True).partition(b":")[2]
            except NotBase64:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(given, self._secret)
