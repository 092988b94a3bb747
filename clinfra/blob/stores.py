"""Which store a replica has."""

from __future__ import annotations

from pathlib import Path

from clinfra.blob import original
from clinfra.blob.commit import Committer
from clinfra.blob.datadir import DataDirectory
from clinfra.blob.original import TakeOver
from clinfra.blob.store import IBlobStore
from clinfra.blob.store_files import FilesStore
from clinfra.blob.store_volume import VolumeStore
from clinfra.config import BlobConfig
from clinfra.errors import ConfigProblems, StartupFailed

FILES_DIRECTORY = "files"


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
