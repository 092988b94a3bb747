"""What a rule module is made of, and what it may use: a guide for those who write one.

A rule module is a class with hooks, in a file of `proxy.rules_dir`:

    from clinfra.proxy.message import Reply
    from clinfra.proxy.rules import RuleModule

    class Robots(RuleModule):
        head_only = True

        def received(self, request):
            if request.path == "/robots.txt":
                return Reply(200, body=b"User-agent: *\\nDisallow: /\\n")

The file is read again when it changes; when anything is wrong with it the rules stay
as they were, and the log says why, with file and line.  `etc/rules.d/` has larger
examples.  `clinfra proxy check URL` shows what every module makes of a request.

**Hooks** (all of them are in `interfaces.IRuleModule`) get a `message.Request`.  Most
modules need one or two of these:

* `received`: redirect, rewrite, refuse, choose `request.pool`;
* `forward`: last changes to what the origin gets;
* `response`: changes to an origin's answer, before it is kept;
* `deliver`: changes to any answer, after that;
* `failed`: pages for trouble;
* `done`: logging.  It keeps hits out of the fast lane.

They return None to go on, or a `message.Reply` to answer.  `async def` hooks may wait
for something; only their own request waits with them.  Trouble of `clinfra.errors`
that is raised becomes the answer it stands for; anything else is logged and answered
500.

**Of a request** rules look at `method`, `host`, `path`, `target`, `host_path`,
`scheme`, `cookies`, `client_ip` and `get(b"name")`; they change it by `set(b"Name",
value)`, `rewrite(host_path)`, `pool`, `members`, `cache_host_path`; and keep what they
want to remember in `annotations`.  Answers are in `request.reply`, which has `status`,
`fields`, `get` and `set`.  What is in `exchange.notes` is written to the access log.

**Options** are an attrs class called `Config`, made with `config.key`; mistakes in
files are found by it, further ones are told by raising errors.ConfigProblems in
`__init__` or `attach`.  On top of `conditions.When` it has the keys that say what a
rule matches:

    @frozen
    class Options(When):
        pages: tuple[str, ...] = key((), "Pages to do it to.")

**Counting.**  A module with rules that operators should see gives each of them a
`rule_hits.RuleHits`, says `request.count(hits)` when one answers or changes a request,
and reports `{"rules": told(hits)}`: the console lists them with their counts, those of
all workers together.

**Speed.**  What a head led to is remembered, so that repeated hits cost microseconds:
but only if every module with a hook before `hit` says `head_only = True`, which means
that nothing else than the head, the port and the configuration matters.  A module for
which that is nearly always so says it as well, and calls `request.ask_every_time()`
for the others, `request.ask_for_others()` where the client decides, or adds a function
to `request.gates`.  Modules with `deliver` say
`ignores_hits` or `by_heads` where that is true.  Nothing in a hook may block.

**Life.**  A module is made, then `attach` hands it `Surroundings`; `start` and `stop`
are called with the reactor running.  When its file or its options change, another is
made and takes its place; `stop` is called when the last request that began with it is
over.

`interfaces.IRuleModule` says what each hook is for.  Modules are found and made by
`loading`, exchanged by `reloading`, run by `pipeline`.
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

    def listing(self) -> Mapping[str, Any]:
        """Nothing that the status page alone shows, e.g. rules as a table."""
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
