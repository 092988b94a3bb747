"""Which store a replica has, who looks after it, and who hands it on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.internet.interfaces import IReactorTime

from clinfra.blob import original
from clinfra.blob.adopt import Adoption
from clinfra.blob.clone import Cloner
from clinfra.blob.commit import Committer
from clinfra.blob.datadir import DataDirectory
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.original import TakeOver
from clinfra.blob.peers import Peers
from clinfra.blob.quarantine import Quarantine
from clinfra.blob.rejoin import Fence
from clinfra.blob.replica import Replica
from clinfra.blob.scrub import Refetch, Scrubber
from clinfra.blob.standing import Standing
from clinfra.blob.store import IBlobStore
from clinfra.blob.store_files import FilesStore
from clinfra.blob.store_volume import VolumeStore
from clinfra.blob.sweep import Sweeper
from clinfra.blob.topology import Topology
from clinfra.blob.workers import Workers
from clinfra.config import BlobConfig
from clinfra.errors import ConfigProblems, StartupFailed

FILES_DIRECTORY = "files"
QUARANTINE_DIRECTORY = "quarantine"
PROGRESS_FILE = "scrub.json"
LENT_DIRECTORY = "lent"
CLONE_DIRECTORY = "clone"


def make_store(config: BlobConfig, directory: DataDirectory) -> IBlobStore:
    """Return the store of the configuration, not yet opened.

    Raises ConfigProblems when the directory has blobs that it could not read.
    """
    volumes = VolumeStore(directory.store, config.volume_bytes)
    ours = directory.path / FILES_DIRECTORY
    if config.store == "files":
        link = ours if config.path else None
        return FilesStore(Path(config.path) if config.path else ours, volumes, link)
    if config.path:
        raise ConfigProblems(['blob.path: is for blob.store = "files" only'])
    if ours.exists():
        raise ConfigProblems(
            [f'blob.store: must be "files", there are blobs in {ours}']
        )
    return volumes


def take_over(
    config: BlobConfig, directory: DataDirectory, committer: Committer
) -> None:
    """Take over what an original replica left where the files are.

    Raises StartupFailed: it belongs to another replica, or its index cannot be read.
    """
    if config.store != "files" or not config.path:
        return
    path = Path(config.path)
    done = directory.path / original.DONE
    database = Path(config.original_index or path / original.INDEX)
    if not config.original_index and not (path / original.IDENTITY).exists():
        return
    if not done.exists() and not database.exists():
        raise StartupFailed(
            f"{path} has blobs of an original replica: set blob.original_index"
            f" to its index ({database} does not exist)"
        )
    TakeOver(path, database, directory.replica, committer, done).run()


def make_scrubber(
    config: BlobConfig,
    directory: DataDirectory,
    replica: Replica,
    workers: Workers,
    reactor: IReactorTime,
    now: Callable[[], float],
    refetch: Refetch,
) -> Scrubber:
    """Return who reads all blobs from time to time."""
    sweep = None
    if isinstance(replica.store, FilesStore):
        sweep = Sweeper(replica, replica.store, workers, reactor).run
    return Scrubber(
        replica,
        workers,
        reactor,
        now,
        config.scrub_interval,
        config.scrub_rate,
        Quarantine(directory.path / QUARANTINE_DIRECTORY),
        directory.path / PROGRESS_FILE,
        refetch,
        sweep,
    )


def make_cloner(
    directory: Path,
    replica: Replica,
    committer: Committer,
    workers: Workers,
    peers: Peers,
    standing: Standing,
    fence: Fence,
    reactor: IReactorTime,
) -> Cloner | None:
    """Return who lets peers become what we are; None: our store is not that kind."""
    index, store = replica.index, replica.store
    if not isinstance(index, SqliteIndex) or not isinstance(store, VolumeStore):
        return None
    return Cloner(
        directory / LENT_DIRECTORY,
        index,
        store,
        replica,
        committer,
        workers,
        peers,
        standing,
        fence,
        reactor,
    )


def make_adoption(
    directory: Path,
    topology: Topology,
    replica: Replica,
    committer: Committer,
    workers: Workers,
    peers: Peers,
) -> Adoption | None:
    """Return who becomes what a peer is; None: our store is not that kind."""
    index, store = replica.index, replica.store
    if not isinstance(index, SqliteIndex) or not isinstance(store, VolumeStore):
        return None
    return Adoption(
        directory / CLONE_DIRECTORY,
        index,
        store,
        topology,
        replica,
        committer,
        workers,
        peers,
    )
