"""Putting a process together: which part is handed what.

Knows every product, and imports those that are configured: a proxy needs no image
library.  The main process runs a product itself, or has a crew of workers run it; a
worker is put together here too, of the one product it was told to run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any

import attrs
from attrs import define, field
from twisted.internet.defer import TimeoutError
from twisted.internet.threads import deferToThreadPool

from clinfra import config
from clinfra.access_log import AccessLog
from clinfra.admin.access import Access
from clinfra.admin.service import make_admin_service
from clinfra.daemon import Daemon, Part
from clinfra.errors import ConfigProblems, Overloaded, Trouble
from clinfra.interfaces import IBlobs, IClusterAdmin, IMaintenance, IProduct, IPurge
from clinfra.listening import Listener
from clinfra.logs import LineWriter
from clinfra.metrics.process import Pulse, Vitals
from clinfra.metrics.scrape import Told
from clinfra.schema import read_table, to_table
from clinfra.settings import SECTIONS
from clinfra.tally import Tally
from clinfra.web.exchange import IExchange
from clinfra.web.site import Site
from clinfra.web.tracing import Tracing
from clinfra.workers.child import hiring
from clinfra.workers.crew import Crew, Hire
from clinfra.workers.orders import Orders
from clinfra.workers.service import CrewService

if TYPE_CHECKING:
    from clinfra.blob.topology import Topology

Locate = Callable[[str], Sequence[str]]
_Section = (
    config.BlobConfig | config.ImageConfig | config.ProxyConfig | config.AdminConfig
)


_EXPLAIN_SECONDS = 10.0
_MOST_LINES = 2000


def configured(orders: Orders) -> config.Config:
    """Return the configuration a worker was told."""
    whole, problems = read_table(config.Config, orders.configuration)
    if whole is None:
        raise ValueError(f"these orders are not understood: {problems}")
    absent: dict[str, Any] = dict.fromkeys(
        name for name in SECTIONS if name not in orders.configuration
    )
    return attrs.evolve(whole, **absent)


def workers_of(configuration: config.Config, name: str) -> int:
    """Return how many workers a product has; 0 when the main process runs it."""
    if name == "proxy" and configuration.proxy is not None:
        return configuration.proxy.workers
    if name == "image" and configuration.image is not None:
        return configuration.image.front_workers
    return 0


@define(eq=False)
class Assembly:
    """Adds parts to a daemon, each handed what it needs of those before it.

    Args:
        orders: of this process when it is a worker.
        reactor_name: as workers are told to choose theirs.
        log_file: where the log goes when the configuration names no file.

    Attributes:
        crews: the parts that workers run, by name.
    """

    configuration: config.Config
    reactor: Any
    data_dir: Path
    writer: LineWriter
    daemon: Daemon
    orders: Orders | None = None
    reactor_name: str = ""
    log_file: str = ""
    crews: dict[str, Part] = field(factory=dict, init=False)
    blobs: IBlobs | None = None
    locate: Locate | None = None
    purge: IPurge | None = None
    maintenance: IMaintenance | None = None
    cluster: IClusterAdmin | None = None
    _vitals: Vitals | None = field(default=None, init=False)
    _tallies: dict[str, Tally] = field(factory=dict, init=False)
    _explaining: bool = field(default=False, init=False)

    def add_all(self) -> None:
        """Add what the configuration asks for; a worker adds what it was told to."""
        whole, orders = self.configuration, self.orders
        if self._counting:
            self._add_vitals()
        if orders is not None:
            if orders.product == "image" and whole.image is not None:
                self.add_image(whole.image)
            elif orders.product == "proxy" and whole.proxy is not None:
                self.add_proxy(whole.proxy)
            return
        if whole.blob is not None:
            self.add_blob(whole.blob)
        if whole.image is not None:
            if whole.image.front_workers:
                self._add_crew("image", whole.image)
            else:
                self.add_image(whole.image)
        if whole.proxy is not None:
            if whole.proxy.workers:
                crew = self._add_crew("proxy", whole.proxy)
                self.purge = self.maintenance = crew
            else:
                self.add_proxy(whole.proxy)
        if whole.admin is not None:
            self.add_admin(whole.admin)

    def _add_crew(self, name: str, section: _Section) -> CrewService:
        """Add a product that workers run."""

        def make_crew() -> Crew:
            count = workers_of(self.configuration, name)
            hire = self.hiring(name, self.configuration)
            return Crew.of(name, count, hire, self.reactor)

        service = CrewService(name, make_crew)
        listeners = tuple(Listener(endpoint) for endpoint in section.listen)
        part = Part(service, None, listeners)
        self.crews[name] = part
        self.daemon.parts.append(part)
        self.daemon.joining.append(service.start_workers)
        return service

    def hiring(self, name: str, configuration: config.Config) -> Hire:
        """Return what starts a product's workers with this configuration."""
        orders = Orders(
            product=name,
            number=0,
            workers=workers_of(configuration, name),
            configuration=to_table(configuration),
            listening={},
            origins=self.daemon.origins(),
            log_file=self.log_file,
        )
        part = self.crews[name]
        return hiring(
            self.reactor,
            lambda: attrs.evolve(orders, calls=part.product.lasting()),
            lambda: {each.endpoint: each.held() for each in part.listeners},
            self.reactor_name,
        )

    def told(self, part: Part) -> Mapping[str, Any]:
        """Return what a part reports, with its listener, and its process if it has one.

        Workers tell this every second.
        """
        report: dict[str, Any] = {"not_ready": [], **part.product.report()}
        if part.site is not None:
            report["listener"] = part.site.report()
        if part.name in self._tallies:
            report["tally"] = self._tallies[part.name].report()
        if self.orders is not None and self._vitals is not None:
            report["process"] = self._vitals.report()
        return report

    def _tell_all(self) -> Sequence[Told]:
        """Return what metrics are made of."""
        told = [Told(part.name, self.told(part)) for part in self.daemon.parts]
        if self._vitals is not None:
            told.insert(0, Told("main", {"process": self._vitals.report()}))
        return told

    @property
    def _counting(self) -> bool:
        """Whether somebody wants numbers."""
        admin = self.configuration.admin
        return admin is not None and admin.metrics

    def _add_vitals(self) -> None:
        """Watch this process."""
        pulse = Pulse(self.reactor)
        self._vitals = Vitals(pulse, lambda: self.writer.lost_in_all)
        self.daemon.ready.append(pulse.start)
        self.daemon.closing.append(pulse.stop)

    def _access_log(self, name: str) -> Callable[[IExchange, float], None] | None:
        """Return what is told of each request to a product; None when nobody asks."""
        logging, tally = self.configuration.logging, None
        if self._counting:
            tally = self._tallies[name] = Tally()
        if not logging.access:
            return tally
        json_lines = logging.format == "json"
        write = self.writer.write
        return AccessLog(write, name, json_lines=json_lines, tally=tally)

    def _add(self, product: IProduct, section: _Section) -> None:
        logging = self.configuration.logging
        traced = logging.trace or (logging.access and logging.format == "json")
        site = Site(
            product.resource,
            reactor=self.reactor,
            limits=section.limits,
            lane=product.lane,
            access_log=self._access_log(product.name),
            tracing=Tracing.of(logging.trace_from) if traced else None,
        )
        site.noisy = False
        listening = self.orders.listening if self.orders is not None else {}
        listeners = tuple(
            Listener(endpoint, listening.get(endpoint)) for endpoint in section.listen
        )
        self.daemon.parts.append(Part(product, site, listeners))

    def add_blob(self, section: config.BlobConfig) -> None:
        """Add the blob store."""
        from clinfra.blob.service import make_blob_service

        blob = make_blob_service(section, reactor=self.reactor, data_dir=self.data_dir)
        self.blobs, self.cluster = blob.blobs, blob.admin
        if section.cluster_file:
            self.locate = _make_locate(blob.topology)
        self._add(blob, section)

    def add_image(self, section: config.ImageConfig) -> None:
        """Add the image service, over the blob store here or what is at `blob_url`."""
        from clinfra.image.service import make_image_service

        url = section.blob_url
        if self.orders is not None:
            url = url or f"http://{self.orders.origins['blob']}"
            share = self.orders.workers
            places = section.workers or len(os.sched_getaffinity(0))
            section = attrs.evolve(section, workers=-(-places // share))
        blobs = self._blobs_at(url) if url else self.blobs
        assert blobs is not None, "settings see to it"
        image = make_image_service(
            section, reactor=self.reactor, data_dir=self.data_dir, blobs=blobs
        )
        self._add(image, section)

    def _blobs_at(self, url: str) -> IBlobs:
        """Return the store of images at a URL, opened and closed with the daemon."""
        from clinfra.image.stores import make_store

        store = make_store(url, self.reactor)
        if store is not None:
            self.daemon.opening.append(store.open)
            self.daemon.closing.append(store.close)
            return store
        from clinfra.blob.client import BlobClient

        client = BlobClient(url, reactor=self.reactor)
        self.daemon.closing.append(client.close)
        return client

    def add_proxy(self, section: config.ProxyConfig) -> None:
        """Add the proxy, over the services here."""
        from clinfra.proxy.service import make_proxy_service

        orders, origins = self.orders, self.daemon.origins
        if orders is not None:
            origins = lambda: orders.origins  # noqa: E731 - as short as it is
            blob = self.configuration.blob
            if blob is not None and blob.cluster_file:
                from clinfra.blob.cluster_file import read_topology

                self.locate = _make_locate(read_topology(blob))
        proxy = make_proxy_service(
            section,
            reactor=self.reactor,
            data_dir=self.data_dir,
            builtin_pools=origins,
            locate=self.locate,
        )
        self.purge = self.maintenance = proxy
        self._add(proxy, section)

    async def explain(self, told: Mapping[str, Any]) -> Sequence[str]:
        """Return what the proxy's rules make of a request (`proxy.questions`).

        They are made anew, in a thread; one question is answered at a time.  Raises
        errors.Trouble.
        """
        from clinfra.proxy.explaining import explain
        from clinfra.proxy.questions import read_question

        section, question = self.configuration.proxy, read_question(told)
        assert section is not None, "only asked when there is a proxy"
        if self._explaining:
            raise Overloaded("Another request is being explained.")
        self._explaining = True

        def find_out() -> Sequence[str]:
            try:
                rehearse = partial(rehearse_proxy, section)
                return list(islice(explain(rehearse, section, question), _MOST_LINES))
            except ConfigProblems as problems:
                return ["The rules as they are now are wrong:", *problems.problems]
            finally:
                self._explaining = False

        finding = deferToThreadPool(
            self.reactor, self.reactor.getThreadPool(), find_out
        )
        finding.addTimeout(_EXPLAIN_SECONDS, self.reactor)
        try:
            return await finding
        except TimeoutError:
            raise Overloaded("Explaining takes too long.") from None

    def add_admin(self, section: config.AdminConfig) -> None:
        """Add the admin pages, over all parts before."""
        daemon, seconds = self.daemon, self.reactor.seconds
        began = seconds()
        proxy = self.configuration.proxy or config.ProxyConfig()
        admin = make_admin_service(
            products=[part.product for part in daemon.parts],
            purge=self.purge,
            maintenance=self.maintenance,
            access=Access(section, gethostname(), lambda: daemon.bound_to("admin")),
            cluster=self.cluster,
            explain=self.explain if self.purge is not None else None,
            addresses=lambda: {
                part.name: [each.address for each in part.listeners]
                for part in daemon.parts
            },
            state=lambda: daemon.state.value,
            uptime_seconds=lambda: seconds() - began,
            version=version("clinfra"),
            proxy_ports=lambda: daemon.ports("proxy"),
            default_port=proxy.default_port,
            listeners=lambda: {
                part.name: part.product.report().get("listener", {})
                if part.site is None
                else part.site.report()
                for part in daemon.parts
            },
            metrics=self._tell_all if section.metrics else None,
            reactor=self.reactor,
        )
        self._add(admin, section)


def rehearse_proxy(section: config.ProxyConfig, reactor: Any, connect: Any) -> Any:
    """Return the proxy with nothing behind it, to see what its rules do."""
    from clinfra.proxy.service import make_proxy_service

    return make_proxy_service(
        section,
        reactor=reactor,
        data_dir=Path(),
        builtin_pools=dict,
        locate=lambda name: (),
        connect=connect,
    )


def _make_locate(topology: Topology) -> Locate:
    """Return what tells the proxy where a stored blob is: "host:port" of its replicas.

    It raises ValueError for what cannot be a stored name.
    """

    def locate(name: str) -> Sequence[str]:
        try:
            replicas = topology.replicas_of(topology.place(name, encoded=True))
        except Trouble as trouble:
            raise ValueError(trouble.sentence) from None
        peers = [topology.peers[replica] for replica in replicas]
        return [f"{peer.ip}:{peer.port}" for peer in peers]

    return locate
