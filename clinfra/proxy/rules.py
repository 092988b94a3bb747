"""What a rule module is made of, and what it may use.

`interfaces.IRuleModule` says what each hook is for.  Modules are found and made by
`loading`, run by `pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.plugin import IPlugin
from zope.interface import implementer

from clinfra.config import ProxyConfig
from clinfra.errors import Trouble
from clinfra.interfaces import IRuleModule, IRuleModuleMaker
from clinfra.proxy.cache import PageCache
from clinfra.proxy.clients import TrustedProxies
from clinfra.proxy.coalesce import Coalescer
from clinfra.proxy.connections import Connections
from clinfra.proxy.message import Request
from clinfra.proxy.origins import Origins
from clinfra.web.exchange import IExchange
from clinfra.web.spool import Spool


@frozen
class Surroundings:
    """What the proxy offers its modules.

    Attributes:
        reactor: tells the time.
        config: of the whole proxy.
        origins: the pools by name.
        cache: both tiers.
        coalescer: fetches under way.
        trusted: the proxies before us.
        connections: how the members of pools are reached.
        client_of: returns the client's address of an exchange.
        rng: for choices.
        data_dir: for what must last.
        spool: for bodies on their way.
        locate: returns the "host:port" of the replicas of an encoded blob name; raises
            ValueError for a bad one.  None without a cluster.
        pipeline: where answers that come later are handed in.
    """

    reactor: IReactorTime
    config: ProxyConfig
    origins: Origins
    cache: PageCache
    coalescer: Coalescer
    trusted: TrustedProxies
    connections: Connections
    client_of: Callable[[IExchange], str]
    rng: Random
    data_dir: Path
    spool: Spool
    locate: Callable[[str], Sequence[str]] | None
    pipeline: Any


@implementer(IRuleModule)
class RuleModule:
    """A module that does nothing; subclasses write the hooks they need."""

    head_only = False
    by_heads = False
    reloadable = True
    ignores_hits = False

    def attach(self, surroundings: Surroundings) -> None:
        """Take what is needed."""

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> Any:
        """Nothing to stop."""

    def received(self, request: Request) -> Any:
        """Go on."""

    def route(self, request: Request) -> Any:
        """Go on."""

    def lookup(self, request: Request) -> Any:
        """Go on."""

    def hit(self, request: Request) -> Any:
        """Go on."""

    def stale(self, request: Request) -> Any:
        """Go on."""

    def miss(self, request: Request) -> Any:
        """Go on."""

    def pass_(self, request: Request) -> Any:
        """Go on."""

    def forward(self, request: Request) -> Any:
        """Go on."""

    def response(self, request: Request) -> Any:
        """Go on."""

    def store(self, request: Request) -> Any:
        """Go on."""

    def deliver(self, request: Request) -> Any:
        """Go on."""

    def failed(self, request: Request, trouble: Trouble) -> Any:
        """No page of its own."""

    def done(self, request: Request) -> None:
        """Nothing to log."""

    def report(self) -> Mapping[str, Any]:
        """Nothing to show."""
        return {}


@implementer(IPlugin, IRuleModuleMaker)
@frozen
class RuleModuleMaker:
    """For a file in `clinfra/plugins/`: gives a rule module a name.

    Attributes:
        name: what `use` says in the configuration.
        module: dotted path of the class.
    """

    name: str
    module: str


def hook_of(module: object, name: str) -> Callable[..., Any] | None:
    """Return a module's hook; None when it has none of its own."""
    hook = getattr(module, name, None)
    inherited = getattr(RuleModule, name)
    if hook is None or getattr(hook, "__func__", None) is inherited:
        return None
    return hook  # type: ignore[no-any-return]  # drop-in modules need no annotations
