"""Putting a process together: which part is handed what.

Knows every product, and imports those that are configured: a proxy needs no image
library.  The main process runs a product itself, or has a crew of workers run it; a
worker is put together here too, of the one product it was told to run.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any

import attrs
from attrs import define, field

from clinfra import config
from clinfra.access_log import AccessLog
from clinfra.admin.access import Access
from clinfra.admin.service import make_admin_service
from clinfra.daemon import Daemon, Part
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
from clinfra.workers.control import Handler
from clinfra.workers.crew import Crew, Hire
from clinfra.workers.orders import Orders
from clinfra.workers.passing import TAKE, ToMain, ToWorkers, taking
from clinfra.workers.service import CrewService

if TYPE_CHECKING:
    from clinfra.blob.generations import Generations
    from clinfra.blob.status import Counters

READERS = "readers"
"""Workers that answer GET and HEAD for the blob store, beside it."""

Locate = Callable[[str], Sequence[str]]
_Section = (
    config.BlobConfig | config.ImageConfig | config.ProxyConfig | config.AdminConfig
)


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
    if name == READERS and configuration.blob is not None:
        return configuration.blob.read_workers
    return 0


@define(eq=False)
class _Lent:
    """The blob store of this process, as its readers share it.

    Attributes:
        section: only a restart changes it, whatever else is reloaded.
        cluster: the cluster file, as it was read here.
    """

    section: config.BlobConfig
    cluster: str
    generations: Generations
    handlers: Mapping[str, Handler]

    def descriptors(self) -> Mapping[str, int]:
        """Return what readers inherit: the table of what has changed."""
        return {self.generations.name: self.generations.descriptor}


@define(eq=False)
class Assembly:
    """Adds parts to a daemon, each handed what it needs of those before it.

    Args:
        orders: of this process when it is a worker.
        reactor_name: as workers are told to choose theirs.
        log_file: where the log goes when the configuration names no file.

    Attributes:
        crews: the parts that workers run, by name.
        handlers: of calls on the line to the main process.
        to_main: in a reader, takes connections to the main process.
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
    to_main: ToMain | None = None
    handlers: dict[str, Handler] = field(factory=dict, init=False)
    _lent: _Lent | None = field(default=None, init=False)
    _vitals: Vitals | None = field(default=None, init=False)
    _tallies: dict[str, Tally] = field(factory=dict, init=False)

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
            elif orders.product == READERS and whole.blob is not None:
                self._add_reader(whole.blob, orders)
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
        own = () if name == READERS else section.listen
        part = Part(service, None, tuple(Listener(endpoint) for endpoint in own))
        self.crews[name] = part
        self.daemon.parts.append(part)
        self.daemon.joining.append(service.start_workers)
        return service

    def hiring(self, name: str, configuration: config.Config) -> Hire:
        """Return what starts a product's workers with this configuration."""
        part, lent = self.crews[name], self._lent if name == READERS else None
        if lent is not None:
            configuration = attrs.evolve(configuration, blob=lent.section)
        orders = Orders(
            product=name,
            number=0,
            workers=workers_of(configuration, name),
            configuration=to_table(configuration),
            listening={},
            origins=self.daemon.origins(),
            log_file=self.log_file,
            cluster=lent.cluster if lent is not None else "",
            main=os.getpid(),
        )
        return hiring(
            self.reactor,
            lambda: attrs.evolve(orders, calls=part.product.lasting()),
            lent.descriptors if lent is not None else part.held,
            self.reactor_name,
            lent.handlers if lent is not None else {},
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

    def _add(self, product: IProduct, section: _Section) -> Part:
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
        part = Part(product, site, listeners)
        self.daemon.parts.append(part)
        return part

    def add_blob(self, section: config.BlobConfig) -> None:
        """Add the blob store."""
        from clinfra.blob.service import BlobService, make_blob_service
        from clinfra.blob.whereabouts import make_locate

        blob = make_blob_service(section, reactor=self.reactor, data_dir=self.data_dir)
        self.blobs, self.cluster = blob.blobs, blob.admin
        if section.cluster_file:
            self.locate = make_locate(blob.topology)
        part = self._add(blob, section)
        if isinstance(blob, BlobService) and blob.generations is not None:
            self._lend(part, section, blob.generations, blob.counters)

    def _lend(
        self,
        part: Part,
        section: config.BlobConfig,
        generations: Generations,
        counters: Counters,
    ) -> None:
        """Deal connections of the blob store out to readers."""
        from clinfra.blob.cluster_file import read_text
        from clinfra.blob.read_service import may_read

        readers = self._add_crew(READERS, section)
        assert part.site is not None
        part.site.mover = mover = ToWorkers(may_read, lambda: readers.crew, part.site)
        take = {TAKE: taking(part.site, mover)}
        self._lent = _Lent(section, read_text(section), generations, take)
        counters.elsewhere = lambda: (
            Told(READERS, readers.report()).counted().get("events", {})
        )

    def _add_reader(self, section: config.BlobConfig, orders: Orders) -> None:
        """Be one of those readers."""
        from clinfra.blob.cluster_file import read_topology
        from clinfra.blob.read_service import ReadService, may_read

        reader = ReadService(
            section,
            read_topology(section, orders.cluster),
            reactor=self.reactor,
            data_dir=self.data_dir,
            main=orders.main,
            descriptors=orders.listening,
        )
        self.to_main = ToMain(may_read)
        part = self._add(reader, attrs.evolve(section, listen=()))
        assert part.site is not None
        self.handlers[TAKE] = taking(part.site, self.to_main)

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
                from clinfra.blob.whereabouts import make_locate

                self.locate = make_locate(read_topology(blob))
        proxy = make_proxy_service(
            section,
            reactor=self.reactor,
            data_dir=self.data_dir,
            builtin_pools=origins,
            locate=self.locate,
        )
        self.purge = self.maintenance = proxy
        self._add(proxy, section)

    def _explain(self) -> Callable[[Mapping[str, Any]], Awaitable[Sequence[str]]]:
        """Return what tells what the proxy's rules make of a request."""
        from clinfra.proxy.inquiry import Inquiry

        def section() -> config.ProxyConfig:
            return self.configuration.proxy or config.ProxyConfig()

        return Inquiry(self.reactor, section, rehearse_proxy).explain

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
            explain=self._explain() if self.purge is not None else None,
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
