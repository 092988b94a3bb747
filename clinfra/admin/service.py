"""The admin pages as a part that `daemon` runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.resource import IResource
from zope.interface import implementer

from clinfra.admin.access import Access
from clinfra.admin.console import Explain
from clinfra.admin.history import PERIOD_SECONDS, History, totals
from clinfra.admin.resource import AdminResource
from clinfra.config import AdminConfig
from clinfra.interfaces import IClusterAdmin, IMaintenance, IProduct, IPurge, Lane
from clinfra.metrics.scrape import Collector, Metrics, Told


@implementer(IProduct)
class AdminService(Service):
    """Console, health, status and purge, over what the other products report."""

    name = "admin"
    lane: Lane | None = None
    log = Logger()

    def __init__(
        self,
        resource: IResource,
        access: Access,
        history: History,
        reactor: IReactorTime | None,
    ) -> None:
        self.resource = resource
        self._access = access
        self._history = history
        self._looking = LoopingCall(self._look)
        if reactor is not None:
            self._looking.clock = reactor

    def open(self) -> None:
        """See who may ask.  Raises StartupFailed."""
        self._access.open()

    def startService(self) -> None:
        """Begin to remember what the charts show."""
        super().startService()
        self._looking.start(PERIOD_SECONDS)

    def stopService(self) -> None:
        """Remember no more."""
        super().stopService()
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> None:
        with self.log.failuresHandled("The charts lack a moment."):
            self._history.look()

    def report(self) -> Mapping[str, Any]:
        """Nothing to tell of itself."""
        return {}


def make_admin_service(
    *,
    products: Sequence[IProduct],
    purge: IPurge | None,
    state: Callable[[], str],
    uptime_seconds: Callable[[], float],
    version: str,
    proxy_ports: Callable[[], Collection[int]],
    default_port: int,
    maintenance: IMaintenance | None = None,
    listeners: Callable[[], Mapping[str, Any]] = dict,
    metrics: Callable[[], Sequence[Told]] | None = None,
    addresses: Callable[[], Mapping[str, Sequence[str]]] = dict,
    access: Access | None = None,
    cluster: IClusterAdmin | None = None,
    explain: Explain | None = None,
    reactor: IReactorTime | None = None,
) -> AdminService:
    """Return the admin service.

    Args:
        products: whose reports are shown.
        purge: the proxy's cache, if there is one.
        state: returns "starting", "running" or "stopping".
        uptime_seconds: returns how long the process has run.
        version: of clinfra.
        proxy_ports: returns where the proxy listens.
        default_port: the port that host_paths leave out.
        maintenance: the proxy's origins, if there is a proxy.
        listeners: returns what each product's listener has seen.
        metrics: returns what /metrics is made of; None when there shall be none.
        addresses: returns where each product listens, as URLs where there are such.
        access: who may ask; by default programs and browsers of this machine.
        cluster: the blob store, if it runs in this process.
        explain: asks the proxy's rules, if there is a proxy.
        reactor: for time; by default the installed one.
    """
    access = access or Access(AdminConfig())

    def reports() -> Mapping[str, Mapping[str, Any]]:
        return {each.name: each.report() for each in products}

    history = History(reports, uptime_seconds)

    def status() -> Mapping[str, Any]:
        told = reports()
        return {
            "version": version,
            "state": state(),
            "uptime_seconds": round(uptime_seconds(), 1),
            "addresses": addresses(),
            "listeners": listeners(),
            "totals": totals(told),
            "products": told,
        }

    def unready() -> Sequence[str]:
        """Not running yet or any more, or what products say under "not_ready"."""
        reasons = [] if state() == "running" else [f"clinfra is {state()}"]
        for each in products:
            for reason in each.report().get("not_ready", ()):
                reasons.append(f"{each.name}: {reason}")
        return reasons

    page = None
    if metrics is not None:
        began = time.time()
        page = Metrics(Collector(metrics, lambda: not unready(), began)).page
    return AdminService(
        AdminResource(
            access=access,
            status=status,
            history=history.told,
            unready=unready,
            purge=purge,
            proxy_ports=proxy_ports,
            default_port=default_port,
            maintenance=maintenance,
            metrics=page,
            cluster=cluster,
            explain=explain,
        ),
        access,
        history,
        reactor,
    )
