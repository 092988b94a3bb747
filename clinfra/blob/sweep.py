"""Tidying up a store of files: what a crash left over, and what never was ours.

Bytes that count and still wait in ``_versions`` get their name, others there are
deleted: they were replaced, or never acknowledged.  A file in the place of a blob that
is none is set aside in ``_strays``, for somebody to look at.

What is decided on is decided in the writer thread, where nothing is under way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from clinfra.blob import layout
from clinfra.blob.commit import Call
from clinfra.blob.records import Row
from clinfra.blob.replica import Replica
from clinfra.blob.store_files import FilesStore
from clinfra.blob.workers import Workers

PAGE = 500
REST_SECONDS = 0.05

STRAYS = "_strays"


@define(eq=False)
class Sweeper:
    """Sweeps through a store of files.

    Attributes:
        strays: how many files were set aside.
    """

    log = Logger()

    _replica: Replica
    _store: FilesStore
    _workers: Workers
    _reactor: IReactorTime
    strays: int = field(init=False, default=0)

    async def run(self) -> None:
        """Sweep once."""
        await self._sweep_versions()
        await self._sweep_strays()

    async def _in_writer(self, call: Call) -> object:
        await self._replica.commit(call)
        return call.result

    async def _sweep_versions(self) -> None:
        waiting: dict[str, int] = {}
        await self._in_writer(
            Call(lambda: waiting.update(self._store.versions.waiting()))
        )
        name = ""
        while waiting:
            rows = await self._workers.run(self._replica.index.names_after, name, PAGE)
            if not rows:
                break
            name = rows[-1].name
            for row in rows:
                if row.data is None:
                    continue
                version = layout.version_of(row.name, row.data.sha256)
                if version in waiting:
                    del waiting[version]
                    await self._in_writer(Call(partial(self._settle, row)))
            await deferLater(self._reactor, REST_SECONDS)
        if waiting:
            await self._in_writer(Call(partial(self._store.versions.delete, waiting)))

    def _settle(self, row: Row) -> None:
        """Give bytes that count their name.  The writer thread."""
        again = self._replica.index.get(row.name)
        if again is None or again.data is None or again.data != row.data:
            return
        if self._store.versions.pending(row.name) is None:
            try:
                self._store.versions.settle(row.name, again.data.sha256)
            except OSError as error:
                self.log.error(
                    "{name} keeps waiting: {error}", name=row.name, error=error
                )

    async def _sweep_strays(self) -> None:
        names = self._store.versions.names()
        while page := await self._workers.run(_page, names):
            known = await self._workers.run(self._replica.index.get_many, page)
            for name in page:
                if name not in known or known[name].data is None:
                    await self._in_writer(Call(partial(self._set_aside, name)))
            await deferLater(self._reactor, REST_SECONDS)

    def _set_aside(self, name: str) -> None:
        """Set the file of a name aside that has no blob.  The writer thread."""
        row = self._replica.index.get(name)
        if row is not None and row.data is not None:
            return
        versions = self._store.versions
        if versions.pending(name) is not None:
            return
        path = versions.plain(name)
        aside = self._store.path / STRAYS
        try:
            aside.mkdir(exist_ok=True)
            os.rename(path, aside / f"{time.time_ns()}.{path.name[:200]}")
        except OSError as error:
            self.log.error("cannot set aside {path}: {error}", path=path, error=error)
            return
        self.strays += 1
        self.log.warn("set aside {path}: it is no blob", path=path)


def _page(names: Iterator[str]) -> list[str]:
    return list(islice(names, PAGE))
